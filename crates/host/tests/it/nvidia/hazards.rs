//! What goes wrong with NVIDIA's driver on real hosts, one test each.

use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::inventory::{DeviceSource, HealthState, PartitionDevice, mdev_uuid};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::Step;
use tranche_host::Host as _;
use tranche_host::fake::{DeviceUse as _, Machine};
use uuid::Uuid;

use super::world::{World, function, key, partitioned};
use crate::machine::{NOW, at, pci, qemu};

const GPU: &str = "0000:41:00.0";
const PF: &str = "sys/bus/pci/devices/0000:41:00.0";

fn a2() -> Machine {
    Machine::nvidia(&["NVIDIA A2"])
}

fn mediated_a2() -> Machine {
    a2().with_mediated_vgpus()
}

/// The number of an A2's type by its name.
fn id(profile: &str) -> u32 {
    let model = &Machine::nvidia(&["NVIDIA A2"]).vgpus[0];
    let name = format!("NVIDIA A2-{profile}");
    model.types.iter().find(|kind| kind.name == name).expect("such a type").id
}

fn file(vf: impl std::fmt::Display, name: &str) -> String {
    format!("sys/bus/pci/devices/{vf}/nvidia/{name}")
}

#[test]
fn a_late_release_of_one_vm_takes_nothing_from_the_next() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 1, None);
        world.create("first", Request::ANY_PARTITION);
        world.create("second", Request::ANY_PARTITION);
        world.start("first");
        let seen = world.gpu(GPU);
        let late = [
            Step::SetProfile { gpu: at(GPU), index: 0, vf: function(&seen, 0), profile: None },
            Step::DisableVfs { gpu: at(GPU), autoprobe: true },
        ];
        world.stop("first");
        world.start("second");
        for step in late {
            let finding = world.host.apply(&step, NOW).expect_err("somebody else has it");
            assert_eq!(finding.code, Code::PartitionsInUse, "{finding}");
        }
        assert_eq!(world.profiles(GPU), [(0, "16Q".to_owned())]);
        assert!(world.runs("second"));
    }
}

#[test]
fn a_late_removal_of_one_vms_mediated_device_takes_nothing_from_the_next() {
    for mut world in World::on_both_faces(&mediated_a2()) {
        world.split(GPU, 1, None);
        world.create("first", Request::ANY_PARTITION);
        world.create("second", Request::ANY_PARTITION);
        world.start("first");
        world.stop("first");
        world.start("second");
        let uuid = mdev_uuid(&key(GPU), 0);
        for step in
            [Step::RemoveMdev { gpu: at(GPU), uuid }, Step::DisableVfs { gpu: at(GPU), autoprobe: true }]
        {
            let finding = world.host.apply(&step, NOW).expect_err("somebody else has it");
            assert_eq!(finding.code, Code::PartitionsInUse, "{finding}");
        }
        assert!(world.runs("second"));
    }
}

#[test]
fn a_type_that_vanishes_between_list_and_write_is_had_once_the_list_is_read_again() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 1, None);
        let seen = world.gpu(GPU);
        // While the first function is made a 4Q, somebody makes the tenth an 8Q, and both do not go together.
        world.kernel.race_for_types(function(&seen, 0), function(&seen, 9), id("8Q"));
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
        let finding = world.fails(Code::KernelRefused);
        assert!(
            finding.message.contains("did not become a 4Q") && finding.message.contains("EINVAL"),
            "{finding}"
        );
        world.settle();
        assert_eq!(world.profiles(GPU), [0, 1, 2, 3].map(|index| (index, "4Q".to_owned())));
    }
}

#[test]
fn a_list_of_nothing_but_its_header_is_no_type_and_no_reason_to_offer_less() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 1, None);
        let offered = world.gpu(GPU).offers;
        world.kernel.offer_no_types(pci(GPU));
        world.set_mode(GPU, GpuMode::Host);
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
        assert_eq!(world.turn(), (1, Vec::new()), "the functions are there");
        let finding = world.fails(Code::FewerPartitions);
        assert!(finding.message.contains("can take no type at present"), "{finding}");
        let seen = world.gpu(GPU);
        assert_eq!(world.read(&file(function(&seen, 0), "creatable_vgpu_types")), "ID    : vGPU Name");
        assert_eq!((seen.offers, seen.blanks.len()), (offered, 16));
        world.kernel.repair();
        world.settle();
        assert_eq!(world.profiles(GPU).len(), 4);
    }
}

