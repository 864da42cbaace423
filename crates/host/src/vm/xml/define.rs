//! The domain that Tranche makes from a VM's hardware.

use camino::Utf8Path;
use tranche_core::name::{VmId, VmName};
use tranche_core::spec::{Firmware, VmHardware, VolumeRef};

use super::write::Writer;

/// Marks domains that Tranche made. It is a name, not a page.
const TRANCHE_NAMESPACE: &str = "https://github.com/tranche-project/tranche/domain/1";
/// libosinfo's name space for libvirt (libosinfo: docs, "libvirt metadata").
const LIBOSINFO_NAMESPACE: &str = "http://libosinfo.org/xmlns/libvirt/domain/1.0";

/// How guests' instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceleration {
    /// By the processor: KVM.
    Kvm,
    /// By QEMU's translator. Slow, and everything else is the same.
    Emulated,
}

/// What a domain is made from.
#[derive(Debug, Clone, Copy)]
pub struct Definition<'a> {
    /// Its name.
    pub vm: &'a VmName,
    /// Its UUID.
    pub id: VmId,
    /// What was asked for.
    pub hardware: &'a VmHardware,
    /// `hardware.disks` with their formats, in the same order.
    pub disks: &'a [Disk],
    /// How it runs.
    pub acceleration: Acceleration,
    /// Where the serial console is logged, as `NAME-serial.log`.
    pub serial_log_dir: &'a Utf8Path,
    /// The cloud-init disk, if there is one.
    pub seed: Option<&'a Utf8Path>,
}

/// A disk whose format is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Which volume.
    pub volume: VolumeRef,
    /// Its format (`qcow2`, `raw`). libvirt never guesses it: a guest could write itself a header that names any file.
    pub format: String,
}

/// The domain's XML, without any GPU.
pub fn define(definition: &Definition<'_>) -> String {
    let mut xml = Writer::default();
    xml.open("domain", &[("type", if is_kvm(definition) { "kvm" } else { "qemu" })]);
    xml.text("name", &[], definition.vm.as_str());
    xml.text("uuid", &[], &definition.id.to_string());
    metadata(&mut xml, definition.hardware.guest_os.as_deref());
    xml.text("memory", &[("unit", "MiB")], &definition.hardware.memory_mib.to_string());
    xml.text("vcpu", &[], &definition.hardware.vcpus.to_string());
    boot(&mut xml, definition.hardware);
    processor(&mut xml, definition);
    // What the guest does to itself, libvirt does to the domain; after a crash Tranche decides, not libvirt.
    xml.text("on_poweroff", &[], "destroy");
    xml.text("on_reboot", &[], "restart");
    xml.text("on_crash", &[], "destroy");
    xml.open("devices", &[]);
    disks(&mut xml, definition);
    for network in &definition.hardware.networks {
        xml.open("interface", &[("type", "network")]);
        xml.empty("source", &[("network", network)]);
        xml.empty("model", &[("type", "virtio")]);
        xml.close();
    }
    console(&mut xml, definition);
    xml.empty("controller", &[("type", "usb"), ("model", "qemu-xhci")]);
    xml.open("rng", &[("model", "virtio")]);
    xml.text("backend", &[("model", "random")], "/dev/urandom");
    xml.close();
    // VFIO pins all of a guest's memory: a balloon could give nothing back.
    xml.empty("memballoon", &[("model", "none")]);
    xml.close();
    xml.close();
    xml.finish()
}

fn is_kvm(definition: &Definition<'_>) -> bool {
    definition.acceleration == Acceleration::Kvm
}

fn metadata(xml: &mut Writer, guest_os: Option<&str>) {
    xml.text("title", &[], "Managed by Tranche");
    xml.open("metadata", &[]);
    xml.empty("tranche:vm", &[("xmlns:tranche", TRANCHE_NAMESPACE)]);
    if let Some(id) = guest_os.and_then(libosinfo_id) {
        xml.open("libosinfo:libosinfo", &[("xmlns:libosinfo", LIBOSINFO_NAMESPACE)]);
        xml.empty("libosinfo:os", &[("id", &id)]);
        xml.close();
    }
    xml.close();
}

