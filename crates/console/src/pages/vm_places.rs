//! Where a VM could be: for one that runs, what a move to each other host would be; for one that waits, why each host does not take it.

use futures_util::future::join_all;
use maud::{Markup, html};
use tranche_api::answer::WhyNot;
use tranche_api::view::{HostView, VmState, VmView};
use tranche_core::migration::{Forecast, Outlook, Way};
use tranche_core::name::HostName;

use crate::ask::Visit;
use crate::fields::Fields;
use crate::links;
use crate::parts::finding::brief;
use crate::parts::form::{Deed, change, hidden};
use crate::parts::table::{table, text};
use crate::words::{Tone, badge, duration, way};

/// Hosts that are asked about at once; another one can be asked about by name.
const HOSTS_ASKED_MAX: usize = 8;
/// Hosts in the table of destinations.
const DESTINATIONS_MAX: usize = 100;

/// What can be said of where a VM could be.
pub(crate) async fn places(visit: &Visit, vm: &VmView, asked: &Fields) -> Markup {
    match vm.state {
        VmState::Running | VmState::Paused | VmState::Moving => destinations(visit, vm).await,
        VmState::Waiting => obstacles(visit, vm, asked).await,
        _ => html! {},
    }
}

async fn destinations(visit: &Visit, vm: &VmView) -> Markup {
    let outlooks: Option<Vec<Outlook>> = visit.find(&format!("/v1/vms/{}/destinations", vm.name)).await;
    let Some(mut outlooks) = outlooks.filter(|outlooks| !outlooks.is_empty()) else { return html! {} };
    outlooks
        .sort_by_key(|outlook| (outlook.way == Way::Neither, outlook.way != Way::Live, outlook.host.clone()));
    let total = outlooks.len();
    let rows = outlooks.iter().take(DESTINATIONS_MAX).map(|outlook| {
        vec![
            html! { a href=(links::host(&outlook.host)) { (outlook.host) } },
            html! { (way(outlook.way)) },
            html! { @if let Some(forecast) = &outlook.forecast { (cost(forecast)) } },
            html! { (brief(&outlook.why_not)) (brief(&outlook.live_obstacles)) },
            html! { @if outlook.way != Way::Neither { (migrate(visit, vm, Some(&outlook.host))) } },
        ]
    });
    let columns = [text("Host"), text("How"), text("Pause"), text("What stands against it"), text("Move")];
    html! {
        h2 { "Where it could go" }
        (table("Where it could go", &columns, rows.collect(), ""))
        @if total > DESTINATIONS_MAX { p class="quiet" { (total - DESTINATIONS_MAX) " more hosts" } }
        (migrate(visit, vm, None))
    }
}

/// For how long the guest would stand still, and how long all would take.
pub(super) fn cost(forecast: &Forecast) -> Markup {
    let link = if forecast.is_link_measured { "measured" } else { "assumed" };
    let least = if forecast.dirty_mib_s.is_none() { "at least " } else { "" };
    html! {
        (least) (duration(forecast.pause_ms))
        div class="quiet" { (duration(forecast.total_ms)) " in all; link " (forecast.link_mib_s) " MiB/s, " (link) }
    }
}

fn migrate(visit: &Visit, vm: &VmView, to: Option<&HostName>) -> Markup {
    let (action, rest) = (format!("{}/migrate", links::vm(&vm.name)), format!("/v1/vms/{}/migrate", vm.name));
    let label = if to.is_some() { "Preview" } else { "Preview a move to the best host" };
    let id = to.map_or_else(|| "move-best".to_owned(), |to| format!("move-{to}"));
    let content = html! {
        @if let Some(to) = to { (hidden("to", to.as_str())) }
        button id=(id) aria-label=[to.map(|to| format!("Preview a move to {to}"))] { (label) }
    };
    change(visit, Deed { action: &action, method: "POST", rest: &rest }, content)
}

async fn obstacles(visit: &Visit, vm: &VmView, asked: &Fields) -> Markup {
    let hosts: Vec<HostView> = visit.find("/v1/hosts").await.unwrap_or_default();
    let total = hosts.len();
    let named = asked.get("why");
    let chosen = hosts
        .into_iter()
        .map(|host| host.name)
        .filter(|host| named.is_none_or(|named| host.as_str() == named));
    let paths = chosen.take(HOSTS_ASKED_MAX).map(|host| format!("/v1/why-not/{}/{host}", vm.name));
    let answers = join_all(paths.map(|path| async move { visit.find::<WhyNot>(&path).await })).await;
    let rows = answers.into_iter().flatten().map(|answer| {
        let verdict =
            if answer.possible { badge(Tone::Good, "could run") } else { badge(Tone::Warn, "cannot run") };
        vec![html! { a href=(links::host(&answer.host)) { (answer.host) } }, verdict, brief(&answer.findings)]
    });
    let columns = [text("Host"), text("Verdict"), text("Why not")];
    html! {
        h2 { "Why it waits" }
        (table("Why each host does not take it", &columns, rows.collect(), "No host of that name is known."))
        @if total > HOSTS_ASKED_MAX {
            form class="filter" method="get" action=(links::vm(&vm.name)) {
                p class="field" { label for="f-why" { "Why not on host" } input id="f-why" name="why" value=(named.unwrap_or_default()); }
                button { "Ask" }
            }
        }
    }
}
