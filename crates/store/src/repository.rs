//! Tranche's own records on top of a [`Store`]: which key holds what, and in which form.
//!
//! This is the only place that knows either. Everything is one small record per thing, so independent changes never
//! meet; [`State`] is all of them together, as the core wants them. A change is made by computing the next state:
//! [`Repository::commit`] finds out what differs, and demands of the store that nobody else has touched that meanwhile.
//!
//! Deliberately absent: what a record means, and what follows from a conflict (read again, decide again).

mod changes;
mod cluster;
mod layout;
mod stored;
mod trails;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::Inventory;
use tranche_core::map::Map;
use tranche_core::name::{HostName, OperationId};
use tranche_core::operation::{OPERATIONS_KEPT_MAX, Operation};
use tranche_core::plan::Plan;
pub use tranche_core::shared::Shared;
use tranche_core::spec::Spec;

pub use self::cluster::{Beat, Beaten, Beats, Part, Stands, Tidings};
use self::stored::malformed;
pub use self::trails::Trail;
use crate::error::{self, StoreError};
use crate::key::Key;
use crate::record::{Event, Revision};
use crate::txn::{Compare, Conflict, Expected, Outcome, Txn};
use crate::{Store, Watch};

/// Everything that is remembered. Copies are cheap: see [`Shared`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// What people asked for.
    pub spec: Shared<Spec>,
    /// What was decided.
    pub plan: Shared<Plan>,
    /// What hosts reported last.
    pub inventory: Shared<Inventory>,
    /// What is being done and was done. Of those that are over, the store keeps [`OPERATIONS_KEPT_MAX`].
    pub operations: Shared<Map<OperationId, Operation>>,
}

/// The state as it was read, with the version of each record.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The state.
    pub state: State,
    /// The revision that it was read at; watch from here.
    pub revision: Revision,
    versions: Map<Key, Revision>,
    /// What this one deleted, and when: a watch may still tell of it from before.
    deleted: BTreeMap<Key, Revision>,
}

impl Loaded {
    /// Takes what a watch tells, unless it is known already. Returns whether it was news: a host that reports again that it is as
    /// it was tells none.
    fn take(&mut self, event: Event) -> Result<bool, RepositoryError> {
        let revision = event.revision();
        let known = [self.versions.get(event.key()), self.deleted.get(event.key())];
        let news = !known.into_iter().flatten().any(|at| *at >= revision);
        self.deleted.retain(|_, at| *at > revision);
        self.revision = self.revision.max(revision);
        if !news {
            return Ok(false);
        }
        match event {
            Event::Put(entry) => {
                let before = layout::taken_report(&mut self.state, &entry.key);
                let ours = layout::file(&mut self.state, &entry.key, &entry.value)?;
                let alike = before.is_some_and(|before| {
                    self.state.inventory.get(&before.host).is_some_and(|seen| seen.is_alike(&before))
                });
                if ours {
                    self.versions.insert(entry.key, revision);
                }
                Ok(ours && !alike)
            }
            Event::Deleted { key, .. } => {
                self.versions.remove(&key);
                layout::forget(&mut self.state, &key)
            }
        }
    }
}

/// How a commit ended.
#[must_use = "a commit that conflicts has not, or not completely, taken place"]
#[derive(Debug)]
pub enum Saved {
    /// The state is stored, and here it is with its new versions.
    Committed(Loaded),
    /// Somebody else changed the same record meanwhile: load, decide again, commit again.
    Conflict(Conflict),
}

/// On which terms a state is stored, besides that nobody else has touched what differs.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// These hold for each transaction.
    pub always: Vec<Compare>,
    /// The last heartbeats. A host is given up only while it has said nothing since.
    pub silence: BTreeMap<HostName, Compare>,
}

/// What the keys of records that were set aside begin with.
const ASIDE: &str = "aside";
/// How many events are taken in at once, about.
const EVENTS_AT_ONCE: usize = 10_000;

/// Reads and writes the state.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
}

impl Repository {
    /// The records in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Reads everything, at one revision. Keys outside of the record layout are somebody else's and left alone, and of a host whose
    /// report cannot be read nothing is known.
    ///
    /// # Errors
    /// [`RepositoryError::NewerVersion`] and [`RepositoryError::Malformed`] name the record that cannot be read.
    pub fn load(&self) -> Result<Loaded, RepositoryError> {
        let snapshot = self.store.range(&layout::records())?;
        let mut loaded = Loaded { revision: snapshot.revision, ..Loaded::default() };
        for entry in snapshot.entries {
            if layout::file(&mut loaded.state, &entry.key, &entry.value)? {
                loaded.versions.insert(entry.key, entry.modified);
            }
        }
        Ok(loaded)
    }

    /// Stores `next`, which was computed from `loaded`: writes what differs, on condition that it is as it was loaded.
    /// A record that is new must not exist yet.
    ///
    /// What fits into one transaction takes effect at once. More is written in several, in such an order that a crash
    /// between two leaves a state which can be planned on: what is released before what is booked, a wish before what
    /// was decided for it, and a VM's bookings always together with its plan.
    ///
    /// All of it is stored on the given terms, or the rest of it is not.
    ///
    /// # Errors
    /// After an error, load again: nothing, a part or everything may have been stored.
    pub fn commit(&self, loaded: Loaded, mut next: State, terms: &Terms) -> Result<Saved, RepositoryError> {
        let batches = batches(&loaded, &mut next)?;
        self.store_all(batches, loaded, next, terms)
    }

