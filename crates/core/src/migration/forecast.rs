//! How long a guest would stand still, and how long all would take, if it went to another host while it runs.
//!
//! QEMU sends all memory, then what the guest has changed meanwhile, round by round, until the rest goes in the pause that is allowed
//! (QEMU, docs/devel/migration; migration/migration.c, `migration_iteration_run`). The guest then stands still for the rest, for the
//! state of its devices, for the change itself, and until its old machine has ended.
//!
//! Deliberately absent: how much a guest is slowed down that changes more than can be sent. Nobody knows beforehand how much that is.

use serde::{Deserialize, Serialize};

use crate::inventory::HostInventory;
use crate::name::{HostName, VmName};
use crate::spec::Limits;

/// What a link carries if it was never measured, in MiB/s: Ethernet of 1 Gbit/s.
const LINK_MIB_S_ASSUMED: u32 = 110;
/// What the change itself takes, in milliseconds: about what was left of virsh's pauses of 93 ms (docs/benchmarks.md) without memory.
const CHANGE_MS: u64 = 60;
/// After so many rounds the pause that is allowed has long been the longest.
const ROUNDS_MAX: u64 = 30;

/// What a move would cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Forecast {
    /// For how long the guest would stand still, in milliseconds.
    pub pause_ms: u64,
    /// How long all would take, in milliseconds.
    pub total_ms: u64,
    /// What the link between the hosts carries, in MiB/s.
    pub link_mib_s: u32,
    /// Whether that was measured, by a VM that went the same way. Else it is assumed.
    pub is_link_measured: bool,
    /// How much memory the guest changes, in MiB/s; none if that was not measured yet. It is taken for nothing then.
    pub dirty_mib_s: Option<u32>,
}

/// What a forecast rests on.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The state of its devices in MiB, at most.
    pub devices_mib: u64,
    /// How much memory the guest changes, in MiB/s.
    pub dirty_mib_s: Option<u32>,
    /// What the link carries, in MiB/s.
    pub link_mib_s: Option<u32>,
    /// How long an old machine takes to end on the host that it leaves, in milliseconds; nothing until that was measured.
    pub end_ms: Option<u32>,
}

impl Load {
    /// That of a VM which goes from a host to another one.
    pub fn of(name: &VmName, here: &HostInventory, there: &HostName, devices_mib: u64) -> Self {
        Self {
            memory_mib: here.domain(name).map_or(0, |domain| domain.memory_mib),
            devices_mib,
            dirty_mib_s: here.progress.dirty_mib_s.get(name).copied(),
            link_mib_s: here.progress.links_mib_s.get(there).copied(),
            end_ms: here.progress.end_ms,
        }
    }

