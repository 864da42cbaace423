//! Fence settings: what is wrong with them as far as that can be told without the agent.
//!
//! It is refused at the door, so that nobody learns of it only when a host has to be cut. What an agent's own description does not
//! allow, and whether its device answers, shows where the agent is: hosts try that while all is well
//! ([`crate::liveness::Trials`]).
//!
//! Names are compared as agents do: `-` and `_` are one.

use crate::diagnostics as say;
use crate::finding::Finding;
use crate::name::{AgentName, HostName};
use crate::spec::FenceSpec;

/// What a value begins with that names a secret.
pub const SECRET: &str = "secret:";
/// The longest name of a secret.
const SECRET_NAME_LEN_MAX: usize = 64;
/// The most options of one host.
const OPTIONS_MAX: usize = 64;
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
/// Agents that cut a host off from storage or network and leave it running (fence-agents: those whose `on` is automatic).
const FABRIC: [&str; 6] =
    ["fence_brocade", "fence_cisco_mds", "fence_ifmib", "fence_mpath", "fence_sanbox2", "fence_scsi"];

/// Everything that is wrong with how a host is to be fenced.
pub fn problems(host: &HostName, how: &FenceSpec) -> Vec<Finding> {
    let mut problems: Vec<Finding> = problem_with_agent(host, &how.agent).into_iter().collect();
    if how.options.len() > OPTIONS_MAX {
        problems.push(say::fence_options_too_many(host, &how.agent, OPTIONS_MAX));
    }
    let of_option = |(name, value): (&String, &String)| problem_with(host, &how.agent, name, value);
    problems.extend(how.options.iter().filter_map(of_option));
    problems
}

/// What is wrong with an agent, if it is known not to do what is needed.
pub fn problem_with_agent(host: &HostName, agent: &AgentName) -> Option<Finding> {
    FABRIC.contains(&agent.as_str()).then(|| say::fence_agent_of_fabric(host, agent))
}

/// What is wrong with an option, whichever options the agent has.
pub fn problem_with(host: &HostName, agent: &AgentName, name: &str, value: &str) -> Option<Finding> {
    let key = normal(name);
    if !is_plain(name) {
        return Some(say::fence_option_misspelled(host, agent, name));
    }
    if is_ours(&key) {
        return Some(say::fence_option_ours(host, agent, name));
    }
    if is_unsafe(&key) {
        return Some(say::fence_option_unsafe(host, agent, name));
    }
    if CREDULOUS.contains(&key.as_str()) {
        return Some(say::fence_option_credulous(host, agent, name));
    }
    if value.len() > VALUE_LEN_MAX || value.chars().any(char::is_control) {
        return Some(say::fence_value_malformed(host, agent, name, VALUE_LEN_MAX));
    }
    if let Some(secret) = value.strip_prefix(SECRET) {
        return (!is_secret_name(secret)).then(|| say::fence_secret_misnamed(host, agent, name));
    }
    let is_secret = SECRET_WORDS.iter().any(|word| key.contains(word));
    is_secret.then(|| say::fence_secret_in_the_open(host, agent, name))
}

/// Whether an option is given by us, whatever people say.
pub fn is_ours(name: &str) -> bool {
    OURS.contains(&normal(name).as_str())
}

/// Whether people may give an option to an agent that has it.
pub fn may_be_given(name: &str) -> bool {
    let key = normal(name);
    !is_ours(&key) && !is_unsafe(&key) && !CREDULOUS.contains(&key.as_str())
}

/// Whether a text is the name of a secret. It is one of a file, and leads to no other place.
pub fn is_secret_name(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty()
        && text.len() <= SECRET_NAME_LEN_MAX
        && !text.starts_with('.')
        && text.bytes().all(is_name)
}

/// The name of an option as agents compare it.
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn is_unsafe(key: &str) -> bool {
    UNSAFE.contains(&key) || PROGRAMS.iter().any(|end| key.ends_with(end))
}

fn is_plain(name: &str) -> bool {
    let is_plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    !name.is_empty() && name.bytes().all(is_plain)
}
