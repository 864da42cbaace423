//! VMs that are new here, made or taken over as they are; and changes that leave their definitions alone: how much is done for a VM
//! changes while it runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Admitted, NewVm, Refusal, State, refuse_deleted, refuse_errors, valid, vm_of, with_vm};
use crate::capacity;
use crate::diagnostics as say;
use crate::finding::{Finding, Severity};
use crate::inventory::Hypervisor;
use crate::journey::Migration;
use crate::label;
use crate::name::{HostName, LabelKey, LabelValue, Timestamp, VmId, VmName};
use crate::operation::Goal;
use crate::plan::Plan;
use crate::planner::Memory;
use crate::spec::{Availability, Failover, Pace, Request, Run, Spec, VmHardware, VmPart, VmSource, VmSpec};

/// A domain to be taken over: `POST /v1/vms/{name}/adopt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AdoptedVm {
    /// What it asks for; no GPU if left out.
    pub request: Request,
    /// What people tell it apart by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Whether it keeps its partition while it is off.
    pub reserved: bool,
    /// The NUMA node whose GPUs it prefers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_numa_node: Option<u16>,
    /// How much is done to keep it running. It is not started on another host, whatever that says.
    #[serde(skip_serializing_if = "Availability::is_default")]
    pub availability: Availability,
}

/// Makes a VM. It is off at first.
pub(super) fn create(
    memory: &mut Memory,
    name: &VmName,
    vm: &NewVm,
    state: State<'_>,
    (id, now): (VmId, Timestamp),
) -> Result<Admitted, Refusal> {
    let found = create_findings(name, (&vm.hardware, &vm.request, vm.availability, &vm.labels), state);
    let mut warnings = refuse_errors(found)?;
    let spec = VmSpec {
        id,
        source: VmSource::Made(vm.hardware.clone()),
        request: vm.request.clone(),
        labels: vm.labels.clone(),
        reserved: vm.reserved,
        prefer_numa_node: vm.prefer_numa_node,
        availability: vm.availability,
        run: Run::Stopped,
        serial: 0,
        relocation: None,
        handover: None,
        created_at: now,
    };
    // It is off at first, so this is only said; starting it is refused if that is the policy.
    let shortage = capacity::admission(name, &spec, state, memory);
    warnings.extend(shortage.map(|shortage| Finding { severity: Severity::Warning, ..shortage }));
    Ok(with_vm(state, name, spec, Goal::Recorded, format!("create VM {name}"), warnings))
}

/// What speaks against a VM that is new here.
pub(super) fn create_findings(
    name: &VmName,
    (hardware, request, availability, labels): (
        &VmHardware,
        &Request,
        Availability,
        &BTreeMap<LabelKey, LabelValue>,
    ),
    state: State<'_>,
) -> Vec<Finding> {
    let mut found = valid::hardware(name, hardware);
    found.extend(valid::request(request));
    found.extend(valid::availability(availability));
    found.extend(label::too_many(labels));
    if state.spec.vms.contains_key(name) {
        found.push(say::vm_exists(name));
    } else if let Some(planned) = state.plan.vms.get(name) {
        found.push(say::vm_to_be_ended(name, &planned.host));
    } else if state.domain(name).is_some() {
        found.push(say::domain_exists(name));
    }
    found
}

pub(super) fn adopt(
    name: &VmName,
    vm: &AdoptedVm,
    state: State<'_>,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let mut found = valid::request(&vm.request);
    found.extend(valid::availability(vm.availability));
    found.extend(label::too_many(&vm.labels));
    if state.spec.vms.contains_key(name) {
        found.push(say::vm_exists(name));
    }
    let domain = state.domain(name);
    let unknown = state.inventory.values().find_map(|observed| match &observed.hypervisor {
        Hypervisor::Down { reason } => Some(say::libvirt_down(&observed.host, reason)),
        Hypervisor::Up { .. } => None,
    });
    match domain {
        None => found.push(unknown.unwrap_or_else(|| say::domain_not_found(name))),
        Some(domain) if !domain.persistent => found.push(say::domain_transient(name)),
        Some(domain) => {
            let foreign =
                domain.defined_devices.iter().chain(&domain.live_devices).any(|device| !device.ours);
            if foreign && vm.request != Request::None {
                found.push(say::foreign_device(name));
            }
            found.extend(stays(name, state));
        }
    }
    let warnings = refuse_errors(found)?;
    let Some(domain) = domain else { return Err(warnings) };
    let run = if domain.state.is_active() { Run::Running } else { Run::Stopped };
    let spec = VmSpec {
        id: VmId(domain.uuid),
        source: VmSource::Adopted,
        request: vm.request.clone(),
        labels: vm.labels.clone(),
        reserved: vm.reserved,
        prefer_numa_node: vm.prefer_numa_node,
        availability: vm.availability,
        run,
        serial: 0,
        relocation: None,
        handover: None,
        created_at: now,
    };
    Ok(with_vm(state, name, spec, Goal::Recorded, format!("adopt VM {name}"), warnings))
}

