//! A cluster's store: etcd, version 3.4 and later.
//!
//! etcd agrees, keeps and tells; here its words become those of [`Store`]. Every key is below one root, so that an etcd that
//! others use too can serve. Calls block, with a limit; what runs behind them is a small runtime of its own.
//!
//! Deliberately absent: repeating. A write whose answer was lost may have taken effect, and only the caller, who reads
//! again, can tell. Reads are not repeated either: the loop that needs them comes round again.
//!
//! Facts: etcd's `rpc.proto` and `rpctypes/error.go` (the texts of its refusals), release 3.4.

mod calls;
mod members;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, GetOptions, KvClient, PutOptions, ResponseHeader,
    Txn as EtcdTxn, TxnOp, TxnOpResponse,
};

use crate::error::StoreError;
use crate::key::{Key, KeyRange};
use crate::record::{Entry, Lease, LeaseId, Revision, Snapshot};
use crate::txn::{Compare, Conflict, Expected, Op, Outcome, Txn};
use crate::{LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, Store, Watch};

use self::calls::Calls;
pub use self::members::{EtcdAlarms, EtcdMember, EtcdMembers, EtcdStatus};
use self::watch::EtcdWatch;

/// What etcd says where a history was forgotten before, and where a lease is not known (`rpctypes/error.go`); the last is
/// the client's own word for it.
const ALREADY_COMPACTED: &str = "has been compacted";
const LEASE_NOT_FOUND: [&str; 2] = ["requested lease not found", "lease not found"];
/// What it says when its quota is used up.
const NO_SPACE: &str = "database space exceeded";
/// What every key begins with in etcd.
const ROOT: &str = "tranche/";
/// Entries that are asked for in one request, so that no answer holds up the members for long.
const PAGE_ENTRIES: i64 = 1_000;

/// Where a cluster's etcd is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// The members, as `https://HOST:2379`. Any of them will do.
    pub endpoints: Vec<String>,
    /// Who may be trusted and who we are; none without TLS.
    pub tls: Option<EtcdTls>,
    /// How long a request may take, in milliseconds. Longer than an election of etcd takes, else each one is seen as an
    /// outage.
    pub timeout_ms: u64,
    /// How long its members go without word from their leader before they choose another one, in milliseconds. A connection that
    /// does not answer for so long is given up.
    pub election_ms: u64,
}

impl EtcdSettings {
    /// How long a request may take unless told otherwise, in milliseconds.
    pub const TIMEOUT_MS: u64 = 5_000;
}

/// Certificates in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Whose servers are trusted.
    pub authority: Vec<u8>,
    /// Our certificate.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// The key stays out of logs.
impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls").finish_non_exhaustive()
    }
}

/// A store in etcd.
pub struct EtcdStore {
    calls: Arc<Calls>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("place", &self.calls.place()).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// A store at these endpoints. Whether one of them answers shows with the first call.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the settings are of no use: no endpoint, one that is no URL, bad certificates.
    pub fn connect(settings: &EtcdSettings) -> Result<Self, StoreError> {
        Ok(Self { calls: Arc::new(Calls::new(settings, true)?) })
    }

    /// The same store over the same connections, where an answer that takes longer than this is of no use.
    #[must_use]
    pub fn within(&self, timeout_ms: u64) -> Self {
        Self { calls: Arc::new(self.calls.with_limit(Duration::from_millis(timeout_ms))) }
    }

    /// From now on, the store is at these endpoints. Those that it was at before and that are not among them are left.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when one of them is no URL.
    pub fn use_endpoints(&self, endpoints: &[String]) -> Result<(), StoreError> {
        self.calls.use_endpoints(endpoints)
    }

    /// The revision that etcd is at.
    fn revision(&self) -> Result<Revision, StoreError> {
        let answer = self.calls.wait(|client| async move {
            kv(&client).get(ROOT, Some(GetOptions::new().with_count_only())).await
        })?;
        Ok(revision_of(answer.header()))
    }
}

