//! The rules about where VMs run, as they are. They are made with the command or a declarative file.

use std::collections::BTreeMap;

use maud::html;
use tranche_core::name::RuleName;
use tranche_core::spec::Rule;

use crate::ask::{Answer, Visit};
use crate::fields::Asked;
use crate::layout::{Page, live};
use crate::links;
use crate::parts::paging::{Paged, ROWS_PER_PAGE};
use crate::parts::table::{table, text};
use crate::words::{Tone, badge};

/// VMs that are named of one rule at most.
const NAMED_MAX: usize = 12;

/// The page.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let rules: BTreeMap<RuleName, Rule> = visit.get("/v1/rules").await?;
    let paged = Paged::of(rules.into_iter().collect(), &asked, ROWS_PER_PAGE);
    let rows = paged.rows.iter().map(|(name, rule)| {
        let kept = if rule.is_strict() { badge(Tone::Warn, "strict") } else { badge(Tone::Plain, "preference") };
        let vms = rule.vms();
        vec![
            html! { (name) },
            html! { (rule) },
            kept,
            html! {
                @for (index, vm) in vms.iter().take(NAMED_MAX).enumerate() { @if index > 0 { ", " } a href=(links::vm(vm)) { (vm) } }
                @if vms.len() > NAMED_MAX { " and " (vms.len() - NAMED_MAX) " more" }
            },
        ]
    });
    let columns = [text("Rule"), text("Its VMs run"), text("Kept"), text("VMs")];
    let body = live(
        "live",
        html! {
            p class="quiet" { "Rules are made with " code { "tranche rule" } " or a declarative file." }
            (table("Rules", &columns, rows.collect(), "There are no rules."))
            (paged.links("/rules", &asked))
        },
    );
    Ok(visit.page(&Page { title: "Rules", at: "/rules", above: &[], body }))
}