/// What a cluster cannot do for a VM that was adopted.
fn stays(name: &VmName, state: State<'_>) -> Option<Finding> {
    (!state.spec.hosts.is_empty()).then(|| say::adopted_stays(name))
}

/// Changes what can be changed of a VM at any time.
pub(super) fn set(name: &VmName, wish: &VmPart, state: State<'_>) -> Result<Admitted, Refusal> {
    let before = vm_of(name, state)?;
    refuse_deleted(name, before)?;
    let spec = wish.over(before);
    let mut found: Vec<Finding> = valid::availability(spec.availability).into_iter().collect();
    found.extend(label::too_many(&spec.labels));
    if found.is_empty() && spec.availability != before.availability {
        found.extend(capacity::protection(name, &spec, state));
    }
    if wish.availability.failover == Some(Failover::Restart) && spec.source == VmSource::Adopted {
        found.extend(stays(name, state));
    }
    let warnings = refuse_errors(found)?;
    let title = title(name, before, &spec);
    Ok(with_vm(state, name, spec, Goal::Recorded, title, warnings))
}

/// What changes, in words.
fn title(name: &VmName, before: &VmSpec, after: &VmSpec) -> String {
    let (was, is) = (before.availability, after.availability);
    let mut words = Vec::new();
    let mut note = |differs: bool, what: String| {
        if differs {
            words.push(what);
        }
    };
    note(is.priority != was.priority, format!("priority {}", is.priority));
    let failover = match is.failover {
        Failover::Restart => "restart",
        Failover::Stay => "stay",
    };
    note(is.failover != was.failover, format!("failover {failover}"));
    note(is.restarts.local != was.restarts.local, format!("restarts {}", is.restarts.local));
    let elsewhere = is.restarts.elsewhere;
    note(elsewhere != was.restarts.elsewhere, format!("restarts elsewhere {elsewhere}"));
    let migration = match is.migration {
        Migration::LiveOrRestart => "live-or-restart",
        Migration::LiveOnly => "live-only",
        Migration::Restart => "restart",
    };
    note(is.migration != was.migration, format!("migration {migration}"));
    let limit = |limit: Option<u32>, unit: &str| {
        limit.map_or_else(|| "as for all".to_owned(), |limit| format!("{limit} {unit}"))
    };
    let Pace { pause_ms, bandwidth_mib_s } = is.pace;
    note(pause_ms != was.pace.pause_ms, format!("migration pause {}", limit(pause_ms, "ms")));
    let bandwidth = limit(bandwidth_mib_s, "MiB/s");
    note(bandwidth_mib_s != was.pace.bandwidth_mib_s, format!("migration bandwidth {bandwidth}"));
    let reserved = if after.reserved { "reserved" } else { "not reserved" };
    note(after.reserved != before.reserved, reserved.to_owned());
    let node = after.prefer_numa_node.map_or_else(|| "none".to_owned(), |node| node.to_string());
    note(after.prefer_numa_node != before.prefer_numa_node, format!("NUMA node {node}"));
    words.extend(label_words(before, after));
    if words.is_empty() {
        format!("leave VM {name} as it is")
    } else {
        format!("change VM {name}: {}", words.join(", "))
    }
}

/// What changes of its labels, in words.
fn label_words(before: &VmSpec, after: &VmSpec) -> impl Iterator<Item = String> {
    let changed = label::between(&before.labels, &after.labels).into_iter();
    changed.map(|(key, value)| match value {
        Some(value) => format!("label {key}={value}"),
        None => format!("no label {key}"),
    })
}

/// The hosts that have to hear of wishes although nothing may be decided anew for them: how often a host starts a VM again,
/// in which order it starts several, and whether it arms its watchdog for them, it knows from the wish itself.
pub fn hosts_to_tell(before: &Spec, after: &Spec, plan: &Plan) -> BTreeSet<HostName> {
    if after.hosts.is_empty() {
        return BTreeSet::new();
    }
    let changed = before.vms.changes(&after.vms).filter_map(|(name, was, is)| {
        let differs = was?.availability != is?.availability;
        differs.then(|| plan.vms.get(name)).flatten()
    });
    changed.map(|planned| planned.host.clone()).collect()
}
