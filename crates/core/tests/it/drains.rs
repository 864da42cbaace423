//! What emptying a host would do, told beforehand.

use tranche_core::change::{self, Change};
use tranche_core::effect::{Effect, VmEffect, preview};
use tranche_core::finding::{Code, Subject};
use tranche_core::inventory::{Domain, DomainState, Hypervisor, OffReason};
use tranche_core::name::{Timestamp, VmId};
use tranche_core::operation::{Goal, OperationState, judge};
use tranche_core::plan::{Settled, VmGoal};
use tranche_core::planner::Memory;
use tranche_core::spec::{Duty, Request};
use tranche_core::step::{Step, StepSubject};
use tranche_core::steps::steps;
use uuid::Uuid;

use crate::fleet::{Fleet, model_domain, node};
use crate::operations::operation;
use crate::world::{hardware, vm};

/// Runs a VM on a host, as that host would show it.
fn runs(fleet: &mut Fleet, name: &str, number: usize) {
    fleet.add(name, Request::ANY_PARTITION);
    assert!(fleet.run_on(name, &node(number)), "there is room");
    let planned = fleet.plan.vms.get_mut(&vm(name)).unwrap();
    let seen = fleet.inventory.get_mut(&node(number)).unwrap();
    planned.settled = Some(Settled { serial: 1, running: true, boot_id: seen.boot_id.clone(), rests: None });
    let id = planned.id;
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
    let domain = model_domain(&vm(name), id, &hardware());
    domains.insert(name.to_owned(), Domain { state: DomainState::Running, ..domain });
}

fn drain(fleet: &Fleet) -> Effect {
    drain_all(fleet, &[])
}

fn drain_all(fleet: &Fleet, along: &[usize]) -> Effect {
    let state = change::State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    let along = along.iter().map(|number| node(*number)).collect();
    let wish = Change::SetHostDuty { host: node(1), along, duty: Duty::Maintenance };
    let admitted =
        change::admit(&wish, state, VmId(Uuid::nil()), Timestamp(1)).expect("a host may be drained");
    preview(&admitted.spec, state, Timestamp(1))
}

#[test]
fn each_vm_of_a_host_that_is_to_be_emptied_is_told_where_it_would_start() {
    let mut fleet = Fleet::new(3, 1, 2);
    runs(&mut fleet, "a", 1);
    runs(&mut fleet, "b", 1);
    runs(&mut fleet, "c", 2);
    let effect = drain(&fleet);
    let told: Vec<_> = effect.vms.iter().map(|(name, effect)| (name.as_str(), *effect)).collect();
    assert_eq!(told, [("a", VmEffect::Moves), ("b", VmEffect::Moves)]);
    assert!(effect.homes.values().all(|home| *home != node(1)));
}

#[test]
fn a_vm_that_no_other_host_can_take_is_said_to_stay() {
    let mut fleet = Fleet::new(2, 1, 2);
    for (name, number) in [("a", 1), ("b", 1), ("c", 2)] {
        runs(&mut fleet, name, number);
    }
    let effect = drain(&fleet);
    let mut told: Vec<_> = effect.vms.values().copied().collect();
    told.sort_by_key(|effect| format!("{effect:?}"));
    assert_eq!(told, [VmEffect::Moves, VmEffect::Stays]);
    assert!(
        effect.findings.iter().any(|finding| finding.code == Code::DrainBlocked),
        "{:#?}",
        effect.findings
    );
}

#[test]
fn what_a_host_has_not_heard_of_yet_does_not_make_the_forecast_wrong() {
    let mut fleet = Fleet::new(2, 1, 2);
    runs(&mut fleet, "a", 1);
    fleet.plan.generations.insert(node(1), 7);
    assert_eq!(drain(&fleet).vms.values().collect::<Vec<_>>(), [&VmEffect::Moves]);
}

#[test]
fn hosts_that_are_emptied_together_are_nobodys_refuge() {
    let mut fleet = Fleet::new(3, 1, 2);
    for (name, number) in [("a", 1), ("b", 2), ("c", 2)] {
        runs(&mut fleet, name, number);
    }
    let effect = drain_all(&fleet, &[2]);
    let homes: Vec<_> = effect.homes.values().collect();
    assert_eq!(homes, [&node(3), &node(3)]);
    let stay = effect.vms.values().filter(|effect| **effect == VmEffect::Stays).count();
    assert_eq!(stay, 1, "node3 has room for two of three: {:?}", effect.vms);
}

#[test]
fn a_host_that_is_no_member_is_emptied_by_nobody_and_neither_are_those_named_with_it() {
    let fleet = Fleet::new(2, 1, 2);
    let state = change::State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    let along = [node(9)].into();
    let wish = Change::SetHostDuty { host: node(1), along, duty: Duty::Maintenance };
    let refusal = change::admit(&wish, state, VmId(Uuid::nil()), Timestamp(1)).expect_err("node9 is nobody");
    assert_eq!(refusal.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::HostNotFound]);
}

