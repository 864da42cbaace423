//! Members that go: by their own wish, because they are gone for good, or because other hardware takes their place.
//!
//! Whoever decides for the cluster may be sending a VM to a host at the very moment at which that goes. So a host first takes
//! no more VMs, then is struck from the list of hosts by a transaction in which nothing may have been decided for it since it was
//! looked at, and only then gives up what it has. A VM that slips through all the same is placed anew
//! ([`tranche_core::planner`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tranche_api::cluster::TokenCreated;
use tranche_core::change::{self, Change};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::identity::GpuIdentity;
use tranche_core::membership::{self, Role};
use tranche_core::name::{HostName, Timestamp, VmId, VmName};
use tranche_core::plan::Standing as Stands;
use tranche_core::spec::{Duty, HostSpec, Run, VmSpec};
use tranche_store::{Key, Loaded, Repository, RepositoryError, Saved, State, Store, Terms, Txn};

use super::book::{Leaving, Membership, Standing};
use super::registry::{MemberRecord, Registry, member_key};
use super::{Cluster, care, carry, health, luggage, revoked};
use crate::clock;

/// How often something is tried while others change the same.
const TRIES_MAX: usize = 16;
/// How long a decision may be under way when a host begins to take no more VMs.
const LINGER: Duration = Duration::from_secs(1);

/// How a machine is taken out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Removal {
    /// Forget the VMs that belong to it and are not started elsewhere.
    pub forget_vms: bool,
    /// Only say what would be forgotten.
    pub dry_run: bool,
}

/// What is kept of a machine that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Nothing,
    /// What people asked for: other hardware takes its place.
    Wishes,
}

impl Cluster {
    /// Takes this host out of its cluster, or gives up to get into one.
    ///
    /// # Errors
    /// It has VMs, it is the last host, its seat is needed, or the store cannot be read.
    pub fn leave(&self) -> Result<(), Finding> {
        let standing = self.lock().standing.clone();
        match standing {
            Standing::Alone => Err(say::cluster_none()),
            Standing::Leaving(_) => Err(say::cluster_busy("leave its cluster")),
            Standing::Entering(entering) => self.give_up(&entering),
            Standing::Member(membership) => self.set_out_to_leave(membership),
        }
    }

    fn set_out_to_leave(&self, membership: Membership) -> Result<(), Finding> {
        let store = self.store().ok_or_else(say::cluster_none)?;
        self.lock().stayed = None;
        self.may_leave(&membership, store.as_ref())?;
        if membership.role == Role::Host {
            close(&Repository::new(store.clone()), &membership.host)?;
        }
        let records = carry::records(store.as_ref()).map_err(|error| error.finding())?;
        let own = carry::of_gpus(records, &membership.host).into_iter();
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        let keeps = own.map(|(key, value)| (key.to_string(), text(value))).collect();
        self.note(Standing::Leaving(Leaving { membership, keeps }))?;
        self.0.anew.send_replace(true);
        Ok(())
    }

