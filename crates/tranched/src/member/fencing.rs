//! Fence agents, as a leader wants them, and whoever tries them while all is well.

use std::sync::Arc;

use tranche_core::finding::Finding;
use tranche_core::liveness::Cause;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;
use tranche_engine::cluster::{Fenced, Fencer};
use tranche_host::fence::{self, Cut, Cutter};

use super::Tester;
use crate::bell::Bell;

/// The fence agents of this machine.
#[derive(Debug)]
pub struct Agents {
    agents: Arc<fence::Agents>,
    cutter: Cutter,
}

impl Agents {
    /// Those that are installed in these places. The bell is rung whenever one has ended.
    pub fn installed(places: fence::Places, wake: Bell) -> Self {
        let agents = Arc::new(fence::Agents::new(places, fence::Limits::default()));
        let cutter = Cutter::new(Arc::clone(&agents), Arc::new(move || wake.ring()));
        Self { agents, cutter }
    }
}

impl Fencer for Agents {
    fn cut(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Fenced {
        fenced(self.cutter.cut(host, how, cause))
    }

    fn turn_on(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Fenced {
        fenced(self.cutter.turn_on(host, how, cause))
    }
}

impl Tester for Agents {
    fn settings(&self, host: &HostName, how: &FenceSpec) -> Result<(), Box<Finding>> {
        self.agents.prepare(host, how)
    }

    fn device(&self, host: &HostName, how: &FenceSpec) -> Result<(), Box<Finding>> {
        self.agents.check(host, how)
    }
}

fn fenced(cut: Cut) -> Fenced {
    match cut {
        Cut::UnderWay => Fenced::UnderWay,
        Cut::Confirmed => Fenced::Done,
        Cut::Failed(finding) => Fenced::Failed(finding),
    }
}
