//! The text files of the working tree, as the tidy checks see them.
//!
//! Walked on the file system and not asked from git, so that an unpacked archive can be checked as well.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Directories that hold what was built or fetched, not what was written.
const SKIPPED: &[&str] = &[".git", ".hypothesis", ".lab", "node_modules", "target"];
/// A longer file is data, not text that somebody reads.
const TEXT_LEN_MAX_BYTES: u64 = 1 << 20;

/// The text files of a working tree.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The files, in the order of their paths.
    pub(crate) files: Vec<File>,
    /// The paths of all else: pictures, and what is too long to be read.
    pub(crate) others: Vec<String>,
}

/// A text file.
#[derive(Debug)]
pub(crate) struct File {
    /// Its path below the root, with `/` between the parts.
    pub(crate) path: String,
    /// What stands in it.
    pub(crate) text: String,
}

impl Tree {
    /// Reads every text file below `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.read_dir(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    /// The text of one file, if it is there.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }

    /// The files whose paths end so.
    pub(crate) fn ending<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(move |file| file.path.ends_with(suffix))
    }

    fn read_dir(&mut self, dir: &Path, prefix: &str) -> Result<()> {
        let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().with_context(|| format!("cannot look at {path}"))?;
            // In a further working tree of git's, .git is a file.
            if SKIPPED.contains(&name.as_str()) {
                continue;
            }
            if kind.is_dir() {
                self.read_dir(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() && entry.metadata()?.len() <= TEXT_LEN_MAX_BYTES {
                let bytes = std::fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
                match String::from_utf8(bytes) {
                    Ok(text) => self.files.push(File { path, text }),
                    Err(_) => self.others.push(path),
                }
            } else if kind.is_file() {
                self.others.push(path);
            }
        }
        Ok(())
    }
}

/// The directory of the workspace that this program was built from.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest_dir.parent().context("xtask lies in the workspace")?;
    Ok(root.to_path_buf())
}
