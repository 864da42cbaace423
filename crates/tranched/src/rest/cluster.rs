//! The cluster: what people ask of this host's side of it, and what other machines ask at its door.
//!
//! Whoever is at the door shows a certificate of the cluster and is a member, or asks to be let in; nothing else is
//! answered there.

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, FromRef, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use tokio::sync::watch;
use tranche_api::cluster::{ClusterView, CreateToken, InitCluster, JoinCluster, ReplaceMember, TokenCreated};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::HostName;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::input::{InBody, InPath, InQuery, NoQuery};
use super::{App, Refusal, followed, guard};
use crate::cluster::Cluster;
use crate::cluster::carry::{BACKUP_LEN_MAX, Backup};
use crate::cluster::door::Caller;
use crate::cluster::parting::Removal;
use crate::cluster::pki::Certificates;
use crate::cluster::registry::{JoinAnswer, JoinRequest};
use crate::openapi::Refusals;
use crate::patience::Patience;

impl FromRef<App> for Cluster {
    fn from_ref(app: &App) -> Self {
        app.cluster.clone()
    }
}

/// What people ask on the host's own socket.
pub(super) fn of_the_cluster<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Cluster: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(init))
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(create_token))
        .routes(routes!(remove))
        .routes(routes!(replace))
        .routes(routes!(backup))
        .routes(routes!(restore))
        .routes(routes!(defragment))
}

/// The interface of a machine that only has a voice in the store, on its own socket.
pub fn witness(cluster: Cluster, patience: Patience) -> Router {
    let (router, _) = of_the_cluster::<Cluster>().split_for_parts();
    finished(router.with_state(cluster), patience)
}

/// The interface of a member that waits for the store, on its own socket: of all else, it says why it cannot answer.
pub fn waiting(cluster: Cluster, patience: Patience, why: watch::Receiver<Finding>) -> Router {
    let (router, _) = of_the_cluster::<Cluster>().split_for_parts();
    let refuse = move || async move { Refusal::from(why.borrow().clone()) };
    router.with_state(cluster).fallback(refuse).layer(from_fn_with_state(patience, guard::guard))
}

/// The interface at the door: `members` is what a member may ask besides.
pub fn door(cluster: Cluster, members: Router, patience: Patience) -> Router {
    let members = Router::new()
        .route("/cluster/certificates", post(certify))
        .route("/cluster/authority", get(authority))
        .route("/cluster/store-member/down", get(store_member_down))
        .with_state(cluster.clone())
        .merge(members)
        .layer(from_fn_with_state(cluster.clone(), members_only));
    let router = Router::new().route("/cluster/join", post(let_in)).with_state(cluster).merge(members);
    finished(router.layer(from_fn(tranche_console::tell_route)), patience).layer(from_fn(followed::go_on))
}

fn finished(router: Router, patience: Patience) -> Router {
    router
        .fallback(guard::not_found)
        .method_not_allowed_fallback(guard::method_not_allowed)
        .layer(from_fn_with_state(patience, guard::guard))
}

async fn members_only(State(cluster): State<Cluster>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<ConnectInfo<Caller>>();
    let shown = caller.and_then(|ConnectInfo(caller)| caller.host.clone().zip(caller.key.clone()));
    let known = match shown {
        Some((host, key)) => {
            tokio::task::spawn_blocking(move || cluster.knows(&host, &key)).await.unwrap_or(false)
        }
        None => false,
    };
    if known {
        return next.run(request).await;
    }
    let message = "Only a member of the cluster is answered here.".to_owned();
    let hint = "Show the certificate of a host that is one: pki/client.crt in its state directory.";
    Refusal::request(StatusCode::FORBIDDEN, "certificate", message, hint).into_response()
}

/// Does what may wait for the store, the disk or others.
pub(super) async fn wait_for<T: Send + 'static>(
    cluster: Cluster,
    work: impl FnOnce(&Cluster) -> Result<T, Finding> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(followed::within(move || work(&cluster))).await;
    done.map_err(|_| Refusal::defect())?.map_err(Refusal::from)
}

type View = Result<(StatusCode, Json<ClusterView>), Refusal>;

