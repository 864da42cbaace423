//! Wishes that come at the same time are stored together.
//!
//! A commit costs a round trip to the store and its disk, whether it holds one wish or ten. Whoever finds nobody at it
//! considers all wishes that wait, one after the other in the order in which they came, stores what is taken in one commit,
//! and tells everybody. The others sleep meanwhile, and need nothing of the desk to hear their answers: those who ask
//! again come together, not one by one. A wish that is refused keeps none of the others back, and none is answered before
//! it is stored.
//!
//! Where somebody leads, what follows from them is in the same commit ([`super::planning`]). Where they are stored by themselves, what
//! follows comes with the next turn of the loop: where a host stands alone, or where the plan is not sound, or is more than one
//! transaction holds, or has to do with how hosts stand, or where another one changed the same thing meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tranche_core::change::{self, Admitted, Change};
use tranche_core::name::{OperationId, Timestamp, VmId};
use tranche_core::spec::Spec;
use tranche_store::State;

use super::{Desk, Inner, Rejected, Submitted, WISH_TRIES, is_conflict, new_operation};
use crate::{trail, view};

/// How many wishes one commit may hold. Each is a few records, and eight with what follows from it where a VM starts on another host
/// than its last; the store takes 128 in one transaction, a few of which are for terms.
const TOGETHER_MAX: usize = 15;

/// The wishes that wait.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    queue: Mutex<Queue>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<Wish>>,
    /// Whether somebody is at it.
    busy: bool,
}

#[derive(Debug)]
struct Wish {
    change: Change,
    now: Timestamp,
    /// Where whoever asks stands in a trace that is kept.
    follows: Option<String>,
    answer: Mutex<Option<Answer>>,
}

type Answer = Result<Submitted, Rejected>;

impl Wish {
    fn answer(&self, answer: Answer) {
        *lock(&self.answer) = Some(answer);
    }
}

impl Wishes {
    /// Waits until a wish is answered, or until nobody is at those that wait, this one among them.
    fn wait(&self, wish: &Wish) -> Waited<'_> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(answer) = lock(&wish.answer).take() {
                return Waited::Answered(answer);
            }
            if !queue.busy {
                queue.busy = true;
                return Waited::Turn(Turn { wishes: self, together: Vec::new() });
            }
            queue = self.told.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

enum Waited<'a> {
    Answered(Answer),
    Turn(Turn<'a>),
}

/// The wishes that somebody is at, and nobody else meanwhile.
struct Turn<'a> {
    wishes: &'a Wishes,
    together: Vec<Arc<Wish>>,
}

impl Turn<'_> {
    fn take(&mut self) -> &[Arc<Wish>] {
        let waiting = &mut lock(&self.wishes.queue).waiting;
        let count = waiting.len().min(TOGETHER_MAX);
        self.together = waiting.drain(..count).collect();
        &self.together
    }
}

/// Also when something panicked over one of them: then the others hear of that, and the next has his turn.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.wishes.queue);
        for wish in &self.together {
            lock(&wish.answer).get_or_insert_with(|| {
                let words = "it was considered together with one that failed; nothing of it was stored";
                Err(Rejected::Store(Box::new(view::conflict_finding(words))))
            });
        }
        queue.busy = false;
        self.wishes.told.notify_all();
    }
}

impl Desk {
    /// Stores a wish, and returns when it is stored or refused.
    pub(super) fn take(&self, change: &Change, now: Timestamp) -> Answer {
        let (change, follows, answer) = (change.clone(), trail::kept_here(), Mutex::new(None));
        let wish = Arc::new(Wish { change, now, follows, answer });
        lock(&self.wishes.queue).waiting.push_back(Arc::clone(&wish));
        loop {
            match self.wishes.wait(&wish) {
                Waited::Answered(answer) => return answer,
                Waited::Turn(mut turn) => {
                    // Whoever comes while the desk is decided at comes along.
                    let mut inner = self.lock();
                    let together = turn.take().to_vec();
                    self.take_together(&mut inner, together);
                }
            }
        }
    }

    fn take_together(&self, inner: &mut Inner, mut wishes: Vec<Arc<Wish>>) {
        for attempt in 1..=WISH_TRIES {
            let stored = self.try_together(inner, &mut wishes);
            match stored {
                Ok(accepted) => {
                    self.publish(inner);
                    for (wish, accepted) in wishes.iter().zip(accepted) {
                        wish.answer(Ok(accepted));
                    }
                    return;
                }
                Err(rejected) if is_conflict(&rejected) && attempt < WISH_TRIES => {}
                Err(rejected) => {
                    for wish in &wishes {
                        wish.answer(Err(rejected.clone()));
                    }
                    return;
                }
            }
        }
    }

