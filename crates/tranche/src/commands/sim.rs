//! `sim`: plays what befalls a cluster in virtual time, without a daemon and without touching anything.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tranche_sim::{Report, Scenario};

use crate::cli::SimCommand;
use crate::declaration;
use crate::failure::{Exit, Failure};
use crate::output::Console;

pub(super) fn run(command: &SimCommand, console: &Console) -> Result<Exit, Failure> {
    match command {
        SimCommand::Run { file } => play(file, console),
        SimCommand::Fuzz { seeds, first_seed } => fuzz(*first_seed, *seeds, console),
    }
}

fn play(file: &Path, console: &Console) -> Result<Exit, Failure> {
    let scenario: Scenario = declaration::read_as(file, "scenario")?;
    let report = tranche_sim::run(&scenario).map_err(Failure::Scenario)?;
    console.print(in_json(&report)?.as_bytes())?;
    Ok(if report.ok { Exit::Done } else { Exit::Found })
}

/// Plays the stories of so many seeds, as many at a time as there are processors. The first failure is that of the lowest seed
/// that fails: the others are played to their end.
fn fuzz(first: u64, seeds: u64, console: &Console) -> Result<Exit, Failure> {
    let (next, end) = (AtomicU64::new(first), first.saturating_add(seeds));
    let failed: Mutex<Option<Report>> = Mutex::new(None);
    let progress = Mutex::new(console.progress(&format!("play {seeds} stories")));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
                    if seed >= end || is_over() {
                        return;
                    }
                    if let Ok(report) = tranche_sim::fuzz(seed) {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        if !report.ok && failed.as_ref().is_none_or(|known| report.seed < known.seed) {
                            *failed = Some(report);
                        }
                    }
                    let percent = (seed - first + 1) * 100 / seeds.max(1);
                    let percent = u8::try_from(percent).unwrap_or(100);
                    progress.lock().unwrap_or_else(PoisonError::into_inner).percent(percent);
                }
            });
        }
    });
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).clear();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => {
            let text = format!("{seeds} stories from seed {first} on: no invariant broke\n");
            console.print(text.as_bytes())?;
            Ok(Exit::Done)
        }
        Some(report) => {
            console.print(in_json(&report)?.as_bytes())?;
            Ok(Exit::Found)
        }
    }
}

fn in_json(report: &Report) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(report);
    text.map(|text| text + "\n").map_err(|source| Failure::Print { source: source.into() })
}
