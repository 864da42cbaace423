//! This machine, behind one coarse trait: observe it, and carry out a step.
//!
//! Only this room knows sysfs, libvirt and vendors. It decides nothing: [`tranche_core`] says which step is due, and a
//! step leaves nothing to choose. The same code runs on a real `/sys`, on a captured tree, and on the fake kernel.

pub mod calls;
pub mod catalogue;
pub mod conformance;
pub mod fake;
pub mod fence;
pub mod linux;
pub mod migration;
pub mod modules;
pub mod monitor;
pub mod nvml;
pub mod tree;
pub mod vm;
pub mod watchdog;

mod bind;
mod board;
mod discover;
mod gim;
mod health;
mod host_use;
mod i915;
mod identity;
mod inspect;
mod kernel_log;
mod library;
mod mdev;
mod passthrough;
mod report;
mod sriov;
mod usage;
mod variant;
mod vgpu;
mod xe;

pub use inspect::{catalogue_note, inspect};
pub use usage::MakeUp;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::history::{Measured, Reading};
use tranche_core::inventory::{Console, HostInventory};
use tranche_core::name::{GpuAddress, Timestamp, VmId, VmName};
use tranche_core::step::Step;

use crate::catalogue::Catalogue;

/// A host, real or fake.
pub trait Host: Send + Sync + std::fmt::Debug {
    /// Looks at everything. What cannot be read is named in the inventory's notes; this cannot fail.
    ///
    /// Never blocks for longer than the limits on single kernel calls.
    fn observe(&self, now: Timestamp) -> HostInventory;

    /// Looks again at these GPUs, and at VMs; everything else is as in `last`, the look before. For the moment after steps
    /// that changed nothing else. A host that has no shorter way looks at everything.
    fn observe_again(
        &self,
        _gpus: &BTreeSet<GpuAddress>,
        _last: &HostInventory,
        now: Timestamp,
    ) -> HostInventory {
        self.observe(now)
    }

    /// The kernel's boot id, as [`HostInventory::boot_id`] will say it. A host that is not asked this has none.
    fn boot_id(&self) -> String {
        String::new()
    }

    /// What it knows of GPUs before it looks at one. A host that is not asked this knows nothing.
    fn catalogue(&self) -> Arc<Catalogue> {
        Arc::default()
    }

    /// Opens a console of a VM that runs here: see [`vm::Hypervisor::open_console`]. A host that is not asked this lends none.
    ///
    /// # Errors
    /// The finding says why there is none now.
    fn open_console(
        &self,
        vm: &VmName,
        _id: VmId,
        console: Console,
        _force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        Err(Box::new(say::console_missing(vm, console)))
    }

    /// How busy its GPUs, partitions and VMs are, for histories: what is known of GPUs from the last look, and VMs as they are asked for
    /// this. A host that is not asked this tells nothing.
    ///
    /// Never blocks for longer than a limit, and is not called by the loop that looks.
    fn usage(&self, _now: Timestamp) -> BTreeMap<Measured, Reading> {
        BTreeMap::new()
    }

    /// Carries out one step and reads its effect back. Repeating a step that was carried out is no error.
    ///
    /// # Errors
    /// The finding says which call failed on what, and what to do about it.
    fn apply(&self, step: &Step, now: Timestamp) -> Result<(), Box<Finding>>;
}
