//! Hosts on their way into a cluster, out of it, and killed at every step: real daemons' parts, real etcd, TLS on loopback.

mod going;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use tokio::runtime::Runtime;
use tranche_core::change::Arrival;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::identity::GpuIdentity;
use tranche_core::membership::Role;
use tranche_core::name::{GpuKey, HostName, PciIds, Timestamp, VmId, VmName};
use tranche_core::plan::{GpuPlan, VmGoal, VmPlan};
use tranche_core::spec::{
    Availability, Firmware, GpuMode, GpuSpec, Request, Run, VmHardware, VmSource, VmSpec,
};
use tranche_store::{
    EtcdStore, Key, MemoryStore, MonotonicClock, Repository, Saved, Settings, SqliteStore, State, Store,
    Terms,
};
use tranched::clock;
use tranched::cluster::Cluster;
use tranched::cluster::book::{self, Book, Entering, How, Leaving, Membership, Seat, Standing, Step};
use tranched::cluster::carry::{self, Backup, Records};
use tranched::cluster::door::Door;
use tranched::cluster::parting::Removal;
use tranched::cluster::registry::Registry;
use tranched::cluster::seat::Running;
use tranched::cluster::walk::{self, Ground};
use tranched::config::{Config, EtcdRun};
use tranched::patience::Patience;

use crate::ports::Ports;

/// A machine: a directory, ports, and whatever runs there.
pub(crate) struct Machine {
    _dir: tempfile::TempDir,
    _ports: Ports,
    pub(crate) config: Config,
    pub(crate) book: Book,
    pub(crate) running: Option<Running>,
    /// Where it was killed already.
    killed: Mutex<BTreeSet<String>>,
}

impl Machine {
    pub(crate) fn new(host: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let mut config = Config { host: Some(host.parse().unwrap()), state_dir, ..Config::default() };
        let ports = Ports::claim(3);
        [config.cluster.port, config.etcd.client_port, config.etcd.peer_port] =
            ports.numbers[..].try_into().unwrap();
        config.cluster.address = "127.0.0.1".to_owned();
        config.console.listen = String::new();
        config.etcd.run = EtcdRun::Child;
        let book = Book::new(&config.state_dir);
        Self { _dir: dir, _ports: ports, config, book, running: None, killed: Mutex::default() }
    }

    /// Its own store, which holds so many VMs, and a GPU.
    fn with_vms(self, count: usize) -> Self {
        let host: HostName = self.host().parse().unwrap();
        self.with(|state| {
            for index in 0..count {
                let (name, wish) = vm(&host, index);
                let (goal, id) = (VmGoal::Stop, wish.id);
                let planned = VmPlan::new(host.clone(), id, goal);
                state.plan.vms.insert(name.clone(), planned);
                state.spec.vms.insert(name, wish);
            }
            let (gpu, wish, planned) = gpu(&host, 4);
            state.spec.gpus.insert(gpu.clone(), wish);
            state.plan.gpus.insert(gpu, planned);
        })
    }

    /// Its own store, which holds that.
    fn with(self, change: impl FnOnce(&mut State)) -> Self {
        let store = Arc::new(MemoryStore::default());
        store_state(store.clone(), change);
        carry::bring_all(&carry::records(store.as_ref()).unwrap(), &self.own()).unwrap();
        self
    }

    /// What it would bring into a cluster, by its own store.
    fn brings(&self) -> Arrival {
        let loaded = Repository::new(Arc::new(self.own())).load().unwrap();
        let host = self.config.host.clone().unwrap();
        Arrival::of(&loaded.state.spec, &loaded.state.inventory, &host)
    }

    fn host(&self) -> String {
        self.config.host.as_ref().unwrap().to_string()
    }

    pub(crate) fn own(&self) -> SqliteStore {
        let settings = Settings::new(self.config.state_dir.clone());
        SqliteStore::open(&settings, Arc::new(MonotonicClock::default())).unwrap()
    }

