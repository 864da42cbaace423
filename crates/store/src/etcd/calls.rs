//! Calls to etcd: each with a limit, and to one member at a time.
//!
//! One member is asked for as long as it can be reached; then the next one is. Spreading calls over all of them would make one
//! that is down a fault of every other call. A call that certainly was not sent goes to the next member at once; what may have
//! been sent is for the caller to repeat, who alone knows whether that is right.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error as EtcdError, Identity, KeyValue, TlsOptions};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{EtcdSettings, LEASE_NOT_FOUND, NO_SPACE, ROOT, unsigned};
use crate::error::StoreError;
use crate::key::Key;
use crate::record::{Entry, LeaseId, Revision};

/// How long a connection may take, in milliseconds, unless an election takes longer.
const CONNECT_MS: u64 = 2_000;
/// How often a connection that nobody uses is tried, and how long the answer may take, unless an election takes longer: a member
/// that lost power is found out and left for another.
const PROBE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1));
/// How tonic calls a connection that could not be made, in the message of a status that is its own.
const NOT_CONNECTED: &str = "tcp connect error";
/// The status of a member that cannot serve, or was not reached (gRPC: `UNAVAILABLE`).
const UNAVAILABLE: i32 = 14;

/// Calls to etcd. Copies share their connections.
#[derive(Clone)]
pub(super) struct Calls {
    lines: Arc<Lines>,
    limit: Duration,
}

/// The connections.
struct Lines {
    /// There until this is dropped.
    runtime: Option<Runtime>,
    tasks: Handle,
    options: ConnectOptions,
    members: Mutex<Members>,
}

/// The members, the one in use first.
struct Members {
    place: String,
    row: Vec<(String, Client)>,
}

