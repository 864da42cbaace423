//! What goes wrong underneath: each has a finding with a code and a hint, nothing is lost, and all ends well once it is
//! right again.

use std::sync::atomic::Ordering;

use tranche_core::change::Change;
use tranche_core::declare::{Declaration, DeclaredGpu};
use tranche_core::finding::Code;
use tranche_core::name::{GpuKey, PciAddress};
use tranche_core::operation::{OperationState, STEP_FAILURES_MAX};
use tranche_core::spec::GpuMode;
use tranche_host::calls::Limits;
use tranche_host::fake::{DriverModel, Machine};
use tranche_host::tree::Tree as _;
use tranche_host::vm::fake::Guest;

use crate::desk::{Desk, create, gpu, host, open, partitioned, pf, release, split, start, stop, vm};

#[test]
fn a_disable_that_hangs_is_named_and_the_other_gpu_goes_on() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.restart_daemon(Limits { read_ms: 200, write_ms: 50, ..Limits::default() });
    desk.machine.kernel().hold(pf(0));
    let releasing = desk.order(release(0));
    let stuck = desk.finding(Code::CallStuck).expect("the hanging call is reported");
    assert!(stuck.message.contains("sriov_numvfs"), "{stuck}");
    assert_ne!(desk.outcome(releasing), OperationState::Succeeded);
    assert_eq!(desk.refusal(&split(0, 4)), [Code::CallStuck]);

    desk.order(split(1, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    assert!(desk.runs("a"), "the other GPU serves");

    desk.machine.kernel().release(pf(0));
    for _ in 0..1_000 {
        desk.pass();
        if desk.vfs(0) == 0 && desk.finding(Code::CallStuck).is_none() {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(desk.vfs(0), 0);
    assert!(desk.finding(Code::CallStuck).is_none());
}

#[test]
fn on_a_full_disk_nothing_is_touched_and_nothing_is_lost() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.disk.full.store(true, Ordering::SeqCst);
    assert_eq!(desk.refusal(&start("a")), [Code::StoreFull]);
    assert_eq!(desk.refusal(&split(1, 4)), [Code::StoreFull]);
    desk.settle();
    assert_eq!(desk.vfs(1), 0);
    assert!(!desk.runs("a"));

    desk.disk.full.store(false, Ordering::SeqCst);
    desk.order(start("a"));
    assert!(desk.runs("a"));
}

#[test]
fn a_booking_that_cannot_be_stored_starts_no_vm() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.ask(start("a"));
    desk.disk.full.store(true, Ordering::SeqCst);
    desk.settle();
    assert!(!desk.runs("a"), "a VM was started without its booking being stored");
    assert!(desk.finding(Code::StoreFull).is_some());
    desk.disk.full.store(false, Ordering::SeqCst);
    desk.settle();
    assert!(desk.runs("a"));
    assert!(desk.finding(Code::StoreFull).is_none());
}

#[test]
fn fewer_virtual_functions_than_asked_for_fail_the_operation_and_say_so() {
    let mut desk = Desk::new();
    desk.machine.kernel().make_fewer_vfs(pf(0), 1);
    let id = desk.order(split(0, 4));
    let failure = desk.failure(id);
    assert!(
        failure.contains(&Code::FewerPartitions) && failure.ends_with(&[Code::RolledBack]),
        "{failure:?}"
    );
    assert_eq!((desk.vfs(0), desk.wish(0)), (0, GpuMode::Host), "the GPU is as it was");
    desk.order(split(0, 1));
    assert_eq!(desk.vfs(0), 1, "it can be asked for what it can do");
}

#[test]
fn a_count_that_fails_gives_way_to_the_one_before_and_vms_go_on_with_that() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.machine.kernel().make_fewer_vfs(pf(0), 2);
    let id = desk.order(split(0, 4));
    let failure = desk.failure(id);
    assert!(
        failure.contains(&Code::FewerPartitions) && failure.ends_with(&[Code::RolledBack]),
        "{failure:?}"
    );
    assert_eq!(desk.vfs(0), 2);
    desk.order(create("a"));
    desk.order(start("a"));
    assert!(desk.runs("a") && desk.engine.view().findings.is_empty(), "{:#?}", desk.engine.view().findings);
}

