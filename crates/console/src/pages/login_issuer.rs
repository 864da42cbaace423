//! The way in through an issuer: to it, and back from it with what proves who somebody is. The daemon asks the issuer and decides.
//!
//! What ties the two halves together is a cookie that the browser brings back. It is sent along when another site leads here, which a
//! session's cookie is not: so the way back ends on a page of the console, and that page leads on.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use maud::html;
use tranche_api::access::{BeginLogIn, IssuerAnswer, LogIn, LogInBegun, LoggedIn, Secret};

use super::login::{form, keep};
use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Asked, Fields};
use crate::guard::see_other;
use crate::layout::bare_answer;
use crate::links::{encode, local, origin};

/// The cookie that carries an attempt, and where to go after it: `ATTEMPT:NEXT`.
const ATTEMPT_COOKIE: &str = "__Host-tranche-login";
/// What it is bound to. For ten minutes, as long as an attempt may take.
const BOUNDS: &str = "Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600";
const OVER: &str = "Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0";
/// The longest address to go to that is remembered, in bytes.
const NEXT_LEN_MAX: usize = 1_000;
const CALLBACK: &str = "/login/callback";
const REFRESH: HeaderName = HeaderName::from_static("refresh");

/// Sends somebody to the issuer.
pub(crate) async fn begin(visit: Visit, Asked(asked): Asked, headers: HeaderMap) -> Answer {
    let begun = match callback(&headers) {
        Ok(callback) => visit.ask(Method::POST, "/v1/sessions/issuer", Some(&BeginLogIn { callback })).await,
        Err(trouble) => Err(trouble),
    };
    let LogInBegun { attempt: Secret(attempt), url } = match begun {
        Ok(begun) => begun,
        Err(trouble) => return Ok(form(&visit, &asked, Some(&trouble)).await),
    };
    let next = local(asked.raw("next").unwrap_or("/"));
    let next = if next.len() > NEXT_LEN_MAX { "/" } else { next };
    let cookie = format!("{ATTEMPT_COOKIE}={attempt}:{}; {BOUNDS}", encode(next));
    let mut response = see_other(&url);
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Takes somebody back from the issuer. What came with it is good once, whatever becomes of it.
pub(crate) async fn finish(visit: Visit, Asked(asked): Asked, headers: HeaderMap) -> Answer {
    let kept = attempt_in(&headers).unwrap_or_default();
    let (attempt, next) = kept.split_once(':').unwrap_or((&kept, ""));
    let next = decoded(next);
    let entered = match callback(&headers) {
        Ok(callback) => {
            let log_in =
                LogIn::Issuer { attempt: Secret(attempt.to_owned()), answer: answer(&asked, callback) };
            visit.ask::<LoggedIn>(Method::POST, "/v1/sessions", Some(&log_in)).await
        }
        Err(trouble) => Err(trouble),
    };
    let mut response = match entered {
        Ok(session) => {
            let mut response = onward(local(&next), &session);
            keep(&session, response.headers_mut());
            response
        }
        Err(trouble) => {
            let fields = Fields(vec![("next".to_owned(), next)]);
            form(&visit, &fields, Some(&trouble)).await
        }
    };
    if let Ok(cookie) = HeaderValue::from_str(&format!("{ATTEMPT_COOKIE}=; {OVER}")) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// A page that leads on by itself, from this site to this site.
fn onward(next: &str, session: &LoggedIn) -> Response {
    let body = html! {
        h1 { "Logged in" }
        p { "You are logged in as " strong { (session.caller.name) } ", " (session.caller.role) "." }
        p { a class="button main" href=(next) { "Continue" } }
    };
    let page = bare_answer("Logged in", body);
    match HeaderValue::from_str(&format!("0; url={next}")) {
        Ok(refresh) => ([(REFRESH, refresh)], page).into_response(),
        Err(_) => page,
    }
}

fn answer(asked: &Fields, callback: String) -> IssuerAnswer {
    let text = |name: &str| asked.raw(name).map(str::to_owned);
    IssuerAnswer {
        callback,
        state: text("state").map(Secret),
        code: text("code").map(Secret),
        error: text("error"),
        iss: text("iss"),
    }
}

/// Where the issuer sends browsers back to: to where this one is.
fn callback(headers: &HeaderMap) -> Result<String, Trouble> {
    let origin = origin(headers).ok_or_else(|| {
        let message = "The browser does not tell by which address it has found the console.";
        Trouble::new(
            StatusCode::BAD_REQUEST,
            message,
            "Log in with a name and a password, or by a one-time link.",
        )
    })?;
    Ok(format!("{origin}{CALLBACK}"))
}

fn attempt_in(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == ATTEMPT_COOKIE).map(|(_, value)| value.to_owned())
}

/// What [`encode`] made of a text.
fn decoded(text: &str) -> String {
    let query = format!("/?next={text}").parse::<Uri>().ok();
    let fields = query.map(|query| Fields::of_query(&query)).unwrap_or_default();
    fields.raw("next").unwrap_or("/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_go_afterwards_is_remembered_as_it_was() {
        for next in ["/", "/vms?state=running&page=2", "/vms?a=b%20c", "/gpus/node1/0000:01:00.0"] {
            assert_eq!(decoded(&encode(next)), next);
        }
        assert_eq!(decoded("\u{7f}"), "/");
    }
}