    pub(crate) fn sets_out(&self, how: How) {
        let membership = Membership {
            cluster: "lab".to_owned(),
            host: self.config.host.clone().unwrap(),
            address: "127.0.0.1".to_owned(),
            role: Role::Host,
            since: clock::now(),
            seat: Some(Seat { data: "lab-1".to_owned(), initial_cluster: String::new(), joins: false }),
            endpoints: Vec::new(),
        };
        let entering = Entering { how, step: Step::Planned, membership, stopped: None };
        self.book.write(&Standing::Entering(entering)).unwrap();
    }

    /// Does the next thing on the way, as the daemon's start does.
    pub(crate) fn goes_on(&mut self, tell: &dyn Fn(&str) -> Result<(), Finding>) -> Result<(), Finding> {
        let Config { cluster, etcd, .. } = &self.config;
        let standing = self.book.read().unwrap();
        let is_new = matches!(&standing, Standing::Entering(entering) if entering.step == Step::Planned);
        let brings = is_new.then(|| self.brings());
        let ground = Ground { book: &self.book, cluster, etcd, brings: brings.as_ref(), tell };
        match standing {
            Standing::Entering(entering) if entering.step < Step::Seated => {
                ground.prepare(entering, &mut self.running).map(|_| ())
            }
            Standing::Entering(entering) => {
                walk::start(&self.book, etcd, &entering.membership, &mut self.running)?;
                ground.bring(&entering).map(|_| ())
            }
            Standing::Leaving(leaving) => {
                ground.resign(&leaving.membership)?;
                ground.depart(&leaving, &mut self.running)
            }
            Standing::Member(membership) => {
                ground.put_own_aside(&membership);
                Ok(())
            }
            Standing::Alone => {
                ground.forget_cluster();
                Ok(())
            }
        }
    }

    fn is_under_way(&self) -> bool {
        matches!(self.book.read().unwrap(), Standing::Entering(_) | Standing::Leaving(_))
    }

    /// Goes on to the end.
    pub(crate) fn arrives(&mut self) -> Result<(), Finding> {
        while self.is_under_way() {
            self.goes_on(&|_| Ok(()))?;
        }
        Ok(())
    }

    /// Goes on to the end, killed once at each point on the way. `check` looks at it after each time.
    fn arrives_although_killed(&mut self, check: impl Fn(&Self)) -> usize {
        while self.is_under_way() {
            let killed = std::mem::take(&mut self.killed);
            let book = self.book.clone();
            let died = self.goes_on(&|what| kill_once(&killed, &book, what));
            self.killed = killed;
            // Before its member of the store ends, without which others may be unable to decide or tell anything.
            check(self);
            if let Err(finding) = died {
                assert_eq!(finding.code, Code::Busy, "{finding}");
                // With the daemon, what it ran goes.
                self.running = None;
            }
        }
        // The next start.
        self.goes_on(&|_| Ok(())).unwrap();
        if matches!(self.book.read().unwrap(), Standing::Member(_)) {
            let store = self.store();
            until("the store answers", || store.get(&key("cluster/meta")).is_ok());
        }
        self.killed.lock().unwrap().len()
    }

    pub(crate) fn membership(&self) -> Membership {
        match self.book.read().unwrap() {
            Standing::Member(membership) => membership,
            other => panic!("{} is no member: {other:?}", self.host()),
        }
    }

    /// The cluster's store, as this member reaches it.
    pub(crate) fn store(&mut self) -> EtcdStore {
        let membership = self.membership();
        walk::start(&self.book, &self.config.etcd, &membership, &mut self.running).unwrap();
        let settings = walk::settings(&self.book, &self.config.etcd, &membership.endpoints).unwrap();
        EtcdStore::connect(&settings).unwrap()
    }

    /// Its side of the cluster, with its door open.
    pub(crate) fn opens(&mut self, runtime: &Runtime) -> Cluster {
        self.opens_for(runtime, |_| axum::Router::new())
    }

