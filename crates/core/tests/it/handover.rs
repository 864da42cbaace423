//! VMs that go to hosts with other stores.

mod chance;
mod pair;

use tranche_core::change::{Change, under_way as what_is_under_way};
use tranche_core::finding::Code;
use tranche_core::handover::Stage;
use tranche_core::inventory::{DomainState, OffReason};
use tranche_core::journey::Migration;
use tranche_core::spec::Request;

use crate::world::{World, vm};

use self::pair::{NAME, Pair, Side};

/// How long the other host is waited for before a VM that goes stays, and more.
const LONG_MS: u64 = 11 * 60_000;

/// Nothing is left of the VM where it was, and it runs where it went.
#[track_caller]
fn assert_arrived(pair: &Pair) {
    assert_eq!(pair.owners(), [Side::There]);
    assert_eq!(pair.domain(Side::There), Some(DomainState::Running));
    assert_eq!((pair.domain(Side::Here), pair.booked(Side::Here), pair.booked(Side::There)), (None, 0, 1));
    assert!(!pair.here.spec.vms.contains_key(&vm(NAME)) && !pair.here.plan.vms.contains_key(&vm(NAME)));
}

/// The VM runs where it was, and nothing is left of it where it was to go.
#[track_caller]
fn assert_stayed(pair: &Pair) {
    assert_eq!(pair.owners(), [Side::Here]);
    assert_eq!(pair.domain(Side::Here), Some(DomainState::Running));
    assert_eq!((pair.domain(Side::There), pair.booked(Side::Here), pair.booked(Side::There)), (None, 1, 0));
    assert!(!pair.there.spec.vms.contains_key(&vm(NAME)));
}

fn way(pair: &mut Pair, migration: Migration) {
    pair.here.spec.vms.get_mut(&vm(NAME)).unwrap().availability.migration = migration;
}

/// A VM that is being sent.
fn under_way() -> Pair {
    let mut pair = Pair::new(true);
    pair.hands_over();
    pair.turns(8);
    assert!(matches!(pair.stage(), Some(Stage::Goes { .. })), "{:?}", pair.stage());
    assert_eq!(pair.domain(Side::There), Some(DomainState::Arriving));
    assert_eq!((pair.booked(Side::Here), pair.booked(Side::There)), (1, 1), "first it is booked there");
    assert!(pair.there.has_finding(Code::VmOnItsWay), "whoever looks there is told whose it is");
    pair
}

#[test]
fn a_vm_goes_while_it_runs_and_its_old_host_keeps_nothing() {
    let mut pair = under_way();
    pair.is_sent();
    pair.lets_go_on();
    pair.turns(8);
    assert_arrived(&pair);
}

#[test]
fn a_vm_that_nobody_lets_go_on_is_let_go_on_by_the_host_that_it_came_to() {
    let mut pair = under_way();
    pair.is_sent();
    pair.daemon_restarts(Side::Here);
    pair.turns(8);
    assert_arrived(&pair);
}

#[test]
fn a_vm_whose_device_cannot_move_is_shut_down_here_and_started_there() {
    let mut pair = Pair::new(false);
    pair.hands_over();
    pair.turns(12);
    assert_arrived(&pair);
}

#[test]
fn a_vm_that_only_moves_while_it_runs_is_refused_where_it_cannot() {
    let mut pair = Pair::new(false);
    way(&mut pair, Migration::LiveOnly);
    assert!(!pair.may_hand_over());
    pair.turns(3);
    assert_eq!(pair.domain(Side::Here), Some(DomainState::Running));
}

#[test]
fn what_cannot_be_sent_is_restarted_there_or_stays_as_its_policy_says() {
    for (migration, arrives) in [(Migration::LiveOrRestart, true), (Migration::LiveOnly, false)] {
        let mut pair = under_way();
        way(&mut pair, migration);
        pair.fails("a test");
        pair.turns(12);
        if arrives { assert_arrived(&pair) } else { assert_stayed(&pair) }
    }
}

#[test]
fn a_copy_of_a_vm_that_went_on_where_it_was_never_runs() {
    let mut pair = under_way();
    way(&mut pair, Migration::LiveOnly);
    pair.loses_the_last_answer();
    assert_eq!(pair.domain(Side::There), Some(DomainState::Paused));
    pair.turns(8);
    assert_stayed(&pair);
}

