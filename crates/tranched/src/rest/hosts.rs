//! Hosts.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use tranche_api::answer::{Accepted, Preview};
use tranche_api::request::{Along, DepartHost, Nothing, SetHost};
use tranche_api::view::{self, HostView};
use tranche_core::change::Change;
use tranche_core::name::HostName;
use tranche_core::spec::{Duty, HostPart};

use super::input::{ChangeQuery, InBody, InPath, InQuery};
use super::page::{InPage, PageQuery, Paged};
use super::{App, Refusal, sources, state};
use crate::openapi::Refusals;

/// Every host that has reported.
#[utoipa::path(
    get,
    path = "/v1/hosts", operation_id = "list_hosts",
    tag = "hosts",
    params(PageQuery),
    responses((status = 200, description = "Every host, by name.", body = Vec<HostView>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
pub(super) async fn list(State(app): State<App>, page: InPage) -> Result<Paged<Vec<HostView>>, Refusal> {
    page.of(view::hosts(&sources(&app.engine.view())), |host| host.name.clone())
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
    host.map(Json).ok_or_else(|| Refusal::from(state(&seen).unheard(&name)))
}

/// Changes labels, fencing and reserved memory of a member of the cluster, all of them: what is left out is as without it.
#[utoipa::path(
    put,
    path = "/v1/hosts/{host}", operation_id = "set_host",
    tag = "hosts",
    params(("host" = HostName, Path), ChangeQuery),
    request_body = SetHost,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn set(
    State(app): State<App>,
    InPath(host): InPath<HostName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(asked): InBody<SetHost>,
) -> Result<Response, Refusal> {
    app.change(asked.into_change(host), query.dry_run).await
}

/// Changes some of the labels, fencing and reserved memory of a member of the cluster. What is left out stays as it is; what is
/// null is taken away.
#[utoipa::path(
    patch,
    path = "/v1/hosts/{host}", operation_id = "amend_host",
    tag = "hosts",
    params(("host" = HostName, Path), ChangeQuery),
    request_body = HostPart,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn amend(
    State(app): State<App>,
    InPath(host): InPath<HostName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(wish): InBody<HostPart>,
) -> Result<Response, Refusal> {
    app.change(Change::AmendHost { host, wish }, query.dry_run).await
}

/// Empties a host, and others with it: their VMs go elsewhere, and they take none until they shall serve again, over reboots.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/drain", operation_id = "drain_host",
    tag = "hosts",
    params(("host" = HostName, Path), ChangeQuery),
    request_body = Option<Along>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn drain(
    State(app): State<App>,
    InPath(host): InPath<HostName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(Along { along }): InBody<Along>,
) -> Result<Response, Refusal> {
    app.change(Change::SetHostDuty { host, along, duty: Duty::Maintenance }, query.dry_run).await
}

/// Lets a host, and others with it, serve again, or takes a drain back.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/undrain", operation_id = "undrain_host",
    tag = "hosts",
    params(("host" = HostName, Path), ChangeQuery),
    request_body = Option<Along>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn undrain(
    State(app): State<App>,
    InPath(host): InPath<HostName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(Along { along }): InBody<Along>,
) -> Result<Response, Refusal> {
    app.change(Change::SetHostDuty { host, along, duty: Duty::Serving }, query.dry_run).await
}

/// Sees to the VMs of a host that is about to go down: they are shut down, and wait for it or start elsewhere, as the policy
/// says. Over with the host's next boot.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/depart", operation_id = "depart_host",
    tag = "hosts",
    params(("host" = HostName, Path), ChangeQuery),
    request_body = DepartHost,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn depart(
    State(app): State<App>,
    InPath(host): InPath<HostName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(DepartHost { way, force, boot_id }): InBody<DepartHost>,
) -> Result<Response, Refusal> {
    app.change(Change::DepartHost { host, way, force, boot_id }, query.dry_run).await
}

/// Takes it back that a host is about to go down.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/stay", operation_id = "keep_host",
    tag = "hosts",
    params(("host" = HostName, Path), ChangeQuery),
    request_body = Option<Nothing>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn stay(
    State(app): State<App>,
    InPath(host): InPath<HostName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(Nothing {}): InBody<Nothing>,
) -> Result<Response, Refusal> {
    app.change(Change::KeepHost { host }, query.dry_run).await
}

/// Says that a silent host is down, so that its VMs may start elsewhere. If it is not, they run twice.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/confirm-down", operation_id = "confirm_host_down",
    tag = "hosts",
    params(("host" = HostName, Path), ChangeQuery),
    request_body = Option<Nothing>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn confirm_down(
    State(app): State<App>,
    InPath(host): InPath<HostName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(Nothing {}): InBody<Nothing>,
) -> Result<Response, Refusal> {
    app.change(Change::ConfirmHostDown { host }, query.dry_run).await
}

/// Pauses failover: no host is given up, and no watchdog resets one, until it is resumed.
#[utoipa::path(
    post,
    path = "/v1/failover/pause", operation_id = "pause_failover",
    tag = "hosts",
    params(ChangeQuery),
    request_body = Option<Nothing>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn pause(
    State(app): State<App>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(Nothing {}): InBody<Nothing>,
) -> Result<Response, Refusal> {
    app.change(Change::PauseFailover { paused: true }, query.dry_run).await
}

/// Resumes failover.
#[utoipa::path(
    post,
    path = "/v1/failover/resume", operation_id = "resume_failover",
    tag = "hosts",
    params(ChangeQuery),
    request_body = Option<Nothing>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn resume(
    State(app): State<App>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(Nothing {}): InBody<Nothing>,
) -> Result<Response, Refusal> {
    app.change(Change::PauseFailover { paused: false }, query.dry_run).await
}
