//! Several VMs at once: those of a host that died, or would die.
//!
//! One by one, in the order in which VMs are served, each gets the best place. Where that leaves somebody without, other
//! orders among VMs of one priority are tried, and the one that serves the most is taken; never at the cost of a VM of
//! higher priority, and never by moving anybody who runs.

use std::cmp::Reverse;

use super::board::{Board, turn};
use super::index::Place;
use crate::finding::Finding;
use crate::name::{HostName, VmName};
use crate::spec::{Request, VmSpec};

/// A VM and what it asks for.
type Vm<'v> = (&'v VmName, &'v VmSpec);
/// VMs with the places that they get, and those that get none, with what they would wait for.
type Placed<'v> = (Vec<(Vm<'v>, Place)>, Vec<(&'v VmName, Finding)>);

/// In which order VMs of one priority are taken.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// As they are served when they wait.
    Age,
    /// Those that need the least first, each on the best place.
    SmallFirst,
    /// Those that need the most first, each on the first host that has room (first-fit decreasing).
    LargeFirst,
}

impl Board<'_> {
    /// Places for several VMs at once. Nothing is taken.
    pub fn place_all<'v>(&mut self, vms: &[Vm<'v>]) -> Placed<'v> {
        let mut best = self.try_order(vms, Order::Age);
        for order in [Order::SmallFirst, Order::LargeFirst] {
            if best.1.is_empty() {
                break;
            }
            let other = self.try_order(vms, order);
            if served(&other) > served(&best) {
                best = other;
            }
        }
        best
    }

    /// The VMs of a host that would not run again if it died. Nothing is taken.
    /// `residents` are all that run on it, and `vms` those that are to run again.
    pub fn loss_of<'v>(
        &mut self,
        host: &HostName,
        residents: &[VmName],
        vms: &[Vm<'v>],
    ) -> Vec<(&'v VmName, Finding)> {
        for vm in residents {
            self.ground.places.remove(vm);
        }
        self.ground.index.set_away(host, true);
        let (_, stranded) = self.place_all(vms);
        self.ground.index.set_away(host, false);
        self.ground.places.extend(residents.iter().map(|vm| (vm.clone(), host.clone())));
        stranded
    }

    fn try_order<'v>(&mut self, vms: &[Vm<'v>], order: Order) -> Placed<'v> {
        let mut in_turn = vms.to_vec();
        // Of GPUs first, then memory, then processors.
        let size = |name: &VmName, spec: &VmSpec| (gpus_of(spec), self.needs((name, spec), None));
        in_turn.sort_by_key(|(name, spec)| {
            let size = match order {
                Order::Age => None,
                Order::SmallFirst => Some((Some(size(name, spec)), None)),
                Order::LargeFirst => Some((None, Some(Reverse(size(name, spec))))),
            };
            (Reverse(spec.availability.priority), size, turn(name, spec))
        });
        let (mut placed, mut stranded) = (Vec::new(), Vec::new());
        for vm in in_turn {
            let place = match order {
                Order::LargeFirst => self.first_fit(vm).ok_or(None),
                Order::Age | Order::SmallFirst => self.choose(vm, None).map_err(Some),
            };
            match place {
                Ok(place) => {
                    self.put(vm, &place);
                    placed.push((vm, place));
                }
                Err(why) => {
                    let why = why.or_else(|| self.choose(vm, None).err());
                    stranded.extend(why.map(|why| (vm.0, *why)));
                }
            }
        }
        for (vm, place) in &placed {
            self.unput(*vm, place);
        }
        (placed, stranded)
    }
}

/// How many VMs of each priority are served, the highest first.
fn served(placed: &Placed<'_>) -> Vec<(u16, usize)> {
    let mut counts: Vec<(u16, usize)> = Vec::new();
    for ((_, spec), _) in &placed.0 {
        let priority = spec.availability.priority;
        match counts.last_mut().filter(|(of, _)| *of == priority) {
            Some((_, count)) => *count += 1,
            None => counts.push((priority, 1)),
        }
    }
    counts
}

/// How much of GPUs a VM needs: how many whole ones, and memory of a partition.
fn gpus_of(spec: &VmSpec) -> (u64, u64) {
    match &spec.request {
        Request::None => (0, 0),
        Request::Partition { vram_mib, .. } => (0, vram_mib.unwrap_or_default()),
        Request::Whole { gpus, .. } => (u64::from(*gpus), 0),
    }
}
