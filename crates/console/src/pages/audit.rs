//! Who did what, and who was refused what. Only administrators see it.

use axum::http::StatusCode;
use maud::{Markup, html};
use tranche_api::access::{AuditEntry, Changed};

use crate::ask::{Answer, Visit};
use crate::fields::Asked;
use crate::layout::{Page, live};
use crate::parts::paging::{Paged, ROWS_PER_PAGE};
use crate::parts::table::{table, text};
use crate::words::{Tone, badge, or_unknown, time};

/// The most entries that are asked for.
const ENTRIES_MAX: usize = 1_000;
/// So many changed fields stand there at once.
const SHOWN_MAX: usize = 4;

/// The page.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let entries: Vec<AuditEntry> = visit.get(&format!("/v1/audit?limit={ENTRIES_MAX}")).await?;
    let paged = Paged::of(entries, &asked, ROWS_PER_PAGE);
    let rows = paged.rows.iter().map(|entry| {
        vec![
            time(entry.at),
            html! { (entry.who) },
            html! { (entry.from) },
            html! { (entry.host) },
            html! { code { (entry.what) } @if let Some(asked) = &entry.asked { details id={ "body-" (entry.at.0) "-" (entry.host) } { summary { "Body" } pre { (asked) } } } },
            status(entry.status),
            html! { (or_unknown(entry.outcome.as_ref())) },
            changes(entry),
        ]
    });
    let columns = [
        text("When"),
        text("Who"),
        text("From"),
        text("At"),
        text("What"),
        text("Status"),
        text("Outcome"),
        text("Changed"),
    ];
    let body = live(
        "live",
        html! {
            (table("What was asked for, the newest first", &columns, rows.collect(), "Nothing has been asked for yet."))
            (paged.links("/audit", &asked))
        },
    );
    Ok(visit.page(&Page { title: "Audit log", at: "/audit", above: &[], body }))
}

/// What was otherwise before; a few fields at once, more when they are folded out.
fn changes(entry: &AuditEntry) -> Markup {
    let lines = |changed: &[Changed]| {
        html! { ul class="plain" { @for one in changed { li { code { (one.field) } " " (told(one)) } } } }
    };
    match entry.changed.split_at_checked(SHOWN_MAX) {
        Some((first, more)) if !more.is_empty() => html! {
            (lines(first))
            details id={ "more-" (entry.at.0) "-" (entry.host) } { summary { (more.len()) " more" } (lines(more)) }
        },
        _ => lines(&entry.changed),
    }
}

fn told(one: &Changed) -> Markup {
    html! {
        @match (&one.before, &one.after) {
            (Some(before), Some(after)) => { del { (before) } " \u{2192} " ins { (after) } }
            (Some(before), None) => { "was " (before) }
            (None, Some(after)) => { ins { (after) } }
            (None, None) => {}
        }
    }
}

fn status(status: u16) -> Markup {
    let tone = match StatusCode::from_u16(status) {
        Ok(code) if code.is_success() => Tone::Good,
        Ok(code) if code.is_client_error() => Tone::Warn,
        _ => Tone::Bad,
    };
    badge(tone, &status.to_string())
}
