//! Who lives: how a leader judges the silence of hosts, and how long a host may trust that it was not given up.
//!
//! ```text
//! host    sends a heartbeat at s, and it is acknowledged ──► fed until s + reset − watchdog, reset by s + reset
//! leader  hears it at h, s ≤ h ──► lost at h + lost ──► restarts what it ran at h + restart, restart > reset
//! ```
//!
//! A host goes by the times that it knows, and by what its watchdog takes; both may differ from what the leader has come to know
//! since. So each heartbeat says by when the host has been reset if no other one is acknowledged (its *bound*). The host keeps to the
//! shortest one that it has said since the last acknowledgement, and the leader waits for the one that it heard last.
//!
//! The two never compare clocks; each measures time by its own monotonic clock, from a moment that is on the safe side:
//! the host counts from when it *sent* the last heartbeat that the store acknowledged, the leader from when it *heard* it.
//!
//! A leader counts silence only over a time in which the store answered it without a gap of an election, and took writes
//! ([`Watchman`]). So a store that lost its leader or is full, or a leader of ours that was asleep, never makes a host look dead. And
//! a host whose heartbeats nobody's store can take need not reset itself: see [`Quorum`] for a store without a majority, [`Vigil`] for
//! a daemon that starts while there is none, [`Standstill`] for one that is full.
//!
//! A watchdog that the leader does not count on is one that is not there: after a heartbeat was acknowledged which says that it is
//! not armed, and as long as none was sent that says otherwise, nothing of its host is started elsewhere on its word. One that
//! cannot be stopped (`nowayout`) is then fed whatever becomes of the store, and of the host's VMs: to let it reset the host would
//! save nothing, for a fence agent cuts the host's power itself, and somebody who says that the host is down has looked.
//!
//! Deliberately absent: clocks, the store, the watchdog. Times are milliseconds of one monotonic clock, whichever that is.

mod errands;
mod parting;
mod quorum;
mod standstill;
mod trials;
mod vigil;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::errands::{Cause, Errands, cut_cause, turn_on_cause};
pub use self::parting::{Farewell, Parting};
pub use self::quorum::{MemberSays, Poll, Quorum};
pub use self::standstill::{Sight, Standstill, gap_ms};
pub use self::trials::{Due, Trial, Trials};
pub use self::vigil::Vigil;
use crate::inventory::Pulse;
use crate::name::{HostName, Timestamp};
use crate::plan::DownBy;
use crate::spec::Timers;

/// For how long after its own boot whoever leads takes a host for booting that it has not heard of since, in milliseconds: as long
/// as a server's firmware takes. Nobody cuts the power of such a host, or it would never come back from a power cut of all.
pub const RISE_MS: u64 = 5 * 60_000;

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
    /// By when the watchdog, if it is armed, has reset the host, in milliseconds from when this was sent, unless another heartbeat is
    /// acknowledged. A host of an older version does not say so, and goes by [`Timers::reset_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_ms: Option<u64>,
    /// Whether it is the last one: the host runs nothing any more and is about to shut down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub farewell: bool,
    /// Whether it is the last one of a daemon that was stopped in good order: what the host runs goes on, and its silence from
    /// then on says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unattended: bool,
    /// Whether the host would lead: it may, and can read all that is stored. Those of later versions leave the lead to it
    /// ([`crate::membership::leaves_lead_to`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub able: bool,
    /// The version of the daemon.
    pub version: String,
    /// The host's clock when it was sent.
    pub sent_at: Timestamp,
}

impl Heartbeat {
    /// What stands for a heartbeat that cannot be read, because a later version wrote it: it shows that its host lives, and nothing
    /// else. `change` tells it from the one before. No watchdog is counted on by it.
    pub fn unread(change: u64, version: String) -> Self {
        Self {
            boot_id: String::new(),
            count: change,
            epoch: 0,
            armed: false,
            bound_ms: None,
            farewell: false,
            unattended: false,
            able: false,
            version,
            sent_at: Timestamp(0),
        }
    }
}

/// An answer of the store: all heartbeats, as they were at some moment between the question and the answer.
#[derive(Debug, Clone, Copy)]
pub struct Hearing<'a> {
    /// When it was asked for.
    pub asked_ms: u64,
    /// When it had come.
    pub answered_ms: u64,
    /// The revision of the store that it is of.
    pub revision: u64,
    /// A moment before something was written to the store by whoever asked, if that was done besides.
    pub wrote_after_ms: Option<u64>,
    /// The heartbeats.
    pub beats: &'a BTreeMap<HostName, Heartbeat>,
}

