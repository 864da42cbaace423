//! Two hosts with stores of their own, and what lies between them.
//!
//! Nothing happens by itself: a host looks and acts, a message is carried, and a transfer gets on when a test says so. Where a step
//! would let a VM run on both hosts, or lets a copy go on that is older than its disks, the model complains.

use tranche_core::change::{self, Change, Heard, State};
use tranche_core::handover::{self, Answer, Awaited, Message, Offer, Told};
use tranche_core::inventory::*;
use tranche_core::journey::{Sending, Sent};
use tranche_core::name::*;
use tranche_core::spec::Request;
use tranche_core::step::{Step, VFIO_DRIVER, VmDevice};

use crate::world::{World, gpu, partitioned, vm};

pub(super) const NAME: &str = "desk";

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Here,
    There,
}

/// What stands still where the VM was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// Nothing, or it is not whole.
    No,
    /// Its old host is done with it.
    Current,
    /// Its old host goes on with it.
    Stale,
    /// Its old host went on with it, and has forgotten that with its boot.
    Unclear,
}

/// Two hosts, and a VM that runs on the first.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) here: World,
    pub(super) there: World,
    pub(super) invitation: InvitationId,
    /// The number of the journey that is under way.
    sends: Option<u64>,
    copied: Copied,
    /// The daemon that sent the VM is still about to let it go on.
    lets_go_on: bool,
}

fn proven() -> MigrationFacts {
    let of = || Evidence::new(Certainty::Proven, "a test");
    MigrationFacts { stop_copy: of(), device_dirty_log: of(), ..MigrationFacts::default() }
}

fn resources() -> Resources {
    let pool = StoragePool { kind: "netfs".to_owned(), path: None, active: true, shared: true };
    Resources { pools: [("default".to_owned(), pool)].into(), ..Resources::default() }
}

impl Pair {
    /// With partitions that can move while they run, or cannot.
    pub(super) fn new(is_live: bool) -> Self {
        let world = |name: &str| {
            let mut world = World::named(name.parse().unwrap(), 1);
            world.set_mode(1, partitioned(4));
            world.seen().progress.travels = true;
            if is_live {
                world.gpu(1).migration = Some(proven());
            }
            if let Hypervisor::Up { resources: known, .. } = &mut world.seen().hypervisor {
                *known = Some(resources());
            }
            world
        };
        let (mut here, mut there) = (world("node1"), world("node2"));
        here.create(NAME, Request::ANY_PARTITION);
        here.start(NAME);
        assert!(here.runs(NAME));
        there.now = Timestamp(500);
        let invitation: InvitationId = "a".repeat(64).parse().unwrap();
        there.accepts(&Change::Invite { id: invitation.clone(), until: Timestamp(10_000_000) });
        Self { here, there, invitation, sends: None, copied: Copied::No, lets_go_on: false }
    }

    pub(super) fn side(&mut self, side: Side) -> &mut World {
        match side {
            Side::Here => &mut self.here,
            Side::There => &mut self.there,
        }
    }

    pub(super) fn is_on(&self, side: Side) -> bool {
        self.domain(side).is_some_and(|it| matches!(it, DomainState::Running | DomainState::ShuttingDown))
    }

    pub(super) fn domain(&self, side: Side) -> Option<DomainState> {
        let world = if side == Side::Here { &self.here } else { &self.there };
        world.inventory[&world.name].domain(&vm(NAME)).map(|domain| domain.state)
    }

    // What is asked for.

    /// Asks the other host how it would take the VM, and has it go there. Returns whether it is admitted.
    pub(super) fn may_hand_over(&mut self) -> bool {
        let state = self.here.state();
        if change::can_go(&vm(NAME), state).is_err() {
            return false;
        }
        let offer = Offer::of(&vm(NAME), state).expect("it is known");
        let Ok(outlook) = change::judge_offer(&offer, self.there.state()) else { return false };
        let (name, invitation) = (vm(NAME), self.invitation.clone());
        self.here.submit(&Change::HandOver { name, invitation, outlook: Box::new(outlook) }).is_ok()
    }

    #[track_caller]
    pub(super) fn hands_over(&mut self) {
        assert!(self.may_hand_over(), "the VM can go");
    }

    // What lies between them.

    /// What the first host tells the other one, if anything.
    pub(super) fn message(&self) -> Option<(Message, InvitationId)> {
        let planned = self.here.plan.vms.get(&vm(NAME))?;
        let parting = planned.parting.as_ref()?;
        let offer = Box::new(Offer::of(&vm(NAME), self.here.state())?);
        let message = Message { id: planned.id, turn: parting.turn, order: parting.order()?, offer };
        Some((message, parting.invitation.clone()))
    }

