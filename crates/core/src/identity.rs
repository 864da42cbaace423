//! Which GPU a GPU is, so that another one in its slot is not taken for it.
//!
//! Ids say what a card is; a UUID or a serial number says which. Many cards tell no such number, and some tell it only
//! while their driver runs, so two identities that cannot be told apart count as the same: a doubt stops nobody's VM.
//!
//! A card may have several numbers, each readable at another time: the vendor's while the vendor's driver has it, the
//! bus's always. What stands before a number's first hyphen says of which kind it is (`GPU-…`, `DSN-…`); numbers of
//! different kinds tell nothing about each other.

use std::fmt;
use std::str::FromStr;

use crate::name::{NameError, PciIds, travels_as_text};

/// What a GPU is and, where something tells, which one. Written `10de:25b6:10de:14a9` or `10de:25b6:10de:14a9 GPU-8f6c…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GpuIdentity {
    /// What it is.
    pub ids: PciIds,
    /// The vendor's UUID or a serial number.
    pub unique_id: Option<String>,
}

impl GpuIdentity {
    /// Whether it names no card at all, so that whichever is in its place is the one that is meant: where a machine was replaced.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether both may be the same card.
    pub fn may_be(&self, other: &Self) -> bool {
        if self.is_open() || other.is_open() {
            return true;
        }
        let known = self.unique_id.as_deref().zip(other.unique_id.as_deref());
        self.ids == other.ids && known.is_none_or(|(one, two)| one == two || kind(one) != kind(two))
    }

    /// Whether both are the same card beyond doubt.
    pub fn is_surely(&self, other: &Self) -> bool {
        self.unique_id.is_some() && self == other
    }
}

fn kind(number: &str) -> &str {
    number.split_once('-').map_or("", |(kind, _)| kind)
}

impl FromStr for GpuIdentity {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once(' ') {
            None => Ok(Self { ids: text.parse()?, unique_id: None }),
            Some((ids, unique)) if !unique.is_empty() && unique.len() <= UNIQUE_ID_LEN_MAX => {
                Ok(Self { ids: ids.parse()?, unique_id: Some(unique.to_owned()) })
            }
            Some(_) => Err(NameError::new(
                "GPU identity",
                text,
                "ids, then a UUID or serial number of 1 to 64 bytes",
            )),
        }
    }
}

/// The longest UUID or serial number, in bytes. (NVML: 80 with its terminator, of which UUIDs use 40.)
pub const UNIQUE_ID_LEN_MAX: usize = 64;

impl fmt::Display for GpuIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unique_id {
            None => self.ids.fmt(f),
            Some(unique) => f.pad(&format!("{} {unique}", self.ids)),
        }
    }
}

travels_as_text!(GpuIdentity, "10de:25b6:10de:14a9 GPU-8f6c2d1e-5b3a-4c7d-9e0f-1a2b3c4d5e6f");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_without_a_number_may_be_any_card_of_its_kind() {
        let read = |text: &str| text.parse::<GpuIdentity>().unwrap();
        let (kind, one, two) = (
            read("10de:25b6:10de:14a9"),
            read("10de:25b6:10de:14a9 GPU-1"),
            read("10de:25b6:10de:14a9 GPU-2"),
        );
        assert!(kind.may_be(&one) && one.may_be(&kind) && one.may_be(&one));
        assert!(!one.may_be(&two), "another card of the same kind");
        assert!(!one.may_be(&read("10de:25b6:10de:157e GPU-1")), "another kind");
        let slot = read("10de:25b6:10de:14a9 DSN-1");
        assert!(
            slot.may_be(&one) && !slot.may_be(&read("10de:25b6:10de:14a9 DSN-2")),
            "a number of another kind"
        );
        assert!(one.is_surely(&one) && !kind.is_surely(&kind));
        assert!(GpuIdentity::default().is_open() && GpuIdentity::default().may_be(&one));
        assert_eq!(one.to_string(), "10de:25b6:10de:14a9 GPU-1");
        assert!("10de:25b6:10de:14a9 ".parse::<GpuIdentity>().is_err());
    }
}
