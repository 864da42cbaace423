//! Mixed sizes: a GPU split into partitions of several profiles.
//!
//! Which profiles can stand beside each other follows from where in the GPU's memory each may begin; the host tells that
//! ([`MixedSize::starts`]), and this only fits them together. The largest goes first: a small partition in the wrong
//! place bars a large one, never the other way round.
//!
//! Deliberately absent: telling the driver where to put them. It chooses places itself, and has the last word.

use serde::{Deserialize, Serialize};

use crate::inventory::{Gpu, Offer};

/// A profile that a GPU can have beside others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MixedSize {
    /// What it is called.
    pub profile: String,
    /// The series that it belongs to, where the vendor has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Video memory that its VM can use in MiB, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_mib: Option<u64>,
    /// What it takes of the GPU's memory, in MiB.
    pub size_mib: u64,
    /// Where in the GPU's memory it may begin, in MiB, ascending. There are never more of it than that.
    pub starts_mib: Vec<u64>,
}

/// Why a list of profiles is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The list is empty.
    Empty,
    /// The GPU has no such profile.
    Unknown(String),
    /// There is no place for it beside the larger ones.
    NoPlace(String),
}

/// The partitions of a GPU for a list of profiles in any order: the largest first, as they are made.
///
/// # Errors
/// The first profile that the GPU does not have, or has no place for.
pub fn lay_out(gpu: &Gpu, profiles: &[String]) -> Result<Vec<Offer>, Misfit> {
    let placed = place(&gpu.mixed, profiles)?;
    let count = u16::try_from(placed.len()).unwrap_or(u16::MAX);
    let offer = |(size, _): &(&MixedSize, u64)| Offer {
        count,
        profile: size.profile.clone(),
        series: size.series.clone(),
        vram_mib: size.vram_mib,
    };
    Ok(placed.iter().map(offer).collect())
}

/// The profiles, the largest first, each at the first place that is free.
///
/// # Errors
/// As [`lay_out`].
pub fn place<'a>(sizes: &'a [MixedSize], profiles: &[String]) -> Result<Vec<(&'a MixedSize, u64)>, Misfit> {
    if profiles.is_empty() {
        return Err(Misfit::Empty);
    }
    let known = |profile: &String| {
        sizes.iter().find(|size| size.profile == *profile).ok_or_else(|| Misfit::Unknown(profile.clone()))
    };
    let mut wanted: Vec<&MixedSize> = profiles.iter().map(known).collect::<Result<_, _>>()?;
    wanted.sort_by_key(|size| std::cmp::Reverse(size.size_mib));
    let mut placed: Vec<(&MixedSize, u64)> = Vec::new();
    for size in wanted {
        let is_free = |start: &&u64| {
            placed.iter().all(|(other, at)| **start + size.size_mib <= *at || at + other.size_mib <= **start)
        };
        let start = size.starts_mib.iter().find(is_free);
        placed.push((size, *start.ok_or_else(|| Misfit::NoPlace(size.profile.clone()))?));
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A GPU of 48 GiB, as one vendor documents the places of three of these sizes.
    fn sizes() -> Vec<MixedSize> {
        let size = |gib: u64, starts: &[u64]| MixedSize {
            profile: format!("{gib}Q"),
            series: Some("Q".to_owned()),
            vram_mib: Some(gib * 1024 - 64),
            size_mib: gib * 1024,
            starts_mib: starts.iter().map(|start| start * 1024).collect(),
        };
        vec![
            size(8, &[0, 16, 24, 40]),
            size(12, &[0, 12, 24, 36]),
            size(16, &[0, 32]),
            size(24, &[0, 24]),
            size(48, &[0]),
        ]
    }

    fn list(text: &str) -> Vec<String> {
        text.split_terminator(',').map(str::to_owned).collect()
    }

    fn profiles_of(text: &str) -> Result<Vec<String>, Misfit> {
        let sizes = sizes();
        place(&sizes, &list(text)).map(|placed| placed.iter().map(|(size, _)| size.profile.clone()).collect())
    }

    #[test]
    fn sizes_are_made_the_largest_first_in_whatever_order_they_are_named() {
        for (named, made) in [
            ("8Q,24Q,12Q", "24Q,12Q,8Q"),
            ("8Q,16Q,8Q,16Q", "16Q,16Q,8Q,8Q"),
            ("16Q,12Q,12Q,8Q", "16Q,12Q,12Q,8Q"),
            ("48Q", "48Q"),
        ] {
            assert_eq!(profiles_of(named), Ok(list(made)), "{named}");
        }
    }

    #[test]
    fn what_has_no_place_is_named_although_the_memory_would_do() {
        let no_place = |profile: &str| Err(Misfit::NoPlace(profile.to_owned()));
        assert_eq!(profiles_of("16Q,16Q,16Q"), no_place("16Q"));
        assert_eq!(profiles_of("8Q,8Q,8Q,8Q,8Q"), no_place("8Q"));
        assert_eq!(profiles_of("24Q,24Q,8Q"), no_place("8Q"));
        assert_eq!(profiles_of("24Q,5Q"), Err(Misfit::Unknown("5Q".to_owned())));
        assert_eq!(profiles_of(""), Err(Misfit::Empty));
    }

    proptest! {
        #[test]
        fn what_is_placed_never_overlaps_and_stands_where_it_may(
            picks in proptest::collection::vec(0_usize..5, 1..8),
        ) {
            let sizes = sizes();
            let wanted: Vec<String> = picks.iter().map(|pick| sizes[*pick].profile.clone()).collect();
            if let Ok(placed) = place(&sizes, &wanted) {
                prop_assert_eq!(placed.len(), wanted.len());
                prop_assert!(placed.windows(2).all(|pair| pair[0].0.size_mib >= pair[1].0.size_mib));
                let mut spans: Vec<(u64, u64)> =
                    placed.iter().map(|(size, start)| (*start, start + size.size_mib)).collect();
                spans.sort_unstable();
                prop_assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
                prop_assert!(spans.iter().all(|(_, end)| *end <= 48 * 1024));
                prop_assert!(placed.iter().all(|(size, start)| size.starts_mib.contains(start)));
            }
        }
    }
}
