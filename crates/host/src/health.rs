//! How GPUs fare: what the bus, the kernel and the driver say, made into one verdict.
//!
//! | sign | verdict |
//! | --- | --- |
//! | the configuration space reads as all ones | needs a reset, or a restart where the kernel knows none |
//! | fatal PCIe errors (AER) have grown since this process began to look | sick |
//! | powered down or in no known power state while it is in use | sick |
//! | a fault in the kernel's log (see `kernel_log`) | by its number |
//! | worn memory, as the vendor's library counts it (see `nvml`) | sick, or needs a reset |
//!
//! A slow link is no sign: GPUs slow it down when idle. Corrected errors are none either.
//!
//! Deliberately absent: doing anything about it. Resetting a GPU under a VM is a person's decision.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{Gpu, Health, HealthState};
use tranche_core::name::{GpuAddress, HostName, PciAddress, Timestamp};

use crate::calls::Calls;
use crate::discover::function;
use crate::kernel_log::{Faults, Reader};
use crate::monitor::{Monitor, Reading};
use crate::report;
use crate::tree::Tree;

/// Power states in which a device does not work (kernel: drivers/pci/pci.c, `pci_power_names`).
const POWERLESS: [&str; 2] = ["D3cold", "unknown"];

/// How long the answer of a vendor's library serves, in milliseconds: asking wakes the GPUs up and keeps them open.
const ASK_EVERY_MS: u64 = 30_000;

/// What one look at the bus says.
pub(crate) fn on_the_bus(tree: &dyn Tree, dir: &str, gpu: &Gpu) -> Health {
    let mut health = Health::default();
    if function::is_off_the_bus(tree, dir) {
        let state =
            if gpu.reset_methods.is_empty() { HealthState::NeedsReboot } else { HealthState::NeedsReset };
        health.add(state, "its configuration space reads as all ones");
    }
    let power = tree.text(&format!("{dir}/power_state")).unwrap_or_default();
    let in_use = !gpu.open_by.is_empty() || gpu.partitions.iter().any(|part| !part.open_by.is_empty());
    if in_use && POWERLESS.contains(&power.as_str()) {
        health.add(HealthState::Sick, format!("its power state is {power} while it is in use"));
    }
    health
}

/// What is remembered between looks, of one boot.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    memory: Mutex<Memory>,
    monitor: Option<Arc<dyn Monitor>>,
}

#[derive(Debug, Default)]
struct Memory {
    boot_id: String,
    /// Fatal errors when the GPU was first seen.
    fatal_errors: BTreeMap<GpuAddress, u64>,
    log: Option<Reader>,
    faults: Faults,
    /// What the vendor's library said, and when.
    said: Option<(Timestamp, BTreeMap<PciAddress, Reading>)>,
}

impl Watch {
    /// A watch that asks a vendor's library, too.
    pub(crate) fn with(monitor: Arc<dyn Monitor>) -> Self {
        Self { monitor: Some(monitor), ..Self::default() }
    }

    /// Adds to each GPU's health what only a comparison with earlier looks, or the log, can tell.
    pub(crate) fn look(
        &self,
        calls: &Calls,
        (host, boot_id): (&HostName, &str),
        now: Timestamp,
        gpus: &mut BTreeMap<GpuAddress, Gpu>,
    ) -> Vec<Finding> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.boot_id != boot_id {
            *memory = Memory { boot_id: boot_id.to_owned(), ..Memory::default() };
        }
        let note = memory.read_log(calls, host, gpus);
        for (address, gpu) in &mut *gpus {
            memory.count_errors(address, gpu);
            let faults = address.pci().map(|pci| memory.faults.of(pci)).unwrap_or_default();
            faults.into_iter().for_each(|(state, reason)| gpu.health.add(state, reason));
        }
        if let Some(monitor) = &self.monitor {
            memory.ask(monitor, calls, now, gpus);
        }
        note.into_iter().collect()
    }
}

impl Memory {
    fn count_errors(&mut self, address: &GpuAddress, gpu: &mut Gpu) {
        let Some(now) = gpu.aer.map(|aer| aer.fatal) else { return };
        let first = self.fatal_errors.entry(address.clone()).or_insert(now);
        // Counters begin anew when a device appears again.
        *first = now.min(*first);
        if now > *first {
            let reason = format!("its link had fatal errors (AER counts {now}, {first} when first seen)");
            gpu.health.add(HealthState::Sick, reason);
        }
    }

    /// Adds what the vendor's library says of the GPUs that its driver has; the last answer serves for a while.
    fn ask(
        &mut self,
        monitor: &Arc<dyn Monitor>,
        calls: &Calls,
        now: Timestamp,
        gpus: &mut BTreeMap<GpuAddress, Gpu>,
    ) {
        let of_driver = |gpu: &&mut Gpu| gpu.driver.as_deref() == Some(monitor.driver());
        if !gpus.values_mut().any(|gpu| of_driver(&gpu)) {
            return;
        }
        if self.said.as_ref().is_none_or(|(at, _)| now.ms_since(*at) >= ASK_EVERY_MS) {
            let asked = Arc::clone(monitor);
            let what = format!("the library of driver {}", monitor.driver());
            let answer = match calls.ask(now, &what, move || asked.look()) {
                Ok(Ok(readings)) => readings,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "{what} does not answer");
                    BTreeMap::new()
                }
                // It is listed among the calls that are stuck.
                Err(_) => BTreeMap::new(),
            };
            self.said = Some((now, answer));
        }
        let Some((_, readings)) = &self.said else { return };
        for gpu in gpus.values_mut().filter(of_driver) {
            let Some(reading) = gpu.address.pci().and_then(|address| readings.get(&address)) else {
                continue;
            };
            gpu.telemetry = Some(reading.telemetry.clone());
            if reading.unique_id.is_some() {
                gpu.unique_id.clone_from(&reading.unique_id);
            }
            reading.signs.iter().for_each(|(state, reason)| gpu.health.add(*state, reason.clone()));
        }
    }

    fn read_log(
        &mut self,
        calls: &Calls,
        host: &HostName,
        gpus: &BTreeMap<GpuAddress, Gpu>,
    ) -> Option<Finding> {
        if gpus.is_empty() {
            return None;
        }
        // On this thread: reading the log never waits, and a thread for it would, among all the others, at each look.
        let read = self.log.take().map_or_else(|| Reader::open(calls.tree()), Ok);
        match read.and_then(|mut log| Ok((log.new_lines()?, log))) {
            Ok((lines, log)) => {
                lines.iter().for_each(|line| self.faults.read(line));
                self.log = Some(log);
                None
            }
            // A captured tree has no log, and that says nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(unreadable(host, &error)),
        }
    }
}

fn unreadable(host: &HostName, why: &io::Error) -> Finding {
    let message = format!(
        "The kernel's log of host {host} cannot be read, so faults that drivers report there are missed: {why}."
    );
    let hint = "Reading /dev/kmsg takes CAP_SYSLOG: look at the daemon's unit and its drop-ins.";
    report::host_note(host, Code::KernelRefused, message, hint)
}
