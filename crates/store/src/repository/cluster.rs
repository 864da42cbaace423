//! What several hosts say to each other through the store: that they live, who leads, what each reports and shall do.
//!
//! | key | record |
//! | --- | --- |
//! | `beat/HOST` | a host's last heartbeat |
//! | `leader` | who leads; it goes with its lease |
//! | `ask/HOST` | nothing: a host that would lead writes it to see whether the store takes writes |
//!
//! A heartbeat is taken only while the host's standing (`plan/host/HOST`) is as the host knows it, and a host is given up
//! only while its heartbeat is as the leader knows it ([`super::Terms`]). So one of the two comes first, and the other
//! learns of it. And it is taken only while the heartbeat before it is the last one that the host knows to have arrived: one that
//! was not acknowledged may arrive late, and what it says must not take the place of what was acknowledged since.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use tranche_core::inventory::HostInventory;
use tranche_core::liveness::Heartbeat;
use tranche_core::name::{HostName, VmName};
use tranche_core::plan::{HostPlan, Plan, VmPlan};
use tranche_core::spec::Spec;

use super::layout::{self, Drawer, Generations, HostPlans, HostSpecs, Inventories, VmPlans, VmSpecs};
use super::stored::{decode, encode, malformed};
use super::{Loaded, Repository, RepositoryError, State};
use crate::Watch;
use crate::error::in_full;
use crate::key::{Key, KeyRange};
use crate::record::{Entry, LeaseId, Revision, Snapshot};
use crate::txn::{Compare, Expected, Outcome, Txn};

const BEATS: &str = "beat";
const LEADER: &str = "leader";
const PROBES: &str = "ask";

/// What came of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beaten {
    /// It was acknowledged.
    Acknowledged,
    /// The host's standing or its last heartbeat is another than it knew: it has to look before it says that it lives.
    Refused,
}

/// How a host stands, and the versions of that and of its last heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stands {
    /// How; nothing before the leader has seen it for the first time.
    pub planned: Option<HostPlan>,
    /// The revision of the store that this is of.
    pub revision: Revision,
    version: Expected,
    beat: Expected,
}

/// All that concerns one host.
#[derive(Debug, Clone)]
pub struct Part {
    /// The wishes for what the host has, the policies, and the members.
    pub spec: Spec,
    /// What was decided for it.
    pub plan: Plan,
    /// The generation of that, at least.
    pub generation: u64,
    mark: Mark,
    /// The VMs that are the host's, each with when its plan or wish was last touched.
    homes: BTreeMap<VmName, Revision>,
}

/// What tells that a host's part is as it was: when the keys of [`marked_by`] were put.
type Mark = Vec<Option<Revision>>;

/// The last heartbeats of all hosts.
#[derive(Debug, Clone)]
pub struct Beats {
    /// The revision of the store that they are of.
    pub revision: Revision,
    /// The heartbeats.
    pub of: BTreeMap<HostName, Beat>,
}

/// A heartbeat and its version.
#[derive(Debug, Clone)]
pub struct Beat {
    /// The heartbeat.
    pub heartbeat: Heartbeat,
    /// Why it cannot be read, if it cannot: then it is [`Heartbeat::unread`].
    pub unread: Option<String>,
    /// On this term the host has said nothing since.
    pub unchanged: Compare,
}

/// Tells that there is something new, and not what: who hears it looks.
#[derive(Debug)]
pub struct Tidings(Box<dyn Watch>);

impl Tidings {
    /// Waits until there is something new, at most so long. Returns whether there is.
    ///
    /// # Errors
    /// The watch is of no use any more: look, and watch anew.
    pub fn next(&mut self, timeout: Duration) -> Result<bool, RepositoryError> {
        Ok(!self.0.next(timeout)?.is_empty())
    }
}

