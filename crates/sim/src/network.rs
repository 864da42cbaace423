//! The network: what arrives where, and through which member a host talks to the store.
//!
//! Everything that is said travels there and back, and each way can be cut by itself: so a write takes effect although its
//! answer never comes. A member that does not lead hands questions on to the one that does, which is a journey of its own.

use tranche_core::liveness::MemberSays;

use crate::quorum::Place;
use crate::world::{Inner, Shared};

impl Shared {
    /// Whether the store answers a host, there and back.
    pub(crate) fn store_answers(&self, node: Place) -> bool {
        self.with(|inner| {
            let answers = |via: Place| inner.takes(node, via) && inner.gives_back(node, via);
            inner.can_ask(node) && inner.members.places().into_iter().any(answers)
        })
    }

    /// The member through which what a host asks now takes effect; none if it does not.
    pub(crate) fn asks_through(&self, node: Place) -> Option<Place> {
        self.with(|inner| {
            let via = inner.find_member(node);
            inner.nodes[node].talks_to = via;
            via
        })
    }

    /// Whether an answer of a member that is on its way to a host arrives. If not, the host asks another one next.
    pub(crate) fn answer_arrives(&self, node: Place, via: Place) -> bool {
        self.with(|inner| {
            let lost_by_chance = inner.is_rough() && inner.chance.percent(1);
            let arrives = inner.can_ask(node) && inner.gives_back(node, via) && !lost_by_chance;
            if !arrives {
                inner.nodes[node].talks_to = None;
            }
            arrives
        })
    }

    /// What the members say to a host that asks each by itself.
    pub(crate) fn members_say(&self, node: Place) -> Vec<MemberSays> {
        self.with(|inner| inner.members.say(&|place| inner.reach(node, place), inner.now_ms))
    }

    /// How long a host's message to the store travels, or one back, in milliseconds.
    pub(crate) fn draw_latency(&self, node: Place) -> u64 {
        self.with(|inner| {
            let slow_ms = (inner.store_slow_ms + inner.nodes[node].store_slow_ms) / 2;
            let rough = inner.is_rough() && inner.chance.percent(2);
            slow_ms + if rough { inner.chance.between(100, 1_500) } else { inner.chance.between(1, 5) }
        })
    }
}

impl Inner {
    /// Whether the network is of low quality.
    pub(crate) fn is_rough(&self) -> bool {
        self.now_ms < self.rough_until_ms
    }

    /// Whether what one place sends arrives at another.
    pub(crate) fn arrives(&self, from: Place, to: Place) -> bool {
        let in_touch = |place: Place| self.runs(place) && !self.is_off_network(place);
        from == to || (in_touch(from) && in_touch(to) && !self.cuts.contains(&(from, to)))
    }

    /// Whether two places reach each other, both ways.
    pub(crate) fn reach(&self, one: Place, other: Place) -> bool {
        self.arrives(one, other) && self.arrives(other, one)
    }

    pub(crate) fn is_off_network(&self, place: Place) -> bool {
        self.nodes.get(place).map_or(self.witness.network_off, |node| node.network_off)
    }

    fn can_ask(&self, node: Place) -> bool {
        self.nodes[node].on && !self.nodes[node].store_off
    }

    /// Whether what a host asks a member takes effect: it arrives there, and at a leader who has a majority.
    fn takes(&self, node: Place, via: Place) -> bool {
        let commits = |leader: Place| {
            let (runs, reach) = (|place: Place| self.runs(place), |a: Place, b: Place| self.reach(a, b));
            self.arrives(via, leader) && self.members.has_majority(leader, &runs, &reach)
        };
        self.arrives(node, via)
            && self.members.follows(via, self.now_ms)
            && self.members.leader().is_some_and(commits)
    }

    /// Whether what comes of it arrives at the host.
    fn gives_back(&self, node: Place, via: Place) -> bool {
        self.arrives(via, node)
            && self.members.follows(via, self.now_ms)
            && self.members.leader().is_some_and(|leader| self.arrives(leader, via))
    }

    /// A host stays with the member that it talks to as long as that takes its questions. Then it prefers one that answers.
    fn find_member(&self, node: Place) -> Option<Place> {
        if !self.can_ask(node) {
            return None;
        }
        let takes = self.members.places().into_iter().filter(|via| self.takes(node, *via));
        let takes: Vec<Place> = takes.collect();
        let known = self.nodes[node].talks_to.filter(|via| takes.contains(via));
        let answers = || takes.iter().copied().find(|via| self.gives_back(node, *via));
        known.or_else(answers).or_else(|| takes.first().copied())
    }
}
