//! Storage pools and networks in placement: a VM goes only where all that it uses by name is.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tranche_core::capacity::capacity;
use tranche_core::change::{self, Change};
use tranche_core::effect::{VmEffect, preview};
use tranche_core::finding::Code;
use tranche_core::inventory::{Hypervisor, Network, Resources, StoragePool};
use tranche_core::name::{Timestamp, VmId};
use tranche_core::plan::{VmGoal, VmPlan};
use tranche_core::spec::{Duty, Request, VmHardware, VmSource, VolumeRef};
use tranche_core::whereabouts::{host_lacks, lacks};
use tranche_core::why::why_not;
use uuid::Uuid;

use crate::fleet::{Fleet, node};
use crate::led::Cluster;
use crate::world::{hardware, vm};

const ANY: Request = Request::ANY_PARTITION;

fn pool(active: bool, shared: bool) -> StoragePool {
    StoragePool { kind: "dir".to_owned(), path: None, active, shared }
}

/// What a host has: a pool of its own, one that all share, and a network.
fn usual() -> Resources {
    Resources {
        pools: [("own".to_owned(), pool(true, false)), ("shared".to_owned(), pool(true, true))].into(),
        networks: [("lan".to_owned(), Network { active: true })].into(),
    }
}

fn tell(fleet: &mut Fleet, number: usize, told: Option<Resources>) {
    let seen = fleet.inventory.get_mut(&node(number)).unwrap();
    let Hypervisor::Up { resources, .. } = &mut seen.hypervisor else { panic!("it is up") };
    *resources = told;
}

/// So many hosts with room for two VMs, each with the usual resources.
fn fleet(hosts: usize) -> Fleet {
    let mut fleet = Fleet::new(hosts, 1, 2);
    (1..=hosts).for_each(|number| tell(&mut fleet, number, Some(usual())));
    fleet
}

fn uses(pools: &[&str], networks: &[&str]) -> VmSource {
    let disk = |pool: &&str| VolumeRef { pool: (*pool).to_owned(), volume: "disk".to_owned() };
    let networks = networks.iter().map(|network| (*network).to_owned()).collect();
    VmSource::Made(VmHardware { disks: pools.iter().map(disk).collect(), networks, ..hardware() })
}

#[test]
fn a_vm_whose_disks_are_its_dead_hosts_own_waits_for_that_host_and_others_start_elsewhere() {
    let mut fleet = fleet(2);
    fleet.add("bound", ANY).source = uses(&["shared", "own"], &["lan"]);
    fleet.add("free", ANY).source = uses(&["shared"], &["lan"]);
    let mut cluster = Cluster::new(fleet);
    cluster.pass();
    assert_eq!((cluster.at("bound"), cluster.at("free")), (Some(node(1)), Some(node(1))), "packed");
    cluster.power(1, false);
    assert_eq!(cluster.at("free"), Some(node(2)));
    assert_eq!(cluster.fleet.plan.vms[&vm("bound")].host, node(1));
    let said = cluster.said_of("bound");
    assert!(
        said.iter().any(|(code, text)| *code == Code::StorageLocal
            && text.contains("own")
            && text.contains("node1")),
        "{said:?}"
    );
    cluster.power(1, true);
    assert_eq!(cluster.at("bound"), Some(node(1)), "{:#?}", cluster.findings);
    let said = cluster.said_of("bound");
    assert!(said.iter().all(|(code, _)| *code != Code::StorageLocal), "{said:?}");
}

#[test]
fn a_vm_that_its_host_ended_because_it_was_taken_for_down_runs_again_there() {
    let mut fleet = fleet(2);
    fleet.add("bound", ANY).source = uses(&["own"], &["lan"]);
    let mut cluster = Cluster::new(fleet);
    cluster.pass();
    cluster.power(1, false);
    assert_eq!(cluster.fleet.plan.vms[&vm("bound")].host, node(1));
    cluster.wakes(1);
    assert_eq!(cluster.at("bound"), Some(node(1)), "nobody shut it down: {:#?}", cluster.findings);
}

