//! What takes long to make is made once: directories named by a hash of everything that went into them.
//!
//! An entry is built beside its place and renamed into it, under a lock, so that a build that was cut off leaves
//! nothing that looks finished, and two builds at once make one entry.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::Error;
use crate::command::not_started;

/// An entry that nobody used for this long is removed when a newer one of its kind is made.
const UNUSED_MAX: Duration = Duration::from_secs(14 * 24 * 3600);
/// How many hexadecimal digits of the hash name an entry.
const NAME_DIGITS: usize = 16;
/// Marks when an entry was last used, by its modification time.
const USED_STAMP: &str = ".used";

/// A directory of finished entries.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's own: `$XDG_CACHE_HOME/tranche-lab`, by default `~/.cache/tranche-lab`.
    pub(crate) fn of_user() -> Result<Self, Error> {
        let root = user_directory("XDG_CACHE_HOME", ".cache").join("tranche-lab");
        fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        Ok(Self { root })
    }

    /// Where things of their own naming are kept.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The place of the entry that `inputs` make, and whether it is there already.
    pub(crate) fn find(&self, kind: &str, inputs: &[&str]) -> Result<(PathBuf, bool), Error> {
        let path = self.root.join(format!("{kind}-{}", name_of(inputs)?));
        let found = path.is_dir();
        Ok((path, found))
    }

    /// The entry that `inputs` make: as found, or as `build` leaves it in the directory that it is given.
    pub(crate) fn entry(
        &self,
        kind: &str,
        inputs: &[&str],
        build: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let lock_path = self.root.join(format!("{kind}.lock"));
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| Error::io("lock", &lock_path)(errno.into()))?;
        let (path, found) = self.find(kind, inputs)?;
        if !found {
            self.remove_unfinished(kind);
            let work = tempfile::Builder::new()
                .prefix(&format!("{kind}.making-"))
                .tempdir_in(&self.root)
                .map_err(Error::io("create a directory in", &self.root))?;
            build(work.path())?;
            fs::rename(work.keep(), &path).map_err(Error::io("create", &path))?;
            self.remove_unused(kind, &path);
        }
        let stamp = path.join(USED_STAMP);
        File::create(&stamp).map_err(Error::io("write", &stamp))?;
        Ok(path)
    }

    /// What a build that was cut off left; with the lock held there is no other.
    fn remove_unfinished(&self, kind: &str) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("{kind}.making-")) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Failing to tidy up is no reason to fail: the next build tries again.
    fn remove_unused(&self, kind: &str, keep: &Path) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let of_kind = entry.file_name().to_string_lossy().starts_with(&format!("{kind}-"));
            if of_kind && path != keep && unused(&path) {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}

/// A directory of the user by the XDG rules: from the environment, or under the home directory.
pub(crate) fn user_directory(variable: &str, under_home: &str) -> PathBuf {
    match std::env::var_os(variable).map(PathBuf::from) {
        Some(path) if path.is_absolute() => path,
        _ => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(under_home),
    }
}

fn unused(entry: &Path) -> bool {
    let used = fs::metadata(entry.join(USED_STAMP)).and_then(|stamp| stamp.modified());
    used.is_ok_and(|used| SystemTime::now().duration_since(used).is_ok_and(|age| age > UNUSED_MAX))
}

/// The first digits of the SHA-256 of the inputs, each preceded by its length so that no two lists read the same.
fn name_of(inputs: &[&str]) -> Result<String, Error> {
    let mut command = Command::new("sha256sum");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| not_started(&command, source))?;
    let path = Path::new("sha256sum");
    if let Some(mut stdin) = child.stdin.take() {
        for input in inputs {
            write!(stdin, "{} {input}", input.len()).map_err(Error::io("write to", path))?;
        }
    }
    let output = child.wait_with_output().map_err(Error::io("read from", path))?;
    Ok(String::from_utf8_lossy(&output.stdout).chars().take(NAME_DIGITS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache { root: directory.path().to_owned() };
        (directory, cache)
    }

    #[test]
    fn an_entry_is_made_once_and_found_again() {
        let (_directory, cache) = cache();
        let made = cache
            .entry("disk", &["a", "b"], |work| {
                fs::write(work.join("x"), "1").map_err(Error::io("write", work))
            })
            .expect("made");
        let found = cache.entry("disk", &["a", "b"], |_| panic!("it is there already")).expect("found");
        assert_eq!(made, found);
        assert_eq!(fs::read_to_string(found.join("x")).expect("its file"), "1");
    }

    #[test]
    fn other_inputs_make_another_entry() {
        let (_directory, cache) = cache();
        let one = cache.entry("disk", &["ab", "c"], |_| Ok(())).expect("made");
        let other = cache.entry("disk", &["a", "bc"], |_| Ok(())).expect("made");
        assert_ne!(one, other);
    }

    #[test]
    fn a_build_that_fails_leaves_no_entry() {
        let (directory, cache) = cache();
        let failed = cache.entry("disk", &["a"], |_| Err(Error::BadName { name: "x".into() }));
        assert!(failed.is_err());
        let left: Vec<_> =
            fs::read_dir(directory.path()).expect("a listing").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["disk.lock"]);
    }
}
