//! The world: time, what happens when, and everything that is neither core nor loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tranche_core::change::Change;
use tranche_core::liveness::{Cause, MemberSays};
use tranche_core::name::{HostName, Timestamp, VmName};
use tranche_core::plan::Plan;
use tranche_core::step::Step;
use tranche_engine::Ids;
use tranche_store::{ManualClock, MemoryStore, Repository, State, Store, Txn};
use uuid::Uuid;

use crate::chance::Chance;
use crate::fencing::AGENT_MS;
use crate::judge::{self, Violation};
use crate::node::{Daemon, Loop, Node, TEND_EVERY_MS};
use crate::quorum::{Members, Place};
use crate::report::{Happened, Record, Report, report};
use crate::scenario::{Event, Scenario, ScenarioError, TIME_MS_MAX};
use crate::setup;
use crate::story::Planted;
use crate::turns::{self, TaskId, Turn};

/// When the simulated wall clocks begin: 2026-01-01, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// How often the world itself looks: members of the store, watchdogs.
const TICK_MS: u64 = 100;
/// How often a wish is said until a leader takes it.
const WISH_TRIES: u32 = 240;
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
    /// What people want, until a leader takes it, with how often it was said.
    pub(crate) wishes: VecDeque<(Change, u32)>,
    ids: u128,
    pub(crate) now_ms: u64,
    queue: BTreeMap<(u64, u64), Due>,
    count: u64,
    chance: Chance,
    pub(crate) nodes: Vec<Node>,
    pub(crate) members: Members,
    /// Who does not reach whom.
    pub(crate) cuts: BTreeSet<(Place, Place)>,
    /// Since when an agent is at work on a host for a cause; none once it is done.
    fences: BTreeMap<(HostName, Cause), Option<u64>>,
    pub(crate) records: Vec<Record>,
    pub(crate) violations: Vec<Violation>,
    rough_until_ms: u64,
    planted: Option<Planted>,
    /// Until when no lease ends, after a change of the store's leader.
    leases_rest_until_ms: u64,
    judged: State,
    pub(crate) resets: u32,
}

