//! A node: a machine that is on or off, and its daemon, whose loops take their turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tranche_core::change::Change;
use tranche_core::liveness::{Poll, Vigil};
use tranche_core::name::HostName;
use tranche_core::spec::Timers;
use tranche_engine::cluster::{
    Dog, Heart, Leader, Led, Member, Rhythm, Tending, beat_every_ms, turn_every_ms,
};
use tranche_engine::{Desk, Rejected, View};
use tranche_store::{Repository, Store};

use crate::departure::Departure;
use crate::fencing::Agents;
use crate::machine::Machine;
use crate::model::Model;
use crate::power::{BadBoots, Boot, Fed};
use crate::quorum::Place;
use crate::report::Happened;
use crate::scenario::HostSetup;
use crate::store::{NodeStore, TIMEOUT_MS, Watches};
use crate::world::{Inner, Life, Shared};

/// How long a service manager waits before it starts a daemon again, in milliseconds.
pub(crate) const RESTART_MS: u64 = 1_000;
/// How often a host looks where nothing wakes it, in milliseconds.
const LOOK_EVERY_MS: u64 = 500;
/// The shortest pause between two questions for heartbeats, in milliseconds.
const HEAR_PAUSE_MS: u64 = 50;
/// How often the watchdog is tended, and the store's members are asked while heartbeats are not acknowledged, in milliseconds.
pub(crate) const TEND_EVERY_MS: u64 = 300;
/// How long the end of a daemon waits for the store to hear that its host is not guarded any more, in milliseconds.
const RETIRE_MS: u64 = 8_000;
/// For how long a daemon that ends tries to say what its host's silence will mean, in milliseconds.
const LEAVE_MS: u64 = 3_000;
/// How long it waits for the one that leads to give up its lead, in milliseconds.
const RETIRE_LOOK_MS: u64 = 600;

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: HostName,
    pub(crate) setup: HostSetup,
    pub(crate) model: Model,
    /// Whether it is a member of the cluster; else it has no daemon.
    pub(crate) member: bool,
    pub(crate) on: bool,
    /// Counts the lives of its daemon; the present one's number.
    pub(crate) life: u32,
    pub(crate) daemon: Option<Arc<Daemon>>,
    /// The watchdog, while it is armed.
    pub(crate) fed: Option<Fed>,
    /// The times that its daemon goes by, and the bound that it is held to, as it noted them on its disk.
    pub(crate) lived: Option<(Timers, u64)>,
    /// How it comes to be on, while it is on its way there.
    pub(crate) boot: Option<Boot>,
    pub(crate) bad_boots: BadBoots,
    /// When it booted last; long before the beginning if it has not since.
    pub(crate) booted_at_ms: i64,
    pub(crate) paused_until_ms: u64,
    /// Whatever it does takes so many times as long.
    pub(crate) slowness: u32,
    /// How far its wall clock is off, in milliseconds.
    pub(crate) clock_ms: i64,
    pub(crate) network_off: bool,
    pub(crate) store_off: bool,
    pub(crate) store_slow_ms: u64,
    /// The member of the store that it asks, as long as that answers.
    pub(crate) talks_to: Option<Place>,
    pub(crate) watches: Watches,
    pub(crate) agent_off: bool,
    /// Its daemon was told to end.
    pub(crate) ending: Option<Ending>,
    /// Its administrator has told it to go down.
    pub(crate) departure: Option<Departure>,
}

impl Node {
    pub(crate) fn new(name: HostName, setup: HostSetup) -> Self {
        let model = Model::new(name.clone(), setup.gpus, setup.memory_mib, setup.travels);
        let (clock_ms, member) = (setup.clock_skew_ms, setup.member);
        Self {
            name,
            setup,
            model,
            member,
            on: true,
            life: 0,
            daemon: None,
            fed: None,
            lived: None,
            boot: None,
            bad_boots: BadBoots::default(),
            booted_at_ms: i64::MIN,
            paused_until_ms: 0,
            slowness: 1,
            clock_ms,
            network_off: false,
            store_off: false,
            store_slow_ms: 0,
            talks_to: None,
            watches: Watches::default(),
            agent_off: false,
            ending: None,
            departure: None,
        }
    }
}

/// A daemon that was told to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) since_ms: u64,
    pub(crate) then: Then,
}

/// What follows when a daemon has ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Stay,
    /// It is started.
    Start,
    /// Its host goes down.
    GoDown,
}

/// The loops of a daemon, each on a thread of its own in life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    Beat,
    Pass,
    Hear,
    Lead,
}

