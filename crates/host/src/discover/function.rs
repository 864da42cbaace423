//! One PCI function: what its attributes say, without taking any lock.

use std::collections::BTreeMap;

use tranche_core::inventory::{AerCounters, Bar, GroupMember, IommuGroup};
use tranche_core::name::{PciAddress, PciIds};

use super::parse;
use crate::tree::Tree;

/// Where the kernel lists all PCI functions.
/// The drivers of PCI devices that are loaded.
pub(crate) const PCI_DRIVERS: &str = "sys/bus/pci/drivers";
pub(crate) const PCI_DEVICES: &str = "sys/bus/pci/devices";

/// A function's directory.
pub(crate) fn dir(address: PciAddress) -> String {
    format!("{PCI_DEVICES}/{address}")
}

/// Whether a function is a virtual one. Its ids do not tell: NVIDIA's virtual functions have those of the physical one.
pub(crate) fn is_virtual(tree: &dyn Tree, address: PciAddress) -> bool {
    tree.link(&format!("{}/physfn", dir(address))).is_ok()
}

/// The class code, 24 bits.
pub(crate) fn class(tree: &dyn Tree, address: PciAddress) -> Option<u32> {
    let value = parse::hex(&tree.text(&format!("{}/class", dir(address))).ok()?)?;
    u32::try_from(value).ok()
}

/// The ids. The subsystem's are zero where they cannot be read.
pub(crate) fn ids(tree: &dyn Tree, address: PciAddress) -> Option<PciIds> {
    let (vendor, device) = vendor_and_device(tree, address)?;
    let dir = dir(address);
    Some(PciIds {
        vendor,
        device,
        subvendor: id(tree, &dir, "subsystem_vendor").unwrap_or(0),
        subdevice: id(tree, &dir, "subsystem_device").unwrap_or(0),
    })
}

/// The first two of the ids: enough to tell a GPU, and asked of every function of the host.
pub(crate) fn vendor_and_device(tree: &dyn Tree, address: PciAddress) -> Option<(u16, u16)> {
    let dir = dir(address);
    Some((id(tree, &dir, "vendor")?, id(tree, &dir, "device")?))
}

fn id(tree: &dyn Tree, device_dir: &str, name: &str) -> Option<u16> {
    u16::try_from(parse::hex(&tree.text(&format!("{device_dir}/{name}")).ok()?)?).ok()
}

/// The driver bound to a device directory.
pub(crate) fn driver(tree: &dyn Tree, device_dir: &str) -> Option<String> {
    tree.link_name(&format!("{device_dir}/driver")).ok()
}

/// The only driver that may be bound to a device directory (kernel: Documentation/ABI/testing/sysfs-bus-pci).
pub(crate) fn driver_override(tree: &dyn Tree, device_dir: &str) -> Option<String> {
    let value = tree.text(&format!("{device_dir}/driver_override")).ok()?;
    (!matches!(value.as_str(), "" | "(null)")).then_some(value)
}

/// The number of a device's IOMMU group.
pub(crate) fn group_id(tree: &dyn Tree, device_dir: &str) -> Option<u32> {
    tree.link_name(&format!("{device_dir}/iommu_group")).ok()?.parse().ok()
}

/// A device's IOMMU group with its PCI members. A mediated device has a group without any.
pub(crate) fn iommu_group(tree: &dyn Tree, device_dir: &str) -> Option<IommuGroup> {
    let id = group_id(tree, device_dir)?;
    let names = tree.list(&format!("sys/kernel/iommu_groups/{id}/devices")).unwrap_or_default();
    let member = |address: PciAddress| GroupMember {
        address,
        class: class(tree, address).unwrap_or(0),
        driver: driver(tree, &dir(address)),
        driver_override: driver_override(tree, &dir(address)),
    };
    let members = names.iter().filter_map(|name| name.parse().ok()).map(member).collect();
    Some(IommuGroup { id, members })
}

/// The memory windows that are in use.
pub(crate) fn bars(tree: &dyn Tree, device_dir: &str) -> Vec<Bar> {
    parse::bars(&tree.text(&format!("{device_dir}/resource")).unwrap_or_default())
}

/// The NUMA node; none where the firmware does not tell (-1).
pub(crate) fn numa_node(tree: &dyn Tree, device_dir: &str) -> Option<u16> {
    tree.text(&format!("{device_dir}/numa_node")).ok()?.parse().ok()
}

/// Error totals, where the device reports errors at all.
pub(crate) fn aer(tree: &dyn Tree, device_dir: &str) -> Option<AerCounters> {
    let total = |kind: &str| parse::aer_total(&tree.text(&format!("{device_dir}/aer_dev_{kind}")).ok()?);
    Some(AerCounters {
        correctable: total("correctable")?,
        nonfatal: total("nonfatal")?,
        fatal: total("fatal")?,
    })
}

/// Whether the device has fallen off the bus: its configuration space then reads as all ones, while the ids in its
/// attributes are the kernel's memory of better days.
pub(crate) fn is_off_the_bus(tree: &dyn Tree, device_dir: &str) -> bool {
    tree.head(&format!("{device_dir}/config"), 4).is_ok_and(|ids| ids == [0xff; 4])
}

/// Whether a virtual function can still be read. Its ids read as all ones by design (SR-IOV specification, 3.4.1.1), so
/// revision and class tell; where they cannot be read, nothing is concluded.
pub(crate) fn answers(tree: &dyn Tree, device_dir: &str) -> bool {
    let header = tree.head(&format!("{device_dir}/config"), 12).unwrap_or_default();
    header.get(8..12).is_none_or(|class| class != [0xff; 4])
}

/// The virtual functions of a physical one, by index (`virtfnN`).
pub(crate) fn virtual_functions(tree: &dyn Tree, device_dir: &str) -> BTreeMap<u16, PciAddress> {
    let names = tree.list(device_dir).unwrap_or_default();
    let virtfn = |name: &String| {
        let index = parse::numbered(name, "virtfn")?;
        let address = tree.link_name(&format!("{device_dir}/{name}")).ok()?.parse().ok()?;
        Some((index, address))
    };
    names.iter().filter_map(virtfn).collect()
}