#[test]
fn a_way_back_that_fails_is_told_and_is_not_undone_in_its_turn() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.machine.kernel().refuse_vfs(pf(0), libc_enomem());
    let id = desk.order(split(0, 4));
    for _ in 0..10 {
        desk.pass();
        assert_eq!((desk.outcome(id), desk.wish(0)), (OperationState::Failed, partitioned(2)));
    }
    assert!(desk.finding(Code::KernelRefused).is_some(), "the way back fails, too");
    assert_eq!(desk.engine.view().operations.len(), 2, "nobody asked for anything more");
    desk.machine.kernel().repair();
    desk.settle();
    assert_eq!((desk.vfs(0), desk.finding(Code::KernelRefused)), (2, None));
}

#[test]
fn what_a_repair_fails_at_stays_asked_for() {
    let mut desk = Desk::new();
    let id = desk.order(split(0, 2));
    desk.machine.kernel().reboot();
    desk.machine.kernel().refuse_vfs(pf(0), libc_enomem());
    desk.settle();
    assert_eq!((desk.outcome(id), desk.wish(0)), (OperationState::Succeeded, partitioned(2)));
    desk.machine.kernel().repair();
    desk.settle();
    assert_eq!(desk.vfs(0), 2);
}

#[test]
fn of_a_declaration_only_the_gpu_that_failed_goes_back() {
    let mut desk = Desk::new();
    desk.machine.kernel().refuse_vfs(pf(0), libc_enomem());
    let gpus =
        [0, 1].map(|index| DeclaredGpu { host: None, address: gpu(index).address, mode: partitioned(2) });
    let declared = Declaration { gpus: gpus.into(), ..Declaration::default() };
    desk.engine.apply(&declared, false, desk.now).expect("it is accepted");
    desk.settle();
    assert_eq!((desk.wish(0), desk.wish(1)), (GpuMode::Host, partitioned(2)));
    assert_eq!((desk.vfs(0), desk.vfs(1)), (0, 2));
}

#[test]
fn a_deaf_guest_holds_a_drain_up_until_it_is_restarted_by_force() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.machine.hypervisor().set_guest(&vm("a"), Guest::Deaf);
    assert_eq!(desk.refusal(&split(0, 4)), [Code::PartitionsInUse]);
    let id = desk.order(Change::DrainGpu { gpu: gpu(0), mode: partitioned(4) });
    assert!(desk.runs("a") && desk.finding(Code::ModeChanging).is_some());
    assert_eq!((desk.outcome(id), desk.vfs(0)), (OperationState::Running, 2));
    desk.order(Change::RestartVm { name: vm("a"), force: true });
    assert!(desk.runs("a") && desk.finding(Code::ModeChanging).is_none());
    assert_eq!((desk.outcome(id), desk.vfs(0)), (OperationState::Succeeded, 4));
}

#[test]
fn what_the_kernel_refuses_is_named_with_its_errno() {
    let mut desk = Desk::new();
    desk.machine.kernel().refuse_vfs(pf(0), libc_enomem());
    let id = desk.order(split(0, 4));
    let findings = desk.engine.view().operations[&id].findings.clone();
    assert!(findings.iter().any(|finding| finding.message.contains("ENOMEM")), "{findings:#?}");
}

/// "Not enough MMIO resources for SR-IOV" (Linux, drivers/pci/iov.c).
fn libc_enomem() -> i32 {
    12
}

#[test]
fn a_driver_that_grabs_a_virtual_function_is_named() {
    let mut desk = Desk::new();
    let vf = PciAddress { function: 4, ..pf(0) };
    desk.machine.kernel().grab(vf, "xe");
    let id = desk.order(split(0, 2));
    let failed = desk.engine.view().operations[&id].clone();
    let wrong = failed.findings.iter().find(|finding| finding.code == Code::WrongDriver);
    let wrong = wrong.expect("the wrong driver is reported");
    assert!(wrong.message.contains("xe") && wrong.message.contains(&vf.to_string()), "{wrong}");
    assert_eq!((failed.state, desk.vfs(0)), (OperationState::Failed, 0));
}