#[test]
fn a_vm_that_never_ran_goes_to_any_host_that_has_its_pool_and_is_bound_from_then_on() {
    let mut fleet = fleet(3);
    let without = Resources { pools: [("shared".to_owned(), pool(true, true))].into(), ..usual() };
    tell(&mut fleet, 1, Some(without));
    fleet.add("desk", ANY).source = uses(&["own"], &[]);
    fleet.spec.hosts.get_mut(&node(2)).unwrap().duty = Duty::Maintenance;
    let mut cluster = Cluster::new(fleet);
    cluster.pass();
    assert_eq!(cluster.at("desk"), Some(node(3)));
    cluster.fleet.spec.hosts.get_mut(&node(2)).unwrap().duty = Duty::Serving;
    cluster.fleet.spec.hosts.get_mut(&node(3)).unwrap().duty = Duty::Maintenance;
    cluster.pass();
    assert_eq!(cluster.at("desk"), Some(node(3)), "it stays where its disk is");
    let said = cluster.said_of("desk");
    assert!(said.iter().any(|(code, text)| *code == Code::DrainBlocked && text.contains("own")), "{said:?}");
    let wish = cluster.fleet.spec.vms.get_mut(&vm("desk")).unwrap();
    wish.run = tranche_core::spec::Run::Stopped;
    wish.serial += 1;
    cluster.pass();
    let wish = cluster.fleet.spec.vms.get_mut(&vm("desk")).unwrap();
    wish.run = tranche_core::spec::Run::Running;
    wish.serial += 1;
    cluster.pass();
    assert_eq!(cluster.at("desk"), None, "it waits for its host");
    cluster.fleet.spec.hosts.get_mut(&node(3)).unwrap().duty = Duty::Serving;
    cluster.pass();
    assert_eq!(cluster.at("desk"), Some(node(3)));
}

#[test]
fn a_vm_of_a_dead_host_does_not_start_where_a_pool_of_that_name_is_another_one() {
    let mut fleet = fleet(3);
    let own = Resources { pools: [("shared".to_owned(), pool(true, false))].into(), ..usual() };
    tell(&mut fleet, 2, Some(own));
    fleet.add("desk", ANY).source = uses(&["shared"], &[]);
    for filler in ["a", "b"] {
        fleet.add(filler, ANY);
        tell(&mut fleet, 3, None);
        assert!(fleet.run_on(filler, &node(3)));
    }
    let mut cluster = Cluster::new(fleet);
    cluster.pass();
    assert_eq!(cluster.at("desk"), Some(node(1)));
    cluster.power(1, false);
    assert_eq!(cluster.at("desk"), None, "{:#?}", cluster.fleet.plan.vms);
    let said = cluster.said_of("desk");
    assert!(
        said.iter().any(|(code, text)| *code == Code::StorageLocal && text.contains("node2")),
        "{said:?}"
    );
    for filler in ["a", "b"] {
        cluster.fleet.spec.vms.get_mut(&vm(filler)).unwrap().run = tranche_core::spec::Run::Deleted;
    }
    cluster.pass();
    assert_eq!(cluster.at("desk"), Some(node(3)), "of node3 nothing is known");
}

#[test]
fn a_vm_waits_for_a_network_by_name_and_starts_when_it_is_started() {
    let mut fleet = fleet(2);
    fleet.add("desk", ANY).source = uses(&["shared"], &["lan", "storage"]);
    let mut cluster = Cluster::new(fleet);
    cluster.pass();
    assert_eq!(cluster.at("desk"), None);
    let said = cluster.said_of("desk");
    assert!(
        said.iter().any(|(code, text)| *code == Code::NetworkMissing && text.contains("storage")),
        "{said:?}"
    );
    let fleet = &cluster.fleet;
    let state = change::State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    let why = why_not(&vm("desk"), &node(2), state).unwrap();
    assert!(why.iter().any(|finding| finding.code == Code::NetworkMissing), "{why:#?}");
    let mut with = usual();
    with.networks.insert("storage".to_owned(), Network { active: true });
    tell(&mut cluster.fleet, 2, Some(with));
    cluster.pass();
    assert_eq!(cluster.at("desk"), Some(node(2)));
}

