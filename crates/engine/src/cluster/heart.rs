//! The heart: says that its host lives, and knows for how long that may be trusted.

use std::sync::{Mutex, PoisonError};

use tranche_core::inventory::Guard;
use tranche_core::liveness::{Heartbeat, Lifeline, Poll, Quorum};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::HostPlan;
use tranche_core::spec::Timers;
use tranche_store::{Beaten, Repository, RepositoryError, Stands};

use super::trouble::Trouble;

/// Says that a host lives.
#[derive(Debug)]
pub struct Heart {
    name: HostName,
    boot_id: String,
    version: String,
    repository: Repository,
    trouble: Trouble,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    /// The epoch that the host lives in, once it is known that it may.
    epoch: Option<u64>,
    stands: Option<Stands>,
    lifeline: Lifeline,
    quorum: Quorum,
    /// Whether the watchdog is armed and stays so, and whether a heartbeat that says so was acknowledged.
    armed: bool,
    armed_known: bool,
    /// What the last acknowledged heartbeat said of it.
    last_said: Option<bool>,
    has_watchdog: bool,
    farewell: bool,
}

/// What a heartbeat came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rhythm {
    /// It was acknowledged.
    Beats,
    /// It was not, or not in time; the next one may be.
    Skips,
    /// The host was given up: it has to end what is no longer its own before it may live again.
    GivenUp,
}

impl Heart {
    /// The heart of a host in this boot of it.
    pub fn new(name: HostName, boot_id: String, version: String, repository: Repository) -> Self {
        Self { name, boot_id, version, repository, trouble: Trouble::default(), inner: Mutex::default() }
    }

    /// Says that the host lives. `clock` tells the time of a monotonic clock in milliseconds.
    pub fn beat(&self, clock: &dyn Fn() -> u64, now: Timestamp) -> Rhythm {
        // Whoever waits for this one must not find the heart locked while the store is slow.
        let known = self.lock().stands.clone();
        let stands = match known.map_or_else(|| self.repository.stands(&self.name), Ok) {
            Ok(stands) => stands,
            Err(error) => return self.skip(&error),
        };
        let (heartbeat, sent_ms) = {
            let mut inner = self.lock();
            let planned = stands.planned.clone().unwrap_or_default();
            if is_behind(&planned, inner.epoch) {
                inner.stands = None;
                inner.lifeline.cut();
                return Rhythm::GivenUp;
            }
            inner.epoch = Some(planned.epoch);
            inner.count += 1;
            (self.heartbeat(&inner, planned.epoch, now), clock())
        };
        let answer = self.repository.beat(&self.name, &heartbeat, &stands);
        let mut inner = self.lock();
        match answer {
            Ok(Beaten::Acknowledged) => {
                self.trouble.is_over("heartbeats are acknowledged again", &self.name);
                inner.stands = Some(stands);
                inner.lifeline.acknowledged(sent_ms);
                inner.armed_known = heartbeat.armed;
                inner.last_said = Some(heartbeat.armed);
                Rhythm::Beats
            }
            Ok(Beaten::Refused) => {
                inner.stands = None;
                Rhythm::Skips
            }
            Err(error) => {
                drop(inner);
                self.skip(&error)
            }
        }
    }

    /// Takes what the members of the store say when heartbeats are not acknowledged. Returns whether it is proved that nobody
    /// can write, so that the host need not reset itself.
    pub fn hear_poll(&self, poll: &Poll, timers: &Timers) -> bool {
        let mut inner = self.lock();
        inner.quorum.take(poll, timers);
        let proved = inner.quorum.proved_until(timers);
        if let Some(until_ms) = proved {
            inner.lifeline.proved(until_ms);
        }
        proved.is_some()
    }

    /// Whether the watchdog may be fed now, if it resets the host `watchdog_ms` after it was last fed.
    pub fn may_feed(&self, now_ms: u64, watchdog_ms: u64, timers: &Timers) -> bool {
        self.lock().lifeline.may_feed(now_ms, watchdog_ms, timers)
    }

    /// Notes whether the watchdog is armed, and whether it is to stay so.
    pub fn note_watchdog(&self, armed: bool, stays: bool) {
        let mut inner = self.lock();
        inner.has_watchdog = true;
        if armed && stays && !inner.armed {
            // A heartbeat that says so may be under way; what was acknowledged before it counts no more.
            inner.last_said = None;
        }
        inner.armed = armed && stays;
        inner.armed_known &= inner.armed;
    }

    /// Whether the last heartbeat that was acknowledged said that no watchdog guards the host.
    pub fn said_unguarded(&self) -> bool {
        let inner = self.lock();
        !inner.armed && inner.last_said == Some(false)
    }

    /// How far the watchdog guards the host.
    pub fn guard(&self) -> Guard {
        let inner = self.lock();
        match (inner.has_watchdog, inner.armed && inner.armed_known) {
            (false, _) => Guard::None,
            (true, false) => Guard::Ready,
            (true, true) => Guard::Armed,
        }
    }

    /// The epoch that the host lives in; none before it knows, and while it was given up.
    pub fn epoch(&self) -> Option<u64> {
        self.lock().epoch
    }

    /// The host runs nothing of others any more, as the plan of an epoch says: it may live again, in that epoch.
    pub fn begin_anew(&self, epoch: u64) {
        let mut inner = self.lock();
        inner.epoch = Some(epoch);
        inner.stands = None;
        inner.lifeline = Lifeline::default();
        inner.quorum = Quorum::default();
        inner.farewell = false;
    }

    /// From now on heartbeats say that the host runs nothing any more and is about to shut down.
    pub fn say_farewell(&self) {
        self.lock().farewell = true;
    }

    fn heartbeat(&self, inner: &Inner, epoch: u64, now: Timestamp) -> Heartbeat {
        Heartbeat {
            boot_id: self.boot_id.clone(),
            count: inner.count,
            epoch,
            armed: inner.armed,
            farewell: inner.farewell,
            version: self.version.clone(),
            sent_at: now,
        }
    }

    fn skip(&self, error: &RepositoryError) -> Rhythm {
        self.trouble.tell("a heartbeat was not acknowledged", &self.name, error);
        Rhythm::Skips
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a host was given up in an epoch that it does not live in yet.
fn is_behind(planned: &HostPlan, epoch: Option<u64>) -> bool {
    match epoch {
        Some(epoch) => epoch < planned.epoch,
        // A daemon that has just started does not know what its host runs until it has looked.
        None => planned.standing.is_given_up(),
    }
}