impl Store for EtcdStore {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let answer = self.calls.wait(|client| {
            let name = name_of(key);
            async move { kv(&client).get(name, None).await }
        })?;
        answer.kvs().first().map(|found| self.calls.entry(found)).transpose()
    }

    fn range(&self, keys: &KeyRange) -> Result<Snapshot, StoreError> {
        let (mut from, end) = (start_of(keys), end_of(keys));
        let (mut revision, mut entries) = (None, Vec::new());
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_ENTRIES);
            if let Some(Revision(pinned)) = revision {
                options = options.with_revision(signed(pinned));
            }
            let answer = self.calls.wait(|client| {
                let (start, options) = (from.clone(), options.clone());
                async move { kv(&client).get(start, Some(options)).await }
            })?;
            let pinned = *revision.get_or_insert_with(|| revision_of(answer.header()));
            for found in answer.kvs() {
                entries.push(self.calls.entry(found)?);
            }
            match answer.kvs().last() {
                // The next key after one is that one and a zero byte.
                Some(last) if answer.more() => from = [last.key(), &[0]].concat(),
                _ => return Ok(Snapshot { revision: pinned, entries }),
            }
        }
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let request = EtcdTxn::new()
            .when(txn.compares().iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.ops().iter().map(operation).collect::<Vec<_>>())
            .or_else(txn.compares().iter().map(look).collect::<Vec<_>>());
        let lease = txn.ops().iter().find_map(|op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete(_) => None,
        });
        let answer = self.calls.wait_with(lease, |client| {
            let request = request.clone();
            async move { kv(&client).txn(request).await }
        })?;
        if answer.succeeded() {
            return Ok(Outcome::Committed(revision_of(answer.header())));
        }
        let seen = answer.op_responses().into_iter().map(|seen| match seen {
            TxnOpResponse::Get(found) => {
                found.kvs().first().map(|found| Revision(unsigned(found.mod_revision())))
            }
            _ => None,
        });
        let mut seen = txn.compares().iter().zip(seen);
        let broken = seen.find(|(compare, actual)| !compare.expected.holds(*actual));
        let (Compare { key, expected }, actual) =
            broken.ok_or_else(|| self.calls.nonsense("a conflict that it does not show"))?;
        Ok(Outcome::Conflict(Conflict { key: key.clone(), expected: *expected, actual }))
    }

    fn watch(&self, keys: &KeyRange, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let range = (start_of(keys), end_of(keys));
        Ok(Box::new(EtcdWatch::open(Arc::clone(&self.calls), range, after)?))
    }

    fn compact(&self, through: Revision) -> Result<(), StoreError> {
        let through = through.min(self.revision()?);
        let compacting = |client: Client| async move { kv(&client).compact(signed(through.0), None).await };
        match self.calls.run(compacting)? {
            Err(error) if !error.to_string().contains(ALREADY_COMPACTED) => {
                Err(self.calls.error(None, error))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn grant(&self, ttl_ms: u64) -> Result<Lease, StoreError> {
        if !(LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(&ttl_ms) {
            let max = if ttl_ms < LEASE_TTL_MS_MIN { LEASE_TTL_MS_MIN } else { LEASE_TTL_MS_MAX };
            return Err(StoreError::Limit { what: "milliseconds of a lease".to_owned(), found: ttl_ms, max });
        }
        let ttl_s = i64::try_from(ttl_ms.div_ceil(1_000)).unwrap_or(i64::MAX);
        let granted =
            self.calls.wait(|client| async move { client.lease_client().grant(ttl_s, None).await })?;
        let ttl_ms = u64::try_from(granted.ttl()).unwrap_or_default() * 1_000;
        Ok(Lease { id: LeaseId(unsigned(granted.id())), ttl_ms })
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let keeping = |client: Client| async move { client.lease_client().keep_alive(signed(lease.0)).await };
        self.calls.wait_with(Some(lease), keeping).map(|_| ())
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoking = |client: Client| async move { client.lease_client().revoke(signed(lease.0)).await };
        self.calls.wait_with(Some(lease), revoking).map(|_| ())
    }
}

/// How much one entry may be is a limit of the writer; how many there are is not limited.
fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(usize::MAX)
}

fn name_of(key: &Key) -> String {
    format!("{ROOT}{key}")
}

fn start_of(keys: &KeyRange) -> Vec<u8> {
    format!("{ROOT}{}", keys.start()).into_bytes()
}

fn end_of(keys: &KeyRange) -> Vec<u8> {
    format!("{ROOT}{}", keys.end()).into_bytes()
}

fn compare(compare: &Compare) -> EtcdCompare {
    let name = name_of(&compare.key);
    match compare.expected {
        Expected::Absent => EtcdCompare::create_revision(name, CompareOp::Equal, 0),
        Expected::Present => EtcdCompare::create_revision(name, CompareOp::Greater, 0),
        Expected::At(revision) => EtcdCompare::mod_revision(name, CompareOp::Equal, signed(revision.0)),
    }
}

/// Reads when a compared key was last put, for the answer to a conflict.
fn look(compare: &Compare) -> TxnOp {
    TxnOp::get(name_of(&compare.key), Some(GetOptions::new().with_keys_only()))
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(signed(lease.0)));
            TxnOp::put(name_of(key), value.clone(), options)
        }
        Op::Delete(key) => TxnOp::delete(name_of(key), None),
    }
}

fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| unsigned(header.revision())))
}

/// etcd counts in signed numbers, none of which is ever negative.
fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}

fn signed(number: u64) -> i64 {
    number.cast_signed()
}