impl Loop {
    pub(crate) const ALL: [Self; 4] = [Self::Beat, Self::Pass, Self::Hear, Self::Lead];
}

/// One life of a daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    life: Life,
    world: Arc<Shared>,
    repository: Repository,
    heart: Arc<Heart>,
    member: Member,
    leader: Leader,
    agents: Agents,
    /// Read when it first leads.
    desk: Mutex<Option<Arc<Desk>>>,
    leads: AtomicBool,
    skips: AtomicBool,
    /// It has taken its leave, and only gives up its lead.
    has_left: AtomicBool,
    /// What it goes by before it has read anything: the watchdog may have been left armed.
    vigil: Mutex<Vigil>,
}

impl Daemon {
    pub(crate) fn new(world: &Arc<Shared>, life: Life) -> Self {
        let (name, boot_id, booted_at_ms, version) = world.with(|inner| {
            let node = &inner.nodes[life.node];
            (node.name.clone(), node.model.boot_id(), node.booted_at_ms, node.setup.version.clone())
        });
        let within = |timeout_ms| -> Arc<dyn Store> {
            Arc::new(NodeStore { world: Arc::clone(world), life, timeout_ms })
        };
        let (store, brisk) = (within(TIMEOUT_MS), within(Timers::default().election_ms));
        let repository = Repository::new(Arc::clone(&store));
        let heart = Arc::new(Heart::new(name.clone(), boot_id, version.clone(), repository.clone()));
        let machine = Arc::new(Machine { world: Arc::clone(world), life });
        let member = Member::new(name.clone(), machine, repository.clone(), Arc::clone(&heart), 1);
        Self {
            life,
            world: Arc::clone(world),
            repository,
            heart,
            member,
            leader: Leader::new(name, store, brisk).booted_at(booted_at_ms).of_version(&version),
            agents: Agents { world: Arc::clone(world), life },
            desk: Mutex::new(None),
            leads: AtomicBool::new(false),
            skips: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            vigil: Mutex::default(),
        }
    }

    /// One turn of a loop. Returns how long it pauses then, in milliseconds.
    pub(crate) fn turn(&self, of: Loop) -> u64 {
        match of {
            Loop::Beat => self.beat(),
            Loop::Pass => {
                let report = self.member.pass(self.world.wall(self.life.node));
                if report.is_busy() { 10 } else { LOOK_EVERY_MS }
            }
            Loop::Hear => self.hear(),
            Loop::Lead => self.lead(),
        }
    }

    /// What it knows, if it leads.
    pub(crate) fn view(&self) -> Option<Arc<View>> {
        let desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        desk.as_ref().filter(|_| self.leads.load(Ordering::SeqCst)).map(|desk| desk.view())
    }

    fn beat(&self) -> u64 {
        if self.has_left.load(Ordering::SeqCst) {
            // Nobody waits for a leader that waits for the store.
            self.world.with(|inner| inner.daemon_ended(self.life));
        } else if let Some(since_ms) = self.world.with(|inner| inner.ends_since(self.life.node)) {
            self.member.retire();
            let guarded = self.world.with(|inner| inner.nodes[self.life.node].fed.is_some());
            if !guarded || self.world.now_ms() >= since_ms + RETIRE_MS {
                let said = self.member.take_leave(&|| self.world.now_ms(), self.world.wall(self.life.node));
                let gives_up = self.world.now_ms() >= since_ms + RETIRE_MS + LEAVE_MS;
                self.has_left.store(said || gives_up, Ordering::SeqCst);
                return RETIRE_LOOK_MS;
            }
        }
        let timers = self.member.timers();
        if self.member.timers_read() == Some(timers) {
            let lived = (timers, self.heart.bound_ms(&timers));
            self.world.with(|inner| inner.nodes[self.life.node].lived = Some(lived));
        }
        let rhythm = self.heart.beat(&timers, &|| self.world.now_ms(), self.world.wall(self.life.node));
        self.skips.store(matches!(rhythm, Rhythm::Skips | Rhythm::Waits), Ordering::SeqCst);
        beat_every_ms(rhythm, &timers)
    }

    fn hear(&self) -> u64 {
        let (began_ms, timers) = (self.world.now_ms(), self.member.timers());
        self.leader.hear(&timers, &|| self.world.now_ms(), self.world.wall(self.life.node));
        turn_every_ms(&timers).saturating_sub(self.world.now_ms() - began_ms).max(HEAR_PAUSE_MS)
    }

