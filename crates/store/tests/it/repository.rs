//! Tranche's records: what is read back, what collides, what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tranche_core::bookings::Bookings;
use tranche_core::finding::{Code, Subject};
use tranche_core::name::{GpuKey, HostName, OperationId, SlotKey, Timestamp, VmName};
use tranche_core::operation::{Goal, OPERATIONS_KEPT_MAX, Operation, OperationState};
use tranche_core::spec::{PlacementPolicy, Run};
use tranche_store::{
    Event, KeyRange, Loaded, MemoryStore, OPS_MAX, Repository, RepositoryError, Saved, State, Store,
    StoreError, Terms, Txn, VALUE_BYTES_MAX,
};
use uuid::Uuid;

use crate::fleet::{book, fleet, gpu, host, slot, vm_name};
use crate::subject::{all, commit, key};

fn repository() -> (Arc<MemoryStore>, Repository) {
    let store = Arc::new(MemoryStore::default());
    (store.clone(), Repository::new(store))
}

#[track_caller]
fn save(repository: &Repository, loaded: Loaded, next: State) -> Loaded {
    match repository.commit(loaded, next, &Terms::default()).unwrap() {
        Saved::Committed(loaded) => loaded,
        Saved::Conflict(conflict) => panic!("{conflict}"),
    }
}

/// Loads, changes and saves.
#[track_caller]
fn change(repository: &Repository, change: impl FnOnce(&mut State)) -> Loaded {
    let loaded = repository.load().unwrap();
    let mut next = loaded.state.clone();
    change(&mut next);
    save(repository, loaded, next)
}

fn operation(number: u128, state: OperationState) -> Operation {
    Operation {
        id: OperationId(Uuid::from_u128(number)),
        title: "start VM desk-0000".to_owned(),
        subject: Subject::Vm(vm_name(0)),
        goal: Goal::VmRuns { vm: vm_name(0), serial: 1 },
        created_at: Timestamp(1),
        updated_at: Timestamp(u64::try_from(number).unwrap()),
        state,
        progress_percent: 0,
        findings: Vec::new(),
        log: Vec::new(),
    }
}

#[test]
fn a_state_is_read_back_as_it_was_stored() {
    let (_, repository) = repository();
    assert_eq!(repository.load().unwrap().state, State::default());
    let mut state = fleet(40);
    state.spec.policy.placement = PlacementPolicy::Spread;
    let started = operation(1, OperationState::Running);
    state.operations.insert(started.id, started);
    let saved = save(&repository, repository.load().unwrap(), state.clone());
    let loaded = repository.load().unwrap();
    assert_eq!(loaded.state, state);
    assert_eq!((saved.state, saved.revision), (state, loaded.revision));
}

#[test]
fn only_what_differs_is_written() {
    let (store, repository) = repository();
    let first = change(&repository, |state| *state = fleet(3));
    let same = save(&repository, first.clone(), first.state.clone());
    assert_eq!(same.revision, first.revision);
    let mut watch = store.watch(&KeyRange::ALL, first.revision).unwrap();
    change(&repository, |state| state.spec.vms.get_mut(&vm_name(1)).unwrap().run = Run::Stopped);
    let touched: Vec<String> =
        watch.next(std::time::Duration::ZERO).unwrap().iter().map(|event| event.key().to_string()).collect();
    assert_eq!(touched, ["spec/vm/desk-0001", "home/node1/desk-0001"]);
}

#[test]
fn what_is_gone_from_the_state_is_gone_from_the_store() {
    let (store, repository) = repository();
    change(&repository, |state| *state = fleet(3));
    change(&repository, |state| {
        state.spec.vms.remove(&vm_name(1));
        state.plan.vms.remove(&vm_name(1));
        state.plan.bookings.remove(&slot(1));
    });
    let left = repository.load().unwrap().state;
    assert_eq!((left.spec.vms.len(), left.plan.vms.len(), left.plan.bookings.len()), (2, 2, 2));
    change(&repository, |state| *state = State::default());
    assert_eq!(all(store.as_ref()), []);
}

