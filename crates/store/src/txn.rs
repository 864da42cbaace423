//! Transactions: compares and operations that take effect together or not at all.

use std::collections::BTreeSet;
use std::fmt;

use crate::error::StoreError;
use crate::key::Key;
use crate::record::{LeaseId, Revision};

/// The most operations of a transaction (etcd's `--max-txn-ops` default).
pub const OPS_MAX: usize = 128;
/// The most compares of a transaction (etcd counts them against the same `--max-txn-ops`).
pub const COMPARES_MAX: usize = 128;
/// The largest value, in bytes: 1 MiB.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The most bytes of keys and values in one transaction: 1.25 MiB, which leaves etcd's `--max-request-bytes` default
/// of 1.5 MiB room for its framing.
pub const TXN_BYTES_MAX: usize = 5 << 18;

/// Compares and operations that take effect together or not at all.
///
/// A transaction names each key in at most one operation; etcd knows no order inside a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    compares: Vec<Compare>,
    ops: Vec<Op>,
}

impl Txn {
    /// A transaction that demands nothing and changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands that `key` is as `expected` when this commits.
    #[must_use]
    pub fn expect(mut self, key: Key, expected: Expected) -> Self {
        self.compares.push(Compare { key, expected });
        self
    }

    /// Puts `value` under `key`; a lease that the key had is taken off.
    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Put { key, value: value.into(), lease: None });
        self
    }

    /// Puts `value` under `key`, to be deleted when `lease` ends.
    #[must_use]
    pub fn put_leased(mut self, key: Key, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put { key, value: value.into(), lease: Some(lease) });
        self
    }

    /// Deletes `key`; nothing happens where there is none.
    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.ops.push(Op::Delete(key));
        self
    }

    /// What it demands.
    pub fn compares(&self) -> &[Compare] {
        &self.compares
    }

    /// What it changes.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Refuses what no store takes, so that every store refuses the same.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let limit = |what: &str, found: usize, max: usize| {
            if found <= max {
                return Ok(());
            }
            Err(StoreError::Limit { what: what.to_owned(), found: found as u64, max: max as u64 })
        };
        limit("compares of a transaction", self.compares.len(), COMPARES_MAX)?;
        limit("operations of a transaction", self.ops.len(), OPS_MAX)?;
        let mut seen = BTreeSet::new();
        let mut bytes: usize = self.compares.iter().map(|compare| compare.key.as_str().len()).sum();
        for op in &self.ops {
            let key = op.key();
            if !seen.insert(key) {
                return Err(StoreError::DuplicateKey { key: key.clone() });
            }
            bytes += key.as_str().len();
            if let Op::Put { value, .. } = op {
                limit("bytes of a value", value.len(), VALUE_BYTES_MAX)?;
                bytes += value.len();
            }
        }
        limit("bytes of a transaction", bytes, TXN_BYTES_MAX)
    }
}

/// What a transaction demands of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Key,
    /// How it must be.
    pub expected: Expected,
}

/// How a key must be for a transaction to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There is no such key.
    Absent,
    /// There is such a key, whatever its value.
    Present,
    /// The key was last put at this revision.
    At(Revision),
}

impl Expected {
    /// Whether a key that was last put at `actual` (none: there is no such key) is as expected.
    pub fn holds(self, actual: Option<Revision>) -> bool {
        match self {
            Self::Absent => actual.is_none(),
            Self::Present => actual.is_some(),
            Self::At(revision) => actual == Some(revision),
        }
    }
}

/// What a transaction does to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Puts a value.
    Put {
        /// The key.
        key: Key,
        /// The new value.
        value: Vec<u8>,
        /// The lease that it lives by from now on.
        lease: Option<LeaseId>,
    },
    /// Deletes a key.
    Delete(Key),
}

impl Op {
    /// The key that it changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// How a transaction ended.
#[must_use = "a transaction that conflicts has changed nothing"]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect. The revision is its own, or the store's current one if it changed nothing.
    Committed(Revision),
    /// A compare did not hold; nothing was changed.
    Conflict(Conflict),
}

/// The compare that did not hold; the first, if several did not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} was expected to {expected}, but {}", Actual(*.actual))]
pub struct Conflict {
    /// The key.
    pub key: Key,
    /// How it should have been.
    pub expected: Expected,
    /// The revision at which it was last put; none if there is no such key.
    pub actual: Option<Revision>,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("be absent"),
            Self::Present => f.write_str("be present"),
            Self::At(revision) => write!(f, "be unchanged since revision {revision}"),
        }
    }
}

struct Actual(Option<Revision>);

impl fmt::Display for Actual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("there is none"),
            Some(revision) => write!(f, "it was changed at revision {revision}"),
        }
    }
}
