//! From wishes to running VMs, on a host that does what it is told.

use tranche_core::change::{AdoptedVm, Change};
use tranche_core::finding::Code;
use tranche_core::inventory::{HealthState, Hypervisor, OffReason, StuckCall};
use tranche_core::name::Timestamp;
use tranche_core::plan::VmGoal;
use tranche_core::spec::{GpuMode, PlacementPolicy, Policy, Request};
use tranche_core::step::Step;

use crate::fleet::model_domain;
use crate::world::{PASSTHROUGH, World, gpu, hardware, partitioned, vm};
const ANY: Request = Request::ANY_PARTITION;

#[test]
fn three_vms_get_a_partition_each_and_not_the_same() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    for name in ["a", "b", "c"] {
        world.create(name, ANY);
        world.start(name);
    }
    let slots: Vec<_> = ["a", "b", "c"].iter().map(|name| world.slot_of(name).unwrap()).collect();
    assert_eq!(slots, ["node1/0000:01:00.0/0", "node1/0000:01:00.0/1", "node1/0000:01:00.0/2"]);
    assert!(world.runs("a") && world.runs("b") && world.runs("c"));
}

#[test]
fn a_stopped_vm_gives_its_partition_back_and_leaves_nothing_in_its_definition() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(1));
    world.create("a", ANY);
    world.create("b", ANY);
    world.start("a");
    world.stop("a");
    assert_eq!(world.slot_of("a"), None);
    assert!(world.domains()["a"].defined_devices.is_empty());
    world.start("b");
    assert!(world.runs("b"));
}

#[test]
fn a_reserved_partition_stays_with_its_stopped_vm() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(1));
    world.create("a", ANY);
    world.spec.vms.get_mut(&vm("a")).unwrap().reserved = true;
    world.start("a");
    world.stop("a");
    assert!(world.slot_of("a").is_some());
    world.create("b", ANY);
    world.start("b");
    assert!(!world.runs("b") && world.has_finding(Code::NoFreePartition));
}

#[test]
fn a_vm_without_room_waits_and_starts_by_itself() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(1));
    world.create("a", ANY);
    world.create("b", ANY);
    world.start("a");
    world.start("b");
    assert!(!world.runs("b") && world.has_finding(Code::NoFreePartition));
    world.stop("a");
    assert!(world.runs("b") && !world.has_finding(Code::NoFreePartition));
}

#[test]
fn of_two_that_wait_the_older_is_served_first() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(1));
    for name in ["holder", "zz-older", "aa-younger"] {
        world.create(name, ANY);
        world.start(name);
    }
    world.stop("holder");
    assert!(world.runs("zz-older") && !world.runs("aa-younger"));
}

#[test]
fn a_size_that_no_gpu_has_is_told_apart_from_no_room() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    world.create("a", Request::Partition { vram_mib: Some(8_192), profile: None });
    world.start("a");
    assert!(!world.runs("a") && world.has_finding(Code::SizeMismatch));
    world.set_mode(1, partitioned(2));
    assert!(world.runs("a"));
}

#[test]
fn a_mode_never_changes_while_a_partition_is_booked() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    world.create("a", ANY);
    world.start("a");
    for mode in [partitioned(2), PASSTHROUGH, GpuMode::Host] {
        world.refuses(&Change::SetGpuMode { gpu: gpu(1), mode: mode.clone() }, Code::PartitionsInUse);
        // Even a wish that got in some other way is not carried out.
        world.spec.gpus.get_mut(&gpu(1)).unwrap().mode = mode;
        world.settle();
        assert_eq!(*world.plan.mode(&gpu(1)), partitioned(4));
        assert!(world.has_finding(Code::PartitionsInUse));
        world.spec.gpus.get_mut(&gpu(1)).unwrap().mode = partitioned(4);
    }
    world.stop("a");
    world.set_mode(1, partitioned(2));
    assert_eq!(world.gpu(1).partitions.len(), 2);
}

#[test]
fn a_count_is_changed_by_disabling_first() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    world.accepts(&Change::SetGpuMode { gpu: gpu(1), mode: partitioned(8) });
    let due = world.pass();
    assert!(matches!(due[..], [Step::DisableVfs { .. }, Step::EnableVfs { count: 8, .. }]), "{due:?}");
}