/// The leader's memory of heartbeats.
#[derive(Debug, Clone, Default)]
pub struct Watchman {
    heard: BTreeMap<HostName, Heard>,
    /// When the last answer of the store was asked for: up to then it is known that nothing else had come.
    asked_ms: Option<u64>,
    /// The revision of that answer.
    revision: u64,
    /// A moment before the last write to the store that is known of.
    written_ms: Option<u64>,
    /// When an answer last came without a gap before it, or the first one came.
    unbroken_ms: Option<u64>,
}

#[derive(Debug, Clone)]
struct Heard {
    beat: Heartbeat,
    /// When the store's answer that first showed it had come.
    at_ms: u64,
    /// How far the host's clock was ahead of the leader's then, if it came just before.
    clock_ahead_ms: i64,
    /// Whether another one was heard before it.
    again: bool,
}

impl Watchman {
    /// Whether an answer of this revision shows that somebody has written since the last one. Where it does not, whoever listens
    /// has to write something himself to know that the store takes it.
    pub fn shows_write(&self, revision: u64) -> bool {
        self.asked_ms.is_some() && revision > self.revision
    }

    /// Takes an answer of the store.
    ///
    /// If the answer comes an election's time or more after the last one was asked for, the store may have been without a
    /// leader meanwhile and no heartbeat could be written: every host is given its time anew. So it is where nothing is known to
    /// have been written for longer than [`gap_ms`]: the store may take no heartbeats, and a host may know that
    /// ([`Standstill`]). `now` is the wall clock's, by which only the hosts' clocks are judged.
    pub fn hear(&mut self, hearing: Hearing<'_>, timers: &Timers, now: Timestamp) {
        let Hearing { asked_ms, answered_ms, revision, wrote_after_ms, beats } = hearing;
        let within = |since: Option<u64>, ms| since.is_some_and(|at| answered_ms.saturating_sub(at) < ms);
        let unbroken = within(self.asked_ms, timers.election_ms) && within(self.written_ms, gap_ms(timers));
        if unbroken || self.unbroken_ms.is_none() {
            self.unbroken_ms = Some(answered_ms);
        }
        self.heard.retain(|host, _| beats.contains_key(host));
        for (host, beat) in beats {
            let before = self.heard.get(host).filter(|_| unbroken);
            if before.is_none_or(|heard| heard.beat != *beat) {
                // Only of one that was not there at the last look is it known that it was sent just now. One that cannot be read
                // tells no time.
                let ahead_ms =
                    i64::try_from(i128::from(beat.sent_at.0) - i128::from(now.0)).unwrap_or_default();
                let clock_ahead_ms = before.filter(|_| beat.sent_at.0 > 0).map_or(0, |_| ahead_ms);
                let again = self.heard.get(host).is_some_and(|heard| heard.again || heard.beat != *beat);
                let heard = Heard { beat: beat.clone(), at_ms: answered_ms, clock_ahead_ms, again };
                self.heard.insert(host.clone(), heard);
            }
        }
        let seen_after_ms = self.asked_ms.filter(|_| self.shows_write(revision));
        self.written_ms = self.written_ms.max(seen_after_ms).max(wrote_after_ms);
        self.asked_ms = Some(asked_ms);
        self.revision = revision;
    }

    /// Each host's last heartbeat, and for how long it is known that no other one has come. `up_ms` is how long ago the host that
    /// listens has booted, in milliseconds.
    pub fn pulses(&self, up_ms: u64) -> impl Iterator<Item = (&HostName, Pulse)> {
        self.heard.iter().map(move |(host, heard)| {
            let silent_ms = self.asked_ms.unwrap_or_default().saturating_sub(heard.at_ms);
            let Heartbeat { epoch, armed, bound_ms, farewell, unattended, .. } = heard.beat;
            let off = farewell.then_some(DownBy::Shutdown);
            let clock_ahead_ms = heard.clock_ahead_ms;
            let rising = !heard.again && up_ms < RISE_MS;
            let being_cut = false;
            let pulse = Pulse {
                silent_ms,
                epoch,
                armed,
                bound_ms,
                being_cut,
                off,
                unattended,
                rising,
                clock_ahead_ms,
            };
            (host, pulse)
        })
    }

    /// For how long, up to a moment, no answer has come without a gap before it, in milliseconds, so that nobody's silence counts.
    pub fn deaf_ms(&self, at_ms: u64) -> u64 {
        self.unbroken_ms.map_or(0, |unbroken_ms| at_ms.saturating_sub(unbroken_ms))
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
    /// The shortest bound that it has said since, with the heartbeat that was acknowledged then or with a later one, which may
    /// have arrived all the same.
    bound_ms: u64,
    /// It was told that it was given up.
    cut: bool,
}

impl Lifeline {
    /// A heartbeat with this bound is about to be sent.
    pub fn sends(&mut self, bound_ms: u64) {
        self.bound_ms = self.bound_ms.min(bound_ms);
    }

