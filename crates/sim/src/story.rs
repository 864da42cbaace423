//! Stories that nobody wrote: a random cluster, what befalls it, and how it is healed at the end.
//!
//! While things go wrong, only the invariants are asked for. Then everything is mended, and after a while every VM that
//! should run, and has room, must run.

use std::collections::BTreeMap;

use tranche_core::name::{HostName, VmName};
use tranche_core::spec::{Availability, Failover, FailoverPolicy, PlacementPolicy, Request, ShutdownPolicy};

use crate::chance::Chance;
use crate::report::Report;
use crate::scenario::{Event, Expectation, HostSetup, Scenario, ScenarioError, TimedEvent, VmSetup};
use crate::world;

/// How long things go wrong, in milliseconds.
const TROUBLE_MS: u64 = 120_000;
/// How long everything has then to come right, in milliseconds.
const PEACE_MS: u64 = 240_000;
/// How long the network remains of low quality when hosts have no more trouble. Whoever is reset then is powered on again.
const ROUGH_MS: u64 = 70_000;

/// A defect that is put in on purpose, to show that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A leader does not wait for the fence: a lost host counts as down at once.
    NoFenceWait,
    /// A VM is to be started before its booking is stored: the store drops bookings on their way.
    BookingAfterStart,
    /// Who leads once goes on leading, and its writes rest neither on its lead nor on what it knows: the store drops their
    /// terms.
    StaleLeaderWrites,
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
    if planted == Planted::NoFenceWait {
        story.failover.timers.restart_ms = story.failover.timers.lost_ms;
    }
    story.planted = Some(planted);
    world::run(&story)
}

