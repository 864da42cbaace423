//! What a host reads of the plan: its own part, found by pointers, and of VMs that were not touched nothing anew.

use std::sync::Arc;

use tranche_core::liveness::Heartbeat;
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::{DownBy, HostPlan, Standing, VmGoal};
use tranche_core::spec::HostSpec;
use tranche_store::{Beaten, KeyRange, Loaded, MemoryStore, Repository, Saved, State, Store, Terms, Txn};

use crate::fleet::{fleet, host, vm_name};
use crate::subject::key;

fn other() -> HostName {
    "node2".parse().unwrap()
}

fn stored(state: State) -> (Arc<MemoryStore>, Repository, Loaded) {
    let store = Arc::new(MemoryStore::default());
    let repository = Repository::new(Arc::clone(&store) as Arc<dyn Store>);
    let loaded = save(&repository, Loaded::default(), state);
    (store, repository, loaded)
}

fn save(repository: &Repository, loaded: Loaded, next: State) -> Loaded {
    match repository.commit(loaded, next, &Terms::default()).unwrap() {
        Saved::Committed(loaded) => loaded,
        Saved::Conflict(conflict) => panic!("{conflict}"),
    }
}

fn pointers(store: &dyn Store) -> Vec<String> {
    let prefix: KeyRange = "home/".parse().unwrap();
    store.range(&prefix).unwrap().entries.iter().map(|entry| entry.key.to_string()).collect()
}

