//! How a VM is sent that goes to another host while it runs: how much of the network it may take, and for how long its guest may
//! stand still.

use serde::{Deserialize, Serialize};

/// For how long a guest may stand still where nobody says otherwise, in milliseconds. Who is logged in loses less by it than by a
/// restart, and most connections outlive it. (VMware allows a VM with a vGPU as much: `vmotion stun time limit`.)
pub const PAUSE_MS_DEFAULT: u32 = 100_000;
/// The longest pause that may be asked for, in milliseconds.
pub const PAUSE_MS_MAX: u32 = 600_000;
/// The shortest one, in milliseconds: QEMU itself takes about as long to change over.
pub const PAUSE_MS_MIN: u32 = 20;
/// The most bandwidth that may be asked for, in MiB/s.
pub const BANDWIDTH_MIB_S_MAX: u32 = 1_000_000;

/// The pause at which QEMU begins (qapi/migration.json, `downtime-limit`), in milliseconds.
const PAUSE_FIRST_MS: u32 = 300;
/// Rounds of sending what was changed meanwhile before a longer pause is allowed.
const PATIENT_ROUNDS: u64 = 3;
/// By how much the pause grows that is allowed, with each further round: nine fifths, so that the longest is reached after about ten,
/// and guests that are slowed down have come to rest by then if they ever do.
const GROWS: (u64, u64) = (9, 5);

/// Limits that somebody asks for: for a VM, or for all that have none of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// For how long its guest may stand still, in milliseconds, [`PAUSE_MS_MIN`] to [`PAUSE_MS_MAX`]. A VM that would stand still for
    /// longer is not moved while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u32>,
    /// How much it may send, in MiB/s, 1 to [`BANDWIDTH_MIB_S_MAX`]. None: as much as there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_mib_s: Option<u32>,
}

impl Pace {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it, if anything.
    pub fn obstacle(&self) -> Option<String> {
        let pause = self.pause_ms.filter(|ms| !(PAUSE_MS_MIN..=PAUSE_MS_MAX).contains(ms));
        let bandwidth = self.bandwidth_mib_s.filter(|mib_s| !(1..=BANDWIDTH_MIB_S_MAX).contains(mib_s));
        let pause = pause.map(|_| format!("pause_ms is {PAUSE_MS_MIN} to {PAUSE_MS_MAX}"));
        pause.or_else(|| bandwidth.map(|_| format!("bandwidth_mib_s is 1 to {BANDWIDTH_MIB_S_MAX}")))
    }
}

/// The limits that a VM is sent by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Limits {
    /// For how long its guest may stand still, in milliseconds.
    pub pause_ms: u32,
    /// How much it may send, in MiB/s; none for as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_mib_s: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pause_ms: PAUSE_MS_DEFAULT, bandwidth_mib_s: None }
    }
}

impl Limits {
    /// Those of a VM. What it does not ask for is what is asked for all.
    pub fn of(vm: Pace, all: Pace) -> Self {
        Self {
            pause_ms: vm.pause_ms.or(all.pause_ms).unwrap_or(PAUSE_MS_DEFAULT),
            bandwidth_mib_s: vm.bandwidth_mib_s.or(all.bandwidth_mib_s),
        }
    }

    /// For how long the guest may stand still if all but what it has changed meanwhile was sent in so many rounds, in milliseconds.
    /// It begins short, since most guests come to rest enough, and grows to what is allowed.
    pub fn pause_at_ms(&self, round: u64) -> u32 {
        let longest = u64::from(self.pause_ms);
        let mut pause_ms = u64::from(PAUSE_FIRST_MS).min(longest);
        for _ in PATIENT_ROUNDS..round {
            if pause_ms >= longest {
                break;
            }
            pause_ms = (pause_ms * GROWS.0 / GROWS.1).min(longest);
        }
        u32::try_from(pause_ms).unwrap_or(self.pause_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_that_is_allowed_grows_from_a_short_one_to_the_longest() {
        let limits = Limits { pause_ms: 1_300, bandwidth_mib_s: None };
        let allowed = [0, 1, 3, 4, 5, 6, u64::MAX].map(|round| limits.pause_at_ms(round));
        assert_eq!(allowed, [300, 300, 300, 540, 972, 1_300, 1_300]);
        let short = Limits { pause_ms: 50, ..limits };
        assert_eq!([0, 5, 99].map(|round| short.pause_at_ms(round)), [50; 3]);
    }

    #[test]
    fn a_vm_goes_by_its_own_limits_then_by_those_of_all() {
        let own = Pace { pause_ms: Some(100), bandwidth_mib_s: None };
        let all = Pace { pause_ms: Some(500), bandwidth_mib_s: Some(40) };
        assert_eq!(Limits::of(own, all), Limits { pause_ms: 100, bandwidth_mib_s: Some(40) });
        assert_eq!(Limits::of(Pace::default(), Pace::default()), Limits::default());
    }

    #[test]
    fn limits_that_cannot_be_kept_are_named() {
        let pause = |pause_ms| Pace { pause_ms: Some(pause_ms), ..Pace::default() }.obstacle();
        assert_eq!([20, 600_000].map(pause), [None, None]);
        assert_eq!(pause(19).as_deref(), Some("pause_ms is 20 to 600000"));
        let bandwidth = |mib_s| Pace { bandwidth_mib_s: Some(mib_s), ..Pace::default() }.obstacle();
        assert_eq!(bandwidth(1), None);
        assert_eq!(bandwidth(0).as_deref(), Some("bandwidth_mib_s is 1 to 1000000"));
    }
}
