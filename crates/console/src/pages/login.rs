//! The way in and out. Whoever knows a password or has a link gets a session; the daemon says whose it is.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use tranche_api::access::{IssuerView, LogIn, LoggedIn, Secret};

use crate::SESSION_COOKIE;
use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Asked, Fields, Posted};
use crate::guard::see_other;
use crate::layout::bare_answer;
use crate::links::{encode, local};
use crate::parts::form::{Field, hidden};

/// What a session's cookie is bound to: this host, TLS, no script, no other site.
pub(super) const BOUNDS: &str = "Path=/; Secure; HttpOnly; SameSite=Strict";

/// The way in.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Response {
    form(&visit, &asked, None).await
}

/// Lets somebody in.
pub(crate) async fn enter(visit: Visit, Posted(fields): Posted) -> Answer {
    let Some(shown) = log_in(&fields) else {
        let trouble = Trouble::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Name and password are both needed.",
            "Fill in both.",
        );
        return Ok(form(&visit, &fields, Some(&trouble)).await);
    };
    match visit.ask::<LoggedIn>(Method::POST, "/v1/sessions", Some(&shown)).await {
        Ok(session) => {
            let mut response = see_other(local(fields.raw("next").unwrap_or("/")));
            keep(&session, response.headers_mut());
            Ok(response)
        }
        Err(trouble) => Ok(form(&visit, &fields, Some(&trouble)).await),
    }
}

/// Has the browser keep a session.
pub(super) fn keep(session: &LoggedIn, headers: &mut HeaderMap) {
    let Secret(secret) = &session.secret;
    if let Ok(cookie) = HeaderValue::from_str(&format!("{SESSION_COOKIE}={secret}; {BOUNDS}")) {
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Ends the session.
pub(crate) async fn leave(visit: Visit) -> Answer {
    // Over or not for the daemon: the browser forgets it in any case.
    let ended = visit.tell(Method::DELETE, "/v1/session", None::<&()>).await;
    let mut headers = HeaderMap::new();
    let cookie = format!("{SESSION_COOKIE}=; {BOUNDS}; Max-Age=0");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    match ended {
        Ok(()) => Ok((headers, see_other("/login")).into_response()),
        Err(trouble) => Ok((headers, trouble).into_response()),
    }
}

fn log_in(fields: &Fields) -> Option<LogIn> {
    if let Some(link) = fields.text("link") {
        return Some(LogIn::Link { link: Secret(link) });
    }
    // A password is taken as it is, with the space around it.
    let password = fields.raw("password").filter(|password| !password.is_empty())?;
    Some(LogIn::Password { user: fields.text("user")?, password: Secret(password.to_owned()) })
}

/// The form; after a failure with what was wrong, and never with the password.
pub(super) async fn form(visit: &Visit, fields: &Fields, trouble: Option<&Trouble>) -> Response {
    let next = local(fields.raw("next").unwrap_or("/"));
    let link = fields.get("link");
    let issuer = visit.find::<IssuerView>("/v1/sessions/issuer").await.and_then(|issuer| issuer.name);
    let body = html! {
        h1 { "Log in" }
        @if let Some(trouble) = trouble {
            section class="panel bad" role="alert" { p { strong { (trouble.0.detail) } } p { (trouble.0.hint) } }
        }
        @if let (Some(issuer), None) = (&issuer, link) { (by_issuer(issuer, next)) }
        form method="post" action="/login" {
            (hidden("next", next))
            @match link {
                Some(link) => { (by_link(link)) }
                None => { (by_password(fields.get("user").unwrap_or_default())) }
            }
        }
    };
    let mut response = bare_answer("Log in", body);
    if let Some(trouble) = trouble {
        *response.status_mut() = trouble.status();
    }
    response
}

/// A link and no form: a form may not lead to another site.
fn by_issuer(issuer: &str, next: &str) -> Markup {
    let to =
        if next == "/" { "/login/issuer".to_owned() } else { format!("/login/issuer?next={}", encode(next)) };
    html! {
        div class="buttons" { a class="button main" href=(to) { "Log in with " (issuer) } }
        p class="or" { "or as a user of this installation" }
    }
}

/// A link works once. It is not spent by whoever only looks at where it leads, such as a mail program.
fn by_link(link: &str) -> Markup {
    html! {
        p { "You have a one-time link. It works once, from this button." }
        (hidden("link", link))
        div class="buttons" { button class="main" { "Log in with this link" } }
    }
}

fn by_password(user: &str) -> Markup {
    html! {
        (Field { name: "user", label: "Name", value: user, ..Field::default() })
        p class="field" {
            label for="f-password" { "Password" }
            input id="f-password" name="password" type="password" required autocomplete="current-password";
        }
        div class="buttons" { button class="main" { "Log in" } }
    }
}
