//! A machine without a kernel: GPUs that are split at a word, and domains that start at one.
//!
//! Steps take effect at once and faithfully. One that a real machine would refuse is an error; one that would hang, hurt a
//! guest or that no right plan asks for is a violation besides.

use std::collections::BTreeMap;

use tranche_core::identity::GpuIdentity;
use tranche_core::inventory::{
    Backend, Certainty, DeviceSource, Domain, DomainState, Evidence, Gpu, GroupMember, Health, Holder,
    HostDevice, HostInventory, Hypervisor, Iommu, IommuGroup, MigrationFacts, ObservedPartition, OffReason,
    Offer, PartitionDevice, Progress, Sriov, SystemFacts,
};
use tranche_core::name::{GpuAddress, GpuKey, HostName, PciAddress, Slot, SlotKey, Timestamp, VmId, VmName};
use tranche_core::spec::VmHardware;
use tranche_core::step::{Step, StepSubject, VFIO_DRIVER, VmDevice};

use crate::transfer::arriving;

/// How many partitions a GPU can have.
const PARTITIONS_MAX: u16 = 16;
/// A GPU's video memory in MiB.
const VRAM_MIB: u64 = 16_384;

/// A machine's hardware and hypervisor, as long as it is on.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    name: HostName,
    boots: u32,
    memory_mib: u64,
    gpus: BTreeMap<GpuAddress, Gpu>,
    pub(crate) domains: BTreeMap<String, Domain>,
    pub(crate) libvirt_down: bool,
}

/// Why a step was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) why: String,
    /// Whether only a wrong plan can have asked for it.
    pub(crate) is_wrong: bool,
}

/// Something that happens to right plans, too.
pub(crate) fn refused(why: &str) -> Refused {
    Refused { why: why.to_owned(), is_wrong: false }
}

fn wrong(why: impl Into<String>) -> Refused {
    Refused { why: why.into(), is_wrong: true }
}

impl Model {
    pub(crate) fn new(name: HostName, gpus: u8, memory_mib: u64, travels: bool) -> Self {
        let gpus =
            (1..=gpus).map(|bus| (GpuAddress::Pci(function(bus, 0)), model_gpu(bus, travels))).collect();
        Self { name, boots: 0, memory_mib, gpus, domains: BTreeMap::new(), libvirt_down: false }
    }

    pub(crate) fn boot_id(&self) -> String {
        format!("{}-{}", self.name, self.boots)
    }

    /// What a GPU is.
    pub(crate) fn identity(&self, gpu: &GpuAddress) -> Option<GpuIdentity> {
        self.gpus.get(gpu).map(Gpu::identity)
    }

    /// Power is lost: what runs is gone, and what is only in memory.
    pub(crate) fn lose_power(&mut self) {
        // What was still arriving has no definition here.
        self.domains.retain(|_, domain| domain.state != DomainState::Arriving);
        for domain in self.domains.values_mut() {
            domain.state = DomainState::Off { reason: OffReason::Unknown };
            domain.live_devices.clear();
        }
        for gpu in self.gpus.values_mut() {
            gpu.partitions.clear();
            gpu.open_by.clear();
            if let Some(sriov) = gpu.sriov.as_mut() {
                sriov.vfs = 0;
            }
        }
        self.boots += 1;
    }

    pub(crate) fn observe(&self, now: Timestamp) -> HostInventory {
        let hypervisor = if self.libvirt_down {
            Hypervisor::Down { reason: "connection refused".to_owned() }
        } else {
            Hypervisor::Up {
                libvirt: "11.3.0".to_owned(),
                qemu: "10.0.2".to_owned(),
                domains: self.domains.clone(),
                resources: None,
            }
        };
        HostInventory {
            host: self.name.clone(),
            boot_id: self.boot_id(),
            observed_at: now,
            system: SystemFacts {
                kernel: "6.12.0".to_owned(),
                cpu_model: "model".to_owned(),
                cpu_features: std::collections::BTreeSet::new(),
                cpus: 64,
                memory_mib: self.memory_mib,
                iommu: Iommu::On { units: vec!["dmar0".to_owned()] },
                iommufd: false,
                watchdog: None,
                numa: Vec::new(),
            },
            hypervisor,
            gpus: self.gpus.clone(),
            stuck: Vec::new(),
            notes: Vec::new(),
            progress: Progress::default(),
            pulse: None,
            unread: None,
        }
    }