#[test]
fn a_virtual_function_that_disappears_under_its_vm_is_named() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.machine.kernel().unplug(PciAddress { function: 4, ..pf(0) });
    desk.pass();
    assert!(desk.finding(Code::PartitionLost).is_some(), "{:#?}", desk.engine.view().findings);
    desk.order(stop("a"));
    desk.order(start("a"));
    assert!(desk.runs("a"), "its next start has a partition again: {:#?}", desk.engine.view().findings);
}

#[test]
fn a_partition_that_died_in_its_vm_goes_to_nobody_until_it_answers_again() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.machine.kernel().drop_off_the_bus(PciAddress { function: 4, ..pf(0) });
    desk.order(stop("a"));
    for name in ["b", "c"] {
        desk.order(create(name));
        desk.order(start(name));
    }
    let view = desk.engine.view();
    let held: Vec<String> = view.plan.bookings.keys().map(|slot| slot.slot.to_string()).collect();
    assert!(desk.runs("b") && !desk.runs("c") && held == ["1"], "{held:?} {:#?}", view.findings);
    desk.machine.kernel().repair();
    desk.settle();
    assert!(desk.runs("c"));
}

#[test]
fn a_gpu_that_fell_off_the_bus_takes_no_vm_and_says_so() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.machine.kernel().drop_off_the_bus(pf(0));
    desk.order(start("a"));
    assert!(!desk.runs("a") && desk.finding(Code::GpuSick).is_some());
    desk.machine.kernel().repair();
    desk.settle();
    assert!(desk.runs("a") && desk.finding(Code::GpuSick).is_none());
}

#[test]
fn while_libvirt_is_away_nothing_is_released_and_the_daemon_goes_on() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.machine.hypervisor().go_down("Connection refused");
    let stopping = desk.order(stop("a"));
    assert!(desk.finding(Code::LibvirtDown).is_some());
    assert_eq!(desk.engine.view().plan.bookings.len(), 1);
    desk.order(split(1, 2));
    assert_eq!(desk.vfs(1), 2, "GPUs need no libvirt");
    desk.machine.hypervisor().come_up();
    desk.settle();
    assert!(!desk.runs("a") && desk.engine.view().plan.bookings.is_empty());
    assert_ne!(desk.outcome(stopping), OperationState::Running);
}

#[test]
fn a_guest_that_shut_down_stays_off_when_libvirtd_is_restarted() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.machine.hypervisor().power_off(&vm("a"));
    desk.settle();
    desk.machine.hypervisor().go_down("Connection refused");
    desk.settle();
    desk.machine.hypervisor().come_up();
    desk.settle();
    assert!(!desk.runs("a") && desk.finding(Code::GuestPoweredOff).is_some());
}

#[test]
fn a_start_that_libvirt_refuses_fails_with_its_words_and_is_tried_again() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.order(stop("a"));
    desk.machine.hypervisor().refuse_starts(&vm("a"), Some("Cannot allocate memory"));
    let id = desk.order(start("a"));
    assert_eq!(desk.outcome(id), OperationState::Failed);
    let refused = desk.finding(Code::LibvirtRefused).expect("libvirt's refusal is reported");
    assert!(refused.message.contains("Cannot allocate memory"), "{refused}");
    desk.machine.hypervisor().refuse_starts(&vm("a"), None);
    desk.settle();
    assert!(desk.runs("a") && desk.finding(Code::LibvirtRefused).is_none());
}

#[test]
fn a_guest_that_ignores_the_power_button_is_turned_off_by_force() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.machine.hypervisor().set_guest(&vm("a"), Guest::Deaf);
    desk.order(stop("a"));
    assert!(desk.runs("a") && desk.finding(Code::ShutdownSlow).is_some());
    desk.order(Change::StopVm { name: vm("a"), force: true });
    assert!(!desk.runs("a"));
}

#[test]
fn a_guest_that_ignores_the_power_button_is_restarted_by_force() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.machine.hypervisor().set_guest(&vm("a"), Guest::Deaf);
    let restart = |force| Change::RestartVm { name: vm("a"), force };
    let asked = desk.order(restart(false));
    assert!(desk.runs("a") && desk.finding(Code::ShutdownSlow).is_some());
    let forced = desk.order(restart(true));
    assert!(desk.runs("a") && desk.finding(Code::ShutdownSlow).is_none());
    assert_eq!(
        (desk.outcome(asked), desk.outcome(forced)),
        (OperationState::Superseded, OperationState::Succeeded)
    );
}

