//! What keeps a VM from a host, room aside.

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{HostInventory, Hypervisor, Network, Resources, StoragePool};
use tranche_core::name::{Timestamp, VmId};
use tranche_core::spec::{Availability, Request, Run, VmHardware, VmSource, VmSpec, VolumeRef};
use tranche_core::whereabouts::{Lack, host_lacks, lacks};
use uuid::Uuid;

use crate::world::{World, hardware, vm};

/// A VM with disks in these pools and these networks.
fn wants(pools: &[&str], networks: &[&str]) -> VmSpec {
    let disk = |pool: &&str| VolumeRef { pool: (*pool).to_owned(), volume: "disk".to_owned() };
    let networks = networks.iter().map(|network| (*network).to_owned()).collect();
    let hardware = VmHardware { disks: pools.iter().map(disk).collect(), networks, ..hardware() };
    spec(VmSource::Made(hardware))
}

fn spec(source: VmSource) -> VmSpec {
    VmSpec {
        id: VmId(Uuid::from_u128(7)),
        source,
        request: Request::ANY_PARTITION,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: Availability::default(),
        run: Run::Running,
        serial: 1,
        relocation: None,
        handover: None,
        created_at: Timestamp(0),
    }
}

/// A host that tells of these resources, or of none.
fn observed(told: Option<Resources>) -> HostInventory {
    let mut world = World::with_gpus(1);
    let Hypervisor::Up { resources, .. } = &mut world.seen().hypervisor else { panic!("libvirt is up") };
    *resources = told;
    world.seen().clone()
}

fn pool(active: bool, shared: bool) -> StoragePool {
    StoragePool { kind: "dir".to_owned(), path: Some("/srv/vms".to_owned()), active, shared }
}

fn usual() -> Resources {
    Resources {
        pools: [
            ("own".to_owned(), pool(true, false)),
            ("shared".to_owned(), pool(true, true)),
            ("off".to_owned(), pool(false, true)),
        ]
        .into(),
        networks: [
            ("lan".to_owned(), Network { active: true }),
            ("off".to_owned(), Network { active: false }),
        ]
        .into(),
    }
}

/// Another host, that tells of these resources or of none.
fn other(told: Option<Resources>) -> HostInventory {
    HostInventory { host: "other".parse().unwrap(), ..observed(told) }
}

fn found(wanted: &VmSpec, home: Option<&HostInventory>, seen: &HostInventory) -> Vec<Finding> {
    host_lacks((&vm("desk"), wanted), home, seen)
}

#[test]
fn a_vm_is_at_home_where_its_own_pool_is_and_goes_only_where_its_pools_are_shared() {
    let seen = observed(Some(usual()));
    let silent = other(None);
    let with_own = other(Some(Resources {
        pools: ["shared", "nowhere"].map(|name| (name.to_owned(), pool(true, false))).into(),
        ..usual()
    }));
    for (pools, home, expected) in [
        (["own", "shared"], None, vec![]),
        (["own", "shared"], Some(&seen), vec![]),
        (["own", "shared"], Some(&silent), vec![Code::StorageLocal]),
        (["shared", "shared"], Some(&silent), vec![]),
        (["off", "own"], Some(&silent), vec![Code::StorageMissing, Code::StorageLocal]),
        (["nowhere", "nowhere"], None, vec![Code::StorageMissing]),
        (["nowhere", "shared"], Some(&with_own), vec![Code::StorageLocal, Code::StorageLocal]),
    ] {
        let codes: Vec<Code> =
            found(&wants(&pools, &["lan"]), home, &seen).iter().map(|finding| finding.code).collect();
        assert_eq!(codes, expected, "{pools:?} {:?}", home.map(|home| &home.host));
    }
    let unknown = observed(None);
    let bound = found(&wants(&["nowhere"], &[]), Some(&with_own), &unknown);
    assert_eq!(bound.len(), 1, "what the home tells is enough: {bound:?}");
}

#[test]
fn each_network_that_is_missing_or_off_is_named_once() {
    let seen = observed(Some(usual()));
    let wanted = wants(&[], &["lan", "off", "nowhere", "off"]);
    let name = vm("desk");
    let lacking: Vec<Lack<'_>> = lacks((&name, &wanted), None, &seen).collect();
    assert_eq!(lacking, [Lack::NetworkInactive("off"), Lack::Network("nowhere")]);
    let words = found(&wanted, None, &seen);
    assert!(words[0].message.contains("off") && words[0].message.contains("desk"), "{}", words[0]);
    assert!(words[0].hint.contains("virsh net-start off"), "{}", words[0]);
}

#[test]
fn what_is_not_known_keeps_nobody_away() {
    let wanted = wants(&["nowhere"], &["nowhere"]);
    assert_eq!(found(&wanted, Some(&other(None)), &observed(None)), []);
    let mut silent = observed(Some(usual()));
    silent.hypervisor = Hypervisor::Down { reason: "it restarts".to_owned() };
    assert_eq!(found(&wanted, Some(&other(None)), &silent), []);
    assert_eq!(found(&spec(VmSource::Adopted), Some(&other(None)), &silent), []);
}

#[test]
fn an_adopted_vm_stays_where_its_definition_is() {
    let mut world = World::with_gpus(1);
    let adopted = spec(VmSource::Adopted);
    assert_eq!(found(&adopted, Some(&observed(None)), world.seen()), []);
    let [finding] = &found(&adopted, Some(&other(None)), world.seen())[..] else { panic!("one finding") };
    assert_eq!(finding.code, Code::DefinitionLocal);
    assert!(finding.message.contains("host other"), "{finding}");

    let seen = world.seen();
    let domain = tranche_core::inventory::Domain {
        consoles: std::collections::BTreeSet::new(),
        name: "desk".to_owned(),
        uuid: adopted.id.0,
        state: tranche_core::inventory::DomainState::Running,
        persistent: true,
        autostart: false,
        vcpus: 1,
        memory_mib: 512,
        live_devices: Vec::new(),
        defined_devices: Vec::new(),
        machine: None,
        blockers: std::collections::BTreeSet::new(),
    };
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("libvirt is up") };
    domains.insert("desk".to_owned(), domain);
    assert_eq!(found(&adopted, Some(&other(None)), seen), []);
}
