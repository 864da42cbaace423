//! Where the operations that somebody follows as a trace stand in it, so that each host adds what it does to the same one.
//!
//! | key | record |
//! | --- | --- |
//! | `trail/OPERATION` | whose trace an operation belongs to, and what is done for it |
//!
//! Nothing rests on these records, and there are none unless traces are asked for. Each goes with a lease, so that what a host lays and
//! never takes away is gone by itself. They lie beside the records of the layout: whoever knows none of them leaves them alone.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use tranche_core::finding::Subject;
use tranche_core::name::{OperationId, Timestamp};

use super::stored::{decode, encode};
use super::{Repository, RepositoryError};
use crate::key::{Key, KeyRange};
use crate::txn::{OPS_MAX, Txn};

const TRAILS: &str = "trail";
/// How long a trail is kept at most, in milliseconds: an operation that waits longer is followed no more.
const TRAIL_TTL_MS: u64 = 60 * 60 * 1_000;

/// Where an operation stands in somebody's trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// The operation.
    pub operation: OperationId,
    /// What asked for it, in the form of the header `traceparent` (W3C Trace Context).
    pub follows: String,
    /// What is done something to for it.
    pub subjects: Vec<Subject>,
    /// When it was laid.
    pub laid_at: Timestamp,
}

impl Repository {
    /// Lays trails for operations that are about to be stored.
    ///
    /// # Errors
    /// Whether it was stored is not known.
    pub fn lay_trails(&self, trails: &[Trail]) -> Result<(), RepositoryError> {
        if trails.is_empty() {
            return Ok(());
        }
        let lease = self.store.grant(TRAIL_TTL_MS)?;
        for trails in trails.chunks(OPS_MAX) {
            let mut txn = Txn::new();
            for trail in trails {
                let key = key_of(trail.operation);
                let value = encode(&key, trail)?;
                txn = txn.put_leased(key, value, lease.id);
            }
            let _ = self.store.commit(&txn)?;
        }
        Ok(())
    }

    /// The trails of operations that are not over. One that cannot be read is left out: another version laid it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn trails(&self) -> Result<Vec<Trail>, RepositoryError> {
        let below = KeyRange::below(&[TRAILS]).expect("it is a plain text of our own");
        let entries = self.store.range(&below)?.entries;
        Ok(entries.into_iter().filter_map(|entry| decode(&entry.key, &entry.value).ok()).collect())
    }

    /// Takes trails away of operations that are over.
    ///
    /// # Errors
    /// Whether it was stored is not known.
    pub fn end_trails(&self, operations: &[OperationId]) -> Result<(), RepositoryError> {
        for operations in operations.chunks(OPS_MAX) {
            let txn = operations.iter().fold(Txn::new(), |txn, operation| txn.delete(key_of(*operation)));
            let _ = self.store.commit(&txn)?;
        }
        Ok(())
    }
}

fn key_of(operation: impl Display) -> Key {
    format!("{TRAILS}/{operation}").parse().expect("the core's names are made of what keys may hold")
}
