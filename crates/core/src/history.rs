//! How busy GPUs, partitions and VMs were: which figures are kept, for how long, and how fine.
//!
//! ```text
//! looks ──► Ledger: a point for each 30 s ──► written in batches ──► after a day: one for each 5 min ──► after some days: gone
//! ```
//!
//! A history is for people to look at. No decision rests on one, and it may be lost without harm; so it is no part of spec,
//! inventory or plan. Times are of the host's own clock, which may be set: points are told apart by their time alone, whatever
//! order they come in, so that a clock that goes back makes two stories of one time and nothing worse.
//!
//! Deliberately absent: the file, the clock and the thread. Whoever has those asks what to keep.

mod ledger;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::ledger::Ledger;
pub use self::window::{POINTS_MAX, STEPS_S, Summary, Window, WindowError};
use crate::name::{GpuAddress, NameError, VmName};

/// What the points of the last day stand for, in seconds.
pub const FINE_STEP_S: u64 = 30;
/// What older ones stand for, in seconds.
pub const COARSE_STEP_S: u64 = 300;
/// For how many days a history may be kept.
pub const DAYS: RangeInclusive<u64> = 1..=31;

const DAY_S: u64 = 24 * 60 * 60;

/// Whose history it is, on one host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measured {
    /// A GPU.
    Gpu(GpuAddress),
    /// A partition: its GPU, and which one it is of that.
    Partition(GpuAddress, u16),
    /// A VM.
    Vm(VmName),
}

/// As a file and other hosts name it: `gpu 0000:01:00.0`, `partition 0000:01:00.0/3`, `vm desk-01`.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpu(gpu) => write!(f, "gpu {gpu}"),
            Self::Partition(gpu, index) => write!(f, "partition {gpu}/{index}"),
            Self::Vm(vm) => write!(f, "vm {vm}"),
        }
    }
}

impl FromStr for Measured {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let unknown =
            || NameError::new("history", text, "'gpu ADDRESS', 'partition ADDRESS/INDEX' or 'vm NAME'");
        let (kind, name) = text.split_once(' ').ok_or_else(unknown)?;
        match kind {
            "gpu" => Ok(Self::Gpu(name.parse()?)),
            "vm" => Ok(Self::Vm(name.parse()?)),
            "partition" => {
                let (gpu, index) = name.rsplit_once('/').ok_or_else(unknown)?;
                Ok(Self::Partition(gpu.parse()?, index.parse().map_err(|_| unknown())?))
            }
            _ => Err(unknown()),
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// How busy it was, in percent: of a GPU; of what a partition had of its GPU's time; of a VM's virtual processors.
    UtilizationPercent,
    /// Memory in use, in MiB: a GPU's, that of it which a partition's guest uses, or a VM's.
    MemoryUsedMib,
    /// How warm a GPU was, in degrees Celsius.
    TemperatureC,
    /// What a GPU drew, in watts.
    PowerW,
}

impl Quantity {
    /// Every quantity, in the order in which they are told.
    pub const ALL: [Self; 4] =
        [Self::UtilizationPercent, Self::MemoryUsedMib, Self::TemperatureC, Self::PowerW];
}

/// The mean and the highest of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Figure {
    /// The mean.
    pub mean: u32,
    /// The highest.
    pub max: u32,
}

/// What one look brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading([Option<u32>; Quantity::ALL.len()]);

impl Reading {
    /// The same with a quantity, if that is known.
    #[must_use]
    pub fn with(mut self, quantity: Quantity, value: Option<impl Into<u64>>) -> Self {
        self.0[quantity as usize] = value.map(|value| u32::try_from(value.into()).unwrap_or(u32::MAX));
        self
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

/// The figures of a time; what nobody told is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures([Option<Figure>; Quantity::ALL.len()]);

impl Figures {
    /// One of them.
    pub fn get(&self, quantity: Quantity) -> Option<Figure> {
        self.0[quantity as usize]
    }

    /// The same with one more, or without it.
    #[must_use]
    pub fn with(mut self, quantity: Quantity, figure: Option<Figure>) -> Self {
        self.0[quantity as usize] = figure;
        self
    }
}

/// The figures of one look.
impl From<Reading> for Figures {
    fn from(reading: Reading) -> Self {
        Self(reading.0.map(|value| value.map(|value| Figure { mean: value, max: value })))
    }
}

/// The figures of a step of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// When the step begins, in seconds since the Unix epoch: a multiple of its length.
    pub at_s: u64,
    /// What was measured in it.
    pub figures: Figures,
}

/// For how long a history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long there is a point for each [`FINE_STEP_S`], in seconds.
    pub fine_s: u64,
    /// After how long nothing is left, in seconds.
    pub kept_s: u64,
}