impl Calls {
    /// Calls to the members at the endpoints, the first one first. Nothing is asked yet. With `need_leader`, a member without a
    /// leader is of no use.
    pub(super) fn new(settings: &EtcdSettings, need_leader: bool) -> Result<Self, StoreError> {
        let place = place_of(&settings.endpoints);
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
        let election = Duration::from_millis(settings.election_ms);
        let mut options = ConnectOptions::new()
            .with_connect_timeout(election.max(Duration::from_millis(CONNECT_MS)))
            .with_keep_alive(PROBE.0, election.max(PROBE.1))
            .with_keep_alive_while_idle(true)
            .with_require_leader(need_leader);
        if let Some(tls) = &settings.tls {
            let tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(&tls.authority))
                .identity(Identity::from_pem(&tls.certificate, &tls.key));
            options = options.with_tls(tls);
        }
        let limit = Duration::from_millis(settings.timeout_ms);
        let members = Mutex::new(Members { place, row: Vec::new() });
        let (tasks, runtime) = (runtime.handle().clone(), Some(runtime));
        let this = Self { lines: Arc::new(Lines { runtime, tasks, options, members }), limit };
        this.use_endpoints(&settings.endpoints)?;
        Ok(this)
    }

    /// The same, each within another time.
    pub(super) fn with_limit(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    /// From now on, these are the members. Those that are members already stay connected.
    pub(super) fn use_endpoints(&self, endpoints: &[String]) -> Result<(), StoreError> {
        if endpoints.is_empty() {
            return Err(self.nonsense("no endpoint is set"));
        }
        let mut row = Vec::new();
        for endpoint in endpoints {
            let known = self.members().row.iter().find(|(known, _)| known == endpoint).cloned();
            row.push(match known {
                Some(known) => known,
                None => (endpoint.clone(), self.connect(endpoint)?),
            });
        }
        let mut members = self.members();
        // The one in use stays in use.
        let in_use = members.row.first().and_then(|(first, _)| endpoints.iter().position(|one| one == first));
        row.rotate_left(in_use.unwrap_or_default());
        *members = Members { place: place_of(endpoints), row };
        Ok(())
    }

    fn connect(&self, endpoint: &str) -> Result<Client, StoreError> {
        let (endpoints, options) = (vec![endpoint.to_owned()], self.lines.options.clone());
        // It only prepares: the connection is made by the first call.
        let connected =
            self.within(self.limit, async move { Client::connect(endpoints, Some(options)).await });
        connected?.map_err(|error| self.error(None, error))
    }

    /// Where the store is, for people.
    pub(super) fn place(&self) -> String {
        self.members().place.clone()
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.lines.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a call may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    fn in_use(&self) -> (String, Client) {
        self.members().row[0].clone()
    }

    /// The next member is in use, unless somebody else has left this one already.
    fn leave(&self, endpoint: &str) {
        let mut members = self.members();
        if members.row[0].0 == endpoint {
            members.row.rotate_left(1);
        }
    }

    /// Waits for an answer, however it turns out.
    pub(super) fn run<T, F>(&self, call: impl Fn(Client) -> F) -> Result<Result<T, EtcdError>, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EtcdError>> + Send + 'static,
    {
        let mut left = self.members().row.len();
        loop {
            let (endpoint, client) = self.in_use();
            left = left.saturating_sub(1);
            match self.within(self.limit, call(client)) {
                Err(error) => {
                    self.leave(&endpoint);
                    return Err(error);
                }
                Ok(Err(error)) if is_unavailable(&error) => {
                    self.leave(&endpoint);
                    if left == 0 || !was_not_sent(&error) {
                        return Ok(Err(error));
                    }
                }
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// Waits for something for so long.
    pub(super) fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = mpsc::sync_channel(1);
        // Whoever gave up does not listen any more.
        let task = self.lines.tasks.spawn(async move { drop(answer.send(call.await)) });
        answered.recv_timeout(limit).map_err(|_| {
            task.abort();
            self.nonsense(&format!("no answer within {} ms", limit.as_millis()))
        })
    }

    pub(super) fn wait<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EtcdError>> + Send + 'static,
    {
        self.wait_with(None, call)
    }

    /// Waits for the answer to a call that concerns a lease.
    pub(super) fn wait_with<T, F>(
        &self,
        lease: Option<LeaseId>,
        call: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EtcdError>> + Send + 'static,
    {
        self.run(call)?.map_err(|error| self.error(lease, error))
    }

    pub(super) fn error(&self, lease: Option<LeaseId>, error: EtcdError) -> StoreError {
        let text = error.to_string();
        let place = self.place();
        match lease {
            Some(lease) if LEASE_NOT_FOUND.iter().any(|known| text.contains(known)) => {
                StoreError::LeaseGone { lease }
            }
            _ if text.contains(NO_SPACE) => StoreError::Quota { place, source: Box::new(error) },
            _ => StoreError::Unreachable { place, source: Box::new(error) },
        }
    }

    /// An answer, or the lack of one, that is no good.
    pub(super) fn nonsense(&self, what: &str) -> StoreError {
        StoreError::Unreachable { place: self.place(), source: what.into() }
    }

    pub(super) fn key(&self, name: &[u8]) -> Result<Key, StoreError> {
        let text = name.strip_prefix(ROOT.as_bytes()).and_then(|name| std::str::from_utf8(name).ok());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| StoreError::Corrupt {
            place: self.place(),
            source: format!("{:?} is no key of Tranche's", String::from_utf8_lossy(name)).into(),
        })
    }

    pub(super) fn entry(&self, found: &KeyValue) -> Result<Entry, StoreError> {
        Ok(Entry {
            key: self.key(found.key())?,
            value: found.value().to_vec(),
            created: Revision(unsigned(found.create_revision())),
            modified: Revision(unsigned(found.mod_revision())),
            lease: (found.lease() != 0).then(|| LeaseId(unsigned(found.lease()))),
        })
    }
}

/// Whoever drops the last store may be a task, which must not wait for others to end.
impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn place_of(endpoints: &[String]) -> String {
    format!("etcd at {}", endpoints.join(", "))
}

fn is_unavailable(error: &EtcdError) -> bool {
    match error {
        EtcdError::GRpcStatus(status) => status.code() as i32 == UNAVAILABLE,
        EtcdError::TransportError(_) => true,
        _ => false,
    }
}

fn was_not_sent(error: &EtcdError) -> bool {
    matches!(error, EtcdError::GRpcStatus(status) if status.message() == NOT_CONNECTED)
}
