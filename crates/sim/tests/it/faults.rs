//! Each fault by itself: that it does what it says, and what a cluster makes of it.

use tranche_sim::{Happened, Report};

use crate::playing::{befell, holds, play, starts, when};

/// Three hosts with all VMs on the first, and events that follow.
const ON_THE_FIRST: &str = "hosts: { a: {}, b: {}, c: {} }\nvms: { v1: {}, v2: {} }\nevents:\n";

fn ends(report: &Report) -> usize {
    report.records.iter().filter(|record| matches!(record.what, Happened::Ended { .. })).count()
}

#[test]
fn a_host_whose_writes_arrive_and_whose_answers_do_not_is_reset_before_anybody_takes_its_vms() {
    let story = |event: &str| {
        play(&format!(
            "{ON_THE_FIRST}{event}\nuntil_ms: 120000\nexpect: {{ running: [v1, v2], findings: [] }}"
        ))
    };
    let deaf = story(
        "  - { at_ms: 30000, event: { cut_one_way: { from: b, to: a } } }\n  - { at_ms: 30000, event: { cut_one_way: { from: c, to: a } } }",
    );
    let silent = story("  - { at_ms: 30000, event: { network_off: a } }");
    for report in [&deaf, &silent] {
        holds(report);
        assert!(befell(report, "a", "its watchdog resets it"), "{:#?}", report.records);
    }
    // One more heartbeat arrives, of which the host does not know; from then on it says nothing before it has heard.
    let first = |report: &Report| starts(report, 30_000, 120_000)[0].0;
    assert!(first(&deaf) > first(&silent), "{} and {}", first(&deaf), first(&silent));
}

#[test]
fn a_member_that_is_heard_by_nobody_does_not_keep_the_others_from_the_store() {
    // Each member in turn reaches nobody, whoever leads the store.
    for (one, others) in [("a", ["b", "c"]), ("b", ["a", "c"]), ("c", ["a", "b"])] {
        let report = play(&format!(
            "{ON_THE_FIRST}  - {{ at_ms: 30000, event: {{ cut_one_way: {{ from: {one}, to: {} }} }} }}
  - {{ at_ms: 30000, event: {{ cut_one_way: {{ from: {one}, to: {} }} }} }}
until_ms: 120000\nexpect: {{ running: [v1, v2] }}",
            others[0], others[1]
        ));
        holds(&report);
    }
}

#[test]
fn power_that_goes_while_a_host_boots_leaves_it_off() {
    let report = play(&format!(
        "{ON_THE_FIRST}  - {{ at_ms: 30000, event: {{ power_off: a }} }}
  - {{ at_ms: 40000, event: {{ power_on: a }} }}
  - {{ at_ms: 50000, event: {{ power_off: a }} }}
until_ms: 120000\nexpect: {{ running: [v1, v2], findings: [host_down] }}"
    ));
    holds(&report);
    assert!(!befell(&report, "a", "it has booted"), "{:#?}", report.records);
}

#[test]
fn an_agent_cuts_the_power_of_a_host_that_boots() {
    let report = play(
        r#"
        hosts: { a: { agent: true, boot_ms: 30000 }, b: {}, c: {} }
        vms: { v1: {}, v2: {} }
        events:
          - { at_ms: 30000, event: { power_off: a } }
          - { at_ms: 31000, event: { power_on: a } }
        until_ms: 64000
        expect: { running: [v1, v2], findings: [host_down] }
        "#,
    );
    holds(&report);
    assert!(befell(&report, "a", "its power is cut by an agent"), "{:#?}", report.records);
    assert!(!befell(&report, "a", "it has booted"), "{:#?}", report.records);
}

#[test]
fn a_boot_that_fails_is_tried_again_and_one_that_hangs_waits_for_somebody() {
    let story = |hang: bool| {
        play(&format!(
            "{ON_THE_FIRST}  - {{ at_ms: 29000, event: {{ boots_fail: {{ host: a, tries: 2, hang: {hang} }} }} }}
  - {{ at_ms: 30000, event: {{ power_off: a }} }}
  - {{ at_ms: 31000, event: {{ power_on: a }} }}
until_ms: 200000\nexpect: {{ running: [v1, v2] }}"
        ))
    };
    let fails = story(false);
    holds(&fails);
    let booted_ms = when(&fails, "a", "it has booted").expect("the third boot succeeds");
    assert_eq!(booted_ms, 31_000 + 3 * 20_000);
    let hangs = story(true);
    holds(&hangs);
    assert!(befell(&hangs, "a", "its boot hangs") && !befell(&hangs, "a", "it has booted"));
}

