//! Parts of what people ask for: what somebody names of it, to be laid over what was asked for before. What a part leaves out
//! stays as it is, so that nobody resets by accident what he did not think of.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    Admission, Availability, Failover, FailoverPolicy, Homogeneity, Pace, PlacementPolicy, Policy,
    RestartPolicy, ShutdownPolicy, Timers, VcpusPerCpu, VmSpec,
};
use crate::journey::Migration;
use crate::label;
use crate::name::{LabelKey, LabelValue};

/// What can be changed of a VM at any time. The VM is not restarted for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VmPart {
    /// Labels that it gets; those without a value (null) are taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Option<String>>))]
    pub labels: BTreeMap<LabelKey, Option<LabelValue>>,
    /// Whether it keeps its partition while it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<bool>,
    /// The NUMA node whose GPUs it prefers from its next start on; null for none.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u16>))]
    pub prefer_numa_node: Option<Option<u16>>,
    /// How much is done to keep it running.
    #[serde(default, skip_serializing_if = "AvailabilityPart::is_empty")]
    pub availability: AvailabilityPart,
}

/// A field that is there is named, also where it is null.
pub(super) fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl VmPart {
    /// The VM with this changed.
    pub fn over(&self, now: &VmSpec) -> VmSpec {
        VmSpec {
            labels: label::over(&self.labels, &now.labels),
            reserved: self.reserved.unwrap_or(now.reserved),
            prefer_numa_node: self.prefer_numa_node.unwrap_or(now.prefer_numa_node),
            availability: self.availability.over(now.availability),
            ..now.clone()
        }
    }
}

/// How much is done to keep a VM running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AvailabilityPart {
    /// Who is served first when there is not room for all: the higher, 0 to [`super::PRIORITY_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// Whether it is started elsewhere when its host dies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// How often it is started again after it fell over.
    #[serde(skip_serializing_if = "RestartsPart::is_empty")]
    pub restarts: RestartsPart,
    /// How it goes to another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// How it is sent if it goes there while it runs.
    #[serde(skip_serializing_if = "PacePart::is_empty")]
    pub pace: PacePart,
}

impl AvailabilityPart {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same with this changed.
    pub fn over(self, now: Availability) -> Availability {
        Availability {
            priority: self.priority.unwrap_or(now.priority),
            failover: self.failover.unwrap_or(now.failover),
            restarts: self.restarts.over(now.restarts),
            migration: self.migration.unwrap_or(now.migration),
            pace: self.pace.over(now.pace),
        }
    }
}

/// How often a VM is started again after it fell over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RestartsPart {
    /// On one host, before another is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<u8>,
    /// On how many other hosts, before it is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<u8>,
}

impl RestartsPart {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn over(self, now: RestartPolicy) -> RestartPolicy {
        RestartPolicy {
            local: self.local.unwrap_or(now.local),
            elsewhere: self.elsewhere.unwrap_or(now.elsewhere),
        }
    }
}

/// Policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PolicyPart {
    /// How VMs are laid over GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementPolicy>,
    /// How many virtual processors a host's VMs may have together for each of its processors; only in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus_per_cpu: Option<VcpusPerCpu>,
    /// What is said to a VM that is to run although then the loss of a host could not be made good; only in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
    /// What is said to a wish with which GPUs that serve VMs would be less alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homogeneity: Option<Homogeneity>,
    /// What follows when a host dies; only in a cluster.
    #[serde(skip_serializing_if = "FailoverPart::is_empty")]
    pub failover: FailoverPart,
    /// What becomes of a host's VMs when its administrator shuts it down; only in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<ShutdownPolicy>,
    /// How VMs are sent that go to another host while they run, and do not say so themselves; only in a cluster.
    #[serde(skip_serializing_if = "PacePart::is_empty")]
    pub pace: PacePart,
}

impl PolicyPart {
    /// The policies with these changed.
    pub fn over(self, now: Policy) -> Policy {
        Policy {
            placement: self.placement.unwrap_or(now.placement),
            vcpus_per_cpu: self.vcpus_per_cpu.unwrap_or(now.vcpus_per_cpu),
            admission: self.admission.unwrap_or(now.admission),
            homogeneity: self.homogeneity.unwrap_or(now.homogeneity),
            failover: self.failover.over(now.failover),
            shutdown: self.shutdown.unwrap_or(now.shutdown),
            pace: self.pace.over(now.pace),
        }
    }
}

