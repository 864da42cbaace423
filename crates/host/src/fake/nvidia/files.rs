//! What NVIDIA's driver and tool add to the tree.

use std::collections::BTreeMap;

use rustix::io::Errno;
use tranche_core::name::PciAddress;
use uuid::Uuid;

use super::super::FakeKernel;
use super::super::files::{self, Listing, Node};
use super::super::state::State;
use super::{VgpuFramework, smi, tool};

/// A file of theirs.
#[derive(Debug)]
pub(in crate::fake) enum VgpuFile {
    /// `current_vgpu_type` of a virtual function.
    Type(PciAddress),
    /// `vgpu_params` of a virtual function.
    Params(PciAddress),
    /// The tool, as a script that runs the stand-in below.
    Tool,
    /// The other tool, as a script that does the same.
    Smi,
    /// What the scripts write their switches to, and read the outcome from.
    Control(PciAddress),
}

impl VgpuFile {
    pub(in crate::fake) fn mode(&self) -> u16 {
        match self {
            Self::Type(_) | Self::Params(_) | Self::Control(_) => 0o644,
            Self::Tool | Self::Smi => 0o555,
        }
    }
}

impl FakeKernel {
    pub(in crate::fake) fn read_vgpu_file(&self, file: &VgpuFile) -> Vec<u8> {
        let text = match file {
            VgpuFile::Type(vf) => self.with(|state| format!("{}\n", state.current_type(*vf))),
            VgpuFile::Params(vf) => self.with(|state| state.vgpu_params(*vf)),
            VgpuFile::Tool => tool::SCRIPT.to_owned(),
            VgpuFile::Smi => smi::SCRIPT.to_owned(),
            VgpuFile::Control(pf) => self.with(|state| tool::outcome(state, *pf)),
        };
        text.into_bytes()
    }

    pub(in crate::fake) fn write_vgpu_file(&self, file: &VgpuFile, value: &str) -> Result<(), Errno> {
        match file {
            VgpuFile::Type(vf) => self.with(|state| state.store_type(*vf, value)),
            VgpuFile::Params(vf) => self.with(|state| state.store_params(*vf, value)),
            VgpuFile::Tool | VgpuFile::Smi => Err(Errno::ACCESS),
            VgpuFile::Control(pf) if smi::is_switch(value) => {
                self.smi(value, *pf);
                Ok(())
            }
            VgpuFile::Control(pf) => self.sriov_manage(value, *pf).map(|_| ()),
        }
    }
}

/// `nvidia/` of a virtual function.
pub(in crate::fake) fn function(state: &State, vf: PciAddress, path: &[&str]) -> Option<Node> {
    const FILES: [&str; 3] = ["creatable_vgpu_types", "current_vgpu_type", "vgpu_params"];
    state.vgpu_model_of(vf).filter(|model| model.framework == VgpuFramework::VendorVfio)?;
    let file = |file| Some(Node::File(files::File::Vgpu(file)));
    match path {
        [] => names(FILES.map(str::to_owned)),
        ["creatable_vgpu_types"] => {
            let types = state.creatable_types(vf);
            let lines: String = types.iter().map(|kind| format!("{:<6}: {}\n", kind.id, kind.name)).collect();
            Some(Node::File(files::File::Text(format!("{:<6}: vGPU Name\n{lines}", "ID"))))
        }
        ["current_vgpu_type"] => file(VgpuFile::Type(vf)),
        ["vgpu_params"] => file(VgpuFile::Params(vf)),
        _ => None,
    }
}

/// Under `usr`.
pub(in crate::fake) fn usr(state: &State, path: &[&str]) -> Option<Node> {
    if state.machine.vgpus.is_empty() {
        return None;
    }
    match path {
        [] => names(["bin".to_owned(), "lib".to_owned()]),
        ["bin"] => names(["nvidia-smi".to_owned()]),
        ["bin", "nvidia-smi"] => Some(Node::File(files::File::Vgpu(VgpuFile::Smi))),
        ["lib"] => names(["nvidia".to_owned()]),
        ["lib", "nvidia"] => names(["sriov-manage".to_owned(), "sriov-manage.d".to_owned()]),
        ["lib", "nvidia", "sriov-manage"] => Some(Node::File(files::File::Vgpu(VgpuFile::Tool))),
        ["lib", "nvidia", "sriov-manage.d"] => {
            names(state.machine.vgpus.iter().map(|model| model.gpu.to_string()))
        }
        ["lib", "nvidia", "sriov-manage.d", name] => {
            let model = state.vgpu_model(name.parse().ok()?)?;
            Some(Node::File(files::File::Vgpu(VgpuFile::Control(model.gpu))))
        }
        _ => None,
    }
}

/// What the driver tells of each GPU that it has, by path.
pub(in crate::fake) fn proc_files(state: &State) -> BTreeMap<String, String> {
    let information = |gpu: PciAddress| {
        let minor = state.vgpu_node(gpu)?.strip_prefix("/dev/nvidia")?.to_owned();
        let uuid = Uuid::from_u128(u128::from(gpu.bus) + 1);
        let text = format!(
            "GPU UUID: \t GPU-{uuid}\nBus Type: \t PCIe\nBus Location: \t {gpu}\nDevice Minor: \t {minor}"
        );
        Some((format!("proc/driver/nvidia/gpus/{gpu}/information"), text))
    };
    state.vgpu_gpus().filter_map(information).collect()
}

/// The driver's nodes under `dev`.
pub(in crate::fake) fn nodes(state: &State) -> Vec<String> {
    let nodes: Vec<String> = state.vgpu_gpus().filter_map(|gpu| state.vgpu_node(gpu)).collect();
    let control = (!nodes.is_empty()).then(|| "/dev/nvidiactl".to_owned());
    nodes.into_iter().chain(control).map(|node| node["/dev/".len()..].to_owned()).collect()
}

fn names(names: impl IntoIterator<Item = String>) -> Option<Node> {
    Some(Node::Dir(Listing::Names(names.into_iter().collect())))
}
