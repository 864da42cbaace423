//! The first page: how everything is, in figures, and what needs somebody. It never lists all of anything.

use maud::{Markup, html};
use tranche_api::view::{GpuFigures, HostFigures, Overview, PartitionFigures, VmFigures};
use tranche_core::capacity::{Capacity, SizeCapacity};
use tranche_core::finding::{Finding, Severity};
use tranche_core::operation::Operation;

use crate::ask::{Answer, Visit};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::operation::progress;
use crate::parts::table::{number, table, text};
use crate::parts::{finding, meter, nothing};
use crate::words::{Tone, badge, number as count_of, operation_state, size_if_known, unknown};

/// How many findings, and operations, are shown here at most.
const SHOWN_MAX: usize = 8;

/// The overview.
pub(crate) async fn show(visit: Visit) -> Answer {
    let (figures, capacity, findings, operations) = tokio::join!(
        visit.get::<Overview>("/v1/overview"),
        visit.get::<Capacity>("/v1/capacity"),
        visit.get::<Vec<Finding>>("/v1/findings"),
        visit.get::<Vec<Operation>>("/v1/operations"),
    );
    let Overview { hosts, gpus, partitions, vms } = figures?;
    let (capacity, findings) = (capacity?, findings?);
    let tiles = html! {
        div class="tiles" {
            (of_hosts(&hosts)) (of_gpus(&gpus)) (of_partitions(&partitions)) (of_vms(&vms)) (of_capacity(&capacity))
        }
    };
    let body = html! {
        (live("live", html! {
            (tiles)
            div class="columns" {
                div {
                    h2 { a href="/findings" { "Findings" } }
                    (of_findings(&findings))
                }
                div {
                    h2 { a href="/operations" { "Under way" } }
                    (under_way(&operations?))
                    h2 { a href="/capacity" { "Partitions by size" } }
                    (sizes(&capacity.sizes))
                }
            }
        }))
    };
    Ok(visit.page(&Page { title: "Overview", at: "/", above: &[], body }))
}

/// A tile: a figure, what it counts, and what else is to be said.
fn tile(to: &str, label: &str, figure: &str, tone: Tone, more: Markup) -> Markup {
    html! {
        a class={ "tile " (tone.class()) } href=(to) {
            span class="label" { (label) }
            span class="figure" { (figure) }
            span class="more" { (more) }
        }
    }
}

/// Parts of a whole in words, those that are nought left out.
fn parts(parts: &[(usize, &str)]) -> String {
    let told: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if told.is_empty() { unknown() } else { told.join(", ") }
}

fn of_hosts(hosts: &HostFigures) -> Markup {
    let down = hosts.total.saturating_sub(hosts.up);
    let tone = if down > 0 { Tone::Bad } else { Tone::Good };
    let more = parts(&[(hosts.up, "up"), (down, "down or lost"), (hosts.maintenance, "in maintenance")]);
    tile("/hosts", "Hosts", &hosts.total.to_string(), tone, html! { (more) })
}

fn of_gpus(gpus: &GpuFigures) -> Markup {
    let tone = if gpus.broken > 0 { Tone::Bad } else { Tone::Good };
    let more = parts(&[
        (gpus.broken, "broken"),
        (gpus.partitioned, "partitioned"),
        (gpus.passthrough, "passed through"),
        (gpus.host, "left to the host"),
    ]);
    tile("/gpus", "GPUs", &gpus.total.to_string(), tone, html! { (more) })
}

fn of_partitions(partitions: &PartitionFigures) -> Markup {
    let PartitionFigures { total, assigned, free, lost } = *partitions;
    let other = total.saturating_sub(free + assigned);
    let tone = if lost > 0 { Tone::Bad } else { Tone::Plain };
    let more = html! {
        (meter("Partitions assigned", assigned, total))
        (parts(&[(assigned, "assigned"), (free, "free"), (other, "not to be had")]))
    };
    tile("/gpus", "Partitions", &total.to_string(), tone, more)
}

