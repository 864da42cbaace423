//! Checks that the kernel of this machine behaves as Tranche believes. Changes a device's virtual functions and drivers
//! and puts them back: run it as root, in the lab, on a device that nobody uses.
//!
//! `conformance 0000:01:00.0` checks a physical function, `conformance mbochs mbochs-small` a type of mediated device,
//! `conformance vgpu 0000:41:00.0` a GPU whose virtual functions take types, and `conformance migration DEVICE` what a partition
//! that nobody has open, a virtual function or a mediated device, says of its migration.

use std::process::ExitCode;

use tranche_core::inventory::PartitionDevice;
use tranche_host::conformance::{check_mdev, check_migration, check_sriov, check_vgpu};
use tranche_host::migration::KernelProber;
use tranche_host::tree::DirTree;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tree = match DirTree::open("/".into()) {
        Ok(tree) => tree,
        Err(error) => return fail(&format!("/ cannot be opened: {error}")),
    };
    let deviations = match &arguments[..] {
        [function] => match function.parse() {
            Ok(address) => check_sriov(&tree, address),
            Err(error) => return fail(&format!("{error}")),
        },
        [kind, function] if kind == "vgpu" => match function.parse() {
            Ok(address) => check_vgpu(&tree, address),
            Err(error) => return fail(&format!("{error}")),
        },
        [what, device] if what == "migration" => {
            let mdev = device.parse().map(|uuid| PartitionDevice::Mdev { uuid });
            match mdev.or_else(|_| device.parse().map(|address| PartitionDevice::Vf { address })) {
                Ok(device) => check_migration(&tree, &KernelProber, &device),
                Err(error) => return fail(&format!("{error}")),
            }
        }
        [parent, kind] => match parent.parse() {
            Ok(address) => check_mdev(&tree, &address, kind),
            Err(error) => return fail(&format!("{error}")),
        },
        _ => {
            return fail(
                "usage: conformance FUNCTION | conformance PARENT TYPE | conformance vgpu FUNCTION | conformance migration DEVICE",
            );
        }
    };
    for deviation in &deviations {
        println!("{deviation}");
    }
    println!("{} deviations", deviations.len());
    ExitCode::from(u8::from(!deviations.is_empty()))
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(2)
}
