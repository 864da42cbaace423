//! Rules: which hosts they leave to a VM, and which of those they prefer.
//!
//! [`forbids`] and [`likes`] say what a rule means for one VM and one host. A board asks for all hosts at once, and gets
//! groups of hosts, the best first, put together from sets.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::HostSet;
use super::index::Index;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::name::{HostName, RuleName, VmName};
use crate::spec::{Company, HostSpec, PREFERENCE, Rule, Spec};

/// Where VMs are that run or shall run.
pub type Whereabouts = BTreeMap<VmName, HostName>;

/// Whether a strict rule keeps a VM from a host, as things are.
///
/// VMs that are to be together and are not may each run where any other of them is, so that they can come together.
pub fn forbids(rule: &Rule, vm: &VmName, host: &HostName, spec: &Spec, places: &Whereabouts) -> bool {
    if !rule.is_strict() || !rule.vms().contains(vm) {
        return false;
    }
    match rule {
        Rule::Hosts { hosts, .. } => !hosts.contains_key(host),
        Rule::Labels { .. } => !has_labels(rule, spec.hosts.get(host)),
        Rule::Vms { kind: Company::Apart, .. } => others(rule, vm, places).any(|other| other == host),
        Rule::Vms { kind: Company::Together, .. } => {
            let mut others = others(rule, vm, places).peekable();
            others.peek().is_some() && !others.any(|other| other == host)
        }
    }
}

/// How much a rule likes a VM to be on a host, as things are.
pub fn likes(rule: &Rule, vm: &VmName, host: &HostName, spec: &Spec, places: &Whereabouts) -> i32 {
    let preference = i32::from(PREFERENCE);
    if !rule.vms().contains(vm) {
        return 0;
    }
    match rule {
        Rule::Hosts { hosts, .. } => hosts.get(host).copied().map_or(0, i32::from),
        Rule::Labels { .. } => i32::from(has_labels(rule, spec.hosts.get(host))) * preference,
        Rule::Vms { kind, .. } => {
            let is_there = others(rule, vm, places).any(|other| other == host);
            let sign = if *kind == Company::Together { 1 } else { -1 };
            i32::from(is_there) * sign * preference
        }
    }
}

fn has_labels(rule: &Rule, host: Option<&HostSpec>) -> bool {
    let Rule::Labels { labels, .. } = rule else { return false };
    host.is_some_and(|host| labels.iter().all(|(key, value)| host.labels.get(key) == Some(value)))
}

/// The hosts of the other VMs of a rule.
fn others<'a>(rule: &'a Rule, vm: &'a VmName, places: &'a Whereabouts) -> impl Iterator<Item = &'a HostName> {
    rule.vms().iter().filter(move |other| *other != vm).filter_map(|other| places.get(other))
}

/// The rules by VM, and for each rule about labels the hosts that have them: read once, asked often.
#[derive(Debug, Clone)]
pub(super) struct RuleBook<'a> {
    spec: &'a Spec,
    of_vm: BTreeMap<&'a VmName, Vec<(&'a RuleName, &'a Rule)>>,
    labelled: BTreeMap<&'a RuleName, HostSet>,
    all: HostSet,
}

impl<'a> RuleBook<'a> {
    pub(super) fn new(spec: &'a Spec, index: &Index) -> Self {
        let mut of_vm: BTreeMap<&VmName, Vec<(&RuleName, &Rule)>> = BTreeMap::new();
        let mut labelled = BTreeMap::new();
        for (name, rule) in &spec.rules {
            for vm in rule.vms() {
                of_vm.entry(vm).or_default().push((name, rule));
            }
            if matches!(rule, Rule::Labels { .. }) {
                let having = index.hosts().filter(|(_, room)| has_labels(rule, spec.hosts.get(&room.host)));
                labelled.insert(name, having.map(|(id, _)| id).collect());
            }
        }
        Self { spec, of_vm, labelled, all: index.hosts().map(|(id, _)| id).collect() }
    }

