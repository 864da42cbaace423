//! A new VM, and the fields with which a GPU is asked for.

use axum::http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::to_value;
use tranche_api::request::CreateVm;
use tranche_core::capacity::Capacity;
use tranche_core::label::Labels;
use tranche_core::name::PoolName;
use tranche_core::spec::{Availability, Firmware, Request, VmHardware, VolumeRef};

use super::vm_set;
use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Fields, Posted};
use crate::layout::Page;
use crate::links;
use crate::parts::form::{Deed, Field, change, choice, limit, tick};
use crate::parts::nothing;
use crate::proposal::Proposal;
use crate::words::size;

const REST: &str = "/v1/vms";

/// The sizes that VMs can ask for.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    profiles: Vec<(String, Option<u64>)>,
    pools: Vec<PoolName>,
}

/// The sizes that there are.
pub(crate) fn sizes(capacity: Option<&Capacity>) -> Sizes {
    let mut sizes = Sizes::default();
    for size in capacity.iter().flat_map(|capacity| &capacity.sizes) {
        sizes.profiles.extend(size.profile.clone().map(|profile| (profile, size.vram_mib)));
        sizes.pools.extend(size.pool.clone());
    }
    sizes
}

/// The form.
pub(crate) async fn show(visit: Visit) -> Answer {
    let capacity: Option<Capacity> = visit.find("/v1/capacity").await;
    let body = html! {
        @if visit.may("POST", REST) {
            (change(&visit, Deed { action: "/vms/new", method: "POST", rest: REST }, fields(&sizes(capacity.as_ref()))))
        } @else {
            (nothing("Only operators and administrators make VMs."))
        }
    };
    Ok(visit.page(&Page { title: "New VM", at: "/vms", above: &[("/vms", "VMs")], body }))
}

fn fields(sizes: &Sizes) -> Markup {
    let firmware =
        [("uefi", "UEFI"), ("bios", "BIOS")].map(|(value, label)| (value.to_owned(), label.to_owned()));
    html! {
        div class="columns" {
            section class="panel" {
                h2 { "Machine" }
                (Field { name: "name", label: "Name", help: "Letters, digits, \u{2018}.\u{2019}, \u{2018}_\u{2019} and \u{2018}-\u{2019}.", ..Field::default() })
                (Field { name: "guest_os", label: "Guest system", is_optional: true, help: "A libosinfo short id, such as ubuntu24.04 or win11.", ..Field::default() })
                (Field { name: "vcpus", label: "vCPUs", value: "4", kind: "number", ..Field::default() })
                (Field { name: "memory_mib", label: "Memory in MiB", value: "8192", kind: "number", ..Field::default() })
                (choice("firmware", "Firmware", &firmware, "uefi"))
            }
            section class="panel" {
                h2 { "Disks and networks" }
                p class="field" {
                    label for="f-disks" { "Disks" }
                    textarea id="f-disks" name="disks" rows="3" spellcheck="false" aria-describedby="help-disks" {}
                    span class="help" id="help-disks" { "One a line, as pool/volume of libvirt; the first one boots." }
                }
                (Field { name: "networks", label: "Networks", value: "default", is_optional: true, help: "Names of libvirt networks, with commas between them.", ..Field::default() })
                p class="field" {
                    label for="f-cloud" { "cloud-init user data" span class="quiet" { " (optional)" } }
                    textarea id="f-cloud" name="cloud_init" rows="4" spellcheck="false" {}
                }
            }
            section class="panel" {
                h2 { "GPU" }
                (request_fields(sizes, &Fields::default(), Some("any")))
                (tick("reserved", "Keep its partition while it is off", ""))
                (limit(&Fields::default(), "numa_node", "Preferred NUMA node", None::<u16>, "It is given a GPU of this node if one is free."))
                (vm_set::labels_field(&Fields::default(), &Labels::new()))
            }
            section class="panel" {
                h2 { "Availability" }
                (vm_set::fields(&Fields::default(), &Availability::default()))
            }
        }
        p class="help" { "It is off at first." }
        div class="buttons" { button class="main" { "Preview" } a class="button" href="/vms" { "Cancel" } }
    }
}

