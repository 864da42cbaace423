//! What is told in a cluster, both ways: what hosts do stands in the logs of operations, and what is asked of a VM is heard by its
//! host.

use std::sync::Arc;

use tranche_core::change::{Change, NewVm};
use tranche_core::liveness::Cause;
use tranche_core::name::{GpuKey, HostName, OperationId, Timestamp, VmName};
use tranche_core::operation::{Operation, OperationState};
use tranche_core::plan::HostPlan;
use tranche_core::spec::{
    Availability, AvailabilityPart, Failover, FenceSpec, HostSpec, Request, RestartsPart, Timers, VmPart,
};
use tranche_host::fake::Machine;
use tranche_host::vm::fake::Guest;
use tranche_store::{MemoryStore, Repository, Saved, Store, Terms};
use tranched::engine::cluster::{Fenced, Fencer, Heart, Leader, Led, Member, Tending};
use tranched::engine::{Desk, Ids, Submitted};

use crate::desk::{gpu, partitioned};
use crate::fake_machine::{FakeMachine, new_vm};

/// How long a turn of all takes.
const TURN_MS: u64 = 400;

/// Nobody is fenced here.
#[derive(Debug)]
struct Nobody;

impl Fencer for Nobody {
    fn cut(&self, _: &HostName, _: &FenceSpec, _: Cause) -> Fenced {
        Fenced::UnderWay
    }

    fn turn_on(&self, _: &HostName, _: &FenceSpec, _: Cause) -> Fenced {
        Fenced::UnderWay
    }
}

/// A host of the cluster.
struct Seat {
    machine: FakeMachine,
    heart: Arc<Heart>,
    member: Member,
}

impl Seat {
    fn new(name: &str, repository: &Repository) -> Self {
        let name: HostName = name.parse().unwrap();
        let machine = FakeMachine::new(name.clone(), Machine::gpus(1, 4));
        let (host, version) = (machine.host(), env!("CARGO_PKG_VERSION").to_owned());
        let heart = Arc::new(Heart::new(name.clone(), host.boot_id(), version, repository.clone()));
        let member = Member::new(name, host, repository.clone(), Arc::clone(&heart), 1);
        Self { machine, heart, member }
    }
}

