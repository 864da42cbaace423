//! Who is let in over HTTPS, and what each role may: every route with every role, sessions, tokens, and what is remembered of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode, header};
use axum::{Extension, Router};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tranche_api::access::{NewToken, Secret, SetUser};
use tranche_core::access::{Role, is_open, needed};
use tranche_core::name::Timestamp;
use tranche_host::fake::Machine;
use tranche_store::{MemoryStore, Repository, Store};
use tranched::bell::Bell;
use tranched::clock;
use tranched::cluster::Cluster;
use tranched::cluster::door::Caller;
use tranched::consoles::Consoles;
use tranched::engine::Engine;
use tranched::events::Events;
use tranched::handover::Handovers;
use tranched::oidc::Oidc;
use tranched::patience::Patience;
use tranched::pulse::Pulse;
use tranched::rest::{self, Access, App};

use crate::fake_machine::{FakeMachine, forgetful};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A host with a GPU that answers over HTTPS, without the network.
pub(crate) struct Site {
    pub(crate) access: Access,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) events: Events,
    router: Router,
}

/// What came back.
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) headers: header::HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::through(None)
    }

    /// One where people log in through an issuer as well.
    pub(crate) fn through(oidc: Option<Oidc>) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let machine = FakeMachine::new("node1".parse().unwrap(), Machine::preset("gpus").unwrap());
        let repository = Repository::new(Arc::clone(&store));
        let engine = Engine::open("node1".parse().unwrap(), machine.host(), repository, 1).unwrap();
        engine.pass(Timestamp(1));
        let (engine, url) = (Arc::new(engine), "https://node1:7440".to_owned());
        let access = Access::new(Arc::clone(&store), Some(url)).through(oidc);
        let events = Events::new(engine.watch());
        let app = App {
            bell: Bell::default(),
            events: events.clone(),
            engine: Arc::clone(&engine),
            metrics: Arc::default(),
            pulse: Pulse::new(Duration::from_secs(60)),
            cluster: Cluster::nowhere("node1".parse().unwrap()),
            member: None,
            access: access.clone(),
            consoles: Consoles::default(),
            history: forgetful("node1", machine.host()),
            handovers: Handovers::new(Arc::clone(&store), Vec::new()),
            patience: Patience::default(),
        };
        Self { access, store, engine, events, router: rest::for_the_web(app) }
    }

    pub(crate) fn with_users(self) -> Self {
        for role in Role::ALL {
            let wish = SetUser {
                role: Some(role),
                password: Some(Secret(PASSWORD.to_owned())),
                ..SetUser::default()
            };
            self.access.accounts.set_user(&role.as_str().parse().unwrap(), &wish, clock::now()).unwrap();
        }
        self
    }

    fn token(&self, role: Role) -> String {
        let wish = NewToken { name: format!("of-{role}"), role, vm_labels: Default::default(), days: 1 };
        self.access.accounts.make_token(&wish, clock::now()).unwrap().secret.0
    }

    /// What answers, as it does whoever comes from outside.
    pub(crate) fn door(&self) -> Router {
        let address: SocketAddr = "192.0.2.7:40000".parse().unwrap();
        self.router.clone().layer(Extension(ConnectInfo(Caller { host: None, key: None, address })))
    }

    /// The stream of events that somebody with a token reads.
    pub(crate) async fn stream(&self, token: &str) -> Body {
        let request = Request::get("/v1/events").header(header::AUTHORIZATION, format!("Bearer {token}"));
        let response = self.door().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body()
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Told {
        let response = self.door().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        // A stream of events does not end.
        let is_stream =
            head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        let bytes = if is_stream { Default::default() } else { to_bytes(body, usize::MAX).await.unwrap() };
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Told { status: head.status, headers: head.headers, body, text }
    }

    pub(crate) async fn with_token(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Value,
    ) -> Told {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.ask(request.header(header::CONTENT_TYPE, "application/json").body(body).unwrap()).await
    }

    pub(crate) async fn log_in(&self, user: &str, password: &str) -> Told {
        self.with_token("POST", "/v1/sessions", None, json!({ "user": user, "password": password })).await
    }

    pub(crate) fn audit(&self) -> Vec<(String, String, u16)> {
        let entries = self.access.audit.last(100).unwrap().into_iter();
        entries.map(|entry| (entry.who, entry.what, entry.status)).collect()
    }
}

