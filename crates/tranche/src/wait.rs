//! Waits for an operation: asks how far it is until it is over, and shows it.
//!
//! The daemon answers when the operation is over, or after [`LOOK_EVERY`] to show how far it is. A level is asked for,
//! never an edge awaited: an operation that ended before the first question is simply over. The operation goes on while
//! the daemon is restarted or its cluster has no leader, so that the command goes on waiting as well.

use std::time::{Duration, Instant};

use tranche_core::finding::Finding;
use tranche_core::name::OperationId;
use tranche_core::operation::{LogLine, Operation, OperationState};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Console, Progress};

/// How long an answer may wait for the end.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Without --timeout, work is waited for this long.
const WORK_LONGEST: Duration = Duration::from_secs(600);
/// So long nothing may be heard of the operation.
const UNHEARD_LONGEST: Duration = Duration::from_secs(60);
/// Between two questions of which the first met nobody.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Without --timeout, an operation that waits for something else is left to itself after this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until an operation has succeeded.
///
/// # Errors
/// [`Failure::Operation`] if it ended otherwise, or is not over in time: it goes on all the same.
pub(crate) fn until_over(
    operation: Operation,
    timeout: Option<Duration>,
    client: &Client,
    console: &Console,
) -> Result<Operation, Failure> {
    let begun = Instant::now();
    let mut waiting_since = None;
    let mut shown = Shown::default();
    let mut progress = console.progress(&operation.title);
    let mut operation = operation;
    loop {
        shown.show(&operation, &mut progress);
        if operation.state.is_over() {
            break;
        }
        waiting_since = match operation.state {
            OperationState::Waiting => waiting_since.or_else(|| Some(Instant::now())),
            _ => None,
        };
        let out_of_patience =
            waiting_since.is_some_and(|since| timeout.is_none() && since.elapsed() >= PATIENCE);
        let left = timeout.unwrap_or(WORK_LONGEST).saturating_sub(begun.elapsed());
        if out_of_patience || left.is_zero() {
            break;
        }
        operation = look(&operation, left, client, &mut progress)?;
    }
    progress.clear();
    if operation.state == OperationState::Succeeded {
        Ok(operation)
    } else {
        Err(Failure::Operation(Box::new(operation)))
    }
}

/// Asks how far it is, again where nobody answers just now.
fn look(
    operation: &Operation,
    left: Duration,
    client: &Client,
    progress: &mut Progress,
) -> Result<Operation, Failure> {
    let wait_ms = left.min(LOOK_EVERY).as_millis();
    let path = format!("/operations/{}?wait_ms={wait_ms}", operation.id);
    let begun = Instant::now();
    let mut said = false;
    loop {
        match client.get_once(&path) {
            Err(error) if error.may_pass() && begun.elapsed() < left.min(UNHEARD_LONGEST) => {
                if !said {
                    progress.line(&format!("{error} It goes on all the same; asking again."));
                    said = true;
                }
                std::thread::sleep(ASK_EVERY);
            }
            answer => return Ok(answer?),
        }
    }
}

/// Asks for an operation.
pub(crate) fn get(id: OperationId, client: &Client) -> Result<Operation, Failure> {
    Ok(client.get(&format!("/operations/{id}"))?)
}

/// What of an operation was shown already.
#[derive(Debug, Default)]
struct Shown {
    last: Option<LogLine>,
    waits_for: Vec<Finding>,
}

impl Shown {
    fn show(&mut self, operation: &Operation, progress: &mut Progress) {
        // The log forgets its oldest lines, so that its length tells nothing.
        let seen = self.last.as_ref().and_then(|last| operation.log.iter().rposition(|line| line == last));
        for line in &operation.log[seen.map_or(0, |index| index + 1)..] {
            progress.line(&line.text);
        }
        self.last = operation.log.last().cloned();
        if operation.state == OperationState::Waiting && operation.findings != self.waits_for {
            for finding in &operation.findings {
                progress.line(&format!("waits: {}", finding.message));
            }
            self.waits_for.clone_from(&operation.findings);
        }
        progress.percent(operation.progress_percent);
    }
}
