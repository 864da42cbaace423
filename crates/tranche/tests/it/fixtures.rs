//! Answers of a host with two stand-ins and one real GPU, in the types of the wire.

use std::collections::BTreeMap;

use tranche_api::Problem;
use tranche_api::answer::Accepted;
use tranche_api::cluster::{ClusterStanding, ClusterView};
use tranche_api::view::{
    GpuStatus, GpuView, HostView, LibvirtView, PartitionState, PartitionView, VmOrigin, VmState, VmView,
};
use tranche_core::diagnostics;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{Backend, Console, Iommu, Offer};
use tranche_core::name::{GpuKey, OperationId, Timestamp, VmId};
use tranche_core::operation::{Goal, LogLine, Operation, OperationState};
use tranche_core::spec::{GpuMode, Request, Run};
use uuid::Uuid;

/// 2026-11-22 16:00:00 UTC.
pub(crate) const NOW: Timestamp = Timestamp(1_795_363_200_000);

pub(crate) fn host() -> HostView {
    HostView {
        name: "node1".parse().unwrap(),
        observed_at: NOW,
        boot_id: "7c1b3a52-8a4e-4c13-9d2f-0c4d1f9e6b11".to_owned(),
        kernel: "6.12.57+deb13-amd64".to_owned(),
        cpu_model: "AMD EPYC 7313".to_owned(),
        cpus: 32,
        memory_mib: 131_072,
        iommu: Iommu::On { units: vec!["ivhd0".to_owned()] },
        libvirt: LibvirtView::Up { libvirt: "11.3.0".to_owned(), qemu: "10.0.2".to_owned() },
        gpus: 2,
        partitions: 4,
        partitions_free: 3,
        vms: 2,
        vms_running: 1,
        member: None,
        stuck: Vec::new(),
        findings: Vec::new(),
    }
}

/// A real GPU, not partitioned.
pub(crate) fn a2() -> GpuView {
    let offer = |count, profile: &str, vram_mib| Offer {
        count,
        profile: profile.to_owned(),
        series: Some("Q".to_owned()),
        vram_mib: Some(vram_mib),
    };
    GpuView {
        host: "node1".parse().unwrap(),
        address: "0000:41:00.0".parse().unwrap(),
        model: "NVIDIA A2".to_owned(),
        ids: "10de:25b6:10de:157e".parse().unwrap(),
        unique_id: None,
        board: Some("PCI-0000:3b:00.0".to_owned()),
        emulated: false,
        mode: GpuMode::Host,
        asked_mode: GpuMode::Host,
        status: GpuStatus::Partitionable,
        count: None,
        valid_counts: vec![
            offer(1, "16Q", 16384),
            offer(2, "8Q", 8192),
            offer(4, "4Q", 4096),
            offer(16, "1Q", 1024),
        ],
        mixed: Vec::new(),
        free: 0,
        total: 0,
        vms: Vec::new(),
        vram_mib: Some(16384),
        driver: Some("nvidia".to_owned()),
        numa_node: Some(1),
        iommu_group: Some(27),
        group_members: Vec::new(),
        backend: None,
        console: false,
        reset_methods: vec!["flr".to_owned(), "bus".to_owned()],
        aer: None,
        health: None,
        telemetry: None,
        migration: None,
        findings: Vec::new(),
    }
}

/// A stand-in with four partitions, one of them taken.
pub(crate) fn igb() -> GpuView {
    let offers =
        (1..=7).map(|count| Offer { count, profile: format!("1/{count}"), series: None, vram_mib: None });
    GpuView {
        address: "0000:01:00.0".parse().unwrap(),
        model: "Intel 82576 (stand-in)".to_owned(),
        ids: "8086:10c9:8086:a01f".parse().unwrap(),
        emulated: true,
        mode: GpuMode::Partitioned { count: 4, series: None },
        asked_mode: GpuMode::Partitioned { count: 4, series: None },
        status: GpuStatus::Partitioned,
        count: Some(4),
        valid_counts: offers.collect(),
        mixed: Vec::new(),
        free: 3,
        total: 4,
        vms: vec!["desk-01".parse().unwrap()],
        vram_mib: None,
        driver: Some("igb".to_owned()),
        numa_node: None,
        iommu_group: Some(3),
        backend: Some(Backend::SriovVfio),
        findings: vec![diagnostics::no_reset(&gpu_key())],
        ..a2()
    }
}

pub(crate) fn gpu_key() -> GpuKey {
    "node1/0000:01:00.0".parse().unwrap()
}

