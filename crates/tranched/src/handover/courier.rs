//! The courier: tells hosts with other stores what was decided about VMs that go there, and brings back what they answer.
//!
//! It decides nothing and remembers nothing: what it tells stands in the plan, and what it was told last goes into this host's own
//! report. What was not answered is told again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tranche_core::handover::{Answer, Message, Offer, Told, refused};
use tranche_core::name::{InvitationId, VmName};
use tranche_core::plan::VmPlan;

use super::Peers;
use super::peer::Unheard;
use crate::bell::Bell;
use crate::clock;
use crate::engine::{Engine, View};
use crate::rest::state_of;

/// Between two rounds, while a VM goes.
const EVERY: Duration = Duration::from_millis(500);
/// Between two rounds while nobody answers, or somebody is only to be told that a VM stays.
const NOW_AND_THEN: Duration = Duration::from_secs(3);

/// What came of telling a host.
enum Heard {
    /// It answers.
    Told(Told),
    /// It has heard, and has not looked since.
    Noted,
    /// It does not answer, or not so that it says anything about the VM.
    Silent(String),
}

/// Tells what there is to tell, until `stopped`.
pub async fn run(engine: Arc<Engine>, peers: Peers, bell: Bell, mut stopped: watch::Receiver<bool>) {
    let mut views = engine.watch();
    let (mut told, mut silent) = (BTreeMap::new(), BTreeSet::new());
    loop {
        let view = views.borrow_and_update().clone();
        let parting = |planned: &VmPlan| planned.parting.is_some();
        let goes = view.plan.vms.values().any(parting);
        if goes || !told.is_empty() {
            told.retain(|vm, _| view.plan.vms.get(vm).is_some_and(parting));
            silent.retain(|vm| view.plan.vms.get(vm).is_some_and(parting));
            for (vm, heard) in round(&view, &peers).await {
                match heard {
                    Heard::Told(answer) => {
                        silent.remove(&vm);
                        told.insert(vm, answer);
                    }
                    Heard::Noted => drop(silent.remove(&vm)),
                    // Once is enough.
                    Heard::Silent(why) => {
                        if silent.insert(vm.clone()) {
                            tracing::warn!(%vm, why, "the host that a VM goes to says nothing about it");
                        }
                    }
                }
            }
            if engine.note_told(told.clone()) {
                bell.ring();
            }
            clean(&view, &peers).await;
        }
        let is_open = view.plan.vms.values().any(|planned| planned.open_parting().is_some());
        let pause = match (goes, is_open && silent.is_empty()) {
            (false, _) => Duration::MAX,
            (true, true) => EVERY,
            (true, false) => NOW_AND_THEN,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = views.changed() => if changed.is_err() { return },
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// Tells every host that a VM goes to what it is to do now.
async fn round(view: &View, peers: &Peers) -> Vec<(VmName, Heard)> {
    let mut asking = JoinSet::new();
    for (vm, planned) in view.plan.vms.iter() {
        let Some(parting) = &planned.parting else { continue };
        let Some(order) = parting.order() else { continue };
        let Some(offer) = Offer::of(vm, state_of(view)) else { continue };
        let message = Message { id: planned.id, turn: parting.turn, order, offer: Box::new(offer) };
        let (vm, invitation, peers) = (vm.clone(), parting.invitation.clone(), peers.clone());
        asking.spawn(async move { (vm, tell(invitation, &message, peers).await) });
    }
    asking.join_all().await
}

async fn tell(invitation: InvitationId, message: &Message, peers: Peers) -> Heard {
    let wanted = invitation.clone();
    let peer = tokio::task::spawn_blocking(move || peers.get(&wanted)).await;
    let answer = match peer {
        Ok(Ok(Some(peer))) => match peer.tell(message).await {
            Ok(Answer::Noted) => return Heard::Noted,
            Ok(answer) => Ok(answer),
            Err(Unheard::Refused(problem)) => Err(problem.detail),
            Err(Unheard::Silent(why)) => return Heard::Silent(why),
        },
        Ok(Ok(None)) => Err("its token is not known here any more".to_owned()),
        Ok(Err(error)) => return Heard::Silent(error.to_string()),
        Err(_) => return Heard::Silent("the daemon is about to end".to_owned()),
    };
    let answer = answer.or_else(|why| refused(message.order, why.clone()).ok_or(why));
    match answer {
        Ok(answer) => Heard::Told(Told { invitation, turn: message.turn, answer }),
        Err(why) => Heard::Silent(why),
    }
}

/// Forgets the secrets of hosts that nothing goes to any more.
async fn clean(view: &View, peers: &Peers) {
    let wished = view.spec.vms.iter().filter_map(|(_, spec)| spec.outgoing().map(|wish| &wish.invitation));
    let parting = view.plan.vms.iter().filter_map(|(_, planned)| planned.parting.as_ref());
    let used: Vec<_> = wished.chain(parting.map(|parting| &parting.invitation)).cloned().collect();
    let (peers, now) = (peers.clone(), clock::now());
    let forgotten = tokio::task::spawn_blocking(move || peers.forget(|one| used.contains(one), now)).await;
    if let Ok(Err(error)) = forgotten {
        tracing::warn!(%error, "what is not used any more cannot be forgotten");
    }
}