    fn lead(&self) -> u64 {
        if self.has_left.load(Ordering::SeqCst) {
            self.leader.step_down();
            self.world.with(|inner| inner.daemon_ended(self.life));
            return 0;
        }
        let pause_ms = turn_every_ms(&self.member.timers());
        // In rough times wishes do not wait for a turn: what the desk knows is then of the turn before, whatever has happened since.
        if self.leads.load(Ordering::SeqCst) && self.world.with(|inner| inner.is_rough()) {
            self.take_wish();
        }
        let led = self.take_lead();
        let led_before = self.leads.swap(led == Led::Decided, Ordering::SeqCst);
        if led == Led::Decided {
            if !led_before {
                self.world.record(self.life.node, Happened::Leads);
            }
            self.take_wish();
        }
        pause_ms
    }

    /// Takes what people want, as long as this daemon leads.
    fn take_wish(&self) {
        let desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(desk) = desk else { return };
        while let Some(wish) = self.world.next_wish() {
            let answer = desk.submit(&wish.change, false, self.world.wall(self.life.node));
            // A refusal is an answer; a store that does not take it is none.
            if let Err(Rejected::Store(_)) = answer {
                self.world.wish_again(wish);
                return;
            }
            if let (Ok(_), Change::RemoveHost { host }) = (&answer, &wish.change) {
                self.world.removed(host);
            }
            if let Some(then) = wish.then {
                self.world.with(|inner| inner.wishes.push_front(then.into()));
            }
        }
    }

    fn take_lead(&self) -> Led {
        let known = self.desk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let desk = match known {
            Some(desk) => desk,
            None => match Desk::open(self.repository.clone(), self.world.ids()) {
                Ok(desk) => {
                    self.heart.note_able(true);
                    let desk = Arc::new(desk.doubting());
                    *self.desk.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&desk));
                    desk
                }
                Err(_) => return Led::Follows,
            },
        };
        let wall = self.world.wall(self.life.node);
        self.leader.turn(&desk, &self.agents, &|| self.world.now_ms(), wall)
    }

    /// Tends the watchdog.
    pub(crate) fn tend(&self) {
        let node = self.life.node;
        let now_ms = self.world.now_ms();
        let has_one = |inner: &mut Inner| inner.nodes[node].setup.watchdog.then_some(inner.nodes[node].fed);
        let Some(fed) = self.world.with(has_one) else { return };
        if let Some(fed) = fed.filter(|fed| self.keeps_vigil(fed, now_ms)) {
            self.world.with(|inner| inner.nodes[node].fed = Some(Fed { at_ms: now_ms, ..fed }));
            return;
        }
        let dog =
            |fed: Fed| Dog { timeout_ms: fed.timeout_ms, asked_ms: Some(fed.timeout_ms), is_stoppable: true };
        let next = match self.member.tend(fed.map(dog), now_ms) {
            Tending::Leave => return,
            Tending::Feed => fed.map(|fed| Fed { at_ms: now_ms, ..fed }),
            Tending::Arm(timeout_ms) | Tending::Retime(timeout_ms) => Some(Fed { at_ms: now_ms, timeout_ms }),
            Tending::Disarm => None,
        };
        self.world.with(|inner| inner.nodes[node].fed = next);
    }

    /// Asks the store's members, while heartbeats are not acknowledged, and before anything was read where the watchdog was left armed.
    pub(crate) fn poll(&self) {
        let is_armed = |inner: &mut Inner| inner.nodes[self.life.node].fed.is_some();
        let keeps_vigil = || self.member.timers_read().is_none() && self.world.with(is_armed);
        if self.skips.load(Ordering::SeqCst) || keeps_vigil() {
            let asked_ms = self.world.now_ms();
            let says = self.world.members_say(self.life.node);
            let answered_ms = asked_ms + self.world.draw_latency(self.life.node);
            let poll = Poll { asked_ms, answered_ms, says };
            // What follows from it shows at the watchdog.
            let _ = self.heart.hear_poll(&poll, &self.member.timers());
            if let Some((timers, bound_ms)) = self.world.with(|inner| inner.nodes[self.life.node].lived) {
                self.vigil.lock().unwrap_or_else(PoisonError::into_inner).hear(&poll, &timers, bound_ms);
            }
        }
    }

    /// Whether it has read nothing yet, and may feed the watchdog all the same.
    fn keeps_vigil(&self, fed: &Fed, now_ms: u64) -> bool {
        let vigil = self.vigil.lock().unwrap_or_else(PoisonError::into_inner);
        self.member.timers_read().is_none() && vigil.lifeline().may_feed(now_ms, fed.timeout_ms)
    }
}
