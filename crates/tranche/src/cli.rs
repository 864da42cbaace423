//! The command line, as typed: every command, flag and example, and nothing about what they do.
//!
//! Completions, man pages and the handbook's page are made from this one definition.

mod doing;
mod vm;

use std::path::PathBuf;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tranche_core::name::{HostName, OperationId, PoolName, VmName};
use tranche_core::spec::PlacementPolicy;

pub use doing::Doing;
pub use vm::{AdoptArgs, AttachArgs, CreateArgs, FirmwareArg, VmCommand};

use crate::argument::GpuArg;

/// Splits GPUs into hardware partitions and gives them to virtual machines.
///
/// One GPU becomes several partitions, every VM gets at most one, and Tranche chooses which. The work is done by the
/// daemon tranched; this command asks it over its Unix socket. Be root, or in the group `tranche`.
#[derive(Debug, Parser)]
#[command(name = "tranche", version, max_term_width = 100, after_long_help = MANUAL)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const MANUAL: &str = "\
Exit codes:
  0  done
  1  it failed
  2  the command line is wrong
  3  it was refused; the message has a code and a hint
  4  it was accepted and is not done yet: it waits for something, or took longer than --timeout
  5  the daemon cannot be reached
  6  looked and found something: doctor, why-not, diff, catalogue check

