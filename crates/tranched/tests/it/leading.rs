//! Who leads, in virtual time: whom he gives up, and what he has fence agents do.

use std::sync::{Arc, Mutex};

use tranche_core::change::Change;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::liveness::Cause;
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::Standing;
use tranche_core::spec::{Failover, FenceSpec, HostPart, HostSpec, Timers};
use tranche_host::watchdog::fake::Model;
use tranche_store::{Outcome, Store, StoreError};
use tranched::engine::cluster::{Fenced, Fencer, Leader, Led};
use tranched::engine::{Desk, Ids};

use crate::guarding::{Mood, Moody, Rig, host, wish};
use crate::stores::{Fault, Faulty};

/// An agent that does as it is told, and counts how often it was asked.
#[derive(Debug, Default)]
struct Agent {
    asked: Mutex<Vec<Cause>>,
    says: Mutex<Option<Fenced>>,
    /// The same of turning a host on.
    turned_on: Mutex<Vec<Cause>>,
    says_on: Mutex<Option<Fenced>>,
}

impl Fencer for Agent {
    fn cut(&self, _host: &HostName, _how: &FenceSpec, cause: Cause) -> Fenced {
        self.asked.lock().unwrap().push(cause);
        self.says.lock().unwrap().clone().unwrap_or(Fenced::UnderWay)
    }

    fn turn_on(&self, _host: &HostName, _how: &FenceSpec, cause: Cause) -> Fenced {
        self.turned_on.lock().unwrap().push(cause);
        self.says_on.lock().unwrap().clone().unwrap_or(Fenced::UnderWay)
    }
}

/// What an agent says that has failed.
fn failed(words: &str) -> Fenced {
    Fenced::Failed(Box::new(Finding {
        code: Code::FenceFailed,
        severity: Severity::Error,
        subject: Subject::Host(host()),
        message: words.to_owned(),
        hint: "Try it by hand.".to_owned(),
    }))
}

/// One who leads, in virtual time, over the store of a rig whose own host says nothing.
struct Lead {
    leader: Leader,
    desk: Desk,
    agent: Agent,
    now_ms: u64,
}

impl Lead {
    fn over(rig: &Rig) -> Self {
        Self::by("node2", rig)
    }

    fn by(name: &str, rig: &Rig) -> Self {
        let leader = Leader::new(name.parse().unwrap(), Arc::clone(&rig.store), Arc::clone(&rig.store));
        let desk = Desk::open(rig.repository.clone(), Ids::default()).unwrap();
        Self { leader, desk, agent: Agent::default(), now_ms: rig.now_ms }
    }

    fn run_for(&mut self, ms: u64) -> Led {
        let until_ms = self.now_ms + ms;
        let mut led = Led::Follows;
        while self.now_ms < until_ms {
            self.now_ms += 400;
            let now_ms = self.now_ms;
            self.leader.hear(&Timers::default(), &|| now_ms, Timestamp(now_ms));
            led = self.leader.turn(&self.desk, &self.agent, &|| now_ms, Timestamp(now_ms));
        }
        led
    }

    fn standing(&self) -> Standing {
        self.desk.view().plan.hosts[&host()].standing
    }

    fn has(&self, code: Code) -> Option<Finding> {
        self.desk.view().findings.iter().find(|finding| finding.code == code).cloned()
    }

    fn asked(&self) -> usize {
        self.agent.asked.lock().unwrap().len()
    }

    fn turned_on(&self) -> usize {
        self.agent.turned_on.lock().unwrap().len()
    }

    /// Leads until the host is known to be down.
    fn until_down(&mut self) {
        *self.agent.says.lock().unwrap() = Some(Fenced::Done);
        while !matches!(self.standing(), Standing::Down { .. }) {
            assert_eq!(self.turned_on(), 0, "it is not known to be down yet");
            assert!(self.now_ms < 60_000, "{:?}", self.standing());
            self.run_for(400);
        }
    }
}

#[test]
fn nobody_is_given_up_for_the_time_that_the_store_was_full_and_everybody_has_the_whole_time_after_it() {
    let mut rig = Rig::new(Model::default());
    rig.protect(Failover::Restart);
    rig.run_for(5_000);
    assert!(rig.beat().armed);
    let mut lead = Lead::over(&rig);
    assert_eq!(lead.run_for(3_000), Led::Decided);
    rig.store_is(Mood::Full);
    lead.run_for(60_000);
    assert_eq!(lead.standing(), Standing::Up);
    assert!(lead.has(Code::StoreFull).is_some());
    rig.store_is(Mood::Well);
    lead.run_for(4_800);
    assert_eq!((lead.standing(), lead.has(Code::StoreFull)), (Standing::Up, None));
    lead.run_for(1_600);
    assert!(matches!(lead.standing(), Standing::Lost { .. }), "{:?}", lead.standing());
    lead.run_for(3_200);
    assert!(matches!(lead.standing(), Standing::Lost { .. }), "{:?}", lead.standing());
    lead.run_for(1_600);
    assert!(matches!(lead.standing(), Standing::Down { .. }), "{:?}", lead.standing());
}

