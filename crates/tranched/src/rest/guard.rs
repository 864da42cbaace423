//! What holds for every request: a time limit, an answer even if a handler panics, a line in the log for each change.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::Extension;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::serve::IncomingStream;
use futures_util::FutureExt as _;
use tokio::net::UnixListener;
use tranche_core::diagnostics as say;

use super::{App, Refusal, elapsed_ms};
use crate::patience::Patience;

/// Who is at the other end of a connection, as the kernel knows it (SO_PEERCRED).
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Peer {
    /// The number of the user, where the kernel tells.
    pub(super) fn uid(self) -> Option<u32> {
        self.uid
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self { uid: credentials.map(|c| c.uid()), pid: credentials.and_then(|c| c.pid()) }
    }
}

/// Sees to it that a request is answered.
pub(super) async fn guard(
    State(patience): State<Patience>,
    peer: Option<Extension<ConnectInfo<Peer>>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    // The log has a line for each change that anybody asks for.
    let (name, path) = (shorten(method.as_str()), shorten(request.uri().path()));
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(patience.answer, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Refusal::defect().into_response(),
        Err(_) => Refusal::busy("The daemon did not get to an answer in time.").into_response(),
    };
    let peer = peer.map(|Extension(ConnectInfo(peer))| peer);
    let (uid, pid) = (peer.and_then(|peer| peer.uid), peer.and_then(|peer| peer.pid));
    let (status, ms) = (response.status().as_u16(), elapsed_ms(started));
    if method == Method::GET || method == Method::HEAD {
        tracing::debug!(uid, pid, method = %name, path, status, ms, "request");
    } else {
        tracing::info!(uid, pid, method = %name, path, status, ms, "request");
    }
    response
}

/// Lets a request wait until the host has been looked at: before that, "no GPUs" would be taken for an answer.
pub(super) async fn after_the_first_look(State(app): State<App>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(app.patience.first_look, app.engine.looked()).await {
        Ok(()) => next.run(request).await,
        Err(_) => Refusal::from(say::host_silent(app.engine.host_name())).into_response(),
    }
}

/// The answer to a path that there is not.
pub(super) async fn not_found(uri: Uri) -> Refusal {
    let message = format!("There is nothing at {:?}.", shorten(uri.path()));
    Refusal::request(StatusCode::NOT_FOUND, "path", message, "GET /v1/openapi.json lists what there is.")
}

/// The answer to a method that a path does not have.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    let message = format!("{:?} does not take {}.", shorten(uri.path()), shorten(method.as_str()));
    let hint = "The header Allow of this answer names the methods that it takes.";
    Refusal::request(StatusCode::METHOD_NOT_ALLOWED, "method", message, hint)
}

/// So many characters of what a client sent stand in messages and logs.
const TEXT_LEN_MAX: usize = 200;

/// As much of what a client sent as a message can bear.
fn shorten(text: &str) -> String {
    text.chars().take(TEXT_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::{MethodRouter, get};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    /// What is answered, twice, to a request that this handler takes.
    async fn answers_of(handler: MethodRouter, patience: Patience) -> [String; 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let router = Router::new().route("/", handler).layer(from_fn_with_state(patience, guard));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        let mut answers = [String::new(), String::new()];
        for answer in &mut answers {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            stream.read_to_string(answer).await.unwrap();
            assert!(answer.contains("application/problem+json"), "{answer}");
        }
        serving.abort();
        answers
    }

    async fn defective() -> &'static str {
        panic!("a defect of a handler");
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_as_a_defect_and_the_daemon_goes_on() {
        for answer in answers_of(get(defective), Patience::default()).await {
            assert!(answer.contains("500 Internal Server Error") && answer.contains("invariant"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_handler_that_hangs_is_answered_for_and_the_daemon_goes_on() {
        let patience = Patience { answer: Duration::from_millis(1), ..Patience::default() };
        for answer in answers_of(get(std::future::pending::<String>), patience).await {
            assert!(answer.contains("503 Service Unavailable") && answer.contains("\"busy\""), "{answer}");
        }
    }
}
