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

    /// Lets time pass. `runs` says whether a host is on, `reach` whether two hosts reach each other. Returns whether another
    /// one leads now.
    pub(crate) fn advance(
        &mut self,
        now_ms: u64,
        chance: &mut Chance,
        runs: &dyn Fn(Place) -> bool,
        reach: &dyn Fn(Place, Place) -> bool,
    ) -> bool {
        let up = |place: Place| !self.members[&place].killed && runs(place);
        let places = self.places();
        let in_touch = |one: Place| -> Vec<Place> {
            let others = places.iter().copied();
            others.filter(|other| up(one) && up(*other) && (one == *other || reach(one, *other))).collect()
        };
        let has_majority = |one: Place| in_touch(one).len() * 2 > places.len();
        if let Some(leader) = self.leader {
            if has_majority(leader) {
                let term = self.term;
                for place in in_touch(leader) {
                    let member = self.members.entry(place).or_default();
                    (member.heard_leader_ms, member.term) = (now_ms, term);
                }
                return false;
            }
            self.leader = None;
            self.elects_at_ms = now_ms + chance.between(self.election_ms, 2 * self.election_ms);
        }
        if now_ms < self.elects_at_ms {
            return false;
        }
        let candidates: Vec<Place> = places.iter().copied().filter(|place| has_majority(*place)).collect();
        if candidates.is_empty() {
            self.elects_at_ms = now_ms + chance.between(self.election_ms / 2, self.election_ms);
            return false;
        }
        self.leader = Some(*chance.pick(&candidates));
        self.term += 1;
        true
    }

    /// Whether a host gets answers, by whom it reaches.
    pub(crate) fn answers(&self, reaches: &dyn Fn(Place) -> bool, now_ms: u64) -> bool {
        let in_touch = |member: &Member| {
            !member.killed && now_ms.saturating_sub(member.heard_leader_ms) < self.election_ms
        };
        self.leader.is_some()
            && self.members.iter().any(|(place, member)| in_touch(member) && reaches(*place))
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