#[test]
fn a_released_gpu_probes_virtual_functions_as_it_did_before() {
    for probed in [true, false] {
        let mut world = World::with_gpus(1);
        world.gpu(1).sriov.as_mut().unwrap().autoprobe = probed;
        let autoprobe = |world: &mut World| world.gpu(1).sriov.as_ref().unwrap().autoprobe;
        for mode in [partitioned(4), partitioned(2)] {
            world.set_mode(1, mode);
            assert!(!autoprobe(&mut world), "no driver of the host may take a partition");
        }
        world.set_mode(1, GpuMode::Host);
        assert_eq!((autoprobe(&mut world), world.plan.gpus.len()), (probed, 0));
    }
}

#[test]
fn after_a_reboot_partitions_come_back_before_any_vm_starts() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(4));
    world.create("a", ANY);
    world.start("a");
    let slot = world.slot_of("a");
    world.reboot();
    let first = world.pass();
    assert!(matches!(first[..], [Step::EnableVfs { count: 4, .. }]), "{first:?}");
    world.settle();
    assert!(world.runs("a"));
    assert_eq!(world.slot_of("a"), slot, "the booking outlives the reboot");
}

#[test]
fn a_crashed_vm_is_started_again_and_one_that_its_guest_shut_down_is_not() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.end_domain("a", OffReason::Crashed);
    world.settle();
    assert!(world.runs("a"));
    world.end_domain("a", OffReason::Shutdown);
    world.settle();
    assert!(!world.runs("a") && world.has_finding(Code::GuestPoweredOff));
    assert_eq!(world.slot_of("a"), None, "its partition is free for others");
    world.start("a");
    assert!(world.runs("a"));
}

#[test]
fn a_vm_that_crashes_at_its_first_start_is_started_again() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.stop("a");
    world.accepts(&Change::StartVm { name: vm("a") });
    let due = world.pass();
    for step in &due {
        world.carry_out(step);
    }
    world.end_domain("a", OffReason::Crashed);
    world.settle();
    assert!(world.runs("a"));
}

#[test]
fn restart_turns_off_and_on_once() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.accepts(&Change::RestartVm { name: vm("a"), force: false });
    let due = world.pass();
    assert!(matches!(due[..], [Step::ShutDownVm { .. }]), "{due:?}");
    world.carry_out(&due[0]);
    let due = world.pass();
    assert!(matches!(due.last(), Some(Step::StartVm { .. })), "{due:?}");
    world.settle();
    assert!(world.runs("a"));
    assert!(world.pass().is_empty(), "it is restarted once");
}

#[test]
fn a_vm_lets_go_of_all_its_gpus_at_once_when_one_of_them_fails_before_it_starts() {
    let mut world = World::with_gpus(2);
    for bus in [1, 2] {
        world.set_mode(bus, PASSTHROUGH);
    }
    world.create("a", Request::Whole { gpus: 2, pool: None });
    world.accepts(&Change::StartVm { name: vm("a") });
    world.pass();
    assert_eq!(world.plan.held_by(&vm("a")).count(), 2);
    world.gpu(2).health.state = HealthState::Sick;
    world.pass();
    assert_eq!(world.plan.held_by(&vm("a")).count(), 0);
    assert!(world.has_finding(Code::NoFreeGpu), "in the same pass it says why it waits");
    world.gpu(2).health.state = HealthState::Good;
    world.settle();
    assert!(world.runs("a"));
}

#[test]
fn a_vm_that_rests_goes_on_resting_when_libvirt_forgets_why() {
    for (reason, until_reboot) in [
        (OffReason::Shutdown, true),
        (OffReason::Destroyed, true),
        (OffReason::Saved, false),
        (OffReason::Migrated, false),
    ] {
        let mut world = World::with_gpus(1);
        world.set_mode(1, partitioned(2));
        world.create("a", ANY);
        world.start("a");
        world.end_domain("a", reason);
        world.settle();
        // libvirtd was restarted.
        world.end_domain("a", OffReason::Unknown);
        world.settle();
        assert!(!world.runs("a") && world.has_finding(Code::GuestPoweredOff), "{reason:?}");
        assert!(world.slot_of("a").is_none());
        world.reboot();
        world.settle();
        assert_eq!(world.runs("a"), until_reboot, "{reason:?}: its state may go on elsewhere");
        world.start("a");
        assert!(world.runs("a") && world.findings.is_empty(), "{reason:?}");
    }
}

