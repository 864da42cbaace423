//! What room a host has: the form in which the index takes it in, and in which a plain search reads it.

use std::fmt;

use crate::inventory::Offer;
use crate::name::{GpuAddress, HostName, PoolName, Slot};
use crate::spec::{PARTITIONS_PER_GPU_MAX, Request};

/// Memory or processors of a host on which nobody keeps an account.
pub const UNCOUNTED: u64 = u64::MAX;

/// The room of a host that takes VMs. A host that takes none has no room, and is not told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoom {
    /// The host.
    pub host: HostName,
    /// Memory for VMs, taken or not, in MiB; [`UNCOUNTED`] where only libvirt decides.
    pub memory_mib: u64,
    /// What is free of it, in MiB.
    pub free_memory_mib: u64,
    /// Virtual processors that may still be given away.
    pub free_vcpus: u64,
    /// GPUs that could serve VMs, by address.
    pub gpus: Vec<GpuRoom>,
}

/// The room on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuRoom {
    /// Where it is.
    pub address: GpuAddress,
    /// Its NUMA node, where known.
    pub numa_node: Option<u16>,
    /// What its slots are.
    pub kind: Kind,
    /// Slots that serve somebody, taken or not.
    pub usable: SlotSet,
    /// Slots that nobody has.
    pub free: SlotSet,
}

/// What the slots of a GPU are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Partitions, all of one size.
    Equal(Offer),
    /// Partitions, each of its own size, by index.
    Mixed(Vec<Offer>),
    /// The whole GPU, in a pool or in none.
    Whole(Option<PoolName>),
}

impl Kind {
    /// Whether a slot serves a request. Where sizes differ, more memory than was asked for serves too.
    pub fn fits(&self, slot: Slot, request: &Request) -> bool {
        match (self, slot, request) {
            (Self::Equal(size), Slot::Partition(_), Request::Partition { .. }) => {
                super::size_fits(request, size)
            }
            (Self::Mixed(sizes), Slot::Partition(index), Request::Partition { vram_mib, profile }) => {
                sizes.get(usize::from(index)).is_some_and(|size| {
                    profile.as_ref().is_none_or(|wanted| *wanted == size.profile)
                        && vram_mib.is_none_or(|wanted| size.vram_mib.is_some_and(|has| has >= wanted))
                })
            }
            (Self::Whole(own), Slot::Whole, Request::Whole { pool, .. }) => {
                pool.as_ref().is_none_or(|wanted| Some(wanted) == own.as_ref())
            }
            _ => false,
        }
    }

    /// The sizes of its partitions; none where the GPU is given away whole.
    pub fn sizes(&self) -> &[Offer] {
        match self {
            Self::Equal(size) => std::slice::from_ref(size),
            Self::Mixed(sizes) => sizes,
            Self::Whole(_) => &[],
        }
    }

    /// The memory of a slot in MiB, where sizes differ.
    pub(super) fn vram_of(&self, slot: Slot) -> Option<u64> {
        match (self, slot) {
            (Self::Mixed(sizes), Slot::Partition(index)) => sizes.get(usize::from(index))?.vram_mib,
            _ => None,
        }
    }
}

/// A set of slots of one GPU: partitions by index, or the whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SlotSet {
    partitions: [u64; (PARTITIONS_PER_GPU_MAX / 64) as usize],
    whole: bool,
}

impl SlotSet {
    /// Adds a slot. An index beyond the widest GPU is left out.
    pub fn insert(&mut self, slot: Slot) {
        match slot {
            Slot::Whole => self.whole = true,
            Slot::Partition(index) => {
                if let Some(word) = self.partitions.get_mut(usize::from(index / 64)) {
                    *word |= 1 << (index % 64);
                }
            }
        }
    }

    /// Takes a slot out.
    pub fn remove(&mut self, slot: Slot) {
        match slot {
            Slot::Whole => self.whole = false,
            Slot::Partition(index) => {
                if let Some(word) = self.partitions.get_mut(usize::from(index / 64)) {
                    *word &= !(1 << (index % 64));
                }
            }
        }
    }

    /// Whether a slot is in it.
    pub fn contains(&self, slot: Slot) -> bool {
        match slot {
            Slot::Whole => self.whole,
            Slot::Partition(index) => {
                self.partitions.get(usize::from(index / 64)).is_some_and(|word| word >> (index % 64) & 1 == 1)
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.partitions.iter().map(|word| word.count_ones()).sum::<u32>() + u32::from(self.whole)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The slots, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let indexes = (0u16..).zip(&self.partitions).flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = u16::try_from(rest.trailing_zeros()).ok().filter(|bit| *bit < 64)?;
                rest &= rest - 1;
                Some(Slot::Partition(at * 64 + bit))
            })
        });
        indexes.chain(self.whole.then_some(Slot::Whole))
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::default();
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_slots_gives_back_what_was_put_in_lowest_first() {
        let slots = [255, 0, 64, 63].map(Slot::Partition);
        let mut set: SlotSet = slots.into_iter().chain([Slot::Whole]).collect();
        let lowest_first = [0, 63, 64, 255].map(Slot::Partition);
        assert_eq!(set.iter().collect::<Vec<_>>(), [&lowest_first[..], &[Slot::Whole]].concat());
        assert_eq!(set.len(), 5);
        for slot in slots {
            assert!(set.contains(slot));
            set.remove(slot);
            assert!(!set.contains(slot));
        }
        assert!(set.contains(Slot::Whole) && !set.is_empty());
        set.insert(Slot::Partition(256));
        assert_eq!(set.len(), 1, "no GPU is that wide");
    }
}
