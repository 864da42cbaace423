//! What a domain's XML says, as far as Tranche asks.

use std::collections::BTreeSet;
use std::str::FromStr;

use camino::Utf8PathBuf;
use roxmltree::{Document, Node};
use tranche_core::inventory::{Console, DeviceSource, HostDevice, MigrationBlocker};
use tranche_core::name::PciAddress;
use uuid::Uuid;

use super::{ALIAS_PREFIX, XmlError, child, descend};

/// What Tranche reads from a domain's XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The domain's name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Virtual processors that are plugged.
    pub vcpus: u32,
    /// Memory in MiB, rounded down.
    pub memory_mib: u64,
    /// The devices of the host in it, in document order.
    pub devices: Vec<HostDevice>,
    /// The machine that it is; with its version where libvirt describes one that runs.
    pub machine: Option<String>,
    /// What in it could not move to another host while it runs.
    pub blockers: BTreeSet<MigrationBlocker>,
    /// Whether its first serial port is one that libvirt lends.
    pub has_serial: bool,
    /// Which of its graphics is its first VNC server.
    pub vnc: Option<u32>,
}

impl Facts {
    /// What of it can be opened.
    pub fn consoles(&self) -> BTreeSet<Console> {
        let serial = self.has_serial.then_some(Console::Serial);
        serial.into_iter().chain(self.vnc.map(|_| Console::Screen)).collect()
    }
}

/// Reads a domain's XML.
///
/// # Errors
/// When it is not the XML of a domain.
pub fn read(xml: &str) -> Result<Facts, XmlError> {
    let document = Document::parse(xml)?;
    let domain = document.root_element();
    let uuid = text(domain, "uuid")?;
    let memory = child(domain, "memory").ok_or(XmlError::Missing("memory"))?;
    let vcpu = child(domain, "vcpu");
    let vcpus = vcpu.and_then(|vcpu| vcpu.attribute("current").or(vcpu.text())).map(str::trim);
    Ok(Facts {
        name: text(domain, "name")?.to_owned(),
        uuid: parse("a UUID", uuid)?,
        // libvirt takes a missing count for one.
        vcpus: vcpus.map_or(Ok(1), |count| parse("a number of processors", count))?,
        memory_mib: bytes(memory)? >> 20,
        devices: devices(domain).filter_map(host_device).collect(),
        machine: descend(domain, &["os", "type"]).and_then(|os| os.attribute("machine")).map(str::to_owned),
        blockers: blockers(domain),
        has_serial: has_serial(domain),
        vnc: vnc(domain),
    })
}

/// The format of a storage volume (`qcow2`, `raw`) from its XML; `raw` where it names none, as libvirt takes it.
///
/// # Errors
/// When it is not well-formed.
pub fn volume_format(xml: &str) -> Result<String, XmlError> {
    let document = Document::parse(xml)?;
    let format = descend(document.root_element(), &["target", "format"]);
    Ok(format.and_then(|format| format.attribute("type")).unwrap_or("raw").to_owned())
}

/// Where the emulator is, from libvirt's domain capabilities (libvirt: docs/formatdomaincaps).
///
/// # Errors
/// When they name none.
pub fn emulator(capabilities: &str) -> Result<Utf8PathBuf, XmlError> {
    let document = Document::parse(capabilities)?;
    text(document.root_element(), "path").map(Utf8PathBuf::from)
}

/// Every child of every `<devices>`.
pub(super) fn devices<'a, 'input: 'a>(domain: Node<'a, 'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    domain.children().filter(|node| node.has_tag_name("devices")).flat_map(|devices| devices.children())
}

/// Whether Tranche put that device there.
pub(super) fn is_ours(device: Node<'_, '_>) -> bool {
    device.has_tag_name("hostdev")
        && child(device, "alias")
            .and_then(|alias| alias.attribute("name"))
            .is_some_and(|name| name.starts_with(ALIAS_PREFIX))
}

/// What in a machine could not move to another host while it runs (libvirt: src/qemu/qemu_migration.c).
fn blockers(domain: Node<'_, '_>) -> BTreeSet<MigrationBlocker> {
    let of_device = |device: Node<'_, '_>| match device.tag_name().name() {
        "iommu" => Some(MigrationBlocker::Viommu),
        "shmem" => Some(MigrationBlocker::SharedMemory),
        "filesystem" => Some(MigrationBlocker::Filesystem),
        "hostdev" if !is_ours(device) => Some(MigrationBlocker::ForeignDevice),
        "interface" if device.attribute("type") == Some("hostdev") => Some(MigrationBlocker::ForeignDevice),
        _ => None,
    };
    let has_invtsc = child(domain, "cpu").is_some_and(|cpu| {
        let requires = |node: Node<'_, '_>| {
            node.has_tag_name("feature")
                && node.attribute("name") == Some("invtsc")
                && node.attribute("policy").is_none_or(|policy| matches!(policy, "require" | "force"))
        };
        cpu.children().any(requires)
    });
    let has_frequency = child(domain, "clock").is_some_and(|clock| {
        let is_given = |node: Node<'_, '_>| {
            node.attribute("name") == Some("tsc") && node.attribute("frequency").is_some()
        };
        clock.children().any(is_given)
    });
    let mut found: BTreeSet<MigrationBlocker> = devices(domain).filter_map(of_device).collect();
    if has_invtsc && !has_frequency {
        found.insert(MigrationBlocker::InvariantTsc);
    }
    found
}

