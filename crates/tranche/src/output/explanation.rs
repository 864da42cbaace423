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

    /// What stands between backticks and is a command of ours.
    fn commands(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("tranche "))
    }

    #[test]
    fn the_handbook_names_commands_and_flags_that_there_are() {
        let mut named = 0;
        for code in Code::ALL {
            let Remedy { look, mend } = code.remedy();
            for line in commands(look).chain(commands(mend)) {
                let mut words = line.split(' ').skip(1).peekable();
                let mut command = crate::command();
                command.build();
                while let Some(below) = words.peek().and_then(|word| command.find_subcommand(word)) {
                    command = below.clone();
                    words.next();
                }
                let is_flag = words.peek().is_some_and(|word| word.starts_with("--"));
                assert!(is_flag || !command.has_subcommands(), "{code}: there is no command {line}");
                for flag in words.filter_map(|word| word.strip_prefix("--")) {
                    let known = command.get_arguments().any(|arg| arg.get_long() == Some(flag));
                    assert!(known, "{code}: {line} has no flag --{flag}");
                }
                named += 1;
            }
        }
        assert!(named > 100, "{named} commands were looked at");
    }

    #[test]
    fn links_become_names_of_pages() {
        assert_eq!(
            without_links("See [fencing](fencing.md), **or** [migration](migration.md)."),
            "See fencing (docs/fencing.md), or migration (docs/migration.md)."
        );
    }
}
