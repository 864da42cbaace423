//! TLS between hosts: the door at which others ask this one, and the way to theirs.
//!
//! Who asks shows a certificate of the cluster's authority, or none: then it may only ask to be let in. A machine that is not
//! a member yet knows the authority by the fingerprint in its token, and sends nothing before that is proved.
//!
//! Handshakes are made beside each other and within a limit, so that whoever dawdles keeps nobody else out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::Instrument as _;
use tranche_core::name::HostName;
use tranche_engine::trail;

use super::book::{self, Book};
use super::pinned::{Known, Pinned};
use super::pki;
use crate::traces::{TRACEPARENT, known_method};

/// How long a handshake, and a whole exchange, may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
const EXCHANGE_TIME: Duration = Duration::from_secs(30);
/// Handshakes at once.
const HANDSHAKES_MAX: usize = 64;
/// The longest answer that is read, in bytes.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// After the system refused a connection, so that a lack of descriptors does not become a loop.
const PAUSE: Duration = Duration::from_millis(200);

/// What this host shows and whom it trusts, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The authority's certificate.
    pub authority: String,
    /// What it serves with.
    pub server: String,
    /// What it asks with.
    pub client: String,
    /// Its key.
    pub key: String,
}

/// The key stays out of logs.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// This host's, as it is kept.
    ///
    /// # Errors
    /// A file is missing or cannot be read.
    pub fn read(book: &Book) -> Result<Self, book::BookError> {
        let file = |path: camino::Utf8PathBuf| {
            let missing = io::ErrorKind::NotFound.into();
            book::read(&path)?.ok_or(book::BookError::System { what: "read", path, source: missing })
        };
        Ok(Self {
            authority: file(book.authority())?,
            server: file(book.certificate("server"))?,
            client: file(book.certificate("client"))?,
            key: file(book.key())?,
        })
    }
}

/// Why nobody was asked, or no answer came.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there, or the connection broke.
    #[error("{address} cannot be reached")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Who is there is not who was meant. Nothing was sent.
    #[error("what answers at {address} cannot prove who it is")]
    Untrusted {
        /// Where.
        address: String,
        /// What is wrong with its certificate.
        #[source]
        source: io::Error,
    },
    /// The address or our own certificates are of no use.
    #[error("{what} is of no use")]
    Useless {
        /// What.
        what: String,
    },
    /// It speaks no HTTP.
    #[error("{address} does not answer as it should")]
    Nonsense {
        /// Where.
        address: String,
        /// What was heard.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Whom to believe.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// Whoever is certified by the authority with this fingerprint. We show nothing.
    Fingerprint([u8; 32]),
    /// Whoever has the certificate with this fingerprint, whatever it says. We show nothing.
    Certificate([u8; 32]),
    /// The member of our cluster whose key has this fingerprint, and no other. We show who we are.
    Member(&'a Identity, &'a str),
}

/// Where a member is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// As `HOST:PORT`.
    pub place: String,
    /// The fingerprint of its key.
    pub key: String,
}

/// What TLS computes with.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, AskError> {
    pki::der(pem).map(CertificateDer::from).map_err(|_| useless("a certificate"))
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, AskError> {
    let der = pki::der(pem).map_err(|_| useless("a key"))?;
    PrivateKeyDer::try_from(der).map_err(|_| useless("a key"))
}

fn roots(authority: &str) -> Result<RootCertStore, AskError> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(authority)?).map_err(|_| useless("the authority's certificate"))?;
    Ok(roots)
}

fn useless(what: &str) -> AskError {
    AskError::Useless { what: what.to_owned() }
}

