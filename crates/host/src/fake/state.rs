//! The fake kernel's state, and what each store function makes of it.
//!
//! Nothing here waits: what hangs in the real kernel is said by [`State::vf_in_use`] and its like, and waited for by
//! the kernel around this state. Facts: kernel drivers/pci/iov.c, drivers/base/{bus,dd}.c, drivers/vfio/mdev.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use tranche_core::inventory::{DeviceSource, Holder};
use tranche_core::name::{GpuAddress, PciAddress, PciIds};
use tranche_core::step::VFIO_DRIVER;
use uuid::Uuid;

use super::machine::{FunctionModel, Machine, MdevTypeModel, SriovModel};
use super::nvidia::{VgpuFaults, Vgpus};
use super::signs::Signs;
use super::xe::{Provisioning, XeFaults};

/// The first IOMMU group that is not one of the machine's own.
const FIRST_FREE_GROUP: u32 = 1_000;

/// What goes wrong on purpose. Hardware faults outlive a reboot.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The most virtual functions that a physical one really makes.
    pub(super) vfs_max: BTreeMap<PciAddress, u16>,
    /// The answer to every further request for virtual functions.
    pub(super) refusals: BTreeMap<PciAddress, Errno>,
    /// Drivers that grab a function whenever it is probed.
    pub(super) grabs: BTreeMap<PciAddress, String>,
    /// Functions and parents to which whatever is made on them, or taken from them, makes no difference.
    pub(super) deaf: BTreeSet<GpuAddress>,
    /// The answer to every further request for a mediated device.
    pub(super) mdev_refusals: BTreeMap<GpuAddress, Errno>,
    /// Drivers that answer the probe of a function with an error.
    pub(super) probes: BTreeMap<(PciAddress, String), Errno>,
    /// Functions that no longer answer.
    pub(super) off_the_bus: BTreeSet<PciAddress>,
    /// What goes wrong with Intel's driver xe.
    pub(super) xe: XeFaults,
    /// What goes wrong with NVIDIA's driver.
    pub(super) vgpu: VgpuFaults,
    /// Processes that are not listed.
    pub(super) hidden: BTreeSet<u32>,
    /// What goes wrong with loading modules.
    pub(super) modules: super::modules::ModuleFaults,
}

/// A PCI function.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) ids: PciIds,
    pub(super) class: u32,
    pub(super) numa_node: Option<u16>,
    pub(super) boot_vga: bool,
    pub(super) bars_mib: Vec<u64>,
    nodes: Vec<String>,
    pub(super) group: Option<u32>,
    pub(super) driver: Option<String>,
    pub(super) driver_override: Option<String>,
    /// The number of its VFIO node while it is bound to a VFIO driver.
    pub(super) vfio: Option<u32>,
    pub(super) role: Role,
}

impl Function {
    /// What its driver made of it under `/dev`.
    pub(super) fn nodes(&self) -> &[String] {
        if self.driver.is_some() && self.vfio.is_none() { &self.nodes } else { &[] }
    }
}

/// What a function is.
#[derive(Debug)]
pub(super) enum Role {
    Plain,
    Physical { model: SriovModel, autoprobe: bool, enabled: u16, vfs: BTreeMap<u16, PciAddress> },
    Virtual { pf: PciAddress },
}

/// A mediated device.
#[derive(Debug)]
pub(super) struct Mdev {
    pub(super) parent: GpuAddress,
    /// The name of its type's directory.
    pub(super) kind: String,
    pub(super) group: u32,
}

/// A type of mediated device, as its directory shows it.
#[derive(Debug)]
pub(super) struct MdevType {
    pub(super) directory: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) available: u64,
}

/// Everything that a boot brings forth and a reboot loses.
#[derive(Debug)]
pub(super) struct State {
    pub(super) machine: Machine,
    pub(super) boots: u64,
    pub(super) functions: BTreeMap<PciAddress, Function>,
    pub(super) mdevs: BTreeMap<Uuid, Mdev>,
    pub(super) opens: Vec<(DeviceSource, Holder)>,
    pub(super) xe: Provisioning,
    pub(super) vgpus: Vgpus,
    pub(super) faults: Faults,
    pub(super) signs: Signs,
    /// Attributes whose reading does not come back.
    pub(super) hanging_reads: BTreeSet<(PciAddress, String)>,
    next_group: u32,
    next_vfio: u32,
}

