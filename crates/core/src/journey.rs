//! Journeys: a VM that goes to another host while it runs, and who owns it meanwhile.
//!
//! ```text
//! Prepares ──ready there──► Goes ──off here, having gone──► Lands ──runs there──► Clears (here)
//!    │                       │                                ▲
//!    └──► (nothing)          └──called off──► CalledOff ──────┤ off here, whole there
//!                                                 └───────────┴──runs here──► Clears (there)
//! ```
//!
//! The VM arrives stopped in its tracks and is let go on there only once it is off here, so at no moment two of it can run. Until
//! it has landed it is its old host's: whatever fails before leaves it there. Each change of stage is a generation of both hosts,
//! and only what they report in step with it decides ([`crate::planner`], `journeys`).
//!
//! Deliberately absent: how a VM is sent. That is the hosts' affair (libvirt, QEMU).

use serde::{Deserialize, Serialize};

use crate::name::{HostName, Timestamp};
use crate::step::VmDevice;

/// A VM that goes to another host while it runs, or has just done so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Journey {
    /// Tells it from all earlier ones of the same host.
    pub number: u64,
    /// The other host: the one that the VM goes to; afterwards the one that is to be rid of it.
    pub other: HostName,
    /// The command that the VM follows ([`crate::spec::VmSpec::serial`]). A later one calls the journey off.
    pub serial: u64,
    /// Since when it is at this stage.
    pub since: Timestamp,
    /// The generation from which on the VM's own host knows the stage.
    pub known_here: u64,
    /// The same of the other host.
    pub known_there: u64,
    /// The other host's boot when it was begun. What arrived there is lost with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_there: String,
    /// For how long the guest was foreseen to stand still, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreseen_ms: Option<u64>,
    /// How far it is.
    pub stage: Stage,
}

/// How far a journey is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// What the VM gets on the other host is booked, and made ready there.
    Prepares,
    /// Its host sends it.
    Goes {
        /// The devices that it gets there.
        devices: Vec<VmDevice>,
    },
    /// It is off here, and the other host lets it go on.
    Lands,
    /// It was called off. Who has the VM shows once both hosts have reported since.
    CalledOff {
        /// Why.
        why: String,
    },
    /// It is over. The other host ends and gives back what is left there.
    Clears,
}

impl Journey {
    /// Whether it is under way: where the VM is going to be is not settled yet.
    pub fn is_open(&self) -> bool {
        self.stage != Stage::Clears
    }

    /// Whether the other host, which is in this boot now, has lost what had arrived there by then.
    pub fn is_lost_with_boot(&self, boot_id: &str) -> bool {
        !self.boot_there.is_empty() && self.boot_there != boot_id
    }
}

/// A journey that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Missed {
    /// The command that the VM followed.
    pub serial: u64,
    /// How many there were for this command.
    pub count: u32,
    /// When it was over.
    pub at: Timestamp,
    /// Where it was to go.
    pub to: HostName,
    /// Why it came to nothing.
    pub why: String,
}

/// How long is waited after the first journey that came to nothing, in milliseconds, and twice as long after each further one.
pub const PAUSE_FIRST_MS: u64 = 10_000;
/// The longest wait, in milliseconds.
pub const PAUSE_LONGEST_MS: u64 = 5 * 60_000;

impl Missed {
    /// Until when no other journey is begun.
    pub fn pause_until(&self) -> Timestamp {
        let doublings = self.count.saturating_sub(1).min(31);
        let pause_ms =
            PAUSE_FIRST_MS.checked_shl(doublings).unwrap_or(PAUSE_LONGEST_MS).min(PAUSE_LONGEST_MS);
        Timestamp(self.at.0.saturating_add(pause_ms))
    }
}

/// What a host reports of a VM that it sends, or has sent, in this life of its daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Sent {
    /// The journey; 0 for one that this daemon did not begin.
    pub number: u64,
    /// What came of it.
    pub state: Sending,
}

/// What came of sending a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Sending {
    /// It is under way.
    UnderWay {
        /// How much of memory and devices is there, in percent of what there is.
        percent: u8,
        /// Since when less is left than ever before: it gets on as long as this moves.
        got_on_at: Timestamp,
    },
    /// It was sent whole.
    Done {
        /// For how long the guest stood still, in milliseconds, by QEMU's word.
        pause_ms: u64,
        /// How long all took, in milliseconds.
        total_ms: u64,
    },
    /// It was not sent, and goes on here.
    Failed {
        /// Why, in the words of who refused it.
        why: String,
    },
}

impl Sent {
    /// Whether it is under way.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, Sending::UnderWay { .. })
    }
}

/// How a VM goes to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Migration {
    /// While it runs where that is possible, else it is shut down here and started there.
    #[default]
    LiveOrRestart,
    /// While it runs, or not at all.
    LiveOnly,
    /// It is always shut down here and started there.
    Restart,
}

impl Migration {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_each_journey_that_came_to_nothing_the_next_one_waits_twice_as_long_up_to_five_minutes() {
        let missed = |count| Missed {
            serial: 1,
            count,
            at: Timestamp(1_000),
            to: "b".parse().unwrap(),
            why: String::new(),
        };
        let waits = [1, 2, 3, 6, 99].map(|count| missed(count).pause_until().0 - 1_000);
        assert_eq!(waits, [10_000, 20_000, 40_000, 300_000, 300_000]);
    }
}
