//! Who holds what: by slot, and for each VM.
//!
//! A fleet has a hundred thousand bookings, and nearly every question about a VM begins with what it holds. Both ways to
//! ask take time for the answer, not for what there is; so bookings change only through here.
//!
//! Deliberately absent: what is allowed. A VM can hold as much as it is given; [`crate::check`] knows what it may.

use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::map::Map;
use crate::name::{SlotKey, VmName};
use crate::plan::Booking;

/// Bookings by what is booked. Cheap to copy, as [`Map`] is.
#[derive(Debug, Clone, Default)]
pub struct Bookings {
    by_slot: Map<SlotKey, Booking>,
    /// What follows from the above: what each VM holds, in order.
    by_vm: Map<VmName, Vec<SlotKey>>,
}

impl Bookings {
    /// What a VM holds, in order.
    pub fn held_by(&self, vm: &VmName) -> impl Iterator<Item = (&SlotKey, &Booking)> + use<'_> {
        let slots = self.by_vm.get(vm).into_iter().flatten();
        slots.filter_map(|slot| self.by_slot.get_key_value(slot))
    }

    /// Books. Returns the booking that this one takes the place of.
    pub fn insert(&mut self, slot: SlotKey, booking: Booking) -> Option<Booking> {
        let before = self.remove(&slot);
        let held = self.by_vm.entry(booking.vm.clone()).or_default();
        if let Err(place) = held.binary_search(&slot) {
            held.insert(place, slot.clone());
        }
        self.by_slot.insert(slot, booking);
        before
    }

    /// Ends a booking, if there is one, and returns it.
    pub fn remove(&mut self, slot: &SlotKey) -> Option<Booking> {
        let booking = self.by_slot.remove(slot)?;
        if let Some(held) = self.by_vm.get_mut(&booking.vm) {
            held.retain(|one| one != slot);
            if held.is_empty() {
                self.by_vm.remove(&booking.vm);
            }
        }
        Some(booking)
    }

    /// Keeps the bookings that are to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&SlotKey, &Booking) -> bool) {
        let ends = self.by_slot.iter().filter(|(slot, booking)| !keep(slot, booking));
        let ends: Vec<SlotKey> = ends.map(|(slot, _)| slot.clone()).collect();
        for slot in ends {
            self.remove(&slot);
        }
    }
}

impl Deref for Bookings {
    type Target = Map<SlotKey, Booking>;

    fn deref(&self) -> &Self::Target {
        &self.by_slot
    }
}

/// What each VM holds follows from what is booked.
impl PartialEq for Bookings {
    fn eq(&self, other: &Self) -> bool {
        self.by_slot == other.by_slot
    }
}

impl Eq for Bookings {}

impl FromIterator<(SlotKey, Booking)> for Bookings {
    fn from_iter<I: IntoIterator<Item = (SlotKey, Booking)>>(entries: I) -> Self {
        let mut bookings = Self::default();
        bookings.extend(entries);
        bookings
    }
}

impl Extend<(SlotKey, Booking)> for Bookings {
    fn extend<I: IntoIterator<Item = (SlotKey, Booking)>>(&mut self, entries: I) {
        for (slot, booking) in entries {
            self.insert(slot, booking);
        }
    }
}

impl<const N: usize> From<[(SlotKey, Booking); N]> for Bookings {
    fn from(entries: [(SlotKey, Booking); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Bookings {
    type Item = (&'a SlotKey, &'a Booking);
    type IntoIter = <&'a Map<SlotKey, Booking> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&self.by_slot).into_iter()
    }
}

impl Serialize for Bookings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.by_slot.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Bookings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Map::<SlotKey, Booking>::deserialize(deserializer)?
            .iter()
            .map(|(slot, booking)| (slot.clone(), booking.clone()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::name::{Timestamp, VmId};

    fn slot(number: u8) -> SlotKey {
        format!("node{}/0000:41:00.0/{}", number % 3, number / 3).parse().expect("a slot")
    }

    fn booking(vm: u8) -> Booking {
        let vm_id = VmId(uuid::Uuid::from_u128(u128::from(vm)));
        Booking { vm: format!("vm-{vm}").parse().expect("a name"), vm_id, since: Timestamp(0) }
    }

    proptest! {
        #[test]
        fn what_a_vm_holds_is_what_is_booked_for_it_after_any_changes(
            changes in proptest::collection::vec((0_u8..12, proptest::option::of(0_u8..5)), 0..60),
        ) {
            let mut bookings = Bookings::default();
            for (number, vm) in changes {
                let before = bookings.get(&slot(number)).cloned();
                let was = match vm {
                    Some(4) => { bookings.retain(|one, _| *one != slot(number)); before.clone() }
                    Some(vm) => bookings.insert(slot(number), booking(vm)),
                    None => bookings.remove(&slot(number)),
                };
                prop_assert_eq!(was, before);
                for vm in 0..5 {
                    let name = booking(vm).vm;
                    let by_vm: Vec<_> = bookings.held_by(&name).collect();
                    let by_slot: Vec<_> = bookings.iter().filter(|(_, held)| held.vm == name).collect();
                    prop_assert_eq!(by_vm, by_slot);
                }
            }
            prop_assert_eq!(bookings.by_vm.values().map(Vec::len).sum::<usize>(), bookings.len());
            prop_assert!(bookings.by_vm.values().all(|held| !held.is_empty()));
        }
    }
}
