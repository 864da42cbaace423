//! What is refused at the door, and with which code.

use tranche_core::capacity::capacity;
use tranche_core::change::{AdoptedVm, Change, NewVm};
use tranche_core::declare::{self, Declaration, DeclaredGpu, DeclaredVm};
use tranche_core::effect::{VmEffect, preview};
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{GroupMember, Hypervisor, Iommu, IommuGroup};
use tranche_core::name::{GpuKey, HostName, Timestamp, VmName};
use tranche_core::spec::{
    AvailabilityPart, Company, FailoverPart, FailoverPolicy, GpuMode, HostSpec, Pace, PacePart, Policy,
    PolicyPart, Request, Rule, Timers, TimersPart, VmHardware, VmPart, VmSource, VolumeRef,
};
use tranche_core::step::Step;
use tranche_core::why::why_not;

use crate::world::{PASSTHROUGH, World, gpu, hardware, host, partitioned, vm};

fn set(bus: u8, mode: GpuMode) -> Change {
    Change::SetGpuMode { gpu: gpu(bus), mode }
}

fn create(name: &str, hardware: VmHardware) -> Change {
    let vm = NewVm {
        hardware,
        request: Request::None,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: tranche_core::spec::Availability::default(),
    };
    Change::CreateVm { name: name.parse().unwrap(), vm }
}

#[test]
fn a_count_that_the_driver_does_not_offer_is_refused_with_those_that_it_does() {
    let mut world = World::with_gpus(1);
    for count in [0, 3, 5, 9, u16::MAX] {
        world.refuses(&set(1, partitioned(count)), Code::InvalidPartitionCount);
    }
    let refusal = world.submit(&set(1, partitioned(3))).unwrap_err();
    assert_eq!(refusal[0].hint, "Its driver offers: 1, 2, 4, 8.");
}

#[test]
fn partitioned_and_passthrough_follow_each_other_directly_and_never_overlap() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.accepts(&set(1, PASSTHROUGH));
    let due = world.pass();
    assert!(matches!(due[..], [Step::DisableVfs { .. }, Step::TakeGpu { .. }]), "{due:?}");
    world.settle();
    assert!(world.gpu(1).driver.as_deref() == Some("vfio-pci") && world.gpu(1).partitions.is_empty());
    world.accepts(&set(1, partitioned(4)));
    let due = world.pass();
    assert!(matches!(due[..], [Step::ReturnGpu { .. }, Step::EnableVfs { count: 4, .. }]), "{due:?}");
    world.settle();
    assert!(world.gpu(1).driver.as_deref() == Some("model") && world.gpu(1).partitions.len() == 4);
    world.create("a", Request::ANY_PARTITION);
    world.start("a");
    assert!(world.runs("a"));
    world.refuses(&set(1, PASSTHROUGH), Code::ModeConflict);
    world.refuses(&set(1, PASSTHROUGH), Code::PartitionsInUse);
}

#[test]
fn what_only_the_gpus_own_driver_tells_is_asked_when_passthrough_has_given_it_back() {
    let mut world = World::with_gpus(1);
    world.make_typed(1);
    world.set_mode(1, PASSTHROUGH);
    let offers = std::mem::take(&mut world.gpu(1).offers);
    world.gpu(1).backend = None;
    world.accepts(&set(1, partitioned(4)));
    let due = world.pass();
    assert!(matches!(due[..], [Step::ReturnGpu { .. }]), "{due:?}");
    world.carry_out(&due[0]);
    world.gpu(1).offers = offers;
    world.make_typed(1);
    world.settle();
    assert_eq!(world.gpu(1).partitions.len(), 4);
    world.gpu(1).offers.clear();
    world.gpu(1).backend = None;
    world.gpu(1).sriov = None;
    world.gpu(1).driver = Some("vfio-pci".to_owned());
    world.refuses(&set(1, partitioned(2)), Code::ModeConflict);
}

