//! A hypervisor that is a model: domains without QEMU, for tests and for simulated hosts.
//!
//! It keeps domains as XML and reads and edits them with the same functions as the real one. A domain that runs has
//! its devices open in the kernel under it, real or fake. What guests and people do to domains, which no step asks for,
//! is done by the methods of [`FakeHypervisor`] itself.
//!
//! Deliberately absent: time. A guest shuts down after so many observations, not after so many seconds.

mod consoles;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::Utf8Path;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::inventory::{
    self, Console, Domain, DomainState, Holder, HostDevice, Network, OffReason, Resources, StoragePool,
};
use tranche_core::name::{VmId, VmName};
use tranche_core::spec::VmHardware;
use tranche_core::step::{Near, Step, StepSubject, VmDevice};
use uuid::Uuid;

use self::consoles::Consoles;
use super::xml::{self, Acceleration, Definition, Disk, Facts, XmlError};
use super::{Hypervisor, Travels, refusal};
use crate::fake::DeviceUse;

/// The versions that the model reports: those of Debian 13.
const LIBVIRT_VERSION: &str = "11.3.0";
const QEMU_VERSION: &str = "10.0.2";
/// The name under which QEMU shows as the holder of a device (`/proc/PID/comm` has 15 characters).
const QEMU_COMMAND: &str = "qemu-system-x86";
/// The first process id of a model's QEMU: above what small machines give away.
const FIRST_PID: u32 = 100_000;

/// How a guest takes being asked to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// It is off after having been observed so many more times.
    ShutsDownAfter {
        /// Observations in which it still runs.
        observations: u32,
    },
    /// It ignores the power button.
    Deaf,
}

/// The model.
#[derive(Debug)]
pub struct FakeHypervisor {
    model: Mutex<Model>,
    devices: Arc<dyn DeviceUse>,
}

#[derive(Debug)]
struct Model {
    down: Option<String>,
    domains: BTreeMap<String, FakeDomain>,
    next_pid: u32,
    resources: Resources,
    /// VMs for which what they need when they arrive is ready.
    expects: BTreeSet<VmName>,
}

#[derive(Debug)]
struct FakeDomain {
    stored: Option<Stored>,
    run: Option<Run>,
    last: OffReason,
    guest: Guest,
    start_refusal: Option<String>,
}

/// A definition, and what it says.
#[derive(Debug, Clone)]
struct Stored {
    xml: String,
    facts: Facts,
}

#[derive(Debug)]
struct Run {
    definition: Stored,
    holder: Holder,
    observations_left: Option<u32>,
    consoles: Consoles,
}

impl Stored {
    fn new(xml: String) -> Result<Self, XmlError> {
        let facts = xml::read(&xml)?;
        Ok(Self { xml, facts })
    }
}

impl FakeHypervisor {
    /// A hypervisor without domains, whose domains use these devices.
    pub fn new(devices: Arc<dyn DeviceUse>) -> Self {
        let model = Model {
            down: None,
            domains: BTreeMap::new(),
            next_pid: FIRST_PID,
            resources: usual_resources(),
            expects: BTreeSet::new(),
        };
        Self { model: Mutex::new(model), devices }
    }

    /// Somebody defines a domain with virsh.
    ///
    /// # Errors
    /// When that is not the XML of a domain.
    pub fn define_by_hand(&self, xml: &str) -> Result<(), XmlError> {
        let stored = Stored::new(xml.to_owned())?;
        let name = stored.facts.name.clone();
        self.lock().domains.entry(name).or_insert_with(FakeDomain::new).stored = Some(stored);
        Ok(())
    }

    /// Somebody starts a domain with virsh. Nothing happens to one that runs or is not there.
    ///
    /// # Errors
    /// As for a start by a step.
    pub fn start_by_hand(&self, vm: &VmName) -> Result<(), Box<Finding>> {
        self.start(&mut self.lock(), vm)
    }

    /// Somebody runs `virsh undefine`: a domain that runs goes on without a stored definition.
    pub fn undefine_by_hand(&self, vm: &VmName) {
        let mut model = self.lock();
        if let Some(domain) = model.domains.get_mut(vm.as_str()) {
            domain.stored = None;
        }
        model.forget_what_is_gone();
    }

