//! How busy something was: the figures of a time as a table, and as charts where scripts run.
//!
//! The table is whole without a script. The script of this page (`chart.js`) reads the same figures as JSON, draws them, and brings the
//! table up to date with them. It stands outside of what is exchanged when something changes: a history grows by itself.

use axum::Json;
use axum::response::IntoResponse as _;
use maud::{Markup, html};
use tranche_api::history::{HistoryView, SeriesView};
use tranche_core::history::Quantity;

use super::finding;
use super::table::{number, table, text};
use crate::ask::{Answer, Visit};
use crate::fields::Fields;
use crate::words::time;

/// What a page shows of a history, by name: how long it is in seconds, and what that is called.
const RANGES: [(&str, u64, &str); 3] =
    [("1h", 3_600, "1 hour"), ("24h", 86_400, "24 hours"), ("7d", 604_800, "7 days")];

/// The part of a page about something at a path of the REST interface; `page` is where the page is.
pub(crate) async fn section(visit: &Visit, page: &str, rest: &str, asked: &Fields) -> Markup {
    // A page that reads itself anew does not exchange it.
    if visit.is_refresh {
        return html! {};
    }
    let (range, span_s, label) = range(asked);
    let told = visit.get::<HistoryView>(&path(rest, span_s)).await;
    html! {
        section id="history" class="history" data-history=(format!("{page}/history?range={range}")) data-range=(label) {
            h2 { "History" }
            nav aria-label="How far back" {
                ul {
                    @for (name, _, label) in RANGES {
                        li { a href=(format!("{page}?range={name}#history")) aria-current=[(name == range).then_some("true")] { (label) } }
                    }
                }
            }
            div class="charts" hidden {}
            @match told {
                Ok(told) => { (figures(&told)) }
                Err(trouble) => { (finding::problem(&trouble.0)) }
            }
        }
    }
}

/// The same as data, for the script.
pub(crate) async fn data(visit: &Visit, rest: &str, asked: &Fields) -> Answer {
    let (_, span_s, _) = range(asked);
    Ok(Json(visit.get::<HistoryView>(&path(rest, span_s)).await?).into_response())
}

fn path(rest: &str, span_s: u64) -> String {
    format!("{rest}/history?span_s={span_s}")
}

/// What was asked for; the shortest if it is none that there is.
fn range(asked: &Fields) -> (&'static str, u64, &'static str) {
    let is_asked = |(name, ..): &&(&str, u64, &str)| asked.get("range") == Some(*name);
    RANGES.iter().find(is_asked).copied().unwrap_or(RANGES[0])
}

fn figures(told: &HistoryView) -> Markup {
    let row = |series: &SeriesView| {
        let figure =
            |which: &str, value| html! { span data-figure=(which) { (in_words(series.quantity, value)) } };
        let what = html! { span data-series=(key(series)) { (name(series)) } };
        vec![what, figure("last", series.last), figure("mean", series.mean), figure("max", series.max)]
    };
    let columns = [text("What"), number("Now"), number("Mean"), number("Highest")];
    let empty =
        "Nothing was measured in this time: the driver or libvirt does not tell, or it was not in use.";
    html! {
        (table("How busy it was", &columns, told.series.iter().map(row).collect(), empty))
        p class="help" { "Measured by " (told.host) " since " (time(told.from)) ", in steps of " (step(told.step_s)) "." }
    }
}

/// Which series it is, for the script.
fn key(series: &SeriesView) -> String {
    let quantity = crate::words::wire(&series.quantity);
    series.partition.map_or_else(|| quantity.clone(), |index| format!("{quantity} {index}"))
}

fn name(series: &SeriesView) -> String {
    let quantity = match series.quantity {
        Quantity::UtilizationPercent => "Load",
        Quantity::MemoryUsedMib => "Memory in use",
        Quantity::TemperatureC => "Temperature",
        Quantity::PowerW => "Power",
    };
    series.partition.map_or_else(|| quantity.to_owned(), |index| format!("{quantity}, partition {index}"))
}

fn in_words(quantity: Quantity, value: u32) -> String {
    let unit = match quantity {
        Quantity::UtilizationPercent => "%",
        Quantity::MemoryUsedMib => "MiB",
        Quantity::TemperatureC => "\u{b0}C",
        Quantity::PowerW => "W",
    };
    format!("{value}\u{a0}{unit}")
}

fn step(step_s: u64) -> String {
    if step_s.is_multiple_of(60) { format!("{} min", step_s / 60) } else { format!("{step_s} s") }
}
