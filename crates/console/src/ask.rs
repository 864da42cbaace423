//! Asking the REST interface, in process, as whoever looks.
//!
//! Deliberately absent: any knowledge of who answers. A request goes through the same router as one from outside, with the extensions of
//! the visitor's own request, so that the same rights hold and the same names stand in the audit log.

use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;
use tranche_api::Problem;
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Severity, Subject};

use crate::Visitor;
use crate::guard::Arrived;

/// The largest answer that is read, in bytes: some hundred thousand VMs.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;

/// What a WebSocket begins with, and by which it is told from which page it comes.
const HANDED_ON: [HeaderName; 8] = [
    header::HOST,
    header::ORIGIN,
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];
/// What a script asks with that exchanges parts of a page.
const REFRESH: &str = "hx-request";

/// What handlers work with.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    /// Answers the REST interface.
    pub(crate) rest: Router,
}

/// A request for a page: who looks, and the way to ask for them.
#[derive(Debug)]
pub(crate) struct Visit {
    rest: Rest,
    /// Who looks. Nobody on the pages that need none.
    pub(crate) visitor: Option<Visitor>,
    /// The page's own address, for the page to read itself anew.
    pub(crate) address: String,
    /// Whether a page reads itself anew, to exchange its live regions.
    pub(crate) is_refresh: bool,
}

/// The REST interface as one visitor sees it.
#[derive(Debug)]
pub(crate) struct Rest {
    router: Router,
    extensions: Extensions,
}

/// A page that could not be made, and why. The guard makes a page of it.
#[derive(Debug, Clone)]
pub(crate) struct Trouble(pub(crate) Box<Problem>);

/// What handlers answer.
pub(crate) type Answer = Result<Response, Trouble>;

impl FromRequestParts<Console> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Infallible> {
        let extensions =
            parts.extensions.get::<Arrived>().map(|arrived| arrived.0.clone()).unwrap_or_default();
        let visitor = extensions.get::<Visitor>().cloned();
        let address = parts.uri.path_and_query().map_or("/", |address| address.as_str()).to_owned();
        let is_refresh = parts.headers.contains_key(REFRESH);
        Ok(Self { rest: Rest { router: console.rest.clone(), extensions }, visitor, address, is_refresh })
    }
}

impl Visit {
    /// Reads what stands at a path of the REST interface.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        read(self.send(Method::GET, path, None::<&()>).await?).await
    }

    /// Reads it if it is there, and leaves it out if not.
    pub(crate) async fn find<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        self.get(path).await.ok()
    }

    /// Asks for a change, or for what it would do.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Trouble> {
        read(self.send(method, path, body).await?).await
    }

    /// Asks for a change whose answer says nothing more.
    pub(crate) async fn tell(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(), Trouble> {
        let response = self.send(method, path, body).await?;
        if response.status().is_success() { Ok(()) } else { Err(trouble_of(response).await) }
    }

    /// The answer as it comes.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response, Trouble> {
        let (body, is_json) = match body {
            Some(body) => (Body::from(serde_json::to_vec(body).map_err(|_| Trouble::defect())?), true),
            None => (Body::empty(), false),
        };
        let mut request = Request::builder().method(method).uri(path);
        if is_json {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let mut request = request.body(body).map_err(|_| Trouble::nothing_at(path))?;
        *request.extensions_mut() = self.rest.extensions.clone();
        let Ok(response) = self.rest.router.clone().oneshot(request).await;
        Ok(response)
    }

    /// Hands on a request that turns its connection into something else. What it is turned into is between the browser and whoever answers.
    pub(crate) async fn hand_on(&self, path: &str, headers: &HeaderMap) -> Result<Response, Trouble> {
        let mut request = Request::get(path).body(Body::empty()).map_err(|_| Trouble::nothing_at(path))?;
        for name in HANDED_ON {
            if let Some(value) = headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        *request.extensions_mut() = self.rest.extensions.clone();
        let Ok(response) = self.rest.router.clone().oneshot(request).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            Ok(response)
        } else {
            Err(trouble_of(response).await)
        }
    }

    /// Whether the visitor may send such a request. It is the daemon that enforces it.
    pub(crate) fn may(&self, method: &str, path: &str) -> bool {
        self.visitor.as_ref().is_some_and(|visitor| visitor.may(method, path))
    }

    /// What forms carry.
    pub(crate) fn csrf(&self) -> &str {
        self.visitor.as_ref().map_or("", |visitor| &visitor.csrf)
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, Trouble> {
    if !response.status().is_success() {
        return Err(trouble_of(response).await);
    }
    let bytes = to_bytes(response.into_body(), ANSWER_LEN_MAX).await.map_err(|_| Trouble::defect())?;
    serde_json::from_slice(&bytes).map_err(|_| Trouble::defect())
}

/// A refusal as it was answered; where it cannot be read, at least its status.
pub(crate) async fn trouble_of(response: Response) -> Trouble {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), ANSWER_LEN_MAX).await.unwrap_or_default();
    match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => Trouble(Box::new(problem)),
        Err(_) => Trouble::new(status, "The daemon refused, and its answer cannot be read.", RETRY),
    }
}

const RETRY: &str = "Load the page again; 'journalctl -u tranched' on the host tells more.";

impl Trouble {
    /// What the console itself refuses or cannot do.
    pub(crate) fn new(status: StatusCode, message: &str, hint: &str) -> Self {
        let subject = Subject::Input("console".to_owned());
        let finding = finding(Code::InvalidRequest, Severity::Error, subject, message, hint);
        Self(Box::new(Problem::with_status(status.as_u16(), finding)))
    }

    /// There is no such page.
    pub(crate) fn nothing_at(path: &str) -> Self {
        let path: String = path.chars().take(80).collect();
        let message = format!("There is no page at {path}.");
        Self::new(StatusCode::NOT_FOUND, &message, "The menu leads to every page that there is.")
    }

    /// The console itself is wrong, or the daemon is of another version.
    fn defect() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "The daemon's answer cannot be read.", RETRY)
    }

    /// The status that the page has.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
