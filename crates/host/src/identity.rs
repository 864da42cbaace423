//! Which card a GPU is: the number that tells it from others of its kind, where one can be read.
//!
//! The vendor's number comes first, because it stands on invoices and in the vendor's tools; it can be read while the
//! vendor's driver has the GPU. The bus's own, the Device Serial Number, is behind the first 64 bytes of the
//! configuration space, which the kernel shows only to those with `CAP_SYS_ADMIN` (drivers/pci/pci-sysfs.c,
//! `pci_read_config`). Each number says of which kind it is (`GPU-…`, `AMD-…`, `DSN-…`), so that it is compared with its
//! like alone.

use std::collections::BTreeMap;

use tranche_core::identity::UNIQUE_ID_LEN_MAX;
use tranche_core::inventory::Gpu;
use tranche_core::name::{GpuAddress, PciAddress};

use crate::discover::parse;
use crate::tree::Tree;

/// Where extended capabilities begin, and where they end (PCI Express Base Specification, 7.6).
const EXTENDED: usize = 0x100;
const CONFIG_LEN: usize = 0x1000;
/// The most extended capabilities that have room: each has 8 bytes at least. A list that is longer is a loop.
const CAPABILITIES_MAX: usize = (CONFIG_LEN - EXTENDED) / 8;
/// The capability that holds the Device Serial Number (7.9.3).
const SERIAL_NUMBER: u32 = 0x0003;

/// The number of the function in a directory.
pub(crate) fn unique_id(tree: &dyn Tree, dir: &str, address: PciAddress) -> Option<String> {
    nvidia(tree, address).or_else(|| amd(tree, dir)).or_else(|| bus(tree, dir))
}

/// Takes numbers away that several GPUs show: they are a board's, or a vendor's mistake, and tell no GPU from another.
pub(crate) fn forget_shared(gpus: &mut BTreeMap<GpuAddress, Gpu>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for id in gpus.values().filter_map(|gpu| gpu.unique_id.clone()) {
        *seen.entry(id).or_default() += 1;
    }
    for gpu in gpus.values_mut() {
        gpu.unique_id.take_if(|id| seen.get(id).is_some_and(|times| *times > 1));
    }
}

/// Whether a text can be a number of a card: it goes into the store, into names and onto the screen.
pub(crate) fn is_plausible(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'_');
    (1..=UNIQUE_ID_LEN_MAX).contains(&id.len()) && id.bytes().all(plain)
}

/// NVIDIA's driver: `GPU UUID:  GPU-8f6c2d1e-…`; question marks while the GPU is not initialised.
fn nvidia(tree: &dyn Tree, address: PciAddress) -> Option<String> {
    let text = tree.text(&format!("proc/driver/nvidia/gpus/{address}/information")).ok()?;
    let uuid = parse::field(&text, "GPU UUID")?;
    is_plausible(uuid).then(|| uuid.to_owned())
}

/// amdgpu: 16 hexadecimal digits (kernel: drivers/gpu/drm/amd/pm, `amdgpu_get_unique_id`).
fn amd(tree: &dyn Tree, dir: &str) -> Option<String> {
    let digits = tree.text(&format!("{dir}/unique_id")).ok()?;
    let number = parse::hex(&digits).filter(|number| *number != 0)?;
    Some(format!("AMD-{number:016x}"))
}

fn bus(tree: &dyn Tree, dir: &str) -> Option<String> {
    let config = tree.head(&format!("{dir}/config"), CONFIG_LEN).ok()?;
    let number = serial_number(&config).filter(|number| !matches!(*number, 0 | u64::MAX))?;
    Some(format!("DSN-{number:016x}"))
}

fn serial_number(config: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u32::from_le_bytes(*config.get(at..)?.first_chunk()?));
    let mut at = EXTENDED;
    for _ in 0..CAPABILITIES_MAX {
        let header = word(at)?;
        if header & 0xffff == SERIAL_NUMBER {
            return Some(u64::from(word(at + 8)?) << 32 | u64::from(word(at + 4)?));
        }
        at = usize::try_from(header >> 20).ok()? & !3;
        if at < EXTENDED {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space(words: &[(usize, u32)]) -> Vec<u8> {
        let mut config = vec![0; CONFIG_LEN];
        for (at, word) in words {
            config[*at..*at + 4].copy_from_slice(&word.to_le_bytes());
        }
        config
    }

    #[test]
    fn a_serial_number_is_found_behind_other_capabilities() {
        let config =
            space(&[(0x100, 0x1481_0001), (0x148, 0x0001_0003), (0x14c, 0xccdd_eeff), (0x150, 0x8899_aabb)]);
        assert_eq!(serial_number(&config), Some(0x8899_aabb_ccdd_eeff));
        assert_eq!(serial_number(&config[..64]), None, "all that the kernel shows without the right to more");
    }

    #[test]
    fn a_list_that_runs_in_a_circle_ends() {
        assert_eq!(serial_number(&space(&[(0x100, 0x2001_0001), (0x200, 0x1001_0002)])), None);
    }

    proptest! {
        #[test]
        fn no_configuration_space_makes_the_reader_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..CONFIG_LEN)
        ) {
            serial_number(&bytes);
        }
    }
}
