//! States, sizes and times in words. What the API calls a thing is what the console calls it; here is only how it is written and how it
//! stands out.

use jiff::Timestamp as Moment;
use maud::{Markup, html};
use serde::Serialize;
use serde_json::Value;
use tranche_api::view::{GpuStatus, GpuView, HostView, PartitionState, VmState};
use tranche_core::effect::VmEffect;
use tranche_core::finding::Severity;
use tranche_core::homogeneity::{Breaks, Grade};
use tranche_core::inventory::{Backend, Certainty, Guard};
use tranche_core::migration::Way;
use tranche_core::name::Timestamp;
use tranche_core::operation::OperationState;
use tranche_core::plan::{DownBy, Standing};
use tranche_core::spec::{Duty, GpuMode, Request};

/// How something stands out. It is never said by colour alone: each has its word beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// In use, or simply so.
    Plain,
    /// On its way.
    Busy,
    /// Somebody should look.
    Warn,
    /// Broken.
    Bad,
    /// Not in use.
    Off,
}

impl Tone {
    /// The class by which the style sheet knows it.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Plain => "plain",
            Self::Busy => "busy",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Off => "off",
        }
    }
}

/// A state, as a badge.
pub(crate) fn badge(tone: Tone, text: &str) -> Markup {
    html! { span class={ "badge " (tone.class()) } { (text) } }
}

/// What a VM does.
pub(crate) fn vm_state(state: VmState) -> Markup {
    let tone = match state {
        VmState::Running => Tone::Good,
        VmState::Starting | VmState::Moving | VmState::Stopping | VmState::Deleting => Tone::Busy,
        VmState::Paused | VmState::Waiting => Tone::Warn,
        VmState::Unknown => Tone::Bad,
        VmState::Stopped => Tone::Off,
    };
    badge(tone, state.as_str())
}

/// What a GPU can be used for, or is.
pub(crate) fn gpu_status(status: GpuStatus) -> Markup {
    badge(gpu_tone(status), &status.to_string())
}

/// How a GPU stands out.
pub(crate) fn gpu_tone(status: GpuStatus) -> Tone {
    match status {
        GpuStatus::Partitioned | GpuStatus::PassedThrough => Tone::Good,
        GpuStatus::Partitionable | GpuStatus::Assignable | GpuStatus::ReadyForPassthrough => Tone::Plain,
        GpuStatus::Changing => Tone::Busy,
        GpuStatus::SriovOff | GpuStatus::NotAssignable => Tone::Off,
        GpuStatus::NeedsReset | GpuStatus::NeedsReboot | GpuStatus::Unknown => Tone::Warn,
        GpuStatus::Stuck | GpuStatus::Sick | GpuStatus::Gone => Tone::Bad,
    }
}

/// What a partition is used for.
pub(crate) fn partition_state(state: PartitionState) -> Markup {
    let (tone, text) = match state {
        PartitionState::Free => (Tone::Plain, "free"),
        PartitionState::Booked => (Tone::Off, "booked"),
        PartitionState::InUse => (Tone::Good, "in use"),
        PartitionState::Lost => (Tone::Bad, "lost"),
        PartitionState::Foreign => (Tone::Warn, "foreign"),
        PartitionState::Unready => (Tone::Busy, "unready"),
    };
    badge(tone, text)
}

/// Where an operation stands.
pub(crate) fn operation_state(state: OperationState) -> Markup {
    match state {
        OperationState::Running => badge(Tone::Busy, "running"),
        OperationState::Waiting => badge(Tone::Warn, "waiting"),
        OperationState::Succeeded => badge(Tone::Good, "succeeded"),
        OperationState::Failed => badge(Tone::Bad, "failed"),
        OperationState::Superseded => badge(Tone::Off, "superseded"),
    }
}

/// How bad a finding is.
pub(crate) fn severity(severity: Severity) -> Markup {
    badge(severity_tone(severity), &severity.to_string())
}

/// How a finding stands out.
pub(crate) fn severity_tone(severity: Severity) -> Tone {
    match severity {
        Severity::Info => Tone::Plain,
        Severity::Warning => Tone::Warn,
        Severity::Error => Tone::Bad,
    }
}

