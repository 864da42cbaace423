//! cloud-init's disk: user data for a guest's first boot, as a NoCloud image (cloud-init: reference/datasources/nocloud).
//!
//! User data may hold secrets. Everything here is readable by its owner alone; libvirt gives the image to QEMU's user
//! while the VM runs. The directory itself can be passed through, or QEMU would not reach the image.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::process::{Command, Output, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::name::{VmId, VmName};

/// Programs that make ISO images and take the same options, with what each needs before them.
const PROGRAMS: &[(&str, &[&str])] =
    &[("xorriso", &["-as", "mkisofs"]), ("genisoimage", &[]), ("mkisofs", &[])];

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeedError {
    /// A file could not be written or removed.
    #[error("{path} could not be written")]
    File {
        /// Which one.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// None of the programs is there.
    #[error("no program that makes ISO images is installed")]
    NoProgram,
    /// The program failed.
    #[error("{program} failed: {words}")]
    Program {
        /// Which one.
        program: &'static str,
        /// Its last words.
        words: String,
    },
}

impl SeedError {
    /// The finding about it.
    pub(super) fn finding(&self, vm: &VmName) -> Box<Finding> {
        let (cause, hint) = match self {
            Self::File { path, source } => {
                (format!(": {source}"), format!("Is there room and permission for {path}?"))
            }
            Self::NoProgram => (String::new(), "Install the package 'xorriso'.".to_owned()),
            Self::Program { .. } => (String::new(), "Is there room on the disk?".to_owned()),
        };
        let message = format!("The cloud-init disk of VM {vm} cannot be kept: {self}{cause}.");
        Box::new(finding(Code::LibvirtRefused, Severity::Error, Subject::Vm(vm.clone()), message, hint))
    }
}

/// The cloud-init disks of this host's VMs.
#[derive(Debug)]
pub(super) struct Seeds {
    dir: Utf8PathBuf,
}

impl Seeds {
    /// Disks in a directory, which is made when it is first needed.
    pub(super) fn new(dir: Utf8PathBuf) -> Self {
        Self { dir }
    }

    /// Makes a VM's disk, in place of any that was there.
    pub(super) fn make(&self, vm: &VmName, id: VmId, user_data: &str) -> Result<Utf8PathBuf, SeedError> {
        make_dir(&self.dir, 0o711)?;
        let work = self.dir.join(format!(".{vm}.new"));
        remove_dir(&work)?;
        let content = work.join("content");
        make_dir(&work, 0o700)?;
        make_dir(&content, 0o700)?;
        write(&content.join("user-data"), user_data)?;
        // The instance id is the VM's UUID: first-boot work is done once a VM, not once a boot.
        write(&content.join("meta-data"), &format!("instance-id: '{id}'\nlocal-hostname: '{vm}'\n"))?;
        let (image, place) = (work.join("seed.iso"), self.place(vm));
        make_image(&content, &image)?;
        fs::set_permissions(&image, Permissions::from_mode(0o600)).map_err(failed(&image))?;
        fs::rename(&image, &place).map_err(failed(&place))?;
        remove_dir(&work)?;
        Ok(place)
    }

    /// Removes a VM's disk, if it has one.
    pub(super) fn remove(&self, vm: &VmName) -> Result<(), SeedError> {
        let place = self.place(vm);
        unless_missing(fs::remove_file(&place)).map_err(failed(&place))
    }

    fn place(&self, vm: &VmName) -> Utf8PathBuf {
        self.dir.join(format!("{vm}.iso"))
    }
}

fn make_image(content: &Utf8Path, image: &Utf8Path) -> Result<(), SeedError> {
    for (program, first) in PROGRAMS {
        let output = Command::new(program)
            .args(*first)
            .args(["-quiet", "-volid", "cidata", "-joliet", "-rational-rock", "-output", image.as_str()])
            .arg(content.as_str())
            .stdin(Stdio::null())
            .output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SeedError::File { path: image.to_owned(), source }),
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => return Err(SeedError::Program { program, words: last_words(&output) }),
        }
    }
    Err(SeedError::NoProgram)
}

fn last_words(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map_or_else(|| output.status.to_string(), str::to_owned)
}

fn make_dir(path: &Utf8Path, mode: u32) -> Result<(), SeedError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed(path))
}

fn remove_dir(path: &Utf8Path) -> Result<(), SeedError> {
    unless_missing(fs::remove_dir_all(path)).map_err(failed(path))
}

fn write(path: &Utf8Path, text: &str) -> Result<(), SeedError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed(path))
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn failed(path: &Utf8Path) -> impl Fn(io::Error) -> SeedError {
    move |source| SeedError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn seeds() -> (tempfile::TempDir, Seeds) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("seeds")).unwrap();
        (dir, Seeds::new(path))
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let (_dir, seeds) = seeds();
        fs::write(&seeds.dir, "a file where the directory belongs").unwrap();
        let vm = "desk".parse().unwrap();
        let error = seeds.make(&vm, VmId(Uuid::nil()), "#cloud-config\n").unwrap_err();
        assert!(error.finding(&vm).message.contains(seeds.dir.as_str()));
    }

    #[test]
    fn a_disk_that_is_not_there_is_removed_already() {
        let (_dir, seeds) = seeds();
        assert!(seeds.remove(&"desk".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_last_line_that_says_something_is_quoted() {
        let output = Command::new("/bin/sh")
            .args(["-c", "echo one >&2; echo two >&2; echo >&2; exit 3"])
            .output()
            .unwrap();
        assert_eq!(last_words(&output), "two");
        let silent = Command::new("/bin/false").output().unwrap();
        assert_eq!(last_words(&silent), "exit status: 1");
    }
}
