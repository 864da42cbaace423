//! A view: everything that is known at one moment, for readers who must not wait.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use tranche_core::capacity::{self, Capacity};
use tranche_core::change;
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::Inventory;
use tranche_core::map::Map;
use tranche_core::name::{OperationId, Timestamp};
use tranche_core::operation::Operation;
use tranche_core::plan::Plan;
use tranche_core::spec::Spec;
use tranche_store::Shared;

/// Everything that is known at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Grows with each view; starts anew with the daemon.
    pub revision: u64,
    /// What people asked for.
    pub spec: Shared<Spec>,
    /// What was decided.
    pub plan: Shared<Plan>,
    /// What hosts report.
    pub inventory: Shared<Inventory>,
    /// What is wrong or waits.
    pub findings: Shared<Vec<Finding>>,
    /// What is being done and was done.
    pub operations: Shared<Map<OperationId, Operation>>,
    /// What there is to spare, once somebody has asked: it takes a trial of each host's loss. Views that show the same share it.
    pub(super) spare: Arc<OnceLock<Capacity>>,
}

impl View {
    /// What there is to spare. Takes time with the first who asks since something has changed.
    pub fn capacity(&self) -> &Capacity {
        self.spare.get_or_init(|| {
            let state = change::State { spec: &self.spec, plan: &self.plan, inventory: &self.inventory };
            capacity::capacity(state, &BTreeSet::new()).expect("no host is left out that could be unknown")
        })
    }

    /// Whether a reader would see no difference; the time of observation is none.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.spec == other.spec
            && self.plan == other.plan
            && self.findings == other.findings
            && self.operations == other.operations
            && self
                .inventory
                .changes(&other.inventory)
                .all(|(_, a, b)| a.zip(b).is_some_and(|(a, b)| a.is_as(b)))
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
