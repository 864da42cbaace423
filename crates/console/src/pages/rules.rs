//! The rules about where VMs run, as they are.

use std::collections::BTreeMap;

use maud::{Markup, html};
use tranche_core::name::RuleName;
use tranche_core::spec::Rule;

use crate::ask::{Answer, Visit};
use crate::fields::Asked;
use crate::layout::{Page, live};
use crate::links::{self, encode};
use crate::parts::form::{Deed, change, hidden};
use crate::parts::operation;
use crate::parts::paging::{Paged, ROWS_PER_PAGE};
use crate::parts::table::{table, text};
use crate::words::{Tone, badge};

/// VMs that are named of one rule at most.
const NAMED_MAX: usize = 12;

/// The page.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let may_change = visit.may("PUT", "/v1/rules/name");
    let rules: BTreeMap<RuleName, Rule> = visit.get("/v1/rules").await?;
    let paged = Paged::of(rules.into_iter().collect(), &asked, ROWS_PER_PAGE);
    let rows = paged.rows.iter().map(|(name, rule)| {
        let kept = if rule.is_strict() { badge(Tone::Warn, "strict") } else { badge(Tone::Plain, "preference") };
        let vms = rule.vms();
        let cells = vec![
            html! { (name) },
            html! { (rule) },
            kept,
            html! {
                @for (index, vm) in vms.iter().take(NAMED_MAX).enumerate() { @if index > 0 { ", " } a href=(links::vm(vm)) { (vm) } }
                @if vms.len() > NAMED_MAX { " and " (vms.len() - NAMED_MAX) " more" }
            },
        ];
        cells.into_iter().chain(may_change.then(|| acts(&visit, name))).collect()
    });
    let mut columns = vec![text("Rule"), text("Its VMs run"), text("Kept"), text("VMs")];
    columns.extend(may_change.then_some(text("More")));
    let list = live(
        "live",
        html! {
            (operation::notice(&visit, &asked).await)
            p class="quiet" { "A strict rule is kept at any price: a VM waits rather than break it. A preference weighs before pack or spread." }
            (table("Rules", &columns, rows.collect(), "There are no rules."))
            (paged.links("/rules", &asked))
        },
    );
    let body = html! {
        @if may_change { p class="acts above-right" { a class="button main" href="/rules/edit" { "New rule" } } }
        (list)
    };
    Ok(visit.page(&Page { title: "Rules", at: "/rules", above: &[], body }))
}

/// What can be done with a rule.
fn acts(visit: &Visit, name: &RuleName) -> Markup {
    let rest = format!("/v1/rules/{name}");
    let deed = Deed { action: "/rules/delete", method: "DELETE", rest: &rest };
    html! {
        div class="acts" {
            a class="button" href={ "/rules/edit?rule=" (encode(name.as_str())) } aria-label={ "Change " (name) } { "Change" }
            (change(visit, deed, html! {
                (hidden("name", name.as_str()))
                button id={ "delete-" (name) } aria-label={ "Delete " (name) } { "Delete" }
            }))
        }
    }
}
