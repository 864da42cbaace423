//! Points as they stand in a row of the file.
//!
//! Each is: which step of the row it is; a bit for each quantity that it has; the mean and the highest of each of these. All numbers
//! have seven bits a byte, the lowest first, with the eighth bit where more follow: most take one or two bytes.

use tranche_core::history::{Figure, Figures, Point, Quantity};

/// The points of a row that begins at a time.
pub(super) fn encode(row_at_s: u64, step_s: u64, points: &[Point]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for point in points {
        put(&mut bytes, point.at_s.saturating_sub(row_at_s) / step_s);
        let figures = Quantity::ALL.map(|quantity| point.figures.get(quantity));
        let has = figures.iter().enumerate().filter(|(_, figure)| figure.is_some());
        put(&mut bytes, has.map(|(bit, _)| 1 << bit).sum());
        for Figure { mean, max } in figures.into_iter().flatten() {
            put(&mut bytes, mean.into());
            put(&mut bytes, max.into());
        }
    }
    bytes
}

/// The same back. What was damaged ends it.
pub(super) fn decode(row_at_s: u64, step_s: u64, mut bytes: &[u8]) -> Vec<Point> {
    let mut points = Vec::new();
    while let Some(point) = next(row_at_s, step_s, &mut bytes) {
        points.push(point);
    }
    points
}

fn next(row_at_s: u64, step_s: u64, bytes: &mut &[u8]) -> Option<Point> {
    let at_s = take(bytes)?.checked_mul(step_s)?.checked_add(row_at_s)?;
    let has = take(bytes)?;
    let mut figures = Figures::default();
    for (bit, quantity) in Quantity::ALL.into_iter().enumerate() {
        if has & (1 << bit) != 0 {
            let (mean, max) = (take(bytes)?.try_into().ok()?, take(bytes)?.try_into().ok()?);
            figures = figures.with(quantity, Some(Figure { mean, max }));
        }
    }
    Some(Point { at_s, figures })
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_come_back_as_they_were_and_damage_costs_only_what_follows_it() {
        let figure = |mean, max| Some(Figure { mean, max });
        let points: Vec<Point> = [(600, figure(0, 100)), (630, None), (1_170, figure(300, u32::MAX))]
            .map(|(at_s, memory)| {
                let figures = Figures::default().with(Quantity::MemoryUsedMib, memory);
                Point { at_s, figures: figures.with(Quantity::PowerW, figure(1, 2)) }
            })
            .into();
        let bytes = encode(600, 30, &points);
        assert_eq!(decode(600, 30, &bytes), points);
        assert_eq!(decode(600, 30, &bytes[..bytes.len() - 1]), points[..2]);
        assert!(decode(600, 30, &[0xff; 40]).is_empty());
    }
}
