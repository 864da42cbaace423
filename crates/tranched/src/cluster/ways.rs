//! Ways to the libvirt of other members: VMs go there while they run, and no libvirtd listens on a network.
//!
//! ```text
//! libvirt ─► a socket of ours ─► tranched ══ TLS ══► the other host's door ─► tranched ─► libvirt's own socket
//! ```
//!
//! Here is the side of the host that sends. A way is a Unix socket that looks like a libvirt, and whatever connects to it is
//! carried to the other host's door. Who is let through there is that host's affair (`rest::ways`).
//!
//! The first connection is made before anybody comes for it: so whoever opens a way is told why there is none, where libvirt
//! would see nothing but a connection that ends.
//!
//! Deliberately absent: any idea of what is carried, and a second try. A way does not outlive its daemon either: libvirt then
//! gives up, and the VM goes on where it was.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tranche_api::Problem;
use tranche_core::diagnostics as say;
use tranche_core::name::{HostName, VmName};
use tranche_host::vm::{Way, Ways};

use super::Cluster;
use super::door::{self, Address, Identity, Trust};
use super::walk::chain;
use crate::handover::peer::LIBVIRT;
use crate::handover::{Peer, Peers};

/// What a connection to a door is turned into.
pub const PROTOCOL: &str = "tranche-way";
/// Where that is asked for.
pub const PATH: &str = "/v1/ways/libvirt";

/// How long it may take until the other host has let us through.
const ENTER_TIME: Duration = Duration::from_secs(15);
/// Connections over one way at once. libvirt makes one, and Tranche itself another.
const CONNECTIONS_MAX: usize = 8;
/// How much is read at once, in bytes. What is carried is the memory of VMs.
const BUFFER_LEN: usize = 64 << 10;
/// How long it may take to say that nothing more comes.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// The longest refusal that is read, in bytes.
const REFUSAL_LEN_MAX: usize = 64 << 10;
/// How much of a host's name stands in that of a socket: the path of one has no more than 107 bytes.
const NAME_LEN_MAX: usize = 40;
/// After the system refused a connection, so that a lack of descriptors does not become a loop.
const PAUSE: Duration = Duration::from_millis(200);

/// Opens ways to the other members of this host's cluster.
#[derive(Debug)]
pub struct Carrier {
    dir: Utf8PathBuf,
    cluster: Cluster,
    peers: Peers,
    runtime: Handle,
    /// How many were opened, so that no two have the same name.
    opened: AtomicU64,
}

impl Carrier {
    /// Opens none yet. The sockets will lie in a directory beside the daemon's own one, in which only its user and root get
    /// anywhere; what an earlier life left there is removed.
    pub fn new(socket: &Utf8Path, cluster: Cluster, peers: Peers, runtime: Handle) -> Self {
        let dir = socket.with_extension("ways");
        if let Err(error) = sweep(&dir) {
            tracing::warn!(%dir, %error, "sockets of an earlier life stay behind");
        }
        Self { dir, cluster, peers, runtime, opened: AtomicU64::new(0) }
    }

    /// How another host is reached: as a member of this one's cluster, or as one that has invited this VM.
    fn behind(&self, vm: &VmName, host: &HostName) -> Result<Behind, String> {
        let identity = self.cluster.identity().map_err(|finding| finding.message)?;
        if let Some(identity) = identity {
            let door = self.cluster.door_of(host).map_err(|finding| finding.message)?;
            return Ok(Behind::Door(door, Box::new(identity)));
        }
        let peer = self.peers.of(vm, host).map_err(|error| error.to_string())?;
        peer.map(Behind::Console).ok_or_else(|| say::cluster_none().message)
    }

    fn listen(&self, host: &HostName) -> io::Result<(Utf8PathBuf, UnixListener)> {
        make_private(&self.dir)?;
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let name = host.as_str().get(..NAME_LEN_MAX).unwrap_or(host.as_str());
        let path = self.dir.join(format!("{name}-{number}"));
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok((path, listener))
    }
}

impl Ways for Carrier {
    fn open(&self, vm: &VmName, host: &HostName) -> Result<Way, String> {
        let there = Arc::new(There { host: host.clone(), behind: self.behind(vm, host)? });
        let (tell, told) = mpsc::channel();
        let first = Arc::clone(&there);
        // Not waited for with the runtime's own means, which panic when it has ended meanwhile.
        self.runtime.spawn(async move {
            // Who asked waits for it.
            let _ = tell.send(first.enter().await);
        });
        let first = told.recv().unwrap_or_else(|_| Err("the daemon is about to end".to_owned()))?;
        let (path, listener) =
            self.listen(host).map_err(|error| format!("no socket can be made in {} ({error})", self.dir))?;
        let uri = format!("qemu+unix:///system?socket={}", escape(path.as_str()));
        let carrying = self.runtime.spawn(carry_all(listener, there, first)).abort_handle();
        Ok(Way { uri, guard: Box::new(Opened { path, carrying }) })
    }
}

