//! Documents: every page is in the index, every link leads somewhere, and what is derived from the code is up to date.

use crate::docs;
use crate::tidy::Problem;
use crate::tree::{File, Tree};

const INDEX: &str = "docs/README.md";

/// The problems of documents.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = index(tree);
    problems.extend(tree.ending(".md").flat_map(|page| links(tree, page)));
    problems.extend(drift(tree));
    problems
}

fn index(tree: &Tree) -> Vec<Problem> {
    let listed: Vec<String> = tree.text(INDEX).map(targets).unwrap_or_default();
    let pages = tree.ending(".md").filter(|page| page.path != INDEX);
    let in_docs = pages.filter_map(|page| Some((page, page.path.strip_prefix("docs/")?)));
    in_docs
        .filter(|(_, name)| !listed.iter().any(|target| target == name))
        .map(|(page, _)| Problem::in_file(&page.path, format!("is not in the index {INDEX}")))
        .collect()
}

fn links(tree: &Tree, page: &File) -> Vec<Problem> {
    let dir = page.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let local =
        targets(&page.text).into_iter().filter(|target| !target.contains("://") && !target.starts_with('#'));
    local
        .filter(|target| !exists(tree, &resolve(dir, target.split('#').next().unwrap_or_default())))
        .map(|target| Problem::in_file(&page.path, format!("links to {target}, which is not there")))
        .collect()
}

/// A directory exists where a file lies in it.
fn exists(tree: &Tree, path: &str) -> bool {
    let below = format!("{}/", path.trim_end_matches('/'));
    let mut all = tree.files.iter().map(|file| &file.path).chain(&tree.others);
    all.any(|one| one == path || one.starts_with(&below))
}

fn drift(tree: &Tree) -> Vec<Problem> {
    let derived = docs::derived();
    let stale = derived.iter().filter(|page| tree.text(page.path) != Some(page.text.as_str()));
    stale
        .map(|page| Problem::in_file(page.path, "is not what the code says: run `cargo xtask docs`"))
        .collect()
}

/// The targets of a page's inline links, code blocks left out.
fn targets(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut targets = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            let after = line.split("](").skip(1);
            targets
                .extend(after.filter_map(|rest| rest.split_once(')').map(|(target, _)| target.to_owned())));
        }
    }
    targets
}

fn resolve(dir: &str, target: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::tidy::tests::finds;

    #[test]
    fn a_page_outside_the_index_and_a_link_to_nowhere_are_found() {
        let rule = |tree: &Tree| {
            let mut problems = index(tree);
            problems.extend(tree.ending(".md").flat_map(|page| links(tree, page)));
            problems
        };
        finds(
            rule,
            &[
                ("README.md", "[docs](docs/) [lost](docs/lost.md) [web](https://example.org)\n"),
                ("docs/README.md", "[a](a.md) [up](../README.md#top)\n```\n[not](a-link.md)\n```\n"),
                ("docs/a.md", "text\n"),
                ("docs/decisions/0001-b.md", "text\n"),
            ],
            expect![[r#"
                docs/decisions/0001-b.md: is not in the index docs/README.md
                README.md: links to docs/lost.md, which is not there
            "#]],
        );
    }

    #[test]
    fn a_derived_page_that_was_edited_by_hand_is_found() {
        finds(
            drift,
            &[("docs/findings.md", "by hand\n")],
            expect![[r#"
                docs/cli.md: is not what the code says: run `cargo xtask docs`
                docs/configuration.md: is not what the code says: run `cargo xtask docs`
                docs/findings.md: is not what the code says: run `cargo xtask docs`
                docs/roles.md: is not what the code says: run `cargo xtask docs`
            "#]],
        );
    }
}
