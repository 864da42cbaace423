//! The index: all room of all hosts, kept so that the best place for a VM is found without looking at every host.
//!
//! GPUs whose slots serve the same requests are of one shape. Each shape has a [`Shelf`] on which the hosts that have
//! such a GPU stand in order of preference, and one more for each NUMA node. A search asks the shelves of the shapes that
//! serve, which are few, for their first host that has enough memory and processors, and looks only into that host.
//! Changes to a host touch that host's places on its shelves and nothing else.
//!
//! It knows nothing of VMs, rules or findings: [`super::Board`] does.

mod search;

pub use self::search::Stock;
use std::collections::BTreeMap;

use super::room::{GpuRoom, HostRoom, Kind, SlotSet, UNCOUNTED};
use super::shelf::{Amount, Shelf};
use crate::inventory::Offer;
use crate::name::{HostName, Slot, SlotKey};
use crate::spec::{PlacementPolicy, Request};

/// How finely hosts are told apart by how much of their memory is free.
const MEMORY_SHARES: u64 = 64;

/// A host in the index. The number may be given to another host when this one is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub(super) u32);

/// What a VM asks of its place.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Its GPU request.
    pub request: &'a Request,
    /// The NUMA node whose GPUs it prefers.
    pub prefer_numa_node: Option<u16>,
    /// Memory that it needs, in MiB.
    pub memory_mib: u64,
    /// Virtual processors that it needs.
    pub vcpus: u64,
}

impl Ask<'_> {
    fn need(&self) -> Amount {
        let gpus = match self.request {
            Request::Whole { gpus, .. } => u32::from(*gpus),
            Request::Partition { .. } => 1,
            Request::None => 0,
        };
        Amount { memory_mib: self.memory_mib, vcpus: self.vcpus, gpus }
    }
}

/// Where a VM is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The host.
    pub host: HostName,
    /// What it gets there, best first.
    pub slots: Vec<SlotKey>,
}

/// The room of all hosts that take VMs.
#[derive(Debug, Clone)]
pub struct Index {
    policy: PlacementPolicy,
    hosts: Vec<Option<Host>>,
    by_name: BTreeMap<HostName, HostId>,
    /// For each host where it stands in the order of names.
    ranks: Vec<u32>,
    kinds: Vec<KindStock>,
    kind_ids: BTreeMap<Kind, u32>,
    shapes: Vec<Shape>,
    shape_ids: BTreeMap<ShapeKey, u32>,
}

#[derive(Debug, Clone)]
struct Host {
    room: HostRoom,
    /// For each GPU the number of its kind.
    kinds: Vec<u32>,
    standings: Vec<Standing>,
    /// Whether it is left out for now.
    away: bool,
}

/// A host's place on a shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    shape: u32,
    /// On the shelf of this NUMA node; on that of the shape if none.
    node: Option<u16>,
    free: u32,
    has: Amount,
}

/// A kind of GPU, and how much of it there is.
#[derive(Debug, Clone)]
struct KindStock {
    kind: Kind,
    /// Where sizes differ for each slot, else in all: how many serve somebody, and how many of those are free.
    stock: BTreeMap<u16, (usize, usize)>,
}

/// What decides which requests a GPU serves, and how well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ShapeKey {
    /// A host, for VMs without a GPU.
    Host,
    /// Equal partitions of a kind.
    Equal(u32),
    /// Partitions of several sizes: the kind, the first slot of each size that there is, and of each that is free.
    Mixed(u32, SlotSet, SlotSet),
    /// Whole GPUs of a kind, which is to say of a pool.
    Pool(u32),
    /// Whole GPUs of any pool.
    Whole,
}

#[derive(Debug, Clone)]
struct Shape {
    key: ShapeKey,
    shelf: Shelf,
    by_node: BTreeMap<u16, Shelf>,
}