impl State {
    pub(super) fn boot(machine: Machine, boots: u64, faults: Faults) -> Self {
        let mut state = Self {
            functions: BTreeMap::new(),
            mdevs: BTreeMap::new(),
            opens: Vec::new(),
            xe: Provisioning::default(),
            vgpus: Vgpus::default(),
            faults,
            signs: Signs::default(),
            hanging_reads: BTreeSet::new(),
            next_group: FIRST_FREE_GROUP,
            next_vfio: 0,
            boots,
            machine,
        };
        for (index, model) in state.machine.functions.clone().into_iter().enumerate() {
            let own_group = 1 + u32::try_from(index).unwrap_or(0) + 100;
            let address = model.address;
            let group = state.machine.iommu.then(|| model.group.unwrap_or(own_group));
            state.functions.insert(address, physical(model, group));
        }
        let addresses: Vec<PciAddress> = state.functions.keys().copied().collect();
        for address in addresses {
            state.probe(address);
        }
        state.load_gim();
        state
    }

    // SR-IOV.

    /// The decisions of `sriov_numvfs_store` in their order, up to the point where the driver would be called.
    pub(super) fn admit_count(&self, pf: PciAddress, text: &str) -> Result<Option<u16>, Errno> {
        let function = self.functions.get(&pf).ok_or(Errno::NODEV)?;
        let Role::Physical { model, enabled, .. } = &function.role else { return Err(Errno::NOENT) };
        let count = unsigned_16(text).ok_or(Errno::INVAL)?;
        if count > model.total_vfs {
            return Err(Errno::RANGE);
        }
        if count == *enabled {
            return Ok(None);
        }
        let driver = function.driver.as_deref().ok_or(Errno::NOENT)?;
        if !self.machine.drivers.iter().any(|known| known.name == driver && known.sriov) {
            return Err(Errno::NOENT);
        }
        if count != 0 && *enabled != 0 {
            return Err(Errno::BUSY);
        }
        match self.faults.refusals.get(&pf) {
            Some(errno) if count != 0 => Err(*errno),
            _ => Ok(Some(count)),
        }
    }

    /// What the driver does: all virtual functions off, or so many on. Fewer than asked for is no error.
    pub(super) fn switch(&mut self, pf: PciAddress, count: u16) {
        self.vgpus.mixed.remove(&pf);
        for vf in self.virtual_functions(pf) {
            self.forget_vgpus_on(vf);
            self.functions.remove(&vf);
        }
        let count = count.min(self.faults.vfs_max.get(&pf).copied().unwrap_or(u16::MAX));
        let Some(Function { ids, class, numa_node, group, role: Role::Physical { model, .. }, .. }) =
            self.functions.get(&pf)
        else {
            return;
        };
        let (model, ids, class, numa_node, pf_group) = (model.clone(), *ids, *class, *numa_node, *group);
        let mut vfs = BTreeMap::new();
        for index in 0..count {
            let address = vf_address(pf, &model, index);
            let group = if model.shares_group { pf_group } else { pf_group.map(|_| self.take_group()) };
            // A virtual function's subsystem is its vendor's number 0 on NVIDIA, and that of the physical one elsewhere.
            let ids = PciIds { device: model.vf_device, subdevice: 0, ..ids };
            let bars_mib = model.vf_bars_mib.clone();
            let role = Role::Virtual { pf };
            self.functions.insert(address, function(ids, class, numa_node, bars_mib, group, role));
            vfs.insert(index, address);
        }
        let made: Vec<PciAddress> = vfs.values().copied().collect();
        if let Some(Function { role: Role::Physical { enabled, vfs: present, .. }, .. }) =
            self.functions.get_mut(&pf)
        {
            (*enabled, *present) = (count, vfs);
        }
        for vf in made {
            self.probe(vf);
        }
        self.provision_xe(pf, count);
    }

