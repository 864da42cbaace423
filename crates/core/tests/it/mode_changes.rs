//! A change of mode as a workflow: drained, carried out, and put back if it fails for good.

use proptest::prelude::*;
use tranche_core::change::{Change, admit};
use tranche_core::effect::{Effect, VmEffect, preview};
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{HealthState, Holder, OffReason};
use tranche_core::name::VmId;
use tranche_core::operation::{Operation, OperationState, STEP_FAILURES_MAX, StepFailure, Verdict, judge};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::Step;
use tranche_core::why::why_not;
use uuid::Uuid;

use crate::operations::operation;
use crate::world::{PASSTHROUGH, World, gpu, host, partitioned, vm};

const ANY: Request = Request::ANY_PARTITION;

fn set(bus: u8, mode: GpuMode) -> Change {
    Change::SetGpuMode { gpu: gpu(bus), mode }
}

fn drain(bus: u8, mode: GpuMode) -> Change {
    Change::DrainGpu { gpu: gpu(bus), mode }
}

/// Asks for a change and keeps the operation, as the daemon does.
fn ask(world: &mut World, change: &Change, earlier: &[&Operation]) -> Operation {
    let admitted = admit(change, world.state(), VmId(Uuid::nil()), world.now).expect("it is admitted");
    world.spec = admitted.spec;
    operation(&admitted.title, admitted.subject, admitted.goal.behind(earlier.iter().copied()))
}

/// Judges an operation while a step of its GPU has failed so often.
fn judged(world: &World, operation: &Operation, failures: u32) -> Verdict {
    let finding = Finding {
        code: Code::KernelRefused,
        severity: Severity::Error,
        subject: Subject::Gpu(gpu(1)),
        message: "The kernel said ENOMEM.".to_owned(),
        hint: "Ask it why.".to_owned(),
    };
    judge(
        operation,
        world.state(),
        &world.findings,
        &[StepFailure { step: Step::EnableVfs { gpu: gpu(1).address, count: 4 }, finding, failures }],
    )
}

#[test]
fn what_is_merely_slow_never_counts_as_failed() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    let operation = ask(&mut world, &set(1, partitioned(4)), &[]);
    world.pass();
    let finding = Finding {
        code: Code::LibvirtSlow,
        severity: Severity::Warning,
        subject: Subject::Gpu(gpu(1)),
        message: "It has not finished.".to_owned(),
        hint: "Wait.".to_owned(),
    };
    let slow = StepFailure {
        step: Step::EnableVfs { gpu: gpu(1).address, count: 4 },
        finding,
        failures: STEP_FAILURES_MAX,
    };
    let verdict = judge(&operation, world.state(), &world.findings, &[slow]);
    assert_eq!(verdict.state, OperationState::Running);
    assert!(verdict.findings.iter().any(|finding| finding.code == Code::LibvirtSlow), "and it is told");
}

#[test]
fn a_mode_that_cannot_be_reached_gives_way_to_the_one_before() {
    for before in [GpuMode::Host, partitioned(2), PASSTHROUGH] {
        let mut world = World::with_gpus(1);
        world.set_mode(1, before.clone());
        let operation = ask(&mut world, &set(1, partitioned(4)), &[]);
        world.pass();
        let early = judged(&world, &operation, STEP_FAILURES_MAX - 1);
        assert_eq!((early.state, early.put_back.len()), (OperationState::Running, 0), "it gets its chances");
        let verdict = judged(&world, &operation, STEP_FAILURES_MAX);
        assert_eq!(verdict.state, OperationState::Failed);
        let codes: Vec<Code> = verdict.findings.iter().map(|finding| finding.code).collect();
        let said = codes.ends_with(&[Code::KernelRefused, Code::RolledBack]);
        assert!(said, "what failed, and that it is undone: {codes:?}");
        world.spec.gpus.extend(verdict.put_back);
        world.settle();
        assert_eq!(*world.plan.mode(&gpu(1)), before);
        assert!(world.findings.is_empty(), "{:#?}", world.findings);
    }
}

#[test]
fn what_was_asked_for_later_is_not_rolled_back() {
    let mut world = World::with_gpus(1);
    let first = ask(&mut world, &set(1, partitioned(4)), &[]);
    ask(&mut world, &set(1, partitioned(8)), &[&first]);
    let verdict = judged(&world, &first, STEP_FAILURES_MAX);
    assert_eq!((verdict.state, verdict.put_back.len()), (OperationState::Superseded, 0));
}

