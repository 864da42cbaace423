//! How much is done to keep VMs running: what a VM asks for, and the cluster's policies.

use serde::{Deserialize, Serialize};

use super::host::DepartureWay;
use super::pace::Pace;
use crate::journey::Migration;

/// The highest priority of a VM.
pub const PRIORITY_MAX: u16 = 1000;
/// The priority of a VM that asks for none.
pub const PRIORITY_DEFAULT: u16 = 100;

/// The longest of the times that follow on a host's silence, in milliseconds.
const RESTART_MS_MAX: u64 = 600_000;
/// How much later than its watchdog must have reset a host its VMs may start elsewhere, in milliseconds, at least.
const RESTART_MARGIN_MS: u64 = 1_000;

/// How much is done to keep a VM running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Availability {
    /// Who is served first when there is not room for all: the higher, 0 to [`PRIORITY_MAX`]; of equals the older VM.
    pub priority: u16,
    /// Whether it is started elsewhere when its host dies.
    pub failover: Failover,
    /// How often it is started again after it fell over.
    pub restarts: RestartPolicy,
    /// How it goes to another host.
    #[serde(skip_serializing_if = "Migration::is_default")]
    pub migration: Migration,
    /// How it is sent if it goes there while it runs. What is not said here is said for all ([`super::Policy::pace`]).
    #[serde(skip_serializing_if = "Pace::is_default")]
    pub pace: Pace,
}

impl Default for Availability {
    fn default() -> Self {
        Self {
            priority: PRIORITY_DEFAULT,
            failover: Failover::default(),
            restarts: RestartPolicy::default(),
            migration: Migration::default(),
            pace: Pace::default(),
        }
    }
}

impl Availability {
    /// Whether nothing special is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a VM is started elsewhere when its host dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Failover {
    /// It is, once its host is known to be down. Such a VM is protected.
    #[default]
    Restart,
    /// It waits for its host.
    Stay,
}

/// How often a VM is started again after it fell over, or could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RestartPolicy {
    /// On one host, before another is tried. Where there is no other, it is tried there for ever.
    pub local: u8,
    /// On how many other hosts, before it is given up until the next command. With 0 it is given up where it is.
    pub elsewhere: u8,
}

impl RestartPolicy {
    /// Whether a host on which a VM fell so often has tried as often as it may.
    pub fn is_spent(self, falls: u32) -> bool {
        falls > u32::from(self.local)
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { local: 3, elsewhere: 3 }
    }
}

/// What follows when a host dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FailoverPolicy {
    /// Nothing follows, for as long as planned work on the network lasts; watchdogs are not armed.
    pub paused: bool,
    /// When what follows.
    pub timers: Timers,
}

impl FailoverPolicy {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When what follows on a host's silence. Each counts from the host's last heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Timers {
    /// How often a host shows that it lives, in milliseconds.
    pub heartbeat_ms: u64,
    /// After how long it counts as lost and gets no more VMs, in milliseconds. An agent cuts its power then.
    pub lost_ms: u64,
    /// After how long its own watchdog has reset it, in milliseconds, counted from the last heartbeat that the store
    /// acknowledged.
    pub reset_ms: u64,
    /// After how long its VMs may start elsewhere on the word of its watchdog, in milliseconds.
    pub restart_ms: u64,
    /// How long the store's members go without word from their leader before they choose another one, in milliseconds
    /// (etcd: `--election-timeout`). The silence of a host counts only while the store answers within this time.
    pub election_ms: u64,
}

impl Default for Timers {
    fn default() -> Self {
        Self { heartbeat_ms: 1_000, lost_ms: 5_000, reset_ms: 8_000, restart_ms: 10_000, election_ms: 1_000 }
    }
}

impl Timers {
    /// After how long without being fed a watchdog resets its host, in milliseconds, at most: half of [`Self::reset_ms`]. The
    /// other half is how long a host may go on without a heartbeat that was acknowledged.
    pub fn watchdog_ms(&self) -> u64 {
        self.reset_ms / 2
    }

    /// By when a host whose watchdog resets it `watchdog_ms` after it was last fed has been reset, in milliseconds from its last
    /// heartbeat that was acknowledged. That is [`Self::reset_ms`], unless the watchdog takes longer than it should.
    pub fn bound_ms(&self, watchdog_ms: u64) -> u64 {
        let trust_ms = self.reset_ms - self.watchdog_ms();
        self.reset_ms.max(watchdog_ms.saturating_add(trust_ms))
    }

