//! What a member sees to by itself: where the store is, how its members fare, that certificates do not end.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::membership::{self, Role, StoreAnswer, StoreHealth, StoreMember};
use tranche_core::name::HostName;
use tranche_store::{EtcdMember, EtcdMembers, EtcdSettings, Key, Store, StoreError};

use super::Cluster;
use super::book::{self, Membership, Standing};
use super::door::{self, Trust};
use super::pki::{self, Certificates, Subject};
use super::registry::{MemberRecord, Registry};
use super::{seat, walk};
use crate::clock;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a member may take to say how it fares, in milliseconds.
const ANSWER_MS: u64 = 2_000;
/// How long a member may take to be defragmented, in milliseconds.
const DEFRAGMENT_MS: u64 = 120_000;
/// How long it may take until etcd lets a member go, and between two tries.
const REMOVED_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);
/// How long a host is listened to before it is taken to be gone.
const LISTEN: Duration = Duration::from_millis(2_500);

/// Looks now and then, on a thread of its own, for as long as the process lives.
pub(super) fn begin(cluster: Cluster) {
    let round = move || {
        loop {
            if cluster.membership().is_some() {
                look(&cluster);
                renew(&cluster);
            }
            thread::sleep(LOOK_EVERY);
        }
    };
    if let Err(error) = thread::Builder::new().name("cluster-care".to_owned()).spawn(round) {
        tracing::error!(%error, "nobody looks after the cluster's store");
    }
}

/// Asks how the cluster fares, and follows where its store is.
pub(super) fn look(cluster: &Cluster) {
    let (Some(membership), Some(store)) = (cluster.membership(), cluster.store()) else { return };
    let members = match Registry(store.as_ref()).members() {
        Ok(members) => members,
        Err(finding) => {
            tracing::warn!(code = %finding.code, "{}", finding.message);
            cluster.lock().findings = vec![finding];
            return;
        }
    };
    follow(cluster, &membership, &members);
    introduce(cluster, &membership, &members);
    let health = health(cluster, &membership, &members);
    let mut findings = membership::judge(&health);
    let versions: Vec<(HostName, String)> =
        members.iter().map(|(host, member)| (host.clone(), member.version.clone())).collect();
    findings.extend(membership::judge_versions(&versions));
    findings.extend(ending(cluster));
    let mut state = cluster.lock();
    state.health = health;
    state.findings = findings;
    state.candidates = candidates(&members);
    let seats = members.values().filter(|member| member.seat);
    state.doors = seats.map(|member| (member.client_url(), member.door())).collect();
    state.members = members.into_keys().collect();
}

