//! Changes of the cluster's members.

use std::collections::BTreeSet;

use super::{Admitted, Refusal, State, refuse_errors};
use crate::diagnostics as say;
use crate::fence;
use crate::finding::Subject;
use crate::label;
use crate::name::{HostName, Timestamp};
use crate::operation::Goal;
use crate::plan::Standing;
use crate::spec::{Departure, DepartureWay, Duty, HostPart, HostSpec, SaidDown, Spec};

/// The longest id of a boot, in bytes: a UUID, with room to spare.
const BOOT_ID_LEN_MAX: usize = 64;

/// Takes a host into the cluster. One that is a member already stays as it is.
pub(super) fn join(
    host: &HostName,
    wish: &HostSpec,
    state: State<'_>,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    validate(host, wish)?;
    let mut spec = state.spec.clone();
    spec.hosts.entry(host.clone()).or_insert_with(|| HostSpec { joined_at: now, ..wish.clone() });
    Ok(admitted(spec, host, Goal::Recorded, format!("take host {host} into the cluster")))
}

/// Forgets a host for good. What it has must be gone: its VMs elsewhere, or the host known to be down. VMs of one that was never
/// heard of may run there.
pub(super) fn remove(host: &HostName, state: State<'_>) -> Result<Admitted, Refusal> {
    member(host, state)?;
    let here: Vec<_> =
        state.plan.vms.iter().filter(|(_, vm)| &vm.host == host).map(|(name, _)| name.clone()).collect();
    let standing = state.plan.hosts.get(host).map(|planned| planned.standing);
    let down = matches!(standing, Some(Standing::Down { .. }));
    if !here.is_empty() && !down {
        return Err(vec![say::host_not_empty(host, &here)]);
    }
    let mut spec = state.spec.clone();
    spec.hosts.remove(host);
    spec.gpus.retain(|key, _| &key.host != host);
    Ok(admitted(spec, host, Goal::Recorded, format!("remove host {host} from the cluster")))
}

/// Changes labels, fencing and reserved memory of a host.
pub(super) fn set(host: &HostName, wish: &HostSpec, state: State<'_>) -> Result<Admitted, Refusal> {
    validate(host, wish)?;
    let before = member(host, state)?;
    let mut spec = state.spec.clone();
    let wish = HostSpec {
        joined_at: before.joined_at,
        duty: before.duty,
        said_down: before.said_down,
        departure: before.departure.clone(),
        ..wish.clone()
    };
    spec.hosts.insert(host.clone(), wish);
    Ok(admitted(spec, host, Goal::Recorded, format!("change host {host}")))
}

/// Changes some of the labels, fencing and reserved memory of a host. What is not named stays as it is.
pub(super) fn amend(host: &HostName, part: &HostPart, state: State<'_>) -> Result<Admitted, Refusal> {
    let before = member(host, state)?;
    let wish = part.over(before).ok_or_else(|| vec![say::fence_agent_left_out(host)])?;
    set(host, &wish, state)
}

/// Empties hosts, or lets them serve again.
pub(super) fn set_duty(
    host: &HostName,
    along: &BTreeSet<HostName>,
    duty: Duty,
    state: State<'_>,
) -> Result<Admitted, Refusal> {
    let along: BTreeSet<HostName> = along.iter().filter(|other| *other != host).cloned().collect();
    let mut spec = state.spec.clone();
    let mut unknown = Vec::new();
    for each in std::iter::once(host).chain(&along) {
        match member(each, state) {
            Ok(before) => drop(spec.hosts.insert(each.clone(), HostSpec { duty, ..before.clone() })),
            Err(refusal) => unknown.extend(refusal),
        }
    }
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let all: Vec<&str> = std::iter::once(host).chain(&along).map(HostName::as_str).collect();
    let hosts = format!("host{} {}", if along.is_empty() { "" } else { "s" }, all.join(", "));
    let (goal, title) = match duty {
        Duty::Serving => (Goal::Recorded, format!("let {hosts} serve")),
        Duty::Maintenance => (Goal::HostEmpty { host: host.clone(), along }, format!("drain {hosts}")),
    };
    Ok(admitted(spec, host, goal, title))
}

