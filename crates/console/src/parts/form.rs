//! Forms that change something, and the fields of forms.

use maud::{Markup, Render, html};
use serde::Serialize;

use crate::ask::Visit;
use crate::fields::{CSRF, Fields, WAS};

/// What a form does: where it is sent, and what it asks of the REST interface.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deed<'a> {
    /// The console's own address that takes the form.
    pub(crate) action: &'a str,
    /// The method of the request that follows.
    pub(crate) method: &'static str,
    /// The path of the request that follows.
    pub(crate) rest: &'a str,
}

/// A form, if the visitor may do what it does.
pub(crate) fn change(visit: &Visit, deed: Deed<'_>, content: impl Render) -> Markup {
    let Deed { action, method, rest } = deed;
    html! {
        @if visit.may(method, rest) {
            form method="post" action=(action) data-needs={ (method) " " (rest) } {
                (hidden(CSRF, visit.csrf()))
                (content)
            }
        }
    }
}

/// A form of one button.
pub(crate) fn button(visit: &Visit, deed: Deed<'_>, label: &str, class: &str) -> Markup {
    change(visit, deed, html! { button id={ "do-" (slug(deed.action, label)) } class=(class) { (label) } })
}

/// Keeps the focus where it is while a page reads itself anew.
fn slug(action: &str, label: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    action.chars().chain(['-']).chain(label.chars()).map(kept).collect()
}

/// A field that nobody sees.
pub(crate) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// What there is while a form is filled in ([`Fields::was`]).
pub(crate) fn was(typed: &Fields, now: &impl Serialize) -> Markup {
    let now = serde_json::to_string(now).unwrap_or_default();
    hidden(WAS, typed.or(WAS, &now))
}

/// A line of text.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Field<'a> {
    /// What it is called in the form.
    pub(crate) name: &'a str,
    /// What people read.
    pub(crate) label: &'a str,
    /// What stands in it at first.
    pub(crate) value: &'a str,
    /// What can be said about it.
    pub(crate) help: &'a str,
    /// `text` if left out.
    pub(crate) kind: &'a str,
    /// Whether it may be left empty.
    pub(crate) is_optional: bool,
    /// The list that it proposes.
    pub(crate) list: Option<&'a str>,
}

impl Render for Field<'_> {
    fn render(&self) -> Markup {
        let kind = if self.kind.is_empty() { "text" } else { self.kind };
        let help = format!("help-{}", self.name);
        let autocomplete = match kind {
            "password" => "new-password",
            _ => "off",
        };
        html! {
            p class="field" {
                label for={ "f-" (self.name) } { (self.label) @if self.is_optional { span class="quiet" { " (optional)" } } }
                input id={ "f-" (self.name) } name=(self.name) type=(kind) value=(self.value) required[!self.is_optional]
                    autocomplete=(autocomplete) spellcheck="false" list=[self.list]
                    aria-describedby=[(!self.help.is_empty()).then_some(&help)];
                @if !self.help.is_empty() { span class="help" id=(help) { (self.help) } }
            }
        }
    }
}

/// Several lines of text.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lines<'a> {
    /// What it is called in the form.
    pub(crate) name: &'a str,
    /// What people read.
    pub(crate) label: &'a str,
    /// What stands in it at first.
    pub(crate) value: &'a str,
    /// What can be said about it.
    pub(crate) help: &'a str,
    /// Whether it may be left empty.
    pub(crate) is_optional: bool,
}

impl Render for Lines<'_> {
    fn render(&self) -> Markup {
        let help = format!("help-{}", self.name);
        html! {
            p class="field" {
                label for={ "f-" (self.name) } { (self.label) @if self.is_optional { span class="quiet" { " (optional)" } } }
                textarea id={ "f-" (self.name) } name=(self.name) rows="3" spellcheck="false" required[!self.is_optional]
                    aria-describedby=(help) { (self.value) }
                span class="help" id=(help) { (self.help) }
            }
        }
    }
}

/// A number, of a form that may be shown again.
pub(crate) fn number(typed: &Fields, name: &str, label: &str, now: impl ToString, help: &str) -> Markup {
    let now = now.to_string();
    let field = Field { name, label, value: typed.or(name, &now), help, kind: "number", ..Field::default() };
    field.render()
}

/// A number that may be left out, of a form that may be shown again.
pub(crate) fn limit(
    typed: &Fields,
    name: &str,
    label: &str,
    now: Option<impl ToString>,
    help: &str,
) -> Markup {
    let now = now.map(|now| now.to_string()).unwrap_or_default();
    let value = typed.or(name, &now);
    Field { name, label, value, help, kind: "number", is_optional: true, ..Field::default() }.render()
}

/// One of the words that the REST interface knows for something, of a form that may be shown again. Each option is the word and its
/// label.
pub(crate) fn word(
    typed: &Fields,
    (name, label): (&str, &str),
    options: &[(&str, &str)],
    now: impl Serialize,
    help: &str,
) -> Markup {
    let now = crate::words::wire(&now);
    let chosen = typed.or(name, &now);
    let help_id = format!("help-{name}");
    html! {
        p class="field" {
            label for={ "f-" (name) } { (label) }
            select id={ "f-" (name) } name=(name) aria-describedby=[(!help.is_empty()).then_some(&help_id)] {
                @for (value, label) in options { option value=(value) selected[*value == chosen] { (label) } }
            }
            @if !help.is_empty() { span class="help" id=(help_id) { (help) } }
        }
    }
}

/// A choice of one. Each option is its value and its label.
pub(crate) fn choice(name: &str, label: &str, options: &[(String, String)], chosen: &str) -> Markup {
    html! {
        p class="field" {
            label for={ "f-" (name) } { (label) }
            select id={ "f-" (name) } name=(name) {
                @for (value, label) in options { option value=(value) selected[value == chosen] { (label) } }
            }
        }
    }
}

/// A box to tick.
pub(crate) fn tick(name: &str, label: &str, help: &str) -> Markup {
    ticked(name, label, help, false)
}

/// A box that may be ticked at first.
pub(crate) fn ticked(name: &str, label: &str, help: &str, is_on: bool) -> Markup {
    html! {
        p class="tick" {
            label { input type="checkbox" name=(name) value="on" checked[is_on]; " " (label) }
            @if !help.is_empty() { span class="help" { (help) } }
        }
    }
}