    /// What the move would cost within such limits.
    pub fn forecast(&self, limits: &Limits) -> Forecast {
        let link_mib_s = self.link_mib_s.unwrap_or(LINK_MIB_S_ASSUMED).max(1);
        let speed_mib_s = u64::from(limits.bandwidth_mib_s.unwrap_or(link_mib_s).min(link_mib_s).max(1));
        let ms_of = |mib: u64| mib.saturating_mul(1_000).div_ceil(speed_mib_s);
        let dirty_mib_s = u64::from(self.dirty_mib_s.unwrap_or(0));
        // In KiB and milliseconds, so that little is rounded away: a MiB/s is about a KiB/ms.
        let (mut total_ms, mut left_kib) = (0_u64, self.memory_mib.saturating_mul(1_024));
        for round in 1..=ROUNDS_MAX {
            let took_ms = ms_of(left_kib).div_ceil(1_024);
            total_ms = total_ms.saturating_add(took_ms);
            let changed_kib = dirty_mib_s.saturating_mul(took_ms).saturating_mul(1_024) / 1_000;
            left_kib = changed_kib.min(self.memory_mib.saturating_mul(1_024));
            if ms_of(left_kib) / 1_024 <= u64::from(limits.pause_at_ms(round)) {
                break;
            }
        }
        let rest_ms = ms_of(left_kib).div_ceil(1_024);
        let change_ms = CHANGE_MS + u64::from(self.end_ms.unwrap_or(0));
        let pause_ms = rest_ms.saturating_add(ms_of(self.devices_mib)).saturating_add(change_ms);
        let is_link_measured = self.link_mib_s.is_some();
        let total_ms = total_ms.saturating_add(pause_ms);
        Forecast { pause_ms, total_ms, link_mib_s, is_link_measured, dirty_mib_s: self.dirty_mib_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        memory_mib: 4_096,
        devices_mib: 0,
        dirty_mib_s: Some(0),
        link_mib_s: Some(1_000),
        end_ms: None,
    };

    fn forecast(load: Load, pause_ms: u32) -> (u64, u64) {
        let told = load.forecast(&Limits { pause_ms, bandwidth_mib_s: None });
        (told.pause_ms, told.total_ms)
    }

    #[test]
    fn a_guest_at_rest_stands_still_for_the_change_alone() {
        assert_eq!(forecast(LOAD, 1_000), (60, 4_156));
    }

    #[test]
    fn one_that_changes_little_stands_still_for_what_it_changed_in_the_last_round() {
        // 4,096 ms, meanwhile 409.6 MiB; 409.6 ms, meanwhile 41 MiB, which go in the pause.
        let (pause_ms, total_ms) = forecast(Load { dirty_mib_s: Some(100), ..LOAD }, 1_000);
        assert!((100..=102).contains(&pause_ms), "{pause_ms}");
        assert!((4_605..=4_610).contains(&total_ms), "{total_ms}");
    }

    #[test]
    fn one_that_changes_more_than_can_be_sent_stands_still_for_all_of_its_memory() {
        let (pause_ms, _) = forecast(Load { dirty_mib_s: Some(2_000), ..LOAD }, 1_000);
        assert_eq!(pause_ms, 4_156);
    }

    #[test]
    fn the_state_of_its_devices_goes_in_the_pause() {
        let with = |devices_mib| forecast(Load { devices_mib, ..LOAD }, 1_000);
        assert_eq!(with(500), (560, 4_656));
    }

    #[test]
    fn it_stands_still_until_its_old_machine_has_ended() {
        assert_eq!(forecast(Load { end_ms: Some(1_800), ..LOAD }, 1_000), (1_860, 5_956));
    }

    #[test]
    fn what_is_not_known_is_said_to_be_assumed() {
        let load = Load { dirty_mib_s: None, link_mib_s: None, ..LOAD };
        let told = load.forecast(&Limits::default());
        assert_eq!((told.link_mib_s, told.is_link_measured, told.dirty_mib_s), (110, false, None));
        assert_eq!(told.pause_ms, 60);
    }

    #[test]
    fn a_vm_that_may_send_less_takes_longer() {
        let load = Load { devices_mib: 100, ..LOAD };
        let told = load.forecast(&Limits { pause_ms: 1_000, bandwidth_mib_s: Some(100) });
        assert_eq!((told.pause_ms, told.total_ms), (1_060, 42_020));
        assert_eq!(told.link_mib_s, 1_000, "that is what the link carries");
    }

    #[test]
    fn a_longer_pause_that_is_allowed_never_makes_the_whole_longer_and_nothing_overflows() {
        let rates = [0, 1, 50, 99, 100, 101, u32::MAX];
        for dirty in rates {
            let load = Load { dirty_mib_s: Some(dirty), link_mib_s: Some(100), ..LOAD };
            let total = |pause_ms| load.forecast(&Limits { pause_ms, bandwidth_mib_s: None }).total_ms;
            assert!(total(600_000) <= total(20), "{dirty}");
        }
        let most = Load {
            memory_mib: u64::MAX,
            devices_mib: u64::MAX,
            dirty_mib_s: Some(u32::MAX),
            end_ms: Some(u32::MAX),
            ..LOAD
        };
        assert!(most.forecast(&Limits::default()).total_ms > 1 << 40);
    }
}
