//! What is done with VMs. To start one harms nobody and is done at once; all else is shown first.

use axum::http::Method;
use serde_json::{Value, json};
use tranche_core::name::{HostName, VmName};

use super::vm_new::request_of;
use super::{vm_handover, vm_set};
use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Fields, Named, Posted};
use crate::links;
use crate::proposal::Proposal;

/// How an act is worded, and what it asks for.
struct Act {
    title: &'static str,
    button: &'static str,
    is_grave: bool,
    rest: &'static str,
    body: Value,
}

/// Does it, or shows what it would do.
pub(crate) async fn act(
    visit: Visit,
    Named((name, act)): Named<(VmName, String)>,
    Posted(fields): Posted,
) -> Answer {
    let page = links::vm(&name);
    if act == "delete" {
        return delete(&visit, &name, &page, &fields).await;
    }
    if act == "set" {
        return vm_set::set(&visit, &name, &fields).await;
    }
    if act == "handover" {
        return vm_handover::hand_over(&visit, &name, &fields).await;
    }
    let is_start = act == "start";
    let Act { title, button, is_grave, rest, body } =
        known(&act, &fields)?.ok_or_else(|| Trouble::nothing_at(&format!("{page}/{act}")))?;
    let proposal = Proposal {
        title: format!("{title} {name}"),
        button,
        is_grave,
        back: (&page, name.as_str()),
        at: "/vms",
        then: Some(page.clone()),
        otherwise: None,
        method: Method::POST,
        path: format!("/v1/vms/{name}/{rest}"),
        body: Some(body),
    };
    if is_start { proposal.make(&visit).await } else { proposal.answer(&visit, &fields).await }
}

fn known(act: &str, fields: &Fields) -> Result<Option<Act>, Trouble> {
    let plain = |title, button, is_grave, rest, body| Some(Act { title, button, is_grave, rest, body });
    let force = fields.is_on("force");
    Ok(match act {
        "start" => plain("Start", "Start it", false, "start", json!({})),
        "stop" => plain("Shut down", "Shut it down", true, "stop", json!({ "force": false })),
        "kill" => plain(
            "Turn off",
            "Turn it off, as if its plug were pulled",
            true,
            "stop",
            json!({ "force": true }),
        ),
        "restart" => {
            plain("Restart", "Shut it down and start it again", true, "restart", json!({ "force": false }))
        }
        // A VM that runs is shut down and started again, which the preview says.
        "detach" => plain("Take the GPU of", "Take its GPU", true, "detach", json!({ "restart": true })),
        "attach" => {
            let body = json!({ "request": request_of(fields)?, "restart": true });
            plain("Give a GPU to", "Give it the GPU", false, "attach", body)
        }
        "migrate" => {
            let to = fields.parsed::<HostName>("to", "Host")?;
            let body = to.map_or_else(|| json!({}), |to| json!({ "to": to }));
            plain("Move", "Move it", false, "migrate", body)
        }
        "take-back" => plain("Keep", "Keep it here", force, "take-back", json!({ "force": force })),
        "take-over" => {
            plain("Take over", "Make it this host\u{2019}s", true, "take-over", json!({ "force": force }))
        }
        _ => None,
    })
}

async fn delete(visit: &Visit, name: &VmName, page: &str, fields: &Fields) -> Answer {
    let force = fields.is_on("force");
    let proposal = Proposal {
        title: format!("Delete {name}"),
        button: "Delete it",
        is_grave: true,
        back: (page, name.as_str()),
        at: "/vms",
        then: None,
        otherwise: Some(("force", "Preview again, with the VM turned off first")),
        method: Method::DELETE,
        path: format!("/v1/vms/{name}{}", if force { "?force=true" } else { "" }),
        body: None,
    };
    proposal.answer(visit, fields).await
}
