//! Taking over a libvirt domain that somebody else has defined, as it is.

use axum::http::Method;
use maud::{Markup, html};
use serde_json::to_value;
use tranche_core::capacity::Capacity;
use tranche_core::change::AdoptedVm;
use tranche_core::label::Labels;
use tranche_core::name::VmName;
use tranche_core::spec::Availability;

use super::vm_new::{Sizes, request_fields, request_of, sizes};
use super::vm_set;
use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Fields, Posted};
use crate::layout::Page;
use crate::links;
use crate::parts::form::{Deed, Field, change, limit, ticked};
use crate::parts::nothing;
use crate::proposal::{Beside, Proposal, mended};

const PAGE: &str = "/adopt";
const TITLE: &str = "Adopt a domain";
const ABOVE: [(&str, &str); 1] = [("/vms", "VMs")];
/// What the form asks of the REST interface, whichever name is typed.
const REST: &str = "/v1/vms/name/adopt";

/// The form.
pub(crate) async fn show(visit: Visit) -> Answer {
    let body = html! {
        @if visit.may("POST", REST) {
            (form(&visit, &sizes_of(&visit).await, &Fields::default()))
        } @else {
            (nothing("Only operators and administrators adopt domains."))
        }
    };
    Ok(visit.page(&Page { title: TITLE, at: "/vms", above: &ABOVE, body }))
}

async fn sizes_of(visit: &Visit) -> Sizes {
    let capacity: Option<Capacity> = visit.find("/v1/capacity").await;
    sizes(capacity.as_ref())
}

fn form(visit: &Visit, sizes: &Sizes, typed: &Fields) -> Markup {
    let content = html! {
        p class="lead help" {
            "Its definition stays its user\u{2019}s: only the device of a GPU is put into it and taken out again. It is not started on another host."
        }
        div class="columns" {
            section class="panel" {
                h2 { "Domain" }
                (Field { name: "name", label: "Name", value: typed.or("name", ""), help: "As libvirt has it.", ..Field::default() })
                h2 { "GPU" }
                (request_fields(sizes, typed, Some("none")))
                (ticked("reserved", "Keep its partition while it is off", "", typed.is_on_or("reserved", false)))
                (limit(typed, "numa_node", "Preferred NUMA node", None::<u16>, "It is given a GPU of this node if one is free."))
                (vm_set::labels_field(typed, &Labels::new()))
            }
            section class="panel" { h2 { "Availability" } (vm_set::fields(typed, &Availability::default())) }
        }
        div class="buttons" { button class="main" { "Preview" } a class="button" href="/vms" { "Cancel" } }
    };
    change(visit, Deed { action: PAGE, method: "POST", rest: REST }, content)
}

fn wish(fields: &Fields) -> Result<(VmName, AdoptedVm), Trouble> {
    let availability = Availability::default();
    let vm = AdoptedVm {
        request: request_of(fields)?,
        labels: vm_set::labels_of(fields)?,
        reserved: fields.is_on("reserved"),
        prefer_numa_node: fields.parsed("numa_node", "Preferred NUMA node")?,
        availability: vm_set::part(fields, &availability)?.over(availability),
    };
    Ok((fields.needed("name", "Name")?, vm))
}

/// Shows what adopting it would do, or does it.
pub(crate) async fn adopt(visit: Visit, Posted(fields): Posted) -> Answer {
    let form = form(&visit, &sizes_of(&visit).await, &fields);
    let (name, vm) = match wish(&fields) {
        Ok(wish) => wish,
        Err(trouble) => {
            let page = Page { title: TITLE, at: "/vms", above: &ABOVE, body: form };
            return Ok(mended(&visit, page, &trouble));
        }
    };
    let proposal = Proposal {
        title: format!("Adopt {name}"),
        button: "Adopt it",
        is_grave: false,
        back: (PAGE, TITLE),
        at: "/vms",
        then: Some(links::vm(&name)),
        otherwise: None,
        method: Method::POST,
        path: format!("/v1/vms/{name}/adopt"),
        body: to_value(&vm).ok(),
    };
    proposal.answer_beside(&visit, &fields, &Beside { differences: None, form: Some(form) }).await
}
