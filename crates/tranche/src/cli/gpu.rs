//! The command line of GPUs.

use clap::{ArgGroup, Args, Subcommand};
use tranche_core::change::Version;
use tranche_core::name::PoolName;

use super::{Doing, PartArgs};
use crate::argument::GpuArg;

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
    /// Show how busy a GPU and its partitions were: load, memory, temperature, power
    ///
    /// The GPU's host keeps this, for the last day each 30 seconds and for a week each 5 minutes. Where no driver tells, nothing is known.
    #[command(
        after_long_help = "Examples:\n  tranche gpu history 41:00.0\n  tranche gpu history node1/0000:41:00.0 --last 7d -o json"
    )]
    History {
        /// The GPU
        #[arg(help = GPU_HELP)]
        gpu: GpuArg,
        /// Which part.
        #[command(flatten)]
        part: PartArgs,
    },
    /// Split a GPU, or all of a set, into partitions
    ///
    /// The count must be one that the GPU's driver offers (`tranche gpu show`). It changes only while no VM holds or
    /// uses a partition of the GPU. If it fails for good, the GPU goes back to what it was.
    ///
    /// With --all, all GPUs of one configuration get the count, on all hosts, or none of them does.
    #[command(after_long_help = PARTITION_EXAMPLES)]
    Partition(PartitionArgs),
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
    /// Give a GPU, or all of a set, back to the host: no partitions, no passthrough
    #[command(group(ArgGroup::new("which").required(true).multiple(true).args(["gpu", "all", "gpus", "like"])))]
    Release {
        /// The GPU
        #[arg(help = GPU_HELP)]
        gpu: Option<GpuArg>,
        /// Shut down the VMs that hold the GPU first; they start again where there is room
        #[arg(long)]
        drain: bool,
        /// Several at once.
        #[command(flatten)]
        several: SeveralArgs,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
}

/// How a GPU is split.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["gpu", "all", "gpus", "like"])))]
#[command(group(ArgGroup::new("into").required(true).args(["count", "number", "sizes"])))]
pub struct PartitionArgs {
    /// The GPU
    #[arg(help = GPU_HELP)]
    pub gpu: Option<GpuArg>,
    /// How many partitions
    pub count: Option<u16>,
    /// The same as COUNT
    #[arg(long = "count", value_name = "N")]
    pub number: Option<u16>,
    /// The profile series, where the vendor has several; the driver's default if left out
    #[arg(long)]
    pub series: Option<String>,
    /// The profile of each partition instead of a count: 8Q,4Q,4Q. Where the driver can have them beside each other
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["series", "all", "gpus", "like"])]
    pub sizes: Vec<String>,
    /// Shut down the VMs that hold the GPU first; they start again where there is room
    #[arg(long)]
    pub drain: bool,
    /// Have the GPU's driver loaded anew where only that changes the count: every VM on every GPU of that driver is shut
    /// down first, as with --drain, and every split GPU of it gets the count
    #[arg(long, conflicts_with_all = ["sizes", "all", "gpus", "like"])]
    pub reload_driver: bool,
    /// Several at once.
    #[command(flatten)]
    pub several: SeveralArgs,
    /// How to do it.
    #[command(flatten)]
    pub doing: Doing,
}

/// Several GPUs at once.
#[derive(Debug, Args)]
#[command(next_help_heading = "Several GPUs at once")]
pub struct SeveralArgs {
    /// All GPUs that can be split, on all hosts; refused if they are not of one configuration
    #[arg(long, conflicts_with = "gpu")]
    pub all: bool,
    /// Only this GPU; may be repeated. They must be of one configuration
    #[arg(long = "gpu", value_name = "GPU", conflicts_with_all = ["gpu", "like"])]
    pub gpus: Vec<GpuArg>,
    /// All GPUs of the same configuration as this one
    #[arg(long, value_name = "GPU", conflicts_with = "gpu")]
    pub like: Option<GpuArg>,
    /// Only if all is still as it was when a dry run told this version
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["gpu", "dry_run"])]
    pub version: Option<Version>,
    /// Do not ask whether the VMs that --drain shuts down may be interrupted
    #[arg(long, conflicts_with_all = ["gpu", "version", "dry_run"])]
    pub yes: bool,
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
                                            which GPUs and VMs would a reload of the driver concern?
  tranche gpu partition --all --count 4 --dry-run
                                            what would happen on all hosts? Prints a version:
  tranche gpu partition --all --count 4 --version VERSION";
