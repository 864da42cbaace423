//! Operations: a long-running change with an id, progress, a result and a log.
//!
//! An operation does nothing. It records what somebody asked for and the goal that shows that it has been reached;
//! [`judge`] compares the goal with plan and inventory. The work is done by the same loop that repairs everything.

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Subject};
use crate::name::{GpuKey, OperationId, Timestamp, VmName};
use crate::spec::GpuMode;

/// The most lines in an operation's log; the oldest go first.
pub const LOG_LINES_MAX: usize = 200;
/// The most operations that are remembered after their end; the oldest go first.
pub const OPERATIONS_KEPT_MAX: usize = 1_000;
/// The most findings that an operation carries.
pub const OPERATION_FINDINGS_MAX: usize = 32;

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What was asked for, in words: `start VM desk-01`.
    pub title: String,
    /// What it is about.
    pub subject: Subject,
    /// What shows that it is done.
    pub goal: Goal,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// Where it stands.
    pub state: OperationState,
    /// How far it is, in percent.
    pub progress_percent: u8,
    /// Why it waits or failed, and what else its user should know.
    pub findings: Vec<Finding>,
    /// What happened, oldest first.
    pub log: Vec<LogLine>,
}

/// A line in an operation's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// What.
    pub text: String,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It is being worked on.
    Running,
    /// It cannot go on for now and will by itself when its findings are gone.
    Waiting,
    /// Its goal was reached.
    Succeeded,
    /// It ended without reaching its goal; its findings say why. What was asked for stays asked for.
    Failed,
    /// A later wish made it pointless.
    Superseded,
}

impl OperationState {
    /// Whether nothing more will come of it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Superseded)
    }
}

/// What shows that an operation is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "goal", rename_all = "snake_case")]
pub enum Goal {
    /// The GPU is in a mode, read back.
    GpuMode {
        /// The GPU.
        gpu: GpuKey,
        /// The mode.
        mode: GpuMode,
    },
    /// The VM runs as of a command to start.
    VmRuns {
        /// The VM.
        vm: VmName,
        /// The command's number.
        serial: u64,
    },
    /// The VM is off and holds nothing that it does not reserve.
    VmOff {
        /// The VM.
        vm: VmName,
    },
    /// The VM is gone.
    VmGone {
        /// The VM.
        vm: VmName,
    },
    /// The wish itself was all there was to do.
    Recorded,
}
