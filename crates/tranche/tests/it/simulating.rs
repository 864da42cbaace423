//! `tranche sim`, which needs no daemon.

use std::fs;

use expect_test::expect;

use crate::run_bare;

#[test]
fn a_scenario_is_played_and_one_that_names_what_is_not_there_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scenario.yaml");
    let play = |text: &str| {
        fs::write(&path, text).unwrap();
        run_bare(&["sim", "run", path.to_str().unwrap()])
    };
    let good = play("hosts: {a: {}}\nvms: {v1: {}}\nuntil_ms: 20000\nexpect: {placement: {v1: a}}\n");
    assert!(good.contains("\"ok\": true") && good.ends_with("exit 0\n"), "{good}");
    let missed = play("hosts: {a: {}}\nvms: {v1: {}}\nuntil_ms: 20000\nexpect: {off: [v1]}\n");
    assert!(missed.contains("VM v1 was to be off, and runs") && missed.ends_with("exit 6\n"), "{missed}");
    expect![[r#"
        ! error: The scenario cannot be played. The scenario names host b, which it does not have.
        exit 3
    "#]]
    .assert_eq(&play("hosts: {a: {}}\nuntil_ms: 1\nevents: [{at_ms: 1, event: {power_off: b}}]\n"));
}

#[test]
fn stories_are_played_from_a_seed_on() {
    expect![[r#"
        2 stories from seed 0 on: no invariant broke
        exit 0
    "#]]
    .assert_eq(&run_bare(&["sim", "fuzz", "--seeds", "2"]));
}
