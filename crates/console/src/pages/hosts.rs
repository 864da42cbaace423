//! All hosts.

use maud::html;
use tranche_api::view::{HostView, LibvirtView};
use tranche_core::inventory::Iommu;

use crate::ask::{Answer, Visit};
use crate::fields::Asked;
use crate::layout::{Page, live};
use crate::links;
use crate::parts::meter;
use crate::parts::paging::{Paged, ROWS_PER_PAGE};
use crate::parts::table::{number, table, text};
use crate::words::{Tone, badge, guard, host_state, number as count_of, size, time, unknown};

/// The list.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let hosts: Vec<HostView> = visit.get("/v1/hosts").await?;
    let all = hosts.len();
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
            p class="quiet" { (count_of(all, "host", "hosts")) }
            (table("Hosts", &columns, rows.collect(), "No host has reported yet."))
            (paged.links("/hosts", &asked))
        },
    );
    Ok(visit.page(&Page { title: "Hosts", at: "/hosts", above: &[], body }))
}
