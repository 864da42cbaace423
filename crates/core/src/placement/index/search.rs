//! Searching the index: the best place for a VM, and what there is when there is none.

use std::collections::BTreeSet;

use super::{Ask, HostId, Index, Place, ShapeKey};
use crate::inventory::Offer;
use crate::name::{GpuKey, HostName, Slot, SlotKey};
use crate::placement::groups::HostSet;
use crate::placement::room::{GpuRoom, HostRoom, Kind};
use crate::placement::shelf::Shelf;
use crate::spec::{PlacementPolicy, Request};

/// Groups of up to so many hosts are looked into one by one rather than searched for on the shelves.
const LOOK_INTO_EACH_MAX: usize = 32;

/// How good a place is: less is better, and of equals the lower address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Whether the GPU is off the NUMA node that the VM prefers.
    far: bool,
    /// How many smaller sizes on the GPU would serve too, and are all taken.
    excess: usize,
    /// Free slots on the GPU (pack), or the most possible less those (spread).
    crowding: u32,
}

/// What there is of the slots that serve a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stock {
    /// How many there are.
    pub total: usize,
    /// How many of them are free.
    pub free: usize,
    /// The most whole GPUs that any host has free.
    pub most_on_one_host: usize,
    /// The sizes of all partitions that there are.
    pub sizes: BTreeSet<Offer>,
}

impl Index {
    /// The best place for a VM among all hosts.
    pub fn choose(&self, ask: &Ask<'_>) -> Option<Place> {
        self.search(ask, None)
    }

    /// The best place on one host.
    pub fn choose_on(&self, host: &HostName, ask: &Ask<'_>) -> Option<Place> {
        let room = self.room_of(*self.by_name.get(host)?)?;
        self.look_into(room, ask).map(|(_, chosen)| place(room, &chosen))
    }

    /// The best place on the hosts of the first group that has any.
    pub fn choose_among(&self, groups: &[HostSet], ask: &Ask<'_>) -> Option<Place> {
        groups.iter().find_map(|group| match group.len() {
            0 => None,
            1..=LOOK_INTO_EACH_MAX => {
                let each = group.iter().filter_map(|id| {
                    let room = self.room_of(id)?;
                    let (score, chosen) = self.look_into(room, ask)?;
                    Some(((score, self.ranks[id.0 as usize]), room, chosen))
                });
                let best = each.min_by_key(|(score, _, _)| *score);
                best.map(|(_, room, chosen)| place(room, &chosen))
            }
            _ => self.search(ask, Some(group)),
        })
    }

    /// Whether a place that was chosen earlier is still free.
    pub fn still_has(&self, place: &Place, ask: &Ask<'_>) -> bool {
        let Some(room) = self.id_of(&place.host).and_then(|id| self.room_of(id)) else { return false };
        let is_free = |slot: &SlotKey| {
            let found = room.gpus.binary_search_by(|gpu| gpu.address.cmp(&slot.gpu.address));
            found.is_ok_and(|at| room.gpus[at].free.contains(slot.slot))
        };
        room.free_memory_mib >= ask.memory_mib
            && room.free_vcpus >= ask.vcpus
            && place.slots.iter().all(is_free)
    }

    /// The first place there is: on the first host by name, on its first GPUs, the first slots that serve.
    pub fn first_fit(&self, ask: &Ask<'_>, serves: impl Fn(HostId) -> bool) -> Option<Place> {
        let need = ask.need();
        let lowest = |shape: &super::Shape| {
            self.excess(shape.key, ask.request)?;
            shape.shelf.lowest(&need, &serves, &self.ranks)
        };
        let host = self.shapes.iter().filter_map(lowest).min_by_key(|host| self.ranks[host.0 as usize])?;
        let room = self.room_of(host)?;
        let first = |(at, gpu): (usize, &GpuRoom)| {
            gpu.free.iter().find(|slot| gpu.kind.fits(*slot, ask.request)).map(|slot| (at, slot))
        };
        let chosen: Vec<_> =
            room.gpus.iter().enumerate().filter_map(first).take(need.gpus as usize).collect();
        Some(place(room, &chosen))
    }

