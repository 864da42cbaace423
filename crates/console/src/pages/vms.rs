//! All VMs, a page at a time, as a filter leaves them.

use maud::{Markup, html};
use tranche_api::view::{VmState, VmView};
use tranche_core::label;

use crate::ask::{Answer, Visit};
use crate::fields::{Asked, Fields};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::form::{Field, choice};
use crate::parts::paging::{Paged, ROWS_PER_PAGE};
use crate::parts::table::{number, table, text};
use crate::words::{number as count_of, or_unknown, request, size_if_known, vm_state};

/// The list.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let vms: Vec<VmView> = visit.get("/v1/vms").await?;
    let all = vms.len();
    let wanted: Vec<VmView> = vms.into_iter().filter(|vm| is_wanted(vm, &asked)).collect();
    let found = wanted.len();
    let paged = Paged::of(wanted, &asked, ROWS_PER_PAGE);
    let empty = if all == 0 { "There is no VM yet." } else { "No VM is like that." };
    let body = html! {
        p class="acts above-right" {
            @if visit.may("GET", "/v1/invitations") { a class="button" href="/invitations" { "Invitations" } }
            @if visit.may("POST", "/v1/vms/name/adopt") { a class="button" href="/adopt" { "Adopt a domain" } }
            @if visit.may("POST", "/v1/vms") { a class="button main" href="/vms/new" { "New VM" } }
        }
        (filter(&asked))
        (live("live", html! {
            p class="quiet" { @if found == all { (count_of(all, "VM", "VMs")) } @else { (found) " of " (count_of(all, "VM", "VMs")) } }
            (rows(&paged.rows, empty))
            (paged.links("/vms", &asked))
        }))
    };
    Ok(visit.page(&Page { title: "VMs", at: "/vms", above: &[], body }))
}

fn is_wanted(vm: &VmView, asked: &Fields) -> bool {
    let told = || {
        let (host, profile) = (or_unknown(vm.host.as_ref()), or_unknown(vm.profile.as_ref()));
        let labels = label::text(&vm.labels, " ");
        let guest = or_unknown(vm.guest_os.as_ref());
        format!("{} {host} {profile} {guest} {} {labels}", vm.name, request(&vm.request))
    };
    asked.get("text").is_none_or(|text| told().to_lowercase().contains(&text.to_lowercase()))
        && asked.get("state").is_none_or(|state| vm.state.as_str() == state)
        && asked.get("host").is_none_or(|host| vm.host.as_ref().is_some_and(|own| own.as_str() == host))
}

fn filter(asked: &Fields) -> Markup {
    let states = VmState::ALL.map(|state| (state.as_str().to_owned(), state.as_str().to_owned()));
    let states: Vec<_> = std::iter::once((String::new(), "any".to_owned())).chain(states).collect();
    let field = |name, label| Field {
        name,
        label,
        value: asked.get(name).unwrap_or_default(),
        kind: "search",
        is_optional: true,
        ..Field::default()
    };
    html! {
        form class="filter" method="get" action="/vms" role="search" {
            (field("text", "Text"))
            (choice("state", "State", &states, asked.get("state").unwrap_or_default()))
            (field("host", "Host"))
            button { "Filter" }
            a class="button" href="/vms" { "All" }
        }
    }
}

/// VMs as rows.
fn rows(vms: &[VmView], empty: &str) -> Markup {
    let columns = [
        text("Name"),
        text("State"),
        text("Host"),
        text("GPU"),
        text("Profile"),
        number("Video memory"),
        number("vCPUs"),
        number("Memory"),
        text("Findings"),
    ];
    let rows = vms.iter().map(|vm| {
        vec![
            html! { a href=(links::vm(&vm.name)) { (vm.name) } },
            html! { (vm_state(vm.state)) @if let Some(to) = &vm.moves_to { " to " (to) } },
            html! { @if let Some(host) = &vm.host { a href=(links::host(host)) { (host) } } @else { (or_unknown(None::<&str>)) } },
            html! { (held(vm)) },
            html! { (or_unknown(vm.profile.as_ref())) },
            html! { (size_if_known(vm.vram_mib)) },
            html! { (or_unknown(vm.vcpus)) },
            html! { (size_if_known(vm.memory_mib)) },
            html! { @if let Some(first) = vm.findings.first() { span class="quiet" title=(first.message) { (first.code) } } },
        ]
    });
    table("VMs", &columns, rows.collect(), empty)
}

/// What a VM holds, or what it asks for while it holds nothing.
fn held(vm: &VmView) -> Markup {
    html! {
        @if let Some(address) = &vm.gpu {
            code { (address) @if let Some(index) = vm.partition { "/" (index) } }
            @if vm.holds.len() > 1 { " and " (vm.holds.len() - 1) " more" }
        } @else {
            span class="quiet" { (request(&vm.request)) }
        }
    }
}
