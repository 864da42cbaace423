//! A host with NVIDIA GPUs, and the loop of a daemon around it: observe, plan, act, without anything stored.

use std::sync::Arc;

use tranche_core::change::{Change, NewVm, State, admit};
use tranche_core::check;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{DeviceSource, Gpu, Hypervisor, Inventory, PartitionDevice};
use tranche_core::name::{GpuKey, HostName, PciAddress, Timestamp, VmId, VmName};
use tranche_core::plan::Plan;
use tranche_core::planner;
use tranche_core::spec::{Firmware, GpuMode, Request, Spec, VmHardware, VolumeRef};
use tranche_core::step::{Step, StepSubject};
use tranche_core::steps::steps;
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::nvml::NvidiaMonitor;
use tranche_host::tree::Tree;
use tranche_host::vm::fake::FakeHypervisor;
use uuid::Uuid;

use crate::library::{Library, Watched};
use crate::machine::{PATIENT, at};

/// More passes than anything takes.
const PASSES_MAX: usize = 60;

/// A host, and what a daemon on it would know.
pub(crate) struct World {
    pub(crate) kernel: Arc<FakeKernel>,
    pub(crate) hypervisor: Arc<FakeHypervisor>,
    pub(crate) host: LinuxHost,
    pub(crate) plan: Plan,
    pub(crate) findings: Vec<Finding>,
    tree: Arc<dyn Tree>,
    monitor: Option<Arc<NvidiaMonitor>>,
    limits: Limits,
    spec: Spec,
    inventory: Inventory,
    now: Timestamp,
    /// Keeps the tree mounted; dropped last.
    #[cfg(feature = "fuse")]
    _mounted: Option<crate::trees::MountedTree>,
}

fn name() -> HostName {
    "node1".parse().unwrap()
}

pub(crate) fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

pub(crate) fn key(gpu: &str) -> GpuKey {
    GpuKey { host: name(), address: at(gpu) }
}

fn attend(tree: &Arc<dyn Tree>, hypervisor: &Arc<FakeHypervisor>, limits: Limits) -> LinuxHost {
    let catalogue = Arc::new(Catalogue::builtin());
    LinuxHost::new(name(), Arc::clone(tree), limits, catalogue, Box::new(Arc::clone(hypervisor)))
}

impl World {
    pub(crate) fn new(machine: Machine) -> Self {
        let kernel = Arc::new(FakeKernel::boot(machine));
        let tree = Arc::<FakeKernel>::clone(&kernel);
        Self::over(kernel, tree, PATIENT)
    }

    /// The same with the vendor's library; it is not open while anything is written or run.
    pub(crate) fn with_library(machine: Machine, limits: Limits, library: &Library) -> Self {
        let kernel = Arc::new(FakeKernel::boot(machine));
        let tree = Arc::new(Watched { tree: Arc::clone(&kernel), library: library.clone() });
        let mut world = Self::over(kernel, tree, limits);
        world.monitor = Some(library.monitor());
        world.restart_daemon();
        world
    }

    /// A machine in memory, and again behind a mounted tree.
    pub(crate) fn on_both_faces(machine: &Machine) -> impl Iterator<Item = Self> {
        let in_memory = std::iter::once_with(|| Self::new(machine.clone()));
        #[cfg(feature = "fuse")]
        let in_memory = in_memory.chain(std::iter::once_with(|| Self::mounted(machine.clone())));
        in_memory
    }

    /// The same through a mounted tree: every read, write and run is a system call.
    #[cfg(feature = "fuse")]
    pub(crate) fn mounted(machine: Machine) -> Self {
        let kernel = Arc::new(FakeKernel::boot(machine));
        let mounted = crate::trees::mount(&kernel);
        let tree = Arc::<tranche_host::tree::DirTree>::clone(&mounted.tree);
        Self { _mounted: Some(mounted), ..Self::over(kernel, tree, PATIENT) }
    }

    fn over(kernel: Arc<FakeKernel>, tree: Arc<dyn Tree>, limits: Limits) -> Self {
        let hypervisor = Arc::new(FakeHypervisor::new(Arc::<FakeKernel>::clone(&kernel)));
        let host = attend(&tree, &hypervisor, limits);
        Self {
            kernel,
            hypervisor,
            host,
            plan: Plan::default(),
            findings: Vec::new(),
            tree,
            monitor: None,
            limits,
            spec: Spec::default(),
            inventory: Inventory::default(),
            now: Timestamp(1),
            #[cfg(feature = "fuse")]
            _mounted: None,
        }
    }

