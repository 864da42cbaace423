//! NVIDIA's vGPU driver on the fake kernel: which types a virtual function can take, and what they exclude.
//!
//! Virtual functions come and go only by the vendor's tool ([`tool`]); `sriov_numvfs` refuses, as with every driver
//! that does not switch them through sysfs. What they show depends on the framework: a file that takes the number of a
//! type, or a directory of types under which mediated devices are made.
//!
//! Facts: NVIDIA vGPU Software User Guide; availability as in kernel_vgpu_mgr.c of NVIDIA's open kernel modules;
//! formats as seen on hosts with A2 and L40S.

pub(super) mod files;
pub(super) mod smi;
pub(super) mod tool;

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use serde::Deserialize;
use tranche_core::inventory::{DeviceSource, Holder};
use tranche_core::name::{GpuAddress, PciAddress};
use uuid::Uuid;

use super::state::{MdevType, Role, State};
use crate::catalogue::Entry;

/// The driver, for physical and virtual functions alike.
pub(super) const DRIVER: &str = "nvidia";
/// The most vGPUs of one GPU, whatever their types say.
const VGPUS_PER_GPU_MAX: usize = 32;

/// A GPU whose driver makes vGPUs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VgpuModel {
    /// The physical function.
    pub gpu: PciAddress,
    /// How its virtual functions take types: a matter of the kernel's version, not of the GPU's.
    #[serde(default)]
    pub framework: VgpuFramework,
    /// The types, in the order in which the driver lists them.
    pub types: Vec<VgpuTypeModel>,
    /// What directories of types are called before the dash and the number, where types have directories.
    #[serde(default = "driver_name")]
    pub directory_prefix: String,
}

/// How virtual functions take types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum VgpuFramework {
    /// Through `nvidia/current_vgpu_type` (kernel 6.8 and later).
    #[default]
    VendorVfio,
    /// By a mediated device on each (older kernels).
    Mdev,
}

/// A type of vGPU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VgpuTypeModel {
    /// Its number, which differs between driver branches.
    pub id: u32,
    /// Its name with the model: `NVIDIA A2-4Q`.
    pub name: String,
    /// What it takes of the GPU's memory, in MiB.
    pub mib: u64,
    /// How many of them a GPU can have.
    pub max: u16,
}

fn driver_name() -> String {
    DRIVER.to_owned()
}

impl VgpuModel {
    /// What the catalogue says of a model. Types without a number are left out.
    pub fn of(gpu: PciAddress, entry: &Entry) -> Self {
        let mut types: Vec<VgpuTypeModel> = entry
            .profiles
            .iter()
            .filter_map(|profile| {
                let name = format!("{}-{}", entry.model, profile.name);
                Some(VgpuTypeModel { id: profile.type_id?, name, mib: profile.size_mib, max: profile.max })
            })
            .collect();
        types.sort_by_key(|kind| kind.id);
        Self { gpu, framework: VgpuFramework::default(), types, directory_prefix: driver_name() }
    }
}

impl VgpuTypeModel {
    fn description(&self) -> String {
        let (mib, max) = (self.mib, self.max);
        format!(
            "num_heads=4, frl_config=60, framebuffer={mib}M, max_resolution=7680x4320, max_instance={max}"
        )
    }
}

/// What a boot brings forth and a reboot loses.
#[derive(Debug, Default)]
pub(super) struct Vgpus {
    /// Types that virtual functions carry.
    types: BTreeMap<PciAddress, u32>,
    params: BTreeMap<PciAddress, String>,
    /// GPUs whose types may be of several sizes.
    pub(super) mixed: BTreeSet<PciAddress>,
    /// Where in its GPU's memory each type of such a GPU begins, and how long it is, in MiB.
    places: BTreeMap<PciAddress, (u64, u64)>,
    /// The driver's own device nodes, and who has them open.
    pub(super) nodes: Vec<(String, Holder)>,
    /// The GPU that the tool is at work on.
    at_work: Option<PciAddress>,
    /// How the tool ended when it last ran for a GPU.
    ran: BTreeMap<PciAddress, crate::tree::Ran>,
}

/// What goes wrong on purpose.
#[derive(Debug, Default)]
pub(super) struct VgpuFaults {
    /// GPUs whose lists of types are empty.
    pub(super) without_types: BTreeSet<PciAddress>,
    /// GPUs that take equal types only.
    pub(super) without_mixed: BTreeSet<PciAddress>,
    /// When the first function is given a type, the second one gets this type just before.
    pub(super) races: BTreeMap<PciAddress, (PciAddress, u32)>,
}

