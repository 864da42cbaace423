//! The watchdog: a timer that resets this host unless it is fed in time.
//!
//! What the kernel promises (Documentation/watchdog/watchdog-api.rst): opening the device starts the timer, each
//! keepalive starts it anew, and closing it stops it only after the character 'V' was written, and never with
//! `nowayout`. So a daemon that dies or hangs does not save its host. Two things follow that are easily got wrong:
//!
//! * **Closing feeds.** When a process dies with the device open, the kernel feeds the watchdog once more before it lets go
//!   of the device (drivers/watchdog/watchdog_dev.c, `watchdog_release`), and so does the next one that opens it. Whoever
//!   counts from the last feed must keep the device open over the daemon's own death: hand [`Feeder::descriptor`] to
//!   systemd's file descriptor store, and begin with [`Watchdog::resume`].
//! * **Drivers round.** A timer takes whole seconds, some only a few values. The time is read back, and one that is longer
//!   than was asked for is refused.
//!
//! Feeding is one system call: it allocates nothing and takes no lock. It has no limit in time, because no thread could
//! be waited for without doing either; a driver that hangs in it leaves the host unfed, and that resets it.
//!
//! Deliberately absent: when to feed. That is decided by `tranche_core::liveness`.

mod device;
pub mod fake;
mod sysfs;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{Holder, WatchdogFacts};
use tranche_core::name::HostName;

pub(crate) use self::sysfs::notes;
pub use self::sysfs::{all, find};
use crate::report;
use crate::tree::Tree;

/// How long starting may take, in milliseconds: some devices are reached over a slow bus to the BMC.
const ARM_LIMIT_MS: u64 = 10_000;

/// A watchdog that is not open.
#[derive(Debug, Clone)]
pub struct Watchdog {
    host: HostName,
    facts: WatchdogFacts,
    driver: Arc<dyn Driver>,
    limit_ms: Option<u64>,
}

/// A watchdog that is started. Dropped, it goes on, and resets the host at its time.
#[derive(Debug)]
pub struct Feeder {
    watchdog: Watchdog,
    timer: Box<dyn Timer>,
    timeout_s: u32,
}

/// Why a watchdog was not started, or not stopped.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong, and what to do about it.
    pub finding: Box<Finding>,
    /// The watchdog, where it runs all the same: it must be fed, or the host is reset.
    pub running: Option<Feeder>,
}

/// An open watchdog device that outlived who opened it.
#[derive(Debug)]
pub struct Open(Box<dyn Timer>);

/// A device as its driver offers it; real or fake.
pub trait Driver: Send + Sync + fmt::Debug {
    /// Opens it, which starts it.
    fn open(&self) -> io::Result<Box<dyn Timer>>;
    /// Who has it open.
    fn users(&self) -> Vec<Holder>;
    /// Whether it runs, where that can be seen without opening it.
    fn is_active(&self) -> Option<bool>;
}

/// An open device.
pub trait Timer: Send + fmt::Debug {
    /// What it is and can.
    fn support(&self) -> io::Result<Support>;
    /// Its time, in seconds.
    fn timeout_s(&self) -> io::Result<u32>;
    /// Sets its time, in seconds, or what the driver makes of it. Feeds it.
    fn set_timeout_s(&mut self, seconds: u32) -> io::Result<()>;
    /// Feeds it.
    fn keep_alive(&mut self) -> io::Result<()>;
    /// Has closing stop it, unless `nowayout` is set. Feeds it.
    fn allow_stop(&mut self) -> io::Result<()>;
    /// Its file descriptor; a model has none.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

/// What a device is and can (kernel: `struct watchdog_info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// What its driver calls it.
    pub identity: String,
    /// Its time can be set (`WDIOF_SETTIMEOUT`).
    pub sets_timeout: bool,
    /// Closing alone does not stop it (`WDIOF_MAGICCLOSE`).
    pub needs_magic: bool,
}

