//! A VM that goes to a host with a store of its own, or comes from one: how it would go, that it does, and whose it is if one of the two hosts
//! does not come back.
//!
//! What a dry run tells here is the other host's word, which is no [`tranche_api::answer::Preview`]; else it is shown and then done as any
//! other change ([`crate::proposal`]). The token is asked for once, and goes back and forth with the form that it was typed into.

use axum::http::Method;
use maud::{Markup, html};
use tranche_api::answer::Accepted;
use tranche_api::request::HandOverVm;
use tranche_api::view::{VmState, VmView};
use tranche_core::migration::{Outlook, Way};
use tranche_core::name::VmName;

use super::invitations::stands_alone;
use super::vm_places::cost;
use crate::ask::{Answer, Visit};
use crate::fields::Fields;
use crate::guard::see_other;
use crate::layout::Page;
use crate::links;
use crate::parts::finding;
use crate::parts::form::{Deed, Field, change, hidden, tick};
use crate::proposal::{CHANGED, SEEN, digest_of, mended, repeated};
use crate::words::way;

const HEADING: &str = "Move to a host with a store of its own";

/// What can be asked for of a VM that is on its way between two stores, or could be.
pub(crate) async fn forms(visit: &Visit, vm: &VmView) -> Markup {
    if vm.hands_over {
        return take(visit, vm, &TAKE_BACK);
    }
    if vm.comes_from.is_some() {
        return take(visit, vm, &TAKE_OVER);
    }
    let may_go = !matches!(vm.state, VmState::Deleting | VmState::Unknown);
    html! {
        @if may_go && visit.may("POST", &rest(&vm.name)) && stands_alone(visit).await {
            div class="panel change" { (form(visit, &vm.name, &Fields::default())) }
        }
    }
}

fn rest(vm: &VmName) -> String {
    format!("/v1/vms/{vm}/handover")
}

fn form(visit: &Visit, vm: &VmName, typed: &Fields) -> Markup {
    let (action, rest) = (format!("{}/handover", links::vm(vm)), rest(vm));
    let content = html! {
        h2 { (HEADING) }
        p class="help" {
            "The other host makes a token for it, on its page \u{201c}Invitations\u{201d}. It is that host\u{2019}s VM then. The next page shows whether it would go while it runs."
        }
        div class="row" {
            (Field { name: "to", label: "The other host\u{2019}s console", value: typed.or("to", ""), is_optional: true, help: "As https://HOST:7440; the address in the token if left out.", ..Field::default() })
            (Field { name: "token", label: "Token", kind: "password", ..Field::default() })
        }
        div class="buttons" { button { "Preview how it would go" } }
    };
    change(visit, Deed { action: &action, method: "POST", rest: &rest }, content)
}

/// Shows how a VM would go, or lets it go if that was shown.
pub(crate) async fn hand_over(visit: &Visit, vm: &VmName, fields: &Fields) -> Answer {
    match consider(visit, vm, fields).await {
        Ok(answer) => Ok(answer),
        Err(trouble) => {
            let body = html! { div class="panel change" { (form(visit, vm, fields)) } };
            let above = [("/vms", "VMs"), (&*links::vm(vm), vm.as_str())];
            Ok(mended(visit, Page { title: HEADING, at: "/vms", above: &above, body }, &trouble))
        }
    }
}

