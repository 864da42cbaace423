//! What a code means and what to do about it, as the handbook has it.

use serde::Serialize;
use tranche_core::finding::{Code, Remedy};

use super::Show;

/// The handbook's entry for a code.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    code: Code,
    meaning: &'static str,
    look: String,
    mend: String,
}

impl Explanation {
    pub(crate) fn of(code: Code) -> Self {
        let Remedy { look, mend } = code.remedy();
        Self { code, meaning: code.meaning(), look: without_links(look), mend: without_links(mend) }
    }
}

impl Show for Explanation {
    fn as_text(&self) -> String {
        let Self { code, meaning, look, mend } = self;
        format!("{code}: {meaning}\n\nWhere to look: {look}\n\nWhat to do: {mend}\n")
    }
}

/// A terminal follows no links, so pages are named: `[fencing](fencing.md)` becomes `fencing (docs/fencing.md)`.
fn without_links(text: &str) -> String {
    let mut parts = text.split("](");
    let mut plain = parts.next().unwrap_or_default().replace('[', "");
    for part in parts {
        let (page, rest) = part.split_once(')').unwrap_or((part, ""));
        plain.push_str(&format!(" (docs/{page}){}", rest.replace('[', "")));
    }
    plain.replace("**", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_become_names_of_pages() {
        assert_eq!(
            without_links("See [fencing](fencing.md), **or** [migration](migration.md)."),
            "See fencing (docs/fencing.md), or migration (docs/migration.md)."
        );
    }
}
