//! What of a host VMs use by name: libvirt's storage pools and networks, and its watchdog.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What libvirt has that VMs name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Resources {
    /// The storage pools, by name.
    pub pools: BTreeMap<String, StoragePool>,
    /// The networks, by name.
    pub networks: BTreeMap<String, Network>,
}

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StoragePool {
    /// libvirt's word for what it is: `dir`, `netfs`, `rbd`.
    pub kind: String,
    /// Where its volumes are on this host, where they are files or devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether it is started.
    pub active: bool,
    /// Whether other hosts see the same volumes in a pool of this name. What is not known to be shared is not.
    pub shared: bool,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Network {
    /// Whether it is started.
    pub active: bool,
}

/// The watchdog that would be armed: the first hardware one, else the kernel's own timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct WatchdogFacts {
    /// The device node, as `/dev/watchdog0`.
    pub device: String,
    /// What its driver calls it; empty where the kernel does not say.
    pub identity: String,
    /// It is a timer of the kernel (softdog) and no hardware: a kernel that hangs may not reset itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub software: bool,
    /// Once started, nothing stops it but a reset (`nowayout`).
    pub nowayout: bool,
    /// The shortest time that it takes, in seconds, where the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_timeout_s: Option<u32>,
    /// The longest time that it takes, in seconds, where the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_timeout_s: Option<u32>,
}
