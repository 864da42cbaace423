//! The history that this host keeps of its own GPUs, partitions and VMs.
//!
//! ```text
//! every 10 s: Host::usage ──► Ledger ──► every 10 min: history.db ──► thinned out there
//!                                │                      │
//!                                └───────► answer ◄─────┘
//! ```
//!
//! A thread of its own looks and writes, so that neither a slow disk nor a libvirt that hangs keeps anybody waiting. What is kept is
//! decided in [`tranche_core::history`]. Nothing rests on a history: a file that cannot be written is said once in the log, and until it
//! can be, memory has the last day.
//!
//! Deliberately absent: the cluster's store, and the histories of other hosts. Who wants one of those asks that host.

mod place;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tranche_api::history::HistoryView;
use tranche_core::history::{
    COARSE_STEP_S, Figures, Ledger, Measured, Point, Reading, Retention, Window, start_of,
};
use tranche_core::name::{HostName, Timestamp};
use tranche_host::{Host, MakeUp};

use self::place::Place;
use crate::bell::{Bell, Wake};
use crate::clock;
use crate::config::Config;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two batches, in seconds.
const WRITE_EVERY_S: u64 = 600;
/// Before 2020 a clock was not set: a machine without a battery begins in 1970.
const CLOCK_SET_S: u64 = 1_577_836_800;
/// For how long the past of a fake host is made up, in seconds.
const MADE_UP_S: u64 = 7 * 24 * 60 * 60;
/// The last part of that is fine.
const MADE_UP_FINE_S: u64 = 2 * 60 * 60;

/// A host's history. Clones are the same one.
#[derive(Debug, Clone)]
pub struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: HostName,
    host: Arc<dyn Host>,
    make_up: Option<MakeUp>,
    retention: Retention,
    ledger: Mutex<Ledger>,
    place: Mutex<Place>,
    bell: Bell,
}

impl History {
    /// Of a host, kept as the settings say. A past is made up with `make_up`, for a host that does not exist.
    pub fn new(config: &Config, name: HostName, host: Arc<dyn Host>, make_up: Option<MakeUp>) -> Self {
        Self(Arc::new(Inner {
            name,
            host,
            make_up,
            retention: Retention::days(config.history.days),
            ledger: Mutex::default(),
            place: Mutex::new(Place::new(&config.state_dir, &config.history)),
            bell: Bell::default(),
        }))
    }

    /// Looks and writes on a thread of its own, until the end.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let history = self.clone();
        thread::Builder::new().name("history".to_owned()).spawn(move || history.run())
    }

    /// Ends the thread, which writes what it has before.
    pub fn end(&self) {
        self.0.bell.end();
    }

    /// What is known of one of this host's GPUs with its partitions, or of one of its VMs. May wait for the disk.
    pub fn show(&self, measured: &Measured, window: &Window) -> HistoryView {
        let mut asked = vec![(None, measured.clone())];
        if let Measured::Gpu(gpu) = measured {
            let ledger = lock(&self.0.ledger);
            asked.extend(ledger.histories().filter_map(|known| match known {
                Measured::Partition(of, index) if of == gpu => Some((Some(*index), known.clone())),
                _ => None,
            }));
        }
        asked.sort();
        let told =
            asked.into_iter().map(|(partition, measured)| (partition, self.figures(&measured, window)));
        HistoryView::new(self.0.name.clone(), window, told.collect::<Vec<_>>())
    }

    fn figures(&self, measured: &Measured, window: &Window) -> Vec<Figures> {
        // While a batch is on its way from one to the other, nobody looks.
        let mut place = lock(&self.0.place);
        let mut points = place.points(measured, window);
        points.extend(lock(&self.0.ledger).points(measured));
        drop(place);
        window.show(points)
    }

    fn run(&self) {
        let mut batch_at = None;
        loop {
            let now = clock::now();
            self.look(now);
            let is_over = self.0.bell.wait(LOOK_EVERY) == Wake::Over;
            let now_s = clock::now().0 / 1_000;
            let at = start_of(now_s, WRITE_EVERY_S);
            if is_over || batch_at.is_some_and(|last| last != at) {
                self.write(now_s, is_over);
            }
            batch_at = Some(at);
            if is_over {
                return;
            }
        }
    }

    /// Notes how busy everything is at a moment.
    pub fn look(&self, now: Timestamp) {
        let now_s = now.0 / 1_000;
        if now_s < CLOCK_SET_S {
            return;
        }
        let readings = self.0.host.usage(now);
        if let Some(make_up) = self.0.make_up {
            let known: Vec<Measured> = lock(&self.0.ledger).histories().cloned().collect();
            let new = readings.keys().filter(|measured| !known.contains(measured));
            let past = new.map(|measured| (measured.clone(), made_up(make_up, measured, now_s))).collect();
            lock(&self.0.place).write(&past, now_s, &self.0.retention);
        }
        let mut ledger = lock(&self.0.ledger);
        for (measured, reading) in readings {
            ledger.note(&measured, reading, now_s);
        }
    }

    /// Writes what is made; at the end also what is in the making. What cannot be written waits in memory.
    pub fn write(&self, now_s: u64, is_end: bool) {
        if now_s < CLOCK_SET_S {
            return;
        }
        let mut place = lock(&self.0.place);
        let points = lock(&self.0.ledger).take(now_s, is_end);
        if !place.write(&points, now_s, &self.0.retention) {
            lock(&self.0.ledger).put_back(points, now_s);
        }
    }
}

/// What is behind these locks is whole between any two calls, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A past for something of a host that does not exist.
fn made_up(make_up: MakeUp, measured: &Measured, now_s: u64) -> Vec<Point> {
    let point = |at_s: u64| {
        let reading: Reading = make_up(measured, at_s);
        let figures = Figures::from(reading);
        Point { at_s, figures }
    };
    let fine_from_s = start_of(now_s - MADE_UP_FINE_S, COARSE_STEP_S);
    let coarse = (start_of(now_s - MADE_UP_S, COARSE_STEP_S)..fine_from_s).step_by(300);
    coarse.chain((fine_from_s..start_of(now_s, 30)).step_by(30)).map(point).collect()
}
