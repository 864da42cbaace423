//! VMs that are told to run on another host.

use tranche_core::change::Change;
use tranche_core::effect::{VmEffect, preview};
use tranche_core::finding::{Code, Subject};
use tranche_core::name::Timestamp;
use tranche_core::operation::{Goal, OperationState, judge};
use tranche_core::plan::VmGoal;
use tranche_core::spec::{Duty, Request, VmSource};
use uuid::Uuid;

use crate::fleet::{Fleet, node};
use crate::led::Cluster;
use crate::operations::operation;
use crate::world::vm;

fn migrate(name: &str, to: Option<usize>) -> Change {
    Change::MigrateVm { name: vm(name), to: to.map(node) }
}

/// So many hosts with room for two VMs each, and these VMs, which run on the first ones.
fn cluster(hosts: usize, vms: &[&str]) -> Cluster {
    let mut fleet = Fleet::new(hosts, 1, 2);
    for name in vms {
        fleet.add(name, Request::ANY_PARTITION);
    }
    let mut cluster = Cluster::new(fleet);
    cluster.pass();
    cluster
}

fn stands(cluster: &Cluster, goal: Goal) -> OperationState {
    let operation = operation("", Subject::Installation, goal);
    judge(&operation, cluster.state(), &cluster.findings, &[]).state
}

fn codes(refused: Result<Goal, Vec<tranche_core::finding::Finding>>) -> Vec<Code> {
    refused.expect_err("it is refused").iter().map(|finding| finding.code).collect()
}

fn is_said_to_wait(cluster: &Cluster) -> bool {
    cluster.findings.iter().any(|finding| finding.code == Code::MigrateBlocked)
}

#[test]
fn a_vm_goes_where_it_is_told_to_once_and_may_come_back_by_other_ways() {
    let mut cluster = cluster(3, &["a"]);
    assert_eq!(cluster.at("a"), Some(node(1)));
    let goal = cluster.wants(&migrate("a", Some(3))).expect("there is room");
    assert!(!stands(&cluster, goal.clone()).is_over());
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(3)));
    assert_eq!(stands(&cluster, goal), OperationState::Succeeded);
    assert!(!is_said_to_wait(&cluster), "{:?}", cluster.said_of("a"));
    for number in [2, 3] {
        cluster.fleet.spec.hosts.get_mut(&node(number)).unwrap().duty = Duty::Maintenance;
    }
    cluster.pass();
    assert_eq!(
        cluster.at("a"),
        Some(node(1)),
        "what was asked for is over: the host that it left is as good as any"
    );
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(1)));
}

#[test]
fn without_a_host_that_is_named_any_other_one_serves() {
    let mut cluster = cluster(2, &["a"]);
    cluster.wants(&migrate("a", None)).expect("there is room");
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(2)));
}

#[test]
fn a_dry_run_tells_where_it_would_start() {
    let cluster = cluster(3, &["a"]);
    let state = cluster.state();
    let admitted = tranche_core::change::admit(
        &migrate("a", Some(2)),
        state,
        tranche_core::name::VmId(Uuid::nil()),
        Timestamp(9),
    );
    let effect = preview(&admitted.expect("there is room").spec, state, Timestamp(9));
    assert_eq!(effect.vms.get(&vm("a")), Some(&VmEffect::Moves));
    assert_eq!(effect.homes.get(&vm("a")), Some(&node(2)));
}

#[test]
fn what_cannot_be_is_refused_with_every_reason_and_nothing_moves() {
    let mut cluster = cluster(2, &["a", "b", "c", "d", "off"]);
    assert_eq!(cluster.at("a"), Some(node(1)));
    let refused = codes(cluster.wants(&migrate("a", Some(2))));
    assert_eq!(refused[0], Code::MigrateBlocked);
    assert!(refused.contains(&Code::NoFreePartition), "{refused:?}");
    assert_eq!(codes(cluster.wants(&migrate("a", None)))[0], Code::MigrateBlocked);
    assert_eq!(codes(cluster.wants(&migrate("off", None))), [Code::VmNotRunning]);
    assert_eq!(codes(cluster.wants(&migrate("nobody", None))), [Code::VmNotFound]);
    assert_eq!(codes(cluster.wants(&migrate("a", Some(7)))), [Code::HostNotFound]);
    cluster.fleet.spec.vms.get_mut(&vm("a")).unwrap().source = VmSource::Adopted;
    assert!(codes(cluster.wants(&migrate("a", None))).contains(&Code::DefinitionLocal));
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(1)));
}

#[test]
fn a_vm_whose_place_is_taken_meanwhile_runs_on_and_moves_once_there_is_room() {
    let mut cluster = cluster(2, &["a", "b", "c"]);
    assert_eq!((cluster.at("a"), cluster.at("c")), (Some(node(1)), Some(node(2))));
    let goal = cluster.wants(&migrate("a", Some(2))).expect("there is room");
    // Somebody was faster.
    cluster.fleet.spec.hosts.get_mut(&node(2)).unwrap().duty = Duty::Maintenance;
    let planned = cluster.fleet.plan.vms[&vm("a")].clone();
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(1)));
    assert_eq!(cluster.fleet.plan.vms[&vm("a")].settled, planned.settled, "it was not restarted");
    assert_eq!(stands(&cluster, goal.clone()), OperationState::Waiting);
    cluster.fleet.spec.hosts.get_mut(&node(2)).unwrap().duty = Duty::Serving;
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(2)));
    assert_eq!(stands(&cluster, goal), OperationState::Succeeded);
}

