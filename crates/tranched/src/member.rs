//! A member of a cluster at work: its loops, each on a thread of its own, so that none waits for another.
//!
//! | thread | does |
//! | --- | --- |
//! | `heart` | says that the host lives, and notes beforehand by when it is down if it does not |
//! | `guard` | feeds the host's watchdog, or lets it reset the host |
//! | `polls` | asks the store's members whether anybody can write, while heartbeats are not acknowledged |
//! | `ear` | hears the heartbeats of all hosts, if this host may lead |
//! | `lead` | leads the cluster, or would |
//! | `listen` | wakes the host's loop when something was decided for it |
//! | `trials` | tries how other hosts are fenced, while all is well |
//!
//! The host's loop itself is the [`crate::looper`]'s. What each turn does is [`tranche_engine::cluster`]'s; here are only threads,
//! clocks, and the two things that those loops take for granted: a watchdog and fence agents.
//!
//! Deliberately absent: how hosts become members ([`crate::cluster`]).

mod fencing;
pub mod guard;
mod polls;
mod trials;
pub mod vigil;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use tranche_core::liveness::{Farewell, MemberSays, Parting, Trials};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::spec::Timers;
use tranche_engine::cluster::{self, Fencer, Heart, Leader, Led, Rhythm};
use tranche_engine::{Desk, PassReport};
use tranche_host::Host;
use tranche_store::{Repository, RepositoryError, Store, Tidings};

pub use self::fencing::Agents;
use self::guard::Guard;
pub use self::polls::StoreMembers;
pub use self::trials::Tester;
use self::vigil::{Lived, Times};
use crate::bell::{Bell, Wake};
use crate::clock;

/// How long a watch waits for news before it looks whether it is to end.
const LISTEN_MS: u64 = 1_000;
/// How often a host that does not lead looks whether it does.
const ATTEND_AGAIN: Duration = Duration::from_millis(500);
/// After the store refused a watch.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// How often a host that may not lead asks whether it may.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks whether the watchdog is stopped, when the daemon ends.
const RETIRE_LOOK: Duration = Duration::from_millis(50);
/// For how long a daemon that ends tries to say what its host's silence will mean.
const LEAVE: Duration = Duration::from_secs(3);
/// For how much longer than until the next look the service manager is asked to wait.
const MORE_TIME: Duration = Duration::from_secs(5);
/// The shortest pause between two questions for heartbeats.
const HEAR_PAUSE: Duration = Duration::from_millis(50);

/// Tells what the store's members say when each is asked by itself.
pub trait Voices: Send + Sync + std::fmt::Debug {
    /// Asks all of them beside each other, for so long.
    fn ask(&self, within: Duration) -> Vec<MemberSays>;
}

/// Says whether this host may lead now. Does not wait.
pub type MayLead = Arc<dyn Fn() -> bool + Send + Sync>;

