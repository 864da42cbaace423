//! A host that lets one wait: requests wait with it for a while, are then told so, and the daemon is known to hang.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tranche_core::finding::Finding;
use tranche_core::inventory::HostInventory;
use tranche_core::name::Timestamp;
use tranche_core::step::Step;
use tranche_host::Host;
use tranche_host::fake::Machine;
use tranched::patience::Patience;

use crate::fake_machine::FakeMachine;
use crate::served::Served;

/// So little that it is over before anybody could have waited.
const HARDLY: Duration = Duration::from_millis(1);

/// A host that is not looked at while it is held.
#[derive(Debug)]
struct SlowHost {
    host: Arc<dyn Host>,
    held: Arc<(Mutex<bool>, Condvar)>,
}

impl Host for SlowHost {
    fn observe(&self, now: Timestamp) -> HostInventory {
        let (held, changed) = &*self.held;
        let held = held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(held, |held| *held).unwrap_or_else(PoisonError::into_inner));
        self.host.observe(now)
    }

    fn apply(&self, step: &Step, now: Timestamp) -> Result<(), Box<Finding>> {
        self.host.apply(step, now)
    }
}

/// Holds a host; lets it go when a test ends, however it does.
struct Hold(Arc<(Mutex<bool>, Condvar)>);

impl Hold {
    fn set(&self, held: bool) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.0.1.notify_all();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// A daemon on a host that is held from the start.
fn on_a_held_host(patience: Patience) -> (Served, Hold) {
    let machine = FakeMachine::new("node1".parse().unwrap(), Machine::gpus(1, 4));
    let hold = Hold(Arc::new((Mutex::new(true), Condvar::new())));
    let host = Arc::new(SlowHost { host: machine.host(), held: hold.0.clone() });
    (Served::over(machine, host, patience), hold)
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_look_nothing_that_rests_on_the_host_is_answered() {
    let (served, hold) = on_a_held_host(Patience { first_look: HARDLY, ..Patience::default() });
    let document: Value = serde_json::from_str(tranched::openapi::TEXT).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let gets = paths.iter().filter(|(_, methods)| methods["get"].is_object()).map(|(path, _)| path.as_str());
    // Who may come in does not rest on the host either.
    let of_access = ["/v1/session", "/v1/sessions/issuer", "/v1/users", "/v1/tokens", "/v1/audit"];
    let at_once: Vec<&str> =
        ["/healthz", "/metrics", "/v1/openapi.json", "/v1/catalogue"].into_iter().chain(of_access).collect();
    let of_the_cluster = ["/v1/cluster", "/v1/cluster/backup"];
    let of_the_daemon = |path: &&str| {
        at_once.contains(path) || of_the_cluster.contains(path) || path.starts_with("/v1/catalogue/")
    };
    // These are asked for otherwise: as streams.
    let is_stream =
        |path: &&str| *path == "/v1/events" || path.ends_with("/console") || path.ends_with("/screen");
    for path in gets.filter(|path| !of_the_daemon(path) && !is_stream(path)) {
        assert_eq!(served.get(path).await.problem(), (503, "host_silent".to_owned()), "{path}");
    }
    let refused = served.put("/v1/gpus/node1/0000:10:00.0/mode", &json!({"mode": "host"})).await;
    assert_eq!(refused.problem(), (503, "host_silent".to_owned()));
    assert!(refused.json()["hint"].as_str().unwrap().contains("try again in a moment"), "{}", refused.text);
    for path in at_once {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }

    hold.set(false);
    served.until("the host reports", |view| !view.inventory.is_empty()).await;
    assert_eq!(served.get("/v1/gpus").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_first_look() {
    let minute = Duration::from_secs(60);
    let (served, hold) =
        on_a_held_host(Patience { first_look: minute, answer: minute, ..Patience::default() });
    let (gpus, ()) = tokio::join!(served.get("/v1/gpus"), async {
        assert_eq!(served.get("/healthz").await.status, 200);
        hold.set(false);
    });
    assert_eq!(gpus.json().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_is_refused_as_busy_and_others_are_answered() {
    let (served, hold) = on_a_held_host(Patience { answer: Duration::from_secs(1), ..Patience::default() });
    hold.set(false);
    served.until("the host reports", |view| !view.inventory.is_empty()).await;
    hold.set(true);
    assert_eq!(served.get("/v1/doctor").await.problem(), (503, "busy".to_owned()));
    assert_eq!(served.get("/v1/gpus").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_does_not_advance_is_reported_and_so_is_one_that_does_again() {
    let (served, hold) = on_a_held_host(Patience { pass: HARDLY, ..Patience::default() });
    // A millisecond may not have gone by at the first question.
    while served.get("/healthz").await.status == 200 {}
    assert_eq!(served.get("/healthz").await.problem(), (503, "busy".to_owned()));
    drop((served, hold));

    let (served, _hold) = on_a_held_host(Patience::default());
    assert_eq!(served.get("/healthz").await.json()["status"], "ok");
}
