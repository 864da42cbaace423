//! Trails of wishes that somebody follows: laid before a wish is stored, taken away when its operation is over.
//!
//! Deliberately absent: errors. A trail that cannot be laid is a trace that ends with the request.

use tracing::Span;
use tranche_core::name::{HostName, OperationId, Timestamp};
use tranche_core::operation::Operation;
use tranche_core::plan::Plan;
use tranche_store::{State, Trail};

use super::operations::subjects;
use super::{Desk, Inner};
use crate::trail::{self, Trails};

impl Desk {
    /// The trails of operations that are not over.
    pub(crate) fn trails(&self) -> Trails {
        Trails::of(&self.repository)
    }

    /// Lays the trails of operations that are about to be stored, each with who asked for it, if that is followed.
    pub(super) fn lay_trails<'o>(
        &self,
        plan: &Plan,
        asked: impl IntoIterator<Item = (&'o Operation, Option<&'o str>)>,
    ) {
        let followed = asked.into_iter().filter_map(|(operation, follows)| Some((operation, follows?)));
        let trails: Vec<Trail> = followed
            .map(|(operation, follows)| Trail {
                operation: operation.id,
                follows: follows.to_owned(),
                subjects: subjects(operation, plan),
                laid_at: operation.created_at,
            })
            .collect();
        if let Err(error) = self.repository.lay_trails(&trails) {
            tracing::debug!(%error, "what is done for an operation is not followed");
        }
    }

    /// The span of a decision: within what runs already, or of whoever leads, who does nothing else. Looked for only while there is an
    /// operation that is not over.
    pub(super) fn decision(&self, inner: &Inner, now: Timestamp) -> Span {
        if !trail::is_made() {
            return Span::none();
        }
        if trail::here().is_some() {
            return trail::part!("decide");
        }
        let is_at_work = |operation: &Operation| !operation.state.is_over();
        let Some(host) =
            self.decides_at.get().filter(|_| inner.loaded.state.operations.values().any(is_at_work))
        else {
            return Span::none();
        };
        self.trails().turn(host, now)
    }

    /// Says at which host this desk decides, for those who follow what it does.
    pub(crate) fn decides_at(&self, host: &HostName) {
        let _ = self.decides_at.set(host.clone());
    }

    /// Tells of operations that are over since, and takes their trails away.
    pub(super) fn end_trails(&self, before: &State, after: &State) {
        let ends = |was: Option<&Operation>, is: &Operation| {
            is.state.is_over() && was.is_some_and(|was| !was.state.is_over())
        };
        let changes = before.operations.changes(&after.operations);
        let over: Vec<Operation> =
            changes.filter_map(|(_, was, is)| is.filter(|is| ends(was, is))).cloned().collect();
        if over.is_empty() {
            return;
        }
        let told: Vec<OperationId> = self.trails().tell(&over);
        // What stays is gone with its lease.
        let _ = self.repository.end_trails(&told);
    }
}
