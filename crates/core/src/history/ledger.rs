//! What was measured and is not written yet.

use std::collections::BTreeMap;

use super::{
    FINE_STEP_S, Figure, Figures, Measured, Point, Quantity, Reading, Retention, Sum, start_of, thin,
};

/// The most histories of one host at once: its GPUs and partitions, and every VM that ran there lately.
const HISTORIES_MAX: usize = 4_096;

/// Points of every history that are not written yet, and those that are in the making.
#[derive(Debug, Default)]
pub struct Ledger {
    making: BTreeMap<Measured, Making>,
    unwritten: BTreeMap<Measured, Vec<Point>>,
}

/// A point in the making.
#[derive(Debug)]
struct Making {
    at_s: u64,
    sums: [Sum; Quantity::ALL.len()],
}

impl Making {
    fn point(&self) -> Point {
        Point { at_s: self.at_s, figures: Figures(self.sums.map(Sum::figure)) }
    }
}

impl Ledger {
    /// Notes what a look brought.
    pub fn note(&mut self, measured: &Measured, reading: Reading, now_s: u64) {
        let is_known = self.making.contains_key(measured) || self.unwritten.contains_key(measured);
        if reading.is_empty() || (!is_known && self.making.len() >= HISTORIES_MAX) {
            return;
        }
        let at_s = start_of(now_s, FINE_STEP_S);
        let fresh = || Making { at_s, sums: Default::default() };
        let making = self.making.entry(measured.clone()).or_insert_with(fresh);
        if making.at_s != at_s {
            let made = std::mem::replace(making, fresh());
            self.unwritten.entry(measured.clone()).or_default().push(made.point());
        }
        for (sum, value) in making.sums.iter_mut().zip(reading.0) {
            sum.add(value.map(|value| Figure { mean: value, max: value }));
        }
    }

    /// The points that are made, to be written. Those in the making are among them only when nothing follows.
    pub fn take(&mut self, now_s: u64, is_end: bool) -> BTreeMap<Measured, Vec<Point>> {
        let at_s = start_of(now_s, FINE_STEP_S);
        let mut taken = std::mem::take(&mut self.unwritten);
        let made = self.making.extract_if(.., |_, making| is_end || making.at_s != at_s);
        for (measured, making) in made {
            taken.entry(measured).or_default().push(making.point());
        }
        taken
    }

    /// Points that could not be written come back, thinned to what memory holds.
    pub fn put_back(&mut self, points: BTreeMap<Measured, Vec<Point>>, now_s: u64) {
        for (measured, mut points) in points {
            let unwritten = self.unwritten.entry(measured).or_default();
            points.append(unwritten);
            *unwritten = thin(points, now_s, &Retention::IN_MEMORY);
        }
        self.unwritten.retain(|_, points| !points.is_empty());
    }

    /// What is known here of one history: the last point is in the making.
    pub fn points(&self, measured: &Measured) -> Vec<Point> {
        let unwritten = self.unwritten.get(measured).into_iter().flatten().copied();
        unwritten.chain(self.making.get(measured).map(Making::point)).collect()
    }

    /// Every history of which something is known here.
    pub fn histories(&self) -> impl Iterator<Item = &Measured> {
        let only_unwritten = self.unwritten.keys().filter(|measured| !self.making.contains_key(*measured));
        self.making.keys().chain(only_unwritten)
    }
}
