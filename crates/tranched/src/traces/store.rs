//! A store whose calls are shown where they are made for somebody who is followed. Of keys only the kind is told.

use std::sync::Arc;

use tranche_engine::trail::TARGET;
use tranche_store::{
    Entry, Key, KeyRange, Lease, LeaseId, Op, Outcome, Revision, Snapshot, Store, StoreError, Txn, Watch,
};

/// A store whose calls are shown.
#[derive(Debug)]
pub struct Followed(Arc<dyn Store>);

impl Followed {
    /// The same store, with its calls shown if traces are made.
    pub fn if_made(store: Arc<dyn Store>) -> Arc<dyn Store> {
        if tranche_engine::trail::is_made() { Arc::new(Self(store)) } else { store }
    }
}

/// Makes a call within its span.
fn shown<T>(
    call: &'static str,
    kind: &str,
    made: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let span = tracing::info_span!(
        target: TARGET,
        "store",
        trail.kind = "client",
        db.operation.name = call,
        db.collection.name = kind,
        error.type = tracing::field::Empty,
    );
    let answer = span.in_scope(made);
    if let Err(error) = &answer {
        span.record("error.type", tracing::field::display(error.code()));
    }
    answer
}

/// What a key is the key of.
fn kind_of(key: &Key) -> &str {
    key.segments().next().unwrap_or_default()
}

impl Store for Followed {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        shown("get", kind_of(key), || self.0.get(key))
    }

    fn range(&self, keys: &KeyRange) -> Result<Snapshot, StoreError> {
        shown("range", "", || self.0.range(keys))
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let kind = txn.ops().first().map(Op::key).map(kind_of).unwrap_or_default();
        shown("commit", kind, || self.0.commit(txn))
    }

    fn watch(&self, keys: &KeyRange, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.0.watch(keys, after)
    }

    fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.0.compact(through)
    }

    fn grant(&self, ttl_ms: u64) -> Result<Lease, StoreError> {
        shown("grant", "", || self.0.grant(ttl_ms))
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease)
    }
}
