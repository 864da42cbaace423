//! What people asked for: how each GPU is used, which VMs there are, and the policies.
//!
//! A wish may be impossible; that is found out by [`crate::change`] when it is uttered and by [`crate::planner`] from
//! then on. Nothing here says where anything runs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

mod availability;
mod homogeneity;
mod host;
mod pace;
mod part;
mod rule;
mod strict;

pub use self::availability::{
    Admission, Availability, Failover, FailoverPolicy, PRIORITY_DEFAULT, PRIORITY_MAX, RestartPolicy,
    ShutdownPolicy, Timers,
};
pub use self::homogeneity::Homogeneity;
pub use self::host::{Departure, DepartureWay, Duty, FencePart, FenceSpec, HostPart, HostSpec, SaidDown};
pub use self::pace::{BANDWIDTH_MIB_S_MAX, Limits, PAUSE_MS_DEFAULT, PAUSE_MS_MAX, PAUSE_MS_MIN, Pace};
pub use self::part::{
    AvailabilityPart, FailoverPart, PacePart, PolicyPart, RestartsPart, TimersPart, VmPart,
};

pub use self::rule::{Company, HOST_PRIORITY_MAX, NAMES_PER_RULE_MAX, PREFERENCE, RULES_MAX, Rule};

use crate::diagnostics::counted;
use crate::handover::{Handover, Incoming, Invitation, Outgoing};
use crate::identity::GpuIdentity;
use crate::map::Map;
use crate::name::{
    GpuKey, HostName, InvitationId, LabelKey, LabelValue, PoolName, RuleName, Timestamp, VmId, VmName,
};

/// The most partitions that any GPU may be split into (the widest SR-IOV function seen has 127 VFs).
pub const PARTITIONS_PER_GPU_MAX: u16 = 256;
/// The most whole GPUs for one VM.
pub const GPUS_PER_VM_MAX: u8 = 16;
/// The most disks, and the most networks, of a VM that Tranche defines.
pub const DISKS_PER_VM_MAX: usize = 16;
/// The largest cloud-init user data, in bytes.
pub const CLOUD_INIT_LEN_MAX: usize = 64 * 1024;
/// The least and the most memory of a VM, in MiB.
pub const VM_MEMORY_MIB: std::ops::RangeInclusive<u64> = 16..=16 * 1024 * 1024;
/// The least and the most virtual processors of a VM.
pub const VM_VCPUS: std::ops::RangeInclusive<u32> = 1..=1024;

/// All wishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// GPUs that somebody has spoken for. A GPU that is not here is left alone.
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<GpuKey, GpuSpec>))]
    pub gpus: Map<GpuKey, GpuSpec>,
    /// VMs, by name.
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<VmName, VmSpec>))]
    pub vms: Map<VmName, VmSpec>,
    /// Policies.
    pub policy: Policy,
    /// The members of the cluster, by name. Empty where one host stands alone.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<HostName, HostSpec>))]
    pub hosts: Map<HostName, HostSpec>,
    /// Rules about where VMs run, by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<RuleName, Rule>))]
    pub rules: Map<RuleName, Rule>,
    /// Places for VMs that come from hosts with other stores.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<InvitationId, Invitation>))]
    pub invitations: Map<InvitationId, Invitation>,
}

impl Spec {
    /// The GPUs of a host that somebody has spoken for, in order.
    pub fn gpus_of<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = (&'a GpuKey, &'a GpuSpec)> {
        self.gpus.range(GpuKey::first_of(host)..).take_while(move |(key, _)| key.host == *host)
    }

    /// The limits that a VM is sent by.
    pub fn limits_of(&self, name: &VmName) -> Limits {
        let own = self.vms.get(name).map(|vm| vm.availability.pace);
        Limits::of(own.unwrap_or_default(), self.policy.pace)
    }
}

/// What a GPU shall be used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GpuSpec {
    /// The mode. Exactly one at a time.
    pub mode: GpuMode,
    /// What the GPU was when the wish was made: other hardware in the same slot is not the GPU that was meant.
    pub identity: GpuIdentity,
    /// Counts the commands to load the GPU's driver anew for this wish, so that one command does so once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reloads: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub(crate) fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What a GPU is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "mode", rename_all = "snake_case", try_from = "strict::Mode")]
