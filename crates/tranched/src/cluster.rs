//! How hosts become a cluster: certificates, tokens, the store's members, the way in and out, backups.
//!
//! [`Cluster`] is this host's side of it. It says which store is in charge, and does what people ask of it. Whoever gets in
//! or out gets a new daemon: the process replaces itself, because what it works with is another store, and because that is
//! the same path as a crash, which has to work anyway.
//!
//! Deliberately absent: who lives, who leads, where VMs run. Those are decided elsewhere, from the records.

mod answers;
pub mod book;
mod care;
pub mod carry;
pub mod door;
mod health;
pub mod hold;
mod lines;
pub mod luggage;
pub mod parting;
mod pinned;
pub mod pki;
pub mod registry;
pub mod revoked;
pub mod seat;
mod seats;
pub mod token;
mod waits;
pub mod walk;
pub mod ways;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use camino::Utf8Path;
use tokio::sync::watch;
use tranche_api::cluster::TokenCreated;
use tranche_core::change::{self, Arrival};
use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::membership::{Role, StoreHealth};
use tranche_core::name::{HostName, Timestamp};
use tranche_engine::View;
use tranche_store::{EtcdStore, Loaded, Repository, Store};

use self::book::{Book, Entering, How, Leaving, Membership, Seat, Standing, Step};
use self::care::Seen;
use self::carry::Backup;
use self::door::{Address, Identity};
use self::lines::Lines;
use self::registry::{JoinAnswer, JoinRequest, MemberRecord, Registry};
use self::seat::Running;
use self::token::{Opens, Token};
use self::walk::Ground;
use crate::clock;
use crate::config::{ClusterConfig, Config, EtcdConfig};

/// The cluster's name, unless told otherwise.
const NAME: &str = "tranche";
/// How long a token may be used, in seconds: unless told otherwise, at least and at most.
const TTL_S: u64 = 30 * 60;
const TTL_S_RANGE: std::ops::RangeInclusive<u64> = 60..=86_400;
/// How long it is waited for a first look at the host, and between two questions for it.
const LOOKED_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// This host's side of its cluster. Copies are the same.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: HostName,
    book: Book,
    cluster: ClusterConfig,
    etcd: EtcdConfig,
    state: Mutex<State>,
    /// To each of the store's members.
    lines: Lines,
    /// Set when the process shall replace itself.
    anew: watch::Sender<bool>,
    /// What the host knows of itself.
    own: OnceLock<watch::Receiver<Arc<View>>>,
}

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    running: Option<Running>,
    store: Option<Arc<EtcdStore>>,
    /// Whether somebody is on the way in, and what is being done.
    walking: bool,
    doing: Option<String>,
    health: StoreHealth,
    findings: Vec<Finding>,
    /// The members, as the store said last.
    members: BTreeMap<HostName, MemberRecord>,
    /// Those that may lead; nothing before the store was asked.
    candidates: Vec<HostName>,
    /// Why this host is still a member although it was to leave.
    stayed: Option<Finding>,
    /// Of each member of the store, where it is and where its host is asked.
    doors: BTreeMap<String, Address>,
    seen: Seen,
}

impl Cluster {
    /// This host as its files say. Where it has a seat, its member of the store is started.
    ///
    /// # Errors
    /// A file is damaged or of a later version.
    pub fn open(config: &Config, host: HostName) -> Result<Self, Finding> {
        let book = Book::new(&config.state_dir);
        let standing = book.read().map_err(walk::file)?;
        let mut cluster = config.cluster.clone();
        if cluster.address.is_empty() {
            cluster.address = host.to_string();
        }
        let mut state = State { standing, ..State::default() };
        let membership = match &state.standing {
            Standing::Member(membership) => Some(membership),
            Standing::Entering(entering) if entering.step == Step::Seated => Some(&entering.membership),
            Standing::Leaving(leaving) => Some(&leaving.membership),
            Standing::Alone | Standing::Entering(_) => None,
        };
        if let Some(membership) = membership.cloned()
            && let Err(finding) = walk::start(&book, &config.etcd, &membership, &mut state.running)
        {
            // The other members may do without.
            tracing::error!(code = %finding.code, "{} {}", finding.message, finding.hint);
        }
        let (etcd, state, anew) = (config.etcd.clone(), Mutex::new(state), watch::Sender::new(false));
        let (own, lines) = (OnceLock::new(), Lines::default());
        let this = Self(Arc::new(Inner { host, book, cluster, etcd, state, lines, anew, own }));
        this.connect()?;
        Ok(this)
    }