impl Watchdog {
    /// The watchdog of this host that is wanted: by its device node or as `softdog`; without a wish the first hardware
    /// one, else softdog if it is loaded.
    ///
    /// # Errors
    /// There is none, or not that one.
    pub fn of_this_host(
        tree: Arc<dyn Tree>,
        host: &HostName,
        wanted: Option<&str>,
    ) -> Result<Self, Box<Finding>> {
        let facts = sysfs::find(&*tree, host, wanted)?;
        let driver = Arc::new(device::KernelDriver::new(&facts.device, tree));
        Ok(Self { host: host.clone(), facts, driver, limit_ms: Some(ARM_LIMIT_MS) })
    }

    /// A device of another kind, used without a limit in time.
    pub fn new(host: HostName, facts: WatchdogFacts, driver: Arc<dyn Driver>) -> Self {
        Self { host, facts, driver, limit_ms: None }
    }

    /// What it is, as far as that can be seen without opening it.
    pub fn facts(&self) -> &WatchdogFacts {
        &self.facts
    }

    /// What is to be said of a host that relies on it.
    pub fn notes(&self) -> Vec<Finding> {
        if !self.facts.software {
            return Vec::new();
        }
        let message = format!(
            "The watchdog of host {} is softdog, a timer of its own kernel: a kernel that hangs may not reset itself.",
            self.host
        );
        let hint = "Load the driver of the board's own watchdog (iTCO_wdt, sp5100_tco, ipmi_watchdog), or give the host a fence agent.";
        vec![report::host_note(&self.host, Code::WatchdogSoftware, message, hint)]
    }

    /// Starts it with this time, or the next shorter one that the driver takes. It is fed by that.
    ///
    /// # Errors
    /// The device cannot be opened, is somebody else's, or takes no time that is short enough. It does not run then,
    /// unless the refusal says so.
    pub fn arm(&self, timeout_ms: u64) -> Result<Feeder, Box<Refusal>> {
        let wanted_s = self.fitting(timeout_ms).map_err(Refusal::idle)?;
        let Some(limit_ms) = self.limit_ms else { return self.open(wanted_s) };
        let (send, receive) = mpsc::sync_channel(1);
        let watchdog = self.clone();
        let work = move || {
            // What comes too late must not stay: nobody would feed it.
            if let Err(mpsc::SendError(Ok(feeder))) = send.send(watchdog.open(wanted_s)) {
                let _ = Feeder::disarm(feeder);
            }
        };
        let started = std::thread::Builder::new().name("watchdog".to_owned()).spawn(work);
        match started.map(|_| receive.recv_timeout(Duration::from_millis(limit_ms))) {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => {
                let message = format!(
                    "The watchdog {} of host {} was not started within {limit_ms} ms.",
                    self.facts.device, self.host
                );
                let hint = "Its driver hangs: look into the kernel log (journalctl -k).";
                Err(Refusal::idle(self.error(Code::CallStuck, message, hint)))
            }
            Err(error) => Err(Refusal::idle(self.refused("start a thread for", &error))),
        }
    }

    /// Goes on with a device that was kept open. Feeds nothing.
    ///
    /// # Errors
    /// It is no watchdog. It is closed then, which feeds it once.
    pub fn resume(&self, open: Open) -> Result<Feeder, Box<Finding>> {
        let Open(timer) = open;
        let (support, timeout_s) = (timer.support(), timer.timeout_s());
        let support = support.map_err(|error| self.refused("ask", &error))?;
        let timeout_s = timeout_s.map_err(|error| self.refused("ask the time of", &error))?;
        Ok(Feeder { watchdog: self.known_as(&support), timer, timeout_s })
    }

    /// The time to ask for, in seconds, without opening the device: with `nowayout`, that could not be undone.
    fn fitting(&self, timeout_ms: u64) -> Result<u32, Box<Finding>> {
        let wanted_s = u32::try_from(timeout_ms / 1000).unwrap_or(u32::MAX);
        let least_s = self.facts.min_timeout_s.unwrap_or(1).max(1);
        if wanted_s < least_s {
            return Err(self.too_slow(&format!("no less than {least_s} s"), timeout_ms));
        }
        Ok(wanted_s.min(self.facts.max_timeout_s.unwrap_or(wanted_s)))
    }

