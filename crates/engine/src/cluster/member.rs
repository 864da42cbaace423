//! A member's host: reads what was decided for it, looks, reports, acts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tranche_core::diagnostics::part_unread;
use tranche_core::finding::Finding;
use tranche_core::inventory::{Done, HostInventory};
use tranche_core::name::{HostName, Timestamp, VmName};
use tranche_core::plan::{Plan, Standing, VmPlan};
use tranche_core::spec::Timers;
use tranche_core::steps;
use tranche_host::Host;
use tranche_store::{Part, Repository, RepositoryError};

use super::trouble::Trouble;
use super::{Heart, Rhythm};
use crate::hand::{Hand, PassReport};
use crate::trail::Trails;

/// How long a report may be old before it is stored again although nothing changed, in milliseconds.
pub(crate) const REPORT_EVERY_MS: u64 = 60_000;
/// The longest wait, in milliseconds, while a host does not know what was decided, or may not live.
const AGAIN_MS: u64 = 1_000;

/// A watchdog that is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dog {
    /// How long after it was last fed it resets the host, in milliseconds.
    pub timeout_ms: u64,
    /// Which time it was last asked to take, in milliseconds; none where somebody else did so.
    pub asked_ms: Option<u64>,
    /// Whether it can be stopped.
    pub is_stoppable: bool,
}

/// What is to be done with the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tending {
    /// Nothing.
    Leave,
    /// Start it with this time, in milliseconds.
    Arm(u64),
    /// Give it this time, in milliseconds, which feeds it.
    Retime(u64),
    /// Feed it.
    Feed,
    /// Stop it: nothing protected runs here.
    Disarm,
}

/// What a host's report shall say something of besides what is seen there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Noted {
    /// Its watchdog.
    Watchdog,
    /// How other hosts could be fenced from it.
    Fences,
}

/// A member's host.
#[derive(Debug)]
pub struct Member {
    name: HostName,
    repository: Repository,
    heart: Arc<Heart>,
    trouble: Trouble,
    inner: Mutex<Inner>,
    /// What others ask for while a pass is under way, which may take minutes.
    known: Mutex<Known>,
}

/// What is known of the plan.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Not known before the plan was read: a watchdog that was left armed is then neither stopped nor fed.
    shall_arm: Option<bool>,
    timers: Timers,
    /// The hosts from which VMs are on their way to this one.
    expected: BTreeSet<HostName>,
    /// The daemon is about to end, and its watchdog with it.
    retires: bool,
    /// The host is about to go down by its administrator's word.
    departs: bool,
    /// It is, runs nothing any more, and is not to run anything before it has booted.
    is_done: bool,
    /// What is to be reported besides what was seen.
    notes: BTreeMap<Noted, Vec<Finding>>,
}

#[derive(Debug)]
struct Inner {
    hand: Hand,
    part: Option<Part>,
    /// The domains that the part was read for.
    domains: Vec<VmName>,
    seen: Option<HostInventory>,
    /// What was done last, for the logs of operations, which whoever leads writes.
    lately: Vec<Done>,
    /// What the store has of this host, and since when.
    reported: Option<(HostInventory, Timestamp)>,
}

impl Member {
    /// The host of a member. `workers` steps of different VMs and GPUs are done side by side.
    pub fn new(
        name: HostName,
        host: Arc<dyn Host>,
        repository: Repository,
        heart: Arc<Heart>,
        workers: usize,
    ) -> Self {
        let hand = Hand::new(host, workers);
        let inner =
            Inner { hand, part: None, domains: Vec::new(), seen: None, lately: Vec::new(), reported: None };
        Self {
            name,
            repository,
            heart,
            trouble: Trouble::default(),
            inner: Mutex::new(inner),
            known: Mutex::default(),
        }
    }

