//! Three daemons that are members of one cluster: real processes, real etcd, TLS on loopback, fake GPUs.

use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{command, request};

/// Nothing that is waited for takes longer.
const DEADLINE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// A machine: a directory and ports, and a daemon while it is on.
struct Machine {
    name: String,
    dir: tempfile::TempDir,
    /// What the service manager is told.
    manager: UnixDatagram,
    daemon: Option<Child>,
}

impl Machine {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, client, peer] = listeners.map(|listener| listener.local_addr().unwrap().port());
        let at = |name: &str| dir.path().join(name);
        let settings = format!(
            "host = {name:?}\nstate_dir = {:?}\nsocket = {:?}\nsocket_group = \"no-such-group\"\ntick_s = 1\n\
             [cluster]\naddress = \"127.0.0.1\"\nport = {port}\n\
             [etcd]\nrun = \"child\"\nclient_port = {client}\npeer_port = {peer}\n",
            at("state"),
            at("s")
        );
        std::fs::write(at("tranched.toml"), settings).unwrap();
        let manager = UnixDatagram::bind(at("notify")).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut machine = Self { name: name.to_owned(), dir, manager, daemon: None };
        machine.turn_on();
        machine
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn turn_on(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tranched"));
        command.arg("--config").arg(self.dir.path().join("tranched.toml")).args(["--fake-host", "gpus"]);
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        self.daemon = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        until(&format!("{} answers", self.name), || UnixStream::connect(self.socket()).ok());
    }

    /// What its service manager was told since this was last asked.
    fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let heard = std::iter::from_fn(|| {
            let len = self.manager.recv(&mut message).ok()?;
            Some(String::from_utf8_lossy(&message[..len]).into_owned())
        });
        heard.collect()
    }

    /// Cuts its power: its GPUs, VMs and member of the store are gone with it.
    fn cut_power(&mut self) {
        let mut daemon = self.daemon.take().expect("it is on");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        request(&self.socket(), method, path, body)
    }

    fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Has something done and waits until it is.
    fn does(&self, method: &str, path: &str, body: &Value) {
        let (status, accepted) = self.ask(method, path, Some(body));
        assert_eq!(status, 202, "{path}: {accepted}");
        let id = accepted["operation"]["id"].as_str().expect("an operation").to_owned();
        until(path, || {
            let operation = self.get(&format!("/v1/operations/{id}"));
            assert_ne!(operation["state"], "failed", "{operation}");
            (operation["state"] == "succeeded").then_some(())
        });
    }

    fn runs(&self, args: &[&str]) -> String {
        let output = Command::new(command()).arg("--socket").arg(self.socket()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The VMs that run, each with its host.
    fn running(&self) -> Vec<(String, String)> {
        let vms = self.get("/v1/vms");
        let running = vms.as_array().unwrap().iter().filter(|vm| vm["state"] == "running");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        running.map(|vm| (text(&vm["name"]), text(&vm["host"]))).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.cut_power();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let own: Vec<&str> = log.lines().filter(|line| line.trim_start().contains("tranche")).collect();
            eprintln!("{}:\n{}", self.name, own[own.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Waits for something.
#[track_caller]
fn until<T>(what: &str, is_so: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = is_so() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "it never happens: {what}");
        std::thread::sleep(LOOK);
    }
}

fn cluster() -> [Machine; 3] {
    let machines = ["node1", "node2", "node3"].map(Machine::new);
    machines[0].runs(&["cluster", "init", "--name", "lab"]);
    for machine in &machines[1..] {
        let token = machines[0].runs(&["cluster", "token", "create"]);
        let token = token.split_whitespace().find(|word| word.starts_with("TRANCHE1.")).expect("a token");
        machine.runs(&["cluster", "join", token]);
    }
    until("all have reported", || {
        let hosts = machines[2].get("/v1/hosts");
        (hosts.as_array().unwrap().len() == 3).then_some(())
    });
    machines
}

#[test]
fn any_host_answers_for_all_a_dead_hosts_vms_start_elsewhere_and_it_comes_back_empty() {
    let mut machines = cluster();
    for machine in &machines {
        let told = machine.told();
        assert!(told.iter().any(|told| told.contains("READY=1")), "{told:?}");
        assert!(
            told.iter().all(|told| !told.contains("STOPPING=1")),
            "a daemon that replaces itself does not stop, or it would be killed: {told:?}"
        );
    }
    for number in 1..=3 {
        let path = format!("/v1/gpus/node{number}/0000:10:00.0/mode");
        machines[1].does("PUT", &path, &json!({"mode": "partitioned", "count": 2}));
    }
    for name in ["a", "b", "c"] {
        let hardware = json!({"vcpus": 1, "memory_mib": 64});
        let vm = json!({"name": name, "hardware": hardware, "request": {"kind": "partition"}});
        machines[2].does("POST", "/v1/vms", &vm);
        machines[1].does("POST", &format!("/v1/vms/{name}/start"), &json!({}));
    }
    assert!(machines.iter().all(|machine| machine.running().len() == 3));

    // A drain that is asked for at one host empties another.
    let (_, first) = machines[0].running()[0].clone();
    machines[2].does("POST", &format!("/v1/hosts/{first}/drain"), &json!({}));
    until("all run elsewhere", || {
        let running = machines[0].running();
        (running.len() == 3 && running.iter().all(|(_, host)| *host != first)).then_some(())
    });
    machines[2].does("POST", &format!("/v1/hosts/{first}/undrain"), &json!({}));

    // Power cut of a host with VMs. It has neither watchdog nor agent, so somebody has to say that it is down.
    let (_, victim) = machines[0].running()[0].clone();
    let at = machines.iter().position(|machine| machine.name == victim).unwrap();
    machines[at].cut_power();
    let other = &machines[(at + 1) % 3];
    until("somebody who leads notices", || {
        let (status, host) = other.ask("GET", &format!("/v1/hosts/{victim}"), None);
        (status == 200 && host["member"]["standing"] == "lost").then_some(())
    });
    assert!(
        other.running().iter().any(|(_, host)| *host == victim),
        "on nobody's word, they are started nowhere"
    );
    other.does("POST", &format!("/v1/hosts/{victim}/confirm-down"), &json!({}));
    until("they run elsewhere", || {
        let running = other.running();
        (running.len() == 3 && running.iter().all(|(_, host)| *host != victim)).then_some(())
    });

    machines[at].turn_on();
    let back = &machines[at];
    until("it is up again", || {
        let (status, host) = back.ask("GET", &format!("/v1/hosts/{victim}"), None);
        (status == 200 && host["member"]["standing"] == "up" && host["vms"] == 0).then_some(())
    });
    let metrics: Vec<u32> = machines.iter().map(leads).collect();
    assert_eq!(metrics.iter().sum::<u32>(), 1, "one leads: {metrics:?}");
}

fn leads(machine: &Machine) -> u32 {
    let (status, text) = machine.ask("GET", "/metrics", None);
    assert_eq!(status, 200);
    let text = text.as_str().unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("tranche_leads ")).expect("it is told");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
