//! A host that lives: the real planner and the real host code over the fake kernel, in memory and mounted.

use std::any::Any;
use std::sync::Arc;

use tranche_core::change::{Change, NewVm, Refusal, State, admit};
use tranche_core::check;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{Gpu, Inventory};
use tranche_core::name::{GpuKey, HostName, Timestamp, VmId, VmName};
use tranche_core::plan::Plan;
use tranche_core::planner;
use tranche_core::spec::{Firmware, GpuMode, Request, Spec, VmHardware, VolumeRef};
use tranche_core::steps::steps;
use tranche_host::Host as _;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::tree::Tree;
use tranche_host::vm::fake::FakeHypervisor;
use uuid::Uuid;

use crate::machine::{PATIENT, at};

/// Passes after which a host has settled, or never will.
const PASSES_MAX: usize = 40;

/// A host with what was asked for and what was decided.
pub(crate) struct Life {
    pub(crate) kernel: Arc<FakeKernel>,
    pub(crate) findings: Vec<Finding>,
    hypervisor: Arc<FakeHypervisor>,
    host: LinuxHost,
    spec: Spec,
    plan: Plan,
    inventory: Inventory,
    now: Timestamp,
    _mounted: Box<dyn Any>,
}

/// Tells a story on a machine in memory, and again on one that is mounted.
pub(crate) fn on_both_faces(machine: &Machine, story: impl Fn(&mut Life)) {
    story(&mut Life::in_memory(machine.clone()));
    #[cfg(feature = "fuse")]
    {
        let kernel = Arc::new(FakeKernel::boot(machine.clone()));
        let mounted = crate::trees::mount(&kernel);
        let tree: Arc<dyn Tree> = Arc::<tranche_host::tree::DirTree>::clone(&mounted.tree);
        story(&mut Life::begin(kernel, tree, Box::new(mounted)));
    }
}

impl Life {
    pub(crate) fn in_memory(machine: Machine) -> Self {
        let kernel = Arc::new(FakeKernel::boot(machine));
        let tree: Arc<dyn Tree> = Arc::<FakeKernel>::clone(&kernel);
        Self::begin(kernel, tree, Box::new(()))
    }

    fn begin(kernel: Arc<FakeKernel>, tree: Arc<dyn Tree>, mounted: Box<dyn Any>) -> Self {
        let hypervisor = Arc::new(FakeHypervisor::new(Arc::<FakeKernel>::clone(&kernel)));
        let vms = Box::new(Arc::clone(&hypervisor));
        let host = LinuxHost::new(host_name(), tree, PATIENT, Arc::new(Catalogue::builtin()), vms);
        let mut life = Self {
            kernel,
            findings: Vec::new(),
            hypervisor,
            host,
            spec: Spec::default(),
            plan: Plan::default(),
            inventory: Inventory::new(),
            now: Timestamp(1),
            _mounted: mounted,
        };
        life.settle();
        life
    }

    /// Takes a wish and does what follows.
    pub(crate) fn wish(&mut self, change: &Change) -> Result<(), Refusal> {
        self.now.0 += 1;
        let state = State { spec: &self.spec, plan: &self.plan, inventory: &self.inventory };
        self.spec = admit(change, state, VmId(Uuid::from_u128(u128::from(self.now.0))), self.now)?.spec;
        self.settle();
        Ok(())
    }

    #[track_caller]
    pub(crate) fn set_mode(&mut self, gpu: &str, mode: GpuMode) {
        let change = Change::SetGpuMode { gpu: key(gpu), mode };
        self.wish(&change).expect("the mode is taken");
    }

    #[track_caller]
    pub(crate) fn refuses_mode(&mut self, gpu: &str, mode: GpuMode, code: Code) -> Vec<Finding> {
        let refusal =
            self.wish(&Change::SetGpuMode { gpu: key(gpu), mode }).expect_err("the mode is refused");
        assert!(refusal.iter().any(|finding| finding.code == code), "{code} is not among {refusal:#?}");
        refusal
    }

    /// Takes a wish whose step fails, and returns what that said.
    #[track_caller]
    pub(crate) fn failure_of(&mut self, change: &Change, code: Code) -> Finding {
        self.wish(change).expect("it is admitted");
        self.finding(code).unwrap_or_else(|| panic!("{code} is not among {:#?}", self.findings)).clone()
    }

    /// Makes a VM that asks for something, and starts it.
    #[track_caller]
    pub(crate) fn start_new(&mut self, name: &str, request: Request) {
        let vm = NewVm {
            hardware: hardware(),
            request,
            reserved: false,
            labels: tranche_core::label::Labels::new(),
            prefer_numa_node: None,
            availability: tranche_core::spec::Availability::default(),
        };
        self.wish(&Change::CreateVm { name: vm_name(name), vm }).expect("the VM is made");
        self.start(name);
    }

    #[track_caller]
    pub(crate) fn start(&mut self, name: &str) {
        self.wish(&Change::StartVm { name: vm_name(name) }).expect("the start is accepted");
    }

    #[track_caller]
    pub(crate) fn stop(&mut self, name: &str) {
        self.wish(&Change::StopVm { name: vm_name(name), force: true }).expect("the stop is accepted");
    }

    pub(crate) fn runs(&self, name: &str) -> bool {
        self.inventory[&host_name()].domain(&vm_name(name)).is_some_and(|domain| domain.state.is_active())
    }

    /// Power is lost and comes back.
    pub(crate) fn reboot(&mut self) {
        self.hypervisor.lose_power();
        self.kernel.reboot();
        self.settle();
    }

    pub(crate) fn gpu(&self, gpu: &str) -> &Gpu {
        &self.inventory[&host_name()].gpus[&at(gpu)]
    }

    pub(crate) fn finding(&self, code: Code) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.code == code)
    }

    /// Looks, decides and acts until nothing is due. What fails stays due, and is what the story is about.
    pub(crate) fn settle(&mut self) {
        for _ in 0..PASSES_MAX {
            self.now.0 += 1;
            let seen = self.host.observe(self.now);
            self.inventory.insert(host_name(), seen.into());
            let planned = planner::plan(&self.spec, &self.inventory, &self.plan, self.now);
            assert_eq!(check::check(&planned.plan), [], "the plan violates an invariant");
            (self.plan, self.findings) = (planned.plan, planned.findings);
            for name in planned.gone {
                self.spec.vms.remove(&name);
            }
            let due = steps(&self.spec, &self.plan, &self.inventory[&host_name()]);
            let (done, failed): (Vec<_>, Vec<_>) =
                due.iter().map(|step| self.host.apply(step, self.now)).partition(Result::is_ok);
            self.findings.extend(failed.into_iter().filter_map(Result::err).map(|finding| *finding));
            if done.is_empty() {
                return;
            }
        }
        panic!("it does not settle: {:#?}", self.findings);
    }
}

pub(crate) fn partitioned(count: u16) -> GpuMode {
    GpuMode::Partitioned { count, series: None }
}

fn host_name() -> HostName {
    "node1".parse().expect("a host name")
}

fn vm_name(name: &str) -> VmName {
    name.parse().expect("a VM name")
}

pub(crate) fn key(gpu: &str) -> GpuKey {
    GpuKey { host: host_name(), address: at(gpu) }
}

fn hardware() -> VmHardware {
    VmHardware {
        vcpus: 2,
        memory_mib: 512,
        disks: vec![VolumeRef { pool: "default".to_owned(), volume: "disk.img".to_owned() }],
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: None,
        cloud_init: None,
    }
}
