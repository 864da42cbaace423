//! Commands about rules, and about what the cluster has to spare.

use std::collections::BTreeMap;

use tranche_core::capacity::Capacity;
use tranche_core::name::{HostName, RuleName};
use tranche_core::spec::{Company, Rule};

use super::{Daemon, change};
use crate::cli::{RuleArgs, RuleCommand};
use crate::failure::{Exit, Failure};
use crate::output::Rules;

pub(super) fn run(command: RuleCommand, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    match command {
        RuleCommand::List => daemon.show(&Rules(daemon.client.list("/rules")?)),
        RuleCommand::Show { name } => {
            let rule: Rule = daemon.client.get(&path(&name))?;
            daemon.show(&Rules(BTreeMap::from([(name, rule)])))
        }
        RuleCommand::Set(args) => {
            let (path, doing) = (path(&args.name), args.doing);
            change::put(&path, &rule(args), doing, daemon)
        }
        RuleCommand::Delete { name, doing } => change::delete(&path(&name), doing, daemon),
    }
}

/// What could start now, and which host's loss could not be made good.
pub(super) fn capacity(without: &[HostName], daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let without: Vec<String> = without.iter().map(ToString::to_string).collect();
    let query = if without.is_empty() { String::new() } else { format!("?without={}", without.join(",")) };
    let capacity: Capacity = daemon.client.get(&format!("/capacity{query}"))?;
    daemon.console.show(&capacity)?;
    Ok(if capacity.survives_any { Exit::Done } else { Exit::Found })
}

fn path(name: &RuleName) -> String {
    format!("/rules/{name}")
}

fn rule(args: RuleArgs) -> Rule {
    let (vms, strict) = (args.vms.into_iter().collect(), args.strict);
    if !args.hosts.is_empty() {
        Rule::Hosts { vms, hosts: args.hosts.into_iter().collect(), strict, failback: args.failback }
    } else if !args.labels.is_empty() {
        Rule::Labels { vms, labels: args.labels.into_iter().collect(), strict }
    } else {
        let kind = if args.together { Company::Together } else { Company::Apart };
        Rule::Vms { vms, kind, strict }
    }
}
