//! Histories: what is kept of them, and how they are shown.

use proptest::prelude::*;
use tranche_core::history::{
    COARSE_STEP_S, FINE_STEP_S, Figure, Figures, Ledger, Measured, POINTS_MAX, Point, Quantity, Reading,
    Retention, Summary, Window, WindowError, fold, thin,
};

const DAY_S: u64 = 24 * 60 * 60;
const NOW_S: u64 = 1_700_000_000;
const LOAD: Quantity = Quantity::UtilizationPercent;

fn point(at_s: u64, mean: u32) -> Point {
    let figures = Figures::default().with(LOAD, Some(Figure { mean, max: mean }));
    Point { at_s, figures }
}

fn load(reading: u32) -> Reading {
    Reading::default().with(LOAD, Some(reading))
}

fn gpu() -> Measured {
    "gpu 0000:01:00.0".parse().unwrap()
}

#[test]
fn a_history_is_fine_for_a_day_and_coarse_until_it_is_gone() {
    let all = (0..9 * DAY_S / FINE_STEP_S).map(|step| point(NOW_S - NOW_S % 300 - step * FINE_STEP_S, 7));
    let left = thin(all, NOW_S, &Retention::days(7));
    let fine = left.windows(2).filter(|pair| pair[1].at_s - pair[0].at_s == FINE_STEP_S).count();
    let coarse = left.windows(2).filter(|pair| pair[1].at_s - pair[0].at_s == COARSE_STEP_S).count();
    assert_eq!((fine, coarse), (2_880, 1_728));
    assert!(left[0].at_s >= NOW_S - 7 * DAY_S - COARSE_STEP_S);
    assert!(left.len() <= Retention::days(7).points_max(), "{}", left.len());
}

#[test]
fn a_coarse_point_has_the_mean_and_the_highest_of_what_it_stands_for() {
    let folded = fold([point(300, 10), point(330, 21), point(600, 5)], COARSE_STEP_S);
    let figures: Vec<_> = folded.iter().map(|point| (point.at_s, point.figures.get(LOAD).unwrap())).collect();
    assert_eq!(figures, [(300, Figure { mean: 16, max: 21 }), (600, Figure { mean: 5, max: 5 })]);
}

#[test]
fn what_a_wrong_clock_wrote_into_the_future_goes_before_anything_else() {
    let retention = Retention { fine_s: 600, kept_s: 1_200 };
    let room = u64::try_from(retention.points_max()).unwrap();
    let future = (1..=room).map(|step| point(NOW_S + 10 * DAY_S + step * FINE_STEP_S, 1));
    let real = [point(NOW_S - NOW_S % 30 - 30, 2), point(NOW_S - NOW_S % 30, 3)];
    let left = thin(future.chain(real), NOW_S, &retention);
    assert_eq!(left.len(), retention.points_max());
    assert_eq!(left[..2], real);
}

proptest! {
    #[test]
    fn a_history_stays_within_its_bound_in_order_and_keeps_what_is_newest(
        times in prop::collection::vec(NOW_S - 12 * DAY_S..NOW_S + DAY_S, 0..400),
        fine_min in 1_u64..30, kept_min in 1_u64..3_000,
    ) {
        let retention = Retention { fine_s: fine_min * 60, kept_s: (fine_min + kept_min) * 60 };
        let points: Vec<Point> = times.iter().map(|at_s| point(at_s - at_s % FINE_STEP_S, 1)).collect();
        let left = thin(points.clone(), NOW_S, &retention);
        prop_assert!(left.len() <= retention.points_max());
        prop_assert!(left.windows(2).all(|pair| pair[0].at_s < pair[1].at_s));
        let newest = points.iter().map(|point| point.at_s).filter(|at_s| *at_s <= NOW_S).max();
        if let Some(newest) = newest.filter(|at_s| *at_s >= retention.fine_from_s(NOW_S)) {
            prop_assert!(left.iter().any(|point| point.at_s == newest));
        }
        prop_assert_eq!(thin(left.clone(), NOW_S, &retention), left);
    }

    #[test]
    fn a_ledger_that_nobody_takes_from_stays_within_memory_whatever_its_clock_does(
        steps in prop::collection::vec((0_u64..3 * DAY_S, 0_u32..100), 0..300),
    ) {
        let mut ledger = Ledger::default();
        for (after_s, value) in steps {
            let now_s = NOW_S + after_s;
            ledger.note(&gpu(), load(value), now_s);
            let unwritten = ledger.take(now_s, false);
            ledger.put_back(unwritten, now_s);
            prop_assert!(ledger.points(&gpu()).len() <= Retention::IN_MEMORY.points_max() + 1);
        }
    }
}

