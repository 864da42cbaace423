//! Stories that nobody wrote. Many more are played with `tranche sim fuzz`.

use tranche_sim::{Planted, fuzz, fuzz_with, story};

/// How many stories are played in each test run.
const STORIES: u64 = 40;
/// Within how many stories a planted defect is found.
const FOUND_WITHIN: u64 = 1_000;

#[track_caller]
fn nothing_breaks(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let report = fuzz(seed).expect("the story can be played");
        assert!(report.ok, "seed {seed}: {:#?}", report.violations);
    }
}

/// Plays stories from a seed on, which is near one that is known to find it: those before take minutes where the simulator is
/// not optimised.
#[track_caller]
fn is_found(planted: Planted, first: u64, is_it: impl Fn(&str) -> bool) {
    let found = (first..FOUND_WITHIN).chain(0..first).find(|seed| {
        let report = fuzz_with(*seed, planted).expect("the story can be played");
        report.violations.iter().any(|violation| is_it(&violation.what))
    });
    assert!(found.is_some(), "{planted:?} was not found within {FOUND_WITHIN} stories");
}

#[test]
fn no_story_breaks_an_invariant() {
    nothing_breaks(0..STORIES / 2);
}

#[test]
fn no_other_story_does_either() {
    nothing_breaks(STORIES / 2..STORIES);
}

#[test]
fn a_leader_that_does_not_wait_for_the_fence_is_found() {
    is_found(Planted::NoFenceWait, 0, |what| what.contains("while it runs on"));
}

#[test]
fn a_start_before_its_booking_is_found() {
    is_found(Planted::BookingAfterStart, 0, |what| what.contains("bookings there"));
}

#[test]
fn a_guest_that_shut_itself_down_and_is_started_again_is_found() {
    is_found(Planted::ForgottenShutdown, 0, |what| what.contains("whose guest shut itself down"));
}

#[test]
fn a_vm_that_goes_on_before_it_is_off_where_it_was_is_found() {
    is_found(Planted::GoesOnAtOnce, 93, |what| what.contains("runs on"));
}

/// Long enough for falls to be forgotten, and for a host that does not come back from a reboot not to be waited for any more.
#[test]
fn a_few_stories_are_quiet_for_longer_than_any_rule_waits() {
    let long: Vec<u64> = (0..1_000).filter(|seed| story(*seed).until_ms > 16 * 60_000).collect();
    assert!((3..30).contains(&long.len()), "they take long to play: {long:?}");
    nothing_breaks(long[0]..long[0] + 1);
}

#[test]
fn leaders_that_write_without_terms_are_found() {
    is_found(Planted::StaleLeaderWrites, 61, |what| {
        ["runs on", "runs with", "bookings", "goes backwards", "holds"].iter().any(|sign| what.contains(sign))
    });
}
