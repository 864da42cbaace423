//! What a member sees to by itself: where the store is, how its members fare, that certificates do not end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::membership::{self, Lead, Role, StoreMember, StorePlace};
use tranche_core::name::HostName;
use tranche_store::{EtcdStore, Repository};

use super::Cluster;
use super::book::{self, Membership, Standing};
use super::door::{self, Address, Trust};
use super::pki::{self, Certificates, Subject};
use super::registry::{MemberRecord, Registry};
use super::{health, revoked, seat, seats, walk};
use crate::clock;

/// Between two looks, and while a seat changes hands.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_SOON: Duration = Duration::from_secs(1);
/// How long a host that may sign may take to answer.
const SIGNED_WITHIN: Duration = Duration::from_secs(30);

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Seen {
    leader: Option<HostName>,
    /// Since when nobody leads, if the store said so.
    leaderless: Option<Instant>,
    /// Since when a seat is given and not taken.
    pending: BTreeMap<HostName, Instant>,
    /// Whether this host keeps the store or signs, so that seats and revocations are its business, too.
    pub(super) keeps: bool,
    /// Whether this host's member of the store has no vote.
    pub(super) listens: bool,
    /// What stood in the way of the last look.
    trouble: Vec<Finding>,
}

impl Seen {
    /// Who leads.
    pub(super) fn lead(&self) -> Lead {
        let nobody = |since| Lead::Nobody { for_ms: ms_since(since) };
        let host = self.leader.clone().map(Lead::Host);
        host.or_else(|| self.leaderless.map(nobody)).unwrap_or_default()
    }

    fn see_leader(&mut self, seen: Option<Option<HostName>>) {
        self.leaderless = match &seen {
            Some(None) => self.leaderless.or_else(|| Some(Instant::now())),
            _ => None,
        };
        self.leader = seen.flatten();
    }

    /// Notes whose seats are given and not taken.
    pub(super) fn see_pending(&mut self, pending: Vec<HostName>) {
        let known = std::mem::take(&mut self.pending);
        let since = |host: HostName| {
            let since = known.get(&host).copied().unwrap_or_else(Instant::now);
            (host, since)
        };
        self.pending = pending.into_iter().map(since).collect();
    }

    fn judge_pending(&self) -> impl Iterator<Item = Finding> {
        let judge = |(host, since): (&HostName, &Instant)| membership::judge_seat(host, ms_since(*since));
        self.pending.iter().filter_map(judge)
    }
}

fn ms_since(began: Instant) -> u64 {
    began.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
}

/// Looks now and then, on a thread of its own, for as long as the process lives.
pub(super) fn begin(cluster: Cluster) {
    let round = move || {
        loop {
            thread::sleep(if once(&cluster) { LOOK_SOON } else { LOOK_EVERY });
        }
    };
    if let Err(error) = thread::Builder::new().name("cluster-care".to_owned()).spawn(round) {
        tracing::error!(%error, "nobody looks after the cluster's store");
    }
}

/// Looks once, and does what is due. Returns whether more is due soon.
pub(super) fn once(cluster: &Cluster) -> bool {
    let (Some(_), Some(store)) = (cluster.membership(), cluster.store()) else { return false };
    look(cluster);
    renew(cluster);
    let revoked = keep_revocations(cluster, &store);
    let seats = seats::see_to(cluster);
    let soon = seats.as_ref().is_ok_and(|soon| *soon);
    let trouble: Vec<Finding> = [revoked.err(), seats.err()].into_iter().flatten().collect();
    for finding in &trouble {
        tracing::warn!(code = %finding.code, "{}", finding.message);
    }
    cluster.lock().seen.trouble = trouble;
    soon
}

