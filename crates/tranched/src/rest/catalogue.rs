//! What is known of models of GPUs, and whether this host's GPUs agree.

use axum::Json;
use axum::extract::State;
use tranche_api::answer::Diagnosis;
use tranche_api::catalogue::CatalogueEntry;
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Severity, Subject};
use tranche_host::catalogue::{Catalogue, Entry};

use super::input::{InPath, InQuery, NoQuery};
use super::page::{InPage, PageQuery, Paged};
use super::{App, Refusal};
use crate::openapi::Refusals;

/// Every model that is known.
#[utoipa::path(
    get,
    path = "/v1/catalogue", operation_id = "list_catalogue",
    tag = "gpus",
    params(PageQuery),
    responses((status = 200, description = "Every model, by name.", body = Vec<CatalogueEntry>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    page: InPage,
) -> Result<Paged<Vec<CatalogueEntry>>, Refusal> {
    page.of(entries(&app.engine.catalogue())?, |entry| entry.model.clone())
}

/// What is known of a model.
#[utoipa::path(
    get,
    path = "/v1/catalogue/{model}", operation_id = "show_catalogue_entry",
    tag = "gpus",
    params(("model" = String, Path)),
    responses((status = 200, description = "The model.", body = CatalogueEntry), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    InPath(model): InPath<String>,
) -> Result<Json<CatalogueEntry>, Refusal> {
    let entry = entries(&app.engine.catalogue())?.into_iter().find(|entry| entry.model == model);
    entry.map(Json).ok_or_else(|| {
        let message = format!("The catalogue has no model {model:?}.");
        let subject = Subject::Input("model".to_owned());
        let hint = "'tranche catalogue list' shows the models.";
        Refusal::from(finding(Code::ModelNotFound, Severity::Error, subject, message, hint))
    })
}

/// Compares what the catalogue says with what this host's GPUs show.
#[utoipa::path(
    get,
    path = "/v1/catalogue-check", operation_id = "check_catalogue",
    tag = "gpus",
    responses((status = 200, description = "Where they differ.", body = Diagnosis), Refusals)
)]
pub(super) async fn check(State(app): State<App>, InQuery(NoQuery {}): InQuery<NoQuery>) -> Json<Diagnosis> {
    let (catalogue, seen) = (app.engine.catalogue(), app.engine.view());
    Json(Diagnosis::new(seen.inventory.values().flat_map(|host| catalogue.check(host)).collect()))
}

fn entries(catalogue: &Catalogue) -> Result<Vec<CatalogueEntry>, Refusal> {
    catalogue.entries().into_iter().map(|entry| on_the_wire(entry).map_err(|_| Refusal::defect())).collect()
}

/// The words on the wire are those of the files, so that the one is read from what the other writes.
fn on_the_wire(entry: &Entry) -> serde_json::Result<CatalogueEntry> {
    serde_json::from_value(serde_json::to_value(entry)?)
}
