//! VMs that crash and starts that fail: tried here, then elsewhere, then given up.

use tranche_sim::{Happened, Report, Scenario, run};

fn play(text: &str) -> Report {
    let scenario: Scenario = serde_json::from_str(text).expect("the scenario is well-formed");
    run(&scenario).expect("the scenario can be played")
}

#[track_caller]
fn holds(report: &Report) {
    assert!(report.ok, "{:#?}\n{:#?}\n{:#?}", report.violations, report.records, report.findings);
}

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
    assert_eq!(failed_starts(&report), 2, "once here and once there");
}

#[test]
fn a_vm_that_falls_everywhere_is_given_up_until_somebody_starts_it() {
    let events = r#"{"at_ms": 29000, "event": {"vm_starts_fail": {"vm": "v1", "tries": 2}}},
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
