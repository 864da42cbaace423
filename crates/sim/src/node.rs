//! A node: a machine that is on or off, and its daemon, whose loops take their turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tranche_core::liveness::Poll;
use tranche_core::name::HostName;
use tranche_engine::cluster::{
    Dog, Heart, Leader, Led, Member, Rhythm, Tending, beat_every_ms, turn_every_ms,
};
use tranche_engine::{Desk, Rejected, View};
use tranche_store::{Repository, Store};

use crate::departure::Departure;
use crate::fencing::Agents;
use crate::machine::Machine;
use crate::model::Model;
use crate::report::Happened;
use crate::scenario::HostSetup;
use crate::store::NodeStore;
use crate::world::{Life, Shared};

/// How long a service manager waits before it starts a daemon again, in milliseconds.
pub(crate) const RESTART_MS: u64 = 1_000;
/// How often a host looks where nothing wakes it, in milliseconds.
const LOOK_EVERY_MS: u64 = 500;
/// How often the watchdog is tended, and the store's members are asked while heartbeats are not acknowledged, in milliseconds.
pub(crate) const TEND_EVERY_MS: u64 = 300;
/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: HostName,
    pub(crate) setup: HostSetup,
    pub(crate) model: Model,
    pub(crate) on: bool,
    /// Counts the lives of its daemon; the present one's number.
    pub(crate) life: u32,
    pub(crate) daemon: Option<Arc<Daemon>>,
    /// When an armed watchdog was last fed.
    pub(crate) fed_ms: Option<u64>,
    /// How long a watchdog that is armed waits for its food, in milliseconds.
    pub(crate) watchdog_ms: u64,
    pub(crate) paused_until_ms: u64,
    pub(crate) network_off: bool,
    pub(crate) store_off: bool,
    pub(crate) agent_off: bool,
    /// Its administrator has told it to go down.
    pub(crate) departure: Option<Departure>,
}

impl Node {
    pub(crate) fn new(name: HostName, setup: HostSetup) -> Self {
        let model = Model::new(name.clone(), setup.gpus, setup.memory_mib);
        Self {
            name,
            setup,
            model,
            on: true,
            life: 0,
            daemon: None,
            fed_ms: None,
            watchdog_ms: 0,
            paused_until_ms: 0,
            network_off: false,
            store_off: false,
            agent_off: false,
            departure: None,
        }
    }
}

/// The loops of a daemon, each on a thread of its own in life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loop {
    Beat,
    Pass,
    Lead,
}

impl Loop {
    pub(crate) const ALL: [Self; 3] = [Self::Beat, Self::Pass, Self::Lead];
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
}

impl Daemon {
    pub(crate) fn new(world: &Arc<Shared>, life: Life) -> Self {
        let (name, boot_id) = world.with(|inner| {
            let node = &inner.nodes[life.node];
            (node.name.clone(), node.model.boot_id())
        });
        let store: Arc<dyn Store> = Arc::new(NodeStore { world: Arc::clone(world), life });
        let repository = Repository::new(Arc::clone(&store));
        let version = "0.0.0".to_owned();
        let heart = Arc::new(Heart::new(name.clone(), boot_id, version, repository.clone()));
        let machine = Arc::new(Machine { world: Arc::clone(world), life });
        let member = Member::new(name.clone(), machine, repository.clone(), Arc::clone(&heart), 1);
        Self {
            life,
            world: Arc::clone(world),
            repository,
            heart,
            member,
            leader: Leader::new(name, store),
            agents: Agents { world: Arc::clone(world), life },
            desk: Mutex::new(None),
            leads: AtomicBool::new(false),
            skips: AtomicBool::new(false),
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
            Loop::Lead => self.lead(),
        }
    }

    /// What it knows, if it leads.
    pub(crate) fn view(&self) -> Option<Arc<View>> {
        let desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        desk.as_ref().filter(|_| self.leads.load(Ordering::SeqCst)).map(|desk| desk.view())
    }

    fn beat(&self) -> u64 {
        if self.world.with(|inner| inner.may_end(self.life.node)) {
            self.member.take_leave(&|| self.world.now_ms(), self.world.wall(self.life.node));
            self.world.with(|inner| inner.go_down(self.life));
        }
        let timers = self.member.timers();
        let rhythm = self.heart.beat(&timers, &|| self.world.now_ms(), self.world.wall(self.life.node));
        self.skips.store(matches!(rhythm, Rhythm::Skips | Rhythm::Waits), Ordering::SeqCst);
        beat_every_ms(rhythm, &timers)
    }

    fn lead(&self) -> u64 {
        let pause_ms = turn_every_ms(&self.member.timers());
        let led = self.take_lead();
        let led_before = self.leads.swap(led == Led::Decided, Ordering::SeqCst);
        if led == Led::Decided {
            if !led_before {
                self.world.record(self.life.node, Happened::Leads);
            }
            if let Some(view) = self.view() {
                self.world.judge_plans(&view.plan);
            }
            self.take_wish();
        }
        pause_ms
    }

    /// Takes what people want, as long as this daemon leads.
    fn take_wish(&self) {
        let desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(desk) = desk else { return };
        while let Some((change, tries)) = self.world.next_wish() {
            let answer = desk.submit(&change, false, self.world.wall(self.life.node));
            // A refusal is an answer; a store that does not take it is none.
            if let Err(Rejected::Store(_)) = answer {
                self.world.wish_again(change, tries);
                return;
            }
        }
    }

    fn take_lead(&self) -> Led {
        let known = self.desk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let desk = match known {
            Some(desk) => desk,
            None => match Desk::open(self.repository.clone(), self.world.ids()) {
                Ok(desk) => {
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
        let known = self.world.with(|inner| {
            let node = &inner.nodes[node];
            node.setup.watchdog.then_some((node.fed_ms.is_some(), node.watchdog_ms))
        });
        let Some((armed, timeout_ms)) = known else { return };
        let dog = Dog { timeout_ms, asked_ms: Some(timeout_ms), is_stoppable: true };
        let (fed_ms, watchdog_ms) = match self.member.tend(armed.then_some(dog), now_ms) {
            Tending::Leave => return,
            Tending::Feed => (Some(now_ms), timeout_ms),
            Tending::Arm(timeout_ms) | Tending::Retime(timeout_ms) => (Some(now_ms), timeout_ms),
            Tending::Disarm => (None, timeout_ms),
        };
        self.world.with(|inner| {
            inner.nodes[node].fed_ms = fed_ms;
            inner.nodes[node].watchdog_ms = watchdog_ms;
        });
    }

    /// Asks the store's members, while heartbeats are not acknowledged.
    pub(crate) fn poll(&self) {
        if self.skips.load(Ordering::SeqCst) {
            let asked_ms = self.world.now_ms();
            let says = self.world.members_say(self.life.node);
            let answered_ms = asked_ms + self.world.draw_latency();
            // What follows from it shows at the watchdog.
            let _ = self.heart.hear_poll(&Poll { asked_ms, answered_ms, says }, &self.member.timers());
        }
    }
}
