//! The command line, as typed: every command, flag and example, and nothing about what they do.
//!
//! Completions, man pages and the handbook's page are made from this one definition.

mod access;
mod cluster;
mod doing;
mod gpu;
mod history;
mod host;
mod policy;
mod rule;
mod vm;

use std::path::PathBuf;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tranche_core::finding::Code;
use tranche_core::name::{HostName, OperationId, VmName};

pub use access::{ApiTokenCommand, PasswordArgs, UserCommand};
pub use cluster::{At, ClusterCommand, TokenCommand};
pub use doing::Doing;
pub use gpu::{GpuCommand, PartitionArgs, SeveralArgs};
pub use history::PartArgs;
pub use host::{DepartArgs, HostArgs, HostCommand};
pub use policy::PolicyCommand;
pub use rule::{RuleArgs, RuleCommand};
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
  6  looked and found something: doctor, why-not, diff, catalogue check, cluster homogeneity

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
    /// Rules about where VMs run: on which hosts, and with or without which others
    #[command(subcommand)]
    Rule(RuleCommand),
    /// The cluster: begin one, join, leave, back it up, and what it has to spare
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// People who use the web console
    #[command(subcommand)]
    User(UserCommand),
    /// Tokens with which programs use the REST interface over HTTPS
    #[command(subcommand)]
    Token(ApiTokenCommand),
    /// What was changed or refused, by whom and from where
    Audit {
        /// So many entries at most, the latest first
        #[arg(long, default_value_t = 50, value_name = "NUMBER")]
        limit: usize,
    },
    /// Changes that were accepted: how far they are, and what became of them
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Everything that is wrong or worth knowing now, with what to do about it
    Findings,
    /// Say what a finding's code means, where to look and what to do: the handbook, without a daemon
    #[command(after_long_help = "Examples:\n  tranche explain fewer_partitions")]
    Explain {
        /// The code, as it stands in brackets behind a finding
        code: Code,
    },
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
    /// Try out in virtual time what a cluster does when things fail; nothing real is touched
    #[command(subcommand)]
    Sim(SimCommand),
    /// Make GPUs and VMs as a YAML file declares them
    ///
    /// What the file does not name is left alone, unless --prune is given. Unknown fields and repeated keys are refused.
    #[command(
        after_long_help = "Examples:\n  tranche apply -f site.yaml --dry-run\n  tranche apply -f site.yaml --prune\n  \
                                 tranche apply -f - < site.yaml"
    )]
    Apply {
        /// The declaration.
        #[command(flatten)]
        declared: DeclaredArgs,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Show what `apply` would change
    ///
    /// Exits with 0 if nothing differs and with 6 if something does.
    #[command(after_long_help = "Examples:\n  tranche diff -f site.yaml")]
    Diff {
        /// The declaration.
        #[command(flatten)]
        declared: DeclaredArgs,
    },
    /// Policies of the whole installation
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Collect what somebody needs who shall find out what is wrong, into one archive
    ///
    /// What the daemon tells (hosts, GPUs, partitions, VMs, findings, operations, policies, rules, metrics) and what this
    /// machine does: the last day of the log of tranched and of its store, its settings, kernel, devices. What cannot be
    /// read is left out, and the archive says why. Secrets are taken out: passwords, tokens, keys, hashes, cloud-init data.
    /// Names and addresses of hosts and VMs stay in it. It is for its owner's eyes only; have a look before it is sent.
    #[command(
        after_long_help = "Examples:\n  tranche support-bundle\n  tranche support-bundle case-4711.tar.gz\n  \
                                 tar -tzf case-4711.tar.gz"
    )]
    SupportBundle(SupportArgs),
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

/// What is declared.
#[derive(Debug, Args)]
pub struct DeclaredArgs {
    /// The file; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Delete the VMs that Tranche made, and the rules, that the file does not name. VMs that run are refused
    #[arg(long)]
    pub prune: bool,
}

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

/// What goes into a support bundle, and where.
#[derive(Debug, Args)]
pub struct SupportArgs {
    /// The archive, which must not be there yet [default: tranche-support-HOST-TIME.tar.gz]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The file with the daemon's settings
    #[arg(long, value_name = "FILE", default_value = "/etc/tranche/tranched.toml")]
    pub settings: PathBuf,
}

/// What to simulate.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Play a scenario from a YAML file and print what happened, as JSON
    ///
    /// Exits with 6 if an invariant broke or something expected did not come true.
    #[command(
        after_long_help = "Examples:\n  tranche sim run failover.yaml\n  tranche sim run - < failover.yaml"
    )]
    Run {
        /// The file; `-` is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make up stories, one for each seed, and play them until one breaks an invariant
    ///
    /// Prints the seed of the first failure and exits with 6; that seed replays exactly.
    #[command(
        after_long_help = "Examples:\n  tranche sim fuzz --seeds 1000\n  tranche sim fuzz --seeds 1 --first-seed 4711 -o json"
    )]
    Fuzz {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 100)]
        seeds: u64,
        /// The first one
        #[arg(long, value_name = "S", default_value_t = 0)]
        first_seed: u64,
    },
}
