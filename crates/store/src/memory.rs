//! The store in memory, for tests and simulators. It forgets everything when it is dropped.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::clock::{Clock, MonotonicClock};
use crate::engine::{Embedded, Engine, Table};
use crate::error::StoreError;
use crate::key::{Key, KeyRange};
use crate::record::{Entry, Event, Revision};

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    engine: Engine<MemoryTable>,
}

impl MemoryStore {
    /// An empty store whose leases run by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { engine: Engine::new(MemoryTable::default(), Revision::default(), clock) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Arc::new(MonotonicClock::default()))
    }
}

impl Embedded for MemoryStore {
    type Table = MemoryTable;

    fn engine(&self) -> &Engine<MemoryTable> {
        &self.engine
    }
}

#[derive(Debug, Default)]
pub(crate) struct MemoryTable {
    entries: BTreeMap<Key, Entry>,
}

impl Table for MemoryTable {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(self.entries.get(key).cloned())
    }

    fn range(&self, keys: &KeyRange) -> Result<Vec<Entry>, StoreError> {
        let below = (Bound::Included(keys.start()), Bound::Excluded(keys.end()));
        Ok(self.entries.range::<str, _>(below).map(|(_, entry)| entry.clone()).collect())
    }

    fn write(&mut self, _: Revision, events: &[Event]) -> Result<(), StoreError> {
        for event in events {
            match event {
                Event::Put(entry) => self.entries.insert(entry.key.clone(), entry.clone()),
                Event::Deleted { key, .. } => self.entries.remove(key),
            };
        }
        Ok(())
    }
}
