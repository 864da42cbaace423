//! Operations: what is being done, and what was.

use axum::Json;
use axum::extract::State;
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Severity, Subject};
use tranche_core::name::OperationId;
use tranche_core::operation::Operation;

use super::input::{InPath, InQuery, NoQuery};
use super::{App, Refusal};
use crate::openapi::Refusals;

/// Every operation that is remembered, the newest first.
#[utoipa::path(
    get,
    path = "/v1/operations", operation_id = "list_operations",
    tag = "operations",
    responses((status = 200, description = "Every operation, the newest first.", body = Vec<Operation>), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Json<Vec<Operation>> {
    let mut operations: Vec<Operation> = app.engine.view().operations.values().cloned().collect();
    operations.sort_by_key(|operation| (std::cmp::Reverse(operation.created_at), operation.id));
    Json(operations)
}

/// One operation.
#[utoipa::path(
    get,
    path = "/v1/operations/{id}", operation_id = "show_operation",
    tag = "operations",
    params(("id" = OperationId, Path)),
    responses((status = 200, description = "The operation.", body = Operation), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    InPath(id): InPath<OperationId>,
) -> Result<Json<Operation>, Refusal> {
    let operation = app.engine.view().operations.get(&id).cloned();
    operation.map(Json).ok_or_else(|| {
        let message = format!("There is no operation {id}, or it has been forgotten.");
        let hint = "'tranche operation list' shows those that are remembered.";
        let subject = Subject::Input(id.to_string());
        Refusal::from(finding(Code::OperationNotFound, Severity::Error, subject, message, hint))
    })
}