    /// Whether a host has room for all of several VMs at once, each placed as if it came alone, in this order.
    pub fn holds_all(&self, host: HostId, asks: &[Ask<'_>]) -> bool {
        let Some(mut room) = self.room_of(host).cloned() else { return false };
        asks.iter().all(|ask| {
            let Some((_, chosen)) = self.look_into(&room, ask) else { return false };
            room.free_memory_mib = super::less(room.free_memory_mib, ask.memory_mib);
            room.free_vcpus = super::less(room.free_vcpus, ask.vcpus);
            for (at, slot) in chosen {
                room.gpus[at].free.remove(slot);
            }
            true
        })
    }

    /// What there is for a request, whatever memory and processors it may need.
    pub fn stock(&self, request: &Request) -> Stock {
        let (mut total, mut free) = (0, 0);
        let mut sizes = BTreeSet::new();
        for of_kind in &self.kinds {
            let slot = |index: u16| match of_kind.kind {
                Kind::Whole(_) => Slot::Whole,
                Kind::Equal(_) | Kind::Mixed(_) => Slot::Partition(index),
            };
            for (index, (usable, unused)) in of_kind.stock.iter().filter(|(_, (usable, _))| *usable > 0) {
                let size = of_kind.kind.sizes().get(usize::from(*index));
                sizes.extend(size.cloned());
                if of_kind.kind.fits(slot(*index), request) {
                    total += usable;
                    free += unused;
                }
            }
        }
        let serving = self.shapes.iter().filter(|shape| self.excess(shape.key, request).is_some());
        let most = serving.map(|shape| shape.shelf.most_gpus()).max().unwrap_or_default();
        Stock { total, free, most_on_one_host: most as usize, sizes }
    }

    /// The hosts that are in the index, in the order of their names.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &HostRoom)> {
        self.by_name.values().filter_map(|id| Some((*id, self.room_of(*id)?)))
    }

    /// The number of a host.
    pub fn id_of(&self, host: &HostName) -> Option<HostId> {
        self.by_name.get(host).copied()
    }

    /// Asks the shelves of the shapes that serve; those of the preferred NUMA node first.
    fn search(&self, ask: &Ask<'_>, among: Option<&HostSet>) -> Option<Place> {
        let near = ask.prefer_numa_node.filter(|_| *ask.request != Request::None);
        let near = near.and_then(|node| self.best_host(ask, among, Some(node)));
        let room = self.room_of(near.or_else(|| self.best_host(ask, among, None))?)?;
        self.look_into(room, ask).map(|(_, chosen)| place(room, &chosen))
    }

    fn best_host(&self, ask: &Ask<'_>, among: Option<&HostSet>, node: Option<u16>) -> Option<HostId> {
        let need = ask.need();
        let serves = |host| among.is_none_or(|among| among.contains(host));
        let of_shape = |shape: &super::Shape| -> Option<((usize, u32, u32), HostId)> {
            let excess = self.excess(shape.key, ask.request)?;
            let shelf: &Shelf = match node {
                None => &shape.shelf,
                Some(node) => shape.by_node.get(&node)?,
            };
            let (free, host) = shelf.first(self.policy, &need, serves)?;
            Some(((excess, self.crowding(free), self.ranks[host.0 as usize]), host))
        };
        self.shapes.iter().filter_map(of_shape).min().map(|(_, host)| host)
    }

