//! Keeps the hypervisor out of sight until GPUs are back after a boot.
//!
//! libvirt is ordered after this daemon, so that its autostart finds the partitions. A connection to libvirt's socket
//! before that would make systemd queue libvirt's start behind our own, and wait for it: until the gate is open, the
//! hypervisor is therefore not even asked, and counts as down, so nothing is released.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::history::Reading;
use tranche_core::inventory::{self, Console};
use tranche_core::name::{HostName, VmId, VmName};
use tranche_core::step::Step;
use tranche_host::vm::{Hypervisor, Travels};

/// Opens the way to the hypervisor, once. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Opens it.
    pub fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A hypervisor behind a gate.
#[derive(Debug)]
pub struct Gated<H> {
    gate: Gate,
    hypervisor: H,
}

impl<H> Gated<H> {
    /// Puts a hypervisor behind a gate.
    pub fn new(gate: Gate, hypervisor: H) -> Self {
        Self { gate, hypervisor }
    }
}

impl<H: Hypervisor> Hypervisor for Gated<H> {
    fn observe(&self) -> inventory::Hypervisor {
        if self.gate.is_open() {
            self.hypervisor.observe()
        } else {
            inventory::Hypervisor::Down { reason: "the GPUs are being restored first".to_owned() }
        }
    }

    /// While GPUs are being restored, no VM comes or goes.
    fn travels(&self) -> Travels {
        if self.gate.is_open() { self.hypervisor.travels() } else { Travels::default() }
    }

    fn usage(&self) -> BTreeMap<VmName, Reading> {
        if self.gate.is_open() { self.hypervisor.usage() } else { BTreeMap::new() }
    }

    fn notes(&self, host: &HostName) -> Vec<Finding> {
        self.hypervisor.notes(host)
    }

    fn open_console(
        &self,
        vm: &VmName,
        id: VmId,
        console: Console,
        force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        if self.gate.is_open() {
            self.hypervisor.open_console(vm, id, console, force)
        } else {
            Err(Box::new(say::vm_not_running(vm)))
        }
    }

    /// No step for a VM is due while the hypervisor counts as down.
    fn apply(&self, step: &Step) -> Result<(), Box<Finding>> {
        self.hypervisor.apply(step)
    }
}
