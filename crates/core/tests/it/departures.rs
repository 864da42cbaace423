//! Hosts that their administrators shut down: what is planned for their VMs, step by step. How it ends is the simulator's.

use tranche_core::change::{self, Change, Refusal};
use tranche_core::effect::{VmEffect, preview};
use tranche_core::finding::Code;
use tranche_core::inventory::{Domain, DomainState, Hypervisor, OffReason};
use tranche_core::name::{Timestamp, VmId};
use tranche_core::plan::{Settled, VmGoal};
use tranche_core::planner::plan;
use tranche_core::spec::{DepartureWay, Failover, Request, ShutdownPolicy};
use uuid::Uuid;

use crate::fleet::{Fleet, model_domain, node};
use crate::world::{hardware, vm};

/// Two hosts, and a VM that runs on the first.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new(2, 1, 2);
    fleet.add("a", Request::ANY_PARTITION);
    assert!(fleet.run_on("a", &node(1)), "there is room");
    let boot_id = fleet.inventory[&node(1)].boot_id.clone();
    let planned = fleet.plan.vms.get_mut(&vm("a")).unwrap();
    planned.settled = Some(Settled { serial: 1, running: true, boot_id, rests: None });
    show(&mut fleet, DomainState::Running);
    fleet
}

/// The first host shows the VM so.
fn show(fleet: &mut Fleet, state: DomainState) {
    let id = fleet.plan.vms[&vm("a")].id;
    let seen = fleet.inventory.get_mut(&node(1)).unwrap();
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
    let domain = model_domain(&vm("a"), id, &hardware());
    domains.insert("a".to_owned(), Domain { state, ..domain });
}

fn departs(number: usize, way: DepartureWay, force: bool) -> Change {
    Change::DepartHost { host: node(number), way, force, boot_id: None }
}

fn submit(fleet: &mut Fleet, wish: &Change) -> Result<(), Refusal> {
    let state = change::State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    fleet.spec = change::admit(wish, state, VmId(Uuid::nil()), Timestamp(1))?.spec;
    Ok(())
}

/// The next plan, which the first host has heard of.
fn next(fleet: &mut Fleet) -> Vec<Code> {
    let planned = plan(&fleet.spec, &fleet.inventory, &fleet.plan, Timestamp(2));
    fleet.plan = planned.plan.clone();
    fleet.inventory.change_each(|host, seen| {
        seen.progress.generation = fleet.plan.generations.get(host).copied().unwrap_or_default();
    });
    planned.findings.iter().map(|finding| finding.code).collect()
}

fn goal(fleet: &Fleet) -> VmGoal {
    fleet.plan.vms[&vm("a")].goal
}

#[test]
fn a_vm_that_waits_keeps_its_partition_and_starts_with_the_next_boot_of_its_host() {
    let mut fleet = fleet();
    submit(&mut fleet, &departs(1, DepartureWay::Reboot, false)).unwrap();
    assert!(next(&mut fleet).contains(&Code::HostDeparting));
    assert_eq!(goal(&fleet), VmGoal::Stop);
    show(&mut fleet, DomainState::Off { reason: OffReason::Shutdown });
    for _ in 0..3 {
        assert!(next(&mut fleet).contains(&Code::VmWaitsForHost));
        assert_eq!((goal(&fleet), fleet.plan.bookings.len()), (VmGoal::Stop, 1));
    }
    fleet.inventory.get_mut(&node(1)).unwrap().boot_id = "the next one".to_owned();
    assert!(!next(&mut fleet).contains(&Code::VmWaitsForHost));
    assert_eq!((goal(&fleet), &fleet.plan.vms[&vm("a")].host), (VmGoal::Run, &node(1)));
}

#[test]
fn a_vm_that_does_not_wait_leaves_once_it_is_off() {
    let mut fleet = fleet();
    submit(&mut fleet, &departs(1, DepartureWay::Shutdown, false)).unwrap();
    next(&mut fleet);
    assert_eq!(goal(&fleet), VmGoal::Move);
    show(&mut fleet, DomainState::Off { reason: OffReason::Shutdown });
    next(&mut fleet);
    let planned = &fleet.plan.vms[&vm("a")];
    assert_eq!((planned.goal, &planned.host), (VmGoal::Run, &node(2)));
    assert!(fleet.plan.bookings.keys().all(|slot| slot.gpu.host == node(2)), "{:#?}", fleet.plan.bookings);
}

#[test]
fn a_vm_that_is_bound_to_its_host_waits_for_it_whatever_the_policy_is() {
    let mut fleet = fleet();
    fleet.spec.policy.shutdown = ShutdownPolicy::Restart;
    fleet.spec.vms.get_mut(&vm("a")).unwrap().availability.failover = Failover::Stay;
    submit(&mut fleet, &departs(1, DepartureWay::Shutdown, false)).unwrap();
    next(&mut fleet);
    assert_eq!(goal(&fleet), VmGoal::Stop);
}

#[test]
fn guests_whose_time_is_over_are_turned_off() {
    let mut fleet = fleet();
    submit(&mut fleet, &departs(1, DepartureWay::Reboot, true)).unwrap();
    next(&mut fleet);
    assert_eq!(goal(&fleet), VmGoal::Kill);
}

#[test]
fn a_departure_that_is_taken_back_starts_again_what_was_about_to_end() {
    let mut fleet = fleet();
    submit(&mut fleet, &departs(1, DepartureWay::Reboot, false)).unwrap();
    next(&mut fleet);
    show(&mut fleet, DomainState::ShuttingDown);
    submit(&mut fleet, &Change::KeepHost { host: node(1) }).unwrap();
    next(&mut fleet);
    assert_eq!(goal(&fleet), VmGoal::Cycle);
    show(&mut fleet, DomainState::Off { reason: OffReason::Shutdown });
    next(&mut fleet);
    assert_eq!(goal(&fleet), VmGoal::Run);
}

#[test]
fn what_would_become_of_each_vm_is_told_beforehand() {
    let fleet = fleet();
    let state = change::State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    for (way, expected) in
        [(DepartureWay::Reboot, VmEffect::Stops), (DepartureWay::Shutdown, VmEffect::Moves)]
    {
        let admitted =
            change::admit(&departs(1, way, false), state, VmId(Uuid::nil()), Timestamp(1)).unwrap();
        let effect = preview(&admitted.spec, state, Timestamp(1));
        assert_eq!(effect.vms.values().collect::<Vec<_>>(), [&expected], "{way:?}");
    }
}

#[test]
fn a_wish_that_comes_after_the_next_boot_changes_nothing() {
    let mut fleet = fleet();
    let boot_id = Some("the one before".to_owned());
    let wish = Change::DepartHost { host: node(1), way: DepartureWay::Reboot, force: false, boot_id };
    submit(&mut fleet, &wish).unwrap();
    assert!(!next(&mut fleet).contains(&Code::HostDeparting));
    assert_eq!(goal(&fleet), VmGoal::Run);
}

#[test]
fn a_host_that_nobody_knows_or_has_seen_does_not_depart() {
    let mut fleet = fleet();
    let way = DepartureWay::Reboot;
    let codes = |refusal: Refusal| refusal.iter().map(|finding| finding.code).collect::<Vec<_>>();
    assert_eq!(codes(submit(&mut fleet, &departs(9, way, false)).unwrap_err()), [Code::HostNotFound]);
    fleet.inventory.remove(&node(2));
    assert_eq!(codes(submit(&mut fleet, &departs(2, way, false)).unwrap_err()), [Code::HostSilent]);
}
