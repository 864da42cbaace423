//! Ways to the libvirt of another member: who gets there, for how long, and that bytes do. libvirt is an echo here.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tranche_core::journey::{Journey, Stage};
use tranche_host::fake::Machine as Fake;
use tranche_host::fence::Places;
use tranche_host::vm::{Way, Ways as _};
use tranched::bell::Bell;
use tranched::cluster::door::{self, Identity, Trust};
use tranched::cluster::pki::{self, Subject as Certified};
use tranched::cluster::ways::{self, Carrier, Entered};
use tranched::consoles::Consoles;
use tranched::engine::Engine;
use tranched::events::Events;
use tranched::handover::Handovers;
use tranched::member::vigil::Times;
use tranched::member::{Agents, Member, Parts, StoreMembers};
use tranched::metrics::Metrics;
use tranched::pulse::Pulse;
use tranched::rest::{self, Access, App};

use super::*;
use crate::fake_machine::{FakeMachine, forgetful};
use crate::process::request;

/// Nothing that is waited for takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

fn named(name: &str) -> HostName {
    name.parse().unwrap()
}

/// What answers on a member.
/// The hosts that nothing goes to.
fn nobody() -> tranched::handover::Peers {
    tranched::handover::Peers::new(Arc::new(tranche_store::MemoryStore::default()))
}

fn app(name: &str, cluster: Cluster, store: Arc<dyn Store>, libvirt: Vec<Utf8PathBuf>) -> App {
    let host = FakeMachine::new(named(name), Fake::gpus(1, 4)).host();
    let (repository, history_of) = (Repository::new(Arc::clone(&store)), Arc::clone(&host));
    let engine = Engine::open_as_member(named(name), Arc::clone(&host), repository, 1).unwrap();
    let agents = Arc::new(Agents::installed(Places::default(), Bell::default()));
    let member = Member::new(Parts {
        name: named(name),
        host,
        brisk_store: Arc::clone(&store),
        store,
        desk: engine.desk(),
        fencer: agents.clone(),
        tester: agents,
        voices: Arc::new(StoreMembers(cluster.clone())),
        may_lead: Arc::new(|| false),
        wake_host: Bell::default(),
        workers: 1,
        libvirt,
        times: Arc::new(Times::of(Utf8Path::new("/nonexistent"))),
    });
    let patience = Patience::default();
    App {
        access: Access::new(Arc::new(tranche_store::MemoryStore::default()), None),
        events: Events::new(engine.watch()),
        history: forgetful(name, history_of),
        handovers: Handovers::new(Arc::new(tranche_store::MemoryStore::default()), Vec::new()),
        engine: Arc::new(engine),
        bell: Bell::default(),
        metrics: Arc::new(Metrics::default()),
        pulse: Pulse::new(patience.pass),
        cluster,
        member: Some(member),
        consoles: Consoles::default(),
        patience,
    }
}

/// A libvirt that says whatever it is told. Whenever a connection to it ends, that is told.
fn echo(socket: &Utf8Path) -> mpsc::Receiver<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let (ended, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, ended) = (stream.unwrap(), ended.clone());
            thread::spawn(move || {
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
                let _ = ended.send(());
            });
        }
    });
    told
}

/// Two members; node2 sends VMs to node1, at whose door its daemon answers.
struct Pair {
    runtime: Runtime,
    first: Machine,
    _second: Machine,
    there: Cluster,
    here: Cluster,
    member: Member,
    libvirt: Utf8PathBuf,
    ended: mpsc::Receiver<()>,
    carrier: Carrier,
}

