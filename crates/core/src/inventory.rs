//! What hosts report: hardware, drivers, capabilities, running domains. It may be old, and it may be partial.
//!
//! An inventory is evidence, never a wish. What could not be read is absent or named in `notes`; it is never guessed.
//! In particular [`Hypervisor::Down`] says "unknown", which is not the same as "no domain runs here".

mod health;
mod migration;
mod numa;
mod progress;
mod resources;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::progress::{CLOCK_OFF_MS, Done, Guard, LATELY_MAX, Progress, Pulse};

pub use self::numa::NumaNode;
pub use self::resources::{Network, Resources, StoragePool, WatchdogFacts};

pub use self::migration::{Certainty, EVIDENCE_LEN_MAX, Evidence, MigrationFacts};

pub use self::health::{Ecc, Health, HealthState, PartitionTelemetry, Telemetry};
use crate::finding::Finding;
use crate::identity::GpuIdentity;
use crate::map::Map;
use crate::mixed::MixedSize;
use crate::name::{GpuAddress, HostName, PciAddress, PciIds, Timestamp, VmName};
use crate::shared::Shared;
use crate::step::VFIO_DRIVER;

mod domain;

pub use self::domain::{Console, DeviceSource, Domain, DomainState, HostDevice, MigrationBlocker, OffReason};

/// The class code of display controllers, in the upper byte of a PCI class (PCI Code and ID Assignment, 03h).
pub const PCI_CLASS_DISPLAY: u32 = 0x03;

/// The inventories of all hosts, by name. Copies share what each host reported.
pub type Inventory = Map<HostName, Shared<HostInventory>>;

/// Everything that one host reports about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostInventory {
    /// The host.
    pub host: HostName,
    /// The kernel's boot id: it changes with each boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// When this was observed.
    pub observed_at: Timestamp,
    /// Kernel, processor, memory, IOMMU.
    pub system: SystemFacts,
    /// What libvirt says.
    pub hypervisor: Hypervisor,
    /// The GPUs, by address.
    pub gpus: BTreeMap<GpuAddress, Gpu>,
    /// Kernel calls that have not come back within their limit and still block a device.
    pub stuck: Vec<StuckCall>,
    /// What was amiss while observing.
    #[serde(deserialize_with = "progress::known")]
    pub notes: Vec<Finding>,
    /// How far it has followed the plan.
    #[serde(default, skip_serializing_if = "Progress::is_default")]
    pub progress: Progress,
    /// Its last heartbeat, as the leader knows it; none where one host stands alone. It is not part of the report.
    #[serde(skip)]
    pub pulse: Option<Pulse>,
    /// Why its report cannot be read, if it cannot; then nothing else here is of the host. It is not part of the report.
    #[serde(skip)]
    pub unread: Option<String>,
}

impl HostInventory {
    /// What stands for a report that cannot be read, because a later version wrote it: nothing is known of the host, so nothing is
    /// released and nothing is started there.
    pub fn unread(host: HostName, why: String) -> Self {
        Self {
            host,
            boot_id: String::new(),
            observed_at: Timestamp::default(),
            system: SystemFacts::unknown(),
            hypervisor: Hypervisor::Down { reason: why.clone() },
            gpus: BTreeMap::new(),
            stuck: Vec::new(),
            notes: Vec::new(),
            progress: Progress::default(),
            pulse: None,
            unread: Some(why),
        }
    }

    /// Whether a host is as it was, whenever that was. Taking it apart makes the compiler ask about every field that is added.
    pub fn is_as(&self, other: &Self) -> bool {
        let Self {
            host,
            boot_id,
            observed_at: _,
            system,
            hypervisor,
            gpus,
            stuck,
            notes,
            progress,
            pulse: _,
            unread,
        } = self;
        (host, boot_id, system, hypervisor) == (&other.host, &other.boot_id, &other.system, &other.hypervisor)
            && (gpus, stuck, notes, progress) == (&other.gpus, &other.stuck, &other.notes, &other.progress)
            && *unread == other.unread
    }

    /// Whether a host is as it was but for how busy and warm its GPUs are, on which no decision rests.
    pub fn is_alike(&self, other: &Self) -> bool {
        self.is_as(other) || self.without_telemetry().is_as(&other.without_telemetry())
    }

    fn without_telemetry(&self) -> Self {
        let mut bare = self.clone();
        for gpu in bare.gpus.values_mut() {
            gpu.telemetry = None;
            gpu.partitions.iter_mut().for_each(|partition| partition.telemetry = None);
        }
        bare
    }