#[test]
fn an_agent_that_fails_is_shown_with_its_words_asked_less_and_less_often_and_not_while_failover_is_paused() {
    let rig = silent_with_an_agent();
    let mut lead = Lead::over(&rig);
    let words = "Fence agent fence_ipmilan for host node1 failed (action off): no route to host.";
    *lead.agent.says.lock().unwrap() = Some(failed(words));
    lead.run_for(8_000);
    assert!(matches!(lead.standing(), Standing::Fencing { .. }), "{:?}", lead.standing());
    assert_eq!(lead.has(Code::FenceFailed).map(|finding| finding.message), Some(words.to_owned()));
    lead.run_for(120_000);
    assert!((5..=8).contains(&lead.asked()), "2, 4, 8, 16, 32, 60 seconds: {}", lead.asked());
    let pause = Change::PauseFailover { paused: true };
    lead.desk.submit(&pause, false, Timestamp(lead.now_ms)).unwrap();
    let before = lead.asked();
    lead.run_for(300_000);
    assert_eq!(lead.asked(), before);
    lead.desk.submit(&Change::PauseFailover { paused: false }, false, Timestamp(lead.now_ms)).unwrap();
    *lead.agent.says.lock().unwrap() = Some(Fenced::Done);
    lead.run_for(61_000);
    assert!(matches!(lead.standing(), Standing::Down { .. }), "{:?}", lead.standing());
    assert_eq!(lead.has(Code::FenceFailed), None);
    let causes = lead.agent.asked.lock().unwrap().clone();
    assert!(causes.iter().all(|cause| *cause == causes[0]), "it is one cause all the time");
}

/// A rig whose host an agent can cut off, and that has said nothing since.
fn silent_with_an_agent() -> Rig {
    let mut rig = Rig::new(Model::default());
    let agent =
        FenceSpec { agent: "fence_ipmilan".parse().unwrap(), options: Default::default(), leave_off: false };
    rig.decide(|state| drop(state.spec.hosts.insert(host(), HostSpec { fence: Some(agent), ..wish() })));
    rig.run_for(2_000);
    rig
}

#[test]
fn a_host_that_was_cut_is_turned_on_once_it_is_stored_that_it_is_down_and_only_once() {
    let rig = silent_with_an_agent();
    let mut lead = Lead::over(&rig);
    lead.until_down();
    assert_eq!(rig.repository.load().unwrap().state.plan.hosts[&host()].standing, lead.standing());
    assert_eq!(lead.turned_on(), 1, "at once");
    lead.run_for(4_000);
    assert!(lead.turned_on() > 1, "whoever is at work is asked how far it has come");
    *lead.agent.says_on.lock().unwrap() = Some(Fenced::Done);
    lead.run_for(400);
    let asked = lead.turned_on();
    lead.run_for(600_000);
    assert_eq!(lead.turned_on(), asked, "it may be off again because somebody wants so");
    let causes = lead.agent.turned_on.lock().unwrap().clone();
    assert!(causes.iter().all(|cause| *cause == causes[0]), "{causes:?}");
}

#[test]
fn a_host_that_cannot_be_turned_on_is_shown_and_tried_again_but_not_while_failover_is_paused() {
    let rig = silent_with_an_agent();
    let mut lead = Lead::over(&rig);
    *lead.agent.says_on.lock().unwrap() =
        Some(failed("Fence agent fence_ipmilan for host node1 failed (action on)."));
    lead.until_down();
    lead.run_for(120_000);
    assert!((5..=8).contains(&lead.turned_on()), "2, 4, 8, 16, 32, 60 seconds: {}", lead.turned_on());
    assert!(lead.has(Code::FenceFailed).is_some_and(|finding| finding.message.contains("action on")));
    let said = lead.desk.examine(rig.machine.host().observe(Timestamp(0)), Timestamp(lead.now_ms));
    assert!(
        said.iter().any(|finding| finding.code == Code::FenceFailed),
        "whoever examines is told: {said:?}"
    );
    let before = lead.turned_on();
    lead.desk.submit(&Change::PauseFailover { paused: true }, false, Timestamp(lead.now_ms)).unwrap();
    lead.run_for(300_000);
    assert_eq!(lead.turned_on(), before);
    lead.desk.submit(&Change::PauseFailover { paused: false }, false, Timestamp(lead.now_ms)).unwrap();
    *lead.agent.says_on.lock().unwrap() = Some(Fenced::Done);
    lead.run_for(61_000);
    assert_eq!((lead.turned_on(), lead.has(Code::FenceFailed)), (before + 1, None));
}