    /// Carries out a step.
    pub(crate) fn apply(&mut self, step: &Step) -> Result<(), Refused> {
        if self.libvirt_down && matches!(step.subject(), StepSubject::Vm(_)) {
            return Err(refused("connection refused"));
        }
        match step {
            Step::EnableVfs { gpu, count } => self.enable_vfs(gpu, *count),
            Step::DisableVfs { gpu, .. } => {
                let gpu = self.gpu(gpu)?;
                if gpu.partitions.iter().any(|partition| !partition.open_by.is_empty()) {
                    return Err(wrong("disabling functions in use hangs"));
                }
                gpu.partitions.clear();
                gpu.sriov.iter_mut().for_each(|sriov| sriov.vfs = 0);
                Ok(())
            }
            Step::BindPartition { gpu, index, driver, .. } => {
                for partition in self.gpu(gpu)?.partitions.iter_mut().filter(|one| one.index == Some(*index))
                {
                    if !partition.open_by.is_empty() && partition.driver.as_ref() != Some(driver) {
                        return Err(wrong("taking the driver from a function in use hangs"));
                    }
                    partition.driver = Some(driver.clone());
                }
                Ok(())
            }
            Step::TakeGpu { gpu, .. } => {
                let gpu = self.gpu(gpu)?;
                if !gpu.open_by.is_empty() || !gpu.partitions.is_empty() {
                    return Err(wrong("a GPU in use is passed through"));
                }
                bind(gpu, VFIO_DRIVER);
                Ok(())
            }
            Step::ReturnGpu { gpu, .. } => {
                let gpu = self.gpu(gpu)?;
                if !gpu.open_by.is_empty() {
                    return Err(wrong("a GPU in use is given back"));
                }
                bind(gpu, "model");
                Ok(())
            }
            Step::SetProfile { .. }
            | Step::SetMixedSizes { .. }
            | Step::ReloadDriver { .. }
            | Step::CreateMdev { .. }
            | Step::RemoveMdev { .. } => Err(wrong("the model has no such hardware")),
            Step::DefineVm { .. }
            | Step::PutDevices { .. }
            | Step::StartVm { .. }
            | Step::ShutDownVm { .. }
            | Step::KillVm { .. }
            | Step::ResumeVm { .. }
            | Step::UndefineVm { .. } => self.apply_to_vm(step),
            Step::ExpectVm { .. } | Step::SendVm { .. } | Step::CallOffVm { .. } => {
                Err(wrong("one machine alone sends nothing"))
            }
        }
    }

    fn apply_to_vm(&mut self, step: &Step) -> Result<(), Refused> {
        match step {
            Step::DefineVm { vm, id, hardware } => {
                if self.domains.get(vm.as_str()).is_some_and(|domain| domain.uuid != id.0) {
                    return Err(refused("there is another domain of that name"));
                }
                self.domains.entry(vm.to_string()).or_insert_with(|| model_domain(vm, *id, hardware));
                Ok(())
            }
            Step::PutDevices { vm, devices, .. } => {
                let domain = self.domain(vm)?;
                domain.defined_devices.retain(|device| !device.ours);
                let put =
                    devices.iter().map(|device| HostDevice { source: device.source.clone(), ours: true });
                domain.defined_devices.extend(put);
                Ok(())
            }
            Step::StartVm { vm, .. } => self.start(vm),
            Step::ShutDownVm { vm, .. } => self.end(vm.as_str(), OffReason::Shutdown),
            Step::KillVm { vm, .. } => self.end(vm.as_str(), OffReason::Destroyed),
            Step::ResumeVm { vm, .. } => {
                self.resume(vm);
                Ok(())
            }
            Step::UndefineVm { vm, .. } => {
                if self.domain(vm)?.state.is_active() {
                    return Err(wrong("a running domain is undefined"));
                }
                self.domains.remove(vm.as_str());
                Ok(())
            }
            _ => Err(wrong("this is no step of a VM")),
        }
    }

    fn enable_vfs(&mut self, gpu: &GpuAddress, count: u16) -> Result<(), Refused> {
        let bus = gpu.pci().map(|address| address.bus).unwrap_or_default();
        let gpu = self.gpu(gpu)?;
        if gpu.driver.as_deref() == Some(VFIO_DRIVER) {
            return Err(wrong("a GPU that is passed through is split"));
        }
        let Some(sriov) = gpu.sriov.as_mut() else { return Err(wrong("there is no SR-IOV")) };
        if sriov.vfs != 0 && sriov.vfs != count {
            return Err(wrong("the number of functions changes while there are some: EBUSY"));
        }
        if sriov.vfs == 0 {
            sriov.vfs = count;
            gpu.partitions = (0..count).map(|index| model_partition(bus, index)).collect();
        }
        Ok(())
    }

