//! Many hosts on paper: nothing is carried out, only decided.

use std::collections::BTreeMap;

use tranche_core::inventory::{Domain, DomainState, Inventory, OffReason, Pulse};
use tranche_core::name::*;
use tranche_core::placement::{Board, Uses, UsesByHost};
use tranche_core::plan::{Booking, GpuPlan, HostPlan, Plan, VmGoal, VmPlan};
use tranche_core::spec::*;
use uuid::Uuid;

use crate::world::{World, gpu, hardware, partitioned, vm};

/// A cluster with VMs.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    pub(crate) spec: Spec,
    pub(crate) inventory: Inventory,
    pub(crate) plan: Plan,
}

/// `node1`, `node2`, ….
pub(crate) fn node(number: usize) -> HostName {
    format!("node{number}").parse().unwrap()
}

impl Fleet {
    /// So many hosts, each with so many GPUs of so many partitions (1, 2, 4 or 8), 64 GiB and 8 processors. Odd buses are
    /// on NUMA node 1.
    pub(crate) fn new(hosts: usize, gpus: u8, partitions: u16) -> Self {
        let world = World::with_gpus(gpus);
        let model = world.inventory.values().next().unwrap();
        let mut fleet = Self { spec: Spec::default(), inventory: Inventory::new(), plan: Plan::default() };
        for number in 1..=hosts {
            let host = node(number);
            let mut seen = model.clone();
            seen.host = host.clone();
            seen.pulse = Some(Pulse { armed: true, ..Pulse::default() });
            for bus in 1..=gpus {
                let key = GpuKey { host: host.clone(), ..gpu(bus) };
                let card = &seen.gpus[&key.address];
                let mode = partitioned(partitions);
                let wish = GpuSpec { mode: mode.clone(), identity: card.identity(), reloads: 0 };
                let planned = GpuPlan {
                    mode,
                    offer: card.offer(partitions, None).cloned(),
                    sizes: Vec::new(),
                    was_mixed: false,
                    identity: card.identity(),
                    host_drivers: BTreeMap::new(),
                    autoprobe_was_off: false,
                    reloads: 0,
                    reload: None,
                };
                fleet.spec.gpus.insert(key.clone(), wish);
                fleet.plan.gpus.insert(key, planned);
            }
            let member = HostSpec {
                joined_at: Timestamp(0),
                labels: BTreeMap::new(),
                duty: Duty::Serving,
                fence: None,
                said_down: None,
                departure: None,
                reserved_memory_mib: 0,
            };
            fleet.spec.hosts.insert(host.clone(), member);
            fleet.plan.hosts.insert(host.clone(), HostPlan::default());
            fleet.inventory.insert(host, seen);
        }
        fleet
    }

    /// Adds a VM that shall run; later ones are younger.
    pub(crate) fn add(&mut self, name: &str, request: Request) -> &mut VmSpec {
        let age = self.spec.vms.len() as u64;
        let spec = VmSpec {
            id: VmId(Uuid::from_u128(u128::from(age) + 1)),
            source: VmSource::Made(hardware()),
            request,
            reserved: false,
            labels: tranche_core::label::Labels::new(),
            prefer_numa_node: None,
            availability: Availability::default(),
            run: Run::Running,
            serial: 1,
            relocation: None,
            handover: None,
            created_at: Timestamp(age),
        };
        self.spec.vms.entry(vm(name)).or_insert(spec)
    }

    /// Runs a VM where there is room on a host. Says whether there was.
    pub(crate) fn run_on(&mut self, name: &str, host: &HostName) -> bool {
        let name = vm(name);
        let spec = self.spec.vms[&name].clone();
        let unruled = Spec { rules: tranche_core::map::Map::new(), ..self.spec.clone() };
        let place = Board::new(&unruled, &self.inventory, &self.plan.gpus, &self.plan, &self.uses())
            .take((&name, &spec), Some(host));
        let Ok(place) = place else { return false };
        for slot in place.slots {
            let booking = Booking { vm: name.clone(), vm_id: spec.id, since: Timestamp(0) };
            self.plan.bookings.insert(slot, booking);
        }
        let planned = VmPlan::new(host.clone(), spec.id, VmGoal::Run);
        self.plan.vms.insert(name, planned);
        true
    }

    pub(crate) fn uses(&self) -> UsesByHost {
        self.inventory.iter().map(|(host, seen)| (host.clone(), Uses::of(seen))).collect()
    }

    pub(crate) fn board(&self) -> Board<'_> {
        Board::new(&self.spec, &self.inventory, &self.plan.gpus, &self.plan, &self.uses())
    }
}

pub(crate) fn model_domain(name: &VmName, id: VmId, hardware: &VmHardware) -> Domain {
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
