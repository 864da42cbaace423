//! The way into a cluster and out of it, step by step.
//!
//! Each step can be repeated, and is noted when it is done ([`super::book`]); so whoever is killed on the way goes on where it
//! was. While a host prepares, it works on as before. Only the last step, bringing its records, is made while nobody else
//! writes to its store: at the start of the daemon, before the loop.
//!
//! ```text
//! Planned    key, certificates; the cluster knows the host
//! Certified  a member of the store that listens, catches up, gets its vote
//! Seated     records are brought, compared, and only then relied on
//! ```

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use tranche_api::Problem;
use tranche_core::change::Arrival;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::membership::Role;
use tranche_core::name::Timestamp;
use tranche_core::spec::HostSpec;
use tranche_store::{
    EtcdMember, EtcdMembers, EtcdSettings, EtcdStore, EtcdTls, FILE_NAME, MemoryStore, MonotonicClock,
    Repository, Saved, Settings, SqliteStore, Store, StoreError, Terms, Txn,
};

use super::book::{self, Book, BookError, Entering, How, Leaving, Membership, Standing, Step};
use super::carry::{self, Backup, Records};
use super::door::{self, AskError, Trust};
use super::pki::{self, Authority, PkiError, Subject};
use super::registry::{JoinAnswer, JoinRequest, MemberRecord, Ports, Registry, member_key};
use super::revoked;
use super::seat::{self, Running};
use super::token::{Opens, Token};
use super::waits::{self, Waits};
use super::{luggage, parting};
use crate::clock;
use crate::config::{ClusterConfig, EtcdConfig};

/// How long the start of the daemon waits for the store: not as long as systemd waits for the daemon.
const REACHED_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// How long one request to the store may take, in milliseconds, unless two elections take longer.
const REQUEST_MS: u64 = 5_000;

/// What the way is walked on.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// This host's files.
    pub book: &'a Book,
    /// Settings.
    pub cluster: &'a ClusterConfig,
    /// Settings.
    pub etcd: &'a EtcdConfig,
    /// What the host would bring, if it stands alone.
    pub brings: Option<&'a Arrival>,
    /// Hears what is about to be done. Where it refuses, nothing more is done.
    pub tell: &'a dyn Fn(&str) -> Result<(), Finding>,
}

impl std::fmt::Debug for Ground<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground").field("book", self.book).finish_non_exhaustive()
    }
}

/// How the cluster's store is reached by a member, or a host that is about to be one.
///
/// # Errors
/// Its certificates cannot be read.
pub fn settings(book: &Book, etcd: &EtcdConfig, endpoints: &[String]) -> Result<EtcdSettings, BookError> {
    let own = etcd.endpoints.is_empty();
    let endpoints = if own { endpoints } else { &etcd.endpoints }.to_vec();
    let files = if own {
        [book.authority(), book.certificate("client"), book.key()]
    } else {
        [etcd.authority.clone(), etcd.certificate.clone(), etcd.key.clone()]
    };
    let election_ms = etcd.election_ms;
    let timeout_ms = REQUEST_MS.max(2 * election_ms);
    let plain = endpoints.iter().all(|endpoint| endpoint.starts_with("http://"));
    if plain {
        return Ok(EtcdSettings { endpoints, tls: None, timeout_ms, election_ms });
    }
    let [authority, certificate, key] = files.map(|path| {
        let missing = std::io::ErrorKind::NotFound.into();
        book::read(&path)?.map(String::into_bytes).ok_or(BookError::System {
            what: "read",
            path,
            source: missing,
        })
    });
    let tls = Some(EtcdTls { authority: authority?, certificate: certificate?, key: key? });
    Ok(EtcdSettings { endpoints, tls, timeout_ms, election_ms })
}

