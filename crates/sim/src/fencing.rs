//! Fence agents, as a leader drives them: they take time, need the network, and may not work.

use std::fmt;
use std::sync::Arc;

use tranche_core::diagnostics;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::liveness::Cause;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;
use tranche_engine::cluster::{Fenced, Fencer};

use crate::world::{Life, Shared};

/// How long an agent takes, in milliseconds.
pub(crate) const AGENT_MS: u64 = 2_000;

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
        match self.world.fence(host, cause) {
            Ok(true) => Fenced::Off,
            Ok(false) => Fenced::UnderWay,
            Err(why) => Fenced::Failed(failure(host, &why)),
        }
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
