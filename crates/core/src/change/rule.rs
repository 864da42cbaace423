//! Changes to rules: what a rule may ask, and which rules cannot all be kept.

use std::collections::{BTreeMap, BTreeSet};

use super::{Admitted, Refusal, State, refuse_errors};
use crate::diagnostics as say;
use crate::finding::{Finding, Severity, Subject};
use crate::label::LABELS_MAX;
use crate::name::{HostName, RuleName, VmName};
use crate::operation::Goal;
use crate::spec::{Company, HOST_PRIORITY_MAX, NAMES_PER_RULE_MAX, RULES_MAX, Rule, Run, Spec};

pub(super) fn set_rule(name: &RuleName, rule: &Rule, state: State<'_>) -> Result<Admitted, Refusal> {
    let hosts = known_hosts(state);
    let mut found = validate(rule);
    found.extend(unknown_names(rule, state, &hosts));
    let mut spec = state.spec.clone();
    spec.rules.insert(name.clone(), rule.clone());
    if spec.rules.len() > RULES_MAX {
        found.push(say::invalid_value("The number of rules", "so high", &format!("{RULES_MAX} at most")));
    }
    let before = contradictions(state.spec, &hosts);
    found.extend(contradictions(&spec, &hosts).into_iter().filter(|finding| !before.contains(finding)));
    let findings = refuse_errors(found)?;
    let subject = Subject::Rule(name.clone());
    Ok(Admitted { spec, goal: Goal::Recorded, title: format!("set rule {name}"), subject, findings })
}

pub(super) fn delete_rule(name: &RuleName, state: State<'_>) -> Result<Admitted, Refusal> {
    let mut spec = state.spec.clone();
    if spec.rules.remove(name).is_none() {
        return Err(vec![say::rule_not_found(name)]);
    }
    let (title, subject) = (format!("delete rule {name}"), Subject::Rule(name.clone()));
    Ok(Admitted { spec, goal: Goal::Recorded, title, subject, findings: Vec::new() })
}

/// The hosts that a rule can mean: the cluster's members, or the one that stands alone.
fn known_hosts(state: State<'_>) -> BTreeSet<HostName> {
    let members = state.spec.hosts.keys();
    if state.spec.hosts.is_empty() {
        state.inventory.keys().cloned().collect()
    } else {
        members.cloned().collect()
    }
}

fn validate(rule: &Rule) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut number = |what: &str, is: usize, least: usize, most: usize| {
        if !(least..=most).contains(&is) {
            found.push(say::invalid_value(what, &is.to_string(), &format!("{least} to {most}")));
        }
    };
    let least = if matches!(rule, Rule::Vms { .. }) { 2 } else { 1 };
    number("The number of VMs in the rule", rule.vms().len(), least, NAMES_PER_RULE_MAX);
    match rule {
        Rule::Hosts { hosts, .. } => {
            number("The number of hosts in the rule", hosts.len(), 1, NAMES_PER_RULE_MAX);
            for (host, priority) in hosts {
                let what = format!("The priority of host {host}");
                number(&what, usize::from(*priority), 1, usize::from(HOST_PRIORITY_MAX));
            }
        }
        Rule::Labels { labels, .. } => {
            number("The number of labels in the rule", labels.len(), 1, LABELS_MAX);
        }
        Rule::Vms { .. } => {}
    }
    found
}

/// Names that stand for nothing: a rule with a slip of the pen would silently protect nobody.
fn unknown_names(rule: &Rule, state: State<'_>, known: &BTreeSet<HostName>) -> Vec<Finding> {
    let is_there = |vm: &&VmName| state.spec.vms.get(*vm).is_some_and(|spec| spec.run != Run::Deleted);
    let mut found: Vec<Finding> =
        rule.vms().iter().filter(|vm| !is_there(vm)).map(say::vm_not_found).collect();
    if let Rule::Hosts { hosts, strict, .. } = rule {
        let known_names: Vec<&HostName> = known.iter().collect();
        for host in hosts.keys().filter(|host| !known.contains(*host)) {
            let mut finding = say::host_not_found(host, &known_names);
            if !strict {
                finding.severity = Severity::Warning;
            }
            found.push(finding);
        }
    }
    found
}