    fn open(&self, wanted_s: u32) -> Result<Feeder, Box<Refusal>> {
        let timer = self.driver.open().map_err(|error| Refusal::idle(self.not_opened(&error)))?;
        let mut feeder = Feeder { watchdog: self.clone(), timer, timeout_s: 0 };
        match feeder.start(wanted_s) {
            Ok(()) => Ok(feeder),
            // That it could not be started is what is told, whether or not it can be stopped.
            Err(finding) => {
                let running = feeder.disarm().err().and_then(|kept| kept.running);
                Err(Box::new(Refusal { finding, running }))
            }
        }
    }

    fn known_as(&self, support: &Support) -> Self {
        let mut known = self.clone();
        known.facts.software = support.identity == sysfs::SOFTDOG_IDENTITY;
        known.facts.identity.clone_from(&support.identity);
        known
    }

    fn not_opened(&self, error: &io::Error) -> Box<Finding> {
        if error.raw_os_error() != Some(libc::EBUSY) {
            return self.refused("open", error);
        }
        let users = self.driver.users();
        let shown: Vec<String> = users.iter().map(say::describe_holder).collect();
        let by = if shown.is_empty() { "another program".to_owned() } else { shown.join(", ") };
        let message = format!("The watchdog {} of host {} is open in {by}.", self.facts.device, self.host);
        self.error(Code::WatchdogBusy, message, free_hint(&users))
    }

    fn too_slow(&self, takes: &str, timeout_ms: u64) -> Box<Finding> {
        let message = format!(
            "The watchdog {} of host {} takes {takes}, and must reset the host within {timeout_ms} ms.",
            self.facts.device, self.host
        );
        let hint = "Use another watchdog, lengthen the cluster's timers, or give the host a fence agent.";
        self.error(Code::WatchdogUnfit, message, hint)
    }

    fn refused(&self, action: &str, error: &io::Error) -> Box<Finding> {
        let name = error.raw_os_error().map_or("error", report::errno_name);
        let message = format!(
            "The kernel did not {action} the watchdog {} of host {}: {name} ({error}).",
            self.facts.device, self.host
        );
        let hint = "Look into the kernel log (journalctl -k) for its driver's reason; until then nothing resets this host.";
        self.error(Code::KernelRefused, message, hint)
    }

    fn error(&self, code: Code, message: String, hint: impl Into<String>) -> Box<Finding> {
        Box::new(say::finding(code, Severity::Error, Subject::Host(self.host.clone()), message, hint))
    }
}

impl Feeder {
    /// Starts its time anew. One system call; allocates nothing and takes no lock.
    ///
    /// # Errors
    /// The driver's. The watchdog goes on all the same.
    pub fn feed(&mut self) -> io::Result<()> {
        self.timer.keep_alive()
    }

    /// Its time, as the driver took it, in milliseconds.
    pub fn timeout_ms(&self) -> u64 {
        u64::from(self.timeout_s) * 1000
    }

    /// What it is.
    pub fn facts(&self) -> &WatchdogFacts {
        &self.watchdog.facts
    }

    /// What is to be said of a host that relies on it.
    pub fn notes(&self) -> Vec<Finding> {
        self.watchdog.notes()
    }

