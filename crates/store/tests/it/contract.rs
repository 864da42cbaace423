//! The contract: each of these sentences holds for every store.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tranche_store::{
    COMPARES_MAX, Conflict, Event, Expected, KEY_LEN_MAX, KeyRange, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN,
    LeaseId, OPS_MAX, Outcome, Revision, StoreError, TXN_BYTES_MAX, Txn, VALUE_BYTES_MAX, Watch,
};

use crate::server::etcd;
use crate::subject::{Subject, all, commit, key, memory, prefix, put, sqlite};

/// For events that are there, or are on their way.
const SOON: Duration = Duration::from_secs(10);
/// For events that must not come. A store over a network may hold them back longer; then this proves less, never wrong.
const NOW: Duration = Duration::ZERO;

macro_rules! contract {
    ($($sentence:ident)*) => {
        mod memory_keeps { $(#[test] fn $sentence() { super::$sentence(&super::memory()); })* }
        mod sqlite_keeps { $(#[test] fn $sentence() { super::$sentence(&super::sqlite()); })* }
        mod etcd_keeps { $(#[test] fn $sentence() { super::$sentence(&super::etcd()); })* }
    };
}

contract! {
    every_change_takes_a_higher_revision
    a_transaction_that_changes_nothing_takes_no_revision
    an_entry_knows_when_it_was_created_and_modified
    a_range_is_sorted_and_holds_only_its_prefix
    a_compare_that_does_not_hold_says_what_was_expected_and_what_is_there
    of_two_who_create_the_same_key_one_wins
    a_transaction_takes_effect_whole_or_not_at_all
    a_watch_tells_every_change_in_order
    a_watch_resumes_from_any_revision
    a_watch_hears_only_its_prefix
    one_key_alone_can_be_read_and_watched
    a_watch_never_splits_a_revision
    a_waiting_watch_wakes_up
    a_quiet_watch_ends_with_nothing
    a_watch_of_forgotten_history_is_refused
    a_watch_that_fell_behind_the_history_says_so_and_stays_so
    a_quiet_watch_outlives_the_history_of_others
    a_lease_that_runs_out_deletes_its_keys
    a_lease_that_is_kept_alive_keeps_its_keys
    a_revoked_lease_deletes_its_keys_at_once_in_one_revision
    a_key_leaves_its_lease_when_it_is_put_without
    a_lease_that_is_gone_is_refused
    a_lease_of_no_sensible_length_is_refused
    what_no_store_takes_is_refused_and_changes_nothing
    the_largest_transaction_is_taken
    any_bytes_come_back_as_they_were
    threads_that_count_together_lose_nothing
}

fn every_change_takes_a_higher_revision(subject: &dyn Subject) {
    let store = subject.store();
    let mut last = store.range(&KeyRange::ALL).unwrap().revision;
    for round in 0..20 {
        let txn = match round % 3 {
            0 => Txn::new().put(key("a"), "same"),
            1 => Txn::new().put(key("a"), "same").put(key("b"), "x"),
            _ => Txn::new().delete(key("b")),
        };
        let revision = commit(store, txn);
        assert!(revision > last, "{revision} after {last}");
        assert_eq!(store.range(&KeyRange::ALL).unwrap().revision, revision);
        last = revision;
    }
}

fn a_transaction_that_changes_nothing_takes_no_revision(subject: &dyn Subject) {
    let store = subject.store();
    let revision = put(store, "a", "1");
    assert_eq!(commit(store, Txn::new()), revision);
    assert_eq!(commit(store, Txn::new().delete(key("b"))), revision);
    assert_eq!(commit(store, Txn::new().expect(key("a"), Expected::At(revision))), revision);
}

fn an_entry_knows_when_it_was_created_and_modified(subject: &dyn Subject) {
    let store = subject.store();
    let first = put(store, "a", "1");
    let second = put(store, "a", "2");
    let entry = store.get(&key("a")).unwrap().unwrap();
    assert_eq!((entry.created, entry.modified, &entry.value[..]), (first, second, &b"2"[..]));

    commit(store, Txn::new().delete(key("a")));
    assert_eq!(store.get(&key("a")).unwrap(), None);
    let third = put(store, "a", "3");
    let entry = store.get(&key("a")).unwrap().unwrap();
    assert_eq!((entry.created, entry.modified), (third, third));
}

fn a_range_is_sorted_and_holds_only_its_prefix(subject: &dyn Subject) {
    let store = subject.store();
    for name in
        ["vm/b", "vm/A", "vm/a/x", "vm/a", "vm/a.b", "vm", "vmx/a", "vm-1/a", "vm/a-b", "vl/z", "wm/a"]
    {
        put(store, name, name);
    }
    let names = |text| -> Vec<String> {
        store.range(&prefix(text)).unwrap().entries.iter().map(|entry| entry.key.to_string()).collect()
    };
    assert_eq!(names("vm/"), ["vm/A", "vm/a", "vm/a-b", "vm/a.b", "vm/a/x", "vm/b"]);
    assert_eq!(names("vm/a/"), ["vm/a/x"]);
    assert_eq!(names("nothing/"), [""; 0]);
    let mut sorted = names("");
    sorted.sort();
    assert_eq!((names("").len(), names("")), (11, sorted));
}

fn a_compare_that_does_not_hold_says_what_was_expected_and_what_is_there(subject: &dyn Subject) {
    let store = subject.store();
    let first = put(store, "a", "1");
    let second = put(store, "a", "2");
    let cases = [
        ("a", Expected::Absent, Some(second)),
        ("a", Expected::At(first), Some(second)),
        ("b", Expected::Present, None),
        ("b", Expected::At(first), None),
    ];
    for (name, expected, actual) in cases {
        let txn =
            Txn::new().expect(key("a"), Expected::Present).expect(key(name), expected).put(key("c"), "never");
        let conflict = Conflict { key: key(name), expected, actual };
        assert_eq!(store.commit(&txn).unwrap(), Outcome::Conflict(conflict));
    }
    assert_eq!(all(store).len(), 1, "a transaction that conflicts has left something");

    let held = Txn::new()
        .expect(key("a"), Expected::Present)
        .expect(key("a"), Expected::At(second))
        .expect(key("b"), Expected::Absent);
    assert!(commit(store, held.put(key("c"), "now")) > second);
}

fn of_two_who_create_the_same_key_one_wins(subject: &dyn Subject) {
    let store = subject.store();
    let create = |value: &str| {
        let txn = Txn::new().expect(key("booking"), Expected::Absent).put(key("booking"), value);
        matches!(store.commit(&txn).unwrap(), Outcome::Committed(_))
    };
    let won = thread::scope(|scope| {
        let racers: Vec<_> =
            ["a", "b", "c", "d"].map(|name| scope.spawn(move || create(name).then_some(name))).into();
        racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(won.len(), 1);
    assert_eq!(store.get(&key("booking")).unwrap().unwrap().value, won[0].as_bytes());
}

fn a_transaction_takes_effect_whole_or_not_at_all(subject: &dyn Subject) {
    let store = subject.store();
    put(store, "old", "1");
    let revision = commit(store, Txn::new().put(key("x"), "1").put(key("y"), "1").delete(key("old")));
    let entries = all(store);
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry.modified == revision));

    let gone = LeaseId(u64::MAX >> 1);
    let txn = Txn::new().put(key("x"), "2").put_leased(key("z"), "2", gone).delete(key("y"));
    assert!(matches!(store.commit(&txn), Err(StoreError::LeaseGone { lease }) if lease == gone));
    assert_eq!(all(store), entries);
}

/// What a watch tells, until it has told `count` events.
#[track_caller]
fn hear(watch: &mut dyn Watch, count: usize) -> Vec<Event> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let events = watch.next(SOON).unwrap();
        assert!(!events.is_empty(), "only {heard:?} came");
        heard.extend(events);
    }
    assert_eq!(heard.len(), count, "{heard:?}");
    heard
}

fn a_watch_tells_every_change_in_order(subject: &dyn Subject) {
    let store = subject.store();
    put(store, "before", "0");
    let start = store.range(&KeyRange::ALL).unwrap().revision;
    let mut watch = store.watch(&KeyRange::ALL, start).unwrap();
    let first = put(store, "a", "1");
    let second = commit(store, Txn::new().delete(key("a")).put(key("b"), "2"));
    let third = put(store, "a", "3");

    let mut heard = hear(watch.as_mut(), 4);
    // Inside a revision there is no order to keep.
    heard[1..3].sort_by(|one, other| one.key().cmp(other.key()));
    assert_eq!(heard.iter().map(Event::revision).collect::<Vec<_>>(), [first, second, second, third]);
    assert_eq!(heard[1], Event::Deleted { key: key("a"), revision: second });
    let Event::Put(entry) = &heard[3] else { panic!("{heard:?}") };
    assert_eq!(entry, &store.get(&key("a")).unwrap().unwrap());
    assert_eq!(entry.created, third, "a key that is put again is a new one");
}

fn a_watch_resumes_from_any_revision(subject: &dyn Subject) {
    let store = subject.store();
    let revisions: Vec<Revision> = (0..5).map(|round| put(store, "a", &round.to_string())).collect();
    for (index, after) in revisions.iter().enumerate().take(4) {
        let mut watch = store.watch(&KeyRange::ALL, *after).unwrap();
        let heard: Vec<Revision> = hear(watch.as_mut(), 4 - index).iter().map(Event::revision).collect();
        assert_eq!(heard, revisions[index + 1..]);
    }
    let mut watch = store.watch(&KeyRange::ALL, revisions[4]).unwrap();
    assert_eq!(watch.next(NOW).unwrap(), []);
}

fn a_watch_hears_only_its_prefix(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(store, "vm/a", "0");
    let mut watch = store.watch(&prefix("vm/"), start).unwrap();
    put(store, "vmx/a", "1");
    put(store, "vm", "1");
    put(store, "gpu/a", "1");
    put(store, "vm/a", "1");
    assert_eq!(hear(watch.as_mut(), 1)[0].key(), &key("vm/a"));
}

fn one_key_alone_can_be_read_and_watched(subject: &dyn Subject) {
    let store = subject.store();
    let alone = KeyRange::exactly(&key("vm/a"));
    let before = put(store, "vm/a", "1");
    let mut watch = store.watch(&alone, before).unwrap();
    for name in ["vm/a/x", "vm/a-b", "vm/a.b", "vm/a:b", "vm/ab", "vm/b"] {
        put(store, name, "1");
    }
    let found = store.range(&alone).unwrap();
    assert_eq!(found.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["vm/a"]);
    let changed = put(store, "vm/a", "2");
    let heard: Vec<_> = watch.next(SOON).unwrap().iter().map(|event| event.revision()).collect();
    assert_eq!(heard, [changed]);
}

fn a_watch_never_splits_a_revision(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(store, "start", "0");
    let mut watch = store.watch(&prefix("k/"), start).unwrap();
    for _ in 0..3 {
        let txn =
            (0..OPS_MAX).fold(Txn::new(), |txn, index| txn.put(key(&format!("k/{index}")), "x".repeat(64)));
        commit(store, txn);
    }
    let mut heard = 0;
    while heard < 3 * OPS_MAX {
        let events = watch.next(SOON).unwrap();
        assert!(
            !events.is_empty() && events.len().is_multiple_of(OPS_MAX),
            "{} events in one call",
            events.len()
        );
        heard += events.len();
    }
}

fn a_waiting_watch_wakes_up(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(store, "start", "0");
    let mut watch = store.watch(&KeyRange::ALL, start).unwrap();
    let (waits, waiting) = mpsc::channel();
    thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            waits.send(()).unwrap();
            hear(watch.as_mut(), 1)
        });
        waiting.recv().unwrap();
        put(store, "a", "1");
        assert_eq!(watcher.join().unwrap()[0].key(), &key("a"));
    });
}

