//! One partition count for all GPUs that are alike: choose GPUs and a count, see what it does, apply exactly that.
//!
//! Which GPUs are alike enough is the daemon's to say, in its dry run. Here GPUs that look alike are only put together, and the largest
//! such set is chosen beforehand.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use maud::{Markup, html};
use serde_json::to_value;
use tranche_api::view::GpuView;
use tranche_core::change::{Selection, SetMode};
use tranche_core::homogeneity::{Report, SetName};
use tranche_core::inventory::Offer;
use tranche_core::name::{GpuKey, HostName};
use tranche_core::spec::GpuMode;

use super::gpu::{offer_label, offer_of, offer_value};
use crate::ask::{Answer, Visit};
use crate::fields::{Asked, Fields, Posted};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::form::{Deed, change, tick};
use crate::parts::table::{table, text};
use crate::proposal::{Proposal, VERSION};
use crate::words::{gpu_status, mode, number, size, size_if_known};

const REST: &str = "/v1/gpus/mode";
/// The value that stands for no partitions.
const RELEASE: &str = "release";

/// GPUs that look alike, with what they offer.
#[derive(Debug)]
struct Alike<'a> {
    label: String,
    offers: &'a [Offer],
    gpus: Vec<&'a GpuView>,
}

/// The page.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let (gpus, report) =
        tokio::join!(visit.get::<Vec<GpuView>>("/v1/gpus"), visit.get::<Report>("/v1/homogeneity"));
    let (gpus, report) = (gpus?, report?);
    let members: BTreeSet<&GpuKey> =
        report.sets.iter().filter(|set| set.set == SetName::Partitions).flat_map(|set| &set.gpus).collect();
    let (able, unable): (Vec<&GpuView>, Vec<&GpuView>) =
        gpus.iter().partition(|gpu| members.contains(&key(gpu)));
    let sets = alike(&able);
    let body = html! {
        p class="lead" {
            "Every GPU that serves VMs should be split into the same count: a VM then finds on another host what it had. Choose the GPUs
            and the count; the next page shows what becomes of each GPU and VM before anything is done."
        }
        @if sets.is_empty() {
            (none())
        } @else if visit.may("PUT", REST) {
            (chooser(&visit, &sets, &asked))
        } @else {
            p class="empty" { "Only administrators change how GPUs are split." }
        }
        (live("live", others(&unable)))
    };
    Ok(visit.page(&Page { title: "Configure partitions", at: "/partition", above: &[], body }))
}

fn key(gpu: &GpuView) -> GpuKey {
    GpuKey { host: gpu.host.clone(), address: gpu.address.clone() }
}

/// Sets of the same card, memory and count, the largest first.
fn alike<'a>(gpus: &[&'a GpuView]) -> Vec<Alike<'a>> {
    let mut sets: Vec<Alike<'a>> = Vec::new();
    for gpu in gpus.iter().filter(|gpu| !gpu.valid_counts.is_empty()) {
        let same = |set: &&mut Alike<'a>| {
            let first = set.gpus[0];
            (first.ids, first.vram_mib, first.count, &first.valid_counts)
                == (gpu.ids, gpu.vram_mib, gpu.count, &gpu.valid_counts)
        };
        if let Some(set) = sets.iter_mut().find(same) {
            set.gpus.push(gpu);
        } else {
            let label = format!("{}, {}, {}", gpu.model, size_if_known(gpu.vram_mib), mode(&gpu.mode));
            sets.push(Alike { label, offers: &gpu.valid_counts, gpus: vec![gpu] });
        }
    }
    sets.sort_by_key(|set| std::cmp::Reverse(set.gpus.len()));
    sets
}

fn none() -> Markup {
    html! {
        section class="panel warn" {
            h2 { "No partitionable GPUs have been found" }
            p { "Check that each host has the vendor\u{2019}s driver for virtualisation, and that SR-IOV and the IOMMU are on in its firmware." }
            p { a href="/hosts" { "See what hosts report" } " " a href="/gpus" { "See all GPUs" } }
        }
    }
}

