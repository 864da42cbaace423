//! A vendor's library: when it is asked, and what its answers are made into.
//!
//! Asking wakes GPUs up and keeps them open, and a driver does not let go of a GPU that is open. So an answer serves for a
//! while, and a look and a step that takes a GPU from its driver or reconfigures it exclude each other ([`Turns`]): also
//! when one of them has outlived its limit and goes on, on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{DeviceSource, Gpu, Hypervisor, ObservedPartition, PartitionDevice};
use tranche_core::name::{GpuAddress, GpuKey, HostName, PciAddress, Timestamp};
use tranche_core::step::Step;

use crate::calls::Calls;
use crate::discover::function;
use crate::monitor::{Fault, Monitor, PartitionReading, PartitionType, Reading, User};
use crate::report;

/// How long an answer serves, in milliseconds.
const ASK_EVERY_MS: u64 = 30_000;
/// The most faults that are kept between two looks.
const FAULTS_MAX: usize = 256;

/// What partitions of GPUs can be, as their driver says.
pub(crate) type Types = BTreeMap<PciAddress, Vec<PartitionType>>;

/// A vendor's library, and what it said.
#[derive(Debug, Default)]
pub(crate) struct Library {
    monitor: Option<Arc<dyn Monitor>>,
    memory: Mutex<Memory>,
    turns: Arc<Turns>,
    listener: Mutex<Option<Listener>>,
}

/// A thread that listens for faults, or did.
#[derive(Debug)]
struct Listener {
    thread: JoinHandle<()>,
    heard: Receiver<Fault>,
    /// Whether it shall end.
    enough: Arc<AtomicBool>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}

/// What is remembered of one boot.
#[derive(Debug, Default)]
struct Memory {
    boot_id: String,
    /// The GPUs that its driver has had.
    gpus: BTreeSet<GpuAddress>,
    /// The types that it told last of each GPU: a look that fails, or that comes at the wrong moment, takes none away.
    types: Arc<Types>,
    /// What it said, and when.
    said: Option<(Timestamp, BTreeMap<PciAddress, Reading>)>,
    /// The GPUs that needed nothing any more when it was asked; told once, because they may have faults after that.
    recovered: Vec<PciAddress>,
}

impl Library {
    pub(crate) fn of(monitor: Arc<dyn Monitor>) -> Self {
        Self { monitor: Some(monitor), ..Self::default() }
    }

    /// Asks, if its driver has one of these GPUs and the last answer has served its time.
    pub(crate) fn ask(&self, calls: &Calls, boot_id: &str, now: Timestamp, gpus: &BTreeSet<GpuAddress>) {
        let Some(monitor) = &self.monitor else { return };
        let mut memory = self.lock();
        if memory.boot_id != boot_id {
            *memory = Memory { boot_id: boot_id.to_owned(), ..Memory::default() };
        }
        let bound: Vec<_> =
            gpus.iter().filter(|gpu| is_bound(calls, gpu, monitor.driver())).cloned().collect();
        let is_fresh = memory.said.as_ref().is_some_and(|(at, _)| !now.is_past(*at, ASK_EVERY_MS));
        if bound.is_empty() || is_fresh {
            return;
        }
        memory.gpus.extend(bound);
        // A step that outlived its limit is under way still.
        let is_changing =
            |gpu: &Option<GpuAddress>| gpu.as_ref().is_some_and(|gpu| memory.gpus.contains(gpu));
        if calls.stuck().iter().any(|call| is_changing(&call.gpu)) {
            return;
        }
        let Some(turn) = self.turns.look() else { return };
        let asked = Arc::clone(monitor);
        let what = format!("the library of driver {}", monitor.driver());
        let answer = calls.ask(now, &what, move || {
            let answer = asked.look();
            drop(turn);
            answer
        });
        let readings = match answer {
            Ok(Ok(readings)) => readings,
            Ok(Err(error)) => {
                tracing::warn!(%error, "{what} does not answer");
                BTreeMap::new()
            }
            // It is listed among the calls that are stuck.
            Err(_) => BTreeMap::new(),
        };
        let told = readings.iter().filter(|(_, reading)| !reading.types.is_empty());
        let told: Types = told.map(|(address, reading)| (*address, reading.types.clone())).collect();
        Arc::make_mut(&mut memory.types).extend(told);
        memory.recovered = readings.iter().filter(|(_, told)| told.recovered).map(|(gpu, _)| *gpu).collect();
        memory.said = Some((now, readings));
    }

