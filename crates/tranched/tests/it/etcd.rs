//! Real etcd members on this machine, in directories that go with them.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tranche_store::{EtcdSettings, EtcdStore, KeyRange, Store as _};

use crate::ports::Ports;

const DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Members that end with their test.
#[derive(Debug)]
pub(crate) struct Members {
    processes: Vec<Child>,
    endpoints: Vec<String>,
    _dir: TempDir,
    _ports: Ports,
}

impl Members {
    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(crate) fn start(count: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let ports = Ports::claim(count * 2);
        let urls: Vec<String> = ports.numbers.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let (clients, peers) = urls.split_at(count);
        let all: Vec<String> =
            peers.iter().enumerate().map(|(number, peer)| format!("m{number}={peer}")).collect();
        let member = |(number, (client, peer)): (usize, (&String, &String))| {
            Command::new("etcd")
                .args(["--name", &format!("m{number}"), "--initial-cluster", &all.join(",")])
                .args(["--data-dir", dir.path().join(number.to_string()).to_str().unwrap()])
                .args(["--log-level", "error", "--logger", "zap"])
                .args(["--listen-client-urls", client, "--advertise-client-urls", client])
                .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
                .args(["--heartbeat-interval", "200", "--election-timeout", "2000"])
                .stdin(Stdio::null())
                .spawn()
                .expect("etcd can be started: apt install etcd-server")
        };
        let processes = clients.iter().zip(peers).enumerate().map(member).collect();
        let mut members = Self { processes, endpoints: clients.to_vec(), _dir: dir, _ports: ports };
        members.answer();
        members
    }

    /// Ends one of them for good.
    #[allow(dead_code, reason = "benches start members, and end none")]
    pub(crate) fn end(&mut self, number: usize) {
        drop(self.processes[number].kill());
        drop(self.processes[number].wait());
    }

    fn answer(&mut self) {
        let began = Instant::now();
        let settings = EtcdSettings {
            endpoints: self.endpoints.clone(),
            tls: None,
            timeout_ms: 5_000,
            election_ms: 1_000,
        };
        let store = EtcdStore::connect(&settings).unwrap();
        while store.range(&KeyRange::ALL).is_err() {
            let has_ended = self.processes.iter_mut().any(|process| process.try_wait().unwrap().is_some());
            assert!(!has_ended, "etcd ends at once; its words are above");
            assert!(began.elapsed() < DEADLINE, "etcd does not answer");
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that is over already is over.
            drop(process.kill());
            drop(process.wait());
        }
    }
}
