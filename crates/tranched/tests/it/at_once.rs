//! A wish and what follows from it: one commit where somebody leads, and two where the plan is not for whoever takes the wish to
//! make, or not by what that one knows.

use tranche_core::change::Change;
use tranche_core::finding::Code;
use tranche_core::name::{HostName, Slot, SlotKey, Timestamp, VmName};
use tranche_core::operation::OperationState;
use tranche_core::plan::{DownBy, Standing, VmGoal};
use tranche_core::spec::{Request, Run};
use tranche_store::{Key, Repository, Revision, Saved, Terms, Txn};
use tranched::engine::{Desk, Ids, Rejected};

use crate::fake_machine::new_vm;
use crate::told::{Cluster, desk as vm, split};

/// A cluster with a VM that is off.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.order(split("node1"));
    cluster.order(Change::CreateVm { name: vm(), vm: new_vm(Request::ANY_PARTITION) });
    cluster
}

fn start() -> Change {
    Change::StartVm { name: vm() }
}

fn held(desk: &Desk, vm: &VmName) -> Option<SlotKey> {
    desk.view().plan.held_by(vm).next().map(|(slot, _)| slot.clone())
}

/// When a record was last put.
#[track_caller]
fn put_at(cluster: &Cluster, key: &str) -> Revision {
    cluster.store.get(&key.parse().unwrap()).unwrap().unwrap_or_else(|| panic!("no record {key}")).modified
}

/// When the wish for the VM was stored, and its booking.
#[track_caller]
fn wished_and_booked(cluster: &Cluster) -> (Revision, Revision) {
    let slot = held(&cluster.desk, &vm()).expect("it is booked");
    (put_at(cluster, &format!("spec/vm/{}", vm())), put_at(cluster, &format!("plan/booking/{slot}")))
}

#[test]
fn a_wish_and_its_booking_are_one_revision_where_somebody_leads_and_nothing_else_is_judged_then() {
    let mut cluster = cluster();
    let started = cluster.ask(start());
    let (wished, booked) = wished_and_booked(&cluster);
    assert_eq!(wished, booked);
    assert_eq!(put_at(&cluster, &format!("plan/vm/{}", vm())), wished);
    assert_eq!(put_at(&cluster, &format!("operation/{started}")), wished);
    assert_eq!(put_at(&cluster, "plan/generation/node1"), wished, "its host hears of it");
    let operation = cluster.operation(started);
    let (state, percent) = (operation.state, operation.progress_percent);
    assert_eq!((state, percent, operation.log.len()), (OperationState::Running, 66, 1), "{operation:#?}");
    cluster.turn(10);
    assert_eq!(cluster.operation(started).state, OperationState::Succeeded);
}

#[test]
fn that_a_vm_is_off_already_is_for_the_loop_to_find_that_hears_of_its_host() {
    let mut cluster = cluster();
    let stopped = cluster.ask(Change::StopVm { name: vm(), force: true });
    assert_eq!(cluster.operation(stopped).state, OperationState::Running);
    cluster.turn(3);
    assert_eq!(cluster.operation(stopped).state, OperationState::Succeeded);
}

#[test]
fn who_waited_for_the_desk_and_comes_with_an_earlier_time_does_not_have_everything_read_again() {
    let mut cluster = cluster();
    cluster.ask(start());
    cluster.turn(1);
    let later = Timestamp(cluster.now().0 + 500);
    cluster.desk.submit(&Change::PauseFailover { paused: true }, false, later).unwrap();
    // Where everything is read, pointers that are missing are put.
    let home: Key = format!("home/node1/{}", vm()).parse().unwrap();
    let _ = cluster.store.commit(&Txn::new().delete(home.clone())).unwrap();
    cluster.turn(1);
    assert!(cluster.now() < later);
    assert_eq!(cluster.store.get(&home).unwrap(), None, "the desk goes on with its watch");
    cluster.set_clock_back(600_000);
    cluster.turn(1);
    assert!(cluster.store.get(&home).unwrap().is_some(), "for all it knows, the watch said nothing for long");
}

