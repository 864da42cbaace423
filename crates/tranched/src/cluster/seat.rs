//! This host's own member of the cluster's store: what etcd is told, and who runs it.
//!
//! Either systemd runs it (`tranche-etcd.service`, in a sandbox and as a user of its own), or the daemon does, where there is no
//! systemd. Each time that a host gets a seat, etcd's data go to a new directory, so that nothing is ever written over.
//!
//! Facts: etcd 3.4 reads each of its flags from the environment, too (`ETCD_` and the flag's name).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::Gid;
use rustix::process::{Pid, Signal, kill_process};
use tranche_core::name::HostName;
use tranche_store::EtcdMember;

use super::book::{self, Book, BookError, Membership, Seat};
use super::hold::{self, Hold, Streak};
use crate::config::{EtcdConfig, EtcdRun};
use crate::listen::group_id;

/// Whose certificates it believes no more.
const REVOKED: &str = "revoked.pem";
/// The service that runs it.
const SERVICE: &str = "tranche-etcd.service";
/// The group that may read what it is told.
const GROUP: &str = "tranche-etcd";
/// Heartbeats of the store's leader in an election's time.
const HEARTBEATS_PER_ELECTION: u64 = 10;
/// How long it gets to end by itself.
const END_TIME: Duration = Duration::from_secs(5);
/// Between two starts of one that ends at once.
const PAUSE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);

/// What holds a host's member back.
pub fn hold(book: &Book) -> Hold {
    Hold::at(hold::path(book.dir()))
}

/// Where a member's files are.
fn dir(book: &Book) -> Utf8PathBuf {
    book.dir().join("etcd")
}

/// `https://HOST:PORT`, of an address as people write it.
pub fn url(address: &str, port: u16) -> String {
    format!("https://{}", authority(address, port))
}

/// `HOST:PORT`, of an address as people write it.
pub fn authority(address: &str, port: u16) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

/// Where it listens: at its address and at this machine's own; everywhere if it has a name instead.
fn listening(address: &str, port: u16, also_here: bool) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() || !also_here => url(address, port),
        Ok(_) => format!("{},{}", url(address, port), url("127.0.0.1", port)),
        Err(_) => url("0.0.0.0", port),
    }
}

/// The members of the store as etcd wants to be told of them (`NAME=URL,…`); the one that has not started yet is this host's.
pub(super) fn initial_cluster(list: &[EtcdMember], own: &HostName) -> String {
    let name = |member: &EtcdMember| match member.name.as_str() {
        "" => own.to_string(),
        name => name.to_owned(),
    };
    let each = list
        .iter()
        .flat_map(|member| member.peer_urls.iter().map(move |url| format!("{}={url}", name(member))));
    each.collect::<Vec<_>>().join(",")
}

/// What etcd is told.
pub fn environment(
    config: &EtcdConfig,
    book: &Book,
    membership: &Membership,
    seat: &Seat,
) -> BTreeMap<&'static str, String> {
    let election_ms = config.election_ms;
    let Membership { cluster, host, address, .. } = membership;
    let file = |name: &str| dir(book).join(name).into_string();
    let peer_url = url(address, config.peer_port);
    let initial = match seat.initial_cluster.as_str() {
        "" => format!("{host}={peer_url}"),
        known => known.to_owned(),
    };
    let mut environment = BTreeMap::from([
        ("ETCD_NAME", host.to_string()),
        ("ETCD_DATA_DIR", book.dir().join("etcd-data").join(&seat.data).into_string()),
        ("ETCD_LISTEN_CLIENT_URLS", listening(address, config.client_port, true)),
        ("ETCD_ADVERTISE_CLIENT_URLS", url(address, config.client_port)),
        ("ETCD_LISTEN_PEER_URLS", listening(address, config.peer_port, false)),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", peer_url),
        ("ETCD_INITIAL_CLUSTER", initial),
        ("ETCD_INITIAL_CLUSTER_STATE", if seat.joins { "existing" } else { "new" }.to_owned()),
        ("ETCD_INITIAL_CLUSTER_TOKEN", format!("tranche-{cluster}")),
        ("ETCD_STRICT_RECONFIG_CHECK", "true".to_owned()),
        ("ETCD_CERT_FILE", file("server.crt")),
        ("ETCD_KEY_FILE", file("host.key")),
        ("ETCD_TRUSTED_CA_FILE", file("ca.crt")),
        ("ETCD_CLIENT_CERT_AUTH", "true".to_owned()),
        ("ETCD_PEER_CERT_FILE", file("peer.crt")),
        ("ETCD_PEER_KEY_FILE", file("host.key")),
        ("ETCD_PEER_TRUSTED_CA_FILE", file("ca.crt")),
        ("ETCD_PEER_CLIENT_CERT_AUTH", "true".to_owned()),
        ("ETCD_PEER_CERT_ALLOWED_CN", super::pki::PEER_NAME.to_owned()),
        ("ETCD_ENABLE_GRPC_GATEWAY", "false".to_owned()),
        ("ETCD_AUTO_COMPACTION_MODE", "periodic".to_owned()),
        ("ETCD_AUTO_COMPACTION_RETENTION", "1h".to_owned()),
        ("ETCD_QUOTA_BACKEND_BYTES", config.quota_bytes().to_string()),
        ("ETCD_ELECTION_TIMEOUT", election_ms.to_string()),
        ("ETCD_HEARTBEAT_INTERVAL", (election_ms / HEARTBEATS_PER_ELECTION).to_string()),
        ("ETCD_LOGGER", "zap".to_owned()),
        ("ETCD_LOG_LEVEL", "warn".to_owned()),
    ]);
    // Told of a list that is not there, etcd refuses everybody.
    if book.revocations().exists() {
        environment.extend(["ETCD_CLIENT_CRL_FILE", "ETCD_PEER_CRL_FILE"].map(|name| (name, file(REVOKED))));
    }
    environment
}

