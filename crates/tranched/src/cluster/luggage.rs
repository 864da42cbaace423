//! What a host brings into a cluster that lives: in as many transactions as it takes, and nobody acts on half of it.
//!
//! `cluster/arrival/HOST` names the records on their way. It is written first, together with the host's own record
//! (`spec/host/HOST`): from then on what belongs to the host is a member's that was never heard of, and that is left alone
//! ([`tranche_core::planner`]). A VM's wish and plan go together, and all that a booking rests on goes before it. The last
//! transaction says that it was all; only then the host relies on it.
//!
//! Whoever is killed on the way does it again: what it brought itself may be written over, what others have is a clash, and what
//! the cluster knows of the host from an earlier time stays.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::HostName;
use tranche_store::{
    Entry, Expected, Key, KeyRange, OPS_MAX, Outcome, Revision, Store, StoreError, TXN_BYTES_MAX, Txn,
    VALUE_BYTES_MAX,
};

use super::carry::Records;
use super::registry::member_key;

/// What a transaction has besides the records: it puts and compares the list, and compares the host's record as a machine.
const BESIDES: usize = 2;
/// Room for the keys of that, in bytes.
const BESIDES_BYTES: usize = 1_024;
/// The longest list, in bytes: together with it, the largest record fits into a transaction.
const LIST_BYTES_MAX: usize = TXN_BYTES_MAX - VALUE_BYTES_MAX - 4 * BESIDES_BYTES;

/// The records of a host on their way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
struct Arrival {
    /// Their keys.
    keys: BTreeSet<String>,
    /// Whether they have all arrived.
    done: bool,
}

/// A record to be put, or to be deleted, on condition that it is as it was seen.
#[derive(Debug)]
struct Change {
    key: Key,
    value: Option<Vec<u8>>,
    expected: Expected,
}

