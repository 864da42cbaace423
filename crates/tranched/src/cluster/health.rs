//! The store's members, each asked by itself: how they fare, and what is done to one of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::membership::{StoreAnswer, StoreHealth, StoreMember, StorePlace};
use tranche_core::name::HostName;
use tranche_store::{EtcdAlarms, EtcdMember, EtcdMembers, EtcdSettings, Key, Store, StoreError};

use super::book::Membership;
use super::registry::MemberRecord;
use super::{Cluster, walk};

/// How long a member may take to say how it fares, in milliseconds.
pub(super) const ANSWER_MS: u64 = 2_000;
/// How long a member may take to be defragmented, in milliseconds.
const DEFRAGMENT_MS: u64 = 120_000;
/// How often a member is defragmented while most of its file stays unused: it may still be letting go of its history.
const DEFRAGMENTS_MAX: usize = 3;
/// How long it may take until etcd lets a member go, and between two tries.
const REMOVED_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);
/// How long a host is listened to before it is taken to be gone.
const LISTEN: Duration = Duration::from_millis(2_500);

type Members = BTreeMap<HostName, MemberRecord>;

/// Asks every member of the store beside each other.
pub(super) fn ask_all(cluster: &Cluster, membership: &Membership, members: &Members) -> StoreHealth {
    let keeps_store = cluster.keeps_store();
    // Of an etcd that somebody else runs, nobody here knows what it may use.
    let quota_bytes = if keeps_store { cluster.0.etcd.quota_bytes() } else { 0 };
    let endpoints = cluster.endpoints_of(membership);
    let listed = at(cluster, &endpoints, ANSWER_MS).and_then(|all| Ok((all.list()?, all.alarms()?)));
    let Ok((list, alarms)) = listed else {
        // Without a majority the list is not told: what is known of it is asked all the same.
        let silent: Vec<(StorePlace, String)> = if keeps_store && !members.is_empty() {
            let seats = members.iter().filter(|(_, member)| member.seat);
            seats.map(|(host, member)| (StorePlace::Host(host.clone()), member.client_url())).collect()
        } else {
            endpoints.into_iter().map(|url| (StorePlace::Url(url.clone()), url)).collect()
        };
        let member = |(place, url): (StorePlace, String)| {
            let answer = ask(cluster, &url, &EtcdAlarms::default()).ok();
            StoreMember { place, learner: false, answer }
        };
        return StoreHealth { members: silent.into_iter().map(member).collect(), quota_bytes };
    };
    let asked = thread::scope(|scope| {
        let asking = |member: &EtcdMember| {
            let (urls, place) = (member.client_urls.clone(), place_of(cluster, member, members));
            let (learner, alarms) = (member.learner, &alarms);
            scope.spawn(move || {
                let answer = urls.first().and_then(|url| ask(cluster, url, alarms).ok());
                StoreMember { place, learner, answer }
            })
        };
        let asked: Vec<_> = list.iter().map(asking).collect();
        asked.into_iter().filter_map(|member| member.join().ok()).collect()
    });
    StoreHealth { members: asked, quota_bytes }
}

/// Where a member of the store is. One that has not started yet has no name, but a place.
fn place_of(cluster: &Cluster, member: &EtcdMember, members: &Members) -> StorePlace {
    let by_place = members.iter().find(|(_, known)| member.peer_urls.contains(&known.peer_url()));
    let by_name = || member.name.parse().ok();
    let host = by_place.map(|(host, _)| host.clone()).or_else(by_name).filter(|_| cluster.keeps_store());
    let url = || member.client_urls.iter().chain(&member.peer_urls).next().cloned().unwrap_or_default();
    host.map_or_else(|| StorePlace::Url(url()), StorePlace::Host)
}

fn ask(cluster: &Cluster, url: &str, alarms: &EtcdAlarms) -> Result<StoreAnswer, StoreError> {
    let status = at(cluster, std::slice::from_ref(&url.to_owned()), ANSWER_MS)?.status()?;
    Ok(StoreAnswer {
        version: status.version,
        leads: status.leader == status.id,
        file_bytes: status.file_bytes,
        used_bytes: status.used_bytes,
        out_of_space: alarms.out_of_space.contains(&status.id),
        corrupt: alarms.corrupt.contains(&status.id),
    })
}