    /// The domain of a VM, if libvirt is up and knows it.
    pub fn domain(&self, name: &VmName) -> Option<&Domain> {
        self.domains().and_then(|domains| domains.get(name.as_str()))
    }

    /// All domains, unless libvirt is down and nothing is known of them.
    pub fn domains(&self) -> Option<&BTreeMap<String, Domain>> {
        match &self.hypervisor {
            Hypervisor::Up { domains, .. } => Some(domains),
            Hypervisor::Down { .. } => None,
        }
    }

    /// What VMs use by name, unless nothing is known of it.
    pub fn resources(&self) -> Option<&Resources> {
        match &self.hypervisor {
            Hypervisor::Up { resources, .. } => resources.as_ref(),
            Hypervisor::Down { .. } => None,
        }
    }

    /// Whether a kernel call on this GPU is stuck: nothing else may be tried on it.
    pub fn is_stuck(&self, gpu: &GpuAddress) -> bool {
        self.stuck.iter().any(|call| call.gpu.as_ref() == Some(gpu))
    }

    /// What keeps a GPU from being seen that is not among the GPUs: it may be there all the same, and nothing follows
    /// from its absence.
    pub fn unseen_because_of(&self, gpu: &GpuAddress) -> Option<&StuckCall> {
        let mut calls = self.stuck.iter().filter(|_| !self.gpus.contains_key(gpu));
        calls.find(|call| call.gpu.as_ref().is_none_or(|of| of == gpu))
    }
}

/// Facts about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SystemFacts {
    /// `uname -r`.
    pub kernel: String,
    /// The processor's model name.
    pub cpu_model: String,
    /// What guests can use of it, by the kernel's names (`flags` of `/proc/cpuinfo`); empty where it is not known.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cpu_features: BTreeSet<String>,
    /// Logical processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Whether the IOMMU is on, and which units serve it.
    pub iommu: Iommu,
    /// Whether the kernel has iommufd (`/dev/iommu`), through which the IOMMU's log of written memory is read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub iommufd: bool,
    /// Its watchdog, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<WatchdogFacts>,
    /// Its NUMA nodes; none where the kernel tells of none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numa: Vec<NumaNode>,
}

impl SystemFacts {
    /// Of a machine of which nothing is known.
    pub fn unknown() -> Self {
        Self {
            kernel: String::new(),
            cpu_model: String::new(),
            cpu_features: BTreeSet::new(),
            cpus: 0,
            memory_mib: 0,
            iommu: Iommu::Off,
            iommufd: false,
            watchdog: None,
            numa: Vec::new(),
        }
    }
}

/// The state of the IOMMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Iommu {
    /// No unit under `/sys/class/iommu`: devices cannot be given to VMs.
    Off,
    /// On.
    On {
        /// The units, as named under `/sys/class/iommu` (`dmar0`, `ivhd0`).
        units: Vec<String>,
    },
}

/// What libvirt says, or why it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Hypervisor {
    /// libvirt answers.
    Up {
        /// libvirt's version, as `major.minor.release`.
        libvirt: String,
        /// The version of QEMU that libvirt uses.
        qemu: String,
        /// Every domain that it knows, by name, whether Tranche manages it or not.
        domains: BTreeMap<String, Domain>,
        /// What VMs use by name, unless libvirt's part for it does not answer: then nothing is known of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resources: Option<Resources>,
    },
    /// libvirt does not answer: nothing is known of any domain, so nothing may be released.
    Down {
        /// What it answered, or what failed.
        reason: String,
    },
}