/// Strict rules that cannot all be kept, whatever runs where. With more hosts some of them could, which is a warning.
fn contradictions(spec: &Spec, hosts: &BTreeSet<HostName>) -> Vec<Finding> {
    let groups = together(spec);
    let mut found = Vec::new();
    for (name, rule) in strict(spec) {
        let Rule::Vms { vms, kind: Company::Apart, .. } = rule else { continue };
        let mut seen: BTreeMap<&VmName, &VmName> = BTreeMap::new();
        for vm in vms {
            let group = groups.get(vm).map_or(vm, |group| group.first);
            if let Some(other) = seen.insert(group, vm) {
                let rules: Vec<_> = groups.get(vm).map(|group| &group.rules).into_iter().flatten().collect();
                let rules = say::list(&rules);
                let why = format!("VMs {other} and {vm} are to be apart, and together by rule {rules}");
                found.push(say::rule_contradiction(name, &why));
            }
        }
        let left: BTreeSet<&HostName> = vms.iter().flat_map(|vm| allowed(vm, spec, hosts).0).collect();
        if left.len() < vms.len() {
            let why = format!("it asks for {} hosts, and there are {} for its VMs", vms.len(), left.len());
            let finding = say::rule_contradiction(name, &why);
            found.push(Finding { severity: Severity::Warning, ..finding });
        }
    }
    let alone = spec.rules.values().flat_map(Rule::vms).filter(|vm| !groups.contains_key(vm));
    let alone: BTreeSet<&VmName> = alone.collect();
    let sets = alone.into_iter().map(|vm| BTreeSet::from([vm]));
    let firsts: BTreeSet<&VmName> = groups.values().map(|group| group.first).collect();
    let members =
        |first: &VmName| groups.iter().filter(|(_, group)| group.first == first).map(|(vm, _)| *vm).collect();
    for vms in sets.chain(firsts.into_iter().map(members)) {
        found.extend(without_a_host(&vms, spec, hosts));
    }
    found
}

/// Whether there is no host on which all of these VMs may be together.
fn without_a_host(vms: &BTreeSet<&VmName>, spec: &Spec, hosts: &BTreeSet<HostName>) -> Option<Finding> {
    let mut left: BTreeSet<&HostName> = hosts.iter().collect();
    let mut rules: BTreeSet<&RuleName> = BTreeSet::new();
    for vm in vms {
        let (allowed, by) = allowed(vm, spec, hosts);
        left.retain(|host| allowed.contains(host));
        rules.extend(by);
    }
    let name = rules.last().filter(|_| left.is_empty())?;
    let vms: Vec<&VmName> = vms.iter().copied().collect();
    let rules: Vec<&RuleName> = rules.iter().copied().collect();
    let why = format!("no host is left for VM {} by rule {}", say::list(&vms), say::list(&rules));
    Some(say::rule_contradiction(name, &why))
}

/// The hosts that strict rules about hosts and labels leave to a VM, and which rules these are.
fn allowed<'a>(
    vm: &VmName,
    spec: &'a Spec,
    hosts: &'a BTreeSet<HostName>,
) -> (BTreeSet<&'a HostName>, Vec<&'a RuleName>) {
    let mut left: BTreeSet<&HostName> = hosts.iter().collect();
    let mut by = Vec::new();
    let about = strict(spec).filter(|(_, rule)| !matches!(rule, Rule::Vms { .. }) && rule.vms().contains(vm));
    for (name, rule) in about {
        left.retain(|host| !crate::placement::forbids(rule, vm, host, spec, &BTreeMap::new()));
        by.push(name);
    }
    (left, by)
}

/// VMs that are to be on one host, directly or through others.
struct Group<'a> {
    first: &'a VmName,
    rules: BTreeSet<&'a RuleName>,
}

fn together(spec: &Spec) -> BTreeMap<&VmName, Group<'_>> {
    let mut groups: Vec<(BTreeSet<&VmName>, BTreeSet<&RuleName>)> = Vec::new();
    for (name, rule) in strict(spec) {
        let Rule::Vms { vms, kind: Company::Together, .. } = rule else { continue };
        let mut joined = (vms.iter().collect::<BTreeSet<_>>(), BTreeSet::from([name]));
        groups.retain(|(others, rules)| {
            let apart = joined.0.is_disjoint(others);
            if !apart {
                joined.0.extend(others);
                joined.1.extend(rules);
            }
            apart
        });
        groups.push(joined);
    }
    let mut by_vm = BTreeMap::new();
    for (vms, rules) in groups {
        for vm in &vms {
            let first = vms.first().copied().unwrap_or(vm);
            by_vm.insert(*vm, Group { first, rules: rules.clone() });
        }
    }
    by_vm
}

fn strict(spec: &Spec) -> impl Iterator<Item = (&RuleName, &Rule)> {
    spec.rules.iter().filter(|(_, rule)| rule.is_strict())
}
