//! The declarative file: what GPUs, VMs and rules there shall be, whole or in part.
//!
//! A declaration becomes ordinary [`Change`]s, in an order that works. What it does not name is left alone: a file that
//! lost a line must not cost anybody a VM. One that says so stands for all VMs that Tranche made and all rules, and
//! never for a VM that runs (decision 0045).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::change::{AdoptedVm, Change, NewVm};
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::label;
use crate::name::{GpuAddress, GpuKey, HostName, LabelKey, LabelValue, RuleName, VmName};
use crate::spec::{
    Availability, AvailabilityPart, GpuMode, PolicyPart, Request, Rule, Run, Spec, VmHardware, VmPart,
    VmSource, VmSpec,
};

/// The most GPUs, and the most VMs, in one declaration.
pub const DECLARED_MAX: usize = 10_000;

/// What there shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Declaration {
    /// The policies that shall be set. Those that are not named stay as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyPart>,
    /// GPUs and their modes.
    pub gpus: Vec<DeclaredGpu>,
    /// VMs.
    pub vms: Vec<DeclaredVm>,
    /// Rules about where VMs run, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<RuleName, Rule>,
    /// Whether VMs that Tranche made, and rules, that are not named go. A VM that is to run is a refusal.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub prune: bool,
}

/// A GPU and its mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeclaredGpu {
    /// The host; the only one there is, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Where it is.
    pub address: GpuAddress,
    /// What it shall be used for.
    pub mode: GpuMode,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeclaredVm {
    /// Its name.
    pub name: VmName,
    /// Its hardware; left out for a domain that is adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<VmHardware>,
    /// What it asks for.
    #[serde(default)]
    pub gpu: Request,
    /// What people tell it apart by; those without a value (null) are taken away, those that are not named stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Option<String>>))]
    pub labels: BTreeMap<LabelKey, Option<LabelValue>>,
    /// Whether it shall run; left as it is if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// Whether it keeps its partition while it is off; left as it is if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<bool>,
    /// The NUMA node whose GPUs are preferred; left as it is if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer_numa_node: Option<u16>,
    /// How much is done to keep it running. What is left out of it is left as it is.
    #[serde(default, skip_serializing_if = "AvailabilityPart::is_empty")]
    pub availability: AvailabilityPart,
}

impl DeclaredVm {
    /// What is named of all that can be changed at any time.
    fn part(&self) -> VmPart {
        let Self { labels, reserved, prefer_numa_node, availability, .. } = self;
        VmPart {
            labels: labels.clone(),
            reserved: *reserved,
            prefer_numa_node: prefer_numa_node.map(Some),
            availability: *availability,
        }
    }
}

/// The changes that bring about what is declared: GPUs first, then VMs, each in the order of the file, then rules; last,
/// what goes because it is not named.
///
/// # Errors
/// Findings about things that are declared twice, hosts that are not named, hardware of a VM that differs, VMs that are
/// being deleted, and VMs that would go while they are to run.
pub fn changes(
    declared: &Declaration,
    spec: &Spec,
    hosts: &[&HostName],
) -> Result<Vec<Change>, Vec<Finding>> {
    let mut changes = Vec::new();
    let mut refusal = Vec::new();
    if declared.gpus.len() > DECLARED_MAX || declared.vms.len() > DECLARED_MAX {
        return Err(vec![say::invalid_value(
            "The number of things in a declaration",
            "so high",
            "10000 at most",
        )]);
    }
    let policy = declared.policy.unwrap_or_default().over(spec.policy);
    if policy != spec.policy {
        changes.push(Change::SetPolicy { policy });
    }
    let mut seen_gpus = BTreeSet::new();
    for gpu in &declared.gpus {
        match key_of(gpu, hosts) {
            Ok(key) if !seen_gpus.insert(key.clone()) => refusal.push(declared_twice(&format!("GPU {key}"))),
            Ok(key) => {
                let now = spec.gpus.get(&key).map_or(&GpuMode::Host, |wish| &wish.mode);
                if *now != gpu.mode {
                    changes.push(Change::SetGpuMode { gpu: key, mode: gpu.mode.clone() });
                }
            }
            Err(finding) => refusal.push(finding),
        }
    }
    let mut seen_vms = BTreeSet::new();
    for vm in &declared.vms {
        if seen_vms.insert(&vm.name) {
            match vm_changes(vm, spec) {
                Ok(more) => changes.extend(more),
                Err(finding) => refusal.push(finding),
            }
        } else {
            refusal.push(declared_twice(&format!("VM {}", vm.name)));
        }
    }
    let differing = declared.rules.iter().filter(|(name, rule)| spec.rules.get(*name) != Some(rule));
    changes.extend(differing.map(|(name, rule)| Change::SetRule { name: name.clone(), rule: rule.clone() }));
    if declared.prune {
        let unnamed = spec.rules.keys().filter(|name| !declared.rules.contains_key(*name));
        changes.extend(unnamed.map(|name| Change::DeleteRule { name: name.clone() }));
        for (name, vm) in spec.vms.iter().filter(|(name, _)| !seen_vms.contains(*name)) {
            match pruned(name, vm) {
                Ok(change) => changes.extend(change),
                Err(finding) => refusal.push(finding),
            }
        }
    }
    if refusal.is_empty() { Ok(changes) } else { Err(refusal) }
}