    /// A host that stands alone and has no place for files, for trials.
    pub fn nowhere(host: HostName) -> Self {
        let config = Config::default();
        let book = Book::new(Utf8Path::new("/nonexistent"));
        let (state, anew) = (Mutex::default(), watch::Sender::new(false));
        let (cluster, etcd, own) = (config.cluster, config.etcd, OnceLock::new());
        let lines = Lines::default();
        Self(Arc::new(Inner { host, book, cluster, etcd, state, lines, anew, own }))
    }

    /// From now on it is known what the host has, and so what it would bring into a cluster.
    pub fn follow(&self, own: watch::Receiver<Arc<View>>) {
        // Who is first told keeps it: a process has one host.
        let _ = self.0.own.set(own);
    }

    /// What the host would bring into a cluster; nothing where that is not known, as on a witness.
    fn arrival(&self) -> Option<Arrival> {
        let own = self.0.own.get()?;
        let began = Instant::now();
        while !own.borrow().inventory.contains_key(&self.0.host) && began.elapsed() < LOOKED_WITHIN {
            std::thread::sleep(LOOK);
        }
        let view = own.borrow().clone();
        Some(Arrival::of(&view.spec, &view.inventory, &self.0.host))
    }

    /// Ends what was begun and needs that nobody else uses the host's own store: brings its records into the cluster, or
    /// takes the host out. To be called before that store is opened.
    ///
    /// # Errors
    /// The host cannot get out yet, or its files cannot be written.
    pub fn settle(&self) -> Result<(), Finding> {
        let standing = self.lock().standing.clone();
        match standing {
            Standing::Entering(entering) if entering.step == Step::Seated => self.arrive(entering),
            Standing::Leaving(leaving) => self.depart(&leaving),
            Standing::Member(membership) => {
                self.ground(&|_| Ok(())).put_own_aside(&membership);
                Ok(())
            }
            Standing::Alone => {
                self.ground(&|_| Ok(())).forget_cluster();
                Ok(())
            }
            Standing::Entering(_) => Ok(()),
        }
    }

    /// Whoever cannot be reached is not left, and a host that was sent a VM at the last moment stays: it is a member until it is
    /// asked again.
    fn depart(&self, leaving: &Leaving) -> Result<(), Finding> {
        if let Err(finding) = self.ground(&|_| Ok(())).resign(&leaving.membership) {
            tracing::error!(code = %finding.code, "{}; the host stays a member", finding.message);
            self.note(Standing::Member(leaving.membership.clone()))?;
            self.lock().stayed = Some(finding);
            return self.connect();
        }
        let mut running = self.lock().running.take();
        let departed = self.ground(&|_| Ok(())).depart(leaving, &mut running);
        let mut state = self.lock();
        state.running = running;
        departed.map(|()| {
            state.store = None;
            state.standing = Standing::Alone;
        })
    }

    fn arrive(&self, entering: Entering) -> Result<(), Finding> {
        match self.ground(&|what| self.hear(what)).bring(&entering) {
            Ok(membership) => {
                tracing::info!(cluster = membership.cluster, "this host is a member now");
                let mut state = self.lock();
                state.standing = Standing::Member(membership);
                state.doing = None;
                drop(state);
                self.connect()
            }
            Err(finding) => {
                tracing::error!(code = %finding.code, "{}; the host stands alone as before", finding.message);
                let stopped = Entering { step: Step::Certified, stopped: Some(finding), ..entering };
                self.note(Standing::Entering(stopped))
            }
        }
    }

    fn connect(&self) -> Result<(), Finding> {
        let mut state = self.lock();
        if let Standing::Member(membership) = &state.standing {
            let settings =
                walk::settings(&self.0.book, &self.0.etcd, &membership.endpoints).map_err(walk::file)?;
            let store = EtcdStore::connect(&settings).map_err(|error| error.finding())?;
            state.store = Some(Arc::new(store));
        }
        Ok(())
    }

    /// The cluster's store, if this host is a member: then it is in charge, else SQLite is.
    pub fn store(&self) -> Option<Arc<EtcdStore>> {
        self.lock().store.clone()
    }

    /// What this host is as a member.
    pub fn membership(&self) -> Option<Membership> {
        match &self.lock().standing {
            Standing::Member(membership) => Some(membership.clone()),
            _ => None,
        }
    }

    /// What this host shows to others, if it is a member.
    ///
    /// # Errors
    /// A file is missing.
    pub fn identity(&self) -> Result<Option<Identity>, Finding> {
        self.membership().map(|_| Identity::read(&self.0.book).map_err(walk::file)).transpose()
    }