    fn may_leave(&self, membership: &Membership, store: &dyn Store) -> Result<(), Finding> {
        let members = Registry(store).members()?;
        let seats = members.values().filter(|member| member.seat).count();
        if membership.seat.is_some() && seats < 2 {
            return Err(say::last_host(&membership.host));
        }
        let hosts = members.values().filter(|member| member.role == Role::Host).count();
        if membership.role == Role::Host && hosts < 2 {
            return Err(say::last_host(&membership.host));
        }
        if membership.seat.is_some() {
            care::look(self);
            let health = self.lock().health.clone();
            if let Some(refusal) = membership::refusal_to_unseat(&health, &membership.host) {
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Forgets a machine that is gone for good. Returns what was, or would be, forgotten with it.
    ///
    /// # Errors
    /// It may be alive, it has VMs, or the store fails. It can be repeated.
    pub fn remove(&self, host: &HostName, how: Removal) -> Result<Vec<Finding>, Finding> {
        self.dismiss(host, how, Keeps::Nothing)
    }

    /// Makes a token with which other hardware takes the place of a machine that is gone: what people asked for of it and of
    /// its GPUs stays.
    ///
    /// # Errors
    /// It may be alive, it has VMs, or the store fails. It can be repeated.
    pub fn replace(
        &self,
        host: &HostName,
        ttl_s: Option<u64>,
        forget_vms: bool,
    ) -> Result<TokenCreated, Finding> {
        self.dismiss(host, Removal { forget_vms, dry_run: false }, Keeps::Wishes)?;
        self.token_for(Some(host), ttl_s)
    }

    fn dismiss(&self, host: &HostName, how: Removal, keeps: Keeps) -> Result<Vec<Finding>, Finding> {
        let membership = self.membership().ok_or_else(say::cluster_none)?;
        let store = self.store().ok_or_else(say::cluster_none)?;
        let repository = Repository::new(store.clone());
        let members = Registry(store.as_ref()).members()?;
        let loaded = load(&repository)?;
        let mut known: Vec<&HostName> = members.keys().chain(loaded.state.spec.hosts.keys()).collect();
        if !known.contains(&host) {
            known.sort();
            known.dedup();
            return Err(say::host_not_found(host, &known));
        }
        if host == &membership.host || health::is_alive(self, host, &members, store.as_ref())? {
            return Err(say::host_alive(host));
        }
        let forgotten = strike(&repository, host, how, keeps)?;
        if !how.dry_run {
            let peer_url = members.get(host).map(MemberRecord::peer_url).unwrap_or_default();
            health::unseat(self, &membership.endpoints, host, &peer_url)?;
            forget_but(store.as_ref(), host, keeps)?;
        }
        Ok(forgotten)
    }
}

/// Sends no more VMs to a host, which has none. Where one comes all the same, the host serves on.
fn close(repository: &Repository, host: &HostName) -> Result<(), Finding> {
    no_vms(&load(repository)?, host)?;
    let before = set_duty(repository, host, Duty::Maintenance)?;
    thread::sleep(LINGER);
    no_vms(&load(repository)?, host).inspect_err(|_| {
        if let Some(Err(finding)) = before.map(|before| set_duty(repository, host, before)) {
            tracing::warn!(code = %finding.code, "{}", finding.message);
        }
    })
}

/// Sets whether a host takes VMs. Returns what was set before; nothing of one that is no host any more.
fn set_duty(repository: &Repository, host: &HostName, duty: Duty) -> Result<Option<Duty>, Finding> {
    for _ in 0..TRIES_MAX {
        let loaded = load(repository)?;
        let Some(before) = loaded.state.spec.hosts.get(host).map(|wish| wish.duty) else { return Ok(None) };
        let wish = Change::SetHostDuty { host: host.clone(), along: BTreeSet::new(), duty };
        let next = admitted(&loaded, &[wish])?;
        if before == duty || commit(repository, loaded, next, &Terms::default())? {
            return Ok(Some(before));
        }
    }
    Err(busy())
}

/// Strikes a host that goes by its own wish from the list of hosts, on condition that nothing was decided for it since it was seen
/// to have no VMs. Can be repeated.
///
/// # Errors
/// It has VMs, or the store fails.
pub(super) fn resign(
    store: Arc<dyn Store>,
    host: &HostName,
    tell: &dyn Fn(&str) -> Result<(), Finding>,
) -> Result<(), Finding> {
    let repository = Repository::new(store);
    for _ in 0..TRIES_MAX {
        let loaded = load(&repository)?;
        if !loaded.state.spec.hosts.contains_key(host) {
            return Ok(());
        }
        no_vms(&loaded, host)?;
        let mut next = loaded.state.clone();
        next.spec.hosts.remove(host);
        *next.plan.generations.entry(host.clone()).or_insert(0) += 1;
        tell("be taken from the list of hosts")?;
        if commit(&repository, loaded, next, &Terms::default())? {
            return Ok(());
        }
    }
    Err(busy())
}

/// The same of a dead host, which may have VMs that are forgotten with it.
fn strike(
    repository: &Repository,
    host: &HostName,
    how: Removal,
    keeps: Keeps,
) -> Result<Vec<Finding>, Finding> {
    let silent = |error: RepositoryError| error.finding();
    let mut forgotten = Vec::new();
    for _ in 0..TRIES_MAX {
        let beats = repository.beats().map_err(silent)?;
        let always = beats.of.get(host).map(|beat| beat.unchanged.clone()).into_iter().collect();
        let terms = Terms { always, ..Terms::default() };
        let loaded = load(repository)?;
        let vms = living(&loaded.state, host);
        may_forget(&loaded.state, host, &vms, how)?;
        forgotten.extend(vms.iter().map(|(name, _)| say::vm_forgotten(name, host, how.dry_run)));
        if how.dry_run {
            return Ok(forgotten);
        }
        // Deleted first: between two transactions, no other host may take them up.
        let delete = |(name, _): &(&VmName, _)| Change::DeleteVm { name: (*name).clone(), force: true };
        let deletes: Vec<Change> = vms.iter().map(delete).collect();
        let next = match deletes.is_empty() {
            true => without(&loaded.state, host, keeps),
            false => admitted(&loaded, &deletes)?,
        };
        if commit(repository, loaded, next, &terms)? && deletes.is_empty() {
            forgotten.sort();
            forgotten.dedup();
            return Ok(forgotten);
        }
    }
    Err(busy())
}

/// The VMs of a host that nobody has deleted.
fn living<'a>(state: &'a State, host: &HostName) -> Vec<(&'a VmName, &'a VmSpec)> {
    let here = state.plan.vms.iter().filter(|(_, planned)| &planned.host == host);
    let wished = here.filter_map(|(name, _)| state.spec.vms.get_key_value(name));
    wished.filter(|(_, wish)| wish.run != Run::Deleted).collect()
}

fn may_forget(
    state: &State,
    host: &HostName,
    vms: &[(&VmName, &VmSpec)],
    how: Removal,
) -> Result<(), Finding> {
    if vms.is_empty() {
        return Ok(());
    }
    let names = |protected: bool| -> Vec<&VmName> {
        vms.iter().filter(|(_, wish)| wish.is_protected() || !protected).map(|(name, _)| *name).collect()
    };
    match state.plan.hosts.get(host).map(|planned| planned.standing) {
        Some(Stands::Down { .. }) if !names(true).is_empty() => {
            return Err(say::vms_still_leave(host, &names(true)));
        }
        // It brought them and never was a member: they are its own, wherever it is.
        Some(Stands::Down { .. }) | None => {}
        Some(Stands::Up | Stands::Lost { .. } | Stands::Fencing { .. }) => return Err(say::host_alive(host)),
    }
    if how.forget_vms { Ok(()) } else { Err(say::dead_host_has_vms(host, &names(false))) }
}

/// The state without a host, and without the deleted VMs that were there.
fn without(state: &State, host: &HostName, keeps: Keeps) -> State {
    let mut next = state.clone();
    let here: Vec<VmName> = state
        .plan
        .vms
        .iter()
        .filter(|(_, planned)| &planned.host == host)
        .map(|(name, _)| name.clone())
        .collect();
    for name in &here {
        next.spec.vms.remove(name);
        next.plan.vms.remove(name);
    }
    let Some(wish) = state.spec.hosts.get(host) else { return next };
    // That it is down is forgotten last: a host of which that is not known might be sent VMs.
    next.plan.bookings.retain(|slot, _| &slot.gpu.host != host);
    next.plan.gpus.retain(|gpu, _| &gpu.host != host);
    *next.plan.generations.entry(host.clone()).or_insert(0) += 1;
    match keeps {
        Keeps::Nothing => {
            next.spec.gpus.retain(|gpu, _| &gpu.host != host);
            next.spec.hosts.remove(host);
        }
        Keeps::Wishes => {
            let wish = HostSpec { said_down: None, departure: None, ..wish.clone() };
            next.spec.hosts.insert(host.clone(), wish);
            for (gpu, wish) in state.spec.gpus_of(host) {
                let mut wish = wish.clone();
                wish.identity = GpuIdentity::default();
                next.spec.gpus.insert(gpu.clone(), wish);
            }
        }
    }
    next
}

/// Takes what concerns a machine out of the cluster's records, so that another one may have its name.
fn forget_but(store: &dyn Store, host: &HostName, keeps: Keeps) -> Result<(), Finding> {
    let stays = |segments: &[&str]| matches!(segments, ["spec", ..] | ["plan", "generation", ..]);
    forget(store, host, clock::now(), |key| {
        keeps == Keeps::Nothing || !stays(&key.segments().collect::<Vec<_>>())
    })
}

/// Takes a host that does not act any more out of a cluster's records, as far as they `go`, and lets it in nowhere: its
/// certificates are revoked.
///
/// # Errors
/// The store fails; it can be repeated.
pub fn forget(
    store: &dyn Store,
    host: &HostName,
    now: Timestamp,
    go: impl Fn(&Key) -> bool,
) -> Result<(), Finding> {
    revoke(store, host, now)?;
    take_out(store, host, go)
}

fn revoke(store: &dyn Store, host: &HostName, now: Timestamp) -> Result<(), Finding> {
    match Registry(store).member(host)? {
        Some((member, _)) => revoked::revoke(store, host, &member, now, member.signs),
        None => Ok(()),
    }
}

/// Takes what concerns a host out of a cluster's records, as far as it `goes`, and the tokens that it used.
pub(super) fn take_out(
    store: &dyn Store,
    host: &HostName,
    goes: impl Fn(&Key) -> bool,
) -> Result<(), Finding> {
    Registry(store).forget_tokens_of(host)?;
    let mut keys = carry::keys_of(store, host).map_err(|error| error.finding())?;
    keys.retain(goes);
    for keys in keys.chunks(tranche_store::OPS_MAX) {
        let txn = keys.iter().fold(Txn::new(), |txn, key| txn.delete(key.clone()));
        let _ = store.commit(&txn).map_err(|error| error.finding())?;
    }
    Ok(())
}

/// Takes everything out of a cluster's records that a host has put there on its way in.
///
/// # Errors
/// The store fails; it can be repeated.
pub fn take_back(store: &dyn Store, host: &HostName, now: Timestamp) -> Result<(), Finding> {
    revoke(store, host, now)?;
    luggage::take_back(host, store)?;
    Registry(store).forget_tokens_of(host)?;
    let _ = store.commit(&Txn::new().delete(member_key(host))).map_err(|error| error.finding())?;
    Ok(())
}

/// Refuses while VMs belong to a host.
fn no_vms(loaded: &Loaded, host: &HostName) -> Result<(), Finding> {
    let planned = loaded.state.plan.vms.iter().filter(|(_, planned)| &planned.host == host);
    let vms: Vec<&VmName> = planned.map(|(vm, _)| vm).collect();
    if vms.is_empty() { Ok(()) } else { Err(say::host_has_vms(host, &vms)) }
}

fn load(repository: &Repository) -> Result<Loaded, Finding> {
    repository.load().map_err(|error| error.finding())
}

/// The state with these wishes in it.
fn admitted(loaded: &Loaded, changes: &[Change]) -> Result<State, Finding> {
    let State { spec, plan, inventory, .. } = &loaded.state;
    let state = change::State { spec, plan, inventory };
    // None of them makes a VM.
    let fresh = || VmId(uuid::Uuid::nil());
    let admitted = change::admit_all(changes, state, fresh, clock::now(), |_| ());
    let (spec, _) = admitted.map_err(|refusal| refusal.into_iter().next().unwrap_or_else(busy))?;
    Ok(State { spec: spec.into(), ..loaded.state.clone() })
}

/// Returns whether it was stored; else somebody changed the same meanwhile.
fn commit(repository: &Repository, loaded: Loaded, next: State, terms: &Terms) -> Result<bool, Finding> {
    let saved = repository.commit(loaded, next, terms).map_err(|error| error.finding())?;
    Ok(matches!(saved, Saved::Committed(_)))
}

fn busy() -> Finding {
    say::cluster_busy("change what others change at the same time")
}