fn a_quiet_watch_ends_with_nothing(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(store, "a", "0");
    let mut watch = store.watch(&KeyRange::ALL, start).unwrap();
    assert_eq!(watch.next(Duration::from_millis(5)).unwrap(), []);
    put(store, "a", "1");
    assert_eq!(hear(watch.as_mut(), 1)[0].key(), &key("a"));
}

fn a_watch_of_forgotten_history_is_refused(subject: &dyn Subject) {
    let store = subject.store();
    let revisions: Vec<Revision> = (0..6).map(|round| put(store, "a", &round.to_string())).collect();
    store.compact(revisions[3]).unwrap();
    let refused = store.watch(&KeyRange::ALL, revisions[1]).and_then(|mut watch| watch.next(SOON));
    assert!(
        matches!(refused, Err(StoreError::Compacted { after, .. }) if after == revisions[1]),
        "{refused:?}"
    );

    let mut watch = store.watch(&KeyRange::ALL, revisions[3]).unwrap();
    hear(watch.as_mut(), 2);
    assert_eq!(all(store).len(), 1, "forgetting history has touched the entries");
    // What is not there yet cannot be forgotten.
    store.compact(Revision(revisions[5].0 + 100)).unwrap();
    let mut watch = store.watch(&KeyRange::ALL, revisions[5]).unwrap();
    put(store, "a", "6");
    hear(watch.as_mut(), 1);
}

