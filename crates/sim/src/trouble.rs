//! What goes wrong in a story that nobody wrote, and how everything is mended.

use std::collections::{BTreeMap, BTreeSet};

use tranche_core::name::{HostName, RuleName, VmName};
use tranche_core::spec::{Company, Rule};

use crate::chance::Chance;
use crate::event::{Event, TimedEvent};
use crate::scenario::VmSetup;
use crate::valid::WITNESS;

/// How long things go wrong, in milliseconds.
pub(crate) const TROUBLE_MS: u64 = 120_000;
/// When everything is mended after that, in milliseconds: what happens last has run its course by then.
const MENDED_MS: u64 = TROUBLE_MS + 35_000;

/// Whom things befall.
pub(crate) struct Cast<'a> {
    pub(crate) hosts: &'a [HostName],
    pub(crate) witness: bool,
    pub(crate) vms: &'a BTreeMap<VmName, VmSetup>,
    /// VMs that are made on the way.
    pub(crate) late: &'a BTreeMap<VmName, VmSetup>,
}

/// One thing that goes wrong.
struct Blow<'a> {
    chance: &'a mut Chance,
    at_ms: u64,
    /// When it is over, if it is something that ends.
    soon_ms: u64,
    host: HostName,
    other: HostName,
    vm: VmName,
}

/// Events, with when they happen.
type Events = Vec<(u64, Event)>;

/// What goes wrong, in order.
pub(crate) fn trouble(chance: &mut Chance, cast: &Cast<'_>) -> Vec<TimedEvent> {
    let many = chance.between(1, 14);
    let mut events = Events::new();
    for _ in 0..many {
        events.extend(blow(chance, cast));
    }
    for (vm, setup) in cast.late {
        let added = Event::VmAdd { vm: vm.clone(), setup: setup.clone() };
        events.push((chance.between(3_000, TROUBLE_MS), added));
    }
    for number in 0..chance.between(0, 4).saturating_sub(2) {
        events.extend(rule(chance, cast, number));
    }
    let mut events: Vec<TimedEvent> =
        events.into_iter().map(|(at_ms, event)| TimedEvent { at_ms, event }).collect();
    events.sort_by_key(|timed| timed.at_ms);
    events
}

/// What goes wrong before a long quiet time, so that what waits for minutes is seen to end: a VM that falls as often as it may on
/// one host and runs on another, and a host that reboots and does not come back.
pub(crate) fn trouble_that_lasts(chance: &mut Chance, cast: &Cast<'_>) -> Vec<TimedEvent> {
    let names: Vec<&VmName> = cast.vms.keys().collect();
    let vm = (*chance.pick(&names)).clone();
    let host = chance.pick(cast.hosts).clone();
    let (falls_ms, reboots_ms) = (chance.between(3_000, TROUBLE_MS), chance.between(3_000, TROUBLE_MS));
    let events = [
        (falls_ms, Event::VmStartsFail { vm: vm.clone(), tries: 4 }),
        (falls_ms, Event::VmCrash(vm)),
        (reboots_ms, Event::BootsFail { host: host.clone(), tries: 1, hang: true }),
        (reboots_ms, Event::Reboot(host)),
    ];
    events.into_iter().map(|(at_ms, event)| TimedEvent { at_ms, event }).collect()
}

/// What goes wrong where VMs are sent from host to host while they run: they are, again and again, and it comes to nothing at times.
pub(crate) fn trouble_on_the_way(chance: &mut Chance, cast: &Cast<'_>) -> Vec<TimedEvent> {
    let names: Vec<&VmName> = cast.vms.keys().collect();
    let mut events = Events::new();
    for _ in 0..chance.between(1, 6) {
        let (vm, host) = ((*chance.pick(&names)).clone(), chance.pick(cast.hosts).clone());
        let at_ms = chance.between(5_000, TROUBLE_MS);
        events.extend(match chance.between(0, 9) {
            0..=4 => vec![(at_ms, Event::VmMigrate { vm, to: None })],
            5 => vec![(at_ms, Event::VmMigrate { vm, to: Some(host) })],
            6..=7 => {
                let soon_ms = at_ms + chance.between(2_000, 60_000);
                vec![(at_ms, Event::Drain(host.clone())), (soon_ms, Event::Undrain(host))]
            }
            _ => {
                let tries = u32::try_from(chance.between(1, 3)).unwrap_or(1);
                vec![
                    (at_ms, Event::VmMovesFail { vm: vm.clone(), tries }),
                    (at_ms, Event::VmMigrate { vm, to: None }),
                ]
            }
        });
    }
    events.into_iter().map(|(at_ms, event)| TimedEvent { at_ms, event }).collect()
}

