//! One virtual host: a machine that starts, loses power, starts again from the same disk, and is gone without trace.
//!
//! All that a node has is in its run directory: the overlay that takes its writes, its ssh key, QEMU's sockets, logs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::accelerator::Accelerator;
use crate::cache::user_directory;
use crate::command::{read_output, tail_of};
use crate::guest::GUEST_DISK;
use crate::image::NodeImage;
use crate::network::Port;
use crate::qemu::{self, Identity};
use crate::qmp::{Qmp, forwarded_port};
pub use crate::ssh::Output;
use crate::ssh::{self, Ssh, quote};
use crate::{Error, Progress};

/// How long a node may take to boot on hardware; software emulation gets a multiple of it.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long QEMU may take to open its socket, and to end.
pub(crate) const QEMU_LIMIT: Duration = Duration::from_secs(30);
/// How often a level is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(50);
/// The longest path of a Unix socket: `sun_path` less its final zero, less the suffix that ssh adds for a moment.
const SOCKET_PATH_MAX: usize = 107 - 18;
/// What the node's own unit writes to the serial port when ssh and libvirt are up.
const READY_LINE: &str = "TRANCHE-NODE ready";

/// Whether a node outlives the program that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// It is gone, with all its files, when the program ends in whatever way. For tests and the demo.
    Caller,
    /// It stays up until somebody ends it by name.
    Detached,
}

/// What to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOptions {
    /// Its name and host name.
    pub name: String,
    /// Where run directories are.
    pub run_dir: PathBuf,
    /// Whether it outlives the caller.
    pub lifetime: Lifetime,
    /// Virtual processors; by default two on hardware and one under emulation. More than one under emulation is for nodes
    /// that start no VMs: with two guests at once on two processors, QEMU 10's emulated nested virtualisation was seen to
    /// corrupt the node's memory ("corrupted stack end detected inside scheduler").
    pub vcpus: Option<u32>,
    /// Memory in MiB; the node's guests live in it.
    pub memory_mib: u32,
    /// How many SR-IOV adapters (igb, 7 virtual functions each) stand in for GPUs.
    pub adapters: u32,
    /// Whether the second adapter is bound to the lab's stand-in for NVIDIA's vGPU host driver (`lab/kernel/vgpu.c`): 8
    /// virtual functions, each of which takes a type.
    #[serde(default)]
    pub vgpu: bool,
    /// Whether that stand-in hands out the state of its functions, so that VMs can move with them.
    #[serde(default)]
    pub vgpu_moves: bool,
    /// Whether it has a hardware watchdog (i6300esb) that resets it.
    pub watchdog: bool,
    /// Its place in a network with other nodes.
    #[serde(default)]
    pub port: Option<Port>,
    /// A directory of this machine that several nodes may have, as 9p mount tag [`SHARE_TAG`].
    #[serde(default)]
    pub share: Option<PathBuf>,
    /// The lab's own program, where a node may cut the power of those beside it: it answers at [`FENCE_ADDRESS`].
    #[serde(default)]
    pub fence: Option<PathBuf>,
}

/// The tag by which a node mounts the directory that it shares with others.
pub const SHARE_TAG: &str = "share";
/// Where a node finds `tranche-lab fence`, if it may.
pub const FENCE_ADDRESS: &str = "10.0.2.100:4001";

impl NodeOptions {
    /// 3 GiB, two adapters with functions of the plain kind, no watchdog, in the user's own run directory.
    ///
    /// # Errors
    /// [`Error::BadName`] unless the name is a host name of at most 32 characters.
    pub fn new(name: &str, lifetime: Lifetime) -> Result<Self, Error> {
        check_name(name)?;
        let run_dir = default_run_dir();
        Ok(Self {
            name: name.to_owned(),
            run_dir,
            lifetime,
            vcpus: None,
            memory_mib: 3072,
            adapters: 2,
            vgpu: false,
            vgpu_moves: false,
            watchdog: false,
            port: None,
            share: None,
            fence: None,
        })
    }

    /// The node's run directory.
    pub fn directory(&self) -> PathBuf {
        self.run_dir.join(&self.name)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }
}

/// Where nodes run by default: `$XDG_STATE_HOME/tranche-lab`, or `~/.local/state/tranche-lab`.
pub fn default_run_dir() -> PathBuf {
    user_directory("XDG_STATE_HOME", ".local/state").join("tranche-lab")
}

/// What the run directory remembers of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    options: NodeOptions,
    image: NodeImage,
    accelerator: Accelerator,
    uuid: String,
    ssh_public_key: String,
}

/// What is known of a node from outside.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether its QEMU runs.
    pub up: bool,
    /// How its instructions run.
    pub accelerator: Accelerator,
    /// The loopback port that leads to its ssh, while it is up.
    pub ssh_port: Option<u16>,
    /// Its run directory.
    pub directory: PathBuf,
}

