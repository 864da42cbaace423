//! Who asks, whether they may, and what became of it. Every way in passes here: the host's own socket and HTTPS; what members of the
//! cluster hand on was admitted where it was asked.
//!
//! ```text
//! HTTPS ── by_web ──┐                      ┌─► refused: 401, 403
//!                   ├─► authorise (role) ──┤
//! socket ─ by_socket┘                      └─► the route ─► audit, if it could change something
//! ```
//!
//! What becomes of a request of somebody who is limited to some VMs is [`super::limited`]'s.
//!
//! A session counts for the pages of the console only: programs show a token. So no other site can make a browser ask the REST
//! interface, and the pages' forms carry a proof of their own.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use serde_json::Value;
use tower::ServiceExt as _;
use tranche_access::{Asker, Deed, cut, without_secrets};
use tranche_api::access::{AuditEntry, Changed};
use tranche_api::limits::BODY_LEN_MAX;
use tranche_core::access::{Denied, Role, denied, is_open as is_open_route, opens_console};
use tranche_core::diagnostics as say;

use super::guard::Peer;
use super::input::too_large;
use super::standing::By;
use super::{App, Refusal, events, followed, limited};
use crate::clock;
use crate::cluster::door::Caller;

/// How much of an answer is looked at for what became of a request, in bytes.
const ANSWER_LEN_MAX: u64 = 1 << 20;
/// How much of an answer about what something was is read, in bytes: a list of all VMs.
const BEFORE_LEN_MAX: usize = 16 << 20;
/// How long a change waits for what it was before: then nobody knows.
const BEFORE_WAIT: Duration = Duration::from_secs(2);
/// How much the audit log has of an address, and of what became of a request, in bytes.
const WHAT_LEN_MAX: usize = 512;
const OUTCOME_LEN_MAX: usize = 1_024;
/// How long an answer waits for the audit log.
const AUDIT_WAIT: Duration = Duration::from_secs(2);

/// Who lets requests through, and whom they ask what something was before.
#[derive(Debug, Clone)]
pub(super) struct Doorkeeper {
    pub(super) app: App,
    /// The routes behind the door.
    pub(super) rest: Router,
}

/// Where a request comes from: an address, or `socket`.
#[derive(Debug, Clone)]
pub(super) struct From(pub(super) String);

/// The secret of the session that asks.
#[derive(Clone)]
pub(super) struct SessionSecret(pub(super) String);

/// It stays out of logs.
impl std::fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSecret(..)")
    }
}

/// Whoever can open the host's own socket may everything: its file's mode decides who that is.
pub(super) async fn by_socket(
    peer: Option<Extension<ConnectInfo<Peer>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let uid = peer.and_then(|Extension(ConnectInfo(peer))| peer.uid());
    let who = uid.map_or_else(|| "uid unknown".to_owned(), |uid| format!("uid {uid}"));
    request.extensions_mut().insert(Asker { who, role: Role::Admin, limit: None });
    followed::is_asked_by(Role::Admin);
    request.extensions_mut().insert(From("socket".to_owned()));
    next.run(request).await
}

/// Whoever asks over HTTPS shows a token, or for the console's pages a session.
pub(super) async fn by_web(
    State(app): State<App>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let from = From(network_of(caller.address.ip()));
    let is_page = !is_rest(request.uri().path());
    let now = clock::now();
    let known = match (is_page, session_in(request.headers()), token_in(request.headers())) {
        (true, Some(session), _) => {
            let secret = session.clone();
            let known = app.access.wait_for(move |access| access.accounts.session(&secret, now)).await;
            known.map(|asker| asker.map(|asker| (asker, Some(session))))
        }
        (false, _, Some(token)) => {
            let known = app.access.wait_for(move |access| access.accounts.token(&token, now)).await;
            known.map(|asker| asker.map(|asker| (asker, None)))
        }
        _ => Ok(None),
    };
    let known = match known {
        Ok(known) => known,
        Err(refusal) => return refusal.into_response(),
    };
    let extensions = request.extensions_mut();
    extensions.insert(from);
    if let Some((asker, session)) = known {
        followed::is_asked_by(asker.role);
        if let Some(session) = session {
            extensions.insert(tranche_console::Visitor {
                name: asker.who.clone(),
                role: asker.role,
                is_limited: asker.limit.is_some(),
                csrf: tranche_access::csrf_of(&session),
            });
            extensions.insert(SessionSecret(session));
        }
        extensions.insert(asker);
    }
    next.run(request).await
}

