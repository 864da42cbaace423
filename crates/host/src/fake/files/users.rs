//! Who has what open, as files: IOMMU groups, processes, and device nodes.

use tranche_core::inventory::{DeviceSource, Holder};
use uuid::Uuid;

use super::{File, Listing, Node, dir, file, function_path, link, names, parent_path, text, vfio_node};
use crate::fake::nvidia::files as nvidia;
use crate::fake::state::{Function, State};

pub(super) fn groups(state: &State, path: &[&str]) -> Option<Node> {
    let functions_in = |group: u32| {
        let members = state.functions.iter().filter(move |(_, function)| function.group == Some(group));
        members.map(|(address, _)| (address.to_string(), function_path(*address)))
    };
    let mdevs_in = |group: u32| {
        let members = state.mdevs.iter().filter(move |(_, mdev)| mdev.group == group);
        members.map(|(uuid, mdev)| (uuid.to_string(), format!("{}/{uuid}", parent_path(&mdev.parent))))
    };
    match path {
        [] => dir(&["debug", "iommu_groups"]),
        ["iommu_groups"] => Some(Node::Dir(Listing::Groups)),
        ["iommu_groups", id, rest @ ..] => {
            let id: u32 = id.parse().ok()?;
            let mut members = functions_in(id).chain(mdevs_in(id)).peekable();
            members.peek()?;
            match rest {
                [] => dir(&["devices"]),
                ["devices"] => names(members.map(|(name, _)| name)),
                ["devices", name] => {
                    let (_, path) = members.find(|(found, _)| found == name)?;
                    link(format!("../../../../devices/{path}"))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

pub(super) fn proc(state: &State, path: &[&str]) -> Option<Node> {
    let machine = &state.machine;
    match path {
        [] => Some(Node::Dir(Listing::Processes)),
        ["cpuinfo"] => text(format_args!(
            "processor\t: 0\nmodel name\t: {}\nflags\t\t: {}\nbugs\t\t:",
            machine.cpu_model,
            machine.cpu_flags.join(" ")
        )),
        ["cmdline"] => text(&machine.migration.command_line),
        ["meminfo"] => text(format_args!("MemTotal:       {} kB", machine.memory_mib * 1024)),
        ["driver", rest @ ..] => driver_file(state, rest),
        ["sys"] => dir(&["kernel"]),
        ["sys", "kernel"] => dir(&["osrelease", "random"]),
        ["sys", "kernel", "osrelease"] => text(&machine.kernel),
        ["sys", "kernel", "random"] => dir(&["boot_id"]),
        ["sys", "kernel", "random", "boot_id"] => text(Uuid::from_u128(u128::from(state.boots))),
        [pid, rest @ ..] => {
            let pid: u32 = pid.parse().ok()?;
            let command = &holders(state).find(|holder| holder.pid == pid)?.command;
            let devices = state.opens.iter().filter(|(_, holder)| holder.pid == pid);
            let nodes = state.vgpus.nodes.iter().filter(|(_, holder)| holder.pid == pid);
            let mut paths = devices
                .map(|(source, _)| opened_path(state, source))
                .chain(nodes.map(|(node, _)| node.clone()));
            match rest {
                [] => dir(&["comm", "fd"]),
                ["comm"] => text(command),
                ["fd"] => names((0..paths.count()).map(|number| number.to_string())),
                ["fd", number] => link(paths.nth(number.parse().ok()?)?),
                _ => None,
            }
        }
    }
}

/// Every process that has something open, as often as it has.
pub(super) fn holders(state: &State) -> impl Iterator<Item = &Holder> {
    let devices = state.opens.iter().map(|(_, holder)| holder);
    let all = devices.chain(state.vgpus.nodes.iter().map(|(_, holder)| holder));
    all.filter(|holder| !state.faults.hidden.contains(&holder.pid))
}

/// What vendors' drivers put under `proc/driver`. What a test put there comes first.
pub(super) fn driver_file(state: &State, path: &[&str]) -> Option<Node> {
    let at = ["proc", "driver"].iter().chain(path).copied().collect::<Vec<_>>().join("/");
    let mut files = nvidia::proc_files(state);
    files.extend(state.signs.files.clone());
    if let Some(value) = files.get(&at) {
        return text(value);
    }
    let below = files.keys().filter_map(|file| file.strip_prefix(&at)?.strip_prefix('/'));
    let mut children = below.filter_map(|rest| rest.split('/').next().map(str::to_owned)).peekable();
    children.peek()?;
    names(children)
}

/// What an open file of a VFIO device is, as `/proc/PID/fd` shows it.
fn opened_path(state: &State, source: &DeviceSource) -> String {
    let function = match source {
        DeviceSource::Pci { address } => state.functions.get(address),
        DeviceSource::Mdev { .. } => None,
    };
    match (function.and_then(|function| vfio_node(state, function)), state.group_of(source)) {
        (Some(node), _) => format!("/dev/vfio/devices/{node}"),
        (None, Some(group)) => format!("/dev/vfio/{group}"),
        (None, None) => "/dev/vfio/0 (deleted)".to_owned(),
    }
}

/// The devices of a class that a function's driver made of it: `card0` of the nodes `dri/card0` and `snd/controlC0`.
pub(super) fn class_devices(function: &Function, class: &str) -> Vec<String> {
    let nodes = function.nodes().iter();
    match class {
        "drm" => nodes.filter_map(|node| Some(node.strip_prefix("dri/")?.to_owned())).collect(),
        _ => nodes.filter_map(|node| Some(format!("card{}", node.strip_prefix("snd/controlC")?))).collect(),
    }
}

/// The device nodes below a directory of `/dev`.
fn nodes_below(state: &State, directory: &str) -> Vec<String> {
    let nodes = state.functions.values().flat_map(Function::nodes);
    nodes.filter_map(|node| Some(node.strip_prefix(directory)?.strip_prefix('/')?.to_owned())).collect()
}

pub(super) fn dev(state: &State, path: &[&str]) -> Option<Node> {
    let nodes = || state.functions.values().filter_map(|function| vfio_node(state, function));
    match path {
        [] => {
            let kvm = state.machine.kvm.then(|| "kvm".to_owned());
            let fixed = ["kmsg", "vfio"].map(str::to_owned);
            let classes = ["dri", "snd"].into_iter().filter(|class| !nodes_below(state, class).is_empty());
            let iommu = state.machine.migration.iommufd.then(|| "iommu".to_owned());
            let vendors = nvidia::nodes(state).into_iter();
            names(vendors.chain(kvm).chain(iommu).chain(fixed).chain(classes.map(str::to_owned)))
        }
        [class @ ("dri" | "snd")] => {
            let nodes = nodes_below(state, class);
            (!nodes.is_empty()).then(|| names(nodes))?
        }
        [class @ ("dri" | "snd"), name] => {
            nodes_below(state, class).iter().any(|node| node == name).then(|| text(""))?
        }
        [node] if nvidia::nodes(state).iter().any(|known| known == node) => text(""),
        ["kmsg"] => file(File::Text(state.signs.logged())),
        ["kvm"] if state.machine.kvm => text(""),
        ["iommu"] if state.machine.migration.iommufd => text(""),
        ["vfio"] => {
            let fixed = if state.machine.vfio_nodes { &["devices", "vfio"][..] } else { &["vfio"] };
            names(
                state
                    .vfio_groups()
                    .iter()
                    .map(u32::to_string)
                    .chain(fixed.iter().map(|name| (*name).to_owned())),
            )
        }
        ["vfio", "vfio"] => text(""),
        ["vfio", "devices"] if state.machine.vfio_nodes => names(nodes()),
        ["vfio", "devices", name] => nodes().find(|node| node == name).and_then(|_| text("")),
        ["vfio", group] => state.vfio_groups().contains(&group.parse().ok()?).then(|| text(""))?,
        _ => None,
    }
}
