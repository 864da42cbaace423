//! What is known of GPUs before one is looked at: names, memory, profiles, and where each figure comes from.
//!
//! The catalogue proposes, the kernel disposes: valid counts of plain virtual functions and of mediated devices are
//! read from sysfs, those of NVIDIA's vGPUs are corrected by what its driver says, and what the catalogue says never
//! overrules that. Figures carry their source and how far it can be
//! trusted, so that a reader can tell a measurement from a guess.
//!
//! One file is compiled in. Files under `/etc/tranche/catalogue.d` add to it; a file that is not understood to the last
//! field is left out whole, and named.

mod check;
mod file;

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tranche_core::name::{DeviceName, PciIds};

pub use self::file::CatalogueError;

/// Where the files that extend the catalogue lie on a real host.
pub const CATALOGUE_DIR: &str = "/etc/tranche/catalogue.d";

const COMPILED_IN: &str = include_str!("../data/catalogue.toml");
const COMPILED_IN_NAME: &str = "catalogue.toml (compiled in)";

/// All entries.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    by_key: BTreeMap<MatchKey, Arc<Entry>>,
}

impl Catalogue {
    /// The entries that are compiled in.
    pub fn builtin() -> Self {
        let mut catalogue = Self::default();
        let entries = file::parse(Utf8Path::new(COMPILED_IN_NAME), COMPILED_IN);
        catalogue
            .add(entries.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error))));
        catalogue
    }

    /// The entries that are compiled in and those of the `*.toml` files in a directory, in the order of their names.
    ///
    /// A file that cannot be read or understood is left out and named in the second part of the result. A directory
    /// that does not exist is an empty one.
    pub fn open(dir: &Utf8Path) -> (Self, Vec<CatalogueError>) {
        let mut catalogue = Self::builtin();
        let mut errors = Vec::new();
        match file::files_in(dir) {
            Ok(files) => {
                for path in files {
                    match file::read(&path) {
                        Ok(entries) => catalogue.add(entries),
                        Err(error) => errors.push(error),
                    }
                }
            }
            Err(error) => errors.push(error),
        }
        (catalogue, errors)
    }

    /// Adds the entries of one text, as if it were a file of that name.
    ///
    /// # Errors
    /// When the text is not a catalogue; the error names the line.
    pub fn extend(&mut self, name: &Utf8Path, text: &str) -> Result<(), CatalogueError> {
        self.add(file::parse(name, text)?);
        Ok(())
    }

    /// The entry for a PCI function: the most specific one that matches.
    pub fn find(&self, ids: &PciIds) -> Option<&Entry> {
        let of_subsystem = MatchKey::Subsystem(*ids);
        let of_device = MatchKey::Device { vendor: ids.vendor, device: ids.device };
        self.by_key.get(&of_subsystem).or_else(|| self.by_key.get(&of_device)).map(|entry| &**entry)
    }

    /// The entry for a parent of mediated devices that is no PCI device.
    pub fn find_virtual(&self, name: &DeviceName) -> Option<&Entry> {
        self.by_key.get(&MatchKey::Virtual(name.clone())).map(|entry| &**entry)
    }

    /// Whether any entry is for this vendor and device, whatever the subsystem.
    pub(crate) fn names_device(&self, vendor: u16, device: u16) -> bool {
        let lowest = MatchKey::Subsystem(PciIds { vendor, device, subvendor: 0, subdevice: 0 });
        let highest =
            MatchKey::Subsystem(PciIds { vendor, device, subvendor: u16::MAX, subdevice: u16::MAX });
        self.by_key.contains_key(&MatchKey::Device { vendor, device })
            || self.by_key.range(lowest..=highest).next().is_some()
    }

    /// Every entry once, by model.
    pub fn entries(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.by_key.values().map(|entry| &**entry).collect();
        entries.sort_by(|a, b| (&a.model, &a.matches).cmp(&(&b.model, &b.matches)));
        entries.dedup_by(|a, b| std::ptr::eq(*a, *b));
        entries
    }

    fn add(&mut self, entries: Vec<Entry>) {
        for entry in entries.into_iter().map(Arc::new) {
            for key in &entry.matches {
                self.by_key.insert(key.clone(), Arc::clone(&entry));
            }
        }
    }
}

