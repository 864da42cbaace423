//! Intel's GPUs: native mode, shares of memory, the driver that hands partitions over, and a whole life.

use tranche_core::finding::{Code, Severity};
use tranche_core::inventory::{Backend, DeviceSource};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::VFIO_DRIVER;
use tranche_host::fake::{DeviceUse as _, Machine, XeAdmin};
use tranche_host::tree::Tree as _;

use crate::life::{Life, on_both_faces, partitioned};
use crate::machine::{pci, qemu};

const B50: &str = "0000:03:00.0";
const PF: &str = "sys/bus/pci/devices/0000:03:00.0";
const VARIANT: &str = "xe-vfio-pci";
const ANY: Request = Request::ANY_PARTITION;
const WHOLE: Request = Request::Whole { gpus: 1, pool: None };

fn arc(change: impl FnOnce(&mut Machine)) -> Machine {
    let mut machine = Machine::arc();
    change(&mut machine);
    machine
}

fn memory(life: &Life) -> Vec<Option<u64>> {
    life.gpu(B50).partitions.iter().map(|partition| partition.vram_mib).collect()
}

fn drivers(life: &Life) -> Vec<&str> {
    life.gpu(B50).partitions.iter().filter_map(|partition| partition.driver.as_deref()).collect()
}

#[test]
fn a_whole_life() {
    on_both_faces(&Machine::arc(), |life| {
        let gpu = life.gpu(B50);
        assert_eq!((gpu.model.as_str(), gpu.backend), ("Intel Arc Pro B50", Some(Backend::SriovVfio)));
        assert_eq!(gpu.valid_counts(), (1..=12).collect::<Vec<_>>());
        life.set_mode(B50, partitioned(4));
        assert_eq!(memory(life), [Some(4_032); 4]);
        assert_eq!(life.gpu(B50).offer(4, None).and_then(|offer| offer.vram_mib), Some(4_032));
        assert_eq!(drivers(life), [VARIANT; 4]);
        life.start_new("a", ANY);
        life.start_new("b", Request::Partition { vram_mib: Some(4_032), profile: None });
        assert!(life.runs("a") && life.runs("b"), "{:#?}", life.findings);
        life.refuses_mode(B50, partitioned(2), Code::PartitionsInUse);
        life.refuses_mode(B50, GpuMode::Host, Code::PartitionsInUse);
        life.reboot();
        assert!(life.runs("a") && life.runs("b"), "{:#?}", life.findings);
        assert_eq!(memory(life), [Some(4_032); 4]);
        life.stop("a");
        life.stop("b");
        life.set_mode(B50, partitioned(3));
        assert_eq!(memory(life), [Some(5_376); 3]);
        life.set_mode(B50, GpuMode::Host);
        assert_eq!((life.gpu(B50).partitions.len(), life.gpu(B50).driver.as_deref()), (0, Some("xe")));
        life.set_mode(B50, GpuMode::Passthrough { allow_console: false, pool: None });
        assert_eq!(life.gpu(B50).driver.as_deref(), Some(VFIO_DRIVER));
        life.start_new("c", WHOLE);
        assert!(life.runs("c"), "{:#?}", life.findings);
        life.stop("c");
        life.set_mode(B50, GpuMode::Host);
        assert_eq!(life.gpu(B50).driver.as_deref(), Some("xe"));
        assert_eq!(life.findings, [], "nothing is left to say");
    });
}

#[test]
fn in_native_mode_there_is_nothing_to_split_and_it_is_said_why_and_how_to_change_that() {
    let native = |file: Option<&str>| {
        arc(|machine| {
            machine.functions[0].sriov.as_mut().unwrap().total_vfs = 0;
            machine.files.extend(file.map(|file| (file.to_owned(), "0".to_owned())));
        })
    };
    let parameter = "sys/module/xe/parameters/max_vfs";
    let configured = "sys/kernel/config/xe/0000:03:00.0/sriov/max_vfs";
    for (file, why) in
        [(Some(parameter), "module parameter"), (Some(configured), configured), (None, "firmware")]
    {
        on_both_faces(&native(file), |life| {
            let note = life.finding(Code::SriovDisabled).expect("it is told").clone();
            assert!(note.message.contains("native mode") && note.message.contains(why), "{note}");
            assert!(note.hint.contains("options xe max_vfs="), "{note}");
            assert_eq!(note.severity, Severity::Info);
            assert_eq!((life.gpu(B50).backend, life.gpu(B50).offers.len()), (None, 0));
            let refusal = life.refuses_mode(B50, partitioned(2), Code::SriovDisabled);
            assert!(refusal.contains(&note), "the refusal says as much: {refusal:?}");
        });
    }
}

#[test]
fn a_kernel_without_quotas_shares_by_itself_and_nothing_is_claimed() {
    for admin in [XeAdmin::Absent, XeAdmin::WithoutQuotas] {
        let mut life = Life::in_memory(arc(|machine| machine.xe[0].admin = admin));
        life.set_mode(B50, partitioned(2));
        assert_eq!(memory(&life), [None; 2]);
        assert_eq!(life.gpu(B50).offer(2, None).and_then(|offer| offer.vram_mib), None);
        assert_eq!(life.findings, []);
    }
}

