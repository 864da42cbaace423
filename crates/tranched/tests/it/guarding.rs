//! A member's heart, host and watchdog in virtual time: what the watchdog is told, and when it resets the host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::Guard as Reported;
use tranche_core::liveness::Heartbeat;
use tranche_core::name::{HostName, Timestamp, VmId, VmName};
use tranche_core::plan::{DownBy, HostPlan, Standing, VmGoal, VmPlan};
use tranche_core::spec::{Availability, Duty, Failover, HostSpec, Request, Run, Timers, VmSource, VmSpec};
use tranche_host::fake::Machine;
use tranche_host::watchdog::Open;
use tranche_host::watchdog::fake::{FakeWatchdog, Model};
use tranche_store::{Loaded, MemoryStore, Outcome, Repository, Saved, State, Store, StoreError, Terms};
use tranched::engine::cluster::{Heart, Member, beat_every_ms};
use tranched::member::guard::{Finder, Guard};
use uuid::Uuid;

use crate::fake_machine::{FakeMachine, new_vm};
use crate::stores::{Fault, Faulty};

/// How often the guard looks.
const TEND_EVERY_MS: u64 = 200;

pub(crate) fn host() -> HostName {
    "node1".parse().unwrap()
}

fn vm() -> VmName {
    "desk".parse().unwrap()
}

/// How the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// It can be read, and takes nothing more.
    Full,
    /// It does not answer.
    Gone,
}

/// Has the store answer as its mood is.
#[derive(Debug)]
pub(crate) struct Moody(pub(crate) Mutex<Mood>);

impl Moody {
    fn answers(&self, writes: bool) -> Result<(), StoreError> {
        let place = "the store".to_owned();
        match *self.0.lock().unwrap() {
            Mood::Full if writes => Err(StoreError::Quota { place, source: "NOSPACE".into() }),
            Mood::Well | Mood::Full => Ok(()),
            Mood::Gone => Err(StoreError::Unreachable { place, source: "no answer".into() }),
        }
    }
}

impl Fault for Moody {
    fn on_get(&self) -> Result<(), StoreError> {
        self.answers(false)
    }

    fn on_range(&self) -> Result<(), StoreError> {
        self.answers(false)
    }

    fn on_commit(&self, commit: &dyn Fn() -> Result<Outcome, StoreError>) -> Result<Outcome, StoreError> {
        self.answers(true).and_then(|()| commit())
    }
}

/// A member of a cluster in virtual time.
pub(crate) struct Rig {
    pub(crate) store: Arc<dyn Store>,
    mood: Arc<Moody>,
    pub(crate) repository: Repository,
    loaded: Option<Loaded>,
    heart: Arc<Heart>,
    member: Member,
    guard: Guard,
    watchdog: FakeWatchdog,
    pub(crate) machine: FakeMachine,
    pub(crate) now_ms: u64,
    beat_due_ms: u64,
}

impl Rig {
    pub(crate) fn new(model: Model) -> Self {
        Self::with(FakeWatchdog::new(model), None)
    }

    /// A host that runs nothing protected yet.
    fn with(watchdog: FakeWatchdog, kept: Option<Open>) -> Self {
        let mood = Arc::new(Moody(Mutex::new(Mood::Well)));
        let store: Arc<dyn Store> =
            Arc::new(Faulty { store: Arc::new(MemoryStore::default()), fault: Arc::clone(&mood) });
        let repository = Repository::new(Arc::clone(&store));
        let machine = FakeMachine::new(host(), Machine::gpus(1, 4));
        let boot_id = machine.host().boot_id();
        let heart = Arc::new(Heart::new(host(), boot_id, "1".to_owned(), repository.clone()));
        let member = Member::new(host(), machine.host(), repository.clone(), Arc::clone(&heart), 1);
        let guard = Guard::new(watchdog.watchdog(host()), kept);
        let loaded = Some(repository.load().unwrap());
        let (now_ms, beat_due_ms) = (1_000, 1_000);
        let mut rig = Self {
            store,
            mood,
            repository,
            loaded,
            heart,
            member,
            guard,
            watchdog,
            machine,
            now_ms,
            beat_due_ms,
        };
        rig.decide(|state| {
            state.spec.hosts.insert(host(), wish());
            state.plan.hosts.insert(host(), HostPlan::default());
        });
        rig
    }

