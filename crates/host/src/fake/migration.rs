//! What the fake machine has of live migration: its IOMMU's registers, VFIO's files under debugfs, iommufd, and a device's answers.
//!
//! Facts: Linux, drivers/vfio/debugfs.c, drivers/iommu/intel/iommu.c and amd/init.c (the files), drivers/vfio/vfio_main.c (ENOTTY).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use serde::Deserialize;
use tranche_core::inventory::{DeviceSource, Holder};
use tranche_core::name::PciAddress;
use uuid::Uuid;

use super::files::{Node, dir, function_path, link, names, text};
use super::state::{Function, State};
use super::{DeviceUse as _, FakeKernel};
use crate::migration::{Answers, Door, Prober, Refusal, Target};

/// The process that asks. It is no VM.
const ASKER: u32 = 1;

/// What a machine's kernel can about live migration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationModel {
    /// The extended capabilities of an IOMMU of Intel's, in hexadecimal as its file has them.
    pub ecap: Option<String>,
    /// The features of an IOMMU of AMD's, as its file has them. It is one of AMD's if this is there.
    pub amd_features: Option<String>,
    /// `/proc/cmdline`.
    pub command_line: String,
    /// Whether there is `/dev/iommu`.
    pub iommufd: bool,
    /// What iommufd says that the IOMMU can.
    pub iommu_capabilities: u64,
    /// What VFIO shows of its devices.
    pub debugfs: VfioDebugfs,
    /// What devices can, by the driver that they have, and by the parent's name for mediated devices. Others can nothing.
    pub devices: BTreeMap<String, DeviceModel>,
}

/// What VFIO shows of its devices under debugfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VfioDebugfs {
    /// Nothing (before Linux 6.8, or without CONFIG_VFIO_DEBUGFS).
    #[default]
    None,
    /// That a device can be migrated at all (6.8).
    State,
    /// What it can (6.18).
    Features,
}

/// What a device can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceModel {
    /// The flags of VFIO_DEVICE_FEATURE_MIGRATION; 0 if it knows no migration.
    pub flags: u64,
    /// Whether it logs what it writes.
    pub dirty_log: bool,
}

impl State {
    /// What the driver of a device makes it able to.
    fn device_model(&self, source: &DeviceSource) -> DeviceModel {
        let driver = match source {
            DeviceSource::Pci { address } => {
                self.functions.get(address).and_then(|function| function.driver.clone())
            }
            DeviceSource::Mdev { uuid } => self.mdevs.get(uuid).map(|mdev| mdev.parent.to_string()),
        };
        driver.and_then(|driver| self.machine.migration.devices.get(&driver).copied()).unwrap_or_default()
    }

    /// The device of this name that is bound to a VFIO driver.
    fn vfio_device(&self, name: &str) -> Option<DeviceSource> {
        if let Ok(address) = name.parse::<PciAddress>() {
            let function = self.functions.get(&address)?;
            return function.vfio.map(|_| DeviceSource::Pci { address });
        }
        let uuid: Uuid = name.parse().ok()?;
        self.mdevs.contains_key(&uuid).then_some(DeviceSource::Mdev { uuid })
    }
}

/// The name of the machine's IOMMU.
pub(super) fn unit(state: &State) -> &'static str {
    if state.machine.migration.amd_features.is_some() { "ivhd0" } else { "dmar0" }
}

/// The link of a function to its IOMMU.
pub(super) fn unit_of(state: &State, function: &Function, address: PciAddress) -> Option<Node> {
    function.group?;
    let up = "../".repeat(function_path(address).split('/').count());
    link(format!("{up}virtual/iommu/{}", unit(state)))
}

/// What is below `sys/devices/virtual/iommu`, where the machine has an IOMMU.
pub(super) fn units(state: &State, path: &[&str]) -> Option<Node> {
    let model = &state.machine.migration;
    let register = match (&model.amd_features, &model.ecap) {
        (Some(features), _) => Some(("amd-iommu", "features", features)),
        (None, Some(ecap)) => Some(("intel-iommu", "ecap", ecap)),
        (None, None) => None,
    };
    match path {
        [] => names([unit(state).to_owned()]),
        [name] if *name == unit(state) => names(register.map(|(kind, _, _)| kind.to_owned())),
        [name, rest @ ..] if *name == unit(state) => {
            let (kind, file, value) = register?;
            match rest {
                [of] if *of == kind => names([file.to_owned()]),
                [of, name] if *of == kind && *name == file => text(value),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What is below `sys/kernel/debug`.
pub(super) fn debugfs(state: &State, path: &[&str]) -> Option<Node> {
    let shown = state.machine.migration.debugfs;
    if shown == VfioDebugfs::None {
        return path.is_empty().then(|| dir(&[]))?;
    }
    match path {
        [] => dir(&["vfio"]),
        ["vfio"] => {
            let functions = state.functions.iter().filter(|(_, function)| function.vfio.is_some());
            let functions = functions.map(|(address, _)| address.to_string());
            names(functions.chain(state.mdevs.keys().map(ToString::to_string)))
        }
        ["vfio", name, rest @ ..] => {
            let model = state.device_model(&state.vfio_device(name)?);
            let can = model.flags != 0;
            match rest {
                [] => names(can.then(|| "migration".to_owned())),
                ["migration"] if can && shown == VfioDebugfs::Features => dir(&["features", "state"]),
                ["migration"] if can => dir(&["state"]),
                ["migration", "state"] if can => text("RUNNING"),
                ["migration", "features"] if can && shown == VfioDebugfs::Features => text(features(model)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// One feature in each line.
fn features(model: DeviceModel) -> String {
    let listed = [
        (model.flags & 1 != 0, "stop-copy"),
        (model.flags & 2 != 0, "p2p"),
        (model.flags & 4 != 0, "pre-copy"),
        (model.dirty_log, "dirty-tracking"),
    ];
    listed.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect::<Vec<_>>().join("\n")
}

/// The fake kernel, asked as the real one is.
#[derive(Debug)]
pub struct FakeProber {
    kernel: Arc<FakeKernel>,
    asked: Mutex<Vec<Target>>,
}

impl FakeProber {
    /// Asks this kernel.
    pub fn new(kernel: Arc<FakeKernel>) -> Self {
        Self { kernel, asked: Mutex::default() }
    }

    /// What was asked or could not be, in order. Each time it was reset.
    pub fn asked(&self) -> Vec<Target> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Prober for FakeProber {
    fn ask(&self, target: &Target) -> Result<Answers, Refusal> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(target.clone());
        let by = Holder { pid: ASKER, command: "tranched".to_owned() };
        let (door, call) = match (&target.node, target.group) {
            (Some(node), _) if target.iommufd => {
                (Door::Iommufd, format!("VFIO_DEVICE_BIND_IOMMUFD of {node}"))
            }
            (_, group) => (Door::Container, format!("open /dev/vfio/{}", group.unwrap_or(0))),
        };
        let opened = self.kernel.open(&target.source, &by);
        opened.map_err(|error| Refusal {
            call,
            errno: error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error),
        })?;
        let (model, capabilities) = self
            .kernel
            .with(|state| (state.device_model(&target.source), state.machine.migration.iommu_capabilities));
        self.kernel.close(&target.source, &by);
        let iommu = door == Door::Iommufd && matches!(target.source, DeviceSource::Pci { .. });
        Ok(Answers {
            door,
            migration: if model.flags == 0 { Err(Errno::NOTTY) } else { Ok(model.flags) },
            dma_logging: if model.dirty_log { Ok(()) } else { Err(Errno::NOTTY) },
            iommu: iommu.then_some(Ok(capabilities)),
        })
    }
}
