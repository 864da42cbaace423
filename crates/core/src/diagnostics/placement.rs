//! How findings about places for VMs are worded.

use super::{error, info, list, vm_subject, warning};
use crate::finding::{Code, Finding, Subject};
use crate::name::{HostName, RuleName, VmName};
use crate::placement::Closed;
use crate::spec::Rule;

/// There are slots, and no host with one has enough of the rest.
pub fn no_memory(vm: &VmName, memory_mib: u64, vcpus: u64) -> Finding {
    let message = format!(
        "VM {vm} waits: no host with room for its GPU has {memory_mib} MiB of memory and {vcpus} virtual \
         processors left."
    );
    let hint = "It starts by itself when there is room. 'tranche cluster capacity' shows what hosts have; the policy \
                vcpus_per_cpu says how many virtual processors are given away.";
    warning(Code::NoFreeMemory, vm_subject(vm), message, hint)
}

/// The host that a VM belongs to takes nobody.
pub fn host_closed(vm: &VmName, host: &HostName, why: Closed) -> Finding {
    let (why, hint) = match why {
        Closed::Stranger => {
            ("is no member of the cluster", "Let it join: 'tranche cluster join'.".to_owned())
        }
        Closed::Maintenance => ("is in maintenance", format!("'tranche host undrain {host}' ends that.")),
        Closed::Departing => {
            ("is about to go down", "It starts when the host is back, or elsewhere.".to_owned())
        }
        Closed::NotUp => ("is not up", "It starts when the host is back, or elsewhere.".to_owned()),
        Closed::NoLibvirt => {
            ("has a libvirt that does not answer", "'systemctl status libvirtd' tells why.".to_owned())
        }
    };
    warning(Code::HostClosed, vm_subject(vm), format!("VM {vm} waits: host {host} {why}."), hint)
}

/// No host takes VMs.
pub fn no_host(vm: &VmName) -> Finding {
    let hint = "'tranche host list' shows the hosts and how they stand.";
    warning(Code::HostClosed, vm_subject(vm), format!("VM {vm} waits: no host takes VMs."), hint)
}

/// With one more VM the loss of a host could not be made good.
pub fn capacity_short(vm: &VmName, host: &HostName, stranded: &[VmName]) -> Finding {
    let (first, more) = (stranded.get(..5).unwrap_or(stranded), stranded.len().saturating_sub(5));
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("With VM {vm}, VM {}{more} could not run again if host {host} died.", list(first));
    let hint = "'tranche cluster capacity' shows what hosts have to spare. Add room, stop what is not needed, or set the \
                policy admission to 'off' or 'warn'.";
    error(Code::CapacityShort, vm_subject(vm), message, hint)
}

// Rules.

/// No such rule.
pub fn rule_not_found(rule: &RuleName) -> Finding {
    let hint = "'tranche rule list' shows the rules.";
    error(Code::RuleNotFound, rule_subject(rule), format!("There is no rule {rule}."), hint)
}

/// Strict rules cannot all be kept. `why` is a sentence without its full stop.
pub fn rule_contradiction(rule: &RuleName, why: &str) -> Finding {
    let hint = "Change or delete one of them, or let one be a preference (without --strict).";
    error(Code::RuleContradiction, rule_subject(rule), format!("Rule {rule} cannot be kept: {why}."), hint)
}

/// A VM could run where rules forbid it, and nowhere else.
pub fn rule_waits(vm: &VmName, rules: &[&RuleName]) -> Finding {
    let message = format!("VM {vm} waits: there is room for it only where {} it to run.", forbid(rules));
    let hint = "It starts by itself when there is room where it may run. 'tranche rule show' tells what a rule asks; a \
                preference (without --strict) does not keep a VM waiting.";
    warning(Code::RuleWaits, vm_subject(vm), message, hint)
}

/// A rule keeps a VM from a host.
pub fn rule_forbids(rule: &RuleName, vm: &VmName, host: &HostName) -> Finding {
    let message = format!("Rule {rule} forbids VM {vm} to run on host {host}.");
    error(
        Code::RuleForbids,
        vm_subject(vm),
        message,
        format!("'tranche rule show {rule}' tells what it asks."),
    )
}

/// A VM runs where a rule forbids it.
pub fn rule_broken(name: &RuleName, rule: &Rule, vm: &VmName, host: &HostName) -> Finding {
    let message = format!("VM {vm} runs on host {host}, and by rule {name} it runs {rule}.");
    let hint = format!(
        "It is left running. Stop it and start it ('tranche vm stop {vm}', 'tranche vm start {vm}'): it is then placed anew."
    );
    warning(Code::RuleBroken, vm_subject(vm), message, hint)
}

/// A VM could go back to where a rule prefers it.
pub fn rule_failback(rule: &RuleName, vm: &VmName, from: &HostName, to: &HostName) -> Finding {
    let message =
        format!("VM {vm} runs on host {from}; rule {rule} prefers host {to}, which has room for it.");
    let hint = format!("'tranche rule set {rule} --failback' lets VMs go back by themselves.");
    info(Code::RuleFailback, vm_subject(vm), message, hint)
}

fn rule_subject(rule: &RuleName) -> Subject {
    Subject::Rule(rule.clone())
}

fn forbid(rules: &[&RuleName]) -> String {
    match rules {
        [one] => format!("rule {one} forbids"),
        many => format!("rules {} forbid", list(many)),
    }
}