fn blow(chance: &mut Chance, cast: &Cast<'_>) -> Events {
    let at_ms = chance.between(3_000, TROUBLE_MS);
    let soon_ms = at_ms + chance.between(500, 30_000);
    let mut places = cast.hosts.to_vec();
    places.extend(cast.witness.then(witness));
    let (host, other) = (chance.pick(cast.hosts).clone(), chance.pick(&places).clone());
    let names: Vec<&VmName> = cast.vms.keys().collect();
    let vm = (*chance.pick(&names)).clone();
    let kind = chance.between(0, 99);
    let mut blow = Blow { chance, at_ms, soon_ms, host, other, vm };
    match kind {
        0..=21 => blow.of_power(),
        22..=45 => blow.of_network(),
        46..=60 => blow.of_store(),
        61..=77 => blow.of_daemon(),
        78..=82 if cast.witness => blow.of_witness(),
        _ => blow.of_people(),
    }
}

impl Blow<'_> {
    fn of_power(&mut self) -> Events {
        let (at_ms, host) = (self.at_ms, self.host.clone());
        match self.chance.between(0, 9) {
            0..=3 => vec![(at_ms, Event::PowerOff(host))],
            4 => vec![(at_ms, Event::PowerOff(host.clone())), (self.soon_ms, Event::PowerOn(host))],
            5 => vec![(at_ms, Event::PowerOn(host))],
            6 => vec![(at_ms, Event::Reboot(host))],
            7 => vec![(at_ms, Event::Shutdown(host))],
            8 => {
                let looks_ms = at_ms + self.chance.between(3_000, 30_000);
                vec![(at_ms, Event::PowerOff(host.clone())), (looks_ms, Event::ConfirmIfOff(host))]
            }
            _ => {
                let tries = u32::from(self.chance.percent(50)) + 1;
                let fail = Event::BootsFail { host: host.clone(), tries, hang: self.chance.percent(40) };
                vec![
                    (at_ms, fail),
                    (at_ms, Event::PowerOff(host.clone())),
                    (at_ms + 1_000, Event::PowerOn(host)),
                ]
            }
        }
    }

    fn of_network(&mut self) -> Events {
        let (at_ms, host, other) = (self.at_ms, self.host.clone(), self.other.clone());
        match self.chance.between(0, 11) {
            0..=3 => vec![(at_ms, Event::NetworkOff(host.clone())), (self.soon_ms, Event::NetworkOn(host))],
            4 => vec![(at_ms, Event::NetworkOff(host))],
            5..=6 => vec![(at_ms, Event::CutOneWay { from: host, to: other })],
            7..=8 => vec![(at_ms, Event::CutOneWay { from: other, to: host })],
            9..=10 => vec![(at_ms, Event::Cut { one: host, other })],
            _ => vec![(at_ms, Event::NetworkWhole)],
        }
    }

    fn of_store(&mut self) -> Events {
        let (at_ms, soon_ms, host) = (self.at_ms, self.soon_ms, self.host.clone());
        match self.chance.between(0, 10) {
            0..=1 => vec![(at_ms, Event::StoreOff(host.clone())), (soon_ms, Event::StoreOn(host))],
            2..=3 => vec![(at_ms, Event::MemberKill(host.clone())), (soon_ms, Event::MemberStart(host))],
            4..=5 => {
                vec![(at_ms, Event::StoreLeaderKill { ms: self.chance.between(200, 8_000) })]
            }
            6..=7 => {
                let host = self.chance.percent(60).then_some(host);
                let ms = self.chance.between(50, 2_500);
                vec![
                    (at_ms, Event::StoreSlow { host: host.clone(), ms }),
                    (soon_ms, Event::StoreFast { host }),
                ]
            }
            8 => vec![(at_ms, Event::StoreFull), (soon_ms, Event::StoreRoom)],
            _ => vec![(at_ms, Event::WatchLost { host, silent: self.chance.percent(50) })],
        }
    }

    fn of_daemon(&mut self) -> Events {
        let (at_ms, soon_ms, host) = (self.at_ms, self.soon_ms, self.host.clone());
        match self.chance.between(0, 11) {
            0..=2 => vec![(at_ms, Event::DaemonKill(host))],
            3..=4 => vec![(at_ms, Event::DaemonStop(host.clone())), (soon_ms, Event::DaemonStart(host))],
            5 => vec![(at_ms, Event::DaemonPause { host, ms: self.chance.between(500, 15_000) })],
            6..=7 => vec![(at_ms, Event::LibvirtOff(host.clone())), (soon_ms, Event::LibvirtOn(host))],
            8 => vec![(at_ms, Event::AgentOff(host.clone())), (soon_ms, Event::AgentOn(host))],
            9 => {
                let factor = *self.chance.pick(&[2, 5, 20]);
                let slow = Event::HostSlow { host: host.clone(), factor };
                vec![(at_ms, slow), (soon_ms, Event::HostSlow { host, factor: 1 })]
            }
            _ => vec![(at_ms, Event::ClockStep { host, ms: self.clock_step() })],
        }
    }

    /// Some seconds mostly, up to an hour at times, either way.
    fn clock_step(&mut self) -> i64 {
        let is_long = self.chance.percent(30);
        let ms = self.chance.between(1, if is_long { 3_600_000 } else { 20_000 });
        let ms = i64::try_from(ms).unwrap_or_default();
        if self.chance.percent(50) { ms } else { -ms }
    }

    fn of_witness(&mut self) -> Events {
        let (at_ms, soon_ms, host) = (self.at_ms, self.soon_ms, self.host.clone());
        match self.chance.between(0, 3) {
            0 => vec![(at_ms, Event::MemberKill(witness())), (soon_ms, Event::MemberStart(witness()))],
            1 => vec![(at_ms, Event::NetworkOff(witness())), (soon_ms, Event::NetworkOn(witness()))],
            2 => vec![(at_ms, Event::PowerOff(witness())), (soon_ms, Event::PowerOn(witness()))],
            _ => vec![(at_ms, Event::Cut { one: host, other: witness() })],
        }
    }

    fn of_people(&mut self) -> Events {
        let (at_ms, soon_ms, vm, host) = (self.at_ms, self.soon_ms, self.vm.clone(), self.host.clone());
        match self.chance.between(0, 12) {
            11 => vec![(at_ms, Event::VmMigrate { vm, to: None })],
            12 => vec![(at_ms, Event::VmMigrate { vm, to: Some(host) })],
            0 => vec![(at_ms, Event::VmStart(vm))],
            1 => vec![(at_ms, Event::VmStop(vm))],
            2..=3 => vec![(at_ms, Event::VmCrash(vm))],
            4 => vec![(at_ms, Event::VmShutdown(vm))],
            5 => vec![(at_ms, Event::VmRemove(vm))],
            6..=7 => {
                let tries = u32::try_from(self.chance.between(1, 5)).unwrap_or(1);
                vec![(at_ms, Event::VmStartsFail { vm: vm.clone(), tries }), (at_ms, Event::VmCrash(vm))]
            }
            8..=9 => vec![(at_ms, Event::Drain(host.clone())), (soon_ms, Event::Undrain(host))],
            _ => vec![(at_ms, Event::FailoverPause), (soon_ms, Event::FailoverResume)],
        }
    }
}

