//! Fail-back: a VM is shut down for a better place only if it then gets that, and once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tranche_core::falls::{Tried, Verdict};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::placement::{Move, likes};
use tranche_core::plan::{Booking, VmGoal};
use tranche_core::spec::{Company, Request, Rule};

use crate::fleet::{Fleet, node};
use crate::world::vm;

const ANY: Request = Request::ANY_PARTITION;

fn on(hosts: &[(usize, u16)], failback: bool) -> Rule {
    let hosts = hosts.iter().map(|(number, priority)| (node(*number), *priority)).collect();
    Rule::Hosts { vms: [vm("a")].into(), hosts, strict: false, failback }
}

fn rule(fleet: &mut Fleet, name: &str, rule: Rule) {
    fleet.spec.rules.insert(name.parse().unwrap(), rule);
}

/// VM a runs on a host, and these rules are made.
fn runs(hosts: usize, at: usize, rules: &[Rule]) -> Fleet {
    let mut fleet = Fleet::new(hosts, 1, 2);
    fleet.add("a", ANY);
    assert!(fleet.run_on("a", &node(at)));
    for (number, of_it) in rules.iter().enumerate() {
        rule(&mut fleet, &format!("rule{number}"), of_it.clone());
    }
    fleet
}

fn fell_on(fleet: &mut Fleet, name: &str, hosts: BTreeSet<HostName>) {
    let tried = Tried { serial: 1, hosts, since: Timestamp(0), verdict: Verdict::Leaves };
    fleet.plan.vms.get_mut(&vm(name)).unwrap().tried = Some(tried);
}

fn moves(fleet: &Fleet) -> Vec<Move> {
    fleet.board().failback(&fleet.plan).0
}

/// Shuts a VM down for its move, and starts it where it is then placed.
fn carry_out(fleet: &mut Fleet, back: &Move) -> HostName {
    fleet.plan.bookings.retain(|_, booking| booking.vm != back.vm);
    fleet.plan.vms.get_mut(&back.vm).unwrap().goal = VmGoal::Move;
    let spec = &fleet.spec.vms[&back.vm];
    let place = fleet.board().choose((&back.vm, spec), None).expect("there was a place for it");
    for slot in place.slots {
        let booking = Booking { vm: back.vm.clone(), vm_id: spec.id, since: Timestamp(0) };
        fleet.plan.bookings.insert(slot, booking);
    }
    let planned = fleet.plan.vms.get_mut(&back.vm).unwrap();
    (planned.goal, planned.host) = (VmGoal::Run, place.host.clone());
    place.host
}

#[test]
fn a_vm_does_not_go_back_to_a_host_on_which_it_fell() {
    let mut fleet = runs(2, 2, &[on(&[(1, 10)], true)]);
    assert_eq!(moves(&fleet).len(), 1);
    fell_on(&mut fleet, "a", [node(1)].into());
    assert_eq!(moves(&fleet), []);
    let mut fleet = runs(3, 3, &[on(&[(1, 10), (2, 5)], true)]);
    fell_on(&mut fleet, "a", [node(1)].into());
    let back = moves(&fleet).remove(0);
    assert_eq!(back.to.host, node(2), "the next best");
    assert_eq!(carry_out(&mut fleet, &back), node(2));
    assert_eq!(moves(&fleet), []);
}

#[test]
fn what_another_rule_prefers_more_keeps_a_vm_where_it_is() {
    assert_eq!(moves(&runs(2, 2, &[on(&[(1, 10)], true), on(&[(2, 100)], false)])), []);
    assert_eq!(moves(&runs(2, 2, &[on(&[(1, 10)], true), on(&[(2, 10)], false)])), [], "as good");
    let back = moves(&runs(2, 2, &[on(&[(1, 10)], true), on(&[(2, 9)], false)])).remove(0);
    assert_eq!((back.to.host, back.rule.as_str()), (node(1), "rule0"));
}

