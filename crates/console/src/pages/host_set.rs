//! What a host is told apart by, how its power is cut, and what it keeps for itself.
//!
//! Options of a fence agent are set here and never shown: what there is of them is not known to the console, and a secret that somebody
//! writes out by mistake is not repeated.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::to_value;
use tranche_api::secret::is_secret;
use tranche_api::view::{HostView, MemberView};
use tranche_core::fence::SECRET;
use tranche_core::label;
use tranche_core::name::{AgentName, HostName, LabelKey, LabelValue};
use tranche_core::spec::{FencePart, HostPart};

use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Fields, changed, wrong};
use crate::layout::Page;
use crate::links;
use crate::parts::facts::{Told, differences};
use crate::parts::form::{Deed, Field, Lines, change, number, was, word};
use crate::proposal::{Beside, Proposal, mended};
use crate::words::size;

/// What can be set of a host, as far as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Settings {
    labels: BTreeMap<LabelKey, LabelValue>,
    agent: Option<AgentName>,
    leave_off: bool,
    reserved_memory_mib: u64,
}

impl From<&MemberView> for Settings {
    fn from(member: &MemberView) -> Self {
        Self {
            labels: member.labels.clone(),
            agent: member.agent.clone(),
            leave_off: member.leave_off,
            reserved_memory_mib: member.reserved_memory_mib,
        }
    }
}

impl Settings {
    fn with(mut self, part: &HostPart) -> Self {
        self.labels = label::over(&part.labels, &self.labels);
        match &part.fence {
            None => {}
            Some(None) => (self.agent, self.leave_off) = (None, false),
            Some(Some(fence)) => {
                self.agent = fence.agent.clone().or(self.agent);
                self.leave_off = fence.leave_off.unwrap_or(self.leave_off);
            }
        }
        self.reserved_memory_mib = part.reserved_memory_mib.unwrap_or(self.reserved_memory_mib);
        self
    }

    fn told(&self) -> Told {
        let agent = self.agent.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        let then = if self.leave_off { "it stays off" } else { "it is turned on again" };
        let labels = label::text(&self.labels, ", ");
        vec![
            ("Labels", if labels.is_empty() { "none".to_owned() } else { labels }),
            ("Memory kept for the host", size(self.reserved_memory_mib)),
            ("Fence agent", agent),
            ("After its power was cut", then.to_owned()),
        ]
    }
}

const LEAVE_OFF: [(&str, &str); 2] =
    [("false", "The agent turns it on again"), ("true", "It stays off until somebody turns it on")];

/// The form on the page of a host that is a member of a cluster.
pub(super) fn form(visit: &Visit, host: &HostView, typed: &Fields) -> Markup {
    let Some(member) = &host.member else { return html! {} };
    let (page, rest) = (format!("{}/set", links::host(&host.name)), format!("/v1/hosts/{}", host.name));
    let now = Settings::from(member);
    let agent = now.agent.as_ref().map(ToString::to_string).unwrap_or_default();
    let labels = label::text(&now.labels, "\n");
    let leave_off = if now.leave_off { "true" } else { "false" };
    let options = unsecret(typed.or("options", ""));
    let content = html! {
        (was(typed, &now))
        h2 { "Change its settings" }
        div class="columns" {
            div {
                (Lines { name: "labels", label: "Labels", value: typed.or("labels", &labels), is_optional: true, help: "Each as key=value, such as rack=4, on a line of its own. Rules ask for them. Those that are not here are taken away." })
                (number(typed, "reserved_memory_mib", "Memory kept for the host in MiB", now.reserved_memory_mib, "VMs leave it to the host itself."))
            }
            div {
                (Field { name: "agent", label: "Fence agent", value: typed.or("agent", &agent), is_optional: true, help: "Cuts its power, such as fence_ipmilan. Without one there is only its own watchdog.", ..Field::default() })
                (Lines { name: "options", label: "Options of the agent", value: &options, is_optional: true, help: "Each as name=value on a line of its own, as its manual page names it. Those that are not here stay as they are, but none stays of another agent; one without a value is taken away. A secret is a file in /etc/tranche/secrets of every host, and named: password=secret:NAME." })
                (word(typed, ("leave_off", "After its power was cut"), &LEAVE_OFF, leave_off, ""))
            }
        }
        div class="buttons" { button class="main" { "Preview the change" } }
    };
    html! { div class="panel change" { (change(visit, Deed { action: &page, method: "PATCH", rest: &rest }, content)) } }
}

