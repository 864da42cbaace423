//! What is stored, and under which keys. Unknown fields are kept out of nobody's way: a later version may have written them.

use std::fmt::Display;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tranche_core::access::Grant;
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::name::{Timestamp, UserName};
use tranche_store::{Entry, Key, KeyRange, Revision, Store};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    #[serde(rename = "role")]
    pub(crate) grant: Grant,
    pub(crate) created_at: Timestamp,
    /// Changes with the password, and when somebody of the same name is made anew: sessions with another one are over.
    pub(crate) stamp: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<Password>,
}

/// What is kept of a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Password {
    pub(crate) hash: String,
    pub(crate) set_at: Timestamp,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    #[serde(rename = "role")]
    pub(crate) grant: Grant,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) hash: String,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Session {
    User(Login),
    Vouched(Vouched),
}

/// A session of a user, or a link that begins one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    pub(crate) user: UserName,
    pub(crate) stamp: String,
    pub(crate) expires_at: Timestamp,
}

/// A session of somebody whom an issuer vouches for, and who is no user. Versions that know no issuers cannot read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vouched {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) name: String,
    /// Those that gave a role when it began: what they give is looked up at each request.
    pub(crate) groups: Vec<String>,
    pub(crate) expires_at: Timestamp,
}

/// An attempt to log in through an issuer that has succeeded, so that it does so once; and what is asked of all that lies with sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ends {
    pub(crate) expires_at: Timestamp,
}

pub(crate) fn user_key(name: &UserName) -> Key {
    key("access/user", name)
}

pub(crate) fn token_key(name: &UserName) -> Key {
    key("access/token", name)
}

pub(crate) fn session_key(hash: &str) -> Key {
    key("session", &hash)
}

pub(crate) fn link_key(hash: &str) -> Key {
    key("session/link", &hash)
}

pub(crate) fn spent_key(hash: &str) -> Key {
    key("session/spent", &hash)
}

pub(crate) fn users() -> KeyRange {
    below("access/user/")
}

pub(crate) fn tokens() -> KeyRange {
    below("access/token/")
}

/// Sessions, links, and attempts that were spent.
pub(crate) fn sessions() -> KeyRange {
    below("session/")
}

pub(crate) fn audit() -> KeyRange {
    below("audit/")
}

fn key(prefix: &str, name: &impl Display) -> Key {
    format!("{prefix}/{name}").parse().expect("names and hashes are made of what keys may hold")
}

fn below(prefix: &str) -> KeyRange {
    prefix.parse().expect("it is a plain text of our own")
}

/// A record, and the revision that it was written at.
///
/// # Errors
/// The store cannot be read, or the record.
pub(crate) fn read<T: DeserializeOwned>(
    store: &dyn Store,
    key: &Key,
) -> Result<Option<(T, Revision)>, Finding> {
    let entry = store.get(key).map_err(|error| error.finding())?;
    entry.map(|entry| Ok((decode(&entry)?, entry.modified))).transpose()
}

/// # Errors
/// The record cannot be read.
pub(crate) fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, Finding> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        let message = format!("The record {} cannot be read: {error}.", entry.key);
        let hint =
            "A later version of Tranche may have written it: use that one, or make the user or token anew.";
        finding(Code::HostUnread, Severity::Error, Subject::Installation, message, hint)
    })
}

pub(crate) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record of ours is JSON")
}