/// A virtual host.
#[derive(Debug)]
pub struct Node {
    record: Record,
    ssh: Option<Ssh>,
    qemu: Option<Child>,
    /// Whether it ends with this value: only for who started it with [`Lifetime::Caller`], not for who found it.
    owned: bool,
    /// Behind what earlier boots said in the serial log, and this one until it was up, in bytes.
    boot_offset: usize,
}

impl Node {
    /// Makes what is missing, starts a node, and waits until its ssh and libvirt are up.
    ///
    /// # Errors
    /// [`Error::AlreadyUp`] for a name in use; [`Error::TimedOut`] with the end of the serial log when it does not boot.
    pub fn start(options: NodeOptions, progress: &Progress) -> Result<Self, Error> {
        check_socket_paths(&options)?;
        let image = NodeImage::ensure(progress)?;
        let accelerator = Accelerator::choose(&image, progress)?;
        let directory = options.directory();
        if Qmp::connect(&options.file("qmp.sock")).is_ok() {
            return Err(Error::AlreadyUp { name: options.name });
        }
        remove_directory(&directory)?;
        fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        let ssh_public_key = ssh::make_key(&directory)?;
        make_overlay(&image, &options.file("disk.qcow2"))?;
        let owned = options.lifetime == Lifetime::Caller;
        let record =
            Record { options, image, accelerator, uuid: uuid::Uuid::new_v4().to_string(), ssh_public_key };
        write_record(&record)?;
        let mut node = Self { record, ssh: None, qemu: None, owned, boot_offset: 0 };
        node.boot(progress)?;
        Ok(node)
    }

    /// A node that another program left up, or cut.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`].
    pub fn find(run_dir: &Path, name: &str) -> Result<Self, Error> {
        check_name(name)?;
        let directory = run_dir.join(name);
        let path = directory.join("node.json");
        let text = fs::read_to_string(&path)
            .map_err(|_| Error::NoSuchNode { name: name.to_owned(), directory: run_dir.to_owned() })?;
        let record: Record =
            serde_json::from_str(&text).map_err(|source| Error::BadState { path, source })?;
        let ssh = read_port(&record.options).ok().map(|port| Ssh::new(&directory, port));
        Ok(Self { record, ssh, qemu: None, owned: false, boot_offset: 0 })
    }

    /// What runs under a run directory, by name.
    ///
    /// # Errors
    /// When a node's own record does not read.
    pub fn list(run_dir: &Path) -> Result<Vec<NodeStatus>, Error> {
        let mut names: Vec<String> = match fs::read_dir(run_dir) {
            Ok(entries) => {
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io("list", run_dir)(error)),
        };
        names.sort();
        let is_node = |name: &String| run_dir.join(name).join("node.json").is_file();
        names
            .iter()
            .filter(|name| is_node(name))
            .map(|name| Ok(Self::find(run_dir, name)?.status()))
            .collect()
    }

    /// What is known of this node from outside.
    pub fn status(&self) -> NodeStatus {
        let options = &self.record.options;
        let ssh_port = read_port(options).ok();
        NodeStatus {
            name: options.name.clone(),
            up: ssh_port.is_some(),
            accelerator: self.record.accelerator,
            ssh_port,
            directory: options.directory(),
        }
    }

    /// Its name and host name.
    pub fn name(&self) -> &str {
        &self.record.options.name
    }

    /// How its instructions run.
    pub fn accelerator(&self) -> Accelerator {
        self.record.accelerator
    }

    /// Runs a command line in its shell as root, whatever its exit status.
    ///
    /// # Errors
    /// [`Error::Ssh`] when the node cannot be reached.
    pub fn ssh(&self, command_line: &str) -> Result<Output, Error> {
        self.reach()?.run(command_line)
    }

    /// Runs a command line that has to succeed, and returns what it wrote to standard output.
    ///
    /// # Errors
    /// [`Error::InNode`] with what it wrote when it exits with anything but 0.
    pub fn run(&self, command_line: &str) -> Result<String, Error> {
        let output = self.ssh(command_line)?;
        if output.ok() {
            return Ok(output.stdout);
        }
        Err(Error::InNode {
            node: self.name().to_owned(),
            command: command_line.to_owned(),
            status: output.status,
            stderr: output.stderr + &output.stdout,
        })
    }

    /// Copies a file into the node.
    ///
    /// # Errors
    /// When either side cannot be read or written.
    pub fn copy_in(&self, local: &Path, remote: &str) -> Result<(), Error> {
        self.reach()?.copy_in(local, remote)
    }

