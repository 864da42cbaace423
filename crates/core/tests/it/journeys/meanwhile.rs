//! What comes in between: commands and rules while a VM is on its way, and what is not cleared yet when the next thing begins.

use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::inventory::{DomainState, OffReason};
use tranche_core::journey::Migration;
use tranche_core::migration::outlooks;
use tranche_core::plan::VmGoal;
use tranche_core::spec::{DepartureWay, Duty, Request, Rule, Run, ShutdownPolicy, VmSource};

use super::road::Road;
use super::{ANY, GONE, NONE, assert_settled_on, kinds, under_way, was_restarted};
use crate::fleet::node;
use crate::world::vm;

/// What is being sent arrives, whenever it does, until nothing more happens.
fn all_goes_well(road: &mut Road) {
    for _ in 0..20 {
        road.turn();
        if road.is_being_sent("desk") {
            road.is_handed_over("desk");
        }
    }
}

/// A VM that is to be cleared from `node2`, which is not done: that host is silent, or reports and does nothing.
fn uncleared(request: Request, silent: bool) -> Road {
    let mut road = under_way(3, request);
    road.wish("desk").availability.migration = Migration::LiveOnly;
    // Its new host keeps waiting for the rest.
    let arrives = road.real(2).seen.domains().unwrap()["desk"].clone();
    road.transfer_fails(&vm("desk"), "a test");
    road.puts_domain(2, arrives);
    if silent {
        road.falls_silent(2);
    }
    for _ in 0..3 {
        road.looks();
    }
    assert_eq!(road.stage("desk"), "clears");
    road
}

#[test]
fn a_vm_that_is_on_its_way_is_not_sent_elsewhere_by_the_same_command_before_that_is_taken_back() {
    let mut road = under_way(3, ANY);
    let to = |number: usize| Change::MigrateVm { name: vm("desk"), to: Some(node(number)) };
    assert!(!road.may_want(&to(3)), "it would land on node2 and stay there");
    assert!(road.may_want(&to(2)), "that is where it goes");
    road.wants(&to(1));
    road.turns(3);
    road.wants(&to(3));
    all_goes_well(&mut road);
    assert_settled_on(&road, "desk", 3);
    assert!(!was_restarted(&road), "{:?}", road.done);
}

#[test]
fn a_vm_that_is_told_to_leave_its_host_when_it_has_just_left_is_not_restarted_for_it() {
    for (to, home) in [(None, 2), (Some(2), 2), (Some(3), 3)] {
        let mut road = Road::new(3, &[("desk", ANY)]);
        for number in [1, 3] {
            road.set_duty(number, Duty::Maintenance);
        }
        road.turns(3);
        road.is_handed_over("desk");
        for number in [1, 3] {
            road.set_duty(number, Duty::Serving);
        }
        road.migrate("desk", to);
        all_goes_well(&mut road);
        assert_settled_on(&road, "desk", home);
        assert!(!was_restarted(&road), "to {to:?}: {:?}", road.done);
        let serial = road.fleet.spec.vms[&vm("desk")].serial;
        assert_eq!(road.plan_of("desk").settled.as_ref().map(|settled| settled.serial), Some(serial));
    }
}

#[test]
fn what_stands_against_moving_a_vm_does_not_count_what_it_has_booked_where_it_goes() {
    let road = under_way(3, ANY);
    let state = tranche_core::change::State {
        spec: &road.fleet.spec,
        plan: &road.fleet.plan,
        inventory: &road.fleet.inventory,
    };
    let told = outlooks(&vm("desk"), state).unwrap();
    let third = told.iter().find(|outlook| outlook.host == node(3)).unwrap();
    assert_eq!(third.live_obstacles, []);
}

#[test]
fn a_vm_that_only_moves_live_and_stands_still_is_not_shut_down_for_a_drain() {
    let mut road = Road::new(2, &[("desk", ANY)]);
    road.wish("desk").availability.migration = Migration::LiveOnly;
    road.set_domain(1, "desk", DomainState::Paused);
    road.looks();
    road.set_duty(1, Duty::Maintenance);
    road.turns(3);
    assert_eq!((road.plan_of("desk").goal, road.domain(1, "desk")), (VmGoal::Run, Some(DomainState::Paused)));
    assert!(road.is_said(Code::MigrateLiveOnly), "{:?}", road.findings);
    road.set_domain(1, "desk", DomainState::Running);
    all_goes_well(&mut road);
    assert_settled_on(&road, "desk", 2);
}

