//! Ordered maps whose copies share what does not differ.
//!
//! A fleet's state is large and changes little. The planner starts each pass from a copy of the last plan, readers hold
//! earlier ones, and what is to be stored is what differs between two: all of that costs what changed, not what there is.
//!
//! Deliberately absent: a tree of our own. This is `imbl`'s, with the few methods of the standard library's maps that it lacks.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An ordered map that is cheap to copy, and whose copies are cheap to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map<K: Ord, V>(OrdMap<K, V>);

impl<K: Ord, V> Map<K, V> {
    /// An empty map.
    pub fn new() -> Self {
        Self(OrdMap::new())
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entry with the least key.
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.0.get_min().map(|(key, value)| (key, value))
    }

    /// The keys with what they had here and what they have in `after`, where that differs. Takes time for what differs, as
    /// far as one map was made from a copy of the other.
    pub fn changes<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = Changed<'a, K, V>>
    where
        V: PartialEq,
    {
        self.0.diff(&after.0).map(|item| match item {
            DiffItem::Add(key, value) => (key, None, Some(value)),
            DiffItem::Update { old: (key, before), new: (_, value) } => (key, Some(before), Some(value)),
            DiffItem::Remove(key, before) => (key, Some(before), None),
        })
    }
}

/// A key, with its value before and after.
pub type Changed<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// Keeps the entries that are to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let dropped: Vec<K> =
            self.0.iter().filter(|(key, value)| !keep(key, value)).map(|(key, _)| key.clone()).collect();
        for key in dropped {
            self.0.remove(&key);
        }
    }

    /// Changes each value. Nothing is shared with copies any more.
    pub fn change_each(&mut self, mut change: impl FnMut(&K, &mut V)) {
        let keys: Vec<K> = self.0.keys().cloned().collect();
        for key in keys {
            if let Some(value) = self.0.get_mut(&key) {
                change(&key, value);
            }
        }
    }

    /// Removes an entry. Nothing is copied where there is none.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        Q: Ord + ?Sized,
        K: Borrow<Q>,
    {
        if self.0.contains_key(key) { self.0.remove(key) } else { None }
    }
}

impl<K: Ord, V> Default for Map<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord, V> Deref for Map<K, V> {
    type Target = OrdMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K: Ord, V> DerefMut for Map<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for Map<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Clone, V: Clone> From<BTreeMap<K, V>> for Map<K, V> {
    fn from(entries: BTreeMap<K, V>) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        self.0.extend(entries);
    }
}

impl<K: Ord + Clone, V: Clone> IntoIterator for Map<K, V> {
    type Item = (K, V);
    type IntoIter = <OrdMap<K, V> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = <&'a OrdMap<K, V> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<K: Ord + Serialize, V: Serialize> Serialize for Map<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de, K: Ord + Clone + Deserialize<'de>, V: Clone + Deserialize<'de>> Deserialize<'de> for Map<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}
