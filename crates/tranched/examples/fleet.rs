//! What the loops of a fleet cost, and how soon a change reaches its host: `scripts/bench fleet`. Fake hosts (the real code
//! of the host over a fake kernel and a fake hypervisor) with the daemon's own loops, all in this process, against one
//! real etcd member. It prints figures and judges nothing.
//!
//! `fleet [HOSTS]`. Each host has a GPU of 4 partitions and as many VMs. What a daemon has a thread
//! for, a few threads do here for all hosts, and some hundreds of them share a connection: six thousand threads in one process
//! would measure the kernel's futexes.

#[path = "../tests/it/etcd.rs"]
mod etcd;
mod made_up;
#[path = "../tests/it/ports.rs"]
mod ports;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tranche_core::change::Change;
use tranche_core::finding::Finding;
use tranche_core::inventory::{DomainState, HostInventory};
use tranche_core::name::{GpuAddress, HostName, Timestamp, VmName};
use tranche_core::spec::Timers;
use tranche_core::step::Step;
use tranche_engine::cluster::{Heart, Leader, Led, Member, Rhythm, turn_every_ms};
use tranche_host::Host;
use tranche_host::fake::Machine;
use tranche_host::fence::Places;
use tranche_host::linux::LinuxHost;
use tranche_store::{
    EtcdSettings, EtcdStore, Repository, RepositoryError, Saved, State, Store, Terms, Tidings,
};
use tranched::bell::Bell;
use tranched::clock;
use tranched::engine::{Desk, Ids};
use tranched::member::Agents;

use self::etcd::Members;

const HOSTS: usize = 1_000;
const HOSTS_PER_CONNECTION: usize = 250;
const PARTITIONS: u16 = 4;
const VMS_PER_HOST: usize = PARTITIONS as usize;
/// As the daemon's own.
const TICK: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_millis(10);
/// A daemon's also looks now and then whether it is to end.
const LISTEN: Duration = Duration::from_secs(60);
const BEATERS: usize = 8;
const PASSERS: usize = 8;
const QUIET: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_secs(60);
const CHANGE_EVERY: Duration = Duration::from_millis(100);
const BOOT_EVERY: Duration = Duration::from_millis(50);
/// What this process may take until everything runs.
const PATIENCE: Duration = Duration::from_secs(900);

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::ERROR).init();
    let hosts = std::env::args().nth(1).map_or(HOSTS, |count| count.parse().expect("a number of hosts"));
    let members = Members::start(1);
    let settings = EtcdSettings {
        endpoints: members.endpoints().to_vec(),
        tls: None,
        timeout_ms: 20_000,
        election_ms: 1_000,
    };
    let stores: Vec<Arc<dyn Store>> = (0..hosts.div_ceil(HOSTS_PER_CONNECTION))
        .map(|_| Arc::new(EtcdStore::connect(&settings).expect("it connects")) as Arc<dyn Store>)
        .collect();
    write_wishes(&stores[0], hosts);
    let desk = Desk::open(Repository::new(Arc::clone(&stores[0])), Ids::default()).expect("it can be read");
    let desk = Arc::new(desk);
    let reached = Reached::default();
    let began = Instant::now();
    let wishes = Bell::default();
    let fleet = Arc::new(Fleet::new(hosts, &stores, &reached));
    start_leader(&desk, &stores[0], &wishes, &fleet);
    fleet.start();
    wait_until_all_run(&desk, hosts);
    println!("{hosts} hosts, {} VMs: all run after {} s", hosts * VMS_PER_HOST, began.elapsed().as_secs());
    // The last hosts have still to say that nothing is due any more.
    thread::sleep(Duration::from_secs(15));
    let idle = share_during(|| thread::sleep(QUIET));
    println!("nothing happens: {:.1} % of a processor", idle * 100.0);
    let mut took_ms = Vec::new();
    let busy = share_during(|| took_ms = change(&desk, &wishes, &reached, hosts));
    println!("{} changes, one each {CHANGE_EVERY:?}: {:.1} % of a processor", took_ms.len(), busy * 100.0);
    took_ms.sort_unstable();
    let at = |percent: usize| took_ms[(took_ms.len() - 1) * percent / 100];
    println!(
        "from a wish to the first step on its host: median {} ms, 99th percentile {} ms, longest {} ms",
        at(50),
        at(99),
        at(100)
    );
    println!("calls that etcd did not take: {}", fleet.skipped.load(Ordering::Relaxed));
    // Its threads are not waited for, and etcd is.
    drop(members);
    std::process::exit(0);
}