#[test]
fn a_change_behind_one_that_never_came_true_goes_back_to_what_was_true() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    let first = ask(&mut world, &set(1, partitioned(4)), &[]);
    let second = ask(&mut world, &set(1, partitioned(8)), &[&first]);
    let (_, back) = judged(&world, &second, STEP_FAILURES_MAX).put_back.pop_first().expect("it is put back");
    assert_eq!(back.mode, partitioned(2));
    let third = ask(&mut world, &set(1, partitioned(2)), &[&first, &second]);
    assert!(judged(&world, &third, STEP_FAILURES_MAX).put_back.is_empty(), "this is the way back already");
}

#[test]
fn a_wish_that_changes_nothing_is_never_rolled_back() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    let again = ask(&mut world, &set(1, partitioned(4)), &[]);
    world.reboot();
    let verdict = judged(&world, &again, STEP_FAILURES_MAX);
    assert_eq!((verdict.state, verdict.put_back.len()), (OperationState::Failed, 0));
}

#[test]
fn a_vm_that_waits_for_partitions_which_never_come_does_not_hold_up_the_way_back() {
    let mut world = World::with_gpus(1);
    world.create("a", ANY);
    world.start("a");
    let operation = ask(&mut world, &set(1, partitioned(4)), &[]);
    world.pass();
    assert!(world.slot_of("a").is_some(), "it is booked before the partitions are made");
    world.spec.gpus.extend(judged(&world, &operation, STEP_FAILURES_MAX).put_back);
    world.settle();
    assert!(!world.plan.gpus.contains_key(&gpu(1)) && world.slot_of("a").is_none());
    assert!(world.has_finding(Code::NoFreePartition));
}

proptest! {
    /// Whatever was there and whatever is asked for: once put back, the GPU's wish is the one before the change, and
    /// nobody else's is touched.
    #[test]
    fn a_wish_that_is_rolled_back_is_the_one_before(
        modes in proptest::collection::vec(
            prop_oneof![Just(GpuMode::Host), Just(PASSTHROUGH), prop_oneof![Just(1u16), Just(2), Just(8)].prop_map(partitioned)],
            1..5,
        ),
        vms in 0u8..3,
    ) {
        let mut world = World::with_gpus(2);
        world.set_mode(2, partitioned(2));
        let (last, earlier) = modes.split_last().unwrap();
        for mode in earlier {
            world.set_mode(1, mode.clone());
        }
        for index in 0..vms {
            world.create(&format!("vm{index}"), ANY);
            world.start(&format!("vm{index}"));
        }
        let before = world.spec.clone();
        let change = set(1, last.clone());
        if admit(&change, world.state(), VmId(Uuid::nil()), world.now).is_err() {
            return Ok(());
        }
        let operation = ask(&mut world, &change, &[]);
        world.pass();
        let Some((key, wish)) = judged(&world, &operation, STEP_FAILURES_MAX).put_back.pop_first() else {
            let unchanged = earlier.last().unwrap_or(&GpuMode::Host) == last;
            prop_assert!(unchanged || judged(&world, &operation, 0).state == OperationState::Succeeded);
            return Ok(());
        };
        let (named, mode) = (before.gpus.contains_key(&key), wish.mode.clone());
        world.spec.gpus.insert(key, wish);
        if named {
            prop_assert_eq!(&world.spec, &before);
        } else {
            prop_assert_eq!(mode, GpuMode::Host);
        }
        world.settle();
    }
}

fn effect(world: &World, change: &Change) -> Effect {
    let admitted = admit(change, world.state(), VmId(Uuid::nil()), world.now).unwrap();
    preview(&admitted.spec, world.state(), world.now)
}

#[test]
fn without_drain_a_gpu_in_use_keeps_its_mode_and_the_hint_names_the_way() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    let refusal = world.submit(&set(1, PASSTHROUGH)).unwrap_err();
    let in_use = refusal.iter().find(|finding| finding.code == Code::PartitionsInUse);
    assert!(in_use.is_some_and(|finding| finding.hint.contains("--drain")), "{refusal:?}");
}

#[test]
fn a_preview_names_each_step_once_and_nothing_that_the_steps_put_right() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    let effect = effect(&world, &drain(1, partitioned(4)));
    for (index, step) in effect.steps.iter().enumerate() {
        assert!(!effect.steps[..index].contains(step), "{}", step.text);
    }
    let codes: Vec<Code> = effect.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::ModeChanging]);
}

