//! The world: time, what happens when, and everything that is neither core nor loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tranche_core::change::Change;
use tranche_core::journey::Sent;
use tranche_core::name::{HostName, Timestamp, VmName};
use tranche_core::step::Step;
use tranche_engine::Ids;
use tranche_store::{ManualClock, MemoryStore, Store, Txn};
use uuid::Uuid;

use crate::chance::Chance;
use crate::event::Event;
use crate::fencing::{AtWork, Told};
use crate::judge::{Judge, Violation};
use crate::node::{Daemon, Loop, Node, TEND_EVERY_MS};
use crate::power::Witness;
use crate::quorum::{Members, Place};
use crate::report::{Happened, Record, Report, report};
use crate::scenario::Scenario;
use crate::setup;
use crate::story::Planted;
use crate::transfer::Transfer;
use crate::turns::{self, TaskId, Turn};
use crate::valid::{self, ScenarioError, WITNESS};

/// When the simulated wall clocks begin: 2026-01-01, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// How often the world itself looks: members of the store, watchdogs.
const TICK_MS: u64 = 100;
/// How often a wish is said until a leader takes it.
const WISH_TRIES: u32 = 240;
/// How much of the time of a turn is its host's own, in milliseconds.
const TURN_MS: u64 = 5;
/// The stack of a loop's thread.
const STACK_BYTES: usize = 1 << 20;

/// One life of one daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) node: Place,
    pub(crate) count: u32,
}

/// The world as everybody shares it. No lock is held while a loop takes its turn.
pub(crate) struct Shared {
    /// The store below all faults.
    pub(crate) store: Arc<MemoryStore>,
    leases: Arc<ManualClock>,
    inner: Mutex<Inner>,
    /// Of the thread that gives the turns.
    main: Arc<Turn>,
}

pub(crate) struct Inner {
    tasks: BTreeMap<TaskId, Arc<Turn>>,
    task_nodes: BTreeMap<TaskId, Place>,
    threads: Vec<JoinHandle<()>>,
    /// Everything shall end.
    over: bool,
    /// What people want, until a leader takes it.
    pub(crate) wishes: VecDeque<Wish>,
    ids: u128,
    pub(crate) now_ms: u64,
    /// How far time passes before whoever plays looks on.
    until_ms: u64,
    queue: BTreeMap<(u64, u64), Due>,
    count: u64,
    pub(crate) chance: Chance,
    pub(crate) nodes: Vec<Node>,
    /// The place behind the last node, where there is one.
    pub(crate) witness: Witness,
    pub(crate) members: Members,
    /// From where to where nothing arrives.
    pub(crate) cuts: BTreeSet<(Place, Place)>,
    /// What each life of a daemon knows of its agents, by host and cause.
    pub(crate) fences: BTreeMap<Told, AtWork>,
    /// How many more starts of a VM fail.
    pub(crate) failing: BTreeMap<VmName, u32>,
    /// How many more moves of a VM while it runs come to nothing.
    pub(crate) failing_moves: BTreeMap<VmName, u32>,
    /// VMs that are being sent.
    pub(crate) transfers: Vec<Transfer>,
    /// What came of those that were sent from a host, and which life of a daemon knows.
    pub(crate) sent: BTreeMap<(Place, VmName), (Life, Sent)>,
    pub(crate) store_slow_ms: u64,
    pub(crate) store_full: bool,
    pub(crate) records: Vec<Record>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) rough_until_ms: u64,
    pub(crate) planted: Option<Planted>,
    /// Until when no lease ends, after a change of the store's leader.
    leases_rest_until_ms: u64,
    pub(crate) judge: Judge,
    pub(crate) resets: u32,
}

/// What somebody wants.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) change: Change,
    /// How often it was said in vain.
    pub(crate) tries: u32,
    /// It is not said any more once this host is on.
    pub(crate) while_off: Option<Place>,
    /// What is wanted as soon as this was answered.
    pub(crate) then: Option<Change>,
}