pub(crate) fn partitions() -> Vec<PartitionView> {
    let partition = |index: u16| PartitionView {
        host: "node1".parse().unwrap(),
        gpu: "0000:01:00.0".parse().unwrap(),
        index: Some(index),
        device: Some(format!("0000:02:{:02x}.{}", 16 + index / 4, index % 4 * 2)),
        profile: Some("1/4".to_owned()),
        vram_mib: None,
        state: PartitionState::Free,
        vm: None,
        telemetry: None,
        migration: None,
        emulated: true,
    };
    let mut partitions: Vec<PartitionView> = (0..4).map(partition).collect();
    partitions[0].state = PartitionState::InUse;
    partitions[0].vm = Some("desk-01".parse().unwrap());
    partitions
}

/// A running VM with a partition.
pub(crate) fn desk_01() -> VmView {
    VmView {
        name: "desk-01".parse().unwrap(),
        id: VmId(Uuid::from_u128(0x11)),
        state: VmState::Running,
        run: Run::Running,
        host: Some("node1".parse().unwrap()),
        moves_to: None,
        hands_over: false,
        comes_from: None,
        moved_percent: None,
        gpu: Some("0000:01:00.0".parse().unwrap()),
        partition: Some(0),
        device: Some("0000:02:10.0".to_owned()),
        holds: vec!["node1/0000:01:00.0/0".parse().unwrap()],
        profile: Some("1/4".to_owned()),
        vram_mib: None,
        emulated: true,
        request: Request::ANY_PARTITION,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: tranche_core::spec::Availability::default(),
        origin: VmOrigin::Made,
        vcpus: Some(4),
        memory_mib: Some(8192),
        guest_os: Some("ubuntu22.04".to_owned()),
        created_at: NOW,
        consoles: vec![Console::Serial, Console::Screen],
        findings: Vec::new(),
    }
}

/// A VM that waits for a partition of a size that nobody has.
pub(crate) fn desk_02() -> VmView {
    VmView {
        name: "desk-02".parse().unwrap(),
        id: VmId(Uuid::from_u128(0x12)),
        state: VmState::Waiting,
        host: None,
        gpu: None,
        partition: None,
        device: None,
        holds: Vec::new(),
        profile: None,
        emulated: false,
        request: Request::Partition { vram_mib: Some(3648), profile: None },
        reserved: true,
        consoles: Vec::new(),
        findings: vec![no_room()],
        ..desk_01()
    }
}

/// What a host of a cluster says of itself.
pub(crate) fn member_of_a_cluster(host: &str) -> ClusterView {
    ClusterView {
        host: host.parse().unwrap(),
        standing: ClusterStanding::Member,
        cluster: Some("lab".to_owned()),
        doing: None,
        stopped: None,
        members: Vec::new(),
        store_elsewhere: BTreeMap::new(),
        ruling_version: None,
        survives: 1,
        findings: Vec::new(),
    }
}

pub(crate) fn no_room() -> Finding {
    Finding {
        code: Code::NoFreePartition,
        severity: Severity::Warning,
        subject: Subject::Vm("desk-02".parse().unwrap()),
        message: "No free partition fits VM desk-02.".to_owned(),
        hint: "Stop a VM or split another GPU; it starts by itself then.".to_owned(),
    }
}

pub(crate) fn operation(title: &str, state: OperationState, log: &[&str], findings: &[Finding]) -> Operation {
    Operation {
        id: OperationId(Uuid::from_u128(7)),
        title: title.to_owned(),
        subject: Subject::Installation,
        goal: Goal::Recorded,
        created_at: NOW,
        updated_at: NOW,
        state,
        progress_percent: if state == OperationState::Succeeded { 100 } else { 40 },
        findings: findings.to_vec(),
        log: log.iter().map(|text| LogLine { at: NOW, text: (*text).to_owned() }).collect(),
    }
}

/// The request that asks how far the operation of [`operation`] is.
pub(crate) const ASK_OPERATION: &str = "GET /v1/operations/00000000-0000-0000-0000-000000000007";

/// The same, answered when the operation is over or after half a second.
pub(crate) const AWAIT_OPERATION: &str =
    "GET /v1/operations/00000000-0000-0000-0000-000000000007?wait_ms=500";

pub(crate) fn accepted(operation: Operation) -> Accepted {
    Accepted { operation, findings: Vec::new() }
}

pub(crate) fn in_use() -> Problem {
    Problem::new(diagnostics::partitions_in_use(&gpu_key(), &["VM desk-01".to_owned()]))
}