/// Sends a request to a member, at `HOST:PORT`, and reads its answer.
///
/// # Errors
/// See [`AskError`]; only after [`AskError::Unreachable`] and [`AskError::Nonsense`] something may have been done.
pub async fn ask(
    address: &str,
    trust: Trust<'_>,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), AskError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(body))
        .map_err(|_| useless("the request"))?;
    let exchange = async {
        let response = connect(address, trust).await?.send(request).await?;
        let status = response.status();
        let read = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
        let body = read.map_err(|source| AskError::Nonsense { address: address.to_owned(), source })?;
        Ok((status, body.to_bytes()))
    };
    let unreachable = |source| AskError::Unreachable { address: address.to_owned(), source };
    tokio::time::timeout(EXCHANGE_TIME, exchange)
        .await
        .unwrap_or_else(|_| Err(unreachable(io::ErrorKind::TimedOut.into())))
}

/// A connection to a member that has proved who it is. Nothing was sent yet.
#[derive(Debug)]
pub struct Connection {
    address: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Sends a request, and returns when its answer begins.
    ///
    /// # Errors
    /// [`AskError::Nonsense`]: something may have been done.
    pub async fn send(mut self, request: Request<Bytes>) -> Result<Response<Incoming>, AskError> {
        let (mut head, body) = request.into_parts();
        let host = HeaderValue::from_str(&self.address).map_err(|_| useless("the address"))?;
        head.headers.insert(header::HOST, host);
        let span = tracing::info_span!(
            target: trail::TARGET,
            "ask a member",
            trail.kind = "client",
            http.request.method = known_method(&head.method),
            server.address = self.address,
        );
        // Whoever it is asked for follows what is done there, too.
        let here = span.in_scope(trail::here).and_then(|here| HeaderValue::from_str(&here).ok());
        if let Some(here) = here {
            head.headers.insert(TRACEPARENT, here);
        }
        let request = Request::from_parts(head, Full::new(body));
        let sent = self.sender.send_request(request).instrument(span).await;
        sent.map_err(|error| AskError::Nonsense { address: self.address, source: error.into() })
    }
}

/// Connects to a member, at `HOST:PORT`. Must be called within a tokio runtime.
///
/// # Errors
/// See [`AskError`].
pub async fn connect(address: &str, trust: Trust<'_>) -> Result<Connection, AskError> {
    let unreachable = |source| AskError::Unreachable { address: address.to_owned(), source };
    let (host, _) = address.rsplit_once(':').ok_or_else(|| useless(&format!("the address {address}")))?;
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).map_err(|_| useless(&format!("the address {address}")))?;
    let connector = TlsConnector::from(Arc::new(client_config(trust)?));
    let connecting = tokio::time::timeout(HANDSHAKE_TIME, TcpStream::connect(address)).await;
    let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
    at_once(&stream);
    let shaking = tokio::time::timeout(HANDSHAKE_TIME, connector.connect(name, stream)).await;
    let stream = shaking.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|source| {
        let address = address.to_owned();
        // What rustls says comes as InvalidData; all else is the network's.
        if source.kind() == io::ErrorKind::InvalidData {
            AskError::Untrusted { address, source }
        } else {
            AskError::Unreachable { address, source }
        }
    })?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake
        .map_err(|error| AskError::Nonsense { address: address.to_owned(), source: error.into() })?;
    // It ends when the answer is read and the sender dropped; its error is also the sender's. What it is turned into, if the other
    // side agrees to that, is whoever's who has the answer.
    tokio::spawn(connection.with_upgrades());
    Ok(Connection { address: address.to_owned(), sender })
}

fn client_config(trust: Trust<'_>) -> Result<ClientConfig, AskError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_| useless("TLS"))?;
    match trust {
        Trust::Fingerprint(fingerprint) => {
            let authority = Known::Fingerprint(fingerprint);
            let pinned = Arc::new(Pinned { authority, key: None, provider: provider() });
            Ok(builder.dangerous().with_custom_certificate_verifier(pinned).with_no_client_auth())
        }
        Trust::Certificate(fingerprint) => {
            let authority = Known::Itself(fingerprint);
            let pinned = Arc::new(Pinned { authority, key: None, provider: provider() });
            Ok(builder.dangerous().with_custom_certificate_verifier(pinned).with_no_client_auth())
        }
        Trust::Member(identity, meant) => {
            let pinned = Pinned {
                authority: Known::Certificate(certificate(&identity.authority)?),
                key: Some(meant.to_owned()),
                provider: provider(),
            };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(pinned))
                .with_client_auth_cert(vec![certificate(&identity.client)?], key(&identity.key)?)
                .map_err(|_| useless("this host's certificate"))
        }
    }
}

