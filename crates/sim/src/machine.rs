//! A machine behind the host's trait: on or off, and only as long as its daemon lives.

use std::fmt;
use std::sync::Arc;

use tranche_core::diagnostics;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{DomainState, HostInventory, Hypervisor, OffReason};
use tranche_core::name::Timestamp;
use tranche_core::step::Step;
use tranche_host::Host;

use crate::model::{Refused, refused};
use crate::report::Happened;
use crate::story::Planted;
use crate::world::{Inner, Life, Shared};

/// A machine as one life of a daemon sees it.
pub(crate) struct Machine {
    pub(crate) world: Arc<Shared>,
    pub(crate) life: Life,
}

impl Host for Machine {
    fn observe(&self, now: Timestamp) -> HostInventory {
        let takes_ms = self.world.slowed(self.life.node, 5);
        self.world.run_for(takes_ms);
        let mut seen = self.world.with(|inner| {
            let mut seen = inner.nodes[self.life.node].model.observe(now);
            seen.progress.travels = inner.nodes[self.life.node].setup.travels;
            seen.progress.sent = inner.sent_by(self.life).into_iter().collect();
            seen
        });
        if self.world.planted() == Some(Planted::ForgottenShutdown) {
            forget_shutdowns(&mut seen);
        }
        seen
    }

    fn apply(&self, step: &Step, _now: Timestamp) -> Result<(), Box<Finding>> {
        let takes_ms = self.world.draw_step_time(self.life.node, step);
        self.world.run_for(takes_ms);
        if !self.world.lives(self.life) {
            return Err(refusal("the daemon is dead"));
        }
        let done = self.world.with(|inner| inner.apply(self.life, step));
        self.note(step, &done);
        done.map_err(|refused| refusal(&refused.why))
    }
}

impl Inner {
    fn apply(&mut self, life: Life, step: &Step) -> Result<(), Refused> {
        let node = life.node;
        if let Step::StartVm { vm, .. } = step
            && let Some(more) = self.failing.get_mut(vm).filter(|more| **more > 0)
        {
            *more -= 1;
            return Err(refused("the guest's boot failed"));
        }
        let done = match step {
            Step::SendVm { vm, number, to, devices, .. } => self.send(life, (vm, *number), to, devices),
            Step::CallOffVm { vm, .. } => {
                self.call_off(node, vm);
                Ok(())
            }
            _ => self.nodes[node].model.apply(step),
        };
        if let Some(Refused { why, .. }) = done.as_ref().err().filter(|refused| refused.is_wrong) {
            let host = &self.nodes[node].name;
            self.accuse(vec![format!("host {host} was told to {step}: {why}")]);
        }
        done
    }
}

impl Machine {
    fn note(&self, step: &Step, done: &Result<(), Refused>) {
        let node = self.life.node;
        self.world.judge_step();
        match (step, done) {
            (Step::StartVm { vm, .. }, Ok(())) => {
                self.world.judge_start(vm, node);
                self.world.record(node, Happened::Started { vm: vm.to_string() });
            }
            (Step::StartVm { vm, .. }, Err(Refused { why, .. })) => {
                self.world.record(node, Happened::StartFailed { vm: vm.to_string(), why: why.clone() });
            }
            (Step::ShutDownVm { vm, .. }, Ok(())) => {
                self.world.record(node, Happened::Ended { vm: vm.to_string(), how: "shut down".to_owned() });
            }
            (Step::ResumeVm { vm, .. }, Ok(())) => {
                self.world.record(node, Happened::WentOn { vm: vm.to_string() });
            }
            (Step::KillVm { vm, .. }, Ok(())) => {
                self.world.record(node, Happened::Ended { vm: vm.to_string(), how: "killed".to_owned() });
            }
            _ => {}
        }
    }
}

/// A defect on purpose: whoever shut itself down looks as if it had crashed.
fn forget_shutdowns(seen: &mut HostInventory) {
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { return };
    for domain in domains.values_mut() {
        if domain.state == (DomainState::Off { reason: OffReason::Shutdown }) {
            domain.state = DomainState::Off { reason: OffReason::Crashed };
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
