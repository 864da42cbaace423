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
use tranche_core::membership::{self, Role, SEATS_MAX};
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
        refuse_version(asked, &members)?;
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

/// Refuses a host of another version than the one that rules: it brings records of its own, and reads those of the others.
fn refuse_version(asked: &JoinRequest, members: &BTreeMap<HostName, MemberRecord>) -> Result<(), Finding> {
    let is_host = |(host, member): &(&HostName, &MemberRecord)| {
        member.role == Role::Host && **host != asked.host && asked.role == Role::Host
    };
    let versions = members.iter().filter(is_host).map(|(_, member)| member.version.as_str());
    membership::refusal_to_join(&asked.host, &asked.version, versions).map_or(Ok(()), Err)
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
mod tests;
