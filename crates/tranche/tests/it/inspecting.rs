//! `inspect` on a captured tree, without a daemon.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use expect_test::expect;

use crate::run_bare;

/// The catalogue of the virtual lab, which has the adapter in the tree.
const CATALOGUE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../lab/catalogue.d");

const DEVICE: &str = "sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0";

/// What a lab node's adapter looks like before anybody partitions it.
const FILES: &[(&str, &str)] = &[
    ("proc/sys/kernel/hostname", "node1\n"),
    ("proc/sys/kernel/osrelease", "6.12.57+deb13-amd64\n"),
    ("proc/cpuinfo", "processor\t: 0\nmodel name\t: QEMU TCG CPU\n"),
    ("proc/meminfo", "MemTotal:        4194304 kB\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/class/iommu/dmar0/intel-iommu/version", "1:0\n"),
    ("@/vendor", "0x8086\n"),
    ("@/device", "0x10c9\n"),
    ("@/subsystem_vendor", "0x8086\n"),
    ("@/subsystem_device", "0xa01f\n"),
    ("@/class", "0x020000\n"),
    ("@/numa_node", "-1\n"),
    ("@/sriov_totalvfs", "7\n"),
    ("@/sriov_numvfs", "0\n"),
    ("@/sriov_drivers_autoprobe", "1\n"),
    ("@/reset_method", "flr\n"),
    ("sys/bus/pci/drivers/igb/new_id", ""),
    ("sys/kernel/iommu_groups/3/type", "DMA\n"),
];

const LINKS: &[(&str, &str)] = &[
    ("sys/bus/pci/devices/0000:01:00.0", "../../../devices/pci0000:00/0000:00:02.0/0000:01:00.0"),
    ("@/driver", "../../../../bus/pci/drivers/igb"),
    ("@/iommu_group", "../../../../kernel/iommu_groups/3"),
    (
        "sys/kernel/iommu_groups/3/devices/0000:01:00.0",
        "../../../../devices/pci0000:00/0000:00:02.0/0000:01:00.0",
    ),
];

fn captured() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = |path: &str| {
        let path = dir.path().join(path.replace('@', DEVICE));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (path, text) in FILES {
        fs::write(place(path), text).unwrap();
    }
    for (path, target) in LINKS {
        symlink(target, place(path)).unwrap();
    }
    dir
}

fn inspect(root: &Path, more: &[&str]) -> String {
    let root = root.to_str().unwrap();
    run_bare(&[&["inspect", "--root", root, "--catalogue", CATALOGUE], more].concat()).replace(root, "ROOT")
}

#[test]
fn a_captured_tree_is_read_without_a_daemon() {
    expect![[r#"
        Host       node1
        Kernel     6.12.57+deb13-amd64
        Processor  4 x QEMU TCG CPU
        Memory     4 GiB
        IOMMU      on (dmar0)

        GPU                            MODEL     STATUS         PARTITIONS  FREE  VALID COUNTS  MEMORY  DRIVER
        node1/0000:01:00.0 (emulated)  QEMU igb  partitionable  -           -     1-7           -       igb
        exit 0
    "#]]
    .assert_eq(&inspect(captured().path(), &[]));
}

#[test]
fn for_programs_it_is_the_inventory_itself() {
    let json = inspect(captured().path(), &["--json"]);
    let json = json.strip_suffix("exit 0\n").expect("it succeeds");
    let inventory: tranche_core::inventory::HostInventory =
        serde_json::from_str(json).expect("it is an inventory");
    let counts: Vec<Vec<u16>> = inventory.gpus.values().map(|gpu| gpu.valid_counts()).collect();
    assert_eq!(counts, [(1..=7).collect::<Vec<u16>>()]);
}

#[test]
fn a_root_that_is_not_there_is_named_and_fails() {
    expect![[r#"
        Host   localhost
        IOMMU  off

        No GPU was found. Is its driver loaded, and SR-IOV on in the firmware? See: tranche findings

        error: The root directory ROOT cannot be opened: No such file or directory (os error 2). [invalid_value]
          hint: Name a directory that holds 'sys', as '/' does.
        exit 1
    "#]].assert_eq(&inspect(Path::new("/nonexistent"), &[]));
}
