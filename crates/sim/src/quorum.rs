//! The store's members: who leads them, and who can write.
//!
//! A model of etcd as far as its users notice: with a majority in touch with a leader there are answers, else there are
//! none; a lost leader is replaced after an election; a member knows that it has no leader only after it has not heard of
//! one for an election's time; and leases live on over a change of leader.

use std::collections::BTreeMap;

use tranche_core::liveness::MemberSays;

use crate::chance::Chance;

/// Which host a member is on.
pub(crate) type Place = usize;

/// The members.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    members: BTreeMap<Place, Member>,
    leader: Option<Place>,
    term: u64,
    /// When the next election ends, if there is a majority then.
    elects_at_ms: u64,
    election_ms: u64,
}

#[derive(Debug, Clone, Default)]
struct Member {
    /// Its process was killed.
    killed: bool,
    heard_leader_ms: u64,
    term: u64,
}

impl Members {
    pub(crate) fn on(places: impl IntoIterator<Item = Place>, election_ms: u64) -> Self {
        let members: BTreeMap<Place, Member> =
            places.into_iter().map(|place| (place, Member::default())).collect();
        Self { members, leader: None, term: 0, elects_at_ms: 0, election_ms }
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.members.keys().copied().collect()
    }

    pub(crate) fn leader(&self) -> Option<Place> {
        self.leader
    }

    /// Kills a member's process, or lets it run again.
    pub(crate) fn set_killed(&mut self, place: Place, killed: bool) {
        if let Some(member) = self.members.get_mut(&place) {
            member.killed = killed;
        }
    }

    /// Lets time pass. `runs` says whether a host is on, `arrives` whether what one host sends arrives at another. Returns
    /// whether another one leads now.
    pub(crate) fn advance(
        &mut self,
        now_ms: u64,
        chance: &mut Chance,
        runs: &dyn Fn(Place) -> bool,
        arrives: &dyn Fn(Place, Place) -> bool,
    ) -> bool {
        let reach = |one: Place, other: Place| arrives(one, other) && arrives(other, one);
        if let Some(leader) = self.leader {
            if self.has_majority(leader, runs, &reach) {
                let term = self.term;
                // Who hears a leader follows it, even if what it says itself does not arrive.
                for (place, member) in &mut self.members {
                    if !member.killed && runs(*place) && arrives(leader, *place) {
                        (member.heard_leader_ms, member.term) = (now_ms, term);
                    }
                }
                return false;
            }
            self.leader = None;
            self.elects_at_ms = now_ms + chance.between(self.election_ms, 2 * self.election_ms);
        }
        if now_ms < self.elects_at_ms {
            return false;
        }
        let places = self.places().into_iter();
        let candidates: Vec<Place> = places.filter(|one| self.has_majority(*one, runs, &reach)).collect();
        if candidates.is_empty() {
            self.elects_at_ms = now_ms + chance.between(self.election_ms / 2, self.election_ms);
            return false;
        }
        self.leader = Some(*chance.pick(&candidates));
        self.term += 1;
        true
    }

    /// Whether a member runs and is in touch with a majority of members that do, itself among them, both ways.
    pub(crate) fn has_majority(
        &self,
        one: Place,
        runs: &dyn Fn(Place) -> bool,
        reach: &dyn Fn(Place, Place) -> bool,
    ) -> bool {
        let up = |place: Place| !self.members[&place].killed && runs(place);
        let in_touch = |other: &&Place| up(**other) && (one == **other || reach(one, **other));
        up(one) && self.members.keys().filter(in_touch).count() * 2 > self.members.len()
    }

    /// Whether a member runs and believes that somebody leads.
    pub(crate) fn follows(&self, place: Place, now_ms: u64) -> bool {
        let member = &self.members[&place];
        !member.killed && now_ms.saturating_sub(member.heard_leader_ms) < self.election_ms
    }

    /// What each member says to a host.
    pub(crate) fn say(&self, reaches: &dyn Fn(Place) -> bool, now_ms: u64) -> Vec<MemberSays> {
        let says = |(place, member): (&Place, &Member)| match (reaches(*place), member.killed) {
            (false, _) => MemberSays::Nothing,
            (true, true) => MemberSays::NotRunning,
            (true, false) if now_ms.saturating_sub(member.heard_leader_ms) < self.election_ms => {
                MemberSays::HasLeader
            }
            (true, false) => MemberSays::NoLeader { term: member.term },
        };
        self.members.iter().map(says).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three members, of whom the first leads; then so much time passes in which some ways are cut.
    fn members_after(ms: u64, cuts: &[(Place, Place)]) -> Members {
        let mut members = Members::on(0..3, 1_000);
        members.leader = Some(0);
        let mut chance = Chance::new(1);
        let arrives = |from: Place, to: Place| !cuts.contains(&(from, to));
        for now_ms in (100..=ms).step_by(100) {
            members.advance(now_ms, &mut chance, &|_| true, &arrives);
        }
        members
    }

    #[test]
    fn a_leader_whom_nobody_answers_leads_no_more_and_another_one_does() {
        let members = members_after(5_000, &[(1, 0), (2, 0)]);
        assert!(members.leader().is_some_and(|leader| leader != 0), "{members:?}");
        assert!(!members.follows(0, 5_000), "it hears of no other: {members:?}");
    }

    #[test]
    fn a_member_that_only_hears_follows_and_one_that_hears_nothing_does_not() {
        let members = members_after(5_000, &[(1, 0)]);
        assert_eq!(members.leader(), Some(0));
        assert!(members.follows(1, 5_000));
        let members = members_after(5_000, &[(0, 1)]);
        assert_eq!(members.leader(), Some(0));
        assert!(!members.follows(1, 5_000));
        assert_eq!(members.say(&|_| true, 5_000)[1], MemberSays::NoLeader { term: 0 });
    }
}
