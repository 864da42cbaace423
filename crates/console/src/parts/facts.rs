//! Facts about one thing: what it is called, and what it is.

use maud::{Markup, Render, html};

use super::table::{table, text};
use crate::words::unknown;

/// Facts that are plain text.
pub(crate) type Told = Vec<Fact>;

/// What it is called, and what it is.
pub(crate) type Fact = (&'static str, String);

/// What is otherwise in one list of facts than in another.
pub(crate) fn differences(now: &[Fact], then: &[Fact]) -> Option<Markup> {
    let of = |told: &[Fact], name: &str| {
        told.iter().find(|(known, _)| *known == name).map_or_else(unknown, |(_, value)| value.clone())
    };
    let names =
        then.iter().chain(now.iter().filter(|(name, _)| !then.iter().any(|(known, _)| known == name)));
    let rows = names.map(|(name, _)| (*name, of(now, name), of(then, name)));
    let rows: Vec<Vec<Markup>> = rows
        .filter(|(_, now, then)| now != then)
        .map(|(name, now, then)| vec![html! { (name) }, html! { (now) }, html! { (then) }])
        .collect();
    let columns = [text("What"), text("Now"), text("Then")];
    (!rows.is_empty()).then(|| table("What would be otherwise", &columns, rows, ""))
}

/// A list of facts.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(&'static str, Markup)>);

impl Facts {
    /// A list without any.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A list of facts that are plain text.
    pub(crate) fn of(told: Told) -> Self {
        told.into_iter().fold(Self::new(), |facts, (name, value)| facts.and(name, value))
    }

    /// With a further fact.
    pub(crate) fn and(mut self, name: &'static str, value: impl Render) -> Self {
        self.0.push((name, html! { (value) }));
        self
    }

    /// With a further fact, if it is known.
    pub(crate) fn and_if(self, name: &'static str, value: Option<impl Render>) -> Self {
        match value {
            Some(value) => self.and(name, value),
            None => self,
        }
    }
}

impl Render for Facts {
    fn render(&self) -> Markup {
        html! {
            dl class="facts" {
                @for (name, value) in &self.0 { div { dt { (name) } dd { (value) } } }
            }
        }
    }
}
