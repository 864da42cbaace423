//! What is wrong or waits, the gravest first.

use maud::html;
use tranche_core::finding::{Finding, Severity};

use crate::ask::{Answer, Visit};
use crate::fields::Asked;
use crate::layout::{Page, live};
use crate::parts::finding::list_or;
use crate::parts::paging::{Paged, ROWS_PER_PAGE};

/// The page.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let findings: Vec<Finding> = visit.get("/v1/findings").await?;
    let chosen = asked.get("severity").unwrap_or_default().to_owned();
    let count = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let tabs: Vec<(String, String)> =
        [(Severity::Error, "Errors"), (Severity::Warning, "Warnings"), (Severity::Info, "Notes")]
            .into_iter()
            .map(|(severity, label)| (severity.to_string(), format!("{label} ({})", count(severity))))
            .collect();
    let all = format!("All ({})", findings.len());
    let wanted =
        findings.into_iter().filter(|finding| chosen.is_empty() || finding.severity.to_string() == chosen);
    let paged = Paged::of(wanted.collect(), &asked, ROWS_PER_PAGE);
    let body = live(
        "live",
        html! {
            nav class="tabs" aria-label="Severity" {
                a href="/findings" aria-current=[chosen.is_empty().then_some("page")] { (all) }
                @for (value, label) in &tabs {
                    a href={ "/findings?severity=" (value) } aria-current=[(*value == chosen).then_some("page")] { (label) }
                }
            }
            (list_or(&paged.rows, "Nothing is wrong, and nothing waits."))
            (paged.links("/findings", &asked))
        },
    );
    Ok(visit.page(&Page { title: "Findings", at: "/findings", above: &[], body }))
}
