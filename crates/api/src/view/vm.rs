//! VMs, as people see them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{Console, Domain, DomainState, Gpu, HostInventory};
use tranche_core::journey::Sending;
use tranche_core::name::{
    GpuAddress, GpuKey, HostName, LabelKey, LabelValue, Slot, SlotKey, Timestamp, VmId, VmName,
};
use tranche_core::placement;
use tranche_core::plan::{VmGoal, VmPlan};
use tranche_core::spec::{Availability, Request, Run, VmSource, VmSpec};

use super::Sources;
use super::partition::device_text;

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmView {
    /// Its name.
    pub name: VmName,
    /// Its UUID, the same in libvirt.
    pub id: VmId,
    /// What it does.
    pub state: VmState,
    /// What it shall do.
    pub run: Run,
    /// The host that it belongs to, once decided.
    pub host: Option<HostName>,
    /// The host that it goes to while it runs, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_to: Option<HostName>,
    /// Whether that host has a store of its own, so that the VM is its own then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hands_over: bool,
    /// The host with a store of its own that it comes from, and whose it is until it has arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comes_from: Option<HostName>,
    /// How much of it is there, in percent, as far as its host has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_percent: Option<u8>,
    /// The GPU that serves it; the first one where it has several.
    pub gpu: Option<GpuAddress>,
    /// The partition's index on that GPU; none for a whole GPU.
    pub partition: Option<u16>,
    /// The VF's address, the mediated device's UUID, or the whole GPU's address.
    pub device: Option<String>,
    /// Everything that it holds.
    pub holds: Vec<SlotKey>,
    /// The profile of its partition.
    pub profile: Option<String>,
    /// Video memory of its partition in MiB, where known.
    pub vram_mib: Option<u64>,
    /// Whether what it holds is a stand-in of the virtual lab.
    pub emulated: bool,
    /// What it asks for.
    pub request: Request,
    /// What people tell it apart by.
    #[serde(default)]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Whether it keeps its partition while it is off.
    pub reserved: bool,
    /// The NUMA node whose GPUs it prefers.
    pub prefer_numa_node: Option<u16>,
    /// How much is done to keep it running.
    #[serde(default)]
    pub availability: Availability,
    /// Where its definition comes from.
    pub origin: VmOrigin,
    /// Virtual processors, where known.
    pub vcpus: Option<u32>,
    /// Memory in MiB, where known.
    pub memory_mib: Option<u64>,
    /// The guest system, as a libosinfo short id.
    pub guest_os: Option<String>,
    /// When it was created or adopted, in milliseconds since the Unix epoch.
    pub created_at: Timestamp,
    /// The consoles that can be opened now.
    #[serde(default)]
    pub consoles: Vec<Console>,
    /// What was found about it and what it holds.
    pub findings: Vec<Finding>,
}

/// What a VM does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// It runs.
    Running,
    /// It is stopped in its tracks.
    Paused,
    /// It is on its way up.
    Starting,
    /// It is on its way to another host, or from one.
    Moving,
    /// It is on its way down.
    Stopping,
    /// It shall run and cannot yet; its findings say why.
    Waiting,
    /// It is off.
    Stopped,
    /// It is being removed.
    Deleting,
    /// libvirt does not answer, or its host has not reported.
    Unknown,
}

impl VmState {
    /// Every state, in order.
    pub const ALL: [Self; 9] = [
        Self::Running,
        Self::Paused,
        Self::Starting,
        Self::Moving,
        Self::Stopping,
        Self::Waiting,
        Self::Stopped,
        Self::Deleting,
        Self::Unknown,
    ];

    /// The state as text, the same as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Starting => "starting",
            Self::Moving => "moving",
            Self::Stopping => "stopping",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a VM's definition comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmOrigin {
    /// Tranche defines its domain.
    Made,
    /// Its domain was there before, and stays its user's.
    Adopted,
}

/// Every VM, by name.
pub fn vms(sources: &Sources<'_>) -> Vec<VmView> {
    sources.spec.vms.iter().map(|(name, spec)| build(sources, name, spec)).collect()
}

/// One VM, if there is one of that name.
pub fn vm(sources: &Sources<'_>, name: &VmName) -> Option<VmView> {
    sources.spec.vms.get(name).map(|spec| build(sources, name, spec))
}

