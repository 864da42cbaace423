//! Tally: that all VMs of a host find room elsewhere, told by counting.
//!
//! A trial places each of them, and for each host of a fleet that is a hundred thousand places to choose. Mostly there is far more
//! room than is needed, and then it is enough to count: VMs that ask for the same are a class; of each class so many fit on all
//! hosts together, on each by what is least of its slots, memory and processors; and a VM of another class takes the room of at
//! most so many, wherever it goes. What is left after all others were placed as badly as can be is enough, or only a trial tells.
//!
//! It never says yes where a trial would leave somebody over, and where rules or storage have a say, it leaves the word to the trial.

use std::collections::BTreeMap;

use super::board::Board;
use super::index::Ask;
use super::room::{GpuRoom, HostRoom, Kind};
use crate::name::{HostName, Slot, VmName};
use crate::spec::{Request, VmSource, VmSpec};

/// More classes than that are not told apart: who has them is tried.
const CLASSES_MAX: usize = 16;
/// As many as fit where nothing bounds them.
const UNBOUNDED: u64 = 1 << 32;

/// How many VMs of each class fit, as hosts are now. It is of no use any more when room was taken or freed.
#[derive(Debug, Default)]
pub(crate) struct Tally<'v>(Vec<Class<'v>>);

/// VMs that ask for the same.
#[derive(Debug)]
struct Class<'v> {
    ask: Ask<'v>,
    /// How many fit on each host.
    by_host: BTreeMap<HostName, u64>,
    /// How many fit on all of them.
    total: u64,
}

impl<'v> Tally<'v> {
    /// Whether it is certain, without a trial, that all these VMs find room on other hosts than one.
    pub(crate) fn is_enough(
        &mut self,
        board: &Board<'_>,
        host: &HostName,
        vms: &[(&'v VmName, &'v VmSpec)],
    ) -> bool {
        let mut counts: Vec<u64> = Vec::new();
        for vm in vms {
            let Some(class) = self.class_of(board, *vm) else { return false };
            counts.resize(self.0.len().max(counts.len()), 0);
            counts[class] += 1;
        }
        let present = || self.0.iter().zip(&counts).filter(|(_, count)| **count > 0);
        present().all(|(class, own)| {
            let others = present().filter(|(other, _)| !std::ptr::eq(*other, class));
            let taken: u64 = others.map(|(other, count)| count * taken_by(&other.ask, &class.ask)).sum();
            let elsewhere = class.total - class.by_host.get(host).copied().unwrap_or_default();
            elsewhere >= own + taken
        })
    }

    /// The number of a VM's class; none where more than counts has a say in where it goes.
    fn class_of(&mut self, board: &Board<'_>, (name, spec): (&'v VmName, &'v VmSpec)) -> Option<usize> {
        let is_plain = matches!(spec.source, VmSource::Made(_)) && board.is_free(name);
        let is_several = matches!(spec.request, Request::Whole { gpus, .. } if gpus > 1);
        if !is_plain || is_several || board.serving((name, spec)).is_some() {
            return None;
        }
        let (memory_mib, vcpus) = board.needs((name, spec), None);
        let ask = Ask { request: &spec.request, prefer_numa_node: None, memory_mib, vcpus };
        let is_same = |class: &Class<'_>| {
            (class.ask.request, class.ask.memory_mib, class.ask.vcpus) == (ask.request, memory_mib, vcpus)
        };
        if let Some(known) = self.0.iter().position(is_same) {
            return Some(known);
        }
        if self.0.len() == CLASSES_MAX {
            return None;
        }
        let rooms = board.index().hosts().map(|(_, room)| room);
        let by_host: BTreeMap<HostName, u64> =
            rooms.map(|room| (room.host.clone(), fits(room, &ask))).collect();
        self.0.push(Class { ask, total: by_host.values().sum(), by_host });
        Some(self.0.len() - 1)
    }
}

/// How many VMs that ask for the same fit on a host.
fn fits(room: &HostRoom, ask: &Ask<'_>) -> u64 {
    let by_need = |free: u64, need: u64| free.checked_div(need).unwrap_or(UNBOUNDED);
    let slots = match ask.request {
        Request::None => UNBOUNDED,
        request => room.gpus.iter().map(|gpu| slots_for(gpu, request)).sum(),
    };
    let beside = by_need(room.free_memory_mib, ask.memory_mib).min(by_need(room.free_vcpus, ask.vcpus));
    slots.min(beside).min(UNBOUNDED)
}

/// How many free slots of a GPU serve a request.
fn slots_for(gpu: &GpuRoom, request: &Request) -> u64 {
    let serving = |slot: &Slot| gpu.kind.fits(*slot, request);
    match gpu.kind {
        Kind::Mixed(_) => gpu.free.iter().filter(serving).count() as u64,
        // Equal slots serve alike: the first speaks for all.
        Kind::Equal(_) | Kind::Whole(_) => {
            gpu.free.iter().next().filter(serving).map_or(0, |_| u64::from(gpu.free.len()))
        }
    }
}

/// By how many one VM makes the room for VMs of another class less at most, wherever it goes.
fn taken_by(one: &Ask<'_>, from: &Ask<'_>) -> u64 {
    let share = |takes: u64, need: u64| if need == 0 { 0 } else { takes.div_ceil(need) };
    let slots = u64::from(*one.request != Request::None && *from.request != Request::None);
    slots.max(share(one.memory_mib, from.memory_mib)).max(share(one.vcpus, from.vcpus))
}
