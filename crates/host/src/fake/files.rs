//! How the fake kernel's state looks as files: which paths there are, what they read as, and what writing them means.
//!
//! Devices lie under `sys/devices` and everything else links to them, as in the real tree, so that code which follows
//! links or takes names from their targets is held to the truth. Directories are listed only when asked for: a path is
//! looked up without spelling out its neighbours.

mod users;

use std::fmt::Write as _;

use tranche_core::name::{GpuAddress, PciAddress};
use uuid::Uuid;

use super::gim;
use super::migration;
use super::nvidia::files::{self as nvidia, VgpuFile};
use super::state::{Function, Role, State};
use super::xe::{self, XeFile};

/// What is at a path.
#[derive(Debug)]
pub(super) enum Node {
    Dir(Listing),
    Link(String),
    File(File),
}

/// A file.
#[derive(Debug)]
pub(super) enum File {
    /// Reads as this, and cannot be written.
    Text(String),
    /// Reads as these bytes, and cannot be written.
    Bytes(Vec<u8>),
    /// `sriov_numvfs`, which takes the device's lock.
    Numvfs(PciAddress),
    /// `sriov_drivers_autoprobe`.
    Autoprobe(PciAddress),
    /// `driver_override`.
    Override(PciAddress),
    /// A driver's `bind`.
    Bind(String),
    /// A driver's `unbind`.
    Unbind(String),
    /// `drivers_probe`.
    DriversProbe,
    /// A type's `create`.
    CreateMdev(GpuAddress, String),
    /// A mediated device's `remove`.
    RemoveMdev(Uuid),
    /// An attribute of a function that is not read until it is let go.
    Hanging(PciAddress, String, Box<Self>),
    /// A file of Intel's driver xe.
    Xe(XeFile),
    /// A file of NVIDIA's driver or tool.
    Vgpu(VgpuFile),
}

impl File {
    /// The permission bits.
    pub(super) fn mode(&self) -> u16 {
        match self {
            Self::Text(_) | Self::Bytes(_) => 0o444,
            Self::Numvfs(_) | Self::Autoprobe(_) | Self::Override(_) => 0o644,
            Self::Bind(_)
            | Self::Unbind(_)
            | Self::DriversProbe
            | Self::CreateMdev(..)
            | Self::RemoveMdev(_) => 0o200,
            Self::Hanging(_, _, file) => file.mode(),
            Self::Xe(file) => file.mode(),
            Self::Vgpu(file) => file.mode(),
        }
    }
}

/// The names in a directory.
#[derive(Debug)]
pub(super) enum Listing {
    Fixed(&'static [&'static str]),
    Names(Vec<String>),
    /// `sys/devices`.
    Devices,
    /// The functions of one PCI domain.
    Domain(u32),
    PciDevices,
    Function(PciAddress),
    Drivers,
    Driver(String),
    Mdevs,
    Groups,
    Processes,
}

const FUNCTION_ATTRIBUTES: [&str; 37] = [
    "accelerator_partition_profile",
    "aer_dev_correctable",
    "aer_dev_fatal",
    "aer_dev_nonfatal",
    "boot_vga",
    "class",
    "config",
    "device",
    "driver",
    "driver_override",
    "drm",
    "iommu",
    "iommu_group",
    "mdev_supported_types",
    "memory_partition_mode",
    "modalias",
    "numa_node",
    "nvidia",
    "physfn",
    "power_state",
    "reset_method",
    "resource",
    "sound",
    "spatial_partition_mode",
    "sriov_admin",
    "sriov_drivers_autoprobe",
    "sriov_numvfs",
    "sriov_offset",
    "sriov_stride",
    "sriov_totalvfs",
    "sriov_vf_device",
    "subsystem",
    "subsystem_device",
    "subsystem_vendor",
    "vendor",
    "vfio-dev",
    "virtfn",
];

/// Looks a path up. No part of it may be a link; the one who walks follows those.
pub(super) fn find(state: &State, path: &[&str]) -> Option<Node> {
    modelled(state, path).or_else(|| added(state, path))
}

/// The machine's further files and the directories that they are in. They are found by name; a directory that is there
/// without them does not list them.
fn added(state: &State, path: &[&str]) -> Option<Node> {
    let at = path.join("/");
    if let Some(value) = state.machine.files.get(&at) {
        return text(value);
    }
    let below = state.machine.files.keys().filter_map(|file| file.strip_prefix(&at)?.strip_prefix('/'));
    let mut children = below.filter_map(|rest| rest.split('/').next().map(str::to_owned)).peekable();
    children.peek()?;
    names(children)
}

