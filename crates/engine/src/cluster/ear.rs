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

use tranche_core::diagnostics::store_slow;
use tranche_core::finding::Finding;
use tranche_core::inventory::Pulse;
use tranche_core::liveness::{Hearing, Watchman};
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
    /// What is wrong with the store.
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
        Self { name, repository, brisk, trouble, refusal, inner: Mutex::default() }
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
                inner.heard = Some(Arc::new(Heard { pulses, silence, findings: vec![finding] }));
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
        let beats = of.iter().map(|(host, beat)| (host.clone(), beat.heartbeat.clone())).collect();
        let hearing = Hearing { asked_ms, answered_ms, revision: revision.0, wrote_after_ms, beats: &beats };
        // The store is not waited for with the lock held: whoever leads looks at what was heard meanwhile.
        self.lock().watchman.hear(hearing, timers, now);
        if findings.is_empty() {
            findings.extend(self.deafness(timers, answered_ms));
        }
        let pulses = self.lock().watchman.pulses().map(|(host, pulse)| (host.clone(), pulse)).collect();
        let silence = of.into_iter().map(|(host, beat)| (host, beat.unchanged)).collect();
        Ok(Heard { pulses, silence, findings })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