fn a_watch_that_fell_behind_the_history_says_so_and_stays_so(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(store, "a", "0");
    let mut watch = store.watch(&KeyRange::ALL, start).unwrap();
    // More than any store holds back for a watch that is not called: 8 MiB, in transactions of 1 MiB.
    let revisions: Vec<Revision> = (0..8).map(|_| put(store, "a", &"x".repeat(VALUE_BYTES_MAX))).collect();
    store.compact(revisions[7]).unwrap();
    match watch.next(SOON) {
        Err(StoreError::Compacted { .. }) => {
            let again = watch.next(SOON);
            assert!(matches!(again, Err(StoreError::Compacted { .. })), "{again:?}");
        }
        // A store that pushes may have had them on the way already; but it leaves none out.
        Ok(events) => assert_eq!(events.first().map(Event::revision), Some(revisions[0])),
        Err(error) => panic!("{error}"),
    }
    let snapshot = store.range(&KeyRange::ALL).unwrap();
    let mut watch = store.watch(&KeyRange::ALL, snapshot.revision).unwrap();
    put(store, "a", "9");
    hear(watch.as_mut(), 1);
}

fn a_quiet_watch_outlives_the_history_of_others(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(store, "vm/a", "0");
    let mut watch = store.watch(&prefix("vm/"), start).unwrap();
    let last = (0..5).map(|round| put(store, "gpu/a", &round.to_string())).last().unwrap();
    assert_eq!(watch.next(NOW).unwrap(), []);
    store.compact(last).unwrap();
    put(store, "vm/a", "1");
    hear(watch.as_mut(), 1);
}

