//! The command line of rules about where VMs run, and of the cluster's spare capacity.

use clap::{ArgGroup, Args, Subcommand};
use tranche_core::name::{HostName, LabelKey, LabelValue, RuleName, VmName};

use super::Doing;
use crate::argument;

/// Rules about where VMs run.
#[derive(Debug, Subcommand)]
pub enum RuleCommand {
    /// List the rules
    List,
    /// Show a rule
    Show {
        /// The rule
        name: RuleName,
    },
    /// Make a rule, or change it
    ///
    /// With --strict it is kept at any price: a VM waits rather than break it. Otherwise it is a preference, and weighs before
    /// pack or spread.
    #[command(after_long_help = EXAMPLES)]
    Set(RuleArgs),
    /// Forget a rule
    Delete {
        /// The rule
        name: RuleName,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
}

const EXAMPLES: &str = "\
Examples:
  tranche rule set databases-apart --vm db-1,db-2,db-3 --apart --strict
  tranche rule set web-with-cache --vm web,cache --together
  tranche rule set render-home --vm render --host node1:10,node2:5 --failback
  tranche rule set licensed --vm cad-1,cad-2 --label licence=cad --strict";

/// A rule.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["hosts", "labels", "together", "apart"])))]
pub struct RuleArgs {
    /// Its name
    pub name: RuleName,
    /// The VMs that it is about, with commas between them
    #[arg(long = "vm", required = true, value_delimiter = ',', value_name = "VM")]
    pub vms: Vec<VmName>,
    /// They run on these hosts. A higher priority, 1 to 1000, is a better host; 100 if left out
    #[arg(long = "host", value_delimiter = ',', value_name = "HOST[:PRIORITY]", value_parser = argument::preferred_host)]
    pub hosts: Vec<(HostName, u16)>,
    /// They run on hosts with all of these labels
    #[arg(long = "label", value_delimiter = ',', value_name = "KEY=VALUE", value_parser = argument::label)]
    pub labels: Vec<(LabelKey, LabelValue)>,
    /// They run on one host
    #[arg(long)]
    pub together: bool,
    /// Each of them runs on another host
    #[arg(long)]
    pub apart: bool,
    /// They wait rather than break the rule
    #[arg(long)]
    pub strict: bool,
    /// With --host: a running VM moves when a host of higher priority has room again
    #[arg(long, requires = "hosts")]
    pub failback: bool,
    /// How to do it.
    #[command(flatten)]
    pub doing: Doing,
}