impl Retention {
    /// What is kept while nothing can be written: enough to see what goes on, and little enough for memory.
    pub const IN_MEMORY: Self = Self { fine_s: 60 * 60, kept_s: DAY_S };

    /// So many days, the last of them fine.
    pub fn days(days: u64) -> Self {
        Self { fine_s: DAY_S, kept_s: days.max(1) * DAY_S }
    }

    /// Points that begin before this are coarse, in seconds since the Unix epoch. It is where a coarse one begins.
    pub fn fine_from_s(&self, now_s: u64) -> u64 {
        start_of(now_s.saturating_sub(self.fine_s), COARSE_STEP_S)
    }

    /// Points that begin before this are gone.
    pub fn kept_from_s(&self, now_s: u64) -> u64 {
        start_of(now_s.saturating_sub(self.kept_s), COARSE_STEP_S)
    }

    /// The most points of one history: one more of each kind than the time holds, because steps begin where they do.
    pub fn points_max(&self) -> usize {
        let fine = (self.fine_s + COARSE_STEP_S) / FINE_STEP_S + 1;
        let coarse = self.kept_s.saturating_sub(self.fine_s) / COARSE_STEP_S + 1;
        usize::try_from(fine + coarse).unwrap_or(usize::MAX)
    }
}

/// Where the step begins in which a moment lies.
pub fn start_of(at_s: u64, step_s: u64) -> u64 {
    at_s - at_s % step_s.max(1)
}

/// Points of longer steps, in order of time. Each of them counts the same in its step's mean.
pub fn fold(points: impl IntoIterator<Item = Point>, step_s: u64) -> Vec<Point> {
    let mut sums: BTreeMap<u64, [Sum; Quantity::ALL.len()]> = BTreeMap::new();
    for point in points {
        let sums = sums.entry(start_of(point.at_s, step_s)).or_default();
        for (sum, figure) in sums.iter_mut().zip(point.figures.0) {
            sum.add(figure);
        }
    }
    let point = |(at_s, sums): (u64, [Sum; Quantity::ALL.len()])| Point {
        at_s,
        figures: Figures(sums.map(|sum| sum.figure())),
    };
    sums.into_iter().map(point).collect()
}

/// What is left of a history: in order of time, coarse where it is old, and never more than [`Retention::points_max`]. What a clock
/// that was wrong wrote into the future goes first, then the oldest.
pub fn thin(points: impl IntoIterator<Item = Point>, now_s: u64, retention: &Retention) -> Vec<Point> {
    let (kept_from_s, fine_from_s) = (retention.kept_from_s(now_s), retention.fine_from_s(now_s));
    let kept = points.into_iter().filter(|point| point.at_s >= kept_from_s);
    let (old, new): (Vec<Point>, Vec<Point>) = kept.partition(|point| point.at_s < fine_from_s);
    let mut left = fold(old, COARSE_STEP_S);
    left.extend(fold(new, FINE_STEP_S));
    let over = left.len().saturating_sub(retention.points_max());
    let future = left.iter().filter(|point| point.at_s > now_s).count();
    left.truncate(left.len() - over.min(future));
    left.drain(..over.saturating_sub(future));
    left
}

/// What the mean and the highest are made from.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    of_means: u64,
    count: u64,
    max: u32,
}

impl Sum {
    fn add(&mut self, figure: Option<Figure>) {
        let Some(Figure { mean, max }) = figure else { return };
        self.of_means += u64::from(mean);
        self.count += 1;
        self.max = self.max.max(max);
    }

    /// Halves are rounded up.
    fn figure(self) -> Option<Figure> {
        let mean = (self.of_means + self.count / 2).checked_div(self.count)?;
        Some(Figure { mean: u32::try_from(mean).unwrap_or(u32::MAX), max: self.max })
    }
}
