//! Sends spans to the collector, on a thread and a runtime of its own, so that whatever the collector does holds up nobody else.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use hyper::body::Bytes;
use hyper::header;
use hyper::{Request, StatusCode, Uri};
use prost::Message as _;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::subscriber::NoSubscriber;
use tranche_core::name::HostName;

use super::messages::{Attribute, Export, Resource, ResourceSpans, Scope, ScopeSpans, Span, Value};
use super::queue::Queue;
use crate::config::TracesConfig;
use crate::outward;

/// How long the collector has to take what is sent at once.
const SEND_TIME: Duration = Duration::from_secs(5);
/// The same at the daemon's end, which waits for it.
const LAST_SEND_TIME: Duration = Duration::from_secs(2);
/// How often it is said that spans are dropped.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Sends spans.
#[derive(Debug)]
pub(super) struct Sender {
    /// Where to: an address with a path, as the settings were checked to have.
    to: String,
    authority: Utf8PathBuf,
    host: String,
    cluster: Arc<OnceLock<String>>,
    tls: Option<Arc<ClientConfig>>,
    told: Teller,
}

/// Says from time to time that spans are dropped.
#[derive(Debug, Default)]
struct Teller {
    at: Option<Instant>,
    dropped: u64,
}

impl Teller {
    /// Whether it is to be said now that so many were dropped in all, and how many that are since it was last said.
    fn tells(&mut self, dropped: u64, now: Instant) -> Option<u64> {
        let is_due = self.at.is_none_or(|at| now.duration_since(at) >= TELL_EVERY);
        let since = dropped - self.dropped;
        if since == 0 || !is_due {
            return None;
        }
        (self.at, self.dropped) = (Some(now), dropped);
        Some(since)
    }
}

impl Sender {
    pub(super) fn new(config: &TracesConfig, host: &HostName, cluster: Arc<OnceLock<String>>) -> Self {
        Self {
            to: config.address(),
            authority: config.authority.clone(),
            host: host.to_string(),
            cluster,
            tls: None,
            told: Teller::default(),
        }
    }

    /// Sends what is in the queue until that ends.
    pub(super) fn run(mut self, queue: &Queue) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => self.send_all(queue, &runtime),
            Err(error) => tracing::error!(%error, "no traces are sent"),
        }
        queue.over();
    }

    fn send_all(&mut self, queue: &Queue, runtime: &tokio::runtime::Runtime) {
        let mut why = None;
        while let Some(spans) = queue.take() {
            let (count, ends) = (spans.len(), queue.ends());
            let limit = if ends { LAST_SEND_TIME } else { SEND_TIME };
            let body = self.export(spans).encode_to_vec();
            // What this thread does to send traces belongs into none.
            let sent = tracing::subscriber::with_default(NoSubscriber::new(), || {
                runtime.block_on(async { tokio::time::timeout(limit, self.send(body)).await })
            });
            if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                queue.lose(count);
                why = Some(error);
            }
            if let Some(dropped) = self.told.tells(queue.dropped(), Instant::now()) {
                let why = why.take().map(|error| error.to_string());
                tracing::warn!(dropped, why, "spans of traces are dropped");
            }
            // Whoever waits for the end need not wait for a collector that takes nothing.
            if ends && why.is_some() {
                return;
            }
        }
    }

    async fn send(&mut self, body: Vec<u8>) -> io::Result<()> {
        let uri: Uri = self.to.parse().map_err(io::Error::other)?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_secret = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_secret { 443 } else { 80 });
        let request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Bytes::from(body))
            .map_err(io::Error::other)?;
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        let answer = if is_secret {
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let proved = TlsConnector::from(self.tls()?).connect(name, stream).await;
            let stream = proved.map_err(|error| self.unproved(&host, &error))?;
            outward::send(stream, request).await?
        } else {
            outward::send(stream, request).await?
        };
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS => Err(io::Error::other("the collector has too much to do")),
            status => Err(io::Error::other(format!("the collector says {}", status.as_u16()))),
        }
    }

    /// Whom to believe. Read when it is needed first, and again as long as that fails.
    fn tls(&mut self) -> io::Result<Arc<ClientConfig>> {
        if let Some(tls) = &self.tls {
            return Ok(Arc::clone(tls));
        }
        let unusable = |error: io::Error| {
            io::Error::other(format!("traces.authority, {}, cannot be used: {error}", self.authority))
        };
        let tls = Arc::new(outward::trusting(&self.authority).map_err(unusable)?);
        self.tls = Some(Arc::clone(&tls));
        Ok(tls)
    }

    fn unproved(&self, host: &str, error: &io::Error) -> io::Error {
        let authority = &self.authority;
        io::Error::other(format!(
            "{host} does not prove who it is to who trusts {authority} (traces.authority): {error}"
        ))
    }

    fn export(&self, spans: Vec<Span>) -> Export {
        let text = |name: &str, value: &str| Attribute::new(name, Value::Text(value.to_owned()));
        let mut attributes = vec![
            text("service.name", "tranched"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", &self.host),
            text("host.name", &self.host),
        ];
        attributes.extend(self.cluster.get().map(|name| text("tranche.cluster", name)));
        let scope = Scope { name: "tranche".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        Export {
            resource_spans: vec![ResourceSpans { resource: Some(Resource { attributes }), scope_spans }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_spans_are_dropped_is_said_once_a_minute_with_how_many_since() {
        let (mut teller, now) = (Teller::default(), Instant::now());
        assert_eq!(teller.tells(0, now), None);
        assert_eq!(teller.tells(3, now), Some(3));
        assert_eq!(teller.tells(9, now + TELL_EVERY / 2), None);
        assert_eq!(teller.tells(10, now + TELL_EVERY), Some(7));
        assert_eq!(teller.tells(10, now + 2 * TELL_EVERY), None);
    }
}