#[test]
fn a_gpu_that_cannot_is_told_why() {
    let mut world = World::with_gpus(1);
    world.gpu(1).backend = None;
    world.gpu(1).offers.clear();
    world.gpu(1).driver = None;
    world.refuses(&set(1, partitioned(2)), Code::DriverMissing);
    world.gpu(1).driver = Some("model".to_owned());
    world.gpu(1).sriov.as_mut().unwrap().total_vfs = 0;
    world.refuses(&set(1, partitioned(2)), Code::SriovDisabled);
    world.gpu(1).sriov = None;
    world.refuses(&set(1, partitioned(2)), Code::NotPartitionable);
    world.seen().system.iommu = Iommu::Off;
    world.refuses(&set(1, PASSTHROUGH), Code::IommuOff);
    world.refuses(&set(9, partitioned(2)), Code::GpuNotFound);
    let elsewhere = GpuKey { host: "node9".parse().unwrap(), address: gpu(1).address };
    world.refuses(&Change::SetGpuMode { gpu: elsewhere, mode: GpuMode::Host }, Code::HostNotFound);
}

#[test]
fn a_member_that_has_not_reported_yet_is_silent_and_not_unknown() {
    let mut world = World::with_gpus(1);
    world.create("a", Request::ANY_PARTITION);
    for (name, code) in [("node8", Code::HostSilent), ("node9", Code::HostNotFound)] {
        let host: HostName = name.parse().unwrap();
        if code == Code::HostSilent {
            world.spec.hosts.insert(host.clone(), HostSpec::new(Timestamp(1)));
        }
        let gpu = GpuKey { host: host.clone(), address: gpu(1).address };
        world.refuses(&Change::SetGpuMode { gpu, mode: GpuMode::Host }, code);
        let state = world.state();
        let codes =
            |refused: Vec<Finding>| refused.into_iter().map(|finding| finding.code).collect::<Vec<_>>();
        assert_eq!(codes(why_not(&"a".parse().unwrap(), &host, state).unwrap_err()), [code]);
        assert_eq!(codes(capacity(state, &[host.clone()].into()).unwrap_err()), [code]);
    }
}

#[test]
fn the_console_is_not_taken_without_a_word() {
    let mut world = World::with_gpus(1);
    world.gpu(1).boot_vga = true;
    world.refuses(&set(1, PASSTHROUGH), Code::ConsoleGpu);
    world.set_mode(1, GpuMode::Passthrough { allow_console: true, pool: None });
}

#[test]
fn a_card_of_the_host_in_the_group_is_not_taken_along() {
    let member = |address: &str, driver: Option<&str>| GroupMember {
        address: address.parse().unwrap(),
        class: 0x04_0300,
        driver: driver.map(str::to_owned),
        driver_override: None,
    };
    let mut world = World::with_gpus(1);
    let group = |world: &mut World, other| {
        let members =
            vec![member("0000:01:00.0", Some("model")), member("0000:01:00.1", Some("sound")), other];
        world.gpu(1).iommu_group = Some(IommuGroup { id: 5, members });
    };
    group(&mut world, member("0000:03:00.0", Some("nvme")));
    world.refuses(&set(1, PASSTHROUGH), Code::GroupShared);
    group(&mut world, member("0000:03:00.0", None));
    world.accepts(&set(1, PASSTHROUGH));
}

#[test]
fn a_gpu_without_reset_is_taken_with_a_warning() {
    let mut world = World::with_gpus(1);
    world.gpu(1).reset_methods.clear();
    let warnings = world.submit(&set(1, PASSTHROUGH)).unwrap();
    assert_eq!(warnings[0].code, Code::NoReset);
}

#[test]
fn whoever_gives_a_gpu_away_whole_is_told_that_its_firmware_goes_along() {
    let mut world = World::with_gpus(1);
    let told = world.submit(&set(1, PASSTHROUGH)).unwrap();
    assert_eq!(told.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::FirmwareOpen]);
    assert_eq!(world.submit(&set(1, PASSTHROUGH)).unwrap(), [], "it is told once");
    world.settle();
    let told = world.submit(&set(1, partitioned(2))).unwrap();
    assert!(told.iter().all(|finding| finding.code != Code::FirmwareOpen));
}

#[test]
fn a_second_partition_for_a_vm_is_refused() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", Request::ANY_PARTITION);
    let second = Request::Partition { vram_mib: Some(8_192), profile: None };
    world.refuses(&Change::AttachGpu { name: vm("a"), request: second, restart: true }, Code::VmHasPartition);
    // The same wish again is no second partition: commands may be repeated.
    let again = Change::AttachGpu { name: vm("a"), request: Request::ANY_PARTITION, restart: false };
    let findings = world.submit(&again).unwrap();
    assert_eq!(findings[0].code, Code::VmHasPartition);
    assert_eq!(world.spec.vms[&vm("a")].request, Request::ANY_PARTITION);
}

