//! VMs that are sent from one host to another while they run, as libvirt sends them.
//!
//! ```text
//! begun ──► arriving there ──whole there──► off here, stopped there ──► told to go on, there
//!              │ either host, the network or the guest fails: runs on here, gone there
//!              └ the last answer is lost: runs on here, whole and stopped there
//! ```
//!
//! The sending goes on without the daemon that began it; only that tells the VM to go on there, in this life.

use tranche_core::inventory::{Domain, DomainState, HostDevice, OffReason};
use tranche_core::journey::{Sending, Sent};
use tranche_core::name::{HostName, Timestamp, VmName};
use tranche_core::step::VmDevice;

use crate::model::{Refused, refused};
use crate::quorum::Place;
use crate::report::Happened;
use crate::story::Planted;
use crate::world::{Due, Inner, Life};

/// In so many of a hundred transfers the answer to the last step is lost.
const ANSWER_LOST_PERCENT: u64 = 4;
/// In so many of a hundred it gets no further, for so long, in milliseconds.
const HANGS_PERCENT: u64 = 3;
const HANGS_MS: u64 = 10 * 60_000;
/// After how long a host ends what arrives, once the other one is not heard any more, in milliseconds.
const KEEPALIVE_MS: u64 = 15_000;

/// A VM that is being sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) vm: VmName,
    pub(crate) from: Place,
    pub(crate) to: Place,
    number: u64,
    /// The life of the daemon that began it.
    life: Life,
    begun_at: Timestamp,
    /// The boots of both hosts that it was begun in.
    boots: (String, String),
}

impl Inner {
    /// Begins to send a VM.
    pub(crate) fn send(
        &mut self,
        life: Life,
        (vm, number): (&VmName, u64),
        to: &HostName,
        devices: &[VmDevice],
    ) -> Result<(), Refused> {
        let (from, to) = (life.node, self.place(to));
        if self.sent.get(&(life.node, vm.clone())).is_some_and(|sent| sent.1.number == number) {
            return Ok(());
        }
        let mut domain = self.nodes[from].model.domains.get(vm.as_str()).cloned();
        let domain = domain.take().filter(|domain| domain.state == DomainState::Running);
        let Some(domain) = domain else { return Err(refused("the domain does not run")) };
        let is_sent = self.transfers.iter().any(|transfer| transfer.vm == *vm && transfer.from == from);
        if is_sent {
            return Err(refused("another job is under way"));
        }
        let answers = self.nodes.get(to).is_some_and(|node| node.on && !node.model.libvirt_down);
        if !answers || !self.reach(from, to) {
            self.note_sent(
                life,
                vm,
                number,
                Sending::Failed { why: "the other host does not answer".to_owned() },
            );
            return Ok(());
        }
        self.nodes[to].model.arrive(&domain, devices)?;
        let boots = (self.nodes[from].model.boot_id(), self.nodes[to].model.boot_id());
        let begun_at = self.wall_of(from);
        let transfer = Transfer { vm: vm.clone(), from, to, number, life, begun_at, boots };
        self.transfers.push(transfer.clone());
        self.note_sent(life, vm, number, Sending::UnderWay { percent: 0, got_on_at: begun_at });
        let hangs = self.chance.percent(HANGS_PERCENT);
        let takes_ms = if hangs { HANGS_MS } else { self.chance.between(300, 25_000) };
        self.after(takes_ms, Due::Sent(transfer));
        Ok(())
    }

    /// Ends the sending of a VM, unless it is whole on the other host.
    pub(crate) fn call_off(&mut self, from: Place, vm: &VmName) {
        let known = self.transfers.iter().find(|one| one.vm == *vm && one.from == from).cloned();
        if let Some(transfer) = known {
            self.fail(&transfer, "it was called off");
        }
    }

    /// A host's power is gone, and with it what sent its VMs. The other hosts notice when nothing comes any more.
    pub(crate) fn cut_transfers_from(&mut self, from: Place) {
        let (cut, left) = self.transfers.drain(..).partition(|transfer| transfer.from == from);
        self.transfers = left;
        let cut: Vec<Transfer> = cut;
        for transfer in cut {
            self.after(KEEPALIVE_MS, Due::ArrivalEnds(transfer));
        }
    }