fn build(sources: &Sources<'_>, name: &VmName, spec: &VmSpec) -> VmView {
    let planned = sources.plan.vms.get(name);
    let host = planned.and_then(|planned| sources.host(&planned.host));
    let domain = host.and_then(|host| host.domain(name)).filter(|domain| domain.uuid == spec.id.0);
    let is_here = |slot: &SlotKey| planned.is_none_or(|planned| planned.host == slot.gpu.host);
    let held = sources.plan.held_by(name).filter(|(slot, _)| is_here(slot));
    let holds: Vec<SlotKey> = held.map(|(slot, _)| slot.clone()).collect();
    let journey = planned.and_then(VmPlan::open_journey).map(|journey| (journey.number, &journey.other));
    let parting = planned.and_then(VmPlan::open_parting).map(|parting| (parting.number, &parting.to));
    let goes = journey.or(parting);
    let sent = host.and_then(|host| host.progress.sent.get(name));
    let moved_percent = goes.zip(sent).and_then(|((number, _), sent)| match sent.state {
        Sending::UnderWay { percent, .. } if sent.number == number => Some(percent),
        _ => None,
    });
    let first = holds.first();
    let gpu = first.and_then(|slot| observed_gpu(sources, &slot.gpu));
    let offer = first.and_then(|slot| match slot.slot {
        Slot::Partition(index) => sources.plan.gpus.get(&slot.gpu)?.size_of(index),
        Slot::Whole => None,
    });
    let findings = sources.about_vm(name);
    let hardware = match &spec.source {
        VmSource::Made(hardware) => Some(hardware),
        VmSource::Adopted => None,
    };
    VmView {
        name: name.clone(),
        id: spec.id,
        state: state(spec.run, planned, host, domain, || findings.clone()),
        run: spec.run,
        host: planned.map(|planned| planned.host.clone()),
        moves_to: goes.map(|(_, to)| to.clone()),
        hands_over: spec.outgoing().is_some_and(|wish| wish.stays.is_none()),
        comes_from: spec.incoming().map(|incoming| incoming.from.clone()),
        moved_percent,
        gpu: first.map(|slot| slot.gpu.address.clone()),
        partition: first.and_then(|slot| match slot.slot {
            Slot::Partition(index) => Some(index),
            Slot::Whole => None,
        }),
        device: first.zip(gpu).and_then(|(slot, gpu)| device(slot.slot, gpu)),
        profile: offer.map(|offer| offer.profile.clone()),
        vram_mib: offer.and_then(|offer| offer.vram_mib),
        emulated: gpu.is_some_and(|gpu| gpu.emulated),
        holds,
        request: spec.request.clone(),
        labels: spec.labels.clone(),
        reserved: spec.reserved,
        prefer_numa_node: spec.prefer_numa_node,
        availability: spec.availability,
        origin: if hardware.is_some() { VmOrigin::Made } else { VmOrigin::Adopted },
        vcpus: domain.map(|domain| domain.vcpus).or(hardware.map(|hardware| hardware.vcpus)),
        memory_mib: domain.map(|domain| domain.memory_mib).or(hardware.map(|hardware| hardware.memory_mib)),
        guest_os: hardware.and_then(|hardware| hardware.guest_os.clone()),
        created_at: spec.created_at,
        consoles: domain.map(|domain| domain.consoles.iter().copied().collect()).unwrap_or_default(),
        findings,
    }
}

/// What each VM does.
pub(super) fn states<'a>(sources: &'a Sources<'a>) -> impl Iterator<Item = (&'a VmName, VmState)> {
    sources.spec.vms.iter().map(|(name, spec)| {
        let planned = sources.plan.vms.get(name);
        let host = planned.and_then(|planned| sources.host(&planned.host));
        let domain = host.and_then(|host| host.domain(name)).filter(|domain| domain.uuid == spec.id.0);
        (name, state(spec.run, planned, host, domain, || sources.about_vm(name)))
    })
}

fn observed_gpu<'a>(sources: &Sources<'a>, key: &GpuKey) -> Option<&'a Gpu> {
    sources.host(&key.host)?.gpus.get(&key.address)
}

fn device(slot: Slot, gpu: &Gpu) -> Option<String> {
    match slot {
        Slot::Partition(index) => {
            placement::partition(gpu, index).map(|partition| device_text(&partition.device))
        }
        Slot::Whole => Some(gpu.address.to_string()),
    }
}

/// What a VM does: what its domain does where it is active, else what was decided and why.
fn state(
    run: Run,
    planned: Option<&VmPlan>,
    host: Option<&HostInventory>,
    domain: Option<&Domain>,
    findings: impl FnOnce() -> Vec<Finding>,
) -> VmState {
    if planned.is_some() && host.is_none_or(|host| host.domains().is_none()) {
        return VmState::Unknown;
    }
    let goal = planned.map(|planned| planned.goal);
    let cycles = matches!(goal, Some(VmGoal::Cycle | VmGoal::Reset));
    let stays_up = run.is_up() && !cycles || goal == Some(VmGoal::Leave);
    let is_under_way = |planned: &VmPlan| {
        planned.open_journey().is_some() || planned.open_parting().is_some() || planned.awaited.is_some()
    };
    if planned.is_some_and(is_under_way) {
        return VmState::Moving;
    }
    match domain.map(|domain| domain.state) {
        Some(DomainState::Arriving) => VmState::Starting,
        Some(DomainState::Running) if stays_up => VmState::Running,
        Some(DomainState::Paused) if stays_up => VmState::Paused,
        Some(DomainState::Running | DomainState::Paused | DomainState::ShuttingDown) => VmState::Stopping,
        Some(DomainState::Off { .. }) | None => idle_state(run, goal, &findings()),
    }
}

fn idle_state(run: Run, goal: Option<VmGoal>, findings: &[Finding]) -> VmState {
    match (run, goal) {
        (Run::Deleted, _) => VmState::Deleting,
        (Run::Stopped | Run::Killed, _) => VmState::Stopped,
        (Run::Running | Run::Reset, Some(VmGoal::Run | VmGoal::Cycle | VmGoal::Reset)) => VmState::Starting,
        (Run::Running | Run::Reset, _)
            if findings.iter().any(|finding| finding.code == Code::GuestPoweredOff) =>
        {
            VmState::Stopped
        }
        (Run::Running | Run::Reset, _) => VmState::Waiting,
    }
}