    /// Makes a bootable volume of that name in libvirt's `default` pool: a copy of the lab's guest.
    ///
    /// # Errors
    /// When the node is out of room, or libvirt refuses.
    pub fn make_guest_volume(&self, name: &str) -> Result<(), Error> {
        let volume = quote(&format!("/var/lib/libvirt/images/{name}"));
        self.run(&format!("cp --sparse=always {GUEST_DISK} {volume} && virsh -q pool-refresh default"))
            .map(drop)
    }

    /// Makes a Unix socket in the node reachable on this machine, and returns the loopback port. It lasts until the
    /// node is cut, reset or ended.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn forward(&self, remote_socket: &str) -> Result<u16, Error> {
        self.reach()?.forward(remote_socket)
    }

    /// The ssh client for a person, with these arguments (a command, or none for a shell).
    ///
    /// # Errors
    /// [`Error::Ssh`] when the node is not up.
    pub fn ssh_client(&self, arguments: &[String]) -> Result<Command, Error> {
        Ok(self.reach()?.interactive(arguments))
    }

    /// All that the node has said on its serial port, over all its boots.
    pub fn serial_log(&self) -> String {
        let bytes = fs::read(self.record.options.file("serial.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Takes its power away: what it had not written to its disk is lost, as are virtual functions and everything
    /// else that only the kernel knew.
    ///
    /// # Errors
    /// When QEMU does not end.
    pub fn power_cut(&mut self) -> Result<(), Error> {
        if let Some(ssh) = self.ssh.take() {
            ssh.close();
        }
        let options = &self.record.options;
        // Not a signal: a killed QEMU would also lose what the guest had written, from its cache of the overlay's map.
        if let Ok(mut qmp) = Qmp::connect(&options.file("qmp.sock")) {
            qmp.execute("quit", &json!({}))?;
        }
        let pid_path = options.file("qemu.pid");
        let qemu = &mut self.qemu;
        wait_until("the end of QEMU", QEMU_LIMIT, &options.file("qemu.log"), || {
            // Its keeper must have ended too: when our end of the pipe closes before, it takes the disk along.
            let ended = qemu.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            Ok(ended && !runs(&pid_path))
        })?;
        self.qemu = None;
        Ok(())
    }

    /// Gives it power again, with the same disk, and waits until it is up.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_again(&mut self, progress: &Progress) -> Result<(), Error> {
        if self.status().up {
            return Err(Error::AlreadyUp { name: self.name().to_owned() });
        }
        self.boot(progress)
    }

    /// Presses its reset button and waits until it is up again.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn reset(&mut self, progress: &Progress) -> Result<(), Error> {
        if let Some(ssh) = self.ssh.take() {
            ssh.close();
        }
        self.boot_offset = self.serial_log().len();
        Qmp::connect(&self.record.options.file("qmp.sock"))?.execute("system_reset", &json!({}))?;
        self.wait_until_up(progress)
    }

    /// Waits until it is up again after it was reset by its own watchdog.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn follow_reset(&mut self, progress: &Progress) -> Result<(), Error> {
        if let Some(ssh) = self.ssh.take() {
            ssh.close();
        }
        self.wait_until_up(progress)
    }

    /// Ends it and removes all that it had.
    ///
    /// # Errors
    /// When QEMU does not end, or a file cannot be removed.
    pub fn end(mut self) -> Result<(), Error> {
        self.owned = false;
        self.end_in_place()
    }

    fn end_in_place(&mut self) -> Result<(), Error> {
        self.power_cut()?;
        remove_directory(&self.record.options.directory())
    }

    fn reach(&self) -> Result<&Ssh, Error> {
        self.ssh.as_ref().ok_or_else(|| Error::Ssh { reason: format!("node {} is not up", self.name()) })
    }

    fn boot(&mut self, progress: &Progress) -> Result<(), Error> {
        self.start_machine()?;
        self.wait_until_up(progress)
    }

    /// Gives it power again and does not wait until it is up.
    ///
    /// # Errors
    /// QEMU does not start, or the node is not to outlive the program that started it: that one has to do this.
    pub(crate) fn power_on(&mut self) -> Result<(), Error> {
        if self.record.options.lifetime == Lifetime::Caller {
            return Err(Error::OwnedByCaller { name: self.name().to_owned() });
        }
        self.start_machine()
    }

    fn start_machine(&mut self) -> Result<(), Error> {
        self.boot_offset = self.serial_log().len();
        let Record { options, image, accelerator, uuid, ssh_public_key } = &self.record;
        let mut child = qemu::spawn(options, image, *accelerator, &Identity { uuid, ssh_public_key })?;
        let log = options.file("qemu.log");
        wait_until("QEMU's control socket", QEMU_LIMIT, &log, || match child.try_wait() {
            Ok(Some(status)) => {
                Err(Error::Failed { program: qemu::QEMU.into(), status, tail: tail_of(&log) })
            }
            _ => Ok(Qmp::connect(&options.file("qmp.sock")).is_ok()),
        })?;
        self.qemu = Some(child);
        Ok(())
    }

    fn wait_until_up(&mut self, progress: &Progress) -> Result<(), Error> {
        let options = &self.record.options;
        let _step =
            progress.step(&format!("Booting node {} ({})", options.name, self.accelerator().qemu_name()));
        let serial_log = options.file("serial.log");
        let limit = BOOT_LIMIT * self.accelerator().patience();
        let (offset, qemu) = (self.boot_offset, &mut self.qemu);
        wait_until("the end of the node's boot", limit, &serial_log, || {
            if let Some(Ok(Some(status))) = qemu.as_mut().map(Child::try_wait) {
                let tail = tail_of(&options.file("qemu.log"));
                return Err(Error::Failed { program: qemu::QEMU.into(), status, tail });
            }
            let log = fs::read(&serial_log).unwrap_or_default();
            Ok(String::from_utf8_lossy(log.get(offset..).unwrap_or_default()).contains(READY_LINE))
        })?;
        let ssh = Ssh::new(&options.directory(), read_port(options)?);
        ssh.open(&options.file("ssh.log"))?;
        self.ssh = Some(ssh);
        // What a later boot says comes behind this.
        self.boot_offset = self.serial_log().len();
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = self.end_in_place()
        {
            eprintln!("Node {} could not be ended: {error}", self.name());
        }
    }
}