    /// The port at which other hosts ask.
    pub fn port(&self) -> u16 {
        self.0.cluster.port
    }

    /// By which address, or name, other machines reach this one.
    pub fn address(&self) -> &str {
        &self.0.cluster.address
    }

    /// Returns when the process shall replace itself.
    pub async fn anew(&self) {
        // The sender lives as long as this does.
        let _ = self.0.anew.subscribe().wait_for(|anew| *anew).await;
    }

    /// Whether the process shall replace itself.
    pub fn is_anew(&self) -> bool {
        *self.0.anew.borrow()
    }

    /// Ends what this process runs for the cluster.
    pub fn end(&self) {
        let running = self.lock().running.take();
        drop(running);
    }

    /// Goes on where somebody was killed on the way in.
    pub fn resume(&self) {
        let standing = self.lock().standing.clone();
        if let Standing::Entering(entering) = standing
            && entering.stopped.is_none()
        {
            self.walk(entering);
        }
    }

    /// Begins a cluster with this host.
    ///
    /// # Errors
    /// It is in one, or on its way into another.
    pub fn init(&self, name: Option<&str>, address: Option<&str>) -> Result<(), Finding> {
        let name = name.unwrap_or(NAME);
        // A cluster's name is like a host's.
        name.parse::<HostName>().map_err(|error| say::invalid_name(&error))?;
        let fresh = || self.entering(How::Begins, name, address);
        self.enter(fresh, "begin a cluster", |how| matches!(how, How::Begins))
    }

    /// Begins a cluster with the records of a backup.
    ///
    /// # Errors
    /// The file is no backup, or this host is a member of a cluster that lives.
    pub fn restore(&self, bytes: &[u8], address: Option<&str>, force: bool) -> Result<(), Finding> {
        let backup = Backup::read(bytes)?;
        if let Some(membership) = self.membership() {
            let lives =
                self.store().is_some_and(|store| store.get(&registry::member_key(&membership.host)).is_ok());
            if lives || !force {
                return Err(say::cluster_already(&membership.cluster));
            }
            let mut running = self.lock().running.take();
            if let Some(running) = running.take() {
                running.end();
            }
            self.note(Standing::Alone)?;
        }
        book::write(&self.0.book.restored(), bytes, 0o600).map_err(walk::file)?;
        let fresh = || self.entering(How::Restores, &backup.cluster, address);
        self.enter(fresh, "restore a cluster", |how| matches!(how, How::Restores))
    }

    /// Takes this host into a cluster.
    ///
    /// # Errors
    /// The token is none, or it is in a cluster, or on its way into another.
    pub fn join(&self, token: &str, address: Option<&str>) -> Result<(), Finding> {
        let parsed = Token::read(Opens::Cluster, token).map_err(say::token_invalid)?;
        let how = || How::Joins { token: parsed.to_string() };
        let known = self.lock().standing.clone();
        if let Standing::Entering(mut entering) = known
            && matches!(entering.how, How::Joins { .. })
            && entering.step == Step::Planned
            && !self.lock().walking
        {
            // The one before may have been no good.
            (entering.how, entering.stopped) = (how(), None);
            self.note(Standing::Entering(entering))?;
        }
        let fresh = || self.entering(how(), "", address);
        self.enter(fresh, "join a cluster", |how| matches!(how, How::Joins { .. }))
    }

    fn entering(&self, how: How, name: &str, address: Option<&str>) -> Result<Entering, Finding> {
        let address = address.unwrap_or(&self.0.cluster.address);
        check_address(address)?;
        let since = clock::now();
        let role = if self.0.cluster.witness { Role::Witness } else { Role::Host };
        let data = format!("{name}-{}", since.0).trim_start_matches('-').to_owned();
        let keeps_store = self.0.etcd.endpoints.is_empty();
        let seat = keeps_store.then(|| Seat { data, initial_cluster: String::new(), joins: false });
        let membership = Membership {
            cluster: name.to_owned(),
            host: self.0.host.clone(),
            address: address.to_owned(),
            role,
            since,
            seat,
            endpoints: Vec::new(),
        };
        Ok(Entering { how, step: Step::Planned, membership, stopped: None })
    }