/// One GPU: a physical function, or a parent of mediated devices that is no PCI device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Gpu {
    /// Where it is.
    pub address: GpuAddress,
    /// What it is; all zero for a virtual parent.
    pub ids: PciIds,
    /// Which one it is: the vendor's UUID or a serial number, where something tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<String>,
    /// The board that it shares with other GPUs: the same text for each of them, where something tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// The PCI class code, 24 bits; 0 for a virtual parent.
    pub class: u32,
    /// The name that the catalogue gives it, or its ids.
    pub model: String,
    /// A stand-in of the virtual lab, not a GPU. Shown wherever the GPU is shown.
    pub emulated: bool,
    /// Video memory in MiB, where catalogue or driver tell.
    pub vram_mib: Option<u64>,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// The version of that driver, where it has one of its own; one that comes with the kernel has the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// The NUMA node, where the firmware tells.
    pub numa_node: Option<u16>,
    /// Its IOMMU group with every member, itself included.
    pub iommu_group: Option<IommuGroup>,
    /// Memory windows, empty ones left out.
    pub bars: Vec<Bar>,
    /// How the kernel can reset it, in order of preference (`reset_method`).
    pub reset_methods: Vec<String>,
    /// Whether the firmware's console is on it.
    pub boot_vga: bool,
    /// Error counters, where the device has Advanced Error Reporting.
    pub aer: Option<AerCounters>,
    /// How it fares.
    #[serde(default, skip_serializing_if = "Health::is_good")]
    pub health: Health,
    /// What its driver measures, where a library of its vendor tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// How it makes partitions, if it can.
    pub backend: Option<Backend>,
    /// The driver that its partitions must have to be handed to a VM: vfio-pci, a variant of it, or the GPU's own.
    #[serde(default = "vfio_driver", skip_serializing_if = "is_vfio_driver")]
    pub partition_driver: String,
    /// The SR-IOV capability, where there is one.
    pub sriov: Option<Sriov>,
    /// The partitionings that the driver offers: the valid counts.
    pub offers: Vec<Offer>,
    /// What it could offer if its driver were loaded anew, where that is how its partitions are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<Reload>,
    /// The profiles that it can have beside each other; empty where all its partitions are equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixed: Vec<MixedSize>,
    /// The partitions that exist now.
    pub partitions: Vec<ObservedPartition>,
    /// What live migration of VMs with its partitions rests on; none while it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationFacts>,
    /// Virtual functions that are no partitions, because they carry no type. Only with
    /// [`Backend::TypedVf`] and [`Backend::VfMdev`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blanks: Vec<BlankVf>,
    /// Who has the GPU itself open through VFIO.
    pub open_by: Vec<Holder>,
}

impl Gpu {
    /// The offer for a count, of a series if one is named, else of the first series that has it.
    pub fn offer(&self, count: u16, series: Option<&str>) -> Option<&Offer> {
        self.offers.iter().find(|offer| {
            offer.count == count && series.is_none_or(|wanted| offer.series.as_deref() == Some(wanted))
        })
    }

    /// What it is, and which one.
    pub fn identity(&self) -> GpuIdentity {
        GpuIdentity { ids: self.ids, unique_id: self.unique_id.clone() }
    }

    /// How many virtual functions are enabled when the GPU is split into `count` partitions; none where partitions are no
    /// virtual functions.
    pub fn vfs_for(&self, count: u16) -> Option<u16> {
        match self.backend? {
            Backend::SriovVfio | Backend::FixedVf => Some(count),
            Backend::TypedVf | Backend::VfMdev => Some(self.sriov.as_ref()?.total_vfs),
            Backend::Mdev => None,
        }
    }

    /// The valid counts, ascending, each once.
    pub fn valid_counts(&self) -> Vec<u16> {
        counts_of(self.offers.iter())
    }

    /// The valid counts of one series, ascending, each once.
    pub fn valid_counts_of(&self, series: &str) -> Vec<u16> {
        counts_of(self.offers.iter().filter(|offer| offer.series.as_deref() == Some(series)))
    }
}

fn counts_of<'a>(offers: impl Iterator<Item = &'a Offer>) -> Vec<u16> {
    let counts: BTreeSet<u16> = offers.map(|offer| offer.count).collect();
    counts.into_iter().collect()
}

/// How a GPU makes partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Plain SR-IOV virtual functions: as many as there shall be partitions.
    SriovVfio,
    /// All virtual functions or none; one becomes a partition when it is given a type, which also says how large it is.
    TypedVf,
    /// Virtual functions whose number the driver was told when it was loaded: they are there, and stay.
    FixedVf,
    /// Mediated devices.
    Mdev,
    /// A mediated device on each of so many virtual functions, which all exist or none.
    VfMdev,
}

/// The SR-IOV capability of a physical function (kernel: drivers/pci/iov.c).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Sriov {
    /// `sriov_totalvfs`: the most VFs that driver and device allow.
    pub total_vfs: u16,
    /// `sriov_numvfs`: the VFs that are enabled.
    pub vfs: u16,
    /// `sriov_drivers_autoprobe`.
    pub autoprobe: bool,
}

/// A virtual function that carries no type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BlankVf {
    /// The index: `virtfnN`.
    pub index: u16,
    /// The function.
    pub address: PciAddress,
    /// The driver bound to it.
    pub driver: Option<String>,
}