    pub(super) fn set_autoprobe(&mut self, pf: PciAddress, text: &str) -> Result<(), Errno> {
        let value = boolean(text).ok_or(Errno::INVAL)?;
        match self.functions.get_mut(&pf) {
            Some(Function { role: Role::Physical { autoprobe, .. }, .. }) => *autoprobe = value,
            _ => return Err(Errno::NODEV),
        }
        Ok(())
    }

    pub(super) fn virtual_functions(&self, pf: PciAddress) -> Vec<PciAddress> {
        let of_pf = |function: &Function| matches!(function.role, Role::Virtual { pf: of } if of == pf);
        self.functions.iter().filter(|(_, function)| of_pf(function)).map(|(address, _)| *address).collect()
    }

    /// Whether disabling would hang.
    pub(super) fn vf_in_use(&self, pf: PciAddress) -> bool {
        self.virtual_functions(pf).into_iter().any(|address| {
            let on_it = self.mdevs.iter().filter(|(_, mdev)| mdev.parent == GpuAddress::Pci(address));
            let mut sources = on_it.map(|(uuid, _)| DeviceSource::Mdev { uuid: *uuid });
            self.is_open(&DeviceSource::Pci { address }) || sources.any(|source| self.is_open(&source))
        })
    }

    // Drivers.

    pub(super) fn set_override(&mut self, address: PciAddress, text: &str) -> Result<(), Errno> {
        if text.len() >= 4095 {
            return Err(Errno::INVAL);
        }
        let name = text.split('\n').next().unwrap_or_default();
        let function = self.functions.get_mut(&address).ok_or(Errno::NODEV)?;
        function.driver_override = (!name.is_empty()).then(|| name.to_owned());
        Ok(())
    }

    /// `drivers_probe`: succeeds whether or not a driver takes the function.
    pub(super) fn drivers_probe(&mut self, text: &str) -> Result<(), Errno> {
        let address = self.named(text).ok_or(Errno::NODEV)?;
        self.probe(address);
        Ok(())
    }

    pub(super) fn bind(&mut self, driver: &str, text: &str) -> Result<(), Errno> {
        let address = self.named(text).ok_or(Errno::NODEV)?;
        let function = &self.functions[&address];
        if !self.matches(driver, function) {
            return Err(Errno::NODEV);
        }
        if function.driver.is_some() {
            return Err(Errno::BUSY);
        }
        self.attach(address, driver)
    }

    /// The function that `unbind` would release; it may be open, and releasing it then hangs.
    pub(super) fn admit_unbind(&self, driver: &str, text: &str) -> Result<PciAddress, Errno> {
        let bound = |address: &PciAddress| self.functions[address].driver.as_deref() == Some(driver);
        self.named(text).filter(bound).ok_or(Errno::NODEV)
    }

    /// Whether a process has a node of the function's driver open, which then does not let go of it.
    pub(super) fn is_used_on_host(&self, address: PciAddress) -> bool {
        let nodes = self.functions.get(&address).map(Function::nodes).unwrap_or_default();
        let vendors = self.vgpu_node(address).map(|node| node["/dev/".len()..].to_owned());
        let is_own =
            |open: &str| nodes.iter().chain(&vendors).any(|node| open.strip_prefix("/dev/") == Some(node));
        self.vgpus.nodes.iter().any(|(open, _)| is_own(open))
    }

    pub(super) fn unbind(&mut self, address: PciAddress) {
        self.forget_vgpus_on(address);
        if let Some(function) = self.functions.get_mut(&address) {
            (function.driver, function.vfio) = (None, None);
        }
    }

