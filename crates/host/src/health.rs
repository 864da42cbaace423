//! How GPUs fare: what the bus, the kernel and the driver say, made into one verdict.
//!
//! | sign | verdict |
//! | --- | --- |
//! | the configuration space reads as all ones | needs a reset, or a restart where the kernel knows none |
//! | fatal PCIe errors (AER) have grown since this process began to look | sick |
//! | powered down or in no known power state while it is in use | sick |
//! | a fault in the kernel's log (see `kernel_log`); where that cannot be read, through the vendor's library | by its number |
//! | worn memory, as the vendor's library counts it (see `library`) | sick, or needs a reset |
//! | what the driver says through that library that it needs | that |
//!
//! A fault is over when the driver says so, when the GPU left that driver, or with the boot.
//!
//! A slow link is no sign: GPUs slow it down when idle. Corrected errors are none either.
//!
//! Deliberately absent: doing anything about it. Resetting a GPU under a VM is a person's decision.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{Gpu, Health, HealthState};
use tranche_core::name::{GpuAddress, HostName, PciAddress};

use crate::calls::Calls;
use crate::discover::function;
use crate::kernel_log::{Faults, Reader};
use crate::monitor::Fault;
use crate::report;
use crate::tree::Tree;

/// Power states in which a device does not work (kernel: drivers/pci/pci.c, `pci_power_names`).
const POWERLESS: [&str; 2] = ["D3cold", "unknown"];

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
}

#[derive(Debug, Default)]
struct Memory {
    boot_id: String,
    /// Fatal errors when the GPU was first seen.
    fatal_errors: BTreeMap<GpuAddress, u64>,
    log: Option<Reader>,
    faults: Faults,
    /// The driver that each GPU had when it was last seen.
    drivers: BTreeMap<GpuAddress, Option<String>>,
}

impl Watch {
    /// Forgets the faults of GPUs that have recovered.
    pub(crate) fn forget(&self, recovered: &[PciAddress]) {
        let mut memory = self.lock();
        recovered.iter().for_each(|gpu| memory.faults.forget(*gpu));
    }

    /// Takes note of faults that the vendor's library told.
    pub(crate) fn hear(&self, faults: impl Iterator<Item = Fault>) {
        let mut memory = self.lock();
        faults.for_each(|fault| memory.faults.hear(fault));
    }

    /// Whether the kernel's log could not be read in the last look.
    pub(crate) fn is_deaf(&self) -> bool {
        self.lock().log.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to each GPU's health what only a comparison with earlier looks, or the log, can tell.
    pub(crate) fn look(
        &self,
        calls: &Calls,
        (host, boot_id): (&HostName, &str),
        gpus: &mut BTreeMap<GpuAddress, Gpu>,
    ) -> Vec<Finding> {
        let mut memory = self.lock();
        if memory.boot_id != boot_id {
            *memory = Memory { boot_id: boot_id.to_owned(), ..Memory::default() };
        }
        memory.forget_what_drivers_took_along(gpus);
        let note = memory.read_log(calls, host, gpus);
        for (address, gpu) in &mut *gpus {
            memory.count_errors(address, gpu);
            let faults = address.pci().map(|pci| memory.faults.of(pci)).unwrap_or_default();
            faults.into_iter().for_each(|(state, reason)| gpu.health.add(state, reason));
        }
        note.into_iter().collect()
    }
}

impl Memory {
    /// A GPU that left its driver begins anew: whoever has it next finds out what is wrong with it.
    fn forget_what_drivers_took_along(&mut self, gpus: &BTreeMap<GpuAddress, Gpu>) {
        for (address, gpu) in gpus {
            let before = self.drivers.insert(address.clone(), gpu.driver.clone());
            if before.is_some_and(|before| before != gpu.driver) {
                self.fatal_errors.remove(address);
                address.pci().into_iter().for_each(|pci| self.faults.forget(pci));
            }
        }
    }

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
