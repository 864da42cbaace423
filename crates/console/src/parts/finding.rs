//! Findings: what is wrong, with what, what to do about it, and the page where it can be done.

use maud::{Markup, html};
use tranche_api::Problem;
use tranche_core::finding::Finding;

use crate::links;
use crate::words::{severity, severity_tone};

/// Findings, as they come: the gravest first.
pub(crate) fn list(findings: &[Finding]) -> Markup {
    list_on("", findings)
}

/// Findings on the page of what they are about, which needs no link to itself.
pub(crate) fn list_on(page: &str, findings: &[Finding]) -> Markup {
    html! {
        @if !findings.is_empty() {
            ul class="findings" { @for finding in findings { (item(page, finding)) } }
        }
    }
}

/// Findings, or a word that there are none.
pub(crate) fn list_or(findings: &[Finding], empty: &str) -> Markup {
    if findings.is_empty() { super::nothing(empty) } else { list(findings) }
}

fn item(page: &str, finding: &Finding) -> Markup {
    let mend = links::mend(finding).filter(|(to, _)| to != page);
    html! {
        li class={ "finding " (severity_tone(finding.severity).class()) } {
            p class="what" {
                (severity(finding.severity)) " " span { (finding.message) }
            }
            p class="hint" {
                (finding.hint) " "
                @if let Some((to, label)) = &mend { a href=(to) { (label) } }
            }
            p class="code" { code { (finding.code) } " " (finding.subject) }
        }
    }
}

/// Findings in a line, for a cell of a table.
pub(crate) fn brief(findings: &[Finding]) -> Markup {
    html! {
        @if !findings.is_empty() {
            ul class="brief" {
                @for finding in findings { li { (finding.message) " " code { (finding.code) } } }
            }
        }
    }
}

/// Why something was refused.
pub(crate) fn problem(problem: &Problem) -> Markup {
    html! {
        section class="panel bad" role="alert" {
            h2 { (problem.detail) }
            p { (problem.hint) }
            p class="code" { code { (problem.code) } " " (problem.title) }
            @if problem.findings.len() > 1 {
                h3 { "Everything that was found" }
                (list(&problem.findings))
            }
        }
    }
}
