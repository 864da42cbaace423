//! Asking VFIO about a device: what is asked, what comes back, and what that says.
//!
//! Facts: Linux, include/uapi/linux/vfio.h (features 1 and 6 of `VFIO_DEVICE_FEATURE`; a driver that has none answers ENOTTY) and
//! iommufd.h (`IOMMU_GET_HW_INFO`; dirty tracking is a capability of it since 6.7, and 0 before).

use std::fmt;

use rustix::io::Errno;
use tranche_core::inventory::{Certainty, DeviceSource, Evidence, MigrationFacts, PartitionDevice};

use super::device;
use crate::discover::function;
use crate::mdev::MDEV_DEVICES;
use crate::report::errno_name;
use crate::tree::Tree;

/// The driver hands out a device's state (VFIO_MIGRATION_STOP_COPY).
const STOP_COPY: u64 = 1;
/// Several devices can be stopped together (VFIO_MIGRATION_P2P).
const P2P: u64 = 2;
/// It runs on while its state is copied (VFIO_MIGRATION_PRE_COPY).
const PRE_COPY: u64 = 4;
/// The IOMMU logs what a device writes (IOMMU_HW_CAP_DIRTY_TRACKING).
const DIRTY_TRACKING: u64 = 1;

/// Asks a device what it can.
pub trait Prober: Send + Sync + fmt::Debug {
    /// Opens a device, asks, and closes it. Both reset it.
    ///
    /// # Errors
    /// It could not be opened; then nothing was asked. `EBUSY` says that somebody else has it.
    fn ask(&self, target: &Target) -> Result<Answers, Refusal>;
}

/// A device, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which device.
    pub source: DeviceSource,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Its own node under `/dev/vfio/devices`, where there is one.
    pub node: Option<String>,
    /// Whether there is `/dev/iommu`.
    pub iommufd: bool,
}

impl Target {
    /// A partition, as it is reached now.
    pub fn of(tree: &dyn Tree, device: &PartitionDevice) -> Self {
        let dir = match device {
            PartitionDevice::Vf { address } => function::dir(*address),
            PartitionDevice::Mdev { uuid } => format!("{MDEV_DEVICES}/{uuid}"),
        };
        let nodes = tree.list(&format!("{dir}/vfio-dev")).unwrap_or_default();
        Self {
            source: DeviceSource::from(device),
            group: function::group_id(tree, &dir),
            node: nodes.into_iter().find(|node| tree.exists(&format!("dev/vfio/devices/{node}"))),
            iommufd: tree.exists("dev/iommu"),
        }
    }

    /// As VFIO calls it.
    pub fn name(&self) -> String {
        match &self.source {
            DeviceSource::Pci { address } => address.to_string(),
            DeviceSource::Mdev { uuid } => uuid.to_string(),
        }
    }

    /// Whether iommufd would tell of its IOMMU: it makes no domain for a mediated device.
    pub(super) fn has_iommu(&self) -> bool {
        self.iommufd && self.node.is_some() && matches!(self.source, DeviceSource::Pci { .. })
    }
}

/// By what a device was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Its own node, and iommufd.
    Iommufd,
    /// Its group's node, and a container.
    Container,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Iommufd => "iommufd",
            Self::Container => "a container",
        })
    }
}

/// What a device said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// By what it was reached.
    pub door: Door,
    /// What its driver can about its state: flags.
    pub migration: Result<u64, Errno>,
    /// Whether it logs what it writes.
    pub dma_logging: Result<(), Errno>,
    /// What its IOMMU can, where iommufd was asked.
    pub iommu: Option<Result<u64, Errno>>,
}

