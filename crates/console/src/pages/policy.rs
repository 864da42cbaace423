//! The policies: what each means, and the form with which administrators change them.

use axum::http::Method;
use maud::{Markup, html};
use serde_json::to_value;
use tranche_api::view::HostView;
use tranche_core::spec::{
    Admission, FailoverPart, Homogeneity, Limits, Pace, PacePart, PlacementPolicy, Policy, PolicyPart,
    ShutdownPolicy, Timers, TimersPart, VcpusPerCpu,
};

use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Asked, Fields, Posted, changed, changed_limit};
use crate::layout::{Page, live};
use crate::parts::facts::{Facts, Told, differences};
use crate::parts::form::{Deed, change, limit, number, was, word};
use crate::parts::operation;
use crate::proposal::{Beside, Proposal, mended};
use crate::words::wire;

const PAGE: &str = "/policy";
const REST: &str = "/v1/policy";
const TITLE: &str = "Policies";

/// The page.
pub(crate) async fn show(visit: Visit, Asked(asked): Asked) -> Answer {
    let (policy, is_cluster) = tokio::join!(visit.get::<Policy>(REST), is_cluster(&visit));
    let policy = policy?;
    let body = html! {
        (live("live", html! {
            (operation::notice(&visit, &asked).await)
            (Facts::of(told(&policy, is_cluster)))
            @if is_cluster {
                p class="quiet" { "Failover is paused and resumed " a href="/hosts" { "with the hosts" } "." }
            } @else {
                p class="quiet" { "This host stands alone. In a cluster there are policies for the loss of a host and for moves, too." }
            }
        }))
        (form(&visit, &policy, &Fields::default(), is_cluster))
    };
    Ok(visit.page(&Page { title: TITLE, at: PAGE, above: &[], body }))
}

/// Whether this is a cluster. In doubt it is: what only a cluster has is refused elsewhere.
async fn is_cluster(visit: &Visit) -> bool {
    let hosts: Option<Vec<HostView>> = visit.find("/v1/hosts").await;
    hosts.is_none_or(|hosts| hosts.is_empty() || hosts.iter().any(|host| host.member.is_some()))
}

const PLACEMENT: [(&str, &str); 2] = [
    ("pack", "pack: fill a GPU before the next is begun, so that whole GPUs stay free"),
    ("spread", "spread: the emptiest GPU first"),
];
const HOMOGENEITY: [(&str, &str); 2] =
    [("warn", "warn: it is taken with a warning"), ("strict", "strict: it is refused")];
const ADMISSION: [(&str, &str); 3] = [
    ("off", "off: nothing is said"),
    ("warn", "warn: it is started with a warning"),
    ("enforce", "enforce: it is not started"),
];
const SHUTDOWN: [(&str, &str); 4] = [
    (
        "conditional",
        "conditional: they wait for a reboot, a quarter of an hour at most; else they start elsewhere",
    ),
    ("migrate", "migrate: they are moved first, live where that is possible"),
    ("restart", "restart: they are shut down and start elsewhere at once"),
    ("freeze", "freeze: they wait for the host, whatever it does"),
];

