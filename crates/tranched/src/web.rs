//! HTTPS for people and programs: the console, and the REST interface with tokens, on a port of its own.
//!
//! It comes and goes without the rest: a port that is taken or a certificate that is of no use is told and tried again, and VMs are
//! looked after meanwhile. Whoever sends its request slowly, or holds a connection and asks nothing, is let go.
//!
//! Deliberately absent: who may do what ([`crate::rest`]), and what members of the cluster ask each other
//! ([`crate::cluster::door`]).

mod certificate;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::serve::Listener as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tranche_core::name::HostName;

pub use certificate::Certificate;

use crate::cluster::Cluster;
use crate::cluster::door::Door;
use crate::config::ConsoleConfig;
use crate::handover::Shown;

/// Connections at once.
const CONNECTIONS_MAX: usize = 1_024;
/// How long the head of a request may take, also of the next one on a connection.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes.
const HEAD_LEN_MAX: usize = 32 * 1024;
/// Between two attempts to open the port.
const AGAIN: Duration = Duration::from_secs(30);

/// What the port is opened with.
#[derive(Debug)]
pub struct Web {
    /// Its settings.
    pub config: ConsoleConfig,
    /// Where a certificate of its own is kept.
    pub state_dir: camino::Utf8PathBuf,
    /// Whose it is.
    pub host: HostName,
    /// The host's side of its cluster, which certifies it.
    pub cluster: Cluster,
    /// Told what is shown.
    pub shown: Shown,
}

impl Web {
    /// Serves until `stopped`; nothing where the settings want no port. Must be called within a tokio runtime.
    pub fn serve(self, router: Router, stopped: watch::Receiver<bool>) -> Option<JoinHandle<()>> {
        let address = self.config.address()?;
        Some(tokio::spawn(async move {
            loop {
                match self.open(address).await {
                    Ok((door, fingerprint)) => {
                        let local = door.local_addr().map_or(address, |caller| caller.address);
                        tracing::info!(address = %local, fingerprint, "the console is served over HTTPS");
                        return serve(door, router, stopped).await;
                    }
                    Err(error) => {
                        tracing::error!("the console cannot be served at {address}: {error:#}");
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = ended(stopped.clone()) => return,
                }
            }
        }))
    }

    async fn open(&self, address: SocketAddr) -> anyhow::Result<(Door, String)> {
        let certificate = Certificate::find(self)?;
        let config = certificate.tls()?;
        let door = match Door::listen(address, config.clone()).await {
            // A machine without IPv6.
            Err(error) if error.kind() == io::ErrorKind::Unsupported && address.ip().is_unspecified() => {
                Door::listen((Ipv4Addr::UNSPECIFIED, address.port()).into(), config).await
            }
            opened => opened,
        }?;
        self.shown.set(certificate.digest());
        Ok((door, certificate.fingerprint()))
    }
}

async fn serve(mut door: Door, router: Router, stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, caller) = tokio::select! {
            accepted = door.accept() => accepted,
            () = ended(stopped.clone()) => return,
        };
        let service = router.clone().layer(axum::Extension(ConnectInfo(caller)));
        let stop = ended(stopped.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(HEAD_LEN_MAX)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = stop => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a connection broke");
            }
            drop(place);
        });
    }
}

/// Returns when serving shall end.
async fn ended(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