    /// Something is decided, and the host hears of it.
    pub(crate) fn decide(&mut self, change: impl FnOnce(&mut State)) {
        self.decide_unheard(change);
        let _ = self.member.pass(Timestamp(self.now_ms));
    }

    /// The same before the host's loop has turned.
    fn decide_unheard(&mut self, change: impl FnOnce(&mut State)) {
        let loaded = self.loaded.take().unwrap();
        let mut next = loaded.state.clone();
        change(&mut next);
        *next.plan.generations.entry(host()).or_default() += 1;
        match self.repository.commit(loaded, next, &Terms::default()).unwrap() {
            Saved::Committed(loaded) => self.loaded = Some(loaded),
            Saved::Conflict(conflict) => panic!("{conflict}"),
        }
    }

    /// Another daemon, which has not looked yet.
    fn restart(&mut self) {
        let (host_of, repository) = (self.machine.host(), self.repository.clone());
        self.heart = Arc::new(Heart::new(host(), host_of.boot_id(), "1".to_owned(), repository.clone()));
        self.member = Member::new(host(), host_of, repository, Arc::clone(&self.heart), 1);
    }

    /// Whether its VM is started elsewhere if the host dies.
    pub(crate) fn protect(&mut self, failover: Failover) {
        self.decide(|state| {
            let availability = Availability { failover, ..Availability::default() };
            state.spec.vms.insert(vm(), wished(availability));
            state.plan.vms.insert(vm(), planned());
        });
    }

    pub(crate) fn store_is(&self, mood: Mood) {
        *self.mood.0.lock().unwrap() = mood;
    }

    /// Lets time pass. Returns when the watchdog has reset the host, if it has.
    pub(crate) fn run_for(&mut self, ms: u64) -> Option<u64> {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            let deadline_ms = self.watchdog.deadline_ms();
            self.now_ms += TEND_EVERY_MS;
            if self.watchdog.advance_to(self.now_ms) {
                return deadline_ms;
            }
            let now_ms = self.now_ms;
            if now_ms >= self.beat_due_ms {
                let timers = self.member.timers();
                let rhythm = self.heart.beat(&timers, &|| now_ms, Timestamp(now_ms));
                self.beat_due_ms = now_ms + beat_every_ms(rhythm, &timers);
            }
            self.guard.tend(&self.member, now_ms);
        }
        None
    }

    pub(crate) fn beat(&self) -> Heartbeat {
        self.repository.beats().unwrap().of[&host()].heartbeat.clone()
    }
}

pub(crate) fn wish() -> HostSpec {
    HostSpec {
        joined_at: Timestamp(0),
        labels: std::collections::BTreeMap::new(),
        duty: Duty::Serving,
        fence: None,
        said_down: None,
        departure: None,
        reserved_memory_mib: 0,
    }
}

fn wished(availability: Availability) -> VmSpec {
    VmSpec {
        id: VmId(Uuid::from_u128(1)),
        source: VmSource::Made(new_vm(Request::None).hardware),
        request: Request::None,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability,
        run: Run::Running,
        serial: 1,
        relocation: None,
        handover: None,
        created_at: Timestamp(1),
    }
}

fn planned() -> VmPlan {
    let id = VmId(Uuid::from_u128(1));
    VmPlan::new(host(), id, VmGoal::Run)
}

fn nowayout() -> Model {
    Model { nowayout: true, ..Model::default() }
}

#[test]
fn a_watchdog_is_armed_only_after_the_store_has_heard_the_host_and_resets_it_once_the_store_does_not() {
    let mut rig = Rig::new(Model::default());
    rig.store_is(Mood::Gone);
    assert_eq!(rig.run_for(5_000), None);
    rig.store_is(Mood::Well);
    rig.protect(Failover::Restart);
    rig.store_is(Mood::Gone);
    rig.run_for(5_000);
    assert!(
        !rig.guard.is_armed(),
        "arming feeds, and what the store has of this host may be of another daemon"
    );
    rig.store_is(Mood::Well);
    assert_eq!(rig.run_for(20_000), None);
    let beat = rig.beat();
    assert!(beat.armed && beat.bound_ms == Some(8_000), "{beat:?}");
    rig.store_is(Mood::Gone);
    let reset_ms = rig.run_for(60_000).expect("it is reset");
    assert!((reset_ms - beat.sent_at.0) > 4_000 && reset_ms <= beat.sent_at.0 + 8_000, "{reset_ms} {beat:?}");
}

