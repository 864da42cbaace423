//! What the kernel's log says about GPUs: NVIDIA's driver reports each fault there as an Xid.
//!
//! ```text
//! NVRM: Xid (PCI:0000:cb:00): 79, pid=1234, name=python, GPU has fallen off the bus.
//! NVRM: Xid (PCI:0000:cb:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)
//! ```
//!
//! `/dev/kmsg` holds only what was logged since the machine was booted, so that a restart forgets old faults by itself. It
//! stays open between looks: each look reads what is new. Number 154 overrules what came before it, and an action of "none"
//! ends it: the GPU was reset.
//!
//! Deliberately absent: what guests' drivers log, which never gets here.

use std::collections::BTreeMap;
use std::io;

use tranche_core::inventory::HealthState;
use tranche_core::name::PciAddress;

use crate::monitor::Fault;
use crate::tree::{Log, Tree};

/// Where the kernel gives its log to readers (kernel: Documentation/ABI/testing/dev-kmsg).
const KERNEL_LOG: &str = "dev/kmsg";
/// The most bytes that one look reads; the rest waits for the next one. Large logs have 1 MiB.
const LOOK_LEN_MAX: usize = 4 * 1024 * 1024;
/// The longest line that is kept together, in bytes.
const LINE_LEN_MAX: usize = 8192;
/// The most GPUs, and the most numbers of each, that are remembered.
const GPUS_MAX: usize = 256;
const XIDS_MAX: usize = 32;

/// Numbers that are an application's own fault; the GPU is well. (NVIDIA k8s-device-plugin, internal/rm/health.go.)
const OF_APPLICATIONS: [u32; 6] = [13, 31, 43, 45, 68, 109];
/// The number with which the driver says what the GPU needs to recover.
const RECOVERY_ACTION: u32 = 154;

/// What a number means, where that is more than "it failed" (NVIDIA: GPU deployment guides, "Xid errors").
const MEANINGS: [(u32, HealthState, &str); 10] = [
    (48, HealthState::NeedsReset, "a double-bit memory error"),
    (63, HealthState::NeedsReset, "a memory row waits to be remapped"),
    (64, HealthState::Sick, "a memory row could not be remapped"),
    (74, HealthState::NeedsReset, "an NVLink error"),
    (79, HealthState::NeedsReboot, "it has fallen off the bus"),
    (92, HealthState::Sick, "a high rate of single-bit memory errors"),
    (94, HealthState::NeedsReset, "a contained memory error"),
    (95, HealthState::NeedsReset, "an uncontained memory error"),
    (119, HealthState::NeedsReset, "its GSP firmware does not answer"),
    (120, HealthState::NeedsReset, "an error of its GSP firmware"),
];

/// The faults of this boot.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    by_gpu: BTreeMap<Place, BTreeMap<u32, Action>>,
}

/// A GPU as the driver names it: without its function.
type Place = (u32, u8, u8);

/// What a recovery action asks for; for other numbers it follows from the number.
type Action = Option<HealthState>;

