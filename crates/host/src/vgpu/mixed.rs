//! Partitions of several sizes on one GPU ("heterogeneous mode").
//!
//! Off unless asked for. The driver takes the switch only after virtual functions were enabled and before any has a type,
//! and forgets it with the functions, at a reboot and when it is reloaded. So it is switched right before the first type
//! is given, by NVIDIA's own tool, and read back from it; what each function then became is read back as ever.
//!
//! Deliberately absent: looking at the switch with every observation. The tool opens the GPU, and `sriov-manage` fails
//! while anything has it open.
//!
//! Facts: NVIDIA vGPU Software User Guide, "Configuring a GPU for Mixed-Size vGPU"; the places as it lists them for the
//! 16, 12 and 8 GB types of an L40S. The rule for the other sizes is inferred from these, and the driver has the last
//! word. The switch is for administrators, by which the driver means CAP_SYS_ADMIN (open-gpu-kernel-modules:
//! kernel-open/common/inc/nv-linux.h, `NV_IS_SUSER`).

use std::collections::BTreeSet;

use tranche_core::finding::{Code, Finding};
use tranche_core::mixed::MixedSize;
use tranche_core::name::{GpuKey, PciAddress};

use crate::calls::GpuCalls;
use crate::catalogue::Entry;
use crate::report;
use crate::tree::Ran;

/// NVIDIA's tool for everything but virtual functions.
pub(crate) const TOOL: &str = "usr/bin/nvidia-smi";

/// Switches mixed sizes on or off, and reads that back.
///
/// # Errors
/// When the tool is missing or refuses, when the GPU cannot do it, or when the switch reads otherwise afterwards.
pub(crate) fn switch(calls: &GpuCalls<'_>, pf: PciAddress, on: bool) -> Result<(), Box<Finding>> {
    let gpu = calls.gpu();
    let before = query(calls, pf)?;
    if before.is_on == Some(on) {
        return Ok(());
    }
    if before.is_on.is_none() || !before.supported {
        // What a GPU never had needs not be taken from it.
        return if on { Err(unsupported(gpu)) } else { Ok(()) };
    }
    let pf_text = pf.to_string();
    let ran = run(calls, &["vgpu", "-i", &pf_text, "-shm", if on { "1" } else { "0" }])?;
    match query(calls, pf)?.is_on {
        Some(now) if now == on => Ok(()),
        _ => Err(refused(gpu, on, &ran)),
    }
}

/// The profiles that a GPU can have beside each other, the largest first; of those that the driver lists, where it lists
/// any.
pub(crate) fn sizes(entry: &Entry, listed: Option<&BTreeSet<String>>) -> Vec<MixedSize> {
    let Some(total_mib) = entry.profiles.iter().map(|profile| profile.size_mib).max() else {
        return Vec::new();
    };
    let mut sizes: Vec<MixedSize> = entry
        .profiles
        .iter()
        .filter(|profile| listed.is_none_or(|listed| listed.contains(&profile.name)))
        .map(|profile| {
            let mut starts_mib = starts(total_mib, profile.size_mib);
            starts_mib.truncate(usize::from(profile.max));
            MixedSize {
                profile: profile.name.clone(),
                series: profile.series.clone(),
                vram_mib: Some(profile.usable_mib.unwrap_or(profile.size_mib)),
                size_mib: profile.size_mib,
                starts_mib,
            }
        })
        .collect();
    sizes.sort_by(|a, b| (b.size_mib, &a.profile).cmp(&(a.size_mib, &b.profile)));
    sizes
}

/// Memory is halved until another half would be too small; each part takes one, at its outer end.
pub(crate) fn starts(total_mib: u64, size_mib: u64) -> Vec<u64> {
    let mut parts = 1;
    while size_mib > 0 && total_mib.is_multiple_of(parts * 2) && total_mib / (parts * 2) >= size_mib {
        parts *= 2;
    }
    let part_mib = total_mib / parts;
    let start =
        |part: u64| part * part_mib + if part % 2 == 1 { part_mib - size_mib.min(part_mib) } else { 0 };
    (0..parts).map(start).collect()
}

/// What the tool says of the switch.
struct Told {
    supported: bool,
    is_on: Option<bool>,
}

fn query(calls: &GpuCalls<'_>, pf: PciAddress) -> Result<Told, Box<Finding>> {
    let ran = run(calls, &["-q", "-i", &pf.to_string()])?;
    if !ran.success {
        let message = format!("nvidia-smi -q on GPU {} failed; it said: {}.", calls.gpu(), ran.last_words());
        return Err(report::error(calls.gpu(), Code::KernelRefused, message, report::refusal_hint(None)));
    }
    Ok(read(&ran.said))
}

