//! Checks that the kernel of this machine behaves as Tranche believes. Changes a device's virtual functions and drivers
//! and puts them back: run it as root, in the lab, on a device that nobody uses.
//!
//! `conformance 0000:01:00.0` checks a physical function, `conformance mbochs mbochs-small` a type of mediated device,
//! and `conformance vgpu 0000:41:00.0` a GPU whose virtual functions take types.

use std::process::ExitCode;

use tranche_host::conformance::{check_mdev, check_sriov, check_vgpu};
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
        [parent, kind] => match parent.parse() {
            Ok(address) => check_mdev(&tree, &address, kind),
            Err(error) => return fail(&format!("{error}")),
        },
        _ => {
            return fail("usage: conformance FUNCTION | conformance PARENT TYPE | conformance vgpu FUNCTION");
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
