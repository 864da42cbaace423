//! All hosts, and whether anything follows when one dies.

use axum::http::Method;
use maud::{Markup, html};
use serde_json::json;
use tranche_api::view::{HostView, LibvirtView};
use tranche_core::inventory::Iommu;
use tranche_core::spec::Policy;

use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Asked, Named, Posted};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::form::{Deed, button};
use crate::parts::paging::{Paged, ROWS_PER_PAGE};
use crate::parts::table::{number, table, text};
use crate::parts::{meter, operation};
use crate::proposal::Proposal;
use crate::words::{Tone, badge, guard, host_state, number as count_of, size, time, unknown};

/// The list.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let hosts: Vec<HostView> = visit.get("/v1/hosts").await?;
    let policy: Option<Policy> =
        if visit.may("GET", "/v1/policy") { Some(visit.get("/v1/policy").await?) } else { None };
    let all = hosts.len();
    // A host that stands alone has nobody who could start its VMs.
    let is_cluster = hosts.iter().any(|host| host.member.is_some());
    let paged = Paged::of(hosts, &asked, ROWS_PER_PAGE);
    let columns = [
        text("Host"),
        text("State"),
        number("GPUs"),
        text("Partitions free"),
        number("VMs running"),
        number("Memory"),
        text("IOMMU"),
        text("libvirt"),
        text("Watchdog"),
        text("Last report"),
        number("Findings"),
    ];
    let rows = paged.rows.iter().map(|host| {
        vec![
            html! { a href=(links::host(&host.name)) { (host.name) } },
            host_state(host),
            html! { (host.gpus) },
            html! {
                (host.partitions_free) " of " (host.partitions) " "
                (meter("Partitions used", host.partitions.saturating_sub(host.partitions_free), host.partitions))
            },
            html! { (host.vms_running) " of " (host.vms) },
            html! { (size(host.memory_mib)) },
            match host.iommu { Iommu::Off => badge(Tone::Bad, "off"), Iommu::On { .. } => badge(Tone::Good, "on") },
            match &host.libvirt {
                LibvirtView::Up { libvirt, .. } => html! { (libvirt) },
                LibvirtView::Down { .. } => badge(Tone::Bad, "down"),
            },
            host.member.as_ref().map_or_else(|| html! { (unknown()) }, |member| guard(member.guard)),
            time(host.observed_at),
            html! { (host.findings.len()) },
        ]
    });
    let body = live(
        "live",
        html! {
            (operation::notice(&visit, &asked).await)
            @if let Some(policy) = policy.filter(|_| is_cluster) { (of_failover(&visit, policy.failover.paused)) }
            p class="quiet" { (count_of(all, "host", "hosts")) }
            (table("Hosts", &columns, rows.collect(), "No host has reported yet."))
            (paged.links("/hosts", &asked))
        },
    );
    Ok(visit.page(&Page { title: "Hosts", at: "/hosts", above: &[], body }))
}

fn of_failover(visit: &Visit, is_paused: bool) -> Markup {
    let act = |act: &str, label| {
        let (action, rest) = (format!("/failover/{act}"), format!("/v1/failover/{act}"));
        button(visit, Deed { action: &action, method: "POST", rest: &rest }, label, "")
    };
    html! {
        div class="state" {
            @if is_paused {
                (badge(Tone::Warn, "failover paused")) span { "Nothing follows when a host dies, and no watchdog resets one." }
                (act("resume", "Resume failover"))
            } @else {
                (badge(Tone::Good, "failover on"))
                (act("pause", "Pause failover"))
            }
        }
    }
}

/// Shows what pausing or resuming failover would do, or does it.
pub(crate) async fn failover(visit: Visit, Named(act): Named<String>, Posted(fields): Posted) -> Answer {
    let (title, button) = match act.as_str() {
        "pause" => ("Pause failover: nothing follows when a host dies", "Pause it"),
        "resume" => ("Resume failover", "Resume it"),
        _ => return Err(Trouble::nothing_at(&format!("/failover/{act}"))),
    };
    let proposal = Proposal {
        title: title.to_owned(),
        button,
        is_grave: act == "pause",
        back: ("/hosts", "Hosts"),
        at: "/hosts",
        then: Some("/hosts".to_owned()),
        otherwise: None,
        method: Method::POST,
        path: format!("/v1/failover/{act}"),
        body: Some(json!({})),
    };
    proposal.answer(&visit, &fields).await
}