pub enum GpuMode {
    /// Untouched: it serves the host.
    #[default]
    Host,
    /// Split into equal partitions.
    Partitioned {
        /// How many; one of the valid counts.
        count: u16,
        /// The profile series, where the vendor has several; the driver's default else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        series: Option<String>,
    },
    /// Split into partitions of several sizes.
    Mixed {
        /// The profile of each partition, in any order: the largest becomes partition 0.
        sizes: Vec<String>,
    },
    /// Given whole to one VM (what Hyper-V calls DDA).
    Passthrough {
        /// Take the GPU even if the firmware's console is on it.
        #[serde(default)]
        allow_console: bool,
        /// The pool that it belongs to: VMs can ask for GPUs of a pool, wherever they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<PoolName>,
    },
}

/// A mode as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(try_from = "strict::Mode")]
pub struct AskedMode {
    /// The mode.
    #[serde(flatten)]
    pub mode: GpuMode,
    /// Shut the VMs that hold the GPU down first; they start again where there is room. Else the change is refused while
    /// there are any.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// Only with mode `partitioned`: have the GPU's driver loaded anew where only that changes the count. Every VM on every
    /// GPU of that driver is shut down first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reload_driver: bool,
}

/// What a GPU is, for people: `split into 4 partitions`.
impl fmt::Display for GpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host's"),
            Self::Partitioned { count, .. } => write!(f, "split into {}", counted(*count, "partition")),
            Self::Mixed { sizes } => write!(f, "split into {}", sizes.join(", ")),
            Self::Passthrough { .. } => f.write_str("passed through"),
        }
    }
}

impl GpuMode {
    /// How many partitions the GPU has in this mode; none in a mode without partitions.
    pub fn partitions(&self) -> Option<u16> {
        match self {
            Self::Partitioned { count, .. } => Some(*count),
            Self::Mixed { sizes } => Some(u16::try_from(sizes.len()).unwrap_or(u16::MAX)),
            Self::Host | Self::Passthrough { .. } => None,
        }
    }
}

/// A VM, as wished for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Its UUID, the same in libvirt.
    pub id: VmId,
    /// Where its definition comes from.
    pub source: VmSource,
    /// What it asks for.
    pub request: Request,
    /// What people tell it apart by, and who may be limited to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Whether a stopped VM keeps its partition.
    #[serde(default)]
    pub reserved: bool,
    /// The NUMA node whose GPUs it prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer_numa_node: Option<u16>,
    /// How much is done to keep it running.
    #[serde(default, skip_serializing_if = "Availability::is_default")]
    pub availability: Availability,
    /// Whether it shall run.
    pub run: Run,
    /// Counts the commands to start, restart and stop, so that a new command is told from one already carried out.
    pub serial: u64,
    /// The last command to run it on another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relocation: Option<Relocation>,
    /// Its way to a host with another store, or from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// When it was created: ties are broken by age.
    pub created_at: Timestamp,
}

/// A command to run a VM on another host. It is over once the VM was seen running as of it, or of a later command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Relocation {
    /// Where it ran.
    pub from: HostName,
    /// Where it shall run; on any other host if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<HostName>,
    /// The command's number ([`VmSpec::serial`]).
    pub serial: u64,
}

impl Relocation {
    /// Whether a VM that runs on a host has still to leave that for it: where it was told to leave, and where it came by another
    /// way before it was where it was told to go.
    pub fn is_due_on(&self, host: &HostName) -> bool {
        self.from == *host || self.to.as_ref().is_some_and(|to| to != host)
    }
}

impl VmSpec {
    /// Whether it is wished that the VM is started elsewhere when its host dies, and that can be.
    pub fn is_protected(&self) -> bool {
        self.availability.failover == Failover::Restart && matches!(self.source, VmSource::Made(_))
    }

    /// The wish that it goes to a host with another store, if there is one.
    pub fn outgoing(&self) -> Option<&Outgoing> {
        if let Some(Handover::Out(outgoing)) = &self.handover { Some(outgoing) } else { None }
    }

    /// What is known of it while it comes from a host with another store, and is that host's.
    pub fn incoming(&self) -> Option<&Incoming> {
        if let Some(Handover::In(incoming)) = &self.handover { Some(incoming) } else { None }
    }
}

