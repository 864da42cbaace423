//! A model of hosts that carries out steps at once and faithfully, and complains when a step would hurt.

use std::collections::{BTreeMap, BTreeSet};

use tranche_core::change::{Change, NewVm, Refusal, State, admit};
use tranche_core::check;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::*;
use tranche_core::mixed::{self, MixedSize};
use tranche_core::name::*;
use tranche_core::plan::Plan;
use tranche_core::planner::{self, Memory, Planned};
use tranche_core::spec::*;
use tranche_core::step::{Step, VFIO_DRIVER};
use tranche_core::steps::steps;
use uuid::Uuid;

use crate::fleet::model_domain;

/// Spec, plan and one modelled host.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) name: HostName,
    pub(crate) spec: Spec,
    pub(crate) plan: Plan,
    pub(crate) inventory: Inventory,
    pub(crate) findings: Vec<Finding>,
    pub(crate) now: Timestamp,
    /// GPUs whose partitions may be of several sizes.
    mixed: BTreeSet<GpuAddress>,
    next_id: u128,
    memory: Memory,
}

pub(crate) fn host() -> HostName {
    "node1".parse().unwrap()
}

pub(crate) fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

pub(crate) fn gpu(bus: u8) -> GpuKey {
    GpuKey { host: host(), address: GpuAddress::Pci(pf(bus)) }
}

fn pf(bus: u8) -> PciAddress {
    PciAddress { domain: 0, bus, device: 0, function: 0 }
}

pub(crate) fn vf(bus: u8, index: u16) -> PciAddress {
    let rid = 0x80 + index;
    let device = u8::try_from(rid >> 3 & 0x1f).unwrap();
    PciAddress { domain: 0, bus: bus + 0x10, device, function: u8::try_from(rid & 7).unwrap() }
}

pub(crate) fn partitioned(count: u16) -> GpuMode {
    GpuMode::Partitioned { count, series: None }
}

pub(crate) const PASSTHROUGH: GpuMode = GpuMode::Passthrough { allow_console: false, pool: None };

pub(crate) fn hardware() -> VmHardware {
    VmHardware {
        vcpus: 2,
        memory_mib: 512,
        disks: vec![VolumeRef { pool: "default".to_owned(), volume: "disk.img".to_owned() }],
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: Some("ubuntu22.04".to_owned()),
        cloud_init: None,
    }
}

impl World {
    /// One host, `node1` or of that name, with so many GPUs, on buses 1, 2, …; each offers 1 to 8 partitions. Odd buses are on NUMA node 1.
    pub(crate) fn with_gpus(count: u8) -> Self {
        Self::named(host(), count)
    }

    pub(crate) fn named(name: HostName, count: u8) -> Self {
        let gpus = (1..=count).map(|bus| (GpuAddress::Pci(pf(bus)), model_gpu(bus))).collect();
        let seen = HostInventory {
            host: name.clone(),
            boot_id: "boot-0".to_owned(),
            observed_at: Timestamp(0),
            system: SystemFacts {
                kernel: "6.12.0".to_owned(),
                cpu_model: "model".to_owned(),
                cpu_features: std::collections::BTreeSet::new(),
                cpus: 8,
                memory_mib: 65_536,
                iommu: Iommu::On { units: vec!["dmar0".to_owned()] },
                iommufd: false,
                watchdog: None,
                numa: Vec::new(),
            },
            hypervisor: Hypervisor::Up {
                libvirt: "11.3.0".to_owned(),
                qemu: "10.0.2".to_owned(),
                domains: BTreeMap::new(),
                resources: None,
            },
            gpus,
            stuck: Vec::new(),
            notes: Vec::new(),
            progress: Progress::default(),
            pulse: None,
            unread: None,
        };
        Self {
            name: name.clone(),
            spec: Spec::default(),
            plan: Plan::default(),
            inventory: Inventory::from([(name, seen.into())]),
            findings: Vec::new(),
            now: Timestamp(1),
            mixed: BTreeSet::new(),
            next_id: 1,
            memory: Memory::default(),
        }
    }

