//! The catalogue: a table of models, and a sheet of each with where its figures come from.

use serde::Serialize;
use tranche_api::catalogue::{CatalogueCounts, CatalogueEntry, CatalogueFigure, CatalogueProfile};

use super::super::table::{rows, sheet};
use super::super::text;
use super::Show;

/// Models in full.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct CatalogueSheets(pub(crate) Vec<CatalogueEntry>);

impl Show for [CatalogueEntry] {
    fn as_text(&self) -> String {
        let figure = |figure: &Option<CatalogueFigure>| figure.as_ref().map(|figure| figure.value);
        let row = |entry: &CatalogueEntry| {
            vec![
                entry.model.clone(),
                entry.matches.join(", "),
                figure(&entry.vram_mib).map(text::size).unwrap_or_default(),
                entry.interface.clone(),
                figure(&entry.total_vfs).map(|total| total.to_string()).unwrap_or_default(),
                if entry.profiles.is_empty() { String::new() } else { entry.profiles.len().to_string() },
            ]
        };
        let header = ["MODEL", "MATCH", "MEMORY", "INTERFACE", "VFS", "PROFILES"];
        rows(&header, self.iter().map(row).collect(), "The catalogue is empty.")
    }
}

impl Show for CatalogueSheets {
    fn as_text(&self) -> String {
        self.0.iter().map(one).collect::<Vec<_>>().join("\n")
    }
}

fn one(entry: &CatalogueEntry) -> String {
    let sourced = |figure: &Option<CatalogueFigure>, shown: fn(u64) -> String| {
        let text = |figure: &CatalogueFigure| {
            let (value, source) = (shown(figure.value), &figure.source);
            format!("{value} ({}: {})", source.confidence, source.what)
        };
        figure.as_ref().map(text).unwrap_or_default()
    };
    let per_board = if entry.gpus_per_board > 1 { entry.gpus_per_board.to_string() } else { String::new() };
    let fields = sheet(&[
        ("Model", entry.model.clone()),
        ("Family", entry.family.clone().unwrap_or_default()),
        ("Match", entry.matches.join(", ")),
        (
            "Emulated",
            if entry.emulated { "yes: a stand-in of the virtual lab".to_owned() } else { String::new() },
        ),
        ("Interface", entry.interface.clone()),
        ("GPUs a board", per_board),
        ("Memory", sourced(&entry.vram_mib, text::size)),
        ("Shared", sourced(&entry.shared_mib, text::size)),
        ("VFs", sourced(&entry.total_vfs, |total| total.to_string())),
        ("By loading", entry.loads.as_ref().map(by_loading).unwrap_or_default()),
        ("Window", sourced(&entry.mmio64_gib, |gib| format!("{gib} GiB"))),
        ("Series", entry.default_series.clone().unwrap_or_default()),
    ]);
    if entry.profiles.is_empty() { fields } else { format!("{fields}\n{}", profiles(&entry.profiles)) }
}

/// The partition counts that only another load of the driver brings.
fn by_loading(counts: &CatalogueCounts) -> String {
    let numbers: Vec<String> = counts.value.iter().map(ToString::to_string).collect();
    format!("{} partitions ({}: {})", numbers.join(", "), counts.source.confidence, counts.source.what)
}

fn profiles(profiles: &[CatalogueProfile]) -> String {
    let row = |profile: &CatalogueProfile| {
        vec![
            profile.name.clone(),
            profile.max.to_string(),
            text::size(profile.size_mib),
            profile.usable_mib.map(text::size).unwrap_or_default(),
            format!("{}: {}", profile.source.confidence, profile.source.what),
        ]
    };
    rows(&["PROFILE", "MAX", "SIZE", "USABLE", "SOURCE"], profiles.iter().map(row).collect(), "")
}
