//! REST on the socket: one handler a route, each of which asks the engine and nothing else.
//!
//! Everything that comes in is checked here for form (size, JSON, names, unknown fields) and nowhere for sense: whether
//! a wish can come true is decided by [`tranche_core::change`] alone, so that every door refuses the same. Whatever
//! goes wrong is answered as problem+json, also what HTTP itself refuses.

mod access;
mod admit;
mod catalogue;
mod cluster;
mod consoles;
mod events;
mod followed;
mod gpus;
mod guard;
mod handover;
mod history;
mod homogeneity;
mod hosts;
mod input;
mod installation;
mod leader;
mod limited;
mod meta;
mod operations;
mod page;
mod peers;
mod refusal;
mod rules;
mod standing;
mod upgrade;
mod vms;
mod ways;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt as _;
use tranche_api::answer::{Accepted, Preview};
use tranche_api::view::Sources;
use tranche_core::change::{self, Change};
use tranche_core::operation::Operation;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::bell::Bell;
use crate::clock;
use crate::cluster::Cluster;
use crate::consoles::Consoles;
use crate::engine::{Engine, Rejected, Submitted, View};
use crate::events::Events;
use crate::handover::Handovers;
use crate::history::History;
use crate::member::Member;
use crate::metrics::Metrics;
use crate::patience::Patience;
use crate::pulse::Pulse;

use admit::Doorkeeper;

pub use access::Access;
pub use cluster::{door, waiting, witness};
pub use guard::Peer;
pub(crate) use refusal::Refusal;

/// What handlers work with.
#[derive(Debug, Clone)]
pub struct App {
    /// Knows everything and takes wishes.
    pub engine: Arc<Engine>,
    /// Wakes whoever decides, after a wish.
    pub bell: Bell,
    /// Tells readers what changed.
    pub events: Events,
    /// Numbers for monitoring.
    pub metrics: Arc<Metrics>,
    /// Whether the loop is alive.
    pub pulse: Pulse,
    /// This host's side of its cluster.
    pub cluster: Cluster,
    /// This host as a member of that, at work; none where it stands alone.
    pub member: Option<Member>,
    /// Who may come in.
    pub access: Access,
    /// The consoles of VMs that are open by way of this host.
    pub consoles: Consoles,
    /// How busy this host was.
    pub history: History,
    /// What it takes to hand VMs over to hosts with stores of their own, and to take them in.
    pub handovers: Handovers,
    /// How long requests wait.
    pub patience: Patience,
}

/// The whole REST interface, on the host's own socket.
pub fn router(app: App) -> Router {
    authorised(&app)
        .layer(from_fn(admit::by_socket))
        .layer(from_fn_with_state(app.patience, guard::guard))
        .layer(from_fn(followed::begin))
}

/// The console and the whole REST interface, over HTTPS. The console asks the same interface, as whoever looks at it.
pub fn for_the_web(app: App) -> Router {
    let rest = authorised(&app);
    let pages = tranche_console::router(rest.clone());
    let peers = peers::routes(&app);
    let either = async move |request: Request| {
        let router = match request.uri().path() {
            path if path.starts_with(peers::PREFIX) => peers,
            path if admit::is_rest(path) => rest,
            _ => pages,
        };
        router.oneshot(request).await
    };
    Router::new()
        .fallback(either)
        .layer(from_fn_with_state(app.clone(), admit::by_web))
        .layer(from_fn_with_state(app.patience, guard::guard))
        .layer(from_fn(followed::begin))
}

/// The whole REST interface, for those who may ask what they ask.
fn authorised(app: &App) -> Router {
    let (of_consoles, _) = consoles::routes().split_for_parts();
    let (of_the_cluster, _) = cluster::of_the_cluster::<App>().split_for_parts();
    let (of_access, _) = access::routes().split_for_parts();
    let rest = routes_of(app)
        .merge(of_the_cluster.with_state(app.clone()))
        .merge(of_access.with_state(app.clone()))
        .merge(of_consoles.with_state(app.clone()))
        .fallback(guard::not_found)
        .method_not_allowed_fallback(guard::method_not_allowed);
    let doorkeeper = Doorkeeper { app: app.clone(), rest: rest.clone() };
    rest.layer(from_fn_with_state(doorkeeper, admit::authorise)).layer(from_fn(tranche_console::tell_route))
}

/// What members of the cluster may ask at the host's door: all that does not concern this host's own place in the cluster, and
/// the way to its libvirt and the history that it keeps, which nobody asks for on its own socket.
pub fn for_members(app: &App) -> Router {
    match &app.member {
        Some(member) => routes_of(app)
            .merge(ways::routes(app.engine.host_name(), member))
            .merge(consoles::for_members(app))
            .merge(history::of_members(&app.history)),
        None => routes_of(app),
    }
}

