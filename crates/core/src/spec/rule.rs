//! Rules about where VMs run: on which hosts, and with or without which others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{HostName, LabelKey, LabelValue, VmName};

/// The most rules.
pub const RULES_MAX: usize = 1_000;
/// The most VMs, and the most hosts, in one rule.
pub const NAMES_PER_RULE_MAX: usize = 1_000;
/// The highest priority of a host in a rule.
pub const HOST_PRIORITY_MAX: u16 = 1_000;
/// What a preference without a priority of its own counts.
pub const PREFERENCE: u16 = 100;

/// A rule. A strict one is kept: a VM waits rather than break it. One that is not strict is a preference, and weighs before
/// pack or spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// VMs run on these hosts.
    Hosts {
        /// The VMs.
        vms: BTreeSet<VmName>,
        /// The hosts, each with its priority, 1 to [`HOST_PRIORITY_MAX`]: the higher, the better.
        hosts: BTreeMap<HostName, u16>,
        /// Whether they run nowhere else.
        #[serde(default)]
        strict: bool,
        /// Whether a VM that runs moves when a host of higher priority has room again. Else that is only said.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        failback: bool,
    },
    /// VMs run on hosts that have all of these labels.
    Labels {
        /// The VMs.
        vms: BTreeSet<VmName>,
        /// The labels.
        labels: BTreeMap<LabelKey, LabelValue>,
        /// Whether they run nowhere else.
        #[serde(default)]
        strict: bool,
    },
    /// VMs run on one host, or each on another.
    Vms {
        /// The VMs.
        vms: BTreeSet<VmName>,
        /// Which of the two.
        kind: Company,
        /// Whether they do not run otherwise.
        #[serde(default)]
        strict: bool,
    },
}

/// Whether VMs keep each other's company.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Company {
    /// On one host.
    Together,
    /// Each on another host.
    Apart,
}

impl Rule {
    /// The VMs that it is about.
    pub fn vms(&self) -> &BTreeSet<VmName> {
        match self {
            Self::Hosts { vms, .. } | Self::Labels { vms, .. } | Self::Vms { vms, .. } => vms,
        }
    }

    /// Whether it is kept at any price.
    pub fn is_strict(&self) -> bool {
        match self {
            Self::Hosts { strict, .. } | Self::Labels { strict, .. } | Self::Vms { strict, .. } => *strict,
        }
    }
}

/// What it asks, for people: `on one of node1 (10), node2 (5)`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Hosts { hosts, failback, .. } => {
                let hosts: Vec<String> =
                    hosts.iter().map(|(host, priority)| format!("{host} ({priority})")).collect();
                let back = if *failback { ", and back" } else { "" };
                format!("on {}{back}", hosts.join(", "))
            }
            Self::Labels { labels, .. } => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("on hosts with {}", labels.join(", "))
            }
            Self::Vms { kind: Company::Together, .. } => "together".to_owned(),
            Self::Vms { kind: Company::Apart, .. } => "apart".to_owned(),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_back_from_what_it_is_written_as_and_unknown_fields_are_refused() {
        for text in [
            r#"{"rule":"hosts","vms":["a"],"hosts":{"node1":10},"strict":true,"failback":true}"#,
            r#"{"rule":"labels","vms":["a"],"labels":{"rack":"1"},"strict":false}"#,
            r#"{"rule":"vms","vms":["a","b"],"kind":"apart","strict":true}"#,
        ] {
            let rule: Rule = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&rule).unwrap(), text);
        }
        for (text, field) in [
            (r#"{"rule":"vms","vms":["a","b"],"kind":"apart","stritc":true}"#, "stritc"),
            (r#"{"rule":"labels","vms":["a"],"labels":{},"hosts":{}}"#, "hosts"),
            (r#"{"rule":"vms","vms":["a","b"]}"#, "kind"),
        ] {
            let error = serde_json::from_str::<Rule>(text).unwrap_err().to_string();
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
