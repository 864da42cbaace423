//! What a fake machine is built of. It survives a reboot; the kernel's state does not.

use std::collections::BTreeMap;

use serde::Deserialize;
use tranche_core::name::{DeviceName, PciAddress, PciIds};

use super::gim::GimModel;
use super::migration::{DeviceModel, MigrationModel};
use super::nvidia::{self, VgpuFramework, VgpuModel};
use super::xe::{XeAdmin, XeModel};
use crate::catalogue::{Catalogue, Entry, MatchKey};

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// The processor's model name.
    pub cpu_model: String,
    /// Its flags, as `/proc/cpuinfo` has them.
    pub cpu_flags: Vec<String>,
    /// Logical processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Whether there is an IOMMU and it is on.
    pub iommu: bool,
    /// Whether there is `/dev/kvm`.
    pub kvm: bool,
    /// Whether VFIO devices have nodes of their own (CONFIG_VFIO_DEVICE_CDEV; Debian's kernels have it off).
    pub vfio_nodes: bool,
    /// Drivers beside vfio-pci, in the order in which they are asked.
    pub drivers: Vec<DriverModel>,
    /// Variants of vfio-pci that are loaded; which devices they are for is told by `modules.alias`.
    pub vfio_variants: Vec<String>,
    /// Modules of vfio-pci and its variants that are there and not loaded, as `modprobe` calls them.
    pub modules: Vec<String>,
    /// Physical functions.
    pub functions: Vec<FunctionModel>,
    /// Parents of mediated devices that are no PCI devices.
    pub mdev_parents: Vec<MdevParentModel>,
    /// GPUs of Intel's driver xe, for what goes beyond plain SR-IOV.
    pub xe: Vec<XeModel>,
    /// GPUs of AMD's driver gim.
    pub gim: Vec<GimModel>,
    /// Further files by path, which read as they stand here.
    pub files: BTreeMap<String, String>,
    /// What NVIDIA's driver makes of physical functions.
    pub vgpus: Vec<VgpuModel>,
    /// What it can about live migration.
    pub migration: MigrationModel,
}

/// A driver.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverModel {
    /// Its name.
    pub name: String,
    /// The devices that it takes, as `vendor:device` in four hex digits each.
    pub ids: Vec<String>,
    /// Whether it switches virtual functions through sysfs (`.sriov_configure`).
    #[serde(default)]
    pub sriov: bool,
}

/// A physical function.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionModel {
    /// Its address.
    pub address: PciAddress,
    /// Its ids.
    pub ids: PciIds,
    /// Its class code, 24 bits.
    pub class: u32,
    /// The IOMMU group; functions with the same number share it. Without one it is alone.
    #[serde(default)]
    pub group: Option<u32>,
    /// The NUMA node.
    #[serde(default)]
    pub numa_node: Option<u16>,
    /// Whether the firmware's console is on it.
    #[serde(default)]
    pub boot_vga: bool,
    /// Sizes of its 64-bit memory windows, in MiB.
    #[serde(default)]
    pub bars_mib: Vec<u64>,
    /// What its driver makes of it under `/dev`: `dri/card0`, `snd/controlC0`.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Its SR-IOV capability.
    #[serde(default)]
    pub sriov: Option<SriovModel>,
}

/// An SR-IOV capability.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SriovModel {
    /// `sriov_totalvfs`.
    pub total_vfs: u16,
    /// From the physical function's routing id to the first virtual one's.
    pub offset: u16,
    /// From one virtual function's routing id to the next one's.
    pub stride: u16,
    /// The virtual functions' device id.
    pub vf_device: u16,
    /// Sizes of each virtual function's 64-bit memory windows, in MiB.
    #[serde(default)]
    pub vf_bars_mib: Vec<u64>,
    /// Whether the virtual functions land in the physical one's IOMMU group, as behind a bridge without ACS.
    #[serde(default)]
    pub shares_group: bool,
}

/// A parent of mediated devices that is no PCI device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdevParentModel {
    /// Its name under `/sys/class/mdev_bus`.
    pub name: DeviceName,
    /// The memory that its devices share, in MiB.
    pub pool_mib: u64,
    /// What it makes.
    pub types: Vec<MdevTypeModel>,
}

/// A type of mediated device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdevTypeModel {
    /// The name of its directory.
    pub name: String,
    /// What each takes from the pool, in MiB.
    pub mib: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            kernel: "6.12.0-fake-amd64".to_owned(),
            cpu_model: "Fake CPU".to_owned(),
            cpu_flags: ["fpu", "sse4_2", "avx2", "ida"].map(str::to_owned).to_vec(),
            cpus: 16,
            memory_mib: 128 * 1024,
            iommu: true,
            kvm: true,
            vfio_nodes: false,
            drivers: Vec::new(),
            functions: Vec::new(),
            mdev_parents: Vec::new(),
            vfio_variants: Vec::new(),
            modules: Vec::new(),
            xe: Vec::new(),
            gim: Vec::new(),
            files: BTreeMap::new(),
            vgpus: Vec::new(),
            migration: MigrationModel::default(),
        }
    }
}

