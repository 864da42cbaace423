//! Findings about the consoles of VMs.

use super::{error, vm_subject};
use crate::finding::{Code, Finding};
use crate::inventory::Console;
use crate::name::VmName;

/// libvirt lends a serial console to one at a time.
pub fn console_busy(vm: &VmName) -> Finding {
    let message = format!("Somebody else has the serial console of VM {vm}.");
    let hint = format!(
        "Take it over: 'tranche vm console --force {vm}', or the button in the page; whoever has it is cut off."
    );
    error(Code::ConsoleBusy, vm_subject(vm), message, hint)
}

/// A VM that does not have what is asked for.
pub fn console_missing(vm: &VmName, console: Console) -> Finding {
    let (message, hint) = match console {
        Console::Serial => (
            format!("VM {vm} has no serial console that can be opened."),
            "Give its domain a '<serial type=\'pty\'>' with 'virsh edit', and restart it; VMs that Tranche makes have one.",
        ),
        Console::Screen => (
            format!("VM {vm} has no screen that can be opened: its domain has no VNC graphics."),
            "Give its domain '<graphics type=\'vnc\'><listen type=\'socket\'/></graphics>' and a '<video>' with 'virsh edit', \
             and restart it; VMs that Tranche makes have both.",
        ),
    };
    error(Code::ConsoleMissing, vm_subject(vm), message, hint)
}

/// More than are allowed at once.
pub fn consoles_full(message: &str) -> Finding {
    let hint = "Close one first: a page that is closed closes its console.";
    error(Code::Busy, crate::finding::Subject::Installation, message.to_owned(), hint)
}
