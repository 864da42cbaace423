//! How long it takes to place one VM among all hosts, and how much memory the index needs.
//!
//! Hosts have 8 GPUs of 8 partitions and are half full, unevenly. Each measured placement is found among all hosts and
//! taken; then an old one is given back, so that the fill stays. Run it with
//! `cargo bench -p tranche-core --bench placement`.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the core has no clock; its benches do"
)]

#[path = "world/counting.rs"]
mod counting;

use std::hint::black_box;
use std::time::{Duration, Instant};

use tranche_core::inventory::Offer;
use tranche_core::name::{GpuAddress, PciAddress, Slot};
use tranche_core::placement::{Ask, GpuRoom, HostRoom, Index, Kind, Place, SlotSet};
use tranche_core::spec::{PlacementPolicy, Request};

use counting::{held, mib};

const GPUS: u8 = 8;
const PARTITIONS: u16 = 8;
const MEMORY_MIB: u64 = 512 * 1024;
const VM_MEMORY_MIB: u64 = 4 * 1024;
const ROUNDS: usize = 200_000;

fn main() {
    println!("hosts  policy  request    choose p50   p99      and take p50   p99      index");
    for hosts in [500, 5_000] {
        for policy in [PlacementPolicy::Pack, PlacementPolicy::Spread] {
            let any = Request::ANY_PARTITION;
            measure(hosts, policy, "any", Ask { request: &any, ..bare(&any) });
            let sized = Request::Partition { vram_mib: Some(2_048), profile: Some("2Q".to_owned()) };
            measure(hosts, policy, "2Q, node 1", Ask { prefer_numa_node: Some(1), ..bare(&sized) });
        }
    }
}

fn bare(request: &Request) -> Ask<'_> {
    Ask { request, prefer_numa_node: None, memory_mib: VM_MEMORY_MIB, vcpus: 2 }
}

fn measure(hosts: u32, policy: PlacementPolicy, what: &str, ask: Ask<'_>) {
    let before = held();
    let (mut index, mut placed) = half_full(hosts, policy);
    let index_bytes = held() - before - placed.capacity() * size_of::<Place>();
    let (mut chosen, mut taken) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    let mut dice = Dice(7);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let place = black_box(index.choose(black_box(&ask))).expect("half of everything is free");
        chosen.push(start.elapsed());
        index.take(&place, ask.memory_mib, ask.vcpus);
        taken.push(start.elapsed());
        let other = dice.below(placed.len());
        index.release(&placed[other], VM_MEMORY_MIB, 2);
        placed[other] = place;
    }
    let policy = format!("{policy:?}").to_lowercase();
    let (choose, take) = (percentiles(chosen), percentiles(taken));
    let mib = mib(index_bytes);
    println!(
        "{hosts:5}  {policy:6}  {what:10} {:7.2} µs {:7.2} µs  {:7.2} µs  {:7.2} µs {mib:7.2} MiB",
        choose.0, choose.1, take.0, take.1
    );
}

fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}

/// Hosts on which about half of all partitions are taken, on some more and on some less; and who took them.
fn half_full(hosts: u32, policy: PlacementPolicy) -> (Index, Vec<Place>) {
    let mut index = Index::new(policy);
    let mut dice = Dice(1);
    let partitions: SlotSet = (0..PARTITIONS).map(Slot::Partition).collect();
    for host in 0..hosts {
        let gpu = |bus: u8| GpuRoom {
            address: GpuAddress::Pci(PciAddress { domain: 0, bus, device: 0, function: 0 }),
            numa_node: Some(u16::from(bus / (GPUS / 2))),
            kind: Kind::Equal(Offer {
                count: PARTITIONS,
                profile: "2Q".to_owned(),
                series: Some("Q".to_owned()),
                vram_mib: Some(2_048),
            }),
            usable: partitions,
            free: partitions,
        };
        index.set_host(HostRoom {
            host: format!("host{host:05}.example").parse().expect("a valid name"),
            memory_mib: MEMORY_MIB,
            free_memory_mib: MEMORY_MIB,
            free_vcpus: 64 * 4,
            gpus: (0..GPUS).map(gpu).collect(),
        });
    }
    let all: Vec<_> = index.hosts().map(|(_, room)| room.clone()).collect();
    let mut placed = Vec::new();
    for room in &all {
        let fill = dice.below(101);
        for gpu in &room.gpus {
            for slot in gpu.usable.iter().filter(|_| dice.below(100) < fill).collect::<Vec<_>>() {
                let key =
                    tranche_core::name::GpuKey { host: room.host.clone(), address: gpu.address.clone() };
                let slot = tranche_core::name::SlotKey { gpu: key, slot };
                let place = Place { host: room.host.clone(), slots: vec![slot] };
                index.take(&place, VM_MEMORY_MIB, 2);
                placed.push(place);
            }
        }
    }
    (index, placed)
}

/// Numbers that are the same in each run (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below a usize")
    }
}
