//! A REST interface that answers from a story made up beforehand, and remembers what it was asked.
//!
//! All texts that come from outside can be given an ending, so that tests see what becomes of it on every page.

#![allow(dead_code, reason = "the example shows it, and the tests ask it about more")]

// Named with their paths, because the example has this file at another place of its tree.
#[path = "fixture/answers.rs"]
mod answers;
#[path = "fixture/cluster.rs"]
mod cluster;
#[path = "fixture/rest.rs"]
mod rest;

use std::collections::BTreeMap;

use tranche_api::view::{
    GpuStatus, GpuView, HostView, LibvirtView, MemberView, MigrationView, PartitionState, PartitionView,
    VmOrigin, VmState, VmView,
};
use tranche_core::effect::Effect;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{
    AerCounters, Backend, Certainty, Console, Ecc, Evidence, Guard, Health, HealthState, Iommu,
    MigrationFacts, Offer, PartitionTelemetry, StuckCall, Telemetry,
};
use tranche_core::migration::Outlook;
use tranche_core::name::{GpuKey, HostName, Slot, SlotKey, Timestamp, VmId, VmName};
use tranche_core::operation::{Goal, LogLine, Operation, OperationState};
use tranche_core::plan::{DownBy, Standing};
use tranche_core::spec::{Availability, Duty, GpuMode, Policy, Request as Wish, Run};
use uuid::Uuid;

pub(crate) use self::rest::Fake;

/// What the preview of a set of GPUs tells.
pub(crate) const VERSION: Uuid = Uuid::from_u128(0x7e57);
/// A VM of this name is refused everything.
pub(crate) const REFUSED: &str = "refused";

/// What there is.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    /// What free texts end with.
    pub(crate) ending: String,
    pub(crate) hosts: Vec<HostView>,
    pub(crate) gpus: Vec<GpuView>,
    pub(crate) partitions: Vec<PartitionView>,
    pub(crate) vms: Vec<VmView>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) operations: Vec<Operation>,
    /// What a preview tells, besides its version.
    pub(crate) effect: Option<Effect>,
    /// How another host would take a VM; while it runs, if nothing is said.
    pub(crate) outlook: Option<Outlook>,
    /// Whether the stream of events goes on for ever, as that of a daemon does.
    pub(crate) is_endless: bool,
    pub(crate) policy: Policy,
    /// Whether every change is refused.
    pub(crate) is_stuck: bool,
}

pub(crate) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

const NOW: Timestamp = Timestamp(1_767_100_000_000);

impl World {
    /// Four hosts with two GPUs each, of which not all is well.
    pub(crate) fn small(ending: &str) -> Self {
        let mut world = Self::of_size(4, 2, 22, ending);
        world.trouble();
        world
    }

    /// So many hosts, each with so many GPUs of four partitions, and VMs on them.
    pub(crate) fn of_size(hosts: usize, gpus: usize, vms: usize, ending: &str) -> Self {
        let mut world = Self { ending: ending.to_owned(), ..Self::default() };
        for host in 1..=hosts {
            let host: HostName = name(&format!("node{host}"));
            for gpu in 0..gpus {
                world.add_gpu(&host, gpu);
            }
            let host = world.host(host, gpus);
            world.hosts.push(host);
        }
        for number in 0..vms {
            world.add_vm(number);
        }
        for number in 0..hosts.min(12) {
            let operation = world.operation(number);
            world.operations.push(operation);
        }
        world
    }

    fn text(&self, text: &str) -> String {
        format!("{text}{}", self.ending)
    }

