//! What changed, for readers of the event stream.
//!
//! Each new view is compared with the one before it, once for all readers, and the names of what differs go into a
//! bounded queue. A reader that falls behind by more than the queue is let go: it connects anew and reads everything.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use tranche_api::answer::ChangeEvent;
use tranche_api::limits::{EVENT_QUEUE_LEN_MAX, EVENT_READERS_MAX, EVENT_SUBJECTS_MAX};
use tranche_core::finding::{Finding, Subject};
use tranche_core::inventory::HostInventory;
use tranche_core::name::{GpuKey, HostName};

use crate::engine::View;

/// The event stream. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Events {
    queue: broadcast::Sender<Message>,
    views: watch::Receiver<Arc<View>>,
}

#[derive(Debug, Clone)]
enum Message {
    Change(Arc<ChangeEvent>),
    End,
}

/// Reads the event stream.
#[derive(Debug)]
pub struct Reader {
    first: Option<Arc<ChangeEvent>>,
    queue: broadcast::Receiver<Message>,
}

impl Events {
    /// The stream of what changes between these views. [`Events::follow`] keeps it going.
    pub fn new(views: watch::Receiver<Arc<View>>) -> Self {
        Self { queue: broadcast::Sender::new(EVENT_QUEUE_LEN_MAX), views }
    }

    /// Compares each new view with the one before, from the present one on, until there are no more.
    pub fn follow(mut self) -> impl Future<Output = ()> {
        // Now, and not when the future is first polled: what changes in between would be told to nobody.
        let before = self.views.borrow_and_update().clone();
        async move { self.follow_from(before).await }
    }

    async fn follow_from(mut self, mut before: Arc<View>) {
        while self.views.changed().await.is_ok() {
            let after = self.views.borrow_and_update().clone();
            if after.revision != before.revision {
                let subjects = bounded(changed_subjects(&before, &after));
                let event = ChangeEvent { revision: after.revision, subjects };
                // Nobody listening is no error.
                let _ = self.queue.send(Message::Change(Arc::new(event)));
            }
            before = after;
        }
    }

    /// A new reader, unless there are too many. Its first event says that everything is new to it.
    pub fn subscribe(&self) -> Option<Reader> {
        if self.readers() >= EVENT_READERS_MAX {
            return None;
        }
        let queue = self.queue.subscribe();
        let revision = self.views.borrow().revision;
        let first = ChangeEvent { revision, subjects: vec![Subject::Installation] };
        Some(Reader { first: Some(Arc::new(first)), queue })
    }

    /// How many read the stream now.
    pub fn readers(&self) -> usize {
        self.queue.receiver_count()
    }

    /// Ends the stream for every reader.
    pub fn end(&self) {
        let _ = self.queue.send(Message::End);
    }
}

impl Reader {
    /// The next event; none when the stream ends, or when this reader was too slow.
    pub async fn next(&mut self) -> Option<Arc<ChangeEvent>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        match self.queue.recv().await {
            Ok(Message::Change(event)) => Some(event),
            Ok(Message::End) | Err(_) => None,
        }
    }
}

fn bounded(subjects: BTreeSet<Subject>) -> Vec<Subject> {
    if subjects.len() > EVENT_SUBJECTS_MAX {
        vec![Subject::Installation]
    } else {
        subjects.into_iter().collect()
    }
}

/// Everything that a reader of `before` has to read again.
fn changed_subjects(before: &View, after: &View) -> BTreeSet<Subject> {
    let mut subjects = BTreeSet::new();
    if before.spec.policy != after.spec.policy {
        subjects.insert(Subject::Installation);
    }
    subjects.extend(before.spec.gpus.changes(&after.spec.gpus).map(|(key, ..)| Subject::Gpu(key.clone())));
    subjects.extend(before.plan.gpus.changes(&after.plan.gpus).map(|(key, ..)| Subject::Gpu(key.clone())));
    subjects.extend(before.spec.vms.changes(&after.spec.vms).map(|(key, ..)| Subject::Vm(key.clone())));
    subjects.extend(before.plan.vms.changes(&after.plan.vms).map(|(key, ..)| Subject::Vm(key.clone())));
    for (slot, was, is) in before.plan.bookings.changes(&after.plan.bookings) {
        subjects.insert(Subject::Partition(slot.clone()));
        subjects.extend(was.into_iter().chain(is).map(|booking| Subject::Vm(booking.vm.clone())));
    }
    for (_, was, is) in before.operations.changes(&after.operations) {
        subjects.extend(is.or(was).map(|operation| operation.subject.clone()));
    }
    let only_in = |some: &[Finding], others: &[Finding]| -> Vec<Subject> {
        some.iter()
            .filter(|finding| !others.contains(finding))
            .map(|finding| finding.subject.clone())
            .collect()
    };
    subjects.extend(only_in(&before.findings, &after.findings));
    subjects.extend(only_in(&after.findings, &before.findings));
    for (host, was, is) in before.inventory.changes(&after.inventory) {
        match (was, is) {
            (Some(was), Some(is)) => subjects.extend(changed_on_host(host, was, is)),
            _ => subjects.extend([Subject::Host(host.clone())]),
        }
    }
    subjects
}

