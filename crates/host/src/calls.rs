//! Kernel calls that may never come back.
//!
//! Enabling virtual functions takes 100 ms, disabling them takes a second, and disabling one that is open waits for as
//! long as it stays open; reading `sriov_numvfs` waits behind all of these for the device's lock (kernel:
//! drivers/pci/iov.c). So every such call runs on a thread of its own with a limit. One that outlives its limit is
//! listed by name until it comes back, and what would wait behind it is refused at once.
//!
//! Deliberately absent: cancelling. A thread in the kernel cannot be called back; its late result is dropped, and what
//! it changed shows in the next observation.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tranche_core::inventory::StuckCall;
use tranche_core::name::{GpuAddress, GpuKey, Timestamp};

use crate::tree::{Ran, Tree};

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Reading, in milliseconds.
    pub read_ms: u64,
    /// Writing, in milliseconds: the kernel's own second for disabling, and what drivers add to it.
    pub write_ms: u64,
    /// Running a vendor's tool, in milliseconds: it resets a GPU and waits for each of its functions.
    pub tool_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { read_ms: 5_000, write_ms: 30_000, tool_ms: 60_000 }
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It outlived its limit and still runs.
    #[error("'{call}' has not come back within {limit_ms} ms")]
    Overdue {
        /// The call.
        call: String,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// It was not made, because it would wait behind one that outlived its limit.
    #[error("'{call}' was not tried, because '{stuck}' has not come back yet")]
    Behind {
        /// The call.
        call: String,
        /// The call that it would wait for.
        stuck: String,
    },
    /// It came back with an error.
    #[error("'{call}' failed")]
    Failed {
        /// The call.
        call: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl CallError {
    /// The call.
    pub fn call(&self) -> &str {
        match self {
            Self::Overdue { call, .. } | Self::Behind { call, .. } | Self::Failed { call, .. } => call,
        }
    }

    /// The kernel's error number, where it answered.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Failed { source, .. } => source.raw_os_error(),
            Self::Overdue { .. } | Self::Behind { .. } => None,
        }
    }
}

/// What a call waits for in the kernel. Calls in different lanes do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Attributes that take no lock.
    Look,
    /// Attributes that take the device's lock.
    Lock,
    /// A vendor's library.
    Library,
}

/// A tree whose calls are limited in time.
#[derive(Debug)]
pub struct Calls {
    tree: Arc<dyn Tree>,
    limits: Limits,
    running: Arc<Mutex<Running>>,
    at_work: Arc<AtWork>,
}

#[derive(Debug, Default)]
struct Running {
    calls: Vec<Call>,
    made: u64,
}

#[derive(Debug)]
struct Call {
    id: u64,
    lane: Lane,
    overdue: bool,
    shown: StuckCall,
}

impl Calls {
    /// Limits the calls on a tree.
    pub fn new(tree: Arc<dyn Tree>, limits: Limits) -> Self {
        Self { tree, limits, running: Arc::default(), at_work: Arc::default() }
    }

    /// The tree itself, for what cannot block: links and whether something exists.
    pub fn tree(&self) -> &dyn Tree {
        &*self.tree
    }

    /// How long calls may take.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Calls about one GPU, made at one moment.
    pub fn on<'a>(&'a self, gpu: &'a GpuKey, now: Timestamp) -> GpuCalls<'a> {
        GpuCalls { calls: self, gpu, now }
    }