impl From<Change> for Wish {
    fn from(change: Change) -> Self {
        Self { change, tries: 0, while_off: None, then: None }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Due {
    /// A thread goes on.
    Wake(TaskId),
    Tend(Life),
    Tick,
    /// A boot ends, which may be one that is over already.
    Boot(Place, u64),
    DaemonStart(Life),
    /// A member of the store that was killed runs again.
    MemberStart(Place),
    /// An agent does what it was told.
    PowerCut(Place),
    TurnOn(Place),
    Befalls(Event),
    /// All of a VM that was sent is there.
    Sent(Transfer),
    /// It is told to go on there.
    GoesOn(Transfer),
    /// A host gives up waiting for the rest of a VM.
    ArrivalEnds(Transfer),
    /// A write arrives that its client has long given up.
    Late(Txn),
}

/// Plays a scenario.
///
/// # Errors
/// The scenario cannot be played.
pub fn run(scenario: &Scenario) -> Result<Report, ScenarioError> {
    let world = Shared::new(scenario)?;
    world.play(scenario.until_ms);
    let report = report(&world, scenario);
    world.end();
    Ok(report)
}

impl Shared {
    fn new(scenario: &Scenario) -> Result<Arc<Self>, ScenarioError> {
        valid::check(scenario)?;
        let nodes: Vec<Node> =
            scenario.hosts.iter().map(|(name, setup)| Node::new(name.clone(), setup.clone())).collect();
        // The store runs on the first three hosts, or on two and a witness, which is a place without a node.
        let members = if scenario.witness { 3 } else { nodes.len().min(3) };
        let leases = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::new(Arc::clone(&leases) as Arc<dyn tranche_store::Clock>));
        setup::write_wishes(&(Arc::clone(&store) as Arc<dyn Store>), &nodes, scenario);
        let inner = Inner {
            tasks: BTreeMap::new(),
            task_nodes: BTreeMap::new(),
            threads: Vec::new(),
            over: false,
            wishes: VecDeque::new(),
            // Those of the VMs that are there from the beginning come before.
            ids: scenario.vms.len() as u128,
            now_ms: 0,
            until_ms: 0,
            queue: BTreeMap::new(),
            count: 0,
            chance: Chance::new(scenario.seed),
            members: Members::on(0..members, scenario.failover.timers.election_ms),
            nodes,
            witness: Witness { on: true, network_off: false },
            cuts: BTreeSet::new(),
            fences: BTreeMap::new(),
            failing: BTreeMap::new(),
            failing_moves: BTreeMap::new(),
            transfers: Vec::new(),
            sent: BTreeMap::new(),
            store_slow_ms: 0,
            store_full: false,
            records: Vec::new(),
            violations: Vec::new(),
            rough_until_ms: scenario.rough_until_ms,
            planted: scenario.planted,
            leases_rest_until_ms: 0,
            judge: Judge::new(Arc::clone(&store) as Arc<dyn Store>),
            resets: 0,
        };
        let world = Arc::new(Self { store, leases, inner: Mutex::new(inner), main: Arc::default() });
        world.with(|inner| {
            inner.after(0, Due::Tick);
            for node in 0..inner.nodes.len() {
                let life = Life { node, count: 0 };
                inner.after(10 * node as u64, Due::DaemonStart(life));
            }
            for timed in &scenario.events {
                inner.after(timed.at_ms, Due::Befalls(timed.event.clone()));
            }
        });
        Ok(world)
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.with(|inner| inner.now_ms)
    }

    /// A host's wall clock.
    pub(crate) fn wall(&self, node: Place) -> Timestamp {
        self.with(|inner| inner.wall_of(node))
    }

    /// Lets time pass, and happen what happens then. Only the thread that gives the turns does so.
    fn play(self: &Arc<Self>, until_ms: u64) {
        self.with(|inner| inner.until_ms = until_ms);
        loop {
            let due = self.with(|inner| {
                let first = inner.queue.first_key_value().map(|(key, _)| *key);
                let key = first.filter(|(at_ms, _)| *at_ms <= until_ms);
                let passed = key.map_or(until_ms, |(at_ms, _)| at_ms).saturating_sub(inner.now_ms);
                inner.now_ms += passed;
                (key.and_then(|key| inner.queue.remove(&key)), inner.lease_time(passed))
            });
            self.leases.advance(due.1);
            match due.0 {
                Some(due) => self.happen(due),
                None => return,
            }
        }
    }

    /// Ends all threads: each finds itself dead wherever it stands.
    fn end(&self) {
        let tasks = self.with(|inner| {
            inner.over = true;
            std::mem::take(&mut inner.tasks)
        });
        for turn in tasks.into_values() {
            turn.give();
            self.main.wait();
        }
        for thread in self.with(|inner| std::mem::take(&mut inner.threads)) {
            // What it panicked with was told when it did.
            let _ = thread.join();
        }
        // A daemon knows its world, which would else be there as long as the daemon is, and the other way round.
        let daemons: Vec<_> =
            self.with(|inner| inner.nodes.iter_mut().filter_map(|node| node.daemon.take()).collect());
        drop(daemons);
    }

    /// Lets so much time pass for the loop that calls it; everybody else goes on meanwhile.
    pub(crate) fn run_for(&self, ms: u64) {
        let Some((id, turn)) = turns::task() else { return };
        let mut ms = ms;
        loop {
            if self.with(|inner| inner.over) {
                return;
            }
            self.with(|inner| inner.after(ms, Due::Wake(id)));
            if !self.goes_on(id) {
                self.main.give();
                turn.wait();
            }
            // An overloaded host gives its daemon no time.
            match self.with(|inner| inner.paused_ms(id)) {
                0 => return,
                paused_ms => ms = paused_ms,
            }
        }
    }

    /// Lets time pass up to where a loop goes on, if nobody else is due before that. It keeps its turn then: giving it away and
    /// getting it back is most of what playing costs.
    fn goes_on(&self, id: TaskId) -> bool {
        loop {
            let passed = self.with(|inner| {
                let (&(at_ms, number), due) = inner.queue.first_key_value()?;
                let own = match due {
                    Due::Wake(task) if *task == id => true,
                    Due::Tick => false,
                    _ => return None,
                };
                let passed_ms = at_ms.saturating_sub(inner.now_ms);
                if at_ms > inner.until_ms {
                    return None;
                }
                inner.queue.remove(&(at_ms, number));
                inner.now_ms += passed_ms;
                Some((own, inner.lease_time(passed_ms)))
            });
            let Some((own, lease_ms)) = passed else { return false };
            self.leases.advance(lease_ms);
            if own {
                return true;
            }
            self.tick();
        }
    }

    fn tick(&self) {
        self.with(|inner| {
            inner.tick();
            inner.after(TICK_MS, Due::Tick);
        });
    }

    fn happen(self: &Arc<Self>, due: Due) {
        match due {
            Due::Tick => self.tick(),
            Due::Wake(task) => {
                if let Some(turn) = self.with(|inner| inner.tasks.get(&task).cloned()) {
                    turn.give();
                    self.main.wait();
                }
            }
            Due::Late(txn) => {
                if self.with(|inner| inner.members.leader().is_some()) {
                    // What comes of it, nobody learns.
                    let _ = self.store.commit(&txn);
                    self.judge_write();
                }
            }
            Due::Tend(life) => self.tend(life),
            Due::Boot(node, number) => self.with(|inner| inner.finish_boot(node, number)),
            Due::MemberStart(place) => self.with(|inner| inner.members.set_killed(place, false)),
            Due::PowerCut(node) => self.with(|inner| inner.power_off(node, "its power is cut by an agent")),
            Due::Sent(transfer) => {
                self.with(|inner| inner.finish_transfer(&transfer));
                self.judge_step();
            }
            Due::GoesOn(transfer) => {
                self.with(|inner| inner.go_on(&transfer));
                self.judge_step();
            }
            Due::ArrivalEnds(transfer) => self.with(|inner| inner.end_arrival(&transfer)),
            Due::TurnOn(node) => self.with(|inner| inner.turned_on(node)),
            Due::DaemonStart(life) => self.start_daemon(life),
            Due::Befalls(Event::HostJoin(host)) => self.join(&host),
            Due::Befalls(event) => {
                let wish = self.with(|inner| inner.befall(&event));
                self.with(|inner| inner.wishes.extend(wish));
            }
        }
    }

    /// What a daemon does in between, without waiting for anybody.
    fn tend(self: &Arc<Self>, life: Life) {
        let daemon = self.with(|inner| {
            let paused = inner.nodes[life.node].paused_until_ms > inner.now_ms;
            let daemon = inner.nodes[life.node].daemon.clone().filter(|_| inner.lives(life));
            daemon.map(|daemon| (daemon, paused))
        });
        let Some((daemon, paused)) = daemon else { return };
        if !paused {
            daemon.tend();
            daemon.poll();
        }
        self.with(|inner| inner.after(TEND_EVERY_MS, Due::Tend(life)));
    }

    fn start_daemon(self: &Arc<Self>, life: Life) {
        let starts = self.with(|inner| {
            let node = &inner.nodes[life.node];
            node.member && node.on && node.life == life.count && node.daemon.is_none()
        });
        if !starts {
            return;
        }
        let daemon = Arc::new(Daemon::new(self, life));
        self.with(|inner| {
            inner.nodes[life.node].daemon = Some(Arc::clone(&daemon));
            inner.after(0, Due::Tend(life));
        });
        for (at, of) in Loop::ALL.into_iter().enumerate() {
            self.start_loop(&daemon, life, of, at as u64 * 7);
        }
    }

    /// Starts the thread of a loop. It takes turns until its daemon is dead.
    fn start_loop(self: &Arc<Self>, daemon: &Arc<Daemon>, life: Life, of: Loop, after_ms: u64) {
        let (turn, world, daemon) = (Arc::new(Turn::default()), Arc::clone(self), Arc::clone(daemon));
        let id = self.with(|inner| {
            inner.count += 1;
            inner.tasks.insert(inner.count, Arc::clone(&turn));
            inner.task_nodes.insert(inner.count, life.node);
            let id = inner.count;
            inner.after(after_ms, Due::Wake(id));
            id
        });
        let body = move || {
            turns::become_task(id, &turn);
            turn.wait();
            let played = std::panic::catch_unwind(AssertUnwindSafe(|| {
                while world.lives(life) {
                    let pause_ms = daemon.turn(of);
                    world.run_for(pause_ms + world.slowed(life.node, TURN_MS) - TURN_MS);
                }
            }));
            world.with(|inner| {
                if played.is_err() {
                    let what = format!("the loop {of:?} of node {} panicked", life.node);
                    inner.violations.push(Violation { at_ms: inner.now_ms, what });
                }
                inner.tasks.remove(&id);
                inner.task_nodes.remove(&id);
            });
            world.main.give();
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(body);
        self.with(|inner| inner.threads.extend(thread));
    }

    /// Where new ids come from.
    pub(crate) fn ids(self: &Arc<Self>) -> Ids {
        let world = Arc::clone(self);
        Ids(Arc::new(move || world.with(Inner::next_id)))
    }

    /// What people want next.
    pub(crate) fn next_wish(&self) -> Option<Wish> {
        self.with(|inner| {
            let Inner { nodes, wishes, .. } = inner;
            wishes.retain(|wish| wish.while_off.is_none_or(|node| !nodes[node].on));
            wishes.pop_front()
        })
    }

    /// A wish that no store took is said again.
    pub(crate) fn wish_again(&self, wish: Wish) {
        if wish.tries < WISH_TRIES {
            self.with(|inner| inner.wishes.push_front(Wish { tries: wish.tries + 1, ..wish }));
        }
    }

    /// Whether a daemon still lives this life.
    pub(crate) fn lives(&self, life: Life) -> bool {
        self.with(|inner| inner.lives(life))
    }

    pub(crate) fn planted(&self) -> Option<Planted> {
        self.with(|inner| inner.planted)
    }

    /// A write without an answer may arrive later.
    pub(crate) fn may_arrive_late(&self, txn: Txn) {
        self.with(|inner| {
            if inner.chance.percent(30) {
                let late_ms = inner.chance.between(1, 12_000);
                inner.after(late_ms, Due::Late(txn));
            }
        });
    }

    /// A part of a write arrives a while after the rest of it, which is a defect.
    pub(crate) fn arrives_late(&self, txn: Txn) {
        self.with(|inner| {
            let late_ms = inner.chance.between(1_000, 5_000);
            inner.after(late_ms, Due::Late(txn));
        });
    }

    /// How long a step takes, in milliseconds.
    pub(crate) fn draw_step_time(&self, node: Place, step: &Step) -> u64 {
        let (least, most) = match step {
            Step::StartVm { .. } => (200, 1_500),
            Step::ShutDownVm { .. } => (500, 5_000),
            Step::EnableVfs { .. } | Step::DisableVfs { .. } => (100, 800),
            _ => (1, 40),
        };
        let takes_ms = self.with(|inner| inner.chance.between(least, most));
        self.slowed(node, takes_ms)
    }

    /// How long something takes a host that takes others so long, in milliseconds.
    pub(crate) fn slowed(&self, node: Place, ms: u64) -> u64 {
        self.with(|inner| ms * u64::from(inner.nodes[node].slowness))
    }

    pub(crate) fn record(&self, node: Place, what: Happened) {
        self.with(|inner| inner.record(node, what));
    }
}

impl Inner {
    /// A host's wall clock.
    pub(crate) fn wall_of(&self, node: Place) -> Timestamp {
        let off_ms = self.nodes[node].clock_ms;
        Timestamp((EPOCH_MS + self.now_ms).saturating_add_signed(off_ms))
    }

    /// A new id, the same in each run.
    pub(crate) fn next_id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    pub(crate) fn after(&mut self, ms: u64, due: Due) {
        let number = self.next_number();
        self.queue.insert((self.now_ms + ms, number), due);
    }

    /// A number that nothing else has.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// How much of the time that passed counts for leases: while the store has no leader they do not end, and a new leader
    /// gives each its whole time again.
    fn lease_time(&self, passed_ms: u64) -> u64 {
        let rests = self.members.leader().is_none() || self.now_ms < self.leases_rest_until_ms;
        if rests { 0 } else { passed_ms }
    }

    fn tick(&mut self) {
        let mut members = self.members.clone();
        let elected = {
            let (runs, arrives) = (|place: Place| self.runs(place), |a: Place, b: Place| self.arrives(a, b));
            let mut chance = self.chance.clone();
            let elected = members.advance(self.now_ms, &mut chance, &runs, &arrives);
            (elected, chance)
        };
        self.members = members;
        self.chance = elected.1;
        if elected.0 {
            self.leases_rest_until_ms = self.now_ms + 3_000;
        }
        for node in 0..self.nodes.len() {
            self.see_departure_through(node);
            self.see_to_watchdog(node);
        }
    }

    /// For how much longer a thread's host gives it no time.
    fn paused_ms(&self, task: TaskId) -> u64 {
        let node = self.task_nodes.get(&task).and_then(|node| self.nodes.get(*node));
        node.filter(|node| node.on).map_or(0, |node| node.paused_until_ms.saturating_sub(self.now_ms))
    }

    pub(crate) fn lives(&self, life: Life) -> bool {
        let node = &self.nodes[life.node];
        !self.over && node.on && node.life == life.count && node.daemon.is_some()
    }

    pub(crate) fn record(&mut self, node: Place, what: Happened) {
        let host = self.nodes.get(node).map_or(WITNESS.to_owned(), |node| node.name.to_string());
        self.records.push(Record { at_ms: self.now_ms, host, what });
    }

    pub(crate) fn befell(&mut self, node: Place, event: &str) {
        self.record(node, Happened::Befell { event: event.to_owned() });
    }

    /// Where a host is. What a scenario names was checked before it began.
    pub(crate) fn place(&self, host: &HostName) -> Place {
        self.node_of(host).unwrap_or(self.nodes.len())
    }

    pub(crate) fn node_of(&self, host: &HostName) -> Option<Place> {
        self.nodes.iter().position(|node| &node.name == host)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
