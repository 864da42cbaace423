//! VMs, behind one coarse trait: what the hypervisor says, and the steps that concern VMs.
//!
//! Tranche writes no hypervisor. The real one is libvirt's QEMU driver ([`libvirt`]); the one for tests and simulators
//! is a model of it ([`fake`]). Both make, read and edit the same XML ([`xml`]), so that they do not drift apart.
//!
//! Nothing here decides: which VM starts when, and with which device, stands in the step. Nothing here touches the
//! kernel either: devices are bound before they are put into a VM.

pub mod fake;
pub mod kvm;
#[cfg(feature = "libvirt")]
pub mod libvirt;
mod refusal;
#[cfg(feature = "libvirt")]
mod seed;
#[cfg(feature = "libvirt")]
mod shared;
mod ways;
pub mod xml;

pub use self::ways::{Way, Ways};

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::history::Reading;
use tranche_core::inventory::{self, Console};
use tranche_core::journey::Sent;
use tranche_core::name::{HostName, VmId, VmName};
use tranche_core::step::Step;

/// What a hypervisor knows of VMs that go to other hosts while they run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Travels {
    /// Whether it can send them, and take them in.
    pub able: bool,
    /// Those for which it has made ready what they need when they arrive.
    pub expects: BTreeSet<VmName>,
    /// Those that it sends or has sent.
    pub sent: BTreeMap<VmName, Sent>,
    /// How much memory the guests change that run here, in MiB/s, where that was measured.
    pub dirty_mib_s: BTreeMap<VmName, u32>,
    /// What the way to another host carried for the last VM that was sent there, in MiB/s.
    pub links_mib_s: BTreeMap<HostName, u32>,
    /// How long the machine of the last VM that was sent took to end here, in milliseconds, after QEMU had handed the guest over.
    pub end_ms: Option<u32>,
}

/// The VMs of a host.
pub trait Hypervisor: Send + Sync + std::fmt::Debug {
    /// Every domain, or why nothing is known of them. Never blocks for longer than a limit.
    fn observe(&self) -> inventory::Hypervisor;

    /// What is known of VMs that go to other hosts while they run. One that is not asked this sends none. Asks nobody.
    fn travels(&self) -> Travels {
        Travels::default()
    }

    /// What is amiss with the hypervisor of this host, beside what [`Hypervisor::observe`] says. Asks nobody.
    fn notes(&self, _host: &HostName) -> Vec<Finding> {
        Vec::new()
    }

    /// Opens a console of a VM that runs. What is read from the stream is what the guest shows, and what is written to it is what it
    /// is told; it ends when either side closes it. With `force`, whoever has the serial console is cut off. One that is not asked
    /// this lends none.
    ///
    /// # Errors
    /// The VM does not run or has no such console, somebody else has it, or the hypervisor does not answer.
    fn open_console(
        &self,
        vm: &VmName,
        _id: VmId,
        console: Console,
        _force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        Err(Box::new(say::console_missing(vm, console)))
    }

    /// How busy the guests are that run. One that is not asked this tells nothing. Never blocks for longer than a limit.
    fn usage(&self) -> BTreeMap<VmName, Reading> {
        BTreeMap::new()
    }

    /// Carries out a step about a VM and reads its effect back. Repeating a step that was carried out is no error.
    ///
    /// # Errors
    /// The finding carries the hypervisor's own message and says what to do about it. A step that is not about a VM
    /// is refused.
    fn apply(&self, step: &Step) -> Result<(), Box<Finding>>;
}