/// A path with names filled in that exist or could.
fn filled(path: &str) -> String {
    [("{host}", "node1"), ("{address}", "0000:3b:00.0"), ("{name}", "x"), ("{vm}", "x"), ("{model}", "x")]
        .iter()
        .fold(path.replace("{id}", "00000000-0000-4000-8000-000000000000"), |path, (from, to)| {
            path.replace(from, to)
        })
}

/// Every route of the interface.
fn routes() -> Vec<(String, String)> {
    templates().into_iter().map(|(way, path)| (way, filled(&path))).collect()
}

/// The same, as the document has them.
pub(crate) fn templates() -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(tranched::openapi::TEXT).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let methods = |path: &String, ways: &Value| {
        let ways: Vec<String> = ways.as_object().unwrap().keys().map(|way| way.to_uppercase()).collect();
        let path = path.clone();
        ways.into_iter().map(move |way| (way, path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(|(path, ways)| methods(path, ways)).collect()
}

#[tokio::test]
async fn every_route_is_refused_without_credentials_and_to_every_role_that_may_not_and_to_no_other() {
    let site = Site::new();
    let tokens = Role::ALL.map(|role| (role, site.token(role)));
    let routes = routes();
    assert!(routes.len() > 60, "{}", routes.len());
    for (method, path) in &routes {
        // What is let through is refused for its form, so that nothing is changed.
        let nonsense = format!("{path}?no_such_parameter=1");
        let body = if method == "GET" { Value::Null } else { json!({ "no_such_field": 1 }) };
        let open = is_open(method, path);
        for token in [None, Some("tranche_of-admin.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")] {
            let told = site.with_token(method, &nonsense, token, body.clone()).await;
            assert_eq!(told.status == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {}", told.status);
        }
        for (role, token) in &tokens {
            let told = site.with_token(method, &nonsense, Some(token), body.clone()).await;
            let may = *role >= needed(method, path);
            assert_ne!(told.status, StatusCode::UNAUTHORIZED, "{role} {method} {path}");
            assert_eq!(
                told.status == StatusCode::FORBIDDEN,
                !may && !open,
                "{role} {method} {path}: {}",
                told.status
            );
        }
    }
}

#[tokio::test]
async fn a_change_cannot_be_kept_out_of_the_audit_log_by_calling_it_a_dry_run() {
    let site = Site::new();
    let admin = site.token(Role::Admin);
    let document: Value = serde_json::from_str(tranched::openapi::TEXT).unwrap();
    let parameters = |operation: &Value| operation["parameters"].to_string();
    let mut refused = 0;
    for (path, ways) in document["paths"].as_object().unwrap() {
        let changes = ways.as_object().unwrap().iter().filter(|(method, _)| *method != "get");
        for (method, _) in changes.filter(|(_, operation)| !parameters(operation).contains("dry_run")) {
            // It compares, and there is nothing to be kept out.
            if path == "/v1/diff" {
                continue;
            }
            let asked = format!("{}?dry_run=true", filled(path));
            let told = site.with_token(&method.to_uppercase(), &asked, Some(&admin), Value::Null).await;
            let names_it = told.body.to_string().contains("dry_run");
            assert!(
                told.status.is_client_error() && names_it,
                "{method} {path}: {} {}",
                told.status,
                told.body
            );
            refused += 1;
        }
    }
    assert!(refused > 10, "{refused}");
}

#[tokio::test]
async fn a_login_begins_a_session_that_opens_pages_and_never_the_rest_interface() {
    let site = Site::new().with_users();
    let told = site.log_in("operator", PASSWORD).await;
    assert_eq!(told.status, StatusCode::CREATED, "{}", told.body);
    assert_eq!(
        (told.body["name"].as_str(), told.body["role"].as_str()),
        (Some("operator"), Some("operator"))
    );
    let cookie = format!("{}={}", tranche_console::SESSION_COOKIE, told.body["secret"].as_str().unwrap());
    let with_cookie = |path: &str| {
        Request::builder().uri(path).header(header::COOKIE, &cookie).body(Body::empty()).unwrap()
    };
    assert_eq!(site.ask(with_cookie("/")).await.status, StatusCode::OK);
    assert_eq!(site.ask(with_cookie("/v1/vms")).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_console_is_for_operators_from_a_page_of_this_very_address_and_whoever_was_refused_is_remembered() {
    let site = Site::new().with_users();
    let mut cookies = Vec::new();
    for user in ["operator", "viewer"] {
        let told = site.log_in(user, PASSWORD).await;
        let secret = told.body["secret"].as_str().unwrap().to_owned();
        cookies.push(format!("{}={secret}", tranche_console::SESSION_COOKIE));
    }
    let asked = |cookie: &str, origin: Option<&str>| {
        let socket = Request::builder().uri("/vms/desk/serial/socket").header(header::HOST, "node1:7440");
        let socket = socket.header(header::CONNECTION, "upgrade").header(header::UPGRADE, "websocket");
        let socket = if cookie.is_empty() { socket } else { socket.header(header::COOKIE, cookie) };
        let socket = origin.into_iter().fold(socket, |socket, origin| socket.header(header::ORIGIN, origin));
        socket.body(Body::empty()).unwrap()
    };
    let own = Some("https://node1:7440");
    assert_eq!(site.ask(asked("", own)).await.status, StatusCode::UNAUTHORIZED);
    let [operator, viewer] = &cookies[..] else { panic!("two have logged in") };
    assert_eq!(site.ask(asked(viewer, own)).await.status, StatusCode::FORBIDDEN);
    for foreign in
        [None, Some("https://evil.example"), Some("http://node1:7440"), Some("https://node1"), Some("null")]
    {
        let told = site.ask(asked(operator, foreign)).await;
        assert_eq!(told.status, StatusCode::FORBIDDEN, "{foreign:?}");
    }
    // It comes as far as it can without a connection.
    assert_eq!(site.ask(asked(operator, own)).await.status, StatusCode::UPGRADE_REQUIRED);
    let refused = site.audit().into_iter().filter(|(_, what, _)| what == "GET /v1/vms/desk/console");
    let refused: Vec<(String, u16)> = refused.map(|(who, _, status)| (who, status)).collect();
    assert_eq!(refused.iter().filter(|(who, status)| who == "operator" && *status == 403).count(), 5);
    assert!(refused.contains(&("viewer".to_owned(), 403)), "{refused:?}");
}

#[tokio::test]
async fn whoever_guesses_passwords_has_to_wait_and_nobody_learns_who_there_is() {
    let site = Site::new().with_users();
    let known = site.log_in("admin", "wrong").await;
    let unknown = site.log_in("nobody", "wrong").await;
    assert_eq!((known.status, &known.body), (StatusCode::UNAUTHORIZED, &unknown.body));
    for _ in 0..4 {
        site.log_in("admin", "wrong").await;
    }
    let right = site.log_in("admin", PASSWORD).await;
    assert_eq!(right.status, StatusCode::TOO_MANY_REQUESTS, "{}", right.body);
    assert_eq!(right.body["code"], "login_throttled");
    let remembered = site.audit();
    assert!(!remembered.is_empty());
    assert!(remembered.iter().all(|(_, _, status)| *status == 401), "it was not looked at: {remembered:?}");
}

#[tokio::test]
async fn whoever_has_a_password_cannot_guess_those_of_others_between_their_own_logins() {
    let site = Site::new().with_users();
    for _ in 0..4 {
        assert_eq!(site.log_in("viewer", "wrong").await.status, StatusCode::UNAUTHORIZED);
    }
    // Their own slips of the pen are forgiven.
    assert_eq!(site.log_in("viewer", PASSWORD).await.status, StatusCode::CREATED);
    let mut guesses = 0;
    while site.log_in("admin", "wrong").await.status == StatusCode::UNAUTHORIZED {
        guesses += 1;
        assert!(guesses < 10, "nobody stops it");
        site.log_in("viewer", PASSWORD).await;
    }
    assert_eq!(guesses, 5);
}

#[tokio::test]
async fn what_nothing_comes_of_cannot_push_everything_else_out_of_the_audit_log() {
    let site = Site::new();
    let [viewer, admin] = [site.token(Role::Viewer), site.token(Role::Admin)];
    for number in 0..200 {
        site.with_token("DELETE", &format!("/v1/rules/x{number}"), Some(&viewer), Value::Null).await;
        site.with_token("POST", "/v1/sessions", None, json!({ "nonsense": number })).await;
    }
    let kept = site.access.audit.last(1_000).unwrap();
    assert!(kept.iter().all(|entry| entry.who == "token of-viewer"), "{kept:?}");
    assert!((100..110).contains(&kept.len()), "{}", kept.len());
    // Nor can one entry be as large as a request.
    let (long, asked) = ("x".repeat(5_000), json!({ "y".repeat(50_000): 1 }));
    site.with_token("DELETE", &format!("/v1/rules/{long}"), Some(&admin), Value::Null).await;
    site.with_token("PUT", "/v1/users/bob", Some(&admin), asked).await;
    for entry in site.access.audit.last(2).unwrap() {
        assert_eq!(entry.who, "token of-admin");
        let outcome = entry.outcome.unwrap_or_default();
        assert!(entry.what.len() < 600 && outcome.len() < 1_100, "{} {}", entry.what.len(), outcome.len());
    }
}

#[tokio::test]
async fn what_was_changed_or_refused_is_remembered_without_secrets_and_what_was_only_looked_at_is_not() {
    let site = Site::new().with_users();
    let [viewer, admin] = [site.token(Role::Viewer), site.token(Role::Admin)];
    site.with_token("GET", "/v1/vms", Some(&viewer), Value::Null).await;
    site.with_token("DELETE", "/v1/rules/x", Some(&viewer), Value::Null).await;
    site.with_token("PUT", "/v1/policy?dry_run=true", Some(&admin), json!({})).await;
    let wish = json!({ "role": "admin", "password": "another long one" });
    site.with_token("PUT", "/v1/users/bob", Some(&admin), wish).await;
    site.log_in("bob", "wrong").await;
    let link = site.access.accounts.make_link(&"bob".parse().unwrap(), clock::now()).unwrap();
    site.with_token("POST", "/v1/sessions", None, json!({ "link": link.secret })).await;
    let told = |who: &str, what: &str, status| (who.to_owned(), what.to_owned(), status);
    let expected = [
        told("bob", "POST /v1/sessions", 201),
        told("bob", "POST /v1/sessions", 401),
        told("token of-admin", "PUT /v1/users/bob", 200),
        told("token of-viewer", "DELETE /v1/rules/x", 403),
    ];
    assert_eq!(site.audit(), expected);
    let entries = serde_json::to_string(&site.access.audit.last(10).unwrap()).unwrap();
    assert!(!entries.contains("another long one") && !entries.contains("wrong"), "{entries}");
    assert!(entries.contains("192.0.2.7") && entries.contains("node1"), "{entries}");
}

#[tokio::test]
async fn the_audit_log_has_what_a_thing_was_before_it_was_changed_and_nothing_of_what_was_refused() {
    let site = Site::new();
    let admin = site.token(Role::Admin);
    let last = || {
        let entry = site.access.audit.last(1).unwrap().remove(0);
        let changed = entry.changed.iter().map(ToString::to_string);
        (entry.status, changed.collect::<Vec<_>>())
    };
    let user = async |wish: Value| {
        site.with_token("PUT", "/v1/users/bob", Some(&admin), wish).await;
    };
    user(json!({ "role": "viewer", "password": "long enough, really" })).await;
    assert_eq!(last().1, ["password: none → (hidden)", "role: none → viewer"]);
    user(json!({ "role": "operator" })).await;
    assert_eq!(last(), (200, vec!["role: viewer → operator".to_owned()]));
    user(json!({ "role": "none such" })).await;
    assert_eq!(last(), (422, Vec::new()));
    let policy = site.with_token("GET", "/v1/policy", Some(&admin), Value::Null).await.body;
    let other = if policy["placement"] == "pack" { "spread" } else { "pack" };
    let mut wish = policy.clone();
    wish["placement"] = json!(other);
    site.with_token("PUT", "/v1/policy", Some(&admin), wish).await;
    let (status, changed) = last();
    let was = policy["placement"].as_str().unwrap();
    assert_eq!((status, changed), (202, vec![format!("placement: {was} → {other}")]));
    let split = json!({ "mode": { "mode": "partitioned", "count": 2 } });
    let set = site.with_token("PUT", "/v1/gpus/mode", Some(&admin), split).await;
    assert_eq!(set.status, StatusCode::ACCEPTED, "{}", set.body);
    // No request names the GPUs of a set.
    let split =
        |gpu: &str| [format!("node1/{gpu}.count: none → 2"), format!("node1/{gpu}.mode: host → partitioned")];
    assert_eq!(last().1, ["0000:10:00.0", "0000:14:00.0"].map(split).concat());
    site.with_token("DELETE", "/v1/users/bob", Some(&admin), Value::Null).await;
    let (_, changed) = last();
    assert!(changed.contains(&"role was operator".to_owned()), "{changed:?}");
    assert!(changed.iter().all(|line| !line.contains("argon2")), "{changed:?}");
}

#[tokio::test]
async fn who_asks_is_told_who_they_are_and_how_to_say_it() {
    let site = Site::new();
    let token = site.token(Role::Viewer);
    let told = site.with_token("GET", "/v1/session", Some(&token), Value::Null).await;
    assert_eq!(told.body, json!({ "name": "token of-viewer", "role": "viewer" }));
    let told = site.with_token("GET", "/v1/session", None, Value::Null).await;
    assert_eq!(told.headers.get(header::WWW_AUTHENTICATE).unwrap(), "Bearer");
    assert_eq!(told.body["code"], "login_required");
    let told = site.with_token("GET", "/healthz", None, Value::Null).await;
    assert_eq!((told.status, &told.body["status"]), (StatusCode::OK, &json!("ok")));
}

#[tokio::test]
async fn users_and_tokens_are_made_changed_and_ended_over_rest() {
    let site = Site::new();
    let admin = site.token(Role::Admin);
    let ask =
        async |method: &str, path: &str, body: Value| site.with_token(method, path, Some(&admin), body).await;
    assert_eq!(ask("PUT", "/v1/users/bob", json!({ "role": "viewer" })).await.body["role"], "viewer");
    assert_eq!(
        ask("PUT", "/v1/users/bob", json!({ "password": "short" })).await.body["code"],
        "password_weak"
    );
    let link = ask("POST", "/v1/users/bob/link", Value::Null).await;
    assert_eq!(link.status, StatusCode::CREATED);
    let secret = link.body["secret"].as_str().unwrap().to_owned();
    assert_eq!(link.body["path"].as_str().unwrap(), format!("/login?link={secret}"));
    assert_eq!(link.body["url"].as_str().unwrap(), format!("https://node1:7440/login?link={secret}"));
    let by_link = site.with_token("POST", "/v1/sessions", None, json!({ "link": secret })).await;
    assert_eq!((by_link.status, &by_link.body["name"]), (StatusCode::CREATED, &json!("bob")));
    let made = ask("POST", "/v1/tokens", json!({ "name": "ci", "role": "viewer" })).await;
    let ci = made.body["secret"].as_str().unwrap();
    assert_eq!(site.with_token("GET", "/v1/gpus", Some(ci), Value::Null).await.status, StatusCode::OK);
    assert_eq!(ask("DELETE", "/v1/tokens/ci", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        site.with_token("GET", "/v1/gpus", Some(ci), Value::Null).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(ask("DELETE", "/v1/users/bob", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask("DELETE", "/v1/users/bob", Value::Null).await.body["code"], "user_not_found");
    assert_eq!(ask("GET", "/v1/users", Value::Null).await.body, json!([]));
}

#[tokio::test]
async fn nobody_outside_can_say_that_they_are_inside() {
    let site = Site::new();
    for name in ["tranche-handed-on-by", "x-forwarded-for", "x-remote-user"] {
        let request = Request::builder().uri("/v1/vms").header(name, "node1").method(Method::GET);
        let told = site.ask(request.body(Body::empty()).unwrap()).await;
        assert_eq!(told.status, StatusCode::UNAUTHORIZED, "{name}");
    }
}
