//! A REST interface that answers from a story made up beforehand, and remembers what it was asked.
//!
//! All texts that come from outside can be given an ending, so that tests see what becomes of it on every page.

#![allow(dead_code, reason = "the example shows it, and the tests ask it about more")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};
use tranche_api::Problem;
use tranche_api::access::{AuditEntry, TokenView, UserView};
use tranche_api::answer::{Accepted, Preview, WhyNot};
use tranche_api::view::{
    GpuStatus, GpuView, HostView, LibvirtView, MemberView, MigrationView, PartitionState, PartitionView,
    VmOrigin, VmState, VmView,
};
use tranche_console::Visitor;
use tranche_core::access::Role;
use tranche_core::capacity::{Capacity, HostCapacity, SizeCapacity, Stranded};
use tranche_core::effect::{Effect, GpuEffect, VmEffect};
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::homogeneity::{
    Attribute, AttributeReport, Grade, Mend, Report, SetName, SetReport, ValueReport,
};
use tranche_core::inventory::{
    AerCounters, Backend, Certainty, Ecc, Evidence, Guard, Health, HealthState, Iommu, MigrationFacts, Offer,
    PartitionTelemetry, StuckCall, Telemetry,
};
use tranche_core::migration::{Forecast, Outlook, Way};
use tranche_core::name::{GpuKey, HostName, Slot, SlotKey, Timestamp, VmId, VmName};
use tranche_core::operation::{Goal, LogLine, Operation, OperationState};
use tranche_core::plan::{DownBy, Standing};
use tranche_core::spec::{Availability, Duty, GpuMode, Homogeneity, Request as Wish, Rule, Run};
use uuid::Uuid;

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
}

/// A request that came in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
    pub(crate) who: Option<String>,
}

