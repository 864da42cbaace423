//! The types as NVIDIA's library tells them, and what the catalogue says corrected by them.
//!
//! The catalogue proposes, the driver disposes: how many of a type there can be is the driver's to say, and a GPU that the
//! catalogue does not know can be split into what the driver says. Without the library the catalogue serves.

use std::borrow::Cow;
use std::collections::BTreeSet;

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::name::GpuKey;

use crate::catalogue::{Confidence, Entry, Interface, Profile, Source};
use crate::monitor::PartitionType;
use crate::report;

/// The series of vGPUs that is used unless another is asked for.
const DEFAULT_SERIES: &str = "Q";
/// The letters at the end of types, each a series.
const SERIES: [&str; 4] = ["A", "B", "C", "Q"];

/// The catalogue's entry with the driver's figures in place of its own; where there is none, what the driver says alone.
pub(super) fn corrected<'a>(entry: Option<&'a Entry>, told: &[PartitionType]) -> Option<Cow<'a, Entry>> {
    let Some(entry) = entry else { return (!told.is_empty()).then(|| Cow::Owned(unlisted(told))) };
    let mut corrected = Cow::Borrowed(entry);
    for (index, profile) in entry.profiles.iter().enumerate() {
        if let Some(kind) = find(told, &profile.name)
            && (kind.max != profile.max || Some(kind.id) != profile.type_id)
        {
            let profile = &mut corrected.to_mut().profiles[index];
            (profile.max, profile.type_id) = (kind.max, Some(kind.id));
        }
    }
    Some(corrected)
}

/// The names of all types that the driver knows; none where it did not say.
pub(super) fn names(told: &[PartitionType]) -> Option<BTreeSet<String>> {
    (!told.is_empty()).then(|| told.iter().map(|kind| kind.profile.clone()).collect())
}

/// Where the driver contradicts the catalogue about how many of a type there can be.
pub(super) fn contradictions(key: &GpuKey, entry: Option<&Entry>, told: &[PartitionType]) -> Option<Finding> {
    let contradiction = |profile: &Profile| {
        let kind = find(told, &profile.name).filter(|kind| kind.max != profile.max)?;
        Some(format!("{} of {} instead of {}", kind.max, kind.profile, profile.max))
    };
    let found: Vec<String> = entry?.profiles.iter().filter_map(contradiction).collect();
    if found.is_empty() {
        return None;
    }
    let found = say::list(&found);
    let message =
        format!("The driver of GPU {key} allows for other numbers than the catalogue says: {found}.");
    let hint = "The driver has the last word. 'tranche catalogue show' tells where the catalogue has its figures from.";
    Some(report::gpu_note(key, Code::SizeMismatch, Severity::Info, message, hint))
}

/// What the driver says, as an entry of the catalogue.
fn unlisted(told: &[PartitionType]) -> Entry {
    let profile = |kind: &PartitionType| {
        let series = SERIES.iter().find(|letter| kind.profile.ends_with(**letter))?;
        Some(Profile {
            name: kind.profile.clone(),
            series: Some((*series).to_owned()),
            type_id: Some(kind.id),
            size_mib: kind.memory_mib,
            usable_mib: None,
            max: kind.max,
            heads: None,
            resolution_max: None,
            licences: Vec::new(),
            source: Source { what: "NVIDIA's library on this host".to_owned(), confidence: Confidence::Hw },
        })
    };
    Entry {
        model: String::new(),
        family: None,
        matches: Vec::new(),
        emulated: false,
        interface: Interface::NvidiaVgpu,
        gpus_per_board: 1,
        vram_mib: None,
        shared_mib: None,
        total_vfs: None,
        loads: None,
        mmio64_gib: None,
        default_series: Some(DEFAULT_SERIES.to_owned()),
        profiles: told.iter().filter_map(profile).collect(),
    }
}

fn find<'a>(told: &'a [PartitionType], profile: &str) -> Option<&'a PartitionType> {
    told.iter().find(|kind| kind.profile == profile)
}