/// Who is at the other end of a connection from another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The host that its certificate names; none without a certificate.
    pub host: Option<HostName>,
    /// The fingerprint of the key that it has proved to have; none without a certificate.
    pub key: Option<String>,
    /// Where it is.
    pub address: SocketAddr,
}

impl Connected<IncomingStream<'_, Door>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A TCP port at which other hosts ask this one.
#[derive(Debug)]
pub struct Door {
    entered: mpsc::Receiver<(TlsStream<TcpStream>, Caller)>,
    address: SocketAddr,
}

impl Door {
    /// Opens it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The system refuses the port, or the certificates are of no use.
    pub async fn open(address: SocketAddr, identity: &Identity) -> io::Result<Self> {
        let config = server_config(identity).map_err(|error| io::Error::other(error.to_string()))?;
        Self::listen(address, config).await
    }

    /// Opens a port with these settings of TLS. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The system refuses the port.
    pub async fn listen(address: SocketAddr, config: ServerConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (enter, entered) = mpsc::channel(HANDSHAKES_MAX);
        tokio::spawn(doorkeeper(listener, TlsAcceptor::from(Arc::new(config)), enter));
        Ok(Self { entered, address })
    }
}

impl Listener for Door {
    type Io = TlsStream<TcpStream>;
    type Addr = Caller;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.entered.recv().await {
            Some(entered) => entered,
            // The doorkeeper ends with this one only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(Caller { host: None, key: None, address: self.address })
    }
}

async fn doorkeeper(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    enter: mpsc::Sender<(TlsStream<TcpStream>, Caller)>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = enter.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection of another host was refused by the system");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        at_once(&stream);
        let (acceptor, enter) = (acceptor.clone(), enter.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let caller = caller(&stream, address);
                    // With the door closed, nobody is waited for.
                    let _ = enter.send((stream, caller)).await;
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%address, "a handshake took too long"),
            }
            drop(place);
        });
    }
}

/// Sends what is written at once. Else the second part of an answer waits until the first one is acknowledged, 40 ms at worst.
fn at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection sends what is written when it likes to");
    }
}

fn caller(stream: &TlsStream<TcpStream>, address: SocketAddr) -> Caller {
    let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.first());
    let host = shown.and_then(|shown| pki::facts_of(shown)?.name.parse().ok());
    Caller { host, key: shown.and_then(|shown| pki::certified_key(shown)), address }
}