    /// The same with other limits on calls.
    pub(crate) fn impatient(self, limits: Limits) -> Self {
        let host = attend(&self.tree, &self.hypervisor, limits);
        Self { host, limits, ..self }
    }

    /// The daemon ends and starts again: it has its plan, and remembers nothing else.
    pub(crate) fn restart_daemon(&mut self) {
        let host = attend(&self.tree, &self.hypervisor, self.limits);
        self.host = match &self.monitor {
            Some(monitor) => host.with_monitor(Arc::<NvidiaMonitor>::clone(monitor)),
            None => host,
        };
    }

    /// Time goes by, so that what is remembered for a while is asked for again.
    pub(crate) fn later(&mut self, ms: u64) {
        self.now.0 += ms;
    }

    /// Power is lost and comes back, and with it the daemon.
    pub(crate) fn reboot(&mut self) {
        self.hypervisor.lose_power();
        self.kernel.reboot();
        self.restart_daemon();
    }

    /// Looks at the host, decides, and returns what is due.
    pub(crate) fn pass(&mut self) -> Vec<Step> {
        self.now.0 += 1;
        let seen = self.host.observe(self.now);
        self.inventory = Inventory::from([(name(), seen.into())]);
        let planned = planner::plan(&self.spec, &self.inventory, &self.plan, self.now);
        assert_eq!(check::check(&planned.plan), [], "the plan violates an invariant");
        (self.plan, self.findings) = (planned.plan, planned.findings);
        for gone in planned.gone {
            self.spec.vms.remove(&gone);
        }
        steps(&self.spec, &self.plan, &self.inventory[&name()])
    }

    /// One turn: what is due is done; the first failure on a subject ends its row. Returns the failures.
    pub(crate) fn turn(&mut self) -> (usize, Vec<Finding>) {
        let due = self.pass();
        let mut failed: Vec<(StepSubject, Finding)> = Vec::new();
        for step in &due {
            if failed.iter().any(|(subject, _)| *subject == step.subject()) {
                continue;
            }
            if let Err(finding) = self.host.apply(step, self.now) {
                assert!(finding.message.ends_with('.') && finding.hint.ends_with('.'), "{finding}");
                failed.push((step.subject(), *finding));
            }
        }
        (due.len(), failed.into_iter().map(|(_, finding)| finding).collect())
    }