#[test]
fn a_host_reads_its_own_vms_and_those_whose_domains_it_has() {
    let (store, repository, loaded) = stored(fleet(3));
    let mut next = loaded.state.clone();
    next.plan.vms.get_mut(&vm_name(1)).unwrap().host = other();
    let loaded = save(&repository, loaded, next);
    let names = |host: &HostName, domains: &[_]| {
        let part = repository.part(host, domains, None).unwrap();
        assert_eq!(part.plan.vms.keys().collect::<Vec<_>>(), part.spec.vms.keys().collect::<Vec<_>>());
        part.plan.vms.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(names(&host(), &[]), [vm_name(0), vm_name(2)]);
    assert_eq!(names(&host(), &[vm_name(1)]), [vm_name(0), vm_name(1), vm_name(2)]);
    assert_eq!(names(&other(), &[]), [vm_name(1)]);
    let mut next = loaded.state.clone();
    next.plan.vms.remove(&vm_name(1));
    let _ = save(&repository, loaded, next);
    assert_eq!(names(&other(), &[]), []);
    assert_eq!(pointers(&*store), ["home/node1/desk-0000", "home/node1/desk-0002"]);
}

#[test]
fn what_was_touched_is_read_anew_and_the_rest_is_as_it_was_known() {
    let (store, repository, loaded) = stored(fleet(3));
    let known = repository.part(&host(), &[], None).unwrap();
    let mut next = loaded.state.clone();
    next.plan.vms.get_mut(&vm_name(0)).unwrap().goal = VmGoal::Stop;
    next.spec.vms.get_mut(&vm_name(1)).unwrap().serial = 9;
    let _ = save(&repository, loaded, next.clone());
    // Whoever read the third one again would find that it cannot be read.
    let _ = store.commit(&Txn::new().put(key("plan/vm/desk-0002"), "no record")).unwrap();
    let part = repository.part(&host(), &[], Some(&known)).unwrap();
    assert_eq!((&part.plan.vms, &part.spec.vms), (&next.plan.vms, &next.spec.vms));
    assert!(repository.part(&host(), &[], None).is_err());
}

#[test]
fn pointers_that_are_missing_or_lead_nowhere_are_mended() {
    let (store, repository, loaded) = stored(fleet(2));
    let gone = Txn::new().delete(key("home/node1/desk-0000")).put(key("home/node2/desk-0001"), "{}");
    let _ = store.commit(&gone.put(key("home/node1/nobody"), "{}")).unwrap();
    repository.mend_homes(&loaded).unwrap();
    assert_eq!(pointers(&*store), ["home/node1/desk-0000", "home/node1/desk-0001"]);
}

/// A thousand hosts say once a second that they live: who leads would never store anything if that stood against it.
#[test]
fn a_host_that_speaks_meanwhile_is_taken_up_and_is_not_given_up() {
    let (_, repository, loaded) = stored(State::default());
    let speaks = |count| {
        let mut stands = repository.stands(&host()).unwrap();
        assert_eq!(repository.beat(&host(), &heartbeat(count), &mut stands).unwrap(), Beaten::Acknowledged);
    };
    speaks(1);
    let heard = repository.beats().unwrap();
    let terms = Terms {
        always: Vec::new(),
        silence: heard.of.into_iter().map(|(host, beat)| (host, beat.unchanged)).collect(),
    };
    speaks(2);
    let standing = |standing| {
        let mut next = loaded.state.clone();
        next.plan.hosts.insert(host(), HostPlan { standing, ..HostPlan::default() });
        repository.commit(loaded.clone(), next, &terms).unwrap()
    };
    let since = Timestamp(1);
    for silent in
        [Standing::Lost { since }, Standing::Fencing { since }, Standing::Down { since, by: DownBy::Agent }]
    {
        assert!(matches!(standing(silent), Saved::Conflict(conflict) if conflict.key == key("beat/node1")));
    }
    assert!(matches!(standing(Standing::Up), Saved::Committed(_)));
}

/// A write that timed out may arrive seconds later.
#[test]
fn a_heartbeat_that_arrives_late_does_not_take_the_place_of_one_that_was_acknowledged_since() {
    let (store, repository, _) = stored(State::default());
    let mut stands = repository.stands(&host()).unwrap();
    let mut as_it_was_sent = stands.clone();
    assert_eq!(repository.beat(&host(), &heartbeat(2), &mut stands).unwrap(), Beaten::Acknowledged);
    let armed = Heartbeat { armed: true, ..heartbeat(1) };
    assert_eq!(repository.beat(&host(), &armed, &mut as_it_was_sent).unwrap(), Beaten::Refused);
    assert_eq!(repository.beats().unwrap().of[&host()].heartbeat, heartbeat(2));
    assert_eq!(repository.beat(&host(), &heartbeat(3), &mut stands).unwrap(), Beaten::Acknowledged);
    // Whoever does not know what arrived looks, and goes on from there.
    let mut looked = repository.stands(&host()).unwrap();
    assert_eq!(looked.revision, store.range(&KeyRange::ALL).unwrap().revision);
    assert_eq!(repository.beat(&host(), &heartbeat(4), &mut looked).unwrap(), Beaten::Acknowledged);
}

#[test]
fn a_probe_is_a_write_that_no_record_and_no_heartbeat_is_touched_by() {
    let (_, repository, loaded) = stored(State::default());
    let before = repository.beats().unwrap();
    repository.probe(&host()).unwrap();
    let after = repository.beats().unwrap();
    assert!(after.revision > before.revision && after.of.is_empty());
    assert_eq!(repository.load().unwrap().state, loaded.state);
    repository.forget_beat(&host()).unwrap();
}

#[test]
fn the_members_their_standing_and_the_policies_are_read_without_all_the_rest() {
    let mut state = State::default();
    let leaves = HostPlan { departs: true, epoch: 2, ..HostPlan::default() };
    for name in ["node1", "node2"] {
        state.spec.hosts.insert(name.parse().unwrap(), HostSpec::new(Timestamp(1)));
        state.plan.hosts.insert(name.parse().unwrap(), leaves.clone());
    }
    state.spec.policy.failover.paused = true;
    state.plan.generations.insert(host(), 7);
    let (_, repository, _) = stored(state.clone());
    let (spec, plan) = repository.members().unwrap();
    assert_eq!((&spec.hosts, &spec.policy), (&state.spec.hosts, &state.spec.policy));
    assert_eq!((&plan.hosts, plan.generations.len()), (&state.plan.hosts, 0));
}

fn heartbeat(count: u64) -> Heartbeat {
    Heartbeat {
        boot_id: "boot".to_owned(),
        count,
        epoch: 0,
        armed: false,
        bound_ms: None,
        farewell: false,
        unattended: false,
        able: false,
        version: "1".to_owned(),
        sent_at: Timestamp(count),
    }
}