impl Machine {
    /// The names of [`preset`](Self::preset).
    pub const PRESETS: [&str; 5] = ["gpus", "big", "nvidia", "arc", "instinct"];

    /// The machines that have a name: `gpus` (two with 8 virtual functions each), `big` (eight with 16 each), `nvidia`
    /// (an A16, which is four GPUs, and an L40S), `arc` (an Intel Arc Pro B50) and `instinct` (an AMD MI300X in 8
    /// parts). They need no catalogue of their own to be taken for GPUs, as [`Machine::lab`] does.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "gpus" => Some(Self::gpus(2, 8)),
            "big" => Some(Self::gpus(8, 16)),
            "arc" => Some(Self::arc()),
            "instinct" => Some(Self::instinct(8)),
            "nvidia" => Some(Self::nvidia(&["NVIDIA A16", "NVIDIA L40S"])),
            _ => None,
        }
    }

    /// The virtual lab's node: two QEMU igb adapters, and the kernel's sample of a mediated display device.
    pub fn lab() -> Self {
        let igb = |bus| FunctionModel {
            address: PciAddress { domain: 0, bus, device: 0, function: 0 },
            ids: PciIds { vendor: 0x8086, device: 0x10c9, subvendor: 0x8086, subdevice: 0x0000 },
            class: 0x02_0000,
            group: None,
            numa_node: None,
            boot_vga: false,
            bars_mib: vec![1],
            nodes: Vec::new(),
            sriov: Some(SriovModel {
                total_vfs: 7,
                offset: 128,
                stride: 2,
                vf_device: 0x10ca,
                vf_bars_mib: vec![1],
                shares_group: false,
            }),
        };
        let kind = |size: &str, mib| MdevTypeModel { name: format!("mbochs-{size}"), mib };
        Self {
            drivers: vec![driver("igb", &["8086:10c9"], true), driver("igbvf", &["8086:10ca"], false)],
            functions: vec![igb(1), igb(2)],
            mdev_parents: vec![MdevParentModel {
                name: "mbochs".parse().expect("a device name"),
                pool_mib: 256,
                types: vec![kind("small", 4), kind("medium", 16), kind("large", 64)],
            }],
            ..Self::default()
        }
    }

    /// So many display-class GPUs, at most 32, with so many virtual functions each, at most 64. Half of them are on each
    /// of two NUMA nodes.
    pub fn gpus(count: u8, total_vfs: u16) -> Self {
        assert!(
            count <= 32 && total_vfs <= 64,
            "a fake machine has room for 32 GPUs of 64 virtual functions"
        );
        let gpu = |index: u8| FunctionModel {
            address: PciAddress { domain: 0, bus: 0x10 + index * 4, device: 0, function: 0 },
            ids: PciIds { vendor: 0x8086, device: 0xe211, subvendor: 0x8086, subdevice: 0x1114 },
            class: 0x03_0000,
            group: None,
            numa_node: Some(u16::from(index >= count / 2)),
            boot_vga: false,
            bars_mib: vec![16, 16 * 1024],
            nodes: Vec::new(),
            sriov: Some(SriovModel {
                total_vfs,
                offset: 4,
                stride: 1,
                vf_device: 0xe211,
                vf_bars_mib: vec![16, 1024],
                shares_group: false,
            }),
        };
        Self {
            drivers: vec![driver("xe", &["8086:e211"], true)],
            functions: (0..count).map(gpu).collect(),
            ..Self::default()
        }
    }

    /// An Intel Arc Pro B50 with the driver xe of a kernel that takes quotas, and its variant of vfio-pci.
    pub fn arc() -> Self {
        let address = PciAddress { domain: 0, bus: 3, device: 0, function: 0 };
        let kernel = "7.2.0-fake-amd64".to_owned();
        let aliases = "alias vfio_pci:v00008086d0000E212sv*sd*bc*sc*i* xe_vfio_pci\n\
                       alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci";
        let ids = PciIds { vendor: 0x8086, device: 0xe212, subvendor: 0x8086, subdevice: 0x1114 };
        let devices = [("xe-vfio-pci".to_owned(), DeviceModel { flags: 3, dirty_log: false })].into();
        let migration = MigrationModel { devices, ..MigrationModel::default() };
        Self {
            files: [(format!("lib/modules/{kernel}/modules.alias"), aliases.to_owned())].into(),
            kernel,
            drivers: vec![driver("xe", &["8086:e212"], true)],
            vfio_variants: vec!["xe-vfio-pci".to_owned()],
            functions: vec![vendor_function(address, ids, 0x03_0000, (12, 1, 1), 0xe212)],
            xe: vec![XeModel { gpu: address, shared_mib: 16_128, admin: XeAdmin::WithQuotas }],
            migration,
            ..Self::default()
        }
    }

    /// An AMD Instinct MI300X whose driver was told to make so many virtual functions, at most 8.
    pub fn instinct(vf_num: u16) -> Self {
        let address = PciAddress { domain: 0, bus: 5, device: 0, function: 0 };
        let ids = PciIds { vendor: 0x1002, device: 0x74a1, subvendor: 0x1002, subdevice: 0x74a1 };
        let modes = [("accelerator_partition_profile", "CPX"), ("memory_partition_mode", "NPS4")];
        let modes = modes.map(|(attribute, mode)| (attribute.to_owned(), mode.to_owned()));
        Self {
            drivers: vec![driver("gim", &["1002:74a1"], false)],
            functions: vec![vendor_function(address, ids, 0x12_0000, (8, 16, 1), 0x74b5)],
            gim: vec![GimModel { gpu: address, vf_num: vf_num.min(8), modes: modes.into() }],
            ..Self::default()
        }
    }
}

