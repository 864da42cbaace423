//! A stand-in for what `nvidia-smi` knows of mixed sizes: the same words, the same order in which alone it works.
//!
//! As with the other tool ([`super::tool`]), in a mounted tree a script reaches it through the same file.

use tranche_core::name::PciAddress;

use super::super::FakeKernel;
use super::super::state::{Role, State};
use super::{DRIVER, tool};
use crate::tree::Ran;

/// Where it is.
pub(in crate::fake) const PATH: &str = "usr/bin/nvidia-smi";

/// `nvidia-smi -q -i GPU` and `nvidia-smi vgpu -i GPU -shm 0|1`.
pub(super) const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
-q) gpu="$3" switch="-q" ;;
*) gpu="$3" switch="$4 $5" ;;
esac
control="${0%/bin/*}/lib/nvidia/sriov-manage.d/$gpu"
if [ ! -e "$control" ]; then
    echo "No devices were found" >&2
    exit 6
fi
printf '%s' "$switch" >> "$control" || exit 1
{ read -r status; cat; } < "$control"
exit "$status"
"#;

/// Whether what was written to the scripts' file is for this tool.
pub(super) fn is_switch(written: &str) -> bool {
    let written = written.trim();
    written == "-q" || written.starts_with("-shm")
}

impl FakeKernel {
    /// Runs the tool with its arguments.
    pub(in crate::fake) fn run_smi(&self, arguments: &[&str]) -> Ran {
        let (gpu, switch) = match arguments {
            ["-q", "-i", gpu] => (gpu, "-q".to_owned()),
            ["vgpu", "-i", gpu, "-shm", value] => (gpu, format!("-shm {value}")),
            _ => return tool::failed("Invalid combination of input arguments.\n".to_owned()),
        };
        match gpu.parse() {
            Ok(pf) => self.smi(&switch, pf),
            Err(_) => tool::failed("No devices were found\n".to_owned()),
        }
    }

    /// Carries a switch out, and remembers how that went.
    pub(super) fn smi(&self, switch: &str, pf: PciAddress) -> Ran {
        self.with(|state| {
            let ran = carry_out(state, switch.trim(), pf);
            state.vgpus.ran.insert(pf, ran.clone());
            ran
        })
    }

    /// The GPU takes equal types only: it is older than those that can do more.
    pub fn offer_no_mixed_sizes(&self, pf: PciAddress) {
        self.with(|state| state.faults.vgpu.without_mixed.insert(pf));
    }
}

fn carry_out(state: &mut State, switch: &str, pf: PciAddress) -> Ran {
    let driver = state.functions.get(&pf).and_then(|function| function.driver.as_deref());
    if driver != Some(DRIVER) || state.vgpu_model(pf).is_none() || state.faults.off_the_bus.contains(&pf) {
        return tool::failed("No devices were found\n".to_owned());
    }
    let succeeded = |said: String| Ran { success: true, said };
    let can = !state.faults.vgpu.without_mixed.contains(&pf);
    let on = match switch {
        "-q" if can => {
            let mode = if state.vgpus.mixed.contains(&pf) { "Enabled" } else { "Disabled" };
            return succeeded(format!(
                "    vGPU Device Capability\n        Heterogeneous Time-Slice Sizes    : Supported\n    \
                 GPU Virtualization Mode\n        vGPU Heterogeneous Mode           : {mode}\n"
            ));
        }
        "-q" => {
            return succeeded(
                "        Heterogeneous Time-Slice Sizes    : Not Supported\n        \
                 vGPU Heterogeneous Mode           : N/A\n"
                    .to_owned(),
            );
        }
        "-shm 1" => true,
        "-shm 0" => false,
        _ => return tool::failed("Invalid combination of input arguments.\n".to_owned()),
    };
    if !can {
        return tool::failed(format!("Setting vGPU heterogeneous mode is not supported for GPU {pf}\n"));
    }
    if has_types(state, pf) {
        return tool::failed(format!("Unable to set vGPU heterogeneous mode for GPU {pf}: In use\n"));
    }
    if on {
        state.vgpus.mixed.insert(pf);
    } else {
        state.vgpus.mixed.remove(&pf);
    }
    let switched = if on { "Enabled" } else { "Disabled" };
    succeeded(format!("{switched} vGPU heterogeneous mode for GPU {pf}\n"))
}

fn has_types(state: &State, pf: PciAddress) -> bool {
    let Some(Role::Physical { vfs, .. }) = state.functions.get(&pf).map(|function| &function.role) else {
        return false;
    };
    let has_mdev = |vf: &PciAddress| state.mdevs.values().any(|mdev| mdev.parent.pci() == Some(*vf));
    vfs.values().any(|vf| state.current_type(*vf) != 0 || has_mdev(vf))
}