    /// Its file descriptor, for systemd's file descriptor store; a model has none.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.timer.descriptor()
    }

    /// Changes its time, which feeds it.
    ///
    /// # Errors
    /// It takes no time that is short enough, and keeps the one that it had; or the driver refuses.
    pub fn set_timeout(&mut self, timeout_ms: u64) -> Result<(), Box<Finding>> {
        let wanted_s = self.watchdog.fitting(timeout_ms)?;
        let before_s = self.timeout_s;
        self.start(wanted_s).inspect_err(|_| {
            // It ran with this before; if that fails too, it has been said what the driver is like.
            let _ = self.timer.set_timeout_s(before_s);
            self.timeout_s = before_s;
        })
    }

    /// Stops it.
    ///
    /// # Errors
    /// Nothing stops it (`nowayout`), or it did not: then the refusal has it, to be fed on.
    pub fn disarm(mut self) -> Result<(), Box<Refusal>> {
        if self.watchdog.facts.nowayout {
            let message = format!(
                "The watchdog {} of host {} cannot be stopped once it is started (nowayout).",
                self.watchdog.facts.device, self.watchdog.host
            );
            let hint = "It is fed until the host's next reboot. Load its driver with nowayout=0 where that is not wanted.";
            let finding = self.watchdog.error(Code::WatchdogUnfit, message, hint);
            return Err(Box::new(Refusal { finding, running: Some(self) }));
        }
        if let Err(error) = self.timer.allow_stop() {
            let finding = self.watchdog.refused("stop", &error);
            return Err(Box::new(Refusal { finding, running: Some(self) }));
        }
        let Self { watchdog, timer, timeout_s } = self;
        drop(timer);
        if watchdog.driver.is_active() != Some(true) {
            return Ok(());
        }
        let error = io::Error::other("it still runs after it was closed");
        let finding = watchdog.refused("stop", &error);
        let running = watchdog.driver.open().ok().map(|timer| Feeder { watchdog, timer, timeout_s });
        Err(Box::new(Refusal { finding, running }))
    }

    /// The open device alone: what is left of it when its daemon dies and somebody else keeps it open.
    pub fn into_open(self) -> Open {
        Open(self.timer)
    }

    /// Sets the time and reads back what became of it.
    fn start(&mut self, wanted_s: u32) -> Result<(), Box<Finding>> {
        let support = self.timer.support().map_err(|error| self.watchdog.refused("ask", &error))?;
        self.watchdog = self.watchdog.known_as(&support);
        if !support.needs_magic && !self.watchdog.facts.nowayout {
            let message = format!(
                "The watchdog {} of host {} ({}) stops when it is closed, and so when the daemon dies.",
                self.watchdog.facts.device, self.watchdog.host, support.identity
            );
            let hint = "Load its driver with nowayout=1 or use another one; or give the host a fence agent.";
            return Err(self.watchdog.error(Code::WatchdogUnfit, message, hint));
        }
        if support.sets_timeout {
            let set = self.timer.set_timeout_s(wanted_s);
            set.map_err(|error| self.watchdog.refused(&format!("set {wanted_s} s for"), &error))?;
        }
        let took = self.timer.timeout_s();
        let took_s = took.map_err(|error| self.watchdog.refused("ask the time of", &error))?;
        if took_s == 0 || took_s > wanted_s {
            return Err(self.watchdog.too_slow(&format!("{took_s} s instead"), u64::from(wanted_s) * 1000));
        }
        self.timer.keep_alive().map_err(|error| self.watchdog.refused("feed", &error))?;
        self.timeout_s = took_s;
        Ok(())
    }
}

impl Refusal {
    fn idle(finding: Box<Finding>) -> Box<Self> {
        Box::new(Self { finding, running: None })
    }
}

impl From<OwnedFd> for Open {
    /// Of a descriptor that somebody kept; whether it is a watchdog's shows when it is used.
    fn from(descriptor: OwnedFd) -> Self {
        Self(Box::new(device::KernelTimer::from(descriptor)))
    }
}

/// How to make the programs give it up that are known to use watchdogs.
fn free_hint(users: &[Holder]) -> String {
    let is_one = |names: &[&str]| users.iter().any(|user| names.contains(&user.command.as_str()));
    if users.iter().any(|user| user.pid == 1) || is_one(&["systemd"]) {
        return "systemd feeds it whatever becomes of the cluster: set 'RuntimeWatchdogSec=off' in /etc/systemd/system.conf.d, then \
                'systemctl daemon-reexec'."
            .to_owned();
    }
    if is_one(&["sbd"]) {
        return "The sbd of Pacemaker has it: 'systemctl disable --now sbd', or name another watchdog."
            .to_owned();
    }
    if is_one(&["watchdog", "watchdogd", "wd_keepalive"]) {
        return "A watchdog daemon has it: 'systemctl disable --now watchdog wd_keepalive watchdogd', or name another watchdog."
            .to_owned();
    }
    "Stop that program, or name another watchdog.".to_owned()
}
