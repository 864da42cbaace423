//! What views say about one GPU of four partitions and one VM, in the situations that people meet.

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::inventory::{
    Backend, Certainty, Domain, DomainState, Evidence, Gpu, Health, Holder, HostInventory, Hypervisor,
    Inventory, Iommu, MigrationFacts, ObservedPartition, OffReason, Offer, PartitionDevice, Sriov,
    SystemFacts,
};
use tranche_core::name::{GpuKey, PciAddress, PciIds, SlotKey, Timestamp, VmId, VmName};
use tranche_core::plan::{Booking, GpuPlan, Plan, VmGoal, VmPlan};
use tranche_core::spec::{GpuMode, GpuSpec, Request, Run, Spec, VmSource, VmSpec};
use tranche_core::step::VFIO_DRIVER;

use super::{
    GpuFigures, GpuStatus, PartitionFigures, PartitionState, Sources, VmFigures, VmState, gpu, gpus, host,
    hosts, overview, partitions, vm, vms,
};

/// A situation: node1 with one GPU in four, and VM `a` that asks for a partition.
struct Situation {
    spec: Spec,
    plan: Plan,
    inventory: Inventory,
    findings: Vec<Finding>,
}

fn key() -> GpuKey {
    "node1/0000:41:00.0".parse().unwrap()
}

fn slot(index: u16) -> SlotKey {
    format!("{}/{index}", key()).parse().unwrap()
}

fn name() -> VmName {
    "a".parse().unwrap()
}

fn id() -> VmId {
    VmId("6f2f9a52-3b0f-4b0e-8f6c-0d3a54d8a111".parse().unwrap())
}

fn offer(count: u16) -> Offer {
    Offer { count, profile: format!("1/{count}"), series: None, vram_mib: Some(16_384 / u64::from(count)) }
}

fn partition(index: u16) -> ObservedPartition {
    let address = PciAddress { domain: 0, bus: 0x41, device: 0, function: u8::try_from(index + 4).unwrap() };
    ObservedPartition {
        index: Some(index),
        device: PartitionDevice::Vf { address },
        driver: Some("vfio-pci".to_owned()),
        iommu_group: None,
        profile: None,
        mmio_mib: 0,
        open_by: Vec::new(),
        vram_mib: None,
        answers: true,
        telemetry: None,
        migration: None,
    }
}

fn observed_gpu() -> Gpu {
    Gpu {
        address: key().address,
        ids: PciIds { vendor: 0x10de, device: 0x25b6, subvendor: 0x10de, subdevice: 0x157e },
        unique_id: None,
        board: None,
        class: 0x03_0200,
        model: "A2".to_owned(),
        emulated: false,
        vram_mib: Some(16_384),
        driver: Some("nvidia".to_owned()),
        driver_version: None,
        numa_node: Some(0),
        iommu_group: None,
        bars: Vec::new(),
        reset_methods: vec!["flr".to_owned()],
        boot_vga: false,
        aer: None,
        health: Health::default(),
        telemetry: None,
        migration: None,
        backend: Some(Backend::SriovVfio),
        partition_driver: VFIO_DRIVER.to_owned(),
        sriov: Some(Sriov { total_vfs: 16, vfs: 4, autoprobe: false }),
        offers: vec![offer(2), offer(4)],
        partitions: (0..4).map(partition).collect(),
        mixed: Vec::new(),
        blanks: Vec::new(),
        reload: None,
        open_by: Vec::new(),
    }
}

fn domain(state: DomainState) -> Domain {
    Domain {
        name: "a".to_owned(),
        uuid: id().0,
        state,
        persistent: true,
        autostart: false,
        vcpus: 2,
        memory_mib: 512,
        live_devices: Vec::new(),
        defined_devices: Vec::new(),
        machine: None,
        blockers: std::collections::BTreeSet::new(),
        consoles: std::collections::BTreeSet::new(),
    }
}

const OFF: DomainState = DomainState::Off { reason: OffReason::Unknown };

fn wish() -> VmSpec {
    VmSpec {
        id: id(),
        source: VmSource::Adopted,
        request: Request::ANY_PARTITION,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: tranche_core::spec::Availability::default(),
        run: Run::Stopped,
        serial: 0,
        relocation: None,
        handover: None,
        created_at: Timestamp(0),
    }
}