#[test]
fn a_saved_state_can_be_changed_again_without_loading() {
    let (_, repository) = repository();
    let mut loaded = change(&repository, |state| *state = fleet(2));
    for serial in 2..5 {
        let mut next = loaded.state.clone();
        next.spec.vms.get_mut(&vm_name(0)).unwrap().serial = serial;
        if serial == 3 {
            next.plan.bookings.remove(&slot(1));
        } else {
            book(&mut next, 1, slot(1));
        }
        loaded = save(&repository, loaded, next);
    }
    assert_eq!(repository.load().unwrap().state, loaded.state);
}

#[test]
fn changes_of_different_things_do_not_collide() {
    let (_, repository) = repository();
    change(&repository, |state| *state = fleet(2));
    let (one, other) = (repository.load().unwrap(), repository.load().unwrap());
    for (index, loaded) in [one, other].into_iter().enumerate() {
        let mut next = loaded.state.clone();
        next.spec.vms.get_mut(&vm_name(index)).unwrap().run = Run::Stopped;
        save(&repository, loaded, next);
    }
    let vms = &repository.load().unwrap().state.spec.vms;
    assert!(vms.values().all(|vm| vm.run == Run::Stopped), "one change has undone the other");
}

/// Lets two make a change from the same state, and returns the key about which the second one is told.
#[track_caller]
fn collision(repository: &Repository, change: impl Fn(&mut State, usize)) -> String {
    let (one, other) = (repository.load().unwrap(), repository.load().unwrap());
    let next = |loaded: &Loaded, who| {
        let mut next = loaded.state.clone();
        change(&mut next, who);
        next
    };
    let first = next(&one, 0);
    save(repository, one, first.clone());
    let second = next(&other, 1);
    let Saved::Conflict(conflict) = repository.commit(other, second, &Terms::default()).unwrap() else {
        panic!("the second change was taken");
    };
    assert_eq!(repository.load().unwrap().state, first, "the second change has left something");
    conflict.key.to_string()
}

#[test]
fn two_changes_of_one_thing_collide() {
    let (_, repository) = repository();
    change(&repository, |state| *state = fleet(2));
    let collided = collision(&repository, |state, who| {
        state.spec.vms.get_mut(&vm_name(0)).unwrap().serial = 10 + who as u64;
    });
    assert_eq!(collided, "spec/vm/desk-0000");
    let collided = collision(&repository, |state, who| match who {
        0 => drop(state.spec.vms.remove(&vm_name(1))),
        _ => state.spec.vms.get_mut(&vm_name(1)).unwrap().serial = 12,
    });
    assert_eq!(collided, "spec/vm/desk-0001");
    let collided = collision(&repository, |state, who| {
        state.spec.policy.placement = [PlacementPolicy::Spread, PlacementPolicy::Pack][who];
        state.plan.generations.insert(host(), 20 + who as u64);
    });
    assert_eq!(collided, "plan/generation/node1");
}

#[test]
fn two_bookings_of_one_partition_collide() {
    let (_, repository) = repository();
    change(&repository, |state| *state = fleet(2));
    let free: SlotKey = format!("{}/15", gpu(0)).parse().unwrap();
    let collided = collision(&repository, |state, who| book(state, who, free.clone()));
    assert_eq!(collided, format!("plan/booking/{free}"));
}

#[test]
fn partitions_change_hands_in_one_transaction() {
    let (_, repository) = repository();
    let before = change(&repository, |state| *state = fleet(2));
    let after = change(&repository, |state| {
        book(state, 0, slot(1));
        book(state, 1, slot(0));
    });
    assert_eq!(after.revision.0, before.revision.0 + 1);
    let held = &repository.load().unwrap().state.plan.bookings;
    assert_eq!((&held[&slot(1)].vm, &held[&slot(0)].vm), (&vm_name(0), &vm_name(1)));
}

#[test]
fn names_that_differ_in_anything_have_records_of_their_own() {
    let (_, repository) = repository();
    let vm = fleet(1).spec.vms[&vm_name(0)].clone();
    let names = ["a", "A", "a.", "a-", "a_", "a.b", "0", "00", "spec", "policy", &"x".repeat(63)];
    let vms: tranche_core::map::Map<VmName, _> = names
        .iter()
        .enumerate()
        .map(|(serial, name)| {
            (name.parse().unwrap(), tranche_core::spec::VmSpec { serial: serial as u64, ..vm.clone() })
        })
        .collect();
    change(&repository, |state| state.spec.vms = vms.clone());
    assert_eq!(repository.load().unwrap().state.spec.vms, vms);
}

