//! All GPUs: host by host, each with its partitions.

use std::collections::BTreeMap;

use maud::{Markup, html};
use tranche_api::view::{GpuView, PartitionView};
use tranche_core::name::{GpuAddress, GpuKey, HostName};
use tranche_core::spec::GpuMode;

use crate::ask::{Answer, Visit};
use crate::fields::{Asked, Fields};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::form::Field;
use crate::parts::nothing;
use crate::parts::paging::Paged;
use crate::parts::table::{Column, number, table, text};
use crate::words::{
    counts, gpu_status, mode, number as count_of, or_unknown, partition_state, size_if_known,
};

/// GPUs on a page: each of them may have many partitions.
const GPUS_PER_PAGE: usize = 40;
/// So few GPUs show their partitions at once.
const OPEN_MAX: usize = 8;

type Partitions = BTreeMap<(HostName, GpuAddress), Vec<PartitionView>>;

/// The list.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let gpus: Vec<GpuView> = visit.get("/v1/gpus").await?;
    let all = gpus.len();
    let wanted: Vec<GpuView> = gpus.into_iter().filter(|gpu| is_wanted(gpu, &asked)).collect();
    let found = wanted.len();
    let paged = Paged::of(wanted, &asked, GPUS_PER_PAGE);
    let mut of_gpu = Partitions::new();
    for host in paged.rows.chunk_by(|a, b| a.host == b.host).filter_map(|gpus| gpus.first()) {
        let path = format!("/v1/partitions?host={}", host.host);
        for partition in visit.get::<Vec<PartitionView>>(&path).await? {
            of_gpu.entry((partition.host.clone(), partition.gpu.clone())).or_default().push(partition);
        }
    }
    let body = html! {
        (filter(&asked))
        (live("live", html! {
            p class="quiet" {
                @if found == all { (count_of(all, "GPU", "GPUs")) } @else { (found) " of " (count_of(all, "GPU", "GPUs")) }
                ". " a href="/partition" { "Configure partitions of all alike" } "."
            }
            @if all == 0 { (nothing("No GPU was found on any host. The page of each host says what was looked at.")) }
            @for host in paged.rows.chunk_by(|a, b| a.host == b.host) { (of_host(host, &of_gpu, paged.rows.len() <= OPEN_MAX)) }
            (paged.links("/gpus", &asked))
        }))
    };
    Ok(visit.page(&Page { title: "GPUs", at: "/gpus", above: &[], body }))
}

fn is_wanted(gpu: &GpuView, asked: &Fields) -> bool {
    let text = asked.get("text").map(str::to_lowercase);
    let told = format!("{}/{} {} {} {}", gpu.host, gpu.address, gpu.model, gpu.status, mode(&gpu.mode));
    text.is_none_or(|text| told.to_lowercase().contains(&text))
        && asked.get("host").is_none_or(|host| gpu.host.as_str() == host)
}

fn filter(asked: &Fields) -> Markup {
    let field = |name, label| Field {
        name,
        label,
        value: asked.get(name).unwrap_or_default(),
        kind: "search",
        is_optional: true,
        ..Field::default()
    };
    html! {
        form class="filter" method="get" action="/gpus" role="search" {
            (field("text", "Text"))
            (field("host", "Host"))
            button { "Filter" }
            a class="button" href="/gpus" { "All" }
        }
    }
}

fn of_host(gpus: &[GpuView], partitions: &Partitions, is_open: bool) -> Markup {
    let Some(first) = gpus.first() else { return html! {} };
    let (free, total) = gpus.iter().fold((0, 0), |(free, total), gpu| (free + gpu.free, total + gpu.total));
    html! {
        details class="tree" id={ "host-" (first.host) } open {
            summary {
                strong { (first.host) } " "
                span class="quiet" { (count_of(gpus.len(), "GPU", "GPUs")) ", " (free) " of " (total) " free" }
            }
            @for gpu in gpus { (of_gpu(gpu, partitions, is_open)) }
        }
    }
}

fn of_gpu(gpu: &GpuView, partitions: &Partitions, is_open: bool) -> Markup {
    let key = GpuKey { host: gpu.host.clone(), address: gpu.address.clone() };
    let own = partitions.get(&(gpu.host.clone(), gpu.address.clone())).map_or(&[][..], Vec::as_slice);
    html! {
        div class="folds" {
            details class="gpu" id={ "gpu-" (gpu.host) "-" (gpu.address) } open[is_open] {
                summary {
                    code { (gpu.address) }
                    span class="model" { (gpu.model) @if gpu.emulated { " (emulated)" } }
                    (gpu_status(gpu.status))
                    span { (mode(&gpu.mode)) @if gpu.mode != gpu.asked_mode { " \u{2192} " (mode(&gpu.asked_mode)) } }
                    span class="n" { @if gpu.total > 0 { (gpu.free) " of " (gpu.total) " free" } }
                    span class="n" { (size_if_known(gpu.vram_mib)) }
                    @if !gpu.findings.is_empty() { span class="quiet" { (count_of(gpu.findings.len(), "finding", "findings")) } }
                }
                (line(gpu))
                @if !own.is_empty() { (partitions_table(own)) }
                @else { (vms(gpu)) }
            }
            // Beside the line and not in it: what folds out is no place for a link (WAI-ARIA, button: children presentational).
            a class="open" href=(links::gpu(&key)) { "Open" span class="unseen" { " GPU " (gpu.host) "/" (gpu.address) } }
        }
    }
}

/// What else is known of a GPU, in a line.
fn line(gpu: &GpuView) -> Markup {
    let told = [
        ("valid counts", counts(gpu)),
        ("driver", or_unknown(gpu.driver.as_ref())),
        ("NUMA node", or_unknown(gpu.numa_node)),
        ("IOMMU group", or_unknown(gpu.iommu_group)),
    ];
    html! {
        p class="line" { @for (label, value) in told { span { span class="quiet" { (label) } " " (if value.is_empty() { "none" } else { &value }) } } }
    }
}

fn vms(gpu: &GpuView) -> Markup {
    html! {
        @if let GpuMode::Passthrough { .. } = gpu.mode {
            p { @if gpu.vms.is_empty() { "No VM has it." } @for vm in &gpu.vms { "Given to " a href=(links::vm(vm)) { (vm) } } }
        }
    }
}

/// Partitions of one GPU.
pub(crate) fn partitions_table(partitions: &[PartitionView]) -> Markup {
    let has_load = partitions.iter().any(|partition| partition.telemetry.is_some());
    let mut columns: Vec<Column> =
        vec![text("Partition"), text("State"), text("VM"), text("Profile"), number("Memory"), text("Device")];
    if has_load {
        columns.extend([number("Load"), number("Memory in use")]);
    }
    let rows = partitions.iter().map(|partition| {
        let load = partition.telemetry.and_then(|seen| seen.utilization_percent);
        let mut row = vec![
            html! { (or_unknown(partition.index)) },
            html! { (partition_state(partition.state)) },
            html! { @if let Some(vm) = &partition.vm { a href=(links::vm(vm)) { (vm) } } },
            html! { (or_unknown(partition.profile.as_ref())) },
            html! { (size_if_known(partition.vram_mib)) },
            html! { @if let Some(device) = &partition.device { code { (device) } } },
        ];
        if has_load {
            row.push(html! { (or_unknown(load.map(|percent| format!("{percent} %")))) });
            row.push(html! { (size_if_known(partition.telemetry.and_then(|seen| seen.memory_used_mib))) });
        }
        row
    });
    table("Partitions", &columns, rows.collect(), "It has no partitions.")
}
