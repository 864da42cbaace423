//! Who is limited to VMs with a label, and what of the interface is left to them (decision 0046).
//!
//! What is left is a list: a route that is not in it is for nobody who is limited, so that one that nobody thought of tells nothing. How the
//! answers of those that are in it are narrowed follows from the entry and is done in one place.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Role;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::label::{LABELS_MAX, Label, Labels};
use crate::name::NameError;

/// The VMs that somebody is limited to: those that carry one of these labels. It has one at least.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limit(BTreeSet<Label>);

impl Limit {
    /// A limit to VMs with one of these labels; none without any.
    pub fn new(labels: BTreeSet<Label>) -> Option<Self> {
        (!labels.is_empty()).then_some(Self(labels))
    }

    /// The labels.
    pub fn labels(&self) -> &BTreeSet<Label> {
        &self.0
    }

    /// Whether a VM with these labels is theirs.
    pub fn allows(&self, labels: &Labels) -> bool {
        self.0.iter().any(|label| label.is_of(labels))
    }

    /// The labels of a VM that they make: their own label is given to it if they have just one, and say nothing of its key.
    ///
    /// # Errors
    /// It would not be theirs.
    pub fn for_new(&self, mut asked: Labels) -> Result<Labels, Finding> {
        if let (Some(only), 1) = (self.0.first(), self.0.len()) {
            asked.entry(only.key.clone()).or_insert_with(|| only.value.clone());
        }
        if self.allows(&asked) { Ok(asked) } else { Err(say::label_needed(self)) }
    }
}

/// With commas between the labels: `team=blue,team=red`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.pad(&labels.join(","))
    }
}

impl FromStr for Limit {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// A role, and the VMs that it is limited to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// To which VMs it is limited; to none if left out.
    pub limit: Option<Limit>,
}

/// How a grant is written. One that is limited is no plain role, so that a version which knows no limits cannot take it for one without.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Role(Role),
    Limited(Limited),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limited {
    role: Role,
    vm_labels: BTreeSet<Label>,
}

impl TryFrom<Form> for Grant {
    type Error = String;

    /// Whoever writes a limit means one: without labels it is none that there can be.
    fn try_from(form: Form) -> Result<Self, String> {
        match form {
            Form::Role(role) => Ok(Self { role, limit: None }),
            Form::Limited(Limited { vm_labels, .. }) if vm_labels.is_empty() => {
                Err("'vm_labels' names no label".to_owned())
            }
            Form::Limited(Limited { role, vm_labels }) => {
                Self::new(role, vm_labels).map_err(|finding| finding.message)
            }
        }
    }
}

impl From<Grant> for Form {
    fn from(Grant { role, limit }: Grant) -> Self {
        match limit {
            None => Self::Role(role),
            Some(Limit(vm_labels)) => Self::Limited(Limited { role, vm_labels }),
        }
    }
}

impl Grant {
    /// A role that is limited to VMs with one of these labels; to none if there are none.
    ///
    /// # Errors
    /// The role cannot be limited, or there are too many labels.
    pub fn new(role: Role, labels: BTreeSet<Label>) -> Result<Self, Finding> {
        if labels.len() > LABELS_MAX {
            let range = format!("{LABELS_MAX} at most");
            return Err(say::invalid_value("The number of labels", &labels.len().to_string(), &range));
        }
        match Limit::new(labels) {
            Some(limit) if role == Role::Admin => Err(say::admin_limited(&limit)),
            limit => Ok(Self { role, limit }),
        }
    }

    /// What somebody may who is granted all of these: the role that may most; without a limit, if it is granted so, and else on the VMs
    /// of all those that grant it.
    pub fn most<'a>(grants: impl Iterator<Item = &'a Self> + Clone) -> Option<Self> {
        let role = grants.clone().map(|grant| grant.role).max()?;
        let mut labels = BTreeSet::new();
        for grant in grants.filter(|grant| grant.role == role) {
            match &grant.limit {
                None => return Some(Self { role, limit: None }),
                Some(limit) => labels.extend(limit.0.iter().cloned()),
            }
        }
        Some(Self { role, limit: Limit::new(labels) })
    }
}

