//! What was decided: the mode of each GPU, who holds which partition, and where each VM runs.
//!
//! A plan leaves nothing to choose when it is carried out. It is made by [`crate::planner`] alone, verified by
//! [`crate::check`], and committed before any hardware is touched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bookings::Bookings;
use crate::falls::Tried;
use crate::handover::{Awaited, Parting};
use crate::identity::GpuIdentity;
use crate::inventory::{OffReason, Offer};
use crate::journey::{Journey, Missed};
use crate::map::Map;
use crate::name::{GpuKey, HostName, Slot, SlotKey, Timestamp, VmId, VmName};
use crate::spec::{GpuMode, HostSpec, SaidDown, VmSource, VmSpec};

/// Everything that was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Plan {
    /// GPUs in use, and as what.
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<GpuKey, GpuPlan>))]
    pub gpus: Map<GpuKey, GpuPlan>,
    /// Who holds what.
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<SlotKey, Booking>))]
    pub bookings: Bookings,
    /// Where VMs run.
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<VmName, VmPlan>))]
    pub vms: Map<VmName, VmPlan>,
    /// For each host, how often its part of the plan has changed. A host refuses an older number.
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<HostName, u64>))]
    pub generations: Map<HostName, u64>,
    /// How the members of the cluster stand. Empty where one host stands alone.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<HostName, HostPlan>))]
    pub hosts: Map<HostName, HostPlan>,
}

impl Plan {
    /// What a VM holds, in order.
    pub fn held_by(&self, vm: &VmName) -> impl Iterator<Item = (&SlotKey, &Booking)> + use<'_> {
        self.bookings.held_by(vm)
    }

    /// The bookings on a GPU, in order.
    pub fn bookings_on<'a>(&'a self, gpu: &'a GpuKey) -> impl Iterator<Item = (&'a SlotKey, &'a Booking)> {
        let first = SlotKey { gpu: gpu.clone(), slot: Slot::Partition(0) };
        self.bookings.range(first..).take_while(move |(key, _)| &key.gpu == gpu)
    }

    /// The bookings on a host, in order.
    pub fn bookings_of<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = (&'a SlotKey, &'a Booking)> {
        let first = SlotKey { gpu: GpuKey::first_of(host), slot: Slot::Partition(0) };
        self.bookings.range(first..).take_while(move |(key, _)| &key.gpu.host == host)
    }

    /// The GPUs of a host that are in use, in order.
    pub fn gpus_of<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = (&'a GpuKey, &'a GpuPlan)> {
        self.gpus.range(GpuKey::first_of(host)..).take_while(move |(key, _)| key.host == *host)
    }

    /// The mode that a GPU is in or on its way to; `Host` where nothing was decided.
    pub fn mode(&self, gpu: &GpuKey) -> &GpuMode {
        self.gpus.get(gpu).map_or(&GpuMode::Host, |planned| &planned.mode)
    }
}

/// What was decided for a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GpuPlan {
    /// The mode.
    pub mode: GpuMode,
    /// The offer that the count was taken from; only in mode `partitioned`.
    pub offer: Option<Offer>,
    /// The size of each partition, by index; only in mode `mixed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<Offer>,
    /// Whether the GPU was in mode `mixed` before, so that its driver has to be told that sizes are equal again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_mixed: bool,
    /// What the GPU was when this was decided.
    pub identity: GpuIdentity,
    /// The drivers that the functions of its IOMMU group had before passthrough took them, to be given back.
    pub host_drivers: BTreeMap<crate::name::PciAddress, String>,
    /// Whether somebody had switched off, before Tranche made partitions, that the host's drivers are offered new VFs
    /// (`sriov_drivers_autoprobe`). It then stays off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub autoprobe_was_off: bool,
    /// The last command to load the driver anew that this follows ([`crate::spec::GpuSpec::reloads`]).
    #[serde(default, skip_serializing_if = "crate::spec::is_zero")]
    pub reloads: u64,
    /// The driver that is still to be loaded anew for that; none once the GPU was seen as it shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<String>,
}

impl GpuPlan {
    /// The size of the partition with an index.
    pub fn size_of(&self, index: u16) -> Option<&Offer> {
        match &self.mode {
            GpuMode::Mixed { .. } => self.sizes.get(usize::from(index)),
            GpuMode::Host | GpuMode::Partitioned { .. } | GpuMode::Passthrough { .. } => self.offer.as_ref(),
        }
    }

    /// The sizes of its partitions, in order, equal ones once.
    pub fn distinct_sizes(&self) -> Vec<&Offer> {
        let mut sizes: Vec<&Offer> = self.offer.iter().chain(&self.sizes).collect();
        sizes.dedup();
        sizes
    }
}

/// The durable record that a slot serves a VM: made before anything is touched, removed when read back as free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Booking {
    /// The VM.
    pub vm: VmName,
    /// Its UUID: a new VM of the same name is another VM.
    pub vm_id: VmId,
    /// Since when.
    pub since: Timestamp,
}

