//! Which watchdogs a machine has, without opening one: that alone would start it.
//!
//! Source: the kernel's Documentation/ABI/testing/sysfs-class-watchdog. A kernel without these attributes
//! (`CONFIG_WATCHDOG_SYSFS`) still lists the devices; what it does not tell is found out when one is armed.

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::WatchdogFacts;
use tranche_core::name::HostName;

use crate::report;
use crate::tree::Tree;

const CLASS: &str = "sys/class/watchdog";
/// The BMC's watchdog is a driver of its own kind: it has this node alone, and no watchdog in sysfs.
const BMC_NODE: &str = "sys/class/misc/watchdog";
const BMC_NOWAYOUT: &str = "sys/module/ipmi_watchdog/parameters/nowayout";
/// What softdog calls itself (kernel: drivers/watchdog/softdog.c).
pub(super) const SOFTDOG_IDENTITY: &str = "Software Watchdog";
/// The name under which softdog may be asked for.
const SOFTDOG: &str = "softdog";
/// The last reset was this device's (kernel: include/uapi/linux/watchdog.h, `WDIOF_CARDRESET`).
const CARD_RESET: u32 = 0x20;

/// Every watchdog: hardware first, in the order of their numbers.
pub fn all(tree: &dyn Tree) -> Vec<WatchdogFacts> {
    let mut numbers: Vec<u32> = tree
        .list(CLASS)
        .unwrap_or_default()
        .iter()
        .filter_map(|name| name.strip_prefix("watchdog")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let has_first = numbers.first() == Some(&0);
    let mut watchdogs: Vec<WatchdogFacts> = numbers.into_iter().map(|number| facts(tree, number)).collect();
    if !has_first && tree.exists(BMC_NODE) {
        watchdogs.push(bmc(tree));
    }
    watchdogs.sort_by_key(|watchdog| watchdog.software);
    watchdogs
}

/// The watchdog that is wanted, by its device node or as `softdog`; without a wish the first of [`all`].
///
/// # Errors
/// There is none, or not that one.
pub fn find(tree: &dyn Tree, host: &HostName, wanted: Option<&str>) -> Result<WatchdogFacts, Box<Finding>> {
    let watchdogs = all(tree);
    let is_wanted = |watchdog: &&WatchdogFacts| match wanted {
        None => true,
        Some(SOFTDOG) => watchdog.software,
        Some(device) => watchdog.device == device,
    };
    if let Some(found) = watchdogs.iter().find(is_wanted) {
        return Ok(found.clone());
    }
    let present: Vec<&str> = watchdogs.iter().map(|watchdog| watchdog.device.as_str()).collect();
    let message = match wanted {
        Some(wanted) => format!("Host {host} has no watchdog {wanted}."),
        None => format!("Host {host} has no watchdog: nothing resets it when it hangs or is cut off."),
    };
    let hint = if present.is_empty() {
        "Load its driver (iTCO_wdt for Intel, sp5100_tco for AMD, ipmi_watchdog for a BMC, i6300esb in a VM) and name it in \
         /etc/modules-load.d; 'modprobe softdog' where there is no hardware. Or give the host a fence agent."
            .to_owned()
    } else {
        format!(
            "Name one that is there ({}), or load the driver of the one that is meant.",
            present.join(", ")
        )
    };
    Err(Box::new(say::finding(
        Code::WatchdogMissing,
        Severity::Error,
        Subject::Host(host.clone()),
        message,
        hint,
    )))
}

/// The same device as the sysfs knows it; nothing where it has gone.
pub(super) fn is_active(tree: &dyn Tree, device: &str) -> Option<bool> {
    let name = device.strip_prefix("/dev/")?;
    tree.text(&format!("{CLASS}/{name}/state")).ok().map(|state| state == "active")
}

/// That a watchdog has reset the host, if one says so.
pub(crate) fn notes(tree: &dyn Tree, host: &HostName) -> Vec<Finding> {
    let fired = all(tree).into_iter().filter(|watchdog| {
        let name = watchdog.device.trim_start_matches("/dev/");
        number(tree, &format!("{CLASS}/{name}/bootstatus")).is_some_and(|status| status & CARD_RESET != 0)
    });
    let note = |watchdog: WatchdogFacts| {
        let message = format!(
            "Host {host} was reset by its watchdog {} ({}) before this boot.",
            watchdog.device, watchdog.identity
        );
        let hint = "Look for why it hung or was cut off from the cluster: 'journalctl -b -1 -e', and the console's log.";
        report::host_note(host, Code::WatchdogFired, message, hint)
    };
    fired.map(note).collect()
}

/// The BMC's, as far as it tells; its shortest time is a second (kernel: drivers/char/ipmi/ipmi_watchdog.c).
fn bmc(tree: &dyn Tree) -> WatchdogFacts {
    WatchdogFacts {
        device: "/dev/watchdog".to_owned(),
        identity: "IPMI".to_owned(),
        software: false,
        nowayout: tree.text(BMC_NOWAYOUT).is_ok_and(|value| matches!(value.as_str(), "Y" | "1")),
        min_timeout_s: None,
        max_timeout_s: None,
    }
}

fn facts(tree: &dyn Tree, index: u32) -> WatchdogFacts {
    let dir = format!("{CLASS}/watchdog{index}");
    let identity = tree.text(&format!("{dir}/identity")).unwrap_or_default();
    WatchdogFacts {
        device: format!("/dev/watchdog{index}"),
        software: identity == SOFTDOG_IDENTITY,
        identity,
        nowayout: number(tree, &format!("{dir}/nowayout")) == Some(1),
        min_timeout_s: number(tree, &format!("{dir}/min_timeout")).filter(|seconds| *seconds > 0),
        // 0 stands for "as long as you like" (kernel: struct watchdog_device).
        max_timeout_s: number(tree, &format!("{dir}/max_timeout")).filter(|seconds| *seconds > 0),
    }
}

fn number(tree: &dyn Tree, path: &str) -> Option<u32> {
    tree.text(path).ok()?.parse().ok()
}
