//! A watchdog that is a model of the kernel's, in virtual time: it fires when the time is moved past its deadline.
//!
//! It keeps the kernel's rules, those too that surprise: opening starts it, closing without the magic character feeds it
//! once more, and `nowayout` outlives everything but a reset.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tranche_core::inventory::{Holder, WatchdogFacts};
use tranche_core::name::HostName;

use super::{Driver, Support, Timer, Watchdog};

/// The device node that it pretends to be.
const DEVICE: &str = "/dev/watchdog0";

/// What kind of device it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What its driver calls it.
    pub identity: String,
    /// Nothing stops it.
    pub nowayout: bool,
    /// The shortest and the longest time, in seconds.
    pub timeout_s: (u32, u32),
    /// The driver rounds up to a multiple of this, in seconds.
    pub step_s: u32,
    /// Closing alone does not stop it.
    pub needs_magic: bool,
    /// The kernel tells the limits in sysfs.
    pub tells_limits: bool,
}

impl Default for Model {
    /// An i6300esb, as QEMU has it.
    fn default() -> Self {
        Self {
            identity: "i6300ESB timer".to_owned(),
            nowayout: false,
            timeout_s: (1, 2046),
            step_s: 1,
            needs_magic: true,
            tells_limits: true,
        }
    }
}

/// The device. Clones are the same device.
#[derive(Debug, Clone)]
pub struct FakeWatchdog(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    model: Model,
    now_ms: u64,
    timeout_s: u32,
    /// When it was last fed, if it runs.
    fed_at_ms: Option<u64>,
    open_by: Option<Holder>,
    /// Counts resets: what was opened before one is no longer there.
    resets: u64,
    broken: bool,
}

impl FakeWatchdog {
    /// A device that does not run, at time 0.
    pub fn new(model: Model) -> Self {
        let timeout_s = model.timeout_s.0.max(30).min(model.timeout_s.1);
        let state =
            State { model, now_ms: 0, timeout_s, fed_at_ms: None, open_by: None, resets: 0, broken: false };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The device as a host's watchdog.
    pub fn watchdog(&self, host: HostName) -> Watchdog {
        Watchdog::new(host, self.facts(), Arc::new(self.clone()))
    }

    /// What a look at sysfs tells.
    pub fn facts(&self) -> WatchdogFacts {
        let model = self.lock().model.clone();
        let limits = Some(model.timeout_s).filter(|_| model.tells_limits);
        WatchdogFacts {
            device: DEVICE.to_owned(),
            software: model.identity == super::sysfs::SOFTDOG_IDENTITY,
            identity: model.identity,
            nowayout: model.nowayout,
            min_timeout_s: limits.map(|(min, _)| min),
            max_timeout_s: limits.map(|(_, max)| max),
        }
    }

    /// Moves the time on, in milliseconds. True if it has fired on the way, at the time that [`Self::deadline_ms`] told
    /// before: the host is reset, and so is the device. Time never goes back.
    pub fn advance_to(&self, now_ms: u64) -> bool {
        let mut state = self.lock();
        state.now_ms = state.now_ms.max(now_ms);
        let fires = state.deadline_ms().is_some_and(|deadline| deadline <= state.now_ms);
        if fires {
            state.reset();
        }
        fires
    }

    /// When it resets the host, unless it is fed; nothing while it does not run.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.lock().deadline_ms()
    }

    /// The host was reset or lost its power by something else.
    pub fn reset(&self) {
        self.lock().reset();
    }

    /// Another program opens it and feeds it, or lets go of it.
    pub fn use_by(&self, user: Option<Holder>) {
        self.lock().open_by = user;
    }

    /// Has the driver refuse every call on the open device, or stop that.
    pub fn set_broken(&self, broken: bool) {
        self.lock().broken = broken;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic within a test is that test's failure; others need not follow.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn deadline_ms(&self) -> Option<u64> {
        Some(self.fed_at_ms? + u64::from(self.timeout_s) * 1000)
    }

    fn reset(&mut self) {
        self.fed_at_ms = None;
        self.open_by = None;
        self.resets += 1;
    }

    fn feed(&mut self) {
        self.fed_at_ms = Some(self.now_ms);
    }
}

impl Driver for FakeWatchdog {
    fn open(&self) -> io::Result<Box<dyn Timer>> {
        let mut state = self.lock();
        if state.open_by.is_some() {
            return Err(Errno::BUSY.into());
        }
        state.open_by = Some(Holder { pid: std::process::id(), command: "tranched".to_owned() });
        state.feed();
        Ok(Box::new(FakeTimer { device: self.clone(), since_resets: state.resets, may_stop: false }))
    }

    fn users(&self) -> Vec<Holder> {
        self.lock().open_by.iter().cloned().collect()
    }

    fn is_active(&self) -> Option<bool> {
        Some(self.lock().fed_at_ms.is_some())
    }
}

#[derive(Debug)]
struct FakeTimer {
    device: FakeWatchdog,
    since_resets: u64,
    may_stop: bool,
}

impl FakeTimer {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.device.lock();
        let is_there = state.resets == self.since_resets && !state.broken;
        if is_there { Ok(state) } else { Err(Errno::IO.into()) }
    }
}

impl Timer for FakeTimer {
    fn support(&self) -> io::Result<Support> {
        let model = self.state()?.model.clone();
        Ok(Support { identity: model.identity, sets_timeout: true, needs_magic: model.needs_magic })
    }

    fn timeout_s(&self) -> io::Result<u32> {
        Ok(self.state()?.timeout_s)
    }

    fn set_timeout_s(&mut self, seconds: u32) -> io::Result<()> {
        let mut state = self.state()?;
        let (min_s, max_s) = state.model.timeout_s;
        if seconds < min_s || seconds > max_s {
            return Err(Errno::INVAL.into());
        }
        state.timeout_s = seconds.next_multiple_of(state.model.step_s.max(1));
        state.feed();
        Ok(())
    }

    fn keep_alive(&mut self) -> io::Result<()> {
        self.state()?.feed();
        Ok(())
    }

    fn allow_stop(&mut self) -> io::Result<()> {
        self.state()?.feed();
        self.may_stop = true;
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for FakeTimer {
    /// Closing: stops it only as the kernel would, and feeds it else.
    fn drop(&mut self) {
        let mut state = self.device.lock();
        if state.resets != self.since_resets {
            return;
        }
        state.open_by = None;
        if !state.model.nowayout && (self.may_stop || !state.model.needs_magic) {
            state.fed_at_ms = None;
        } else {
            state.feed();
        }
    }
}
