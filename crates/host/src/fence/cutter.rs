//! Cutting hosts, and turning them on again, without waiting for it: each at its own pace, one agent at a time for each host.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tranche_core::finding::{Code, Finding};
use tranche_core::liveness::Cause;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;

use super::{Agents, Outcome, problem};

/// Called whenever an agent has come to its end. It must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How far a host was cut, or turned on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// The agent is at work.
    UnderWay,
    /// The host is off, or on.
    Confirmed,
    /// The host may be as it was. The next call tries again.
    Failed(Box<Finding>),
}

/// Cuts hosts, and turns them on again.
pub struct Cutter {
    agents: Arc<Agents>,
    jobs: Arc<Mutex<BTreeMap<HostName, Job>>>,
    wake: Wake,
}

impl std::fmt::Debug for Cutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutter").field("agents", &self.agents).finish_non_exhaustive()
    }
}

/// What an agent is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Cut,
    TurnOn,
}

#[derive(Debug)]
struct Job {
    order: Order,
    cause: Cause,
    outcome: Option<Outcome>,
}

impl Cutter {
    /// Cuts by these agents.
    pub fn new(agents: Arc<Agents>, wake: Wake) -> Self {
        Self { agents, jobs: Arc::default(), wake }
    }

    /// Begins to cut a host's power, unless that is under way or done for this cause, and says how far it has come. Does not wait.
    /// What was confirmed for one cause says nothing of another: the host may have been turned on since.
    pub fn cut(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Cut {
        self.order(Order::Cut, host, how, cause)
    }

    /// Begins to turn a host on, in the same way. An agent that cuts it is waited for.
    pub fn turn_on(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Cut {
        self.order(Order::TurnOn, host, how, cause)
    }

    fn order(&self, order: Order, host: &HostName, how: &FenceSpec, cause: Cause) -> Cut {
        let mut jobs = self.lock();
        match jobs.get(host) {
            // An agent that is at work for something older is waited for: two at once would disturb each other.
            Some(Job { outcome: None, .. }) => return Cut::UnderWay,
            Some(job) if (job.order, job.cause) == (order, cause) => match job.outcome.clone() {
                Some(Outcome::Failed(finding) | Outcome::TimedOut(finding)) => {
                    jobs.remove(host);
                    return Cut::Failed(finding);
                }
                _ => return Cut::Confirmed,
            },
            _ => {}
        }
        jobs.insert(host.clone(), Job { order, cause, outcome: None });
        drop(jobs);
        self.begin(order, host, how)
    }

    fn begin(&self, order: Order, host: &HostName, how: &FenceSpec) -> Cut {
        let (agents, jobs, wake) = (Arc::clone(&self.agents), Arc::clone(&self.jobs), Arc::clone(&self.wake));
        let (name, how) = (host.clone(), how.clone());
        let work = move || {
            let done = Done { jobs, name: name.clone(), wake };
            let outcome = match order {
                Order::Cut => agents.fence(&name, &how),
                Order::TurnOn => agents.turn_on(&name, &how),
            };
            done.with(outcome);
        };
        let Err(error) = std::thread::Builder::new().name("fence".to_owned()).spawn(work) else {
            return Cut::UnderWay;
        };
        self.lock().remove(host);
        let message = format!(
            "The fence agent of host {host} could not be asked: no thread could be started ({error})."
        );
        Cut::Failed(problem(
            host,
            Code::FenceFailed,
            message,
            "The machine is out of processes or memory; it is tried again.",
        ))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostName, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the outcome where it is looked for; a thread that dies without one leaves no host under way for ever.
struct Done {
    jobs: Arc<Mutex<BTreeMap<HostName, Job>>>,
    name: HostName,
    wake: Wake,
}

impl Done {
    fn with(self, outcome: Outcome) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = jobs.get_mut(&self.name) {
            job.outcome = Some(outcome);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.get(&self.name).is_some_and(|job| job.outcome.is_none()) {
            jobs.remove(&self.name);
        }
        drop(jobs);
        (self.wake)();
    }
}
