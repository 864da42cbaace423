//! Partitions that are alike, of which one stands for all: a fleet has thousands, and what is known of them fits into a few lines.

use tranche_core::inventory::{Gpu, MigrationFacts};

/// What makes partitions of one GPU alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) driver: Option<String>,
    pub(super) profile: Option<String>,
}

/// The kinds of a GPU's partitions, each with where its partitions are in the list. What most are comes first.
pub(super) fn of(gpu: &Gpu) -> Vec<(Kind, Vec<usize>)> {
    let mut kinds: Vec<(Kind, Vec<usize>)> = Vec::new();
    for (place, partition) in gpu.partitions.iter().enumerate() {
        let kind = Kind { driver: partition.driver.clone(), profile: partition.profile.clone() };
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, places)) => places.push(place),
            None => kinds.push((kind, vec![place])),
        }
    }
    // Stable, so that of two that are as many the one with the first partition stays first.
    kinds.sort_by_key(|(_, places)| std::cmp::Reverse(places.len()));
    kinds
}

/// Notes the facts of all kinds, in their order: of the GPU those of most partitions, of a partition what differs from that.
pub(super) fn note(gpu: &mut Gpu, facts: Vec<(Vec<usize>, MigrationFacts)>) {
    gpu.partitions.iter_mut().for_each(|partition| partition.migration = None);
    let mut facts = facts.into_iter();
    gpu.migration = facts.next().map(|(_, facts)| facts);
    for (places, facts) in facts {
        if gpu.migration.as_ref().is_some_and(|most| most.is_like(&facts)) {
            continue;
        }
        for place in places {
            gpu.partitions[place].migration = Some(facts.clone());
        }
    }
}
