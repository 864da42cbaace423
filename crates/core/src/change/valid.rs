//! What a wish for a VM says by itself: counts, sizes and names, without a look at what there is.

use crate::diagnostics as say;
use crate::finding::Finding;
use crate::guest;
use crate::name::VmName;
use crate::spec::{
    Availability, CLOUD_INIT_LEN_MAX, DISKS_PER_VM_MAX, GPUS_PER_VM_MAX, PRIORITY_MAX, Request,
    VM_MEMORY_MIB, VM_VCPUS, VmHardware,
};

/// The longest name of a libvirt pool, volume or network, in bytes.
pub const RESOURCE_NAME_LEN_MAX: usize = 255;

pub(super) fn request(asked: &Request) -> Vec<Finding> {
    match asked {
        Request::Whole { gpus, .. } if !(1..=GPUS_PER_VM_MAX).contains(gpus) => {
            vec![say::invalid_value(
                "The number of GPUs",
                &gpus.to_string(),
                &format!("1 to {GPUS_PER_VM_MAX}"),
            )]
        }
        Request::Partition { profile: Some(profile), .. } if !is_profile(profile) => {
            vec![say::invalid_value(
                "The profile",
                &format!("{profile:?}"),
                "a name as 'tranche gpu show' prints it",
            )]
        }
        Request::Partition { vram_mib: Some(0), .. } => {
            vec![say::invalid_value(
                "The partition's memory",
                "0 MiB",
                "a size as 'tranche gpu show' prints it",
            )]
        }
        _ => Vec::new(),
    }
}

pub(super) fn hardware(name: &VmName, asked: &VmHardware) -> Vec<Finding> {
    let mut found = Vec::new();
    if !VM_VCPUS.contains(&asked.vcpus) {
        let range = format!("{} to {}", VM_VCPUS.start(), VM_VCPUS.end());
        found.push(say::invalid_value("The number of virtual processors", &asked.vcpus.to_string(), &range));
    }
    if !VM_MEMORY_MIB.contains(&asked.memory_mib) {
        let range = format!("{} to {} MiB", VM_MEMORY_MIB.start(), VM_MEMORY_MIB.end());
        found.push(say::invalid_value("The memory", &format!("{} MiB", asked.memory_mib), &range));
    }
    if asked.disks.len() > DISKS_PER_VM_MAX || asked.networks.len() > DISKS_PER_VM_MAX {
        let most = format!("at most {DISKS_PER_VM_MAX} of each");
        found.push(say::invalid_value("The number of disks or networks", "so high", &most));
    }
    let pools = asked.disks.iter().flat_map(|disk| [("storage pool", &disk.pool), ("volume", &disk.volume)]);
    let networks = asked.networks.iter().map(|network| ("network", network));
    for (what, text) in pools.chain(networks).filter(|(_, text)| !is_resource_name(text)) {
        let rule = "the name of one that libvirt knows, without '/' and control characters";
        found.push(say::invalid_value(&format!("The name of a {what}"), &format!("{text:?}"), rule));
    }
    if asked.cloud_init.as_ref().is_some_and(|data| data.len() > CLOUD_INIT_LEN_MAX) {
        let range = format!("at most {CLOUD_INIT_LEN_MAX} bytes");
        found.push(say::invalid_value("The cloud-init user data", "so long", &range));
    }
    if let Some(guest_os) = &asked.guest_os {
        if !is_resource_name(guest_os) {
            let rule = "a libosinfo short id, as 'osinfo-query os' prints them";
            found.push(say::invalid_value("The guest system", &format!("{guest_os:?}"), rule));
        } else if !guest::is_supported(guest_os) {
            found.push(say::guest_unsupported(name, guest_os));
        }
    }
    found
}

pub(super) fn availability(asked: Availability) -> Option<Finding> {
    if asked.priority > PRIORITY_MAX {
        let range = format!("0 to {PRIORITY_MAX}");
        return Some(say::invalid_value("The priority", &asked.priority.to_string(), &range));
    }
    let rule = asked.pace.obstacle()?;
    Some(say::invalid_value("A limit for a VM that moves", "so", &format!("it so that {rule}")))
}

/// Profiles are only ever compared with those that there are; that of a plain function is a fraction (`1/4`).
fn is_profile(text: &str) -> bool {
    (1..=RESOURCE_NAME_LEN_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Names of things in libvirt are used as they are, so they may hold nothing that could leave its place.
fn is_resource_name(text: &str) -> bool {
    let safe = |c: char| !c.is_control() && c != '/' && c != '\\';
    (1..=RESOURCE_NAME_LEN_MAX).contains(&text.len()) && text.chars().all(safe) && text != "." && text != ".."
}
