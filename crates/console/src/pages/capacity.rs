//! What could start now, and what would follow if hosts died.

use std::collections::BTreeSet;

use maud::{Markup, html};
use tranche_api::view::HostView;
use tranche_core::capacity::{Capacity, Stranded};
use tranche_core::name::HostName;

use super::overview::size_name;
use crate::ask::{Answer, Visit};
use crate::fields::Asked;
use crate::layout::{Page, live};
use crate::links;
use crate::parts::meter;
use crate::parts::paging::{Paged, ROWS_PER_PAGE};
use crate::parts::table::{number, table, text};
use crate::words::{Tone, badge, or_unknown, size_if_known};

/// Stranded VMs that are named of one host at most.
const NAMED_MAX: usize = 6;

/// The page.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let without: BTreeSet<HostName> = asked.all("without").filter_map(|host| host.parse().ok()).collect();
    let named: Vec<&str> = without.iter().map(HostName::as_str).collect();
    let path = match named.as_slice() {
        [] => "/v1/capacity".to_owned(),
        named => format!("/v1/capacity?without={}", named.join(",")),
    };
    let (capacity, hosts) =
        tokio::join!(visit.get::<Capacity>(&path), visit.get::<Vec<HostView>>("/v1/hosts"));
    let (mut capacity, hosts) = (capacity?, hosts?);
    // Those that would lose most come first.
    capacity.hosts.sort_by_key(|host| std::cmp::Reverse(host.stranded.len()));
    let paged = Paged::of(std::mem::take(&mut capacity.hosts), &asked, ROWS_PER_PAGE);
    let rows = paged.rows.iter().map(|host| {
        let verdict =
            if host.stranded.is_empty() { badge(Tone::Good, "yes") } else { badge(Tone::Bad, "no") };
        vec![
            html! { a href=(links::host(&host.host)) { (host.host) } },
            html! { (host.free_slots) },
            html! { (size_if_known(host.free_memory_mib)) },
            html! { (or_unknown(host.free_vcpus)) },
            html! { (host.protected) },
            verdict,
            stranded(&host.stranded),
        ]
    });
    let columns = [
        text("Host"),
        number("Free partitions and GPUs"),
        number("Free memory"),
        number("Free vCPUs"),
        number("Protected VMs"),
        text("Survives its loss"),
        text("VMs that would not run again"),
    ];
    let body = html! {
        (what_if(&hosts, &without))
        (live("live", html! {
            (verdict(&capacity, paged.rows.len()))
            h2 { "What could start" }
            (sizes(&capacity))
            h2 { "If a host died" }
            (table("Each host, and what would follow if it died", &columns, rows.collect(), "No host takes VMs."))
            (paged.links("/capacity", &asked))
        }))
    };
    Ok(visit.page(&Page { title: "Capacity", at: "/capacity", above: &[], body }))
}

fn verdict(capacity: &Capacity, hosts: usize) -> Markup {
    html! {
        @if !capacity.without.is_empty() {
            section class="panel notice" {
                p { strong { "As if these hosts had died: " } (capacity.without.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ")) }
                @if capacity.stranded.is_empty() {
                    p { (badge(Tone::Good, "all run")) " Every protected VM of theirs would run elsewhere." }
                } @else {
                    p { (badge(Tone::Bad, "short")) " These VMs of theirs would not run:" }
                    (stranded(&capacity.stranded))
                }
            }
        }
        p class="state" {
            @if hosts < 2 && capacity.without.is_empty() {
                (badge(Tone::Off, "one host")) " There is no other host to start VMs on."
            } @else if capacity.survives_any {
                (badge(Tone::Good, "enough")) " Every protected VM would run again whichever one host died."
            } @else {
                (badge(Tone::Bad, "short")) " The loss of some host would leave protected VMs without a place."
            }
        }
    }
}

fn stranded(vms: &[Stranded]) -> Markup {
    html! {
        @if !vms.is_empty() {
            ul class="brief" {
                @for stranded in vms.iter().take(NAMED_MAX) {
                    li { a href=(links::vm(&stranded.vm)) { (stranded.vm) } ": " (stranded.why.message) " " code { (stranded.why.code) } }
                }
                @if vms.len() > NAMED_MAX { li class="quiet" { (vms.len() - NAMED_MAX) " more" } }
            }
        }
    }
}

fn sizes(capacity: &Capacity) -> Markup {
    let rows = capacity.sizes.iter().map(|size| {
        vec![
            html! { (size_name(size)) },
            html! { (size_if_known(size.vram_mib)) },
            html! { (size.free) },
            html! { (size.total) },
            meter("In use", size.total.saturating_sub(size.free), size.total),
        ]
    });
    let columns = [text("Size"), number("Video memory"), number("Free"), number("All"), text("Used")];
    table(
        "What could start of each size, if there is memory for it",
        &columns,
        rows.collect(),
        "No GPU is partitioned or passed through.",
    )
}

fn what_if(hosts: &[HostView], without: &BTreeSet<HostName>) -> Markup {
    html! {
        @if hosts.len() > 1 {
            details class="panel" id="what-if" open[!without.is_empty()] {
                summary { "What if hosts died?" }
                form method="get" action="/capacity" {
                    fieldset class="set" {
                        legend { "As if these had died" }
                        ul class="boxes" {
                            @for host in hosts {
                                li { label { input type="checkbox" name="without" value=(host.name) checked[without.contains(&host.name)]; " " (host.name) } }
                            }
                        }
                    }
                    div class="buttons" { button class="main" { "See what would follow" } a class="button" href="/capacity" { "As things are" } }
                }
            }
        }
    }
}
