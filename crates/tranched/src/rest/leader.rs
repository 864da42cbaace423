//! The way to the host that leads: whatever concerns the whole cluster is answered there, whichever host was asked.
//!
//! A request is handed on as it is, at most once; its answer is handed back as it comes, so that a stream of events stays one.
//! While nobody leads, it waits: that is a matter of seconds, or of a store without a majority, which is then said.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;
use tranche_api::limits::BODY_LEN_MAX;
use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding};
use tranche_core::name::HostName;

use super::input::too_large;
use super::{App, Refusal};
use crate::cluster::door::{self, Address, AskError, Trust};

/// Says that a request was handed on already, and by which host.
const HANDED_ON: HeaderName = HeaderName::from_static("tranche-handed-on-by");
/// Says in an answer that the host which was taken for the leader is it no more; nothing was done.
pub(super) const NOT_LEADING: HeaderName = HeaderName::from_static("tranche-not-leading");
/// How long a request waits for somebody to lead: longer than it takes to notice that a leader is gone and to choose another.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// Hands a request on to the host that leads, unless that is this one.
pub(super) async fn lead_to(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(member) = app.member.clone() else { return next.run(request).await };
    let nobody = || Refusal::from(say::no_leader(app.engine.host_name())).into_response();
    if request.headers().contains_key(&HANDED_ON) {
        return if member.leads() { next.run(request).await } else { nobody() };
    }
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LEN_MAX).await else { return too_large().into_response() };
    let until = Instant::now() + PATIENCE;
    loop {
        let mut again = Request::new(body.clone());
        *again.method_mut() = head.method.clone();
        *again.uri_mut() = head.uri.clone();
        *again.headers_mut() = head.headers.clone();
        let answer = if member.leads() {
            *again.extensions_mut() = head.extensions.clone();
            next.clone().run(again.map(Body::from)).await
        } else {
            match hand_on(&app, again).await {
                Ok(answer) => answer,
                Err(Missed::Done(refusal)) => return refusal.into_response(),
                Err(Missed::Again(finding)) => Refusal::from(*finding).into_response(),
            }
        };
        // Nothing was done, whoever says so.
        let in_vain = answer.headers().contains_key(&NOT_LEADING);
        if !in_vain || Instant::now() + LOOK > until {
            return answer;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why there is no answer.
enum Missed {
    /// Nothing was done; it may be tried again.
    Again(Box<Finding>),
    /// Something may have been done.
    Done(Refusal),
}

async fn hand_on(app: &App, request: axum::http::Request<Bytes>) -> Result<Response, Missed> {
    let own = app.engine.host_name().clone();
    let nobody = || Missed::Again(Box::new(say::no_leader(&own)));
    let (leader, door) = who_leads(app).await.map_err(|finding| Missed::Again(Box::new(finding)))?;
    if leader == own {
        // It has just taken the lead, and has not decided yet.
        return Err(nobody());
    }
    let identity = app.cluster.identity().map_err(|finding| Missed::Done(Refusal::from(finding)))?;
    let identity = identity.ok_or_else(|| Missed::Done(Refusal::from(say::cluster_none())))?;
    let only_asks = request.method() == Method::GET;
    let missed = |error: AskError, sent: bool| {
        let finding = say::leader_unreachable(&leader, &error.to_string());
        match sent && !only_asks {
            true => Missed::Done(Refusal::from(finding)),
            // Nothing was done: as if nobody led.
            false => Missed::Again(Box::new(Finding { code: Code::NoLeader, ..finding })),
        }
    };
    let connection = door::connect(&door.place, Trust::Member(&identity, &door.key)).await;
    let connection = connection.map_err(|error| missed(error, false))?;
    let answer = connection.send(handed_on(request, &own)).await.map_err(|error| missed(error, true))?;
    let (mut head, body) = answer.into_parts();
    for hop in [header::CONNECTION, header::TRANSFER_ENCODING] {
        head.headers.remove(hop);
    }
    Ok(Response::from_parts(head, Body::new(body)))
}

/// The request as it goes on: only what it asks, and who hands it on.
fn handed_on(request: axum::http::Request<Bytes>, own: &HostName) -> axum::http::Request<Bytes> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).parse();
    head.uri = path.unwrap_or_default();
    for hop in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::HOST] {
        head.headers.remove(hop);
    }
    let by = HeaderValue::from_str(own.as_str()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
    head.headers.insert(HANDED_ON, by);
    head.extensions.clear();
    axum::http::Request::from_parts(head, body)
}

async fn who_leads(app: &App) -> Result<(HostName, Address), Finding> {
    let (member, cluster) = (app.member.clone(), app.cluster.clone());
    let own = app.engine.host_name().clone();
    let looked = tokio::task::spawn_blocking(move || {
        let member = member.ok_or_else(say::cluster_none)?;
        let leader = member.leader().map_err(|error| error.finding())?.ok_or_else(|| say::no_leader(&own))?;
        let door = cluster.door_of(&leader)?;
        Ok((leader, door))
    });
    looked.await.unwrap_or_else(|_| Err(say::no_leader(app.engine.host_name())))
}