    /// The store acknowledged the heartbeat with this bound that was sent then, and none was sent since.
    pub fn acknowledged(&mut self, sent_ms: u64, bound_ms: u64) {
        if self.sure_ms.is_none_or(|sure_ms| sure_ms <= sent_ms) {
            (self.sure_ms, self.bound_ms) = (Some(sent_ms), bound_ms);
        }
    }

    /// It is proved that nobody could give the host up until then ([`Quorum::proved_until`], [`Standstill::proved_until`]).
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
    pub fn may_feed(&self, now_ms: u64, watchdog_ms: u64) -> bool {
        let trusted = |sure: u64| {
            let fed_ms = now_ms.saturating_sub(sure);
            fed_ms.saturating_add(watchdog_ms) <= self.bound_ms
        };
        !self.cut && self.sure_ms.is_some_and(trusted)
    }

    /// The bound that the host is held to once it has said this one besides: the shortest one that may have been heard last.
    pub fn bound_with(&self, bound_ms: u64) -> u64 {
        if self.sure_ms.is_some() { self.bound_ms.min(bound_ms) } else { bound_ms }
    }

    /// When the host must be down by itself; none while nothing was ever acknowledged.
    pub fn ends_ms(&self) -> Option<u64> {
        self.sure_ms.map(|sure| sure.saturating_add(self.bound_ms))
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
            bound_ms: Some(8_000),
            farewell: false,
            unattended: false,
            able: false,
            version: String::new(),
            sent_at: Timestamp(0),
        };
        BTreeMap::from([(host(), beat)])
    }

    fn silent_ms(watchman: &Watchman) -> u64 {
        watchman.pulses(RISE_MS).next().unwrap().1.silent_ms
    }

    /// Hears of a heartbeat. Where the store takes writes, something is written each time.
    fn hear(watchman: &mut Watchman, (asked_ms, answered_ms): (u64, u64), count: u64, writes: bool) {
        let wrote_after_ms = writes.then_some(answered_ms);
        let hearing = Hearing { asked_ms, answered_ms, revision: 1, wrote_after_ms, beats: &beats(count) };
        watchman.hear(hearing, &Timers::default(), Timestamp(0));
    }

    #[test]
    fn silence_counts_from_the_answer_that_showed_the_heartbeat_to_the_question_that_showed_no_other() {
        let mut watchman = Watchman::default();
        hear(&mut watchman, (0, 50), 1, true);
        hear(&mut watchman, (60, 100), 1, true);
        assert_eq!(silent_ms(&watchman), 10);
        hear(&mut watchman, (400, 450), 1, true);
        assert_eq!(silent_ms(&watchman), 350);
        hear(&mut watchman, (800, 900), 2, true);
        assert_eq!(silent_ms(&watchman), 0);
        hear(&mut watchman, (1_200, 1_700), 2, true);
        assert_eq!(silent_ms(&watchman), 300);
    }

    #[test]
    fn a_pause_of_the_store_or_of_the_leader_gives_every_host_its_time_anew() {
        let mut watchman = Watchman::default();
        for asked in (0..9_000).step_by(400) {
            hear(&mut watchman, (asked, asked + 50), 1, true);
        }
        assert_eq!(silent_ms(&watchman), 8_750);
        hear(&mut watchman, (9_200, 9_800), 1, true);
        assert_eq!(silent_ms(&watchman), 0, "an election may have been between 8800 and 9800");
    }

    #[test]
    fn a_store_whose_every_answer_comes_too_late_makes_deaf_until_one_comes_in_time() {
        let mut watchman = Watchman::default();
        for asked in (0..20_000).step_by(1_100) {
            hear(&mut watchman, (asked, asked + 1_050), 1, true);
            assert_eq!(silent_ms(&watchman), 0, "an election may have been in each of the gaps");
        }
        assert_eq!(watchman.deaf_ms(20_000), 20_000 - 1_050);
        hear(&mut watchman, (20_000, 20_100), 1, true);
        assert_eq!(watchman.deaf_ms(20_100), 0);
    }

    #[test]
    fn while_the_store_takes_no_writes_nobodys_silence_counts_and_then_everybody_has_the_whole_time() {
        let mut watchman = Watchman::default();
        for asked in (0..4_000).step_by(400) {
            hear(&mut watchman, (asked, asked + 50), 1, true);
        }
        assert_eq!(silent_ms(&watchman), 3_550);
        for asked in (4_000..30_000).step_by(400) {
            hear(&mut watchman, (asked, asked + 50), 1, false);
            assert!(silent_ms(&watchman) < 5_000, "nobody is lost for it");
        }
        assert_eq!(silent_ms(&watchman), 0);
        hear(&mut watchman, (30_000, 30_050), 1, true);
        hear(&mut watchman, (30_400, 30_450), 1, true);
        assert_eq!(silent_ms(&watchman), 350, "since it is known that it takes them again");
    }

