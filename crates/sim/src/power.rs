//! Power: hosts that boot, or fail to, and that lose it; and the watchdogs that take it away.

use crate::quorum::Place;
use crate::scenario::HostSetup;
use crate::world::{Due, Inner, Life};

/// A boot that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boot {
    /// Tells it from one before it.
    number: u64,
    hangs: bool,
}

/// Boots that come to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BadBoots {
    pub(crate) tries: u32,
    pub(crate) hang: bool,
}

/// When a watchdog that is armed was last fed, and how long it waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fed {
    pub(crate) at_ms: u64,
    pub(crate) timeout_ms: u64,
}

/// The machine of a third voice beside two hosts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Witness {
    pub(crate) on: bool,
    pub(crate) network_off: bool,
}

impl Inner {
    pub(crate) fn runs(&self, place: Place) -> bool {
        self.nodes.get(place).map_or(self.witness.on, |node| node.on)
    }

    /// Takes a host's power, whether it is on or on its way there.
    pub(crate) fn power_off(&mut self, node: Place, why: &str) {
        let booted = self.nodes[node].boot.take().is_some();
        if !self.nodes[node].on {
            if booted {
                self.befell(node, why);
            }
            return;
        }
        self.befell(node, why);
        self.kill_daemon(node);
        self.cut_transfers_from(node);
        let node = &mut self.nodes[node];
        node.on = false;
        node.fed = None;
        node.paused_until_ms = 0;
        node.departure = None;
        node.model.lose_power();
    }

    /// Gives a host power, unless it is on or boots already. One whose boot hangs boots anew.
    pub(crate) fn power_on(&mut self, node: Place) {
        let boots = self.nodes[node].boot.is_some_and(|boot| !boot.hangs);
        if self.nodes[node].on || boots {
            return;
        }
        let HostSetup { boot_ms, .. } = self.nodes[node].setup;
        let number = self.next_number();
        self.nodes[node].boot = Some(Boot { number, hangs: false });
        self.after(boot_ms, Due::Boot(node, number));
    }

    /// An agent has switched a host on, if it was off: one whose boot hangs stays where it is.
    pub(crate) fn turned_on(&mut self, node: Place) {
        if !self.nodes[node].on && self.nodes[node].boot.is_none() {
            self.befell(node, "an agent turns it on");
            self.power_on(node);
        }
    }

    /// A boot has come to its end, unless the power went meanwhile.
    pub(crate) fn finish_boot(&mut self, node: Place, number: u64) {
        if self.nodes[node].boot.is_none_or(|boot| boot.number != number) {
            return;
        }
        let BadBoots { tries, hang } = self.nodes[node].bad_boots;
        if tries > 0 {
            self.nodes[node].bad_boots.tries -= 1;
            self.befell(node, if hang { "its boot hangs" } else { "its boot failed" });
            self.nodes[node].boot = hang.then_some(Boot { number, hangs: true });
            if !hang {
                self.power_on(node);
            }
            return;
        }
        self.nodes[node].boot = None;
        self.befell(node, "it has booted");
        self.nodes[node].on = true;
        self.nodes[node].booted_at_ms = i64::try_from(self.now_ms).unwrap_or(i64::MAX);
        self.start_daemon_after(node, 0);
    }

    /// Starts the daemon after a while, unless it runs then.
    pub(crate) fn start_daemon_after(&mut self, node: Place, ms: u64) {
        let count = self.nodes[node].life;
        self.after(ms, Due::DaemonStart(Life { node, count }));
    }

    /// Ends a daemon at once, wherever it stands.
    pub(crate) fn kill_daemon(&mut self, node: Place) {
        let node = &mut self.nodes[node];
        node.daemon = None;
        node.ending = None;
        node.life += 1;
    }

    /// Resets a host whose watchdog was not fed in time.
    pub(crate) fn see_to_watchdog(&mut self, node: Place) {
        let starved = self.nodes[node].fed.is_some_and(|fed| self.now_ms >= fed.at_ms + fed.timeout_ms);
        if starved && self.nodes[node].on {
            self.resets += 1;
            self.power_off(node, "its watchdog resets it");
            self.power_on(node);
        }
    }
}