#[test]
fn functions_with_the_ids_of_their_gpu_are_not_taken_for_gpus() {
    for models in [["NVIDIA A2"], ["NVIDIA A16"]] {
        for mut world in World::on_both_faces(&Machine::nvidia(&models)) {
            world.split(GPU, 4, None);
            let seen = world.gpu(GPU);
            assert_eq!(seen.model, models[0], "the subsystem tells the A2 from the A16");
            let vf = function(&seen, 3);
            for (attribute, value) in [("device", "0x25b6"), ("subsystem_device", "0x0000")] {
                assert_eq!(world.read(&format!("sys/bus/pci/devices/{vf}/{attribute}")), value);
            }
            let gpus = world.host.observe(NOW).gpus.into_keys();
            assert!(gpus.into_iter().all(|gpu| gpu.pci().is_some_and(|address| address.function == 0)));
        }
    }
}

#[test]
fn types_are_found_by_name_after_a_driver_update_gave_them_other_numbers() {
    for machine in [Machine::nvidia(&["NVIDIA A2"]), Machine::nvidia(&["NVIDIA A2"]).with_mediated_vgpus()] {
        for mut world in World::on_both_faces(&machine) {
            world.split(GPU, 4, None);
            world.kernel.rebuild(|machine| {
                // Now what was the number of the 4Q is that of another type.
                machine.vgpus[0].types.iter_mut().for_each(|kind| kind.id += 1);
            });
            world.settle();
            assert_eq!(world.profiles(GPU), [0, 1, 2, 3].map(|index| (index, "4Q".to_owned())));
            world.split(GPU, 8, None);
            assert!(world.profiles(GPU).iter().all(|(_, profile)| profile == "2Q"));
        }
    }
}

#[test]
fn numbers_that_nobody_can_explain_are_left_alone_while_there_are_as_many_as_decided() {
    for mut world in World::on_both_faces(&a2()) {
        world.kernel.rebuild(|machine| machine.vgpus[0].types.iter_mut().for_each(|kind| kind.id += 1));
        world.split(GPU, 2, None);
        world.create("a", Request::ANY_PARTITION);
        world.start("a");
        // A full GPU lists no type, and the new daemon has seen no list. The catalogue's number is that of a 16Q, of which
        // there cannot be two.
        world.restart_daemon();
        assert_eq!(world.pass(), []);
        assert_eq!(world.profiles(GPU), [0, 1].map(|index| (index, "?".to_owned())));
        assert!(world.runs("a"));
        world.stop("a");
        world.split(GPU, 4, None);
        assert_eq!(world.profiles(GPU), [0, 1, 2, 3].map(|index| (index, "4Q".to_owned())));
    }
}

#[test]
fn a_full_gpu_is_known_to_a_daemon_that_has_just_started() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 2, None);
        world.restart_daemon();
        assert_eq!(world.profiles(GPU), [0, 1].map(|index| (index, "8Q".to_owned())));
    }
}

#[test]
fn sriov_numvfs_answers_enoent_unless_it_is_told_what_is_so_already() {
    for mut world in World::on_both_faces(&a2()) {
        let numvfs = format!("{PF}/sriov_numvfs");
        assert_eq!(world.write(&numvfs, "4"), Err(libc::ENOENT));
        assert_eq!(world.write(&numvfs, "0"), Ok(()));
        assert_eq!(world.write(&numvfs, "17"), Err(libc::ERANGE));
        world.split(GPU, 4, None);
        assert_eq!(world.write(&numvfs, "16"), Ok(()));
        assert_eq!(world.write(&numvfs, "0"), Err(libc::ENOENT));
        assert_eq!(world.profiles(GPU).len(), 4);
    }
}

