//! Versions that differ while a cluster is brought up to date, one machine after the other: the oldest rules.
//!
//! A version reads what older ones wrote, and not the other way round. So wishes and plans, which everybody reads, are written by a
//! member of the oldest version that is there ([`leaves_lead_to`]); what each host writes of itself, its heartbeats and reports, the
//! others read as far as they can.

use super::say;
use crate::finding::Finding;
use crate::name::HostName;

/// A version in the order in which versions follow each other.
pub type Order = (Vec<u64>, bool, Vec<u64>);

/// Versions in the order in which they follow each other: numbers by what they count, `0.10.0` after `0.9.1`, and `1.0.0` after
/// `1.0.0-rc2`. What is no number counts as 0.
pub fn order_of(version: &str) -> Order {
    let (release, rest) = version.split_at(version.find(['-', '~', '+']).unwrap_or(version.len()));
    let mut numbers: Vec<u64> = release.split('.').map(|part| part.parse().unwrap_or_default()).collect();
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    let more = rest.split(|of: char| !of.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    (numbers, !rest.starts_with(['-', '~']), more)
}

/// Whether a version is later than another.
pub fn is_later(version: &str, than: &str) -> bool {
    order_of(version) > order_of(than)
}

/// The version that rules while versions differ: the oldest.
pub fn ruling_version<'a>(versions: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    versions.into_iter().min_by_key(|version| order_of(version))
}

/// The finding about versions that differ, if they do.
pub fn judge_versions(versions: &[(HostName, String)]) -> Option<Finding> {
    let ruling = ruling_version(versions.iter().map(|(_, version)| version.as_str()))?;
    let newer: Vec<&HostName> =
        versions.iter().filter(|(_, version)| is_later(version, ruling)).map(|(host, _)| host).collect();
    (!newer.is_empty()).then(|| say::versions_differ(ruling, &newer))
}

/// Why a host cannot join with its version, if it cannot: it brings records of its own, which must be neither newer than what the
/// oldest member reads nor older than what there is to be read. `members` are the versions of the hosts that are in the cluster.
pub fn refusal_to_join<'a>(
    host: &HostName,
    version: &str,
    members: impl IntoIterator<Item = &'a str>,
) -> Option<Finding> {
    let ruling = ruling_version(members)?;
    (order_of(version) != order_of(ruling)).then(|| say::join_version(host, version, ruling))
}

/// Another member that lives, as far as it matters for who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    /// Which.
    pub host: &'a HostName,
    /// The version of its daemon.
    pub version: &'a str,
    /// Whether it says that it would lead, and can read all that is stored.
    pub able: bool,
}

/// To whom a member with this version leaves the lead: to one of an older version that would lead, so that nothing is written that
/// this one could not read; and to one of a later version if it `reads` not all that is stored itself.
pub fn leaves_lead_to<'a>(
    version: &str,
    reads: bool,
    others: impl IntoIterator<Item = Peer<'a>>,
) -> Option<&'a HostName> {
    let serves = |other: &Peer<'_>| match reads {
        true => other.able && is_later(version, other.version),
        false => is_later(other.version, version),
    };
    let others = others.into_iter().filter(serves);
    others.min_by_key(|other| (order_of(other.version), other.host)).map(|other| other.host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Code;

    #[test]
    fn versions_follow_each_other_by_their_numbers() {
        assert!(is_later("0.10.0", "0.9.1") && is_later("1.0.0", "0.99.99"));
        assert!(is_later("1.0.0", "1.0.0-rc2") && is_later("1.0.0~rc10", "1.0.0~rc2"));
        assert!(is_later("1.0.0+deb13u1", "1.0.0"));
        assert_eq!(order_of("0.1.0"), order_of("0.1"));
    }

    #[test]
    fn the_oldest_version_rules_by_its_numbers() {
        assert_eq!(ruling_version(["1.10.0", "1.9.2", "1.9.10"]), Some("1.9.2"));
        assert_eq!(ruling_version([]), None);
        let hosts = |versions: [&str; 2]| {
            let named = ["a", "b"].map(|host| host.parse().unwrap()).into_iter();
            judge_versions(&named.zip(versions.map(str::to_owned)).collect::<Vec<_>>())
        };
        assert_eq!(hosts(["1.0.0", "1.0.0"]), None);
        let finding = hosts(["1.0.0", "1.1.0"]).unwrap();
        assert!(finding.message.contains("1.0.0 rules") && finding.message.contains('b'), "{finding}");
    }

    #[test]
    fn a_host_joins_with_the_version_that_rules_and_with_no_other() {
        let host: HostName = "new".parse().unwrap();
        let refusal = |version| refusal_to_join(&host, version, ["1.2.0", "1.1.0"]);
        assert_eq!(refusal("1.1.0"), None);
        assert_eq!(refusal_to_join(&host, "9", []), None, "it is the first");
        for version in ["1.2.0", "1.0.0"] {
            let finding = refusal(version).unwrap();
            assert_eq!(finding.code, Code::VersionMismatch);
            assert!(finding.message.contains(version) && finding.hint.contains("1.1.0"), "{finding}");
        }
    }

    /// Whom a member of version 1.1 leaves the lead to, of others with their versions and whether they are able.
    fn left_to(reads: bool, others: &[(&str, &str, bool)]) -> Option<String> {
        let names: Vec<HostName> = others.iter().map(|(name, ..)| name.parse().unwrap()).collect();
        let peers = names.iter().zip(others);
        let peers = peers.map(|(host, (_, version, able))| Peer { host, version, able: *able });
        leaves_lead_to("1.1", reads, peers).map(ToString::to_string)
    }

    #[test]
    fn a_member_leaves_the_lead_to_an_older_version_that_would_lead_and_to_nobody_else() {
        assert_eq!(left_to(true, &[("a", "1.1", true), ("b", "1.2", true)]), None);
        assert_eq!(left_to(true, &[("a", "1.0", false)]), None, "it may not, or cannot read what is stored");
        assert_eq!(left_to(true, &[("b", "1.0", true), ("a", "1.0", true)]), Some("a".to_owned()));
        assert_eq!(left_to(true, &[("b", "1.0", true), ("c", "0.9", true)]), Some("c".to_owned()));
    }

    #[test]
    fn a_member_that_cannot_read_what_is_stored_leaves_the_lead_to_a_later_version_and_keeps_it_where_there_is_none()
     {
        assert_eq!(left_to(false, &[("a", "1.1", true), ("b", "1.0", true)]), None);
        assert_eq!(
            left_to(false, &[("a", "1.2", false)]),
            Some("a".to_owned()),
            "it may lead when nobody does"
        );
    }
}