/// Writes down what etcd is told, with the certificates that it needs, so that it alone can read them.
///
/// # Errors
/// The system refused.
pub fn equip(book: &Book, environment: &BTreeMap<&'static str, String>) -> Result<(), BookError> {
    let dir = dir(book);
    let revoked = book.revocations().exists().then(|| (REVOKED, book.revocations()));
    let files = [
        ("ca.crt", book.authority()),
        ("server.crt", book.certificate("server")),
        ("peer.crt", book.certificate("peer")),
        ("host.key", book.key()),
    ];
    for (name, from) in files.into_iter().chain(revoked) {
        let missing = || BookError::System {
            what: "read",
            path: from.clone(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        let text = book::read(&from)?.ok_or_else(missing)?;
        book::write(&dir.join(name), text.as_bytes(), 0o640)?;
        give_to_etcd(&dir.join(name))?;
    }
    let mut text = String::from("# Written by tranched. What is changed here is written over.\n");
    for (name, value) in environment {
        writeln!(text, "{name}={value}").expect("a string grows");
    }
    book::write(&dir.join("etcd.env"), text.as_bytes(), 0o644)?;
    let mode = std::fs::Permissions::from_mode(0o750);
    std::fs::set_permissions(&dir, mode).map_err(|source| system(&dir, source))?;
    give_to_etcd(&dir)
}

/// The seat is given up: etcd's service starts no more. Its data stay where they are.
pub fn strip(book: &Book) {
    for name in ["etcd.env", "host.key", "server.crt", "peer.crt", "ca.crt", REVOKED] {
        // One that is not there is gone already.
        let _ = std::fs::remove_file(dir(book).join(name));
    }
}

/// Whether etcd's program is there.
///
/// # Errors
/// What is missing.
pub fn is_installed(config: &EtcdConfig) -> Result<(), String> {
    if config.program.exists() { Ok(()) } else { Err(format!("there is no {}", config.program)) }
}

fn give_to_etcd(path: &Utf8Path) -> Result<(), BookError> {
    // Where there is no such group, the daemon itself runs etcd.
    let Some(gid) = group_id(GROUP) else { return Ok(()) };
    rustix::fs::chown(path.as_std_path(), None, Some(Gid::from_raw(gid)))
        .map_err(|error| system(path, error.into()))
}

fn system(path: &Utf8Path, source: std::io::Error) -> BookError {
    BookError::System { what: "given to etcd", path: path.to_owned(), source }
}

/// An etcd that runs, or is started again whenever it has ended.
#[derive(Debug)]
pub struct Running {
    child: Option<Supervised>,
    hold: Hold,
    streak: Arc<Mutex<Streak>>,
}

impl Running {
    /// Has it run, as it was equipped; `anew` ends one that runs already.
    ///
    /// # Errors
    /// What systemd, or the system, said.
    pub fn start(
        config: &EtcdConfig,
        environment: &BTreeMap<&'static str, String>,
        hold: Hold,
        anew: bool,
    ) -> Result<Self, String> {
        is_installed(config)?;
        let streak = Arc::default();
        match config.run {
            EtcdRun::Systemd => {
                let verb = if anew { "restart" } else { "start" };
                systemctl(&[verb, "--no-block", SERVICE]).map(|()| Self { child: None, hold, streak })
            }
            EtcdRun::Child => {
                Ok(Self { child: Some(Supervised::start(config, environment, hold.clone())?), hold, streak })
            }
        }
    }

    /// What can say that it does not run.
    pub fn pledge(&self) -> Pledge {
        let runs = self.child.as_ref().map(|child| Arc::clone(&child.runs));
        Pledge { hold: self.hold.clone(), runs, streak: Arc::clone(&self.streak) }
    }

    /// Ends it for good.
    pub fn end(self) {
        if self.child.is_none()
            && let Err(error) = systemctl(&["stop", SERVICE])
        {
            tracing::warn!(error, "etcd cannot be stopped");
        }
    }
}

/// Says that a member does not run, so that it can be relied on.
#[derive(Debug, Clone)]
pub struct Pledge {
    hold: Hold,
    /// Of a process of our own; else systemd knows.
    runs: Option<Arc<AtomicBool>>,
    streak: Arc<Mutex<Streak>>,
}

impl Pledge {
    /// Whether it does not run, and will not for longer than an election; `place` is its host's among those that keep the store.
    /// May take a while.
    pub fn is_given(&self, place: usize) -> bool {
        let goes_on =
            self.streak.lock().unwrap_or_else(PoisonError::into_inner).goes_on(hold::boot_ms(), place);
        if !goes_on || self.hold.extend().is_err() {
            return false;
        }
        match &self.runs {
            Some(runs) => !runs.load(Ordering::SeqCst),
            None => hold::service_is_down(SERVICE),
        }
    }
}

fn systemctl(args: &[&str]) -> Result<(), String> {
    let output = Command::new("systemctl").args(args).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("systemctl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("systemctl cannot be run: {error}")),
    }
}

/// A process that is started again when it ends, until it is dropped.
#[derive(Debug)]
struct Supervised {
    stop: Option<mpsc::Sender<()>>,
    /// Set before it is looked whether it is held back.
    runs: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Supervised {
    fn start(
        config: &EtcdConfig,
        environment: &BTreeMap<&'static str, String>,
        hold: Hold,
    ) -> Result<Self, String> {
        let (stop, stopped) = mpsc::channel();
        let runs = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&runs);
        let (program, environment) = (config.program.clone(), environment.clone());
        let thread = thread::Builder::new()
            .name("etcd-child".to_owned())
            .spawn(move || supervise((&program, &environment), (&hold, &noted), &stopped))
            .map_err(|error| format!("the system refused a thread: {error}"))?;
        Ok(Self { stop: Some(stop), runs, thread: Some(thread) })
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics never, and there would be nobody to tell.
            let _ = thread.join();
        }
    }
}

fn supervise(
    (program, environment): (&Utf8Path, &BTreeMap<&'static str, String>),
    (hold, runs): (&Hold, &AtomicBool),
    stopped: &mpsc::Receiver<()>,
) {
    loop {
        runs.store(true, Ordering::SeqCst);
        if hold.is_held() {
            tracing::info!("etcd is held back for the moment");
        } else {
            match spawn(program, environment) {
                Ok(mut child) => {
                    if watch(&mut child, stopped) {
                        return;
                    }
                    tracing::warn!("etcd has ended; it is started again");
                }
                Err(error) => tracing::error!(%error, %program, "etcd cannot be started"),
            }
        }
        runs.store(false, Ordering::SeqCst);
        if !matches!(stopped.recv_timeout(PAUSE), Err(RecvTimeoutError::Timeout)) {
            return;
        }
    }
}

/// Ends with this thread, however that ends: setpriv asks the kernel for it, then becomes etcd.
fn spawn(program: &Utf8Path, environment: &BTreeMap<&'static str, String>) -> std::io::Result<Child> {
    Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--", program.as_str()])
        .envs(environment)
        // etcd would report to our service manager in our name.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
}

/// Waits for the process to end, or for it to be time that it ends. Returns whether it was time.
fn watch(child: &mut Child, stopped: &mpsc::Receiver<()>) -> bool {
    loop {
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        if matches!(stopped.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout)) {
            continue;
        }
        // One that ended meanwhile has.
        let _ = kill_process(Pid::from_child(child), Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < END_TIME && matches!(child.try_wait(), Ok(None)) {
            thread::sleep(LOOK);
        }
        let _ = child.kill();
        let _ = child.wait();
        return true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_urls_whatever_their_kind() {
        assert_eq!(url("10.0.0.1", 1), "https://10.0.0.1:1");
        assert_eq!(url("fe80::1", 1), "https://[fe80::1]:1");
        assert_eq!(url("node1.lan", 1), "https://node1.lan:1");
        assert_eq!(listening("10.0.0.1", 1, true), "https://10.0.0.1:1,https://127.0.0.1:1");
        assert_eq!(listening("127.0.0.1", 1, true), "https://127.0.0.1:1");
        assert_eq!(listening("node1.lan", 1, true), "https://0.0.0.0:1", "etcd listens at numbers only");
    }
}
