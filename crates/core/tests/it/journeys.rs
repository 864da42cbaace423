//! VMs that go to another host while they run.

mod chance;
mod failing;
mod meanwhile;
mod road;

use tranche_core::check::check;
use tranche_core::finding::Code;
use tranche_core::inventory::{DomainState, Guard, OffReason};
use tranche_core::journey::{Migration, Stage};
use tranche_core::name::{GpuKey, SlotKey};
use tranche_core::plan::VmGoal;
use tranche_core::spec::{Duty, Failover, Limits, Pace, Request};
use tranche_core::step::Step;

use self::road::Road;
use crate::fleet::node;
use crate::world::vm;

const ANY: Request = Request::ANY_PARTITION;
const NONE: Request = Request::None;

const GONE: DomainState = DomainState::Off { reason: OffReason::Migrated };

/// A VM that is being sent from `node1` to `node2`, which both know.
fn under_way(hosts: usize, request: Request) -> Road {
    let mut road = Road::new(hosts, &[("desk", request)]);
    road.migrate("desk", Some(2));
    road.turns(3);
    assert_eq!((road.stage("desk"), road.domain(2, "desk")), ("goes", Some(DomainState::Arriving)));
    road
}

/// Asserts that a VM runs on one host, that nothing else knows it, and that no journey is left.
#[track_caller]
fn assert_settled_on(road: &Road, name: &str, number: usize) {
    let here = [node(number)];
    assert_eq!(road.stage(name), "", "{:?}", road.stage_of(name));
    assert_eq!((road.runs_on(name), road.known_on(name)), (here.to_vec(), here.to_vec()));
    assert_eq!((&road.plan_of(name).host, road.plan_of(name).goal), (&here[0], VmGoal::Run));
    let slots = road.fleet.spec.vms[&vm(name)].request.slots();
    assert_eq!(road.booked_on(name), vec![here[0].clone(); slots]);
}

/// Whether a VM was shut down or started.
fn was_restarted(road: &Road) -> bool {
    road.done.iter().any(|step| matches!(step, Step::ShutDownVm { .. } | Step::StartVm { .. }))
}