/// What was decided for a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VmPlan {
    /// The host that it belongs to.
    pub host: HostName,
    /// Its UUID.
    pub id: VmId,
    /// Whether that host shall run it.
    pub goal: VmGoal,
    /// The last command that was seen to have taken effect.
    pub settled: Option<Settled>,
    /// Where it fell as often as its policy allows, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<Tried>,
    /// The host on which it was last seen running: where its disks are, if they are not shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_on: Option<HostName>,
    /// Its way to another host while it runs, or what is left of it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journey: Option<Journey>,
    /// How its guest is asked to shut down, while it leaves that host without being moved while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// The last such way that came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Missed>,
    /// Its way to a host with another store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parting: Option<Parting>,
    /// What is done for it while it comes from a host with another store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited: Option<Awaited>,
}

impl VmPlan {
    /// What was decided for a VM that was never seen yet.
    pub fn new(host: HostName, id: VmId, goal: VmGoal) -> Self {
        Self {
            host,
            id,
            goal,
            settled: None,
            tried: None,
            ran_on: None,
            journey: None,
            leaving: None,
            missed: None,
            parting: None,
            awaited: None,
        }
    }

    /// Its way to a host with another store, while that is under way.
    pub fn open_parting(&self) -> Option<&Parting> {
        self.parting.as_ref().filter(|parting| parting.is_open())
    }

    /// Its journey, while it is not settled where the VM is going to be.
    pub fn open_journey(&self) -> Option<&Journey> {
        self.journey.as_ref().filter(|journey| journey.is_open())
    }

    /// The hosts that this is about: the VM's own, and the one that it goes to or has left.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        std::iter::once(&self.host).chain(self.journey.as_ref().map(|journey| &journey.other))
    }

    /// The host that has what the VM keeps on one host: its disks as far as they are not shared, or its owner's definition.
    /// None where any host may be it.
    pub fn home(&self, spec: &VmSpec) -> Option<&HostName> {
        let home = match &spec.source {
            VmSource::Made(_) => self.ran_on.as_ref(),
            VmSource::Adopted => Some(&self.host),
        };
        home.filter(|_| self.id == spec.id)
    }
}

/// A guest that is shut down because its VM starts elsewhere then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Leaving {
    /// When it was asked first.
    pub since: Timestamp,
    /// It has had its time, and is turned off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

/// What a host shall do with a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VmGoal {
    /// Run it, with what it holds.
    Run,
    /// It runs as of an earlier command to start: shut it down, then run it again.
    Cycle,
    /// The same, without asking the guest.
    Reset,
    /// Have it defined and off; ask the guest.
    Stop,
    /// Have it off now.
    Kill,
    /// Have it off, without our devices, and gone if Tranche made it.
    Remove,
    /// It was started by hand although it shall be off: leave it alone until the next command.
    Leave,
    /// It shall run on another host: shut it down here, then start it there.
    Move,
}

/// How a member of the cluster stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostPlan {
    /// Whether it is there.
    pub standing: Standing,
    /// How often it was given up. A host that lags behind with this number has nothing to run any more.
    pub epoch: u64,
    /// Its administrator has told it to go down, and it has not come back yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub departs: bool,
    /// It was to come back from there, and has not done so in time: nothing waits for it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue: bool,
}

impl HostPlan {
    /// Whether somebody said that the host is down, in the silence that it is in now.
    pub fn is_said_down(&self, wish: &HostSpec) -> bool {
        let word = self.standing.since().map(|since| SaidDown { epoch: self.epoch, since });
        word.is_some() && wish.said_down == word
    }
}

/// Whether a member of the cluster is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// It is.
    #[default]
    Up,
    /// It is silent. It gets no more VMs; those that it has may run.
    Lost {
        /// Since when.
        since: Timestamp,
    },
    /// It was given up, and its power is being cut. Its VMs may still run.
    Fencing {
        /// Since when.
        since: Timestamp,
    },
    /// It was given up and runs nothing any more.
    Down {
        /// Since when.
        since: Timestamp,
        /// How that is known.
        by: DownBy,
    },
}

impl Standing {
    /// Since when it stands so; nothing for one that is there.
    pub fn since(self) -> Option<Timestamp> {
        match self {
            Self::Up => None,
            Self::Lost { since } | Self::Fencing { since } | Self::Down { since, .. } => Some(since),
        }
    }

    /// Whether it was given up: its heartbeats are refused until it has begun anew.
    pub fn is_given_up(self) -> bool {
        matches!(self, Self::Fencing { .. } | Self::Down { .. })
    }
}

/// How it is known that a host runs nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DownBy {
    /// The time is over by which its watchdog must have reset it.
    Watchdog,
    /// A fence agent cut its power and saw that it is off.
    Agent,
    /// Somebody said so.
    Hand,
    /// It said so itself before it shut down.
    Shutdown,
    /// It was given up, and reported since that it has ended all that it ran: nothing else could tell, because its fence agent
    /// fails.
    Surrender,
}

impl VmGoal {
    /// Whether a host with this goal may start the VM. What is to be restarted is only ended; that it is off, the planner sees
    /// first, or a host that is not told would end it again.
    pub fn starts(self) -> bool {
        self == Self::Run
    }
}

/// A command that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Settled {
    /// The command's number ([`crate::spec::VmSpec::serial`]).
    pub serial: u64,
    /// Whether the VM was then seen running, or off.
    pub running: bool,
    /// The boot of the host that it was seen in.
    pub boot_id: String,
    /// Why it was off when it was last seen so after that, though it shall run: libvirt forgets it at a restart of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests: Option<OffReason>,
}
