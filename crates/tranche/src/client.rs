//! HTTP over the daemon's Unix socket: one request, one answer, both with limits.
//!
//! One connection a request, because a command asks a handful of questions and local connections are nearly free. A
//! change that may have been made is never sent twice. What met a cluster without a leader is asked again for a while:
//! the daemon says by that code that nothing was done, and another leader is a matter of seconds. Lists are read page by
//! page, so that no answer has to be as long as the cluster is large.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tranche_api::limits::{PAGE_LEN_MAX, REQUEST_TIMEOUT_MS};
use tranche_api::{BASE, Problem};
use tranche_core::finding::Code;

use crate::failure::Failure;
use crate::output::Console;

/// The largest answer that is read: pages are much shorter, a support bundle's lists are whole.
const ANSWER_LEN_MAX_BYTES: usize = 64 << 20;
/// The daemon answers within its own limit, or says that it cannot.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(REQUEST_TIMEOUT_MS + 5_000);
/// So long a cluster may be without a leader before a command gives up: several elections of a slow one.
const LEADERLESS_LONGEST: Duration = Duration::from_secs(60);
/// Between two tries; the daemon waits for a leader by itself before it answers.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// The daemon, as seen from here.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    /// Where it is said that an answer is waited for.
    console: Console,
    /// So long a cluster may be without a leader.
    leaderless: Duration,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Nothing is connected yet. Who has no time asks only once while nobody
    /// leads; the daemon waits for some seconds by itself.
    pub(crate) fn new(socket: &Path, console: Console, has_time: bool) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| ClientError::Runtime { source })?;
        let leaderless = if has_time { LEADERLESS_LONGEST } else { Duration::ZERO };
        Ok(Self { socket: socket.to_owned(), console, leaderless, runtime })
    }

    /// Asks for something; `path` is below `/v1`.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None, self.leaderless)
    }

    /// Asks for a whole list, page by page; `path` is below `/v1`.
    pub(crate) fn list<L>(&self, path: &str) -> Result<L, ClientError>
    where
        L: DeserializeOwned + Default + IntoIterator + Extend<L::Item>,
    {
        let mut all = L::default();
        let and = if path.contains('?') { '&' } else { '?' };
        let mut next = Some(format!("{path}{and}limit={PAGE_LEN_MAX}"));
        while let Some(path) = next {
            let page = self.call_for_page::<L>(Method::GET, &path, None, self.leaderless)?;
            all.extend(page.body);
            next = page.next;
        }
        Ok(all)
    }

    /// Asks for something once: for who asks again by itself.
    pub(crate) fn get_once<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None, Duration::ZERO)
    }

    /// Asks for the bytes at a path, which is not below `/v1` by itself, once.
    pub(crate) fn bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        self.answer(Method::GET, path, None, &format!("GET {path}")).map(|reply| reply.body)
    }

    /// Asks for a change; `path` is below `/v1`.
    pub(crate) fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body =
            body.map(serde_json::to_vec).transpose().map_err(|source| ClientError::Unsendable { source })?;
        self.call(method, path, body, self.leaderless)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        leaderless: Duration,
    ) -> Result<T, ClientError> {
        self.call_for_page(method, path, body, leaderless).map(|page| page.body)
    }

    fn call_for_page<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        leaderless: Duration,
    ) -> Result<Reply<T>, ClientError> {
        let body = body.map(Bytes::from);
        let begun = Instant::now();
        let mut said = false;
        loop {
            match self.ask(method.clone(), path, body.clone()) {
                Err(error) if error.nobody_leads() && begun.elapsed() < leaderless => {
                    if !said {
                        self.console.note(&format!("{error} Waiting for one."));
                        said = true;
                    }
                    std::thread::sleep(TRY_EVERY);
                }
                answer => return answer,
            }
        }
    }

    /// Asks once.
    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Reply<T>, ClientError> {
        let path = format!("{BASE}{path}");
        let request = format!("{method} {path}");
        let Reply { body, next, .. } = self.answer(method, &path, body, &request)?;
        // Some answers have nothing to say.
        let body = if body.is_empty() { Bytes::from_static(b"null") } else { body };
        let body =
            serde_json::from_slice(&body).map_err(|source| ClientError::Malformed { request, source })?;
        Ok(Reply { body, next })
    }

    /// Opens a WebSocket at a path below `/v1`, and has it used until that is done.
    pub(crate) fn converse<T>(
        &self,
        path: &str,
        talk: impl AsyncFnOnce(Conversation) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let path = format!("{BASE}{path}");
        let request = format!("GET {path}");
        self.runtime.block_on(async {
            let entering = tokio::time::timeout(ANSWER_TIMEOUT, self.enter(&path, &request)).await;
            talk(entering.map_err(|_| ClientError::Silent { request: request.clone() })??).await
        })
    }

    async fn enter(&self, path: &str, request: &str) -> Result<Conversation, ClientError> {
        let broken = |source| ClientError::Broken { request: request.to_owned(), source };
        let message = Request::get(path)
            .header(header::HOST, "localhost")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .body(Full::default())
            .map_err(|source| ClientError::Unspeakable { request: request.to_owned(), source })?;
        let response = self.deliver(message, request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let stream = TokioIo::new(hyper::upgrade::on(response).await.map_err(broken)?);
            return Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await);
        }
        let (status, reply) = read(response, request).await?;
        Err(refusal(request, status, &reply.body))
    }

    /// The bytes of an answer that is not a refusal.
    fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        request: &str,
    ) -> Result<Reply<Bytes>, ClientError> {
        let exchange = self.exchange(method, path, body, request);
        let limited = async { tokio::time::timeout(ANSWER_TIMEOUT, exchange).await };
        let answer = self.runtime.block_on(limited);
        let (status, reply) = answer.map_err(|_| ClientError::Silent { request: request.to_owned() })??;
        if status.is_success() { Ok(reply) } else { Err(refusal(request, status, &reply.body)) }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        request: &str,
    ) -> Result<(StatusCode, Reply<Bytes>), ClientError> {
        let mut message = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if body.is_some() {
            message = message.header(header::CONTENT_TYPE, "application/json");
        }
        let message = message
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|source| ClientError::Unspeakable { request: request.to_owned(), source })?;
        read(self.deliver(message, request).await?, request).await
    }

    /// Sends a request, and returns when its answer begins.
    async fn deliver(
        &self,
        message: Request<Full<Bytes>>,
        request: &str,
    ) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |source| ClientError::Unreachable { socket: self.socket.clone(), source };
        let broken = |source| ClientError::Broken { request: request.to_owned(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends when the answer is read and the sender dropped; its error is also the sender's.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(message).await.map_err(broken)
    }
}