    /// Starts a domain as libvirt does: every device must be there, on the right driver, and free.
    fn start(&mut self, vm: &VmName) -> Result<(), Refused> {
        let domain = self.domain(vm)?;
        if domain.state.is_active() {
            return Ok(());
        }
        let devices = domain.defined_devices.clone();
        self.open(vm, &devices)?;
        let domain = self.domain(vm)?;
        domain.live_devices = devices;
        domain.state = DomainState::Running;
        Ok(())
    }

    fn open(&mut self, vm: &VmName, devices: &[HostDevice]) -> Result<(), Refused> {
        for device in devices {
            let (driver, wanted, holders) =
                self.holders(&device.source).ok_or_else(|| wrong("a device is not there: ENODEV"))?;
            if driver != wanted {
                return Err(wrong(format!("{:?} is on {driver}", device.source)));
            }
            if !holders.is_empty() {
                return Err(wrong(format!("{:?} is in use: EBUSY", device.source)));
            }
        }
        for device in devices {
            if let Some((_, _, holders)) = self.holders(&device.source) {
                holders.push(Holder { pid: 42, command: format!("qemu-{vm}") });
            }
        }
        Ok(())
    }

    /// Takes in a domain that is being sent here, with devices of this machine.
    pub(crate) fn arrive(&mut self, domain: &Domain, devices: &[VmDevice]) -> Result<(), Refused> {
        let domain = arriving(domain, devices);
        let vm: VmName = domain.name.parse().map_err(|_| wrong("its name is none"))?;
        match self.domains.get(vm.as_str()) {
            Some(there) if there.state.is_active() => return Err(wrong("it is sent where it is")),
            Some(there) if there.uuid != domain.uuid => {
                return Err(refused("there is another domain of that name"));
            }
            _ => {}
        }
        self.open(&vm, &domain.live_devices)?;
        self.domains.insert(vm.to_string(), domain);
        Ok(())
    }

    /// All of a domain is here. It stands still.
    pub(crate) fn become_whole(&mut self, vm: &VmName) {
        if let Some(domain) = self.domains.get_mut(vm.as_str()) {
            (domain.state, domain.persistent) = (DomainState::Paused, true);
        }
    }

    /// Lets a domain go on that stands still. Says whether it did.
    pub(crate) fn resume(&mut self, vm: &VmName) -> bool {
        let stands = self.domains.get_mut(vm.as_str()).filter(|domain| domain.state == DomainState::Paused);
        stands.is_some_and(|domain| {
            domain.state = DomainState::Running;
            true
        })
    }

    /// Ends a domain that was being sent here, and is not whole.
    pub(crate) fn forget_arrival(&mut self, vm: &VmName) {
        let arrives = |domain: &Domain| domain.state == DomainState::Arriving;
        if self.domains.get(vm.as_str()).is_some_and(arrives) {
            let _ = self.end(vm.as_str(), OffReason::Destroyed);
            self.domains.remove(vm.as_str());
        }
    }

    /// Ends a domain. One without a definition is gone then.
    pub(crate) fn end(&mut self, name: &str, reason: OffReason) -> Result<(), Refused> {
        let domain = self.domains.get_mut(name).ok_or_else(|| wrong("no domain of that name"))?;
        if !domain.state.is_active() {
            return Ok(());
        }
        domain.state = DomainState::Off { reason };
        let devices = std::mem::take(&mut domain.live_devices);
        for device in devices {
            if let Some((_, _, holders)) = self.holders(&device.source) {
                holders.retain(|holder| holder.command != format!("qemu-{name}"));
            }
        }
        self.domains.retain(|_, domain| domain.persistent || domain.state.is_active());
        Ok(())
    }

    /// The driver that a device has, the one that it needs, and who has it open.
    fn holders(&mut self, source: &DeviceSource) -> Option<(String, String, &mut Vec<Holder>)> {
        for gpu in self.gpus.values_mut() {
            if gpu.address.pci().map(|address| DeviceSource::Pci { address }).as_ref() == Some(source) {
                let driver = gpu.driver.clone().unwrap_or_default();
                return Some((driver, VFIO_DRIVER.to_owned(), &mut gpu.open_by));
            }
            for partition in &mut gpu.partitions {
                if DeviceSource::from(&partition.device) == *source {
                    let driver = partition.driver.clone().unwrap_or_default();
                    return Some((driver, gpu.partition_driver.clone(), &mut partition.open_by));
                }
            }
        }
        None
    }