fn of_vms(vms: &VmFigures) -> Markup {
    let VmFigures { total, running, waiting, stopped, unknown } = *vms;
    let other = total.saturating_sub(running + waiting + stopped + unknown);
    let tone = match (unknown, waiting) {
        (0, 0) => Tone::Good,
        (0, _) => Tone::Warn,
        _ => Tone::Bad,
    };
    let told = [
        (running, "running"),
        (waiting, "waiting"),
        (other, "on the way"),
        (stopped, "stopped"),
        (unknown, "unknown"),
    ];
    tile("/vms", "VMs", &total.to_string(), tone, html! { (parts(&told)) })
}

/// Red if the loss of some host would leave protected VMs without a place, amber if nothing more could start, else green.
fn of_capacity(capacity: &Capacity) -> Markup {
    let free: usize = capacity.sizes.iter().map(|size| size.free).sum();
    let hosts = capacity.hosts.iter().filter(|host| !host.stranded.is_empty()).count();
    let (tone, word, more) = if capacity.hosts.len() < 2 {
        (Tone::Off, "one host", "there is no other host to start VMs on".to_owned())
    } else if !capacity.survives_any {
        let hosts = count_of(hosts, "host", "different hosts");
        (Tone::Bad, "short", format!("protected VMs would be left without a place by the loss of {hosts}"))
    } else if free == 0 {
        (Tone::Warn, "full", "any one host may die, but nothing more can start".to_owned())
    } else {
        (Tone::Good, "enough", "every protected VM would run again whichever host died".to_owned())
    };
    tile("/capacity", "Spare capacity", word, tone, html! { (more) })
}

fn of_findings(findings: &[Finding]) -> Markup {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let group = |severity, one, many, tone: Tone| {
        html! {
            @if count(severity) > 0 {
                a href={ "/findings?severity=" (severity) } { (badge(tone, &count_of(count(severity), one, many))) } " "
            }
        }
    };
    html! {
        @if findings.is_empty() {
            (nothing("Nothing is wrong, and nothing waits."))
        } @else {
            p {
                (group(Severity::Error, "error", "errors", Tone::Bad))
                (group(Severity::Warning, "warning", "warnings", Tone::Warn))
                (group(Severity::Info, "note", "notes", Tone::Plain))
            }
            (finding::list(&findings[..findings.len().min(SHOWN_MAX)]))
            @if findings.len() > SHOWN_MAX { p { a href="/findings" { "All " (findings.len()) " findings" } } }
        }
    }
}

fn under_way(operations: &[Operation]) -> Markup {
    let open: Vec<&Operation> = operations.iter().filter(|operation| !operation.state.is_over()).collect();
    html! {
        @if open.is_empty() {
            (nothing("Nothing is being done at the moment."))
        } @else {
            ul class="under-way" {
                @for operation in open.iter().take(SHOWN_MAX) {
                    li {
                        (operation_state(operation.state)) " "
                        a href=(links::operation(&operation.id)) { (operation.title) } " " (progress(operation))
                    }
                }
            }
            @if open.len() > SHOWN_MAX { p { a href="/operations" { (open.len() - SHOWN_MAX) " more" } } }
        }
    }
}

fn sizes(sizes: &[SizeCapacity]) -> Markup {
    let rows = sizes.iter().take(2 * SHOWN_MAX).map(|size| {
        vec![
            html! { (size_name(size)) },
            html! { (size_if_known(size.vram_mib)) },
            html! { (size.free) },
            html! { (size.total) },
            meter("In use", size.total.saturating_sub(size.free), size.total),
        ]
    });
    let columns = [text("Size"), number("Memory"), number("Free"), number("All"), text("Used")];
    table("Partitions by size", &columns, rows.collect(), "No GPU is partitioned or passed through.")
}

/// What a size is called.
pub(crate) fn size_name(size: &SizeCapacity) -> String {
    match (&size.profile, &size.pool) {
        (Some(profile), _) => profile.clone(),
        (None, Some(pool)) => format!("whole GPU, pool {pool}"),
        (None, None) => "whole GPU".to_owned(),
    }
}
