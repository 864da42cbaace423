//! Reading what is stored: all of it, or what others stored since.
//!
//! A desk that cannot read a record, because a later version wrote it, decides nothing: what it left out might be a wish. Its host
//! lives on, and the lead is for one who can read ([`crate::cluster::Leader`]).

use tranche_core::name::Timestamp;
use tranche_store::{Repository, RepositoryError};

use super::{Desk, Ids, Inner, Rejected};
use crate::cluster::REPORT_EVERY_MS;

/// How long a watch may tell nothing, in milliseconds. Each host reports more often than that, also where nothing happens: one that
/// is silent for longer has died without a word.
const WATCH_SILENT_MS_MAX: u64 = 2 * REPORT_EVERY_MS;
/// How often is tried whether what could not be read can be read by now, in milliseconds.
const READ_AGAIN_MS: u64 = 60_000;

impl Desk {
    /// The desk of a member of a cluster. That something cannot be read keeps it from deciding, and its host from nothing.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn open_as_member(repository: Repository, ids: Ids) -> Result<Self, RepositoryError> {
        match Self::open(repository.clone(), ids.clone()) {
            Err(error) if error.is_unreadable() => {
                let findings = vec![error.finding()].into();
                Ok(Self::over(
                    repository,
                    ids,
                    Inner { reload: true, unreadable: true, findings, ..Inner::default() },
                ))
            }
            opened => opened,
        }
    }

    /// Whether all that is stored can be read. What could not be is tried again now and then.
    pub fn can_read(&self, now: Timestamp) -> bool {
        let mut inner = self.lock();
        if inner.unreadable && now.is_past(inner.read_at, READ_AGAIN_MS) {
            inner.read_at = now;
            // While the store does not answer, it is as it was.
            let _ = self.read(&mut inner);
        }
        !inner.unreadable
    }

    /// Reads the store again where a commit left it unknown.
    pub(super) fn refresh(&self, inner: &mut Inner) -> Result<(), Rejected> {
        if !inner.reload {
            return Ok(());
        }
        self.read(inner).map_err(refused)
    }

    /// Takes what others stored meanwhile. Returns whether there was anything new.
    pub(super) fn follow(&self, inner: &mut Inner, now: Timestamp) -> Result<bool, Rejected> {
        // Whoever waited for the desk comes with a time from before it heard last; a clock that was set back, with one from long before.
        let silent_ms = now.0.abs_diff(inner.heard_at.0);
        let mut watch = inner.watch.take().filter(|_| silent_ms < WATCH_SILENT_MS_MAX);
        let vms = inner.loaded.state.plan.vms.len();
        if let Some(heard) = watch.as_mut().filter(|_| !inner.reload) {
            match self.repository.catch_up(&mut inner.loaded, heard.as_mut()) {
                Ok(news) => {
                    inner.watch = watch;
                    inner.heard_at = if news { now } else { inner.heard_at };
                    // A host that joins brings its plans, and knows nothing of pointers to them.
                    if inner.loaded.state.plan.vms.len() != vms {
                        let mended = self.repository.mend_homes(&inner.loaded);
                        inner.reload = mended.is_err();
                        mended.map_err(refused)?;
                    }
                    return Ok(news);
                }
                Err(error) => {
                    tracing::info!(
                        error = &error as &dyn std::error::Error,
                        "the store is read again as a whole"
                    );
                }
            }
        }
        inner.read_at = now;
        self.read(inner).map_err(refused)?;
        self.repository.mend_homes(&inner.loaded).map_err(refused)?;
        inner.watch = Some(self.repository.watch(&inner.loaded).map_err(refused)?);
        inner.heard_at = now;
        Ok(true)
    }

    /// Reads everything.
    fn read(&self, inner: &mut Inner) -> Result<(), RepositoryError> {
        match self.repository.load() {
            Ok(loaded) => {
                inner.loaded = loaded;
                (inner.reload, inner.unreadable) = (false, false);
                Ok(())
            }
            Err(error) => {
                // Nothing is decided by what was known before it.
                inner.reload |= error.is_unreadable();
                inner.unreadable |= error.is_unreadable();
                Err(error)
            }
        }
    }
}

fn refused(error: RepositoryError) -> Rejected {
    Rejected::Store(Box::new(error.finding()))
}
