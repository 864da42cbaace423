//! The host that a VM goes to: where it is, how it is known, and how it is asked.
//!
//! | key | record |
//! | --- | --- |
//! | `handover/INVITATION` | where the other host is, the fingerprint of its certificate, the secret |
//!
//! The secret is stored, because whoever is killed must still be able to say whose the VM is. It opens the way to one VM alone, and is
//! forgotten with it.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tranche_api::Problem;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::handover::{Answer, Message, Offer};
use tranche_core::migration::Outlook;
use tranche_core::name::{HostName, InvitationId, Timestamp, VmName};
use tranche_store::{Key, KeyRange, Store, StoreError, Txn};

use crate::cluster::door::{self, AskError, Trust};
use crate::cluster::pki::hex;
use crate::cluster::token::{self, Opens, Token};
use crate::cluster::walk::chain;

/// Where an offer is judged.
pub const OFFERS: &str = "/v1/peer/offers";
/// Where messages about a VM go.
pub const MESSAGES: &str = "/v1/peer/messages";
/// Where the way to the other host's libvirt begins.
pub const LIBVIRT: &str = "/v1/peer/libvirt";

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// The longest answer that is read, in bytes.
const ANSWER_LEN_MAX: usize = 4 << 20;
/// What is not used after this time is forgotten, in milliseconds: it may be about to be.
const UNUSED_MS_MAX: u64 = 10 * 60 * 1_000;

/// The host that a VM goes to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// As `HOST:PORT`.
    pub place: String,
    /// The VM that goes there, and what it calls itself.
    bound: Option<(VmName, HostName)>,
    /// The SHA-256 of its certificate.
    certificate: [u8; 32],
    /// What opens its door.
    secret: [u8; 32],
    /// Since when it is known.
    since: Timestamp,
}

/// The secret stays out of logs.
impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("place", &self.place).field("bound", &self.bound).finish_non_exhaustive()
    }
}

/// Why a host gave no answer.
#[derive(Debug)]
pub enum Unheard {
    /// It refuses.
    Refused(Box<Problem>),
    /// It does not answer, or not as it should.
    Silent(String),
}

impl Unheard {
    /// For whoever asked.
    pub fn into_finding(self, place: &str) -> Finding {
        match self {
            Self::Refused(problem) => say::peer_refused(place, &problem.detail, &problem.hint),
            Self::Silent(why) => say::peer_silent(place, &why),
        }
    }
}

impl Peer {
    /// The one that a token's text is of, at the address that was given, else at the token's own.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn new(to: Option<&str>, token: &str, now: Timestamp) -> Result<Self, Finding> {
        let token = Token::read(Opens::Host, token).map_err(say::invitation_refused)?;
        let own = token.addresses.first().cloned();
        let place = match to {
            Some(url) => place_of(url).ok_or_else(|| say::peer_address(url))?,
            None => own.ok_or_else(|| say::invitation_refused("it names no address"))?,
        };
        Ok(Self { place, bound: None, certificate: token.authority, secret: token.secret, since: now })
    }

    /// The same, for a VM that goes there, as it calls itself.
    #[must_use]
    pub fn bound_to(self, vm: VmName, host: HostName) -> Self {
        Self { bound: Some((vm, host)), ..self }
    }

    /// What it knows the VM's place by.
    pub fn invitation(&self) -> Result<InvitationId, Finding> {
        let id = token::hash(&self.secret);
        id.parse().map_err(|_| say::invitation_refused("it is damaged"))
    }

    /// Whom to believe.
    pub fn trust(&self) -> Trust<'_> {
        Trust::Certificate(self.certificate)
    }

    /// What it is shown.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", hex(&self.secret))
    }

    /// How it would take a VM.
    ///
    /// # Errors
    /// See [`Unheard`].
    pub async fn judge(&self, offer: &Offer) -> Result<Outlook, Unheard> {
        self.ask(OFFERS, offer).await
    }

    /// Tells it what to do about a VM.
    ///
    /// # Errors
    /// See [`Unheard`].
    pub async fn tell(&self, message: &Message) -> Result<Answer, Unheard> {
        self.ask(MESSAGES, message).await
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Unheard> {
        let asked = tokio::time::timeout(ANSWER_TIME, self.exchange(path, body)).await;
        let (status, bytes) = match asked {
            Ok(answered) => answered.map_err(|error| Unheard::Silent(chain(&error)))?,
            Err(_) => return Err(Unheard::Silent("it does not answer in time".to_owned())),
        };
        let nonsense = |_| Unheard::Silent(format!("it answers with {status}, and not as it should"));
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(nonsense);
        }
        let problem: Problem = serde_json::from_slice(&bytes).map_err(nonsense)?;
        // What may pass by itself says nothing about the VM.
        if status.is_server_error() {
            return Err(Unheard::Silent(problem.detail));
        }
        Err(Unheard::Refused(Box::new(problem)))
    }

    async fn exchange(&self, path: &str, body: &impl Serialize) -> Result<(StatusCode, Bytes), AskError> {
        let useless = |what: &str| AskError::Useless { what: what.to_owned() };
        let body = serde_json::to_vec(body).map_err(|_| useless("the request"))?;
        let authorization =
            HeaderValue::from_str(&self.authorization()).map_err(|_| useless("the request"))?;
        let request = Request::post(path)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, authorization)
            .body(Bytes::from(body))
            .map_err(|_| useless("the request"))?;
        let response = door::connect(&self.place, self.trust()).await?.send(request).await?;
        let status = response.status();
        let read = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
        let read = read.map_err(|source| AskError::Nonsense { address: self.place.clone(), source })?;
        Ok((status, read.to_bytes()))
    }
}

