//! Steps over the fake kernel: what they do, what they refuse, and in which words.

use std::collections::BTreeMap;

use expect_test::expect;
#[cfg(feature = "fuse")]
use std::sync::Arc;

use tranche_core::finding::Code;
use tranche_core::inventory::{DeviceSource, PartitionDevice, mdev_uuid};
use tranche_core::step::{Step, VFIO_DRIVER};
use tranche_host::fake::{DeviceUse, DriverModel, FakeHost, Machine};
use tranche_host::tree::Tree;

use crate::machine::{IGB, at, bind, disable, done, enable, gpu, host, inventory, lab, pci, qemu, refused};

const PF: &str = "sys/bus/pci/devices/0000:01:00.0";

fn vf(index: u8) -> String {
    format!("0000:01:1{}.{}", index / 4, index % 4 * 2)
}

fn partitioned(count: u16) -> FakeHost {
    let host = lab();
    done(&host, &enable(count));
    for index in 0..count {
        done(&host, &bind(index, &vf(u8::try_from(index).unwrap())));
    }
    host
}

fn drivers(host: &FakeHost) -> Vec<Option<String>> {
    gpu(host, IGB).partitions.into_iter().map(|partition| partition.driver).collect()
}

#[test]
fn a_gpu_is_partitioned_and_each_partition_is_alone_in_its_group_and_bound_to_vfio() {
    let host = partitioned(3);
    let gpu = gpu(&host, IGB);
    assert_eq!(
        gpu.sriov.as_ref().map(|sriov| (sriov.vfs, sriov.total_vfs, sriov.autoprobe)),
        Some((3, 7, false))
    );
    let vfs: Vec<_> =
        gpu.partitions.iter().map(|partition| (partition.index, partition.device.clone())).collect();
    let expected =
        [0, 1, 2].map(|index| (Some(index.into()), PartitionDevice::Vf { address: pci(&vf(index)) }));
    assert_eq!(vfs, expected);
    for partition in &gpu.partitions {
        assert_eq!(partition.driver.as_deref(), Some(VFIO_DRIVER));
        assert_eq!(partition.iommu_group.as_ref().map(|group| group.members.len()), Some(1));
        assert_eq!(partition.mmio_mib, 1);
    }
}

#[test]
fn every_step_can_be_repeated() {
    let host = partitioned(2);
    let before = inventory(&host);
    done(&host, &enable(2));
    done(&host, &bind(1, &vf(1)));
    assert_eq!(inventory(&host), before);
    done(&host, &disable());
    done(&host, &disable());
    assert!(gpu(&host, IGB).sriov.unwrap().autoprobe);
}

#[test]
fn automatic_probing_is_left_as_it_was_before_the_partitions() {
    let host = partitioned(2);
    assert!(!gpu(&host, IGB).sriov.unwrap().autoprobe);
    done(&host, &Step::DisableVfs { gpu: at(IGB), autoprobe: false });
    assert!(!gpu(&host, IGB).sriov.unwrap().autoprobe, "somebody had switched it off, and it stays so");

    let host = lab();
    host.kernel.refuse_vfs(pci(IGB), libc::ENOMEM);
    refused(&host, &enable(2), Code::KernelRefused);
    assert!(gpu(&host, IGB).sriov.unwrap().autoprobe, "where nothing was made, nothing is left changed");
}

#[test]
fn another_count_replaces_the_one_before() {
    let host = partitioned(4);
    done(&host, &enable(6));
    assert_eq!(drivers(&host), vec![None; 6]);
}

#[test]
fn a_partition_that_is_open_is_never_pulled_away() {
    let host = partitioned(2);
    let source = DeviceSource::Pci { address: pci(&vf(1)) };
    host.kernel.open(&source, &qemu(4711)).unwrap();
    assert_eq!(gpu(&host, IGB).partitions[1].open_by, [qemu(4711)]);
    assert_eq!(gpu(&host, IGB).partitions[0].open_by, []);
    let finding = refused(&host, &disable(), Code::PartitionsInUse);
    assert!(finding.message.contains("qemu-system-x86 (pid 4711)"), "{finding}");
    refused(&host, &enable(4), Code::PartitionsInUse);
    let elsewhere =
        Step::BindPartition { gpu: at(IGB), index: 1, vf: pci(&vf(1)), driver: "igbvf".to_owned() };
    refused(&host, &elsewhere, Code::PartitionsInUse);
    assert_eq!(drivers(&host).len(), 2);
    host.kernel.close(&source, &qemu(4711));
    done(&host, &disable());
}