impl Change {
    fn bytes(&self) -> usize {
        2 * self.key.as_str().len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// What is there, and on what condition: each key at most once.
struct There {
    records: BTreeMap<Key, Entry>,
}

impl There {
    fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let entries = store.range(&KeyRange::ALL)?.entries.into_iter();
        Ok(Self { records: entries.map(|entry| (entry.key.clone(), entry)).collect() })
    }

    fn expected(&self, key: &Key) -> Expected {
        self.records.get(key).map_or(Expected::Absent, |entry| Expected::At(entry.modified))
    }

    fn change(&self, key: &Key, value: Option<&Vec<u8>>) -> Change {
        Change { key: key.clone(), value: value.cloned(), expected: self.expected(key) }
    }
}

/// Brings a host's own records into a cluster that lives. `tell` hears of each transaction before it is made.
///
/// # Errors
/// Another record has one of the names, the host is no machine of the cluster any more, `tell` refuses, or the store fails. It can
/// be repeated.
pub fn bring(
    host: &HostName,
    records: &Records,
    to: &dyn Store,
    tell: &dyn Fn(&str) -> Result<(), Finding>,
) -> Result<(), Finding> {
    let there = There::read(to).map_err(failed)?;
    let (mut arrival, at) = arrival(host, to)?;
    if arrival.done {
        return Ok(());
    }
    let changes = changes(host, records, &there, &arrival)?;
    arrival.keys.extend(changes.iter().map(|change| change.key.to_string()));
    let list_bytes = encode(&arrival).len();
    if list_bytes > LIST_BYTES_MAX {
        return Err(say::too_many_records(changes.len()));
    }
    let batches = pack(changes, list_bytes);
    let (mut at, count) = (at, batches.len());
    for (index, batch) in batches.into_iter().enumerate() {
        tell(&format!("bring the records ({} of {count})", index + 1))?;
        arrival.done = index + 1 == count;
        let txn = Txn::new().expect(member_key(host), Expected::Present).expect(arrival_key(host), at);
        if index == 0 || arrival.done {
            at = Expected::At(commit(batch, txn.put(arrival_key(host), encode(&arrival)), host, to)?);
        } else {
            let _ = commit(batch, txn, host, to)?;
        }
    }
    Ok(())
}

/// Takes back what a host has brought that gives up. Can be repeated.
///
/// # Errors
/// The store fails.
pub fn take_back(host: &HostName, from: &dyn Store) -> Result<(), Finding> {
    let there = There::read(from).map_err(failed)?;
    let (arrival, at) = arrival(host, from)?;
    let keys = arrival.keys.iter().filter_map(|key| key.parse().ok());
    let mut keys: Vec<Key> = keys.filter(|key| there.records.contains_key(key)).collect();
    // A VM without its host would be started by another one.
    keys.sort_by_key(|key| std::cmp::Reverse(place(key)));
    for batch in pack(keys.iter().map(|key| there.change(key, None)).collect(), 0) {
        let txn = Txn::new().expect(arrival_key(host), at);
        let _ = commit(batch, txn, host, from)?;
    }
    let _ = from.commit(&Txn::new().delete(arrival_key(host))).map_err(failed)?;
    Ok(())
}

/// What is to be done, in order.
fn changes(
    host: &HostName,
    records: &Records,
    there: &There,
    arrival: &Arrival,
) -> Result<Vec<Change>, Finding> {
    let brought = |key: &Key| arrival.keys.contains(key.as_str());
    let (mut changes, mut clashes) = (Vec::new(), Vec::new());
    for (key, value) in records {
        match there.records.get(key) {
            Some(entry) if entry.value == *value => {}
            Some(_) if brought(key) => changes.push(there.change(key, Some(value))),
            Some(_) if stays(key, host) && !is_relied_on(key, records) => {}
            Some(_) => clashes.push(key.to_string()),
            None => changes.push(there.change(key, Some(value))),
        }
    }
    if !clashes.is_empty() {
        return Err(say::records_clash(&clashes));
    }
    changes.sort_by_key(|change| place(&change.key));
    // Its own store went on without these since the attempt before.
    let stale = there.records.keys().filter(|key| brought(key) && !records.contains_key(*key));
    let mut stale: Vec<Change> = stale.map(|key| there.change(key, None)).collect();
    stale.sort_by_key(|change| std::cmp::Reverse(place(&change.key)));
    stale.append(&mut changes);
    Ok(stale)
}

/// Where a record belongs on the way: the host first, then its GPUs, what is booked of them, and VM by VM, wish and plan together.
fn place(key: &Key) -> (u8, String) {
    let segments: Vec<&str> = key.segments().collect();
    match segments.as_slice() {
        ["spec", "vm", name] | ["plan", "vm", name] => (4, (*name).to_owned()),
        ["spec", "host", _] => (0, String::new()),
        ["spec", ..] => (1, key.to_string()),
        ["plan", "booking", ..] => (3, key.to_string()),
        _ => (2, key.to_string()),
    }
}

/// Whether what the cluster knows of this host already is what counts.
fn stays(key: &Key, host: &HostName) -> bool {
    let segments: Vec<&str> = key.segments().collect();
    match segments.as_slice() {
        ["spec" | "plan", "host" | "gpu" | "generation", name, ..] => *name == host.as_str(),
        _ => false,
    }
}

/// Whether bookings that are brought rest on the record: it is what was decided for their GPU.
fn is_relied_on(key: &Key, records: &Records) -> bool {
    let Some(gpu) = key.as_str().strip_prefix("plan/gpu/") else { return false };
    let below = format!("plan/booking/{gpu}/");
    records.keys().any(|key| key.as_str().starts_with(&below))
}

/// At least one batch. `besides` are the bytes of what each has besides.
fn pack(changes: Vec<Change>, besides: usize) -> Vec<Vec<Change>> {
    let mut batches = vec![Vec::new()];
    let besides = besides + BESIDES_BYTES;
    let (mut ops, mut bytes) = (BESIDES, besides);
    let mut changes = changes.into_iter().peekable();
    while let Some(change) = changes.next() {
        let mut group = vec![change];
        while changes.peek().is_some_and(|next| place(&next.key) == place(&group[0].key)) {
            group.extend(changes.next());
        }
        let group_bytes = group.iter().map(Change::bytes).sum::<usize>();
        if ops > BESIDES && (ops + group.len() > OPS_MAX || bytes + group_bytes > TXN_BYTES_MAX) {
            batches.push(Vec::new());
            (ops, bytes) = (BESIDES, besides);
        }
        (ops, bytes) = (ops + group.len(), bytes + group_bytes);
        batches.last_mut().expect("there is one").append(&mut group);
    }
    batches
}

fn commit(batch: Vec<Change>, txn: Txn, host: &HostName, to: &dyn Store) -> Result<Revision, Finding> {
    let txn = batch.into_iter().fold(txn, |txn, change| {
        let txn = txn.expect(change.key.clone(), change.expected);
        match change.value {
            Some(value) => txn.put(change.key, value),
            None => txn.delete(change.key),
        }
    });
    match to.commit(&txn).map_err(failed)? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(conflict) if conflict.key == member_key(host) => Err(say::taken_out(host)),
        Outcome::Conflict(conflict) => Err(say::records_clash(&[conflict.key.to_string()])),
    }
}

