//! Whatever happens to a VM on its way, in whatever order: it never runs twice, no copy of it goes back in time, and once all
//! is mended it runs on one host, and the journey is over.

use std::sync::LazyLock;

use proptest::prelude::*;
use tranche_core::change::Change;
use tranche_core::inventory::{DomainState, OffReason};
use tranche_core::journey::Migration;
use tranche_core::name::HostName;
use tranche_core::spec::Duty;

use super::road::Road;
use super::{ANY, NONE, assert_settled_on, under_way};
use crate::fleet::node;
use crate::world::vm;

const HOSTS: usize = 3;

/// Something that happens.
#[derive(Debug, Clone)]
enum Happening {
    /// Everybody decides, hears, reports and acts.
    Turn,
    Decides,
    Hears(usize),
    Reports(usize),
    Acts(usize, usize),
    GetsOn,
    Fails,
    IsHandedOver,
    LosesTheLastAnswer,
    IsLetGoOn,
    ForgetsArrivals(usize),
    LosesPower(usize),
    IsKnownDown(usize),
    IsBack(usize),
    FallsSilent(usize),
    DaemonRestarts(usize),
    Passes(u64),
    Migrate(Option<usize>),
    Stop(bool),
    Start,
    Restart,
    Delete,
    Drain(usize, bool),
    Way(Migration),
    GoesOff(OffReason),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let host = || 1..=HOSTS;
    let way =
        prop_oneof![Just(Migration::LiveOnly), Just(Migration::LiveOrRestart), Just(Migration::Restart)];
    let off = prop_oneof![Just(OffReason::Shutdown), Just(OffReason::Crashed), Just(OffReason::Destroyed)];
    prop_oneof![
        12 => Just(Turn),
        6 => Just(Decides),
        4 => host().prop_map(Hears),
        4 => host().prop_map(Reports),
        4 => (host(), 1usize..4).prop_map(|(host, steps)| Acts(host, steps)),
        1 => Just(GetsOn),
        2 => Just(Fails),
        6 => Just(IsHandedOver),
        3 => Just(LosesTheLastAnswer),
        3 => Just(IsLetGoOn),
        1 => host().prop_map(ForgetsArrivals),
        1 => host().prop_map(LosesPower),
        3 => host().prop_map(IsKnownDown),
        3 => host().prop_map(IsBack),
        2 => host().prop_map(FallsSilent),
        1 => host().prop_map(DaemonRestarts),
        2 => prop_oneof![Just(11_000u64), Just(125_000)].prop_map(Passes),
        8 => prop::option::of(host()).prop_map(Migrate),
        1 => any::<bool>().prop_map(Stop),
        2 => Just(Start),
        1 => Just(Restart),
        1 => prop::bool::weighted(0.2).prop_map(|so| if so { Delete } else { Start }),
        2 => (host(), any::<bool>()).prop_map(|(host, so)| Drain(host, so)),
        1 => way.prop_map(Way),
        1 => off.prop_map(GoesOff),
    ]
}

fn happen(road: &mut Road, happening: &Happening) {
    let name = vm("desk");
    let sent = road.is_being_sent("desk");
    let is_on = |road: &Road, number: usize| road.real[&node(number)].on;
    match *happening {
        Happening::Turn => road.turn(),
        Happening::Decides => road.decide(),
        Happening::Hears(number) => road.hears(number),
        Happening::Reports(number) => road.reports(number),
        Happening::Acts(number, steps) => road.host_acts(&node(number), steps),
        Happening::GetsOn => road.transfers_get_on(),
        Happening::Fails => road.transfer_fails(&name, "a test"),
        Happening::IsHandedOver if sent => road.is_handed_over("desk"),
        Happening::LosesTheLastAnswer if sent => road.loses_the_last_answer("desk"),
        Happening::IsLetGoOn => drop(road.is_let_go_on("desk")),
        Happening::ForgetsArrivals(number) => road.forgets_arrivals(number),
        Happening::LosesPower(number) if is_on(road, number) => road.loses_power(number),
        Happening::IsKnownDown(number) if !is_on(road, number) => road.is_known_down(number),
        Happening::IsBack(number) => road.is_back(number),
        Happening::FallsSilent(number) if is_on(road, number) => road.falls_silent(number),
        Happening::DaemonRestarts(number) if is_on(road, number) => road.daemon_restarts(number),
        Happening::Passes(ms) => road.now += ms,
        Happening::Drain(number, so) => {
            road.set_duty(number, if so { Duty::Maintenance } else { Duty::Serving });
        }
        Happening::GoesOff(reason) => {
            let runs_on: Vec<HostName> = road.runs_on("desk");
            runs_on.iter().for_each(|host| road.ends(host, &name, reason));
        }
        _ => somebody_wants(road, happening),
    }
}

