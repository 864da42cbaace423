//! VMs that go to hosts with other stores, and come from those: what people may ask, and what the other host may tell.
//!
//! What the other host tells is no wish of a person, and yet enters the spec: so it is admitted here, too ([`hear`]).

use super::vm::create_findings;
use super::{Admitted, Refusal, State, refuse_deleted, refuse_errors, vm_of, with_vm};
use crate::diagnostics as say;
use crate::finding::{Finding, Subject};
use crate::handover::{
    Handover, INVITATIONS_MAX, Incoming, Invitation, Message, Offer, Order, Outcome, Outgoing, Stage, Stays,
    Used,
};
use crate::migration::{self, Outlook, Way};
use crate::name::{HostName, InvitationId, Timestamp, VmName};
use crate::operation::Goal;
use crate::plan::{Booking, Plan, VmGoal, VmPlan};
use crate::spec::{Run, Spec, VmSource, VmSpec};

/// The host that stands alone; refused in a cluster.
fn alone(state: State<'_>) -> Result<HostName, Refusal> {
    let host = state.inventory.keys().next().ok_or_else(|| vec![say::cluster_none()])?;
    if state.spec.hosts.is_empty() { Ok(host.clone()) } else { Err(vec![say::handover_in_cluster(host)]) }
}

/// Makes a place for one VM that comes from a host with another store.
pub(super) fn invite(
    id: &InvitationId,
    until: Timestamp,
    state: State<'_>,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let host = alone(state)?;
    let mut spec = state.spec.clone();
    spec.invitations.retain(|_, known| known.is_remembered(now));
    let open = spec.invitations.values().filter(|known| known.used.is_none()).count();
    if open >= INVITATIONS_MAX {
        let is = format!("{open} invitations that are open");
        return Err(vec![say::invalid_value("The number of", &is, &format!("{INVITATIONS_MAX} at most"))]);
    }
    spec.invitations.insert(id.clone(), Invitation { created_at: now, until, used: None });
    Ok(recorded(spec, "invite a VM of another host".to_owned(), Subject::Host(host)))
}

/// Forgets an invitation that nobody has used.
pub(super) fn uninvite(id: &InvitationId, state: State<'_>) -> Result<Admitted, Refusal> {
    let host = alone(state)?;
    let Some(known) = state.spec.invitations.get(id) else {
        return Err(vec![say::invitation_refused("no invitation has that id")]);
    };
    if let Some(Used { vm, from, outcome: None, .. }) = &known.used {
        return Err(vec![say::vm_is_coming(vm, from)]);
    }
    let mut spec = state.spec.clone();
    spec.invitations.remove(id);
    Ok(recorded(spec, "withdraw an invitation".to_owned(), Subject::Host(host)))
}

fn recorded(spec: Spec, title: String, subject: Subject) -> Admitted {
    Admitted { spec, goal: Goal::Recorded, title, subject, findings: Vec::new() }
}

/// Lets a VM go to a host with another store, which has said how it would take it.
pub(super) fn hand_over(
    name: &VmName,
    invitation: &InvitationId,
    outlook: &Outlook,
    state: State<'_>,
) -> Result<Admitted, Refusal> {
    let mut spec = can_go(name, state)?.clone();
    let to = &outlook.host;
    if outlook.way == Way::Neither {
        let why = outlook.why_not.iter().chain(&outlook.live_obstacles).cloned();
        return Err(std::iter::once(say::handover_refused(name, to)).chain(why).collect());
    }
    let parting = state.plan.vms.get(name).and_then(|planned| planned.parting.as_ref());
    let is_untold = parting.is_some_and(|it| matches!(it.stage, Stage::Drops { .. }) && it.to == *to);
    if is_untold {
        return Err(vec![say::handover_under_way(name, to)]);
    }
    spec.handover = Some(Handover::Out(Outgoing {
        to: to.clone(),
        invitation: invitation.clone(),
        serial: spec.serial,
        foreseen_ms: outlook.forecast.map(|forecast| forecast.pause_ms),
        stays: None,
    }));
    let goal = Goal::VmHandedOver { vm: name.clone(), invitation: invitation.clone(), to: to.clone() };
    let title = format!("hand VM {name} over to host {to}");
    Ok(with_vm(state, name, spec, goal, title, Vec::new()))
}

