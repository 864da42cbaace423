//! Reads a declaration from YAML, strictly: within limits, no repeated keys, no unknown fields.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tranche_api::limits::BODY_LEN_MAX;
use tranche_core::declare::Declaration;

/// Reads a declaration; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<Declaration, DeclarationError> {
    read_as(path, "declaration")
}

/// Reads what a YAML file says, in the same way. `what` is what people call it.
pub(crate) fn read_as<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T, DeclarationError> {
    let from_stdin = path == Path::new("-");
    let name = if from_stdin { PathBuf::from("standard input") } else { path.to_owned() };
    let unreadable = |source| DeclarationError::Unreadable { what, path: name.clone(), source };
    let mut reader: Box<dyn Read> = if from_stdin {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(unreadable)?)
    };
    // One byte more than allowed tells "too long" from "just fits", whatever the file's size claims to be.
    let mut bytes = Vec::new();
    reader.by_ref().take(BODY_LEN_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > BODY_LEN_MAX {
        return Err(DeclarationError::TooLong { what, path: name });
    }
    serde_saphyr::from_slice_with_options(&bytes, within_limits()).map_err(|error| {
        let text = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
        DeclarationError::Malformed { what, path: name, source: NotYaml(text) }
    })
}

/// Aliases can make a small file large: what they stand for counts as often as they stand.
fn within_limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_aliases: ALIASES_MAX,
            max_documents: 1,
            max_depth: DEPTH_MAX,
            max_total_scalar_bytes: BODY_LEN_MAX,
            max_recorded_anchor_bytes: BODY_LEN_MAX,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
    }
}

/// The most aliases in a declaration.
const ALIASES_MAX: usize = 10_000;
/// The deepest nesting; a declaration needs six levels.
const DEPTH_MAX: usize = 32;

/// What the parser says, in its words for users.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotYaml(String);

/// Why a file is no declaration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeclarationError {
    #[error("The {what} in {} cannot be read.", path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("The {what} in {} is longer than {BODY_LEN_MAX} bytes.", path.display())]
    TooLong { what: &'static str, path: PathBuf },
    #[error("The {what} in {} is not valid.", path.display())]
    Malformed { what: &'static str, path: PathBuf, source: NotYaml },
}

impl DeclarationError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Unreadable { .. } => "Check the path and its permissions.",
            Self::TooLong { .. } => "Split it: what a declaration does not name is left alone.",
            Self::Malformed { what: "scenario", .. } => {
                "The fields and an example are in simulator.md of the documentation."
            }
            Self::Malformed { .. } => "The fields and an example are in declarative.md of the documentation.",
        }
        .to_owned()
    }
}
