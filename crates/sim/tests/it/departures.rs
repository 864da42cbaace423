//! Hosts that their administrators shut down and reboot: what becomes of their VMs, by policy.

use tranche_sim::{Happened, Report};

use crate::playing::{holds, play};

/// Three VMs, all on the first of three hosts, which have agents that would cut the power of a silent one.
const SETUP: &str = r#""hosts": {"a": {"agent": true}, "b": {"agent": true}, "c": {"agent": true}},
    "vms": {"v1": {}, "v2": {}, "v3": {"gpu": {"kind": "none"}}}"#;

/// When and where VMs were started after the beginning.
fn starts(report: &Report) -> Vec<(u64, &str)> {
    let late = report.records.iter().filter(|record| record.at_ms > 30_000);
    let started = late.filter(|record| matches!(record.what, Happened::Started { .. }));
    started.map(|record| (record.at_ms, record.host.as_str())).collect()
}

fn was_cut(report: &Report) -> bool {
    let cut = "its power is cut by an agent";
    report.records.iter().any(|record| matches!(&record.what, Happened::Befell { event } if event == cut))
}

#[test]
fn vms_of_a_host_that_reboots_wait_for_it_and_nobody_cuts_its_power() {
    for policy in ["conditional", "freeze"] {
        let report = play(&format!(
            r#"{{{SETUP}, "shutdown": "{policy}", "events": [{{"at_ms": 30000, "event": {{"reboot": "a"}}}}],
                "until_ms": 120000, "expect": {{"placement": {{"v1": "a", "v2": "a", "v3": "a"}}, "no_resets": true}}}}"#
        ));
        holds(&report);
        assert_eq!(starts(&report).len(), 3, "{policy}: each once, after the boot: {:#?}", report.records);
        assert!(!was_cut(&report), "{policy}: {:#?}", report.records);
    }
}

#[test]
fn vms_of_a_host_that_is_shut_down_run_elsewhere_before_it_is_down() {
    for policy in ["conditional", "restart", "migrate"] {
        let report = play(&format!(
            r#"{{{SETUP}, "shutdown": "{policy}", "events": [{{"at_ms": 30000, "event": {{"shutdown": "a"}}}}],
                "until_ms": 120000,
                "expect": {{"running": ["v1", "v2", "v3"], "no_resets": true, "findings": ["host_down"]}}}}"#
        ));
        holds(&report);
        let starts = starts(&report);
        assert_eq!(starts.len(), 3, "{policy}: {:#?}", report.records);
        // Nobody waits for a silence to be judged: each guest takes up to five seconds, one after the other.
        assert!(starts.iter().all(|(at_ms, host)| *at_ms < 47_000 && *host != "a"), "{policy}: {starts:?}");
        assert!(!was_cut(&report), "{policy}: it took its leave: {:#?}", report.records);
    }
}

#[test]
fn vms_wait_for_ever_for_a_host_that_was_shut_down_if_that_is_the_policy() {
    let frozen = r#""shutdown": "freeze", "events": [{"at_ms": 30000, "event": {"shutdown": "a"}}"#;
    let report = play(&format!(
        r#"{{{SETUP}, {frozen}], "until_ms": 3600000,
            "expect": {{"off": ["v1", "v2", "v3"], "findings": ["host_down", "vm_waits_for_host"]}}}}"#
    ));
    holds(&report);
    let report = play(&format!(
        r#"{{{SETUP}, {frozen}, {{"at_ms": 600000, "event": {{"confirm_down": "a"}}}}], "until_ms": 660000,
            "expect": {{"running": ["v1", "v2", "v3"]}}}}"#
    ));
    holds(&report);
    let report = play(&format!(
        r#"{{{SETUP}, {frozen}, {{"at_ms": 600000, "event": {{"power_on": "a"}}}}], "until_ms": 660000,
            "expect": {{"placement": {{"v1": "a", "v2": "a", "v3": "a"}}}}}}"#
    ));
    holds(&report);
}

#[test]
fn vms_do_not_wait_for_ever_for_a_reboot_that_does_not_end() {
    let setup = SETUP.replace(r#""a": {"agent": true}"#, r#""a": {"agent": true, "boot_ms": 7200000}"#);
    let report = play(&format!(
        r#"{{{setup}, "events": [{{"at_ms": 30000, "event": {{"reboot": "a"}}}}], "until_ms": 1200000,
            "expect": {{"running": ["v1", "v2", "v3"]}}}}"#
    ));
    holds(&report);
    assert!(starts(&report).iter().all(|(at_ms, _)| *at_ms > 15 * 60_000), "{:?}", starts(&report));
}

#[test]
fn vms_do_not_wait_for_ever_for_a_reboot_of_which_nobody_heard_the_end() {
    // Its last words are lost, and no watchdog tells that it is down: what it ran is off, and it does not come back.
    let setup = SETUP
        .replace(r#""a": {"agent": true}"#, r#""a": {"agent": true, "watchdog": false, "boot_ms": 7200000}"#);
    let report = play(&format!(
        r#"{{{setup}, "events": [{{"at_ms": 30000, "event": {{"reboot": "a"}}}},
                                 {{"at_ms": 31000, "event": {{"store_off": "a"}}}}],
            "until_ms": 1200000, "expect": {{"running": ["v1", "v2", "v3"]}}}}"#
    ));
    holds(&report);
    assert!(starts(&report).iter().all(|(at_ms, _)| *at_ms > 15 * 60_000), "{:?}", starts(&report));
}

#[test]
fn a_host_that_goes_down_without_its_store_is_judged_by_its_silence() {
    let report = play(&format!(
        r#"{{{SETUP}, "events": [{{"at_ms": 29000, "event": {{"network_off": "a"}}}},
                                 {{"at_ms": 30000, "event": {{"shutdown": "a"}}}}],
            "until_ms": 240000, "expect": {{"running": ["v1", "v2", "v3"]}}}}"#
    ));
    holds(&report);
}
