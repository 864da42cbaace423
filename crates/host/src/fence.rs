//! Fence agents: programs that cut another host's power, and say whether it is off.
//!
//! They are those of ClusterLabs, driven in their standard form (FenceAgentAPI.md of the project fence-agents): options as
//! `key=value` lines on standard input, `action=off|on|status|monitor|metadata`, and an exit status. An agent's word that it
//! has cut a host is not enough: the host counts as off only when the agent, asked again, says so. So it is with turning it on.
//!
//! An agent runs as root, so nothing of it is taken on trust that somebody else could have written: it is looked up by a
//! checked name in directories that packages own, gets no environment and no shell, and options that would have it run
//! another program or write a file are refused. Each run has a limit, after which the agent and what it started are
//! killed.
//!
//! Options that an agent does not know are refused too: it would leave them out with a mere warning, and might cut
//! another machine than the one that was meant.
//!
//! Which options are refused whatever an agent is, [`tranche_core::fence`] knows; here they are held against the agent's own
//! description.
//!
//! Deliberately absent: when to fence, how often to try, and what follows from it.

mod cutter;
mod metadata;
mod program;
mod run;
mod secret;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8PathBuf;
use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::name::{AgentName, HostName};
use tranche_core::spec::FenceSpec;

pub use self::cutter::{Cut, Cutter, Wake};
pub use self::metadata::{Metadata, Parameter};
use self::program::{Program, Version};
use self::run::{Ended, Ran};
use self::secret::Input;

/// The exit status of `status` for a machine that is on.
const EXIT_ON: i32 = 0;
/// The exit status of `status` for a machine that is off.
const EXIT_OFF: i32 = 2;

/// Where agents and secrets are. Both have to belong to root, or to whom this process runs as.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where agents are looked for, in this order.
    pub agent_dirs: Vec<Utf8PathBuf>,
    /// Where secrets are, one a file.
    pub secrets_dir: Utf8PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            agent_dirs: vec!["/usr/sbin".into(), "/usr/lib/tranche/fence".into()],
            secrets_dir: "/etc/tranche/secrets".into(),
        }
    }
}

/// How long an agent may take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To cut: a BMC takes seconds, and agents wait for the machine to be off, 20 s by their own default.
    pub cut_ms: u64,
    /// To look: `status` and `monitor`.
    pub look_ms: u64,
    /// To describe itself: `metadata`.
    pub describe_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cut_ms: 60_000, look_ms: 20_000, describe_ms: 10_000 }
    }
}

/// What came of cutting a host's power, or of turning it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is off, or on: the agent was asked again and says so.
    Confirmed,
    /// It may be as it was.
    Failed(Box<Finding>),
    /// The agent did not end in time; the host may be as it was.
    TimedOut(Box<Finding>),
}

/// The agents of this machine.
#[derive(Debug, Default)]
pub struct Agents {
    places: Places,
    limits: Limits,
    /// What agents have said of themselves, each as long as it is the same file.
    described: Mutex<BTreeMap<AgentName, (Version, Arc<Metadata>)>>,
}

impl Agents {
    /// The agents that are found in these places.
    pub fn new(places: Places, limits: Limits) -> Self {
        Self { places, limits, described: Mutex::default() }
    }

    /// Cuts a host's power and looks whether it is off. Takes as long as the limits for both allow. May be repeated: a host
    /// that is off stays off.
    pub fn fence(&self, host: &HostName, how: &FenceSpec) -> Outcome {
        outcome(self.cut(host, how))
    }

    /// Turns a host on and looks whether it is. Takes as long as [`Self::fence`]. May be repeated: a host that is on stays on.
    pub fn turn_on(&self, host: &HostName, how: &FenceSpec) -> Outcome {
        outcome(self.power_up(host, how))
    }

    /// Whether this machine could fence a host, as far as that shows without asking its device: agent, options and secrets are
    /// there.
    ///
    /// # Errors
    /// The finding says what would go wrong.
    pub fn prepare(&self, host: &HostName, how: &FenceSpec) -> Result<(), Box<Finding>> {
        let ready = self.ready(host, how).map(drop);
        let turns_on = || if how.leave_off { Ok(()) } else { self.check_turns_on(host, how) };
        ready.and_then(|()| turns_on()).map_err(Trouble::into_finding)
    }