#[test]
fn while_the_other_host_is_silent_a_vm_that_was_not_sent_goes_on_where_it_is() {
    let mut pair = Pair::new(true);
    pair.hands_over();
    for _ in 0..3 {
        pair.pass(Side::Here, usize::MAX);
        pair.here.now.0 += LONG_MS;
    }
    assert!(matches!(pair.stage(), Some(Stage::Drops { .. } | Stage::Stayed { .. })), "{:?}", pair.stage());
    pair.pass(Side::Here, usize::MAX);
    assert_eq!(pair.domain(Side::Here), Some(DomainState::Running));
    assert_eq!(pair.owners(), [Side::Here]);
}

#[test]
fn a_vm_that_was_sent_waits_for_the_word_of_a_silent_host_and_says_so() {
    let mut pair = under_way();
    pair.is_sent();
    pair.lets_go_on();
    for _ in 0..3 {
        pair.pass(Side::Here, usize::MAX);
        pair.here.now.0 += LONG_MS;
    }
    assert_eq!(pair.stage(), Some(Stage::Lands));
    assert!(pair.here.has_finding(Code::HandoverSilent));
    assert!(matches!(pair.domain(Side::Here), Some(DomainState::Off { .. })), "it may run there");
    pair.turns(8);
    assert_arrived(&pair);
}

#[test]
fn what_a_person_says_settles_it_where_a_host_is_gone_for_good() {
    let mut pair = under_way();
    pair.is_sent();
    pair.pass(Side::Here, usize::MAX);
    // The other host burns down.
    pair.here.refuses(&Change::StartVm { name: vm(NAME) }, Code::VmOnItsWay);
    pair.there.domains().clear();
    pair.here.refuses(&Change::TakeBack { name: vm(NAME), force: false }, Code::VmOnItsWay);
    pair.here.accepts(&Change::TakeBack { name: vm(NAME), force: true });
    (0..6).for_each(|_| pair.pass(Side::Here, usize::MAX));
    assert_eq!(pair.domain(Side::Here), Some(DomainState::Running));

    let mut pair = under_way();
    pair.is_sent();
    pair.turn();
    // The host that it came from burns down.
    pair.here.domains().clear();
    pair.there.refuses(&Change::StopVm { name: vm(NAME), force: true }, Code::VmOnItsWay);
    pair.there.accepts(&Change::TakeOver { name: vm(NAME), force: true });
    (0..6).for_each(|_| pair.pass(Side::There, usize::MAX));
    assert_eq!(pair.domain(Side::There), Some(DomainState::Running));
    assert!(pair.there.spec.vms[&vm(NAME)].handover.is_none());
}

#[test]
fn a_vm_that_is_lost_where_it_came_to_is_started_there() {
    let mut pair = under_way();
    pair.is_sent();
    pair.lets_go_on();
    pair.reboots(Side::There);
    pair.turns(14);
    assert_arrived(&pair);
}

#[test]
fn a_vm_that_is_taken_back_stays_and_the_other_host_has_nothing_of_it() {
    let mut pair = under_way();
    pair.here.accepts(&Change::TakeBack { name: vm(NAME), force: false });
    pair.turns(8);
    assert_stayed(&pair);
}

#[test]
fn a_later_command_calls_it_off() {
    let mut pair = under_way();
    pair.here.accepts(&Change::StopVm { name: vm(NAME), force: true });
    pair.turns(10);
    assert!(matches!(pair.domain(Side::Here), Some(DomainState::Off { .. })));
    assert_eq!((pair.owners(), pair.domain(Side::There)), (vec![Side::Here], None));
}

#[test]
fn a_host_that_turns_a_vm_away_leaves_it_where_it_was_however_far_it_was() {
    for is_sent in [false, true] {
        let mut pair = under_way();
        way(&mut pair, Migration::LiveOnly);
        if is_sent {
            pair.is_sent();
            pair.lets_go_on();
            pair.turn();
            pair.there.refuses(&Change::DeleteVm { name: vm(NAME), force: false }, Code::VmOnItsWay);
        }
        pair.there.accepts(&Change::DeleteVm { name: vm(NAME), force: true });
        pair.turns(14);
        assert_stayed(&pair);
    }
}

