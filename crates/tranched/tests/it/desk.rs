//! An engine on a fake machine, and the words in which tests tell it what to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tranche_core::change::Change;
use tranche_core::check;
use tranche_core::finding::{Code, Finding};
use tranche_core::name::{GpuAddress, GpuKey, HostName, OperationId, PciAddress, Timestamp, VmName};
use tranche_core::operation::OperationState;
use tranche_core::spec::{GpuMode, Request};
use tranche_host::calls::Limits;
use tranche_host::fake::Machine;
use tranche_store::{MemoryStore, Outcome, Repository, Store, StoreError};
use tranched::engine::{Engine, PassReport, Submitted};

use crate::fake_machine::{FakeMachine, new_vm};
use crate::stores::{Fault, Faulty};

/// A disk that can be full.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) full: AtomicBool,
}

impl Fault for Disk {
    fn on_commit(&self, commit: &dyn Fn() -> Result<Outcome, StoreError>) -> Result<Outcome, StoreError> {
        if self.full.load(Ordering::SeqCst) {
            let source = "database or disk is full".into();
            return Err(StoreError::Full { place: "tranche.db".to_owned(), source });
        }
        commit()
    }
}

/// An engine on a fake machine.
pub(crate) struct Desk {
    pub(crate) machine: FakeMachine,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) engine: Engine,
    pub(crate) now: Timestamp,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::on(Machine::gpus(2, 4))
    }

    pub(crate) fn on(machine: Machine) -> Self {
        let machine = FakeMachine::new(host(), machine);
        let disk = Arc::new(Disk::default());
        let store: Arc<dyn Store> =
            Arc::new(Faulty { store: Arc::new(MemoryStore::default()), fault: disk.clone() });
        let engine = open(&machine, &store, Limits::default());
        let mut desk = Self { machine, store, disk, engine, now: Timestamp(1) };
        desk.pass();
        desk
    }

    pub(crate) fn restart_daemon(&mut self, limits: Limits) {
        self.engine = open(&self.machine, &self.store, limits);
        self.pass();
    }

    /// One pass, a minute later than the last.
    pub(crate) fn pass(&mut self) -> PassReport {
        self.now.0 += 60_000;
        let report = self.engine.pass(self.now);
        let view = self.engine.view();
        assert_eq!(check::check(&view.plan), []);
        assert_eq!(check::check_world(&view.inventory, &view.plan), []);
        report
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..20 {
            let before = self.engine.view().revision;
            if !self.pass().is_busy() && self.engine.view().revision == before {
                return;
            }
        }
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, change: Change) -> OperationId {
        match self.engine.submit(&change, false, self.now) {
            Ok(Submitted::Accepted { operation, .. }) => operation.id,
            other => panic!("{change:?}: {other:?}"),
        }
    }

    /// Asks, and waits until all that can be done is done.
    #[track_caller]
    pub(crate) fn order(&mut self, change: Change) -> OperationId {
        let id = self.ask(change);
        self.settle();
        id
    }

    pub(crate) fn refusal(&self, change: &Change) -> Vec<Code> {
        let rejected = self.engine.submit(change, false, self.now).expect_err("it is refused");
        rejected.into_findings().into_iter().map(|finding| finding.code).collect()
    }

    pub(crate) fn finding(&self, code: Code) -> Option<Finding> {
        let found = self.engine.view().findings.iter().find(|finding| finding.code == code).cloned();
        if let Some(finding) = &found {
            assert!(!finding.hint.is_empty() && !finding.message.is_empty());
        }
        found
    }

    /// The codes with which an operation failed, each once.
    #[track_caller]
    pub(crate) fn failure(&self, id: OperationId) -> Vec<Code> {
        assert_eq!(self.outcome(id), OperationState::Failed);
        let view = self.engine.view();
        let mut codes: Vec<Code> = view.operations[&id].findings.iter().map(|finding| finding.code).collect();
        codes.dedup();
        codes
    }

    pub(crate) fn wish(&self, index: u8) -> GpuMode {
        self.engine.view().spec.gpus[&gpu(index)].mode.clone()
    }

    pub(crate) fn outcome(&self, id: OperationId) -> OperationState {
        self.engine.view().operations[&id].state
    }

    pub(crate) fn runs(&self, name: &str) -> bool {
        self.engine.view().inventory[&host()].domain(&vm(name)).is_some_and(|domain| domain.state.is_active())
    }

    pub(crate) fn vfs(&self, index: u8) -> usize {
        self.engine.view().inventory[&host()].gpus[&gpu(index).address].partitions.len()
    }
}

pub(crate) fn open(machine: &FakeMachine, store: &Arc<dyn Store>, limits: Limits) -> Engine {
    let repository = Repository::new(store.clone());
    Engine::open(host(), machine.host_with(limits), repository, 4).expect("the store can be read")
}

pub(crate) fn host() -> HostName {
    "node1".parse().unwrap()
}

pub(crate) fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

pub(crate) fn pf(index: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 0x10 + index * 4, device: 0, function: 0 }
}

pub(crate) fn gpu(index: u8) -> GpuKey {
    GpuKey { host: host(), address: GpuAddress::Pci(pf(index)) }
}

pub(crate) fn partitioned(count: u16) -> GpuMode {
    GpuMode::Partitioned { count, series: None }
}

pub(crate) fn split(index: u8, count: u16) -> Change {
    Change::SetGpuMode { gpu: gpu(index), mode: partitioned(count) }
}

pub(crate) fn release(index: u8) -> Change {
    Change::SetGpuMode { gpu: gpu(index), mode: GpuMode::Host }
}

pub(crate) fn create(name: &str) -> Change {
    Change::CreateVm { name: vm(name), vm: new_vm(Request::ANY_PARTITION) }
}

pub(crate) fn start(name: &str) -> Change {
    Change::StartVm { name: vm(name) }
}

pub(crate) fn stop(name: &str) -> Change {
    Change::StopVm { name: vm(name), force: false }
}
