//! One GPU: all that is known of it, and what it can be used for.

use axum::http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::to_value;
use tranche_api::view::{GpuView, MigrationView, PartitionView};
use tranche_core::inventory::{Backend, HealthState, Offer};
use tranche_core::name::{GpuAddress, GpuKey, HostName, PoolName};
use tranche_core::spec::{AskedMode, GpuMode};

use super::gpus::partitions_table;
use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Asked, Fields, Named, Posted};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::facts::Facts;
use crate::parts::form::{Deed, Field, change, tick};
use crate::parts::table::{table, text};
use crate::parts::{finding, history as past, operation};
use crate::proposal::Proposal;
use crate::words::{
    Tone, backend, badge, certainty, counts, gpu_status, mode, or_unknown, size, size_if_known,
};

/// The page.
pub(crate) async fn show(
    visit: Visit,
    Named((host, address)): Named<(HostName, GpuAddress)>,
    Asked(asked): Asked,
) -> Answer {
    let key = GpuKey { host, address };
    let path = format!("/v1{}", links::gpu(&key));
    let partitions = format!("/v1/partitions?host={}", key.host);
    let (gpu, partitions) =
        tokio::join!(visit.get::<GpuView>(&path), visit.get::<Vec<PartitionView>>(&partitions));
    let gpu = gpu?;
    let mut partitions = partitions?;
    partitions.retain(|partition| partition.host == key.host && partition.gpu == key.address);
    let body = html! {
        (live("live", html! {
            (operation::notice(&visit, &asked).await)
            p class="state" {
                (gpu_status(gpu.status)) " " (mode(&gpu.mode))
                @if gpu.mode != gpu.asked_mode { ", asked to be: " (mode(&gpu.asked_mode)) }
            }
            (finding::list_on(&links::gpu(&key), &gpu.findings))
            @if !partitions.is_empty() { h2 { "Partitions" } (partitions_table(&partitions)) }
            div class="columns" {
                div { h2 { "Use" } (of_use(&gpu)) h2 { "Hardware" } (of_hardware(&gpu)) }
                div { h2 { "Health" } (of_health(&gpu)) @if let Some(facts) = &gpu.migration { (of_migration(facts)) } }
            }
        }))
        (past::section(&visit, &links::gpu(&key), &path, &asked).await)
        (mode_form(&visit, &key, &gpu))
    };
    let title = format!("{} {}", gpu.model, gpu.address);
    let host = links::host(&key.host);
    let above = [("/gpus", "GPUs"), (host.as_str(), key.host.as_str())];
    Ok(visit.page_with_charts(&Page { title: &title, at: "/gpus", above: &above, body }))
}

/// What the charts of the page are drawn from.
pub(crate) async fn history(
    visit: Visit,
    Named((host, address)): Named<(HostName, GpuAddress)>,
    Asked(asked): Asked,
) -> Answer {
    past::data(&visit, &format!("/v1{}", links::gpu(&GpuKey { host, address })), &asked).await
}

fn of_use(gpu: &GpuView) -> Facts {
    let vms = html! {
        @if gpu.vms.is_empty() { "none" }
        @for (index, vm) in gpu.vms.iter().enumerate() { @if index > 0 { ", " } a href=(links::vm(vm)) { (vm) } }
    };
    let offered = counts(gpu);
    Facts::new()
        .and("Mode", mode(&gpu.mode))
        .and_if("Partitions", gpu.count)
        .and("Free", format!("{} of {}", gpu.free, gpu.total))
        .and("VMs", vms)
        .and("Valid counts", if offered.is_empty() { "none" } else { &offered })
        .and_if("Partitions are made as", gpu.backend.map(backend))
}

fn of_hardware(gpu: &GpuView) -> Facts {
    let members = html! {
        @for member in &gpu.group_members {
            div { code { (member.address) } " " (or_unknown(member.driver.as_ref())) @if member.is_bridge() { " (bridge)" } }
        }
    };
    let serial = gpu.telemetry.as_ref().and_then(|seen| seen.serial.clone());
    Facts::new()
        .and("Model", html! { (gpu.model) @if gpu.emulated { " (stand-in of the virtual lab)" } })
        .and("PCI ids", html! { code { (gpu.ids) } })
        .and_if("Unique id", gpu.unique_id.as_ref().map(|id| html! { code { (id) } }))
        .and_if("Serial number", serial)
        .and_if("Board", gpu.board.clone())
        .and("Video memory", size_if_known(gpu.vram_mib))
        .and("Driver", or_unknown(gpu.driver.as_ref()))
        .and_if("Firmware", gpu.telemetry.as_ref().and_then(|seen| seen.firmware.clone()))
        .and("NUMA node", or_unknown(gpu.numa_node))
        .and("IOMMU group", or_unknown(gpu.iommu_group))
        .and_if("Others in that group", (!gpu.group_members.is_empty()).then_some(members))
        .and("Firmware\u{2019}s console", if gpu.console { "on this GPU" } else { "not on this GPU" })
        .and(
            "Ways to reset it",
            if gpu.reset_methods.is_empty() { "none".to_owned() } else { gpu.reset_methods.join(", ") },
        )
}

