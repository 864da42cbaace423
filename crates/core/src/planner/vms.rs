//! VMs: what each shall do, by what was asked for and what is seen.

use super::Planner;
use crate::change::State;
use crate::diagnostics as say;
use crate::finding::{Finding, Subject};
use crate::inventory::{Domain, DomainState, HostInventory, OffReason};
use crate::name::{GpuKey, HostName, VmName};
use crate::placement::{self, Board, Ground, waiting_order};
use crate::plan::{Booking, Plan, Settled, VmGoal, VmPlan};
use crate::rest::rests;
use crate::spec::{Duty, Request, Run, VmSource, VmSpec};
use crate::steps::is_copy;

impl Planner<'_> {
    /// By priority, and of equals the oldest first: who asked first is served first.
    ///
    /// Returns the ground as it is then, and what there is to say of rules.
    pub(super) fn decide_vms(&mut self, ground: Option<Ground>) -> (Ground, Vec<Finding>) {
        let ground = self.read_ground(ground.unwrap_or_else(|| Ground::new(self.spec.policy.placement)));
        let scope = self.scope;
        let mut board = Board::over(ground, (self.spec, self.inventory), &self.plan, scope.vms());
        for (name, home) in &self.displaced {
            if let Some(home) = home {
                board.settle(name, home);
            }
        }
        board.intend(self.displaced.keys());
        let mut turn = None;
        let wished = scope.vms().filter_map(|name| self.spec.vms.get_key_value(name));
        let wished: Vec<_> = wished.filter(|(name, _)| !self.buried.contains(*name)).collect();
        for (name, spec) in waiting_order(wished) {
            if turn.replace(spec.availability.priority) != Some(spec.availability.priority) {
                board.reserve(spec.availability.priority);
            }
            self.decide_vm(name, spec, &mut board);
        }
        let mut about_rules = placement::broken(self.spec, board.places());
        let (moves, findings) = board.failback(&self.plan);
        about_rules.extend(findings);
        self.go_back(&moves);
        for name in scope.vms().filter(|name| !self.spec.vms.contains_key(*name)) {
            let planned = self.plan.vms.get(name);
            if planned.is_some_and(|planned| planned.journey.is_some() || self.has_to_end(name, planned)) {
                continue;
            }
            self.plan.vms.remove(name);
        }
        (board.into_ground(), about_rules)
    }

    /// Reads those hosts anew that this pass decides about.
    fn read_ground(&self, mut ground: Ground) -> Ground {
        let state = State { spec: self.spec, plan: &self.plan, inventory: self.inventory };
        let gives = |gpu: &GpuKey| !self.is_changing(gpu) && self.takes_vms(&gpu.host);
        self.scope.read(&mut ground, state, &self.uses, gives);
        ground
    }

    /// Whether nothing comes of deciding about a host again, until there is news of it. `before` is the plan that this pass
    /// began with, and VMs of which something was said are never at rest.
    pub(super) fn may_rest(
        &self,
        host: &HostName,
        before: &Plan,
        is_said_of: impl Fn(&VmName) -> bool,
    ) -> bool {
        let Some(observed) = self.inventory.get(host) else { return false };
        let serves = self.spec.hosts.get(host).is_none_or(|wish| wish.duty == Duty::Serving);
        let nothing_decided = before.generations.get(host) == self.plan.generations.get(host)
            && before.hosts.get(host) == self.plan.hosts.get(host);
        let is_of_host = |note: &Finding| match (&note.subject, note.subject.gpu()) {
            (Subject::Host(of), _) => of == host,
            (_, Some(gpu)) => gpu.host == *host,
            _ => false,
        };
        let is_its_holders = |booking: &Booking| {
            let planned = self.plan.vms.get(&booking.vm);
            planned.is_some_and(|planned| planned.host == *host && planned.id == booking.vm_id)
        };
        serves
            && nothing_decided
            && self.is_up(host)
            && self.departing(host).is_none()
            && observed.notes.iter().all(is_of_host)
            && self.plan.bookings_of(host).all(|(_, booking)| is_its_holders(booking))
            && self.scope.residents(host).iter().all(|vm| !is_said_of(vm) && self.is_at_rest(vm, observed))
    }

    /// Whether a VM runs, or is off, as it shall, by what is known of its host alone; or is to be started there, and the host has still
    /// to say that it knows.
    fn is_at_rest(&self, name: &VmName, observed: &HostInventory) -> bool {
        let (Some(planned), Some(spec)) = (self.plan.vms.get(name), self.spec.vms.get(name)) else {
            return false;
        };
        let active = observed.domain(name).is_some_and(|domain| domain.state.is_active());
        let as_it_shall = match (planned.goal, spec.run) {
            (VmGoal::Run, Run::Running | Run::Reset) => active || !self.is_in_step(&observed.host),
            (VmGoal::Stop | VmGoal::Kill, Run::Stopped | Run::Killed) => !active,
            _ => false,
        };
        as_it_shall
            && planned.journey.is_none()
            && planned.parting.is_none()
            && spec.handover.is_none()
            && planned.id == spec.id
            && planned.host == observed.host
            && planned.tried.is_none()
    }

    fn decide_vm(&mut self, name: &VmName, spec: &VmSpec, board: &mut Board<'_>) {
        if self.is_travelling(name) {
            self.report_journey(name);
            return;
        }
        if let Some(incoming) = spec.incoming() {
            self.await_vm((name, spec), incoming, board);
            return;
        }
        if self.parts(name, spec) {
            return;
        }
        let Some(host) = self.home_of(name, spec, board) else { return };
        self.sort_bookings(name, &host);
        let observed = &self.inventory[&host];
        let is_new = self.plan.vms.get(name).is_none_or(|planned| planned.host != host);
        if observed.domains().is_none() || !self.is_up(&host) || !(is_new || self.is_in_step(&host)) {
            return;
        }
        let domain = observed.domain(name);
        let before = self.plan.vms.get(name).filter(|planned| planned.id == spec.id);
        let ran_on = before
            .map_or_else(|| self.displaced.get(name).cloned().flatten(), |before| before.ran_on.clone());
        let before = before.and_then(|before| before.settled.clone());
        if let Some(refusal) = domain_obstacle(name, spec, domain) {
            self.findings.push(refusal);
            let planned = VmPlan { settled: before, ran_on, ..VmPlan::new(host, spec.id, VmGoal::Leave) };
            self.plan.vms.insert(name.clone(), planned);
            return;
        }
        let runs = domain.is_some_and(|domain| domain.state.is_whole());
        let ran_on = if runs { Some(host.clone()) } else { ran_on };
        let settled = self.settled(name, spec, domain, observed, before);
        let goal = self.goal((name, spec), domain, observed, settled.as_ref(), board);
        let before = self.plan.vms.remove(name).filter(|planned| planned.id == spec.id);
        let before = before.unwrap_or_else(|| VmPlan::new(host.clone(), spec.id, goal));
        let missed = before.missed.filter(|missed| missed.serial == spec.serial);
        let leaves = goal == VmGoal::Move && runs;
        let leaving = leaves.then(|| self.leaving((name, spec), &host, settled.as_ref(), before.leaving));
        let journey = self.left_behind(name, &host, before.journey);
        let planned = VmPlan {
            settled,
            tried: before.tried,
            ran_on,
            journey,
            leaving,
            missed,
            parting: before.parting.filter(|parting| parting.is_remembered(spec)),
            ..VmPlan::new(host, spec.id, goal)
        };
        self.plan.vms.insert(name.clone(), planned);
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
        // What arrives, or has arrived and was not let go on, does not run yet, and may never do so.
        let arrives = domain.is_some_and(|domain| domain.state == DomainState::Arriving);
        if arrives || is_copy(name, domain, before.as_ref(), self.spec) {
            return before;
        }
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
            && matches!(before, Some(VmGoal::Stop | VmGoal::Cycle | VmGoal::Move))
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
                if active && let Some(goal) = self.goal_on_departure((name, spec), observed, board) =>
            {
                goal
            }
            Run::Running | Run::Reset
                if active
                    && let Some(goal) = self.goal_of_relocation((name, spec), observed, settled, board) =>
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
            Run::Running | Run::Reset
                if active && let Some(goal) = self.goal_of_drain((name, spec), observed, board) =>
            {
                goal
            }
            Run::Running | Run::Reset if active => {
                let has_gpu =
                    domain.is_some_and(|domain| domain.live_devices.iter().any(|device| device.ours));
                if spec.request.slots() > 0 && !has_gpu {
                    self.findings.push(say::vm_without_gpu(name));
                }
                if domain.is_some_and(|domain| domain.state == DomainState::Paused) {
                    self.findings.push(say::vm_paused(name, &observed.host));
                }
                VmGoal::Run
            }
            Run::Running | Run::Reset => match self.rest(name, spec, domain) {
                Some(reason) => {
                    self.findings.push(say::guest_rests(name, reason));
                    VmGoal::Stop
                }
                None if self.is_letting_go(name, spec, board) => VmGoal::Move,
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

    /// Why a VM that shall run rests all the same, if it does.
    pub(super) fn rest(&self, name: &VmName, spec: &VmSpec, domain: Option<&Domain>) -> Option<OffReason> {
        let planned = self.plan.vms.get(name)?;
        let boot_id = self.inventory.get(&planned.host).map(|seen| seen.boot_id.as_str());
        rests(planned, spec, domain, boot_id)
    }

    /// Deleted VMs, and those that another store has by now, of which neither domain nor booking nor device is left; and deleted
    /// ones whose host is down. `before` is the plan that
    /// this pass began with: a host that was told by it to start a VM may be about to.
    pub(super) fn gone(&self, before: &Plan) -> Vec<VmName> {
        let may_be_starting = |name: &VmName, host: &HostName| {
            let told = |was: &VmPlan| was.host == *host && was.goal.starts();
            self.is_cluster() && before.vms.get(name).is_some_and(told)
        };
        let is_gone = |name: &VmName, spec: &VmSpec| {
            if self.buried.contains(name) {
                return true;
            }
            let Some(planned) = self.plan.vms.get(name) else { return false };
            let may_be_starting = may_be_starting(name, &planned.host);
            if !self.is_in_step(&planned.host) || may_be_starting || planned.journey.is_some() {
                return false;
            }
            let Some(seen) = self.inventory.get(&planned.host) else { return false };
            let Some(domains) = seen.domains().filter(|_| !seen.progress.expects.contains(name)) else {
                return false;
            };
            let nothing_left = match (domains.get(name.as_str()), &spec.source) {
                (None, _) => true,
                (Some(domain), _) if domain.uuid != spec.id.0 => true,
                (Some(_), VmSource::Made(_)) => false,
                (Some(domain), VmSource::Adopted) => !domain.defined_devices.iter().any(|device| device.ours),
            };
            nothing_left
                && self.held_by(name).is_empty()
                && !self.is_left_elsewhere(name, spec, &planned.host)
        };
        let wished = self.scope.vms().filter_map(|name| self.spec.vms.get_key_value(name));
        let is_over = |name: &VmName, spec: &VmSpec| spec.run == Run::Deleted || self.is_handed_over(name);
        let deleted = wished.filter(|(name, spec)| is_over(name, spec));
        deleted.filter(|(name, spec)| is_gone(name, spec)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether a VM that Tranche made is still defined where it was before, or expected where it did not come. Once it is forgotten,
    /// nobody would remove that any more. A host that is silent is not waited for.
    fn is_left_elsewhere(&self, name: &VmName, spec: &VmSpec, home: &HostName) -> bool {
        let knows = |seen: &HostInventory| {
            let domain = seen.domain(name).is_some_and(|domain| domain.uuid == spec.id.0);
            domain || seen.progress.expects.contains(name)
        };
        let is_made = matches!(spec.source, VmSource::Made(_));
        let mut others =
            self.inventory.iter().filter(|(host, _)| is_made && *host != home && self.is_up(host));
        others.any(|(_, seen)| knows(seen))
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