#[test]
fn a_wish_and_its_booking_are_two_revisions_where_a_desk_takes_it_that_does_not_lead() {
    let mut cluster = cluster();
    let follower = Desk::open(Repository::new(cluster.store.clone()), Ids::default()).unwrap();
    follower.submit(&start(), false, cluster.now()).unwrap();
    assert_eq!(held(&follower, &vm()), None);
    cluster.turn(2);
    let (wished, booked) = wished_and_booked(&cluster);
    assert!(wished < booked, "{wished:?} {booked:?}");
}

#[test]
fn neither_a_wish_nor_a_booking_is_stored_by_a_desk_that_has_lost_the_lead() {
    let mut cluster = cluster();
    let led = cluster.change_leader();
    let Err(Rejected::Store(finding)) = led.submit(&start(), false, cluster.now()) else {
        panic!("it does not lead any more")
    };
    assert_eq!(finding.code, Code::NoLeader);
    cluster.turn(2);
    let view = cluster.desk.view();
    assert_eq!((view.spec.vms[&vm()].run, held(&cluster.desk, &vm())), (Run::Stopped, None));
}

#[test]
fn a_wish_by_which_a_host_stands_otherwise_is_stored_by_itself() {
    let mut cluster = cluster();
    cluster.silence(1);
    cluster.turn(20);
    let node2: HostName = "node2".parse().unwrap();
    let standing = |desk: &Desk| desk.view().plan.hosts[&node2].standing;
    assert!(matches!(standing(&cluster.desk), Standing::Lost { .. }));
    cluster.ask(Change::ConfirmHostDown { host: node2.clone() });
    assert!(matches!(standing(&cluster.desk), Standing::Lost { .. }), "what it said since is heard first");
    cluster.turn(1);
    assert!(matches!(standing(&cluster.desk), Standing::Down { by: DownBy::Hand, .. }));
}

#[test]
fn a_wish_for_which_a_vm_ends_before_it_starts_anew_is_stored_by_itself() {
    let mut cluster = cluster();
    cluster.order(start());
    let restarted = cluster.ask(Change::RestartVm { name: vm(), force: false });
    let goal = |cluster: &Cluster| cluster.desk.view().plan.vms[&vm()].goal;
    assert_eq!(goal(&cluster), VmGoal::Run, "its host is heard first");
    cluster.turn(1);
    assert_eq!(goal(&cluster), VmGoal::Cycle);
    cluster.turn(30);
    assert_eq!(cluster.operation(restarted).state, OperationState::Succeeded);
}

#[test]
fn a_wish_whose_plan_is_not_sound_is_stored_by_itself() {
    let mut cluster = cluster();
    cluster.order(start());
    // Somebody has written a second booking for it.
    let repository = Repository::new(cluster.store.clone());
    let loaded = repository.load().unwrap();
    let mut next = loaded.state.clone();
    let (slot, booking) = loaded.state.plan.held_by(&vm()).next().unwrap();
    let free = (0..4).map(|index| SlotKey { slot: Slot::Partition(index), ..slot.clone() });
    let free = free.into_iter().find(|slot| !loaded.state.plan.bookings.contains_key(slot)).unwrap();
    next.plan.bookings.insert(free, booking.clone());
    assert!(matches!(
        repository.commit(loaded.clone(), next, &Terms::default()).unwrap(),
        Saved::Committed(_)
    ));
    cluster.turn(2);
    let before = put_at(&cluster, &format!("plan/vm/{}", vm()));
    cluster.ask(Change::StopVm { name: vm(), force: true });
    let view = cluster.desk.view();
    assert_eq!((view.spec.vms[&vm()].run, view.plan.vms[&vm()].goal), (Run::Killed, VmGoal::Run));
    assert_eq!(put_at(&cluster, &format!("plan/vm/{}", vm())), before);
    cluster.turn(1);
    let said = cluster.desk.view().findings.iter().any(|finding| finding.code == Code::Invariant);
    assert!(said, "the loop says so");
}