#[test]
fn hardware_of_a_new_vm_is_checked_at_the_door() {
    let mut world = World::with_gpus(1);
    let volume = |volume: &str| VolumeRef { pool: "default".to_owned(), volume: volume.to_owned() };
    for broken in [
        VmHardware { vcpus: 0, ..hardware() },
        VmHardware { vcpus: 100_000, ..hardware() },
        VmHardware { memory_mib: 0, ..hardware() },
        VmHardware { memory_mib: u64::MAX, ..hardware() },
        VmHardware { disks: vec![volume("../../etc/shadow")], ..hardware() },
        VmHardware { disks: vec![volume("")], ..hardware() },
        VmHardware { disks: vec![volume("a\nb")], ..hardware() },
        VmHardware { disks: vec![volume("x"); 17], ..hardware() },
        VmHardware { networks: vec!["a/b".to_owned()], ..hardware() },
        VmHardware { guest_os: Some("a/b".to_owned()), ..hardware() },
        VmHardware { cloud_init: Some("x".repeat(65_537)), ..hardware() },
    ] {
        world.refuses(&create("a", broken), Code::InvalidValue);
    }
    // XML characters are no danger: the writer escapes them.
    world.accepts(&create("a", VmHardware { disks: vec![volume("a<b>&\"'")], ..hardware() }));
    world.refuses(&create("a", hardware()), Code::VmExists);
}

#[test]
fn an_unknown_guest_system_is_taken_with_a_warning() {
    let mut world = World::with_gpus(1);
    let odd = VmHardware { guest_os: Some("haiku".to_owned()), ..hardware() };
    let warnings = world.submit(&create("a", odd)).unwrap();
    assert_eq!(warnings[0].code, Code::GuestUnsupported);
}

#[test]
fn what_does_not_exist_is_not_found() {
    let mut world = World::with_gpus(1);
    let name: VmName = vm("ghost");
    world.refuses(&Change::StartVm { name: name.clone() }, Code::VmNotFound);
    world.refuses(&Change::StopVm { name: name.clone(), force: true }, Code::VmNotFound);
    world.refuses(&Change::RestartVm { name: name.clone(), force: false }, Code::VmNotFound);
    world.refuses(&Change::DeleteVm { name: name.clone(), force: true }, Code::VmNotFound);
    let adopt = Change::AdoptVm { name, vm: AdoptedVm::default() };
    world.refuses(&adopt, Code::DomainNotFound);
    world.seen().hypervisor = Hypervisor::Down { reason: "no".to_owned() };
    world.refuses(&adopt, Code::LibvirtDown);
}

#[test]
fn commands_may_be_repeated() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", Request::ANY_PARTITION);
    world.start("a");
    let before = world.spec.clone();
    world.accepts(&set(1, partitioned(2)));
    world.accepts(&Change::StartVm { name: vm("a") });
    assert_eq!(world.spec, before);
    world.stop("a");
    let before = world.spec.clone();
    world.stop("a");
    assert_eq!(world.spec, before);
}

#[test]
fn why_not_names_every_obstacle() {
    let mut world = World::with_gpus(3);
    world.set_mode(1, partitioned(1));
    world.set_mode(2, PASSTHROUGH);
    world.create("a", Request::ANY_PARTITION);
    world.create("b", Request::ANY_PARTITION);
    world.start("a");
    assert_eq!(why_not(&vm("a"), &host(), world.state()), Ok(Vec::new()), "it runs there");
    let found = why_not(&vm("b"), &host(), world.state()).unwrap();
    let mut codes: Vec<Code> = found.iter().map(|finding| finding.code).collect();
    codes.dedup();
    assert_eq!(codes, [Code::ModeConflict, Code::NoFreePartition], "{found:#?}");
    assert!(found.iter().any(|finding| finding.message.contains("taken by VM a")));
    assert!(found.iter().any(|finding| finding.message.contains("passed through")));
    assert!(found.iter().any(|finding| finding.message.contains("in mode host")));
}

