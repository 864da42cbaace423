//! A real etcd for a test: one member on this machine, in a directory that goes with it.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use etcd_client::{Client, Error};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tranche_store::{EtcdSettings, EtcdStore, KeyRange, Store};

use crate::subject::Subject;

/// How long the server may take to answer, and a lease to end that is due.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at a process that nobody can be told of.
const LOOK: Duration = Duration::from_millis(20);
/// Somebody else may take a port between its choice and its use.
const STARTS_MAX: u32 = 5;

/// A server, and a store in it.
#[derive(Debug)]
pub(crate) struct Etcd {
    store: EtcdStore,
    server: Server,
}

pub(crate) fn etcd() -> Etcd {
    let server = Server::start();
    Etcd { store: server.store(), server }
}

impl Subject for Etcd {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    /// A server has a clock of its own: this takes as long as it says, and then until etcd has done what was due.
    fn let_pass(&self, ms: u64) {
        let due = self.server.leases_due(ms);
        thread::sleep(Duration::from_millis(ms));
        let began = Instant::now();
        while self.server.leases().iter().any(|lease| due.contains(lease)) {
            assert!(began.elapsed() < DEADLINE, "etcd keeps a lease that is over");
            thread::sleep(LOOK);
        }
    }
}

/// A process that ends with its test.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    endpoint: String,
    runtime: Runtime,
    _dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        (0..STARTS_MAX).find_map(|_| Self::try_start()).expect("etcd ends at once; its words are above")
    }

    fn try_start() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let [client, peer] = free_ports().map(|port| format!("http://127.0.0.1:{port}"));
        let process = Command::new("etcd")
            .args(["--data-dir", dir.path().to_str().unwrap(), "--log-level", "error", "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // A lease lives for 1.5 elections at least: 3 s, so that a busy machine is not too late for it.
            .args(["--heartbeat-interval", "200", "--election-timeout", "2000"])
            .stdin(Stdio::null())
            .spawn()
            .expect("etcd can be started: apt install etcd-server");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut server = Self { process, endpoint: client, runtime, _dir: dir };
        server.answers().then_some(server)
    }

    fn answers(&mut self) -> bool {
        let (store, began) = (self.store(), Instant::now());
        while store.range(&KeyRange::ALL).is_err() {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(began.elapsed() < DEADLINE, "etcd does not answer");
            thread::sleep(LOOK);
        }
        true
    }

    pub(crate) fn store(&self) -> EtcdStore {
        let endpoints = vec![self.endpoint.clone()];
        EtcdStore::connect(&EtcdSettings { endpoints, tls: None, timeout_ms: 20_000, election_ms: 1_000 })
            .unwrap()
    }

    fn leases(&self) -> Vec<i64> {
        let listed = self.runtime.block_on(async {
            let mut client = Client::connect([&self.endpoint], None).await?;
            Ok::<_, Error>(client.leases().await?.leases().iter().map(|lease| lease.id()).collect())
        });
        listed.expect("etcd lists its leases")
    }

    /// The leases that are over in so many milliseconds.
    fn leases_due(&self, ms: u64) -> Vec<i64> {
        let is_due = |lease: &i64| {
            let left = self.runtime.block_on(async {
                let mut client = Client::connect([&self.endpoint], None).await?;
                client.lease_time_to_live(*lease, None).await
            });
            // Seconds, rounded down.
            u64::try_from(left.expect("etcd knows its leases").ttl()).is_ok_and(|left_s| left_s * 1_000 < ms)
        };
        self.leases().into_iter().filter(is_due).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that is over already is over.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
