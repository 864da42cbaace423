//! Scenarios: which hosts and VMs there are, and what befalls them when. What YAML files say, in types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tranche_core::name::{HostName, LabelKey, LabelValue, RuleName, VmName};
use tranche_core::spec::{Availability, FailoverPolicy, PlacementPolicy, Request, Rule, ShutdownPolicy};

use crate::story::Planted;

/// The longest scenario, in virtual milliseconds: a day.
pub(crate) const TIME_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// A scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Everything that is drawn by chance comes from it: latencies, elections, lost answers.
    #[serde(default)]
    pub seed: u64,
    /// The hosts.
    pub hosts: BTreeMap<HostName, HostSetup>,
    /// Whether a third member of the store runs on a small machine beside two hosts.
    #[serde(default)]
    pub witness: bool,
    /// How VMs are laid over GPUs.
    #[serde(default)]
    pub placement: PlacementPolicy,
    /// What follows when a host dies.
    #[serde(default)]
    pub failover: FailoverPolicy,
    /// What becomes of VMs when a host is shut down.
    #[serde(default)]
    pub shutdown: ShutdownPolicy,
    /// The VMs. They are started at the beginning unless they say otherwise.
    #[serde(default)]
    pub vms: BTreeMap<VmName, VmSetup>,
    /// Rules about where VMs run.
    #[serde(default)]
    pub rules: BTreeMap<RuleName, Rule>,
    /// What befalls them, in any order.
    #[serde(default)]
    pub events: Vec<TimedEvent>,
    /// When it is over, in milliseconds since the beginning.
    pub until_ms: u64,
    /// What must be at the end.
    #[serde(default)]
    pub expect: Expectation,
    /// Until when answers of the store get lost and take long at times, as a network of low quality would have it, in
    /// milliseconds since the beginning.
    #[serde(default)]
    pub rough_until_ms: u64,
    /// A defect that is put in on purpose.
    #[serde(skip)]
    pub planted: Option<Planted>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostSetup {
    /// How many GPUs it has.
    pub gpus: u8,
    /// Into how many partitions each is split: 1, 2, 4, 8 or 16; 0 leaves them to passthrough.
    pub partitions: u16,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// What VMs may ask for in a rule.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Whether it has a watchdog.
    pub watchdog: bool,
    /// Whether a fence agent can cut its power.
    pub agent: bool,
    /// How long it takes from power to its daemon, in milliseconds.
    pub boot_ms: u64,
    /// How far its clock is off, in milliseconds.
    pub clock_skew_ms: i64,
}

impl Default for HostSetup {
    fn default() -> Self {
        Self {
            gpus: 1,
            partitions: 4,
            memory_mib: 65_536,
            labels: BTreeMap::new(),
            watchdog: true,
            agent: false,
            boot_ms: 20_000,
            clock_skew_ms: 0,
        }
    }
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmSetup {
    /// What it asks for.
    pub gpu: Request,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// How much is done to keep it running.
    pub availability: Availability,
    /// Whether it keeps its partition while it is off.
    pub reserved: bool,
    /// Whether it is started at the beginning.
    pub running: bool,
}

impl Default for VmSetup {
    fn default() -> Self {
        Self {
            gpu: Request::ANY_PARTITION,
            memory_mib: 512,
            availability: Availability::default(),
            reserved: false,
            running: true,
        }
    }
}

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimedEvent {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// What.
    pub event: Event,
}

/// What can befall a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The power of a host goes.
    PowerOff(HostName),
    /// It comes back.
    PowerOn(HostName),
    /// A host reaches nobody, and nobody reaches it.
    NetworkOff(HostName),
    /// It does again, everybody.
    NetworkOn(HostName),
    /// One host does not reach another one; the other way goes on.
    CutOneWay {
        /// Who does not reach.
        from: HostName,
        /// Whom.
        to: HostName,
    },
    /// Two hosts do not reach each other.
    Cut {
        /// One.
        one: HostName,
        /// The other.
        other: HostName,
    },
    /// All hosts reach each other again.
    NetworkWhole,
    /// The store does not answer a host, whatever the network does.
    StoreOff(HostName),
    /// It does again.
    StoreOn(HostName),
    /// The store's member on a host is killed.
    MemberKill(HostName),
    /// It runs again.
    MemberStart(HostName),
    /// The store's leader is killed, wherever it is, and runs again after so long.
    StoreLeaderKill {
        /// In milliseconds.
        ms: u64,
    },
    /// A host's daemon is killed; its service manager starts it again after a second.
    DaemonKill(HostName),
    /// A host's daemon is stopped until it is started.
    DaemonStop(HostName),
    /// It is started.
    DaemonStart(HostName),
    /// A host's daemon stands still for so long, in milliseconds: the host is overloaded.
    DaemonPause {
        /// The host.
        host: HostName,
        /// For how long.
        ms: u64,
    },
    /// A host is rebooted by its administrator: its VMs are shut down as the policy says, for a minute at most.
    Reboot(HostName),
    /// A host is shut down by its administrator, likewise. `power_on` boots it.
    Shutdown(HostName),
    /// A host's libvirt ends.
    LibvirtOff(HostName),
    /// It runs again.
    LibvirtOn(HostName),
    /// A host shall be emptied.
    Drain(HostName),
    /// It shall take VMs again.
    Undrain(HostName),
    /// Somebody says that a silent host is off.
    ConfirmDown(HostName),
    /// A host's fence agent does not work.
    AgentOff(HostName),
    /// It does again.
    AgentOn(HostName),
    /// A VM shall run.
    VmStart(VmName),
    /// A VM shall be off.
    VmStop(VmName),
    /// A VM is made and shall run.
    VmAdd {
        /// Its name.
        vm: VmName,
        /// What it is.
        #[serde(default)]
        setup: VmSetup,
    },
    /// A VM shall be gone.
    VmRemove(VmName),
    /// A VM's guest crashes.
    VmCrash(VmName),
    /// A VM's guest shuts itself down.
    VmShutdown(VmName),
    /// So many starts of a VM fail.
    VmStartsFail {
        /// The VM.
        vm: VmName,
        /// How many.
        tries: u32,
    },
    /// A rule about where VMs run is made, or changed.
    RuleSet {
        /// Its name.
        name: RuleName,
        /// What it asks.
        rule: Rule,
    },
    /// It is forgotten.
    RuleDelete(RuleName),
    /// Nothing follows when a host dies.
    FailoverPause,
    /// It does again.
    FailoverResume,
}

