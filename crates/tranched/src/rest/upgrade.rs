//! In which order the machines of the cluster are brought up to date.

use axum::Json;
use axum::extract::State;
use tranche_core::finding::Code;
use tranche_core::upgrade::{self, Machine, UpgradePlan};

use super::cluster::wait_for;
use super::input::{InQuery, NoQuery};
use super::{App, Refusal, state};
use crate::openapi::Refusals;

/// The order in which to drain the machines of the cluster, bring them up to date and take them back, so that VMs have somewhere
/// to go and the store keeps its majority.
#[utoipa::path(
    get,
    path = "/v1/cluster/upgrade-plan", operation_id = "plan_upgrade",
    tag = "cluster",
    responses((status = 200, description = "The order.", body = UpgradePlan), Refusals)
)]
pub(super) async fn plan(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Json<UpgradePlan>, Refusal> {
    // It is the one that leads who answers.
    let leader = app.engine.host_name().clone();
    let known = wait_for(app.cluster.clone(), |cluster| Ok(cluster.examine())).await?;
    // An order by what was known once would be no order.
    if let Some(silent) = known.findings.iter().find(|finding| finding.code == Code::StoreUnavailable) {
        return Err(Refusal::from(silent.clone()));
    }
    let machines: Vec<Machine> = known
        .members
        .into_iter()
        .map(|member| Machine {
            votes: member.store.is_some(),
            leads: member.host == leader,
            host: member.host,
            version: member.version,
        })
        .collect();
    let seen = app.engine.view();
    Ok(Json(upgrade::plan(state(&seen), &machines)))
}
