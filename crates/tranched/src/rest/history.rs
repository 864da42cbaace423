//! How busy GPUs, partitions and VMs were.
//!
//! Each host keeps its own history. Who leads knows which host that is, and asks it at its door.

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::Method;
use serde::Deserialize;
use tranche_api::Problem;
use tranche_api::history::HistoryView;
use tranche_api::problem::MEDIA_TYPE;
use tranche_api::view;
use tranche_core::diagnostics as say;
use tranche_core::history::{Measured, Window};
use tranche_core::name::{GpuAddress, GpuKey, HostName, Timestamp, VmName};
use utoipa::IntoParams;

use super::gpus::find;
use super::input::{InPath, InQuery};
use super::{App, Refusal, sources, state};
use crate::clock;
use crate::cluster::door::{self, Trust};
use crate::history::History;
use crate::openapi::Refusals;

/// Where one member asks another one. It is in no document: people ask for a GPU or a VM.
const PATH: &str = "/history";
/// The part that is shown unless another one is asked for, in seconds.
const SPAN_S: u64 = 60 * 60;
const HINT: &str = "Ask for a shorter time or longer steps, or leave 'step_s' out.";

/// Which part of a history.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// From when, in milliseconds since the Unix epoch.
    from: Option<u64>,
    /// So many seconds before its end, where it is not said from when; an hour if left out, too.
    span_s: Option<u64>,
    /// Until when, in milliseconds since the Unix epoch; now if left out.
    to: Option<u64>,
    /// How long each step is, in seconds: a multiple of 30 with which there are 2,000 steps at most. As fits a picture if left out.
    #[param(minimum = 30, maximum = 86_400)]
    step_s: Option<u64>,
}

/// Which part of a VM's history, and where it ran.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PartOfVm {
    /// From when, in milliseconds since the Unix epoch.
    from: Option<u64>,
    /// So many seconds before its end, where it is not said from when; an hour if left out, too.
    span_s: Option<u64>,
    /// Until when, in milliseconds since the Unix epoch; now if left out.
    to: Option<u64>,
    /// How long each step is, in seconds: a multiple of 30 with which there are 2,000 steps at most. As fits a picture if left out.
    #[param(minimum = 30, maximum = 86_400)]
    step_s: Option<u64>,
    /// The host that measured it; the one that it belongs to now if left out.
    #[param(value_type = Option<HostName>)]
    host: Option<String>,
}

/// What a member asks of another one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    of: String,
    from_s: u64,
    to_s: u64,
    step_s: u64,
}

/// How busy a GPU and its partitions were.
#[utoipa::path(
    get,
    path = "/v1/gpus/{host}/{address}/history", operation_id = "show_gpu_history",
    tag = "gpus",
    params(("host" = HostName, Path), ("address" = GpuAddress, Path), Part),
    responses((status = 200, description = "The history, as the host of the GPU keeps it.", body = HistoryView), Refusals)
)]
pub(super) async fn of_gpu(
    State(app): State<App>,
    InPath(key): InPath<GpuKey>,
    InQuery(part): InQuery<Part>,
) -> Result<Response, Refusal> {
    find(&app, &key)?;
    let window = window(part, clock::now())?;
    app.history_on(&key.host, Measured::Gpu(key.address), window).await
}

/// How busy a VM was, on one host: a VM that moved begins anew on the next one.
#[utoipa::path(
    get,
    path = "/v1/vms/{name}/history", operation_id = "show_vm_history",
    tag = "vms",
    params(("name" = VmName, Path), PartOfVm),
    responses((status = 200, description = "The history, as the host keeps it.", body = HistoryView), Refusals)
)]
pub(super) async fn of_vm(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(PartOfVm { from, span_s, to, step_s, host }): InQuery<PartOfVm>,
) -> Result<Response, Refusal> {
    let seen = app.engine.view();
    let vm = view::vm(&sources(&seen), &name).ok_or_else(|| Refusal::from(say::vm_not_found(&name)))?;
    let window = window(Part { from, span_s, to, step_s }, clock::now())?;
    let named: Option<HostName> = host.map(|host| host.parse()).transpose()?;
    if let Some(host) = named.as_ref().filter(|host| !seen.inventory.contains_key(*host)) {
        return Err(state(&seen).unheard(host).into());
    }
    let only = || seen.inventory.keys().next().filter(|_| seen.inventory.len() == 1).cloned();
    let host = named.or(vm.host).or_else(only).ok_or_else(|| say::history_nowhere(&name))?;
    app.history_on(&host, Measured::Vm(name), window).await
}