impl Faults {
    /// Takes note of a line, whatever it is.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(Xid { place, number, rest }) = Xid::find(line) {
            self.add(place, number, (number == RECOVERY_ACTION).then(|| recovery_action(rest)));
        }
    }

    /// Takes note of a fault that the driver told otherwise, where the log cannot be read.
    pub(crate) fn hear(&mut self, fault: Fault) {
        // What the GPU needs is not in it, and is told by each look.
        if fault.number != RECOVERY_ACTION {
            self.add((fault.gpu.domain, fault.gpu.bus, fault.gpu.device), fault.number, None);
        }
    }

    /// What a GPU reported so far is over.
    pub(crate) fn forget(&mut self, gpu: PciAddress) {
        self.by_gpu.remove(&(gpu.domain, gpu.bus, gpu.device));
    }

    fn add(&mut self, place: Place, number: u32, recovery: Option<Action>) {
        if OF_APPLICATIONS.contains(&number) {
            return;
        }
        if !self.by_gpu.contains_key(&place) && self.by_gpu.len() >= GPUS_MAX {
            return;
        }
        let faults = self.by_gpu.entry(place).or_default();
        if let Some(recovery) = recovery {
            // It says what all that came before it amounts to.
            faults.retain(|known, _| *known != RECOVERY_ACTION);
            match recovery {
                None => faults.clear(),
                Some(state) => drop(faults.insert(number, Some(state))),
            }
        } else if faults.len() < XIDS_MAX {
            faults.insert(number, None);
        }
    }

    /// What is known of a GPU: verdicts with their reasons.
    pub(crate) fn of(&self, gpu: PciAddress) -> Vec<(HealthState, String)> {
        let Some(faults) = self.by_gpu.get(&(gpu.domain, gpu.bus, gpu.device)) else { return Vec::new() };
        let action = faults.get(&RECOVERY_ACTION).copied().flatten();
        faults
            .keys()
            .map(|number| match (*number, action) {
                (RECOVERY_ACTION, action) => {
                    let state = action.unwrap_or(HealthState::Sick);
                    (state, format!("the driver says how it recovers (Xid {RECOVERY_ACTION})"))
                }
                // The driver knows better than the table what it needs.
                (number, Some(_)) => (HealthState::Sick, format!("{} (Xid {number})", meaning(number).1)),
                (number, None) => {
                    let (state, what) = meaning(number);
                    (state, format!("{what} (Xid {number})"))
                }
            })
            .collect()
    }
}

fn meaning(number: u32) -> (HealthState, &'static str) {
    let known = MEANINGS.iter().find(|(known, ..)| *known == number);
    known.map_or((HealthState::Sick, "the driver reports a fault"), |(_, state, what)| (*state, what))
}

/// `… changed from 0x0 (None) to 0x2 (Node Reboot Required)`; one that is not understood is a fault.
fn recovery_action(rest: &str) -> Action {
    let digits = rest.rsplit_once(" to 0x").map_or("", |(_, to)| to);
    let digits: String = digits.chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).map_or(Some(HealthState::Sick), recovery)
}

/// What NVIDIA's driver says that a GPU needs; nothing where it needs nothing (nvml.h, `nvmlDeviceGpuRecoveryAction_t`).
pub(crate) fn recovery(action: u64) -> Option<HealthState> {
    match action {
        0 => None,
        // GPU reset, drain and reset, IMEX domain, bus reset.
        1 | 4 | 5 | 6 => Some(HealthState::NeedsReset),
        // Node reboot, system reboot.
        2 | 7 => Some(HealthState::NeedsReboot),
        // Drain peer-to-peer traffic, and what later drivers may add.
        _ => Some(HealthState::Sick),
    }
}

/// A fault report.
struct Xid<'a> {
    place: Place,
    number: u32,
    rest: &'a str,
}

impl<'a> Xid<'a> {
    /// Finds `NVRM: Xid (PCI:0000:cb:00): 79, …` in a line. Old drivers leave `PCI:` out.
    fn find(line: &'a str) -> Option<Self> {
        let (_, report) = line.split_once("NVRM: Xid")?;
        let (_, place) = report.split_once('(')?;
        let (place, rest) = place.split_once(')')?;
        let rest = rest.strip_prefix(':')?.trim_start();
        let (number, rest) = rest.split_once(',')?;
        let place = place.strip_prefix("PCI:").unwrap_or(place);
        // The function is not named; a GPU is function 0.
        let address: PciAddress = format!("{}.0", place.trim_end_matches(".0")).parse().ok()?;
        Some(Self {
            place: (address.domain, address.bus, address.device),
            number: number.parse().ok()?,
            rest,
        })
    }
}

/// The log, read up to some line.
#[derive(Debug)]
pub(crate) struct Reader {
    log: Box<dyn Log>,
    /// The beginning of a line whose end has not been read yet.
    begun: Vec<u8>,
}

impl Reader {
    /// Opens the log of the machine.
    pub(crate) fn open(tree: &dyn Tree) -> io::Result<Self> {
        Ok(Self { log: tree.log(KERNEL_LOG)?, begun: Vec::new() })
    }

