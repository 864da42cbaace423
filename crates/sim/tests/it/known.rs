//! Defects that the simulator has shown, and that are mended.

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
fn a_watch_that_dies_silently_is_not_believed_for_ever() {
    comes_true("watch-that-dies-silently.yaml");
}

#[test]
fn a_store_that_answers_in_a_fifth_of_a_second_ends_no_failover() {
    comes_true("store-that-is-slow.yaml");
}

#[test]
fn a_host_whose_power_was_cut_without_a_quorum_is_taken_up_again_when_it_has_booted() {
    comes_true("fence-without-a-quorum.yaml");
}
