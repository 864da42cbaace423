//! Partings: VMs that go to hosts with other stores. [`crate::handover`] has the stages.
//!
//! What is decided here rests on what this host saw after it knew the stage, and on answers to the very turn. A host that stands
//! alone looks, decides and acts in turn, so what it sees is of after its last decision.

use super::{GUEST_SHUTDOWN_MS_MAX, Planner};
use crate::diagnostics as say;
use crate::handover::{Answer, Parting, Stage, Stays, Word};
use crate::inventory::{Domain, DomainState, HostInventory, OffReason};
use crate::journey::{Migration, Sending, Sent};
use crate::migration::Way;
use crate::name::VmName;
use crate::plan::{VmGoal, VmPlan};
use crate::spec::VmSpec;

/// How long the other host may take until what the VM gets there is ready, in milliseconds.
const PREPARE_MS_MAX: u64 = 2 * 60_000;
/// How long sending may get no further, in milliseconds.
const STANDSTILL_MS_MAX: u64 = 2 * 60_000;
/// How long a VM that was shut down waits for the other host's word, in milliseconds. Then it is started again.
const WORD_MS_MAX: u64 = 2 * 60_000;

impl Planner<'_> {
    /// Brings every VM that goes to another store up to what is known.
    pub(super) fn judge_partings(&mut self) {
        let parting = self.scope.vms().filter_map(|name| Some((name, self.plan.vms.get(name)?)));
        let judged: Vec<(VmName, Stage)> = parting
            .filter_map(|(name, planned)| {
                let parting = planned.parting.as_ref()?;
                let seen = self.inventory.get(&planned.host).filter(|seen| seen.domains().is_some())?;
                let next = self.next_stage((name, planned), parting, seen)?;
                Some((name.clone(), next))
            })
            .collect();
        for (name, stage) in judged {
            self.turn_to(&name, stage);
        }
    }

    fn turn_to(&mut self, name: &VmName, stage: Stage) {
        let (now, told) = (self.now, self.word_on(name).map(|word| word.boot_id.clone()));
        let Some(planned) = self.plan.vms.get_mut(name) else { return };
        let Some(parting) = planned.parting.as_mut() else { return };
        if let Stage::Goes { .. } = stage {
            parting.boot_there = told.unwrap_or_default();
        }
        // What goes off for it has not gone off by itself, and what comes back is started.
        if matches!(stage, Stage::Stops { .. } | Stage::Lands | Stage::Left) {
            planned.goal = VmGoal::Move;
        }
        (parting.stage, parting.since) = (stage, now);
        parting.turn += 1;
    }

    /// The stage that follows; none while nothing is new.
    fn next_stage(
        &self,
        (name, planned): (&VmName, &VmPlan),
        parting: &Parting,
        seen: &HostInventory,
    ) -> Option<Stage> {
        let here = seen.domain(name).filter(|domain| domain.uuid == planned.id.0);
        let against = self.against_parting(name, parting);
        let is_late = |limit_ms| self.now.ms_since(parting.since) >= limit_ms;
        match &parting.stage {
            Stage::Prepares => self.after_preparing(name, parting, here, against),
            Stage::Goes { .. } => self.after_going(name, parting, (here, seen), against),
            Stage::CalledOff { why } => self.after_calling_off(name, (planned, parting), why, (here, seen)),
            Stage::Stops { forced } => {
                let is_off = here.is_none_or(|domain| !domain.state.is_active());
                let is_commanded = self.spec.vms.get(name).is_none_or(|spec| {
                    !spec.run.is_up() || planned.settled.as_ref().is_none_or(|it| it.serial < spec.serial)
                });
                // A guest that was asked to shut down does so: that is seen through, unless somebody said what to do instead.
                let may_drop = is_off || is_commanded;
                match (against, self.answer_on(name)) {
                    (Some(why), _) => may_drop.then(|| drops(why)),
                    (None, Some(Answer::Dropped { why })) => may_drop.then(|| drops(why.clone())),
                    // The same partition is ready there, and nothing of the VM runs there.
                    (None, Some(Answer::Seen { word, .. })) if is_off && is_ready(word) => Some(Stage::Left),
                    _ if !is_off && !forced && is_late(GUEST_SHUTDOWN_MS_MAX) => {
                        Some(Stage::Stops { forced: true })
                    }
                    _ if is_off && is_late(WORD_MS_MAX) => {
                        Some(drops(format!("host {} did not say that it is ready", parting.to)))
                    }
                    _ => None,
                }
            }
            Stage::Lands => self.after_landing(name, parting, seen, against),
            Stage::Left => match self.answer_on(name) {
                Some(Answer::Dropped { why }) => Some(drops(why.clone())),
                _ => against.map(drops),
            },
            Stage::Drops { why } => {
                let is_told = matches!(self.answer_on(name), Some(Answer::Dropped { .. } | Answer::Owned));
                is_told.then(|| Stage::Stayed { why: why.clone() })
            }
            Stage::Stayed { .. } => None,
        }
    }

    fn after_preparing(
        &self,
        name: &VmName,
        parting: &Parting,
        here: Option<&Domain>,
        against: Option<String>,
    ) -> Option<Stage> {
        if let Some(why) = against {
            return Some(drops(why));
        }
        if here.is_none_or(|domain| domain.state != DomainState::Running) {
            return Some(drops("the VM does not run any more".to_owned()));
        }
        let policy = self.spec.vms.get(name).map(|spec| spec.availability.migration);
        match self.answer_on(name) {
            Some(Answer::Dropped { why }) => Some(drops(why.clone())),
            Some(Answer::Seen { way, word: Word { ready: Some(devices), state, .. } })
                if state.is_none_or(|state| !state.is_active()) =>
            {
                Some(match (policy, way) {
                    (Some(Migration::LiveOrRestart | Migration::LiveOnly), Way::Live) => {
                        Stage::Goes { devices: devices.clone() }
                    }
                    (Some(Migration::LiveOrRestart | Migration::Restart), Way::Live | Way::Restart) => {
                        Stage::Stops { forced: false }
                    }
                    _ => drops(format!("it cannot move to host {} while it runs", parting.to)),
                })
            }
            _ if self.now.ms_since(parting.since) >= PREPARE_MS_MAX => {
                Some(drops(format!("what it gets on host {} was not ready in time", parting.to)))
            }
            _ => None,
        }
    }

    fn after_going(
        &self,
        name: &VmName,
        parting: &Parting,
        (here, seen): (Option<&Domain>, &HostInventory),
        against: Option<String>,
    ) -> Option<Stage> {
        let called_off = |why: String| Some(Stage::CalledOff { why });
        match here.map(|domain| domain.state) {
            Some(DomainState::Off { reason: OffReason::Migrated }) => return Some(Stage::Lands),
            None | Some(DomainState::Off { .. }) => return called_off("the VM went off".to_owned()),
            Some(_) => {}
        }
        match sent_of(seen, name, parting.number).map(|sent| &sent.state) {
            // It is sent once the other host lets it in.
            None if self.now.ms_since(parting.since) >= PREPARE_MS_MAX && self.word_on(name).is_none() => {
                return called_off(format!("host {} does not answer", parting.to));
            }
            Some(Sending::Failed { why }) => return called_off(why.clone()),
            Some(Sending::UnderWay { got_on_at, .. })
                if seen.observed_at.ms_since(*got_on_at) >= STANDSTILL_MS_MAX =>
            {
                return called_off("it got no further for two minutes".to_owned());
            }
            _ => {}
        }
        if let Some(Answer::Dropped { why }) = self.answer_on(name) {
            return called_off(why.clone());
        }
        against.and_then(called_off)
    }

    /// A VM that runs here is here. One that was sent whole is there. Of one that is off here for another reason, and of which this host
    /// does not know whether it was sent, the other host has to tell whether it is whole there; one that ended here by itself had gone
    /// on here.
    fn after_calling_off(
        &self,
        name: &VmName,
        (planned, parting): (&VmPlan, &Parting),
        why: &str,
        (here, seen): (Option<&Domain>, &HostInventory),
    ) -> Option<Stage> {
        if sent_of(seen, name, parting.number).is_some_and(Sent::is_under_way) {
            return None;
        }
        let off = match here.map(|domain| domain.state) {
            None => OffReason::Unknown,
            Some(DomainState::Off { reason }) => reason,
            Some(_) => {
                let spec = self.spec.vms.get(name);
                let may_stop =
                    spec.is_some_and(|spec| spec.availability.migration == Migration::LiveOrRestart);
                let is_wanted = self.against_parting(name, parting).is_none();
                return Some(if may_stop && is_wanted {
                    Stage::Stops { forced: false }
                } else {
                    drops(why.to_owned())
                });
            }
        };
        if off == OffReason::Migrated {
            return Some(Stage::Lands);
        }
        let has_ended = off != OffReason::Unknown;
        let same_boot = planned.settled.as_ref().is_some_and(|settled| settled.boot_id == seen.boot_id);
        let is_kept = self.spec.vms.get(name).and_then(VmSpec::outgoing);
        let is_kept = is_kept.is_some_and(|wish| wish.stays == Some(Stays::ByWord));
        match self.answer_on(name) {
            _ if is_kept || has_ended && same_boot => Some(drops(why.to_owned())),
            Some(Answer::Seen { word, .. }) => {
                let is_there = match word.state {
                    Some(DomainState::Running | DomainState::ShuttingDown) => true,
                    Some(DomainState::Paused) => !has_ended,
                    None | Some(DomainState::Arriving | DomainState::Off { .. }) => false,
                };
                Some(if is_there { Stage::Lands } else { drops(why.to_owned()) })
            }
            Some(Answer::Dropped { .. }) => Some(drops(why.to_owned())),
            _ => None,
        }
    }

    /// A VM that was sent and is off here: it is the other's once it runs there, or was lost there.
    fn after_landing(
        &self,
        name: &VmName,
        parting: &Parting,
        seen: &HostInventory,
        against: Option<String>,
    ) -> Option<Stage> {
        let nothing_there = || drops(format!("it is not on host {}", parting.to));
        match self.answer_on(name) {
            Some(Answer::Dropped { why }) => Some(drops(why.clone())),
            Some(Answer::Seen { word, .. }) => match word.state {
                Some(DomainState::Running | DomainState::ShuttingDown) => Some(Stage::Left),
                Some(DomainState::Paused | DomainState::Arriving) => None,
                None | Some(DomainState::Off { .. }) => {
                    let is_lost = !parting.boot_there.is_empty() && word.boot_id != parting.boot_there;
                    let was_sent = sent_of(seen, name, parting.number)
                        .is_some_and(|sent| matches!(sent.state, Sending::Done { .. }));
                    Some(if is_lost || was_sent { Stage::Left } else { nothing_there() })
                }
            },
            _ => against.map(drops),
        }
    }

    /// What speaks against a VM's going there: something else was asked for since. Of one that may be there already, only somebody's
    /// word counts that it is not.
    fn against_parting(&self, name: &VmName, parting: &Parting) -> Option<String> {
        let superseded = || Some("something else was asked for".to_owned());
        let Some(spec) = self.spec.vms.get(name) else { return superseded() };
        let Some(wish) = spec.outgoing().filter(|wish| wish.invitation == parting.invitation) else {
            return superseded();
        };
        match wish.stays {
            Some(Stays::ByWord) => {
                return Some(format!("somebody said that host {} does not run it", wish.to));
            }
            Some(Stays::CalledOff) if !parting.is_away() => return Some("it was called off".to_owned()),
            Some(Stays::CalledOff) | None => {}
        }
        let is_wanted = parting.is_away() || (spec.run.is_up() && spec.serial == wish.serial);
        if is_wanted { None } else { superseded() }
    }

    /// What the other host answered to the turn that a VM is at.
    fn answer_on(&self, name: &VmName) -> Option<&Answer> {
        let planned = self.plan.vms.get(name)?;
        let parting = planned.parting.as_ref()?;
        parting.answer_in(self.inventory.get(&planned.host)?.progress.told.get(name))
    }

    fn word_on(&self, name: &VmName) -> Option<&Word> {
        if let Some(Answer::Seen { word, .. }) = self.answer_on(name) { Some(word) } else { None }
    }

    /// Decides about a VM that shall go to another store, or is on its way. Returns whether nothing else is to be decided about it.
    pub(super) fn parts(&mut self, name: &VmName, spec: &VmSpec) -> bool {
        if self.begins_to_part(name, spec) {
            return true;
        }
        let Some(planned) = self.plan.vms.get(name) else { return false };
        let Some(parting) = planned.open_parting() else { return false };
        let said = match (&parting.stage, self.answer_on(name)) {
            (Stage::Lands | Stage::Left | Stage::CalledOff { .. }, None) => {
                let waits = self.now.ms_since(parting.since) >= WORD_MS_MAX;
                waits.then(|| say::handover_silent(name, &parting.to))
            }
            (Stage::Stops { .. }, _) => {
                let domain = self.inventory.get(&planned.host).and_then(|seen| seen.domain(name));
                let active = domain.is_some_and(|domain| domain.state.is_active());
                (active && self.now.ms_since(parting.since) > 0).then(|| say::shutdown_slow(name))
            }
            _ => None,
        };
        self.findings.extend(said);
        true
    }

    /// Lets a VM that runs set out, if that was asked for and has not come to nothing.
    fn begins_to_part(&mut self, name: &VmName, spec: &VmSpec) -> bool {
        let Some(wish) = spec.outgoing().filter(|wish| wish.stays.is_none()) else { return false };
        let Some(planned) = self.plan.vms.get(name).filter(|planned| planned.id == spec.id) else {
            return false;
        };
        let is_known = planned.parting.as_ref().is_some_and(|parting| parting.invitation == wish.invitation);
        let seen = self.inventory.get(&planned.host);
        let runs = seen.and_then(|seen| seen.domain(name)).is_some_and(|it| it.state == DomainState::Running);
        let stays = matches!(planned.goal, VmGoal::Run | VmGoal::Leave) && planned.journey.is_none();
        if is_known || !runs || !stays || wish.serial != spec.serial || !spec.run.is_up() {
            return false;
        }
        let number = self.plan.generations.get(&planned.host).copied().unwrap_or_default() + 1;
        let parting = Parting {
            to: wish.to.clone(),
            invitation: wish.invitation.clone(),
            number,
            turn: number,
            since: self.now,
            boot_there: String::new(),
            foreseen_ms: wish.foreseen_ms,
            stage: Stage::Prepares,
        };
        if let Some(planned) = self.plan.vms.get_mut(name) {
            planned.parting = Some(parting);
        }
        true
    }

    /// Whether a VM is another store's by now, so that what it had here is free.
    pub(super) fn has_left(&self, name: &VmName) -> bool {
        let parting = self.plan.vms.get(name).and_then(|planned| planned.parting.as_ref());
        parting.is_some_and(|parting| parting.stage == Stage::Left)
    }

    /// Whether the other store has said that a VM is its own.
    pub(super) fn is_handed_over(&self, name: &VmName) -> bool {
        self.has_left(name) && matches!(self.answer_on(name), Some(Answer::Owned))
    }
}

/// Whether all that a VM needs is ready where it goes, and nothing of it runs there.
fn is_ready(word: &Word) -> bool {
    word.ready.is_some() && word.state.is_none_or(|state| !state.is_active())
}

fn drops(why: String) -> Stage {
    Stage::Drops { why }
}

fn sent_of<'a>(seen: &'a HostInventory, name: &VmName, number: u64) -> Option<&'a Sent> {
    seen.progress.sent.get(name).filter(|sent| sent.number == number)
}
