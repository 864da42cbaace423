//! Calls that may hang: each runs on a thread of its own and is given up on after a limit.
//!
//! A hung call cannot be cancelled. Its thread waits on, and its lane stays closed until it comes back, so that there
//! are never more hung threads than lanes. libvirt's keepalive ends most of them after some seconds.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is done one after the other. Different lanes do not wait for each other.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    busy: Mutex<Busy>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Busy {
    lanes: BTreeMap<String, Occupant>,
    entered: u64,
}

#[derive(Debug)]
struct Occupant {
    ticket: u64,
    call: &'static str,
    overdue: bool,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Late {
    /// It outlived its limit.
    #[error("the call to {call} has not come back within {limit_ms} ms")]
    Overdue {
        /// What it does.
        call: &'static str,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// An earlier call in the same lane still hangs.
    #[error("the earlier call to {0} has not come back yet")]
    Behind(&'static str),
    /// The thread could not be started, or it panicked.
    #[error("the thread of the call to {0} died")]
    Died(&'static str),
}

impl Lanes {
    /// Runs `work` and waits for it, up to a limit that includes the wait for the lane.
    pub(super) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        lane: &str,
        call: &'static str,
        limit_ms: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        let deadline = Instant::now() + Duration::from_millis(limit_ms);
        let ticket = self.enter(lane, call, deadline, limit_ms)?;
        let leave = Leave { lane: lane.to_owned(), lanes: Arc::clone(self) };
        let (send, receive) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("libvirt-call".to_owned()).spawn(move || {
            let result = work();
            // The lane is free before the caller goes on, so that its next call is not refused.
            drop(leave);
            // Nobody receives a result that comes too late.
            let _ = send.send(result);
        });
        thread.map_err(|_| Late::Died(call))?;
        match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Disconnected) => Err(Late::Died(call)),
            Err(RecvTimeoutError::Timeout) => {
                // It may have come back just now, and another call may be in the lane.
                if let Some(occupant) = self.lock().lanes.get_mut(lane).filter(|it| it.ticket == ticket) {
                    occupant.overdue = true;
                }
                Err(Late::Overdue { call, limit_ms })
            }
        }
    }

    fn enter(&self, lane: &str, call: &'static str, deadline: Instant, limit_ms: u64) -> Result<u64, Late> {
        let mut busy = self.lock();
        loop {
            match busy.lanes.get(lane) {
                None => break,
                Some(occupant) if occupant.overdue => return Err(Late::Behind(occupant.call)),
                Some(_) => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Late::Overdue { call, limit_ms });
            }
            busy = self.freed.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        busy.entered += 1;
        let ticket = busy.entered;
        busy.lanes.insert(lane.to_owned(), Occupant { ticket, call, overdue: false });
        Ok(ticket)
    }

    fn lock(&self) -> MutexGuard<'_, Busy> {
        // The lanes are whole between any two statements that hold it, so a panic elsewhere does not spoil it.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frees a lane when its call ends, however it ends.
struct Leave {
    lane: String,
    lanes: Arc<Lanes>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.lanes.lock().lanes.remove(&self.lane);
        self.lanes.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_MS: u64 = 60_000;

    #[test]
    fn a_hung_call_closes_its_lane_until_it_comes_back() {
        let lanes = Arc::new(Lanes::default());
        let (finish, hang) = mpsc::channel::<()>();
        let hung = lanes.run("desk", "start", 1, move || hang.recv());
        assert!(matches!(hung, Err(Late::Overdue { call: "start", limit_ms: 1 })));
        assert!(matches!(lanes.run("desk", "stop", LONG_MS, || ()), Err(Late::Behind("start"))));
        assert!(lanes.run("other", "start", LONG_MS, || ()).is_ok());
        finish.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(LONG_MS);
        while lanes.run("desk", "stop", LONG_MS, || ()).is_err() {
            assert!(Instant::now() < deadline, "the lane stays closed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_call_waits_for_its_lane_and_panics_free_it() {
        let lanes = Arc::new(Lanes::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (lanes, order) = (&lanes, Arc::clone(&order));
                scope.spawn(move || {
                    let count = move || order.lock().unwrap().push(number);
                    lanes.run("one", "count", LONG_MS, count).unwrap();
                });
            }
        });
        assert_eq!(order.lock().unwrap().len(), 8);
        assert!(matches!(
            lanes.run("one", "panic", LONG_MS, || panic!("on purpose")),
            Err(Late::Died("panic"))
        ));
        assert!(lanes.run("one", "count", LONG_MS, || ()).is_ok());
    }
}
