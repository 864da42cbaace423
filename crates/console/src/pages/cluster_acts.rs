//! What is done with a cluster: letting machines in, forgetting those that are gone, and tidying its store.
//!
//! Deliberately absent: beginning, joining, leaving, backing up and restoring. They concern a host's own files, or replace the daemon that
//! makes these pages.

use axum::http::Method;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::json;
use tranche_api::cluster::{ClusterView, CreateToken, ReplaceMember, TokenCreated};
use tranche_core::name::HostName;

use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Fields, Posted};
use crate::guard::see_other;
use crate::layout::Page;
use crate::parts::finding;
use crate::parts::form::{Deed, button, change, hidden, number, ticked, word};
use crate::proposal::{CHANGED, SEEN, digest_of, mended, repeated};
use crate::words::time;

const PAGE: &str = "/cluster";
const ABOVE: [(&str, &str); 1] = [(PAGE, "Cluster")];
const GONE: &str = "/cluster/gone";
/// For how long a token may be used if nobody says otherwise.
const MINUTES_DEFAULT: u64 = 30;

const THEN: [(&str, &str); 2] =
    [("forget", "Forget it for good"), ("replace", "Let other hardware take its place")];

/// The forms, for those who may send them.
pub(super) fn forms(visit: &Visit, cluster: &ClusterView) -> Markup {
    let none = Fields::default();
    let deed = Deed { action: "/cluster/defragment", method: "POST", rest: "/v1/cluster/defragment" };
    html! {
        div class="panel change" { (token_form(visit, &none)) }
        div class="panel change" { (gone_form(visit, cluster, &none)) }
        @if visit.may(deed.method, deed.rest) {
            section class="panel change" {
                h2 { "Tidy the store" }
                p class="help" { "The unused part of the store\u{2019}s files is given back, one member after the other. Each answers nobody while it does so." }
                (button(visit, deed, "Defragment the store", ""))
            }
        }
    }
}

fn token_form(visit: &Visit, typed: &Fields) -> Markup {
    let content = html! {
        h2 { "Let a machine in" }
        p class="help" { "A token lets one machine join, once. It is shown on the next page only." }
        (number(typed, "minutes", "Minutes", MINUTES_DEFAULT, "For how long it may be used: 1 to 1440."))
        div class="buttons" { button class="main" { "Make a join token" } }
    };
    change(visit, Deed { action: "/cluster/tokens", method: "POST", rest: "/v1/cluster/tokens" }, content)
}

fn gone_form(visit: &Visit, cluster: &ClusterView, typed: &Fields) -> Markup {
    let others = cluster.members.iter().map(|member| &member.host).filter(|host| **host != cluster.host);
    let others: Vec<(&str, &str)> = others.map(|host| (host.as_str(), host.as_str())).collect();
    let Some((first, _)) = others.first() else { return html! {} };
    let content = html! {
        h2 { "A machine is gone" }
        p class="help" {
            "Only one of which nothing is heard any more, and to which no VM belongs. Other hardware that takes its place gets its name, and keeps its labels, its fence agent and what was asked for of its GPUs."
        }
        div class="row" {
            (word(typed, ("host", "Machine"), &others, first, ""))
            (word(typed, ("then", "What then"), &THEN, "forget", ""))
            // It is told apart from the field of the form above.
            (number(typed, "token_minutes", "Minutes", MINUTES_DEFAULT, "For how long the token of other hardware may be used."))
        }
        (ticked("forget_vms", "Forget the VMs that belong to it and are not started elsewhere", "Their disks stay.", typed.is_on_or("forget_vms", false)))
        div class="buttons" { button { "Preview" } }
    };
    change(visit, Deed { action: GONE, method: "DELETE", rest: "/v1/cluster/members/name" }, content)
}

fn seconds(fields: &Fields, name: &str) -> Result<Option<u64>, Trouble> {
    let minutes: Option<u64> = fields.parsed(name, "Minutes")?;
    Ok(minutes.map(|minutes| minutes.saturating_mul(60)))
}

