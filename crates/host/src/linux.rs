//! A Linux host: real, captured or fake, according to its tree and its hypervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tranche_core::finding::{Code, Finding};
use tranche_core::history::{Measured, Reading};
use tranche_core::inventory::{Console, Gpu, HostInventory, Progress, StuckCall};
use tranche_core::name::{GpuAddress, GpuKey, HostName, PciAddress, Timestamp, VmId, VmName};
use tranche_core::step::{Step, VFIO_DRIVER};

use crate::calls::{Calls, GpuCalls, Limits};
use crate::catalogue::Catalogue;
use crate::discover::{self, Knowledge, Seen, Survey, function, system};
use crate::health::Watch;
use crate::library::Library;
use crate::migration::{Boot, Probe, Prober};
use crate::monitor::Monitor;
use crate::nvml::NvidiaMonitor;
use crate::tree::Tree;
use crate::usage::{MakeUp, Usage};
use crate::vm::{Hypervisor, Travels};
use crate::{Host, bind, board, identity, mdev, modules, passthrough, report, sriov, vgpu, xe};

/// A host that is observed through a tree and whose VMs are a hypervisor's.
#[derive(Debug)]
pub struct LinuxHost {
    name: HostName,
    calls: Calls,
    knowledge: Knowledge,
    last: Mutex<Last>,
    hypervisor: Box<dyn Hypervisor>,
    watch: Watch,
    library: Library,
    probe: Probe,
    usage: Usage,
    notes: Vec<Finding>,
}

/// What was seen last, of one boot.
#[derive(Debug, Default)]
struct Last {
    boot_id: String,
    /// For looks at some GPUs again.
    survey: Survey,
    /// For looks that do not come back.
    gpus: BTreeMap<GpuAddress, Gpu>,
}

impl LinuxHost {
    /// Puts a host together.
    pub fn new(
        name: HostName,
        tree: Arc<dyn Tree>,
        limits: Limits,
        catalogue: Arc<Catalogue>,
        hypervisor: Box<dyn Hypervisor>,
    ) -> Self {
        Self {
            name,
            calls: Calls::new(tree, limits),
            knowledge: Knowledge { catalogue, ..Knowledge::default() },
            last: Mutex::default(),
            hypervisor,
            watch: Watch::default(),
            library: Library::default(),
            probe: Probe::default(),
            usage: Usage::default(),
            notes: Vec::new(),
        }
    }

    /// The same host, whose GPUs are looked at through the vendors' libraries that are installed on this machine.
    #[must_use]
    pub fn with_installed_libraries(self) -> Self {
        self.with_monitor(Arc::new(NvidiaMonitor::default()))
    }

    /// The same host, whose GPUs are looked at through a vendor's library too.
    #[must_use]
    pub fn with_monitor(mut self, monitor: Arc<dyn Monitor>) -> Self {
        self.library = Library::of(monitor);
        self
    }

    /// The same host, whose partitions are asked what they can. That opens them, while nobody uses them.
    #[must_use]
    pub fn with_prober(mut self, prober: Arc<dyn Prober>) -> Self {
        self.probe = Probe::of(prober);
        self
    }

    /// The same host, for which is made up how busy it is.
    #[must_use]
    pub fn with_usage(mut self, make_up: MakeUp) -> Self {
        self.usage = Usage::made_up(make_up);
        self
    }

