//! What a cluster knows of its machines, and who may become one.
//!
//! | key | record |
//! | --- | --- |
//! | `cluster/meta` | the cluster's name, and how often it let somebody in |
//! | `cluster/member/HOST` | a machine: where it is reached, what it is, its key's fingerprint, its version |
//! | `cluster/arrival/HOST` | what it brought when it joined, and whether that is all ([`super::carry`]) |
//! | `cluster/token/HASH` | a join token, until it is over |
//! | `cluster/revoked/KEY`, `cluster/revocations` | whose keys are believed no more: [`super::revoked`] |
//!
//! Letting somebody in is one transaction: it uses the token up, takes the seat and makes the record, so that of two who race
//! one gets in, and no more have a seat than shall.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tranche_core::change::Arrival;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::membership::{Role, SEATS_MAX};
use tranche_core::name::{HostName, Timestamp};
use tranche_store::{Expected, Key, KeyRange, Outcome, Revision, Store, Txn};

use super::door::Address;
use super::pki::{self, Authority, Certificates, Subject};
use super::revoked;
use super::seat;
use super::token::{self, TokenRecord, TokenUse};

/// How often letting somebody in is tried, while others get in.
const TRIES_MAX: usize = 16;

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// Its name.
    pub name: String,
    /// How often somebody was let in.
    pub joins: u64,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Where it is reached.
    pub address: String,
    /// The TCP ports of its interface for other hosts, of its etcd for clients, and of its etcd for other members.
    pub ports: Ports,
    /// What it is.
    pub role: Role,
    /// Whether it keeps the store.
    pub seat: bool,
    /// Whether it has the authority's key.
    pub signs: bool,
    /// The fingerprint of its key.
    pub key: String,
    /// The version of its daemon.
    pub version: String,
    /// When it joined.
    pub joined_at: Timestamp,
    /// Whether it could not keep the store, because it has no etcd.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_etcd: bool,
}

/// TCP ports of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// Where other hosts ask it.
    pub cluster: u16,
    /// Where its etcd serves clients.
    pub client: u16,
    /// Where its etcd speaks to other members.
    pub peer: u16,
}

impl MemberRecord {
    /// Where its etcd serves clients.
    pub fn client_url(&self) -> String {
        seat::url(&self.address, self.ports.client)
    }

    /// Where its etcd speaks to other members.
    pub fn peer_url(&self) -> String {
        seat::url(&self.address, self.ports.peer)
    }

    /// Where other hosts ask it, as `HOST:PORT`.
    pub fn door(&self) -> String {
        seat::authority(&self.address, self.ports.cluster)
    }

    /// The same, with the key by which it is known.
    pub fn address_of_door(&self) -> Address {
        Address { place: self.door(), key: self.key.clone() }
    }
}

/// What a machine asks that wants in: `POST /cluster/join`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's secret, in base64url.
    pub secret: String,
    /// Its name.
    pub host: HostName,
    /// Where it is reached.
    pub address: String,
    /// Its ports.
    pub ports: Ports,
    /// What it wants to be.
    pub role: Role,
    /// The version of its daemon.
    pub version: String,
    /// Its request to be certified, in PEM.
    pub request: String,
    /// What it brings, so that it is refused before anything is done for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brings: Option<Arrival>,
}

/// What it is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// The cluster's name.
    pub cluster: String,
    /// The authority's certificate.
    pub authority: String,
    /// The authority's key, for a host that may sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_key: Option<String>,
    /// The machine's certificates.
    pub certificates: Certificates,
    /// Whether it keeps the store.
    pub seat: bool,
    /// Where the store is now.
    pub endpoints: Vec<String>,
    /// Warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// What is asked of a machine besides that its token opens.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// Whether hosts keep the store, as far as there are seats.
    pub seats: bool,
    /// Judges what it brings; returns warnings.
    pub judge: &'a dyn Fn() -> Result<Vec<Finding>, Finding>,
}

impl std::fmt::Debug for Terms<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms").field("seats", &self.seats).finish_non_exhaustive()
    }
}

/// A machine that was let in.
struct LetIn {
    meta: Meta,
    member: MemberRecord,
    warnings: Vec<Finding>,
}

/// The records of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Registry<'a>(pub &'a dyn Store);

