//! The fake kernel in memory: a tree that behaves, calls that hang, and the knobs that make things go wrong.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use camino::Utf8PathBuf;
use rustix::io::Errno;
use tranche_core::inventory::{DeviceSource, Holder};
use tranche_core::name::{GpuAddress, PciAddress};

use super::DeviceUse;
use super::files::{self, File, Node};
use super::machine::Machine;
use super::nvidia;
use super::signs::FakeLog;
use super::state::{Faults, Role, State};
use crate::tree::{Log, Ran, Tree, contained};

/// The most links on one path (kernel: MAXSYMLINKS).
const LINKS_MAX: usize = 40;
/// The most directories on one path; the deepest file lies at half of that.
const DEPTH_MAX: usize = 24;

/// A kernel that is a model.
#[derive(Debug)]
pub struct FakeKernel {
    state: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Physical functions whose lock somebody has.
    locked: BTreeSet<PciAddress>,
    /// Physical functions whose driver does not come back.
    held: BTreeSet<PciAddress>,
}

impl FakeKernel {
    /// Boots a machine.
    pub fn boot(machine: Machine) -> Self {
        let state = State::boot(machine, 1, Faults::default());
        Self {
            state: Mutex::new(Inner { state, locked: BTreeSet::new(), held: BTreeSet::new() }),
            changed: Condvar::new(),
        }
    }

    /// Restarts the machine: what is not hardware is lost, and calls that hang end with `EIO`.
    pub fn reboot(&self) {
        let mut inner = self.lock();
        let faults = std::mem::take(&mut inner.state.faults);
        let signs = std::mem::take(&mut inner.state.signs).after_reboot();
        inner.state = State::boot(inner.state.machine.clone(), inner.state.boots + 1, faults);
        inner.state.signs = signs;
        inner.state.load_gim_as_configured();
        inner.locked.clear();
        inner.held.clear();
        self.changed.notify_all();
    }

    /// Changes the machine itself, as a technician would, and starts it again.
    pub fn rebuild(&self, change: impl FnOnce(&mut Machine)) {
        change(&mut self.lock().state.machine);
        self.reboot();
    }

    /// From now on the function makes at most so many virtual functions, and says nothing about it.
    pub fn make_fewer_vfs(&self, pf: PciAddress, vfs_max: u16) {
        self.lock().state.faults.vfs_max.insert(pf, vfs_max);
    }

    /// From now on the driver answers every request for virtual functions with an error.
    pub fn refuse_vfs(&self, pf: PciAddress, errno: i32) {
        self.lock().state.faults.refusals.insert(pf, Errno::from_raw_os_error(errno));
    }

    /// From now on the driver takes what is written about types and mediated devices of this function or parent, and
    /// does nothing.
    pub fn make_deaf(&self, parent: GpuAddress) {
        self.lock().state.faults.deaf.insert(parent);
    }

    /// From now on the parent answers every request for a mediated device with an error.
    pub fn refuse_mdevs(&self, parent: GpuAddress, errno: i32) {
        self.lock().state.faults.mdev_refusals.insert(parent, Errno::from_raw_os_error(errno));
    }

    /// From now on this driver refuses the function, which then has none.
    pub fn refuse_probe(&self, function: PciAddress, driver: &str, errno: i32) {
        let refused = (function, driver.to_owned());
        self.lock().state.faults.probes.insert(refused, Errno::from_raw_os_error(errno));
    }

    /// From now on this driver takes the function whenever it is probed.
    pub fn grab(&self, function: PciAddress, driver: &str) {
        self.lock().state.faults.grabs.insert(function, driver.to_owned());
    }

    /// A process is not to be seen from here any more, as from a container.
    pub fn hide(&self, pid: u32) {
        self.lock().state.faults.hidden.insert(pid);
    }

    /// Everything that went wrong on purpose so far goes right again.
    pub fn repair(&self) {
        self.lock().state.faults = Faults::default();
    }

    /// From now on enabling and disabling virtual functions hangs, until [`release`](Self::release).
    pub fn hold(&self, pf: PciAddress) {
        self.lock().held.insert(pf);
    }

    /// What hangs because of [`hold`](Self::hold) comes back.
    pub fn release(&self, pf: PciAddress) {
        self.lock().held.remove(&pf);
        self.changed.notify_all();
    }

