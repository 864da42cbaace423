//! A stand-in for `sriov-manage`: the same words, the same all-or-nothing.
//!
//! In memory it is called; in a mounted tree it is a script that is run like the real one and reaches the same stand-in
//! through a file.

use rustix::io::Errno;
use tranche_core::inventory::Holder;
use tranche_core::name::PciAddress;

use super::super::FakeKernel;
use super::super::state::{Role, State};
use super::DRIVER;
use crate::tree::Ran;

/// Where it is.
pub(in crate::fake) const PATH: &str = "usr/lib/nvidia/sriov-manage";

/// The file takes the switch, waits like the tool, and then reads as its exit status and what it says. It is appended
/// to, because it cannot be shortened.
pub(super) const SCRIPT: &str = r#"#!/bin/sh
control="${0}.d/$2"
if [ ! -e "$control" ]; then
    echo "No such GPU: $2" >&2
    exit 1
fi
printf '%s' "$1" >> "$control" || exit 1
{ read -r status; cat; } < "$control"
exit "$status"
"#;

/// What the control file reads as.
pub(super) fn outcome(state: &State, pf: PciAddress) -> String {
    state
        .vgpus
        .ran
        .get(&pf)
        .map_or_else(|| "1\n".to_owned(), |ran| format!("{}\n{}", u8::from(!ran.success), ran.said))
}

/// Why the tool fails: its last words.
struct LastWords(String);

impl From<Errno> for LastWords {
    fn from(errno: Errno) -> Self {
        Self(errno.to_string())
    }
}

impl FakeKernel {
    /// Runs the tool with its arguments.
    pub(in crate::fake) fn run_sriov_manage(&self, arguments: &[&str]) -> Result<Ran, Errno> {
        match arguments {
            [switch, gpu] => match gpu.parse() {
                Ok(pf) => self.sriov_manage(switch, pf),
                Err(_) => Ok(failed(format!("No such GPU: {gpu}\n"))),
            },
            _ => Ok(failed("Usage: sriov-manage <-e|-d> <GPU>\n".to_owned())),
        }
    }

    /// Switches all virtual functions on or off, and remembers how that went.
    pub(super) fn sriov_manage(&self, switch: &str, pf: PciAddress) -> Result<Ran, Errno> {
        let mut said = String::new();
        let begun = self.with(|state| match state.vgpus.at_work {
            None => state.vgpus.at_work.replace(pf).is_none(),
            Some(_) => false,
        });
        // Whoever ends first takes the ids of both from pci-pf-stub.
        let disturbed =
            || Err(LastWords("/sys/bus/pci/drivers/pci-pf-stub/remove_id: No such device".to_owned()));
        let switched = if begun {
            self.switch_vfs(pf, |state| admit(state, switch.trim(), pf, &mut said))
        } else {
            disturbed()
        };
        if begun {
            self.with(|state| state.vgpus.at_work = None);
        }
        let ran = match switched {
            Ok(()) => Ran { success: true, said },
            Err(LastWords(words)) => failed(format!("{said}{words}\n")),
        };
        self.with(|state| state.vgpus.ran.insert(pf, ran.clone()));
        Ok(ran)
    }

    /// A process opens a node of NVIDIA's driver, as nvidia-smi does with `/dev/nvidia0`.
    pub fn open_node(&self, node: &str, by: &Holder) {
        self.with(|state| state.vgpus.nodes.push((node.to_owned(), by.clone())));
    }

    /// It closes all of them.
    pub fn close_nodes(&self, by: &Holder) {
        self.with(|state| state.vgpus.nodes.retain(|(_, holder)| holder.pid != by.pid));
    }

    /// From now on no function of the GPU can take any type: its lists are empty but for their header.
    pub fn offer_no_types(&self, pf: PciAddress) {
        self.with(|state| state.faults.vgpu.without_types.insert(pf));
    }

    /// When the function is given a type next, somebody else gives this type to that other function just before.
    pub fn race_for_types(&self, vf: PciAddress, other: PciAddress, id: u32) {
        self.with(|state| state.faults.vgpu.races.insert(vf, (other, id)));
    }

    /// NVIDIA's driver is unloaded and loaded again: virtual functions and what was on them are gone.
    ///
    /// # Panics
    /// When a VM has a virtual function open: the driver cannot be unloaded then.
    pub fn reload_nvidia_driver(&self) {
        self.with(|state| {
            for pf in state.vgpu_gpus().collect::<Vec<_>>() {
                assert!(!state.vf_in_use(pf), "rmmod: ERROR: Module nvidia is in use");
                state.switch(pf, 0);
            }
        });
    }
}

pub(super) fn failed(said: String) -> Ran {
    Ran { success: false, said }
}

/// Whether the tool goes to work, and how many functions it makes.
fn admit(state: &State, switch: &str, pf: PciAddress, said: &mut String) -> Result<Option<u16>, LastWords> {
    let refuse = |words: String| Err(LastWords(words));
    let function = state.functions.get(&pf).filter(|_| state.vgpu_model(pf).is_some());
    let Some(function) = function else { return refuse(format!("No such GPU: {pf}")) };
    let Role::Physical { model, enabled, .. } = &function.role else {
        return refuse(format!("GPU at {pf} does not support SR-IOV"));
    };
    if function.driver.as_deref() != Some(DRIVER) || state.faults.off_the_bus.contains(&pf) {
        return refuse(format!("GPU at {pf} is not managed by the NVIDIA driver"));
    }
    let node = state.vgpu_node(pf);
    if state.vgpus.nodes.iter().any(|(open, _)| Some(open) == node.as_ref()) {
        return refuse(format!("Cannot obtain unbindLock for {pf}"));
    }
    match (switch, *enabled) {
        ("-e", 0) => {
            said.push_str(&format!("Enabling VFs on {pf}\n"));
            match state.faults.refusals.get(&pf) {
                Some(errno) => refuse(format!("/sys/bus/pci/devices/{pf}/sriov_numvfs: {errno}")),
                None => Ok(Some(model.total_vfs)),
            }
        }
        ("-e", _) => {
            said.push_str(&format!("GPU at {pf} already has VFs enabled.\n"));
            Ok(None)
        }
        ("-d", _) => {
            said.push_str(&format!("Disabling VFs on {pf}\n"));
            Ok(Some(0))
        }
        _ => refuse("Usage: sriov-manage <-e|-d> <GPU>".to_owned()),
    }
}