#[test]
fn a_pass_in_which_nothing_happens_copies_nothing_and_shows_when_the_host_was_seen() {
    let mut desk = Desk::new();
    desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    let before = desk.engine.view();
    desk.pass();
    let after = desk.engine.view();
    assert_eq!(after.revision, before.revision);
    assert!(std::ptr::eq(&*before.spec, &*after.spec) && std::ptr::eq(&*before.plan, &*after.plan));
    assert!(std::ptr::eq(&*before.operations, &*after.operations));
    assert_eq!(after.inventory[&host()].observed_at, desk.now);
}

#[test]
fn a_machine_without_iommu_is_told_so() {
    let desk = Desk::on(Machine { iommu: false, ..Machine::gpus(1, 4) });
    assert!(desk.refusal(&split(0, 2)).contains(&Code::IommuOff));
}

#[test]
fn a_gpu_without_driver_is_told_so() {
    let desk = Desk::on(Machine { drivers: Vec::new(), ..Machine::gpus(1, 4) });
    assert!(desk.refusal(&split(0, 2)).contains(&Code::DriverMissing));
}

#[test]
fn virtual_functions_that_share_their_group_are_given_to_nobody() {
    let mut machine = Machine::gpus(1, 4);
    machine.functions[0].sriov.as_mut().unwrap().shares_group = true;
    let mut desk = Desk::on(machine);
    let id = desk.order(split(0, 2));
    desk.order(create("a"));
    desk.order(start("a"));
    assert!(!desk.runs("a") && desk.failure(id).contains(&Code::GroupShared));
}

#[test]
fn after_a_power_cut_the_first_pass_restores_and_only_then_do_vms_start() {
    let mut desk = Desk::new();
    desk.order(split(0, 4));
    desk.order(create("a"));
    desk.order(start("a"));
    desk.machine.hypervisor().lose_power();
    desk.machine.kernel().reboot();
    desk.engine = open(&desk.machine, &desk.store, Limits::default());
    assert!(!desk.engine.view().plan.bookings.is_empty(), "the booking outlived the power cut");
    let first = desk.pass();
    assert!(!first.restored && !desk.runs("a"), "functions are enabled, not yet bound: {first:?}");
    let second = desk.pass();
    assert!(!second.restored && !desk.runs("a"), "they are bound, and not yet seen to be: {second:?}");
    assert!(desk.pass().restored);
    desk.settle();
    assert!(desk.runs("a"));
}

#[test]
fn a_driver_that_is_late_after_a_reboot_holds_the_start_of_vms_up_and_one_that_refuses_for_good_does_not() {
    for late in [true, false] {
        let mut desk = Desk::new();
        desk.order(split(0, 4));
        desk.machine.hypervisor().lose_power();
        desk.machine.kernel().reboot();
        desk.engine = open(&desk.machine, &desk.store, Limits::default());
        desk.machine.kernel().refuse_vfs(pf(0), libc_enomem());
        let tries = if late { STEP_FAILURES_MAX - 1 } else { STEP_FAILURES_MAX };
        let mut failures = 0;
        while failures < tries {
            let report = desk.pass();
            failures += u32::from(report.steps_failed > 0);
            assert_eq!(report.restored, failures == STEP_FAILURES_MAX, "after {failures} failures");
        }
        desk.machine.kernel().repair();
        desk.settle();
        assert_eq!(desk.vfs(0), 4, "late or later, they are restored");
    }
}

