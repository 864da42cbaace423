//! The one place where requests of people are answered who are limited to VMs with a label (decision 0046).
//!
//! ```text
//! where it was asked:   authorise ─► handed_on ─────────────┐                  ┌─► the answer, if it says that it was narrowed
//!                       (Reach, the limit into a header)    ▼                  │
//! on the host that leads:                          wall ─► the route ─► narrowed ─ (the limit into a header)
//! ```
//!
//! The wall stands between the way to the leader and the routes, because what is whose is known there. A host of an older version that leads
//! would not narrow anything; so an answer that does not say that it was narrowed is not passed on, and before a change that is found out by a look.
//!
//! Lists are the one thing that routes cut themselves, to those whom the wall names ([`Among`]), so that a page costs no more than a page. What
//! a route leaves in all the same, the wall drops.
//!
//! Deliberately absent: what else routes do, which know nothing of limits, and which routes there are for such people ([`Reach`]).

use std::cmp::Reverse;
use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;
use tranche_api::Problem;
use tranche_api::answer::{Accepted, Preview, WhyNot};
use tranche_api::limits::BODY_LEN_MAX;
use tranche_api::narrow::{Narrow, Theirs};
use tranche_api::request::CreateVm;
use tranche_api::view::{GpuView, HostView, Overview, PartitionView, VmView};
use tranche_core::access::{Limit, Reach};
use tranche_core::capacity::Capacity;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::label::Labels;
use tranche_core::migration::Outlook;
use tranche_core::name::VmName;
use tranche_core::operation::Operation;
use tranche_core::spec::{VmHardware, VmPart, VmSource};

use super::input::{NoQuery, of_query, too_large};
use super::page::InPage;
use super::{App, Refusal, events, sources};
use crate::engine::View;

/// Says in a request to which VMs whoever asks is limited, and in an answer that it was narrowed to these.
const LIMITED_TO: HeaderName = HeaderName::from_static("tranche-limited-to");
/// The largest answer that is narrowed, in bytes: some hundred thousand VMs.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;

/// Where a request was asked: tells the wall of the limit, and passes on only what came through it. `rest` is the routes behind the door.
pub(super) async fn hand_on(
    limit: Option<&Limit>,
    mut request: Request,
    next: Next,
    rest: &Router,
) -> Response {
    // Nobody outside says to what they are limited.
    request.headers_mut().remove(LIMITED_TO);
    let Some(limit) = limit else { return next.run(request).await };
    let path = request.uri().path().to_owned();
    let Some(reach) = Reach::of(request.method().as_str(), &path) else {
        return Refusal::defect().into_response();
    };
    if reach == Reach::Plain {
        return next.run(request).await;
    }
    let Ok(told) = HeaderValue::from_str(&limit.to_string()) else {
        return Refusal::defect().into_response();
    };
    // Consoles are not behind the wall, and what was changed is changed: for both, a look comes first.
    if matches!(reach, Reach::Console(_)) || reach.is_change() {
        let place =
            reach.vm().map_or_else(|| "/v1/operations?limit=1".to_owned(), |vm| format!("/v1/vms/{vm}"));
        let look = look(&place, &told, rest).await;
        if !look.status().is_success() {
            return look;
        }
    }
    if matches!(reach, Reach::Console(_)) {
        return next.run(request).await;
    }
    request.headers_mut().insert(LIMITED_TO, told.clone());
    checked(next.run(request).await, &told)
}

/// The VMs that a list is about: all, unless the wall says otherwise.
#[derive(Debug, Clone, Default)]
pub(super) struct Among(Option<Limit>);

impl Among {
    /// Whether a VM with these labels is one of them.
    pub(super) fn allow(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_none_or(|limit| limit.allows(labels))
    }