impl Registry<'_> {
    /// The machines of the cluster.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn members(&self) -> Result<BTreeMap<HostName, MemberRecord>, Finding> {
        let prefix: KeyRange = "cluster/member/".parse().expect("it is a plain text of our own");
        let entries = self.0.range(&prefix).map_err(|error| error.finding())?.entries;
        let member = |entry: tranche_store::Entry| {
            let host = entry.key.segments().next_back().and_then(|name| name.parse().ok());
            Ok((host.ok_or_else(|| damaged(&entry.key, "no host"))?, decode(&entry.key, &entry.value)?))
        };
        entries.into_iter().map(member).collect()
    }

    /// Makes this machine the first of a cluster, or changes what is known of one. Can be repeated.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put(&self, cluster: &str, host: &HostName, member: &MemberRecord) -> Result<(), Finding> {
        let txn = Txn::new().put(member_key(host), encode(member));
        let (meta, at) = self.meta()?;
        let txn = match meta {
            Some(_) => txn,
            None => {
                let meta = Meta { name: cluster.to_owned(), joins: 0 };
                txn.expect(meta_key(), at).put(meta_key(), encode(&meta))
            }
        };
        // Whoever was quicker has put the same.
        self.0.commit(&txn).map(|_| ()).map_err(|error| error.finding())
    }

    /// A machine, and what is to be expected by whoever changes what is known of it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn member(&self, host: &HostName) -> Result<Option<(MemberRecord, Expected)>, Finding> {
        let entry = self.0.get(&member_key(host)).map_err(|error| error.finding())?;
        let known = |entry: tranche_store::Entry| {
            Ok((decode(&entry.key, &entry.value)?, Expected::At(entry.modified)))
        };
        entry.map(known).transpose()
    }

    /// Changes what is known of a machine, unless somebody else did meanwhile. Returns whether it was changed.
    ///
    /// # Errors
    /// The store fails.
    pub fn change(&self, host: &HostName, at: Expected, member: &MemberRecord) -> Result<bool, Finding> {
        let txn = Txn::new().expect(member_key(host), at).put(member_key(host), encode(member));
        let outcome = self.0.commit(&txn).map_err(|error| error.finding())?;
        Ok(matches!(outcome, Outcome::Committed(_)))
    }

    /// Gives a machine a seat in the store if `is_heir` says so, and nobody is let in or gets a seat meanwhile. Returns whether
    /// it has it.
    ///
    /// # Errors
    /// The store fails.
    pub fn give_seat(
        &self,
        host: &HostName,
        is_heir: &dyn Fn() -> Result<bool, Finding>,
    ) -> Result<bool, Finding> {
        let (Some(meta), meta_at) = self.meta()? else { return Ok(false) };
        let Some((member, at)) = self.member(host)? else { return Ok(false) };
        if !is_heir()? {
            return Ok(false);
        }
        // Letting somebody in changes the cluster's record, too: no more get a seat than shall.
        let seated = MemberRecord { seat: true, ..member };
        let txn = Txn::new()
            .expect(meta_key(), meta_at)
            .expect(member_key(host), at)
            .put(meta_key(), encode(&meta))
            .put(member_key(host), encode(&seated));
        Ok(matches!(self.0.commit(&txn).map_err(|error| error.finding())?, Outcome::Committed(_)))
    }

    /// Forgets the tokens that a machine has used: it is let in again with a new one only.
    ///
    /// # Errors
    /// The store fails.
    pub fn forget_tokens_of(&self, host: &HostName) -> Result<(), Finding> {
        self.forget_tokens_if(|token| token.used.as_ref().is_some_and(|used| &used.host == host))
    }

    /// Notes a token, for anybody or for one machine only.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn offer(
        &self,
        secret: &[u8],
        only: Option<&HostName>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), Finding> {
        self.forget_tokens(now)?;
        let record = TokenRecord { until, only: only.cloned(), used: None };
        let txn = Txn::new().put(token_key(&token::hash(secret)), encode(&record));
        self.0.commit(&txn).map(|_| ()).map_err(|error| error.finding())
    }

    /// Forgets the tokens that are over.
    fn forget_tokens(&self, now: Timestamp) -> Result<(), Finding> {
        self.forget_tokens_if(|token| token.is_over(now))
    }

    fn forget_tokens_if(&self, is_to_go: impl Fn(&TokenRecord) -> bool) -> Result<(), Finding> {
        let prefix: KeyRange = "cluster/token/".parse().expect("it is a plain text of our own");
        for entry in self.0.range(&prefix).map_err(|error| error.finding())?.entries {
            if decode::<TokenRecord>(&entry.key, &entry.value).is_ok_and(|token| is_to_go(&token)) {
                let txn =
                    Txn::new().expect(entry.key.clone(), Expected::At(entry.modified)).delete(entry.key);
                // One that is used just now stays for the next time.
                let _ = self.0.commit(&txn).map_err(|error| error.finding())?;
            }
        }
        Ok(())
    }

    /// Lets a machine in, if its token opens.
    ///
    /// # Errors
    /// The token does not open, another machine has the name or the place, what it brings is refused, or the store fails.
    pub fn admit(
        &self,
        asked: &JoinRequest,
        authority: &Authority,
        terms: Terms<'_>,
        now: Timestamp,
    ) -> Result<JoinAnswer, Finding> {
        let unreadable = |error: pki::PkiError| {
            say::token_invalid(&format!("the request to be certified is none ({error})"))
        };
        let secret = URL_SAFE_NO_PAD.decode(&asked.secret).unwrap_or_default();
        let user = TokenUse {
            host: asked.host.clone(),
            key: pki::key_fingerprint(&asked.request).map_err(unreadable)?,
        };
        for _ in 0..TRIES_MAX {
            if let Some(LetIn { meta, member, warnings }) =
                self.try_admit(asked, (&secret, &user), terms, now)?
            {
                let subject =
                    Subject { host: &asked.host, address: &asked.address, keeps_store: member.seat };
                let certificates = authority.sign(&asked.request, &subject, now).map_err(unreadable)?;
                let others =
                    self.members()?.into_iter().filter(|(host, other)| other.seat && *host != asked.host);
                return Ok(JoinAnswer {
                    cluster: meta.name,
                    authority: authority.certificate.clone(),
                    authority_key: member.signs.then(|| authority.key.clone()),
                    certificates,
                    seat: member.seat,
                    endpoints: others.map(|(_, other)| other.client_url()).collect(),
                    findings: warnings,
                });
            }
        }
        Err(say::token_invalid("too many join at once; try again"))
    }

    /// One try. Nothing when somebody else was let in meanwhile.
    fn try_admit(
        &self,
        asked: &JoinRequest,
        (secret, user): (&[u8], &TokenUse),
        terms: Terms<'_>,
        now: Timestamp,
    ) -> Result<Option<LetIn>, Finding> {
        let key = token_key(&token::hash(secret));
        let entry = self.0.get(&key).map_err(|error| error.finding())?;
        let entry = entry.ok_or_else(|| say::token_invalid("no token of this cluster has its secret"))?;
        let mut token: TokenRecord = decode(&key, &entry.value)?;
        if let Some(why) = token.refusal(user, now) {
            return Err(say::token_invalid(why));
        }
        let (meta, at) = self.meta()?;
        let mut meta = meta.ok_or_else(|| say::token_invalid("this cluster is only being made"))?;
        let members = self.members()?;
        let taken = members.iter().filter(|(host, member)| member.seat && **host != asked.host).count();
        let known = members.get(&asked.host);
        if known.is_some_and(|known| known.key != user.key) {
            return Err(say::host_exists(&asked.host));
        }
        let seat = known.map_or(terms.seats && taken < SEATS_MAX, |known| known.seat);
        refuse_place(asked, &members)?;
        if asked.role == Role::Witness && !seat {
            return Err(say::witness_useless(if terms.seats {
                "as many machines as are of use have one"
            } else {
                "somebody else runs the etcd that this cluster uses"
            }));
        }
        let warnings = (terms.judge)()?;
        let member = MemberRecord {
            address: asked.address.clone(),
            ports: asked.ports,
            role: asked.role,
            seat,
            signs: seat && asked.role == Role::Host,
            key: user.key.clone(),
            version: asked.version.clone(),
            joined_at: known.map_or(now, |known| known.joined_at),
            no_etcd: false,
        };
        let revoked = revoked::key_of(&user.key).ok_or_else(|| say::token_invalid("its key has no name"))?;
        if self.0.get(&revoked).map_err(|error| error.finding())?.is_some() {
            return Err(say::token_invalid(
                "the machine's key was revoked when it was taken out; 'tranche cluster leave' there first",
            ));
        }
        token.used = Some(user.clone());
        meta.joins += 1;
        let txn = Txn::new()
            .expect(key.clone(), Expected::At(entry.modified))
            .expect(meta_key(), at)
            .expect(revoked, Expected::Absent)
            .put(key, encode(&token))
            .put(meta_key(), encode(&meta))
            .put(member_key(&asked.host), encode(&member));
        match self.0.commit(&txn).map_err(|error| error.finding())? {
            Outcome::Committed(_) => Ok(Some(LetIn { meta, member, warnings })),
            Outcome::Conflict(_) => Ok(None),
        }
    }

    fn meta(&self) -> Result<(Option<Meta>, Expected), Finding> {
        match self.0.get(&meta_key()).map_err(|error| error.finding())? {
            Some(entry) => {
                let at = Expected::At(Revision(entry.modified.0));
                Ok((Some(decode(&entry.key, &entry.value)?), at))
            }
            None => Ok((None, Expected::Absent)),
        }
    }
}