/// The REST interface, and what it heard.
#[derive(Debug, Clone)]
pub(crate) struct Fake {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) heard: Arc<Mutex<Vec<Heard>>>,
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
            prefer_numa_node: None,
            availability: Availability::default(),
            origin: VmOrigin::Made,
            vcpus: Some(8),
            memory_mib: Some(16_384),
            guest_os: Some(self.text("win11")),
            created_at: NOW,
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
            progress_percent: if state == OperationState::Running { 60 } else { 100 },
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

    fn capacity(&self) -> Capacity {
        let why = self.finding(
            Code::NoFreePartition,
            Severity::Warning,
            Subject::Vm(name("desk-01")),
            "no partition with profile 12Q would be free",
            "Split a further GPU.",
        );
        let hosts = self.hosts.iter().enumerate().map(|(index, host)| HostCapacity {
            host: host.name.clone(),
            free_memory_mib: Some(98_304),
            free_vcpus: Some(112),
            free_slots: 2,
            protected: 6,
            stranded: if index == 0 {
                vec![Stranded { vm: name("desk-01"), why: why.clone() }]
            } else {
                Vec::new()
            },
        });
        let size = |profile: &str, mib, free, total| SizeCapacity {
            profile: Some(self.text(profile)),
            vram_mib: Some(mib),
            pool: None,
            total,
            free,
        };
        let whole =
            SizeCapacity { profile: None, vram_mib: None, pool: Some(name("render")), total: 1, free: 0 };
        Capacity {
            without: BTreeSet::new(),
            stranded: Vec::new(),
            sizes: vec![size("12Q", 12_285, 7, 28), whole],
            hosts: hosts.collect(),
            survives_any: false,
        }
    }

    fn homogeneity(&self) -> Report {
        let keys: Vec<GpuKey> = self
            .gpus
            .iter()
            .filter(|gpu| gpu.count.is_some())
            .map(|gpu| GpuKey { host: gpu.host.clone(), address: gpu.address.clone() })
            .collect();
        let value = |text: &str, usual, number, gpus| ValueReport {
            value: self.text(text),
            usual,
            number,
            hosts: 2,
            gpus,
        };
        let attribute = |attribute: Attribute, grade, values, mends| AttributeReport {
            attribute,
            grade,
            breaks: attribute.breaks().to_vec(),
            follows_from: None,
            tie: false,
            values,
            unknown: 0,
            mends,
        };
        let last = keys.last().cloned().unwrap();
        let mend = Mend {
            gpu: last.clone(),
            text: self.text("Bring its driver to 580.82.02."),
            command: Some(self.text("apt install nvidia-vgpu-host=580.82.02")),
        };
        let driver = vec![value("580.82.02", true, 6, Vec::new()), value("570.133.10", false, 1, vec![last])];
        let set = SetReport {
            set: SetName::Partitions,
            in_use: keys.len(),
            attributes: vec![
                attribute(
                    Attribute::Device,
                    None,
                    vec![value("NVIDIA L40S (10de:26b9)", true, 7, Vec::new())],
                    Vec::new(),
                ),
                attribute(Attribute::Count, None, vec![value("4", true, 7, Vec::new())], Vec::new()),
                attribute(Attribute::Driver, Some(Grade::Slight), driver, vec![mend]),
            ],
            gpus: keys,
        };
        Report { policy: Homogeneity::Warn, homogeneous: false, sets: vec![set] }
    }

    fn outlooks(&self) -> Vec<Outlook> {
        let obstacle = self.finding(
            Code::LiveDirtyLog,
            Severity::Info,
            Subject::Vm(name("desk-01")),
            "nothing on node3 logs which memory its device writes",
            "It can be shut down here and started there.",
        );
        let forecast = Forecast {
            pause_ms: 1_850,
            total_ms: 96_000,
            link_mib_s: 1_120,
            is_link_measured: true,
            dirty_mib_s: None,
        };
        let outlook = |host, way, why_not, live_obstacles, forecast| Outlook {
            host,
            way,
            why_not,
            live_obstacles,
            forecast,
        };
        vec![
            outlook(name("node2"), Way::Live, vec![], vec![], Some(forecast)),
            outlook(name("node3"), Way::Restart, vec![], vec![obstacle.clone()], None),
            outlook(name("node4"), Way::Neither, vec![obstacle], vec![], None),
        ]
    }

    fn preview(&self, path: &str) -> Preview {
        let key = GpuKey { host: name("node1"), address: self.gpus[0].address.clone() };
        let (from, to) = (
            GpuMode::Partitioned { count: 4, series: None },
            GpuMode::Partitioned { count: 8, series: None },
        );
        let vms = vec![name("desk-01"), name("desk-02")];
        let warning = self.finding(
            Code::SetIncomplete,
            Severity::Warning,
            Subject::Installation,
            "GPU node2/0000:41:00.0 of the same configuration is left out.",
            "GPUs that are split into other counts than the rest break failover.",
        );
        let effect = Effect {
            gpus: BTreeMap::from([(key, GpuEffect { from, to, vms })]),
            vms: BTreeMap::from([
                (name("desk-01"), VmEffect::Restarts),
                (name("desk-02"), VmEffect::Migrates),
            ]),
            homes: BTreeMap::from([(name("desk-02"), name("node2"))]),
            steps: Vec::new(),
            findings: vec![warning],
        };
        Preview {
            changes: vec![self.text(&format!("change {path}"))],
            effect: self.effect.clone().unwrap_or(effect),
            version: (path == "/v1/gpus/mode").then_some(VERSION),
        }
    }

    fn audit(&self) -> Vec<AuditEntry> {
        let entry = |status, outcome: &str| AuditEntry {
            at: NOW,
            who: self.text("maria"),
            from: self.text("192.0.2.17"),
            host: self.text("node1"),
            what: self.text("POST /v1/vms/desk-01/start"),
            asked: Some(self.text("{}")),
            status,
            outcome: Some(self.text(outcome)),
        };
        vec![entry(202, "start VM desk-01"), entry(409, "no partition is free")]
    }

    /// The answer to a question.
    fn tell(&self, path: &str) -> Option<Value> {
        let value = |value| serde_json::to_value(value).ok();
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        match parts.as_slice() {
            ["hosts"] => serde_json::to_value(&self.hosts).ok(),
            ["hosts", host] => {
                serde_json::to_value(self.hosts.iter().find(|known| known.name.as_str() == *host)?).ok()
            }
            ["gpus"] => serde_json::to_value(&self.gpus).ok(),
            ["gpus", host, address] => {
                let is = |gpu: &&GpuView| gpu.host.as_str() == *host && gpu.address.to_string() == *address;
                serde_json::to_value(self.gpus.iter().find(is)?).ok()
            }
            ["partitions"] => serde_json::to_value(&self.partitions).ok(),
            ["vms"] => serde_json::to_value(&self.vms).ok(),
            ["vms", _, "destinations"] => serde_json::to_value(self.outlooks()).ok(),
            ["vms", vm] => {
                serde_json::to_value(self.vms.iter().find(|known| known.name.as_str() == *vm)?).ok()
            }
            ["why-not", vm, host] => {
                let findings = self.findings.iter().take(1).cloned().collect();
                serde_json::to_value(WhyNot { vm: name(vm), host: name(host), possible: false, findings })
                    .ok()
            }
            ["capacity"] => serde_json::to_value(self.capacity()).ok(),
            ["homogeneity"] => serde_json::to_value(self.homogeneity()).ok(),
            ["findings"] => serde_json::to_value(&self.findings).ok(),
            ["operations"] => serde_json::to_value(&self.operations).ok(),
            ["operations", id] => {
                serde_json::to_value(self.operations.iter().find(|known| known.id.to_string() == *id)?).ok()
            }
            ["rules"] => value(json!({ "apart": Rule::Vms {
                vms: BTreeSet::from([name("desk-01"), name("desk-02")]),
                kind: tranche_core::spec::Company::Apart,
                strict: true,
            } })),
            ["users"] => value(json!([
                UserView { name: name("maria"), role: Role::Admin, created_at: NOW, password_at: Some(NOW) },
                UserView { name: name("kim"), role: Role::Operator, created_at: NOW, password_at: None },
            ])),
            ["tokens"] => value(json!([TokenView {
                name: name("grafana"),
                role: Role::Viewer,
                created_at: NOW,
                expires_at: NOW
            }])),
            ["audit"] => value(json!(self.audit())),
            _ => None,
        }
    }
}