impl Repository {
    /// How a host stands.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn stands(&self, host: &HostName) -> Result<Stands, RepositoryError> {
        let version_of =
            |entry: Option<&Entry>| entry.map_or(Expected::Absent, |entry| Expected::At(entry.modified));
        let beat = version_of(self.store.get(&key_of(BEATS, host))?.as_ref());
        let Snapshot { revision, entries } = self.store.range(&KeyRange::exactly(&HostPlans::key(host)))?;
        let entry = entries.into_iter().next();
        let version = version_of(entry.as_ref());
        let planned = entry.map(|entry| decode(&entry.key, &entry.value)).transpose()?;
        Ok(Stands { planned, revision, version, beat })
    }

    /// Says that a host lives, if it stands as it knows, and if it has said nothing else since. Afterwards it knows of this one.
    ///
    /// # Errors
    /// Whether it was stored is not known.
    pub fn beat(
        &self,
        host: &HostName,
        beat: &Heartbeat,
        stands: &mut Stands,
    ) -> Result<Beaten, RepositoryError> {
        let key = key_of(BEATS, host);
        let value = encode(&key, beat)?;
        let known = Txn::new().expect(HostPlans::key(host), stands.version).expect(key.clone(), stands.beat);
        match self.store.commit(&known.put(key, value))? {
            Outcome::Committed(revision) => {
                stands.beat = Expected::At(revision);
                Ok(Beaten::Acknowledged)
            }
            Outcome::Conflict(_) => Ok(Beaten::Refused),
        }
    }

    /// The last heartbeats of all hosts. One that cannot be read, because a later version wrote it, deafens nobody to the others.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn beats(&self) -> Result<Beats, RepositoryError> {
        let of = |entry: Entry| {
            // What is under no name of a host is no host's.
            let host = entry.key.segments().next_back()?.parse().ok()?;
            let (heartbeat, unread) = match decode(&entry.key, &entry.value) {
                Ok(heartbeat) => (heartbeat, None),
                Err(error) => {
                    let version = version_in(&entry.value).unwrap_or_default();
                    (Heartbeat::unread(entry.modified.0, version), Some(in_full(&error)))
                }
            };
            let unchanged = Compare { key: entry.key, expected: Expected::At(entry.modified) };
            Some((host, Beat { heartbeat, unread, unchanged }))
        };
        let Snapshot { revision, entries } = self.store.range(&prefix(BEATS))?;
        Ok(Beats { revision, of: entries.into_iter().filter_map(of).collect() })
    }

    /// Writes something, to see whether the store takes it.
    ///
    /// # Errors
    /// It does not, or it is not known whether it did.
    pub fn probe(&self, host: &HostName) -> Result<(), RepositoryError> {
        let _ = self.store.commit(&Txn::new().put(key_of(PROBES, host), "{}"))?;
        Ok(())
    }

    /// Forgets that a host ever lived: it is no member any more.
    ///
    /// # Errors
    /// Whether it was stored is not known.
    pub fn forget_beat(&self, host: &HostName) -> Result<(), RepositoryError> {
        let forget = Txn::new().delete(key_of(BEATS, host)).delete(key_of(PROBES, host));
        let _ = self.store.commit(&forget)?;
        Ok(())
    }

    /// Stores what a host reports. It alone does so.
    ///
    /// # Errors
    /// Whether it was stored is not known.
    pub fn report(&self, observed: &HostInventory) -> Result<(), RepositoryError> {
        let key = Inventories::key(&observed.host);
        let value = encode(&key, observed)?;
        let _ = self.store.commit(&Txn::new().put(key, value))?;
        Ok(())
    }

    /// Whether a part is still what concerns its host. One call, which changes nothing.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn is_current(&self, host: &HostName, part: &Part) -> Result<bool, RepositoryError> {
        let expected = |known: &Option<Revision>| known.map_or(Expected::Absent, Expected::At);
        let marked = marked_by(host).into_iter().zip(&part.mark);
        let txn = marked.fold(Txn::new(), |txn, (key, known)| txn.expect(key, expected(known)));
        Ok(matches!(self.store.commit(&txn)?, Outcome::Committed(_)))
    }

    /// Watches for decisions that concern a host, from now on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn watch_decisions(&self, host: &HostName) -> Result<Tidings, RepositoryError> {
        let generation = KeyRange::exactly(&Generations::key(host));
        let now = self.store.range(&generation)?.revision;
        Ok(Tidings(self.store.watch(&generation, now)?))
    }

    /// Watches for what hosts report, from now on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn watch_reports(&self) -> Result<Tidings, RepositoryError> {
        // Any key tells how far the store is, and the reports of a whole fleet are much to read for that.
        let now = self.store.range(&KeyRange::exactly(&leader_key()))?.revision;
        Ok(Tidings(self.store.watch(&Inventories::range(), now)?))
    }

    fn mark(&self, host: &HostName) -> Result<(u64, Mark), RepositoryError> {
        let (mut generation, mut mark) = (0, Mark::new());
        for key in marked_by(host) {
            let entry = self.store.get(&key)?;
            if let Some(entry) = entry.as_ref().filter(|_| mark.is_empty()) {
                generation = decode(&key, &entry.value)?;
            }
            mark.push(entry.map(|entry| entry.modified));
        }
        Ok((generation, mark))
    }

    /// All that concerns a host. Of VMs that are others', those with a domain on this host are told, too. What was `known` of VMs
    /// that were not touched since is not read again.
    ///
    /// The generation is read first, and is what the leader writes last; so the rest is of that generation or newer.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn part(
        &self,
        host: &HostName,
        domains: &[VmName],
        known: Option<&Part>,
    ) -> Result<Part, RepositoryError> {
        let mut state = State::default();
        let (generation, mark) = self.mark(host)?;
        for kind in ["spec/gpu", "plan/gpu", "plan/booking"] {
            self.read(&mut state, &format!("{kind}/{host}"))?;
        }
        for key in [HostSpecs::key(host), HostPlans::key(host), layout::policy()] {
            self.read_one(&mut state, &key)?;
        }
        let homes = self.homes(host)?;
        for (name, touched) in &homes {
            let known = known.filter(|part| part.homes.get(name) == Some(touched));
            let of_before = known.and_then(|part| Some((part.plan.vms.get(name)?, part.spec.vms.get(name)?)));
            if let Some((planned, wish)) = of_before {
                state.plan.vms.insert(name.clone(), planned.clone());
                state.spec.vms.insert(name.clone(), wish.clone());
            } else {
                self.read_vm(&mut state, name)?;
            }
        }
        for name in domains.iter().filter(|name| !homes.contains_key(*name)) {
            self.read_vm(&mut state, name)?;
        }
        // One may have gone elsewhere while this was read.
        let is_about = |planned: &VmPlan| planned.hosts().any(|one| one == host);
        state.plan.vms.retain(|name, planned| is_about(planned) || domains.contains(name));
        let State { spec, plan, .. } = state;
        Ok(Part { spec: Spec::clone(&spec), plan: Plan::clone(&plan), generation, mark, homes })
    }

    /// The members, how they stand, and the policies; nothing else.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn members(&self) -> Result<(Spec, Plan), RepositoryError> {
        let mut state = State::default();
        for kind in ["spec/host", "plan/host"] {
            self.read(&mut state, kind)?;
        }
        self.read_one(&mut state, &layout::policy())?;
        let State { spec, plan, .. } = state;
        Ok((Spec::clone(&spec), Plan::clone(&plan)))
    }

    /// The VMs that are a host's, each with when its plan or wish was last touched.
    fn homes(&self, host: &HostName) -> Result<BTreeMap<VmName, Revision>, RepositoryError> {
        let entries = self.store.range(&prefix(&format!("home/{host}")))?.entries.into_iter();
        let of = |entry: Entry| {
            let name = entry.key.segments().next_back().unwrap_or_default().parse();
            Ok((name.map_err(|error| malformed(&entry.key, error))?, entry.modified))
        };
        entries.map(of).collect()
    }

    /// Writes the pointers from hosts to their VMs that are missing, and deletes those that lead nowhere: what was stored by
    /// somebody who did not know of them.
    ///
    /// # Errors
    /// Whether they were stored is not known.
    pub fn mend_homes(&self, loaded: &Loaded) -> Result<(), RepositoryError> {
        let entries = self.store.range(&prefix("home"))?.entries.into_iter();
        let have: BTreeSet<Key> = entries.map(|entry| entry.key).collect();
        let vms = &loaded.state.plan.vms;
        let want: BTreeMap<Key, &VmName> = vms
            .iter()
            .flat_map(|(name, planned)| planned.hosts().map(move |host| (layout::home(host, name), name)))
            .collect();
        for (home, name) in want.iter().filter(|(home, _)| !have.contains(*home)) {
            let plan = VmPlans::key(name);
            let Some(version) = loaded.versions.get(&plan) else { continue };
            let txn = Txn::new().expect(plan, Expected::At(*version));
            // Who changed the plan meanwhile has written the pointer, too.
            let _ = self.store.commit(&txn.put(home.clone(), layout::HOME.to_vec()))?;
        }
        for home in have.iter().filter(|home| !want.contains_key(*home)) {
            let name = home.segments().next_back().unwrap_or_default();
            let plan: Key = format!("plan/vm/{name}").parse().map_err(|error| malformed(home, error))?;
            let expected =
                loaded.versions.get(&plan).map_or(Expected::Absent, |version| Expected::At(*version));
            let _ = self.store.commit(&Txn::new().expect(plan, expected).delete(home.clone()))?;
        }
        Ok(())
    }

    fn read_vm(&self, state: &mut State, name: &VmName) -> Result<(), RepositoryError> {
        self.read_one(state, &VmPlans::key(name))?;
        if state.plan.vms.contains_key(name) {
            self.read_one(state, &VmSpecs::key(name))?;
        }
        Ok(())
    }

    fn read_one(&self, state: &mut State, key: &Key) -> Result<(), RepositoryError> {
        if let Some(entry) = self.store.get(key)? {
            layout::file(state, &entry.key, &entry.value)?;
        }
        Ok(())
    }

    fn read(&self, state: &mut State, below: &str) -> Result<(), RepositoryError> {
        for entry in self.store.range(&prefix(below))?.entries {
            layout::file(state, &entry.key, &entry.value)?;
        }
        Ok(())
    }

    /// Tries to lead: succeeds if nobody does, or this one does already. It holds as long as the lease, and only on the term
    /// that is returned.
    ///
    /// # Errors
    /// Whether it was stored is not known.
    pub fn lead(&self, name: &HostName, lease: LeaseId) -> Result<Option<Compare>, RepositoryError> {
        let key = leader_key();
        // Everybody who would lead asks all the time, and a read costs the store's disks nothing.
        if let Some(entry) = self.store.get(&key)? {
            // A commit whose answer was lost may have been this one's.
            let is_own = entry.lease == Some(lease);
            return Ok(is_own.then_some(Compare { key, expected: Expected::At(entry.modified) }));
        }
        let txn =
            Txn::new().expect(key.clone(), Expected::Absent).put_leased(key.clone(), name.to_string(), lease);
        match self.store.commit(&txn)? {
            Outcome::Committed(revision) => Ok(Some(Compare { key, expected: Expected::At(revision) })),
            // Somebody else was quicker.
            Outcome::Conflict(_) => Ok(None),
        }
    }

    /// Who leads.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn leader(&self) -> Result<Option<HostName>, RepositoryError> {
        let key = leader_key();
        let Some(entry) = self.store.get(&key)? else { return Ok(None) };
        let name = String::from_utf8_lossy(&entry.value).parse().map_err(|error| malformed(&key, error))?;
        Ok(Some(name))
    }
}

/// A host's generation, its standing, and the policies. The generation is first: it is what the leader writes last.
fn marked_by(host: &HostName) -> [Key; 3] {
    [Generations::key(host), HostPlans::key(host), layout::policy()]
}

/// The version of the daemon that wrote a heartbeat, if that much can be read of it.
fn version_in(bytes: &[u8]) -> Option<String> {
    let record: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(record.get("data")?.get("version")?.as_str()?.to_owned())
}

fn leader_key() -> Key {
    LEADER.parse().expect("it is a plain text of our own")
}

fn key_of(kind: &str, name: &impl Display) -> Key {
    format!("{kind}/{name}").parse().expect("the core's names are made of what keys may hold")
}

fn prefix(of: &str) -> KeyRange {
    format!("{of}/").parse().expect("it is a plain text of our own")
}
