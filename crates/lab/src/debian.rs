//! Debian trees by mmdebstrap, from the mirror that this machine's own apt sources name.

use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::command::{read_output, run_logged};

/// What nodes and guests run: its QEMU, libvirt and kernel are the ones that the lab is written for.
pub(crate) const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names another mirror than apt's own.
const MIRROR_VARIABLE: &str = "TRANCHE_LAB_MIRROR";

/// What to make of which packages. Paths in hooks are relative to the directory that it is made in.
#[derive(Debug)]
pub(crate) struct Bootstrap<'a> {
    /// mmdebstrap's variant: `extract` only unpacks, `apt` installs.
    pub(crate) variant: &'a str,
    pub(crate) packages: &'a [&'a str],
    /// More of mmdebstrap's options with their values, as in `--customize-hook=...`.
    pub(crate) options: &'a [&'a str],
    /// The tar file to write, or none when the hooks take out what is wanted.
    pub(crate) tar: Option<&'a str>,
}

/// Makes a tree, as root or in a user namespace, whichever the user can.
pub(crate) fn bootstrap(plan: &Bootstrap<'_>, work: &Path, log: &Path) -> Result<(), Error> {
    let mut command = Command::new("mmdebstrap");
    command
        .current_dir(work)
        // Not /tmp, which Debian 13 mounts in memory and without device files.
        .env("TMPDIR", "/var/tmp")
        .arg(format!("--variant={}", plan.variant))
        .arg(format!("--keyring={KEYRING}"))
        .arg(format!("--include={}", plan.packages.join(",")))
        .args(plan.options)
        .arg(if plan.tar.is_some() { "--format=tar" } else { "--format=null" })
        .args([SUITE, plan.tar.unwrap_or("/dev/null"), &format!("deb {} {SUITE} main", mirror()?)]);
    run_logged(&mut command, log)
}

fn mirror() -> Result<String, Error> {
    if let Ok(mirror) = std::env::var(MIRROR_VARIABLE) {
        return Ok(mirror);
    }
    let release = codename(&std::fs::read_to_string("/etc/os-release").unwrap_or_default());
    let listing = read_output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        &format!("Release: {release}"),
    ]))?;
    listing.lines().next().map(str::to_owned).ok_or(Error::NoMirror { release })
}

fn codename(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::codename;

    #[test]
    fn the_codename_is_read_with_and_without_quotes() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), "bookworm");
        assert_eq!(codename("VERSION_CODENAME=\"trixie\"\n"), "trixie");
        assert_eq!(codename("ID=arch\n"), "");
    }
}