#[test]
fn a_preview_tells_what_becomes_of_each_vm_and_changes_nothing() {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(1));
    world.create("a", Request::ANY_PARTITION);
    world.create("b", Request::ANY_PARTITION);
    let effect_of = |world: &World, change: &Change, name: &str| {
        let id = tranche_core::name::VmId(uuid::Uuid::nil());
        let admitted = tranche_core::change::admit(change, world.state(), id, world.now).unwrap();
        preview(&admitted.spec, world.state(), world.now).vms.get(&vm(name)).copied()
    };
    let start = |name: &str| Change::StartVm { name: vm(name) };
    assert_eq!(effect_of(&world, &start("a"), "a"), Some(VmEffect::Starts));
    world.start("a");
    assert_eq!(effect_of(&world, &start("b"), "b"), Some(VmEffect::Waits));
    for force in [false, true] {
        let restart = Change::RestartVm { name: vm("a"), force };
        assert_eq!(effect_of(&world, &restart, "a"), Some(VmEffect::Restarts));
    }
    assert_eq!(
        effect_of(&world, &Change::StopVm { name: vm("a"), force: false }, "a"),
        Some(VmEffect::Stops)
    );
    assert_eq!(
        effect_of(&world, &Change::DeleteVm { name: vm("a"), force: true }, "a"),
        Some(VmEffect::Goes)
    );
}

#[test]
fn a_declaration_becomes_the_changes_that_are_needed_and_no_others() {
    let mut world = World::with_gpus(2);
    let declared = Declaration {
        gpus: vec![DeclaredGpu { host: None, address: gpu(1).address, mode: partitioned(2) }],
        vms: vec![DeclaredVm {
            name: vm("a"),
            hardware: Some(hardware()),
            gpu: Request::ANY_PARTITION,
            running: Some(true),
            reserved: None,
            labels: tranche_core::label::LabelsPart::new(),
            prefer_numa_node: Some(1),
            availability: tranche_core::spec::AvailabilityPart::default(),
        }],
        ..Declaration::default()
    };
    let hosts = [&host()];
    let changes = declare::changes(&declared, &world.spec, &hosts).unwrap();
    assert_eq!(changes.len(), 3, "split, create, start: {changes:#?}");
    for change in &changes {
        world.accepts(change);
    }
    world.settle();
    assert!(world.runs("a"));
    assert_eq!(world.spec.vms[&vm("a")].prefer_numa_node, Some(1));
    assert_eq!(
        declare::changes(&declared, &world.spec, &hosts),
        Ok(Vec::new()),
        "applying twice changes nothing"
    );
}

#[test]
fn a_declaration_that_prunes_lets_go_of_what_it_does_not_name_and_never_of_what_runs() {
    let mut world = World::with_gpus(1);
    for name in ["runs", "rests", "adopted"] {
        world.accepts(&create(name, hardware()));
    }
    world.accepts(&Change::StartVm { name: vm("runs") });
    let rule = Rule::Vms { kind: Company::Apart, vms: [vm("runs"), vm("rests")].into(), strict: false };
    world.accepts(&Change::SetRule { name: "apart".parse().unwrap(), rule });
    world.settle();
    let mut adopted = world.spec.vms[&vm("adopted")].clone();
    adopted.source = VmSource::Adopted;
    world.spec.vms.insert(vm("adopted"), adopted);

    let hosts = [&host()];
    let mut declared = Declaration::default();
    assert_eq!(declare::changes(&declared, &world.spec, &hosts), Ok(Vec::new()), "nothing goes by itself");
    declared.prune = true;
    let refusal = declare::changes(&declared, &world.spec, &hosts).unwrap_err();
    assert_eq!(refusal.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::VmRunning]);

    world.accepts(&Change::StopVm { name: vm("runs"), force: false });
    world.settle();
    let changes = declare::changes(&declared, &world.spec, &hosts).unwrap();
    let expected = [
        Change::DeleteRule { name: "apart".parse().unwrap() },
        Change::DeleteVm { name: vm("rests"), force: false },
        Change::DeleteVm { name: vm("runs"), force: false },
    ];
    assert_eq!(changes, expected);
    for change in &changes {
        world.accepts(change);
    }
    world.settle();
    assert_eq!(world.spec.vms.keys().collect::<Vec<_>>(), [&vm("adopted")]);
    assert_eq!(declare::changes(&declared, &world.spec, &hosts), Ok(Vec::new()), "and it is done once");
}