#[test]
fn a_gpu_that_was_taken_or_given_back_by_half_is_brought_back() {
    for before in [GpuMode::Host, partitioned(2)] {
        let mut world = World::with_gpus(1);
        world.set_mode(1, before.clone());
        let operation = ask(&mut world, &set(1, PASSTHROUGH), &[]);
        while !matches!(world.pass()[..], [Step::TakeGpu { .. }]) {
            let due = world.pass();
            world.carry_out(&due[0]);
        }
        // The driver let go of it, and vfio-pci did not take it.
        world.gpu(1).driver = None;
        let member = &mut world.gpu(1).iommu_group.as_mut().unwrap().members[0];
        (member.driver, member.driver_override) = (None, Some("vfio-pci".to_owned()));
        world.spec.gpus.extend(judged(&world, &operation, STEP_FAILURES_MAX).put_back);
        for only in ["vfio-pci", "model"] {
            world.gpu(1).iommu_group.as_mut().unwrap().members[0].driver_override = Some(only.to_owned());
            let due = world.pass();
            assert!(matches!(due.first(), Some(Step::ReturnGpu { .. })), "{before} with {only}: {due:?}");
            assert!(world.plan.gpus[&gpu(1)].host_drivers.values().any(|driver| driver == "model"));
        }
        world.settle();
        assert_eq!(*world.plan.mode(&gpu(1)), before);
        assert_eq!(world.gpu(1).driver.as_deref(), Some("model"));
        assert!(world.findings.is_empty(), "{:#?}", world.findings);
    }
}

#[test]
fn a_gpu_that_the_host_itself_hands_to_vms_is_released_as_it_is() {
    let mut world = World::with_gpus(1);
    world.gpu(1).driver = Some("vfio-pci".to_owned());
    world.gpu(1).iommu_group.as_mut().unwrap().members[0].driver = Some("vfio-pci".to_owned());
    world.set_mode(1, PASSTHROUGH);
    world.accepts(&set(1, GpuMode::Host));
    assert_eq!(world.pass(), []);
    assert!(!world.plan.gpus.contains_key(&gpu(1)));
}

#[test]
fn a_drained_vm_starts_on_another_gpu_at_once_and_the_mode_changes() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.set_mode(2, partitioned(2));
    let effect = effect(&world, &drain(1, PASSTHROUGH));
    assert_eq!(effect.vms[&vm("a")], VmEffect::Restarts);
    let texts: Vec<&str> = effect.steps.iter().map(|step| step.text.split(" of ").next().unwrap()).collect();
    let first = ["ask VM a to shut down", "disable the virtual functions"];
    assert!(texts.starts_with(&first) && texts.last() == Some(&"start VM a"), "{texts:?}");
    world.accepts(&drain(1, PASSTHROUGH));
    world.settle();
    assert!(world.runs("a") && world.slot_of("a").as_deref() == Some("node1/0000:02:00.0/0"));
    assert_eq!(world.gpu(1).driver.as_deref(), Some("vfio-pci"));
    assert!(world.findings.is_empty(), "{:#?}", world.findings);
}

#[test]
fn why_not_names_a_gpu_that_is_about_to_change() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    for name in ["a", "b"] {
        world.create(name, ANY);
    }
    world.start("a");
    world.accepts(&drain(1, partitioned(4)));
    let codes = |world: &World| -> Vec<Code> {
        let found = why_not(&vm("b"), &host(), world.state()).unwrap();
        found.iter().map(|finding| finding.code).collect()
    };
    assert_eq!(codes(&world), [Code::ModeChanging]);
    world.settle();
    assert_eq!(codes(&world), []);
}

#[test]
fn drained_vms_without_room_wait_and_say_so_and_those_with_room_on_the_gpu_go_back() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    for name in ["a", "b"] {
        world.create(name, ANY);
        world.start(name);
    }
    let fewer = drain(1, partitioned(1));
    let effect = effect(&world, &fewer);
    assert_eq!((effect.vms[&vm("a")], effect.vms[&vm("b")]), (VmEffect::Restarts, VmEffect::Waits));
    assert!(effect.findings.iter().any(|finding| finding.code == Code::NoFreePartition));
    world.accepts(&fewer);
    world.settle();
    assert!(world.runs("a") && !world.runs("b") && world.has_finding(Code::NoFreePartition));
    assert_eq!(world.gpu(1).partitions.len(), 1);
    world.set_mode(1, partitioned(1));
    world.accepts(&drain(1, partitioned(2)));
    world.settle();
    assert!(world.runs("a") && world.runs("b"));
}

#[test]
fn while_a_guest_takes_its_time_the_gpu_takes_nobody_and_its_operation_goes_on() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.create("b", ANY);
    let operation = ask(&mut world, &drain(1, partitioned(4)), &[]);
    world.accepts(&Change::StartVm { name: vm("b") });
    for _ in 0..3 {
        let due = world.pass();
        assert!(matches!(due[..], [Step::ShutDownVm { .. }]), "{due:?}");
        assert!(world.has_finding(Code::ModeChanging) && world.slot_of("b").is_none());
        let verdict = judge(&operation, world.state(), &world.findings, &[]);
        assert_eq!((verdict.state, verdict.put_back.len()), (OperationState::Running, 0));
    }
    world.settle();
    assert!(world.runs("a") && world.runs("b") && world.gpu(1).partitions.len() == 4);
    assert_eq!(judge(&operation, world.state(), &world.findings, &[]).state, OperationState::Succeeded);
}