    /// All of a VM is there, if nothing has happened meanwhile.
    pub(crate) fn finish_transfer(&mut self, transfer: &Transfer) {
        if !self.transfers.contains(transfer) {
            return;
        }
        let Transfer { vm, from, to, .. } = transfer;
        let runs = |inner: &Self, place: Place, boot: &str, state| {
            let node = &inner.nodes[place];
            let domain = node.model.domains.get(vm.as_str());
            node.on && node.model.boot_id() == *boot && domain.is_some_and(|domain| domain.state == state)
        };
        let is_well = runs(self, *from, &transfer.boots.0, DomainState::Running)
            && runs(self, *to, &transfer.boots.1, DomainState::Arriving)
            && self.reach(*from, *to)
            && !self.nodes[*to].model.libvirt_down;
        if !is_well {
            return self.fail(transfer, "the connection broke");
        }
        if let Some(more) = self.failing_moves.get_mut(vm).filter(|more| **more > 0) {
            *more -= 1;
            return self.fail(transfer, "the guest dirties its memory faster than it is sent");
        }
        self.nodes[*to].model.become_whole(vm);
        if self.chance.percent(ANSWER_LOST_PERCENT) {
            self.transfers.retain(|one| one != transfer);
            if self.planted == Some(Planted::GoesOnAtOnce) {
                self.nodes[*to].model.resume(vm);
            }
            let why = "the answer to the last step was lost".to_owned();
            return self.note_sent(transfer.life, vm, transfer.number, Sending::Failed { why });
        }
        // It is off here before it is told to go on there.
        let _ = self.nodes[*from].model.end(vm.as_str(), OffReason::Migrated);
        self.record(*from, Happened::Ended { vm: vm.to_string(), how: "sent".to_owned() });
        let takes_ms = self.chance.between(5, 400);
        self.after(takes_ms, Due::GoesOn(transfer.clone()));
    }

    /// The daemon that sent a VM tells it to go on where it is now.
    pub(crate) fn go_on(&mut self, transfer: &Transfer) {
        self.transfers.retain(|one| one != transfer);
        if !self.lives(transfer.life) {
            return;
        }
        let Transfer { vm, from, to, number, life, boots, .. } = transfer;
        let is_there = self.nodes[*to].on && self.nodes[*to].model.boot_id() == boots.1;
        if is_there && self.reach(*from, *to) && self.nodes[*to].model.resume(vm) {
            self.record(*to, Happened::WentOn { vm: vm.to_string() });
        }
        self.note_sent(*life, vm, *number, Sending::Done { pause_ms: 60, total_ms: 9_000 });
    }

    fn fail(&mut self, transfer: &Transfer, why: &str) {
        let Transfer { vm, from, to, number, life, .. } = transfer;
        // What was whole before the call came is not called off.
        let arrives = self.nodes[*to].model.domains.get(vm.as_str());
        if arrives.is_some_and(|domain| domain.state.is_whole()) {
            return;
        }
        self.transfers.retain(|one| one != transfer);
        if self.reach(*from, *to) {
            self.end_arrival(transfer);
        } else {
            self.after(KEEPALIVE_MS, Due::ArrivalEnds(transfer.clone()));
        }
        self.note_sent(*life, vm, *number, Sending::Failed { why: why.to_owned() });
    }

    /// A host ends what was being sent to it.
    pub(crate) fn end_arrival(&mut self, transfer: &Transfer) {
        let node = &mut self.nodes[transfer.to];
        if node.on && node.model.boot_id() == transfer.boots.1 {
            node.model.forget_arrival(&transfer.vm);
        }
    }

    fn note_sent(&mut self, life: Life, vm: &VmName, number: u64, state: Sending) {
        if self.lives(life) {
            self.sent.insert((life.node, vm.clone()), (life, Sent { number, state }));
        }
    }

    /// What a daemon reports of VMs that are or were sent from its host.
    pub(crate) fn sent_by(&self, life: Life) -> Vec<(VmName, Sent)> {
        let known = self.sent.iter().filter(|((node, _), (by, _))| *node == life.node && *by == life);
        let mut all: Vec<(VmName, Sent)> =
            known.map(|((_, vm), (_, sent))| (vm.clone(), sent.clone())).collect();
        // What an earlier life began is seen to be under way, and nothing more is known of it.
        let others = self.transfers.iter().filter(|one| one.from == life.node && one.life != life);
        all.extend(others.map(|one| {
            let state = Sending::UnderWay { percent: 0, got_on_at: one.begun_at };
            (one.vm.clone(), Sent { number: 0, state })
        }));
        all
    }
}

/// A domain as it arrives somewhere.
pub(crate) fn arriving(domain: &Domain, devices: &[VmDevice]) -> Domain {
    let devices: Vec<HostDevice> =
        devices.iter().map(|device| HostDevice { source: device.source.clone(), ours: true }).collect();
    Domain {
        state: DomainState::Arriving,
        persistent: false,
        live_devices: devices.clone(),
        defined_devices: devices,
        ..domain.clone()
    }
}
