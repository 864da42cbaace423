//! One mode for all GPUs of a homogeneous set: all of it or nothing, and only what was looked at.

use std::collections::BTreeSet;

use tranche_core::change::{Change, Refusal, Selection, SetMode, version};
use tranche_core::effect::{VmEffect, preview};
use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::name::*;
use tranche_core::spec::*;
use uuid::Uuid;

use crate::fleet::{Fleet, node};
use crate::homogeneity::at;
use crate::world::{PASSTHROUGH, World, gpu, partitioned, vm};

fn into(count: u16) -> SetMode {
    SetMode { selection: Selection::default(), mode: partitioned(count), drain: false, version: None }
}

fn of<const N: usize>(gpus: [GpuKey; N], wish: SetMode) -> SetMode {
    SetMode { selection: Selection { gpus: gpus.into(), like: None }, ..wish }
}

fn like(gpu: GpuKey, wish: SetMode) -> SetMode {
    SetMode { selection: Selection { gpus: BTreeSet::new(), like: Some(gpu) }, ..wish }
}

fn all(wish: SetMode) -> Change {
    Change::SetAllGpus(wish)
}

fn counts(spec: &Spec) -> Vec<u16> {
    spec.gpus.values().map(|wish| wish.mode.partitions().unwrap_or_default()).collect()
}

fn one(findings: &[Finding], code: Code) -> &Finding {
    let mut of_code = findings.iter().filter(|finding| finding.code == code);
    let found = of_code.next().unwrap_or_else(|| panic!("{code} is not among {findings:#?}"));
    assert_eq!(of_code.next(), None, "{code} is said twice");
    found
}

fn refused(fleet: &Fleet, wish: SetMode) -> Refusal {
    fleet.submit(&all(wish)).expect_err("it is refused")
}

/// Three hosts with two GPUs each; those of node3 are of another model.
fn two_kinds() -> Fleet {
    let mut fleet = Fleet::new(3, 2, 4);
    for bus in [1, 2] {
        fleet.card(&at(3, bus)).ids.device = 0x1234;
    }
    fleet
}

#[test]
fn all_gpus_of_all_hosts_get_the_count_in_one_wish() {
    let fleet = Fleet::new(3, 2, 4);
    let admitted = fleet.submit(&all(into(8))).expect("it is admitted");
    assert_eq!(counts(&admitted.spec), [8; 6]);
    assert_eq!(admitted.title, "split 6 GPUs into 8 partitions each");
    let change = one(&admitted.findings, Code::SetChange);
    assert_eq!(change.severity, Severity::Info, "no VM is there to be interrupted");
    assert!(change.message.contains("6 GPUs on 3 hosts"), "{}", change.message);
}

#[test]
fn gpus_that_nobody_has_split_yet_belong_to_the_set() {
    let mut fleet = Fleet::new(2, 2, 4);
    fleet.spec.gpus.clear();
    fleet.plan.gpus.clear();
    let admitted = fleet.submit(&all(into(2))).expect("it is admitted");
    assert_eq!(counts(&admitted.spec), [2; 4]);
}

#[test]
fn strict_homogeneity_is_asked_of_where_the_wish_leads() {
    let mut fleet = Fleet::new(3, 2, 4);
    fleet.spec.policy.homogeneity = Homogeneity::Strict;
    assert!(fleet.submit(&all(into(8))).is_ok(), "in the end all are alike");
    let refusal = refused(&fleet, of([at(1, 1)], into(8)));
    one(&refusal, Code::BreaksHomogeneity);
}

#[test]
fn gpus_that_are_left_out_are_warned_of() {
    let fleet = Fleet::new(3, 1, 4);
    let admitted = fleet.submit(&all(of([at(1, 1), at(2, 1)], into(8)))).expect("a warning refuses nothing");
    assert_eq!(counts(&admitted.spec), [8, 8, 4]);
    let warned = one(&admitted.findings, Code::SetIncomplete);
    assert_eq!(warned.severity, Severity::Warning);
    assert!(warned.message.contains("node3/0000:01:00.0"), "{}", warned.message);
}

#[test]
fn where_configurations_differ_a_set_is_to_be_picked() {
    let fleet = two_kinds();
    let refusal = refused(&fleet, into(8));
    let said = one(&refusal, Code::SetUnlike);
    assert_eq!(said.severity, Severity::Error);
    for pick in ["--like node1/0000:01:00.0", "--like node3/0000:01:00.0"] {
        assert!(said.hint.contains(pick), "{}", said.hint);
    }
    let admitted = fleet.submit(&all(like(at(3, 2), into(8)))).expect("a set was picked");
    assert_eq!(counts(&admitted.spec), [4, 4, 4, 4, 8, 8]);
    assert_eq!(one(&admitted.findings, Code::SetUnlike).severity, Severity::Warning);
}

#[test]
fn chosen_gpus_of_several_configurations_are_refused() {
    let refusal = refused(&two_kinds(), of([at(1, 1), at(3, 1)], into(8)));
    assert_eq!(one(&refusal, Code::SelectionUnlike).severity, Severity::Error);
    let unknown = refused(&two_kinds(), of([at(1, 1), at(7, 1)], into(8)));
    one(&unknown, Code::GpuNotFound);
}

#[test]
fn where_no_two_gpus_have_one_configuration_there_is_no_set() {
    let mut fleet = Fleet::new(3, 1, 4);
    fleet.card(&at(2, 1)).ids.device = 0x1234;
    fleet.card(&at(3, 1)).vram_mib = Some(24_576);
    one(&refused(&fleet, into(8)), Code::NoHomogeneousSet);
}

