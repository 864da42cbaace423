//! The ear: hears the heartbeats of all hosts, in a loop of its own.
//!
//! Silence counts only where the store answered without a gap ([`tranche_core::liveness`]). Whoever leads also plans and writes, which
//! takes many answers of the store; if it listened in between, a store that is merely slow would make it deaf.
//!
//! Whoever listens writes something now and then, where nobody else does: silence counts only while the store takes writes.
//!
//! Deliberately absent: what follows from silence ([`super::Leader`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tranche_core::diagnostics::{heartbeat_unread, store_slow};
use tranche_core::finding::Finding;
use tranche_core::inventory::Pulse;
use tranche_core::liveness::{Hearing, Heartbeat, Watchman};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::spec::Timers;
use tranche_store::{Beats, Compare, Repository, RepositoryError};

use super::trouble::Trouble;

/// What was heard last.
#[derive(Debug)]
pub(super) struct Heard {
    /// Each host's pulse.
    pub(super) pulses: BTreeMap<HostName, Pulse>,
    /// On which term each host has said nothing since.
    pub(super) silence: BTreeMap<HostName, Compare>,
    /// The version of each other host's daemon, and whether it would lead.
    pub(super) others: BTreeMap<HostName, (String, bool)>,
    /// What is wrong with the store, and whose heartbeats cannot be read.
    pub(super) findings: Vec<Finding>,
}

#[derive(Debug)]
pub(super) struct Ear {
    name: HostName,
    repository: Repository,
    /// The same, where an answer that takes longer than an election is not waited for.
    brisk: Repository,
    trouble: Trouble,
    /// That the store takes no writes.
    refusal: Trouble,
    /// When the host that listens booted, by the clock that it hears by.
    booted_at_ms: i64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    watchman: Watchman,
    /// Nothing before the first answer.
    heard: Option<Arc<Heard>>,
    /// Whether the store answered when it was asked last.
    answers: bool,
}

impl Ear {
    pub(super) fn new(name: HostName, repository: Repository, brisk: Repository) -> Self {
        let (trouble, refusal) = (Trouble::default(), Trouble::default());
        Self { name, repository, brisk, trouble, refusal, booted_at_ms: i64::MIN, inner: Mutex::default() }
    }

    pub(super) fn booted_at(self, booted_at_ms: i64) -> Self {
        Self { booted_at_ms, ..self }
    }

    /// Hears all heartbeats once. Called by one thread only.
    ///
    /// Where the store does not answer, what was heard last holds, and no silence grows.
    pub(super) fn hear(&self, timers: &Timers, clock: &dyn Fn() -> u64, now: Timestamp) {
        let heard = match self.listen(timers, clock, now) {
            Ok(heard) => {
                self.trouble.is_over("heartbeats can be read again", &self.name);
                heard
            }
            Err(error) => {
                self.trouble.tell("heartbeats cannot be read", &self.name, &error);
                let finding = self.deafness(timers, clock()).unwrap_or_else(|| error.finding());
                let mut inner = self.lock();
                inner.answers = false;
                let Some(last) = &inner.heard else { return };
                let (pulses, silence) = (last.pulses.clone(), last.silence.clone());
                let heard = Heard { pulses, silence, others: last.others.clone(), findings: vec![finding] };
                inner.heard = Some(Arc::new(heard));
                return;
            }
        };
        let mut inner = self.lock();
        (inner.heard, inner.answers) = (Some(Arc::new(heard)), true);
    }

    /// That nobody's silence counts any more, if that is so.
    fn deafness(&self, timers: &Timers, at_ms: u64) -> Option<Finding> {
        let deaf_ms = self.lock().watchman.deaf_ms(at_ms);
        (deaf_ms > timers.lost_ms).then(|| store_slow(deaf_ms, timers.election_ms))
    }

    /// What was heard last.
    pub(super) fn heard(&self) -> Option<Arc<Heard>> {
        self.lock().heard.clone()
    }

    fn listen(
        &self,
        timers: &Timers,
        clock: &dyn Fn() -> u64,
        now: Timestamp,
    ) -> Result<Heard, RepositoryError> {
        // Whoever was asked may be gone, or have no leader: then the next one is asked before an election's time is over. But
        // a store that is always slower than that has to be heard all the same: what it says is of use, though silence is not.
        let repository = if self.lock().answers { &self.brisk } else { &self.repository };
        let asked_ms = clock();
        let Beats { revision, of } = repository.beats()?;
        let answered_ms = clock();
        let shows_write = self.lock().watchman.shows_write(revision.0);
        let (mut wrote_after_ms, mut findings) = (None, Vec::new());
        if !shows_write {
            match repository.probe(&self.name) {
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
        let beats: BTreeMap<HostName, Heartbeat> =
            of.iter().map(|(host, beat)| (host.clone(), beat.heartbeat.clone())).collect();
        let hearing = Hearing { asked_ms, answered_ms, revision: revision.0, wrote_after_ms, beats: &beats };
        // The store is not waited for with the lock held: whoever leads looks at what was heard meanwhile.
        self.lock().watchman.hear(hearing, timers, now);
        if findings.is_empty() {
            findings.extend(self.deafness(timers, answered_ms));
        }
        let up_ms = i64::try_from(answered_ms).unwrap_or(i64::MAX).saturating_sub(self.booted_at_ms);
        let up_ms = u64::try_from(up_ms).unwrap_or_default();
        let pulses = self.lock().watchman.pulses(up_ms).map(|(host, pulse)| (host.clone(), pulse)).collect();
        findings.extend(of.iter().filter_map(|(host, beat)| {
            Some(heartbeat_unread(host, &beat.heartbeat.version, beat.unread.as_ref()?))
        }));
        let others = beats.into_iter().filter(|(host, _)| *host != self.name);
        let others = others.map(|(host, beat)| (host, (beat.version, beat.able))).collect();
        let silence = of.into_iter().map(|(host, beat)| (host, beat.unchanged)).collect();
        Ok(Heard { pulses, silence, others, findings })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