/// Looks at a level again and again until it is there, with a limit.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    log: &Path,
    mut there: impl FnMut() -> Result<bool, Error>,
) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    while !there()? {
        if Instant::now() > deadline {
            return Err(Error::TimedOut {
                what: what.to_owned(),
                limit_s: limit.as_secs(),
                tail: tail_of(log),
            });
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let letters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if letters && first && name.len() <= 32 { Ok(()) } else { Err(Error::BadName { name: name.to_owned() }) }
}

fn check_socket_paths(options: &NodeOptions) -> Result<(), Error> {
    let path = options.file("qmp.sock");
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(());
    }
    Err(Error::PathTooLong { path, limit: SOCKET_PATH_MAX })
}

fn make_overlay(image: &NodeImage, path: &Path) -> Result<(), Error> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image.root_disk()).arg(path);
    read_output(&mut command).map(drop)
}

fn write_record(record: &Record) -> Result<(), Error> {
    let path = record.options.file("node.json");
    let text =
        serde_json::to_vec_pretty(record).map_err(|source| Error::BadState { path: path.clone(), source })?;
    fs::write(&path, text).map_err(Error::io("write", &path))
}

fn read_port(options: &NodeOptions) -> Result<u16, Error> {
    let mut qmp = Qmp::connect(&options.file("qmp.sock"))?;
    let command = "human-monitor-command";
    let answer = qmp.execute(command, &json!({ "command-line": "info usernet" }))?;
    forwarded_port(answer.as_str().unwrap_or_default()).ok_or_else(|| Error::Qmp {
        command: command.into(),
        reason: format!("no forwarded port in {answer}"),
    })
}

/// Whether the process of a pid file is there and more than a zombie.
pub(crate) fn runs(pid_path: &Path) -> bool {
    let Ok(pid) = fs::read_to_string(pid_path) else { return false };
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.contains(qemu::PROCESS_NAME) && !stat.contains(") Z ")
}

fn remove_directory(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_host_name_and_no_path() {
        for name in ["a", "demo", "node-1", "a2345678901234567890123456789012"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "1a", "a/b", "..", "A", "a b", "a,b", "a23456789012345678901234567890123"] {
            assert!(matches!(check_name(name), Err(Error::BadName { .. })), "{name}");
        }
    }

    #[test]
    fn a_run_directory_too_deep_for_a_socket_is_refused() {
        let mut options = NodeOptions::new("a", Lifetime::Caller).expect("options");
        options.run_dir = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_MAX)));
        assert!(matches!(check_socket_paths(&options), Err(Error::PathTooLong { .. })));
    }

    #[test]
    fn waiting_ends_with_the_limit_and_says_what_for() {
        let waited = wait_until("a miracle", Duration::ZERO, Path::new("/nonexistent"), || Ok(false));
        let error = waited.expect_err("it cannot come about").to_string();
        assert!(error.starts_with("a miracle did not come about within 0 s."), "{error}");
    }

    #[test]
    fn a_node_that_never_was_is_not_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let found = Node::find(directory.path(), "nobody");
        assert!(matches!(found, Err(Error::NoSuchNode { .. })));
        assert!(Node::list(directory.path()).expect("a listing").is_empty());
    }
}
