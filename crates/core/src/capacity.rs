//! Spare capacity: what could start now, and whether every protected VM could start elsewhere if its host died.
//!
//! It asks the same board that places VMs, so its answers are what would be done. Nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::change::State;
use crate::diagnostics as say;
use crate::finding::{Finding, Severity};
use crate::inventory::Offer;
use crate::name::{HostName, PoolName, VmName};
use crate::placement::{Board, GpuRoom, Kind, Tally, UNCOUNTED, turn};
use crate::planner::Memory;
use crate::spec::{Admission, Request, Spec, VmSource, VmSpec};

/// What hosts have to spare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Capacity {
    /// Hosts that are left out, as if they had died: the what-if of the question.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<HostName>,
    /// Protected VMs of the hosts that are left out that would not run, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stranded: Vec<Stranded>,
    /// For each size that there is, what could start.
    pub sizes: Vec<SizeCapacity>,
    /// For each host that takes VMs, what it has, and what would follow if it died.
    pub hosts: Vec<HostCapacity>,
    /// Whether every protected VM would run again whichever host died.
    pub survives_any: bool,
}

/// What could start of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SizeCapacity {
    /// The profile of a partition; none for whole GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The video memory of a partition in MiB, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_mib: Option<u64>,
    /// Of whole GPUs the pool, if they are in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// How many there are on hosts that take VMs.
    pub total: usize,
    /// How many of them are free: as many VMs that ask for this size could start, if there is memory for them.
    pub free: usize,
}

/// What a host has, and what would follow if it died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostCapacity {
    /// The host.
    pub host: HostName,
    /// Memory that VMs may still have, in MiB; none where it is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_memory_mib: Option<u64>,
    /// Virtual processors that VMs may still have; none where they are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_vcpus: Option<u64>,
    /// Free partitions and whole GPUs.
    pub free_slots: usize,
    /// Protected VMs that run on it.
    pub protected: usize,
    /// Those of them that would not run again if it died, and why, the most important first.
    pub stranded: Vec<Stranded>,
}

/// A VM that would not run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Stranded {
    /// The VM.
    pub vm: VmName,
    /// What it would wait for.
    pub why: Finding,
}

/// What there is to spare, as things are; with `without`, as if these hosts had died and their VMs run elsewhere.
///
/// # Errors
/// A host that is to be left out does not exist.
pub fn capacity(state: State<'_>, without: &BTreeSet<HostName>) -> Result<Capacity, Vec<Finding>> {
    let unknown: Vec<Finding> = without
        .iter()
        .filter(|host| !state.inventory.contains_key(*host))
        .map(|host| state.unheard(host))
        .collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let mut board = Board::of(state);
    let mut protected = protected(state, &board);
    let mut stranded = Vec::new();
    for host in without {
        board.close(host);
    }
    for host in without {
        let vms = protected.remove(host).unwrap_or_default();
        let (placed, left) = board.place_all(&vms);
        for (vm, place) in placed {
            let entry = (vm.0, vm.1);
            board.put(entry, &place);
            protected.entry(place.host.clone()).or_default().push(entry);
        }
        stranded.extend(left.into_iter().map(|(vm, why)| Stranded { vm: vm.clone(), why }));
    }
    let rooms: Vec<_> = board.index().hosts().map(|(_, room)| room.clone()).collect();
    let (mut hosts, mut losses) = (Vec::with_capacity(rooms.len()), Losses::default());
    for room in rooms {
        let mut vms = protected.remove(&room.host).unwrap_or_default();
        vms.sort_by_key(|(name, spec)| turn(name, spec));
        let counted = |amount: u64| Some(amount).filter(|amount| *amount != UNCOUNTED);
        let stranded = losses.of(&mut board, &room.host, &vms);
        hosts.push(HostCapacity {
            free_memory_mib: counted(room.free_memory_mib),
            free_vcpus: counted(room.free_vcpus),
            free_slots: room.gpus.iter().map(|gpu| gpu.free.len() as usize).sum(),
            protected: vms.len(),
            stranded: stranded.into_iter().map(|(vm, why)| Stranded { vm: vm.clone(), why }).collect(),
            host: room.host,
        });
    }
    let survives_any = stranded.is_empty() && hosts.iter().all(|host| host.stranded.is_empty());
    Ok(Capacity { without: without.clone(), stranded, sizes: sizes(&board), hosts, survives_any })
}