#[test]
fn a_type_stays_while_a_vm_has_the_function_open() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 4, None);
        world.create("a", Request::ANY_PARTITION);
        world.start("a");
        let DeviceSource::Pci { address: vf } = world.opened() else { panic!("a virtual function") };
        assert_eq!(world.write(&file(vf, "current_vgpu_type"), "0"), Err(libc::EPERM));
        assert_eq!(world.write(&file(vf, "current_vgpu_type"), &id("8Q").to_string()), Err(libc::EINVAL));
        let step = Step::SetProfile { gpu: at(GPU), index: 0, vf, profile: None };
        let finding = world.host.apply(&step, NOW).expect_err("it is open");
        assert_eq!(finding.code, Code::PartitionsInUse);
        assert!(finding.message.contains("qemu-system-x86"), "{finding}");
        assert_eq!(world.profiles(GPU).len(), 4);
    }
}

#[test]
fn a_type_stays_though_nobody_can_see_who_has_the_function_open() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 4, None);
        let vf = function(&world.gpu(GPU), 2);
        let (source, unseen) = (DeviceSource::Pci { address: vf }, qemu(4711));
        world.kernel.open(&source, &unseen).unwrap();
        world.kernel.hide(unseen.pid);
        assert!(world.gpu(GPU).partitions.iter().all(|partition| partition.open_by.is_empty()));
        let step = Step::SetProfile { gpu: at(GPU), index: 2, vf, profile: None };
        let finding = world.host.apply(&step, NOW).expect_err("it is open");
        assert_eq!(finding.code, Code::PartitionsInUse);
        assert!(finding.message.contains("keeps its type"), "{finding}");
        world.kernel.close(&source, &unseen);
        world.host.apply(&step, NOW).expect("it is closed");
    }
}

#[test]
fn an_instance_that_somebody_else_took_between_look_and_write_is_told_and_tried_again() {
    for mut world in World::on_both_faces(&mediated_a2()) {
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
        assert_eq!(world.turn(), (1, Vec::new()), "the functions are there");
        let seen = world.gpu(GPU);
        world.kernel.race_for_types(function(&seen, 0), function(&seen, 9), id("8A"));
        let finding = world.fails(Code::FewerPartitions);
        assert!(
            finding.message.contains("did not become a 4Q") && finding.message.contains("EINVAL"),
            "{finding}"
        );
        let seen = world.gpu(GPU);
        let [theirs] = &seen.partitions[..] else { panic!("one mediated device") };
        assert_eq!((theirs.index, theirs.profile.as_deref()), (None, Some("8A")));
        let PartitionDevice::Mdev { uuid } = theirs.device else { panic!("a mediated device") };
        world.write(&format!("sys/bus/mdev/devices/{uuid}/remove"), "1").unwrap();
        world.settle();
        assert_eq!(world.profiles(GPU), [0, 1, 2, 3].map(|index| (index, "4Q".to_owned())));
    }
}

#[test]
fn a_reload_of_the_driver_is_made_good() {
    for mut world in [a2(), mediated_a2()].iter().flat_map(World::on_both_faces) {
        world.split(GPU, 8, Some("A"));
        let before = world.profiles(GPU);
        world.kernel.reload_nvidia_driver();
        assert_eq!(world.gpu(GPU).partitions, []);
        world.settle();
        assert_eq!(world.profiles(GPU), before);
        world.create("a", Request::ANY_PARTITION);
        world.start("a");
    }
}

#[test]
fn hands_on_an_idle_partition_are_put_right_and_a_vm_is_left_alone() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 4, None);
        world.create("a", Request::ANY_PARTITION);
        world.start("a");
        let seen = world.gpu(GPU);
        let types = [1, 2].map(|index| file(function(&seen, index), "current_vgpu_type"));
        world.write(&types[0], "0").unwrap();
        world.write(&types[1], "0").unwrap();
        world.write(&types[1], &id("4C").to_string()).unwrap();
        let unbind = "sys/bus/pci/drivers/nvidia/unbind";
        world.write(unbind, &function(&seen, 3).to_string()).unwrap();
        world.settle();
        assert_eq!(world.profiles(GPU), [0, 1, 2, 3].map(|index| (index, "4Q".to_owned())));
        assert!(world.runs("a"));
    }
}

