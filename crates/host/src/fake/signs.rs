//! What a fake machine's devices show of how they fare, and of which ones they are.
//!
//! Numbers and wear are the hardware's and outlive a reboot; the log and the power states are the boot's.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tranche_core::name::{PciAddress, PciIds};

use crate::tree::Log;

/// The length of the configuration space of a PCI Express function.
const CONFIG_LEN: usize = 4096;
/// Where extended capabilities begin (PCI Express Base Specification, 7.6).
const EXTENDED: usize = 0x100;

/// The signs of all devices.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// Device serial numbers.
    pub(super) serials: BTreeMap<PciAddress, u64>,
    /// Files beside the ones that every machine has, by path.
    pub(super) files: BTreeMap<String, String>,
    /// Fatal PCIe errors so far.
    pub(super) fatal_errors: BTreeMap<PciAddress, u64>,
    /// Power states other than `D0`.
    pub(super) power: BTreeMap<PciAddress, String>,
    /// What the kernel has logged since it was booted, as `/dev/kmsg` gives it.
    pub(super) log: Arc<Mutex<String>>,
}

impl Signs {
    /// What of the signs a reboot leaves.
    pub(super) fn after_reboot(self) -> Self {
        Self { serials: self.serials, files: self.files, ..Self::default() }
    }

    /// Adds a line to the log, as the kernel writes it: level, number, microseconds, flags, text.
    pub(super) fn say(&self, text: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let number = log.lines().count();
        log.push_str(&format!("3,{number},{},-;{text}\n SUBSYSTEM=pci\n", 1_000 * number));
    }

    pub(super) fn logged(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configuration space: the header's first words, and the serial number's capability behind an empty one.
    pub(super) fn config(&self, address: PciAddress, ids: PciIds, class: u32, is_virtual: bool) -> Vec<u8> {
        let mut space = vec![0; CONFIG_LEN];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        // A virtual function's ids read as all ones (SR-IOV specification, 3.4.1.1).
        let (vendor, device) = if is_virtual { (0xffff, 0xffff) } else { (ids.vendor, ids.device) };
        put(0, &vendor.to_le_bytes());
        put(2, &device.to_le_bytes());
        put(8, &(class << 8 | 1).to_le_bytes());
        if let Some(serial) = self.serials.get(&address) {
            let capability = |id: u32, next: u32| (id | 1 << 16 | next << 20).to_le_bytes();
            put(EXTENDED, &capability(0x0001, 0x148));
            put(0x148, &capability(0x0003, 0));
            put(0x14c, &serial.to_le_bytes());
        }
        space
    }
}

/// A reader of the log.
#[derive(Debug)]
pub(super) struct FakeLog {
    log: Arc<Mutex<String>>,
    read: usize,
}

impl FakeLog {
    pub(super) fn new(signs: &Signs) -> Self {
        Self { log: Arc::clone(&signs.log), read: 0 }
    }
}

impl Log for FakeLog {
    fn next(&mut self) -> io::Result<Vec<u8>> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let new = log.as_bytes()[self.read..].to_vec();
        self.read = log.len();
        Ok(new)
    }
}
