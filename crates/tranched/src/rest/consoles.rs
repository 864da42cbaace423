//! Consoles of VMs, over WebSockets.
//!
//! The console's pages come here by their session and everybody else by a token or the host's own socket. A browser sends a session along
//! from wherever a page is, and other sites may open WebSockets: so who comes by a session has to come from a page of this console
//! (RFC 6455, section 10.2). And it cannot read an answer of HTTP, so it is told why there is no console once it is connected.
//!
//! A console is opened on the host where its VM runs. Where that is another one, its bytes go to its door, over the TLS by which
//! members know each other; whoever asks was admitted where they came in, and that host also ends what they may not have any more.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, Request, State, WebSocketUpgrade};
use axum::http::header::{CONNECTION, HOST, ORIGIN, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tower::ServiceExt as _;
use tranche_access::Asker;
use tranche_api::Problem;
use tranche_api::view::{VmState, VmView};
use tranche_core::access::denied;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::inventory::Console;
use tranche_core::name::{HostName, VmId, VmName};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admit::Noted;
use super::input::{InPath, InQuery, NoQuery};
use super::standing::By;
use super::{App, Refusal, guard, leader, vms};
use crate::cluster::door::{Caller, Trust};
use crate::cluster::ways::{self, PROTOCOL, Shut};
use crate::consoles::{self, Line, MESSAGE_LEN_MAX};
use crate::openapi::Refusals;

/// How often it is looked whether somebody may still have a console.
const LOOK: Duration = Duration::from_secs(2);
/// How long it may take until another host has opened a console.
const ENTER_TIME: Duration = Duration::from_secs(25);
/// The longest description of a VM that is read, in bytes.
const VM_LEN_MAX: usize = 1 << 20;
/// Where a member asks another one for a console.
const AT_DOOR: &str = "/v1/ways/consoles/{name}";

/// What clients may ask.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(serial)).routes(routes!(screen))
}

/// What members may ask at this host's door.
pub(super) fn for_members(app: &App) -> Router {
    Router::new().route(AT_DOOR, post(to_member)).with_state(app.clone())
}

/// How a serial console is asked for.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConsoleQuery {
    /// Take it over from whoever has it; they are cut off.
    #[param(required = false)]
    force: bool,
}

/// Opens the serial console of a VM that runs, as a WebSocket: binary messages are what it says and is told. A text message is a
/// problem, which says why it ends. One at a time has it.
#[utoipa::path(
    get,
    path = "/v1/vms/{name}/console", operation_id = "open_console",
    tag = "vms",
    params(("name" = VmName, Path), ConsoleQuery),
    responses(
        (status = 101, description = "It is open: the connection is a WebSocket from here on."),
        (status = 426, description = "The request does not ask for a WebSocket.", body = Problem, content_type = "application/problem+json"),
        Refusals
    )
)]
async fn serial(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(ConsoleQuery { force }): InQuery<ConsoleQuery>,
    by: By,
    headers: HeaderMap,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    only_from_here(&by, &headers)?;
    open(app, Wish { name, console: Console::Serial, force }, by, socket).await
}

/// Opens the screen of a VM that runs, as a WebSocket that carries RFB (VNC) in binary messages. A text message is a problem, which
/// says why it ends.
#[utoipa::path(
    get,
    path = "/v1/vms/{name}/screen", operation_id = "open_screen",
    tag = "vms",
    params(("name" = VmName, Path)),
    responses(
        (status = 101, description = "It is open: the connection is a WebSocket from here on."),
        (status = 426, description = "The request does not ask for a WebSocket.", body = Problem, content_type = "application/problem+json"),
        Refusals
    )
)]
async fn screen(
    State(app): State<App>,
    InPath(name): InPath<VmName>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    by: By,
    headers: HeaderMap,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    only_from_here(&by, &headers)?;
    open(app, Wish { name, console: Console::Screen, force: false }, by, socket).await
}