/// A way that is open.
#[derive(Debug)]
struct Opened {
    path: Utf8PathBuf,
    carrying: AbortHandle,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // What is carried ends with whoever carries it.
        self.carrying.abort();
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path, %error, "a socket stays behind");
        }
    }
}

/// A connection to another host that was turned into a way.
pub type Entered = TokioIo<Upgraded>;

/// Where a way leads, and as whom it is asked for.
#[derive(Debug)]
struct There {
    host: HostName,
    behind: Behind,
}

/// What leads to another host's libvirt.
#[derive(Debug)]
enum Behind {
    /// Its door for members of the cluster.
    Door(Address, Box<Identity>),
    /// Its console's port, for whoever has its token.
    Console(Peer),
}

impl There {
    async fn enter(&self) -> Result<Entered, String> {
        let entering = async {
            match &self.behind {
                Behind::Door(door, identity) => enter(&door.place, Trust::Member(identity, &door.key)).await,
                Behind::Console(peer) => {
                    let shown = peer.authorization();
                    let entered = enter_at(&peer.place, peer.trust(), LIBVIRT, Some(&shown)).await;
                    entered.map_err(|shut| shut.to_string())
                }
            }
        };
        let entered = tokio::time::timeout(ENTER_TIME, entering).await;
        entered.unwrap_or_else(|_| Err(format!("host {} does not answer in time", self.host)))
    }
}

/// Asks to be let through to the libvirt behind the door at `HOST:PORT`.
///
/// # Errors
/// Why that is refused, or nobody answers, in words.
pub async fn enter(place: &str, trust: Trust<'_>) -> Result<Entered, String> {
    enter_at(place, trust, PATH, None).await.map_err(|shut| shut.to_string())
}

/// Why nobody was let through.
#[derive(Debug, thiserror::Error)]
pub enum Shut {
    /// The other host has refused, and says why.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// It does not answer, or not as it should.
    #[error("{0}")]
    Silent(String),
}

/// Asks to be let through to what is at this path behind the door at `HOST:PORT`, and shows what it takes, where it takes anything.
///
/// # Errors
/// See [`Shut`].
pub async fn enter_at(
    place: &str,
    trust: Trust<'_>,
    path: &str,
    authorization: Option<&str>,
) -> Result<Entered, Shut> {
    fn silent(error: impl std::error::Error + 'static) -> Shut {
        Shut::Silent(chain(&error))
    }
    let connection = door::connect(place, trust).await.map_err(silent)?;
    let mut request = Request::post(path).header(CONNECTION, "upgrade").header(UPGRADE, PROTOCOL);
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let request = request.body(Bytes::new()).map_err(silent)?;
    let response = connection.send(request).await.map_err(silent)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    hyper::upgrade::on(response).await.map(TokioIo::new).map_err(silent)
}

/// What a refusal says.
async fn refusal(response: Response<Incoming>) -> Shut {
    let status = response.status();
    let body = Limited::new(response.into_body(), REFUSAL_LEN_MAX).collect().await.ok();
    let problem = body.and_then(|body| serde_json::from_slice::<Problem>(&body.to_bytes()).ok());
    problem.map_or_else(
        || Shut::Silent(format!("it answers with {status}")),
        |problem| Shut::Refused(Box::new(problem)),
    )
}

/// Carries whatever connects, until it is aborted.
async fn carry_all(listener: UnixListener, there: Arc<There>, first: Entered) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(host = %there.host, %error, "a way is there that nobody can go");
            return;
        }
    };
    let (mut first, mut carried) = (Some(first), JoinSet::new());
    loop {
        tokio::select! {
            accepted = listener.accept(), if carried.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(carried.spawn(carry_one(stream, first.take(), Arc::clone(&there)))),
                Err(error) => {
                    tracing::warn!(%error, "a connection to another host's libvirt was refused by the system");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = carried.join_next() => {}
        }
    }
}

async fn carry_one(stream: UnixStream, entered: Option<Entered>, there: Arc<There>) {
    let entered = match entered {
        Some(entered) => Ok(entered),
        None => there.enter().await,
    };
    match entered {
        Ok(entered) => carry(stream, entered).await,
        Err(why) => tracing::warn!(host = %there.host, why, "another host's libvirt is not reached"),
    }
}

/// Carries bytes both ways until one side closes its connection. libvirt never closes one direction alone.
pub(crate) async fn carry(
    one: impl AsyncRead + AsyncWrite + Unpin,
    other: impl AsyncRead + AsyncWrite + Unpin,
) {
    let (from_one, to_one) = tokio::io::split(one);
    let (from_other, to_other) = tokio::io::split(other);
    tokio::select! {
        () = pass_on(from_one, to_other) => {}
        () = pass_on(from_other, to_one) => {}
    }
}