/// A VM that could go to a host with another store: it is made by Tranche, runs, and is not on its way.
///
/// # Errors
/// The findings that stand against it.
pub fn can_go<'a>(name: &VmName, state: State<'a>) -> Result<&'a VmSpec, Refusal> {
    alone(state)?;
    let spec = vm_of(name, state)?;
    refuse_deleted(name, spec)?;
    let planned = state.plan.vms.get(name).filter(|_| spec.run.is_up() && state.is_active(name));
    let settled = |planned: &&VmPlan| planned.settled.as_ref().is_some_and(|settled| settled.running);
    let Some(planned) = planned.filter(settled) else { return Err(vec![say::nothing_to_migrate(name)]) };
    if !matches!(spec.source, VmSource::Made(_)) {
        return Err(vec![say::migrate_blocked(name, &planned.host)]);
    }
    let on_its_way = planned.open_parting();
    let wished = spec.outgoing().filter(|wish| {
        planned.parting.as_ref().is_none_or(|parting| parting.invitation != wish.invitation)
            && wish.serial == spec.serial
            && wish.stays.is_none()
    });
    let to = on_its_way.map(|parting| &parting.to).or(wished.map(|wish| &wish.to));
    to.map_or(Ok(spec), |to| Err(vec![say::handover_under_way(name, to)]))
}

/// Keeps a VM that goes to a host with another store. Of one that may have arrived there this is the asker's word that it does not run
/// there, which is taken only where it is meant (`force`).
pub(super) fn take_back(name: &VmName, force: bool, state: State<'_>) -> Result<Admitted, Refusal> {
    let known = state.spec.vms.get(name).ok_or_else(|| vec![say::vm_not_found(name)])?;
    let wish = known.outgoing().ok_or_else(|| vec![say::not_on_its_way(name)])?;
    let parting = state.plan.vms.get(name).and_then(|planned| planned.parting.as_ref());
    let parting = parting.filter(|parting| parting.invitation == wish.invitation);
    let may_be_there = parting.is_some_and(|parting| match parting.stage {
        Stage::Lands | Stage::Left => true,
        Stage::CalledOff { .. } => !state.is_active(name),
        _ => false,
    });
    if may_be_there && !force {
        return Err(vec![say::vm_is_leaving(name, &wish.to)]);
    }
    let stays = Some(if may_be_there { Stays::ByWord } else { Stays::CalledOff });
    let handover = Some(Handover::Out(Outgoing { stays, ..wish.clone() }));
    let spec = VmSpec { handover, ..known.clone() };
    Ok(with_vm(state, name, spec, Goal::Recorded, format!("take VM {name} back"), Vec::new()))
}

/// Why a host does not enter a cluster yet: a VM is on its way between it and a host with another store, and members of a cluster
/// neither hand VMs over nor take them.
pub fn under_way(spec: &Spec, plan: &Plan) -> Option<Finding> {
    spec.vms.iter().find_map(|(name, vm)| {
        if let Some(incoming) = vm.incoming() {
            return Some(say::vm_is_coming(name, &incoming.from));
        }
        let parting = plan.vms.get(name).and_then(|planned| planned.parting.as_ref());
        // A wish that no parting answers yet is about to begin one.
        let to = match (parting, vm.outgoing()) {
            (Some(parting), _) if !matches!(parting.stage, Stage::Stayed { .. }) => &parting.to,
            (None, Some(wish)) if wish.stays.is_none() => &wish.to,
            _ => return None,
        };
        Some(say::handover_under_way(name, to))
    })
}

