//! Whole GPUs: nothing is taken that the host still uses, and what went wrong half-way is brought to its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use camino::Utf8PathBuf;
use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::inventory::Holder;
use tranche_core::name::{PciAddress, PciIds, Timestamp};
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::{Step, VFIO_DRIVER};
use tranche_host::Host as _;
use tranche_host::fake::{FakeKernel, FunctionModel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::tree::{Log, Ran, Tree};
use tranche_host::vm::fake::FakeHypervisor;
use tranche_host::vm::xml::put_devices;

use crate::life::{self, Life};
use crate::machine::{NOW, PATIENT, at, done, lab_catalogue, on_both_faces, pci, refused};
use crate::nvidia::world::World;

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

/// A tree as a process sees it that is killed after so many writes: no further one is made.
#[derive(Debug)]
struct Mortal {
    tree: Arc<dyn Tree>,
    writes_left: AtomicUsize,
}

impl Mortal {
    fn has_died(&self) -> bool {
        self.writes_left.load(Ordering::Relaxed) == 0
    }
}

impl Tree for Mortal {
    fn head(&self, path: &str, len_max: usize) -> io::Result<Vec<u8>> {
        self.tree.head(path, len_max)
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let spend = |left: usize| left.checked_sub(1);
        match self.writes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend) {
            Ok(_) => self.tree.write(path, value),
            Err(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }

    fn link(&self, path: &str) -> io::Result<Utf8PathBuf> {
        self.tree.link(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.tree.list(path)
    }

    fn links(&self, path: &str) -> io::Result<Vec<Utf8PathBuf>> {
        self.tree.links(path)
    }

    fn exists(&self, path: &str) -> bool {
        self.tree.exists(path)
    }

    fn log(&self, path: &str) -> io::Result<Box<dyn Log>> {
        self.tree.log(path)
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> io::Result<Ran> {
        self.tree.run(tool, arguments)
    }
}

/// What a function may be bound to.
fn overrides(kernel: &FakeKernel) -> [String; 2] {
    [GPU, SOUND].map(|function| {
        kernel.text(&format!("sys/bus/pci/devices/{function}/driver_override")).expect("an attribute")
    })
}

#[track_caller]
fn is_taken(kernel: &FakeKernel) {
    assert_eq!(drivers(kernel), bound([VFIO_DRIVER, VFIO_DRIVER]));
    assert_eq!(overrides(kernel), [VFIO_DRIVER, VFIO_DRIVER]);
}

#[track_caller]
fn is_the_hosts(kernel: &FakeKernel) {
    assert_eq!(drivers(kernel), bound(["xe", "snd_hda_intel"]));
    assert_eq!(overrides(kernel), ["(null)", "(null)"]);
}

/// Kills a process after each of its writes, until it needs no more of them, and then has another one do `then`.
/// Returns how many writes it needs.
fn killed_after_each_write(before: &[Step], step: &Step, then: &Step, end: fn(&FakeKernel)) -> usize {
    for writes in 0.. {
        let kernel = Arc::new(FakeKernel::boot(with_sound("xe")));
        #[cfg(feature = "fuse")]
        let mounted = crate::trees::mount(&kernel);
        #[cfg(feature = "fuse")]
        let tree: Arc<dyn Tree> = Arc::<tranche_host::tree::DirTree>::clone(&mounted.tree);
        #[cfg(not(feature = "fuse"))]
        let tree: Arc<dyn Tree> = Arc::<FakeKernel>::clone(&kernel);
        let after = attend(&kernel, Arc::clone(&tree));
        before.iter().for_each(|step| done(&after, step));
        let mortal = Arc::new(Mortal { tree, writes_left: AtomicUsize::new(writes) });
        let killed = attend(&kernel, Arc::<Mortal>::clone(&mortal));
        let outcome = killed.apply(step, NOW);
        assert!(outcome.is_ok() || mortal.has_died(), "{writes} writes: {outcome:?}");
        done(&after, then);
        end(&kernel);
        if outcome.is_ok() {
            return writes;
        }
    }
    unreachable!("a step ends")
}

fn attend(kernel: &Arc<FakeKernel>, tree: Arc<dyn Tree>) -> LinuxHost {
    let vms = Box::new(Arc::new(FakeHypervisor::new(Arc::<FakeKernel>::clone(kernel))));
    LinuxHost::new("node1".parse().unwrap(), tree, PATIENT, lab_catalogue(), vms)
}

#[test]
fn a_group_that_was_taken_by_half_when_the_daemon_died_is_taken_or_given_back_as_a_whole() {
    assert_eq!(killed_after_each_write(&[], &take(), &take(), is_taken), 6);
    assert_eq!(killed_after_each_write(&[], &take(), &give_back("xe"), is_the_hosts), 6);
}

#[test]
fn a_group_that_was_given_back_by_half_when_the_daemon_died_is_given_back_or_taken_as_a_whole() {
    let taken = [take()];
    assert_eq!(killed_after_each_write(&taken, &give_back("xe"), &give_back("xe"), is_the_hosts), 8);
    assert_eq!(killed_after_each_write(&taken, &give_back("xe"), &take(), is_taken), 8);
}

#[test]
fn functions_that_vfio_refuses_after_they_left_their_drivers_are_given_back_to_these() {
    for (refused_function, errno) in [(GPU, libc::EINVAL), (SOUND, libc::EIO)] {
        on_both_faces(&with_sound("xe"), PATIENT, |kernel, host| {
            kernel.refuse_probe(pci(refused_function), VFIO_DRIVER, errno);
            for _ in 0..2 {
                let finding = refused(host, &take(), Code::WrongDriver);
                assert!(finding.message.contains(&format!("{refused_function} of GPU")), "{finding}");
                assert!(finding.message.contains("has no driver"), "{finding}");
            }
            done(host, &give_back("xe"));
            is_the_hosts(kernel);
            kernel.repair();
            done(host, &take());
            is_taken(kernel);
        });
    }
}

#[test]
fn functions_that_their_drivers_refuse_to_take_back_are_back_once_these_take_them() {
    for (refused_function, driver) in [(GPU, "xe"), (SOUND, "snd_hda_intel")] {
        on_both_faces(&with_sound("xe"), PATIENT, |kernel, host| {
            done(host, &take());
            kernel.refuse_probe(pci(refused_function), driver, libc::ENODEV);
            for _ in 0..2 {
                let finding = refused(host, &give_back("xe"), Code::WrongDriver);
                assert!(finding.message.contains(driver), "{finding}");
            }
            kernel.repair();
            done(host, &give_back("xe"));
            is_the_hosts(kernel);
        });
    }
}

const WHOLE: GpuMode = GpuMode::Passthrough { allow_console: false, pool: None };

#[test]
fn a_gpu_that_is_passed_through_is_taken_again_with_all_its_functions_after_a_reboot_and_a_reload() {
    life::on_both_faces(&with_sound("xe"), |life| {
        life.set_mode(GPU, WHOLE);
        life.start_new("a", Request::Whole { gpus: 1, pool: None });
        assert!(life.runs("a"), "{:#?}", life.findings);
        is_taken(&life.kernel);
        life.reboot();
        is_taken(&life.kernel);
        assert!(life.runs("a"), "{:#?}", life.findings);
        life.stop("a");
        for driver in [VFIO_DRIVER, "xe", "snd_hda_intel"] {
            life.kernel.reload_driver(driver);
            life.settle();
            is_taken(&life.kernel);
        }
        // A person gave it back by hand.
        for function in [GPU, SOUND] {
            let dir = format!("sys/bus/pci/devices/{function}");
            life.kernel.write(&format!("{dir}/driver_override"), "\n").unwrap();
            life.kernel.write(&format!("{dir}/driver/unbind"), function).unwrap();
            life.kernel.write("sys/bus/pci/drivers_probe", function).unwrap();
        }
        is_the_hosts(&life.kernel);
        life.settle();
        is_taken(&life.kernel);
        life.start("a");
        assert!(life.runs("a"), "{:#?}", life.findings);
        life.stop("a");
        life.set_mode(GPU, GpuMode::Host);
        is_the_hosts(&life.kernel);
        assert_eq!(life.findings, []);
    });
}

#[test]
fn partitions_are_back_after_their_driver_was_reloaded() {
    for (machine, gpu, driver, count) in
        [(Machine::arc(), "0000:03:00.0", "xe", 4), (Machine::gpus(1, 8), "0000:10:00.0", "xe", 3)]
    {
        // All but the numbers of the groups, which are new.
        let seen = |life: &Life| {
            let partitions = life.gpu(gpu).partitions.clone();
            partitions.into_iter().map(|p| (p.index, p.device, p.driver, p.vram_mib)).collect::<Vec<_>>()
        };
        life::on_both_faces(&machine, |life| {
            life.set_mode(gpu, life::partitioned(count));
            let before = seen(life);
            assert_eq!(before.len(), usize::from(count));
            life.kernel.reload_driver(driver);
            life.settle();
            assert_eq!(seen(life), before);
            life.start_new("a", Request::ANY_PARTITION);
            assert!(life.runs("a"), "{:#?}", life.findings);
        });
    }
}

#[test]
fn functions_that_outlived_their_gpus_driver_are_used_again_with_it() {
    let gpu = "0000:10:00.0";
    life::on_both_faces(&Machine::gpus(1, 8), |life| {
        life.set_mode(gpu, life::partitioned(3));
        // A person unbinds the driver; the kernel warns, and leaves the functions where they are.
        let vf = life.gpu(gpu).partitions[0].vf().unwrap();
        life.kernel.write(&format!("sys/bus/pci/devices/{gpu}/driver/unbind"), gpu).unwrap();
        assert!(life.kernel.exists(&format!("sys/bus/pci/devices/{vf}")), "they are there");
        life.settle();
        assert_eq!(life.gpu(gpu).driver.as_deref(), Some("xe"));
        life.start_new("a", Request::ANY_PARTITION);
        assert!(life.runs("a") && life.gpu(gpu).partitions.len() == 3, "{:#?}", life.findings);
    });
}

#[test]
fn two_gpus_in_one_vm_have_room_for_all_their_windows_in_its_firmware() {
    let mut machine = Machine::nvidia(&["NVIDIA L40S", "NVIDIA L40S"]);
    machine.functions.iter_mut().for_each(|gpu| gpu.bars_mib = vec![16, 64 * 1024, 32]);
    for mut world in World::on_both_faces(&machine) {
        world.set_mode(GPU, WHOLE);
        world.set_mode("0000:42:00.0", WHOLE);
        world.create("a", Request::Whole { gpus: 2, pool: None });
        world.accepts(&Change::StartVm { name: "a".parse().unwrap() });
        let due = world.pass();
        let put = due.iter().find_map(|step| match step {
            Step::PutDevices { devices, .. } => Some(devices),
            _ => None,
        });
        let devices = put.unwrap_or_else(|| panic!("devices are put into the VM: {due:?}"));
        let windows: Vec<u64> = devices.iter().map(|device| device.mmio_mib).collect();
        assert_eq!(windows, [16 + 64 * 1024 + 32; 2]);
        let adopted = "<domain type='kvm'><name>a</name><uuid>00000000-0000-4000-8000-000000000001</uuid>\
                       <memory>65536</memory><os firmware='efi'><type>hvm</type></os><devices/></domain>";
        let xml = put_devices(adopted, devices, None).expect("a domain");
        // Twice the sum of 131168 MiB, because windows are aligned to their size, as a power of two.
        assert!(xml.contains("X-PciMmio64Mb,string=524288"), "{xml}");
        assert!(xml.contains("bus='0x41'") && xml.contains("bus='0x42'"), "{xml}");
    }
}