impl Ground<'_> {
    /// Walks as far as the host works on as before, and notes each step. `running` is its etcd, once it has one.
    ///
    /// # Errors
    /// Why it stopped. It goes on from there when it is called again.
    pub fn prepare(
        &self,
        mut entering: Entering,
        running: &mut Option<Running>,
    ) -> Result<Entering, Finding> {
        while entering.step < Step::Seated {
            entering.step = match entering.step {
                Step::Planned => {
                    self.certify(&mut entering)?;
                    Step::Certified
                }
                Step::Certified | Step::Seated => {
                    self.patiently("take a seat", || self.take_seat(&mut entering, running))?;
                    Step::Seated
                }
            };
            entering.stopped = None;
            self.note(&Standing::Entering(entering.clone()))?;
        }
        Ok(entering)
    }

    fn note(&self, standing: &Standing) -> Result<(), Finding> {
        (self.tell)("note how far it is")?;
        self.book.write(standing).map_err(file)?;
        (self.tell)("go on")
    }

    fn ports(&self) -> Ports {
        Ports { cluster: self.cluster.port, client: self.etcd.client_port, peer: self.etcd.peer_port }
    }

    /// The host's key and certificates, from its own authority or from the cluster's.
    fn certify(&self, entering: &mut Entering) -> Result<(), Finding> {
        if self.etcd.endpoints.is_empty() {
            // A host that is let in and cannot take its seat keeps others from getting one.
            seat::is_installed(self.etcd).map_err(|why| say::store_member_failed("be started", &why))?;
        }
        (self.tell)("make keys and certificates")?;
        let key = match book::read(&self.book.key()).map_err(file)? {
            Some(key) => key,
            None => {
                let key = pki::new_key().map_err(certificate)?;
                book::write(&self.book.key(), key.as_bytes(), 0o600).map_err(file)?;
                key
            }
        };
        let request = pki::request(&key, &entering.membership.host).map_err(certificate)?;
        match &entering.how {
            How::Joins { token } => self.be_let_in(&token.clone(), request, entering),
            How::Begins | How::Restores => self.begin(&request, &mut entering.membership),
        }
    }

    fn begin(&self, request: &str, membership: &mut Membership) -> Result<(), Finding> {
        let now = clock::now();
        let authority = self.authority(&membership.cluster, now)?;
        let keeps_store = self.etcd.endpoints.is_empty();
        let subject = Subject { host: &membership.host, address: &membership.address, keeps_store };
        let certificates = authority.sign(request, &subject, now).map_err(certificate)?;
        self.book.keep(&authority.certificate, &certificates).map_err(file)?;
        if keeps_store {
            membership.endpoints = vec![seat::url(&membership.address, self.etcd.client_port)];
        } else {
            membership.seat = None;
        }
        Ok(())
    }

    /// The authority that is there, or a new one. One whose key or certificate is missing has certified nobody.
    fn authority(&self, cluster: &str, now: Timestamp) -> Result<Authority, Finding> {
        if let Some(authority) = authority(self.book).map_err(file)? {
            return Ok(authority);
        }
        let authority = Authority::new(cluster, now).map_err(certificate)?;
        book::write(&self.book.authority_key(), authority.key.as_bytes(), 0o600).map_err(file)?;
        book::write(&self.book.authority(), authority.certificate.as_bytes(), 0o644).map_err(file)?;
        Ok(authority)
    }

    fn be_let_in(&self, token: &str, request: String, entering: &mut Entering) -> Result<(), Finding> {
        let token = Token::read(Opens::Cluster, token).map_err(say::token_invalid)?;
        let membership = &mut entering.membership;
        let asked = JoinRequest {
            secret: URL_SAFE_NO_PAD.encode(token.secret),
            host: membership.host.clone(),
            address: membership.address.clone(),
            ports: self.ports(),
            role: membership.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            request,
            brings: self.brings.cloned(),
        };
        (self.tell)("ask to be let in")?;
        let answer = ask_in(&token, &asked)?;
        for finding in &answer.findings {
            tracing::warn!(code = %finding.code, "{}", finding.message);
        }
        if let Some(key) = &answer.authority_key {
            book::write(&self.book.authority_key(), key.as_bytes(), 0o600).map_err(file)?;
        }
        self.book.keep(&answer.authority, &answer.certificates).map_err(file)?;
        membership.cluster = answer.cluster;
        membership.endpoints = answer.endpoints;
        if !answer.seat {
            membership.seat = None;
        }
        entering.how = How::Joins { token: String::new() };
        Ok(())
    }

    /// A member of the store of its own, where it has a seat; else the store only has to answer.
    fn take_seat(&self, entering: &mut Entering, running: &mut Option<Running>) -> Result<(), Finding> {
        let joins = matches!(entering.how, How::Joins { .. });
        let own = seat::url(&entering.membership.address, self.etcd.client_port);
        let others: Vec<String> =
            entering.membership.endpoints.iter().filter(|endpoint| **endpoint != own).cloned().collect();
        if entering.membership.seat.is_none() {
            (self.tell)("ask the store")?;
            let store = self.store(&entering.membership)?;
            return store.get(&member_key(&entering.membership.host)).map(|_| ()).map_err(unanswered);
        }
        if joins {
            (self.tell)("take a seat among the store's members")?;
            self.be_listener(entering, &others)?;
            let there = Membership { endpoints: others.clone(), ..entering.membership.clone() };
            revoked::follow(&self.store(&there)?, self.book)?;
            self.note(&Standing::Entering(entering.clone()))?;
        }
        (self.tell)("start etcd")?;
        let membership = &mut entering.membership;
        start(self.book, self.etcd, membership, running)?;
        if !membership.endpoints.contains(&own) {
            membership.endpoints.insert(0, own.clone());
        }
        (self.tell)("wait for etcd")?;
        let peer_url = seat::url(&membership.address, self.etcd.peer_port);
        self.wait_for_vote(&own, &others, &peer_url, joins)
    }

    /// A member that only listens, and who the others are.
    fn be_listener(&self, entering: &mut Entering, others: &[String]) -> Result<(), Finding> {
        let peer_url = seat::url(&entering.membership.address, self.etcd.peer_port);
        let members = self.members(others)?;
        let mut waits = self.waits("take a seat among the store's members");
        let known = |list: &[EtcdMember]| list.iter().any(|member| member.peer_urls.contains(&peer_url));
        loop {
            let list = members.list().map_err(unanswered)?;
            if known(&list) {
                let initial = seat::initial_cluster(&list, &entering.membership.host);
                if let Some(seat) = &mut entering.membership.seat
                    && seat.initial_cluster.is_empty()
                {
                    (seat.initial_cluster, seat.joins) = (initial, true);
                }
                return Ok(());
            }
            // Not while another one is on its way.
            if !members.add_learner(&peer_url).map_err(unanswered)? {
                waits.more("be taken in while another member is on its way")?;
            }
        }
    }

    fn wait_for_vote(
        &self,
        own: &str,
        others: &[String],
        peer_url: &str,
        joins: bool,
    ) -> Result<(), Finding> {
        let mut waits = self.waits("wait for etcd");
        let member = self.members(&[own.to_owned()])?;
        while !member.status().is_ok_and(|status| status.leader != 0) {
            waits.more("answer")?;
        }
        if !joins {
            return Ok(());
        }
        let members = self.members(others)?;
        let mut waits = self.waits("wait until etcd has caught up");
        loop {
            let list = members.list().map_err(unanswered)?;
            match list.iter().find(|member| member.peer_urls.iter().any(|url| url == peer_url)) {
                Some(member) if !member.learner => return Ok(()),
                Some(member) => drop(members.promote(member.id)),
                None => return Err(say::store_member_failed("join", "the others have taken it out")),
            }
            waits.more("catch up with the others")?;
        }
    }

    /// Brings the host's records and makes it a member. Nobody else may have its own store open.
    ///
    /// # Errors
    /// Why it did not; its own store is in charge, as before.
    pub fn bring(&self, entering: &Entering) -> Result<Membership, Finding> {
        let membership = &entering.membership;
        let store = self.reach(membership)?;
        (self.tell)("bring the records")?;
        match &entering.how {
            How::Begins => {
                let records = self.own_records()?;
                let bring = || carry::bring_all(&records, &store).map_err(|error| error.finding());
                self.patiently("bring the records", bring)?;
            }
            How::Restores => {
                let bytes = book::read(&self.book.restored()).map_err(file)?.unwrap_or_default();
                let records = Backup::read(bytes.as_bytes())?.records()?;
                let bring = || carry::bring_all(&records, &store).map_err(|error| error.finding());
                self.patiently("bring the records", bring)?;
            }
            How::Joins { .. } if membership.role == Role::Witness => {}
            How::Joins { .. } => {
                let mut records = carry::own(self.own_records()?);
                records.extend(host_record(membership)?);
                let bring = || luggage::bring(&membership.host, &records, &store, self.tell);
                self.patiently("bring the records", bring)?;
            }
        }
        if !matches!(entering.how, How::Joins { .. }) {
            self.patiently("bring the records", || self.register(membership, &store))?;
        }
        (self.tell)("rely on them")?;
        self.note(&Standing::Member(membership.clone()))?;
        self.put_own_aside(membership);
        Ok(membership.clone())
    }

    /// Of a host that begins a cluster: itself.
    fn register(&self, membership: &Membership, store: &EtcdStore) -> Result<(), Finding> {
        let key = book::read(&self.book.key()).map_err(file)?.unwrap_or_default();
        let request = pki::request(&key, &membership.host).map_err(certificate)?;
        let member = MemberRecord {
            address: membership.address.clone(),
            ports: self.ports(),
            role: membership.role,
            seat: membership.seat.is_some(),
            signs: true,
            key: pki::key_fingerprint(&request).map_err(certificate)?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            joined_at: membership.since,
            no_etcd: false,
        };
        Registry(store).put(&membership.cluster, &membership.host, &member)?;
        if let Some(authority) = authority(self.book).map_err(file)? {
            // A witness cannot make a list by itself, and its etcd starts with what there is.
            revoked::publish(store, &authority, clock::now())?;
        }
        for (key, value) in host_record(membership)? {
            if store.get(&key).map_err(|error| error.finding())?.is_none() {
                let _ = store.commit(&Txn::new().put(key, value)).map_err(|error| error.finding())?;
            }
        }
        Ok(())
    }

    fn own_records(&self) -> Result<Records, Finding> {
        let own = open_own(self.book).map_err(|error| error.finding())?;
        carry::records(&own).map_err(|error| error.finding())
    }

    /// Of a member, the host's own store is kept as it was when the cluster's took its place. Can be repeated.
    pub fn put_own_aside(&self, membership: &Membership) {
        self.set_aside(&format!("before-{}", membership.since.0));
    }

    fn set_aside(&self, mark: &str) {
        let path = self.book.dir().join(FILE_NAME);
        for end in ["", "-wal", "-shm"] {
            let (from, to) = (format!("{path}{end}"), format!("{path}.{mark}{end}"));
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, from, "the host's own store stays where it is; it is not used");
                }
                _ => {}
            }
        }
    }

    /// The cluster's store, once it answers: etcd may have been started just now.
    ///
    /// # Errors
    /// It does not.
    pub fn reach(&self, membership: &Membership) -> Result<EtcdStore, Finding> {
        let store = self.store(membership)?;
        let began = Instant::now();
        while let Err(error) = store.get(&member_key(&membership.host)) {
            if began.elapsed() > REACHED_WITHIN {
                return Err(unanswered(error));
            }
            thread::sleep(LOOK);
        }
        Ok(store)
    }

    /// Has the host sent no VMs any more. Nothing else is given up before.
    ///
    /// # Errors
    /// It has VMs, or the store does not answer; the host is what it was.
    pub fn resign(&self, membership: &Membership) -> Result<(), Finding> {
        let store = self.reach(membership)?;
        parting::resign(Arc::new(store), &membership.host, self.tell)
    }

    /// Takes the host out of its cluster, which sends it no VMs any more.
    ///
    /// # Errors
    /// Why it did not; it can be repeated.
    pub fn depart(&self, leaving: &Leaving, running: &mut Option<Running>) -> Result<(), Finding> {
        let membership = &leaving.membership;
        let own = seat::url(&membership.address, self.etcd.client_port);
        let others: Vec<String> =
            membership.endpoints.iter().filter(|endpoint| **endpoint != own).cloned().collect();
        if membership.seat.is_some() {
            (self.tell)("give up the seat among the store's members")?;
            let peer_url = seat::url(&membership.address, self.etcd.peer_port);
            let members = self.members(&others)?;
            for member in members.list().map_err(unanswered)? {
                let mut waits = self.waits("give up the seat among the store's members");
                while member.peer_urls.contains(&peer_url)
                    && !members.remove(member.id).map_err(unanswered)?
                {
                    waits.more("give up its seat")?;
                }
            }
        }
        (self.tell)("take the host out of the cluster's records")?;
        let staying = Membership { endpoints: others, ..membership.clone() };
        let store = self.store(if membership.seat.is_some() { &staying } else { membership })?;
        let known = Registry(&store).member(&membership.host)?;
        parting::take_out(&store, &membership.host, |_| true)?;
        (self.tell)("stand alone")?;
        if let Some(running) = running.take() {
            running.end();
        }
        seat::strip(self.book);
        // Of an attempt before this one, or of the time before the cluster.
        self.set_aside(&format!("until-{}", clock::now().0));
        let own = open_own(self.book).map_err(|error| error.finding())?;
        let key = |text: &String| text.parse().map_err(|error| say::backup_invalid(&format!("{error}")));
        let keeps = leaving.keeps.iter().map(|(name, value)| Ok((key(name)?, value.clone().into_bytes())));
        carry::bring_all(&keeps.collect::<Result<_, Finding>>()?, &own).map_err(|error| error.finding())?;
        self.note(&Standing::Alone)?;
        // Not before: one that is killed has to reach the store once more. Its keys are forgotten in any case.
        if let Some((member, _)) = known
            && let Err(finding) = revoked::revoke(&store, &membership.host, &member, clock::now(), false)
        {
            tracing::warn!(code = %finding.code, "{}", finding.message);
        }
        self.forget_cluster();
        Ok(())
    }

    /// Of a host that stands alone, no key and no certificate stays behind. Can be repeated.
    pub fn forget_cluster(&self) {
        seat::strip(self.book);
        self.book.forget();
    }

    fn patiently<T>(&self, doing: &str, step: impl FnMut() -> Result<T, Finding>) -> Result<T, Finding> {
        waits::patiently(self.tell, doing, step)
    }

    fn waits<'a>(&'a self, doing: &'a str) -> Waits<'a> {
        Waits::begin(self.tell, doing)
    }

    fn store(&self, membership: &Membership) -> Result<EtcdStore, Finding> {
        let settings = settings(self.book, self.etcd, &membership.endpoints).map_err(file)?;
        EtcdStore::connect(&settings).map_err(unanswered)
    }

    fn members(&self, endpoints: &[String]) -> Result<EtcdMembers, Finding> {
        let settings = settings(self.book, self.etcd, endpoints).map_err(file)?;
        EtcdMembers::connect(&settings).map_err(unanswered)
    }
}

