//! Hosts.

use axum::Json;
use axum::extract::State;
use tranche_api::view::{self, HostView};
use tranche_core::diagnostics as say;
use tranche_core::name::HostName;

use super::input::{InPath, InQuery, NoQuery};
use super::{App, Refusal, sources};
use crate::openapi::Refusals;

/// Every host that has reported.
#[utoipa::path(get, path = "/v1/hosts", operation_id = "list_hosts", tag = "hosts", responses((status = 200, description = "Every host, by name.", body = Vec<HostView>), Refusals))]
pub(super) async fn list(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Json<Vec<HostView>> {
    Json(view::hosts(&sources(&app.engine.view())))
}

/// One host.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}", operation_id = "show_host",
    tag = "hosts",
    params(("host" = HostName, Path)),
    responses((status = 200, description = "The host.", body = HostView), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    InPath(name): InPath<HostName>,
) -> Result<Json<HostView>, Refusal> {
    let seen = app.engine.view();
    let host = view::host(&sources(&seen), &name);
    let known = || seen.inventory.keys().collect::<Vec<_>>();
    host.map(Json).ok_or_else(|| Refusal::from(say::host_not_found(&name, &known())))
}
