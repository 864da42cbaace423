//! Counts that a driver takes only when it is loaded: asked for explicitly, for all its GPUs, once.

use tranche_core::change::{Change, admit};
use tranche_core::effect::{VmEffect, preview};
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::Holder;
use tranche_core::name::VmId;
use tranche_core::operation::{Operation, OperationState, STEP_FAILURES_MAX, StepFailure, judge};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::Step;
use uuid::Uuid;

use crate::operations::operation;
use crate::world::{PASSTHROUGH, World, gpu, partitioned, vm};

const ANY: Request = Request::ANY_PARTITION;

fn reload(bus: u8, count: u16) -> Change {
    Change::ReloadDriver { gpu: gpu(bus), mode: partitioned(count) }
}

/// Three GPUs of one driver that made two partitions of each: two are split and run a VM each, one is the host's.
fn two_of_three() -> World {
    let mut world = World::with_gpus(3);
    for bus in [1, 2, 3] {
        world.make_fixed(bus, 2);
    }
    for (bus, name) in [(1, "a"), (2, "b")] {
        world.set_mode(bus, partitioned(2));
        world.create(name, ANY);
        world.create(&format!("{name}2"), ANY);
        world.start(name);
        world.start(&format!("{name}2"));
        assert!(world.runs(name) && world.runs(&format!("{name}2")));
    }
    world
}

fn is_reload(step: &Step) -> bool {
    matches!(step, Step::ReloadDriver { .. })
}

fn asked(world: &mut World, change: &Change) -> Operation {
    let admitted = admit(change, world.state(), VmId(Uuid::nil()), world.now).expect("it is admitted");
    world.spec = admitted.spec;
    operation(&admitted.title, admitted.subject, admitted.goal.behind([]))
}

#[test]
fn without_the_explicit_command_the_count_stays() {
    let mut world = two_of_three();
    for change in [
        Change::SetGpuMode { gpu: gpu(1), mode: partitioned(4) },
        Change::DrainGpu { gpu: gpu(1), mode: partitioned(4) },
    ] {
        world.refuses(&change, Code::InvalidPartitionCount);
    }
    assert!(world.runs("a"));
}

#[test]
fn every_vm_on_every_gpu_of_the_driver_stops_once_and_starts_again() {
    let mut world = two_of_three();
    let operation = asked(&mut world, &reload(1, 4));
    for _ in 0..20 {
        let due = world.pass();
        if let Some(step) = due.iter().find(|step| is_reload(step)) {
            let Step::ReloadDriver { driver, count, gpus } = step else { unreachable!() };
            assert_eq!((driver.as_str(), *count), ("model", 4));
            assert_eq!(*gpus, [gpu(1).address, gpu(2).address], "the host's own GPU is nobody's wish");
            assert!(!due.iter().any(|step| matches!(step, Step::StartVm { .. })), "{due:?}");
        }
        due.iter().for_each(|step| world.carry_out(step));
    }
    world.settle();
    for name in ["a", "a2", "b", "b2"] {
        assert!(world.runs(name), "{name}: {:#?}", world.findings);
    }
    assert_eq!((world.gpu(1).partitions.len(), world.gpu(2).partitions.len()), (4, 4));
    assert_eq!((world.plan.mode(&gpu(2)), world.plan.mode(&gpu(3))), (&partitioned(4), &GpuMode::Host));
    let verdict = judge(&operation, world.state(), &world.findings, &[]);
    assert_eq!(verdict.state, OperationState::Succeeded, "{verdict:#?}");
    assert!(world.findings.is_empty(), "{:#?}", world.findings);
}

#[test]
fn the_dry_run_names_every_gpu_and_every_vm_and_what_is_done() {
    let world = two_of_three();
    let admitted = admit(&reload(2, 1), world.state(), VmId(Uuid::nil()), world.now).unwrap();
    let named = |code: Code| -> Vec<Subject> {
        admitted.findings.iter().filter(|f| f.code == code).map(|f| f.subject.clone()).collect()
    };
    assert_eq!(named(Code::DriverReload), [1, 2, 3].map(|bus| Subject::Gpu(gpu(bus))));
    assert_eq!(named(Code::VmDrained), ["a", "a2", "b", "b2"].map(|name| Subject::Vm(vm(name))));
    let effect = preview(&admitted.spec, world.state(), world.now);
    assert!(effect.steps.iter().any(|step| is_reload(&step.step)), "{effect:#?}");
    let restart = effect.vms.values().filter(|effect| **effect == VmEffect::Restarts).count();
    let wait = effect.vms.values().filter(|effect| **effect == VmEffect::Waits).count();
    assert_eq!((restart, wait), (2, 2), "two partitions are left: {effect:#?}");
}

#[test]
fn vms_whose_partitions_exist_no_longer_wait() {
    let mut world = two_of_three();
    world.accepts(&reload(1, 1));
    world.settle();
    let running = ["a", "a2", "b", "b2"].into_iter().filter(|name| world.runs(name)).count();
    assert_eq!(running, 2);
    assert!(world.has_finding(Code::NoFreePartition));
}