/// Two hosts of four partitions each, and one who leads, in virtual time.
pub(crate) struct Cluster {
    pub(crate) store: Arc<dyn Store>,
    seats: [Seat; 2],
    leader: Leader,
    pub(crate) desk: Desk,
    now_ms: u64,
    /// The host that says nothing.
    silent: Option<usize>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let repository = Repository::new(Arc::clone(&store));
        let loaded = repository.load().unwrap();
        let mut next = loaded.state.clone();
        for name in ["node1", "node2"] {
            next.spec.hosts.insert(name.parse().unwrap(), HostSpec::new(Timestamp(0)));
            next.plan.hosts.insert(name.parse().unwrap(), HostPlan::default());
        }
        let saved = repository.commit(loaded, next, &Terms::default()).unwrap();
        assert!(matches!(saved, Saved::Committed(_)));
        let seats = ["node1", "node2"].map(|name| Seat::new(name, &repository));
        let (leader, desk) = leads("node1", &store);
        let mut cluster = Self { store, seats, leader, desk, now_ms: 1_000_000, silent: None };
        cluster.turn(10);
        cluster
    }

    /// So many turns of everybody.
    pub(crate) fn turn(&mut self, times: usize) {
        for _ in 0..times {
            self.now_ms += TURN_MS;
            let (now_ms, now) = (self.now_ms, Timestamp(self.now_ms));
            let beating = self.seats.iter().enumerate().filter(|(seat, _)| self.silent != Some(*seat));
            for (_, seat) in beating {
                let _ = seat.heart.beat(&Timers::default(), &|| now_ms, now);
            }
            self.leader.hear(&Timers::default(), &|| now_ms, now);
            let _ = self.leader.turn(&self.desk, &Nobody, &|| now_ms, now);
            for seat in &self.seats {
                let _ = seat.member.pass(now);
            }
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.now_ms)
    }

    /// Sets the clock of everybody back.
    pub(crate) fn set_clock_back(&mut self, ms: u64) {
        self.now_ms -= ms;
    }

    /// From now on a host says nothing.
    pub(crate) fn silence(&mut self, seat: usize) {
        self.silent = Some(seat);
    }

    /// Another host leads from now on. Returns the desk of the one that did.
    pub(crate) fn change_leader(&mut self) -> Desk {
        self.leader.step_down();
        let (leader, desk) = leads("node2", &self.store);
        self.leader = leader;
        let led = std::mem::replace(&mut self.desk, desk);
        self.turn(2);
        let now_ms = self.now_ms;
        let turned = self.leader.turn(&self.desk, &Nobody, &|| now_ms, Timestamp(now_ms));
        assert_eq!(turned, Led::Decided);
        led
    }

    #[track_caller]
    pub(crate) fn ask(&self, change: Change) -> OperationId {
        match self.desk.submit(&change, false, Timestamp(self.now_ms)) {
            Ok(Submitted::Accepted { operation, .. }) => operation.id,
            other => panic!("{change:?}: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn order(&mut self, change: Change) -> Operation {
        let id = self.ask(change);
        self.turn(30);
        let operation = self.operation(id);
        assert_eq!(operation.state, OperationState::Succeeded, "{operation:#?}");
        operation
    }

    pub(crate) fn operation(&self, id: OperationId) -> Operation {
        self.desk.view().operations[&id].clone()
    }

    /// A VM that runs on the first host, and stays with it.
    fn run(&mut self) {
        self.order(split("node1"));
        let availability = Availability { failover: Failover::Stay, ..Availability::default() };
        let vm = NewVm { availability, ..new_vm(Request::ANY_PARTITION) };
        self.order(Change::CreateVm { name: desk(), vm });
        self.order(Change::StartVm { name: desk() });
    }

    /// Whether a host would arm its watchdog within a few turns.
    fn arms(&mut self, seat: usize) -> bool {
        (0..10).any(|_| {
            self.turn(1);
            matches!(self.seats[seat].member.tend(None, self.now_ms), Tending::Arm(_))
        })
    }
}

fn leads(name: &str, store: &Arc<dyn Store>) -> (Leader, Desk) {
    let leader = Leader::new(name.parse().unwrap(), Arc::clone(store), Arc::clone(store));
    (leader, Desk::open(Repository::new(Arc::clone(store)), Ids::default()).unwrap())
}

pub(crate) fn desk() -> VmName {
    "desk".parse().unwrap()
}

pub(crate) fn split(host: &str) -> Change {
    let gpu = GpuKey { host: host.parse().unwrap(), ..gpu(0) };
    Change::SetGpuMode { gpu, mode: partitioned(4) }
}

fn texts(operation: &Operation) -> Vec<&str> {
    operation.log.iter().map(|line| line.text.as_str()).collect()
}

/// How often a line stands in a log.
fn count(operation: &Operation, text: &str) -> usize {
    operation.log.iter().filter(|line| line.text == text).count()
}

#[test]
fn the_log_of_an_operation_tells_each_step_of_the_hosts_that_it_concerns_once() {
    let mut cluster = Cluster::new();
    let splits = ["node1", "node2"].map(|host| cluster.ask(split(host)));
    cluster.turn(30);
    for (id, host) in splits.into_iter().zip(["node1", "node2"]) {
        let operation = cluster.operation(id);
        let texts = texts(&operation);
        assert_eq!((texts.first(), texts.last()), (Some(&"accepted"), Some(&"succeeded")), "{texts:#?}");
        let enabled = format!("{host}: enable 4 virtual functions of GPU 0000:10:00.0");
        assert_eq!(count(&operation, &enabled), 1, "{texts:#?}");
        let of_host = texts[1..texts.len() - 1].iter().all(|text| text.starts_with(&format!("{host}: ")));
        assert!(of_host, "the other host has a GPU at the same address: {texts:#?}");
    }
    cluster.order(Change::CreateVm { name: desk(), vm: new_vm(Request::ANY_PARTITION) });
    let started = cluster.order(Change::StartVm { name: desk() });
    let texts = texts(&started);
    assert_eq!(
        started.log.iter().filter(|line| line.text.ends_with(": start VM desk")).count(),
        1,
        "{texts:#?}"
    );
    let mut once = texts.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), texts.len(), "{texts:#?}");
    let reported = cluster.desk.view().inventory.clone();
    cluster.turn(20);
    let later = &cluster.desk.view().inventory;
    assert!(
        reported.iter().all(|(host, seen)| later[host].is_as(seen)),
        "while nothing is done, nothing is new"
    );
}

