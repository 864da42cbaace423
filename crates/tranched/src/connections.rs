//! Connections that come in over TLS, within limits: anybody on the network can open them, and each takes a descriptor that the daemon
//! also needs to look after its host.
//!
//! Whoever sends its request slowly, asks nothing, or does not read what it is answered, is let go. Those who are not known by a certificate
//! have places of their own, so that they take none from the members of a cluster.
//!
//! Deliberately absent: handshakes ([`crate::cluster::door`]), and who may ask what ([`crate::rest`]).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::serve::Listener as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::server::TlsStream;

use crate::cluster::door::{Caller, Door};

/// How long the head of a request may take, also of the next one on a connection.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes.
const HEAD_LEN_MAX: usize = 32 * 1024;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections at once of those who have shown a certificate.
    pub(crate) known: usize,
    /// The same of everybody else.
    pub(crate) strangers: usize,
    /// For how long what was sent may lie unread, in milliseconds, where that is bounded. Tunnels between hosts may have to wait longer.
    pub(crate) unread_ms: Option<u32>,
}

/// Serves until `stopped`. Requests that are under way then are answered still.
pub(crate) async fn serve(mut door: Door, router: Router, bounds: Bounds, stopped: watch::Receiver<bool>) {
    let [known, strangers] = [bounds.known, bounds.strangers].map(|places| Arc::new(Semaphore::new(places)));
    loop {
        let (stream, caller) = tokio::select! {
            accepted = door.accept() => accepted,
            () = ended(stopped.clone()) => return,
        };
        let places = if caller.key.is_some() { &known } else { &strangers };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            tracing::debug!(from = %caller.address, "there are as many connections as there may be; one more is closed");
            continue;
        };
        if let Some(unread_ms) = bounds.unread_ms
            && let Err(error) = set_tcp_user_timeout(stream.get_ref().0, unread_ms)
        {
            tracing::debug!(%error, "how long a connection may lie unread cannot be set");
        }
        tokio::spawn(carry(stream, caller, router.clone(), place, ended(stopped.clone())));
    }
}

async fn carry(
    stream: TlsStream<TcpStream>,
    caller: Caller,
    router: Router,
    place: OwnedSemaphorePermit,
    stop: impl Future<Output = ()>,
) {
    let service = router.layer(axum::Extension(ConnectInfo(caller)));
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
}

/// Returns when serving shall end.
pub(crate) async fn ended(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use hyper::body::{Bytes, Incoming};
    use hyper::{Request, Response, StatusCode};
    use tranche_core::name::Timestamp;

    use super::*;
    use crate::clock;
    use crate::cluster::door::tests::{identity, key_of};
    use crate::cluster::door::{AskError, Connection, Identity, Trust, connect};
    use crate::cluster::pki::{self, Authority};

    /// More than lies between two ends that do not read.
    const LARGE: usize = 64 << 20;
    const DEADLINE: Duration = Duration::from_secs(30);

    struct Site {
        own: Identity,
        address: String,
        _stop: watch::Sender<bool>,
    }

    impl Site {
        async fn open(bounds: Bounds) -> Self {
            let now: Timestamp = clock::now();
            let own = identity(&Authority::new("c", now).unwrap(), "node1", now);
            let door = Door::open(([127, 0, 0, 1], 0).into(), &own).await.unwrap();
            let address = door.local_addr().unwrap().address.to_string();
            let (stop, stopped) = watch::channel(false);
            let large = Router::new().route("/large", get(|| async { vec![b'x'; LARGE] }));
            tokio::spawn(serve(door, large.route("/", get(|| async { "hello" })), bounds, stopped));
            Self { own, address, _stop: stop }
        }

        async fn stranger(&self) -> Connection {
            let authority = pki::fingerprint(&pki::der(&self.own.authority).unwrap());
            connect(&self.address, Trust::Fingerprint(authority)).await.unwrap()
        }

        async fn member(&self) -> Connection {
            connect(&self.address, Trust::Member(&self.own, &key_of(&self.own))).await.unwrap()
        }

        /// Waits until a stranger is answered.
        async fn until_there_is_a_place(&self) {
            let answered = async {
                while ask(self.stranger().await, "/").await.is_err() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(DEADLINE, answered).await.expect("a place becomes free");
        }
    }

    async fn ask(connection: Connection, path: &str) -> Result<Response<Incoming>, AskError> {
        let answer = connection.send(Request::get(path).body(Bytes::new()).unwrap()).await?;
        assert_eq!(answer.status(), StatusCode::OK);
        Ok(answer)
    }

    #[tokio::test]
    async fn those_whom_nobody_knows_take_no_place_of_members_and_one_who_goes_makes_room() {
        let site = Site::open(Bounds { known: 2, strangers: 1, unread_ms: None }).await;
        let idle = site.stranger().await;
        // Its place is taken once it is answered that there is no other.
        let full = async { while ask(site.stranger().await, "/").await.is_ok() {} };
        tokio::time::timeout(DEADLINE, full).await.expect("there is one place");
        ask(site.member().await, "/").await.unwrap();
        drop(idle);
        site.until_there_is_a_place().await;
    }

    #[tokio::test]
    async fn whoever_does_not_read_what_it_is_answered_is_let_go() {
        let site = Site::open(Bounds { known: 0, strangers: 1, unread_ms: Some(300) }).await;
        let unread = ask(site.stranger().await, "/large").await.unwrap();
        site.until_there_is_a_place().await;
        drop(unread);
    }

    #[tokio::test]
    async fn what_is_answered_waits_for_no_acknowledgement() {
        let now: Timestamp = clock::now();
        let own = identity(&Authority::new("c", now).unwrap(), "node1", now);
        let mut door = Door::open(([127, 0, 0, 1], 0).into(), &own).await.unwrap();
        let address = door.local_addr().unwrap().address.to_string();
        let key = key_of(&own);
        let (entered, asks) = tokio::join!(door.accept(), connect(&address, Trust::Member(&own, &key)));
        asks.unwrap();
        assert!(entered.0.get_ref().0.nodelay().unwrap());
    }
}