#[test]
fn a_watchdog_that_cannot_be_stopped_is_fed_on_when_nothing_protected_runs_any_more() {
    let mut rig = Rig::new(nowayout());
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(10_000), None);
    assert!(rig.beat().armed);
    rig.protect(Failover::Stay);
    assert_eq!(rig.run_for(60_000), None, "the host is healthy");
    assert!(rig.guard.is_armed() && !rig.guard.is_stoppable() && !rig.beat().armed);
    rig.store_is(Mood::Gone);
    assert_eq!(rig.run_for(60_000), None, "nobody counts on it, so nothing of this host starts elsewhere");
    rig.store_is(Mood::Well);
    assert_eq!(rig.run_for(5_000), None);
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(10_000), None);
    assert!(rig.beat().armed);
    rig.store_is(Mood::Gone);
    assert!(rig.run_for(10_000).is_some(), "and now it is counted on again");
}

#[test]
fn a_watchdog_that_cannot_be_stopped_guards_from_when_it_is_wanted_whether_or_not_the_store_hears_that() {
    let mut rig = Rig::new(nowayout());
    rig.protect(Failover::Restart);
    rig.run_for(5_000);
    rig.protect(Failover::Stay);
    assert_eq!(rig.run_for(30_000), None);
    rig.protect(Failover::Restart);
    rig.store_is(Mood::Gone);
    assert!(rig.run_for(10_000).is_some(), "a heartbeat that says that it is armed may have arrived");
}

#[test]
fn other_times_reach_the_watchdog_and_the_host_keeps_to_what_it_has_said() {
    let mut rig = Rig::new(Model::default());
    let long = Timers { reset_ms: 60_000, restart_ms: 62_000, ..Timers::default() };
    rig.decide(|state| state.spec.policy.failover.timers = long);
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(10_000), None);
    assert_eq!(rig.beat().bound_ms, Some(60_000));
    // The leader goes by the new times at once; a host that is cut off before it has heard of them does not.
    rig.decide(|state| state.spec.policy.failover.timers = Timers::default());
    assert_eq!(rig.beat().bound_ms, Some(60_000));
    assert_eq!(rig.run_for(3_000), None);
    let beat = rig.beat();
    assert_eq!(beat.bound_ms, Some(8_000), "its watchdog has the shorter time by now");
    rig.decide(|state| state.spec.policy.failover.timers = long);
    rig.store_is(Mood::Gone);
    let reset_ms = rig.run_for(90_000).expect("it is reset");
    assert!(
        reset_ms <= beat.sent_at.0 + 8_000,
        "it has said so, and nobody has heard anything else: {reset_ms}"
    );
}

#[test]
fn a_watchdog_that_was_kept_with_a_longer_time_gets_the_one_that_is_wanted() {
    let device = FakeWatchdog::new(Model::default());
    let kept = device.watchdog(host()).arm(60_000).map_err(|refusal| refusal.finding).unwrap().into_open();
    let mut rig = Rig::with(device.clone(), Some(kept));
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(10_000), None, "it is fed");
    let deadline_ms = device.deadline_ms().unwrap();
    assert!(deadline_ms <= rig.now_ms + 4_000, "{deadline_ms}");
    assert_eq!(rig.beat().bound_ms, Some(8_000));
}

#[test]
fn a_watchdog_that_takes_no_shorter_time_goes_on_and_the_heartbeats_say_how_long_it_takes() {
    let slow = Model { timeout_s: (30, 600), ..Model::default() };
    let device = FakeWatchdog::new(slow);
    let kept = device.watchdog(host()).arm(30_000).map_err(|refusal| refusal.finding).unwrap().into_open();
    let mut rig = Rig::with(device, Some(kept));
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(60_000), None, "it is fed all the same");
    let beat = rig.beat();
    assert_eq!(beat.bound_ms, Some(34_000));
    rig.store_is(Mood::Gone);
    let reset_ms = rig.run_for(60_000).expect("it is reset");
    assert!(reset_ms <= beat.sent_at.0 + 34_000, "{reset_ms}");
}

