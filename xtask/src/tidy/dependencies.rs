//! Dependencies: each crate has exactly those it is allowed, and each dependency has its reason beside it.
//!
//! This is what keeps the core pure and the rooms apart: a line in [`ALLOWED`] is a decision that a reviewer sees.

use std::collections::BTreeSet;

use crate::tidy::Problem;
use crate::tree::{File, Tree};

/// What the code of each crate may use. Dev-dependencies are free: they do not ship.
const ALLOWED: &[(&str, &[&str])] = &[
    ("crates/core", &["imbl", "serde", "thiserror", "utoipa", "uuid"]),
    (
        "crates/access",
        &["argon2", "base64", "ring", "serde", "serde_json", "tranche-api", "tranche-core", "tranche-store"],
    ),
    ("crates/api", &["serde", "tranche-core", "utoipa", "uuid"]),
    (
        "crates/console",
        &[
            "axum",
            "futures-util",
            "jiff",
            "maud",
            "ring",
            "serde",
            "serde_json",
            "subtle",
            "tokio",
            "tower",
            "tranche-api",
            "tranche-core",
        ],
    ),
    (
        "crates/host",
        &[
            "camino",
            "fuser",
            "libc",
            "nvml-wrapper",
            "nvml-wrapper-sys",
            "roxmltree",
            "rustix",
            "serde",
            "thiserror",
            "toml",
            "tracing",
            "tranche-core",
            "uuid",
            "virt",
            "virt-sys",
        ],
    ),
    (
        "crates/store",
        &["camino", "etcd-client", "rusqlite", "serde", "serde_json", "thiserror", "tokio", "tranche-core"],
    ),
    ("crates/engine", &["tokio", "tracing", "tranche-core", "tranche-host", "tranche-store", "uuid"]),
    (
        "crates/tranched",
        &[
            "anyhow",
            "axum",
            "base64",
            "camino",
            "clap",
            "futures-util",
            "http-body-util",
            "hyper",
            "hyper-util",
            "openidconnect",
            "prometheus-client",
            "prost",
            "rcgen",
            "ring",
            "rustix",
            "rustls",
            "sd-notify",
            "serde",
            "serde_json",
            "serde_path_to_error",
            "thiserror",
            "tokio",
            "tokio-rustls",
            "toml",
            "tower",
            "tracing",
            "tracing-subscriber",
            "tranche-access",
            "tranche-api",
            "tranche-console",
            "tranche-core",
            "tranche-engine",
            "tranche-host",
            "tranche-store",
            "utoipa",
            "utoipa-axum",
            "uuid",
            "x509-parser",
        ],
    ),
    (
        "crates/tranche",
        &[
            "camino",
            "clap",
            "clap_complete",
            "clap_mangen",
            "comfy-table",
            "flate2",
            "futures-util",
            "http-body-util",
            "hyper",
            "hyper-util",
            "indicatif",
            "jiff",
            "rpassword",
            "rustix",
            "serde",
            "serde-saphyr",
            "serde_json",
            "tar",
            "thiserror",
            "tokio",
            "tokio-tungstenite",
            "toml",
            "tranche-api",
            "tranche-core",
            "tranche-host",
            "tranche-sim",
        ],
    ),
    ("crates/sim", &["serde", "tranche-core", "tranche-engine", "tranche-host", "tranche-store", "uuid"]),
    (
        "crates/lab",
        &["anyhow", "clap", "roxmltree", "rustix", "serde", "serde_json", "tempfile", "thiserror", "uuid"],
    ),
    ("xtask", &["anyhow", "clap", "serde_json", "toml", "tranche", "tranche-core"]),
];
const ROOT: &str = "Cargo.toml";

/// The problems of manifests.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems: Vec<Problem> = tree.text(ROOT).map(reasons).unwrap_or_default();
    for manifest in tree.ending("/Cargo.toml") {
        problems.extend(allow_list(manifest));
    }
    problems
}

/// Each line of `[workspace.dependencies]` ends in a comment; our own crates explain themselves.
fn reasons(manifest: &str) -> Vec<Problem> {
    let section =
        manifest.lines().enumerate().skip_while(|(_, line)| *line != "[workspace.dependencies]").skip(1);
    section
        .take_while(|(_, line)| !line.starts_with('['))
        .filter(|(_, line)| line.contains('=') && !line.contains("path = ") && !line.contains(" # "))
        .map(|(index, _)| Problem::in_line(ROOT, index, "a dependency without its reason beside it"))
        .collect()
}

fn allow_list(manifest: &File) -> Vec<Problem> {
    let problem = |what: String| Problem::in_file(&manifest.path, what);
    let table = match toml::from_str::<toml::Table>(&manifest.text) {
        Ok(table) => table,
        Err(error) => return vec![problem(format!("cannot be read: {error}"))],
    };
    let krate = manifest.path.trim_end_matches("/Cargo.toml");
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == krate) else {
        return vec![problem("is not in the list of what each crate may use".into())];
    };
    let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
    let used = used(&table);
    let beyond =
        used.difference(&allowed).map(|name| problem(format!("uses {name}, which is not on its list")));
    let unused =
        allowed.difference(&used).map(|name| problem(format!("no longer uses {name}: shorten its list")));
    beyond.chain(unused).collect()
}

fn used(manifest: &toml::Table) -> BTreeSet<&str> {
    let sections =
        ["dependencies", "build-dependencies"].iter().filter_map(|name| manifest.get(*name)?.as_table());
    sections.flat_map(|section| section.keys().map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::tidy::tests::finds;

    #[test]
    fn the_core_may_not_become_asynchronous() {
        finds(
            check,
            &[(
                "crates/core/Cargo.toml",
                "[dependencies]\nimbl = \"7\"\nserde.workspace = true\nthiserror = \"2\"\ntokio = \"1\"\nuuid = \"1\"\n",
            )],
            expect![[r#"
                crates/core/Cargo.toml: uses tokio, which is not on its list
                crates/core/Cargo.toml: no longer uses utoipa: shorten its list
            "#]],
        );
    }

    #[test]
    fn a_crate_that_nobody_decided_on_is_found() {
        finds(
            check,
            &[("crates/utils/Cargo.toml", "[dependencies]\n")],
            expect![[r#"
                crates/utils/Cargo.toml: is not in the list of what each crate may use
            "#]],
        );
    }

    #[test]
    fn a_dependency_has_its_reason_beside_it() {
        let root = "[workspace.dependencies]\nours = { path = \"a\" }\ngood = \"1\" # names\nbad = \"1\"\n\n[profile.dev]\ndebug = 1\n";
        finds(
            check,
            &[("Cargo.toml", root)],
            expect![[r#"
                Cargo.toml:4: a dependency without its reason beside it
            "#]],
        );
    }
}