    /// The guest turns itself off.
    pub fn power_off(&self, vm: &VmName) {
        self.stop(&mut self.lock(), vm.as_str(), OffReason::Shutdown);
    }

    /// QEMU or the guest crashes.
    pub fn crash(&self, vm: &VmName) {
        self.stop(&mut self.lock(), vm.as_str(), OffReason::Crashed);
    }

    /// Sets how a guest takes being asked to shut down, from now on.
    pub fn set_guest(&self, vm: &VmName, guest: Guest) {
        if let Some(domain) = self.lock().domains.get_mut(vm.as_str()) {
            domain.guest = guest;
        }
    }

    /// Refuses to start a domain with these words, or starts it again.
    pub fn refuse_starts(&self, vm: &VmName, words: Option<&str>) {
        if let Some(domain) = self.lock().domains.get_mut(vm.as_str()) {
            domain.start_refusal = words.map(str::to_owned);
        }
    }

    /// Somebody defines, starts or stops pools and networks.
    pub fn change_resources(&self, change: impl FnOnce(&mut Resources)) {
        change(&mut self.lock().resources);
    }

    /// libvirtd goes away, for this reason. Domains go on.
    pub fn go_down(&self, reason: &str) {
        self.lock().down = Some(reason.to_owned());
    }

    /// libvirtd comes back, and has forgotten why domains are off.
    pub fn come_up(&self) {
        let mut model = self.lock();
        model.down = None;
        let off = model.domains.values_mut().filter(|domain| domain.run.is_none());
        off.for_each(|domain| domain.last = OffReason::Unknown);
    }

    /// The host loses power: nothing runs any more, and libvirt has forgotten why.
    pub fn lose_power(&self) {
        let mut model = self.lock();
        let names: Vec<String> = model.domains.keys().cloned().collect();
        for name in names {
            self.stop(&mut model, &name, OffReason::Unknown);
        }
        model.domains.values_mut().for_each(|domain| domain.last = OffReason::Unknown);
        model.down = None;
    }

    /// The stored definition of a domain.
    pub fn definition(&self, vm: &VmName) -> Option<String> {
        self.lock().domains.get(vm.as_str())?.stored.as_ref().map(|stored| stored.xml.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        // A panic within a test is that test's failure; others need not follow.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, model: &mut Model, vm: &VmName) -> Result<(), Box<Finding>> {
        let pid = model.next_pid;
        let domain = model.domains.get_mut(vm.as_str()).ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
        let Some(definition) = domain.stored.clone().filter(|_| domain.run.is_none()) else { return Ok(()) };
        let refuse = |words: &str| refusal::refused(vm, "start the domain", words, refusal::logs_hint(vm));
        if let Some(words) = &domain.start_refusal {
            domain.last = OffReason::Crashed;
            return Err(refuse(words));
        }
        let holder = Holder { pid, command: QEMU_COMMAND.to_owned() };
        let sources: Vec<_> = definition.facts.devices.iter().map(|device| &device.source).collect();
        for (opened, source) in sources.iter().enumerate() {
            if let Err(error) = self.devices.open(source, &holder) {
                sources[..opened].iter().for_each(|source| self.devices.close(source, &holder));
                domain.last = OffReason::Crashed;
                return Err(refuse(&format!("vfio {source:?}: {error}")));
            }
        }
        let consoles = Consoles::default();
        domain.run = Some(Run { definition, holder, observations_left: None, consoles });
        model.next_pid += 1;
        Ok(())
    }

    fn stop(&self, model: &mut Model, name: &str, reason: OffReason) {
        let Some(domain) = model.domains.get_mut(name) else { return };
        let Some(run) = domain.run.take() else { return };
        run.definition
            .facts
            .devices
            .iter()
            .for_each(|device| self.devices.close(&device.source, &run.holder));
        domain.last = reason;
        model.forget_what_is_gone();
    }

    fn shut_down(&self, model: &mut Model, vm: &VmName) {
        let Some(domain) = model.domains.get_mut(vm.as_str()) else { return };
        match (&mut domain.run, domain.guest) {
            (Some(run), Guest::ShutsDownAfter { observations }) => {
                run.observations_left.get_or_insert(observations);
            }
            _ => return,
        }
        self.finish_shutdowns(model);
    }

    /// Turns off the guests that have been asked to and have run for long enough.
    fn finish_shutdowns(&self, model: &mut Model) {
        let due =
            |domain: &FakeDomain| domain.run.as_ref().is_some_and(|run| run.observations_left == Some(0));
        let done: Vec<String> =
            model.domains.iter().filter(|(_, domain)| due(domain)).map(|(name, _)| name.clone()).collect();
        done.iter().for_each(|name| self.stop(model, name, OffReason::Shutdown));
    }
}

impl Hypervisor for FakeHypervisor {
    /// It sends nothing, and takes in what is shut down elsewhere.
    fn travels(&self) -> Travels {
        Travels { expects: self.lock().expects.clone(), ..Travels::default() }
    }