/// One partitioning that a driver offers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Offer {
    /// How many partitions.
    pub count: u16,
    /// What each is called (`4Q`, `mbochs-small`; `1/4` for plain VFs).
    pub profile: String,
    /// The series that the profile belongs to, where the vendor has several.
    pub series: Option<String>,
    /// Video memory of each in MiB, where known.
    pub vram_mib: Option<u64>,
}

/// What loading a GPU's driver anew could make of all GPUs that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Reload {
    /// The driver. All its GPUs on the host get the same count, and lose their VMs meanwhile.
    pub driver: String,
    /// The partitionings that it could make.
    pub offers: Vec<Offer>,
    /// Whether they are known of the model; else they are all that the driver can be told.
    pub is_known: bool,
}

/// A partition that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ObservedPartition {
    /// Its index: `virtfnN` for a VF. None for a mediated device that Tranche did not make.
    pub index: Option<u16>,
    /// The device.
    pub device: PartitionDevice,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// Its IOMMU group with all members.
    pub iommu_group: Option<IommuGroup>,
    /// The profile it was made with, where readable.
    pub profile: Option<String>,
    /// The video memory that it really has in MiB, where the driver tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_mib: Option<u64>,
    /// Its memory windows above 4 GiB together, in MiB; 0 where it has none.
    pub mmio_mib: u64,
    /// Who has it open through VFIO.
    pub open_by: Vec<Holder>,
    /// Whether it answers: its configuration space can be read and is not all ones.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub answers: bool,
    /// What its driver measures while a VM uses it, where a library of its vendor tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<PartitionTelemetry>,
    /// What live migration of a VM with it rests on, where that is not what holds for its GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationFacts>,
}

impl ObservedPartition {
    /// Its virtual function, if it is one.
    pub fn vf(&self) -> Option<PciAddress> {
        match self.device {
            PartitionDevice::Vf { address } => Some(address),
            PartitionDevice::Mdev { .. } => None,
        }
    }
}

/// The device behind a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PartitionDevice {
    /// A virtual function.
    Vf {
        /// Its address.
        address: PciAddress,
    },
    /// A mediated device.
    Mdev {
        /// Its UUID.
        uuid: Uuid,
    },
}

/// A process that holds a device open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// The process's name (`/proc/PID/comm`).
    pub command: String,
}

/// An IOMMU group: the smallest set of functions that can be isolated from the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct IommuGroup {
    /// The group's number; it may differ after a reboot.
    pub id: u32,
    /// Every function in it.
    pub members: Vec<GroupMember>,
}

/// A function in an IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GroupMember {
    /// Its address.
    pub address: PciAddress,
    /// Its PCI class code, 24 bits. Bridges (06xxxx) in a group are not given to VMs.
    pub class: u32,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// The only driver that may be bound to it (Linux, `driver_override`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_override: Option<String>,
}

impl GroupMember {
    /// Whether this is a PCI bridge, which stays with the host whoever owns the group.
    pub fn is_bridge(&self) -> bool {
        self.class >> 8 == 0x0604
    }
}

/// A memory window of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Bar {
    /// 0 to 5, the line in `resource`.
    pub index: u8,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Whether it may lie above 4 GiB (IORESOURCE_MEM_64).
    pub is_64bit: bool,
}

/// Totals of PCIe Advanced Error Reporting since the device appeared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AerCounters {
    /// Errors that the link corrected.
    pub correctable: u64,
    /// Errors that lost a transaction.
    pub nonfatal: u64,
    /// Errors that broke the link.
    pub fatal: u64,
}

/// A kernel call that outlived its limit. The thread that made it still waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StuckCall {
    /// The GPU concerned, where the call concerns one.
    pub gpu: Option<GpuAddress>,
    /// The call: `write /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs`.
    pub call: String,
    /// When it was made.
    pub since: Timestamp,
}

/// The UUID of a partition that is a mediated device: computed, so that a reboot brings the same one back.
pub fn mdev_uuid(gpu: &crate::name::GpuKey, index: u16) -> Uuid {
    // Any fixed UUID serves as the name space; this one was drawn once for this purpose.
    const PARTITIONS: Uuid = Uuid::from_u128(0x6d0c_7b1e_58f4_4c0a_9b7d_2f63_a1e0_94c5);
    Uuid::new_v5(&PARTITIONS, format!("{gpu}/{index}").as_bytes())
}

// What reports of hosts lack that are older than a field, and what newer ones leave out for them.

fn vfio_driver() -> String {
    VFIO_DRIVER.to_owned()
}

fn is_vfio_driver(driver: &str) -> bool {
    driver == VFIO_DRIVER
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_yes(value: &bool) -> bool {
    *value
}
