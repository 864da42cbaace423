//! A compressed archive in memory, in which every file lies in one directory and is its owner's alone.

use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;

/// An archive that is being made.
#[derive(Debug)]
pub(super) struct Archive {
    dir: String,
    mtime: u64,
    tar: TarBuilder,
}

/// It has no `Debug` of its own.
struct TarBuilder(tar::Builder<GzEncoder<Vec<u8>>>);

impl std::fmt::Debug for TarBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarBuilder").finish_non_exhaustive()
    }
}

impl Archive {
    /// An archive with nothing in it but its directory.
    pub(super) fn new(dir: &str, at: jiff::Timestamp) -> io::Result<Self> {
        let tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        let mtime = u64::try_from(at.as_second()).unwrap_or_default();
        let mut archive = Self { dir: dir.to_owned(), mtime, tar: TarBuilder(tar) };
        let mut header = archive.header(0o700, 0);
        header.set_entry_type(tar::EntryType::Directory);
        archive.tar.0.append_data(&mut header, format!("{dir}/"), io::empty())?;
        Ok(archive)
    }

    /// Adds a file.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = self.header(0o600, bytes.len() as u64);
        self.tar.0.append_data(&mut header, format!("{}/{name}", self.dir), bytes)
    }

    /// The archive's bytes.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        self.tar.0.into_inner()?.finish()
    }

    fn header(&self, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.mtime);
        header.set_uid(0);
        header.set_gid(0);
        header
    }
}
