//! Seats that became free go to hosts that have none: who gives them, and how a member takes its own.
//!
//! Nothing of it is remembered: each look compares what the registry says, what is written down here and what etcd's members
//! say, and takes one step. Whoever is killed goes on with the next look.
//!
//! ```text
//! registry    seat given     by a host that may sign, to the first heir that answers (membership::heirs)
//! this host   certificates for the store, a member that listens, the seat written down, etcd started
//! etcd        its vote, once it has caught up
//! this host   the authority's key, unless it is a witness; only then may it sign
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::membership::{self, Role, Sitter};
use tranche_core::name::HostName;
use tranche_store::{EtcdMember, EtcdMembers, StoreError};

use super::book::{self, Membership, Seat, Standing};
use super::registry::{MemberRecord, Registry};
use super::{Cluster, care, health, revoked, seat, walk};
use crate::clock;

/// How long a host may take to answer whether it could take a seat.
const ANSWER: Duration = Duration::from_secs(5);

type Members = BTreeMap<HostName, MemberRecord>;

/// Takes the next step, if there is one. Returns whether there is one soon after.
///
/// # Errors
/// What stands in the way; it is tried again.
pub(super) fn see_to(cluster: &Cluster) -> Result<bool, Finding> {
    let (Some(known), Some(store)) = (cluster.membership(), cluster.store()) else { return Ok(false) };
    if !cluster.keeps_store() || !cluster.lock().seen.keeps {
        return Ok(false);
    }
    let registry = Registry(store.as_ref());
    let own_url = seat::url(&known.address, cluster.0.etcd.client_port);
    let mut endpoints: Vec<String> =
        known.endpoints.iter().filter(|endpoint| **endpoint != own_url).cloned().collect();
    if endpoints.is_empty() {
        endpoints = known.endpoints.clone();
    }
    // One that listens only says nothing of the others.
    let etcd = health::at(cluster, &endpoints, health::ANSWER_MS).map_err(unanswered)?;
    let list = etcd.list().map_err(unanswered)?;
    // Read after the list: whoever is in that was registered before.
    let members = registry.members()?;
    let Some(own) = members.get(&known.host) else { return Ok(false) };
    cluster.lock().seen.see_pending(pending(&list, &members).into_iter().cloned().collect());
    let mut goes_on = false;
    if own.seat {
        goes_on |= match &known.seat {
            None => claim(cluster, &known, own, &etcd)?,
            Some(_) => get_vote(cluster, &known, &etcd, &list)?,
        };
        goes_on |= get_authority(cluster, &known.host, own, &members)?;
    }
    if own.signs {
        take_out_orphans(&etcd, &list, &members)?;
        goes_on |= give(cluster, &registry, &list, &members)?;
    }
    Ok(goes_on)
}

/// The seats that were given and not taken.
fn pending<'a>(list: &[EtcdMember], members: &'a Members) -> Vec<&'a HostName> {
    let votes = |member: &MemberRecord| {
        list.iter().any(|one| !one.learner && one.peer_urls.contains(&member.peer_url()))
    };
    members.iter().filter(|(_, member)| member.seat && !votes(member)).map(|(host, _)| host).collect()
}

/// Gives a free seat to the first heir that answers.
fn give(
    cluster: &Cluster,
    registry: &Registry<'_>,
    list: &[EtcdMember],
    members: &Members,
) -> Result<bool, Finding> {
    let heirs = |members: &Members| {
        let pending: Vec<HostName> = pending(list, members).into_iter().cloned().collect();
        membership::heirs(members.iter().map(|(host, member)| Sitter {
            host,
            role: member.role,
            joined_at: member.joined_at,
            seat: member.seat,
            votes: !pending.contains(host),
            able: !member.no_etcd,
        }))
    };
    for heir in heirs(members) {
        let Some(member) = members.get(&heir) else { continue };
        let path = "/cluster/store-member/down";
        let answered = care::ask(cluster, &member.address_of_door(), Method::GET, path, Vec::new(), ANSWER);
        if !answered.is_ok_and(|(status, _)| status.is_success()) {
            continue;
        }
        let is_heir = || Ok(heirs(&registry.members()?).contains(&heir));
        if registry.give_seat(&heir, &is_heir)? {
            tracing::info!(host = %heir, "a seat among the store's members is free; this host gets it");
            return Ok(true);
        }
    }
    Ok(false)
}