    /// The GPUs of whose earlier faults nothing is left, since the last call.
    pub(crate) fn recovered(&self) -> Vec<PciAddress> {
        std::mem::take(&mut self.lock().recovered)
    }

    /// The types that it told in this boot.
    pub(crate) fn types(&self) -> Arc<Types> {
        Arc::clone(&self.lock().types)
    }

    /// Listens for faults of the GPUs that its driver has, if there is need, on a thread of its own, until a step needs one of
    /// them closed. The next look begins anew.
    pub(crate) fn listen(&self, gpus: &BTreeMap<GpuAddress, Gpu>, need: bool) {
        let Some(monitor) = &self.monitor else { return };
        let mut listener = self.lock_listener();
        if !need {
            *listener = None;
            return;
        }
        let listens = listener.as_ref().is_some_and(|listener| !listener.thread.is_finished());
        let is_bound = |gpu: &Gpu| gpu.driver.as_deref() == Some(monitor.driver());
        if listens || !gpus.values().any(is_bound) {
            return;
        }
        let Some(turn) = self.turns.look() else { return };
        let (told, heard) = mpsc::sync_channel(FAULTS_MAX);
        // What is more than that between two looks says nothing new about a GPU.
        let hear = move |fault| _ = told.try_send(fault);
        if let Some(before) = listener.take() {
            before.heard.try_iter().for_each(&hear);
        }
        let (asked, enough) = (Arc::clone(monitor), Arc::new(AtomicBool::new(false)));
        let shall_end = Arc::clone(&enough);
        let listen = move || {
            let stop = || turn.is_wanted() || shall_end.load(Ordering::Relaxed);
            if let Err(error) = asked.listen(&stop, &hear) {
                tracing::warn!(%error, "the library of driver {} tells no faults", asked.driver());
            }
        };
        match thread::Builder::new().name("faults".to_owned()).spawn(listen) {
            Ok(thread) => *listener = Some(Listener { thread, heard, enough }),
            Err(error) => tracing::warn!(%error, "no thread to listen for faults"),
        }
    }

    /// The faults that were heard since the last call.
    pub(crate) fn heard(&self) -> impl Iterator<Item = Fault> {
        let listener = self.lock_listener();
        let faults: Vec<Fault> = listener.iter().flat_map(|listener| listener.heard.try_iter()).collect();
        faults.into_iter()
    }

    /// Adds what it said of the GPUs that its driver has.
    pub(crate) fn tell(&self, gpus: &mut BTreeMap<GpuAddress, Gpu>) {
        self.on_each(gpus, |gpu, reading| {
            gpu.telemetry = Some(reading.telemetry.clone());
            if reading.unique_id.is_some() {
                gpu.unique_id.clone_from(&reading.unique_id);
            }
            reading.signs.iter().for_each(|(state, reason)| gpu.health.add(*state, reason.clone()));
        });
    }

    /// Adds what it said of the partitions that VMs use. It may know a partition by its VM alone.
    pub(crate) fn tell_of_partitions(&self, gpus: &mut BTreeMap<GpuAddress, Gpu>, hypervisor: &Hypervisor) {
        self.on_each(gpus, |gpu, reading| {
            gpu.partitions.iter_mut().for_each(|partition| partition.telemetry = None);
            for told in &reading.partitions {
                if let Some(index) = used_by(told, &reading.partitions, &gpu.partitions, hypervisor) {
                    gpu.partitions[index].telemetry = Some(told.telemetry);
                }
            }
        });
    }

    /// Waits for a look to end, if the step changes a GPU that a look would keep open, and lets none begin for as long as
    /// the result is kept.
    ///
    /// # Errors
    /// When a look has not come back for so long that the step shall rather be tried again.
    pub(crate) fn closed_for(
        &self,
        step: &Step,
        calls: &Calls,
        host: &HostName,
    ) -> Result<Option<Turn>, Box<Finding>> {
        let (Some(monitor), Some(gpu)) = (&self.monitor, changed_by(step)) else { return Ok(None) };
        if !is_bound(calls, gpu, monitor.driver()) {
            return Ok(None);
        }
        let turn = self.turns.step(Duration::from_millis(calls.limits().read_ms));
        turn.map(Some)
            .ok_or_else(|| still_open(&GpuKey { host: host.clone(), address: gpu.clone() }, &**monitor))
    }

