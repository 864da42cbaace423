//! Room for large devices in the guest's address space.
//!
//! SeaBIOS maps 64-bit windows wherever they fit. OVMF plans one window in advance: an eighth of the address space if
//! the processor it sees has the host's own width (`host-passthrough`, `maximum`), else 32 GiB, because QEMU's default
//! width of 40 bits may be a lie (edk2: OvmfPkg/Library/PlatformInitLib/MemDetect.c, since 2022-11). A GPU with more
//! memory than that would be left out of the guest's address space.
//!
//! So VMs that Tranche defines get the host's processor and need nothing. An adopted domain with another processor
//! model gets an argument that OVMF reads, `opt/ovmf/X-PciMmio64Mb`, and only if the devices need it: this changes
//! neither the processor that the guest sees nor anything else of the user's. It goes into libvirt's
//! `qemu:commandline`, carries an id of ours, and goes away with the devices. A user's own argument of that name wins.

use std::ops::Range;

use roxmltree::Node;
use tranche_core::step::VmDevice;

use super::devices::with_space_before;
use super::{child, descend};

/// The name space of libvirt's QEMU extensions (libvirt: docs/drvqemu, "Pass-through of arbitrary qemu commands").
const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// What OVMF maps without being told, in MiB, halved: windows are aligned to their size, which wastes up to half.
const MMIO_WITHOUT_HELP_MIB: u64 = 16 * 1024;
/// The file that OVMF reads the size of its window from, in MiB.
const OVMF_WINDOW: &str = "opt/ovmf/X-PciMmio64Mb";
/// How our argument begins: the id marks it, as the alias marks our devices.
const OUR_ARGUMENT: &str = "id=ua-tranche-mmio64,";

/// The lines that make OVMF's window large enough for these devices, where that is needed.
pub(super) fn argument(domain: Node<'_, '_>, devices: &[VmDevice]) -> Option<String> {
    let total_mib: u64 = devices.iter().map(|device| device.mmio_mib).fold(0, u64::saturating_add);
    let needed = total_mib > MMIO_WITHOUT_HELP_MIB
        && is_uefi(domain)
        && !has_wide_processor(domain)
        && !domain
            .descendants()
            .any(|node| node.attribute("value").is_some_and(|value| value.contains(OVMF_WINDOW)));
    let window_mib = total_mib.checked_mul(2)?.checked_next_power_of_two()?;
    needed.then(|| {
        format!(
            "\n  <qemu:commandline xmlns:qemu='{QEMU_NAMESPACE}'>\
             \n    <qemu:arg value='-fw_cfg'/>\
             \n    <qemu:arg value='{OUR_ARGUMENT}name={OVMF_WINDOW},string={window_mib}'/>\
             \n  </qemu:commandline>"
        )
    })
}

/// Where our argument stands in the text: the whole element if nothing else is in it.
pub(super) fn our_arguments<'a>(domain: Node<'a, '_>, xml: &'a str) -> Vec<Range<usize>> {
    let lines = domain.children().filter(|node| node.has_tag_name((QEMU_NAMESPACE, "commandline")));
    lines.flat_map(|line| ours_of(line, xml)).collect()
}

fn ours_of(line: Node<'_, '_>, xml: &str) -> Vec<Range<usize>> {
    let arguments: Vec<Node<'_, '_>> = line.children().filter(Node::is_element).collect();
    let ours = arguments.windows(2).find(|pair| {
        pair[0].attribute("value") == Some("-fw_cfg")
            && pair[1].attribute("value").is_some_and(|value| value.starts_with(OUR_ARGUMENT))
    });
    match ours {
        None => Vec::new(),
        Some(_) if arguments.len() == 2 => vec![with_space_before(xml, line.range())],
        Some(pair) => pair.iter().map(|argument| with_space_before(xml, argument.range())).collect(),
    }
}

fn is_uefi(domain: Node<'_, '_>) -> bool {
    child(domain, "os").is_some_and(|os| os.attribute("firmware") == Some("efi"))
        || descend(domain, &["os", "loader"]).is_some_and(|loader| loader.attribute("type") == Some("pflash"))
}

/// Whether the guest sees the host's own address width.
fn has_wide_processor(domain: Node<'_, '_>) -> bool {
    child(domain, "cpu").is_some_and(|cpu| {
        match child(cpu, "maxphysaddr").map(|width| width.attribute("mode")) {
            Some(mode) => mode == Some("passthrough"),
            None => matches!(cpu.attribute("mode"), Some("host-passthrough" | "maximum")),
        }
    })
}
