//! The reconcile loop: one thread that looks, decides and acts, then waits for a reason to do so again.
//!
//! Reasons are the bell (a wish, an event of libvirt or the kernel), a step that may be tried again, and the slow tick.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tranche_core::name::Timestamp;

use crate::bell::{Bell, Wake};
use crate::clock;
use crate::engine::PassReport;
use crate::metrics::Metrics;
use crate::pulse::Pulse;

/// The pause between two passes, whoever rings: a storm of events costs no more than this allows.
const REST: Duration = Duration::from_millis(10);

/// When the loop says that what a reboot lost is back even if it is not: a host whose store cannot be written must
/// still come up, to say so.
const RESTORE_TIME: Duration = Duration::from_secs(45);

/// How far the loop has come since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// GPUs are being brought back to what was decided.
    Restoring,
    /// Every GPU is as decided, or was tried: libvirt may start its guests.
    Restored,
    /// The host was looked at once more since then, libvirt included.
    Settled,
}

/// Does a pass.
pub type Pass = Box<dyn FnMut(Timestamp) -> PassReport + Send>;

/// What the loop works with.
pub struct Looper {
    /// Does a pass.
    pub pass: Pass,
    /// Wakes the loop, and ends it.
    pub bell: Bell,
    /// Beats with each pass.
    pub pulse: Pulse,
    /// Counts passes and steps.
    pub metrics: Arc<Metrics>,
    /// The longest wait between two passes.
    pub tick: Duration,
}

impl std::fmt::Debug for Looper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looper").field("tick", &self.tick).finish_non_exhaustive()
    }
}

impl Looper {
    /// Starts the loop on a thread of its own. The receiver tells how far it has come, and is closed when it ends.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(self) -> std::io::Result<(thread::JoinHandle<()>, watch::Receiver<Stage>)> {
        let (stage, stages) = watch::channel(Stage::Restoring);
        let thread = thread::Builder::new().name("loop".to_owned()).spawn(move || self.run(&stage))?;
        Ok((thread, stages))
    }

    fn run(mut self, stage: &watch::Sender<Stage>) {
        let started = Instant::now();
        loop {
            let begun = Instant::now();
            let report = (self.pass)(clock::now());
            self.pulse.beat();
            self.metrics.pass(begun.elapsed(), &report);
            let restored = report.restored || started.elapsed() > RESTORE_TIME;
            stage.send_if_modified(|stage| advance(stage, restored));
            let settling = *stage.borrow() == Stage::Restored;
            let pause = if settling { Duration::ZERO } else { pause(&report, self.tick, clock::now().0) };
            if self.bell.wait(pause) == Wake::Over {
                return;
            }
            thread::sleep(REST);
        }
    }
}

/// The next stage, one a pass. Returns whether it is another.
fn advance(stage: &mut Stage, restored: bool) -> bool {
    let next = match *stage {
        Stage::Restoring if restored => Stage::Restored,
        Stage::Restoring => Stage::Restoring,
        Stage::Restored | Stage::Settled => Stage::Settled,
    };
    std::mem::replace(stage, next) != next
}

/// How long to wait for the bell after a pass.
fn pause(report: &PassReport, tick: Duration, now_ms: u64) -> Duration {
    if report.is_busy() {
        return Duration::ZERO;
    }
    let until_due = report.next_due.map(|due| Duration::from_millis(due.0.saturating_sub(now_ms)));
    until_due.map_or(tick, |until_due| until_due.clamp(REST, tick))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(10);

    fn report(steps_tried: usize, next_due: Option<u64>) -> PassReport {
        PassReport {
            steps_tried,
            steps_failed: 0,
            next_due: next_due.map(Timestamp),
            restored: true,
            moved: Vec::new(),
        }
    }

    #[test]
    fn the_loop_looks_again_at_once_after_a_step_and_else_when_something_is_due() {
        assert_eq!(pause(&report(1, None), TICK, 0), Duration::ZERO);
        assert_eq!(pause(&report(0, None), TICK, 0), TICK);
        assert_eq!(pause(&report(0, Some(5_000)), TICK, 1_000), Duration::from_secs(4));
        assert_eq!(pause(&report(0, Some(60_000)), TICK, 1_000), TICK);
        assert_eq!(pause(&report(0, Some(500)), TICK, 1_000), REST, "what is overdue does not spin");
    }

    #[test]
    fn libvirt_is_looked_at_only_in_the_pass_after_the_gpus_are_back() {
        let mut stage = Stage::Restoring;
        assert!(!advance(&mut stage, false));
        assert!(advance(&mut stage, true));
        assert_eq!(stage, Stage::Restored);
        assert!(advance(&mut stage, true));
        assert_eq!(stage, Stage::Settled);
        assert!(!advance(&mut stage, false));
    }
}