/// Whether a path is the REST interface's, and no page of the console.
pub(super) fn is_rest(path: &str) -> bool {
    path == "/healthz" || path == "/metrics" || path.starts_with("/v1/")
}

/// What is answered to whoever asks.
fn is_open(method: &Method, path: &str) -> bool {
    is_open_route(if method == Method::HEAD { "GET" } else { method.as_str() }, path)
}

/// Lets a request through if whoever asks may make it, and remembers it if it could change something or was refused.
pub(super) async fn authorise(
    State(Doorkeeper { app, rest }): State<Doorkeeper>,
    request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let asker = request.extensions().get::<Asker>().cloned();
    let from = request.extensions().get::<From>().map_or_else(String::new, |From(from)| from.clone());
    let query = request.uri().query().unwrap_or_default();
    let only_looks = matches!(method, Method::GET | Method::HEAD) && !opens_console(&path)
        || query.split('&').any(|part| part == "dry_run=true")
        // Neither changes anything, and whoever comes by could fill the log with the second one.
        || matches!(path.as_str(), "/v1/diff" | "/v1/sessions/issuer");
    let refusal = match &asker {
        _ if is_open(&method, &path) => None,
        None => Some(say::login_required()),
        Some(asker) => {
            let limit = asker.limit.as_ref();
            match (denied(asker.role, limit.is_some(), method.as_str(), &path), limit) {
                (None, _) => None,
                (Some(Denied::Needs(needs)), _) => Some(say::forbidden(&asker.who, asker.role, needs)),
                (Some(Denied::Limited), Some(limit)) => Some(say::beyond_limit(&asker.who, limit)),
                (Some(Denied::Limited), None) => Some(say::login_required()),
            }
        }
    };
    let limit = asker.as_ref().filter(|_| !is_open(&method, &path)).and_then(|asker| asker.limit.clone());
    let what = format!("{method} {path}");
    if let Some(finding) = refusal {
        let who = asker.map(|asker| asker.who);
        let is_known = who.is_some();
        let entry = Entry { who, is_known, from, what, asked: None, changed: Vec::new() };
        let (code, response) = (finding.code, Refusal::from(finding).into_response());
        // Whoever has no credentials could fill the log with nothing.
        if is_known {
            entry.write(&app, response.status(), Some(code.to_string())).await;
        }
        return response;
    }
    if only_looks {
        let by = (path == events::PATH).then(|| By::of(request.extensions(), request.headers()));
        let answer = limited::hand_on(limit.as_ref(), request, next, &rest).await;
        return match by.filter(|_| answer.status().is_success()) {
            Some(by) => events::while_allowed(answer, app, by, limit),
            None => answer,
        };
    }
    let (request, asked) = match kept(request, &path).await {
        Ok(kept) => kept,
        Err(refusal) => return refusal.into_response(),
    };
    let who = asker.as_ref().map(|asker| asker.who.clone()).or_else(|| user_in(asked.as_deref()));
    let otherwise =
        Otherwise::before((method.as_str(), &path), asked.as_deref(), asker.as_ref(), &rest).await;
    let asked = if path == "/v1/sessions" { None } else { asked.as_deref().and_then(without_secrets) };
    let response = limited::hand_on(limit.as_ref(), request, next, &rest).await;
    let noted = response.extensions().get::<Noted>().cloned();
    let (response, Outcome { title, user }) = outcome_of(response).await;
    // What was refused has changed nothing.
    let changed = match otherwise.filter(|_| response.status().is_success()) {
        Some(otherwise) => otherwise.changed(asker.as_ref(), &rest).await,
        None => Vec::new(),
    };
    let entry = Entry { who, is_known: asker.is_some(), from, what, asked, changed };
    // Who logs in by a link is known only afterwards.
    let entry = Entry { who: entry.who.or(user.filter(|_| path == "/v1/sessions")), ..entry };
    let (status, title) = match noted {
        Some(Noted { status, outcome }) => (status, Some(outcome)),
        None => (response.status(), title),
    };
    entry.write(&app, status, title).await;
    response
}