/// Refuses a machine that would be reached where another one is.
fn refuse_place(asked: &JoinRequest, members: &BTreeMap<HostName, MemberRecord>) -> Result<(), Finding> {
    let ports = |of: &Ports| [of.cluster, of.client, of.peer];
    let wanted = ports(&asked.ports);
    for (host, other) in members.iter().filter(|(host, _)| **host != asked.host) {
        let meets = ports(&other.ports).into_iter().find(|port| wanted.contains(port));
        if let Some(port) = meets.filter(|_| other.address == asked.address) {
            return Err(say::address_taken(&seat::authority(&asked.address, port), host));
        }
    }
    Ok(())
}

/// The key of a machine's record.
pub fn member_key(host: &HostName) -> Key {
    format!("cluster/member/{host}").parse().expect("a host's name is made of what keys may hold")
}

fn meta_key() -> Key {
    "cluster/meta".parse().expect("it is a plain text of our own")
}

fn token_key(hash: &str) -> Key {
    format!("cluster/token/{hash}").parse().expect("it is made of hexadecimal digits")
}

pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("plain records are JSON")
}

pub(super) fn decode<T: DeserializeOwned>(key: &Key, bytes: &[u8]) -> Result<T, Finding> {
    serde_json::from_slice(bytes).map_err(|error| damaged(key, &error.to_string()))
}

