//! VMs that come from hosts with other stores, and are those hosts' yet. [`crate::handover`] has the orders.
//!
//! Here nothing is decided about them but what they hold: what is done follows from the last order alone.

use super::Planner;
use crate::diagnostics as say;
use crate::handover::{Awaited, Incoming, Order, Word};
use crate::inventory::HostInventory;
use crate::name::VmName;
use crate::placement::Board;
use crate::plan::{VmGoal, VmPlan};
use crate::spec::VmSpec;
use crate::steps::ready_devices;

impl Planner<'_> {
    /// Books what a VM gets that comes from elsewhere, and notes what is seen of it.
    pub(super) fn await_vm(
        &mut self,
        (name, spec): (&VmName, &VmSpec),
        incoming: &Incoming,
        board: &mut Board<'_>,
    ) {
        self.findings.push(say::vm_arrives(name, &incoming.from));
        let Some(host) = self.home_of(name, spec, board) else { return };
        self.sort_bookings(name, &host);
        let observed = &self.inventory[&host];
        let known = self.plan.vms.get(name).and_then(|planned| planned.awaited.as_ref());
        let is_known =
            known.is_some_and(|known| (known.turn, known.order) == (incoming.turn, incoming.order));
        // While libvirt does not answer nothing is known, and what was seen before may have changed.
        let word =
            observed.domains().filter(|_| is_known).map(|_| self.word_of_awaited(name, spec, observed));
        if !matches!(incoming.order, Order::Drop) && observed.domains().is_some() {
            self.book(name, spec, observed, board);
        }
        let awaited = Awaited { turn: incoming.turn, order: incoming.order, word };
        let planned = VmPlan { awaited: Some(awaited), ..VmPlan::new(host, spec.id, VmGoal::Leave) };
        self.plan.vms.insert(name.clone(), planned);
    }

    fn word_of_awaited(&self, name: &VmName, spec: &VmSpec, observed: &HostInventory) -> Word {
        let state =
            observed.domain(name).filter(|domain| domain.uuid == spec.id.0).map(|domain| domain.state);
        let holds = self.held_by(name).len() == spec.request.slots();
        let is_ready = holds && observed.progress.expects.contains(name);
        let ready = is_ready.then(|| ready_devices(name, &self.plan, observed)).flatten();
        Word { boot_id: observed.boot_id.clone(), state, ready }
    }
}
