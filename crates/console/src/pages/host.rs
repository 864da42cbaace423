//! One host: what it is, how it stands in its cluster, and taking it out of service.

use axum::http::Method;
use maud::{Markup, html};
use serde_json::json;
use tranche_api::view::{GpuView, HostView, LibvirtView, MemberView};
use tranche_core::finding::Code;
use tranche_core::inventory::Iommu;
use tranche_core::name::{GpuKey, HostName};
use tranche_core::plan::Standing;
use tranche_core::spec::Duty;

use super::host_set;
use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Asked, Fields, Named, Posted};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::facts::Facts;
use crate::parts::form::{Deed, button};
use crate::parts::table::{number, table, text};
use crate::parts::{finding, operation};
use crate::proposal::Proposal;
use crate::words::{Tone, badge, gpu_status, guard, host_state, mode, size, size_if_known, standing, time};

/// The page.
pub(crate) async fn show(visit: Visit, Named(name): Named<HostName>, Asked(asked): Asked) -> Answer {
    let path = format!("/v1{}", links::host(&name));
    let (host, gpus) = tokio::join!(visit.get::<HostView>(&path), visit.get::<Vec<GpuView>>("/v1/gpus"));
    let (host, mut gpus) = (host?, gpus?);
    gpus.retain(|gpu| gpu.host == host.name);
    let facts = live(
        "live",
        html! {
            (operation::notice(&visit, &asked).await)
            div class="state" { (host_state(&host)) (duty(&visit, &host)) }
            (finding::list_on(&links::host(&host.name), &host.findings))
            div class="columns" {
                div { h2 { "Machine" } (of_machine(&host)) }
                div {
                    h2 { "Use" } (of_use(&host))
                    @if let Some(member) = &host.member { h2 { "In the cluster" } (of_member(member)) }
                }
            }
            (stuck(&host))
            h2 { "GPUs" }
            (gpus_table(&gpus))
        },
    );
    let body = html! {
        (facts)
        (host_set::form(&visit, &host, &Fields::default()))
        (departure(&visit, &host))
    };
    Ok(visit.page(&Page { title: host.name.as_str(), at: "/hosts", above: &[("/hosts", "Hosts")], body }))
}

/// Taking it out of service, or back. A host that stands alone has no other to send VMs to.
fn duty(visit: &Visit, host: &HostView) -> Markup {
    let act = |act: &str, label, class| {
        let (action, rest) =
            (format!("{}/{act}", links::host(&host.name)), format!("/v1/hosts/{}/{act}", host.name));
        button(visit, Deed { action: &action, method: "POST", rest: &rest }, label, class)
    };
    html! {
        @if let Some(member) = &host.member {
            div class="acts" {
                @match member.duty {
                    Duty::Serving => { (act("drain", "Drain", "")) }
                    Duty::Maintenance => { (act("undrain", "Let it serve again", "")) }
                }
                @if matches!(member.standing, Standing::Lost { .. } | Standing::Fencing { .. }) {
                    (act("confirm-down", "Say that it is down", "grave"))
                }
            }
        }
    }
}

/// Seeing to its VMs before its power is gone, and taking that back.
fn departure(visit: &Visit, host: &HostView) -> Markup {
    let act = |act: &str, rest_act: &str, label| {
        let (action, rest) =
            (format!("{}/{act}", links::host(&host.name)), format!("/v1/hosts/{}/{rest_act}", host.name));
        button(visit, Deed { action: &action, method: "POST", rest: &rest }, label, "")
    };
    let departs = host.findings.iter().any(|finding| finding.code == Code::HostDeparting);
    html! {
        @if host.member.is_some() && visit.may("POST", "/v1/hosts/name/depart") {
            section class="panel change" {
                h2 { "Before its power goes" }
                p class="help" {
                    "A host that shuts down or reboots sees to its VMs by itself. This is for one whose power you are about to cut: its VMs are shut down, and wait for it or start elsewhere, as the policies say. The host itself stays on."
                }
                div class="acts" {
                    @if departs {
                        (act("stay", "stay", "Preview taking it back"))
                    } @else {
                        (act("depart-reboot", "depart", "Preview for a reboot"))
                        (act("depart-shutdown", "depart", "Preview for a shutdown"))
                    }
                }
            }
        }
    }
}

fn of_machine(host: &HostView) -> Facts {
    let iommu = match &host.iommu {
        Iommu::Off => html! { (badge(Tone::Bad, "off")) " no unit under " code { "/sys/class/iommu" } },
        Iommu::On { units } => html! { (badge(Tone::Good, "on")) " " code { (units.join(", ")) } },
    };
    let libvirt = match &host.libvirt {
        LibvirtView::Up { libvirt, qemu } => html! { "libvirt " (libvirt) ", QEMU " (qemu) },
        LibvirtView::Down { reason } => html! { (badge(Tone::Bad, "down")) " " (reason) },
    };
    Facts::new()
        .and("Processor", format!("{}, {} threads", host.cpu_model, host.cpus))
        .and("Memory", size(host.memory_mib))
        .and("Kernel", html! { code { (host.kernel) } })
        .and("IOMMU", iommu)
        .and("Hypervisor", libvirt)
        .and("Boot", html! { code { (host.boot_id) } })
        .and("Last report", time(host.observed_at))
}