/// Whether the serial port that libvirt lends when none is named is one that it can lend: it does so with these two kinds only
/// (libvirt: src/qemu/qemu_driver.c, qemuDomainOpenConsole).
fn has_serial(domain: Node<'_, '_>) -> bool {
    let first = devices(domain).find(|device| device.has_tag_name("serial"));
    let first = first.or_else(|| devices(domain).find(|device| device.has_tag_name("console")));
    first.is_some_and(|device| matches!(device.attribute("type"), Some("pty" | "unix")))
}

/// Where among its graphics a domain has a VNC server. Where that listens does not matter: libvirt hands over a connection that was
/// made without any address (libvirt: virDomainOpenGraphicsFD).
fn vnc(domain: Node<'_, '_>) -> Option<u32> {
    let mut graphics = devices(domain).filter(|device| device.has_tag_name("graphics"));
    graphics.position(|graphics| graphics.attribute("type") == Some("vnc")).and_then(|at| at.try_into().ok())
}

/// A device of the host, in any of the elements in which libvirt takes one.
///
/// USB and SCSI devices are none of our business: no partition is ever one.
fn host_device(device: Node<'_, '_>) -> Option<HostDevice> {
    let source = child(device, "source")?;
    let address = child(source, "address")?;
    let source = match (device.tag_name().name(), device.attribute("type")) {
        ("hostdev", Some("pci")) | ("interface", Some("hostdev")) | ("disk", Some("nvme")) => {
            DeviceSource::Pci { address: pci_address(address)? }
        }
        ("hostdev", Some("mdev")) => DeviceSource::Mdev { uuid: address.attribute("uuid")?.parse().ok()? },
        _ => return None,
    };
    Some(HostDevice { source, ours: is_ours(device) })
}

fn pci_address(address: Node<'_, '_>) -> Option<PciAddress> {
    let number = |name: &str| {
        let text = address.attribute(name)?;
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
    };
    let byte = |name: &str| number(name).and_then(|value| u8::try_from(value).ok());
    Some(PciAddress {
        domain: number("domain").unwrap_or(0),
        bus: byte("bus")?,
        device: byte("slot")?,
        function: byte("function").unwrap_or(0),
    })
}

/// The bytes that a memory element means (libvirt: docs/formatdomain, "Memory Allocation").
fn bytes(memory: Node<'_, '_>) -> Result<u64, XmlError> {
    let unit = memory.attribute("unit").unwrap_or("KiB");
    let factor = match unit {
        "b" | "bytes" => 1,
        "KB" => 1_000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1_u64 << 40,
        _ => return Err(XmlError::Unreadable { what: "a unit of memory", value: unit.to_owned() }),
    };
    let amount: u64 = parse("an amount of memory", memory.text().unwrap_or_default().trim())?;
    Ok(amount.saturating_mul(factor))
}

fn text<'a>(domain: Node<'a, '_>, name: &'static str) -> Result<&'a str, XmlError> {
    child(domain, name).and_then(|node| node.text()).map(str::trim).ok_or(XmlError::Missing(name))
}

