//! What an event does to the world.

use std::collections::BTreeSet;

use tranche_core::change::{Change, NewVm};
use tranche_core::inventory::OffReason;
use tranche_core::name::{HostName, VmName};
use tranche_core::spec::{DepartureWay, Duty};

use crate::event::Event;
use crate::node::{Ending, RESTART_MS, Then};
use crate::power::BadBoots;
use crate::quorum::Place;
use crate::report::Happened;
use crate::scenario::VmSetup;
use crate::setup::hardware;
use crate::store::Watches;
use crate::world::{Due, Inner, Wish};

impl Inner {
    /// What happens, and the wish that it is, if it is one.
    pub(crate) fn befall(&mut self, event: &Event) -> Option<Wish> {
        let Some((host, words)) = event.befalls() else {
            return self.befall_others(event);
        };
        let place = self.place(host);
        self.befell(place, words);
        if let Some(wish) = self.utter(place, event) {
            return Some(wish);
        }
        let changed = self.befall_power(place, event)
            || self.befall_network(place, event)
            || (place < self.nodes.len() && self.befall_daemon(place, event));
        debug_assert!(changed, "every event does something");
        None
    }

    /// What somebody asks for.
    fn utter(&mut self, place: Place, event: &Event) -> Option<Wish> {
        match event {
            Event::Reboot(_) => self.depart(place, DepartureWay::Reboot).map(Wish::from),
            Event::Shutdown(_) => self.depart(place, DepartureWay::Shutdown).map(Wish::from),
            Event::HostRemove(host) => Some(Change::RemoveHost { host: host.clone() }.into()),
            Event::Drain(host) => Some(set_duty(host, Duty::Maintenance)),
            Event::Undrain(host) => Some(set_duty(host, Duty::Serving)),
            Event::ConfirmDown(host) => Some(Change::ConfirmHostDown { host: host.clone() }.into()),
            Event::ConfirmIfOff(host) if !self.runs(place) => {
                let change = Change::ConfirmHostDown { host: host.clone() };
                Some(Wish { while_off: Some(place), ..change.into() })
            }
            _ => None,
        }
    }

    fn befall_power(&mut self, place: Place, event: &Event) -> bool {
        let is_witness = place >= self.nodes.len();
        match event {
            Event::PowerOff(_) if is_witness => self.witness.on = false,
            Event::PowerOn(_) if is_witness => self.witness.on = true,
            Event::PowerOff(_) => self.power_off(place, "its power is gone"),
            Event::PowerOn(_) => self.power_on(place),
            Event::BootsFail { tries, hang, .. } => {
                self.nodes[place].bad_boots = BadBoots { tries: *tries, hang: *hang };
            }
            // What a host does then follows from what its administrator wants, or there is nothing to do.
            Event::Reboot(_) | Event::Shutdown(_) | Event::ConfirmIfOff(_) => {}
            _ => return false,
        }
        true
    }

    fn befall_network(&mut self, place: Place, event: &Event) -> bool {
        match event {
            Event::NetworkOff(_) => self.set_network_off(place, true),
            Event::NetworkOn(_) => {
                self.set_network_off(place, false);
                self.cuts.retain(|(from, to)| *from != place && *to != place);
            }
            Event::CutOneWay { to, .. } => {
                let to = self.place(to);
                self.cuts.insert((place, to));
            }
            Event::Cut { other, .. } => {
                let other = self.place(other);
                self.cuts.extend([(place, other), (other, place)]);
            }
            Event::MemberKill(_) => self.members.set_killed(place, true),
            Event::MemberStart(_) => self.members.set_killed(place, false),
            _ => return false,
        }
        true
    }