/// Asks how the cluster fares, and follows where its store is.
pub(super) fn look(cluster: &Cluster) {
    let (Some(membership), Some(store)) = (cluster.membership(), cluster.store()) else { return };
    let members = match Registry(store.as_ref()).members() {
        Ok(members) => members,
        Err(finding) => {
            tracing::warn!(code = %finding.code, "{}", finding.message);
            let known = cluster.lock().members.clone();
            let health = health::ask_all(cluster, &membership, &known);
            let mut state = cluster.lock();
            state.seen.see_leader(None);
            state.findings = std::iter::once(finding).chain(membership::judge(&health)).collect();
            state.health = health;
            return;
        }
    };
    follow(cluster, &membership, &members);
    introduce(cluster, &membership, &members);
    let keeps = members.get(&membership.host).is_some_and(|own| own.seat || own.signs);
    let candidates = candidates(&members);
    // A candidate may lead in any case. A thousand hosts ask one store: none asks for what it does not need.
    let asks = !candidates.contains(&membership.host);
    let leader = asks.then(|| Repository::new(Arc::<EtcdStore>::clone(&store)).leader().ok()).flatten();
    let health = health::ask_all(cluster, &membership, &members);
    let mut findings = membership::judge(&health);
    let versions: Vec<(HostName, String)> =
        members.iter().map(|(host, member)| (host.clone(), member.version.clone())).collect();
    findings.extend(membership::judge_versions(&versions));
    findings.extend(ending(cluster));
    if keeps {
        findings.extend(revoked::all(store.as_ref()).map(|all| revoked::judge(&all)).unwrap_or_default());
    }
    let mut state = cluster.lock();
    state.seen.see_leader(leader);
    findings.extend(state.seen.judge_pending());
    findings.extend(state.seen.trouble.clone());
    let listens = |own: &StoreMember| own.learner && own.place == StorePlace::Host(membership.host.clone());
    (state.seen.keeps, state.seen.listens) = (keeps, health.members.iter().any(listens));
    state.health = health;
    state.findings = findings;
    state.candidates = candidates;
    let seats = members.values().filter(|member| member.seat);
    state.doors = seats.map(|member| (member.client_url(), member.address_of_door())).collect();
    state.members = members;
}

/// The list of revoked certificates is signed by who may, and lies where etcd reads it.
fn keep_revocations(cluster: &Cluster, store: &EtcdStore) -> Result<(), Finding> {
    let concerned = cluster.keeps_store() && cluster.lock().seen.keeps;
    let Some(membership) = cluster.membership().filter(|_| concerned) else { return Ok(()) };
    let book = &cluster.0.book;
    if let Some(authority) = walk::authority(book).map_err(walk::file)? {
        revoked::publish(store, &authority, clock::now())?;
    }
    let Some(seat) = &membership.seat else { return Ok(()) };
    if revoked::follow(store, book)? {
        let environment = seat::environment(&cluster.0.etcd, book, &membership, seat);
        seat::equip(book, &environment).map_err(walk::file)?;
    }
    Ok(())
}

/// Asks a member at its door. Blocks.
pub(super) fn ask(
    cluster: &Cluster,
    door: &Address,
    method: Method,
    path: &str,
    body: Vec<u8>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), Finding> {
    let identity = cluster.identity()?.ok_or_else(say::cluster_none)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| say::cluster_file("A runtime", &error.to_string()))?;
    let unreachable = |why: &str| say::cluster_unreachable(std::slice::from_ref(&door.place), why);
    let asking = async {
        let asking = door::ask(&door.place, Trust::Member(&identity, &door.key), method, path, body);
        tokio::time::timeout(limit, asking).await
    };
    match runtime.block_on(asking) {
        Ok(answer) => answer.map_err(|error| unreachable(&walk::chain(&error))),
        Err(_) => Err(unreachable("it did not answer in time")),
    }
}

/// Asks the host of a member of the store whether it can say that this one does not run.
pub(super) fn is_held_down(cluster: &Cluster, endpoint: &str, limit: Duration) -> bool {
    let Some(door) = cluster.lock().doors.get(endpoint).cloned() else { return false };
    let path = "/cluster/store-member/down";
    let answer = ask(cluster, &door, Method::GET, path, Vec::new(), limit);
    answer.is_ok_and(|(status, answer)| status.is_success() && answer.as_ref() == b"true")
}

/// Those of the members that may lead.
pub(super) fn candidates(members: &BTreeMap<HostName, MemberRecord>) -> Vec<HostName> {
    let hosts = members.iter().filter(|(_, member)| member.role == Role::Host);
    membership::candidates(hosts.map(|(host, member)| (member.version.as_str(), member.joined_at, host)))
}