    /// Considers wishes one after the other and stores those that are taken. The others are answered and leave the list.
    fn try_together(
        &self,
        inner: &mut Inner,
        wishes: &mut Vec<Arc<Wish>>,
    ) -> Result<Vec<Submitted>, Rejected> {
        if let Some(now) = wishes.iter().map(|wish| wish.now).max() {
            self.hear_reports(inner, now);
        }
        self.refresh(inner)?;
        let mut next = inner.loaded.state.clone();
        let mut accepted = Vec::new();
        wishes.retain(|wish| {
            let state = change::State { spec: &next.spec, plan: &next.plan, inventory: &inner.inventory };
            let id = VmId((self.ids.0)());
            let admitted = change::admit_with(&mut inner.memory, &wish.change, state, id, wish.now);
            if inner.doubts {
                let anew = change::admit(&wish.change, state, id, wish.now);
                assert_eq!(admitted, anew, "what is remembered changes what is admitted");
            }
            match admitted {
                Ok(admitted) => {
                    accepted.push(self.note(&mut next, admitted, wish.now));
                    true
                }
                Err(findings) => {
                    wish.answer(Err(Rejected::Refused(findings)));
                    false
                }
            }
        });
        let operations = accepted.iter().filter_map(|accepted| match accepted {
            Submitted::Accepted { operation, .. } => Some(&**operation),
            Submitted::Preview { .. } => None,
        });
        let follows = wishes.iter().map(|wish| wish.follows.as_deref());
        self.lay_trails(&next.plan, operations.zip(follows));
        if let Some(now) = wishes.iter().map(|wish| wish.now).max() {
            self.commit_wish_planned(inner, next, now)?;
        }
        Ok(accepted)
    }

    fn note(&self, next: &mut State, admitted: Admitted, now: Timestamp) -> Submitted {
        let operation = new_operation(OperationId((self.ids.0)()), &admitted, next, now);
        next.operations.insert(operation.id, operation.clone());
        take_over(next, admitted.spec);
        Submitted::Accepted { operation: Box::new(operation), findings: admitted.findings }
    }
}

/// Lets a state have the wishes of a spec. A host reads its part of the plan when that is counted up, so it is, also where all
/// that the host is to hear of is a wish.
pub(super) fn take_over(next: &mut State, spec: Spec) {
    for host in change::hosts_to_tell(&next.spec, &spec, &next.plan) {
        *next.plan.generations.entry(host).or_insert(0) += 1;
    }
    next.spec = spec.into();
}

/// What is held is whole between any two statements.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use tranche_core::spec::Policy;
    use tranche_store::{MemoryStore, Repository};
    use uuid::Uuid;

    use super::*;
    use crate::desk::Ids;

    const NOW: Timestamp = Timestamp(1);

    /// A desk where the first who needs an id panics.
    fn haunted() -> Desk {
        let panics = AtomicBool::new(true);
        let ids = move || {
            assert!(!panics.swap(false, Ordering::SeqCst), "a planted panic");
            Uuid::nil()
        };
        let repository = Repository::new(Arc::new(MemoryStore::default()));
        Desk::open(repository, Ids(Arc::new(ids))).expect("an empty store")
    }

    #[test]
    fn a_panic_over_one_wish_answers_those_beside_it_and_leaves_the_turn_to_the_next() {
        let desk = haunted();
        let wish = || {
            let change = Change::SetPolicy { policy: Policy::default() };
            Arc::new(Wish { change, now: NOW, follows: None, answer: Mutex::new(None) })
        };
        let (own, other) = (wish(), wish());
        lock(&desk.wishes.queue).waiting.extend([Arc::clone(&own), Arc::clone(&other)]);
        let Waited::Turn(mut turn) = desk.wishes.wait(&own) else { panic!("nobody is at it") };
        let attempt = thread::scope(|scope| {
            let at_it = scope.spawn(|| {
                let mut inner = desk.lock();
                let together = turn.take().to_vec();
                desk.take_together(&mut inner, together);
                drop(turn);
            });
            at_it.join()
        });
        assert!(attempt.is_err(), "it panicked");
        let Waited::Answered(Err(rejected)) = desk.wishes.wait(&other) else { panic!("it was given up") };
        assert!(is_conflict(&rejected), "whoever asked may ask again");
        let change = Change::SetPolicy { policy: Policy::default() };
        assert!(desk.submit(&change, false, NOW).is_ok(), "the desk takes wishes as before");
    }
}
