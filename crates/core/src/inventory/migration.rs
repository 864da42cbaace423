//! What is known of whether a VM with a device can move while it runs, and what says so.
//!
//! A device moves live if its driver hands its state out and takes it in again, and if something logs which memory it writes
//! meanwhile: the device itself, or the IOMMU (Linux, include/uapi/linux/vfio.h; Documentation/driver-api/vfio.rst). Each is probed;
//! nothing here is a wish, and what could not be probed is unknown.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest evidence, in bytes.
pub const EVIDENCE_LEN_MAX: usize = 200;

/// How well something is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// It was not probed, or what would tell is not there.
    #[default]
    Unknown,
    /// It is not so.
    Refused,
    /// It should be so: a capability register, a version or a driver's list says it, and nobody has tried.
    Claimed,
    /// Whoever does it has said so of this very device.
    Proven,
}

impl Certainty {
    /// Whether it may be counted on until it fails.
    pub fn is_likely(self) -> bool {
        matches!(self, Self::Claimed | Self::Proven)
    }
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Claimed => "claimed",
            Self::Proven => "proven",
        })
    }
}

/// Something that a device can do or cannot, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Evidence {
    /// How well it is known.
    pub certainty: Certainty,
    /// What says so: a file and what stands in it, a call and its answer, a version. At most [`EVIDENCE_LEN_MAX`] bytes.
    pub source: String,
}

impl Evidence {
    /// Something that is known so well, by what says so. What is too long is cut at the end.
    pub fn new(certainty: Certainty, source: impl Into<String>) -> Self {
        let mut source = source.into();
        source.truncate(source.floor_char_boundary(EVIDENCE_LEN_MAX));
        Self { certainty, source }
    }
}

/// What of a device live migration rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MigrationFacts {
    /// Its driver hands its state out, and takes it in (VFIO: STOP_COPY).
    pub stop_copy: Evidence,
    /// It runs on while most of its state is copied (VFIO: PRE_COPY).
    pub pre_copy: Evidence,
    /// Several such devices of one VM can be stopped together (VFIO: P2P).
    pub p2p: Evidence,
    /// It logs itself which memory it writes (VFIO: DMA logging).
    pub device_dirty_log: Evidence,
    /// The IOMMU that serves it logs which memory it writes.
    pub iommu_dirty_log: Evidence,
}

impl MigrationFacts {
    /// Whether a VM with such a device can move live as far as the device is concerned. `iommufd` is whether libvirt and QEMU
    /// can make use of the IOMMU's log. The first thing that is missing decides.
    pub fn certainty(&self, iommufd: bool) -> Certainty {
        self.stop_copy.certainty.min(self.certainty_of_log(iommufd))
    }

    /// Whether anything logs which memory the device writes.
    pub fn certainty_of_log(&self, iommufd: bool) -> Certainty {
        let iommu = if iommufd { self.iommu_dirty_log.certainty } else { Certainty::Refused };
        self.device_dirty_log.certainty.max(iommu)
    }

    /// Each fact, under the name that people read.
    pub fn named(&self) -> [(&'static str, &Evidence); 5] {
        [
            ("state", &self.stop_copy),
            ("pre-copy", &self.pre_copy),
            ("several at once", &self.p2p),
            ("dirty log of the device", &self.device_dirty_log),
            ("dirty log of the IOMMU", &self.iommu_dirty_log),
        ]
    }

    /// Whether all is known as well as of another device, whatever says so.
    pub fn is_like(&self, other: &Self) -> bool {
        let certainties = |facts: &Self| facts.named().map(|(_, evidence)| evidence.certainty);
        certainties(self) == certainties(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(stop_copy: Certainty, device: Certainty, iommu: Certainty) -> MigrationFacts {
        let of = |certainty| Evidence { certainty, source: String::new() };
        MigrationFacts {
            stop_copy: of(stop_copy),
            device_dirty_log: of(device),
            iommu_dirty_log: of(iommu),
            ..MigrationFacts::default()
        }
    }

    #[test]
    fn a_device_moves_live_if_its_state_can_be_had_and_something_logs_what_it_writes() {
        use Certainty::{Claimed, Proven, Refused, Unknown};
        assert_eq!(facts(Proven, Proven, Refused).certainty(false), Proven);
        assert_eq!(facts(Proven, Refused, Claimed).certainty(true), Claimed);
        assert_eq!(
            facts(Proven, Refused, Proven).certainty(false),
            Refused,
            "nobody would read the IOMMU's log"
        );
        assert_eq!(
            facts(Proven, Refused, Unknown).certainty(true),
            Refused,
            "nothing says that there is a log"
        );
        assert_eq!(facts(Refused, Proven, Proven).certainty(true), Refused);
        assert_eq!(facts(Unknown, Proven, Proven).certainty(true), Unknown);
        assert_eq!(MigrationFacts::default().certainty(true), Unknown);
    }

    #[test]
    fn evidence_that_is_too_long_is_cut_between_two_letters() {
        let evidence = Evidence::new(Certainty::Claimed, "\u{e9}".repeat(EVIDENCE_LEN_MAX));
        assert_eq!(evidence.source.len(), EVIDENCE_LEN_MAX);
        let odd = Evidence::new(Certainty::Claimed, format!("a{}", "\u{e9}".repeat(EVIDENCE_LEN_MAX)));
        assert_eq!(odd.source.len(), EVIDENCE_LEN_MAX - 1);
    }

    #[test]
    fn devices_are_alike_by_what_is_known_and_not_by_what_says_so() {
        let mut other = facts(Certainty::Proven, Certainty::Refused, Certainty::Claimed);
        assert!(other.is_like(&facts(Certainty::Proven, Certainty::Refused, Certainty::Claimed)));
        other.stop_copy.source = "another file".to_owned();
        assert!(other.is_like(&facts(Certainty::Proven, Certainty::Refused, Certainty::Claimed)));
        other.p2p.certainty = Certainty::Proven;
        assert!(!other.is_like(&facts(Certainty::Proven, Certainty::Refused, Certainty::Claimed)));
    }
}