/// What a request of somebody who is limited is about, and so how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'a> {
    /// Nothing that has to do with any VM: it is answered as to everybody.
    Plain,
    /// A list of VMs.
    Vms,
    /// One VM, as it is.
    Vm(&'a str),
    /// A console of a VM.
    Console(&'a str),
    /// How busy a VM was.
    VmHistory(&'a str),
    /// Where a VM could go.
    Destinations(&'a str),
    /// Why a VM cannot run on a host.
    WhyNot(&'a str),
    /// A VM that is to be made.
    NewVm,
    /// What is to change of a VM, among it its labels.
    SetVm(&'a str),
    /// Another change of a VM.
    ChangeVm(&'a str),
    /// A list of hosts.
    Hosts,
    /// One host.
    Host,
    /// A list of GPUs.
    Gpus,
    /// One GPU.
    Gpu,
    /// A list of partitions.
    Partitions,
    /// Everything in figures.
    Overview,
    /// What there is to spare.
    Capacity,
    /// What is wrong or waits.
    Findings,
    /// What is being done.
    Operations,
    /// One operation.
    Operation,
    /// What changes, as it changes.
    Events,
}

impl<'a> Reach<'a> {
    /// What a request is about, by its method and path; none if it is for nobody who is limited.
    pub fn of(method: &str, path: &'a str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let ["v1", rest @ ..] = segments.as_slice() else { return None };
        Some(match (method, rest) {
            ("GET" | "DELETE", ["session"])
            | ("GET", ["openapi.json"] | ["catalogue"] | ["catalogue", _]) => Self::Plain,
            ("GET", ["vms"]) => Self::Vms,
            ("GET", ["vms", name]) => Self::Vm(name),
            ("GET", ["vms", name, "console" | "screen"]) => Self::Console(name),
            ("GET", ["vms", name, "history"]) => Self::VmHistory(name),
            ("GET", ["vms", name, "destinations"]) => Self::Destinations(name),
            ("GET", ["why-not", name, _]) => Self::WhyNot(name),
            ("POST", ["vms"]) => Self::NewVm,
            ("PATCH", ["vms", name]) => Self::SetVm(name),
            ("DELETE", ["vms", name])
            | ("POST", ["vms", name, "start" | "stop" | "restart" | "migrate" | "attach" | "detach"]) => {
                Self::ChangeVm(name)
            }
            ("GET", ["hosts"]) => Self::Hosts,
            ("GET", ["hosts", _]) => Self::Host,
            ("GET", ["gpus"]) => Self::Gpus,
            ("GET", ["gpus", _, _]) => Self::Gpu,
            ("GET", ["partitions"]) => Self::Partitions,
            ("GET", ["overview"]) => Self::Overview,
            ("GET", ["capacity"]) => Self::Capacity,
            ("GET", ["findings"]) => Self::Findings,
            ("GET", ["operations"]) => Self::Operations,
            ("GET", ["operations", _]) => Self::Operation,
            ("GET", ["events"]) => Self::Events,
            _ => return None,
        })
    }

    /// The VM that it is about, where there is one already.
    pub fn vm(self) -> Option<&'a str> {
        match self {
            Self::Vm(name)
            | Self::Console(name)
            | Self::VmHistory(name)
            | Self::Destinations(name)
            | Self::WhyNot(name)
            | Self::SetVm(name)
            | Self::ChangeVm(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it changes something.
    pub fn is_change(self) -> bool {
        matches!(self, Self::NewVm | Self::SetVm(_) | Self::ChangeVm(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> Limit {
        text.parse().unwrap()
    }

    fn labels(text: &str) -> Labels {
        let labels = text.split(',').filter(|text| !text.is_empty());
        labels.map(|text| text.parse::<Label>().map(|label| (label.key, label.value)).unwrap()).collect()
    }

    #[test]
    fn a_vm_that_is_made_gets_the_only_label_or_has_to_carry_one_of_several() {
        let made = |limit: &str, asked: &str| self::limit(limit).for_new(labels(asked)).ok();
        assert_eq!(made("team=red", ""), Some(labels("team=red")));
        assert_eq!(made("team=red", "tier=gold"), Some(labels("team=red,tier=gold")));
        assert_eq!(made("team=red", "team=blue"), None, "it would be somebody else's");
        assert_eq!(made("team=blue,team=red", ""), None);
        assert_eq!(made("team=blue,team=red", "team=red"), Some(labels("team=red")));
    }

    #[test]
    fn of_several_grants_the_role_that_may_most_counts_and_its_limits_add_up() {
        let grant = |role, text: &str| Grant { role, limit: (!text.is_empty()).then(|| limit(text)) };
        let most = |grants: &[Grant]| Grant::most(grants.iter());
        let (viewer, red) = (grant(Role::Viewer, ""), grant(Role::Operator, "team=red"));
        let (blue, free) = (grant(Role::Operator, "team=blue"), grant(Role::Operator, ""));
        assert_eq!(most(&[]), None);
        assert_eq!(most(&[viewer.clone(), red.clone()]), Some(red.clone()));
        assert_eq!(most(&[blue.clone(), red.clone()]), Some(grant(Role::Operator, "team=blue,team=red")));
        assert_eq!(most(&[blue, red, free.clone(), viewer]), Some(free));
    }

    #[test]
    fn an_administrator_cannot_be_limited() {
        let labels = limit("team=red").0;
        assert!(Grant::new(Role::Admin, labels.clone()).is_err());
        assert!(Grant::new(Role::Operator, labels).is_ok());
        assert!(Grant::new(Role::Admin, BTreeSet::new()).is_ok());
    }

    #[test]
    fn a_grant_without_a_limit_is_written_as_its_role_and_one_with_a_limit_is_no_role_at_all() {
        let free = Grant { role: Role::Viewer, limit: None };
        assert_eq!(serde_json::to_string(&free).unwrap(), r#""viewer""#);
        let red = Grant { role: Role::Operator, limit: Some(limit("team=red")) };
        let text = serde_json::to_string(&red).unwrap();
        assert_eq!(text, r#"{"role":"operator","vm_labels":["team=red"]}"#);
        assert!(serde_json::from_str::<Role>(&text).is_err(), "an older version must not take it for one");
        assert_eq!(serde_json::from_str::<Grant>(&text).unwrap(), red);
        for wrong in [
            r#"{"role":"operator","vm_labels":[]}"#,
            r#"{"role":"operator"}"#,
            r#"{"role":"admin","vm_labels":["team=red"]}"#,
            r#"{"role":"viewer","vm_labels":["<b>"]}"#,
            r#"{"role":"viewer","vm_labels":["team=red"],"more":1}"#,
        ] {
            assert!(serde_json::from_str::<Grant>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_left_out_of_the_list_is_for_nobody_who_is_limited() {
        for (method, path) in [
            ("GET", "/v1/something/new"),
            ("GET", "/v1/vms/a/something"),
            ("HEAD", "/v1/vms"),
            ("POST", "/v1/vms/a/adopt"),
            ("POST", "/v1/hosts/a/drain"),
            ("PUT", "/v1/gpus/a/0000:01:00.0/mode"),
            ("GET", "/v1/gpus/a/0000:01:00.0/history"),
            ("GET", "/v1/policy"),
            ("GET", "/v1/rules"),
            ("GET", "/v1/audit"),
            ("GET", "/metrics"),
            ("POST", "/v1/apply"),
            ("POST", "/v1/diff"),
        ] {
            assert_eq!(Reach::of(method, path), None, "{method} {path}");
        }
        assert_eq!(Reach::of("GET", "/v1/vms/a/console"), Some(Reach::Console("a")));
        assert_eq!(Reach::of("POST", "/v1/vms/a/start").and_then(Reach::vm), Some("a"));
    }
}
