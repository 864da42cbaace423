//! A domain's XML as it is on another host: the same machine to the guest, on other devices.

use std::ops::Range;

use roxmltree::{Document, Node};
use tranche_core::inventory::DeviceSource;
use tranche_core::step::VmDevice;

use super::read::{devices as all_devices, is_ours};
use super::{XmlError, child, near};

/// The XML of a domain for a host on which it has these devices instead of its own, in order.
///
/// Only what the devices are on the host changes: their aliases, and their addresses in the guest, are part of the machine that the
/// guest knows (libvirt: src/conf/domain_conf.c, virDomainHostdevDefCheckABIStability). What was near the devices here is left
/// out, because it names processors of this host.
///
/// # Errors
/// When this is not the XML of a domain, or it has another number of our devices.
pub fn on_other_devices(xml: &str, devices: &[VmDevice]) -> Result<String, XmlError> {
    let document = Document::parse(xml)?;
    let domain = document.root_element();
    let ours: Vec<Node<'_, '_>> = all_devices(domain).filter(|device| is_ours(*device)).collect();
    if ours.len() != devices.len() {
        return Err(XmlError::Unreadable {
            what: "as many devices as it gets",
            value: ours.len().to_string(),
        });
    }
    let mut changes: Vec<(Range<usize>, String)> =
        near::ours(domain, xml).into_iter().map(|range| (range, String::new())).collect();
    for (device, given) in ours.into_iter().zip(devices) {
        let source = child(device, "source").ok_or(XmlError::Missing("source of a device"))?;
        let address = child(source, "address").ok_or(XmlError::Missing("address of a device"))?;
        changes.push((address.range(), address_of(&given.source)));
    }
    changes.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut text = xml.to_owned();
    for (range, words) in changes {
        text.replace_range(range, &words);
    }
    Ok(text)
}

fn address_of(source: &DeviceSource) -> String {
    match source {
        DeviceSource::Pci { address } => format!(
            "<address domain='0x{:04x}' bus='0x{:02x}' slot='0x{:02x}' function='0x{:x}'/>",
            address.domain, address.bus, address.device, address.function
        ),
        DeviceSource::Mdev { uuid } => format!("<address uuid='{uuid}'/>"),
    }
}

#[cfg(test)]
mod tests {
    use tranche_core::step::Near;
    use uuid::Uuid;

    use super::*;
    use crate::vm::xml::{put_devices, read};

    const DOMAIN: &str = "<domain type='kvm'><name>a</name><uuid>00000000-0000-0000-0000-000000000001</uuid>\
        <metadata></metadata><memory unit='MiB'>64</memory><vcpu>2</vcpu><devices><emulator>/q</emulator></devices></domain>";

    fn vf(bus: u8) -> VmDevice {
        let address = format!("0000:{bus:02x}:00.1").parse().unwrap();
        VmDevice { source: DeviceSource::Pci { address }, mmio_mib: 0 }
    }

    #[test]
    fn a_machine_on_another_host_has_other_devices_at_the_same_places_and_nothing_of_this_host() {
        let near = Near { node: 1, cpus: "8-15".to_owned() };
        let here = put_devices(DOMAIN, &[vf(0x41)], Some(&near)).unwrap();
        let placed = here.replace("</hostdev>", "<address type='pci' bus='0x05'/></hostdev>");
        let there = on_other_devices(&placed, &[vf(0x82)]).unwrap();
        let facts = read(&there).unwrap();
        assert_eq!(facts.devices[0].source, vf(0x82).source);
        assert!(facts.devices[0].ours && there.contains("<address type='pci' bus='0x05'/>"), "{there}");
        assert!(!there.contains("8-15") && !there.contains("numatune"), "{there}");
        let mdev = VmDevice { source: DeviceSource::Mdev { uuid: Uuid::from_u128(7) }, mmio_mib: 0 };
        let of_mdev = put_devices(DOMAIN, std::slice::from_ref(&mdev), None).unwrap();
        let other = VmDevice { source: DeviceSource::Mdev { uuid: Uuid::from_u128(8) }, ..mdev };
        let there = on_other_devices(&of_mdev, std::slice::from_ref(&other)).unwrap();
        assert_eq!(read(&there).unwrap().devices[0].source, other.source);
        assert_eq!(on_other_devices(DOMAIN, &[]).unwrap(), DOMAIN, "one without devices is as it was");
        assert!(on_other_devices(DOMAIN, &[vf(1)]).is_err(), "nothing is invented");
    }
}