    #[test]
    fn a_host_that_was_not_heard_of_since_the_leader_booted_may_be_booting_for_a_while() {
        let mut watchman = Watchman::default();
        let is_rising =
            |watchman: &Watchman, up_ms| watchman.pulses(up_ms).next().is_some_and(|(_, pulse)| pulse.rising);
        hear(&mut watchman, (0, 50), 1, true);
        assert!(is_rising(&watchman, 0), "its heartbeat may be of before the power cut");
        hear(&mut watchman, (9_200, 9_800), 1, true);
        assert!(is_rising(&watchman, RISE_MS - 1), "a pause of the store is no sign of life");
        assert!(!is_rising(&watchman, RISE_MS));
        hear(&mut watchman, (10_000, 10_050), 2, true);
        hear(&mut watchman, (20_000, 20_050), 2, true);
        assert!(!is_rising(&watchman, 0), "it was heard of since");
    }

    #[test]
    fn a_host_whose_heartbeats_cannot_be_read_lives_as_long_as_they_change_and_no_watchdog_is_counted_on() {
        let mut watchman = Watchman::default();
        for (change, asked_ms) in (7..).zip((0..20_000).step_by(400)) {
            let count = change.min(27);
            let beats = BTreeMap::from([(host(), Heartbeat::unread(count, "9.0.0".to_owned()))]);
            let answered_ms = asked_ms + 50;
            let hearing =
                Hearing { asked_ms, answered_ms, revision: change, wrote_after_ms: None, beats: &beats };
            watchman.hear(hearing, &Timers::default(), Timestamp(1_767_225_600_000 + asked_ms));
            let (_, pulse) = watchman.pulses(RISE_MS).next().unwrap();
            assert!(!pulse.armed && pulse.off.is_none() && pulse.clock_ahead_ms == 0, "{pulse:?}");
            if count < 27 {
                assert_eq!(pulse.silent_ms, 0);
            }
        }
        assert_eq!(silent_ms(&watchman), 19_600 - 8_050, "it is silent since the last one that differed");
    }

    #[test]
    fn a_revision_that_moves_is_a_write_of_somebody() {
        let mut watchman = Watchman::default();
        assert!(!watchman.shows_write(7), "nothing was seen before");
        for (asked_ms, revision) in (0..4_000).step_by(400).zip(7..) {
            assert_eq!(watchman.shows_write(revision), asked_ms > 0);
            let hearing = Hearing {
                asked_ms,
                answered_ms: asked_ms + 50,
                revision,
                wrote_after_ms: None,
                beats: &beats(1),
            };
            watchman.hear(hearing, &Timers::default(), Timestamp(0));
        }
        assert_eq!(silent_ms(&watchman), 3_600 - 450, "the first write that is known of was seen at 450");
    }

    #[test]
    fn a_watchdog_that_is_fed_as_long_as_it_may_be_resets_its_host_in_time() {
        let mut lifeline = Lifeline::default();
        assert!(!lifeline.may_feed(0, 4_000), "nothing was acknowledged yet");
        lifeline.acknowledged(1_000, 8_000);
        lifeline.acknowledged(500, 8_000);
        let fed: Vec<u64> = (0..20_000).filter(|now| lifeline.may_feed(*now, 4_000)).collect();
        assert_eq!(fed.last(), Some(&5_000));
        assert_eq!(lifeline.ends_ms(), Some(5_000 + 4_000));
        assert!(!lifeline.may_feed(1_000, 8_001), "one that takes longer is not fed at all");
    }

    #[test]
    fn a_host_keeps_to_the_shortest_bound_that_may_have_arrived_and_takes_a_longer_one_only_when_it_did() {
        let mut lifeline = Lifeline::default();
        lifeline.acknowledged(0, 60_000);
        assert!(lifeline.may_feed(20_000, 30_000));
        lifeline.sends(8_000);
        assert_eq!(lifeline.ends_ms(), Some(8_000), "the leader may have heard it");
        lifeline.sends(60_000);
        assert_eq!(lifeline.ends_ms(), Some(8_000), "the leader may not have heard it");
        lifeline.acknowledged(21_000, 60_000);
        assert_eq!(lifeline.ends_ms(), Some(81_000));
    }

    #[test]
    fn a_host_that_was_given_up_feeds_no_more_whatever_is_acknowledged_later() {
        let mut lifeline = Lifeline::default();
        lifeline.acknowledged(1_000, 8_000);
        lifeline.cut();
        lifeline.acknowledged(2_000, 8_000);
        assert!(!lifeline.may_feed(2_000, 4_000));
    }
}