/// The fields with which a GPU is asked for. Where none may be asked for, too, `chosen` is what is chosen at first.
pub(crate) fn request_fields(sizes: &Sizes, typed: &Fields, chosen: Option<&str>) -> Markup {
    let none = chosen.map(|_| ("none", "No GPU"));
    let kinds = [
        ("any", "A partition of any size"),
        ("profile", "A partition of a profile"),
        ("memory", "A partition of a size"),
        ("whole", "Whole GPUs"),
    ];
    let kinds: Vec<(String, String)> =
        none.into_iter().chain(kinds).map(|(value, label)| (value.to_owned(), label.to_owned())).collect();
    html! {
        (choice("gpu", "What it asks for", &kinds, typed.or("gpu", chosen.unwrap_or("any"))))
        (Field { name: "profile", value: typed.or("profile", ""), label: "Profile", is_optional: true, list: Some("profiles"), help: "For a partition of a profile.", ..Field::default() })
        (Field { name: "vram_mib", value: typed.or("vram_mib", ""), label: "Video memory in MiB", is_optional: true, kind: "number", list: Some("memories"), help: "For a partition of a size." })
        (Field { name: "gpus", label: "Number of whole GPUs", value: typed.or("gpus", "1"), is_optional: true, kind: "number", help: "For whole GPUs.", ..Field::default() })
        (Field { name: "pool", value: typed.or("pool", ""), label: "Pool", is_optional: true, list: Some("pools"), help: "For whole GPUs; any if left empty.", ..Field::default() })
        datalist id="profiles" { @for (profile, memory) in &sizes.profiles { option value=(profile) { @if let Some(mib) = memory { (size(*mib)) } } } }
        datalist id="memories" { @for mib in sizes.profiles.iter().filter_map(|(_, memory)| *memory) { option value=(mib) { (size(mib)) } } }
        datalist id="pools" { @for pool in &sizes.pools { option value=(pool) {} } }
    }
}

/// What a VM asks for, from those fields.
///
/// # Errors
/// A field that it needs is empty or wrong.
pub(crate) fn request_of(fields: &Fields) -> Result<Request, Trouble> {
    Ok(match fields.get("gpu") {
        Some("any") => Request::ANY_PARTITION,
        Some("profile") => {
            Request::Partition { vram_mib: None, profile: Some(fields.needed("profile", "Profile")?) }
        }
        Some("memory") => Request::Partition {
            vram_mib: Some(fields.needed("vram_mib", "Video memory in MiB")?),
            profile: None,
        },
        Some("whole") => Request::Whole {
            gpus: fields.parsed("gpus", "Number of whole GPUs")?.unwrap_or(1),
            pool: fields.parsed("pool", "Pool")?,
        },
        _ => Request::None,
    })
}

/// Shows what making the VM would do, or makes it.
pub(crate) async fn create(visit: Visit, Posted(fields): Posted) -> Answer {
    let wish = wish(&fields)?;
    let name = wish.name.clone();
    let proposal = Proposal {
        title: format!("New VM {name}"),
        button: "Make it",
        is_grave: false,
        back: ("/vms/new", "New VM"),
        at: "/vms",
        then: name.parse().ok().map(|name| links::vm(&name)),
        otherwise: None,
        method: Method::POST,
        path: REST.to_owned(),
        body: to_value(&wish).ok(),
    };
    proposal.answer(&visit, &fields).await
}

fn wish(fields: &Fields) -> Result<CreateVm, Trouble> {
    let networks = fields.get("networks").unwrap_or_default().split(',').map(str::trim);
    let availability = Availability::default();
    Ok(CreateVm {
        name: fields.needed("name", "Name")?,
        hardware: VmHardware {
            vcpus: fields.needed("vcpus", "vCPUs")?,
            memory_mib: fields.needed("memory_mib", "Memory in MiB")?,
            disks: disks(fields.get("disks").unwrap_or_default())?,
            networks: networks.filter(|network| !network.is_empty()).map(str::to_owned).collect(),
            firmware: if fields.get("firmware") == Some("bios") { Firmware::Bios } else { Firmware::Uefi },
            guest_os: fields.text("guest_os"),
            // Browsers send lines as mail does; a script whose first line ends so has no interpreter.
            cloud_init: fields.text("cloud_init").map(|text| text.replace("\r\n", "\n")),
        },
        request: request_of(fields)?,
        labels: vm_set::labels_of(fields)?,
        reserved: fields.is_on("reserved"),
        prefer_numa_node: fields.parsed("numa_node", "Preferred NUMA node")?,
        availability: vm_set::part(fields, &availability)?.over(availability),
    })
}

fn disks(lines: &str) -> Result<Vec<VolumeRef>, Trouble> {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let disk = |line: &str| {
        let (pool, volume) = line.split_once('/').ok_or_else(|| {
            let message =
                format!("\u{201c}{}\u{201d} is no disk.", line.chars().take(80).collect::<String>());
            Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, &message, "Name each as pool/volume, one a line.")
        })?;
        Ok(VolumeRef { pool: pool.to_owned(), volume: volume.to_owned() })
    };
    lines.map(disk).collect()
}