#[test]
fn a_drain_at_any_moment_of_a_start_takes_the_vm_along() {
    for passes in 0..4 {
        let mut world = World::with_gpus(1);
        world.set_mode(1, partitioned(2));
        world.create("a", ANY);
        world.accepts(&Change::StartVm { name: vm("a") });
        for _ in 0..passes {
            for step in world.pass() {
                world.carry_out(&step);
            }
        }
        let operation = ask(&mut world, &drain(1, partitioned(4)), &[]);
        world.pass();
        let verdict = judge(&operation, world.state(), &world.findings, &[]);
        assert_ne!(verdict.state, OperationState::Failed, "after {passes} passes: {verdict:?}");
        world.settle();
        assert!(world.runs("a") && world.gpu(1).partitions.len() == 4, "after {passes} passes");
        assert!(world.findings.is_empty(), "after {passes} passes: {:#?}", world.findings);
    }
}

#[test]
fn strangers_are_not_drained() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.gpu(1).partitions[1].open_by.push(Holder { pid: 7, command: "qemu".to_owned() });
    let refusal = world.submit(&drain(1, partitioned(4))).unwrap_err();
    assert!(
        refusal[0].message.contains("qemu (pid 7)") && !refusal[0].message.contains("VM a"),
        "{refusal:?}"
    );
}

#[test]
fn a_reservation_of_a_vm_that_is_off_goes_with_the_mode_and_the_answer_says_so() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.spec.vms.get_mut(&vm("a")).unwrap().reserved = true;
    world.start("a");
    world.stop("a");
    world.refuses(&set(1, partitioned(4)), Code::PartitionsInUse);
    let change = drain(1, partitioned(4));
    assert_eq!(effect(&world, &change).vms[&vm("a")], VmEffect::LosesReservation);
    let said = world.submit(&change).unwrap();
    assert_eq!(said[0].code, Code::VmDrained);
    world.settle();
    assert!(world.gpu(1).partitions.len() == 4 && !world.runs("a"));
    world.start("a");
    assert!(world.runs("a"));
}

#[test]
fn a_vm_whose_partition_died_under_it_starts_on_another_one() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.gpu(1).partitions[0].answers = false;
    world.end_domain("a", OffReason::Crashed);
    world.settle();
    assert!(world.runs("a"));
    assert_eq!(world.slot_of("a").as_deref(), Some("node1/0000:01:00.0/1"));
}

#[test]
fn a_reserved_vm_keeps_what_failed_waits_for_it_and_says_so() {
    for (what, runs) in ["sick", "dead", "gone"].into_iter().flat_map(|what| [(what, true), (what, false)]) {
        let mut world = World::with_gpus(1);
        world.set_mode(1, partitioned(2));
        world.create("a", ANY);
        world.spec.vms.get_mut(&vm("a")).unwrap().reserved = true;
        world.start("a");
        let held = world.slot_of("a");
        let mut healthy = world.gpu(1).clone();
        healthy.partitions[0].open_by.clear();
        match what {
            "sick" => world.gpu(1).health.state = HealthState::Sick,
            "dead" => world.gpu(1).partitions[0].answers = false,
            _ => drop(world.seen().gpus.remove(&gpu(1).address)),
        }
        if runs {
            world.end_domain("a", OffReason::Crashed);
            world.settle();
            assert!(world.has_finding(Code::ReservationFailed));
        } else {
            world.stop("a");
        }
        assert!(!world.runs("a") && world.slot_of("a") == held, "{:?}", world.slot_of("a"));
        world.seen().gpus.insert(gpu(1).address, healthy);
        world.settle();
        assert!(world.runs("a") == runs && world.slot_of("a") == held);
    }
}

#[test]
fn a_gpu_that_is_gone_is_released_with_what_is_reserved_of_it_by_a_drain_alone() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.spec.vms.get_mut(&vm("a")).unwrap().reserved = true;
    world.start("a");
    world.set_mode(2, partitioned(2));
    world.seen().gpus.remove(&gpu(1).address);
    world.end_domain("a", OffReason::Crashed);
    world.settle();
    world.refuses(&set(1, GpuMode::Host), Code::PartitionsInUse);
    world.refuses(&drain(1, partitioned(2)), Code::GpuNotFound);
    world.accepts(&drain(1, GpuMode::Host));
    world.settle();
    assert!(world.runs("a") && world.slot_of("a").as_deref() == Some("node1/0000:02:00.0/0"));
    assert!(world.findings.is_empty(), "{:#?}", world.findings);
}
