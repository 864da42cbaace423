//! How busy a fake host is: made up, the same for one name and one moment wherever it is asked.
//!
//! Loads go up and down within minutes, hours and a day, so that every range of a chart has something to show.

use tranche_core::history::{Measured, Quantity, Reading};

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;

/// What something of a fake host does at a moment, in seconds since the Unix epoch.
pub fn usage(measured: &Measured, at_s: u64) -> Reading {
    let seed = seed(&measured.to_string());
    // A day has its quiet hours; on top of that, work comes and goes.
    let load = wave(at_s, DAY_S, seed, 35)
        + wave(at_s, HOUR_S, seed >> 8, 40)
        + wave(at_s, 7 * MINUTE_S, seed >> 16, 20);
    let memory_mib = 900 + wave(at_s, 6 * HOUR_S, seed >> 24, 1_400) + load * 8;
    let reading = Reading::default().with(Quantity::UtilizationPercent, Some(load));
    match measured {
        Measured::Gpu(_) => reading
            .with(Quantity::MemoryUsedMib, Some(memory_mib * 4))
            .with(Quantity::TemperatureC, Some(34 + load * 2 / 5))
            .with(Quantity::PowerW, Some(28 + load * 9 / 5)),
        Measured::Partition(..) | Measured::Vm(_) => reading.with(Quantity::MemoryUsedMib, Some(memory_mib)),
    }
}

/// A triangle that goes up and down once in a period.
fn wave(at_s: u64, period_s: u64, phase: u64, height: u64) -> u64 {
    let at = (at_s + phase % period_s) % period_s;
    at.min(period_s - at) * 2 * height / period_s
}

/// FNV-1a: the same for one name in every run.
fn seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_move_within_an_hour_differ_from_name_to_name_and_are_the_same_when_asked_again() {
        let gpu: Measured = "gpu 0000:41:00.0".parse().unwrap();
        let vm: Measured = "vm desk-01".parse().unwrap();
        let hour =
            |measured: &Measured| (0..60).map(|minute| usage(measured, minute * 60)).collect::<Vec<_>>();
        assert!(hour(&gpu).windows(2).any(|pair| pair[0] != pair[1]));
        assert_ne!(hour(&gpu), hour(&vm));
        assert_eq!(hour(&gpu), hour(&gpu));
    }
}
