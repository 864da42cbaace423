//! Journeys that come to nothing: what fails, who has the VM then, and what is tried next.

use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::inventory::{DomainState, OffReason};
use tranche_core::journey::Migration;
use tranche_core::plan::VmGoal;
use tranche_core::spec::{Duty, Request, VmSource};

use super::road::Road;
use super::{ANY, NONE, assert_settled_on, kinds, under_way, was_restarted};
use crate::fleet::node;
use crate::world::vm;

/// A VM on a host that is drained, which goes by such a way.
fn drained(hosts: usize, request: Request, migration: Migration) -> Road {
    let mut road = Road::new(hosts, &[("desk", request)]);
    road.wish("desk").availability.migration = migration;
    road.set_duty(1, Duty::Maintenance);
    road
}

/// Until a VM is being sent. Returns where to.
#[track_caller]
fn until_sent(road: &mut Road) -> tranche_core::name::HostName {
    for _ in 0..8 {
        if road.is_being_sent("desk") {
            return road.plan_of("desk").journey.as_ref().unwrap().other.clone();
        }
        road.turn();
    }
    panic!("it is not sent: {:?}, {:#?}", road.plan_of("desk"), road.findings);
}

fn fails(road: &mut Road) {
    road.transfer_fails(&vm("desk"), "a test");
}

#[test]
fn a_vm_whose_sending_fails_stays_where_it_is_and_what_is_left_of_it_there_is_ended() {
    for leaves_a_copy in [false, true] {
        let mut road = under_way(2, ANY);
        road.wish("desk").availability.migration = Migration::LiveOnly;
        if leaves_a_copy {
            road.loses_the_last_answer("desk");
        } else {
            fails(&mut road);
        }
        road.looks();
        road.looks();
        assert_eq!((road.stage("desk"), &road.plan_of("desk").host), ("called off", &node(1)));
        assert_eq!((road.due(1), road.due(2)), (Vec::new(), Vec::new()));
        road.looks();
        let left: &[&str] = if leaves_a_copy { &["kill"] } else { &[] };
        assert_eq!((road.stage("desk"), kinds(&road.due(2))), ("clears", left.to_vec()));
        assert!(road.is_said(Code::MigrateFailed), "{:?}", road.findings);
        assert_eq!(road.booked_on("desk").len(), if leaves_a_copy { 2 } else { 1 });
        road.turns(5);
        assert_settled_on(&road, "desk", 1);
        assert!(!was_restarted(&road), "{:?}", road.done);
    }
}

#[test]
fn a_vm_that_is_lost_with_its_new_host_before_it_went_on_starts_there_although_its_old_host_has_forgotten_it()
{
    let mut road = under_way(2, ANY);
    road.is_handed_over("desk");
    road.daemon_restarts(1);
    road.loses_power(2);
    road.is_back(2);
    road.turns(8);
    assert_settled_on(&road, "desk", 2);
}

#[test]
fn one_that_somebody_moved_to_a_third_host_meanwhile_does_not_count_as_lost_where_it_was_to_go() {
    let mut road = under_way(3, ANY);
    let mut domain = road.real(1).domains()["desk"].clone();
    road.loses_power(2);
    road.is_back(2);
    road.ends(&node(1), &vm("desk"), OffReason::Migrated);
    road.daemon_restarts(1);
    domain.state = DomainState::Running;
    road.puts_domain(3, domain);
    (0..4).for_each(|_| road.looks());
    assert_eq!((&road.plan_of("desk").host, road.due(2)), (&node(1), Vec::new()));
    assert!(road.plan_of("desk").missed.is_some());
}

#[test]
fn what_cannot_be_moved_live_to_one_host_is_tried_with_one_other_and_then_restarted() {
    let mut road = drained(4, ANY, Migration::LiveOrRestart);
    let first = until_sent(&mut road);
    fails(&mut road);
    let second = until_sent(&mut road);
    assert_ne!(first, second);
    assert!(!was_restarted(&road));
    fails(&mut road);
    road.turns(10);
    assert_eq!(kinds(&road.done).iter().filter(|kind| **kind == "send").count(), 2);
    assert!(was_restarted(&road));
    let home = if road.runs_on("desk") == [node(2)] { 2 } else { 3 };
    assert_settled_on(&road, "desk", home);
}

