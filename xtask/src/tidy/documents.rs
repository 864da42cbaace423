//! Documents: every page is in the book, every link leads somewhere, and what is derived from the code is up to date.

use crate::docs;
use crate::tidy::Problem;
use crate::tree::{File, Tree};

/// The table of contents of the book.
const INDEX: &str = "docs/SUMMARY.md";

/// The problems of documents.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = index(tree);
    problems.extend(tree.ending(".md").flat_map(|page| links(tree, page)));
    problems.extend(tree.ending(".md").filter(|page| page.path.starts_with("docs/")).flat_map(leaving));
    problems.extend(drift(tree));
    problems
}

fn index(tree: &Tree) -> Vec<Problem> {
    let listed: Vec<String> = tree.text(INDEX).map(targets).unwrap_or_default();
    let pages = tree.ending(".md").filter(|page| page.path != INDEX);
    let in_docs = pages.filter_map(|page| Some((page, page.path.strip_prefix("docs/")?)));
    in_docs
        .filter(|(_, name)| !listed.iter().any(|target| target == name))
        .map(|(page, _)| Problem::in_file(&page.path, format!("is not in the table of contents {INDEX}")))
        .collect()
}

fn links(tree: &Tree, page: &File) -> Vec<Problem> {
    let dir = page.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let local = targets(&page.text).into_iter().filter(|target| !target.contains("://"));
    let leads = |target: &String| {
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path = if path.is_empty() { page.path.clone() } else { resolve(dir, path) };
        let has = |text| anchor.is_empty() || anchors(text).iter().any(|known| known == anchor);
        exists(tree, &path) && tree.text(&path).is_none_or(|text| !path.ends_with(".md") || has(text))
    };
    local
        .filter(|target| !leads(target))
        .map(|target| Problem::in_file(&page.path, format!("links to {target}, which is not there")))
        .collect()
}

/// Links out of the book: they lead somewhere here, and nowhere where the book is read.
fn leaving(page: &File) -> Vec<Problem> {
    let dir = page.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let local =
        targets(&page.text).into_iter().filter(|target| !target.contains("://") && !target.starts_with('#'));
    local
        .filter(|target| !resolve(dir, target).starts_with("docs/"))
        .map(|target| Problem::in_file(&page.path, format!("links to {target}, which is not in the book")))
        .collect()
}

/// The anchors of a page's headings, as the book and code forges make them.
fn anchors(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        in_code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if !in_code && heading.len() < line.len() && heading.starts_with(' ') {
            let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            anchors.push(kept.collect::<String>().to_lowercase().replace(' ', "-"));
        }
    }
    anchors
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
    fn a_page_outside_the_book_and_links_to_nowhere_or_out_of_the_book_are_found() {
        let rule = |tree: &Tree| {
            let mut problems = check(tree);
            problems.retain(|problem| !problem.to_string().contains("cargo xtask docs"));
            problems
        };
        finds(
            rule,
            &[
                ("README.md", "[docs](docs/) [lost](docs/lost.md) [web](https://example.org)\n"),
                ("docs/README.md", "[a](a.md#one-two_three) [b](a.md#four)\n```\n[not](a-link.md)\n```\n"),
                ("docs/SUMMARY.md", "[start](README.md) [a](a.md)\n"),
                ("docs/a.md", "# One, `two_three`\n[up](../README.md) [down](#one-two_three)\n"),
                ("docs/decisions/0001-b.md", "text\n"),
            ],
            expect![[r#"
                docs/decisions/0001-b.md: is not in the table of contents docs/SUMMARY.md
                README.md: links to docs/lost.md, which is not there
                docs/README.md: links to a.md#four, which is not there
                docs/a.md: links to ../README.md, which is not in the book
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
                docs/failures.md: is not what the code says: run `cargo xtask docs`
                docs/findings.md: is not what the code says: run `cargo xtask docs`
                docs/models.md: is not what the code says: run `cargo xtask docs`
                docs/rest.md: is not what the code says: run `cargo xtask docs`
                docs/roles.md: is not what the code says: run `cargo xtask docs`
            "#]],
        );
    }
}