#[test]
fn quotas_that_the_kernel_forgets_or_refuses_leave_smaller_partitions_and_a_finding_with_the_real_size() {
    let forgets = arc(|machine| machine.xe[0].admin = XeAdmin::WithForgottenQuotas);
    for (machine, errno) in
        [(forgets, None), (Machine::arc(), Some(libc::EIO)), (Machine::arc(), Some(libc::ENOSPC))]
    {
        let mut life = Life::in_memory(machine);
        errno.into_iter().for_each(|errno| life.kernel.refuse_quotas(pci(B50), errno));
        life.set_mode(B50, partitioned(2));
        // A third of 15 GiB, for the host keeps a share, and from that the next lower power of two.
        assert_eq!(memory(&life), [Some(4_096); 2], "{errno:?}");
        let note = life.finding(Code::SizeMismatch).expect("it is told");
        assert!(note.message.contains("4096 MiB") && note.message.contains("8064 MiB"), "{note}");
        life.start_new("a", ANY);
        assert!(life.runs("a"));
    }
}

#[test]
fn a_split_that_fails_leaves_no_memory_with_functions_that_are_not_there() {
    on_both_faces(&arc(|_| {}), |life| {
        life.kernel.refuse_vfs(pci(B50), libc::ENOMEM);
        life.set_mode(B50, partitioned(2));
        assert!(life.finding(Code::KernelRefused).is_some(), "{:?}", life.findings);
        for number in 1..=12 {
            let quota = format!("{PF}/sriov_admin/vf{number}/profile/vram_quota");
            assert_eq!(life.kernel.text(&quota).unwrap(), "0", "function {number}");
        }
        life.kernel.refuse_vfs(pci(B50), libc::EIO);
        life.settle();
        let finding = life.finding(Code::KernelRefused).expect("it is refused");
        assert!(finding.message.contains("xe could not provide"), "{finding}");
        assert!(finding.hint.contains("firmware") && finding.hint.contains("memory"), "{finding}");
        life.kernel.repair();
        life.settle();
        assert_eq!(memory(life), [Some(8_064), Some(8_064)]);
    });
}

#[test]
fn what_somebody_gave_to_functions_beforehand_is_replaced_by_equal_shares() {
    let mut life = Life::in_memory(Machine::arc());
    life.kernel
        .write(&format!("{PF}/sriov_admin/vf9/profile/vram_quota"), &(8_u64 << 30).to_string())
        .unwrap();
    life.kernel
        .write(&format!("{PF}/sriov_admin/vf1/profile/vram_quota"), &(1_u64 << 30).to_string())
        .unwrap();
    life.set_mode(B50, partitioned(4));
    assert_eq!(memory(&life), [Some(4_032); 4]);
    assert_eq!(life.findings, []);
}

#[test]
fn vf1_is_partition_0() {
    let mut life = Life::in_memory(Machine::arc());
    life.set_mode(B50, partitioned(3));
    life.kernel
        .write(&format!("{PF}/sriov_admin/vf1/profile/vram_quota"), &(2_u64 << 30).to_string())
        .unwrap();
    life.settle();
    assert_eq!(memory(&life), [Some(2_048), Some(5_376), Some(5_376)]);
    let vf1 = life.kernel.link_name(&format!("{PF}/sriov_admin/vf1/device")).unwrap();
    assert_eq!(life.gpu(B50).partitions[0].vf(), Some(pci(&vf1)));
    let note = life.finding(Code::SizeMismatch).expect("partitions that differ are told");
    assert!(note.message.contains("0: 2048, 1: 5376, 2: 5376"), "{note}");
    assert_eq!(note.severity, Severity::Warning);
}

#[test]
fn tiles_that_disagree_are_told_and_nothing_is_guessed() {
    on_both_faces(&Machine::arc(), |life| {
        life.set_mode(B50, partitioned(2));
        life.kernel.let_tiles_disagree(pci(B50), 1);
        life.settle();
        assert_eq!(memory(life), [Some(8_064), None]);
        let note = life.finding(Code::SizeMismatch).expect("it is told");
        assert!(note.message.contains("EUCLEAN") && note.message.contains("partitions 1"), "{note}");
    });
}

#[test]
fn a_quota_is_rounded_by_the_firmware_and_what_is_read_back_counts() {
    let mut life = Life::in_memory(Machine::arc());
    life.set_mode(B50, partitioned(2));
    let quota = format!("{PF}/sriov_admin/vf2/profile/vram_quota");
    life.kernel.write(&quota, &((1_u64 << 30) + 1).to_string()).unwrap();
    life.settle();
    assert_eq!(memory(&life)[1], Some(1_026));
}

