//! How everything is, in figures: for the first page, and for whoever counts.
//!
//! The rows behind the figures are those of the lists; none of them is made for it, since a site has thousands.

use serde::{Deserialize, Serialize};
use tranche_core::name::VmName;
use tranche_core::plan::Standing;
use tranche_core::spec::{Duty, GpuMode};

use super::partition::PartitionState;
use super::{GpuStatus, Sources, VmState, gpu, vm};

/// Everything in figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Overview {
    /// Hosts that have reported.
    pub hosts: HostFigures,
    /// GPUs that are reported, spoken for or in use.
    pub gpus: GpuFigures,
    /// Partitions of all GPUs.
    pub partitions: PartitionFigures,
    /// VMs.
    pub vms: VmFigures,
}

/// Hosts in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostFigures {
    /// All of them.
    pub total: usize,
    /// Those that are up.
    pub up: usize,
    /// Those in maintenance.
    pub maintenance: usize,
}

/// GPUs in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GpuFigures {
    /// All of them.
    pub total: usize,
    /// Those that are left to their host.
    pub host: usize,
    /// Those that are split.
    pub partitioned: usize,
    /// Those that are given away whole.
    pub passthrough: usize,
    /// Those that are stuck, sick, gone or wait for a reset, in whatever mode.
    pub broken: usize,
}

/// Partitions in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PartitionFigures {
    /// All of them.
    pub total: usize,
    /// Those that a VM of Tranche has.
    pub assigned: usize,
    /// Those that could be had now.
    pub free: usize,
    /// Those whose device is gone while the VM runs.
    pub lost: usize,
}

/// VMs in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmFigures {
    /// All of them.
    pub total: usize,
    /// Those that run.
    pub running: usize,
    /// Those that wait for room.
    pub waiting: usize,
    /// Those that are off, as they shall be.
    pub stopped: usize,
    /// Those of which nothing is known, because their host is silent.
    pub unknown: usize,
}

/// Everything in figures.
pub fn overview(sources: &Sources<'_>) -> Overview {
    let (gpus, partitions) = gpus(sources);
    Overview { hosts: hosts(sources), gpus, partitions, vms: vm_figures(sources, |_| true) }
}

fn hosts(sources: &Sources<'_>) -> HostFigures {
    let mut figures = HostFigures { total: sources.inventory.len(), ..HostFigures::default() };
    for host in sources.inventory.keys() {
        let standing = sources.plan.hosts.get(host).map(|planned| planned.standing).unwrap_or_default();
        let wish = sources.spec.hosts.get(host);
        figures.up += usize::from(wish.is_none() || standing == Standing::Up);
        figures.maintenance += usize::from(wish.is_some_and(|wish| wish.duty == Duty::Maintenance));
    }
    figures
}

fn gpus(sources: &Sources<'_>) -> (GpuFigures, PartitionFigures) {
    let (mut gpus, mut partitions) = (GpuFigures::default(), PartitionFigures::default());
    for (mode, status, states) in gpu::states(sources) {
        gpus.total += 1;
        gpus.broken += usize::from(status.is_broken());
        *match mode {
            GpuMode::Host => &mut gpus.host,
            GpuMode::Partitioned { .. } | GpuMode::Mixed { .. } => &mut gpus.partitioned,
            GpuMode::Passthrough { .. } => &mut gpus.passthrough,
        } += 1;
        for state in states {
            count(&mut partitions, state);
        }
    }
    (gpus, partitions)
}

fn count(partitions: &mut PartitionFigures, state: PartitionState) {
    partitions.total += 1;
    match state {
        PartitionState::Free => partitions.free += 1,
        PartitionState::Booked | PartitionState::InUse => partitions.assigned += 1,
        PartitionState::Lost => {
            partitions.assigned += 1;
            partitions.lost += 1;
        }
        PartitionState::Foreign | PartitionState::Unready => {}
    }
}

/// Those VMs in figures that are to be counted.
pub(crate) fn vm_figures(sources: &Sources<'_>, is_counted: impl Fn(&VmName) -> bool) -> VmFigures {
    let mut figures = VmFigures::default();
    for (_, state) in vm::states(sources).filter(|(name, _)| is_counted(name)) {
        figures.total += 1;
        match state {
            VmState::Running => figures.running += 1,
            VmState::Waiting => figures.waiting += 1,
            VmState::Stopped => figures.stopped += 1,
            VmState::Unknown => figures.unknown += 1,
            VmState::Paused | VmState::Starting | VmState::Moving | VmState::Stopping | VmState::Deleting => {
            }
        }
    }
    figures
}

impl GpuStatus {
    /// Whether somebody has to see to it.
    pub fn is_broken(self) -> bool {
        matches!(self, Self::Stuck | Self::Sick | Self::Gone | Self::NeedsReset | Self::NeedsReboot)
    }
}