#[test]
fn what_cannot_be_moved_live_to_the_host_that_was_named_is_restarted_there() {
    let mut road = under_way(3, ANY);
    fails(&mut road);
    road.turns(3);
    assert_eq!(road.plan_of("desk").goal, VmGoal::Move);
    road.turns(6);
    assert_settled_on(&road, "desk", 2);
    assert_eq!(kinds(&road.done).iter().filter(|kind| **kind == "send").count(), 1);
}

#[test]
fn what_only_moves_live_is_tried_again_after_ten_seconds_and_never_restarted() {
    let mut road = drained(2, ANY, Migration::LiveOnly);
    for pause_ms in [10_000, 20_000] {
        until_sent(&mut road);
        fails(&mut road);
        while road.plan_of("desk").missed.is_none() || !road.stage("desk").is_empty() {
            road.turn();
        }
        let failed_at = road.plan_of("desk").missed.as_ref().unwrap().at.0;
        road.now = failed_at + pause_ms - 2;
        road.turn();
        assert_eq!((road.stage("desk"), road.plan_of("desk").goal), ("", VmGoal::Run));
        assert!(road.is_said(Code::MigrateFailed), "{:?}", road.findings);
        road.turn();
        assert_eq!(road.stage("desk"), "prepares");
    }
    until_sent(&mut road);
    road.is_handed_over("desk");
    road.turns(7);
    assert_settled_on(&road, "desk", 2);
    assert_eq!(road.plan_of("desk").missed, None);
    assert!(!was_restarted(&road), "{:?}", road.done);
}

#[test]
fn a_transfer_that_gets_no_further_for_two_minutes_is_called_off() {
    let mut road = under_way(2, NONE);
    road.now += 119_000;
    road.turns(3);
    assert_eq!(road.stage("desk"), "goes");
    road.transfers_get_on();
    road.now += 60_000;
    road.turns(3);
    assert_eq!(road.stage("desk"), "goes", "it gets on");
    road.now += 60_000;
    road.turns(2);
    assert_eq!(road.stage("desk"), "called off");
    assert_eq!(kinds(&road.done), ["send", "call off"]);
    road.looks();
    road.looks();
    assert_eq!(road.stage("desk"), "clears");
    assert!(road.plan_of("desk").missed.as_ref().unwrap().why.contains("two minutes"));
}

#[test]
fn a_journey_that_is_called_off_is_decided_once_its_host_has_ended_it() {
    let mut road = under_way(2, ANY);
    road.wants(&Change::StopVm { name: vm("desk"), force: true });
    for _ in 0..4 {
        road.looks();
        assert_eq!((road.stage("desk"), road.plan_of("desk").goal), ("called off", VmGoal::Run));
        assert_eq!((kinds(&road.due(1)), kinds(&road.due(2))), (vec!["call off"], vec![]));
    }
    road.acts(1);
    road.looks();
    assert_eq!(road.stage("desk"), "called off");
    road.looks();
    assert_eq!((road.stage("desk"), road.plan_of("desk").goal), ("clears", VmGoal::Kill));
}

#[test]
fn what_is_asked_for_meanwhile_calls_a_journey_off_and_is_done_where_the_vm_is() {
    let name = || vm("desk");
    for sent in [false, true] {
        let begin = || {
            let mut road = Road::new(2, &[("desk", ANY)]);
            road.migrate("desk", Some(2));
            road.turns(if sent { 3 } else { 1 });
            assert_eq!(road.stage("desk"), if sent { "goes" } else { "prepares" });
            road
        };
        let mut road = begin();
        road.wants(&Change::StopVm { name: name(), force: false });
        road.turns(9);
        assert_eq!((road.runs_on("desk"), road.known_on("desk")), (vec![], vec![node(1)]));
        assert_eq!((road.stage("desk"), road.booked_on("desk")), ("", vec![]));
        let mut road = begin();
        road.wants(&Change::DeleteVm { name: name(), force: true });
        road.turns(9);
        assert_eq!((road.known_on("desk"), road.booked_on("desk")), (vec![], vec![]));
        assert!(!road.fleet.spec.vms.contains_key(&name()) && !road.fleet.plan.vms.contains_key(&name()));
        let mut road = begin();
        road.wants(&Change::RestartVm { name: name(), force: false });
        road.turns(9);
        assert_settled_on(&road, "desk", 1);
        assert!(was_restarted(&road));
        let mut road = begin();
        road.migrate("desk", Some(1));
        road.turns(9);
        assert_settled_on(&road, "desk", 1);
        assert!(!was_restarted(&road), "it was told to stay: {:?}", road.done);
    }
}

