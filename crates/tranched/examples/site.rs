//! A whole site in one process, to be looked at: `scripts/bench console`. The daemon of the first host is the real one, console and
//! all; the other hosts are fake ones (the real code of the host over a fake kernel and a fake hypervisor), and the store is memory.
//! It says when every VM runs, and serves until it is killed. It prints where and judges nothing.
//!
//! `site DIR PORT [HOSTS]`. Each host has 8 GPUs of 16 partitions and 50 VMs.

mod made_up;

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use tranche_core::inventory::DomainState;
use tranche_core::liveness::MemberSays;
use tranche_core::name::{HostName, VmName};
use tranche_core::spec::Timers;
use tranche_engine::cluster::{Heart, Member as Fellow};
use tranche_host::Host as _;
use tranche_host::fake::Machine;
use tranche_host::fence::Places;
use tranche_store::{MemoryStore, Repository, Saved, State, Store, Terms};
use tranched::bell::Bell;
use tranched::clock;
use tranched::cluster::Cluster;
use tranched::config::{Config, ConsoleConfig};
use tranched::daemon::Daemon;
use tranched::engine::Engine;
use tranched::gate::Gate;
use tranched::handover::Handovers;
use tranched::history::History;
use tranched::member::guard::Guard;
use tranched::member::vigil::Times;
use tranched::member::{Agents, Member, Parts, Voices};
use tranched::patience::Patience;
use tranched::rest::Access;
use tranched::web::Web;

const HOSTS: usize = 100;
const GPUS: u8 = 8;
const PARTITIONS: u16 = 16;
const VMS_PER_HOST: usize = 50;
const WORKERS: usize = 4;
/// What this process may take until everything runs.
const PATIENCE: Duration = Duration::from_secs(900);
/// A few threads are a hundred hosts here.
const TIMERS: Timers = Timers {
    heartbeat_ms: 10_000,
    lost_ms: 300_000,
    reset_ms: 400_000,
    restart_ms: 500_000,
    election_ms: 5_000,
};
/// As the daemon's own.
const TICK: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(500);

/// The store is this process's own: nobody asks its members.
#[derive(Debug)]
struct Nobody;

impl Voices for Nobody {
    fn ask(&self, _within: Duration) -> Vec<MemberSays> {
        Vec::new()
    }
}

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::ERROR).init();
    let mut args = std::env::args().skip(1);
    let dir = Utf8PathBuf::from(args.next().expect("a directory"));
    let port: u16 = args.next().expect("a port").parse().expect("a port is a number");
    let hosts = args.next().map_or(HOSTS, |count| count.parse().expect("a number of hosts"));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    write_wishes(&Repository::new(Arc::clone(&store)), hosts);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads");
    let daemon = daemon(&store, &dir, port);
    let engine = Arc::clone(&daemon.engine);
    let settled = Arc::new(AtomicBool::new(false));
    for others in (1..hosts).collect::<Vec<_>>().chunks(hosts.div_ceil(WORKERS).max(1)) {
        let fellows: Vec<_> = others.iter().map(|number| fellow(*number, &store)).collect();
        let settled = Arc::clone(&settled);
        thread::spawn(move || live(&fellows, &settled));
    }
    thread::spawn(move || {
        let began = Instant::now();
        let running = || {
            let view = engine.view();
            let domains =
                view.inventory.values().filter_map(|seen| seen.domains()).flat_map(BTreeMap::values);
            domains.filter(|domain| domain.state == DomainState::Running).count()
        };
        while running() < hosts * VMS_PER_HOST {
            assert!(began.elapsed() < PATIENCE, "they do not all run: {} do", running());
            thread::sleep(LOOK);
        }
        settled.store(true, Ordering::SeqCst);
        println!(
            "{hosts} hosts, {} VMs: all run after {} s",
            hosts * VMS_PER_HOST,
            began.elapsed().as_secs()
        );
    });
    let socket = UnixListener::bind(dir.join("socket")).expect("a socket");
    runtime.block_on(daemon.serve(socket, std::future::pending())).expect("it serves");
}