#[test]
fn a_witness_that_is_killed_cut_off_and_without_power_costs_nobody_anything() {
    for (off, on) in [
        ("member_kill: witness", "member_start: witness"),
        ("power_off: witness", "power_on: witness"),
        ("network_off: witness", "network_on: witness"),
        ("cut: { one: a, other: witness }", "network_on: witness"),
        ("cut_one_way: { from: witness, to: b }", "network_on: witness"),
    ] {
        let report = play(&format!(
            "hosts: {{ a: {{}}, b: {{}} }}\nwitness: true\nvms: {{ v1: {{}}, v2: {{}} }}\nevents:
  - {{ at_ms: 30000, event: {{ {off} }} }}\n  - {{ at_ms: 90000, event: {{ {on} }} }}
until_ms: 120000\nexpect: {{ running: [v1, v2], no_resets: true }}"
        ));
        holds(&report);
        assert_eq!(starts(&report, 0, 120_000).len(), 2, "{off}: each once: {:#?}", report.records);
    }
}

#[test]
fn without_its_witness_a_pair_of_hosts_does_not_survive_the_loss_of_one() {
    let story = |events: &str, expect: &str| {
        holds(&play(&format!(
            "hosts: {{ a: {{}}, b: {{}} }}\nwitness: true\nvms: {{ v1: {{}} }}\nevents:\n{events}
  - {{ at_ms: 40000, event: {{ power_off: a }} }}\nuntil_ms: 100000\nexpect: {{ {expect} }}"
        )));
    };
    story("", "placement: { v1: b }");
    story("  - { at_ms: 30000, event: { power_off: witness } }", "off: [v1]");
}

#[test]
fn the_stores_leader_is_killed_also_where_it_is_the_witness() {
    for seed in 0..12 {
        let kills = (0..6).map(|kill| {
            let at_ms = 20_000 + kill * 10_000;
            format!("  - {{ at_ms: {at_ms}, event: {{ store_leader_kill: {{ ms: 4000 }} }} }}\n")
        });
        holds(&play(&format!(
            "seed: {seed}\nhosts: {{ a: {{}}, b: {{}} }}\nwitness: true\nvms: {{ v1: {{}}, v2: {{}} }}\nevents:\n{}
until_ms: 100000\nexpect: {{ running: [v1, v2], no_resets: true }}",
            kills.collect::<String>()
        )));
    }
}

#[test]
fn a_daemon_that_is_restarted_while_nobody_can_write_does_not_lose_its_host() {
    let report = play(&format!(
        "{ON_THE_FIRST}  - {{ at_ms: 30000, event: {{ member_kill: b }} }}
  - {{ at_ms: 30000, event: {{ member_kill: c }} }}
  - {{ at_ms: 60000, event: {{ daemon_kill: a }} }}
  - {{ at_ms: 90000, event: {{ daemon_kill: a }} }}
  - {{ at_ms: 90000, event: {{ daemon_kill: b }} }}
  - {{ at_ms: 150000, event: {{ member_start: b }} }}
  - {{ at_ms: 150000, event: {{ member_start: c }} }}
until_ms: 240000\nexpect: {{ running: [v1, v2], no_resets: true, findings: [] }}"
    ));
    holds(&report);
    assert!(starts(&report, 30_000, 240_000).is_empty(), "{:#?}", report.records);
}