async fn pass_on(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut from = BufReader::with_capacity(BUFFER_LEN, from);
    // A connection that breaks has ended, too.
    let _ = tokio::io::copy_buf(&mut from, &mut to).await;
    // Who does not take it in time finds out when all is closed.
    let _ = tokio::time::timeout(CLOSE_TIME, to.shutdown()).await;
}

/// Where this host's libvirt may be reached by those who come from other hosts, by its connection URI: where that names its
/// socket, there, else where libvirtd has it, or where only the daemon for QEMU is installed. Nowhere for a libvirt of a user's own, or
/// of another machine.
pub fn sockets_of(uri: &str) -> Vec<Utf8PathBuf> {
    let (place, options) = uri.split_once('?').unwrap_or((uri, ""));
    if !matches!(place, "qemu:///system" | "qemu+unix:///system") {
        return Vec::new();
    }
    let named = options.split('&').find_map(|option| option.strip_prefix("socket="));
    match named {
        Some(socket) => unescape(socket).into_iter().map(Utf8PathBuf::from).collect(),
        None => ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"].map(Utf8PathBuf::from).into(),
    }
}

/// A path as it stands in a URI.
fn escape(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The path that stands so in a URI; none if it is malformed.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Makes a directory in which only this process's user and root get anywhere.
fn make_private(dir: &Utf8Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = std::fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

/// Removes the sockets in a directory, if there is one.
fn sweep(dir: &Utf8Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket_in(dir: &tempfile::TempDir) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(dir.path().join("t.sock")).unwrap()
    }

    fn carrier(dir: &tempfile::TempDir) -> Carrier {
        let cluster = Cluster::nowhere("node1".parse().unwrap());
        let store = tranche_store::MemoryStore::new(Arc::new(tranche_store::ManualClock::default()));
        Carrier::new(&socket_in(dir), cluster, Peers::new(Arc::new(store)), Handle::current())
    }

    #[tokio::test]
    async fn sockets_lie_where_only_the_daemons_user_gets_and_those_of_an_earlier_life_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let long: HostName = ["a".repeat(60), "b".repeat(60)].join(".").parse().unwrap();
        let before = carrier(&dir);
        let (first, _) = before.listen(&long).unwrap();
        let (second, _) = before.listen(&long).unwrap();
        assert_ne!(first, second, "two VMs may go to one host");
        let mode = std::fs::metadata(&before.dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(before.dir.join("precious"), "").unwrap();
        drop(before);
        assert!(first.exists() && second.exists(), "whoever is killed leaves them");
        let after = carrier(&dir);
        assert!(!first.exists() && !second.exists());
        assert!(after.dir.join("precious").exists());
    }

    #[tokio::test]
    async fn a_directory_that_others_could_change_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let carrier = carrier(&dir);
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &carrier.dir).unwrap();
        assert!(carrier.listen(&"node2".parse().unwrap()).is_err());
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_host_that_stands_alone_has_no_way_to_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let refused = carrier(&dir).open(&"vm".parse().unwrap(), &"node2".parse().unwrap()).unwrap_err();
        assert_eq!(refused, say::cluster_none().message);
    }

    #[test]
    fn a_path_is_the_same_after_it_stood_in_a_uri() {
        for path in ["/run/tranche/tranche.ways/node2-0", "/tmp/a b/ü%?&#=.ways/x"] {
            let escaped = escape(path);
            assert!(escaped.bytes().all(|byte| byte.is_ascii_graphic() && !b"?&#=".contains(&byte)));
            assert_eq!(unescape(&escaped).as_deref(), Some(path));
        }
        for malformed in ["%", "%1", "%zz", "%ff"] {
            assert_eq!(unescape(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn only_the_systems_own_libvirt_takes_vms_of_others() {
        let usual = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"].map(Utf8PathBuf::from);
        assert_eq!(sockets_of("qemu:///system"), usual);
        assert_eq!(sockets_of("qemu+unix:///system?mode=legacy"), usual);
        let named = "qemu+unix:///system?mode=direct&socket=/srv/my%20sock";
        assert_eq!(sockets_of(named), [Utf8PathBuf::from("/srv/my sock")]);
        for none in [
            "qemu:///session",
            "qemu+unix:///session?socket=/x",
            "qemu+ssh://node2/system",
            "qemu+tcp:///system",
            "test:///default",
            "qemu:///system?socket=%f",
            "",
        ] {
            assert_eq!(sockets_of(none), [] as [Utf8PathBuf; 0], "{none}");
        }
    }
}
