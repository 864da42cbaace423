//! A VM that shall run on another host. What cannot be done now is refused now, with every reason, and nothing moves.

use super::{Admitted, Refusal, State, refuse_deleted, vm_of, with_vm};
use crate::diagnostics as say;
use crate::name::{HostName, VmName};
use crate::operation::Goal;
use crate::placement::{Board, Uses, UsesByHost};
use crate::spec::{Relocation, Run, VmSpec};
use crate::why::why_not;

/// Lets a VM run on another host: on `to`, or on the best one if that is left out.
pub(super) fn migrate(name: &VmName, to: Option<&HostName>, state: State<'_>) -> Result<Admitted, Refusal> {
    let mut spec = vm_of(name, state)?.clone();
    refuse_deleted(name, &spec)?;
    if state.spec.hosts.is_empty() {
        return Err(vec![say::cluster_none()]);
    }
    let planned = state.plan.vms.get(name).filter(|_| spec.run.is_up() && state.is_active(name));
    let Some(from) = planned.map(|planned| planned.host.clone()) else {
        return Err(vec![say::nothing_to_migrate(name)]);
    };
    if to == Some(&from) {
        stay(&mut spec, name, state);
        let findings = vec![say::migrated_already(name, &from)];
        return Ok(with_vm(state, name, spec, Goal::Recorded, format!("keep VM {name} on {from}"), findings));
    }
    match to {
        Some(to) => refuse_obstacles(name, to, state)?,
        None => refuse_without_room((name, &spec), &from, state)?,
    }
    // The same wish again while it is under way is no second move.
    let again =
        spec.relocation.as_ref().is_some_and(|known| known.to.as_ref() == to && known.serial == spec.serial);
    if !(again && is_under_way(&spec, name, state)) {
        spec.serial += 1;
        spec.run = Run::Running;
    }
    let relocation = Relocation { from: from.clone(), to: to.cloned(), serial: spec.serial };
    spec.relocation = Some(relocation);
    let goal = Goal::VmMoved { vm: name.clone(), serial: spec.serial, from };
    let title = match to {
        Some(to) => format!("move VM {name} to host {to}"),
        None => format!("move VM {name} to another host"),
    };
    Ok(with_vm(state, name, spec, goal, title, Vec::new()))
}

/// Takes back what was asked for and has not begun: the VM runs as it did, and is not restarted for that.
fn stay(spec: &mut VmSpec, name: &VmName, state: State<'_>) {
    if is_under_way(spec, name, state) {
        spec.serial -= 1;
    }
    spec.relocation = None;
}

/// Whether a move was asked for by the last command, and the VM has not been seen running since.
fn is_under_way(spec: &VmSpec, name: &VmName, state: State<'_>) -> bool {
    let settled = state.plan.vms.get(name).and_then(|planned| planned.settled.as_ref());
    let seen = settled.map_or(0, |settled| settled.serial);
    spec.relocation.as_ref().is_some_and(|known| known.serial == spec.serial) && seen < spec.serial
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
    let uses: UsesByHost =
        state.inventory.iter().map(|(host, observed)| (host.clone(), Uses::of(observed))).collect();
    let board = Board::new(state.spec, state.inventory, &state.plan.gpus, state.plan, &uses);
    let mut others = state.inventory.keys().filter(|host| *host != from);
    if others.any(|host| board.choose((name, spec), Some(host)).is_ok()) {
        return Ok(());
    }
    let mut why = vec![say::migrate_blocked(name, from)];
    // What one other host says is told; `why-not` tells it of each.
    let other = state.inventory.keys().find(|host| *host != from);
    why.extend(other.map(|host| why_not(name, host, state)).transpose()?.into_iter().flatten());
    Err(why)
}