/// What the loops of a member work with.
#[derive(Clone)]
pub struct Parts {
    /// The host's name.
    pub name: HostName,
    /// The host.
    pub host: Arc<dyn Host>,
    /// The cluster's store.
    pub store: Arc<dyn Store>,
    /// The same, where an answer that takes longer than an election is an error.
    pub brisk_store: Arc<dyn Store>,
    /// Where is decided, while this host leads.
    pub desk: Arc<Desk>,
    /// Who cuts the power of hosts.
    pub fencer: Arc<dyn Fencer>,
    /// Who tells whether that could be done.
    pub tester: Arc<dyn Tester>,
    /// Who is asked when heartbeats are not acknowledged.
    pub voices: Arc<dyn Voices>,
    /// Whether this host may lead.
    pub may_lead: MayLead,
    /// Wakes the host's loop.
    pub wake_host: Bell,
    /// How many steps of different VMs and GPUs are done side by side.
    pub workers: usize,
    /// Where this host's libvirt may be reached by members that send VMs here, in this order; nowhere if empty.
    pub libvirt: Vec<Utf8PathBuf>,
    /// Where the times of failover are noted for a daemon that comes up without the store.
    pub times: Arc<Times>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A member at work. Copies are the same.
#[derive(Debug, Clone)]
pub struct Member(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    repository: Repository,
    heart: Arc<Heart>,
    host: cluster::Member,
    leader: Leader,
    /// What was tried of how other hosts are fenced.
    trials: Mutex<Trials>,
    /// Wakes who leads, after a wish and when heartbeats were heard.
    wishes: Bell,
    /// Each thread waits at its own.
    bells: Mutex<Vec<Bell>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    leads: AtomicBool,
    ended: AtomicBool,
    /// Whether a watchdog is open that the leader may count on.
    guarded: AtomicBool,
    /// It is proved that nobody can write to the store.
    nobody_writes: AtomicBool,
    /// When a heartbeat was acknowledged last, by `started`.
    beaten_ms: AtomicU64,
    started: Instant,
}

impl Member {
    /// A member that is not at work yet.
    pub fn new(parts: Parts) -> Self {
        let repository = Repository::new(Arc::clone(&parts.store));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let heart =
            Arc::new(Heart::new(parts.name.clone(), parts.host.boot_id(), version, repository.clone()));
        let host = cluster::Member::new(
            parts.name.clone(),
            Arc::clone(&parts.host),
            repository.clone(),
            Arc::clone(&heart),
            parts.workers,
        );
        let leader =
            Leader::new(parts.name.clone(), Arc::clone(&parts.store), Arc::clone(&parts.brisk_store))
                .booted_at(-clock::up_ms());
        Self(Arc::new(Inner {
            parts,
            repository,
            heart,
            host,
            leader,
            trials: Mutex::default(),
            wishes: Bell::default(),
            bells: Mutex::default(),
            threads: Mutex::default(),
            leads: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            guarded: AtomicBool::new(false),
            nobody_writes: AtomicBool::new(false),
            beaten_ms: AtomicU64::new(0),
            started: Instant::now(),
        }))
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no more of them.
    pub fn start(&self, guard: Guard) -> std::io::Result<()> {
        let (this, bell) = (self.clone(), self.new_bell());
        self.thread("guard", move || this.tend(guard, &bell))?;
        self.repeat("heart", Self::beat)?;
        self.repeat("polls", Self::poll)?;
        self.repeat("ear", Self::hear)?;
        self.repeat("trials", Self::try_fences)?;
        let this = self.clone();
        let wishes = self.0.wishes.clone();
        self.thread("lead", move || {
            while wishes.wait(this.lead()) != Wake::Over {}
            this.0.leader.step_down();
        })?;
        self.repeat("listen", Self::listen)?;
        self.repeat("attend", Self::attend)
    }

    /// One turn of the host's loop. Called by one thread only.
    pub fn pass(&self, now: Timestamp) -> PassReport {
        self.0.host.pass(now)
    }

    /// The bell that wakes whoever leads, if that is this host.
    pub fn wishes(&self) -> Bell {
        self.0.wishes.clone()
    }

    /// Whether a VM is on its way from another host to this one.
    pub fn expects_from(&self, host: &HostName) -> bool {
        self.0.host.expects_from(host)
    }

    /// Where this host's libvirt may be reached by members that send VMs here.
    pub fn libvirt(&self) -> &[Utf8PathBuf] {
        &self.0.parts.libvirt
    }

    /// Whether this host leads, and so may answer for the cluster.
    pub fn leads(&self) -> bool {
        self.0.leads.load(Ordering::SeqCst)
    }

    /// Who leads, as the store says.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn leader(&self) -> Result<Option<HostName>, RepositoryError> {
        self.0.repository.leader()
    }

    /// Ends the threads: tells the cluster first that no watchdog guards this host any more, then stops it. Where the store does
    /// not hear that in time, the watchdog stays armed, and resets the host unless another daemon goes on with it.
    pub fn end(&self) {
        self.0.host.retire();
        self.part_with_watchdog();
        self.take_leave();
        self.0.ended.store(true, Ordering::SeqCst);
        self.0.wishes.end();
        for bell in self.0.bells.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            bell.end();
        }
        let threads: Vec<_> =
            self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        for thread in threads.into_iter().filter(JoinHandle::is_finished) {
            // What it panicked with was told when it did. Who waits for the store is not waited for.
            let _ = thread.join();
        }
    }

    /// Waits until no watchdog guards the host that anybody counts on, or until the daemon may end with one that is armed.
    fn part_with_watchdog(&self) {
        let mut parting = Parting::begins(self.now_ms());
        while self.0.guarded.load(Ordering::SeqCst) {
            match self.0.heart.parts(&mut parting, self.now_ms(), &self.timers()) {
                Farewell::Waits => {}
                Farewell::Holds => guard::ask_for_time(MORE_TIME),
                Farewell::Ends => return,
            }
            thread::sleep(RETIRE_LOOK);
        }
    }

    /// Says what this host's silence will mean, until the store has heard it or for a while.
    fn take_leave(&self) {
        let began = Instant::now();
        while !self.0.host.take_leave(&|| self.now_ms(), clock::now()) && began.elapsed() < LEAVE {
            thread::sleep(RETIRE_LOOK);
        }
    }

    /// Says that the host lives. Returns how long to pause.
    fn beat(&self) -> Duration {
        let (began, timers) = (Instant::now(), self.timers());
        if self.0.host.timers_read() == Some(timers) {
            self.0.parts.times.note(Lived { timers, bound_ms: self.0.heart.bound_ms(&timers) });
        }
        let rhythm = self.0.heart.beat(&timers, &|| self.now_ms(), clock::now());
        if rhythm == Rhythm::Beats {
            self.0.beaten_ms.store(self.now_ms(), Ordering::SeqCst);
        }
        Duration::from_millis(cluster::beat_every_ms(rhythm, &timers)).saturating_sub(began.elapsed())
    }

