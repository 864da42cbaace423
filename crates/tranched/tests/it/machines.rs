//! Three machines that are members of one cluster: real processes, real etcd, TLS on loopback, fake GPUs. A machine's power is
//! its daemon's process, and whatever is cut by a fence agent is cut by a real program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use serde_json::{Value, json};

use crate::ports::Ports;
use crate::process::{command, request};

/// Nothing that is waited for takes longer.
const DEADLINE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// What cuts a machine's power, or asks for it to be turned on and waits for that, and writes down that it did.
const AGENT: &str = "fence_test";
const AGENT_SCRIPT: &str = r#"#!/bin/sh
while read -r line; do
  case $line in action=*) action=${line#action=} ;; plug=*) plug=${line#plug=} ;; esac
done
pid=$(cat SITE/"$plug" 2>/dev/null)
is_on() { grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$pid/status"; }
case $action in
  metadata)
    echo '<resource-agent name="fence_test"><parameters>'
    echo '<parameter name="action"><content type="string"/></parameter>'
    echo '<parameter name="plug" required="1"><content type="string"/></parameter></parameters>'
    echo '<actions><action name="on"/><action name="off"/><action name="status"/><action name="monitor"/></actions></resource-agent>' ;;
  off) echo "$plug" >>SITE/cut && ! is_on || kill -KILL "$pid" ;;
  on)
    echo "$plug" >>SITE/turned-on
    for _ in $(seq 300); do is_on && exit; sleep 0.1; pid=$(cat SITE/"$plug"); done
    exit 1 ;;
  monitor) ;;
  *) is_on || exit 2 ;;
esac
"#;

/// A machine: a directory and ports, and a daemon while it is on.
pub(crate) struct Machine {
    pub(crate) name: String,
    dir: tempfile::TempDir,
    /// Where the machines of a cluster stand: their switches, and who uses these.
    site: Arc<tempfile::TempDir>,
    /// What the service manager is told.
    manager: UnixDatagram,
    daemon: Option<Child>,
    _ports: Ports,
}

impl Machine {
    /// A machine with these further settings: of `[etcd]`, and of whole sections behind it.
    fn new(name: &str, site: Arc<tempfile::TempDir>, etcd: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = Ports::claim(3);
        let [port, client, peer] = ports.numbers[..] else { unreachable!("as many as were claimed") };
        let at = |name: &str| dir.path().join(name);
        let settings = format!(
            "host = {name:?}\nstate_dir = {:?}\nsocket = {:?}\nsocket_group = \"no-such-group\"\ntick_s = 1\n\
             [cluster]\naddress = \"127.0.0.1\"\nport = {port}\nfence_agent_dirs = [{:?}]\n\
             [console]\nlisten = \"\"\n[etcd]\nrun = \"child\"\nclient_port = {client}\npeer_port = {peer}\n{etcd}",
            at("state"),
            at("s"),
            site.path()
        );
        fs::write(at("tranched.toml"), settings).unwrap();
        let manager = UnixDatagram::bind(at("notify")).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut machine = Self { name: name.to_owned(), dir, site, manager, daemon: None, _ports: ports };
        machine.turn_on();
        machine
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn turn_on(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tranched"));
        command.arg("--config").arg(self.dir.path().join("tranched.toml")).args(["--fake-host", "gpus"]);
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        fs::write(self.site.path().join(&self.name), daemon.id().to_string()).unwrap();
        self.daemon = Some(daemon);
        until(&format!("{} answers", self.name), || UnixStream::connect(self.socket()).ok());
    }

    /// What its service manager was told since this was last asked.
    pub(crate) fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let heard = std::iter::from_fn(|| {
            let len = self.manager.recv(&mut message).ok()?;
            Some(String::from_utf8_lossy(&message[..len]).into_owned())
        });
        heard.collect()
    }

