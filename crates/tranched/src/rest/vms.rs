//! VMs.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use tranche_api::answer::{Accepted, Preview};
use tranche_api::limits::PAGE_LEN_MAX;
use tranche_api::request::{AttachGpu, CreateVm, DetachGpu, MigrateVm, Nothing, RestartVm, StopVm};
use tranche_api::view::{self, VmView};
use tranche_core::change::{AdoptedVm, Change};
use tranche_core::diagnostics as say;
use tranche_core::label::{Label, Labels};
use tranche_core::migration::Outlook;
use tranche_core::name::{NameError, VmName};
use tranche_core::spec::VmPart;

use super::input::{ChangeQuery, DeleteQuery, InBody, InPath, InQuery, NoQuery};
use super::limited::Among;
use super::page::{InPage, Paged};
use super::{App, Refusal, sources};
use crate::openapi::Refusals;

/// Which VMs are asked for, and a page of them.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VmsQuery {
    /// Only those that carry all these labels, each as `key=value`, with commas between them.
    #[param(required = false, example = "team=red")]
    label: Option<String>,
    /// So many items at most, 1 to 1,000; all if left out. If there are more, the header `Link` leads to the next page.
    #[param(required = false, minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// Only what comes behind the page whose `Link` has this. It is no text to be made up.
    #[param(required = false)]
    after: Option<String>,
}

/// Every VM.
#[utoipa::path(
    get,
    path = "/v1/vms", operation_id = "list_vms",
    tag = "vms",
    params(VmsQuery),
    responses((status = 200, description = "Every VM, by name.", body = Vec<VmView>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    among: Among,
    InQuery(VmsQuery { label, limit, after }): InQuery<VmsQuery>,
) -> Result<Paged<Vec<VmView>>, Refusal> {
    let mut page = InPage::at("/v1/vms", limit, after, PAGE_LEN_MAX);
    let mut labels = Vec::new();
    if let Some(text) = &label {
        labels = text.split(',').map(str::parse).collect::<Result<Vec<Label>, NameError>>()?;
        page = page.keeping(&format!("label={text}"));
    }
    let known = app.engine.view();
    let carry = |has: &Labels| labels.iter().all(|label| label.is_of(has));
    let asked = known.spec.vms.iter().filter(|(_, vm)| among.allow(&vm.labels) && carry(&vm.labels));
    let names = page.of(asked.map(|(name, _)| name.clone()).collect(), VmName::clone)?;
    // Only those on the page are made.
    let sources = sources(&known);
    Ok(names.map(|names| names.iter().filter_map(|name| view::vm(&sources, name)).collect()))
}

/// Makes a VM. It is off at first.
#[utoipa::path(
    post,
    path = "/v1/vms", operation_id = "create_vm",
    tag = "vms",
    params(ChangeQuery),
    request_body = CreateVm,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn create(
    State(app): State<App>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(request): InBody<CreateVm>,
) -> Result<Response, Refusal> {
    app.change(request.into_change()?, query.dry_run).await
}

/// One VM.
#[utoipa::path(
    get,
    path = "/v1/vms/{name}", operation_id = "show_vm",
    tag = "vms",
    params(("name" = VmName, Path)),
    responses((status = 200, description = "The VM.", body = VmView), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
) -> Result<Json<VmView>, Refusal> {
    let vm = view::vm(&sources(&app.engine.view()), &name);
    vm.map(Json).ok_or_else(|| Refusal::from(say::vm_not_found(&name)))
}

/// Forgets a VM; removes its domain if Tranche made it. Its disks stay.
#[utoipa::path(
    delete,
    path = "/v1/vms/{name}", operation_id = "delete_vm",
    tag = "vms",
    params(("name" = VmName, Path), DeleteQuery),
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn delete(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<DeleteQuery>,
) -> Result<Response, Refusal> {
    app.change(Change::DeleteVm { name, force: query.force }, query.dry_run).await
}

/// Takes over a libvirt domain, as it is.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/adopt", operation_id = "adopt_vm",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = AdoptedVm,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn adopt(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(vm): InBody<AdoptedVm>,
) -> Result<Response, Refusal> {
    app.change(Change::AdoptVm { name, vm }, query.dry_run).await
}

/// Changes what can be changed of a VM at any time: how much is done to keep it running, what is kept for it, and its labels. What is
/// left out stays as it is, and the VM is not restarted.
#[utoipa::path(
    patch,
    path = "/v1/vms/{name}", operation_id = "set_vm",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = VmPart,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn set(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(wish): InBody<VmPart>,
) -> Result<Response, Refusal> {
    app.change(Change::SetVm { name, wish }, query.dry_run).await
}

/// Runs a VM.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/start", operation_id = "start_vm",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = Option<Nothing>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn start(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(Nothing {}): InBody<Nothing>,
) -> Result<Response, Refusal> {
    app.change(Change::StartVm { name }, query.dry_run).await
}

/// Turns a VM off.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/stop", operation_id = "stop_vm",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = Option<StopVm>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn stop(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(StopVm { force }): InBody<StopVm>,
) -> Result<Response, Refusal> {
    app.change(Change::StopVm { name, force }, query.dry_run).await
}

/// Turns a VM off and on.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/restart", operation_id = "restart_vm",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = Option<RestartVm>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn restart(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(RestartVm { force }): InBody<RestartVm>,
) -> Result<Response, Refusal> {
    app.change(Change::RestartVm { name, force }, query.dry_run).await
}

/// Runs a VM on another host: shuts it down and starts it there.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/migrate", operation_id = "migrate_vm",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = Option<MigrateVm>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn migrate(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(MigrateVm { to }): InBody<MigrateVm>,
) -> Result<Response, Refusal> {
    app.change(Change::MigrateVm { name, to }, query.dry_run).await
}

/// Where a VM that runs could go: what would become of it on each other host, and what stands against moving it while it runs.
#[utoipa::path(
    get,
    path = "/v1/vms/{name}/destinations", operation_id = "vm_destinations",
    tag = "vms",
    params(("name" = VmName, Path)),
    responses((status = 200, description = "Every other host, by name.", body = Vec<Outlook>), Refusals)
)]
pub(super) async fn destinations(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Json<Vec<Outlook>>, Refusal> {
    Ok(Json(app.ask(move |engine| engine.destinations(&name)).await?))
}

/// Lets a VM ask for a GPU or a partition.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/attach", operation_id = "attach_gpu",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = AttachGpu,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn attach(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(AttachGpu { request, restart }): InBody<AttachGpu>,
) -> Result<Response, Refusal> {
    app.change(Change::AttachGpu { name, request, restart }, query.dry_run).await
}

/// Lets a VM ask for nothing.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/detach", operation_id = "detach_gpu",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = Option<DetachGpu>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn detach(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(DetachGpu { restart }): InBody<DetachGpu>,
) -> Result<Response, Refusal> {
    app.change(Change::DetachGpu { name, restart }, query.dry_run).await
}