/// What the audit log is to have of a request whose answer does not tell, as an extension of that answer.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    /// What it would have been answered with.
    pub(super) status: StatusCode,
    /// What became of it.
    pub(super) outcome: String,
}

/// A line of the audit log in the making.
struct Entry {
    who: Option<String>,
    /// Whether that was proved.
    is_known: bool,
    from: String,
    what: String,
    asked: Option<String>,
    changed: Vec<Changed>,
}

impl Entry {
    /// Whether it goes into the audit log. What nothing came of could push everything else out of it: of one who is known it is bounded, and
    /// of one who is not, only what was looked at and refused counts as an attempt.
    fn is_noted(&self, app: &App, status: StatusCode) -> bool {
        if status.is_success() || status.is_informational() {
            return true;
        }
        match (&self.who, status) {
            (_, StatusCode::TOO_MANY_REQUESTS) => false,
            (Some(who), _) if self.is_known => app.access.notes_refusal(who),
            (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => app.access.notes_refusal(&self.from),
            (_, status) => status.is_server_error() && app.access.notes_refusal(&self.from),
        }
    }

    /// Writes it to the daemon's log, and to the audit log if that shall have it and the store takes it within a moment.
    async fn write(self, app: &App, status: StatusCode, outcome: Option<String>) {
        let is_noted = self.is_noted(app, status);
        let Self { who, from, what, asked, changed, .. } = self;
        let (who, status) = (who.unwrap_or_else(|| "nobody".to_owned()), status.as_u16());
        let what = cut(what, WHAT_LEN_MAX);
        let outcome = outcome.map(|outcome| cut(outcome, OUTCOME_LEN_MAX));
        let host = app.engine.host_name().to_string();
        tracing::info!(who, from, what, status, outcome, "audit");
        if !is_noted {
            return;
        }
        let entry = AuditEntry { at: clock::now(), who, from, host, what, asked, changed, status, outcome };
        let written = app.access.wait_for(move |access| access.audit.add(&entry));
        match tokio::time::timeout(AUDIT_WAIT, written).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                tracing::warn!("the store did not take an entry of the audit log; the line before has it");
            }
            Err(_) => tracing::warn!("the store is slow; an entry of the audit log comes late or not at all"),
        }
    }
}

/// What a request that is about to be carried out finds. It is asked of the same routes.
struct Otherwise {
    deed: Deed,
    told: Vec<Value>,
    asked: Value,
}

impl Otherwise {
    /// None where nothing is known from before.
    async fn before(
        (method, path): (&str, &str),
        asked: Option<&[u8]>,
        asker: Option<&Asker>,
        rest: &Router,
    ) -> Option<Self> {
        let deed = Deed::of(method, path)?;
        let told = told_of(&deed, asker, rest).await?;
        let asked = asked.and_then(|asked| serde_json::from_slice(asked).ok()).unwrap_or_default();
        Some(Self { deed, told, asked })
    }

    /// What of it is otherwise, now that the request was taken.
    async fn changed(self, asker: Option<&Asker>, rest: &Router) -> Vec<Changed> {
        let Self { deed, told, asked } = self;
        if !deed.is_seen_afterwards(&asked) {
            return deed.changed(&told, &asked);
        }
        let afterwards = told_of(&deed, asker, rest).await;
        afterwards.map(|afterwards| deed.changed_between(&told, &afterwards)).unwrap_or_default()
    }
}

/// What is told now of what a request is about, unless that takes too long.
async fn told_of(deed: &Deed, asker: Option<&Asker>, rest: &Router) -> Option<Vec<Value>> {
    let look = async {
        let mut told = Vec::new();
        for place in deed.told_at() {
            told.push(before(&place, asker, rest).await.unwrap_or_default());
        }
        told
    };
    tokio::time::timeout(BEFORE_WAIT, look).await.ok()
}

/// What stands at a path now; none if it cannot be had.
async fn before(path: &str, asker: Option<&Asker>, rest: &Router) -> Option<Value> {
    let mut look = Request::get(path).body(Body::empty()).ok()?;
    look.extensions_mut().insert(asker?.clone());
    let Ok(answer) = rest.clone().oneshot(look).await;
    let bytes = answer.status().is_success().then(|| to_bytes(answer.into_body(), BEFORE_LEN_MAX))?;
    serde_json::from_slice(&bytes.await.ok()?).ok()
}

