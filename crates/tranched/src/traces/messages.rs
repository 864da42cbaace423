//! What a collector is told: the part of OTLP's messages that spans need (opentelemetry-proto, `trace/v1` and `common/v1`).
//!
//! Deliberately absent: all fields that Tranche does not fill. Tests read what is sent with the definitions of the OpenTelemetry project.

use super::context::Context;

/// What is sent at once.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Export {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

/// The spans of one daemon.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

/// The daemon.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<Attribute>,
}

/// The spans of one part of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<Span>,
}

/// The part.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Scope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

/// A span.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(enumeration = "Kind", tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

impl Span {
    pub(super) fn new(
        context: Context,
        follows: Option<[u8; 8]>,
        name: String,
        kind: Kind,
        (began_ns, ended_ns): (u64, u64),
        attributes: Vec<(&'static str, Value)>,
        failed: Option<String>,
    ) -> Self {
        Self {
            trace_id: context.trace.to_vec(),
            span_id: context.span.to_vec(),
            parent_span_id: follows.map(|span| span.to_vec()).unwrap_or_default(),
            name,
            kind: kind.into(),
            start_time_unix_nano: began_ns,
            end_time_unix_nano: ended_ns,
            attributes: attributes.into_iter().map(|(name, value)| Attribute::new(name, value)).collect(),
            status: failed.map(|message| Status { message, code: STATUS_ERROR }),
        }
    }
}

/// What a span is of a request that goes from one daemon to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    /// Not known.
    Unspecified = 0,
    /// Neither end of one.
    Internal = 1,
    /// Whoever answers.
    Server = 2,
    /// Whoever asks.
    Client = 3,
}

impl Kind {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "server" => Self::Server,
            "client" => Self::Client,
            _ => Self::Internal,
        }
    }
}

/// The status of what failed.
const STATUS_ERROR: i32 = 2;

/// How a span ended.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

/// Something that is said of a span or a daemon.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

impl Attribute {
    pub(super) fn new(name: &str, value: Value) -> Self {
        Self { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }) }
    }
}

/// What is said.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3")]
    value: Option<Value>,
}

/// What is said.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Value {
    /// A text.
    #[prost(string, tag = "1")]
    Text(String),
    /// Whether something is so.
    #[prost(bool, tag = "2")]
    Truth(bool),
    /// A number.
    #[prost(int64, tag = "3")]
    Number(i64),
}
