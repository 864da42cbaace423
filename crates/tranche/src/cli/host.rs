//! The command line of hosts.

use clap::{Args, Subcommand};
use tranche_core::name::{AgentName, HostName, LabelKey, LabelValue};
use tranche_core::spec::{FencePart, HostPart};

use super::Doing;
use crate::argument;

/// Hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List the hosts
    List,
    /// Show one host, or all
    Show {
        /// The host; all if left out
        host: Option<HostName>,
    },
    /// Empty hosts: their VMs go elsewhere, and they take none until they shall serve again
    ///
    /// Several are emptied at once: no VM of one goes to another of them, and the dry run tells of all together. A host stays
    /// in maintenance over its reboots. 'tranche host undrain' takes it back at any moment.
    #[command(
        after_long_help = "Examples:\n  tranche host drain node2 --dry-run\n  tranche host drain node2 node3"
    )]
    Drain {
        /// The hosts
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<HostName>,
        /// Empty one after the other: each once the one before is empty. VMs may go to hosts whose turn comes later
        #[arg(long, conflicts_with_all = ["dry_run", "no_wait"])]
        one_by_one: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Let hosts serve again, or take a drain back
    Undrain {
        /// The hosts
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<HostName>,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// See to the VMs of a host that is about to shut down or reboot
    ///
    /// They are shut down; by the policy 'shutdown' they then wait for the host, or start elsewhere. systemd does this by itself
    /// when a host of a cluster shuts down or reboots (tranche-guests.service).
    #[command(
        after_long_help = "Examples:\n  tranche host depart node2 --reboot\n  tranche host depart node2 --shutdown --grace 5m"
    )]
    Depart(DepartArgs),
    /// Take it back that a host is about to go down
    Stay {
        /// The host
        host: HostName,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Say that a silent host is down, so that its VMs start elsewhere
    ///
    /// Only for a host whose power you have seen to be off: if it still runs, its VMs run twice and destroy their disks.
    ConfirmDown {
        /// The host
        host: HostName,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Change labels, fencing and reserved memory of a host
    ///
    /// What is not named stays as it is.
    #[command(after_long_help = EXAMPLES)]
    Set(HostArgs),
}

const EXAMPLES: &str = "\
Examples:
  tranche host set node1 --label rack=4,licence=cad --remove-label zone --reserve-memory 16GiB
  tranche host set node1 --fence-agent fence_ipmilan --fence-option ip=10.0.9.11 --fence-option username=fence \\
      --fence-option password=secret:bmc-node1 --fence-option lanplus=1
  tranche host set node1 --fence-option ip=10.0.9.21
  tranche host set node1 --fence-leave-off
  tranche host set node1 --no-fence";

/// A host that is about to go down.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("way").required(true)))]
pub struct DepartArgs {
    /// The host; this one if left out
    pub host: Option<HostName>,
    /// It boots again at once
    #[arg(long, group = "way")]
    pub reboot: bool,
    /// It stays off
    #[arg(long, group = "way")]
    pub shutdown: bool,
    /// What systemd is about to do says which; nothing to do if that is neither
    #[arg(long, group = "way", hide = true)]
    pub by_systemd: bool,
    /// How long guests have to shut down before they are turned off: 90, 90s, 5m
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = argument::duration)]
    pub grace: std::time::Duration,
    /// How to do it.
    #[command(flatten)]
    pub doing: Doing,
}

/// Settings of a host.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// The host
    pub host: HostName,
    /// What changes.
    #[command(flatten)]
    pub wished: HostPartArgs,
    /// How to do it.
    #[command(flatten)]
    pub doing: Doing,
}

/// What changes of a host.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct HostPartArgs {
    /// Labels by which VMs ask for a place, with commas between them
    #[arg(long = "label", value_delimiter = ',', value_name = "KEY=VALUE", value_parser = argument::label)]
    labels: Vec<(LabelKey, LabelValue)>,
    /// Labels that it has no more, with commas between them
    #[arg(long = "remove-label", value_delimiter = ',', value_name = "KEY")]
    removed_labels: Vec<LabelKey>,
    /// The agent that cuts its power; its options are those that are named with it
    #[arg(long, value_name = "AGENT")]
    fence_agent: Option<AgentName>,
    /// An option of the agent, as its manual page names it; may be repeated. A secret is named: password=secret:NAME
    #[arg(long = "fence-option", value_name = "NAME=VALUE", value_parser = argument::fence_option)]
    fence_options: Vec<(String, String)>,
    /// Leave it off after its power was cut, until somebody turns it on
    #[arg(long, conflicts_with = "fence_turn_on")]
    fence_leave_off: bool,
    /// Have the agent turn it on again after its power was cut; so it is unless something else was said
    #[arg(long)]
    fence_turn_on: bool,
    /// No agent cuts its power, only its own watchdog
    #[arg(long, conflicts_with_all = ["fence_agent", "fence_options", "fence_leave_off", "fence_turn_on"])]
    no_fence: bool,
    /// Memory that VMs leave to the host itself: 4GiB, 512MiB; a bare number is MiB
    #[arg(long, value_name = "SIZE", value_parser = argument::size_mib)]
    reserve_memory: Option<u64>,
}

impl From<HostPartArgs> for HostPart {
    fn from(args: HostPartArgs) -> Self {
        let removed = args.removed_labels.into_iter().map(|key| (key, None));
        let labels = args.labels.into_iter().map(|(key, value)| (key, Some(value)));
        let part = FencePart {
            agent: args.fence_agent,
            options: args.fence_options.into_iter().map(|(name, value)| (name, Some(value))).collect(),
            leave_off: (args.fence_leave_off || args.fence_turn_on).then_some(args.fence_leave_off),
        };
        let is_named = part != FencePart::default();
        Self {
            labels: removed.chain(labels).collect(),
            fence: if args.no_fence { Some(None) } else { is_named.then_some(Some(part)) },
            reserved_memory_mib: args.reserve_memory,
        }
    }
}