impl Index {
    /// An index without hosts.
    pub fn new(policy: PlacementPolicy) -> Self {
        Self {
            policy,
            hosts: Vec::new(),
            by_name: BTreeMap::new(),
            ranks: Vec::new(),
            kinds: Vec::new(),
            kind_ids: BTreeMap::new(),
            shapes: Vec::new(),
            shape_ids: BTreeMap::new(),
        }
    }

    // Keeping it up to date.

    /// Takes a host in, or in anew after it changed.
    pub fn set_host(&mut self, room: HostRoom) {
        let known = self.by_name.get(&room.host).copied();
        let id = known.unwrap_or_else(|| self.enter(&room.host));
        self.clear(id);
        let kinds = room.gpus.iter().map(|gpu| self.kind_id(&gpu.kind)).collect();
        let host = Host { room, kinds, standings: Vec::new(), away: false };
        for (gpu, kind) in host.room.gpus.iter().zip(&host.kinds) {
            for slot in gpu.usable.iter() {
                self.count(*kind, slot, (1, isize::from(gpu.free.contains(slot))));
            }
        }
        self.hosts[id.0 as usize] = Some(host);
        self.restock(id);
    }

    /// Forgets a host: it takes nobody any more.
    pub fn remove_host(&mut self, host: &HostName) {
        let Some(id) = self.by_name.remove(host) else { return };
        self.clear(id);
        self.rank();
    }

    /// Leaves a host out of all searches until it is back. What there is in stock is told as before.
    pub fn set_away(&mut self, host: &HostName, away: bool) {
        let Some(id) = self.by_name.get(host).copied() else { return };
        if let Some(host) = self.hosts[id.0 as usize].as_mut() {
            host.away = away;
        }
        self.restock(id);
    }

    /// Takes slots, memory and processors of a host. What is not free is left as it is.
    pub fn take(&mut self, place: &Place, memory_mib: u64, vcpus: u64) {
        self.alter(&place.host, |room| {
            room.free_memory_mib = less(room.free_memory_mib, memory_mib);
            room.free_vcpus = less(room.free_vcpus, vcpus);
        });
        self.move_slots(place, false);
    }

    /// Gives slots, memory and processors of a host back.
    pub fn release(&mut self, place: &Place, memory_mib: u64, vcpus: u64) {
        self.alter(&place.host, |room| {
            room.free_memory_mib = more(room.free_memory_mib, memory_mib);
            room.free_vcpus = more(room.free_vcpus, vcpus);
        });
        self.move_slots(place, true);
    }

    fn alter(&mut self, host: &HostName, change: impl FnOnce(&mut HostRoom)) {
        let Some(id) = self.by_name.get(host) else { return };
        if let Some(host) = self.hosts[id.0 as usize].as_mut() {
            change(&mut host.room);
        }
    }

    /// Notes that slots became free or were taken, and puts their host where it belongs then.
    fn move_slots(&mut self, place: &Place, free: bool) {
        let Some(id) = self.by_name.get(&place.host).copied() else { return };
        let Some(mut host) = self.hosts[id.0 as usize].take() else { return };
        for slot in &place.slots {
            let found = host.room.gpus.binary_search_by(|gpu| gpu.address.cmp(&slot.gpu.address));
            let Some(at) = found.ok().filter(|_| slot.gpu.host == place.host) else { continue };
            let gpu = &mut host.room.gpus[at];
            if !gpu.usable.contains(slot.slot) || gpu.free.contains(slot.slot) == free {
                continue;
            }
            if free {
                gpu.free.insert(slot.slot);
            } else {
                gpu.free.remove(slot.slot);
            }
            self.count(host.kinds[at], slot.slot, (0, if free { 1 } else { -1 }));
        }
        self.hosts[id.0 as usize] = Some(host);
        self.restock(id);
    }

