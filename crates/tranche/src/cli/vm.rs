//! The command line of VMs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use tranche_core::journey::Migration;
use tranche_core::label::Label;
use tranche_core::name::{HostName, InvitationId, LabelKey, LabelValue, VmName};
use tranche_core::spec::{
    Availability, AvailabilityPart, Failover, Firmware, PRIORITY_DEFAULT, PRIORITY_MAX, Pace, PacePart,
    Request, RestartPolicy, RestartsPart, VmPart, VolumeRef,
};

use super::{Doing, PartArgs};
use crate::argument::{self, Destination, OrDefault};

/// Virtual machines.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Make a VM; it stays off
    ///
    /// Disks and networks are libvirt's: volumes and networks that exist already, by name.
    #[command(after_long_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// Take over a libvirt domain that exists already
    ///
    /// Its XML stays yours: Tranche adds and removes only the GPU's device.
    #[command(after_long_help = "Examples:\n  tranche vm adopt desk-07 --gpu any")]
    Adopt(AdoptArgs),
    /// Change how much is done to keep a VM running, what is kept for it, and its labels
    ///
    /// What is not named stays as it is. It takes effect at once, and the VM is not restarted.
    #[command(after_long_help = SET_EXAMPLES)]
    Set {
        /// The VM
        name: VmName,
        /// What changes.
        #[command(flatten)]
        wished: SetArgs,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Start a VM; it waits if no partition that fits is free
    Start {
        /// The VM
        name: VmName,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Ask the guest to shut down
    Stop {
        /// The VM
        name: VmName,
        /// Turn it off at once, as if its plug were pulled
        #[arg(long)]
        force: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Shut a VM down and start it again
    Restart {
        /// The VM
        name: VmName,
        /// Turn it off at once, as if its plug were pulled; then start it
        #[arg(long)]
        force: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Run a VM on another host
    ///
    /// It goes there while it runs, if hosts, cards and drivers can do that and it may (--migration of 'tranche vm set'); else it is shut
    /// down where it is and started there. --dry-run says which, and of each other host what would become of it there. To take it
    /// back while it waits for room: --to the host that it runs on.
    ///
    /// Between two hosts that are in no cluster: 'tranche vm invite' on the other one makes a token, and --to is that host's console.
    #[command(after_long_help = MIGRATE_EXAMPLES)]
    Migrate {
        /// The VM
        name: VmName,
        /// Where: a member of the cluster, or the console of a host that is in none; the best other member if left out
        #[arg(long, value_name = "HOST|URL")]
        to: Option<Destination>,
        /// What the other host has made by 'tranche vm invite'; `-` reads it from standard input
        #[arg(long, value_name = "TOKEN")]
        token: Option<String>,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Where a VM that runs could go: what would become of it on each other host
    ///
    /// Whether it would go there while it runs, for how long its guest would then stand still and how long all would take; and
    /// everything that stands against it, so that hosts can be made ready.
    #[command(
        after_long_help = "Examples:\n  tranche vm destinations desk-02\n  tranche vm destinations desk-02 -o json"
    )]
    Destinations {
        /// The VM
        name: VmName,
    },
    /// Invite a VM of another host that is in no cluster: make a token by which one VM may come
    ///
    /// Until it has arrived, whoever has the token can do with this host's VMs what root can: hand it on as you would a password.
    #[command(after_long_help = "Examples:\n  tranche vm invite\n  tranche vm invite --minutes 10")]
    Invite {
        /// For how many minutes it can be used, 1 to 1440; an hour if left out
        #[arg(long)]
        minutes: Option<u64>,
    },
    /// List the invitations, and what came of them
    Invitations,
    /// Withdraw an invitation that nobody has used
    Uninvite {
        /// Its ID, as 'tranche vm invitations' shows it
        id: InvitationId,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Keep a VM that goes to a host that is in no cluster
    ///
    /// Of one that may have arrived there only that host knows whether it has it. If it is gone for good, --force keeps the VM here.
    TakeBack {
        /// The VM
        name: VmName,
        /// You have seen that the other host does not run it, and it never will. If it does, it runs twice and ruins its disks
        #[arg(long)]
        force: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Keep a VM that came from a host that is in no cluster and is gone for good
    TakeOver {
        /// The VM
        name: VmName,
        /// You have seen that its old host does not run it, and it never will. If it does, it runs twice and ruins its disks
        #[arg(long)]
        force: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Forget a VM. Its disks stay; an adopted domain stays too
    Delete {
        /// The VM
        name: VmName,
        /// Even if it runs: turn it off first
        #[arg(long)]
        force: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// List the VMs
    #[command(after_long_help = "Examples:\n  tranche vm list\n  tranche vm list --label team=red")]
    List {
        /// Only those that carry all these labels, with commas between them
        #[arg(long = "label", value_delimiter = ',', value_name = "KEY=VALUE")]
        labels: Vec<Label>,
    },
    /// Show everything about a VM
    Show {
        /// The VM
        name: VmName,
    },
    /// Show how busy a VM was: its processors, and its memory
    ///
    /// Each host keeps this of the VMs that ran on it: one that moved begins anew on the next host, and --host shows what was before.
    #[command(
        after_long_help = "Examples:\n  tranche vm history desk-01\n  tranche vm history desk-01 --last 24h --host node1"
    )]
    History {
        /// The VM
        name: VmName,
        /// Which part.
        #[command(flatten)]
        part: PartArgs,
        /// The host that measured it [default: the one that it belongs to now]
        #[arg(long, value_name = "HOST")]
        host: Option<HostName>,
    },
    /// Give a VM a GPU, or change what it asks for
    ///
    /// The VM must be off, or --restart must say that it may be restarted.
    #[command(after_long_help = ATTACH_EXAMPLES)]
    Attach(AttachArgs),
    /// Take a VM's GPU
    Detach {
        /// The VM
        name: VmName,
        /// If it runs: shut it down, take the GPU, start it again
        #[arg(long)]
        restart: bool,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
    /// Connect to a VM's serial console; leave with Ctrl-]
    ///
    /// What is typed goes to the guest, key by key, on whichever host it runs. One at a time has the console.
    Console {
        /// The VM
        name: VmName,
        /// Take it over from whoever has it; they are cut off
        #[arg(long)]
        force: bool,
    },
}

const MIGRATE_EXAMPLES: &str = "Examples:
  tranche vm migrate desk-02 --dry-run
  tranche vm migrate desk-02 --to node3
  tranche vm migrate desk-02 --to https://other:7440 --token TRANCHEVM1.…";

const CREATE_EXAMPLES: &str = "\
Examples:
  tranche vm create desk-01 --vcpus 4 --memory 8GiB --disk default/desk-01.qcow2 \\
      --network default --guest-os ubuntu22.04 --gpu any
  tranche vm create cad-01 --vcpus 8 --memory 32GiB --disk ssd/cad-01 --gpu 4GiB --reserved
  tranche vm create train-01 --vcpus 16 --memory 64GiB --disk ssd/train-01 --gpu whole:2@render";

const SET_EXAMPLES: &str = "\
Examples:
  tranche vm set cad-01 --priority 500
  tranche vm set desk-01 --failover stay --restarts 10 --restarts-elsewhere 0
  tranche vm set desk-01 --label team=red,tier=gold --remove-label owner
  tranche vm set desk-01 --no-reserved --dry-run";

const ATTACH_EXAMPLES: &str = "\
Examples:
  tranche vm attach desk-01                  a partition of any size
  tranche vm attach desk-01 --gpu 3648MiB    a partition with so much memory
  tranche vm attach desk-01 --gpu profile:4Q --restart";

const GPU_HELP: &str = "What it asks for: none, any (a partition of any size), a size of video memory such as 4GiB, \
                        profile:NAME, whole, whole:COUNT, or whole:COUNT@POOL";

/// A VM to make.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name, which its libvirt domain takes too
    pub name: VmName,
    /// Virtual processors
    #[arg(long, value_name = "COUNT")]
    pub vcpus: u32,
    /// Memory: 4GiB, 512MiB; a bare number is MiB
    #[arg(long, value_name = "SIZE", value_parser = argument::size_mib)]
    pub memory: u64,
    /// A volume of a libvirt storage pool; may be repeated, the first one boots
    #[arg(long = "disk", value_name = "POOL/VOLUME", value_parser = argument::volume)]
    pub disks: Vec<VolumeRef>,
    /// A libvirt network; may be repeated
    #[arg(long = "network", value_name = "NAME")]
    pub networks: Vec<String>,
    /// The guest system, as a libosinfo id: ubuntu22.04, win11
    #[arg(long, value_name = "ID")]
    pub guest_os: Option<String>,
    /// A file of cloud-init user data
    #[arg(long, value_name = "FILE")]
    pub cloud_init: Option<PathBuf>,
    /// How it boots; large GPUs need UEFI
    #[arg(long, value_enum, default_value_t = FirmwareArg::Uefi)]
    pub firmware: FirmwareArg,
    /// What it asks for
    #[arg(long, value_name = "REQUEST", default_value = "none", value_parser = argument::request, help = GPU_HELP)]
    pub gpu: Request,
    /// It keeps its partition while it is off
    #[arg(long)]
    pub reserved: bool,
    /// Prefer GPUs of this NUMA node
    #[arg(long, value_name = "NODE")]
    pub numa_node: Option<u16>,
    /// Labels by which it is told apart, with commas between them
    #[arg(long = "label", value_delimiter = ',', value_name = "KEY=VALUE", value_parser = argument::label)]
    pub labels: Vec<(LabelKey, LabelValue)>,
    /// How much is done for it.
    #[command(flatten)]
    pub care: CareArgs,
    /// How to do it.
    #[command(flatten)]
    pub doing: Doing,
}

/// A libvirt domain to take over.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The domain
    pub name: VmName,
    /// What it asks for
    #[arg(long, value_name = "REQUEST", default_value = "none", value_parser = argument::request, help = GPU_HELP)]
    pub gpu: Request,
    /// It keeps its partition while it is off
    #[arg(long)]
    pub reserved: bool,
    /// Prefer GPUs of this NUMA node
    #[arg(long, value_name = "NODE")]
    pub numa_node: Option<u16>,
    /// Labels by which it is told apart, with commas between them
    #[arg(long = "label", value_delimiter = ',', value_name = "KEY=VALUE", value_parser = argument::label)]
    pub labels: Vec<(LabelKey, LabelValue)>,
    /// How much is done for it.
    #[command(flatten)]
    pub care: CareArgs,
    /// How to do it.
    #[command(flatten)]
    pub doing: Doing,
}

/// How much is done to keep a VM running.
#[derive(Debug, Clone, Copy, Args)]
pub struct CareArgs {
    /// Who is served first when there is not room for all: the higher, 0 to 1000
    #[arg(long, value_name = "N", default_value_t = PRIORITY_DEFAULT, value_parser = clap::value_parser!(u16).range(..=i64::from(PRIORITY_MAX)))]
    priority: u16,
    /// What becomes of it when its host dies
    #[arg(long, value_enum, default_value_t)]
    failover: FailoverArg,
    /// How often it is started again on one host after it crashed or could not be started
    #[arg(long, value_name = "N", default_value_t = RestartPolicy::default().local)]
    restarts: u8,
    /// On how many other hosts it is tried after that, before it is given up
    #[arg(long, value_name = "N", default_value_t = RestartPolicy::default().elsewhere)]
    restarts_elsewhere: u8,
    /// How it goes to another host
    #[arg(long, value_enum, default_value_t)]
    migration: MigrationArg,
    /// For how long its guest may stand still on its way to another host; 'default': what is said for all, or else 100 s
    #[arg(long, value_name = "MS", value_parser = argument::or_default)]
    migration_pause_ms: Option<OrDefault>,
    /// How much it may send to another host while it runs, in MiB/s; 'default': what is said for all, or else all there is
    #[arg(long, value_name = "N", value_parser = argument::or_default)]
    migration_bandwidth_mib_s: Option<OrDefault>,
}

impl From<CareArgs> for Availability {
    fn from(args: CareArgs) -> Self {
        let restarts = RestartPolicy { local: args.restarts, elsewhere: args.restarts_elsewhere };
        let pace = pace(args.migration_pause_ms, args.migration_bandwidth_mib_s).over(Pace::default());
        let (failover, migration) = (args.failover.into(), args.migration.into());
        Self { priority: args.priority, failover, restarts, migration, pace }
    }
}

/// What changes of a VM.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub struct SetArgs {
    /// Who is served first when there is not room for all: the higher, 0 to 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(PRIORITY_MAX)))]
    priority: Option<u16>,
    /// What becomes of it when its host dies
    #[arg(long, value_enum)]
    failover: Option<FailoverArg>,
    /// How often it is started again on one host after it crashed or could not be started
    #[arg(long, value_name = "N")]
    restarts: Option<u8>,
    /// On how many other hosts it is tried after that, before it is given up
    #[arg(long, value_name = "N")]
    restarts_elsewhere: Option<u8>,
    /// How it goes to another host
    #[arg(long, value_enum)]
    migration: Option<MigrationArg>,
    /// For how long its guest may stand still on its way to another host; 'default': what is said for all, or else 100 s
    #[arg(long, value_name = "MS", value_parser = argument::or_default)]
    migration_pause_ms: Option<OrDefault>,
    /// How much it may send to another host while it runs, in MiB/s; 'default': what is said for all, or else all there is
    #[arg(long, value_name = "N", value_parser = argument::or_default)]
    migration_bandwidth_mib_s: Option<OrDefault>,
    /// It keeps its partition while it is off
    #[arg(long, conflicts_with = "no_reserved")]
    reserved: bool,
    /// It gives its partition back when it is off
    #[arg(long)]
    no_reserved: bool,
    /// Prefer GPUs of this NUMA node, from its next start on
    #[arg(long, value_name = "NODE", conflicts_with = "no_numa_node")]
    numa_node: Option<u16>,
    /// Prefer GPUs of no NUMA node, from its next start on
    #[arg(long)]
    no_numa_node: bool,
    /// Labels by which it is told apart, with commas between them
    #[arg(long = "label", value_delimiter = ',', value_name = "KEY=VALUE", value_parser = argument::label)]
    labels: Vec<(LabelKey, LabelValue)>,
    /// Labels that it has no more, with commas between them
    #[arg(long = "remove-label", value_delimiter = ',', value_name = "KEY")]
    removed_labels: Vec<LabelKey>,
}

impl From<SetArgs> for VmPart {
    fn from(args: SetArgs) -> Self {
        let restarts = RestartsPart { local: args.restarts, elsewhere: args.restarts_elsewhere };
        let failover = args.failover.map(Into::into);
        let removed = args.removed_labels.into_iter().map(|key| (key, None));
        let labels = args.labels.into_iter().map(|(key, value)| (key, Some(value)));
        Self {
            labels: removed.chain(labels).collect(),
            reserved: (args.reserved || args.no_reserved).then_some(args.reserved),
            prefer_numa_node: (args.numa_node.is_some() || args.no_numa_node).then_some(args.numa_node),
            availability: AvailabilityPart {
                priority: args.priority,
                failover,
                restarts,
                migration: args.migration.map(Into::into),
                pace: pace(args.migration_pause_ms, args.migration_bandwidth_mib_s),
            },
        }
    }
}

/// How a VM is sent that goes to another host while it runs.
pub(super) fn pace(pause_ms: Option<OrDefault>, bandwidth_mib_s: Option<OrDefault>) -> PacePart {
    PacePart {
        pause_ms: pause_ms.map(|OrDefault(ms)| ms),
        bandwidth_mib_s: bandwidth_mib_s.map(|OrDefault(mib_s)| mib_s),
    }
}

/// A GPU for a VM.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The VM
    pub name: VmName,
    /// What it asks for
    #[arg(long, value_name = "REQUEST", default_value = "any", value_parser = argument::request, help = GPU_HELP)]
    pub gpu: Request,
    /// If it runs: shut it down, give it the GPU, start it again
    #[arg(long)]
    pub restart: bool,
    /// How to do it.
    #[command(flatten)]
    pub doing: Doing,
}

/// How a VM boots.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FirmwareArg {
    /// OVMF
    Uefi,
    /// SeaBIOS
    Bios,
}

impl From<FirmwareArg> for Firmware {
    fn from(firmware: FirmwareArg) -> Self {
        match firmware {
            FirmwareArg::Uefi => Self::Uefi,
            FirmwareArg::Bios => Self::Bios,
        }
    }
}

/// What becomes of a VM when its host dies.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum FailoverArg {
    /// It is started elsewhere
    #[default]
    Restart,
    /// It waits for its host
    Stay,
}

impl From<FailoverArg> for Failover {
    fn from(failover: FailoverArg) -> Self {
        match failover {
            FailoverArg::Restart => Self::Restart,
            FailoverArg::Stay => Self::Stay,
        }
    }
}

/// How a VM goes to another host.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum MigrationArg {
    /// While it runs where that is possible, else it is shut down and started there
    #[default]
    LiveOrRestart,
    /// While it runs, or not at all
    LiveOnly,
    /// It is shut down and started there
    Restart,
}

impl From<MigrationArg> for Migration {
    fn from(migration: MigrationArg) -> Self {
        match migration {
            MigrationArg::LiveOrRestart => Self::LiveOrRestart,
            MigrationArg::LiveOnly => Self::LiveOnly,
            MigrationArg::Restart => Self::Restart,
        }
    }
}
