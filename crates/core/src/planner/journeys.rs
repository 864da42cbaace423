//! Journeys: VMs that go to another host while they run. [`crate::journey`] has the stages.
//!
//! What a host does is decided by its stage alone, so a report in step with the plan tells of a host that knows the stage. That
//! is why a report decides only then: before, the host might just be doing what another stage allowed.

use super::Planner;
use crate::change::State;
use crate::diagnostics as say;
use crate::inventory::{Domain, DomainState, Guard, HostInventory, OffReason};
use crate::journey::{Journey, Migration, Missed, Sending, Sent, Stage};
use crate::migration::Live;
use crate::name::{HostName, VmName};
use crate::placement::{Board, Place};
use crate::plan::{Booking, Settled, Standing, VmGoal, VmPlan};
use crate::spec::{VmSource, VmSpec};
use crate::step::VmDevice;
use crate::steps::{needs_more, ready_devices, shall_arm};

/// How many VMs leave one host, or come to one, at the same time.
const TOGETHER_MAX: usize = 2;
/// How long what a VM gets on the other host may take to be ready, in milliseconds.
const PREPARE_MS_MAX: u64 = 2 * 60_000;
/// How long sending may get no further, in milliseconds.
const STANDSTILL_MS_MAX: u64 = 2 * 60_000;

/// What is known of a host of a journey.
#[derive(Clone, Copy)]
enum Word<'a> {
    /// Nothing of now.
    Silent,
    /// It runs nothing any more.
    Gone,
    /// What it reported since it knew all that was decided.
    Now(&'a HostInventory),
}

/// What becomes of a journey.
enum Next {
    /// Nothing new.
    Waits,
    /// It is at another stage.
    At(Stage),
    /// The VM is the other host's.
    Arrived,
    /// It came to nothing. The VM stays where it is.
    InVain(String),
    /// Nothing is left of it.
    Over,
}