    /// Whether a host that lives could be fenced: agent, options and secrets are there, its device answers, and the machine
    /// that it would cut is on. Changes nothing.
    ///
    /// # Errors
    /// The finding says what would go wrong.
    pub fn check(&self, host: &HostName, how: &FenceSpec) -> Result<(), Box<Finding>> {
        self.look(host, how).map_err(Trouble::into_finding)
    }

    fn cut(&self, host: &HostName, how: &FenceSpec) -> Result<(), Trouble> {
        let ready = self.ready(host, how)?;
        match ready.run("off", self.limits.cut_ms)?.status {
            Some(0) => {}
            _ => return Err(ready.failed("off")),
        }
        match ready.run("status", self.limits.look_ms)?.status {
            Some(EXIT_OFF) => Ok(()),
            Some(EXIT_ON) => {
                let message = format!(
                    "Fence agent {} says that it has cut host {host}, and that it is still on.",
                    how.agent
                );
                let hint = "Until it is off, nothing of it is started elsewhere. Look at the machine; if it is off, see whether the \
                            agent's options name another one.";
                Err(Trouble::of(host, Code::FenceFailed, message, hint))
            }
            _ => Err(ready.failed("status")),
        }
    }

    fn power_up(&self, host: &HostName, how: &FenceSpec) -> Result<(), Trouble> {
        self.check_turns_on(host, how)?;
        let ready = self.ready(host, how)?;
        if ready.run("on", self.limits.cut_ms)?.status != Some(0) {
            return Err(ready.failed("on"));
        }
        match ready.run("status", self.limits.look_ms)?.status {
            Some(EXIT_ON) => Ok(()),
            Some(EXIT_OFF) => {
                let message = format!(
                    "Fence agent {} says that it has turned host {host} on, and that it is still off.",
                    how.agent
                );
                let hint = "It is tried again. Look at the machine, or turn it on by hand; it comes back by itself when it has booted.";
                Err(Trouble::of(host, Code::FenceFailed, message, hint))
            }
            _ => Err(ready.failed("status")),
        }
    }

    fn look(&self, host: &HostName, how: &FenceSpec) -> Result<(), Trouble> {
        let ready = self.ready(host, how)?;
        if ready.run("monitor", self.limits.look_ms)?.status != Some(0) {
            return Err(ready.failed("monitor"));
        }
        match ready.run("status", self.limits.look_ms)?.status {
            Some(EXIT_ON) => Ok(()),
            Some(EXIT_OFF) => {
                let message =
                    format!("Fence agent {} says that host {host} is off, and it lives.", how.agent);
                let hint = "Its options name another machine, which would be cut instead. Put the right one into 'plug' (or 'ip').";
                Err(Trouble::of(host, Code::FenceOptionInvalid, message, hint))
            }
            _ => Err(ready.failed("status")),
        }
    }

    fn check_turns_on(&self, host: &HostName, how: &FenceSpec) -> Result<(), Trouble> {
        let (_, metadata) = self.describe(host, &how.agent)?;
        metadata.check_turns_on(host, &how.agent).map_err(Trouble::Finding)
    }

    /// Everything that is needed before anything is done to the host.
    fn ready<'a>(&self, host: &'a HostName, how: &'a FenceSpec) -> Result<Ready<'a>, Trouble> {
        let (program, metadata) = self.describe(host, &how.agent)?;
        if let Some(problem) = metadata.problems(host, how).into_iter().next() {
            return Err(Trouble::Finding(Box::new(problem)));
        }
        let input = Input::read(&self.places, host, &how.options).map_err(Trouble::Finding)?;
        Ok(Ready { host, agent: &how.agent, program, input, last: Mutex::default() })
    }

