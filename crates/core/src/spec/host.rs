//! A member of the cluster, as wished for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{AgentName, LabelKey, LabelValue, Timestamp};

/// The most labels of a host.
pub const LABELS_PER_HOST_MAX: usize = 32;

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// When it joined: ties are broken by age.
    pub joined_at: Timestamp,
    /// What VMs are told apart by when they ask for a place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Whether it takes VMs.
    #[serde(default, skip_serializing_if = "Duty::is_default")]
    pub duty: Duty,
    /// How its power is cut; by its own watchdog alone if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<FenceSpec>,
    /// Somebody's word that it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_down: Option<SaidDown>,
    /// Its administrator is shutting it down, or did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departure: Option<Departure>,
    /// The memory that VMs leave to the host itself, in MiB.
    #[serde(default, skip_serializing_if = "crate::spec::is_zero")]
    pub reserved_memory_mib: u64,
}

impl HostSpec {
    /// A member of which nothing is known but when it joined.
    pub fn new(joined_at: Timestamp) -> Self {
        Self {
            joined_at,
            labels: BTreeMap::new(),
            duty: Duty::Serving,
            fence: None,
            said_down: None,
            departure: None,
            reserved_memory_mib: 0,
        }
    }

    /// The departure that a boot of it ends with, if its administrator has begun one.
    pub fn departs_in(&self, boot_id: &str) -> Option<&Departure> {
        self.departure.as_ref().filter(|departure| departure.boot_id == boot_id)
    }
}

/// Somebody's word that a silent host is down. It counts for the silence that it was given in, and for no later one: else a host
/// that was heard of meanwhile would be given up at its next silence, with nobody to make sure that it is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SaidDown {
    /// The host's epoch then ([`crate::plan::HostPlan::epoch`]).
    pub epoch: u64,
    /// Since when it stood as it did then ([`crate::plan::Standing::since`]).
    pub since: Timestamp,
}

/// A host goes down because its administrator wants so. It is over with the host's next boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Departure {
    /// Whether it is meant to come back at once.
    pub way: DepartureWay,
    /// The boot that ends (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Guests are not asked any more, because their time is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// How a host goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DepartureWay {
    /// It boots again at once.
    Reboot,
    /// It stays off until somebody turns it on.
    Shutdown,
}

/// Whether a host takes VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// It does.
    #[default]
    Serving,
    /// It is drained and takes none, over its reboots, until it is told to serve again.
    Maintenance,
}

impl Duty {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a host's power is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FenceSpec {
    /// The agent.
    pub agent: AgentName,
    /// Its options, as its metadata names them. A secret is named (`secret:NAME`), never written here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}