    pub(super) fn reload(&mut self, driver: &str) {
        let is_bound = |function: &Function| function.driver.as_deref() == Some(driver);
        let bound = self.functions.iter().filter(|(_, function)| is_bound(function));
        for address in bound.map(|(address, _)| *address).collect::<Vec<_>>() {
            let is_open = self.is_open(&DeviceSource::Pci { address }) || self.vf_in_use(address);
            assert!(!is_open, "rmmod: ERROR: Module {driver} is in use");
            self.switch(address, 0);
            self.unbind(address);
        }
        let is_parent =
            |parent: &GpuAddress| matches!(parent, GpuAddress::Virtual(name) if name.as_str() == driver);
        let in_use = |uuid: &Uuid| self.is_open(&DeviceSource::Mdev { uuid: *uuid });
        let gone: Vec<Uuid> =
            self.mdevs.iter().filter(|(_, mdev)| is_parent(&mdev.parent)).map(|(uuid, _)| *uuid).collect();
        assert!(!gone.iter().any(in_use), "rmmod: ERROR: Module {driver} is in use");
        self.mdevs.retain(|uuid, _| !gone.contains(uuid));
        for address in self.functions.keys().copied().collect::<Vec<_>>() {
            self.probe(address);
        }
    }

    /// All drivers, vfio-pci and its variants last: they match nothing by themselves.
    pub(super) fn drivers(&self) -> impl Iterator<Item = &str> {
        let variants = self.machine.vfio_variants.iter().map(String::as_str);
        let plain = self.has_vfio().then_some(VFIO_DRIVER);
        self.machine.drivers.iter().map(|driver| driver.name.as_str()).chain(variants).chain(plain)
    }

    fn is_vfio(&self, driver: &str) -> bool {
        driver == VFIO_DRIVER || self.machine.vfio_variants.iter().any(|variant| variant == driver)
    }

    pub(super) fn probe(&mut self, address: PciAddress) {
        let Some(function) = self.functions.get(&address) else { return };
        if function.driver.is_some() {
            return;
        }
        let grab = self.faults.grabs.get(&address).cloned();
        let driver =
            grab.or_else(|| self.drivers().find(|driver| self.matches(driver, function)).map(str::to_owned));
        if let Some(driver) = driver {
            // A driver that refuses leaves the function without one; the probe itself does not fail.
            let _ = self.attach(address, &driver);
        }
    }

    fn attach(&mut self, address: PciAddress, driver: &str) -> Result<(), Errno> {
        let function = &self.functions[&address];
        if let Role::Virtual { pf } = function.role
            && function.driver_override.is_none()
            && matches!(self.functions[&pf].role, Role::Physical { autoprobe: false, .. })
        {
            return Err(Errno::NODEV);
        }
        if let Some(errno) = self.faults.probes.get(&(address, driver.to_owned())) {
            return Err(*errno);
        }
        let by_vfio = self.is_vfio(driver);
        // NVIDIA's virtual functions stay with its driver, which in its turn takes none without an IOMMU.
        let is_vgpu = self.is_vgpu_function(address);
        if (by_vfio && is_vgpu) || ((by_vfio || is_vgpu) && function.group.is_none()) {
            return Err(Errno::INVAL);
        }
        let vfio = by_vfio.then(|| self.take_vfio());
        if let Some(function) = self.functions.get_mut(&address) {
            (function.driver, function.vfio) = (Some(driver.to_owned()), vfio);
        }
        Ok(())
    }

    fn matches(&self, driver: &str, function: &Function) -> bool {
        match &function.driver_override {
            Some(wanted) => wanted == driver,
            None => {
                let id = format!("{:04x}:{:04x}", function.ids.vendor, function.ids.device);
                self.machine.drivers.iter().any(|known| known.name == driver && known.ids.contains(&id))
            }
        }
    }

    fn named(&self, text: &str) -> Option<PciAddress> {
        let name = text.strip_suffix('\n').unwrap_or(text);
        let address: PciAddress = name.parse().ok()?;
        (self.functions.contains_key(&address) && address.to_string() == name).then_some(address)
    }

    // Mediated devices.

    /// The parents of mediated devices.
    pub(super) fn mdev_parents(&self) -> impl Iterator<Item = GpuAddress> {
        let virtuals =
            self.machine.mdev_parents.iter().map(|parent| GpuAddress::Virtual(parent.name.clone()));
        let functions = self.functions.keys().filter(|address| self.is_vgpu_parent(**address));
        virtuals.chain(functions.map(|address| GpuAddress::Pci(*address)))
    }

