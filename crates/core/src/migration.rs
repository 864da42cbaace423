//! Where a VM that runs could go, and what would stand against moving it while it runs.
//!
//! Each host is asked by itself, and everything that speaks against it is told, not only the first thing. A host that cannot run the VM
//! at all is [`Way::Neither`]; what that rests on is [`crate::why`]'s. Live migration has further conditions: they are those of the
//! kernel, QEMU and libvirt, and of two cards that must be alike ([`obstacles`]).
//!
//! Deliberately absent: moving anything, and any guess. What is not known of a device is told as not known.

mod forecast;
pub mod obstacles;
mod versions;

use serde::{Deserialize, Serialize};

pub use self::forecast::{Forecast, Load};
use self::obstacles::{Obstacle, Seat, obstacles};
use crate::change::State;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::HostInventory;
use crate::journey::Migration;
use crate::name::{HostName, SlotKey, VmName};
use crate::placement::Board;
use crate::plan::VmPlan;
use crate::spec::VmSpec;
use crate::why::why_not_by;

/// What would become of a VM that shall run on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Outlook {
    /// The other host.
    pub host: HostName,
    /// What would happen.
    pub way: Way,
    /// What keeps the VM from running there. A VM that only moves while it runs may stay for what stands against that alone.
    pub why_not: Vec<Finding>,
    /// What stands against moving it there while it runs, as far as that is known of hosts on which it could run.
    pub live_obstacles: Vec<Finding>,
    /// What it would cost to move it there while it runs, if nothing but that stands against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
}

/// What stands against moving a VM while it runs, and what it would cost.
#[derive(Debug)]
pub(crate) struct Live {
    /// What stands against it.
    pub(crate) obstacles: Vec<Obstacle>,
    /// What it would cost; none if something else stands against it, or nothing is known of a host.
    pub(crate) forecast: Option<Forecast>,
}

impl Live {
    /// That of a VM which goes from its host to a place.
    pub(crate) fn of(
        vm: (&VmName, &VmSpec),
        from: &HostName,
        (to, slots): (&HostName, &[SlotKey]),
        state: State<'_>,
    ) -> Option<Self> {
        let held = state.plan.held_by(vm.0).filter(|(slot, _)| slot.gpu.host == *from);
        let held: Vec<_> = held.map(|(slot, _)| slot.clone()).collect();
        let here = Seat::of(vm.0, from, &held, state)?;
        let there = Seat::of(vm.0, to, slots, state)?;
        let mut obstacles = obstacles(vm, &here, &there);
        let observed = state.inventory.get(from).filter(|_| obstacles.is_empty());
        let limits = state.spec.limits_of(vm.0);
        let forecast =
            observed.map(|observed| Load::of(vm.0, observed, to, here.devices_mib()).forecast(&limits));
        if let Some(forecast) = forecast.filter(|forecast| forecast.pause_ms > u64::from(limits.pause_ms)) {
            obstacles.push(Obstacle::Pause { forecast, limit_ms: limits.pause_ms });
        }
        Some(Self { obstacles, forecast })
    }
}

/// What would happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It would go there while it runs.
    Live,
    /// It would be shut down here and started there.
    Restart,
    /// It would stay where it is.
    Neither,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Restart => "restart",
            Self::Neither => "stays",
        })
    }
}

/// What would become of a VM that runs, on each other host.
///
/// # Errors
/// There is no such VM, it does not run, or there is no cluster.
pub fn outlooks(name: &VmName, state: State<'_>) -> Result<Vec<Outlook>, Vec<Finding>> {
    let spec = state.spec.vms.get(name).ok_or_else(|| vec![say::vm_not_found(name)])?;
    if state.spec.hosts.is_empty() {
        return Err(vec![say::cluster_none()]);
    }
    let planned = state.plan.vms.get(name).filter(|_| state.is_active(name));
    let planned = planned.ok_or_else(|| vec![say::nothing_to_migrate(name)])?;
    let board = Board::of(state);
    let others = state.inventory.values().filter(|observed| observed.host != planned.host);
    Ok(others.map(|observed| outlook((name, spec, planned), observed, &board, state)).collect())
}

/// What would become of a VM on one host; none if nothing is known of the VM or the host.
pub(crate) fn outlook_on(name: &VmName, host: &HostName, state: State<'_>) -> Option<Outlook> {
    let (spec, planned) = (state.spec.vms.get(name)?, state.plan.vms.get(name)?);
    let observed = state.inventory.get(host)?;
    Some(outlook((name, spec, planned), observed, &Board::of(state), state))
}

fn outlook(
    (name, spec, planned): (&VmName, &VmSpec, &VmPlan),
    observed: &HostInventory,
    board: &Board<'_>,
    state: State<'_>,
) -> Outlook {
    let host = &observed.host;
    let mut why_not = why_not_by((name, spec), observed, board, state);
    let place = board.choose((name, spec), Some(host));
    if why_not.is_empty()
        && let Err(finding) = &place
    {
        why_not.push((**finding).clone());
    }
    let (live_obstacles, forecast) = match place {
        Ok(place) if why_not.is_empty() => {
            let live = Live::of((name, spec), &planned.host, (host, &place.slots), state);
            let (found, forecast) = live.map_or((Vec::new(), None), |live| (live.obstacles, live.forecast));
            let unable = [&planned.host, host]
                .into_iter()
                .filter(|host| state.inventory.get(*host).is_none_or(|observed| !observed.progress.travels));
            let unable = unable.map(|host| say::live_unable(name, host));
            let told = found.iter().map(|found| say::live_obstacle(name, host, found)).chain(unable);
            (told.collect::<Vec<_>>(), forecast)
        }
        _ => (Vec::new(), None),
    };
    let way = match spec.availability.migration {
        _ if !why_not.is_empty() => Way::Neither,
        Migration::Restart => Way::Restart,
        Migration::LiveOrRestart | Migration::LiveOnly if live_obstacles.is_empty() => Way::Live,
        Migration::LiveOrRestart => Way::Restart,
        Migration::LiveOnly => Way::Neither,
    };
    let forecast = forecast.filter(|_| spec.availability.migration != Migration::Restart);
    Outlook { host: host.clone(), way, why_not, live_obstacles, forecast }
}