#[test]
fn a_move_that_waits_can_be_taken_back_and_the_vm_is_not_restarted_for_it() {
    let mut cluster = cluster(2, &["a"]);
    cluster.wants(&migrate("a", Some(2))).expect("there is room");
    cluster.fleet.spec.hosts.get_mut(&node(2)).unwrap().duty = Duty::Maintenance;
    cluster.pass();
    assert!(is_said_to_wait(&cluster));
    let settled = cluster.fleet.plan.vms[&vm("a")].settled.clone();
    assert_eq!(cluster.wants(&migrate("a", Some(1))).expect("it is there"), Goal::Recorded);
    cluster.fleet.spec.hosts.get_mut(&node(2)).unwrap().duty = Duty::Serving;
    cluster.pass();
    let planned = &cluster.fleet.plan.vms[&vm("a")];
    assert_eq!((planned.goal, &planned.host, &planned.settled), (VmGoal::Run, &node(1), &settled));
    assert!(!is_said_to_wait(&cluster), "{:?}", cluster.said_of("a"));
}

#[test]
fn the_same_command_again_while_it_waits_is_the_same_move() {
    let mut cluster = cluster(2, &["a"]);
    let first = cluster.wants(&migrate("a", Some(2))).expect("there is room");
    assert_eq!(cluster.wants(&migrate("a", Some(2))).expect("there is room"), first);
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(2)));
}

#[test]
fn a_move_that_is_over_has_no_say_when_the_host_that_it_led_to_dies() {
    let mut cluster = cluster(3, &["a", "b"]);
    assert_eq!(cluster.at("b"), Some(node(1)));
    cluster.wants(&migrate("a", None)).expect("there is room");
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(2)));
    cluster.power(2, false);
    assert_eq!(cluster.at("a"), Some(node(1)), "where it came from is the best place now");
    cluster.power(2, true);
    assert_eq!(cluster.at("a"), Some(node(1)), "and it is not sent away from there again");
}

#[test]
fn a_host_can_be_emptied_although_a_vm_waits_to_go_elsewhere_from_it() {
    let mut cluster = cluster(3, &["a"]);
    cluster.wants(&migrate("a", Some(2))).expect("there is room");
    cluster.fleet.spec.hosts.get_mut(&node(2)).unwrap().duty = Duty::Maintenance;
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(1)));
    cluster.fleet.spec.hosts.get_mut(&node(1)).unwrap().duty = Duty::Maintenance;
    cluster.pass();
    assert_eq!(cluster.at("a"), Some(node(3)));
}

#[test]
fn another_move_takes_the_place_of_one_that_waits_and_that_can_be_taken_back_too() {
    let mut cluster = cluster(3, &["a"]);
    let first = cluster.wants(&migrate("a", Some(2))).expect("there is room");
    for number in [2, 3] {
        cluster.fleet.spec.hosts.get_mut(&node(number)).unwrap().duty = Duty::Maintenance;
    }
    cluster.pass();
    cluster.fleet.spec.hosts.get_mut(&node(3)).unwrap().duty = Duty::Serving;
    let settled = cluster.fleet.plan.vms[&vm("a")].settled.clone();
    let second = cluster.wants(&migrate("a", Some(3))).expect("there is room");
    assert_eq!(stands(&cluster, first), OperationState::Superseded);
    assert!(!stands(&cluster, second).is_over());
    cluster.wants(&migrate("a", Some(1))).expect("it is there");
    cluster.pass();
    assert_eq!(cluster.fleet.plan.vms[&vm("a")].settled, settled, "it was not restarted");
    assert_eq!(cluster.at("a"), Some(node(1)));
}

#[test]
fn a_vm_that_leaves_already_is_not_said_to_stay() {
    let mut cluster = cluster(2, &["a"]);
    cluster.wants(&migrate("a", Some(2))).expect("there is room");
    cluster.fleet.plan.vms.get_mut(&vm("a")).unwrap().goal = VmGoal::Move;
    assert_eq!(codes(cluster.wants(&migrate("a", Some(1)))), [Code::MigrateBlocked]);
}

#[test]
fn two_that_want_the_same_last_place_do_not_both_go_off_for_it() {
    let mut cluster = cluster(2, &["a", "b", "c"]);
    assert_eq!(cluster.at("c"), Some(node(2)));
    cluster.wants(&migrate("a", Some(2))).expect("there is room");
    cluster.wants(&migrate("b", Some(2))).expect("nobody has taken it yet");
    cluster.pass();
    let homes = [cluster.at("a"), cluster.at("b")];
    assert!(homes.contains(&Some(node(1))) && homes.contains(&Some(node(2))), "{homes:?}");
    assert!(is_said_to_wait(&cluster));
}