    /// What a device is in the plan's words.
    pub(crate) fn slot_of(&self, source: &DeviceSource) -> Option<SlotKey> {
        self.gpus.values().find_map(|gpu| {
            let whole = gpu.address.pci().map(|address| DeviceSource::Pci { address });
            let is_it = |partition: &&ObservedPartition| DeviceSource::from(&partition.device) == *source;
            let slot = if whole.as_ref() == Some(source) {
                Slot::Whole
            } else {
                Slot::Partition(gpu.partitions.iter().find(is_it)?.index?)
            };
            let gpu = GpuKey { host: self.name.clone(), address: gpu.address.clone() };
            Some(SlotKey { gpu, slot })
        })
    }

    fn gpu(&mut self, address: &GpuAddress) -> Result<&mut Gpu, Refused> {
        self.gpus.get_mut(address).ok_or_else(|| wrong(format!("there is no GPU {address}")))
    }

    fn domain(&mut self, vm: &VmName) -> Result<&mut Domain, Refused> {
        self.domains.get_mut(vm.as_str()).ok_or_else(|| wrong(format!("there is no domain {vm}")))
    }
}

fn function(bus: u8, index: u16) -> PciAddress {
    let function = u8::try_from(index & 7).unwrap_or_default();
    let device = u8::try_from(index >> 3 & 0x1f).unwrap_or_default();
    PciAddress { domain: 0, bus, device, function }
}

fn bind(gpu: &mut Gpu, driver: &str) {
    gpu.driver = Some(driver.to_owned());
    for member in gpu.iommu_group.iter_mut().flat_map(|group| &mut group.members) {
        member.driver = Some(driver.to_owned());
        member.driver_override = Some(driver.to_owned()).filter(|driver| driver == VFIO_DRIVER);
    }
}

fn member(address: PciAddress, driver: Option<&str>) -> GroupMember {
    GroupMember { address, class: 0x03_0200, driver: driver.map(ToOwned::to_owned), driver_override: None }
}

fn model_gpu(bus: u8, travels: bool) -> Gpu {
    let offer = |count: u16| Offer {
        count,
        profile: format!("1/{count}"),
        series: None,
        vram_mib: Some(VRAM_MIB / u64::from(count)),
    };
    Gpu {
        address: GpuAddress::Pci(function(bus, 0)),
        ids: "1af4:00aa:1af4:0001".parse().expect("they are ids"),
        unique_id: None,
        board: None,
        class: 0x03_0200,
        model: "Model GPU".to_owned(),
        emulated: true,
        vram_mib: Some(VRAM_MIB),
        driver: Some("model".to_owned()),
        driver_version: None,
        numa_node: Some(u16::from(bus % 2)),
        iommu_group: Some(IommuGroup {
            id: u32::from(bus),
            members: vec![member(function(bus, 0), Some("model"))],
        }),
        bars: Vec::new(),
        reset_methods: vec!["flr".to_owned()],
        boot_vga: false,
        aer: None,
        health: Health::default(),
        telemetry: None,
        migration: travels.then(travelling),
        backend: Some(Backend::SriovVfio),
        partition_driver: VFIO_DRIVER.to_owned(),
        sriov: Some(Sriov { total_vfs: PARTITIONS_MAX, vfs: 0, autoprobe: true }),
        offers: [1, 2, 4, 8, PARTITIONS_MAX].map(offer).to_vec(),
        partitions: Vec::new(),
        mixed: Vec::new(),
        blanks: Vec::new(),
        reload: None,
        open_by: Vec::new(),
    }
}

/// What a device can whose VM can be sent while it runs.
fn travelling() -> MigrationFacts {
    let proven = || Evidence::new(Certainty::Proven, "the model");
    MigrationFacts {
        stop_copy: proven(),
        pre_copy: proven(),
        p2p: proven(),
        device_dirty_log: proven(),
        iommu_dirty_log: Evidence::default(),
    }
}

fn model_partition(bus: u8, index: u16) -> ObservedPartition {
    let address = function(bus + 0x40, index);
    ObservedPartition {
        index: Some(index),
        device: PartitionDevice::Vf { address },
        driver: None,
        iommu_group: Some(IommuGroup { id: 100 + u32::from(index), members: vec![member(address, None)] }),
        profile: None,
        mmio_mib: 0,
        open_by: Vec::new(),
        vram_mib: None,
        answers: true,
        telemetry: None,
        migration: None,
    }
}

fn model_domain(name: &VmName, id: VmId, hardware: &VmHardware) -> Domain {
    Domain {
        name: name.to_string(),
        uuid: id.0,
        state: DomainState::Off { reason: OffReason::Unknown },
        persistent: true,
        autostart: false,
        vcpus: hardware.vcpus,
        memory_mib: hardware.memory_mib,
        live_devices: Vec::new(),
        defined_devices: Vec::new(),
        machine: None,
        blockers: std::collections::BTreeSet::new(),
        consoles: std::collections::BTreeSet::new(),
    }
}
