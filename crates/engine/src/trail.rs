//! What ties together what is done for one operation, wherever it is done, so that whoever asked for it can follow it as one trace.
//!
//! ```text
//! request ─► operation ─┬─► turn of a host: observe, decide (plan, commit), act
//!                       ├─► turn of whoever leads: decide (plan, commit)
//!                       └─► step, step, … on each host that it concerns
//! ```
//!
//! An operation and its steps are done by loops that know nothing of who asked. So who takes a wish lays a [`Trail`] in the store, and
//! whoever decides or acts for the operation looks for it there. Spans are those of `tracing`, with [`TARGET`]; fields that begin with
//! `trail.` are for whoever makes traces of them. Only a request begins a trace: without one, and unless the daemon makes traces at all,
//! nothing is looked for and no span is made.
//!
//! Deliberately absent: how traces are made and where they are sent (the daemon's affair), and anything that rests on them.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use tracing::Span;
use tranche_core::finding::Subject;
use tranche_core::name::{HostName, OperationId, Timestamp};
use tranche_core::operation::Operation;
use tranche_core::plan::Plan;
use tranche_core::step::Step;
use tranche_store::{Repository, Trail};

/// The target of every span that is part of a trace, and of nothing else.
pub const TARGET: &str = "tranche_trail";

/// For how long the turns that serve an operation are shown, in milliseconds: one that waits for room has thousands. Its steps are shown
/// whenever they come.
const TURNS_SHOWN_MS: u64 = 60_000;

/// Tells where whoever runs stands in a trace.
type Here = fn() -> Option<String>;

static HERE: OnceLock<Here> = OnceLock::new();

/// From now on traces are made, and `here` tells where whoever runs stands in one. It is asked for once in a process.
pub fn make_traces(here: Here) {
    let _ = HERE.set(here);
}

/// Whether traces are made.
pub fn is_made() -> bool {
    HERE.get().is_some()
}

/// Where whoever runs stands in a trace, as a `traceparent`; nothing outside of one.
pub fn here() -> Option<String> {
    HERE.get().and_then(|here| here())
}

/// The same, if that trace is kept: nobody need look for one that is not.
pub(crate) fn kept_here() -> Option<String> {
    here().filter(|here| here.ends_with("-01"))
}

/// Where an operation itself stands in the trace that asked for it. Its own part of that is its id, so that whoever does something for it
/// can say so before anybody has told of the operation itself.
fn place_of(trail: &Trail) -> Option<String> {
    let trace = trail.follows.get(3..35)?;
    let (_, own) = trail.operation.0.as_u64_pair();
    Some(format!("00-{trace}-{own:016x}-01"))
}

/// The trails that concern whoever has them.
#[derive(Debug, Default)]
pub(crate) struct Trails(Vec<Trail>);

impl Trails {
    /// Those of the store; none where it does not tell, or no traces are made.
    pub(crate) fn of(repository: &Repository) -> Self {
        if !is_made() {
            return Self::default();
        }
        Self(repository.trails().unwrap_or_default())
    }

    /// Those that a host has something to do for.
    pub(crate) fn on(mut self, host: &HostName, plan: &Plan) -> Self {
        let concerns = |subject: &Subject| match subject {
            Subject::Vm(vm) => plan.vms.contains_key(vm),
            subject => subject.gpu().is_some_and(|gpu| &gpu.host == host),
        };
        self.0.retain(|trail| trail.subjects.iter().any(concerns));
        self
    }

    /// The span of a turn that serves them. One that serves several operations is shown in the trace of one.
    pub(crate) fn turn(&self, host: &HostName, now: Timestamp) -> Span {
        let shown = self.0.iter().filter(|trail| !now.is_past(trail.laid_at, TURNS_SHOWN_MS));
        match shown.max_by_key(|trail| trail.laid_at).and_then(place_of) {
            Some(follows) => {
                tracing::info_span!(target: TARGET, "turn", trail.follows = follows, tranche.host = %host)
            }
            None => Span::none(),
        }
    }

    /// The span of a step.
    pub(crate) fn step(&self, host: &HostName, step: &Step) -> Span {
        let subject = step.subject().on(host);
        let served = self.0.iter().filter(|trail| trail.subjects.contains(&subject));
        match served.max_by_key(|trail| trail.laid_at).and_then(place_of) {
            Some(follows) => tracing::info_span!(
                target: TARGET,
                "step",
                trail.follows = follows,
                tranche.host = %host,
                tranche.step = %step,
                error.type = tracing::field::Empty,
            ),
            None => Span::none(),
        }
    }

    /// Tells of operations that are over, and returns those that had a trail.
    pub(crate) fn tell(&self, over: &[Operation]) -> Vec<OperationId> {
        let of = |operation: &&Operation| self.0.iter().find(|trail| trail.operation == operation.id);
        let followed = over.iter().filter_map(|operation| Some((operation, of(&operation)?)));
        followed.map(|(operation, trail)| tell_of(operation, trail)).collect()
    }
}

fn tell_of(operation: &Operation, trail: &Trail) -> OperationId {
    let codes: BTreeSet<String> = operation.findings.iter().map(|finding| finding.code.to_string()).collect();
    let span = tracing::info_span!(
        target: TARGET,
        "operation",
        trail.follows = trail.follows,
        trail.stands_at = place_of(trail),
        trail.began_ms = operation.created_at.0,
        trail.ended_ms = operation.updated_at.0,
        tranche.operation = %operation.id,
        tranche.title = operation.title,
        tranche.subject = %operation.subject,
        tranche.state = ?operation.state,
        tranche.findings = codes.into_iter().collect::<Vec<_>>().join(" "),
        error.type = tracing::field::Empty,
    );
    if operation.state == tranche_core::operation::OperationState::Failed {
        span.record("error.type", "failed");
    }
    operation.id
}

/// A part of a turn, which is shown where the turn is.
macro_rules! part {
    ($name:literal) => {
        tracing::info_span!(target: $crate::trail::TARGET, $name)
    };
}
pub(crate) use part;

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "00-0123456789abcdef0123456789abcdef-00000000000000aa-01";

    #[test]
    fn what_is_done_for_an_operation_is_in_the_trace_of_who_asked_under_the_operation_itself() {
        let operation = OperationId(uuid::Uuid::from_u64_pair(1, 0x8000_0000_0000_00ff));
        let (subjects, laid_at) = (Vec::new(), Timestamp(1));
        let trail = Trail { operation, follows: ASKED.to_owned(), subjects, laid_at };
        let place = "00-0123456789abcdef0123456789abcdef-80000000000000ff-01";
        assert_eq!(place_of(&trail).as_deref(), Some(place));
        let damaged = Trail { follows: "00-0123".to_owned(), ..trail };
        assert_eq!(place_of(&damaged), None, "what cannot be read is not followed");
    }

    #[test]
    fn where_no_traces_are_made_nothing_is_looked_for_and_nobody_stands_in_one() {
        assert!(!is_made());
        assert_eq!(here(), None);
        let turn = Trails::default().turn(&"node1".parse().unwrap(), Timestamp(1));
        assert!(turn.is_disabled());
    }
}