impl Event {
    /// The host that it befalls, if it is one host.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::PowerOff(host)
            | Self::PowerOn(host)
            | Self::NetworkOff(host)
            | Self::NetworkOn(host)
            | Self::CutOneWay { from: host, .. }
            | Self::Cut { one: host, .. }
            | Self::StoreOff(host)
            | Self::StoreOn(host)
            | Self::MemberKill(host)
            | Self::MemberStart(host)
            | Self::DaemonKill(host)
            | Self::DaemonStop(host)
            | Self::DaemonStart(host)
            | Self::DaemonPause { host, .. }
            | Self::Reboot(host)
            | Self::Shutdown(host)
            | Self::LibvirtOff(host)
            | Self::LibvirtOn(host)
            | Self::Drain(host)
            | Self::Undrain(host)
            | Self::ConfirmDown(host)
            | Self::AgentOff(host)
            | Self::AgentOn(host) => Some(host),
            Self::NetworkWhole
            | Self::StoreLeaderKill { .. }
            | Self::VmStart(_)
            | Self::VmStop(_)
            | Self::VmAdd { .. }
            | Self::VmRemove(_)
            | Self::VmCrash(_)
            | Self::VmShutdown(_)
            | Self::VmStartsFail { .. }
            | Self::RuleSet { .. }
            | Self::RuleDelete(_)
            | Self::FailoverPause
            | Self::FailoverResume => None,
        }
    }

    /// What it is, in a word.
    pub(crate) fn words(&self) -> &'static str {
        match self {
            Self::PowerOff(_) => "power off",
            Self::PowerOn(_) => "power on",
            Self::NetworkOff(_) => "network off",
            Self::NetworkOn(_) => "network on",
            Self::CutOneWay { .. } => "network cut one way",
            Self::Cut { .. } => "network cut",
            Self::StoreOff(_) => "store off",
            Self::StoreOn(_) => "store on",
            Self::MemberKill(_) => "member of the store killed",
            Self::MemberStart(_) => "member of the store started",
            Self::DaemonKill(_) => "daemon killed",
            Self::DaemonStop(_) => "daemon stopped",
            Self::DaemonStart(_) => "daemon started",
            Self::DaemonPause { .. } => "daemon paused",
            Self::Reboot(_) => "reboot",
            Self::Shutdown(_) => "shutdown",
            Self::LibvirtOff(_) => "libvirt off",
            Self::LibvirtOn(_) => "libvirt on",
            Self::Drain(_) => "drain",
            Self::Undrain(_) => "undrain",
            Self::ConfirmDown(_) => "confirmed down",
            Self::AgentOff(_) => "agent off",
            Self::AgentOn(_) => "agent on",
            _ => "",
        }
    }
}

/// What must be at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Expectation {
    /// These VMs run, on these hosts.
    pub placement: BTreeMap<VmName, HostName>,
    /// These VMs run, wherever.
    pub running: Vec<VmName>,
    /// These VMs do not run.
    pub off: Vec<VmName>,
    /// No host was reset by its watchdog.
    pub no_resets: bool,
    /// These findings stand.
    pub findings: Vec<String>,
}

/// Why a scenario cannot be played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScenarioError {
    /// It has no host.
    NoHost,
    /// It is longer than a day.
    TooLong,
    /// It names a host that it does not have.
    UnknownHost(HostName),
}

impl std::fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoHost => f.write_str("A scenario has one host at least."),
            Self::TooLong => write!(f, "A scenario lasts {TIME_MS_MAX} ms at most."),
            Self::UnknownHost(host) => write!(f, "The scenario names host {host}, which it does not have."),
        }
    }
}

impl std::error::Error for ScenarioError {}