fn modelled(state: &State, path: &[&str]) -> Option<Node> {
    match path {
        [] => {
            let usr = nvidia::usr(state, &[]).map(|_| "usr");
            names(["dev", "proc", "sys"].into_iter().chain(usr).map(str::to_owned))
        }
        ["usr", rest @ ..] => nvidia::usr(state, rest),
        ["sys"] => Some(Node::Dir(Listing::Fixed(&["bus", "class", "devices", "kernel"]))),
        ["sys", "bus", rest @ ..] => bus(state, rest),
        ["sys", "class", rest @ ..] => class(state, rest),
        ["sys", "devices", rest @ ..] => devices(state, rest),
        ["sys", "kernel", "debug", rest @ ..] => migration::debugfs(state, rest),
        ["sys", "kernel", rest @ ..] => users::groups(state, rest),
        ["proc", rest @ ..] => users::proc(state, rest),
        ["dev", rest @ ..] => users::dev(state, rest),
        _ => None,
    }
}

/// The names in a directory, sorted.
pub(super) fn list(state: &State, listing: Listing) -> Vec<String> {
    let mut names: Vec<String> = match listing {
        Listing::Fixed(names) => names.iter().map(|name| (*name).to_owned()).collect(),
        Listing::Names(names) => names,
        Listing::Devices => {
            let domains = state.functions.keys().map(|address| domain_root(address.domain));
            ["system", "virtual"].map(str::to_owned).into_iter().chain(domains).collect()
        }
        Listing::Domain(domain) => {
            let functions = state.functions.keys().filter(|address| address.domain == domain);
            functions.map(PciAddress::to_string).collect()
        }
        Listing::Groups => {
            let functions = state.functions.values().filter_map(|function| function.group);
            functions
                .chain(state.mdevs.values().map(|mdev| mdev.group))
                .map(|group| group.to_string())
                .collect()
        }
        Listing::PciDevices => state.functions.keys().map(PciAddress::to_string).collect(),
        Listing::Mdevs => state.mdevs.keys().map(Uuid::to_string).collect(),
        Listing::Drivers => state.drivers().map(str::to_owned).collect(),
        Listing::Driver(driver) => {
            let bound = |function: &Function| function.driver.as_deref() == Some(driver.as_str());
            let functions = state.functions.iter().filter(|(_, function)| bound(function));
            let attributes = ["bind", "unbind"].map(str::to_owned);
            functions.map(|(address, _)| address.to_string()).chain(attributes).collect()
        }
        Listing::Function(address) => {
            let Some(function) = state.functions.get(&address) else { return Vec::new() };
            let present = |name: &&&str| function_entry(state, address, function, name).is_some();
            let mut names: Vec<String> =
                FUNCTION_ATTRIBUTES.iter().filter(present).map(|name| (*name).to_owned()).collect();
            if let Role::Physical { vfs, .. } = &function.role {
                names.extend(vfs.keys().map(|index| format!("virtfn{index}")));
            }
            names.extend(made_of(state, &GpuAddress::Pci(address), None));
            names
        }
        Listing::Processes => {
            let pids = users::holders(state).map(|holder| holder.pid.to_string());
            let driver = users::driver_file(state, &[]).map(|_| "driver");
            pids.chain(["cmdline", "cpuinfo", "meminfo", "sys"].into_iter().chain(driver).map(str::to_owned))
                .collect()
        }
    };
    names.sort_unstable();
    names.dedup();
    names
}

pub(super) fn dir(names: &'static [&'static str]) -> Option<Node> {
    Some(Node::Dir(Listing::Fixed(names)))
}

pub(super) fn names(names: impl IntoIterator<Item = String>) -> Option<Node> {
    Some(Node::Dir(Listing::Names(names.into_iter().collect())))
}

pub(super) fn link(target: String) -> Option<Node> {
    Some(Node::Link(target))
}

pub(super) fn text(value: impl std::fmt::Display) -> Option<Node> {
    Some(Node::File(File::Text(format!("{value}\n"))))
}

fn file(file: File) -> Option<Node> {
    Some(Node::File(file))
}

