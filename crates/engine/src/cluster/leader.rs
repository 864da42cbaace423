//! The leader: hears heartbeats, has silent hosts fenced, and decides for all.
//!
//! Who leads is a lease of the store, and each write rests on it. A leader that was asleep finds its write refused.
//!
//! Whoever listens writes something now and then, where nobody else does: silence counts only while the store takes writes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tranche_core::finding::Finding;
use tranche_core::inventory::Pulse;
use tranche_core::liveness::{Cause, Cuts, Hearing, Watchman};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::{DownBy, Standing};
use tranche_core::spec::{FenceSpec, Timers};
use tranche_store::{Beats, Compare, Lease, Repository, RepositoryError, Store, Terms};

use super::trouble::Trouble;
use crate::desk::{Desk, Reported, Reports};
use crate::hand::News;
use crate::view::View;

/// How long a lead outlives its leader, in milliseconds.
const LEASE_TTL_MS: u64 = 3_000;

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
    store: std::sync::Arc<dyn Store>,
    repository: Repository,
    trouble: Trouble,
    /// That the store takes no writes.
    refusal: Trouble,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lease: Option<Lease>,
    renewed_ms: u64,
    /// On this term this one leads.
    lead: Option<Compare>,
    watchman: Watchman,
    cuts: Cuts,
}

impl Leader {
    /// One that would lead.
    pub fn new(name: HostName, store: std::sync::Arc<dyn Store>) -> Self {
        let repository = Repository::new(std::sync::Arc::clone(&store));
        let (trouble, refusal) = (Trouble::default(), Trouble::default());
        Self { name, store, repository, trouble, refusal, inner: Mutex::default() }
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
        let view = desk.view();
        let (silence, mut findings) = match self.listen(&mut inner, &view, clock, now) {
            Ok(heard) => heard,
            Err(error) => {
                self.trouble.tell("heartbeats cannot be read", &self.name, &error);
                return Led::Hampered;
            }
        };
        self.trouble.is_over("it is known again who leads", &self.name);
        if !leads {
            return Led::Follows;
        }
        let pulses = pulses(&mut inner, &view, fencer, clock());
        findings.extend(inner.cuts.findings().cloned());
        let terms = Terms { always: inner.lead.iter().cloned().collect(), silence };
        drop(inner);
        let reports = Reports { inventory: Reported::Stored(pulses), news: News::new(), findings };
        if desk.decide(reports, &terms, now).is_some() { Led::Decided } else { Led::Hampered }
    }

    /// Hears all heartbeats. Who does not lead does so, too: if the leader's host dies, the next one knows at once who is silent.
    /// Returns on which terms each host has said nothing since, and what is wrong with the store.
    fn listen(
        &self,
        inner: &mut Inner,
        view: &View,
        clock: &dyn Fn() -> u64,
        now: Timestamp,
    ) -> Result<(BTreeMap<HostName, Compare>, Vec<Finding>), RepositoryError> {
        let asked_ms = clock();
        let Beats { revision, of } = self.repository.beats()?;
        let answered_ms = clock();
        let (mut wrote_after_ms, mut findings) = (None, Vec::new());
        if !inner.watchman.shows_write(revision.0) {
            match self.repository.probe(&self.name) {
                Ok(()) => wrote_after_ms = Some(answered_ms),
                Err(error) => {
                    self.refusal.tell("the store takes no writes", &self.name, &error);
                    findings.push(error.finding());
                }
            }
        }
        if findings.is_empty() {
            self.refusal.is_over("the store takes writes again", &self.name);
        }
        let beats = of.iter().map(|(host, beat)| (host.clone(), beat.heartbeat.clone())).collect();
        let hearing = Hearing { asked_ms, answered_ms, revision: revision.0, wrote_after_ms, beats: &beats };
        inner.watchman.hear(hearing, &view.spec.policy.failover.timers, now);
        Ok((of.into_iter().map(|(host, beat)| (host, beat.unchanged)).collect(), findings))
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
}

/// Each host's pulse, with what its fence agent has seen. Agents are asked as often as they may be, and none is while failover is
/// paused.
fn pulses(inner: &mut Inner, view: &View, fencer: &dyn Fencer, now_ms: u64) -> BTreeMap<HostName, Pulse> {
    let failover = &view.spec.policy.failover;
    let rounded = |(host, pulse): (&HostName, Pulse)| (host.clone(), pulse.rounded(&failover.timers));
    let mut pulses: BTreeMap<HostName, Pulse> = inner.watchman.pulses().map(rounded).collect();
    let fenced = view.plan.hosts.iter().filter_map(|(host, planned)| match planned.standing {
        Standing::Fencing { since } => {
            let how = view.spec.hosts.get(host)?.fence.as_ref()?;
            Some((host, how, Cause { epoch: planned.epoch, since }))
        }
        _ => None,
    });
    let fenced: Vec<_> = fenced.collect();
    let cuts = &mut inner.cuts;
    cuts.keep_only(&fenced.iter().map(|(host, _, cause)| ((*host).clone(), *cause)).collect());
    for (host, how, cause) in fenced {
        let is_due = !failover.paused && cuts.is_due(host, cause, now_ms);
        let off = is_due && ask(cuts, host, how, cause, fencer, now_ms);
        if let Some(pulse) = pulses.get_mut(host) {
            pulse.off = if off { Some(DownBy::Agent) } else { pulse.off };
            pulse.being_cut = cuts.is_at_work(host, cause);
        }
    }
    pulses
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

/// How often a leader takes its turn, in milliseconds: often enough that a store which answers is never taken for one that
/// elects.
pub fn turn_every_ms(timers: &Timers) -> u64 {
    (timers.election_ms * 2 / 5).max(50)
}
