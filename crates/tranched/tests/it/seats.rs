//! Seats in the cluster's store and who is believed, over real etcd: hosts that are gone, give up, or take another one's place.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use tokio::runtime::Runtime;
use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Subject};
use tranche_core::handover::{Handover, Outgoing};
use tranche_core::name::HostName;
use tranche_store::{
    EtcdMember, EtcdMembers, EtcdSettings, EtcdStore, MemoryStore, Repository, Saved, State, Store,
    StoreError, Terms, Txn,
};
use tranched::clock;
use tranched::cluster::book::{How, Leaving, Standing};
use tranched::cluster::door::{self, AskError, Identity, Trust};
use tranched::cluster::parting::{self, Removal};
use tranched::cluster::registry::{MemberRecord, Registry};
use tranched::cluster::{Cluster, pki, seat, walk};
use tranched::engine::{Desk, Ids};

use crate::cluster::{Machine, key, runtime, until};

/// The first host of a cluster, with its side of it.
fn first(runtime: &Runtime, quota_mib: u64) -> (Machine, Cluster) {
    let mut host = Machine::new("node1");
    host.config.etcd.quota_mib = quota_mib;
    drop(host.own());
    host.sets_out(How::Begins);
    host.arrives().unwrap();
    let cluster = host.opens(runtime);
    (host, cluster)
}

/// A host that sets out to join.
fn joiner(name: &str, cluster: &Cluster) -> Machine {
    let mut host = Machine::new(name);
    host.config.etcd.quota_mib = 16;
    drop(host.own());
    host.sets_out(How::Joins { token: cluster.token(None).unwrap().token });
    host
}

fn joins(name: &str, cluster: &Cluster) -> Machine {
    let mut host = joiner(name, cluster);
    host.arrives().unwrap();
    host
}

fn name(machine: &Machine) -> HostName {
    machine.config.host.clone().unwrap()
}

/// Its side of the cluster, as its daemon has it after a start.
fn side_of(machine: &Machine) -> Cluster {
    Cluster::open(&machine.config, name(machine)).unwrap()
}

fn member(cluster: &Cluster, machine: &Machine) -> Option<MemberRecord> {
    Registry(cluster.store().unwrap().as_ref()).members().unwrap().remove(&name(machine))
}

fn peer_url(machine: &Machine) -> String {
    seat::url("127.0.0.1", machine.config.etcd.peer_port)
}

/// How etcd is spoken to at one member, with a machine's certificates.
fn settings(with: &Machine, at: &Machine) -> EtcdSettings {
    let endpoint = seat::url("127.0.0.1", at.config.etcd.client_port);
    walk::settings(&with.book, &with.config.etcd, &[endpoint]).unwrap()
}

/// The store's members, as one of them says.
fn list(at: &Machine) -> Vec<EtcdMember> {
    EtcdMembers::connect(&settings(at, at)).unwrap().list().unwrap()
}

fn voters(at: &Machine) -> usize {
    list(at).iter().filter(|member| !member.learner).count()
}

/// What a door, or a port of etcd's that other members use, answers.
fn asked(runtime: &Runtime, port: u16, identity: &Identity, key: &str) -> Result<StatusCode, AskError> {
    let (address, path) = (format!("127.0.0.1:{port}"), "/cluster/store-member/down");
    let trust = Trust::Member(identity, key);
    runtime.block_on(door::ask(&address, trust, Method::GET, path, Vec::new())).map(|(status, _)| status)
}

/// Kills whoever is on the way at its first such point.
fn killed_at(point: &str) -> impl Fn(&str) -> Result<(), Finding> {
    move |what| if what == point { Err(say::cluster_busy("be killed")) } else { Ok(()) }
}