fn arrival(host: &HostName, store: &dyn Store) -> Result<(Arrival, Expected), Finding> {
    let key = arrival_key(host);
    let Some(entry) = store.get(&key).map_err(failed)? else {
        return Ok((Arrival::default(), Expected::Absent));
    };
    let arrival = serde_json::from_slice(&entry.value).map_err(|error| {
        say::cluster_file(&format!("The record {key} cannot be read"), &error.to_string())
    })?;
    Ok((arrival, Expected::At(entry.modified)))
}

fn arrival_key(host: &HostName) -> Key {
    format!("cluster/arrival/{host}").parse().expect("a host's name is made of what keys may hold")
}

fn encode(arrival: &Arrival) -> Vec<u8> {
    serde_json::to_vec(arrival).expect("plain records are JSON")
}

fn failed(error: StoreError) -> Finding {
    error.finding()
}

#[cfg(test)]
mod tests {
    use tranche_store::MemoryStore;

    use super::*;
    use crate::cluster::carry;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    fn host() -> HostName {
        "n".parse().unwrap()
    }

    fn put(store: &dyn Store, name: &str, value: &str) {
        let _ = store.commit(&Txn::new().put(key(name), value)).unwrap();
    }

    fn cluster() -> MemoryStore {
        let store = MemoryStore::default();
        put(&store, "cluster/member/n", "{}");
        put(&store, "spec/vm/theirs", "{}");
        put(&store, "plan/vm/theirs", "{}");
        store
    }

    /// A host with a GPU and so many VMs, each with a wish, a plan and a booking.
    fn luggage(vms: usize) -> Records {
        let names = ["spec/host/n", "spec/gpu/n/g", "plan/gpu/n/g", "plan/generation/n"].map(str::to_owned);
        let vm = |index| {
            [
                format!("spec/vm/vm-{index}"),
                format!("plan/vm/vm-{index}"),
                format!("plan/booking/n/g/{index}"),
            ]
        };
        let names = names.into_iter().chain((0..vms).flat_map(vm));
        names.map(|name| (key(&name), format!("{{\"of\":\"{name}\"}}").into_bytes())).collect()
    }

    fn have(store: &dyn Store) -> Records {
        let mut have = carry::records(store).unwrap();
        have.retain(|key, _| !key.as_str().ends_with("theirs"));
        have
    }

    /// Whether nobody would act on what is there: the host is known, no VM is torn, and no booking is without its GPU.
    fn assert_whole(store: &dyn Store) {
        let have = have(store);
        let has = |name: &str| have.contains_key(&key(name));
        assert!(have.is_empty() || has("spec/host/n"), "{have:?}");
        for name in have.keys().map(Key::as_str) {
            if let Some(vm) = name.strip_prefix("spec/vm/") {
                assert!(has(&format!("plan/vm/{vm}")), "{name}");
            }
            if let Some(vm) = name.strip_prefix("plan/vm/") {
                assert!(has(&format!("spec/vm/{vm}")), "{name}");
            }
            if name.starts_with("plan/booking/") {
                assert!(has("plan/gpu/n/g"), "{name}");
            }
        }
    }

    /// Is killed before each transaction: the first attempt does none, and each later one does one and dies before the next.
    fn bring_although_killed(records: &Records, store: &dyn Store) -> usize {
        let kills = std::cell::Cell::new(0);
        for attempt in 0_usize.. {
            let left = std::cell::Cell::new(attempt.min(1));
            let tell = |_: &str| {
                assert_whole(store);
                if left.get() == 0 {
                    kills.set(kills.get() + 1);
                    return Err(say::cluster_busy("die"));
                }
                left.set(left.get() - 1);
                Ok(())
            };
            if bring(&host(), records, store, &tell).is_ok() {
                break;
            }
        }
        kills.get()
    }

