//! Commands about the cluster.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use tranche_core::name::HostName;

use super::Doing;

/// The cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Begin a cluster with this host; it keeps all its VMs
    ///
    /// The records of this host move from its own store into the cluster's. What was there is kept beside it.
    #[command(
        after_long_help = "Examples:\n  tranche cluster init --address 10.0.0.1\n  tranche cluster token create        then, on the next host: tranche cluster join TOKEN"
    )]
    Init {
        /// The cluster's name
        #[arg(long, default_value = "tranche")]
        name: String,
        /// How others reach this host.
        #[command(flatten)]
        at: At,
    },
    /// Take this host into a cluster; it brings its GPUs and VMs
    ///
    /// On a witness ('tranched --witness'), it only gets a voice in the cluster's store.
    #[command(after_long_help = "Examples:\n  tranche cluster join TRANCHE1.…  --address 10.0.0.2")]
    Join {
        /// The token, from 'tranche cluster token create' on a member; `-` reads it from standard input
        token: String,
        /// How others reach this host.
        #[command(flatten)]
        at: At,
    },
    /// Take this host out of its cluster, or give up to get into one
    ///
    /// A host that has VMs cannot leave: drain it first.
    Leave,
    /// Forget a machine that is gone for good
    ///
    /// Refused while anything is heard of it, and while VMs belong to it.
    #[command(
        after_long_help = "Examples:\n  tranche cluster remove node3\n  tranche cluster remove node3 --forget-vms --dry-run"
    )]
    Remove {
        /// The machine
        host: HostName,
        /// Forget the VMs that belong to it and are not started elsewhere; their disks stay
        #[arg(long)]
        forget_vms: bool,
        /// Change nothing; show which VMs would be forgotten
        #[arg(long)]
        dry_run: bool,
    },
    /// Let other hardware take the place of a machine that is gone
    ///
    /// Prints a token with which a machine of that name joins. Its labels, its fence agent, its reserved memory and what was asked
    /// for of its GPUs stay, whichever cards are in the same slots. Refused as 'tranche cluster remove' is.
    #[command(
        after_long_help = "Examples:\n  tranche cluster replace node3        then, on the new node3: tranche cluster join TOKEN"
    )]
    Replace {
        /// The machine that is gone
        host: HostName,
        /// Forget the VMs that belong to it and are not started elsewhere; their disks stay
        #[arg(long)]
        forget_vms: bool,
        /// How long the token may be used: 90s, 30m
        #[arg(long, value_name = "TIME", default_value = "30m", value_parser = crate::argument::duration)]
        ttl: Duration,
    },
    /// Show the cluster: its machines, how its store fares, what it can lose
    Status,
    /// Join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Write all records of the cluster into a file
    ///
    /// Certificates and keys are not in it.
    Backup {
        /// The file; it must not exist
        file: PathBuf,
    },
    /// Begin a cluster with this host and the records of a backup
    ///
    /// The other hosts join it anew. Refused while this host is a member of a cluster that lives.
    Restore {
        /// The file, as 'tranche cluster backup' wrote it
        file: PathBuf,
        /// This host is a member of a cluster whose store is lost for good. Turn its other hosts off first
        #[arg(long)]
        force: bool,
        /// How others reach this host.
        #[command(flatten)]
        at: At,
    },
    /// Give the unused part of the store's files back, one member after the other
    Defragment,
    /// Show whether the GPUs that serve VMs are alike: what differs, what that breaks, and what mends it
    ///
    /// On a host that stands alone, its own GPUs are compared. Exits with 6 if they are not alike.
    #[command(
        after_long_help = "Examples:\n  tranche cluster homogeneity\n  tranche cluster homogeneity -o json"
    )]
    Homogeneity,
    /// Pause failover for planned work on the network: no host is given up, and none is reset
    ///
    /// VMs of a host that dies meanwhile are started elsewhere after 'tranche cluster resume'.
    Pause {
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Resume failover
    Resume {
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Show in which order to bring the cluster's machines up to date
    ///
    /// So that at every moment VMs have somewhere to go and the store has its majority. Exits with 6 if some host cannot be
    /// emptied, or one is away.
    UpgradePlan,
    /// Show what could start now, and whether every protected VM would run again if a host died
    ///
    /// Exits with 6 if the loss of some host could not be made good.
    #[command(
        after_long_help = "Examples:\n  tranche cluster capacity\n  tranche cluster capacity --without node3"
    )]
    Capacity {
        /// As if this host had died, with commas between several
        #[arg(long, value_delimiter = ',', value_name = "HOST")]
        without: Vec<HostName>,
    },
}

/// How others reach this host.
#[derive(Debug, Args)]
pub struct At {
    /// The address, or the name, by which other hosts reach this one [default: what tranched.toml says, or its name]
    #[arg(long)]
    pub address: Option<String>,
}

/// Join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token with which one machine may join, once
    Create {
        /// How long it may be used: 90s, 30m
        #[arg(long, value_name = "TIME", default_value = "30m", value_parser = crate::argument::duration)]
        ttl: Duration,
    },
}