/// VMs of these names, each of a team.
pub(crate) fn labelled(vms: &[(&str, &str)]) -> Spec {
    let mut spec = Spec::default();
    for (name, team) in vms {
        let labels = [("team".parse().unwrap(), team.parse().unwrap())].into();
        spec.vms.insert(name.parse().unwrap(), VmSpec { labels, ..wish() });
    }
    spec
}

impl Situation {
    /// The GPU is split and the VM is off.
    fn new() -> Self {
        let gpu = observed_gpu();
        let mode = GpuMode::Partitioned { count: 4, series: None };
        let mut spec = Spec::default();
        spec.gpus.insert(key(), GpuSpec { mode: mode.clone(), identity: gpu.identity(), reloads: 0 });
        spec.vms.insert(name(), wish());
        let mut plan = Plan::default();
        let planned = GpuPlan {
            mode,
            offer: Some(offer(4)),
            identity: gpu.identity(),
            host_drivers: Default::default(),
            sizes: Vec::new(),
            was_mixed: false,
            autoprobe_was_off: false,
            reloads: 0,
            reload: None,
        };
        plan.gpus.insert(key(), planned);
        let system = SystemFacts {
            kernel: "6.12".to_owned(),
            cpu_model: "cpu".to_owned(),
            cpu_features: std::collections::BTreeSet::new(),
            cpus: 8,
            memory_mib: 1024,
            iommu: Iommu::On { units: vec!["dmar0".to_owned()] },
            iommufd: false,
            watchdog: None,
            numa: Vec::new(),
        };
        let observed = HostInventory {
            host: key().host,
            boot_id: "boot".to_owned(),
            observed_at: Timestamp(1),
            system,
            hypervisor: Hypervisor::Up {
                libvirt: "11.3.0".to_owned(),
                qemu: "10.0.2".to_owned(),
                domains: [("a".to_owned(), domain(OFF))].into(),
                resources: None,
            },
            gpus: [(key().address, gpu)].into(),
            stuck: Vec::new(),
            notes: Vec::new(),
            progress: tranche_core::inventory::Progress::default(),
            pulse: None,
            unread: None,
        };
        let inventory = [(key().host, observed.into())].into();
        Self { spec, plan, inventory, findings: Vec::new() }
    }

    /// The VM shall run, by this decision; it holds partition 0 where it was decided that it runs.
    fn decided(mut self, goal: VmGoal) -> Self {
        self.spec.vms.get_mut(&name()).unwrap().run = Run::Running;
        self.plan.vms.insert(name(), VmPlan::new(key().host, id(), goal));
        if goal == VmGoal::Run {
            self.plan.bookings.insert(slot(0), Booking { vm: name(), vm_id: id(), since: Timestamp(0) });
        }
        self
    }

    fn with_domain(mut self, state: DomainState) -> Self {
        let observed = self.inventory.get_mut(&key().host).unwrap();
        if let Hypervisor::Up { domains, .. } = &mut observed.hypervisor {
            domains.insert("a".to_owned(), domain(state));
        }
        self
    }

    fn with_gpu(mut self, change: impl FnOnce(&mut Gpu)) -> Self {
        change(self.inventory.get_mut(&key().host).unwrap().gpus.get_mut(&key().address).unwrap());
        self
    }