impl State {
    /// The model behind a virtual function that NVIDIA's driver has.
    pub(super) fn vgpu_model_of(&self, vf: PciAddress) -> Option<&VgpuModel> {
        let function = self.functions.get(&vf)?;
        let Role::Virtual { pf } = function.role else { return None };
        self.vgpu_model(pf).filter(|_| function.driver.as_deref() == Some(DRIVER))
    }

    /// The model of a physical function.
    pub(super) fn vgpu_model(&self, pf: PciAddress) -> Option<&VgpuModel> {
        self.machine.vgpus.iter().find(|model| model.gpu == pf)
    }

    /// Whether this is a virtual function of such a GPU, whatever driver it has.
    pub(super) fn is_vgpu_function(&self, vf: PciAddress) -> bool {
        let pf = self.functions.get(&vf).and_then(|function| match function.role {
            Role::Virtual { pf } => Some(pf),
            Role::Plain | Role::Physical { .. } => None,
        });
        pf.is_some_and(|pf| self.vgpu_model(pf).is_some())
    }

    /// `/dev/nvidiaN` of a GPU.
    pub(super) fn vgpu_node(&self, pf: PciAddress) -> Option<String> {
        let minor = self.machine.vgpus.iter().position(|model| model.gpu == pf)?;
        Some(format!("/dev/nvidia{minor}"))
    }

    /// GPUs that the driver has.
    pub(super) fn vgpu_gpus(&self) -> impl Iterator<Item = PciAddress> {
        let bound = |pf: &PciAddress| {
            self.functions.get(pf).is_some_and(|function| function.driver.as_deref() == Some(DRIVER))
        };
        self.machine.vgpus.iter().map(|model| model.gpu).filter(bound)
    }

    pub(super) fn current_type(&self, vf: PciAddress) -> u32 {
        self.vgpus.types.get(&vf).copied().unwrap_or(0)
    }

    /// The types that a function can take now.
    pub(super) fn creatable_types(&self, vf: PciAddress) -> Vec<&VgpuTypeModel> {
        let Some(model) = self.vgpu_model_of(vf) else { return Vec::new() };
        let room = self.room(model, vf);
        model.types.iter().filter(|kind| room.is_for(kind)).collect()
    }

    fn room(&self, model: &VgpuModel, vf: PciAddress) -> Room {
        let on_functions: BTreeMap<PciAddress, u32> = self
            .mdevs
            .values()
            .filter_map(|mdev| Some((mdev.parent.pci()?, type_number(&mdev.kind)?)))
            .chain(self.vgpus.types.iter().map(|(vf, id)| (*vf, *id)))
            .collect();
        let Some(Role::Physical { vfs, .. }) = self.functions.get(&model.gpu).map(|gpu| &gpu.role) else {
            return Room::None;
        };
        let is_refused = self.faults.vgpu.without_types.contains(&model.gpu);
        let made: Vec<u32> = vfs.values().filter_map(|vf| on_functions.get(vf)).copied().collect();
        if on_functions.contains_key(&vf) || made.len() >= VGPUS_PER_GPU_MAX || is_refused {
            return Room::None;
        }
        if self.vgpus.mixed.contains(&model.gpu) {
            let taken = vfs.values().filter_map(|vf| self.vgpus.places.get(vf)).copied().collect();
            let total_mib = model.types.iter().map(|kind| kind.mib).max().unwrap_or(0);
            return Room::Mixed { total_mib, taken, made };
        }
        let size = |id: &u32| model.types.iter().find(|kind| kind.id == *id).map_or(0, |kind| kind.mib);
        made.first().map_or(Room::All, |first| Room::OfSize { mib: size(first), made: made.len() })
    }

    /// `current_vgpu_type`: a number makes a vGPU, 0 removes it.
    pub(super) fn store_type(&mut self, vf: PciAddress, text: &str) -> Result<(), Errno> {
        let id: u32 = text.strip_suffix('\n').unwrap_or(text).parse().map_err(|_| Errno::INVAL)?;
        let pf = self.vgpu_model_of(vf).ok_or(Errno::NODEV)?.gpu;
        if self.faults.off_the_bus.contains(&pf) {
            return Err(Errno::IO);
        }
        if self.faults.deaf.contains(&GpuAddress::Pci(vf)) {
            return Ok(());
        }
        if id == 0 {
            if self.is_open(&DeviceSource::Pci { address: vf }) {
                return Err(Errno::PERM);
            }
            self.forget_type(vf);
            return Ok(());
        }
        if let Some((other, first)) = self.faults.vgpu.races.remove(&vf) {
            self.give_type(other, first)?;
        }
        self.give_type(vf, id)
    }

