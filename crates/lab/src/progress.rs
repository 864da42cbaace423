//! Progress on stderr with the seconds since the start: one line as a step begins, one as it ends, and a sign of
//! life between them. Standard output stays free for results.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a long step shows that it still runs where the line can be rewritten.
const BEAT_TERMINAL: Duration = Duration::from_secs(1);
/// How often where every sign of life is a line of its own (a log).
const BEAT_LOG: Duration = Duration::from_secs(15);

/// Where progress goes. Clones share the same clock.
#[derive(Clone, Debug)]
pub struct Progress {
    started: Arc<Instant>,
    visible: bool,
}

impl Progress {
    /// Progress on stderr, counted from now.
    pub fn new() -> Self {
        Self { started: Arc::new(Instant::now()), visible: true }
    }

    /// Progress that is not shown.
    pub fn hidden() -> Self {
        Self { visible: false, ..Self::new() }
    }

    /// Seconds since the start.
    pub fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Says one thing.
    pub fn say(&self, text: &str) {
        if self.visible {
            eprintln!("[{:6.1} s] {text}", self.elapsed_s());
        }
    }

    /// Says that a step begins. Its end is told when what is returned is dropped.
    pub fn step(&self, text: &str) -> Step {
        self.say(&format!("{text} ..."));
        if !self.visible {
            return Step { stop: None, beat: None };
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let (progress, text) = (self.clone(), text.to_owned());
        let beat = std::thread::spawn(move || {
            let began = Instant::now();
            let terminal = std::io::stderr().is_terminal();
            let every = if terminal { BEAT_TERMINAL } else { BEAT_LOG };
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                if terminal {
                    eprint!("\r[{:6.1} s] {text} ... {} s", progress.elapsed_s(), began.elapsed().as_secs());
                    // A terminal that cannot be written to shows no progress; the work goes on.
                    let _ = std::io::stderr().flush();
                } else {
                    progress.say(&format!("{text} ... still at it after {} s", began.elapsed().as_secs()));
                }
            }
            let clear = if terminal { "\r\x1b[K" } else { "" };
            eprintln!(
                "{clear}[{:6.1} s] {text}: {:.1} s",
                progress.elapsed_s(),
                began.elapsed().as_secs_f64()
            );
        });
        Step { stop: Some(stop), beat: Some(beat) }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// A step under way; dropping it ends it.
#[derive(Debug)]
#[must_use = "a step that is dropped at once has ended"]
pub struct Step {
    stop: Option<Sender<()>>,
    beat: Option<JoinHandle<()>>,
}

impl Drop for Step {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(beat) = self.beat.take() {
            // The thread only prints; if it panicked, its message is on stderr already.
            let _ = beat.join();
        }
    }
}
