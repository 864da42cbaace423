//! How rules and spare capacity look to people.

use std::collections::BTreeMap;

use serde::Serialize;
use tranche_core::capacity::{Capacity, HostCapacity, SizeCapacity};
use tranche_core::name::{RuleName, VmName};
use tranche_core::spec::Rule;
use tranche_core::upgrade::{UpgradePlan, UpgradeStep, UpgradeTurn};

use super::super::table::rows;
use super::super::text;
use super::Show;

/// Rules, by name.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Rules(pub(crate) BTreeMap<RuleName, Rule>);

impl Show for Rules {
    fn as_text(&self) -> String {
        let row = |(name, rule): (&RuleName, &Rule)| {
            let vms: Vec<String> = rule.vms().iter().map(ToString::to_string).collect();
            let strict = if rule.is_strict() { "strict" } else { "preferred" };
            vec![name.to_string(), vms.join(", "), rule.to_string(), strict.to_owned()]
        };
        rows(&["RULE", "VMS", "RUN", "KEPT"], self.0.iter().map(row).collect(), "There are no rules.")
    }
}

impl Show for Capacity {
    fn as_text(&self) -> String {
        let sizes = rows(
            &["SIZE", "MEMORY OF EACH", "FREE", "OF"],
            self.sizes.iter().map(size).collect(),
            "No GPU is split or passed through.",
        );
        let hosts = rows(
            &["HOST", "FREE", "MEMORY", "VCPUS", "PROTECTED VMS", "IF IT DIED"],
            self.hosts.iter().map(host).collect(),
            "No host takes VMs.",
        );
        let mut verdict = if self.survives_any {
            "Every protected VM would run again, whichever host died.\n".to_owned()
        } else {
            "Not every protected VM would run again, whichever host died:\n".to_owned()
        };
        let left_over = self.stranded.iter().chain(self.hosts.iter().flat_map(|host| &host.stranded));
        for stranded in left_over {
            verdict += &format!("  {}\n", text::plain(&stranded.why.message));
        }
        format!("{sizes}\n{hosts}\n{verdict}")
    }
}

impl Show for UpgradePlan {
    fn as_text(&self) -> String {
        let steps = rows(
            &["", "HOST", "VERSION", "BECAUSE", "VMS THAT MOVE", "VMS THAT CANNOT"],
            self.steps.iter().enumerate().map(|(index, step)| upgrade_step(index + 1, step)).collect(),
            "There is nothing to bring up to date.",
        );
        let mut text = steps;
        if let Some(first) = self.steps.first() {
            text += "\nFor each of them, until 'tranche cluster status' says that all is well again, before the next:\n";
            for command in &first.commands {
                text += &format!("  {}\n", text::plain(command));
            }
        }
        if !self.done.is_empty() {
            let done: Vec<String> = self.done.iter().map(ToString::to_string).collect();
            text += &format!("\nUp to date: {}.\n", done.join(", "));
        }
        for stranded in self.steps.iter().flat_map(|step| &step.stranded) {
            text += &format!("  {}\n", text::plain(&stranded.why.message));
        }
        text
    }
}

fn upgrade_step(number: usize, step: &UpgradeStep) -> Vec<String> {
    let because = match step.because {
        UpgradeTurn::Away => "it is away: mend it first",
        UpgradeTurn::NoVote => "it has no vote in the store",
        UpgradeTurn::Votes => "it has a vote in the store",
        UpgradeTurn::Leads => "it leads",
    };
    let names =
        |names: &mut dyn Iterator<Item = &VmName>| names.map(VmName::as_str).collect::<Vec<_>>().join(", ");
    vec![
        number.to_string(),
        step.host.to_string(),
        step.version.clone(),
        because.to_owned(),
        names(&mut step.vms.iter()),
        names(&mut step.stranded.iter().map(|stranded| &stranded.vm)),
    ]
}

fn size(size: &SizeCapacity) -> Vec<String> {
    let name = match (&size.profile, &size.pool) {
        (Some(profile), _) => profile.clone(),
        (None, Some(pool)) => format!("whole, pool {pool}"),
        (None, None) => "whole".to_owned(),
    };
    let memory = size.vram_mib.map(text::size).unwrap_or_default();
    vec![name, memory, size.free.to_string(), size.total.to_string()]
}

fn host(host: &HostCapacity) -> Vec<String> {
    let left = match (host.protected, host.stranded.len()) {
        (0, _) => "nothing to restart".to_owned(),
        (_, 0) => "all run again".to_owned(),
        (_, left) => format!("{left} left over"),
    };
    vec![
        host.host.to_string(),
        host.free_slots.to_string(),
        host.free_memory_mib.map(text::size).unwrap_or_default(),
        host.free_vcpus.map(|vcpus| vcpus.to_string()).unwrap_or_default(),
        host.protected.to_string(),
        left,
    ]
}
