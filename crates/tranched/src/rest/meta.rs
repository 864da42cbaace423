//! What the daemon says about itself: its interface, its health, its numbers.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tranche_api::answer::Health;

use super::{App, Refusal, sources};
use crate::member::Member;
use crate::metrics::Known;
use crate::openapi::{self, Refusals};

/// The media type of the numbers (OpenMetrics 1.0).
const METRICS_MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// This document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json", operation_id = "show_openapi",
    tag = "daemon",
    responses((status = 200, description = "The OpenAPI 3.1 document.", content_type = "application/json"))
)]
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::TEXT).into_response()
}

/// Whether the daemon is alive: a problem if its loop has not advanced for minutes.
#[utoipa::path(get, path = "/healthz", operation_id = "show_health", tag = "daemon", responses((status = 200, description = "It is alive.", body = Health), Refusals))]
pub(super) async fn health(State(app): State<App>) -> Result<Json<Health>, Refusal> {
    if !app.pulse.is_alive() {
        return Err(Refusal::busy("The reconcile loop has not advanced for minutes."));
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Json(Health { status: "ok".to_owned(), version, pass_age_ms: app.pulse.age_ms() }))
}

/// Numbers for monitoring, in the form of OpenMetrics.
#[utoipa::path(
    get,
    path = "/metrics", operation_id = "show_metrics",
    tag = "daemon",
    responses((status = 200, description = "OpenMetrics text.", body = String, content_type = "application/openmetrics-text"))
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    // Whoever follows does not know how the cluster is; the numbers of it are told by the host that leads.
    let leads = app.member.as_ref().is_none_or(Member::leads);
    let seen = leads.then(|| app.engine.view());
    let known = seen.as_deref().map(|seen| Known {
        sources: sources(seen),
        revision: seen.revision,
        operations: &seen.operations,
    });
    let text = app.metrics.text(known);
    ([(header::CONTENT_TYPE, METRICS_MEDIA_TYPE)], text).into_response()
}
