//! Source files are short, and each says at its top why it exists.

use crate::tidy::Problem;
use crate::tree::{File, Tree};

/// A file that grows beyond this wants to be two.
const LINES_MAX: usize = 600;
/// No file is longer than this, named below or not.
const LINES_MAX_EVER: usize = 800;
/// Files between the two limits, each with its reason. There is none.
const LONG_FILES: &[(&str, &str)] = &[];

/// The problems of source files.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    tree.ending(".rs").flat_map(|file| [length(file), module_docs(file)]).flatten().collect()
}

fn length(file: &File) -> Option<Problem> {
    let lines = file.text.lines().count();
    let excused = LONG_FILES.iter().any(|(path, _)| *path == file.path);
    let limit = if excused { LINES_MAX_EVER } else { LINES_MAX };
    (lines > limit)
        .then(|| Problem::in_file(&file.path, format!("{lines} lines; split it, {limit} is the limit")))
}

fn module_docs(file: &File) -> Option<Problem> {
    let first = file.text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
    let documented = first.is_some_and(|line| line.starts_with("//! "));
    (!documented)
        .then(|| Problem::in_file(&file.path, "does not begin with `//!` docs that say why it exists"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::tidy::tests::finds;

    #[test]
    fn a_short_file_with_docs_is_tidy() {
        finds(check, &[("crates/a/src/lib.rs", "#![forbid(unsafe_code)]\n\n//! Why.\n")], expect![""]);
    }

    #[test]
    fn a_long_file_and_one_without_docs_are_not() {
        let long = format!("//! Why.\n{}", "\n".repeat(LINES_MAX));
        finds(
            check,
            &[("a.rs", &long), ("b.rs", "fn main() {}\n"), ("c.rs", "")],
            expect![[r#"
                a.rs: 601 lines; split it, 600 is the limit
                b.rs: does not begin with `//!` docs that say why it exists
                c.rs: does not begin with `//!` docs that say why it exists
            "#]],
        );
    }
}
