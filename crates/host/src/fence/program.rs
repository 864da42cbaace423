//! Finding an agent, and making sure that nobody but its package's owner can have written it.

use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};
use tranche_core::finding::{Code, Finding};
use tranche_core::name::{AgentName, HostName};

use super::{Places, is_ours, problem};

/// What others than the owner may not do.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const EXECUTABLE: u32 = 0o111;

/// An agent that may be run.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Where it is, links resolved: what was looked at is what is run.
    pub(super) path: Utf8PathBuf,
    /// Which file it is.
    pub(super) version: Version,
}

/// Tells a file from the one that takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    inode: u64,
    len: u64,
    modified: Option<SystemTime>,
}

impl Program {
    /// Finds an agent by its name.
    pub(super) fn find(places: &Places, host: &HostName, agent: &AgentName) -> Result<Self, Box<Finding>> {
        let candidates = places.agent_dirs.iter().map(|dir| dir.join(agent.as_str()));
        let Some(found) = candidates.into_iter().find(|path| path.exists()) else {
            let dirs: Vec<&str> = places.agent_dirs.iter().map(|dir| dir.as_str()).collect();
            let message =
                format!("Fence agent {agent} for host {host} is not installed ({}).", dirs.join(", "));
            let hint = "Install it on every host: 'apt-get install fence-agents' (Debian 12), or the package of that agent.";
            return Err(problem(host, Code::FenceAgentUnusable, message, hint));
        };
        Self::trusted(&found).map_err(|reason| {
            let message = format!("Fence agent {found} for host {host} is not run: {reason}.");
            let hint =
                "Agents run as root: install them from packages, writable by root alone, and so the directory that they are in.";
            problem(host, Code::FenceAgentUnusable, message, hint)
        })
    }

    fn trusted(found: &Utf8Path) -> Result<Self, String> {
        let path = found.canonicalize_utf8().map_err(|error| error.to_string())?;
        let dir = path.parent().unwrap_or(Utf8Path::new("/"));
        for path in [&path, dir] {
            let facts = path.metadata().map_err(|error| format!("{path}: {error}"))?;
            if !is_ours(facts.uid()) {
                return Err(format!("{path} belongs to user {} and not to root", facts.uid()));
            }
            if facts.mode() & WRITABLE_BY_OTHERS != 0 {
                return Err(format!("{path} can be written by others (mode {:o})", facts.mode() & 0o7777));
            }
        }
        let facts = path.metadata().map_err(|error| error.to_string())?;
        if !facts.is_file() || facts.mode() & EXECUTABLE == 0 {
            return Err("it is no program".to_owned());
        }
        let version = Version { inode: facts.ino(), len: facts.len(), modified: facts.modified().ok() };
        Ok(Self { path, version })
    }
}
