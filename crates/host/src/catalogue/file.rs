//! The catalogue's file format: strict TOML, sources named once and referred to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use toml::Spanned;
use tranche_core::spec::PARTITIONS_PER_GPU_MAX;

use super::{Entry, Figure, Interface, MatchKey, Profile, Source};

/// The largest catalogue file, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// The most catalogue files in a directory.
const FILES_MAX: usize = 256;

/// Why a catalogue file was left out.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file or directory cannot be read.
    #[error("The catalogue file {path} cannot be read")]
    Read {
        /// The file or directory.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file or directory is larger than a catalogue can be.
    #[error("{path} is larger than {limit}")]
    TooLarge {
        /// The file or directory.
        path: Utf8PathBuf,
        /// The limit, in words.
        limit: &'static str,
    },
    /// The file is no TOML, or has fields or values that a catalogue has not.
    #[error("The catalogue file {path} is not understood in line {line}")]
    Syntax {
        /// The file.
        path: Utf8PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The file is well-formed and contradicts itself.
    #[error("The catalogue file {path} is wrong in line {line}: {what}")]
    Meaning {
        /// The file.
        path: Utf8PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
}

/// The `*.toml` files in a directory, sorted.
pub(super) fn files_in(dir: &Utf8Path) -> Result<Vec<Utf8PathBuf>, CatalogueError> {
    let failed = |source| CatalogueError::Read { path: dir.to_owned(), source };
    let entries = match dir.read_dir_utf8() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.into_path();
        if path.extension() == Some("toml") {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(CatalogueError::TooLarge { path: dir.to_owned(), limit: "256 files" });
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Reads one file.
pub(super) fn read(path: &Utf8Path) -> Result<Vec<Entry>, CatalogueError> {
    let failed = |source| CatalogueError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_LEN_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(CatalogueError::TooLarge { path: path.to_owned(), limit: "1 MiB" });
    }
    parse(path, &text)
}

/// Understands one file's text.
pub(super) fn parse(path: &Utf8Path, text: &str) -> Result<Vec<Entry>, CatalogueError> {
    let file: File = toml::from_str(text).map_err(|source| CatalogueError::Syntax {
        path: path.to_owned(),
        line: line_at(text, source.span().map_or(0, |span| span.start)),
        source: Box::new(source),
    })?;
    let context = Context { path, text, sources: file.sources };
    let mut seen = BTreeSet::new();
    file.gpu.into_iter().map(|raw| context.entry(raw, &mut seen)).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    sources: BTreeMap<String, Source>,
    gpu: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    model: Spanned<String>,
    family: Option<String>,
    #[serde(rename = "match")]
    matches: Vec<Spanned<MatchKey>>,
    #[serde(default)]
    emulated: bool,
    interface: Interface,
    #[serde(default = "one")]
    gpus_per_board: u8,
    vram_mib: Option<RawFigure<u64>>,
    shared_mib: Option<RawFigure<u64>>,
    total_vfs: Option<RawFigure<u16>>,
    loads: Option<RawFigure<Vec<u16>>>,
    mmio64_gib: Option<RawFigure<u32>>,
    default_series: Option<String>,
    #[serde(default)]
    profiles: Vec<RawProfile>,
}

fn one() -> u8 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFigure<T> {
    value: T,
    source: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    name: Spanned<String>,
    series: Option<String>,
    type_id: Option<u32>,
    size_mib: u64,
    usable_mib: Option<u64>,
    max: u16,
    heads: Option<u8>,
    resolution_max: Option<String>,
    #[serde(default)]
    licences: Vec<String>,
    source: Spanned<String>,
}

struct Context<'a> {
    path: &'a Utf8Path,
    text: &'a str,
    sources: BTreeMap<String, Source>,
}

impl Context<'_> {
    fn entry(&self, raw: RawEntry, seen: &mut BTreeSet<MatchKey>) -> Result<Entry, CatalogueError> {
        if raw.matches.is_empty() {
            return Err(self.wrong(&raw.model, "an entry needs at least one id in 'match'".to_owned()));
        }
        for key in &raw.matches {
            if !seen.insert(key.get_ref().clone()) {
                return Err(self.wrong(key, format!("{} is matched by two entries", key.get_ref())));
            }
        }
        Ok(Entry {
            model: raw.model.into_inner(),
            family: raw.family,
            matches: raw.matches.into_iter().map(Spanned::into_inner).collect(),
            emulated: raw.emulated,
            interface: raw.interface,
            gpus_per_board: raw.gpus_per_board,
            vram_mib: self.figure(raw.vram_mib)?,
            shared_mib: self.figure(raw.shared_mib)?,
            total_vfs: self.figure(raw.total_vfs)?,
            loads: self.figure(raw.loads)?,
            mmio64_gib: self.figure(raw.mmio64_gib)?,
            default_series: raw.default_series,
            profiles: raw
                .profiles
                .into_iter()
                .map(|profile| self.profile(profile))
                .collect::<Result<_, _>>()?,
        })
    }

    fn figure<T>(&self, raw: Option<RawFigure<T>>) -> Result<Option<Figure<T>>, CatalogueError> {
        raw.map(|raw| Ok(Figure { value: raw.value, source: self.source(&raw.source)? })).transpose()
    }

    fn profile(&self, raw: RawProfile) -> Result<Profile, CatalogueError> {
        if !(1..=PARTITIONS_PER_GPU_MAX).contains(&raw.max) {
            let what = format!("'max' is {} and has to be from 1 to {PARTITIONS_PER_GPU_MAX}", raw.max);
            return Err(self.wrong(&raw.name, what));
        }
        Ok(Profile {
            source: self.source(&raw.source)?,
            name: raw.name.into_inner(),
            series: raw.series,
            type_id: raw.type_id,
            size_mib: raw.size_mib,
            usable_mib: raw.usable_mib,
            max: raw.max,
            heads: raw.heads,
            resolution_max: raw.resolution_max,
            licences: raw.licences,
        })
    }

    fn source(&self, name: &Spanned<String>) -> Result<Source, CatalogueError> {
        let source = self.sources.get(name.get_ref()).cloned();
        source
            .ok_or_else(|| self.wrong(name, format!("no source is called {:?} in this file", name.get_ref())))
    }

    fn wrong<T>(&self, at: &Spanned<T>, what: String) -> CatalogueError {
        CatalogueError::Meaning {
            path: self.path.to_owned(),
            line: line_at(self.text, at.span().start),
            what,
        }
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