    /// A number for a host that was not there.
    fn enter(&mut self, name: &HostName) -> HostId {
        let vacant =
            self.hosts.iter().position(Option::is_none).filter(|_| self.by_name.len() < self.hosts.len());
        let at = vacant.unwrap_or(self.hosts.len());
        let id = HostId(u32::try_from(at).expect("fewer hosts than memory has room for"));
        if at == self.hosts.len() {
            self.hosts.push(None);
            self.ranks.push(0);
        }
        let is_last = self.by_name.last_key_value().is_none_or(|(last, _)| last < name);
        self.by_name.insert(name.clone(), id);
        if is_last {
            self.ranks[at] = u32::try_from(self.by_name.len()).unwrap_or(u32::MAX);
        } else {
            self.rank();
        }
        id
    }

    /// Numbers the hosts in the order of their names. The order of those that stay does not change.
    fn rank(&mut self) {
        for (rank, id) in (1..).zip(self.by_name.values()) {
            self.ranks[id.0 as usize] = rank;
        }
    }

    /// Takes a host off all shelves, and what it has out of the stock.
    fn clear(&mut self, id: HostId) {
        let Some(host) = self.hosts[id.0 as usize].take() else { return };
        for standing in &host.standings {
            shelf(&mut self.shapes, standing).remove(standing.free, id, &self.ranks);
        }
        for (gpu, kind) in host.room.gpus.iter().zip(&host.kinds) {
            for slot in gpu.usable.iter() {
                self.count(*kind, slot, (-1, -isize::from(gpu.free.contains(slot))));
            }
        }
    }

    /// Puts a host on the shelves on which it belongs by what it has now.
    fn restock(&mut self, id: HostId) {
        let Some(mut host) = self.hosts[id.0 as usize].take() else { return };
        let now = self.standings(&host);
        for was in &host.standings {
            let stays = now.iter().any(|is| (is.shape, is.node, is.free) == (was.shape, was.node, was.free));
            if !stays {
                shelf(&mut self.shapes, was).remove(was.free, id, &self.ranks);
            }
        }
        for is in &now {
            let before = host
                .standings
                .iter()
                .find(|was| (is.shape, is.node, is.free) == (was.shape, was.node, was.free));
            let shelf = shelf(&mut self.shapes, is);
            match before {
                Some(was) if was.has == is.has => {}
                Some(_) => shelf.update(is.free, id, is.has, &self.ranks),
                None => shelf.insert(is.free, id, is.has, &self.ranks),
            }
        }
        host.standings = now;
        self.hosts[id.0 as usize] = Some(host);
    }

    /// The places of a host on the shelves: for each shape, and each node that has some, what the policy likes best.
    fn standings(&mut self, host: &Host) -> Vec<Standing> {
        if host.away {
            return Vec::new();
        }
        let room = &host.room;
        let amount = |gpus| Amount { memory_mib: room.free_memory_mib, vcpus: room.free_vcpus, gpus };
        let shape = self.shape_id(ShapeKey::Host);
        let free = free_share(room);
        let mut found = Vec::with_capacity(host.standings.len().max(4));
        found.push(Standing { shape, node: None, free, has: amount(0) });
        for (gpu, kind) in room.gpus.iter().zip(&host.kinds).filter(|(gpu, _)| !gpu.free.is_empty()) {
            for (key, gpus) in shapes_of(gpu, *kind, host).into_iter().flatten() {
                let shape = self.shape_id(key);
                let free = gpu.free.len();
                for node in [None, Some(gpu.numa_node)] {
                    let node = match node {
                        None => None,
                        Some(None) => continue,
                        Some(node) => node,
                    };
                    let best = found.iter_mut().find(|other| (other.shape, other.node) == (shape, node));
                    match (best, self.policy) {
                        (None, _) => found.push(Standing { shape, node, free, has: amount(gpus) }),
                        (Some(best), PlacementPolicy::Pack) => best.free = best.free.min(free),
                        (Some(best), PlacementPolicy::Spread) => best.free = best.free.max(free),
                    }
                }
            }
        }
        found
    }