/// Whether a VM shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// It shall run, and run again after a crash or a reboot of the host.
    Running,
    /// The same; if it ran before it was asked for, its plug is pulled first.
    Reset,
    /// It shall be off; the guest is asked first.
    Stopped,
    /// It shall be off now, as if its plug were pulled.
    Killed,
    /// It shall be off and forgotten; the domain is removed where Tranche made it, and left where it was adopted.
    Deleted,
}

impl Run {
    /// Whether the VM shall run, however it comes to it.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Reset)
    }
}

/// What a VM asks for. A stopped VM holds a request, not a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "strict::Request")]
pub enum Request {
    /// No GPU.
    #[default]
    None,
    /// One partition. Which one is Tranche's choice.
    Partition {
        /// The video memory that it must have, in MiB; any size else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vram_mib: Option<u64>,
        /// The profile that it must have; any else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        profile: Option<String>,
    },
    /// Whole GPUs, passed through.
    Whole {
        /// How many.
        gpus: u8,
        /// The pool that they must be of; any else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<PoolName>,
    },
}

impl Request {
    /// A partition of any size.
    pub const ANY_PARTITION: Self = Self::Partition { vram_mib: None, profile: None };

    /// How many bookings a VM with this request holds while it runs.
    pub fn slots(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Partition { .. } => 1,
            Self::Whole { gpus, .. } => usize::from(*gpus),
        }
    }
}

/// Where a VM's definition comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum VmSource {
    /// Tranche defines the domain.
    Made(VmHardware),
    /// The domain was there before. Its XML is the user's; only the GPU's device comes and goes.
    Adopted,
}

/// The hardware of a VM that Tranche defines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmHardware {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disks, in order; the first one boots.
    #[serde(default)]
    pub disks: Vec<VolumeRef>,
    /// libvirt networks, by name.
    #[serde(default)]
    pub networks: Vec<String>,
    /// The firmware.
    #[serde(default)]
    pub firmware: Firmware,
    /// The guest system, as a libosinfo short id (`ubuntu22.04`, `win10`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_os: Option<String>,
    /// cloud-init user data, given to the guest on a NoCloud disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<String>,
}

/// A volume of a libvirt storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeRef {
    /// The pool's name.
    pub pool: String,
    /// The volume's name in it.
    pub volume: String,
}

/// How a VM boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// OVMF; large BARs need it.
    #[default]
    Uefi,
    /// SeaBIOS.
    Bios,
}

/// Policies of the whole installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// How VMs are laid over GPUs.
    pub placement: PlacementPolicy,
    /// How many virtual processors a host's VMs may have together for each of its processors; only in a cluster.
    #[serde(skip_serializing_if = "VcpusPerCpu::is_default")]
    pub vcpus_per_cpu: VcpusPerCpu,
    /// What is said to a VM that is to run although then the loss of a host could not be made good; only in a cluster.
    #[serde(skip_serializing_if = "Admission::is_default")]
    pub admission: Admission,
    /// What is said to a wish with which GPUs that serve VMs would be less alike.
    #[serde(skip_serializing_if = "Homogeneity::is_default")]
    pub homogeneity: Homogeneity,
    /// What follows when a host dies; only in a cluster.
    #[serde(skip_serializing_if = "FailoverPolicy::is_default")]
    pub failover: FailoverPolicy,
    /// What becomes of a host's VMs when its administrator shuts it down; only in a cluster.
    #[serde(skip_serializing_if = "ShutdownPolicy::is_default")]
    pub shutdown: ShutdownPolicy,
    /// How VMs are sent that go to another host while they run, and do not say so themselves; only in a cluster.
    #[serde(skip_serializing_if = "Pace::is_default")]
    pub pace: Pace,
}

/// How many virtual processors there may be for each processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct VcpusPerCpu(pub u16);

impl VcpusPerCpu {
    /// The most that may be asked for.
    pub const MAX: u16 = 64;

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for VcpusPerCpu {
    fn default() -> Self {
        Self(4)
    }
}

/// How VMs are laid over GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PlacementPolicy {
    /// Fill a GPU before the next is begun: whole GPUs stay free.
    #[default]
    Pack,
    /// The emptiest GPU first: every VM has the most of a GPU's attention.
    Spread,
}