impl Pair {
    fn new() -> Self {
        let runtime = runtime();
        let (mut first, mut second) = (Machine::new("node1"), Machine::new("node2"));
        drop((first.own(), second.own()));
        first.sets_out(How::Begins);
        first.arrives().unwrap();
        let libvirt = first.config.state_dir.join("libvirt-sock");
        let ended = echo(&libvirt);
        let mut member = None;
        let there = first.opens_for(&runtime, |cluster| {
            let sockets = vec![libvirt.with_extension("missing"), libvirt.clone()];
            let app = app("node1", cluster.clone(), cluster.store().unwrap(), sockets);
            member.clone_from(&app.member);
            rest::for_members(&app)
        });
        second.sets_out(How::Joins { token: there.token(None).unwrap().token });
        second.arrives().unwrap();
        let here = second.opens(&runtime);
        let socket = second.config.state_dir.join("s");
        let carrier = Carrier::new(&socket, here.clone(), nobody(), runtime.handle().clone());
        let member = member.unwrap();
        Self { runtime, first, _second: second, there, here, member, libvirt, ended, carrier }
    }

    /// A VM sets out from node2 to node1, or its journey is over; node1 hears of it.
    fn travels(&self, is_open: bool) {
        store_state(self.there.store().unwrap(), |state| {
            let (name, wish) = vm(&named("node2"), 0);
            let mut planned = VmPlan::new(named("node2"), wish.id, VmGoal::Run);
            planned.journey = is_open.then(|| Journey {
                number: 1,
                other: named("node1"),
                serial: 1,
                since: Timestamp(1),
                known_here: 0,
                known_there: 0,
                boot_there: String::new(),
                foreseen_ms: None,
                stage: Stage::Prepares,
            });
            state.plan.vms.insert(name.clone(), planned);
            state.spec.vms.insert(name, wish);
            *state.plan.generations.entry(named("node1")).or_default() += 1;
        });
        until("node1 hears of it", || {
            let _ = self.member.pass(clock::now());
            self.member.expects_from(&named("node2")) == is_open
        });
    }

    fn open(&self) -> Result<Way, String> {
        self.carrier.open(&"vm".parse().unwrap(), &named("node1"))
    }

    /// What node1's door says to somebody who would be let through.
    fn enters(&self, identity: &Identity) -> Result<Entered, String> {
        let door = self.here.door_of(&named("node1")).unwrap();
        self.runtime.block_on(ways::enter(&door.place, Trust::Member(identity, &door.key)))
    }

    /// What it says to somebody who asks for the same without an upgrade.
    fn asks(&self, trust: Trust<'_>) -> u16 {
        let door = self.here.door_of(&named("node1")).unwrap();
        let asking = door::ask(&door.place, trust, hyper::Method::POST, ways::PATH, Vec::new());
        self.runtime.block_on(asking).unwrap().0.as_u16()
    }

    fn hears_of_an_end(&self) {
        self.ended.recv_timeout(DEADLINE).expect("a connection to libvirt ends");
    }

    fn end(self) {
        self.there.end();
        self.here.end();
    }
}

/// The socket that a way's URI names.
fn socket_of(way: &Way) -> Utf8PathBuf {
    way.uri.strip_prefix("qemu+unix:///system?socket=").expect("a URI for libvirt").into()
}