/// A refusal is an answer, too.
fn somebody_wants(road: &mut Road, happening: &Happening) {
    let name = vm("desk");
    let change = match *happening {
        Happening::Migrate(to) => Change::MigrateVm { name, to: to.map(node) },
        Happening::Stop(force) => Change::StopVm { name, force },
        Happening::Start => Change::StartVm { name },
        Happening::Restart => Change::RestartVm { name, force: false },
        Happening::Delete => Change::DeleteVm { name, force: true },
        Happening::Way(migration) => {
            if let Some(wish) = road.fleet.spec.vms.get_mut(&name) {
                wish.availability.migration = migration;
            }
            return;
        }
        _ => return,
    };
    road.may_want(&change);
}

/// All is as it should be, and goes well from now on, but for a host that is dead.
fn mend(road: &mut Road, dead: Option<usize>) {
    for number in 1..=HOSTS {
        road.set_duty(number, Duty::Serving);
        if dead == Some(number) {
            road.loses_power(number);
            road.is_known_down(number);
        } else {
            road.is_back(number);
        }
    }
    for round in 0..50 {
        road.turn();
        road.now += 15_000;
        road.transfers_get_on();
        (1..=HOSTS).for_each(|number| road.forgets_arrivals(number));
        if road.is_being_sent("desk") {
            road.is_handed_over("desk");
        }
        if round == 25 {
            road.may_want(&Change::StartVm { name: vm("desk") });
        }
    }
}

/// A VM without and one with a partition: at rest, and on its way.
static BEFORE: LazyLock<[[Road; 2]; 2]> = LazyLock::new(|| {
    [NONE, ANY].map(|request| [Road::new(HOSTS, &[("desk", request.clone())]), under_way(HOSTS, request)])
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_to_a_vm_on_its_way_it_never_runs_twice_and_in_the_end_runs_once(
        has_gpu in any::<bool>(),
        is_under_way in any::<bool>(),
        dead in prop::option::of(1..=HOSTS),
        story in prop::collection::vec(happening(), 1..80),
    ) {
        let mut road = BEFORE[usize::from(has_gpu)][usize::from(is_under_way)].clone();
        for happening in &story {
            happen(&mut road, happening);
        }
        mend(&mut road, dead);
        let is_deleted = road.fleet.spec.vms.is_empty();
        prop_assert_eq!(road.runs_on("desk").len(), usize::from(!is_deleted));
        prop_assert_eq!(road.stage("desk"), "");
        mend(&mut road, None);
        if is_deleted {
            // A host that was down when it was forgotten may still have its definition.
            let is_off = |state: DomainState| matches!(state, DomainState::Off { .. });
            prop_assert!((1..=HOSTS).all(|number| road.domain(number, "desk").is_none_or(is_off)));
            prop_assert!(road.fleet.plan.vms.is_empty() && road.fleet.plan.bookings.is_empty());
        } else {
            let home = road.plan_of("desk").host.clone();
            let number = (1..=HOSTS).find(|number| node(*number) == home).expect("it is on one of them");
            assert_settled_on(&road, "desk", number);
            prop_assert_eq!(road.domain(number, "desk"), Some(DomainState::Running));
        }
    }
}