#[test]
fn a_restart_by_force_pulls_the_plug_once_even_while_the_guest_is_asked_in_vain() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    let restart = |force| Change::RestartVm { name: vm("a"), force };
    world.accepts(&restart(false));
    assert!(matches!(world.pass()[..], [Step::ShutDownVm { .. }]));
    // The guest does not listen.
    world.accepts(&restart(true));
    let due = world.pass();
    assert!(matches!(due[..], [Step::KillVm { .. }]), "{due:?}");
    world.carry_out(&due[0]);
    world.settle();
    assert!(world.runs("a") && world.findings.is_empty(), "{:?}", world.findings);
    assert!(world.pass().is_empty(), "it is restarted once");
    world.end_domain("a", OffReason::Crashed);
    world.settle();
    assert!(world.runs("a"), "it shall run as any other");
    world.end_domain("a", OffReason::Shutdown);
    world.settle();
    assert!(!world.runs("a") && world.has_finding(Code::GuestPoweredOff));
}

#[test]
fn a_vm_that_was_started_by_hand_is_left_alone_until_the_next_command() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.stop("a");
    world.run_domain("a");
    world.settle();
    assert!(world.runs("a") && world.has_finding(Code::StartedByHand));
    assert_eq!(world.plan.vms[&vm("a")].goal, VmGoal::Leave);
    world.stop("a");
    assert!(!world.runs("a"));
}

#[test]
fn pack_fills_a_gpu_and_spread_alternates() {
    for (placement, expected) in [(PlacementPolicy::Pack, [1, 1, 1]), (PlacementPolicy::Spread, [1, 2, 1])] {
        let mut world = World::with_gpus(2);
        world.accepts(&Change::SetPolicy { policy: Policy { placement, ..Policy::default() } });
        world.set_mode(1, partitioned(4));
        world.set_mode(2, partitioned(4));
        for (name, bus) in ["a", "b", "c"].iter().zip(expected) {
            world.create(name, ANY);
            world.start(name);
            let prefix = format!("node1/0000:{bus:02x}:00.0/");
            assert!(world.slot_of(name).unwrap().starts_with(&prefix), "{placement:?}: {name}");
        }
    }
}

#[test]
fn a_preferred_numa_node_wins_over_packing() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(4));
    world.set_mode(2, partitioned(4));
    world.create("first", ANY);
    world.start("first");
    world.create("near", ANY);
    world.spec.vms.get_mut(&vm("near")).unwrap().prefer_numa_node = Some(0);
    world.start("near");
    assert_eq!(world.slot_of("near").unwrap(), "node1/0000:02:00.0/0");
}

#[test]
fn a_whole_gpu_is_taken_given_to_one_vm_and_given_back() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, PASSTHROUGH);
    assert_eq!(world.gpu(1).driver.as_deref(), Some("vfio-pci"));
    world.create("a", Request::Whole { gpus: 1, pool: None });
    world.create("b", Request::Whole { gpus: 1, pool: None });
    world.start("a");
    world.start("b");
    assert!(world.runs("a") && !world.runs("b") && world.has_finding(Code::NoFreeGpu));
    world.refuses(&Change::SetGpuMode { gpu: gpu(1), mode: GpuMode::Host }, Code::PartitionsInUse);
    world.stop("a");
    assert!(world.runs("b"));
    world.stop("b");
    world.set_mode(1, GpuMode::Host);
    assert_eq!(world.gpu(1).driver.as_deref(), Some("model"));
    assert!(!world.plan.gpus.contains_key(&gpu(1)), "a released GPU is forgotten");
}

#[test]
fn a_vm_may_have_several_whole_gpus_or_none_of_them() {
    let mut world = World::with_gpus(3);
    world.set_mode(1, PASSTHROUGH);
    world.create("a", Request::Whole { gpus: 2, pool: None });
    world.start("a");
    assert!(!world.runs("a") && world.plan.bookings.is_empty(), "nothing is half booked");
    world.set_mode(3, PASSTHROUGH);
    assert!(world.runs("a"));
    assert_eq!(world.plan.held_by(&vm("a")).count(), 2);
}

#[test]
fn a_vm_that_asks_for_a_pool_gets_its_gpus_alone_and_one_that_asks_for_none_gets_any() {
    let pool = |name: &str| Some(name.parse().unwrap());
    let whole = |pool| Request::Whole { gpus: 1, pool };
    let mut world = World::with_gpus(3);
    world.set_mode(1, PASSTHROUGH);
    world.set_mode(2, GpuMode::Passthrough { allow_console: false, pool: pool("train") });
    world.create("a", whole(pool("render")));
    world.start("a");
    assert!(!world.runs("a") && world.has_finding(Code::NoFreeGpu), "neither the other pool nor none");
    world.set_mode(3, GpuMode::Passthrough { allow_console: false, pool: pool("render") });
    assert_eq!(world.slot_of("a").as_deref(), Some("node1/0000:03:00.0/whole"));
    for name in ["b", "c"] {
        world.create(name, whole(None));
        world.start(name);
        assert!(world.runs(name));
    }
}