#[test]
fn a_slow_store_delays_and_one_that_takes_longer_than_anybody_waits_is_as_good_as_none() {
    let report = play(&format!(
        "{ON_THE_FIRST}  - {{ at_ms: 20000, event: {{ store_slow: {{ ms: 100 }} }} }}
  - {{ at_ms: 60000, event: {{ power_off: a }} }}
until_ms: 120000\nexpect: {{ running: [v1, v2] }}"
    ));
    holds(&report);
    let report = play(&format!(
        "{ON_THE_FIRST}  - {{ at_ms: 30000, event: {{ store_slow: {{ host: a, ms: 6000 }} }} }}
  - {{ at_ms: 60000, event: {{ store_fast: {{ host: a }} }} }}
until_ms: 120000\nexpect: {{ running: [v1, v2] }}"
    ));
    holds(&report);
    assert!(befell(&report, "a", "its watchdog resets it"), "{:#?}", report.records);
}

#[test]
fn a_slow_host_takes_its_time_and_is_not_given_up() {
    let story = |factor: u32| {
        let report = play(&format!(
            "hosts: {{ a: {{}} , b: {{}}, c: {{}} }}\nevents:
  - {{ at_ms: 10000, event: {{ host_slow: {{ host: a, factor: {factor} }} }} }}
  - {{ at_ms: 20000, event: {{ vm_add: {{ vm: v1 }} }} }}
until_ms: 120000\nexpect: {{ placement: {{ v1: a }}, no_resets: true }}"
        ));
        holds(&report);
        starts(&report, 20_000, 120_000)[0].0
    };
    assert!(story(20) > story(1) + 3_000);
}

#[test]
fn a_clock_that_is_set_while_a_host_dies_changes_nothing_but_what_is_said_of_it() {
    for ms in [-3_600_000_i64, -30_000, 30_000, 3_600_000] {
        let report = play(&format!(
            "{ON_THE_FIRST}  - {{ at_ms: 28000, event: {{ clock_step: {{ host: b, ms: {ms} }} }} }}
  - {{ at_ms: 29000, event: {{ clock_step: {{ host: c, ms: {} }} }} }}
  - {{ at_ms: 30000, event: {{ power_off: a }} }}
until_ms: 60000\nexpect: {{ running: [v1, v2], findings: [clock_off] }}",
            ms / 2
        ));
        holds(&report);
        assert!(starts(&report, 30_000, 60_000).len() == 2, "{:#?}", report.records);
    }
}

#[test]
fn a_watch_that_is_lost_is_begun_anew() {
    // Whoever leads hears that a host reports what fell there, or the VM would not be tried elsewhere.
    for host in ["a", "b", "c"] {
        let report = play(&format!(
            "hosts: {{ a: {{}}, b: {{}}, c: {{}} }}\nvms: {{ v1: {{ availability: {{ restarts: {{ local: 0, elsewhere: 1 }} }} }} }}
events:
  - {{ at_ms: 25000, event: {{ watch_lost: {{ host: {host} }} }} }}
  - {{ at_ms: 30000, event: {{ vm_crash: v1 }} }}
until_ms: 90000\nexpect: {{ running: [v1] }}"
        ));
        holds(&report);
        assert_eq!(starts(&report, 30_000, 90_000).len(), 1, "{:#?}", report.records);
        assert_ne!(starts(&report, 30_000, 90_000)[0].2, "a", "{:#?}", report.records);
    }
}

#[test]
fn a_store_that_is_full_takes_nothing_new_and_goes_on_where_it_was() {
    let report = play(&format!(
        "{ON_THE_FIRST}  - {{ at_ms: 30000, event: store_full }}
  - {{ at_ms: 30100, event: {{ vm_stop: v1 }} }}
  - {{ at_ms: 32000, event: store_room }}
until_ms: 90000\nexpect: {{ running: [v2], off: [v1], no_resets: true }}"
    ));
    holds(&report);
    let ended = report.records.iter().find(|record| matches!(record.what, Happened::Ended { .. }));
    assert!(ended.is_some_and(|record| record.at_ms > 32_000), "{:#?}", report.records);
}