/// How a VM is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PacePart {
    /// For how long its guest may stand still, in milliseconds; null for what is said elsewhere.
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u32>))]
    pub pause_ms: Option<Option<u32>>,
    /// How much it may send, in MiB/s; null for what is said elsewhere.
    #[serde(deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u32>))]
    pub bandwidth_mib_s: Option<Option<u32>>,
}

impl PacePart {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same with this changed.
    pub fn over(self, now: Pace) -> Pace {
        Pace {
            pause_ms: self.pause_ms.unwrap_or(now.pause_ms),
            bandwidth_mib_s: self.bandwidth_mib_s.unwrap_or(now.bandwidth_mib_s),
        }
    }
}

/// What follows when a host dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FailoverPart {
    /// Nothing follows, for as long as planned work on the network lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// When what follows.
    #[serde(skip_serializing_if = "TimersPart::is_empty")]
    pub timers: TimersPart,
}

impl FailoverPart {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn over(self, now: FailoverPolicy) -> FailoverPolicy {
        FailoverPolicy { paused: self.paused.unwrap_or(now.paused), timers: self.timers.over(now.timers) }
    }
}

/// When what follows on a host's silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TimersPart {
    /// How often a host shows that it lives, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
    /// After how long it counts as lost, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_ms: Option<u64>,
    /// After how long its own watchdog has reset it, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_ms: Option<u64>,
    /// After how long its VMs may start elsewhere on the word of its watchdog, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_ms: Option<u64>,
    /// How long the store's members go without word from their leader before they choose another one, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub election_ms: Option<u64>,
}

impl TimersPart {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn over(self, now: Timers) -> Timers {
        Timers {
            heartbeat_ms: self.heartbeat_ms.unwrap_or(now.heartbeat_ms),
            lost_ms: self.lost_ms.unwrap_or(now.lost_ms),
            reset_ms: self.reset_ms.unwrap_or(now.reset_ms),
            restart_ms: self.restart_ms.unwrap_or(now.restart_ms),
            election_ms: self.election_ms.unwrap_or(now.election_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_part_leaves_out_stays_whatever_it_is() {
        let timers = Timers { lost_ms: 6_000, ..Timers::default() };
        let now = Policy {
            placement: PlacementPolicy::Spread,
            vcpus_per_cpu: VcpusPerCpu(9),
            admission: Admission::Enforce,
            homogeneity: Homogeneity::Strict,
            failover: FailoverPolicy { paused: true, timers },
            shutdown: ShutdownPolicy::Freeze,
            pace: Pace { pause_ms: Some(100), bandwidth_mib_s: Some(40) },
        };
        let read = |text: &str| serde_json::from_str::<PolicyPart>(text).unwrap();
        assert_eq!(read("{}").over(now), now);
        assert_eq!(
            read(r#"{"placement":"pack"}"#).over(now),
            Policy { placement: PlacementPolicy::Pack, ..now }
        );
        let longer = read(r#"{"failover":{"timers":{"restart_ms":30000}}}"#);
        let timers = Timers { restart_ms: 30_000, ..timers };
        let failover = FailoverPolicy { paused: true, timers };
        assert_eq!(longer.over(now), Policy { failover, ..now });
        let faster = Pace { pause_ms: Some(100), bandwidth_mib_s: None };
        assert_eq!(read(r#"{"pace":{"bandwidth_mib_s":null}}"#).over(now), Policy { pace: faster, ..now });
        let written = serde_json::to_string(&longer).unwrap();
        assert_eq!(written, r#"{"failover":{"timers":{"restart_ms":30000}}}"#);
        for unknown in [r#"{"failovr":{}}"#, r#"{"failover":{"timers":{"lost":1}}}"#] {
            assert!(serde_json::from_str::<PolicyPart>(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn a_numa_node_is_left_as_it_is_changed_or_taken_away() {
        for (text, named) in [
            ("{}", None),
            (r#"{"prefer_numa_node":null}"#, Some(None)),
            (r#"{"prefer_numa_node":1}"#, Some(Some(1))),
        ] {
            let part: VmPart = serde_json::from_str(text).unwrap();
            assert_eq!(part.prefer_numa_node, named);
            assert_eq!(serde_json::to_string(&part).unwrap(), text);
        }
    }
}
