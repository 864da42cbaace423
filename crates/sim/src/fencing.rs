//! Fence agents, as a leader drives them: they take time, need the leader's network, and may not work.

use std::fmt;
use std::sync::Arc;

use tranche_core::diagnostics;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::liveness::Cause;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;
use tranche_engine::cluster::{Fenced, Fencer};

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
        match self.world.with(|inner| inner.fence(self.life, host, cause)) {
            Ok(true) => Fenced::Off,
            Ok(false) => Fenced::UnderWay,
            Err(why) => Fenced::Failed(failure(host, &why)),
        }
    }
}

/// How far an agent has come, as the daemon that drives it knows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AtWork {
    /// It was told to cut the power then.
    Since(u64),
    /// It has seen it off.
    Done,
}

impl Inner {
    /// Has an agent cut a host's power. Returns whether it is done.
    ///
    /// What the agent was told takes effect, whether or not the daemon still hears of it.
    fn fence(&mut self, by: Life, host: &HostName, cause: Cause) -> Result<bool, String> {
        let Some(node) = self.node_of(host) else { return Err("there is no such host".to_owned()) };
        if self.planted == Some(Planted::NoFenceWait) {
            return Ok(true);
        }
        if self.nodes[node].agent_off || self.is_off_network(by.node) {
            return Err("the device does not answer".to_owned());
        }
        let name = (by.node, by.count, node, cause);
        let is_off = !self.nodes[node].on && self.nodes[node].boot.is_none();
        match self.fences.get(&name) {
            Some(AtWork::Done) => return Ok(true),
            Some(AtWork::Since(ms)) if self.now_ms < ms + AGENT_MS => return Ok(false),
            Some(AtWork::Since(_)) if is_off => {
                self.fences.insert(name, AtWork::Done);
                return Ok(true);
            }
            // Nobody told it before, or somebody has given the host its power again meanwhile.
            Some(AtWork::Since(_)) | None => {}
        }
        self.fences.insert(name, AtWork::Since(self.now_ms));
        self.after(AGENT_MS / 2, Due::PowerCut(node));
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