impl Planner<'_> {
    /// Brings every journey up to what is known of its hosts.
    pub(super) fn judge_journeys(&mut self) {
        let travelling = self.scope.vms().filter_map(|name| Some((name, self.plan.vms.get(name)?)));
        let judged: Vec<(VmName, Next)> = travelling
            .filter_map(|(name, planned)| {
                let journey = planned.journey.as_ref()?;
                Some((name.clone(), self.next_of(name, planned, journey)))
            })
            .collect();
        for (name, next) in judged {
            self.follow(&name, next);
        }
    }

    fn next_of(&self, name: &VmName, planned: &VmPlan, journey: &Journey) -> Next {
        let here = self.word_of(&planned.host, journey.known_here);
        let there = self.word_of(&journey.other, journey.known_there);
        match &journey.stage {
            Stage::Prepares => self.next_of_preparing(name, planned, journey, (here, there)),
            Stage::Goes { .. } => self.next_of_going(name, planned, journey, (here, there)),
            Stage::CalledOff { why } => next_of_called_off((name, planned), why, here, there),
            Stage::Lands => {
                let is_lost = matches!(there, Word::Now(seen) if journey.is_lost_with_boot(&seen.boot_id));
                let is_lost = is_lost && !self.is_seen_beside(planned, journey, name);
                next_of_landing((name, planned), journey, is_lost, here, there)
            }
            Stage::Clears => {
                let holds = self.plan.held_by(name).any(|(slot, _)| slot.gpu.host == journey.other);
                let is_forgotten = !self.spec.vms.contains_key(name);
                let is_clear = match there {
                    Word::Gone => true,
                    Word::Silent => false,
                    Word::Now(seen) => {
                        // Of one that is forgotten nobody would remove the definition any more.
                        let is_left = |it: &Domain| it.state.is_active() || is_forgotten;
                        !domain_of(seen, name, planned).is_some_and(is_left)
                    }
                };
                if is_clear && !holds { Next::Over } else { Next::Waits }
            }
        }
    }

    /// Whether a host that has no part in a VM's journey says that the VM is there: somebody else moved it.
    fn is_seen_beside(&self, planned: &VmPlan, journey: &Journey, name: &VmName) -> bool {
        let others =
            self.inventory.iter().filter(|(host, _)| **host != planned.host && **host != journey.other);
        others.filter_map(|(_, seen)| domain_of(seen, name, planned)).any(|domain| domain.state.is_active())
    }

    fn next_of_preparing(
        &self,
        name: &VmName,
        planned: &VmPlan,
        journey: &Journey,
        (here, there): (Word<'_>, Word<'_>),
    ) -> Next {
        if let Some(why) = self.against(name, journey, here, there) {
            return Next::InVain(why);
        }
        if let Word::Now(seen) = here
            && domain_of(seen, name, planned).is_none_or(|domain| domain.state != DomainState::Running)
        {
            return Next::InVain("the VM does not run any more".to_owned());
        }
        let ready = if let Word::Now(seen) = there { self.ready_there(name, seen) } else { None };
        match ready {
            Some(devices) => Next::At(Stage::Goes { devices }),
            None if self.now.ms_since(journey.since) >= PREPARE_MS_MAX => {
                Next::InVain(format!("what it gets on host {} was not ready in time", journey.other))
            }
            None => Next::Waits,
        }
    }

    /// The devices that a VM gets on the host that it goes to, once all that it needs is ready there.
    fn ready_there(&self, name: &VmName, seen: &HostInventory) -> Option<Vec<VmDevice>> {
        // Its new host may be given up as soon as the VM runs there, so the word of its watchdog is given first.
        let guards = seen.progress.guard == Guard::Ready && shall_arm(self.spec, &self.plan, &seen.host);
        let source = self.spec.vms.get(name).map(|wish| &wish.source);
        let needs_more = matches!(source, Some(VmSource::Made(hardware)) if needs_more(hardware));
        let lacks = needs_more && !seen.progress.expects.contains(name);
        ready_devices(name, &self.plan, seen).filter(|_| !guards && !lacks)
    }

    fn next_of_going(
        &self,
        name: &VmName,
        planned: &VmPlan,
        journey: &Journey,
        (here, there): (Word<'_>, Word<'_>),
    ) -> Next {
        let called_off = |why: String| Next::At(Stage::CalledOff { why });
        if let Word::Now(seen) = here {
            let sent = sent_of(seen, name, journey.number);
            match domain_of(seen, name, planned).map(|domain| domain.state) {
                Some(DomainState::Off { reason: OffReason::Migrated }) => return Next::At(Stage::Lands),
                None | Some(DomainState::Off { .. }) => return called_off("the VM went off".to_owned()),
                Some(_) => {}
            }
            match sent.map(|sent| &sent.state) {
                Some(Sending::Failed { why }) => return called_off(why.clone()),
                Some(Sending::UnderWay { got_on_at, .. })
                    if seen.observed_at.ms_since(*got_on_at) >= STANDSTILL_MS_MAX =>
                {
                    return called_off("it got no further for two minutes".to_owned());
                }
                _ => {}
            }
        }
        match self.against(name, journey, here, there) {
            Some(why) => called_off(why),
            None => Next::Waits,
        }
    }

    /// What speaks against a journey that was begun.
    fn against(&self, name: &VmName, journey: &Journey, here: Word<'_>, there: Word<'_>) -> Option<String> {
        let other = &journey.other;
        let wish = self.spec.vms.get(name);
        if wish.is_none_or(|wish| !wish.run.is_up() || wish.serial != journey.serial) {
            return Some("something else was asked for".to_owned());
        }
        let is_forced = |host| self.departing(host).is_some_and(|departure| departure.force);
        if self.plan.vms.get(name).is_some_and(|planned| is_forced(&planned.host)) {
            return Some("its host goes down at once".to_owned());
        }
        match (here, there) {
            (Word::Gone, _) => Some("its host is down".to_owned()),
            (_, Word::Gone) => Some(format!("host {other} is down")),
            // One that is silent for a moment is waited for.
            (_, Word::Now(_)) if !self.takes_vms(other) => {
                Some(format!("host {other} takes no VMs any more"))
            }
            _ => None,
        }
    }

    fn follow(&mut self, name: &VmName, next: Next) {
        let Some(planned) = self.plan.vms.get_mut(name) else { return };
        let Some(journey) = planned.journey.as_mut() else { return };
        if !matches!(next, Next::Waits) {
            let generations = &self.plan.generations;
            let after = |host| generations.get(host).copied().unwrap_or_default() + 1;
            (journey.known_here, journey.known_there) = (after(&planned.host), after(&journey.other));
        }
        match next {
            Next::Waits => {}
            Next::At(stage) => (journey.stage, journey.since) = (stage, self.now),
            Next::Over => planned.journey = None,
            Next::InVain(why) => {
                let before = planned.missed.as_ref().filter(|missed| missed.serial == journey.serial);
                let count = before.map_or(0, |missed| missed.count).saturating_add(1);
                let (serial, to) = (journey.serial, journey.other.clone());
                (journey.stage, journey.since) = (Stage::Clears, self.now);
                planned.missed = Some(Missed { serial, count, at: self.now, to, why });
            }
            Next::Arrived => {
                let from = std::mem::replace(&mut planned.host, journey.other.clone());
                let boot_id = self.inventory.get(&planned.host).map_or("", |seen| &seen.boot_id).to_owned();
                let serial = followed(self.spec.vms.get(name), journey.serial, &planned.host);
                planned.ran_on = Some(planned.host.clone());
                (planned.settled, planned.tried, planned.missed) =
                    (Some(Settled { serial, running: true, boot_id, rests: None }), None, None);
                (journey.other, journey.stage, journey.since) = (from, Stage::Clears, self.now);
                std::mem::swap(&mut journey.known_here, &mut journey.known_there);
            }
        }
    }

    /// What is known of a host that knows a stage from a generation on.
    fn word_of(&self, host: &HostName, known_from: u64) -> Word<'_> {
        let standing = self.plan.hosts.get(host).map(|planned| planned.standing);
        if !self.spec.hosts.contains_key(host) || matches!(standing, Some(Standing::Down { .. })) {
            return Word::Gone;
        }
        let seen = self.inventory.get(host).filter(|seen| {
            let knows = self.is_in_step(host) && seen.progress.generation >= known_from;
            knows && seen.domains().is_some()
        });
        seen.map_or(Word::Silent, |seen| Word::Now(seen))
    }

    /// Whether it is not settled yet where a VM is going to be.
    pub(super) fn is_travelling(&self, name: &VmName) -> bool {
        self.plan.vms.get(name).is_some_and(|planned| planned.open_journey().is_some())
    }

    /// Whether a VM is lost with a host that it was on when this pass began. Where one is that travels will show; then its turn comes.
    /// And one may have arrived elsewhere just now.
    pub(super) fn is_stranded(&self, name: &VmName, host: &HostName) -> bool {
        let is_there = self.plan.vms.get(name).is_some_and(|planned| planned.host == *host);
        is_there && !self.is_travelling(name)
    }

    /// Says what there is to say of a VM that travels.
    pub(super) fn report_journey(&mut self, name: &VmName) {
        let Some(planned) = self.plan.vms.get(name) else { return };
        let Some(journey) = planned.open_journey().filter(|journey| journey.stage == Stage::Prepares) else {
            return;
        };
        let Some(seen) = self.inventory.get(&journey.other) else { return };
        let held = self.plan.held_by(name).filter(|(slot, _)| slot.gpu.host == journey.other);
        let unready = held.filter_map(|(slot, _)| {
            let why = crate::placement::unready(slot, &self.plan, seen)?;
            Some(say::partition_unready(slot, name, &why))
        });
        self.findings.extend(unready.collect::<Vec<_>>());
    }

    /// Lets a VM that runs set out for another host, for `to` if that is given. Returns what its host shall do with it; nothing if it
    /// can only be shut down here and started there.
    pub(super) fn set_out(
        &mut self,
        (name, spec): (&VmName, &VmSpec),
        from: &HostInventory,
        to: Option<&HostName>,
        board: &mut Board<'_>,
    ) -> Option<VmGoal> {
        let planned = self.plan.vms.get(name).filter(|planned| planned.id == spec.id)?;
        let is_only = spec.availability.migration == Migration::LiveOnly;
        let stays = matches!(planned.goal, VmGoal::Run | VmGoal::Leave);
        if !stays || spec.availability.migration == Migration::Restart {
            return None;
        }
        let runs = from.domain(name).is_some_and(|domain| domain.state == DomainState::Running);
        if !runs || !self.is_in_step(&from.host) {
            if is_only {
                self.findings.push(say::migrate_live_only(name, &from.host));
            }
            return is_only.then_some(VmGoal::Run);
        }
        let missed = planned.missed.as_ref().filter(|missed| missed.serial == spec.serial);
        if let Some(missed) = missed {
            self.findings.push(say::migrate_failed(name, &missed.to, &missed.why));
            let waits = is_only && self.now < missed.pause_until();
            if waits {
                return Some(VmGoal::Run);
            }
            if !is_only && (missed.count > 1 || to.is_some()) {
                return None;
            }
        }
        let avoided = missed.filter(|_| !is_only).map(|missed| missed.to.clone());
        if planned.journey.is_some() || self.travellers_of(&from.host) >= TOGETHER_MAX {
            self.findings.push(say::migrate_queued(name, &from.host));
            return Some(VmGoal::Run);
        }
        let Some(place) = self.live_place((name, spec), from, (to, avoided.as_ref()), board) else {
            if is_only {
                self.findings.push(say::migrate_live_only(name, &from.host));
            }
            return is_only.then_some(VmGoal::Run);
        };
        if self.travellers_of(&place.host) >= TOGETHER_MAX {
            self.findings.push(say::migrate_queued(name, &from.host));
            return Some(VmGoal::Run);
        }
        let place = board.take((name, spec), Some(&place.host)).ok()?;
        self.begin_journey((name, spec), &from.host, &place);
        Some(VmGoal::Run)
    }

    /// The last journey of a VM that came to nothing, if it followed the present command.
    pub(super) fn missed_by(&self, name: &VmName, spec: &VmSpec) -> Option<&Missed> {
        let missed = self.plan.vms.get(name)?.missed.as_ref();
        missed.filter(|missed| missed.serial == spec.serial)
    }

    /// Whether a VM that would better be elsewhere waits: for what is left of its last journey, or for its pause to be over.
    pub(super) fn rests_from_travelling(&self, name: &VmName, spec: &VmSpec) -> bool {
        let is_cleared = self.plan.vms.get(name).is_none_or(|planned| planned.journey.is_none());
        let is_only = spec.availability.migration == Migration::LiveOnly;
        let missed = self.missed_by(name, spec).filter(|_| is_only);
        !is_cleared || missed.is_some_and(|missed| self.now < missed.pause_until())
    }

    /// Books what a VM gets on the host that it goes to.
    pub(super) fn begin_journey(&mut self, (name, spec): (&VmName, &VmSpec), from: &HostName, place: &Place) {
        for slot in &place.slots {
            let booking = Booking { vm: name.clone(), vm_id: spec.id, since: self.now };
            self.plan.bookings.insert(slot.clone(), booking);
        }
        let live = self.inventory.get(from).and_then(|seen| {
            let state = State { spec: self.spec, plan: &self.plan, inventory: self.inventory };
            Live::of((name, spec), &seen.host, (&place.host, &place.slots), state)
        });
        let foreseen_ms = live.and_then(|live| live.forecast).map(|forecast| forecast.pause_ms);
        let boot_there =
            self.inventory.get(&place.host).map_or_else(String::new, |seen| seen.boot_id.clone());
        // Each journey is another generation of the host that it begins at.
        let (known_here, known_there) = (self.generation_after(from), self.generation_after(&place.host));
        let journey = Journey {
            number: known_here,
            other: place.host.clone(),
            serial: spec.serial,
            since: self.now,
            known_here,
            known_there,
            boot_there,
            foreseen_ms,
            stage: Stage::Prepares,
        };
        if let Some(planned) = self.plan.vms.get_mut(name) {
            planned.journey = Some(journey);
        }
    }

    /// What is left of a VM's journey, now that it is at home on a host: that of its last one, or what it still has on another host
    /// if it lost its old one before that was cleared.
    pub(super) fn left_behind(
        &self,
        name: &VmName,
        host: &HostName,
        last: Option<Journey>,
    ) -> Option<Journey> {
        // Where it is at home by now, nothing is to be cleared.
        if let Some(journey) = last.filter(|journey| journey.other != *host) {
            // It may have come from a host of which more was decided.
            let known_here = journey.known_here.min(self.generation_after(host));
            return Some(Journey { known_here, ..journey });
        }
        let other = self.strays.get(name).filter(|other| *other != host)?.clone();
        let serial = self.spec.vms.get(name).map_or(0, |spec| spec.serial);
        let (known_here, known_there) = (self.generation_after(host), self.generation_after(&other));
        let stage = Stage::Clears;
        Some(Journey {
            number: 0,
            other,
            serial,
            since: self.now,
            known_here,
            known_there,
            boot_there: String::new(),
            foreseen_ms: None,
            stage,
        })
    }

    /// The generation that a host comes to by a decision about it in this pass.
    fn generation_after(&self, host: &HostName) -> u64 {
        self.plan.generations.get(host).copied().unwrap_or_default() + 1
    }

    /// Hosts that do not know the stage of a journey, and do not hear of it: a decision was stored in part.
    pub(super) fn behind_journeys(&self) -> impl Iterator<Item = &HostName> {
        let journeys = self.scope.vms().filter_map(|name| {
            let planned = self.plan.vms.get(name)?;
            Some((&planned.host, planned.journey.as_ref()?))
        });
        let known = journeys
            .flat_map(|(host, journey)| [(host, journey.known_here), (&journey.other, journey.known_there)]);
        known
            .filter(|(host, from)| self.plan.generations.get(*host).copied().unwrap_or_default() < *from)
            .map(|(host, _)| host)
    }

    /// How many VMs are on their way from a host or to it.
    fn travellers_of(&self, host: &HostName) -> usize {
        let travelling = self.scope.vms().filter_map(|name| self.plan.vms.get(name));
        let open = travelling.filter(|planned| planned.open_journey().is_some());
        open.filter(|planned| planned.hosts().any(|one| one == host)).count()
    }

    /// Whether a VM can go to a place while it runs.
    pub(super) fn may_travel(&self, vm: (&VmName, &VmSpec), from: &HostInventory, to: &Place) -> bool {
        self.live(vm, from, to).is_some_and(|live| live.obstacles.is_empty())
    }

    /// What stands against moving a VM to a place while it runs, and what it would cost; none if that is out of the question.
    fn live(&self, vm: (&VmName, &VmSpec), from: &HostInventory, to: &Place) -> Option<Live> {
        let travels = |host| self.inventory.get(host).is_some_and(|seen| seen.progress.travels);
        let (name, spec) = vm;
        let is_at_rest = self.plan.vms.get(name).is_some_and(|planned| planned.journey.is_none());
        let is_asked = spec.availability.migration == Migration::Restart;
        let known = is_at_rest && !is_asked && travels(&from.host) && travels(&to.host);
        if !known || !matches!(spec.source, VmSource::Made(_)) || !self.takes_vms(&to.host) {
            return None;
        }
        let state = State { spec: self.spec, plan: &self.plan, inventory: self.inventory };
        Live::of(vm, &from.host, (&to.host, &to.slots), state)
    }

    /// The place that a VM can go to while it runs: the best one of all, or else the first host that has one.
    fn live_place(
        &self,
        (name, spec): (&VmName, &VmSpec),
        from: &HostInventory,
        (to, avoided): (Option<&HostName>, Option<&HostName>),
        board: &Board<'_>,
    ) -> Option<Place> {
        let serves =
            |place: &Place| Some(&place.host) != avoided && self.may_travel((name, spec), from, place);
        let on = |host: &HostName| board.choose((name, spec), Some(host)).ok().filter(serves);
        match to {
            Some(to) => on(to),
            None => {
                let best = board.choose_elsewhere((name, spec), &from.host).ok()?;
                let others = || self.inventory.keys().filter(|host| **host != from.host).find_map(on);
                Some(best).filter(serves).or_else(others)
            }
        }
    }
}