Examples:
  tranche gpu list
  tranche gpu partition 01:00.0 4
  tranche vm create desk-01 --vcpus 4 --memory 8GiB --disk default/desk-01.qcow2 --gpu any
  tranche vm start desk-01
  tranche why-not desk-02 node1";

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
    /// The daemon's Unix socket
    #[arg(long, global = true, env = "TRANCHE_SOCKET", hide_env_values = true, value_name = "PATH")]
    #[arg(default_value = tranche_api::SOCKET_PATH)]
    pub socket: PathBuf,
    /// Print results and errors only: no progress, no remarks
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs; the fields are those of the REST API
    Json,
    /// The same fields, as YAML
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hosts: hardware, IOMMU, libvirt
    #[command(subcommand)]
    Host(HostCommand),
    /// GPUs: what they are used for, and how many partitions they have
    #[command(subcommand)]
    Gpu(GpuCommand),
    /// Partitions: which are free, and which VM has which
    #[command(subcommand)]
    Partition(PartitionCommand),
    /// What is known of GPU models beforehand, and where each figure comes from
    #[command(subcommand)]
    Catalogue(CatalogueCommand),
    /// Virtual machines and the GPU that each asks for
    #[command(subcommand)]
    Vm(VmCommand),
    /// Changes that were accepted: how far they are, and what became of them
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Everything that is wrong or worth knowing now, with what to do about it
    Findings,
    /// Why a VM cannot run on a host: every condition that fails
    ///
    /// The VM may be off, waiting or running. Exits with 6 if anything stands in the way.
    #[command(
        after_long_help = "Examples:\n  tranche why-not desk-02 node1\n  tranche why-not desk-02 -o json"
    )]
    WhyNot {
        /// The VM
        vm: VmName,
        /// The host; may be left out where there is only one
        host: Option<HostName>,
    },
    /// Check every invariant, and compare the hardware with what was decided
    ///
    /// Exits with 0 if all is well and with 6 if not, so that it can be used for monitoring.
    Doctor,
    /// Show what this machine, or a captured sysfs tree, has: without a daemon and without being root
    ///
    /// A captured tree is a directory with `sys` and `proc` below it, as copied from another machine.
    #[command(after_long_help = "Examples:\n  tranche inspect\n  tranche inspect --root ./captured --json")]
    Inspect(InspectArgs),
    /// Make GPUs and VMs as a YAML file declares them
    ///
    /// What the file does not name is left alone. Unknown fields and repeated keys are refused.
    #[command(
        after_long_help = "Examples:\n  tranche apply -f site.yaml --dry-run\n  tranche apply -f - < site.yaml"
    )]
    Apply {
        /// The file; `-` is standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Show what `apply` would change
    ///
    /// Exits with 0 if nothing differs and with 6 if something does.
    #[command(after_long_help = "Examples:\n  tranche diff -f site.yaml")]
    Diff {
        /// The file; `-` is standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Policies of the whole installation
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print a completion script for a shell
    #[command(after_long_help = "Examples:\n  source <(tranche completions bash)")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write all of them into a directory
    #[command(hide = true)]
    Man {
        /// Write one page for each command here
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// Hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Show one host, or all
    Show {
        /// The host; all if left out
        host: Option<HostName>,
    },
}

/// GPUs.
#[derive(Debug, Subcommand)]
pub enum GpuCommand {
    /// List the GPUs of all hosts
    List,
    /// Show everything about a GPU: valid counts, partitions, what is wrong with it
    Show {
        /// The GPU
        #[arg(help = GPU_HELP)]
        gpu: GpuArg,
    },
    /// Split a GPU into partitions
    ///
    /// The count must be one that the GPU's driver offers (`tranche gpu show`). It changes only while no VM holds or
    /// uses a partition of the GPU. If it fails for good, the GPU goes back to what it was.
    #[command(after_long_help = PARTITION_EXAMPLES)]
    Partition {
        /// The GPU
        #[arg(help = GPU_HELP)]
        gpu: GpuArg,
        /// How many partitions
        #[arg(required_unless_present = "sizes")]
        count: Option<u16>,
        /// The profile series, where the vendor has several; the driver's default if left out
        #[arg(long)]
        series: Option<String>,
        /// The profile of each partition instead of a count: 8Q,4Q,4Q. Where the driver can have them beside each other
        #[arg(long, value_delimiter = ',', conflicts_with_all = ["count", "series"])]
        sizes: Vec<String>,
        /// Shut down the VMs that hold the GPU first; they start again where there is room
        #[arg(long)]
        drain: bool,
        /// Have the GPU's driver loaded anew where only that changes the count: every VM on every GPU of that driver is shut
        /// down first, as with --drain, and every split GPU of it gets the count
        #[arg(long, conflicts_with = "sizes")]
        reload_driver: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Prepare a GPU to be given whole to one VM
    ///
    /// Every function of its IOMMU group goes along. A GPU is partitioned or passed through, never both; one that is split
    /// loses its partitions first.
    #[command(
        after_long_help = "Examples:\n  tranche gpu passthrough node1/0000:41:00.0 --dry-run\n  tranche gpu passthrough 41:00.0 --pool render"
    )]
    Passthrough {
        /// The GPU
        #[arg(help = GPU_HELP)]
        gpu: GpuArg,
        /// Take it even if the firmware's console is on it: the host's screen goes dark
        #[arg(long)]
        allow_console: bool,
        /// The pool that it belongs to: VMs ask for GPUs of a pool with --gpu whole@NAME
        #[arg(long, value_name = "NAME")]
        pool: Option<PoolName>,
        /// Shut down the VMs that hold the GPU first; they start again where there is room
        #[arg(long)]
        drain: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Give a GPU back to the host: no partitions, no passthrough
    Release {
        /// The GPU
        #[arg(help = GPU_HELP)]
        gpu: GpuArg,
        /// Shut down the VMs that hold the GPU first; they start again where there is room
        #[arg(long)]
        drain: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
}

const GPU_HELP: &str = "The GPU: host/address, the address alone, or its short form (01:00.0)";

const PARTITION_EXAMPLES: &str = "\
Examples:
  tranche gpu show 01:00.0                  which counts are valid?
  tranche gpu partition 01:00.0 4 --dry-run what would happen to which VM?
  tranche gpu partition 01:00.0 4
  tranche gpu partition 01:00.0 --sizes 8Q,4Q,4Q
  tranche gpu partition 01:00.0 8 --drain   shut its VMs down first, start them again after
  tranche gpu partition 01:00.0 8 --reload-driver --dry-run
                                            which GPUs and VMs would a reload of the driver concern?";

/// Partitions.
#[derive(Debug, Subcommand)]
pub enum PartitionCommand {
    /// List the partitions of all GPUs, or of one
    List {
        /// Only those of this GPU
        #[arg(long)]
        gpu: Option<GpuArg>,
    },
}

/// The catalogue.
#[derive(Debug, Subcommand)]
pub enum CatalogueCommand {
    /// List the models
    List,
    /// Show what is known of a model, with the source of each figure and how far it can be trusted
    #[command(
        after_long_help = "Examples:\n  tranche catalogue show L40S\n  tranche catalogue show 'arc pro b60'"
    )]
    Show {
        /// The model, or a part of its name
        model: String,
    },
    /// Compare the catalogue with what the GPUs here show
    ///
    /// Exits with 0 if they agree and with 6 if not. Where they differ, what the GPUs show is used.
    Check,
}

/// Operations.
#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List operations, the newest first
    List,
    /// Show an operation with its log
    Show {
        /// Its id
        id: OperationId,
    },
    /// Wait until an operation is over
    Wait {
        /// Its id
        id: OperationId,
        /// Give up waiting after so long: 90, 90s, 5m
        #[arg(long, value_name = "TIME", value_parser = crate::argument::duration)]
        timeout: Option<std::time::Duration>,
    },
}

/// Policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the policies
    Show,
    /// Change policies
    #[command(after_long_help = "Examples:\n  tranche policy set --placement spread")]
    Set {
        /// How VMs are laid over GPUs
        #[arg(long, value_enum)]
        placement: PlacementArg,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
}

/// How VMs are laid over GPUs.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PlacementArg {
    /// Fill a GPU before the next is begun: whole GPUs stay free
    Pack,
    /// The emptiest GPU first
    Spread,
}

impl From<PlacementArg> for PlacementPolicy {
    fn from(placement: PlacementArg) -> Self {
        match placement {
            PlacementArg::Pack => Self::Pack,
            PlacementArg::Spread => Self::Spread,
        }
    }
}

/// What `inspect` looks at.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The root of the tree
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: Utf8PathBuf,
    /// The directory of catalogue additions
    #[arg(long, value_name = "DIR", default_value = "/etc/tranche/catalogue.d")]
    pub catalogue: Utf8PathBuf,
    /// The same as `-o json`
    #[arg(long)]
    pub json: bool,
}
