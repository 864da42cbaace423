//! Homes: on which host a VM is, or is to be.
//!
//! A VM that runs stays where it is. One that is off and holds nothing is at home wherever there is room when it is to
//! start; it leaves a host only once that host has reported that it is off and will not start it, or is no member any more.

use super::{GUEST_SHUTDOWN_MS_MAX, Planner};
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::HostInventory;
use crate::journey::Migration;
use crate::name::{HostName, VmName};
use crate::placement::{Board, Move};
use crate::plan::{Leaving, Settled, VmGoal};
use crate::shared::Shared;
use crate::spec::{Duty, Relocation, VmSource, VmSpec};

impl Planner<'_> {
    /// The host of a VM: where it is, else where there is room, else where it could be some day.
    pub(super) fn home_of(&mut self, name: &VmName, spec: &VmSpec, board: &Board<'_>) -> Option<HostName> {
        // One that has lost its host does not wait for another one on which only something of it is left.
        let is_lost = !self.plan.vms.contains_key(name);
        let holding = self.held_by(name).first().map(|slot| &slot.gpu.host);
        let holding = holding.filter(|host| !is_lost || self.is_up(host));
        let planned = self.plan.vms.get(name).map(|planned| &planned.host);
        let planned = planned.filter(|host| !self.may_leave(name, spec, host));
        let known = holding.or(planned).cloned();
        let defined = || {
            let is_there = |(host, observed): &(&HostName, &Shared<HostInventory>)| {
                self.is_up(host) && observed.domain(name).is_some_and(|domain| domain.uuid == spec.id.0)
            };
            let movable = self.is_cluster() && matches!(spec.source, VmSource::Made(_));
            let mut hosts = self.inventory.iter().filter(|_| !movable);
            hosts.find(is_there).map(|(host, _)| host.clone())
        };
        let home = known
            .or_else(defined)
            .or_else(|| self.last_home(name, spec, board))
            .or_else(|| self.relocated(name, spec, board))
            .or_else(|| board.choose((name, spec), None).ok().map(|place| place.host))
            .or_else(|| self.stand_by(name))?;
        if !self.inventory.contains_key(&home) {
            self.findings.push(say::host_silent(&home));
            return None;
        }
        Some(home)
    }

    /// Where a VM without a GPU was, if nothing speaks against it: what has a GPU goes back to the one that it holds.
    fn last_home(&self, name: &VmName, spec: &VmSpec, board: &Board<'_>) -> Option<HostName> {
        let before = self.plan.vms.get(name).filter(|planned| planned.id == spec.id)?;
        let bound = spec.request.slots() == 0 && before.goal != VmGoal::Move && board.is_free(name);
        let place = bound.then(|| board.choose((name, spec), Some(&before.host)).ok())?;
        place.map(|place| place.host)
    }

    /// Where a VM waits for room: where it waits already, else the first host that is there.
    fn stand_by(&self, name: &VmName) -> Option<HostName> {
        let before = self.plan.vms.get(name).map(|planned| &planned.host);
        let known = |host: &&HostName| self.inventory.contains_key(*host) && self.is_up(host);
        before.filter(known).or_else(|| self.inventory.keys().find(|host| self.is_up(host))).cloned()
    }

    /// Whether a VM that waits for room is bound to its host by nothing, so that any other serves it as well.
    fn may_leave(&self, name: &VmName, spec: &VmSpec, host: &HostName) -> bool {
        if !spec.run.is_up() || !matches!(spec.source, VmSource::Made(_)) {
            return false;
        }
        if self.is_given_up(name) || self.stays_with(name, host) {
            return false;
        }
        let Some(domains) = self.inventory.get(host).and_then(|seen| seen.domains()) else { return false };
        let domain = domains.get(name.as_str());
        if !self.is_cluster() {
            return domain.is_none() && spec.request.slots() > 0;
        }
        let is_off = domain.is_none_or(|domain| !domain.state.is_active());
        let rests = self.rest(name, spec, domain).is_some();
        is_off && !rests && self.is_in_step(host) && !self.may_be_starting(name)
    }

    /// What a VM that runs shall do on a host that is to be emptied: go on elsewhere, if another one has room. None if it may stay.
    pub(super) fn goal_of_drain(
        &mut self,
        (name, spec): (&VmName, &VmSpec),
        observed: &HostInventory,
        board: &mut Board<'_>,
    ) -> Option<VmGoal> {
        let host = &observed.host;
        // Its guest was asked to shut down: whether the host is still to be emptied or not, it goes off, and not by itself.
        if self.is_moving(name) {
            return Some(VmGoal::Move);
        }
        let drained = self.spec.hosts.get(host).is_some_and(|wish| wish.duty == Duty::Maintenance);
        if !drained {
            return None;
        }
        if let Some(goal) = self.set_out((name, spec), observed, None, board) {
            return Some(goal);
        }
        let movable = matches!(spec.source, VmSource::Made(_));
        // What is taken is not offered to the next one that asks in this pass.
        let has_room = movable && board.take((name, spec), None).is_ok();
        if !has_room {
            self.findings.push(match self.bound_by(name) {
                Some(pool) => say::drain_blocked_by_storage(name, host, pool),
                None => say::drain_blocked(name, host),
            });
        }
        has_room.then_some(VmGoal::Move)
    }

    /// The command to run a VM on another host that has not been carried out yet; `settled` is what is known of the VM's last
    /// command. One whose host died, or that fell over on its way as often as it may, goes wherever it can.
    fn relocation<'s>(
        &self,
        name: &VmName,
        spec: &'s VmSpec,
        settled: Option<&Settled>,
    ) -> Option<&'s Relocation> {
        let has_fallen = self.plan.vms.get(name).is_some_and(|planned| planned.tried.is_some());
        let is_over = has_fallen || settled.is_none_or(|settled| settled.serial >= spec.serial);
        spec.relocation.as_ref().filter(|known| known.serial == spec.serial && spec.run.is_up() && !is_over)
    }

    /// The host to which a VM that is off goes by such a command, if it can.
    fn relocated(&self, name: &VmName, spec: &VmSpec, board: &Board<'_>) -> Option<HostName> {
        let planned = self.plan.vms.get(name).filter(|planned| planned.id == spec.id)?;
        let relocation = self.relocation(name, spec, planned.settled.as_ref())?;
        elsewhere(name, spec, relocation, board).ok()
    }

    /// What a VM that runs where it was told to leave shall do now; none if it was told nothing of the kind, or something else
    /// that was decided is to be seen through first.
    pub(super) fn goal_of_relocation(
        &mut self,
        (name, spec): (&VmName, &VmSpec),
        observed: &HostInventory,
        settled: Option<&Settled>,
        board: &mut Board<'_>,
    ) -> Option<VmGoal> {
        let host = &observed.host;
        let relocation = self.relocation(name, spec, settled).filter(|known| known.is_due_on(host))?;
        if let Some(goal) = self.set_out((name, spec), observed, relocation.to.as_ref(), board) {
            return Some(goal);
        }
        // What is taken is not offered to the next one that asks in this pass.
        let taken =
            elsewhere(name, spec, relocation, board).and_then(|to| board.take((name, spec), Some(&to)));
        // Its guest was asked to shut down: it goes off, whether there is still room or not.
        if taken.is_ok() || self.is_moving(name) {
            return Some(VmGoal::Move);
        }
        let before = self.plan.vms.get(name).map(|planned| planned.goal);
        let leaves_gpu = self.held_by(name).iter().any(|slot| self.is_changing(&slot.gpu));
        if leaves_gpu || self.may_be_ending(before) {
            return None;
        }
        if let Some(goal) = self.goal_of_drain((name, spec), observed, board) {
            return Some(goal);
        }
        self.findings.extend(taken.err().map(|why| say::migrate_waits(name, host, &why)));
        Some(VmGoal::Run)
    }

    /// How the guest of a VM that leaves its host is asked to shut down. Where it has to leave, it is turned off in the end; a rule that
    /// would only like it elsewhere waits.
    pub(super) fn leaving(
        &self,
        (name, spec): (&VmName, &VmSpec),
        host: &HostName,
        settled: Option<&Settled>,
        before: Option<Leaving>,
    ) -> Leaving {
        let known = before.unwrap_or(Leaving { since: self.now, forced: false });
        let is_drained = || self.spec.hosts.get(host).is_some_and(|wish| wish.duty == Duty::Maintenance);
        let is_told = || self.relocation(name, spec, settled).is_some_and(|told| told.is_due_on(host));
        let has_to = || is_drained() || is_told() || self.departing(host).is_some();
        let is_late = self.now.ms_since(known.since) >= GUEST_SHUTDOWN_MS_MAX;
        Leaving { forced: known.forced || is_late && has_to(), ..known }
    }

    /// Whether a VM was asked to leave its host.
    pub(super) fn is_moving(&self, name: &VmName) -> bool {
        self.plan.vms.get(name).is_some_and(|planned| planned.goal == VmGoal::Move)
    }

    /// Whether a VM that left still holds something on its host: it starts nowhere before that is read back as free.
    pub(super) fn is_letting_go(&self, name: &VmName, spec: &VmSpec, board: &mut Board<'_>) -> bool {
        if !self.is_moving(name) || self.held_by(name).is_empty() {
            return false;
        }
        // Its place stays its own meanwhile.
        if let Some(to) = self.relocated(name, spec, board) {
            let _ = board.take((name, spec), Some(&to));
        }
        true
    }

    /// Lets a VM go back to the host that a rule prefers: one after the other, because most are shut down for it.
    pub(super) fn go_back(&mut self, moves: &[Move]) {
        // Who is on the way is not at rest.
        let mut planned = self.scope.vms().filter_map(|name| self.plan.vms.get(name));
        let on_the_way =
            planned.any(|planned| planned.goal == VmGoal::Move || planned.open_journey().is_some());
        if on_the_way || self.spec.policy.failover.paused {
            return;
        }
        let runs = |name: &VmName, host: &HostName| {
            let domain = self.inventory.get(host).and_then(|observed| observed.domain(name));
            self.is_in_step(host) && domain.is_some_and(|domain| domain.state.is_active())
        };
        let rests = |name: &VmName| {
            self.spec.vms.get(name).is_some_and(|spec| self.rests_from_travelling(name, spec))
        };
        let goes = |back: &&Move| runs(&back.vm, &back.from) && !rests(&back.vm);
        let Some(back) = moves.iter().find(goes) else { return };
        let (Some(spec), Some(from)) = (self.spec.vms.get(&back.vm), self.inventory.get(&back.from)) else {
            return;
        };
        let is_only = spec.availability.migration == Migration::LiveOnly;
        let has_failed = !is_only && self.missed_by(&back.vm, spec).is_some();
        if !has_failed && self.may_travel((&back.vm, spec), from, &back.to) {
            self.begin_journey((&back.vm, spec), &back.from, &back.to);
        } else if !is_only && let Some(planned) = self.plan.vms.get_mut(&back.vm) {
            planned.goal = VmGoal::Move;
        }
    }
}

/// Where a VM goes that was told to leave its host.
fn elsewhere(
    name: &VmName,
    spec: &VmSpec,
    Relocation { from, to, .. }: &Relocation,
    board: &Board<'_>,
) -> Result<HostName, Box<Finding>> {
    let place = match to {
        Some(to) => board.choose((name, spec), Some(to)),
        None => board.choose_elsewhere((name, spec), from),
    };
    place.map(|place| place.host)
}
