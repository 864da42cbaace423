//! What befalls VMs that are sent, and hosts.

use tranche_core::inventory::{Domain, DomainState, HostDevice, OffReason};
use tranche_core::journey::{Sending, Sent};
use tranche_core::name::{HostName, Timestamp, VmName};
use tranche_core::plan::DownBy;
use tranche_core::step::Step;

use super::{Age, Road, Transfer, Whole, is_going};
use crate::fleet::node;
use crate::world::vm;

impl Road {
    // Transfers.

    pub(super) fn sends(&mut self, from: &HostName, name: &VmName, number: u64, to: &HostName, step: &Step) {
        let Step::SendVm { devices, .. } = step else { panic!("it is sent by a step") };
        let sent = self.real[from].seen.progress.sent.get(name);
        assert!(sent.is_none_or(|sent| sent.number != number), "{name} is sent twice on one journey");
        if self.transfers.iter().any(|one| one.vm == *name) {
            // libvirt: another job is active.
            return;
        }
        let source = self.domains_of(from)[name.as_str()].clone();
        assert_eq!(source.state, DomainState::Running, "only what runs is sent");
        let target = &self.real[to];
        let refuses = !target.on || target.seen.domains().is_some_and(|all| all.contains_key(name.as_str()));
        if refuses {
            let why = "the other host refuses it".to_owned();
            return self.notes(from, name, number, Sending::Failed { why });
        }
        let devices: Vec<HostDevice> =
            devices.iter().map(|one| HostDevice { source: one.source.clone(), ours: true }).collect();
        let (live_devices, defined_devices) = (devices.clone(), devices);
        let state = DomainState::Arriving;
        let arrives = Domain { state, persistent: false, live_devices, defined_devices, ..source };
        self.domains_of(to).insert(name.to_string(), arrives);
        self.transfers.push(Transfer { vm: name.clone(), from: from.clone(), to: to.clone(), number });
        let got_on_at = Timestamp(self.now);
        self.notes(from, name, number, Sending::UnderWay { percent: 0, got_on_at });
    }

    fn notes(&mut self, from: &HostName, name: &VmName, number: u64, state: Sending) {
        let sent = &mut self.real.get_mut(from).unwrap().seen.progress.sent;
        // An earlier life of the daemon began it: of its outcome this one knows nothing.
        let is_others = sent.get(name).is_some_and(|sent| sent.number == 0);
        let is_over = !matches!(state, Sending::UnderWay { .. });
        if is_others && is_over {
            sent.remove(name);
        } else {
            sent.insert(name.clone(), Sent { number, state });
        }
    }

    fn take_transfer(&mut self, name: &VmName) -> Option<Transfer> {
        let at = self.transfers.iter().position(|one| one.vm == *name)?;
        Some(self.transfers.remove(at))
    }

    pub(in crate::journeys) fn is_being_sent(&self, name: &str) -> bool {
        self.transfers.iter().any(|one| one.vm.as_str() == name)
    }

    /// Transfers get on, or are seen to hang where they do not.
    pub(in crate::journeys) fn transfers_get_on(&mut self) {
        for transfer in self.transfers.clone() {
            let got_on_at = Timestamp(self.now);
            let Transfer { vm, from, number, .. } = transfer;
            self.notes(&from, &vm, number, Sending::UnderWay { percent: 50, got_on_at });
        }
    }

    pub(in crate::journeys) fn transfer_fails(&mut self, name: &VmName, why: &str) {
        let Some(Transfer { vm, from, to, number }) = self.take_transfer(name) else { return };
        self.domains_of(&to)
            .retain(|known, domain| known != vm.as_str() || domain.state != DomainState::Arriving);
        self.notes(&from, &vm, number, Sending::Failed { why: why.to_owned() });
    }

    /// All of a VM is on its new host, where it stands still, and it is off on its old one.
    pub(in crate::journeys) fn is_handed_over(&mut self, name: &str) {
        let transfer = self.becomes_whole(name);
        let Transfer { vm, from, number, .. } = transfer.clone();
        self.ends(&from, &vm, OffReason::Migrated);
        self.notes(&from, &vm, number, Sending::Done { pause_ms: 60, total_ms: 9_000 });
        self.whole.push(Whole { transfer, age: Age::Current, is_let_go_on: true });
    }

    /// All of a VM is on its new host, but its old one does not get to know, and goes on.
    pub(in crate::journeys) fn loses_the_last_answer(&mut self, name: &str) {
        let transfer = self.becomes_whole(name);
        let Transfer { vm, from, number, .. } = transfer.clone();
        self.notes(&from, &vm, number, Sending::Failed { why: "the last answer was lost".to_owned() });
        self.whole.push(Whole { transfer, age: Age::Stale, is_let_go_on: false });
    }

    fn becomes_whole(&mut self, name: &str) -> Transfer {
        let transfer = self.take_transfer(&vm(name)).expect("it is being sent");
        let domain = self.domains_of(&transfer.to).get_mut(name).expect("it arrives");
        (domain.state, domain.persistent) = (DomainState::Paused, true);
        transfer
    }