#[test]
fn what_a_vm_gets_on_the_other_host_is_booked_first_and_it_is_sent_once_that_reads_ready() {
    let mut road = Road::new(3, &[("desk", ANY)]);
    for partition in &mut road.real(2).seen.gpus.values_mut().next().unwrap().partitions {
        partition.driver = None;
    }
    road.migrate("desk", Some(2));
    for _ in 0..3 {
        road.looks();
        assert_eq!((road.stage("desk"), road.booked_on("desk")), ("prepares", vec![node(1), node(2)]));
        assert_eq!(road.due(1), []);
    }
    assert!(road.is_said(Code::PartitionUnready), "{:?}", road.findings);
    road.acts(2);
    road.looks();
    assert_eq!(road.stage("desk"), "prepares", "that it is ready was not reported before");
    road.looks();
    let there = node(2);
    let slot = road.fleet.plan.bookings_of(&there).map(|(slot, _)| slot).next().unwrap();
    let gpu = &road.real[&there].seen.gpus[&slot.gpu.address];
    let source = tranche_core::placement::source_of(slot.slot, gpu);
    match &road.due(1)[..] {
        [Step::SendVm { vm: name, to, devices, number, limits, .. }] => {
            let journey = road.plan_of("desk").journey.as_ref().unwrap();
            assert_eq!((name, to, *number), (&vm("desk"), &node(2), journey.number));
            assert_eq!(*limits, Limits::default());
            // 4 GiB of video memory over 110 MiB/s, and the change itself.
            assert_eq!(journey.foreseen_ms, Some(37_297));
            assert_eq!(
                devices.iter().map(|device| Some(device.source.clone())).collect::<Vec<_>>(),
                [source]
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vm_without_a_gpu_is_sent_without_devices_and_has_nothing_booked() {
    let mut road = Road::new(2, &[("plain", NONE)]);
    road.migrate("plain", None);
    road.looks();
    road.looks();
    assert!(
        matches!(&road.due(1)[..], [Step::SendVm { devices, .. }] if devices.is_empty()),
        "{:?}",
        road.due(1)
    );
    assert_eq!(road.booked_on("plain"), []);
}

#[test]
fn a_vm_is_sent_by_its_own_limits_and_by_those_of_all() {
    let mut road = Road::new(2, &[("plain", NONE)]);
    road.wish("plain").availability.pace.pause_ms = Some(500);
    road.fleet.spec.policy.pace = Pace { pause_ms: Some(9_000), bandwidth_mib_s: Some(40) };
    road.migrate("plain", None);
    road.looks();
    road.looks();
    let [Step::SendVm { limits, .. }] = &road.due(1)[..] else { panic!("{:?}", road.due(1)) };
    assert_eq!(*limits, Limits { pause_ms: 500, bandwidth_mib_s: Some(40) });
}

#[test]
fn a_protected_vm_is_sent_only_once_the_watchdog_of_its_new_host_is_armed() {
    for (guard, failover, goes) in [
        (Guard::Ready, Failover::Restart, false),
        (Guard::Armed, Failover::Restart, true),
        (Guard::None, Failover::Restart, true),
        (Guard::Ready, Failover::Stay, true),
    ] {
        let mut road = Road::new(2, &[("plain", NONE)]);
        road.wish("plain").availability.failover = failover;
        road.real(2).seen.progress.guard = guard;
        road.migrate("plain", Some(2));
        road.turns(4);
        assert_eq!(road.is_being_sent("plain"), goes, "{guard:?}, {failover:?}");
        road.real(2).seen.progress.guard = Guard::Armed;
        road.turns(3);
        assert!(road.is_being_sent("plain"), "{guard:?}, {failover:?}");
    }
}

#[test]
fn while_a_vm_is_under_way_it_is_sent_once_and_both_hosts_leave_it_alone() {
    let mut road = under_way(2, ANY);
    for _ in 0..4 {
        road.transfers_get_on();
        road.looks();
        assert_eq!((road.due(1), road.due(2)), (Vec::new(), Vec::new()));
    }
    assert_eq!((road.stage("desk"), road.done.len()), ("goes", 1), "{:?}", road.done);
}

/// What is due for a VM, in a word.
fn kind(step: &Step) -> &'static str {
    match step {
        Step::SendVm { .. } => "send",
        Step::CallOffVm { .. } => "call off",
        Step::ResumeVm { .. } => "resume",
        Step::KillVm { .. } => "kill",
        Step::UndefineVm { .. } => "undefine",
        _ => "another",
    }
}

fn kinds(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(kind).collect()
}

#[test]
fn whatever_a_vm_looks_like_it_is_at_most_sent_called_off_or_let_go_on_while_its_journey_is_open() {
    let off = [OffReason::Shutdown, OffReason::Destroyed, OffReason::Crashed, OffReason::Unknown];
    let mut states: Vec<DomainState> = off.map(|reason| DomainState::Off { reason }).to_vec();
    states.extend([
        GONE,
        DomainState::Paused,
        DomainState::Arriving,
        DomainState::ShuttingDown,
        DomainState::Running,
    ]);
    let sent = under_way(2, ANY);
    let mut unsent = sent.clone();
    unsent.real(1).seen.progress.sent.clear();
    let going = sent.stage_of("desk").unwrap();
    let stages = [Stage::Prepares, going, Stage::Lands, Stage::CalledOff { why: "a test".to_owned() }];
    for (mut road, is_sent) in [(sent, true), (unsent, false)] {
        for stage in &stages {
            let planned = road.fleet.plan.vms.get_mut(&vm("desk")).unwrap();
            planned.journey.as_mut().unwrap().stage = stage.clone();
            road.hears(1);
            road.hears(2);
            for state in &states {
                road.set_domain(1, "desk", *state);
                road.set_domain(2, "desk", *state);
                let here = match stage {
                    Stage::Goes { .. } if !is_sent && *state == DomainState::Running => vec!["send"],
                    Stage::CalledOff { .. } if is_sent => vec!["call off"],
                    _ => vec![],
                };
                let lands = *stage == Stage::Lands && *state == DomainState::Paused;
                let there = if lands { vec!["resume"] } else { vec![] };
                let due = (kinds(&road.due(1)), kinds(&road.due(2)));
                assert_eq!(due, (here, there), "{stage:?}, {state:?}, sent: {is_sent}");
            }
        }
    }
}

#[test]
fn a_vm_that_is_off_here_and_whole_there_is_let_go_on_and_only_then_is_the_other_hosts() {
    for request in [ANY, NONE] {
        let slots = request.slots();
        let mut road = under_way(3, request);
        road.is_handed_over("desk");
        road.looks();
        assert_eq!(road.stage("desk"), "goes", "nobody has reported it yet");
        road.looks();
        assert_eq!(
            (road.stage("desk"), kinds(&road.due(1)), kinds(&road.due(2))),
            ("lands", vec![], vec!["resume"])
        );
        assert_eq!((&road.plan_of("desk").host, road.booked_on("desk").len()), (&node(1), 2 * slots));
        road.acts(2);
        road.looks();
        assert_eq!((road.stage("desk"), &road.plan_of("desk").host), ("lands", &node(1)));
        road.looks();
        assert_eq!((road.stage("desk"), &road.plan_of("desk").host), ("clears", &node(2)));
        assert_eq!(road.booked_on("desk").len(), 2 * slots, "its old host still has it in its definition");
        assert_eq!((kinds(&road.due(1)), kinds(&road.due(2))), (vec!["undefine"], vec![]));
        road.acts(1);
        road.looks();
        assert_eq!(road.booked_on("desk").len(), 2 * slots, "that it is undefined was not reported before");
        road.turns(2);
        assert_settled_on(&road, "desk", 2);
        let planned = road.plan_of("desk");
        assert_eq!(planned.ran_on, Some(node(2)));
        assert_eq!(
            planned.settled.as_ref().map(|settled| settled.serial),
            Some(2),
            "the command was carried out"
        );
        assert!(!was_restarted(&road), "{:?}", road.done);
    }
}

#[test]
fn a_vm_may_be_let_go_on_by_the_daemon_that_sent_it() {
    let mut road = under_way(2, ANY);
    road.is_handed_over("desk");
    assert!(road.is_let_go_on("desk"));
    road.turns(6);
    assert_settled_on(&road, "desk", 2);
    assert_eq!(kinds(&road.done), ["send", "undefine"]);
}

#[test]
fn what_a_host_reported_before_it_knew_the_stage_decides_nothing() {
    let mut road = Road::new(2, &[("desk", ANY), ("plain", NONE)]);
    let later = |road: &mut Road| {
        // Something else is decided for both hosts, of which neither has heard.
        let one = road.fleet.plan.generations.clone();
        one.keys().for_each(|host| *road.fleet.plan.generations.get_mut(host).unwrap() += 1);
    };
    // What it gets there is ready, and its new host does not know that it is booked.
    road.migrate("desk", Some(2));
    road.decide();
    road.reports(2);
    road.decide();
    assert_eq!(road.stage("desk"), "prepares");
    road.hears(2);
    road.reports(2);
    road.decide();
    assert_eq!(road.stage("desk"), "goes");
    road.turn();
    // It is off, and its old host does not know all that was decided.
    road.is_handed_over("desk");
    later(&mut road);
    road.reports(1);
    road.decide();
    assert_eq!(road.stage("desk"), "goes");
    road.hears(1);
    road.reports(1);
    road.decide();
    assert_eq!(road.stage("desk"), "lands");
    // It runs there.
    assert!(road.is_let_go_on("desk"));
    road.reports(2);
    road.decide();
    assert_eq!((road.stage("desk"), &road.plan_of("desk").host), ("lands", &node(1)));
    road.hears(2);
    road.reports(2);
    road.decide();
    assert_eq!((road.stage("desk"), &road.plan_of("desk").host), ("clears", &node(2)));
    // Nothing of it is left on its old host.
    road.hears(1);
    road.acts(1);
    later(&mut road);
    road.reports(1);
    road.decide();
    assert_eq!((road.stage("desk"), road.booked_on("desk")), ("clears", vec![node(1), node(2)]));
    road.turns(3);
    assert_settled_on(&road, "desk", 2);
}

#[test]
fn a_failure_or_a_call_that_a_host_did_not_know_of_decides_nothing() {
    let mut road = under_way(2, ANY);
    road.transfer_fails(&vm("desk"), "a test");
    *road.fleet.plan.generations.get_mut(&node(1)).unwrap() += 1;
    road.reports(1);
    road.decide();
    assert_eq!(road.stage("desk"), "goes");
    road.hears(1);
    road.reports(1);
    road.decide();
    assert_eq!(road.stage("desk"), "called off");
    road.reports(1);
    road.decide();
    assert_eq!(road.stage("desk"), "called off", "it may be sending again by what was decided before");
    road.hears(1);
    road.reports(1);
    road.decide();
    assert_eq!(road.stage("desk"), "clears");
}

#[test]
fn what_the_other_host_needs_longer_for_than_two_minutes_is_not_waited_for() {
    for is_silent in [false, true] {
        let mut road = Road::new(2, &[("desk", ANY)]);
        for partition in &mut road.real(2).seen.gpus.values_mut().next().unwrap().partitions {
            partition.driver = None;
        }
        road.wish("desk").availability.migration = Migration::LiveOnly;
        road.migrate("desk", Some(2));
        road.looks();
        if is_silent {
            road.falls_silent(2);
        }
        road.now += 119_000;
        road.looks();
        assert_eq!(road.stage("desk"), "prepares");
        road.now += 2_000;
        road.looks();
        assert_eq!(road.stage("desk"), "clears", "silent: {is_silent}");
        assert_eq!((&road.plan_of("desk").host, road.plan_of("desk").goal), (&node(1), VmGoal::Run));
    }
}

#[test]
fn at_most_two_leave_a_host_at_a_time_and_a_host_that_is_drained_becomes_empty() {
    let names = ["a", "b", "c", "d"];
    let mut road = Road::new(3, &names.map(|name| (name, ANY)));
    road.set_duty(1, Duty::Maintenance);
    let mut was_queued = false;
    for _ in 0..40 {
        road.turn();
        let open =
            names.iter().filter(|name| ["prepares", "goes", "lands"].contains(&road.stage(name))).count();
        assert!(open <= 2, "{open} are on their way");
        was_queued |= road.is_said(Code::MigrateQueued);
        for name in names.iter().filter(|name| road.is_being_sent(name)).collect::<Vec<_>>() {
            road.is_handed_over(name);
        }
    }
    assert!(was_queued && !road.is_said(Code::MigrateQueued), "{:?}", road.findings);
    for name in names {
        let home = if road.runs_on(name) == [node(2)] { 2 } else { 3 };
        assert_settled_on(&road, name, home);
    }
    assert!(!was_restarted(&road), "{:?}", road.done);
}

#[test]
fn at_most_two_come_to_a_host_at_a_time() {
    let names = ["a", "b", "c"];
    let mut road = Road::with(4, &[("a", NONE, 1), ("b", NONE, 3), ("c", NONE, 4)]);
    for name in names {
        road.migrate(name, Some(2));
    }
    road.turns(4);
    let sent = |road: &Road| names.map(|name| road.is_being_sent(name));
    assert_eq!(sent(&road), [true, true, false]);
    assert!(road.is_said(Code::MigrateQueued), "{:?}", road.findings);
    road.is_handed_over("a");
    road.turns(7);
    assert_eq!(sent(&road), [false, true, true]);
    road.is_handed_over("b");
    road.is_handed_over("c");
    road.turns(7);
    names.iter().for_each(|name| assert_settled_on(&road, name, 2));
}

#[test]
fn a_vm_on_its_way_needs_its_memory_on_both_hosts() {
    let mut road = Road::new(2, &[("desk", NONE)]);
    for number in [1, 2] {
        road.real(number).seen.system.memory_mib = 1_000;
    }
    road.migrate("desk", Some(2));
    road.turn();
    road.fleet.add("third", NONE);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(road.stage("desk"));
        road.turn();
        assert_eq!(road.known_on("third"), [], "512 MiB of 1000 are left on neither, {}", road.stage("desk"));
        assert!(road.is_said(Code::NoFreeMemory), "{:?}", road.findings);
    }
    road.is_handed_over("desk");
    while road.stage("desk") != "clears" {
        seen.push(road.stage("desk"));
        road.turn();
    }
    assert!(["prepares", "goes", "lands"].iter().all(|stage| seen.contains(stage)), "{seen:?}");
    road.turns(3);
    assert_settled_on(&road, "desk", 2);
    assert_eq!(road.runs_on("third"), [node(1)]);
}

#[test]
fn a_vm_may_hold_something_on_the_other_host_of_its_journey_and_on_no_third_one() {
    let mut road = under_way(3, ANY);
    let (slot, booking) = road.fleet.plan.bookings.first_key_value().unwrap();
    let third = SlotKey { gpu: GpuKey { host: node(3), ..slot.gpu.clone() }, ..slot.clone() };
    let booking = booking.clone();
    let with_third = |road: &Road| {
        let mut plan = road.fleet.plan.clone();
        plan.bookings.insert(third.clone(), booking.clone());
        check(&plan)
    };
    for stage in ["goes", "lands", "clears"] {
        assert_eq!((road.stage("desk"), road.booked_on("desk").len()), (stage, 2));
        assert_eq!(check(&road.fleet.plan), []);
        let found = with_third(&road);
        assert!(matches!(&found[..], [one] if one.message.contains("runs on host")), "{found:?}");
        if stage == "goes" {
            road.is_handed_over("desk");
        }
        while road.stage("desk") == stage && stage != "clears" {
            road.turn();
        }
    }
    let planned = road.fleet.plan.vms.get_mut(&vm("desk")).unwrap();
    planned.journey = None;
    assert_eq!(check(&road.fleet.plan).len(), 1, "without a journey it may hold nothing elsewhere");
}
