//! Whatever happens in whatever order, no invariant breaks, no step hurts, and once nothing more happens all settles.

use proptest::prelude::*;
use tranche_core::change::{Change, NewVm};
use tranche_core::check;
use tranche_core::finding::Code;
use tranche_core::inventory::{DomainState, HealthState, Hypervisor, OffReason};
use tranche_core::name::{Slot, SlotKey, Timestamp, VmId};
use tranche_core::placement::{Board, Uses};
use tranche_core::plan::{Booking, GpuPlan, Plan};
use tranche_core::spec::{GpuMode, PlacementPolicy, Policy, Request, Run};

use crate::world::{PASSTHROUGH, World, gpu, hardware, host, partitioned, vm};

/// Something that happens.
#[derive(Debug, Clone)]
enum Happening {
    Mode(u8, GpuMode),
    Create(u8, Request),
    Start(u8),
    Stop(u8, bool),
    Restart(u8, bool),
    Delete(u8),
    Attach(u8, Request),
    Detach(u8),
    Spread(bool),
    /// A pass of which only the first steps are carried out: the daemon is killed in between.
    Pass(usize),
    GuestOff(u8, OffReason),
    Reboot,
    Sick(u8, bool),
    Libvirt(bool),
    HandStarts(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    let pool = || prop::option::of(Just("render".parse().unwrap()));
    let mode = prop_oneof![
        Just(GpuMode::Host),
        pool().prop_map(|pool| GpuMode::Passthrough { allow_console: false, pool }),
        (0u16..9).prop_map(partitioned)
    ];
    let request = || {
        prop_oneof![
            1 => Just(Request::None),
            3 => Just(Request::ANY_PARTITION),
            1 => Just(Request::Partition { vram_mib: Some(4_096), profile: None }),
            1 => (1u8..3, pool()).prop_map(|(gpus, pool)| Request::Whole { gpus, pool }),
        ]
    };
    let reason = prop_oneof![Just(OffReason::Shutdown), Just(OffReason::Crashed), Just(OffReason::Destroyed)];
    let vm = || 0u8..5;
    prop_oneof![
        3 => (1u8..4, mode).prop_map(|(bus, mode)| Happening::Mode(bus, mode)),
        3 => (vm(), request()).prop_map(|(vm, request)| Happening::Create(vm, request)),
        4 => vm().prop_map(Happening::Start),
        2 => (vm(), any::<bool>()).prop_map(|(vm, force)| Happening::Stop(vm, force)),
        1 => (vm(), any::<bool>()).prop_map(|(vm, force)| Happening::Restart(vm, force)),
        1 => vm().prop_map(Happening::Delete),
        1 => (vm(), request()).prop_map(|(vm, request)| Happening::Attach(vm, request)),
        1 => vm().prop_map(Happening::Detach),
        1 => any::<bool>().prop_map(Happening::Spread),
        8 => (0usize..6).prop_map(Happening::Pass),
        1 => (vm(), reason).prop_map(|(vm, reason)| Happening::GuestOff(vm, reason)),
        1 => Just(Happening::Reboot),
        1 => (1u8..4, any::<bool>()).prop_map(|(bus, sick)| Happening::Sick(bus, sick)),
        1 => any::<bool>().prop_map(Happening::Libvirt),
        1 => vm().prop_map(Happening::HandStarts),
    ]
}

fn happen(world: &mut World, happening: Happening, libvirt: &mut Option<Hypervisor>) {
    let name = |index: u8| vm(&format!("vm{index}"));
    let change = match happening {
        Happening::Mode(bus, mode) => Change::SetGpuMode { gpu: gpu(bus), mode },
        Happening::Create(index, request) => {
            let new = NewVm {
                hardware: hardware(),
                request,
                reserved: index == 0,
                labels: tranche_core::label::Labels::new(),
                prefer_numa_node: None,
                availability: tranche_core::spec::Availability::default(),
            };
            Change::CreateVm { name: name(index), vm: new }
        }
        Happening::Start(index) => Change::StartVm { name: name(index) },
        Happening::Stop(index, force) => Change::StopVm { name: name(index), force },
        Happening::Restart(index, force) => Change::RestartVm { name: name(index), force },
        Happening::Delete(index) => Change::DeleteVm { name: name(index), force: true },
        Happening::Attach(index, request) => Change::AttachGpu { name: name(index), request, restart: true },
        Happening::Detach(index) => Change::DetachGpu { name: name(index), restart: true },
        Happening::Spread(spread) => {
            let placement = if spread { PlacementPolicy::Spread } else { PlacementPolicy::Pack };
            Change::SetPolicy { policy: Policy { placement, ..Policy::default() } }
        }
        Happening::Pass(carried_out) => {
            let due = world.pass();
            for step in due.iter().take(carried_out) {
                world.carry_out(step);
            }
            return;
        }
        other => return befall(world, other, libvirt),
    };
    // A refusal is an answer too; what matters is that nothing that was taken breaks an invariant.
    let _ = world.submit(&change);
}

/// What people do not ask for.
fn befall(world: &mut World, happening: Happening, libvirt: &mut Option<Hypervisor>) {
    if let Happening::Libvirt(up) = happening {
        if up {
            if let Some(was) = libvirt.take() {
                world.seen().hypervisor = was;
            }
        } else if libvirt.is_none() {
            let down = Hypervisor::Down { reason: "stopped".to_owned() };
            *libvirt = Some(std::mem::replace(&mut world.seen().hypervisor, down));
        }
        return;
    }
    if libvirt.is_some() {
        return;
    }
    match happening {
        Happening::Reboot => world.reboot(),
        Happening::Sick(bus, sick) => {
            world.gpu(bus).health.state = if sick { HealthState::Sick } else { HealthState::Good };
        }
        Happening::GuestOff(index, reason) => {
            let name = format!("vm{index}");
            if world.runs(&name) {
                world.end_domain(&name, reason);
            }
        }
        Happening::HandStarts(index) => {
            let name = format!("vm{index}");
            let startable = world
                .domains()
                .get(&name)
                .is_some_and(|domain| !domain.state.is_active() && domain.defined_devices.is_empty());
            if startable {
                world.run_domain(&name);
            }
        }
        _ => {}
    }
}

/// What must hold of the world at every moment.
fn assert_sound(world: &World) {
    assert_eq!(check::check(&world.plan), []);
    assert_eq!(check::check_world(&world.inventory, &world.plan), []);
    let Some(domains) = world.inventory[&host()].domains() else { return };
    for domain in domains.values().filter(|domain| domain.state == DomainState::Running) {
        for device in domain.live_devices.iter().filter(|device| device.ours) {
            let booked = world.plan.held_by(&vm(&domain.name)).any(|(slot, _)| {
                let gpu = &world.inventory[&host()].gpus[&slot.gpu.address];
                tranche_core::placement::source_of(slot.slot, gpu).as_ref() == Some(&device.source)
            });
            assert!(booked, "{} runs with {:?}, which it does not hold", domain.name, device.source);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_that_happens_breaks_an_invariant_and_everything_settles(
        story in proptest::collection::vec(happening(), 1..60)
    ) {
        let mut world = World::with_gpus(3);
        let mut libvirt = None;
        for happening in story {
            happen(&mut world, happening, &mut libvirt);
            assert_sound(&world);
        }
        befall(&mut world, Happening::Libvirt(true), &mut libvirt);
        world.settle();
        assert_sound(&world);
        for (name, spec) in &world.spec.vms {
            let runs = world.runs(name.as_str());
            let told = world.findings.iter().any(|finding| finding.subject == tranche_core::finding::Subject::Vm(name.clone()));
            match spec.run {
                Run::Running | Run::Reset => prop_assert!(runs || told, "{name} is off and nobody says why"),
                Run::Stopped | Run::Killed => prop_assert!(!runs || world.has_finding(Code::StartedByHand)),
                Run::Deleted => prop_assert!(false, "{name} was not forgotten"),
            }
        }
    }

    /// The oracle tries every slot; placement must find one exactly if there is one, and never a taken one.
    #[test]
    fn placement_finds_a_slot_exactly_if_there_is_one(
        counts in proptest::collection::vec(prop_oneof![Just(0u16), Just(2), Just(4), Just(8)], 1..4),
        taken in proptest::collection::btree_set((0usize..3, 0u16..8), 0..24),
        spread in any::<bool>(),
        vram_mib in prop_oneof![Just(None), Just(Some(4_096u64)), Just(Some(8_192)), Just(Some(1))],
    ) {
        let world = World::with_gpus(3);
        let mut plan = Plan::default();
        let mut free = Vec::new();
        for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let key = gpu(u8::try_from(index).unwrap() + 1);
            let seen = &world.inventory[&host()].gpus[&key.address];
            let offer = seen.offer(*count, None).cloned();
            let fits = vram_mib.is_none_or(|wanted| offer.as_ref().unwrap().vram_mib == Some(wanted));
            let planned =
                GpuPlan { mode: partitioned(*count), offer, identity: seen.identity(), host_drivers: Default::default(), sizes: Vec::new(), was_mixed: false, autoprobe_was_off: false, reloads: 0, reload: None };
            plan.gpus.insert(key.clone(), planned);
            for partition in 0..*count {
                let slot = SlotKey { gpu: key.clone(), slot: Slot::Partition(partition) };
                if taken.contains(&(index, partition)) {
                    let booking = Booking { vm: vm("other"), vm_id: VmId(uuid::Uuid::nil()), since: Timestamp(0) };
                    plan.bookings.insert(slot, booking);
                } else if fits {
                    free.push(slot);
                }
            }
        }
        let mut spec = World::with_gpus(0);
        spec.create("a", Request::Partition { vram_mib, profile: None });
        spec.spec.policy.placement = if spread { PlacementPolicy::Spread } else { PlacementPolicy::Pack };
        let asked = (&vm("a"), &spec.spec.vms[&vm("a")]);
        let uses = world.inventory.iter().map(|(host, seen)| (host.clone(), Uses::of(seen))).collect();
        let mut board = Board::new(&spec.spec, &world.inventory, &plan.gpus, &plan, &uses);
        match board.take(asked, None) {
            Ok(place) => {
                let slots = place.slots;
                prop_assert_eq!(slots.len(), 1);
                prop_assert!(free.contains(&slots[0]));
                let free_on = |slot: &SlotKey| free.iter().filter(|other| other.gpu == slot.gpu).count();
                let chosen = free_on(&slots[0]);
                let best = free.iter().map(free_on);
                prop_assert_eq!(Some(chosen), if spread { best.max() } else { best.min() });
            }
            Err(finding) => prop_assert!(free.is_empty(), "{finding}"),
        }
    }
}

#[test]
fn the_checker_finds_a_planted_double_booking() {
    let mut world = World::with_gpus(2);
    world.set_mode(1, partitioned(4));
    world.set_mode(2, PASSTHROUGH);
    world.create("a", Request::ANY_PARTITION);
    world.start("a");
    let booking = world.plan.bookings.values().next().unwrap().clone();
    let slot = |bus, slot| SlotKey { gpu: gpu(bus), slot };
    for (planted, about) in [
        (slot(1, Slot::Partition(3)), "holds 2 partitions"),
        (slot(2, Slot::Whole), "a partition and a whole GPU"),
        (slot(1, Slot::Partition(4)), "does not exist in mode"),
        (slot(1, Slot::Whole), "does not exist in mode"),
    ] {
        let mut plan = world.plan.clone();
        plan.bookings.insert(planted, booking.clone());
        let found = check::check(&plan);
        assert!(found.iter().any(|finding| finding.message.contains(about)), "{about}: {found:#?}");
        assert_eq!(check::check_changes(&world.plan, &plan), found, "what is as before is sound");
    }
    for (plant, about) in [
        (
            (|plan| drop(plan.gpus.remove(&gpu(1)))) as fn(&mut tranche_core::plan::Plan),
            "does not exist in mode",
        ),
        (
            |plan| plan.vms.get_mut(&vm("a")).unwrap().host = "elsewhere".parse().unwrap(),
            "runs on host elsewhere",
        ),
    ] {
        let mut plan = world.plan.clone();
        plant(&mut plan);
        let found = check::check(&plan);
        assert!(found.iter().any(|finding| finding.message.contains(about)), "{about}: {found:#?}");
        assert_eq!(check::check_changes(&world.plan, &plan), found, "what is as before is sound");
    }
    let device = world.domains()["a"].live_devices.clone();
    let twin = tranche_core::inventory::Domain {
        name: "b".to_owned(),
        live_devices: device,
        ..world.domains()["a"].clone()
    };
    world.domains().insert("b".to_owned(), twin);
    assert!(
        check::check_world(&world.inventory, &world.plan)[0]
            .message
            .contains("serves several running VMs: a, b")
    );
}