    /// Drops what is about none of them.
    pub(super) fn keep<T>(
        &self,
        known: &View,
        items: &mut Vec<T>,
        is_theirs: impl Fn(&Theirs<'_>, &T) -> bool,
    ) {
        if let Some(limit) = &self.0 {
            let theirs = Theirs::new(sources(known), limit, None);
            items.retain(|item| is_theirs(&theirs, item));
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Among {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// What stands at a path, for somebody who is limited.
async fn look(path: &str, limit: &HeaderValue, rest: &Router) -> Response {
    let Ok(mut look) = Request::get(path).body(Body::empty()) else {
        return Refusal::defect().into_response();
    };
    look.headers_mut().insert(LIMITED_TO, limit.clone());
    let Ok(answer) = rest.clone().oneshot(look).await;
    checked(answer, limit)
}

/// An answer that was narrowed to a limit, or that there is none.
fn checked(mut answer: Response, limit: &HeaderValue) -> Response {
    if answer.headers_mut().remove(LIMITED_TO).as_ref() == Some(limit) {
        return answer;
    }
    // That nobody leads, or that the daemon has not looked yet, is said before the wall and tells of no VM.
    match answer.status() {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::PAYLOAD_TOO_LARGE => answer,
        _ => Refusal::from(say::limit_unknown()).into_response(),
    }
}

/// Answers a request of somebody who is limited, where what is whose is known. Those of others pass.
pub(super) async fn wall(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(told) = request.headers().get(LIMITED_TO).cloned() else { return next.run(request).await };
    let limit = told.to_str().ok().and_then(|text| text.parse::<Limit>().ok());
    let mut answer = match limit {
        Some(limit) => answer(&app, &limit, request, next).await.unwrap_or_else(Refusal::into_response),
        None => Refusal::defect().into_response(),
    };
    answer.headers_mut().insert(LIMITED_TO, told);
    answer
}

async fn answer(app: &App, limit: &Limit, request: Request, next: Next) -> Result<Response, Refusal> {
    let (method, path) = (request.method().as_str().to_owned(), request.uri().path().to_owned());
    let reach = Reach::of(&method, &path).ok_or_else(Refusal::defect)?;
    let known = app.engine.view();
    let mut asked = None;
    if let Some(name) = reach.vm() {
        let name: VmName = name.parse()?;
        let vm = known.spec.vms.get(&name).filter(|vm| limit.allows(&vm.labels));
        // One of others is none.
        vm.ok_or_else(|| say::vm_not_found(&name))?;
        asked = Some(name);
    }
    let request = match reach {
        Reach::Events => {
            let NoQuery {} = of_query(request.uri().query().unwrap_or_default())?;
            return Ok(events::narrowed(app.clone(), limit.clone())?.into_response());
        }
        Reach::NewVm => {
            let (request, name) = new_vm(limit, request, &known).await?;
            asked = name;
            request
        }
        Reach::SetVm(_) => keeps_its_label(limit, request, &known, asked.as_ref()).await?,
        _ => request,
    };
    let (mut request, page) = whole(reach, request)?;
    request.extensions_mut().insert(Among(Some(limit.clone())));
    let answer = next.run(request).await;
    // What was changed may be known only now.
    let known = app.engine.view();
    let theirs = Theirs::new(sources(&known), limit, asked.as_ref());
    narrowed(reach, answer, &theirs, page).await
}

/// A list whose order its narrowed sentences are part of is asked for as a whole, and cut into pages afterwards: the way to the next page
/// would name what was blotted out.
fn whole(reach: Reach<'_>, request: Request) -> Result<(Request, Option<InPage>), Refusal> {
    if reach != Reach::Findings {
        return Ok((request, None));
    }
    let (mut head, body) = request.into_parts();
    let (paging, others): (Vec<&str>, Vec<&str>) = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty())
        .partition(|part| part.starts_with("limit=") || part.starts_with("after="));
    let (path, others) = (head.uri.path().to_owned(), others.join("&"));
    let mut page = InPage::asked(&path, &paging.join("&"))?;
    if !others.is_empty() {
        page = page.keeping(&others);
    }
    head.uri = format!("{path}?{others}").parse().map_err(|_| Refusal::defect())?;
    Ok((Request::from_parts(head, body), Some(page)))
}

/// A VM that is to be made, with the label that makes it theirs; and its name. What is wrong in its form is refused by whoever reads it.
async fn new_vm(limit: &Limit, request: Request, known: &View) -> Result<(Request, Option<VmName>), Refusal> {
    let (mut head, bytes) = read(request).await?;
    let Ok(mut wish) = serde_json::from_slice::<CreateVm>(&bytes) else {
        return Ok((Request::from_parts(head, Body::from(bytes)), None));
    };
    refuse_volumes_of_others(limit, &wish.hardware, known)?;
    wish.labels = limit.for_new(wish.labels)?;
    let body = serde_json::to_vec(&wish).map_err(|_| Refusal::defect())?;
    head.headers.remove(header::CONTENT_LENGTH);
    let name = wish.name.parse().ok();
    Ok((Request::from_parts(head, Body::from(body)), name))
}

/// A VM by which somebody would read the disks of another one.
fn refuse_volumes_of_others(limit: &Limit, wish: &VmHardware, known: &View) -> Result<(), Finding> {
    let others = known.spec.vms.values().filter(|vm| !limit.allows(&vm.labels));
    let theirs = others.filter_map(|vm| match &vm.source {
        VmSource::Made(hardware) => Some(&hardware.disks),
        VmSource::Adopted => None,
    });
    let taken = theirs.flatten().find(|disk| wish.disks.contains(disk));
    taken.map_or(Ok(()), |disk| Err(say::volume_of_others(&disk.pool, &disk.volume)))
}

/// Refuses a change with which a VM would be theirs no more.
async fn keeps_its_label(
    limit: &Limit,
    request: Request,
    known: &View,
    name: Option<&VmName>,
) -> Result<Request, Refusal> {
    let (head, bytes) = read(request).await?;
    let before = name.and_then(|name| known.spec.vms.get(name)).ok_or_else(Refusal::defect)?;
    // What cannot be read is refused by whoever reads it.
    if let Ok(wish) = serde_json::from_slice::<VmPart>(&bytes)
        && !limit.allows(&wish.over(before).labels)
    {
        return Err(say::label_needed(limit).into());
    }
    Ok(Request::from_parts(head, Body::from(bytes)))
}

async fn read(request: Request) -> Result<(Parts, axum::body::Bytes), Refusal> {
    let (head, body) = request.into_parts();
    let bytes = to_bytes(body, BODY_LEN_MAX).await.map_err(|_| too_large())?;
    Ok((head, bytes))
}

/// An answer without what is not theirs.
async fn narrowed(
    reach: Reach<'_>,
    answer: Response,
    theirs: &Theirs<'_>,
    page: Option<InPage>,
) -> Result<Response, Refusal> {
    if !answer.status().is_success() {
        return told::<Problem>(answer, theirs, |_| Ok(())).await;
    }
    match reach {
        Reach::Vms => {
            told::<Vec<VmView>>(answer, theirs, |vms| {
                vms.retain(|vm| theirs.allow(&vm.labels));
                Ok(())
            })
            .await
        }
        Reach::Findings => {
            let (mut findings, page): (Vec<Finding>, _) =
                (parsed(answer.into_body()).await?, page.ok_or_else(Refusal::defect)?);
            findings.retain(|finding| theirs.concern(&finding.subject));
            findings.narrow(theirs);
            let order = |finding: &Finding| (Reverse(finding.severity), finding.clone());
            findings.sort_by_key(order);
            Ok(page.of(findings, order)?.into_response())
        }
        Reach::Operations => {
            told::<Vec<Operation>>(answer, theirs, |operations| {
                operations.retain(|operation| theirs.order(operation));
                Ok(())
            })
            .await
        }
        Reach::Operation => {
            told::<Operation>(answer, theirs, |operation| {
                let is_theirs = theirs.know(operation);
                if is_theirs { Ok(()) } else { Err(super::operations::not_found(operation.id)) }
            })
            .await
        }
        Reach::Vm(_) => {
            told::<VmView>(answer, theirs, |vm| {
                if theirs.allow(&vm.labels) { Ok(()) } else { Err(say::vm_not_found(&vm.name).into()) }
            })
            .await
        }
        Reach::Destinations(_) => told::<Vec<Outlook>>(answer, theirs, |_| Ok(())).await,
        Reach::WhyNot(_) => told::<WhyNot>(answer, theirs, |_| Ok(())).await,
        Reach::NewVm | Reach::SetVm(_) | Reach::ChangeVm(_) if answer.status() == StatusCode::ACCEPTED => {
            told::<Accepted>(answer, theirs, |_| Ok(())).await
        }
        Reach::NewVm | Reach::SetVm(_) | Reach::ChangeVm(_) => {
            told::<Preview>(answer, theirs, |_| Ok(())).await
        }
        Reach::Hosts => told::<Vec<HostView>>(answer, theirs, |_| Ok(())).await,
        Reach::Host => told::<HostView>(answer, theirs, |_| Ok(())).await,
        Reach::Gpus => told::<Vec<GpuView>>(answer, theirs, |_| Ok(())).await,
        Reach::Gpu => told::<GpuView>(answer, theirs, |_| Ok(())).await,
        Reach::Partitions => told::<Vec<PartitionView>>(answer, theirs, |_| Ok(())).await,
        Reach::Overview => told::<Overview>(answer, theirs, |_| Ok(())).await,
        Reach::Capacity => told::<Capacity>(answer, theirs, |_| Ok(())).await,
        // It has numbers and no names.
        Reach::VmHistory(_) => Ok(answer),
        Reach::Plain | Reach::Console(_) | Reach::Events => Err(Refusal::defect()),
    }
}

/// An answer of one form, narrowed, with the headers that it had. `keep` leaves of it what is for them, or refuses it.
async fn told<T: Narrow + DeserializeOwned + Serialize>(
    answer: Response,
    theirs: &Theirs<'_>,
    keep: impl FnOnce(&mut T) -> Result<(), Refusal>,
) -> Result<Response, Refusal> {
    let (mut head, body) = answer.into_parts();
    // An answer without a body says nothing.
    if body.is_end_stream() {
        return Ok(Response::from_parts(head, body));
    }
    let mut content: T = parsed(body).await?;
    keep(&mut content)?;
    content.narrow(theirs);
    head.headers.remove(header::CONTENT_LENGTH);
    let body = serde_json::to_vec(&content).map_err(|_| Refusal::defect())?;
    Ok(Response::from_parts(head, Body::from(body)))
}

async fn parsed<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = to_bytes(body, ANSWER_LEN_MAX).await.map_err(|_| Refusal::defect())?;
    serde_json::from_slice(&bytes).map_err(|error| {
        tracing::error!(%error, "an answer is not what can be narrowed; it is withheld");
        Refusal::defect()
    })
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    /// What somebody limited to the team red is told by a host that leads and says this of its answers.
    async fn told(says: Option<&'static str>) -> (StatusCode, String) {
        let answer = async move || {
            let headers: Vec<_> =
                says.iter().map(|says| (LIMITED_TO, HeaderValue::from_static(says))).collect();
            let mut response = "[]".into_response();
            response.headers_mut().extend(headers);
            response
        };
        let rest = Router::new().route("/v1/vms", get(answer));
        let answer = look("/v1/vms", &HeaderValue::from_static("team=red"), &rest).await;
        let status = answer.status();
        assert!(!answer.headers().contains_key(LIMITED_TO), "it is between hosts");
        let bytes = to_bytes(answer.into_body(), BODY_LEN_MAX).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn an_answer_that_does_not_say_that_it_was_narrowed_is_not_passed_on() {
        assert_eq!(told(Some("team=red")).await, (StatusCode::OK, "[]".to_owned()));
        for says in [None, Some("team=blue"), Some("")] {
            let (status, text) = told(says).await;
            assert!(!status.is_success() && text.contains("version_mismatch"), "{status} {text}");
        }
    }
}