/// A GPU with as many virtual functions, at such an offset and stride.
fn vendor_function(
    address: PciAddress,
    ids: PciIds,
    class: u32,
    (total_vfs, offset, stride): (u16, u16, u16),
    vf_device: u16,
) -> FunctionModel {
    FunctionModel {
        address,
        ids,
        class,
        group: None,
        numa_node: Some(0),
        boot_vga: false,
        bars_mib: vec![16, 16 * 1024],
        nodes: Vec::new(),
        sriov: Some(SriovModel {
            total_vfs,
            offset,
            stride,
            vf_device,
            vf_bars_mib: vec![16, 1024],
            shares_group: false,
        }),
    }
}

impl Machine {
    /// Boards of these models, as the compiled-in catalogue names them, each with as many GPUs as such a board has.
    ///
    /// # Panics
    /// When the catalogue has no such model, or nothing of what this needs.
    pub fn nvidia(models: &[&str]) -> Self {
        let catalogue = Catalogue::builtin();
        let entries = catalogue.entries();
        let find = |model: &&str| {
            let found = entries.iter().find(|entry| entry.model == **model);
            *found.unwrap_or_else(|| panic!("the catalogue knows no {model}"))
        };
        let gpus = models.iter().map(find);
        let gpus = gpus.flat_map(|entry| std::iter::repeat_n(entry, entry.gpus_per_board.into()));
        let (mut functions, mut vgpus, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for (bus, entry) in (0x41..).zip(gpus) {
            let address = PciAddress { domain: 0, bus, device: 0, function: 0 };
            let function = nvidia_function(address, entry);
            ids.push(format!("{:04x}:{:04x}", function.ids.vendor, function.ids.device));
            functions.push(function);
            vgpus.push(VgpuModel::of(address, entry));
        }
        let drivers = vec![DriverModel { name: nvidia::DRIVER.to_owned(), ids, sriov: false }];
        Self { drivers, functions, vgpus, ..Self::default() }
    }

    /// The same machine with an older kernel, on which vGPUs are mediated devices.
    #[must_use]
    pub fn with_mediated_vgpus(self) -> Self {
        let older = |model| VgpuModel { framework: VgpuFramework::Mdev, ..model };
        let vgpus = self.vgpus.into_iter().map(older).collect();
        Self { kernel: "5.14.0-503.11.1.el9_5.x86_64".to_owned(), vgpus, ..self }
    }
}

fn nvidia_function(address: PciAddress, entry: &Entry) -> FunctionModel {
    let ids = match &entry.matches[..] {
        [MatchKey::Subsystem(ids), ..] => *ids,
        // Whoever made the card may have given it any number.
        [MatchKey::Device { vendor, device }, ..] => {
            PciIds { vendor: *vendor, device: *device, subvendor: *vendor, subdevice: 0x1851 }
        }
        matches => panic!("{matches:?} is no PCI function"),
    };
    let vram_mib = entry.vram_mib.as_ref().map_or(0, |figure| figure.value);
    let sriov = SriovModel {
        total_vfs: entry.total_vfs.as_ref().expect("the model has virtual functions").value,
        offset: 4,
        stride: 1,
        vf_device: ids.device,
        vf_bars_mib: vec![1, 2048, 32],
        shares_group: false,
    };
    FunctionModel {
        address,
        ids,
        class: 0x03_0200,
        group: None,
        numa_node: Some(0),
        boot_vga: false,
        bars_mib: vec![16, vram_mib, 32],
        nodes: Vec::new(),
        sriov: Some(sriov),
    }
}

fn driver(name: &str, ids: &[&str], sriov: bool) -> DriverModel {
    DriverModel { name: name.to_owned(), ids: ids.iter().map(|id| (*id).to_owned()).collect(), sriov }
}
