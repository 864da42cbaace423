//! Rules about where VMs run, and what hosts have to spare.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use tranche_api::answer::{Accepted, Preview};
use tranche_core::capacity::{self, Capacity};
use tranche_core::change::Change;
use tranche_core::diagnostics as say;
use tranche_core::name::{HostName, RuleName};
use tranche_core::spec::Rule;

use super::input::{ChangeQuery, InBody, InPath, InQuery};
use super::page::{InPage, PageQuery, Paged};
use super::{App, Refusal, state};
use crate::engine::Rejected;
use crate::openapi::Refusals;

/// Every rule, by name.
#[utoipa::path(
    get,
    path = "/v1/rules", operation_id = "list_rules",
    tag = "rules",
    params(PageQuery),
    responses((status = 200, description = "Every rule, by name.", body = std::collections::BTreeMap<RuleName, Rule>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
pub(super) async fn list(
    State(app): State<App>,
    page: InPage,
) -> Result<Paged<BTreeMap<RuleName, Rule>>, Refusal> {
    let rules = app.engine.view().spec.rules.clone();
    let rules: Vec<(RuleName, Rule)> =
        rules.iter().map(|(name, rule)| (name.clone(), rule.clone())).collect();
    Ok(page.of(rules, |(name, _)| name.clone())?.map(BTreeMap::from_iter))
}

/// One rule.
#[utoipa::path(
    get,
    path = "/v1/rules/{name}", operation_id = "show_rule",
    tag = "rules",
    params(("name" = RuleName, Path)),
    responses((status = 200, description = "The rule.", body = Rule), Refusals)
)]
pub(super) async fn show(
    State(app): State<App>,
    InPath(name): InPath<RuleName>,
) -> Result<Json<Rule>, Refusal> {
    let rule = app.engine.view().spec.rules.get(&name).cloned();
    rule.map(Json).ok_or_else(|| Refusal::from(say::rule_not_found(&name)))
}

/// Makes a rule, or changes it.
#[utoipa::path(
    put,
    path = "/v1/rules/{name}", operation_id = "set_rule",
    tag = "rules",
    params(("name" = RuleName, Path), ChangeQuery),
    request_body = Rule,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn set(
    State(app): State<App>,
    InPath(name): InPath<RuleName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(rule): InBody<Rule>,
) -> Result<Response, Refusal> {
    app.change(Change::SetRule { name, rule }, query.dry_run).await
}

/// Forgets a rule.
#[utoipa::path(
    delete,
    path = "/v1/rules/{name}", operation_id = "delete_rule",
    tag = "rules",
    params(("name" = RuleName, Path), ChangeQuery),
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn delete(
    State(app): State<App>,
    InPath(name): InPath<RuleName>,
    InQuery(query): InQuery<ChangeQuery>,
) -> Result<Response, Refusal> {
    app.change(Change::DeleteRule { name }, query.dry_run).await
}

/// What is asked of spare capacity.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CapacityQuery {
    /// Hosts to leave out as if they had died, with commas between them.
    #[param(required = false)]
    pub(super) without: String,
}

/// What could start now, and whether every protected VM would run again if any one host died.
#[utoipa::path(
    get,
    path = "/v1/capacity", operation_id = "capacity",
    tag = "installation",
    params(CapacityQuery),
    responses((status = 200, description = "What there is to spare, by size and by host.", body = Capacity), Refusals)
)]
pub(super) async fn capacity(
    State(app): State<App>,
    InQuery(query): InQuery<CapacityQuery>,
) -> Result<Json<Capacity>, Refusal> {
    let named = query.without.split(',').filter(|name| !name.is_empty());
    let without: Result<BTreeSet<HostName>, _> = named.map(str::parse).collect();
    let without = without.map_err(|error| Refusal::from(say::invalid_name(&error)))?;
    let answer = app.ask(move |engine| {
        let seen = engine.view();
        if without.is_empty() {
            return Ok(seen.capacity().clone());
        }
        capacity::capacity(state(&seen), &without).map_err(Rejected::Refused)
    });
    answer.await.map(Json)
}
