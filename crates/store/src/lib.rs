//! What Tranche remembers.
//!
//! [`Store`] is the whole contract: small values under [`Key`]s, read at a revision, changed by compare-and-swap,
//! watched from a revision, and bound to leases. It is the part of etcd v3 that Tranche needs and no more, so that a
//! cluster's etcd fits behind it unchanged. [`MemoryStore`] serves tests and simulators, [`SqliteStore`] a single host,
//! [`EtcdStore`] a cluster.
//! One contract test suite (`tests/it/contract.rs`) holds every store to the same behaviour.
//!
//! [`Repository`] sits on top of any of them and knows what Tranche remembers: it alone says which key holds what.
//! [`SampleFile`] is beside them: what a host measured lately, which may be lost.
//!
//! Deliberately absent: async (the planner is one thread; a store that needs a runtime brings its own) and queries
//! other than by keys that follow each other.

mod clock;
mod engine;
mod error;
mod etcd;
mod history;
mod key;
mod memory;
mod record;
mod repository;
mod samples;
mod sqlite;
mod txn;

use std::fmt::Debug;
use std::time::Duration;

pub use clock::{Clock, ManualClock, MonotonicClock};
pub use error::StoreError;
pub use etcd::{EtcdAlarms, EtcdMember, EtcdMembers, EtcdSettings, EtcdStatus, EtcdStore, EtcdTls};
pub use history::{HISTORY_BYTES_MAX, HISTORY_EVENTS_MAX};
pub use key::{KEY_LEN_MAX, Key, KeyError, KeyRange, SEGMENT_LEN_MAX, SEGMENTS_MAX};
pub use memory::MemoryStore;
pub use record::{Entry, Event, Lease, LeaseId, Revision, Snapshot};
pub use repository::{
    Beat, Beaten, Beats, Loaded, Part, Repository, RepositoryError, Saved, Shared, Stands, State, Terms,
    Tidings, Trail,
};
pub use samples::{SAMPLES_FILE_NAME, SampleFile};
pub use sqlite::{FILE_NAME, LOCK_FILE_NAME, SCHEMA_VERSION, SIZE_BYTES_MAX, Settings, SqliteStore};
pub use txn::{
    COMPARES_MAX, Compare, Conflict, Expected, OPS_MAX, Op, Outcome, TXN_BYTES_MAX, Txn, VALUE_BYTES_MAX,
};

/// The shortest lease that may be asked for, in milliseconds. etcd rounds to seconds and grants 2 s at least.
pub const LEASE_TTL_MS_MIN: u64 = 1_000;
/// The longest lease that may be asked for, in milliseconds: one day.
pub const LEASE_TTL_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// A store of small values with revisions, transactions, watches and leases.
///
/// Every write that changes something takes the next revision; revisions of one store strictly increase, also over a
/// restart. After an error of [`Store::commit`] other than a refusal of the transaction itself, whether it took effect
/// is known only by reading again (a disk or a network may fail after the fact was recorded).
pub trait Store: Send + Sync + Debug {
    /// The entry under `key`, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`] when the store cannot be read.
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// Every entry of these keys, sorted by key, all at one revision.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`] when the store cannot be read.
    fn range(&self, keys: &KeyRange) -> Result<Snapshot, StoreError>;

    /// Applies all operations of `txn` if all its compares hold, and none otherwise.
    ///
    /// # Errors
    /// A transaction that breaks a limit, names a key twice or uses a lease that is gone is refused and changes
    /// nothing. [`StoreError::Full`], [`StoreError::ReadOnly`], [`StoreError::Unavailable`] and
    /// [`StoreError::Corrupt`] say what is wrong underneath; the state before stays readable.
    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError>;

    /// Watches these keys for what happens after revision `after`, usually that of a [`Snapshot`].
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when that part of the history is gone: take a new snapshot and watch from there.
    fn watch(&self, keys: &KeyRange, after: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// Forgets the history up to and with revision `through`, at most the current one. Entries are not touched. Stores
    /// on one host also do this by themselves, see [`HISTORY_EVENTS_MAX`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store cannot be reached.
    fn compact(&self, through: Revision) -> Result<(), StoreError>;

    /// Grants a lease of at least `ttl_ms` milliseconds; a store may grant a longer one.
    ///
    /// # Errors
    /// [`StoreError::Limit`] outside [`LEASE_TTL_MS_MIN`] to [`LEASE_TTL_MS_MAX`].
    fn grant(&self, ttl_ms: u64) -> Result<Lease, StoreError>;

    /// Gives `lease` its whole time to live again.
    ///
    /// # Errors
    /// [`StoreError::LeaseGone`] when it has expired or was revoked.
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends `lease` now and deletes every key that is bound to it, in one revision.
    ///
    /// # Errors
    /// [`StoreError::LeaseGone`] when it has expired or was revoked.
    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

/// The events of one range of keys, in order.
pub trait Watch: Send + Debug {
    /// The next events: as soon as there are any, or none once `timeout` is over. The events of one revision are never
    /// split over two calls, and no event is left out or comes twice.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when this watch was called too late and events are gone. It stays so; take a new
    /// snapshot.
    fn next(&mut self, timeout: Duration) -> Result<Vec<Event>, StoreError>;
}
