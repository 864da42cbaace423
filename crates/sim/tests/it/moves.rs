//! VMs that go from host to host while they run, and what goes wrong on their way.

use tranche_sim::{Happened, Report};

use crate::playing::{holds, play, starts};

/// Three hosts that send VMs, two VMs that run on `a`, and what befalls them.
fn story(events: &str, seed: u64) -> Report {
    let report = play(&format!(
        "seed: {seed}
hosts:
  a: {{ travels: true }}
  b: {{ travels: true }}
  c: {{ travels: true }}
rules:
  home: {{ rule: hosts, vms: [one, two], hosts: {{ a: 10 }} }}
vms:
  one: {{}}
  two: {{ gpu: {{ kind: none }} }}
events:
{events}until_ms: 240000
expect: {{ running: [one, two] }}
"
    ));
    holds(&report);
    report
}

/// On which hosts VMs went on that were sent there.
fn arrivals(report: &Report) -> Vec<(&str, &str)> {
    let arrived = report.records.iter().filter_map(|record| match &record.what {
        Happened::WentOn { vm } => Some((vm.as_str(), record.host.as_str())),
        _ => None,
    });
    arrived.collect()
}

/// A seed whose transfers neither hang nor lose an answer.
const PLAIN: u64 = 7;

#[test]
fn a_drained_host_is_empty_without_a_single_restart() {
    let report = story("  - { at_ms: 20000, event: { drain: a } }\n", PLAIN);
    assert_eq!(starts(&report, 0, 240_000).len(), 2, "each once: {:#?}", report.records);
    let moved: Vec<&str> = arrivals(&report).into_iter().map(|(vm, _)| vm).collect();
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert!(report.placement.values().all(|host| host.as_str() != "a"), "{:?}", report.placement);
}

#[test]
fn what_comes_to_nothing_twice_is_restarted_and_what_moves_only_while_it_runs_is_tried_again() {
    let fails = "  - { at_ms: 15000, event: { vm_moves_fail: { vm: one, tries: 2 } } }\n";
    let report = story(&format!("{fails}  - {{ at_ms: 20000, event: {{ drain: a }} }}\n"), PLAIN);
    let restarted = starts(&report, 20_000, 240_000);
    assert_eq!(restarted.iter().map(|(_, vm, _)| *vm).collect::<Vec<_>>(), ["one"], "{restarted:?}");
    let only = play(
        "seed: 7
hosts: { a: { travels: true }, b: { travels: true } }
rules: { home: { rule: hosts, vms: [one], hosts: { a: 10 } } }
vms: { one: { availability: { migration: live_only } } }
events:
  - { at_ms: 15000, event: { vm_moves_fail: { vm: one, tries: 2 } } }
  - { at_ms: 20000, event: { vm_migrate: { vm: one, to: b } } }
until_ms: 240000
expect: { placement: { one: b } }
",
    );
    holds(&only);
    assert_eq!(starts(&only, 20_000, 240_000), [], "{:#?}", only.records);
}

#[test]
fn whoever_dies_on_the_way_each_vm_runs_on_exactly_one_host_in_the_end() {
    for seed in 0..6 {
        for (at_ms, host) in [(23_000, "a"), (23_000, "b"), (27_000, "a"), (27_000, "c"), (31_000, "b")] {
            let events = format!(
                "  - {{ at_ms: 20000, event: {{ drain: a }} }}
  - {{ at_ms: {at_ms}, event: {{ power_off: {host} }} }}
  - {{ at_ms: {at_ms}, event: {{ network_off: c }} }}
  - {{ at_ms: 60000, event: {{ power_on: {host} }} }}
  - {{ at_ms: 60000, event: {{ network_on: c }} }}
"
            );
            story(&events, seed);
        }
    }
}

#[test]
fn a_daemon_that_dies_while_it_sends_leaves_the_vm_where_it_is_or_where_it_was_sent() {
    for seed in 0..6 {
        let kills = [21_500, 24_000, 28_000]
            .map(|at_ms| format!("  - {{ at_ms: {at_ms}, event: {{ daemon_kill: a }} }}\n"));
        story(&format!("  - {{ at_ms: 20000, event: {{ drain: a }} }}\n{}", kills.concat()), seed);
    }
}
