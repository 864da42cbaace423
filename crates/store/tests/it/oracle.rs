//! Both stores against a plain map, step by step.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tranche_store::{
    Event, Expected, Key, KeyRange, LEASE_TTL_MS_MIN, LeaseId, Outcome, Revision, Store, StoreError, Txn,
};

use crate::subject::{Subject, key, memory, sqlite};

const KEYS: [&str; 5] = ["a", "a/b", "a/c", "b", "b/c/d"];

#[derive(Debug, Clone)]
enum Step {
    Commit { compares: Vec<(usize, Want)>, ops: BTreeMap<usize, Change> },
    Grant(u64),
    KeepAlive(usize),
    Revoke(usize),
    LetPass(u64),
}

#[derive(Debug, Clone, Copy)]
enum Want {
    Absent,
    Present,
    Current,
    Older,
}

#[derive(Debug, Clone)]
enum Change {
    Put(Vec<u8>),
    /// Bound to the lease that was granted as this one, counted from the first.
    PutLeased(usize),
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let want = prop_oneof![
        1 => Just(Want::Absent),
        2 => Just(Want::Present),
        4 => Just(Want::Current),
        1 => Just(Want::Older),
    ];
    let change = prop_oneof![
        4 => vec(any::<u8>(), 0..4).prop_map(Change::Put),
        2 => (0..3usize).prop_map(Change::PutLeased),
        2 => Just(Change::Delete),
    ];
    let commit =
        (vec((0..KEYS.len(), want), 0..3), proptest::collection::btree_map(0..KEYS.len(), change, 0..4));
    prop_oneof![
        12 => commit.prop_map(|(compares, ops)| Step::Commit { compares, ops }),
        2 => (0..3u64).prop_map(|more| Step::Grant(LEASE_TTL_MS_MIN * (1 + more))),
        1 => (0..3usize).prop_map(Step::KeepAlive),
        1 => (0..3usize).prop_map(Step::Revoke),
        1 => (1..3u64).prop_map(|times| Step::LetPass(times * LEASE_TTL_MS_MIN)),
    ]
}

/// What a store should be, in the plainest form.
#[derive(Debug, Default)]
struct Oracle {
    now_ms: u64,
    revision: u64,
    entries: BTreeMap<Key, Value>,
    leases: Vec<LeaseModel>,
    /// Revision, key, and whether it was put.
    events: Vec<(u64, Key, bool)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Value {
    bytes: Vec<u8>,
    created: u64,
    modified: u64,
    lease: Option<usize>,
}

#[derive(Debug)]
struct LeaseModel {
    ttl_ms: u64,
    due_ms: u64,
    ended: bool,
}

impl Oracle {
    fn alive(&self, lease: usize) -> bool {
        self.leases.get(lease).is_some_and(|lease| !lease.ended)
    }

    fn end(&mut self, lease: usize) {
        self.leases[lease].ended = true;
        let keys: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, value)| value.lease == Some(lease))
            .map(|(key, _)| key.clone())
            .collect();
        self.revision += u64::from(!keys.is_empty());
        for key in keys {
            self.entries.remove(&key);
            self.events.push((self.revision, key, false));
        }
    }

    fn let_pass(&mut self, ms: u64) {
        self.now_ms += ms;
        for lease in 0..self.leases.len() {
            if !self.leases[lease].ended && self.leases[lease].due_ms <= self.now_ms {
                self.end(lease);
            }
        }
    }

    fn holds(&self, compare: &(usize, Want)) -> bool {
        let present = self.entries.contains_key(&key(KEYS[compare.0]));
        match compare.1 {
            Want::Absent => !present,
            Want::Present | Want::Current => present,
            Want::Older => false,
        }
    }

    fn commit(&mut self, ops: &BTreeMap<usize, Change>) {
        let revision = self.revision + 1;
        for (index, change) in ops {
            let key = key(KEYS[*index]);
            let created = self.entries.get(&key).map_or(revision, |value| value.created);
            let (bytes, lease) = match change {
                Change::Put(bytes) => (bytes.clone(), None),
                Change::PutLeased(lease) => (b"leased".to_vec(), Some(*lease)),
                Change::Delete => {
                    if self.entries.remove(&key).is_some() {
                        self.events.push((revision, key, false));
                        self.revision = revision;
                    }
                    continue;
                }
            };
            self.entries.insert(key.clone(), Value { bytes, created, modified: revision, lease });
            self.events.push((revision, key, true));
            self.revision = revision;
        }
    }
}

/// A store beside its oracle.
struct Pair<'a> {
    subject: &'a dyn Subject,
    base: u64,
    oracle: Oracle,
    leases: Vec<LeaseId>,
}