/// Makes a VM this host's own that comes from a host with another store: the asker's word that it does not run there any more.
pub(super) fn take_over(name: &VmName, force: bool, state: State<'_>) -> Result<Admitted, Refusal> {
    let known = state.spec.vms.get(name).ok_or_else(|| vec![say::vm_not_found(name)])?;
    let incoming = known.incoming().ok_or_else(|| vec![say::not_on_its_way(name)])?.clone();
    if !force {
        return Err(vec![say::vm_is_coming(name, &incoming.from)]);
    }
    let mut spec = state.spec.clone();
    own(&mut spec, name, &incoming);
    let goal = Goal::VmRuns { vm: name.clone(), serial: known.serial };
    let title = format!("take VM {name} over from host {}", incoming.from);
    Ok(Admitted { spec, goal, title, subject: Subject::Vm(name.clone()), findings: Vec::new() })
}

/// Does not take a VM that comes from a host with another store; what is here of it ends.
pub(super) fn turn_away(name: &VmName, incoming: &Incoming, state: State<'_>) -> Admitted {
    let mut spec = state.spec.clone();
    drop_vm(&mut spec, name, incoming);
    let (goal, subject) = (Goal::VmGone { vm: name.clone() }, Subject::Vm(name.clone()));
    Admitted { spec, goal, title: format!("turn VM {name} away"), subject, findings: Vec::new() }
}

/// What a message of another store changes here.
#[derive(Debug)]
pub enum Heard {
    /// Nothing.
    Nothing,
    /// A VM comes: an operation follows it.
    Comes(Box<Admitted>),
    /// What is done about one that comes.
    Told(Box<Spec>),
}

/// Takes a message of another store in, whoever brings it having shown the secret of an invitation.
///
/// # Errors
/// The invitation is of no use, or the VM cannot come.
pub fn hear(
    id: &InvitationId,
    message: &Message,
    state: State<'_>,
    now: Timestamp,
) -> Result<Heard, Refusal> {
    let refused = |why: &str| Err(vec![say::invitation_refused(why)]);
    alone(state)?;
    let Some(invitation) = state.spec.invitations.get(id) else { return refused("it is not known here") };
    let Some(used) = &invitation.used else {
        if message.order == Order::Drop {
            // What was announced before may come later than this.
            let Offer { name, host, .. } = &*message.offer;
            let outcome = Some(Outcome::Dropped);
            let used = Used { vm: name.clone(), id: message.id, from: host.host.clone(), outcome };
            let mut spec = state.spec.clone();
            spec.invitations.insert(id.clone(), Invitation { used: Some(used), ..invitation.clone() });
            return Ok(Heard::Told(Box::new(spec)));
        }
        if now >= invitation.until {
            return refused("its time is over");
        }
        if message.order != Order::Prepare {
            return refused("the VM was never announced");
        }
        return comes(id, invitation, message, state, now);
    };
    if used.id != message.id {
        return refused("it was used for another VM");
    }
    let Some(incoming) = state.spec.vms.get(&used.vm).and_then(VmSpec::incoming) else {
        return Ok(Heard::Nothing);
    };
    let is_known = (message.turn, message.order) == (incoming.turn, incoming.order);
    if is_known || message.turn < incoming.turn {
        return Ok(Heard::Nothing);
    }
    let mut spec = state.spec.clone();
    match message.order {
        Order::Own => own(&mut spec, &used.vm, incoming),
        Order::Drop => drop_vm(&mut spec, &used.vm, incoming),
        Order::Prepare | Order::Receive | Order::Land => {
            let incoming = Incoming { turn: message.turn, order: message.order, ..incoming.clone() };
            if let Some(vm) = spec.vms.get_mut(&used.vm) {
                vm.handover = Some(Handover::In(incoming));
            }
        }
    }
    Ok(Heard::Told(Box::new(spec)))
}

