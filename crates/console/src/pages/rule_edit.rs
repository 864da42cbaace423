//! Making, changing and forgetting a rule about where VMs run.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use maud::{Markup, html};
use serde_json::to_value;
use tranche_core::name::{HostName, RuleName, VmName};
use tranche_core::spec::{Company, PREFERENCE, Rule};

use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Asked, Fields, Posted, wrong};
use crate::layout::Page;
use crate::parts::facts::{Told, differences};
use crate::parts::form::{Deed, Field, Lines, change, hidden, ticked, word};
use crate::parts::nothing;
use crate::proposal::{Beside, Proposal, mended};

const PAGE: &str = "/rules/edit";
const AT: &str = "/rules";
const ABOVE: [(&str, &str); 1] = [(AT, "Rules")];

type Rules = BTreeMap<RuleName, Rule>;

/// The form of a new rule, or of one that there is.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let name: Option<RuleName> = asked.parsed("rule", "Rule").unwrap_or_default();
    let rule: Option<Rule> = match &name {
        Some(name) => Some(visit.get(&format!("/v1/rules/{name}")).await?),
        None => None,
    };
    let known = name.as_ref().zip(rule.as_ref());
    let title = name.as_ref().map_or_else(|| "New rule".to_owned(), |name| format!("Rule {name}"));
    let body = html! {
        @if visit.may("PUT", "/v1/rules/name") {
            (form(&visit, known, &Fields::default()))
        } @else {
            (nothing("Only administrators make and change rules."))
        }
    };
    Ok(visit.page(&Page { title: &title, at: AT, above: &ABOVE, body }))
}

const KINDS: [(&str, &str); 4] = [
    ("hosts", "On these hosts"),
    ("labels", "On hosts with all of these labels"),
    ("together", "Together on one host"),
    ("apart", "Apart: each on another host"),
];

/// A rule as its form has it.
#[derive(Default)]
struct Written {
    kind: &'static str,
    vms: String,
    hosts: String,
    labels: String,
    is_strict: bool,
    failback: bool,
}

impl From<&Rule> for Written {
    fn from(rule: &Rule) -> Self {
        let vms: Vec<&str> = rule.vms().iter().map(VmName::as_str).collect();
        let written = Self { vms: vms.join(", "), is_strict: rule.is_strict(), ..Self::default() };
        match rule {
            Rule::Hosts { hosts, failback, .. } => {
                let hosts: Vec<String> =
                    hosts.iter().map(|(host, priority)| format!("{host}:{priority}")).collect();
                Self { kind: "hosts", hosts: hosts.join(", "), failback: *failback, ..written }
            }
            Rule::Labels { labels, .. } => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                Self { kind: "labels", labels: labels.join(", "), ..written }
            }
            Rule::Vms { kind: Company::Together, .. } => Self { kind: "together", ..written },
            Rule::Vms { kind: Company::Apart, .. } => Self { kind: "apart", ..written },
        }
    }
}

fn form(visit: &Visit, known: Option<(&RuleName, &Rule)>, typed: &Fields) -> Markup {
    let now = known
        .map_or_else(|| Written { kind: "hosts", ..Written::default() }, |(_, rule)| Written::from(rule));
    let rest = known.map_or_else(|| "/v1/rules/name".to_owned(), |(name, _)| format!("/v1/rules/{name}"));
    let content = html! {
        div class="columns" {
            section class="panel" {
                @if let Some((name, _)) = known {
                    (hidden("name", name.as_str()))
                    (hidden("known", "on"))
                } @else {
                    (Field { name: "name", label: "Name", value: typed.or("name", ""), help: "Letters, digits, \u{2018}.\u{2019}, \u{2018}_\u{2019} and \u{2018}-\u{2019}.", ..Field::default() })
                }
                (Lines { name: "vms", label: "VMs", value: typed.or("vms", &now.vms), help: "Their names, with commas or lines between them.", ..Lines::default() })
                (word(typed, ("kind", "They run"), &KINDS, now.kind, ""))
                (ticked("strict", "Strict", "They wait rather than break the rule. Else it is a preference.", typed.is_on_or("strict", now.is_strict)))
            }
            section class="panel" {
                h2 { "For hosts" }
                (Lines { name: "hosts", label: "Hosts", value: typed.or("hosts", &now.hosts), is_optional: true, help: "Each as host or host:priority, with commas or lines between them. A higher priority, 1 to 1000, is a better host; 100 if left out." })
                (ticked("failback", "Move back", "A VM that runs moves when a host of higher priority has room again.", typed.is_on_or("failback", now.failback)))
                h2 { "For labels" }
                (Lines { name: "labels", label: "Labels", value: typed.or("labels", &now.labels), is_optional: true, help: "Each as key=value, such as rack=4, with commas or lines between them. Hosts get them on their own pages." })
            }
        }
        div class="buttons" { button class="main" { "Preview" } a class="button" href=(AT) { "Cancel" } }
    };
    change(visit, Deed { action: PAGE, method: "PUT", rest: &rest }, content)
}

