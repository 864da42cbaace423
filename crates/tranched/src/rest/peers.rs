//! What hosts with stores of their own ask this one about a VM that comes from there, on the console's port. Whoever has the secret of an
//! invitation is asked nothing else.
//!
//! The way to libvirt is open only while that VM is let in: whoever goes it can do with this host's VMs what root can, so an
//! invitation is an administrator's to make.
//!
//! Deliberately absent from the document of the API: only daemons ask this.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tranche_core::diagnostics as say;
use tranche_core::handover::{Answer, Awaited, Message, Offer};
use tranche_core::migration::Outlook;
use tranche_core::name::InvitationId;

use super::admit::token_in;
use super::input::InWholeBody;
use super::ways::connect_to;
use super::{App, Refusal, guard};
use crate::clock;
use crate::cluster::token;
use crate::cluster::ways::{PROTOCOL, carry};
use crate::engine::View;
use crate::handover::peer::{LIBVIRT, MESSAGES, OFFERS};

/// Where all of it lies.
pub(super) const PREFIX: &str = "/v1/peer/";

/// Connections of other hosts to this one's libvirt at once.
const WAYS_MAX: usize = 16;
/// How long an answer waits for what is known by then.
const ANSWER_WAIT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
struct Peers {
    app: App,
    places: Arc<Semaphore>,
}

pub(super) fn routes(app: &App) -> Router {
    let peers = Peers { app: app.clone(), places: Arc::new(Semaphore::new(WAYS_MAX)) };
    Router::new()
        .route(OFFERS, post(judge))
        .route(MESSAGES, post(hear))
        .route(LIBVIRT, post(to_libvirt))
        .route_layer(from_fn_with_state(app.clone(), guard::after_the_first_look))
        .with_state(peers)
        .fallback(guard::not_found)
        .method_not_allowed_fallback(guard::method_not_allowed)
}

impl Peers {
    /// The invitation whose secret a request shows.
    fn invitation(&self, headers: &HeaderMap) -> Result<InvitationId, Refusal> {
        let unknown = || Refusal::from(say::invitation_refused("it is not known here"));
        let secret = token_in(headers).and_then(|text| bytes_of(&text)).ok_or_else(unknown)?;
        let id: InvitationId = token::hash(&secret).parse().map_err(|_| unknown())?;
        // Its hash is looked up, so how long that takes tells nothing of the secret.
        if self.app.engine.view().spec.invitations.contains_key(&id) { Ok(id) } else { Err(unknown()) }
    }
}

async fn judge(
    State(peers): State<Peers>,
    headers: HeaderMap,
    InWholeBody(offer): InWholeBody<Offer>,
) -> Result<Json<Outlook>, Refusal> {
    let id = peers.invitation(&headers)?;
    let is_open = peers
        .app
        .engine
        .view()
        .spec
        .invitations
        .get(&id)
        .is_some_and(|invitation| invitation.used.is_none() && clock::now() < invitation.until);
    if !is_open {
        return Err(Refusal::from(say::invitation_refused("it was used, or its time is over")));
    }
    Ok(Json(peers.app.ask(move |engine| engine.desk().judge_offer(&offer)).await?))
}

async fn hear(
    State(peers): State<Peers>,
    headers: HeaderMap,
    InWholeBody(message): InWholeBody<Message>,
) -> Result<Json<Answer>, Refusal> {
    let id = peers.invitation(&headers)?;
    let (app, message) = (&peers.app, Arc::new(message));
    let hearing = || {
        let (id, message) = (id.clone(), Arc::clone(&message));
        app.ask(move |engine| engine.desk().hear(&id, &message, clock::now()))
    };
    let mut views = app.engine.watch();
    let before = app.engine.view().revision;
    let mut answer = hearing().await?;
    if app.engine.view().revision != before {
        tracing::info!(vm = %message.offer.name, from = %message.offer.host.host, turn = message.turn, order = ?message.order, "another host tells of a VM");
    }
    app.bell.ring();
    // What is known in a moment need not be asked for again.
    let waiting = async {
        while matches!(answer, Some(Answer::Noted)) && views.changed().await.is_ok() {
            match hearing().await {
                Ok(known) => answer = known,
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(ANSWER_WAIT, waiting).await;
    answer.map(Json).ok_or_else(|| Refusal::from(say::invitation_refused("the VM is not known here")))
}

async fn to_libvirt(State(peers): State<Peers>, mut request: Request) -> Result<Response, Refusal> {
    let id = peers.invitation(request.headers())?;
    if request.headers().get(UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        let message = format!("A way is asked for with 'Upgrade: {PROTOCOL}'.");
        let hint = "This is for daemons of other hosts; people move VMs with 'tranche vm migrate'.";
        return Err(Refusal::request(StatusCode::UPGRADE_REQUIRED, "upgrade", message, hint));
    }
    if !is_let_in(&peers.app.engine.view(), &id) {
        return Err(Refusal::from(say::invitation_refused("no VM is being sent by it")));
    }
    let Ok(place) = Arc::clone(&peers.places).try_acquire_owned() else {
        return Err(Refusal::busy("This host has as many ways to its libvirt as it allows."));
    };
    let libvirt = connect_to(&peers.app.handovers.libvirt, peers.app.engine.host_name()).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(let_through(upgrade, libvirt, peers.app, id, place));
    let agreed = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, agreed).into_response())
}

/// Carries between another host and libvirt until one of them closes, or the VM is not let in any more.
async fn let_through(
    upgrade: OnUpgrade,
    libvirt: UnixStream,
    app: App,
    id: InvitationId,
    place: OwnedSemaphorePermit,
) {
    let mut views = app.engine.watch();
    let is_over = async {
        let _ = views.wait_for(|view| !is_let_in(view, &id)).await;
    };
    match upgrade.await {
        Ok(there) => {
            tracing::info!("a host with another store is let through to libvirt");
            tokio::select! {
                () = carry(TokioIo::new(there), libvirt) => {}
                () = is_over => {}
            }
            tracing::info!("its way to libvirt is closed");
        }
        Err(error) => tracing::debug!(%error, "another host went away before it was let through"),
    }
    drop(place);
}

/// Whether the VM that comes by an invitation is let in now.
fn is_let_in(view: &View, id: &InvitationId) -> bool {
    let used = view.spec.invitations.get(id).and_then(|invitation| invitation.used.as_ref());
    let Some(used) = used.filter(|used| used.outcome.is_none()) else { return false };
    let planned = view.plan.vms.get(&used.vm).filter(|planned| planned.id == used.id);
    planned.and_then(|planned| planned.awaited.as_ref()).is_some_and(Awaited::is_let_in)
}

/// The bytes that stand in hexadecimal.
fn bytes_of(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let is_whole = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)).filter(|_| is_whole) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    is_whole.then_some(bytes)
}