/// How an offered VM would come here.
///
/// # Errors
/// It can never come: there is one of its name or its UUID, it is not made by Tranche, or something of it is out of range.
pub fn judge_offer(offer: &Offer, state: State<'_>) -> Result<Outlook, Refusal> {
    let host = alone(state)?;
    let Offer { name, vm, host: from, .. } = offer;
    let VmSource::Made(hardware) = &vm.source else {
        return Err(vec![say::migrate_blocked(name, &from.host)]);
    };
    let mut found = create_findings(name, (hardware, &vm.request, vm.availability, &vm.labels), state);
    if state.spec.vms.values().any(|known| known.id == vm.id) {
        found.push(say::vm_exists(name));
    }
    if from.host == host {
        found.push(say::host_exists(&host));
    }
    refuse_errors(found)?;
    let (mut spec, mut plan) = (state.spec.clone(), state.plan.clone());
    spec.vms.insert(name.clone(), VmSpec { handover: None, ..vm.clone() });
    let ran_on = Some(from.host.clone());
    plan.vms.insert(name.clone(), VmPlan { ran_on, ..VmPlan::new(from.host.clone(), vm.id, VmGoal::Run) });
    plan.gpus.extend(offer.gpus.iter().map(|(key, planned)| (key.clone(), planned.clone())));
    for slot in &offer.held {
        let booking = Booking { vm: name.clone(), vm_id: vm.id, since: Timestamp::default() };
        plan.bookings.insert(slot.clone(), booking);
    }
    let mut inventory = state.inventory.clone();
    inventory.insert(from.host.clone(), from.clone().into());
    let both = State { spec: &spec, plan: &plan, inventory: &inventory };
    migration::outlook_on(name, &host, both).ok_or_else(|| vec![say::host_silent(&host)])
}

fn comes(
    id: &InvitationId,
    invitation: &Invitation,
    message: &Message,
    state: State<'_>,
    now: Timestamp,
) -> Result<Heard, Refusal> {
    let Offer { name, vm, host, .. } = &*message.offer;
    if vm.id != message.id {
        return Err(vec![say::invitation_refused("it is about another VM than the one that is offered")]);
    }
    let outlook = judge_offer(&message.offer, state)?;
    if outlook.way == Way::Neither {
        let why = outlook.why_not.into_iter().chain(outlook.live_obstacles);
        return Err(std::iter::once(say::handover_refused(name, &outlook.host)).chain(why).collect());
    }
    let from = host.host.clone();
    let incoming = Incoming {
        from: from.clone(),
        invitation: id.clone(),
        turn: message.turn,
        order: message.order,
        way: outlook.way,
    };
    let coming = VmSpec {
        run: Run::Running,
        serial: 1,
        relocation: None,
        handover: Some(Handover::In(incoming)),
        created_at: now,
        ..vm.clone()
    };
    let goal = Goal::VmRuns { vm: name.clone(), serial: 1 };
    let title = format!("take VM {name} in from host {from}");
    let mut admitted = with_vm(state, name, coming, goal, title, Vec::new());
    let used = Used { vm: name.clone(), id: vm.id, from, outcome: None };
    admitted.spec.invitations.insert(id.clone(), Invitation { used: Some(used), ..invitation.clone() });
    Ok(Heard::Comes(Box::new(admitted)))
}

fn own(spec: &mut Spec, name: &VmName, incoming: &Incoming) {
    if let Some(vm) = spec.vms.get_mut(name) {
        vm.handover = None;
    }
    settle(spec, incoming, Outcome::Owned);
}

fn drop_vm(spec: &mut Spec, name: &VmName, incoming: &Incoming) {
    if let Some(vm) = spec.vms.get_mut(name) {
        (vm.handover, vm.run) = (None, Run::Deleted);
        vm.serial += 1;
    }
    settle(spec, incoming, Outcome::Dropped);
}

fn settle(spec: &mut Spec, incoming: &Incoming, outcome: Outcome) {
    let used = spec.invitations.get_mut(&incoming.invitation).and_then(|invitation| invitation.used.as_mut());
    if let Some(used) = used {
        used.outcome = Some(outcome);
    }
}
