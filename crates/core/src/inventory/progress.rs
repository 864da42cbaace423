//! How far a host has followed the plan, and when it was last heard of.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::falls::Falls;
use crate::handover::Told;
use crate::journey::Sent;
use crate::name::{HostName, VmName};
use crate::operation::{LogLine, StepFailure};
use crate::plan::DownBy;
use crate::spec::Timers;
use crate::step::StepSubject;

/// The most steps of which a report tells that they were done.
pub const LATELY_MAX: usize = 64;
/// The most characters in which a report tells of one.
const LINE_CHARS_MAX: usize = 400;

/// How far a host has followed the plan when it reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Progress {
    /// The generation of its part of the plan that it knew before it looked. It acts on no older one any more.
    pub generation: u64,
    /// The epoch that it lives in ([`crate::plan::HostPlan::epoch`]).
    #[serde(default, skip_serializing_if = "crate::spec::is_zero")]
    pub epoch: u64,
    /// The epoch that it was given up with, if it knows that its power is being cut for it. It starts nothing then, until it is
    /// known what became of its VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surrendered: Option<u64>,
    /// Whether its watchdog guards it.
    #[serde(default, skip_serializing_if = "Guard::is_default")]
    pub guard: Guard,
    /// Steps that are due and failed when they were last tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "known")]
    pub failures: Vec<StepFailure>,
    /// VMs that crashed or could not be started, and how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub falls: BTreeMap<VmName, Falls>,
    /// Whether it can send VMs to other hosts while they run, and take them from those.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub travels: bool,
    /// VMs for which it has made ready what they need when they arrive.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub expects: BTreeSet<VmName>,
    /// VMs that it sends or has sent to other hosts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sent: BTreeMap<VmName, Sent>,
    /// What hosts with other stores said last of VMs that go there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<VmName, Told>,
    /// How much memory the guests of its VMs change, in MiB/s, as last measured. A new value comes only if it is quite another.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dirty_mib_s: BTreeMap<VmName, u32>,
    /// What its links to other hosts carried for the last VM that it sent there, in MiB/s.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links_mib_s: BTreeMap<HostName, u32>,
    /// How long the machine of the last VM that it sent took to end here, in milliseconds, after QEMU had handed the guest over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ms: Option<u32>,
    /// The steps that it carried out last, the newest last, for the logs of operations. While nothing is done, they stay the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lately: Vec<Done>,
}

/// A step that was carried out, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Done {
    /// What it worked on.
    pub subject: StepSubject,
    /// When, and in words.
    pub line: LogLine,
}

impl Done {
    /// Adds to what was done lately. The oldest goes first, so that reports stay small.
    pub fn remember(lately: &mut Vec<Self>, done: impl IntoIterator<Item = Self>) {
        lately.extend(done.into_iter().map(|mut done| {
            if let Some((at, _)) = done.line.text.char_indices().nth(LINE_CHARS_MAX) {
                done.line.text.truncate(at);
                done.line.text.push('…');
            }
            done
        }));
        let surplus = lately.len().saturating_sub(LATELY_MAX);
        lately.drain(..surplus);
    }
}

impl Progress {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads what a report says for people, without what a later version says that this one has no word for. No decision rests on that, and
/// each version has codes of findings that the one before did not know.
pub(super) fn known<'de, T: Deserialize<'de>, D: Deserializer<'de>>(said: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said<T> {
        Known(T),
        Unknown(IgnoredAny),
    }

    let said = Vec::<Said<T>>::deserialize(said)?.into_iter();
    Ok(said.filter_map(|one| if let Said::Known(one) = one { Some(one) } else { None }).collect())
}

/// Whether a host's watchdog guards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// It has none that it could use.
    #[default]
    None,
    /// It has one, which is not armed.
    Ready,
    /// It is armed, and the store has acknowledged a heartbeat that says so.
    Armed,
}

