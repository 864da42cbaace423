//! The one file that says what this host is: alone, on its way into a cluster, a member, or on its way out.
//!
//! `cluster.json` in the state directory decides which store is in charge. It is written aside, flushed and renamed, so that a
//! crash leaves the old one or the new one: SQLite is in charge, or the cluster's store is, never both and never none.
//!
//! ```text
//! Alone ─► Entering(Planned ─► Certified ─► Seated) ─► Member ─► Leaving ─► Alone
//!          └──────────── SQLite in charge ────────┘    └─ the cluster's ─┘
//! ```
//!
//! Whatever was begun and not ended is begun again at the next start or by the same command: each step can be repeated.

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tranche_core::membership::Role;
use tranche_core::name::{HostName, Timestamp};

use super::pki::Certificates;

/// The file's name.
pub const FILE_NAME: &str = "cluster.json";
/// The version that is written, and the latest that is read.
const VERSION: u32 = 1;

/// What this host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// It stands alone: SQLite is in charge.
    #[default]
    Alone,
    /// It is on its way into a cluster. SQLite is in charge.
    Entering(Entering),
    /// It is a member: the cluster's store is in charge.
    Member(Membership),
    /// It is on its way out: what it shall keep is in [`Leaving::keeps`], and the cluster's store is not used any more.
    Leaving(Leaving),
}

/// How far a host is on its way into a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entering {
    /// How it gets in.
    pub how: How,
    /// The last step that was done.
    pub step: Step,
    /// What it will be, as far as is known.
    pub membership: Membership,
    /// Why it stopped, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<tranche_core::finding::Finding>,
}

/// How a host gets into a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum How {
    /// It begins one, and brings all its records.
    Begins,
    /// It joins one, and brings the records of its own GPUs and VMs.
    Joins {
        /// The token, until it was used.
        token: String,
    },
    /// It begins one with the records of a backup ([`Book::restored`]).
    Restores,
}

/// The steps on the way in, each of which can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// What is to be done is written down.
    Planned,
    /// It has its certificates, and the cluster knows it.
    Certified,
    /// The store answers it, with a member of its own where it has a seat. Only its records are to be brought.
    Seated,
}

/// A host that leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// What it was.
    pub membership: Membership,
    /// The records of its own GPUs, which it keeps.
    pub keeps: Vec<(String, String)>,
}

/// What a host is as a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The cluster's name.
    pub cluster: String,
    /// This host.
    pub host: HostName,
    /// Where others reach it.
    pub address: String,
    /// What it is there.
    pub role: Role,
    /// When it began to be one.
    pub since: Timestamp,
    /// Its seat in the store, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
    /// Where the cluster's store is, as `https://HOST:PORT`, its own member first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
}

/// A host's own member of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The directory of its data below the store's: a new one for each time that it gets a seat, so that none is ever
    /// written over.
    pub data: String,
    /// The members that there are when it starts for the first time, as etcd wants them (`NAME=URL,…`); empty until known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub initial_cluster: String,
    /// Whether the store is there already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joins: bool,
}

/// Why the files of a cluster could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The system refused.
    #[error("{path} cannot be {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: Utf8PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It says nothing that this program understands.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A later version has written it.
    #[error("{path} has version {found}; this Tranche knows version {VERSION}")]
    Newer {
        /// The file.
        path: Utf8PathBuf,
        /// Its version.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    #[serde(flatten)]
    standing: Standing,
}

/// The files of a host that concern its cluster.
#[derive(Debug, Clone)]
pub struct Book {
    dir: Utf8PathBuf,
}

impl Book {
    /// The files in a state directory.
    pub fn new(state_dir: &Utf8Path) -> Self {
        Self { dir: state_dir.to_owned() }
    }

