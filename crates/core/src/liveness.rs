//! Who lives: how a leader judges the silence of hosts, and how long a host may trust that it was not given up.
//!
//! ```text
//! host    sends a heartbeat at s, and it is acknowledged ──► fed until s + reset − watchdog, reset by s + reset
//! leader  hears it at h, s ≤ h ──► lost at h + lost ──► restarts what it ran at h + restart, restart > reset
//! ```
//!
//! The two never compare clocks; each measures time by its own monotonic clock, from a moment that is on the safe side:
//! the host counts from when it *sent* the last heartbeat that the store acknowledged, the leader from when it *heard* it.
//!
//! A leader counts silence only over a time in which the store answered it without a gap of an election
//! ([`Watchman`]). So a store that lost its leader, or a leader of ours that was asleep, never makes a host look dead. And
//! a host that cannot reach a store which nobody can write need not reset itself: see [`Quorum`].
//!
//! Deliberately absent: clocks, the store, the watchdog. Times are milliseconds of one monotonic clock, whichever that is.

mod quorum;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::quorum::{MemberSays, Poll, Quorum};
use crate::inventory::Pulse;
use crate::name::{HostName, Timestamp};
use crate::plan::DownBy;
use crate::spec::Timers;

/// A heartbeat: what a host writes to show that it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Heartbeat {
    /// The boot of the host (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Counts the heartbeats of one start of the daemon.
    pub count: u64,
    /// The epoch that the host lives in ([`crate::plan::HostPlan::epoch`]).
    pub epoch: u64,
    /// Whether the host's watchdog is armed.
    pub armed: bool,
    /// Whether it is the last one: the host runs nothing any more and is about to shut down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub farewell: bool,
    /// The version of the daemon.
    pub version: String,
    /// The host's clock when it was sent.
    pub sent_at: Timestamp,
}

/// The leader's memory of heartbeats.
#[derive(Debug, Clone, Default)]
pub struct Watchman {
    heard: BTreeMap<HostName, Heard>,
    /// When the last answer of the store was asked for: up to then it is known that nothing else had come.
    asked_ms: Option<u64>,
}

#[derive(Debug, Clone)]
struct Heard {
    beat: Heartbeat,
    /// When the store's answer that first showed it had come.
    at_ms: u64,
    /// How far the host's clock was ahead of the leader's then, if it came just before.
    clock_ahead_ms: i64,
}

impl Watchman {
    /// Takes an answer of the store: all heartbeats, as they were at some moment between `asked_ms` and `answered_ms`.
    ///
    /// If the answer comes an election's time or more after the last one was asked for, the store may have been without a
    /// leader meanwhile and no heartbeat could be written: every host is given its time anew. `now` is the wall clock's, by
    /// which only the hosts' clocks are judged.
    pub fn hear(
        &mut self,
        asked_ms: u64,
        answered_ms: u64,
        beats: &BTreeMap<HostName, Heartbeat>,
        timers: &Timers,
        now: Timestamp,
    ) {
        let unbroken =
            self.asked_ms.is_some_and(|last| answered_ms.saturating_sub(last) < timers.election_ms);
        self.heard.retain(|host, _| beats.contains_key(host));
        for (host, beat) in beats {
            let before = self.heard.get(host).filter(|_| unbroken);
            if before.is_none_or(|heard| heard.beat != *beat) {
                // Only of one that was not there at the last look is it known that it was sent just now.
                let ahead_ms =
                    i64::try_from(i128::from(beat.sent_at.0) - i128::from(now.0)).unwrap_or_default();
                let clock_ahead_ms = before.map_or(0, |_| ahead_ms);
                let heard = Heard { beat: beat.clone(), at_ms: answered_ms, clock_ahead_ms };
                self.heard.insert(host.clone(), heard);
            }
        }
        self.asked_ms = Some(asked_ms);
    }

    /// Each host's last heartbeat, and for how long it is known that no other one has come.
    pub fn pulses(&self) -> impl Iterator<Item = (&HostName, Pulse)> {
        self.heard.iter().map(|(host, heard)| {
            let silent_ms = self.asked_ms.unwrap_or_default().saturating_sub(heard.at_ms);
            let Heartbeat { epoch, armed, farewell, .. } = heard.beat;
            let off = farewell.then_some(DownBy::Shutdown);
            (host, Pulse { silent_ms, epoch, armed, off, clock_ahead_ms: heard.clock_ahead_ms })
        })
    }

    /// A host's last heartbeat.
    pub fn beat(&self, host: &HostName) -> Option<&Heartbeat> {
        self.heard.get(host).map(|heard| &heard.beat)
    }
}

