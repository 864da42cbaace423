//! GPUs and their partitions.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use tranche_api::answer::{Accepted, Preview};
use tranche_api::limits::PAGE_LEN_MAX;
use tranche_api::view::{self, GpuView, PartitionView};
use tranche_core::change::Change;
use tranche_core::diagnostics as say;
use tranche_core::name::{GpuAddress, GpuKey, HostName};
use tranche_core::spec::AskedMode;

use super::input::{ChangeQuery, InBody, InPath, InQuery};
use super::page::{InPage, PageQuery, Paged};
use super::{App, Refusal, sources, state};
use crate::openapi::Refusals;

/// Every GPU.
#[utoipa::path(
    get,
    path = "/v1/gpus", operation_id = "list_gpus",
    tag = "gpus",
    params(PageQuery),
    responses((status = 200, description = "Every GPU, in order.", body = Vec<GpuView>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
pub(super) async fn list(State(app): State<App>, page: InPage) -> Result<Paged<Vec<GpuView>>, Refusal> {
    let seen = app.engine.view();
    let sources = sources(&seen);
    let keys = page.of(view::gpu_keys(&sources), |key| (key.host.clone(), key.address.clone()))?;
    // Only those on the page are made.
    Ok(keys.map(|keys| view::gpus_at(&sources, &keys)))
}

/// One GPU.
#[utoipa::path(
    get,
    path = "/v1/gpus/{host}/{address}", operation_id = "show_gpu",
    tag = "gpus",
    params(("host" = HostName, Path), ("address" = GpuAddress, Path)),
    responses((status = 200, description = "The GPU.", body = GpuView), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    InPath(key): InPath<GpuKey>,
) -> Result<Json<GpuView>, Refusal> {
    find(&app, &key).map(Json)
}

/// A GPU, or why there is none.
pub(super) fn find(app: &App, key: &GpuKey) -> Result<GpuView, Refusal> {
    let seen = app.engine.view();
    view::gpu(&sources(&seen), key).ok_or_else(|| {
        let host_is_known = seen.inventory.contains_key(&key.host);
        Refusal::from(if host_is_known { say::gpu_not_found(key) } else { state(&seen).unheard(&key.host) })
    })
}

/// Uses a GPU in a mode: `host` releases it.
#[utoipa::path(
    put,
    path = "/v1/gpus/{host}/{address}/mode", operation_id = "set_gpu_mode",
    tag = "gpus",
    params(("host" = HostName, Path), ("address" = GpuAddress, Path), ChangeQuery),
    request_body = AskedMode,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn set_mode(
    State(app): State<App>,
    InPath(gpu): InPath<GpuKey>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(AskedMode { mode, drain, reload_driver }): InBody<AskedMode>,
) -> Result<Response, Refusal> {
    let change = match (reload_driver, drain) {
        (true, _) => Change::ReloadDriver { gpu, mode },
        (false, true) => Change::DrainGpu { gpu, mode },
        (false, false) => Change::SetGpuMode { gpu, mode },
    };
    app.change(change, query.dry_run).await
}

/// Of which GPUs partitions are asked for, and a page of them.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PartitionsQuery {
    /// Only those of this host.
    #[param(required = false, value_type = Option<HostName>)]
    host: Option<HostName>,
    /// So many items at most, 1 to 1,000; all if left out. If there are more, the header `Link` leads to the next page.
    #[param(required = false, minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// Only what comes behind the page whose `Link` has this. It is no text to be made up.
    #[param(required = false)]
    after: Option<String>,
}

/// Every partition.
#[utoipa::path(
    get,
    path = "/v1/partitions", operation_id = "list_partitions",
    tag = "gpus",
    params(PartitionsQuery),
    responses((status = 200, description = "Every partition, in order.", body = Vec<PartitionView>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
pub(super) async fn partitions(
    State(app): State<App>,
    InQuery(PartitionsQuery { host, limit, after }): InQuery<PartitionsQuery>,
) -> Result<Paged<Vec<PartitionView>>, Refusal> {
    let page = InPage::at("/v1/partitions", limit, after, PAGE_LEN_MAX);
    let seen = app.engine.view();
    let (partitions, page) = match &host {
        None => (view::partitions(&sources(&seen)), page),
        Some(host) => (view::partitions_on(&sources(&seen), host), page.keeping(&format!("host={host}"))),
    };
    // Of one GPU, those that have an index come first.
    page.of(partitions, |partition| {
        let PartitionView { host, gpu, index, device, .. } = partition;
        (host.clone(), gpu.clone(), index.is_none(), *index, device.clone())
    })
}
