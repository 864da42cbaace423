//! What is left of an answer to somebody who is limited to VMs with a label (decision 0046).
//!
//! Structure goes first: rows about VMs of others are dropped, and their names where others are named beside something else. What is left
//! are sentences, in which any word that is the name of another VM is blotted out, whatever it means there.
//!
//! Deliberately absent: which requests such a person may make ([`tranche_core::access::Reach`]).

use std::collections::BTreeSet;

use tranche_core::access::Limit;
use tranche_core::capacity::{Capacity, Stranded};
use tranche_core::effect::Effect;
use tranche_core::finding::{Finding, Subject};
use tranche_core::label::Labels;
use tranche_core::migration::Outlook;
use tranche_core::name::{Slot, SlotKey, VmName};
use tranche_core::operation::Operation;
use tranche_core::plan::{VmGoal, VmPlan};

use crate::answer::{Accepted, ChangeEvent, Preview, WhyNot};
use crate::problem::Problem;
use crate::view::{GpuView, HostView, LibvirtView, Overview, PartitionView, Sources, VmView, vm_figures};

/// Stands for the name of a VM of others.
pub const BLOT: &str = "(another)";

/// The VMs that somebody is limited to, among all that there are.
#[derive(Debug)]
pub struct Theirs<'a> {
    sources: Sources<'a>,
    limit: &'a Limit,
    /// The VM that they asked for by name, as one that is to be made: they know that name already.
    asked: Option<&'a VmName>,
    /// What the VMs of others are called, and the domains that are no VM.
    others: BTreeSet<&'a str>,
    /// Those of them that are no words: names of domains that are no VM may be anything.
    odd: Vec<&'a str>,
}

impl<'a> Theirs<'a> {
    /// Those of a limit.
    pub fn new(sources: Sources<'a>, limit: &'a Limit, asked: Option<&'a VmName>) -> Self {
        let mut theirs = Self { sources, limit, asked, others: BTreeSet::new(), odd: Vec::new() };
        let Sources { spec, plan, inventory, .. } = sources;
        let domains = inventory.values().filter_map(|observed| observed.domains());
        let names = spec.vms.keys().map(VmName::as_str);
        let names = names.chain(plan.vms.keys().map(VmName::as_str));
        let names = names.chain(plan.bookings.values().map(|booking| booking.vm.as_str()));
        let names = names.chain(domains.flat_map(|domains| domains.keys().map(String::as_str)));
        let others: BTreeSet<&str> = names.filter(|name| !theirs.has(name)).collect();
        let is_odd = |name: &&str| !name.is_empty() && !name.bytes().all(is_part_of_a_name);
        theirs.odd = others.iter().copied().filter(is_odd).collect();
        theirs.others = others;
        theirs
    }

    fn has(&self, name: &str) -> bool {
        name.parse().is_ok_and(|name| self.are(&name))
    }

    /// Whether a VM is theirs.
    pub fn are(&self, vm: &VmName) -> bool {
        let carries = self.sources.spec.vms.get(vm).is_some_and(|spec| self.limit.allows(&spec.labels));
        carries || self.asked == Some(vm)
    }

    /// Whether a VM with these labels is theirs.
    pub fn allow(&self, labels: &Labels) -> bool {
        self.limit.allows(labels)
    }

    /// Whether there is no VM of this name.
    fn are_gone(&self, vm: &VmName) -> bool {
        !self.others.contains(vm.as_str()) && !self.sources.spec.vms.contains_key(vm)
    }