#[test]
fn nothing_is_loaded_anew_while_anything_of_the_driver_is_open() {
    let mut world = two_of_three();
    world.accepts(&reload(1, 4));
    for _ in 0..20 {
        let due = world.pass();
        if due.iter().any(is_reload) {
            break;
        }
        due.iter().for_each(|step| world.carry_out(step));
    }
    // Somebody takes a partition of the GPU that nobody spoke of, in the last moment.
    world.gpu(3).partitions[0].open_by = vec![Holder { pid: 7, command: "stranger".to_owned() }];
    let due = world.pass();
    assert!(!due.iter().any(|step| is_reload(step) || matches!(step, Step::StartVm { .. })), "{due:?}");
    assert!(world.has_finding(Code::PartitionsInUse));
    world.gpu(3).partitions[0].open_by.clear();
    world.settle();
    assert!(world.runs("a") && world.runs("b"));
}

#[test]
fn a_strangers_use_of_any_gpu_of_the_driver_is_a_refusal() {
    let mut world = two_of_three();
    world.gpu(3).partitions[0].open_by = vec![Holder { pid: 7, command: "stranger".to_owned() }];
    world.refuses(&reload(1, 4), Code::PartitionsInUse);
    assert!(world.runs("a") && world.runs("b"));
}

#[test]
fn one_command_loads_once_and_drift_later_is_nobodys_command() {
    let mut world = two_of_three();
    world.accepts(&reload(1, 4));
    world.settle();
    for name in ["a", "a2", "b", "b2"] {
        world.stop(name);
    }
    world.reload("model", 2);
    for _ in 0..5 {
        let due = world.pass();
        assert!(!due.iter().any(is_reload), "{due:?}");
        due.iter().for_each(|step| world.carry_out(step));
    }
    assert!(world.has_finding(Code::Drift));
    world.accepts(&reload(1, 4));
    world.settle();
    assert_eq!(world.gpu(2).partitions.len(), 4, "asked for again, it is put right");
    assert!(!world.has_finding(Code::Drift), "{:#?}", world.findings);
}

#[test]
fn a_count_that_the_driver_made_at_boot_needs_no_step() {
    let mut world = two_of_three();
    world.accepts(&reload(1, 4));
    for _ in 0..20 {
        let due = world.pass();
        if due.iter().any(is_reload) {
            break;
        }
        due.iter().for_each(|step| world.carry_out(step));
    }
    world.reload("model", 4);
    assert!(!world.pass().iter().any(is_reload));
    world.settle();
    assert!(world.runs("a") && world.runs("b"));
}

#[test]
fn a_load_that_fails_for_good_is_rolled_back_for_all_gpus_and_their_vms_run_again() {
    for half_way in [None, Some(8)] {
        let mut world = two_of_three();
        let operation = asked(&mut world, &reload(1, 4));
        for _ in 0..20 {
            let due = world.pass();
            if due.iter().any(is_reload) {
                break;
            }
            due.iter().for_each(|step| world.carry_out(step));
        }
        // The driver came back as it was, or with a count that nobody asked for.
        if let Some(count) = half_way {
            world.reload("model", count);
        }
        let finding = Finding {
            code: Code::ReloadFailed,
            severity: Severity::Error,
            subject: Subject::Gpu(gpu(1)),
            message: "It does not load.".to_owned(),
            hint: "Ask it why.".to_owned(),
        };
        let failure = StepFailure {
            step: Step::EnableVfs { gpu: gpu(1).address, count: 4 },
            finding,
            failures: STEP_FAILURES_MAX,
        };
        let verdict = judge(&operation, world.state(), &world.findings, &[failure]);
        assert_eq!(verdict.state, OperationState::Failed);
        assert_eq!(verdict.put_back.keys().cloned().collect::<Vec<_>>(), [gpu(1), gpu(2)]);
        world.spec.gpus.extend(verdict.put_back);
        world.settle();
        for name in ["a", "a2", "b", "b2"] {
            assert!(world.runs(name), "{half_way:?} {name}: {:#?}", world.findings);
        }
        assert_eq!((world.plan.mode(&gpu(1)), world.plan.mode(&gpu(2))), (&partitioned(2), &partitioned(2)));
        assert!(world.findings.is_empty(), "{:#?}", world.findings);
    }
}

#[test]
fn a_count_that_no_load_can_make_is_refused_and_one_that_is_there_needs_none() {
    let mut world = two_of_three();
    world.refuses(&reload(1, 7), Code::InvalidPartitionCount);
    world.set_mode(3, partitioned(2));
    world.accepts(&reload(3, 2));
    assert!(!world.pass().iter().any(is_reload));
    assert!(world.runs("a") && world.runs("b"));
}

#[test]
fn gpus_that_switch_without_it_refuse_it() {
    let mut world = World::with_gpus(1);
    world.refuses(&reload(1, 4), Code::InvalidValue);
    world.set_mode(1, PASSTHROUGH);
    world.refuses(&reload(1, 4), Code::InvalidValue);
}
