//! Where a VM that runs could go, and what would stand against moving it while it runs.
//!
//! Each host is asked by itself, and everything that speaks against it is told, not only the first thing. A host that cannot run the VM
//! at all is [`Way::Neither`]; what that rests on is [`crate::why`]'s. Live migration has further conditions: they are those of the
//! kernel, QEMU and libvirt, and of two cards that must be alike ([`obstacles`]).
//!
//! Deliberately absent: moving anything, and any guess. What is not known of a device is told as not known.

pub mod obstacles;
mod versions;

use serde::{Deserialize, Serialize};

use self::obstacles::{Seat, obstacles};
use crate::change::State;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::HostInventory;
use crate::journey::Migration;
use crate::name::{HostName, VmName};
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
    let live_obstacles = match place {
        Ok(place) if why_not.is_empty() => {
            let held = state.plan.held_by(name).filter(|(slot, _)| slot.gpu.host == planned.host);
            let held: Vec<_> = held.map(|(slot, _)| slot.clone()).collect();
            let here = Seat::of(name, &planned.host, &held, state);
            let there = Seat::of(name, host, &place.slots, state);
            let found = here.zip(there).map(|(here, there)| obstacles((name, spec), &here, &there));
            let found = found.unwrap_or_default();
            let unable = [&planned.host, host]
                .into_iter()
                .filter(|host| state.inventory.get(*host).is_none_or(|observed| !observed.progress.travels));
            let unable = unable.map(|host| say::live_unable(name, host));
            found.iter().map(|found| say::live_obstacle(name, host, found)).chain(unable).collect()
        }
        _ => Vec::new(),
    };
    let way = match spec.availability.migration {
        _ if !why_not.is_empty() => Way::Neither,
        Migration::Restart => Way::Restart,
        Migration::LiveOrRestart | Migration::LiveOnly if live_obstacles.is_empty() => Way::Live,
        Migration::LiveOrRestart => Way::Restart,
        Migration::LiveOnly => Way::Neither,
    };
    Outlook { host: host.clone(), way, why_not, live_obstacles }
}
