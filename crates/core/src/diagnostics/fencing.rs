//! Findings about how hosts are fenced.

use super::{error, warning};
use crate::finding::{Code, Finding, Subject};
use crate::name::{AgentName, HostName};

/// An agent cannot do what fencing needs.
pub fn fence_agent_unusable(host: &HostName, agent: &AgentName, reason: &str) -> Finding {
    let message = format!("Fence agent {agent} for host {host} cannot be used: it {reason}.");
    let hint = "Use an agent that turns the power off and can tell that it is off: fence_ipmilan, fence_redfish, fence_virsh.";
    error(Code::FenceAgentUnusable, Subject::Host(host.clone()), message, hint)
}

/// An agent leaves the host running.
pub fn fence_agent_of_fabric(host: &HostName, agent: &AgentName) -> Finding {
    fence_agent_unusable(host, agent, "cuts a host off from storage or network and leaves its VMs running")
}

/// Something is wrong with an option of an agent. `what` goes on behind the agent's name.
pub fn fence_option_invalid(
    host: &HostName,
    agent: &AgentName,
    what: &str,
    hint: impl Into<String>,
) -> Finding {
    let message = format!("Fence agent {agent} for host {host} {what}.");
    error(Code::FenceOptionInvalid, Subject::Host(host.clone()), message, hint)
}

/// There are too many options.
pub fn fence_options_too_many(host: &HostName, agent: &AgentName, most: usize) -> Finding {
    fence_option_invalid(host, agent, "is given too many options", format!("Give {most} at most."))
}

/// No option can be called that.
pub fn fence_option_misspelled(host: &HostName, agent: &AgentName, name: &str) -> Finding {
    let hint =
        "Names of options are lower-case letters, digits, '_' and '-', as the agent's manual page has them.";
    fence_option_invalid(host, agent, &format!("has no option {name:?}"), hint)
}

/// An option is not for people to give.
pub fn fence_option_ours(host: &HostName, agent: &AgentName, name: &str) -> Finding {
    let hint = "Leave it out: what an agent is asked for is decided when it is asked.";
    fence_option_invalid(host, agent, &format!("is not given the option {name} by hand"), hint)
}

/// An option has the agent do more than to fence.
pub fn fence_option_unsafe(host: &HostName, agent: &AgentName, name: &str) -> Finding {
    let hint = "It would have the agent run other programs, write files or tell secrets, as root.";
    fence_option_invalid(host, agent, &format!("is not given the option {name}"), hint)
}

/// An option has the agent believe what it has not seen.
pub fn fence_option_credulous(host: &HostName, agent: &AgentName, name: &str) -> Finding {
    let hint = "A machine that is not found may run all the same, under another name.";
    fence_option_invalid(host, agent, &format!("is not given the option {name}"), hint)
}

/// A value cannot be told to an agent.
pub fn fence_value_malformed(host: &HostName, agent: &AgentName, name: &str, len_max: usize) -> Finding {
    let hint = format!("A value is one line of at most {len_max} bytes.");
    fence_option_invalid(host, agent, &format!("cannot be given that value for {name}"), hint)
}

/// A secret would be stored where everybody reads it.
pub fn fence_secret_in_the_open(host: &HostName, agent: &AgentName, name: &str) -> Finding {
    let hint =
        format!("Put it into a file in /etc/tranche/secrets on every host and say '{name}=secret:NAME'.");
    fence_option_invalid(host, agent, &format!("is not given {name} in the open"), hint)
}

/// No secret can be called that.
pub fn fence_secret_misnamed(host: &HostName, agent: &AgentName, name: &str) -> Finding {
    let hint = "A secret is named by a file in /etc/tranche/secrets: letters, digits, '.', '_' and '-', not beginning with '.'.";
    fence_option_invalid(host, agent, &format!("is given the name of no secret for {name}"), hint)
}

/// Options are to change, and there is no agent that they are for.
pub fn fence_agent_left_out(host: &HostName) -> Finding {
    let message =
        format!("Host {host} has no fence agent, and none is named; so there is nothing that can change.");
    let hint = format!("Name one: tranche host set {host} --fence-agent AGENT --fence-option NAME=VALUE.");
    error(Code::FenceOptionInvalid, Subject::Host(host.clone()), message, hint)
}

/// What a host found out that tried how others are fenced. `others` are those of which it is true as well.
pub fn fence_trial(by: &HostName, found: &Finding, others: &[&HostName]) -> Finding {
    let also = match others {
        [] => String::new(),
        others => format!(" So it is for {}.", super::list(others)),
    };
    let message = format!("Tried on host {by}: {}{also}", found.message);
    warning(found.code, Subject::Host(by.clone()), message, found.hint.clone())
}
