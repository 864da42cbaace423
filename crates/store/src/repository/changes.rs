//! What has to be written to get from one state to another, and in which transactions.

use std::collections::{BTreeMap, BTreeSet};

use tranche_core::map::Map;
use tranche_core::name::{HostName, VmName};
use tranche_core::plan::{Standing, VmPlan};

use super::layout::{
    Bookings, Drawer, Generations, GpuPlans, GpuSpecs, HOME, HostPlans, HostSpecs, Inventories, Invitations,
    Operations, Rules, VmPlans, VmSpecs, home, policy,
};
use super::stored::encode;
use super::{RepositoryError, State, Terms};
use crate::error::StoreError;
use crate::key::Key;
use crate::record::Revision;
use crate::txn::{COMPARES_MAX, Expected, OPS_MAX, TXN_BYTES_MAX, Txn, VALUE_BYTES_MAX};

/// A record to write or to delete.
#[derive(Debug)]
pub(super) struct Change {
    key: Key,
    /// None: it is deleted.
    value: Option<Vec<u8>>,
    /// The version that it had when it was loaded; none if it was not there.
    before: Option<Revision>,
    /// Whether it must be as it was loaded. What only points to a record rests on that one's version.
    guarded: bool,
    /// A host that must have said nothing since it was last heard: it is given up, or on the way there.
    silent: Option<HostName>,
}

impl Change {
    fn deletes(&self) -> bool {
        self.value.is_none()
    }

    /// How many compares it brings at most: its own, and that of a host's silence.
    fn compares(&self) -> usize {
        1 + usize::from(self.silent.is_some())
    }

    /// What it adds to a transaction, which names its key twice.
    fn bytes(&self) -> usize {
        2 * self.key.as_str().len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// Changes of one kind of records, each with the record's name.
type Named<N> = Vec<(N, Change)>;

/// Changes that take effect together.
#[derive(Debug, Default)]
pub(super) struct Batch(Vec<Change>);

impl Batch {
    /// The transaction that makes these changes, if everything is as it was loaded.
    pub(super) fn txn(&self, terms: &Terms) -> Txn {
        let silent = self.0.iter().filter_map(|change| terms.silence.get(change.silent.as_ref()?));
        let compares = terms.always.iter().chain(silent);
        let txn = compares.fold(Txn::new(), |txn, compare| txn.expect(compare.key.clone(), compare.expected));
        self.0.iter().fold(txn, |txn, change| {
            let expected = change.before.map_or(Expected::Absent, Expected::At);
            let txn = if change.guarded { txn.expect(change.key.clone(), expected) } else { txn };
            match &change.value {
                Some(value) => txn.put(change.key.clone(), value.clone()),
                None => txn.delete(change.key.clone()),
            }
        })
    }

    /// Adds a change. A partition that changes hands is released and then booked; together that is one put.
    fn add(&mut self, mut change: Change) {
        if let Some(released) = self.0.iter().position(|earlier| earlier.key == change.key) {
            change.before = self.0.swap_remove(released).before;
        }
        self.0.push(change);
    }

    /// Notes the versions that the records have since `revision`.
    pub(super) fn note_versions(
        self,
        revision: Revision,
        versions: &mut Map<Key, Revision>,
        deleted: &mut BTreeMap<Key, Revision>,
    ) {
        for change in self.0.into_iter().filter(|change| change.guarded) {
            if change.deletes() {
                versions.remove(&change.key);
                deleted.insert(change.key, revision);
            } else {
                versions.insert(change.key, revision);
            }
        }
    }
}

/// What differs between two states, as groups that must not be torn apart, in the order in which they may be written
/// one by one.
pub(super) fn between(
    before: &State,
    after: &State,
    versions: &Map<Key, Revision>,
) -> Result<Vec<Vec<Change>>, RepositoryError> {
    let diff = Diff { before, after, versions };
    let (mut released, mut booked) = split(diff.of::<Bookings>()?);
    for (slot, change) in &mut booked {
        if before.plan.bookings.get(slot).is_some_and(|held| held.vm != after.plan.bookings[slot].vm) {
            let (key, before) = (change.key.clone(), change.before.take());
            released.push((slot.clone(), Change { key, value: None, before, guarded: true, silent: None }));
        }
    }
    let (gpu_wishes_gone, gpu_wishes) = split(diff.of::<GpuSpecs>()?);
    let (host_wishes_gone, host_wishes) = split(diff.of::<HostSpecs>()?);
    let (vm_wishes_gone, vm_wishes) = split(diff.of::<VmSpecs>()?);

    let mut vms: BTreeMap<VmName, Vec<Change>> = BTreeMap::new();
    for (slot, change) in booked {
        vms.entry(after.plan.bookings[&slot].vm.clone()).or_default().push(change);
    }
    for (vm, change) in diff.of::<VmPlans>()? {
        vms.entry(vm).or_default().push(change);
    }
    for (vm, change) in diff.homes() {
        vms.entry(vm).or_default().push(change);
    }

    // A host is given up before anything that it had is given to others.
    let mut groups = singly(diff.standing()?);
    groups.extend(singly(released));
    groups.extend(singly(host_wishes));
    groups.extend(diff.policy()?.map(|change| vec![change]));
    groups.extend(singly(gpu_wishes));
    groups.extend(singly(diff.of::<Invitations>()?));
    groups.extend(singly(vm_wishes));
    groups.extend(singly(diff.of::<Rules>()?));
    groups.extend(singly(diff.of::<GpuPlans>()?));
    groups.extend(vms.into_values());
    groups.extend(singly(diff.of::<Generations>()?));
    groups.extend(singly(vm_wishes_gone));
    groups.extend(singly(gpu_wishes_gone));
    groups.extend(singly(host_wishes_gone));
    groups.extend(singly(diff.of::<Operations>()?));
    groups.extend(singly(diff.of::<Inventories>()?));
    Ok(groups)
}

/// The most terms that hold for each transaction.
const TERMS_MAX: usize = 4;
/// The most compares that the changes of a batch bring.
const CHANGED_MAX: usize = if OPS_MAX < COMPARES_MAX { OPS_MAX } else { COMPARES_MAX } - TERMS_MAX;

/// Packs groups, in order, into as few batches as fit into transactions.
pub(super) fn pack(groups: Vec<Vec<Change>>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let (mut ops, mut bytes) = (CHANGED_MAX, TXN_BYTES_MAX);
    for group in groups {
        ops += group.iter().map(Change::compares).sum::<usize>();
        bytes += group.iter().map(Change::bytes).sum::<usize>();
        if ops > CHANGED_MAX || bytes > TXN_BYTES_MAX {
            batches.push(Batch::default());
            ops = group.iter().map(Change::compares).sum();
            bytes = group.iter().map(Change::bytes).sum();
        }
        if let Some(batch) = batches.last_mut() {
            group.into_iter().for_each(|change| batch.add(change));
        }
    }
    batches
}

struct Diff<'a> {
    before: &'a State,
    after: &'a State,
    versions: &'a Map<Key, Revision>,
}

impl Diff<'_> {
    /// The changes of one kind of records, by name: what is put first, then what is deleted.
    fn of<D: Drawer>(&self) -> Result<Named<D::Name>, RepositoryError> {
        let (mut put, mut deleted) = (Vec::new(), Vec::new());
        for (name, _, record) in D::of(self.before).changes(D::of(self.after)) {
            let key = D::key(name);
            let value = record.map(|record| encode(&key, record)).transpose()?;
            let changes = if value.is_some() { &mut put } else { &mut deleted };
            changes.push((name.clone(), self.change(key, value)?));
        }
        put.append(&mut deleted);
        Ok(put)
    }

