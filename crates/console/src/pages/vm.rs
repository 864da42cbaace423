//! One VM: what it does and holds, what keeps it from running, and what can be done with it.

use maud::{Markup, html};
use tranche_api::view::{VmOrigin, VmState, VmView};
use tranche_core::capacity::Capacity;
use tranche_core::label;
use tranche_core::spec::Request;

use super::vm_new::{request_fields, sizes};
use super::{vm_console, vm_handover, vm_places, vm_set};
use crate::ask::{Answer, Visit};
use crate::fields::{Asked, Fields, Named};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::facts::Facts;
use crate::parts::form::{Deed, button, change, tick};
use crate::parts::{finding, history as past, operation};
use crate::words::{or_unknown, request, size_if_known, time, vm_state};
use tranche_core::name::VmName;

/// The page.
pub(crate) async fn show(visit: Visit, Named(name): Named<VmName>, Asked(asked): Asked) -> Answer {
    let vm: VmView = visit.get(&format!("/v1/vms/{name}")).await?;
    let capacity: Option<Capacity> =
        if visit.may("POST", &rest(&vm, "attach")) { visit.find("/v1/capacity").await } else { None };
    let body = html! {
        (live("live", html! {
            (operation::notice(&visit, &asked).await)
            div class="state" {
                (vm_state(vm.state))
                @if let Some(to) = &vm.moves_to {
                    span { " to " @if vm.hands_over { (to) } @else { a href=(links::host(to)) { (to) } } @if let Some(percent) = vm.moved_percent { ", " (percent) "\u{a0}% there" } }
                }
                @if let Some(from) = &vm.comes_from { span { " from " (from) } }
                (power(&visit, &vm))
            }
            (finding::list_on(&links::vm(&vm.name), &vm.findings))
            div class="columns" {
                div { h2 { "Where it is" } (of_place(&vm)) h2 { "Machine" } (of_machine(&vm)) }
                div { h2 { "Availability" } (Facts::of(vm_set::told(&vm.availability))) }
            }
        }))
        (past::section(&visit, &links::vm(&vm.name), &format!("/v1/vms/{name}"), &asked).await)
        (live("live-2", vm_places::places(&visit, &vm, &asked).await))
        (vm_handover::forms(&visit, &vm).await)
        (gpu_forms(&visit, &vm, capacity.as_ref()))
        @if vm.state != VmState::Deleting { (vm_set::form(&visit, &vm, &Fields::default())) }
        (ends(&visit, &vm))
    };
    Ok(visit.page_with_charts(&Page { title: vm.name.as_str(), at: "/vms", above: &[("/vms", "VMs")], body }))
}

/// What the charts of the page are drawn from.
pub(crate) async fn history(visit: Visit, Named(name): Named<VmName>, Asked(asked): Asked) -> Answer {
    past::data(&visit, &format!("/v1/vms/{name}"), &asked).await
}

/// The path of an act on a VM in the REST interface.
fn rest(vm: &VmView, act: &str) -> String {
    format!("/v1/vms/{}/{act}", vm.name)
}

/// What stops and starts it, as far as it fits its state.
fn power(visit: &Visit, vm: &VmView) -> Markup {
    let act = |act: &str, rest_act: &str, label, class| {
        let (action, rest) = (format!("{}/{act}", links::vm(&vm.name)), rest(vm, rest_act));
        button(visit, Deed { action: &action, method: "POST", rest: &rest }, label, class)
    };
    html! {
        div class="acts" {
            (consoles(visit, vm))
            @match vm.state {
                VmState::Stopped => { (act("start", "start", "Start", "main")) }
                VmState::Waiting => { (act("stop", "stop", "Let it be off", "")) }
                VmState::Deleting => {}
                _ => {
                    (act("stop", "stop", "Shut down", ""))
                    (act("restart", "restart", "Restart", ""))
                    (act("kill", "stop", "Turn off", "grave"))
                }
            }
        }
    }
}