#[test]
fn a_gpu_that_falls_off_the_bus_while_assigned_is_told_and_left_alone() {
    for mut world in [a2(), mediated_a2()].iter().flat_map(World::on_both_faces) {
        world.split(GPU, 4, None);
        world.create("a", Request::ANY_PARTITION);
        world.start("a");
        world.kernel.drop_off_the_bus(pci(GPU));
        assert_eq!(world.pass(), [], "nothing is tried on it");
        let seen = world.gpu(GPU);
        assert_ne!(seen.health.state, HealthState::Good);
        assert!(seen.partitions.iter().all(|partition| !partition.answers));
        assert!(world.runs("a"), "what still runs is not turned off");
        world.create("b", Request::ANY_PARTITION);
        world.accepts(&Change::StartVm { name: "b".parse().unwrap() });
        world.turn();
        assert!(!world.runs("b"), "nothing new is put on it");
    }
}

#[test]
fn another_driver_than_nvidias_is_named() {
    let mut machine = Machine::nvidia(&["NVIDIA A2"]);
    machine.drivers[0].name = "nouveau".to_owned();
    for mut world in World::on_both_faces(&machine) {
        assert_eq!(world.gpu(GPU).backend, None);
        assert!(world.notes().iter().any(|note| note.message.contains("nouveau")), "{:?}", world.notes());
    }
}

#[test]
fn a_type_that_the_driver_does_not_have_is_not_offered() {
    for mut machine in
        [Machine::nvidia(&["NVIDIA A2"]), Machine::nvidia(&["NVIDIA A2"]).with_mediated_vgpus()]
    {
        machine.vgpus[0].types.retain(|kind| !kind.name.ends_with("8Q"));
        for mut world in World::on_both_faces(&machine) {
            assert!(
                world.gpu(GPU).valid_counts().contains(&2),
                "nothing is known before functions are there"
            );
            world.run(&["-e", GPU]);
            let seen = world.gpu(GPU);
            assert!(seen.offer(2, Some("Q")).is_none() && seen.offer(2, Some("A")).is_some());
            assert!(world.notes().iter().any(|note| note.message.contains("8Q")), "{:?}", world.notes());
        }
    }
}

#[test]
fn mediated_types_are_known_by_name_whatever_their_directories_and_their_brand() {
    let mut machine = Machine::nvidia(&["NVIDIA A2"]).with_mediated_vgpus();
    "vfio-pci".clone_into(&mut machine.vgpus[0].directory_prefix);
    for kind in &mut machine.vgpus[0].types {
        kind.name = kind.name.replace("NVIDIA", "GRID");
    }
    for mut world in World::on_both_faces(&machine) {
        world.split(GPU, 4, None);
        assert_eq!(world.profiles(GPU), [0, 1, 2, 3].map(|index| (index, "4Q".to_owned())));
        let uuid = mdev_uuid(&key(GPU), 0);
        assert_eq!(world.read(&format!("sys/bus/mdev/devices/{uuid}/mdev_type/name")), "GRID A2-4Q");
    }
}

#[test]
fn a_mediated_device_of_somebody_else_stays_and_is_in_the_way() {
    for mut world in World::on_both_faces(&mediated_a2()) {
        world.split(GPU, 4, None);
        let seen = world.gpu(GPU);
        let vf = function(&seen, 15);
        let create = |id| format!("sys/class/mdev_bus/{vf}/mdev_supported_types/nvidia-{id}/create");
        let uuid = Uuid::from_u128(7);
        assert_eq!(world.write(&create(id("4A")), &uuid.to_string()), Err(libc::EINVAL), "the GPU is full");
        world.set_mode(GPU, GpuMode::Host);
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(2, None) });
        world.turn();
        // 2 of 8 GiB are wanted, and somebody was faster with one of them.
        let seen = world.gpu(GPU);
        assert_eq!(seen.partitions, []);
        world.write(&create(id("8A")), &uuid.to_string()).unwrap();
        let finding = world.fails(Code::FewerPartitions);
        assert!(finding.message.contains("8Q"), "{finding}");
        let seen = world.gpu(GPU);
        let indices: Vec<_> = seen.partitions.iter().map(|partition| partition.index).collect();
        assert_eq!(indices, [Some(0), None]);
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: GpuMode::Host });
        let finding = world.fails(Code::ForeignPartition);
        assert!(finding.message.contains(&uuid.to_string()), "{finding}");
        world.write(&format!("sys/bus/mdev/devices/{uuid}/remove"), "1").unwrap();
        world.settle();
        assert_eq!(world.gpu(GPU).sriov.map(|sriov| sriov.vfs), Some(0));
    }
}

