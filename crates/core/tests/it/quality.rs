//! How good placement is when a host dies: against first-fit decreasing, and against the optimum by a mixed-integer solver.

use std::collections::{BTreeMap, BTreeSet};

use microlp::{ComparisonOp, OptimizationDirection, Problem};
use tranche_core::name::*;
use tranche_core::placement::{HostRoom, Kind};
use tranche_core::plan::VmGoal;
use tranche_core::planner;
use tranche_core::spec::*;

use crate::fleet::{Fleet, node};
use crate::world::{PASSTHROUGH, partitioned, vm};

const HOSTS: usize = 6;
const GPUS: u8 = 3;
/// A host's memory for each of its slots would be enough for this, on average.
const MEMORY_STEP_MIB: u64 = 1_024;

/// How many VMs of a dead host ran again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    /// VMs that lost their host.
    pub(crate) lost: usize,
    /// Those that the planner placed.
    pub(crate) planned: usize,
    /// Those that first-fit decreasing would place.
    pub(crate) first_fit: usize,
    /// The most that could be placed at all without moving anybody else.
    pub(crate) optimum: usize,
}

/// A random cluster that is so full, in percent, of which one host dies.
pub(crate) fn one_host_lost(seed: u64, fill_percent: usize) -> Outcome {
    let mut dice = Dice(seed * 1_000 + fill_percent as u64);
    let fleet = filled(&mut dice, fill_percent);
    let dead = node(1 + dice.below(HOSTS));
    let lost: Vec<&VmName> =
        fleet.plan.vms.iter().filter(|(_, planned)| planned.host == dead).map(|(name, _)| name).collect();
    let mut inventory = fleet.inventory.clone();
    inventory.get_mut(&dead).unwrap().pulse.as_mut().unwrap().silent_ms = 60_000;
    let after = planner::plan(&fleet.spec, &inventory, &fleet.plan, Timestamp(1_000)).plan;
    let mut planned = 0;
    for (name, was) in &fleet.plan.vms {
        let is = after.vms.get(name);
        let held = |plan: &tranche_core::plan::Plan| {
            plan.held_by(name).map(|(slot, _)| slot.clone()).collect::<Vec<_>>()
        };
        if was.host != dead {
            assert_eq!(is.map(|is| (&is.host, is.goal)), Some((&was.host, was.goal)), "{name} was touched");
            assert_eq!(held(&fleet.plan), held(&after), "{name} was touched");
        } else if is.is_some_and(|is| is.goal == VmGoal::Run && is.host != dead) {
            assert_eq!(
                held(&after).len(),
                fleet.spec.vms[name].request.slots(),
                "{name} runs without its GPU"
            );
            planned += 1;
        }
    }
    let rooms: Vec<HostRoom> = fleet
        .board()
        .index()
        .hosts()
        .map(|(_, room)| room.clone())
        .filter(|room| room.host != dead)
        .collect();
    let vms: Vec<&VmSpec> = lost.iter().map(|name| &fleet.spec.vms[*name]).collect();
    Outcome {
        lost: lost.len(),
        planned,
        first_fit: first_fit_decreasing(&vms, rooms.clone()),
        optimum: optimum(&vms, &rooms),
    }
}

/// Hosts whose GPUs are split unequally or given away whole, with VMs that ask for sizes and for memory unequally.
fn filled(dice: &mut Dice, fill_percent: usize) -> Fleet {
    let mut fleet = Fleet::new(HOSTS, GPUS, 4);
    let Fleet { spec, plan, inventory, .. } = &mut fleet;
    plan.gpus.change_each(|key, planned| {
        let mode = match dice.below(7) {
            0 | 1 => partitioned(2),
            2 | 3 => partitioned(4),
            4 | 5 => partitioned(8),
            _ => PASSTHROUGH,
        };
        let card = &inventory[&key.host].gpus[&key.address];
        planned.offer = mode.partitions().and_then(|count| card.offer(count, None).cloned());
        planned.mode = mode.clone();
        spec.gpus.get_mut(key).unwrap().mode = mode;
    });
    let slots: usize = fleet
        .board()
        .index()
        .hosts()
        .flat_map(|(_, room)| &room.gpus)
        .map(|gpu| gpu.free.len() as usize)
        .sum();
    fleet.inventory.change_each(|_, seen| {
        // Memory is about as scarce as partitions are.
        seen.system.memory_mib = slots as u64 * 5 * MEMORY_STEP_MIB / HOSTS as u64;
        seen.system.cpus = 64;
    });
    let (mut number, mut misses) = (0, 0);
    while fleet.plan.bookings.len() * 100 < slots * fill_percent && misses < 60 {
        let request = match dice.below(8) {
            0 => Request::Whole { gpus: [1, 2][dice.below(2)], pool: None },
            1 | 2 => Request::ANY_PARTITION,
            _ => Request::Partition { vram_mib: Some([8_192, 4_096, 2_048][dice.below(3)]), profile: None },
        };
        let name = format!("vm{number}");
        let spec = fleet.add(&name, request);
        if let VmSource::Made(hardware) = &mut spec.source {
            hardware.memory_mib = MEMORY_STEP_MIB * (1 + dice.below(8) as u64);
        }
        let started = (0..12).any(|_| {
            let host = node(1 + dice.below(HOSTS));
            fleet.run_on(&name, &host)
        });
        if started {
            number += 1;
        } else {
            fleet.spec.vms.remove(&vm(&name));
            misses += 1;
        }
    }
    fleet
}

