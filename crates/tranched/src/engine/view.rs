//! A view: everything that is known at one moment, for readers who must not wait.

use std::collections::BTreeMap;

use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{HostInventory, Inventory};
use tranche_core::name::{OperationId, Timestamp};
use tranche_core::operation::Operation;
use tranche_core::plan::Plan;
use tranche_core::spec::Spec;
use tranche_store::State;

/// Everything that is known at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Grows with each view; starts anew with the daemon.
    pub revision: u64,
    /// What people asked for.
    pub spec: Spec,
    /// What was decided.
    pub plan: Plan,
    /// What hosts report.
    pub inventory: Inventory,
    /// What is wrong or waits.
    pub findings: Vec<Finding>,
    /// What is being done and was done.
    pub operations: BTreeMap<OperationId, Operation>,
}

impl View {
    pub(super) fn new(revision: u64, stored: &State, inventory: &Inventory, findings: &[Finding]) -> Self {
        Self {
            revision,
            spec: stored.spec.clone(),
            plan: stored.plan.clone(),
            inventory: inventory.clone(),
            findings: findings.to_vec(),
            operations: stored.operations.clone(),
        }
    }

    /// Whether a reader would see no difference; the time of observation is none.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let same_host = |a: &HostInventory, b: &HostInventory| {
            a.observed_at == b.observed_at || *a == HostInventory { observed_at: a.observed_at, ..b.clone() }
        };
        self.spec == other.spec
            && self.plan == other.plan
            && self.findings == other.findings
            && self.operations == other.operations
            && self.inventory.len() == other.inventory.len()
            && self
                .inventory
                .iter()
                .zip(&other.inventory)
                .all(|((_, a), (_, b))| a.host == b.host && same_host(a, b))
    }

    /// When a host last reported.
    pub fn observed_at(&self) -> Timestamp {
        self.inventory.values().map(|seen| seen.observed_at).max().unwrap_or_default()
    }
}

/// The finding for a commit that met somebody else's.
pub(super) fn conflict_finding(what: &str) -> Finding {
    finding(
        Code::VersionConflict,
        Severity::Error,
        Subject::Installation,
        format!("Somebody else changed the same thing meanwhile: {what}."),
        "Look again, then repeat.",
    )
}
