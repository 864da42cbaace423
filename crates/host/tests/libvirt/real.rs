//! A real libvirtd, with real QEMU processes.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use camino::Utf8Path;
use rustix::process::Signal;
use tranche_core::finding::{Code, Severity};
use tranche_core::inventory::{Console, DomainState, Hypervisor as Observed, OffReason};
use tranche_core::spec::{Firmware, VmHardware, VolumeRef};
use tranche_core::step::VmDevice;
use tranche_host::vm::Hypervisor as _;
use tranche_host::vm::kvm::{Accelerator, ProbeError, boot_probe_guest};
use tranche_host::vm::libvirt::Config;
use virt::domain::Domain;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt_sys as sys;

use crate::contract::{self, Vm, apply, diskless, domain, domains, mdev, refusal, wait_until};
use crate::server::{Server, give_to_daemon, users_domain};

#[test]
fn libvirt_keeps_the_contract() {
    let Some(server) = Server::start() else { return };
    let (hypervisor, _) = server.hypervisor(Config { acceleration: None, ..server.config() });
    contract::a_vm_lives(&hypervisor);
    assert!(hypervisor.acceleration().is_some(), "nobody found out whether KVM works");
    contract::a_missing_domain_is_off_already(&hypervisor);
    contract::a_step_about_a_gpu_is_refused(&hypervisor);

    let connect = server.connect();
    let theirs = Vm::new("theirs", 7);
    let defined = Domain::define_xml(&connect, &users_domain(&theirs, "qemu")).unwrap();
    contract::somebody_elses_domain_is_not_touched(&hypervisor, &theirs.name);
    let definition = || defined.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
    // libvirt adds a PCIe port for every device that finds none free, and keeps it: that is its own doing.
    apply(&hypervisor, &[theirs.put(&[mdev(1), mdev(2)]), theirs.put(&[])]);
    contract::a_users_domain_keeps_what_is_its_own(&hypervisor, &theirs, &definition);

    // A GPU larger than the window that the firmware plans by itself.
    let uefi =
        definition().replace("<os>", "<os><loader readonly='yes' type='pflash'>/usr/share/code.fd</loader>");
    Domain::define_xml(&connect, &uefi).unwrap();
    let before = definition();
    apply(&hypervisor, &[theirs.put(&[VmDevice { mmio_mib: 48 * 1024, ..mdev(1) }])]);
    assert!(definition().contains("X-PciMmio64Mb,string=131072"), "{}", definition());
    apply(&hypervisor, &[theirs.put(&[])]);
    assert_eq!(definition(), before);
}