/// libosinfo's full id of a system from its short one, which other tools of libvirt read from the metadata.
///
/// Short ids are the family and the version without a space in between (osinfo-db: data/os). Families that are not
/// here have no metadata, which harms nobody.
fn libosinfo_id(short: &str) -> Option<String> {
    const FAMILIES: &[(&str, &str)] = &[
        ("win", "http://microsoft.com/win/"),
        ("ubuntu", "http://ubuntu.com/ubuntu/"),
        ("debian", "http://debian.org/debian/"),
        ("fedora", "http://fedoraproject.org/fedora/"),
        ("rhel", "http://redhat.com/rhel/"),
        ("centos-stream", "http://centos.org/centos-stream/"),
        ("rocky", "http://rockylinux.org/rocky/"),
        ("almalinux", "http://almalinux.org/almalinux/"),
        ("alpinelinux", "http://alpinelinux.org/alpinelinux/"),
    ];
    FAMILIES.iter().find_map(|(family, url)| {
        let version = short.strip_prefix(family)?;
        let starts_well = version.starts_with(|c: char| c.is_ascii_digit());
        let valid = starts_well && version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        valid.then(|| format!("{url}{version}"))
    })
}

/// Firmware by libvirt's own choice among what is installed. Secure boot is off: it would refuse the GPU drivers that
/// are built in a Linux guest.
fn boot(xml: &mut Writer, hardware: &VmHardware) {
    let machine = [("arch", "x86_64"), ("machine", "q35")];
    match hardware.firmware {
        Firmware::Uefi => {
            xml.open("os", &[("firmware", "efi")]);
            xml.text("type", &machine, "hvm");
            xml.open("firmware", &[]);
            xml.empty("feature", &[("enabled", "no"), ("name", "secure-boot")]);
            xml.close();
        }
        Firmware::Bios => {
            xml.open("os", &[]);
            xml.text("type", &machine, "hvm");
        }
    }
    xml.close();
}

fn processor(xml: &mut Writer, definition: &Definition<'_>) {
    let is_windows = definition.hardware.guest_os.as_deref().is_some_and(|guest| guest.starts_with("win"));
    xml.open("features", &[]);
    xml.empty("acpi", &[]);
    xml.empty("apic", &[]);
    if is_windows && is_kvm(definition) {
        // What Windows needs so as not to spend its time on timers and locks (libvirt: docs/formatdomain, "hyperv").
        xml.open("hyperv", &[("mode", "custom")]);
        for feature in ["relaxed", "vapic", "vpindex", "synic", "stimer", "frequencies"] {
            xml.empty(feature, &[("state", "on")]);
        }
        xml.empty("spinlocks", &[("state", "on"), ("retries", "8191")]);
        xml.close();
    }
    xml.close();
    if is_kvm(definition) {
        xml.empty("cpu", &[("mode", "host-passthrough"), ("migratable", "on")]);
    } else {
        xml.empty("cpu", &[("mode", "maximum")]);
    }
    // Windows takes the hardware clock for local time.
    xml.open("clock", &[("offset", if is_windows { "localtime" } else { "utc" })]);
    if is_windows && is_kvm(definition) {
        xml.empty("timer", &[("name", "hypervclock"), ("present", "yes")]);
    }
    xml.close();
}

fn disks(xml: &mut Writer, definition: &Definition<'_>) {
    for (index, disk) in definition.disks.iter().enumerate() {
        xml.open("disk", &[("type", "volume"), ("device", "disk")]);
        xml.empty("driver", &[("name", "qemu"), ("type", &disk.format)]);
        xml.empty("source", &[("pool", &disk.volume.pool), ("volume", &disk.volume.volume)]);
        xml.empty("target", &[("dev", &disk_name(index)), ("bus", "virtio")]);
        if index == 0 {
            xml.empty("boot", &[("order", "1")]);
        }
        xml.close();
    }
    if let Some(seed) = definition.seed {
        xml.open("disk", &[("type", "file"), ("device", "cdrom")]);
        xml.empty("driver", &[("name", "qemu"), ("type", "raw")]);
        xml.empty("source", &[("file", seed.as_str())]);
        xml.empty("target", &[("dev", "sda"), ("bus", "sata")]);
        xml.empty("readonly", &[]);
        xml.close();
    }
}

/// `vda`, `vdb`, …; [`tranche_core::spec::DISKS_PER_VM_MAX`] is below 26.
fn disk_name(index: usize) -> String {
    let letter =
        u8::try_from(index).ok().and_then(|index| b'a'.checked_add(index)).filter(u8::is_ascii_lowercase);
    format!("vd{}", char::from(letter.expect("a VM has fewer than 26 disks")))
}

