//! Hosts of several versions in one cluster, in virtual time: the oldest leads, and what cannot be read harms nobody.

use std::sync::Arc;

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::HostInventory;
use tranche_core::liveness::Cause;
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::{HostPlan, Standing};
use tranche_core::spec::{FenceSpec, HostSpec, Timers};
use tranche_host::fake::Machine;
use tranche_store::{Clock, ManualClock, MemoryStore, Outcome, Repository, Store, Terms, Txn};
use tranched::engine::cluster::{Fenced, Fencer, Heart, Leader, Led, Member};
use tranched::engine::{Desk, Engine, Ids};

use crate::fake_machine::FakeMachine;

/// Between two turns of everybody.
const TURN_MS: u64 = 400;

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

/// Nobody's power is touched here.
#[derive(Debug)]
struct NoAgent;

impl Fencer for NoAgent {
    fn cut(&self, _host: &HostName, _how: &FenceSpec, _cause: Cause) -> Fenced {
        Fenced::UnderWay
    }

    fn turn_on(&self, _host: &HostName, _how: &FenceSpec, _cause: Cause) -> Fenced {
        Fenced::UnderWay
    }
}

/// A host's heart and its lead.
struct One {
    heart: Heart,
    leader: Leader,
    desk: Desk,
    /// Its daemon runs.
    on: bool,
    /// Its lead takes its turns.
    turns: bool,
    led: Led,
}

struct Cluster {
    clock: Arc<ManualClock>,
    store: Arc<MemoryStore>,
    hosts: Vec<One>,
    now_ms: u64,
}

impl Cluster {
    /// A host for each version: `node0`, `node1`, ….
    fn of(versions: &[&str]) -> Self {
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>));
        let repository = Repository::new(Arc::clone(&store) as Arc<dyn Store>);
        let loaded = repository.load().unwrap();
        let mut next = loaded.state.clone();
        for number in 0..versions.len() {
            next.spec.hosts.insert(host(number), HostSpec::new(Timestamp(0)));
            next.plan.hosts.insert(host(number), HostPlan::default());
        }
        let _ = repository.commit(loaded, next, &Terms::default()).unwrap();
        let mut cluster = Self { clock, store, hosts: Vec::new(), now_ms: 1_000 };
        for (number, version) in versions.iter().enumerate() {
            let nothing = HostInventory::unread(host(number), "there is no libvirt".to_owned());
            cluster.repository().report(&HostInventory { unread: None, ..nothing }).unwrap();
            let one = cluster.start(number, version);
            cluster.hosts.push(one);
        }
        cluster
    }

    fn repository(&self) -> Repository {
        Repository::new(Arc::clone(&self.store) as Arc<dyn Store>)
    }

    fn start(&self, number: usize, version: &str) -> One {
        let store = || Arc::clone(&self.store) as Arc<dyn Store>;
        let heart = Heart::new(host(number), "boot".to_owned(), version.to_owned(), self.repository());
        let leader = Leader::new(host(number), store(), store()).of_version(version);
        let desk = Desk::open_as_member(self.repository(), Ids::default()).unwrap();
        One { heart, leader, desk, on: true, turns: true, led: Led::Follows }
    }

    fn put(&self, key: &str, value: &str) {
        let put = self.store.commit(&Txn::new().put(key.parse().unwrap(), value)).unwrap();
        assert!(matches!(put, Outcome::Committed(_)));
    }

    fn run_for(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            self.now_ms += TURN_MS;
            self.clock.advance(TURN_MS);
            let (now_ms, now) = (self.now_ms, Timestamp(self.now_ms));
            for one in self.hosts.iter_mut().filter(|one| one.on) {
                one.heart.note_able(one.desk.can_read(now));
                let _ = one.heart.beat(&Timers::default(), &|| now_ms, now);
                one.leader.hear(&Timers::default(), &|| now_ms, now);
                if one.turns {
                    one.led = one.leader.turn(&one.desk, &NoAgent, &|| now_ms, now);
                }
            }
        }
    }

    /// Who leads, as the store says.
    fn leader(&self) -> Option<usize> {
        let leader = self.repository().leader().unwrap();
        leader.map(|leader| (0..self.hosts.len()).find(|number| host(*number) == leader).unwrap())
    }

    /// What whoever leads says of a code.
    fn said(&self, code: Code) -> Vec<Finding> {
        let view = self.hosts[self.leader().expect("somebody leads")].desk.view();
        view.findings.iter().filter(|finding| finding.code == code).cloned().collect()
    }
}

fn host(number: usize) -> HostName {
    name(&format!("node{number}"))
}

#[test]
fn while_a_host_of_an_older_version_would_lead_no_other_does_and_it_gets_the_lead_back() {
    let mut cluster = Cluster::of(&["1.10.0", "1.9.0", "1.10.0"]);
    cluster.run_for(2_000);
    assert_eq!((cluster.leader(), cluster.hosts[1].led), (Some(1), Led::Decided));
    cluster.hosts[1].on = false;
    cluster.run_for(7_000);
    assert!(matches!(cluster.leader(), Some(0 | 2)), "it is silent: {:?}", cluster.leader());
    cluster.hosts[1] = cluster.start(1, "1.9.0");
    cluster.run_for(2_000);
    assert_eq!((cluster.leader(), cluster.hosts[1].led), (Some(1), Led::Decided));
    cluster.hosts[1].leader.step_down();
    cluster.hosts[1] = cluster.start(1, "1.10.0");
    cluster.run_for(2_000);
    let leader = cluster.leader().expect("all have the same version by now");
    cluster.run_for(10_000);
    assert_eq!(cluster.leader(), Some(leader), "and the lead does not go to and fro");
}

