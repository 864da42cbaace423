//! What a host brings into a cluster, judged before it is let in.

use tranche_core::change::{Arrival, State, arrive};
use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::map::Map;
use tranche_core::name::{GpuKey, Timestamp, VmId};
use tranche_core::spec::{GpuMode, Homogeneity, Request};
use uuid::Uuid;

use crate::fleet::{Fleet, node};
use crate::world::{gpu, partitioned, vm};

/// Three hosts of which the last has yet to join, and what that brings.
fn newcomer(policy: Homogeneity, change: impl FnOnce(&mut Fleet)) -> (Fleet, Arrival) {
    let mut fleet = Fleet::new(3, 2, 4);
    fleet.spec.policy.homogeneity = policy;
    change(&mut fleet);
    let mut alone = fleet.clone();
    alone.spec.hosts = Map::new();
    alone.spec.gpus.retain(|gpu, _| gpu.host == node(3));
    let brings = Arrival::of(&alone.spec, &alone.inventory, &node(3));
    fleet.spec.hosts.remove(&node(3));
    fleet.spec.gpus.retain(|gpu, _| gpu.host != node(3));
    fleet.plan.gpus.retain(|gpu, _| gpu.host != node(3));
    fleet.inventory.remove(&node(3));
    (fleet, brings)
}

fn judge(fleet: &Fleet, brings: &Arrival) -> Result<Vec<Finding>, Vec<Finding>> {
    let state = State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    arrive(&node(3), brings, state, Timestamp(9))
}

fn split_otherwise(fleet: &mut Fleet) {
    let key = GpuKey { host: node(3), ..gpu(1) };
    fleet.spec.gpus.get_mut(&key).unwrap().mode = partitioned(2);
}

fn another_card(fleet: &mut Fleet) {
    let address = gpu(1).address;
    fleet.inventory.get_mut(&node(3)).unwrap().gpus.get_mut(&address).unwrap().ids.device = 0x2222;
}

#[test]
fn a_host_like_the_others_is_let_in_without_a_word() {
    let (fleet, brings) = newcomer(Homogeneity::Strict, |_| {});
    assert_eq!(judge(&fleet, &brings), Ok(Vec::new()));
}

#[test]
fn one_that_is_unlike_is_refused_under_strict_and_let_in_with_a_warning_under_warn() {
    for change in [split_otherwise, another_card] {
        let (fleet, brings) = newcomer(Homogeneity::Strict, change);
        let refused = judge(&fleet, &brings).unwrap_err();
        assert!(refused.iter().all(|finding| finding.code == Code::BreaksHomogeneity), "{refused:?}");
        let (fleet, brings) = newcomer(Homogeneity::Warn, change);
        let warned = judge(&fleet, &brings).unwrap();
        assert!(!warned.is_empty() && warned.iter().all(|finding| finding.severity == Severity::Warning));
    }
}

#[test]
fn gpus_that_are_left_to_the_host_break_nothing() {
    let (fleet, brings) = newcomer(Homogeneity::Strict, |fleet| {
        another_card(fleet);
        fleet.spec.gpus.remove(&GpuKey { host: node(3), ..gpu(1) });
    });
    assert_eq!(judge(&fleet, &brings), Ok(Vec::new()));
}

#[test]
fn in_the_place_of_a_replaced_machine_the_wishes_of_the_cluster_count_and_its_cards_are_judged() {
    let (mut fleet, brings) = newcomer(Homogeneity::Strict, split_otherwise);
    let wishes = brings.gpus.clone().into_iter().map(|(key, mut wish)| {
        wish.mode = partitioned(4);
        wish.identity = Default::default();
        (key, wish)
    });
    fleet.spec.gpus.extend(wishes);
    assert_eq!(judge(&fleet, &brings), Ok(Vec::new()), "it is split as the others are");
    let (_, mut other) = newcomer(Homogeneity::Strict, another_card);
    assert!(judge(&fleet, &other).is_err());
    other.seen = None;
    assert_eq!(judge(&fleet, &other), Ok(Vec::new()), "nothing is known of it yet");
    assert!(other.gpus.values().all(|wish| wish.mode != GpuMode::Host));
}

#[test]
fn a_vm_of_a_name_that_another_one_has_is_refused_and_the_same_one_is_not() {
    let (mut fleet, mut brings) = newcomer(Homogeneity::Warn, |_| {});
    fleet.add("a", Request::None);
    brings.vms.insert(vm("a"), fleet.spec.vms[&vm("a")].id);
    assert_eq!(judge(&fleet, &brings), Ok(Vec::new()), "its answer may have been lost");
    brings.vms.insert(vm("a"), VmId(Uuid::from_u128(77)));
    let refused = judge(&fleet, &brings).unwrap_err();
    assert!(refused[0].message.contains("spec/vm/a"), "{refused:?}");
}
