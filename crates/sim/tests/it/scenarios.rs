//! Scenarios with one thing that goes wrong, and what must come of it.

use tranche_sim::{Happened, Record, Report};

use crate::playing::{holds, play};

fn first_start_after(report: &Report, at_ms: u64) -> u64 {
    let started = |happened: &Happened| matches!(happened, Happened::Started { .. });
    let start = report.records.iter().find(|record| record.at_ms > at_ms && started(&record.what));
    start.unwrap_or_else(|| panic!("{:#?}\n{:#?}", report.records, report.findings)).at_ms
}

#[test]
fn a_cluster_that_is_left_alone_runs_everything_and_resets_nobody() {
    holds(&play(
        r#"{"hosts": {"a": {}, "b": {}, "c": {}}, "vms": {"v1": {}, "v2": {}, "v3": {}, "v4": {}, "v5": {}},
            "until_ms": 120000, "expect": {"running": ["v1", "v2", "v3", "v4", "v5"], "no_resets": true}}"#,
    ));
}

/// A thousand of them: fifty clusters lose the leader of their store twenty times each.
#[test]
fn whoever_leads_the_store_is_lost_again_and_again_and_nobody_takes_a_host_for_dead() {
    let losses = |seed: u64| {
        let kills = (0..20).map(|loss| {
            // Some are over before anybody notices, some outlast an election.
            let (at_ms, ms) =
                (20_000 + loss * 8_000 + seed * 13 % 997, 200 + (seed * 7 + loss * 613) % 5_000);
            format!(r#"{{"at_ms": {at_ms}, "event": {{"store_leader_kill": {{"ms": {ms}}}}}}}"#)
        });
        kills.collect::<Vec<_>>().join(", ")
    };
    for seed in 0..50 {
        let report = play(&format!(
            r#"{{"seed": {seed}, "hosts": {{"a": {{}}, "b": {{"agent": true}}, "c": {{}}}}, "vms": {{"v1": {{}}, "v2": {{}}, "v3": {{}}}},
                "events": [{}], "until_ms": 200000, "expect": {{"running": ["v1", "v2", "v3"], "no_resets": true}}}}"#,
            losses(seed)
        ));
        holds(&report);
        let starts = |record: &&Record| matches!(record.what, Happened::Started { .. });
        assert_eq!(report.records.iter().filter(starts).count(), 3, "{:#?}", report.records);
        let cuts =
            |record: &&Record| matches!(&record.what, Happened::Befell { event } if event.contains("agent"));
        assert_eq!(report.records.iter().filter(cuts).count(), 0, "{:#?}", report.records);
        let leaders = report.records.iter().filter(|record| matches!(record.what, Happened::Leads)).count();
        assert!(leaders >= 1, "somebody leads");
    }
}

#[test]
fn the_vms_of_a_host_without_power_run_elsewhere_as_soon_as_its_watchdog_is_believed() {
    let report = play(
        r#"{"hosts": {"a": {}, "b": {}, "c": {}}, "vms": {"v1": {}, "v2": {}, "v3": {}},
            "events": [{"at_ms": 30000, "event": {"power_off": "a"}}],
            "until_ms": 60000, "expect": {"running": ["v1", "v2", "v3"], "findings": ["host_down"]}}"#,
    );
    holds(&report);
    let took_ms = first_start_after(&report, 30_000) - 30_000;
    // Ten seconds until the watchdog is believed; then a partition is made ready and QEMU started, which takes time here, too.
    assert!((10_000..=13_500).contains(&took_ms), "{took_ms}");
}

#[test]
fn an_agent_is_believed_as_soon_as_it_has_seen_the_power_off() {
    let took = (0..6).map(|seed| {
        let report = play(&format!(
            r#"{{"seed": {seed}, "hosts": {{"a": {{"agent": true}}, "b": {{"agent": true}}, "c": {{"agent": true}}}},
                "vms": {{"v1": {{}}, "v2": {{}}, "v3": {{}}}},
                "events": [{{"at_ms": 30000, "event": {{"network_off": "a"}}}}],
                "until_ms": 60000, "expect": {{"running": ["v1", "v2", "v3"]}}}}"#
        ));
        holds(&report);
        first_start_after(&report, 30_000) - 30_000
    });
    let took: Vec<u64> = took.collect();
    // Where the store's own leader is lost with the host, silence counts only once there is another one.
    let least = took.iter().min().is_some_and(|ms| *ms <= 6_000 + 2_000 + 3_000);
    assert!(least && took.iter().all(|ms| *ms <= 14_000), "{took:?}");
}

#[test]
fn a_host_whose_network_is_cut_is_reset_by_its_watchdog_before_its_vms_start_elsewhere() {
    let report = play(
        r#"{"hosts": {"a": {}, "b": {}, "c": {}}, "vms": {"v1": {}, "v2": {}, "v3": {}},
            "events": [{"at_ms": 30000, "event": {"network_off": "a"}}],
            "until_ms": 90000, "expect": {"running": ["v1", "v2", "v3"]}}"#,
    );
    holds(&report);
}

