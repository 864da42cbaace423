//! The store as one node sees it: it takes time, and may not answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tranche_store::{
    Entry, Event, Key, KeyRange, Lease, LeaseId, Op, Outcome, Revision, Snapshot, Store, StoreError, Txn,
    Watch,
};

use crate::story::Planted;
use crate::world::{Due, Life, Shared};

/// How long a client waits for an answer, in milliseconds.
pub(crate) const TIMEOUT_MS: u64 = 2_000;
/// What errors call the store.
const PLACE: &str = "the simulated store";

/// The store as one life of a daemon sees it.
pub(crate) struct NodeStore {
    pub(crate) world: Arc<Shared>,
    pub(crate) life: Life,
    /// How long it waits for an answer, in milliseconds.
    pub(crate) timeout_ms: u64,
}

/// The watches of a host's daemons, as far as they were lost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Watches {
    /// How often. A watch that began before the last time is dead.
    pub(crate) lost: u64,
    /// Whether it does not tell.
    pub(crate) silent: bool,
}

impl NodeStore {
    /// A call: it travels, takes effect or not, and the answer travels back. Everybody else goes on meanwhile.
    fn call<T>(&self, ask: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let there_ms = self.world.draw_latency(self.life.node);
        self.call_that_takes(there_ms, ask)
    }

    fn call_that_takes<T>(
        &self,
        there_ms: u64,
        ask: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let node = self.life.node;
        let there_ms = there_ms.min(self.timeout_ms);
        self.world.run_for(there_ms);
        self.alive()?;
        let via = self.world.asks_through(node).filter(|_| there_ms < self.timeout_ms);
        let Some(via) = via else {
            self.world.run_for(self.timeout_ms - there_ms);
            return Err(unreachable("no answer in time"));
        };
        let answer = ask(&*self.world.store);
        let patience_ms = self.timeout_ms - there_ms;
        let back_ms = self.world.draw_latency(node).min(patience_ms);
        self.world.run_for(back_ms);
        self.alive()?;
        if !self.world.answer_arrives(node, via) || back_ms == patience_ms {
            self.world.run_for(patience_ms - back_ms);
            return Err(unreachable("the answer was lost"));
        }
        answer
    }

    /// A daemon that was killed does nothing more.
    fn alive(&self) -> Result<(), StoreError> {
        if self.world.lives(self.life) { Ok(()) } else { Err(unreachable("this daemon is dead")) }
    }

    /// Writes a transaction, unless the store is full.
    fn write(&self, store: &dyn Store, txn: &Txn) -> Result<Outcome, StoreError> {
        let puts = txn.ops().iter().any(|op| matches!(op, Op::Put { .. }));
        if puts && self.world.with(|inner| inner.store_full) {
            return Err(full());
        }
        let outcome = store.commit(txn);
        self.world.judge_write();
        outcome
    }
}

/// A transaction as it arrives where a defect was planted, and what arrives of it a while later.
fn spoil(txn: &Txn, planted: Planted) -> (Txn, Option<Txn>) {
    // Whoever wants to lead leads, and writes what it thinks right.
    let of_leader = txn.compares().iter().any(|compare| compare.key.as_str() == "leader");
    let drops_terms = planted == Planted::StaleLeaderWrites && of_leader;
    let is_late = |op: &Op| {
        planted == Planted::BookingAfterStart
            && matches!(op, Op::Put { .. })
            && op.key().as_str().starts_with("plan/booking/")
    };
    let (late, at_once): (Vec<Op>, Vec<Op>) = txn.ops().iter().cloned().partition(is_late);
    let compares = txn.compares().iter().filter(|_| !drops_terms);
    let spoilt = compares.fold(Txn::new(), |txn, compare| txn.expect(compare.key.clone(), compare.expected));
    let spoilt = at_once.into_iter().fold(spoilt, with_op);
    (spoilt, (!late.is_empty()).then(|| late.into_iter().fold(Txn::new(), with_op)))
}

fn with_op(txn: Txn, op: Op) -> Txn {
    match op {
        Op::Put { key, value, lease: Some(lease) } => txn.put_leased(key, value, lease),
        Op::Put { key, value, lease: None } => txn.put(key, value),
        Op::Delete(key) => txn.delete(key),
    }
}

/// A watch that hears nothing while its node does not reach the store; what it missed it hears later.
struct NodeWatch {
    world: Arc<Shared>,
    life: Life,
    /// How often watches had been lost when it began.
    lost: u64,
    watch: Box<dyn Watch>,
}

impl Watch for NodeWatch {
    fn next(&mut self, _timeout: Duration) -> Result<Vec<Event>, StoreError> {
        let watches = self.world.with(|inner| inner.nodes[self.life.node].watches);
        if watches.lost > self.lost {
            return if watches.silent { Ok(Vec::new()) } else { Err(unreachable("the watch is lost")) };
        }
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

fn full() -> StoreError {
    StoreError::Quota { place: PLACE.to_owned(), source: "mvcc: database space exceeded".into() }
}

fn unreachable(why: &str) -> StoreError {
    StoreError::Unreachable { place: PLACE.to_owned(), source: why.into() }
}

impl Store for NodeStore {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.call(|store| store.get(key))
    }

    fn range(&self, prefix: &KeyRange) -> Result<Snapshot, StoreError> {
        self.call(|store| store.range(prefix))
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let (txn, late) = match self.world.planted() {
            Some(planted) => spoil(txn, planted),
            None => (txn.clone(), None),
        };
        let there_ms = self.world.draw_latency(self.life.node);
        if let Some(late_ms) = there_ms.checked_sub(self.timeout_ms) {
            // It is on its way, and nobody waits for it.
            let answer = self.call_that_takes(there_ms, |_| Ok(()));
            self.world.with(|inner| inner.after(late_ms, Due::Late(txn)));
            return answer.and(Err(unreachable("no answer in time")));
        }
        let answer = self.call_that_takes(there_ms, |store| self.write(store, &txn));
        match (&answer, late) {
            (Ok(Outcome::Committed(_)), Some(late)) => self.world.arrives_late(late),
            // Whoever waited for an answer in vain does not know what becomes of the question.
            (Err(StoreError::Unreachable { .. }), _) => self.world.may_arrive_late(txn),
            _ => {}
        }
        answer
    }

    fn watch(&self, prefix: &KeyRange, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let lost = self.world.with(|inner| inner.nodes[self.life.node].watches.lost);
        let watch = self.call(|store| store.watch(prefix, after))?;
        Ok(Box::new(NodeWatch { world: Arc::clone(&self.world), life: self.life, lost, watch }))
    }

    fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.call(|store| store.compact(through))
    }

    fn grant(&self, ttl_ms: u64) -> Result<Lease, StoreError> {
        let full = || self.world.with(|inner| inner.store_full);
        self.call(|store| if full() { Err(self::full()) } else { store.grant(ttl_ms) })
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