/// The first host's daemon, which leads.
fn daemon(store: &Arc<dyn Store>, dir: &Utf8PathBuf, port: u16) -> Daemon {
    let (name, cluster) = (host_name(0), Cluster::nowhere(host_name(0)));
    let repository = Repository::new(Arc::clone(store));
    let host = Arc::new(made_up::host(&name, machine()));
    // Nothing is written, and memory has the last day.
    let mut settings = Config { state_dir: dir.clone(), ..Config::default() };
    settings.history.days = 0;
    let history = History::new(&settings, name.clone(), host.clone(), None);
    let engine = Engine::open_as_member(name.clone(), host.clone(), repository, WORKERS).expect("it is read");
    let agents = Arc::new(Agents::installed(Places::default(), Bell::default()));
    let bell = Bell::default();
    let member = Member::new(Parts {
        name: name.clone(),
        host,
        store: Arc::clone(store),
        brisk_store: Arc::clone(store),
        desk: engine.desk(),
        fencer: agents.clone(),
        tester: agents,
        voices: Arc::new(Nobody),
        may_lead: Arc::new(|| true),
        wake_host: bell.clone(),
        workers: WORKERS,
        libvirt: Vec::new(),
        times: Arc::new(Times::of(dir)),
    });
    let listen = format!("127.0.0.1:{port}");
    let config = ConsoleConfig { listen, ..ConsoleConfig::default() };
    let access = Access::new(Arc::clone(store), config.url("127.0.0.1"));
    let handovers = Handovers::new(Arc::clone(store), Vec::new());
    let shown = handovers.shown.clone();
    Daemon {
        engine: Arc::new(engine),
        bell,
        gate: Gate::default(),
        tick: TICK,
        web: Some(Web { config, state_dir: dir.clone(), host: name, cluster: cluster.clone(), shown }),
        handovers,
        cluster,
        member: Some((member, Guard::none())),
        access,
        history,
        patience: Patience::default(),
    }
}

/// Another host's loops.
fn fellow(number: usize, store: &Arc<dyn Store>) -> (Arc<Heart>, Fellow) {
    let (name, repository) = (host_name(number), Repository::new(Arc::clone(store)));
    let host = Arc::new(made_up::host(&name, machine()));
    let heart =
        Heart::new(name.clone(), host.boot_id(), env!("CARGO_PKG_VERSION").to_owned(), repository.clone());
    let heart = Arc::new(heart);
    (Arc::clone(&heart), Fellow::new(name, host, repository, heart, 1))
}

/// Lets hosts live, one after the other. With these times nobody is missed while many are looked at. In life each has a machine of its
/// own, so once they have settled they look no more often than they would there.
fn live(fellows: &[(Arc<Heart>, Fellow)], settled: &AtomicBool) {
    let started = Instant::now();
    let now_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    loop {
        for (heart, fellow) in fellows {
            let _ = heart.beat(&TIMERS, &now_ms, clock::now());
            let _ = fellow.pass(clock::now());
        }
        thread::sleep(if settled.load(Ordering::SeqCst) { TICK } else { LOOK });
    }
}

fn host_name(number: usize) -> HostName {
    format!("node{number:03}").parse().expect("a name")
}

fn vm_name(number: usize) -> VmName {
    format!("desk-{number:04}").parse().expect("a name")
}

fn machine() -> Machine {
    Machine::gpus(GPUS, PARTITIONS)
}

/// What people asked for: every GPU split, every VM on.
fn write_wishes(repository: &Repository, hosts: usize) {
    let (names, vms) = ((0..hosts).map(host_name), (0..hosts * VMS_PER_HOST).map(vm_name));
    let model = made_up::host(&host_name(0), machine());
    let mut spec = made_up::wishes(&model, PARTITIONS, names, vms);
    spec.policy.failover.timers = TIMERS;
    let loaded = repository.load().expect("it is empty");
    let next = State { spec: spec.into(), ..State::default() };
    let saved = repository.commit(loaded, next, &Terms::default()).expect("it is written");
    assert!(matches!(saved, Saved::Committed(_)), "nobody else writes yet");
}
