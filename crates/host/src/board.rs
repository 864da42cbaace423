//! Which GPUs sit on one board: they share its power, its slot and its fate when it is pulled out.
//!
//! Some boards carry several GPUs behind a PCIe switch of their own (an NVIDIA A16 has four). The switch tells in every
//! mode and under every driver, so it is asked first; the serial number on the board needs the vendor's driver and
//! library. Deliberately absent: any consequence. Each GPU is split, placed and given away for itself.

use std::collections::BTreeMap;

use tranche_core::inventory::Gpu;
use tranche_core::name::{GpuAddress, PciAddress};

use crate::catalogue::Entry;
use crate::tree::Tree;

/// The board by its switch, for models that have several GPUs on one: `PCI-` and the switch's upstream port, which is
/// two bridges above the GPU in its path under `/sys/devices`.
pub(crate) fn by_switch(tree: &dyn Tree, dir: &str, entry: Option<&Entry>) -> Option<String> {
    entry.filter(|entry| entry.gpus_per_board > 1)?;
    let path = tree.link(dir).ok()?;
    let mut above = path.components().rev().skip(1).map(|part| part.as_str().parse::<PciAddress>().ok());
    let _downstream_port = above.next()??;
    let upstream_port = above.next()??;
    // A switch always hangs below a root port; without one, the bridges are something else.
    let _root_port = above.next()??;
    Some(format!("PCI-{upstream_port}"))
}

/// The board by its serial number (`SN-`), for GPUs whose switch does not tell and that share one.
pub(crate) fn by_serial(gpus: &mut BTreeMap<GpuAddress, Gpu>) {
    let serial_of = |gpu: &Gpu| gpu.telemetry.as_ref()?.serial.clone().filter(|_| gpu.board.is_none());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for serial in gpus.values().filter_map(serial_of) {
        *times.entry(serial).or_default() += 1;
    }
    for gpu in gpus.values_mut() {
        let shared = serial_of(gpu).filter(|serial| times[serial] > 1);
        gpu.board = shared.map(|serial| format!("SN-{serial}")).or_else(|| gpu.board.take());
    }
}
