//! Makes what is sent of the spans of [`tranche_engine::trail`].
//!
//! A span is part of a trace if it says whom it follows, if it is within one that is, or if it begins one. All others are nothing.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context as Within, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::context::Context;
use super::messages::{Kind, Span, Value};
use super::queue::Queue;

/// The longest text of an attribute, in characters.
const TEXT_LEN_MAX: usize = 256;

/// What begins the names of fields that are no attributes.
const OWN: &str = "trail.";

/// A span in the making.
#[derive(Debug)]
pub(super) struct Made {
    context: Context,
    follows: Option<[u8; 8]>,
    name: &'static str,
    fields: Fields,
    began_ns: u64,
}

impl Made {
    /// Where it stands.
    pub(super) fn context(&self) -> Context {
        self.context
    }
}

/// What the fields of a span say.
#[derive(Debug, Default)]
struct Fields {
    begins: bool,
    follows: Option<Context>,
    stands_at: Option<Context>,
    began_ms: Option<u64>,
    ended_ms: Option<u64>,
    kind: Option<Kind>,
    attributes: Vec<(&'static str, Value)>,
}

impl Fields {
    fn text(&mut self, field: &Field, text: &str) {
        match field.name() {
            "trail.follows" => self.follows = text.parse().ok(),
            "trail.stands_at" => self.stands_at = text.parse().ok(),
            "trail.kind" => self.kind = Some(Kind::of(text)),
            name if name.starts_with(OWN) => {}
            name => self.put(name, Value::Text(text.chars().take(TEXT_LEN_MAX).collect())),
        }
    }

    fn number(&mut self, field: &Field, number: i64) {
        match field.name() {
            "trail.began_ms" => self.began_ms = u64::try_from(number).ok(),
            "trail.ended_ms" => self.ended_ms = u64::try_from(number).ok(),
            name if name.starts_with(OWN) => {}
            name => self.put(name, Value::Number(number)),
        }
    }

    fn put(&mut self, name: &'static str, value: Value) {
        self.attributes.retain(|(known, _)| *known != name);
        self.attributes.push((name, value));
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| *known == name).and_then(|(_, value)| match value {
            Value::Text(text) => Some(text.as_str()),
            Value::Number(_) | Value::Truth(_) => None,
        })
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "trail.begins" => self.begins = value,
            name => self.put(name, Value::Truth(value)),
        }
    }
}

/// Makes what is sent, and puts it into a queue.
#[derive(Debug)]
pub struct SpanLayer {
    queue: Arc<Queue>,
    one_in: u64,
}

impl SpanLayer {
    pub(super) fn new(queue: Arc<Queue>, one_in: u64) -> Self {
        Self { queue, one_in }
    }

    /// Where a new span stands, and whom it follows; nothing if it is part of no trace.
    fn place(&self, fields: &Fields, within: Option<Context>) -> Option<(Context, Option<[u8; 8]>)> {
        match fields.follows.or(within) {
            Some(follows) => Some((fields.stands_at.unwrap_or_else(|| follows.beside()), Some(follows.span))),
            None => fields.begins.then(|| (Context::begin(self.one_in), None)),
        }
    }
}

impl<S> Layer<S> for SpanLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, within: Within<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let Some(span) = within.span(id) else { return };
        let known = |span: tracing_subscriber::registry::SpanRef<'_, S>| {
            span.extensions().get::<Made>().map(Made::context)
        };
        let around = span.parent().and_then(|parent| parent.scope().find_map(known));
        let Some((context, follows)) = self.place(&fields, around) else { return };
        let made = Made { context, follows, name: attributes.metadata().name(), fields, began_ns: now_ns() };
        span.extensions_mut().insert(made);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, within: Within<'_, S>) {
        if let Some(span) = within.span(id)
            && let Some(made) = span.extensions_mut().get_mut::<Made>()
        {
            record.record(&mut made.fields);
        }
    }

    fn on_close(&self, id: Id, within: Within<'_, S>) {
        let made = within.span(&id).and_then(|span| span.extensions_mut().remove::<Made>());
        if let Some(made) = made.filter(|made| made.context.is_kept) {
            self.queue.put(finished(made));
        }
    }
}

/// A span as it is sent.
fn finished(made: Made) -> Span {
    let Made { context, follows, name, fields, began_ns } = made;
    let ns = |ms: u64| ms.saturating_mul(1_000_000);
    let began_ns = fields.began_ms.map_or(began_ns, ns);
    let ended_ns = fields.ended_ms.map_or_else(now_ns, ns).max(began_ns);
    let method = fields.get("http.request.method").filter(|_| fields.kind == Some(Kind::Server));
    let name = match (method, fields.get("http.route")) {
        (Some(method), Some(route)) => format!("{method} {route}"),
        (Some(method), None) => method.to_owned(),
        (None, _) => name.to_owned(),
    };
    let failed = fields.get("error.type").map(str::to_owned);
    Span::new(
        context,
        follows,
        name,
        fields.kind.unwrap_or(Kind::Internal),
        (began_ns, ended_ns),
        fields.attributes,
        failed,
    )
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
