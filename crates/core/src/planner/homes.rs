//! Homes: on which host a VM is, or is to be.
//!
//! A VM that runs stays where it is. One that is off and holds nothing is at home wherever there is room when it is to
//! start; it leaves a host only once that host has reported that it is off and will not start it, or is no member any more.

use super::Planner;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::HostInventory;
use crate::name::{HostName, VmName};
use crate::placement::{Board, Move};
use crate::plan::VmGoal;
use crate::shared::Shared;
use crate::spec::{Duty, Relocation, VmSource, VmSpec};

impl Planner<'_> {
    /// The host of a VM: where it is, else where there is room, else where it could be some day.
    pub(super) fn home_of(&mut self, name: &VmName, spec: &VmSpec, board: &Board<'_>) -> Option<HostName> {
        let holding = self.held_by(name).first().map(|slot| &slot.gpu.host);
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
            .or_else(|| self.elsewhere(name, spec, board).and_then(Result::ok))
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

    /// Whether a VM that runs is to go on elsewhere: its host is to be emptied, and another one has room.
    pub(super) fn shall_move(
        &mut self,
        name: &VmName,
        spec: &VmSpec,
        host: &HostName,
        board: &mut Board<'_>,
    ) -> bool {
        // Its guest was asked to shut down: whether the host is still to be emptied or not, it goes off, and not by itself.
        if self.plan.vms.get(name).is_some_and(|planned| planned.goal == VmGoal::Move) {
            return true;
        }
        let drained = self.spec.hosts.get(host).is_some_and(|wish| wish.duty == Duty::Maintenance);
        if !drained {
            return false;
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
        has_room
    }

    /// The command to run a VM on another host that has not been carried out yet. One that fell over on its way, as often as it
    /// may, goes wherever it can.
    pub(super) fn relocation<'s>(&self, name: &VmName, spec: &'s VmSpec) -> Option<&'s Relocation> {
        let planned = self.plan.vms.get(name);
        let settled = planned.and_then(|planned| planned.settled.as_ref());
        let has_fallen = planned.is_some_and(|planned| planned.tried.is_some());
        let is_over = has_fallen || settled.is_some_and(|settled| settled.serial >= spec.serial);
        spec.relocation.as_ref().filter(|known| known.serial == spec.serial && spec.run.is_up() && !is_over)
    }

    /// The host to which a VM goes by such a command, or why there is none now.
    fn elsewhere(
        &self,
        name: &VmName,
        spec: &VmSpec,
        board: &Board<'_>,
    ) -> Option<Result<HostName, Box<Finding>>> {
        let Relocation { from, to, .. } = self.relocation(name, spec)?;
        let at = |host: &HostName| board.choose((name, spec), Some(host)).map(|place| place.host);
        if let Some(to) = to {
            return Some(at(to));
        }
        let best = board.choose((name, spec), None).map(|place| place.host);
        if best.as_ref().is_ok_and(|host| host != from) {
            return Some(best);
        }
        let mut others = self.inventory.keys().filter(|host| *host != from);
        Some(others.find_map(|host| at(host).ok()).ok_or_else(|| Box::new(say::migrate_blocked(name, from))))
    }

    /// Whether a VM that runs, and was told to run elsewhere, is shut down for that now.
    pub(super) fn shall_relocate(&mut self, name: &VmName, spec: &VmSpec, board: &mut Board<'_>) -> bool {
        let planned = self.plan.vms.get(name);
        if planned.is_some_and(|planned| planned.goal == VmGoal::Move) {
            return true;
        }
        let Some(found) = self.elsewhere(name, spec, board) else { return false };
        // What is taken is not offered to the next one that asks in this pass.
        let taken = found.and_then(|host| board.take((name, spec), Some(&host)));
        if let (Err(why), Some(known)) = (&taken, &spec.relocation) {
            self.findings.push(say::migrate_waits(name, &known.from, why));
        }
        taken.is_ok()
    }

    /// Lets a VM go back to the host that a rule prefers: one after the other, because each is shut down for it.
    pub(super) fn go_back(&mut self, moves: &[Move]) {
        // Who is on the way is not at rest.
        let mut planned = self.scope.vms().filter_map(|name| self.plan.vms.get(name));
        let on_the_way = planned.any(|planned| planned.goal == VmGoal::Move);
        if on_the_way || self.spec.policy.failover.paused {
            return;
        }
        let runs = |name: &VmName, host: &HostName| {
            let domain = self.inventory.get(host).and_then(|observed| observed.domain(name));
            self.is_in_step(host) && domain.is_some_and(|domain| domain.state.is_active())
        };
        let first = moves.iter().find(|back| runs(&back.vm, &back.from));
        if let Some(planned) = first.and_then(|back| self.plan.vms.get_mut(&back.vm)) {
            planned.goal = VmGoal::Move;
        }
    }
}