#[test]
fn a_host_that_was_removed_is_believed_nowhere_not_even_when_another_has_its_name() {
    let runtime = runtime();
    let (first, cluster) = first(&runtime, 16);
    let mut second = joins("node2", &cluster);
    let second_side = second.opens(&runtime);
    let mut third = joins("node3", &cluster);
    let key_of_first = member(&cluster, &first).unwrap().key;
    let identity = Identity::read(&third.book).unwrap();
    let peer = std::fs::read_to_string(third.book.certificate("peer")).unwrap();
    let as_peer = Identity { client: peer, ..identity.clone() };
    let door = first.config.cluster.port;
    let reaches = |at: &Machine| EtcdStore::connect(&settings(&third, at)).unwrap().get(&key("cluster/meta"));
    let is_peer = || asked(&runtime, first.config.etcd.peer_port, &as_peer, &key_of_first);
    assert_eq!(asked(&runtime, door, &identity, &key_of_first).unwrap(), StatusCode::OK);
    assert!(reaches(&first).is_ok() && reaches(&second).is_ok() && is_peer().is_ok());

    // It is gone for good; its files are not.
    let gone = name(&third);
    third.running = None;
    until("it is taken out", || match cluster.remove(&gone, Removal::default()) {
        Err(finding) => finding.code == Code::HostNotFound,
        Ok(_) => true,
    });
    for side in [&cluster, &second_side] {
        side.care_once();
    }
    let reaches = |at: &Machine| EtcdStore::connect(&settings(&third, at)).unwrap().get(&key("cluster/meta"));
    assert!(reaches(&first).is_err() && reaches(&second).is_err() && is_peer().is_err());
    assert_eq!(asked(&runtime, door, &identity, &key_of_first).unwrap(), StatusCode::FORBIDDEN);
    let told = cluster.examine().findings;
    assert!(told.iter().any(|finding| finding.code == Code::AuthorityExposed), "{told:?}");
    // Everybody else goes on.
    assert!(EtcdStore::connect(&settings(&second, &first)).unwrap().get(&key("cluster/meta")).is_ok());

    // New hardware under the old name is believed, and the old one still is not.
    let new = joins("node3", &cluster);
    cluster.examine();
    let new_identity = Identity::read(&new.book).unwrap();
    assert_eq!(asked(&runtime, door, &new_identity, &key_of_first).unwrap(), StatusCode::OK);
    assert_eq!(asked(&runtime, door, &identity, &key_of_first).unwrap(), StatusCode::FORBIDDEN);
    assert!(reaches(&first).is_err());
    // Nor does anybody take the old one for the new one.
    let key_of_new = pki::certified_key(&pki::der(&new_identity.server).unwrap()).unwrap();
    assert_eq!(member(&cluster, &new).unwrap().key, key_of_new);
    for side in [cluster, second_side] {
        side.end();
    }
}

#[test]
fn when_one_of_three_leaves_the_fourth_takes_its_seat_although_it_is_killed_at_every_step() {
    let runtime = runtime();
    let (first, cluster) = first(&runtime, 2_048);
    let mut second = joins("node2", &cluster);
    let second_side = second.opens(&runtime);
    let mut third = joins("node3", &cluster);
    let mut fourth = joins("node4", &cluster);
    drop(fourth.opens(&runtime));
    let known = member(&cluster, &fourth).unwrap();
    assert!(!known.seat && !known.signs && !fourth.book.authority_key().exists());
    for side in [&cluster, &second_side] {
        assert!(!side.care_once(), "three seats are enough");
    }

    third.store();
    let leaving = Leaving { membership: third.membership(), keeps: Vec::new() };
    third.book.write(&Standing::Leaving(leaving)).unwrap();
    third.arrives().unwrap();
    assert_eq!(voters(&first), 2);

    let is_done = || {
        let sits = list(&first).iter().any(|one| !one.learner && one.peer_urls.contains(&peer_url(&fourth)));
        sits && member(&cluster, &fourth).is_some_and(|known| known.seat && known.signs)
    };
    let started = std::cell::Cell::new(0);
    until("the fourth takes the seat", || {
        cluster.care_once();
        second_side.care_once();
        // Its daemon is started anew after one look, then after two, and so on, and its etcd with it.
        let side = side_of(&fourth);
        started.set(started.get() + 1);
        for _ in 0..started.get() {
            side.care_once();
        }
        side.end();
        is_done()
    });
    assert!(started.get() > 1, "it was killed on the way");
    assert_eq!(voters(&first), 3);
    assert!(fourth.book.authority_key().exists());
    // Its door is open all the while; behind it is what the files say.
    let side = side_of(&fourth);
    until("the store answers", || side.store().unwrap().get(&key("cluster/meta")).is_ok());
    assert!(!side.care_once(), "nothing is left to be done");
    assert!(side.membership().unwrap().seat.is_some());
    // It can let somebody in by itself now: without a seat, because there are three.
    let fifth = joins("node5", &side);
    assert!(!member(&cluster, &fifth).unwrap().seat);
    for side in [cluster, second_side, side] {
        side.end();
    }
}

