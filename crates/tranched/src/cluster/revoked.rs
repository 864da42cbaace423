//! Whose certificates are believed no more, although they have not ended.
//!
//! | key | record |
//! | --- | --- |
//! | `cluster/revoked/KEY` | the fingerprint of a host's key that is believed no more, until nothing that was signed for it lives |
//! | `cluster/revocations` | all of them, as the list that the authority has signed |
//!
//! A member's door knows by the registry whom to believe, and at once. etcd asks only whether the authority has signed, so it
//! is given the list. A host that may sign makes it; each host that keeps the store writes it where its etcd looks, which
//! reads the file at every handshake (seen with 3.4.23) and refuses everybody where there is none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::{HostName, Timestamp};
use tranche_store::{Expected, Key, KeyRange, Store, Txn};

use super::book::{self, Book};
use super::pki::{self, Authority};
use super::registry::{MemberRecord, decode, encode};
use super::walk;

/// A host's key that is believed no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Whose it was.
    pub host: HostName,
    /// When nothing that was signed for it lives any more.
    pub until: Timestamp,
    /// Whether the host went away with the authority's key.
    pub signs: bool,
}

/// The list that the authority has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Published {
    /// Whose keys are in it.
    keys: Vec<String>,
    /// The list, in PEM.
    list: String,
}

/// Believes a host's key no more; `signs` says whether it goes away with the authority's key. Can be repeated.
///
/// # Errors
/// The store fails.
pub fn revoke(
    store: &dyn Store,
    host: &HostName,
    member: &MemberRecord,
    now: Timestamp,
    signs: bool,
) -> Result<(), Finding> {
    let until = Timestamp(now.0 + pki::HOST_LIFE_MS);
    let record = Revoked { host: host.clone(), until, signs };
    let Some(key) = key_of(&member.key) else { return Ok(()) };
    let txn = Txn::new().expect(key.clone(), Expected::Absent).put(key, encode(&record));
    // One that is revoked already is.
    store.commit(&txn).map(|_| ()).map_err(|error| error.finding())
}

/// The keys that are believed no more, by their fingerprints.
///
/// # Errors
/// The store fails.
pub fn all(store: &dyn Store) -> Result<BTreeMap<String, Revoked>, Finding> {
    let prefix: KeyRange = "cluster/revoked/".parse().expect("it is a plain text of our own");
    let entries = store.range(&prefix).map_err(|error| error.finding())?.entries;
    let revoked = |entry: tranche_store::Entry| {
        let key = entry.key.segments().next_back().unwrap_or_default().to_owned();
        Ok((key, decode(&entry.key, &entry.value)?))
    };
    entries.into_iter().map(revoked).collect()
}

/// What is to be known about the hosts that were removed.
pub fn judge(revoked: &BTreeMap<String, Revoked>) -> Vec<Finding> {
    revoked
        .values()
        .filter(|revoked| revoked.signs)
        .map(|revoked| say::authority_exposed(&revoked.host))
        .collect()
}

/// Has the list signed anew if it is not what it should be, and forgets those whose certificates have all ended.
///
/// # Errors
/// The store fails.
pub fn publish(store: &dyn Store, authority: &Authority, now: Timestamp) -> Result<(), Finding> {
    let mut keys = Vec::new();
    for (name, revoked) in all(store)? {
        match key_of(&name) {
            Some(key) if revoked.until <= now => {
                let _ = store.commit(&Txn::new().delete(key)).map_err(|error| error.finding())?;
            }
            _ => keys.push(name),
        }
    }
    let entry = store.get(&published_key()).map_err(|error| error.finding())?;
    let known = entry.as_ref().map(|entry| decode::<Published>(&entry.key, &entry.value)).transpose()?;
    if known.is_some_and(|known| known.keys == keys) {
        return Ok(());
    }
    let list = authority.revoke(keys.iter().map(String::as_str), now).map_err(unsigned)?;
    let at = entry.map_or(Expected::Absent, |entry| Expected::At(entry.modified));
    let txn = Txn::new().expect(published_key(), at);
    let txn = txn.put(published_key(), encode(&Published { keys, list }));
    // Whoever was quicker has put the same, or the next look sees to it.
    store.commit(&txn).map(|_| ()).map_err(|error| error.finding())
}

/// Writes the list down if there is a newer one. Returns whether there was.
///
/// # Errors
/// The store fails, or the system refuses.
pub fn follow(store: &dyn Store, book: &Book) -> Result<bool, Finding> {
    let Some(entry) = store.get(&published_key()).map_err(|error| error.finding())? else { return Ok(false) };
    let Published { list, .. } = decode(&entry.key, &entry.value)?;
    // With anything else there, etcd would answer nobody.
    if !pki::is_revocations(&list) {
        return Err(say::cluster_file("The list of revoked certificates cannot be used", "it is none"));
    }
    if book::read(&book.revocations()).map_err(walk::file)?.as_deref() == Some(list.as_str()) {
        return Ok(false);
    }
    book::write(&book.revocations(), list.as_bytes(), 0o644).map_err(walk::file)?;
    Ok(true)
}

