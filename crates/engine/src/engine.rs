//! What people ask of a host; and, where it stands alone, its own desk and its own hand in turn.
//!
//! [`Engine::submit`] puts a wish into the store and returns; [`Engine::pass`] does one turn of the only loop there is.
//! First start, repair, recovery after a crash and every command take this same path. Of a member of a cluster only the desk is
//! used, while it leads: its host is the hand of a [`crate::cluster::Member`].

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tranche_core::change::Change;
use tranche_core::declare::Declaration;
use tranche_core::finding::Finding;
use tranche_core::handover::Told;
use tranche_core::inventory::Console;
use tranche_core::migration::Outlook;
use tranche_core::name::{HostName, Timestamp, VmId, VmName};
use tranche_host::Host;
use tranche_host::catalogue::Catalogue;
use tranche_store::{Repository, RepositoryError, Terms};

use crate::desk::{Applied, Desk, Ids, Rejected, Reported, Reports, Submitted, news_of};
use crate::hand::{Hand, PassReport};
use crate::view::View;

/// A host, as people ask it.
#[derive(Debug)]
pub struct Engine {
    name: HostName,
    host: Arc<dyn Host>,
    desk: Arc<Desk>,
    /// Only the pass uses it, so nobody waits for it.
    hand: Mutex<Hand>,
    /// What hosts with other stores said last of VMs that go there.
    told: Mutex<BTreeMap<VmName, Told>>,
}

impl Engine {
    /// An engine for one host over what is stored. `workers` steps of different VMs and GPUs are done side by side.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(
        name: HostName,
        host: Arc<dyn Host>,
        repository: Repository,
        workers: usize,
    ) -> Result<Self, RepositoryError> {
        Ok(Self::with(Desk::open(repository, Ids::default())?, name, host, workers))
    }

    /// The same for a member of a cluster, which lives on where something is stored that it cannot read: see
    /// [`Desk::open_as_member`].
    ///
    /// # Errors
    /// The store does not answer.
    pub fn open_as_member(
        name: HostName,
        host: Arc<dyn Host>,
        repository: Repository,
        workers: usize,
    ) -> Result<Self, RepositoryError> {
        Ok(Self::with(Desk::open_as_member(repository, Ids::default())?, name, host, workers))
    }

    fn with(desk: Desk, name: HostName, host: Arc<dyn Host>, workers: usize) -> Self {
        let hand = Mutex::new(Hand::new(Arc::clone(&host), workers));
        desk.decides_at(&name);
        Self { name, host, desk: Arc::new(desk), hand, told: Mutex::default() }
    }

    /// Where it is decided. A member of a cluster shares it with whoever leads there.
    pub fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// The host that this engine serves.
    pub fn host_name(&self) -> &HostName {
        &self.name
    }

    /// What the host knows of GPUs before it looks at one.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.host.catalogue()
    }

    /// Opens a console of a VM that runs on this host; waits for the hypervisor.
    ///
    /// # Errors
    /// The VM does not run here, has no such console, or somebody else has it.
    pub fn open_console(
        &self,
        vm: &VmName,
        id: VmId,
        console: Console,
        force: bool,
    ) -> Result<UnixStream, Finding> {
        self.host.open_console(vm, id, console, force).map_err(|finding| *finding)
    }

    /// What is known now. Cheap.
    pub fn view(&self) -> Arc<View> {
        self.desk.view()
    }

    /// Returns when the host has been looked at for the first time since the start.
    pub async fn looked(&self) {
        self.desk.looked(&self.name).await;
    }

    /// Ticks with each pass and each wish. A view with the revision of the one before shows nothing new.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.desk.watch()
    }

    /// Takes a wish, or tells what it would do: see [`Desk::submit`].
    ///
    /// # Errors
    /// [`Rejected`] carries the findings that stand against it; nothing was changed.
    pub fn submit(&self, change: &Change, dry_run: bool, now: Timestamp) -> Result<Submitted, Rejected> {
        self.desk.submit(change, dry_run, now)
    }

    /// Takes all of a declaration or nothing of it, or tells what it would do: see [`Desk::apply`].
    ///
    /// # Errors
    /// [`Rejected`] carries the findings that stand against any part of it; nothing was changed.
    pub fn apply(&self, declared: &Declaration, dry_run: bool, now: Timestamp) -> Result<Applied, Rejected> {
        self.desk.apply(declared, dry_run, now)
    }

    /// Everything that keeps a VM from running on a host.
    ///
    /// # Errors
    /// The VM or the host does not exist.
    pub fn why_not(&self, vm: &VmName, host: &HostName) -> Result<Vec<Finding>, Rejected> {
        self.desk.why_not(vm, host)
    }

    /// Where a VM that runs could go, and what would stand against moving it there while it runs.
    ///
    /// # Errors
    /// The VM does not exist or does not run, or there is no cluster.
    pub fn destinations(&self, vm: &VmName) -> Result<Vec<Outlook>, Rejected> {
        self.desk.destinations(vm)
    }

    /// Looks anew and tells everything that is not as it should be: violated invariants, drift, refusals.
    pub fn doctor(&self, now: Timestamp) -> Vec<Finding> {
        self.desk.examine(self.host.observe(now), now)
    }

    /// Keeps what hosts with other stores said last of VMs that go there. Returns whether that is news for the next pass.
    pub fn note_told(&self, told: BTreeMap<VmName, Told>) -> bool {
        let mut known = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *known != told;
        *known = told;
        is_news
    }

    /// One turn of a host that stands alone: observe, plan, commit, act. Called by one thread only; takes as long as its longest step.
    pub fn pass(&self, now: Timestamp) -> PassReport {
        let mut hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        let _turn = self.desk.trails().turn(&self.name, now).entered();
        let mut seen = hand.look(now);
        seen.progress.told.clone_from(&self.told.lock().unwrap_or_else(PoisonError::into_inner));
        let reports = Reports {
            inventory: Reported::One(Box::new(seen.clone())),
            news: news_of(&self.name, hand.take_news()),
            findings: Vec::new(),
        };
        let decided = self.desk.decide(reports, &Terms::default(), now);
        // Of wishes, too, that came while the host was looked at.
        hand.is_followed_by(self.desk.trails());
        match decided {
            Some(decided) => hand.act((&decided.spec, &decided.plan), &seen, &decided.put_back, now),
            None => {
                let view = self.view();
                hand.stand_still((&view.spec, &view.plan), &seen)
            }
        }
    }
}