impl Pair<'_> {
    fn store(&self) -> &dyn Store {
        self.subject.store()
    }

    /// The store's id of a lease; one that was never granted has none.
    fn lease(&self, index: usize) -> LeaseId {
        self.leases.get(index).copied().unwrap_or(LeaseId(u64::MAX >> 1))
    }

    fn txn(&self, compares: &[(usize, Want)], ops: &BTreeMap<usize, Change>) -> Txn {
        let modified =
            |name: &Key| self.oracle.entries.get(name).map_or(0, |value| self.base + value.modified);
        let mut txn = Txn::new();
        for (index, want) in compares {
            let name = key(KEYS[*index]);
            let expected = match want {
                Want::Absent => Expected::Absent,
                Want::Present => Expected::Present,
                Want::Current => Expected::At(Revision(modified(&name).max(1))),
                Want::Older => Expected::At(Revision(modified(&name) + 1)),
            };
            txn = txn.expect(name, expected);
        }
        for (index, change) in ops {
            let name = key(KEYS[*index]);
            txn = match change {
                Change::Put(bytes) => txn.put(name, bytes.clone()),
                Change::PutLeased(lease) => txn.put_leased(name, "leased", self.lease(*lease)),
                Change::Delete => txn.delete(name),
            };
        }
        txn
    }

    fn take(&mut self, step: &Step) -> TestCaseResult {
        match step {
            Step::Commit { compares, ops } => {
                let outcome = self.store().commit(&self.txn(compares, ops));
                let holds = compares.iter().all(|compare| self.oracle.holds(compare));
                let leased = ops.values().all(|change| match change {
                    Change::PutLeased(lease) => self.oracle.alive(*lease),
                    _ => true,
                });
                match outcome {
                    Ok(Outcome::Conflict(conflict)) => {
                        prop_assert!(!holds, "{conflict}");
                        let actual = self.oracle.entries.get(&conflict.key);
                        prop_assert_eq!(
                            conflict.actual.map(|at| at.0),
                            actual.map(|value| self.base + value.modified)
                        );
                    }
                    Ok(Outcome::Committed(revision)) => {
                        prop_assert!(holds && leased);
                        self.oracle.commit(ops);
                        prop_assert_eq!(revision.0, self.base + self.oracle.revision);
                    }
                    Err(StoreError::LeaseGone { .. }) => prop_assert!(holds && !leased),
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
            Step::Grant(ttl_ms) => {
                let lease = self.store().grant(*ttl_ms).unwrap();
                self.leases.push(lease.id);
                let due_ms = self.oracle.now_ms + ttl_ms;
                self.oracle.leases.push(LeaseModel { ttl_ms: *ttl_ms, due_ms, ended: false });
            }
            Step::KeepAlive(index) => {
                let alive = self.oracle.alive(*index);
                prop_assert_eq!(self.store().keep_alive(self.lease(*index)).is_ok(), alive);
                if alive {
                    let lease = &mut self.oracle.leases[*index];
                    lease.due_ms = self.oracle.now_ms + lease.ttl_ms;
                }
            }
            Step::Revoke(index) => {
                let alive = self.oracle.alive(*index);
                prop_assert_eq!(self.store().revoke(self.lease(*index)).is_ok(), alive);
                if alive {
                    self.oracle.end(*index);
                }
            }
            Step::LetPass(ms) => {
                self.subject.let_pass(*ms);
                self.oracle.let_pass(*ms);
            }
        }
        Ok(())
    }

    /// Every way of reading tells what the oracle knows.
    fn compare(&self) -> TestCaseResult {
        for text in ["", "a/", "b/", "b/c/", "c/"] {
            let prefix: KeyRange = text.parse().unwrap();
            let snapshot = self.store().range(&prefix).unwrap();
            prop_assert_eq!(snapshot.revision.0, self.base + self.oracle.revision);
            let found: Vec<(Key, Value)> =
                snapshot.entries.into_iter().map(|entry| self.model(entry)).collect();
            let known: Vec<(Key, Value)> = self
                .oracle
                .entries
                .iter()
                .filter(|(key, _)| key.as_str().starts_with(text))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            prop_assert_eq!(found, known);
        }
        for name in KEYS.map(key) {
            let found = self.store().get(&name).unwrap().map(|entry| self.model(entry).1);
            prop_assert_eq!(found.as_ref(), self.oracle.entries.get(&name));
        }
        Ok(())
    }

    fn model(&self, entry: tranche_store::Entry) -> (Key, Value) {
        let lease = entry.lease.map(|id| self.leases.iter().position(|granted| *granted == id).unwrap());
        let (created, modified) = (entry.created.0 - self.base, entry.modified.0 - self.base);
        (entry.key, Value { bytes: entry.value, created, modified, lease })
    }
}

fn agree(subject: &dyn Subject, steps: &[Step]) -> TestCaseResult {
    let base = subject.store().range(&KeyRange::ALL).unwrap().revision;
    let mut watch = subject.store().watch(&KeyRange::ALL, base).unwrap();
    let mut pair = Pair { subject, base: base.0, oracle: Oracle::default(), leases: Vec::new() };
    for step in steps {
        pair.take(step)?;
        pair.compare()?;
    }
    let heard: Vec<_> = watch
        .next(std::time::Duration::ZERO)
        .unwrap()
        .iter()
        .map(|event| (event.revision().0 - base.0, event.key().clone(), matches!(event, Event::Put(_))))
        .collect();
    prop_assert_eq!(heard, pair.oracle.events);
    Ok(())
}

proptest! {
    #[test]
    fn the_store_in_memory_is_a_map_with_revisions(steps in vec(step(), 1..60)) {
        agree(&memory(), &steps)?;
    }
}

proptest! {
    // Every commit waits for the disk, so there are fewer.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_store_in_sqlite_is_a_map_with_revisions(steps in vec(step(), 1..40)) {
        agree(&sqlite(), &steps)?;
    }
}