/// The protected VMs that run, by host, in the order in which they are served.
fn protected<'a>(state: State<'a>, board: &Board<'_>) -> BTreeMap<HostName, Vec<(&'a VmName, &'a VmSpec)>> {
    let mut by_host: BTreeMap<HostName, Vec<(&VmName, &VmSpec)>> = BTreeMap::new();
    for (name, spec) in state.spec.vms.iter().filter(|(_, spec)| spec.run.is_up() && spec.is_protected()) {
        if let Some(host) = board.places().get(name) {
            by_host.entry(host.clone()).or_default().push((name, spec));
        }
    }
    by_host.values_mut().for_each(|vms| vms.sort_by_key(|(name, spec)| turn(name, spec)));
    by_host
}

/// What follows from the loss of one host or another, while nobody takes room or frees it.
#[derive(Debug, Default)]
struct Losses<'v> {
    tally: Tally<'v>,
    /// All VMs that run or shall run, by host, once somebody has to be tried.
    residents: Option<BTreeMap<HostName, Vec<VmName>>>,
}

impl<'v> Losses<'v> {
    /// Those of a host's VMs that are to run again and would not.
    fn of(
        &mut self,
        board: &mut Board<'_>,
        host: &HostName,
        vms: &[(&'v VmName, &'v VmSpec)],
    ) -> Vec<(&'v VmName, Finding)> {
        let is_enough = self.tally.is_enough(board, host, vms);
        if is_enough && !cfg!(debug_assertions) {
            return Vec::new();
        }
        let residents = self.residents.get_or_insert_with(|| residents(board));
        let stranded = board.loss_of(host, residents.get(host).map_or(&[][..], Vec::as_slice), vms);
        debug_assert!(!is_enough || stranded.is_empty(), "what is counted to find room does: {stranded:?}");
        stranded
    }
}

/// All VMs that run or shall run, by host.
fn residents(board: &Board<'_>) -> BTreeMap<HostName, Vec<VmName>> {
    let mut by_host: BTreeMap<HostName, Vec<VmName>> = BTreeMap::new();
    for (vm, host) in board.places() {
        by_host.entry(host.clone()).or_default().push(vm.clone());
    }
    by_host
}

/// For each size that there is, how much of it.
fn sizes(board: &Board<'_>) -> Vec<SizeCapacity> {
    let mut partitions: BTreeSet<(Option<u64>, String)> = BTreeSet::new();
    let mut pools: BTreeSet<Option<PoolName>> = BTreeSet::new();
    for (_, room) in board.index().hosts() {
        for gpu in &room.gpus {
            match &gpu.kind {
                Kind::Whole(pool) => drop(pools.insert(pool.clone())),
                kind => partitions
                    .extend(kind.sizes().iter().map(|size: &Offer| (size.vram_mib, size.profile.clone()))),
            }
        }
    }
    let of_partition = |(vram_mib, profile): (Option<u64>, String)| {
        let stock = board.index().stock(&Request::Partition { vram_mib, profile: Some(profile.clone()) });
        SizeCapacity { profile: Some(profile), vram_mib, pool: None, total: stock.total, free: stock.free }
    };
    let of_pool = |pool: Option<PoolName>| {
        let in_pool = |gpu: &&GpuRoom| gpu.kind == Kind::Whole(pool.clone());
        let gpus: Vec<_> =
            board.index().hosts().flat_map(|(_, room)| room.gpus.iter().filter(in_pool)).collect();
        let free = gpus.iter().filter(|gpu| !gpu.free.is_empty()).count();
        let total = gpus.iter().filter(|gpu| !gpu.usable.is_empty()).count();
        SizeCapacity { profile: None, vram_mib: None, pool: pool.clone(), total, free }
    };
    partitions.into_iter().map(of_partition).chain(pools.into_iter().map(of_pool)).collect()
}

