//! What libvirt says of a domain, and how it names the devices that one has.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::PartitionDevice;
use crate::name::PciAddress;

/// A libvirt domain, managed by Tranche or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it does.
    pub state: DomainState,
    /// Whether its definition outlives its run.
    pub persistent: bool,
    /// Whether libvirt itself would start it at boot.
    pub autostart: bool,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Host devices in the running machine; empty when it is off.
    pub live_devices: Vec<HostDevice>,
    /// Host devices in the stored definition.
    pub defined_devices: Vec<HostDevice>,
    /// The machine that it runs on, with its version (`pc-q35-10.0`); none when it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// What of the running machine ties it to its host; empty when it is off.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub blockers: BTreeSet<MigrationBlocker>,
    /// The consoles of the running machine; empty when it is off.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub consoles: BTreeSet<Console>,
}

/// A way to see a guest and to be heard by it that needs no network in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Console {
    /// Its first serial port.
    Serial,
    /// Its screen, with keyboard and mouse, by VNC.
    Screen,
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Serial => "serial console",
            Self::Screen => "screen",
        })
    }
}

/// Something in a machine that cannot move while it runs (libvirt: src/qemu/qemu_migration.c, qemuMigrationSrcIsAllowed; QEMU:
/// hw/vfio/migration.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MigrationBlocker {
    /// An IOMMU for the guest: QEMU does not move VFIO devices behind one.
    Viommu,
    /// Memory that it shares with others.
    SharedMemory,
    /// A directory of the host.
    Filesystem,
    /// An invariant time stamp counter whose frequency is not given.
    InvariantTsc,
    /// A device of the host that Tranche did not put there.
    ForeignDevice,
}

/// What a domain does (libvirt: virDomainState, virDomainShutoffReason).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DomainState {
    /// It runs.
    Running,
    /// It exists in memory and is stopped in its tracks.
    Paused,
    /// It is being sent here from another host, and cannot run before it is whole.
    Arriving,
    /// It was asked to shut down and has not yet done so.
    ShuttingDown,
    /// It is off.
    Off {
        /// Why.
        reason: OffReason,
    },
}

impl DomainState {
    /// Whether the domain holds its devices.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Off { .. })
    }

    /// Whether all of it is here and it is not off.
    pub fn is_whole(self) -> bool {
        self.is_active() && self != Self::Arriving
    }
}

/// Why a domain is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OffReason {
    /// The guest shut itself down.
    Shutdown,
    /// It was destroyed by command.
    Destroyed,
    /// QEMU or the guest crashed, or the start failed.
    Crashed,
    /// Its state was saved, or taken back to that of a snapshot.
    Saved,
    /// It was moved to another host.
    Migrated,
    /// Not started since libvirt came up, or libvirt does not say.
    Unknown,
}

/// A host device in a domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostDevice {
    /// Which device.
    pub source: DeviceSource,
    /// Whether Tranche put it there (libvirt user alias `ua-tranche-…`).
    pub ours: bool,
}

/// How libvirt names a host device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DeviceSource {
    /// A PCI function.
    Pci {
        /// Its address on the host.
        address: PciAddress,
    },
    /// A mediated device.
    Mdev {
        /// Its UUID.
        uuid: Uuid,
    },
}

impl From<&PartitionDevice> for DeviceSource {
    fn from(device: &PartitionDevice) -> Self {
        match device {
            PartitionDevice::Vf { address } => Self::Pci { address: *address },
            PartitionDevice::Mdev { uuid } => Self::Mdev { uuid: *uuid },
        }
    }
}
