//! The heart: says that its host lives, and knows for how long that may be trusted.

use std::sync::{Mutex, PoisonError};

use tranche_core::inventory::Guard;
use tranche_core::liveness::{Farewell, Heartbeat, Lifeline, Parting, Poll, Quorum, Sight, Standstill};
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
    standstill: Standstill,
    /// The time of the watchdog, or the one that it would be given.
    watchdog_ms: Option<u64>,
    /// Whether the watchdog is armed and stays so, and whether a heartbeat that says so was acknowledged.
    armed: bool,
    armed_known: bool,
    /// What the last acknowledged heartbeat said of it; nothing once another one was sent that says that it is armed, for that may
    /// have arrived.
    last_said: Option<bool>,
    farewell: bool,
    unattended: bool,
    /// Whether it would lead.
    able: bool,
}

/// What a heartbeat came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rhythm {
    /// It was acknowledged.
    Beats,
    /// It was not, or not in time; the next one may be.
    Skips,
    /// The store has no room for it, and it is not proved yet that it takes nothing from anybody: it is asked again soon.
    Waits,
    /// The host was given up: it has to end what is no longer its own before it may live again.
    GivenUp,
}

impl Heart {
    /// The heart of a host in this boot of it.
    pub fn new(name: HostName, boot_id: String, version: String, repository: Repository) -> Self {
        Self { name, boot_id, version, repository, trouble: Trouble::default(), inner: Mutex::default() }
    }

    /// Says that the host lives. `clock` tells the time of a monotonic clock in milliseconds.
    pub fn beat(&self, timers: &Timers, clock: &dyn Fn() -> u64, now: Timestamp) -> Rhythm {
        // Whoever waits for this one must not find the heart locked while the store is slow.
        let known = self.lock().stands.clone();
        let mut stands = match known.map_or_else(|| self.repository.stands(&self.name), Ok) {
            Ok(stands) => stands,
            Err(error) => return self.skip(&error),
        };
        let (heartbeat, bound_ms, sent_ms) = {
            let mut inner = self.lock();
            let planned = stands.planned.clone().unwrap_or_default();
            if is_behind(&planned, inner.epoch) {
                inner.stands = None;
                inner.lifeline.cut();
                return Rhythm::GivenUp;
            }
            if inner.epoch.replace(planned.epoch).is_none() {
                // It begins to live here. That it was found given up before, when nobody had taken it up again yet, is over.
                inner.lifeline = Lifeline::default();
            }
            inner.count += 1;
            let heartbeat = self.heartbeat(&inner, planned.epoch, timers, now);
            if heartbeat.armed {
                inner.last_said = None;
            }
            let bound_ms = heartbeat.bound_ms.unwrap_or(timers.reset_ms);
            inner.lifeline.sends(bound_ms);
            (heartbeat, bound_ms, clock())
        };
        let answer = self.repository.beat(&self.name, &heartbeat, &mut stands);
        let mut inner = self.lock();
        match answer {
            Ok(Beaten::Acknowledged) => {
                self.trouble.is_over("heartbeats are acknowledged again", &self.name);
                inner.stands = Some(stands);
                inner.lifeline.acknowledged(sent_ms, bound_ms);
                inner.armed_known = heartbeat.armed;
                inner.last_said = Some(heartbeat.armed);
                Rhythm::Beats
            }
            Ok(Beaten::Refused) => {
                inner.stands = None;
                Rhythm::Skips
            }
            Err(error) => {
                // Whether it arrived shows when it is read again.
                inner.stands = None;
                drop(inner);
                let skips = self.skip(&error);
                if error.is_full() { self.look(timers, clock) } else { skips }
            }
        }
    }