#[test]
fn steps_on_mediated_devices_can_be_repeated() {
    for mut world in World::on_both_faces(&mediated_a2()) {
        world.split(GPU, 4, None);
        let uuid = mdev_uuid(&key(GPU), 2);
        let create =
            |profile: &str| Step::CreateMdev { gpu: at(GPU), index: 2, uuid, profile: profile.to_owned() };
        world.host.apply(&create("4Q"), NOW).expect("it is there");
        let finding = world.host.apply(&create("4A"), NOW).expect_err("it is another type");
        assert_eq!(finding.code, Code::ForeignPartition);
        for _ in 0..2 {
            world.host.apply(&Step::RemoveMdev { gpu: at(GPU), uuid }, NOW).expect("it is gone");
        }
        assert_eq!(world.profiles(GPU).len(), 3);
        world.settle();
        assert_eq!(world.profiles(GPU).len(), 4);
    }
}

#[test]
fn a_function_on_the_wrong_driver_takes_no_type_and_is_bound_back() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 4, None);
        let vf = function(&world.gpu(GPU), 0);
        world.write("sys/bus/pci/drivers/nvidia/unbind", &vf.to_string()).unwrap();
        world.write(&format!("sys/bus/pci/devices/{vf}/driver_override"), "vfio-pci").unwrap();
        assert_eq!(world.write("sys/bus/pci/drivers/vfio-pci/bind", &vf.to_string()), Err(libc::EINVAL));
        let step = Step::SetProfile { gpu: at(GPU), index: 0, vf, profile: Some("4Q".to_owned()) };
        let finding = world.host.apply(&step, NOW).expect_err("NVIDIA's driver has to have it");
        assert_eq!(finding.code, Code::WrongDriver, "{finding}");
        world.settle();
        assert_eq!(world.profiles(GPU).len(), 4);
    }
}

/// The rule that all that is above stands on.
#[test]
fn functions_take_types_of_one_size_and_not_more_than_that_size_allows() {
    for mut world in World::on_both_faces(&a2()) {
        world.run(&["-e", GPU]);
        let seen = world.gpu(GPU);
        let vf = |index| function(&seen, index);
        let give = |world: &World, index, profile| {
            world.write(&file(vf(index), "current_vgpu_type"), &id(profile).to_string())
        };
        let list = |world: &World, index| world.read(&file(vf(index), "creatable_vgpu_types"));
        assert_eq!(list(&world, 0).lines().count(), 1 + 15);
        assert_eq!(give(&world, 0, "8Q"), Ok(()));
        assert_eq!(world.read(&file(vf(0), "current_vgpu_type")), id("8Q").to_string());
        assert_eq!(list(&world, 0), "ID    : vGPU Name");
        assert_eq!(
            list(&world, 1),
            "ID    : vGPU Name\n747   : NVIDIA A2-8Q\n752   : NVIDIA A2-8A\n755   : NVIDIA A2-8C"
        );
        assert_eq!(give(&world, 0, "8A"), Err(libc::EINVAL), "it has one");
        assert_eq!(give(&world, 1, "4Q"), Err(libc::EINVAL), "another size");
        assert_eq!(give(&world, 1, "8C"), Ok(()), "another series");
        assert_eq!(give(&world, 2, "8Q"), Err(libc::EINVAL), "there is no room");
        assert_eq!(list(&world, 2), "ID    : vGPU Name");
        assert_eq!(world.write(&file(vf(2), "current_vgpu_type"), "junk"), Err(libc::EINVAL));
        assert_eq!(world.write(&file(vf(0), "vgpu_params"), "enable_uvm=1"), Ok(()));
        assert_eq!(world.read(&file(vf(0), "vgpu_params")), "enable_uvm=1");
        let open = DeviceSource::Pci { address: vf(0) };
        assert!(
            world.kernel.open(&DeviceSource::Pci { address: vf(5) }, &qemu(1)).is_err(),
            "it has no type"
        );
        world.kernel.open(&open, &qemu(1)).unwrap();
        assert_eq!(world.write(&file(vf(0), "current_vgpu_type"), "0"), Err(libc::EPERM));
        world.kernel.close(&open, &qemu(1));
        assert_eq!(world.write(&file(vf(0), "current_vgpu_type"), "0"), Ok(()));
        assert_eq!(world.read(&file(vf(0), "vgpu_params")), "");
    }
}

