//! NVIDIA's library as tests want it: what `examples/fake_nvml.rs` makes, in a directory of the test's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use camino::Utf8PathBuf;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use serde_json::Value;
use tempfile::TempDir;
use tranche_host::fake::FakeKernel;
use tranche_host::nvml::NvidiaMonitor;
use tranche_host::tree::{Log, Ran, Tree};

const FILE: &str = "libfake_nvml.so";

/// A library that says what it was told to say.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    dir: Arc<TempDir>,
}

impl Library {
    /// One that says this of the machine.
    pub(crate) fn new(machine: &Value) -> Self {
        let library = Self { dir: Arc::new(tempfile::tempdir().expect("a directory")) };
        fs::copy(built(), library.path()).expect("the library is copied");
        library.describe(machine);
        library
    }

    /// Says something else from the next look on.
    pub(crate) fn describe(&self, machine: &Value) {
        fs::write(self.dir.path().join("gpus.json"), machine.to_string()).expect("it is described");
    }

    /// Takes functions out of it, as if it were older: their names are no longer found.
    pub(crate) fn without(self, functions: &[&str]) -> Self {
        let mut bytes = fs::read(self.path()).expect("the library is read");
        let names: Vec<Vec<u8>> = functions.iter().map(|name| format!("\0{name}\0").into_bytes()).collect();
        let mut renamed = 0;
        let mut rest = &mut bytes[..];
        while let Some(at) = rest.iter().position(|byte| *byte == 0) {
            rest = &mut rest[at..];
            if names.iter().any(|name| rest.starts_with(name)) {
                rest[1] = b'-';
                renamed += 1;
            }
            rest = &mut rest[1..];
        }
        assert!(renamed >= names.len(), "the library does not have all of {functions:?}");
        fs::write(self.path(), bytes).expect("the library is written");
        self
    }

    /// A GPU has an event, of a kind and with data as the library numbers them.
    pub(crate) fn happens(&self, gpu: usize, kind: u64, data: u64) {
        let path = self.dir.path().join("events");
        while path.exists() {
            std::thread::yield_now();
        }
        let begun = self.dir.path().join("events.begun");
        fs::write(&begun, format!("[{gpu}, {kind}, {data}]")).expect("an event");
        fs::rename(begun, path).expect("an event");
    }

    /// Whether the kernel's log can be read beside this library.
    pub(crate) fn let_log_be_read(&self, can_be: bool) {
        let path = self.dir.path().join("deaf");
        let changed = if can_be { fs::remove_file(path) } else { fs::write(path, "") };
        changed.expect("a mark");
    }

    /// Waits until so many sessions are open.
    pub(crate) fn wait_for_sessions(&self, open: usize) {
        while self.sessions().1 != open {
            std::thread::yield_now();
        }
    }

    /// From now on a look waits until it is released.
    pub(crate) fn hold(&self) {
        let (mode, path) = (Mode::RUSR | Mode::WUSR, self.dir.path().join("hold"));
        mknodat(CWD, &path, FileType::Fifo, mode, 0).expect("a FIFO");
    }

    /// Lets the look that waits go on, and others not wait.
    pub(crate) fn release(&self) {
        let path = self.dir.path().join("hold");
        // Opening it waits for the look that waits, and closing it ends what that reads.
        drop(fs::File::options().write(true).open(&path).expect("the FIFO"));
        fs::remove_file(path).expect("the FIFO");
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join(FILE)
    }

    pub(crate) fn monitor(&self) -> Arc<NvidiaMonitor> {
        Arc::new(NvidiaMonitor { library: self.path() })
    }

    /// How often it was opened, and how many sessions are open now.
    pub(crate) fn sessions(&self) -> (usize, usize) {
        let notes = fs::read_to_string(self.dir.path().join("sessions")).unwrap_or_default();
        let count = |word: &str| notes.lines().filter(|line| *line == word).count();
        let (opened, closed) = (count("open"), count("close"));
        (opened, opened.checked_sub(closed).expect("nothing is closed that was not open"))
    }
}

/// Where cargo puts it: beside the directory of the test's own executable.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("this test's executable");
    let target = test.ancestors().nth(2).expect("it lies in target/debug/deps");
    let library = target.join("examples").join(FILE);
    let how = "Build it with: cargo build --package tranche-host --example fake_nvml";
    assert!(library.exists(), "{} is missing. {how}", library.display());
    library
}

/// A fake kernel in which nothing is run and nothing but types is written while the library is open.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) tree: Arc<FakeKernel>,
    pub(crate) library: Library,
}

impl Watched {
    fn check(&self, what: &str) {
        assert_eq!(self.library.sessions().1, 0, "the library is open at: {what}");
    }
}

impl Tree for Watched {
    fn head(&self, path: &str, len_max: usize) -> io::Result<Vec<u8>> {
        self.tree.head(path, len_max)
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        if !path.ends_with("/current_vgpu_type") {
            self.check(path);
        }
        self.tree.write(path, value)
    }

    fn link(&self, path: &str) -> io::Result<Utf8PathBuf> {
        self.tree.link(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.tree.list(path)
    }

    fn links(&self, path: &str) -> io::Result<Vec<Utf8PathBuf>> {
        self.tree.links(path)
    }

    fn exists(&self, path: &str) -> bool {
        self.tree.exists(path)
    }

    fn log(&self, path: &str) -> io::Result<Box<dyn Log>> {
        if self.library.dir.path().join("deaf").exists() {
            return Err(Errno::PERM.into());
        }
        self.tree.log(path)
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> io::Result<Ran> {
        self.check(tool);
        let ran = self.tree.run(tool, arguments);
        self.check(tool);
        ran
    }
}
