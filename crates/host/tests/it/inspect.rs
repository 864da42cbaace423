//! What is seen of captured trees, whatever is in them.

use expect_test::expect;
use proptest::prelude::*;
use tranche_core::finding::Code;
use tranche_core::inventory::{Certainty, HealthState, Hypervisor, Iommu, PartitionDevice};
use tranche_host::inspect;

use crate::captured::{Captured, a2_host, function};
use crate::machine::{at, pci};

#[test]
fn an_nvidia_a2_is_one_gpu_with_sixteen_functions_though_all_share_its_ids() {
    let captured = a2_host();
    let seen = inspect(captured.root(), None);
    assert_eq!(seen.gpus.keys().map(ToString::to_string).collect::<Vec<_>>(), ["0000:08:00.0"]);
    let gpu = &seen.gpus[&at("0000:08:00.0")];
    expect![[r#"
        model NVIDIA A2, ids 10de:25b6:10de:157e, class 030200, vram Some(16384) MiB, emulated false
        driver Some("nvidia"), numa Some(0), reset ["flr", "bus"], boot vga false
        sriov Some(Sriov { total_vfs: 16, vfs: 16, autoprobe: true }), backend Some(TypedVf), counts [1, 2, 4, 8, 16]
        bars [(0, 16, false), (1, 16384, true), (3, 32, true)] MiB, errors Some(AerCounters { correctable: 3, nonfatal: 0, fatal: 0 })
        group 38 of ["0000:08:00.0"]
    "#]]
    .assert_eq(&format!(
        "model {}, ids {}, class {:06x}, vram {:?} MiB, emulated {}\n\
         driver {:?}, numa {:?}, reset {:?}, boot vga {}\n\
         sriov {:?}, backend {:?}, counts {:?}\n\
         bars {:?} MiB, errors {:?}\n\
         group {} of {:?}\n",
        gpu.model,
        gpu.ids,
        gpu.class,
        gpu.vram_mib,
        gpu.emulated,
        gpu.driver,
        gpu.numa_node,
        gpu.reset_methods,
        gpu.boot_vga,
        gpu.sriov,
        gpu.backend,
        gpu.valid_counts(),
        gpu.bars.iter().map(|bar| (bar.index, bar.size_bytes >> 20, bar.is_64bit)).collect::<Vec<_>>(),
        gpu.aer,
        gpu.iommu_group.as_ref().unwrap().id,
        gpu.iommu_group.as_ref().unwrap().members.iter().map(|m| m.address.to_string()).collect::<Vec<_>>(),
    ));
    assert_eq!((gpu.partitions.len(), gpu.blanks.len()), (1, 15));
    let typed = &gpu.partitions[0];
    assert_eq!(
        (typed.index, &typed.device),
        (Some(0), &PartitionDevice::Vf { address: pci("0000:08:00.4") })
    );
    assert_eq!((typed.iommu_group.as_ref().unwrap().id, typed.profile.as_deref()), (90, Some("4Q")));
    let last = &gpu.blanks[14];
    assert_eq!((last.index, last.address), (15, pci("0000:08:02.3")));
    assert_eq!(last.driver.as_deref(), Some("nvidia"));
}

#[test]
fn a_driver_that_does_not_come_with_the_kernel_has_a_version() {
    let captured = a2_host();
    let version = || inspect(captured.root(), None).gpus[&at("0000:08:00.0")].driver_version.clone();
    assert_eq!(version(), None);
    captured.add("sys/module/nvidia/version = 570.133.10");
    assert_eq!(version().as_deref(), Some("570.133.10"));
}

#[test]
fn nvidias_vgpus_are_taken_to_move_from_the_version_on_of_which_nvidia_says_so() {
    let captured = a2_host();
    let facts = |version: &str| {
        captured.add(&format!("sys/module/nvidia/version = {version}"));
        inspect(captured.root(), None).gpus[&at("0000:08:00.0")].migration.clone().unwrap()
    };
    for older in ["535.274.03", "550.54.14", "550", "none"] {
        assert_eq!(facts(older).stop_copy.certainty, Certainty::Unknown, "{older}");
    }
    for newer in ["550.90.05", "570.133.10", "1000.1"] {
        let facts = facts(newer);
        let told = [&facts.stop_copy, &facts.p2p, &facts.device_dirty_log].map(|told| told.certainty);
        assert_eq!(
            (told, facts.pre_copy.certainty),
            ([Certainty::Claimed; 3], Certainty::Unknown),
            "{newer}"
        );
        assert!(facts.stop_copy.source.contains("17.2"), "{facts:?}");
    }
}

#[test]
fn the_machine_is_described_and_what_was_not_asked_is_not_guessed() {
    let captured = a2_host();
    let seen = inspect(captured.root(), None);
    assert_eq!(seen.host.as_str(), "gpu-node-7");
    assert_eq!(seen.boot_id, "0f0f2a5e-6d8c-4b8e-9a58-1f6c0c5f5a11");
    assert_eq!(seen.system.kernel, "6.8.0-59-generic");
    assert_eq!(seen.system.cpu_model, "Intel(R) Xeon(R) D-1746TER CPU @ 2.00GHz");
    assert_eq!((seen.system.cpus, seen.system.memory_mib), (12, 128_555));
    assert_eq!(seen.system.iommu, Iommu::On { units: vec!["dmar1".to_owned()] });
    let nodes: Vec<_> = seen.system.numa.iter().map(|node| (node.id, &*node.cpus, node.cpu_count)).collect();
    assert_eq!(nodes, [(0, "0-2,12-14", 6), (1, "3-5,15-17", 6)], "node 2 has memory only");
    assert_eq!(seen.system.numa[1].memory_mib, 64_277);
    assert_eq!(seen.hypervisor, Hypervisor::Down { reason: "not asked".to_owned() });
    assert_eq!(seen.notes, []);
}

#[test]
fn an_unknown_display_device_with_sriov_offers_every_count_up_to_its_total() {
    let more = "sriov_totalvfs = 7\nsriov_numvfs = 0\nsriov_drivers_autoprobe = 1\ndriver -> ../../../bus/pci/drivers/xe\n\
                boot_vga = 1\nnuma_node = -1\n";
    let captured =
        Captured::new(&function("0000:03:00.0", ["8086", "e2ff", "8086", "1114"], "030000", 1, more));
    let seen = inspect(captured.root(), None);
    let gpu = &seen.gpus[&at("0000:03:00.0")];
    assert_eq!((gpu.model.as_str(), gpu.valid_counts()), ("8086:e2ff", (1..=7).collect()));
    assert_eq!((gpu.boot_vga, gpu.numa_node, gpu.vram_mib), (true, None, None));
    assert_eq!(gpu.offer(4, None).unwrap().profile, "1/4");
}

#[test]
fn a_gpu_whose_driver_never_takes_sriov_numvfs_offers_nothing_and_says_so() {
    let more = "sriov_totalvfs = 8\nsriov_numvfs = 0\ndriver -> ../../../bus/pci/drivers/gim\n";
    let captured =
        Captured::new(&function("0000:03:00.0", ["1002", "74a1", "1002", "0001"], "038000", 1, more));
    let seen = inspect(captured.root(), None);
    assert!(seen.gpus[&at("0000:03:00.0")].valid_counts().is_empty());
    assert_eq!(seen.notes[0].code, Code::CountFixed);
}

#[test]
fn sriov_that_firmware_or_driver_switched_off_offers_nothing() {
    let more = "sriov_totalvfs = 0\nsriov_numvfs = 0\ndriver -> ../../../bus/pci/drivers/xe\n";
    let captured =
        Captured::new(&function("0000:03:00.0", ["8086", "e212", "8086", "1114"], "030000", 1, more));
    let seen = inspect(captured.root(), None);
    let gpu = &seen.gpus[&at("0000:03:00.0")];
    assert_eq!(
        (gpu.backend, gpu.valid_counts(), gpu.sriov.as_ref().map(|s| s.total_vfs)),
        (None, vec![], Some(0))
    );
}

#[test]
fn only_display_devices_and_what_the_catalogue_names_are_gpus() {
    let nic = function("0000:01:00.0", ["8086", "10c9", "8086", "0000"], "020000", 1, "sriov_totalvfs = 7\n");
    let sound = function("0000:03:00.1", ["10de", "228b", "10de", "0001"], "040300", 2, "");
    let vga = function("0000:03:00.0", ["10de", "2204", "10de", "0001"], "030000", 2, "");
    let captured = Captured::new(&format!("{nic}\n{sound}\n{vga}"));
    let seen = inspect(captured.root(), None);
    assert_eq!(seen.gpus.keys().map(ToString::to_string).collect::<Vec<_>>(), ["0000:03:00.0"]);
    let group = seen.gpus[&at("0000:03:00.0")].iommu_group.clone().unwrap();
    assert_eq!(
        group.members.iter().map(|m| m.address).collect::<Vec<_>>(),
        [pci("0000:03:00.0"), pci("0000:03:00.1")]
    );

    captured.add("catalogue.d/lab.toml =");
    let lab = include_str!("../../../../lab/catalogue.d/lab.toml");
    std::fs::write(captured.root().join("catalogue.d/lab.toml"), lab).unwrap();
    let seen = inspect(captured.root(), Some(&captured.root().join("catalogue.d")));
    let igb = &seen.gpus[&at("0000:01:00.0")];
    assert_eq!((igb.emulated, igb.valid_counts().len()), (true, 7));
}

#[test]
fn a_gpu_that_fell_off_the_bus_is_told_apart_from_its_cached_ids() {
    let captured =
        Captured::new(&function("0000:03:00.0", ["10de", "2204", "10de", "0001"], "030000", 2, ""));
    std::fs::write(captured.root().join("sys/devices/pci0000:00/0000:03:00.0/config"), [0xff; 256]).unwrap();
    let seen = inspect(captured.root(), None);
    assert_eq!(
        seen.gpus[&at("0000:03:00.0")].health.state,
        HealthState::NeedsReboot,
        "the kernel knows no reset"
    );
    assert_eq!(seen.gpus.len(), 1);
}

#[test]
fn an_empty_tree_is_a_host_without_anything_and_a_missing_one_is_named() {
    let seen = inspect(Captured::new("").root(), None);
    assert!(seen.gpus.is_empty() && seen.notes.is_empty(), "{seen:?}");
    assert_eq!(seen.system.iommu, Iommu::Off);
    let seen = inspect("/nonexistent/root".into(), None);
    assert_eq!(seen.notes[0].code, Code::InvalidValue);
    assert!(seen.notes[0].message.contains("/nonexistent/root"), "{}", seen.notes[0]);
}

#[test]
fn a_host_without_kvm_is_told_so() {
    let seen = inspect(Captured::new("dev/null = x").root(), None);
    assert_eq!(seen.notes.iter().map(|note| note.code).collect::<Vec<_>>(), [Code::KvmMissing]);
    let seen = inspect(Captured::new("dev/kvm = x").root(), None);
    assert_eq!(seen.notes, []);
}

#[test]
fn this_machine_can_be_inspected_too() {
    let seen = inspect("/".into(), None);
    assert!(
        !seen.system.kernel.is_empty() && seen.system.cpus > 0 && seen.system.memory_mib > 0,
        "{:?}",
        seen.system
    );
    assert!(seen.stuck.is_empty());
}

const ATTRIBUTES: [&str; 12] = [
    "vendor",
    "device",
    "subsystem_device",
    "class",
    "numa_node",
    "sriov_totalvfs",
    "sriov_numvfs",
    "sriov_drivers_autoprobe",
    "resource",
    "reset_method",
    "boot_vga",
    "aer_dev_fatal",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn junk_in_attributes_is_absent_data_and_never_a_panic(
        junk in prop::collection::vec((0..ATTRIBUTES.len(), prop::collection::vec(any::<u8>(), 0..64)), 1..6)
    ) {
        let captured = a2_host();
        for (attribute, value) in junk {
            let path = format!("sys/devices/pci0000:00/0000:08:00.0/{}", ATTRIBUTES[attribute]);
            std::fs::write(captured.root().join(path), value).unwrap();
        }
        let seen = inspect(captured.root(), None);
        for gpu in seen.gpus.values() {
            prop_assert!(gpu.partitions.len() <= 16);
            prop_assert!(gpu.valid_counts().len() <= 256);
        }
    }
}
