//! What can be wrong with a store, each with a stable code and what to do about it.

use std::error::Error;

use tranche_core::finding::{Code, Finding, Severity, Subject};

use crate::key::Key;
use crate::record::{LeaseId, Revision};

/// What to do about something that a later version has written.
pub(crate) const HINT_NEWER_VERSION: &str = "install the version of Tranche that wrote it, or a later one; a store is \
                                             never taken back to an older version";

/// What a store reports from underneath.
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A later Tranche has written this store; it was not touched.
    #[error("the store {place} has schema version {found}; this Tranche knows versions up to {supported}")]
    NewerVersion {
        /// The file.
        place: String,
        /// The version in the file.
        found: u32,
        /// The latest version that this program knows.
        supported: u32,
    },
    /// The file is a database of something else; it was not touched.
    #[error("the file {place} is an SQLite database, but not a Tranche store")]
    Foreign {
        /// The file.
        place: String,
    },
    /// Another process has the store open.
    #[error("the store {place} is in use by another process{}", holder.map(|pid| format!(" ({pid})")).unwrap_or_default())]
    InUse {
        /// The file.
        place: String,
        /// The id of that process, where it could be read.
        holder: Option<u32>,
    },
    /// The store, or the directory it is in, cannot be written.
    #[error("the store {place} cannot be written")]
    ReadOnly {
        /// The file.
        place: String,
        /// What the system said.
        #[source]
        source: Source,
    },
    /// The disk, or the store's own size limit, is full.
    #[error("the store {place} has no room left")]
    Full {
        /// The file.
        place: String,
        /// What the system said.
        #[source]
        source: Source,
    },
    /// The file is damaged.
    #[error("the store {place} is damaged")]
    Corrupt {
        /// The file.
        place: String,
        /// What was found.
        #[source]
        source: Source,
    },
    /// The store cannot be reached or does not answer.
    #[error("the store {place} is not available")]
    Unavailable {
        /// The file.
        place: String,
        /// What the system said.
        #[source]
        source: Source,
    },
    /// A cluster's store does not answer, or not in time. Whether a change took effect is known by reading again.
    #[error("{place} does not answer as it should")]
    Unreachable {
        /// Its endpoints.
        place: String,
        /// What was heard.
        #[source]
        source: Source,
    },
    /// A cluster's store has used up the space that it may have.
    #[error("{place} has used up its space quota")]
    Quota {
        /// Its endpoints.
        place: String,
        /// What was heard.
        #[source]
        source: Source,
    },
    /// More was asked than any store takes.
    #[error("the {what} are {found}, where a store takes {max}")]
    Limit {
        /// What was counted.
        what: String,
        /// What was asked.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A transaction names a key in two operations.
    #[error("the transaction changes the key {key} twice")]
    DuplicateKey {
        /// The key.
        key: Key,
    },
    /// A lease has expired or was revoked.
    #[error("the lease {lease} has ended")]
    LeaseGone {
        /// The lease.
        lease: LeaseId,
    },
    /// The history that a watch asks for is gone.
    #[error("the history after revision {after} is gone; it begins after revision {compacted}")]
    Compacted {
        /// The revision that the watch had seen.
        after: Revision,
        /// The revision up to which the history was forgotten.
        compacted: Revision,
    },
}

impl StoreError {
    /// This error as a finding. What the system said is part of its message.
    pub fn finding(&self) -> Finding {
        finding(self, self.code(), self.hint())
    }

    /// The code of this error.
    pub fn code(&self) -> Code {
        match self {
            Self::NewerVersion { .. } => Code::StoreNewerVersion,
            Self::ReadOnly { .. } => Code::StoreReadOnly,
            Self::Full { .. } | Self::Quota { .. } => Code::StoreFull,
            Self::Foreign { .. } => Code::StoreForeign,
            Self::Corrupt { .. } => Code::StoreCorrupt,
            Self::InUse { .. } => Code::StoreInUse,
            Self::Unavailable { .. } | Self::Unreachable { .. } | Self::Compacted { .. } => {
                Code::StoreUnavailable
            }
            Self::Limit { .. } => Code::InvalidValue,
            Self::DuplicateKey { .. } => Code::Invariant,
            Self::LeaseGone { .. } => Code::VersionConflict,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NewerVersion { .. } => HINT_NEWER_VERSION,
            Self::Foreign { .. } => "point Tranche to another directory, or move this file away",
            Self::InUse { .. } => {
                "stop the other daemon first: `systemctl status tranched` shows whether one runs"
            }
            Self::ReadOnly { .. } => {
                "make the directory and its files writable for the daemon's user, and see in `findmnt` that the file system is not mounted read-only"
            }
            Self::Full { .. } => {
                "free space on that file system (`df -h`) and try again; what was stored before is still there"
            }
            Self::Corrupt { .. } => {
                "stop the daemon, keep a copy of the file, check the disk, and restore the file from a backup"
            }
            Self::Unavailable { .. } => {
                "check that the directory exists and that the disk works, then try again"
            }
            Self::Unreachable { .. } => {
                "see that a majority of etcd's members runs and can be reached: `etcdctl endpoint status --cluster`"
            }
            Self::Quota { .. } => {
                "reading still works; make room with `etcdctl defrag --cluster`, then `etcdctl alarm disarm`"
            }
            Self::Limit { .. } => "split the request into smaller ones",
            Self::DuplicateKey { .. } => "this is a fault of Tranche; report it",
            Self::LeaseGone { .. } => "take a new lease and read the state again before writing",
            Self::Compacted { .. } => "read the state again and watch from there",
        }
    }
}

/// An error and everything below it as a finding.
pub(crate) fn finding(error: &(dyn Error + 'static), code: Code, hint: &str) -> Finding {
    Finding {
        code,
        severity: Severity::Error,
        subject: Subject::Installation,
        message: in_full(error),
        hint: hint.to_owned(),
    }
}

/// An error and everything below it in words.
pub(crate) fn in_full(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
