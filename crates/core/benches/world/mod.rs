//! Hosts with 8 GPUs of 16 partitions, and VMs on them, for the benches of the planner.

use std::collections::BTreeMap;

use tranche_core::inventory::*;
use tranche_core::name::*;
use tranche_core::plan::{Booking, GpuPlan, Plan, Settled, VmGoal, VmPlan};
use tranche_core::spec::*;
use tranche_core::step::VFIO_DRIVER;
use uuid::Uuid;

const GPUS: u8 = 8;
const PARTITIONS: u16 = 16;

/// `node1`, `node2`, ….
pub(crate) fn host(number: usize) -> HostName {
    format!("node{number}").parse().expect("a valid name")
}

fn function(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress { domain: 0, bus, device, function }
}

/// One host, all of whose partitions have VMs, which run or are about to start.
pub(crate) fn world(running: bool) -> (Spec, Inventory, Plan) {
    let (mut spec, mut plan) = (Spec::default(), Plan::default());
    let seen = add_host(&host(1), usize::MAX, running, &mut spec, &mut plan);
    (spec, Inventory::from([(host(1), seen.into())]), plan)
}

/// Adds a host with as many VMs as it has partitions, but not more than `vms`. Returns what it reports.
pub(crate) fn add_host(
    host: &HostName,
    vms: usize,
    running: bool,
    spec: &mut Spec,
    plan: &mut Plan,
) -> HostInventory {
    let mut gpus = BTreeMap::new();
    let mut domains = BTreeMap::new();
    let mut wished = 0;
    for bus in 0..GPUS {
        let gpu = gpu(bus);
        let key = GpuKey { host: host.clone(), address: gpu.address.clone() };
        let mode = GpuMode::Partitioned { count: PARTITIONS, series: None };
        spec.gpus.insert(key.clone(), GpuSpec { mode: mode.clone(), identity: gpu.identity(), reloads: 0 });
        let offer = gpu.offers.first().cloned();
        plan.gpus.insert(
            key.clone(),
            GpuPlan {
                mode,
                offer,
                identity: gpu.identity(),
                host_drivers: BTreeMap::new(),
                sizes: Vec::new(),
                was_mixed: false,
                autoprobe_was_off: false,
                reloads: 0,
                reload: None,
            },
        );
        for partition in &gpu.partitions {
            let index = partition.index.expect("ours");
            if wished >= vms {
                break;
            }
            wished += 1;
            let name: VmName = format!("vm-{host}-{bus}-{index}").parse().expect("a valid name");
            let id = VmId(Uuid::from_u128(1 + spec.vms.len() as u128));
            spec.vms.insert(name.clone(), vm(id));
            if running {
                let device = HostDevice { source: (&partition.device).into(), ours: true };
                domains.insert(name.to_string(), domain(&name, id, device));
                let slot = SlotKey { gpu: key.clone(), slot: Slot::Partition(index) };
                plan.bookings.insert(slot, Booking { vm: name.clone(), vm_id: id, since: Timestamp(0) });
                let settled =
                    Some(Settled { serial: 1, running: true, boot_id: "boot".to_owned(), rests: None });
                plan.vms.insert(name, VmPlan { settled, ..VmPlan::new(host.clone(), id, VmGoal::Run) });
            }
        }
        gpus.insert(gpu.address.clone(), gpu);
    }
    HostInventory {
        host: host.clone(),
        boot_id: "boot".to_owned(),
        observed_at: Timestamp(0),
        system: SystemFacts {
            kernel: "6.12.0".to_owned(),
            cpu_model: "model".to_owned(),
            cpu_features: std::collections::BTreeSet::new(),
            cpus: 64,
            memory_mib: 1 << 20,
            iommu: Iommu::On { units: vec!["dmar0".to_owned()] },
            iommufd: false,
            watchdog: None,
            numa: Vec::new(),
        },
        hypervisor: Hypervisor::Up {
            libvirt: "11.3.0".to_owned(),
            qemu: "10.0.2".to_owned(),
            domains,
            resources: None,
        },
        gpus,
        stuck: Vec::new(),
        notes: Vec::new(),
        progress: tranche_core::inventory::Progress::default(),
        pulse: None,
        unread: None,
    }
}

fn gpu(bus: u8) -> Gpu {
    let address = function(bus, 0, 0);
    let group = |id, address| {
        let member = GroupMember {
            address,
            class: 0x03_0200,
            driver: Some(VFIO_DRIVER.to_owned()),
            driver_override: None,
        };
        Some(IommuGroup { id, members: vec![member] })
    };
    let partitions = (0..PARTITIONS).map(|index| {
        let at = u8::try_from(index).expect("few");
        let address = function(bus + 0x20, 4 + at / 8, at % 8);
        ObservedPartition {
            index: Some(index),
            device: PartitionDevice::Vf { address },
            driver: Some(VFIO_DRIVER.to_owned()),
            iommu_group: group(u32::from(bus) * 100 + u32::from(index), address),
            profile: None,
            mmio_mib: 0,
            open_by: Vec::new(),
            vram_mib: None,
            answers: true,
            telemetry: None,
            migration: None,
        }
    });
    Gpu {
        address: GpuAddress::Pci(address),
        ids: PciIds { vendor: 0x1af4, device: 0xaa, subvendor: 0x1af4, subdevice: 1 },
        unique_id: None,
        board: None,
        class: 0x03_0200,
        model: "Model GPU".to_owned(),
        emulated: true,
        vram_mib: Some(16_384),
        driver: Some("model".to_owned()),
        driver_version: None,
        numa_node: Some(u16::from(bus / 4)),
        iommu_group: group(u32::from(bus), address),
        bars: Vec::new(),
        reset_methods: vec!["flr".to_owned()],
        boot_vga: false,
        aer: None,
        health: Health::default(),
        telemetry: None,
        migration: None,
        backend: Some(Backend::SriovVfio),
        partition_driver: VFIO_DRIVER.to_owned(),
        sriov: Some(Sriov { total_vfs: PARTITIONS, vfs: PARTITIONS, autoprobe: false }),
        offers: vec![Offer {
            count: PARTITIONS,
            profile: "1/16".to_owned(),
            series: None,
            vram_mib: Some(1_024),
        }],
        partitions: partitions.collect(),
        mixed: Vec::new(),
        blanks: Vec::new(),
        reload: None,
        open_by: Vec::new(),
    }
}

fn vm(id: VmId) -> VmSpec {
    VmSpec {
        id,
        source: VmSource::Adopted,
        request: Request::ANY_PARTITION,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: tranche_core::spec::Availability::default(),
        run: Run::Running,
        serial: 1,
        relocation: None,
        handover: None,
        created_at: Timestamp(0),
    }
}

fn domain(name: &VmName, id: VmId, device: HostDevice) -> Domain {
    Domain {
        name: name.to_string(),
        uuid: id.0,
        state: DomainState::Running,
        persistent: true,
        autostart: false,
        vcpus: 2,
        memory_mib: 4_096,
        live_devices: vec![device.clone()],
        defined_devices: vec![device],
        machine: None,
        blockers: std::collections::BTreeSet::new(),
        consoles: std::collections::BTreeSet::new(),
    }
}
