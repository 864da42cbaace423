//! AMD's driver gim on the fake kernel: virtual functions that are there from boot, and only another load of the driver
//! changes their number.
//!
//! Facts: amd/MxGPU-Virtualization; `sriov_numvfs` refuses as with every driver that does not switch through sysfs.

use std::collections::BTreeMap;

use serde::Deserialize;
use tranche_core::name::PciAddress;

use super::FakeKernel;
use super::state::{Role, State};
use crate::modules::server;

pub(super) const DRIVER: &str = "gim";
/// What the driver shows of how a GPU is divided.
pub(super) const ATTRIBUTES: [&str; 3] =
    ["accelerator_partition_profile", "memory_partition_mode", "spatial_partition_mode"];

/// A GPU of the driver gim.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GimModel {
    /// The physical function.
    pub gpu: PciAddress,
    /// The module parameter: how many virtual functions it makes.
    pub vf_num: u16,
    /// What the driver shows of how the GPU is divided, by attribute.
    #[serde(default)]
    pub modes: BTreeMap<String, String>,
}

impl State {
    /// What loading the driver does.
    pub(super) fn load_gim(&mut self) {
        for model in self.machine.gim.clone() {
            let bound = |state: &Self| state.functions.get(&model.gpu)?.driver.clone();
            if bound(self).as_deref() == Some(DRIVER) {
                self.switch(model.gpu, model.vf_num);
            }
        }
    }

    /// Unloads the driver, unless something of it is in use.
    pub(super) fn unload_gim(&mut self) -> bool {
        let gpus: Vec<PciAddress> = self.machine.gim.iter().map(|model| model.gpu).collect();
        if gpus.iter().any(|gpu| self.vf_in_use(*gpu)) {
            return false;
        }
        for gpu in gpus {
            if self.functions.get(&gpu).is_some_and(|function| function.driver.as_deref() == Some(DRIVER)) {
                self.switch(gpu, 0);
                self.unbind(gpu);
            }
        }
        true
    }

    /// The driver takes its GPUs that no other one has.
    pub(super) fn bind_gim(&mut self) {
        for model in self.machine.gim.clone() {
            self.probe(model.gpu);
        }
    }

    /// Loads the driver with what `modprobe.d` says; the parameter stays the driver's own until it does.
    pub(super) fn load_gim_as_configured(&mut self) {
        let options = self.signs.files.get(server::OPTIONS);
        let told = options.and_then(|text| text.split("vf_num=").nth(1)?.trim().parse::<u16>().ok());
        for model in self.machine.gim.clone() {
            let bound = self.functions.get(&model.gpu).and_then(|function| function.driver.as_deref());
            if bound == Some(DRIVER) {
                self.switch(model.gpu, 0);
                let most = self.most_vfs(model.gpu);
                self.switch(model.gpu, told.unwrap_or(model.vf_num).min(most));
            }
        }
    }

    fn most_vfs(&self, pf: PciAddress) -> u16 {
        match self.functions.get(&pf).map(|function| &function.role) {
            Some(Role::Physical { model, .. }) => model.total_vfs,
            _ => 0,
        }
    }

    /// One of the driver's own attributes.
    pub(super) fn gim_attribute(&self, pf: PciAddress, name: &str) -> Option<&str> {
        let model = self.machine.gim.iter().find(|model| model.gpu == pf)?;
        let bound = self.functions.get(&pf)?.driver.as_deref() == Some(DRIVER);
        model.modes.get(name).filter(|_| bound).map(String::as_str)
    }
}

impl FakeKernel {
    /// Somebody unloads the driver and loads it again with another parameter, which is not kept over a reboot.
    ///
    /// # Panics
    /// When a VM has a virtual function open: a person who does that pulls it out of the guest.
    pub fn reload_gim(&self, vf_num: u16) {
        self.with(|state| {
            assert!(state.unload_gim(), "rmmod: ERROR: Module gim is in use");
            state.machine.gim.iter_mut().for_each(|model| model.vf_num = vf_num);
            state.bind_gim();
            state.load_gim();
        });
    }
}
