//! Fence agents, as a leader drives them: they take time, need the leader's network, and may not work.

use std::fmt;
use std::sync::Arc;

use tranche_core::diagnostics;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::liveness::Cause;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;
use tranche_engine::cluster::{Fenced, Fencer};

use crate::quorum::Place;
use crate::story::Planted;
use crate::world::{Due, Inner, Life, Shared};

/// How long an agent takes, in milliseconds.
const AGENT_MS: u64 = 2_000;

/// The agents as one life of a daemon drives them.
pub(crate) struct Agents {
    pub(crate) world: Arc<Shared>,
    pub(crate) life: Life,
}

impl Fencer for Agents {
    fn cut(&self, host: &HostName, _how: &FenceSpec, cause: Cause) -> Fenced {
        if !self.world.lives(self.life) {
            return Fenced::UnderWay;
        }
        fenced(host, self.world.with(|inner| inner.fence(self.life, host, cause)))
    }

    fn turn_on(&self, host: &HostName, _how: &FenceSpec, cause: Cause) -> Fenced {
        if !self.world.lives(self.life) {
            return Fenced::UnderWay;
        }
        fenced(host, self.world.with(|inner| inner.turn_on(self.life, host, cause)))
    }
}

fn fenced(host: &HostName, done: Result<bool, String>) -> Fenced {
    match done {
        Ok(true) => Fenced::Done,
        Ok(false) => Fenced::UnderWay,
        Err(why) => Fenced::Failed(failure(host, &why)),
    }
}

/// What an agent is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    Cut,
    TurnOn,
}

/// An agent that was told something: by which life of a daemon, and about which node.
pub(crate) type Told = (Order, Place, u32, Place, Cause);

/// How far an agent has come, as the daemon that drives it knows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AtWork {
    /// It was told then.
    Since(u64),
    /// It has seen it off, or on.
    Done,
}

impl Inner {
    /// Has an agent cut a host's power. Returns whether it is done.
    ///
    /// What the agent was told takes effect, whether or not the daemon still hears of it.
    fn fence(&mut self, by: Life, host: &HostName, cause: Cause) -> Result<bool, String> {
        if self.planted == Some(Planted::NoFenceWait) {
            return Ok(true);
        }
        let node = self.agent_of(by, host)?;
        let is_off = !self.has_power(node);
        self.tell((Order::Cut, by.node, by.count, node, cause), is_off, Due::PowerCut(node))
    }

    /// Has an agent turn a host on. Returns whether it is done.
    fn turn_on(&mut self, by: Life, host: &HostName, cause: Cause) -> Result<bool, String> {
        let node = self.agent_of(by, host)?;
        self.judge_turning_on(host, cause);
        let is_on = self.has_power(node);
        self.tell((Order::TurnOn, by.node, by.count, node, cause), is_on, Due::TurnOn(node))
    }

    /// Whether a host is on, or on its way there.
    fn has_power(&self, node: Place) -> bool {
        self.nodes[node].on || self.nodes[node].boot.is_some()
    }

    /// The node of a host whose agent can be asked.
    fn agent_of(&self, by: Life, host: &HostName) -> Result<Place, String> {
        let node = self.node_of(host).ok_or("there is no such host")?;
        if self.nodes[node].agent_off || self.is_off_network(by.node) {
            return Err("the device does not answer".to_owned());
        }
        Ok(node)
    }

    /// Tells an agent something, unless it was told, and looks how far it has come.
    fn tell(&mut self, told: Told, is_so: bool, does: Due) -> Result<bool, String> {
        match self.fences.get(&told) {
            Some(AtWork::Done) => return Ok(true),
            Some(AtWork::Since(ms)) if self.now_ms < ms + AGENT_MS => return Ok(false),
            Some(AtWork::Since(_)) if is_so => {
                self.fences.insert(told, AtWork::Done);
                return Ok(true);
            }
            // Nobody told it before, or somebody has switched the host's power meanwhile.
            Some(AtWork::Since(_)) | None => {}
        }
        self.fences.insert(told, AtWork::Since(self.now_ms));
        self.after(AGENT_MS / 2, does);
        Ok(false)
    }
}

fn failure(host: &HostName, why: &str) -> Box<Finding> {
    Box::new(diagnostics::finding(
        Code::FenceFailed,
        Severity::Error,
        Subject::Host(host.clone()),
        format!("The simulated agent failed: {why}."),
        "Look at the scenario.",
    ))
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agents").field("life", &self.life).finish_non_exhaustive()
    }
}