/// Whether a host is there, and takes VMs.
pub(crate) fn host_state(host: &HostView) -> Markup {
    let Some(member) = &host.member else { return badge(Tone::Good, "up") };
    match (member.standing, member.duty) {
        (Standing::Up, Duty::Serving) => badge(Tone::Good, "up"),
        (Standing::Up, Duty::Maintenance) => badge(Tone::Warn, "maintenance"),
        (Standing::Lost { .. }, _) => badge(Tone::Bad, "lost"),
        (Standing::Fencing { .. }, _) => badge(Tone::Bad, "being fenced"),
        (Standing::Down { .. }, _) => badge(Tone::Bad, "down"),
    }
}

/// Whether a host is there, in a sentence.
pub(crate) fn standing(standing: Standing) -> Markup {
    match standing {
        Standing::Up => html! { "up" },
        Standing::Lost { since } => html! { "silent since " (time(since)) },
        Standing::Fencing { since } => html! { "given up since " (time(since)) "; its power is being cut" },
        Standing::Down { since, by } => html! { "down since " (time(since)) ", known by " (down_by(by)) },
    }
}

fn down_by(by: DownBy) -> &'static str {
    match by {
        DownBy::Watchdog => "the time by which its watchdog has reset it",
        DownBy::Agent => "its fence agent, which saw it off",
        DownBy::Hand => "somebody\u{2019}s word",
        DownBy::Shutdown => "its own last word",
        DownBy::Surrender => "its own word that it has ended all that it ran",
    }
}

/// Whether a watchdog guards a host.
pub(crate) fn guard(guard: Guard) -> Markup {
    match guard {
        Guard::None => badge(Tone::Warn, "none"),
        Guard::Ready => badge(Tone::Plain, "there, not armed"),
        Guard::Armed => badge(Tone::Good, "armed"),
    }
}

/// What becomes of a VM.
pub(crate) fn vm_effect(effect: VmEffect) -> Markup {
    let (tone, text) = match effect {
        VmEffect::Starts => (Tone::Good, "starts"),
        VmEffect::Stops => (Tone::Warn, "is shut down"),
        VmEffect::Restarts => (Tone::Warn, "is shut down and started again"),
        VmEffect::Migrates => (Tone::Good, "moves while it runs"),
        VmEffect::Moves => (Tone::Warn, "is shut down and started on another host"),
        VmEffect::Stays => (Tone::Bad, "stays, because no other host can take it"),
        VmEffect::Waits => (Tone::Bad, "is off and waits for room"),
        VmEffect::LosesReservation => (Tone::Warn, "loses what is reserved for it"),
        VmEffect::Goes => (Tone::Bad, "is forgotten"),
    };
    badge(tone, text)
}

/// How a VM would go to another host.
pub(crate) fn way(way: Way) -> Markup {
    match way {
        Way::Live => badge(Tone::Good, "live"),
        Way::Restart => badge(Tone::Warn, "restart"),
        Way::Neither => badge(Tone::Off, "not possible"),
    }
}

/// How well something is known.
pub(crate) fn certainty(certainty: Certainty) -> Markup {
    let tone = match certainty {
        Certainty::Unknown => Tone::Off,
        Certainty::Refused => Tone::Warn,
        Certainty::Claimed => Tone::Plain,
        Certainty::Proven => Tone::Good,
    };
    badge(tone, &certainty.to_string())
}

/// How bad a difference is.
pub(crate) fn grade(grade: Option<Grade>) -> Markup {
    match grade {
        None => badge(Tone::Good, "alike"),
        Some(Grade::Note) => badge(Tone::Plain, "note"),
        Some(Grade::Slight) => badge(Tone::Warn, "slight"),
        Some(Grade::Severe) => badge(Tone::Bad, "severe"),
    }
}

/// What a difference breaks.
pub(crate) fn breaks(breaks: Breaks) -> &'static str {
    match breaks {
        Breaks::Partitioning => "partitioning alike",
        Breaks::Failover => "failover",
        Breaks::LiveMigration => "live migration",
    }
}

/// How a GPU makes partitions.
pub(crate) fn backend(backend: Backend) -> &'static str {
    match backend {
        Backend::SriovVfio => "SR-IOV virtual functions",
        Backend::TypedVf => "virtual functions with types",
        Backend::FixedVf => "virtual functions, as many as the driver was loaded with",
        Backend::Mdev => "mediated devices",
        Backend::VfMdev => "mediated devices on virtual functions",
    }
}

