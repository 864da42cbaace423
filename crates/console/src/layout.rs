//! The frame of every page: the way around, who is looked in, and how a page keeps itself up to date.
//!
//! A page listens to `/events` and then reads itself anew; only its live regions are exchanged ([`live`]), so that a form that somebody
//! is filling in stays as it is. Without scripts all that is missing is that.

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, html};

use crate::Visitor;
use crate::ask::{Trouble, Visit};
use crate::assets::{CHART, HTMX, HTMX_SSE, ICON, SCRIPT, STYLE, UPLOT, UPLOT_STYLE};
use crate::fields::CSRF;
use crate::parts::finding;
use crate::parts::form::hidden;

/// Scripts may neither be made from text nor bring styles.
const HTMX_CONFIG: &str =
    r#"{"allowEval":false,"includeIndicatorStyles":false,"historyEnabled":false,"selfRequestsOnly":true}"#;

/// A page of the menu: its address, its label, and what it reads of the REST interface.
type Entry = (&'static str, &'static str, &'static str);

/// The menu: what each group is called, and its pages.
const MENU: [(&str, &[Entry]); 3] = [
    (
        "Resources",
        &[
            ("/", "Overview", "/v1/findings"),
            ("/gpus", "GPUs", "/v1/gpus"),
            ("/partition", "Partitions", "/v1/homogeneity"),
            ("/vms", "VMs", "/v1/vms"),
            ("/hosts", "Hosts", "/v1/hosts"),
            ("/cluster", "Cluster", "/v1/cluster"),
        ],
    ),
    (
        "State",
        &[
            ("/findings", "Findings", "/v1/findings"),
            ("/operations", "Operations", "/v1/operations"),
            ("/homogeneity", "Homogeneity", "/v1/homogeneity"),
            ("/capacity", "Capacity", "/v1/capacity"),
            ("/rules", "Rules", "/v1/rules"),
            ("/policy", "Policies", "/v1/policy"),
        ],
    ),
    ("Administration", &[("/access", "Access", "/v1/users"), ("/audit", "Audit log", "/v1/audit")]),
];

/// The names of live regions. A page has as many of them as it needs, each once.
pub(crate) const LIVE: [&str; 3] = ["live", "live-2", "live-3"];

/// A part of a page that is exchanged when something changes. What somebody fills in stands outside.
pub(crate) fn live(id: &str, content: Markup) -> Markup {
    html! { section id=(id) data-live { (content) } }
}

/// A page.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    /// What it is about.
    pub(crate) title: &'a str,
    /// The page of the menu that it belongs to.
    pub(crate) at: &'a str,
    /// The ways up from it: address and label.
    pub(crate) above: &'a [(&'a str, &'a str)],
    /// What stands on it.
    pub(crate) body: Markup,
}

impl Visit {
    /// A page that keeps itself up to date.
    pub(crate) fn page(&self, page: &Page<'_>) -> Response {
        respond(&framed(self.visitor.as_ref(), page, Some(&self.address), false))
    }

    /// The same with charts, which only such pages load anything for.
    pub(crate) fn page_with_charts(&self, page: &Page<'_>) -> Response {
        respond(&framed(self.visitor.as_ref(), page, Some(&self.address), true))
    }

    /// A page that stands as it was made: what a form was answered with.
    pub(crate) fn answer(&self, page: &Page<'_>) -> Response {
        respond(&framed(self.visitor.as_ref(), page, None, false))
    }
}

/// The page of what went wrong.
pub(crate) fn trouble(visitor: Option<&Visitor>, path: &str, trouble: &Trouble) -> Response {
    let title = "That did not work";
    let body = finding::problem(&trouble.0);
    let at = MENU.iter().flat_map(|(_, pages)| pages.iter()).map(|(at, ..)| *at);
    let at = at.filter(|at| *at != "/").find(|at| path.starts_with(at)).unwrap_or_default();
    let page = Page { title, at, above: &[], body };
    let markup = if visitor.is_some() { framed(visitor, &page, None, false) } else { bare(title, page.body) };
    (trouble.status(), respond(&markup)).into_response()
}

