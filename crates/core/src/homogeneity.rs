//! Homogeneity: whether the GPUs that serve VMs are alike, over all hosts.
//!
//! GPUs that are split are one set, and so are those of each pool for passthrough: a VM may run on any GPU of its set, so
//! what differs there shows when a VM is to run elsewhere. GPUs that could be split and are left to the host belong to
//! the first set, too; what differs on them breaks nothing yet and is only noted.
//!
//! The value that most GPUs in use have is the usual one. Where as many have one as another, the one on the host that has
//! been in the cluster longest counts, then the one on the first host by name.
//!
//! The work goes by kinds of GPUs, not by GPUs: each GPU is compared once with the one before it, and all else is done for
//! kinds, of which even large clusters have few. What is not known of a GPU is neither alike nor different.

mod classes;
mod judged;
mod mend;
mod traits;

use serde::{Deserialize, Serialize};

pub(crate) use self::classes::{Class, Classes};
use self::judged::{Judged, Set, sets};
pub(crate) use self::traits::Kind;
use self::traits::Traits;
use crate::change::State;
use crate::diagnostics as say;
use crate::finding::{Code, Finding, Severity};
use crate::inventory::{Gpu, HostInventory, Inventory};
use crate::name::{GpuKey, PoolName};
use crate::plan::Plan;
use crate::spec::{GpuSpec, Homogeneity, Spec};

/// Whether the GPUs that serve VMs are alike: `GET /v1/homogeneity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Report {
    /// What follows from a difference.
    pub policy: Homogeneity,
    /// Whether no GPU in use differs from the others of its set.
    pub homogeneous: bool,
    /// The sets, those without any GPU left out.
    pub sets: Vec<SetReport>,
}

/// A set of GPUs that should be alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SetReport {
    /// Which.
    pub set: SetName,
    /// Its GPUs, in order.
    pub gpus: Vec<GpuKey>,
    /// How many of them serve VMs; the others are left to the host.
    pub in_use: usize,
    /// What is compared, the weightiest first.
    pub attributes: Vec<AttributeReport>,
}

/// Which set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum SetName {
    /// The GPUs that are split or can be.
    Partitions,
    /// The GPUs of a pool for passthrough.
    Pool(PoolName),
    /// The GPUs for passthrough that are in no pool: VMs that ask for them do not mind which.
    NoPool,
}

impl std::fmt::Display for SetName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Partitions => f.write_str("the GPUs that are split"),
            Self::Pool(pool) => write!(f, "the GPUs of pool {pool}"),
            Self::NoPool => f.write_str("the GPUs that are passed through"),
        }
    }
}

/// What the GPUs of a set have of one attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AttributeReport {
    /// The attribute.
    pub attribute: Attribute,
    /// How bad the difference is; none where all are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grade: Option<Grade>,
    /// What the difference breaks.
    pub breaks: Vec<Breaks>,
    /// The difference that this one comes from: it goes with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows_from: Option<Attribute>,
    /// Whether the usual value was decided by the oldest host, because as many GPUs have another.
    pub tie: bool,
    /// The values, the usual one first.
    pub values: Vec<ValueReport>,
    /// Of how many GPUs nothing is known.
    pub unknown: usize,
    /// What mends it.
    pub mends: Vec<Mend>,
}

/// Who has a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ValueReport {
    /// The value, for people.
    pub value: String,
    /// Whether it is the usual one.
    pub usual: bool,
    /// How many GPUs have it.
    pub number: usize,
    /// On how many hosts.
    pub hosts: usize,
    /// Which; left out for the usual value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuKey>,
}

/// What makes a GPU like the others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Mend {
    /// The GPU.
    pub gpu: GpuKey,
    /// What to do, in a sentence.
    pub text: String,
    /// The command that does it, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// What is compared, the weightiest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// Who made the GPU: the PCI vendor id.
    Vendor,
    /// Which GPU it is: the PCI device id.
    Device,
    /// Whose board it is on: the PCI subsystem.
    Subsystem,
    /// Video memory.
    Memory,
    /// How it makes partitions.
    Backend,
    /// The partition counts that it offers, and the size of each.
    Offers,
    /// How many partitions it shall have, or their sizes.
    Count,
    /// The profile series of its partitions.
    Series,
    /// Its driver and the driver's version; the kernel's where the driver comes with it.
    Driver,
    /// The version of the card's firmware.
    Firmware,
    /// Whether error correction of its memory is on.
    Ecc,
}

