//! The daemon as a process: what the service manager and the file system see of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tranche_host::fake::{FakeKernel, Machine, Mounted};
use tranche_host::tree::Tree as _;
use tranche_store::{MonotonicClock, Settings, SqliteStore, Store as _, Txn};

/// A directory in which daemons live one after the other.
pub(crate) struct Home {
    dir: tempfile::TempDir,
    manager: UnixDatagram,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let home = Self { dir, manager };
        let settings = format!(
            "host = \"node1\"\nstate_dir = {:?}\nsocket = {:?}\nsocket_group = \"no-such-group\"\n\
             console.listen = \"\"\n",
            home.path("state"),
            home.path("s")
        );
        std::fs::write(home.path("tranched.toml"), settings).unwrap();
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tranched"));
        command.arg("--config").arg(self.path("tranched.toml")).args(more);
        command.env("NOTIFY_SOCKET", self.path("notify")).stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts a daemon over a fake host and waits until it tells its manager that it is ready.
    pub(crate) fn start(&self) -> Child {
        let child = self.command(&["--fake-host", "gpus"]).spawn().unwrap();
        self.told("READY=1");
        child
    }

    /// Waits for the manager to be told something.
    pub(crate) fn told(&self, what: &str) {
        let mut message = [0; 4096];
        loop {
            let len = self.manager.recv(&mut message).unwrap_or_else(|error| panic!("never {what}: {error}"));
            let text = String::from_utf8_lossy(&message[..len]);
            if text.lines().any(|line| line == what) {
                return;
            }
        }
    }

    /// What a path is answered with, head and body.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.path("s")).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn run(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }
}

/// The command, which is another package's: where this package is tested alone, it may have to be built.
pub(crate) fn command() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_tranched")).with_file_name("tranche");
    if !path.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "tranche"]).status();
        assert!(built.unwrap().success() && path.exists(), "the command is built");
    }
    path
}

/// What a daemon answers at its socket: JSON, or any other text as such.
pub(crate) fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    request_with(socket, &format!("{method} {path} HTTP/1.0"), body)
}

/// The same, with a head that has more than a method and a path.
pub(crate) fn request_with(socket: &Path, head: &str, body: Option<&Value>) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let more = format!("content-type: application/json\r\ncontent-length: {}", body.len());
    write!(stream, "{head}\r\n{more}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (top, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {head}: {answer:?}"));
    let status = top.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn it_is_ready_listens_for_its_group_alone_and_ends_cleanly_when_told_to() {
    let home = Home::new();
    let mut child = home.start();
    let socket = std::fs::metadata(home.path("s")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600, "without its group, the owner alone may connect");
    UnixStream::connect(home.path("s")).unwrap();
    signal(&child, Signal::TERM);
    home.told("STOPPING=1");
    assert!(child.wait().unwrap().success());
    assert!(!home.path("s").exists());
}

#[test]
fn a_daemon_that_was_killed_is_followed_by_one_that_remembers() {
    let home = Home::new();
    let mut child = home.start();
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    assert!(home.path("s").exists(), "a killed daemon leaves its socket");
    let mut next = home.start();
    UnixStream::connect(home.path("s")).unwrap();
    signal(&next, Signal::TERM);
    assert!(next.wait().unwrap().success());
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let home = Home::new();
    let mut first = home.start();
    let second = home.run(&["--fake-host", "gpus"]);
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains("another daemon listens"), "{words}");
    UnixStream::connect(home.path("s")).unwrap();
    signal(&first, Signal::TERM);
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused_although_its_socket_is_another() {
    let home = Home::new();
    let mut first = home.start();
    let settings = std::fs::read_to_string(home.path("tranched.toml")).unwrap();
    let other = settings.replace("/s\"", "/other\"");
    assert_ne!(other, settings);
    std::fs::write(home.path("tranched.toml"), other).unwrap();
    let second = home.run(&["--fake-host", "gpus"]);
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains("the store cannot be opened"), "{words}");
    signal(&first, Signal::TERM);
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_file_of_the_catalogue_that_is_wrong_is_a_finding_and_a_line_in_the_log() {
    let home = Home::new();
    let mut settings = std::fs::read_to_string(home.path("tranched.toml")).unwrap();
    settings.push_str(&format!("catalogue_dir = {:?}\n", home.path("catalogue.d")));
    std::fs::write(home.path("tranched.toml"), settings).unwrap();
    std::fs::create_dir(home.path("catalogue.d")).unwrap();
    std::fs::write(home.path("catalogue.d/ours.toml"), "gpus = 3\n").unwrap();
    let mut child = home.start();
    for path in ["/v1/findings", "/v1/doctor"] {
        let answer = home.get(path);
        for part in
            ["\"catalogue_invalid\"", "catalogue.d/ours.toml", "line 1", "unknown field", "restart tranched"]
        {
            assert!(answer.contains(part), "{part}: {answer}");
        }
    }
    signal(&child, Signal::TERM);
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("ours.toml") && log.contains("unknown field"), "{log}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_fake_host_that_there_is_not_is_refused_with_those_that_there_are() {
    let output = Home::new().run(&["--fake-host", "lab"]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(Machine::PRESETS.iter().all(|preset| words.contains(preset)), "{words}");
}

#[test]
fn a_record_that_cannot_be_read_keeps_the_daemon_from_starting_until_it_is_set_aside() {
    let home = Home::new();
    let mut first = home.start();
    let refused = home.run(&["--set-aside", "spec/vm/a"]);
    assert!(!refused.status.success(), "a daemon has the store open");
    signal(&first, Signal::TERM);
    assert!(first.wait().unwrap().success());
    {
        let dir = Utf8PathBuf::from_path_buf(home.path("state")).unwrap();
        let store = SqliteStore::open(&Settings::new(dir), Arc::new(MonotonicClock::default())).unwrap();
        let _ = store.commit(&Txn::new().put("spec/vm/a".parse().unwrap(), "{}")).unwrap();
    }
    let refused = home.run(&["--fake-host", "gpus"]);
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("the record spec/vm/a is malformed"), "{words}");
    assert!(words.contains("'tranched --set-aside spec/vm/a'"), "{words}");
    let done = home.run(&["--set-aside", "spec/vm/a"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("spec/vm/a is now aside/"));
    assert!(!home.run(&["--set-aside", "spec/vm/a"]).status.success(), "it is there no longer");
    let mut next = home.start();
    signal(&next, Signal::TERM);
    assert!(next.wait().unwrap().success());
}

#[test]
fn wrong_settings_end_with_78_and_the_place_of_the_error() {
    let home = Home::new();
    assert_eq!(home.run(&["--check-config"]).status.code(), Some(0));
    std::fs::write(home.path("tranched.toml"), "tick_s = 5\nsokcet = \"/x\"\n").unwrap();
    for arguments in [&["--check-config"][..], &[]] {
        let output = home.run(arguments);
        assert_eq!(output.status.code(), Some(78));
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            words.contains("tranched.toml") && words.contains("line 2") && words.contains("sokcet"),
            "{words}"
        );
    }
}