    fn give_type(&mut self, vf: PciAddress, id: u32) -> Result<(), Errno> {
        let model = self.vgpu_model_of(vf).ok_or(Errno::NODEV)?;
        let room = self.room(model, vf);
        let kind = model.types.iter().find(|kind| kind.id == id && room.is_for(kind)).ok_or(Errno::INVAL)?;
        if let Some(place) = room.place(kind) {
            self.vgpus.places.insert(vf, place);
        }
        let node = self.take_vfio();
        self.vgpus.types.insert(vf, id);
        if let Some(function) = self.functions.get_mut(&vf) {
            function.vfio = Some(node);
        }
        Ok(())
    }

    fn forget_type(&mut self, vf: PciAddress) {
        self.vgpus.places.remove(&vf);
        self.vgpus.types.remove(&vf);
        self.vgpus.params.remove(&vf);
        if let Some(function) = self.functions.get_mut(&vf) {
            function.vfio = None;
        }
    }

    /// A virtual function is about to lose its driver or to go altogether.
    pub(super) fn forget_vgpus_on(&mut self, vf: PciAddress) {
        self.vgpus.places.remove(&vf);
        self.vgpus.types.remove(&vf);
        self.vgpus.params.remove(&vf);
        self.mdevs.retain(|_, mdev| mdev.parent != GpuAddress::Pci(vf));
    }

    pub(super) fn vgpu_params(&self, vf: PciAddress) -> String {
        self.vgpus.params.get(&vf).cloned().unwrap_or_default()
    }

    /// `vgpu_params`: a space clears them.
    pub(super) fn store_params(&mut self, vf: PciAddress, text: &str) -> Result<(), Errno> {
        if self.current_type(vf) == 0 {
            return Err(Errno::INVAL);
        }
        match text.trim() {
            "" => drop(self.vgpus.params.remove(&vf)),
            text => drop(self.vgpus.params.insert(vf, text.to_owned())),
        }
        Ok(())
    }

    /// What a virtual function makes as a parent of mediated devices, if it is one.
    pub(super) fn vgpu_mdev_types(&self, vf: PciAddress) -> Option<Vec<MdevType>> {
        let model = self.vgpu_model_of(vf).filter(|model| model.framework == VgpuFramework::Mdev)?;
        let room = self.room(model, vf);
        let seen = |kind: &VgpuTypeModel| MdevType {
            directory: format!("{}-{}", model.directory_prefix, kind.id),
            name: kind.name.clone(),
            description: kind.description(),
            available: u64::from(room.is_for(kind)),
        };
        Some(model.types.iter().map(seen).collect())
    }

    /// Somebody else is faster, if that was asked for.
    pub(super) fn race_for_mdevs(&mut self, vf: PciAddress) {
        let Some((other, id)) = self.faults.vgpu.races.remove(&vf) else { return };
        let Some(model) = self.vgpu_model_of(other) else { return };
        let directory = format!("{}-{id}", model.directory_prefix);
        let uuid = Uuid::from_u128(u128::from(id)).to_string();
        // One that is refused is no race.
        let _ = self.create_mdev(&GpuAddress::Pci(other), &directory, &uuid);
    }

    /// Whether a virtual function is a parent of mediated devices.
    pub(super) fn is_vgpu_parent(&self, vf: PciAddress) -> bool {
        self.vgpu_model_of(vf).is_some_and(|model| model.framework == VgpuFramework::Mdev)
    }
}

/// What a function can take: one type, of the size of its siblings' types, and not more than that size allows.
enum Room {
    None,
    All,
    OfSize {
        mib: u64,
        made: usize,
    },
    /// What is between the types that there are.
    Mixed {
        total_mib: u64,
        taken: Vec<(u64, u64)>,
        made: Vec<u32>,
    },
}

impl Room {
    fn is_for(&self, kind: &VgpuTypeModel) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::OfSize { mib, made } => kind.mib == *mib && *made < usize::from(kind.max),
            Self::Mixed { made, .. } => {
                let alike = made.iter().filter(|id| **id == kind.id).count();
                alike < usize::from(kind.max) && self.place(kind).is_some()
            }
        }
    }

    /// The first place for a type, where types have places of their own.
    fn place(&self, kind: &VgpuTypeModel) -> Option<(u64, u64)> {
        let Self::Mixed { total_mib, taken, .. } = self else { return None };
        let is_free =
            |start: &u64| taken.iter().all(|(at, mib)| start + kind.mib <= *at || at + mib <= *start);
        let start = crate::vgpu::mixed::starts(*total_mib, kind.mib).into_iter().find(is_free)?;
        Some((start, kind.mib))
    }
}

/// The number at the end of a type's directory.
fn type_number(directory: &str) -> Option<u32> {
    directory.rsplit_once('-')?.1.parse().ok()
}
