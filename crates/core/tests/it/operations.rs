//! Operations as they are when they begin.

use tranche_core::finding::Subject;
use tranche_core::name::{OperationId, Timestamp};
use tranche_core::operation::{Goal, Operation, OperationState};
use uuid::Uuid;

/// An operation that was begun for a goal.
pub(crate) fn operation(title: &str, subject: Subject, goal: Goal) -> Operation {
    Operation {
        id: OperationId(Uuid::nil()),
        title: title.to_owned(),
        subject,
        goal,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        state: OperationState::Running,
        progress_percent: 0,
        findings: Vec::new(),
        log: Vec::new(),
    }
}
