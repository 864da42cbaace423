//! The index is held against a plain search that looks at every slot of every host.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tranche_core::inventory::Offer;
use tranche_core::name::*;
use tranche_core::placement::*;
use tranche_core::spec::{PlacementPolicy, Request};

/// What the index must say: no shelves, no shapes, every slot looked at.
fn plain_search(
    rooms: &BTreeMap<HostName, HostRoom>,
    policy: PlacementPolicy,
    ask: &Ask<'_>,
    among: impl Fn(&HostName) -> bool,
) -> Option<Place> {
    let needed = ask.request.slots();
    let mut best: Option<((bool, usize, i64), Place)> = None;
    for room in rooms.values().filter(|room| among(&room.host)) {
        if room.free_memory_mib < ask.memory_mib || room.free_vcpus < ask.vcpus {
            continue;
        }
        let sign = if policy == PlacementPolicy::Pack { 1 } else { -1 };
        let mut scored: Vec<((bool, usize, i64), SlotKey)> = Vec::new();
        for gpu in &room.gpus {
            let serves = |slot: &Slot| gpu.kind.fits(*slot, ask.request);
            let vram = |slot: &Slot| match (&gpu.kind, slot) {
                (Kind::Mixed(sizes), Slot::Partition(index)) => sizes[usize::from(*index)].vram_mib,
                _ => None,
            };
            let Some(slot) = gpu.free.iter().filter(serves).min_by_key(|slot| (vram(slot), *slot)) else {
                continue;
            };
            let smaller: BTreeSet<_> = gpu
                .usable
                .iter()
                .filter(serves)
                .map(|s| vram(&s))
                .filter(|size| *size < vram(&slot))
                .collect();
            let far = ask.prefer_numa_node.is_some_and(|node| gpu.numa_node != Some(node));
            let key = GpuKey { host: room.host.clone(), address: gpu.address.clone() };
            let score = (far, smaller.len(), sign * i64::from(gpu.free.len()));
            scored.push((score, SlotKey { gpu: key, slot }));
        }
        scored.sort();
        if scored.len() < needed {
            continue;
        }
        scored.truncate(needed);
        let of_host = || {
            let share = u128::from(room.free_memory_mib) * 64 / u128::from(room.memory_mib);
            (false, 0, sign * i64::try_from(share.min(64)).unwrap())
        };
        let score = scored.first().map_or_else(of_host, |(score, _)| *score);
        if best.as_ref().is_none_or(|(than, _)| score < *than) {
            let slots = scored.into_iter().map(|(_, slot)| slot).collect();
            best = Some((score, Place { host: room.host.clone(), slots }));
        }
    }
    best.map(|(_, place)| place)
}

#[derive(Debug, Clone)]
enum Happening {
    Set(HostRoom),
    Remove(u8),
    Place(Request, Option<u16>, u64, u64),
    /// Gives back what was placed, by number.
    Release(usize),
}

fn host(index: u8) -> HostName {
    format!("node{index}").parse().unwrap()
}

fn size(count: u16, profile: &str) -> Offer {
    Offer { count, profile: profile.to_owned(), series: None, vram_mib: Some(16_384 / u64::from(count)) }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Equal(size(4, "4Q"))),
        Just(Kind::Equal(size(2, "8Q"))),
        Just(Kind::Equal(Offer { vram_mib: None, ..size(4, "other") })),
        Just(Kind::Mixed(vec![size(2, "8Q"), size(4, "4Q"), size(8, "2Q"), size(8, "2Q")])),
        Just(Kind::Whole(None)),
        Just(Kind::Whole(Some("render".parse().unwrap()))),
    ]
}

fn gpu_room() -> impl Strategy<Value = GpuRoom> {
    (kind(), prop::option::of(0u16..2), any::<u8>(), any::<u8>()).prop_map(
        |(kind, numa_node, usable, taken)| {
            let slots = match &kind {
                Kind::Equal(size) => (0..size.count).map(Slot::Partition).collect(),
                Kind::Mixed(sizes) => (0u16..).zip(sizes).map(|(index, _)| Slot::Partition(index)).collect(),
                Kind::Whole(_) => vec![Slot::Whole],
            };
            let bit = |bits: u8| move |(at, _): &(usize, &Slot)| bits >> at & 1 == 1;
            let at = |bits| slots.iter().enumerate().filter(bit(bits)).map(|(_, slot)| *slot).collect();
            let address = GpuAddress::Pci(PciAddress { domain: 0, bus: 0, device: 0, function: 0 });
            GpuRoom { address, numa_node, kind, usable: at(usable), free: at(usable & !taken) }
        },
    )
}