    /// In every situation the figures are those that whoever reads the lists would count.
    fn sources(&self) -> Sources<'_> {
        let Self { spec, plan, inventory, findings } = self;
        let sources = Sources { spec, plan, inventory, findings };
        let figures = overview(&sources);
        let partitions = partitions(&sources);
        let partitions_are = |state| partitions.iter().filter(|partition| partition.state == state).count();
        let assigned = partitions.iter().filter(|partition| partition.vm.is_some()).count();
        let counted = PartitionFigures {
            total: partitions.len(),
            assigned,
            free: partitions_are(PartitionState::Free),
            lost: partitions_are(PartitionState::Lost),
        };
        assert_eq!(figures.partitions, counted);
        let vms = vms(&sources);
        let vms_are = |state| vms.iter().filter(|vm| vm.state == state).count();
        let counted = VmFigures {
            total: vms.len(),
            running: vms_are(VmState::Running),
            waiting: vms_are(VmState::Waiting),
            stopped: vms_are(VmState::Stopped),
            unknown: vms_are(VmState::Unknown),
        };
        assert_eq!(figures.vms, counted);
        let gpus = gpus(&sources);
        let modes_are = |is: fn(&GpuMode) -> bool| gpus.iter().filter(|gpu| is(&gpu.mode)).count();
        let counted = GpuFigures {
            total: gpus.len(),
            host: modes_are(|mode| *mode == GpuMode::Host),
            partitioned: modes_are(|mode| mode.partitions().is_some()),
            passthrough: modes_are(|mode| matches!(mode, GpuMode::Passthrough { .. })),
            broken: gpus.iter().filter(|gpu| gpu.status.is_broken()).count(),
        };
        assert_eq!(figures.gpus, counted);
        let hosts = hosts(&sources);
        assert_eq!((figures.hosts.total, figures.hosts.up), (hosts.len(), hosts.len()), "nobody is a member");
        sources
    }

    fn states(&self) -> Vec<PartitionState> {
        partitions(&self.sources()).iter().map(|partition| partition.state).collect()
    }

    fn vm_state(&self) -> VmState {
        vm(&self.sources(), &name()).unwrap().state
    }

    fn gpu_status(&self) -> GpuStatus {
        gpu(&self.sources(), &key()).unwrap().status
    }
}

#[test]
fn a_partition_is_free_booked_in_use_or_lost() {
    use PartitionState::{Booked, Free, InUse, Lost};
    assert_eq!(Situation::new().states(), [Free; 4]);
    let booked = Situation::new().decided(VmGoal::Run);
    assert_eq!(booked.states(), [Booked, Free, Free, Free]);
    let running = booked.with_domain(DomainState::Running);
    assert_eq!(running.states(), [InUse, Free, Free, Free]);
    let seen = vm(&running.sources(), &name()).unwrap();
    assert_eq!(
        (seen.device.as_deref(), seen.partition, seen.vram_mib),
        (Some("0000:41:00.4"), Some(0), Some(4096))
    );
    let lost = running.with_gpu(|gpu| drop(gpu.partitions.remove(0)));
    assert_eq!(lost.states(), [Lost, Free, Free, Free]);
}

#[test]
fn a_partition_that_strangers_use_or_made_is_foreign() {
    let used = Situation::new().with_gpu(|gpu| {
        gpu.partitions[2].open_by.push(Holder { pid: 7, command: "qemu".to_owned() });
    });
    assert_eq!(used.states()[2], PartitionState::Foreign);
    let made = Situation::new()
        .with_gpu(|gpu| gpu.partitions.push(ObservedPartition { index: None, ..partition(0) }));
    assert_eq!(made.states().len(), 5);
    assert_eq!(made.states()[4], PartitionState::Foreign);
}

#[test]
fn a_gpu_is_changing_until_all_its_partitions_are_ready() {
    assert_eq!(Situation::new().gpu_status(), GpuStatus::Partitioned);
    let unbound = Situation::new().with_gpu(|gpu| gpu.partitions[3].driver = None);
    assert_eq!(unbound.gpu_status(), GpuStatus::Changing);
    assert_eq!(unbound.states()[3], PartitionState::Unready);
    let sources = unbound.sources();
    assert_eq!(gpu(&sources, &key()).unwrap().free, 3);
    assert_eq!(host(&sources, &key().host).unwrap().partitions_free, 3);
}

#[test]
fn what_live_migration_rests_on_is_shown_once_and_of_partitions_that_differ() {
    let facts = |certainty| {
        let of = |certainty| Evidence::new(certainty, "a file");
        MigrationFacts {
            stop_copy: of(certainty),
            iommu_dirty_log: of(Certainty::Claimed),
            ..Default::default()
        }
    };
    assert_eq!(gpu(&Situation::new().sources(), &key()).unwrap().migration, None);
    let known = Situation::new().with_gpu(|gpu| {
        gpu.migration = Some(facts(Certainty::Proven));
        gpu.partitions[1].migration = Some(facts(Certainty::Refused));
        gpu.partitions.push(ObservedPartition { index: None, ..gpu.partitions[1].clone() });
    });
    let shown = gpu(&known.sources(), &key()).unwrap().migration.unwrap();
    assert_eq!((&shown.facts, shown.iommufd), (&facts(Certainty::Proven), false));
    assert!(!shown.certainty.is_likely(), "without iommufd nobody reads the IOMMU's log");
    let own = |view: &super::PartitionView| view.migration.as_ref().map(|own| own.certainty);
    let partitions: Vec<_> = partitions(&known.sources()).iter().map(own).collect();
    let refused = Some(Certainty::Refused);
    assert_eq!(partitions, [None, refused, None, None, refused]);
}

