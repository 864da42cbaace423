//! Changes: the one door through which wishes enter the spec.
//!
//! Command, REST, console and declarative file all make [`Change`]s, and [`admit`] alone admits or refuses them: what
//! one door refuses, every door refuses. Admitting looks at the present state so that a wish that cannot come true is
//! refused at once and with a hint; the planner checks again with every new inventory.

mod all;
mod arrival;
mod gpu;
mod handover;
mod host;
mod migrate;
mod policy;
mod rule;
mod together;
mod valid;
mod vm;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::all::{SET_GPUS_MAX, Selection, SetMode, Version, version};
pub use self::arrival::{Arrival, arrive};
pub use self::handover::{Heard, can_go, hear, judge_offer, under_way};
pub use self::together::admit_all;
pub use self::valid::RESOURCE_NAME_LEN_MAX;
pub use self::vm::{AdoptedVm, hosts_to_tell};
use crate::capacity;
use crate::diagnostics as say;
use crate::finding::{Finding, Severity, Subject};
use crate::handover::Order;
use crate::homogeneity;
use crate::inventory::{Domain, HostInventory, Inventory};
use crate::migration::Outlook;
use crate::name::{GpuKey, HostName, InvitationId, LabelKey, LabelValue, RuleName, Timestamp, VmId, VmName};
use crate::operation::Goal;
use crate::plan::Plan;
use crate::planner::Memory;
use crate::spec::{
    Availability, DepartureWay, Duty, GpuMode, HostPart, HostSpec, Policy, Request, Rule, Run, Spec,
    VmHardware, VmPart, VmSpec,
};