/// The serial console with its log, the guest agent's channel, and a screen that only this host's root can reach.
fn console(xml: &mut Writer, definition: &Definition<'_>) {
    let log = definition.serial_log_dir.join(format!("{}-serial.log", definition.vm));
    xml.open("serial", &[("type", "pty")]);
    xml.empty("log", &[("file", log.as_str()), ("append", "off")]);
    xml.empty("target", &[("port", "0")]);
    xml.close();
    xml.open("console", &[("type", "pty")]);
    xml.empty("target", &[("type", "serial"), ("port", "0")]);
    xml.close();
    xml.open("channel", &[("type", "unix")]);
    xml.empty("target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")]);
    xml.close();
    xml.open("graphics", &[("type", "vnc")]);
    xml.empty("listen", &[("type", "socket")]);
    xml.close();
    xml.open("video", &[]);
    xml.empty("model", &[("type", "vga")]);
    xml.close();
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;
    use tranche_core::spec::DISKS_PER_VM_MAX;
    use uuid::Uuid;

    use super::*;
    use crate::vm::xml::read;

    fn hardware() -> VmHardware {
        VmHardware {
            vcpus: 2,
            memory_mib: 2048,
            disks: vec![VolumeRef { pool: "default".into(), volume: "desk.qcow2".into() }],
            networks: vec!["default".into()],
            firmware: Firmware::Uefi,
            guest_os: Some("ubuntu22.04".into()),
            cloud_init: None,
        }
    }

    fn xml_of(hardware: &VmHardware, acceleration: Acceleration) -> String {
        let disk = |volume: &VolumeRef| Disk { volume: volume.clone(), format: "qcow2".into() };
        define(&Definition {
            vm: &"desk-01".parse().unwrap(),
            id: VmId(Uuid::from_u128(1)),
            hardware,
            disks: &hardware.disks.iter().map(disk).collect::<Vec<_>>(),
            acceleration,
            serial_log_dir: "/var/log/libvirt/qemu".into(),
            seed: hardware.cloud_init.is_some().then_some("/var/lib/seed.iso".into()),
        })
    }

    #[test]
    fn a_vm_with_everything_is_written_out() {
        expect_test::expect_file!["snapshots/desk.xml"].assert_eq(&xml_of(
            &VmHardware { cloud_init: Some("#cloud-config\n".into()), ..hardware() },
            Acceleration::Kvm,
        ));
    }

    #[test]
    fn without_kvm_the_translator_runs_the_guest_with_all_that_it_can() {
        let xml = xml_of(&hardware(), Acceleration::Emulated);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let processor = document.descendants().find(|node| node.has_tag_name("cpu")).unwrap();
        assert_eq!(document.root_element().attribute("type"), Some("qemu"));
        assert_eq!(processor.attribute("mode"), Some("maximum"));
    }

    #[test]
    fn windows_gets_its_clock_and_under_kvm_its_enlightenments() {
        let windows = VmHardware { guest_os: Some("win11".into()), ..hardware() };
        assert!(xml_of(&windows, Acceleration::Kvm).contains("<hyperv mode='custom'>"));
        assert!(!xml_of(&windows, Acceleration::Emulated).contains("hyperv"));
        assert!(xml_of(&windows, Acceleration::Emulated).contains("<clock offset='localtime'>"));
        assert!(!xml_of(&hardware(), Acceleration::Kvm).contains("hyperv"));
    }

    #[test]
    fn a_short_id_becomes_libosinfos_own_or_nothing() {
        let ids =
            ["ubuntu22.04", "win2k22", "win10", "centos-stream9", "windows", "ubuntu", "beos5", "win1'0"]
                .map(libosinfo_id)
                .map(Option::unwrap_or_default);
        expect![[r#"
            http://ubuntu.com/ubuntu/22.04
            http://microsoft.com/win/2k22
            http://microsoft.com/win/10
            http://centos.org/centos-stream/9




        "#]]
        .assert_eq(&format!("{}\n", ids.join("\n")));
    }

    proptest! {
        #[test]
        fn no_name_escapes_its_place(
            pool in "\\PC{0,20}|.*[<>&'\"].*", volume in any::<String>(), network in any::<String>(),
            guest in any::<String>(), disks in 0..=DISKS_PER_VM_MAX,
        ) {
            let volume_ref = VolumeRef { pool, volume };
            let wild = VmHardware {
                disks: vec![volume_ref; disks],
                networks: vec![network],
                guest_os: Some(guest),
                ..hardware()
            };
            let plain = VmHardware {
                disks: vec![VolumeRef { pool: "p".into(), volume: "v".into() }; disks],
                networks: vec!["n".into()],
                guest_os: None,
                ..hardware()
            };
            let shape = |hardware: &VmHardware| {
                let xml = xml_of(hardware, Acceleration::Emulated);
                read(&xml).expect("what is written can be read");
                let document = roxmltree::Document::parse(&xml).unwrap();
                let names = document.descendants().filter(|node| node.is_element());
                names
                    .filter(|node| node.tag_name().namespace() != Some(LIBOSINFO_NAMESPACE))
                    .map(|node| (node.tag_name().name().to_owned(), node.attributes().len()))
                    .collect::<Vec<_>>()
            };
            prop_assert_eq!(shape(&wild), shape(&plain));
        }
    }
}
