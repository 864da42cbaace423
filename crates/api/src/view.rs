//! Views: spec, plan and inventory joined into flat rows for people.
//!
//! Every row is built from [`Sources`] alone, so that command, REST and console show the same. Field names are stable.

mod gpu;
mod host;
mod invitation;
mod migration;
mod overview;
mod partition;
#[cfg(test)]
pub(crate) mod tests;
mod vm;

use tranche_core::finding::{Finding, Subject};
use tranche_core::inventory::{HostInventory, Inventory};
use tranche_core::name::{GpuKey, HostName, VmName};
use tranche_core::placement::Uses;
use tranche_core::plan::Plan;
use tranche_core::spec::Spec;

pub use gpu::{GpuStatus, GpuView, gpu, gpu_keys, gpus, gpus_at};
pub use host::{HostView, LibvirtView, MemberView, host, hosts};
pub use invitation::{InvitationMade, InvitationState, InvitationView, invitations};
pub use migration::MigrationView;
pub(crate) use overview::vm_figures;
pub use overview::{GpuFigures, HostFigures, Overview, PartitionFigures, VmFigures, overview};
pub use partition::{PartitionState, PartitionView, partitions, partitions_of, partitions_on};
pub use vm::{VmOrigin, VmState, VmView, vm, vms};

/// What views are made from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// What people asked for.
    pub spec: &'a Spec,
    /// What was decided.
    pub plan: &'a Plan,
    /// What hosts report.
    pub inventory: &'a Inventory,
    /// What was found in the last pass, about anything.
    pub findings: &'a [Finding],
}

impl<'a> Sources<'a> {
    fn host(&self, host: &HostName) -> Option<&'a HostInventory> {
        self.inventory.get(host).map(|seen| &**seen)
    }

    /// The findings about a host itself.
    fn about_host(&self, host: &HostName) -> Vec<Finding> {
        self.about(|subject| matches!(subject, Subject::Host(about) if about == host))
    }

    /// The findings about a GPU or one of its partitions.
    fn about_gpu(&self, gpu: &GpuKey) -> Vec<Finding> {
        self.about(|subject| subject.gpu() == Some(gpu))
    }

    /// The findings about a VM, and about what it holds.
    fn about_vm(&self, vm: &VmName) -> Vec<Finding> {
        self.about(|subject| match subject {
            Subject::Vm(about) => about == vm,
            Subject::Partition(slot) => self.plan.bookings.get(slot).is_some_and(|booking| &booking.vm == vm),
            _ => false,
        })
    }

    fn about(&self, concerns: impl Fn(&Subject) -> bool) -> Vec<Finding> {
        self.findings.iter().filter(|finding| concerns(&finding.subject)).cloned().collect()
    }
}

/// Who uses what on a host, read once for everything there. Lists go from host to host.
#[derive(Debug, Default)]
struct UsesOfHost(Option<(HostName, Uses)>);

impl UsesOfHost {
    fn of(&mut self, sources: &Sources<'_>, host: &HostName) -> &Uses {
        let known = self.0.take().filter(|(of, _)| of == host);
        let read = || (host.clone(), sources.host(host).map(Uses::of).unwrap_or_default());
        &self.0.insert(known.unwrap_or_else(read)).1
    }
}
