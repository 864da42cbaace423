//! The leader: has silent hosts fenced, and decides for all.
//!
//! Who leads is a lease of the store, and each write rests on it. A leader that was asleep finds its write refused.
//!
//! It hears heartbeats in a loop of its own, and decides in another, which may take longer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tranche_core::finding::Finding;
use tranche_core::inventory::Pulse;
use tranche_core::liveness::{Cause, Cuts};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::{DownBy, Standing};
use tranche_core::spec::{FenceSpec, Timers};
use tranche_store::{Compare, Lease, Repository, RepositoryError, Store, Terms};

use super::ear::{Ear, Heard};
use super::trouble::Trouble;
use crate::desk::{Desk, Reported, Reports};
use crate::hand::News;
use crate::view::View;

/// How long a lead outlives its leader, in elections of the store: whoever leads has to renew it while the store is as slow as it may
/// be. It is renewed three times in that time.
const LEASE_ELECTIONS: u64 = 3;
/// The shortest and the longest lead, in milliseconds.
const LEASE_MS: (u64, u64) = (3_000, 60_000);

/// Cuts the power of hosts.
pub trait Fencer: Send + Sync + std::fmt::Debug {
    /// Begins to cut a host's power, unless that is under way or done for this cause, and says how far it has come. Does not
    /// wait.
    fn cut(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Fenced;
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
    store: Arc<dyn Store>,
    repository: Repository,
    trouble: Trouble,
    ear: Ear,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lease: Option<Lease>,
    /// How long the lease lasts unless it is renewed.
    lease_ms: u64,
    renewed_ms: u64,
    /// On this term this one leads.
    lead: Option<Compare>,
    cuts: Cuts,
}

impl Leader {
    /// One that would lead. `brisk` is the same store, where an answer that takes longer than an election is an error.
    pub fn new(name: HostName, store: Arc<dyn Store>, brisk: Arc<dyn Store>) -> Self {
        let repository = Repository::new(Arc::clone(&store));
        let ear = Ear::new(name.clone(), repository.clone(), Repository::new(brisk));
        Self { name, store, repository, trouble: Trouble::default(), ear, inner: Mutex::default() }
    }

    /// Hears all heartbeats. Called by one thread only, more often than a store elects its leader, also where somebody else leads:
    /// if that one's host dies, the next one knows at once who is silent. `clock` tells the time of a monotonic clock in milliseconds.
    pub fn hear(&self, timers: &Timers, clock: &dyn Fn() -> u64, now: Timestamp) {
        self.ear.hear(timers, clock, now);
    }

    /// One turn: lead if nobody else does, and decide by what was heard. Called by one thread only. `clock` tells the time of the same
    /// clock as for [`Self::hear`].
    pub fn turn(&self, desk: &Desk, fencer: &dyn Fencer, clock: &dyn Fn() -> u64, now: Timestamp) -> Led {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match self.lead(&mut inner, &desk.view().spec.policy.failover.timers, clock) {
            Ok(true) => self.trouble.is_over("it is known again who leads", &self.name),
            Ok(false) => {
                self.trouble.is_over("it is known again who leads", &self.name);
                return Led::Follows;
            }
            Err(error) => {
                self.trouble.tell("it is not known who leads", &self.name, &error);
                inner.lead = None;
                return Led::Follows;
            }
        }
        let Some(heard) = self.ear.heard() else { return Led::Hampered };
        let pulses = self.pulses(&mut inner.cuts, &heard, &desk.view(), fencer, clock());
        let findings = heard.findings.iter().chain(inner.cuts.findings()).cloned().collect();
        let terms = Terms { always: inner.lead.iter().cloned().collect(), silence: heard.silence.clone() };
        drop(inner);
        let reports = Reports { inventory: Reported::Stored(pulses), news: News::new(), findings };
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
    fn lead(
        &self,
        inner: &mut Inner,
        timers: &Timers,
        clock: &dyn Fn() -> u64,
    ) -> Result<bool, RepositoryError> {
        let now_ms = clock();
        if let Some(lease) = inner.lease {
            let due = now_ms.saturating_sub(inner.renewed_ms) >= inner.lease_ms / LEASE_ELECTIONS;
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
                inner.lease_ms = (LEASE_ELECTIONS * timers.election_ms).clamp(LEASE_MS.0, LEASE_MS.1);
                let lease = self.store.grant(inner.lease_ms)?;
                inner.renewed_ms = now_ms;
                *inner.lease.insert(lease)
            }
        };
        if inner.lead.is_none() {
            inner.lead = self.repository.lead(&self.name, lease.id)?;
        }
        Ok(inner.lead.is_some())
    }

    /// Each host's pulse, with what its fence agent has seen. Agents are asked as often as they may be, and none is while failover is
    /// paused. Nor is the one of this very host, which has its power: that it was cut may never have been stored, for want of a majority
    /// without it, and then it would be cut again whenever it has booted. What it ran is known to have ended when it says so.
    fn pulses(
        &self,
        cuts: &mut Cuts,
        heard: &Heard,
        view: &View,
        fencer: &dyn Fencer,
        now_ms: u64,
    ) -> BTreeMap<HostName, Pulse> {
        let failover = &view.spec.policy.failover;
        let rounded = |(host, pulse): (&HostName, &Pulse)| (host.clone(), pulse.rounded(&failover.timers));
        let mut pulses: BTreeMap<HostName, Pulse> = heard.pulses.iter().map(rounded).collect();
        let fenced = view.plan.hosts.iter().filter_map(|(host, planned)| match planned.standing {
            Standing::Fencing { since } if *host != self.name => {
                let how = view.spec.hosts.get(host)?.fence.as_ref()?;
                Some((host, how, Cause { epoch: planned.epoch, since }))
            }
            _ => None,
        });
        let fenced: Vec<_> = fenced.collect();
        cuts.keep_only(&fenced.iter().map(|(host, _, cause)| ((*host).clone(), *cause)).collect());
        for (host, how, cause) in fenced {
            // One that has left no heartbeat is silent for ever.
            let silent_ms = pulses.get(host).map_or(u64::MAX, |pulse| pulse.silent_ms);
            let is_due = !failover.paused && cuts.is_due(host, cause, (silent_ms, &failover.timers), now_ms);
            let off = is_due && ask(cuts, host, how, cause, fencer, now_ms);
            if let Some(pulse) = pulses.get_mut(host) {
                pulse.off = if off { Some(DownBy::Agent) } else { pulse.off };
                pulse.being_cut = cuts.is_at_work(host, cause);
            }
        }
        pulses
    }
}

/// Asks a fence agent how far it is. Returns whether it has seen the host off.
fn ask(
    cuts: &mut Cuts,
    host: &HostName,
    how: &FenceSpec,
    cause: Cause,
    fencer: &dyn Fencer,
    now_ms: u64,
) -> bool {
    let fenced = fencer.cut(host, how, cause);
    match &fenced {
        Fenced::Off => cuts.succeeded(host, cause),
        Fenced::UnderWay => cuts.works(host, cause),
        Fenced::Failed(finding) => {
            tracing::error!(%host, code = %finding.code, "{}", finding.message);
            cuts.failed(host, cause, finding.clone(), now_ms);
        }
    }
    fenced == Fenced::Off
}

/// How often a leader hears, and takes its turn, in milliseconds: often enough that a store which answers is never taken for one that
/// elects.
pub fn turn_every_ms(timers: &Timers) -> u64 {
    (timers.election_ms * 2 / 5).max(50)
}
