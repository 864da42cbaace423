//! One mode for all GPUs of a homogeneous set, on all hosts, in one wish.
//!
//! It is staged: a dry run tells a version, which is a digest of everything that the wish rests on, and a wish with a version
//! is refused if that is no longer so. Either all GPUs of the set get the mode, or none; each is judged as if it were
//! asked for alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Admitted, Refusal, State, gpu};
use crate::diagnostics as say;
use crate::finding::{Finding, Subject};
use crate::homogeneity::{Class, Classes, Kind};
use crate::name::{GpuKey, HostName, VmName};
use crate::operation::{Goal, OPERATION_FINDINGS_MAX};
use crate::spec::{GpuMode, GpuSpec};

/// The most GPUs that one wish changes: more would not fit into the record of its operation.
pub const SET_GPUS_MAX: usize = 4_000;

/// What a preview rests on. A UUID serves as the digest: it is one (RFC 9562, version 5), and everybody knows how to pass it on.
pub type Version = Uuid;

/// Which GPUs are meant. Where nothing is said, all that can be split, if they are of one configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// These.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub gpus: BTreeSet<GpuKey>,
    /// All of the same configuration as this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<GpuKey>,
}

/// A mode for all GPUs of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetMode {
    /// Which GPUs.
    #[serde(default)]
    pub selection: Selection,
    /// The mode: split into equal partitions, or released.
    pub mode: GpuMode,
    /// Shut the VMs that hold the GPUs down first; they start again where there is room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// Only if everything is still as it was when a dry run told this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Uuid>))]
    pub version: Option<Version>,
}

pub(super) fn set_all(wish: &SetMode, state: State<'_>) -> Result<Admitted, Refusal> {
    let chosen = choose(wish, state)?;
    let is = digest(wish, &chosen, state);
    if let Some(asked) = wish.version.filter(|asked| *asked != is) {
        return Err(vec![say::version_changed(&asked.to_string(), &is.to_string())]);
    }
    let mut spec = state.spec.clone();
    let (mut refusal, mut details) = (Vec::new(), Vec::new());
    let mut before: BTreeMap<GpuKey, GpuSpec> = BTreeMap::new();
    for key in &chosen.gpus {
        match gpu::set_mode_in(key, &wish.mode, wish.drain, &mut spec, state) {
            Ok((earlier, found)) => {
                before.extend(earlier.map(|earlier| (key.clone(), earlier)));
                details.extend(found);
            }
            Err(found) => refusal.extend(found),
        }
    }
    if !refusal.is_empty() {
        refusal.sort();
        refusal.dedup();
        return Err(refusal);
    }
    let mut findings = chosen.findings;
    let hosts: BTreeSet<&HostName> = before.keys().map(|key| &key.host).collect();
    if !before.is_empty() {
        findings.push(say::set_change(before.len(), hosts.len(), &vms_on(before.keys(), state)));
    }
    details.truncate(OPERATION_FINDINGS_MAX.saturating_sub(findings.len() + 1));
    findings.extend(details);
    let title = match (&wish.mode, chosen.gpus.len()) {
        (GpuMode::Host, number) => format!("release {}", say::counted(number as u64, "GPU")),
        (mode, number) => {
            let count = say::counted(mode.partitions().unwrap_or_default(), "partition");
            format!("split {} into {count} each", say::counted(number as u64, "GPU"))
        }
    };
    // The first that changes speaks for all; where none does, any.
    let (own, first) = match before.pop_first() {
        Some((key, earlier)) => (key, Some(Box::new(earlier))),
        None => (chosen.gpus[0].clone(), None),
    };
    let goal = Goal::GpuMode { gpu: own, mode: wish.mode.clone(), before: first, along: before };
    Ok(Admitted { spec, goal, title, subject: Subject::Installation, findings })
}

/// The version of what a wish rests on: of the GPUs that it chooses, their wishes, and the VMs on them.
///
/// # Errors
/// The findings that stand against choosing any GPU.
pub fn version(wish: &SetMode, state: State<'_>) -> Result<Version, Refusal> {
    Ok(digest(wish, &choose(wish, state)?, state))
}

struct Chosen {
    /// At least one.
    gpus: Vec<GpuKey>,
    findings: Vec<Finding>,
}

type Kinds<'a> = BTreeMap<Kind<'a>, Vec<GpuKey>>;