    /// Looks at attributes that take no lock, any number of them. `what` names them.
    ///
    /// # Errors
    /// When that takes longer than the limit for reading, or an earlier look at the same GPU still does.
    pub fn look<T: Send + 'static>(
        &self,
        gpu: Option<&GpuAddress>,
        now: Timestamp,
        what: &str,
        look: impl FnOnce(&dyn Tree) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let call = StuckCall { gpu: gpu.cloned(), call: format!("read {what}"), since: now };
        self.run(Lane::Look, call, self.limits.read_ms, move |tree| Ok(look(tree)))
    }

    /// Asks a vendor's library, which may hang as its driver does. `what` names it.
    ///
    /// # Errors
    /// When that takes longer than the limit for writing, or an earlier question still does.
    pub fn ask<T: Send + 'static>(
        &self,
        now: Timestamp,
        what: &str,
        ask: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let call = StuckCall { gpu: None, call: format!("ask {what}"), since: now };
        self.run(Lane::Library, call, self.limits.write_ms, move |_| Ok(ask()))
    }

    /// The calls that outlived their limit and have not come back.
    pub fn stuck(&self) -> Vec<StuckCall> {
        let running = lock(&self.running);
        running.calls.iter().filter(|call| call.overdue).map(|call| call.shown.clone()).collect()
    }

    fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        shown: StuckCall,
        limit_ms: u64,
        work: impl FnOnce(&dyn Tree) -> io::Result<T> + Send + 'static,
    ) -> Result<T, CallError> {
        let call = shown.call.clone();
        let id = self.admit(lane, shown)?;
        let (tree, running) = (Arc::clone(&self.tree), Arc::clone(&self.running));
        let (send, receive) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("kernel-call".to_owned()).spawn(move || {
            let _leave = Leave { id, running };
            // Nobody receives a result that comes too late; it is dropped with the channel.
            let _ = send.send(work(&*tree));
        });
        if let Err(source) = thread {
            drop(Leave { id, running: Arc::clone(&self.running) });
            return Err(CallError::Failed { call, source });
        }
        let result = match receive.recv_timeout(Duration::from_millis(limit_ms)) {
            Err(RecvTimeoutError::Timeout) if self.mark_overdue(id) => {
                return Err(CallError::Overdue { call, limit_ms });
            }
            // It came back in the moment between the limit and the mark.
            Err(RecvTimeoutError::Timeout) => receive.recv().map_err(|_| RecvTimeoutError::Disconnected),
            received => received,
        };
        let answer = result.unwrap_or_else(|_| Err(io::Error::other("the thread that made the call died")));
        answer.map_err(|source| CallError::Failed { call, source })
    }

    fn admit(&self, lane: Lane, shown: StuckCall) -> Result<u64, CallError> {
        let mut running = lock(&self.running);
        let in_the_way = |call: &&Call| call.overdue && call.lane == lane && call.shown.gpu == shown.gpu;
        if let Some(stuck) = running.calls.iter().find(in_the_way) {
            return Err(CallError::Behind { call: shown.call, stuck: stuck.shown.call.clone() });
        }
        running.made += 1;
        let id = running.made;
        running.calls.push(Call { id, lane, overdue: false, shown });
        Ok(id)
    }

    /// Waits for the tool that runs, for as long as one may take; not for one that has taken longer already.
    fn turn(&self, call: &str) -> Result<Turn, CallError> {
        let behind = |stuck: &str| CallError::Behind { call: call.to_owned(), stuck: stuck.to_owned() };
        let is_overdue = |tool: &str| {
            let running = lock(&self.running);
            running.calls.iter().any(|known| known.overdue && known.shown.call == tool)
        };
        let at_work = lock(&self.at_work.tool);
        if let Some(tool) = at_work.as_ref().filter(|tool| is_overdue(tool)) {
            return Err(behind(tool));
        }
        let limit = Duration::from_millis(self.limits.tool_ms);
        let waited = self.at_work.ended.wait_timeout_while(at_work, limit, |tool| tool.is_some());
        let (mut at_work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(tool) = at_work.as_ref() {
            return Err(behind(tool));
        }
        *at_work = Some(call.to_owned());
        Ok(Turn(Arc::clone(&self.at_work)))
    }

    fn mark_overdue(&self, id: u64) -> bool {
        let mut running = lock(&self.running);
        let call = running.calls.iter_mut().find(|call| call.id == id);
        call.map(|call| call.overdue = true).is_some()
    }
}

