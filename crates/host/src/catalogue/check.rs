//! Whether what the catalogue says of this host's GPUs is what their kernel shows.
//!
//! The kernel has the last word wherever the two differ; this is for people who keep the catalogue true.

use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::{Gpu, HostInventory};
use tranche_core::name::GpuKey;

use super::{Catalogue, Entry, Figure};
use crate::report;

/// Drivers tell a little less than is on the card: one part in so many is no difference.
const VRAM_TOLERANCE: u64 = 16;

impl Catalogue {
    /// Compares what a host shows with what is said of it here. Nothing is found where nothing is claimed.
    pub fn check(&self, observed: &HostInventory) -> Vec<Finding> {
        let look = |gpu: &Gpu| {
            let key = GpuKey { host: observed.host.clone(), address: gpu.address.clone() };
            let entry = match &gpu.address {
                tranche_core::name::GpuAddress::Pci(_) => self.find(&gpu.ids),
                tranche_core::name::GpuAddress::Virtual(name) => self.find_virtual(name),
            };
            match entry {
                Some(entry) => compare(&key, gpu, entry),
                None => vec![unknown(&key, gpu)],
            }
        };
        observed.gpus.values().flat_map(look).collect()
    }
}

fn compare(key: &GpuKey, gpu: &Gpu, entry: &Entry) -> Vec<Finding> {
    let mut found = Vec::new();
    let total = gpu.sriov.as_ref().map_or(0, |sriov| sriov.total_vfs);
    if let Some(claimed) = entry.total_vfs.as_ref().filter(|claimed| claimed.value != total) {
        found.push(differs(key, entry, "virtual functions", claimed, u64::from(total)));
    }
    if let (Some(claimed), Some(seen)) = (&entry.vram_mib, gpu.vram_mib)
        && claimed.value.abs_diff(seen) > claimed.value / VRAM_TOLERANCE
    {
        found.push(differs(key, entry, "MiB of video memory", claimed, seen));
    }
    let counts = entry.counts(entry.default_series.as_deref());
    let missing: Vec<String> = counts
        .iter()
        .filter(|(count, _)| !gpu.offers.is_empty() && gpu.offer(**count, None).is_none())
        .map(|(count, profile)| format!("{count} x {}", profile.name))
        .collect();
    if !missing.is_empty() {
        let message = format!("The driver of GPU {key} does not offer {}.", missing.join(", "));
        found.push(mismatch(key, Severity::Warning, message));
    }
    found
}

fn differs<T: std::fmt::Display>(
    key: &GpuKey,
    entry: &Entry,
    what: &str,
    claimed: &Figure<T>,
    seen: u64,
) -> Finding {
    let Figure { value, source } = claimed;
    let message = format!(
        "GPU {key} ({}) has {seen} {what} and not {value}, as the catalogue says ({}; confidence {:?}).",
        entry.model, source.what, source.confidence
    );
    mismatch(key, Severity::Warning, message)
}

fn unknown(key: &GpuKey, gpu: &Gpu) -> Finding {
    let message = format!("The catalogue does not know GPU {key} ({}).", gpu.ids);
    mismatch(key, Severity::Info, message)
}

fn mismatch(key: &GpuKey, severity: Severity, message: String) -> Finding {
    let hint = format!(
        "What the kernel shows is used. A file in {} can say it better for this model.",
        super::CATALOGUE_DIR
    );
    report::gpu_note(key, Code::CatalogueMismatch, severity, message, &hint)
}