#[test]
fn a_cluster_without_a_quorum_of_its_store_keeps_what_runs() {
    holds(&play(
        r#"{"hosts": {"a": {}, "b": {}, "c": {}}, "vms": {"v1": {}, "v2": {}, "v3": {}},
            "events": [{"at_ms": 30000, "event": {"member_kill": "a"}}, {"at_ms": 31000, "event": {"member_kill": "b"}},
                       {"at_ms": 90000, "event": {"member_start": "a"}}, {"at_ms": 95000, "event": {"member_start": "b"}}],
            "until_ms": 150000, "expect": {"running": ["v1", "v2", "v3"], "no_resets": true}}"#,
    ));
}

#[test]
fn a_whole_cluster_that_lost_its_power_starts_everything_again() {
    holds(&play(
        r#"{"hosts": {"a": {}, "b": {}, "c": {}}, "vms": {"v1": {}, "v2": {}, "v3": {}, "v4": {}},
            "events": [{"at_ms": 30000, "event": {"power_off": "a"}}, {"at_ms": 30000, "event": {"power_off": "b"}},
                       {"at_ms": 30000, "event": {"power_off": "c"}}, {"at_ms": 60000, "event": {"power_on": "a"}},
                       {"at_ms": 61000, "event": {"power_on": "b"}}, {"at_ms": 75000, "event": {"power_on": "c"}}],
            "until_ms": 180000, "expect": {"running": ["v1", "v2", "v3", "v4"]}}"#,
    ));
}

#[test]
fn a_drained_host_is_empty_and_its_vms_run_elsewhere() {
    let report = play(
        r#"{"hosts": {"a": {}, "b": {}, "c": {}}, "vms": {"v1": {}, "v2": {}, "v3": {}},
            "events": [{"at_ms": 30000, "event": {"drain": "a"}}],
            "until_ms": 90000, "expect": {"running": ["v1", "v2", "v3"], "no_resets": true, "findings": ["host_maintenance"]}}"#,
    );
    holds(&report);
    assert!(report.placement.values().all(|host| host.as_str() != "a"), "{:?}", report.placement);
}

#[test]
fn without_watchdog_and_agent_nothing_starts_elsewhere_until_somebody_says_so() {
    let setup = r#""hosts": {"a": {"watchdog": false}, "b": {"watchdog": false}, "c": {"watchdog": false}},
        "vms": {"v1": {}, "v2": {}, "v3": {}, "v4": {}, "v5": {}}"#;
    let report = play(&format!(
        r#"{{{setup}, "events": [{{"at_ms": 30000, "event": {{"power_off": "a"}}}}], "until_ms": 90000,
            "expect": {{"findings": ["host_unfenced"]}}}}"#
    ));
    holds(&report);
    assert!(report.placement.len() < 5, "{:?}", report.placement);
    holds(&play(&format!(
        r#"{{{setup}, "events": [{{"at_ms": 30000, "event": {{"power_off": "a"}}}}, {{"at_ms": 60000, "event": {{"confirm_down": "a"}}}}],
            "until_ms": 90000, "expect": {{"running": ["v1", "v2", "v3", "v4", "v5"]}}}}"#
    )));
}

#[test]
fn a_daemon_that_starts_where_nobody_answers_leaves_the_watchdog_to_do_its_work() {
    holds(&play(
        r#"{"hosts": {"a": {}, "b": {}, "c": {}}, "vms": {"v1": {}, "v2": {}, "v3": {}},
            "events": [{"at_ms": 30000, "event": {"network_off": "a"}}, {"at_ms": 33500, "event": {"daemon_kill": "a"}}],
            "until_ms": 90000, "expect": {"running": ["v1", "v2", "v3"]}}"#,
    ));
}

#[test]
fn a_clock_that_is_off_is_named_and_nothing_follows_from_it() {
    holds(&play(
        r#"{"hosts": {"a": {}, "b": {"clock_skew_ms": -3600000}, "c": {"clock_skew_ms": 900}}, "vms": {"v1": {}, "v2": {}},
            "until_ms": 60000, "expect": {"running": ["v1", "v2"], "no_resets": true, "findings": ["clock_off"]}}"#,
    ));
}

#[test]
fn a_seed_replays_exactly() {
    assert_eq!(tranche_sim::fuzz(7), tranche_sim::fuzz(7));
}

#[test]
fn a_host_that_was_silent_for_a_moment_and_cannot_be_cut_is_taken_up_again_by_its_own_word() {
    holds(&play(
        r#"{"hosts": {"a": {"watchdog": false, "agent": true}, "b": {"watchdog": false, "agent": true}, "c": {"watchdog": false, "agent": true}},
            "vms": {"v1": {}, "v2": {}, "v3": {}, "v4": {}, "v5": {}, "v6": {}},
            "events": [{"at_ms": 20000, "event": {"agent_off": "a"}}, {"at_ms": 30000, "event": {"network_off": "a"}},
                       {"at_ms": 37000, "event": {"network_on": "a"}}],
            "until_ms": 90000, "expect": {"running": ["v1", "v2", "v3", "v4", "v5", "v6"], "no_resets": true}}"#,
    ));
}
