//! Rules about where VMs run.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tranche_core::change::Change;
use tranche_core::declare::{self, Declaration};
use tranche_core::finding::{Code, Severity};
use tranche_core::name::*;
use tranche_core::placement::{self, forbids, likes};
use tranche_core::plan::Standing;
use tranche_core::spec::*;
use tranche_core::why::why_not;

use crate::fleet::{Fleet, node};
use crate::world::{World, host, partitioned, vm};

const ANY: Request = Request::ANY_PARTITION;

fn names(vms: &[&str]) -> BTreeSet<VmName> {
    vms.iter().map(|name| vm(name)).collect()
}

fn company(kind: Company, vms: &[&str], strict: bool) -> Rule {
    Rule::Vms { vms: names(vms), kind, strict }
}

fn on(vms: &[&str], hosts: &[(usize, u16)], strict: bool) -> Rule {
    let hosts = hosts.iter().map(|(number, priority)| (node(*number), *priority)).collect();
    Rule::Hosts { vms: names(vms), hosts, strict, failback: false }
}

fn labelled(vms: &[&str], label: &str, strict: bool) -> Rule {
    let (key, value) = label.split_once('=').unwrap();
    let labels = BTreeMap::from([(key.parse().unwrap(), value.parse().unwrap())]);
    Rule::Labels { vms: names(vms), labels, strict }
}

fn set(name: &str, rule: Rule) -> Change {
    Change::SetRule { name: name.parse().unwrap(), rule }
}

/// One host with a GPU of four partitions, and these VMs, off.
fn world(vms: &[&str]) -> World {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    for name in vms {
        world.create(name, ANY);
    }
    world
}

#[test]
fn a_vm_waits_rather_than_break_a_strict_rule_and_starts_when_the_rule_is_gone() {
    let mut world = world(&["a", "b"]);
    world.accepts(&set("apart", company(Company::Apart, &["a", "b"], true)));
    world.start("a");
    world.start("b");
    assert!(world.runs("a") && !world.runs("b"));
    let told = world.findings.iter().find(|finding| finding.code == Code::RuleWaits).unwrap();
    assert!(told.message.contains("rule apart"), "{told}");
    let why = why_not(&vm("b"), &host(), world.state()).unwrap();
    assert!(why.iter().any(|finding| finding.code == Code::RuleForbids && finding.message.contains("apart")));
    assert_eq!(why_not(&vm("a"), &host(), world.state()).unwrap(), []);
    world.accepts(&Change::DeleteRule { name: "apart".parse().unwrap() });
    world.settle();
    assert!(world.runs("b"));
}

#[test]
fn a_preference_keeps_nobody_waiting() {
    let mut world = world(&["a", "b"]);
    world.accepts(&set("apart", company(Company::Apart, &["a", "b"], false)));
    world.start("a");
    world.start("b");
    assert!(world.runs("a") && world.runs("b"));
    assert!(!world.has_finding(Code::RuleBroken));
}

#[test]
fn a_vm_that_runs_when_a_rule_is_made_against_it_goes_on_and_is_told_of() {
    let mut world = world(&["a", "b"]);
    world.start("a");
    world.start("b");
    world.accepts(&set("apart", company(Company::Apart, &["a", "b"], true)));
    world.settle();
    assert!(world.runs("a") && world.runs("b"));
    assert!(world.has_finding(Code::RuleBroken));
}

#[test]
fn rules_that_contradict_each_other_are_refused_by_name() {
    let mut world = world(&["a", "b", "c"]);
    world.accepts(&set("one", company(Company::Together, &["a", "b"], true)));
    world.accepts(&set("two", company(Company::Together, &["b", "c"], true)));
    let refusal = world.submit(&set("three", company(Company::Apart, &["a", "c"], true))).unwrap_err();
    let told = refusal.iter().find(|finding| finding.severity == Severity::Error).unwrap();
    assert_eq!(told.code, Code::RuleContradiction);
    for part in ["three", "VMs a and c", "one, two"] {
        assert!(told.message.contains(part), "{told}");
    }
    world.accepts(&set("three", company(Company::Apart, &["a", "c"], false)));
}

#[test]
fn strict_rules_that_leave_no_host_are_refused() {
    let fleet = Fleet::new(3, 1, 4);
    let mut world = world(&["a", "b"]);
    world.spec.hosts = fleet.spec.hosts.clone();
    let labels = BTreeMap::from([("rack".parse().unwrap(), "1".parse().unwrap())]);
    world.spec.hosts.get_mut(&node(3)).unwrap().labels = labels;
    world.accepts(&set("here", on(&["a"], &[(1, 10), (2, 5)], true)));
    world.refuses(&set("there", on(&["a"], &[(3, 10)], true)), Code::RuleContradiction);
    world.refuses(&set("rack", labelled(&["a"], "rack=1", true)), Code::RuleContradiction);
    world.refuses(&set("none", labelled(&["b"], "rack=2", true)), Code::RuleContradiction);
    world.accepts(&set("rack", labelled(&["b"], "rack=1", true)));
    world.refuses(&set("join", company(Company::Together, &["a", "b"], true)), Code::RuleContradiction);
    world.accepts(&set("join", company(Company::Together, &["a", "b"], false)));
}