/// What becomes of a journey that was called off. A VM that runs here is here. One that is off here, and whole there, is there:
/// it can only have become whole by its last move, and it does not run before that is decided. But one that ended here by itself
/// had gone on here, whatever has become whole there: that is older than its disks.
fn next_of_called_off(vm: (&VmName, &VmPlan), why: &str, here: Word<'_>, there: Word<'_>) -> Next {
    let in_vain = || Next::InVain(why.to_owned());
    let (is_off, has_left, has_ended) = match here {
        Word::Silent => return Next::Waits,
        Word::Gone => (true, false, false),
        Word::Now(seen) => {
            if seen.progress.sent.get(vm.0).is_some_and(Sent::is_under_way) {
                return Next::Waits;
            }
            let state = domain_of(seen, vm.0, vm.1).map(|domain| domain.state);
            let reason = state
                .and_then(|state| if let DomainState::Off { reason } = state { Some(reason) } else { None });
            let has_left = reason == Some(OffReason::Migrated);
            let has_ended = matches!(
                reason,
                Some(OffReason::Shutdown | OffReason::Destroyed | OffReason::Crashed | OffReason::Saved)
            );
            (state.is_none_or(|state| !state.is_active()), has_left, has_ended)
        }
    };
    let is_there = |seen: &HostInventory| match domain_of(seen, vm.0, vm.1).map(|domain| domain.state) {
        Some(DomainState::Running | DomainState::ShuttingDown) => true,
        Some(DomainState::Paused) => !has_ended,
        None | Some(DomainState::Arriving | DomainState::Off { .. }) => false,
    };
    match there {
        _ if !is_off => in_vain(),
        Word::Silent => Next::Waits,
        Word::Gone if has_left => Next::Arrived,
        Word::Now(seen) if has_left || is_there(seen) => Next::At(Stage::Lands),
        Word::Gone | Word::Now(_) => in_vain(),
    }
}