fn of_health(gpu: &GpuView) -> Facts {
    let state = gpu.health.as_ref().map(|health| {
        let badge = match health.state {
            HealthState::Good => badge(Tone::Good, "good"),
            HealthState::Sick => badge(Tone::Bad, "sick"),
            HealthState::NeedsReset => badge(Tone::Warn, "needs a reset"),
            HealthState::NeedsReboot => badge(Tone::Warn, "needs a reboot of its host"),
        };
        html! { (badge) @for reason in &health.reasons { div { (reason) } } }
    });
    let facts = Facts::new().and("State", state.unwrap_or_else(|| badge(Tone::Bad, "not there")));
    let facts = facts.and_if(
        "PCIe errors",
        gpu.aer.map(|aer| {
            format!("{} corrected, {} nonfatal, {} fatal", aer.correctable, aer.nonfatal, aer.fatal)
        }),
    );
    let Some(seen) = &gpu.telemetry else { return facts };
    let memory = seen.memory_used_mib.zip(seen.memory_total_mib);
    let ecc = seen.ecc.map(|ecc| {
        let state = if ecc.enabled { "on" } else { "off" };
        format!("{state}; {} corrected, {} not corrected", ecc.corrected, ecc.uncorrected)
    });
    facts
        .and_if("Load", seen.utilization_percent.map(|percent| format!("{percent} %")))
        .and_if("Memory in use", memory.map(|(used, total)| format!("{} of {}", size(used), size(total))))
        .and_if("Temperature", seen.temperature_c.map(|degrees| format!("{degrees} \u{b0}C")))
        .and_if("Power", seen.power_w.map(|watts| format!("{watts} W")))
        .and_if("ECC", ecc)
}

fn of_migration(view: &MigrationView) -> Markup {
    let rows = view.facts.named().into_iter().map(|(name, evidence)| {
        vec![html! { (name) }, certainty(evidence.certainty), html! { code { (evidence.source) } }]
    });
    html! {
        h2 { "Live migration of its VMs" }
        p { (certainty(view.certainty)) " iommufd: " (if view.iommufd { "there" } else { "not there" }) }
        (table("What live migration rests on", &[text("Fact"), text("Certainty"), text("Evidence")], rows.collect(), ""))
    }
}

/// The value of a count in forms: the count, and the series where there is one.
pub(crate) fn offer_value(offer: &Offer) -> String {
    match &offer.series {
        Some(series) => format!("{} {series}", offer.count),
        None => offer.count.to_string(),
    }
}

/// What a count gives: `4 partitions, 3648 MiB each (4Q)`.
pub(crate) fn offer_label(offer: &Offer) -> String {
    let memory = offer.vram_mib.map(|mib| format!(", {} each", size(mib))).unwrap_or_default();
    let series = offer.series.as_ref().map(|series| format!(", series {series}")).unwrap_or_default();
    let word = if offer.count == 1 { "partition" } else { "partitions" };
    format!("{} {word}{memory} ({}{series})", offer.count, offer.profile)
}

/// The count and the series that a form's value stands for.
pub(crate) fn offer_of(value: &str) -> Option<(u16, Option<String>)> {
    let mut parts = value.splitn(2, ' ');
    let count = parts.next()?.parse().ok()?;
    Some((count, parts.next().map(str::to_owned)))
}

/// One of several modes, and what belongs to it.
fn way(value: &str, label: &str, is_now: bool, content: Markup) -> Markup {
    html! {
        fieldset class="way" {
            legend { label { input type="radio" name="mode" value=(value) required checked[is_now]; " " (label) } }
            (content)
        }
    }
}

