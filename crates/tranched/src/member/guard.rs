//! The host's watchdog in the hand of the daemon: armed, fed and stopped as the member's loops want it.
//!
//! The open device is also kept by systemd (`FileDescriptorStoreMax=` of the unit). So a daemon that dies does not close it, which
//! would feed it once more, and the next one goes on with it.
//!
//! Deliberately absent: when to feed. [`tranche_engine::cluster::Member::tend`] says so.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use tranche_core::finding::Finding;
use tranche_engine::cluster::{Dog, Member, Noted, Tending};
use tranche_host::watchdog::{Feeder, Open, Refusal, Watchdog};

/// How often it is fed, if it may be.
const FEED_EVERY: Duration = Duration::from_millis(200);
/// Where there is none.
const NOTHING_TO_FEED: Duration = Duration::from_secs(3_600);
/// After it could not be armed.
const ARM_AGAIN_MS: u64 = 10_000;
/// Where there is none yet: its driver may be loaded at any time.
const FIND_AGAIN_MS: u64 = 10_000;
/// What systemd calls the open device.
pub const KEPT_AS: &str = "watchdog";
/// How long systemd may take to forget it.
const FORGET_TIME: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Finds the watchdog of a host, if it has one.
pub struct Finder(Box<dyn Fn() -> Result<Watchdog, Box<Finding>> + Send>);

impl Finder {
    /// One that looks by this.
    pub fn new(find: impl Fn() -> Result<Watchdog, Box<Finding>> + Send + 'static) -> Self {
        Self(Box::new(find))
    }
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Finder")
    }
}

/// A host's watchdog.
#[derive(Debug)]
pub struct Guard {
    /// Looks for one as long as there is none; nothing where there never will be.
    finder: Option<Finder>,
    /// None where the host has none.
    watchdog: Option<Watchdog>,
    feeder: Option<Feeder>,
    /// Which time it was last asked to take, in milliseconds, whether it did or not.
    asked_ms: Option<u64>,
    /// It was asked to stop, and did not.
    goes_on: bool,
    /// When to try again after it could not be armed, or was not there.
    not_before_ms: u64,
    /// What stands against it now.
    refused: Option<Box<Finding>>,
}

impl Guard {
    /// A host without a watchdog.
    pub fn none() -> Self {
        Self::of(None, None)
    }

    /// A host that has none yet: it is looked for now and then.
    pub fn awaited(finder: Finder) -> Self {
        Self { finder: Some(finder), ..Self::none() }
    }

    /// A host with one, which systemd has kept open since the daemon before died, or not.
    pub fn new(watchdog: Watchdog, kept: Option<Open>) -> Self {
        let feeder = kept.and_then(|open| match watchdog.resume(open) {
            Ok(feeder) => Some(feeder),
            Err(finding) => {
                tracing::error!(code = %finding.code, "{}", finding.message);
                None
            }
        });
        Self::of(Some(watchdog), feeder)
    }

    fn of(watchdog: Option<Watchdog>, feeder: Option<Feeder>) -> Self {
        Self {
            finder: None,
            watchdog,
            feeder,
            asked_ms: None,
            goes_on: false,
            not_before_ms: 0,
            refused: None,
        }
    }

    /// Whether it runs.
    pub fn is_armed(&self) -> bool {
        self.feeder.is_some()
    }

    /// Whether it can be stopped, as far as is known.
    pub fn is_stoppable(&self) -> bool {
        !self.goes_on && self.feeder.as_ref().is_none_or(|feeder| !feeder.facts().nowayout)
    }

    /// How long to wait until anything may be due.
    pub fn pause(&self) -> Duration {
        match (&self.watchdog, &self.finder) {
            (Some(_), _) => FEED_EVERY,
            (None, Some(_)) => Duration::from_millis(FIND_AGAIN_MS),
            (None, None) => NOTHING_TO_FEED,
        }
    }

    /// Does what is due. Waits for nobody but the driver.
    pub fn tend(&mut self, member: &Member, now_ms: u64) {
        if self.watchdog.is_none() && !self.finds(now_ms) {
            return;
        }
        let dog = self.feeder.as_ref().map(|feeder| Dog {
            timeout_ms: feeder.timeout_ms(),
            asked_ms: self.asked_ms,
            is_stoppable: self.is_stoppable(),
        });
        match member.tend(dog, now_ms) {
            Tending::Leave => {}
            Tending::Arm(timeout_ms) => self.arm(member, timeout_ms, now_ms),
            Tending::Retime(timeout_ms) => self.retime(member, timeout_ms),
            Tending::Feed => {
                if let Some(Err(error)) = self.feeder.as_mut().map(Feeder::feed) {
                    tracing::error!(%error, "the watchdog takes no food");
                }
            }
            Tending::Disarm => self.disarm(member),
        }
    }