fn bus(state: &State, path: &[&str]) -> Option<Node> {
    match path {
        [] => dir(&["mdev", "pci"]),
        ["mdev"] => dir(&["devices"]),
        ["mdev", "devices"] => Some(Node::Dir(Listing::Mdevs)),
        ["mdev", "devices", uuid] => {
            let mdev = state.mdevs.get(&uuid.parse().ok()?)?;
            link(format!("../../../devices/{}/{uuid}", parent_path(&mdev.parent)))
        }
        ["pci"] => dir(&["devices", "drivers", "drivers_probe"]),
        ["pci", "devices"] => Some(Node::Dir(Listing::PciDevices)),
        ["pci", "devices", name] => {
            let address = present(state, name)?;
            link(format!("../../../devices/{}", function_path(address)))
        }
        ["pci", "drivers_probe"] => file(File::DriversProbe),
        ["pci", "drivers"] => Some(Node::Dir(Listing::Drivers)),
        ["pci", "drivers", driver, rest @ ..] => {
            let driver = state.drivers().find(|known| known == driver)?.to_owned();
            match rest {
                [] => Some(Node::Dir(Listing::Driver(driver))),
                ["bind"] => file(File::Bind(driver)),
                ["unbind"] => file(File::Unbind(driver)),
                [name] => {
                    let address = present(state, name)?;
                    let bound = state.functions[&address].driver.as_deref() == Some(driver.as_str());
                    bound.then(|| Node::Link(format!("../../../../devices/{}", function_path(address))))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn class(state: &State, path: &[&str]) -> Option<Node> {
    match path {
        [] => dir(&["iommu", "mdev_bus"]),
        ["iommu"] => names(state.machine.iommu.then(|| migration::unit(state).to_owned())),
        ["iommu", name] if state.machine.iommu && *name == migration::unit(state) => {
            link(format!("../../devices/virtual/iommu/{name}"))
        }
        ["mdev_bus"] => names(state.mdev_parents().map(|parent| parent.to_string())),
        ["mdev_bus", name] => {
            let parent = name.parse().ok()?;
            state.mdev_types(&parent)?;
            link(format!("../../devices/{}", parent_path(&parent)))
        }
        _ => None,
    }
}

fn devices(state: &State, path: &[&str]) -> Option<Node> {
    match path {
        [] => Some(Node::Dir(Listing::Devices)),
        ["system"] => dir(&["cpu"]),
        ["system", "cpu"] => dir(&["online"]),
        ["system", "cpu", "online"] => text(format_args!("0-{}", state.machine.cpus.saturating_sub(1))),
        ["virtual"] => {
            let parents = state.machine.mdev_parents.iter().map(|parent| parent.name.to_string());
            names(parents.chain(state.machine.iommu.then(|| "iommu".to_owned())))
        }
        ["virtual", "iommu", rest @ ..] if state.machine.iommu => migration::units(state, rest),
        ["virtual", name, rest @ ..] => {
            let parent = GpuAddress::Virtual(name.parse().ok()?);
            state.mdev_types(&parent)?;
            match rest {
                [] => names([(*name).to_owned()]),
                [again] if again == name => names(
                    made_of(state, &parent, None).into_iter().chain(["mdev_supported_types".to_owned()]),
                ),
                [again, rest @ ..] if again == name => mdev_parent(state, &parent, rest),
                _ => None,
            }
        }
        [root] => {
            let domain = domain_of(root)?;
            let has_functions = state.functions.keys().any(|address| address.domain == domain);
            has_functions.then_some(Node::Dir(Listing::Domain(domain)))
        }
        [root, name, rest @ ..] => {
            let address = present(state, name).filter(|address| domain_of(root) == Some(address.domain))?;
            let function = &state.functions[&address];
            match rest {
                [] => Some(Node::Dir(Listing::Function(address))),
                ["vfio-dev"] => names([vfio_name(function)?]),
                ["vfio-dev", node, rest @ ..] if vfio_name(function)? == *node => {
                    let has_node = vfio_node(state, function).is_some();
                    match rest {
                        [] if has_node => dir(&["dev"]),
                        [] => dir(&[]),
                        ["dev"] if has_node => text(format_args!("511:{}", function.vfio?)),
                        _ => None,
                    }
                }
                ["sriov_admin", rest @ ..] => xe::admin(state, address, rest),
                [class @ ("drm" | "sound"), name] => {
                    let known = users::class_devices(function, class);
                    known.iter().any(|known| known == name).then(|| dir(&[]))?
                }
                ["nvidia", rest @ ..] => nvidia::function(state, address, rest),
                [attribute] if FUNCTION_ATTRIBUTES.contains(attribute) || attribute.starts_with("virtfn") => {
                    let node = function_entry(state, address, function, attribute)?;
                    Some(hanging(state, address, attribute, node))
                }
                rest => mdev_parent(state, &GpuAddress::Pci(address), rest),
            }
        }
    }
}

/// The same, unless reading it hangs.
fn hanging(state: &State, address: PciAddress, attribute: &str, node: Node) -> Node {
    match node {
        Node::File(file) if state.hanging_reads.contains(&(address, attribute.to_owned())) => {
            Node::File(File::Hanging(address, attribute.to_owned(), Box::new(file)))
        }
        node => node,
    }
}

fn function_entry(state: &State, address: PciAddress, function: &Function, name: &str) -> Option<Node> {
    if let Role::Physical { .. } = function.role
        && name != "sriov_admin"
        && (name.starts_with("sriov_") || name.starts_with("virtfn") || name.starts_with("aer_"))
    {
        return physical_entry(state, address, function, name);
    }
    let ids = function.ids;
    match name {
        "vendor" => text(format_args!("{:#06x}", ids.vendor)),
        "device" => text(format_args!("{:#06x}", ids.device)),
        "subsystem_vendor" => text(format_args!("{:#06x}", ids.subvendor)),
        "subsystem_device" => text(format_args!("{:#06x}", ids.subdevice)),
        "class" => text(format_args!("{:#08x}", function.class)),
        "numa_node" => text(function.numa_node.map_or(-1, i32::from)),
        "boot_vga" if function.class >> 8 == 0x0300 => text(u8::from(function.boot_vga)),
        "power_state" => text(state.signs.power.get(&address).map_or("D0", String::as_str)),
        "reset_method" => text("flr bus"),
        "resource" => file(File::Text(resource(&function.bars_mib))),
        "config" => {
            let is_virtual = matches!(function.role, Role::Virtual { .. });
            let pf = match function.role {
                Role::Virtual { pf } => pf,
                Role::Plain | Role::Physical { .. } => address,
            };
            let lost = [address, pf].iter().any(|address| state.faults.off_the_bus.contains(address));
            let alive = || state.signs.config(address, ids, function.class, is_virtual);
            file(File::Bytes(if lost { vec![0xff; 64] } else { alive() }))
        }
        "drm" | "sound" => {
            let devices = users::class_devices(function, name);
            (!devices.is_empty()).then(|| names(devices))?
        }
        "modalias" => text(modalias(function)),
        "sriov_admin" => xe::admin(state, address, &[]),
        name if gim::ATTRIBUTES.contains(&name) => text(state.gim_attribute(address, name)?),
        "driver_override" => file(File::Override(address)),
        "driver" => link(format!("../../../bus/pci/drivers/{}", function.driver.as_ref()?)),
        "iommu" => migration::unit_of(state, function, address),
        "iommu_group" => link(format!("../../../kernel/iommu_groups/{}", function.group?)),
        "subsystem" => link("../../../bus/pci".to_owned()),
        "physfn" => match function.role {
            Role::Virtual { pf } => link(format!("../{pf}")),
            Role::Plain | Role::Physical { .. } => None,
        },
        "vfio-dev" => names([vfio_name(function)?]),
        "nvidia" => nvidia::function(state, address, &[]),
        "mdev_supported_types" => mdev_parent(state, &GpuAddress::Pci(address), &[name]),
        _ => None,
    }
}

fn modalias(function: &Function) -> String {
    let (ids, [_, class, subclass, interface]) = (function.ids, function.class.to_be_bytes());
    format!(
        "pci:v{:08X}d{:08X}sv{:08X}sd{:08X}bc{class:02X}sc{subclass:02X}i{interface:02X}",
        ids.vendor, ids.device, ids.subvendor, ids.subdevice
    )
}

fn physical_entry(state: &State, address: PciAddress, function: &Function, name: &str) -> Option<Node> {
    let Role::Physical { model, vfs, .. } = &function.role else { return None };
    let fatal = state.signs.fatal_errors.get(&address).copied().unwrap_or(0);
    match name {
        "sriov_totalvfs" => text(model.total_vfs),
        "sriov_numvfs" => file(File::Numvfs(address)),
        "sriov_drivers_autoprobe" => file(File::Autoprobe(address)),
        "sriov_offset" => text(model.offset),
        "sriov_stride" => text(model.stride),
        "sriov_vf_device" => text(format_args!("{:x}", model.vf_device)),
        "aer_dev_correctable" => file(File::Text("RxErr 0\nBadTLP 0\nTOTAL_ERR_COR 0\n".to_owned())),
        "aer_dev_nonfatal" => file(File::Text("Undefined 0\nDLP 0\nTOTAL_ERR_NONFATAL 0\n".to_owned())),
        "aer_dev_fatal" => text(format_args!("Undefined 0\nDLP {fatal}\nTOTAL_ERR_FATAL {fatal}")),
        _ => {
            let index: u16 = name.strip_prefix("virtfn")?.parse().ok()?;
            link(format!("../{}", vfs.get(&index)?))
        }
    }
}

/// The mediated devices of a parent, of one type or of any.
fn made_of(state: &State, parent: &GpuAddress, directory: Option<&str>) -> Vec<String> {
    let own = state.mdevs.iter().filter(|(_, mdev)| mdev.parent == *parent);
    own.filter(|(_, mdev)| directory.is_none_or(|directory| directory == mdev.kind))
        .map(|(uuid, _)| uuid.to_string())
        .collect()
}

/// What is below a parent of mediated devices because it is one.
fn mdev_parent(state: &State, parent: &GpuAddress, path: &[&str]) -> Option<Node> {
    let types = state.mdev_types(parent)?;
    match path {
        ["mdev_supported_types"] => names(types.into_iter().map(|kind| kind.directory)),
        ["mdev_supported_types", name, rest @ ..] => {
            let kind = types.into_iter().find(|kind| kind.directory == *name)?;
            match rest {
                [] => dir(&["available_instances", "create", "description", "device_api", "devices", "name"]),
                ["available_instances"] => text(kind.available),
                ["create"] => file(File::CreateMdev(parent.clone(), kind.directory)),
                ["description"] => text(kind.description),
                ["device_api"] => text("vfio-pci"),
                ["name"] => text(kind.name),
                ["devices"] => names(made_of(state, parent, Some(name))),
                ["devices", uuid] => made_of(state, parent, Some(name))
                    .contains(&(*uuid).to_owned())
                    .then(|| Node::Link(format!("../../../{uuid}"))),
                _ => None,
            }
        }
        [uuid, rest @ ..] => {
            let uuid: Uuid = uuid.parse().ok()?;
            let mdev = state.mdevs.get(&uuid).filter(|mdev| mdev.parent == *parent)?;
            match rest {
                [] => dir(&["iommu_group", "mdev_type", "remove"]),
                ["iommu_group"] => {
                    let up = "../".repeat(parent_path(parent).split('/').count() + 2);
                    link(format!("{up}kernel/iommu_groups/{}", mdev.group))
                }
                ["mdev_type"] => link(format!("../mdev_supported_types/{}", mdev.kind)),
                ["remove"] => file(File::RemoveMdev(uuid)),
                _ => None,
            }
        }
        [] => None,
    }
}

fn present(state: &State, name: &str) -> Option<PciAddress> {
    name.parse().ok().filter(|address| state.functions.contains_key(address))
}

/// Where a function lies under `sys/devices`.
pub(super) fn function_path(address: PciAddress) -> String {
    format!("{}/{address}", domain_root(address.domain))
}

fn domain_root(domain: u32) -> String {
    format!("pci{domain:04x}:00")
}

fn domain_of(root: &str) -> Option<u32> {
    u32::from_str_radix(root.strip_prefix("pci")?.strip_suffix(":00")?, 16).ok()
}

/// Where a parent of mediated devices lies under `sys/devices`.
fn parent_path(parent: &GpuAddress) -> String {
    match parent {
        GpuAddress::Pci(address) => function_path(*address),
        GpuAddress::Virtual(name) => format!("virtual/{name}/{name}"),
    }
}

/// The name of a function among VFIO's devices, which it has with or without a node.
fn vfio_name(function: &Function) -> Option<String> {
    Some(format!("vfio{}", function.vfio?))
}

fn vfio_node(state: &State, function: &Function) -> Option<String> {
    vfio_name(function).filter(|_| state.machine.vfio_nodes)
}

/// `resource`: the 64-bit windows one after the other from 16 GiB on, each taking two lines, and zeroes.
fn resource(bars_mib: &[u64]) -> String {
    let mut lines = String::new();
    let mut start = 0x4_0000_0000_u64;
    for mib in bars_mib.iter().take(3) {
        let end = start + (mib << 20) - 1;
        let _ = writeln!(lines, "{start:#018x} {end:#018x} {:#018x}", 0x14_220c);
        let _ = writeln!(lines, "{0:#018x} {0:#018x} {0:#018x}", 0);
        start = (end + 1).next_multiple_of(1 << 34);
    }
    for _ in lines.lines().count()..13 {
        let _ = writeln!(lines, "{0:#018x} {0:#018x} {0:#018x}", 0);
    }
    lines
}
