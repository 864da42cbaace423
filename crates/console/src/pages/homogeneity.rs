//! Whether GPUs are alike: attribute by attribute, what differs, what that breaks, and what mends it.

use maud::{Markup, html};
use tranche_core::homogeneity::{AttributeReport, Report, SetReport};
use tranche_core::spec::Homogeneity;

use crate::ask::{Answer, Visit};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::nothing;
use crate::parts::table::{number, table, text};
use crate::words::{Tone, badge, breaks, grade, number as count_of};

/// GPUs, and commands, that are named of one attribute at most.
const NAMED_MAX: usize = 16;

/// The page.
pub(crate) async fn show(visit: Visit) -> Answer {
    let report: Report = visit.get("/v1/homogeneity").await?;
    let policy = match report.policy {
        Homogeneity::Warn => "a change that makes GPUs less alike is taken, with a warning",
        Homogeneity::Strict => "a change that makes GPUs less alike is refused",
    };
    let verdict = if report.homogeneous {
        badge(Tone::Good, "homogeneous")
    } else {
        badge(Tone::Warn, "not homogeneous")
    };
    let body = live(
        "live",
        html! {
            p class="state" { (verdict) " " span class="quiet" { "Policy: " (policy) "." } }
            @if report.sets.is_empty() { (nothing("No GPU serves VMs, and none could be split.")) }
            @for set in &report.sets { (of_set(set)) }
        },
    );
    Ok(visit.page(&Page { title: "Homogeneity", at: "/homogeneity", above: &[], body }))
}

fn of_set(set: &SetReport) -> Markup {
    let rows = set.attributes.iter().map(|attribute| {
        let usual = attribute.values.first().map(|value| value.value.clone()).unwrap_or_default();
        vec![
            html! { (attribute.attribute) },
            grade(attribute.grade),
            html! { (usual) @if attribute.tie { span class="quiet" { " (as many have another)" } } },
            html! { @if attribute.grade.is_some() { (attribute.breaks.iter().map(|what| breaks(*what)).collect::<Vec<_>>().join(", ")) } },
            html! { (attribute.unknown) },
        ]
    });
    let columns =
        [text("Attribute"), text("Grade"), text("Usual value"), text("What it breaks"), number("Unknown")];
    html! {
        section class="panel" {
            h2 { "Set: " (set.set) }
            p class="quiet" { (count_of(set.gpus.len(), "GPU", "GPUs")) ", " (set.in_use) " of them in use" }
            (table("What is compared", &columns, rows.collect(), "Nothing is compared."))
            @for attribute in set.attributes.iter().filter(|attribute| attribute.values.len() > 1) { (difference(attribute)) }
        }
    }
}

fn difference(attribute: &AttributeReport) -> Markup {
    let rows = attribute.values.iter().map(|value| {
        vec![
            html! { (value.value) @if value.usual { " " (badge(Tone::Plain, "usual")) } },
            html! { (value.number) },
            html! { (value.hosts) },
            html! {
                @for (index, gpu) in value.gpus.iter().take(NAMED_MAX).enumerate() {
                    @if index > 0 { ", " } a href=(links::gpu(gpu)) { (gpu) }
                }
                @if value.gpus.len() > NAMED_MAX { " and " (value.gpus.len() - NAMED_MAX) " more" }
            },
        ]
    });
    let columns = [text("Value"), number("GPUs"), number("Hosts"), text("Which")];
    html! {
        h3 { "They differ in " (attribute.attribute) " " (grade(attribute.grade)) }
        @if let Some(from) = attribute.follows_from { p class="quiet" { "This follows from the difference in " (from) ", and goes with it." } }
        (table("Values", &columns, rows.collect(), ""))
        @if !attribute.mends.is_empty() {
            ul class="mends" {
                @for mend in attribute.mends.iter().take(NAMED_MAX) {
                    li {
                        a href=(links::gpu(&mend.gpu)) { (mend.gpu) } ": " (mend.text)
                        @if let Some(command) = &mend.command { " " code { (command) } }
                    }
                }
                @if attribute.mends.len() > NAMED_MAX { li class="quiet" { (attribute.mends.len() - NAMED_MAX) " more" } }
            }
        }
    }
}
