//! No room but `host` knows a GPU vendor: what one vendor does differently is said there, or in a data file.

use crate::tidy::Problem;
use crate::tree::{File, Tree};

/// The rooms that serve any GPU.
const NEUTRAL: &[&str] = &[
    "crates/core/src/",
    "crates/api/src/",
    "crates/console/src/",
    "crates/store/src/",
    "crates/tranched/src/",
    "crates/tranche/src/",
];
/// Vendors, their families of GPUs, and their drivers and libraries. Those of processors are no matter here.
const NAMES: &[&str] = &["nvidia", "nvml", "geforce", "radeon", "instinct", "amdgpu", "i915", "sriov-manage"];

/// The problems of code that knows a vendor. Comments may name one: facts have their sources.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let neutral = |file: &&File| NEUTRAL.iter().any(|room| file.path.starts_with(room));
    // Their tests show what vendors' drivers are called.
    let files = tree.ending(".rs").filter(neutral).filter(|file| !file.path.ends_with("/tests.rs"));
    files.flat_map(lines).collect()
}

fn lines(file: &File) -> impl Iterator<Item = Problem> {
    file.text.lines().enumerate().filter_map(|(index, line)| {
        let code = line.split("//").next().unwrap_or_default().to_lowercase();
        let name = NAMES.iter().find(|name| code.contains(**name))?;
        Some(Problem::in_line(
            &file.path,
            index,
            format!("names {name}: that belongs into crates/host or a data file"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::tidy::tests::finds;

    #[test]
    fn a_vendor_is_named_in_the_host_in_comments_and_in_tests_only() {
        let code = "//! Why. NVIDIA's driver says so.\nfn a() {}\nconst DRIVER: &str = \"Nvidia\"; // why\n";
        finds(
            check,
            &[
                ("crates/core/src/mode.rs", code),
                ("crates/host/src/vgpu.rs", code),
                ("crates/api/src/view/tests.rs", code),
                ("crates/core/tests/it/main.rs", code),
            ],
            expect![[r#"
                crates/core/src/mode.rs:3: names nvidia: that belongs into crates/host or a data file
            "#]],
        );
    }
}
