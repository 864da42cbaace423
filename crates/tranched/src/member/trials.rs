//! The fence settings of other hosts are tried while all is well, on a thread of its own: agents take their time.
//!
//! Deliberately absent: what is tried when. [`tranche_core::liveness::Trials`] says so.

use std::sync::PoisonError;
use std::time::Duration;

use tranche_core::finding::Finding;
use tranche_core::liveness::{Due, Trial};
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;
use tranche_engine::cluster::Noted;

use super::{Inner, Member};

/// Between two looks whether anything is due.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Between two trials of which both are due.
const NEXT: Duration = Duration::from_millis(100);

/// Tells whether hosts could be fenced from this machine. Takes as long as agents may.
pub trait Tester: Send + Sync + std::fmt::Debug {
    /// Whether agent, options and secrets for a host are in order here. Asks no device.
    ///
    /// # Errors
    /// What would go wrong.
    fn settings(&self, host: &HostName, how: &FenceSpec) -> Result<(), Box<Finding>>;

    /// Whether a host's device answers, and says that the host is on.
    ///
    /// # Errors
    /// What would go wrong.
    fn device(&self, host: &HostName, how: &FenceSpec) -> Result<(), Box<Finding>>;
}

impl Member {
    /// Tries one thing that is due, if anything is. Returns how long to pause.
    pub(super) fn try_fences(&self) -> Duration {
        let Inner { parts, repository, .. } = &*self.0;
        // Without the store nobody could be cut either, and somebody who works on the network has paused failover.
        let Ok((spec, plan)) = repository.members() else { return LOOK_EVERY };
        if spec.policy.failover.paused {
            return LOOK_EVERY;
        }
        let next = || {
            let mut trials = self.0.trials.lock().unwrap_or_else(PoisonError::into_inner);
            trials.next(&parts.name, &spec.hosts, &plan.hosts, self.now_ms())
        };
        let Some(due) = next() else {
            self.tell_of_fences();
            return LOOK_EVERY;
        };
        let tried = match due.trial {
            Trial::Settings => parts.tester.settings(&due.host, &due.how),
            Trial::Device => parts.tester.device(&due.host, &due.how),
        };
        self.note_trial(due, tried.err().map(|finding| *finding));
        self.tell_of_fences();
        NEXT
    }

    fn note_trial(&self, due: Due, found: Option<Finding>) {
        if let Some(finding) = &found {
            tracing::warn!(host = %due.host, code = %finding.code, "{}", finding.message);
        }
        let mut trials = self.0.trials.lock().unwrap_or_else(PoisonError::into_inner);
        trials.note(due, found, self.now_ms());
    }

    /// Has the host's report say what was found, and wakes its loop if that is new.
    fn tell_of_fences(&self) {
        let found = {
            let trials = self.0.trials.lock().unwrap_or_else(PoisonError::into_inner);
            trials.findings(&self.0.parts.name)
        };
        if self.0.host.note(Noted::Fences, found) {
            self.0.parts.wake_host.ring();
        }
    }
}
