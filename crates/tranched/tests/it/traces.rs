//! What a collector of traces hears of real daemons, read by the definitions of the OpenTelemetry project.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::TcpListener;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::serve::Listener as _;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Told;
use prost::Message as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use tranched::cluster::door::Door;

use crate::certified;
use crate::machines::{cluster_with, until};
use crate::process::{Home, request, request_with, signal};

/// Nothing that is waited for takes longer.
const DEADLINE: Duration = Duration::from_secs(60);
const GPU: &str = "/v1/gpus/node1/0000:10:00.0/mode";
/// The trace of somebody who asks, and where they stand in it.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const ASKER: &str = "b7ad6b7169203331";

/// A span as a collector sees it.
#[derive(Debug, Clone)]
struct Span {
    /// The host whose daemon sent it.
    host: String,
    trace: String,
    id: String,
    parent: String,
    name: String,
    attributes: BTreeMap<String, String>,
}

impl Span {
    fn told(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Default)]
struct Heard {
    spans: Mutex<(Vec<Span>, Vec<u8>)>,
    more: Condvar,
}

/// A collector.
struct Collector {
    heard: Arc<Heard>,
    /// Where it is asked.
    endpoint: String,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (heard, router) = hears();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { heard, endpoint, _runtime: runtime }
    }

    /// One that proves who it is, and the authority that it is certified by.
    fn over_tls() -> (Self, String) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (heard, router) = hears();
        let (authority, config) = certified::localhost();
        let door = runtime.block_on(Door::listen("127.0.0.1:0".parse().unwrap(), config)).unwrap();
        let endpoint = format!("https://localhost:{}", door.local_addr().unwrap().address.port());
        runtime.spawn(async move { axum::serve(door, router).await });
        (Self { heard, endpoint, _runtime: runtime }, authority)
    }

    /// The settings with which a daemon sends its spans here.
    fn settings(&self) -> String {
        settings(&self.endpoint)
    }

    /// Waits until what was heard is enough.
    #[track_caller]
    fn until(&self, is_enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let heard = self.heard.spans.lock().unwrap();
        let (heard, waited) =
            self.heard.more.wait_timeout_while(heard, DEADLINE, |(spans, _)| !is_enough(spans)).unwrap();
        assert!(!waited.timed_out(), "it is never heard; what is: {:#?}", heard.0);
        heard.0.clone()
    }

    /// The trace of whoever asked, with an operation that is over and no span whose parent is missing.
    #[track_caller]
    fn whole(&self) -> Vec<Span> {
        let of = |spans: &[Span]| -> Vec<Span> {
            spans.iter().filter(|span| span.trace == TRACE).cloned().collect()
        };
        let spans = self.until(|spans| {
            let spans = of(spans);
            let known: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).chain([ASKER]).collect();
            spans.iter().any(|span| span.name == "operation")
                && spans.iter().all(|span| known.contains(span.parent.as_str()))
        });
        of(&spans)
    }
}

fn settings(endpoint: &str) -> String {
    format!("\n[traces]\nendpoint = \"{endpoint}\"\n")
}

fn hears() -> (Arc<Heard>, Router) {
    let heard = Arc::new(Heard::default());
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&heard));
    (heard, router)
}

/// A directory for a daemon that sends its spans to this collector, if that is certified by this authority.
fn home_that_trusts(collector: &Collector, authority: &str) -> Home {
    let home = home("");
    let (path, file) = (home.path("tranched.toml"), home.path("ca.pem"));
    std::fs::write(&file, authority).unwrap();
    let before = std::fs::read_to_string(&path).unwrap();
    let settings = format!("{}authority = \"{}\"\n", collector.settings(), file.display());
    std::fs::write(path, before + &settings).unwrap();
    home
}

