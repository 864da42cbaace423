//! What holds for every request: a time limit, an answer even if a handler panics, a line in the log for each change.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::serve::IncomingStream;
use futures_util::FutureExt as _;
use tokio::net::UnixListener;
use tranche_api::limits::REQUEST_TIMEOUT_MS;

use super::{Refusal, elapsed_ms};

/// Who is at the other end of a connection, as the kernel knows it (SO_PEERCRED).
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self { uid: credentials.map(|c| c.uid()), pid: credentials.and_then(|c| c.pid()) }
    }
}

/// Sees to it that a request is answered.
pub(super) async fn guard(
    peer: Option<Extension<ConnectInfo<Peer>>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(Duration::from_millis(REQUEST_TIMEOUT_MS), answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Refusal::defect().into_response(),
        Err(_) => Refusal::busy("The daemon did not get to an answer in time.").into_response(),
    };
    let peer = peer.map(|Extension(ConnectInfo(peer))| peer);
    let (uid, pid) = (peer.and_then(|peer| peer.uid), peer.and_then(|peer| peer.pid));
    let (status, ms) = (response.status().as_u16(), elapsed_ms(started));
    if method == Method::GET || method == Method::HEAD {
        tracing::debug!(uid, pid, %method, path, status, ms, "request");
    } else {
        tracing::info!(uid, pid, %method, path, status, ms, "request");
    }
    response
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

/// As much of what a client sent as a message can bear.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    async fn defective() -> &'static str {
        panic!("a defect of a handler");
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_as_a_defect_and_the_daemon_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let router = Router::new().route("/", get(defective)).layer(from_fn(guard));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        for _ in 0..2 {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("500 Internal Server Error"), "{answer}");
            assert!(answer.contains("application/problem+json") && answer.contains("invariant"), "{answer}");
        }
        serving.abort();
    }
}
