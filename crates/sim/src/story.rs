//! Stories that nobody wrote: a random cluster, what befalls it, and how it is healed at the end.
//!
//! While things go wrong, only the invariants are asked for. Then everything is mended, and after a while every VM that
//! should run, and has room, must run.

use std::collections::BTreeMap;

use tranche_core::journey::Migration;
use tranche_core::name::{HostName, VmName};
use tranche_core::spec::{
    Availability, Failover, FailoverPolicy, PlacementPolicy, Request, ShutdownPolicy, Timers,
};

use crate::chance::Chance;
use crate::event::{Event, TimedEvent};
use crate::report::Report;
use crate::scenario::{Expectation, HostSetup, Scenario, VmSetup};
use crate::trouble::{Cast, TROUBLE_MS, peace, trouble, trouble_on_the_way, trouble_that_lasts};
use crate::valid::ScenarioError;
use crate::world;

/// In so many stories of a hundred, nothing more happens for a long while before everything is mended. Such a story costs six times as
/// much as another.
const QUIET_PERCENT: u64 = 1;
/// How long, in milliseconds: longer than falls are remembered ([`tranche_core::falls::STEADY_MS`]), and longer than VMs wait for a
/// host that was to reboot.
const QUIET_MS: [u64; 2] = [11 * 60_000, 16 * 60_000];
/// In so many stories of a hundred, some hosts have a later version than others.
const VERSIONS_PERCENT: u64 = 15;
/// In so many stories of a hundred with more than two hosts, the last one joins on the way.
const JOINS_PERCENT: u64 = 10;
/// In so many stories of a hundred, VMs can be sent from host to host while they run.
const TRAVELS_PERCENT: u64 = 50;
/// How long everything has then to come right, in milliseconds.
const PEACE_MS: u64 = 240_000;
/// How long the network remains of low quality when hosts have no more trouble. Whoever is reset then is powered on again.
const ROUGH_MS: u64 = 70_000;

/// A defect that is put in on purpose, to show that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A leader does not wait for the fence: whatever agent it asks says at once that the host is off, and does nothing.
    NoFenceWait,
    /// A VM is started before its booking is stored: what is booked arrives a while after the rest of a decision.
    BookingAfterStart,
    /// Who leads once goes on leading, and its writes rest neither on its lead nor on what it knows: the store drops their
    /// terms.
    StaleLeaderWrites,
    /// Hosts do not know that a guest shut itself down, and take it for crashed.
    ForgottenShutdown,
    /// A VM that is sent goes on as soon as it is whole, and not only once it is off where it was.
    GoesOnAtOnce,
}

/// Makes up a story and plays it.
///
/// # Errors
/// The story cannot be played, which is a defect of this room.
pub fn fuzz(seed: u64) -> Result<Report, ScenarioError> {
    world::run(&story(seed))
}

/// The same with a defect.
///
/// # Errors
/// The story cannot be played, which is a defect of this room.
pub fn fuzz_with(seed: u64, planted: Planted) -> Result<Report, ScenarioError> {
    let mut story = story(seed);
    story.planted = Some(planted);
    if planted == Planted::NoFenceWait {
        story.hosts.values_mut().for_each(|host| host.agent = true);
    }
    if planted == Planted::GoesOnAtOnce {
        story.hosts.values_mut().for_each(|host| host.travels = true);
    }
    world::run(&story)
}

