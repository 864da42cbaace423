//! What comes in: bodies, names in paths, queries. Each is refused here if its form is wrong, with the place of the error.

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tranche_api::limits::BODY_LEN_MAX;
use tranche_core::name::{
    GpuKey, HostName, InvitationId, NameError, OperationId, RuleName, UserName, VmName,
};

use super::Refusal;

/// How much of a body that is too large is read and thrown away, in bytes, so that its sender gets to read the answer.
const DRAIN_LEN_MAX: usize = 64 * 1024 * 1024;

const BODY_HINT: &str = "GET /v1/openapi.json describes the body that this request takes.";

/// A JSON body. A body that is left out is an empty object.
#[derive(Debug)]
pub(super) struct InBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for InBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let is_json = is_json(request.headers());
        let bytes = read(request.into_body()).await?;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !is_json {
            let message = "The request's body is not declared to be JSON.".to_owned();
            let hint = "Send it with the header 'Content-Type: application/json'.";
            return Err(Refusal::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type", message, hint));
        }
        parse(&bytes).map(Self)
    }
}

/// A JSON body that has to be there: without it a request would mean that everything goes back to its default.
#[derive(Debug)]
pub(super) struct InWholeBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for InWholeBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if request.body().is_end_stream() {
            let message = "The request has no body.".to_owned();
            return Err(Refusal::request(StatusCode::BAD_REQUEST, "body", message, BODY_HINT));
        }
        InBody::from_request(request, state).await.map(|InBody(body)| Self(body))
    }
}

/// Whether a body is JSON by its header; one without a header is taken to be.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let media_type = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// Reads a body of at most [`BODY_LEN_MAX`] bytes.
async fn read(body: Body) -> Result<Bytes, Refusal> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut len = 0;
    while let Some(chunk) = chunks.next().await {
        let broken = |error| {
            let message = format!("The request's body broke off: {error}.");
            Refusal::request(StatusCode::BAD_REQUEST, "body", message, "Send it again.")
        };
        let chunk = chunk.map_err(broken)?;
        len += chunk.len();
        if len > DRAIN_LEN_MAX {
            break;
        }
        if len <= BODY_LEN_MAX {
            bytes.extend_from_slice(&chunk);
        }
    }
    if len > BODY_LEN_MAX {
        return Err(too_large());
    }
    Ok(bytes.into())
}

pub(super) fn too_large() -> Refusal {
    let message = format!("The request's body is larger than {BODY_LEN_MAX} bytes.");
    let hint = "Split the declaration into several files; it need not be whole.";
    Refusal::request(StatusCode::PAYLOAD_TOO_LARGE, "body", message, hint)
}

/// Reads JSON; what is wrong is told with its place.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // serde takes a list of values for an object of fields.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        let message = "The request's body is a list and not an object.".to_owned();
        return Err(Refusal::request(StatusCode::UNPROCESSABLE_ENTITY, "body", message, BODY_HINT));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        refuse_json(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| refuse_json(".", &error))?;
    Ok(value)
}

fn refuse_json(path: &str, error: &serde_json::Error) -> Refusal {
    let place = if path == "." { "body".to_owned() } else { path.to_owned() };
    match error.classify() {
        Category::Data => {
            let message = format!("The request's body is wrong at {place}: {error}.");
            Refusal::request(StatusCode::UNPROCESSABLE_ENTITY, &place, message, BODY_HINT)
        }
        Category::Io | Category::Syntax | Category::Eof => {
            let message = format!("The request's body is not JSON: {error}.");
            Refusal::request(StatusCode::BAD_REQUEST, &place, message, BODY_HINT)
        }
    }
}

/// Names in a path.
#[derive(Debug)]
pub(super) struct InPath<T>(pub(super) T);

impl<S: Send + Sync, T: FromTexts> FromRequestParts<S> for InPath<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|error| {
            let message = format!("The request's path is not text: {}.", error.body_text());
            Refusal::request(
                StatusCode::BAD_REQUEST,
                "path",
                message,
                "Encode names as UTF-8 before they are escaped.",
            )
        })?;
        let texts: Vec<&str> = params.iter().map(|(_, text)| text).collect();
        Ok(Self(T::from_texts(&texts)?))
    }
}

/// What can be read from the variable parts of a path, in order.
pub(super) trait FromTexts: Sized {
    /// Reads it. A part that is not there is an empty name, which no name is.
    fn from_texts(texts: &[&str]) -> Result<Self, NameError>;
}

fn nth<'a>(texts: &[&'a str], index: usize) -> &'a str {
    texts.get(index).copied().unwrap_or_default()
}

macro_rules! from_one_text {
    ($($name:ty),*) => {
        $(impl FromTexts for $name {
            fn from_texts(texts: &[&str]) -> Result<Self, NameError> {
                nth(texts, 0).parse()
            }
        })*
    };
}

from_one_text!(HostName, VmName, OperationId, RuleName, UserName, InvitationId);

/// Any text: what it names is looked up, and either is there or is not.
impl FromTexts for String {
    fn from_texts(texts: &[&str]) -> Result<Self, NameError> {
        Ok(nth(texts, 0).to_owned())
    }
}

impl FromTexts for GpuKey {
    fn from_texts(texts: &[&str]) -> Result<Self, NameError> {
        Ok(Self { host: nth(texts, 0).parse()?, address: nth(texts, 1).parse()? })
    }
}

impl FromTexts for (VmName, HostName) {
    fn from_texts(texts: &[&str]) -> Result<Self, NameError> {
        Ok((nth(texts, 0).parse()?, nth(texts, 1).parse()?))
    }
}

/// A query. Unknown and repeated parameters are refused.
#[derive(Debug)]
pub(super) struct InQuery<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for InQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::from_request_parts(parts, state).await.map_err(|error| refuse_query(&error))?;
        Ok(Self(query.0))
    }
}

/// What a query says.
pub(super) fn of_query<T: DeserializeOwned>(query: &str) -> Result<T, Refusal> {
    let uri = format!("/?{query}").parse().map_err(|_| Refusal::defect())?;
    Query::try_from_uri(&uri).map(|Query(read)| read).map_err(|error| refuse_query(&error))
}

fn refuse_query(error: &QueryRejection) -> Refusal {
    let message = format!("The request's query is wrong: {}.", error.body_text());
    let hint = "GET /v1/openapi.json describes the parameters that this request takes.";
    Refusal::request(StatusCode::UNPROCESSABLE_ENTITY, "query", message, hint)
}

/// How a change is asked for.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangeQuery {
    /// Change nothing; answer with what would happen.
    #[param(required = false)]
    pub(super) dry_run: bool,
}

/// How a deletion is asked for.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteQuery {
    /// Change nothing; answer with what would happen.
    #[param(required = false)]
    pub(super) dry_run: bool,
    /// Turn the VM off if it runs. Else a running VM is a refusal.
    #[param(required = false)]
    pub(super) force: bool,
}

/// A request that takes no parameters.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}
