//! VMs: what each shall do, by what was asked for and what is seen.

use super::Planner;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::{Domain, DomainState, HostInventory, OffReason};
use crate::name::VmName;
use crate::placement::{self, Board, waiting_order};
use crate::plan::{Settled, VmGoal, VmPlan};
use crate::spec::{Request, Run, VmSource, VmSpec};

impl Planner<'_> {
    /// By priority, and of equals the oldest first: who asked first is served first.
    pub(super) fn decide_vms(&mut self) {
        let mut gpus = self.plan.gpus.clone();
        gpus.retain(|key, _| !self.is_changing(key) && self.takes_vms(&key.host));
        let mut board = Board::new(self.spec, self.inventory, &gpus, &self.plan, &self.uses);
        board.intend(&self.displaced);
        let mut turn = None;
        for (name, spec) in waiting_order(&self.spec.vms) {
            if turn.replace(spec.availability.priority) != Some(spec.availability.priority) {
                board.reserve(spec.availability.priority);
            }
            self.decide_vm(name, spec, &mut board);
        }
        self.findings.extend(placement::broken(self.spec, board.places()));
        let (moves, findings) = board.failback(&self.plan);
        self.findings.extend(findings);
        self.go_back(&moves);
        self.plan.vms.retain(|name, _| self.spec.vms.contains_key(name));
    }

    fn decide_vm(&mut self, name: &VmName, spec: &VmSpec, board: &mut Board<'_>) {
        let Some(host) = self.home_of(name, spec, board) else { return };
        let observed = &self.inventory[&host];
        let is_new = self.plan.vms.get(name).is_none_or(|planned| planned.host != host);
        if observed.domains().is_none() || !self.is_up(&host) || !(is_new || self.is_in_step(&host)) {
            return;
        }
        let domain = observed.domain(name);
        let before =
            self.plan.vms.get(name).filter(|planned| planned.id == spec.id).and_then(|p| p.settled.clone());
        if let Some(refusal) = domain_obstacle(name, spec, domain) {
            self.findings.push(refusal);
            let planned = VmPlan { host, id: spec.id, goal: VmGoal::Leave, settled: before, tried: None };
            self.plan.vms.insert(name.clone(), planned);
            return;
        }
        let settled = self.settled(name, spec, domain, observed, before);
        let goal = self.goal((name, spec), domain, observed, settled.as_ref(), board);
        let tried =
            self.plan.vms.get(name).filter(|planned| planned.id == spec.id).and_then(|p| p.tried.clone());
        self.plan.vms.insert(name.clone(), VmPlan { host, id: spec.id, goal, settled, tried });
    }

    /// The last command that took effect, as far as plan and domain tell.
    fn settled(
        &self,
        name: &VmName,
        spec: &VmSpec,
        domain: Option<&Domain>,
        observed: &HostInventory,
        before: Option<Settled>,
    ) -> Option<Settled> {
        let active = domain.is_some_and(|domain| domain.state.is_active());
        let seen = |serial, running| {
            Some(Settled { serial, running, boot_id: observed.boot_id.clone(), rests: None })
        };
        match (spec.run.is_up(), active) {
            (true, true) if self.is_recalled(name, spec, before.as_ref()) => match before {
                Some(before) if before.running => Some(before),
                _ => seen(spec.serial - 1, true),
            },
            (true, true) => seen(spec.serial, true),
            (true, false) => match self.rest(name, spec, domain) {
                Some(reason) => before.map(|before| Settled { rests: Some(reason), ..before }),
                None => before.and_then(|before| seen(before.serial, false)),
            },
            (false, true) => before,
            (false, false) if self.may_be_starting(name) => before,
            (false, false) => seen(spec.serial, false),
        }
    }

    fn goal(
        &mut self,
        (name, spec): (&VmName, &VmSpec),
        domain: Option<&Domain>,
        observed: &HostInventory,
        settled: Option<&Settled>,
        board: &mut Board<'_>,
    ) -> VmGoal {
        let active = domain.is_some_and(|domain| domain.state.is_active());
        let was_off = settled.is_some_and(|settled| settled.serial == spec.serial && !settled.running);
        let before = self.plan.vms.get(name).map(|planned| planned.goal);
        if active
            && !was_off
            && spec.run != Run::Deleted
            && matches!(before, Some(VmGoal::Stop | VmGoal::Cycle))
        {
            self.findings.push(say::shutdown_slow(name));
        }
        match spec.run {
            Run::Deleted => VmGoal::Remove,
            Run::Stopped | Run::Killed if active && was_off => {
                self.findings.push(say::started_by_hand(name));
                VmGoal::Leave
            }
            Run::Stopped => VmGoal::Stop,
            Run::Killed => VmGoal::Kill,
            Run::Running | Run::Reset
                if active && let Some(goal) = self.goal_on_departure(name, &observed.host) =>
            {
                goal
            }
            run if active
                && (settled.is_some_and(|settled| settled.serial < spec.serial)
                    || self.may_be_ending(before)) =>
            {
                if run == Run::Reset {
                    VmGoal::Reset
                } else {
                    VmGoal::Cycle
                }
            }
            Run::Running | Run::Reset if active && self.shall_move(name, spec, &observed.host, board) => {
                VmGoal::Move
            }
            Run::Running | Run::Reset if active => {
                let has_gpu =
                    domain.is_some_and(|domain| domain.live_devices.iter().any(|device| device.ours));
                if spec.request.slots() > 0 && !has_gpu {
                    self.findings.push(say::vm_without_gpu(name));
                }
                VmGoal::Run
            }
            Run::Running | Run::Reset => match self.rest(name, spec, domain) {
                Some(reason) => {
                    self.findings.push(say::guest_rests(name, reason));
                    VmGoal::Stop
                }
                None if !self.may_try((name, spec), observed, board) => VmGoal::Stop,
                None if self.stays_with(name, &observed.host) => {
                    self.findings.push(say::vm_waits_for_reboot(name, &observed.host));
                    VmGoal::Stop
                }
                None if !self.takes_vms(&observed.host) => {
                    let refusal = board.choose((name, spec), Some(&observed.host)).err();
                    self.findings.extend(refusal.map(|refusal| *refusal));
                    VmGoal::Stop
                }
                None if self.book(name, spec, observed, board) => VmGoal::Run,
                None => VmGoal::Stop,
            },
        }
    }

    /// Why a VM that shall run rests all the same: somebody meant it, after it was seen running.
    ///
    /// A guest that shut down stays off in this boot of its host; with the next one it starts. One whose state was saved or
    /// moved may go on from there, and would then write to the disks that its second self has open.
    pub(super) fn rest(&self, name: &VmName, spec: &VmSpec, domain: Option<&Domain>) -> Option<OffReason> {
        let planned = self.plan.vms.get(name).filter(|planned| planned.id == spec.id)?;
        let settled =
            planned.settled.as_ref().filter(|settled| settled.running && settled.serial == spec.serial)?;
        // What its host was told to shut down did not do so by itself.
        if settled.rests.is_none() && !matches!(planned.goal, VmGoal::Run | VmGoal::Leave) {
            return None;
        }
        let DomainState::Off { reason } = domain?.state else { return None };
        let reason = if reason == OffReason::Unknown { settled.rests? } else { reason };
        let same_boot = self.inventory.get(&planned.host).is_some_and(|seen| seen.boot_id == settled.boot_id);
        match reason {
            OffReason::Saved | OffReason::Migrated => Some(reason),
            OffReason::Shutdown | OffReason::Destroyed => same_boot.then_some(reason),
            OffReason::Crashed | OffReason::Unknown => None,
        }
    }

    /// Deleted VMs of which neither domain nor booking nor device is left.
    pub(super) fn gone(&self) -> Vec<VmName> {
        let is_gone = |name: &VmName, spec: &VmSpec| {
            let Some(planned) = self.plan.vms.get(name) else { return false };
            if !self.is_in_step(&planned.host) || self.may_be_starting(name) {
                return false;
            }
            let Some(domains) = self.inventory.get(&planned.host).and_then(HostInventory::domains) else {
                return false;
            };
            let nothing_left = match (domains.get(name.as_str()), &spec.source) {
                (None, _) => true,
                (Some(domain), _) if domain.uuid != spec.id.0 => true,
                (Some(_), VmSource::Made(_)) => false,
                (Some(domain), VmSource::Adopted) => !domain.defined_devices.iter().any(|device| device.ours),
            };
            nothing_left && self.held_by(name).is_empty()
        };
        let deleted = self.spec.vms.iter().filter(|(_, spec)| spec.run == Run::Deleted);
        deleted.filter(|(name, spec)| is_gone(name, spec)).map(|(name, _)| name.clone()).collect()
    }
}

/// Why a VM's domain must not be touched.
fn domain_obstacle(name: &VmName, spec: &VmSpec, domain: Option<&Domain>) -> Option<Finding> {
    match domain {
        Some(domain) if domain.uuid != spec.id.0 => Some(say::domain_identity(name)),
        _ if spec.run == Run::Deleted => None,
        Some(domain) if !domain.persistent && !domain.state.is_active() => Some(say::domain_transient(name)),
        Some(domain)
            if spec.request != Request::None && domain.defined_devices.iter().any(|device| !device.ours) =>
        {
            Some(say::foreign_device(name))
        }
        None if matches!(spec.source, VmSource::Adopted) && spec.run != Run::Deleted => {
            Some(say::domain_missing(name))
        }
        _ => None,
    }
}