    pub(crate) fn seen(&mut self) -> &mut HostInventory {
        self.inventory.get_mut(&self.name).unwrap()
    }

    pub(crate) fn gpu(&mut self, bus: u8) -> &mut Gpu {
        self.seen().gpus.get_mut(&GpuAddress::Pci(pf(bus))).unwrap()
    }

    pub(crate) fn domains(&mut self) -> &mut BTreeMap<String, Domain> {
        match &mut self.seen().hypervisor {
            Hypervisor::Up { domains, .. } => domains,
            Hypervisor::Down { .. } => panic!("libvirt is down in this world"),
        }
    }

    pub(crate) fn state(&self) -> State<'_> {
        State { spec: &self.spec, plan: &self.plan, inventory: &self.inventory }
    }

    pub(crate) fn submit(&mut self, change: &Change) -> Result<Vec<Finding>, Refusal> {
        self.now.0 += 1;
        self.next_id += 1;
        let id = VmId(Uuid::from_u128(self.next_id));
        let admitted = admit(change, self.state(), id, self.now)?;
        self.spec = admitted.spec;
        Ok(admitted.findings)
    }

    #[track_caller]
    pub(crate) fn accepts(&mut self, change: &Change) {
        self.submit(change).expect("the change is accepted");
    }

    #[track_caller]
    pub(crate) fn refuses(&mut self, change: &Change, code: Code) {
        let before = self.spec.clone();
        let refusal = self.submit(change).expect_err("the change is refused");
        assert!(refusal.iter().any(|finding| finding.code == code), "{code} is not among {refusal:#?}");
        assert_eq!(self.spec, before);
    }

    /// Sets a mode and carries it out.
    #[track_caller]
    pub(crate) fn set_mode(&mut self, bus: u8, mode: GpuMode) {
        let gpu = GpuKey { host: self.name.clone(), ..gpu(bus) };
        self.accepts(&Change::SetGpuMode { gpu, mode });
        self.settle();
    }

    #[track_caller]
    pub(crate) fn create(&mut self, name: &str, request: Request) {
        let new = NewVm {
            hardware: hardware(),
            request,
            reserved: false,
            labels: tranche_core::label::Labels::new(),
            prefer_numa_node: None,
            availability: Availability::default(),
        };
        self.accepts(&Change::CreateVm { name: vm(name), vm: new });
        self.settle();
    }

    #[track_caller]
    pub(crate) fn start(&mut self, name: &str) {
        self.accepts(&Change::StartVm { name: vm(name) });
        self.settle();
    }

    #[track_caller]
    pub(crate) fn stop(&mut self, name: &str) {
        self.accepts(&Change::StopVm { name: vm(name), force: false });
        self.settle();
    }

    pub(crate) fn runs(&self, name: &str) -> bool {
        self.inventory[&self.name].domain(&vm(name)).is_some_and(|domain| domain.state.is_active())
    }

    /// The one slot that a VM holds.
    #[track_caller]
    pub(crate) fn slot_of(&self, name: &str) -> Option<String> {
        let name = vm(name);
        let held: Vec<_> = self.plan.held_by(&name).map(|(slot, _)| slot.to_string()).collect();
        assert!(held.len() <= 1, "{name} holds {held:?}");
        held.into_iter().next()
    }

    pub(crate) fn has_finding(&self, code: Code) -> bool {
        self.findings.iter().any(|finding| finding.code == code)
    }

    /// Plans once, checks the plan, and returns the steps that are due.
    pub(crate) fn pass(&mut self) -> Vec<Step> {
        self.now.0 += 1;
        let planned = self.memory.plan(&self.spec, &self.inventory, &self.plan, self.now);
        let anew = planner::plan(&self.spec, &self.inventory, &self.plan, self.now);
        assert_eq!(planned, anew, "what is remembered, or the same input again, gave another plan");
        let Planned { plan, findings, gone } = planned;
        assert_eq!(check::check(&plan), [], "the plan violates an invariant");
        assert_eq!(check::check_transition(&self.plan, &plan), []);
        self.plan = plan;
        self.findings = findings;
        for name in gone {
            self.spec.vms.remove(&name);
        }
        // The host reads what was decided before it acts, and says so when it reports next.
        let generation = self.plan.generations.get(&self.name).copied().unwrap_or_default();
        self.seen().progress.generation = generation;
        steps(&self.spec, &self.plan, &self.inventory[&self.name])
    }

    /// Passes until nothing is due.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        for _ in 0..50 {
            let due = self.pass();
            if due.is_empty() {
                assert_eq!(check::check_world(&self.inventory, &self.plan), []);
                return;
            }
            for step in &due {
                self.carry_out(step);
            }
        }
        panic!("it does not settle: {:#?}", self.pass());
    }

    /// What a faithful host does. Panics where a real one would hang, hurt a guest, or refuse.
    pub(crate) fn carry_out(&mut self, step: &Step) {
        match step {
            Step::EnableVfs { gpu, count } => {
                assert!(self.partitions(gpu).is_empty(), "VFs are enabled while others are: EBUSY");
                assert!(self.gpu_at(gpu).blanks.is_empty(), "VFs are enabled while others are: EBUSY");
                self.enable_vfs(gpu, *count);
                self.set_autoprobe(gpu, false);
            }
            Step::DisableVfs { gpu, autoprobe } => {
                let open: Vec<_> =
                    self.partitions(gpu).iter().filter(|p| !p.open_by.is_empty()).cloned().collect();
                assert!(
                    open.is_empty(),
                    "disabling VFs in use hangs and tears the device out of the guest: {open:?}"
                );
                self.drop_vfs(gpu);
                self.set_autoprobe(gpu, *autoprobe);
            }
            Step::BindPartition { gpu, index, driver, .. } => {
                for partition in self.partitions(gpu).iter_mut().filter(|p| p.index == Some(*index)) {
                    partition.driver = Some(driver.clone());
                }
            }
            Step::SetProfile { gpu, index, vf, profile } => {
                self.set_profile(gpu, *index, *vf, profile.clone());
            }
            Step::SetMixedSizes { gpu, on } => {
                assert_eq!(self.partitions(gpu), &[], "sizes are switched while a function has a type");
                assert!(!self.gpu_at(gpu).blanks.is_empty(), "sizes are switched before there are functions");
                if *on {
                    self.mixed.insert(gpu.clone());
                } else {
                    self.mixed.remove(gpu);
                }
            }
            Step::ReloadDriver { driver, count, .. } => self.reload(driver, *count),
            Step::TakeGpu { gpu, .. } => self.bind_gpu(gpu, Some(VFIO_DRIVER.to_owned())),
            Step::ReturnGpu { gpu, functions } => {
                assert!(self.gpu_at(gpu).open_by.is_empty(), "a GPU in use is given back");
                let driver = gpu.pci().and_then(|address| functions[&address].clone());
                self.bind_gpu(gpu, driver);
            }
            Step::CreateMdev { .. } | Step::RemoveMdev { .. } => panic!("this world has no mediated devices"),
            Step::DefineVm { vm, id, hardware } => {
                let domain = model_domain(vm, *id, hardware);
                self.domains().insert(vm.to_string(), domain);
            }
            Step::PutDevices { vm, devices, .. } => {
                let domain = self.domains().get_mut(vm.as_str()).expect("the domain exists");
                domain.defined_devices.retain(|device| !device.ours);
                let put =
                    devices.iter().map(|device| HostDevice { source: device.source.clone(), ours: true });
                domain.defined_devices.extend(put);
            }
            Step::StartVm { vm, .. } => self.run_domain(vm.as_str()),
            Step::ShutDownVm { vm, .. } => self.end_domain(vm.as_str(), OffReason::Shutdown),
            Step::KillVm { vm, .. } => self.end_domain(vm.as_str(), OffReason::Destroyed),
            Step::ExpectVm { .. } | Step::SendVm { .. } | Step::CallOffVm { .. } | Step::ResumeVm { .. } => {
                panic!("one host alone sends nothing")
            }
            Step::UndefineVm { vm, .. } => {
                let domain = self.domains().remove(vm.as_str()).expect("the domain exists");
                assert!(!domain.state.is_active(), "a running domain is undefined");
            }
        }
    }

    /// Starts a domain as libvirt does: every device must be bound to vfio-pci and free.
    pub(crate) fn run_domain(&mut self, name: &str) {
        let devices = self.domains()[name].defined_devices.clone();
        for device in &devices {
            let holders = self.holders(&device.source);
            assert!(holders.is_empty(), "{:?} is in use by {holders:?}", device.source);
            holders.push(Holder { pid: 42, command: format!("qemu-{name}") });
        }
        let domain = self.domains().get_mut(name).unwrap();
        domain.live_devices = devices;
        domain.state = DomainState::Running;
    }

    pub(crate) fn end_domain(&mut self, name: &str, reason: OffReason) {
        let domain = self.domains().get_mut(name).expect("the domain exists");
        domain.state = DomainState::Off { reason };
        let devices = std::mem::take(&mut domain.live_devices);
        for device in devices {
            // A device may have gone before the domain that had it.
            if let Some(holders) = self.holders_if_there(&device.source) {
                holders.retain(|holder| holder.command != format!("qemu-{name}"));
            }
        }
    }

    /// Power is lost and comes back: VFs and drivers are as after a cold start, no domain runs.
    pub(crate) fn reboot(&mut self) {
        let names: Vec<String> = self.domains().keys().cloned().collect();
        for name in names {
            self.end_domain(&name, OffReason::Unknown);
        }
        let addresses: Vec<GpuAddress> = self.seen().gpus.keys().cloned().collect();
        for address in addresses {
            self.drop_vfs(&address);
            self.bind_gpu(&address, Some("model".to_owned()));
        }
        let boot: u64 = self.seen().boot_id["boot-".len()..].parse().unwrap();
        self.seen().boot_id = format!("boot-{}", boot + 1);
    }

    pub(crate) fn enable_vfs(&mut self, gpu: &GpuAddress, count: u16) {
        let bus = gpu.pci().unwrap().bus;
        let seen = self.gpu(bus);
        seen.sriov.as_mut().unwrap().vfs = count;
        if seen.backend == Some(Backend::TypedVf) {
            assert_eq!(count, 8, "such a GPU has all of its VFs or none");
            let driver = seen.driver.clone();
            seen.blanks = (0..count)
                .map(|index| BlankVf { index, address: vf(bus, index), driver: driver.clone() })
                .collect();
            return;
        }
        seen.partitions = (0..count)
            .map(|index| ObservedPartition {
                index: Some(index),
                device: PartitionDevice::Vf { address: vf(bus, index) },
                driver: None,
                iommu_group: Some(IommuGroup {
                    id: 100 + u32::from(index),
                    members: vec![GroupMember {
                        address: vf(bus, index),
                        class: 0x03_0200,
                        driver: None,
                        driver_override: None,
                    }],
                }),
                profile: None,
                mmio_mib: 0,
                open_by: Vec::new(),
                vram_mib: None,
                answers: true,
                telemetry: None,
                migration: None,
            })
            .collect();
    }

    /// Makes the GPU one whose VFs come and go with its driver, which now made so many.
    pub(crate) fn make_fixed(&mut self, bus: u8, count: u16) {
        self.enable_vfs(&gpu(bus).address, count);
        let seen = self.gpu(bus);
        seen.backend = Some(Backend::FixedVf);
        let all = std::mem::take(&mut seen.offers);
        seen.offers = all.iter().filter(|offer| offer.count == count).cloned().collect();
        seen.reload = Some(Reload { driver: "model".to_owned(), offers: all, is_known: true });
    }

    /// Loads a driver anew.
    pub(crate) fn reload(&mut self, driver: &str, count: u16) {
        let gpus: Vec<GpuAddress> = self.seen().gpus.keys().cloned().collect();
        for address in gpus {
            let seen = self.gpu_at(&address);
            let Some(reload) = seen.reload.clone().filter(|reload| reload.driver == driver) else { continue };
            assert!(seen.partitions.iter().all(|vf| vf.open_by.is_empty()), "a driver in use is unloaded");
            self.enable_vfs(&address, count);
            self.gpu_at(&address).offers =
                reload.offers.into_iter().filter(|offer| offer.count == count).collect();
        }
    }

    /// Makes the GPU one whose VFs take types.
    pub(crate) fn make_typed(&mut self, bus: u8) {
        let seen = self.gpu(bus);
        seen.backend = Some(Backend::TypedVf);
        seen.partition_driver = "model".to_owned();
    }

    /// The same, and they may be of several sizes: each at every multiple of its size.
    pub(crate) fn make_mixed(&mut self, bus: u8) {
        self.make_typed(bus);
        let seen = self.gpu(bus);
        let size = |offer: &Offer| MixedSize {
            profile: offer.profile.clone(),
            series: None,
            vram_mib: offer.vram_mib,
            size_mib: 16_384 / u64::from(offer.count),
            starts_mib: (0..offer.count).map(|at| u64::from(at) * 16_384 / u64::from(offer.count)).collect(),
        };
        seen.mixed = seen.offers.iter().map(size).collect();
    }

    /// A type goes on a VF that has none, is of the size of the others, and has room; it leaves one that is not open.
    fn set_profile(&mut self, gpu: &GpuAddress, index: u16, vf: PciAddress, profile: Option<String>) {
        let is_mixed = self.mixed.contains(gpu);
        let seen = self.gpu_at(gpu);
        let driver = seen.driver.clone();
        let Some(profile) = profile else {
            let at = seen.partitions.iter().position(|partition| partition.index == Some(index));
            let partition = seen.partitions.remove(at.expect("a type is taken from a VF that has none"));
            assert_eq!(partition.open_by, [], "a type is taken from a VF that is open: EPERM");
            seen.blanks.push(BlankVf { index, address: vf, driver });
            return;
        };
        let at = seen.blanks.iter().position(|blank| blank.index == index);
        let blank = seen.blanks.remove(at.expect("a type is given to a VF that has one: EINVAL"));
        assert_eq!(blank.address, vf);
        assert_eq!(blank.driver, driver, "the VF is not on the GPU's own driver");
        if is_mixed {
            let made = seen.partitions.iter().filter_map(|other| other.profile.clone());
            let with_it: Vec<String> = made.chain([profile.clone()]).collect();
            mixed::place(&seen.mixed, &with_it).expect("there is a place for it");
        } else {
            let max =
                seen.offers.iter().find(|offer| offer.profile == profile).expect("an offered type").count;
            assert!(seen.partitions.len() < usize::from(max), "there is no room for another {profile}");
            let alike = seen.partitions.iter().all(|other| other.profile.as_ref() == Some(&profile));
            assert!(alike, "partitions of several sizes: EINVAL");
        }
        let member = GroupMember {
            address: vf,
            class: 0x03_0200,
            driver: blank.driver.clone(),
            driver_override: None,
        };
        seen.partitions.push(ObservedPartition {
            index: Some(index),
            device: PartitionDevice::Vf { address: vf },
            driver: blank.driver,
            iommu_group: Some(IommuGroup { id: 100 + u32::from(index), members: vec![member] }),
            profile: Some(profile),
            mmio_mib: 0,
            open_by: Vec::new(),
            vram_mib: None,
            answers: true,
            telemetry: None,
            migration: None,
        });
        seen.partitions.sort_by_key(|partition| partition.index);
    }

    fn set_autoprobe(&mut self, gpu: &GpuAddress, on: bool) {
        self.gpu_at(gpu).sriov.as_mut().unwrap().autoprobe = on;
    }

    fn drop_vfs(&mut self, gpu: &GpuAddress) {
        self.mixed.remove(gpu);
        let seen = self.gpu_at(gpu);
        seen.sriov.as_mut().unwrap().vfs = 0;
        seen.partitions.clear();
        seen.blanks.clear();
    }

    fn bind_gpu(&mut self, gpu: &GpuAddress, driver: Option<String>) {
        let seen = self.gpu_at(gpu);
        seen.driver.clone_from(&driver);
        for member in &mut seen.iommu_group.as_mut().unwrap().members {
            member.driver_override = driver.clone().filter(|driver| driver == VFIO_DRIVER);
            member.driver.clone_from(&driver);
        }
    }

    fn gpu_at(&mut self, gpu: &GpuAddress) -> &mut Gpu {
        self.seen().gpus.get_mut(gpu).unwrap()
    }

    fn partitions(&mut self, gpu: &GpuAddress) -> &mut Vec<ObservedPartition> {
        &mut self.gpu_at(gpu).partitions
    }

    #[track_caller]
    fn holders(&mut self, source: &DeviceSource) -> &mut Vec<Holder> {
        self.holders_if_there(source).expect("all devices are bound to vfio-pci")
    }

    fn holders_if_there(&mut self, source: &DeviceSource) -> Option<&mut Vec<Holder>> {
        for seen in self.inventory.get_mut(&self.name).unwrap().gpus.values_mut() {
            if seen.address.pci().map(|address| DeviceSource::Pci { address }) == Some(source.clone()) {
                assert_eq!(seen.driver.as_deref(), Some(VFIO_DRIVER));
                return Some(&mut seen.open_by);
            }
            for partition in &mut seen.partitions {
                if DeviceSource::from(&partition.device) == *source {
                    assert_eq!(partition.driver.as_ref(), Some(&seen.partition_driver));
                    return Some(&mut partition.open_by);
                }
            }
        }
        None
    }
}

