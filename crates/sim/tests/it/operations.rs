//! What somebody who looks after a cluster does on some day, and what must come of it.

use std::collections::BTreeMap;
use std::fs;

use tranche_sim::{Happened, Report};

use crate::playing::{befell, docs, holds, play, starts, when};

#[track_caller]
fn example(name: &str) -> Report {
    let text = fs::read_to_string(docs("examples").join(name)).expect("the example is there");
    let report = play(&text);
    holds(&report);
    report
}

#[test]
fn maintenance_outlasts_the_reboots_of_its_host() {
    let report = example("maintenance.yaml");
    assert!(report.placement.values().all(|host| host.as_str() != "node1"), "{:?}", report.placement);
    let emptied_ms = starts(&report, 30_000, 60_000).last().expect("its VMs were moved").0;
    let later = starts(&report, emptied_ms + 1, 240_000);
    assert!(later.is_empty(), "nothing moves any more, whatever VMs prefer: {later:?}");
    assert!(when(&report, "node1", "it has booted").is_some_and(|ms| ms < 120_000), "{:#?}", report.records);
}

#[test]
fn network_work_under_a_pause_costs_no_vm_and_failover_works_afterwards() {
    let report = example("network-work.yaml");
    assert_eq!(starts(&report, 0, 200_000).len(), 3, "each once: {:#?}", report.records);
    assert!(!befell(&report, "node1", "its power is cut by an agent"), "{:#?}", report.records);
    let text = fs::read_to_string(docs("examples/network-work.yaml")).expect("the example is there");
    let text = text
        .replace("until_ms: 200000", "  - { at_ms: 200000, event: { power_off: node1 } }\nuntil_ms: 240000");
    let report = play(&text);
    holds(&report);
    assert!(report.placement.values().all(|host| host.as_str() != "node1"), "{:?}", report.placement);
}

#[test]
fn after_a_power_cut_everywhere_each_host_starts_its_vms_in_order_of_priority() {
    example("power-loss.yaml");
    // Against the order of their names.
    let priority = |n: u64| 100 * n;
    let vms = (1..=9).map(|n| format!("  v{n}: {{ availability: {{ priority: {} }} }}\n", priority(n)));
    let report = play(&format!(
        "hosts: {{ a: {{}}, b: {{}}, c: {{}} }}\nplacement: spread\nvms:\n{}events:
  - {{ at_ms: 40000, event: {{ power_off: a }} }}
  - {{ at_ms: 40000, event: {{ power_off: b }} }}
  - {{ at_ms: 40000, event: {{ power_off: c }} }}
  - {{ at_ms: 60000, event: {{ power_on: a }} }}
  - {{ at_ms: 60000, event: {{ power_on: b }} }}
  - {{ at_ms: 60000, event: {{ power_on: c }} }}
until_ms: 140000",
        vms.collect::<String>()
    ));
    holds(&report);
    assert_eq!(report.placement.len(), 9, "{:?}", report.placement);
    let mut order: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (_, vm, host) in starts(&report, 60_000, 140_000) {
        let number: u64 = vm[1..].parse().expect("a VM's name ends with its number");
        order.entry(host).or_default().push(priority(number));
    }
    assert_eq!(order.len(), 3, "{order:?}");
    for (host, priorities) in order {
        assert!(priorities.is_sorted_by(|one, next| one > next), "{host}: {priorities:?}");
    }
}

#[test]
fn two_of_three_members_of_the_store_are_lost_for_minutes_and_no_host_is_reset() {
    let report = play(
        r#"
        hosts: { a: {}, b: { agent: true }, c: {} }
        vms: { v1: {}, v2: {}, v3: {} }
        events:
          - { at_ms: 30000, event: { member_kill: a } }
          - { at_ms: 40000, event: { member_kill: b } }
          # What runs is looked after also while nothing can be decided.
          - { at_ms: 120000, event: { vm_crash: v1 } }
          - { at_ms: 330000, event: { member_start: b } }
          - { at_ms: 360000, event: { member_start: a } }
          # And then everything is as before.
          - { at_ms: 400000, event: { power_off: a } }
        until_ms: 460000
        expect: { running: [v1, v2, v3], no_resets: true }
        "#,
    );
    holds(&report);
    let meanwhile = starts(&report, 40_000, 400_000);
    assert_eq!(meanwhile.len(), 1, "only what crashed starts, where it was: {meanwhile:?}");
    assert!(!befell(&report, "b", "its power is cut by an agent"), "{:#?}", report.records);
}