    /// The process of its member of the store, while there is one.
    pub(crate) fn etcd(&self) -> Option<Pid> {
        let daemon = self.daemon.as_ref()?.id().to_string();
        fs::read_dir("/proc").unwrap().find_map(|entry| {
            let path = entry.ok()?.path();
            // pid (name) state parent …
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let (head, tail) = stat.split_once(") ")?;
            let is_it = head.ends_with("(etcd") && tail.split(' ').nth(1) == Some(&daemon);
            is_it.then(|| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?)).flatten()
        })
    }

    /// Kills its member of the store, which the daemon starts again.
    pub(crate) fn kill_etcd(&self) {
        kill_process(self.etcd().expect("its etcd runs"), Signal::KILL).unwrap();
    }

    /// Whether it leads the cluster.
    pub(crate) fn leads(&self) -> bool {
        self.measured("tranche_leads") == Some(1)
    }

    /// What it tells of a metric, with these labels; nothing if it does not.
    pub(crate) fn measured(&self, metric: &str) -> Option<u64> {
        let (status, text) = self.ask("GET", "/metrics", None);
        assert_eq!(status, 200);
        let lines = text.as_str().unwrap_or_default().lines();
        let mut told = lines.filter_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        told.next().map(|value| value.parse().expect("a whole number"))
    }

    /// Whose power the agents of all machines were told to cut.
    pub(crate) fn cut(&self) -> Vec<String> {
        let log = fs::read_to_string(self.site.path().join("cut")).unwrap_or_default();
        log.lines().map(ToOwned::to_owned).collect()
    }

    /// Which machines the agents were told to turn on.
    pub(crate) fn turned_on(&self) -> Vec<String> {
        let log = fs::read_to_string(self.site.path().join("turned-on")).unwrap_or_default();
        log.lines().map(ToOwned::to_owned).collect()
    }

    /// Cuts its power: its GPUs, VMs and member of the store are gone with it.
    pub(crate) fn cut_power(&mut self) {
        let etcd = self.etcd();
        let mut daemon = self.daemon.take().expect("it is on");
        // An agent may have been faster.
        let _ = daemon.kill();
        daemon.wait().unwrap();
        // It is told to end with the daemon, and would take its time.
        if let Some(etcd) = etcd {
            let _ = kill_process(etcd, Signal::KILL);
            until("its etcd is gone", || test_kill_process(etcd).is_err().then_some(()));
        }
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        request(&self.socket(), method, path, body)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Has something done and waits until it is.
    pub(crate) fn does(&self, method: &str, path: &str, body: &Value) {
        let (status, accepted) = self.ask(method, path, Some(body));
        assert_eq!(status, 202, "{path}: {accepted}");
        let id = accepted["operation"]["id"].as_str().expect("an operation").to_owned();
        until(path, || {
            let operation = self.get(&format!("/v1/operations/{id}"));
            assert_ne!(operation["state"], "failed", "{operation}");
            (operation["state"] == "succeeded").then_some(())
        });
    }

    pub(crate) fn runs(&self, args: &[&str]) -> String {
        let output = Command::new(command()).arg("--socket").arg(self.socket()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The VMs that run, each with its host.
    pub(crate) fn running(&self) -> Vec<(String, String)> {
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
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let own: Vec<&str> = log.lines().filter(|line| line.trim_start().contains("tranche")).collect();
            eprintln!("{}:\n{}", self.name, own[own.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Waits for something.
#[track_caller]
pub(crate) fn until<T>(what: &str, is_so: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = is_so() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "it never happens: {what}");
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn cluster() -> [Machine; 3] {
    cluster_with("")
}

/// The same, whose settings end with these.
pub(crate) fn cluster_with(more: &str) -> [Machine; 3] {
    let site = tempfile::tempdir().unwrap();
    let agent = site.path().join(AGENT);
    fs::write(&agent, AGENT_SCRIPT.replace("SITE", site.path().to_str().unwrap())).unwrap();
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
    let site = Arc::new(site);
    let machines = ["node1", "node2", "node3"].map(|name| Machine::new(name, Arc::clone(&site), more));
    become_one(&machines);
    machines
}

/// Two machines, whose store somebody else runs.
pub(crate) fn cluster_on(endpoints: &[String]) -> [Machine; 2] {
    let site = Arc::new(tempfile::tempdir().unwrap());
    let etcd = format!("endpoints = {endpoints:?}\n");
    let machines = ["node1", "node2"].map(|name| Machine::new(name, Arc::clone(&site), &etcd));
    become_one(&machines);
    machines
}

fn become_one(machines: &[Machine]) {
    machines[0].runs(&["cluster", "init", "--name", "lab"]);
    for machine in &machines[1..] {
        let token = machines[0].runs(&["cluster", "token", "create"]);
        let token = token.split_whitespace().find(|word| word.starts_with("TRANCHE1.")).expect("a token");
        machine.runs(&["cluster", "join", token]);
    }
    until("all have reported", || {
        let hosts = machines.last()?.get("/v1/hosts");
        (hosts.as_array().unwrap().len() == machines.len()).then_some(())
    });
}

/// Any machine may cut the power of any other.
pub(crate) fn arm_agents(machines: &[Machine; 3]) {
    for machine in machines {
        let plug = format!("plug={}", machine.name);
        let agent = ["--fence-agent", AGENT, "--fence-option", &plug];
        machines[0].runs(&[&["-q", "host", "set", &machine.name], &agent[..]].concat());
    }
}

/// Splits a GPU of each machine, and runs three VMs wherever there is room.
pub(crate) fn run_vms(machines: &[Machine; 3]) {
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
}
