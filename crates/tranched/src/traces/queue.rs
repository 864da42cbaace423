//! Spans that wait to be sent. Whoever puts one in never waits: one that finds no room is dropped and counted.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::messages::Span;

/// How many spans may wait.
pub(super) const WAITING_MAX: usize = 4_096;
/// How many are sent at once.
pub(super) const TOGETHER_MAX: usize = 512;
/// How long one waits for others.
const GATHERING: Duration = Duration::from_millis(500);

/// A number of spans that were dropped.
pub type Dropped = Counter<u64, AtomicU64>;

/// Spans that wait to be sent.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    told: Condvar,
    dropped: Dropped,
}

#[derive(Debug, Default)]
struct Inner {
    spans: VecDeque<Span>,
    /// No more are to come.
    ends: bool,
    /// Whoever sends has sent all, or given up.
    is_over: bool,
}

impl Queue {
    pub(super) fn new(dropped: Dropped) -> Self {
        Self { inner: Mutex::default(), told: Condvar::new(), dropped }
    }

    /// Puts a span in, or drops it.
    pub(super) fn put(&self, span: Span) {
        let mut inner = self.lock();
        if inner.ends || inner.spans.len() >= WAITING_MAX {
            drop(inner);
            self.lose(1);
            return;
        }
        inner.spans.push_back(span);
        let is_enough = inner.spans.len() == 1 || inner.spans.len() == TOGETHER_MAX;
        drop(inner);
        if is_enough {
            self.told.notify_all();
        }
    }

    /// Counts spans that were not taken.
    pub(super) fn lose(&self, spans: usize) {
        self.dropped.inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    }

    /// How many were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// The spans to send next, as soon as there are enough or the first has waited long enough; none when all is over.
    pub(super) fn take(&self) -> Option<Vec<Span>> {
        let is_idle = |inner: &mut Inner| inner.spans.is_empty() && !inner.ends;
        let inner = self.told.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        let is_short = |inner: &mut Inner| inner.spans.len() < TOGETHER_MAX && !inner.ends;
        let waited = self.told.wait_timeout_while(inner, GATHERING, is_short);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let count = inner.spans.len().min(TOGETHER_MAX);
        if count == 0 {
            return None;
        }
        Some(inner.spans.drain(..count).collect())
    }

    /// Whether no more are to come.
    pub(super) fn ends(&self) -> bool {
        self.lock().ends
    }

    /// Says that nothing is sent any more. What waits still is dropped.
    pub(super) fn over(&self) {
        let mut inner = self.lock();
        let left = inner.spans.drain(..).count();
        inner.is_over = true;
        drop(inner);
        self.lose(left);
        self.told.notify_all();
    }

    /// Lets no more in, and waits until all is sent or given up, at most so long. Returns whether it was.
    pub(super) fn end(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut inner = self.lock();
        inner.ends = true;
        self.told.notify_all();
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.told.wait_timeout_while(inner, left, |inner| !inner.is_over);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_over
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_room_is_dropped_and_counted_and_nobody_waits() {
        let queue = Queue::new(Dropped::default());
        for _ in 0..WAITING_MAX + 7 {
            queue.put(Span::default());
        }
        assert_eq!(queue.dropped(), 7);
        assert_eq!(queue.take().map(|spans| spans.len()), Some(TOGETHER_MAX));
        queue.put(Span::default());
        assert_eq!(queue.dropped(), 7, "there is room again");
    }

    #[test]
    fn at_the_end_what_waits_is_still_handed_out_and_nothing_more_is_let_in() {
        let queue = Queue::new(Dropped::default());
        queue.put(Span::default());
        assert!(!queue.end(Duration::ZERO), "nobody has sent it");
        queue.put(Span::default());
        assert_eq!((queue.take().map(|spans| spans.len()), queue.dropped()), (Some(1), 1));
        assert_eq!(queue.take(), None);
        queue.over();
        assert!(queue.end(Duration::ZERO));
    }
}