#[test]
fn a_host_is_emptied_when_its_vms_have_homes_elsewhere_not_when_they_are_off() {
    let mut fleet = Fleet::new(2, 1, 4);
    runs(&mut fleet, "a", 1);
    let drained = |fleet: &Fleet| {
        let state = change::State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
        let goal = Goal::HostEmpty { host: node(1), along: [].into() };
        let operation = operation("drain node1", Subject::Host(node(1)), goal);
        judge(&operation, state, &[], &[]).state
    };
    fleet.spec.hosts.get_mut(&node(1)).unwrap().duty = Duty::Maintenance;
    let mut memory = Memory::default();
    decide(&mut fleet, &mut memory);
    assert_eq!(drained(&fleet), OperationState::Running, "it runs");
    let seen = fleet.inventory.get_mut(&node(1)).unwrap();
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
    domains.get_mut("a").unwrap().state = DomainState::Off { reason: OffReason::Shutdown };
    assert_eq!(drained(&fleet), OperationState::Running, "it is off, and nobody has it yet");
    for _ in 0..4 {
        decide(&mut fleet, &mut memory);
    }
    assert_eq!(fleet.plan.vms[&vm("a")].host, node(2));
    assert_eq!(drained(&fleet), OperationState::Succeeded);
}

/// Decides once, where each host shows that it knows what was decided before.
fn decide(fleet: &mut Fleet, memory: &mut Memory) -> Vec<Code> {
    decide_at(fleet, memory, Timestamp(2))
}

fn decide_at(fleet: &mut Fleet, memory: &mut Memory, now: Timestamp) -> Vec<Code> {
    let Fleet { spec, inventory, plan } = fleet;
    let planned = memory.plan(spec, inventory, plan, now);
    *plan = planned.plan;
    inventory.change_each(|host, seen| {
        seen.progress.generation = plan.generations.get(host).copied().unwrap_or_default();
    });
    planned.findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn a_guest_that_does_not_shut_down_for_a_move_is_named_and_so_is_one_that_is_paused() {
    let mut fleet = Fleet::new(2, 1, 4);
    runs(&mut fleet, "a", 1);
    let mut memory = Memory::default();
    let of_it = |found: Vec<Code>| {
        let told = |code: &Code| matches!(code, Code::ShutdownSlow | Code::VmPaused);
        found.into_iter().filter(told).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(of_it(decide(&mut fleet, &mut memory)), []);
    }
    let set = |fleet: &mut Fleet, state: DomainState| {
        let seen = fleet.inventory.get_mut(&node(1)).unwrap();
        let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
        domains.get_mut("a").unwrap().state = state;
    };
    set(&mut fleet, DomainState::Paused);
    assert_eq!(of_it(decide(&mut fleet, &mut memory)), [Code::VmPaused]);
    set(&mut fleet, DomainState::Running);
    fleet.spec.hosts.get_mut(&node(1)).unwrap().duty = Duty::Maintenance;
    assert_eq!(of_it(decide(&mut fleet, &mut memory)), [], "it is asked only now");
    assert_eq!(fleet.plan.vms[&vm("a")].goal, VmGoal::Move);
    assert_eq!(of_it(decide(&mut fleet, &mut memory)), [Code::ShutdownSlow]);
}

/// Decides at a moment, and returns what is due on the first host for a VM then.
fn due(fleet: &mut Fleet, memory: &mut Memory, at_ms: u64) -> Vec<Step> {
    decide_at(fleet, memory, Timestamp(at_ms));
    let due = steps(&fleet.spec, &fleet.plan, &fleet.inventory[&node(1)]);
    due.into_iter().filter(|step| step.subject() == StepSubject::Vm(vm("a"))).collect()
}

fn ignores_the_power_button(fleet: &mut Fleet) {
    let seen = fleet.inventory.get_mut(&node(1)).unwrap();
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
    domains.get_mut("a").unwrap().state = DomainState::ShuttingDown;
}

#[test]
fn a_guest_that_does_not_shut_down_in_five_minutes_is_turned_off_where_it_has_to_leave() {
    let mut fleet = Fleet::new(2, 1, 4);
    runs(&mut fleet, "a", 1);
    let id = fleet.spec.vms[&vm("a")].id;
    let mut memory = Memory::default();
    fleet.spec.hosts.get_mut(&node(1)).unwrap().duty = Duty::Maintenance;
    assert_eq!(due(&mut fleet, &mut memory, 1_000), [Step::ShutDownVm { vm: vm("a"), id }]);
    ignores_the_power_button(&mut fleet);
    assert_eq!(due(&mut fleet, &mut memory, 300_999), []);
    assert_eq!(due(&mut fleet, &mut memory, 301_000), [Step::KillVm { vm: vm("a"), id }]);
    fleet.spec.hosts.get_mut(&node(1)).unwrap().duty = Duty::Serving;
    assert_eq!(
        due(&mut fleet, &mut memory, 302_000),
        [Step::KillVm { vm: vm("a"), id }],
        "it was begun, whatever is wished by now"
    );
}

#[test]
fn a_guest_that_does_not_shut_down_is_left_alone_where_it_may_stay_by_now() {
    let mut fleet = Fleet::new(2, 1, 4);
    runs(&mut fleet, "a", 1);
    let mut memory = Memory::default();
    fleet.spec.hosts.get_mut(&node(1)).unwrap().duty = Duty::Maintenance;
    due(&mut fleet, &mut memory, 1_000);
    ignores_the_power_button(&mut fleet);
    fleet.spec.hosts.get_mut(&node(1)).unwrap().duty = Duty::Serving;
    assert_eq!(due(&mut fleet, &mut memory, 900_000), []);
    assert_eq!(fleet.plan.vms[&vm("a")].goal, VmGoal::Move, "it goes where it finds room once it is off");
}
