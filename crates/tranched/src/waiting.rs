//! A member of a cluster whose store does not answer when it starts: after a power cut of all hosts, whoever is up first waits
//! here for the others, for as long as that takes.
//!
//! Its own member of the store runs meanwhile, and who asks this host is told what is waited for. Nothing is decided and
//! nothing is done to the host: what the cluster wants of it is in the store. A watchdog that was left armed is fed beside it while
//! it may be ([`crate::member::vigil`]).

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::Router;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tranche_core::finding::{Code, Finding};
use tranche_store::Repository;

use crate::cluster::Cluster;
use crate::daemon::{DaemonError, notify, open_door, system};
use crate::patience::Patience;
use crate::rest::{self, Peer};
use crate::witness::feed;

/// Between two questions to the store, each of which waits by itself.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// So long libvirt is kept from starting: hosts that lost their power together are back together, and guests that libvirt
/// starts by itself may need partitions. Less than the service manager's own limit.
const LIBVIRT_WAITS: Duration = Duration::from_secs(45);
/// So long who still asks may take, on each of both ways.
const CLOSES: Duration = Duration::from_secs(4);
/// How long the start may take from when the store answers: GPUs are restored then. In microseconds.
const START_US: u32 = 90_000_000;

/// Serves on a socket until the store answers. Returns whether it does; else it is time to `end`. Must be called within a tokio
/// runtime.
///
/// # Errors
/// The system refuses, or the host's certificates are of no use.
pub async fn for_the_store(
    cluster: &Cluster,
    socket: &UnixListener,
    end: Pin<&mut impl Future<Output = ()>>,
) -> Result<bool, DaemonError> {
    let Some(first) = silent(cluster).await else { return Ok(true) };
    tracing::warn!(code = %first.code, "{}; this host waits for it", first.message);
    let (tell, why) = watch::channel(first);
    let (stop, stopped) = watch::channel(false);
    let socket = socket.try_clone().map_err(system("share the socket"))?;
    socket.set_nonblocking(true).map_err(system("prepare the socket"))?;
    let socket = tokio::net::UnixListener::from_std(socket).map_err(system("prepare the socket"))?;
    let patience = Patience::default();
    let door = open_door(cluster, Router::new(), patience, stopped.clone()).await?;
    let service = rest::waiting(cluster.clone(), patience, why).into_make_service_with_connect_info::<Peer>();
    let mut told = stopped;
    let serving = axum::serve(socket, service).with_graceful_shutdown(async move {
        let _ = told.wait_for(|stopped| *stopped).await;
    });
    let serving = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "who asks meanwhile is not answered");
        }
    });
    let feeding = tokio::spawn(feed());
    let answers = tokio::select! {
        () = answer(cluster, &tell) => true,
        () = end => false,
    };
    stop.send_replace(true);
    // What comes next listens at the same places.
    for task in [Some(serving), door].into_iter().flatten() {
        close(task).await;
    }
    feeding.abort();
    Ok(answers)
}

/// Waits until nobody is served any more; who asks at length is not waited for.
async fn close(mut task: JoinHandle<()>) {
    if tokio::time::timeout(CLOSES, &mut task).await.is_err() {
        task.abort();
    }
}

/// Asks until the store answers.
async fn answer(cluster: &Cluster, tell: &watch::Sender<Finding>) {
    let began = Instant::now();
    let mut let_go = false;
    while let Some(finding) = silent(cluster).await {
        notify(&[NotifyState::Status(&finding.message)]);
        if !let_go && began.elapsed() >= LIBVIRT_WAITS {
            tracing::warn!("libvirt is not kept waiting any longer");
            notify(&[NotifyState::Ready]);
            let_go = true;
        }
        tell.send_replace(finding);
        tokio::time::sleep(ASK_EVERY).await;
    }
    tracing::info!(waited_s = began.elapsed().as_secs(), "the store answers");
    notify(&[NotifyState::Status(""), NotifyState::ExtendTimeoutUsec(START_US)]);
}

/// Why the store does not answer; none if it does, or has something to say that does not pass by waiting.
async fn silent(cluster: &Cluster) -> Option<Finding> {
    let repository = Repository::new(cluster.store()?);
    let asked = tokio::task::spawn_blocking(move || repository.leader()).await.ok()?;
    asked.err().map(|error| error.finding()).filter(|finding| finding.code == Code::StoreUnavailable)
}
