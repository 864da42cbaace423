//! Whatever happens to a VM on its way to another store, in whatever order: it never runs on both hosts, no copy of it goes back
//! in time, and once all is mended it is one store's, and runs.

use std::sync::LazyLock;

use proptest::prelude::*;
use tranche_core::change::Change;
use tranche_core::handover::Message;
use tranche_core::inventory::OffReason;
use tranche_core::journey::Migration;
use tranche_core::name::InvitationId;

use super::pair::{NAME, Pair, Side};
use super::way;
use crate::world::vm;

/// Something that happens.
#[derive(Debug, Clone)]
enum Happening {
    /// Everybody does what is due, and talks.
    Turn,
    Passes(Side, usize),
    Exchange,
    /// What is told arrives, and the answer does not.
    LosesAnswer,
    /// What is told is held up.
    HoldsUp,
    /// What was held up arrives.
    Arrives,
    IsSent,
    LosesTheLastAnswer,
    LetsGoOn,
    Fails,
    DaemonRestarts(Side),
    Reboots(Side),
    GoesOff(Side, OffReason),
    Time(u64),
    HandOver,
    TakeBack,
    Stop,
    Start,
    TurnAway,
    Way(Migration),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let side = || prop_oneof![Just(Side::Here), Just(Side::There)];
    let off = prop_oneof![Just(OffReason::Shutdown), Just(OffReason::Crashed), Just(OffReason::Destroyed)];
    let way =
        prop_oneof![Just(Migration::LiveOnly), Just(Migration::LiveOrRestart), Just(Migration::Restart)];
    prop_oneof![
        10 => Just(Turn),
        6 => (side(), 0usize..4).prop_map(|(side, steps)| Passes(side, steps)),
        5 => Just(Exchange),
        3 => Just(LosesAnswer),
        2 => Just(HoldsUp),
        2 => Just(Arrives),
        5 => Just(IsSent),
        2 => Just(LosesTheLastAnswer),
        2 => Just(LetsGoOn),
        2 => Just(Fails),
        1 => side().prop_map(DaemonRestarts),
        1 => side().prop_map(Reboots),
        1 => (side(), off).prop_map(|(side, off)| GoesOff(side, off)),
        2 => prop_oneof![Just(11_000u64), Just(125_000), Just(310_000)].prop_map(Time),
        8 => Just(HandOver),
        1 => Just(TakeBack),
        1 => Just(Stop),
        2 => Just(Start),
        1 => Just(TurnAway),
        1 => way.prop_map(Way),
    ]
}

type Held = Vec<(Message, InvitationId)>;

fn happen(pair: &mut Pair, held: &mut Held, happening: &Happening) {
    match *happening {
        Happening::Turn => pair.turn(),
        Happening::Passes(side, steps) => pair.pass(side, steps),
        Happening::Exchange => pair.exchange(),
        Happening::LosesAnswer => {
            if let Some((message, invitation)) = pair.message() {
                drop(pair.bring(&message, &invitation));
            }
        }
        Happening::HoldsUp => held.extend(pair.message()),
        Happening::Arrives => {
            if let Some((message, invitation)) = held.pop() {
                drop(pair.bring(&message, &invitation));
            }
        }
        Happening::IsSent => pair.is_sent(),
        Happening::LosesTheLastAnswer => pair.loses_the_last_answer(),
        Happening::LetsGoOn => pair.lets_go_on(),
        Happening::Fails => pair.fails("a test"),
        Happening::DaemonRestarts(side) => pair.daemon_restarts(side),
        Happening::Reboots(side) => pair.reboots(side),
        Happening::GoesOff(side, reason) => pair.goes_off(side, reason),
        Happening::Time(ms) => {
            pair.here.now.0 += ms;
            pair.there.now.0 += ms;
        }
        Happening::HandOver => drop(pair.may_hand_over()),
        Happening::TakeBack => drop(pair.here.submit(&Change::TakeBack { name: vm(NAME), force: false })),
        Happening::Stop => drop(pair.here.submit(&Change::StopVm { name: vm(NAME), force: true })),
        Happening::Start => drop(pair.here.submit(&Change::StartVm { name: vm(NAME) })),
        // Of a VM that is the other host's by now, it is another wish.
        Happening::TurnAway => {
            let comes = pair.there.spec.vms.get(&vm(NAME)).is_some_and(|spec| spec.incoming().is_some());
            if comes {
                drop(pair.there.submit(&Change::DeleteVm { name: vm(NAME), force: true }));
            }
        }
        Happening::Way(migration) => {
            if pair.here.spec.vms.contains_key(&vm(NAME)) {
                way(pair, migration);
            }
        }
    }
    let runs = [Side::Here, Side::There].into_iter().filter(|side| pair.is_on(*side)).count();
    assert!(runs <= 1, "it runs on both hosts");
}

/// Everything that is under way gets to its end.
fn mend(pair: &mut Pair) {
    for round in 0..60 {
        pair.turn();
        if round % 3 == 0 {
            pair.is_sent();
            pair.lets_go_on();
        }
        if round == 30 {
            pair.here.now.0 += 700_000;
            pair.there.now.0 += 700_000;
        }
        let runs = [Side::Here, Side::There].into_iter().filter(|side| pair.is_on(*side)).count();
        assert!(runs <= 1, "it runs on both hosts");
    }
}

static START: LazyLock<[Pair; 2]> = LazyLock::new(|| [Pair::new(true), Pair::new(false)]);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_vm_ends_up_as_one_stores_and_never_runs_twice(
        is_live in prop::bool::weighted(0.8),
        happenings in prop::collection::vec(happening(), 1..60),
    ) {
        let mut pair = START[usize::from(!is_live)].clone();
        let mut held = Held::new();
        for happening in &happenings {
            happen(&mut pair, &mut held, happening);
        }
        mend(&mut pair);
        let owners = pair.owners();
        prop_assert_eq!(owners.len(), 1, "it is {:?}'s; here it is at {:?}", owners, pair.stage());
        let comes = pair.there.spec.vms.get(&vm(NAME)).is_some_and(|spec| spec.incoming().is_some());
        prop_assert!(!comes, "the other host still waits for it; here it is at {:?}", pair.stage());
        let owner = owners[0];
        let wish_is_up = pair.state(owner).spec.vms[&vm(NAME)].run.is_up();
        let rests = pair.side(owner).findings.iter().any(|it| it.code.as_str() == "guest_powered_off");
        prop_assert!(pair.is_on(owner) == wish_is_up || rests, "{:?}", pair.domain(owner));
        let other = if owner == Side::Here { Side::There } else { Side::Here };
        prop_assert_eq!(pair.booked(other), 0);
        prop_assert_eq!(pair.domain(other), None);
    }
}