/// A rule that somebody makes, and perhaps forgets. A VM that only a strict one can keep from running is not waited for.
fn rule(chance: &mut Chance, cast: &Cast<'_>, number: u64) -> Events {
    let names: Vec<&VmName> = cast.vms.keys().collect();
    let mut some = || (*chance.pick(&names)).clone();
    let vms = BTreeSet::from([some(), some()]);
    let strict = chance.percent(25);
    let rule = match chance.between(0, 3) {
        0 => Rule::Vms { vms, kind: Company::Apart, strict },
        1 => Rule::Vms { vms, kind: Company::Together, strict },
        _ => {
            let hosts = BTreeMap::from([(chance.pick(cast.hosts).clone(), 500)]);
            Rule::Hosts { vms, hosts, strict, failback: chance.percent(60) }
        }
    };
    let name: RuleName = format!("rule{number}").parse().expect("it is a plain name");
    let at_ms = chance.between(1_000, TROUBLE_MS);
    let mut events = vec![(at_ms, Event::RuleSet { name: name.clone(), rule })];
    if chance.percent(40) {
        events.push((at_ms + chance.between(5_000, 60_000), Event::RuleDelete(name)));
    }
    events
}

fn witness() -> HostName {
    WITNESS.parse().expect("it is a plain name")
}

/// Everything is mended, after so long a quiet time.
pub(crate) fn peace(cast: &Cast<'_>, quiet_ms: u64) -> Vec<TimedEvent> {
    let mut mended = vec![Event::NetworkWhole, Event::StoreFast { host: None }, Event::FailoverResume];
    if cast.witness {
        mended.extend([Event::PowerOn(witness()), Event::MemberStart(witness())]);
    }
    let mut later = Vec::new();
    for host in cast.hosts {
        mended.extend([
            Event::BootsFail { host: host.clone(), tries: 0, hang: false },
            Event::HostSlow { host: host.clone(), factor: 1 },
            Event::StoreFast { host: Some(host.clone()) },
            Event::PowerOn(host.clone()),
            Event::StoreOn(host.clone()),
            Event::MemberStart(host.clone()),
            Event::DaemonStart(host.clone()),
            Event::LibvirtOn(host.clone()),
            Event::AgentOn(host.clone()),
        ]);
        // An agent may have cut a host of which that was never stored, a shutdown may still be under way, and a wish to let it serve
        // may have been uttered before the one to drain it was taken.
        later.extend([30_000, 60_000, 80_000].map(|ms| (ms, Event::PowerOn(host.clone()))));
        later.push((70_000, Event::Undrain(host.clone())));
    }
    let events = mended.into_iter().map(|event| (0, event)).chain(later);
    events.map(|(ms, event)| TimedEvent { at_ms: MENDED_MS + quiet_ms + ms, event }).collect()
}
