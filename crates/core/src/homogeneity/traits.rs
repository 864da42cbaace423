//! What is compared of a GPU, borrowed from where it is known.

use std::fmt;

use super::Attribute;
use crate::diagnostics as say;
use crate::inventory::{Backend, Gpu, HostInventory, Offer};
use crate::name::{PciIds, PoolName};
use crate::spec::{GpuMode, GpuSpec};

/// Everything of a GPU that is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Traits<'a> {
    ids: PciIds,
    vram_mib: Option<u64>,
    backend: Option<Backend>,
    offers: &'a [Offer],
    driver: Option<Driver<'a>>,
    firmware: Option<&'a str>,
    ecc: Option<bool>,
    pub(super) used: Use<'a>,
}

/// What must be alike so that GPUs can be split alike: which GPU it is, its memory, and what its driver offers.
pub(crate) type Kind<'a> = (u16, u16, Option<u64>, Option<Backend>, &'a [Offer]);

/// What a GPU shall be used for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use<'a> {
    /// It is left to the host.
    Idle,
    /// Equal partitions.
    Split { count: u16, series: Option<&'a str> },
    /// Partitions of these sizes, in order.
    Mixed(Vec<&'a str>),
    /// Given whole to a VM.
    Whole(Option<&'a PoolName>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Driver<'a> {
    name: &'a str,
    /// None: it comes with the kernel.
    version: Option<&'a str>,
    kernel: &'a str,
}

impl<'a> Traits<'a> {
    /// Of a GPU that its host reports.
    pub(super) fn seen(gpu: &'a Gpu, observed: &'a HostInventory, wish: Option<&'a GpuSpec>) -> Self {
        let used = Use::of(wish, Some(gpu));
        // The driver that hands a GPU over whole says nothing of the GPU.
        let own = gpu.driver.as_deref().filter(|_| !matches!(used, Use::Whole(_)));
        let version = gpu.driver_version.as_deref();
        let kernel = if version.is_some() { "" } else { observed.system.kernel.as_str() };
        let telemetry = gpu.telemetry.as_ref();
        Self {
            ids: gpu.ids,
            vram_mib: gpu.vram_mib,
            backend: gpu.backend,
            offers: gpu.reload.as_ref().map_or(&gpu.offers, |after| &after.offers),
            driver: own.map(|name| Driver { name, version, kernel }),
            firmware: telemetry.and_then(|told| told.firmware.as_deref()),
            ecc: telemetry.and_then(|told| told.ecc).map(|ecc| ecc.enabled),
            used,
        }
    }

    /// Of a GPU that somebody has spoken for and that its host does not report.
    pub(super) fn unseen(wish: &'a GpuSpec) -> Self {
        Self {
            ids: wish.identity.ids,
            vram_mib: None,
            backend: None,
            offers: &[],
            driver: None,
            firmware: None,
            ecc: None,
            used: Use::of(Some(wish), None),
        }
    }

    pub(crate) fn is_split(&self) -> bool {
        matches!(self.used, Use::Split { .. } | Use::Mixed(_))
    }

    pub(crate) fn can_be_split(&self) -> bool {
        self.backend.is_some() && !self.offers.is_empty() && !matches!(self.used, Use::Whole(_))
    }

    pub(crate) fn kind(&self) -> Kind<'a> {
        (self.ids.vendor, self.ids.device, self.vram_mib, self.backend, self.offers)
    }

    /// What it has of an attribute; none where that is not known, or the GPU has nothing of the kind.
    pub(super) fn value(&self, attribute: Attribute) -> Option<Value<'a>> {
        match attribute {
            // Nobody knows yet what will be there: its machine was replaced.
            Attribute::Vendor | Attribute::Device | Attribute::Subsystem if self.ids == PciIds::default() => {
                None
            }
            Attribute::Vendor => Some(Value::Id(self.ids.vendor)),
            Attribute::Device => Some(Value::Ids(self.ids.vendor, self.ids.device)),
            Attribute::Subsystem => Some(Value::Ids(self.ids.subvendor, self.ids.subdevice)),
            Attribute::Memory => self.vram_mib.map(Value::Memory),
            Attribute::Backend => self.backend.map(Value::Backend),
            Attribute::Offers => (!self.offers.is_empty()).then_some(Value::Offers(self.offers)),
            Attribute::Count => match &self.used {
                Use::Split { count, .. } => Some(Value::Count(*count)),
                Use::Mixed(sizes) => Some(Value::Sizes(sizes.clone())),
                Use::Idle | Use::Whole(_) => None,
            },
            Attribute::Series => match &self.used {
                Use::Split { series, .. } => Some(Value::Series(*series)),
                Use::Mixed(_) | Use::Idle | Use::Whole(_) => None,
            },
            Attribute::Driver => self.driver.map(Value::Driver),
            Attribute::Firmware => self.firmware.map(Value::Firmware),
            Attribute::Ecc => self.ecc.map(Value::Ecc),
        }
    }

    /// The command's flags that split a GPU as this one is.
    pub(super) fn flags(&self) -> Option<String> {
        match &self.used {
            Use::Split { count, series: Some(series) } => Some(format!("--count {count} --series {series}")),
            Use::Split { count, series: None } => Some(format!("--count {count}")),
            Use::Mixed(sizes) => Some(format!("--sizes {}", sizes.join(","))),
            Use::Idle | Use::Whole(_) => None,
        }
    }

    /// Whether it could be split as another one is.
    pub(super) fn offers_what(&self, other: &Self) -> bool {
        match &other.used {
            Use::Split { count, series } => {
                self.offers.iter().any(|offer| offer.count == *count && offer.series.as_deref() == *series)
            }
            Use::Mixed(sizes) => {
                sizes.iter().all(|size| self.offers.iter().any(|offer| offer.profile == *size))
            }
            Use::Idle | Use::Whole(_) => true,
        }
    }
}

impl<'a> Use<'a> {
    fn of(wish: Option<&'a GpuSpec>, gpu: Option<&'a Gpu>) -> Self {
        match wish.map(|wish| &wish.mode) {
            None | Some(GpuMode::Host) => Self::Idle,
            Some(GpuMode::Partitioned { count, series }) => {
                // A series that is not named is the driver's first; then it is the same as if it were named.
                let offer = gpu.and_then(|gpu| {
                    let after = gpu.reload.as_ref().map_or(&[][..], |after| &after.offers);
                    let named = |offer: &&Offer| {
                        offer.count == *count && (series.is_none() || offer.series == *series)
                    };
                    gpu.offers.iter().chain(after).find(named)
                });
                let series = offer.map_or(series.as_deref(), |offer| offer.series.as_deref());
                Self::Split { count: *count, series }
            }
            Some(GpuMode::Mixed { sizes }) => {
                let mut sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
                sizes.sort_unstable();
                Self::Mixed(sizes)
            }
            Some(GpuMode::Passthrough { pool, .. }) => Self::Whole(pool.as_ref()),
        }
    }
}

/// What a GPU has of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value<'a> {
    Id(u16),
    Ids(u16, u16),
    Memory(u64),
    Backend(Backend),
    Offers(&'a [Offer]),
    Count(u16),
    Sizes(Vec<&'a str>),
    Series(Option<&'a str>),
    Driver(Driver<'a>),
    Firmware(&'a str),
    Ecc(bool),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id:04x}"),
            Self::Ids(one, two) => write!(f, "{one:04x}:{two:04x}"),
            Self::Memory(mib) => write!(f, "{mib} MiB"),
            Self::Backend(backend) => f.write_str(match backend {
                Backend::SriovVfio => "sriov-vfio",
                Backend::TypedVf => "typed-vf",
                Backend::FixedVf => "fixed-vf",
                Backend::Mdev => "mdev",
                Backend::VfMdev => "vf-mdev",
            }),
            Self::Offers(offers) => {
                let texts: Vec<String> =
                    offers.iter().map(|offer| format!("{} of {}", offer.count, offer.profile)).collect();
                f.write_str(&say::list(&texts))
            }
            Self::Count(count) => write!(f, "{count}"),
            Self::Sizes(sizes) => f.write_str(&sizes.join(", ")),
            Self::Series(series) => f.write_str(series.unwrap_or("none")),
            Self::Driver(Driver { name, version: Some(version), .. }) => write!(f, "{name} {version}"),
            Self::Driver(Driver { name, version: None, kernel }) => write!(f, "{name} of Linux {kernel}"),
            Self::Firmware(version) => f.write_str(version),
            Self::Ecc(on) => f.write_str(if *on { "on" } else { "off" }),
        }
    }
}