/// Those at these endpoints.
pub(super) fn at(
    cluster: &Cluster,
    endpoints: &[String],
    timeout_ms: u64,
) -> Result<Arc<EtcdMembers>, StoreError> {
    let settings = walk::settings(&cluster.0.book, &cluster.0.etcd, endpoints);
    let settings = settings.map_err(|error| StoreError::Unreachable {
        place: "the cluster's store".to_owned(),
        source: Box::new(error),
    })?;
    // One member is asked, whichever etcd it is of.
    cluster.0.lines.to(EtcdSettings { endpoints: endpoints.to_vec(), timeout_ms, ..settings })
}

/// Takes a host's member of the store out, if it has one. It is known by where the others reach it: one that never started
/// has no name.
pub(super) fn unseat(
    cluster: &Cluster,
    endpoints: &[String],
    host: &HostName,
    peer_url: &String,
) -> Result<(), Finding> {
    if !cluster.keeps_store() {
        return Ok(());
    }
    let refused = |error: StoreError| say::store_member_failed("take it out", &walk::chain(&error));
    let members = at(cluster, endpoints, ANSWER_MS).map_err(refused)?;
    for member in members.list().map_err(refused)? {
        if !member.peer_urls.contains(peer_url) && member.name != host.as_str() {
            continue;
        }
        let began = Instant::now();
        while !members.remove(member.id).map_err(refused)? {
            if began.elapsed() > REMOVED_WITHIN {
                return Err(say::store_member_failed(
                    "take it out",
                    "other members have only just come back",
                ));
            }
            thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// Whether a host says anything: its heart, or its member of the store.
pub(super) fn is_alive(
    cluster: &Cluster,
    host: &HostName,
    members: &Members,
    store: &dyn Store,
) -> Result<bool, Finding> {
    let member = members.get(host).filter(|member| member.seat);
    if member.is_some_and(|member| ask(cluster, &member.client_url(), &EtcdAlarms::default()).is_ok()) {
        return Ok(true);
    }
    let key: Key = format!("beat/{host}").parse().expect("a host's name is made of what keys may hold");
    let beat =
        || store.get(&key).map(|entry| entry.map(|entry| entry.modified)).map_err(|error| error.finding());
    let before = beat()?;
    if before.is_some() {
        thread::sleep(LISTEN);
    }
    Ok(beat()? != before)
}

/// See [`Cluster::defragment`]. A member that is silent keeps nobody from the others: a store that is full refuses writes
/// until a majority has room again.
pub(super) fn defragment(cluster: &Cluster) -> Result<(), Finding> {
    let membership = cluster.membership().ok_or_else(say::cluster_none)?;
    let refused = |error: StoreError| say::store_member_failed("be defragmented", &walk::chain(&error));
    let endpoints = cluster.endpoints_of(&membership);
    let all = at(cluster, &endpoints, DEFRAGMENT_MS).map_err(refused)?;
    // Without it files hold all of their history, which is what most of them is.
    all.compact().map_err(refused)?;
    let mut voters: Vec<String> = match all.list() {
        Ok(list) => list
            .into_iter()
            .filter(|one| !one.learner)
            .filter_map(|one| one.client_urls.into_iter().next())
            .collect(),
        Err(_) => endpoints,
    };
    // The one that leads answers nobody meanwhile either, so another one may be chosen: that happens once, at the end.
    let leads = |url: &String| ask(cluster, url, &EtcdAlarms::default()).is_ok_and(|answer| answer.leads);
    voters.sort_by_cached_key(leads);
    let mut failed = Vec::new();
    for voter in &voters {
        if let Err(error) = defragment_one(cluster, voter) {
            failed.push((voter.clone(), walk::chain(&error)));
        }
    }
    let disarms = (voters.len() - failed.len()) * 2 > voters.len();
    if disarms {
        at(cluster, &cluster.endpoints_of(&membership), ANSWER_MS)
            .and_then(|all| all.disarm())
            .map_err(refused)?;
    }
    if failed.is_empty() { Ok(()) } else { Err(say::store_not_defragmented(&failed, disarms)) }
}

fn defragment_one(cluster: &Cluster, endpoint: &String) -> Result<(), StoreError> {
    let member = at(cluster, std::slice::from_ref(endpoint), DEFRAGMENT_MS)?;
    for _ in 0..DEFRAGMENTS_MAX {
        member.defragment()?;
        let status = member.status()?;
        if status.used_bytes * 2 >= status.file_bytes {
            break;
        }
    }
    Ok(())
}