#[test]
fn a_host_that_comes_back_stops_what_is_no_longer_its_own_and_takes_vms_again() {
    // Its watchdog is gone and the administrator lies about nothing: it was off when he looked, and came back with what it had.
    let report = play(
        r#"
        hosts: { a: { agent: true }, b: {}, c: {} }
        vms: { v1: {}, v2: {} }
        events:
          - { at_ms: 30000, event: { network_off: a } }
          - { at_ms: 60000, event: { network_on: a } }
          - { at_ms: 61000, event: { power_on: a } }
          - { at_ms: 120000, event: { vm_add: { vm: v3 } } }
        until_ms: 180000
        expect: { running: [v1, v2, v3] }
        "#,
    );
    holds(&report);
    let cut_ms = when(&report, "a", "its power is cut by an agent").expect("it was fenced");
    let moved = starts(&report, 30_000, 60_000);
    assert!(moved.iter().all(|(at_ms, _, host)| *at_ms > cut_ms && *host != "a"), "{moved:?}");
    assert_eq!(moved.len(), 2, "{moved:?}");
    let back = starts(&report, 61_000, 120_000);
    assert!(back.is_empty(), "it starts nothing that is another's: {back:?}");
    assert!(befell(&report, "a", "it has booted"), "{:#?}", report.records);
    let after = play(
        r#"
        hosts: { a: { agent: true }, b: {}, c: {} }
        vms: { v1: {}, v2: {} }
        rules: { home: { rule: hosts, vms: [v1], hosts: { a: 10 }, failback: true } }
        events:
          - { at_ms: 30000, event: { power_off: a } }
          - { at_ms: 70000, event: { power_on: a } }
        until_ms: 180000
        expect: { placement: { v1: a } }
        "#,
    );
    holds(&after);
    assert!(after.records.iter().any(|record| matches!(record.what, Happened::Ended { .. })));
}

#[test]
fn somebody_looks_at_a_silent_host_and_is_believed_only_if_it_is_off() {
    let story = |event: &str| {
        play(&format!(
            "hosts: {{ a: {{ watchdog: false }}, b: {{ watchdog: false }}, c: {{ watchdog: false }} }}\nvms: {{ v1: {{}} }}
events:\n  - {{ at_ms: 30000, event: {{ {event}: a }} }}\n  - {{ at_ms: 60000, event: {{ confirm_if_off: a }} }}\nuntil_ms: 90000"
        ))
    };
    let off = story("power_off");
    holds(&off);
    assert_eq!(starts(&off, 60_000, 90_000).len(), 1, "{:#?}", off.records);
    let on = story("network_off");
    holds(&on);
    assert_eq!(starts(&on, 60_000, 90_000).len(), 0, "{:#?}", on.records);
}

/// Three hosts and a VM that shall move to one of them, with what befalls them then.
fn migrated(to: &str, events: &[&str]) -> Report {
    let events: String = events.iter().map(|event| format!("  - {event}\n")).collect();
    play(&format!(
        "hosts: {{ a: {{ agent: true }}, b: {{ agent: true }}, c: {{ agent: true }} }}\nvms:\n  v1: {{}}\n  v2: {{}}\nevents:
  - {{ at_ms: 40000, event: {{ vm_migrate: {{ vm: v1{to} }} }} }}\n{events}until_ms: 160000"
    ))
}

#[test]
fn a_vm_that_is_told_to_move_is_shut_down_once_and_started_once() {
    for to in [", to: c", ""] {
        let report = migrated(to, &[]);
        holds(&report);
        let home = &report.placement[&"v1".parse().expect("a name")];
        assert!(
            if to.is_empty() { home.as_str() != "a" } else { home.as_str() == "c" },
            "{:?}",
            report.placement
        );
        let moved: Vec<_> = starts(&report, 40_000, 160_000);
        assert_eq!(moved.len(), 1, "{moved:?}");
    }
}

#[test]
fn a_vm_on_its_way_runs_elsewhere_whichever_of_its_two_hosts_dies() {
    for (dies, cut_ms) in
        ["a", "c"].into_iter().flat_map(|host| [40_200, 41_500, 43_000, 45_000].map(|ms| (host, ms)))
    {
        let cut = format!("{{ at_ms: {cut_ms}, event: {{ power_off: {dies} }} }}");
        let report = migrated(", to: c", &[&cut]);
        holds(&report);
        let home = report.placement.get(&"v1".parse().expect("a name"));
        assert!(home.is_some_and(|home| home.as_str() != dies), "{dies} at {cut_ms}: {:?}", report.placement);
    }
}

#[test]
fn a_vm_that_cannot_be_started_where_it_was_told_to_go_or_falls_there_later_goes_elsewhere() {
    for (to, at_ms) in [(", to: c", 40_000), ("", 40_000), (", to: c", 60_000), ("", 60_000)] {
        let fails = format!("{{ at_ms: {at_ms}, event: {{ vm_starts_fail: {{ vm: v1, tries: 4 }} }} }}");
        let crash = format!("{{ at_ms: {at_ms}, event: {{ vm_crash: v1 }} }}");
        let events: &[&str] = if at_ms > 40_000 { &[&fails, &crash] } else { &[&fails] };
        let report = migrated(to, events);
        holds(&report);
        assert_eq!(report.placement.len(), 2, "{to} {at_ms}: {:?} {:#?}", report.placement, report.findings);
    }
}
