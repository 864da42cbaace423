//! Turns: many threads of which one runs at a time, in an order that virtual time alone decides.
//!
//! The loops are plain functions that wait for the store in the middle. Each has a thread of its own here, so that it can be
//! left standing there while others go on; and exactly one thread has the turn, so that nothing depends on the machine.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Whose turn it is, for one thread.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    mine: Mutex<bool>,
    changed: Condvar,
}

impl Turn {
    /// Gives it to the thread that waits for it.
    pub(crate) fn give(&self) {
        *self.mine.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Waits for it.
    pub(crate) fn wait(&self) {
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        while !*mine {
            mine = self.changed.wait(mine).unwrap_or_else(PoisonError::into_inner);
        }
        *mine = false;
    }
}

/// Names a thread that takes turns.
pub(crate) type TaskId = u64;

thread_local! {
    static TASK: RefCell<Option<(TaskId, Arc<Turn>)>> = const { RefCell::new(None) };
}

/// Makes this thread one that takes turns.
pub(crate) fn become_task(id: TaskId, turn: &Arc<Turn>) {
    TASK.with(|task| *task.borrow_mut() = Some((id, Arc::clone(turn))));
}

/// Who this thread is; none for the one that gives the turns.
pub(crate) fn task() -> Option<(TaskId, Arc<Turn>)> {
    TASK.with(|task| task.borrow().clone())
}