/// The story of a seed.
pub fn story(seed: u64) -> Scenario {
    let mut chance = Chance::new(seed ^ 0x7261_6E64_6F6D);
    // What is decided for a host with very many VMs takes several writes.
    let is_large = chance.percent(1);
    let count = if is_large { 3 } else { *chance.pick(&[2, 3, 3, 3, 4, 5]) };
    let names: Vec<HostName> = (1..=count).map(|n| name(&format!("host{n}"))).collect();
    let mut hosts: BTreeMap<HostName, HostSetup> =
        names.iter().map(|name| (name.clone(), host(&mut chance, is_large))).collect();
    let mut room = Room::of(&hosts);
    let many = if is_large { chance.between(40, 60) } else { chance.between(1, 8) };
    let vms: BTreeMap<VmName, VmSetup> =
        (1..=many).map(|n| (vm_name(n), vm(&mut chance, &mut room))).collect();
    let first_late = vms.len() as u64 + 1;
    let late: BTreeMap<VmName, VmSetup> = (first_late..first_late + chance.between(0, 2))
        .map(|n| (vm_name(n), VmSetup { running: true, ..vm(&mut chance, &mut room) }))
        .collect();
    let witness = count == 2 && chance.percent(70);
    let cast = Cast { hosts: &names, witness, vms: &vms, late: &late };
    let mut events = trouble(&mut chance, &cast);
    // What came into these stories later is drawn by itself, so that the rest of each seed's story stays as it was.
    let mut more = Chance::new(seed ^ 0x6C61_7465);
    let quiet_ms = if more.percent(QUIET_PERCENT) { *more.pick(&QUIET_MS) } else { 0 };
    if quiet_ms > 0 {
        events.extend(trouble_that_lasts(&mut more, &cast));
    }
    if more.percent(VERSIONS_PERCENT) {
        for host in hosts.values_mut().filter(|_| more.percent(50)) {
            host.version = "1.1.0".to_owned();
        }
    }
    if let Some((host, setup)) =
        hosts.iter_mut().next_back().filter(|_| count > 2 && more.percent(JOINS_PERCENT))
    {
        setup.member = false;
        let at_ms = more.between(5_000, TROUBLE_MS);
        events.push(TimedEvent { at_ms, event: Event::HostJoin(host.clone()) });
    }
    let mut travels = Chance::new(seed ^ 0x7472_6176_656C);
    let mut vms = vms.clone();
    if travels.percent(TRAVELS_PERCENT) {
        hosts.values_mut().for_each(|host| host.travels = travels.percent(95));
        for setup in vms.values_mut() {
            setup.availability.migration = *travels.pick(&[
                Migration::LiveOrRestart,
                Migration::LiveOrRestart,
                Migration::LiveOnly,
                Migration::Restart,
            ]);
        }
        events.extend(trouble_on_the_way(&mut travels, &cast));
        events.sort_by_key(|timed| timed.at_ms);
    }
    events.extend(peace(&cast, quiet_ms));
    let policies = [
        ShutdownPolicy::Conditional,
        ShutdownPolicy::Migrate,
        ShutdownPolicy::Restart,
        ShutdownPolicy::Freeze,
    ];
    let expect = expectation(&vms, &late, &events);
    Scenario {
        seed,
        hosts,
        witness,
        placement: *chance.pick(&[PlacementPolicy::Pack, PlacementPolicy::Spread]),
        failover: FailoverPolicy { paused: false, timers: timers(&mut chance) },
        shutdown: *chance.pick(&policies),
        vms,
        rules: BTreeMap::new(),
        events,
        until_ms: TROUBLE_MS + quiet_ms + PEACE_MS,
        expect,
        rough_until_ms: if chance.percent(50) { TROUBLE_MS + ROUGH_MS } else { 0 },
        planted: None,
    }
}

fn name(text: &str) -> HostName {
    text.parse().expect("it is a plain name")
}

fn vm_name(n: u64) -> VmName {
    format!("vm{n}").parse().expect("it is a plain name")
}

fn host(chance: &mut Chance, is_large: bool) -> HostSetup {
    HostSetup {
        gpus: u8::from(is_large || chance.percent(20)) + 1,
        partitions: if is_large { 16 } else { *chance.pick(&[0, 2, 2, 4, 4, 4, 4, 8, 8]) },
        memory_mib: 65_536,
        labels: BTreeMap::new(),
        watchdog: chance.percent(90),
        agent: chance.percent(30),
        boot_ms: chance.between(5_000, 40_000),
        clock_skew_ms: i64::try_from(chance.between(0, 4_000)).unwrap_or_default() - 2_000,
        ..HostSetup::default()
    }
}