#[test]
fn a_journey_to_a_host_that_takes_no_vms_any_more_is_called_off() {
    for sent in [false, true] {
        let mut road = drained(3, ANY, Migration::LiveOrRestart);
        road.turns(if sent { 3 } else { 1 });
        let first = road.plan_of("desk").journey.as_ref().unwrap().other.clone();
        road.fleet.spec.hosts.get_mut(&first).unwrap().duty = Duty::Maintenance;
        road.decide();
        assert_eq!(road.stage("desk"), if sent { "called off" } else { "clears" });
        road.looks();
        road.acts(1);
        road.turns(2);
        let second = until_sent(&mut road);
        assert_ne!(first, second);
        road.is_handed_over("desk");
        road.turns(7);
        assert_settled_on(&road, "desk", if second == node(2) { 2 } else { 3 });
        assert!(!was_restarted(&road), "{:?}", road.done);
    }
}

#[test]
fn a_vm_that_was_whole_on_its_new_host_when_its_old_one_died_goes_on_there() {
    for (request, to) in [(ANY, 2), (NONE, 2), (ANY, 3), (NONE, 3)] {
        let mut road = Road::new(3, &[("desk", request)]);
        road.migrate("desk", Some(to));
        road.turns(3);
        road.is_handed_over("desk");
        road.dies(1);
        road.turns(7);
        assert_eq!((road.runs_on("desk"), road.stage("desk")), (vec![node(to)], ""));
        assert_eq!(kinds(&road.done), ["send", "resume"]);
        road.is_back(1);
        road.turns(5);
        assert_settled_on(&road, "desk", to);
    }
}

#[test]
fn a_vm_that_has_left_a_host_goes_on_although_that_is_no_member_any_more() {
    let mut road = Road::new(3, &[("desk", NONE)]);
    road.migrate("desk", Some(3));
    road.turns(3);
    road.is_handed_over("desk");
    road.fleet.spec.hosts.remove(&node(1));
    road.real(1).is_heard = false;
    road.turns(7);
    assert_eq!((road.runs_on("desk"), road.stage("desk")), (vec![node(3)], ""));
    assert_eq!(kinds(&road.done), ["send", "resume"]);
}

#[test]
fn a_vm_that_was_not_whole_on_its_new_host_when_its_old_one_died_is_started_as_after_any_death() {
    for request in [ANY, NONE] {
        let mut road = under_way(3, request);
        road.dies(1);
        road.looks();
        road.looks();
        assert_eq!(road.domain(2, "desk"), Some(DomainState::Arriving));
        assert!(kinds(&road.due(2)).iter().all(|kind| *kind == "kill"), "{:?}", road.due(2));
        road.turns(8);
        let home = if road.runs_on("desk") == [node(2)] { 2 } else { 3 };
        assert_eq!(road.runs_on("desk"), [node(home)]);
        road.is_back(1);
        road.turns(5);
        assert_settled_on(&road, "desk", home);
        assert!(kinds(&road.done).contains(&"kill"), "{:?}", road.done);
    }
}

#[test]
fn a_vm_whose_new_host_dies_before_it_left_stays_where_it_is() {
    for at_stage in ["prepares", "goes"] {
        let mut road = Road::new(2, &[("desk", ANY)]);
        road.wish("desk").availability.migration = Migration::LiveOnly;
        road.migrate("desk", Some(2));
        road.turns(if at_stage == "goes" { 3 } else { 1 });
        assert_eq!(road.stage("desk"), at_stage);
        road.dies(2);
        road.turns(6);
        assert_settled_on(&road, "desk", 1);
        assert!(!was_restarted(&road), "{:?}", road.done);
    }
}

#[test]
fn a_vm_whose_new_host_dies_after_it_left_is_started_as_any_vm_of_a_dead_host() {
    for was_let_go_on in [false, true] {
        let mut road = under_way(3, ANY);
        road.is_handed_over("desk");
        if was_let_go_on {
            road.turns(4);
            assert_eq!(road.runs_on("desk"), [node(2)]);
        }
        road.dies(2);
        road.turns(10);
        let home = if road.runs_on("desk") == [node(1)] { 1 } else { 3 };
        assert_eq!(road.runs_on("desk"), [node(home)], "it does not wait until that host is back");
        road.is_back(2);
        road.turns(6);
        assert_settled_on(&road, "desk", home);
        assert!(was_restarted(&road));
    }
}

