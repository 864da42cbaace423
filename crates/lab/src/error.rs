//! What can go wrong in the lab. Every text says what to look at next: the end of a log is part of it.

use std::path::{Path, PathBuf};

/// A failure of the lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("The lab could not {action} {}.", path.display())]
    Io {
        /// What was tried: a verb, as in "read".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program that the lab drives could not be started.
    #[error("{program} could not be started. scripts/demo and scripts/test install what the lab needs.")]
    NotStarted {
        /// The program's name.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program that the lab drives failed.
    #[error("{program} failed ({status}). The end of its output:\n{tail}")]
    Failed {
        /// The program's name.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines that it wrote.
        tail: String,
    },
    /// Something did not come about in time.
    #[error("{what} did not come about within {limit_s} s. The end of the log:\n{tail}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The limit, in seconds.
        limit_s: u64,
        /// The last lines of the log that tells more.
        tail: String,
    },
    /// QEMU answered a QMP command with an error, or not at all.
    #[error("QEMU did not carry out {command}: {reason}")]
    Qmp {
        /// The QMP command.
        command: String,
        /// What QEMU answered.
        reason: String,
    },
    /// The node could not be reached, or not be written to.
    #[error("The node could not be reached by ssh: {reason}")]
    Ssh {
        /// What ssh said.
        reason: String,
    },
    /// A command in a node failed where it had to succeed.
    #[error("In node {node}, this failed with status {status}: {command}\n{stderr}")]
    InNode {
        /// The node's name.
        node: String,
        /// The command line.
        command: String,
        /// Its exit status.
        status: i32,
        /// What it wrote to standard error, and to standard output.
        stderr: String,
    },
    /// A node of that name is up already.
    #[error("Node {name} is up already. Use it, or end it with: tranche-lab down {name}")]
    AlreadyUp {
        /// The node's name.
        name: String,
    },
    /// A node is not turned on by anybody but the program that started it.
    #[error(
        "Node {name} belongs to the program that started it, and ends with it. Only that one turns it on."
    )]
    OwnedByCaller {
        /// The node's name.
        name: String,
    },
    /// There is no such node.
    #[error("There is no node {name} in {}. Start one with: tranche-lab up {name}", directory.display())]
    NoSuchNode {
        /// The node's name.
        name: String,
        /// Where nodes are looked for.
        directory: PathBuf,
    },
    /// A node's name cannot be used.
    #[error("{name:?} is not a node name. Use 1 to 32 of a-z, 0-9 and '-', the first a letter.")]
    BadName {
        /// What was given.
        name: String,
    },
    /// The run directory's path is too long for the Unix sockets in it.
    #[error("{} is too long a path for a Unix socket (at most {limit} bytes). Choose a shorter run directory with --run-dir.", path.display())]
    PathTooLong {
        /// The socket's path.
        path: PathBuf,
        /// The longest path that the kernel takes, in bytes.
        limit: usize,
    },
    /// The machine names no Debian package source.
    #[error(
        "apt on this machine names no Debian package source for {release:?}. The lab runs on Debian 12 and 13; TRANCHE_LAB_MIRROR names another mirror."
    )]
    NoMirror {
        /// The release that was looked for.
        release: String,
    },
    /// A file of the lab's own does not read as what it should be.
    #[error("{} is not what the lab wrote there. Remove it and try again.", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// How it fails to read.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Names what was tried with which path when `source` came back; made for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
