//! Carrying out steps: those of one subject in order, those of different subjects side by side, begun in the order in which the
//! steps are due.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use tranche_core::finding::Finding;
use tranche_core::name::{HostName, Timestamp};
use tranche_core::step::{Step, StepSubject};
use tranche_host::Host;

use crate::trail::Trails;

/// Where steps are carried out, and who follows them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) name: &'a HostName,
    pub(super) trails: &'a Trails,
    /// Steps of so many subjects are carried out side by side.
    pub(super) workers: usize,
}

/// What came of a step.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The step.
    pub(super) step: Step,
    /// The finding, if it failed.
    pub(super) result: Result<(), Box<Finding>>,
}

/// Carries out steps and returns what came of each one tried, subject by subject as they first come. Steps behind one that
/// failed are not tried. GPUs come before VMs, so that a partition is never touched while its VM starts.
pub(super) fn act(place: Place<'_>, due: Vec<Step>, now: Timestamp) -> Vec<Outcome> {
    let (gpus, vms): (Vec<_>, Vec<_>) =
        due.into_iter().partition(|step| matches!(step.subject(), StepSubject::Gpu(_)));
    let mut outcomes = side_by_side(place, rows(gpus), now);
    outcomes.extend(side_by_side(place, rows(vms), now));
    outcomes
}

/// The steps of each subject, in the order in which the subjects first come.
fn rows(due: Vec<Step>) -> Vec<Vec<Step>> {
    let mut places: BTreeMap<StepSubject, usize> = BTreeMap::new();
    let mut rows: Vec<Vec<Step>> = Vec::new();
    for step in due {
        let place = *places.entry(step.subject()).or_insert(rows.len());
        match rows.get_mut(place) {
            Some(row) => row.push(step),
            None => rows.push(vec![step]),
        }
    }
    rows
}

fn side_by_side(place: Place<'_>, rows: Vec<Vec<Step>>, now: Timestamp) -> Vec<Outcome> {
    if place.workers == 1 || rows.len() < 2 {
        return rows.into_iter().flat_map(|row| in_order(place, row, now)).collect();
    }
    let count = rows.len();
    let queue = Mutex::new(rows.into_iter().enumerate());
    let done = Mutex::new(BTreeMap::new());
    let next = || queue.lock().ok()?.next();
    thread::scope(|scope| {
        for _ in 0..place.workers.min(count) {
            scope.spawn(|| {
                while let Some((index, row)) = next() {
                    let outcomes = in_order(place, row, now);
                    if let Ok(mut done) = done.lock() {
                        done.insert(index, outcomes);
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_default().into_values().flatten().collect()
}

fn in_order(place: Place<'_>, row: Vec<Step>, now: Timestamp) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for step in row {
        let span = place.trails.step(place.name, &step);
        let result = span.in_scope(|| place.host.apply(&step, now));
        let failed = result.is_err();
        if let Err(finding) = &result {
            span.record("error.type", tracing::field::display(finding.code));
            tracing::warn!(step = %step, code = %finding.code, "{}", finding.message);
        } else {
            tracing::info!(step = %step, "done");
        }
        outcomes.push(Outcome { step, result });
        if failed {
            break;
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use tranche_core::name::VmId;

    use super::*;

    #[test]
    fn subjects_are_taken_in_the_order_in_which_their_steps_are_due_and_each_keeps_its_own() {
        let id = VmId(uuid::Uuid::nil());
        let start = |name: &str| Step::StartVm { vm: name.parse().unwrap(), id };
        let kill = |name: &str| Step::KillVm { vm: name.parse().unwrap(), id };
        let due = vec![kill("z"), start("b"), start("z"), start("a")];
        assert_eq!(rows(due), [vec![kill("z"), start("z")], vec![start("b")], vec![start("a")]]);
    }
}