/// What is known of one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name.
    pub model: String,
    /// The vendor's name for its generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// What it is recognised by.
    #[serde(rename = "match")]
    pub matches: Vec<MatchKey>,
    /// A stand-in of the virtual lab, not a GPU.
    pub emulated: bool,
    /// The interface through which its driver makes partitions.
    pub interface: Interface,
    /// How many GPUs a board of this model carries.
    pub gpus_per_board: u8,
    /// Video memory of one GPU, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram_mib: Option<Figure<u64>>,
    /// What of that its partitions can share, in MiB, where the driver takes quotas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_mib: Option<Figure<u64>>,
    /// Virtual functions of one GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_vfs: Option<Figure<u16>>,
    /// How many virtual functions its driver can be told to make when it is loaded, where that is how it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loads: Option<Figure<Vec<u16>>>,
    /// The window above 4 GiB that the firmware has to give it, in GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmio64_gib: Option<Figure<u32>>,
    /// The series of profiles that is used unless another is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_series: Option<String>,
    /// The profiles that partitions can have.
    pub profiles: Vec<Profile>,
}

impl Entry {
    /// The partition counts of a series, ascending, each with its profile: the most partitions of each size, where two
    /// sizes allow the same number the larger one.
    pub fn counts(&self, series: Option<&str>) -> BTreeMap<u16, &Profile> {
        let mut counts: BTreeMap<u16, &Profile> = BTreeMap::new();
        for profile in self.profiles.iter().filter(|profile| profile.series.as_deref() == series) {
            let best = counts.entry(profile.max).or_insert(profile);
            if best.size_mib < profile.size_mib {
                *best = profile;
            }
        }
        counts
    }

    /// Video memory that partitions can share, in MiB, where it is known.
    pub(crate) fn shared_vram_mib(&self) -> Option<u64> {
        self.shared_mib.as_ref().map(|figure| figure.value)
    }

    /// The profile of that name.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }
}

/// The interface through which a driver makes partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    /// `sriov_numvfs`, and virtual functions that go to VMs as they are.
    PlainVf,
    /// Mediated devices of the function itself.
    Mdev,
    /// Virtual functions that are there as many as a parameter of the driver's module says.
    ModuleParameter,
    /// None: whole or not at all.
    Whole,
    /// NVIDIA's vGPU driver: `sriov-manage`, then a vGPU type for each virtual function. `sriov_numvfs` refuses.
    NvidiaVgpu,
}

/// A size that a partition can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Its name without the model: `4Q`.
    pub name: String,
    /// The series that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// The vendor's number for it. Numbers differ between driver branches; names do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_id: Option<u32>,
    /// What it takes of the GPU's video memory, in MiB.
    pub size_mib: u64,
    /// What of that the guest can use, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable_mib: Option<u64>,
    /// How many of them a GPU can have.
    pub max: u16,
    /// Displays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<u8>,
    /// The largest display, in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution_max: Option<String>,
    /// The licences that allow it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub licences: Vec<String>,
    /// Where these figures come from.
    pub source: Source,
}

/// A figure and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Figure<T> {
    /// The figure.
    pub value: T,
    /// Where it comes from.
    pub source: Source,
}

/// Where figures come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The document, file or machine.
    pub what: String,
    /// How far it can be trusted.
    pub confidence: Confidence,
}

/// How far a figure can be trusted, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// Seen on hardware.
    Hw,
    /// Stated in the vendor's documentation.
    Doc,
    /// Taken from a data file of the vendor's driver.
    Data,
    /// Concluded from other figures.
    Inferred,
}

/// What an entry is recognised by, least specific first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatchKey {
    /// `vendor:device`.
    Device {
        /// The vendor.
        vendor: u16,
        /// The device.
        device: u16,
    },
    /// `vendor:device:subvendor:subdevice`.
    Subsystem(PciIds),
    /// The name of a parent of mediated devices that is no PCI device.
    Virtual(DeviceName),
}

impl std::fmt::Display for MatchKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device { vendor, device } => write!(f, "{vendor:04x}:{device:04x}"),
            Self::Subsystem(ids) => ids.fmt(f),
            Self::Virtual(name) => name.fmt(f),
        }
    }
}

impl std::str::FromStr for MatchKey {
    type Err = tranche_core::name::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.bytes().filter(|byte| *byte == b':').count() {
            0 => text.parse().map(Self::Virtual),
            1 => {
                let ids: PciIds = format!("{text}:0000:0000").parse()?;
                Ok(Self::Device { vendor: ids.vendor, device: ids.device })
            }
            _ => text.parse().map(Self::Subsystem),
        }
    }
}

impl Serialize for MatchKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MatchKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The path of a file that was left out, for messages.
impl CatalogueError {
    /// The file.
    pub fn path(&self) -> &Utf8PathBuf {
        match self {
            Self::Read { path, .. } | Self::TooLarge { path, .. } => path,
            Self::Syntax { path, .. } | Self::Meaning { path, .. } => path,
        }
    }
}