/// A wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// Use a GPU in a mode; `host` releases it.
    SetGpuMode {
        /// The GPU.
        gpu: GpuKey,
        /// The mode.
        mode: GpuMode,
    },
    /// The same, after the VMs that hold the GPU have been shut down; they start again where there is room.
    DrainGpu {
        /// The GPU.
        gpu: GpuKey,
        /// The mode.
        mode: GpuMode,
    },
    /// Split a GPU into a count that its driver takes only when it is loaded, by loading it anew. Every GPU of that driver on
    /// the host gets the count, if it is split at all, and every VM on them is shut down first, as with a drain.
    ReloadDriver {
        /// The GPU.
        gpu: GpuKey,
        /// The mode; with others than `partitioned` it is a drain.
        mode: GpuMode,
    },
    /// Use all GPUs of a homogeneous set in a mode, on all hosts.
    SetAllGpus(SetMode),
    /// Make a VM. It is off at first.
    CreateVm {
        /// Its name.
        name: VmName,
        /// What it is.
        vm: NewVm,
    },
    /// Take over a libvirt domain, as it is.
    AdoptVm {
        /// The domain's name.
        name: VmName,
        /// What is asked for it.
        vm: AdoptedVm,
    },
    /// Change what can be changed of a VM at any time: how much is done to keep it running, and what is kept for it.
    SetVm {
        /// The VM.
        name: VmName,
        /// What changes.
        wish: VmPart,
    },
    /// Forget a VM; remove its domain if Tranche made it. Its disks stay.
    DeleteVm {
        /// The VM.
        name: VmName,
        /// Turn it off if it runs.
        force: bool,
    },
    /// Run a VM.
    StartVm {
        /// The VM.
        name: VmName,
    },
    /// Turn a VM off.
    StopVm {
        /// The VM.
        name: VmName,
        /// Do not ask the guest.
        force: bool,
    },
    /// Turn a VM off and on.
    RestartVm {
        /// The VM.
        name: VmName,
        /// Do not ask the guest.
        force: bool,
    },
    /// Run a VM on another host.
    MigrateVm {
        /// The VM.
        name: VmName,
        /// Where; on the best other host if left out.
        to: Option<HostName>,
    },
    /// Make a place for one VM that comes from a host with another store.
    Invite {
        /// What it is known by.
        id: InvitationId,
        /// Until when it can be used.
        until: Timestamp,
    },
    /// Forget such a place that nobody has used.
    Uninvite {
        /// Which.
        id: InvitationId,
    },
    /// Hand a VM over to a host with another store, which has said how it would take it.
    HandOver {
        /// The VM.
        name: VmName,
        /// What it was invited by.
        invitation: InvitationId,
        /// What the other host has said.
        outlook: Box<Outlook>,
    },
    /// Keep a VM that goes to a host with another store.
    TakeBack {
        /// The VM.
        name: VmName,
        /// It may have arrived there, and whoever asks has seen that it does not run there and never will.
        force: bool,
    },
    /// Make a VM this host's own that comes from a host with another store.
    TakeOver {
        /// The VM.
        name: VmName,
        /// Whoever asks has seen that its old host does not run it and never will.
        force: bool,
    },
    /// Let a VM ask for a GPU or a partition.
    AttachGpu {
        /// The VM.
        name: VmName,
        /// What it asks for.
        request: Request,
        /// If it runs: turn it off, change it, turn it on.
        restart: bool,
    },
    /// Let a VM ask for nothing.
    DetachGpu {
        /// The VM.
        name: VmName,
        /// If it runs: turn it off, change it, turn it on.
        restart: bool,
    },
    /// Make a rule about where VMs run, or change it.
    SetRule {
        /// Its name.
        name: RuleName,
        /// What it asks.
        rule: Rule,
    },
    /// Forget a rule.
    DeleteRule {
        /// The rule.
        name: RuleName,
    },
    /// Take a host into the cluster.
    JoinHost {
        /// The host.
        host: HostName,
        /// What is known of it; when it joined is told by the clock.
        wish: HostSpec,
    },
    /// Forget a host for good.
    RemoveHost {
        /// The host.
        host: HostName,
    },
    /// Change labels, fencing and reserved memory of a host.
    SetHost {
        /// The host.
        host: HostName,
        /// All of them.
        wish: HostSpec,
    },
    /// Change some of a host's labels, fencing and reserved memory.
    AmendHost {
        /// The host.
        host: HostName,
        /// What changes.
        wish: HostPart,
    },
    /// Empty hosts, or let them serve again: all at once, so that no VM of one goes to another of them.
    SetHostDuty {
        /// The host.
        host: HostName,
        /// Others that go the same way.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        along: BTreeSet<HostName>,
        /// Which of both.
        duty: Duty,
    },
    /// Let the VMs of a host leave it, or wait for it, because it is about to go down.
    DepartHost {
        /// The host.
        host: HostName,
        /// How it goes down.
        way: DepartureWay,
        /// Whether guests are not asked any more.
        force: bool,
        /// The boot that ends; the one that the host was last seen in if left out. A wish that comes too late, when the host
        /// has booted anew, changes nothing.
        boot_id: Option<String>,
    },
    /// Take it back that a host is about to go down.
    KeepHost {
        /// The host.
        host: HostName,
    },
    /// Say that a silent host is down, so that its VMs may start elsewhere.
    ConfirmHostDown {
        /// The host.
        host: HostName,
    },
    /// Pause failover in the whole cluster, or resume it.
    PauseFailover {
        /// Which of both.
        paused: bool,
    },
    /// Change the policies.
    SetPolicy {
        /// All of them.
        policy: Policy,
    },
}

/// A VM to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewVm {
    /// Its hardware.
    pub hardware: VmHardware,
    /// What it asks for.
    #[serde(default)]
    pub request: Request,
    /// What people tell it apart by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Whether it keeps its partition while it is off.
    #[serde(default)]
    pub reserved: bool,
    /// The NUMA node whose GPUs it prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer_numa_node: Option<u16>,
    /// How much is done to keep it running.
    #[serde(default, skip_serializing_if = "Availability::is_default")]
    pub availability: Availability,
}

/// The state that a change is judged against.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// What people asked for so far.
    pub spec: &'a Spec,
    /// What was decided.
    pub plan: &'a Plan,
    /// What hosts report.
    pub inventory: &'a Inventory,
}

