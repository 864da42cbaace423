//! Waiting for etcd on the way into a cluster and out of it.

use std::thread;
use std::time::{Duration, Instant};

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding};

/// How long a member of the store may take to answer, and to catch up: on slow machines minutes (seen with three emulated
/// hosts on two cores).
const ANSWERS_WITHIN: Duration = Duration::from_secs(5 * 60);
/// How often is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

/// Waiting, with a limit, so that whoever looks sees for what and for how long.
pub(super) struct Waits<'a> {
    tell: &'a dyn Fn(&str) -> Result<(), Finding>,
    doing: &'a str,
    began: Instant,
    told: Instant,
}

impl<'a> Waits<'a> {
    /// Begins to wait, for somebody who hears what is being done.
    pub(super) fn begin(tell: &'a dyn Fn(&str) -> Result<(), Finding>, doing: &'a str) -> Self {
        let began = Instant::now();
        Self { tell, doing, began, told: began }
    }

    /// Waits some more for etcd to do something.
    pub(super) fn more(&mut self, what: &str) -> Result<(), Finding> {
        let (waited, limit) = (self.began.elapsed(), ANSWERS_WITHIN.as_secs());
        if waited >= ANSWERS_WITHIN {
            return Err(say::store_member_failed(what, &format!("it took longer than {limit} s")));
        }
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            (self.tell)(&format!("{}: {} s so far, at most {limit} s", self.doing, waited.as_secs()))?;
        }
        thread::sleep(LOOK);
        Ok(())
    }
}

/// Does what can be repeated again and again while the store does not answer: one that takes in a member, or that has just been
/// started on a slow machine, may not do so for a while.
pub(super) fn patiently<T>(
    tell: &dyn Fn(&str) -> Result<(), Finding>,
    doing: &str,
    mut step: impl FnMut() -> Result<T, Finding>,
) -> Result<T, Finding> {
    let mut waits = Waits::begin(tell, "wait for the store");
    loop {
        match step() {
            Err(finding) if finding.code == Code::StoreUnavailable => {
                tracing::info!(code = %finding.code, doing, "{}; it is tried again", finding.message);
                waits.more(doing)?;
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use tranche_core::finding::{Severity, Subject};

    use super::*;

    fn refusal(code: Code) -> Finding {
        say::finding(code, Severity::Error, Subject::Installation, "It did not.", "Try again.")
    }

    #[test]
    fn what_the_store_does_not_answer_is_tried_again_and_what_it_refuses_is_not() {
        let mut answers =
            vec![Ok(7), Err(refusal(Code::StoreUnavailable)), Err(refusal(Code::StoreUnavailable))];
        let step = || answers.pop().expect("no more is asked for");
        assert_eq!(patiently(&|_| Ok(()), "try", step), Ok(7));
        let mut tries = 0;
        let refused = patiently(&|_| Ok(()), "try", || -> Result<(), Finding> {
            tries += 1;
            Err(refusal(Code::StoreFull))
        });
        assert_eq!((refused.unwrap_err().code, tries), (Code::StoreFull, 1));
    }
}