#[test]
fn consoles_are_lent_by_libvirt_and_carry_what_the_guest_says() {
    let Some(server) = Server::start() else { return };
    let (hypervisor, _) = server.hypervisor(server.config());
    contract::consoles_are_lent(&hypervisor);
    // A BIOS without a screen speaks on the serial port.
    let vm = Vm::new("speaks", 1);
    apply(&hypervisor, &[vm.define(diskless())]);
    let connect = server.connect();
    let defined = Domain::lookup_by_name(&connect, "speaks").unwrap();
    let xml = defined.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
    let blind = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-machine'/>\
                 <qemu:arg value='graphics=off'/></qemu:commandline></domain>";
    Domain::define_xml(&connect, &xml.replace("</domain>", blind)).unwrap();
    apply(&hypervisor, &[vm.start()]);
    let mut line = hypervisor.open_console(&vm.name, vm.id, Console::Serial, false).unwrap();
    line.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    line.write_all(b"typed").unwrap();
    // What it says before libvirt has the line through to here is lost: it says it again, until it is heard.
    let speaks = Domain::lookup_by_name(&connect, "speaks").unwrap();
    speaks.reset().unwrap();
    let (mut said, mut silences) = (String::new(), 0);
    while !said.contains("SeaBIOS") {
        let mut chunk = [0; 256];
        match line.read(&mut chunk) {
            Ok(len) => {
                assert_ne!(len, 0, "it ended after {said:?}");
                said.push_str(&String::from_utf8_lossy(&chunk[..len]));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && silences < 12 => {
                silences += 1;
                speaks.reset().unwrap();
            }
            Err(error) => panic!("{error} after {said:?}"),
        }
    }
    drop(line);
    apply(&hypervisor, &[vm.kill()]);
}

#[test]
fn a_vm_outlives_libvirtd_and_is_found_again() {
    let Some(mut server) = Server::start() else { return };
    let (hypervisor, woken) = server.hypervisor(server.config());
    let vm = Vm::new("desk", 1);
    let idle = Vm::new("idle", 2);
    apply(
        &hypervisor,
        &[vm.define(diskless()), vm.start(), idle.define(diskless()), idle.start(), idle.kill()],
    );
    assert_eq!(domain(&hypervisor, &idle).state, DomainState::Off { reason: OffReason::Destroyed });
    let before = woken.load(Ordering::SeqCst);
    server.kill();
    wait_until("the end of the connection wakes the daemon", || woken.load(Ordering::SeqCst) > before);
    let Observed::Down { reason } = hypervisor.observe() else { panic!("libvirtd is gone") };
    assert!(reason.contains("socket"), "{reason}");
    assert_eq!(refusal(&hypervisor, &vm.kill()).code, Code::LibvirtDown);

    server.restart();
    assert_eq!(domain(&hypervisor, &vm).state, DomainState::Running);
    let forgotten = DomainState::Off { reason: OffReason::Unknown };
    assert_eq!(domain(&hypervisor, &idle).state, forgotten, "libvirt keeps no reason");
    let before = woken.load(Ordering::SeqCst);
    // Nobody told Tranche: libvirt's event does.
    rustix::process::kill_process(server.qemu_of(&vm), Signal::KILL).unwrap();
    wait_until("the death of QEMU wakes the daemon", || woken.load(Ordering::SeqCst) > before);
    wait_until("the domain is off", || !domain(&hypervisor, &vm).state.is_active());
    assert_eq!(domain(&hypervisor, &vm).state, DomainState::Off { reason: OffReason::Crashed });
}

#[test]
fn a_libvirtd_that_hangs_is_down_and_holds_nobody_up() {
    let Some(server) = Server::start() else { return };
    let (hypervisor, _) =
        server.hypervisor(Config { observe_limit_ms: 500, step_limit_ms: 500, ..server.config() });
    let vm = Vm::new("desk", 1);
    wait_until("libvirtd has warmed up", || matches!(hypervisor.observe(), Observed::Up { .. }));
    apply(&hypervisor, &[vm.define(diskless())]);
    server.freeze();
    for _ in 0..2 {
        let Observed::Down { reason } = hypervisor.observe() else { panic!("nobody can have answered") };
        assert!(reason.contains("not come back"), "{reason}");
        let finding = refusal(&hypervisor, &vm.start());
        assert_eq!((finding.code, finding.severity), (Code::LibvirtSlow, Severity::Warning), "{finding}");
    }
    server.thaw();
    // The start that was given up on is carried out after all, and shows.
    wait_until("the VM runs", || match hypervisor.observe() {
        Observed::Up { domains, .. } => domains["desk"].state == DomainState::Running,
        Observed::Down { .. } => false,
    });
}

#[test]
fn a_vm_is_made_of_volumes_and_first_boot_data_and_leaves_only_its_volumes() {
    let Some(server) = Server::start() else { return };
    let (hypervisor, _) = server.hypervisor(server.config());
    let vm = Vm::new("desk", 1);
    let hardware = VmHardware {
        disks: vec![
            VolumeRef { pool: "pool <1>".into(), volume: "root & co".into() },
            VolumeRef { pool: "pool <1>".into(), volume: "data".into() },
        ],
        cloud_init: Some("#cloud-config\npassword: <secret>\n".into()),
        ..diskless()
    };
    let missing = refusal(&hypervisor, &vm.define(hardware.clone()));
    assert_eq!(missing.code, Code::LibvirtRefused);
    assert!(missing.message.contains("pool <1>/root & co"), "{}", missing.message);
    assert!(missing.hint.contains("pool-list"), "{}", missing.hint);
    let nul = VmHardware { disks: vec![VolumeRef { pool: "\0".into(), volume: "\0".into() }], ..diskless() };
    assert_eq!(refusal(&hypervisor, &vm.define(nul)).code, Code::LibvirtRefused);

    let pool_xml = format!(
        "<pool type='dir'><name>pool &lt;1&gt;</name><target><path>{}</path></target></pool>",
        server.path("pool")
    );
    let connect = server.connect();
    let pool = StoragePool::create_xml(&connect, &pool_xml, 0).unwrap();
    for (name, format) in [("root &amp; co", "qcow2"), ("data", "raw")] {
        let volume = format!(
            "<volume><name>{name}</name><capacity>1048576</capacity><target><format type='{format}'/></target></volume>"
        );
        StorageVol::create_xml(&pool, &volume, 0).unwrap();
    }
    let seed = server.path("seeds/desk.iso");
    let no_network = VmHardware { networks: vec!["none".into()], ..hardware.clone() };
    apply(&hypervisor, &[vm.define(hardware)]);
    assert_is_seed(&seed, "password: <secret>");
    let xml = Domain::lookup_by_name(&connect, "desk").unwrap().get_xml_desc(0).unwrap();
    assert!(xml.contains("type='qcow2'") && xml.contains("type='raw'"), "{xml}");
    // What libvirt does where it runs as root: QEMU's user gets the image while the VM runs.
    give_to_daemon(seed.as_std_path());
    apply(&hypervisor, &[vm.start()]);
    let log = server.path("log/desk-serial.log");
    assert!(log.exists(), "{log} is missing");
    apply(&hypervisor, &[vm.kill(), vm.undefine()]);
    assert!(!seed.exists() && server.path("pool/data").exists() && server.path("pool/root & co").exists());

    apply(&hypervisor, &[vm.define(no_network)]);
    let refused = refusal(&hypervisor, &vm.start());
    assert_eq!(refused.code, Code::LibvirtRefused);
    assert!(refused.message.contains("'none'") && refused.hint.contains("net-list"), "{refused}");
}

#[test]
fn a_host_looks_whether_it_has_the_volumes_of_a_vm_before_that_comes() {
    let Some(server) = Server::start() else { return };
    let (hypervisor, _) = server.hypervisor(server.config());
    let vm = Vm::new("desk", 1);
    let disks = vec![VolumeRef { pool: "shared".into(), volume: "root.raw".into() }];
    let expect = vm.expect(VmHardware { disks, ..diskless() });
    let lacks = refusal(&hypervisor, &expect);
    assert_eq!(lacks.code, Code::LibvirtRefused);
    assert!(lacks.message.contains("shared"), "it has no such pool: {}", lacks.message);

    let path = server.path("pool");
    let pool = format!("<pool type='dir'><name>shared</name><target><path>{path}</path></target></pool>");
    let connect = server.connect();
    let _pool = StoragePool::create_xml(&connect, &pool, 0).unwrap();
    let lacks = refusal(&hypervisor, &expect);
    assert!(lacks.message.contains("shared/root.raw"), "it has no such volume: {}", lacks.message);
    assert!(!hypervisor.travels().expects.contains(&vm.name), "so it does not come");

    // As another host makes it there, of which this one's libvirt is told nothing.
    fs::write(path.join("root.raw"), [0; 4096]).unwrap();
    apply(&hypervisor, &[expect]);
    assert!(hypervisor.travels().expects.contains(&vm.name));
}

#[track_caller]
fn assert_is_seed(seed: &Utf8Path, user_data: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let image = fs::read(seed).unwrap();
    let has =
        |text: &str| image.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()));
    for text in [user_data, "local-hostname: 'desk'", "user-data", "meta-data", "cidata"] {
        assert!(has(text), "{seed} lacks {text:?}");
    }
    assert_eq!(fs::metadata(seed).unwrap().permissions().mode() & 0o777, 0o600);
    let siblings = fs::read_dir(seed.parent().unwrap()).unwrap().count();
    assert_eq!(siblings, 1, "something was left beside {seed}");
}