#[test]
fn a_vm_that_was_moved_away_by_hand_may_be_moved_back_by_hand() {
    let mut road = Road::new(2, &[("desk", ANY)]);
    road.ends(&node(1), &vm("desk"), OffReason::Migrated);
    road.turns(3);
    assert_eq!((road.plan_of("desk").goal, road.domain(1, "desk")), (VmGoal::Stop, Some(GONE)));
    road.set_domain(1, "desk", DomainState::Arriving);
    road.turns(4);
    assert_eq!(road.domain(1, "desk"), Some(DomainState::Arriving));
    road.set_domain(1, "desk", DomainState::Running);
    road.turns(4);
    assert_eq!((road.runs_on("desk"), road.plan_of("desk").goal), (vec![node(1)], VmGoal::Run));
}

#[test]
fn a_vm_that_comes_home_to_a_host_where_it_was_not_cleared_yet_runs_there_and_can_travel_again() {
    for request in [ANY, NONE] {
        let mut road = uncleared(request.clone(), false);
        road.wants(&Change::StopVm { name: vm("desk"), force: true });
        for _ in 0..4 {
            road.looks();
            road.acts(1);
        }
        assert_eq!(road.domain(2, "desk"), Some(DomainState::Arriving));
        road.set_duty(1, Duty::Maintenance);
        road.set_duty(3, Duty::Maintenance);
        road.wants(&Change::StartVm { name: vm("desk") });
        for _ in 0..4 {
            road.looks();
            road.acts(1);
        }
        assert_eq!(road.plan_of("desk").host, node(2));
        assert_eq!(
            road.booked_on("desk"),
            vec![node(2); request.slots()],
            "it keeps what it had booked there"
        );
        road.turns(6);
        assert_settled_on(&road, "desk", 2);
        road.set_duty(3, Duty::Serving);
        road.migrate("desk", Some(3));
        all_goes_well(&mut road);
        assert_settled_on(&road, "desk", 3);
    }
}

#[test]
fn a_vm_that_goes_to_a_third_host_before_it_was_cleared_elsewhere_does_not_keep_that_host_from_being_heard() {
    let mut road = Road::new(3, &[("desk", NONE)]);
    // Much more was decided about its old host than about the third one.
    road.fleet.plan.generations.insert(node(1), 1_000);
    road.turns(2);
    road.wish("desk").availability.migration = Migration::LiveOnly;
    road.migrate("desk", Some(2));
    road.turns(3);
    road.falls_silent(2);
    road.transfer_fails(&vm("desk"), "a test");
    road.turns(3);
    assert_eq!(road.stage("desk"), "clears");
    road.wants(&Change::StopVm { name: vm("desk"), force: true });
    road.turns(3);
    road.set_duty(1, Duty::Maintenance);
    road.wants(&Change::StartVm { name: vm("desk") });
    road.turns(8);
    assert_eq!(road.runs_on("desk"), [node(3)]);
    let generation = road.fleet.plan.generations[&node(3)];
    road.turns(3);
    assert_eq!(road.fleet.plan.generations[&node(3)], generation, "nothing new is decided about it");
    road.is_back(2);
    road.turns(4);
    assert_settled_on(&road, "desk", 3);
}

#[test]
fn a_copy_that_was_not_ended_yet_is_not_taken_for_the_vm_when_that_is_started_where_the_copy_is() {
    for is_up in [true, false] {
        let mut road = under_way(2, NONE);
        road.loses_the_last_answer("desk");
        for _ in 0..4 {
            road.looks();
        }
        assert_eq!((road.stage("desk"), road.domain(2, "desk")), ("clears", Some(DomainState::Paused)));
        road.dies(1);
        if !is_up {
            road.wants(&Change::StopVm { name: vm("desk"), force: false });
        }
        road.turns(8);
        assert_eq!(road.plan_of("desk").host, node(2));
        let runs_on = if is_up { vec![node(2)] } else { vec![] };
        assert_eq!((road.runs_on("desk"), kinds(&road.done)[1]), (runs_on, "kill"));
        road.is_back(1);
        road.turns(4);
        assert_eq!(road.known_on("desk"), [node(2)]);
        // One that somebody stopped in its tracks after it ran is no copy.
        if is_up {
            road.set_domain(2, "desk", DomainState::Paused);
            road.done.clear();
            road.turns(3);
            assert_eq!((road.domain(2, "desk"), road.done.len()), (Some(DomainState::Paused), 0));
        }
    }
}

