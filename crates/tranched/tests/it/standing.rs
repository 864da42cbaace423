//! What lasts ends when what it was opened by does: consoles and streams of events of people who may not have them any more.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderValue, Request, header};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::io::DuplexStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use tower::ServiceExt as _;
use tranche_api::access::{Secret, SetUser};
use tranche_core::access::Role;
use tranche_core::label::Label;
use tranched::clock;

use crate::admitted::{PASSWORD, Site};
use crate::consoles::{end_of, hear};
use crate::limited::{RUNNING, Teams, token};

/// How long a stream is watched that does not end.
const LONG: Duration = Duration::from_secs(600);

/// By what somebody comes in.
enum By<'a> {
    Token(&'a str),
    Session(&'a str),
}

impl By<'_> {
    fn headers(&self) -> Vec<(header::HeaderName, HeaderValue)> {
        let value = |text: String| HeaderValue::from_str(&text).unwrap();
        match self {
            Self::Token(token) => vec![(header::AUTHORIZATION, value(format!("Bearer {token}")))],
            Self::Session(secret) => vec![
                (header::COOKIE, value(format!("{}={secret}", tranche_console::SESSION_COOKIE))),
                (header::ORIGIN, value("https://node1:7440".to_owned())),
            ],
        }
    }
}

/// Opens a WebSocket at a site's door, over a connection of its own.
async fn open(site: &Site, path: &str, by: By<'_>) -> WebSocketStream<DuplexStream> {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let service = TowerToHyperService::new(site.door());
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(theirs), service).with_upgrades());
    let mut request = format!("ws://node1:7440{path}").into_client_request().unwrap();
    request.headers_mut().extend(by.headers());
    client_async(request, ours).await.unwrap().0
}

fn user(site: &Site, name: &str, role: Role, label: Option<&str>) {
    let vm_labels = Some(label.iter().map(|label| label.parse::<Label>().unwrap()).collect());
    let wish = SetUser { role: Some(role), vm_labels, password: Some(Secret(PASSWORD.to_owned())) };
    site.access.accounts.set_user(&name.parse().unwrap(), &wish, clock::now()).unwrap();
}

async fn session(site: &Site, name: &str) -> String {
    site.log_in(name, PASSWORD).await.body["secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_open_console_is_cut_when_what_it_was_opened_by_ends_or_its_vm_becomes_one_of_others() {
    let mut teams = Teams::new().await;
    for name in ["gone", "lowered"] {
        user(&teams.site, name, Role::Operator, None);
    }
    let (gone, lowered) = (session(&teams.site, "gone").await, session(&teams.site, "lowered").await);
    let (limited, revoked) = (teams.red(Role::Operator), token(&teams.site, "revoked", Role::Operator, &[]));
    let (screen, page) = (format!("/v1/vms/{RUNNING}/screen"), format!("/vms/{RUNNING}/screen/socket"));
    let mut cut = Vec::new();
    for (path, by) in [
        (&screen, By::Token(&limited)),
        (&screen, By::Token(&revoked)),
        (&page, By::Session(&gone)),
        (&page, By::Session(&lowered)),
    ] {
        let mut socket = open(&teams.site, path, by).await;
        hear(&mut socket, "RFB").await;
        cut.push(socket);
    }
    let serial = format!("/v1/vms/{RUNNING}/console");
    let mut stays = open(&teams.site, &serial, By::Token(&teams.admin)).await;
    teams.order("PATCH", &format!("/v1/vms/{RUNNING}"), json!({"labels": {"team": "blue"}})).await;
    let accounts = &teams.site.access.accounts;
    accounts.delete_token(&"revoked".parse().unwrap()).unwrap();
    accounts.log_out(&gone).unwrap();
    user(&teams.site, "lowered", Role::Viewer, None);
    for socket in cut {
        let why = end_of(socket).await;
        assert!(why.contains("may not do this any more"), "{why}");
    }
    stays.send(Message::binary(b"hello\r".to_vec())).await.unwrap();
    hear(&mut stays, "hello\r\n").await;
}

/// The stream of events that somebody reads, by a token or on a page.
async fn events(site: &Site, by: By<'_>) -> BodyDataStream {
    let path = if matches!(by, By::Token(_)) { "/v1/events" } else { "/events" };
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    request.headers_mut().extend(by.headers());
    let mut stream = site.door().oneshot(request).await.unwrap().into_body().into_data_stream();
    stream.next().await.expect("it says that all is new").unwrap();
    stream
}

/// Whether it ends, however long it is read.
async fn ends(mut stream: BodyDataStream) -> bool {
    let read = async { while stream.next().await.is_some() {} };
    tokio::time::timeout(LONG, read).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_ends_when_what_it_was_opened_by_does_or_may_show_other_vms_than_before() {
    let site = Site::new();
    let [revoked, stays] = ["revoked", "stays"].map(|name| token(&site, name, Role::Viewer, &[]));
    user(&site, "gone", Role::Viewer, None);
    user(&site, "moved", Role::Viewer, Some("team=red"));
    let (gone, moved) = (session(&site, "gone").await, session(&site, "moved").await);
    let [revoked, stays] = [events(&site, By::Token(&revoked)).await, events(&site, By::Token(&stays)).await];
    let [gone, moved] = [events(&site, By::Session(&gone)).await, events(&site, By::Session(&moved)).await];
    site.access.accounts.delete_token(&"revoked".parse().unwrap()).unwrap();
    site.access.accounts.delete_user(&"gone".parse().unwrap()).unwrap();
    user(&site, "moved", Role::Viewer, Some("team=blue"));
    let ended = tokio::join!(ends(revoked), ends(gone), ends(moved), ends(stays));
    assert_eq!(ended, (true, true, true, false));
}