#[test]
fn what_others_do_is_seen_even_where_libvirt_tells_nobody() {
    let Some(server) = Server::start() else { return };
    let (told, woken) = server.hypervisor(server.config());
    let (looking, _) = server.hypervisor(Config { reading_age_max_ms: 0, ..server.config() });
    let vm = Vm::new("theirs", 7);
    let connect = server.connect();
    assert!(domains(&told).is_empty());
    let theirs = Domain::define_xml(&connect, &users_domain(&vm, "qemu")).unwrap();
    wait_until("a definition wakes the daemon", || woken.load(Ordering::SeqCst) > 0);
    assert_eq!(domain(&told, &vm).memory_mib, 64);

    Domain::define_xml(&connect, &users_domain(&vm, "qemu").replace(">64<", ">96<")).unwrap();
    wait_until("the new definition is read", || domain(&told, &vm).memory_mib == 96);

    // libvirt sends no event about this.
    let device = "<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'><source>\
                  <address uuid='00000000-0000-0000-0000-000000000009'/></source></hostdev>";
    theirs.attach_device_flags(device, sys::VIR_DOMAIN_AFFECT_CONFIG).unwrap();
    let seen = domain(&looking, &vm).defined_devices;
    assert_eq!(
        seen.iter().map(|device| (&device.source, device.ours)).collect::<Vec<_>>(),
        [(&mdev(9).source, false)]
    );

    theirs.set_autostart(true).unwrap();
    assert!(domain(&looking, &vm).autostart);
    theirs.create().unwrap_err();
}

