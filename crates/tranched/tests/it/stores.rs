//! A store between an engine and the real one, for tests in which commits fail.

use std::fmt::Debug;
use std::sync::Arc;

use tranche_store::{
    Entry, Key, KeyRange, Lease, LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Txn, Watch,
};

/// What becomes of reads and commits.
pub(crate) trait Fault: Send + Sync + Debug {
    /// Whether, and with what, reading one record fails.
    fn on_get(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether, and with what, reading everything fails.
    fn on_range(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A lease is asked for.
    fn on_grant(&self, _ttl_ms: u64) {}

    /// Commits, or not.
    fn on_commit(&self, commit: &dyn Fn() -> Result<Outcome, StoreError>) -> Result<Outcome, StoreError>;
}

/// A store with a fault.
#[derive(Debug)]
pub(crate) struct Faulty<F> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) fault: Arc<F>,
}

impl<F: Fault> Store for Faulty<F> {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.fault.on_get().and_then(|()| self.store.get(key))
    }
    fn range(&self, prefix: &KeyRange) -> Result<Snapshot, StoreError> {
        self.fault.on_range().and_then(|()| self.store.range(prefix))
    }
    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.fault.on_commit(&|| self.store.commit(txn))
    }
    fn watch(&self, prefix: &KeyRange, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.store.watch(prefix, after)
    }
    fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.store.compact(through)
    }
    fn grant(&self, ttl_ms: u64) -> Result<Lease, StoreError> {
        self.fault.on_grant(ttl_ms);
        self.store.grant(ttl_ms)
    }
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease)
    }
    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease)
    }
}
