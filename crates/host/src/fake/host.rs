//! A whole host without hardware: the real code over the fake kernel and the fake hypervisor.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tranche_core::finding::Finding;
use tranche_core::inventory::{self, Console, HostInventory};
use tranche_core::name::{GpuAddress, HostName, Timestamp, VmId, VmName};
use tranche_core::step::Step;

use super::{FakeKernel, FakeProber};
use crate::Host;
use crate::calls::Limits;
use crate::catalogue::Catalogue;
use crate::linux::LinuxHost;
use crate::vm::fake::FakeHypervisor;
use crate::vm::{Hypervisor, Travels};
use crate::watchdog::fake::{FakeWatchdog, Model};

/// A fake host.
#[derive(Debug)]
pub struct FakeHost {
    /// Its kernel.
    pub kernel: Arc<FakeKernel>,
    /// Its hypervisor, whose VMs open devices in the kernel.
    pub hypervisor: Arc<FakeHypervisor>,
    /// Its watchdog, which resets it when time is passed by [`Self::pass_time`].
    pub watchdog: FakeWatchdog,
    /// What its partitions are asked through.
    pub prober: Arc<FakeProber>,
    host: LinuxHost,
}

impl FakeHost {
    /// Puts a host together around a kernel that has booted.
    pub fn new(name: HostName, kernel: FakeKernel, catalogue: Arc<Catalogue>, limits: Limits) -> Self {
        let kernel = Arc::new(kernel);
        let hypervisor = Arc::new(FakeHypervisor::new(Arc::<FakeKernel>::clone(&kernel)));
        let vms = Box::new(Arc::clone(&hypervisor));
        let prober = Arc::new(FakeProber::new(Arc::clone(&kernel)));
        let host = LinuxHost::new(name, Arc::<FakeKernel>::clone(&kernel), limits, catalogue, vms)
            .with_prober(Arc::<FakeProber>::clone(&prober));
        Self { kernel, hypervisor, watchdog: FakeWatchdog::new(Model::default()), prober, host }
    }

    /// Power is lost and comes back: no VM runs, and what the kernel does not keep is gone.
    pub fn reboot(&self) {
        self.hypervisor.lose_power();
        self.watchdog.reset();
        self.kernel.reboot();
    }

    /// Virtual time goes on to this, in milliseconds. True if the watchdog has reset the host on the way.
    pub fn pass_time(&self, now_ms: u64) -> bool {
        let fired = self.watchdog.advance_to(now_ms);
        if fired {
            self.reboot();
        }
        fired
    }
}

impl Host for FakeHost {
    fn observe(&self, now: Timestamp) -> HostInventory {
        self.host.observe(now)
    }

    fn observe_again(
        &self,
        gpus: &BTreeSet<GpuAddress>,
        last: &HostInventory,
        now: Timestamp,
    ) -> HostInventory {
        self.host.observe_again(gpus, last, now)
    }

    fn catalogue(&self) -> Arc<Catalogue> {
        self.host.catalogue()
    }

    fn open_console(
        &self,
        vm: &VmName,
        id: VmId,
        console: Console,
        force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        self.host.open_console(vm, id, console, force)
    }

    fn apply(&self, step: &Step, now: Timestamp) -> Result<(), Box<Finding>> {
        self.host.apply(step, now)
    }
}

impl Hypervisor for Arc<FakeHypervisor> {
    fn travels(&self) -> Travels {
        (**self).travels()
    }

    fn observe(&self) -> inventory::Hypervisor {
        self.as_ref().observe()
    }

    fn open_console(
        &self,
        vm: &VmName,
        id: VmId,
        console: Console,
        force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        self.as_ref().open_console(vm, id, console, force)
    }

    fn apply(&self, step: &Step) -> Result<(), Box<Finding>> {
        self.as_ref().apply(step)
    }
}