impl Attribute {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Vendor,
        Self::Device,
        Self::Subsystem,
        Self::Memory,
        Self::Backend,
        Self::Offers,
        Self::Count,
        Self::Series,
        Self::Driver,
        Self::Firmware,
        Self::Ecc,
    ];

    /// What a difference breaks.
    pub fn breaks(self) -> &'static [Breaks] {
        use Breaks::{Failover, LiveMigration, Partitioning};
        match self {
            Self::Vendor | Self::Device | Self::Memory | Self::Offers => {
                &[Partitioning, Failover, LiveMigration]
            }
            Self::Backend | Self::Count | Self::Series => &[Failover, LiveMigration],
            Self::Subsystem | Self::Driver | Self::Firmware | Self::Ecc => &[LiveMigration],
        }
    }

    /// The finding that says that GPUs differ in it.
    pub fn code(self) -> Code {
        match self {
            Self::Vendor => Code::UnlikeVendor,
            Self::Device => Code::UnlikeDevice,
            Self::Subsystem => Code::UnlikeSubsystem,
            Self::Memory => Code::UnlikeMemory,
            Self::Backend => Code::UnlikeBackend,
            Self::Offers => Code::UnlikeOffers,
            Self::Count => Code::UnlikeCount,
            Self::Series => Code::UnlikeSeries,
            Self::Driver => Code::UnlikeDriver,
            Self::Firmware => Code::UnlikeFirmware,
            Self::Ecc => Code::UnlikeEcc,
        }
    }

    /// Whether it comes with the card, so that another card explains it. A count is set by people.
    fn comes_with_the_card(self) -> bool {
        !matches!(self, Self::Vendor | Self::Count)
    }

    /// Whether GPUs that are given whole to VMs are compared by it: what a driver tells is not known of them.
    fn is_of_whole_gpus(self) -> bool {
        matches!(self, Self::Vendor | Self::Device | Self::Subsystem | Self::Memory)
    }
}

/// What it is called in a sentence.
impl std::fmt::Display for Attribute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Vendor => "vendor",
            Self::Device => "model",
            Self::Subsystem => "subsystem",
            Self::Memory => "video memory",
            Self::Backend => "backend",
            Self::Offers => "counts offered",
            Self::Count => "partition count",
            Self::Series => "profile series",
            Self::Driver => "driver version",
            Self::Firmware => "firmware",
            Self::Ecc => "ECC",
        })
    }
}

/// How bad a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Only GPUs differ that serve no VM, or VMs do not mind: it breaks nothing yet.
    Note,
    /// It breaks live migration only.
    Slight,
    /// It breaks partitioning alike, or failover.
    Severe,
}

impl std::fmt::Display for Grade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Slight => "slight",
            Self::Severe => "severe",
        })
    }
}

/// What a difference breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Breaks {
    /// One count for all GPUs gives partitions of one size.
    Partitioning,
    /// A VM finds on another host what it had.
    Failover,
    /// A VM moves without being turned off.
    LiveMigration,
}

impl std::fmt::Display for Breaks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Partitioning => "partitioning",
            Self::Failover => "failover",
            Self::LiveMigration => "live migration",
        })
    }
}

/// Compares all GPUs.
pub fn report(state: State<'_>) -> Report {
    let classes = Classes::of(state.spec, state.inventory);
    let sets = sets(&classes);
    let sets: Vec<SetReport> = sets.iter().map(|set| report_of(set, state)).collect();
    let worst = sets.iter().flat_map(|set| &set.attributes).filter_map(|attribute| attribute.grade).max();
    let homogeneous = worst.is_none_or(|worst| worst == Grade::Note);
    Report { policy: state.spec.policy.homogeneity, homogeneous, sets }
}

/// A GPU, its host, and what it shall be used for.
pub(crate) type Known<'a> = (&'a Gpu, &'a HostInventory, Option<&'a GpuSpec>);

/// In what two GPUs differ that must be the same to a guest that moves from one to the other while it runs, and what each has. What
/// is not known of one of them is left out; how they are split shows in their partitions.
pub(crate) fn differences(one: Known<'_>, other: Known<'_>) -> Vec<(Attribute, String, String)> {
    let (one, other) = (Traits::seen(one.0, one.1, one.2), Traits::seen(other.0, other.1, other.2));
    let is_of_card = |attribute: &Attribute| {
        !matches!(attribute, Attribute::Offers | Attribute::Count | Attribute::Series)
    };
    let differs = |attribute: Attribute| {
        let (has, of_other) = (one.value(attribute)?, other.value(attribute)?);
        (has != of_other).then(|| (attribute, has.to_string(), of_other.to_string()))
    };
    Attribute::ALL.into_iter().filter(is_of_card).filter_map(differs).collect()
}

