//! The stores that the contract is held against.

use std::fmt::Debug;
use std::sync::Arc;

use camino::Utf8PathBuf;
use tempfile::TempDir;
use tranche_store::{
    Entry, Key, KeyRange, ManualClock, MemoryStore, Outcome, Revision, Settings, SqliteStore, Store, Txn,
};

/// A store under test, and the means to let time pass for it. A store with a clock of its own, as etcd's servers have,
/// waits instead.
pub(crate) trait Subject: Debug {
    fn store(&self) -> &dyn Store;
    /// Returns when every lease that was due `ms` milliseconds from now has surely ended.
    fn let_pass(&self, ms: u64);
}

#[derive(Debug)]
pub(crate) struct Memory {
    store: MemoryStore,
    clock: Arc<ManualClock>,
}

pub(crate) fn memory() -> Memory {
    let clock = Arc::new(ManualClock::default());
    Memory { store: MemoryStore::new(clock.clone()), clock }
}

impl Subject for Memory {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn let_pass(&self, ms: u64) {
        self.clock.advance(ms);
    }
}

#[derive(Debug)]
pub(crate) struct Sqlite {
    store: SqliteStore,
    clock: Arc<ManualClock>,
    _dir: TempDir,
}

pub(crate) fn sqlite() -> Sqlite {
    let dir = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = SqliteStore::open(&settings(&dir), clock.clone()).unwrap();
    Sqlite { store, clock, _dir: dir }
}

impl Subject for Sqlite {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn let_pass(&self, ms: u64) {
        self.clock.advance(ms);
    }
}

pub(crate) fn settings(dir: &TempDir) -> Settings {
    Settings::new(Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap())
}

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

pub(crate) fn prefix(text: &str) -> KeyRange {
    text.parse().unwrap()
}

/// Commits what must not conflict.
#[track_caller]
pub(crate) fn commit(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(&txn).unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(conflict) => panic!("{conflict}"),
    }
}

#[track_caller]
pub(crate) fn put(store: &dyn Store, name: &str, value: &str) -> Revision {
    commit(store, Txn::new().put(key(name), value))
}

pub(crate) fn all(store: &dyn Store) -> Vec<Entry> {
    store.range(&KeyRange::ALL).unwrap().entries
}