fn changed_on_host(host: &HostName, was: &HostInventory, is: &HostInventory) -> BTreeSet<Subject> {
    let key = |address: &_| Subject::Gpu(GpuKey { host: host.clone(), address: Clone::clone(address) });
    let mut subjects: BTreeSet<Subject> = changed(&was.gpus, &is.gpus).map(key).collect();
    match (was.domains(), is.domains()) {
        (Some(were), Some(are)) => {
            subjects.extend(changed(were, are).filter_map(|name| name.parse().ok()).map(Subject::Vm));
        }
        (None, None) => {}
        _ => subjects.extend([Subject::Host(host.clone())]),
    }
    let facts = |seen: &HostInventory| {
        (seen.system.clone(), seen.boot_id.clone(), seen.stuck.clone(), seen.notes.clone())
    };
    if facts(was) != facts(is) {
        subjects.insert(Subject::Host(host.clone()));
    }
    subjects
}

/// The keys whose values differ, or that only one of the maps has.
fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let gone = before.keys().filter(|key| !after.contains_key(key));
    let new = after.iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(key, _)| key);
    gone.chain(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranche_core::plan::Booking;
    use tranche_core::spec::PlacementPolicy;

    fn booked(vm: &str) -> View {
        let mut view = View::default();
        let id = "6f2f9a52-3b0f-4b0e-8f6c-0d3a54d8a111".parse().map(tranche_core::name::VmId).unwrap();
        let booking = Booking { vm: vm.parse().unwrap(), vm_id: id, since: Default::default() };
        view.plan.bookings.insert("node1/0000:41:00.0/3".parse().unwrap(), booking);
        view
    }

    #[test]
    fn a_booking_that_changes_hands_names_the_partition_and_both_vms() {
        let texts: Vec<_> =
            changed_subjects(&booked("a"), &booked("b")).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["partition node1/0000:41:00.0/3", "vm a", "vm b"]);
    }

    #[test]
    fn nothing_is_named_where_nothing_changed() {
        assert_eq!(changed_subjects(&booked("a"), &booked("a")), BTreeSet::new());
    }

    #[test]
    fn a_change_too_large_to_name_is_one_of_the_installation() {
        let many = (0..=EVENT_SUBJECTS_MAX).map(|n| Subject::Input(n.to_string())).collect();
        assert_eq!(bounded(many), [Subject::Installation]);
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_let_go_and_the_others_are_not() {
        let (sender, views) = watch::channel(Arc::new(View::default()));
        let events = Events::new(views);
        let (mut slow, mut quick) = (events.subscribe().unwrap(), events.subscribe().unwrap());
        assert_eq!(quick.next().await.unwrap().subjects, [Subject::Installation]);
        let following = tokio::spawn(events.clone().follow());
        for revision in 1..=EVENT_QUEUE_LEN_MAX as u64 + 1 {
            let mut view = View::default();
            view.revision = revision;
            let spread = revision % 2 == 1;
            view.spec.policy.placement = if spread { PlacementPolicy::Spread } else { PlacementPolicy::Pack };
            sender.send(Arc::new(view)).unwrap();
            assert_eq!(quick.next().await.unwrap().revision, revision);
        }
        assert!(slow.next().await.is_some(), "the first event is not queued");
        assert!(slow.next().await.is_none(), "the queue has lost what it had not read");
        drop(slow);
        assert_eq!(events.readers(), 1);
        events.end();
        assert!(quick.next().await.is_none());
        drop(sender);
        following.await.unwrap();
    }

    #[tokio::test]
    async fn there_is_a_limit_to_readers() {
        let (_sender, views) = watch::channel(Arc::new(View::default()));
        let events = Events::new(views);
        let readers: Vec<_> = (0..EVENT_READERS_MAX).map(|_| events.subscribe().unwrap()).collect();
        assert!(events.subscribe().is_none());
        drop(readers);
        assert!(events.subscribe().is_some());
    }
}
