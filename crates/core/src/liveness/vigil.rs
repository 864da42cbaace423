//! A daemon that comes up with a watchdog that the one before left armed, while the store does not answer.
//!
//! It knows nothing of its host: which VMs it has, and whether it was given up. Yet what let the daemon before it feed the watchdog
//! lets this one feed it as well: the proof that nobody can write to the store ([`Quorum`]). For whoever leads gives every host its
//! whole time anew once the store is back, those that it has given up among them; and by then a heartbeat of this daemon has told it
//! where its host stands. Until the proof is there, nothing is fed: the time that is left is the one that the daemon before had.

use super::{Lifeline, Poll, Quorum};
use crate::spec::Timers;

/// What such a daemon knows. Times are milliseconds of its monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Vigil {
    quorum: Quorum,
    lifeline: Lifeline,
}

impl Vigil {
    /// Takes what the members of the store say. `timers` are those by which the daemon before lived, and `bound_ms` is the shortest
    /// bound that it may have been held to. Returns whether it is proved that nobody can write.
    pub fn hear(&mut self, poll: &Poll, timers: &Timers, bound_ms: u64) -> bool {
        self.quorum.take(poll, timers);
        let proved = self.quorum.proved_until(timers);
        if let Some(until_ms) = proved {
            self.lifeline.acknowledged(until_ms, bound_ms);
        }
        proved.is_some()
    }

    /// For how long its host may go on, as far as it knows.
    pub fn lifeline(&self) -> &Lifeline {
        &self.lifeline
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Farewell, MemberSays, Parting};
    use super::*;

    const WATCHDOG_MS: u64 = 4_000;
    const BOUND_MS: u64 = 8_000;

    /// A vigil over so many polls, twice a second from 0, in all of which a majority has no leader.
    fn vigil(polls: u64) -> Vigil {
        let (mut vigil, timers) = (Vigil::default(), Timers::default());
        for number in 0..polls {
            let asked_ms = number * 500;
            let says =
                vec![MemberSays::NoLeader { term: 7 }, MemberSays::NoLeader { term: 7 }, MemberSays::Nothing];
            vigil.hear(&Poll { asked_ms, answered_ms: asked_ms + 100, says }, &timers, BOUND_MS);
        }
        vigil
    }

    #[test]
    fn nothing_is_fed_before_it_is_proved_that_nobody_can_write() {
        for polls in 0..=3 {
            assert!(!vigil(polls).lifeline().may_feed(polls * 500, WATCHDOG_MS), "{polls} polls");
        }
        assert!(vigil(4).lifeline().may_feed(1_600, WATCHDOG_MS));
    }

    #[test]
    fn the_last_proof_counts_like_a_heartbeat_that_was_acknowledged_then() {
        let proved_ms = 1_500;
        let vigil = vigil(4);
        assert!(vigil.lifeline().may_feed(proved_ms + 4_000, WATCHDOG_MS), "reset after 8 s at most");
        assert!(!vigil.lifeline().may_feed(proved_ms + 4_001, WATCHDOG_MS));
        assert_eq!(vigil.lifeline().ends_ms(), Some(proved_ms + BOUND_MS));
    }

    #[test]
    fn a_leader_that_is_back_ends_it() {
        let (mut vigil, timers) = (vigil(4), Timers::default());
        let poll = Poll { asked_ms: 2_000, answered_ms: 2_100, says: vec![MemberSays::HasLeader; 3] };
        assert!(!vigil.hear(&poll, &timers, BOUND_MS));
        assert!(!vigil.lifeline().may_feed(6_000, WATCHDOG_MS));
    }

    #[test]
    fn without_a_proof_a_daemon_that_is_told_to_end_holds_the_watchdog_until_it_has_reset_the_host() {
        let mut parting = Parting::begins(0);
        assert_eq!(parting.next(vigil(0).lifeline(), 0, WATCHDOG_MS, &Timers::default()), Farewell::Holds);
    }
}
