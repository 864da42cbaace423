//! What is being done, and what was.

use maud::html;
use tranche_core::name::OperationId;
use tranche_core::operation::Operation;

use crate::ask::{Answer, Visit};
use crate::fields::{Asked, Named};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::facts::Facts;
use crate::parts::finding;
use crate::parts::operation::progress;
use crate::parts::paging::{Paged, ROWS_PER_PAGE};
use crate::parts::table::{table, text};
use crate::words::{operation_state, time};

/// All of them, the newest first.
pub(crate) async fn list(visit: Visit, Asked(asked): Asked) -> Answer {
    let operations: Vec<Operation> = visit.get("/v1/operations").await?;
    let paged = Paged::of(operations, &asked, ROWS_PER_PAGE);
    let rows = paged.rows.iter().map(|operation| {
        vec![
            html! { a href=(links::operation(&operation.id)) { (operation.title) } },
            operation_state(operation.state),
            html! { @if !operation.state.is_over() { (progress(operation)) } },
            html! {
                @match links::subject(&operation.subject) {
                    Some(to) => { a href=(to) { (operation.subject) } }
                    None => { (operation.subject) }
                }
            },
            time(operation.created_at),
            time(operation.updated_at),
        ]
    });
    let columns = [
        text("Operation"),
        text("State"),
        text("Progress"),
        text("About"),
        text("Asked for"),
        text("Last change"),
    ];
    let body = live(
        "live",
        html! {
            (table("Operations, the newest first", &columns, rows.collect(), "Nothing has been asked for yet."))
            (paged.links("/operations", &asked))
        },
    );
    Ok(visit.page(&Page { title: "Operations", at: "/operations", above: &[], body }))
}

/// One of them.
pub(crate) async fn show(visit: Visit, Named(id): Named<OperationId>) -> Answer {
    let operation: Operation = visit.get(&format!("/v1/operations/{id}")).await?;
    let about = links::subject(&operation.subject);
    let subject = html! {
        @match about { Some(to) => { a href=(to) { (operation.subject) } } None => { (operation.subject) } }
    };
    let facts = Facts::new()
        .and("About", subject)
        .and("Asked for", time(operation.created_at))
        .and("Last change", time(operation.updated_at))
        .and("Id", html! { code { (operation.id) } });
    let rows = operation.log.iter().map(|line| vec![time(line.at), html! { (line.text) }]);
    let body = live(
        "live",
        html! {
            p class="state" { (operation_state(operation.state)) " " (progress(&operation)) }
            (finding::list(&operation.findings))
            (facts)
            h2 { "Log" }
            (table("What happened, oldest first", &[text("When"), text("What")], rows.collect(), "Nothing has happened yet."))
        },
    );
    let above = [("/operations", "Operations")];
    Ok(visit.page(&Page { title: &operation.title, at: "/operations", above: &above, body }))
}