#[test]
fn a_split_gpu_that_a_tool_left_without_its_driver_is_brought_back_to_it() {
    for left_with in [Some("pci-pf-stub"), None] {
        let mut machine = Machine::nvidia(&["NVIDIA A2"]);
        machine.drivers.push(DriverModel { name: "pci-pf-stub".to_owned(), ids: Vec::new(), sriov: true });
        let mut desk = Desk::on(machine);
        let gpu = GpuKey { host: host(), address: "0000:41:00.0".parse().expect("an address") };
        let pf = gpu.address.pci().expect("a PCI function");
        let mode = GpuMode::Partitioned { count: 2, series: None };
        desk.order(Change::SetGpuMode { gpu: gpu.clone(), mode });
        let (kernel, dir) = (desk.machine.kernel(), format!("sys/bus/pci/devices/{pf}"));
        let write = |path: &str, text: &str| kernel.write(path, text).expect("the kernel takes it");
        write(&format!("{dir}/driver_override"), left_with.unwrap_or("none-of-these"));
        write(&format!("{dir}/driver/unbind"), &pf.to_string());
        // Without a driver that may have it, it gets none.
        drop(kernel.write("sys/bus/pci/drivers_probe", &pf.to_string()));
        write(&format!("{dir}/driver_override"), "\n");
        assert_eq!(kernel.link_name(&format!("{dir}/driver")).ok().as_deref(), left_with);
        desk.settle();
        let view = desk.engine.view();
        let seen = &view.inventory[&host()].gpus[&gpu.address];
        assert_eq!((seen.driver.as_deref(), seen.partitions.len()), (Some("nvidia"), 2), "{left_with:?}");
        assert!(view.findings.is_empty(), "{left_with:?}: {:#?}", view.findings);
    }
}

#[test]
fn a_card_that_was_moved_replaced_or_taken_out_is_told_and_no_other_is_touched_in_its_place() {
    for code in [Code::GpuMoved, Code::HardwareChanged, Code::GpuGone] {
        let mut desk = Desk::new();
        let kernel = desk.machine.kernel();
        kernel.give_serial(pf(0), 7);
        kernel.give_serial(pf(1), 8);
        desk.pass();
        desk.order(split(0, 2));
        desk.order(create("a"));
        desk.order(start("a"));
        desk.machine.hypervisor().lose_power();
        let kernel = desk.machine.kernel();
        match code {
            Code::GpuMoved => {
                kernel.reboot();
                kernel.give_serial(pf(0), 8);
                kernel.give_serial(pf(1), 7);
            }
            Code::HardwareChanged => {
                kernel.reboot();
                kernel.give_serial(pf(0), 9);
            }
            _ => kernel.rebuild(|machine| machine.functions.retain(|one| one.address != pf(0))),
        }
        desk.engine = open(&desk.machine, &desk.store, Limits::default());
        desk.settle();
        assert!(desk.finding(code).is_some(), "{code:?}: {:#?}", desk.engine.view().findings);
        assert!(!desk.runs("a") && desk.vfs(1) == 0, "{code:?}");
        if code != Code::GpuGone {
            assert_eq!(desk.vfs(0), 0, "{code:?}");
        }
    }
}

#[test]
fn two_vms_ask_for_the_last_partition_at_once_and_one_gets_it() {
    let mut desk = Desk::new();
    desk.order(split(0, 1));
    for name in ["a", "b"] {
        desk.order(create(name));
    }
    let (engine, now) = (&desk.engine, desk.now);
    std::thread::scope(|scope| {
        for name in ["a", "b"] {
            scope.spawn(move || engine.submit(&start(name), false, now).expect("accepted"));
        }
        scope.spawn(move || engine.pass(now));
    });
    desk.settle();
    assert!(desk.runs("a") != desk.runs("b"), "exactly one runs");
    assert!(desk.finding(Code::NoFreePartition).is_some(), "the other one is told why it waits");
    let winner = if desk.runs("a") { "a" } else { "b" };
    desk.order(stop(winner));
    assert!(!desk.runs(winner) && (desk.runs("a") || desk.runs("b")), "the other one starts by itself");
}

#[test]
fn of_two_counts_asked_for_at_once_one_stays_and_the_other_is_superseded() {
    let mut desk = Desk::new();
    let (engine, now) = (&desk.engine, desk.now);
    std::thread::scope(|scope| {
        for count in [2, 4] {
            scope.spawn(move || engine.submit(&split(0, count), false, now).expect("accepted"));
        }
    });
    desk.settle();
    let mut outcomes: Vec<_> =
        desk.engine.view().operations.values().map(|one| format!("{:?}", one.state)).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["Succeeded", "Superseded"]);
    assert!([2, 4].contains(&desk.vfs(0)));
}