#[test]
fn a_gpu_that_nobody_spoke_for_says_what_it_could_be() {
    let idle = |change: fn(&mut Gpu)| {
        let mut situation = Situation::new().with_gpu(|gpu| gpu.partitions.clear()).with_gpu(change);
        situation.spec.gpus.clear();
        situation.plan.gpus.clear();
        situation.gpu_status()
    };
    assert_eq!(idle(|_| {}), GpuStatus::Partitionable);
    assert_eq!(idle(|gpu| gpu.offers.clear()), GpuStatus::Assignable);
    let no_vfs = |gpu: &mut Gpu| {
        gpu.offers.clear();
        gpu.sriov = Some(Sriov { total_vfs: 0, vfs: 0, autoprobe: true });
    };
    assert_eq!(idle(no_vfs), GpuStatus::SriovOff);
}

#[test]
fn a_gpu_that_is_gone_is_still_shown_and_so_is_one_of_a_silent_host() {
    let mut situation = Situation::new();
    situation.inventory.get_mut(&key().host).unwrap().gpus.clear();
    assert_eq!(situation.gpu_status(), GpuStatus::Gone);
    assert_eq!(situation.states(), [PartitionState::Unready; 4]);
    situation.inventory.clear();
    assert_eq!(situation.gpu_status(), GpuStatus::Unknown);
    assert_eq!(gpus(&situation.sources()).len(), 1);
}

#[test]
fn a_vm_is_what_its_domain_does_else_what_was_decided() {
    assert_eq!(Situation::new().vm_state(), VmState::Stopped);
    assert_eq!(Situation::new().decided(VmGoal::Run).vm_state(), VmState::Starting);
    assert_eq!(Situation::new().decided(VmGoal::Stop).vm_state(), VmState::Waiting);
    let running = || Situation::new().decided(VmGoal::Run).with_domain(DomainState::Running);
    assert_eq!(running().vm_state(), VmState::Running);
    assert_eq!(running().with_domain(DomainState::Paused).vm_state(), VmState::Paused);
    assert_eq!(running().with_domain(DomainState::ShuttingDown).vm_state(), VmState::Stopping);
    let mut stopping = running();
    stopping.spec.vms.get_mut(&name()).unwrap().run = Run::Stopped;
    assert_eq!(stopping.vm_state(), VmState::Stopping);
    let mut deleting = Situation::new();
    deleting.spec.vms.get_mut(&name()).unwrap().run = Run::Deleted;
    assert_eq!(deleting.vm_state(), VmState::Deleting);
}

#[test]
fn a_vm_that_its_guest_turned_off_is_stopped_and_not_waiting() {
    let mut situation = Situation::new().decided(VmGoal::Stop);
    situation.findings.push(say::guest_rests(&name(), OffReason::Shutdown));
    assert_eq!(situation.vm_state(), VmState::Stopped);
    assert_eq!(vm(&situation.sources(), &name()).unwrap().findings.len(), 1);
}

#[test]
fn nothing_is_said_of_vms_while_libvirt_is_silent() {
    let mut situation = Situation::new().decided(VmGoal::Run);
    let down = Hypervisor::Down { reason: "no answer".to_owned() };
    situation.inventory.get_mut(&key().host).unwrap().hypervisor = down;
    assert_eq!(situation.vm_state(), VmState::Unknown);
}

#[test]
fn a_domain_that_only_shares_the_name_is_not_the_vm() {
    let mut situation = Situation::new().decided(VmGoal::Leave).with_domain(DomainState::Running);
    situation.spec.vms.get_mut(&name()).unwrap().id = VmId(Default::default());
    assert_ne!(situation.vm_state(), VmState::Running);
}

#[test]
fn what_a_state_is_called_on_the_wire_is_what_it_prints() {
    for state in PartitionState::ALL {
        assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
    }
    for state in VmState::ALL {
        assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
    }
}