    fn count(&mut self, kind: u32, slot: Slot, (usable, free): (isize, isize)) {
        let of_kind = &mut self.kinds[kind as usize];
        let size = match (&of_kind.kind, slot) {
            (Kind::Mixed(_), Slot::Partition(index)) => index,
            _ => 0,
        };
        let (was_usable, was_free) = of_kind.stock.entry(size).or_default();
        *was_usable = was_usable.saturating_add_signed(usable);
        *was_free = was_free.saturating_add_signed(free);
    }

    fn kind_id(&mut self, kind: &Kind) -> u32 {
        if let Some(id) = self.kind_ids.get(kind) {
            return *id;
        }
        let id = u32::try_from(self.kinds.len()).expect("fewer kinds than GPUs");
        self.kinds.push(KindStock { kind: kind.clone(), stock: BTreeMap::new() });
        self.kind_ids.insert(kind.clone(), id);
        id
    }

    fn shape_id(&mut self, key: ShapeKey) -> u32 {
        if let Some(id) = self.shape_ids.get(&key) {
            return *id;
        }
        let id = u32::try_from(self.shapes.len()).expect("fewer shapes than GPUs");
        self.shapes.push(Shape { key, shelf: Shelf::default(), by_node: BTreeMap::new() });
        self.shape_ids.insert(key, id);
        id
    }
}

/// The shapes that a GPU is of, and how many free GPUs of each its host has, as far as that matters.
fn shapes_of(gpu: &GpuRoom, kind: u32, host: &Host) -> [Option<(ShapeKey, u32)>; 2] {
    match &gpu.kind {
        Kind::Equal(_) => [Some((ShapeKey::Equal(kind), 1)), None],
        Kind::Mixed(sizes) => {
            let key = ShapeKey::Mixed(kind, first_of_each(sizes, gpu.usable), first_of_each(sizes, gpu.free));
            [Some((key, 1)), None]
        }
        Kind::Whole(_) => {
            let free =
                host.room.gpus.iter().zip(&host.kinds).filter(|(gpu, _)| gpu.free.contains(Slot::Whole));
            let count = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
            let of_pool = free.clone().filter(|(_, other)| **other == kind).count();
            [Some((ShapeKey::Pool(kind), count(of_pool))), Some((ShapeKey::Whole, count(free.count())))]
        }
    }
}

/// How much of a host's memory is free, in [`MEMORY_SHARES`].
fn free_share(room: &HostRoom) -> u32 {
    let shares = u128::from(room.free_memory_mib) * u128::from(MEMORY_SHARES);
    let share = shares / u128::from(room.memory_mib.max(1));
    u32::try_from(share.min(u128::from(MEMORY_SHARES))).unwrap_or_default()
}

/// Of slots of several sizes the first one of each size.
fn first_of_each(sizes: &[Offer], slots: SlotSet) -> SlotSet {
    let size = |slot: &Slot| match slot {
        Slot::Partition(index) => sizes.get(usize::from(*index)).map(|size| (&size.profile, size.vram_mib)),
        Slot::Whole => None,
    };
    let mut firsts: Vec<Slot> = Vec::new();
    for slot in slots.iter() {
        if !firsts.iter().any(|first| size(first) == size(&slot)) {
            firsts.push(slot);
        }
    }
    firsts.into_iter().collect()
}

fn shelf<'a>(shapes: &'a mut [Shape], standing: &Standing) -> &'a mut Shelf {
    let shape = &mut shapes[standing.shape as usize];
    match standing.node {
        None => &mut shape.shelf,
        Some(node) => shape.by_node.entry(node).or_default(),
    }
}

/// Of an amount that is counted, less.
fn less(amount: u64, by: u64) -> u64 {
    if amount == UNCOUNTED { amount } else { amount.saturating_sub(by) }
}

/// Of an amount that is counted, more.
fn more(amount: u64, by: u64) -> u64 {
    if amount == UNCOUNTED { amount } else { amount.saturating_add(by).min(UNCOUNTED - 1) }
}