async fn consider(visit: &Visit, vm: &VmName, fields: &Fields) -> Answer {
    let wish = HandOverVm { to: fields.text("to"), token: fields.needed("token", "Token")? };
    let path = rest(vm);
    let outlook: Outlook = visit.ask(Method::POST, &format!("{path}?dry_run=true"), Some(&wish)).await?;
    let fingerprint = fingerprint(&outlook);
    let seen = fields.get(SEEN);
    if seen == Some(&*fingerprint) && outlook.way != Way::Neither {
        let accepted: Accepted = visit.ask(Method::POST, &path, Some(&wish)).await?;
        // There the VM's page is gone in the end.
        return Ok(see_other(&links::operation(&accepted.operation.id)));
    }
    let (page, action) = (links::vm(vm), format!("{}/handover", links::vm(vm)));
    let again = html! {
        (repeated(fields, &[SEEN]))
        (hidden(SEEN, &fingerprint))
        div class="buttons" {
            button class="main" { "Move it" }
            a class="button" href=(page) { "Cancel" }
        }
    };
    let title = format!("Move {vm} to {}", outlook.host);
    let body = html! {
        @if seen.is_some_and(|seen| seen != fingerprint) { section class="panel warn" role="alert" { p { (CHANGED) } } }
        (told(vm, &outlook))
        @if outlook.way == Way::Neither {
            p { a class="button" href=(page) { "Back" } }
        } @else {
            (change(visit, Deed { action: &action, method: "POST", rest: &path }, again))
        }
    };
    let above = [("/vms", "VMs"), (&*page, vm.as_str())];
    Ok(visit.answer(&Page { title: &title, at: "/vms", above: &above, body }))
}

/// How the other host would take it.
fn told(vm: &VmName, outlook: &Outlook) -> Markup {
    let host = &outlook.host;
    html! {
        section class="panel" {
            h2 { "How it would go" }
            p {
                (way(outlook.way)) " "
                @match outlook.way {
                    Way::Live => { (vm) " goes to " strong { (host) } " while it runs." }
                    Way::Restart => { (vm) " is shut down here and started on " strong { (host) } ". A guest that does not shut down in five minutes is turned off." }
                    Way::Neither => { (vm) " stays here: " strong { (host) } " does not take it." }
                }
            }
            @if let Some(forecast) = &outlook.forecast { div { "Its guest stands still for " (cost(forecast)) } }
            @if outlook.way != Way::Neither { p { "It is that host\u{2019}s VM then; nothing of it is kept here but a record. Its disks are not copied." } }
            (finding::list(&outlook.why_not))
            @if !outlook.live_obstacles.is_empty() {
                h3 { "What stands against moving it while it runs" }
                (finding::brief(&outlook.live_obstacles))
            }
        }
    }
}

/// Stands for what is shown. Times that are foreseen differ from one moment to the next; what happens may not.
fn fingerprint(outlook: &Outlook) -> String {
    let codes = |found: &[tranche_core::finding::Finding]| -> Vec<_> {
        found.iter().map(|finding| (finding.code, finding.subject.clone())).collect()
    };
    digest_of(&(&outlook.host, outlook.way, codes(&outlook.why_not), codes(&outlook.live_obstacles)))
}

/// How an act is worded by which a VM is said to be this host's.
struct Take {
    act: &'static str,
    heading: &'static str,
    help: &'static str,
    force: &'static str,
    button: &'static str,
}

const TAKE_BACK: Take = Take {
    act: "take-back",
    heading: "Keep it here",
    help: "As long as it has not left, it simply stays. Once it may run on the other host, only your word that it does not and never will makes it this host\u{2019}s again.",
    force: "I have seen that the other host does not run it and never will. If it does, it runs twice and ruins its disks",
    button: "Preview taking it back",
};

const TAKE_OVER: Take = Take {
    act: "take-over",
    heading: "Make it this host\u{2019}s own",
    help: "It is still the other host\u{2019}s. Only where that host is gone for good, say so here; to turn it away instead, delete it.",
    force: "I have seen that the other host does not run it and never will. If it does, it runs twice and ruins its disks",
    button: "Preview taking it over",
};

fn take(visit: &Visit, vm: &VmView, take: &Take) -> Markup {
    let (action, rest) =
        (format!("{}/{}", links::vm(&vm.name), take.act), format!("/v1/vms/{}/{}", vm.name, take.act));
    let content = html! {
        h2 { (take.heading) }
        p class="help" { (take.help) }
        (tick("force", take.force, ""))
        div class="buttons" { button { (take.button) } }
    };
    html! { @if visit.may("POST", &rest) { div class="panel change" { (change(visit, Deed { action: &action, method: "POST", rest: &rest }, content)) } } }
}