    /// Whether a finding is about one of theirs, or about what that holds.
    pub fn concern(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Vm(vm) => self.are(vm),
            Subject::Partition(slot) => {
                self.sources.plan.bookings.get(slot).is_some_and(|booking| self.are(&booking.vm))
            }
            _ => false,
        }
    }

    /// Whether an operation is one of theirs.
    pub fn order(&self, operation: &Operation) -> bool {
        self.concern(&operation.subject)
    }

    /// Whether an operation may be told to somebody who knows its id: one of a VM that is gone, too. Who asked for its end has nothing else
    /// to know it by, and its id is told to nobody else.
    pub fn know(&self, operation: &Operation) -> bool {
        let is_of_the_gone = matches!(&operation.subject, Subject::Vm(vm) if self.are_gone(vm));
        is_of_the_gone || self.order(operation)
    }

    /// Blots the names of other VMs out of a sentence.
    pub fn blot(&self, text: &mut String) {
        for name in &self.odd {
            if text.contains(*name) {
                *text = text.replace(*name, BLOT);
            }
        }
        let mut blotted = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let word = rest.bytes().position(|byte| !is_part_of_a_name(byte)).unwrap_or(rest.len());
            let (name, end) = self.parted(&rest[..word]);
            blotted.push_str(if self.others.contains(name) { BLOT } else { name });
            blotted.push_str(end);
            let between = rest[word..].find(|c: char| c.is_ascii() && is_part_of_a_name(c as u8));
            let next = between.map_or(rest.len(), |between| word + between);
            blotted.push_str(&rest[word..next]);
            rest = &rest[next..];
        }
        *text = blotted;
    }

    /// A word without the full stops of the sentence that it ends.
    fn parted<'w>(&self, word: &'w str) -> (&'w str, &'w str) {
        if self.others.contains(word) { (word, "") } else { word.split_at(word.trim_end_matches('.').len()) }
    }
}

fn is_part_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// What can be told to somebody who is limited, once it was narrowed.
pub trait Narrow {
    /// Leaves out what concerns VMs of others.
    fn narrow(&mut self, theirs: &Theirs<'_>);
}

impl<T: Narrow> Narrow for Vec<T> {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.iter_mut().for_each(|item| item.narrow(theirs));
    }
}

impl Narrow for Finding {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        theirs.blot(&mut self.message);
        theirs.blot(&mut self.hint);
        self.subject.narrow(theirs);
    }
}

impl Narrow for Subject {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        match self {
            Self::Vm(vm) if !theirs.are(vm) && !theirs.are_gone(vm) => *self = Self::Installation,
            Self::Input(text) => theirs.blot(text),
            _ => {}
        }
    }
}

impl Narrow for VmView {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.findings.narrow(theirs);
    }
}

/// What it is and how much of it is free; nothing of what others do with it.
impl Narrow for GpuView {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.vms.retain(|vm| theirs.are(vm));
        self.findings.clear();
        self.telemetry = None;
        self.health.iter_mut().flat_map(|health| &mut health.reasons).for_each(|reason| theirs.blot(reason));
    }
}

impl Narrow for PartitionView {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.vm = self.vm.take().filter(|vm| theirs.are(vm));
        if self.vm.is_none() {
            self.telemetry = None;
        }
    }
}

/// What it is and whether it is there; of VMs, theirs are counted.
impl Narrow for HostView {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        let Sources { plan, inventory, .. } = theirs.sources;
        let here = plan.vms.iter().filter(|(name, vm)| vm.host == self.name && theirs.are(name));
        let runs = |name: &VmName| {
            let domain = inventory.get(&self.name).and_then(|observed| observed.domain(name));
            domain.is_some_and(|domain| domain.state.is_active())
        };
        let names: Vec<&VmName> = here.map(|(name, _)| name).collect();
        (self.vms, self.vms_running) = (names.len(), names.iter().filter(|name| runs(name)).count());
        self.findings.clear();
        self.stuck.clear();
        if let LibvirtView::Down { reason } = &mut self.libvirt {
            theirs.blot(reason);
        }
        if let Some(member) = &mut self.member {
            (member.agent, member.leave_off) = (None, false);
        }
    }
}

/// Of VMs and of what they hold, theirs are counted; of the site, what the lists tell.
impl Narrow for Overview {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.vms = vm_figures(&theirs.sources, |name| theirs.are(name));
        let held = theirs.sources.plan.bookings.iter();
        let is_part = |slot: &SlotKey| matches!(slot.slot, Slot::Partition(_));
        let own = held.filter(|(slot, booking)| is_part(slot) && theirs.are(&booking.vm));
        self.partitions.assigned = own.count();
    }
}