impl<'a> State<'a> {
    /// The domain of a VM, as its host reported it; while it belongs to none, as any host that was not given up did.
    pub fn domain(&self, vm: &VmName) -> Option<&'a Domain> {
        if let Some(planned) = self.plan.vms.get(vm) {
            return self.inventory.get(&planned.host).and_then(|observed| observed.domain(vm));
        }
        let given_up = |host| self.plan.hosts.get(host).is_some_and(|planned| planned.standing.is_given_up());
        let mut hosts = self.inventory.iter().filter(|(host, _)| !given_up(*host));
        hosts.find_map(|(_, observed)| observed.domain(vm))
    }

    /// Why nothing is known of a host: it is a member of the cluster that has not reported yet, or there is none of that name.
    pub fn unheard(&self, host: &HostName) -> Finding {
        if self.spec.hosts.contains_key(host) {
            return say::host_silent(host);
        }
        let known: BTreeSet<&HostName> = self.inventory.keys().chain(self.spec.hosts.keys()).collect();
        say::host_not_found(host, &known.into_iter().collect::<Vec<_>>())
    }

    /// Whether a VM was seen to run.
    pub fn is_active(&self, vm: &VmName) -> bool {
        self.domain(vm).is_some_and(|domain| domain.state.is_active())
    }
}

/// A wish that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an admitted change is not yet committed"]
pub struct Admitted {
    /// The spec with the wish in it.
    pub spec: Spec,
    /// What shows that it has come true.
    pub goal: Goal,
    /// What was asked for, in words.
    pub title: String,
    /// What it is about.
    pub subject: Subject,
    /// Warnings.
    pub findings: Vec<Finding>,
}

/// Why a wish was refused: at least one finding.
pub type Refusal = Vec<Finding>;

/// Admits a change, or refuses it. `fresh` is the id of the VM, should one be made.
///
/// # Errors
/// The findings that stand against it.
pub fn admit(change: &Change, state: State<'_>, fresh: VmId, now: Timestamp) -> Result<Admitted, Refusal> {
    admit_with(&mut Memory::default(), change, state, fresh, now)
}

/// The same with what is remembered of the last pass: sooner, where there are many hosts.
///
/// # Errors
/// The findings that stand against it.
pub fn admit_with(
    memory: &mut Memory,
    change: &Change,
    state: State<'_>,
    fresh: VmId,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let mut admitted = admit_part(memory, change, state, fresh, now)?;
    admitted.findings.extend(refuse_errors(homogeneity::worsened(state, &admitted.spec))?);
    Ok(admitted)
}

fn admit_part(
    memory: &mut Memory,
    change: &Change,
    state: State<'_>,
    fresh: VmId,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    match change {
        Change::SetGpuMode { gpu, mode } => gpu::set_mode(gpu, mode, false, state),
        Change::DrainGpu { gpu, mode } => gpu::set_mode(gpu, mode, true, state),
        Change::ReloadDriver { gpu, mode } => gpu::reload_driver(gpu, mode, state),
        Change::SetAllGpus(wish) => all::set_all(wish, state),
        Change::CreateVm { name, vm } => vm::create(memory, name, vm, state, (fresh, now)),
        Change::AdoptVm { name, vm } => vm::adopt(name, vm, state, now),
        Change::SetVm { name, wish } => vm::set(name, wish, state),
        Change::DeleteVm { name, force } => delete_vm(name, *force, state),
        Change::StartVm { name } => start_vm(memory, name, state),
        Change::StopVm { name, force } => stop_vm(name, *force, state),
        Change::RestartVm { name, force } => restart_vm(memory, name, *force, state),
        Change::MigrateVm { name, to } => migrate::migrate(name, to.as_ref(), state),
        Change::Invite { id, until } => handover::invite(id, *until, state, now),
        Change::Uninvite { id } => handover::uninvite(id, state),
        Change::HandOver { name, invitation, outlook } => {
            handover::hand_over(name, invitation, outlook, state)
        }
        Change::TakeBack { name, force } => handover::take_back(name, *force, state),
        Change::TakeOver { name, force } => handover::take_over(name, *force, state),
        Change::AttachGpu { name, request, restart } => attach_gpu(name, request, *restart, state),
        Change::DetachGpu { name, restart } => detach_gpu(name, *restart, state),
        Change::SetRule { name, rule } => rule::set_rule(name, rule, state),
        Change::DeleteRule { name } => rule::delete_rule(name, state),
        Change::JoinHost { host, wish } => host::join(host, wish, state, now),
        Change::RemoveHost { host } => host::remove(host, state),
        Change::SetHost { host, wish } => host::set(host, wish, state),
        Change::AmendHost { host, wish } => host::amend(host, wish, state),
        Change::SetHostDuty { host, along, duty } => host::set_duty(host, along, *duty, state),
        Change::DepartHost { host, way, force, boot_id } => {
            host::depart(host, (*way, *force, boot_id.as_deref()), state)
        }
        Change::KeepHost { host } => host::keep(host, state),
        Change::ConfirmHostDown { host } => host::confirm_down(host, state),
        Change::PauseFailover { paused } => Ok(host::pause_failover(*paused, state)),
        Change::SetPolicy { policy } => policy::set_policy(*policy, state),
    }
}

