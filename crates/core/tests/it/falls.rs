//! VMs that fall: where they are tried, and when no more.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tranche_core::check::check;
use tranche_core::falls::Falls;
use tranche_core::finding::Code;
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::VmGoal;
use tranche_core::planner::{Planned, plan};
use tranche_core::spec::{Request, RestartPolicy, Run};

use crate::fleet::{Fleet, node};
use crate::world::vm;

/// Hosts of two partitions, and a VM that falls wherever it is started.
fn fleet(hosts: usize, restarts: RestartPolicy) -> Fleet {
    let mut fleet = Fleet::new(hosts, 1, 2);
    fleet.add("falls", Request::ANY_PARTITION).availability.restarts = restarts;
    fleet
}

/// One round: every host knows what was decided, says how often the VM fell where it is to run, and the leader decides.
fn round(fleet: &mut Fleet, now: u64) -> Planned {
    let falls = vm("falls");
    let spec = &fleet.spec.vms[&falls];
    let at = fleet
        .plan
        .vms
        .get(&falls)
        .filter(|planned| planned.goal == VmGoal::Run)
        .map(|planned| planned.host.clone());
    let count = u32::from(spec.availability.restarts.local) + 1;
    fleet.inventory.change_each(|host, seen| {
        seen.progress.generation = fleet.plan.generations.get(host).copied().unwrap_or_default();
        seen.progress.falls.clear();
        if at.as_ref() == Some(host) {
            seen.progress.falls.insert(falls.clone(), Falls { serial: spec.serial, count });
        }
    });
    let planned = plan(&fleet.spec, &fleet.inventory, &fleet.plan, Timestamp(now));
    fleet.plan = planned.plan.clone();
    planned
}

fn goes(fleet: &mut Fleet) -> (Vec<HostName>, Planned) {
    let mut hosts: Vec<HostName> = Vec::new();
    let mut last = round(fleet, 1);
    for now in 2..40 {
        let planned = &fleet.plan.vms[&vm("falls")];
        if planned.goal == VmGoal::Run && hosts.last() != Some(&planned.host) {
            hosts.push(planned.host.clone());
        }
        last = round(fleet, now);
    }
    (hosts, last)
}

fn says(planned: &Planned, code: Code) -> bool {
    planned.findings.iter().any(|finding| finding.code == code)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_vm_is_tried_on_each_host_once_and_on_as_many_as_its_policy_says(
        hosts in 1usize..6,
        local in 0u8..4,
        elsewhere in 0u8..6,
    ) {
        let mut fleet = fleet(hosts, RestartPolicy { local, elsewhere });
        let (tried, last) = goes(&mut fleet);
        let once: BTreeSet<&HostName> = tried.iter().collect();
        prop_assert_eq!(once.len(), tried.len());
        prop_assert_eq!(tried.len(), hosts.min(usize::from(elsewhere) + 1));
        let for_ever = hosts == 1 && elsewhere > 0;
        let planned = &fleet.plan.vms[&vm("falls")];
        prop_assert_eq!(planned.goal, if for_ever { VmGoal::Run } else { VmGoal::Stop });
        prop_assert_eq!(says(&last, Code::VmGivenUp), !for_ever);
        prop_assert_eq!(fleet.plan.bookings.len(), usize::from(for_ever));
        prop_assert_eq!(check(&fleet.plan), Vec::new());
    }
}

#[test]
fn a_vm_that_was_given_up_is_tried_anew_by_the_next_command_and_not_before() {
    let mut fleet = fleet(2, RestartPolicy::default());
    let (tried, _) = goes(&mut fleet);
    assert_eq!(tried, [node(1), node(2)]);
    let spec = fleet.spec.vms.get_mut(&vm("falls")).unwrap();
    spec.serial += 1;
    assert_eq!(goes(&mut fleet).0.len(), 2);
    fleet.spec.vms.get_mut(&vm("falls")).unwrap().run = Run::Stopped;
    let planned = round(&mut fleet, 99);
    assert!(!says(&planned, Code::VmGivenUp), "{:#?}", planned.findings);
    assert_eq!(planned.plan.vms[&vm("falls")].tried, None);
}

#[test]
fn where_no_other_host_has_room_a_vm_is_tried_where_it_is_and_goes_as_soon_as_there_is() {
    let mut fleet = fleet(2, RestartPolicy { local: 0, elsewhere: 1 });
    for other in ["one", "two"] {
        fleet.add(other, Request::ANY_PARTITION);
        assert!(fleet.run_on(other, &node(2)));
    }
    assert!(fleet.run_on("falls", &node(1)));
    let planned = round(&mut fleet, 1);
    assert_eq!(fleet.plan.vms[&vm("falls")].goal, VmGoal::Run);
    assert!(says(&planned, Code::VmFalls), "{:#?}", planned.findings);
    let one = vm("one");
    fleet.spec.vms.remove(&one);
    fleet.plan.bookings.retain(|_, booking| booking.vm != one);
    fleet.plan.vms.remove(&one);
    for now in 2..6 {
        let _ = round(&mut fleet, now);
    }
    assert!(fleet.plan.vms[&vm("falls")].tried.as_ref().is_some_and(|tried| tried.hosts.contains(&node(2))));
}
