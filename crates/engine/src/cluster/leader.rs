//! The leader: has silent hosts fenced, and decides for all.
//!
//! Who leads is a lease of the store, and each write rests on it. A leader that was asleep finds its write refused.
//!
//! It hears heartbeats in a loop of its own, and decides in another, which may take longer.
//!
//! While versions differ, one of the oldest leads, so that nothing is written that it could not read
//! ([`tranche_core::membership::leaves_lead_to`]). One of a later version stands in where the older ones do not take the lead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tranche_core::finding::Finding;
use tranche_core::inventory::Pulse;
use tranche_core::liveness::{Cause, Errands, cut_cause, turn_on_cause};
use tranche_core::membership::{LEADERLESS_MS, Peer, leaves_lead_to};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::DownBy;
use tranche_core::spec::{FenceSpec, Timers};
use tranche_store::{Compare, Lease, Repository, RepositoryError, Store, Terms};

use super::ear::{Ear, Heard};
use super::trouble::Trouble;
use crate::desk::{Desk, News, Reported, Reports};
use crate::view::View;

/// How long a lead outlives its leader, in elections of the store: whoever leads has to renew it while the store is as slow as it may
/// be. It is renewed three times in that time.
const LEASE_ELECTIONS: u64 = 3;
/// The shortest and the longest lead, in milliseconds.
const LEASE_MS: (u64, u64) = (3_000, 60_000);

/// Cuts the power of hosts, and turns them on again.
pub trait Fencer: Send + Sync + std::fmt::Debug {
    /// Begins to cut a host's power, unless that is under way or done for this cause, and says how far it has come. Does not
    /// wait.
    fn cut(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Fenced;

    /// Begins to turn a host on, in the same way.
    fn turn_on(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Fenced;
}

/// How far an agent has come with a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fenced {
    /// The agent is at work.
    UnderWay,
    /// The agent has done it and has seen that the host is off, or on.
    Done,
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
    version: String,
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
    cuts: Errands,
    turned_on: Errands,
    /// Since when nobody leads, while this one leaves the lead to another.
    vacant_since_ms: Option<u64>,
    /// The member for which this one waited in vain: it leads in its place.
    stands_in_for: Option<HostName>,
}

impl Leader {
    /// One that would lead. `brisk` is the same store, where an answer that takes longer than an election is an error.
    pub fn new(name: HostName, store: Arc<dyn Store>, brisk: Arc<dyn Store>) -> Self {
        let repository = Repository::new(Arc::clone(&store));
        let ear = Ear::new(name.clone(), repository.clone(), Repository::new(brisk));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { name, version, store, repository, trouble: Trouble::default(), ear, inner: Mutex::default() }
    }

    /// The same of another version than this program's: for tests.
    #[must_use]
    pub fn of_version(self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self }
    }