    #[test]
    fn hundreds_of_vms_are_brought_although_the_host_is_killed_before_each_transaction() {
        let store = cluster();
        let all = luggage(300);
        let kills = bring_although_killed(&all, &store);
        assert!(kills >= 8, "{kills}");
        assert_eq!(have(&store), all);
        bring(&host(), &all, &store, &|_| panic!("there is nothing left to do")).unwrap();
    }

    #[test]
    fn large_records_go_in_as_many_transactions_as_their_bytes_ask_for() {
        let store = cluster();
        let mut all = luggage(40);
        for (key, value) in &mut all {
            if key.as_str().starts_with("spec/vm/") {
                *value = vec![b'x'; 100_000];
            }
        }
        bring(&host(), &all, &store, &|_| Ok(())).unwrap();
        assert_eq!(have(&store), all);
    }

    #[test]
    fn what_changed_at_home_between_two_attempts_is_what_arrives() {
        let store = cluster();
        let halfway = |what: &str| match what.contains("(2 of") {
            true => Err(say::cluster_busy("die")),
            false => Ok(()),
        };
        let mut own = luggage(200);
        bring(&host(), &own, &store, &halfway).unwrap_err();
        assert!(have(&store).len() > 10);
        own.retain(|key, _| !key.as_str().ends_with("vm-0") && key.as_str() != "plan/booking/n/g/0");
        own.insert(key("plan/gpu/n/g"), b"another".to_vec());
        own.insert(key("spec/vm/vm-1"), b"another".to_vec());
        bring(&host(), &own, &store, &|_| Ok(())).unwrap();
        assert_eq!(have(&store), own);
    }

    #[test]
    fn who_gives_up_takes_back_what_it_brought_and_nothing_else() {
        for known_before in [false, true] {
            let store = cluster();
            if known_before {
                put(&store, "spec/host/n", "with labels");
            }
            let before = have(&store);
            let halfway = |what: &str| match what.contains("(4 of") {
                true => Err(say::cluster_busy("die")),
                false => Ok(()),
            };
            bring(&host(), &luggage(200), &store, &halfway).unwrap_err();
            assert!(have(&store).len() > 200);
            take_back(&host(), &store).unwrap();
            take_back(&host(), &store).unwrap();
            assert_eq!(have(&store), before);
            assert_eq!(store.get(&key("cluster/arrival/n")).unwrap(), None);
            assert!(store.get(&key("spec/vm/theirs")).unwrap().is_some());
        }
    }

    #[test]
    fn what_the_cluster_knows_of_the_host_stays_and_what_others_have_is_a_clash_by_name() {
        let store = cluster();
        put(&store, "spec/host/n", "with labels");
        put(&store, "spec/gpu/n/g", "split");
        bring(&host(), &luggage(0), &store, &|_| Ok(())).unwrap();
        assert_eq!(have(&store)[&key("spec/host/n")], b"with labels");
        assert_eq!(have(&store)[&key("spec/gpu/n/g")], b"split");

        let store = cluster();
        put(&store, "plan/gpu/n/g", "split otherwise");
        let mut own = luggage(1);
        own.insert(key("spec/vm/theirs"), b"other".to_vec());
        let refused = bring(&host(), &own, &store, &|_| Ok(())).unwrap_err();
        assert!(refused.message.contains("spec/vm/theirs"), "{refused}");
        assert!(refused.message.contains("plan/gpu/n/g"), "a booking rests on it: {refused}");
        assert_eq!(have(&store).len(), 1, "nothing was added");
    }

    #[test]
    fn a_host_that_was_taken_out_meanwhile_brings_nothing() {
        let store = cluster();
        let _ = store.commit(&Txn::new().delete(key("cluster/member/n"))).unwrap();
        let refused = bring(&host(), &luggage(1), &store, &|_| Ok(())).unwrap_err();
        assert_eq!(refused.code, tranche_core::finding::Code::HostNotFound);
        assert_eq!(have(&store).len(), 0);
    }
}