fn of_use(host: &HostView) -> Facts {
    let vms = html! {
        (host.vms_running) " of " (host.vms) " run. " a href={ "/vms?host=" (host.name) } { "List them" }
    };
    Facts::new()
        .and("GPUs", html! { (host.gpus) ". " a href={ "/gpus?host=" (host.name) } { "List them" } })
        .and("Partitions", format!("{} of {} free", host.partitions_free, host.partitions))
        .and("VMs", vms)
}

fn of_member(member: &MemberView) -> Facts {
    let duty = match member.duty {
        Duty::Serving => "takes VMs",
        Duty::Maintenance => "in maintenance: takes no VMs, over its reboots",
    };
    let labels = html! {
        @if member.labels.is_empty() { "none" }
        @for (key, value) in &member.labels { div { code { (key) "=" (value) } } }
    };
    let fence = member.agent.as_ref().map(|agent| {
        let then = if member.leave_off { "it stays off" } else { "it is turned on again" };
        format!("{agent}; {then}")
    });
    Facts::new()
        .and("Standing", standing(member.standing))
        .and("Duty", duty)
        .and("Watchdog", guard(member.guard))
        .and("Fence agent", fence.unwrap_or_else(|| "none".to_owned()))
        .and("Labels", labels)
        .and("Memory kept for the host", size(member.reserved_memory_mib))
}

fn stuck(host: &HostView) -> Markup {
    let rows = host.stuck.iter().map(|call| {
        let gpu = call.gpu.as_ref().map(ToString::to_string);
        vec![html! { code { (call.call) } }, html! { (crate::words::or_unknown(gpu)) }, time(call.since)]
    });
    html! {
        @if !host.stuck.is_empty() {
            h2 { "Kernel calls that have not come back" }
            (table("Stuck calls", &[text("Call"), text("GPU"), text("Since")], rows.collect(), ""))
        }
    }
}

fn gpus_table(gpus: &[GpuView]) -> Markup {
    let rows = gpus.iter().map(|gpu| {
        let key = GpuKey { host: gpu.host.clone(), address: gpu.address.clone() };
        vec![
            html! { a href=(links::gpu(&key)) { code { (gpu.address) } } },
            html! { (gpu.model) },
            gpu_status(gpu.status),
            html! { (mode(&gpu.mode)) },
            html! { (gpu.free) " of " (gpu.total) },
            html! { (size_if_known(gpu.vram_mib)) },
        ]
    });
    let columns =
        [text("Address"), text("Model"), text("Status"), text("Mode"), number("Free"), number("Memory")];
    table("GPUs of this host", &columns, rows.collect(), "It reports no GPU.")
}

/// Shows what draining a host, letting it serve again, changing it, or taking it for down would do; or does it.
pub(crate) async fn act(
    visit: Visit,
    Named((name, act)): Named<(HostName, String)>,
    Posted(fields): Posted,
) -> Answer {
    let page = links::host(&name);
    let (title, button, is_grave, rest, body) = match act.as_str() {
        "set" => return host_set::set(&visit, &name, &fields).await,
        "drain" => (format!("Drain {name}"), "Drain it", true, "drain", json!({})),
        "undrain" => (format!("Let {name} serve again"), "Let it serve again", false, "undrain", json!({})),
        "confirm-down" => (
            format!("Take {name} for down: if it is not, its VMs run twice"),
            "I have made sure that it is off",
            true,
            "confirm-down",
            json!({}),
        ),
        "depart-reboot" => {
            (format!("Let {name} reboot"), "See to its VMs", true, "depart", json!({ "way": "reboot" }))
        }
        "depart-shutdown" => {
            (format!("Let {name} shut down"), "See to its VMs", true, "depart", json!({ "way": "shutdown" }))
        }
        "stay" => (format!("Let {name} stay"), "Let it stay", false, "stay", json!({})),
        _ => return Err(Trouble::nothing_at(&format!("{page}/{act}"))),
    };
    let proposal = Proposal {
        title,
        button,
        is_grave,
        back: (&page, name.as_str()),
        at: "/hosts",
        then: Some(page.clone()),
        otherwise: None,
        method: Method::POST,
        path: format!("/v1/hosts/{name}/{rest}"),
        body: Some(body),
    };
    proposal.answer(&visit, &fields).await
}