/// How long a host may trust that it was not given up, and so feed its watchdog.
#[derive(Debug, Clone, Default)]
pub struct Lifeline {
    /// When it last knew so.
    sure_ms: Option<u64>,
    /// It was told that it was given up.
    cut: bool,
}

impl Lifeline {
    /// The store acknowledged the heartbeat that was sent then.
    pub fn acknowledged(&mut self, sent_ms: u64) {
        self.sure_ms = self.sure_ms.max(Some(sent_ms));
    }

    /// It is proved that nobody could write to the store up to then ([`Quorum::proved_until`]).
    pub fn proved(&mut self, until_ms: u64) {
        // Without a heartbeat that was acknowledged, there is nothing to keep alive.
        if self.sure_ms.is_some() {
            self.sure_ms = self.sure_ms.max(Some(until_ms));
        }
    }

    /// The host was told that it was given up: from now on its watchdog is not fed.
    pub fn cut(&mut self) {
        self.cut = true;
    }

    /// Whether the watchdog may be fed now, if it resets the host `watchdog_ms` after it was last fed.
    pub fn may_feed(&self, now_ms: u64, watchdog_ms: u64, timers: &Timers) -> bool {
        let trust_ms = timers.reset_ms.saturating_sub(watchdog_ms);
        !self.cut && self.sure_ms.is_some_and(|sure| now_ms.saturating_sub(sure) <= trust_ms)
    }

    /// When the host must be down by itself; none while nothing was ever acknowledged.
    pub fn ends_ms(&self, timers: &Timers) -> Option<u64> {
        self.sure_ms.map(|sure| sure.saturating_add(timers.reset_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostName {
        "node1".parse().unwrap()
    }

    fn beats(count: u64) -> BTreeMap<HostName, Heartbeat> {
        let beat = Heartbeat {
            boot_id: "boot".to_owned(),
            count,
            epoch: 0,
            armed: true,
            farewell: false,
            version: String::new(),
            sent_at: Timestamp(0),
        };
        BTreeMap::from([(host(), beat)])
    }

    fn silent_ms(watchman: &Watchman) -> u64 {
        watchman.pulses().next().unwrap().1.silent_ms
    }

    #[test]
    fn silence_counts_from_the_answer_that_showed_the_heartbeat_to_the_question_that_showed_no_other() {
        let mut watchman = Watchman::default();
        let timers = Timers::default();
        watchman.hear(0, 100, &beats(1), &timers, Timestamp(0));
        assert_eq!(silent_ms(&watchman), 0);
        watchman.hear(400, 450, &beats(1), &timers, Timestamp(0));
        assert_eq!(silent_ms(&watchman), 300);
        watchman.hear(800, 900, &beats(2), &timers, Timestamp(0));
        assert_eq!(silent_ms(&watchman), 0);
        watchman.hear(1_200, 1_700, &beats(2), &timers, Timestamp(0));
        assert_eq!(silent_ms(&watchman), 300);
    }

    #[test]
    fn a_pause_of_the_store_or_of_the_leader_gives_every_host_its_time_anew() {
        let mut watchman = Watchman::default();
        let timers = Timers::default();
        for asked in (0..9_000).step_by(400) {
            watchman.hear(asked, asked + 50, &beats(1), &timers, Timestamp(0));
        }
        assert_eq!(silent_ms(&watchman), 8_750);
        watchman.hear(9_200, 9_800, &beats(1), &timers, Timestamp(0));
        assert_eq!(silent_ms(&watchman), 0, "an election may have been between 8800 and 9800");
    }

    #[test]
    fn a_watchdog_that_is_fed_as_long_as_it_may_be_resets_its_host_in_time() {
        let timers = Timers::default();
        let mut lifeline = Lifeline::default();
        assert!(!lifeline.may_feed(0, 4_000, &timers), "nothing was acknowledged yet");
        lifeline.acknowledged(1_000);
        lifeline.acknowledged(500);
        let fed: Vec<u64> = (0..20_000).filter(|now| lifeline.may_feed(*now, 4_000, &timers)).collect();
        assert_eq!(fed.last(), Some(&5_000));
        assert_eq!(lifeline.ends_ms(&timers), Some(5_000 + 4_000));
    }

    #[test]
    fn a_host_that_was_given_up_feeds_no_more_whatever_is_acknowledged_later() {
        let timers = Timers::default();
        let mut lifeline = Lifeline::default();
        lifeline.acknowledged(1_000);
        lifeline.cut();
        lifeline.acknowledged(2_000);
        assert!(!lifeline.may_feed(2_000, 4_000, &timers));
    }
}