    /// What a parent makes; none if it is no parent.
    pub(super) fn mdev_types(&self, parent: &GpuAddress) -> Option<Vec<MdevType>> {
        let name = match parent {
            GpuAddress::Pci(address) => return self.vgpu_mdev_types(*address),
            GpuAddress::Virtual(name) => name,
        };
        let model = self.machine.mdev_parents.iter().find(|parent| parent.name == *name)?;
        let used: u64 = self
            .mdevs
            .values()
            .filter(|mdev| mdev.parent == *parent)
            .filter_map(|mdev| model.types.iter().find(|kind| kind.name == mdev.kind))
            .map(|kind| kind.mib)
            .sum();
        let left = |mib: u64| model.pool_mib.saturating_sub(used) / mib.max(1);
        let seen = |kind: &MdevTypeModel| MdevType {
            directory: kind.name.clone(),
            name: kind.name.clone(),
            description: format!("virtual display, {} MB video memory", kind.mib),
            available: left(kind.mib),
        };
        Some(model.types.iter().map(seen).collect())
    }

    pub(super) fn create_mdev(&mut self, parent: &GpuAddress, kind: &str, text: &str) -> Result<(), Errno> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let uuid = Some(text).filter(|text| text.len() == 36).and_then(|text| Uuid::try_parse(text).ok());
        let uuid = uuid.ok_or(Errno::INVAL)?;
        if self.mdevs.contains_key(&uuid) {
            return Err(Errno::EXIST);
        }
        if let GpuAddress::Pci(vf) = parent {
            self.race_for_mdevs(*vf);
        }
        if let Some(errno) = self.faults.mdev_refusals.get(parent) {
            return Err(*errno);
        }
        if self.faults.deaf.contains(parent) {
            return Ok(());
        }
        let types = self.mdev_types(parent).ok_or(Errno::NODEV)?;
        if types.iter().find(|known| known.directory == kind).ok_or(Errno::NODEV)?.available == 0 {
            // The vendors' drivers answer, each as it likes.
            return Err(if parent.pci().is_some() { Errno::INVAL } else { Errno::NOSPC });
        }
        let group = self.take_group();
        self.mdevs.insert(uuid, Mdev { parent: parent.clone(), kind: kind.to_owned(), group });
        Ok(())
    }

    // VFIO.

    pub(super) fn is_open(&self, source: &DeviceSource) -> bool {
        self.opens.iter().any(|(open, _)| open == source)
    }

    pub(super) fn open(&mut self, source: &DeviceSource, by: &Holder) -> Result<(), Errno> {
        let group = match source {
            DeviceSource::Mdev { uuid } => self.mdevs.get(uuid).ok_or(Errno::NODEV)?.group,
            DeviceSource::Pci { address } => {
                let function = self.functions.get(address).filter(|function| function.vfio.is_some());
                function.and_then(|function| function.group).ok_or(Errno::NODEV)?
            }
        };
        let members = self.functions.values().filter(|function| function.group == Some(group));
        if members
            .into_iter()
            .any(|member| member.driver.is_some() && member.vfio.is_none() && !is_bridge(member))
        {
            return Err(Errno::INVAL);
        }
        let in_group = |open: &DeviceSource| self.group_of(open) == Some(group);
        if self.opens.iter().any(|(open, holder)| open == source || (in_group(open) && holder.pid != by.pid))
        {
            return Err(Errno::BUSY);
        }
        self.opens.push((source.clone(), by.clone()));
        Ok(())
    }

    pub(super) fn group_of(&self, source: &DeviceSource) -> Option<u32> {
        match source {
            DeviceSource::Pci { address } => self.functions.get(address)?.group,
            DeviceSource::Mdev { uuid } => Some(self.mdevs.get(uuid)?.group),
        }
    }

    /// The IOMMU groups that have a node under `/dev/vfio`.
    pub(super) fn vfio_groups(&self) -> BTreeSet<u32> {
        let functions = self.functions.values().filter(|function| function.vfio.is_some());
        functions
            .filter_map(|function| function.group)
            .chain(self.mdevs.values().map(|mdev| mdev.group))
            .collect()
    }

    /// A number for a VFIO node.
    pub(super) fn take_vfio(&mut self) -> u32 {
        self.next_vfio += 1;
        self.next_vfio - 1
    }

    fn take_group(&mut self) -> u32 {
        self.next_group += 1;
        self.next_group
    }
}

