//! The Debian package: builds the binaries, has them print their own manual, and lets cargo-deb wrap it all.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The version of cargo-deb that the package's metadata was written for.
const CARGO_DEB_VERSION: &str = "3.8.0";

/// Builds `target/debian/tranche_*.deb`.
pub(crate) fn build(root: &Path) -> Result<()> {
    cargo(root, &["build", "--release", "--package", "tranched", "--package", "tranche"])?;
    let command = root.join("target/release/tranche");
    let pages = root.join("target/manual");
    fs::create_dir_all(&pages).with_context(|| format!("cannot make {}", pages.display()))?;
    run(Command::new(&command).arg("man").arg("--directory").arg(&pages))?;
    for (shell, file) in [("bash", "tranche.bash"), ("zsh", "_tranche"), ("fish", "tranche.fish")] {
        let script = Command::new(&command).args(["completions", shell]).output();
        let script = script.with_context(|| format!("cannot run {}", command.display()))?;
        ensure!(script.status.success(), "`tranche completions {shell}` failed");
        fs::write(pages.join(file), script.stdout).with_context(|| format!("cannot write {file}"))?;
    }
    if !Command::new("cargo").args(["deb", "--version"]).output().is_ok_and(|output| output.status.success())
    {
        cargo(root, &["install", "cargo-deb", "--locked", "--version", CARGO_DEB_VERSION])?;
    }
    cargo(root, &["deb", "--package", "tranched", "--no-build"])
}

/// Runs cargo in the tree's own target directory, wherever else the caller builds: the package's list of files names that.
fn cargo(root: &Path, args: &[&str]) -> Result<()> {
    run(Command::new("cargo").args(args).current_dir(root).env("CARGO_TARGET_DIR", root.join("target")))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
