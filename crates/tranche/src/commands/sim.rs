//! `sim`: plays what befalls a cluster in virtual time, without a daemon and without touching anything.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tranche_sim::{Report, Scenario, ScenarioError};

use crate::cli::SimCommand;
use crate::declaration;
use crate::failure::{Exit, Failure};
use crate::output::Console;

/// After how many stories it is told how far it is.
const TOLD_EVERY: u64 = 500;

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
    let failed: Mutex<Option<(u64, Result<Report, ScenarioError>)>> = Mutex::new(None);
    let progress = Mutex::new(console.progress(&format!("play {seeds} stories")));
    let processors = processors();
    thread::scope(|scope| {
        for processor in processors {
            let (next, failed, progress) = (&next, &failed, &progress);
            scope.spawn(move || {
                stay_on(processor);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || lock(failed).is_some() {
                        return;
                    }
                    let played = tranche_sim::fuzz(seed);
                    if !played.as_ref().is_ok_and(|report| report.ok) {
                        let mut failed = lock(failed);
                        if failed.as_ref().is_none_or(|(known, _)| seed < *known) {
                            *failed = Some((seed, played));
                        }
                    }
                    let (done, mut progress) = (seed - first + 1, lock(progress));
                    progress.percent(u8::try_from(done * 100 / seeds.max(1)).unwrap_or(100));
                    if done % TOLD_EVERY == 0 {
                        progress.line(&format!("{done} of {seeds}"));
                    }
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
        Some((seed, played)) => {
            console.note(&format!(
                "Seed {seed} breaks something. Again: tranche sim fuzz --seeds 1 --first-seed {seed}"
            ));
            let report = played.map_err(Failure::Scenario)?;
            console.print(in_json(&report)?.as_bytes())?;
            Ok(Exit::Found)
        }
    }
}

/// The processors that this process may use; one that has no number where the system does not tell.
fn processors() -> Vec<Option<usize>> {
    let allowed = sched_getaffinity(None)
        .map(|set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).map(Some).collect());
    allowed.ok().filter(|cpus: &Vec<_>| !cpus.is_empty()).unwrap_or_else(|| vec![None])
}

/// Keeps this thread and those that it starts on one processor: the threads of a story take turns, and a turn is handed on
/// faster there. Where that is refused, it is only slower.
fn stay_on(processor: Option<usize>) {
    let Some(processor) = processor else { return };
    let mut set = CpuSet::new();
    set.set(processor);
    let _ = sched_setaffinity(None, &set);
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_json(report: &Report) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(report);
    text.map(|text| text + "\n").map_err(|source| Failure::Print { source: source.into() })
}