/// How much is free, and of protected VMs theirs.
impl Narrow for Capacity {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        let Sources { spec, plan, .. } = theirs.sources;
        for host in &mut self.hosts {
            let own = spec.vms.iter().filter(|(name, vm)| {
                let is_here = |planned: &&VmPlan| planned.goal == VmGoal::Run && planned.host == host.host;
                let runs = vm.run.is_up() && plan.vms.get(*name).filter(is_here).is_some();
                runs && vm.is_protected() && theirs.are(name)
            });
            host.protected = host.protected.min(own.count());
        }
        let narrow = |stranded: &mut Vec<Stranded>| {
            stranded.retain(|stranded| theirs.are(&stranded.vm));
            stranded.iter_mut().for_each(|stranded| stranded.why.narrow(theirs));
        };
        narrow(&mut self.stranded);
        self.hosts.iter_mut().for_each(|host| narrow(&mut host.stranded));
    }
}

impl Narrow for Operation {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        theirs.blot(&mut self.title);
        self.findings.narrow(theirs);
        self.log.iter_mut().for_each(|line| theirs.blot(&mut line.text));
    }
}

impl Narrow for Accepted {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.operation.narrow(theirs);
        self.findings.narrow(theirs);
    }
}

impl Narrow for Preview {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.changes.iter_mut().for_each(|change| theirs.blot(change));
        self.effect.narrow(theirs);
    }
}

impl Narrow for Effect {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.gpus.values_mut().for_each(|gpu| gpu.vms.retain(|vm| theirs.are(vm)));
        self.vms.retain(|vm, _| theirs.are(vm));
        self.homes.retain(|vm, _| theirs.are(vm));
        self.steps.retain(|step| theirs.concern(&step.step.subject().on(&step.host)));
        self.steps.iter_mut().for_each(|step| theirs.blot(&mut step.text));
        self.findings.retain(|finding| theirs.concern(&finding.subject));
        self.findings.narrow(theirs);
    }
}

impl Narrow for Outlook {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.why_not.narrow(theirs);
        self.live_obstacles.narrow(theirs);
    }
}

impl Narrow for WhyNot {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        self.findings.narrow(theirs);
    }
}

impl Narrow for Problem {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        theirs.blot(&mut self.detail);
        theirs.blot(&mut self.hint);
        self.subject.narrow(theirs);
        self.findings.narrow(theirs);
    }
}

/// A VM that is gone is told as a change of the installation: nobody knows any more whose it was.
impl Narrow for ChangeEvent {
    fn narrow(&mut self, theirs: &Theirs<'_>) {
        let told = self.subjects.iter().filter_map(|subject| match subject {
            Subject::Vm(vm) if theirs.are_gone(vm) => Some(Subject::Installation),
            Subject::Vm(vm) => theirs.are(vm).then(|| subject.clone()),
            Subject::Rule(_) | Subject::Input(_) => None,
            Subject::Installation | Subject::Host(_) | Subject::Gpu(_) | Subject::Partition(_) => {
                Some(subject.clone())
            }
        });
        let told: BTreeSet<Subject> = told.collect();
        self.subjects = told.into_iter().collect();
    }
}

#[cfg(test)]
mod tests {
    use tranche_core::inventory::Inventory;
    use tranche_core::plan::Plan;
    use tranche_core::spec::Spec;

    use super::*;
    use crate::view::tests::labelled;

    fn blotted(names: &[(&str, &str)], text: &str) -> String {
        let spec: Spec = labelled(names);
        let (plan, inventory, limit) = (Plan::default(), Inventory::default(), "team=red".parse().unwrap());
        let sources = Sources { spec: &spec, plan: &plan, inventory: &inventory, findings: &[] };
        let mut text = text.to_owned();
        Theirs::new(sources, &limit, None).blot(&mut text);
        text
    }

    #[test]
    fn names_of_others_are_blotted_out_of_sentences_and_nothing_else_is() {
        let vms = [("desk-1", "red"), ("desk-2", "blue"), ("a.b", "blue"), ("end.", "blue")];
        for (text, told) in [
            ("desk-2 holds it.", "(another) holds it."),
            ("Held by desk-1, desk-2 and a.b.", "Held by desk-1, (another) and (another)."),
            ("'desk-2'\u{2019}s „desk-2“: é desk-2", "'(another)'\u{2019}s „(another)“: é (another)"),
            ("desk-20, xdesk-2 and desk-2-old stay...", "desk-20, xdesk-2 and desk-2-old stay..."),
            ("It is end., or a.b...", "It is (another), or (another)..."),
            ("", ""),
        ] {
            assert_eq!(blotted(&vms, text), told);
        }
    }
}
