//! Defects that the simulator has shown and that are not mended yet: each scenario still breaks, and just so.
//!
//! Whoever mends one moves its scenario from here to where scenarios come true.

use std::fs;
use std::path::Path;

use crate::playing::play;

#[track_caller]
fn still_breaks(file: &str, sign: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/known").join(file);
    let report = play(&fs::read_to_string(path).expect("the scenario is there"));
    let found = report.violations.iter().any(|violation| violation.what.contains(sign));
    assert!(found, "it is mended, or breaks otherwise: {:#?}", report.violations);
}

#[test]
fn a_heartbeat_that_comes_late_speaks_for_a_watchdog_that_was_stopped() {
    still_breaks("late-heartbeat.yaml", "VM v1 starts on b while it runs on [\"a\"]");
}

#[test]
fn a_word_about_a_host_outlives_its_boot() {
    still_breaks("word-that-outlives-a-boot.yaml", "while it runs on [\"a\"]");
}

#[test]
fn a_watch_that_dies_silently_is_believed_for_ever() {
    still_breaks("watch-that-dies-silently.yaml", "VM v2 was to run, and does not");
}

#[test]
fn a_clock_that_is_set_back_lets_a_vm_wait_for_as_long() {
    still_breaks("clock-set-back.yaml", "VM v1 was to run, and does not");
}

#[test]
fn a_store_that_answers_in_a_fifth_of_a_second_ends_all_failover() {
    still_breaks("store-that-is-slow.yaml", "VM v1 was to run, and does not");
}

#[test]
fn a_vm_that_is_removed_while_its_host_starts_it_runs_for_ever() {
    still_breaks("removal-during-a-start.yaml", "VM v3 was to be off, and runs");
}

#[test]
fn a_host_whose_power_was_cut_without_a_quorum_is_cut_again_whenever_it_boots() {
    still_breaks("fence-without-a-quorum.yaml", "VM v1 was to run, and does not");
}