    /// Sets out, or goes on if it is on the same way already.
    fn enter(
        &self,
        fresh: impl FnOnce() -> Result<Entering, Finding>,
        doing: &str,
        is_same: impl FnOnce(&How) -> bool,
    ) -> Result<(), Finding> {
        let standing = self.lock().standing.clone();
        let entering = match standing {
            Standing::Alone => {
                self.waits_for_nobody()?;
                fresh()?
            }
            Standing::Entering(entering) if is_same(&entering.how) => Entering { stopped: None, ..entering },
            Standing::Entering(_) => return Err(say::cluster_busy("enter a cluster in another way")),
            Standing::Leaving(_) => return Err(say::cluster_busy("leave its cluster")),
            Standing::Member(membership) => return Err(say::cluster_already(&membership.cluster)),
        };
        tracing::info!(doing, "this host sets out");
        self.note(Standing::Entering(entering.clone()))?;
        self.walk(entering);
        Ok(())
    }

    /// Refuses to set out while a VM is on its way between this host and one with another store: nobody would see it through.
    fn waits_for_nobody(&self) -> Result<(), Finding> {
        let view = self.0.own.get().map(|own| own.borrow().clone());
        match view.and_then(|view| change::under_way(&view.spec, &view.plan)) {
            Some(finding) => Err(finding),
            None => Ok(()),
        }
    }