fn damaged(key: &Key, why: &str) -> Finding {
    say::cluster_file(&format!("The record {key} of the cluster cannot be read"), why)
}

#[cfg(test)]
mod tests {
    use tranche_core::finding::Code;
    use tranche_store::MemoryStore;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const PORTS: Ports = Ports { cluster: 7443, client: 7444, peer: 7445 };
    const HOUR_MS: u64 = 3_600_000;

    struct Cluster {
        store: MemoryStore,
        authority: Authority,
    }

    fn cluster() -> Cluster {
        let cluster =
            Cluster { store: MemoryStore::default(), authority: Authority::new("lab", NOW).unwrap() };
        let first = MemberRecord {
            address: "10.0.0.1".to_owned(),
            ports: PORTS,
            role: Role::Host,
            seat: true,
            signs: true,
            key: "first".to_owned(),
            version: "1.0.0".to_owned(),
            joined_at: NOW,
            no_etcd: false,
        };
        Registry(&cluster.store).put("lab", &"node1".parse().unwrap(), &first).unwrap();
        cluster
    }

    impl Cluster {
        fn token(&self) -> [u8; 32] {
            let secret = token::new_secret().unwrap();
            Registry(&self.store).offer(&secret, None, Timestamp(NOW.0 + HOUR_MS), NOW).unwrap();
            secret
        }

        fn join(&self, asked: &JoinRequest, now: Timestamp) -> Result<JoinAnswer, Finding> {
            let terms = Terms { seats: true, judge: &|| Ok(Vec::new()) };
            Registry(&self.store).admit(asked, &self.authority, terms, now)
        }
    }

    fn asks(name: &str, secret: &[u8]) -> JoinRequest {
        let host: HostName = name.parse().unwrap();
        let request = pki::request(&pki::new_key().unwrap(), &host).unwrap();
        JoinRequest {
            secret: URL_SAFE_NO_PAD.encode(secret),
            host,
            address: format!("{name}.lan"),
            ports: PORTS,
            role: Role::Host,
            version: "1.0.0".to_owned(),
            request,
            brings: None,
        }
    }

    fn code(result: Result<JoinAnswer, Finding>) -> Code {
        result.map(|answer| answer.cluster).unwrap_err().code
    }

    #[test]
    fn the_first_three_get_a_seat_and_the_authoritys_key_and_the_fourth_neither() {
        let cluster = cluster();
        let answers =
            ["node2", "node3", "node4"].map(|host| cluster.join(&asks(host, &cluster.token()), NOW).unwrap());
        assert_eq!(answers.each_ref().map(|answer| answer.seat), [true, true, false]);
        assert_eq!(answers.each_ref().map(|answer| answer.authority_key.is_some()), [true, true, false]);
        assert_eq!(answers[2].endpoints.len(), 3);
        assert!(answers[2].certificates.peer.is_none());
    }