#[test]
fn the_printed_default_settings_are_valid_settings() {
    let home = Home::new();
    let printed = home.run(&["--print-default-config"]);
    std::fs::write(home.path("tranched.toml"), printed.stdout).unwrap();
    assert_eq!(home.run(&["--check-config"]).status.code(), Some(0));
}

#[test]
fn logs_are_json_if_the_settings_say_so() {
    let home = Home::new();
    let mut settings = std::fs::read_to_string(home.path("tranched.toml")).unwrap();
    settings.push_str("[log]\nformat = \"json\"\n");
    std::fs::write(home.path("tranched.toml"), settings).unwrap();
    let mut child = home.start();
    signal(&child, Signal::TERM);
    let lines: Vec<String> =
        BufReader::new(child.stderr.take().unwrap()).lines().collect::<Result<_, _>>().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(lines.len() >= 3, "{lines:?}");
    for line in lines {
        let entry: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(entry["level"].is_string() && entry["message"].is_string(), "{line}");
    }
}

#[test]
fn the_helper_that_loads_modules_answers_one_line_and_ends() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tranche-modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The line stays open behind the request: the helper waits for nothing more.
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"load nvidia\nload vfio_pci\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answer = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answer, "error unknown_module That module is not one that is loaded here.\n");
}

#[cfg(feature = "libvirt")]
#[test]
fn daemon_and_command_split_a_gpu_of_a_mounted_tree_and_give_it_back() {
    const PF: &str = "sys/bus/pci/devices/0000:10:00.0";
    let home = Home::new();
    let kernel = Arc::new(FakeKernel::boot(Machine::gpus(1, 8)));
    let root = Utf8PathBuf::from_path_buf(home.path("root")).unwrap();
    std::fs::create_dir(&root).unwrap();
    let mounted = Mounted::new(Arc::clone(&kernel), &root).expect("/dev/fuse and fusermount3 are there");
    let mut settings = std::fs::read_to_string(home.path("tranched.toml")).unwrap();
    settings.push_str(&format!("root = {root:?}\n[libvirt]\nuri = \"test:///default\"\n"));
    for setting in ["seed_dir", "serial_log_dir"] {
        settings.push_str(&format!("{setting} = {:?}\n", home.path(setting)));
    }
    std::fs::write(home.path("tranched.toml"), settings).unwrap();
    let mut daemon = home.command(&[]).spawn().unwrap();
    home.told("READY=1");
    let tranche = |arguments: &[&str]| {
        let output =
            Command::new(command()).arg("--socket").arg(home.path("s")).args(arguments).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tranche {arguments:?}: {words}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listed = tranche(&["gpu", "list"]);
    assert!(listed.contains("0000:10:00.0") && listed.contains("Arc Pro B60"), "{listed}");
    tranche(&["gpu", "partition", "10:00.0", "2"]);
    assert_eq!(kernel.text(&format!("{PF}/sriov_numvfs")).unwrap(), "2");
    for index in 0..2 {
        let driver = kernel.link_name(&format!("{PF}/virtfn{index}/driver")).unwrap();
        assert_eq!(driver, "vfio-pci");
    }
    tranche(&["gpu", "release", "10:00.0"]);
    assert_eq!(kernel.text(&format!("{PF}/sriov_numvfs")).unwrap(), "0");
    signal(&daemon, Signal::TERM);
    assert!(daemon.wait().unwrap().success());
    drop(mounted);
}