fn delete_vm(name: &VmName, force: bool, state: State<'_>) -> Result<Admitted, Refusal> {
    if let Some(incoming) = state.spec.vms.get(name).and_then(VmSpec::incoming) {
        return match force || incoming.order != Order::Land {
            true => Ok(handover::turn_away(name, incoming, state)),
            false => Err(vec![say::vm_is_coming(name, &incoming.from)]),
        };
    }
    let mut spec = vm_of(name, state)?.clone();
    if state.is_active(name) && !force {
        let mut finding = say::vm_running(name, "deleting it");
        finding.hint = format!(
            "Stop it first ('tranche vm stop {name}'), or repeat with --force: it is then turned off."
        );
        return Err(vec![finding]);
    }
    spec.run = Run::Deleted;
    spec.serial += 1;
    let goal = Goal::VmGone { vm: name.clone() };
    Ok(with_vm(state, name, spec, goal, format!("delete VM {name}"), Vec::new()))
}

fn start_vm(memory: &mut Memory, name: &VmName, state: State<'_>) -> Result<Admitted, Refusal> {
    let mut spec = vm_of(name, state)?.clone();
    refuse_deleted(name, &spec)?;
    if !(spec.run.is_up() && state.is_active(name)) {
        spec.run = Run::Running;
        spec.serial += 1;
    }
    let warnings = refuse_errors(capacity::admission(name, &spec, state, memory).into_iter().collect())?;
    let goal = Goal::VmRuns { vm: name.clone(), serial: spec.serial };
    Ok(with_vm(state, name, spec, goal, format!("start VM {name}"), warnings))
}

fn stop_vm(name: &VmName, force: bool, state: State<'_>) -> Result<Admitted, Refusal> {
    let mut spec = vm_of(name, state)?.clone();
    refuse_deleted(name, &spec)?;
    let run = if force { Run::Killed } else { Run::Stopped };
    let off = matches!(spec.run, Run::Stopped | Run::Killed) && !state.is_active(name);
    if !off && (spec.run != run || state.is_active(name)) {
        spec.run = run;
        spec.serial += 1;
    }
    let goal = Goal::VmOff { vm: name.clone() };
    Ok(with_vm(state, name, spec, goal, format!("stop VM {name}"), Vec::new()))
}

fn restart_vm(
    memory: &mut Memory,
    name: &VmName,
    force: bool,
    state: State<'_>,
) -> Result<Admitted, Refusal> {
    let mut spec = vm_of(name, state)?.clone();
    refuse_deleted(name, &spec)?;
    spec.run = if force { Run::Reset } else { Run::Running };
    spec.serial += 1;
    // One that is off takes room as if it were started.
    let warnings = refuse_errors(capacity::admission(name, &spec, state, memory).into_iter().collect())?;
    let goal = Goal::VmRuns { vm: name.clone(), serial: spec.serial };
    Ok(with_vm(state, name, spec, goal, format!("restart VM {name}"), warnings))
}