/// What follows is shown by `GET /v1/cluster`.
async fn begin(
    cluster: Cluster,
    work: impl FnOnce(&Cluster) -> Result<(), Finding> + Send + 'static,
) -> View {
    let view = wait_for(cluster, |cluster| work(cluster).map(|()| cluster.view())).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// The cluster that this host is in, its machines, and how its store fares.
#[utoipa::path(get, path = "/v1/cluster", operation_id = "show_cluster", tag = "cluster", responses((status = 200, description = "The cluster, as this host sees it.", body = ClusterView), Refusals))]
async fn show(
    State(cluster): State<Cluster>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Json<ClusterView>, Refusal> {
    wait_for(cluster, |cluster| Ok(cluster.examine())).await.map(Json)
}

/// Begins a cluster with this host, which brings all its records. The daemon replaces itself on the way.
#[utoipa::path(
    post,
    path = "/v1/cluster/init", operation_id = "init_cluster",
    tag = "cluster",
    request_body = Option<InitCluster>,
    responses((status = 202, description = "It is on its way.", body = ClusterView), Refusals)
)]
async fn init(
    State(cluster): State<Cluster>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(asked): InBody<InitCluster>,
) -> View {
    begin(cluster, move |cluster| cluster.init(asked.name.as_deref(), asked.address.as_deref())).await
}

/// Takes this host into a cluster; it brings the records of its GPUs and VMs. The daemon replaces itself on the way.
#[utoipa::path(
    post,
    path = "/v1/cluster/join", operation_id = "join_cluster",
    tag = "cluster",
    request_body = JoinCluster,
    responses((status = 202, description = "It is on its way.", body = ClusterView), Refusals)
)]
async fn join(
    State(cluster): State<Cluster>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(asked): InBody<JoinCluster>,
) -> View {
    begin(cluster, move |cluster| cluster.join(&asked.token, asked.address.as_deref())).await
}

/// Takes this host out of its cluster, or gives up to get into one.
#[utoipa::path(post, path = "/v1/cluster/leave", operation_id = "leave_cluster", tag = "cluster", responses((status = 202, description = "It is on its way.", body = ClusterView), Refusals))]
async fn leave(State(cluster): State<Cluster>, InQuery(NoQuery {}): InQuery<NoQuery>) -> View {
    begin(cluster, Cluster::leave).await
}

/// Makes a token with which one machine may join.
#[utoipa::path(
    post,
    path = "/v1/cluster/tokens", operation_id = "create_join_token",
    tag = "cluster",
    request_body = Option<CreateToken>,
    responses((status = 201, description = "The token; it is told once.", body = TokenCreated), Refusals)
)]
async fn create_token(
    State(cluster): State<Cluster>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(asked): InBody<CreateToken>,
) -> Result<(StatusCode, Json<TokenCreated>), Refusal> {
    let token = wait_for(cluster, move |cluster| cluster.token(asked.ttl_s)).await?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// How a machine is removed.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Removing {
    /// Forget the VMs that belong to it and are not started elsewhere. Else they are a refusal.
    #[param(required = false)]
    forget_vms: bool,
    /// Change nothing; the findings of the answer tell what would be forgotten.
    #[param(required = false)]
    dry_run: bool,
}

/// Forgets a machine that is gone for good. The findings of the answer tell which VMs are forgotten with it.
#[utoipa::path(
    delete,
    path = "/v1/cluster/members/{host}", operation_id = "remove_member",
    tag = "cluster",
    params(("host" = HostName, Path), Removing),
    responses((status = 200, description = "It is forgotten, or would be.", body = ClusterView), Refusals)
)]
async fn remove(
    State(cluster): State<Cluster>,
    InPath(host): InPath<HostName>,
    InQuery(asked): InQuery<Removing>,
) -> Result<Json<ClusterView>, Refusal> {
    let Removing { forget_vms, dry_run } = asked;
    let removed = move |cluster: &Cluster| {
        let forgotten = cluster.remove(&host, Removal { forget_vms, dry_run })?;
        let view = cluster.examine();
        let findings = forgotten.into_iter().chain(view.findings).collect();
        Ok(ClusterView { findings, ..view })
    };
    wait_for(cluster, removed).await.map(Json)
}