proptest! {
    #[test]
    fn any_legal_name_comes_back_from_its_key(
        vms in proptest::collection::btree_set("[A-Za-z0-9][A-Za-z0-9._-]{0,62}", 1..5),
        hosts in proptest::collection::btree_set("[a-z0-9]{1,63}(\\.[a-z0-9]{1,20}){0,5}", 1..3),
        address in "([0-9a-f]{4}|1[0-9a-f]{4}):[0-9a-f]{2}:[01][0-9a-f]\\.[0-7]|[A-Za-z0-9][A-Za-z0-9_-]{0,62}",
        part in "whole|0|[1-9][0-9]{0,3}",
    ) {
        let (_, repository) = repository();
        let sample = fleet(1);
        let mut state = State::default();
        for name in &vms {
            let name: VmName = name.parse().unwrap();
            state.spec.vms.insert(name.clone(), sample.spec.vms[&vm_name(0)].clone());
            state.plan.vms.insert(name, sample.plan.vms[&vm_name(0)].clone());
        }
        for name in &hosts {
            let host: HostName = name.parse().unwrap();
            let gpu_key: GpuKey = format!("{host}/{address}").parse().unwrap();
            state.inventory.insert(host.clone(), sample.inventory[&self::host()].clone());
            state.plan.generations.insert(host, 1);
            state.spec.gpus.insert(gpu_key.clone(), sample.spec.gpus[&gpu(0)].clone());
            state.plan.gpus.insert(gpu_key.clone(), sample.plan.gpus[&gpu(0)].clone());
            let slot_key: SlotKey = format!("{gpu_key}/{part}").parse().unwrap();
            state.plan.bookings.insert(slot_key, sample.plan.bookings[&slot(0)].clone());
        }
        save(&repository, repository.load().unwrap(), state.clone());
        prop_assert_eq!(repository.load().unwrap().state, state);
    }
}

#[test]
fn a_large_change_is_written_in_few_transactions_that_keep_a_vm_together() {
    let (store, repository) = repository();
    let mut watch = store.watch(&KeyRange::ALL, repository.load().unwrap().revision).unwrap();
    let loaded = change(&repository, |state| *state = fleet(500));
    let events = watch.next(std::time::Duration::ZERO).unwrap();
    let revisions: BTreeMap<String, u64> =
        events.iter().map(|event| (event.key().to_string(), event.revision().0)).collect();
    assert!(loaded.revision.0 <= (events.len() / OPS_MAX + 2) as u64, "{} transactions", loaded.revision);
    for index in 0..500 {
        let of = |key: String| revisions[&key];
        let planned = of(format!("plan/vm/{}", vm_name(index)));
        assert_eq!(
            of(format!("plan/booking/{}", slot(index))),
            planned,
            "a booking came apart from its plan"
        );
        assert!(of(format!("spec/vm/{}", vm_name(index))) <= planned);
        assert!(of(format!("plan/gpu/{}", gpu(index))) <= planned);
    }
}

#[test]
fn what_is_to_take_effect_at_once_is_one_revision_or_is_not_stored() {
    let (_, repository) = repository();
    let empty = repository.load().unwrap();
    let at_once = |loaded: &Loaded, next| repository.commit_at_once(loaded.clone(), next, &Terms::default());
    let Some(Saved::Committed(few)) = at_once(&empty, fleet(10)).unwrap() else { panic!("it fits") };
    assert_eq!(few.revision.0, empty.revision.0 + 1);
    assert!(at_once(&few, fleet(500)).unwrap().is_none());
    assert_eq!(repository.load().unwrap().state, few.state, "nothing of it is stored");
    let conflict = at_once(&empty, fleet(10)).unwrap();
    assert!(matches!(conflict, Some(Saved::Conflict(_))), "somebody else was quicker");
}