fn model_gpu(bus: u8) -> Gpu {
    let member = GroupMember {
        address: pf(bus),
        class: 0x03_0200,
        driver: Some("model".to_owned()),
        driver_override: None,
    };
    Gpu {
        address: GpuAddress::Pci(pf(bus)),
        ids: "1af4:00aa:1af4:0001".parse().unwrap(),
        unique_id: None,
        board: None,
        class: 0x03_0200,
        model: "Model GPU".to_owned(),
        emulated: true,
        vram_mib: Some(16_384),
        driver: Some("model".to_owned()),
        driver_version: None,
        numa_node: Some(u16::from(bus % 2)),
        iommu_group: Some(IommuGroup { id: u32::from(bus), members: vec![member] }),
        bars: Vec::new(),
        reset_methods: vec!["flr".to_owned()],
        boot_vga: false,
        aer: None,
        health: Health::default(),
        telemetry: None,
        migration: None,
        backend: Some(Backend::SriovVfio),
        partition_driver: VFIO_DRIVER.to_owned(),
        sriov: Some(Sriov { total_vfs: 8, vfs: 0, autoprobe: true }),
        offers: [1, 2, 4, 8]
            .into_iter()
            .map(|count| Offer {
                count,
                profile: format!("1/{count}"),
                series: None,
                vram_mib: Some(16_384 / u64::from(count)),
            })
            .collect(),
        partitions: Vec::new(),
        mixed: Vec::new(),
        blanks: Vec::new(),
        reload: None,
        open_by: Vec::new(),
    }
}
