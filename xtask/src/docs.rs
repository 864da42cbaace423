//! The documents that are derived from the code, so that they cannot be wrong.

mod cli;
mod failures;
mod models;
mod rest;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use tranche_core::access::{Reach, is_open, needed};

/// A page that nobody edits.
#[derive(Debug)]
pub(crate) struct Page {
    /// Where it lies, below the root.
    pub(crate) path: &'static str,
    /// What stands in it.
    pub(crate) text: String,
}

/// Every derived page.
pub(crate) fn derived() -> Vec<Page> {
    vec![
        Page { path: "docs/cli.md", text: cli::page(tranche::command()) },
        Page { path: "docs/configuration.md", text: configuration() },
        Page { path: "docs/failures.md", text: failures::handbook() },
        Page { path: "docs/findings.md", text: failures::list() },
        Page { path: "docs/models.md", text: models::page(&catalogue()) },
        Page { path: "docs/rest.md", text: rest::page(&document()) },
        Page { path: "docs/roles.md", text: roles() },
    ]
}

/// Writes every derived page below `root`.
pub(crate) fn write(root: &Path) -> Result<()> {
    for page in derived() {
        std::fs::write(root.join(page.path), &page.text)
            .with_context(|| format!("cannot write {}", page.path))?;
    }
    Ok(())
}

/// The file itself is the best page about its settings; a test of the daemon holds it to the real defaults.
fn configuration() -> String {
    format!("{CONFIGURATION}\n```toml\n{}```\n", include_str!("../../dist/tranched.toml"))
}

const CONFIGURATION: &str = "\
# Configuration

The daemon reads `/etc/tranche/tranched.toml` at its start. Every setting has a default, and the file may be missing; an
unknown setting is an error, so that a typing error is never a default. `tranched --check-config` checks the file.

* **Who may use it.** Members of the group `tranche` may connect to the socket, and may then do everything that the daemon
  does: `usermod -aG tranche USER`.
* **GPUs that Tranche does not know.** `/etc/tranche/catalogue.d/*.toml` extends the catalogue; what the kernel says about a
  device always counts more.
* **What to back up.** The store, `/var/lib/tranche/tranche.db`: what was asked for, and what was decided.
* **The history.** `history.db` beside it is not worth a backup: how busy this host's GPUs, partitions and VMs were. A batch is
  written every ten minutes. In a day that is about 8 MB for one GPU with four partitions and four VMs, whose file grows to 0.5 MB,
  and 45 MB for eight GPUs with sixteen partitions each and 128 VMs, whose file grows to 14 MB.

<!-- Derived from dist/tranched.toml by `cargo xtask docs`; do not edit. -->
";

fn catalogue() -> toml::Table {
    toml::from_str(include_str!("../../crates/host/data/catalogue.toml")).expect("the catalogue is TOML")
}

/// The checked-in description of the REST interface.
const OPENAPI: &str = include_str!("../../openapi/v1.json");

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("the document is JSON")
}

/// Every route of the checked-in document, with the role that it needs.
fn roles() -> String {
    let mut text = String::from(
        "# Roles\n\n\
         The role that each request of the REST interface needs at least; [access.md](access.md) says what roles are. A test of\n\
         the daemon asks every route with every role. The last column says whether it is left to somebody who is limited to VMs with\n\
         a label, about those VMs.\n\n\
         <!-- Derived from crates/core/src/access.rs and openapi/v1.json by `cargo xtask docs`; do not edit. -->\n\n\
         | request | role | limited |\n| --- | --- | --- |\n",
    );
    let document = document();
    let paths = document["paths"].as_object().into_iter().flatten();
    for (path, methods) in paths {
        for method in methods.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()) {
            let role =
                if is_open(&method, path) { "none".to_owned() } else { needed(&method, path).to_string() };
            let is_left = is_open(&method, path) || Reach::of(&method, path).is_some();
            let left = if is_left { "yes" } else { "no" };
            writeln!(text, "| `{method} {path}` | {role} | {left} |").expect("a string grows");
        }
    }
    text
}