    fn on_each(&self, gpus: &mut BTreeMap<GpuAddress, Gpu>, mut tell: impl FnMut(&mut Gpu, &Reading)) {
        let Some(monitor) = &self.monitor else { return };
        let memory = self.lock();
        let Some((_, readings)) = &memory.said else { return };
        for gpu in gpus.values_mut().filter(|gpu| gpu.driver.as_deref() == Some(monitor.driver())) {
            if let Some(reading) = gpu.address.pci().and_then(|address| readings.get(&address)) {
                tell(gpu, reading);
            }
        }
    }

    fn lock_listener(&self) -> MutexGuard<'_, Option<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // What is in there is replaced whole, so a panic elsewhere does not spoil it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_bound(calls: &Calls, gpu: &GpuAddress, driver: &str) -> bool {
    let dir = gpu.pci().map(function::dir);
    dir.and_then(|dir| function::driver(calls.tree(), &dir)).as_deref() == Some(driver)
}

/// The GPU that a step takes from its driver, gives to it, or has split anew. Types of virtual functions change while the
/// GPU is open.
fn changed_by(step: &Step) -> Option<&GpuAddress> {
    match step {
        Step::EnableVfs { gpu, .. }
        | Step::DisableVfs { gpu, .. }
        | Step::SetMixedSizes { gpu, .. }
        | Step::TakeGpu { gpu, .. }
        | Step::ReturnGpu { gpu, .. } => Some(gpu),
        _ => None,
    }
}

fn still_open(gpu: &GpuKey, monitor: &dyn Monitor) -> Box<Finding> {
    let driver = monitor.driver();
    let message = format!(
        "GPU {gpu} cannot be changed while it is open, and a look through the library of driver {driver} has it open and \
         does not come back."
    );
    let hint =
        "It is tried again. If this stays, a GPU of the driver has failed: the kernel log tells which one.";
    report::error(gpu, Code::CallStuck, message, hint)
}

/// Which of a GPU's partitions a measurement is of: the device that it names, or the only one that the only VM of that
/// number has of this GPU.
fn used_by(
    told: &PartitionReading,
    all: &[PartitionReading],
    partitions: &[ObservedPartition],
    hypervisor: &Hypervisor,
) -> Option<usize> {
    let vm = match told.user {
        User::Mdev(uuid) => {
            return partitions
                .iter()
                .position(|partition| partition.device == PartitionDevice::Mdev { uuid });
        }
        User::Vm(uuid) => uuid,
    };
    let Hypervisor::Up { domains, .. } = hypervisor else { return None };
    let domain = domains.values().find(|domain| domain.uuid == vm)?;
    let has = |partition: &ObservedPartition| {
        let source = DeviceSource::from(&partition.device);
        domain.live_devices.iter().any(|device| device.source == source)
    };
    let held: Vec<usize> = (0..partitions.len()).filter(|index| has(&partitions[*index])).collect();
    let told_of = all.iter().filter(|other| other.user == told.user).count();
    (told_of == 1 && held.len() == 1).then(|| held[0])
}

/// Whose turn it is on the GPUs of a driver: looks', or a step's. Never both.
#[derive(Debug, Default)]
struct Turns {
    taken: Mutex<Taken>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    looks: usize,
    steps: usize,
    /// Steps that wait for looks to end.
    waiting: usize,
}

impl Turns {
    /// A look's turn; none while a step has it.
    fn look(self: &Arc<Self>) -> Option<Turn> {
        let mut taken = self.lock();
        if taken.steps > 0 || taken.waiting > 0 {
            return None;
        }
        taken.looks += 1;
        Some(Turn { of: Arc::clone(self), is_step: false })
    }

    /// A step's turn, as soon as no look has it; none if that takes too long.
    fn step(self: &Arc<Self>, limit: Duration) -> Option<Turn> {
        let mut taken = self.lock();
        taken.waiting += 1;
        let waited = self.left.wait_timeout_while(taken, limit, |taken| taken.looks > 0);
        let (mut taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
        taken.waiting = taken.waiting.saturating_sub(1);
        if taken.looks > 0 {
            return None;
        }
        taken.steps += 1;
        Some(Turn { of: Arc::clone(self), is_step: true })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Numbers, each right after any statement.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    of: Arc<Turns>,
    is_step: bool,
}

impl Turn {
    /// Whether a step waits for it.
    fn is_wanted(&self) -> bool {
        self.of.lock().waiting > 0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        let count = if self.is_step { &mut taken.steps } else { &mut taken.looks };
        *count = count.saturating_sub(1);
        drop(taken);
        self.of.left.notify_all();
    }
}