/// What becomes of a VM that is not named. What was adopted is somebody else's definition, and stays.
fn pruned(name: &VmName, vm: &VmSpec) -> Result<Option<Change>, Finding> {
    if vm.run == Run::Deleted || vm.source == VmSource::Adopted {
        return Ok(None);
    }
    if vm.run.is_up() {
        let hint = format!(
            "Stop it first ('tranche vm stop {name}', or 'running: false' in the file); or name it, so that it stays."
        );
        return Err(Finding { hint, ..say::vm_running(name, "deleting it") });
    }
    Ok(Some(Change::DeleteVm { name: name.clone(), force: false }))
}

fn key_of(gpu: &DeclaredGpu, hosts: &[&HostName]) -> Result<GpuKey, Finding> {
    let host = match (&gpu.host, hosts) {
        (Some(host), _) => host.clone(),
        (None, [only]) => (*only).clone(),
        (None, _) => {
            let what = format!("The host of GPU {}", gpu.address);
            return Err(say::invalid_value(&what, "left out", &format!("one of: {}", say::list(hosts))));
        }
    };
    Ok(GpuKey { host, address: gpu.address.clone() })
}

fn declared_twice(what: &str) -> Finding {
    say::invalid_value(what, "declared twice", "one entry for each")
}

fn vm_changes(vm: &DeclaredVm, spec: &Spec) -> Result<Vec<Change>, Finding> {
    let name = vm.name.clone();
    let (mut changes, running) = match spec.vms.get(&vm.name) {
        None => (vec![new_vm(vm)], false),
        Some(existing) => (changes_of(vm, existing)?, existing.run.is_up()),
    };
    match vm.running {
        Some(true) if !running => changes.push(Change::StartVm { name }),
        Some(false) if running => changes.push(Change::StopVm { name, force: false }),
        _ => {}
    }
    Ok(changes)
}

fn new_vm(vm: &DeclaredVm) -> Change {
    let name = vm.name.clone();
    let (request, prefer_numa_node) = (vm.gpu.clone(), vm.prefer_numa_node);
    let reserved = vm.reserved.unwrap_or_default();
    let labels = label::over(&vm.labels, &label::Labels::new());
    let availability = vm.availability.over(Availability::default());
    match vm.hardware.clone() {
        Some(hardware) => {
            let vm = NewVm { hardware, request, labels, reserved, prefer_numa_node, availability };
            Change::CreateVm { name, vm }
        }
        None => {
            let vm = AdoptedVm { request, labels, reserved, prefer_numa_node, availability };
            Change::AdoptVm { name, vm }
        }
    }
}

/// What is to change of a VM that exists. What cannot be changed is said.
fn changes_of(vm: &DeclaredVm, existing: &VmSpec) -> Result<Vec<Change>, Finding> {
    let name = &vm.name;
    if existing.run == Run::Deleted {
        return Err(say::vm_being_deleted(name));
    }
    let differs = match (&existing.source, &vm.hardware) {
        (VmSource::Made(is), Some(declared)) => is != declared,
        (VmSource::Adopted, Some(_)) => true,
        (_, None) => false,
    };
    if differs {
        let what = format!("The hardware of existing VM {name}");
        return Err(say::invalid_value(
            &what,
            "changed by a declaration",
            "the hardware it has, or delete the VM first",
        ));
    }
    let mut changes = request_changes(name, &existing.request, &vm.gpu);
    let wish = vm.part();
    if wish.over(existing) != *existing {
        changes.push(Change::SetVm { name: name.clone(), wish });
    }
    Ok(changes)
}

/// A running VM is not restarted by a file behind its user's back: the change is refused, and says so.
fn request_changes(name: &VmName, is: &Request, declared: &Request) -> Vec<Change> {
    if is == declared {
        return Vec::new();
    }
    let detach = Change::DetachGpu { name: name.clone(), restart: false };
    let attach = Change::AttachGpu { name: name.clone(), request: declared.clone(), restart: false };
    match (is, declared) {
        (Request::None, _) => vec![attach],
        (_, Request::None) => vec![detach],
        _ => vec![detach, attach],
    }
}
