//! How a host goes down by its administrator's word: what the service manager of a real one does.

use tranche_core::change::Change;
use tranche_core::spec::DepartureWay;

use crate::node::{Ending, Node, Then};
use crate::quorum::Place;
use crate::world::{Inner, Life, Wish};

/// How long guests have to shut down, in milliseconds.
const GRACE_MS: u64 = 60_000;
/// How long the host waits after that for those that were ended.
const FORCE_MS: u64 = 20_000;
/// For how long nothing runs before the daemon is ended.
const QUIET_MS: u64 = 2_000;

/// A host that is going down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Departure {
    way: DepartureWay,
    since_ms: u64,
    forced: bool,
    /// Since when nothing runs there.
    quiet_since_ms: Option<u64>,
}

impl Inner {
    /// A host is told to go down. Returns the wish that its service manager says first.
    pub(crate) fn depart(&mut self, node: Place, way: DepartureWay) -> Option<Change> {
        if !self.nodes[node].on {
            if way == DepartureWay::Reboot {
                self.power_on(node);
            }
            return None;
        }
        let since_ms = self.now_ms;
        self.nodes[node].departure = Some(Departure { way, since_ms, forced: false, quiet_since_ms: None });
        Some(wish(&self.nodes[node], way, false))
    }

    /// What the service manager does from time to time.
    pub(crate) fn see_departure_through(&mut self, node: Place) {
        let now_ms = self.now_ms;
        let Some(mut departure) = self.nodes[node].departure else { return };
        let quiet_since_ms = departure.quiet_since_ms.unwrap_or(now_ms);
        departure.quiet_since_ms = is_quiet(&self.nodes[node]).then_some(quiet_since_ms);
        if !departure.forced && now_ms >= departure.since_ms + GRACE_MS {
            departure.forced = true;
            let wish = wish(&self.nodes[node], departure.way, true);
            self.wishes.push_back(Wish::from(wish));
        }
        self.nodes[node].departure = Some(departure);
        // Without a daemon, or with one that stands still, nobody takes leave.
        if now_ms >= departure.since_ms + GRACE_MS + 2 * FORCE_MS {
            self.end_departure(node, departure);
        }
    }

    /// Since when the daemon is to end: because it was told to, or because its host goes down.
    pub(crate) fn ends_since(&mut self, node: Place) -> Option<u64> {
        let is_due = |departure: Departure| {
            let quiet_ms = departure.quiet_since_ms.map(|since_ms| since_ms + QUIET_MS);
            let last_ms = departure.since_ms + GRACE_MS + FORCE_MS;
            self.now_ms >= quiet_ms.map_or(last_ms, |quiet_ms| quiet_ms.min(last_ms))
        };
        if self.nodes[node].ending.is_none() && self.nodes[node].departure.is_some_and(is_due) {
            self.nodes[node].ending = Some(Ending { since_ms: self.now_ms, then: Then::GoDown });
        }
        self.nodes[node].ending.map(|ending| ending.since_ms)
    }

    /// The daemon has ended in order.
    pub(crate) fn daemon_ended(&mut self, life: Life) {
        let Some(ending) = self.nodes[life.node].ending.filter(|_| self.lives(life)) else { return };
        if let (Then::GoDown, Some(departure)) = (ending.then, self.nodes[life.node].departure) {
            self.end_departure(life.node, departure);
            return;
        }
        self.befell(life.node, "its daemon has ended");
        self.kill_daemon(life.node);
        if ending.then == Then::Start {
            self.start_daemon_after(life.node, 0);
        }
    }

    fn end_departure(&mut self, node: Place, departure: Departure) {
        self.power_off(node, "it goes down");
        if departure.way == DepartureWay::Reboot {
            self.power_on(node);
        }
    }
}

fn wish(node: &Node, way: DepartureWay, force: bool) -> Change {
    Change::DepartHost { host: node.name.clone(), way, force, boot_id: Some(node.model.boot_id()) }
}

fn is_quiet(node: &Node) -> bool {
    node.model.domains.values().all(|domain| !domain.state.is_active())
}