/// Makes sure that there is a list before etcd starts, where this host can make one.
///
/// # Errors
/// The system refuses.
pub fn provide(book: &Book, now: Timestamp) -> Result<(), Finding> {
    if book.revocations().exists() {
        return Ok(());
    }
    let Some(authority) = walk::authority(book).map_err(walk::file)? else { return Ok(()) };
    let list = authority.revoke([], now).map_err(unsigned)?;
    book::write(&book.revocations(), list.as_bytes(), 0o644).map_err(walk::file)
}

/// The record's key; none where the fingerprint is none.
pub fn key_of(fingerprint: &str) -> Option<Key> {
    format!("cluster/revoked/{fingerprint}").parse().ok()
}

fn published_key() -> Key {
    "cluster/revocations".parse().expect("it is a plain text of our own")
}

fn unsigned(error: pki::PkiError) -> Finding {
    say::cluster_file("The list of revoked certificates cannot be made", &walk::chain(&error))
}

#[cfg(test)]
mod tests {
    use tranche_core::finding::Code;
    use tranche_core::membership::Role;
    use tranche_store::MemoryStore;

    use super::super::registry::Ports;
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn member(signs: bool) -> (HostName, MemberRecord) {
        let host: HostName = "node1".parse().unwrap();
        let request = pki::request(&pki::new_key().unwrap(), &host).unwrap();
        let member = MemberRecord {
            address: "10.0.0.1".to_owned(),
            ports: Ports { cluster: 1, client: 2, peer: 3 },
            role: Role::Host,
            seat: signs,
            signs,
            key: pki::key_fingerprint(&request).unwrap(),
            version: "1.0.0".to_owned(),
            joined_at: NOW,
            no_etcd: false,
        };
        (host, member)
    }

    fn published(store: &MemoryStore) -> Published {
        let entry = store.get(&published_key()).unwrap().unwrap();
        decode(&entry.key, &entry.value).unwrap()
    }

    #[test]
    fn what_is_revoked_is_listed_until_nothing_that_was_signed_for_it_lives() {
        let (store, authority) = (MemoryStore::default(), Authority::new("lab", NOW).unwrap());
        publish(&store, &authority, NOW).unwrap();
        assert!(published(&store).keys.is_empty());
        let (host, gone) = member(false);
        for _ in 0..2 {
            revoke(&store, &host, &gone, NOW, false).unwrap();
            publish(&store, &authority, NOW).unwrap();
            assert_eq!(published(&store).keys, std::slice::from_ref(&gone.key));
        }
        publish(&store, &authority, Timestamp(NOW.0 + pki::HOST_LIFE_MS)).unwrap();
        assert!(published(&store).keys.is_empty() && all(&store).unwrap().is_empty());
    }

    #[test]
    fn a_list_that_has_not_changed_is_not_signed_anew() {
        let (store, authority) = (MemoryStore::default(), Authority::new("lab", NOW).unwrap());
        publish(&store, &authority, NOW).unwrap();
        let before = store.get(&published_key()).unwrap().unwrap().modified;
        publish(&store, &authority, Timestamp(NOW.0 + 1)).unwrap();
        assert_eq!(store.get(&published_key()).unwrap().unwrap().modified, before);
    }

    #[test]
    fn a_host_follows_the_list_and_takes_nothing_that_would_stop_its_etcd() {
        let (store, authority) = (MemoryStore::default(), Authority::new("lab", NOW).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let book = Book::new(camino::Utf8Path::from_path(dir.path()).unwrap());
        assert!(!follow(&store, &book).unwrap());
        publish(&store, &authority, NOW).unwrap();
        assert!(follow(&store, &book).unwrap() && !follow(&store, &book).unwrap());
        let good = std::fs::read_to_string(book.revocations()).unwrap();
        let bad = Published { keys: Vec::new(), list: "nothing".to_owned() };
        let _ = store.commit(&Txn::new().put(published_key(), encode(&bad))).unwrap();
        assert!(follow(&store, &book).is_err());
        assert_eq!(std::fs::read_to_string(book.revocations()).unwrap(), good);
    }

    #[test]
    fn who_went_away_with_the_authoritys_key_is_told_with_what_it_could_do() {
        let store = MemoryStore::default();
        let ((host, plain), (_, signer)) = (member(false), member(true));
        revoke(&store, &host, &plain, NOW, false).unwrap();
        assert_eq!(judge(&all(&store).unwrap()), []);
        revoke(&store, &host, &signer, NOW, true).unwrap();
        let findings = judge(&all(&store).unwrap());
        assert_eq!(findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::AuthorityExposed]);
    }
}
