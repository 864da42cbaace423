//! NVIDIA's library as tests want it: what `examples/fake_nvml.rs` makes, in a directory of the test's own.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use tranche_host::nvml::NvidiaMonitor;

const FILE: &str = "libfake_nvml.so";

/// A library that says what it was told to say.
pub(crate) struct Library {
    dir: TempDir,
}

impl Library {
    /// One that says this of the machine.
    pub(crate) fn new(machine: &Value) -> Self {
        let library = Self { dir: tempfile::tempdir().expect("a directory") };
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