fn a_lease_that_runs_out_deletes_its_keys(subject: &dyn Subject) {
    let store = subject.store();
    let lease = store.grant(LEASE_TTL_MS_MIN).unwrap();
    assert!(lease.ttl_ms >= LEASE_TTL_MS_MIN);
    put(store, "stays", "1");
    let txn = Txn::new().put_leased(key("leader"), "me", lease.id).put_leased(key("other"), "me", lease.id);
    let revision = commit(store, txn);
    assert_eq!(store.get(&key("leader")).unwrap().unwrap().lease, Some(lease.id));
    let mut watch = store.watch(&KeyRange::ALL, revision).unwrap();

    subject.let_pass(lease.ttl_ms);
    assert!(hear(watch.as_mut(), 2).iter().all(|event| matches!(event, Event::Deleted { .. })));
    assert_eq!(all(store).len(), 1);
    let gone = store.keep_alive(lease.id);
    assert!(matches!(gone, Err(StoreError::LeaseGone { .. })), "{gone:?}");
}

fn a_lease_that_is_kept_alive_keeps_its_keys(subject: &dyn Subject) {
    let store = subject.store();
    let lease = store.grant(LEASE_TTL_MS_MIN).unwrap();
    commit(store, Txn::new().put_leased(key("leader"), "me", lease.id));
    for _ in 0..4 {
        subject.let_pass(lease.ttl_ms / 2);
        store.keep_alive(lease.id).unwrap();
    }
    assert!(store.get(&key("leader")).unwrap().is_some());
    subject.let_pass(lease.ttl_ms);
    assert_eq!(store.get(&key("leader")).unwrap(), None);
}

fn a_revoked_lease_deletes_its_keys_at_once_in_one_revision(subject: &dyn Subject) {
    let store = subject.store();
    let lease = store.grant(LEASE_TTL_MS_MAX).unwrap();
    let txn = Txn::new().put_leased(key("a"), "1", lease.id).put_leased(key("b"), "1", lease.id);
    let revision = commit(store, txn);
    let mut watch = store.watch(&KeyRange::ALL, revision).unwrap();
    store.revoke(lease.id).unwrap();
    assert_eq!(all(store), []);
    let heard = hear(watch.as_mut(), 2);
    assert_eq!(heard[0].revision(), heard[1].revision());
    assert!(heard[0].revision() > revision);
    assert!(matches!(store.revoke(lease.id), Err(StoreError::LeaseGone { .. })));
}

fn a_key_leaves_its_lease_when_it_is_put_without(subject: &dyn Subject) {
    let store = subject.store();
    let lease = store.grant(LEASE_TTL_MS_MAX).unwrap();
    let other = store.grant(LEASE_TTL_MS_MAX).unwrap();
    assert_ne!(lease.id, other.id);
    for name in ["freed", "moved", "kept"] {
        commit(store, Txn::new().put_leased(key(name), "1", lease.id));
    }
    put(store, "freed", "2");
    commit(store, Txn::new().put_leased(key("moved"), "2", other.id));
    store.revoke(lease.id).unwrap();
    let left: Vec<_> = all(store).into_iter().map(|entry| (entry.key.to_string(), entry.lease)).collect();
    assert_eq!(left, [("freed".to_owned(), None), ("moved".to_owned(), Some(other.id))]);
}

