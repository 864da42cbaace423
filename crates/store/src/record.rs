//! What a store holds and tells: entries, revisions, events, leases.

use std::fmt;

use crate::key::Key;

/// The number of a change of the store. 0 is before the first change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value with its key and its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is stored under.
    pub key: Key,
    /// The value, at most [`crate::VALUE_BYTES_MAX`] bytes.
    pub value: Vec<u8>,
    /// The revision at which the key came into being; a key that was deleted and put again has a new one.
    pub created: Revision,
    /// The revision of its last put.
    pub modified: Revision,
    /// The lease that it lives by.
    pub lease: Option<LeaseId>,
}

/// Entries as they were together at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision of the whole store when it was read; watch from here to miss nothing.
    pub revision: Revision,
    /// The entries, sorted by key.
    pub entries: Vec<Entry>,
}

/// Something that happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was put; [`Entry::modified`] is the event's revision.
    Put(Entry),
    /// The key was deleted, by a transaction or with its lease.
    Deleted {
        /// The key that is gone.
        key: Key,
        /// The revision at which it went.
        revision: Revision,
    },
}

impl Event {
    /// The key that it happened to.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// The revision at which it happened.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Names a lease of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A lease as it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives without [`crate::Store::keep_alive`], in milliseconds.
    pub ttl_ms: u64,
}