fn room() -> impl Strategy<Value = HostRoom> {
    let memory = prop_oneof![
        Just((UNCOUNTED, UNCOUNTED)),
        (8u64..64, 0u64..64).prop_map(|(all, free)| (all, free.min(all)))
    ];
    (0u8..6, memory, 0u64..16, prop::collection::vec(gpu_room(), 0..4)).prop_map(
        |(index, memory, vcpus, mut gpus)| {
            for (bus, gpu) in (1u8..).zip(&mut gpus) {
                gpu.address = GpuAddress::Pci(PciAddress { domain: 0, bus, device: 0, function: 0 });
            }
            HostRoom {
                host: host(index),
                memory_mib: memory.0,
                free_memory_mib: memory.1,
                free_vcpus: vcpus,
                gpus,
            }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let profile =
        prop::option::of(prop_oneof![Just("4Q".to_owned()), Just("8Q".to_owned()), Just("no".to_owned())]);
    let vram_mib = prop::option::of(prop_oneof![Just(2_048u64), Just(4_096), Just(8_192), Just(5_000)]);
    prop_oneof![
        1 => Just(Request::None),
        3 => Just(Request::ANY_PARTITION),
        3 => (vram_mib, profile).prop_map(|(vram_mib, profile)| Request::Partition { vram_mib, profile }),
        2 => (1u8..3, any::<bool>()).prop_map(|(gpus, pool)| Request::Whole {
            gpus,
            pool: pool.then(|| "render".parse().unwrap()),
        }),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let place = (request(), prop::option::of(0u16..3), 0u64..16, 0u64..6);
    prop_oneof![
        3 => room().prop_map(Happening::Set),
        1 => (0u8..6).prop_map(Happening::Remove),
        8 => place.prop_map(|(request, node, memory, vcpus)| Happening::Place(request, node, memory, vcpus)),
        4 => any::<usize>().prop_map(Happening::Release),
    ]
}

/// What a place takes or gives back, on paper.
fn move_slots(room: &mut HostRoom, place: &Place, (memory_mib, vcpus): (u64, u64), free: bool) {
    let add = |to: &mut u64, by: u64| {
        if *to != UNCOUNTED {
            *to = if free { *to + by } else { *to - by };
        }
    };
    add(&mut room.free_memory_mib, memory_mib);
    add(&mut room.free_vcpus, vcpus);
    for slot in &place.slots {
        for gpu in room.gpus.iter_mut().filter(|gpu| gpu.address == slot.gpu.address) {
            if free { gpu.free.insert(slot.slot) } else { gpu.free.remove(slot.slot) }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_index_says_what_a_plain_search_says_whatever_happened_before(
        spread in any::<bool>(),
        story in prop::collection::vec(happening(), 1..60),
        group in prop::collection::btree_set(0u8..6, 0..6),
    ) {
        let policy = if spread { PlacementPolicy::Spread } else { PlacementPolicy::Pack };
        let mut index = Index::new(policy);
        let mut rooms: BTreeMap<HostName, HostRoom> = BTreeMap::new();
        let mut placed: Vec<(Place, u64, u64)> = Vec::new();
        for happening in story {
            match happening {
                Happening::Set(room) => {
                    placed.retain(|(place, ..)| place.host != room.host);
                    rooms.insert(room.host.clone(), room.clone());
                    index.set_host(room);
                }
                Happening::Remove(at) => {
                    placed.retain(|(place, ..)| place.host != host(at));
                    rooms.remove(&host(at));
                    index.remove_host(&host(at));
                }
                Happening::Release(at) if !placed.is_empty() => {
                    let (place, memory_mib, vcpus) = placed.swap_remove(at % placed.len());
                    index.release(&place, memory_mib, vcpus);
                    move_slots(rooms.get_mut(&place.host).unwrap(), &place, (memory_mib, vcpus), true);
                }
                Happening::Release(_) => {}
                Happening::Place(request, prefer_numa_node, memory_mib, vcpus) => {
                    let ask = Ask { request: &request, prefer_numa_node, memory_mib, vcpus };
                    let expected = plain_search(&rooms, policy, &ask, |_| true);
                    prop_assert_eq!(&index.choose(&ask), &expected);
                    for at in 0..6 {
                        let only = plain_search(&rooms, policy, &ask, |name| *name == host(at));
                        prop_assert_eq!(index.choose_on(&host(at), &ask), only);
                    }
                    let in_group = |name: &HostName| group.iter().any(|at| host(*at) == *name);
                    let set = group.iter().filter_map(|at| index.id_of(&host(*at))).collect();
                    let first = plain_search(&rooms, policy, &ask, in_group);
                    prop_assert_eq!(index.choose_among(&[set], &ask), first);
                    assert_stock(&index, &rooms, &request);
                    if let Some(place) = expected {
                        index.take(&place, memory_mib, vcpus);
                        move_slots(rooms.get_mut(&place.host).unwrap(), &place, (memory_mib, vcpus), false);
                        placed.push((place, memory_mib, vcpus));
                    }
                }
            }
        }
    }
}

fn assert_stock(index: &Index, rooms: &BTreeMap<HostName, HostRoom>, request: &Request) {
    let gpus = || rooms.values().flat_map(|room| &room.gpus);
    let count =
        |gpu: &GpuRoom, slots: &SlotSet| slots.iter().filter(|slot| gpu.kind.fits(*slot, request)).count();
    let stock = index.stock(request);
    assert_eq!(stock.total, gpus().map(|gpu| count(gpu, &gpu.usable)).sum::<usize>());
    assert_eq!(stock.free, gpus().map(|gpu| count(gpu, &gpu.free)).sum::<usize>());
    if let Request::Whole { .. } = request {
        let on = |room: &HostRoom| room.gpus.iter().map(|gpu| count(gpu, &gpu.free)).sum::<usize>();
        assert_eq!(stock.most_on_one_host, rooms.values().map(on).max().unwrap_or_default());
    }
}

/// Shelves of many hosts are cut into chunks; the story above has too few hosts for that.
#[test]
fn on_hundreds_of_hosts_the_index_places_as_a_plain_search_does() {
    for policy in [PlacementPolicy::Pack, PlacementPolicy::Spread] {
        let mut index = Index::new(policy);
        let mut rooms = BTreeMap::new();
        for at in 0u32..300 {
            // Names in another order than numbers, so that hosts come in between.
            let name: HostName = format!("n{}", at * 7_919 % 1_000).parse().unwrap();
            let free = |gpu: u32| (0..8).filter(move |index| !(at + gpu + index).is_multiple_of(3));
            let gpu = |gpu: u32| GpuRoom {
                address: format!("0000:{:02x}:00.0", gpu + 1).parse().unwrap(),
                numa_node: Some(u16::try_from(gpu % 2).unwrap()),
                kind: Kind::Equal(size(8, "2Q")),
                usable: (0..8).map(Slot::Partition).collect(),
                free: free(gpu).map(|index| Slot::Partition(u16::try_from(index).unwrap())).collect(),
            };
            let free_memory_mib = u64::from(at * 31 % 40);
            let room = HostRoom {
                host: name.clone(),
                memory_mib: 64,
                free_memory_mib,
                free_vcpus: 40 - free_memory_mib,
                gpus: (0..4).map(gpu).collect(),
            };
            rooms.insert(name, room.clone());
            index.set_host(room);
        }
        for at in 0u64..1_000 {
            let request = if at % 10 == 0 { Request::None } else { Request::ANY_PARTITION };
            let (memory_mib, vcpus) = (at * 13 % 20, at * 17 % 20);
            let prefer_numa_node = at.is_multiple_of(3).then_some(1);
            let ask = Ask { request: &request, prefer_numa_node, memory_mib, vcpus };
            let expected = plain_search(&rooms, policy, &ask, |_| true);
            assert_eq!(index.choose(&ask), expected);
            if let Some(place) = expected {
                index.take(&place, memory_mib, vcpus);
                move_slots(rooms.get_mut(&place.host).unwrap(), &place, (memory_mib, vcpus), false);
            }
        }
    }
}