    /// Adds what is known to be amiss from the start; every inventory has it.
    #[must_use]
    pub fn with_notes(mut self, notes: Vec<Finding>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// How far the hypervisor is with VMs that go to other hosts.
    fn progress(&self) -> Progress {
        let Travels { able, expects, sent, dirty_mib_s, links_mib_s, end_ms } = self.hypervisor.travels();
        Progress { travels: able, expects, sent, dirty_mib_s, links_mib_s, end_ms, ..Progress::default() }
    }

    fn on(
        &self,
        gpu: &GpuAddress,
        now: Timestamp,
        act: impl FnOnce(&GpuCalls<'_>) -> Result<(), Box<Finding>>,
    ) -> Result<(), Box<Finding>> {
        act(&self.calls.on(&self.key(gpu), now))
    }

    /// Looks for GPUs, and at each of them.
    fn look_at_all(&self, boot_id: &str, now: Timestamp) -> Seen {
        let surveyed = discover::survey(&self.calls, &self.knowledge.catalogue, now);
        let mut last = self.lock_last();
        if last.boot_id != boot_id {
            *last = Last { boot_id: boot_id.to_owned(), ..Last::default() };
        }
        let seen = match surveyed {
            Ok(survey) => {
                self.library.ask(&self.calls, boot_id, now, &survey.gpus);
                last.survey = survey;
                let from = (&last.survey, &last.gpus);
                discover::gpus(&self.calls, &self.knowledge(), from, &self.name, now)
            }
            Err(error) => Seen::nothing(&last.gpus, (&self.name, &error), now),
        };
        last.gpus.clone_from(&seen.gpus);
        seen
    }

    /// Looks at some GPUs that were found before.
    fn look_again(&self, gpus: &BTreeSet<GpuAddress>, now: Timestamp) -> Seen {
        let mut last = self.lock_last();
        let mut survey = last.survey.clone();
        survey.gpus.retain(|address| gpus.contains(address));
        let seen = discover::gpus(&self.calls, &self.knowledge(), (&survey, &last.gpus), &self.name, now);
        last.gpus.retain(|address, _| !gpus.contains(address));
        last.gpus.extend(seen.gpus.clone());
        seen
    }

    /// The calls that have not come back, and the looks that were not made because of them or came back too late.
    fn stuck(&self, unanswered: Vec<StuckCall>) -> Vec<StuckCall> {
        let mut stuck = self.calls.stuck();
        for call in unanswered {
            if !stuck.iter().any(|known| (&known.gpu, &known.call) == (&call.gpu, &call.call)) {
                stuck.push(call);
            }
        }
        stuck
    }

    /// What is known of GPUs, with what their drivers have said of them meanwhile.
    fn knowledge(&self) -> Knowledge {
        Knowledge { types: self.library.types(), ..self.knowledge.clone() }
    }

    /// Whatever is remembered is replaced whole, so a panic elsewhere does not spoil it.
    fn lock_last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, gpu: &GpuAddress) -> GpuKey {
        GpuKey { host: self.name.clone(), address: gpu.clone() }
    }
}

impl Host for LinuxHost {
    fn boot_id(&self) -> String {
        system::boot_id(self.calls.tree())
    }

    fn observe(&self, now: Timestamp) -> HostInventory {
        let tree = self.calls.tree();
        let boot_id = system::boot_id(tree);
        let Seen { mut gpus, mut notes, unanswered } = self.look_at_all(&boot_id, now);
        identity::forget_shared(&mut gpus);
        self.watch.forget(&self.library.recovered());
        self.watch.hear(self.library.heard());
        notes.extend(self.watch.look(&self.calls, (&self.name, &boot_id), &mut gpus));
        self.library.listen(&gpus, self.watch.is_deaf());
        self.library.tell(&mut gpus);
        board::by_serial(&mut gpus);
        notes.extend(system::notes(tree, &self.name));
        notes.extend(self.notes.iter().cloned());
        let hypervisor = self.hypervisor.observe();
        self.library.tell_of_partitions(&mut gpus, &hypervisor);
        let system = system::facts(tree);
        let boot = Boot { id: boot_id.clone(), kernel: system.kernel.clone() };
        self.probe.ask((&self.calls, &self.name), &boot, (&gpus, &hypervisor), now);
        self.probe.tell(tree, &mut gpus);
        for note in self.hypervisor.notes(&self.name) {
            // Where there is no /dev/kvm, it is no news that no guest runs by it.
            if notes.iter().all(|known| known.code != note.code) {
                notes.push(note);
            }
        }
        let seen = HostInventory {
            host: self.name.clone(),
            boot_id,
            observed_at: now,
            system,
            hypervisor,
            gpus,
            stuck: self.stuck(unanswered),
            notes,
            progress: self.progress(),
            pulse: None,
            unread: None,
        };
        self.usage.see(&seen);
        seen
    }

