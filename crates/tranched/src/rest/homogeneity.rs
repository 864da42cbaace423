//! Whether GPUs are alike, and one mode for all of a set.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use tranche_api::answer::{Accepted, Preview};
use tranche_core::change::{Change, SetMode};
use tranche_core::homogeneity::{self, Report};

use super::input::{ChangeQuery, InBody, InQuery, NoQuery};
use super::{App, Refusal, state};
use crate::openapi::Refusals;

/// Whether the GPUs that serve VMs are alike: for each attribute what differs, what that breaks, and what mends it.
#[utoipa::path(
    get,
    path = "/v1/homogeneity", operation_id = "homogeneity",
    tag = "gpus",
    responses((status = 200, description = "Each set of GPUs, compared.", body = Report), Refusals)
)]
pub(super) async fn report(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Json<Report>, Refusal> {
    let answer = app.ask(|engine| {
        let seen = engine.view();
        Ok(homogeneity::report(state(&seen)))
    });
    answer.await.map(Json)
}

/// Uses all GPUs of a homogeneous set in a mode, on all hosts, in one commit.
///
/// A dry run tells a version; a wish with a version is refused if anything that it rests on has changed since.
#[utoipa::path(
    put,
    path = "/v1/gpus/mode", operation_id = "set_all_gpus_mode",
    tag = "gpus",
    params(ChangeQuery),
    request_body = SetMode,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn set_mode(
    State(app): State<App>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(wish): InBody<SetMode>,
) -> Result<Response, Refusal> {
    app.change(Change::SetAllGpus(wish), query.dry_run).await
}