fn host_name(number: usize) -> HostName {
    format!("node{number:04}").parse().expect("a name")
}

fn vm_name(number: usize) -> VmName {
    format!("vm-{number:05}").parse().expect("a name")
}

fn machine() -> Machine {
    Machine::gpus(1, PARTITIONS)
}

/// What people asked for: every GPU split, every VM on.
fn write_wishes(store: &Arc<dyn Store>, hosts: usize) {
    let (names, vms) = ((0..hosts).map(host_name), (0..hosts * VMS_PER_HOST).map(vm_name));
    let model = made_up::host(&host_name(0), machine());
    let spec = made_up::wishes(&model, PARTITIONS, names, vms);
    let repository = Repository::new(Arc::clone(store));
    let loaded = repository.load().expect("etcd is read");
    let next = State { spec: spec.into(), ..State::default() };
    let saved = repository.commit(loaded, next, &Terms::default()).expect("etcd is written");
    assert!(matches!(saved, Saved::Committed(_)), "nobody else writes yet");
}

/// The loops of all hosts. What a daemon does on threads of its own, a few threads do here for all of them.
struct Fleet {
    hosts: Vec<HostLoops>,
    beats: Queue,
    passes: Queue,
    /// Heartbeats and watches that etcd did not take.
    skipped: AtomicUsize,
}

/// The loops of one host.
struct HostLoops {
    name: HostName,
    heart: Arc<Heart>,
    member: Member,
    repository: Repository,
    /// When the host's loop is to turn. What the queue has besides is of before it was woken.
    due: Mutex<Instant>,
}

impl Fleet {
    fn new(count: usize, stores: &[Arc<dyn Store>], reached: &Reached) -> Self {
        let of = |number: usize| {
            let name = host_name(number);
            let repository = Repository::new(Arc::clone(&stores[number / HOSTS_PER_CONNECTION]));
            let host = Arc::new(Noting { host: made_up::host(&name, machine()), reached: reached.clone() });
            let heart = Heart::new(name.clone(), host.boot_id(), "1".to_owned(), repository.clone());
            let heart = Arc::new(heart);
            let member = Member::new(name.clone(), host, repository.clone(), Arc::clone(&heart), 4);
            HostLoops { name, heart, member, repository, due: Mutex::new(Instant::now()) }
        };
        let hosts = (0..count).map(of).collect();
        Self { hosts, beats: Queue::default(), passes: Queue::default(), skipped: AtomicUsize::new(0) }
    }

    /// Starts the threads, and boots host after host: they do so on processors of their own, here on this machine's.
    fn start(self: &Arc<Self>) {
        let work = |name: &str, count: usize, turn: fn(&Self)| {
            for _ in 0..count {
                let this = Arc::clone(self);
                run(name, move || {
                    loop {
                        turn(&this);
                    }
                });
            }
        };
        work("heart", BEATERS, Self::beat_next);
        work("loop", PASSERS, Self::pass_next);
        for number in 0..self.hosts.len() {
            thread::sleep(BOOT_EVERY);
            self.beats.push(Instant::now(), number);
            self.wake(number, Instant::now());
            let this = Arc::clone(self);
            run("listen", move || this.listen(number));
        }
    }