#[derive(Debug, Clone)]
pub(crate) enum Due {
    /// A thread goes on.
    Wake(TaskId),
    Tend(Life),
    Tick,
    Boot(Place),
    DaemonStart(Life),
    Befalls(Event),
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
        if scenario.hosts.is_empty() {
            return Err(ScenarioError::NoHost);
        }
        if scenario.until_ms > TIME_MS_MAX {
            return Err(ScenarioError::TooLong);
        }
        for host in scenario.events.iter().filter_map(|timed| timed.event.host()) {
            if !scenario.hosts.contains_key(host) {
                return Err(ScenarioError::UnknownHost(host.clone()));
            }
        }
        let nodes: Vec<Node> =
            scenario.hosts.iter().map(|(name, setup)| Node::new(name.clone(), setup.clone())).collect();
        // The store runs on the first three hosts, or on two and a witness, which is a place without a node.
        let members = if scenario.witness && nodes.len() == 2 { 3 } else { nodes.len().min(3) };
        let leases = Arc::new(ManualClock::default());
        let inner = Inner {
            tasks: BTreeMap::new(),
            task_nodes: BTreeMap::new(),
            threads: Vec::new(),
            over: false,
            wishes: VecDeque::new(),
            ids: 0,
            now_ms: 0,
            queue: BTreeMap::new(),
            count: 0,
            chance: Chance::new(scenario.seed),
            members: Members::on(0..members, scenario.failover.timers.election_ms),
            nodes,
            cuts: BTreeSet::new(),
            fences: BTreeMap::new(),
            records: Vec::new(),
            violations: Vec::new(),
            rough_until_ms: scenario.rough_until_ms,
            planted: scenario.planted,
            leases_rest_until_ms: 0,
            judged: State::default(),
            resets: 0,
        };
        let store = Arc::new(MemoryStore::new(Arc::clone(&leases) as Arc<dyn tranche_store::Clock>));
        let world = Arc::new(Self { store, leases, inner: Mutex::new(inner), main: Arc::default() });
        setup::write_wishes(&world, scenario);
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
        self.with(|inner| {
            let skew_ms = inner.nodes[node].setup.clock_skew_ms;
            Timestamp((EPOCH_MS + inner.now_ms).saturating_add_signed(skew_ms))
        })
    }

    /// Lets time pass, and happen what happens then. Only the thread that gives the turns does so.
    fn play(self: &Arc<Self>, until_ms: u64) {
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
            self.main.give();
            turn.wait();
            // An overloaded host gives its daemon no time.
            match self.with(|inner| inner.paused_ms(id)) {
                0 => return,
                paused_ms => ms = paused_ms,
            }
        }
    }

    fn happen(self: &Arc<Self>, due: Due) {
        match due {
            Due::Tick => {
                self.with(Inner::tick);
                self.with(|inner| inner.after(TICK_MS, Due::Tick));
            }
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
                }
            }
            Due::Tend(life) => self.tend(life),
            Due::Boot(node) => self.with(|inner| inner.boot(node)),
            Due::DaemonStart(life) => self.start_daemon(life),
            Due::Befalls(event) => {
                let wish = self.with(|inner| inner.befall(&event));
                self.with(|inner| inner.wishes.extend(wish.map(|change| (change, 0))));
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
            node.on && node.life == life.count && node.daemon.is_none()
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
                    world.run_for(pause_ms);
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
    pub(crate) fn next_wish(&self) -> Option<(Change, u32)> {
        self.with(|inner| inner.wishes.pop_front())
    }

    /// A wish that no store took is said again.
    pub(crate) fn wish_again(&self, change: Change, tries: u32) {
        if tries < WISH_TRIES {
            self.with(|inner| inner.wishes.push_front((change, tries + 1)));
        }
    }

    /// Whether a daemon still lives this life.
    pub(crate) fn lives(&self, life: Life) -> bool {
        self.with(|inner| inner.lives(life))
    }

    pub(crate) fn planted(&self) -> Option<Planted> {
        self.with(|inner| inner.planted)
    }

    pub(crate) fn store_answers(&self, node: Place) -> bool {
        self.with(|inner| inner.store_answers(node))
    }

    /// Whether an answer that is on its way back does not arrive.
    pub(crate) fn loses_answer(&self, node: Place) -> bool {
        self.with(|inner| !inner.reaches_store(node) || (inner.is_rough() && inner.chance.percent(1)))
    }

    pub(crate) fn members_say(&self, node: Place) -> Vec<MemberSays> {
        self.with(|inner| inner.members.say(&|place| inner.reach(node, place), inner.now_ms))
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

    /// How long a message travels, in milliseconds.
    pub(crate) fn draw_latency(&self) -> u64 {
        self.with(|inner| {
            if inner.is_rough() && inner.chance.percent(2) {
                return inner.chance.between(100, 1_500);
            }
            inner.chance.between(1, 5)
        })
    }

    /// How long a step takes, in milliseconds.
    pub(crate) fn draw_step_time(&self, step: &Step) -> u64 {
        let (least, most) = match step {
            Step::StartVm { .. } => (200, 1_500),
            Step::ShutDownVm { .. } => (500, 5_000),
            Step::EnableVfs { .. } | Step::DisableVfs { .. } => (100, 800),
            _ => (1, 40),
        };
        self.with(|inner| inner.chance.between(least, most))
    }

    /// Has an agent cut a host's power. Returns whether it is done.
    pub(crate) fn fence(&self, host: &HostName, cause: Cause) -> Result<bool, String> {
        self.with(|inner| {
            let now_ms = inner.now_ms;
            let Some(node) = inner.nodes.iter().position(|node| &node.name == host) else {
                return Err("there is no such host".to_owned());
            };
            if inner.nodes[node].agent_off {
                return Err("the device does not answer".to_owned());
            }
            match *inner.fences.entry((host.clone(), cause)).or_insert(Some(now_ms)) {
                None => Ok(true),
                Some(since_ms) if now_ms >= since_ms + AGENT_MS => {
                    inner.power_off(node, "its power is cut by an agent");
                    inner.fences.insert((host.clone(), cause), None);
                    Ok(true)
                }
                Some(_) => Ok(false),
            }
        })
    }

    pub(crate) fn record(&self, node: Place, what: Happened) {
        self.with(|inner| inner.record(node, what));
    }

    /// Judges the start of a VM that has just taken place.
    pub(crate) fn judge_start(&self, vm: &VmName, node: Place) {
        let stored = self.stored();
        self.with(|inner| {
            let runs_on: Vec<String> = inner.runs_on(vm.as_str());
            let host = inner.nodes[node].name.to_string();
            for what in judge::judge_start(vm, &host, &runs_on, &stored) {
                inner.violations.push(Violation { at_ms: inner.now_ms, what });
            }
        });
    }

    /// Judges what was decided since the last time.
    pub(crate) fn judge_plans(&self, known: &Plan) {
        if self.with(|inner| *inner.judged.plan == *known) {
            return;
        }
        // What one that led until now knows may be of yesterday; what is stored is not.
        let stored = self.stored();
        self.with(|inner| {
            for what in judge::judge_plans(&inner.judged, &stored) {
                inner.violations.push(Violation { at_ms: inner.now_ms, what });
            }
            inner.judged = stored;
        });
    }

    fn stored(&self) -> State {
        let repository = Repository::new(Arc::clone(&self.store) as Arc<dyn Store>);
        repository.load().expect("a store in memory is read").state
    }
}

impl Inner {
    /// A new id, the same in each run.
    pub(crate) fn next_id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    pub(crate) fn after(&mut self, ms: u64, due: Due) {
        self.count += 1;
        self.queue.insert((self.now_ms + ms, self.count), due);
    }

    /// Whether the network is of low quality.
    fn is_rough(&self) -> bool {
        self.now_ms < self.rough_until_ms
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
            let (runs, reach) = (|place: Place| self.runs(place), |a: Place, b: Place| self.reach(a, b));
            let mut chance = self.chance.clone();
            let elected = members.advance(self.now_ms, &mut chance, &runs, &reach);
            (elected, chance)
        };
        self.members = members;
        self.chance = elected.1;
        if elected.0 {
            self.leases_rest_until_ms = self.now_ms + 3_000;
        }
        for node in 0..self.nodes.len() {
            self.see_departure_through(node);
            let starved = self.nodes[node]
                .fed_ms
                .is_some_and(|fed_ms| self.now_ms >= fed_ms + self.nodes[node].watchdog_ms);
            if starved && self.nodes[node].on {
                self.resets += 1;
                self.power_off(node, "its watchdog resets it");
                let boot_ms = self.nodes[node].setup.boot_ms;
                self.after(boot_ms, Due::Boot(node));
            }
        }
    }

    fn runs(&self, place: Place) -> bool {
        // A witness is a place without a node, and always on.
        self.nodes.get(place).is_none_or(|node| node.on)
    }

    /// Whether two places reach each other, both ways: a call needs both.
    fn reach(&self, one: Place, other: Place) -> bool {
        let off = |place: Place| self.nodes.get(place).is_some_and(|node| node.network_off);
        one == other
            || (self.runs(one)
                && self.runs(other)
                && !off(one)
                && !off(other)
                && !self.cuts.contains(&(one, other))
                && !self.cuts.contains(&(other, one)))
    }

    fn reaches_store(&self, node: Place) -> bool {
        !self.nodes[node].store_off && self.members.answers(&|place| self.reach(node, place), self.now_ms)
    }

    fn store_answers(&self, node: Place) -> bool {
        self.nodes[node].on && self.reaches_store(node)
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

    fn runs_on(&self, vm: &str) -> Vec<String> {
        let runs = |node: &&Node| {
            node.on && node.model.domains.get(vm).is_some_and(|domain| domain.state.is_active())
        };
        self.nodes.iter().filter(runs).map(|node| node.name.to_string()).collect()
    }

    pub(crate) fn record(&mut self, node: Place, what: Happened) {
        let host = self.nodes[node].name.to_string();
        self.records.push(Record { at_ms: self.now_ms, host, what });
    }

    pub(crate) fn befell(&mut self, node: Place, event: &str) {
        self.record(node, Happened::Befell { event: event.to_owned() });
    }

    pub(crate) fn power_off(&mut self, node: Place, why: &str) {
        if !self.nodes[node].on {
            return;
        }
        self.befell(node, why);
        self.kill_daemon(node);
        let node = &mut self.nodes[node];
        node.on = false;
        node.fed_ms = None;
        node.paused_until_ms = 0;
        node.departure = None;
        node.model.lose_power();
    }

    fn boot(&mut self, node: Place) {
        if self.nodes[node].on {
            return;
        }
        self.befell(node, "it has booted");
        self.nodes[node].on = true;
        let count = self.nodes[node].life;
        self.after(0, Due::DaemonStart(Life { node, count }));
    }

    pub(crate) fn kill_daemon(&mut self, node: Place) {
        let node = &mut self.nodes[node];
        node.daemon = None;
        node.life += 1;
    }

    pub(crate) fn place(&self, host: &HostName) -> Place {
        self.nodes.iter().position(|node| &node.name == host).unwrap_or_default()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