fn routes_of(app: &App) -> Router {
    let (of_the_hosts, _) = of_the_hosts().split_for_parts();
    let (news, _) = news().split_for_parts();
    let (of_the_daemon, _) = of_the_daemon().split_for_parts();
    of_the_hosts
        .route_layer(from_fn_with_state(app.clone(), guard::after_the_first_look))
        .merge(news)
        .route_layer(from_fn_with_state(app.clone(), limited::wall))
        .route_layer(from_fn_with_state(app.clone(), leader::lead_to))
        .merge(of_the_daemon)
        .with_state(app.clone())
}

/// Every route with its documentation.
pub(crate) fn documented() -> OpenApiRouter<App> {
    of_the_hosts()
        .merge(news())
        .merge(of_the_daemon())
        .merge(cluster::of_the_cluster())
        .merge(access::routes())
        .merge(consoles::routes())
}

/// What the daemon answers about itself and of what it knows beforehand, at any moment.
fn of_the_daemon() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(meta::openapi))
        .routes(routes!(meta::health))
        .routes(routes!(meta::metrics))
        .routes(routes!(catalogue::list))
        .routes(routes!(catalogue::show))
}

/// What changes, as it changes.
fn news() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events::stream))
}

/// What rests on how hosts are, and is answered only after they have been looked at; in a cluster, by the host that leads.
fn of_the_hosts() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::show, hosts::set, hosts::amend))
        .routes(routes!(hosts::drain))
        .routes(routes!(hosts::undrain))
        .routes(routes!(hosts::depart))
        .routes(routes!(hosts::stay))
        .routes(routes!(hosts::confirm_down))
        .routes(routes!(upgrade::plan))
        .routes(routes!(hosts::pause))
        .routes(routes!(hosts::resume))
        .routes(routes!(gpus::list))
        .routes(routes!(gpus::show))
        .routes(routes!(gpus::set_mode))
        .routes(routes!(gpus::partitions))
        .routes(routes!(history::of_gpu))
        .routes(routes!(history::of_vm))
        .routes(routes!(homogeneity::report))
        .routes(routes!(homogeneity::set_mode))
        .routes(routes!(catalogue::check))
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::show, vms::set, vms::delete))
        .routes(routes!(vms::adopt))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(vms::restart))
        .routes(routes!(vms::migrate))
        .routes(routes!(vms::attach))
        .routes(routes!(vms::detach))
        .routes(routes!(operations::list))
        .routes(routes!(operations::show))
        .routes(routes!(rules::list))
        .routes(routes!(rules::show, rules::set, rules::delete))
        .routes(routes!(rules::capacity))
        .routes(routes!(installation::overview))
        .routes(routes!(installation::findings))
        .routes(routes!(installation::why_not))
        .routes(routes!(vms::destinations))
        .routes(routes!(installation::doctor))
        .routes(routes!(installation::apply))
        .routes(routes!(installation::diff))
        .routes(routes!(installation::policy, installation::set_policy))
        .merge(handover::routes())
}

impl App {
    /// Asks the engine on a thread that may wait for the store.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> Result<T, Rejected> + Send + 'static,
    ) -> Result<T, Refusal> {
        let engine = Arc::clone(&self.engine);
        let answer = tokio::task::spawn_blocking(followed::within(move || question(&engine))).await;
        answer.map_err(|_| Refusal::defect())?.map_err(Refusal::from)
    }

    /// Makes a wish, or asks what it would do, and wakes the loop.
    async fn change(&self, change: Change, dry_run: bool) -> Result<Response, Refusal> {
        match self.ask(move |engine| engine.submit(&change, dry_run, clock::now())).await? {
            Submitted::Accepted { operation, findings } => {
                self.bell.ring();
                let location = location_of(&operation);
                let accepted = Accepted { operation: *operation, findings };
                Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(accepted)).into_response())
            }
            Submitted::Preview { title, effect, version } => {
                Ok(Json(Preview { changes: vec![title], effect, version }).into_response())
            }
        }
    }
}

/// What the core judges by.
pub(crate) fn state_of(view: &View) -> change::State<'_> {
    change::State { spec: &view.spec, plan: &view.plan, inventory: &view.inventory }
}

/// What the views of the API are made from.
fn sources(view: &View) -> Sources<'_> {
    Sources { spec: &view.spec, plan: &view.plan, inventory: &view.inventory, findings: &view.findings }
}

/// What decisions are made from.
fn state(view: &View) -> change::State<'_> {
    change::State { spec: &view.spec, plan: &view.plan, inventory: &view.inventory }
}

fn location_of(operation: &Operation) -> String {
    format!("{}/operations/{}", tranche_api::BASE, operation.id)
}

/// How long a request has taken, in milliseconds.
fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