    fn beat_next(&self) {
        let (due, number) = self.beats.pop();
        let rhythm = self.hosts[number].heart.beat(&Timers::default(), &now_ms, clock::now());
        if rhythm != Rhythm::Beats {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        self.beats.push(due + Duration::from_millis(Timers::default().heartbeat_ms), number);
    }

    /// As `looper` does it.
    fn pass_next(&self) {
        let (due, number) = self.passes.pop();
        let host = &self.hosts[number];
        if *host.due.lock().expect("nobody panics") != due {
            return;
        }
        let report = host.member.pass(clock::now());
        let until_due = report.next_due.map(|due| due.ms_since(clock::now()));
        let pause = match until_due {
            _ if report.is_busy() => REST,
            Some(ms) => Duration::from_millis(ms).clamp(REST, TICK),
            None => TICK,
        };
        let mut wanted = host.due.lock().expect("nobody panics");
        // Who was woken meanwhile is in the queue already.
        if *wanted == due {
            *wanted = Instant::now() + pause;
            self.passes.push(*wanted, number);
        }
    }

    fn wake(&self, number: usize, at: Instant) {
        *self.hosts[number].due.lock().expect("nobody panics") = at;
        self.passes.push(at, number);
    }

    fn listen(&self, number: usize) {
        let HostLoops { name, repository, .. } = &self.hosts[number];
        self.attend(|| repository.watch_decisions(name), || self.wake(number, Instant::now()));
    }

    /// Does something whenever there are tidings.
    fn attend(&self, watch: impl Fn() -> Result<Tidings, RepositoryError>, wake: impl Fn()) {
        let mut tidings = watch().expect("etcd is heard");
        loop {
            match tidings.next(LISTEN) {
                Ok(true) => wake(),
                Ok(false) => {}
                // At the end etcd is gone before those who listen to it.
                Err(_) => {
                    self.skipped.fetch_add(1, Ordering::Relaxed);
                    match watch() {
                        Ok(again) => tidings = again,
                        Err(_) => thread::sleep(LISTEN),
                    }
                }
            }
        }
    }
}

/// Runs something on a thread that has a name for whoever looks with `perf` or `top`.
fn run(name: &str, body: impl FnOnce() + Send + 'static) {
    // A thousand of them wait most of the time.
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
    let _ = thread.spawn(body).expect("a thread");
}

/// What is to be done when, of which host. Of those who wait, one looks at the clock, and the others for their turn to do so: a
/// daemon's thread is woken once, too, for what it has to do.
#[derive(Default)]
struct Queue {
    due: Mutex<BinaryHeap<Reverse<(Instant, usize)>>>,
    /// Something is due before all else.
    sooner: Condvar,
    /// Held by the one that looks at the clock.
    clock: Mutex<()>,
}

impl Queue {
    fn push(&self, at: Instant, number: usize) {
        let mut due = self.due.lock().expect("nobody panics");
        let is_first = due.peek().is_none_or(|Reverse((first, _))| at < *first);
        due.push(Reverse((at, number)));
        if is_first {
            self.sooner.notify_one();
        }
    }

    /// Waits until something is due.
    fn pop(&self) -> (Instant, usize) {
        let _clock = self.clock.lock().expect("nobody panics");
        let mut due = self.due.lock().expect("nobody panics");
        loop {
            let now = Instant::now();
            let until = due.peek().map_or(TICK, |Reverse((at, _))| at.saturating_duration_since(now));
            if let Some(Reverse(next)) = due.peek().copied().filter(|_| until.is_zero()) {
                due.pop();
                return next;
            }
            due = self.sooner.wait_timeout(due, until).expect("nobody panics").0;
        }
    }
}

/// The leader's loops, as a member has them. With one member of the store there is one host that may lead.
fn start_leader(desk: &Arc<Desk>, store: &Arc<dyn Store>, wishes: &Bell, fleet: &Arc<Fleet>) {
    let leader = Arc::new(Leader::new(host_name(0), Arc::clone(store), Arc::clone(store)));
    let pause = Duration::from_millis(turn_every_ms(&Timers::default()));
    let (ear, heard) = (Arc::clone(&leader), wishes.clone());
    run("ear", move || {
        loop {
            ear.hear(&Timers::default(), &now_ms, clock::now());
            heard.ring();
            thread::sleep(pause);
        }
    });
    let (repository, fleet, reported) =
        (Repository::new(Arc::clone(store)), Arc::clone(fleet), wishes.clone());
    run("attend", move || fleet.attend(|| repository.watch_reports(), || reported.ring()));
    let (desk, wishes) = (Arc::clone(desk), wishes.clone());
    run("lead", move || {
        let agents = Agents::installed(Places::default(), Bell::default());
        let pause = Duration::from_millis(Timers::default().election_ms);
        loop {
            assert_ne!(leader.turn(&desk, &agents, &now_ms, clock::now()), Led::Follows, "nobody else leads");
            wishes.wait(pause);
        }
    });
}

/// A monotonic clock.
fn now_ms() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).expect("not that long")
}