    /// Turns until nothing is due; nothing may fail.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        for _ in 0..PASSES_MAX {
            match self.turn() {
                (0, _) => return,
                (_, failed) => assert_eq!(failed, [], "a step failed"),
            }
        }
        panic!("it does not settle: {:#?}", self.pass());
    }

    /// One turn in which a step fails, with this code.
    #[track_caller]
    pub(crate) fn fails(&mut self, code: Code) -> Finding {
        let (_, failed) = self.turn();
        match &failed[..] {
            [finding] if finding.code == code => finding.clone(),
            other => panic!("one step should fail with {code}: {other:#?}"),
        }
    }

    pub(crate) fn submit(&mut self, change: &Change) -> Result<(), Vec<Finding>> {
        self.pass();
        let fresh = VmId(Uuid::from_u128(u128::from(self.now.0)));
        let state = State { spec: &self.spec, plan: &self.plan, inventory: &self.inventory };
        self.spec = admit(change, state, fresh, self.now)?.spec;
        Ok(())
    }

    #[track_caller]
    pub(crate) fn accepts(&mut self, change: &Change) {
        self.submit(change).expect("the change is accepted");
    }

    #[track_caller]
    pub(crate) fn refuses(&mut self, change: &Change, code: Code) -> Finding {
        let refusal = self.submit(change).expect_err("the change is refused");
        let found = refusal.iter().find(|finding| finding.code == code);
        found.unwrap_or_else(|| panic!("{code} is not among {refusal:#?}")).clone()
    }

    /// Sets a mode, and carries it out.
    #[track_caller]
    pub(crate) fn set_mode(&mut self, gpu: &str, mode: GpuMode) {
        self.accepts(&Change::SetGpuMode { gpu: key(gpu), mode });
        self.settle();
    }

    #[track_caller]
    pub(crate) fn split(&mut self, gpu: &str, count: u16, series: Option<&str>) {
        self.set_mode(gpu, partitioned(count, series));
    }

    /// Makes a VM that asks for a partition.
    #[track_caller]
    pub(crate) fn create(&mut self, name: &str, request: Request) {
        let hardware = VmHardware {
            vcpus: 2,
            memory_mib: 512,
            disks: vec![VolumeRef { pool: "default".to_owned(), volume: "disk.img".to_owned() }],
            networks: Vec::new(),
            firmware: Firmware::Bios,
            guest_os: Some("ubuntu22.04".to_owned()),
            cloud_init: None,
        };
        let new = NewVm {
            hardware,
            request,
            reserved: false,
            labels: tranche_core::label::Labels::new(),
            prefer_numa_node: None,
            availability: tranche_core::spec::Availability::default(),
        };
        self.accepts(&Change::CreateVm { name: vm(name), vm: new });
        self.settle();
    }

    #[track_caller]
    pub(crate) fn start(&mut self, name: &str) {
        self.accepts(&Change::StartVm { name: vm(name) });
        self.settle();
        assert!(self.runs(name), "VM {name} does not run: {:#?}", self.findings);
    }

    #[track_caller]
    pub(crate) fn stop(&mut self, name: &str) {
        self.accepts(&Change::StopVm { name: vm(name), force: true });
        self.settle();
        assert!(!self.runs(name));
    }

    pub(crate) fn runs(&mut self, name: &str) -> bool {
        self.pass();
        let Hypervisor::Up { domains, .. } =
            &self.inventory[&"node1".parse::<HostName>().unwrap()].hypervisor
        else {
            panic!("the hypervisor is up")
        };
        domains.get(name).is_some_and(|domain| domain.state.is_active())
    }

    /// What the hypervisor calls a VM.
    pub(crate) fn uuid(&mut self, of: &str) -> Uuid {
        self.pass();
        let domain = self.inventory[&self::name()].domain(&vm(of));
        domain.expect("the VM is defined").uuid
    }

    pub(crate) fn gpu(&mut self, gpu: &str) -> Gpu {
        self.pass();
        self.inventory[&name()].gpus[&at(gpu)].clone()
    }

    /// The profiles of the partitions, by index.
    pub(crate) fn profiles(&mut self, gpu: &str) -> Vec<(u16, String)> {
        let told = |profile: Option<String>| profile.unwrap_or_else(|| "?".to_owned());
        let partitions = self.gpu(gpu).partitions;
        partitions.into_iter().map(|p| (p.index.expect("ours"), told(p.profile))).collect()
    }

    /// The function that a VM has open.
    #[track_caller]
    pub(crate) fn opened(&self) -> DeviceSource {
        let opened = self.kernel.opened();
        assert_eq!(opened.len(), 1, "{opened:?}");
        opened[0].0.clone()
    }

    pub(crate) fn notes(&self) -> &[Finding] {
        &self.inventory[&name()].notes
    }

    pub(crate) fn read(&self, path: &str) -> String {
        self.tree.text(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Somebody runs the vendor's tool by hand.
    pub(crate) fn run(&self, arguments: &[&str]) {
        let ran = self.tree.run("usr/lib/nvidia/sriov-manage", arguments).expect("the tool is there");
        assert!(ran.success, "{ran:?}");
    }

    pub(crate) fn write(&self, path: &str, value: &str) -> Result<(), i32> {
        self.tree.write(path, value).map_err(|error| error.raw_os_error().expect("an errno"))
    }
}

pub(crate) fn partitioned(count: u16, series: Option<&str>) -> GpuMode {
    GpuMode::Partitioned { count, series: series.map(str::to_owned) }
}

pub(crate) const PASSTHROUGH: GpuMode = GpuMode::Passthrough { allow_console: false, pool: None };

/// The virtual function that is the partition with an index.
#[track_caller]
pub(crate) fn function(gpu: &Gpu, index: u16) -> PciAddress {
    let typed = gpu.partitions.iter().find(|partition| partition.index == Some(index));
    let blank = gpu.blanks.iter().find(|blank| blank.index == index).map(|blank| blank.address);
    let vf = typed.and_then(|partition| match partition.device {
        PartitionDevice::Vf { address } => Some(address),
        PartitionDevice::Mdev { .. } => None,
    });
    vf.or(blank).unwrap_or_else(|| panic!("no function {index}: {gpu:?}"))
}