    /// The daemon that sent a VM lets it go on where it is now. Returns whether it was about to.
    pub(in crate::journeys) fn is_let_go_on(&mut self, name: &str) -> bool {
        let is_it = |one: &&Whole| one.transfer.vm.as_str() == name && one.is_let_go_on;
        let Some(to) = self.whole.iter().find(is_it).map(|one| one.transfer.to.clone()) else { return false };
        self.goes_on(&to, &vm(name), false);
        true
    }

    /// A host ends by command what is another host's. That must neither be the VM itself, nor all that there is of it.
    pub(super) fn assert_needless(&self, host: &HostName, name: &VmName) {
        if self.fleet.plan.vms.get(name).is_none_or(|planned| planned.host == *host) {
            return;
        }
        let state = self.real[host].seen.domains().unwrap()[name.as_str()].state;
        let is_current =
            |one: &Whole| one.transfer.vm == *name && one.transfer.to == *host && one.age == Age::Current;
        assert!(!is_going(state) && !self.whole.iter().any(is_current), "{name} is ended on {host}");
    }

    // What befalls hosts.

    /// A host goes without a sound, and nobody knows.
    pub(in crate::journeys) fn loses_power(&mut self, number: usize) {
        let host = node(number);
        let (mine, others): (Vec<Transfer>, Vec<Transfer>) = std::mem::take(&mut self.transfers)
            .into_iter()
            .partition(|one| one.from == host || one.to == host);
        self.transfers = others;
        for Transfer { vm, from, number, .. } in mine.into_iter().filter(|one| one.to == host) {
            self.notes(&from, &vm, number, Sending::Failed { why: "the connection broke".to_owned() });
        }
        for one in self.whole.iter_mut().filter(|one| one.transfer.from == host) {
            one.is_let_go_on = false;
            if one.age == Age::Stale {
                one.age = Age::Unclear;
            }
        }
        let real = self.real(number);
        (real.on, real.known) = (false, None);
        let names: Vec<String> = real.domains().keys().cloned().collect();
        for name in names {
            self.ends(&host, &vm(&name), OffReason::Unknown);
        }
    }

    /// A host gives up waiting for the rest of a domain that nobody sends any more.
    pub(in crate::journeys) fn forgets_arrivals(&mut self, number: usize) {
        let host = node(number);
        let comes: Vec<VmName> =
            self.transfers.iter().filter(|one| one.to == host).map(|one| one.vm.clone()).collect();
        self.real(number).domains().retain(|name, domain| {
            domain.state != DomainState::Arriving || comes.iter().any(|vm| vm.as_str() == name)
        });
    }

    /// The leader hears nothing of a host any more.
    pub(in crate::journeys) fn falls_silent(&mut self, number: usize) {
        self.real(number).is_heard = false;
        let seen = self.fleet.inventory.get_mut(&node(number)).unwrap();
        seen.pulse.as_mut().unwrap().silent_ms = 6_000;
    }

    /// It is known that a host is down.
    pub(in crate::journeys) fn is_known_down(&mut self, number: usize) {
        assert!(!self.real[&node(number)].on, "nobody says so of a host that lives");
        let epoch = self.fleet.plan.hosts[&node(number)].epoch;
        let seen = self.fleet.inventory.get_mut(&node(number)).unwrap();
        let pulse = seen.pulse.as_mut().unwrap();
        (pulse.silent_ms, pulse.off, pulse.epoch) = (60_000, Some(DownBy::Agent), epoch);
    }

    /// A host dies, and that is known at once.
    pub(in crate::journeys) fn dies(&mut self, number: usize) {
        self.loses_power(number);
        self.is_known_down(number);
    }

    /// A host is there again, in another boot if it had lost its power.
    pub(in crate::journeys) fn is_back(&mut self, number: usize) {
        let real = self.real(number);
        if !real.on {
            real.boots += 1;
            real.on = true;
            real.seen.boot_id = format!("boot-{}", real.boots);
            real.seen.progress.sent.clear();
        }
        real.is_heard = true;
        self.hears(number);
        self.reports(number);
    }

    /// The daemon of a host is started anew. What it sends goes on, and what it has sent is forgotten.
    pub(in crate::journeys) fn daemon_restarts(&mut self, number: usize) {
        let host = node(number);
        let got_on_at = Timestamp(self.now);
        let under_way = self.transfers.iter().filter(|one| one.from == host);
        let sent = Sent { number: 0, state: Sending::UnderWay { percent: 0, got_on_at } };
        let sent = under_way.map(|one| (one.vm.clone(), sent.clone())).collect();
        for one in self.whole.iter_mut().filter(|one| one.transfer.from == host) {
            one.is_let_go_on = false;
        }
        let real = self.real(number);
        (real.seen.progress.sent, real.known) = (sent, None);
    }
}