#[test]
fn what_failed_and_what_another_leader_wrote_down_stands_in_the_log_once() {
    let mut cluster = Cluster::new();
    cluster.run();
    let machine = cluster.seats[0].machine.clone();
    let hypervisor = machine.hypervisor();
    hypervisor.set_guest(&desk(), Guest::Deaf);
    let stop = cluster.ask(Change::StopVm { name: desk(), force: false });
    cluster.turn(5);
    let before = cluster.operation(stop);
    assert_eq!(count(&before, "node1: ask VM desk to shut down"), 1, "{:#?}", before.log);
    assert!(before.log.iter().all(|line| !line.text.contains("start VM")), "{:#?}", before.log);
    drop(cluster.change_leader());
    cluster.turn(5);
    assert_eq!(cluster.operation(stop).log, before.log, "whoever leads next adds nothing that is there");
    hypervisor.power_off(&desk());
    cluster.turn(10);
    assert_eq!(cluster.operation(stop).state, OperationState::Succeeded);

    hypervisor.refuse_starts(&desk(), Some("Cannot allocate memory"));
    let start = cluster.ask(Change::StartVm { name: desk() });
    cluster.turn(5);
    let log = cluster.operation(start).log;
    let failed = log.iter().find(|line| line.text.contains("Cannot allocate memory"));
    assert!(failed.is_some_and(|line| line.text.starts_with("node1: start VM desk: ")), "{log:#?}");
}

#[test]
fn a_host_hears_of_what_is_changed_of_its_vm_although_nothing_else_changes() {
    let mut cluster = Cluster::new();
    cluster.run();
    assert!(!cluster.arms(0), "nothing that runs there is protected");
    let set = |failover| {
        let availability = AvailabilityPart { failover: Some(failover), ..AvailabilityPart::default() };
        Change::SetVm { name: desk(), wish: VmPart { availability, ..VmPart::default() } }
    };
    let changed = cluster.order(set(Failover::Restart));
    assert_eq!(changed.title, "change VM desk: failover restart");
    assert!(cluster.arms(0) && !cluster.arms(1));
    cluster.order(set(Failover::Stay));
    assert!(!cluster.arms(0));
    let runs = cluster
        .desk
        .view()
        .inventory
        .values()
        .any(|seen| seen.domain(&desk()).is_some_and(|domain| domain.state.is_active()));
    assert!(runs, "nothing is done to the VM");
    let restarts = RestartsPart { local: Some(9), elsewhere: None };
    let availability = AvailabilityPart { restarts, ..AvailabilityPart::default() };
    cluster.order(Change::SetVm { name: desk(), wish: VmPart { availability, ..VmPart::default() } });
    let host: HostName = "node1".parse().unwrap();
    let part = Repository::new(Arc::clone(&cluster.store)).part(&host, &[], None).unwrap();
    assert_eq!(part.spec.vms[&desk()].availability.restarts.local, 9);
    let known = cluster.desk.view().inventory[&host].progress.generation;
    assert_eq!(known, part.generation, "and it has read that");
}
