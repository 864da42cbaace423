//! What pages are put together from: tables, forms, panels of findings, facts.
//!
//! There is one door for forms ([`form::change`]): it leaves out what the visitor may not do, and puts in what shows that the form is
//! theirs.

pub(crate) mod facts;
pub(crate) mod finding;
pub(crate) mod form;
pub(crate) mod history;
pub(crate) mod operation;
pub(crate) mod paging;
pub(crate) mod table;

use maud::{Markup, html};

/// A bar that says how much of something is used, beside the figures.
pub(crate) fn meter(label: &str, used: usize, total: usize) -> Markup {
    html! {
        progress class="meter" value=(used) max=(total.max(1)) aria-label={ (label) ": " (used) " of " (total) } {}
    }
}

/// What stands where there is nothing to show.
pub(crate) fn nothing(text: &str) -> Markup {
    html! { p class="empty" { (text) } }
}