fn wait_until_all_run(desk: &Desk, hosts: usize) {
    let began = Instant::now();
    loop {
        let view = desk.view();
        let running = view.inventory.values().flat_map(|seen| seen.domains().into_iter().flatten());
        let running = running.filter(|(_, domain)| domain.state == DomainState::Running).count();
        if running == hosts * VMS_PER_HOST {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "only {running} VMs run; {:?}", view.findings.first());
        let said: BTreeSet<_> = view.findings.iter().map(|finding| finding.code).collect();
        eprintln!("{running} VMs run; findings: {said:?}");
        thread::sleep(Duration::from_secs(5));
    }
}

/// Stops VMs and starts them again, one after the other all over the fleet. Returns how long each change took to reach its
/// host, in milliseconds.
fn change(desk: &Desk, leader: &Bell, reached: &Reached, hosts: usize) -> Vec<u128> {
    let began = Instant::now();
    let mut took_ms = Vec::new();
    let mut turn = 0;
    while began.elapsed() < BUSY {
        // A prime, so that each change is at another host; each VM is stopped first, and started one round later.
        let vm = vm_name(turn / 2 * 997 % (hosts * VMS_PER_HOST));
        let starts = turn % 2 == 1;
        let change = match starts {
            true => Change::StartVm { name: vm.clone() },
            false => Change::StopVm { name: vm.clone(), force: true },
        };
        turn += 1;
        reached.expect(&vm, starts);
        let sent = Instant::now();
        desk.submit(&change, false, tranched::clock::now()).expect("it is taken");
        let submitted = sent.elapsed().as_millis();
        leader.ring();
        let next = began + CHANGE_EVERY * u32::try_from(turn).expect("few");
        let total = reached.wait().duration_since(sent).as_millis();
        eprintln!("CHANGE {starts} submit {submitted} total {total}");
        took_ms.push(total);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    took_ms
}

/// Runs something, and returns which part of one processor this process took meanwhile.
fn share_during(work: impl FnOnce()) -> f64 {
    let (began, before) = (Instant::now(), ticks());
    work();
    let seconds = f64::from(u32::try_from(ticks() - before).expect("few")) / 100.0;
    seconds / began.elapsed().as_secs_f64()
}

/// What this process took of processors, in ticks of 10 ms (proc(5), `utime` and `stime`; `USER_HZ` is 100 on Linux).
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().expect("its name is in brackets").split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// The step that is waited for, and when its host began it.
#[derive(Debug, Clone, Default)]
struct Reached(Arc<(Mutex<Awaited>, Condvar)>);

#[derive(Debug, Default)]
struct Awaited {
    vm: Option<VmName>,
    starts: bool,
    at: Option<Instant>,
}

impl Reached {
    /// From now on, a VM's start or its end is waited for.
    fn expect(&self, vm: &VmName, starts: bool) {
        *self.0.0.lock().expect("nobody panics") = Awaited { vm: Some(vm.clone()), starts, at: None };
    }

    fn note(&self, step: &Step) {
        let (vm, starts) = match step {
            Step::StartVm { vm, .. } => (vm, true),
            Step::KillVm { vm, .. } => (vm, false),
            _ => return,
        };
        let (awaited, changed) = &*self.0;
        let mut awaited = awaited.lock().expect("nobody panics");
        if awaited.vm.as_ref() == Some(vm) && awaited.starts == starts && awaited.at.is_none() {
            awaited.at = Some(Instant::now());
            changed.notify_all();
        }
    }

    fn wait(&self) -> Instant {
        let (awaited, changed) = &*self.0;
        let awaited = awaited.lock().expect("nobody panics");
        let awaited = changed.wait_while(awaited, |awaited| awaited.at.is_none()).expect("nobody panics");
        awaited.at.expect("it is over")
    }
}

/// A host that notes when a VM's turn comes.
#[derive(Debug)]
struct Noting {
    host: LinuxHost,
    reached: Reached,
}

impl Host for Noting {
    fn observe(&self, now: Timestamp) -> HostInventory {
        self.host.observe(now)
    }

    fn observe_again(
        &self,
        gpus: &BTreeSet<GpuAddress>,
        last: &HostInventory,
        now: Timestamp,
    ) -> HostInventory {
        self.host.observe_again(gpus, last, now)
    }

    fn boot_id(&self) -> String {
        self.host.boot_id()
    }

    fn apply(&self, step: &Step, now: Timestamp) -> Result<(), Box<Finding>> {
        self.reached.note(step);
        self.host.apply(step, now)
    }
}
