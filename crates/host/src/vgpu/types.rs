//! Types by name and number.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tranche_core::name::PciIds;

/// A type that a virtual function can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VgpuType {
    pub(super) id: u32,
    /// The name without the model: `24Q`.
    pub(super) profile: String,
}

/// What numbers mean, as lists showed since the daemon started.
///
/// A full GPU lists no type, so the number of a type that is in use cannot be looked up just when all are. Numbers are
/// those of a driver branch and a model of GPU; a reload of the driver removes every vGPU, and the full list that a GPU
/// shows then replaces what was known.
#[derive(Debug, Default)]
pub(crate) struct TypeNames {
    by_model: Mutex<BTreeMap<PciIds, BTreeMap<u32, String>>>,
}

impl TypeNames {
    /// Takes note of a list. A whole one, of a GPU without vGPUs, replaces all that was known of the model.
    pub(super) fn learn<'a>(&self, ids: PciIds, types: impl Iterator<Item = &'a VgpuType>, is_whole: bool) {
        let types: BTreeMap<u32, String> = types.map(|kind| (kind.id, kind.profile.clone())).collect();
        if types.is_empty() {
            return;
        }
        let mut by_model = self.by_model.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_model.entry(ids).or_default();
        if is_whole {
            known.clear();
        }
        known.extend(types);
    }

    /// What is known of a model.
    pub(super) fn of(&self, ids: PciIds) -> BTreeMap<u32, String> {
        self.by_model.lock().unwrap_or_else(PoisonError::into_inner).get(&ids).cloned().unwrap_or_default()
    }
}

/// Every format that was seen: `1145  : NVIDIA L40S-1B` under a header, the same without one, and the guide's
/// `NVIDIA A40-1Q   557`. A list of nothing but the header is an empty list.
pub(super) fn parse(text: &str) -> Vec<VgpuType> {
    let parse = |line: &str| {
        let (id, name) = match line.split_once(':') {
            Some((id, name)) => (id.trim(), name.trim()),
            None => {
                line.trim().rsplit_once(char::is_whitespace).map(|(name, id)| (id.trim(), name.trim()))?
            }
        };
        Some(VgpuType { id: id.parse().ok()?, profile: profile_name(name)? })
    };
    text.lines().filter_map(parse).collect()
}

/// `NVIDIA L40S-24Q`, `GRID A2-4Q`: what follows the model.
pub(crate) fn profile_name(name: &str) -> Option<String> {
    let (_, profile) = name.trim().rsplit_once('-')?;
    (!profile.is_empty()).then(|| profile.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<(u32, String)> {
        parse(text).into_iter().map(|kind| (kind.id, kind.profile)).collect()
    }

    #[test]
    fn every_format_of_the_list_that_was_seen_is_read() {
        let l40s = "ID    : vGPU Name\n1145  : NVIDIA L40S-1B\n2164  : NVIDIA L40S-3B\n";
        assert_eq!(names(l40s), [(1145, "1B".to_owned()), (2164, "3B".to_owned())]);
        assert_eq!(names("1428 : NVIDIA H200X-141C"), [(1428, "141C".to_owned())]);
        assert_eq!(
            names("NVIDIA A40-1Q   557\nNVIDIA A40-2Q   558"),
            [(557, "1Q".to_owned()), (558, "2Q".to_owned())]
        );
        assert_eq!(names("ID    : vGPU Name\n"), [], "a list of nothing but its header");
        assert_eq!(names(""), []);
    }

    #[test]
    fn a_whole_list_replaces_what_was_known_and_a_part_of_one_adds_to_it() {
        let (names, ids) = (TypeNames::default(), "10de:26b9:10de:1851".parse().unwrap());
        let kind = |id, profile: &str| VgpuType { id, profile: profile.to_owned() };
        let known = |id| names.of(ids).get(&id).cloned();
        names.learn(ids, [kind(1, "1Q"), kind(2, "2Q")].iter(), true);
        names.learn(ids, [].iter(), true);
        names.learn(ids, [kind(3, "2A")].iter(), false);
        assert_eq!((known(1).as_deref(), known(3).as_deref()), (Some("1Q"), Some("2A")));
        names.learn(ids, [kind(2, "1Q")].iter(), true);
        assert_eq!((known(1), known(2).as_deref(), known(3)), (None, Some("1Q"), None));
        assert!(names.of(PciIds::default()).is_empty(), "another model");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(?s)[ 0-9A-Z:\n-]{0,200}") {
            parse(&text);
        }
    }
}
