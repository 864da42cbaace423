//! The fake kernel, with either face, gives the answers that are expected of the real one.

use std::sync::Arc;

use tranche_host::conformance::{Deviation, check_mdev, check_sriov, check_vgpu};
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::tree::Tree;

use crate::machine::{IGB, at, pci, qemu};

#[track_caller]
fn conforms(tree: &dyn Tree) {
    let mut deviations: Vec<Deviation> = check_sriov(tree, pci(IGB));
    // Once more: the checks leave a device as they found it.
    deviations.extend(check_sriov(tree, pci(IGB)));
    deviations.extend(check_mdev(tree, &at("mbochs"), "mbochs-medium"));
    let lines: Vec<String> = deviations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn in_memory_the_fake_kernel_conforms() {
    conforms(&FakeKernel::boot(Machine::lab()));
}

#[track_caller]
fn takes_types(tree: &dyn Tree) {
    for _ in 0..2 {
        assert_eq!(check_vgpu(tree, pci("0000:41:00.0")), []);
    }
}

#[test]
fn nvidias_driver_in_memory_conforms() {
    takes_types(&FakeKernel::boot(Machine::nvidia(&["NVIDIA L40S"])));
}

#[cfg(feature = "fuse")]
#[test]
fn nvidias_driver_mounted_conforms_through_write_2_and_execve_2() {
    let kernel = Arc::new(FakeKernel::boot(Machine::nvidia(&["NVIDIA A2"])));
    takes_types(&*crate::trees::mount(&kernel).tree);
}

#[test]
fn with_device_nodes_it_conforms_as_well() {
    conforms(&FakeKernel::boot(Machine { vfio_nodes: true, ..Machine::lab() }));
}

#[test]
fn a_kernel_that_is_not_as_believed_is_told_on() {
    let kernel = FakeKernel::boot(Machine { iommu: false, ..Machine::lab() });
    let cases: Vec<String> =
        check_sriov(&kernel, pci(IGB)).into_iter().map(|deviation| deviation.case).collect();
    assert!(cases.iter().any(|case| case == "a virtual function is in a group"), "{cases:?}");
    assert!(cases.iter().any(|case| case == "the driver after probing"), "{cases:?}");
    assert!(!check_vgpu(&kernel, pci(IGB)).is_empty());
}

#[cfg(feature = "fuse")]
#[test]
fn mounted_the_fake_kernel_conforms_through_write_2() {
    let kernel = Arc::new(FakeKernel::boot(Machine::lab()));
    conforms(&*crate::trees::mount(&kernel).tree);
}

#[test]
fn every_listed_file_is_there_and_every_link_leads_somewhere() {
    let kernel = Arc::new(FakeKernel::boot(Machine { vfio_nodes: true, ..Machine::lab() }));
    let pf = "sys/bus/pci/devices/0000:01:00.0";
    kernel.write(&format!("{pf}/sriov_numvfs"), "7").unwrap();
    kernel.write("sys/bus/pci/devices/0000:01:10.0/driver_override", "vfio-pci").unwrap();
    kernel.write("sys/bus/pci/drivers/igbvf/unbind", "0000:01:10.0").unwrap();
    kernel.write("sys/bus/pci/drivers_probe", "0000:01:10.0").unwrap();
    let create = "sys/class/mdev_bus/mbochs/mdev_supported_types/mbochs-small/create";
    kernel.write(create, "5f1c40b1-9d3c-4b59-8f0e-0a4c1d2e3f40").unwrap();
    let seen = walk(&kernel);
    assert!(seen > 250, "only {seen} files seen");
}

/// Looks at everything that is listed, and counts it.
#[track_caller]
fn walk(kernel: &FakeKernel) -> usize {
    let mut ahead = ["sys", "proc", "dev", "usr"].map(str::to_owned).to_vec();
    ahead.retain(|path| kernel.exists(path));
    let mut seen = 0;
    while let Some(path) = ahead.pop() {
        seen += 1;
        assert!(kernel.exists(&path), "{path} is listed, and leads nowhere");
        if kernel.link(&path).is_err()
            && let Ok(names) = kernel.list(&path)
        {
            ahead.extend(names.into_iter().map(|name| format!("{path}/{name}")));
        }
    }
    seen
}

#[test]
fn with_nvidias_driver_every_listed_file_is_there_as_well() {
    let machine = Machine::nvidia(&["NVIDIA A2"]);
    for (machine, given) in
        [(machine.clone(), "nvidia"), (machine.with_mediated_vgpus(), "mdev_supported_types")]
    {
        let kernel = FakeKernel::boot(Machine { vfio_nodes: true, ..machine });
        kernel.run("usr/lib/nvidia/sriov-manage", &["-e", "0000:41:00.0"]).unwrap();
        let vf = "sys/bus/pci/devices/0000:41:00.4";
        if given == "nvidia" {
            kernel.write(&format!("{vf}/nvidia/current_vgpu_type"), "746").unwrap();
        } else {
            let create = format!("{vf}/mdev_supported_types/nvidia-746/create");
            kernel.write(&create, "5f1c40b1-9d3c-4b59-8f0e-0a4c1d2e3f40").unwrap();
        }
        kernel.open_node("/dev/nvidia0", &qemu(5));
        assert!(kernel.exists(&format!("{vf}/{given}")));
        assert!(walk(&kernel) > 400);
    }
}