#[test]
fn an_answer_serves_again_until_libvirt_tells_of_a_change_or_a_step_was_taken() {
    let Some(server) = Server::start() else { return };
    let (hypervisor, woken) = server.hypervisor(Config { answer_age_max_ms: 3_600_000, ..server.config() });
    let vm = Vm::new("theirs", 7);
    let connect = server.connect();
    assert!(domains(&hypervisor).is_empty());
    let theirs = Domain::define_xml(&connect, &users_domain(&vm, "qemu")).unwrap();
    wait_until("the event of the definition is there", || woken.load(Ordering::SeqCst) > 0);
    assert!(!domain(&hypervisor, &vm).autostart);

    // libvirt sends no event about this, so that it shows who was asked.
    theirs.set_autostart(true).unwrap();
    assert!(!domain(&hypervisor, &vm).autostart, "the answer of before serves");
    apply(&hypervisor, &[vm.kill()]);
    assert!(domain(&hypervisor, &vm).autostart, "after a step libvirt is asked");

    theirs.set_autostart(false).unwrap();
    assert!(domain(&hypervisor, &vm).autostart, "the answer of before serves");
    let before = woken.load(Ordering::SeqCst);
    Domain::define_xml(&connect, &users_domain(&vm, "qemu").replace(">64<", ">96<")).unwrap();
    wait_until("the event of the new definition is there", || woken.load(Ordering::SeqCst) > before);
    let seen = domain(&hypervisor, &vm);
    assert_eq!((seen.memory_mib, seen.autostart), (96, false));
}

#[test]
fn a_domain_without_a_definition_is_told_as_such() {
    let Some(server) = Server::start() else { return };
    let (hypervisor, _) = server.hypervisor(server.config());
    let vm = Vm::new("fleeting", 5);
    Domain::create_xml(&server.connect(), &users_domain(&vm, "qemu"), 0).unwrap();
    let seen = domain(&hypervisor, &vm);
    assert_eq!((seen.persistent, seen.state), (false, DomainState::Running));
    assert_eq!(refusal(&hypervisor, &vm.put(&[mdev(1)])).code, Code::DomainTransient);
    apply(&hypervisor, &[vm.kill()]);
    assert!(domains(&hypervisor).is_empty());
}

#[test]
fn firmware_is_libvirts_choice_and_its_variables_go_with_the_vm() {
    let Some(server) = Server::start() else { return };
    if !Utf8Path::new("/usr/share/OVMF").exists() {
        eprintln!("not run: ovmf is not installed");
        return;
    }
    let (hypervisor, _) = server.hypervisor(server.config());
    let vm = Vm::new("desk", 1);
    apply(
        &hypervisor,
        &[vm.define(VmHardware { firmware: Firmware::Uefi, memory_mib: 128, ..diskless() }), vm.start()],
    );
    let variables = || fs::read_dir(server.path("config/libvirt/qemu/nvram")).map_or(0, Iterator::count);
    assert_eq!(variables(), 1);
    apply(&hypervisor, &[vm.kill(), vm.undefine()]);
    assert_eq!(variables(), 0);
}

#[test]
fn a_saved_state_is_not_started_in_place_of_what_was_asked_for() {
    let Some(server) = Server::start() else { return };
    let (hypervisor, _) = server.hypervisor(server.config());
    let vm = Vm::new("desk", 1);
    apply(&hypervisor, &[vm.define(diskless()), vm.start()]);
    Domain::lookup_by_name(&server.connect(), "desk").unwrap().managed_save(0).unwrap();
    let refused = refusal(&hypervisor, &vm.start());
    assert!(refused.hint.contains("virsh managedsave-remove desk"), "{refused}");
    apply(&hypervisor, &[vm.undefine()]);
    assert!(domains(&hypervisor).is_empty());
}

#[test]
fn the_probe_guest_runs_where_guests_can_run() {
    let emulator = Utf8Path::new("/usr/bin/qemu-system-x86_64");
    assert!(matches!(
        boot_probe_guest("/nonexistent/qemu".into(), Accelerator::Kvm),
        Err(ProbeError::Start(_))
    ));
    assert!(matches!(boot_probe_guest("/bin/false".into(), Accelerator::Kvm), Err(ProbeError::Ended(_))));
    if !emulator.exists() {
        eprintln!("not run: {emulator} is not installed");
        return;
    }
    boot_probe_guest(emulator, Accelerator::Tcg).unwrap();
}