/// Calls about one GPU.
#[derive(Debug, Clone, Copy)]
pub struct GpuCalls<'a> {
    calls: &'a Calls,
    gpu: &'a GpuKey,
    now: Timestamp,
}

impl GpuCalls<'_> {
    /// The GPU.
    pub fn gpu(&self) -> &GpuKey {
        self.gpu
    }

    /// The tree itself, for what cannot block: links and whether something exists.
    pub fn tree(&self) -> &dyn Tree {
        self.calls.tree()
    }

    /// Reads an attribute that takes the device's lock.
    ///
    /// # Errors
    /// The kernel's, or that it takes too long.
    pub fn read(&self, path: &str) -> Result<String, CallError> {
        let owned = path.to_owned();
        self.run(format!("read /{path}"), self.calls.limits.read_ms, move |tree| tree.text(&owned))
    }

    /// Writes an attribute. An empty value would never reach the kernel: clear with a newline.
    ///
    /// # Errors
    /// The kernel's, or that it takes too long.
    pub fn write(&self, path: &str, value: &str) -> Result<(), CallError> {
        assert!(!value.is_empty(), "an empty write never reaches the kernel");
        let call = format!("write {} to /{path}", value.escape_default());
        let (path, value) = (path.to_owned(), value.to_owned());
        self.run(call, self.calls.limits.write_ms, move |tree| tree.write(&path, &value))
    }

    /// Takes a device of this GPU for a moment, which resets it. `what` names it.
    ///
    /// # Errors
    /// That it takes too long.
    pub(crate) fn take<T: Send + 'static>(
        &self,
        what: &str,
        take: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CallError> {
        self.run(what.to_owned(), self.calls.limits.write_ms, move |_| Ok(take()))
    }

    /// Runs a vendor's tool, one at a time on the whole host: NVIDIA's lends the ids of a GPU to another driver
    /// (`pci-pf-stub/new_id`) and takes them back, which concerns every GPU with these ids, four on an A16. And one that
    /// merely asks keeps all GPUs open.
    ///
    /// # Errors
    /// That it cannot be started, that it takes too long, or that another one does. How it ended is in the result.
    pub fn run_tool(&self, tool: &str, arguments: &[&str]) -> Result<Ran, CallError> {
        let call = format!("run /{tool} {}", arguments.join(" "));
        let turn = self.calls.turn(&call)?;
        let tool = tool.to_owned();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.run(call, self.calls.limits.tool_ms, move |tree| {
            let _turn = turn;
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            tree.run(&tool, &arguments)
        })
    }

    /// Asks another program on this machine, by one line for one line.
    ///
    /// # Errors
    /// That nobody listens, or that it takes too long.
    pub fn converse(&self, socket: &str, line: &str) -> Result<String, CallError> {
        let call = format!("ask /{socket} to {line}");
        let (socket, line) = (socket.to_owned(), line.to_owned());
        self.run(call, self.calls.limits.tool_ms, move |tree| tree.converse(&socket, &line))
    }

    fn run<T: Send + 'static>(
        &self,
        call: String,
        limit_ms: u64,
        work: impl FnOnce(&dyn Tree) -> io::Result<T> + Send + 'static,
    ) -> Result<T, CallError> {
        let shown = StuckCall { gpu: Some(self.gpu.address.clone()), call, since: self.now };
        self.calls.run(Lane::Lock, shown, limit_ms, work)
    }
}

/// The vendor's tool that runs.
#[derive(Debug, Default)]
struct AtWork {
    tool: Mutex<Option<String>>,
    ended: Condvar,
}

/// A tool's turn, which ends with the tool and not with the patience of who waits for it.
struct Turn(Arc<AtWork>);

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&self.0.tool) = None;
        self.0.ended.notify_all();
    }
}

/// Takes a call off the list when its thread ends, however it ends.
struct Leave {
    id: u64,
    running: Arc<Mutex<Running>>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        lock(&self.running).calls.retain(|call| call.id != self.id);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is shared is whole between any two statements that hold it, so a panic elsewhere does not spoil it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
