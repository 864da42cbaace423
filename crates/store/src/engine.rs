//! What the stores on one host have in common: revisions, compares, leases and watches over a plain table.
//!
//! A [`Table`] only remembers entries; every rule of the contract that is not about durability lives here, once.
//! Leases are not written down. An embedded store belongs to one process, and so do the holders of its leases: when the
//! process ends, so do they, and whoever opens the store next begins by dropping what was bound to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::StoreError;
use crate::history::History;
use crate::key::{Key, KeyRange};
use crate::record::{Entry, Event, Lease, LeaseId, Revision, Snapshot};
use crate::txn::{Conflict, Op, Outcome, Txn};
use crate::{LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, Store, Watch};

/// The shortest wait of a watch for a lease to end. A lease whose keys cannot be deleted yet (a full disk) stays due;
/// its watches must not spin.
const EXPIRY_WAIT_MIN: Duration = Duration::from_millis(20);

/// Where an embedded store keeps its entries.
pub(crate) trait Table: Send + Debug + 'static {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;
    /// The entries of these keys, sorted by key.
    fn range(&self, keys: &KeyRange) -> Result<Vec<Entry>, StoreError>;
    /// Applies all `events`, which are those of `revision`, or none.
    fn write(&mut self, revision: Revision, events: &[Event]) -> Result<(), StoreError>;
}

/// A store over a [`Table`].
#[derive(Debug)]
pub(crate) struct Engine<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// Told after every change.
    changed: Condvar,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct State<T> {
    table: T,
    revision: Revision,
    history: History,
    leases: BTreeMap<LeaseId, Held>,
    last_lease: LeaseId,
}

/// A lease that is alive.
#[derive(Debug)]
struct Held {
    ttl_ms: u64,
    due_ms: u64,
    keys: BTreeSet<Key>,
}

impl<T: Table> Engine<T> {
    /// A store over `table`, whose last change was `revision`.
    pub(crate) fn new(table: T, revision: Revision, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            table,
            revision,
            history: History::after(revision),
            leases: BTreeMap::new(),
            last_lease: LeaseId(0),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), clock }) }
    }
}

/// A type that is a store by its engine.
pub(crate) trait Embedded: Send + Sync + Debug {
    type Table: Table;
    fn engine(&self) -> &Engine<Self::Table>;
}

