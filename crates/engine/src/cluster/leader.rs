//! The leader: hears heartbeats, has silent hosts fenced, and decides for all.
//!
//! Who leads is a lease of the store, and each write rests on it. A leader that was asleep finds its write refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tranche_core::finding::Finding;
use tranche_core::inventory::Pulse;
use tranche_core::liveness::Watchman;
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::{DownBy, Plan, Standing};
use tranche_core::spec::{FenceSpec, Spec, Timers};
use tranche_store::{Compare, Lease, Repository, RepositoryError, Store, Terms};

use super::trouble::Trouble;
use crate::desk::{Desk, Reported, Reports};
use crate::hand::News;

/// How long a lead outlives its leader, in milliseconds.
const LEASE_TTL_MS: u64 = 3_000;

/// Cuts the power of hosts.
pub trait Fencer: Send + Sync + std::fmt::Debug {
    /// Begins to cut a host's power, unless that is under way or done for this epoch, and says how far it has come. Does not
    /// wait.
    fn cut(&self, host: &HostName, how: &FenceSpec, epoch: u64) -> Fenced;
}

/// How far the power of a host was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fenced {
    /// The agent is at work.
    UnderWay,
    /// The agent has cut it and has seen that it is off.
    Off,
    /// The agent could not; it is tried again.
    Failed(Box<Finding>),
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Led {
    /// This one leads, and decided.
    Decided,
    /// This one leads, and could not store what it decided.
    Hampered,
    /// Somebody else leads, or it is not known who does.
    Follows,
}

/// Leads, when nobody else does.
#[derive(Debug)]
pub struct Leader {
    name: HostName,
    store: std::sync::Arc<dyn Store>,
    repository: Repository,
    trouble: Trouble,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lease: Option<Lease>,
    renewed_ms: u64,
    /// On this term this one leads.
    lead: Option<Compare>,
    watchman: Watchman,
}

impl Leader {
    /// One that would lead.
    pub fn new(name: HostName, store: std::sync::Arc<dyn Store>) -> Self {
        let repository = Repository::new(std::sync::Arc::clone(&store));
        Self { name, store, repository, trouble: Trouble::default(), inner: Mutex::default() }
    }

    /// One turn: lead if nobody else does, hear, decide. Called by one thread only, more often than a store elects its leader. `clock` tells the
    /// time of a monotonic clock in milliseconds.
    pub fn turn(&self, desk: &Desk, fencer: &dyn Fencer, clock: &dyn Fn() -> u64, now: Timestamp) -> Led {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let leads = match self.lead(&mut inner, clock) {
            Ok(leads) => leads,
            Err(error) => {
                self.trouble.tell("it is not known who leads", &self.name, &error);
                inner.lead = None;
                return Led::Follows;
            }
        };
        // Who does not lead listens all the same: if the leader's host dies, the next one knows at once who is silent.
        let asked_ms = clock();
        let beats = match self.repository.beats() {
            Ok(beats) => beats,
            Err(error) => {
                self.trouble.tell("heartbeats cannot be read", &self.name, &error);
                return Led::Hampered;
            }
        };
        self.trouble.is_over("it is known again who leads", &self.name);
        let view = desk.view();
        let timers = view.spec.policy.failover.timers;
        let heartbeats = beats.iter().map(|(host, beat)| (host.clone(), beat.heartbeat.clone())).collect();
        inner.watchman.hear(asked_ms, clock(), &heartbeats, &timers, now);
        if !leads {
            return Led::Follows;
        }
        let pulses = self.pulses(&inner, &view.spec, &view.plan, fencer);
        let silence = beats.into_iter().map(|(host, beat)| (host, beat.unchanged)).collect();
        let terms = Terms { always: inner.lead.iter().cloned().collect(), silence };
        drop(inner);
        let reports = Reports { inventory: Reported::Stored(pulses), news: News::new() };
        if desk.decide(reports, &terms, now).is_some() { Led::Decided } else { Led::Hampered }
    }

    /// Gives up the lead, so that another one need not wait for the lease to end.
    pub fn step_down(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.lead = None;
        if let Some(lease) = inner.lease.take() {
            // Whether it went or not: it ends by itself.
            let _ = self.store.revoke(lease.id);
        }
    }

    /// Takes the lead or keeps it. Returns whether this one leads.
    fn lead(&self, inner: &mut Inner, clock: &dyn Fn() -> u64) -> Result<bool, RepositoryError> {
        let now_ms = clock();
        if let Some(lease) = inner.lease {
            let due = now_ms.saturating_sub(inner.renewed_ms) >= LEASE_TTL_MS / 3;
            if due && self.store.keep_alive(lease.id).is_err() {
                inner.lease = None;
                inner.lead = None;
            } else if due {
                inner.renewed_ms = now_ms;
            }
        }
        let lease = match inner.lease {
            Some(lease) => lease,
            None => {
                let lease = self.store.grant(LEASE_TTL_MS)?;
                inner.renewed_ms = now_ms;
                *inner.lease.insert(lease)
            }
        };
        if inner.lead.is_none() {
            inner.lead = self.repository.lead(&self.name, lease.id)?;
        }
        Ok(inner.lead.is_some())
    }

    /// Each host's pulse, with what its fence agent has seen.
    fn pulses(
        &self,
        inner: &Inner,
        spec: &Spec,
        plan: &Plan,
        fencer: &dyn Fencer,
    ) -> BTreeMap<HostName, Pulse> {
        let timers = &spec.policy.failover.timers;
        let mut pulses: BTreeMap<HostName, Pulse> =
            inner.watchman.pulses().map(|(host, pulse)| (host.clone(), pulse.rounded(timers))).collect();
        for (host, planned) in &plan.hosts {
            let how = spec.hosts.get(host).and_then(|wish| wish.fence.as_ref());
            let (Standing::Fencing { .. }, Some(how)) = (planned.standing, how) else { continue };
            match fencer.cut(host, how, planned.epoch) {
                Fenced::Off => {
                    if let Some(pulse) = pulses.get_mut(host) {
                        pulse.off = Some(DownBy::Agent);
                    }
                }
                Fenced::UnderWay => {}
                Fenced::Failed(finding) => {
                    tracing::error!(%host, code = %finding.code, "{}", finding.message);
                }
            }
        }
        pulses
    }
}

/// How often a leader takes its turn, in milliseconds: often enough that a store which answers is never taken for one that
/// elects.
pub fn turn_every_ms(timers: &Timers) -> u64 {
    (timers.election_ms * 2 / 5).max(50)
}
