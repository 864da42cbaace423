//! Requests that somebody follows as a trace: by which route they came, what became of them, and which role asked.
//!
//! Deliberately absent: paths, queries, headers, bodies and who asked by name. They may hold what nobody else may read.

use axum::extract::{MatchedPath, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use tranche_core::access::Role;
use tranche_engine::trail::{self, TARGET};

use crate::traces::{TRACEPARENT, known_method};

/// Follows a request of somebody from outside: in their own trace if they name one, else in a new one.
pub(super) async fn begin(request: Request, next: Next) -> Response {
    follow(request, next, true).await
}

/// Follows a request of another member, in the trace that it names. What members ask each other by themselves is in none.
pub(super) async fn go_on(request: Request, next: Next) -> Response {
    follow(request, next, false).await
}

async fn follow(request: Request, next: Next, begins: bool) -> Response {
    if !trail::is_made() {
        return next.run(request).await;
    }
    let span = tracing::info_span!(
        target: TARGET,
        "request",
        trail.begins = begins,
        trail.kind = "server",
        trail.follows = traceparent(request.headers()),
        http.request.method = known_method(request.method()),
        http.route = Empty,
        http.response.status_code = Empty,
        tranche.role = Empty,
        error.type = Empty,
    );
    let response = next.run(request).instrument(span.clone()).await;
    if let Some(route) = response.extensions().get::<MatchedPath>() {
        span.record("http.route", route.as_str());
    }
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("error.type", status.as_str());
    }
    response
}

/// The same work, where a thread that waits for the store does it: what is done there is done for the same request.
pub(super) fn within<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

/// Says which role asks.
pub(super) fn is_asked_by(role: Role) {
    Span::current().record("tranche.role", tracing::field::display(role));
}

/// The one that a client names; of two, none is believed.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut named = headers.get_all(TRACEPARENT).iter();
    named.next().filter(|_| named.next().is_none())?.to_str().ok()
}