    /// From now on reading an attribute of a function hangs, until [`let_reads_go`](Self::let_reads_go): `config` does
    /// while the kernel resets the device, for up to a minute (kernel: drivers/pci/access.c, `pci_wait_cfg`).
    pub fn hang_reads(&self, function: PciAddress, attribute: &str) {
        self.lock().state.hanging_reads.insert((function, attribute.to_owned()));
    }

    /// Whatever is being read of a function comes back.
    pub fn let_reads_go(&self, function: PciAddress) {
        self.with(|state| state.hanging_reads.retain(|(of, _)| *of != function));
    }

    /// Waits until a call on the function hangs: its lock is taken.
    pub fn wait_until_locked(&self, pf: PciAddress) {
        let mut inner = self.lock();
        while !inner.locked.contains(&pf) {
            inner = self.wait(inner);
        }
    }

    /// A function disappears (hot-unplug), with whatever has it open. A virtual one is still counted by its driver.
    pub fn unplug(&self, function: PciAddress) {
        let mut inner = self.lock();
        let state = &mut inner.state;
        state.opens.retain(|(source, _)| *source != DeviceSource::Pci { address: function });
        let removed = state.functions.remove(&function);
        if let Some(Role::Virtual { pf }) = removed.map(|function| function.role)
            && let Some(Role::Physical { vfs, .. }) = state.functions.get_mut(&pf).map(|pf| &mut pf.role)
        {
            vfs.retain(|_, vf| *vf != function);
        }
        self.changed.notify_all();
    }

    /// The function no longer answers, though the kernel still lists it.
    pub fn drop_off_the_bus(&self, function: PciAddress) {
        self.lock().state.faults.off_the_bus.insert(function);
    }

    /// A variant of vfio-pci is loaded.
    pub fn load_vfio_variant(&self, driver: &str) {
        self.with(|state| state.machine.vfio_variants.push(driver.to_owned()));
    }

    /// A driver is unloaded and loaded again: it lets go of its functions, whose virtual functions go with it, and takes
    /// those that are left to it. For a parent of mediated devices by that name, they are gone.
    ///
    /// # Panics
    /// When a VM has something of it open: the driver cannot be unloaded then.
    pub fn reload_driver(&self, driver: &str) {
        self.with(|state| state.reload(driver));
    }

    /// The function has a serial number in its configuration space.
    pub fn give_serial(&self, function: PciAddress, serial: u64) {
        self.lock().state.signs.serials.insert(function, serial);
    }

    /// There is a file at a path under `proc/driver`, as a vendor's driver makes it.
    pub fn put_file(&self, path: &str, text: &str) {
        self.lock().state.signs.files.insert(path.to_owned(), text.to_owned());
    }

    /// The function's link breaks once more.
    pub fn count_fatal_error(&self, function: PciAddress) {
        *self.lock().state.signs.fatal_errors.entry(function).or_default() += 1;
    }

    /// The function shows this power state from now on.
    pub fn set_power(&self, function: PciAddress, state: &str) {
        self.lock().state.signs.power.insert(function, state.to_owned());
    }

    /// The kernel logs a line.
    pub fn log_line(&self, text: &str) {
        self.lock().state.signs.say(text);
    }

