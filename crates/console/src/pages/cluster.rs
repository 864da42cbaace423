//! The cluster: its machines, how its store fares, what it can lose, and in which order it is brought up to date.

use maud::{Markup, html};
use tranche_api::cluster::{ClusterStanding, ClusterView, StoreSeat};
use tranche_core::membership::Role;
use tranche_core::name::{HostName, VmName};
use tranche_core::upgrade::{UpgradePlan, UpgradeStep, UpgradeTurn};

use super::cluster_acts;
use crate::ask::{Answer, Visit};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::facts::Facts;
use crate::parts::finding;
use crate::parts::table::{number, table, text};
use crate::words::{Tone, badge, number as count_of, or_unknown, time};

/// The page.
pub(crate) async fn show(visit: Visit) -> Answer {
    let cluster: ClusterView = visit.get("/v1/cluster").await?;
    let is_member = cluster.standing == ClusterStanding::Member;
    let plan: Option<UpgradePlan> =
        if is_member { visit.find("/v1/cluster/upgrade-plan").await } else { None };
    let body = html! {
        (live("live", html! {
            (of_cluster(&cluster))
            @if !cluster.members.is_empty() { h2 { "Machines" } (machines(&cluster)) }
            @if let Some(plan) = &plan { (upgrade(plan)) }
        }))
        @if is_member { (cluster_acts::forms(&visit, &cluster)) }
        p class="quiet" {
            "A host begins, joins and leaves a cluster, and its records are backed up and restored, with the command on the host itself: "
            code { "tranche cluster init" } ", " code { "join" } ", " code { "leave" } ", " code { "backup" } " and " code { "restore" } "."
        }
    };
    Ok(visit.page(&Page { title: "Cluster", at: "/cluster", above: &[], body }))
}

fn of_cluster(cluster: &ClusterView) -> Markup {
    let (tone, standing) = match cluster.standing {
        ClusterStanding::Alone => (Tone::Off, "stands alone"),
        ClusterStanding::Entering => (Tone::Busy, "is on its way into a cluster"),
        ClusterStanding::Member => (Tone::Good, "is a member"),
        ClusterStanding::Leaving => (Tone::Busy, "is on its way out of its cluster"),
    };
    let survives = (cluster.standing == ClusterStanding::Member).then(|| match cluster.survives {
        0 => badge(Tone::Warn, "no loss of a member of its store"),
        losses => {
            html! { "the loss of " (count_of(losses, "member of its store", "members of its store")) }
        }
    });
    let findings: Vec<_> = cluster.stopped.iter().chain(&cluster.findings).cloned().collect();
    html! {
        (Facts::new()
            .and_if("Cluster", cluster.cluster.clone())
            .and("This host", html! { (cluster.host) " " (badge(tone, standing)) })
            .and_if("Doing", cluster.doing.clone())
            .and_if("Version that rules", cluster.ruling_version.clone())
            .and_if("Survives", survives))
        (finding::list(&findings))
    }
}

fn machines(cluster: &ClusterView) -> Markup {
    let columns = [
        text("Host"),
        text("Address"),
        text("Role"),
        text("Version"),
        text("Joined"),
        text("Store"),
        text("etcd"),
        number("File"),
        number("Used"),
    ];
    let rows = cluster.members.iter().map(|member| {
        let mut row = vec![
            match member.role {
                Role::Host => html! { a href=(links::host(&member.host)) { (member.host) } },
                Role::Witness => html! { (member.host) },
            },
            html! { code { (member.address) } },
            html! { @match member.role { Role::Host => { "host" } Role::Witness => { "witness" } } },
            html! { (member.version) },
            time(member.joined_at),
        ];
        row.extend(of_seat(member.store.as_ref()));
        row
    });
    let elsewhere = cluster.store_elsewhere.iter().map(|(url, seat)| {
        let mut row = vec![html! { code { (url) } }];
        row.extend(of_seat(Some(seat)));
        row
    });
    html! {
        (table("Machines", &columns, rows.collect(), ""))
        @if !cluster.store_elsewhere.is_empty() {
            h2 { "The store" }
            p class="help" { "Somebody else runs it." }
            (table(
                "Members of the store",
                &[text("Address"), text("Store"), text("etcd"), number("File"), number("Used")],
                elsewhere.collect(),
                "",
            ))
        }
    }
}

/// A member of the store: how it fares, its version, its file and what of that is used.
fn of_seat(seat: Option<&StoreSeat>) -> [Markup; 4] {
    let answer = seat.and_then(|seat| seat.answer.as_ref());
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    [
        of_store(seat),
        html! { (or_unknown(answer.map(|answer| &answer.version))) },
        html! { (or_unknown(answer.map(|answer| mib(answer.file_bytes)))) },
        html! { (or_unknown(answer.map(|answer| mib(answer.used_bytes)))) },
    ]
}

/// How a member of the store fares.
fn of_store(seat: Option<&StoreSeat>) -> Markup {
    let Some(seat) = seat else { return badge(Tone::Off, "does not keep it") };
    match &seat.answer {
        None => badge(Tone::Bad, "silent"),
        Some(answer) if answer.corrupt => badge(Tone::Bad, "corrupt"),
        Some(answer) if answer.out_of_space => badge(Tone::Bad, "out of space"),
        Some(_) if seat.learner => badge(Tone::Busy, "catches up"),
        Some(answer) if answer.leads => badge(Tone::Good, "leads"),
        Some(_) => badge(Tone::Good, "follows"),
    }
}

fn upgrade(plan: &UpgradePlan) -> Markup {
    let rows = plan.steps.iter().enumerate().map(|(index, step)| upgrade_step(index + 1, step));
    let columns = [
        text("Step"),
        text("Host"),
        text("Version"),
        text("Why now"),
        text("VMs that move"),
        text("VMs that cannot"),
        text("What to do"),
    ];
    html! {
        h2 { "Bringing it up to date" }
        p class="help" { "One host after the other, so that VMs have somewhere to go and the store keeps its majority: each is well again before the next is begun." }
        @if !plan.feasible {
            p class="state" { (badge(Tone::Warn, "not without stopping VMs")) " Some host cannot be emptied, or one is away." }
        }
        (table("The order in which to bring hosts up to date", &columns, rows.collect(), "There is nothing to bring up to date."))
        @if !plan.done.is_empty() {
            p class="quiet" { "Up to date: " (plan.done.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ")) "." }
        }
    }
}

fn upgrade_step(number: usize, step: &UpgradeStep) -> Vec<Markup> {
    let because = match step.because {
        UpgradeTurn::Away => "it is away: mend it first",
        UpgradeTurn::NoVote => "it has no vote in the store",
        UpgradeTurn::Votes => "it has a vote in the store",
        UpgradeTurn::Leads => "it leads",
    };
    vec![
        html! { (number) },
        html! { a href=(links::host(&step.host)) { (step.host) } },
        html! { (step.version) },
        html! { (because) },
        html! { (step.vms.iter().map(VmName::as_str).collect::<Vec<_>>().join(", ")) },
        html! {
            @for stranded in &step.stranded { div { a href=(links::vm(&stranded.vm)) { (stranded.vm) } ": " (stranded.why.message) } }
        },
        html! { @for command in &step.commands { div { code { (command) } } } },
    ]
}
