//! Versions of QEMU and libvirt, and of QEMU's machines, as far as one is at least another.

/// A version's numbers; those that are left out are 0, and what follows them is not looked at.
pub(super) fn parse(version: &str) -> Option<[u32; 3]> {
    let mut numbers = [0; 3];
    let mut parts = version.split('.');
    for (index, number) in numbers.iter_mut().enumerate() {
        let Some(part) = parts.next() else { break };
        let digits: &str = &part[..part.bytes().take_while(u8::is_ascii_digit).count()];
        match digits.parse() {
            Ok(value) => *number = value,
            Err(_) if index == 0 => return None,
            Err(_) => break,
        }
    }
    Some(numbers)
}

/// Whether a version is at least another one; none where one of them is not a version.
pub(super) fn is_at_least(version: &str, least: [u32; 3]) -> Option<bool> {
    parse(version).map(|version| version >= least)
}

/// The version of QEMU that a machine was made for (`pc-q35-9.2`: 9.2); none of one that has none in its name.
pub(super) fn of_machine(machine: &str) -> Option<[u32; 3]> {
    let (_, version) = machine.rsplit_once('-')?;
    // Distributions have machines of their own (`pc-q35-rhel9.4.0`), which say nothing of QEMU.
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| parse(version))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(parse("10.0.2"), Some([10, 0, 2]));
        assert_eq!(parse("9.2"), Some([9, 2, 0]));
        assert_eq!(parse("8.2.2ubuntu1"), Some([8, 2, 2]));
        assert_eq!(parse("not installed"), None);
        assert_eq!(is_at_least("10.0.2", [9, 1, 0]), Some(true));
        assert_eq!(is_at_least("9.0.9", [9, 1, 0]), Some(false));
        assert_eq!(is_at_least("", [9, 1, 0]), None);
    }

    #[test]
    fn a_machine_names_the_qemu_that_it_was_made_for() {
        assert_eq!(of_machine("pc-q35-9.2"), Some([9, 2, 0]));
        assert_eq!(of_machine("pc-i440fx-2.11"), Some([2, 11, 0]));
        assert_eq!(of_machine("pc-q35-rhel9.4.0"), None);
        assert_eq!(of_machine("q35"), None);
        assert_eq!(of_machine("virt-x"), None);
    }
}