fn chooser(visit: &Visit, sets: &[Alike<'_>], asked: &Fields) -> Markup {
    let asked_gpus: BTreeSet<&str> = asked.all("gpu").collect();
    let content = html! {
        @if sets.len() > 1 { (unlike(sets)) }
        @for (index, set) in sets.iter().enumerate() {
            (of_set(set, index, |gpu| if asked_gpus.is_empty() { index == 0 } else { asked_gpus.contains(key(gpu).to_string().as_str()) }))
        }
        div class="choose" {
            section id="incomplete" class="panel warn" role="status" hidden {
                p {
                    strong { "Some GPUs of the homogeneous set are not selected. " }
                    "They may then have another count than the rest, which breaks failover to them; that is not recommended."
                }
            }
            (counts(sets))
            (tick("drain", "Shut down VMs that hold these GPUs first", "They start again where there is room. Else the change is refused while a selected GPU is in use."))
            div class="buttons" { button class="main" { "Preview" } }
        }
    };
    html! {
        div class="panel change" { (change(visit, Deed { action: "/partition", method: "PUT", rest: REST }, content)) }
    }
}

/// What is to be known where not all are of one configuration.
fn unlike(sets: &[Alike<'_>]) -> Markup {
    html! {
        section class="panel warn" {
            p {
                strong { "Not all GPUs of all hosts have the same configuration. " }
                "The largest set is selected; select only GPUs of one set. " a href="/homogeneity" { "Compare them" } "."
            }
            ul { @for set in sets { li { (set.label) ": " (number(set.gpus.len(), "GPU", "GPUs")) } } }
        }
    }
}

fn of_set(set: &Alike<'_>, index: usize, is_chosen: impl Fn(&GpuView) -> bool) -> Markup {
    let mut hosts: BTreeMap<&HostName, Vec<&GpuView>> = BTreeMap::new();
    for gpu in &set.gpus {
        hosts.entry(&gpu.host).or_default().push(gpu);
    }
    html! {
        fieldset class="set" data-set=(index) {
            legend { "Set " (index + 1) ": " (set.label) }
            div class="hosts" { @for (host, gpus) in hosts {
                div class="of-host" {
                    p class="host" { a href=(links::host(host)) { (host) } }
                    ul {
                        @for gpu in gpus {
                            li {
                                label {
                                    input type="checkbox" name="gpu" value=(key(gpu)) checked[is_chosen(gpu)]; " "
                                    code { (gpu.address) } " " (gpu.model)
                                }
                                " " (gpu_status(gpu.status))
                                @if !gpu.vms.is_empty() { span class="quiet" { " " (number(gpu.vms.len(), "VM", "VMs")) } }
                            }
                        }
                    }
                }
            } }
        }
    }
}

/// What can be chosen; where there are several sets, of each what its GPUs offer.
fn counts(sets: &[Alike<'_>]) -> Markup {
    let now = sets[0].gpus.first().and_then(|gpu| gpu.count);
    let offers = sets[0].offers;
    let chosen = offers.iter().find(|offer| Some(offer.count) == now).or(offers.first());
    let told = chosen.and_then(memory).unwrap_or_else(|| "not known before the GPUs are split".to_owned());
    html! {
        p class="field" {
            label for="f-count" { "Number of partitions" }
            select id="f-count" name="count" {
                @if let [set] = sets {
                    (options(set, chosen))
                } @else {
                    @for (index, set) in sets.iter().enumerate() {
                        optgroup label={ "Set " (index + 1) } { (options(set, chosen.filter(|_| index == 0))) }
                    }
                }
                option value=(RELEASE) data-memory="all of it, for the host" { "none: leave them to the host" }
            }
            span class="help" { "Memory per partition: " output id="memory" for="f-count" { (told) } }
        }
    }
}

fn memory(offer: &Offer) -> Option<String> {
    offer.vram_mib.map(size)
}

fn options(set: &Alike<'_>, chosen: Option<&Offer>) -> Markup {
    html! {
        @for offer in set.offers {
            option value=(offer_value(offer)) data-memory=[memory(offer)] selected[chosen == Some(offer)] { (offer_label(offer)) }
        }
    }
}

/// GPUs that are no part of it, and why.
fn others(gpus: &[&GpuView]) -> Markup {
    let rows = gpus.iter().take(100).map(|gpu| {
        let key = key(gpu);
        vec![
            html! { a href=(links::gpu(&key)) { (key) } },
            html! { (gpu.model) },
            gpu_status(gpu.status),
            html! { (mode(&gpu.mode)) },
        ]
    });
    html! {
        @if !gpus.is_empty() {
            details class="panel" id="others" {
                summary { (number(gpus.len(), "GPU", "GPUs")) " cannot be split, or " (if gpus.len() == 1 { "is" } else { "are" }) " used whole" }
                (table("GPUs that are not split", &[text("GPU"), text("Model"), text("Status"), text("Mode")], rows.collect(), ""))
            }
        }
    }
}

/// Shows what a count for these GPUs would do, or sets it.
pub(crate) async fn set(visit: Visit, Posted(fields): Posted) -> Answer {
    let mut gpus = BTreeSet::new();
    for gpu in fields.all("gpu") {
        gpus.insert(gpu.parse::<GpuKey>().map_err(|_| crate::ask::Trouble::nothing_at(gpu))?);
    }
    if gpus.is_empty() {
        let message = "No GPU is selected.";
        return Err(crate::ask::Trouble::new(
            axum::http::StatusCode::UNPROCESSABLE_ENTITY,
            message,
            "Go back and select some.",
        ));
    }
    let count = fields.get("count").filter(|count| *count != RELEASE).and_then(offer_of);
    let mode = count.map_or(GpuMode::Host, |(count, series)| GpuMode::Partitioned { count, series });
    let drain = fields.is_on("drain");
    let number = number(gpus.len(), "GPU", "GPUs");
    let version = fields.parsed(VERSION, "Version")?;
    let wish = SetMode { selection: Selection { gpus, like: None }, mode, drain, version };
    let proposal = Proposal {
        title: format!("{number}: {}", crate::words::mode(&wish.mode)),
        button: "Apply exactly this",
        is_grave: drain,
        back: ("/partition", "Configure partitions"),
        at: "/partition",
        then: None,
        otherwise: Some(("drain", "Preview again, with VMs shut down first")),
        method: Method::PUT,
        path: REST.to_owned(),
        body: to_value(&wish).ok(),
    };
    proposal.answer(&visit, &fields).await
}
