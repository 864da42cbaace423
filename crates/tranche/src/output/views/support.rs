//! A support bundle: what is in it, and what is not.

use std::path::PathBuf;

use serde::Serialize;

use super::Show;

/// An archive that was written.
#[derive(Debug, Serialize)]
pub(crate) struct Bundle {
    pub(crate) file: PathBuf,
    pub(crate) bytes: usize,
    pub(crate) parts: Vec<Part>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// A file in it.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    /// Its path in the archive, below the archive's one directory.
    pub(crate) name: String,
    /// Whom it was had from.
    pub(crate) source: String,
    pub(crate) bytes: usize,
    /// What to know about it: that it was cut, or what its source remarked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remark: Option<String>,
}

/// A file that could not be had.
#[derive(Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) why: String,
}

impl Show for Bundle {
    /// The path alone, so that scripts can go on with it.
    fn as_text(&self) -> String {
        format!("{}\n", self.file.display())
    }
}