fn respond(markup: &Markup) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], markup.0.clone()).into_response()
}

fn head(title: &str, is_live: bool, has_charts: bool) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " \u{b7} Tranche" }
            link rel="icon" href=(ICON.address()) type="image/svg+xml";
            link rel="stylesheet" href=(STYLE.address());
            script src=(SCRIPT.address()) {}
            @if is_live {
                meta name="htmx-config" content=(HTMX_CONFIG);
                script src=(HTMX.address()) defer {}
                script src=(HTMX_SSE.address()) defer {}
            }
            @if has_charts {
                link rel="stylesheet" href=(UPLOT_STYLE.address());
                script src=(UPLOT.address()) defer {}
                script src=(CHART.address()) defer {}
            }
        }
    }
}

/// A page for nobody in particular: the way in.
pub(crate) fn bare(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title, false, false))
            body class="bare" {
                main id="main" { p class="brand" { (mark()) "Tranche" } (body) }
            }
        }
    }
}

/// A page for nobody in particular, as an answer.
pub(crate) fn bare_answer(title: &str, body: Markup) -> Response {
    respond(&bare(title, body))
}

fn framed(visitor: Option<&Visitor>, page: &Page<'_>, live: Option<&str>, has_charts: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(page.title, live.is_some(), has_charts))
            body hx-ext=[live.map(|_| "sse")] sse-connect=[live.map(|_| "/events")] {
                a class="skip" href="#main" { "Skip to the content" }
                header class="top" {
                    a class="brand" href="/" { (mark()) "Tranche" }
                    @if let Some(visitor) = visitor { (who(visitor)) }
                }
                @if let Some(visitor) = visitor { (menu(visitor, page.at)) }
                (content(page, live))
            }
        }
    }
}

fn content(page: &Page<'_>, live: Option<&str>) -> Markup {
    let regions = LIVE.map(|id| format!("#{id}")).join(",");
    html! {
        main id="main" tabindex="-1" hx-get=[live] hx-trigger=[live.map(|_| "sse:changed")] hx-swap=[live.map(|_| "none")]
            hx-select-oob=[live.map(|_| &regions)] {
            @if !page.above.is_empty() {
                nav class="above" aria-label="Where this page is" {
                    ol { @for (to, label) in page.above { li { a href=(to) { (label) } } } }
                }
            }
            h1 { (page.title) }
            (page.body)
        }
    }
}

fn who(visitor: &Visitor) -> Markup {
    html! {
        div class="who" {
            span id="stale" class="badge warn" role="status" hidden { "Not up to date: the daemon does not answer" }
            button id="theme" class="quiet" type="button" hidden { "Theme" }
            span { strong { (visitor.name) } " " span class="quiet" { (visitor.role) @if visitor.is_limited { " on some VMs" } } }
            form method="post" action="/logout" data-needs="DELETE /v1/session" {
                (hidden(CSRF, &visitor.csrf))
                button class="quiet" { "Log out" }
            }
        }
    }
}

fn menu(visitor: &Visitor, at: &str) -> Markup {
    let may_see = |rest: &str| visitor.may("GET", rest);
    html! {
        nav class="menu" aria-label="Pages" {
            @for (group, pages) in MENU {
                @if pages.iter().any(|(.., rest)| may_see(rest)) {
                    div {
                        p { (group) }
                        ul {
                            @for (page, label, _) in pages.iter().filter(|(.., rest)| may_see(rest)) {
                                li { a href=(page) aria-current=[(*page == at).then_some("page")] { (label) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The mark: a block of which one part is set off.
fn mark() -> Markup {
    html! {
        svg class="mark" viewBox="0 0 16 16" width="18" height="18" aria-hidden="true" {
            rect x="1" y="1" width="4" height="14" rx="1" {}
            rect x="6" y="1" width="4" height="14" rx="1" {}
            rect class="own" x="11" y="1" width="4" height="14" rx="1" {}
        }
    }
}
