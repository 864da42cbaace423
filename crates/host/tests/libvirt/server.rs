//! A libvirtd of a test's own: as an ordinary user, in a directory of its own, ended with the test.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use camino::Utf8PathBuf;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tranche_host::vm::libvirt::{Config, Libvirt};
use tranche_host::vm::xml::Acceleration;
use virt::connect::Connect;

use crate::contract::{Vm, wait_until};

/// The user "nobody", as whom libvirtd runs where the test runs as root: root's libvirtd would be the machine's.
const NOBODY: u32 = 65534;
/// What the tests start.
const PROGRAMS: &[&str] = &["libvirtd", "qemu-system-x86_64", "qemu-img", "xorriso"];

/// A private libvirtd, and what was made for it.
#[derive(Debug)]
pub(crate) struct Server {
    dir: TempDir,
    daemon: Child,
    name: Option<String>,
}

impl Server {
    /// Starts one, or prints why not.
    pub(crate) fn start() -> Option<Self> {
        Self::begin(None)
    }

    /// The same on a machine of that name, as far as libvirt can tell: VMs go from one machine to another, never to the same.
    pub(crate) fn named(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not run: only root gives a process another host name");
            return None;
        }
        let may_rename =
            Command::new("unshare").args(["--uts", "hostname", name]).stderr(Stdio::null()).status();
        if !may_rename.is_ok_and(|status| status.success()) {
            eprintln!("not run: this machine gives no process another host name (unshare --uts, hostname)");
            return None;
        }
        Self::begin(Some(name.to_owned()))
    }

    fn begin(name: Option<String>) -> Option<Self> {
        if let Some(missing) = PROGRAMS.iter().find(|program| find(program).is_none()) {
            eprintln!("not run: {missing} is not installed");
            return None;
        }
        // What fails while libvirtd is not there yet is not worth printing.
        virt::error::clear_error_callback();
        let dir = tempfile::Builder::new().prefix("lv").tempdir_in("/tmp").unwrap();
        for sub in ["config/libvirt", "run", "cache", "log", "pool", "seeds"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let id = uuid::Uuid::from_u128(
            name.as_deref().unwrap_or("any").bytes().fold(1, |id, byte| id * 251 + u128::from(byte)),
        );
        let conf = format!(
            "host_uuid = \"{id}\"\nunix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\n",
            dir.path().join("run").display()
        );
        fs::write(dir.path().join("libvirtd.conf"), conf).unwrap();
        // QEMU writes its logs itself: there is no virtlogd.
        fs::write(dir.path().join("config/libvirt/qemu.conf"), "stdio_handler = \"file\"\n").unwrap();
        give_to_daemon(dir.path());
        let daemon = spawn(dir.path(), name.as_deref());
        let server = Self { dir, daemon, name };
        server.wait_until_up();
        Some(server)
    }

    pub(crate) fn path(&self, sub: &str) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.dir.path().join(sub)).unwrap()
    }

    /// Tranche's view of it, with a count of wake-ups.
    pub(crate) fn hypervisor(&self, config: Config) -> (Libvirt, Arc<AtomicUsize>) {
        let woken = Arc::new(AtomicUsize::new(0));
        let hypervisor = Libvirt::new(config, Arc::new(count_in(&woken)));
        (hypervisor, woken)
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            uri: self.uri(),
            seed_dir: self.path("seeds"),
            serial_log_dir: self.path("log"),
            acceleration: Some(Acceleration::Emulated),
            // What a test does beside the hypervisor shows at once, whether or not the event about it was there first.
            answer_age_max_ms: 0,
            ..Config::default()
        }
    }

    /// A connection of somebody else's.
    pub(crate) fn connect(&self) -> Connect {
        Connect::open(Some(&self.uri())).unwrap()
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.daemon = spawn(self.dir.path(), self.name.as_deref());
        self.wait_until_up();
    }

    /// Stops libvirtd in its tracks, so that its socket is there and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// The process of a VM's QEMU.
    pub(crate) fn qemu_of(&self, vm: &Vm) -> Pid {
        let file = self.path("run/libvirt/qemu/run").join(format!("{}.pid", vm.name));
        let pid = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    pub(crate) fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.path("run/libvirt-sock"))
    }

    fn wait_until_up(&self) {
        wait_until("libvirtd answers", || match Connect::open(Some(&self.uri())) {
            Ok(mut connect) => connect.get_lib_version().is_ok() & connect.close().is_ok(),
            Err(_) => false,
        });
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.daemon), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // VMs outlive libvirtd. Their process ids are in files of this test's own directory.
        let files = fs::read_dir(self.path("run/libvirt/qemu/run")).into_iter().flatten().flatten();
        for file in
            files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|it| it == "pid"))
        {
            let pid = fs::read_to_string(file)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Counts wake-ups.
pub(crate) fn count_in(woken: &Arc<AtomicUsize>) -> impl Fn() + Send + Sync + use<> {
    let woken = Arc::clone(woken);
    move || {
        woken.fetch_add(1, Ordering::SeqCst);
    }
}

/// Gives a path, and all under it, to the user as whom libvirtd and QEMU run.
pub(crate) fn give_to_daemon(path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give_to_daemon(&entry.unwrap().path()));
    }
}

/// A domain as a user defines it: with a comment, and in another order than libvirt's.
pub(crate) fn users_domain(vm: &Vm, kind: &str) -> String {
    format!(
        "<domain type='{kind}'><name>{}</name><uuid>{}</uuid><!-- mine -->\n  <memory unit='MiB'>64</memory>\n  \
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\n  <description>hands &amp; feet</description>\n  \
         <devices></devices></domain>",
        vm.name, vm.id
    )
}

/// Starts libvirtd, on a machine of this name if there is one.
fn spawn(dir: &Path, name: Option<&str>) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("libvirtd.log")).unwrap();
    let libvirtd = find("libvirtd").unwrap();
    let mut command = match name {
        None => Command::new(libvirtd),
        Some(name) => {
            let mut command = Command::new("unshare");
            let renamed = "hostname \"$1\" && shift && exec setpriv --reuid \"$1\" --regid \"$1\" --clear-groups -- \"${@:2}\"";
            command.args(["--uts", "bash", "-c", renamed, "bash", name, &NOBODY.to_string()]).arg(libvirtd);
            command
        }
    };
    command
        .arg("-f")
        .arg(dir.join("libvirtd.conf"))
        .arg("-p")
        .arg(dir.join("libvirtd.pid"))
        .env("HOME", dir)
        .env("XDG_CONFIG_HOME", dir.join("config"))
        .env("XDG_RUNTIME_DIR", dir.join("run"))
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    if name.is_none() && rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.spawn().unwrap()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}