/// What a GPU is used for, in a word or two.
pub(crate) fn mode(mode: &GpuMode) -> String {
    match mode {
        GpuMode::Host => "host".to_owned(),
        GpuMode::Partitioned { count, series: None } => format!("{count} partitions"),
        GpuMode::Partitioned { count, series: Some(series) } => {
            format!("{count} partitions, series {series}")
        }
        GpuMode::Mixed { sizes } => format!("mixed: {}", sizes.join(", ")),
        GpuMode::Passthrough { pool: None, .. } => "passthrough".to_owned(),
        GpuMode::Passthrough { pool: Some(pool), .. } => format!("passthrough, pool {pool}"),
    }
}

/// What a VM asks for.
pub(crate) fn request(request: &Request) -> String {
    match request {
        Request::None => "no GPU".to_owned(),
        Request::Partition { vram_mib: None, profile: None } => "any partition".to_owned(),
        Request::Partition { vram_mib, profile } => {
            let profile = profile.as_ref().map(|profile| format!("profile {profile}"));
            let memory = vram_mib.map(|mib| format!("{} of video memory", size(mib)));
            let parts: Vec<String> = profile.into_iter().chain(memory).collect();
            format!("a partition: {}", parts.join(", "))
        }
        Request::Whole { gpus, pool } => {
            let pool = pool.as_ref().map(|pool| format!(" of pool {pool}")).unwrap_or_default();
            let gpus = if *gpus == 1 { "one whole GPU".to_owned() } else { format!("{gpus} whole GPUs") };
            format!("{gpus}{pool}")
        }
    }
}

/// The valid counts of a GPU: `2, 4, 8`.
pub(crate) fn counts(gpu: &GpuView) -> String {
    let mut counts: Vec<u16> = gpu.valid_counts.iter().map(|offer| offer.count).collect();
    counts.sort_unstable();
    counts.dedup();
    counts.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// Memory in the unit that reads best. What is no round number of GiB and small is told in MiB, because partitions differ by little.
pub(crate) fn size(mib: u64) -> String {
    if mib >= 1024 && mib.is_multiple_of(1024) {
        format!("{} GiB", mib / 1024)
    } else if mib >= 10 * 1024 {
        format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024)
    } else {
        format!("{mib} MiB")
    }
}

/// Memory, where it is known.
pub(crate) fn size_if_known(mib: Option<u64>) -> String {
    mib.map_or_else(unknown, size)
}

/// What stands for something that is not known or not there.
pub(crate) fn unknown() -> String {
    "\u{2013}".to_owned()
}

/// Text, or what stands for none.
pub(crate) fn or_unknown(text: Option<impl ToString>) -> String {
    text.map_or_else(unknown, |text| text.to_string())
}

/// A duration in the unit that reads best.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// A moment. Pages have no clock, so it is told when and not how long ago; a script may say that beside it.
pub(crate) fn time(at: Timestamp) -> Markup {
    let moment = i64::try_from(at.0).ok().and_then(|ms| Moment::from_millisecond(ms).ok());
    match moment {
        Some(moment) => html! {
            time datetime=(moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()) {
                (moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
            }
        },
        None => html! { (unknown()) },
    }
}

/// The word that the REST interface has for something.
pub(crate) fn wire(of: &impl Serialize) -> String {
    let word = serde_json::to_value(of).ok();
    word.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// `1 VM`, `2 VMs`.
pub(crate) fn number(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_where_partitions_differ_by_little() {
        for (mib, text) in
            [(512, "512 MiB"), (1024, "1 GiB"), (3648, "3648 MiB"), (15_356, "14.9 GiB"), (49_152, "48 GiB")]
        {
            assert_eq!(size(mib), text);
        }
    }

    #[test]
    fn durations_are_told_in_the_unit_that_reads_best() {
        for (ms, text) in [(60, "60 ms"), (1_900, "1.9 s"), (100_000, "1 min 40 s")] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn a_moment_that_no_calendar_has_is_unknown() {
        assert_eq!(time(Timestamp(u64::MAX)).into_string(), unknown());
        assert!(time(Timestamp(0)).into_string().contains("1970-01-01 00:00:00 UTC"));
    }
}
