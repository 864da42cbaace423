//! The file of histories: bounded, and never in anybody's way.

use std::collections::BTreeMap;
use std::fs;

use camino::Utf8Path;
use tempfile::TempDir;
use tranche_core::history::{Figure, Figures, Measured, Point, Quantity, Retention};
use tranche_store::{SAMPLES_FILE_NAME, SampleFile, StoreError};

const NOW_S: u64 = 1_700_000_100;
const DAY_S: u64 = 24 * 60 * 60;
const MIB: u64 = 1 << 20;
const WEEK: Retention = Retention { fine_s: DAY_S, kept_s: 7 * DAY_S };

fn dir() -> TempDir {
    TempDir::new().unwrap()
}

fn path(dir: &TempDir) -> &Utf8Path {
    Utf8Path::from_path(dir.path()).unwrap()
}

fn gpu() -> Measured {
    "gpu 0000:01:00.0".parse().unwrap()
}

fn point(at_s: u64, mean: u32) -> Point {
    let figures = Figures::default().with(Quantity::UtilizationPercent, Some(Figure { mean, max: mean }));
    Point { at_s, figures }
}

fn batch(points: impl IntoIterator<Item = Point>) -> BTreeMap<Measured, Vec<Point>> {
    [(gpu(), points.into_iter().collect())].into()
}

/// Ten minutes of many histories, with everything that a GPU tells.
fn of_many(count: u16, from_s: u64) -> BTreeMap<Measured, Vec<Point>> {
    let figure = Some(Figure { mean: 20_000, max: 40_000 });
    let figures =
        Quantity::ALL.into_iter().fold(Figures::default(), |all, quantity| all.with(quantity, figure));
    let points: Vec<Point> = (0..20).map(|step| Point { at_s: from_s + step * 30, figures }).collect();
    let gpu: tranche_core::name::GpuAddress = "0000:01:00.0".parse().unwrap();
    (0..count).map(|index| (Measured::Partition(gpu.clone(), index), points.clone())).collect()
}

#[test]
fn what_was_written_is_read_again_and_is_coarse_after_a_day() {
    let dir = dir();
    let mut file = SampleFile::open(path(&dir), MIB).unwrap();
    file.add(&batch((0..20).map(|step| point(NOW_S + step * 30, 10))), NOW_S + 600, &WEEK).unwrap();
    // What is known of a time already is joined, and not doubled.
    file.add(&batch([point(NOW_S, 20)]), NOW_S + 600, &WEEK).unwrap();
    drop(file);
    let mut file = SampleFile::open(path(&dir), MIB).unwrap();
    let points = file.points(&gpu(), NOW_S, NOW_S + 600).unwrap();
    assert_eq!(points.len(), 20);
    assert_eq!(points[0].figures.get(Quantity::UtilizationPercent), Some(Figure { mean: 15, max: 20 }));
    assert!(file.points(&"vm a".parse().unwrap(), 0, u64::MAX).unwrap().is_empty());
    file.add(&batch([]), NOW_S + 2 * DAY_S, &WEEK).unwrap();
    let coarse: Vec<u64> =
        file.points(&gpu(), 0, u64::MAX).unwrap().iter().map(|point| point.at_s - NOW_S).collect();
    assert_eq!(coarse, [0, 300]);
    file.add(&batch([]), NOW_S + 9 * DAY_S, &WEEK).unwrap();
    assert!(file.points(&gpu(), 0, u64::MAX).unwrap().is_empty());
}

#[test]
fn a_file_grows_no_larger_than_it_may_and_what_is_newest_stays() {
    let dir = dir();
    let mut file = SampleFile::open(path(&dir), MIB).unwrap();
    let first = "partition 0000:01:00.0/0".parse().unwrap();
    for turn in 0..60 {
        file.add(&of_many(100, NOW_S + turn * 600), NOW_S + turn * 600 + 600, &WEEK).unwrap();
    }
    let points = file.points(&first, 0, u64::MAX).unwrap();
    assert_eq!(points.last().map(|point| point.at_s), Some(NOW_S + 60 * 600 - 30));
    assert!(points[0].at_s > NOW_S, "the oldest went");
    assert!(fs::metadata(path(&dir).join(SAMPLES_FILE_NAME)).unwrap().len() <= MIB);
    // A smaller size holds from the next batch on.
    drop(file);
    let mut file = SampleFile::open(path(&dir), MIB / 2).unwrap();
    file.add(&batch([point(NOW_S + 60 * 600, 1)]), NOW_S + 61 * 600, &WEEK).unwrap();
    assert_eq!(file.points(&gpu(), 0, u64::MAX).unwrap().len(), 1);
    drop(file);
    assert!(fs::metadata(path(&dir).join(SAMPLES_FILE_NAME)).unwrap().len() <= MIB / 2);
}

#[test]
fn a_clock_that_was_ahead_costs_the_future_that_it_wrote_when_room_is_needed() {
    let dir = dir();
    let mut file = SampleFile::open(path(&dir), MIB).unwrap();
    let ahead_s = NOW_S + 400 * DAY_S;
    file.add(&of_many(400, ahead_s), ahead_s + 600, &WEEK).unwrap();
    for turn in 0..7 {
        file.add(&of_many(200, NOW_S + turn * 600), NOW_S + turn * 600 + 600, &WEEK).unwrap();
    }
    let points = file.points(&"partition 0000:01:00.0/0".parse().unwrap(), 0, u64::MAX).unwrap();
    assert!(points.iter().any(|point| point.at_s == NOW_S), "what is true stays");
    assert!(points.iter().all(|point| point.at_s < ahead_s));
}

#[test]
fn a_file_that_is_none_or_somebody_elses_is_told_apart_and_put_aside() {
    let dir = dir();
    let path = path(&dir);
    fs::write(
        path.join(SAMPLES_FILE_NAME),
        "not a database, but long enough to be looked at as one".repeat(200),
    )
    .unwrap();
    assert!(matches!(SampleFile::open(path, MIB), Err(StoreError::Corrupt { .. })));
    let aside = SampleFile::set_aside(path).unwrap();
    assert!(aside.exists());
    let mut file = SampleFile::open(path, MIB).unwrap();
    file.add(&batch([point(NOW_S, 1)]), NOW_S, &WEEK).unwrap();
    drop(file);
    let other = rusqlite::Connection::open(path.join(SAMPLES_FILE_NAME)).unwrap();
    other.pragma_update(None, "user_version", 2).unwrap();
    drop(other);
    assert!(matches!(SampleFile::open(path, MIB), Err(StoreError::Foreign { .. })));
}

#[test]
fn a_place_that_cannot_be_written_is_told_as_such() {
    let missing = Utf8Path::new("/nonexistent/tranche");
    assert!(matches!(SampleFile::open(missing, MIB), Err(StoreError::Unavailable { .. })));
    // As on a full disk: the log cannot grow.
    let full = Utf8Path::new("/dev/full");
    assert!(SampleFile::open(full, MIB).is_err());
}

#[test]
fn a_file_that_is_full_all_the_same_says_so_and_loses_nothing() {
    let dir = dir();
    let mut file = SampleFile::open(path(&dir), 80 * 1024).unwrap();
    file.add(&batch([point(NOW_S, 1)]), NOW_S, &WEEK).unwrap();
    let error = file.add(&of_many(500, NOW_S), NOW_S + 600, &WEEK).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(file.points(&gpu(), 0, u64::MAX).unwrap().len(), 1);
    file.add(&batch([point(NOW_S + 30, 1)]), NOW_S + 60, &WEEK).unwrap();
}
