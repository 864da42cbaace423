//! A member of the cluster, as wished for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::label;
use crate::name::{AgentName, LabelKey, LabelValue, Timestamp};

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

    /// Whether its fence agent turns it on again after it has cut its power. One that somebody works on stays off, and so does one
    /// that was told to shut down; `departs` says whether it is on its way there.
    pub fn comes_back(&self, departs: bool) -> bool {
        let is_left_off = self.fence.as_ref().is_none_or(|how| how.leave_off);
        let shuts_down = |departure: &Departure| departs && departure.way == DepartureWay::Shutdown;
        !is_left_off && self.duty == Duty::Serving && !self.departure.as_ref().is_some_and(shuts_down)
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
    /// The host stays off after its power was cut, until somebody turns it on. Else the agent does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leave_off: bool,
}

/// What is to change of a member; the rest stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HostPart {
    /// Labels that it gets; those without a value (null) are taken away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Option<String>>))]
    pub labels: BTreeMap<LabelKey, Option<LabelValue>>,
    /// How its power is cut; null takes the agent away.
    #[serde(deserialize_with = "super::part::named", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<FencePart>))]
    pub fence: Option<Option<FencePart>>,
    /// The memory that VMs leave to the host itself, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_memory_mib: Option<u64>,
}

impl HostPart {
    /// The host with this changed; nothing if it concerns an agent that the host does not have.
    pub fn over(&self, now: &HostSpec) -> Option<HostSpec> {
        let mut next = now.clone();
        next.labels = label::over(&self.labels, &now.labels);
        match &self.fence {
            None => {}
            Some(None) => next.fence = None,
            Some(Some(part)) => next.fence = Some(part.over(now.fence.as_ref())?),
        }
        next.reserved_memory_mib = self.reserved_memory_mib.unwrap_or(now.reserved_memory_mib);
        Some(next)
    }
}

/// What is to change of how a host's power is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FencePart {
    /// The agent. If it is named, its options are those that are named with it, and no others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// Options of the agent; those without a value (null) are taken away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, Option<String>>,
    /// Whether the host stays off after its power was cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave_off: Option<bool>,
}

impl FencePart {
    fn over(&self, now: Option<&FenceSpec>) -> Option<FenceSpec> {
        let leave_off = self.leave_off.unwrap_or_else(|| now.is_some_and(|now| now.leave_off));
        let (agent, mut options) = match (&self.agent, now) {
            // Those of another agent mean something else there.
            (Some(agent), _) => (agent.clone(), BTreeMap::new()),
            (None, now) => (now?.agent.clone(), now?.options.clone()),
        };
        for (name, value) in &self.options {
            match value {
                Some(value) => drop(options.insert(name.clone(), value.clone())),
                None => drop(options.remove(name)),
            }
        }
        Some(FenceSpec { agent, options, leave_off })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> HostPart {
        serde_json::from_str(text).unwrap()
    }

    fn host() -> HostSpec {
        serde_json::from_str(
            r#"{"joined_at":1,"labels":{"rack":"4","zone":"b"},"reserved_memory_mib":512,
                "fence":{"agent":"fence_virsh","options":{"ip":"10.0.0.1","plug":"a"},"leave_off":true}}"#,
        )
        .unwrap()
    }

    #[test]
    fn what_is_not_named_of_a_host_stays_as_it_is() {
        let now = host();
        assert_eq!(read("{}").over(&now), Some(now.clone()));
        let labelled = read(r#"{"labels":{"rack":null,"row":"7"}}"#).over(&now).unwrap();
        let labels: Vec<_> = labelled.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["row=7", "zone=b"]);
        assert_eq!((labelled.fence, labelled.reserved_memory_mib), (now.fence, 512));
    }

    #[test]
    fn one_option_of_an_agent_is_changed_or_taken_away_and_another_agent_begins_without_any() {
        let change = |text: &str| read(text).over(&host()).unwrap().fence.unwrap();
        let options =
            |how: &FenceSpec| how.options.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        let moved = change(r#"{"fence":{"options":{"ip":"10.0.0.2"}}}"#);
        assert_eq!(options(&moved), ["ip=10.0.0.2", "plug=a"]);
        assert_eq!(options(&change(r#"{"fence":{"options":{"plug":null}}}"#)), ["ip=10.0.0.1"]);
        let other = change(r#"{"fence":{"agent":"fence_ipmilan","options":{"ip":"10.0.0.3"}}}"#);
        assert_eq!((options(&other), other.leave_off), (vec!["ip=10.0.0.3".to_owned()], true));
        let back = change(r#"{"fence":{"leave_off":false}}"#);
        assert_eq!((options(&back).len(), back.leave_off), (2, false));
    }

    #[test]
    fn an_agent_is_taken_away_by_name_and_one_that_is_not_there_has_no_options() {
        let text = r#"{"fence":null}"#;
        let without = read(text).over(&host()).unwrap();
        assert_eq!((without.fence.clone(), without.labels.len()), (None, 2));
        assert_eq!(serde_json::to_string(&read(text)).unwrap(), text);
        assert_eq!(read(r#"{"fence":{"options":{"ip":"10.0.0.2"}}}"#).over(&without), None);
    }

    #[test]
    fn a_host_stays_off_if_that_is_wished_while_somebody_works_on_it_and_when_it_was_told_to_shut_down() {
        let mut wish = host();
        assert!(!wish.comes_back(false), "its settings say so");
        wish.fence.as_mut().unwrap().leave_off = false;
        assert!(wish.comes_back(false));
        assert!(!HostSpec { duty: Duty::Maintenance, ..wish.clone() }.comes_back(false));
        assert!(!HostSpec { fence: None, ..wish.clone() }.comes_back(false));
        let goes_down = |way| {
            let departure = Departure { way, boot_id: "boot".to_owned(), force: false };
            HostSpec { departure: Some(departure), ..wish.clone() }
        };
        let back = [DepartureWay::Shutdown, DepartureWay::Reboot].map(|way| goes_down(way).comes_back(true));
        assert_eq!(back, [false, true]);
        assert!(goes_down(DepartureWay::Shutdown).comes_back(false), "it has come back from there long ago");
    }
}