#[test]
fn a_ledger_makes_a_point_of_the_looks_of_half_a_minute() {
    let mut ledger = Ledger::default();
    let begin_s = NOW_S - NOW_S % FINE_STEP_S;
    for (after_s, value) in [(0, 10), (10, 20), (20, 60), (30, 5)] {
        ledger.note(&gpu(), load(value), begin_s + after_s);
    }
    ledger.note(&"vm desk-01".parse().unwrap(), Reading::default(), begin_s);
    let told: Vec<_> = ledger
        .points(&gpu())
        .iter()
        .map(|point| (point.at_s - begin_s, point.figures.get(LOAD).unwrap()))
        .collect();
    assert_eq!(told, [(0, Figure { mean: 30, max: 60 }), (30, Figure { mean: 5, max: 5 })]);
    assert_eq!(ledger.histories().collect::<Vec<_>>(), [&gpu()], "a look that brought nothing is no history");
    assert_eq!(ledger.take(begin_s + 40, false)[&gpu()].len(), 1, "the last point is in the making");
    assert_eq!(ledger.take(begin_s + 60, false)[&gpu()].len(), 1, "it is made, though nothing more came");
}

#[test]
fn a_clock_that_goes_back_makes_one_point_of_one_time() {
    let mut ledger = Ledger::default();
    let begin_s = NOW_S - NOW_S % FINE_STEP_S;
    for (at_s, value) in [(begin_s, 10), (begin_s + 30, 20), (begin_s, 30), (begin_s + 30, 40)] {
        ledger.note(&gpu(), load(value), at_s);
    }
    let taken = ledger.take(begin_s + 60, true);
    let left = thin(taken[&gpu()].clone(), begin_s + 60, &Retention::days(1));
    let told: Vec<_> = left.iter().map(|point| point.figures.get(LOAD).unwrap()).collect();
    assert_eq!(told, [Figure { mean: 20, max: 30 }, Figure { mean: 30, max: 40 }]);
}

#[test]
fn a_window_has_a_step_that_fits_and_every_step_has_its_time() {
    let hour = Window::new(NOW_S - 3_600, NOW_S, None).unwrap();
    assert_eq!((hour.step_s(), hour.times_s().count()), (30, 121));
    assert_eq!(Window::new(NOW_S - DAY_S, NOW_S, None).unwrap().step_s(), 300);
    assert_eq!(Window::new(NOW_S - 7 * DAY_S, NOW_S, None).unwrap().step_s(), 1_800);
    let shown = hour.show([point(hour.from_s() + 30, 4), point(hour.from_s() - 30, 9)]);
    assert_eq!(shown.len(), 121);
    assert_eq!(shown[1].get(LOAD), Some(Figure { mean: 4, max: 4 }));
    assert_eq!(shown.iter().filter(|figures| figures.get(LOAD).is_some()).count(), 1);
}

#[test]
fn a_window_that_nobody_can_show_is_refused() {
    assert_eq!(Window::new(NOW_S, NOW_S, None), Err(WindowError::Backwards));
    assert_eq!(Window::new(0, NOW_S, Some(0)), Err(WindowError::Step));
    assert_eq!(Window::new(0, NOW_S, Some(45)), Err(WindowError::Step));
    assert_eq!(Window::new(0, 60_030, Some(30)), Err(WindowError::TooMany(POINTS_MAX + 1)));
    assert!(Window::new(0, 60_000, Some(30)).is_ok());
    assert!(matches!(Window::new(0, u64::MAX, None), Err(WindowError::TooMany(_))));
}

#[test]
fn where_fine_points_end_a_coarse_one_counts_as_much_as_they_do() {
    let window = Window::new(0, 600, Some(600)).unwrap();
    let fine = (10..20).map(|step| point(step * FINE_STEP_S, 100));
    let shown = window.show([point(0, 0)].into_iter().chain(fine));
    assert_eq!(shown[0].get(LOAD), Some(Figure { mean: 50, max: 100 }));
    assert_eq!(Summary::of(&shown, LOAD), Some(Summary { last: 50, mean: 50, max: 100 }));
    assert_eq!(Summary::of(&shown, Quantity::PowerW), None);
}

#[test]
fn a_history_is_named_the_same_way_wherever_it_goes() {
    for name in ["gpu 0000:01:00.0", "partition 0000:01:00.0/3", "vm desk-01"] {
        assert_eq!(name.parse::<Measured>().unwrap().to_string(), name);
    }
    for name in ["", "gpu", "gpu x/y", "partition 0000:01:00.0", "partition 0000:01:00.0/x", "host node1"] {
        assert!(name.parse::<Measured>().is_err(), "{name}");
    }
}