#[test]
fn a_holder_is_found_through_device_nodes_too() {
    let host = host(Machine { vfio_nodes: true, ..Machine::lab() });
    done(&host, &enable(2));
    done(&host, &bind(0, &vf(0)));
    host.kernel.open(&DeviceSource::Pci { address: pci(&vf(0)) }, &qemu(7)).unwrap();
    assert_eq!(gpu(&host, IGB).partitions[0].open_by, [qemu(7)]);
    refused(&host, &disable(), Code::PartitionsInUse);
}

#[test]
fn each_errno_of_sriov_numvfs_has_its_own_advice() {
    for (errno, code, advice) in [
        (libc::ENOMEM, Code::KernelRefused, "Above 4G decoding"),
        (libc::EIO, Code::KernelRefused, "firmware"),
        (libc::EBUSY, Code::KernelRefused, "tried again"),
        (libc::EPERM, Code::KernelRefused, "root"),
        (libc::EROFS, Code::KernelRefused, "read-only"),
        (libc::ENOSPC, Code::KernelRefused, "kernel log"),
        (libc::ENODEV, Code::SriovDisabled, "firmware"),
        (libc::ERANGE, Code::InvalidPartitionCount, "1, 2, 3, 4, 5, 6, 7"),
        (libc::ENOENT, Code::DriverWithoutSriov, "igb"),
    ] {
        let host = lab();
        host.kernel.refuse_vfs(pci(IGB), errno);
        let finding = refused(&host, &enable(4), code);
        assert!(finding.to_string().contains(advice), "{errno}: {finding}");
    }
}

#[test]
fn a_refusal_names_path_value_and_errno() {
    let host = lab();
    host.kernel.refuse_vfs(pci(IGB), libc::ENOMEM);
    let finding = refused(&host, &enable(4), Code::KernelRefused);
    expect![
        "On GPU node1/0000:01:00.0, 'write 4 to /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs' failed: ENOMEM (Cannot allocate memory (os error 12))."
    ]
    .assert_eq(&finding.message);
}

#[test]
fn a_count_beyond_the_total_is_refused_with_the_valid_ones() {
    let finding = refused(&lab(), &enable(8), Code::InvalidPartitionCount);
    assert!(finding.message.contains('8') && finding.hint.contains('7'), "{finding}");
}

#[test]
fn without_a_driver_nothing_is_partitioned() {
    let machine = Machine { drivers: Vec::new(), ..Machine::lab() };
    refused(&host(machine), &enable(2), Code::DriverMissing);
}

#[test]
fn a_driver_that_cannot_switch_vfs_is_named() {
    let machine = Machine {
        drivers: vec![DriverModel {
            name: "dull".to_owned(),
            ids: vec!["8086:10c9".to_owned()],
            sriov: false,
        }],
        ..Machine::lab()
    };
    let finding = refused(&host(machine), &enable(2), Code::DriverWithoutSriov);
    assert!(finding.message.contains("dull"), "{finding}");
}

#[test]
fn a_gpu_without_sriov_has_no_virtual_functions() {
    let mut machine = Machine::lab();
    machine.functions[0].sriov = None;
    let host = host(machine);
    refused(&host, &enable(2), Code::SriovDisabled);
    let gone = Step::EnableVfs { gpu: at("0000:7f:00.0"), count: 2 };
    refused(&host, &gone, Code::GpuGone);
    let virtual_parent = Step::EnableVfs { gpu: at("mbochs"), count: 2 };
    refused(&host, &virtual_parent, Code::NotPartitionable);
}

#[test]
fn fewer_partitions_than_asked_for_are_noticed_though_the_write_succeeds() {
    let host = lab();
    host.kernel.make_fewer_vfs(pci(IGB), 3);
    let finding = refused(&host, &enable(5), Code::FewerPartitions);
    assert!(finding.message.contains("5 partitions and has 3"), "{finding}");
    assert_eq!(drivers(&host).len(), 3);
}