fn a_lease_that_is_gone_is_refused(subject: &dyn Subject) {
    let store = subject.store();
    let lease = store.grant(LEASE_TTL_MS_MIN).unwrap().id;
    store.revoke(lease).unwrap();
    let refusals = [
        store.keep_alive(lease),
        store.revoke(lease),
        store.commit(&Txn::new().put_leased(key("a"), "1", lease)).map(|_| ()),
    ];
    for refusal in refusals {
        assert!(
            matches!(refusal, Err(StoreError::LeaseGone { lease: gone }) if gone == lease),
            "{refusal:?}"
        );
    }
    assert_eq!(all(store), []);
}

fn a_lease_of_no_sensible_length_is_refused(subject: &dyn Subject) {
    for ttl_ms in [0, LEASE_TTL_MS_MIN - 1, LEASE_TTL_MS_MAX + 1, u64::MAX] {
        let refused = subject.store().grant(ttl_ms);
        assert!(matches!(refused, Err(StoreError::Limit { found, .. }) if found == ttl_ms), "{refused:?}");
    }
}

fn what_no_store_takes_is_refused_and_changes_nothing(subject: &dyn Subject) {
    let store = subject.store();
    put(store, "a", "1");
    let before = store.range(&KeyRange::ALL).unwrap();
    let many = |count| (0..count).map(|index: usize| key(&format!("k/{index}")));
    let half = TXN_BYTES_MAX / 2;
    let over = [
        Txn::new().put(key("a"), vec![0; VALUE_BYTES_MAX + 1]),
        many(OPS_MAX + 1).fold(Txn::new(), |txn, name| txn.put(name, "x")),
        many(COMPARES_MAX + 1).fold(Txn::new(), |txn, name| txn.expect(name, Expected::Absent)),
        Txn::new().put(key("a"), vec![0; half]).put(key("b"), vec![0; half]),
    ];
    for txn in over {
        let refused = store.commit(&txn);
        assert!(matches!(refused, Err(StoreError::Limit { found, max, .. }) if found > max), "{refused:?}");
    }
    let twice = [
        Txn::new().put(key("a"), "1").put(key("a"), "2"),
        Txn::new().put(key("a"), "1").delete(key("a")),
        Txn::new().delete(key("a")).delete(key("a")),
    ];
    for txn in twice {
        let refused = store.commit(&txn);
        assert!(
            matches!(&refused, Err(StoreError::DuplicateKey { key }) if key.as_str() == "a"),
            "{refused:?}"
        );
    }
    assert_eq!(store.range(&KeyRange::ALL).unwrap(), before);
}

fn the_largest_transaction_is_taken(subject: &dyn Subject) {
    let store = subject.store();
    commit(store, Txn::new().put(key("value"), vec![7; VALUE_BYTES_MAX]));
    assert_eq!(store.get(&key("value")).unwrap().unwrap().value, vec![7; VALUE_BYTES_MAX]);

    let longest = |index: usize| {
        let segment = "k".repeat(KEY_LEN_MAX / 4);
        key(&format!("{segment}/{segment}/{segment}/{index:0width$}", width = KEY_LEN_MAX / 4 - 3))
    };
    let value_len = TXN_BYTES_MAX / OPS_MAX - 2 * KEY_LEN_MAX;
    let txn = (0..OPS_MAX).fold(Txn::new(), |txn, index| {
        txn.expect(longest(index), Expected::Absent).put(longest(index), vec![1; value_len])
    });
    commit(store, txn);
    assert_eq!(all(store).len(), OPS_MAX + 1);
}

fn any_bytes_come_back_as_they_were(subject: &dyn Subject) {
    let store = subject.store();
    let values: [Vec<u8>; 4] =
        [vec![], vec![0], (0..=255).collect(), "naïve\0'; DROP TABLE entries;--".into()];
    for value in values {
        commit(store, Txn::new().put(key("a"), value.clone()));
        assert_eq!(store.get(&key("a")).unwrap().unwrap().value, value);
    }
}

fn threads_that_count_together_lose_nothing(subject: &dyn Subject) {
    const THREADS: usize = 4;
    const ROUNDS: usize = 25;
    let store = subject.store();
    put(store, "count", "0");
    let count = || loop {
        let entry = store.get(&key("count")).unwrap().unwrap();
        let next = String::from_utf8(entry.value).unwrap().parse::<usize>().unwrap() + 1;
        let txn =
            Txn::new().expect(key("count"), Expected::At(entry.modified)).put(key("count"), next.to_string());
        if matches!(store.commit(&txn).unwrap(), Outcome::Committed(_)) {
            return;
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..ROUNDS).for_each(|_| count()));
        }
    });
    assert_eq!(store.get(&key("count")).unwrap().unwrap().value, (THREADS * ROUNDS).to_string().as_bytes());
}
