//! Fence agents, as a leader wants them.

use std::sync::Arc;

use tranche_core::liveness::Cause;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;
use tranche_engine::cluster::{Fenced, Fencer};
use tranche_host::fence::{self, Cut, Cutter};

use crate::bell::Bell;

/// The fence agents of this machine.
#[derive(Debug)]
pub struct Agents(Cutter);

impl Agents {
    /// Those that are installed in these places. The bell is rung whenever one has ended.
    pub fn installed(places: fence::Places, wake: Bell) -> Self {
        let agents = fence::Agents::new(places, fence::Limits::default());
        Self(Cutter::new(Arc::new(agents), Arc::new(move || wake.ring())))
    }
}

impl Fencer for Agents {
    fn cut(&self, host: &HostName, how: &FenceSpec, cause: Cause) -> Fenced {
        match self.0.cut(host, how, cause) {
            Cut::UnderWay => Fenced::UnderWay,
            Cut::Confirmed => Fenced::Off,
            Cut::Failed(finding) => Fenced::Failed(finding),
        }
    }
}