/// The store is where its members are.
fn follow(cluster: &Cluster, membership: &Membership, members: &BTreeMap<HostName, MemberRecord>) {
    if !cluster.keeps_store() {
        return;
    }
    // A member of our own that listens only is of no use yet.
    let listens = membership.seat.is_none() || cluster.lock().seen.listens;
    let seats = |own: bool| {
        let ours = move |host: &HostName| (host == &membership.host) == own;
        members
            .iter()
            .filter(move |(host, member)| member.seat && ours(host) && !(own && listens))
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

/// The cluster knows this host's version, and whether it could keep the store.
fn introduce(cluster: &Cluster, membership: &Membership, members: &BTreeMap<HostName, MemberRecord>) {
    let version = env!("CARGO_PKG_VERSION");
    let no_etcd = cluster.keeps_store() && seat::is_installed(&cluster.0.etcd).is_err();
    let is_known = |own: &MemberRecord| own.version == version && own.no_etcd == no_etcd;
    if members.get(&membership.host).is_none_or(is_known) {
        return;
    }
    let introduced = || -> Result<(), Finding> {
        let store = cluster.store().ok_or_else(say::cluster_none)?;
        let registry = Registry(store.as_ref());
        // One that was taken out meanwhile stays out.
        let Some((own, at)) = registry.member(&membership.host)? else { return Ok(()) };
        let own = MemberRecord { version: version.to_owned(), no_etcd, ..own };
        registry.change(&membership.host, at, &own).map(|_| ())
    };
    if let Err(finding) = introduced() {
        tracing::warn!(code = %finding.code, "{}", finding.message);
    }
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

pub(super) fn try_renew(cluster: &Cluster) -> Result<(), Finding> {
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
        let body = serde_json::to_vec(&request).expect("a text is JSON");
        let members = Registry(store.as_ref()).members()?;
        ask_signers(cluster, &members, Method::POST, "/cluster/certificates", body)?
    };
    let authority = book::read(&book.authority()).map_err(walk::file)?.unwrap_or_default();
    book.keep(&authority, &certificates).map_err(walk::file)?;
    if let Some(seat) = &membership.seat {
        let environment = seat::environment(&cluster.0.etcd, book, &membership, seat);
        seat::equip(book, &environment).map_err(walk::file)?;
    }
    Ok(())
}

/// Asks each host that may sign until one answers.
pub(super) fn ask_signers<T: DeserializeOwned>(
    cluster: &Cluster,
    members: &BTreeMap<HostName, MemberRecord>,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<T, Finding> {
    let (mut asked, mut why) = (Vec::new(), "no host may sign".to_owned());
    for member in members.values().filter(|member| member.signs) {
        let door = member.address_of_door();
        match ask(cluster, &door, method.clone(), path, body.clone(), SIGNED_WITHIN) {
            Ok((status, bytes)) if status.is_success() => {
                if let Ok(answer) = serde_json::from_slice(&bytes) {
                    return Ok(answer);
                }
            }
            Ok((status, _)) => why = format!("{} answers with {status}", door.place),
            Err(finding) => why = finding.message,
        }
        asked.push(door.place);
    }
    Err(say::cluster_unreachable(&asked, &why))
}

/// See [`Cluster::authority_for`].
pub(super) fn authority_for(cluster: &Cluster, host: &HostName, key: &str) -> Result<String, Finding> {
    let store = cluster.store().ok_or_else(say::cluster_none)?;
    let authority = walk::authority(&cluster.0.book).map_err(walk::file)?;
    let authority = authority.ok_or_else(|| cluster.not_a_signer())?;
    // Read anew: what this host remembers of its members may be some seconds old.
    let member = Registry(store.as_ref()).member(host)?.map(|(member, _)| member);
    let may = |member: &MemberRecord| member.key == key && member.seat && member.role == Role::Host;
    member.filter(may).ok_or_else(|| say::host_not_found(host, &[])).map(|_| authority.key)
}

/// See [`Cluster::certify`].
pub(super) fn certify(cluster: &Cluster, host: &HostName, request: &str) -> Result<Certificates, Finding> {
    let store = cluster.store().ok_or_else(say::cluster_none)?;
    let authority = walk::authority(&cluster.0.book).map_err(walk::file)?;
    let authority = authority.ok_or_else(|| cluster.not_a_signer())?;
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
