//! A cluster that is brought up to date one host after the other: the oldest version leads to the end.

use tranche_sim::{Happened, Report};

use crate::playing::{holds, play};

/// Who led when, in order.
fn leads(report: &Report) -> Vec<(u64, &str)> {
    let leads = report.records.iter().filter(|record| matches!(record.what, Happened::Leads));
    leads.map(|record| (record.at_ms, record.host.as_str())).collect()
}

#[test]
fn the_one_host_that_is_not_up_to_date_yet_leads_and_does_so_again_when_it_is_back() {
    let report = play(
        r#"
        hosts: { a: { version: 1.10.0 }, b: { version: 1.9.0 }, c: { version: 1.10.0 } }
        vms: { v1: {}, v2: {} }
        events:
          - { at_ms: 30000, event: { power_off: b } }
          - { at_ms: 60000, event: { power_on: b } }
        until_ms: 120000
        expect: { running: [v1, v2] }
        "#,
    );
    holds(&report);
    let leads = leads(&report);
    let before = |at_ms: u64| leads.iter().rfind(|(led_ms, _)| *led_ms < at_ms).map(|(_, host)| *host);
    assert_eq!(before(30_000), Some("b"), "{leads:?}");
    assert!(matches!(before(60_000), Some("a" | "c")), "{leads:?}");
    assert_eq!(before(120_000), Some("b"), "{leads:?}");
}
