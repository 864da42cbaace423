//! How much is done to keep a VM running, and what is kept for it: in words, as fields, and what somebody changed in them.
//!
//! It can be changed at any time; the VM is not restarted for it.

use axum::http::Method;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::to_value;
use tranche_api::view::VmView;
use tranche_core::journey::Migration;
use tranche_core::label::{self, Labels, LabelsPart};
use tranche_core::name::VmName;
use tranche_core::spec::{Availability, AvailabilityPart, Failover, RestartsPart, VmPart};

use super::policy::pace;
use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Fields, changed};
use crate::layout::Page;
use crate::links;
use crate::parts::facts::{Told, differences};
use crate::parts::form::{Deed, Lines, change, limit, number, was, word};
use crate::proposal::{Beside, Proposal, mended};

/// What can be changed of a VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    labels: Labels,
    reserved: bool,
    prefer_numa_node: Option<u16>,
    availability: Availability,
}

impl From<&VmView> for Kept {
    fn from(vm: &VmView) -> Self {
        let VmView { labels, reserved, prefer_numa_node, availability, .. } = vm;
        Self {
            labels: labels.clone(),
            reserved: *reserved,
            prefer_numa_node: *prefer_numa_node,
            availability: *availability,
        }
    }
}

impl Kept {
    fn with(&self, part: &VmPart) -> Self {
        Self {
            labels: label::over(&part.labels, &self.labels),
            reserved: part.reserved.unwrap_or(self.reserved),
            prefer_numa_node: part.prefer_numa_node.unwrap_or(self.prefer_numa_node),
            availability: part.availability.over(self.availability),
        }
    }

    fn told(&self) -> Told {
        let node = self.prefer_numa_node.map_or_else(|| "none".to_owned(), |node| node.to_string());
        let mut told = told(&self.availability);
        told.push(("Keeps it while it is off", if self.reserved { "yes" } else { "no" }.to_owned()));
        told.push(("Prefers NUMA node", node));
        let labels = label::text(&self.labels, ", ");
        told.push(("Labels", if labels.is_empty() { "none".to_owned() } else { labels }));
        told
    }
}

/// What is said of how much is done to keep a VM running.
pub(super) fn told(wish: &Availability) -> Told {
    let failover = match wish.failover {
        Failover::Restart => "starts on another host",
        Failover::Stay => "waits for its host",
    };
    let migration = match wish.migration {
        Migration::LiveOrRestart => "while it runs if possible, else by a restart",
        Migration::LiveOnly => "while it runs, or not at all",
        Migration::Restart => "always by a restart",
    };
    let (local, elsewhere) = (wish.restarts.local, wish.restarts.elsewhere);
    let limit = |limit: Option<u32>, unit: &str| {
        limit.map_or_else(|| "as for all VMs".to_owned(), |limit| format!("{limit} {unit}"))
    };
    vec![
        ("If its host dies", failover.to_owned()),
        ("Priority", wish.priority.to_string()),
        ("If it falls over", format!("started again {local} times there, then on {elsewhere} other hosts")),
        ("Goes to another host", migration.to_owned()),
        ("Longest pause on the way", limit(wish.pace.pause_ms, "ms")),
        ("Bandwidth on the way", limit(wish.pace.bandwidth_mib_s, "MiB/s")),
    ]
}

const FAILOVER: [(&str, &str); 2] =
    [("restart", "Start it on another host"), ("stay", "Let it wait for its host")];
const MIGRATION: [(&str, &str); 3] = [
    ("live_or_restart", "While it runs if possible, else by a restart"),
    ("live_only", "While it runs, or not at all"),
    ("restart", "Always by a restart"),
];
const RESERVED: [(&str, &str); 2] = [("true", "Yes"), ("false", "No")];

/// The fields of how much is done to keep a VM running.
pub(super) fn fields(typed: &Fields, now: &Availability) -> Markup {
    html! {
        (word(typed, ("failover", "If its host dies"), &FAILOVER, now.failover, ""))
        (number(typed, "priority", "Priority", now.priority, "0 to 1000. The higher is served first when there is not room for all."))
        (number(typed, "restarts", "Restarts on one host", now.restarts.local, "How often it is started again there after it crashed or could not be started."))
        (number(typed, "restarts_elsewhere", "Other hosts after that", now.restarts.elsewhere, "On how many others it is tried before it is given up."))
        (word(typed, ("migration", "How it goes to another host"), &MIGRATION, now.migration, ""))
        (limit(typed, "pause_ms", "Longest pause in ms", now.pace.pause_ms, "For how long its guest may stand still on the way; as for all VMs if left empty."))
        (limit(typed, "bandwidth_mib_s", "Bandwidth in MiB/s", now.pace.bandwidth_mib_s, "How much it may send on the way; as for all VMs if left empty."))
    }
}