/// A request with its body at hand. The one body that may be large is left as it is.
async fn kept(request: Request, path: &str) -> Result<(Request, Option<Bytes>), Refusal> {
    if path == "/v1/cluster/restore" {
        return Ok((request, None));
    }
    let (head, body) = request.into_parts();
    if body.size_hint().lower() > BODY_LEN_MAX as u64 {
        // Who reads bodies answers, and says how large they may be.
        return Ok((Request::from_parts(head, body), None));
    }
    let bytes = to_bytes(body, BODY_LEN_MAX).await.map_err(|_| too_large())?;
    Ok((Request::from_parts(head, Body::from(bytes.clone())), Some(bytes)))
}

/// What became of a request, by its answer.
#[derive(Default)]
struct Outcome {
    /// The title of its operation, or why it was refused.
    title: Option<String>,
    /// The user that the answer is about.
    user: Option<String>,
}

async fn outcome_of(response: Response) -> (Response, Outcome) {
    let (head, body) = response.into_parts();
    if body.size_hint().upper().is_none_or(|len| len > ANSWER_LEN_MAX) {
        return (Response::from_parts(head, body), Outcome::default());
    }
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return (Refusal::defect().into_response(), Outcome::default());
    };
    let answer = serde_json::from_slice::<Value>(&bytes).unwrap_or_default();
    let text = |pointer| answer.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let problem = || Some(format!("{}: {}", text("/code")?, text("/detail")?));
    let subject = || Some(format!("subject {}", text("/subject")?));
    let title = text("/operation/title").or_else(problem).or_else(subject);
    let outcome = Outcome { title, user: text("/name") };
    (Response::from_parts(head, Body::from(bytes)), outcome)
}

/// Who tries to log in.
fn user_in(body: Option<&[u8]>) -> Option<String> {
    let body: Value = serde_json::from_slice(body?).ok()?;
    Some(body.get("user")?.as_str()?.chars().take(80).collect())
}

/// The token that a request shows.
pub(super) fn token_in(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn session_in(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == tranche_console::SESSION_COOKIE).map(|(_, value)| value.to_owned())
}

/// What attempts to log in are counted by: an address, or the network of an IPv6 address, of which one machine has 2^64.
fn network_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            if address.is_loopback() { address.to_string() } else { format!("{a:x}:{b:x}:{c:x}:{d:x}::/64") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| {
            headers.append(&name, HeaderValue::from_str(value).unwrap());
        });
        headers
    }

    #[test]
    fn a_token_is_taken_from_its_header_alone() {
        let shown = |value: &str| token_in(&headers(header::AUTHORIZATION, &[value]));
        assert_eq!(shown("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(shown("bearer  abc"), Some("abc".to_owned()));
        assert_eq!(shown("Basic abc"), None);
        assert_eq!(shown("abc"), None);
    }

    #[test]
    fn a_session_is_taken_from_its_cookie_alone() {
        let shown = |values: &[&str]| session_in(&headers(header::COOKIE, values));
        let own = format!("{}=abc", tranche_console::SESSION_COOKIE);
        assert_eq!(shown(&[&format!("a=1; {own}; b=2")]), Some("abc".to_owned()));
        assert_eq!(shown(&["a=1", &own]), Some("abc".to_owned()));
        assert_eq!(shown(&["session=abc", "x__Host-tranche-session=abc"]), None);
    }

    #[test]
    fn one_machine_has_one_address_to_fail_from() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }

    #[test]
    fn without_credentials_only_health_is_told_and_a_login_taken() {
        assert!(is_open(&Method::GET, "/healthz"));
        assert!(is_open(&Method::POST, "/v1/sessions"));
        assert!(
            is_open(&Method::GET, "/v1/sessions/issuer") && is_open(&Method::POST, "/v1/sessions/issuer")
        );
        for (method, path) in
            [(Method::GET, "/v1/vms"), (Method::GET, "/metrics"), (Method::DELETE, "/v1/sessions")]
        {
            assert!(!is_open(&method, path), "{method} {path}");
        }
    }
}
