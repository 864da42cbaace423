//! Cutting hosts without waiting for it: each at its own pace, one agent at a time for each host.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tranche_core::finding::{Code, Finding};
use tranche_core::liveness::Cause;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;

use super::{Agents, Outcome, problem};

/// Called whenever a cut has come to its end. It must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How far the power of a host was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// The agent is at work.
    UnderWay,
    /// The host is off.
    Confirmed,
    /// The host may be on. The next call tries again.
    Failed(Box<Finding>),
}

/// Cuts hosts.
pub struct Cutter {
    agents: Arc<Agents>,
    cuts: Arc<Mutex<BTreeMap<HostName, Job>>>,
    wake: Wake,
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutter").field("agents", &self.agents).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Job {
    cause: Cause,
    outcome: Option<Outcome>,
}

impl Cutter {
    /// Cuts by these agents.
    pub fn new(agents: Arc<Agents>, wake: Wake) -> Self {
        Self { agents, cuts: Arc::default(), wake }
    }

    /// Begins to cut a host's power, unless that is under way or done for this cause, and says how far it has come. Does not wait.
    /// What was confirmed for one cause says nothing of another: the host may have been turned on since.
    pub fn cut(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Cut {
        let mut cuts = self.lock();
        match cuts.get(host) {
            // An agent that is at work for an older cause is waited for: two at once would disturb each other.
            Some(Job { outcome: None, .. }) => return Cut::UnderWay,
            Some(job) if job.cause == cause => match job.outcome.clone() {
                Some(Outcome::Failed(finding) | Outcome::TimedOut(finding)) => {
                    cuts.remove(host);
                    return Cut::Failed(finding);
                }
                _ => return Cut::Confirmed,
            },
            _ => {}
        }
        cuts.insert(host.clone(), Job { cause, outcome: None });
        drop(cuts);
        self.begin(host, how)
    }

    fn begin(&self, host: &HostName, how: &FenceSpec) -> Cut {
        let (agents, cuts, wake) = (Arc::clone(&self.agents), Arc::clone(&self.cuts), Arc::clone(&self.wake));
        let (name, how) = (host.clone(), how.clone());
        let work = move || {
            let done = Done { cuts, name: name.clone(), wake };
            let outcome = agents.fence(&name, &how);
            done.with(outcome);
        };
        let Err(error) = std::thread::Builder::new().name("fence".to_owned()).spawn(work) else {
            return Cut::UnderWay;
        };
        self.lock().remove(host);
        let message = format!("Host {host} could not be fenced: no thread could be started ({error}).");
        Cut::Failed(problem(
            host,
            Code::FenceFailed,
            message,
            "The machine is out of processes or memory; it is tried again.",
        ))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostName, Job>> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the outcome where it is looked for; a thread that dies without one leaves no host under way for ever.
struct Done {
    cuts: Arc<Mutex<BTreeMap<HostName, Job>>>,
    name: HostName,
    wake: Wake,
}

impl Done {
    fn with(self, outcome: Outcome) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = cuts.get_mut(&self.name) {
            job.outcome = Some(outcome);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        if cuts.get(&self.name).is_some_and(|job| job.outcome.is_none()) {
            cuts.remove(&self.name);
        }
        drop(cuts);
        (self.wake)();
    }
}