    /// Who has what open.
    pub fn opened(&self) -> Vec<(DeviceSource, Holder)> {
        self.lock().state.opens.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a test's thread must not hide the failure behind another one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for as long as something hangs; a reboot ends it.
    fn wait_while<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        hangs: impl Fn(&Inner) -> bool,
    ) -> Result<MutexGuard<'a, Inner>, Errno> {
        let boot = inner.state.boots;
        while hangs(&inner) {
            inner = self.wait(inner);
            if inner.state.boots != boot {
                return Err(Errno::IO);
            }
        }
        Ok(inner)
    }

    pub(super) fn read_file(&self, file: &File) -> Result<Vec<u8>, Errno> {
        let function_text = |pf: &PciAddress, read: fn(&Role) -> String| {
            let inner = self.lock();
            let function = inner.state.functions.get(pf).ok_or(Errno::NODEV)?;
            Ok(read(&function.role).into_bytes())
        };
        if file.mode() & 0o444 == 0 {
            return Err(Errno::ACCESS);
        }
        match file {
            File::Text(text) => Ok(text.clone().into_bytes()),
            File::Hanging(function, attribute, file) => {
                let read = (*function, attribute.clone());
                drop(self.wait_while(self.lock(), |inner| inner.state.hanging_reads.contains(&read))?);
                self.read_file(file)
            }
            File::Bytes(bytes) => Ok(bytes.clone()),
            File::Numvfs(pf) => {
                drop(self.wait_while(self.lock(), |inner| inner.locked.contains(pf))?);
                function_text(pf, |role| match role {
                    Role::Physical { enabled, .. } => format!("{enabled}\n"),
                    _ => "0\n".to_owned(),
                })
            }
            File::Autoprobe(pf) => function_text(pf, |role| match role {
                Role::Physical { autoprobe, .. } => format!("{}\n", u8::from(*autoprobe)),
                _ => "0\n".to_owned(),
            }),
            File::Override(address) => {
                let inner = self.lock();
                let function = inner.state.functions.get(address).ok_or(Errno::NODEV)?;
                Ok(format!("{}\n", function.driver_override.as_deref().unwrap_or("(null)")).into_bytes())
            }
            File::Xe(file) => self.lock().state.read_xe(*file).map(String::into_bytes),
            File::Vgpu(file) => Ok(self.read_vgpu_file(file)),
            File::Bind(_)
            | File::Unbind(_)
            | File::DriversProbe
            | File::CreateMdev(..)
            | File::RemoveMdev(_) => Ok(Vec::new()),
        }
    }

    pub(super) fn write_file(&self, file: &File, value: &str) -> Result<(), Errno> {
        if file.mode() & 0o222 == 0 {
            return Err(Errno::ACCESS);
        }
        match file {
            // A store function is not called for nothing (kernel: fs/sysfs/file.c).
            _ if value.is_empty() => Ok(()),
            File::Text(_) | File::Bytes(_) => Ok(()),
            File::Hanging(_, _, file) => self.write_file(file, value),
            File::Numvfs(pf) => self.switch_vfs(*pf, |state| state.admit_count(*pf, value)),
            File::Vgpu(file) => self.write_vgpu_file(file, value),
            File::Autoprobe(pf) => self.lock().state.set_autoprobe(*pf, value),
            File::Override(address) => self.lock().state.set_override(*address, value),
            File::Xe(file) => self.lock().state.write_xe(*file, value),
            File::DriversProbe => self.lock().state.drivers_probe(value),
            File::Bind(driver) => self.lock().state.bind(driver, value),
            File::Unbind(driver) => self.unbind(driver, value),
            File::CreateMdev(parent, kind) => self.lock().state.create_mdev(parent, kind, value),
            File::RemoveMdev(uuid) => {
                let number = value.trim_end_matches('\n').parse::<u64>().map_err(|_| Errno::INVAL)?;
                if number == 0 {
                    return Ok(());
                }
                let source = DeviceSource::Mdev { uuid: *uuid };
                let mut inner = self.wait_while(self.lock(), |inner| inner.state.is_open(&source))?;
                let parent = &inner.state.mdevs.get(uuid).ok_or(Errno::NODEV)?.parent;
                if !inner.state.faults.deaf.contains(parent) {
                    inner.state.mdevs.remove(uuid);
                }
                Ok(())
            }
        }
    }

    /// Looks at the state, or changes it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let done = act(&mut self.lock().state);
        self.changed.notify_all();
        done
    }

    /// Switches virtual functions as soon as nobody else does, if that is admitted then: all off, or so many on.
    pub(super) fn switch_vfs<E: From<Errno>>(
        &self,
        pf: PciAddress,
        admit: impl FnOnce(&State) -> Result<Option<u16>, E>,
    ) -> Result<(), E> {
        let mut inner = self.wait_while(self.lock(), |inner| inner.locked.contains(&pf))?;
        let Some(count) = admit(&inner.state)? else { return Ok(()) };
        inner.locked.insert(pf);
        self.changed.notify_all();
        let hangs = |inner: &Inner| inner.held.contains(&pf) || (count == 0 && inner.state.vf_in_use(pf));
        let mut inner = self.wait_while(inner, hangs)?;
        inner.state.switch(pf, count);
        inner.locked.remove(&pf);
        self.changed.notify_all();
        Ok(())
    }

    fn unbind(&self, driver: &str, value: &str) -> Result<(), Errno> {
        let inner = self.lock();
        let address = inner.state.admit_unbind(driver, value)?;
        let mut inner = self.wait_while(inner, |inner| {
            inner.state.is_open(&DeviceSource::Pci { address }) || inner.state.is_used_on_host(address)
        })?;
        inner.state.unbind(address);
        Ok(())
    }

    /// What is at a path whose links are all followed already, as a mounted tree asks for it.
    #[cfg(feature = "fuse")]
    pub(super) fn find(&self, path: &[&str]) -> Option<Node> {
        files::find(&self.lock().state, path)
    }

    /// The names in a directory.
    #[cfg(feature = "fuse")]
    pub(super) fn names(&self, listing: files::Listing) -> Vec<String> {
        files::list(&self.lock().state, listing)
    }

    fn walk(&self, path: &str, follow_last: bool) -> Result<Node, Errno> {
        let path = contained(path).map_err(|_| Errno::INVAL)?;
        let inner = self.lock();
        let mut ahead: Vec<String> = path.components().rev().map(|part| part.as_str().to_owned()).collect();
        let mut behind: Vec<String> = Vec::new();
        let mut links = 0;
        loop {
            let mut at = [""; DEPTH_MAX];
            let here = at.get_mut(..behind.len()).ok_or(Errno::NAMETOOLONG)?;
            here.iter_mut().zip(&behind).for_each(|(slot, part)| *slot = part);
            let node = files::find(&inner.state, here).ok_or(Errno::NOENT)?;
            match node {
                Node::Link(target) if follow_last || !ahead.is_empty() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    behind.pop();
                    if target.starts_with('/') {
                        behind.clear();
                    }
                    ahead.extend(target.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned));
                }
                Node::File(_) if !ahead.is_empty() => return Err(Errno::NOTDIR),
                node if ahead.is_empty() => return Ok(node),
                _ => {}
            }
            match ahead.pop().as_deref() {
                Some("..") => drop(behind.pop()),
                Some(part) => behind.push(part.to_owned()),
                None => {}
            }
        }
    }

    fn listed(&self, path: &str) -> Result<Vec<String>, Errno> {
        match self.walk(path, true)? {
            Node::Dir(listing) => Ok(files::list(&self.lock().state, listing)),
            Node::Link(_) | Node::File(_) => Err(Errno::NOTDIR),
        }
    }
}

