//! A state of any size, as a busy host would have it: every VM runs on a partition of its own.

use std::collections::BTreeMap;

use tranche_core::identity::GpuIdentity;
use tranche_core::inventory::{Domain, DomainState, HostInventory, Hypervisor, Iommu, Offer, SystemFacts};
use tranche_core::name::{GpuKey, HostName, SlotKey, Timestamp, VmId, VmName};
use tranche_core::plan::{Booking, GpuPlan, Settled, VmGoal, VmPlan};
use tranche_core::spec::{Firmware, GpuMode, GpuSpec, Request, Run, VmHardware, VmSource, VmSpec, VolumeRef};
use tranche_store::State;
use uuid::Uuid;

pub(crate) const PARTITIONS_PER_GPU: u16 = 16;

/// So many VMs on one host, each with a partition.
pub(crate) fn fleet(vms: usize) -> State {
    let mut state = State::default();
    for index in 0..vms {
        add_vm(&mut state, index);
    }
    let domains = state.spec.vms.iter().map(|(name, vm)| (name.to_string(), domain(name, vm.id))).collect();
    let hypervisor =
        Hypervisor::Up { libvirt: "11.3.0".to_owned(), qemu: "10.0.2".to_owned(), domains, resources: None };
    let inventory = HostInventory {
        host: host(),
        boot_id: "0e2b4f8c-1b7a-4bb0-9f43-7d3c1e1f9a11".to_owned(),
        observed_at: Timestamp(1_700_000_000_000),
        system: SystemFacts {
            kernel: "6.12.57+deb13-amd64".to_owned(),
            cpu_model: "a processor".to_owned(),
            cpu_features: std::collections::BTreeSet::new(),
            cpus: 64,
            memory_mib: 1 << 20,
            iommu: Iommu::On { units: vec!["dmar0".to_owned()] },
            iommufd: false,
            watchdog: None,
            numa: Vec::new(),
        },
        hypervisor,
        gpus: BTreeMap::new(),
        stuck: Vec::new(),
        notes: Vec::new(),
        progress: tranche_core::inventory::Progress::default(),
        pulse: None,
        unread: None,
    };
    state.inventory.insert(host(), inventory.into());
    state.plan.generations.insert(host(), 7);
    state
}

pub(crate) fn host() -> HostName {
    "node1".parse().unwrap()
}

pub(crate) fn vm_name(index: usize) -> VmName {
    format!("desk-{index:04}").parse().unwrap()
}

/// The GPU that serves the VM with this index; there is a new one for every 16 VMs.
pub(crate) fn gpu(index: usize) -> GpuKey {
    let bus = index / usize::from(PARTITIONS_PER_GPU);
    format!("node1/{:04x}:{:02x}:00.0", bus / 256, bus % 256).parse().unwrap()
}

pub(crate) fn slot(index: usize) -> SlotKey {
    format!("{}/{}", gpu(index), index % usize::from(PARTITIONS_PER_GPU)).parse().unwrap()
}

pub(crate) fn vm_id(index: usize) -> VmId {
    VmId(Uuid::from_u128(0x7000_0000_0000_0000_0000_0000 + index as u128))
}

fn add_vm(state: &mut State, index: usize) {
    let name = vm_name(index);
    let mode = GpuMode::Partitioned { count: PARTITIONS_PER_GPU, series: None };
    let identity: GpuIdentity = "10de:25b6:10de:14a9".parse().unwrap();
    let offer = Offer {
        count: PARTITIONS_PER_GPU,
        profile: "NVIDIA A16-1Q".to_owned(),
        series: Some("Q".to_owned()),
        vram_mib: Some(1024),
    };
    state
        .spec
        .gpus
        .insert(gpu(index), GpuSpec { mode: mode.clone(), identity: identity.clone(), reloads: 0 });
    let planned = GpuPlan {
        mode,
        offer: Some(offer),
        identity,
        host_drivers: BTreeMap::new(),
        sizes: Vec::new(),
        was_mixed: false,
        autoprobe_was_off: false,
        reloads: 0,
        reload: None,
    };
    state.plan.gpus.insert(gpu(index), planned);
    let hardware = VmHardware {
        vcpus: 4,
        memory_mib: 8192,
        disks: vec![VolumeRef { pool: "default".to_owned(), volume: format!("{name}.qcow2") }],
        networks: vec!["default".to_owned()],
        firmware: Firmware::Uefi,
        guest_os: Some("ubuntu22.04".to_owned()),
        cloud_init: Some(format!(
            "#cloud-config\nhostname: {name}\n{}",
            "# a line of user data\n".repeat(20)
        )),
    };
    let spec = VmSpec {
        id: vm_id(index),
        source: VmSource::Made(hardware),
        request: Request::ANY_PARTITION,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: tranche_core::spec::Availability::default(),
        run: Run::Running,
        serial: 1,
        relocation: None,
        handover: None,
        created_at: Timestamp(1_700_000_000_000),
    };
    state.spec.vms.insert(name.clone(), spec);
    let settled = Settled { serial: 1, running: true, boot_id: "0e2b4f8c".to_owned(), rests: None };
    let planned = VmPlan { settled: Some(settled), ..VmPlan::new(host(), vm_id(index), VmGoal::Run) };
    state.plan.vms.insert(name.clone(), planned);
    book(state, index, slot(index));
}

/// Gives the VM with this index a slot.
pub(crate) fn book(state: &mut State, index: usize, slot: SlotKey) {
    let booking = Booking { vm: vm_name(index), vm_id: vm_id(index), since: Timestamp(1_700_000_000_000) };
    state.plan.bookings.insert(slot, booking);
}

fn domain(name: &VmName, id: VmId) -> Domain {
    Domain {
        name: name.to_string(),
        uuid: id.0,
        state: DomainState::Running,
        persistent: true,
        autostart: false,
        vcpus: 4,
        memory_mib: 8192,
        live_devices: Vec::new(),
        defined_devices: Vec::new(),
        machine: None,
        blockers: std::collections::BTreeSet::new(),
        consoles: std::collections::BTreeSet::new(),
    }
}