/// The ways to what a guest shows.
fn consoles(visit: &Visit, vm: &VmView) -> Markup {
    html! {
        @for console in &vm.consoles {
            @let (rest, page, label) = vm_console::of(&vm.name, *console);
            @if visit.may("GET", &rest) { a class="button" href=(page) { (label) } }
        }
    }
}

fn of_place(vm: &VmView) -> Facts {
    let holds = html! {
        @if vm.holds.is_empty() { "nothing" }
        @for slot in &vm.holds { div { a href=(links::gpu(&slot.gpu)) { code { (slot) } } } }
    };
    Facts::new()
        .and(
            "Host",
            match &vm.host {
                Some(host) => html! { a href=(links::host(host)) { (host) } },
                None => html! { "not decided" },
            },
        )
        .and("Asks for", request(&vm.request))
        .and("Holds", holds)
        .and_if("Device", vm.device.as_ref().map(|device| html! { code { (device) } }))
        .and_if("Profile", vm.profile.clone())
        .and_if("Video memory", vm.vram_mib.map(|mib| size_if_known(Some(mib))))
        .and_if("Stand-in", vm.emulated.then_some("what it holds is emulated by the virtual lab"))
        .and("Keeps it while it is off", if vm.reserved { "yes" } else { "no" })
        .and_if("Prefers NUMA node", vm.prefer_numa_node)
}

fn of_machine(vm: &VmView) -> Facts {
    let origin = match vm.origin {
        VmOrigin::Made => "defined by Tranche",
        VmOrigin::Adopted => "adopted; its definition is its user\u{2019}s",
    };
    Facts::new()
        .and("Guest system", or_unknown(vm.guest_os.as_ref()))
        .and("vCPUs", or_unknown(vm.vcpus))
        .and("Memory", size_if_known(vm.memory_mib))
        .and("Definition", origin)
        .and_if("Labels", (!vm.labels.is_empty()).then(|| label::text(&vm.labels, ", ")))
        .and("UUID", html! { code { (vm.id) } })
        .and("Known since", time(vm.created_at))
}

fn gpu_forms(visit: &Visit, vm: &VmView, capacity: Option<&Capacity>) -> Markup {
    let page = links::vm(&vm.name);
    if vm.request != Request::None {
        let deed = Deed { action: &format!("{page}/detach"), method: "POST", rest: &rest(vm, "detach") };
        return html! {
            @if visit.may(deed.method, deed.rest) {
                section class="panel change" {
                    h2 { "Take its GPU" }
                    p class="help" { "A VM that runs is shut down first and started again without it. The next page shows what happens." }
                    (button(visit, deed, "Preview taking its GPU", ""))
                }
            }
        };
    }
    let deed = Deed { action: &format!("{page}/attach"), method: "POST", rest: &rest(vm, "attach") };
    let content = html! {
        h2 { "Give it a GPU" }
        p class="help" { "A VM that runs is shut down first and started again with it. The next page shows what happens." }
        (request_fields(&sizes(capacity), &Fields::default(), None))
        div class="buttons" { button class="main" { "Preview" } }
    };
    html! { div class="panel change" { (change(visit, deed, content)) } }
}

/// What ends it.
fn ends(visit: &Visit, vm: &VmView) -> Markup {
    let page = format!("{}/delete", links::vm(&vm.name));
    let path = format!("/v1/vms/{}", vm.name);
    let content = html! {
        h2 { "Delete it" }
        p class="help" {
            @match vm.origin {
                VmOrigin::Made => { "Its domain is removed from libvirt. Its disks stay." }
                VmOrigin::Adopted => { "Tranche forgets it. Its domain stays as it is." }
            }
        }
        (tick("force", "Turn it off first if it runs", ""))
        div class="buttons" { button class="grave" { "Preview deleting" } }
    };
    html! {
        @if vm.state != VmState::Deleting {
            div class="panel change" { (change(visit, Deed { action: &page, method: "DELETE", rest: &path }, content)) }
        }
    }
}