impl<S: Embedded> Store for S {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.engine().shared.read().table.get(key)
    }

    fn range(&self, keys: &KeyRange) -> Result<Snapshot, StoreError> {
        let state = self.engine().shared.read();
        Ok(Snapshot { revision: state.revision, entries: state.table.range(keys)? })
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        self.engine().shared.change(|state, _| state.commit(txn))
    }

    fn watch(&self, keys: &KeyRange, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let shared = Arc::clone(&self.engine().shared);
        shared.read().history.reaches(after)?;
        Ok(Box::new(EngineWatch { shared, keys: keys.clone(), after }))
    }

    fn compact(&self, through: Revision) -> Result<(), StoreError> {
        let mut state = self.engine().shared.read();
        let through = through.min(state.revision);
        state.history.compact(through);
        Ok(())
    }

    fn grant(&self, ttl_ms: u64) -> Result<Lease, StoreError> {
        if !(LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(&ttl_ms) {
            let max = if ttl_ms < LEASE_TTL_MS_MIN { LEASE_TTL_MS_MIN } else { LEASE_TTL_MS_MAX };
            return Err(StoreError::Limit { what: "milliseconds of a lease".to_owned(), found: ttl_ms, max });
        }
        self.engine().shared.change(|state, now_ms| {
            state.last_lease = LeaseId(state.last_lease.0 + 1);
            let held = Held { ttl_ms, due_ms: now_ms + ttl_ms, keys: BTreeSet::new() };
            state.leases.insert(state.last_lease, held);
            Ok(Lease { id: state.last_lease, ttl_ms })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine().shared.change(|state, now_ms| {
            let held = state.leases.get_mut(&lease).ok_or(StoreError::LeaseGone { lease })?;
            held.due_ms = now_ms + held.ttl_ms;
            Ok(())
        })
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine().shared.change(|state, _| state.end(lease))
    }
}

impl<T: Table> Shared<T> {
    /// The state. A thread that panicked with the lock held left it whole: the table changes by whole revisions, and
    /// nothing that follows a write of it can fail.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state for reading. What is due is dropped first; if that cannot be written, reading goes on with what is
    /// there, for a lease may end late but never early.
    fn read(&self) -> MutexGuard<'_, State<T>> {
        let now_ms = self.clock.now_ms();
        let mut state = self.lock();
        if state.expire(now_ms).unwrap_or(false) {
            self.changed.notify_all();
        }
        state
    }

    /// Changes the state at a moment, with every lease that is due then ended before.
    fn change<R>(
        &self,
        change: impl FnOnce(&mut State<T>, u64) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let now_ms = self.clock.now_ms();
        let mut state = self.lock();
        state.expire(now_ms)?;
        let result = change(&mut state, now_ms);
        drop(state);
        self.changed.notify_all();
        result
    }
}

impl<T: Table> State<T> {
    fn commit(&mut self, txn: &Txn) -> Result<Outcome, StoreError> {
        for compare in txn.compares() {
            let actual = self.table.get(&compare.key)?.map(|entry| entry.modified);
            if !compare.expected.holds(actual) {
                let (key, expected) = (compare.key.clone(), compare.expected);
                return Ok(Outcome::Conflict(Conflict { key, expected, actual }));
            }
        }
        let revision = self.revision.next();
        let mut events = Vec::with_capacity(txn.ops().len());
        for op in txn.ops() {
            events.extend(self.event(op, revision)?);
        }
        self.write(events)?;
        Ok(Outcome::Committed(self.revision))
    }

    /// What `op` would do at `revision`; none if nothing.
    fn event(&self, op: &Op, revision: Revision) -> Result<Option<Event>, StoreError> {
        let before = self.table.get(op.key())?;
        let Op::Put { key, value, lease } = op else {
            return Ok(before.map(|entry| Event::Deleted { key: entry.key, revision }));
        };
        if let Some(lease) = lease.filter(|lease| !self.leases.contains_key(lease)) {
            return Err(StoreError::LeaseGone { lease });
        }
        let created = before.map_or(revision, |entry| entry.created);
        let entry =
            Entry { key: key.clone(), value: value.clone(), created, modified: revision, lease: *lease };
        Ok(Some(Event::Put(entry)))
    }

    /// Writes the events of the next revision; nothing happens if there are none.
    fn write(&mut self, events: Vec<Event>) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let revision = self.revision.next();
        self.table.write(revision, &events)?;
        self.revision = revision;
        for event in &events {
            self.bind(event);
        }
        self.history.push(events);
        Ok(())
    }

    /// Binds the key of `event` to its lease, and to no other.
    fn bind(&mut self, event: &Event) {
        for held in self.leases.values_mut() {
            held.keys.remove(event.key());
        }
        if let Event::Put(Entry { key, lease: Some(lease), .. }) = event
            && let Some(held) = self.leases.get_mut(lease)
        {
            held.keys.insert(key.clone());
        }
    }

    /// Ends a lease and deletes its keys.
    fn end(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let held = self.leases.get(&lease).ok_or(StoreError::LeaseGone { lease })?;
        let revision = self.revision.next();
        let deleted = held.keys.iter().map(|key| Event::Deleted { key: key.clone(), revision }).collect();
        self.write(deleted)?;
        self.leases.remove(&lease);
        Ok(())
    }

    /// Ends the leases that are due; says whether there were any.
    fn expire(&mut self, now_ms: u64) -> Result<bool, StoreError> {
        let due: Vec<LeaseId> =
            self.leases.iter().filter(|(_, held)| held.due_ms <= now_ms).map(|(lease, _)| *lease).collect();
        for lease in &due {
            self.end(*lease)?;
        }
        Ok(!due.is_empty())
    }

    /// How long until the next lease is due.
    fn next_due(&self, now_ms: u64) -> Option<Duration> {
        let due_ms = self.leases.values().map(|held| held.due_ms).min()?;
        Some(Duration::from_millis(due_ms.saturating_sub(now_ms)).max(EXPIRY_WAIT_MIN))
    }
}

/// A watch keeps its store open.
#[derive(Debug)]
struct EngineWatch<T> {
    shared: Arc<Shared<T>>,
    keys: KeyRange,
    after: Revision,
}

impl<T: Table> Watch for EngineWatch<T> {
    fn next(&mut self, timeout: Duration) -> Result<Vec<Event>, StoreError> {
        let start = Instant::now();
        loop {
            let state = self.shared.read();
            let events = state.history.since(&self.keys, self.after)?;
            // A watch from the future waits for it; every other has now seen all there is, also of other keys.
            self.after = self.after.max(state.revision);
            let left = timeout.saturating_sub(start.elapsed());
            if !events.is_empty() || left.is_zero() {
                return Ok(events);
            }
            let wait = state.next_due(self.shared.clock.now_ms()).map_or(left, |due| due.min(left));
            let woken = self.shared.changed.wait_timeout(state, wait);
            drop(woken.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;
    use crate::MemoryStore;

    /// A clock that panics once, when it is asked for the nth time.
    #[derive(Debug)]
    struct FragileClock {
        calls_left: AtomicU32,
    }

    impl Clock for FragileClock {
        fn now_ms(&self) -> u64 {
            let left = self.calls_left.fetch_sub(1, Ordering::SeqCst);
            assert_ne!(left, 1, "this panic is part of the test");
            0
        }
    }

    #[test]
    fn a_thread_that_panics_inside_leaves_a_store_that_works() {
        // Asked once each for the commit, for the watch, and for its first look; then inside of the lock.
        let clock = Arc::new(FragileClock { calls_left: AtomicU32::new(4) });
        let store = MemoryStore::new(clock);
        let key: Key = "a".parse().unwrap();
        let _ = store.commit(&Txn::new().put(key.clone(), "1")).unwrap();
        let mut watch = store.watch(&KeyRange::ALL, Revision(1)).unwrap();
        let panicked = thread::spawn(move || watch.next(Duration::from_secs(5)).map(drop)).join();
        assert!(panicked.is_err());

        assert!(store.engine().shared.state.is_poisoned());
        assert_eq!(store.commit(&Txn::new().delete(key.clone())).unwrap(), Outcome::Committed(Revision(2)));
        assert_eq!(store.get(&key).unwrap(), None);
    }
}
