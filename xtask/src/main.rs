//! The project's own chores, run as `cargo xtask CHORE`.
//!
//! Nothing here is shipped. What a contributor could forget is checked by `tidy`, which is also a test; what is
//! derived from the code is written by `docs`; the package that users install is built by `deb`.

mod deb;
mod docs;
mod tidy;
mod tree;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::tree::Tree;

fn main() -> Result<ExitCode> {
    let root = tree::workspace_root()?;
    match Xtask::parse().chore {
        Chore::Tidy => {
            let problems = tidy::check(&Tree::read(&root)?);
            for problem in &problems {
                eprintln!("{problem}");
            }
            Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Chore::Docs => docs::write(&root).map(|()| ExitCode::SUCCESS),
        Chore::Deb => deb::build(&root).map(|()| ExitCode::SUCCESS),
    }
}

/// The project's own chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Chore {
    /// Check what no compiler checks: file lengths, dependencies, words, documents.
    Tidy,
    /// Write the documents that are derived from the code.
    Docs,
    /// Build target/debian/tranche_*.deb; installs cargo-deb where it is missing.
    Deb,
}