    /// The state directory.
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// What this host is.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(&self) -> Result<Standing, BookError> {
        let path = self.dir.join(FILE_NAME);
        let Some(text) = read(&path)? else { return Ok(Standing::Alone) };
        let damaged = |source| BookError::Damaged { path: path.clone(), source };
        // The version first: the rest may have another form.
        let value: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
        let found = value["version"].as_u64().and_then(|found| u32::try_from(found).ok()).unwrap_or_default();
        if found > VERSION {
            return Err(BookError::Newer { path, found });
        }
        Ok(serde_json::from_value::<File>(value).map_err(damaged)?.standing)
    }

    /// From now on, this host is that.
    ///
    /// # Errors
    /// The system refused; it is what it was.
    pub fn write(&self, standing: &Standing) -> Result<(), BookError> {
        let path = self.dir.join(FILE_NAME);
        let file = File { version: VERSION, standing: standing.clone() };
        let text = serde_json::to_string_pretty(&file)
            .map_err(|source| BookError::Damaged { path: path.clone(), source })?;
        write(&path, text.as_bytes(), 0o600)
    }

    /// Where the backup lies that a cluster is begun with.
    pub fn restored(&self) -> Utf8PathBuf {
        self.dir.join("cluster-restore.json")
    }

    /// The authority's certificate.
    pub fn authority(&self) -> Utf8PathBuf {
        self.pki("ca.crt")
    }

    /// The authority's key, on hosts that may sign.
    pub fn authority_key(&self) -> Utf8PathBuf {
        self.pki("ca.key")
    }

    /// This host's key.
    pub fn key(&self) -> Utf8PathBuf {
        self.pki("host.key")
    }

    /// One of this host's certificates: `server`, `client` or `peer`.
    pub fn certificate(&self, which: &str) -> Utf8PathBuf {
        self.pki(&format!("{which}.crt"))
    }

    /// The list of certificates that are believed no more, as it is known last.
    pub fn revocations(&self) -> Utf8PathBuf {
        self.pki("revoked.pem")
    }

    /// What the daemon notes of the times that its cluster goes by.
    pub fn times(&self) -> Utf8PathBuf {
        self.dir.join("cluster-timers.json")
    }

    /// Keeps this host's certificates and the authority's.
    ///
    /// # Errors
    /// The system refused; some may be kept.
    pub fn keep(&self, authority: &str, certificates: &Certificates) -> Result<(), BookError> {
        write(&self.authority(), authority.as_bytes(), 0o644)?;
        write(&self.certificate("server"), certificates.server.as_bytes(), 0o644)?;
        if let Some(peer) = &certificates.peer {
            write(&self.certificate("peer"), peer.as_bytes(), 0o644)?;
        }
        write(&self.certificate("client"), certificates.client.as_bytes(), 0o644)
    }

    /// Forgets all certificates, keys and times: this host is no member any more.
    pub fn forget(&self) {
        for name in ["ca.crt", "ca.key", "host.key", "server.crt", "client.crt", "peer.crt", "revoked.pem"] {
            // One that is not there is forgotten.
            let _ = std::fs::remove_file(self.pki(name));
        }
        let _ = std::fs::remove_file(self.times());
    }

    fn pki(&self, name: &str) -> Utf8PathBuf {
        self.dir.join("pki").join(name)
    }
}

/// A file's text; nothing where there is no file.
///
/// # Errors
/// It is there and cannot be read.
pub fn read(path: &Utf8Path) -> Result<Option<String>, BookError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BookError::System { what: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file whole or not at all, and so that it is there after a power cut.
///
/// # Errors
/// The system refused; what was there before still is.
pub fn write(path: &Utf8Path, bytes: &[u8], mode: u32) -> Result<(), BookError> {
    let failed = |source| BookError::System { what: "written", path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Utf8Path::new("/"));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let aside = path.with_extension("new");
    // One that a crash left behind may have other rights.
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside).map_err(failed)?;
    // The mask of the process may have taken rights away that somebody else needs.
    let rights = std::fs::Permissions::from_mode(mode);
    file.set_permissions(rights).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&aside, path).map_err(failed)?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> (tempfile::TempDir, Book) {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::new(Utf8Path::from_path(dir.path()).unwrap());
        (dir, book)
    }

    fn membership() -> Membership {
        Membership {
            cluster: "lab".to_owned(),
            host: "node1".parse().unwrap(),
            address: "10.0.0.1".to_owned(),
            role: Role::Host,
            since: Timestamp(1),
            seat: Some(Seat { data: "1".to_owned(), initial_cluster: String::new(), joins: false }),
            endpoints: vec!["https://10.0.0.1:7444".to_owned()],
        }
    }

    #[test]
    fn a_host_without_the_file_stands_alone_and_what_is_written_reads_back() {
        let (_dir, book) = book();
        assert_eq!(book.read().unwrap(), Standing::Alone);
        let how = How::Joins { token: "T".to_owned() };
        let entering = Entering { how, step: Step::Certified, membership: membership(), stopped: None };
        let keeps = vec![("spec/gpu/a".to_owned(), "{}".to_owned())];
        for standing in [
            Standing::Entering(entering),
            Standing::Member(membership()),
            Standing::Leaving(Leaving { membership: membership(), keeps }),
            Standing::Alone,
        ] {
            book.write(&standing).unwrap();
            assert_eq!(book.read().unwrap(), standing);
        }
    }

    #[test]
    fn the_file_is_its_owners_alone_even_where_a_crash_left_another_behind() {
        let (_dir, book) = book();
        let aside = book.dir().join("cluster.new");
        std::fs::write(&aside, "half").unwrap();
        book.write(&Standing::Alone).unwrap();
        let mode = std::fs::metadata(book.dir().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!aside.exists());
    }

    #[test]
    fn what_is_damaged_or_newer_is_never_taken_for_a_host_that_stands_alone() {
        let (_dir, book) = book();
        let path = book.dir().join(FILE_NAME);
        std::fs::write(&path, "{\"version\": 1, \"standing\": \"mem").unwrap();
        assert!(matches!(book.read(), Err(BookError::Damaged { .. })));
        std::fs::write(&path, "{\"version\": 9, \"standing\": \"else\"}").unwrap();
        assert!(matches!(book.read(), Err(BookError::Newer { found: 9, .. })));
    }

    #[test]
    fn a_file_that_others_shall_read_can_be_read_by_them_whatever_the_mask_of_the_process() {
        let (dir, _book) = book();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("shared");
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let written = write(&path, b"text", 0o640);
        rustix::process::umask(before);
        written.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
