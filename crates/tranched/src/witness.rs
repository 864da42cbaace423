//! A machine that only has a voice in the cluster's store: it joins, runs its member, and says how it fares.
//!
//! No engine, no hardware, no libvirt; so it fits on any small machine.

use std::future::Future;
use std::os::unix::net::UnixListener;

use axum::Router;
use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::daemon::{DaemonError, open_door, system};
use crate::patience::Patience;
use crate::rest;

/// Serves on a socket until `end`. Must be called within a tokio runtime.
///
/// # Errors
/// The system refuses, or the machine's certificates are of no use.
pub async fn serve(
    cluster: Cluster,
    socket: UnixListener,
    end: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    socket.set_nonblocking(true).map_err(system("prepare the socket"))?;
    let socket = tokio::net::UnixListener::from_std(socket).map_err(system("prepare the socket"))?;
    let patience = Patience::default();
    let (stop, stopped) = watch::channel(false);
    let door = open_door(&cluster, Router::new(), patience, stopped.clone()).await?;
    cluster.resume();
    cluster.care();
    // There is nothing to restore that anybody would wait for.
    let notified = sd_notify::notify(&[NotifyState::Ready]);
    if let Err(error) = notified {
        tracing::warn!(%error, "the service manager cannot be told");
    }
    tracing::info!("ready, as a witness");
    let alive = tokio::spawn(feed());
    let service = rest::witness(cluster, patience).into_make_service_with_connect_info::<rest::Peer>();
    let mut stopped = stopped;
    let told = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let serving = axum::serve(socket, service).with_graceful_shutdown(told);
    let stopping = async {
        end.await;
        stop.send_replace(true);
    };
    let (served, ()) = tokio::join!(serving, stopping);
    for task in std::iter::once(alive).chain(door) {
        task.abort();
    }
    served.map_err(system("serve"))
}

/// Feeds the service manager's watchdog, if it has one for this service.
pub(crate) async fn feed() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        // The next one comes anyway.
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
}