    /// The same, where members may ask something besides.
    fn opens_for(&mut self, runtime: &Runtime, members: impl FnOnce(&Cluster) -> axum::Router) -> Cluster {
        self.running = None;
        let cluster = Cluster::open(&self.config, self.config.host.clone().unwrap()).unwrap();
        until("the store answers", || cluster.store().unwrap().get(&key("cluster/meta")).is_ok());
        let identity = cluster.identity().unwrap().unwrap();
        let router = tranched::rest::door(cluster.clone(), members(&cluster), Patience::default());
        let service = router.into_make_service_with_connect_info::<tranched::cluster::door::Caller>();
        let port = self.config.cluster.port;
        runtime.block_on(async move {
            let door = Door::open(([127, 0, 0, 1], port).into(), &identity).await.unwrap();
            tokio::spawn(axum::serve(door, service).into_future());
        });
        cluster
    }
}

/// Kills at a point on the way where it did not kill before.
fn kill_once(killed: &Mutex<BTreeSet<String>>, book: &Book, what: &str) -> Result<(), Finding> {
    let step = match book.read().unwrap() {
        Standing::Entering(entering) => format!("{:?}", entering.step),
        other => format!("{other:?}").split('(').next().unwrap_or_default().to_owned(),
    };
    if killed.lock().unwrap().insert(format!("{what} at {step}")) {
        let hint = "it is started again";
        return Err(tranche_core::diagnostics::finding(
            Code::Busy,
            Severity::Error,
            Subject::Installation,
            "killed",
            hint,
        ));
    }
    Ok(())
}

pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed().as_secs() < 240, "it never happens that {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Stores what is changed, as whoever decides for the cluster does.
fn store_state(store: Arc<dyn Store>, change: impl FnOnce(&mut State)) {
    let repository = Repository::new(store);
    let loaded = repository.load().unwrap();
    let mut next = loaded.state.clone();
    change(&mut next);
    let saved = repository.commit(loaded, next, &Terms::default()).unwrap();
    assert!(matches!(saved, Saved::Committed(_)), "{saved:?}");
}

/// A VM that is off.
pub(crate) fn vm(host: &HostName, index: usize) -> (VmName, VmSpec) {
    let of_host = host.as_str().bytes().fold(0u128, |id, byte| (id << 8) + u128::from(byte));
    let hardware = VmHardware {
        vcpus: 1,
        memory_mib: 64,
        disks: Vec::new(),
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: None,
        cloud_init: None,
    };
    let wish = VmSpec {
        id: VmId(uuid::Uuid::from_u128((of_host << 32) + index as u128)),
        source: VmSource::Made(hardware),
        request: Request::None,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: Availability::default(),
        run: Run::Stopped,
        serial: 1,
        relocation: None,
        handover: None,
        created_at: Timestamp(1),
    };
    (format!("{host}-vm-{index}").parse().unwrap(), wish)
}

/// A GPU that is split.
fn gpu(host: &HostName, count: u16) -> (GpuKey, GpuSpec, GpuPlan) {
    let gpu = GpuKey { host: host.clone(), address: "0000:01:00.0".parse().unwrap() };
    let ids = PciIds { vendor: 0x10de, device: 0x25b6, subvendor: 0x10de, subdevice: 0x14a9 };
    let identity = GpuIdentity { ids, unique_id: Some(format!("GPU-{host}")) };
    let mode = GpuMode::Partitioned { count, series: None };
    let wish = GpuSpec { mode: mode.clone(), identity: identity.clone(), reloads: 0 };
    let planned = GpuPlan {
        mode,
        offer: None,
        sizes: Vec::new(),
        was_mixed: false,
        identity,
        host_drivers: BTreeMap::new(),
        autoprobe_was_off: false,
        reloads: 0,
        reload: None,
    };
    (gpu, wish, planned)
}

