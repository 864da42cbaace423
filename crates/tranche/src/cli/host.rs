//! The command line of hosts.

use clap::{Args, Subcommand};
use tranche_core::name::{AgentName, HostName, LabelKey, LabelValue};

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
    /// Set labels, fencing and reserved memory of a host, all of them
    #[command(after_long_help = EXAMPLES)]
    Set(HostArgs),
}

const EXAMPLES: &str = "\
Examples:
  tranche host set node1 --label rack=4,licence=cad --reserve-memory 16GiB
  tranche host set node1 --fence-agent fence_ipmilan --fence-option ip=10.0.9.11 --fence-option username=fence \\
      --fence-option password=secret:bmc-node1 --fence-option lanplus=1";

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
    /// Labels by which VMs ask for a place, with commas between them
    #[arg(long = "label", value_delimiter = ',', value_name = "KEY=VALUE", value_parser = argument::label)]
    pub labels: Vec<(LabelKey, LabelValue)>,
    /// The agent that cuts its power; without one, only its own watchdog does
    #[arg(long, value_name = "AGENT")]
    pub fence_agent: Option<AgentName>,
    /// An option of that, as its manual page names it; may be repeated. A secret is named: password=secret:NAME
    #[arg(long = "fence-option", value_name = "NAME=VALUE", requires = "fence_agent", value_parser = argument::fence_option)]
    pub fence_options: Vec<(String, String)>,
    /// Memory that VMs leave to the host itself: 4GiB, 512MiB; a bare number is MiB
    #[arg(long, value_name = "SIZE", value_parser = argument::size_mib)]
    pub reserve_memory: Option<u64>,
    /// How to do it.
    #[command(flatten)]
    pub doing: Doing,
}
