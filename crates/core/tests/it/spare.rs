//! Spare capacity, and what it says to VMs that are to start.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tranche_core::capacity::{Capacity, capacity};
use tranche_core::change::{Change, State, admit};
use tranche_core::finding::{Code, Severity};
use tranche_core::inventory::Hypervisor;
use tranche_core::name::*;
use tranche_core::plan::VmGoal;
use tranche_core::planner;
use tranche_core::spec::*;

use crate::fleet::{Fleet, model_domain, node};
use crate::world::vm;

const ANY: Request = Request::ANY_PARTITION;

fn state(fleet: &Fleet) -> State<'_> {
    State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory }
}

fn ask(fleet: &Fleet, without: &[usize]) -> Capacity {
    capacity(state(fleet), &without.iter().map(|number| node(*number)).collect()).unwrap()
}

/// So many VMs on each host, in turn.
fn with_vms(mut fleet: Fleet, per_host: &[usize]) -> Fleet {
    for (at, count) in per_host.iter().enumerate() {
        for index in 0..*count {
            let name = format!("vm{}-{index}", at + 1);
            fleet.add(&name, ANY);
            assert!(fleet.run_on(&name, &node(at + 1)));
        }
    }
    fleet
}

#[test]
fn free_partitions_are_counted_by_size_and_by_host() {
    let fleet = with_vms(Fleet::new(2, 1, 4), &[3, 0]);
    let capacity = ask(&fleet, &[]);
    assert_eq!(capacity.sizes.len(), 1);
    assert_eq!((capacity.sizes[0].total, capacity.sizes[0].free), (8, 5));
    let free: Vec<_> = capacity.hosts.iter().map(|host| (host.free_slots, host.protected)).collect();
    assert_eq!(free, [(1, 3), (4, 0)]);
    assert_eq!(capacity.hosts[0].free_memory_mib, Some(65_536 - 3 * 512));
    assert!(capacity.survives_any);
}

#[test]
fn a_host_that_the_others_could_not_replace_is_told_with_the_vms_that_would_be_left_over() {
    let mut fleet = with_vms(Fleet::new(3, 1, 4), &[4, 3, 3]);
    fleet.spec.vms.get_mut(&vm("vm1-3")).unwrap().availability.priority = 900;
    let capacity = ask(&fleet, &[]);
    assert!(!capacity.survives_any);
    let left: Vec<_> = capacity.hosts[0].stranded.iter().map(|stranded| stranded.vm.to_string()).collect();
    assert_eq!(left, ["vm1-1", "vm1-2"], "the important one and the oldest find room");
    assert_eq!(capacity.hosts[0].stranded[0].why.code, Code::NoFreePartition);
    for stranded in ["vm1-1", "vm1-2"] {
        fleet.spec.vms.get_mut(&vm(stranded)).unwrap().availability.failover = Failover::Stay;
    }
    assert_eq!(ask(&fleet, &[]).hosts[0].stranded, [], "a VM that is to stay needs no room elsewhere");
}

#[test]
fn rules_bind_vms_that_start_elsewhere_too() {
    let mut fleet = with_vms(Fleet::new(2, 1, 4), &[1, 1]);
    assert!(ask(&fleet, &[]).survives_any);
    let vms = BTreeSet::from([vm("vm1-0"), vm("vm2-0")]);
    let apart = Rule::Vms { vms, kind: Company::Apart, strict: true };
    fleet.spec.rules.insert("apart".parse().unwrap(), apart);
    let capacity = ask(&fleet, &[]);
    assert_eq!(capacity.hosts[0].stranded[0].why.code, Code::RuleWaits);
    assert_eq!(capacity.hosts[1].stranded.len(), 1);
}

#[test]
fn without_a_host_its_vms_are_counted_where_they_would_run() {
    let fleet = with_vms(Fleet::new(3, 1, 4), &[2, 2, 2]);
    assert!(ask(&fleet, &[]).survives_any);
    let capacity = ask(&fleet, &[3]);
    assert_eq!(capacity.stranded, []);
    assert_eq!(capacity.hosts.len(), 2);
    assert_eq!((capacity.sizes[0].total, capacity.sizes[0].free), (8, 2));
    assert!(!capacity.survives_any, "after one loss there is no room for a second");
    let capacity = ask(&fleet, &[2, 3]);
    assert_eq!(capacity.stranded.len(), 2);
    let unknown = BTreeSet::from([node(9)]);
    assert!(tranche_core::capacity::capacity(state(&fleet), &unknown).is_err());
}

#[test]
fn a_vm_that_takes_the_spare_room_is_refused_warned_of_or_let_through_by_policy() {
    let mut fleet = with_vms(Fleet::new(2, 1, 4), &[2, 2]);
    fleet.add("more", ANY).run = Run::Stopped;
    let start = Change::StartVm { name: vm("more") };
    for (policy, severity) in [
        (Admission::Off, None),
        (Admission::Warn, Some(Severity::Warning)),
        (Admission::Enforce, Some(Severity::Error)),
    ] {
        fleet.spec.policy.admission = policy;
        let answer = admit(&start, state(&fleet), VmId(uuid::Uuid::nil()), Timestamp(9));
        assert_eq!(answer.is_ok(), policy != Admission::Enforce);
        let findings = answer.map_or_else(|refusal| refusal, |admitted| admitted.findings);
        let told = findings.iter().find(|finding| finding.code == Code::CapacityShort);
        assert_eq!(told.map(|finding| finding.severity), severity, "{policy:?}");
    }
}