#[test]
fn a_host_of_a_later_version_stands_in_for_one_that_lives_and_does_not_take_the_lead() {
    let mut cluster = Cluster::of(&["1.0.0", "1.1.0"]);
    cluster.hosts[0].turns = false;
    cluster.run_for(9_000);
    assert_eq!(cluster.leader(), None);
    cluster.run_for(3_000);
    assert_eq!(cluster.leader(), Some(1));
    cluster.run_for(60_000);
    assert_eq!((cluster.leader(), cluster.hosts[1].led), (Some(1), Led::Decided), "it is waited for once");
}

#[test]
fn one_that_cannot_read_what_is_stored_leaves_the_lead_to_a_later_version_and_lives_on() {
    let mut cluster = Cluster::of(&["1.0.0", "1.1.0"]);
    cluster.run_for(2_000);
    assert_eq!(cluster.leader(), Some(0));
    cluster.put("spec/vm/new", r#"{"v":2,"data":{}}"#);
    cluster.run_for(2_000);
    assert_eq!((cluster.leader(), cluster.hosts[0].led), (Some(1), Led::Follows));
    let beats = cluster.repository().beats().unwrap().of;
    assert!(!beats[&host(0)].heartbeat.able && beats[&host(0)].heartbeat.count > 8, "{beats:?}");
    cluster.run_for(120_000);
    assert_eq!(cluster.leader(), Some(1));
    let _ = cluster.store.commit(&Txn::new().delete("spec/vm/new".parse().unwrap())).unwrap();
    cluster.run_for(62_000);
    assert_eq!((cluster.leader(), cluster.hosts[0].led), (Some(0), Led::Decided), "it can read it all again");
}

#[test]
fn where_nobody_could_read_it_better_whoever_leads_keeps_the_lead_and_says_what_it_cannot_read() {
    let mut cluster = Cluster::of(&["1.0.0", "1.0.0"]);
    cluster.run_for(2_000);
    let leader = cluster.leader().unwrap();
    cluster.put("spec/vm/new", "no record");
    cluster.run_for(30_000);
    assert_eq!((cluster.leader(), cluster.hosts[leader].led), (Some(leader), Led::Hampered));
    assert!(cluster.said(Code::StoreCorrupt)[0].message.contains("spec/vm/new"));
}

#[test]
fn heartbeats_that_cannot_be_read_say_that_their_host_lives_and_the_silence_of_others_counts_on() {
    let mut cluster = Cluster::of(&["1.0.0", "1.0.0", "1.1.0"]);
    cluster.run_for(2_000);
    cluster.hosts[1].on = false;
    cluster.hosts[2].on = false;
    for count in 0..30 {
        cluster.put("beat/node2", &format!(r#"{{"v":2,"data":{{"version":"2.0.0","count":{count}}}}}"#));
        cluster.run_for(TURN_MS);
    }
    let standing = |cluster: &Cluster, number| {
        let view = cluster.hosts[0].desk.view();
        view.plan.hosts[&host(number)].standing
    };
    assert!(matches!(standing(&cluster, 1), Standing::Lost { .. }), "{:?}", standing(&cluster, 1));
    assert_eq!(standing(&cluster, 2), Standing::Up);
    let said = cluster.said(Code::HostUnread);
    assert!(said.len() == 1 && said[0].message.contains("host node2"), "{said:?}");
    assert!(said[0].message.contains("2.0.0"), "{said:?}");
    cluster.run_for(12_000);
    assert!(matches!(standing(&cluster, 2), Standing::Lost { .. }), "it says nothing any more");
    assert_eq!(cluster.said(Code::HostUnfenced), [], "it runs nothing protected");
}

#[test]
fn a_daemon_starts_on_a_member_that_cannot_read_what_others_wrote_and_not_on_a_host_that_stands_alone() {
    let cluster = Cluster::of(&["1.0.0"]);
    cluster.put("spec/vm/new", r#"{"v":2,"data":{}}"#);
    let machine = FakeMachine::new(host(0), Machine::gpus(1, 4));
    assert!(Engine::open(host(0), machine.host(), cluster.repository(), 1).is_err());
    let engine = Engine::open_as_member(host(0), machine.host(), cluster.repository(), 1).unwrap();
    assert_eq!(engine.view().findings[0].code, Code::StoreNewerVersion);
    assert!(!engine.desk().can_read(Timestamp(1_000)));
    let pause = tranche_core::change::Change::PauseFailover { paused: true };
    assert!(engine.submit(&pause, false, Timestamp(1_000)).is_err(), "nothing is decided by half of it");
}

#[test]
fn a_host_that_cannot_read_its_part_reports_that_and_begins_nothing() {
    let cluster = Cluster::of(&["1.0.0"]);
    let machine = FakeMachine::new(host(0), Machine::gpus(1, 4));
    let heart = Arc::new(Heart::new(host(0), "boot".to_owned(), "1".to_owned(), cluster.repository()));
    let member = Member::new(host(0), machine.host(), cluster.repository(), heart, 1);
    cluster.put("plan/vm/desk", r#"{"v":2,"data":{}}"#);
    cluster.put("home/node0/desk", "{}");
    let done = member.pass(Timestamp(1_000));
    assert_eq!((done.steps_tried, done.restored), (0, false));
    let reported = cluster.store.get(&"inventory/node0".parse().unwrap()).unwrap().expect("it is told");
    let reported = String::from_utf8(reported.value).unwrap();
    let expected = say::part_unread(&host(0), "the record plan/vm/desk has version 2");
    assert!(reported.contains(expected.message.trim_end_matches('.')), "{reported}");
}