fn connect(way: &Way) -> UnixStream {
    let stream = UnixStream::connect(socket_of(way)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Sends much, and hears the same.
fn is_heard(stream: &UnixStream) {
    let sent: Vec<u8> =
        (0..1_u32 << 18).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let mut heard = vec![0; sent.len()];
    thread::scope(|scope| {
        let (mut to, mut from) = (stream, stream);
        let sent = &sent;
        scope.spawn(move || to.write_all(sent).unwrap());
        from.read_exact(&mut heard).unwrap();
    });
    assert!(heard == sent, "it is something else");
}

/// Waits until the other side has ended a connection.
fn has_ended(mut stream: &UnixStream) {
    let mut rest = Vec::new();
    // A connection that is cut off ends with an error.
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(rest, [] as [u8; 0]);
}

/// What somebody has whom the cluster's authority has certified.
fn certified(pair: &Pair, name: &str) -> Identity {
    let authority = walk::authority(&pair.first.book).unwrap().unwrap();
    let (host, key) = (named(name), pki::new_key().unwrap());
    let subject = Certified { host: &host, address: "127.0.0.1", keeps_store: false };
    let signed = authority.sign(&pki::request(&key, &host).unwrap(), &subject, clock::now()).unwrap();
    Identity { authority: authority.certificate, server: signed.server, client: signed.client, key }
}

#[test]
fn bytes_go_both_ways_between_a_host_that_sends_a_vm_and_the_libvirt_of_the_one_that_expects_it() {
    let pair = Pair::new();
    let refused = pair.open().unwrap_err();
    assert_eq!(refused, "No VM is on its way from host node2 to host node1.");

    pair.travels(true);
    assert!(!pair.member.expects_from(&named("node3")));
    let (way, another) = (pair.open().unwrap(), pair.open().unwrap());
    assert_ne!(socket_of(&way), socket_of(&another));
    let streams = [connect(&way), connect(&way), connect(&another)];
    streams.iter().for_each(is_heard);

    // One is closed by whoever made it; the others are as they were.
    let [closed, carried, others] = streams;
    drop(closed);
    pair.hears_of_an_end();
    is_heard(&carried);

    // Its end is the end of what is carried over it, and of nothing else.
    drop(way);
    let left: Vec<_> = std::fs::read_dir(socket_of(&another).parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    has_ended(&carried);
    pair.hears_of_an_end();
    is_heard(&others);

    // When the journey is over, so is the way.
    pair.travels(false);
    has_ended(&others);
    assert!(pair.open().unwrap_err().contains("No VM is on its way"));
    pair.end();
}

#[test]
fn nobody_gets_to_libvirt_but_a_member_that_is_expected_and_not_too_often_at_once() {
    let pair = Pair::new();
    pair.travels(true);
    let own = pair.here.identity().unwrap().unwrap();

    // One that is no member, or no member any more, with whatever the authority has certified.
    for name in ["node2", "node9"] {
        let refused = pair.enters(&certified(&pair, name)).unwrap_err();
        assert_eq!(refused, "Only a member of the cluster is answered here.", "{name}");
    }
    let fingerprint = pki::fingerprint(&pki::der(&own.authority).unwrap());
    assert_eq!(pair.asks(Trust::Fingerprint(fingerprint)), 403);
    // A member from which none comes: node1 itself.
    let refused = pair.enters(&pair.there.identity().unwrap().unwrap()).unwrap_err();
    assert_eq!(refused, "No VM is on its way from host node1 to host node1.");
    let door = pair.here.door_of(&named("node1")).unwrap();
    assert_eq!(pair.asks(Trust::Member(&own, &door.key)), 426, "it has to be a way");

    let mut all: Vec<Entered> = (0..16).map(|_| pair.enters(&own).unwrap()).collect();
    let refused = pair.enters(&own).unwrap_err();
    assert_eq!(refused, "Host node1 has as many ways to its libvirt as it allows.");
    drop(all.pop());
    until("there is room again", || pair.enters(&own).is_ok());

    drop(all);
    std::fs::remove_file(&pair.libvirt).unwrap();
    until("it is said that libvirt is not there", || {
        pair.enters(&own).is_err_and(|why| why.starts_with("libvirt on host node1 does not answer"))
    });
    pair.end();
}

#[test]
fn the_way_to_libvirt_is_not_on_a_members_own_socket_and_not_in_the_document_of_the_api() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let cluster = Cluster::nowhere(named("node1"));
    let app = app("node1", cluster, Arc::new(tranche_store::MemoryStore::default()), Vec::new());
    let socket = dir.path().join("s");
    let router = rest::router(app);
    let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&socket).unwrap() });
    runtime.spawn(async move { axum::serve(listener, router).await });
    let (status, problem) = request(&socket, "POST", ways::PATH, None);
    assert_eq!(status, 404, "{problem}");
    assert!(!tranched::openapi::document().contains("/ways"));
}
