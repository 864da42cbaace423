//! Operations in other pages: what was just asked for, and what is under way.

use maud::{Markup, html};
use tranche_core::name::OperationId;
use tranche_core::operation::Operation;

use crate::ask::Visit;
use crate::fields::Fields;
use crate::links;
use crate::words::operation_state;

/// The field of a page's address that names what was just asked for.
pub(crate) const ASKED: &str = "asked";

/// What was just asked for from this page, and how far it is.
pub(crate) async fn notice(visit: &Visit, asked: &Fields) -> Markup {
    let Some(id) = asked.get(ASKED).and_then(|id| id.parse::<OperationId>().ok()) else { return html! {} };
    let operation: Option<Operation> = visit.find(&format!("/v1/operations/{id}")).await;
    html! {
        @if let Some(operation) = operation {
            section class="panel notice" role="status" {
                p {
                    (operation_state(operation.state)) " "
                    a href=(links::operation(&operation.id)) { (operation.title) }
                    @if !operation.state.is_over() { " " (progress(&operation)) }
                }
                (super::finding::list(&operation.findings))
            }
        }
    }
}

/// How far it is.
pub(crate) fn progress(operation: &Operation) -> Markup {
    let percent = operation.progress_percent;
    html! {
        span class="bar" {
            progress value=(percent) max="100" aria-label={ (operation.title) ": " (percent) " percent" } {}
            " " (percent) "\u{a0}%"
        }
    }
}