/// Lets the VMs of a host leave it, or wait for it, because it is about to go down.
pub(super) fn depart(
    host: &HostName,
    (way, force, boot_id): (DepartureWay, bool, Option<&str>),
    state: State<'_>,
) -> Result<Admitted, Refusal> {
    let before = member(host, state)?;
    let boot_id = match boot_id {
        Some(boot_id) if boot_id.len() > BOOT_ID_LEN_MAX => {
            return Err(vec![say::invalid_value(
                "The boot's id",
                boot_id,
                "that of /proc/sys/kernel/random/boot_id",
            )]);
        }
        Some(boot_id) => boot_id,
        None => {
            let reported = state.inventory.get(host).filter(|observed| observed.unread.is_none());
            &reported.ok_or_else(|| vec![say::host_silent(host)])?.boot_id
        }
    };
    let departure = Some(Departure { way, boot_id: boot_id.to_owned(), force });
    let mut spec = state.spec.clone();
    spec.hosts.insert(host.clone(), HostSpec { departure, ..before.clone() });
    let what = match way {
        DepartureWay::Reboot => "reboot",
        DepartureWay::Shutdown => "shut down",
    };
    Ok(admitted(spec, host, Goal::HostQuiet { host: host.clone() }, format!("let host {host} {what}")))
}

/// Takes it back that a host is about to go down.
pub(super) fn keep(host: &HostName, state: State<'_>) -> Result<Admitted, Refusal> {
    let before = member(host, state)?;
    let mut spec = state.spec.clone();
    spec.hosts.insert(host.clone(), HostSpec { departure: None, ..before.clone() });
    Ok(admitted(spec, host, Goal::Recorded, format!("let host {host} stay")))
}

/// Takes somebody's word that a silent host is down.
pub(super) fn confirm_down(host: &HostName, state: State<'_>) -> Result<Admitted, Refusal> {
    let before = member(host, state)?;
    let planned = state.plan.hosts.get(host).cloned().unwrap_or_default();
    let Some(since) = planned.standing.since() else { return Err(vec![say::host_not_silent(host)]) };
    let said_down = Some(SaidDown { epoch: planned.epoch, since });
    let mut spec = state.spec.clone();
    spec.hosts.insert(host.clone(), HostSpec { said_down, ..before.clone() });
    Ok(admitted(spec, host, Goal::Recorded, format!("take host {host} for down")))
}

/// Pauses failover, or resumes it.
pub(super) fn pause_failover(paused: bool, state: State<'_>) -> Admitted {
    let mut spec = state.spec.clone();
    spec.policy.failover.paused = paused;
    let title = if paused { "pause failover" } else { "resume failover" };
    Admitted {
        spec,
        goal: Goal::Recorded,
        title: title.to_owned(),
        subject: Subject::Installation,
        findings: Vec::new(),
    }
}

fn member<'a>(host: &HostName, state: State<'a>) -> Result<&'a HostSpec, Refusal> {
    let known: Vec<&HostName> = state.spec.hosts.keys().collect();
    state.spec.hosts.get(host).ok_or_else(|| vec![say::host_not_found(host, &known)])
}

fn validate(host: &HostName, wish: &HostSpec) -> Result<(), Refusal> {
    if let Some(finding) = label::too_many(&wish.labels) {
        return Err(vec![finding]);
    }
    let problems = wish.fence.iter().flat_map(|how| fence::problems(host, how)).collect();
    refuse_errors(problems).map(drop)
}

fn admitted(spec: Spec, host: &HostName, goal: Goal, title: String) -> Admitted {
    Admitted { spec, goal, title, subject: Subject::Host(host.clone()), findings: Vec::new() }
}