fn choose(wish: &SetMode, state: State<'_>) -> Result<Chosen, Refusal> {
    if !matches!(wish.mode, GpuMode::Host | GpuMode::Partitioned { .. }) {
        let range = "a count of equal partitions, or 'host'";
        return Err(vec![say::invalid_value("The mode of all GPUs", &wish.mode.to_string(), range)]);
    }
    let Selection { gpus: named, like } = &wish.selection;
    let classes = Classes::of(state.spec, state.inventory);
    let releases = wish.mode == GpuMode::Host;
    let candidate =
        |class: &&Class<'_>| class.traits.is_split() || (!releases && class.traits.can_be_split());
    let kinds = by_kind(classes.all.iter().filter(candidate), |_| true);
    let (gpus, is_picked) = if !named.is_empty() {
        let of_named = by_kind(classes.all.iter(), |key| named.contains(key));
        let known: BTreeSet<&GpuKey> = of_named.values().flatten().collect();
        let unknown: Vec<Finding> =
            named.iter().filter(|key| !known.contains(key)).map(say::gpu_not_found).collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        if of_named.len() > 1 {
            return Err(vec![say::selection_unlike(&describe(&of_named, state))]);
        }
        (named.iter().cloned().collect(), true)
    } else if let Some(like) = like {
        let of_kind = kinds.values().find(|gpus| gpus.contains(like));
        let of_kind = of_kind.ok_or_else(|| vec![not_to_be_split(like, state)])?;
        (of_kind.clone(), true)
    } else {
        match kinds.len() {
            0 => return Err(vec![say::nothing_to_split()]),
            1 => (kinds.values().flatten().cloned().collect(), false),
            many if kinds.values().map(Vec::len).sum::<usize>() == many => {
                return Err(vec![say::no_homogeneous_set(&describe(&kinds, state))]);
            }
            _ => return Err(vec![say::set_unlike(&describe(&kinds, state), false)]),
        }
    };
    if gpus.len() > SET_GPUS_MAX {
        let range = format!("at most {SET_GPUS_MAX}; choose with --gpu");
        return Err(vec![say::invalid_value("The number of GPUs", &gpus.len().to_string(), &range)]);
    }
    let mut findings = Vec::new();
    let of_set = kinds.values().find(|of_kind| gpus.iter().any(|gpu| of_kind.contains(gpu)));
    let chosen: BTreeSet<&GpuKey> = gpus.iter().collect();
    let left_out: Vec<GpuKey> =
        of_set.into_iter().flatten().filter(|gpu| !chosen.contains(gpu)).cloned().collect();
    if !left_out.is_empty() {
        findings.push(say::set_incomplete(&left_out));
    }
    if is_picked && kinds.len() > 1 {
        findings.push(say::set_unlike(&describe(&kinds, state), true));
    }
    Ok(Chosen { gpus, findings })
}

fn by_kind<'a>(
    classes: impl Iterator<Item = &'a Class<'a>>,
    is_meant: impl Fn(&GpuKey) -> bool,
) -> Kinds<'a> {
    let mut kinds = Kinds::new();
    for class in classes {
        let meant: Vec<GpuKey> = class.members.iter().map(|gpu| gpu.key()).filter(&is_meant).collect();
        if !meant.is_empty() {
            kinds.entry(class.traits.kind()).or_default().extend(meant);
        }
    }
    kinds.values_mut().for_each(|gpus| gpus.sort());
    kinds
}

/// Each kind in words, with its first GPU.
fn describe(kinds: &Kinds<'_>, state: State<'_>) -> Vec<(String, GpuKey)> {
    let words = |(kind, gpus): (&Kind<'_>, &Vec<GpuKey>)| {
        let first = gpus.first()?;
        let seen = state.inventory.get(&first.host).and_then(|observed| observed.gpus.get(&first.address));
        let model = seen.map_or_else(|| format!("{:04x}:{:04x}", kind.0, kind.1), |gpu| gpu.model.clone());
        let memory = kind.2.map(|mib| format!(", {mib} MiB")).unwrap_or_default();
        let mut counts: Vec<u16> = kind.4.iter().map(|offer| offer.count).collect();
        counts.sort_unstable();
        counts.dedup();
        let others = if gpus.len() > 1 { format!(" and {} more", gpus.len() - 1) } else { String::new() };
        let text = format!("{model}{memory}, counts {}: {first}{others}", say::list(&counts));
        Some((text, first.clone()))
    };
    kinds.iter().filter_map(words).collect()
}

fn not_to_be_split(key: &GpuKey, state: State<'_>) -> Finding {
    let Some(host) = state.inventory.get(&key.host) else { return state.unheard(&key.host) };
    let seen = host.gpus.get(&key.address);
    seen.map_or_else(|| say::gpu_not_found(key), |gpu| say::not_partitionable(key, &gpu.model))
}

fn vms_on<'a>(gpus: impl Iterator<Item = &'a GpuKey>, state: State<'_>) -> Vec<VmName> {
    let vms: BTreeSet<VmName> =
        gpus.flat_map(|gpu| state.plan.bookings_on(gpu).map(|(_, held)| held.vm.clone())).collect();
    vms.into_iter().collect()
}

/// A digest of what the change does to GPUs, and to whom: which are chosen, what they are, what is wished and decided for them,
/// and which VMs hold them, as of which command.
///
/// Where VMs that are drained will start again is not in it. That is decided when they are off, by the room that there is
/// then on any host: held to that, a version would be outdated by every VM that starts or stops meanwhile, anywhere.
fn digest(wish: &SetMode, chosen: &Chosen, state: State<'_>) -> Version {
    // Any fixed UUID serves as the name space; this one was drawn once for this purpose.
    const VERSIONS: Uuid = Uuid::from_u128(0x52e9_0d3b_7c1f_4e6d_8a35_b1c4_9f70_26ae);
    let mut facts = format!("{:?} {}", wish.mode, wish.drain);
    let mut note = |fact: &dyn std::fmt::Debug| {
        // Writing to a string does not fail.
        let _ = write!(facts, "\n{fact:?}");
    };
    note(&state.spec.policy.homogeneity);
    for key in &chosen.gpus {
        note(&(key, state.spec.gpus.get(key), state.plan.mode(key)));
        let seen = state.inventory.get(&key.host).and_then(|observed| observed.gpus.get(&key.address));
        note(&seen.map(|gpu| {
            (gpu.identity(), gpu.vram_mib, gpu.backend, &gpu.offers, &gpu.driver, &gpu.driver_version)
        }));
        for (slot, held) in state.plan.bookings_on(key) {
            let vm = state.spec.vms.get(&held.vm).map(|vm| (vm.id, vm.run, vm.serial, &vm.request));
            note(&(slot, &held.vm, held.vm_id, vm));
        }
    }
    for finding in &chosen.findings {
        note(finding);
    }
    Uuid::new_v5(&VERSIONS, facts.as_bytes())
}