/// The story of a seed.
pub fn story(seed: u64) -> Scenario {
    let mut chance = Chance::new(seed ^ 0x7261_6E64_6F6D);
    let count = *chance.pick(&[2, 3, 3, 3, 4, 5]);
    let names: Vec<HostName> = (1..=count).map(|n| name(&format!("host{n}"))).collect();
    let hosts: BTreeMap<HostName, HostSetup> =
        names.iter().map(|name| (name.clone(), host(&mut chance))).collect();
    let slots: u64 = hosts.values().map(|host| u64::from(host.partitions) * u64::from(host.gpus)).sum();
    let vms: BTreeMap<VmName, VmSetup> =
        (1..=chance.between(1, slots.min(8))).map(|n| (vm_name(n), vm(&mut chance))).collect();
    let mut events = trouble(&mut chance, &names, &vms);
    events.extend(peace(&names));
    let running = survivors(&vms, &events);
    let policies = [
        ShutdownPolicy::Conditional,
        ShutdownPolicy::Migrate,
        ShutdownPolicy::Restart,
        ShutdownPolicy::Freeze,
    ];
    Scenario {
        seed,
        hosts,
        witness: count == 2 && chance.percent(70),
        placement: *chance.pick(&[PlacementPolicy::Pack, PlacementPolicy::Spread]),
        failover: FailoverPolicy::default(),
        shutdown: *chance.pick(&policies),
        vms,
        rules: BTreeMap::new(),
        events,
        until_ms: TROUBLE_MS + PEACE_MS,
        expect: Expectation { running, ..Expectation::default() },
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

fn host(chance: &mut Chance) -> HostSetup {
    HostSetup {
        gpus: u8::from(chance.percent(20)) + 1,
        partitions: *chance.pick(&[2, 4, 4, 8]),
        memory_mib: 65_536,
        labels: BTreeMap::new(),
        watchdog: chance.percent(90),
        agent: chance.percent(30),
        boot_ms: chance.between(5_000, 40_000),
        clock_skew_ms: i64::try_from(chance.between(0, 4_000)).unwrap_or_default() - 2_000,
    }
}

fn vm(chance: &mut Chance) -> VmSetup {
    VmSetup {
        gpu: if chance.percent(85) { Request::ANY_PARTITION } else { Request::None },
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

fn trouble(chance: &mut Chance, hosts: &[HostName], vms: &BTreeMap<VmName, VmSetup>) -> Vec<TimedEvent> {
    let names: Vec<&VmName> = vms.keys().collect();
    let many = chance.between(1, 14);
    let mut events = Vec::new();
    for _ in 0..many {
        let at_ms = chance.between(3_000, TROUBLE_MS);
        let host = chance.pick(hosts).clone();
        let other = chance.pick(hosts).clone();
        let vm = (*chance.pick(&names)).clone();
        let soon = at_ms + chance.between(500, 30_000);
        let mut push = |at_ms, event| events.push(TimedEvent { at_ms, event });
        match chance.between(0, 25) {
            0..=2 => push(at_ms, Event::PowerOff(host)),
            3 => push(at_ms, Event::Reboot(host)),
            4..=6 => {
                push(at_ms, Event::NetworkOff(host.clone()));
                push(soon, Event::NetworkOn(host));
            }
            7 => push(at_ms, Event::NetworkOff(host)),
            8 => push(at_ms, Event::CutOneWay { from: host, to: other }),
            9 => push(at_ms, Event::Cut { one: host, other }),
            10 => push(at_ms, Event::NetworkWhole),
            11 => {
                push(at_ms, Event::StoreOff(host.clone()));
                push(soon, Event::StoreOn(host));
            }
            12..=13 => {
                push(at_ms, Event::MemberKill(host.clone()));
                push(soon, Event::MemberStart(host));
            }
            14..=15 => push(at_ms, Event::DaemonKill(host)),
            16 => {
                let ms = chance.between(500, 15_000);
                push(at_ms, Event::DaemonPause { host, ms });
            }
            17 => {
                push(at_ms, Event::LibvirtOff(host.clone()));
                push(soon, Event::LibvirtOn(host));
            }
            18 => {
                push(at_ms, Event::Drain(host.clone()));
                push(soon, Event::Undrain(host));
            }
            19 => push(at_ms, Event::VmStart(vm)),
            20 => push(at_ms, Event::VmStop(vm)),
            21 => push(at_ms, Event::VmCrash(vm)),
            22 => push(at_ms, Event::VmStartsFail { vm, tries: 2 }),
            23 => {
                push(at_ms, Event::AgentOff(host.clone()));
                push(soon, Event::AgentOn(host));
            }
            24 => push(at_ms, Event::Shutdown(host)),
            _ => push(at_ms, Event::PowerOn(host)),
        }
    }
    events.sort_by_key(|timed| timed.at_ms);
    events
}

/// Everything is mended.
fn peace(hosts: &[HostName]) -> Vec<TimedEvent> {
    let at_ms = TROUBLE_MS + 35_000;
    let mut events = vec![TimedEvent { at_ms, event: Event::NetworkWhole }];
    for host in hosts {
        let mended = [
            Event::PowerOn(host.clone()),
            Event::StoreOn(host.clone()),
            Event::MemberStart(host.clone()),
            Event::DaemonStart(host.clone()),
            Event::LibvirtOn(host.clone()),
            Event::AgentOn(host.clone()),
        ];
        events.extend(mended.into_iter().map(|event| TimedEvent { at_ms, event }));
        // An agent leaves a host off, so does a shutdown that is still under way, and a wish to let it serve may have been uttered before the one to drain it was taken.
        for later in [30_000, 60_000, 80_000] {
            let event = Event::PowerOn(host.clone());
            events.push(TimedEvent { at_ms: at_ms + later, event });
        }
        let event = Event::Undrain(host.clone());
        events.push(TimedEvent { at_ms: at_ms + 70_000, event });
    }
    events
}

/// The VMs that must run at the end: those that should from the beginning, and that nobody turned off. There is room for all.
fn survivors(vms: &BTreeMap<VmName, VmSetup>, events: &[TimedEvent]) -> Vec<VmName> {
    let touched = |vm: &VmName| {
        events.iter().any(|timed| match &timed.event {
            Event::VmStop(other) | Event::VmRemove(other) | Event::VmShutdown(other) => other == vm,
            _ => false,
        })
    };
    vms.iter().filter(|(vm, setup)| setup.running && !touched(vm)).map(|(vm, _)| vm.clone()).collect()
}
