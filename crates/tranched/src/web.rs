//! HTTPS for people and programs: the console, and the REST interface with tokens, on a port of its own.
//!
//! It comes and goes without the rest: a port that is taken or a certificate that is of no use is told and tried again, and VMs are
//! looked after meanwhile.
//!
//! Deliberately absent: how many connections there may be, and for how long ([`crate::connections`]), who may do what ([`crate::rest`]), and what members of the cluster ask each other
//! ([`crate::cluster::door`]).

mod certificate;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tranche_core::name::HostName;

pub use certificate::Certificate;

use crate::cluster::Cluster;
use crate::cluster::door::Door;
use crate::config::ConsoleConfig;
use crate::connections::{self, Bounds};
use crate::handover::Shown;

/// Nobody shows a certificate here.
const BOUNDS: Bounds = Bounds { known: 0, strangers: 1_024, unread_ms: Some(60_000) };
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
                        return connections::serve(door, router, BOUNDS, stopped).await;
                    }
                    Err(error) => {
                        tracing::error!("the console cannot be served at {address}: {error:#}");
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = connections::ended(stopped.clone()) => return,
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