#[test]
fn rules_that_pull_a_vm_two_ways_move_it_once_at_most() {
    let rules = [on(&[(1, 10), (2, 5)], true), on(&[(2, 10), (1, 5)], true)];
    assert_eq!(moves(&runs(2, 1, &rules)), []);
    assert_eq!(moves(&runs(2, 2, &rules)), []);
    let mut fleet = runs(3, 3, &rules);
    let back = moves(&fleet).remove(0);
    carry_out(&mut fleet, &back);
    assert_eq!(moves(&fleet), []);
}

#[test]
fn a_vm_whose_better_place_is_no_ones_wish_about_hosts_runs_on() {
    let with_b = Rule::Vms { vms: [vm("a"), vm("b")].into(), kind: Company::Together, strict: false };
    let mut fleet = runs(3, 3, &[on(&[(1, 10)], true), with_b]);
    fleet.add("b", ANY);
    assert!(fleet.run_on("b", &node(2)));
    assert_eq!(moves(&fleet), [], "it would be placed beside b, and not where the rule wants it back");
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let vms = || {
        prop::collection::btree_set(0u8..4, 1..4)
            .prop_map(|vms| vms.into_iter().map(|at| vm(&format!("vm{at}"))).collect())
    };
    let hosts = prop::collection::btree_map((1usize..6).prop_map(node), 1u16..200, 1..4);
    let rack = (0u8..3)
        .prop_map(|rack| BTreeMap::from([("rack".parse().unwrap(), rack.to_string().parse().unwrap())]));
    prop_oneof![
        4 => (vms(), hosts, any::<bool>(), prop::bool::weighted(0.8)).prop_map(|(vms, hosts, strict, failback)| {
            Rule::Hosts { vms, hosts, strict, failback }
        }),
        1 => (vms(), rack, any::<bool>()).prop_map(|(vms, labels, strict)| Rule::Labels { vms, labels, strict }),
        1 => (vms(), any::<bool>(), any::<bool>()).prop_map(|(vms, apart, strict)| {
            Rule::Vms { vms, kind: if apart { Company::Apart } else { Company::Together }, strict }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn vms_that_go_back_one_after_the_other_come_to_rest_and_none_is_told_twice_in_a_row(
        rules in prop::collection::vec(any_rule(), 1..5),
        at in prop::collection::vec(1usize..6, 4),
        fallen in prop::collection::vec(prop::collection::btree_set((1usize..6).prop_map(node), 0..3), 4),
    ) {
        let mut fleet = Fleet::new(5, 1, 2);
        for number in 1..6 {
            let labels = [("rack".parse().unwrap(), (number % 3).to_string().parse().unwrap())];
            fleet.spec.hosts.get_mut(&node(number)).unwrap().labels = labels.into();
        }
        for (number, (at, fallen)) in at.into_iter().zip(fallen).enumerate() {
            let name = format!("vm{number}");
            fleet.add(&name, ANY);
            if fleet.run_on(&name, &node(at)) && !fallen.is_empty() {
                fell_on(&mut fleet, &name, fallen);
            }
        }
        for (number, of_it) in rules.into_iter().enumerate() {
            rule(&mut fleet, &format!("rule{number}"), of_it);
        }
        let mut told: Vec<Move> = Vec::new();
        while let Some(back) = moves(&fleet).first().cloned() {
            let places = fleet.board().places().clone();
            let liked = |host: &HostName| -> i32 {
                let each = fleet.spec.rules.values();
                each.map(|rule| likes(rule, &back.vm, host, &fleet.spec, &places)).sum()
            };
            let forbidden = fleet.spec.rules.values().any(|rule| {
                tranche_core::placement::forbids(rule, &back.vm, &back.from, &fleet.spec, &places)
            });
            prop_assert!(forbidden || liked(&back.to.host) > liked(&back.from));
            let host = carry_out(&mut fleet, &back);
            prop_assert_ne!(&host, &back.from);
            // Another may draw it after itself, but that ends.
            prop_assert!(told.last().is_none_or(|last| last.vm != back.vm), "{:?} {:?}", told, back);
            told.push(back);
            prop_assert!(told.len() <= 20, "{:?}", told);
        }
    }
}