    /// After how long a silence a host has surely been reset by its watchdog, in milliseconds, if that is what its last heartbeat
    /// said of it ([`crate::liveness::Heartbeat::bound_ms`]). A host goes by the times that it knows, which may be older.
    pub fn down_ms(&self, bound_ms: Option<u64>) -> u64 {
        let margin_ms = self.restart_ms.saturating_sub(self.reset_ms).max(RESTART_MARGIN_MS);
        let reset_ms = self.reset_ms.max(bound_ms.unwrap_or_default());
        reset_ms.saturating_add(margin_ms).max(self.restart_ms).max(self.lost_ms)
    }

    /// What is wrong with these times, if anything: each must leave room for the one before it.
    pub fn obstacle(&self) -> Option<&'static str> {
        let Self { heartbeat_ms, lost_ms, reset_ms, restart_ms, election_ms } = *self;
        // The largest comes first, so that no sum below is too large.
        if [heartbeat_ms, lost_ms, reset_ms, restart_ms, election_ms]
            .into_iter()
            .any(|ms| ms > RESTART_MS_MAX)
        {
            return Some("none of the times is more than 600000");
        }
        let rules = [
            (heartbeat_ms >= 100, "heartbeat_ms is at least 100"),
            (election_ms >= 100, "election_ms is at least 100"),
            (lost_ms >= 3 * heartbeat_ms, "lost_ms is at least three times heartbeat_ms"),
            (
                lost_ms > election_ms + heartbeat_ms,
                "lost_ms is more than election_ms and heartbeat_ms together",
            ),
            (reset_ms >= lost_ms + 2_000, "reset_ms is at least 2000 more than lost_ms"),
            (restart_ms >= reset_ms + RESTART_MARGIN_MS, "restart_ms is at least 1000 more than reset_ms"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map(|(_, rule)| rule)
    }
}

/// What becomes of a host's VMs when its administrator shuts it down or reboots it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ShutdownPolicy {
    /// With a reboot they wait for the host, for a quarter of an hour at most; with a shutdown they are restarted elsewhere.
    #[default]
    Conditional,
    /// They are moved first, live where that is possible.
    Migrate,
    /// They are shut down and restarted elsewhere at once.
    Restart,
    /// They wait for the host, whatever it does.
    Freeze,
}

impl ShutdownPolicy {
    /// Whether VMs wait for a host that goes down so. Else they go elsewhere.
    pub fn waits(self, way: DepartureWay) -> bool {
        match self {
            Self::Freeze => true,
            Self::Conditional => way == DepartureWay::Reboot,
            Self::Migrate | Self::Restart => false,
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is said to a VM with which the loss of a host could not be made good any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Nothing.
    Off,
    /// It is accepted with a warning.
    #[default]
    Warn,
    /// It is refused.
    Enforce,
}

impl Admission {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_leave_room_for_each_other_and_are_not_too_large_to_be_added() {
        let timers = Timers::default();
        assert_eq!(timers.obstacle(), None);
        let wrong = [
            (Timers { heartbeat_ms: 99, ..timers }, "heartbeat_ms is at least"),
            (Timers { heartbeat_ms: u64::MAX, ..timers }, "none of the times"),
            (Timers { lost_ms: 2_900, ..timers }, "lost_ms is at least three times"),
            (Timers { election_ms: 4_000, ..timers }, "lost_ms is more than election_ms"),
            (Timers { reset_ms: 6_900, ..timers }, "reset_ms is at least"),
            (Timers { restart_ms: 8_999, ..timers }, "restart_ms is at least"),
            (Timers { restart_ms: 5_000, ..timers }, "restart_ms is at least"),
            (Timers { restart_ms: u64::MAX, ..timers }, "none of the times"),
        ];
        for (timers, says) in wrong {
            let obstacle = timers.obstacle();
            assert!(obstacle.is_some_and(|rule| rule.starts_with(says)), "{timers:?}: {obstacle:?}");
        }
    }

    #[test]
    fn a_host_is_down_once_the_time_is_over_that_it_goes_by_itself() {
        let timers = Timers::default();
        assert_eq!((timers.bound_ms(4_000), timers.bound_ms(2_000)), (8_000, 8_000));
        assert_eq!(timers.bound_ms(60_000), 64_000, "it needs the time to hear of a heartbeat, too");
        assert_eq!(timers.down_ms(None), 10_000, "of one that says nothing of it");
        assert_eq!(timers.down_ms(Some(8_000)), 10_000);
        assert_eq!(timers.down_ms(Some(64_000)), 66_000);
        let contradictory = Timers { restart_ms: 6_000, ..timers };
        assert_eq!(contradictory.down_ms(None), 9_000, "whatever was stored");
    }
}
