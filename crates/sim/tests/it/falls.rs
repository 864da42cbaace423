//! VMs that crash and starts that fail: tried here, then elsewhere, then given up.

use tranche_sim::{Happened, Report};

use crate::playing::{holds, play};

/// Three hosts, and a VM that may be tried twice on each of two.
const SETUP: &str = r#""hosts": {"a": {}, "b": {}, "c": {}},
    "vms": {"v1": {"availability": {"restarts": {"local": 1, "elsewhere": 1}}}}"#;

fn failed_starts(report: &Report) -> usize {
    report.records.iter().filter(|record| matches!(record.what, Happened::StartFailed { .. })).count()
}

#[test]
fn a_guest_that_crashes_once_is_started_again_where_it_was() {
    let report = play(&format!(
        r#"{{{SETUP}, "events": [{{"at_ms": 30000, "event": {{"vm_crash": "v1"}}}}],
            "until_ms": 60000, "expect": {{"placement": {{"v1": "a"}}}}}}"#
    ));
    holds(&report);
}

#[test]
fn a_vm_that_falls_too_often_on_one_host_runs_on_another() {
    let report = play(&format!(
        r#"{{{SETUP}, "events": [{{"at_ms": 29000, "event": {{"vm_starts_fail": {{"vm": "v1", "tries": 1}}}}}},
                                 {{"at_ms": 30000, "event": {{"vm_crash": "v1"}}}}],
            "until_ms": 120000, "expect": {{"running": ["v1"]}}}}"#
    ));
    holds(&report);
    assert_ne!(report.placement.values().next().map(|host| host.as_str()), Some("a"));
    assert_eq!(failed_starts(&report), 1, "the one that was to fail, wherever it was tried");
}

#[test]
fn a_vm_that_falls_everywhere_is_given_up_until_somebody_starts_it() {
    let events = r#"{"at_ms": 29000, "event": {"vm_starts_fail": {"vm": "v1", "tries": 3}}},
                    {"at_ms": 30000, "event": {"vm_crash": "v1"}}"#;
    let report = play(&format!(
        r#"{{{SETUP}, "events": [{events}], "until_ms": 300000, "expect": {{"off": ["v1"], "findings": ["vm_given_up"]}}}}"#
    ));
    holds(&report);
    assert_eq!(failed_starts(&report), 3, "after the crash once, and twice on the other host");
    let report = play(&format!(
        r#"{{{SETUP}, "events": [{events}, {{"at_ms": 300000, "event": {{"vm_start": "v1"}}}}],
            "until_ms": 360000, "expect": {{"running": ["v1"]}}}}"#
    ));
    holds(&report);
}

#[test]
fn where_there_is_no_other_host_a_vm_is_tried_again_and_again() {
    let report = play(
        r#"{"hosts": {"a": {}}, "vms": {"v1": {"availability": {"restarts": {"local": 1, "elsewhere": 1}}}},
            "events": [{"at_ms": 29000, "event": {"vm_starts_fail": {"vm": "v1", "tries": 5}}}, {"at_ms": 30000, "event": {"vm_crash": "v1"}}],
            "until_ms": 400000, "expect": {"running": ["v1"]}}"#,
    );
    holds(&report);
}

/// Three tries on the first host and as many on two others, as the policy says; then no more.
#[test]
fn a_vm_is_tried_as_often_as_its_policy_says_here_and_on_as_many_other_hosts() {
    let report = play(
        r#"
        hosts: { a: {}, b: {}, c: {}, d: {} }
        vms: { v1: { availability: { restarts: { local: 2, elsewhere: 2 } } } }
        events:
          - { at_ms: 0, event: { vm_starts_fail: { vm: v1, tries: 100 } } }
        until_ms: 600000
        expect: { off: [v1], findings: [vm_given_up] }
        "#,
    );
    holds(&report);
    let mut tries: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for record in &report.records {
        if matches!(record.what, Happened::StartFailed { .. }) {
            *tries.entry(record.host.as_str()).or_default() += 1;
        }
    }
    let tries: Vec<usize> = tries.into_values().collect();
    assert_eq!(tries, [3, 3, 3], "three hosts of four, once and two more times each: {:#?}", report.records);
}
