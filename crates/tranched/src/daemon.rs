//! The daemon at work: the loop, the socket, the service manager, from start to end.
//!
//! ```text
//! listen ─► restore GPUs ─► open the gate to libvirt ─► look once more, or wait 200 ms ─► READY
//!                                                                                          │
//!                         STOPPING ◄─ SIGTERM, SIGINT ◄── serve, loop, ping the watchdog ◄─┘
//! ```
//!
//! The socket answers from the first moment, though requests that rest on the host wait until it was looked at; READY only tells the service manager that libvirt may start its guests. Being
//! killed at any point is no different from ending: what matters is in the store.

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tranche_core::finding::Finding;

use crate::bell::Bell;
use crate::cluster::Cluster;
use crate::cluster::door::Door;
use crate::connections::{self, Bounds};
use crate::consoles::Consoles;
use crate::engine::Engine;
use crate::events::Events;
use crate::gate::Gate;
use crate::handover::{Handovers, courier};
use crate::history::History;
use crate::looper::{Looper, Pass, Stage};
use crate::member::Member;
use crate::member::guard::Guard;
use crate::metrics::Metrics;
use crate::patience::Patience;
use crate::pulse::Pulse;
use crate::rest::{self, Access, App, Peer};
use crate::web::Web;

/// How long READY waits for the first look at libvirt, which may itself wait for READY.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// How long requests and the pass that is under way get to end.
const END_TIME: Duration = Duration::from_secs(5);

/// Members ask each other, and a machine on its way in asks to be let in.
const AT_DOOR: Bounds = Bounds { known: 1_024, strangers: 64, unread_ms: None };

/// What a daemon works with.
#[derive(Debug)]
pub struct Daemon {
    /// Knows everything and takes wishes.
    pub engine: Arc<Engine>,
    /// Wakes the loop; whoever learns of something rings it.
    pub bell: Bell,
    /// Opened when GPUs are back.
    pub gate: Gate,
    /// The longest wait between two passes.
    pub tick: Duration,
    /// This host's side of its cluster.
    pub cluster: Cluster,
    /// This host as a member of that; none where it stands alone.
    pub member: Option<(Member, Guard)>,
    /// Who may come in.
    pub access: Access,
    /// How busy this host was.
    pub history: History,
    /// What it takes to hand VMs over to hosts with stores of their own, and to take them in.
    pub handovers: Handovers,
    /// Where the console is served; nowhere if left out.
    pub web: Option<Web>,
    /// How long it waits for itself.
    pub patience: Patience,
}

/// Why a daemon ended that should not have.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The socket or the loop's thread cannot be had, or serving failed.
    #[error("the system refused to {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The host is a member of a cluster, and what it shows to others is of no use.
    #[error("{}; {}", .0.message, .0.hint)]
    Cluster(Box<Finding>),
    /// The loop panicked; the lines before say where.
    #[error("the reconcile loop ended; this is a defect, and the service manager starts the daemon anew")]
    LoopEnded,
}

impl Daemon {
    /// Serves on a socket until `end`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The system refuses, or the loop panicked.
    pub async fn serve(self, socket: UnixListener, end: impl Future<Output = ()>) -> Result<(), DaemonError> {
        socket.set_nonblocking(true).map_err(system("prepare the socket"))?;
        let socket = tokio::net::UnixListener::from_std(socket).map_err(system("prepare the socket"))?;
        let (pulse, metrics) = (Pulse::new(self.patience.pass), Arc::new(Metrics::default()));
        let events = Events::new(self.engine.watch());
        let (member, guard) = self.member.unzip();
        let following = tokio::spawn(events.clone().follow());
        let app = App {
            engine: Arc::clone(&self.engine),
            bell: member.as_ref().map_or_else(|| self.bell.clone(), Member::wishes),
            events: events.clone(),
            metrics: Arc::clone(&metrics),
            pulse: pulse.clone(),
            cluster: self.cluster.clone(),
            member: member.clone(),
            access: self.access,
            consoles: Consoles::default(),
            history: self.history.clone(),
            handovers: self.handovers.clone(),
            patience: self.patience,
        };
        let (stop, stopped) = watch::channel(false);
        let door = open_door(&self.cluster, rest::for_members(&app), self.patience, stopped.clone()).await?;
        let web = self.web.and_then(|web| web.serve(rest::for_the_web(app.clone()), stopped.clone()));
        self.cluster.follow(self.engine.watch());
        self.cluster.resume();
        self.cluster.care();
        // A member of a cluster hands nothing over.
        let courier = member.is_none().then(|| {
            let (engine, peers) = (Arc::clone(&self.engine), self.handovers.peers.clone());
            tokio::spawn(courier::run(engine, peers, self.bell.clone(), stopped.clone()))
        });
        let pass = pass(member.clone(), self.engine);
        let looper = Looper { pass, bell: self.bell.clone(), pulse: pulse.clone(), metrics, tick: self.tick };
        if let (Some(member), Some(guard)) = (&member, guard) {
            member.start(guard).map_err(system("start the threads of a member"))?;
        }
        let remembering = self.history.start().map_err(system("start the history's thread"))?;
        let (_, stages) = looper.start().map_err(system("start the loop's thread"))?;
        let announcing = tokio::spawn(announce(stages.clone(), self.gate, self.bell.clone()));
        let watchdog = tokio::spawn(watchdog(pulse));
        let mut serving = tokio::spawn(serve(socket, service(app), stopped));
        let ended = tokio::select! {
            () = end => Ok(()),
            () = closed(stages.clone()) => Err(DaemonError::LoopEnded),
            served = &mut serving => served.unwrap_or(Ok(())).map_err(system("serve")),
        };
        // A process that replaces itself does not stop: the service manager would kill what comes after it.
        if !self.cluster.is_anew() {
            notify(&[NotifyState::Stopping]);
        }
        events.end();
        self.bell.end();
        self.history.end();
        stop.send_replace(true);
        let ending = async {
            if !serving.is_finished() {
                let _ = serving.await;
            }
            closed(stages).await;
            let _ = tokio::task::spawn_blocking(move || remembering.join()).await;
        };
        if tokio::time::timeout(END_TIME, ending).await.is_err() {
            tracing::warn!("a request or a step is still under way; the next start sees what came of it");
        }
        if let Some(member) = member {
            // Waits a moment for the store.
            let _ = tokio::task::spawn_blocking(move || member.end()).await;
        }
        for task in [following, announcing, watchdog].into_iter().chain(door).chain(web).chain(courier) {
            task.abort();
        }
        ended
    }
}

