//! A shelf: the hosts that have room of one shape, in the order in which they are preferred.
//!
//! Hosts with equally much free lie in one bucket, in the order of their names. A bucket is cut into short chunks, and a
//! chunk knows the most that any host in it has of each thing. So a search for a host with enough of everything steps over
//! those that have too little by the dozen.

use std::collections::BTreeMap;

use super::index::HostId;
use crate::spec::PlacementPolicy;

/// The most hosts in a chunk.
const CHUNK_LEN_MAX: usize = 64;

/// Hosts by how much they have free.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    buckets: BTreeMap<u32, Vec<Chunk>>,
}

/// What a host has to give, or what a VM needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount {
    pub(super) memory_mib: u64,
    pub(super) vcpus: u64,
    /// Whole GPUs; 1 where partitions are given away.
    pub(super) gpus: u32,
}

impl Amount {
    pub(super) fn covers(&self, need: &Self) -> bool {
        self.memory_mib >= need.memory_mib && self.vcpus >= need.vcpus && self.gpus >= need.gpus
    }

    fn max(self, other: Self) -> Self {
        Self {
            memory_mib: self.memory_mib.max(other.memory_mib),
            vcpus: self.vcpus.max(other.vcpus),
            gpus: self.gpus.max(other.gpus),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Chunk {
    /// In the order of the hosts' ranks.
    entries: Vec<(HostId, Amount)>,
    /// The most of each thing that any of them has.
    most: Amount,
}

impl Chunk {
    fn measure(&mut self) {
        self.most = self.entries.iter().fold(Amount::default(), |most, (_, has)| most.max(*has));
    }
}

impl Shelf {
    /// Puts a host on the shelf. `ranks` says where each host stands in the order of names.
    pub(super) fn insert(&mut self, free: u32, host: HostId, has: Amount, ranks: &[u32]) {
        let bucket = self.buckets.entry(free).or_default();
        let at = chunk_of(bucket, host, ranks);
        let Some(chunk) = bucket.get_mut(at) else {
            bucket.push(Chunk { entries: vec![(host, has)], most: has });
            return;
        };
        let place = chunk.entries.partition_point(|(other, _)| rank(*other, ranks) < rank(host, ranks));
        chunk.entries.insert(place, (host, has));
        chunk.most = chunk.most.max(has);
        if chunk.entries.len() > CHUNK_LEN_MAX {
            let mut upper = Chunk { entries: chunk.entries.split_off(CHUNK_LEN_MAX / 2), ..Chunk::default() };
            chunk.measure();
            upper.measure();
            bucket.insert(at + 1, upper);
        }
    }

    /// Takes a host off the shelf.
    pub(super) fn remove(&mut self, free: u32, host: HostId, ranks: &[u32]) {
        let Some(bucket) = self.buckets.get_mut(&free) else { return };
        let at = chunk_of(bucket, host, ranks);
        let Some(chunk) = bucket.get_mut(at) else { return };
        chunk.entries.retain(|(other, _)| *other != host);
        if chunk.entries.is_empty() {
            bucket.remove(at);
            if bucket.is_empty() {
                self.buckets.remove(&free);
            }
        } else {
            chunk.measure();
        }
    }

    /// Notes that a host that stays where it is has another amount.
    pub(super) fn update(&mut self, free: u32, host: HostId, has: Amount, ranks: &[u32]) {
        let Some(bucket) = self.buckets.get_mut(&free) else { return };
        let at = chunk_of(bucket, host, ranks);
        let Some(chunk) = bucket.get_mut(at) else { return };
        for entry in chunk.entries.iter_mut().filter(|(other, _)| *other == host) {
            entry.1 = has;
        }
        chunk.measure();
    }

    /// The first host, by policy and then by name, that covers the need and that `serves`; and how much it has free.
    pub(super) fn first(
        &self,
        policy: PlacementPolicy,
        need: &Amount,
        serves: impl Fn(HostId) -> bool,
    ) -> Option<(u32, HostId)> {
        let find = |(free, bucket): (&u32, &Vec<Chunk>)| {
            let mut chunks = bucket.iter().filter(|chunk| chunk.most.covers(need));
            let found = chunks
                .find_map(|chunk| chunk.entries.iter().find(|(host, has)| has.covers(need) && serves(*host)));
            found.map(|(host, _)| (*free, *host))
        };
        match policy {
            PlacementPolicy::Pack => self.buckets.iter().find_map(find),
            PlacementPolicy::Spread => self.buckets.iter().rev().find_map(find),
        }
    }

    /// The first host by name that covers the need and that `serves`, however much it has free.
    pub(super) fn lowest(
        &self,
        need: &Amount,
        serves: impl Fn(HostId) -> bool,
        ranks: &[u32],
    ) -> Option<HostId> {
        let of_bucket = |bucket: &Vec<Chunk>| {
            let mut chunks = bucket.iter().filter(|chunk| chunk.most.covers(need));
            chunks.find_map(|chunk| {
                let found = chunk.entries.iter().find(|(host, has)| has.covers(need) && serves(*host));
                found.map(|(host, _)| *host)
            })
        };
        self.buckets.values().filter_map(of_bucket).min_by_key(|host| rank(*host, ranks))
    }

    /// The most whole GPUs that any host on the shelf has free.
    pub(super) fn most_gpus(&self) -> u32 {
        self.buckets.values().flatten().map(|chunk| chunk.most.gpus).max().unwrap_or_default()
    }
}

/// The chunk that holds a host, or that it belongs in.
fn chunk_of(bucket: &[Chunk], host: HostId, ranks: &[u32]) -> usize {
    let starts_later = |chunk: &Chunk| match chunk.entries.first() {
        Some((first, _)) => rank(*first, ranks) <= rank(host, ranks),
        None => true,
    };
    bucket.partition_point(starts_later).saturating_sub(1)
}

fn rank(host: HostId, ranks: &[u32]) -> u32 {
    ranks[host.0 as usize]
}
