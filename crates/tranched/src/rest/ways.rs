//! The way to this host's libvirt, for members that send VMs here: libvirt itself listens on no network.
//!
//! Whoever is let through can do with this host's VMs what root can. So a member gets there only while a VM is on its way from
//! it to this host, and what it has begun ends when that is over. A machine that is no member does not get as far as this
//! ([`super::cluster::door`]).
//!
//! Deliberately absent from the document of the API and from the host's own socket: only daemons of other hosts ask this.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use camino::Utf8PathBuf;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tranche_core::diagnostics::{self as say, finding};
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::name::HostName;

use super::Refusal;
use crate::cluster::door::Caller;
use crate::cluster::ways::{PATH, PROTOCOL, carry};
use crate::member::Member;

/// Connections of other hosts to this one's libvirt at once.
const WAYS_MAX: usize = 16;
/// Between two looks whether a VM is still on its way.
const LOOK: Duration = Duration::from_secs(1);

/// What leads to this host's libvirt.
#[derive(Debug, Clone)]
struct WayIn {
    host: HostName,
    member: Member,
    places: Arc<Semaphore>,
}

/// What a member may ask at this host's door.
pub(super) fn routes(host: &HostName, member: &Member) -> Router {
    let places = Arc::new(Semaphore::new(WAYS_MAX));
    let way_in = WayIn { host: host.clone(), member: member.clone(), places };
    Router::new().route(PATH, post(to_libvirt)).with_state(way_in)
}

async fn to_libvirt(
    State(way_in): State<WayIn>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    mut request: Request,
) -> Result<Response, Refusal> {
    // Whose certificate it is was seen to before.
    let from = caller.host.ok_or_else(Refusal::defect)?;
    if request.headers().get(UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        let message = format!("A way is asked for with 'Upgrade: {PROTOCOL}'.");
        let hint = "This is for daemons of other hosts; people move VMs with 'tranche vm migrate'.";
        return Err(Refusal::request(StatusCode::UPGRADE_REQUIRED, "upgrade", message, hint));
    }
    if !way_in.member.expects_from(&from) {
        let message = format!("No VM is on its way from host {from} to host {}.", way_in.host);
        let hint = "A host gets to another one's libvirt only while a VM goes from it to there.";
        return Err(Refusal::request(StatusCode::FORBIDDEN, "host", message, hint));
    }
    let Ok(place) = Arc::clone(&way_in.places).try_acquire_owned() else {
        let message = format!("Host {} has as many ways to its libvirt as it allows.", way_in.host);
        return Err(Refusal::busy(&message));
    };
    let libvirt = connect_to(way_in.member.libvirt(), &way_in.host).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(let_through(upgrade, libvirt, from, way_in.member, place));
    let agreed = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, agreed).into_response())
}

/// Connects to libvirt, at the first socket where it answers.
pub(super) async fn connect_to(sockets: &[Utf8PathBuf], host: &HostName) -> Result<UnixStream, Finding> {
    let mut why = Vec::new();
    for socket in sockets {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why.push(format!("{socket}: {error}")),
        }
    }
    if why.is_empty() {
        return Err(not_the_systems_own(host));
    }
    Err(say::libvirt_down(host, &why.join("; ")))
}

fn not_the_systems_own(host: &HostName) -> Finding {
    let message =
        format!("No VM can come to host {host} while it runs: its libvirt is not the system's own.");
    let hint = "Set 'libvirt.uri' there to \"qemu:///system\", which is the default.";
    finding(Code::LibvirtDown, Severity::Error, Subject::Host(host.clone()), message, hint)
}

/// Carries between another host and libvirt until one of them closes, or nothing is on its way from there any more.
async fn let_through(
    upgrade: OnUpgrade,
    libvirt: UnixStream,
    from: HostName,
    member: Member,
    place: OwnedSemaphorePermit,
) {
    match upgrade.await {
        Ok(there) => {
            tracing::info!(%from, "another host is let through to libvirt");
            tokio::select! {
                () = carry(TokioIo::new(there), libvirt) => tracing::info!(%from, "its way to libvirt is closed"),
                () = arrived(&member, &from) => {
                    tracing::info!(%from, "no VM is on its way from there any more; its way to libvirt is closed");
                }
            }
        }
        Err(error) => tracing::debug!(%from, %error, "another host went away before it was let through"),
    }
    drop(place);
}

/// Returns when nothing is on its way from a host any more.
async fn arrived(member: &Member, from: &HostName) {
    while member.expects_from(from) {
        tokio::time::sleep(LOOK).await;
    }
}