#[test]
fn a_declaration_that_contradicts_itself_is_refused_whole() {
    let world = World::with_gpus(2);
    let one = DeclaredGpu { host: Some(host()), address: gpu(1).address, mode: partitioned(2) };
    let declared = Declaration { gpus: vec![one.clone(), one], ..Declaration::default() };
    let refusal = declare::changes(&declared, &world.spec, &[&host()]).unwrap_err();
    assert_eq!(refusal[0].code, Code::InvalidValue);
    let nowhere = DeclaredGpu { host: None, address: gpu(1).address, mode: partitioned(2) };
    let declared = Declaration { gpus: vec![nowhere], ..Declaration::default() };
    let other = "node2".parse().unwrap();
    assert!(declare::changes(&declared, &world.spec, &[&host(), &other]).is_err(), "which host is meant?");
}

#[test]
fn a_profile_is_asked_for_by_the_name_that_is_shown_of_it_and_by_nothing_unspeakable() {
    let mut world = World::with_gpus(1);
    let ask = |profile: &str| {
        let Change::CreateVm { name, vm } = create("a", hardware()) else {
            unreachable!("that is what it makes")
        };
        let request = Request::Partition { vram_mib: None, profile: Some(profile.to_owned()) };
        Change::CreateVm { name, vm: NewVm { request, ..vm } }
    };
    for wrong in ["", "1\n2", &"q".repeat(256)] {
        world.refuses(&ask(wrong), Code::InvalidValue);
    }
    world.accepts(&ask("1/4"));
}

#[test]
fn limits_for_moves_that_cannot_be_kept_are_refused_for_a_vm_and_for_all() {
    let mut world = World::with_gpus(1);
    let of = |pause_ms, bandwidth_mib_s| {
        let pace = Pace { pause_ms, bandwidth_mib_s };
        Change::SetPolicy { policy: Policy { pace, ..Policy::default() } }
    };
    for wrong in [of(Some(19), None), of(Some(600_001), None), of(None, Some(0))] {
        world.refuses(&wrong, Code::InvalidValue);
    }
    let refusal = world.submit(&of(Some(19), None)).unwrap_err();
    assert_eq!(refusal[0].hint, "Choose it so that pause_ms is 20 to 600000.");
    world.accepts(&of(Some(20), Some(1)));
    world.accepts(&create("a", hardware()));
    let set = |pause_ms| {
        let pace = PacePart { pause_ms: Some(pause_ms), ..PacePart::default() };
        let availability = AvailabilityPart { pace, ..AvailabilityPart::default() };
        Change::SetVm { name: vm("a"), wish: VmPart { availability, ..VmPart::default() } }
    };
    world.refuses(&set(Some(19)), Code::InvalidValue);
    world.accepts(&set(Some(500)));
    assert_eq!(world.spec.vms[&vm("a")].availability.pace.pause_ms, Some(500));
    world.accepts(&set(None));
    assert_eq!(world.spec.vms[&vm("a")].availability.pace.pause_ms, None);
}

#[test]
fn times_of_failover_that_leave_no_room_for_a_reset_are_refused_at_every_door() {
    let mut world = World::with_gpus(1);
    let of = |reset_ms, restart_ms| {
        let timers = Timers { reset_ms, restart_ms, ..Timers::default() };
        Policy { failover: FailoverPolicy { paused: false, timers }, ..Policy::default() }
    };
    world.refuses(&Change::SetPolicy { policy: of(8_000, 6_000) }, Code::InvalidValue);
    let refusal = world.submit(&Change::SetPolicy { policy: of(8_000, 8_500) }).unwrap_err();
    assert_eq!(refusal[0].hint, "Choose them so that restart_ms is at least 1000 more than reset_ms.");
    let timers = TimersPart { reset_ms: Some(60_000), ..TimersPart::default() };
    let failover = FailoverPart { timers, ..FailoverPart::default() };
    let policy = Some(PolicyPart { failover, ..PolicyPart::default() });
    let declared = Declaration { policy, ..Declaration::default() };
    let changes = declare::changes(&declared, &world.spec, &[&host()]).unwrap();
    world.refuses(&changes[0], Code::InvalidValue);
    world.accepts(&Change::SetPolicy { policy: of(60_000, 61_000) });
}