#[test]
fn a_vm_that_has_lost_its_new_host_does_not_wait_for_its_old_one_where_it_is_not_cleared_yet() {
    for old_is_dead in [false, true] {
        let mut road = under_way(3, ANY);
        road.is_handed_over("desk");
        for _ in 0..5 {
            road.looks();
            road.acts(2);
        }
        assert_eq!((road.stage("desk"), road.booked_on("desk")), ("clears", vec![node(1), node(2)]));
        road.falls_silent(1);
        road.turns(2);
        road.dies(2);
        if old_is_dead {
            road.dies(1);
        }
        road.turns(6);
        assert_eq!(road.runs_on("desk"), [node(3)], "its old host is dead: {old_is_dead}");
        road.is_back(1);
        road.is_back(2);
        road.turns(6);
        assert_settled_on(&road, "desk", 3);
    }
}

#[test]
fn a_vm_that_was_deleted_leaves_nothing_behind_on_any_host_of_its_journey() {
    // Its host dies, and comes back before the other one is heard.
    let mut road = uncleared(NONE, true);
    road.wants(&Change::DeleteVm { name: vm("desk"), force: true });
    road.dies(1);
    road.turns(3);
    assert!(!road.fleet.spec.vms.contains_key(&vm("desk")), "it is forgotten");
    road.is_back(1);
    road.turns(5);
    road.is_back(2);
    road.turns(6);
    assert_eq!((road.known_on("desk"), road.fleet.plan.vms.len()), (vec![], 0));
    // Its old host is slow.
    let mut road = under_way(2, NONE);
    road.is_handed_over("desk");
    for _ in 0..7 {
        road.looks();
        road.acts(2);
    }
    assert_eq!((road.runs_on("desk"), road.known_on("desk")), (vec![node(2)], vec![node(1), node(2)]));
    road.wants(&Change::DeleteVm { name: vm("desk"), force: true });
    for _ in 0..6 {
        road.looks();
        road.acts(2);
    }
    road.turns(6);
    assert_eq!((road.known_on("desk"), road.fleet.plan.vms.len()), (vec![], 0));
}

/// A VM on `node2` that a rule wants back on `node1`.
fn wanted_back(migration: Migration) -> Road {
    let mut road = Road::with(3, &[("desk", ANY, 2)]);
    road.wish("desk").availability.migration = migration;
    let hosts = [(node(1), 10)].into();
    let rule = Rule::Hosts { vms: [vm("desk")].into(), hosts, strict: false, failback: true };
    road.fleet.spec.rules.insert("home".parse().unwrap(), rule);
    road
}

#[test]
fn a_vm_goes_back_live_and_one_that_cannot_is_restarted_for_it_unless_it_only_moves_live() {
    for migration in [Migration::LiveOrRestart, Migration::LiveOnly] {
        let mut road = wanted_back(migration);
        all_goes_well(&mut road);
        assert_settled_on(&road, "desk", 1);
        assert!(!was_restarted(&road), "{:?}", road.done);
        let mut road = wanted_back(migration);
        road.turns(3);
        assert!(road.is_being_sent("desk"));
        road.transfer_fails(&vm("desk"), "a test");
        road.turns(12);
        let sent = kinds(&road.done).iter().filter(|kind| **kind == "send").count();
        assert_eq!(sent, 1, "it is not tried again at once");
        if migration == Migration::LiveOnly {
            assert_settled_on(&road, "desk", 2);
            assert!(!was_restarted(&road));
            road.now += 10_000;
            all_goes_well(&mut road);
        }
        assert_settled_on(&road, "desk", 1);
    }
}

#[test]
fn a_vm_that_is_not_cleared_yet_where_it_was_is_not_restarted_to_go_back_there() {
    let mut road = wanted_back(Migration::LiveOrRestart);
    road.fleet.spec.rules = tranche_core::map::Map::new();
    road.migrate("desk", Some(3));
    road.turns(3);
    road.is_handed_over("desk");
    while road.stage("desk") != "clears" {
        road.looks();
        road.acts(3);
    }
    road.fleet.spec.rules = wanted_back(Migration::LiveOrRestart).fleet.spec.rules;
    for _ in 0..3 {
        road.looks();
        road.acts(3);
    }
    assert_eq!((road.plan_of("desk").goal, road.runs_on("desk")), (VmGoal::Run, vec![node(3)]));
    all_goes_well(&mut road);
    assert_settled_on(&road, "desk", 1);
    assert!(!was_restarted(&road), "{:?}", road.done);
}