/// Asks the host of a member of the store whether it can say that this one does not run.
pub(super) fn is_held_down(cluster: &Cluster, endpoint: &str, limit: Duration) -> bool {
    let Some(door) = cluster.lock().doors.get(endpoint).cloned() else { return false };
    let Ok(Some(identity)) = cluster.identity() else { return false };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return false;
    };
    let asking = async {
        let path = "/cluster/store-member/down";
        tokio::time::timeout(
            limit,
            door::ask(&door, Trust::Cluster(&identity), Method::GET, path, Vec::new()),
        )
        .await
    };
    match runtime.block_on(asking) {
        Ok(Ok((status, answer))) => status.is_success() && answer.as_ref() == b"true",
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Those of the members that may lead.
pub(super) fn candidates(members: &BTreeMap<HostName, MemberRecord>) -> Vec<HostName> {
    let hosts = members.iter().filter(|(_, member)| member.role == Role::Host);
    membership::candidates(hosts.map(|(host, member)| (member.joined_at, host)))
}

/// The store is where its members are.
fn follow(cluster: &Cluster, membership: &Membership, members: &BTreeMap<HostName, MemberRecord>) {
    if !cluster.0.etcd.endpoints.is_empty() {
        return;
    }
    let seats = |own: bool| {
        let ours = move |host: &HostName| (host == &membership.host) == own;
        members
            .iter()
            .filter(move |(host, member)| member.seat && ours(host))
            .map(|(_, member)| member.client_url())
    };
    let endpoints: Vec<String> = seats(true).chain(seats(false)).collect();
    if endpoints.is_empty() || endpoints == membership.endpoints {
        return;
    }
    let followed = cluster.store().map(|store| store.use_endpoints(&endpoints));
    if let Some(Err(error)) = followed {
        tracing::warn!(error = &error as &dyn std::error::Error, "the store's members cannot be followed");
    }
    let mut state = cluster.lock();
    // Somebody may be on the way out meanwhile.
    if let Standing::Member(known) = &mut state.standing {
        known.endpoints = endpoints;
        if let Err(error) = cluster.0.book.write(&state.standing) {
            tracing::warn!(error = &error as &dyn std::error::Error, "where the store is was not noted");
        }
    }
}

/// The cluster knows this host's version.
fn introduce(cluster: &Cluster, membership: &Membership, members: &BTreeMap<HostName, MemberRecord>) {
    let version = env!("CARGO_PKG_VERSION");
    let Some(own) = members.get(&membership.host).filter(|own| own.version != version) else { return };
    let own = MemberRecord { version: version.to_owned(), ..own.clone() };
    let put = cluster
        .store()
        .map(|store| Registry(store.as_ref()).put(&membership.cluster, &membership.host, &own));
    if let Some(Err(finding)) = put {
        tracing::warn!(code = %finding.code, "{}", finding.message);
    }
}

/// Asks every member of the store beside each other.
fn health(
    cluster: &Cluster,
    membership: &Membership,
    members: &BTreeMap<HostName, MemberRecord>,
) -> StoreHealth {
    let Ok(at_all) = at(cluster, &membership.endpoints, ANSWER_MS) else { return StoreHealth::default() };
    let (Ok(list), Ok(alarms)) = (at_all.list(), at_all.out_of_space()) else {
        // Without a majority the list is not told: what is known of it is asked all the same.
        let silent = members.iter().filter(|(_, member)| member.seat);
        let members = silent.map(|(host, member)| StoreMember {
            host: host.clone(),
            learner: false,
            answer: ask(cluster, &member.client_url(), &[]).ok(),
        });
        return StoreHealth { members: members.collect(), quota_bytes: seat::QUOTA_BYTES };
    };
    let asked = thread::scope(|scope| {
        let asking = |member: &EtcdMember| {
            let (urls, host) = (member.client_urls.clone(), host_of(member, members));
            let (learner, alarms) = (member.learner, &alarms);
            scope.spawn(move || {
                let answer = urls.first().and_then(|url| ask(cluster, url, alarms).ok());
                host.map(|host| StoreMember { host, learner, answer })
            })
        };
        let asked: Vec<_> = list.iter().map(asking).collect();
        asked.into_iter().filter_map(|member| member.join().ok().flatten()).collect()
    });
    StoreHealth { members: asked, quota_bytes: seat::QUOTA_BYTES }
}

/// The host that a member of the store is on. One that has not started yet has no name, but a place.
fn host_of(member: &EtcdMember, members: &BTreeMap<HostName, MemberRecord>) -> Option<HostName> {
    let by_place = members.iter().find(|(_, known)| member.peer_urls.contains(&known.peer_url()));
    by_place.map(|(host, _)| host.clone()).or_else(|| member.name.parse().ok())
}

fn ask(cluster: &Cluster, url: &str, alarms: &[u64]) -> Result<StoreAnswer, StoreError> {
    let status = at(cluster, std::slice::from_ref(&url.to_owned()), ANSWER_MS)?.status()?;
    Ok(StoreAnswer {
        version: status.version,
        leads: status.leader == status.id,
        file_bytes: status.file_bytes,
        used_bytes: status.used_bytes,
        out_of_space: alarms.contains(&status.id),
    })
}

pub(super) fn at(
    cluster: &Cluster,
    endpoints: &[String],
    timeout_ms: u64,
) -> Result<EtcdMembers, StoreError> {
    let settings = walk::settings(&cluster.0.book, &cluster.0.etcd, endpoints);
    let settings = settings.map_err(|error| StoreError::Unreachable {
        place: "the cluster's store".to_owned(),
        source: Box::new(error),
    })?;
    // One member is asked, whichever etcd it is of.
    EtcdMembers::connect(&EtcdSettings { endpoints: endpoints.to_vec(), timeout_ms, ..settings })
}

/// Takes a host's member of the store out, if it has one.
pub(super) fn unseat(cluster: &Cluster, endpoints: &[String], host: &HostName) -> Result<(), Finding> {
    if !cluster.0.etcd.endpoints.is_empty() {
        return Ok(());
    }
    let refused = |error: StoreError| say::store_member_failed("take it out", &walk::chain(&error));
    let members = at(cluster, endpoints, ANSWER_MS).map_err(refused)?;
    for member in members.list().map_err(refused)? {
        let known = cluster.store().and_then(|store| Registry(store.as_ref()).members().ok());
        if host_of(&member, &known.unwrap_or_default()).as_ref() != Some(host) {
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
    members: &BTreeMap<HostName, MemberRecord>,
    store: &dyn Store,
) -> Result<bool, Finding> {
    let member = members.get(host).filter(|member| member.seat);
    if member.is_some_and(|member| ask(cluster, &member.client_url(), &[]).is_ok()) {
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

/// See [`Cluster::defragment`].
pub(super) fn defragment(cluster: &Cluster) -> Result<(), Finding> {
    let membership = cluster.membership().ok_or_else(say::cluster_none)?;
    let refused = |error: StoreError| say::store_member_failed("be defragmented", &walk::chain(&error));
    for endpoint in &membership.endpoints {
        let member = at(cluster, std::slice::from_ref(endpoint), DEFRAGMENT_MS).map_err(refused)?;
        member.defragment().map_err(refused)?;
    }
    at(cluster, &membership.endpoints, ANSWER_MS).and_then(|members| members.disarm()).map_err(refused)
}

/// Certificates that end although they should have been renewed, and an authority that does.
fn ending(cluster: &Cluster) -> Vec<Finding> {
    let now = clock::now();
    let facts =
        |path: camino::Utf8PathBuf| book::read(&path).ok().flatten().and_then(|text| pki::facts(&text).ok());
    let own = facts(cluster.0.book.certificate("client"))
        .filter(|facts| membership::is_renewal_due(facts.from, facts.until, now))
        .map(|facts| say::certificate_ends(&format!("host {}", facts.name), facts.until, now));
    let authority = facts(cluster.0.book.authority())
        .filter(|facts| membership::is_authority_ending(facts.until, now))
        .map(|facts| say::certificate_ends("the cluster's authority", facts.until, now));
    own.into_iter().chain(authority).collect()
}

/// Has the certificates renewed when that is due. etcd reads its own anew at each handshake; the daemon replaces itself.
fn renew(cluster: &Cluster) {
    let client = book::read(&cluster.0.book.certificate("client")).ok().flatten();
    let due = client
        .and_then(|text| pki::facts(&text).ok())
        .is_some_and(|facts| membership::is_renewal_due(facts.from, facts.until, clock::now()));
    if !due {
        return;
    }
    match try_renew(cluster) {
        Ok(()) => {
            tracing::info!("the certificates were renewed");
            cluster.0.anew.send_replace(true);
        }
        Err(finding) => tracing::warn!(code = %finding.code, "{}", finding.message),
    }
}

fn try_renew(cluster: &Cluster) -> Result<(), Finding> {
    let (Some(membership), Some(store)) = (cluster.membership(), cluster.store()) else { return Ok(()) };
    let book = &cluster.0.book;
    let key = book::read(&book.key()).map_err(walk::file)?.unwrap_or_default();
    let unusable =
        |error: pki::PkiError| say::cluster_file("The host's key cannot be used", &walk::chain(&error));
    let request = pki::request(&key, &membership.host).map_err(unusable)?;
    let signs = walk::authority(book).map_err(walk::file)?.is_some();
    let certificates = if signs {
        certify(cluster, &membership.host, &request)?
    } else {
        ask_signers(cluster, &Registry(store.as_ref()).members()?, &request)?
    };
    let authority = book::read(&book.authority()).map_err(walk::file)?.unwrap_or_default();
    book.keep(&authority, &certificates).map_err(walk::file)?;
    if let Some(seat) = &membership.seat {
        let environment = seat::environment(&cluster.0.etcd, book, &membership, seat);
        seat::equip(book, &environment).map_err(walk::file)?;
    }
    Ok(())
}

fn ask_signers(
    cluster: &Cluster,
    members: &BTreeMap<HostName, MemberRecord>,
    request: &str,
) -> Result<Certificates, Finding> {
    let identity = cluster.identity()?.ok_or_else(say::cluster_none)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| say::cluster_file("A runtime", &error.to_string()))?;
    let body = serde_json::to_vec(request).expect("a text is JSON");
    let (mut asked, mut why) = (Vec::new(), "no host may sign".to_owned());
    for member in members.values().filter(|member| member.signs) {
        let trust = Trust::Cluster(&identity);
        let path = "/cluster/certificates";
        match runtime.block_on(door::ask(&member.door(), trust, Method::POST, path, body.clone())) {
            Ok((status, bytes)) if status.is_success() => {
                if let Ok(certificates) = serde_json::from_slice(&bytes) {
                    return Ok(certificates);
                }
            }
            Ok((status, _)) => why = format!("{} answers with {status}", member.door()),
            Err(error) => why = walk::chain(&error),
        }
        asked.push(member.door());
    }
    Err(say::cluster_unreachable(&asked, &why))
}

/// See [`Cluster::certify`].
pub(super) fn certify(cluster: &Cluster, host: &HostName, request: &str) -> Result<Certificates, Finding> {
    let store = cluster.store().ok_or_else(say::cluster_none)?;
    let authority = walk::authority(&cluster.0.book).map_err(walk::file)?;
    let authority = authority.ok_or_else(|| say::not_a_signer(&cluster.lock().members))?;
    let members = Registry(store.as_ref()).members()?;
    let member =
        members.get(host).ok_or_else(|| say::host_not_found(host, &members.keys().collect::<Vec<_>>()))?;
    let unreadable = |error: pki::PkiError| say::token_invalid(&format!("the request is none ({error})"));
    if pki::key_fingerprint(request).map_err(unreadable)? != member.key {
        return Err(say::host_exists(host));
    }
    let subject = Subject { host, address: &member.address, keeps_store: member.seat };
    authority.sign(request, &subject, clock::now()).map_err(unreadable)
}