fn server_config(identity: &Identity) -> Result<ServerConfig, AskError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&identity.authority)?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|_| useless("the authority's certificate"))?;
    // The authority's certificate goes along for those who know only its fingerprint.
    let chain = vec![certificate(&identity.server)?, certificate(&identity.authority)?];
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_| useless("TLS"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key(&identity.key)?)
        .map_err(|_| useless("this host's certificate"))
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::Router;
    use axum::extract::ConnectInfo;
    use axum::routing::post;
    use tranche_core::name::Timestamp;

    use super::super::pki::{Authority, Subject};
    use super::*;
    use crate::clock;

    pub(crate) fn identity(authority: &Authority, host: &str, now: Timestamp) -> Identity {
        let host: HostName = host.parse().unwrap();
        let key = pki::new_key().unwrap();
        let subject = Subject { host: &host, address: "127.0.0.1", keeps_store: false };
        let signed = authority.sign(&pki::request(&key, &host).unwrap(), &subject, now).unwrap();
        Identity {
            authority: authority.certificate.clone(),
            server: signed.server,
            client: signed.client,
            key,
        }
    }

    /// A door behind which whoever comes is told who it is.
    async fn mirror(identity: &Identity) -> String {
        let door = Door::open(([127, 0, 0, 1], 0).into(), identity).await.unwrap();
        let address = door.local_addr().unwrap().address.to_string();
        let answer = |ConnectInfo(caller): ConnectInfo<Caller>, body: String| async move {
            let who = caller.host.zip(caller.key).map(|(host, key)| format!("{host} {key}"));
            format!("{}: {body}", who.unwrap_or("nobody".to_owned()))
        };
        let router = Router::new().route("/", post(answer));
        tokio::spawn(axum::serve(door, router.into_make_service_with_connect_info::<Caller>()).into_future());
        address
    }

    pub(crate) fn key_of(identity: &Identity) -> String {
        pki::certified_key(&pki::der(&identity.server).unwrap()).unwrap()
    }

    async fn say(address: &str, trust: Trust<'_>) -> Result<String, AskError> {
        let (status, bytes) = ask(address, trust, Method::POST, "/", b"hello".to_vec()).await?;
        assert_eq!(status, 200);
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn members_know_each_other_and_a_stranger_with_the_fingerprint_is_nobody() {
        let now = clock::now();
        let authority = Authority::new("lab", now).unwrap();
        let server = identity(&authority, "node1", now);
        let address = mirror(&server).await;
        let member = identity(&authority, "node2", now);
        let trust = Trust::Member(&member, &key_of(&server));
        assert_eq!(say(&address, trust).await.unwrap(), format!("node2 {}: hello", key_of(&member)));
        let fingerprint = pki::fingerprint(&pki::der(&authority.certificate).unwrap());
        assert_eq!(say(&address, Trust::Fingerprint(fingerprint)).await.unwrap(), "nobody: hello");
    }

    #[tokio::test]
    async fn one_that_another_authority_certified_is_told_nothing_and_not_let_in() {
        let now = clock::now();
        let (ours, theirs) = (Authority::new("lab", now).unwrap(), Authority::new("lab", now).unwrap());
        let server = identity(&theirs, "node1", now);
        let address = mirror(&server).await;
        let fingerprint = pki::fingerprint(&pki::der(&ours.certificate).unwrap());
        let refused = say(&address, Trust::Fingerprint(fingerprint)).await.unwrap_err();
        assert!(matches!(refused, AskError::Untrusted { .. }), "{refused:?}");
        let member = identity(&ours, "node2", now);
        let trust = Trust::Member(&member, &key_of(&server));
        assert!(matches!(say(&address, trust).await, Err(AskError::Untrusted { .. })));
        // It trusts their servers, and shows a certificate that they do not know.
        let mixed = Identity { authority: theirs.certificate.clone(), ..member };
        assert!(say(&address, Trust::Member(&mixed, &key_of(&server))).await.is_err());
    }

    #[tokio::test]
    async fn one_that_was_certified_under_the_same_name_with_another_key_is_told_nothing() {
        let now = clock::now();
        let authority = Authority::new("lab", now).unwrap();
        let (removed, new) = (identity(&authority, "node1", now), identity(&authority, "node1", now));
        let address = mirror(&removed).await;
        let member = identity(&authority, "node2", now);
        let refused = say(&address, Trust::Member(&member, &key_of(&new))).await;
        assert!(matches!(refused, Err(AskError::Untrusted { .. })), "{refused:?}");
        assert!(say(&address, Trust::Member(&member, &key_of(&removed))).await.is_ok());
    }

    #[tokio::test]
    async fn an_authority_that_is_shown_but_did_not_certify_proves_nothing() {
        let now = clock::now();
        let (ours, theirs) = (Authority::new("lab", now).unwrap(), Authority::new("lab", now).unwrap());
        // Authorities' certificates are no secret: this one shows ours behind its own.
        let cheat = Identity { authority: ours.certificate.clone(), ..identity(&theirs, "node1", now) };
        let address = mirror(&cheat).await;
        let fingerprint = pki::fingerprint(&pki::der(&ours.certificate).unwrap());
        assert!(matches!(
            say(&address, Trust::Fingerprint(fingerprint)).await,
            Err(AskError::Untrusted { .. })
        ));
    }
}