#[test]
fn a_vm_that_is_off_and_restarted_is_asked_for_as_if_it_were_started() {
    let mut fleet = with_vms(Fleet::new(2, 1, 4), &[2, 2]);
    fleet.spec.policy.admission = Admission::Enforce;
    fleet.add("more", ANY).run = Run::Stopped;
    for force in [false, true] {
        let restart = |name: &str| {
            let change = Change::RestartVm { name: vm(name), force };
            admit(&change, state(&fleet), VmId(uuid::Uuid::nil()), Timestamp(9))
        };
        let refusal = restart("more").unwrap_err();
        assert_eq!(refusal[0].code, Code::CapacityShort, "{refusal:?}");
        assert_eq!(restart("vm1-0").unwrap().findings, [], "one that runs takes nothing more");
    }
}

#[test]
fn where_a_loss_cannot_be_made_good_anyway_a_vm_that_makes_it_no_worse_is_let_in() {
    let mut fleet = with_vms(Fleet::new(1, 1, 4), &[2]);
    fleet.spec.policy.admission = Admission::Enforce;
    fleet.add("more", ANY).run = Run::Stopped;
    fleet.spec.vms.get_mut(&vm("more")).unwrap().availability.failover = Failover::Stay;
    let answer =
        admit(&Change::StartVm { name: vm("more") }, state(&fleet), VmId(uuid::Uuid::nil()), Timestamp(9));
    assert_eq!(answer.unwrap().findings, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What is said of a host's death is what the planner does when it dies.
    #[test]
    fn the_vms_that_are_said_to_be_left_over_are_those_that_wait_when_the_host_dies(
        counts in prop::collection::vec(0usize..5, 4),
        priorities in prop::collection::vec(0u16..3, 20),
        sizes in prop::collection::vec(prop::sample::select(vec![(512, 1), (6_000, 2), (15_500, 1), (9_000, 3)]), 16),
        apart in prop::collection::btree_set(0usize..16, 0..6),
        dead in 1usize..5,
    ) {
        let mut fleet = with_vms(Fleet::new(4, 1, 4), &counts);
        let mut priorities = priorities.into_iter();
        fleet.spec.vms.change_each(|_, spec| {
            if let Some(priority) = priorities.next() {
                spec.availability.priority = priority;
            }
        });
        let mut sizes = sizes.into_iter();
        fleet.spec.vms.change_each(|_, spec| {
            if let (VmSource::Made(hardware), Some((memory_mib, vcpus))) = (&mut spec.source, sizes.next()) {
                (hardware.memory_mib, hardware.vcpus) = (memory_mib, vcpus);
            }
        });
        let names: Vec<VmName> = fleet.spec.vms.keys().cloned().collect();
        let vms: BTreeSet<VmName> = apart.iter().filter_map(|at| names.get(*at).cloned()).collect();
        if vms.len() > 1 {
            let rule = Rule::Vms { vms, kind: Company::Apart, strict: true };
            fleet.spec.rules.insert("apart".parse().unwrap(), rule);
        }
        let before = ask(&fleet, &[]);
        let said: BTreeSet<&VmName> = before.hosts[dead - 1].stranded.iter().map(|stranded| &stranded.vm).collect();
        let mut inventory = fleet.inventory.clone();
        inventory.get_mut(&node(dead)).unwrap().pulse.as_mut().unwrap().silent_ms = 60_000;
        let after = planner::plan(&fleet.spec, &inventory, &fleet.plan, Timestamp(1_000)).plan;
        let waits = |name: &&VmName| after.vms.get(*name).is_none_or(|planned| planned.goal != VmGoal::Run);
        let lost = fleet.plan.vms.iter().filter(|(_, planned)| planned.host == node(dead)).map(|(name, _)| name);
        let waiting: BTreeSet<&VmName> = lost.filter(waits).collect();
        prop_assert_eq!(said, waiting);
        prop_assert_eq!(ask(&fleet, &[]), before, "asking changes nothing");
    }
}

#[test]
fn what_an_adopted_vm_takes_when_it_starts_is_not_given_to_others() {
    let mut fleet = Fleet::new(1, 1, 4);
    let old = fleet.add("old", ANY);
    old.source = VmSource::Adopted;
    let id = old.id;
    let mut large = crate::world::hardware();
    (large.memory_mib, large.vcpus) = (60_000, 4);
    let seen = fleet.inventory.get_mut(&node(1)).unwrap();
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
    domains.insert("old".to_owned(), model_domain(&vm("old"), id, &large));
    let new = fleet.add("new", ANY);
    new.source = VmSource::Made(VmHardware { memory_mib: 6_000, ..crate::world::hardware() });
    let wish = |fleet: &Fleet, name: &str| (vm(name), fleet.spec.vms[&vm(name)].clone());
    let (old, new) = (wish(&fleet, "old"), wish(&fleet, "new"));

    let mut board = fleet.board();
    board.choose((&new.0, &new.1), None).expect("there is room for one");
    board.take((&old.0, &old.1), Some(&node(1))).expect("there is room for one");
    let refusal = board.choose((&new.0, &new.1), None).unwrap_err();
    assert_eq!(refusal.code, Code::NoFreeMemory);

    assert!(fleet.run_on("old", &node(1)), "it shall run, and is still off");
    let refusal = fleet.board().choose((&new.0, &new.1), None).unwrap_err();
    assert_eq!(refusal.code, Code::NoFreeMemory);
    let mut full = Fleet { plan: fleet.plan.clone(), ..fleet.clone() };
    full.plan.vms.remove(&vm("old"));
    full.plan.bookings.retain(|_, _| false);
    assert!(full.run_on("new", &node(1)));
    let refusal = full.board().choose((&old.0, &old.1), Some(&node(1))).unwrap_err();
    assert_eq!(refusal.code, Code::NoFreeMemory, "and it waits as others do");
}
