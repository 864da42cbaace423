//! What live migration rests on, for people: each fact, how well it is known, and what says so.

use tranche_api::view::{MigrationView, PartitionView};
use tranche_core::inventory::Certainty;

use crate::output::table::rows;
use crate::output::text;

/// What is known of a GPU's partitions, then of those that differ.
pub(super) fn blocks(gpu: &MigrationView, partitions: &[PartitionView]) -> String {
    let mut blocks = block("LIVE MIGRATION", gpu);
    let mut others: Vec<(&MigrationView, Vec<u16>)> = Vec::new();
    for partition in partitions {
        let (Some(own), Some(index)) = (&partition.migration, partition.index) else { continue };
        match others.iter_mut().find(|(known, _)| *known == own) {
            Some((_, indices)) => indices.push(index),
            None => others.push((own, vec![index])),
        }
    }
    for (own, indices) in others {
        blocks.push('\n');
        blocks.push_str(&block(&format!("PARTITIONS {}", text::counts(indices)), own));
    }
    blocks.push_str("Where a VM could go while it runs, 'tranche vm destinations VM' tells.\n");
    blocks
}

fn block(title: &str, view: &MigrationView) -> String {
    let fact = |name: &str, certainty: Certainty, source: &str| {
        vec![name.to_owned(), certainty.to_string(), source.to_owned()]
    };
    let mut facts: Vec<_> = view
        .facts
        .named()
        .iter()
        .map(|(name, evidence)| fact(name, evidence.certainty, &evidence.source))
        .collect();
    facts.push(match view.iommufd {
        true => fact("iommufd", Certainty::Proven, "/dev/iommu is there"),
        false => fact("iommufd", Certainty::Refused, "/dev/iommu is not there"),
    });
    facts.push(fact("together", view.certainty, "the state, and one of the logs; the IOMMU's takes iommufd"));
    rows(&[title, "KNOWN", "WHAT SAYS SO"], facts, "")
}