    /// Asks the store's members if the last heartbeat is late. Returns how long to pause.
    fn poll(&self) -> Duration {
        let timers = self.timers();
        let late_ms = || self.now_ms().saturating_sub(self.0.beaten_ms.load(Ordering::SeqCst));
        if late_ms() > 2 * timers.heartbeat_ms {
            let asked_ms = self.now_ms();
            let says = self.0.parts.voices.ask(Duration::from_millis(timers.election_ms * 2 / 3));
            let poll = tranche_core::liveness::Poll { asked_ms, answered_ms: self.now_ms(), says };
            let proved = self.0.heart.hear_poll(&poll, &timers);
            if proved && !self.0.nobody_writes.swap(true, Ordering::SeqCst) {
                tracing::warn!(
                    "the store has no majority anywhere: VMs run on, and nothing is decided until it is back"
                );
            }
        } else if self.0.nobody_writes.swap(false, Ordering::SeqCst) {
            tracing::info!("the store is back");
        }
        // Nothing is late before that.
        let spare_ms = (2 * timers.heartbeat_ms).saturating_sub(late_ms());
        Duration::from_millis(spare_ms.max(timers.election_ms / 4))
    }

    /// Hears who lives. Returns how long to pause.
    fn hear(&self) -> Duration {
        let Inner { parts, leader, wishes, .. } = &*self.0;
        let (began, timers) = (Instant::now(), self.timers());
        if !(parts.may_lead)() {
            return ASK_AGAIN;
        }
        leader.hear(&timers, &|| self.now_ms(), clock::now());
        wishes.ring();
        let every = Duration::from_millis(cluster::turn_every_ms(&timers));
        every.saturating_sub(began.elapsed()).max(HEAR_PAUSE)
    }

    /// Leads, if nobody else does. Returns how long to pause, unless something is heard before.
    fn lead(&self) -> Duration {
        let Inner { parts, leader, leads, heart, .. } = &*self.0;
        let may_lead = (parts.may_lead)();
        heart.note_able(may_lead && parts.desk.can_read(clock::now()));
        if !may_lead {
            leads.store(false, Ordering::SeqCst);
            return ASK_AGAIN;
        }
        match leader.turn(&parts.desk, &*parts.fencer, &|| self.now_ms(), clock::now()) {
            Led::Decided => {
                if !leads.swap(true, Ordering::SeqCst) {
                    tracing::info!("this host leads the cluster");
                }
            }
            Led::Hampered => {}
            Led::Follows => {
                if leads.swap(false, Ordering::SeqCst) {
                    tracing::warn!("this host does not lead the cluster any more");
                }
            }
        }
        Duration::from_millis(self.timers().election_ms)
    }

    /// Wakes the host's loop whenever something was decided for it.
    fn listen(&self) -> Duration {
        let Inner { parts, repository, .. } = &*self.0;
        self.ring_on_tidings(&parts.wake_host, &|| true, &|| repository.watch_decisions(&parts.name))
    }

    /// Wakes who leads whenever a host has reported.
    fn attend(&self) -> Duration {
        let Inner { repository, wishes, .. } = &*self.0;
        if !self.leads() {
            return ATTEND_AGAIN;
        }
        self.ring_on_tidings(wishes, &|| self.leads(), &|| repository.watch_reports())
    }

    /// Rings a bell whenever there are tidings, as long as they are wanted. Returns how long to pause before the next watch.
    fn ring_on_tidings(
        &self,
        bell: &Bell,
        wanted: &dyn Fn() -> bool,
        watch: &dyn Fn() -> Result<Tidings, RepositoryError>,
    ) -> Duration {
        let watching = watch().and_then(|mut tidings| {
            // What came before the watch began.
            bell.ring();
            while wanted() && !self.has_ended() {
                if tidings.next(Duration::from_millis(LISTEN_MS))? {
                    bell.ring();
                }
            }
            Ok(())
        });
        if let Err(error) = watching {
            tracing::debug!(error = &error as &dyn std::error::Error, "the store is not heard");
        }
        LISTEN_AGAIN
    }

    /// Feeds the watchdog, or does not, again and again.
    fn tend(&self, mut guard: Guard, bell: &Bell) {
        loop {
            guard.tend(&self.0.host, self.now_ms());
            // One that cannot be stopped is not waited for once nobody counts on it.
            let counts = guard.is_stoppable() || !self.0.heart.said_unguarded();
            self.0.guarded.store(guard.is_armed() && counts, Ordering::SeqCst);
            if bell.wait(guard.pause()) == Wake::Over {
                guard.leave();
                return;
            }
        }
    }

    /// Runs something again and again, each time after the pause that it asks for.
    fn repeat(&self, name: &str, turn: fn(&Self) -> Duration) -> std::io::Result<()> {
        let (this, bell) = (self.clone(), self.new_bell());
        self.thread(name, move || while bell.wait(turn(&this)) != Wake::Over {})
    }

    fn thread(&self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body)?;
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// A bell that ends with this.
    fn new_bell(&self) -> Bell {
        let bell = Bell::default();
        self.0.bells.lock().unwrap_or_else(PoisonError::into_inner).push(bell.clone());
        bell
    }

    fn timers(&self) -> Timers {
        self.0.host.timers()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::SeqCst)
    }
}