/// What is said of each policy.
fn told(policy: &Policy, is_cluster: bool) -> Told {
    let meant = |options: &[(&str, &str)], word: String| {
        options
            .iter()
            .find(|(known, _)| *known == word)
            .map_or(word.clone(), |(_, label)| (*label).to_owned())
    };
    let mut told = vec![
        ("VMs over GPUs", meant(&PLACEMENT, wire(&policy.placement))),
        ("A wish with which GPUs are less alike", meant(&HOMOGENEITY, wire(&policy.homogeneity))),
    ];
    if !is_cluster {
        return told;
    }
    let VcpusPerCpu(vcpus) = policy.vcpus_per_cpu;
    let Timers { heartbeat_ms, lost_ms, reset_ms, restart_ms, election_ms } = policy.failover.timers;
    let Limits { pause_ms, bandwidth_mib_s } = Limits::of(policy.pace, Pace::default());
    let bandwidth = bandwidth_mib_s.map_or_else(|| "all there is".to_owned(), |mib| format!("{mib} MiB/s"));
    let failover = if policy.failover.paused { "paused: nothing follows when a host dies" } else { "on" };
    told.extend([
        ("vCPUs for each processor", format!("{vcpus} at most")),
        ("A VM with which a loss could not be made good", meant(&ADMISSION, wire(&policy.admission))),
        ("VMs of a host that shuts down or reboots", meant(&SHUTDOWN, wire(&policy.shutdown))),
        ("Failover", failover.to_owned()),
        ("A host shows that it lives", format!("every {heartbeat_ms} ms")),
        ("It counts as lost, and its power is cut", format!("{lost_ms} ms after its last heartbeat")),
        ("Its own watchdog has reset it", format!("{reset_ms} ms after it")),
        ("Its VMs start elsewhere", format!("{restart_ms} ms after it, on its watchdog\u{2019}s word")),
        ("The store chooses another leader", format!("after {election_ms} ms without word from it")),
        ("Longest pause of a VM that moves", format!("{pause_ms} ms")),
        ("Bandwidth of a VM that moves", bandwidth),
    ]);
    told
}

fn form(visit: &Visit, policy: &Policy, typed: &Fields, is_cluster: bool) -> Markup {
    let content = html! {
        (was(typed, policy))
        div class="columns" {
            section class="panel" {
                h2 { "GPUs" }
                (word(typed, ("placement", "VMs over GPUs"), &PLACEMENT, policy.placement, "Where the next VM goes while rules leave a choice."))
                (word(typed, ("homogeneity", "A wish with which GPUs are less alike"), &HOMOGENEITY, policy.homogeneity, "Of GPUs that serve VMs."))
                @if is_cluster { (of_vms(policy, typed)) }
            }
            @if is_cluster {
                section class="panel" { h2 { "Loss of a host" } (of_loss(policy, typed)) }
            }
        }
        div class="buttons" { button class="main" { "Preview" } }
    };
    html! {
        @if visit.may("PUT", REST) { h2 { "Change them" } }
        (change(visit, Deed { action: PAGE, method: "PUT", rest: REST }, content))
    }
}

fn of_vms(policy: &Policy, typed: &Fields) -> Markup {
    let VcpusPerCpu(vcpus) = policy.vcpus_per_cpu;
    html! {
        h2 { "VMs" }
        (number(typed, "vcpus_per_cpu", "vCPUs for each processor", vcpus, "How many those of a host may have together, for each of its processors."))
        (word(typed, ("admission", "A VM with which a loss could not be made good"), &ADMISSION, policy.admission, "What is said when the VMs of some host would no longer find room elsewhere."))
        (word(typed, ("shutdown", "VMs of a host that shuts down or reboots"), &SHUTDOWN, policy.shutdown, "When its administrator does so."))
        h2 { "Moves" }
        (limit(typed, "pause_ms", "Longest pause in ms", policy.pace.pause_ms, "For how long a guest may stand still on its way, where its VM does not say; 100000 if left empty."))
        (limit(typed, "bandwidth_mib_s", "Bandwidth in MiB/s", policy.pace.bandwidth_mib_s, "How much each VM may send on its way; all there is if left empty."))
    }
}

fn of_loss(policy: &Policy, typed: &Fields) -> Markup {
    let Timers { heartbeat_ms, lost_ms, reset_ms, restart_ms, election_ms } = policy.failover.timers;
    html! {
        p class="help" { "Times count from a host\u{2019}s last heartbeat, and each leaves room for the one before it. Shorter ones take a busy network for a loss." }
        (number(typed, "heartbeat_ms", "Heartbeat in ms", heartbeat_ms, "How often a host shows that it lives."))
        (number(typed, "lost_ms", "Lost after ms", lost_ms, "It gets no more VMs, and its fence agent cuts its power. At least three heartbeats."))
        (number(typed, "reset_ms", "Reset after ms", reset_ms, "By then its own watchdog has reset it. At least 2000 more than lost."))
        (number(typed, "restart_ms", "Restart after ms", restart_ms, "Its VMs start elsewhere on its watchdog\u{2019}s word. At least 1000 more than reset."))
        (number(typed, "election_ms", "Election after ms", election_ms, "How long the store waits for word from its leader; the same as etcd.election_ms of every host."))
    }
}

