//! Defects that the simulator has shown. Those that were mended come true; those that were not yet still break, and just so:
//! whoever mends one says here that it comes true.

use std::fs;
use std::path::Path;

use tranche_sim::Report;

use crate::playing::{holds, play};

fn played(file: &str) -> Report {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/known").join(file);
    play(&fs::read_to_string(path).expect("the scenario is there"))
}

#[track_caller]
fn comes_true(file: &str) {
    holds(&played(file));
}

#[track_caller]
fn still_breaks(file: &str, sign: &str) {
    let report = played(file);
    let found = report.violations.iter().any(|violation| violation.what.contains(sign));
    assert!(found, "it is mended, or breaks otherwise: {:#?}", report.violations);
}

#[test]
fn a_heartbeat_that_comes_late_speaks_for_no_watchdog_that_was_stopped() {
    comes_true("late-heartbeat.yaml");
}

#[test]
fn a_word_about_a_host_counts_for_the_silence_that_it_was_given_in() {
    comes_true("word-that-outlives-a-boot.yaml");
}

#[test]
fn a_clock_that_is_set_back_lets_no_vm_wait() {
    comes_true("clock-set-back.yaml");
}

#[test]
fn a_vm_that_is_removed_while_its_host_starts_it_is_ended_there() {
    comes_true("removal-during-a-start.yaml");
}

#[test]
fn a_watch_that_dies_silently_is_believed_for_ever() {
    still_breaks("watch-that-dies-silently.yaml", "VM v2 was to run, and does not");
}

#[test]
fn a_store_that_answers_in_a_fifth_of_a_second_ends_all_failover() {
    still_breaks("store-that-is-slow.yaml", "VM v1 was to run, and does not");
}

#[test]
fn a_host_whose_power_was_cut_without_a_quorum_is_cut_again_whenever_it_boots() {
    still_breaks("fence-without-a-quorum.yaml", "VM v1 was to run, and does not");
}
