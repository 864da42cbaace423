//! Hosts that an agent has cut: they are turned on again, once, and rejoin by themselves.

use tranche_sim::{Happened, Record, Report};

use crate::playing::{befell, holds, play, starts, when};

const CUT: &str = "its power is cut by an agent";
const TURNED_ON: &str = "an agent turns it on";

/// Two VMs, all on the first of three hosts, which agents can cut.
fn story(first: &str, events: &str) -> Report {
    play(&format!(
        "hosts: {{ a: {{ agent: true{first} }}, b: {{ agent: true }}, c: {{ agent: true }} }}\nvms: {{ v1: {{}}, v2: {{}} }}
events:\n{events}until_ms: 150000\nexpect: {{ running: [v1, v2] }}"
    ))
}

fn count(report: &Report, event: &str) -> usize {
    let is_it =
        |record: &&Record| matches!(&record.what, Happened::Befell { event: befell } if befell == event);
    report.records.iter().filter(is_it).count()
}

fn is_down(report: &Report) -> bool {
    report.findings.iter().any(|finding| finding.code.as_str() == "host_down")
}

#[test]
fn a_host_that_an_agent_has_cut_is_turned_on_and_rejoins_whenever_its_network_is_back() {
    for network_ms in [45_000, 80_000] {
        let report = story(
            "",
            &format!(
                "  - {{ at_ms: 30000, event: {{ network_off: a }} }}\n  - {{ at_ms: {network_ms}, event: {{ network_on: a }} }}\n"
            ),
        );
        holds(&report);
        let [cut_ms, on_ms] = [CUT, TURNED_ON].map(|event| when(&report, "a", event).expect(event));
        assert!(on_ms > cut_ms + 1_000, "it was seen off, and that was stored: {:#?}", report.records);
        assert_eq!([CUT, TURNED_ON].map(|event| count(&report, event)), [1, 1], "{:#?}", report.records);
        assert!(befell(&report, "a", "it has booted") && !is_down(&report), "{:#?}", report.findings);
        let moved = starts(&report, 30_000, 150_000);
        assert!(moved.len() == 2 && moved.iter().all(|(_, _, host)| *host != "a"), "{moved:?}");
    }
}

#[test]
fn a_host_stays_off_that_is_to_be_left_off_or_that_somebody_works_on() {
    let cut = "  - { at_ms: 50000, event: { network_off: a } }\n";
    let drained = format!("  - {{ at_ms: 20000, event: {{ drain: a }} }}\n{cut}");
    for report in [story(", leave_off: true", cut), story("", &drained)] {
        holds(&report);
        assert!(befell(&report, "a", CUT) && !befell(&report, "a", TURNED_ON), "{:#?}", report.records);
        assert!(is_down(&report), "{:#?}", report.findings);
    }
    let report = story("", &format!("{drained}  - {{ at_ms: 70000, event: {{ undrain: a }} }}\n"));
    holds(&report);
    assert_eq!(count(&report, TURNED_ON), 1, "it shall serve again: {:#?}", report.records);
}

#[test]
fn a_host_whose_boot_comes_to_nothing_is_turned_on_once_and_left_to_somebody() {
    let report = story(
        "",
        "  - { at_ms: 29000, event: { boots_fail: { host: a, tries: 1, hang: true } } }\n  - { at_ms: 30000, event: { network_off: a } }\n",
    );
    holds(&report);
    assert_eq!(count(&report, TURNED_ON), 1, "{:#?}", report.records);
    assert!(befell(&report, "a", "its boot hangs") && is_down(&report), "{:#?}", report.records);
}

#[test]
fn whoever_else_a_host_dies_with_it_is_turned_on_by_one_who_leads_and_no_vm_runs_twice() {
    // Whoever led is cut, or its store is; and the network of the others is bad meanwhile.
    for seed in 0..20 {
        let report = play(&format!(
            "seed: {seed}\nhosts: {{ a: {{ agent: true }}, b: {{ agent: true }}, c: {{ agent: true }} }}\nvms: {{ v1: {{}}, v2: {{}}, v3: {{}} }}
placement: spread\nrough_until_ms: 100000\nevents:
  - {{ at_ms: 30000, event: {{ network_off: {} }} }}\n  - {{ at_ms: 36500, event: {{ store_leader_kill: {{ ms: 3000 }} }} }}
  - {{ at_ms: 60000, event: network_whole }}\nuntil_ms: 200000\nexpect: {{ running: [v1, v2, v3] }}",
            ["a", "b", "c"][seed % 3]
        ));
        holds(&report);
        assert!(!is_down(&report), "{seed}: {:#?}", report.records);
    }
}
