//! What a lab guest says on its serial console: the only witness of what a VM was really given.

/// Where a node keeps the disk that guests boot from; a VM gets a copy of it as a volume.
pub const GUEST_DISK: &str = "/usr/share/tranche-lab/guest.img";

/// What a guest has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestReport {
    /// The PCI functions that it sees, in the order of their addresses.
    pub pci: Vec<PciFunction>,
    /// Whether it has listed all of them.
    pub ready: bool,
    /// The last tick that it counted, once a second.
    pub tick: Option<u64>,
}

/// One PCI function as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciFunction {
    /// `vendor:device`, each four hexadecimal digits.
    pub id: String,
    /// The address inside the guest, as in `0000:03:00.0`.
    pub address: String,
}

impl GuestReport {
    /// Reads a serial log. Lines of firmware, boot loader and kernel are passed over, and so is a last line that is
    /// still being written. A guest that was started anew begins a new report.
    pub fn parse(serial_log: &str) -> Self {
        let mut report = Self::default();
        for line in serial_log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let Some((_, said)) = line.split_once("TRANCHE-GUEST ") else { continue };
            match said.split_whitespace().collect::<Vec<_>>()[..] {
                ["pci", id, address, ..] => {
                    if report.ready {
                        report = Self::default();
                    }
                    report.pci.push(PciFunction { id: id.to_owned(), address: address.to_owned() });
                }
                ["ready", ..] => report.ready = true,
                ["tick", count] => report.tick = count.parse().ok().or(report.tick),
                _ => {}
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "SYSLINUX 6.04\r\nTRANCHE-GUEST pci 8086:29c0 0000:00:00.0 060000\r\n\
        TRANCHE-GUEST pci 8086:10ca 0000:03:00.0 020000\r\nTRANCHE-GUEST ready 4.52\r\nTRANCHE-GUEST tick 1\r\n";

    fn ids(report: &GuestReport) -> Vec<&str> {
        report.pci.iter().map(|function| function.id.as_str()).collect()
    }

    #[test]
    fn a_guest_says_what_it_sees() {
        let report = GuestReport::parse(BOOT);
        assert_eq!(ids(&report), ["8086:29c0", "8086:10ca"]);
        assert_eq!(report.pci[1].address, "0000:03:00.0");
        assert!(report.ready);
        assert_eq!(report.tick, Some(1));
    }

    #[test]
    fn a_line_that_is_being_written_does_not_count() {
        let report =
            GuestReport::parse("TRANCHE-GUEST pci 8086:29c0 0000:00:00.0 060000\nTRANCHE-GUEST pci 8086:1");
        assert_eq!(ids(&report), ["8086:29c0"]);
        assert!(!report.ready);
    }

    #[test]
    fn a_restarted_guest_begins_anew() {
        let report = GuestReport::parse(&format!("{BOOT}TRANCHE-GUEST pci 8086:29c0 0000:00:00.0 060000\n"));
        assert_eq!(ids(&report), ["8086:29c0"]);
        assert!(!report.ready);
        assert_eq!(report.tick, None);
    }

    #[test]
    fn no_text_makes_it_fail() {
        for text in
            ["", "\n", "TRANCHE-GUEST ", "TRANCHE-GUEST \n", "TRANCHE-GUEST tick x\n", "TRANCHE-GUEST pci\n"]
        {
            assert_eq!(GuestReport::parse(text), GuestReport::default());
        }
    }
}
