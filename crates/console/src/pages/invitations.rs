//! Invitations: places for VMs that come from hosts with stores of their own. A token is shown once, on the page that follows on its making.

use axum::http::Method;
use maud::{Markup, html};
use tranche_api::request::InviteVm;
use tranche_api::view::{HostView, InvitationMade, InvitationState, InvitationView};
use tranche_core::handover::INVITATION_MINUTES;
use tranche_core::name::InvitationId;

use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Fields, Named, Posted};
use crate::layout::{Page, live};
use crate::links;
use crate::parts::form::{Deed, button, change, limit};
use crate::parts::table::{table, text};
use crate::proposal::mended;
use crate::words::{Tone, badge, time};

/// Where the page is.
pub(crate) const PAGE: &str = "/invitations";
const REST: &str = "/v1/invitations";
const TITLE: &str = "Invitations";
const ABOVE: [(&str, &str); 1] = [("/vms", "VMs")];
/// An id is a digest; so much of it tells one from another.
const ID_SHOWN: usize = 12;

/// The list, and the form that makes another one.
pub(crate) async fn show(visit: Visit) -> Answer {
    let invitations: Vec<InvitationView> = visit.get(REST).await?;
    let alone = stands_alone(&visit).await;
    let body = html! {
        p class="help" {
            "A VM of a host that shares no store with this one comes by an invitation: its token is typed in on the VM\u{2019}s page there. The VM comes while it runs where that is possible, and is this host\u{2019}s then."
        }
        @if !alone {
            section class="panel notice" { p {
                "This host is in a cluster, and VMs come to a cluster by no invitation: they move between its members. One of another host can be adopted here once its definition and disks are."
            } }
        }
        (live("live", rows(&visit, &invitations, alone)))
        @if alone { div class="panel change" { (form(&visit, &Fields::default())) } }
    };
    Ok(visit.page(&Page { title: TITLE, at: "/vms", above: &ABOVE, body }))
}

/// Whether the host that answers is in no cluster.
pub(crate) async fn stands_alone(visit: &Visit) -> bool {
    let hosts: Vec<HostView> = visit.find("/v1/hosts").await.unwrap_or_default();
    hosts.iter().all(|host| host.member.is_none())
}

fn rows(visit: &Visit, invitations: &[InvitationView], alone: bool) -> Markup {
    let rows = invitations.iter().map(|invitation| {
        let id = &invitation.id;
        let short: String = id.to_string().chars().take(ID_SHOWN).collect();
        let (action, rest) = (format!("{PAGE}/{id}/withdraw"), format!("{REST}/{id}"));
        let deed = Deed { action: &action, method: "DELETE", rest: &rest };
        let is_unused = matches!(invitation.state, InvitationState::Open | InvitationState::Over);
        vec![
            html! { code title=(id) { (short) } },
            state(invitation.state),
            html! { @if let Some(vm) = &invitation.vm {
                @match invitation.state {
                    InvitationState::Dropped => { (vm) }
                    _ => { a href=(links::vm(vm)) { (vm) } }
                }
            } },
            html! { @if let Some(from) = &invitation.from { (from) } },
            time(invitation.created_at),
            time(invitation.until),
            html! { @if alone && is_unused { (button(visit, deed, "Withdraw", "")) } },
        ]
    });
    let columns = [
        text("Invitation"),
        text("State"),
        text("VM"),
        text("From"),
        text("Made"),
        text("Ends"),
        text("More"),
    ];
    table(TITLE, &columns, rows.collect(), "There are no invitations.")
}

fn state(state: InvitationState) -> Markup {
    match state {
        InvitationState::Open => badge(Tone::Good, "open"),
        InvitationState::Over => badge(Tone::Off, "over"),
        InvitationState::Coming => badge(Tone::Busy, "coming"),
        InvitationState::Arrived => badge(Tone::Plain, "arrived"),
        InvitationState::Dropped => badge(Tone::Off, "did not come"),
    }
}

fn form(visit: &Visit, typed: &Fields) -> Markup {
    let (least, most) = (INVITATION_MINUTES.start(), INVITATION_MINUTES.end());
    let help = format!("For how long the token can be used: {least} to {most}; an hour if left out.");
    let content = html! {
        h2 { "Invite a VM" }
        p class="help" {
            "Until the VM has arrived, whoever has the token can do with this host\u{2019}s VMs what root can: hand it on as you would a password."
        }
        (limit(typed, "minutes", "Minutes", None::<u64>, &help))
        div class="buttons" { button class="main" { "Make a token" } }
    };
    change(visit, Deed { action: PAGE, method: "POST", rest: REST }, content)
}

/// Makes an invitation, and shows its token.
pub(crate) async fn make(visit: Visit, Posted(fields): Posted) -> Answer {
    let made: Result<InvitationMade, Trouble> = match fields.parsed("minutes", "Minutes") {
        Ok(minutes) => visit.ask(Method::POST, REST, Some(&InviteVm { minutes })).await,
        Err(trouble) => Err(trouble),
    };
    let title = "New invitation";
    let above = [("/vms", "VMs"), (PAGE, TITLE)];
    Ok(match made {
        Ok(made) => visit.answer(&Page { title, at: "/vms", above: &above, body: shown_once(&made) }),
        Err(trouble) => {
            let body = html! { div class="panel change" { (form(&visit, &fields)) } };
            mended(&visit, Page { title, at: "/vms", above: &above, body }, &trouble)
        }
    })
}

fn shown_once(made: &InvitationMade) -> Markup {
    html! {
        section class="panel notice" {
            p { "One VM can come by it to " strong { (made.to) } " until " (time(made.until)) "." }
            p { strong { "Copy it now: it is shown only here." } }
            pre class="secret" { (made.token) }
            p { "On the page of the VM, on its host, it goes into \u{201c}Move to a host with a store of its own\u{201d}. Or there, by command, which reads it from standard input:" }
            pre { "tranche vm migrate VM --to " (made.to) " --token -" }
            p { a class="button" href=(PAGE) { "Done" } }
        }
    }
}

/// Withdraws an invitation that nobody has used: it harms nobody.
pub(crate) async fn withdraw(visit: Visit, Named(id): Named<InvitationId>) -> Answer {
    visit.tell(Method::DELETE, &format!("{REST}/{id}"), None::<&()>).await?;
    Ok(crate::guard::see_other(PAGE))
}