    #[test]
    fn a_witness_gets_a_seat_and_never_the_authoritys_key() {
        let cluster = cluster();
        let asked = JoinRequest { role: Role::Witness, ..asks("small", &cluster.token()) };
        let answer = cluster.join(&asked, NOW).unwrap();
        assert!(answer.seat && answer.authority_key.is_none());
    }

    #[test]
    fn a_witness_that_would_get_no_seat_is_refused_with_the_reason_and_does_not_use_the_token_up() {
        let cluster = cluster();
        for host in ["node2", "node3"] {
            cluster.join(&asks(host, &cluster.token()), NOW).unwrap();
        }
        let secret = cluster.token();
        let asked = JoinRequest { role: Role::Witness, ..asks("small", &secret) };
        let refused = cluster.join(&asked, NOW).unwrap_err();
        assert_eq!(refused.code, Code::WitnessUseless);
        assert!(refused.message.contains("as many machines as are of use"), "{refused}");
        cluster.join(&asks("node4", &secret), NOW).unwrap();
        let elsewhere = Terms { seats: false, judge: &|| Ok(Vec::new()) };
        let asked = JoinRequest { role: Role::Witness, ..asks("small", &cluster.token()) };
        let refused = Registry(&cluster.store).admit(&asked, &cluster.authority, elsewhere, NOW);
        assert!(refused.unwrap_err().message.contains("somebody else runs the etcd"));
    }

    #[test]
    fn a_place_where_another_machine_is_reached_is_refused_by_its_name_and_the_same_machine_may_ask_again() {
        let cluster = cluster();
        let secret = cluster.token();
        let asked = JoinRequest { address: "10.0.0.1".to_owned(), ..asks("node2", &secret) };
        let refused = cluster.join(&asked, NOW).unwrap_err();
        assert_eq!(refused.code, Code::AddressTaken);
        assert!(refused.message.contains("node1") && refused.message.contains("10.0.0.1:7443"), "{refused}");
        let ports = Ports { cluster: 1, client: 2, peer: PORTS.client };
        assert_eq!(code(cluster.join(&JoinRequest { ports, ..asked.clone() }, NOW)), Code::AddressTaken);
        let asked = JoinRequest { ports: Ports { peer: 3, ..ports }, ..asked };
        for _ in 0..2 {
            cluster.join(&asked, NOW).unwrap();
        }
    }

    #[test]
    fn what_a_machine_brings_is_judged_before_its_token_is_used_and_only_if_that_opens() {
        let cluster = cluster();
        let secret = cluster.token();
        let refuses = Terms { seats: true, judge: &|| Err(say::records_clash(&["spec/vm/a".to_owned()])) };
        let admit = |asked: &JoinRequest, terms| {
            Registry(&cluster.store).admit(asked, &cluster.authority, terms, NOW)
        };
        let asked = asks("node2", &secret);
        assert_eq!(code(admit(&asked, refuses)), Code::HostExists);
        assert_eq!(code(admit(&asks("node2", &[1; 32]), refuses)), Code::TokenInvalid);
        assert_eq!(Registry(&cluster.store).members().unwrap().len(), 1);
        let warns = Terms { seats: true, judge: &|| Ok(vec![say::failover_paused()]) };
        assert_eq!(admit(&asked, warns).unwrap().findings, [say::failover_paused()]);
    }

    #[test]
    fn a_token_that_is_wrong_over_or_used_opens_nothing() {
        let cluster = cluster();
        assert_eq!(code(cluster.join(&asks("node2", &[1; 32]), NOW)), Code::TokenInvalid);
        let late = Timestamp(NOW.0 + HOUR_MS);
        assert_eq!(code(cluster.join(&asks("node2", &cluster.token()), late)), Code::TokenInvalid);
        let secret = cluster.token();
        cluster.join(&asks("node2", &secret), NOW).unwrap();
        assert_eq!(code(cluster.join(&asks("node3", &secret), NOW)), Code::TokenInvalid);
        assert_eq!(Registry(&cluster.store).members().unwrap().len(), 2);
    }

    #[test]
    fn the_same_machine_may_ask_again_because_the_answer_may_have_been_lost() {
        let cluster = cluster();
        let asked = asks("node2", &cluster.token());
        let seats = [0, 1].map(|_| cluster.join(&asked, NOW).unwrap().seat);
        assert_eq!(seats, [true, true]);
        assert_eq!(Registry(&cluster.store).members().unwrap().len(), 2);
    }

