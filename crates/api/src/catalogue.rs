//! The catalogue on the wire: what is known of models of GPUs, each figure with where it comes from.
//!
//! The words are those of the catalogue's files. What vendors' interfaces and profiles are called is data here.

use serde::{Deserialize, Serialize};

/// What is known of one model: `GET /v1/catalogue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CatalogueEntry {
    /// Its name.
    pub model: String,
    /// The vendor's name for its generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// What it is recognised by: ids as `vendor:device` or with the subsystem's, or a name.
    #[serde(rename = "match")]
    pub matches: Vec<String>,
    /// A stand-in of the virtual lab, not a GPU.
    pub emulated: bool,
    /// The interface through which its driver makes partitions, as it is called in the catalogue's files.
    pub interface: String,
    /// How many GPUs a board of this model carries.
    pub gpus_per_board: u8,
    /// Video memory of one GPU, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_mib: Option<CatalogueFigure>,
    /// What of that its partitions can share, in MiB, where the driver takes quotas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_mib: Option<CatalogueFigure>,
    /// Virtual functions of one GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_vfs: Option<CatalogueFigure>,
    /// How many virtual functions its driver can be told to make when it is loaded, where that is how it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loads: Option<CatalogueCounts>,
    /// The window above 4 GiB that the firmware has to give it, in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mmio64_gib: Option<CatalogueFigure>,
    /// The series of profiles that is used unless another is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_series: Option<String>,
    /// The profiles that partitions can have.
    pub profiles: Vec<CatalogueProfile>,
}

/// A figure and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CatalogueFigure {
    /// The figure.
    pub value: u64,
    /// Where it comes from.
    pub source: CatalogueSource,
}

/// Numbers to choose from, and where they come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CatalogueCounts {
    /// The numbers.
    pub value: Vec<u16>,
    /// Where they come from.
    pub source: CatalogueSource,
}

/// Where figures come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CatalogueSource {
    /// The document, file or machine.
    pub what: String,
    /// How far it can be trusted: `hw` (seen on hardware), `doc`, `data` (a file of the vendor's driver), `inferred`.
    pub confidence: String,
}

/// A size that a partition can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CatalogueProfile {
    /// Its name without the model.
    pub name: String,
    /// The series that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// The vendor's number for it, which differs between driver branches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_id: Option<u32>,
    /// What it takes of the GPU's video memory, in MiB.
    pub size_mib: u64,
    /// What of that the guest can use, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usable_mib: Option<u64>,
    /// How many of them a GPU can have.
    pub max: u16,
    /// Displays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<u8>,
    /// The largest display, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution_max: Option<String>,
    /// The licences that allow it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub licences: Vec<String>,
    /// Where these figures come from.
    pub source: CatalogueSource,
}
