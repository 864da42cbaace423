//! Words about the cluster that a host is in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tranche_core::finding::Finding;
use tranche_core::membership::{Role, StoreAnswer};
use tranche_core::name::{HostName, Timestamp};

/// Begins a cluster with this host: `POST /v1/cluster/init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InitCluster {
    /// The cluster's name; `tranche` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address, or the name, by which other hosts reach this one; what its settings say if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Takes this host into a cluster: `POST /v1/cluster/join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinCluster {
    /// The token, as `POST /v1/cluster/tokens` gave it on a member.
    pub token: String,
    /// The address, or the name, by which other hosts reach this one; what its settings say if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Makes a join token: `POST /v1/cluster/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateToken {
    /// How long it may be used, in seconds, from 60 to 86,400; half an hour if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60, maximum = 86_400)]
    pub ttl_s: Option<u64>,
}

/// Lets other hardware take the place of a machine that is gone: `POST /v1/cluster/replace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceMember {
    /// The machine that is gone. The new one gets its name.
    pub host: HostName,
    /// How long the token may be used, in seconds, from 60 to 86,400; half an hour if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60, maximum = 86_400)]
    pub ttl_s: Option<u64>,
    /// Forget the VMs that belong to it and are not started elsewhere. Else they are a refusal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forget_vms: bool,
}

/// A join token. It is told once; the store has only its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenCreated {
    /// The token. It lets one host in.
    pub token: String,
    /// When it is over.
    pub until: Timestamp,
}

/// What this host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterStanding {
    /// It stands alone.
    Alone,
    /// It is on its way into a cluster, and still stands alone.
    Entering,
    /// It is a member.
    Member,
    /// It is on its way out.
    Leaving,
}

/// The cluster, as this host sees it: `GET /v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClusterView {
    /// This host.
    pub host: HostName,
    /// What it is.
    pub standing: ClusterStanding,
    /// The cluster's name, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What is being done to get in or out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// Why that stopped. The same command again goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Finding>,
    /// The machines of the cluster.
    #[serde(default)]
    pub members: Vec<ClusterMember>,
    /// The members of its store where somebody else runs that, as they were asked by URL.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub store_elsewhere: BTreeMap<String, StoreSeat>,
    /// The version that rules: the oldest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ruling_version: Option<String>,
    /// How many members of the store may fail before nothing can be decided any more.
    #[serde(default)]
    pub survives: usize,
    /// What is wrong with the cluster or worth knowing.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// A machine of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClusterMember {
    /// Its name.
    pub host: HostName,
    /// Where it is reached.
    pub address: String,
    /// What it is.
    pub role: Role,
    /// The version of its daemon.
    pub version: String,
    /// When it joined.
    pub joined_at: Timestamp,
    /// Its member of the store; none where it does not keep the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreSeat>,
}

/// A machine's member of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreSeat {
    /// Whether it has no vote yet.
    pub learner: bool,
    /// What it answers; nothing if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<StoreAnswer>,
}