#[test]
fn a_guest_that_shuts_down_as_soon_as_it_has_landed_has_done_so_on_its_new_host() {
    for is_called_off in [false, true] {
        let mut road = under_way(2, ANY);
        road.is_handed_over("desk");
        assert!(road.is_let_go_on("desk"));
        road.ends(&node(2), &vm("desk"), OffReason::Shutdown);
        if is_called_off {
            road.wants(&Change::StopVm { name: vm("desk"), force: false });
            road.decide();
            assert_eq!(road.stage("desk"), "called off");
        }
        road.turns(8);
        assert_eq!((road.stage("desk"), &road.plan_of("desk").host), ("", &node(2)));
        assert_eq!((road.runs_on("desk"), road.known_on("desk")), (vec![], vec![node(2)]));
        assert!(!was_restarted(&road), "{:?}", road.done);
    }
}

#[test]
fn what_cannot_move_live_is_restarted_on_the_other_host() {
    type So = fn(&mut Road);
    let ways: [(&str, So); 6] = [
        ("its host cannot send it", |road| road.real(1).seen.progress.travels = false),
        ("no other host takes it", |road| road.real(2).seen.progress.travels = false),
        ("the processors differ", |road| road.real(2).seen.system.cpu_model = "another".to_owned()),
        ("it would stand still for too long", |road| {
            road.wish("desk").availability.pace.pause_ms = Some(1_000);
        }),
        ("nothing may stand still for so long", |road| road.fleet.spec.policy.pace.pause_ms = Some(1_000)),
        ("it is not meant to", |road| road.wish("desk").availability.migration = Migration::Restart),
    ];
    for (why, so) in ways {
        let mut road = drained(2, ANY, Migration::LiveOrRestart);
        so(&mut road);
        road.reports(1);
        road.reports(2);
        road.turn();
        assert_eq!((road.stage("desk"), road.plan_of("desk").goal), ("", VmGoal::Move), "{why}");
        road.turns(6);
        assert_settled_on(&road, "desk", 2);
    }
}

#[test]
fn what_only_moves_live_and_cannot_stays_and_that_is_said() {
    let ways: [fn(&mut Road); 3] = [
        |road| road.real(1).seen.progress.travels = false,
        |road| road.real(2).seen.progress.travels = false,
        |road| road.real(2).seen.system.cpu_model = "another".to_owned(),
    ];
    for so in ways {
        let mut road = drained(2, ANY, Migration::LiveOnly);
        so(&mut road);
        road.reports(1);
        road.reports(2);
        road.turns(3);
        assert!(road.is_said(Code::MigrateLiveOnly), "{:?}", road.findings);
        assert_settled_on(&road, "desk", 1);
        assert_eq!(road.done, []);
    }
}

#[test]
fn a_vm_that_was_adopted_has_no_journey() {
    for migration in [Migration::LiveOrRestart, Migration::LiveOnly] {
        let mut road = drained(2, ANY, migration);
        road.wish("desk").source = VmSource::Adopted;
        road.turns(3);
        assert_settled_on(&road, "desk", 1);
        let said = if migration == Migration::LiveOnly { Code::MigrateLiveOnly } else { Code::DrainBlocked };
        assert!(road.is_said(said), "{:?}", road.findings);
    }
}

#[test]
fn a_vm_that_goes_off_while_it_is_sent_is_judged_as_any_that_goes_off_where_it_is() {
    for (reason, runs) in [(OffReason::Shutdown, false), (OffReason::Crashed, true)] {
        let mut road = drained(2, ANY, Migration::LiveOrRestart);
        until_sent(&mut road);
        road.ends(&node(1), &vm("desk"), reason);
        // The drain is over: so it may start where it is.
        road.set_duty(1, Duty::Serving);
        road.turns(8);
        assert_eq!((road.stage("desk"), road.known_on("desk")), ("", vec![node(1)]));
        assert_eq!(!road.runs_on("desk").is_empty(), runs, "{reason:?}");
    }
}
