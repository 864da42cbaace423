//! Hosts that join a cluster that lives, and hosts that are forgotten.

use crate::playing::{befell, holds, play, starts};

/// Nine VMs, where two hosts have room for eight.
const NINE: &str = "vms: { v1: {}, v2: {}, v3: {}, v4: {}, v5: {}, v6: {}, v7: {}, v8: {}, v9: {} }";

#[test]
fn a_vm_that_waits_for_room_starts_on_a_host_that_joins() {
    let report = play(&format!(
        "hosts: {{ a: {{}}, b: {{}}, c: {{ member: false }} }}\n{NINE}\nevents:
  - {{ at_ms: 30000, event: {{ host_join: c }} }}
until_ms: 60000\nexpect: {{ running: [v1, v2, v3, v4, v5, v6, v7, v8, v9], no_resets: true }}"
    ));
    holds(&report);
    let late = starts(&report, 30_000, 60_000);
    assert!(matches!(late[..], [(_, _, "c")]), "{late:?}");
}

#[test]
fn a_host_that_is_down_is_forgotten_and_shown_nothing_until_it_joins_anew() {
    let story = |until_ms: u64, expect: &str| {
        play(&format!(
            "hosts: {{ a: {{}}, b: {{}}, c: {{}} }}\nvms: {{ v1: {{}}, v2: {{}} }}\nplacement: spread\nevents:
  - {{ at_ms: 30000, event: {{ power_off: c }} }}
  - {{ at_ms: 60000, event: {{ host_remove: c }} }}
  - {{ at_ms: 70000, event: {{ power_on: c }} }}
  - {{ at_ms: 120000, event: {{ host_join: c }} }}
  - {{ at_ms: 130000, event: {{ vm_migrate: {{ vm: v1, to: c }} }} }}
until_ms: {until_ms}\nexpect: {{ {expect} }}"
        ))
    };
    let report = story(119_000, "running: [v1, v2], findings: []");
    holds(&report);
    assert!(befell(&report, "c", "is no member any more"), "{:#?}", report.records);
    assert!(
        report.findings.iter().all(|finding| !finding.message.contains("host c")),
        "{:?}",
        report.findings
    );
    holds(&story(180_000, "running: [v2], placement: { v1: c }"));
}

#[test]
fn a_host_that_has_vms_and_lives_is_not_forgotten() {
    let report = play(
        "hosts: { a: {}, b: {} }\nvms: { v1: {} }\nevents:
  - { at_ms: 30000, event: { host_remove: a } }
until_ms: 60000\nexpect: { placement: { v1: a } }",
    );
    holds(&report);
    assert!(!befell(&report, "a", "is no member any more"), "{:#?}", report.records);
}