async fn read(
    response: Response<Incoming>,
    request: &str,
) -> Result<(StatusCode, Reply<Bytes>), ClientError> {
    let (status, next) = (response.status(), next_page(response.headers()));
    let body = Limited::new(response.into_body(), ANSWER_LEN_MAX_BYTES).collect().await;
    let body = body.map_err(|source| ClientError::Unread { request: request.to_owned(), source })?;
    Ok((status, Reply { body: body.to_bytes(), next }))
}

fn refusal(request: &str, status: StatusCode, bytes: &[u8]) -> ClientError {
    match serde_json::from_slice::<Problem>(bytes) {
        Ok(problem) => ClientError::Refused(Box::new(problem)),
        Err(source) => ClientError::Unexplained { request: request.to_owned(), status, source },
    }
}

/// A connection that was turned into a WebSocket.
pub(crate) type Conversation = WebSocketStream<TokioIo<Upgraded>>;

/// What was answered.
struct Reply<T> {
    body: T,
    /// Where the next page of a list is, below `/v1`.
    next: Option<String>,
}

/// The target of `Link: </v1/vms?…>; rel="next"`, below `/v1`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(header::LINK)?.to_str().ok()?;
    let target = link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
    target.strip_prefix(BASE).map(str::to_owned)
}

/// Why the daemon gave no answer, or none that helps.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The daemon said no, and why.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    #[error("The daemon cannot be reached at {}.", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("The daemon did not answer {request} within {} s.", ANSWER_TIMEOUT.as_secs())]
    Silent { request: String },
    #[error("The connection broke during {request}.")]
    Broken { request: String, source: hyper::Error },
    #[error("The answer to {request} cannot be read.")]
    Unread { request: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("The answer to {request} is not what this command expects.")]
    Malformed { request: String, source: serde_json::Error },
    #[error(
        "The daemon answered {request} with {status} and without a reason that this command understands."
    )]
    Unexplained { request: String, status: StatusCode, source: serde_json::Error },
    #[error("{request} cannot be put into words for HTTP.")]
    Unspeakable { request: String, source: hyper::http::Error },
    #[error("The request cannot be written as JSON.")]
    Unsendable { source: serde_json::Error },
    #[error("The command cannot start waiting for sockets.")]
    Runtime { source: io::Error },
}

impl ClientError {
    /// Nobody led the cluster, and nothing was done.
    fn nobody_leads(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.code == Code::NoLeader)
    }

    /// Whether the same question may well be answered in a while, with no help of anybody.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Refused(problem) => {
                matches!(problem.code, Code::NoLeader | Code::LeaderUnreachable | Code::StoreUnavailable)
            }
            // A daemon that is restarted: its socket stays, or comes back.
            Self::Unreachable { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
            Self::Silent { .. } | Self::Broken { .. } | Self::Unread { .. } => true,
            _ => false,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused(problem) => return Some(problem.hint.clone()),
            Self::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "Be root, or in the group tranche: usermod -aG tranche USER, then log in again."
                }
                io::ErrorKind::NotFound => {
                    "Is it installed and running? systemctl status tranched. Another path can be given with --socket."
                }
                _ => "Is it running? systemctl status tranched",
            },
            Self::Silent { .. } | Self::Broken { .. } => "Look at its log: journalctl -u tranched",
            Self::Malformed { .. } | Self::Unexplained { .. } => {
                "Are command and daemon of the same version? Compare tranche --version and tranched --version."
            }
            Self::Unread { .. }
            | Self::Unspeakable { .. }
            | Self::Unsendable { .. }
            | Self::Runtime { .. } => {
                return None;
            }
        };
        Some(hint.to_owned())
    }
}