    fn observe(&self) -> inventory::Hypervisor {
        let mut model = self.lock();
        if let Some(reason) = &model.down {
            return inventory::Hypervisor::Down { reason: reason.clone() };
        }
        let domains = model.domains.values().filter_map(FakeDomain::observed);
        let domains = domains.map(|domain| (domain.name.clone(), domain)).collect();
        for run in model.domains.values_mut().filter_map(|domain| domain.run.as_mut()) {
            run.observations_left = run.observations_left.map(|left| left.saturating_sub(1));
        }
        self.finish_shutdowns(&mut model);
        inventory::Hypervisor::Up {
            libvirt: LIBVIRT_VERSION.to_owned(),
            qemu: QEMU_VERSION.to_owned(),
            domains,
            resources: Some(model.resources.clone()),
        }
    }

    fn open_console(
        &self,
        vm: &VmName,
        id: VmId,
        console: Console,
        force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        let mut model = self.lock();
        if let Some(reason) = &model.down {
            return Err(refusal::down(vm, reason));
        }
        let domain = model.find(vm, id)?.ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
        let run = domain.run.as_mut().ok_or_else(|| Box::new(say::vm_not_running(vm)))?;
        if !run.definition.facts.consoles().contains(&console) {
            return Err(Box::new(say::console_missing(vm, console)));
        }
        match console {
            Console::Serial => run.consoles.open_serial(vm, force),
            Console::Screen => run.consoles.open_screen(vm),
        }
    }

    fn apply(&self, step: &Step) -> Result<(), Box<Finding>> {
        let mut model = self.lock();
        if let (Some(reason), StepSubject::Vm(vm)) = (&model.down, step.subject()) {
            return Err(refusal::down(&vm, reason));
        }
        match step {
            Step::DefineVm { vm, id, hardware } => model.define(vm, *id, hardware),
            Step::PutDevices { vm, id, devices, near } => model.put_devices(vm, *id, devices, near.as_ref()),
            Step::StartVm { vm, id } => {
                model.find(vm, *id)?.ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
                self.start(&mut model, vm)
            }
            Step::ShutDownVm { vm, id } => {
                model.find(vm, *id)?;
                self.shut_down(&mut model, vm);
                Ok(())
            }
            Step::KillVm { vm, id } => {
                model.find(vm, *id)?;
                self.stop(&mut model, vm.as_str(), OffReason::Destroyed);
                Ok(())
            }
            Step::UndefineVm { vm, id } => match model.find(vm, *id)? {
                Some(domain) if domain.run.is_some() => {
                    Err(Box::new(say::vm_running(vm, "removing its definition")))
                }
                _ => {
                    model.expects.remove(vm);
                    model.domains.remove(vm.as_str());
                    Ok(())
                }
            },
            Step::ExpectVm { vm, .. } => {
                model.expects.insert(vm.clone());
                Ok(())
            }
            Step::SendVm { vm, .. } | Step::CallOffVm { vm, .. } | Step::ResumeVm { vm, .. } => {
                Err(refusal::refused(vm, "move the domain", "this model sends nothing", ""))
            }
            _ => Err(refusal::not_about_a_vm(step)),
        }
    }
}

/// What an installation of libvirt has at first: a directory of its own, and a network.
fn usual_resources() -> Resources {
    let path = Some("/var/lib/libvirt/images".to_owned());
    let pool = StoragePool { kind: "dir".to_owned(), path, active: true, shared: false };
    Resources {
        pools: [("default".to_owned(), pool)].into(),
        networks: [("default".to_owned(), Network { active: true })].into(),
    }
}

impl Model {
    /// The VM's domain, if there is one. One of the same name with another UUID is somebody else's.
    fn find(&mut self, vm: &VmName, id: VmId) -> Result<Option<&mut FakeDomain>, Box<Finding>> {
        match self.domains.get_mut(vm.as_str()) {
            Some(domain) if domain.uuid() != Some(id.0) => Err(Box::new(say::domain_identity(vm))),
            found => Ok(found),
        }
    }

