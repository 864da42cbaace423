//! The store as one node sees it: it takes time, and may not answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tranche_store::{
    Entry, Event, Key, KeyRange, Lease, LeaseId, Op, Outcome, Revision, Snapshot, Store, StoreError, Txn,
    Watch,
};

use crate::story::Planted;
use crate::world::{Life, Shared};

/// How long a client waits for an answer, in milliseconds.
const TIMEOUT_MS: u64 = 2_000;

/// The store as one life of a daemon sees it.
pub(crate) struct NodeStore {
    pub(crate) world: Arc<Shared>,
    pub(crate) life: Life,
}

impl NodeStore {
    /// A call: it travels, is answered or not, and the answer travels back. Everybody else goes on meanwhile.
    fn call<T>(&self, ask: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let there_ms = self.world.draw_latency();
        self.world.run_for(there_ms);
        self.alive()?;
        if !self.world.store_answers(self.life.node) {
            self.world.run_for(TIMEOUT_MS);
            return Err(unreachable("no answer in time"));
        }
        let answer = ask(&*self.world.store);
        let back_ms = self.world.draw_latency();
        self.world.run_for(back_ms);
        self.alive()?;
        if self.world.loses_answer(self.life.node) {
            self.world.run_for(TIMEOUT_MS);
            return Err(unreachable("the answer was lost"));
        }
        answer
    }

    /// A daemon that was killed does nothing more.
    fn alive(&self) -> Result<(), StoreError> {
        if self.world.lives(self.life) { Ok(()) } else { Err(unreachable("this daemon is dead")) }
    }
}

/// A transaction as it arrives where a defect was planted.
fn spoil(txn: &Txn, planted: Planted) -> Txn {
    // Whoever wants to lead leads, and writes what it thinks right.
    let of_leader = txn.compares().iter().any(|compare| compare.key.as_str() == "leader");
    let drops_terms = planted == Planted::StaleLeaderWrites && of_leader;
    let is_booking = |op: &Op| {
        planted == Planted::BookingAfterStart
            && matches!(op, Op::Put { .. })
            && op.key().as_str().starts_with("plan/booking/")
    };
    let mut spoilt = Txn::new();
    for compare in txn.compares().iter().filter(|_| !drops_terms) {
        spoilt = spoilt.expect(compare.key.clone(), compare.expected);
    }
    for op in txn.ops().iter().filter(|op| !is_booking(op)) {
        spoilt = match op.clone() {
            Op::Put { key, value, lease: Some(lease) } => spoilt.put_leased(key, value, lease),
            Op::Put { key, value, lease: None } => spoilt.put(key, value),
            Op::Delete(key) => spoilt.delete(key),
        };
    }
    spoilt
}

/// A watch that hears nothing while its node does not reach the store; what it missed it hears later.
struct NodeWatch {
    world: Arc<Shared>,
    life: Life,
    watch: Box<dyn Watch>,
}

impl Watch for NodeWatch {
    fn next(&mut self, _timeout: Duration) -> Result<Vec<Event>, StoreError> {
        if !self.world.store_answers(self.life.node) {
            return Ok(Vec::new());
        }
        self.watch.next(Duration::ZERO)
    }
}

impl fmt::Debug for NodeWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeWatch").field("life", &self.life).finish_non_exhaustive()
    }
}

fn unreachable(why: &str) -> StoreError {
    StoreError::Unreachable { place: "the simulated store".to_owned(), source: why.into() }
}

impl Store for NodeStore {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.call(|store| store.get(key))
    }

    fn range(&self, prefix: &KeyRange) -> Result<Snapshot, StoreError> {
        self.call(|store| store.range(prefix))
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let planted = match self.world.planted() {
            Some(planted) => spoil(txn, planted),
            None => txn.clone(),
        };
        let answer = self.call(|store| store.commit(&planted));
        if answer.is_err() {
            // Whoever waited for an answer in vain does not know what becomes of the question.
            self.world.may_arrive_late(planted);
        }
        answer
    }

    fn watch(&self, prefix: &KeyRange, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let watch = self.call(|store| store.watch(prefix, after))?;
        Ok(Box::new(NodeWatch { world: Arc::clone(&self.world), life: self.life, watch }))
    }

    fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.call(|store| store.compact(through))
    }

    fn grant(&self, ttl_ms: u64) -> Result<Lease, StoreError> {
        self.call(|store| store.grant(ttl_ms))
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(|store| store.keep_alive(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(|store| store.revoke(lease))
    }
}

impl fmt::Debug for NodeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeStore").field("life", &self.life).finish_non_exhaustive()
    }
}