impl Fake {
    pub(crate) fn new(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), heard: Arc::default() }
    }

    /// The REST interface.
    pub(crate) fn rest(&self) -> Router {
        Router::new()
            .route(
                "/v1/events",
                get(async || ([(header::CONTENT_TYPE, "text/event-stream")], "event: change\ndata: {}\n\n")),
            )
            .route("/v1/{*rest}", any(answer))
            .with_state(self.clone())
    }

    /// What was asked for that changes something.
    pub(crate) fn changes(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().iter().filter(|heard| heard.method != "GET").cloned().collect()
    }
}

async fn answer(State(fake): State<Fake>, Path(_): Path<String>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let heard = Heard {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        who: parts.extensions.get::<Visitor>().map(|visitor| visitor.name.clone()),
    };
    fake.heard.lock().unwrap().push(heard.clone());
    let world = fake.world.lock().unwrap().clone();
    if parts.method == Method::GET {
        return match world.tell(&heard.path) {
            Some(value) => Json(value).into_response(),
            None => refuse(&world, Code::VmNotFound),
        };
    }
    let is_refused = heard.path.contains(REFUSED) || heard.body.to_string().contains("wrong password");
    match heard.path.as_str() {
        _ if is_refused => refuse(&world, Code::PartitionsInUse),
        "/v1/sessions" => {
            let session = json!({ "secret": "s3cret", "name": "maria", "role": "admin", "expires_at": 1 });
            (StatusCode::CREATED, Json(session)).into_response()
        }
        "/v1/tokens" => {
            let token = json!({ "secret": "tok3n", "name": "ci", "role": "viewer", "created_at": 1, "expires_at": 2 });
            (StatusCode::CREATED, Json(token)).into_response()
        }
        path if path.ends_with("/link") => {
            let link = json!({ "secret": "l1nk", "path": "/login?link=", "expires_at": 2 });
            (StatusCode::CREATED, Json(link)).into_response()
        }
        path if ["/v1/session", "/v1/users", "/v1/tokens/"].iter().any(|begin| path.starts_with(begin)) => {
            StatusCode::NO_CONTENT.into_response()
        }
        path if heard.query.contains("dry_run=true") => Json(world.preview(path)).into_response(),
        _ => {
            let accepted = Accepted { operation: world.operation(0), findings: Vec::new() };
            (StatusCode::ACCEPTED, Json(accepted)).into_response()
        }
    }
}

fn refuse(world: &World, code: Code) -> Response {
    let finding =
        world.finding(code, Severity::Error, Subject::Installation, "It cannot be.", "Do something else.");
    let problem = Problem::new(finding);
    let status = StatusCode::from_u16(problem.status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem)).into_response()
}