/// Which console somebody wants.
struct Wish {
    name: VmName,
    console: Console,
    force: bool,
}

async fn open(
    app: App,
    wish: Wish,
    by: By,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let socket = socket.map_err(|_| no_websocket())?;
    let socket = socket.max_message_size(MESSAGE_LEN_MAX).max_frame_size(MESSAGE_LEN_MAX);
    let opened = async {
        let place = app.consoles.place(&wish.name)?;
        Ok::<_, Refusal>((app.line_to(&wish).await?, place))
    };
    let (noted, mut response) = match opened.await {
        Ok((line, place)) => {
            let (outcome, name) = (format!("{} of VM {} opened", wish.console, wish.name), wish.name.clone());
            let carry = async move |socket| {
                let unwelcome = by.lapses(&app, LOOK, |asker| app.may_have_console(asker, &name));
                consoles::carry(socket, line, unwelcome).await;
                drop(place);
            };
            (Noted { status: StatusCode::SWITCHING_PROTOCOLS, outcome }, socket.on_upgrade(carry))
        }
        Err(refusal) if by.is_page() => {
            let problem = refusal.problem().clone();
            let outcome = format!("{}: {}", problem.code, problem.detail);
            let refuse = async move |socket| consoles::refuse(socket, &problem).await;
            (Noted { status: refusal.status(), outcome }, socket.on_upgrade(refuse))
        }
        Err(refusal) => return Err(refusal),
    };
    response.extensions_mut().insert(noted);
    Ok(response)
}

fn no_websocket() -> Refusal {
    let message = "A console is a WebSocket, and the request does not ask for one.".to_owned();
    let hint = "Open it in the console, by 'tranche vm console NAME', or by a client for WebSockets.";
    Refusal::request(StatusCode::UPGRADE_REQUIRED, "Upgrade", message, hint)
}

/// Refuses what a page of another site asks for, in the browser of somebody who is logged in here.
fn only_from_here(by: &By, headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let own = text(HOST).map(|host| format!("https://{host}"));
    if !by.is_page() || own.is_some() && text(ORIGIN) == own.as_deref() {
        return Ok(());
    }
    let message = "A page of another site asks for a console with the session of this one.".to_owned();
    let hint = "Open it from the VM's page. Behind a proxy: it has to leave the headers Host and Origin as they are.";
    Err(Refusal::request(StatusCode::FORBIDDEN, "Origin", message, hint))
}

impl App {
    /// Whether somebody may have the console of a VM: it may be one of others by now.
    async fn may_have_console(&self, asker: Asker, vm: &VmName) -> Result<bool, Refusal> {
        let path = format!("/v1/vms/{vm}/console");
        if denied(asker.role, asker.limit.is_some(), "GET", &path).is_some() {
            return Ok(false);
        }
        let Some(limit) = asker.limit else { return Ok(true) };
        self.vm_anywhere(vm).await.map(|vm| limit.allows(&vm.labels))
    }

    /// Opens a console, on whichever host its VM is.
    async fn line_to(&self, wish: &Wish) -> Result<Box<dyn Line>, Refusal> {
        let vm = self.vm_anywhere(&wish.name).await?;
        let host = match vm.state {
            VmState::Stopped | VmState::Waiting | VmState::Deleting => None,
            _ => vm.host,
        };
        let host = host.ok_or_else(|| say::vm_not_running(&wish.name))?;
        if host == *self.engine.host_name() {
            Ok(Box::new(self.line_here(wish, vm.id).await?))
        } else {
            self.line_there(&host, wish, vm.id).await
        }
    }