    /// Reads how the host stands, because the store has no room for a heartbeat: while nobody can write, nobody is given up.
    fn look(&self, timers: &Timers, clock: &dyn Fn() -> u64) -> Rhythm {
        let asked_ms = clock();
        let stands = match self.repository.stands(&self.name) {
            Ok(stands) => stands,
            Err(error) => return self.skip(&error),
        };
        let mut inner = self.lock();
        let sight = Sight { asked_ms, answered_ms: clock(), revision: stands.revision.0 };
        let planned = stands.planned.clone().unwrap_or_default();
        inner.stands = Some(stands);
        if is_behind(&planned, inner.epoch) {
            // The next heartbeat finds it so.
            return Rhythm::Skips;
        }
        inner.standstill.take(sight);
        match inner.standstill.proved_until(timers) {
            Some(until_ms) => {
                inner.lifeline.proved(until_ms);
                Rhythm::Skips
            }
            None => Rhythm::Waits,
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
    pub fn may_feed(&self, now_ms: u64, watchdog_ms: u64) -> bool {
        self.lock().lifeline.may_feed(now_ms, watchdog_ms)
    }

    /// What follows for a daemon that ends while its watchdog is armed.
    pub fn parts(&self, parting: &mut Parting, now_ms: u64, timers: &Timers) -> Farewell {
        let inner = self.lock();
        parting.next(&inner.lifeline, now_ms, inner.watchdog_ms.unwrap_or_default(), timers)
    }

    /// Notes whether the watchdog is armed, and whether it is to stay so; and how long after it was last fed it resets the host, or
    /// would.
    pub fn note_watchdog(&self, armed: bool, stays: bool, watchdog_ms: u64) {
        let mut inner = self.lock();
        inner.watchdog_ms = Some(watchdog_ms);
        inner.armed = armed && stays;
        inner.armed_known &= inner.armed;
    }

    /// Whether the last heartbeat that was acknowledged said that no watchdog guards the host, and none that says otherwise was sent
    /// since: nobody counts on it.
    pub fn said_unguarded(&self) -> bool {
        let inner = self.lock();
        !inner.armed && inner.last_said == Some(false)
    }

    /// Notes whether the host would lead: it may, and can read all that is stored.
    pub fn note_able(&self, able: bool) {
        self.lock().able = able;
    }

    /// The bound that the host is held to once its next heartbeat is sent, in milliseconds: the shortest one that may be heard last.
    pub fn bound_ms(&self, timers: &Timers) -> u64 {
        let inner = self.lock();
        let next_ms = inner.watchdog_ms.map_or(timers.reset_ms, |watchdog_ms| timers.bound_ms(watchdog_ms));
        inner.lifeline.bound_with(next_ms)
    }

    /// How far the watchdog guards the host.
    pub fn guard(&self) -> Guard {
        let inner = self.lock();
        match (inner.watchdog_ms.is_some(), inner.armed && inner.armed_known) {
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
        inner.standstill = Standstill::default();
        (inner.farewell, inner.unattended) = (false, false);
    }

    /// From now on heartbeats say that the host runs nothing any more and is about to shut down.
    pub fn say_farewell(&self) {
        self.lock().farewell = true;
    }

    /// From now on heartbeats say that the daemon was stopped in good order, and that what the host runs goes on.
    pub fn say_unattended(&self) {
        self.lock().unattended = true;
    }

    fn heartbeat(&self, inner: &Inner, epoch: u64, timers: &Timers, now: Timestamp) -> Heartbeat {
        Heartbeat {
            boot_id: self.boot_id.clone(),
            count: inner.count,
            epoch,
            armed: inner.armed,
            bound_ms: inner.watchdog_ms.map(|watchdog_ms| timers.bound_ms(watchdog_ms)),
            farewell: inner.farewell,
            unattended: inner.unattended,
            able: inner.able && !inner.farewell && !inner.unattended,
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

/// How long a heart pauses after a heartbeat that came to this, in milliseconds.
pub fn beat_every_ms(rhythm: Rhythm, timers: &Timers) -> u64 {
    match rhythm {
        Rhythm::Waits => timers.heartbeat_ms.min(timers.election_ms / 4),
        Rhythm::Beats | Rhythm::Skips | Rhythm::GivenUp => timers.heartbeat_ms,
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
