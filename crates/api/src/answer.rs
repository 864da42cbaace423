//! Answers that are no view: what came of a change, and what a question found.

use serde::{Deserialize, Serialize};
use tranche_core::change::Version;
use tranche_core::effect::Effect;
use tranche_core::finding::{Finding, Severity, Subject};
use tranche_core::name::{HostName, VmName};
use tranche_core::operation::Operation;

/// A change was accepted: status 202, with the operation's address in `Location`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Accepted {
    /// What follows from it. It may be over already.
    pub operation: Operation,
    /// What its user should know.
    pub findings: Vec<Finding>,
}

/// A declaration was accepted: status 202. Changes are made in order, up to the first that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Applied {
    /// One operation for each change that was needed; none if everything is as declared.
    pub operations: Vec<Operation>,
    /// What its user should know.
    pub findings: Vec<Finding>,
}

/// What a change would do, which was not done: status 200, for `?dry_run=true` and `POST /v1/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Preview {
    /// The changes, in words and in order; none if everything is as asked for.
    pub changes: Vec<String>,
    /// What would become of VMs, and what each host would do.
    pub effect: Effect,
    /// What it rests on. A wish with this version is refused if that has changed; only of wishes for all GPUs of a set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub version: Option<Version>,
}

/// Why a VM cannot run on a host: `GET /v1/why-not/{vm}/{host}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhyNot {
    /// The VM.
    pub vm: VmName,
    /// The host.
    pub host: HostName,
    /// Whether it could.
    pub possible: bool,
    /// Every predicate that fails.
    pub findings: Vec<Finding>,
}

/// What the checker and the search for drift found: `GET /v1/doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Diagnosis {
    /// Whether nothing graver than information was found.
    pub healthy: bool,
    /// What was found, the gravest first.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// A diagnosis from what was found.
    pub fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
        Self { healthy: findings.iter().all(|finding| finding.severity == Severity::Info), findings }
    }
}

/// Something changed: an event `change` of `GET /v1/events`. It carries no data; read anew what you show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChangeEvent {
    /// The number of the view that has the change; it grows, and starts anew with the daemon.
    pub revision: u64,
    /// What changed; the installation where it is too much to name.
    pub subjects: Vec<Subject>,
}

/// The daemon is alive: `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = DaemonHealth)]
pub struct Health {
    /// Always `ok`; where it is not, the answer is a problem.
    pub status: String,
    /// The daemon's version.
    pub version: String,
    /// Milliseconds since the reconcile loop last finished a pass.
    pub pass_age_ms: u64,
}
