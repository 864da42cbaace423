//! Findings, failures, sizes and times as text for people.

use std::error::Error;

use jiff::tz::TimeZone;
use tranche_core::finding::Finding;
use tranche_core::name::Timestamp;
use tranche_core::spec::{GpuMode, Request};

use crate::failure::Failure;

/// Text without characters that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Findings, each with its hint below.
pub(crate) fn findings(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|finding| {
        // The message names what it is about; the subject is for programs.
        let Finding { code, severity, subject: _, message, hint } = finding;
        let head = plain(&format!("{severity}: {message} [{code}]"));
        format!("{head}\n{}", hint_line(hint))
    });
    lines.collect()
}

/// Findings below something else, apart from it.
pub(super) fn findings_below(text: &str, below: &[Finding]) -> String {
    if below.is_empty() { text.to_owned() } else { format!("{text}\n{}", findings(below)) }
}

/// Why there is no result.
pub(super) fn failure(failure: &Failure) -> String {
    let code = failure.code().map(|code| format!(" [{code}]")).unwrap_or_default();
    let head = format!("error: {}{code}\n", plain(&chain(failure)));
    let hint = failure.hint().map(|hint| hint_line(&hint)).unwrap_or_default();
    let more = findings(failure.more());
    match failure {
        // Here the findings are the reason, and the hint says what to do with the operation.
        Failure::Operation(_) => format!("{head}{more}{hint}"),
        _ => format!("{head}{hint}{more}"),
    }
}

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("  hint: {}\n", plain(hint)) }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if text.ends_with('.') {
            text.pop();
        }
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A size: `3648 MiB`, `16 GiB`.
pub(super) fn size(mib: u64) -> String {
    if mib >= 1024 && mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

/// A moment, in the time zone of the one who looks.
pub(super) fn time(at: Timestamp) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    let moment = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// What a VM asks for, in the words of `--gpu`.
pub(super) fn request(request: &Request) -> String {
    match request {
        Request::None => "none".to_owned(),
        Request::Partition { vram_mib: None, profile: None } => "any".to_owned(),
        Request::Partition { vram_mib: Some(mib), profile: None } => size(*mib),
        Request::Partition { vram_mib: None, profile: Some(profile) } => format!("profile:{profile}"),
        Request::Partition { vram_mib: Some(mib), profile: Some(profile) } => {
            format!("profile:{profile}, {}", size(*mib))
        }
        Request::Whole { gpus, pool } => {
            let count = if *gpus == 1 { String::new() } else { format!(":{gpus}") };
            let pool = pool.as_ref().map(|pool| format!("@{pool}")).unwrap_or_default();
            format!("whole{count}{pool}")
        }
    }
}

/// A mode, in words.
pub(super) fn mode(mode: &GpuMode) -> String {
    match mode {
        GpuMode::Host => "host".to_owned(),
        GpuMode::Partitioned { count, series: None } => format!("{count} partitions"),
        GpuMode::Partitioned { count, series: Some(series) } => {
            format!("{count} partitions of series {series}")
        }
        GpuMode::Mixed { sizes } => format!("partitions of {}", sizes.join(", ")),
        GpuMode::Passthrough { pool: None, .. } => "passthrough".to_owned(),
        GpuMode::Passthrough { pool: Some(pool), .. } => format!("passthrough, pool {pool}"),
    }
}

/// Counts, ascending, runs of neighbours drawn together: `1-7`, `1, 2, 4, 8`.
pub(super) fn counts(counts: impl IntoIterator<Item = u16>) -> String {
    let mut sorted: Vec<u16> = counts.into_iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for count in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == count => *last = count,
            _ => runs.push((count, count)),
        }
    }
    let texts = runs.iter().map(|(first, last)| match last - first {
        0 => format!("{first}"),
        1 => format!("{first}, {last}"),
        _ => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_counts_are_drawn_together() {
        assert_eq!(counts(1..=7), "1-7");
        assert_eq!(counts([16, 8, 4, 2, 1, 4]), "1, 2, 4, 8, 16");
        assert_eq!(counts([]), "");
    }

    #[test]
    fn a_name_cannot_play_with_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }

    #[test]
    fn sizes_are_exact() {
        assert_eq!(
            (size(3648), size(16384), size(512)),
            ("3648 MiB".into(), "16 GiB".into(), "512 MiB".into())
        );
    }
}