    /// The agent, and what it says of itself.
    fn describe(&self, host: &HostName, agent: &AgentName) -> Result<(Program, Arc<Metadata>), Trouble> {
        let program = Program::find(&self.places, host, agent).map_err(Trouble::Finding)?;
        // Not locked while an agent is asked: another host may have to be cut meanwhile.
        let described = || self.described.lock().unwrap_or_else(PoisonError::into_inner);
        let known = described().get(agent).filter(|(version, _)| *version == program.version).cloned();
        if let Some((_, metadata)) = known {
            return Ok((program, metadata));
        }
        let asked = Ready { host, agent, program, input: Input::default(), last: Mutex::default() };
        let ran = asked.run("metadata", self.limits.describe_ms)?;
        let metadata = match (ran.status, Metadata::read(&ran.output)) {
            (Some(0), Some(metadata)) => Arc::new(metadata),
            _ => return Err(asked.failed("metadata")),
        };
        metadata.check_actions(host, agent).map_err(Trouble::Finding)?;
        described().insert(agent.clone(), (asked.program.version.clone(), Arc::clone(&metadata)));
        Ok((asked.program, metadata))
    }
}

/// Why an agent did not do what it was asked for.
enum Trouble {
    Finding(Box<Finding>),
    Late(Box<Finding>),
}

impl Trouble {
    fn of(host: &HostName, code: Code, message: String, hint: &str) -> Self {
        Self::Finding(problem(host, code, message, hint))
    }

    fn into_finding(self) -> Box<Finding> {
        match self {
            Self::Finding(finding) | Self::Late(finding) => finding,
        }
    }
}

fn outcome(done: Result<(), Trouble>) -> Outcome {
    match done {
        Ok(()) => Outcome::Confirmed,
        Err(Trouble::Finding(finding)) => Outcome::Failed(finding),
        Err(Trouble::Late(finding)) => Outcome::TimedOut(finding),
    }
}

/// An agent that can be run, with its options and secrets.
struct Ready<'a> {
    host: &'a HostName,
    agent: &'a AgentName,
    program: Program,
    input: Input,
    /// What it said last, for the case that it failed.
    last: Mutex<String>,
}

impl Ready<'_> {
    fn run(&self, action: &str, limit_ms: u64) -> Result<Ran, Trouble> {
        let lines = self.input.lines(action);
        let ended = run::run(&self.program.path, lines.as_bytes(), Duration::from_millis(limit_ms));
        let (agent, host) = (self.agent, self.host);
        match ended {
            Ok(Ended::InTime(mut ran)) => {
                ran.redact(&self.input);
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = ran.words();
                Ok(ran)
            }
            Ok(Ended::Late) => {
                let message = format!(
                    "Fence agent {agent} for host {host} did not end within {limit_ms} ms (action {action}) and was killed."
                );
                let hint = "See whether what it talks to (BMC, hypervisor, switch) can be reached from here, and whether its own timeouts \
                            (login_timeout, power_timeout) are shorter.";
                Err(Trouble::Late(problem(host, Code::FenceFailed, message, hint)))
            }
            Err(error) => {
                let message = format!("Fence agent {} could not be run: {error}.", self.program.path);
                let hint = "See whether it starts by hand; the first line of a script names its interpreter.";
                Err(Trouble::of(host, Code::FenceAgentUnusable, message, hint))
            }
        }
    }

    /// It ended in another way than it should.
    fn failed(&self, action: &str) -> Trouble {
        let words = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (agent, host) = (self.agent, self.host);
        let message = format!("Fence agent {agent} for host {host} failed (action {action}): {words}.");
        let hint = format!(
            "Try it by hand, as root: its options one a line on the standard input of {}, with 'action={action}'.",
            self.program.path
        );
        let code = if action == "metadata" { Code::FenceAgentUnusable } else { Code::FenceFailed };
        Trouble::of(host, code, message, &hint)
    }
}

/// Whether what belongs to this user is as good as our own.
fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// An error about how a host is fenced.
fn problem(host: &HostName, code: Code, message: String, hint: &str) -> Box<Finding> {
    Box::new(say::finding(code, Severity::Error, Subject::Host(host.clone()), message, hint))
}