#[test]
fn without_a_variant_partitions_get_vfio_pci_and_one_that_is_not_loaded_is_named() {
    let mut life = Life::in_memory(arc(|machine| machine.files.clear()));
    life.set_mode(B50, partitioned(1));
    assert_eq!((drivers(&life), life.findings.len()), (vec![VFIO_DRIVER], 0));

    let mut life = Life::in_memory(arc(|machine| machine.vfio_variants.clear()));
    life.set_mode(B50, partitioned(1));
    assert_eq!(drivers(&life), [VFIO_DRIVER]);
    let note = life.finding(Code::VariantMissing).expect("it is told");
    assert!(note.hint.contains("modprobe xe_vfio_pci"), "{note}");
    life.start_new("a", ANY);
    assert!(life.runs("a"));
}

#[test]
fn a_variant_that_is_there_and_not_loaded_is_loaded_and_serves_from_the_start() {
    let mut life = Life::in_memory(arc(|machine| {
        machine.vfio_variants.clear();
        machine.modules = vec!["xe_vfio_pci".to_owned()];
    }));
    life.set_mode(B50, partitioned(2));
    assert_eq!(drivers(&life), [VARIANT; 2]);
    assert!(life.finding(Code::VariantMissing).is_none(), "{:#?}", life.findings);
    life.start_new("a", ANY);
    assert!(life.runs("a"));
}

#[test]
fn a_variant_that_does_not_load_or_that_nobody_may_load_leaves_vfio_pci_and_the_finding() {
    for helper in [true, false] {
        let mut life = Life::in_memory(arc(|machine| {
            machine.vfio_variants.clear();
            machine.modules = vec!["xe_vfio_pci".to_owned()];
        }));
        if helper {
            life.kernel.refuse_module("xe_vfio_pci", 100);
        } else {
            life.kernel.remove_module_helper();
        }
        life.set_mode(B50, partitioned(1));
        assert_eq!(drivers(&life), [VFIO_DRIVER]);
        assert!(life.finding(Code::VariantMissing).is_some());
    }
}

#[test]
fn vfio_pci_itself_is_loaded_when_it_is_needed() {
    let missing = |machine: &mut Machine| {
        machine.files.clear();
        machine.modules = vec!["vfio_pci".to_owned()];
    };
    let mut life = Life::in_memory(arc(missing));
    life.set_mode(B50, partitioned(1));
    assert_eq!(drivers(&life), [VFIO_DRIVER]);
    let mut life = Life::in_memory(arc(missing));
    life.set_mode(B50, GpuMode::Passthrough { allow_console: false, pool: None });
    assert_eq!(life.gpu(B50).driver.as_deref(), Some(VFIO_DRIVER));
}

#[test]
fn aliases_are_found_far_into_a_large_file() {
    let mut machine = Machine::arc();
    let path = format!("lib/modules/{}/modules.alias", machine.kernel);
    let aliases = machine.files.remove(&path).unwrap();
    let many = "alias pci:v00008086d00001533sv*sd*bc*sc*i* igb\n".repeat(20_000);
    machine.files.insert(path, many + &aliases);
    on_both_faces(&machine, |life| {
        life.set_mode(B50, partitioned(1));
        assert_eq!(drivers(life), [VARIANT]);
    });
}

#[test]
fn a_variant_that_is_loaded_later_waits_until_nothing_is_open() {
    let mut life = Life::in_memory(arc(|machine| machine.vfio_variants.clear()));
    life.set_mode(B50, partitioned(2));
    life.start_new("a", ANY);
    life.kernel.load_vfio_variant(VARIANT);
    life.settle();
    assert_eq!(drivers(&life), [VFIO_DRIVER; 2]);
    assert!(life.runs("a"));
    assert_eq!(life.findings, []);
    life.stop("a");
    assert_eq!(drivers(&life), [VARIANT; 2]);
}

#[test]
fn functions_that_are_open_are_never_switched() {
    let mut life = Life::in_memory(Machine::arc());
    life.set_mode(B50, partitioned(2));
    let source = DeviceSource::from(&life.gpu(B50).partitions[1].device);
    life.kernel.open(&source, &qemu(7)).unwrap();
    life.settle();
    life.refuses_mode(B50, GpuMode::Host, Code::PartitionsInUse);
    assert_eq!(life.gpu(B50).partitions.len(), 2);
}

#[test]
fn i915_as_it_is_in_the_kernel_makes_no_functions_and_with_patches_plain_ones() {
    let i915 = |file: Option<&str>| {
        arc(|machine| {
            "i915".clone_into(&mut machine.drivers[0].name);
            machine.drivers[0].sriov = file.is_some();
            machine.xe.clear();
            machine.files.extend(file.map(|file| (file.to_owned(), "7".to_owned())));
        })
    };
    let mut life = Life::in_memory(i915(None));
    assert!(life.finding(Code::DriverWithoutSriov).is_some_and(|note| note.severity == Severity::Info));
    assert_eq!(life.gpu(B50).backend, None);
    life.refuses_mode(B50, partitioned(2), Code::NotPartitionable);
    for file in [
        "sys/module/i915/parameters/max_vfs",
        "sys/devices/pci0000:00/0000:03:00.0/drm/card1/prelim_iov/mode",
    ] {
        let mut life = Life::in_memory(i915(Some(file)));
        life.set_mode(B50, partitioned(2));
        assert_eq!(drivers(&life).len(), 2);
    }
}