#[test]
fn a_gpu_changes_its_pool_only_while_nobody_has_it_and_then_serves_that_pool() {
    let pooled =
        |name: &str| GpuMode::Passthrough { allow_console: false, pool: Some(name.parse().unwrap()) };
    let mut world = World::with_gpus(1);
    world.set_mode(1, pooled("train"));
    world.create("a", Request::Whole { gpus: 1, pool: Some("train".parse().unwrap()) });
    world.start("a");
    world.refuses(&Change::SetGpuMode { gpu: gpu(1), mode: pooled("render") }, Code::PartitionsInUse);
    world.stop("a");
    world.set_mode(1, pooled("render"));
    world.start("a");
    assert!(!world.runs("a"));
    world.set_mode(1, pooled("train"));
    assert!(world.runs("a"));
}

#[test]
fn while_libvirt_is_down_nothing_is_released_or_started() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    let up = world.seen().hypervisor.clone();
    world.seen().hypervisor = Hypervisor::Down { reason: "connection refused".to_owned() };
    world.accepts(&Change::StopVm { name: vm("a"), force: true });
    world.settle();
    assert!(world.slot_of("a").is_some() && world.has_finding(Code::LibvirtDown));
    world.seen().hypervisor = up;
    world.settle();
    assert!(world.slot_of("a").is_none());
}

#[test]
fn a_partition_that_a_stranger_uses_is_not_given_away() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    let stranger = tranche_core::inventory::Holder { pid: 7, command: "qemu".to_owned() };
    world.gpu(1).partitions[0].open_by.push(stranger);
    world.create("a", ANY);
    world.start("a");
    assert_eq!(world.slot_of("a").unwrap(), "node1/0000:01:00.0/1");
    assert!(world.has_finding(Code::ForeignUse));
}

#[test]
fn a_vf_that_disappears_under_a_running_vm_is_named_and_the_next_start_is_whole_again() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.gpu(1).partitions.remove(0);
    world.pass();
    assert!(world.has_finding(Code::PartitionLost));
    assert!(world.slot_of("a").is_some(), "the booking stays while the VM runs");
}

#[test]
fn hands_that_changed_the_count_are_corrected_once_nothing_is_open() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    let address = gpu(1).address;
    world.enable_vfs(&address, 2);
    world.pass();
    assert!(world.has_finding(Code::Drift));
    world.settle();
    assert_eq!(world.gpu(1).partitions.len(), 4);
    assert!(!world.has_finding(Code::Drift));
}

#[test]
fn a_vf_on_another_driver_is_named_and_bound_anew() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.gpu(1).partitions[1].driver = Some("igbvf".to_owned());
    let due = world.pass();
    assert!(world.has_finding(Code::WrongDriver));
    assert!(matches!(due[..], [Step::BindPartition { index: 1, .. }]), "{due:?}");
}

#[test]
fn other_hardware_in_the_slot_is_not_touched() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.reboot();
    world.gpu(1).ids.subdevice = 9;
    assert!(world.pass().is_empty());
    assert!(world.has_finding(Code::HardwareChanged));
}

#[test]
fn nothing_is_tried_on_a_gpu_with_a_stuck_call_and_others_go_on() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(2));
    world.reboot();
    let call =
        StuckCall { gpu: Some(gpu(1).address), call: "write sriov_numvfs".to_owned(), since: Timestamp(0) };
    world.seen().stuck.push(call);
    world.set_mode(2, partitioned(2));
    assert!(world.has_finding(Code::CallStuck));
    assert!(world.gpu(1).partitions.is_empty());
    world.create("a", ANY);
    world.start("a");
    assert_eq!(world.slot_of("a").unwrap(), "node1/0000:02:00.0/0");
}