fn parse<T: FromStr>(what: &'static str, value: &str) -> Result<T, XmlError> {
    value.parse().map_err(|_| XmlError::Unreadable { what, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const DESK: &str = "<domain type='kvm'>
  <name>desk</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <memory unit='GiB'>2</memory>
  <vcpu placement='static' current='2'>8</vcpu>
  <devices>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <driver name='vfio'/>
      <source>
        <address domain='0x0000' bus='0x3d' slot='0x1f' function='0x4'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>
    </hostdev>
    <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>
      <source><address uuid='83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'/></source>
      <alias name='ua-tranche-0'/>
    </hostdev>
    <hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>
    <interface type='hostdev'><source><address type='pci' domain='0x10000' bus='0x01' slot='0x00' function='0x1'/></source></interface>
    <disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'><address domain='0x0000' bus='0x02' slot='0x00' function='0x0'/></source></disk>
    <interface type='network'><source network='default'/></interface>
  </devices>
</domain>";

    #[test]
    fn every_element_that_takes_a_device_of_the_host_is_read() {
        let facts = read(DESK).unwrap();
        assert_eq!((facts.name.as_str(), facts.vcpus, facts.memory_mib), ("desk", 2, 2048));
        let devices: Vec<String> =
            facts.devices.iter().map(|device| serde_json::to_string(device).unwrap()).collect();
        expect![[r#"
            {"source":{"kind":"pci","address":"0000:3d:1f.4"},"ours":false}
            {"source":{"kind":"mdev","uuid":"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"},"ours":true}
            {"source":{"kind":"pci","address":"10000:01:00.1"},"ours":false}
            {"source":{"kind":"pci","address":"0000:02:00.0"},"ours":false}"#]]
        .assert_eq(&devices.join("\n"));
    }

    #[test]
    fn what_ties_a_machine_to_its_host_is_read() {
        use MigrationBlocker::{Filesystem, ForeignDevice, InvariantTsc, SharedMemory, Viommu};
        assert_eq!(read(DESK).unwrap().blockers, BTreeSet::from([ForeignDevice]));
        let bare =
            "<domain><name>a</name><uuid>11111111-2222-3333-4444-555555555555</uuid><memory>65536</memory>
<os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os><cpu mode='host-passthrough'>FEATURE</cpu>
<clock offset='utc'>TIMER</clock><devices>DEVICES</devices></domain>";
        let with = |feature: &str, timer: &str, devices: &str| {
            let xml = bare.replace("FEATURE", feature).replace("TIMER", timer).replace("DEVICES", devices);
            read(&xml).unwrap()
        };
        let plain = with("", "", "");
        assert_eq!((plain.machine.as_deref(), plain.blockers), (Some("pc-q35-10.0"), BTreeSet::new()));
        let invtsc = "<feature policy='require' name='invtsc'/>";
        assert_eq!(with(invtsc, "", "").blockers, BTreeSet::from([InvariantTsc]));
        assert_eq!(with(invtsc, "<timer name='tsc' frequency='2000000000'/>", "").blockers, BTreeSet::new());
        assert_eq!(with("<feature policy='disable' name='invtsc'/>", "", "").blockers, BTreeSet::new());
        let ours = "<hostdev mode='subsystem' type='mdev'><alias name='ua-tranche-0'/></hostdev>";
        assert_eq!(with("", "", ours).blockers, BTreeSet::new());
        let all = "<iommu model='intel'/><shmem name='x'/><filesystem type='mount'/>";
        assert_eq!(with("", "", all).blockers, BTreeSet::from([Viommu, SharedMemory, Filesystem]));
    }

    #[test]
    fn consoles_are_those_that_libvirt_can_lend() {
        let consoles = |devices: &str| {
            let xml = DESK.replace("<devices>", &format!("<devices>{devices}"));
            let facts = read(&xml).unwrap();
            (facts.has_serial, facts.vnc)
        };
        assert_eq!(consoles(""), (false, None));
        assert_eq!(consoles("<serial type='pty'/><graphics type='vnc'/>"), (true, Some(0)));
        assert_eq!(
            consoles("<console type='pty'/>"),
            (true, None),
            "a guest of virtio may have this one only"
        );
        assert_eq!(
            consoles("<serial type='file'/><serial type='pty'/>"),
            (false, None),
            "the first one is lent"
        );
        let both =
            "<graphics type='spice'/><graphics type='vnc' port='-1'><listen type='socket'/></graphics>";
        assert_eq!(consoles(both), (false, Some(1)));
    }

    #[test]
    fn memory_is_read_in_every_unit_that_libvirt_takes() {
        let mib = |memory: &str| {
            let xml = DESK.replace("<memory unit='GiB'>2</memory>", memory);
            read(&xml).map(|facts| facts.memory_mib).map_err(|error| error.to_string())
        };
        assert_eq!(mib("<memory>65536</memory>"), Ok(64));
        assert_eq!(mib("<memory unit='bytes'>1048576</memory>"), Ok(1));
        assert_eq!(mib("<memory unit='T'> 1 </memory>"), Ok(1 << 20));
        assert_eq!(mib("<memory unit='MB'>100</memory>"), Ok(95));
        assert_eq!(
            mib("<memory unit='ell'>1</memory>"),
            Err("the XML says \"ell\" where a unit of memory belongs".into())
        );
        assert_eq!(mib(""), Err("the XML has no memory".into()));
    }

    #[test]
    fn what_is_no_domain_is_refused_by_name() {
        assert!(matches!(read("<domain>"), Err(XmlError::Malformed(_))));
        assert!(matches!(read("<domain/>"), Err(XmlError::Missing("uuid"))));
        // A document type could declare entities that grow without end.
        assert!(matches!(read("<!DOCTYPE domain [<!ENTITY a 'a'>]><domain/>"), Err(XmlError::Malformed(_))));
    }

    #[test]
    fn a_volume_without_a_format_is_raw() {
        let volume = "<volume type='file'><target><format type='qcow2'/></target></volume>";
        assert_eq!(volume_format(volume).unwrap(), "qcow2");
        assert_eq!(volume_format("<volume type='block'><target/></volume>").unwrap(), "raw");
    }

    #[test]
    fn the_emulator_is_where_libvirt_says() {
        let capabilities =
            "<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path></domainCapabilities>";
        assert_eq!(emulator(capabilities).unwrap(), "/usr/bin/qemu-system-x86_64");
        assert!(matches!(emulator("<domainCapabilities/>"), Err(XmlError::Missing("path"))));
    }
}