/// Makes a token with which one machine joins, and shows it.
pub(crate) async fn make_token(visit: Visit, Posted(fields): Posted) -> Answer {
    let title = "Join token";
    let made: Result<TokenCreated, Trouble> = match seconds(&fields, "minutes") {
        Ok(ttl_s) => visit.ask(Method::POST, "/v1/cluster/tokens", Some(&CreateToken { ttl_s })).await,
        Err(trouble) => Err(trouble),
    };
    Ok(match made {
        Ok(token) => shown_once(&visit, title, &token, "the new host"),
        Err(trouble) => {
            let body = html! { div class="panel change" { (token_form(&visit, &fields)) } };
            mended(&visit, Page { title, at: PAGE, above: &ABOVE, body }, &trouble)
        }
    })
}

/// Shows what would be forgotten with a machine that is gone; or forgets it, or makes the token of what takes its place.
pub(crate) async fn gone(visit: Visit, Posted(fields): Posted) -> Answer {
    match wanted(&visit, &fields).await {
        Ok(answer) => Ok(answer),
        Err(trouble) => {
            let cluster: ClusterView = visit.get("/v1/cluster").await?;
            let body = html! { div class="panel change" { (gone_form(&visit, &cluster, &fields)) } };
            let page = Page { title: "A machine is gone", at: PAGE, above: &ABOVE, body };
            Ok(mended(&visit, page, &trouble))
        }
    }
}

async fn wanted(visit: &Visit, fields: &Fields) -> Answer {
    let host: HostName = fields.needed("host", "Machine")?;
    let (forget_vms, is_replaced) = (fields.is_on("forget_vms"), fields.get("then") == Some("replace"));
    let ttl_s = seconds(fields, "token_minutes")?;
    let path = format!("/v1/cluster/members/{host}?forget_vms={forget_vms}");
    // The same keeps a machine from being replaced.
    let would: ClusterView = visit.ask(Method::DELETE, &format!("{path}&dry_run=true"), None::<&()>).await?;
    let found: Vec<_> = would.findings.iter().map(|finding| (finding.code, &finding.subject)).collect();
    let digest = digest_of(&(&host, forget_vms, is_replaced, found));
    match fields.get(SEEN) {
        Some(seen) if seen == digest => {}
        seen => return Ok(preview(visit, fields, (&host, is_replaced), &would, &digest, seen.is_some())),
    }
    if !is_replaced {
        let _: ClusterView = visit.ask(Method::DELETE, &path, None::<&()>).await?;
        return Ok(see_other(PAGE));
    }
    let wish = ReplaceMember { host, ttl_s, forget_vms };
    let token: TokenCreated = visit.ask(Method::POST, "/v1/cluster/replace", Some(&wish)).await?;
    Ok(shown_once(visit, &format!("Replace {}", wish.host), &token, &format!("the new {}", wish.host)))
}

fn preview(
    visit: &Visit,
    fields: &Fields,
    (host, is_replaced): (&HostName, bool),
    would: &ClusterView,
    digest: &str,
    is_again: bool,
) -> Response {
    let (title, label) = if is_replaced {
        (format!("Let other hardware take the place of {host}"), "Forget the old one and make the token")
    } else {
        (format!("Forget {host} for good"), "Forget it")
    };
    let deed = Deed { action: GONE, method: "DELETE", rest: "/v1/cluster/members/name" };
    let body = html! {
        @if is_again { section class="panel warn" role="alert" { p { (CHANGED) } } }
        section class="panel" {
            h2 { "What to know before" }
            (finding::list_or(&would.findings, "No VM is forgotten with it."))
        }
        (change(visit, deed, html! {
            (repeated(fields, &[SEEN]))
            (hidden(SEEN, digest))
            div class="buttons" { button class="grave" { (label) } a class="button" href=(PAGE) { "Cancel" } }
        }))
    };
    visit.answer(&Page { title: &title, at: PAGE, above: &ABOVE, body })
}

/// Has the store's members give back what they do not use.
pub(crate) async fn defragment(visit: Visit) -> Answer {
    let _: ClusterView = visit.ask(Method::POST, "/v1/cluster/defragment", Some(&json!({}))).await?;
    Ok(see_other(PAGE))
}

fn shown_once(visit: &Visit, title: &str, made: &TokenCreated, at: &str) -> Response {
    let body = html! {
        section class="panel notice" {
            p { "It lets one machine in, once, until " (time(made.until)) ". Type this on " (at) ":" }
            p { strong { "Copy it now: it is shown only here." } }
            pre class="secret" { "tranche cluster join " (made.token) }
            p { a class="button" href=(PAGE) { "Done" } }
        }
    };
    visit.answer(&Page { title, at: PAGE, above: &ABOVE, body })
}