fn wish(fields: &Fields) -> Result<(RuleName, Rule), Trouble> {
    let name = fields.needed("name", "Name")?;
    let vms: BTreeSet<VmName> = fields.several("vms", "VMs")?.into_iter().collect();
    let strict = fields.is_on("strict");
    let kind: String = fields.needed("kind", "They run")?;
    let rule = match kind.as_str() {
        "hosts" => Rule::Hosts { vms, hosts: hosts(fields)?, strict, failback: fields.is_on("failback") },
        "labels" => {
            let labels = fields.pairs("labels", "Labels")?.into_iter().collect();
            Rule::Labels { vms, labels, strict }
        }
        "together" => Rule::Vms { vms, kind: Company::Together, strict },
        "apart" => Rule::Vms { vms, kind: Company::Apart, strict },
        other => return Err(wrong("They run", other)),
    };
    Ok((name, rule))
}

fn hosts(fields: &Fields) -> Result<BTreeMap<HostName, u16>, Trouble> {
    let host = |item: &str| {
        let (host, priority) = match item.split_once(':') {
            Some((host, priority)) => (host, priority.parse().ok()?),
            None => (item, PREFERENCE),
        };
        Some((host.parse().ok()?, priority))
    };
    fields.items("hosts").map(|item| host(item).ok_or_else(|| wrong("Hosts", item))).collect()
}

fn told(rule: &Rule) -> Told {
    let vms: Vec<&str> = rule.vms().iter().map(VmName::as_str).collect();
    let kept = if rule.is_strict() { "strict" } else { "a preference" };
    vec![("VMs", vms.join(", ")), ("They run", rule.to_string()), ("It is", kept.to_owned())]
}

/// Shows what a rule would do, or makes it.
pub(crate) async fn set(visit: Visit, Posted(fields): Posted) -> Answer {
    let rules: Rules = visit.get("/v1/rules").await?;
    let wished = wish(&fields);
    // Only one that was opened keeps its name; that of a new one can be mended.
    let opened: Option<RuleName> =
        if fields.is_on("known") { fields.parsed("name", "Name").unwrap_or_default() } else { None };
    let known = opened.as_ref().and_then(|name| rules.get_key_value(name));
    let form = form(&visit, known, &fields);
    let (name, rule) = match wished {
        Ok(wished) => wished,
        Err(trouble) => {
            let page = Page { title: "Set a rule", at: AT, above: &ABOVE, body: form };
            return Ok(mended(&visit, page, &trouble));
        }
    };
    let now = rules.get(&name).map(told).unwrap_or_default();
    let what = if now.is_empty() { "New" } else { "Change" };
    let proposal = Proposal {
        title: format!("{what} rule {name}"),
        button: "Set it",
        is_grave: false,
        back: ABOVE[0],
        at: AT,
        then: Some(AT.to_owned()),
        otherwise: None,
        method: Method::PUT,
        path: format!("/v1/rules/{name}"),
        body: to_value(&rule).ok(),
    };
    let beside = Beside { differences: differences(&now, &told(&rule)), form: Some(form) };
    proposal.answer_beside(&visit, &fields, &beside).await
}

/// Shows what would follow if a rule were forgotten, or forgets it.
pub(crate) async fn delete(visit: Visit, Posted(fields): Posted) -> Answer {
    let name: RuleName = fields.needed("name", "Name")?;
    let proposal = Proposal {
        title: format!("Delete rule {name}"),
        button: "Delete it",
        is_grave: true,
        back: ABOVE[0],
        at: AT,
        then: Some(AT.to_owned()),
        otherwise: None,
        method: Method::DELETE,
        path: format!("/v1/rules/{name}"),
        body: None,
    };
    proposal.answer(&visit, &fields).await
}
