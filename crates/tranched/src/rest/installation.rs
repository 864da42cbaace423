//! What concerns the whole installation: findings, policies, declarations.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tranche_api::answer::{Accepted, Applied, Diagnosis, Preview, WhyNot};
use tranche_api::view::{self, Overview};
use tranche_core::change::Change;
use tranche_core::declare::Declaration;
use tranche_core::finding::Finding;
use tranche_core::name::{HostName, VmName};
use tranche_core::spec::Policy;

use super::input::{ChangeQuery, InPath, InQuery, InWholeBody, NoQuery};
use super::limited::Among;
use super::page::{InPage, PageQuery, Paged};
use super::{App, Refusal, sources};
use crate::clock;
use crate::engine;
use crate::openapi::Refusals;

/// Everything in figures.
#[utoipa::path(
    get,
    path = "/v1/overview", operation_id = "overview",
    tag = "installation",
    responses((status = 200, description = "How many of everything there are, and how they are.", body = Overview), Refusals)
)]
pub(super) async fn overview(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Json<Overview>, Refusal> {
    app.ask(|engine| Ok(view::overview(&sources(&engine.view())))).await.map(Json)
}

/// What is wrong or waits, the gravest first.
#[utoipa::path(
    get,
    path = "/v1/findings", operation_id = "list_findings",
    tag = "installation",
    params(PageQuery),
    responses((status = 200, description = "Every finding, the gravest first.", body = Vec<Finding>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
pub(super) async fn findings(
    State(app): State<App>,
    among: Among,
    page: InPage,
) -> Result<Paged<Vec<Finding>>, Refusal> {
    let known = app.engine.view();
    let mut findings = known.findings.to_vec();
    findings.extend(app.cluster.findings());
    among.keep(&known, &mut findings, |theirs, finding| theirs.concern(&finding.subject));
    page.of(Diagnosis::new(findings).findings, |finding| (Reverse(finding.severity), finding.clone()))
}

/// Everything that keeps a VM from running on a host.
#[utoipa::path(
    get,
    path = "/v1/why-not/{vm}/{host}", operation_id = "why_not",
    tag = "installation",
    params(("vm" = VmName, Path), ("host" = HostName, Path)),
    responses((status = 200, description = "Every predicate that fails.", body = WhyNot), Refusals)
)]
pub(super) async fn why_not(
    State(app): State<App>,
    InPath((vm, host)): InPath<(VmName, HostName)>,
) -> Result<Json<WhyNot>, Refusal> {
    let asked = (vm.clone(), host.clone());
    let findings = app.ask(move |engine| engine.why_not(&asked.0, &asked.1)).await?;
    Ok(Json(WhyNot { vm, host, possible: findings.is_empty(), findings }))
}

/// Looks anew at everything, and tells what is not as it should be.
#[utoipa::path(get, path = "/v1/doctor", operation_id = "doctor", tag = "installation", responses((status = 200, description = "What was found.", body = Diagnosis), Refusals))]
pub(super) async fn doctor(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Json<Diagnosis>, Refusal> {
    let mut findings = app.ask(|engine| Ok(engine.doctor(clock::now()))).await?;
    findings.extend(app.cluster.findings());
    Ok(Json(Diagnosis::new(findings)))
}

/// Brings about what is declared, all of it or nothing. What is not named is left alone.
#[utoipa::path(
    post,
    path = "/v1/apply", operation_id = "apply",
    tag = "installation",
    params(ChangeQuery),
    request_body = Declaration,
    responses((status = 202, description = "It is accepted.", body = Applied), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn apply(
    State(app): State<App>,
    InQuery(query): InQuery<ChangeQuery>,
    InWholeBody(declaration): InWholeBody<Declaration>,
) -> Result<Response, Refusal> {
    declare(&app, declaration, query.dry_run).await
}

/// Tells what applying a declaration would do.
#[utoipa::path(
    post,
    path = "/v1/diff", operation_id = "diff",
    tag = "installation",
    request_body = Declaration,
    responses((status = 200, description = "What applying it would do.", body = Preview), Refusals)
)]
pub(super) async fn diff(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InWholeBody(declaration): InWholeBody<Declaration>,
) -> Result<Response, Refusal> {
    declare(&app, declaration, true).await
}

/// The policies.
#[utoipa::path(get, path = "/v1/policy", operation_id = "show_policy", tag = "installation", responses((status = 200, description = "The policies.", body = Policy), Refusals))]
pub(super) async fn policy(State(app): State<App>, InQuery(NoQuery {}): InQuery<NoQuery>) -> Json<Policy> {
    Json(app.engine.view().spec.policy)
}

/// Sets the policies, all of them.
#[utoipa::path(
    put,
    path = "/v1/policy", operation_id = "set_policy",
    tag = "installation",
    params(ChangeQuery),
    request_body = Policy,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn set_policy(
    State(app): State<App>,
    InQuery(query): InQuery<ChangeQuery>,
    InWholeBody(policy): InWholeBody<Policy>,
) -> Result<Response, Refusal> {
    app.change(Change::SetPolicy { policy }, query.dry_run).await
}

async fn declare(app: &App, declaration: Declaration, dry_run: bool) -> Result<Response, Refusal> {
    match app.ask(move |engine| engine.apply(&declaration, dry_run, clock::now())).await? {
        engine::Applied::Accepted { operations, findings } => {
            app.bell.ring();
            Ok((StatusCode::ACCEPTED, Json(Applied { operations, findings })).into_response())
        }
        engine::Applied::Preview { titles, effect } => {
            Ok(Json(Preview { changes: titles, effect, version: None }).into_response())
        }
    }
}