    #[test]
    fn a_machine_that_was_removed_is_not_let_in_again_with_the_token_that_it_used_nor_with_its_key() {
        let cluster = cluster();
        let asked = asks("node2", &cluster.token());
        cluster.join(&asked, NOW).unwrap();
        let host: HostName = "node2".parse().unwrap();
        let member = Registry(&cluster.store).members().unwrap().remove(&host).unwrap();
        crate::cluster::walk::forget(&cluster.store, &host, NOW, |_| true).unwrap();
        assert_eq!(code(cluster.join(&asked, NOW)), Code::TokenInvalid);
        let again = JoinRequest { secret: URL_SAFE_NO_PAD.encode(cluster.token()), ..asked };
        let refused = cluster.join(&again, NOW).unwrap_err();
        assert!(refused.message.contains("revoked"), "{refused}");
        assert!(revoked::all(&cluster.store).unwrap().contains_key(&member.key));
        cluster.join(&asks("node2", &cluster.token()), NOW).unwrap();
    }

    #[test]
    fn a_seat_is_given_once_and_not_beside_somebody_who_is_let_in() {
        let cluster = cluster();
        for host in ["node2", "node3", "node4", "node5"] {
            cluster.join(&asks(host, &cluster.token()), NOW).unwrap();
        }
        let [gone, heir, late]: [HostName; 3] = ["node3", "node4", "node6"].map(|host| host.parse().unwrap());
        crate::cluster::walk::forget(&cluster.store, &gone, NOW, |_| true).unwrap();
        let registry = Registry(&cluster.store);
        let races = || {
            // It takes the seat that was free when it was looked.
            cluster.join(&asks(late.as_str(), &cluster.token()), NOW).map(|answer| assert!(answer.seat))?;
            Ok(true)
        };
        assert!(!registry.give_seat(&heir, &races).unwrap());
        crate::cluster::walk::forget(&cluster.store, &late, NOW, |_| true).unwrap();
        assert!(registry.give_seat(&heir, &|| Ok(true)).unwrap());
        let members = registry.members().unwrap();
        assert_eq!(members.values().filter(|member| member.seat).count(), SEATS_MAX);
        assert!(members[&heir].seat && !members[&heir].signs, "it signs once it has the authority's key");
    }

    #[test]
    fn what_is_known_of_a_machine_is_not_changed_after_it_was_removed() {
        let cluster = cluster();
        let (registry, host) = (Registry(&cluster.store), "node1".parse().unwrap());
        let (member, at) = registry.member(&host).unwrap().unwrap();
        assert!(registry.change(&host, at, &MemberRecord { version: "2".to_owned(), ..member }).unwrap());
        let (member, at) = registry.member(&host).unwrap().unwrap();
        crate::cluster::walk::forget(&cluster.store, &host, NOW, |_| true).unwrap();
        assert!(!registry.change(&host, at, &member).unwrap());
        assert!(registry.members().unwrap().is_empty());
    }

    #[test]
    fn a_name_that_is_taken_is_refused_and_does_not_use_the_token_up() {
        let cluster = cluster();
        let secret = cluster.token();
        assert_eq!(code(cluster.join(&asks("node1", &secret), NOW)), Code::HostExists);
        cluster.join(&asks("node2", &secret), NOW).unwrap();
    }

    #[test]
    fn of_many_that_race_with_one_token_one_gets_in() {
        let cluster = cluster();
        let secret = cluster.token();
        let race = |index: usize| cluster.join(&asks(&format!("racer{index}"), &secret), NOW).is_ok();
        let race = &race;
        let won = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8).map(|index| scope.spawn(move || race(index))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(won, 1);
    }

    #[test]
    fn of_many_that_race_with_tokens_of_their_own_two_get_a_seat() {
        let cluster = cluster();
        let tokens: Vec<_> = (0..6).map(|_| cluster.token()).collect();
        let seats = std::thread::scope(|scope| {
            let cluster = &cluster;
            let racers: Vec<_> = tokens
                .iter()
                .enumerate()
                .map(|(index, secret)| {
                    scope.spawn(move || {
                        cluster.join(&asks(&format!("racer{index}"), secret), NOW).unwrap().seat
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).filter(|seat| *seat).count()
        });
        assert_eq!(seats, SEATS_MAX - 1, "the first has one already");
    }
}
