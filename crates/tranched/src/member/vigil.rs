//! A watchdog that the daemon before left armed, while this one waits for the store: fed for as long as it is proved that nobody can
//! write, so that whoever restarts a daemon to mend a lost store does not lose the host as well.
//!
//! The times by which the watchdog was fed are in the store, too. So a member at work notes in a file ([`Times`]) what it lives by, before
//! it says so; where that cannot be noted, there is no file, and nothing is fed.
//!
//! Deliberately absent: when to feed. [`tranche_core::liveness::Vigil`] says so.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tranche_core::liveness::{self, Farewell, MemberSays, Parting, Poll};
use tranche_core::spec::Timers;
use tranche_host::watchdog::{Feeder, Open};

use super::{MORE_TIME, RETIRE_LOOK, Voices, guard};
use crate::bell::{Bell, Wake};
use crate::cluster::book::{self, Book};

/// Between two looks of one that may feed nothing.
const NOTHING_TO_FEED: Duration = Duration::from_secs(3_600);

/// A vigil, on a thread of its own.
#[derive(Debug)]
pub struct Vigil {
    bell: Bell,
    voices: Arc<dyn Voices>,
    watch: JoinHandle<Watch>,
    began: Instant,
}

impl Vigil {
    /// Begins with a watchdog that is armed. `times` is where the daemon before noted what it lived by.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn begin(feeder: Feeder, times: &Times, voices: Arc<dyn Voices>) -> io::Result<Self> {
        let mut watch = Watch::new(feeder, times.read());
        let (bell, began) = (Bell::default(), Instant::now());
        let (rung, asked) = (bell.clone(), Arc::clone(&voices));
        let watch = thread::Builder::new().name("vigil".to_owned()).spawn(move || {
            while rung.wait(watch.pause()) != Wake::Over {
                watch.turn(|within| asked.ask(within), &|| millis(began));
            }
            watch
        })?;
        Ok(Self { bell, voices, watch, began })
    }

    /// Ends it, because the store answers. Returns the watchdog, armed as it was.
    pub fn end(self) -> Option<Open> {
        self.bell.end();
        Some(self.watch.join().ok()?.feeder.into_open())
    }

    /// Ends it, because the daemon does: at a moment at which the watchdog may be fed once more by being closed, or after it should
    /// have reset the host. Until then it goes on.
    pub fn part(self) {
        self.bell.end();
        let Ok(mut watch) = self.watch.join() else { return };
        let mut parting = Parting::begins_unheard(millis(self.began));
        loop {
            match watch.parts(&mut parting, millis(self.began)) {
                Farewell::Ends => return,
                Farewell::Waits => {}
                Farewell::Holds => guard::ask_for_time(MORE_TIME),
            }
            watch.turn(|within| self.voices.ask(within), &|| millis(self.began));
            thread::sleep(RETIRE_LOOK);
        }
    }
}

/// What a vigil has: a watchdog that is armed, and what is known of the store.
#[derive(Debug)]
pub struct Watch {
    feeder: Feeder,
    /// None where that is not known: then nothing is fed.
    lived: Option<Lived>,
    vigil: liveness::Vigil,
    proved: bool,
}

impl Watch {
    /// A watch over a watchdog that is armed.
    pub fn new(feeder: Feeder, lived: Option<Lived>) -> Self {
        if lived.is_none() {
            tracing::warn!(
                "the watchdog is armed, and by which times is not known: it resets this host unless the store answers"
            );
        }
        Self { feeder, lived, vigil: liveness::Vigil::default(), proved: false }
    }

    /// How long to pause between two turns.
    pub fn pause(&self) -> Duration {
        self.lived.map_or(NOTHING_TO_FEED, |lived| Duration::from_millis(lived.timers.election_ms / 4))
    }

    /// Asks the members of the store, for as long as is given, and feeds the watchdog if it may be fed.
    pub fn turn(&mut self, ask: impl FnOnce(Duration) -> Vec<MemberSays>, clock: &dyn Fn() -> u64) {
        let Some(Lived { timers, bound_ms }) = self.lived else { return };
        let asked_ms = clock();
        let says = ask(Duration::from_millis(timers.election_ms * 2 / 3));
        let poll = Poll { asked_ms, answered_ms: clock(), says };
        if self.vigil.hear(&poll, &timers, bound_ms) && !std::mem::replace(&mut self.proved, true) {
            tracing::warn!(
                "the store has no majority anywhere: this host's watchdog is fed until it is back"
            );
        }
        if self.vigil.lifeline().may_feed(clock(), self.feeder.timeout_ms())
            && let Err(error) = self.feeder.feed()
        {
            tracing::error!(%error, "the watchdog takes no food");
        }
    }

    /// What follows for a daemon that ends now.
    fn parts(&self, parting: &mut Parting, now_ms: u64) -> Farewell {
        let timers = self.lived.map_or_else(Timers::default, |lived| lived.timers);
        parting.next(self.vigil.lifeline(), now_ms, self.feeder.timeout_ms(), &timers)
    }
}

/// What a daemon lives by that feeds a watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lived {
    /// The times of failover.
    pub timers: Timers,
    /// The shortest bound that it may be held to ([`liveness::Heartbeat::bound_ms`]), in milliseconds.
    pub bound_ms: u64,
}

/// The file in which a daemon notes what it lives by.
#[derive(Debug)]
pub struct Times {
    path: Utf8PathBuf,
    noted: Mutex<Option<Lived>>,
}

impl Times {
    /// That in a state directory.
    pub fn of(state_dir: &Utf8Path) -> Self {
        Self { path: Book::new(state_dir).times(), noted: Mutex::default() }
    }

    /// Notes what it lives by from now on, if that is new. Waits for the disk then.
    pub fn note(&self, lived: Lived) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        // A daemon that starts does not wear the disk by writing what is there.
        let known = noted.or_else(|| self.read());
        *noted = Some(lived);
        if known == Some(lived) {
            return;
        }
        let text = serde_json::to_vec(&lived).unwrap_or_default();
        let Err(error) = book::write(&self.path, &text, 0o600) else { return };
        // It is told once: a disk that is full would be asked with every heartbeat. What was noted before would be wrong.
        tracing::warn!(error = &error as &dyn std::error::Error, "the cluster's times are not noted");
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, "{} stays although it is wrong", self.path);
            }
            _ => {}
        }
    }

    /// What was noted last; none if that is not there, or of no use.
    pub fn read(&self) -> Option<Lived> {
        let text = book::read(&self.path).ok()??;
        serde_json::from_str::<Lived>(&text).ok().filter(|lived| lived.timers.obstacle().is_none())
    }
}

/// By the clock of a vigil.
fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