/// What the policy says to a VM that is to run: a finding if then the loss of some host could not be made good any more,
/// and it could before. It is an error where the policy is to refuse such VMs.
///
/// A VM that has no room waits, whatever the policy is; it takes nothing from those that run.
pub fn admission(name: &VmName, spec: &VmSpec, state: State<'_>, memory: &mut Memory) -> Option<Finding> {
    if !is_counted(spec, state) {
        return None;
    }
    let (after, before) = memory.ask(state, |board| short_with((name, spec), board, state))?;
    shortage(name, after, &before, state)
}

/// What the loss of hosts would leave over with a VM that does not run now, and what without it of those hosts of which it does. None if
/// the VM runs already, or waits.
fn short_with(vm: (&VmName, &VmSpec), board: &mut Board<'_>, state: State<'_>) -> Option<(Short, Short)> {
    if board.places().contains_key(vm.0) {
        return None;
    }
    let place = board.choose(vm, None).ok()?;
    let (hosts, mut by_host) = (hosts(board), protected(state, board));
    board.put(vm, &place);
    if vm.1.is_protected() {
        let there = by_host.entry(place.host.clone()).or_default();
        there.push(vm);
        there.sort_by_key(|(name, spec)| turn(name, spec));
    }
    let after = short_of(board, &hosts, &by_host);
    board.unput(vm, &place);
    let hosts: Vec<HostName> = after.keys().cloned().collect();
    by_host.entry(place.host).or_default().retain(|(other, _)| *other != vm.0);
    let before = short_of(board, &hosts, &by_host);
    Some((after, before))
}

/// The same for a VM for which more or less is to be done than before: one that runs and is to be protected from now on needs
/// room that others counted on.
pub fn protection(name: &VmName, spec: &VmSpec, state: State<'_>) -> Option<Finding> {
    if !is_counted(spec, state) {
        return None;
    }
    let short = |spec: &Spec, of: Option<&[HostName]>| {
        let state = State { spec, ..state };
        let mut board = Board::of(state);
        let by_host = protected(state, &board);
        let hosts = of.map_or_else(|| hosts(&board), <[HostName]>::to_vec);
        short_of(&mut board, &hosts, &by_host)
    };
    let mut changed = state.spec.clone();
    changed.vms.insert(name.clone(), spec.clone());
    let after = short(&changed, None);
    let hosts: Vec<HostName> = after.keys().cloned().collect();
    shortage(name, after, &short(state.spec, Some(&hosts)), state)
}

/// Whether the policy has anything to say to a VM.
fn is_counted(spec: &VmSpec, state: State<'_>) -> bool {
    state.spec.policy.admission != Admission::Off
        && !state.spec.hosts.is_empty()
        && matches!(spec.source, VmSource::Made(_))
}

fn hosts(board: &Board<'_>) -> Vec<HostName> {
    board.index().hosts().map(|(_, room)| room.host.clone()).collect()
}

/// What is said if more VMs than before would be left over if some host died.
fn shortage(name: &VmName, after: Short, before: &Short, state: State<'_>) -> Option<Finding> {
    let worse = |(host, vms): &(HostName, Vec<VmName>)| vms.len() > before.get(host).map_or(0, Vec::len);
    let (host, vms) = after.into_iter().find(worse)?;
    let is_refused = state.spec.policy.admission == Admission::Enforce;
    let severity = if is_refused { Severity::Error } else { Severity::Warning };
    Some(Finding { severity, ..say::capacity_short(name, &host, &vms) })
}

/// By host the protected VMs that would not run again if it died; only hosts that have such VMs.
type Short = BTreeMap<HostName, Vec<VmName>>;

fn short_of(
    board: &mut Board<'_>,
    hosts: &[HostName],
    protected: &BTreeMap<HostName, Vec<(&VmName, &VmSpec)>>,
) -> Short {
    let (mut short, mut losses) = (Short::new(), Losses::default());
    for host in hosts {
        let vms = protected.get(host).map_or(&[][..], Vec::as_slice);
        let stranded = losses.of(board, host, vms);
        if !stranded.is_empty() {
            short.insert(host.clone(), stranded.into_iter().map(|(vm, _)| vm.clone()).collect());
        }
    }
    short
}
