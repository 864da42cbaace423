//! Scenarios: which hosts and VMs there are, and what befalls them when. What YAML files say, in types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tranche_core::name::{HostName, LabelKey, LabelValue, RuleName, VmName};
use tranche_core::spec::{Availability, FailoverPolicy, PlacementPolicy, Request, Rule, ShutdownPolicy};

use crate::event::TimedEvent;
use crate::story::Planted;

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
    /// Whether that leaves it off then.
    pub leave_off: bool,
    /// How long it takes from power to its daemon, in milliseconds.
    pub boot_ms: u64,
    /// How far its clock is off, in milliseconds.
    pub clock_skew_ms: i64,
    /// Whether it is a member from the beginning; else it becomes one with `host_join`.
    pub member: bool,
    /// Whether VMs can be sent from it and to it while they run, also with its GPUs' partitions.
    pub travels: bool,
    /// The version that its daemon says it has; while they differ, the oldest leads.
    pub version: String,
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
            leave_off: false,
            boot_ms: 20_000,
            clock_skew_ms: 0,
            member: true,
            travels: false,
            version: "1.0.0".to_owned(),
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
