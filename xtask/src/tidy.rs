//! What no compiler checks, checked on every test run.
//!
//! Each rule is a pure function from the tree to problems, so that each can be shown to bite.

mod dependencies;
mod documents;
mod monitoring;
mod sources;
mod vendors;
mod words;

use std::fmt;

use crate::tree::Tree;

/// Every problem in the tree, in the order of the rules.
pub(crate) fn check(tree: &Tree) -> Vec<Problem> {
    let rules = [
        sources::check,
        dependencies::check,
        words::check,
        vendors::check,
        documents::check,
        monitoring::check,
    ];
    rules.iter().flat_map(|rule| rule(tree)).collect()
}

/// Something that is not tidy.
#[derive(Debug)]
pub(crate) struct Problem {
    path: String,
    line: Option<usize>,
    what: String,
}

impl Problem {
    fn in_file(path: &str, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: None, what: what.into() }
    }

    fn in_line(path: &str, index: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: Some(index + 1), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.what),
            None => write!(f, "{}: {}", self.path, self.what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{File, workspace_root};

    #[test]
    fn the_working_tree_is_tidy() {
        let tree = Tree::read(&workspace_root().unwrap()).unwrap();
        let problems: Vec<String> = check(&tree).iter().map(Problem::to_string).collect();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    /// A tree of these files, and what one rule says to it.
    #[track_caller]
    pub(super) fn finds(
        rule: fn(&Tree) -> Vec<Problem>,
        files: &[(&str, &str)],
        expected: expect_test::Expect,
    ) {
        let files =
            files.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect();
        let lines: Vec<String> =
            rule(&Tree { files, ..Tree::default() }).iter().map(|problem| format!("{problem}\n")).collect();
        expected.assert_eq(&lines.concat());
    }
}
