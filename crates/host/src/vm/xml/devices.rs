//! Our devices in a domain's XML: put there, replaced, taken away. Everything else stays as it is, byte for byte.

use std::ops::Range;

use roxmltree::{Document, Node};
use tranche_core::inventory::DeviceSource;
use tranche_core::step::{Near, VmDevice};

use super::read::{devices as all_devices, is_ours};
use super::write::Writer;
use super::{ALIAS_PREFIX, XmlError, child, firmware, near, read};

/// A domain's XML with exactly these devices of ours.
///
/// They go behind the last device. `managed='no'`, because Tranche binds functions itself before they get here and
/// vendors' drivers must not be unbound by libvirt. The memory that VFIO locks is accounted for by libvirt on its own,
/// and so are the guest's PCIe ports: it adds what is missing when it takes the definition, and keeps it from then on.
/// Where the guest's firmware could not map the devices otherwise, an argument for it is added (see the module `firmware`).
///
/// What is near the devices goes along with them (see the module `near`).
///
/// If the same devices are there already, the text comes back unchanged: their addresses in the guest stay.
///
/// # Errors
/// When this is not the XML of a domain.
pub fn put_devices(xml: &str, devices: &[VmDevice], near: Option<&Near>) -> Result<String, XmlError> {
    let facts = read(xml)?;
    let present = facts.devices.iter().filter(|device| device.ours).map(|device| &device.source);
    if present.eq(devices.iter().map(|device| &device.source)) {
        return Ok(xml.to_owned());
    }
    let cleared = clear(xml)?;
    if devices.is_empty() {
        return Ok(cleared);
    }
    insert(&cleared, devices, near)
}

/// The XML without anything of ours.
fn clear(xml: &str) -> Result<String, XmlError> {
    let document = Document::parse(xml)?;
    let domain = document.root_element();
    let ours = all_devices(domain)
        .filter(|device| is_ours(*device))
        .map(|device| with_space_before(xml, device.range()));
    let mut ranges: Vec<Range<usize>> =
        ours.chain(firmware::our_arguments(domain, xml)).chain(near::ours(domain, xml)).collect();
    ranges.sort_by_key(|range| range.start);
    let mut text = xml.to_owned();
    for range in ranges.into_iter().rev() {
        text.replace_range(range, "");
    }
    Ok(text)
}

fn insert(xml: &str, devices: &[VmDevice], near: Option<&Near>) -> Result<String, XmlError> {
    let document = Document::parse(xml)?;
    let domain = document.root_element();
    let element = child(domain, "devices").ok_or(XmlError::Missing("devices"))?;
    let mut insertions = vec![place(xml, element, &hostdevs(devices))];
    insertions.extend(firmware::argument(domain, devices).map(|argument| place(xml, domain, &argument)));
    insertions.extend(near.into_iter().flat_map(|near| near::insertions(domain, xml, near)));
    // What comes later in the text goes in first, so that the other place does not move.
    insertions.sort_by_key(|(at, _)| std::cmp::Reverse(at.start));
    let mut text = xml.to_owned();
    for (at, insertion) in insertions {
        text.replace_range(at, &insertion);
    }
    Ok(text)
}

/// Where to put lines so that they become the last children of an element, and the text to put there.
///
/// The place is right behind the last child that is not space, so that taking the lines away again, together with the
/// space before them, leaves what was there. Only an element that had no content at all (`<devices/>`) comes back as
/// an open pair; libvirt's QEMU driver never writes one.
pub(super) fn place(xml: &str, element: Node<'_, '_>, lines: &str) -> (Range<usize>, String) {
    let range = element.range();
    let text = &xml[range.clone()];
    if let Some(open) = text.strip_suffix("/>") {
        let name = &open[1..].split([' ', '\t', '\n', '\r']).next().unwrap_or_default();
        return (range.end - "/>".len()..range.end, format!(">{lines}</{name}>"));
    }
    let end_tag = range.start + text.rfind("</").expect("an element that is not empty has an end tag");
    let at = xml[..end_tag].trim_end_matches([' ', '\t', '\n', '\r']).len();
    (at..at, lines.to_owned())
}

fn hostdevs(devices: &[VmDevice]) -> String {
    let mut lines = String::new();
    for (index, device) in devices.iter().enumerate() {
        for line in hostdev(&device.source, index).lines() {
            lines.push_str("\n    ");
            lines.push_str(line);
        }
    }
    lines
}

fn hostdev(source: &DeviceSource, index: usize) -> String {
    let mut writer = Writer::default();
    match source {
        DeviceSource::Pci { address } => {
            writer.open("hostdev", &[("mode", "subsystem"), ("type", "pci"), ("managed", "no")]);
            writer.open("source", &[]);
            let hex = |value: u32, width: usize| format!("0x{value:0width$x}");
            writer.empty(
                "address",
                &[
                    ("domain", &hex(address.domain, 4)),
                    ("bus", &hex(address.bus.into(), 2)),
                    ("slot", &hex(address.device.into(), 2)),
                    ("function", &hex(address.function.into(), 1)),
                ],
            );
        }
        DeviceSource::Mdev { uuid } => {
            let attributes =
                [("mode", "subsystem"), ("type", "mdev"), ("managed", "no"), ("model", "vfio-pci")];
            writer.open("hostdev", &attributes);
            writer.open("source", &[]);
            writer.empty("address", &[("uuid", &uuid.to_string())]);
        }
    }
    writer.close();
    writer.empty("alias", &[("name", &format!("{ALIAS_PREFIX}{index}"))]);
    writer.close();
    writer.finish()
}

/// A range, and the space before it.
pub(super) fn with_space_before(xml: &str, range: Range<usize>) -> Range<usize> {
    xml[..range.start].trim_end_matches([' ', '\t', '\n', '\r']).len()..range.end
}

#[cfg(test)]
mod tests;