/// Starts the host's member of the store, as it is noted.
///
/// # Errors
/// Its files cannot be written, or it cannot be started.
pub fn start(
    book: &Book,
    etcd: &EtcdConfig,
    membership: &Membership,
    running: &mut Option<Running>,
) -> Result<(), Finding> {
    let Some(seat) = &membership.seat else { return Ok(()) };
    if running.is_some() {
        return Ok(());
    }
    revoked::provide(book, clock::now())?;
    let environment = seat::environment(etcd, book, membership, seat);
    seat::equip(book, &environment).map_err(file)?;
    let started = Running::start(etcd, &environment, seat::hold(book), false);
    *running = Some(started.map_err(|why| say::store_member_failed("be started", &why))?);
    Ok(())
}

/// The authority, if this host has its key.
///
/// # Errors
/// A file cannot be read.
pub fn authority(book: &Book) -> Result<Option<Authority>, BookError> {
    let files = (book::read(&book.authority())?, book::read(&book.authority_key())?);
    Ok(match files {
        (Some(certificate), Some(key)) => Some(Authority { certificate, key }),
        _ => None,
    })
}

fn open_own(book: &Book) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(&Settings::new(book.dir().to_owned()), Arc::new(MonotonicClock::default()))
}

/// The record that makes a host a member that runs VMs; none for a witness.
fn host_record(membership: &Membership) -> Result<Records, Finding> {
    if membership.role == Role::Witness {
        return Ok(Records::new());
    }
    let store = Arc::new(MemoryStore::default());
    let repository = Repository::new(store.clone());
    let loaded = repository.load().map_err(|error| error.finding())?;
    let mut next = loaded.state.clone();
    next.spec.hosts.insert(membership.host.clone(), HostSpec::new(membership.since));
    match repository.commit(loaded, next, &Terms::default()).map_err(|error| error.finding())? {
        Saved::Committed(_) | Saved::Conflict(_) => {}
    }
    carry::records(store.as_ref()).map_err(|error| error.finding())
}