/// Every state that a crash between two transactions of one commit can leave.
fn states_between(before: &State, after: &State) -> Vec<State> {
    let (store, repository) = repository();
    save(&repository, repository.load().unwrap(), before.clone());
    let start = repository.load().unwrap();
    let mut watch = store.watch(&KeyRange::ALL, start.revision).unwrap();
    save(&repository, start, after.clone());

    let mut events = watch.next(std::time::Duration::ZERO).unwrap();
    let replayed = Arc::new(MemoryStore::default());
    let replay = Repository::new(replayed.clone());
    save(&replay, replay.load().unwrap(), before.clone());
    let mut states = Vec::new();
    while let Some(revision) = events.first().map(Event::revision) {
        let rest = events.split_off(events.partition_point(|event| event.revision() == revision));
        let txn = events.iter().fold(Txn::new(), |txn, event| match event {
            Event::Put(entry) => txn.put(entry.key.clone(), entry.value.clone()),
            Event::Deleted { key, .. } => txn.delete(key.clone()),
        });
        commit(replayed.as_ref(), txn);
        states.push(replay.load().unwrap().state);
        events = rest;
    }
    states
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_crash_inside_of_a_large_commit_gives_no_vm_two_partitions(
        rotation in 1..150usize,
        leavers in proptest::collection::btree_set(0..150usize, 0..80),
    ) {
        const VMS: usize = 150;
        let before = fleet(VMS);
        let mut after = before.clone();
        after.plan.bookings = Bookings::default();
        for index in (0..VMS).filter(|index| !leavers.contains(index)) {
            book(&mut after, index, slot((index + rotation) % VMS));
        }
        for index in &leavers {
            after.plan.vms.remove(&vm_name(*index));
            after.spec.vms.remove(&vm_name(*index));
        }
        let states = states_between(&before, &after);
        prop_assert!(states.len() > 1, "everything fitted into one transaction");
        for state in &states {
            let mut holders = std::collections::BTreeSet::new();
            for booking in state.plan.bookings.values() {
                prop_assert!(holders.insert(&booking.vm), "{} holds two", booking.vm);
            }
            for vm in state.plan.vms.keys() {
                prop_assert!(state.spec.vms.contains_key(vm), "{vm} is planned without a wish");
            }
        }
        prop_assert_eq!(states.last(), Some(&after));
    }
}

