//! AMD's driver gim on the fake kernel: virtual functions that are there from boot, and only another load of the driver
//! changes their number.
//!
//! Facts: amd/MxGPU-Virtualization; `sriov_numvfs` refuses as with every driver that does not switch through sysfs.

use std::collections::BTreeMap;

use serde::Deserialize;
use tranche_core::name::PciAddress;

use super::FakeKernel;
use super::state::State;

const DRIVER: &str = "gim";
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

    /// One of the driver's own attributes.
    pub(super) fn gim_attribute(&self, pf: PciAddress, name: &str) -> Option<&str> {
        let model = self.machine.gim.iter().find(|model| model.gpu == pf)?;
        let bound = self.functions.get(&pf)?.driver.as_deref() == Some(DRIVER);
        model.modes.get(name).filter(|_| bound).map(String::as_str)
    }
}

impl FakeKernel {
    /// The driver is unloaded and loaded again with another parameter.
    ///
    /// # Panics
    /// When a VM has a virtual function open: a person who does that pulls it out of the guest.
    pub fn reload_gim(&self, vf_num: u16) {
        self.with(|state| {
            for model in state.machine.gim.clone() {
                assert!(!state.vf_in_use(model.gpu), "rmmod: ERROR: Module gim is in use");
                state.switch(model.gpu, 0);
            }
            state.machine.gim.iter_mut().for_each(|model| model.vf_num = vf_num);
            state.load_gim();
        });
    }
}