#[test]
fn a_host_that_is_shut_down_lets_its_vms_go_elsewhere_live_where_that_is_the_policy_and_ends_them_in_the_end()
{
    let departs = |force| {
        let way = DepartureWay::Shutdown;
        Change::DepartHost { host: node(1), way, force, boot_id: None }
    };
    let begin = || {
        let mut road = Road::new(2, &[("desk", ANY)]);
        road.fleet.spec.policy.shutdown = ShutdownPolicy::Migrate;
        road.wants(&departs(false));
        road.turns(4);
        assert!(road.is_being_sent("desk"));
        road
    };
    let mut road = begin();
    all_goes_well(&mut road);
    assert_settled_on(&road, "desk", 2);
    assert!(!was_restarted(&road), "{:?}", road.done);
    let mut road = begin();
    road.wants(&departs(true));
    road.turns(7);
    assert_eq!((road.stage("desk"), road.runs_on("desk")), ("", vec![node(2)]));
    assert!(kinds(&road.done).starts_with(&["send", "call off", "kill"]), "{:?}", road.done);
}

#[test]
fn what_a_vm_needs_beside_its_devices_is_made_ready_before_it_is_sent_and_taken_back_if_it_does_not_come() {
    let mut road = Road::new(2, &[("desk", NONE)]);
    let VmSource::Made(hardware) = &mut road.wish("desk").source else { panic!("it was made") };
    hardware.cloud_init = Some("#cloud-config".to_owned());
    road.wish("desk").availability.migration = Migration::LiveOnly;
    road.migrate("desk", Some(2));
    for _ in 0..3 {
        road.looks();
        assert_eq!(
            (road.stage("desk"), kinds(&road.due(1)), kinds(&road.due(2))),
            ("prepares", vec![], vec!["another"])
        );
    }
    road.turns(3);
    assert!(road.is_being_sent("desk") && road.real[&node(2)].seen.progress.expects.contains(&vm("desk")));
    road.transfer_fails(&vm("desk"), "a test");
    road.turns(5);
    assert_settled_on(&road, "desk", 1);
    assert!(road.real[&node(2)].seen.progress.expects.is_empty());
    // It is forgotten no sooner than that is gone.
    road.now += 10_000;
    road.turns(4);
    assert!(road.is_being_sent("desk"));
    road.wants(&Change::DeleteVm { name: vm("desk"), force: true });
    for _ in 0..6 {
        road.looks();
        road.acts(1);
    }
    assert!(road.fleet.spec.vms.contains_key(&vm("desk")));
    road.turns(3);
    assert!(!road.fleet.spec.vms.contains_key(&vm("desk")));
    assert!(road.real[&node(2)].seen.progress.expects.is_empty());
}

#[test]
fn a_guest_that_shut_itself_down_after_the_last_answer_was_lost_does_not_go_back_to_before_that() {
    for reason in [OffReason::Shutdown, OffReason::Crashed, OffReason::Destroyed] {
        let mut road = under_way(2, ANY);
        road.loses_the_last_answer("desk");
        road.ends(&node(1), &vm("desk"), reason);
        road.turns(3);
        road.wish("desk").run = Run::Stopped;
        road.turns(8);
        assert_eq!((road.known_on("desk"), road.runs_on("desk")), (vec![node(1)], vec![]), "{reason:?}");
        assert_eq!(road.stage("desk"), "");
    }
}

#[test]
fn what_arrived_on_the_host_that_a_vm_is_started_on_anew_does_not_count_as_its_run() {
    // That host had a definition of it from before, so it is off there by command once its arrival was ended.
    let mut road = under_way(3, ANY);
    let mut arrives = road.real(2).seen.domains().unwrap()["desk"].clone();
    arrives.persistent = true;
    road.puts_domain(2, arrives);
    road.dies(1);
    road.turns(10);
    road.is_back(1);
    road.turns(4);
    assert_settled_on(&road, "desk", 2);
}