#[test]
fn a_host_is_not_turned_on_while_failover_is_paused_nor_one_that_is_to_be_left_off() {
    let mut rig = silent_with_an_agent();
    rig.decide(|state| state.spec.hosts.get_mut(&host()).unwrap().fence.as_mut().unwrap().leave_off = true);
    let mut lead = Lead::over(&rig);
    lead.until_down();
    lead.run_for(60_000);
    assert_eq!(lead.turned_on(), 0);
    let back: HostPart = serde_json::from_str(r#"{"fence": {"leave_off": false}}"#).unwrap();
    let now = Timestamp(lead.now_ms);
    lead.desk.submit(&Change::PauseFailover { paused: true }, false, now).unwrap();
    lead.desk.submit(&Change::AmendHost { host: host(), wish: back }, false, now).unwrap();
    lead.run_for(60_000);
    assert_eq!(lead.turned_on(), 0);
    lead.desk.submit(&Change::PauseFailover { paused: false }, false, Timestamp(lead.now_ms)).unwrap();
    lead.run_for(400);
    assert_eq!(lead.turned_on(), 1);
}

#[test]
fn a_new_leader_turns_a_host_on_that_has_just_been_cut_and_leaves_one_that_is_long_down_to_somebody() {
    for (later_ms, asked) in [(60_000, true), (3_700_000, false)] {
        let rig = silent_with_an_agent();
        let mut first = Lead::over(&rig);
        first.until_down();
        first.leader.step_down();
        let mut second = Lead::by("node3", &rig);
        second.now_ms = first.now_ms + later_ms;
        second.run_for(4_800);
        assert_eq!(second.turned_on(), 0, "it listens first");
        second.run_for(4_000);
        assert_eq!(second.turned_on() > 0, asked, "{later_ms}");
    }
}

#[test]
fn a_host_that_leads_although_it_was_given_up_does_not_have_its_own_power_cut() {
    let rig = silent_with_an_agent();
    let mut other = Lead::over(&rig);
    other.run_for(8_000);
    assert!(matches!(other.standing(), Standing::Fencing { .. }), "{:?}", other.standing());
    assert!(other.asked() > 0);
    other.leader.step_down();
    let mut itself = Lead::by("node1", &rig);
    itself.now_ms = other.now_ms;
    assert_eq!(itself.run_for(8_000), Led::Decided);
    assert!(matches!(itself.standing(), Standing::Fencing { .. }), "{:?}", itself.standing());
    assert_eq!(itself.asked(), 0);
}

#[test]
fn a_silence_counts_although_whoever_leads_takes_longer_than_an_election_to_decide() {
    let rig = silent_with_an_agent();
    let mut lead = Lead::over(&rig);
    lead.run_for(400);
    for _ in 0..5 {
        // What is heard while one turn is under way.
        for _ in 0..5 {
            lead.now_ms += 400;
            let now_ms = lead.now_ms;
            lead.leader.hear(&Timers::default(), &|| now_ms, Timestamp(now_ms));
        }
        let now_ms = lead.now_ms;
        lead.leader.turn(&lead.desk, &lead.agent, &|| now_ms, Timestamp(now_ms));
    }
    assert!(matches!(lead.standing(), Standing::Fencing { .. }), "{:?}", lead.standing());
}

#[test]
fn a_store_that_is_always_slower_than_an_election_is_said_to_be_and_decides_all_the_same() {
    let rig = silent_with_an_agent();
    let fault = Arc::new(Moody(Mutex::new(Mood::Gone)));
    let brisk: Arc<dyn Store> = Arc::new(Faulty { store: Arc::clone(&rig.store), fault });
    let leader = Leader::new("node2".parse().unwrap(), Arc::clone(&rig.store), brisk);
    let mut lead = Lead { leader, ..Lead::over(&rig) };
    for _ in 0..40 {
        lead.now_ms += 600;
        let now_ms = lead.now_ms;
        lead.leader.hear(&Timers::default(), &|| now_ms, Timestamp(now_ms));
        let led = lead.leader.turn(&lead.desk, &lead.agent, &|| now_ms, Timestamp(now_ms));
        assert_eq!(led, Led::Decided);
    }
    assert_eq!(lead.standing(), Standing::Up);
    assert!(lead.has(Code::StoreSlow).is_some());
}

/// Notes how long leases are asked for.
#[derive(Debug, Default)]
struct Granted(Mutex<Vec<u64>>);

impl Fault for Granted {
    fn on_grant(&self, ttl_ms: u64) {
        self.0.lock().unwrap().push(ttl_ms);
    }

    fn on_commit(&self, commit: &dyn Fn() -> Result<Outcome, StoreError>) -> Result<Outcome, StoreError> {
        commit()
    }
}

#[test]
fn a_lead_lasts_as_much_longer_as_the_elections_of_the_store() {
    let mut rig = silent_with_an_agent();
    let slow = Timers {
        lost_ms: 30_000,
        reset_ms: 60_000,
        restart_ms: 65_000,
        election_ms: 10_000,
        ..Timers::default()
    };
    rig.decide(|state| state.spec.policy.failover.timers = slow);
    let noted = Arc::new(Granted::default());
    let store: Arc<dyn Store> = Arc::new(Faulty { store: Arc::clone(&rig.store), fault: Arc::clone(&noted) });
    let leader = Leader::new("node2".parse().unwrap(), Arc::clone(&store), store);
    let mut lead = Lead { leader, ..Lead::over(&rig) };
    assert_eq!(lead.run_for(400), Led::Decided);
    assert_eq!(*noted.0.lock().unwrap(), [30_000]);
}