    /// Brings a message, also one that was held up. Returns the answer, if the other host gives one.
    pub(super) fn bring(&mut self, message: &Message, invitation: &InvitationId) -> Option<Answer> {
        self.there.now.0 += 1;
        let now = self.there.now;
        let heard = change::hear(invitation, message, self.there.state(), now);
        match heard {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Comes(admitted)) => self.there.spec = admitted.spec,
            Ok(Heard::Told(spec)) => self.there.spec = *spec,
            Err(why) => return handover::refused(message.order, why[0].message.clone()),
        }
        handover::answer(invitation, message.turn, self.there.state())
    }

    /// Tells the other host, and takes in what it answers.
    pub(super) fn exchange(&mut self) {
        let Some((message, invitation)) = self.message() else { return };
        let Some(answer) = self.bring(&message, &invitation) else { return };
        let told = Told { invitation, turn: message.turn, answer };
        self.here.seen().progress.told.insert(vm(NAME), told);
    }

    // What hosts do.

    /// A host looks, decides, and carries out the first steps.
    pub(super) fn pass(&mut self, side: Side, at_most: usize) {
        let now = self.side(side).now;
        self.side(side).seen().observed_at = now;
        let due = self.side(side).pass();
        if !self.is_awaited() {
            self.fails("its way was closed");
        }
        for step in due.into_iter().take(at_most) {
            self.carry_out(side, &step);
        }
    }

    /// Whether the way to the second host's libvirt is open.
    fn is_awaited(&self) -> bool {
        let planned = self.there.plan.vms.get(&vm(NAME));
        planned.and_then(|planned| planned.awaited.as_ref()).is_some_and(Awaited::is_let_in)
    }

    /// Everybody does what is due, and talks.
    pub(super) fn turn(&mut self) {
        self.pass(Side::Here, usize::MAX);
        self.exchange();
        self.pass(Side::There, usize::MAX);
    }

    pub(super) fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    fn carry_out(&mut self, side: Side, step: &Step) {
        match step {
            Step::ExpectVm { vm, .. } => drop(self.side(side).seen().progress.expects.insert(vm.clone())),
            Step::SendVm { number, devices, .. } => self.sends(*number, devices),
            Step::CallOffVm { number, .. } => {
                assert_eq!(self.sends, Some(*number), "another journey is called off");
                self.fails("it was called off");
            }
            Step::ResumeVm { .. } => self.goes_on(side),
            Step::UndefineVm { vm, .. } => {
                self.side(side).seen().progress.expects.remove(vm);
                if self.domain(side).is_some() {
                    self.side(side).carry_out(step);
                }
            }
            Step::StartVm { .. } => {
                assert!(!self.is_on(Side::Here) && !self.is_on(Side::There), "it would run on both hosts");
                self.side(side).carry_out(step);
            }
            Step::ShutDownVm { .. } | Step::KillVm { .. } => {
                self.breaks_off(side);
                if side == Side::There {
                    self.copied = Copied::No;
                }
                if self.domain(side).is_some() {
                    self.side(side).carry_out(step);
                    self.side(side).domains().retain(|_, it| it.persistent || it.state.is_active());
                }
            }
            other => self.side(side).carry_out(other),
        }
    }

    fn goes_on(&mut self, side: Side) {
        assert!(!self.is_on(Side::Here) && !self.is_on(Side::There), "it would run on both hosts");
        assert_ne!(self.copied, Copied::Stale, "it would go back in time");
        self.copied = Copied::No;
        let domain = self.side(side).domains().get_mut(NAME).expect("it is there");
        assert_eq!(domain.state, DomainState::Paused, "it is resumed");
        domain.state = DomainState::Running;
    }

    // What befalls a VM that is sent.

    fn sends(&mut self, number: u64, devices: &[VmDevice]) {
        assert_eq!(self.domain(Side::Here), Some(DomainState::Running), "only what runs is sent");
        let partitions = &self.there.gpu(1).partitions;
        let is_bound = |device: &VmDevice| {
            let found = partitions.iter().find(|it| DeviceSource::from(&it.device) == device.source);
            found.is_some_and(|it| it.driver.as_deref() == Some(VFIO_DRIVER))
        };
        let is_bound = devices.iter().all(is_bound);
        if self.domain(Side::There).is_some() || !self.is_awaited() || !is_bound {
            return self.notes(number, Sending::Failed { why: "it is not let in".to_owned() });
        }
        let devices: Vec<HostDevice> =
            devices.iter().map(|it| HostDevice { source: it.source.clone(), ours: true }).collect();
        let source = self.here.domains()[NAME].clone();
        let (live_devices, defined_devices) = (devices.clone(), devices);
        let state = DomainState::Arriving;
        let arrives = Domain { state, persistent: false, live_devices, defined_devices, ..source };
        self.there.domains().insert(NAME.to_owned(), arrives);
        (self.sends, self.copied, self.lets_go_on) = (Some(number), Copied::No, false);
        let got_on_at = self.here.now;
        self.notes(number, Sending::UnderWay { percent: 0, got_on_at });
    }

    fn notes(&mut self, number: u64, state: Sending) {
        self.here.seen().progress.sent.insert(vm(NAME), Sent { number, state });
    }

    pub(super) fn fails(&mut self, why: &str) {
        let Some(number) = self.sends.take() else { return };
        self.there.domains().remove(NAME);
        self.notes(number, Sending::Failed { why: why.to_owned() });
    }

    /// One of the two ends of a transfer is gone.
    fn breaks_off(&mut self, side: Side) {
        if self.sends.is_some() {
            self.fails("one of its ends is gone");
        }
        if side == Side::Here {
            self.lets_go_on = false;
        }
    }

    /// The VM is whole there, and off here.
    pub(super) fn is_sent(&mut self) {
        let Some(number) = self.sends.take() else { return };
        self.becomes_whole();
        self.here.end_domain(NAME, OffReason::Migrated);
        self.notes(number, Sending::Done { pause_ms: 1, total_ms: 2 });
        (self.copied, self.lets_go_on) = (Copied::Current, true);
    }

    /// The VM is whole there, and its old host does not get to know: it goes on here.
    pub(super) fn loses_the_last_answer(&mut self) {
        let Some(number) = self.sends.take() else { return };
        self.becomes_whole();
        self.copied = Copied::Stale;
        self.notes(number, Sending::Failed { why: "no answer".to_owned() });
    }

    fn becomes_whole(&mut self) {
        let domain = self.there.domains().get_mut(NAME).expect("it arrives");
        (domain.state, domain.persistent) = (DomainState::Paused, true);
    }

    /// The daemon that sent the VM lets it go on there by its own connection.
    pub(super) fn lets_go_on(&mut self) {
        if std::mem::take(&mut self.lets_go_on) && self.domain(Side::There) == Some(DomainState::Paused) {
            self.goes_on(Side::There);
        }
    }

    /// A daemon is killed and comes back: it has forgotten what it sent.
    pub(super) fn daemon_restarts(&mut self, side: Side) {
        self.side(side).seen().progress.expects.clear();
        self.side(side).seen().progress.told.clear();
        if side == Side::Here {
            self.lets_go_on = false;
            let sent = &mut self.here.seen().progress.sent;
            if sent.get(&vm(NAME)).is_some_and(Sent::is_under_way) {
                // The way ends with the daemon, and so does what went over it.
                self.fails("the daemon was restarted");
            }
            self.here.seen().progress.sent.clear();
        }
    }

    /// Power is lost and comes back.
    pub(super) fn reboots(&mut self, side: Side) {
        self.breaks_off(side);
        self.daemon_restarts(side);
        let (was_there, was_stale) = (side == Side::There, self.copied == Copied::Stale);
        match self.copied {
            _ if was_there => self.copied = Copied::No,
            Copied::Stale if was_stale => self.copied = Copied::Unclear,
            _ => {}
        }
        self.side(side).reboot();
        self.side(side).domains().retain(|_, it| it.persistent || it.state.is_active());
        if self.here.gpu(1).migration.is_some() {
            // A card can what it could.
            self.side(side).gpu(1).migration = Some(proven());
        }
    }

    /// The guest, or somebody at libvirt, ends a VM that runs.
    pub(super) fn goes_off(&mut self, side: Side, reason: OffReason) {
        if self.is_on(side) {
            self.breaks_off(side);
            self.side(side).end_domain(NAME, reason);
        }
    }

    // How it ends.

    /// Whose the VM is, by both stores. Nobody may say that it is nobody's.
    pub(super) fn owners(&self) -> Vec<Side> {
        let here = self.here.spec.vms.contains_key(&vm(NAME)) && !self.has_left();
        let there = self.there.spec.vms.get(&vm(NAME)).is_some_and(|spec| spec.incoming().is_none());
        [(Side::Here, here), (Side::There, there)]
            .into_iter()
            .filter(|(_, it)| *it)
            .map(|(side, _)| side)
            .collect()
    }

    fn has_left(&self) -> bool {
        let parting = self.here.plan.vms.get(&vm(NAME)).and_then(|planned| planned.parting.as_ref());
        parting.is_some_and(|parting| parting.stage == handover::Stage::Left)
    }

    pub(super) fn stage(&self) -> Option<handover::Stage> {
        let planned = self.here.plan.vms.get(&vm(NAME))?;
        planned.parting.as_ref().map(|parting| parting.stage.clone())
    }

    /// What a host has booked for the VM.
    pub(super) fn booked(&self, side: Side) -> usize {
        let world = if side == Side::Here { &self.here } else { &self.there };
        world.plan.held_by(&vm(NAME)).count()
    }

    pub(super) fn state(&self, side: Side) -> State<'_> {
        if side == Side::Here { self.here.state() } else { self.there.state() }
    }

    /// The mode of the GPU of the second host changes, so that it is another.
    pub(super) fn mode_there(&mut self, count: u16) {
        let gpu = GpuKey { host: self.there.name.clone(), ..gpu(1) };
        self.there.accepts(&Change::SetGpuMode { gpu, mode: partitioned(count) });
        self.there.settle();
    }
}
