//! The proof that nothing was written to a store which can be read.
//!
//! A store that is full (etcd: the alarm NOSPACE) refuses every heartbeat, while its members follow their leader and answer whoever
//! reads. So [`super::Quorum`] proves nothing, and each host with a watchdog would reset itself although nobody was given up: giving
//! a host up is a write, too.
//!
//! A host whose heartbeat was refused reads its own standing instead. Each answer tells the store's revision, which every write
//! moves on. Two answers of the same revision, the second asked at `q` and the first come at `a`, show that nothing was written from
//! `a` until `q`; and the host's standing in the second shows that it was not given up by then.
//!
//! That alone is not enough: whoever leads has counted the host's silence meanwhile, and could give it up the moment that there is
//! room again. So who leads counts silence only while it knows that the store takes writes ([`super::Watchman`]). It knows of a write
//! when the revision has moved between two looks, or after it wrote something itself; each time it knows a moment `l` no later than
//! that write, and if it knows of none since `l` for [`gap_ms`], every host is given its time anew, again and again until there is
//! one. Now let a host have proof from `a` until `q`, with `q − a` at least [`gap_ms`]. The last write before `a` and the first one
//! after `q` are as far apart, and whoever leads has measured more than that between them, because it measures from a moment before
//! the one to a moment after the other. So it counts the host's silence from after `q`, and gives it up no earlier than `q` plus the
//! whole time that a silent host is given. The host may live on as if a heartbeat had been acknowledged that it sent at `q`.
//!
//! One that has just begun to listen knows of no write before; it counts from the first that it knows of, which is after `q`, too.

use crate::spec::Timers;

/// For how long nothing may have been written to a store that is taken to be one which can be written, in milliseconds. Who leads
/// looks twice in an election's time, and knows of a write once in two looks.
pub fn gap_ms(timers: &Timers) -> u64 {
    timers.election_ms.saturating_mul(3) / 2
}

/// A host has read its own standing, and it was not given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When it asked, in milliseconds.
    pub asked_ms: u64,
    /// When the answer came, in milliseconds.
    pub answered_ms: u64,
    /// The revision of the store that the answer is of.
    pub revision: u64,
}

/// What was read since heartbeats are refused, as far as it hangs together.
#[derive(Debug, Clone, Default)]
pub struct Standstill {
    /// The first answer and the last one of the same revision.
    row: Option<(Sight, Sight)>,
}

impl Standstill {
    /// Takes an answer.
    pub fn take(&mut self, sight: Sight) {
        let first = self.row.map(|(first, _)| first).filter(|first| first.revision == sight.revision);
        self.row = Some((first.unwrap_or(sight), sight));
    }

    /// Until when it is proved that nothing was written, for long enough that whoever leads has noticed.
    pub fn proved_until(&self, timers: &Timers) -> Option<u64> {
        let (first, last) = self.row?;
        (last.asked_ms >= first.answered_ms.saturating_add(gap_ms(timers))).then_some(last.asked_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proved(sights: &[(u64, u64)]) -> Option<u64> {
        let mut standstill = Standstill::default();
        for (asked_ms, revision) in sights {
            let (asked_ms, revision) = (*asked_ms, *revision);
            standstill.take(Sight { asked_ms, answered_ms: asked_ms + 100, revision });
        }
        standstill.proved_until(&Timers::default())
    }

    #[test]
    fn a_store_that_stands_still_for_long_enough_is_proof_as_far_as_it_was_last_asked() {
        assert_eq!(proved(&[]), None);
        assert_eq!(proved(&[(0, 7), (1_599, 7)]), None, "whoever leads may not have noticed");
        assert_eq!(proved(&[(0, 7), (1_600, 7)]), Some(1_600));
        assert_eq!(proved(&[(0, 7), (1_600, 7), (5_000, 7)]), Some(5_000), "nothing was written in between");
    }

    #[test]
    fn whatever_is_written_begins_the_proof_anew() {
        assert_eq!(proved(&[(0, 7), (1_600, 7), (2_000, 8)]), None);
        assert_eq!(proved(&[(0, 7), (1_000, 8), (2_700, 8)]), Some(2_700));
    }
}
