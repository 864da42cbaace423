//! How a history looks to people.

use tranche_api::history::{HistoryView, SeriesView};
use tranche_core::history::Quantity;

use super::{Show, rows, text};

/// From empty to full.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// So many of them stand for a whole course.
const COURSE_LEN: usize = 40;

impl Show for HistoryView {
    fn as_text(&self) -> String {
        let row = |series: &SeriesView| {
            let told = |value| in_words(series.quantity, value);
            let what = series.partition.map_or_else(String::new, |index| format!("partition {index}, "));
            let what = format!("{what}{}", name(series.quantity));
            vec![what, told(series.last), told(series.mean), told(series.max), course(series)]
        };
        let none = format!("Host {} has measured nothing in this time.", self.host);
        let table =
            rows(&["WHAT", "NOW", "MEAN", "HIGHEST", "COURSE"], self.series.iter().map(row).collect(), &none);
        let (from, to) = (text::time(self.from), text::time(self.to));
        format!("{table}\nHost {}, from {from} to {to}, in steps of {} s.\n", self.host, self.step_s)
    }
}

fn name(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::UtilizationPercent => "load",
        Quantity::MemoryUsedMib => "memory",
        Quantity::TemperatureC => "temperature",
        Quantity::PowerW => "power",
    }
}

fn in_words(quantity: Quantity, value: u32) -> String {
    match quantity {
        Quantity::UtilizationPercent => format!("{value} %"),
        Quantity::MemoryUsedMib => format!("{value} MiB"),
        Quantity::TemperatureC => format!("{value} °C"),
        Quantity::PowerW => format!("{value} W"),
    }
}

/// The means in a line, the oldest first; a gap where nothing was measured. Percents fill the line at 100, all else at the highest.
fn course(series: &SeriesView) -> String {
    let full = match series.quantity {
        Quantity::UtilizationPercent => 100,
        _ => series.max.max(1),
    };
    let per_block = series.means.len().div_ceil(COURSE_LEN).max(1);
    let block = |means: &[Option<u32>]| {
        let told: Vec<u64> = means.iter().flatten().map(|mean| u64::from(*mean)).collect();
        let Some(mean) = told.iter().sum::<u64>().checked_div(told.len() as u64) else { return ' ' };
        let at = mean * BLOCKS.len() as u64 / u64::from(full);
        BLOCKS[usize::try_from(at).unwrap_or(usize::MAX).min(BLOCKS.len() - 1)]
    };
    series.means.chunks(per_block).map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(quantity: Quantity, max: u32, means: Vec<Option<u32>>) -> SeriesView {
        let (partition, maxima) = (None, means.clone());
        SeriesView { partition, quantity, last: 0, mean: 0, max, means, maxima }
    }

    #[test]
    fn a_course_is_as_high_as_what_it_tells_and_has_a_gap_where_nothing_is_known() {
        let load = series(Quantity::UtilizationPercent, 100, vec![Some(0), None, Some(50), Some(100)]);
        assert_eq!(course(&load), "▁ ▅█");
        let memory = series(Quantity::MemoryUsedMib, 8, vec![Some(4), Some(8)]);
        assert_eq!(course(&memory), "▅█");
        let long = series(Quantity::PowerW, 10, vec![Some(10); 399]);
        assert_eq!(course(&long).chars().count(), 40);
        assert_eq!(course(&series(Quantity::PowerW, 0, vec![Some(0)])), "▁");
    }
}