/// What somebody changed in those fields.
///
/// # Errors
/// One of them is wrong.
pub(super) fn part(typed: &Fields, was: &Availability) -> Result<AvailabilityPart, Trouble> {
    let restarts = RestartsPart {
        local: changed(typed.parsed("restarts", "Restarts on one host")?, was.restarts.local),
        elsewhere: changed(
            typed.parsed("restarts_elsewhere", "Other hosts after that")?,
            was.restarts.elsewhere,
        ),
    };
    Ok(AvailabilityPart {
        priority: changed(typed.parsed("priority", "Priority")?, was.priority),
        failover: changed(typed.word("failover", "If its host dies")?, was.failover),
        restarts,
        migration: changed(typed.word("migration", "How it goes to another host")?, was.migration),
        pace: pace(typed, was.pace)?,
    })
}

/// The form on the page of a VM.
pub(super) fn form(visit: &Visit, vm: &VmView, typed: &Fields) -> Markup {
    let (page, rest) = (format!("{}/set", links::vm(&vm.name)), format!("/v1/vms/{}", vm.name));
    let kept = Kept::from(vm);
    let reserved = if kept.reserved { "true" } else { "false" };
    let content = html! {
        (was(typed, &kept))
        h2 { "Change how much is done for it, and its labels" }
        p class="help" { "It is not restarted for that." }
        div class="columns" {
            div { (fields(typed, &kept.availability)) }
            div {
                (word(typed, ("reserved", "Keep its partition while it is off"), &RESERVED, reserved, ""))
                (limit(typed, "numa_node", "Preferred NUMA node", kept.prefer_numa_node, "It is given a GPU of this node if one is free, from its next start on."))
                (labels_field(typed, &kept.labels))
            }
        }
        div class="buttons" { button class="main" { "Preview the change" } }
    };
    html! { div class="panel change" { (change(visit, Deed { action: &page, method: "PATCH", rest: &rest }, content)) } }
}

/// The field of labels.
pub(super) fn labels_field(typed: &Fields, now: &Labels) -> Markup {
    let labels = label::text(now, "\n");
    html! {
        (Lines { name: "labels", label: "Labels", value: typed.or("labels", &labels), is_optional: true, help: "Each as key=value, such as team=red, on a line of its own. VMs are found by them, and people may be limited to those of one." })
    }
}

/// The labels in that field.
///
/// # Errors
/// A line is none.
pub(super) fn labels_of(typed: &Fields) -> Result<Labels, Trouble> {
    Ok(typed.pairs("labels", "Labels")?.into_iter().collect())
}

fn vm_part(typed: &Fields, was: &Kept) -> Result<VmPart, Trouble> {
    let node = typed.parsed("numa_node", "Preferred NUMA node")?;
    let is_other_node = typed.raw("numa_node").is_some() && node != was.prefer_numa_node;
    let typed_labels = labels_of(typed)?;
    Ok(VmPart {
        labels: if typed.raw("labels").is_some() {
            label::between(&was.labels, &typed_labels)
        } else {
            LabelsPart::new()
        },
        reserved: changed(typed.parsed("reserved", "Keep its partition while it is off")?, was.reserved),
        prefer_numa_node: is_other_node.then_some(node),
        availability: part(typed, &was.availability)?,
    })
}

/// Shows what would be otherwise, or changes it.
pub(super) async fn set(visit: &Visit, name: &VmName, fields: &Fields) -> Answer {
    let vm: VmView = visit.get(&format!("/v1/vms/{name}")).await?;
    let (kept, page, form) = (Kept::from(&vm), links::vm(name), form(visit, &vm, fields));
    let title = format!("Change {name}");
    let part = match vm_part(fields, &fields.was(kept.clone())) {
        Ok(part) => part,
        Err(trouble) => {
            let above = [(page.as_str(), name.as_str())];
            let page = Page { title: &title, at: "/vms", above: &above, body: form };
            return Ok(mended(visit, page, &trouble));
        }
    };
    let differences = differences(&kept.told(), &kept.with(&part).told());
    let proposal = Proposal {
        title,
        button: "Change it",
        is_grave: false,
        back: (&page, name.as_str()),
        at: "/vms",
        then: Some(page.clone()),
        otherwise: None,
        method: Method::PATCH,
        path: format!("/v1/vms/{name}"),
        body: to_value(part).ok(),
    };
    proposal.answer_beside(visit, fields, &Beside { differences, form: Some(form) }).await
}