    /// How well GPUs of a shape serve a request, if they do: how many smaller sizes would serve too, and are all taken.
    fn excess(&self, shape: ShapeKey, request: &Request) -> Option<usize> {
        let kind = |id: u32| &self.kinds[id as usize].kind;
        match (shape, request) {
            (ShapeKey::Host, Request::None) | (ShapeKey::Whole, Request::Whole { pool: None, .. }) => Some(0),
            (ShapeKey::Equal(id), _) => kind(id).fits(Slot::Partition(0), request).then_some(0),
            (ShapeKey::Mixed(id, usable, free), _) => {
                smallest(kind(id), usable.iter(), free.iter(), request).map(|(_, excess)| excess)
            }
            (ShapeKey::Pool(id), Request::Whole { pool: Some(_), .. }) => {
                kind(id).fits(Slot::Whole, request).then_some(0)
            }
            _ => None,
        }
    }

    fn crowding(&self, free: u32) -> u32 {
        match self.policy {
            PlacementPolicy::Pack => free,
            PlacementPolicy::Spread => u32::MAX - free,
        }
    }

    /// The best that a host has for a VM, if it has enough: its score, and which GPUs and slots, best first.
    fn look_into(&self, room: &HostRoom, ask: &Ask<'_>) -> Option<(Score, Vec<(usize, Slot)>)> {
        let need = ask.need();
        if room.free_memory_mib < need.memory_mib || room.free_vcpus < need.vcpus {
            return None;
        }
        let scored = room.gpus.iter().enumerate().filter_map(|(at, gpu)| {
            let (slot, excess) = smallest(&gpu.kind, gpu.usable.iter(), gpu.free.iter(), ask.request)?;
            Some((self.score(gpu, excess, ask), at, slot))
        });
        match need.gpus {
            0 => Some((self.score_of(room), Vec::new())),
            1 => scored.min().map(|(score, at, slot)| (score, vec![(at, slot)])),
            needed => {
                let mut scored: Vec<_> = scored.collect();
                scored.sort();
                scored.truncate(needed as usize);
                let enough = scored.len() == needed as usize;
                let best = scored.first().filter(|_| enough)?.0;
                Some((best, scored.into_iter().map(|(_, at, slot)| (at, slot)).collect()))
            }
        }
    }

    fn score(&self, gpu: &GpuRoom, excess: usize, ask: &Ask<'_>) -> Score {
        let far = ask.prefer_numa_node.is_some_and(|node| gpu.numa_node != Some(node));
        Score { far, excess, crowding: self.crowding(gpu.free.len()) }
    }

    /// The score of a host for a VM without a GPU.
    fn score_of(&self, room: &HostRoom) -> Score {
        let free = super::free_share(room);
        Score { far: false, excess: 0, crowding: self.crowding(free) }
    }

    fn room_of(&self, id: HostId) -> Option<&HostRoom> {
        self.hosts[id.0 as usize].as_ref().filter(|host| !host.away).map(|host| &host.room)
    }
}

fn place(room: &HostRoom, chosen: &[(usize, Slot)]) -> Place {
    let key = |(at, slot): &(usize, Slot)| {
        let gpu = GpuKey { host: room.host.clone(), address: room.gpus[*at].address.clone() };
        SlotKey { gpu, slot: *slot }
    };
    Place { host: room.host.clone(), slots: chosen.iter().map(key).collect() }
}

/// The smallest free slot that serves a request, and how many sizes below it would, were they not taken.
fn smallest(
    kind: &Kind,
    usable: impl Iterator<Item = Slot>,
    mut free: impl Iterator<Item = Slot>,
    request: &Request,
) -> Option<(Slot, usize)> {
    if !matches!(kind, Kind::Mixed(_)) {
        // Equal slots serve alike: the first speaks for all.
        return free.next().filter(|slot| kind.fits(*slot, request)).map(|slot| (slot, 0));
    }
    let fits = |slot: &Slot| kind.fits(*slot, request);
    let slot = free.filter(fits).min_by_key(|slot| (kind.vram_of(*slot), *slot))?;
    let smaller: BTreeSet<Option<u64>> = usable
        .filter(fits)
        .map(|slot| kind.vram_of(slot))
        .filter(|vram_mib| *vram_mib < kind.vram_of(slot))
        .collect();
    Some((slot, smaller.len()))
}