    /// The lines that are new, those of interest alone.
    pub(crate) fn new_lines(&mut self) -> io::Result<Vec<String>> {
        let (mut lines, mut read) = (Vec::new(), 0);
        while read < LOOK_LEN_MAX {
            let bytes = self.log.next()?;
            if bytes.is_empty() {
                break;
            }
            read += bytes.len();
            for byte in bytes {
                match byte {
                    b'\n' => lines.extend(take_line(&mut self.begun)),
                    _ if self.begun.len() < LINE_LEN_MAX => self.begun.push(byte),
                    _ => {}
                }
            }
        }
        Ok(lines)
    }
}

fn take_line(begun: &mut Vec<u8>) -> Option<String> {
    let line = String::from_utf8_lossy(begun).into_owned();
    begun.clear();
    line.contains("NVRM: Xid").then_some(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GPU: &str = "0000:cb:00.0";

    fn verdict(lines: &[&str]) -> HealthState {
        let mut faults = Faults::default();
        lines
            .iter()
            .for_each(|line| faults.read(&format!("3,812,5140900,-;NVRM: Xid (PCI:0000:cb:00): {line}")));
        faults.of(GPU.parse().unwrap()).into_iter().map(|(state, _)| state).max().unwrap_or_default()
    }

    #[test]
    fn numbers_of_applications_are_no_fault_of_the_gpu() {
        for number in OF_APPLICATIONS {
            assert_eq!(
                verdict(&[&format!("{number}, pid=7, name=python, Graphics Exception")]),
                HealthState::Good
            );
        }
    }

    #[test]
    fn each_fault_has_its_verdict_and_unknown_ones_make_the_gpu_sick() {
        for (number, state) in [
            (48, HealthState::NeedsReset),
            (64, HealthState::Sick),
            (79, HealthState::NeedsReboot),
            (94, HealthState::NeedsReset),
            (119, HealthState::NeedsReset),
            (62, HealthState::Sick),
        ] {
            assert_eq!(
                verdict(&[&format!("{number}, pid='<unknown>', name=<unknown>, x")]),
                state,
                "{number}"
            );
        }
    }

    #[test]
    fn what_the_driver_says_it_needs_overrules_the_table() {
        let action = |to: &str| format!("154, GPU recovery action changed from 0x0 (None) to {to}");
        let lost = "79, GPU has fallen off the bus.";
        assert_eq!(verdict(&[lost, &action("0x1 (GPU Reset Required)")]), HealthState::NeedsReset);
        assert_eq!(verdict(&[lost, &action("0x2 (Node Reboot Required)")]), HealthState::NeedsReboot);
        assert_eq!(verdict(&[&action("0x3 (Drain P2P)")]), HealthState::Sick);
        assert_eq!(verdict(&[&action("nowhere")]), HealthState::Sick);
        assert_eq!(
            verdict(&[lost, &action("0x1 (GPU Reset Required)"), &action("0x0 (None)")]),
            HealthState::Good
        );
        assert_eq!(verdict(&[lost, &action("0x0 (None)"), "48, DBE"]), HealthState::NeedsReset);
    }

    #[test]
    fn a_fault_is_of_the_gpu_that_it_names() {
        let mut faults = Faults::default();
        faults.read("6,1,1,-;NVRM: Xid (0001:41:00): 79, GPU has fallen off the bus.");
        faults.read("6,2,1,-;NVRM: Xid (PCI:0000:42:00): seventy-nine, x");
        faults.read("6,3,1,-;NVRM: Xid 79");
        assert_eq!(faults.of("0001:41:00.0".parse().unwrap()).len(), 1);
        assert_eq!(faults.of("0000:41:00.0".parse().unwrap()), []);
        assert_eq!(faults.of("0000:42:00.0".parse().unwrap()), []);
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic_and_memory_stays_bounded(
            lines in prop::collection::vec("NVRM: Xid \\(PCI:00[0-9a-f]{2}:[0-9a-f]{2}:00\\): [0-9]{1,5},.{0,20}|.{0,80}", 0..400)
        ) {
            let mut faults = Faults::default();
            lines.iter().for_each(|line| faults.read(line));
            prop_assert!(faults.by_gpu.len() <= GPUS_MAX);
            prop_assert!(faults.by_gpu.values().all(|known| known.len() <= XIDS_MAX + 1));
        }
    }
}