fn mode_form(visit: &Visit, key: &GpuKey, gpu: &GpuView) -> Markup {
    let (action, rest) = (format!("{}/mode", links::gpu(key)), format!("/v1{}/mode", links::gpu(key)));
    let current = gpu.asked_mode.partitions();
    let counts = html! {
        p class="field" {
            label for="f-count" { "Number of partitions" }
            select id="f-count" name="count" {
                @for offer in &gpu.valid_counts {
                    option value=(offer_value(offer)) selected[Some(offer.count) == current] { (offer_label(offer)) }
                }
            }
        }
        // Its driver takes counts only when it is loaded, and which it would take is not told beforehand.
        @if gpu.backend == Some(Backend::FixedVf) {
            (Field { name: "other", label: "Another count", kind: "number", is_optional: true, help: "Its driver is loaded anew for it: every VM on every GPU of that driver is shut down first.", ..Field::default() })
        }
    };
    let sizes = gpu.mixed.iter().map(|size| size.profile.as_str()).collect::<Vec<_>>().join(", ");
    let whole = html! {
        (Field { name: "pool", label: "Pool", is_optional: true, help: "VMs can ask for GPUs of a pool, wherever they are.", ..Field::default() })
        (tick("allow_console", "Take it even if the firmware\u{2019}s console is on it", ""))
    };
    let mixed = html! {
        (Field { name: "sizes", label: "Profiles", is_optional: true, help: &format!("With commas between them. It offers {sizes}."), ..Field::default() })
    };
    let asked = &gpu.asked_mode;
    let content = html! {
        h2 { "Use it otherwise" }
        div class="ways" {
            (way("host", "Leave it to the host", matches!(asked, GpuMode::Host), html! { p class="help" { "It serves no VM." } }))
            @if !gpu.valid_counts.is_empty() {
                (way("partitioned", "Split it into equal partitions", matches!(asked, GpuMode::Partitioned { .. }), counts))
            }
            @if !gpu.mixed.is_empty() {
                (way("mixed", "Split it into partitions of several sizes", matches!(asked, GpuMode::Mixed { .. }), mixed))
            }
            (way("passthrough", "Give it whole to one VM", matches!(asked, GpuMode::Passthrough { .. }), whole))
        }
        (tick("drain", "Shut down VMs that hold it first", "They start again where there is room. Else the change is refused while there are any."))
        div class="buttons" { button class="main" { "Preview" } }
    };
    html! { div class="panel change" { (change(visit, Deed { action: &action, method: "PUT", rest: &rest }, content)) } }
}

/// Shows what another mode would do, or sets it.
pub(crate) async fn set_mode(
    visit: Visit,
    Named((host, address)): Named<(HostName, GpuAddress)>,
    Posted(fields): Posted,
) -> Answer {
    let key = GpuKey { host, address };
    let mode = mode_of(&fields)?;
    let reload_driver = matches!(mode, GpuMode::Partitioned { .. }) && fields.get("other").is_some();
    let asked = AskedMode { mode, drain: fields.is_on("drain"), reload_driver };
    let page = links::gpu(&key);
    let proposal = Proposal {
        title: format!("GPU {key}: {}", crate::words::mode(&asked.mode)),
        button: "Apply exactly this",
        is_grave: asked.drain || asked.reload_driver,
        back: (&page, "Back to the GPU"),
        at: "/gpus",
        then: Some(page.clone()),
        otherwise: Some(("drain", "Preview again, with its VMs shut down first")),
        method: Method::PUT,
        path: format!("/v1{page}/mode"),
        body: to_value(&asked).ok(),
    };
    proposal.answer(&visit, &fields).await
}

fn mode_of(fields: &Fields) -> Result<GpuMode, Trouble> {
    let incomplete = || {
        Trouble::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "It is not said what the GPU shall be used for.",
            "Go back and choose.",
        )
    };
    match fields.get("mode") {
        Some("host") => Ok(GpuMode::Host),
        Some("partitioned") if fields.get("other").is_some() => {
            Ok(GpuMode::Partitioned { count: fields.needed("other", "Another count")?, series: None })
        }
        Some("partitioned") => {
            let (count, series) = fields.get("count").and_then(offer_of).ok_or_else(incomplete)?;
            Ok(GpuMode::Partitioned { count, series })
        }
        Some("mixed") => {
            let sizes = fields.get("sizes").unwrap_or_default().split(',').map(str::trim);
            Ok(GpuMode::Mixed { sizes: sizes.filter(|size| !size.is_empty()).map(str::to_owned).collect() })
        }
        Some("passthrough") => {
            let pool = fields.parsed::<PoolName>("pool", "Pool")?;
            Ok(GpuMode::Passthrough { allow_console: fields.is_on("allow_console"), pool })
        }
        _ => Err(incomplete()),
    }
}