    fn host(&self, host: HostName, gpus: usize) -> HostView {
        let label = BTreeMap::from([(name("rack"), name("r1"))]);
        HostView {
            name: host,
            observed_at: NOW,
            boot_id: self.text("5b1d3f1e-4b9c-4a0e-9a51-3b8e7f2d9c10"),
            kernel: self.text("6.12.48-amd64"),
            cpu_model: self.text("AMD EPYC 9354P 32-Core Processor"),
            cpus: 64,
            memory_mib: 393_216,
            iommu: Iommu::On { units: vec![self.text("ivhd0"), self.text("ivhd1")] },
            libvirt: LibvirtView::Up { libvirt: self.text("11.3.0"), qemu: self.text("10.0.2") },
            gpus,
            partitions: gpus * 4,
            partitions_free: gpus,
            vms: gpus * 3,
            vms_running: gpus * 3,
            member: Some(MemberView {
                standing: Standing::Up,
                duty: Duty::Serving,
                guard: Guard::Armed,
                agent: Some(name("fence_ipmilan")),
                leave_off: false,
                labels: label,
                reserved_memory_mib: 8192,
            }),
            stuck: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn add_gpu(&mut self, host: &HostName, index: usize) {
        let address = name(&format!("0000:{:02x}:00.0", 0x41 + index * 0x40 % 0xa0 + index));
        let gpu = self.gpu(GpuKey { host: host.clone(), address });
        let partitions: Vec<_> = (0..4).map(|index| self.partition(&gpu, index)).collect();
        self.partitions.extend(partitions);
        self.gpus.push(gpu);
    }

    fn offers(&self) -> Vec<Offer> {
        let offer = |(count, profile, mib): (u16, &str, u64)| Offer {
            count,
            profile: self.text(profile),
            series: None,
            vram_mib: Some(mib),
        };
        [(1, "48Q", 49_140), (2, "24Q", 24_570), (4, "12Q", 12_285), (8, "6Q", 6142)].map(offer).to_vec()
    }

    fn gpu(&self, key: GpuKey) -> GpuView {
        let mode = GpuMode::Partitioned { count: 4, series: None };
        GpuView {
            host: key.host,
            address: key.address,
            model: self.text("NVIDIA L40S"),
            ids: name("10de:26b9:10de:1851"),
            unique_id: Some(self.text("GPU-2d3a6c1e-77f4-4f6e-8c0e-1b9f5a7e2c44")),
            board: None,
            emulated: false,
            asked_mode: mode.clone(),
            mode,
            status: GpuStatus::Partitioned,
            count: Some(4),
            valid_counts: self.offers(),
            mixed: Vec::new(),
            free: 1,
            total: 4,
            vms: Vec::new(),
            vram_mib: Some(49_140),
            driver: Some(self.text("nvidia 580.82.02")),
            numa_node: Some(0),
            iommu_group: Some(41),
            group_members: Vec::new(),
            backend: Some(Backend::TypedVf),
            console: false,
            reset_methods: vec![self.text("flr"), "bus".to_owned()],
            aer: Some(AerCounters { correctable: 2, nonfatal: 0, fatal: 0 }),
            health: Some(Health { state: HealthState::Good, reasons: Vec::new() }),
            telemetry: Some(self.telemetry()),
            migration: Some(self.migration()),
            findings: Vec::new(),
        }
    }

    fn telemetry(&self) -> Telemetry {
        Telemetry {
            serial: Some(self.text("1650522003849")),
            firmware: Some(self.text("95.02.66.00.02")),
            ecc: Some(Ecc { enabled: true, corrected: 3, uncorrected: 0 }),
            utilization_percent: Some(37),
            memory_used_mib: Some(21_004),
            memory_total_mib: Some(49_140),
            temperature_c: None,
            power_w: None,
        }
    }

    fn migration(&self) -> MigrationView {
        let said = |certainty, source| Evidence::new(certainty, self.text(source));
        MigrationView {
            certainty: Certainty::Claimed,
            iommufd: true,
            facts: MigrationFacts {
                stop_copy: said(
                    Certainty::Claimed,
                    "nvidia-vgpu-vfio 580.82 is on the list of drivers that migrate",
                ),
                pre_copy: said(Certainty::Unknown, "not probed"),
                p2p: said(Certainty::Refused, "VFIO_DEVICE_FEATURE_MIGRATION: no P2P"),
                device_dirty_log: said(Certainty::Refused, "VFIO_DEVICE_FEATURE_DMA_LOGGING_START: ENOTTY"),
                iommu_dirty_log: said(Certainty::Proven, "/sys/class/iommu/ivhd0/amd-iommu/features: HDSup"),
            },
        }
    }

    fn partition(&self, gpu: &GpuView, index: u16) -> PartitionView {
        PartitionView {
            host: gpu.host.clone(),
            gpu: gpu.address.clone(),
            index: Some(index),
            device: Some(format!("0000:41:00.{}", index + 4)),
            profile: Some(self.text("12Q")),
            vram_mib: Some(12_285),
            state: PartitionState::Free,
            vm: None,
            telemetry: None,
            migration: None,
            emulated: false,
        }
    }

    /// The next VM; it gets the next partition of which three of four are used, while there are any.
    fn add_vm(&mut self, number: usize) {
        let slot = number / 3 * 4 + number % 3;
        let vm_name: VmName = name(&format!("desk-{:02}", number + 1));
        let mut vm = self.vm(&vm_name, number);
        if let Some(partition) = self.partitions.get_mut(slot) {
            partition.state = PartitionState::InUse;
            partition.vm = Some(vm_name.clone());
            partition.telemetry =
                Some(PartitionTelemetry { utilization_percent: Some(12), memory_used_mib: Some(3100) });
            let key = GpuKey { host: partition.host.clone(), address: partition.gpu.clone() };
            vm.host = Some(key.host.clone());
            vm.gpu = Some(key.address.clone());
            vm.partition = partition.index;
            vm.device = partition.device.clone();
            vm.profile = partition.profile.clone();
            vm.vram_mib = partition.vram_mib;
            vm.holds = vec![SlotKey { gpu: key, slot: Slot::Partition(partition.index.unwrap_or(0)) }];
            if let Some(gpu) =
                self.gpus.iter_mut().find(|gpu| gpu.host == partition.host && gpu.address == partition.gpu)
            {
                gpu.vms.push(vm_name);
            }
        } else {
            (vm.state, vm.run) = (VmState::Stopped, Run::Stopped);
        }
        self.vms.push(vm);
    }

    fn vm(&self, vm_name: &VmName, number: usize) -> VmView {
        VmView {
            name: vm_name.clone(),
            id: VmId(Uuid::from_u128(number as u128 + 1)),
            state: VmState::Running,
            run: Run::Running,
            host: None,
            moves_to: None,
            hands_over: false,
            comes_from: None,
            moved_percent: None,
            gpu: None,
            partition: None,
            device: None,
            holds: Vec::new(),
            profile: None,
            vram_mib: None,
            emulated: false,
            request: Wish::Partition { vram_mib: None, profile: Some(self.text("12Q")) },
            reserved: false,
            labels: tranche_core::label::Labels::new(),
            prefer_numa_node: None,
            availability: Availability::default(),
            origin: VmOrigin::Made,
            vcpus: Some(8),
            memory_mib: Some(16_384),
            guest_os: Some(self.text("win11")),
            created_at: NOW,
            consoles: vec![Console::Serial, Console::Screen],
            findings: Vec::new(),
        }
    }

    fn operation(&self, number: usize) -> Operation {
        let vm: VmName = name(&format!("desk-{:02}", number + 1));
        let state = match number {
            0 => OperationState::Running,
            1 => OperationState::Waiting,
            3 => OperationState::Failed,
            _ => OperationState::Succeeded,
        };
        Operation {
            id: name(&Uuid::from_u128(0x1000 + number as u128).to_string()),
            title: self.text(&format!("start VM {vm}")),
            subject: Subject::Vm(vm.clone()),
            goal: Goal::VmRuns { vm, serial: 1 },
            created_at: NOW,
            updated_at: Timestamp(NOW.0 + 4_000),
            state,
            progress_percent: if state.is_over() { 100 } else { 60 },
            findings: Vec::new(),
            log: vec![LogLine { at: NOW, text: self.text("0000:41:00.4 is given type 12Q") }],
        }
    }

    fn finding(
        &self,
        code: Code,
        severity: Severity,
        subject: Subject,
        message: &str,
        hint: &str,
    ) -> Finding {
        Finding { code, severity, subject, message: self.text(message), hint: self.text(hint) }
    }

    /// What is not well.
    fn trouble(&mut self) {
        let key = GpuKey { host: name("node3"), address: self.gpus[4].address.clone() };
        let waiting = self.finding(
            Code::NoFreePartition,
            Severity::Warning,
            Subject::Vm(name("desk-22")),
            "VM desk-22 waits: no partition with profile 12Q is free.",
            "Stop another VM, or split a further GPU; it starts by itself as soon as there is room.",
        );
        let sick = self.finding(
            Code::GpuSick,
            Severity::Error,
            Subject::Gpu(key),
            "GPU node3/0000:41:00.0 has had 3 fatal errors on its bus (Xid 79).",
            "Drain its host, and have the card looked at; it takes no new VM until then.",
        );
        let unlike = self.finding(
            Code::UnlikeDriver,
            Severity::Info,
            Subject::Installation,
            "GPUs have several versions of their driver: 580.82.02 on 7, 570.133.10 on 1.",
            "Bring the driver of node4 up to date.",
        );
        let down = self.finding(
            Code::HostDown,
            Severity::Error,
            Subject::Host(name("node4")),
            "Host node4 was given up, and runs nothing any more.",
            "Find out why it died; it joins again by itself when it boots.",
        );
        self.gpus[4].status = GpuStatus::Sick;
        let reason = self.text("3 fatal errors on the bus");
        self.gpus[4].health = Some(Health { state: HealthState::Sick, reasons: vec![reason] });
        self.gpus[4].findings = vec![sick.clone()];
        self.gpus[5].mode = GpuMode::Passthrough { allow_console: false, pool: Some(name("render")) };
        self.gpus[5].asked_mode = self.gpus[5].mode.clone();
        (self.gpus[5].status, self.gpus[5].count) = (GpuStatus::PassedThrough, None);
        (self.gpus[5].free, self.gpus[5].total) = (0, 1);
        let address = self.gpus[5].address.clone();
        self.partitions.retain(|partition| partition.host.as_str() != "node3" || partition.gpu != address);
        let member = self.hosts[3].member.as_mut().unwrap();
        member.standing = Standing::Down { since: NOW, by: DownBy::Agent };
        self.hosts[3].findings = vec![down.clone()];
        self.hosts[1].member.as_mut().unwrap().duty = Duty::Maintenance;
        let call = self.text("write /sys/bus/pci/devices/0000:41:00.0/sriov_numvfs");
        self.hosts[2].stuck = vec![StuckCall { gpu: None, call, since: NOW }];
        let last = self.vms.last_mut().unwrap();
        (last.state, last.host, last.gpu, last.partition) = (VmState::Waiting, None, None, None);
        (last.profile, last.vram_mib) = (None, None);
        last.holds.clear();
        last.findings = vec![waiting.clone()];
        self.vms[3].state = VmState::Moving;
        self.vms[3].moves_to = Some(name("node2"));
        self.vms[3].moved_percent = Some(42);
        (self.vms[4].state, self.vms[4].request) = (VmState::Stopped, Wish::None);
        let mut refused = self.vm(&name(REFUSED), 99);
        refused.state = VmState::Stopped;
        self.vms.push(refused);
        self.operations[1].findings = vec![waiting.clone()];
        self.findings = vec![sick, down, waiting, unlike];
    }
}