/// The spelling of the words differs between branches: `Heterogeneous`, `Heterogenous`; `Mode`, `Multi-vGPU`.
fn read(said: &str) -> Told {
    let mut told = Told { supported: false, is_on: None };
    for (name, value) in said.lines().filter_map(|line| line.split_once(':')) {
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !name.contains("heterogen") {
            continue;
        }
        if name.contains("time-slice") {
            told.supported |= value == "Supported";
        } else if name.contains("mode") || name.ends_with("multi-vgpu") {
            match value {
                "Enabled" => told.is_on = Some(true),
                "Disabled" => told.is_on = Some(false),
                "Supported" => told.supported = true,
                _ => {}
            }
        }
    }
    // A switch that reads as on or off can be switched.
    told.supported |= told.is_on.is_some() && !said.contains("Time-Slice");
    told
}

fn run(calls: &GpuCalls<'_>, arguments: &[&str]) -> Result<Ran, Box<Finding>> {
    let gpu = calls.gpu();
    calls.run_tool(TOOL, arguments).map_err(|error| {
        if error.errno() == Some(libc::ENOENT) {
            let message =
                format!("/{TOOL} is missing, and only it lets GPU {gpu} have partitions of several sizes.");
            let hint =
                "Install NVIDIA's vGPU host driver with its tools, or split the GPU into equal partitions.";
            report::error(gpu, Code::DriverMissing, message, hint)
        } else {
            report::call_failed(gpu, &error)
        }
    })
}

fn unsupported(gpu: &GpuKey) -> Box<Finding> {
    let message = format!(
        "GPU {gpu} takes no partitions of several sizes: nvidia-smi -q does not list it as supported."
    );
    let hint = "Split it into equal partitions: 'tranche gpu partition GPU COUNT'. A later driver branch may allow it.";
    report::error(gpu, Code::InvalidPartitionSizes, message, hint)
}

fn refused(gpu: &GpuKey, on: bool, ran: &Ran) -> Box<Finding> {
    let switch = if on { "on" } else { "off" };
    let said = ran.last_words();
    let message =
        format!("Mixed sizes of GPU {gpu} could not be switched {switch}; nvidia-smi said: {said}.");
    let hint = if ran.said.to_ascii_lowercase().contains("permission") {
        "The driver takes it only from processes with CAP_SYS_ADMIN, which the daemon does without: 'systemctl edit tranched', \
         add the lines [Service] and CapabilityBoundingSet=CAP_SYS_ADMIN, then 'systemctl restart tranched'."
    } else {
        "It is tried again. No function may have a type meanwhile, and the fixed-share scheduler excludes it."
    };
    report::error(gpu, Code::KernelRefused, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_an_l40s_are_those_that_nvidia_lists() {
        let gib = |size: u64| -> Vec<u64> { starts(48, size) };
        assert_eq!(gib(16), [0, 32]);
        assert_eq!(gib(12), [0, 12, 24, 36]);
        assert_eq!(gib(8), [0, 16, 24, 40]);
        assert_eq!(gib(48), [0]);
    }

    #[test]
    fn a_daemon_without_the_capability_is_told_how_to_get_it() {
        let gpu = "node1/0000:41:00.0".parse().unwrap();
        let hint = |said: &str| refused(&gpu, true, &Ran { success: false, said: said.to_owned() }).hint;
        assert!(hint("Unable to set: Insufficient Permissions\n").contains("CAP_SYS_ADMIN"));
        assert!(!hint("Unable to set: In use by another client\n").contains("CAP_SYS_ADMIN"));
    }

    #[test]
    fn the_switch_is_read_in_every_spelling() {
        let on = |said: &str| (read(said).supported, read(said).is_on);
        let of = |words: &str, value: &str| {
            format!("    Heterogeneous Time-Slice Sizes        : Supported\n    {words} : {value}\n")
        };
        for words in ["vGPU Heterogeneous Mode", "Heterogenous Multi-vGPU"] {
            assert_eq!(on(&of(words, "Enabled")), (true, Some(true)));
            assert_eq!(on(&of(words, "Disabled")), (true, Some(false)));
            assert_eq!(on(&of(words, "N/A")), (true, None));
        }
        assert_eq!(on("    Heterogeneous Time-Slice Sizes : Not Supported\n"), (false, None));
        assert_eq!(on("Product Name : NVIDIA L40S\n"), (false, None));
    }
}