#[test]
fn a_gpu_that_cannot_be_looked_at_is_not_gone_whatever_keeps_it_from_being_seen() {
    for about in [Some(gpu(1).address), None] {
        let mut world = World::with_gpus(1);
        world.set_mode(1, partitioned(2));
        world.create("a", ANY);
        world.start("a");
        world.end_domain("a", OffReason::Crashed);
        let unseen = world.seen().gpus.remove(&gpu(1).address).unwrap();
        let call = StuckCall { gpu: about, call: "read its attributes".to_owned(), since: Timestamp(0) };
        world.seen().stuck.push(call);
        world.submit(&Change::StopVm { name: vm("a"), force: true }).unwrap();
        world.pass();
        assert!(world.has_finding(Code::CallStuck) && !world.has_finding(Code::GpuGone));
        assert_eq!(world.plan.bookings.len(), 1, "nobody saw that the partition is free");
        world.refuses(&Change::SetGpuMode { gpu: gpu(1), mode: GpuMode::Host }, Code::CallStuck);

        // The wish was there already when the look began to hang.
        world.spec.gpus.get_mut(&gpu(1)).unwrap().mode = GpuMode::Host;
        world.pass();
        assert!(world.plan.gpus.contains_key(&gpu(1)), "which drivers the host had is still known");
        world.seen().stuck.clear();
        world.seen().gpus.insert(gpu(1).address, unseen);
        world.settle();
        assert!(world.plan.gpus.is_empty() && world.gpu(1).partitions.is_empty());
    }
}

#[test]
fn an_adopted_domain_keeps_its_own_xml_and_is_left_behind_when_forgotten() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    let id = tranche_core::name::VmId(uuid::Uuid::from_u128(77));
    let domain = model_domain(&vm("mine"), id, &hardware());
    world.domains().insert("mine".to_owned(), domain);
    let adopted = AdoptedVm { request: ANY, ..AdoptedVm::default() };
    world.accepts(&Change::AdoptVm { name: vm("mine"), vm: adopted });
    world.start("mine");
    assert!(world.slot_of("mine").is_some());
    world.refuses(&Change::DeleteVm { name: vm("mine"), force: false }, Code::VmRunning);
    world.accepts(&Change::DeleteVm { name: vm("mine"), force: true });
    world.settle();
    assert!(world.domains().contains_key("mine"), "the domain is the user's");
    assert!(world.domains()["mine"].defined_devices.is_empty());
    assert!(!world.spec.vms.contains_key(&vm("mine")) && world.plan.bookings.is_empty());
}

#[test]
fn a_deleted_vm_that_tranche_made_is_gone_from_libvirt_too() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.accepts(&Change::DeleteVm { name: vm("a"), force: true });
    world.settle();
    assert!(world.domains().is_empty() && world.spec.vms.is_empty() && world.plan.bookings.is_empty());
}

#[test]
fn attaching_to_a_running_vm_needs_a_restart_and_gets_one() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", Request::None);
    world.start("a");
    let attach = |restart| Change::AttachGpu { name: vm("a"), request: ANY, restart };
    world.refuses(&attach(false), Code::VmRunning);
    world.accepts(&attach(true));
    world.settle();
    assert!(world.runs("a") && world.slot_of("a").is_some());
    world.accepts(&Change::DetachGpu { name: vm("a"), restart: true });
    world.settle();
    assert!(world.runs("a") && world.slot_of("a").is_none());
}

#[test]
fn a_domain_that_was_replaced_behind_our_back_is_not_touched() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world.stop("a");
    world.domains().get_mut("a").unwrap().uuid = uuid::Uuid::from_u128(4711);
    world.accepts(&Change::StartVm { name: vm("a") });
    world.settle();
    assert!(!world.runs("a") && world.has_finding(Code::DomainIdentity));
}

#[test]
fn a_vm_whose_partition_was_lost_gets_another_one_at_its_next_start() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    for name in ["a", "b"] {
        world.create(name, ANY);
    }
    world.start("a");
    world.gpu(1).partitions.remove(1);
    world.start("b");
    assert!(!world.runs("b"), "what is lost is given to nobody while its GPU is in use");
    world.stop("a");
    assert!(world.runs("b"), "the GPU was split anew as soon as nothing used it");
    assert_eq!(world.gpu(1).partitions.len(), 2);
}

#[test]
fn after_a_power_loss_vms_start_by_priority_and_of_equals_the_oldest_first() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(4));
    for name in ["d", "c", "b", "a"] {
        world.create(name, Request::ANY_PARTITION);
        world.start(name);
    }
    for (name, priority, created_at) in [("a", 100, 7), ("b", 100, 5), ("c", 500, 9), ("d", 1, 1)] {
        let mut wish = world.spec.vms[&vm(name)].clone();
        (wish.availability.priority, wish.created_at) = (priority, Timestamp(created_at));
        world.spec.vms.insert(vm(name), wish);
    }
    world.reboot();
    let mut started = Vec::new();
    for _ in 0..10 {
        for step in world.pass() {
            if let Step::StartVm { vm, .. } = &step {
                started.push(vm.to_string());
            }
            world.carry_out(&step);
        }
    }
    assert_eq!(started, ["c", "b", "a", "d"]);
}