fn memory_of(spec: &VmSpec) -> u64 {
    match &spec.source {
        VmSource::Made(hardware) => hardware.memory_mib,
        VmSource::Adopted => 0,
    }
}

/// The textbook's: the largest first, each on the first host, and there on the first slots, that serve.
fn first_fit_decreasing(vms: &[&VmSpec], mut rooms: Vec<HostRoom>) -> usize {
    let mut in_turn = vms.to_vec();
    let size = |spec: &VmSpec| match &spec.request {
        Request::None => (0, 0),
        Request::Partition { vram_mib, .. } => (0, vram_mib.unwrap_or_default()),
        Request::Whole { gpus, .. } => (u64::from(*gpus), 0),
    };
    in_turn.sort_by_key(|spec| (std::cmp::Reverse((size(spec), memory_of(spec))), spec.created_at));
    let mut placed = 0;
    for spec in in_turn {
        for room in rooms.iter_mut().filter(|room| room.free_memory_mib >= memory_of(spec)) {
            let fits = |slot: &Slot, kind: &Kind| kind.fits(*slot, &spec.request);
            let found: Vec<(usize, Slot)> = (0..)
                .zip(&room.gpus)
                .filter_map(|(at, gpu)| Some((at, gpu.free.iter().find(|slot| fits(slot, &gpu.kind))?)))
                .take(spec.request.slots())
                .collect();
            if found.len() == spec.request.slots() {
                found.iter().for_each(|(at, slot)| room.gpus[*at].free.remove(*slot));
                room.free_memory_mib -= memory_of(spec);
                placed += 1;
                break;
            }
        }
    }
    placed
}

/// The most VMs that fit: one variable for each VM, host and kind of GPU that serves it.
fn optimum(vms: &[&VmSpec], rooms: &[HostRoom]) -> usize {
    let mut problem = Problem::new(OptimizationDirection::Maximize);
    let mut of_vm = vec![Vec::new(); vms.len()];
    for room in rooms {
        let kinds: BTreeSet<&Kind> = room.gpus.iter().map(|gpu| &gpu.kind).collect();
        let mut memory = Vec::new();
        for kind in kinds {
            let free: u32 = room.gpus.iter().filter(|gpu| gpu.kind == *kind).map(|gpu| gpu.free.len()).sum();
            let slot = if matches!(kind, Kind::Whole(_)) { Slot::Whole } else { Slot::Partition(0) };
            let mut slots = Vec::new();
            for (at, spec) in vms.iter().enumerate().filter(|(_, spec)| kind.fits(slot, &spec.request)) {
                let takes = problem.add_binary_var(1.0);
                of_vm[at].push((takes, 1.0));
                slots.push((takes, spec.request.slots() as f64));
                memory.push((takes, (memory_of(spec) / MEMORY_STEP_MIB) as f64));
            }
            problem.add_constraint(&slots, ComparisonOp::Le, f64::from(free));
        }
        problem.add_constraint(&memory, ComparisonOp::Le, (room.free_memory_mib / MEMORY_STEP_MIB) as f64);
    }
    for choices in of_vm {
        problem.add_constraint(&choices, ComparisonOp::Le, 1.0);
    }
    let solution = problem.solve().unwrap().into_solution().unwrap();
    (0..=vms.len()).rev().find(|count| *count as f64 <= solution.objective() + 0.5).unwrap_or_default()
}

/// Numbers that are the same in each run (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % limit as u64).expect("below a usize")
    }
}

#[test]
fn when_a_host_dies_no_fewer_vms_run_again_than_by_first_fit_decreasing_and_no_other_is_touched() {
    let mut sums: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for fill in [75, 85, 92] {
        for seed in 1..=20 {
            let outcome = one_host_lost(seed, fill);
            assert!(outcome.planned >= outcome.first_fit, "seed {seed}, {fill} %: {outcome:?}");
            assert!(outcome.planned <= outcome.optimum, "seed {seed}, {fill} %: {outcome:?}");
            let (planned, optimum) = sums.entry(fill).or_default();
            *planned += outcome.planned;
            *optimum += outcome.optimum;
        }
    }
    println!("planned of the optimum, by fill in percent: {sums:?}");
    assert!(sums.values().all(|(planned, optimum)| planned * 100 >= optimum * 90), "{sums:?}");
    assert!(sums.values().any(|(planned, _)| *planned > 0));
}
