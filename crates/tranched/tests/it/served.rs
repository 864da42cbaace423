//! A daemon that serves on a socket in a directory of its own, and a client for it.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tranche_host::Host;
use tranche_host::fake::Machine;
use tranche_store::{MemoryStore, Repository, Store};
use tranched::bell::Bell;
use tranched::cluster::Cluster;
use tranched::config::ConsoleConfig;
use tranched::daemon::{Daemon, DaemonError};
use tranched::engine::{Engine, View};
use tranched::gate::Gate;
use tranched::handover::Handovers;
use tranched::patience::Patience;
use tranched::rest::Access;
use tranched::web::Web;

use crate::fake_machine::{FakeMachine, forgetful};

/// No test waits longer than this for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A daemon that serves.
pub(crate) struct Served {
    pub(crate) engine: Arc<Engine>,
    pub(crate) machine: FakeMachine,
    bell: Bell,
    dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), DaemonError>>,
}

/// What the daemon answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The status and the code of a problem, which must be whole: typed, with a message, a hint and its findings.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, String) {
        let media_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        assert_eq!(media_type, Some("application/problem+json"), "{}", self.text);
        let problem = self.json();
        let code = problem["code"].as_str().expect("a code").to_owned();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["type"], format!("urn:tranche:{code}"));
        for text in ["title", "detail", "hint"] {
            assert!(problem[text].as_str().is_some_and(|text| text.len() > 3), "{text}: {}", self.text);
        }
        assert!(!problem["findings"].as_array().expect("findings").is_empty());
        (self.status, code)
    }
}

impl Served {
    /// Serves a machine, and waits until it was looked at.
    pub(crate) async fn start(machine: Machine) -> Self {
        Self::named("node1", machine, None).await
    }

    /// The same under another name, with its console at an address on loopback.
    pub(crate) async fn named(name: &str, machine: Machine, console: Option<String>) -> Self {
        let machine = FakeMachine::new(name.parse().unwrap(), machine);
        let host = machine.host();
        let served = Self::at(name, (machine, host), Patience::default(), console);
        served.until("the host reports", |view| !view.inventory.is_empty()).await;
        served
    }

    /// Serves a machine as this host shows it, and waits for nothing.
    pub(crate) fn over(machine: FakeMachine, host: Arc<dyn Host>, patience: Patience) -> Self {
        Self::at("node1", (machine, host), patience, None)
    }

    fn at(
        name: &str,
        (machine, host): (FakeMachine, Arc<dyn Host>),
        patience: Patience,
        console: Option<String>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixListener::bind(dir.path().join("s")).unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let handovers = Handovers::new(Arc::clone(&store), Vec::new());
        let url = console.as_ref().map(|address| format!("https://{address}"));
        let (repository, access) = (Repository::new(Arc::clone(&store)), Access::new(store, url));
        let history_of = Arc::clone(&host);
        let engine = Arc::new(Engine::open(name.parse().unwrap(), host, repository, 2).unwrap());
        // The tick is so long that a test hangs if nothing but the tick would wake the loop.
        let tick = Duration::from_secs(3600);
        let (bell, gate) = (Bell::default(), Gate::default());
        let rung = bell.clone();
        let cluster = Cluster::nowhere(name.parse().unwrap());
        let engine_of = Arc::clone(&engine);
        let history = forgetful(name, history_of);
        let web = console.map(|listen| Web {
            config: ConsoleConfig { listen, ..ConsoleConfig::default() },
            state_dir: dir.path().to_str().unwrap().into(),
            host: name.parse().unwrap(),
            cluster: cluster.clone(),
            shown: handovers.shown.clone(),
        });
        let daemon = Daemon {
            engine: engine_of,
            bell,
            gate,
            tick,
            cluster,
            member: None,
            access,
            history,
            handovers,
            web,
            patience,
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(daemon.serve(socket, async {
            let _ = stopped.await;
        }));
        Self { engine, machine, bell: rung, dir, stop, task }
    }

    /// Wakes its loop, after a wish that did not come by its socket.
    pub(crate) fn ring(&self) {
        self.bell.ring();
    }

    /// A connection to its socket.
    pub(crate) async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("s")).await.unwrap()
    }

    /// Tells the daemon to stop and waits for its end.
    pub(crate) async fn stop(self) -> Result<(), DaemonError> {
        self.stop.send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.task).await.expect("it stops").unwrap()
    }

    /// Waits for something to be so.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&View) -> bool) {
        let mut views = self.engine.watch();
        let waited = tokio::time::timeout(DEADLINE, views.wait_for(|view| is_so(view))).await;
        if waited.is_err() {
            panic!("it never happens that {what}: {:#?}", self.engine.view());
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, Some(body.to_string().into())).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, Some(body.to_string().into())).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body.to_string().into())).await
    }

    /// Sends a body of any bytes, as JSON.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Answer {
        self.send_as(method, path, body, Some("application/json")).await
    }

    pub(crate) async fn send_as(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        media_type: Option<&'static str>,
    ) -> Answer {
        let response = self.exchange(method, path, body, media_type).await;
        let (head, body) = response.into_parts();
        let bytes =
            tokio::time::timeout(DEADLINE, body.collect()).await.expect("an answer").unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: head.status.as_u16(), headers: head.headers, text }
    }

    /// Asks and leaves the answer's body to be read.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        media_type: Option<&'static str>,
    ) -> Response<Incoming> {
        let stream = self.connect().await;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        let request = request.body(Full::new(body.unwrap_or_default())).unwrap();
        tokio::time::timeout(DEADLINE, sender.send_request(request)).await.expect("an answer").unwrap()
    }
}
