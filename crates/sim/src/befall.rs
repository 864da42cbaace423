//! What an event does to the world.

use std::collections::BTreeSet;

use tranche_core::change::{Change, NewVm};
use tranche_core::inventory::OffReason;
use tranche_core::name::VmName;
use tranche_core::spec::{DepartureWay, Duty};

use crate::node::RESTART_MS;
use crate::quorum::Place;
use crate::report::Happened;
use crate::scenario::Event;
use crate::setup::hardware;
use crate::world::{Due, Inner, Life};

impl Inner {
    /// What happens, and the wish that it is, if it is one.
    pub(crate) fn befall(&mut self, event: &Event) -> Option<Change> {
        if let Some(host) = event.host() {
            let node = self.place(host);
            self.befell(node, event.words());
            self.befall_host(node, event)
        } else {
            self.befall_others(event)
        }
    }

    fn befall_host(&mut self, node: Place, event: &Event) -> Option<Change> {
        let host = self.nodes[node].name.clone();
        let boot_ms = self.nodes[node].setup.boot_ms;
        match event {
            Event::PowerOff(_) => self.power_off(node, "its power is gone"),
            Event::PowerOn(_) => self.after(boot_ms, Due::Boot(node)),
            Event::Reboot(_) => return self.depart(node, DepartureWay::Reboot),
            Event::Shutdown(_) => return self.depart(node, DepartureWay::Shutdown),
            Event::NetworkOff(_) => self.nodes[node].network_off = true,
            Event::NetworkOn(_) => {
                self.nodes[node].network_off = false;
                self.cuts.retain(|(one, other)| *one != node && *other != node);
            }
            Event::CutOneWay { to, .. } => {
                let to = self.place(to);
                self.cuts.insert((node, to));
            }
            Event::Cut { other, .. } => {
                let other = self.place(other);
                self.cuts.extend([(node, other), (other, node)]);
            }
            Event::StoreOff(_) => self.nodes[node].store_off = true,
            Event::StoreOn(_) => self.nodes[node].store_off = false,
            Event::MemberKill(_) => self.members.set_killed(node, true),
            Event::MemberStart(_) => self.members.set_killed(node, false),
            Event::DaemonKill(_) => {
                self.kill_daemon(node);
                let count = self.nodes[node].life;
                self.after(RESTART_MS, Due::DaemonStart(Life { node, count }));
            }
            Event::DaemonStop(_) => self.kill_daemon(node),
            Event::DaemonStart(_) => {
                let count = self.nodes[node].life;
                self.after(0, Due::DaemonStart(Life { node, count }));
            }
            Event::DaemonPause { ms, .. } => self.nodes[node].paused_until_ms = self.now_ms + ms,
            Event::LibvirtOff(_) => self.nodes[node].model.libvirt_down = true,
            Event::LibvirtOn(_) => self.nodes[node].model.libvirt_down = false,
            Event::AgentOff(_) => self.nodes[node].agent_off = true,
            Event::AgentOn(_) => self.nodes[node].agent_off = false,
            Event::Drain(_) => {
                return Some(Change::SetHostDuty { host, along: BTreeSet::new(), duty: Duty::Maintenance });
            }
            Event::Undrain(_) => {
                return Some(Change::SetHostDuty { host, along: BTreeSet::new(), duty: Duty::Serving });
            }
            Event::ConfirmDown(_) => return Some(Change::ConfirmHostDown { host }),
            _ => {}
        }
        None
    }

    fn befall_others(&mut self, event: &Event) -> Option<Change> {
        match event {
            Event::NetworkWhole => {
                self.cuts.clear();
                self.nodes.iter_mut().for_each(|node| node.network_off = false);
            }
            Event::StoreLeaderKill { ms } => {
                if let Some(leader) = self.members.leader() {
                    self.members.set_killed(leader, true);
                    let start = Event::MemberStart(self.nodes[leader].name.clone());
                    self.after(*ms, Due::Befalls(start));
                }
            }
            Event::VmStart(name) => return Some(Change::StartVm { name: name.clone() }),
            Event::VmStop(name) => return Some(Change::StopVm { name: name.clone(), force: false }),
            Event::VmRemove(name) => return Some(Change::DeleteVm { name: name.clone(), force: true }),
            Event::VmAdd { vm, setup } => {
                let new = NewVm {
                    hardware: hardware(setup),
                    request: setup.gpu.clone(),
                    reserved: setup.reserved,
                    prefer_numa_node: None,
                    availability: setup.availability,
                };
                if setup.running {
                    let create = Change::CreateVm { name: vm.clone(), vm: new };
                    self.wishes.push_back((create, 0));
                    return Some(Change::StartVm { name: vm.clone() });
                }
                return Some(Change::CreateVm { name: vm.clone(), vm: new });
            }
            Event::VmCrash(vm) => self.end_guest(vm, OffReason::Crashed),
            Event::VmShutdown(vm) => self.end_guest(vm, OffReason::Shutdown),
            Event::VmStartsFail { vm, tries } => {
                for node in &mut self.nodes {
                    node.model.failing.insert(vm.to_string(), *tries);
                }
            }
            Event::RuleSet { name, rule } => {
                return Some(Change::SetRule { name: name.clone(), rule: rule.clone() });
            }
            Event::RuleDelete(name) => return Some(Change::DeleteRule { name: name.clone() }),
            Event::FailoverPause => return Some(Change::PauseFailover { paused: true }),
            Event::FailoverResume => return Some(Change::PauseFailover { paused: false }),
            _ => {}
        }
        None
    }

    fn end_guest(&mut self, vm: &VmName, reason: OffReason) {
        for node in 0..self.nodes.len() {
            let model = &mut self.nodes[node].model;
            let active = model.domains.get(vm.as_str()).is_some_and(|domain| domain.state.is_active());
            if active && model.end(vm.as_str(), reason).is_ok() {
                self.record(
                    node,
                    Happened::Ended { vm: vm.to_string(), how: format!("{reason:?}").to_lowercase() },
                );
            }
        }
    }
}
