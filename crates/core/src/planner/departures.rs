//! Departures: what becomes of a host's VMs while its administrator shuts it down or reboots it, and until it is back.
//!
//! ```text
//! waits:      shut down here, keeps what it holds ──► host back ──► started here
//! elsewhere:  shut down here ──► off, reported ──► started where there is room
//! ```
//!
//! The host holds its own end up until its VMs are off, or until their time is over. A VM that waits does so for ever if that
//! is the policy; else only for [`WAIT_MS_MAX`] once it is known that the host runs nothing.

use super::Planner;
use crate::inventory::HostInventory;
use crate::name::{HostName, VmName};
use crate::placement::Board;
use crate::plan::{HostPlan, Standing, VmGoal};
use crate::spec::{Departure, ShutdownPolicy, VmSpec};

/// How long VMs wait for a host that was to reboot, in milliseconds, from when it is known to be down, or silent: long enough for
/// a server's firmware.
pub(super) const WAIT_MS_MAX: u64 = 15 * 60_000;

impl Planner<'_> {
    /// The departure that a host is in the middle of.
    pub(super) fn departing(&self, host: &HostName) -> Option<&Departure> {
        let departs = self.plan.hosts.get(host).is_some_and(|planned| planned.departs);
        self.spec.hosts.get(host)?.departure.as_ref().filter(|_| departs)
    }

    /// Whether the VMs of a host wait until it is back.
    pub(super) fn is_waited_for(&self, host: &HostName) -> bool {
        let Some(departure) = self.departing(host) else { return false };
        let wish = self.spec.hosts.get(host);
        let is_over = self.plan.hosts.get(host).is_some_and(|planned| {
            let is_down = matches!(planned.standing, Standing::Down { .. });
            planned.overdue || (is_down && wish.is_some_and(|wish| planned.is_said_down(wish)))
        });
        self.spec.policy.shutdown.waits(departure.way) && !is_over
    }

    /// Whether a host that was to come back has not done so in time, counted from when it is known to be down, or from its
    /// silence where it never said that it is.
    pub(super) fn is_overdue(&self, planned: &HostPlan) -> bool {
        let late = |since| self.now.ms_since(since) >= WAIT_MS_MAX;
        match planned.standing {
            Standing::Up => false,
            _ if planned.overdue => true,
            Standing::Lost { since } | Standing::Down { since, .. } => {
                self.spec.policy.shutdown != ShutdownPolicy::Freeze && late(since)
            }
            Standing::Fencing { .. } => false,
        }
    }

    /// Whether a VM stays with a host that goes down: it waits for it, or belongs to it.
    pub(super) fn stays_with(&self, name: &VmName, host: &HostName) -> bool {
        self.departing(host).is_some() && (self.is_waited_for(host) || !self.is_protected(name))
    }

    /// What a VM that runs shall do on a host that is about to go down; none if it is not.
    pub(super) fn goal_on_departure(
        &mut self,
        (name, spec): (&VmName, &VmSpec),
        observed: &HostInventory,
        board: &mut Board<'_>,
    ) -> Option<VmGoal> {
        let departure = self.departing(&observed.host)?;
        if departure.force {
            return Some(VmGoal::Kill);
        }
        if self.stays_with(name, &observed.host) {
            return Some(VmGoal::Stop);
        }
        let goes_live = self.spec.policy.shutdown == ShutdownPolicy::Migrate;
        let live = goes_live.then(|| self.set_out((name, spec), observed, None, board)).flatten();
        Some(live.unwrap_or(VmGoal::Move))
    }
}
