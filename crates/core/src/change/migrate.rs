//! A VM that shall run on another host. What cannot be done now is refused now, with every reason, and nothing moves.

use super::{Admitted, Refusal, State, refuse_deleted, vm_of, with_vm};
use crate::diagnostics as say;
use crate::name::{HostName, VmName};
use crate::operation::Goal;
use crate::placement::Board;
use crate::plan::{VmGoal, VmPlan};
use crate::spec::{Relocation, Run, VmSource, VmSpec};
use crate::why::why_not;

/// Lets a VM run on another host: on `to`, or on the best one if that is left out.
pub(super) fn migrate(name: &VmName, to: Option<&HostName>, state: State<'_>) -> Result<Admitted, Refusal> {
    let mut spec = vm_of(name, state)?.clone();
    refuse_deleted(name, &spec)?;
    if state.spec.hosts.is_empty() {
        return Err(vec![say::cluster_none()]);
    }
    let planned = state.plan.vms.get(name).filter(|_| spec.run.is_up() && state.is_active(name));
    // One whose start was not seen yet has not arrived anywhere.
    let settled = |planned: &&VmPlan| planned.settled.as_ref().is_some_and(|settled| settled.running);
    let Some(planned) = planned.filter(settled) else { return Err(vec![say::nothing_to_migrate(name)]) };
    let from = planned.host.clone();
    let waits = waits(&spec, planned);
    if to == Some(&from) {
        if waits && planned.goal == VmGoal::Move {
            return Err(vec![say::migrate_under_way(name)]);
        }
        if waits {
            // What was asked for is taken back: the VM is as if it never had been, and is not restarted for it.
            spec.serial -= 1;
            spec.relocation = None;
        }
        let findings = vec![say::migrated_already(name, &from)];
        return Ok(with_vm(state, name, spec, Goal::Recorded, format!("keep VM {name} on {from}"), findings));
    }
    // It is called off first, else nobody could tell which of the two hosts was meant.
    if let (Some(journey), Some(to)) = (planned.open_journey().filter(|_| waits), to)
        && journey.other != *to
    {
        return Err(vec![say::migrate_on_its_way(name, &from, &journey.other)]);
    }
    match to {
        Some(to) => refuse_obstacles(name, to, state)?,
        None => refuse_without_room((name, &spec), &from, state)?,
    }
    // While one waits, another one takes its place.
    if !waits {
        spec.serial += 1;
        spec.run = Run::Running;
    }
    spec.relocation = Some(Relocation { from: from.clone(), to: to.cloned(), serial: spec.serial });
    let goal = Goal::VmMoved { vm: name.clone(), serial: spec.serial, from, to: to.cloned() };
    let title = match to {
        Some(to) => format!("move VM {name} to host {to}"),
        None => format!("move VM {name} to another host"),
    };
    Ok(with_vm(state, name, spec, goal, title, Vec::new()))
}

/// Whether the VM was told to leave the host that it runs on, and has not left it.
fn waits(spec: &VmSpec, planned: &VmPlan) -> bool {
    let told = |known: &Relocation| known.serial == spec.serial && known.is_due_on(&planned.host);
    let seen = planned.settled.as_ref().map_or(0, |settled| settled.serial);
    spec.relocation.as_ref().is_some_and(told) && seen < spec.serial
}

fn refuse_obstacles(name: &VmName, to: &HostName, state: State<'_>) -> Result<(), Refusal> {
    let why = why_not(name, to, state)?;
    if why.is_empty() {
        Ok(())
    } else {
        Err(std::iter::once(say::migrate_refused(name, to)).chain(why).collect())
    }
}

fn refuse_without_room(
    (name, spec): (&VmName, &VmSpec),
    from: &HostName,
    state: State<'_>,
) -> Result<(), Refusal> {
    let board = Board::of(state);
    let movable = matches!(spec.source, VmSource::Made(_));
    let Err(no_room) = board.choose_elsewhere((name, spec), from) else {
        return if movable { Ok(()) } else { Err(vec![say::migrate_blocked(name, from)]) };
    };
    let mut why = vec![say::migrate_blocked(name, from), *no_room];
    // What one other host says is told; `why-not` tells it of each.
    let other = state.inventory.keys().find(|host| *host != from);
    why.extend(other.map(|host| why_not(name, host, state)).transpose()?.into_iter().flatten());
    Err(why)
}