#[test]
fn a_daemon_that_ends_in_order_stops_its_watchdog_and_its_vms_run_on() {
    for host in ["a", "b"] {
        let report = play(&format!(
            "{ON_THE_FIRST}  - {{ at_ms: 30000, event: {{ daemon_stop: {host} }} }}
  - {{ at_ms: 90000, event: {{ daemon_start: {host} }} }}
until_ms: 120000\nexpect: {{ placement: {{ v1: a, v2: a }}, no_resets: true }}"
        ));
        holds(&report);
        assert!(befell(&report, host, "its daemon has ended"), "{:#?}", report.records);
        assert_eq!(starts(&report, 0, 120_000).len(), 2, "each once: {:#?}", report.records);
        assert_eq!(ends(&report), 0, "{:#?}", report.records);
    }
}

#[test]
fn nobody_cuts_the_power_of_a_host_whose_daemon_was_stopped_in_good_order() {
    for host in ["a", "b"] {
        let report = play(&format!(
            "hosts: {{ a: {{ agent: true }}, b: {{ agent: true }}, c: {{ agent: true }} }}\nvms: {{ v1: {{}}, v2: {{}} }}\nevents:
  - {{ at_ms: 30000, event: {{ daemon_stop: {host} }} }}
until_ms: 120000\nexpect: {{ placement: {{ v1: a, v2: a }}, no_resets: true, findings: [host_unattended] }}"
        ));
        holds(&report);
        assert!(!befell(&report, host, "its power is cut by an agent"), "{:#?}", report.records);
        assert_eq!(ends(&report), 0, "{:#?}", report.records);
    }
}

#[test]
fn nobody_cuts_the_power_of_a_host_that_boots_more_slowly_than_the_others_after_all_lost_theirs() {
    let report = play(
        "hosts: { a: { agent: true, watchdog: false, boot_ms: 150000 }, b: { agent: true }, c: { agent: true } }
vms: { v1: {}, v2: {} }
events:
  - { at_ms: 30000, event: { power_off: a } }
  - { at_ms: 30000, event: { power_off: b } }
  - { at_ms: 30000, event: { power_off: c } }
  - { at_ms: 60000, event: { power_on: a } }
  - { at_ms: 60000, event: { power_on: b } }
  - { at_ms: 60000, event: { power_on: c } }
until_ms: 300000\nexpect: { placement: { v1: a, v2: a } }",
    );
    holds(&report);
    assert!(!befell(&report, "a", "its power is cut by an agent"), "{:#?}", report.records);
}

#[test]
fn a_guest_that_shuts_itself_down_stays_off_however_long_it_ran_and_whatever_its_host_remembers() {
    // Its host sees it first, and forgets in time how often it fell, and everything when its daemon is killed.
    for (before, at_ms) in [("", 720_000), ("  - { at_ms: 40000, event: { daemon_kill: a } }\n", 60_000)] {
        let report = play(&format!(
            "{ON_THE_FIRST}{before}  - {{ at_ms: {at_ms}, event: {{ store_slow: {{ ms: 1500 }} }} }}
  - {{ at_ms: {at_ms}, event: {{ vm_shutdown: v1 }} }}
  - {{ at_ms: {}, event: {{ store_fast: {{}} }} }}
until_ms: {}\nexpect: {{ running: [v2], off: [v1], no_resets: true, findings: [guest_powered_off] }}",
            at_ms + 20_000,
            at_ms + 60_000
        ));
        holds(&report);
        assert_eq!(starts(&report, at_ms, at_ms + 60_000), [], "{:#?}", report.records);
    }
}

#[test]
fn what_is_decided_for_very_many_vms_takes_several_writes_and_each_leaves_a_sound_plan() {
    let vms: String = (0..60).map(|n| format!("  v{n:02}: {{}}\n")).collect();
    let report = play(&format!(
        "hosts:\n  a: {{ gpus: 4, partitions: 16 }}\n  b: {{ gpus: 4, partitions: 16 }}\n  c: {{ gpus: 4, partitions: 16 }}
vms:\n{vms}events:\n  - {{ at_ms: 100000, event: {{ power_off: a }} }}
  - {{ at_ms: 110150, event: {{ store_leader_kill: {{ ms: 3000 }} }} }}
until_ms: 300000"
    ));
    holds(&report);
    assert_eq!(report.placement.len(), 60, "{:?}", report.placement);
    assert!(report.placement.values().all(|host| host.as_str() != "a"), "{:?}", report.placement);
}
