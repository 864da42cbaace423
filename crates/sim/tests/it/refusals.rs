//! Scenarios that cannot be played, and what is said to them.

use tranche_sim::run;

use crate::playing::read;

#[track_caller]
fn is_refused(text: &str, message: &str) {
    let refusal = run(&read(text)).expect_err("it cannot be played").to_string();
    assert!(refusal.contains(message), "{refusal}");
}

#[test]
fn a_host_that_is_not_there_is_named_wherever_it_is_meant() {
    let refused = "The scenario names host x, which it does not have.";
    for part in [
        "events: [{at_ms: 1, event: {power_off: x}}]",
        "events: [{at_ms: 1, event: {cut: {one: a, other: x}}}]",
        "events: [{at_ms: 1, event: {cut_one_way: {from: x, to: a}}}]",
        "events: [{at_ms: 1, event: {store_slow: {host: x, ms: 5}}}]",
        "events: [{at_ms: 1, event: {member_kill: witness}}, {at_ms: 1, event: {power_off: x}}]\nwitness: true",
        "expect: {placement: {v1: x}}",
        "rules: {r: {rule: hosts, vms: [v1], hosts: {x: 1}}}",
    ] {
        is_refused(
            &format!("hosts: {{a: {{}}, b: {{}}}}\nvms: {{v1: {{}}}}\nuntil_ms: 1000\n{part}"),
            refused,
        );
    }
}

#[test]
fn a_vm_that_is_never_there_is_named() {
    let refused = "The scenario names VM x, which it neither has in `vms` nor adds with `vm_add`.";
    for part in [
        "events: [{at_ms: 1, event: {vm_crash: x}}]",
        "events: [{at_ms: 1, event: {vm_starts_fail: {vm: x, tries: 2}}}]",
        "events: [{at_ms: 1, event: {rule_set: {name: r, rule: {rule: vms, kind: apart, vms: [v1, x]}}}}]",
        "expect: {running: [x]}",
        "expect: {off: [x]}",
    ] {
        is_refused(&format!("hosts: {{a: {{}}}}\nvms: {{v1: {{}}}}\nuntil_ms: 1000\n{part}"), refused);
    }
    let added = "hosts: {a: {}}\nuntil_ms: 20000\nexpect: {running: [x]}\n\
                 events: [{at_ms: 5000, event: {vm_add: {vm: x}}}, {at_ms: 9000, event: {vm_crash: x}}]";
    assert!(run(&read(added)).is_ok_and(|report| report.ok), "one that is added on the way is there");
}

#[test]
fn numbers_that_cannot_be_are_refused_before_anything_is_played() {
    is_refused("hosts: {}\nuntil_ms: 1", "one host at least");
    is_refused("hosts: {a: {}}\nuntil_ms: 86400001", "86400000 ms at most");
    is_refused("hosts: {a: {partitions: 3}}\nuntil_ms: 1", "split into 1, 2, 4, 8 or 16");
    is_refused("hosts: {a: {gpus: 17}}\nuntil_ms: 1", "16 GPUs at most");
    let short = "hosts: {a: {}}\nuntil_ms: 1\nfailover: {timers: {restart_ms: 5000}}";
    is_refused(short, "restart_ms is at least 1000 more than reset_ms");
    let fast = "hosts: {a: {}}\nuntil_ms: 1\nevents: [{at_ms: 1, event: {host_slow: {host: a, factor: 0}}}]";
    is_refused(fast, "1 to 100 times as slow");
}

#[test]
fn a_witness_is_a_third_voice_and_nothing_else() {
    is_refused(
        "hosts: {a: {}, b: {}, c: {}}\nwitness: true\nuntil_ms: 1",
        "third member of the store beside two",
    );
    is_refused(
        "hosts: {a: {}, witness: {}}\nwitness: true\nuntil_ms: 1",
        "neither of which is called witness",
    );
    let drained =
        "hosts: {a: {}, b: {}}\nwitness: true\nuntil_ms: 1\nevents: [{at_ms: 1, event: {drain: witness}}]";
    is_refused(drained, "nothing else can befall it");
}