    fn define(&mut self, vm: &VmName, id: VmId, hardware: &VmHardware) -> Result<(), Box<Finding>> {
        match self.domains.get(vm.as_str()) {
            Some(domain) if domain.uuid() != Some(id.0) => return Err(Box::new(say::domain_exists(vm))),
            Some(domain) if domain.stored.is_none() => return Err(Box::new(say::domain_transient(vm))),
            Some(_) => return Ok(()),
            None => {}
        }
        let disk = |volume: &_| Disk { volume: Clone::clone(volume), format: "qcow2".to_owned() };
        let xml = xml::define(&Definition {
            vm,
            id,
            hardware,
            disks: &hardware.disks.iter().map(disk).collect::<Vec<_>>(),
            acceleration: Acceleration::Kvm,
            serial_log_dir: Utf8Path::new("/var/log/libvirt/qemu"),
            seed: hardware.cloud_init.is_some().then_some(Utf8Path::new("/var/lib/libvirt/tranche/seed.iso")),
        });
        let stored = Stored::new(xml).map_err(unreadable(vm))?;
        self.domains.insert(vm.as_str().to_owned(), FakeDomain { stored: Some(stored), ..FakeDomain::new() });
        Ok(())
    }

    fn put_devices(
        &mut self,
        vm: &VmName,
        id: VmId,
        devices: &[VmDevice],
        near: Option<&Near>,
    ) -> Result<(), Box<Finding>> {
        let domain = self.find(vm, id)?.ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
        let stored = domain.stored.as_mut().ok_or_else(|| Box::new(say::domain_transient(vm)))?;
        let xml = xml::put_devices(&stored.xml, devices, near).map_err(unreadable(vm))?;
        *stored = Stored::new(xml).map_err(unreadable(vm))?;
        Ok(())
    }

    /// A domain that neither runs nor is defined is none.
    fn forget_what_is_gone(&mut self) {
        self.domains.retain(|_, domain| domain.stored.is_some() || domain.run.is_some());
    }
}

impl FakeDomain {
    fn new() -> Self {
        Self {
            stored: None,
            run: None,
            last: OffReason::Unknown,
            guest: Guest::ShutsDownAfter { observations: 0 },
            start_refusal: None,
        }
    }

    /// What it was defined with; what it runs with, if it is transient.
    fn definition(&self) -> Option<&Stored> {
        self.stored.as_ref().or(self.run.as_ref().map(|run| &run.definition))
    }

    fn uuid(&self) -> Option<Uuid> {
        self.definition().map(|definition| definition.facts.uuid)
    }

    fn observed(&self) -> Option<Domain> {
        let facts = &self.definition()?.facts;
        let devices = |stored: Option<&Stored>| -> Vec<HostDevice> {
            stored.map(|stored| stored.facts.devices.clone()).unwrap_or_default()
        };
        Some(Domain {
            name: facts.name.clone(),
            uuid: facts.uuid,
            state: if self.run.is_some() {
                DomainState::Running
            } else {
                DomainState::Off { reason: self.last }
            },
            persistent: self.stored.is_some(),
            autostart: false,
            vcpus: facts.vcpus,
            memory_mib: facts.memory_mib,
            live_devices: devices(self.run.as_ref().map(|run| &run.definition)),
            defined_devices: devices(self.definition()),
            machine: None,
            blockers: std::collections::BTreeSet::new(),
            consoles: self.run.as_ref().map(|run| run.definition.facts.consoles()).unwrap_or_default(),
        })
    }
}

fn unreadable(vm: &VmName) -> impl Fn(XmlError) -> Box<Finding> {
    move |error| {
        refusal::refused(
            vm,
            "take the definition",
            &error.to_string(),
            format!("'virsh dumpxml {vm}' shows it."),
        )
    }
}