    /// The VMs that there are rules about.
    pub(super) fn vms(&self) -> impl Iterator<Item = &'a VmName> {
        self.of_vm.keys().copied()
    }

    /// The rules about a VM.
    pub(super) fn of(&self, vm: &VmName) -> &[(&'a RuleName, &'a Rule)] {
        self.of_vm.get(vm).map_or(&[], Vec::as_slice)
    }

    /// The strict rules that keep a VM from a host.
    pub(super) fn forbidding(&self, vm: &VmName, host: &HostName, places: &Whereabouts) -> Vec<&'a RuleName> {
        let against = self.of(vm).iter().filter(|(_, rule)| forbids(rule, vm, host, self.spec, places));
        against.map(|(name, _)| *name).collect()
    }

    /// The hosts that the rules leave to a VM, the ones that they like most first.
    pub(super) fn groups(
        &self,
        vm: &VmName,
        index: &Index,
        places: &Whereabouts,
        without: Option<&RuleName>,
    ) -> Vec<HostSet> {
        let mut groups = vec![(0, self.all.clone())];
        let ids = |hosts: &mut dyn Iterator<Item = &HostName>| -> HostSet {
            hosts.filter_map(|host| index.id_of(host)).collect()
        };
        for (name, rule) in self.of(vm).iter().filter(|(name, _)| Some(*name) != without) {
            // What the rule is about: hosts that it likes each as much, and the most that it says of them.
            let (among, amounts): (HostSet, Vec<(i32, HostSet)>) = match rule {
                Rule::Hosts { hosts, .. } => {
                    let of = |wanted: u16| {
                        ids(&mut hosts.iter().filter(|(_, is)| **is == wanted).map(|(host, _)| host))
                    };
                    let priorities: BTreeSet<u16> = hosts.values().copied().collect();
                    let amounts = priorities.into_iter().map(|is| (i32::from(is), of(is))).collect();
                    (ids(&mut hosts.keys()), amounts)
                }
                Rule::Labels { .. } => {
                    let having = self.labelled.get(name).cloned().unwrap_or_default();
                    (having.clone(), vec![(i32::from(PREFERENCE), having)])
                }
                Rule::Vms { kind, .. } => {
                    let there = ids(&mut others(rule, vm, places));
                    let together = *kind == Company::Together;
                    let amount = if together { i32::from(PREFERENCE) } else { -i32::from(PREFERENCE) };
                    let among = if together && others(rule, vm, places).next().is_some() {
                        there.clone()
                    } else if together {
                        self.all.clone()
                    } else {
                        self.all.split(&there).1
                    };
                    (among, vec![(amount, there)])
                }
            };
            if rule.is_strict() {
                for (_, group) in &mut groups {
                    *group = group.split(&among).0;
                }
            }
            for (amount, liked) in amounts {
                groups = groups
                    .into_iter()
                    .flat_map(|(sum, group)| {
                        let (within, without) = group.split(&liked);
                        [(sum + amount, within), (sum, without)]
                    })
                    .filter(|(_, group)| !group.is_empty())
                    .collect();
            }
        }
        let mut merged: BTreeMap<std::cmp::Reverse<i32>, HostSet> = BTreeMap::new();
        for (sum, group) in groups {
            let into = merged.entry(std::cmp::Reverse(sum)).or_default();
            for host in group.iter() {
                into.insert(host);
            }
        }
        merged.into_values().collect()
    }
}

/// What is wrong with where VMs run: a finding for each that breaks a strict rule.
pub fn broken(spec: &Spec, places: &Whereabouts) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, rule) in spec.rules.iter().filter(|(_, rule)| rule.is_strict()) {
        for vm in rule.vms() {
            let Some(host) = places.get(vm) else { continue };
            let breaks = match rule {
                // Of VMs that are to be together and run on several hosts each may stay, and still the rule is broken.
                Rule::Vms { kind: Company::Together, .. } => {
                    others(rule, vm, places).any(|other| other != host)
                }
                _ => forbids(rule, vm, host, spec, places),
            };
            if breaks {
                found.push(say::rule_broken(name, rule, vm, host));
            }
        }
    }
    found
}
