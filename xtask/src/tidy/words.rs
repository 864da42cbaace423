//! Words that promise work instead of being it, and paths of somebody's own machine.

use crate::tidy::Problem;
use crate::tree::Tree;

/// Put together from halves, so that this file may stand in the tree.
const PROMISES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ho", "me/")];

/// Files of others, which stay as they are.
const OF_OTHERS: &str = "crates/console/assets/vendor/";

/// The problems of single words, in every text file of ours.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.files.iter().filter(|file| !file.path.as_str().starts_with(OF_OTHERS)) {
        for (index, line) in file.text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| PROMISES.contains(&word)) {
                problems.push(Problem::in_line(
                    &file.path,
                    index,
                    "a promise of work: do it, or open an issue",
                ));
            }
            if MACHINE_PATHS.iter().any(|path| line.contains(path)) {
                problems.push(Problem::in_line(&file.path, index, "a path of somebody's own machine"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::tidy::tests::finds;

    #[test]
    fn promises_and_machine_paths_are_found_as_words_only() {
        let promise = format!("fn a() {{}} // {}: later\n", PROMISES[0]);
        let path = format!("cd {}main\n", MACHINE_PATHS[0]);
        finds(
            check,
            &[
                ("a.rs", &promise),
                ("b.sh", &path),
                ("c.sh", "mktemp -d /tmp/a.XXXXXX; cd framework/x\n"),
                ("crates/console/assets/vendor/a.js", &promise),
            ],
            expect![[r#"
                a.rs:1: a promise of work: do it, or open an issue
                b.sh:1: a path of somebody's own machine
            "#]],
        );
    }
}