    /// Looks for a watchdog, if that is due. Returns whether there is one now.
    fn finds(&mut self, now_ms: u64) -> bool {
        let Some(finder) = self.finder.as_ref().filter(|_| now_ms >= self.not_before_ms) else {
            return false;
        };
        self.not_before_ms = now_ms + FIND_AGAIN_MS;
        let Ok(watchdog) = (finder.0)() else { return false };
        tracing::info!(device = %watchdog.facts().device, "this host has a watchdog now");
        (self.watchdog, self.finder, self.not_before_ms) = (Some(watchdog), None, 0);
        true
    }

    fn arm(&mut self, member: &Member, timeout_ms: u64, now_ms: u64) {
        let Some(watchdog) = self.watchdog.as_ref().filter(|_| now_ms >= self.not_before_ms) else { return };
        self.asked_ms = Some(timeout_ms);
        match watchdog.arm(timeout_ms) {
            Ok(feeder) => {
                keep(&feeder);
                tracing::info!(timeout_ms = feeder.timeout_ms(), "the watchdog is armed");
                member.note(Noted::Watchdog, feeder.notes());
                (self.feeder, self.refused) = (Some(feeder), None);
            }
            Err(refusal) => {
                self.not_before_ms = now_ms + ARM_AGAIN_MS;
                self.refuse(member, *refusal);
            }
        }
    }

    /// One that takes no such time goes on with the one that it has; the host's heartbeats say so.
    fn retime(&mut self, member: &Member, timeout_ms: u64) {
        let Some(feeder) = &mut self.feeder else { return };
        self.asked_ms = Some(timeout_ms);
        match feeder.set_timeout(timeout_ms) {
            Ok(()) => {
                tracing::info!(timeout_ms = feeder.timeout_ms(), "the watchdog has another time");
                member.note(Noted::Watchdog, feeder.notes());
                self.refused = None;
            }
            Err(finding) => {
                let running = self.feeder.take();
                self.refuse(member, Refusal { finding, running });
            }
        }
    }

    fn disarm(&mut self, member: &Member) {
        let Some(feeder) = self.feeder.take() else { return };
        forget();
        match feeder.disarm() {
            Ok(()) => {
                tracing::info!("the watchdog is stopped");
                member.note(Noted::Watchdog, Vec::new());
            }
            Err(refusal) => {
                self.goes_on = refusal.running.is_some();
                self.refuse(member, *refusal);
            }
        }
    }

    fn refuse(&mut self, member: &Member, refusal: Refusal) {
        let Refusal { finding, running } = refusal;
        if self.refused.as_ref() != Some(&finding) {
            tracing::error!(code = %finding.code, "{}", finding.message);
        }
        if let Some(feeder) = &running {
            keep(feeder);
        }
        self.feeder = running;
        member.note(Noted::Watchdog, vec![(*finding).clone()]);
        self.refused = Some(finding);
    }

    /// Leaves it as it is: systemd has the open device, if there is one.
    pub fn leave(self) {
        if let Some(feeder) = self.feeder {
            tracing::warn!("the watchdog stays armed; it resets this host unless the daemon comes back");
            drop(feeder.into_open());
        }
    }
}

/// Asks the service manager for more time to end in: a host that its watchdog is about to reset is left to that.
pub fn ask_for_time(more: Duration) {
    let micros = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    // Where nobody listens, nobody is in a hurry.
    let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Gives a copy of the open device to systemd.
fn keep(feeder: &Feeder) {
    let Some(descriptor) = feeder.descriptor() else { return };
    let state = [NotifyState::FdStore, NotifyState::FdName(KEPT_AS), NotifyState::Custom("FDPOLL=0")];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[descriptor]) {
        tracing::warn!(%error, "the service manager does not keep the watchdog open");
    }
}

/// Takes it back, and waits until that is done: the device is closed only when nobody has it open.
fn forget() {
    let state = [NotifyState::FdStoreRemove, NotifyState::FdName(KEPT_AS)];
    let forgotten = sd_notify::notify(&state).and_then(|()| barrier());
    if let Err(error) = forgotten {
        tracing::warn!(%error, "the service manager does not let the watchdog go");
    }
}

/// Waits until the service manager has done all that it was told (`sd_notify_barrier(3)`): it closes the one end of a pipe then.
fn barrier() -> io::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    let (ours, theirs): (OwnedFd, OwnedFd) = rustix::pipe::pipe()?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let mut fds = [PollFd::new(&ours, PollFlags::empty())];
    match poll(&mut fds, Some(&FORGET_TIME))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
