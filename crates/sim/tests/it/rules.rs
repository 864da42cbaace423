//! Rules about where VMs run, while hosts come and go.

use tranche_sim::Happened;

use crate::playing::{holds, play};

const HOSTS: &str = r#""hosts": {"a": {"labels": {"rack": "1"}}, "b": {}, "c": {"labels": {"rack": "1"}}}"#;
/// The preferred host dies, and comes back.
const ABSENCE: &str =
    r#"{"at_ms": 30000, "event": {"power_off": "b"}}, {"at_ms": 90000, "event": {"power_on": "b"}}"#;

fn homes(failback: bool) -> String {
    format!(
        r#""rules": {{"home": {{"rule": "hosts", "vms": ["v1", "v2"], "hosts": {{"a": 1, "b": 9}}, "failback": {failback}}}}}"#
    )
}

#[test]
fn vms_go_back_to_the_host_that_they_prefer_one_after_the_other_if_their_rule_says_so() {
    let report = play(&format!(
        r#"{{{HOSTS}, "vms": {{"v1": {{}}, "v2": {{"gpu": {{"kind": "none"}}}}}}, {}, "events": [{ABSENCE}], "until_ms": 240000,
            "expect": {{"placement": {{"v1": "b", "v2": "b"}}}}}}"#,
        homes(true)
    ));
    holds(&report);
    let back: Vec<(u64, bool)> = report
        .records
        .iter()
        .filter(|record| record.at_ms > 90_000)
        .filter_map(|record| match &record.what {
            Happened::Ended { .. } => Some((record.at_ms, false)),
            Happened::Started { .. } => Some((record.at_ms, true)),
            _ => None,
        })
        .collect();
    let order: Vec<bool> = back.iter().map(|(_, started)| *started).collect();
    assert_eq!(order.len(), 4, "each ends once and starts once: {:#?}", report.records);
    assert!(!order[0], "{:#?}", report.records);
}

#[test]
fn vms_stay_where_they_went_if_their_rule_does_not_say_so() {
    holds(&play(&format!(
        r#"{{{HOSTS}, "vms": {{"v1": {{}}, "v2": {{"gpu": {{"kind": "none"}}}}}}, {}, "events": [{ABSENCE}], "until_ms": 240000,
            "expect": {{"placement": {{"v1": "a", "v2": "a"}}, "findings": ["rule_failback"]}}}}"#,
        homes(false)
    )));
}

#[test]
fn a_strict_rule_about_labels_is_kept_when_a_host_dies() {
    holds(&play(&format!(
        r#"{{{HOSTS}, "vms": {{"v1": {{}}}},
            "rules": {{"rack": {{"rule": "labels", "vms": ["v1"], "labels": {{"rack": "1"}}, "strict": true}}}},
            "events": [{{"at_ms": 30000, "event": {{"power_off": "a"}}}}, {{"at_ms": 90000, "event": {{"power_off": "b"}}}},
                       {{"at_ms": 95000, "event": {{"power_on": "a"}}}}],
            "until_ms": 160000, "expect": {{"placement": {{"v1": "c"}}}}}}"#
    )));
}
