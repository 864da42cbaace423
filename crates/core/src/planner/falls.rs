//! VMs that fall: tried where they are, then elsewhere, then given up.

use super::Planner;
use crate::diagnostics as say;
use crate::falls::{STEADY_MS, Tried, Verdict};
use crate::inventory::HostInventory;
use crate::name::{HostName, VmName};
use crate::placement::Board;
use crate::plan::VmPlan;
use crate::spec::{VmSource, VmSpec};

impl Planner<'_> {
    /// Notes on which hosts VMs fell as often as they may, and forgets it where that is over.
    pub(super) fn judge_falls(&mut self) {
        let mut judged = Vec::new();
        for name in self.scope.vms() {
            let (Some(planned), Some(spec)) = (self.plan.vms.get(name), self.spec.vms.get(name)) else {
                continue;
            };
            let next = self.tried(name, spec, planned);
            if next != planned.tried {
                judged.push((name.clone(), next));
            }
        }
        for (name, next) in judged {
            if let Some(planned) = self.plan.vms.get_mut(&name) {
                planned.tried = next;
            }
        }
    }

    fn tried(&self, name: &VmName, spec: &VmSpec, planned: &VmPlan) -> Option<Tried> {
        let serves =
            |tried: &&Tried| spec.run.is_up() && spec.id == planned.id && tried.serial == spec.serial;
        let known = planned.tried.as_ref().filter(serves);
        let observed = self.inventory.get(&planned.host).filter(|_| self.is_up(&planned.host));
        let falls = observed.and_then(|observed| observed.progress.falls.get(name));
        let falls = falls.filter(|falls| spec.run.is_up() && falls.serial == spec.serial);
        let is_spent = falls.is_some_and(|falls| spec.availability.restarts.is_spent(falls.count));
        match known {
            Some(known) if !is_spent || known.hosts.contains(&planned.host) => {
                let runs = observed
                    .and_then(|observed| observed.domain(name))
                    .is_some_and(|domain| domain.state.is_active());
                let steady = runs && falls.is_none() && self.now.ms_since(known.since) >= STEADY_MS;
                (!steady).then(|| known.clone())
            }
            known if is_spent => {
                let mut hosts = known.map(|known| known.hosts.clone()).unwrap_or_default();
                hosts.insert(planned.host.clone());
                Some(Tried { serial: spec.serial, hosts, since: self.now, verdict: Verdict::Stays })
            }
            _ => None,
        }
    }

    /// Whether a VM fell as often as it may where it is, and nothing is tried there any more.
    pub(super) fn has_done_with(&self, name: &VmName, spec: &VmSpec, host: &HostName) -> bool {
        let planned =
            self.plan.vms.get(name).filter(|planned| planned.id == spec.id && planned.host == *host);
        planned.and_then(|planned| planned.tried.as_ref()).is_some_and(|tried| {
            tried.serial == spec.serial && tried.hosts.contains(host) && tried.verdict != Verdict::Stays
        })
    }

    /// Whether a VM is tried no more.
    pub(super) fn is_given_up(&self, name: &VmName) -> bool {
        let tried = self.plan.vms.get(name).and_then(|planned| planned.tried.as_ref());
        tried.is_some_and(|tried| tried.verdict == Verdict::GivenUp)
    }

    /// What follows for a VM that is off and shall run: whether it is tried where it is.
    pub(super) fn may_try(
        &mut self,
        (name, spec): (&VmName, &VmSpec),
        observed: &HostInventory,
        board: &Board<'_>,
    ) -> bool {
        let host = &observed.host;
        let planned = self.plan.vms.get(name);
        let Some(tried) = planned.and_then(|planned| planned.tried.clone()) else { return true };
        let verdict = match tried.verdict {
            Verdict::GivenUp => Verdict::GivenUp,
            _ if !tried.hosts.contains(host) => return true,
            _ if tried.hosts.len() > usize::from(spec.availability.restarts.elsewhere) => Verdict::GivenUp,
            _ if !self.is_cluster() || !matches!(spec.source, VmSource::Made(_)) => Verdict::Stays,
            _ if tried.hosts.len() > 1
                && self.spec.hosts.keys().all(|member| tried.hosts.contains(member)) =>
            {
                Verdict::GivenUp
            }
            _ if board.choose((name, spec), None).is_ok() => Verdict::Leaves,
            _ => Verdict::Stays,
        };
        self.findings.push(match verdict {
            Verdict::GivenUp => say::vm_given_up(name, tried.hosts.len()),
            Verdict::Stays | Verdict::Leaves => say::vm_falls(name, host),
        });
        if let Some(planned) = self.plan.vms.get_mut(name) {
            planned.tried = Some(Tried { verdict, ..tried });
        }
        verdict == Verdict::Stays
    }
}
