//! Whole GPUs: nothing is taken that the host still uses, and what went wrong half-way is brought to its end.

use tranche_core::finding::Code;
use tranche_core::inventory::Holder;
use tranche_core::name::{PciAddress, PciIds, Timestamp};
use tranche_core::step::{Step, VFIO_DRIVER};
use tranche_host::fake::{FakeKernel, FunctionModel, Machine};
use tranche_host::tree::Tree as _;

use crate::machine::{NOW, PATIENT, at, done, on_both_faces, pci, refused};

const GPU: &str = "0000:41:00.0";
const SOUND: &str = "0000:41:00.1";

/// A GPU under one driver, with its sound function in the same IOMMU group.
fn with_sound(driver: &str) -> Machine {
    let function = |function, class, nodes: &[&str]| FunctionModel {
        address: PciAddress { function, ..pci(GPU) },
        ids: PciIds { vendor: 0x10de, device: 0x2684 + u16::from(function), subvendor: 0x10de, subdevice: 1 },
        class,
        group: Some(7),
        numa_node: None,
        boot_vga: false,
        bars_mib: vec![16],
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        sriov: None,
    };
    let mut machine = Machine::nvidia(&["NVIDIA A2"]);
    let sound = "snd_hda_intel".to_owned();
    machine.drivers[0].name = driver.to_owned();
    machine.drivers[0].ids = vec!["10de:2684".to_owned()];
    machine.drivers.push(tranche_host::fake::DriverModel {
        name: sound,
        ids: vec!["10de:2685".to_owned()],
        sriov: false,
    });
    machine.functions = vec![
        function(0, 0x03_0000, &["dri/card1", "dri/renderD129"]),
        function(1, 0x04_0300, &["snd/controlC1", "snd/pcmC1D3p"]),
    ];
    machine
}

fn take() -> Step {
    Step::TakeGpu { gpu: at(GPU), functions: vec![pci(GPU), pci(SOUND)] }
}

fn give_back(driver: &str) -> Step {
    let functions =
        [(pci(GPU), Some(driver.to_owned())), (pci(SOUND), Some("snd_hda_intel".to_owned()))].into();
    Step::ReturnGpu { gpu: at(GPU), functions }
}

fn process(pid: u32, command: &str) -> Holder {
    Holder { pid, command: command.to_owned() }
}

/// The drivers of both functions.
fn drivers(kernel: &FakeKernel) -> [Option<String>; 2] {
    [GPU, SOUND].map(|function| kernel.link_name(&format!("sys/bus/pci/devices/{function}/driver")).ok())
}

fn bound(drivers: [&str; 2]) -> [Option<String>; 2] {
    drivers.map(|driver| Some(driver.to_owned()))
}

#[test]
fn a_gpu_that_a_process_of_the_host_uses_is_not_taken_and_the_process_is_named() {
    for (driver, node, command) in [
        ("nvidia", "/dev/nvidia0", "python3"),
        ("nvidia", "/dev/dri/card1", "Xorg"),
        ("xe", "/dev/dri/renderD129", "ollama"),
        ("amdgpu", "/dev/snd/controlC1", "pipewire"),
        ("amdgpu", "/dev/snd/pcmC1D3p", "mpv"),
    ] {
        on_both_faces(&with_sound(driver), PATIENT, |kernel, host| {
            kernel.open_node(node, &process(77, command));
            let finding = refused(host, &take(), Code::PartitionsInUse);
            assert!(finding.message.contains(&format!("{command} (pid 77)")), "{finding}");
            assert!(!finding.hint.contains("persistenced"), "{finding}");
            assert_eq!(drivers(kernel), bound([driver, "snd_hda_intel"]), "nothing was taken");
            kernel.close_nodes(&process(77, command));
            done(host, &take());
            assert_eq!(drivers(kernel), bound([VFIO_DRIVER, VFIO_DRIVER]));
            done(host, &give_back(driver));
            assert_eq!(drivers(kernel), bound([driver, "snd_hda_intel"]));
        });
    }
}

#[test]
fn nvidias_own_service_in_the_way_comes_with_the_command_that_stops_it() {
    on_both_faces(&with_sound("nvidia"), PATIENT, |kernel, host| {
        // The kernel shortens names to 15 characters.
        kernel.open_node("/dev/nvidia0", &process(7, "nvidia-persiste"));
        let finding = refused(host, &take(), Code::PartitionsInUse);
        assert!(finding.hint.contains("'systemctl stop nvidia-persistenced'"), "{finding}");
        assert!(!finding.hint.contains("isolate"), "nobody else is in the way: {finding}");
        kernel.open_node("/dev/dri/card1", &process(8, "Xorg"));
        let finding = refused(host, &take(), Code::PartitionsInUse);
        assert!(finding.hint.contains("persistenced") && finding.hint.contains("isolate"), "{finding}");
    });
}

#[test]
fn who_uses_another_gpu_or_what_belongs_to_none_is_in_nobodys_way() {
    on_both_faces(&with_sound("nvidia"), PATIENT, |kernel, host| {
        for node in ["/dev/nvidia1", "/dev/nvidiactl", "/dev/dri/card0", "/dev/snd/controlC0", "/dev/snd/seq"]
        {
            kernel.open_node(node, &process(9, "other"));
        }
        done(host, &take());
        assert_eq!(host.observe(Timestamp(NOW.0 + 1)).gpus[&at(GPU)].driver.as_deref(), Some(VFIO_DRIVER));
    });
}