    /// What is known of a VM; in a cluster, by the host that leads.
    async fn vm_anywhere(&self, name: &VmName) -> Result<VmView, Refusal> {
        let asking = Router::new()
            .route("/v1/vms/{name}", get(vms::show))
            .route_layer(from_fn_with_state(self.clone(), guard::after_the_first_look))
            .route_layer(from_fn_with_state(self.clone(), leader::lead_to))
            .with_state(self.clone());
        let request = Request::get(format!("/v1/vms/{name}")).body(Body::empty());
        let request = request.map_err(|_| Refusal::defect())?;
        let Ok(response) = asking.oneshot(request).await;
        let is_told = response.status().is_success();
        let bytes = to_bytes(response.into_body(), VM_LEN_MAX).await.map_err(|_| Refusal::defect())?;
        if is_told {
            return serde_json::from_slice(&bytes).map_err(|_| Refusal::defect());
        }
        Err(serde_json::from_slice::<Problem>(&bytes).map_or_else(|_| Refusal::defect(), Refusal::from))
    }

    async fn line_here(&self, wish: &Wish, id: VmId) -> Result<tokio::net::UnixStream, Refusal> {
        let (name, console, force) = (wish.name.clone(), wish.console, wish.force);
        let opened = self.ask(move |engine| Ok(engine.open_console(&name, id, console, force))).await?;
        let stream = |stream: UnixStream| {
            stream.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(stream)
        };
        stream(opened.map_err(Refusal::from)?).map_err(|error| {
            tracing::error!(%error, "a console that is open cannot be read");
            Refusal::defect()
        })
    }

    async fn line_there(&self, host: &HostName, wish: &Wish, id: VmId) -> Result<Box<dyn Line>, Refusal> {
        let (cluster, to) = (self.cluster.clone(), host.clone());
        let looked = tokio::task::spawn_blocking(move || {
            Ok::<_, Finding>((cluster.door_of(&to)?, cluster.identity()?))
        });
        let (door, identity) = looked.await.map_err(|_| Refusal::defect())??;
        let identity = identity.ok_or_else(say::cluster_none)?;
        let asked = AtDoor { id, console: wish.console, force: wish.force };
        let query = serde_json::to_value(asked).map_err(|_| Refusal::defect())?;
        let query: Vec<String> = query
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", value.to_string().trim_matches('"')))
            .collect();
        let path = format!("{}?{}", AT_DOOR.replace("{name}", wish.name.as_str()), query.join("&"));
        let trust = Trust::Member(&identity, &door.key);
        let entered = tokio::time::timeout(ENTER_TIME, ways::enter_at(&door.place, trust, &path, None)).await;
        match entered.unwrap_or_else(|_| Err(Shut::Silent("it does not answer in time".to_owned()))) {
            Ok(entered) => Ok(Box::new(entered)),
            Err(Shut::Refused(problem)) => Err(Refusal::from(*problem)),
            Err(Shut::Silent(why)) => Err(say::vm_elsewhere(&wish.name, host, &why).into()),
        }
    }
}

/// What a member asks another one for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AtDoor {
    id: VmId,
    console: Console,
    force: bool,
}

/// Opens a console of a VM here for another member. Whoever looks at it was admitted there.
async fn to_member(
    State(app): State<App>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    InPath(name): InPath<VmName>,
    InQuery(AtDoor { id, console, force }): InQuery<AtDoor>,
    headers: HeaderMap,
    Extension(upgrade): Extension<hyper::upgrade::OnUpgrade>,
) -> Result<Response, Refusal> {
    // Whose certificate it is was seen to before.
    let from = caller.host.ok_or_else(Refusal::defect)?;
    if headers.get(UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        return Err(no_websocket());
    }
    let place = app.consoles.place(&name)?;
    let line = app.line_here(&Wish { name: name.clone(), console, force }, id).await?;
    tracing::info!(%from, vm = %name, %console, "another host opens a console");
    tokio::spawn(async move {
        match upgrade.await {
            Ok(there) => consoles::relay(TokioIo::new(there), line).await,
            Err(error) => {
                tracing::debug!(%from, %error, "another host went away before its console was open");
            }
        }
        drop(place);
    });
    let agreed = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, agreed).into_response())
}
