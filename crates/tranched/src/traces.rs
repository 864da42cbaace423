//! Traces for OpenTelemetry: what was done for a request, on whichever host, as spans that are sent to a collector (OTLP over HTTP).
//!
//! ```text
//! spans of tranche_engine::trail ─► Layer ─► Queue (bounded) ─► thread "traces" ─► collector
//!                                             └─► full: dropped, counted
//! ```
//!
//! Off unless the settings name a collector; then nothing of this is there, and logs are the same either way. Whoever makes a span
//! never waits: a collector that is slow or gone costs spans, and nothing else.
//!
//! Deliberately absent: logs and metrics (the journal and `/metrics` have them), whatever a client sends besides its method (paths,
//! queries, bodies and credentials may hold secrets), and trying again: what a collector does not take at once is dropped.

mod context;
mod layer;
mod messages;
mod queue;
mod sender;
mod store;

use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::Duration;

use hyper::Method;
use tracing::Dispatch;
use tracing::dispatcher;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tranche_core::name::HostName;
use tranche_engine::trail;

pub use self::context::Context;
use self::layer::Made;
pub use self::layer::SpanLayer;
pub use self::queue::{Dropped, Queue};
use self::sender::Sender;
pub use self::store::Followed;
use crate::config::TracesConfig;

/// How long the daemon waits at its end for what was not sent yet.
const END_TIME: Duration = Duration::from_secs(3);

/// The header that says where a request stands in a trace (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// How many spans were dropped, in this process.
static DROPPED: LazyLock<Dropped> = LazyLock::new(Dropped::default);

/// Traces that are made, until they are ended.
#[derive(Debug)]
pub struct Traces {
    queue: Arc<Queue>,
    /// The cluster that the host is a member of, which is known only after logs are there.
    cluster: Arc<OnceLock<String>>,
}

/// The number of spans that were dropped; 0 where no traces are made.
pub fn dropped() -> Dropped {
    DROPPED.clone()
}

impl Traces {
    /// Traces as the settings want them, with the layer that makes them; none where no collector is named.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(config: &TracesConfig, host: &HostName) -> std::io::Result<Option<(Self, SpanLayer)>> {
        if config.endpoint.is_empty() {
            return Ok(None);
        }
        let (queue, cluster) = (Arc::new(Queue::new(dropped())), Arc::new(OnceLock::new()));
        let sender = Sender::new(config, host, Arc::clone(&cluster));
        let taken = Arc::clone(&queue);
        thread::Builder::new().name("traces".to_owned()).spawn(move || sender.run(&taken))?;
        trail::make_traces(here);
        let layer = SpanLayer::new(Arc::clone(&queue), config.one_in);
        Ok(Some((Self { queue, cluster }, layer)))
    }

    /// Says of which cluster this host is a member.
    pub fn of_cluster(&self, name: String) {
        let _ = self.cluster.set(name);
    }

    /// Sends what is left, and waits for that a few seconds at most.
    pub fn end(self) {
        if !self.queue.end(END_TIME) {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }
}

/// Where whoever runs stands in a trace.
fn here() -> Option<String> {
    let current = tracing::Span::current().id()?;
    dispatcher::get_default(|dispatch: &Dispatch| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        // Spans of others may be between.
        let mut scope = registry.span(&current)?.scope();
        scope.find_map(|span| span.extensions().get::<Made>().map(|made| made.context().to_string()))
    })
}

/// A method, unless somebody made it up.
pub(crate) fn known_method(method: &Method) -> &str {
    let is_known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    if is_known.contains(method) { method.as_str() } else { "_OTHER" }
}
