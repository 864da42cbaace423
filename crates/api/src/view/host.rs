//! Hosts, as people see them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tranche_core::finding::Finding;
use tranche_core::inventory::{Guard, HostInventory, Hypervisor, Iommu, StuckCall};
use tranche_core::name::{AgentName, HostName, LabelKey, LabelValue, Timestamp, VmName};
use tranche_core::plan::Standing;
use tranche_core::spec::Duty;

use super::Sources;
use super::partition::{PartitionState, states_on};

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostView {
    /// Its name.
    pub name: HostName,
    /// When it last reported, in milliseconds since the Unix epoch.
    pub observed_at: Timestamp,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// The processor's model name.
    pub cpu_model: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Whether the IOMMU is on, and which units serve it.
    pub iommu: Iommu,
    /// What libvirt is, or why it does not answer.
    pub libvirt: LibvirtView,
    /// GPUs that it reports.
    pub gpus: usize,
    /// Partitions that were decided for it or exist on it.
    pub partitions: usize,
    /// Of these, the ones that a VM could get now.
    pub partitions_free: usize,
    /// VMs that belong to it.
    pub vms: usize,
    /// Of these, the ones that run.
    pub vms_running: usize,
    /// What it is in its cluster; nothing where it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberView>,
    /// Kernel calls that have not come back.
    pub stuck: Vec<StuckCall>,
    /// What was found about the host itself.
    pub findings: Vec<Finding>,
}

/// A host as a member of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MemberView {
    /// Whether it is there.
    #[serde(flatten)]
    pub standing: Standing,
    /// Whether it takes VMs.
    pub duty: Duty,
    /// Whether its watchdog guards it.
    pub guard: Guard,
    /// The agent that cuts its power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// That agent leaves it off then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leave_off: bool,
    /// Its labels.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// The memory that VMs leave to it, in MiB.
    pub reserved_memory_mib: u64,
}

/// What libvirt is, without its domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LibvirtView {
    /// It answers.
    Up {
        /// Its version, as `major.minor.release`.
        libvirt: String,
        /// The version of QEMU that it uses.
        qemu: String,
    },
    /// It does not answer: nothing is known of running VMs.
    Down {
        /// What it answered, or what failed.
        reason: String,
    },
}

/// Every host that has reported, by name.
pub fn hosts(sources: &Sources<'_>) -> Vec<HostView> {
    let mut residents: BTreeMap<&HostName, Vec<&VmName>> = BTreeMap::new();
    for (name, planned) in &sources.plan.vms {
        residents.entry(&planned.host).or_default().push(name);
    }
    let vms = |host: &HostName| residents.get(host).map_or(&[][..], Vec::as_slice);
    sources.inventory.iter().map(|(host, observed)| build(sources, observed, vms(host))).collect()
}

/// One host, if it has reported.
pub fn host(sources: &Sources<'_>, name: &HostName) -> Option<HostView> {
    let here = sources.plan.vms.iter().filter(|(_, planned)| planned.host == *name);
    let vms: Vec<&VmName> = here.map(|(name, _)| name).collect();
    sources.host(name).map(|observed| build(sources, observed, &vms))
}

fn build(sources: &Sources<'_>, observed: &HostInventory, vms: &[&VmName]) -> HostView {
    let system = &observed.system;
    let own = states_on(sources, &observed.host);
    let runs = |name| observed.domain(name).is_some_and(|domain| domain.state.is_active());
    HostView {
        name: observed.host.clone(),
        observed_at: observed.observed_at,
        boot_id: observed.boot_id.clone(),
        kernel: system.kernel.clone(),
        cpu_model: system.cpu_model.clone(),
        cpus: system.cpus,
        memory_mib: system.memory_mib,
        iommu: system.iommu.clone(),
        libvirt: libvirt(&observed.hypervisor),
        gpus: observed.gpus.len(),
        partitions: own.len(),
        partitions_free: own.iter().filter(|state| **state == PartitionState::Free).count(),
        vms: vms.len(),
        vms_running: vms.iter().filter(|name| runs(name)).count(),
        member: sources.spec.hosts.get(&observed.host).map(|wish| MemberView {
            standing: sources
                .plan
                .hosts
                .get(&observed.host)
                .map(|planned| planned.standing)
                .unwrap_or_default(),
            duty: wish.duty,
            guard: observed.progress.guard,
            agent: wish.fence.as_ref().map(|fence| fence.agent.clone()),
            leave_off: wish.fence.as_ref().is_some_and(|fence| fence.leave_off),
            labels: wish.labels.clone(),
            reserved_memory_mib: wish.reserved_memory_mib,
        }),
        stuck: observed.stuck.clone(),
        findings: sources.about_host(&observed.host),
    }
}

fn libvirt(hypervisor: &Hypervisor) -> LibvirtView {
    match hypervisor {
        Hypervisor::Up { libvirt, qemu, .. } => {
            LibvirtView::Up { libvirt: libvirt.clone(), qemu: qemu.clone() }
        }
        Hypervisor::Down { reason } => LibvirtView::Down { reason: reason.clone() },
    }
}
