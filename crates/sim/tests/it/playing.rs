//! What every test does with a scenario: read it as people write it, play it, and look at what came of it.

use std::path::{Path, PathBuf};

use tranche_sim::{Happened, Record, Report, Scenario, run};

/// Reads a scenario in YAML, which JSON is, too.
#[track_caller]
pub(crate) fn read(text: &str) -> Scenario {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[track_caller]
pub(crate) fn play(text: &str) -> Report {
    run(&read(text)).expect("the scenario can be played")
}

#[track_caller]
pub(crate) fn holds(report: &Report) {
    assert!(report.ok, "{:#?}\n{:#?}\n{:#?}", report.violations, report.records, report.findings);
}

/// A page or an example of the documentation.
pub(crate) fn docs(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(path)
}

/// Which VMs were started where, from a time to another, in order.
pub(crate) fn starts(report: &Report, from_ms: u64, to_ms: u64) -> Vec<(u64, &str, &str)> {
    let within = report.records.iter().filter(|record| (from_ms..to_ms).contains(&record.at_ms));
    let started = within.filter_map(|record| match &record.what {
        Happened::Started { vm } => Some((record.at_ms, vm.as_str(), record.host.as_str())),
        _ => None,
    });
    started.collect()
}

/// Whether something befell a host, as records name it.
pub(crate) fn befell(report: &Report, host: &str, event: &str) -> bool {
    when(report, host, event).is_some()
}

/// When something first befell a host, as records name it.
pub(crate) fn when(report: &Report, host: &str, event: &str) -> Option<u64> {
    let is_it = |what: &Happened| matches!(what, Happened::Befell { event: befell } if befell == event);
    let found = |record: &&Record| record.host == host && is_it(&record.what);
    report.records.iter().find(found).map(|record| record.at_ms)
}