impl Tree for FakeKernel {
    fn head(&self, path: &str, len_max: usize) -> io::Result<Vec<u8>> {
        match self.walk(path, true)? {
            Node::File(file) => {
                let mut bytes = self.read_file(&file)?;
                bytes.truncate(len_max);
                Ok(bytes)
            }
            Node::Dir(_) | Node::Link(_) => Err(Errno::INVAL.into()),
        }
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        match self.walk(path, true)? {
            Node::File(file) => Ok(self.write_file(&file, value)?),
            Node::Dir(_) | Node::Link(_) => Err(Errno::ISDIR.into()),
        }
    }

    fn link(&self, path: &str) -> io::Result<Utf8PathBuf> {
        match self.walk(path, false)? {
            Node::Link(target) => Ok(target.into()),
            Node::Dir(_) | Node::File(_) => Err(Errno::INVAL.into()),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        Ok(self.listed(path)?)
    }

    fn links(&self, path: &str) -> io::Result<Vec<Utf8PathBuf>> {
        let names = self.listed(path)?;
        Ok(names.iter().filter_map(|name| self.link(&format!("{path}/{name}")).ok()).collect())
    }

    fn log(&self, path: &str) -> io::Result<Box<dyn Log>> {
        match path {
            "dev/kmsg" => Ok(Box::new(FakeLog::new(&self.lock().state.signs))),
            _ => Err(Errno::NOENT.into()),
        }
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> io::Result<Ran> {
        match tool {
            nvidia::tool::PATH if self.exists(tool) => Ok(self.run_sriov_manage(arguments)?),
            nvidia::smi::PATH if self.exists(tool) => Ok(self.run_smi(arguments)),
            _ => Err(Errno::NOENT.into()),
        }
    }

    fn converse(&self, socket: &str, line: &str) -> io::Result<String> {
        match socket {
            crate::modules::SOCKET => self.ask_for_modules(line),
            _ => Err(Errno::NOENT.into()),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.walk(path, true).is_ok()
    }
}

impl DeviceUse for FakeKernel {
    fn open(&self, source: &DeviceSource, by: &Holder) -> io::Result<()> {
        Ok(self.lock().state.open(source, by)?)
    }

    fn close(&self, source: &DeviceSource, by: &Holder) {
        self.lock().state.opens.retain(|(open, holder)| !(open == source && holder.pid == by.pid));
        self.changed.notify_all();
    }
}