#[test]
fn a_token_serves_one_vm_and_not_for_ever() {
    let mut pair = Pair::new(false);
    pair.there.now.0 = 10_000_001;
    pair.hands_over();
    pair.turns(8);
    assert_stayed(&pair);
    assert!(matches!(pair.stage(), Some(Stage::Stayed { .. })), "{:?}", pair.stage());

    let mut pair = Pair::new(false);
    pair.hands_over();
    pair.turns(12);
    assert_arrived(&pair);
    let (invitation, name) = (pair.invitation.clone(), vm("other"));
    let mut other = World::named("node3".parse().unwrap(), 1);
    other.set_mode(1, crate::world::partitioned(4));
    other.create("other", Request::ANY_PARTITION);
    other.start("other");
    other.spec.vms.get_mut(&name).unwrap().id = tranche_core::name::VmId(uuid::Uuid::from_u128(99));
    let offer = tranche_core::handover::Offer::of(&name, other.state()).unwrap();
    let order = tranche_core::handover::Order::Prepare;
    let message = tranche_core::handover::Message { id: offer.vm.id, turn: 1, order, offer: Box::new(offer) };
    let refused = tranche_core::change::hear(&invitation, &message, pair.there.state(), pair.there.now);
    assert_eq!(refused.unwrap_err()[0].code, Code::InvitationRefused);
}

#[test]
fn a_vm_of_the_same_name_or_without_room_is_refused_before_anything_is_done() {
    let mut pair = Pair::new(true);
    pair.there.create(NAME, Request::None);
    assert!(!pair.may_hand_over());
    let mut pair = Pair::new(true);
    for number in 0..4 {
        let name = format!("other{number}");
        pair.there.create(&name, Request::ANY_PARTITION);
        pair.there.start(&name);
    }
    assert!(!pair.may_hand_over());
}

#[test]
fn a_partition_of_another_size_is_no_way_for_a_vm_that_runs() {
    let mut pair = Pair::new(true);
    pair.mode_there(2);
    pair.hands_over();
    pair.turns(14);
    assert_arrived(&pair);
    let spec = &pair.state(Side::There).spec.vms[&vm(NAME)];
    assert_eq!(spec.serial, 1, "it was started there");
}

#[test]
fn a_guest_that_ends_where_it_came_to_before_that_is_its_own_host_is_started_there() {
    let mut pair = under_way();
    pair.is_sent();
    pair.lets_go_on();
    pair.goes_off(Side::There, OffReason::Crashed);
    pair.turns(12);
    assert_arrived(&pair);
}

#[test]
fn a_member_of_a_cluster_neither_invites_nor_hands_over() {
    let mut pair = Pair::new(true);
    let member = tranche_core::spec::HostSpec {
        joined_at: tranche_core::name::Timestamp(0),
        labels: std::collections::BTreeMap::new(),
        duty: tranche_core::spec::Duty::Serving,
        fence: None,
        said_down: None,
        departure: None,
        reserved_memory_mib: 0,
    };
    let host = pair.there.name.clone();
    pair.there.spec.hosts.insert(host, member);
    let (id, until) = ("b".repeat(64).parse().unwrap(), tranche_core::name::Timestamp(1 << 40));
    pair.there.refuses(&Change::Invite { id, until }, Code::HandoverInCluster);
    assert!(!pair.may_hand_over());
}

#[test]
fn a_host_enters_no_cluster_while_a_vm_is_on_its_way_there_or_here() {
    let waits = |pair: &Pair, side: Side| {
        let world = pair.state(side);
        what_is_under_way(world.spec, world.plan).map(|finding| finding.code)
    };
    let mut pair = Pair::new(true);
    assert_eq!(
        (waits(&pair, Side::Here), waits(&pair, Side::There)),
        (None, None),
        "an open invitation does no harm"
    );
    pair.hands_over();
    assert_eq!(waits(&pair, Side::Here), Some(Code::VmOnItsWay), "it was asked for");
    pair.turns(8);
    assert_eq!(
        (waits(&pair, Side::Here), waits(&pair, Side::There)),
        (Some(Code::VmOnItsWay), Some(Code::VmOnItsWay))
    );
    pair.is_sent();
    pair.lets_go_on();
    pair.turns(8);
    assert_arrived(&pair);
    assert_eq!((waits(&pair, Side::Here), waits(&pair, Side::There)), (None, None));

    let mut pair = under_way();
    pair.here.accepts(&Change::TakeBack { name: vm(NAME), force: false });
    pair.turns(12);
    assert_stayed(&pair);
    assert_eq!((waits(&pair, Side::Here), waits(&pair, Side::There)), (None, None));
}