#[test]
fn a_partition_that_was_unplugged_is_noticed() {
    let host = partitioned(3);
    host.kernel.unplug(pci(&vf(1)));
    let seen = gpu(&host, IGB);
    assert_eq!(seen.partitions.iter().map(|p| p.index.unwrap()).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(seen.sriov.unwrap().vfs, 3);
    refused(&host, &bind(1, &vf(1)), Code::PartitionLost);
    refused(&host, &enable(3), Code::FewerPartitions);
    done(&host, &disable());
}

#[test]
fn a_partition_whose_address_changed_is_not_bound() {
    let host = partitioned(2);
    let finding = refused(&host, &bind(0, &vf(1)), Code::PartitionLost);
    assert!(finding.message.contains(&vf(0)) && finding.message.contains(&vf(1)), "{finding}");
}

#[test]
fn a_driver_that_takes_the_partition_first_is_named() {
    let host = lab();
    host.kernel.grab(pci(IGB), "igb");
    done(&host, &enable(1));
    host.kernel.grab(pci(&vf(0)), "igbvf");
    let finding = refused(&host, &bind(0, &vf(0)), Code::WrongDriver);
    assert!(finding.message.contains("igbvf") && finding.message.contains(VFIO_DRIVER), "{finding}");
    host.kernel.repair();
    done(&host, &bind(0, &vf(0)));
}

#[test]
fn without_an_iommu_no_driver_hands_a_partition_out() {
    let host = host(Machine { iommu: false, ..Machine::lab() });
    done(&host, &enable(1));
    let finding = refused(&host, &bind(0, &vf(0)), Code::WrongDriver);
    assert!(finding.message.contains("no IOMMU group") && finding.hint.contains("VT-d"), "{finding}");
    assert_eq!(gpu(&host, IGB).iommu_group, None);
}

#[test]
fn a_shared_group_is_seen_with_all_its_members() {
    let mut machine = Machine::lab();
    machine.functions[0].sriov.as_mut().unwrap().shares_group = true;
    let host = host(machine);
    done(&host, &enable(2));
    let group = gpu(&host, IGB).partitions[0].iommu_group.clone().unwrap();
    assert_eq!(
        group.members.iter().map(|m| m.address).collect::<Vec<_>>(),
        [pci(IGB), pci(&vf(0)), pci(&vf(1))]
    );
    done(&host, &bind(0, &vf(0)));
    let opened = host.kernel.open(&DeviceSource::Pci { address: pci(&vf(0)) }, &qemu(1));
    assert_eq!(
        opened.unwrap_err().raw_os_error(),
        Some(libc::EINVAL),
        "the physical function still has its driver"
    );
}

#[test]
fn a_reboot_loses_all_partitions_and_gives_every_function_its_own_driver() {
    let host = partitioned(3);
    let create = create_mdev(&host, 0, "mbochs-small");
    done(&host, &create);
    host.kernel.open(&DeviceSource::Pci { address: pci(&vf(0)) }, &qemu(9)).unwrap();
    let before = inventory(&host);
    host.reboot();
    let after = inventory(&host);
    assert_ne!(before.boot_id, after.boot_id);
    let igb = &after.gpus[&at(IGB)];
    assert_eq!((igb.partitions.len(), igb.driver.as_deref()), (0, Some("igb")));
    assert_eq!(igb.sriov.as_ref().map(|sriov| (sriov.vfs, sriov.autoprobe)), Some((0, true)));
    assert_eq!(after.gpus[&at("mbochs")].partitions, []);
    assert_eq!(host.kernel.opened(), []);
}

fn functions(addresses: &[&str]) -> Vec<tranche_core::name::PciAddress> {
    addresses.iter().map(|address| pci(address)).collect()
}

#[test]
fn a_whole_group_is_taken_and_given_back_to_the_drivers_that_it_had() {
    let mut machine = Machine::lab();
    machine.functions.iter_mut().for_each(|function| function.group = Some(5));
    let host = host(machine);
    let both = functions(&[IGB, "0000:02:00.0"]);
    let take = Step::TakeGpu { gpu: at(IGB), functions: both.clone() };
    done(&host, &take);
    done(&host, &take);
    let bound = |host: &FakeHost| -> Vec<Option<String>> {
        gpu(host, IGB).iommu_group.unwrap().members.into_iter().map(|member| member.driver).collect()
    };
    assert_eq!(bound(&host), vec![Some(VFIO_DRIVER.to_owned()); 2]);
    let give = Step::ReturnGpu {
        gpu: at(IGB),
        functions: BTreeMap::from([(both[0], Some("igb".to_owned())), (both[1], None)]),
    };
    host.kernel.open(&DeviceSource::Pci { address: pci(IGB) }, &qemu(3)).unwrap();
    assert_eq!(gpu(&host, IGB).open_by, [qemu(3)]);
    refused(&host, &give, Code::PartitionsInUse);
    host.kernel.close(&DeviceSource::Pci { address: pci(IGB) }, &qemu(3));
    done(&host, &give);
    done(&host, &give);
    assert_eq!(bound(&host), vec![Some("igb".to_owned()); 2]);
    assert_eq!(host.kernel.text(&format!("{PF}/driver_override")).unwrap(), "(null)");
}

#[test]
fn a_partitioned_gpu_is_not_taken_whole() {
    let host = partitioned(2);
    let take = Step::TakeGpu { gpu: at(IGB), functions: functions(&[IGB]) };
    refused(&host, &take, Code::ModeConflict);
    assert_eq!(gpu(&host, IGB).driver.as_deref(), Some("igb"));
}

#[test]
fn a_driver_that_does_not_come_back_is_told() {
    let host = lab();
    done(&host, &Step::TakeGpu { gpu: at(IGB), functions: functions(&[IGB]) });
    let give = Step::ReturnGpu {
        gpu: at(IGB),
        functions: BTreeMap::from([(pci(IGB), Some("removed-driver".to_owned()))]),
    };
    let finding = refused(&host, &give, Code::WrongDriver);
    assert!(finding.message.contains("removed-driver"), "{finding}");
}

fn create_mdev(host: &FakeHost, index: u16, profile: &str) -> Step {
    let key = tranche_core::name::GpuKey { host: inventory(host).host, address: at("mbochs") };
    let uuid = mdev_uuid(&key, index);
    Step::CreateMdev { gpu: at("mbochs"), index, uuid, profile: profile.to_owned() }
}

fn remove_mdev(create: &Step) -> Step {
    match create {
        Step::CreateMdev { gpu, uuid, .. } => Step::RemoveMdev { gpu: gpu.clone(), uuid: *uuid },
        other => panic!("{other} creates nothing"),
    }
}

fn offered(host: &FakeHost) -> Vec<(String, u16)> {
    gpu(host, "mbochs").offers.into_iter().map(|offer| (offer.profile, offer.count)).collect()
}

#[test]
fn a_parent_of_mediated_devices_offers_the_same_counts_whatever_was_made_of_it() {
    let host = lab();
    let all =
        [("mbochs-large", 4), ("mbochs-medium", 16), ("mbochs-small", 64)].map(|(p, n)| (p.to_owned(), n));
    assert_eq!(offered(&host), all);
    for index in 0..4 {
        done(&host, &create_mdev(&host, index, "mbochs-large"));
    }
    assert_eq!(offered(&host), all);
    let seen = gpu(&host, "mbochs");
    assert_eq!(seen.partitions.iter().map(|p| p.index).collect::<Vec<_>>(), [0, 1, 2, 3].map(Some));
    assert!(seen.partitions.iter().all(|p| p.profile.as_deref() == Some("mbochs-large")));
    assert_eq!((seen.emulated, seen.vram_mib), (true, Some(256)));
    assert_eq!(seen.offer(4, None).unwrap().vram_mib, Some(64));
}

#[test]
fn mediated_devices_are_made_and_removed_as_often_as_one_likes() {
    let host = lab();
    let create = create_mdev(&host, 5, "mbochs-medium");
    done(&host, &create);
    done(&host, &create);
    assert_eq!(gpu(&host, "mbochs").partitions.len(), 1);
    done(&host, &remove_mdev(&create));
    done(&host, &remove_mdev(&create));
    assert_eq!(gpu(&host, "mbochs").partitions.len(), 0);
}

#[test]
fn a_mediated_device_that_is_open_is_not_removed() {
    let host = lab();
    let create = create_mdev(&host, 0, "mbochs-small");
    done(&host, &create);
    let source = DeviceSource::from(&gpu(&host, "mbochs").partitions[0].device);
    host.kernel.open(&source, &qemu(11)).unwrap();
    assert_eq!(gpu(&host, "mbochs").partitions[0].open_by, [qemu(11)]);
    refused(&host, &remove_mdev(&create), Code::PartitionsInUse);
    host.kernel.close(&source, &qemu(11));
    done(&host, &remove_mdev(&create));
}

#[test]
fn what_a_parent_cannot_make_is_refused() {
    let host = lab();
    refused(&host, &create_mdev(&host, 0, "nvidia-746"), Code::SizeMismatch);
    refused(&host, &create_mdev(&host, 0, "../../uevent"), Code::SizeMismatch);
    for index in 0..4 {
        done(&host, &create_mdev(&host, index, "mbochs-large"));
    }
    refused(&host, &create_mdev(&host, 4, "mbochs-large"), Code::FewerPartitions);
    refused(&host, &create_mdev(&host, 0, "mbochs-small"), Code::ForeignPartition);
}

#[test]
fn a_parent_that_takes_every_write_and_does_nothing_is_found_out() {
    let machine = Machine::lab();
    crate::machine::on_both_faces(&machine, crate::machine::PATIENT, |kernel, host| {
        let key = tranche_core::name::GpuKey { host: inventory(host).host, address: at("mbochs") };
        let uuid = mdev_uuid(&key, 0);
        let profile = "mbochs-small".to_owned();
        let create = Step::CreateMdev { gpu: at("mbochs"), index: 0, uuid, profile };
        kernel.make_deaf(at("mbochs"));
        let finding = refused(host, &create, Code::PartitionLost);
        assert!(finding.message.contains("is not there after it was made"), "{finding}");
        kernel.repair();
        done(host, &create);
        kernel.make_deaf(at("mbochs"));
        let finding = refused(host, &remove_mdev(&create), Code::KernelRefused);
        assert!(finding.message.contains("is still there after it was removed"), "{finding}");
        assert_eq!(gpu(host, "mbochs").partitions.len(), 1);
        kernel.repair();
        done(host, &remove_mdev(&create));
        for errno in [libc::EUSERS, libc::ENOSPC, libc::ENOMEM] {
            kernel.refuse_mdevs(at("mbochs"), errno);
            let finding = refused(host, &create, Code::FewerPartitions);
            assert!(finding.message.contains("has no room"), "{finding}");
        }
        kernel.refuse_mdevs(at("mbochs"), libc::EUSERS);
        assert!(refused(host, &create, Code::FewerPartitions).message.contains("EUSERS"));
    });
}

#[test]
fn a_mediated_device_of_somebody_else_has_no_index() {
    let host = lab();
    let create = "sys/class/mdev_bus/mbochs/mdev_supported_types/mbochs-small/create";
    host.kernel.write(create, "f715f63c-1111-4222-8333-444455556666").unwrap();
    let partitions = gpu(&host, "mbochs").partitions;
    assert_eq!(partitions.iter().map(|p| p.index).collect::<Vec<_>>(), [None]);
}

#[cfg(feature = "fuse")]
#[test]
fn the_same_steps_work_through_write_2_on_a_mounted_kernel() {
    use tranche_host::calls::Limits;
    use tranche_host::fake::FakeKernel;
    use tranche_host::linux::LinuxHost;
    use tranche_host::vm::fake::FakeHypervisor;

    let kernel = Arc::new(FakeKernel::boot(Machine::lab()));
    let mounted = crate::trees::mount(&kernel);
    let vms = Box::new(Arc::new(FakeHypervisor::new(Arc::<FakeKernel>::clone(&kernel))));
    let catalogue = crate::machine::lab_catalogue();
    let tree: Arc<dyn Tree> = Arc::<tranche_host::tree::DirTree>::clone(&mounted.tree);
    let host = LinuxHost::new("node1".parse().unwrap(), tree, Limits::default(), catalogue, vms);
    done(&host, &enable(2));
    done(&host, &bind(1, &vf(1)));
    host_holds(&kernel, &host);
    refused(&host, &enable(8), Code::InvalidPartitionCount);
    refused(&host, &disable(), Code::PartitionsInUse);
}

#[cfg(feature = "fuse")]
fn host_holds(kernel: &Arc<tranche_host::fake::FakeKernel>, host: &tranche_host::linux::LinuxHost) {
    kernel.open(&DeviceSource::Pci { address: pci(&vf(1)) }, &qemu(12)).unwrap();
    assert_eq!(gpu(host, IGB).partitions[1].open_by, [qemu(12)]);
    assert_eq!(gpu(host, IGB).partitions[0].driver, None);
}
