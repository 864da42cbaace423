//! What makes an odd GPU like the others, as a sentence and, where a command does it, as that command.

use super::classes::{Class, Member};
use super::judged::{Judged, Set};
use super::{Attribute, Mend, SetName};
use crate::change::State;
use crate::name::GpuKey;

/// What mends a difference: one entry for each GPU in use that differs.
pub(super) fn mends(judged: &Judged<'_>, set: &Set<'_>, state: State<'_>) -> Vec<Mend> {
    let Some(usual) = judged.exemplar(set) else { return Vec::new() };
    let mut mends = Vec::new();
    for class in judged.odd_classes().map(|place| set.classes[place]) {
        if class.traits.is_split() || set.name != SetName::Partitions {
            mends.extend(class.members.iter().map(|gpu| mend(judged, *gpu, class, usual, state)));
        }
    }
    mends.sort();
    mends
}

fn mend(
    judged: &Judged<'_>,
    gpu: Member<'_>,
    class: &Class<'_>,
    usual: &Class<'_>,
    state: State<'_>,
) -> Mend {
    let key = gpu.key();
    let wanted = judged.usual.as_ref().map(ToString::to_string).unwrap_or_default();
    let host = gpu.host;
    let in_use = state.plan.bookings_on(&key).next().is_some();
    let drain = if in_use { " --drain" } else { "" };
    let splits = usual.traits.flags().filter(|_| class.traits.offers_what(&usual.traits));
    let (text, command) = match (judged.attribute, splits) {
        (Attribute::Count | Attribute::Series, Some(flags)) => {
            let text = format!("Split GPU {key} as the others are.");
            (text, Some(format!("tranche gpu partition {key} {flags}{drain}")))
        }
        (
            Attribute::Vendor | Attribute::Device | Attribute::Memory | Attribute::Count | Attribute::Series,
            _,
        ) => (same_card(&key, usual, state), Some(format!("tranche gpu release {key}{drain}"))),
        (Attribute::Subsystem, _) => {
            (format!("Put a card of subsystem {wanted} in host {host} in the place of GPU {key}."), None)
        }
        (Attribute::Backend | Attribute::Offers | Attribute::Driver, _) => {
            let driver = usual.traits.value(Attribute::Driver).map(|driver| driver.to_string());
            let driver = driver.unwrap_or_else(|| "that the others have".to_owned());
            let gives = match judged.attribute {
                Attribute::Backend => format!(", which makes partitions by {wanted}"),
                Attribute::Offers => format!(", which offers {wanted}"),
                _ => String::new(),
            };
            (format!("Install driver {driver} on host {host}{gives}."), None)
        }
        (Attribute::Firmware, _) => (format!("Bring the firmware of GPU {key} to {wanted}."), None),
        (Attribute::Ecc, _) => (format!("Switch ECC {wanted} on GPU {key} with its vendor's tool."), None),
    };
    Mend { gpu: key, text, command }
}

fn same_card(key: &GpuKey, usual: &Class<'_>, state: State<'_>) -> String {
    let seen = usual.members.first().and_then(|gpu| state.inventory.get(gpu.host)?.gpus.get(gpu.address));
    let model = seen.map_or_else(|| "that the others are".to_owned(), |gpu| gpu.model.clone());
    format!("Put the same card in ({model}) in the place of GPU {key}, or leave that GPU to the host.")
}
