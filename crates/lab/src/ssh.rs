//! Commands in a node: the system's own ssh client over one connection that stays open, because a key exchange in
//! software emulation costs seconds.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;
use crate::command::{not_started, read_output, run_logged};

/// The longest that one command in a node may take, in seconds: it ends a test that would hang for ever.
const COMMAND_LIMIT_S: u32 = 600;
/// What ssh itself exits with when the connection fails.
const EXIT_NO_CONNECTION: i32 = 255;

/// What a command in a node wrote, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit status; 128 and more where a signal ended it, 137 where the time limit did.
    pub status: i32,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the command exited with 0.
    pub fn ok(&self) -> bool {
        self.status == 0
    }
}

/// How a node is reached.
#[derive(Debug)]
pub(crate) struct Ssh {
    key: PathBuf,
    control: PathBuf,
    port: u16,
}

impl Ssh {
    pub(crate) fn new(directory: &Path, port: u16) -> Self {
        Self { key: key_path(directory), control: directory.join("ssh.sock"), port }
    }

    /// Opens the connection that the commands share, in the background.
    pub(crate) fn open(&self, log: &Path) -> Result<(), Error> {
        let mut command = Command::new("ssh");
        command.args(["-M", "-N", "-f"]).args(self.options()).arg("root@127.0.0.1");
        run_logged(&mut command, log)
    }

    /// Closes it; there may be none, because the node may be gone.
    pub(crate) fn close(&self) {
        let mut command = self.control_command("exit");
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    /// Runs a command line in the node's shell.
    pub(crate) fn run(&self, command_line: &str) -> Result<Output, Error> {
        self.finish(self.command(command_line).stdin(Stdio::null()))
    }

    /// Copies a file into the node.
    pub(crate) fn copy_in(&self, local: &Path, remote: &str) -> Result<(), Error> {
        let file = File::open(local).map_err(Error::io("read", local))?;
        let output = self.finish(self.command(&format!("cat >{}", quote(remote))).stdin(file))?;
        if output.ok() {
            return Ok(());
        }
        let reason = format!("copying {} to {remote}: {}", local.display(), output.stderr);
        Err(Error::Ssh { reason })
    }

    /// A session at the terminal, with no time limit.
    pub(crate) fn interactive(&self, arguments: &[String]) -> Command {
        let mut command = Command::new("ssh");
        command.args(self.options()).arg("root@127.0.0.1").args(arguments);
        command
    }

    /// Makes a Unix socket in the node reachable as a loopback port, for as long as the connection stays open.
    pub(crate) fn forward(&self, remote_socket: &str) -> Result<u16, Error> {
        let any = Path::new("127.0.0.1:0");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(Error::io("listen on", any))?;
        let port = listener.local_addr().map_err(Error::io("listen on", any))?.port();
        drop(listener);
        let mut command = self.control_command("forward");
        read_output(command.args(["-L", &format!("127.0.0.1:{port}:{remote_socket}")]))?;
        Ok(port)
    }

    fn command(&self, command_line: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--signal=KILL", &COMMAND_LIMIT_S.to_string(), "ssh", "-o", "ControlMaster=no"])
            .args(self.options())
            .args(["root@127.0.0.1", command_line]);
        command
    }

    fn finish(&self, command: &mut Command) -> Result<Output, Error> {
        let output = command.output().map_err(|source| not_started(command, source))?;
        let status = output.status.code().unwrap_or(128);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if status == EXIT_NO_CONNECTION {
            return Err(Error::Ssh { reason: stderr });
        }
        Ok(Output { status, stdout: String::from_utf8_lossy(&output.stdout).into_owned(), stderr })
    }

    fn control_command(&self, order: &str) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-O", order]).args(self.options()).arg("root@127.0.0.1");
        command
    }

    /// The node's host key is not checked: the port leads to a process of this user on this machine.
    fn options(&self) -> Vec<String> {
        let mut options =
            vec!["-q".to_owned(), "-F".into(), "none".into(), "-p".into(), self.port.to_string()];
        options.extend(["-i".to_owned(), self.key.to_string_lossy().into_owned()]);
        for setting in [
            "LogLevel=ERROR",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ConnectTimeout=60",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=8",
            "ExitOnForwardFailure=yes",
            &format!("ControlPath={}", self.control.display()),
        ] {
            options.extend(["-o".to_owned(), setting.to_owned()]);
        }
        options
    }
}

/// Makes the key pair of a node and returns its public half.
pub(crate) fn make_key(directory: &Path) -> Result<String, Error> {
    let key = key_path(directory);
    read_output(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "tranche-lab", "-f"])
            .arg(&key),
    )?;
    let public = key.with_extension("pub");
    let line = std::fs::read_to_string(&public).map_err(Error::io("read", &public))?;
    Ok(line.trim().to_owned())
}

/// Makes one word of a shell command line from any text.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn key_path(directory: &Path) -> PathBuf {
    directory.join("id_ed25519")
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_quoted_word_stays_one_word() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's; rm"), r"'it'\''s; rm'");
    }
}
