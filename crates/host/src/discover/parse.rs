//! Readers of attribute values. They take any text and never panic: what they cannot read is absent.
//!
//! Formats: kernel drivers/pci/pci-sysfs.c, iov.c, pcie/aer.c, drivers/base.

use tranche_core::inventory::Bar;

/// BARs 0 to 5 are the first lines of `resource`; the ROM and the VFs' windows come after them.
const BARS_MAX: u8 = 6;
/// include/linux/ioport.h.
const IORESOURCE_MEM: u64 = 0x0000_0200;
const IORESOURCE_MEM_64: u64 = 0x0010_0000;

/// A hexadecimal number with or without `0x` (`vendor` has it, `sriov_vf_device` has not).
pub(crate) fn hex(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// The memory windows in `resource`: lines of `start end flags`, all zero where a BAR is unused.
pub(crate) fn bars(resource: &str) -> Vec<Bar> {
    (0..BARS_MAX).zip(resource.lines()).filter_map(|(index, line)| bar(index, line)).collect()
}

fn bar(index: u8, line: &str) -> Option<Bar> {
    let mut fields = line.split_ascii_whitespace().map(hex);
    let (start, end, flags) = (fields.next()??, fields.next()??, fields.next()??);
    let size_bytes = end.checked_sub(start)?.checked_add(1)?;
    let is_memory = flags & IORESOURCE_MEM != 0 && end != 0;
    is_memory.then_some(Bar { index, size_bytes, is_64bit: flags & IORESOURCE_MEM_64 != 0 })
}

/// The total of an AER counter file: the line `TOTAL_…`, or the sum of all lines where there is none.
///
/// The names of the counters differ between kernels and from the ABI document, so only the last word of a line counts.
pub(crate) fn aer_total(text: &str) -> Option<u64> {
    let counter = |line: &str| line.split_ascii_whitespace().next_back()?.parse::<u64>().ok();
    match text.lines().find(|line| line.starts_with("TOTAL_")) {
        Some(total) => counter(total),
        None => text.lines().filter_map(counter).reduce(u64::saturating_add),
    }
}

/// How many processors a list such as `0-5,12-17` has.
pub(crate) fn cpu_list_len(list: &str) -> u32 {
    let range_len = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').filter_map(range_len).fold(0, u32::saturating_add)
}

/// The value of a `key : value` line, as in `/proc/cpuinfo` and `/proc/meminfo`.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim())
    })
}

/// The number at the end of a name such as `virtfn12`.
pub(crate) fn numbered(name: &str, prefix: &str) -> Option<u16> {
    let digits = name.strip_prefix(prefix)?;
    digits.parse().ok().filter(|number: &u16| number.to_string() == digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_a2_has_three_memory_windows_of_its_own() {
        let resource = "0x0000000093000000 0x0000000093ffffff 0x0000000000040200\n\
                        0x0000039000000000 0x00000393ffffffff 0x000000000014220c\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000039c20000000 0x0000039c21ffffff 0x000000000014220c\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000000094000000 0x00000000943fffff 0x0000000000040200\n";
        let mib = |bar: &Bar| (bar.index, bar.size_bytes >> 20, bar.is_64bit);
        let seen: Vec<_> = bars(resource).iter().map(mib).collect();
        assert_eq!(seen, [(0, 16, false), (1, 16 * 1024, true), (3, 32, true)]);
    }

    #[test]
    fn io_ports_are_no_memory_window() {
        assert_eq!(bars("0x000000000000c000 0x000000000000c01f 0x0000000000040101\n"), []);
    }

    #[test]
    fn the_total_of_an_aer_file_is_its_total_line_whatever_the_counters_are_called() {
        assert_eq!(aer_total("RxErr 2\nBadTLP 0\nTOTAL_ERR_COR 2\n"), Some(2));
        assert_eq!(aer_total("Receiver Error 1\nBad TLP 4\n"), Some(5));
        assert_eq!(aer_total("nothing here"), None);
    }

    #[test]
    fn a_cpu_list_is_counted_over_its_ranges() {
        assert_eq!(cpu_list_len("0-5,12-17"), 12);
        assert_eq!(cpu_list_len("0"), 1);
        assert_eq!(cpu_list_len("5-1,x,"), 0);
    }

    #[test]
    fn a_virtual_function_link_is_told_from_its_neighbours() {
        assert_eq!(numbered("virtfn12", "virtfn"), Some(12));
        for name in ["virtfn", "virtfn01", "virtfn-1", "virtfn70000", "physfn", "virtfnx"] {
            assert_eq!(numbered(name, "virtfn"), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "(?s).{0,300}", key in ".{0,8}") {
            hex(&text);
            bars(&text);
            aer_total(&text);
            cpu_list_len(&text);
            field(&text, &key);
            numbered(&text, &key);
        }

        #[test]
        fn junk_in_the_shape_of_resource_lines_gives_sane_windows(
            lines in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..20)
        ) {
            let text: String = lines.iter().map(|(a, b, c)| format!("{a:#018x} {b:#018x} {c:#018x}\n")).collect();
            for bar in bars(&text) {
                prop_assert!(bar.index < BARS_MAX && bar.size_bytes > 0);
            }
        }
    }
}
