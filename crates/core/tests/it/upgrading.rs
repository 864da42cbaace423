//! The order in which a cluster is brought up to date.

use tranche_core::change;
use tranche_core::name::Timestamp;
use tranche_core::plan::Standing;
use tranche_core::spec::Request;
use tranche_core::upgrade::{Machine, UpgradePlan, UpgradeTurn, plan};

use crate::fleet::{Fleet, node};

const ANY: Request = Request::ANY_PARTITION;

fn machines(versions: &[&str], votes: usize, leads: usize) -> Vec<Machine> {
    let machine = |(index, version): (usize, &&str)| Machine {
        host: node(index + 1),
        version: (*version).to_owned(),
        votes: index < votes,
        leads: index + 1 == leads,
    };
    versions.iter().enumerate().map(machine).collect()
}

fn order(fleet: &Fleet, machines: &[Machine]) -> UpgradePlan {
    plan(change::State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory }, machines)
}

fn hosts(plan: &UpgradePlan) -> Vec<String> {
    plan.steps.iter().map(|step| step.host.to_string()).collect()
}

#[test]
fn who_has_no_vote_comes_first_and_who_leads_last_and_of_equals_who_has_fewer_vms() {
    let mut fleet = Fleet::new(5, 1, 4);
    for (name, number) in [("a", 4), ("b", 2)] {
        fleet.add(name, ANY);
        assert!(fleet.run_on(name, &node(number)));
    }
    let plan = order(&fleet, &machines(&["0.1.0"; 5], 3, 1));
    assert_eq!(hosts(&plan), ["node5", "node4", "node3", "node2", "node1"]);
    assert!(plan.feasible && plan.done.is_empty());
    assert_eq!(plan.steps[1].vms, ["a".parse().unwrap()]);
    assert_eq!(plan.steps[1].commands[0], "tranche host drain node4");
    assert_eq!(plan.steps[4].because, UpgradeTurn::Leads);
}

#[test]
fn who_has_the_later_version_is_done() {
    let plan = order(&Fleet::new(3, 1, 4), &machines(&["0.9.0", "0.10.0", "0.9.0"], 3, 3));
    assert_eq!(hosts(&plan), ["node1", "node3"]);
    assert_eq!(plan.done, [node(2)]);
}

#[test]
fn vms_that_no_other_host_can_take_are_named() {
    let mut fleet = Fleet::new(2, 1, 1);
    for (name, number) in [("a", 1), ("b", 2)] {
        fleet.add(name, ANY);
        assert!(fleet.run_on(name, &node(number)));
    }
    let plan = order(&fleet, &machines(&["0.1.0"; 2], 2, 1));
    assert!(!plan.feasible);
    assert!(plan.steps.iter().all(|step| step.stranded.len() == 1 && step.vms.is_empty()), "{plan:#?}");
}

#[test]
fn nothing_is_begun_while_a_host_is_away() {
    let mut fleet = Fleet::new(3, 1, 4);
    fleet.plan.hosts.get_mut(&node(3)).unwrap().standing = Standing::Lost { since: Timestamp(1) };
    let plan = order(&fleet, &machines(&["0.1.0"; 3], 3, 1));
    assert_eq!((plan.steps[0].because, plan.feasible), (UpgradeTurn::Away, false));
    assert_eq!(plan.steps[0].host, node(3));
}