#[test]
fn more_vms_to_be_apart_than_hosts_are_warned_of() {
    let mut world = world(&["a", "b"]);
    let findings = world.submit(&set("apart", company(Company::Apart, &["a", "b"], true))).unwrap();
    assert_eq!(findings[0].code, Code::RuleContradiction);
    assert_eq!(findings[0].severity, Severity::Warning);
}

#[test]
fn a_rule_with_a_name_that_stands_for_nothing_or_a_number_out_of_range_is_refused() {
    let mut world = world(&["a", "b"]);
    world.refuses(&set("r", company(Company::Apart, &["a", "bb"], true)), Code::VmNotFound);
    world.refuses(&set("r", on(&["a"], &[(1, 10), (7, 5)], true)), Code::HostNotFound);
    world.accepts(&set("r", on(&["a"], &[(1, 10), (7, 5)], false)));
    world.refuses(&set("r", on(&["a"], &[(1, 0)], true)), Code::InvalidValue);
    world.refuses(&set("r", on(&["a"], &[(1, 1_001)], true)), Code::InvalidValue);
    world.refuses(&set("r", on(&["a"], &[], true)), Code::InvalidValue);
    world.refuses(&set("r", on(&[], &[(1, 1)], true)), Code::InvalidValue);
    world.refuses(&set("r", company(Company::Apart, &["a"], true)), Code::InvalidValue);
    world.refuses(&Change::DeleteRule { name: "none".parse().unwrap() }, Code::RuleNotFound);
}

#[test]
fn of_vms_to_be_together_the_first_goes_where_there_is_room_for_all() {
    let mut fleet = Fleet::new(3, 1, 4);
    for (number, fillers) in [(1, 2), (2, 1), (3, 0)] {
        for filler in 0..fillers {
            let name = format!("filler{number}-{filler}");
            fleet.add(&name, ANY);
            assert!(fleet.run_on(&name, &node(number)));
        }
    }
    for name in ["a", "b", "c"] {
        fleet.add(name, ANY);
    }
    let alone = fleet.board().choose((&vm("a"), &fleet.spec.vms[&vm("a")]), None).unwrap();
    assert_eq!(alone.host, node(1), "alone it is packed");
    fleet.spec.rules.insert("t".parse().unwrap(), company(Company::Together, &["a", "b", "c"], true));
    let mut board = fleet.board();
    for name in ["a", "b", "c"] {
        let place = board.take((&vm(name), &fleet.spec.vms[&vm(name)]), None).unwrap();
        assert_eq!(place.host, node(2), "VM {name}");
    }
}

#[test]
fn a_vm_goes_back_to_a_preferred_host_only_if_its_rule_says_so_and_only_as_far_as_there_is_room() {
    let mut fleet = Fleet::new(2, 1, 1);
    for name in ["a", "b"] {
        fleet.add(name, ANY);
    }
    assert!(fleet.run_on("a", &node(2)));
    let mut rule = on(&["a", "b"], &[(1, 10), (2, 5)], false);
    fleet.spec.rules.insert("home".parse().unwrap(), rule.clone());
    let (moves, findings) = fleet.board().failback(&fleet.plan);
    assert_eq!(moves, []);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].code, Code::RuleFailback);
    assert!(findings[0].message.contains("node1"), "{}", findings[0]);

    if let Rule::Hosts { failback, .. } = &mut rule {
        *failback = true;
    }
    fleet.spec.rules.insert("home".parse().unwrap(), rule);
    let (moves, findings) = fleet.board().failback(&fleet.plan);
    assert_eq!(findings, []);
    assert_eq!(moves.len(), 1);
    assert_eq!((&moves[0].vm, &moves[0].from, &moves[0].to.host), (&vm("a"), &node(2), &node(1)));

    let lost = Standing::Lost { since: Timestamp(1) };
    fleet.plan.hosts.get_mut(&node(1)).unwrap().standing = lost;
    assert_eq!(fleet.board().failback(&fleet.plan), (vec![], vec![]), "the preferred host is not there");
    fleet.plan.hosts.get_mut(&node(1)).unwrap().standing = Standing::Up;
    assert!(fleet.run_on("b", &node(1)));
    assert_eq!(fleet.board().failback(&fleet.plan), (vec![], vec![]), "the preferred host is full");
}