/// The wishes for GPUs and VMs.
fn names(records: &Records) -> Vec<&str> {
    let wishes = ["spec/gpu/", "spec/vm/"];
    let names = records.keys().map(Key::as_str);
    names.filter(|name| wishes.iter().any(|wish| name.starts_with(wish))).collect()
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_host_that_begins_a_cluster_and_is_killed_at_every_step_loses_no_record() {
    let mut host = Machine::new("node1").with_vms(300);
    let all = carry::records(&host.own()).unwrap();
    host.sets_out(How::Begins);
    let kills = host.arrives_although_killed(|host| {
        // Until it is a member, its own store is in charge, and whole.
        if host.is_under_way() {
            assert_eq!(carry::records(&host.own()).unwrap(), all);
        }
    });
    assert!(kills >= 10, "{kills}");
    let store = host.store();
    until("the store answers", || store.get(&key("cluster/meta")).is_ok());
    let mut brought = carry::records(&store).unwrap();
    assert!(brought.remove(&key("spec/host/node1")).is_some());
    assert_eq!(brought, all);
    assert_eq!(Registry(&store).members().unwrap().len(), 1);
    let kept = std::fs::read_dir(&host.config.state_dir).unwrap();
    let is_kept =
        |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("tranche.db.before-");
    assert!(kept.flatten().any(is_kept), "its own store is kept as it was");
}

#[test]
fn hosts_join_and_leave_although_they_are_killed_at_every_step_and_a_cluster_comes_back_from_a_backup() {
    let runtime = runtime();
    let mut first = Machine::new("node1").with_vms(2);
    first.sets_out(How::Begins);
    first.arrives().unwrap();
    let cluster = first.opens(&runtime);
    let token = || How::Joins { token: cluster.token(None).unwrap().token };

    let mut second = Machine::new("node2").with_vms(3);
    let own = carry::records(&second.own()).unwrap();
    second.sets_out(token());
    let kills = second.arrives_although_killed(|second| {
        if second.is_under_way() {
            assert_eq!(carry::records(&second.own()).unwrap(), own);
        }
    });
    assert!(kills >= 10, "{kills}");
    second.store();
    let mut third = Machine::new("node3");
    drop(third.own());
    third.sets_out(token());
    third.arrives().unwrap();
    let store = cluster.store().unwrap();
    let brought = carry::records(store.as_ref()).unwrap();
    let expected = [
        "spec/gpu/node1/0000:01:00.0",
        "spec/gpu/node2/0000:01:00.0",
        "spec/vm/node1-vm-0",
        "spec/vm/node1-vm-1",
        "spec/vm/node2-vm-0",
        "spec/vm/node2-vm-1",
        "spec/vm/node2-vm-2",
    ];
    assert_eq!(names(&brought), expected);
    let view = cluster.examine();
    assert_eq!((view.members.len(), view.survives), (3, 1), "{view:?}");

    // A host whose VM has a name that is taken: nothing is done for it.
    let mut fourth = Machine::new("node4").with(|state| {
        let (_, wish) = vm(&"node4".parse().unwrap(), 0);
        state.spec.vms.insert("node1-vm-0".parse().unwrap(), wish);
    });
    fourth.sets_out(token());
    let refused = fourth.arrives().unwrap_err();
    assert_eq!(refused.code, Code::HostExists);
    assert!(refused.message.contains("node1-vm-0"), "{refused}");
    assert!(fourth.is_under_way(), "its own store stays in charge");
    assert!(!Registry(store.as_ref()).members().unwrap().contains_key(&"node4".parse().unwrap()));

    // A seat is not given up while those that stay could not decide.
    third.running = None;
    let refused = cluster.leave().unwrap_err();
    assert_eq!(refused.code, Code::StoreMemberDown, "{refused}");
    assert!(refused.message.contains("node3"), "{refused}");
    let back = third.store();
    until("the third member answers", || back.get(&key("cluster/meta")).is_ok());
    drop(back);

    // The third leaves and stands alone, with its GPUs only.
    let (_, wish, _) = gpu(&"node3".parse().unwrap(), 4);
    let wish = serde_json::json!({"v": 1, "data": wish}).to_string();
    let leaving =
        Leaving { membership: third.membership(), keeps: vec![("spec/gpu/node3/0000:01:00.0".into(), wish)] };
    third.book.write(&Standing::Leaving(leaving)).unwrap();
    third.arrives_although_killed(|_| {});
    assert_eq!(third.book.read().unwrap(), Standing::Alone);
    assert_eq!(carry::records(&third.own()).unwrap().len(), 1);
    assert!(!third.book.authority_key().exists() && !third.book.key().exists());
    assert!(!Registry(store.as_ref()).members().unwrap().contains_key(&"node3".parse().unwrap()));

    // Everything is lost but a backup.
    let backup = serde_json::to_vec(&cluster.backup().unwrap()).unwrap();
    assert_eq!(Backup::read(&backup).unwrap().records().unwrap(), carry::records(store.as_ref()).unwrap());
    let mut new = Machine::new("node1");
    book::write(&new.book.restored(), &backup, 0o600).unwrap();
    new.sets_out(How::Restores);
    new.arrives_although_killed(|_| {});
    let restored = new.store();
    until("the store answers", || restored.get(&key("cluster/meta")).is_ok());
    let before = carry::records(store.as_ref()).unwrap();
    assert_eq!(carry::records(&restored).unwrap(), before);
    cluster.end();

    // Another host joins it anew, and is what it was there.
    let restored = new.opens(&runtime);
    let mut again = Machine::new("node2").with_vms(0);
    again.sets_out(How::Joins { token: restored.token(None).unwrap().token });
    again.arrives_although_killed(|_| {});
    let store = restored.store().unwrap();
    assert_eq!(carry::records(store.as_ref()).unwrap(), before);
    assert!(Registry(store.as_ref()).members().unwrap().contains_key(&"node2".parse().unwrap()));
    restored.end();
}

#[test]
fn a_wrong_token_and_a_cluster_that_is_not_the_one_that_was_meant_are_refused() {
    let runtime = runtime();
    let mut host = Machine::new("node1").with_vms(1);
    host.sets_out(How::Begins);
    host.arrives().unwrap();
    let cluster = host.opens(&runtime);
    let made = cluster.token(None).unwrap().token;
    let good =
        tranched::cluster::token::Token::read(tranched::cluster::token::Opens::Cluster, &made).unwrap();
    let refused = |change: fn(&mut tranched::cluster::token::Token)| {
        let mut token = good.clone();
        change(&mut token);
        let mut joiner = Machine::new("node2").with_vms(1);
        joiner.sets_out(How::Joins { token: token.to_string() });
        let code = joiner.arrives().unwrap_err().code;
        assert_eq!(names(&carry::records(&joiner.own()).unwrap()).len(), 2);
        code
    };
    assert_eq!(refused(|token| token.authority[0] ^= 1), Code::ClusterUntrusted);
    assert_eq!(refused(|token| token.secret[0] ^= 1), Code::TokenInvalid);
    assert_eq!(refused(|token| token.addresses = vec!["127.0.0.1:1".to_owned()]), Code::ClusterUnreachable);
    assert_eq!(Registry(cluster.store().unwrap().as_ref()).members().unwrap().len(), 1);
    assert_eq!(cluster.token(Some(5)).unwrap_err().code, Code::InvalidValue);
    let this = host.config.host.clone().unwrap();
    assert_eq!(cluster.remove(&this, Removal::default()).unwrap_err().code, Code::HostAlive);
    assert_eq!(cluster.leave().unwrap_err().code, Code::LastHost);
    assert_eq!(cluster.init(None, None).unwrap_err().code, Code::ClusterAlready);
    let backup = serde_json::to_vec(&cluster.backup().unwrap()).unwrap();
    assert_eq!(cluster.restore(&backup, None, true).unwrap_err().code, Code::ClusterAlready, "it lives");
    cluster.end();
}

#[test]
fn certificates_and_keys_are_where_only_those_can_read_them_who_shall() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut host = Machine::new("node1").with_vms(1);
    host.sets_out(How::Begins);
    host.arrives().unwrap();
    let mode = |path: &Utf8Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&host.book.authority_key()), 0o600);
    assert_eq!(mode(&host.book.key()), 0o600);
    let etcd = host.config.state_dir.join("etcd");
    assert_eq!((mode(&etcd), mode(&etcd.join("host.key"))), (0o750, 0o640));
    assert!(!etcd.join("ca.key").exists(), "etcd never has the authority's key");
}