    /// The same where all of it takes effect at once; nothing is stored, and nothing returned, where one transaction does not hold it.
    ///
    /// # Errors
    /// After an error, load again: nothing or everything may have been stored.
    pub fn commit_at_once(
        &self,
        loaded: Loaded,
        mut next: State,
        terms: &Terms,
    ) -> Result<Option<Saved>, RepositoryError> {
        let batches = batches(&loaded, &mut next)?;
        if batches.len() > 1 {
            return Ok(None);
        }
        self.store_all(batches, loaded, next, terms).map(Some)
    }

    fn store_all(
        &self,
        batches: Vec<changes::Batch>,
        mut loaded: Loaded,
        next: State,
        terms: &Terms,
    ) -> Result<Saved, RepositoryError> {
        for batch in batches {
            match self.store.commit(&batch.txn(terms))? {
                Outcome::Conflict(conflict) => return Ok(Saved::Conflict(conflict)),
                Outcome::Committed(revision) => {
                    batch.note_versions(revision, &mut loaded.versions, &mut loaded.deleted);
                    loaded.revision = revision;
                }
            }
        }
        loaded.state = next;
        Ok(Saved::Committed(loaded))
    }

    /// Moves a record to where no record of ours is, as it is, so that the rest can be read without it. Returns its new
    /// key; nothing where there is no such record.
    ///
    /// # Errors
    /// The store refuses.
    pub fn set_aside(&self, key: &Key) -> Result<Option<Key>, RepositoryError> {
        let Some(entry) = self.store.get(key)? else { return Ok(None) };
        // With its revision, so that a second one of the same key does not take the place of the first.
        let aside: Key = format!("{ASIDE}/{}/{key}", entry.modified.0)
            .parse()
            .map_err(|error: crate::key::KeyError| malformed(key, error))?;
        let txn = Txn::new()
            .expect(key.clone(), Expected::At(entry.modified))
            .put(aside.clone(), entry.value)
            .delete(key.clone());
        match self.store.commit(&txn)? {
            Outcome::Committed(_) => Ok(Some(aside)),
            Outcome::Conflict(_) => Ok(None),
        }
    }

    /// Brings `loaded` up to what a watch has heard since, without waiting. Returns whether anything is new. Of very many events
    /// some are left for the next time, so that it ends although more keep coming.
    ///
    /// # Errors
    /// After an error, load again and watch from there.
    pub fn catch_up(&self, loaded: &mut Loaded, watch: &mut dyn Watch) -> Result<bool, RepositoryError> {
        let (mut news, mut taken) = (false, 0);
        while taken < EVENTS_AT_ONCE {
            let events = watch.next(Duration::ZERO)?;
            if events.is_empty() {
                break;
            }
            taken += events.len();
            for event in events {
                news |= loaded.take(event)?;
            }
        }
        Ok(news)
    }

    /// Watches for changes since `loaded`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when `loaded` is too old: load again.
    pub fn watch(&self, loaded: &Loaded) -> Result<Box<dyn Watch>, RepositoryError> {
        Ok(self.store.watch(&layout::records(), loaded.revision)?)
    }
}

/// What is to be written to get from what was loaded to the next state.
fn batches(loaded: &Loaded, next: &mut State) -> Result<Vec<changes::Batch>, RepositoryError> {
    forget_old_operations(&mut next.operations);
    Ok(changes::pack(changes::between(&loaded.state, next, &loaded.versions)?))
}

/// Forgets the operations that have been over for the longest time, when there are too many.
fn forget_old_operations(operations: &mut Shared<Map<OperationId, Operation>>) {
    let mut over: Vec<_> = operations
        .values()
        .filter(|operation| operation.state.is_over())
        .map(|one| (one.updated_at, one.id))
        .collect();
    let surplus = over.len().saturating_sub(OPERATIONS_KEPT_MAX);
    over.sort_unstable();
    for (_, id) in &over[..surplus] {
        operations.remove(id);
    }
}

/// Why the state was not read or stored.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A later Tranche has written a record.
    #[error("the record {key} has version {found}; this Tranche knows versions up to {supported}")]
    NewerVersion {
        /// The record.
        key: Key,
        /// The version in the record.
        found: u32,
        /// The latest version that this program knows.
        supported: u32,
    },
    /// A record is not what its key says.
    #[error("the record {key} is malformed")]
    Malformed {
        /// The record.
        key: Key,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl RepositoryError {
    /// Whether the store has no room for what was to be written.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(StoreError::Quota { .. } | StoreError::Full { .. }))
    }

    /// Whether the store answered, and a record in it cannot be read: another version may be able to.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::NewerVersion { .. } | Self::Malformed { .. })
    }

    /// This error as a finding.
    pub fn finding(&self) -> Finding {
        error::finding(self, self.code(), &self.hint())
    }

    /// The code of this error.
    pub fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::NewerVersion { .. } => Code::StoreNewerVersion,
            Self::Malformed { .. } => Code::StoreCorrupt,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Store(error) => error.hint().to_owned(),
            Self::NewerVersion { .. } => error::HINT_NEWER_VERSION.to_owned(),
            Self::Malformed { key, .. } => format!(
                "restore the store from a backup, or stop the daemon, run 'tranched --set-aside {key}' and start it again: \
                 the record is kept in the store and Tranche goes on as if it had never been"
            ),
        }
    }
}