fn is_bridge(function: &Function) -> bool {
    function.class >> 8 == 0x0604
}

fn physical(model: FunctionModel, group: Option<u32>) -> Function {
    let role = model.sriov.map_or(Role::Plain, |model| Role::Physical {
        model,
        autoprobe: true,
        enabled: 0,
        vfs: BTreeMap::new(),
    });
    let (boot_vga, nodes) = (model.boot_vga, model.nodes);
    Function {
        boot_vga,
        nodes,
        ..function(model.ids, model.class, model.numa_node, model.bars_mib, group, role)
    }
}

fn function(
    ids: PciIds,
    class: u32,
    numa_node: Option<u16>,
    bars_mib: Vec<u64>,
    group: Option<u32>,
    role: Role,
) -> Function {
    Function {
        ids,
        class,
        numa_node,
        bars_mib,
        nodes: Vec::new(),
        group,
        role,
        boot_vga: false,
        driver: None,
        driver_override: None,
        vfio: None,
    }
}

/// Where the specification puts a virtual function: its routing id is counted on from the physical one's.
fn vf_address(pf: PciAddress, model: &SriovModel, index: u16) -> PciAddress {
    let own = (u32::from(pf.bus) << 8) | (u32::from(pf.device) << 3) | u32::from(pf.function);
    let id = own + u32::from(model.offset) + u32::from(model.stride) * u32::from(index);
    let [_, bus, devfn] = [id >> 16, id >> 8 & 0xff, id & 0xff].map(|byte| u8::try_from(byte).unwrap_or(0));
    PciAddress { domain: pf.domain, bus, device: devfn >> 3, function: devfn & 7 }
}

/// `kstrtou16` with base 0: decimal, `0x` hexadecimal or `0` octal, one newline at the end.
fn unsigned_16(text: &str) -> Option<u16> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) =
        match (text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")), text.strip_prefix('0')) {
            (Some(digits), _) => (digits, 16),
            (None, Some(digits)) if !digits.is_empty() => (digits, 8),
            _ => (text, 10),
        };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| u16::from_str_radix(digits, radix).ok()).flatten()
}

/// `kstrtobool`: only the first characters count.
fn boolean(text: &str) -> Option<bool> {
    match text.as_bytes() {
        [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Some(true),
        [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_functions_lie_where_offset_and_stride_put_them() {
        let model = |offset, stride| SriovModel {
            total_vfs: 16,
            offset,
            stride,
            vf_device: 0,
            vf_bars_mib: Vec::new(),
            shares_group: false,
        };
        let at =
            |pf: &str, model: &SriovModel, index| vf_address(pf.parse().unwrap(), model, index).to_string();
        let a2 = model(4, 1);
        assert_eq!(at("0000:08:00.0", &a2, 0), "0000:08:00.4");
        assert_eq!(at("0000:08:00.0", &a2, 15), "0000:08:02.3");
        let igb = model(128, 2);
        assert_eq!(at("0000:01:00.0", &igb, 0), "0000:01:10.0");
        assert_eq!(at("0000:01:00.0", &igb, 6), "0000:01:11.4");
        assert_eq!(at("0000:01:00.1", &model(255, 1), 0), "0000:02:00.0");
    }

    #[test]
    fn counts_are_read_as_the_kernel_reads_them() {
        for (text, count) in [("4\n", 4), ("0x10", 16), ("010", 8), ("0", 0), ("+7", 7)] {
            assert_eq!(unsigned_16(text), Some(count), "{text:?}");
        }
        for text in ["", "\n", "-1", "65536", "four", "4 ", "0x", "4\n\n"] {
            assert_eq!(unsigned_16(text), None, "{text:?}");
        }
    }
}
