//! Facts about one thing: what it is called, and what it is.

use maud::{Markup, Render, html};

/// A list of facts.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(&'static str, Markup)>);

impl Facts {
    /// A list without any.
    pub(crate) fn new() -> Self {
        Self::default()
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