    /// Says when its host booted, by the clock that it hears by; else that was long ago.
    #[must_use]
    pub fn booted_at(self, at_ms: i64) -> Self {
        Self { ear: self.ear.booted_at(at_ms), ..self }
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
        let timers = desk.view().spec.policy.failover.timers;
        let led = self
            .leaves_lead(&mut inner, desk.can_read(now), &timers, clock())
            .and_then(|leaves| if leaves { Ok(false) } else { self.lead(&mut inner, &timers, clock) });
        match led {
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
        let agents = inner.cuts.findings().chain(inner.turned_on.findings());
        let findings = heard.findings.iter().chain(agents).cloned().collect();
        let terms = Terms { always: inner.lead.iter().cloned().collect(), silence: heard.silence.clone() };
        drop(inner);
        // What hosts did stands in their reports.
        let reports = Reports { inventory: Reported::Stored(pulses), news: News::new(), findings };
        if desk.decide(reports, &terms, now).is_none() {
            return Led::Hampered;
        }
        self.turn_on(&heard, &desk.view(), fencer, clock(), now);
        Led::Decided
    }

    /// Gives up the lead, so that another one need not wait for the lease to end.
    pub fn step_down(&self) {
        self.give_up(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn give_up(&self, inner: &mut Inner) {
        inner.lead = None;
        if let Some(lease) = inner.lease.take() {
            // Whether it went or not: it ends by itself.
            let _ = self.store.revoke(lease.id);
        }
    }

    /// Whether this one leaves the lead to a member of another version that lives; then it gives it up. It waits for an older one
    /// as long as any host waits for somebody to lead, and once for each.
    fn leaves_lead(
        &self,
        inner: &mut Inner,
        reads: bool,
        timers: &Timers,
        now_ms: u64,
    ) -> Result<bool, RepositoryError> {
        // Before it has heard of anybody, it decides nothing.
        let Some(heard) = self.ear.heard() else { return Ok(false) };
        let lives =
            |host: &HostName| heard.pulses.get(host).is_some_and(|pulse| pulse.silent_ms < timers.lost_ms);
        let living = heard.others.iter().filter(|(host, _)| lives(host));
        let peers = living.map(|(host, (version, able))| Peer { host, version, able: *able });
        let Some(other) = leaves_lead_to(&self.version, reads, peers) else {
            (inner.vacant_since_ms, inner.stands_in_for) = (None, None);
            return Ok(false);
        };
        if reads && inner.stands_in_for.as_ref() == Some(other) {
            return Ok(false);
        }
        if inner.lead.is_some() {
            tracing::info!(to = %other, "this host leaves the lead to one of another version");
        }
        self.give_up(inner);
        if self.repository.leader()?.is_some() {
            inner.vacant_since_ms = None;
            return Ok(true);
        }
        let since_ms = *inner.vacant_since_ms.get_or_insert(now_ms);
        let stands_in = reads && now_ms.saturating_sub(since_ms) >= LEADERLESS_MS;
        if stands_in {
            tracing::warn!(%other, "nobody leads, and this host stands in for one of an older version");
            inner.stands_in_for = Some(other.clone());
        }
        Ok(!stands_in)
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
        cuts: &mut Errands,
        heard: &Heard,
        view: &View,
        fencer: &dyn Fencer,
        now_ms: u64,
    ) -> BTreeMap<HostName, Pulse> {
        let failover = &view.spec.policy.failover;
        let rounded = |(host, pulse): (&HostName, &Pulse)| (host.clone(), pulse.rounded(&failover.timers));
        let mut pulses: BTreeMap<HostName, Pulse> = heard.pulses.iter().map(rounded).collect();
        let fenced = view.plan.hosts.iter().filter(|(host, _)| **host != self.name);
        let fenced = fenced.filter_map(|(host, planned)| {
            Some((host, view.spec.hosts.get(host)?.fence.as_ref()?, cut_cause(planned)?))
        });
        let fenced: Vec<_> = fenced.collect();
        cuts.keep_only(&fenced.iter().map(|(host, _, cause)| ((*host).clone(), *cause)).collect());
        for (host, how, cause) in fenced {
            // One that has left no heartbeat is silent for ever.
            let silent_ms = pulses.get(host).map_or(u64::MAX, |pulse| pulse.silent_ms);
            let is_due =
                !failover.paused && cuts.cut_is_due(host, cause, (silent_ms, &failover.timers), now_ms);
            let off = is_due && note(cuts, host, cause, fencer.cut(host, how, cause), now_ms);
            if let Some(pulse) = pulses.get_mut(host) {
                pulse.off = if off { Some(DownBy::Agent) } else { pulse.off };
                pulse.being_cut = cuts.is_at_work(host, cause);
            }
        }
        pulses
    }

    /// Has hosts turned on again that an agent has cut. Called with what was just decided, so that it is known to be stored that they
    /// are down. None is turned on while failover is paused.
    fn turn_on(&self, heard: &Heard, view: &View, fencer: &dyn Fencer, now_ms: u64, now: Timestamp) {
        let failover = &view.spec.policy.failover;
        let down = view.plan.hosts.iter().filter(|(host, _)| **host != self.name);
        let down = down.filter_map(|(host, planned)| {
            let wish = view.spec.hosts.get(host)?;
            Some((host, wish.fence.as_ref()?, turn_on_cause(wish, planned)?))
        });
        let down: Vec<_> = down.collect();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let errands = &mut inner.turned_on;
        errands.keep_only(&down.iter().map(|(host, _, cause)| ((*host).clone(), *cause)).collect());
        for (host, how, cause) in down.into_iter().filter(|_| !failover.paused) {
            let silent_ms = heard.pulses.get(host).map_or(u64::MAX, |pulse| pulse.silent_ms);
            let silence = (silent_ms, &failover.timers);
            let down_ms = now.0.saturating_sub(cause.since.0);
            if errands.turn_on_is_due(host, cause, silence, down_ms, now_ms) {
                let is_new = !errands.is_at_work(host, cause);
                let is_on = note(errands, host, cause, fencer.turn_on(host, how, cause), now_ms);
                match (is_new, is_on) {
                    (_, true) => tracing::info!(%host, "its fence agent has turned the host on"),
                    (true, false) => tracing::info!(%host, "its fence agent is asked to turn the host on"),
                    (false, false) => {}
                }
            }
        }
    }
}

/// Notes how far a fence agent has come. Returns whether it has done what it was asked for.
fn note(errands: &mut Errands, host: &HostName, cause: Cause, fenced: Fenced, now_ms: u64) -> bool {
    match fenced {
        Fenced::Done => {
            errands.succeeded(host, cause);
            return true;
        }
        Fenced::UnderWay => errands.works(host, cause),
        Fenced::Failed(finding) => {
            tracing::error!(%host, code = %finding.code, "{}", finding.message);
            errands.failed(host, cause, finding, now_ms);
        }
    }
    false
}

/// How often a leader hears, and takes its turn, in milliseconds: often enough that a store which answers is never taken for one that
/// elects.
pub fn turn_every_ms(timers: &Timers) -> u64 {
    (timers.election_ms * 2 / 5).max(50)
}
