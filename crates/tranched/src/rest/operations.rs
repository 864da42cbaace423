//! Operations: what is being done, and what was.

use std::cmp::Reverse;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use tranche_api::limits::OPERATION_WAIT_MAX_MS;
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Severity, Subject};
use tranche_core::name::OperationId;
use tranche_core::operation::Operation;
use utoipa::IntoParams;

use super::input::{InPath, InQuery};
use super::limited::Among;
use super::page::{InPage, PageQuery, Paged};
use super::{App, Refusal};
use crate::openapi::Refusals;

/// Every operation that is remembered, the newest first.
#[utoipa::path(
    get,
    path = "/v1/operations", operation_id = "list_operations",
    tag = "operations",
    params(PageQuery),
    responses((status = 200, description = "Every operation, the newest first.", body = Vec<Operation>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    among: Among,
    page: InPage,
) -> Result<Paged<Vec<Operation>>, Refusal> {
    let newest_first = |operation: &&Operation| (Reverse(operation.created_at), operation.id);
    let known = app.engine.view();
    let mut operations: Vec<&Operation> = known.operations.values().collect();
    among.keep(&known, &mut operations, |theirs, operation| theirs.order(operation));
    operations.sort_by_key(newest_first);
    Ok(page.of(operations, newest_first)?.map(|page| page.into_iter().cloned().collect()))
}

/// How long the answer may wait for an operation's end.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// Answer when the operation is over, at the latest after so many milliseconds (10,000 at most); at once without.
    #[param(maximum = 10_000)]
    wait_ms: Option<u64>,
}

/// One operation.
#[utoipa::path(
    get,
    path = "/v1/operations/{id}", operation_id = "show_operation",
    tag = "operations",
    params(("id" = OperationId, Path), Wait),
    responses((status = 200, description = "The operation.", body = Operation), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    InPath(id): InPath<OperationId>,
    InQuery(Wait { wait_ms }): InQuery<Wait>,
) -> Result<Json<Operation>, Refusal> {
    let limit = Duration::from_millis(wait_ms.unwrap_or(0).min(OPERATION_WAIT_MAX_MS));
    let mut views = app.engine.watch();
    let over = views.wait_for(|view| view.operations.get(&id).is_none_or(|known| known.state.is_over()));
    // Over or not: the answer says where it stands.
    let _ = tokio::time::timeout(limit, over).await;
    let operation = app.engine.view().operations.get(&id).cloned();
    operation.map(Json).ok_or_else(|| not_found(id))
}

/// There is no such operation.
pub(super) fn not_found(id: OperationId) -> Refusal {
    let message = format!("There is no operation {id}, or it has been forgotten.");
    let hint = "'tranche operation list' shows those that are remembered.";
    let subject = Subject::Input(id.to_string());
    Refusal::from(finding(Code::OperationNotFound, Severity::Error, subject, message, hint))
}
