//! How busy something was.

use expect_test::expect;
use tranche_api::history::HistoryView;
use tranche_core::history::{Figure, Figures, Point, Quantity, Window};

use crate::check;
use crate::daemon::Daemon;

/// Five minutes that end at 2025-11-30 16:00:00 UTC, of a GPU and of a partition of it.
fn history() -> HistoryView {
    let end_s = 1_764_518_400;
    let window = Window::new(end_s - 300, end_s, Some(30)).unwrap();
    let point = |(step, load): (u64, u32)| {
        let load = Some(Figure { mean: load, max: load + 4 });
        let memory = Some(Figure { mean: 2_048, max: 4_096 });
        let figures = Figures::default().with(Quantity::UtilizationPercent, load);
        Point { at_s: window.from_s() + step * 30, figures: figures.with(Quantity::MemoryUsedMib, memory) }
    };
    let points = [0, 10, 50, 90, 96, 40].into_iter().enumerate();
    let points: Vec<Point> = points.map(|(step, load)| point((step as u64, load))).collect();
    let figures = window.show(points);
    HistoryView::new("node1".parse().unwrap(), &window, [(None, figures.clone()), (Some(2), figures)])
}

#[test]
fn a_history_shows_figures_and_a_course_and_asks_for_no_more_than_was_said() {
    let path = "GET /v1/gpus/node1/0000:41:00.0/history?span_s=3600";
    check(
        &Daemon::new().answers(path, &history()),
        &["gpu", "history", "node1/0000:41:00.0"],
        expect![[r#"
            WHAT                 NOW       MEAN      HIGHEST   COURSE
            load                 40 %      48 %      100 %     ▁▁▅██▄
            memory               2048 MiB  2048 MiB  4096 MiB  ▅▅▅▅▅▅
            partition 2, load    40 %      48 %      100 %     ▁▁▅██▄
            partition 2, memory  2048 MiB  2048 MiB  4096 MiB  ▅▅▅▅▅▅

            Host node1, from 2025-11-30 15:55:00 to 2025-11-30 16:00:00, in steps of 30 s.
            exit 0
        "#]],
    );
}

#[test]
fn the_history_of_a_vm_is_that_of_the_host_that_is_named() {
    let path = "GET /v1/vms/desk-01/history?span_s=604800&step_s=300&host=node1";
    let empty = HistoryView { series: Vec::new(), ..history() };
    check(
        &Daemon::new().answers(path, &empty),
        &["vm", "history", "desk-01", "--last", "7d", "--step", "5m", "--host", "node1"],
        expect![[r#"
            Host node1 has measured nothing in this time.

            Host node1, from 2025-11-30 15:55:00 to 2025-11-30 16:00:00, in steps of 30 s.
            exit 0
        "#]],
    );
}