#[test]
fn a_full_store_with_a_silent_member_can_be_written_again_after_it_was_defragmented() {
    let runtime = runtime();
    let (first, cluster) = first(&runtime, 16);
    let mut second = joins("node2", &cluster);
    let second_side = second.opens(&runtime);
    let mut third = joins("node3", &cluster);
    third.running = None;
    let store = cluster.store().unwrap();
    let put = || store.commit(&Txn::new().put(key("trial/large"), vec![7; 500_000]));
    let refused = (0..200).find_map(|_| put().err()).expect("16 MiB are used up");
    assert!(matches!(refused, StoreError::Quota { .. }), "{refused:?}");
    until("the alarm is told", || {
        let told = cluster.examine().findings;
        told.iter().any(|finding| finding.code == Code::StoreOutOfSpace)
    });

    let told = cluster.defragment().unwrap_err();
    let silent = seat::url("127.0.0.1", third.config.etcd.client_port);
    assert!(told.message.contains(&silent) && told.message.contains("the others are done"), "{told}");
    until("it can be written", || put().is_ok());
    for at in [&first, &second] {
        let status = EtcdMembers::connect(&settings(&first, at)).unwrap().status().unwrap();
        assert!(status.file_bytes < 8 << 20, "{status:?}");
    }
    // The one that was silent is done with the next time.
    third.store();
    until("all are done", || cluster.defragment().is_ok());
    for side in [cluster, second_side] {
        side.end();
    }
}

#[test]
fn whoever_gives_up_to_join_leaves_no_member_of_the_store_behind_that_keeps_others_out() {
    let runtime = runtime();
    let (first, cluster) = first(&runtime, 16);
    let learners = || list(&first).iter().filter(|member| member.learner).count();
    // Without etcd it does not even ask to be let in, and its token stays good.
    let mut joiner_without = joiner("node2", &cluster);
    let program = std::mem::replace(&mut joiner_without.config.etcd.program, "/nonexistent/etcd".into());
    assert_eq!(joiner_without.arrives().unwrap_err().code, Code::StoreMemberFailed);
    assert!(member(&cluster, &joiner_without).is_none());
    joiner_without.config.etcd.program = program;

    // It is a member that listens and never started, when somebody gives it up.
    let mut stuck = joiner_without;
    stuck.goes_on(&killed_at("start etcd")).unwrap_err();
    assert_eq!(learners(), 1);
    assert!(list(&first).iter().any(|one| one.name.is_empty()));
    let side = side_of(&stuck);
    side.leave().unwrap();
    assert_eq!(stuck.book.read().unwrap(), Standing::Alone);
    assert!(learners() == 0 && member(&cluster, &stuck).is_none() && side.view().findings.is_empty());

    // It breaks for good on the way: somebody else says so.
    let mut broken = joiner("node3", &cluster);
    broken.goes_on(&killed_at("start etcd")).unwrap_err();
    assert_eq!(learners(), 1);
    cluster.remove(&name(&broken), Removal::default()).unwrap();
    assert!(learners() == 0 && member(&cluster, &broken).is_none());

    // Its record went, and its member of the store did not.
    let mut orphan = joiner("node4", &cluster);
    orphan.goes_on(&killed_at("start etcd")).unwrap_err();
    parting::forget(cluster.store().unwrap().as_ref(), &name(&orphan), clock::now(), |_| true).unwrap();
    assert_eq!(learners(), 1);
    cluster.care_once();
    assert_eq!(learners(), 0);

    // Whoever gives up where nobody answers is told what stays behind.
    let mut lost = joiner("node5", &cluster);
    lost.goes_on(&killed_at("start etcd")).unwrap_err();
    let side = side_of(&lost);
    cluster.end();
    side.leave().unwrap();
    let told = side.view().findings;
    assert!(told.iter().any(|finding| finding.hint.contains("tranche cluster remove node5")), "{told:?}");
}

#[test]
fn a_host_does_not_set_out_while_a_vm_of_its_own_goes_to_one_with_another_store() {
    let host = Machine::new("node1");
    let (vm, mut wish) = crate::cluster::vm(&name(&host), 1);
    let to: HostName = "far".parse().unwrap();
    let invitation = "a".repeat(64).parse().unwrap();
    let outgoing = Outgoing { to, invitation, serial: 1, foreseen_ms: None, stays: None };
    wish.handover = Some(Handover::Out(outgoing));
    let repository = Repository::new(Arc::new(MemoryStore::default()));
    let mut state = State::default();
    state.spec.vms.insert(vm.clone(), wish);
    assert!(matches!(
        repository.commit(repository.load().unwrap(), state, &Terms::default()).unwrap(),
        Saved::Committed(_)
    ));
    let desk = Desk::open(repository, Ids::default()).unwrap();
    let cluster = side_of(&host);
    cluster.follow(desk.watch());
    let refused = cluster.init(None, None).unwrap_err();
    assert_eq!((refused.code, refused.subject), (Code::VmOnItsWay, Subject::Vm(vm)));
    assert!(refused.hint.contains("take-back"), "{}", refused.hint);
    assert!(matches!(host.book.read().unwrap(), Standing::Alone), "and nothing was written");
}