/// Whether an option would carry a secret in the open.
fn is_in_the_open(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let is_meant =
        is_secret(&name) || ["passw", "hexadecimal_kg", "community"].iter().any(|word| name.contains(word));
    // Programs that tell a password are refused by their own name.
    is_meant && !value.is_empty() && !value.starts_with(SECRET) && !name.ends_with("_script")
}

/// Options without the secrets that were written out.
fn unsecret(options: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some((name, value)) if is_in_the_open(name.trim(), value.trim()) => {
            format!("{}={SECRET}", name.trim())
        }
        _ => line.trim_end().to_owned(),
    };
    options.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn options(fields: &Fields) -> Result<BTreeMap<String, Option<String>>, Trouble> {
    let lines = fields.get("options").unwrap_or_default().lines().map(str::trim);
    let option = |line: &str| {
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("Options of the agent", line))?;
        let (name, value) = (name.trim(), value.trim());
        if is_in_the_open(name, value) {
            let message = format!("The option {} is a secret, and is not stored in the open.", short(name));
            let hint = format!(
                "Put it into a file in /etc/tranche/secrets on every host and write {}=secret:NAME.",
                short(name)
            );
            return Err(Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, &message, &hint));
        }
        Ok((name.to_owned(), (!value.is_empty()).then(|| value.to_owned())))
    };
    lines.filter(|line| !line.is_empty()).map(option).collect()
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

/// What somebody changed in how its power is cut.
fn fence(fields: &Fields, was: &Settings) -> Result<Option<Option<FencePart>>, Trouble> {
    let (agent, options) = (fields.parsed::<AgentName>("agent", "Fence agent")?, options(fields)?);
    let leave_off = changed(fields.parsed("leave_off", "After its power was cut")?, was.leave_off);
    let Some(agent) = agent else {
        if !options.is_empty() {
            let message = "There are options, and no fence agent that they are for.";
            return Err(Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, message, "Name the agent."));
        }
        return Ok(was.agent.is_some().then_some(None));
    };
    let part = FencePart { agent: (was.agent.as_ref() != Some(&agent)).then_some(agent), options, leave_off };
    Ok((part != FencePart::default()).then_some(Some(part)))
}

fn part(fields: &Fields, was: &Settings) -> Result<HostPart, Trouble> {
    let typed: BTreeMap<LabelKey, LabelValue> = fields.pairs("labels", "Labels")?.into_iter().collect();
    let memory = fields.parsed("reserved_memory_mib", "Memory kept for the host in MiB")?;
    Ok(HostPart {
        labels: label::between(&was.labels, &typed),
        fence: fence(fields, was)?,
        reserved_memory_mib: changed(memory, was.reserved_memory_mib),
    })
}

/// Shows what would be otherwise, or sets it.
pub(super) async fn set(visit: &Visit, name: &HostName, fields: &Fields) -> Answer {
    let page = links::host(name);
    let host: HostView = visit.get(&format!("/v1/hosts/{name}")).await?;
    let Some(member) = &host.member else { return Err(Trouble::nothing_at(&format!("{page}/set"))) };
    let (now, form) = (Settings::from(member), form(visit, &host, fields));
    let title = format!("Change {name}");
    let part = match part(fields, &fields.was(now.clone())) {
        Ok(part) => part,
        Err(trouble) => {
            let above = [(page.as_str(), name.as_str())];
            let page = Page { title: &title, at: "/hosts", above: &above, body: form };
            return Ok(mended(visit, page, &trouble));
        }
    };
    let mut then = now.clone().with(&part).told();
    // Those that there are already are not known here.
    let options: Vec<String> = match &part.fence {
        Some(Some(fence)) => fence.options.iter().map(option_text).collect(),
        _ => Vec::new(),
    };
    if !options.is_empty() {
        then.push(("Options of the agent", options.join(", ")));
    }
    let differences = differences(&now.told(), &then);
    let proposal = Proposal {
        title,
        button: "Change it",
        is_grave: false,
        back: (&page, name.as_str()),
        at: "/hosts",
        then: Some(page.clone()),
        otherwise: None,
        method: Method::PATCH,
        path: format!("/v1/hosts/{name}"),
        body: to_value(&part).ok(),
    };
    proposal.answer_beside(visit, fields, &Beside { differences, form: Some(form) }).await
}

fn option_text((name, value): (&String, &Option<String>)) -> String {
    value.as_ref().map_or_else(|| format!("{name} taken away"), |value| format!("{name}={value}"))
}