/// A member that listens and belongs to nobody keeps everybody else from a seat: etcd has one such at a time.
fn take_out_orphans(etcd: &EtcdMembers, list: &[EtcdMember], members: &Members) -> Result<(), Finding> {
    let belongs = |one: &EtcdMember| {
        members.values().any(|member| member.seat && one.peer_urls.contains(&member.peer_url()))
    };
    for orphan in list.iter().filter(|one| one.learner && !belongs(one)) {
        tracing::warn!(
            at = orphan.peer_urls.join(", "),
            "a member of the store that belongs to nobody is taken out"
        );
        etcd.remove(orphan.id).map_err(unanswered)?;
    }
    Ok(())
}

/// Becomes a member of the store that listens, with etcd running.
fn claim(
    cluster: &Cluster,
    known: &Membership,
    own: &MemberRecord,
    etcd: &EtcdMembers,
) -> Result<bool, Finding> {
    let super::Inner { book, etcd: config, .. } = &*cluster.0;
    let store = cluster.store().ok_or_else(say::cluster_none)?;
    if let Err(why) = seat::is_installed(config) {
        let registry = Registry(store.as_ref());
        if let Some((own, at)) = registry.member(&known.host)? {
            registry.change(&known.host, at, &MemberRecord { seat: false, no_etcd: true, ..own })?;
        }
        return Err(say::store_member_failed("take the seat that it was given", &why));
    }
    if !book.certificate("peer").exists() {
        care::try_renew(cluster)?;
    }
    revoked::follow(store.as_ref(), book)?;
    let mut list = etcd.list().map_err(unanswered)?;
    let peer_url = own.peer_url();
    let is_in = |list: &[EtcdMember]| list.iter().any(|one| one.peer_urls.contains(&peer_url));
    if !is_in(&list) {
        // Not while another one is on its way.
        if !etcd.add_learner(&peer_url).map_err(unanswered)? {
            return Ok(true);
        }
        list = etcd.list().map_err(unanswered)?;
    }
    if !is_in(&list) {
        return Ok(true);
    }
    let data = format!("{}-{}", known.cluster, clock::now().0);
    let initial_cluster = seat::initial_cluster(&list, &known.host);
    let taken = Seat { data, initial_cluster, joins: true };
    let seated = {
        let mut state = cluster.lock();
        // Somebody may be on the way out meanwhile.
        let Standing::Member(member) = &mut state.standing else { return Ok(false) };
        let seated = Membership { seat: Some(taken), ..member.clone() };
        book.write(&Standing::Member(seated.clone())).map_err(walk::file)?;
        *member = seated.clone();
        state.seen.listens = true;
        seated
    };
    tracing::info!("this host takes a seat among the store's members");
    start(cluster, &seated)?;
    Ok(true)
}

fn start(cluster: &Cluster, seated: &Membership) -> Result<(), Finding> {
    let mut state = cluster.lock();
    walk::start(&cluster.0.book, &cluster.0.etcd, seated, &mut state.running)
}

/// Asks for the vote of this host's member of the store, if it has none.
fn get_vote(
    cluster: &Cluster,
    known: &Membership,
    etcd: &EtcdMembers,
    list: &[EtcdMember],
) -> Result<bool, Finding> {
    start(cluster, known)?;
    let peer_url = seat::url(&known.address, cluster.0.etcd.peer_port);
    match list.iter().find(|one| one.peer_urls.contains(&peer_url)) {
        Some(own) if own.learner => {
            if etcd.promote(own.id).map_err(unanswered)? {
                tracing::info!("this host's member of the store has its vote");
            }
            Ok(true)
        }
        Some(_) => Ok(false),
        None => Err(say::store_member_failed("join", "the others have taken it out")),
    }
}

/// Gets the authority's key from a host that has it, and says so only then.
fn get_authority(
    cluster: &Cluster,
    host: &HostName,
    own: &MemberRecord,
    members: &Members,
) -> Result<bool, Finding> {
    if own.role == Role::Witness || own.signs {
        return Ok(false);
    }
    let book = &cluster.0.book;
    if walk::authority(book).map_err(walk::file)?.is_none() {
        let key: String = care::ask_signers(cluster, members, Method::GET, "/cluster/authority", Vec::new())?;
        book::write(&book.authority_key(), key.as_bytes(), 0o600).map_err(walk::file)?;
    }
    let store = cluster.store().ok_or_else(say::cluster_none)?;
    let registry = Registry(store.as_ref());
    if let Some((own, at)) = registry.member(host)?.filter(|(own, _)| own.seat) {
        registry.change(host, at, &MemberRecord { signs: true, ..own })?;
    }
    Ok(true)
}

fn unanswered(error: StoreError) -> Finding {
    say::store_member_failed("be asked", &walk::chain(&error))
}
