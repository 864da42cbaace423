//! How the world is at the beginning: who is a member, and what people asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use tranche_core::name::{GpuAddress, GpuKey, PciAddress, Timestamp, VmId};
use tranche_core::spec::{
    Duty, FenceSpec, Firmware, GpuMode, GpuSpec, HostSpec, Policy, Run, Spec, VmHardware, VmSource, VmSpec,
};
use tranche_store::{Repository, Saved, State, Store, Terms};
use uuid::Uuid;

use crate::node::Node;
use crate::scenario::{HostSetup, Scenario, VmSetup};

/// What people asked for before the beginning.
pub(crate) fn write_wishes(store: &Arc<dyn Store>, nodes: &[Node], scenario: &Scenario) {
    let mut spec = Spec {
        policy: Policy {
            placement: scenario.placement,
            failover: scenario.failover,
            shutdown: scenario.shutdown,
            ..Policy::default()
        },
        ..Spec::default()
    };
    for node in nodes.iter().filter(|node| node.member) {
        take_in(&mut spec, node, Timestamp(0));
    }
    for (index, (name, setup)) in scenario.vms.iter().enumerate() {
        let id = VmId(Uuid::from_u128(index as u128 + 1));
        spec.vms.insert(name.clone(), wished(setup, id, index as u64));
    }
    spec.rules = scenario.rules.clone().into();
    let repository = Repository::new(Arc::clone(store));
    let loaded = repository.load().expect("a store in memory is read");
    let next = State { spec: spec.into(), ..State::default() };
    let saved = repository.commit(loaded, next, &Terms::default()).expect("a store in memory is written");
    assert!(matches!(saved, Saved::Committed(_)), "nobody else writes yet");
}

/// A host becomes a member, with the wishes for its GPUs.
pub(crate) fn take_in(spec: &mut Spec, node: &Node, joined_at: Timestamp) {
    let Node { name, setup, model, .. } = node;
    spec.hosts.insert(name.clone(), member(setup, joined_at));
    for bus in 1..=setup.gpus {
        let address = PciAddress { domain: 0, bus, device: 0, function: 0 };
        let key = GpuKey { host: name.clone(), address: GpuAddress::Pci(address) };
        let identity = model.identity(&key.address).expect("it has this GPU");
        let mode = match setup.partitions {
            0 => GpuMode::Passthrough { allow_console: false, pool: None },
            count => GpuMode::Partitioned { count, series: None },
        };
        spec.gpus.insert(key, GpuSpec { mode, identity, reloads: 0 });
    }
}

fn member(setup: &HostSetup, joined_at: Timestamp) -> HostSpec {
    let fence = setup.agent.then(|| FenceSpec {
        agent: "fence_virsh".parse().expect("it is an agent's name"),
        options: BTreeMap::new(),
        leave_off: setup.leave_off,
    });
    HostSpec {
        joined_at,
        labels: setup.labels.clone(),
        duty: Duty::Serving,
        fence,
        said_down: None,
        departure: None,
        reserved_memory_mib: 0,
    }
}

pub(crate) fn hardware(setup: &VmSetup) -> VmHardware {
    VmHardware {
        vcpus: 1,
        memory_mib: setup.memory_mib,
        disks: Vec::new(),
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: Some("ubuntu22.04".to_owned()),
        cloud_init: None,
    }
}

fn wished(setup: &VmSetup, id: VmId, created_at: u64) -> VmSpec {
    VmSpec {
        id,
        source: VmSource::Made(hardware(setup)),
        request: setup.gpu.clone(),
        reserved: setup.reserved,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: setup.availability,
        run: if setup.running { Run::Running } else { Run::Stopped },
        serial: 1,
        relocation: None,
        handover: None,
        created_at: Timestamp(created_at),
    }
}