#[test]
fn declared_rules_become_changes_after_the_vms_that_they_are_about() {
    let mut world = world(&["a"]);
    let text = r#"{"vms":[{"name":"b","hardware":{"vcpus":2,"memory_mib":512,"firmware":"bios"}}],
        "rules":{"apart":{"rule":"vms","vms":["a","b"],"kind":"apart"}}}"#;
    let declared: Declaration = serde_json::from_str(text).unwrap();
    let hosts = [&host()];
    let changes = declare::changes(&declared, &world.spec, &hosts).unwrap();
    assert_eq!(changes.len(), 2);
    for change in &changes {
        world.accepts(change);
    }
    assert_eq!(declare::changes(&declared, &world.spec, &hosts).unwrap(), []);
    assert_eq!(world.spec.rules.len(), 1);
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let vms = || {
        prop::collection::btree_set(0u8..5, 1..5)
            .prop_map(|vms| vms.into_iter().map(|at| vm(&format!("vm{at}"))).collect())
    };
    let hosts = prop::collection::btree_map((1usize..7).prop_map(node), 1u16..4, 1..4);
    let rack = (0u8..3)
        .prop_map(|rack| BTreeMap::from([("rack".parse().unwrap(), rack.to_string().parse().unwrap())]));
    prop_oneof![
        (vms(), hosts, any::<bool>()).prop_map(|(vms, hosts, strict)| Rule::Hosts {
            vms,
            hosts,
            strict,
            failback: false
        }),
        (vms(), rack, any::<bool>()).prop_map(|(vms, labels, strict)| Rule::Labels { vms, labels, strict }),
        (vms(), any::<bool>(), any::<bool>()).prop_map(|(vms, apart, strict)| {
            Rule::Vms { vms, kind: if apart { Company::Apart } else { Company::Together }, strict }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What rules mean for one VM and one host is the oracle.
    #[test]
    fn a_vm_gets_a_host_that_no_strict_rule_forbids_and_that_the_others_like_most(
        rules in prop::collection::vec(any_rule(), 0..5),
        placed in prop::collection::vec(0usize..7, 4),
        racks in prop::collection::vec(0u8..4, 6),
    ) {
        let mut fleet = Fleet::new(6, 1, 2);
        for (at, rack) in racks.iter().enumerate() {
            let labels = BTreeMap::from([("rack".parse().unwrap(), rack.to_string().parse().unwrap())]);
            fleet.spec.hosts.get_mut(&node(at + 1)).unwrap().labels = labels;
        }
        for (at, number) in placed.iter().enumerate() {
            // The VM that is placed comes with others that wait, so that nobody's company is to come with it.
            let name = format!("vm{}", at + 1);
            fleet.add(&name, ANY);
            if *number == 0 || !fleet.run_on(&name, &node(*number)) {
                fleet.spec.vms.get_mut(&vm(&name)).unwrap().run = Run::Stopped;
            }
        }
        fleet.add("vm0", ANY);
        let numbered = rules.into_iter().enumerate();
        fleet.spec.rules = numbered.map(|(at, rule)| (format!("r{at}").parse().unwrap(), rule)).collect();
        let (name, board) = (vm("vm0"), fleet.board());
        let places = board.places().clone();
        let has_room = |number: usize| {
            fleet.plan.bookings.keys().filter(|slot| slot.gpu.host == node(number)).count() < 2
        };
        let allowed = |number: &usize| {
            !fleet.spec.rules.values().any(|rule| forbids(rule, &name, &node(*number), &fleet.spec, &places))
        };
        let liked = |number: usize| -> i32 {
            fleet.spec.rules.values().map(|rule| likes(rule, &name, &node(number), &fleet.spec, &places)).sum()
        };
        let best = (1..7).filter(|number| has_room(*number)).filter(allowed).map(liked).max();
        match board.choose((&name, &fleet.spec.vms[&name]), None) {
            Ok(place) => {
                let number = (1..7).find(|number| node(*number) == place.host).unwrap();
                prop_assert!(allowed(&number), "host {number}");
                prop_assert_eq!(Some(liked(number)), best);
            }
            Err(finding) => {
                prop_assert_eq!(best, None, "{}", finding);
                let code = if (1..7).any(has_room) { Code::RuleWaits } else { Code::NoFreePartition };
                prop_assert_eq!(finding.code, code);
            }
        }
        for number in (1..7).filter(|number| has_room(*number)) {
            let here = board.choose((&name, &fleet.spec.vms[&name]), Some(&node(number)));
            prop_assert_eq!(here.is_ok(), allowed(&number));
        }
        for finding in placement::broken(&fleet.spec, &places) {
            prop_assert_eq!(finding.code, Code::RuleBroken);
        }
    }
}