    /// Walks on a thread of its own. One at a time.
    fn walk(&self, entering: Entering) {
        if std::mem::replace(&mut self.lock().walking, true) {
            return;
        }
        let this = self.clone();
        let walker = move || {
            let mut running = this.lock().running.take();
            let brings = match &entering.how {
                How::Joins { .. } if entering.step == Step::Planned => this.arrival(),
                How::Joins { .. } | How::Begins | How::Restores => None,
            };
            let tell = |what: &str| this.hear(what);
            let ground = Ground { brings: brings.as_ref(), ..this.ground(&tell) };
            let prepared = ground.prepare(entering.clone(), &mut running);
            let mut state = this.lock();
            state.running = running;
            state.walking = false;
            state.doing = None;
            drop(state);
            match prepared {
                Ok(entering) => {
                    this.lock().standing = Standing::Entering(entering);
                    this.0.anew.send_replace(true);
                }
                Err(finding) => this.stop(finding),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("cluster".to_owned()).spawn(walker) {
            self.lock().walking = false;
            self.stop(say::store_member_failed("be started", &error.to_string()));
        }
    }

    /// Notes why the way in ended before its end.
    fn stop(&self, finding: Finding) {
        tracing::error!(code = %finding.code, "{}", finding.message);
        // How far it is was noted on the way.
        match self.0.book.read() {
            Ok(Standing::Entering(entering)) => {
                let stopped = Entering { stopped: Some(finding), ..entering };
                if let Err(finding) = self.note(Standing::Entering(stopped)) {
                    tracing::error!(code = %finding.code, "{}", finding.message);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "nothing was noted"),
        }
    }

    fn give_up(&self, entering: &Entering) -> Result<(), Finding> {
        if self.lock().walking {
            return Err(say::cluster_busy("take the next step; ask again when it is done or has stopped"));
        }
        let joined = matches!(entering.how, How::Joins { .. }) && entering.step >= Step::Certified;
        let told = if joined { self.tell_of_giving_up(&entering.membership) } else { Ok(()) };
        let running = self.lock().running.take();
        if let Some(running) = running {
            running.end();
        }
        seat::strip(&self.0.book);
        self.note(Standing::Alone)?;
        self.0.book.forget();
        if let Err(finding) = told {
            self.lock().findings = vec![say::cluster_not_told(&self.0.host, &finding.message)];
        }
        Ok(())
    }

    /// The seat first: without the host's record, nobody would know whose it is.
    fn tell_of_giving_up(&self, membership: &Membership) -> Result<(), Finding> {
        let own = seat::url(&membership.address, self.0.etcd.client_port);
        let peer_url = seat::url(&membership.address, self.0.etcd.peer_port);
        let others: Vec<String> =
            membership.endpoints.iter().filter(|endpoint| **endpoint != own).cloned().collect();
        health::unseat(self, &others, &membership.host, &peer_url)?;
        let settings = walk::settings(&self.0.book, &self.0.etcd, &others).map_err(walk::file)?;
        let store = EtcdStore::connect(&settings).map_err(|error| error.finding())?;
        parting::take_back(&store, &membership.host, clock::now())
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// This host is no member, or the store fails.
    pub fn token(&self, ttl_s: Option<u64>) -> Result<TokenCreated, Finding> {
        self.token_for(None, ttl_s)
    }

    fn token_for(&self, only: Option<&HostName>, ttl_s: Option<u64>) -> Result<TokenCreated, Finding> {
        let store = self.store().ok_or_else(say::cluster_none)?;
        let ttl_s = ttl_s.unwrap_or(TTL_S);
        if !TTL_S_RANGE.contains(&ttl_s) {
            let message = format!("A token cannot be used for {ttl_s} s.");
            let hint = "Choose one minute to one day: 60 to 86400.";
            let subject = Subject::Input("ttl_s".to_owned());
            return Err(say::finding(Code::InvalidValue, Severity::Error, subject, message, hint));
        }
        let now = clock::now();
        let until = Timestamp(now.0 + ttl_s * 1_000);
        let members = Registry(store.as_ref()).members()?;
        // This host first: whoever makes a token knows that it works.
        let (own, others): (Vec<_>, Vec<_>) =
            members.iter().filter(|(_, member)| member.signs).partition(|(host, _)| **host == self.0.host);
        let addresses = own.into_iter().chain(others).map(|(_, member)| member.door()).collect();
        let authority = book::read(&self.0.book.authority()).map_err(walk::file)?.unwrap_or_default();
        let damaged =
            |error: pki::PkiError| say::cluster_file("The authority's certificate", &error.to_string());
        let authority = pki::fingerprint(&pki::der(&authority).map_err(damaged)?);
        let secret =
            token::new_secret().map_err(|_| say::cluster_file("A secret", "the system has no randomness"))?;
        Registry(store.as_ref()).offer(&secret, only, until, now)?;
        Ok(TokenCreated {
            token: Token { opens: Opens::Cluster, addresses, authority, secret }.to_string(),
            until,
        })
    }

    /// Lets a machine in that has a token.
    ///
    /// # Errors
    /// It is refused, or this host cannot let anybody in.
    pub fn admit(&self, asked: &JoinRequest) -> Result<JoinAnswer, Finding> {
        let store = self.store().ok_or_else(say::cluster_none)?;
        check_address(&asked.address)?;
        let authority = walk::authority(&self.0.book).map_err(walk::file)?;
        let authority = authority.ok_or_else(|| self.not_a_signer())?;
        let seats = self.0.etcd.endpoints.is_empty();
        let now = clock::now();
        let judge = || match &asked.brings {
            Some(brings) if asked.role == Role::Host => judge(&store, &asked.host, brings, now),
            Some(_) | None => Ok(Vec::new()),
        };
        Registry(store.as_ref()).admit(asked, &authority, registry::Terms { seats, judge: &judge }, now)
    }

    /// Gives the unused part of the store's files back, one member after the other.
    ///
    /// # Errors
    /// Some members do not answer; the others are done.
    pub fn defragment(&self) -> Result<(), Finding> {
        health::defragment(self)
    }

    /// Sees to the cluster for as long as the process lives: endpoints, health, certificates.
    pub fn care(&self) {
        care::begin(self.clone());
    }

    /// Signs the certificates of a member anew.
    ///
    /// # Errors
    /// It is no member, its key is another one, or this host may not sign.
    pub fn certify(&self, host: &HostName, request: &str) -> Result<pki::Certificates, Finding> {
        care::certify(self, host, request)
    }

    fn ground<'a>(&'a self, tell: &'a dyn Fn(&str) -> Result<(), Finding>) -> Ground<'a> {
        let Inner { book, cluster, etcd, .. } = &*self.0;
        Ground { book, cluster, etcd, brings: None, tell }
    }

    fn hear(&self, what: &str) -> Result<(), Finding> {
        tracing::info!(what, "on the way into a cluster");
        self.lock().doing = Some(what.to_owned());
        Ok(())
    }

    fn note(&self, standing: Standing) -> Result<(), Finding> {
        self.0.book.write(&standing).map_err(walk::file)?;
        self.lock().standing = standing;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Judges what a host would bring into a cluster.
fn judge(
    store: &Arc<EtcdStore>,
    host: &HostName,
    brings: &Arrival,
    now: Timestamp,
) -> Result<Vec<Finding>, Finding> {
    let loaded = Repository::new(store.clone()).load().map_err(|error| error.finding())?;
    let Loaded { state: tranche_store::State { spec, plan, inventory, .. }, .. } = &loaded;
    let judged = change::arrive(host, brings, change::State { spec, plan, inventory }, now);
    judged.map_err(|refusal| refusal.into_iter().next().unwrap_or_else(say::cluster_none))
}

/// An address is a number or a name; it goes into certificates, URLs and the environment of etcd.
fn check_address(address: &str) -> Result<(), Finding> {
    if address.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    address.parse::<HostName>().map(|_| ()).map_err(|error| say::invalid_name(&error))
}