/// Makes a token with which other hardware takes the place of a machine that is gone: its labels, its fence and the wishes for its
/// GPUs stay.
#[utoipa::path(
    post,
    path = "/v1/cluster/replace", operation_id = "replace_member",
    tag = "cluster",
    request_body = ReplaceMember,
    responses((status = 201, description = "The token; it is told once.", body = TokenCreated), Refusals)
)]
async fn replace(
    State(cluster): State<Cluster>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(asked): InBody<ReplaceMember>,
) -> Result<(StatusCode, Json<TokenCreated>), Refusal> {
    let replaced = move |cluster: &Cluster| cluster.replace(&asked.host, asked.ttl_s, asked.forget_vms);
    let token = wait_for(cluster, replaced).await?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// All records of the cluster as they are together at one revision. Secrets and certificates are not among them.
#[utoipa::path(get, path = "/v1/cluster/backup", operation_id = "backup_cluster", tag = "cluster", responses((status = 200, description = "The backup.", content_type = "application/json"), Refusals))]
async fn backup(
    State(cluster): State<Cluster>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Json<Backup>, Refusal> {
    wait_for(cluster, Cluster::backup).await.map(Json)
}

/// How a cluster is restored.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Restoring {
    /// The address, or the name, by which other hosts reach this one; what its settings say if left out.
    address: Option<String>,
    /// This host is a member of a cluster whose store is lost for good.
    #[param(required = false)]
    force: bool,
}

/// Begins a cluster with this host and the records of a backup.
#[utoipa::path(
    post,
    path = "/v1/cluster/restore", operation_id = "restore_cluster",
    tag = "cluster",
    params(Restoring),
    request_body(content = String, description = "The backup.", content_type = "application/json"),
    responses((status = 202, description = "It is on its way.", body = ClusterView), Refusals)
)]
async fn restore(State(cluster): State<Cluster>, InQuery(asked): InQuery<Restoring>, body: Body) -> View {
    let bytes = Limited::new(body, BACKUP_LEN_MAX)
        .collect()
        .await
        .map_err(|error| Refusal::from(say::backup_invalid(&format!("it was not received ({error})"))))?;
    let bytes = bytes.to_bytes();
    begin(cluster, move |cluster| cluster.restore(&bytes, asked.address.as_deref(), asked.force)).await
}

/// Gives the unused part of the store's files back, one member after the other.
#[utoipa::path(post, path = "/v1/cluster/defragment", operation_id = "defragment_cluster", tag = "cluster", responses((status = 200, description = "It is done.", body = ClusterView), Refusals))]
async fn defragment(
    State(cluster): State<Cluster>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Json<ClusterView>, Refusal> {
    let done = |cluster: &Cluster| cluster.defragment().map(|()| cluster.examine());
    wait_for(cluster, done).await.map(Json)
}

async fn let_in(
    State(cluster): State<Cluster>,
    InBody(asked): InBody<JoinRequest>,
) -> Result<Json<JoinAnswer>, Refusal> {
    wait_for(cluster, move |cluster| cluster.admit(&asked)).await.map(Json)
}

async fn certify(
    State(cluster): State<Cluster>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    InBody(request): InBody<String>,
) -> Result<Json<Certificates>, Refusal> {
    // Whose it is was seen to before.
    let host = caller.host.ok_or_else(Refusal::defect)?;
    wait_for(cluster, move |cluster| cluster.certify(&host, &request)).await.map(Json)
}

/// For a host that has got a seat after it joined.
async fn authority(
    State(cluster): State<Cluster>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Json<String>, Refusal> {
    let (host, key) = caller.host.zip(caller.key).ok_or_else(Refusal::defect)?;
    wait_for(cluster, move |cluster| cluster.authority_for(&host, &key)).await.map(Json)
}

async fn store_member_down(State(cluster): State<Cluster>) -> Result<Json<bool>, Refusal> {
    wait_for(cluster, |cluster| Ok(cluster.holds_store_member_down())).await.map(Json)
}