/// The `HOST:PORT` of a URL such as `https://node2:7440`.
fn place_of(url: &str) -> Option<String> {
    let place = url.strip_prefix("https://")?.trim_end_matches('/');
    let uri: hyper::Uri = format!("https://{place}").parse().ok()?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let is_bare = uri.path() == "/" && uri.query().is_none();
    let port = authority.port_u16().unwrap_or(443);
    is_bare.then(|| format!("{}:{port}", authority.host()))
}

/// The hosts that VMs go to, as they are stored.
#[derive(Debug, Clone)]
pub struct Peers(Arc<dyn Store>);

impl Peers {
    /// Those that a store knows.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Keeps one, before a VM sets out.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn keep(&self, invitation: &InvitationId, peer: &Peer) -> Result<(), StoreError> {
        let value = serde_json::to_vec(peer).unwrap_or_default();
        self.0.commit(&Txn::new().put(key(invitation), value)).map(|_| ())
    }

    /// The one that an invitation is of.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn get(&self, invitation: &InvitationId) -> Result<Option<Peer>, StoreError> {
        let entry = self.0.get(&key(invitation))?;
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
    }

    /// The one that a VM goes to, by what it calls itself: of several, the one that was asked last. Others of that name, and other VMs
    /// on their way to it, have tokens of their own.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn of(&self, vm: &VmName, host: &HostName) -> Result<Option<Peer>, StoreError> {
        let all = self.all()?.into_iter().map(|(_, peer)| peer);
        let is_its = |peer: &Peer| peer.bound.as_ref().is_some_and(|(of, to)| (of, to) == (vm, host));
        Ok(all.filter(is_its).max_by_key(|peer| peer.since))
    }

    /// Forgets those that no VM goes to any more.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn forget(&self, is_used: impl Fn(&InvitationId) -> bool, now: Timestamp) -> Result<(), StoreError> {
        for (invitation, peer) in self.all()? {
            if !is_used(&invitation) && now.ms_since(peer.since) > UNUSED_MS_MAX {
                // Nothing is compared, so nothing can conflict.
                let _ = self.0.commit(&Txn::new().delete(key(&invitation)))?;
            }
        }
        Ok(())
    }

    fn all(&self) -> Result<Vec<(InvitationId, Peer)>, StoreError> {
        let Ok(range) = KeyRange::below(&["handover"]) else { return Ok(Vec::new()) };
        let known = self.0.range(&range)?.entries.into_iter().filter_map(|entry| {
            let invitation = entry.key.segments().next_back()?.parse().ok()?;
            Some((invitation, serde_json::from_slice(&entry.value).ok()?))
        });
        Ok(known.collect())
    }
}

fn key(invitation: &InvitationId) -> Key {
    Key::of(&["handover", invitation.as_str()]).expect("it is hexadecimal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranche_store::{ManualClock, MemoryStore};

    fn token() -> Token {
        Token {
            opens: Opens::Host,
            addresses: vec!["node2:7440".to_owned()],
            authority: [7; 32],
            secret: [9; 32],
        }
    }

    #[test]
    fn an_address_is_that_of_a_console() {
        assert_eq!(place_of("https://node2:7440").as_deref(), Some("node2:7440"));
        assert_eq!(place_of("https://node2:7440/").as_deref(), Some("node2:7440"));
        assert_eq!(place_of("https://[fe80::1]:7440").as_deref(), Some("[fe80::1]:7440"));
        assert_eq!(place_of("https://node2").as_deref(), Some("node2:443"));
        for wrong in
            ["http://node2:7440", "node2:7440", "https://", "https://a@b:1", "https://a:1/x", "https://a:1?b"]
        {
            assert_eq!(place_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_peer_is_known_by_its_vm_and_forgotten_once_nothing_goes_there() {
        let peers = Peers::new(Arc::new(MemoryStore::new(Arc::new(ManualClock::default()))));
        let name = |text: &str| text.parse::<VmName>().unwrap();
        let host: HostName = "node2".parse().unwrap();
        let made = |secret: u8, vm: &str| {
            let token = Token { secret: [secret; 32], ..token() }.to_string();
            let peer = Peer::new(None, &token, Timestamp(5)).unwrap().bound_to(name(vm), host.clone());
            peers.keep(&peer.invitation().unwrap(), &peer).unwrap();
            peer
        };
        let (peer, other) = (made(9, "a"), made(8, "b"));
        let invitation = peer.invitation().unwrap();
        assert_eq!(peers.get(&invitation).unwrap(), Some(peer.clone()));
        assert_eq!(peers.of(&name("a"), &host).unwrap(), Some(peer.clone()));
        assert_eq!(peers.of(&name("b"), &host).unwrap(), Some(other), "each VM has a token of its own");
        assert_eq!(peers.of(&name("a"), &"node3".parse().unwrap()).unwrap(), None);
        peers.forget(|_| true, Timestamp(1 << 40)).unwrap();
        peers.forget(|_| false, Timestamp(6)).unwrap();
        assert!(peers.get(&invitation).unwrap().is_some(), "a VM may be about to go there");
        peers.forget(|_| false, Timestamp(1 << 40)).unwrap();
        assert_eq!(peers.get(&invitation).unwrap(), None);
        assert!(!format!("{peer:?}").contains('9'), "logs never show the secret");
    }
}
