//! What an agent says of itself, and what is wrong with options for it.
//!
//! The form is that of resource agents (FenceAgentAPI.md, "metadata"). Names are compared as agents do: `-` and `_` are
//! one, and a parameter stands for the one that it obsoletes.

use std::collections::BTreeMap;

use tranche_core::diagnostics as say;
use tranche_core::fence::{self, normal};
use tranche_core::finding::Finding;
use tranche_core::name::{AgentName, HostName};
use tranche_core::spec::FenceSpec;

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its options, by name.
    pub parameters: BTreeMap<String, Parameter>,
    /// What it can be asked for.
    pub actions: Vec<String>,
    /// It cuts a host off from a network or from storage, not from power: it is undone by itself when the host comes
    /// back.
    pub is_fabric: bool,
}

/// An option of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameter {
    /// It has to be given, or the one that stands for it.
    pub required: bool,
    /// It is an old name.
    pub deprecated: bool,
    /// The old name of the same option.
    pub obsoletes: Option<String>,
    /// What its value is: `string`, `integer`, `boolean`, `second`, `select`.
    pub kind: String,
    /// The values of a `select`.
    pub choices: Vec<String>,
}

impl Metadata {
    /// Reads it; nothing where it is no metadata.
    pub(super) fn read(xml: &str) -> Option<Self> {
        let start = xml.find("<resource-agent").or_else(|| xml.find("<?xml"))?;
        let document = roxmltree::Document::parse(&xml[start..]).ok()?;
        let root = Some(document.root_element()).filter(|root| root.has_tag_name("resource-agent"))?;
        let parameters =
            root.descendants().filter(|node| node.has_tag_name("parameter")).filter_map(|node| {
                let flag = |name| node.attribute(name) == Some("1");
                let content = node.children().find(|child| child.has_tag_name("content"));
                let options = content.iter().flat_map(|content| content.children());
                let choices = options.filter_map(|option| option.attribute("value"));
                let parameter = Parameter {
                    required: flag("required"),
                    deprecated: flag("deprecated"),
                    obsoletes: node.attribute("obsoletes").map(normal),
                    kind: content
                        .and_then(|content| content.attribute("type"))
                        .unwrap_or("string")
                        .to_owned(),
                    choices: choices.map(str::to_owned).collect(),
                };
                Some((normal(node.attribute("name")?), parameter))
            });
        let mut known: BTreeMap<String, Parameter> = BTreeMap::new();
        for (name, parameter) in parameters {
            // Some list an option twice, with '-' and with '_', of which one is the old name.
            if !(parameter.deprecated && known.contains_key(&name)) {
                known.insert(name, parameter);
            }
        }
        let actions: Vec<_> = root.descendants().filter(|node| node.has_tag_name("action")).collect();
        let undoes_itself = |action: &roxmltree::Node<'_, '_>| {
            action.attribute("name") == Some("on") && action.attribute("automatic") == Some("1")
        };
        let is_fabric = actions.iter().any(undoes_itself);
        let actions =
            actions.iter().filter_map(|action| action.attribute("name")).map(str::to_owned).collect();
        Some(Self { parameters: known, actions, is_fabric })
    }

    /// Whether it can do what fencing needs.
    pub(super) fn check_actions(&self, host: &HostName, agent: &AgentName) -> Result<(), Box<Finding>> {
        let missing =
            ["off", "status"].into_iter().find(|action| !self.actions.iter().any(|has| has == action));
        let reason = match (missing, self.is_fabric) {
            (Some(action), _) => format!("has no action {action}"),
            (None, true) => "cuts a host off from storage or network and leaves its VMs running".to_owned(),
            (None, false) => return Ok(()),
        };
        Err(Box::new(say::fence_agent_unusable(host, agent, &reason)))
    }

    /// Whether it can turn a host on.
    pub(super) fn check_turns_on(&self, host: &HostName, agent: &AgentName) -> Result<(), Box<Finding>> {
        if self.actions.iter().any(|has| has == "on") {
            return Ok(());
        }
        let hint =
            format!("Let the host stay off after it was cut: tranche host set {host} --fence-leave-off.");
        let finding = say::fence_agent_unusable(
            host,
            agent,
            "has no action on, by which the host would be turned on again",
        );
        Err(Box::new(Finding { hint, ..finding }))
    }

    /// What is wrong with the options for a host: what [`fence`] says of any agent, and what this one does not take.
    pub(super) fn problems(&self, host: &HostName, how: &FenceSpec) -> Vec<Finding> {
        let about = About { host, agent: &how.agent };
        let mut problems: Vec<Finding> = fence::problem_with_agent(host, &how.agent).into_iter().collect();
        let of_option = |(name, value): (&String, &String)| {
            let known = fence::problem_with(host, &how.agent, name, value);
            known.or_else(|| self.problem_with(&about, name, value))
        };
        problems.extend(how.options.iter().filter_map(of_option));
        let given: Vec<String> = how.options.keys().map(|name| normal(name)).collect();
        let is_given = |name: &String| given.contains(name);
        for (name, parameter) in &self.parameters {
            let is_ours = fence::is_ours(name);
            let stands_in = parameter.obsoletes.as_ref().is_some_and(is_given);
            if parameter.required && !parameter.deprecated && !is_ours && !is_given(name) && !stands_in {
                let hint = format!("Give '{name}'; 'man {}' tells what it is.", how.agent);
                problems.push(about.problem(&format!("needs the option {name}"), &hint));
            }
        }
        problems
    }

    fn problem_with(&self, about: &About<'_>, name: &str, value: &str) -> Option<Finding> {
        let Some(parameter) = self.parameters.get(&normal(name)) else {
            let shown: Vec<&str> = self.current().collect();
            let hint = format!("It has these: {}.", shown.join(", "));
            return Some(about.problem(&format!("has no option {name:?}"), &hint));
        };
        if value.starts_with(fence::SECRET) {
            return None;
        }
        let takes = parameter.refuses(value)?;
        Some(about.problem(&format!("takes no {value:?} for {name}"), &format!("Give {takes}.")))
    }

    /// The options that one would use today.
    fn current(&self) -> impl Iterator<Item = &str> {
        let is_shown =
            |(name, parameter): &(&String, &Parameter)| !parameter.deprecated && fence::may_be_given(name);
        self.parameters.iter().filter(is_shown).map(|(name, _)| name.as_str())
    }
}

impl Parameter {
    /// What it takes instead of a value that it does not take.
    fn refuses(&self, value: &str) -> Option<String> {
        let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let is_flag = ["0", "1", "yes", "no", "on", "off", "true", "false"]
            .contains(&value.to_ascii_lowercase().as_str());
        match self.kind.as_str() {
            "integer" | "second" if !is_number => Some("a number".to_owned()),
            "boolean" if !is_flag => Some("1 or 0".to_owned()),
            "select" if !self.choices.is_empty() && !self.choices.iter().any(|choice| choice == value) => {
                Some(format!("one of {}", self.choices.join(", ")))
            }
            _ => None,
        }
    }
}

struct About<'a> {
    host: &'a HostName,
    agent: &'a AgentName,
}

impl About<'_> {
    fn problem(&self, what: &str, hint: &str) -> Finding {
        say::fence_option_invalid(self.host, self.agent, what, hint)
    }
}