    /// One turn: read, look, report, act. Called by one thread only; takes as long as its longest step.
    ///
    /// While the store does not answer, what was decided last is carried on: a VM that crashes is started again. A host that
    /// was given up only ends what is not its own.
    pub fn pass(&self, now: Timestamp) -> PassReport {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let domains = inner.seen.as_ref().map(names_of_domains).unwrap_or_default();
        let read = self.read(&inner, &domains);
        let unread = read.as_ref().err().filter(|error| error.is_unreadable());
        let unread = unread.map(|error| part_unread(&self.name, &error.finding().message));
        let fresh = self.keep(&mut inner, read);
        inner.domains.clone_from(&domains);
        // After what was decided: an operation's trail is laid before it is stored. A store that does not answer is not waited for again.
        let known = inner.part.as_ref().filter(|_| fresh);
        let trails = known.map(|part| Trails::of(&self.repository).on(&self.name, &part.plan));
        let trails = trails.unwrap_or_default();
        let _turn = trails.turn(&self.name, now).entered();
        inner.hand.is_followed_by(trails);
        let mut seen = inner.hand.look(now);
        let news = inner.hand.take_news();
        Done::remember(&mut inner.lately, news);
        seen.progress.lately.clone_from(&inner.lately);
        let knew_all = names_of_domains(&seen).iter().all(|name| domains.contains(name));
        let is_unread = unread.is_some();
        seen.notes.extend(unread);
        let Some(part) = inner.part.clone() else {
            if is_unread {
                self.report(&mut inner, &seen, now);
            }
            inner.seen = Some(seen);
            return nothing(now);
        };
        seen.progress.generation = part.generation;
        seen.progress.guard = self.heart.guard();
        seen.notes.extend(self.known().notes.values().flatten().cloned());
        let standing = part.plan.hosts.get(&self.name).cloned().unwrap_or_default();
        let is_given_up = self.heart.epoch().is_none_or(|epoch| epoch < standing.epoch);
        if is_given_up && fresh && knew_all && is_clear(&self.name, &part, &seen, standing.standing) {
            self.heart.begin_anew(standing.epoch);
        }
        let is_cut = matches!(standing.standing, Standing::Fencing { .. });
        seen.progress.surrendered = (is_given_up && fresh && is_cut).then_some(standing.epoch);
        seen.progress.epoch = self.heart.epoch().unwrap_or_default();
        let departs = departs(&self.name, &part, &seen);
        let is_done = fresh && departs && is_done(&self.name, &part, &seen);
        {
            let mut known = self.known();
            (known.departs, known.is_done) = (departs, is_done);
        }
        self.report(&mut inner, &seen, now);
        inner.seen = Some(seen.clone());
        if is_given_up {
            // Nothing is begun before the leader has taken this host up again.
            return soon(inner.hand.carry_out(steps::surrender(&part.plan, &seen), &self.name, now), now);
        }
        let done = inner.hand.act((&part.spec, &part.plan), &seen, &BTreeSet::new(), now);
        if fresh { done } else { soon(done, now) }
    }

    /// Says what is to be done with the host's watchdog; `dog` if it is armed. Never waits.
    ///
    /// A watchdog that cannot be stopped, and that nobody counts on, is fed whatever becomes of the store: see
    /// [`tranche_core::liveness`].
    pub fn tend(&self, dog: Option<Dog>, now_ms: u64) -> Tending {
        let (shall_arm, timers) = {
            let known = self.known();
            (if known.retires { Some(false) } else { known.shall_arm }, known.timers)
        };
        let wanted_ms = timers.watchdog_ms();
        // What it is about to be asked for is said before it is: it may take it any moment.
        let is_asked = dog.is_none_or(|dog| dog.asked_ms != Some(wanted_ms));
        let least_ms = if is_asked { wanted_ms } else { 0 };
        let timeout_ms = dog.map_or(0, |dog| dog.timeout_ms).max(least_ms);
        self.heart.note_watchdog(dog.is_some(), shall_arm != Some(false), timeout_ms);
        let may_feed = |timeout_ms| self.heart.may_feed(now_ms, timeout_ms);
        match (dog, shall_arm) {
            // Who is not heard by the leader may be counted on by what another daemon said before, and starting it feeds it.
            (None, Some(true)) if may_feed(wanted_ms) => Tending::Arm(wanted_ms),
            (None, _) => Tending::Leave,
            // The leader counts on it until it was told otherwise.
            (Some(dog), Some(false)) if self.heart.said_unguarded() => {
                if dog.is_stoppable {
                    Tending::Disarm
                } else {
                    Tending::Feed
                }
            }
            (Some(_), _) if is_asked && may_feed(wanted_ms) => Tending::Retime(wanted_ms),
            (Some(dog), _) if may_feed(dog.timeout_ms) => Tending::Feed,
            (Some(_), _) => Tending::Leave,
        }
    }

    /// The times that the cluster goes by, as far as is known.
    pub fn timers(&self) -> Timers {
        self.known().timers
    }

    /// The same; none before they were read. Never waits.
    pub fn timers_read(&self) -> Option<Timers> {
        let known = self.known();
        known.shall_arm.map(|_| known.timers)
    }

    /// Whether a VM is on its way from another host to this one, by what is known of the plan. Never waits.
    pub fn expects_from(&self, host: &HostName) -> bool {
        self.known().expected.contains(host)
    }

    /// From now on no watchdog is wanted: it is stopped as soon as the leader knows that it guards nothing any more.
    pub fn retire(&self) {
        self.known().retires = true;
    }

    /// Says with the host's last heartbeat what its silence means, if no watchdog could still reset it: that it is about to go down
    /// and runs nothing, so nobody need wait until it is known to be down; or that its daemon was stopped and what it runs goes
    /// on, so nobody cuts its power. Called when the daemon ends, until it returns that there is nothing left to say.
    pub fn take_leave(&self, clock: &dyn Fn() -> u64, now: Timestamp) -> bool {
        if !self.heart.said_unguarded() {
            return true;
        }
        let (is_done, departs) = {
            let known = self.known();
            (known.is_done, known.departs)
        };
        match (is_done, departs) {
            (true, _) => self.heart.say_farewell(),
            (false, false) => self.heart.say_unattended(),
            // What runs on a host that goes down ends with it.
            (false, true) => return true,
        }
        // The heart may beat at the same time; then this one is refused, and said again. If none arrives, the host is silent, and
        // judged by that.
        self.heart.beat(&self.timers(), clock, now) != Rhythm::Skips
    }