/// A finding for each attribute in which GPUs in use differ.
pub fn findings(spec: &Spec, inventory: &Inventory, plan: &Plan) -> Vec<Finding> {
    let state = State { spec, plan, inventory };
    let classes = Classes::of(spec, inventory);
    let mut found = Vec::new();
    for set in sets(&classes).iter().filter(|set| set.differs_in_use()) {
        for judged in set.judge_all(spec) {
            let Some(grade) = judged.grade(set).filter(|grade| *grade > Grade::Note) else { continue };
            if judged.follows_from.is_none() {
                // One host alone has nowhere to fail over to: a mix of cards there may well be meant.
                let alone = spec.hosts.len() < 2;
                let severity = match (grade, spec.policy.homogeneity) {
                    (Grade::Severe, Homogeneity::Strict) => Severity::Error,
                    (Grade::Severe, Homogeneity::Warn) if !alone => Severity::Warning,
                    (Grade::Severe | Grade::Slight | Grade::Note, _) => Severity::Info,
                };
                let mends = mend::mends(&judged, set, state);
                found.push(say::unlike(&set.name, &judged.attribute_report(set, mends), severity));
            }
        }
    }
    found
}

/// Whether two reports of a host tell the same of its GPUs, as far as GPUs are compared.
pub(crate) fn has_same_gpus(one: &HostInventory, other: &HostInventory) -> bool {
    let is_same = |(gpu, now): (&Gpu, &Gpu)| {
        gpu.offers == now.offers && Traits::seen(gpu, one, None) == Traits::seen(now, other, None)
    };
    one.gpus.keys().eq(other.gpus.keys()) && one.gpus.values().zip(other.gpus.values()).all(is_same)
}

/// What a changed spec makes less alike: a finding for each attribute in which a GPU would differ that does not differ now.
/// They are refusals or warnings, as the policy says.
pub fn worsened(before: State<'_>, after: &Spec) -> Vec<Finding> {
    if before.spec.gpus == after.gpus {
        return Vec::new();
    }
    let changed = |key: &GpuKey| before.spec.gpus.get(key) != after.gpus.get(key);
    let (was, will) = (Classes::of(before.spec, before.inventory), Classes::of(after, before.inventory));
    let (was, will) = (sets(&was), sets(&will));
    let mut found = Vec::new();
    for set in will.iter().filter(|set| set.differs_in_use() && set.in_use().any(|gpu| changed(&gpu.key()))) {
        let earlier = was.iter().find(|earlier| earlier.name == set.name);
        let earlier = earlier.map(|earlier| (earlier, earlier.judge_all(before.spec))).unzip();
        for judged in set.judge_all(after) {
            if judged.grade(set) != Some(Grade::Severe) || judged.follows_from.is_some() {
                continue;
            }
            let odd_before = odd_keys(&judged, earlier.0, earlier.1.as_deref());
            let newly: Vec<GpuKey> =
                judged.odd_in_use(set).map(|gpu| gpu.key()).filter(|key| !odd_before.contains(key)).collect();
            if !newly.is_empty() {
                let strict = after.policy.homogeneity == Homogeneity::Strict;
                let report = judged.attribute_report(set, Vec::new());
                found.push(say::breaks_homogeneity(&set.name, &report, &newly, strict));
            }
        }
    }
    found
}

fn odd_keys(judged: &Judged<'_>, set: Option<&Set<'_>>, all: Option<&[Judged<'_>]>) -> Vec<GpuKey> {
    let earlier = all.and_then(|all| all.iter().find(|earlier| earlier.attribute == judged.attribute));
    let odd = set.zip(earlier).map(|(set, earlier)| earlier.odd_in_use(set).map(|gpu| gpu.key()).collect());
    odd.unwrap_or_default()
}

fn report_of(set: &Set<'_>, state: State<'_>) -> SetReport {
    let mut gpus: Vec<GpuKey> = set.members().map(|gpu| gpu.key()).collect();
    gpus.sort();
    let attributes = set.judge_all(state.spec).into_iter().map(|judged| {
        let mends = mend::mends(&judged, set, state);
        judged.attribute_report(set, mends)
    });
    SetReport { set: set.name.clone(), gpus, in_use: set.in_use().count(), attributes: attributes.collect() }
}