impl Answers {
    /// What they say of a device, which is named together with the versions of what answered.
    pub(super) fn facts(&self, of: &str) -> MigrationFacts {
        let said = flags(self.migration);
        let migration = |flag: u64| {
            let source = format!("VFIO_DEVICE_FEATURE_MIGRATION of {of}: {said}");
            Evidence::new(certainty(self.migration.map(|flags| flags & flag != 0)), source)
        };
        let (logs, answer) = match self.dma_logging {
            Ok(()) => (Ok(true), "offered"),
            Err(errno) => (Err(errno), errno_name(errno.raw_os_error())),
        };
        let iommu = self.iommu.map(|capabilities| {
            let said = match capabilities {
                Ok(bits) => format!("{bits:#x}"),
                Err(errno) => errno_name(errno.raw_os_error()).to_owned(),
            };
            let source = format!("IOMMU_GET_HW_INFO of {of}: capabilities {said}");
            Evidence::new(certainty(capabilities.map(|bits| bits & DIRTY_TRACKING != 0)), source)
        });
        MigrationFacts {
            stop_copy: migration(STOP_COPY),
            pre_copy: migration(PRE_COPY),
            p2p: migration(P2P),
            device_dirty_log: Evidence::new(
                certainty(logs),
                format!("VFIO_DEVICE_FEATURE_DMA_LOGGING_START of {of}: {answer}"),
            ),
            iommu_dirty_log: iommu.unwrap_or_default(),
        }
    }
}

/// A device has something, or has it not; ENOTTY is how a driver says that it knows no such thing. Any other error says nothing.
fn certainty(answer: Result<bool, Errno>) -> Certainty {
    match answer {
        Ok(true) => Certainty::Proven,
        Ok(false) | Err(Errno::NOTTY) => Certainty::Refused,
        Err(_) => Certainty::Unknown,
    }
}

fn flags(migration: Result<u64, Errno>) -> String {
    match migration {
        Err(errno) => errno_name(errno.raw_os_error()).to_owned(),
        Ok(flags) => {
            let names = [(STOP_COPY, "STOP_COPY"), (P2P, "P2P"), (PRE_COPY, "PRE_COPY")];
            let set: Vec<&str> =
                names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
            if set.is_empty() { format!("{flags:#x}") } else { set.join(" ") }
        }
    }
}

/// Why a device was not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {}", errno_name(.errno.raw_os_error()))]
pub struct Refusal {
    /// What was tried.
    pub call: String,
    /// The kernel's answer.
    pub errno: Errno,
}

/// The kernel of this machine, asked through its device nodes.
#[derive(Debug, Default)]
pub struct KernelProber;

impl Prober for KernelProber {
    fn ask(&self, target: &Target) -> Result<Answers, Refusal> {
        match (&target.node, target.group) {
            (Some(node), _) if target.iommufd => by_iommufd(node, target.has_iommu()),
            (_, Some(group)) => by_container(group, &target.name()),
            (_, None) => Err(Refusal {
                call: format!("find the IOMMU group of {}", target.name()),
                errno: Errno::NODEV,
            }),
        }
    }
}

fn by_iommufd(node: &str, has_iommu: bool) -> Result<Answers, Refusal> {
    // Closed in reverse order: the device first.
    let iommufd = opened("/dev/iommu".to_owned())?;
    let opened = opened(format!("/dev/vfio/devices/{node}"))?;
    let id = device::bind(&opened, &iommufd)
        .map_err(|errno| Refusal { call: format!("VFIO_DEVICE_BIND_IOMMUFD of {node}"), errno })?;
    Ok(Answers {
        door: Door::Iommufd,
        migration: device::migration_flags(&opened),
        dma_logging: device::offers_dma_logging(&opened),
        iommu: has_iommu.then(|| device::iommu_capabilities(&iommufd, id)),
    })
}

fn by_container(group: u32, name: &str) -> Result<Answers, Refusal> {
    let refused = |call: &str| {
        let call = format!("{call} of group {group}");
        move |errno| Refusal { call, errno }
    };
    // Closed in reverse order: the device first.
    let container = opened("/dev/vfio/vfio".to_owned())?;
    let node = opened(format!("/dev/vfio/{group}"))?;
    device::set_container(&node, &container).map_err(refused("VFIO_GROUP_SET_CONTAINER"))?;
    device::set_type1(&container).map_err(refused("VFIO_SET_IOMMU"))?;
    let opened = device::open(&node, name).map_err(refused("VFIO_GROUP_GET_DEVICE_FD"))?;
    Ok(Answers {
        door: Door::Container,
        migration: device::migration_flags(&opened),
        dma_logging: device::offers_dma_logging(&opened),
        iommu: None,
    })
}

