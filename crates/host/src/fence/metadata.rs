//! What an agent says of itself, and what is wrong with options for it.
//!
//! The form is that of resource agents (FenceAgentAPI.md, "metadata"). Names are compared as agents do: `-` and `_` are
//! one, and a parameter stands for the one that it obsoletes.

use std::collections::BTreeMap;

use tranche_core::finding::{Code, Finding};
use tranche_core::name::{AgentName, HostName};
use tranche_core::spec::FenceSpec;

use super::{problem, secret};

/// The longest value of an option, in bytes.
const VALUE_LEN_MAX: usize = 1024;
/// Options that are given by us.
const OURS: [&str; 5] = ["action", "option", "nodename", "help", "version"];
/// How options end that name programs for the agent to run.
const PROGRAMS: [&str; 2] = ["_path", "_script"];
/// Options that have the agent run or write what they say, or tell what it sends.
const UNSAFE: [&str; 5] = ["ssh_options", "debug", "debug_file", "verbose", "verbose_level"];
/// Options that have the agent call a machine off that it has not seen.
const CREDULOUS: [&str; 1] = ["missing_as_off"];
/// What is in the names of options that are secret.
const SECRET_WORDS: [&str; 3] = ["passw", "hexadecimal_kg", "community"];

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
        let message = format!("Fence agent {agent} for host {host} cannot be used: it {reason}.");
        let hint = "Use an agent that turns the power off and can tell that it is off: fence_ipmilan, fence_redfish, fence_virsh.";
        Err(problem(host, Code::FenceAgentUnusable, message, hint))
    }

    /// What is wrong with the options for a host.
    pub(super) fn problems(&self, host: &HostName, how: &FenceSpec) -> Vec<Finding> {
        let about = About { host, agent: &how.agent };
        let mut problems: Vec<Finding> =
            how.options.iter().filter_map(|(name, value)| self.problem_with(&about, name, value)).collect();
        let given: Vec<String> = how.options.keys().map(|name| normal(name)).collect();
        let is_given = |name: &String| given.contains(name);
        for (name, parameter) in &self.parameters {
            let is_ours = OURS.contains(&name.as_str());
            let stands_in = parameter.obsoletes.as_ref().is_some_and(is_given);
            if parameter.required && !parameter.deprecated && !is_ours && !is_given(name) && !stands_in {
                let hint = format!("Give '{name}'; 'man {}' tells what it is.", how.agent);
                problems.push(about.problem(&format!("needs the option {name}"), &hint));
            }
        }
        problems
    }

    fn problem_with(&self, about: &About<'_>, name: &str, value: &str) -> Option<Finding> {
        let key = normal(name);
        if OURS.contains(&key.as_str()) {
            let hint = "Leave it out: what an agent is asked for is decided when it is asked.";
            return Some(about.problem(&format!("is not given the option {name} by hand"), hint));
        }
        if UNSAFE.contains(&key.as_str()) || PROGRAMS.iter().any(|end| key.ends_with(end)) {
            let hint = "It would have the agent run other programs, write files or tell secrets, as root.";
            return Some(about.problem(&format!("is not given the option {name}"), hint));
        }
        if CREDULOUS.contains(&key.as_str()) {
            let hint = "A machine that is not found may run all the same, under another name.";
            return Some(about.problem(&format!("is not given the option {name}"), hint));
        }
        let Some(parameter) = self.parameters.get(&key).filter(|_| is_plain(name)) else {
            let shown: Vec<&str> = self.current().collect();
            let hint = format!("It has these: {}.", shown.join(", "));
            return Some(about.problem(&format!("has no option {name:?}"), &hint));
        };
        if value.len() > VALUE_LEN_MAX || value.chars().any(char::is_control) {
            let hint = format!("A value is one line of at most {VALUE_LEN_MAX} bytes.");
            return Some(about.problem(&format!("cannot be given that value for {name}"), &hint));
        }
        if value.starts_with(secret::REFERENCE) {
            return None;
        }
        if SECRET_WORDS.iter().any(|word| key.contains(word)) {
            let hint = format!(
                "Put it into a file in /etc/tranche/secrets on every host and say '{name}=secret:NAME'."
            );
            return Some(about.problem(&format!("is not given {name} in the open"), &hint));
        }
        let takes = parameter.refuses(value)?;
        Some(about.problem(&format!("takes no {value:?} for {name}"), &format!("Give {takes}.")))
    }

    /// The options that one would use today.
    fn current(&self) -> impl Iterator<Item = &str> {
        let is_shown = |(name, parameter): &(&String, &Parameter)| {
            !parameter.deprecated && !OURS.contains(&name.as_str()) && !UNSAFE.contains(&name.as_str())
        };
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
        let message = format!("Fence agent {} for host {} {what}.", self.agent, self.host);
        *problem(self.host, Code::FenceOptionInvalid, message, hint)
    }
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'))
}