    fn befall_daemon(&mut self, place: Place, event: &Event) -> bool {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[place];
        match event {
            Event::StoreOff(_) => node.store_off = true,
            Event::StoreOn(_) => node.store_off = false,
            Event::StoreSlow { ms, .. } => node.store_slow_ms = *ms,
            Event::StoreFast { .. } => node.store_slow_ms = 0,
            Event::WatchLost { silent, .. } => {
                node.watches = Watches { lost: node.watches.lost + 1, silent: *silent };
            }
            Event::DaemonPause { ms, .. } => node.paused_until_ms = now_ms + ms,
            Event::HostSlow { factor, .. } => node.slowness = *factor,
            Event::ClockStep { ms, .. } => node.clock_ms = node.clock_ms.saturating_add(*ms),
            Event::LibvirtOff(_) => node.model.libvirt_down = true,
            Event::LibvirtOn(_) => node.model.libvirt_down = false,
            Event::AgentOff(_) => node.agent_off = true,
            Event::AgentOn(_) => node.agent_off = false,
            Event::DaemonKill(_) => {
                self.kill_daemon(place);
                self.start_daemon_after(place, RESTART_MS);
            }
            // There is nothing to end.
            Event::DaemonStop(_) if node.daemon.is_none() => {}
            Event::DaemonStop(_) => {
                node.ending.get_or_insert(Ending { since_ms: now_ms, then: Then::Stay });
            }
            Event::DaemonStart(_) => match node.ending.as_mut() {
                Some(ending) if ending.then == Then::Stay => ending.then = Then::Start,
                Some(_) => {}
                None => self.start_daemon_after(place, 0),
            },
            _ => return false,
        }
        true
    }

    fn set_network_off(&mut self, place: Place, off: bool) {
        match self.nodes.get_mut(place) {
            Some(node) => node.network_off = off,
            None => self.witness.network_off = off,
        }
    }

    fn befall_others(&mut self, event: &Event) -> Option<Wish> {
        let change = match event {
            Event::VmAdd { vm, setup } => return Some(add_vm(vm, setup)),
            Event::VmStart(name) => Change::StartVm { name: name.clone() },
            Event::VmStop(name) => Change::StopVm { name: name.clone(), force: false },
            Event::VmMigrate { vm, to } => Change::MigrateVm { name: vm.clone(), to: to.clone() },
            Event::VmRemove(name) => Change::DeleteVm { name: name.clone(), force: true },
            Event::RuleSet { name, rule } => Change::SetRule { name: name.clone(), rule: rule.clone() },
            Event::RuleDelete(name) => Change::DeleteRule { name: name.clone() },
            Event::FailoverPause => Change::PauseFailover { paused: true },
            Event::FailoverResume => Change::PauseFailover { paused: false },
            _ => {
                self.befall_all(event);
                return None;
            }
        };
        Some(change.into())
    }

    /// What is not about one host, and nobody asks for.
    fn befall_all(&mut self, event: &Event) {
        match event {
            Event::NetworkWhole => {
                self.cuts.clear();
                self.nodes.iter_mut().for_each(|node| node.network_off = false);
                self.witness.network_off = false;
            }
            Event::StoreLeaderKill { ms } => {
                if let Some(leader) = self.members.leader() {
                    self.members.set_killed(leader, true);
                    self.after(*ms, Due::MemberStart(leader));
                }
            }
            Event::StoreSlow { ms, .. } => self.store_slow_ms = *ms,
            Event::StoreFast { .. } => self.store_slow_ms = 0,
            Event::StoreFull => self.store_full = true,
            Event::StoreRoom => self.store_full = false,
            Event::VmCrash(vm) => self.end_guest(vm, OffReason::Crashed),
            Event::VmShutdown(vm) => self.end_guest(vm, OffReason::Shutdown),
            Event::VmStartsFail { vm, tries } => {
                self.failing.insert(vm.clone(), *tries);
            }
            Event::VmMovesFail { vm, tries } => {
                self.failing_moves.insert(vm.clone(), *tries);
            }
            _ => {}
        }
    }

    fn end_guest(&mut self, vm: &VmName, reason: OffReason) {
        for node in 0..self.nodes.len() {
            let model = &mut self.nodes[node].model;
            let active = model.domains.get(vm.as_str()).is_some_and(|domain| domain.state.is_active());
            if active && model.end(vm.as_str(), reason).is_ok() {
                if reason == OffReason::Shutdown {
                    self.judge_shutdown(vm, node);
                }
                self.record(
                    node,
                    Happened::Ended { vm: vm.to_string(), how: format!("{reason:?}").to_lowercase() },
                );
            }
        }
    }
}

fn set_duty(host: &HostName, duty: Duty) -> Wish {
    Change::SetHostDuty { host: host.clone(), along: BTreeSet::new(), duty }.into()
}

/// Makes a VM, and has it started then if it shall run.
fn add_vm(vm: &VmName, setup: &VmSetup) -> Wish {
    let new = NewVm {
        hardware: hardware(setup),
        request: setup.gpu.clone(),
        reserved: setup.reserved,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: setup.availability,
    };
    let then = setup.running.then(|| Change::StartVm { name: vm.clone() });
    Wish { then, ..Change::CreateVm { name: vm.clone(), vm: new }.into() }
}