fn opened(path: String) -> Result<std::os::fd::OwnedFd, Refusal> {
    device::node(&path).map_err(|errno| Refusal { call: format!("open {path}"), errno })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(migration: Result<u64, Errno>, dma_logging: Result<(), Errno>) -> Answers {
        Answers { door: Door::Container, migration, dma_logging, iommu: None }
    }

    fn certainties(facts: &MigrationFacts) -> [Certainty; 5] {
        facts.named().map(|(_, evidence)| evidence.certainty)
    }

    #[test]
    fn flags_are_proofs_either_way() {
        use Certainty::{Proven, Refused, Unknown};
        let all = answers(Ok(STOP_COPY | P2P | PRE_COPY), Ok(())).facts("x");
        assert_eq!(certainties(&all), [Proven, Proven, Proven, Proven, Unknown]);
        let some =
            answers(Ok(STOP_COPY | P2P), Err(Errno::NOTTY)).facts("0000:03:00.1 (xe-vfio-pci, Linux 7.2.0)");
        assert_eq!(certainties(&some), [Proven, Refused, Proven, Refused, Unknown]);
        assert_eq!(
            some.pre_copy.source,
            "VFIO_DEVICE_FEATURE_MIGRATION of 0000:03:00.1 (xe-vfio-pci, Linux 7.2.0): STOP_COPY P2P"
        );
        assert_eq!(
            some.device_dirty_log.source,
            "VFIO_DEVICE_FEATURE_DMA_LOGGING_START of 0000:03:00.1 (xe-vfio-pci, Linux 7.2.0): ENOTTY"
        );
        assert_eq!(answers(Ok(8), Ok(())).facts("x").stop_copy.certainty, Refused);
    }

    #[test]
    fn enotty_refuses_and_any_other_error_says_nothing() {
        use Certainty::{Refused, Unknown};
        for (errno, certainty) in
            [(Errno::NOTTY, Refused), (Errno::BUSY, Unknown), (Errno::IO, Unknown), (Errno::INVAL, Unknown)]
        {
            let facts = answers(Err(errno), Err(errno)).facts("x");
            assert_eq!(certainties(&facts)[..4], [certainty; 4], "{errno:?}");
            let with = Answers { iommu: Some(Err(errno)), ..answers(Err(errno), Err(errno)) };
            assert_eq!(with.facts("x").iommu_dirty_log.certainty, certainty, "{errno:?}");
        }
    }

    #[test]
    fn what_iommufd_says_of_the_iommu_is_a_proof_either_way() {
        let with = |bits| Answers { iommu: Some(Ok(bits)), ..answers(Ok(STOP_COPY), Ok(())) }.facts("x");
        assert_eq!(
            with(3).iommu_dirty_log,
            Evidence::new(Certainty::Proven, "IOMMU_GET_HW_INFO of x: capabilities 0x3")
        );
        assert_eq!(with(2).iommu_dirty_log.certainty, Certainty::Refused);
        assert_eq!(
            with(0).iommu_dirty_log.certainty,
            Certainty::Refused,
            "a kernel before 6.7 says nothing else"
        );
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let source = DeviceSource::Pci { address: "0000:03:00.1".parse().unwrap() };
        let target = Target { source, group: None, node: None, iommufd: false };
        let refusal = KernelProber.ask(&target).unwrap_err();
        assert_eq!(refusal.to_string(), "find the IOMMU group of 0000:03:00.1: ENODEV");
        let missing = opened("/dev/vfio/no-such-group".to_owned()).unwrap_err();
        assert_eq!(missing.to_string(), "open /dev/vfio/no-such-group: ENOENT");
    }
}