/// What a member answers another one.
pub(super) fn of_members(history: &History) -> Router {
    Router::new().route(PATH, get(for_a_member)).with_state(history.clone())
}

async fn for_a_member(
    State(history): State<History>,
    InQuery(asked): InQuery<Asked>,
) -> Result<Json<HistoryView>, Refusal> {
    let of = asked.of.parse()?;
    let window = Window::new(asked.from_s, asked.to_s, Some(asked.step_s)).map_err(refuse)?;
    show(history, of, window).await.map(Json)
}

fn window(Part { from, span_s, to, step_s }: Part, now: Timestamp) -> Result<Window, Refusal> {
    let to_s = to.unwrap_or(now.0).div_ceil(1_000);
    let from_s = match (from, span_s) {
        (Some(_), Some(_)) => {
            let message = "Where a history begins is said twice, by 'from' and by 'span_s'.".to_owned();
            return Err(Refusal::request(StatusCode::UNPROCESSABLE_ENTITY, "query", message, HINT));
        }
        (Some(from), None) => from / 1_000,
        (None, span_s) => to_s.saturating_sub(span_s.unwrap_or(SPAN_S)),
    };
    Window::new(from_s, to_s, step_s).map_err(refuse)
}

fn refuse(error: tranche_core::history::WindowError) -> Refusal {
    let message = format!("This part of a history cannot be shown: {error}.");
    Refusal::request(StatusCode::UNPROCESSABLE_ENTITY, "query", message, HINT)
}

async fn show(history: History, of: Measured, window: Window) -> Result<HistoryView, Refusal> {
    let shown = tokio::task::spawn_blocking(move || history.show(&of, &window)).await;
    shown.map_err(|_| Refusal::defect())
}

impl App {
    /// A part of the history that a host keeps.
    async fn history_on(&self, host: &HostName, of: Measured, window: Window) -> Result<Response, Refusal> {
        if host == self.engine.host_name() {
            return show(self.history.clone(), of, window).await.map(|view| Json(view).into_response());
        }
        let (cluster, asked) = (self.cluster.clone(), host.clone());
        let known = tokio::task::spawn_blocking(move || {
            let identity = cluster.identity()?.ok_or_else(say::cluster_none)?;
            Ok::<_, tranche_core::finding::Finding>((identity, cluster.door_of(&asked)?))
        });
        let (identity, address) = known.await.map_err(|_| Refusal::defect())??;
        // A name has a space and no other character that a query may not have.
        let path = format!(
            "{PATH}?of={}&from_s={}&to_s={}&step_s={}",
            of.to_string().replace(' ', "+"),
            window.from_s(),
            window.to_s(),
            window.step_s()
        );
        let trust = Trust::Member(&identity, &address.key);
        let answer = door::ask(&address.place, trust, Method::GET, &path, Vec::new()).await;
        let (status, body) = answer.map_err(|error| say::history_unavailable(host, &error.to_string()))?;
        match status {
            StatusCode::OK => {
                Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response())
            }
            StatusCode::NOT_FOUND => {
                Err(say::history_unavailable(host, "its tranched is of an older version").into())
            }
            _ => match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) => {
                    Ok((status, [(header::CONTENT_TYPE, MEDIA_TYPE)], Json(problem)).into_response())
                }
                Err(_) => Err(say::history_unavailable(host, &format!("it answered {status}")).into()),
            },
        }
    }
}