#[test]
fn operations_that_are_over_are_kept_up_to_a_number_the_newest_first() {
    let (_, repository) = repository();
    let surplus = 5;
    let numbers = 1..=(OPERATIONS_KEPT_MAX + surplus) as u128;
    let mut over: Vec<Operation> =
        numbers.map(|number| operation(number, OperationState::Succeeded)).collect();
    let mut running = operation(9_999_999, OperationState::Running);
    running.updated_at = Timestamp(0);
    over.push(running.clone());
    let saved = change(&repository, |state| {
        *state.operations = over.into_iter().map(|one| (one.id, one)).collect();
    });
    let kept = repository.load().unwrap().state.operations;
    assert_eq!(saved.state.operations, kept);
    assert_eq!(kept.len(), OPERATIONS_KEPT_MAX + 1);
    assert!(kept.contains_key(&running.id));
    assert!(!kept.contains_key(&operation(surplus as u128, OperationState::Failed).id));
    assert!(kept.contains_key(&operation(surplus as u128 + 1, OperationState::Failed).id));
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_once_it_is_set_aside_the_rest_is_read() {
    let malformed = [
        ("spec/vm/a", "{}"),
        ("spec/vm/a", r#"{"v":1,"data":{"id":"x"}}"#),
        ("spec/policy", r#"{"v":1,"data":{"placement":"pack","unknown":1}}"#),
        ("spec/policy", r#"{"v":1,"data":{"placement":"pack","placement":"pack"}}"#),
        ("plan/generation/node1", r#"{"v":1,"data":-1}"#),
        ("plan/generation/node1", "not json"),
        ("plan/generation/Node1", r#"{"v":1,"data":1}"#),
        ("plan/booking/node1/41:00.0/3", r#"{"v":1,"data":1}"#),
        ("plan/booking/node1/0000:41:00.0/03", r#"{"v":1,"data":1}"#),
        ("plan/other/node1", r#"{"v":1,"data":1}"#),
        ("spec", r#"{"v":1,"data":1}"#),
        ("operation/1", r#"{"v":1,"data":1}"#),
    ];
    for (name, value) in malformed {
        let (store, repository) = repository();
        commit(store.as_ref(), Txn::new().put(key(name), value));
        let error = repository.load().unwrap_err();
        assert!(
            matches!(&error, RepositoryError::Malformed { key, .. } if key.as_str() == name),
            "{name} {value}: {error:?}"
        );
        let finding = error.finding();
        assert!(finding.message.contains(name) && finding.code == Code::StoreCorrupt, "{finding}");
        assert!(finding.hint.contains(&format!("tranched --set-aside {name}'")), "{finding}");

        let aside = repository.set_aside(&key(name)).unwrap().expect("it is there");
        assert_eq!(store.get(&aside).unwrap().unwrap().value, value.as_bytes());
        assert_eq!(repository.load().unwrap().state, State::default());
        assert_eq!(repository.set_aside(&key(name)).unwrap(), None);
    }
}

#[test]
fn a_record_of_a_later_version_is_named() {
    let (store, repository) = repository();
    commit(store.as_ref(), Txn::new().put(key("spec/vm/a"), r#"{"v":2,"shape":"unknown"}"#));
    let error = repository.load().unwrap_err();
    assert!(matches!(&error, RepositoryError::NewerVersion { found: 2, supported: 1, .. }), "{error:?}");
    assert_eq!(error.finding().code, Code::StoreNewerVersion);
    assert!(error.finding().message.contains("spec/vm/a"));
}

#[test]
fn keys_of_others_are_left_alone() {
    let (store, repository) = repository();
    commit(store.as_ref(), Txn::new().put(key("leader"), "me").put(key("heartbeat/node1"), "7"));
    change(&repository, |state| *state = fleet(1));
    change(&repository, |state| *state = State::default());
    let left: Vec<String> = all(store.as_ref()).iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(left, ["heartbeat/node1", "leader"]);
}

#[test]
fn a_record_that_is_too_large_is_refused_by_name_and_nothing_is_stored() {
    let (store, repository) = repository();
    let loaded = repository.load().unwrap();
    let mut next = fleet(1);
    let reported = next.inventory.get_mut(&host()).unwrap();
    reported.system.cpu_model = "x".repeat(VALUE_BYTES_MAX);
    let error = repository.commit(loaded, next, &Terms::default()).unwrap_err();
    assert!(matches!(&error, RepositoryError::Store(StoreError::Limit { .. })), "{error:?}");
    assert!(error.finding().message.contains("inventory/node1"), "{}", error.finding());
    assert_eq!(all(store.as_ref()), []);
}

#[test]
fn a_watch_hears_of_records_that_others_change_and_of_nothing_else() {
    let (store, repository) = repository();
    let loaded = change(&repository, |state| *state = fleet(1));
    let mut watch = repository.watch(&loaded).unwrap();
    // Heartbeats of a fleet are many.
    commit(store.as_ref(), Txn::new().put(key("beat/node1"), "{}"));
    change(&repository, |state| drop(state.spec.vms.remove(&vm_name(0))));
    let heard = watch.next(std::time::Duration::ZERO).unwrap();
    let heard: Vec<&str> = heard.iter().map(|event| event.key().as_str()).collect();
    assert_eq!(heard, ["spec/vm/desk-0000"]);
}

/// What version 1 of every record looks like in the store. Should this fail because a type of the core has changed,
/// stores in the field look like this file all the same: raise the record's version and say how the old one becomes
/// the new one (see `repository/stored.rs`), and leave the file as it is.
#[test]
fn records_of_version_1_are_read_and_written_as_ever() {
    let samples: BTreeMap<String, String> = include_str!("records-v1.txt")
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(samples.len(), 16);
    let (store, old) = repository();
    for (name, value) in &samples {
        commit(store.as_ref(), Txn::new().put(key(name), value.as_str()));
    }
    let loaded = old.load().unwrap();
    let (store, new) = repository();
    save(&new, new.load().unwrap(), loaded.state);
    // Pointers are no records; they are made anew where they are missing.
    let mut written = all(store.as_ref());
    written.retain(|entry| !entry.key.as_str().starts_with("home/"));
    assert_eq!(written.len(), samples.len());
    for entry in written {
        let value = String::from_utf8(entry.value).unwrap();
        assert_eq!(samples.get(entry.key.as_str()), Some(&value), "{}", entry.key);
    }
}