/// What somebody changed in the form.
fn part(typed: &Fields, was: &Policy) -> Result<PolicyPart, Trouble> {
    let VcpusPerCpu(vcpus) = was.vcpus_per_cpu;
    let ms = |name, label, was| typed.parsed(name, label).map(|typed| changed(typed, was));
    let before = was.failover.timers;
    let timers = TimersPart {
        heartbeat_ms: ms("heartbeat_ms", "Heartbeat in ms", before.heartbeat_ms)?,
        lost_ms: ms("lost_ms", "Lost after ms", before.lost_ms)?,
        reset_ms: ms("reset_ms", "Reset after ms", before.reset_ms)?,
        restart_ms: ms("restart_ms", "Restart after ms", before.restart_ms)?,
        election_ms: ms("election_ms", "Election after ms", before.election_ms)?,
    };
    let vcpus = changed(typed.parsed("vcpus_per_cpu", "vCPUs for each processor")?, vcpus);
    Ok(PolicyPart {
        placement: changed(typed.word::<PlacementPolicy>("placement", "VMs over GPUs")?, was.placement),
        vcpus_per_cpu: vcpus.map(VcpusPerCpu),
        admission: changed(typed.word::<Admission>("admission", "Admission")?, was.admission),
        homogeneity: changed(typed.word::<Homogeneity>("homogeneity", "Homogeneity")?, was.homogeneity),
        failover: FailoverPart { paused: None, timers },
        shutdown: changed(typed.word::<ShutdownPolicy>("shutdown", "Shutdown")?, was.shutdown),
        pace: pace(typed, was.pace)?,
    })
}

/// What somebody changed in the limits of moves: of one VM, or of all.
///
/// # Errors
/// A field is no number.
pub(super) fn pace(typed: &Fields, was: Pace) -> Result<PacePart, Trouble> {
    Ok(PacePart {
        pause_ms: changed_limit(typed, ("pause_ms", "Longest pause in ms"), was.pause_ms)?,
        bandwidth_mib_s: changed_limit(
            typed,
            ("bandwidth_mib_s", "Bandwidth in MiB/s"),
            was.bandwidth_mib_s,
        )?,
    })
}

/// Shows what other policies would do, or sets them: all of them, with what was changed in the form.
pub(crate) async fn set(visit: Visit, Posted(fields): Posted) -> Answer {
    let (now, is_cluster) = tokio::join!(visit.get::<Policy>(REST), is_cluster(&visit));
    let now = now?;
    let form = form(&visit, &now, &fields, is_cluster);
    let above = [(PAGE, TITLE)];
    let part = match part(&fields, &fields.was(now)) {
        Ok(part) => part,
        Err(trouble) => {
            let page = Page { title: "Change the policies", at: PAGE, above: &above, body: form };
            return Ok(mended(&visit, page, &trouble));
        }
    };
    let then = part.over(now);
    let proposal = Proposal {
        title: "Change the policies".to_owned(),
        button: "Set them",
        is_grave: false,
        back: (PAGE, TITLE),
        at: PAGE,
        then: Some(PAGE.to_owned()),
        otherwise: None,
        method: Method::PUT,
        path: REST.to_owned(),
        body: to_value(then).ok(),
    };
    // What only a cluster has is shown all the same where it would be otherwise.
    let differences = differences(&told(&now, true), &told(&then, true));
    proposal.answer_beside(&visit, &fields, &Beside { differences, form: Some(form) }).await
}
