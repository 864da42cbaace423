//! How findings about GPUs that should be alike are worded.

use super::{counted, finding, info, list, warning};
use crate::finding::{Code, Finding, Severity, Subject};
use crate::homogeneity::{Attribute, AttributeReport, SetName};
use crate::name::{GpuKey, VmName};

/// The most GPUs, VMs or commands that a finding names.
const NAMED_MAX: usize = 3;

/// GPUs in use differ in an attribute.
pub fn unlike(set: &SetName, report: &AttributeReport, severity: Severity) -> Finding {
    let usual = report.values.iter().find(|value| value.usual);
    let (value, number) = usual.map_or(("none", 0), |usual| (usual.value.as_str(), usual.number));
    let odd = report.values.iter().filter(|value| !value.usual);
    let odd: Vec<String> = odd.map(|odd| format!("{} on {}", odd.value, some(&odd.gpus))).collect();
    let tie = if report.tie {
        " As many have one as another; the one on the oldest host, or the first by name, is taken for the usual."
    } else {
        ""
    };
    let message = format!(
        "{} differ in {}: {value} on {number} of them, {}. This breaks {}.{tie}",
        capital(&set.to_string()),
        report.attribute,
        odd.join("; "),
        list(&report.breaks)
    );
    let named = report.mends.iter().take(NAMED_MAX);
    let mut steps: Vec<String> = named
        .map(|mend| match &mend.command {
            Some(command) => format!("{} '{command}'", mend.text),
            None => mend.text.clone(),
        })
        .collect();
    steps.dedup();
    let more = report.mends.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        steps.push(format!("{more} more: 'tranche cluster homogeneity' has all of them."));
    }
    finding(report.attribute.code(), severity, Subject::Installation, message, steps.join(" "))
}

/// A wish would make GPUs less alike.
pub fn breaks_homogeneity(
    set: &SetName,
    report: &AttributeReport,
    newly: &[GpuKey],
    strict: bool,
) -> Finding {
    let values: Vec<String> =
        report.values.iter().map(|value| format!("{} on {}", value.value, value.number)).collect();
    let message = format!(
        "With this, {} would not be alike in {}: {}. GPU {} would differ, which breaks {}.",
        set,
        report.attribute,
        values.join(", "),
        some(newly),
        list(&report.breaks)
    );
    let for_all = match (set, report.attribute) {
        (SetName::Partitions, Attribute::Count | Attribute::Series) => {
            "Change all of them at once: 'tranche gpu partition --all --count N'"
        }
        _ => "Use GPUs of one kind",
    };
    let (severity, hint) = if strict {
        let hint = format!("{for_all}, or let 'tranche policy set --homogeneity warn' allow it.");
        (Severity::Error, hint)
    } else {
        let hint = format!(
            "{for_all}. 'tranche cluster homogeneity' shows all; 'tranche policy set --homogeneity strict' would refuse this."
        );
        (Severity::Warning, hint)
    };
    finding(Code::BreaksHomogeneity, severity, Subject::Installation, message, hint)
}

/// No GPU of any host can be split.
pub fn nothing_to_split() -> Finding {
    let hint = "Check that a host has a GPU with SR-IOV or mediated devices, and the driver for it: 'tranche gpu list' and \
                'tranche gpu show' tell what each lacks.";
    let message = "No host has a GPU that can be partitioned.".to_owned();
    finding(Code::NoPartitionableGpu, Severity::Error, Subject::Installation, message, hint)
}

/// GPUs are of several configurations; `sets` describes each, with one of its GPUs. It is a refusal where nobody chose.
pub fn set_unlike(sets: &[(String, GpuKey)], chosen: bool) -> Finding {
    let kinds: Vec<&str> = sets.iter().map(|(kind, _)| kind.as_str()).collect();
    let message = format!("Not all GPUs have the same configuration: {}.", kinds.join("; "));
    if chosen {
        let hint = "Only the chosen ones are changed. 'tranche cluster homogeneity' shows what differs.";
        return warning(Code::SetUnlike, Subject::Installation, message, hint);
    }
    let picks: Vec<String> = sets.iter().take(NAMED_MAX).map(|(_, gpu)| format!("'--like {gpu}'")).collect();
    let hint = format!("Choose one of these sets with {}, or name GPUs with --gpu.", picks.join(" or "));
    finding(Code::SetUnlike, Severity::Error, Subject::Installation, message, hint)
}

/// There are several GPUs, and no two are of the same configuration.
pub fn no_homogeneous_set(sets: &[(String, GpuKey)]) -> Finding {
    let kinds: Vec<&str> = sets.iter().map(|(kind, _)| kind.as_str()).collect();
    let message = format!("No two GPUs have the same configuration: {}.", kinds.join("; "));
    let hint = "Put the same card in all hosts, with the same driver; or split each GPU on its own: 'tranche gpu partition'.";
    finding(Code::NoHomogeneousSet, Severity::Error, Subject::Installation, message, hint)
}

/// GPUs that were chosen are of several configurations.
pub fn selection_unlike(sets: &[(String, GpuKey)]) -> Finding {
    let kinds: Vec<&str> = sets.iter().map(|(kind, _)| kind.as_str()).collect();
    let message = format!("The chosen GPUs are of several configurations: {}.", kinds.join("; "));
    let hint = "Choose GPUs of one configuration; '--like HOST/ADDRESS' chooses all that are like one.";
    finding(Code::SelectionUnlike, Severity::Error, Subject::Installation, message, hint)
}

/// GPUs of the same configuration were left out.
pub fn set_incomplete(left_out: &[GpuKey]) -> Finding {
    let message = format!("GPU {} of the same configuration is left out.", some(left_out));
    let hint = "GPUs that are split into other counts than the rest break failover. Without --gpu, all of them are changed.";
    warning(Code::SetIncomplete, Subject::Installation, message, hint)
}

/// So many GPUs are changed at once, and these VMs are on them.
pub fn set_change(gpus: usize, hosts: usize, vms: &[VmName]) -> Finding {
    let (gpus, hosts) = (counted(gpus as u64, "GPU"), counted(hosts as u64, "host"));
    let message = format!("This changes {gpus} on {hosts} at once{}.", on_them(vms));
    let hint =
        "'--dry-run' shows what becomes of each GPU and VM, and a version; '--version' applies exactly that.";
    if vms.is_empty() {
        info(Code::SetChange, Subject::Installation, message, hint)
    } else {
        warning(Code::SetChange, Subject::Installation, message, hint)
    }
}

/// What a preview rested on is not so any more.
pub fn version_changed(asked: &str, is: &str) -> Finding {
    let message = format!("Wishes, GPUs or VMs have changed since the preview: version {asked} is now {is}.");
    let hint = "Look at the preview again ('--dry-run') and apply its version.";
    finding(Code::VersionChanged, Severity::Error, Subject::Installation, message, hint)
}

fn on_them(vms: &[VmName]) -> String {
    match vms.len() {
        0 => String::new(),
        1 => format!(", which interrupts VM {}", vms[0]),
        many => format!(", which interrupts {many} VMs: {}", some(vms)),
    }
}

fn some<T: ToString>(items: &[T]) -> String {
    let (first, more) = (&items[..items.len().min(NAMED_MAX)], items.len().saturating_sub(NAMED_MAX));
    if more > 0 { format!("{} and {more} more", list(first)) } else { list(first) }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}
