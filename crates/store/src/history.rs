//! The recent past of a store on one host, kept in memory for its watches.
//!
//! It is not written down: whoever watches an embedded store lives in the same process and reads everything anew after
//! a restart.

use std::collections::VecDeque;

use crate::error::StoreError;
use crate::key::KeyRange;
use crate::record::{Event, Revision};

/// The most events that a store on one host keeps for its watches; older revisions are forgotten first.
pub const HISTORY_EVENTS_MAX: usize = 4096;
/// The most bytes of keys and values that a store on one host keeps for its watches: 4 MiB.
pub const HISTORY_BYTES_MAX: usize = 4 << 20;

/// Events in the order of their revisions, without gaps after `compacted`.
#[derive(Debug)]
pub(crate) struct History {
    events: VecDeque<Event>,
    bytes: usize,
    compacted: Revision,
}

impl History {
    /// A history that begins after `revision`.
    pub(crate) fn after(revision: Revision) -> Self {
        Self { events: VecDeque::new(), bytes: 0, compacted: revision }
    }

    /// Adds the events of one revision, and forgets the oldest revisions when there are too many.
    pub(crate) fn push(&mut self, events: Vec<Event>) {
        self.bytes += events.iter().map(size).sum::<usize>();
        self.events.extend(events);
        while self.events.len() > HISTORY_EVENTS_MAX || self.bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.events.front().map(Event::revision) else { break };
            self.compact(oldest);
        }
    }

    /// Forgets everything up to and with `through`.
    pub(crate) fn compact(&mut self, through: Revision) {
        while let Some(event) = self.events.pop_front_if(|event| event.revision() <= through) {
            self.bytes -= size(&event);
        }
        self.compacted = self.compacted.max(through);
    }

    /// Refuses to continue after `after` when events since then are gone.
    pub(crate) fn reaches(&self, after: Revision) -> Result<(), StoreError> {
        if after < self.compacted {
            return Err(StoreError::Compacted { after, compacted: self.compacted });
        }
        Ok(())
    }

    /// The events of these keys after revision `after`.
    pub(crate) fn since(&self, keys: &KeyRange, after: Revision) -> Result<Vec<Event>, StoreError> {
        self.reaches(after)?;
        let start = self.events.partition_point(|event| event.revision() <= after);
        Ok(self.events.range(start..).filter(|event| keys.contains(event.key())).cloned().collect())
    }
}

fn size(event: &Event) -> usize {
    let value_len = match event {
        Event::Put(entry) => entry.value.len(),
        Event::Deleted { .. } => 0,
    };
    event.key().as_str().len() + value_len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Entry;

    fn put(revision: u64, value_len: usize) -> Vec<Event> {
        let revision = Revision(revision);
        let (key, value) = ("a".parse().unwrap(), vec![0; value_len]);
        vec![Event::Put(Entry { key, value, created: revision, modified: revision, lease: None })]
    }

    fn kept(history: &History) -> usize {
        history.since(&KeyRange::ALL, history.compacted).unwrap().len()
    }

    #[test]
    fn the_history_keeps_its_newest_events_up_to_a_number() {
        let mut history = History::after(Revision(0));
        for revision in 1..=HISTORY_EVENTS_MAX as u64 + 10 {
            history.push(put(revision, 1));
        }
        assert_eq!((kept(&history), history.compacted), (HISTORY_EVENTS_MAX, Revision(10)));
        assert!(history.since(&KeyRange::ALL, Revision(9)).is_err());
    }

    #[test]
    fn the_history_keeps_its_newest_events_up_to_a_size() {
        let mut history = History::after(Revision(0));
        for revision in 1..=10 {
            history.push(put(revision, HISTORY_BYTES_MAX / 4));
        }
        assert_eq!((kept(&history), history.compacted), (3, Revision(7)));
        history.compact(Revision(10));
        assert_eq!((history.bytes, history.events.len()), (0, 0));
    }

    #[test]
    fn a_revision_that_is_too_large_for_the_history_is_forgotten_whole() {
        let mut history = History::after(Revision(0));
        history.push(put(1, 1));
        let large = (0..5).flat_map(|_| put(2, HISTORY_BYTES_MAX / 4)).collect();
        history.push(large);
        assert_eq!((kept(&history), history.compacted), (0, Revision(2)));
        history.push(put(3, 1));
        assert_eq!(kept(&history), 1);
    }
}