async fn take(State(heard): State<Arc<Heard>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let is_protobuf = headers.get("content-type").is_some_and(|kind| kind == "application/x-protobuf");
    let Some(told) = ExportTraceServiceRequest::decode(body.clone()).ok().filter(|_| is_protobuf) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut known = heard.spans.lock().unwrap();
    known.1.extend_from_slice(&body);
    for of_daemon in told.resource_spans {
        let resource = attributes(&of_daemon.resource.expect("a resource").attributes);
        assert_eq!(
            (resource["service.name"].as_str(), resource["service.version"].as_str()),
            ("tranched", "0.1.0")
        );
        for span in of_daemon.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
            known.0.push(Span {
                host: resource["host.name"].clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                attributes: attributes(&span.attributes),
            });
        }
    }
    drop(known);
    heard.more.notify_all();
    StatusCode::OK
}

fn attributes(told: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |told: &KeyValue| match told.value.clone()?.value? {
        Told::StringValue(text) => Some(text),
        Told::IntValue(number) => Some(number.to_string()),
        Told::BoolValue(truth) => Some(truth.to_string()),
        other => panic!("{other:?} is never told"),
    };
    told.iter().map(|told| (told.key.clone(), text(told).unwrap_or_default())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A directory for a daemon with these further settings.
fn home(settings: &str) -> Home {
    let home = Home::new();
    let path = home.path("tranched.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, before + settings).unwrap();
    home
}

/// A daemon, which goes with the test whatever comes of that.
struct Running(Child);

impl Running {
    fn of(home: &Home) -> Self {
        Self(home.start())
    }

    /// Tells it to end, waits until it has, and returns what it logged.
    fn ends(mut self) -> String {
        signal(&self.0, Signal::TERM);
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(self.0.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, where all is well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks for something in the trace of whoever asks. Returns the id of the operation.
#[track_caller]
fn asks(socket: &std::path::Path, what: &str, body: &Value) -> String {
    let head = format!("{what} HTTP/1.0\r\ntraceparent: 00-{TRACE}-{ASKER}-01");
    let (status, answer) = request_with(socket, &head, Some(body));
    assert_eq!(status, 202, "{what}: {answer}");
    answer["operation"]["id"].as_str().expect("an operation").to_owned()
}

fn vm(name: &str) -> Value {
    json!({
        "name": name,
        "hardware": {"vcpus": 1, "memory_mib": 64},
        "request": {"kind": "partition"},
    })
}

fn named<'s>(spans: &'s [Span], name: &'s str) -> impl Iterator<Item = &'s Span> {
    spans.iter().filter(move |span| span.name == name)
}

#[test]
fn a_vm_that_is_started_over_rest_is_one_trace_with_the_request_the_operation_and_each_step() {
    let collector = Collector::start();
    let home = home(&collector.settings());
    let daemon = Running::of(&home);
    let socket = home.path("s");
    assert_eq!(request(&socket, "PUT", GPU, Some(&json!({"mode": "partitioned", "count": 2}))).0, 202);
    assert_eq!(request(&socket, "POST", "/v1/vms", Some(&vm("desk-01"))).0, 202);
    let id = asks(&socket, "POST /v1/vms/desk-01/start?dry_run=false", &json!({}));
    let spans = collector.whole();

    let asked = named(&spans, "POST /v1/vms/{name}/start").next().expect("the request");
    assert_eq!(asked.parent, ASKER, "it is part of what the client does");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/vms/{name}/start"),
        ("http.response.status_code", "202"),
        ("tranche.role", "admin"),
    ] {
        assert_eq!(asked.told(name), value, "{name}");
    }
    assert!(
        named(&spans, "store")
            .any(|span| span.parent == asked.id && span.told("db.operation.name") == "commit")
    );

    let operation = named(&spans, "operation").next().expect("the operation");
    assert_eq!(
        (operation.told("tranche.operation"), operation.told("tranche.state")),
        (id.as_str(), "Succeeded")
    );
    assert_eq!((&operation.parent, operation.told("tranche.subject")), (&asked.id, "vm desk-01"));

    let steps: Vec<&Span> = named(&spans, "step").collect();
    assert!(steps.iter().all(|step| step.parent == operation.id && step.told("tranche.host") == "node1"));
    let steps: Vec<&str> = steps.iter().map(|step| step.told("tranche.step")).collect();
    assert_eq!(steps, ["define VM desk-01", "give the GPU to VM desk-01", "start VM desk-01"]);

    let turns: BTreeSet<&str> = named(&spans, "turn").map(|turn| turn.id.as_str()).collect();
    assert!(named(&spans, "turn").all(|turn| turn.parent == operation.id));
    for part in ["observe", "decide", "act"] {
        assert!(named(&spans, part).any(|span| turns.contains(span.parent.as_str())), "{part}: {spans:#?}");
    }
    let decisions: BTreeSet<&str> = named(&spans, "decide").map(|span| span.id.as_str()).collect();
    for part in ["plan", "commit"] {
        assert!(named(&spans, part).any(|span| decisions.contains(span.parent.as_str())), "{part}");
    }

    // Requests that name no trace have one each of their own.
    let heard = collector.until(|spans| spans.iter().any(|span| span.name.starts_with("PUT /v1/gpus/")));
    let split = heard.iter().find(|span| span.name.starts_with("PUT /v1/gpus/")).unwrap();
    assert!(split.trace != TRACE && split.parent.is_empty());
    daemon.ends();
}

#[test]
fn a_vm_that_moves_to_another_host_is_one_trace_over_all_hosts_whichever_was_asked() {
    let collector = Collector::start();
    let machines = cluster_with(&collector.settings());
    for number in 1..=2 {
        let path = format!("/v1/gpus/node{number}/0000:10:00.0/mode");
        machines[0].does("PUT", &path, &json!({"mode": "partitioned", "count": 2}));
    }
    machines[0].does("POST", "/v1/vms", &vm("a"));
    machines[0].does("POST", "/v1/vms/a/start", &json!({}));
    let (_, from) = machines[0].running()[0].clone();
    let to = if from == "node1" { "node2" } else { "node1" };
    let leader = until("somebody leads", || machines.iter().find(|machine| machine.leads()));
    let asked = machines.iter().find(|machine| machine.name != leader.name).expect("two follow");
    asks(&asked.socket(), "POST /v1/vms/a/migrate", &json!({"to": to}));
    let spans = collector.whole();

    let requests: Vec<&Span> = named(&spans, "POST /v1/vms/{name}/migrate").collect();
    let first = requests.iter().find(|span| span.host == asked.name).expect("who was asked");
    let second = requests.iter().find(|span| span.host == leader.name).expect("who leads");
    assert_eq!(first.parent, ASKER);
    let between = named(&spans, "ask a member").find(|span| span.id == second.parent).expect("the way to it");
    assert_eq!((&between.host, &between.parent), (&asked.name, &first.id));

    let operation = named(&spans, "operation").next().expect("the operation");
    assert_eq!((&operation.host, &operation.parent), (&leader.name, &second.id));
    let steps: Vec<&Span> = named(&spans, "step").collect();
    assert!(steps.iter().all(|step| step.parent == operation.id && step.told("tranche.host") == step.host));
    let hosts: BTreeSet<&str> = steps.iter().map(|step| step.host.as_str()).collect();
    assert_eq!(hosts, [from.as_str(), to].into(), "both hosts do their part: {steps:#?}");
}

#[test]
fn nothing_secret_is_told_to_a_collector() {
    let collector = Collector::start();
    let home = home(&collector.settings());
    let daemon = Running::of(&home);
    let socket = home.path("s");
    let mut with_secrets = vm("desk-02");
    with_secrets["hardware"]["cloud_init"] = "#cloud-config\npassword: geheim-in-cloud-init\n".into();
    let (status, answer) = request(&socket, "POST", "/v1/vms", Some(&with_secrets));
    assert_eq!(status, 202, "{answer}");
    let wish = json!({"role": "viewer", "password": "geheim-password-of-anna"});
    assert!(request(&socket, "PUT", "/v1/users/anna", Some(&wish)).0 < 300);
    let link = request(&socket, "POST", "/v1/users/anna/link", Some(&json!({}))).1;
    let wish = json!({"name": "robot", "role": "viewer", "days": 1});
    let token = request(&socket, "POST", "/v1/tokens", Some(&wish)).1;
    let told = [&link, &token].map(|made| made["secret"].as_str().unwrap_or_else(|| panic!("{made}")));
    let login = json!({"user": "geheim-user", "password": "geheim-password"});
    request(&socket, "POST", "/v1/sessions", Some(&login));
    request(&socket, "GET", "/v1/geheim-path?token=geheim-query", None);
    let head =
        "GEHEIMMETHOD /v1/vms HTTP/1.0\r\nauthorization: Bearer geheim-header\r\ncookie: a=geheim-cookie";
    request_with(&socket, head, None);
    asks(&socket, "POST /v1/vms/desk-02/start", &json!({}));
    daemon.ends();

    let spans = collector.until(|spans| spans.iter().any(|span| span.name.starts_with("_OTHER")));
    assert!(spans.iter().any(|span| span.name == "POST /v1/tokens"), "{spans:#?}");
    let bytes = collector.heard.spans.lock().unwrap().1.clone();
    let heard = String::from_utf8_lossy(&bytes);
    for secret in ["geheim", "GEHEIM"].into_iter().chain(told) {
        assert!(!heard.contains(secret), "{secret} is told: {spans:#?}");
    }
}

/// Asks for something until that has cost spans.
fn until_spans_are_dropped(socket: &std::path::Path) {
    until("dropped spans are counted", || {
        let (status, text) = request(socket, "GET", "/metrics", None);
        assert_eq!(status, 200);
        let count = text
            .as_str()?
            .lines()
            .find_map(|line| line.strip_prefix("tranche_trace_spans_dropped_total "))?;
        count.parse::<u64>().ok().filter(|count| *count > 0)
    });
}

#[test]
fn a_collector_over_tls_is_told_if_the_authority_that_the_settings_name_has_certified_it() {
    let (collector, authority) = Collector::over_tls();
    let home = home_that_trusts(&collector, &authority);
    let daemon = Running::of(&home);
    asks(&home.path("s"), "POST /v1/vms", &vm("desk-01"));
    assert!(named(&collector.whole(), "POST /v1/vms").next().is_some());
    let log = daemon.ends();
    assert!(!log.contains("are dropped"), "{log}");
}

#[test]
fn a_collector_that_another_authority_has_certified_is_told_nothing_and_holds_nothing_up() {
    let (collector, _) = Collector::over_tls();
    let (authority, _) = certified::localhost();
    let home = home_that_trusts(&collector, &authority);
    let daemon = Running::of(&home);
    let socket = home.path("s");
    until_spans_are_dropped(&socket);
    asks(&socket, "POST /v1/vms", &vm("desk-01"));
    let told = Instant::now();
    let log = daemon.ends();
    assert!(told.elapsed() < Duration::from_secs(10), "it ended after {:?}", told.elapsed());
    let said = log.lines().find(|line| line.contains("spans of traces are dropped")).expect("it is said");
    for part in ["localhost does not prove who it is", "ca.pem", "traces.authority"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(collector.heard.spans.lock().unwrap().1.is_empty(), "nothing was sent");
}

#[test]
fn a_collector_that_is_gone_costs_spans_which_are_counted_and_said_and_nothing_else() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let home = home(&settings(&format!("http://{gone}")));
    let daemon = Running::of(&home);
    let socket = home.path("s");
    until_spans_are_dropped(&socket);
    asks(&socket, "POST /v1/vms", &vm("desk-03"));
    let log = daemon.ends();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("spans of traces are dropped")).collect();
    assert_eq!(said.len(), 1, "once a minute: {log}");
    // Lines are what they are without traces: no span stands before one.
    assert!(log.lines().all(|line| !line.contains("request{") && !line.contains("turn{")), "{log}");
}

#[test]
fn a_collector_that_never_answers_holds_up_neither_requests_nor_the_end() {
    // Whoever connects is never accepted.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = home(&settings(&format!("http://{}", silent.local_addr().unwrap())));
    let daemon = Running::of(&home);
    let socket = home.path("s");
    for number in 0..20 {
        asks(&socket, "POST /v1/vms", &vm(&format!("desk-{number:02}")));
    }
    let told = Instant::now();
    daemon.ends();
    assert!(told.elapsed() < Duration::from_secs(10), "it ended after {:?}", told.elapsed());
}