/// Opens the door at which other hosts ask, if this one is a member of a cluster. Must be called within a tokio runtime.
///
/// # Errors
/// The system refuses the port, or the host's certificates are of no use.
pub async fn open_door(
    cluster: &Cluster,
    members: Router,
    patience: Patience,
    stopped: watch::Receiver<bool>,
) -> Result<Option<JoinHandle<()>>, DaemonError> {
    let identity = cluster.identity().map_err(|finding| DaemonError::Cluster(Box::new(finding)))?;
    let Some(identity) = identity else { return Ok(None) };
    let everywhere = (std::net::Ipv6Addr::UNSPECIFIED, cluster.port()).into();
    let opened = match Door::open(everywhere, &identity).await {
        // A machine without IPv6.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            Door::open((std::net::Ipv4Addr::UNSPECIFIED, cluster.port()).into(), &identity).await
        }
        opened => opened,
    };
    let door = opened.map_err(system("open the cluster's port"))?;
    let router = rest::door(cluster.clone(), members, patience);
    Ok(Some(tokio::spawn(connections::serve(door, router, AT_DOOR, stopped))))
}

/// What a turn of the host's loop is.
fn pass(member: Option<Member>, engine: Arc<Engine>) -> Pass {
    match member {
        Some(member) => Box::new(move |now| member.pass(now)),
        None => Box::new(move |now| engine.pass(now)),
    }
}

type Service = IntoMakeServiceWithConnectInfo<Router, Peer>;

fn service(app: App) -> Service {
    rest::router(app).into_make_service_with_connect_info::<Peer>()
}

async fn serve(
    socket: tokio::net::UnixListener,
    service: Service,
    mut stopped: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    axum::serve(socket, service).with_graceful_shutdown(stop).await
}

/// Opens the gate when GPUs are back, then tells the service manager that libvirt may start.
async fn announce(mut stages: watch::Receiver<Stage>, gate: Gate, bell: Bell) {
    if stages.wait_for(|stage| *stage >= Stage::Restored).await.is_err() {
        return;
    }
    gate.open();
    bell.ring();
    let _ = tokio::time::timeout(SETTLE_TIME, stages.wait_for(|stage| *stage >= Stage::Settled)).await;
    notify(&[NotifyState::Ready]);
    tracing::info!("ready");
}

/// Feeds the service manager's watchdog, if it has one for this service.
async fn watchdog(pulse: Pulse) {
    if let Some(interval) = sd_notify::watchdog_enabled() {
        feed_watchdog(&pulse, interval / 2, || notify(&[NotifyState::Watchdog])).await;
    }
}

/// Feeds a watchdog at every interval for as long as the loop advances.
async fn feed_watchdog(pulse: &Pulse, interval: Duration, feed: impl Fn()) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if pulse.is_alive() {
            feed();
        } else {
            tracing::error!(age_ms = pulse.age_ms(), "the loop does not advance; the watchdog is not fed");
        }
    }
}

/// Returns when the loop has ended.
async fn closed(mut stages: watch::Receiver<Stage>) {
    while stages.changed().await.is_ok() {}
}

pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> DaemonError {
    move |source| DaemonError::System { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// How often a watchdog is fed within a minute in which the loop does not beat.
    async fn fed_within_a_minute(hung_after: Duration) -> u32 {
        let fed = Cell::new(0);
        let pulse = Pulse::new(hung_after);
        let feeding = feed_watchdog(&pulse, Duration::from_secs(15), || fed.set(fed.get() + 1));
        let minute = Duration::from_secs(60);
        assert!(tokio::time::timeout(minute, feeding).await.is_err(), "it goes on for ever");
        fed.get()
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_while_the_loop_advances_and_starves_when_it_hangs() {
        // The pulse goes by the real clock, which hardly moves while tokio's leaps.
        assert!(fed_within_a_minute(Patience::default().pass).await >= 4);
        assert_eq!(fed_within_a_minute(Duration::ZERO).await, 0);
    }
}