/// Times that fit each other, mostly the usual ones.
fn timers(chance: &mut Chance) -> Timers {
    let usual = Timers::default();
    let quick =
        Timers { heartbeat_ms: 500, lost_ms: 2_500, reset_ms: 4_600, restart_ms: 5_800, election_ms: 600 };
    let slow = Timers {
        heartbeat_ms: 2_000,
        lost_ms: 9_000,
        reset_ms: 16_000,
        restart_ms: 20_000,
        election_ms: 2_000,
    };
    *chance.pick(&[usual, usual, usual, usual, quick, slow])
}

/// What is still free for VMs, so that there is room for all.
struct Room {
    partitions: u64,
    wholes: u64,
}

impl Room {
    fn of(hosts: &BTreeMap<HostName, HostSetup>) -> Self {
        let partitions = |host: &HostSetup| u64::from(host.partitions) * u64::from(host.gpus);
        let wholes = |host: &HostSetup| if host.partitions == 0 { u64::from(host.gpus) } else { 0 };
        Self { partitions: hosts.values().map(partitions).sum(), wholes: hosts.values().map(wholes).sum() }
    }

    fn draw(&mut self, chance: &mut Chance) -> Request {
        let whole = self.wholes > 0 && chance.percent(if self.partitions > 0 { 25 } else { 80 });
        if whole {
            self.wholes -= 1;
            Request::Whole { gpus: 1, pool: None }
        } else if self.partitions > 0 && chance.percent(85) {
            self.partitions -= 1;
            Request::ANY_PARTITION
        } else {
            Request::None
        }
    }
}

fn vm(chance: &mut Chance, room: &mut Room) -> VmSetup {
    VmSetup {
        gpu: room.draw(chance),
        memory_mib: 512,
        availability: Availability {
            priority: u16::try_from(chance.between(0, 300)).unwrap_or_default(),
            failover: if chance.percent(85) { Failover::Restart } else { Failover::Stay },
            ..Availability::default()
        },
        reserved: chance.percent(15),
        running: chance.percent(85),
    }
}

/// So many starts of a VM that fail may be as many as two hosts try, one of them after a crash; where there are only two, it is given
/// up then.
const GIVEN_UP_AFTER: u32 = 7;

/// How many starts of a VM are to fail.
fn failing_starts(vm: &VmName, events: &[TimedEvent]) -> u32 {
    let tries = events.iter().map(|timed| match &timed.event {
        Event::VmStartsFail { vm: other, tries } if other == vm => *tries,
        _ => 0,
    });
    tries.sum()
}

/// What must be at the end. Those VMs run that should from the beginning, or were made later, and that nobody turned off; there
/// is room for all, but where a strict rule leaves none. Those that were removed do not.
fn expectation(
    vms: &BTreeMap<VmName, VmSetup>,
    late: &BTreeMap<VmName, VmSetup>,
    events: &[TimedEvent],
) -> Expectation {
    let touched = |vm: &VmName| {
        events.iter().any(|timed| match &timed.event {
            Event::VmStop(other) | Event::VmRemove(other) | Event::VmShutdown(other) => other == vm,
            Event::RuleSet { rule, .. } => rule.is_strict() && rule.vms().contains(vm),
            _ => false,
        }) || failing_starts(vm, events) >= GIVEN_UP_AFTER
    };
    let added = |vm: &VmName| {
        events.iter().any(|timed| matches!(&timed.event, Event::VmAdd { vm: added, .. } if added == vm))
    };
    let wanted = vms.iter().filter(|(_, setup)| setup.running).map(|(vm, _)| vm);
    let wanted = wanted.chain(late.keys().filter(|vm| added(vm)));
    let removed = events.iter().filter_map(|timed| match &timed.event {
        Event::VmRemove(vm) => Some(vm.clone()),
        _ => None,
    });
    Expectation {
        running: wanted.filter(|vm| !touched(vm)).cloned().collect(),
        off: removed.collect(),
        ..Expectation::default()
    }
}
