//! What somebody wants to see of a history: from when to when, and how fine.

use std::fmt;

use super::{COARSE_STEP_S, FINE_STEP_S, Figure, Figures, Point, Quantity, Sum, fold, start_of};

/// The most points of one answer.
pub const POINTS_MAX: u64 = 2_000;
/// The steps that are taken where none is asked for, in seconds.
pub const STEPS_S: [u64; 8] = [FINE_STEP_S, 60, COARSE_STEP_S, 900, 1_800, 3_600, 10_800, 86_400];

/// So many points at most where no step is asked for: about what a picture of a history has room for.
const POINTS_WANTED: u64 = 400;
const STEP_S_MAX: u64 = 86_400;

/// A part of a history, in steps of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from_s: u64,
    to_s: u64,
    step_s: u64,
}

/// Why a part of a history cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowError {
    /// It ends before it begins, or where it begins.
    Backwards,
    /// The step is none.
    Step,
    /// It has so many points.
    TooMany(u64),
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backwards => write!(f, "'to' is not after 'from'"),
            Self::Step => write!(f, "'step_s' is no multiple of {FINE_STEP_S} up to {STEP_S_MAX}"),
            Self::TooMany(points) => write!(f, "it would have {points} points, and {POINTS_MAX} are allowed"),
        }
    }
}

impl Window {
    /// From the step in which `from_s` lies to the one before `to_s`; without a step, as fine as a picture can show.
    ///
    /// # Errors
    /// As [`WindowError`] says.
    pub fn new(from_s: u64, to_s: u64, step_s: Option<u64>) -> Result<Self, WindowError> {
        if to_s <= from_s {
            return Err(WindowError::Backwards);
        }
        let count = |step_s: u64| to_s.div_ceil(step_s) - from_s / step_s;
        let fits = |step_s: &u64| count(*step_s) <= POINTS_WANTED;
        let step_s = step_s.unwrap_or_else(|| STEPS_S.into_iter().find(fits).unwrap_or(STEP_S_MAX));
        if step_s == 0 || step_s > STEP_S_MAX || !step_s.is_multiple_of(FINE_STEP_S) {
            return Err(WindowError::Step);
        }
        match count(step_s) {
            points if points > POINTS_MAX => Err(WindowError::TooMany(points)),
            _ => Ok(Self { from_s: start_of(from_s, step_s), to_s, step_s }),
        }
    }

    /// Where the first step begins, in seconds since the Unix epoch.
    pub fn from_s(&self) -> u64 {
        self.from_s
    }

    /// Where the last one ends at the latest.
    pub fn to_s(&self) -> u64 {
        self.to_s
    }

    /// How long each step is, in seconds.
    pub fn step_s(&self) -> u64 {
        self.step_s
    }

    /// When each step begins.
    pub fn times_s(&self) -> impl Iterator<Item = u64> + use<> {
        let step_s = self.step_s;
        (self.from_s..self.to_s).step_by(usize::try_from(step_s).unwrap_or(usize::MAX))
    }

    /// The figures of each step; those of a step in which nothing was measured are empty.
    pub fn show(&self, points: impl IntoIterator<Item = Point>) -> Vec<Figures> {
        let inside = points.into_iter().filter(|point| (self.from_s..self.to_s).contains(&point.at_s));
        // Where fine points end and coarse ones begin, a coarse one counts as much as the fine ones of the same time.
        let even = match self.step_s.is_multiple_of(COARSE_STEP_S) {
            true => fold(inside, COARSE_STEP_S),
            false => inside.collect(),
        };
        let mut folded = fold(even, self.step_s).into_iter().peekable();
        let figures = |at_s| folded.next_if(|point| point.at_s == at_s).map(|point| point.figures);
        self.times_s().map(figures).map(Option::unwrap_or_default).collect()
    }
}

/// What can be said of a part of a history in a few words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The last that was measured.
    pub last: u32,
    /// The mean of all steps.
    pub mean: u32,
    /// The highest.
    pub max: u32,
}

impl Summary {
    /// Of a quantity; none where nothing was measured.
    pub fn of(figures: &[Figures], quantity: Quantity) -> Option<Self> {
        let told = || figures.iter().filter_map(|figures| figures.get(quantity));
        let mut sum = Sum::default();
        told().for_each(|figure| sum.add(Some(figure)));
        let Figure { mean, max } = sum.figure()?;
        Some(Self { last: told().next_back()?.mean, mean, max })
    }
}
