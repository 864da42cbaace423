//! The proof that nobody can write to the store.
//!
//! When the store has lost its quorum for everybody, no heartbeat is acknowledged anywhere. A cluster that then resets
//! itself, host by host, turns a lost store into a lost cluster. A host may go on instead for as long as it can prove
//! that nobody was able to write, for then nobody was able to give it up either.
//!
//! The proof, for a store that agrees by Raft (etcd). A *poll* asks every member. It counts if a majority says that it has
//! no leader, or does not run. Two polls in a row, the second answered less than an election's time after the first was
//! asked, and with the same term, show that nothing was written between them: whoever wrote had a majority behind it, so a
//! member of each poll's majority followed a leader in between. Terms only grow, so that was a leader of the polls'
//! own term; and a follower forgets the leader of its term only after it has not heard of it for an election's time.
//!
//! A leader of ours, in turn, cannot read either while nobody can write. If that lasted for an election's time, it gives
//! every host its time anew when it is over ([`super::Watchman`]). So a row of polls that lasted as long proves that the
//! host is given up no earlier than the last of them plus the whole time that a silent host is given.

use crate::spec::Timers;

/// What a member of the store says when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberSays {
    /// It follows a leader, or leads.
    HasLeader,
    /// It has no leader.
    NoLeader {
        /// Its term.
        term: u64,
    },
    /// Its host says that it does not run, and that it will not run again for an election's time.
    NotRunning,
    /// Nothing.
    Nothing,
}

/// All members were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// When the first was asked, in milliseconds.
    pub asked_ms: u64,
    /// When the last had answered, or was not waited for any longer, in milliseconds.
    pub answered_ms: u64,
    /// What each said.
    pub says: Vec<MemberSays>,
}

impl Poll {
    /// The term in which a majority has no leader; none if they do not say so, or not with one voice. Members that do not
    /// run have no voice in the term.
    fn leaderless_term(&self) -> Option<Option<u64>> {
        if self.says.contains(&MemberSays::HasLeader) {
            return None;
        }
        let mut terms = self.says.iter().filter_map(|says| match says {
            MemberSays::NoLeader { term } => Some(*term),
            _ => None,
        });
        let first = terms.next();
        let one_voice = terms.all(|term| Some(term) == first);
        let counted = self.says.iter().filter(|says| **says != MemberSays::Nothing).count();
        (one_voice && counted * 2 > self.says.len()).then_some(first)
    }
}

/// The polls so far, as far as they hang together.
#[derive(Debug, Clone, Default)]
pub struct Quorum {
    row: Option<Row>,
}

#[derive(Debug, Clone)]
struct Row {
    term: Option<u64>,
    /// When the first poll of the row had been answered.
    since_ms: u64,
    /// When the last one was asked.
    until_ms: u64,
}

impl Quorum {
    /// Takes a poll.
    pub fn take(&mut self, poll: &Poll, timers: &Timers) {
        let Some(term) = poll.leaderless_term() else {
            self.row = None;
            return;
        };
        let goes_on = |row: &Row| {
            row.term == term && poll.answered_ms.saturating_sub(row.until_ms) < timers.election_ms
        };
        match self.row.as_mut().filter(|row| goes_on(row)) {
            Some(row) => row.until_ms = poll.asked_ms,
            None => self.row = Some(Row { term, since_ms: poll.answered_ms, until_ms: poll.asked_ms }),
        }
    }

    /// Until when it is proved that nobody could write, for long enough that nobody is given up soon after.
    pub fn proved_until(&self, timers: &Timers) -> Option<u64> {
        let row = self.row.as_ref()?;
        (row.until_ms >= row.since_ms + timers.election_ms).then_some(row.until_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::MemberSays::{HasLeader, NoLeader, NotRunning, Nothing};
    use super::*;

    fn poll(asked_ms: u64, says: &[MemberSays]) -> Poll {
        Poll { asked_ms, answered_ms: asked_ms + 100, says: says.to_vec() }
    }

    fn proved(polls: &[Poll]) -> Option<u64> {
        let timers = Timers::default();
        let mut quorum = Quorum::default();
        for poll in polls {
            quorum.take(poll, &timers);
        }
        quorum.proved_until(&timers)
    }

    const LOST: NoLeader3 = [NoLeader { term: 7 }, NoLeader { term: 7 }, Nothing];
    type NoLeader3 = [MemberSays; 3];

    #[test]
    fn a_row_of_polls_without_a_leader_proves_as_far_as_the_last_was_asked() {
        assert_eq!(proved(&[poll(0, &LOST), poll(500, &LOST), poll(1_000, &LOST)]), None, "not long enough");
        let row = [0, 500, 1_000, 1_500].map(|asked| poll(asked, &LOST));
        assert_eq!(proved(&row), Some(1_500));
    }

    #[test]
    fn a_gap_another_term_or_a_leader_begins_the_row_anew() {
        let gap = [0, 500, 1_000, 2_000, 2_500].map(|asked| poll(asked, &LOST));
        assert_eq!(proved(&gap), None);
        let other = [NoLeader { term: 8 }, NoLeader { term: 8 }, Nothing];
        let mut terms = [0, 500, 1_000, 1_500].map(|asked| poll(asked, &LOST)).to_vec();
        terms.push(poll(2_000, &other));
        assert_eq!(proved(&terms), None);
        let one_leads = [NoLeader { term: 7 }, NoLeader { term: 7 }, HasLeader];
        terms[4] = poll(2_000, &one_leads);
        assert_eq!(proved(&terms), None);
    }

    #[test]
    fn a_minority_or_two_terms_prove_nothing_and_members_that_do_not_run_count() {
        let row = |says: NoLeader3| proved(&[0, 500, 1_000, 1_500].map(|asked| poll(asked, &says)));
        assert_eq!(row([NoLeader { term: 7 }, Nothing, Nothing]), None);
        assert_eq!(row([NoLeader { term: 7 }, NoLeader { term: 8 }, Nothing]), None);
        assert_eq!(row([NoLeader { term: 7 }, NotRunning, NotRunning]), Some(1_500));
        assert_eq!(row([NotRunning, Nothing, Nothing]), None);
    }
}
