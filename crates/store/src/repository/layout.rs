//! Which key holds what.
//!
//! | key | record |
//! | --- | --- |
//! | `spec/policy` | the policies |
//! | `spec/gpu/HOST/ADDRESS` | what a GPU shall be used for |
//! | `spec/vm/NAME` | a VM, as wished for |
//! | `spec/host/HOST` | a member of the cluster |
//! | `spec/rule/NAME` | a rule about where VMs run |
//! | `plan/gpu/HOST/ADDRESS` | what was decided for a GPU |
//! | `plan/booking/HOST/ADDRESS/SLOT` | who holds a partition or a whole GPU |
//! | `plan/vm/NAME` | what was decided for a VM |
//! | `home/HOST/VM` | nothing: it says that `plan/vm/VM` is about this host |
//! | `plan/host/HOST` | how a member of the cluster stands |
//! | `plan/generation/HOST` | how often a host's part of the plan has changed |
//! | `inventory/HOST` | what a host reported last |
//! | `operation/ID` | an operation |
//!
//! The names in keys are the core's names as they print themselves. Their characters are all allowed in keys and `/`
//! is in none of them, so a name and its key stand for each other one to one.

use std::fmt::Display;
use std::str::FromStr;

use tranche_core::handover::Invitation;
use tranche_core::inventory::HostInventory;
use tranche_core::map::Map;
use tranche_core::name::{GpuKey, HostName, InvitationId, NameError, OperationId, RuleName, SlotKey, VmName};
use tranche_core::operation::Operation;
use tranche_core::plan::{Booking, GpuPlan, HostPlan, VmPlan};
use tranche_core::shared::Shared;
use tranche_core::spec::{GpuSpec, HostSpec, Rule, VmSpec};

use super::stored::{Stored, decode, malformed};
use super::{RepositoryError, State};
use crate::error::in_full;
use crate::key::{Key, KeyRange};

/// The key of the one record that has no name.
const POLICY: &str = "spec/policy";
/// What every key of a record begins with. Whatever else is below these is refused; the rest belongs to others.
const ROOTS: [&str; 4] = ["inventory", "operation", "plan", "spec"];

/// The keys of all records: from the first of [`ROOTS`] through the last. Heartbeats are not among them, so that who follows
/// records does not hear every heartbeat of a fleet.
pub(super) fn records() -> KeyRange {
    let below = |root: &&str| KeyRange::below(&[root]).expect("it is a plain text of our own");
    ROOTS.iter().map(below).reduce(KeyRange::through).expect("there are some")
}

/// What a pointer to a VM's plan holds.
pub(super) const HOME: &[u8] = b"{}";

/// The key of the pointer from a host to a VM's plan.
pub(super) fn home(host: &HostName, vm: &VmName) -> Key {
    format!("home/{host}/{vm}").parse().expect("the core's names are made of what keys may hold")
}

/// The key of the policies.
pub(super) fn policy() -> Key {
    POLICY.parse().expect("it is a plain text of our own")
}

/// The records of one kind, by name.
pub(super) trait Drawer {
    /// What their keys begin with.
    const PREFIX: &'static str;
    /// What they are named by.
    type Name: FromStr<Err = NameError> + Display + Ord + Clone;
    /// What they are.
    type Record: Stored + Clone + PartialEq;

    /// Where they are in the state.
    fn of(state: &State) -> &Map<Self::Name, Self::Record>;
    /// Puts one there.
    fn put(state: &mut State, name: Self::Name, record: Self::Record);
    /// Takes one out, if it is there.
    fn take(state: &mut State, name: &Self::Name) -> Option<Self::Record>;

    /// The key of the record with this name.
    fn key(name: &Self::Name) -> Key {
        format!("{}{name}", Self::PREFIX).parse().expect("the core's names are made of what keys may hold")
    }

    /// Where all of them are.
    fn range() -> KeyRange {
        Self::PREFIX.parse().expect("it is a plain text of our own")
    }
}