fn attach_gpu(
    name: &VmName,
    request: &Request,
    restart: bool,
    state: State<'_>,
) -> Result<Admitted, Refusal> {
    let spec = vm_of(name, state)?;
    refuse_deleted(name, spec)?;
    let mut found = valid::request(request);
    if spec.request != Request::None {
        let mut finding = say::vm_has_partition(name);
        if spec.request == *request {
            // The same wish again is no second partition: commands may be repeated.
            finding.severity = Severity::Info;
        }
        found.push(finding);
    }
    let foreign =
        state.domain(name).is_some_and(|domain| domain.defined_devices.iter().any(|device| !device.ours));
    if foreign {
        found.push(say::foreign_device(name));
    }
    let warnings = refuse_errors(found)?;
    set_request(name, spec, request, restart, state, format!("give VM {name} a GPU"), warnings)
}

fn detach_gpu(name: &VmName, restart: bool, state: State<'_>) -> Result<Admitted, Refusal> {
    let spec = vm_of(name, state)?;
    refuse_deleted(name, spec)?;
    set_request(
        name,
        spec,
        &Request::None,
        restart,
        state,
        format!("take the GPU from VM {name}"),
        Vec::new(),
    )
}

/// A changed request takes effect when the VM is off; a running one is restarted if that was allowed.
fn set_request(
    name: &VmName,
    before: &VmSpec,
    request: &Request,
    restart: bool,
    state: State<'_>,
    title: String,
    warnings: Vec<Finding>,
) -> Result<Admitted, Refusal> {
    let mut spec = before.clone();
    if spec.request == *request {
        return Ok(with_vm(state, name, spec, Goal::Recorded, title, warnings));
    }
    spec.request = request.clone();
    if !state.is_active(name) {
        return Ok(with_vm(state, name, spec, Goal::Recorded, title, warnings));
    }
    if !restart {
        return Err(vec![say::vm_running(name, "changing its GPU")]);
    }
    spec.run = Run::Running;
    spec.serial += 1;
    let goal = Goal::VmRuns { vm: name.clone(), serial: spec.serial };
    Ok(with_vm(state, name, spec, goal, title, warnings))
}

// What several changes need.

fn with_vm(
    state: State<'_>,
    name: &VmName,
    vm: VmSpec,
    goal: Goal,
    title: String,
    findings: Vec<Finding>,
) -> Admitted {
    let mut spec = state.spec.clone();
    spec.vms.insert(name.clone(), vm);
    Admitted { spec, goal, title, subject: Subject::Vm(name.clone()), findings }
}

fn host_of<'a>(key: &GpuKey, state: State<'a>) -> Result<&'a HostInventory, Refusal> {
    state.inventory.get(&key.host).map(|seen| &**seen).ok_or_else(|| vec![state.unheard(&key.host)])
}

fn vm_of<'a>(name: &VmName, state: State<'a>) -> Result<&'a VmSpec, Refusal> {
    let spec = state.spec.vms.get(name).ok_or_else(|| vec![say::vm_not_found(name)])?;
    if let Some(incoming) = spec.incoming() {
        return Err(vec![say::vm_is_coming(name, &incoming.from)]);
    }
    let parting = state.plan.vms.get(name).and_then(|planned| planned.parting.as_ref());
    match parting.filter(|parting| parting.is_away() && spec.outgoing().is_some()) {
        Some(parting) => Err(vec![say::vm_is_leaving(name, &parting.to)]),
        None => Ok(spec),
    }
}

fn refuse_deleted(name: &VmName, spec: &VmSpec) -> Result<(), Refusal> {
    if spec.run == Run::Deleted { Err(vec![say::vm_not_found(name)]) } else { Ok(()) }
}

/// Lets warnings through, and refuses if there is an error among them.
fn refuse_errors(found: Vec<Finding>) -> Result<Vec<Finding>, Refusal> {
    if found.iter().any(|finding| finding.severity == Severity::Error) { Err(found) } else { Ok(found) }
}
