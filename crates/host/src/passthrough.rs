//! The whole GPU for one VM (what Hyper-V calls DDA): every function of its IOMMU group goes along.
//!
//! The group is the smallest set of functions that can be isolated, so a GPU's sound and USB functions are taken with
//! it; bridges stay with the host. Which functions, and which drivers they had, stands in the step.

use std::collections::BTreeMap;

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::PciAddress;
use tranche_core::step::VFIO_DRIVER;

use crate::bind;
use crate::calls::GpuCalls;
use crate::discover::function;

/// Binds functions to vfio-pci, the GPU itself first. A GPU that still has virtual functions is not taken.
pub(crate) fn take(calls: &GpuCalls<'_>, functions: &[PciAddress]) -> Result<(), Box<Finding>> {
    for &address in functions {
        let vfs = function::virtual_functions(calls.tree(), &function::dir(address)).len();
        if vfs > 0 {
            let has = format!("partitioned ({vfs} virtual functions)");
            return Err(Box::new(say::mode_conflict(calls.gpu(), &has, "passed through")));
        }
    }
    // All of them before the first is taken: half a group serves neither the host nor a VM.
    for &address in functions {
        let driver = function::driver(calls.tree(), &function::dir(address));
        if driver.is_some_and(|driver| driver != VFIO_DRIVER) {
            bind::refuse_if_open(calls, address)?;
        }
    }
    let (own, others) = split(calls, functions);
    own.chain(others).try_for_each(|&address| bind::to(calls, address, VFIO_DRIVER))
}

/// Gives functions back to the drivers that they had, the GPU itself last: while that is not back, nothing is forgotten.
pub(crate) fn give_back(
    calls: &GpuCalls<'_>,
    functions: &BTreeMap<PciAddress, Option<String>>,
) -> Result<(), Box<Finding>> {
    let addresses: Vec<PciAddress> = functions.keys().copied().collect();
    let (own, others) = split(calls, &addresses);
    others.chain(own).try_for_each(|address| bind::back(calls, *address, functions[address].as_deref()))
}

/// The GPU itself, and what goes along with it.
fn split<'a>(
    calls: &GpuCalls<'_>,
    functions: &'a [PciAddress],
) -> (impl Iterator<Item = &'a PciAddress>, impl Iterator<Item = &'a PciAddress>) {
    let own = calls.gpu().address.pci();
    let is_own = move |address: &&PciAddress| Some(**address) == own;
    (functions.iter().filter(is_own), functions.iter().filter(move |address| !is_own(address)))
}
