//! Bookings: how long a VM keeps what it holds, and when it gets something.
//!
//! A GPU that is to change its mode takes nobody, and VMs that are off give up what they hold of it. So a change waits for
//! running VMs alone, and what a change that failed had booked stands in nobody's way back.

use super::Planner;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::{Domain, HealthState, HostInventory};
use crate::name::{GpuKey, HostName, Slot, SlotKey, VmName};
use crate::placement::{self, Board};
use crate::plan::{Booking, Settled, VmGoal};
use crate::reload;
use crate::spec::{Request, Run, VmSpec};

impl Planner<'_> {
    /// Bookings end first, so that what they held is free in the same pass.
    pub(super) fn release_bookings(&mut self) {
        self.index_bookings();
        let mut releasable = Vec::new();
        for (slot, booking) in self.scope.hosts.iter().flat_map(|host| self.plan.bookings_of(host)) {
            if self.may_release(slot, booking) {
                releasable.push(slot.clone());
            }
        }
        for slot in &releasable {
            self.plan.bookings.remove(slot);
        }
        if !releasable.is_empty() {
            self.index_bookings();
        }
    }

    fn index_bookings(&mut self) {
        self.held.clear();
        self.strays.clear();
        for (slot, booking) in self.scope.hosts.iter().flat_map(|host| self.plan.bookings_of(host)) {
            if self.is_elsewhere(slot, booking) {
                self.strays.insert(booking.vm.clone(), slot.gpu.host.clone());
            } else {
                self.held.entry(booking.vm.clone()).or_default().push(slot.clone());
            }
        }
    }

    pub(super) fn held_by(&self, vm: &VmName) -> &[SlotKey] {
        self.held.get(vm).map_or(&[], Vec::as_slice)
    }

    /// Tells what a VM holds where it is to be at home from what it still has elsewhere. It may have left this host, or not got to it,
    /// and come back before that was cleared; and it may have lost its host before another one was.
    pub(super) fn sort_bookings(&mut self, vm: &VmName, home: &HostName) {
        let is_elsewhere = self.held_by(vm).iter().any(|slot| slot.gpu.host != *home);
        if !is_elsewhere && self.strays.get(vm) != Some(home) {
            return;
        }
        let all = self.plan.held_by(vm).map(|(slot, _)| slot.clone());
        let (here, elsewhere): (Vec<SlotKey>, Vec<SlotKey>) = all.partition(|slot| slot.gpu.host == *home);
        self.held.insert(vm.clone(), here);
        match elsewhere.into_iter().next() {
            Some(slot) => drop(self.strays.insert(vm.clone(), slot.gpu.host)),
            None => drop(self.strays.remove(vm)),
        }
    }

    /// Whether a booking is on another host than its VM's: on the one that it goes to, or has left.
    fn is_elsewhere(&self, slot: &SlotKey, booking: &Booking) -> bool {
        let planned = self.plan.vms.get(&booking.vm).filter(|planned| planned.id == booking.vm_id);
        planned.is_some_and(|planned| planned.host != slot.gpu.host)
    }

    /// A booking ends when its VM has no more use for it *and* the hardware is read back as free.
    fn may_release(&self, slot: &SlotKey, booking: &Booking) -> bool {
        let Some(observed) = self.inventory.get(&slot.gpu.host) else { return false };
        let Some(domains) = observed.domains() else { return false };
        let elsewhere = self.is_elsewhere(slot, booking);
        if !self.is_in_step(&slot.gpu.host) || (!elsewhere && self.may_be_starting(&booking.vm)) {
            return false;
        }
        if self.is_wanted(slot, booking, domains.get(booking.vm.as_str())) {
            return false;
        }
        let Some(gpu) = observed.gpus.get(&slot.gpu.address) else {
            return observed.unseen_because_of(&slot.gpu.address).is_none();
        };
        self.uses.get(&slot.gpu.host).is_some_and(|uses| !uses.is_used(slot.slot, gpu))
    }

    fn is_wanted(&self, slot: &SlotKey, booking: &Booking, domain: Option<&Domain>) -> bool {
        let Some(spec) = self.spec.vms.get(&booking.vm).filter(|spec| spec.id == booking.vm_id) else {
            return false;
        };
        let rests = domain.is_none_or(|domain| !domain.state.is_active());
        if !rests || self.is_travelling(&booking.vm) {
            return true;
        }
        if self.is_elsewhere(slot, booking) || self.has_left(&booking.vm) {
            return false;
        }
        if self.plan.vms.get(&booking.vm).is_some_and(|planned| planned.open_parting().is_some()) {
            return true;
        }
        let observed = self.inventory.get(&slot.gpu.host);
        // A VM that rests does not go back to what failed under it, unless that is reserved for it.
        let serves = |slot: &SlotKey| {
            let failed = observed.is_none_or(|observed| self.has_failed(slot, observed));
            (spec.reserved || !failed) && self.still_fits(slot, spec)
        };
        if spec.run.is_up() && self.stays_with(&booking.vm, &slot.gpu.host) {
            return true;
        }
        let moves = self.plan.vms.get(&booking.vm).is_some_and(|planned| planned.goal == VmGoal::Move);
        if spec.run.is_up() && (moves || !self.takes_vms(&slot.gpu.host)) {
            return false;
        }
        if spec.run.is_up() && self.has_done_with(&booking.vm, spec, &slot.gpu.host) {
            return spec.reserved && self.is_given_up(&booking.vm);
        }
        // It needs all that it holds: if one does not serve, it lets go of the others, too.
        let held = self.held_by(&booking.vm);
        if held.len() != spec.request.slots() || !held.iter().all(serves) {
            return false;
        }
        match spec.run {
            Run::Running | Run::Reset => spec.reserved || self.rest(&booking.vm, spec, domain).is_none(),
            Run::Stopped | Run::Killed => spec.reserved,
            Run::Deleted => false,
        }
    }

    /// Whether a GPU failed or is gone, or a partition of it did.
    fn has_failed(&self, slot: &SlotKey, observed: &HostInventory) -> bool {
        let Some(gpu) = observed.gpus.get(&slot.gpu.address) else {
            return observed.unseen_because_of(&slot.gpu.address).is_none();
        };
        let planned = self.plan.gpus.get(&slot.gpu);
        gpu.health.state != HealthState::Good
            || planned.is_some_and(|planned| placement::is_lost(slot.slot, planned, gpu))
    }

    /// Whether a GPU is to change its mode and has not done so yet.
    pub(super) fn is_changing(&self, gpu: &GpuKey) -> bool {
        let wish = self.spec.gpus.get(gpu);
        wish.is_some_and(|wish| {
            wish.mode != *self.plan.mode(gpu) || reload::is_asked(wish, self.plan.gpus.get(gpu))
        })
    }

    /// Whether all that keeps GPUs from changing their mode are VMs that are off, or on their way there.
    pub(super) fn is_being_left(&self, gpus: impl IntoIterator<Item = GpuKey>) -> bool {
        let gpus: Vec<GpuKey> = gpus.into_iter().collect();
        let held = gpus.iter().flat_map(|gpu| self.plan.bookings_on(gpu));
        let mut holders = held.map(|(_, booking)| booking).peekable();
        holders.peek().is_some() && holders.all(|booking| self.is_leaving(booking))
    }

    fn is_leaving(&self, booking: &Booking) -> bool {
        let Some(spec) = self.spec.vms.get(&booking.vm).filter(|spec| spec.id == booking.vm_id) else {
            return true;
        };
        let planned = self.plan.vms.get(&booking.vm);
        let host = planned.and_then(|planned| self.inventory.get(&planned.host));
        let domain = host.and_then(|observed| observed.domain(&booking.vm));
        let active = domain.is_some_and(|domain| domain.state.is_active());
        let settled = self.plan.vms.get(&booking.vm).and_then(|planned| planned.settled.as_ref());
        !active || !spec.run.is_up() || self.is_recalled(&booking.vm, spec, settled)
    }

    /// Whether a VM that runs, and shall run, does so as of a command before the last one.
    ///
    /// That is known of a VM that was seen running. It also holds for one whose start was not seen yet when a drain was
    /// asked for: that it runs is then what the command before the drain brought about.
    pub(super) fn is_recalled(&self, name: &VmName, spec: &VmSpec, settled: Option<&Settled>) -> bool {
        let serial = settled.map_or(0, |settled| settled.serial);
        if settled.is_some_and(|settled| settled.running) {
            return serial < spec.serial;
        }
        serial + 1 < spec.serial && self.held_by(name).iter().any(|slot| self.is_changing(&slot.gpu))
    }

    /// Whether a slot still serves the request of the VM that holds it.
    fn still_fits(&self, slot: &SlotKey, spec: &VmSpec) -> bool {
        let fits = matches!(
            (&spec.request, slot.slot),
            (Request::Whole { .. }, Slot::Whole) | (Request::Partition { .. }, Slot::Partition(_))
        );
        let planned = self.plan.gpus.get(&slot.gpu).filter(|_| fits && !self.is_changing(&slot.gpu));
        planned.is_some_and(|planned| {
            placement::request_obstacle(&slot.gpu, slot.slot, planned, &spec.request).is_none()
        })
    }

    /// Sees to it that a VM holds what it asks for. Returns whether it does, and can start when all is ready.
    pub(super) fn book(
        &mut self,
        name: &VmName,
        spec: &VmSpec,
        observed: &HostInventory,
        board: &mut Board<'_>,
    ) -> bool {
        let mut held = self.held_by(name).to_vec();
        let outdated =
            held.len() != spec.request.slots() || held.iter().any(|slot| !self.still_fits(slot, spec));
        let failed = held.iter().find(|slot| self.has_failed(slot, observed));
        if !held.is_empty() && (outdated || (failed.is_some() && !spec.reserved)) {
            return false;
        }
        if let Some(slot) = failed {
            self.findings.push(say::reservation_failed(slot, name));
            return false;
        }
        let obstacles: Vec<Finding> = held
            .iter()
            .flat_map(|slot| placement::obstacles(slot, &spec.request, observed, &self.plan))
            .collect();
        if !obstacles.is_empty() {
            self.findings.extend(obstacles);
            return false;
        }
        let taken = match &*held {
            [] => board.take((name, spec), Some(&observed.host)),
            slots => board.take_beside((name, spec), &observed.host, slots),
        };
        match taken {
            Ok(place) => held = place.slots,
            Err(finding) => {
                self.findings.push(*finding);
                return false;
            }
        }
        if self.held_by(name).is_empty() {
            for slot in &held {
                let booking = Booking { vm: name.clone(), vm_id: spec.id, since: self.now };
                self.plan.bookings.insert(slot.clone(), booking);
            }
        }
        for slot in &held {
            let unready = placement::unready(slot, &self.plan, observed);
            self.findings.extend(unready.map(|why| say::partition_unready(slot, name, &why)));
        }
        self.held.insert(name.clone(), held);
        true
    }
}