    /// What the host's own report shall say besides what is seen there, from now on. Returns whether that is new.
    pub fn note(&self, of: Noted, notes: Vec<Finding>) -> bool {
        let mut known = self.known();
        let before = known.notes.entry(of).or_default();
        let is_new = *before != notes;
        *before = notes;
        is_new
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what was decided, if that is not known yet.
    fn read(&self, inner: &Inner, domains: &[VmName]) -> Result<Part, RepositoryError> {
        match &inner.part {
            Some(part) if inner.domains == domains && self.repository.is_current(&self.name, part)? => {
                Ok(part.clone())
            }
            known => self.repository.part(&self.name, domains, known.as_ref()),
        }
    }

    /// Keeps what was read, unless it is older than what is known. Returns whether it is of now.
    fn keep(&self, inner: &mut Inner, read: Result<Part, RepositoryError>) -> bool {
        match read {
            Ok(part) if inner.part.as_ref().is_none_or(|known| known.generation <= part.generation) => {
                let mut known = self.known();
                known.shall_arm = Some(steps::shall_arm(&part.spec, &part.plan, &self.name));
                known.timers = part.spec.policy.failover.timers;
                known.expected = hosts_that_send(&part.plan, &self.name);
                drop(known);
                inner.part = Some(part);
                self.trouble.is_over("what was decided can be read again", &self.name);
                true
            }
            Ok(_) => false,
            Err(error) => {
                self.trouble.tell(
                    "what was decided cannot be read, and what was decided last is carried on",
                    &self.name,
                    &error,
                );
                false
            }
        }
    }

    /// Stores what was seen, if it differs from what is stored.
    fn report(&self, inner: &mut Inner, seen: &HostInventory, now: Timestamp) {
        let known = inner
            .reported
            .as_ref()
            .is_some_and(|(reported, at)| reported.is_alike(seen) && !now.is_past(*at, REPORT_EVERY_MS));
        if known {
            return;
        }
        match self.repository.report(seen) {
            Ok(()) => inner.reported = Some((seen.clone(), now)),
            Err(error) => {
                inner.reported = None;
                self.trouble.tell("what was seen cannot be reported", &self.name, &error);
            }
        }
    }
}

fn names_of_domains(seen: &HostInventory) -> Vec<VmName> {
    let domains = seen.domains().into_iter().flatten();
    domains.filter_map(|(name, _)| name.parse().ok()).collect()
}

/// The hosts from which VMs are on their way to this one.
fn hosts_that_send(plan: &Plan, host: &HostName) -> BTreeSet<HostName> {
    let comes = |planned: &&VmPlan| planned.open_journey().is_some_and(|journey| &journey.other == host);
    plan.vms.values().filter(comes).map(|planned| planned.host.clone()).collect()
}

/// Whether a host that was given up runs nothing of others, as the plan since then says.
fn is_clear(host: &HostName, part: &Part, seen: &HostInventory, standing: Standing) -> bool {
    // While its power is being cut, it is not known yet what becomes of its VMs.
    if matches!(standing, Standing::Fencing { .. }) {
        return false;
    }
    let runs_others = |name: &str| {
        let name: Result<VmName, _> = name.parse();
        let planned = name.ok().and_then(|name| part.plan.vms.get(&name));
        planned.is_some_and(|planned| &planned.host != host)
    };
    seen.domains().is_some_and(|domains| {
        domains.values().all(|domain| !domain.state.is_active() || !runs_others(&domain.name))
    })
}

/// Whether a host is about to go down by its administrator's word.
fn departs(host: &HostName, part: &Part, seen: &HostInventory) -> bool {
    part.spec.hosts.get(host).is_some_and(|wish| wish.departs_in(&seen.boot_id).is_some())
}

/// Whether a host that is about to go down runs nothing, neither of ours nor of others, and shall start nothing.
fn is_done(host: &HostName, part: &Part, seen: &HostInventory) -> bool {
    let starts = part.plan.vms.values().any(|planned| &planned.host == host && planned.goal.starts());
    let is_quiet =
        seen.domains().is_some_and(|domains| domains.values().all(|domain| !domain.state.is_active()));
    !starts && is_quiet
}

fn nothing(now: Timestamp) -> PassReport {
    soon(
        PassReport { steps_tried: 0, steps_failed: 0, next_due: None, restored: false, moved: Vec::new() },
        now,
    )
}

/// The same, with another turn soon, which nothing else would bring about.
fn soon(report: PassReport, now: Timestamp) -> PassReport {
    let again = Timestamp(now.0 + AGAIN_MS);
    PassReport { next_due: report.next_due.map_or(again, |due| due.min(again)).into(), ..report }
}