/// Asks each address until one lets us in or refuses.
fn ask_in(token: &Token, asked: &JoinRequest) -> Result<JoinAnswer, Finding> {
    let body = serde_json::to_vec(asked).expect("plain words are JSON");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| say::store_member_failed("ask", &error.to_string()))?;
    let mut why = String::new();
    for address in &token.addresses {
        let trust = Trust::Fingerprint(token.authority);
        let asking = door::ask(address, trust, Method::POST, "/cluster/join", body.clone());
        match runtime.block_on(asking) {
            Ok((status, bytes)) if status.is_success() => {
                return serde_json::from_slice(&bytes)
                    .map_err(|error| say::cluster_unreachable(&token.addresses, &error.to_string()));
            }
            Ok((status, bytes)) => match serde_json::from_slice::<Problem>(&bytes) {
                Ok(problem) if status.is_client_error() => {
                    let first = problem.findings.first().cloned();
                    return Err(first.unwrap_or_else(|| say::token_invalid(&problem.detail)));
                }
                Ok(problem) => why = problem.detail,
                Err(_) => why = format!("it answers with {status}"),
            },
            Err(AskError::Untrusted { address, .. }) => return Err(say::cluster_untrusted(&address)),
            Err(error) => why = chain(&error),
        }
    }
    Err(say::cluster_unreachable(&token.addresses, &why))
}

/// An error and everything below it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |&error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn unanswered(error: StoreError) -> Finding {
    error.finding()
}

fn certificate(error: PkiError) -> Finding {
    say::cluster_file("Certificates cannot be made", &chain(&error))
}

/// A failure of files as a finding.
pub fn file(error: BookError) -> Finding {
    say::cluster_file("A file of the cluster cannot be used", &chain(&error))
}