macro_rules! drawers {
    ($($drawer:ident $prefix:literal $name:ty => $record:ty, $($place:ident).+;)*) => {
        $(
            pub(super) enum $drawer {}

            impl Drawer for $drawer {
                const PREFIX: &'static str = $prefix;
                type Name = $name;
                type Record = $record;

                fn of(state: &State) -> &Map<$name, $record> {
                    &state.$($place).+
                }

                fn put(state: &mut State, name: $name, record: $record) {
                    state.$($place).+.insert(name, record);
                }

                fn take(state: &mut State, name: &$name) -> Option<$record> {
                    state.$($place).+.remove(name)
                }
            }
        )*

        /// The same, where every record has to be readable.
        fn file_readable(state: &mut State, key: &Key, bytes: &[u8]) -> Result<bool, RepositoryError> {
            if key.as_str() == POLICY {
                state.spec.policy = decode(key, bytes)?;
                return Ok(true);
            }
            $(if put_away::<$drawer>(state, key, bytes)? {
                return Ok(true);
            })*
            if key.segments().next().is_some_and(|root| ROOTS.contains(&root)) {
                return Err(malformed(key, "no record has such a key"));
            }
            Ok(false)
        }

        /// Forgets a record; says whether it was there.
        pub(super) fn forget(state: &mut State, key: &Key) -> Result<bool, RepositoryError> {
            if key.as_str() == POLICY {
                state.spec.policy = Default::default();
                return Ok(true);
            }
            $(if let Some(gone) = take_out::<$drawer>(state, key) {
                return Ok(gone);
            })*
            Ok(false)
        }
    };
}

drawers! {
    GpuSpecs "spec/gpu/" GpuKey => GpuSpec, spec.gpus;
    VmSpecs "spec/vm/" VmName => VmSpec, spec.vms;
    HostSpecs "spec/host/" HostName => HostSpec, spec.hosts;
    Rules "spec/rule/" RuleName => Rule, spec.rules;
    Invitations "spec/invitation/" InvitationId => Invitation, spec.invitations;
    HostPlans "plan/host/" HostName => HostPlan, plan.hosts;
    GpuPlans "plan/gpu/" GpuKey => GpuPlan, plan.gpus;
    Bookings "plan/booking/" SlotKey => Booking, plan.bookings;
    VmPlans "plan/vm/" VmName => VmPlan, plan.vms;
    Generations "plan/generation/" HostName => u64, plan.generations;
    Inventories "inventory/" HostName => Shared<HostInventory>, inventory;
    Operations "operation/" OperationId => Operation, operations;
}

/// Puts a record where it belongs in `state`; says whether it is one of ours.
///
/// Each host writes its own report, also one of a later version. If it cannot be read, nothing is known of that host, and all others
/// are decided about as ever ([`HostInventory::unread`]).
pub(super) fn file(state: &mut State, key: &Key, bytes: &[u8]) -> Result<bool, RepositoryError> {
    let filed = file_readable(state, key, bytes);
    let host = key.as_str().strip_prefix(Inventories::PREFIX).and_then(|name| {
        let host: HostName = name.parse().ok()?;
        (host.as_str() == name).then_some(host)
    });
    match (filed, host) {
        (Err(error), Some(host)) if error.is_unreadable() => {
            let unread = HostInventory::unread(host.clone(), in_full(&error));
            state.inventory.insert(host, unread.into());
            Ok(true)
        }
        (filed, _) => filed,
    }
}

/// Takes out what a host reported before, if the key is that of a report.
pub(super) fn taken_report(state: &mut State, key: &Key) -> Option<Shared<HostInventory>> {
    let host: HostName = key.as_str().strip_prefix(Inventories::PREFIX)?.parse().ok()?;
    state.inventory.contains_key(&host).then(|| state.inventory.remove(&host))?
}

/// Takes a record out of `state`; says whether it was there.
fn take_out<D: Drawer>(state: &mut State, key: &Key) -> Option<bool> {
    let name = key.as_str().strip_prefix(D::PREFIX)?.parse().ok()?;
    // Looked at first: to change what is shared is to copy it.
    Some(D::of(state).contains_key(&name) && D::take(state, &name).is_some())
}

fn put_away<D: Drawer>(state: &mut State, key: &Key, bytes: &[u8]) -> Result<bool, RepositoryError> {
    let Some(text) = key.as_str().strip_prefix(D::PREFIX) else {
        return Ok(false);
    };
    let name: D::Name = text.parse().map_err(|error| malformed(key, error))?;
    // Two spellings of one name would be two records of one thing.
    if name.to_string() != text {
        return Err(malformed(key, format!("its name is written {name}")));
    }
    D::put(state, name, decode(key, bytes)?);
    Ok(true)
}
