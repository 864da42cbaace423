//! What holds for every page: who may see it, where forms may come from, what browsers are told.
//!
//! Deliberately absent: proving who somebody is (the daemon does) and what they may do (the REST interface decides).

use axum::body::Body;
use axum::extract::{Form, FromRequest as _, MatchedPath, Request};
use axum::http::header::{self, HeaderName};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use subtle::ConstantTimeEq as _;
use tranche_api::Problem;
use tranche_core::diagnostics as say;

use crate::Visitor;
use crate::ask::Trouble;
use crate::fields::{CSRF, Fields};
use crate::layout;
use crate::links::encode;

/// The extensions with which a request came in, before a path was matched.
#[derive(Debug, Clone)]
pub(crate) struct Arrived(pub(crate) Extensions);

/// Where nobody has to be known: the way in, and what its page is made from.
const LOGIN: &str = "/login";
const LOGIN_BY_ISSUER: &str = "/login/";
const ASSETS: &str = "/assets/";

const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");
const HX_REDIRECT: HeaderName = HeaderName::from_static("hx-redirect");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Scripts and styles are files of the console, and nothing else runs or is loaded.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Remembers how a request came in.
pub(crate) async fn arrive(mut request: Request, next: Next) -> Response {
    let arrived = Arrived(request.extensions().clone());
    request.extensions_mut().insert(arrived);
    next.run(request).await
}

/// Says in an answer by which route its request came: for those outside of a router who are told no paths, which may hold secrets.
pub async fn tell_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

/// Tells browsers what a page may do.
pub(crate) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Lets in who may come in, refuses forms of others, and makes a page of what went wrong.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let visitor = request.extensions().get::<Visitor>().cloned();
    let path = request.uri().path().to_owned();
    let is_open = path == LOGIN || path.starts_with(LOGIN_BY_ISSUER) || path.starts_with(ASSETS);
    if visitor.is_none() && !is_open {
        // Who opens a WebSocket follows no way to another page.
        if request.headers().contains_key(header::UPGRADE) {
            return layout::trouble(None, &path, &Trouble(Box::new(Problem::new(say::login_required()))));
        }
        return to_login(&request);
    }
    let checked = match *request.method() {
        Method::POST => check(request, visitor.as_ref().filter(|_| path != LOGIN)).await,
        _ => Ok(request),
    };
    let mut response = match checked {
        Ok(request) => next.run(request).await,
        Err(trouble) => trouble.into_response(),
    };
    let Some(trouble) = response.extensions_mut().remove::<Trouble>() else { return response };
    let mut page = layout::trouble(visitor.as_ref(), &path, &trouble);
    // A cookie that is to be forgotten is forgotten all the same.
    if let Some(cookie) = response.headers_mut().remove(header::SET_COOKIE) {
        page.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    page
}

/// Reads a form, and refuses one that another site sent.
async fn check(request: Request, visitor: Option<&Visitor>) -> Result<Request, Trouble> {
    let (parts, body) = request.into_parts();
    if is_foreign(&parts.headers) {
        return Err(forged());
    }
    let (head, extensions) = (parts.clone(), parts.extensions.clone());
    let form = Form::<Vec<(String, String)>>::from_request(Request::from_parts(parts, body), &()).await;
    let Form(pairs) = form.map_err(|refused| {
        Trouble::new(
            refused.status(),
            "The form cannot be read.",
            "Go back, load the page again, and send it anew.",
        )
    })?;
    let fields = Fields(pairs);
    let is_theirs = |visitor: &Visitor| {
        let shown = fields.raw(CSRF).unwrap_or_default();
        // An empty secret is none.
        !visitor.csrf.is_empty() && bool::from(shown.as_bytes().ct_eq(visitor.csrf.as_bytes()))
    };
    if !visitor.is_none_or(is_theirs) {
        return Err(forged());
    }
    let mut request = Request::from_parts(head, Body::empty());
    *request.extensions_mut() = extensions;
    request.extensions_mut().insert(fields);
    Ok(request)
}

/// Whether a browser says that another site sent it. One that says nothing is too old to, or no browser.
fn is_foreign(headers: &HeaderMap) -> bool {
    headers.get(FETCH_SITE).is_some_and(|site| site != "same-origin")
}

fn forged() -> Trouble {
    Trouble::new(
        StatusCode::FORBIDDEN,
        "The form was not sent from a page of this session, so nothing was done.",
        "Load the page again and send the form from there.",
    )
}

/// Sends somebody to the way in, and afterwards back.
fn to_login(request: &Request) -> Response {
    let here = request.uri().path_and_query().map_or("/", |here| here.as_str());
    let is_page = request.method() == Method::GET && request.uri().path() != "/events";
    let next = if is_page && here != "/" { format!("?next={}", encode(here)) } else { String::new() };
    let to = format!("{LOGIN}{next}");
    if request.headers().contains_key(HX_REQUEST) {
        return (StatusCode::OK, [(HX_REDIRECT, to)]).into_response();
    }
    see_other(&to)
}

/// Has the browser read another page.
pub(crate) fn see_other(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}
