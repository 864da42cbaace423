//! A cluster's store: etcd, version 3.4 and later.
//!
//! etcd agrees, keeps and tells; here its words become those of [`Store`]. Every key is below one root, so that an etcd that
//! others use too can serve. Calls block, with a limit; what runs behind them is a small runtime of its own.
//!
//! Deliberately absent: repeating. A write whose answer was lost may have taken effect, and only the caller, who reads
//! again, can tell. Reads are not repeated either: the loop that needs them comes round again.
//!
//! Facts: etcd's `rpc.proto` and `rpctypes/error.go` (the texts of its refusals), release 3.4.

mod watch;

use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare as EtcdCompare, CompareOp, ConnectOptions, Error as EtcdError, GetOptions,
    Identity, KeyValue, KvClient, LeaseClient, PutOptions, ResponseHeader, TlsOptions, Txn as EtcdTxn, TxnOp,
    TxnOpResponse, WatchClient,
};
use tokio::runtime::{Builder, Runtime};

use crate::error::StoreError;
use crate::key::{Key, Prefix};
use crate::record::{Entry, Lease, LeaseId, Revision, Snapshot};
use crate::txn::{Compare, Conflict, Expected, Op, Outcome, Txn};
use crate::{LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, Store, Watch};

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
/// How long a connection may take, in milliseconds.
const CONNECT_MS: u64 = 2_000;
/// How often a connection that nobody uses is tried, and how long the answer may take: a member that lost power is found
/// out and left for another.
const PROBE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(2));

/// Where a cluster's etcd is, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct EtcdSettings {
    /// The members, as `https://HOST:2379`. Any of them will do.
    pub endpoints: Vec<String>,
    /// Who may be trusted and who we are; none without TLS.
    pub tls: Option<EtcdTls>,
    /// How long a request may take, in milliseconds. Longer than an election of etcd takes, else each one is seen as an
    /// outage.
    pub timeout_ms: u64,
}

impl EtcdSettings {
    /// How long a request may take unless told otherwise, in milliseconds.
    pub const TIMEOUT_MS: u64 = 5_000;
}

/// Certificates in PEM.
#[derive(Clone)]
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
    kv: KvClient,
    leases: LeaseClient,
    watches: WatchClient,
    calls: Arc<Calls>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("place", &self.calls.place).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// A store at these endpoints. Whether one of them answers shows with the first call.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the settings are of no use: no endpoint, one that is no URL, bad certificates.
    pub fn connect(settings: &EtcdSettings) -> Result<Self, StoreError> {
        let place = format!("etcd at {}", settings.endpoints.join(", "));
        let failed = |error| StoreError::Unreachable {
            place: place.clone(),
            source: Box::<std::io::Error>::new(error),
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()
            .map_err(failed)?;
        let limit = Duration::from_millis(settings.timeout_ms);
        let calls = Arc::new(Calls { runtime, limit, place });
        let mut options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_millis(CONNECT_MS))
            .with_keep_alive(PROBE.0, PROBE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some(tls) = &settings.tls {
            let tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(&tls.authority))
                .identity(Identity::from_pem(&tls.certificate, &tls.key));
            options = options.with_tls(tls);
        }
        let endpoints = settings.endpoints.clone();
        let client = calls.wait(async move { Client::connect(endpoints, Some(options)).await })?;
        Ok(Self {
            // How much one entry may be is a limit of the writer; how many there are is not limited.
            kv: client.kv_client().max_decoding_message_size(usize::MAX),
            leases: client.lease_client(),
            watches: client.watch_client().max_decoding_message_size(usize::MAX),
            calls,
        })
    }

    /// The revision that etcd is at.
    fn revision(&self) -> Result<Revision, StoreError> {
        let mut kv = self.kv.clone();
        let options = GetOptions::new().with_count_only();
        let answer = self.calls.wait(async move { kv.get(ROOT, Some(options)).await })?;
        Ok(revision_of(answer.header()))
    }
}

