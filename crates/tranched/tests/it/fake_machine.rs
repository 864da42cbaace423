//! A fake kernel and a fake hypervisor behind the real code of the host, for tests that outlive a daemon.

use std::sync::Arc;

use tranche_core::change::NewVm;
use tranche_core::name::HostName;
use tranche_core::spec::{Firmware, Request, VmHardware};
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::vm::fake::FakeHypervisor;
use tranched::config::{Config, HistoryConfig};
use tranched::history::History;

/// The history of a host, which writes nothing.
pub(crate) fn forgetful(name: &str, host: Arc<dyn Host>) -> History {
    let history = HistoryConfig { days: 0, ..HistoryConfig::default() };
    History::new(&Config { history, ..Config::default() }, name.parse().unwrap(), host, None)
}

/// A machine that can be observed, acted on, and tampered with.
#[derive(Debug, Clone)]
pub(crate) struct FakeMachine {
    name: HostName,
    kernel: Arc<FakeKernel>,
    hypervisor: Arc<FakeHypervisor>,
}

impl FakeMachine {
    pub(crate) fn new(name: HostName, machine: Machine) -> Self {
        let kernel = Arc::new(FakeKernel::boot(machine));
        let hypervisor = Arc::new(FakeHypervisor::new(kernel.clone()));
        Self { name, kernel, hypervisor }
    }

    /// The host as a freshly started daemon sees it.
    pub(crate) fn host(&self) -> Arc<dyn Host> {
        self.host_with(Limits::default())
    }

    /// The same, with other limits on kernel calls.
    pub(crate) fn host_with(&self, limits: Limits) -> Arc<dyn Host> {
        let hypervisor = Box::new(self.hypervisor.clone());
        let catalogue = Arc::new(Catalogue::builtin());
        Arc::new(LinuxHost::new(self.name.clone(), self.kernel.clone(), limits, catalogue, hypervisor))
    }

    pub(crate) fn kernel(&self) -> &FakeKernel {
        &self.kernel
    }

    pub(crate) fn hypervisor(&self) -> &FakeHypervisor {
        &self.hypervisor
    }
}

/// A small VM that asks for so much.
pub(crate) fn new_vm(request: Request) -> NewVm {
    let hardware = VmHardware {
        vcpus: 1,
        memory_mib: 128,
        disks: Vec::new(),
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: None,
        cloud_init: None,
    };
    NewVm {
        hardware,
        request,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: tranche_core::spec::Availability::default(),
    }
}
