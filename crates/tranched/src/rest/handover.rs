//! VMs that go to hosts with stores of their own, as people ask for it. What such hosts ask each other is [`super::peers`]'.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tranche_api::answer::{Accepted, Preview};
use tranche_api::request::{HandOverVm, InviteVm, TakeVm};
use tranche_api::view::{self, InvitationMade, InvitationView};
use tranche_core::change::Change;
use tranche_core::diagnostics as say;
use tranche_core::handover::INVITATION_MINUTES;
use tranche_core::migration::Outlook;
use tranche_core::name::{InvitationId, Timestamp, VmName};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::input::{ChangeQuery, InBody, InPath, InQuery, InWholeBody, NoQuery};
use super::{App, Refusal, sources};
use crate::clock;
use crate::cluster::token::{self, Opens, Token};
use crate::handover::Peer;
use crate::openapi::Refusals;

/// How long an invitation is open unless something else is asked for, in minutes.
const MINUTES: u64 = 60;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(hand_over))
        .routes(routes!(take_back))
        .routes(routes!(take_over))
        .routes(routes!(invitations, invite))
        .routes(routes!(uninvite))
}

/// Hands a VM over to a host that has a store of its own, while it runs where that is possible. A dry run tells how it would go.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/handover", operation_id = "hand_over_vm",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = HandOverVm,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run: how the other host would take it.", body = Outlook), Refusals)
)]
pub(super) async fn hand_over(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InWholeBody(HandOverVm { to, token }): InWholeBody<HandOverVm>,
) -> Result<Response, Refusal> {
    let peer = Peer::new(to.as_deref(), &token, clock::now())?;
    let invitation = peer.invitation()?;
    let vm = name.clone();
    let offer = app.ask(move |engine| engine.desk().offer(&vm)).await?;
    let outlook = peer.judge(&offer).await.map_err(|unheard| unheard.into_finding(&peer.place))?;
    if query.dry_run {
        return Ok(Json(outlook).into_response());
    }
    let peer = peer.bound_to(name.clone(), outlook.host.clone());
    let (peers, kept) = (app.handovers.peers.clone(), invitation.clone());
    // Before the wish: whoever is killed in between has only to forget it.
    let keeping = tokio::task::spawn_blocking(move || peers.keep(&kept, &peer)).await;
    keeping.map_err(|_| Refusal::defect())?.map_err(|error| Refusal::from(error.finding()))?;
    app.change(Change::HandOver { name, invitation, outlook: Box::new(outlook) }, false).await
}

/// Keeps a VM that goes to a host with a store of its own. Of one that may have arrived there, only by force.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/take-back", operation_id = "take_vm_back",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = Option<TakeVm>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn take_back(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(TakeVm { force }): InBody<TakeVm>,
) -> Result<Response, Refusal> {
    app.change(Change::TakeBack { name, force }, query.dry_run).await
}

/// Makes a VM this host's own that comes from a host with a store of its own, which is gone for good. Only by force.
#[utoipa::path(
    post,
    path = "/v1/vms/{name}/take-over", operation_id = "take_vm_over",
    tag = "vms",
    params(("name" = VmName, Path), ChangeQuery),
    request_body = Option<TakeVm>,
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn take_over(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(query): InQuery<ChangeQuery>,
    InBody(TakeVm { force }): InBody<TakeVm>,
) -> Result<Response, Refusal> {
    app.change(Change::TakeOver { name, force }, query.dry_run).await
}

/// Invitations: places for VMs that come from hosts with stores of their own.
#[utoipa::path(
    get,
    path = "/v1/invitations", operation_id = "list_invitations",
    tag = "vms",
    responses((status = 200, description = "Every invitation, the newest first.", body = Vec<InvitationView>), Refusals)
)]
pub(super) async fn invitations(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Json<Vec<InvitationView>> {
    Json(view::invitations(&sources(&app.engine.view()), clock::now()))
}

/// Invites a VM of another host: makes a token by which one VM may come.
#[utoipa::path(
    post,
    path = "/v1/invitations", operation_id = "invite_vm",
    tag = "vms",
    request_body = Option<InviteVm>,
    responses((status = 201, description = "The token. It is shown only now.", body = InvitationMade), Refusals)
)]
pub(super) async fn invite(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(InviteVm { minutes }): InBody<InviteVm>,
) -> Result<Response, Refusal> {
    let minutes = minutes.unwrap_or(MINUTES);
    if !INVITATION_MINUTES.contains(&minutes) {
        let choose = format!("{} to {}", INVITATION_MINUTES.start(), INVITATION_MINUTES.end());
        return Err(Refusal::from(say::invalid_value(
            "The number of minutes",
            &minutes.to_string(),
            &choose,
        )));
    }
    let url = app.access.console_url().ok_or_else(say::nowhere_to_come)?;
    let certificate = app.handovers.shown.get().ok_or_else(say::nowhere_to_come)?;
    let secret = token::new_secret().map_err(|_| Refusal::defect())?;
    let id: InvitationId = token::hash(&secret).parse().map_err(|_| Refusal::defect())?;
    let until = Timestamp(clock::now().0 + minutes * 60_000);
    app.change(Change::Invite { id: id.clone(), until }, false).await?;
    let addresses = vec![url.trim_start_matches("https://").to_owned()];
    let token = Token { opens: Opens::Host, addresses, authority: certificate, secret }.to_string();
    let made = InvitationMade { id, until, to: url.to_owned(), token };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Withdraws an invitation that nobody has used.
#[utoipa::path(
    delete,
    path = "/v1/invitations/{id}", operation_id = "uninvite_vm",
    tag = "vms",
    params(("id" = InvitationId, Path), ChangeQuery),
    responses((status = 202, description = "It is accepted.", body = Accepted), (status = 200, description = "A dry run.", body = Preview), Refusals)
)]
pub(super) async fn uninvite(
    State(app): State<App>,
    InPath(id): InPath<InvitationId>,
    InQuery(query): InQuery<ChangeQuery>,
) -> Result<Response, Refusal> {
    app.change(Change::Uninvite { id }, query.dry_run).await
}
