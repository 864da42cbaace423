//! A machine behind the host's trait: on or off, and only as long as its daemon lives.

use std::fmt;
use std::sync::Arc;

use tranche_core::diagnostics;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::HostInventory;
use tranche_core::name::Timestamp;
use tranche_core::step::Step;
use tranche_host::Host;

use crate::report::Happened;
use crate::world::{Life, Shared};

/// A machine as one life of a daemon sees it.
pub(crate) struct Machine {
    pub(crate) world: Arc<Shared>,
    pub(crate) life: Life,
}

impl Host for Machine {
    fn observe(&self, now: Timestamp) -> HostInventory {
        self.world.run_for(5);
        self.world.with(|inner| inner.nodes[self.life.node].model.observe(now))
    }

    fn apply(&self, step: &Step, _now: Timestamp) -> Result<(), Box<Finding>> {
        let takes_ms = self.world.draw_step_time(step);
        self.world.run_for(takes_ms);
        if !self.world.lives(self.life) {
            return Err(refusal("the daemon is dead"));
        }
        let done = self.world.with(|inner| inner.nodes[self.life.node].model.apply(step));
        self.note(step, &done);
        done.map_err(|why| refusal(&why))
    }
}

impl Machine {
    fn note(&self, step: &Step, done: &Result<(), String>) {
        let node = self.life.node;
        match (step, done) {
            (Step::StartVm { vm, .. }, Ok(())) => {
                self.world.judge_start(vm, node);
                self.world.record(node, Happened::Started { vm: vm.to_string() });
            }
            (Step::StartVm { vm, .. }, Err(why)) => {
                self.world.record(node, Happened::StartFailed { vm: vm.to_string(), why: why.clone() });
            }
            (Step::ShutDownVm { vm, .. }, Ok(())) => {
                self.world.record(node, Happened::Ended { vm: vm.to_string(), how: "shut down".to_owned() });
            }
            (Step::KillVm { vm, .. }, Ok(())) => {
                self.world.record(node, Happened::Ended { vm: vm.to_string(), how: "killed".to_owned() });
            }
            _ => {}
        }
    }
}

fn refusal(why: &str) -> Box<Finding> {
    Box::new(diagnostics::finding(
        Code::LibvirtRefused,
        Severity::Error,
        Subject::Installation,
        format!("The simulated machine refused: {why}."),
        "Look at the scenario.",
    ))
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("life", &self.life).finish_non_exhaustive()
    }
}