impl Guard {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A host's last heartbeat, as the leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulse {
    /// For how long no other one has come, in milliseconds of the leader's monotonic clock.
    pub silent_ms: u64,
    /// The epoch that the host lives in.
    pub epoch: u64,
    /// Whether its watchdog was armed.
    pub armed: bool,
    /// By when its watchdog has reset it, by its own word ([`crate::liveness::Heartbeat::bound_ms`]).
    pub bound_ms: Option<u64>,
    /// Whether a fence agent is at work on it.
    pub being_cut: bool,
    /// How it is known that the host runs nothing any more, if it is: an agent cut its power in this epoch, or it said so
    /// itself.
    pub off: Option<DownBy>,
    /// Whether its daemon said that it was being stopped in good order, and what the host runs goes on.
    pub unattended: bool,
    /// Whether it may be booting: whoever leads has itself booted only just now, and has not heard of it since. Then all may have
    /// lost their power together, and some take longer.
    pub rising: bool,
    /// How far its clock is ahead of the leader's, in milliseconds; less than nothing if it is behind, and 0 while that is not
    /// known. What a heartbeat takes on its way makes it look behind.
    pub clock_ahead_ms: i64,
}

/// How far a host's clock may be off before that is said, in milliseconds: more than a heartbeat takes on its way.
pub const CLOCK_OFF_MS: i64 = 5_000;

impl Pulse {
    /// The same with its silence rounded down to the times that decisions rest on: it changes only when something follows.
    #[must_use]
    pub fn rounded(self, timers: &Timers) -> Self {
        let steps = [timers.down_ms(self.bound_ms), timers.lost_ms];
        let silent_ms = steps.into_iter().find(|step| self.silent_ms >= *step).unwrap_or(0);
        let clock_ahead_ms = self.clock_ahead_ms / CLOCK_OFF_MS * CLOCK_OFF_MS;
        Self { silent_ms, clock_ahead_ms, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_of_the_last_steps_only_and_in_few_words_and_an_older_one_of_none() {
        let done = |n: u64, text: &str| Done {
            subject: StepSubject::Vm("desk".parse().unwrap()),
            line: LogLine { at: crate::name::Timestamp(n), text: text.to_owned() },
        };
        let mut lately = Vec::new();
        Done::remember(&mut lately, (0..1_000).map(|n| done(n, "start VM desk")));
        let at: Vec<u64> = lately.iter().map(|done| done.line.at.0).collect();
        assert_eq!((at.len(), at.first(), at.last()), (LATELY_MAX, Some(&936), Some(&999)));
        Done::remember(&mut lately, [done(1_000, &"ü".repeat(100_000))]);
        let last = &lately.last().unwrap().line;
        assert_eq!((lately.len(), last.text.chars().count()), (LATELY_MAX, LINE_CHARS_MAX + 1));
        let older: Progress = serde_json::from_str(r#"{"generation":7}"#).unwrap();
        assert_eq!((older.generation, older.lately), (7, Vec::new()));
    }

    #[test]
    fn a_silence_is_rounded_to_what_follows_from_it_and_a_clock_that_is_little_off_is_right() {
        let timers = Timers::default();
        let rounded = |silent_ms, clock_ahead_ms| {
            let pulse = Pulse { silent_ms, clock_ahead_ms, ..Pulse::default() }.rounded(&timers);
            (pulse.silent_ms, pulse.clock_ahead_ms)
        };
        let silences = [0, 4_999, 5_000, 9_999, 10_000, 99_000].map(|silent_ms| rounded(silent_ms, 0).0);
        assert_eq!(silences, [0, 0, 5_000, 5_000, 10_000, 10_000]);
        let late = Pulse { silent_ms: 65_999, bound_ms: Some(64_000), ..Pulse::default() };
        assert_eq!(late.rounded(&timers).silent_ms, 5_000, "it goes by a longer time, and that is not over");
        assert_eq!(Pulse { silent_ms: 66_001, ..late }.rounded(&timers).silent_ms, 66_000);
        let clocks = [4_999, -4_999, 5_001, -7_200_001].map(|ahead_ms| rounded(0, ahead_ms).1);
        assert_eq!(clocks, [0, 0, 5_000, -7_200_000]);
    }
}