#[test]
fn a_function_without_the_drivers_file_is_told_to_lack_the_file_and_not_the_driver() {
    // On a kernel before 6.8, functions take mediated devices instead.
    for mut world in World::on_both_faces(&mediated_a2()) {
        world.split(GPU, 1, None);
        let vf = function(&world.gpu(GPU), 3);
        let step = Step::SetProfile { gpu: at(GPU), index: 3, vf, profile: Some("16Q".to_owned()) };
        let finding = world.host.apply(&step, NOW).expect_err("there is no such file");
        assert_eq!(finding.code, Code::DriverMissing, "{finding}");
        assert!(finding.message.contains("nvidia/current_vgpu_type"), "{finding}");
    }
}

#[test]
fn a_type_that_nobody_gave_or_took_though_the_write_succeeded_is_found_out() {
    for mut world in World::on_both_faces(&a2()) {
        world.split(GPU, 1, None);
        let vf = function(&world.gpu(GPU), 0);
        let set = |profile: Option<&str>| Step::SetProfile {
            gpu: at(GPU),
            index: 0,
            vf,
            profile: profile.map(str::to_owned),
        };
        let refused = |world: &World, profile, words: &str| {
            world.kernel.make_deaf(at(&vf.to_string()));
            let finding = world.host.apply(&set(profile), NOW).expect_err("nothing happened");
            assert_eq!(finding.code, Code::KernelRefused, "{finding}");
            assert!(finding.message.contains(words), "{finding}");
            world.kernel.repair();
            world.host.apply(&set(profile), NOW).expect("now it does");
        };
        refused(&world, None, "still has a type after it was taken");
        refused(&world, Some("16Q"), "is no 16Q after it was made one");
        world.settle();
        assert_eq!(world.profiles(GPU), [(0, "16Q".to_owned())]);
    }
}

#[test]
fn a_mediated_vgpu_that_nobody_made_or_removed_though_the_write_succeeded_is_found_out() {
    for mut world in World::on_both_faces(&mediated_a2()) {
        world.split(GPU, 1, None);
        let uuid = mdev_uuid(&key(GPU), 0);
        let remove = Step::RemoveMdev { gpu: at(GPU), uuid };
        let create = Step::CreateMdev { gpu: at(GPU), index: 0, uuid, profile: "16Q".to_owned() };
        let deaf = |world: &World| {
            (4..20).for_each(|n| world.kernel.make_deaf(at(&format!("0000:41:{:02x}.{}", n / 8, n % 8))));
        };
        deaf(&world);
        let finding = world.host.apply(&remove, NOW).expect_err("nothing happened");
        assert!(finding.message.contains("is still there after it was removed"), "{finding}");
        world.kernel.repair();
        world.host.apply(&remove, NOW).expect("now it does");
        deaf(&world);
        let finding = world.host.apply(&create, NOW).expect_err("nothing happened");
        assert_eq!(finding.code, Code::PartitionLost, "{finding}");
        world.kernel.repair();
        world.settle();
        assert_eq!(world.profiles(GPU), [(0, "16Q".to_owned())]);
    }
}