impl Store for EtcdStore {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let (mut kv, name) = (self.kv.clone(), name_of(key));
        let answer = self.calls.wait(async move { kv.get(name, None).await })?;
        answer.kvs().first().map(|found| self.calls.entry(found)).transpose()
    }

    fn range(&self, prefix: &Prefix) -> Result<Snapshot, StoreError> {
        let (mut from, end) = (start_of(prefix), end_of(prefix));
        let (mut revision, mut entries) = (None, Vec::new());
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_ENTRIES);
            if let Some(Revision(pinned)) = revision {
                options = options.with_revision(signed(pinned));
            }
            let (mut kv, start) = (self.kv.clone(), from.clone());
            let answer = self.calls.wait(async move { kv.get(start, Some(options)).await })?;
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
        let mut kv = self.kv.clone();
        let answer = self.calls.wait_with(lease, async move { kv.txn(request).await })?;
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

    fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let range = (start_of(prefix), end_of(prefix));
        Ok(Box::new(EtcdWatch::open(self.watches.clone(), Arc::clone(&self.calls), range, after)?))
    }

    fn compact(&self, through: Revision) -> Result<(), StoreError> {
        let through = through.min(self.revision()?);
        let mut kv = self.kv.clone();
        match self.calls.run(async move { kv.compact(signed(through.0), None).await })? {
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
        let mut leases = self.leases.clone();
        let ttl_s = i64::try_from(ttl_ms.div_ceil(1_000)).unwrap_or(i64::MAX);
        let granted = self.calls.wait(async move { leases.grant(ttl_s, None).await })?;
        let ttl_ms = u64::try_from(granted.ttl()).unwrap_or_default() * 1_000;
        Ok(Lease { id: LeaseId(unsigned(granted.id())), ttl_ms })
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut leases = self.leases.clone();
        self.calls.wait_with(Some(lease), async move { leases.keep_alive(signed(lease.0)).await }).map(|_| ())
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut leases = self.leases.clone();
        self.calls.wait_with(Some(lease), async move { leases.revoke(signed(lease.0)).await }).map(|_| ())
    }
}

/// Calls to etcd, each with a limit.
struct Calls {
    runtime: Runtime,
    limit: Duration,
    place: String,
}

impl Calls {
    /// Waits for an answer, however it turns out.
    fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_for(self.limit, call)
    }

    fn run_for<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = mpsc::sync_channel(1);
        // Whoever gave up does not listen any more.
        let task = self.runtime.spawn(async move { drop(answer.send(call.await)) });
        answered.recv_timeout(limit).map_err(|_| {
            task.abort();
            self.nonsense(&format!("no answer within {} ms", limit.as_millis()))
        })
    }

    fn wait<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, EtcdError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.wait_with(None, call)
    }

    /// Waits for the answer to a call that concerns a lease.
    fn wait_with<T: Send + 'static>(
        &self,
        lease: Option<LeaseId>,
        call: impl Future<Output = Result<T, EtcdError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(call)?.map_err(|error| self.error(lease, error))
    }

    fn error(&self, lease: Option<LeaseId>, error: EtcdError) -> StoreError {
        let text = error.to_string();
        let place = self.place.clone();
        match lease {
            Some(lease) if LEASE_NOT_FOUND.iter().any(|known| text.contains(known)) => {
                StoreError::LeaseGone { lease }
            }
            _ if text.contains(NO_SPACE) => StoreError::Quota { place, source: Box::new(error) },
            _ => StoreError::Unreachable { place, source: Box::new(error) },
        }
    }

    /// An answer, or the lack of one, that is no good.
    fn nonsense(&self, what: &str) -> StoreError {
        StoreError::Unreachable { place: self.place.clone(), source: what.into() }
    }

    fn key(&self, name: &[u8]) -> Result<Key, StoreError> {
        let text = name.strip_prefix(ROOT.as_bytes()).and_then(|name| std::str::from_utf8(name).ok());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| StoreError::Corrupt {
            place: self.place.clone(),
            source: format!("{:?} is no key of Tranche's", String::from_utf8_lossy(name)).into(),
        })
    }

    fn entry(&self, found: &KeyValue) -> Result<Entry, StoreError> {
        Ok(Entry {
            key: self.key(found.key())?,
            value: found.value().to_vec(),
            created: Revision(unsigned(found.create_revision())),
            modified: Revision(unsigned(found.mod_revision())),
            lease: (found.lease() != 0).then(|| LeaseId(unsigned(found.lease()))),
        })
    }
}

fn name_of(key: &Key) -> String {
    format!("{ROOT}{key}")
}

fn start_of(prefix: &Prefix) -> Vec<u8> {
    format!("{ROOT}{prefix}").into_bytes()
}

fn end_of(prefix: &Prefix) -> Vec<u8> {
    format!("{ROOT}{}", prefix.end()).into_bytes()
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