    /// How hosts stand. One that lives may say so as often as it likes; one that does not must not have spoken meanwhile.
    fn standing(&self) -> Result<Named<HostName>, RepositoryError> {
        let of = |(host, change): (HostName, Change)| {
            let planned = self.after.plan.hosts.get(&host);
            let lives = planned.is_some_and(|planned| planned.standing == Standing::Up);
            let silent = (!lives).then(|| host.clone());
            (host, Change { silent, ..change })
        };
        Ok(self.of::<HostPlans>()?.into_iter().map(of).collect())
    }

    /// By which a host finds what it has, without reading what others have: touched whenever a VM's plan or wish changes.
    fn homes(&self) -> Named<VmName> {
        let (was, is) = (&self.before.plan.vms, &self.after.plan.vms);
        let planned = was.changes(is).map(|(vm, ..)| vm);
        let asked = self.before.spec.vms.changes(&self.after.spec.vms).map(|(vm, ..)| vm);
        let touched: BTreeSet<&VmName> = planned.chain(asked).collect();
        let mut changes = Vec::new();
        for vm in touched {
            let hosts = |planned: Option<&VmPlan>| -> BTreeSet<HostName> {
                planned.into_iter().flat_map(VmPlan::hosts).cloned().collect()
            };
            let (before, after) = (hosts(was.get(vm)), hosts(is.get(vm)));
            for host in &after {
                changes.push((vm.clone(), pointer(home(host, vm), Some(HOME.to_vec()))));
            }
            for left in before.difference(&after) {
                changes.push((vm.clone(), pointer(home(left, vm), None)));
            }
        }
        changes
    }

    fn policy(&self) -> Result<Option<Change>, RepositoryError> {
        if self.before.spec.policy == self.after.spec.policy {
            return Ok(None);
        }
        let key = policy();
        let value = encode(&key, &self.after.spec.policy)?;
        self.change(key, Some(value)).map(Some)
    }

    fn change(&self, key: Key, value: Option<Vec<u8>>) -> Result<Change, RepositoryError> {
        if let Some(found) = value.as_ref().map(Vec::len).filter(|len| *len > VALUE_BYTES_MAX) {
            let what = format!("the bytes of the record {key}");
            return Err(StoreError::Limit { what, found: found as u64, max: VALUE_BYTES_MAX as u64 }.into());
        }
        let before = self.versions.get(&key).copied();
        Ok(Change { key, value, before, guarded: true, silent: None })
    }
}

fn pointer(key: Key, value: Option<Vec<u8>>) -> Change {
    Change { key, value, before: None, guarded: false, silent: None }
}

/// Deletions, and the rest.
fn split<N>(changes: Named<N>) -> (Named<N>, Named<N>) {
    changes.into_iter().partition(|(_, change)| change.deletes())
}

/// Each change by itself.
fn singly<N>(changes: Named<N>) -> Vec<Vec<Change>> {
    changes.into_iter().map(|(_, change)| vec![change]).collect()
}