    fn observe_again(
        &self,
        gpus: &BTreeSet<GpuAddress>,
        last: &HostInventory,
        now: Timestamp,
    ) -> HostInventory {
        let Seen { gpus: mut seen, notes, mut unanswered } = self.look_again(gpus, now);
        // What hung at the last look at everything is no better known for having come back since.
        let elsewhere = |call: &&StuckCall| !call.gpu.as_ref().is_some_and(|address| gpus.contains(address));
        unanswered.extend(last.stuck.iter().filter(elsewhere).cloned());
        // What it says of the host itself is told by the next look at everything.
        self.watch.look(&self.calls, (&self.name, &last.boot_id), &mut seen);
        self.library.tell(&mut seen);
        self.probe.tell(self.calls.tree(), &mut seen);
        let mut inventory = last.clone();
        inventory.gpus.retain(|address, _| !gpus.contains(address));
        for (address, mut gpu) in seen {
            // Which card it is was compared with all the others', and it is the same still.
            if let Some(before) = last.gpus.get(&address) {
                gpu.unique_id.clone_from(&before.unique_id);
            }
            inventory.gpus.insert(address, gpu);
        }
        let concerned = |note: &Finding| note.subject.gpu().is_some_and(|key| gpus.contains(&key.address));
        inventory.notes.retain(|note| !concerned(note));
        inventory.notes.extend(notes);
        inventory.hypervisor = self.hypervisor.observe();
        inventory.progress = self.progress();
        self.library.tell_of_partitions(&mut inventory.gpus, &inventory.hypervisor);
        inventory.stuck = self.stuck(unanswered);
        inventory.observed_at = now;
        inventory
    }

    fn usage(&self, now: Timestamp) -> BTreeMap<Measured, Reading> {
        let mut readings = self.usage.tell(now);
        readings.extend(self.hypervisor.usage().into_iter().map(|(vm, reading)| (Measured::Vm(vm), reading)));
        readings
    }

    fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.knowledge.catalogue)
    }

    fn open_console(
        &self,
        vm: &VmName,
        id: VmId,
        console: Console,
        force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        self.hypervisor.open_console(vm, id, console, force)
    }

    fn apply(&self, step: &Step, now: Timestamp) -> Result<(), Box<Finding>> {
        let _closed = self.library.closed_for(step, &self.calls, &self.name)?;
        match step {
            Step::EnableVfs { gpu, count } => self.on(gpu, now, |calls| {
                let pf = pci(calls)?;
                if is_bound(calls, pf, vgpu::DRIVER) {
                    return vgpu::enable(calls, pf, *count);
                }
                let by_xe = is_bound(calls, pf, xe::DRIVER);
                let ids = function::ids(calls.tree(), pf).filter(|_| by_xe);
                let shared_mib = ids.and_then(|ids| self.knowledge.catalogue.find(&ids)?.shared_vram_mib());
                let provision = || xe::provision(calls, pf, *count, shared_mib);
                let release = || {
                    if by_xe {
                        xe::release(calls, pf);
                    }
                };
                sriov::enable(calls, pf, *count, (provision, release))
            }),
            Step::DisableVfs { gpu, autoprobe } => self.on(gpu, now, |calls| {
                let pf = pci(calls)?;
                if is_bound(calls, pf, vgpu::DRIVER) {
                    vgpu::disable(calls, pf)
                } else {
                    sriov::disable(calls, pf, *autoprobe)
                }
            }),
            Step::SetProfile { gpu, index, vf, profile } => self.on(gpu, now, |calls| {
                same_function(calls, *index, *vf)?;
                vgpu::typed::set(calls, &self.knowledge.type_names, *vf, profile.as_deref())
            }),
            Step::SetMixedSizes { gpu, on } => {
                self.on(gpu, now, |calls| vgpu::mixed::switch(calls, pci(calls)?, *on))
            }
            Step::BindPartition { gpu, index, vf, driver } => self.on(gpu, now, |calls| {
                same_function(calls, *index, *vf)?;
                if driver == VFIO_DRIVER
                    && let Some(variant) = self.knowledge.variants.of(calls.tree(), *vf)
                {
                    // If it comes, the next look finds it and has all of them bound to it.
                    modules::load_vfio(calls, &variant);
                }
                bind::to(calls, *vf, driver)
            }),
            Step::ReloadDriver { driver, count, gpus } => match gpus.first() {
                Some(first) => self.on(first, now, |calls| {
                    modules::reload(calls, driver, *count)?;
                    gpus.iter().filter_map(GpuAddress::pci).try_for_each(|pf| {
                        let key = self.key(&GpuAddress::Pci(pf));
                        sriov::read_back(&self.calls.on(&key, now), pf, *count)
                    })
                }),
                None => Ok(()),
            },
            Step::CreateMdev { gpu, uuid, profile, .. } => self.on(gpu, now, |calls| match gpu.pci() {
                Some(pf) if vgpu::is_mediated(calls, pf) => vgpu::mediated::create(calls, pf, *uuid, profile),
                _ => mdev::create(calls, *uuid, profile),
            }),
            Step::RemoveMdev { gpu, uuid } => self.on(gpu, now, |calls| mdev::remove(calls, *uuid)),
            Step::TakeGpu { gpu, functions } => {
                self.on(gpu, now, |calls| passthrough::take(calls, functions))
            }
            Step::ReturnGpu { gpu, functions } => {
                self.on(gpu, now, |calls| passthrough::give_back(calls, functions))
            }
            Step::DefineVm { .. }
            | Step::PutDevices { .. }
            | Step::StartVm { .. }
            | Step::ShutDownVm { .. }
            | Step::KillVm { .. }
            | Step::ExpectVm { .. }
            | Step::SendVm { .. }
            | Step::CallOffVm { .. }
            | Step::ResumeVm { .. }
            | Step::UndefineVm { .. } => self.hypervisor.apply(step),
        }
    }
}

/// Whose functions these are decides how they are switched.
fn is_bound(calls: &GpuCalls<'_>, pf: PciAddress, driver: &str) -> bool {
    function::driver(calls.tree(), &function::dir(pf)).as_deref() == Some(driver)
}

fn pci(calls: &GpuCalls<'_>) -> Result<PciAddress, Box<Finding>> {
    let gpu = calls.gpu();
    gpu.address.pci().ok_or_else(|| {
        let message = format!("GPU {gpu} is no PCI device, so it has no virtual functions.");
        report::error(gpu, Code::NotPartitionable, message, "Partition it by mediated devices.")
    })
}

/// A plan may be older than a hot-unplug or a renumbering of buses: the function must still be the partition it was.
fn same_function(calls: &GpuCalls<'_>, index: u16, vf: PciAddress) -> Result<(), Box<Finding>> {
    let found = function::virtual_functions(calls.tree(), &function::dir(pci(calls)?)).remove(&index);
    if found == Some(vf) {
        return Ok(());
    }
    let gpu = calls.gpu();
    let message = match found {
        Some(found) => format!("Partition {index} of GPU {gpu} is {found} and no longer {vf}."),
        None => format!("Partition {index} of GPU {gpu} ({vf}) has disappeared."),
    };
    let hint =
        "Look into the kernel log for a hot-unplug; the next pass looks again and makes what is missing.";
    Err(report::error(gpu, Code::PartitionLost, message, hint))
}