#[test]
fn a_drain_and_spare_capacity_name_the_pool_that_keeps_a_vm_on_its_host() {
    let mut fleet = fleet(2);
    fleet.add("bound", ANY).source = uses(&["own"], &[]);
    fleet.add("free", ANY).source = uses(&["shared"], &[]);
    let mut cluster = Cluster::new(fleet);
    cluster.pass();
    let fleet = &cluster.fleet;
    let state = change::State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    let told = capacity(state, &[].into()).unwrap();
    let stranded = &told.hosts[0].stranded;
    assert_eq!(stranded.iter().map(|left| left.vm.clone()).collect::<Vec<_>>(), [vm("bound")]);
    assert_eq!(stranded[0].why.code, Code::StorageLocal);
    assert!(stranded[0].why.message.contains("own"), "{}", stranded[0].why);
    let wish = Change::SetHostDuty { host: node(1), along: [].into(), duty: Duty::Maintenance };
    let admitted = change::admit(&wish, state, VmId(Uuid::nil()), Timestamp(1)).unwrap();
    let effect = preview(&admitted.spec, state, Timestamp(cluster.now));
    let told: Vec<_> = effect.vms.iter().map(|(name, effect)| (name.as_str(), *effect)).collect();
    assert_eq!(told, [("bound", VmEffect::Stays), ("free", VmEffect::Moves)]);
}

/// A host's pools `a` and `b` and its network, each there or not.
fn resources() -> impl Strategy<Value = Option<Resources>> {
    let state = || prop::option::weighted(0.8, (any::<bool>(), prop::bool::weighted(0.7)));
    let told = (state(), state(), prop::option::weighted(0.8, prop::bool::weighted(0.8)));
    let told = told.prop_map(|(a, b, network)| Resources {
        pools: [("a", a), ("b", b)]
            .into_iter()
            .filter_map(|(name, is)| is.map(|(active, shared)| (name.to_owned(), pool(active, shared))))
            .collect(),
        networks: network.map(|active| ("n".to_owned(), Network { active })).into_iter().collect(),
    });
    prop::option::weighted(0.8, told)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is asked of all hosts at once is what is asked of one.
    #[test]
    fn a_place_is_on_a_host_that_lacks_nothing_and_there_is_none_only_if_all_lack_something(
        told in prop::collection::vec(resources(), 5),
        disks in prop::collection::vec(prop_oneof![Just("a"), Just("b")], 0..3),
        networks in prop::collection::vec(Just("n"), 0..2),
        home in prop::option::of(1usize..6),
        full in prop::collection::btree_map(1usize..6, Just(()), 0..3),
    ) {
        let mut fleet = Fleet::new(5, 1, 1);
        for number in full.keys() {
            let name = format!("filler{number}");
            fleet.add(&name, ANY);
            prop_assert!(fleet.run_on(&name, &node(*number)));
        }
        for (number, told) in (1..).zip(told) {
            tell(&mut fleet, number, told);
        }
        let name = vm("desk");
        fleet.add("desk", ANY).source = uses(&disks, &networks);
        if let Some(home) = home {
            let planned = VmPlan { ran_on: Some(node(home)), ..VmPlan::new(node(5), fleet.spec.vms[&name].id, VmGoal::Stop) };
            fleet.plan.vms.insert(name.clone(), planned);
        }
        let wanted = (&name, &fleet.spec.vms[&name]);
        let at_home = home.map(|home| &*fleet.inventory[&node(home)]);
        let board = fleet.board();
        let mut serving = BTreeMap::new();
        for number in 1..6 {
            let observed = &fleet.inventory[&node(number)];
            let serves = lacks(wanted, at_home, observed).next().is_none();
            let here = board.choose(wanted, Some(&node(number)));
            prop_assert_eq!(here.is_ok(), serves && !full.contains_key(&number), "host {}", number);
            let obstacles = board.obstacles(wanted, &node(number));
            for finding in host_lacks(wanted, at_home, observed) {
                prop_assert!(obstacles.contains(&finding));
            }
            serving.insert(node(number), serves && !full.contains_key(&number));
        }
        match board.choose(wanted, None) {
            Ok(place) => prop_assert!(serving[&place.host]),
            Err(finding) => {
                prop_assert!(serving.values().all(|serves| !serves));
                let is_full = |number| full.contains_key(&number);
                let code = finding.code;
                let of_resources = [Code::StorageMissing, Code::StorageLocal, Code::NetworkMissing].contains(&code);
                prop_assert!(of_resources || (1..6).all(is_full), "{}", finding);
            }
        }
    }
}
