//! The command line of policies.

use clap::{Args, Subcommand, ValueEnum};
use tranche_core::spec::{
    Admission, FailoverPart, Homogeneity, PlacementPolicy, Policy, PolicyPart, ShutdownPolicy, TimersPart,
    VcpusPerCpu,
};

use super::Doing;
use super::vm::pace;
use crate::argument::{self, OrDefault};

/// Policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the policies
    Show,
    /// Change policies
    ///
    /// Those that are not named stay as they are. The times of failover count from a host's last heartbeat, and each leaves room
    /// for the one before it.
    #[command(after_long_help = SET_EXAMPLES)]
    Set {
        /// Which.
        #[command(flatten)]
        wished: PolicyArgs,
        /// How to do it.
        #[command(flatten)]
        doing: Doing,
    },
}

const SET_EXAMPLES: &str = "\
Examples:
  tranche policy set --placement spread
  tranche policy set --admission enforce
  tranche policy set --lost-ms 10000 --reset-ms 20000 --restart-ms 25000";

/// Policies that are to change.
#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = true)]
pub struct PolicyArgs {
    /// How VMs are laid over GPUs
    #[arg(long, value_enum)]
    placement: Option<PlacementArg>,
    /// How many virtual processors VMs may have for each processor of their host; only in a cluster
    #[arg(long, value_name = "NUMBER")]
    vcpus_per_cpu: Option<u16>,
    /// What is said to a VM with which the loss of a host could not be made good; only in a cluster
    #[arg(long, value_enum)]
    admission: Option<AdmissionArg>,
    /// What is said to a wish with which GPUs that serve VMs would be less alike
    #[arg(long, value_enum)]
    homogeneity: Option<HomogeneityArg>,
    /// What becomes of a host's VMs when its administrator shuts it down or reboots it; only in a cluster
    #[arg(long, value_enum)]
    shutdown: Option<ShutdownArg>,
    /// For how long guests may stand still on their way to another host, where their VMs do not say; 'default': 100 s
    #[arg(long, value_name = "MS", value_parser = argument::or_default)]
    migration_pause_ms: Option<OrDefault>,
    /// How much each may send to another host while it runs, in MiB/s; 'default': all there is
    #[arg(long, value_name = "N", value_parser = argument::or_default)]
    migration_bandwidth_mib_s: Option<OrDefault>,
    /// How often a host shows that it lives, in milliseconds; only in a cluster, as all that follows
    #[arg(long, value_name = "MS")]
    heartbeat_ms: Option<u64>,
    /// After how long without a heartbeat a host counts as lost; an agent cuts its power then
    #[arg(long, value_name = "MS")]
    lost_ms: Option<u64>,
    /// After how long its own watchdog has reset it
    #[arg(long, value_name = "MS")]
    reset_ms: Option<u64>,
    /// After how long its VMs may start elsewhere on the word of its watchdog
    #[arg(long, value_name = "MS")]
    restart_ms: Option<u64>,
    /// How long the store's members go without word from their leader; the same as etcd.election_ms of every host
    #[arg(long, value_name = "MS")]
    election_ms: Option<u64>,
}

impl PolicyArgs {
    /// The policies with these changed.
    pub fn over(self, now: Policy) -> Policy {
        let Self { heartbeat_ms, lost_ms, reset_ms, restart_ms, election_ms, .. } = self;
        let timers = TimersPart { heartbeat_ms, lost_ms, reset_ms, restart_ms, election_ms };
        let part = PolicyPart {
            placement: self.placement.map(Into::into),
            vcpus_per_cpu: self.vcpus_per_cpu.map(VcpusPerCpu),
            admission: self.admission.map(Into::into),
            homogeneity: self.homogeneity.map(Into::into),
            failover: FailoverPart { paused: None, timers },
            shutdown: self.shutdown.map(Into::into),
            pace: pace(self.migration_pause_ms, self.migration_bandwidth_mib_s),
        };
        part.over(now)
    }
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

/// What is said to a VM with which the loss of a host could not be made good.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AdmissionArg {
    /// Nothing
    Off,
    /// It is started with a warning
    Warn,
    /// It is not started
    Enforce,
}

impl From<AdmissionArg> for Admission {
    fn from(admission: AdmissionArg) -> Self {
        match admission {
            AdmissionArg::Off => Self::Off,
            AdmissionArg::Warn => Self::Warn,
            AdmissionArg::Enforce => Self::Enforce,
        }
    }
}

/// What is said to a wish with which GPUs that serve VMs would be less alike.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum HomogeneityArg {
    /// It is taken with a warning
    Warn,
    /// It is refused
    Strict,
}

impl From<HomogeneityArg> for Homogeneity {
    fn from(homogeneity: HomogeneityArg) -> Self {
        match homogeneity {
            HomogeneityArg::Warn => Self::Warn,
            HomogeneityArg::Strict => Self::Strict,
        }
    }
}

/// What becomes of a host's VMs when its administrator shuts it down or reboots it.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ShutdownArg {
    /// With a reboot they wait for the host, for a quarter of an hour at most; with a shutdown they start elsewhere
    Conditional,
    /// They are moved first, live where that is possible
    Migrate,
    /// They are shut down and start elsewhere at once
    Restart,
    /// They wait for the host, whatever it does
    Freeze,
}

impl From<ShutdownArg> for ShutdownPolicy {
    fn from(shutdown: ShutdownArg) -> Self {
        match shutdown {
            ShutdownArg::Conditional => Self::Conditional,
            ShutdownArg::Migrate => Self::Migrate,
            ShutdownArg::Restart => Self::Restart,
            ShutdownArg::Freeze => Self::Freeze,
        }
    }
}