#[test]
fn where_no_gpu_can_be_split_that_is_said_with_what_to_check() {
    let mut fleet = Fleet::new(2, 1, 4);
    fleet.spec.gpus.clear();
    fleet.plan.gpus.clear();
    for host in 1..=2 {
        fleet.card(&at(host, 1)).offers.clear();
    }
    let refusal = refused(&fleet, into(8));
    assert!(one(&refusal, Code::NoPartitionableGpu).hint.contains("driver"));
    one(&refused(&fleet, like(at(1, 1), into(8))), Code::NotPartitionable);
}

#[test]
fn gpus_that_are_passed_through_are_in_no_set() {
    let mut fleet = Fleet::new(2, 1, 4);
    fleet.wish(&at(2, 1), PASSTHROUGH);
    let admitted = fleet.submit(&all(into(8))).expect("it is admitted");
    assert_eq!(counts(&admitted.spec), [8, 0]);
    let named = refused(&fleet, of([at(1, 1), at(2, 1)], PASSTHROUGH_FOR_ALL.clone()));
    one(&named, Code::InvalidValue);
}

const PASSTHROUGH_FOR_ALL: SetMode = SetMode {
    selection: Selection { gpus: BTreeSet::new(), like: None },
    mode: PASSTHROUGH,
    drain: false,
    version: None,
};

#[test]
fn a_gpu_with_a_vm_refuses_the_whole_wish_and_a_drain_says_which_vms_it_interrupts() {
    let mut fleet = Fleet::new(3, 1, 4);
    fleet.add("a", Request::ANY_PARTITION);
    assert!(fleet.run_on("a", &node(2)));
    let refusal = refused(&fleet, into(8));
    let said = one(&refusal, Code::PartitionsInUse);
    assert!(said.message.contains('a') && refusal.len() == 1, "{refusal:#?}");
    let admitted = fleet.submit(&all(SetMode { drain: true, ..into(8) })).expect("its VM is asked to leave");
    let warned = one(&admitted.findings, Code::SetChange);
    assert_eq!(warned.severity, Severity::Warning);
    assert!(warned.message.contains("interrupts VM a"), "{}", warned.message);
}

#[test]
fn a_count_that_is_not_offered_refuses_the_whole_wish() {
    let refusal = refused(&Fleet::new(2, 1, 4), into(3));
    assert_eq!(refusal.iter().filter(|finding| finding.code == Code::InvalidPartitionCount).count(), 2);
}

#[test]
fn a_version_is_refused_exactly_if_something_that_it_rests_on_has_changed() {
    let mut fleet = Fleet::new(3, 1, 4);
    let wish = into(8);
    let seen = version(&wish, fleet.state()).expect("there is a set");
    let exactly = SetMode { version: Some(seen), ..wish.clone() };
    // Time goes on, and what does not matter happens.
    fleet.add("off", Request::ANY_PARTITION).run = Run::Stopped;
    fleet.card(&at(2, 1)).telemetry = None;
    assert_eq!(counts(&fleet.submit(&all(exactly.clone())).expect("nothing changed").spec), [8; 3]);
    let changes: [fn(&mut Fleet); 5] = [
        |fleet| fleet.wish(&at(2, 1), partitioned(2)),
        |fleet| {
            fleet.add("a", Request::ANY_PARTITION);
            assert!(fleet.run_on("a", &node(2)));
        },
        |fleet| fleet.card(&at(3, 1)).offers.truncate(3),
        |fleet| drop(fleet.inventory.remove(&node(3))),
        |fleet| fleet.spec.policy.homogeneity = Homogeneity::Strict,
    ];
    for change in changes {
        let mut later = fleet.clone();
        change(&mut later);
        let refusal = later.submit(&all(exactly.clone())).expect_err("something changed");
        assert!(
            refusal.iter().any(|finding| matches!(finding.code, Code::VersionChanged | Code::SetUnlike)),
            "{refusal:#?}"
        );
    }
    let other = SetMode { version: Some(seen), ..into(2) };
    one(&refused(&fleet, other), Code::VersionChanged);
    one(&refused(&fleet, SetMode { version: Some(Uuid::nil()), ..wish }), Code::VersionChanged);
}

#[test]
fn the_preview_tells_of_every_gpu_and_every_vm() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(4));
    world.set_mode(2, partitioned(4));
    world.create("a", Request::ANY_PARTITION);
    world.start("a");
    let wish = SetMode { drain: true, ..into(2) };
    let mut after = world.clone();
    after.accepts(&all(wish.clone()));
    let effect = preview(&after.spec, world.state(), world.now);
    let told: Vec<_> =
        effect.gpus.iter().map(|(key, gpu)| (key.clone(), gpu.to.clone(), gpu.vms.clone())).collect();
    let held = |bus| {
        if world.slot_of("a").unwrap().contains(&gpu(bus).to_string()) { vec![vm("a")] } else { vec![] }
    };
    assert_eq!(told, [(gpu(1), partitioned(2), held(1)), (gpu(2), partitioned(2), held(2))]);
    assert_eq!(effect.vms.get(&vm("a")), Some(&VmEffect::Restarts));
    after.settle();
    assert!(after.runs("a"));
    assert_eq!(counts(&after.spec), [2, 2]);
    assert_eq!(after.gpu(1).partitions.len() + after.gpu(2).partitions.len(), 4);
}

#[test]
fn all_gpus_of_a_set_are_released_at_once() {
    let fleet = Fleet::new(2, 2, 4);
    let wish = SetMode { mode: GpuMode::Host, ..into(1) };
    let admitted = fleet.submit(&all(wish)).expect("it is admitted");
    assert_eq!(counts(&admitted.spec), [0; 4]);
    assert_eq!(admitted.title, "release 4 GPUs");
}