/// What becomes of a VM that is off here because it left, or because its host is down. `is_lost`: what had arrived there is lost with
/// that host's boot.
fn next_of_landing(
    (name, planned): (&VmName, &VmPlan),
    journey: &Journey,
    is_lost: bool,
    here: Word<'_>,
    there: Word<'_>,
) -> Next {
    let seen = match there {
        Word::Silent => return Next::Waits,
        Word::Gone => return Next::Arrived,
        Word::Now(seen) => seen,
    };
    match domain_of(seen, name, planned).map(|domain| domain.state) {
        Some(DomainState::Running | DomainState::ShuttingDown) => Next::Arrived,
        Some(DomainState::Paused | DomainState::Arriving) => Next::Waits,
        // Its old host's daemon may have forgotten since that it sent it; that the other host has booted says why it is not there.
        None | Some(DomainState::Off { .. }) if is_lost => Next::Arrived,
        // It fell there at once. That it was sent there, and not moved by hand to who knows where, its old host must have said.
        None | Some(DomainState::Off { .. }) => match here {
            Word::Silent => Next::Waits,
            Word::Gone => Next::Arrived,
            Word::Now(old) => match sent_of(old, name, journey.number).map(|sent| &sent.state) {
                Some(Sending::Done { .. }) => Next::Arrived,
                _ => Next::InVain(format!("it is not on host {}", journey.other)),
            },
        },
    }
}

/// The last command that a VM has followed which came to a host by a journey: the one that it set out by, or a later one to leave
/// its old host, if it has done so by coming here.
fn followed(wish: Option<&VmSpec>, set_out_by: u64, host: &HostName) -> u64 {
    let is_later = |wish: &&VmSpec| wish.run.is_up() && wish.serial > set_out_by;
    let later = wish.filter(is_later).and_then(|wish| {
        let told = wish.relocation.as_ref().filter(|told| told.serial == wish.serial)?;
        (!told.is_due_on(host)).then_some(told.serial)
    });
    later.unwrap_or(set_out_by)
}

fn domain_of<'a>(seen: &'a HostInventory, name: &VmName, planned: &VmPlan) -> Option<&'a Domain> {
    seen.domain(name).filter(|domain| domain.uuid == planned.id.0)
}

fn sent_of<'a>(seen: &'a HostInventory, name: &VmName, number: u64) -> Option<&'a Sent> {
    seen.progress.sent.get(name).filter(|sent| sent.number == number)
}