#[test]
fn a_store_that_is_full_resets_nobody_and_one_that_is_gone_after_that_does() {
    let mut rig = Rig::new(Model::default());
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(10_000), None);
    rig.store_is(Mood::Full);
    assert_eq!(rig.run_for(120_000), None, "nobody can be given up");
    let gone_ms = rig.now_ms;
    rig.store_is(Mood::Gone);
    let reset_ms = rig.run_for(60_000).expect("it is reset");
    assert!(reset_ms <= gone_ms + 8_000, "{reset_ms}");
}

#[test]
fn a_host_that_was_given_up_before_the_store_was_full_does_not_live_by_reading() {
    let mut rig = Rig::new(Model::default());
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(10_000), None);
    let loaded = rig.loaded.take().unwrap();
    let mut next = loaded.state.clone();
    let standing = Standing::Fencing { since: Timestamp(1) };
    next.plan.hosts.insert(host(), HostPlan { standing, epoch: 1, ..HostPlan::default() });
    let saved = rig.repository.commit(loaded, next, &Terms::default()).unwrap();
    assert!(matches!(saved, Saved::Committed(_)));
    rig.store_is(Mood::Full);
    assert!(rig.run_for(10_000).is_some());
}

#[test]
fn a_host_that_is_taken_up_again_before_it_has_looked_arms_its_watchdog() {
    let mut rig = Rig::new(Model::default());
    let stands = |standing| {
        move |state: &mut State| {
            state.plan.hosts.insert(host(), HostPlan { standing, epoch: 1, ..HostPlan::default() });
        }
    };
    rig.restart();
    rig.decide_unheard(stands(Standing::Down { since: Timestamp(1), by: DownBy::Watchdog }));
    assert_eq!(rig.run_for(1_000), None);
    assert_eq!(rig.heart.epoch(), None, "its first heartbeat finds it given up");
    rig.decide_unheard(stands(Standing::Up));
    assert_eq!(rig.run_for(2_000), None);
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(3_000), None);
    assert!(rig.beat().armed, "else what is protected would never start there");
}

#[test]
fn a_host_whose_power_is_to_be_cut_ends_its_vms_and_reports_that_it_has() {
    let mut rig = Rig::new(Model::default());
    rig.protect(Failover::Stay);
    for _ in 0..10 {
        rig.run_for(1_000);
        let _ = rig.member.pass(Timestamp(rig.now_ms));
    }
    let runs = |rig: &Rig| {
        let seen = rig.machine.host().observe(Timestamp(rig.now_ms));
        seen.domains().unwrap().values().any(|domain| domain.state.is_active())
    };
    assert!(runs(&rig));
    let standing = Standing::Fencing { since: Timestamp(1) };
    rig.decide(|state| {
        state.plan.hosts.insert(host(), HostPlan { standing, epoch: 1, ..HostPlan::default() });
    });
    for _ in 0..5 {
        rig.run_for(1_000);
        let _ = rig.member.pass(Timestamp(rig.now_ms));
    }
    assert!(!runs(&rig));
    let reported = rig.repository.load().unwrap().state.inventory[&host()].progress.clone();
    assert_eq!((reported.surrendered, reported.epoch), (Some(1), 0), "it does not live in that epoch yet");
}

#[test]
fn a_watchdog_whose_driver_is_loaded_later_is_found_and_guards_from_then_on() {
    let mut rig = Rig::new(Model::default());
    let device = FakeWatchdog::new(Model::default());
    let is_loaded = Arc::new(AtomicBool::new(false));
    let (loaded, found) = (Arc::clone(&is_loaded), device.clone());
    let missing = Finding {
        code: Code::WatchdogMissing,
        severity: Severity::Error,
        subject: Subject::Host(host()),
        message: "Host node1 has no watchdog.".to_owned(),
        hint: "Load its driver.".to_owned(),
    };
    (rig.guard, rig.watchdog) = (
        Guard::awaited(Finder::new(move || match loaded.load(Ordering::SeqCst) {
            true => Ok(found.watchdog(host())),
            false => Err(Box::new(missing.clone())),
        })),
        device,
    );
    rig.protect(Failover::Restart);
    assert_eq!(rig.run_for(30_000), None);
    assert_eq!((rig.heart.guard(), rig.guard.is_armed()), (Reported::None, false));
    is_loaded.store(true, Ordering::SeqCst);
    assert_eq!(rig.run_for(15_000), None);
    assert_eq!((rig.heart.guard(), rig.beat().armed), (Reported::Armed, true));
    rig.store_is(Mood::Gone);
    assert!(rig.run_for(10_000).is_some(), "and it is counted on");
}
