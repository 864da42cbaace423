//! The store of a single host: one SQLite file.
//!
//! A commit is acknowledged once it is on the disk (write-ahead log, `synchronous=FULL`). One process has the file at
//! a time, held by a lock beside it. The file can be looked at with `sqlite3` while the daemon runs; writing to it
//! then is not supported.

mod open;

use std::fs::File;
use std::sync::Arc;

use camino::Utf8PathBuf;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, ffi, params};

use crate::clock::Clock;
use crate::engine::{Embedded, Engine, Table};
use crate::error::StoreError;
use crate::key::{Key, KeyRange};
use crate::record::{Entry, Event, LeaseId, Revision};

pub use open::SCHEMA_VERSION;

/// The name of the store's file in its directory.
pub const FILE_NAME: &str = "tranche.db";
/// The name of the file whose lock says who has the store open.
pub const LOCK_FILE_NAME: &str = "tranche.db.lock";
/// The size at which the store refuses to grow, in bytes: 2 GiB, etcd's default quota.
pub const SIZE_BYTES_MAX: u64 = 2 << 30;

/// Where the store is, and how large it may become.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the file; it must exist.
    pub dir: Utf8PathBuf,
    /// The size at which the store refuses to grow, in bytes; rounded down to whole pages.
    pub size_bytes_max: u64,
}

impl Settings {
    /// A store in `dir`, of at most [`SIZE_BYTES_MAX`].
    pub fn new(dir: impl Into<Utf8PathBuf>) -> Self {
        Self { dir: dir.into(), size_bytes_max: SIZE_BYTES_MAX }
    }
}

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    engine: Engine<SqliteTable>,
}

impl SqliteStore {
    /// Opens the store, or creates it where there is none. Its leases run by `clock`; keys that were bound to leases
    /// of the process before are gone.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it; [`StoreError::NewerVersion`] and [`StoreError::Foreign`]
    /// without touching the file; [`StoreError::Unavailable`], [`StoreError::ReadOnly`], [`StoreError::Full`] and
    /// [`StoreError::Corrupt`] as their texts say.
    pub fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let mut table = open::open(settings)?;
        let revision = table.drop_leased()?;
        Ok(Self { engine: Engine::new(table, revision, clock) })
    }
}

impl Embedded for SqliteStore {
    type Table = SqliteTable;

    fn engine(&self) -> &Engine<SqliteTable> {
        &self.engine
    }
}

/// The table `entries`, and the last revision in `meta`.
#[derive(Debug)]
pub(crate) struct SqliteTable {
    connection: Connection,
    place: String,
    /// Which file it is: device and inode.
    identity: (u64, u64),
    /// Held for as long as the connection is.
    _lock: File,
}

impl SqliteTable {
    /// Deletes what was bound to leases of an earlier process, and says at which revision the store is.
    fn drop_leased(&mut self) -> Result<Revision, StoreError> {
        let place = &self.place;
        let last: i64 = self
            .connection
            .query_row("SELECT revision FROM meta", [], |row| row.get(0))
            .map_err(|error| classify(place, error))?;
        let last = Revision(u64::try_from(last).map_err(|error| corrupt(place, error))?);
        let leased = self
            .select("SELECT key, value, created, modified, lease FROM entries WHERE lease IS NOT NULL", [])?;
        if leased.is_empty() {
            return Ok(last);
        }
        let revision = last.next();
        let deleted: Vec<Event> =
            leased.into_iter().map(|entry| Event::Deleted { key: entry.key, revision }).collect();
        self.write(revision, &deleted)?;
        Ok(revision)
    }

    /// Refuses to write into a file that was removed or replaced meanwhile: what is written there would be lost.
    fn still_there(&self) -> Result<(), StoreError> {
        let place = || self.place.clone();
        match open::identity(&self.place) {
            Ok(found) if found == self.identity => Ok(()),
            Ok(_) => {
                let source = "another file was put in its place while it was open".into();
                Err(StoreError::Unavailable { place: place(), source })
            }
            Err(error) => Err(StoreError::Unavailable { place: place(), source: Box::new(error) }),
        }
    }

    fn select(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<Entry>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map(params, entry)?.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|error| classify(&self.place, error))
    }

    fn write_all(&mut self, revision: Revision, events: &[Event]) -> Result<(), rusqlite::Error> {
        let txn = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for event in events {
            match event {
                Event::Put(entry) => {
                    let lease = entry.lease.map(|lease| integer(lease.0));
                    let values = params![
                        entry.key.as_str(),
                        entry.value,
                        integer(entry.created.0),
                        integer(entry.modified.0),
                        lease
                    ];
                    txn.prepare_cached(
                        "INSERT INTO entries (key, value, created, modified, lease) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (key) DO UPDATE SET value = ?2, created = ?3, modified = ?4, lease = ?5",
                    )?
                    .execute(values)?;
                }
                Event::Deleted { key, .. } => {
                    txn.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key.as_str()])?;
                }
            }
        }
        txn.prepare_cached("UPDATE meta SET revision = ?1")?.execute([integer(revision.0)])?;
        txn.commit()
    }
}

impl Table for SqliteTable {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let read = || {
            self.connection
                .prepare_cached("SELECT key, value, created, modified, lease FROM entries WHERE key = ?1")?
                .query_row([key.as_str()], entry)
                .optional()
        };
        read().map_err(|error| classify(&self.place, error))
    }

    fn range(&self, keys: &KeyRange) -> Result<Vec<Entry>, StoreError> {
        // Texts compare by their bytes in SQLite's default collation, as keys do.
        let sql = "SELECT key, value, created, modified, lease FROM entries
                   WHERE key >= ?1 AND key < ?2 ORDER BY key";
        self.select(sql, [keys.start(), keys.end()])
    }

    fn write(&mut self, revision: Revision, events: &[Event]) -> Result<(), StoreError> {
        self.still_there()?;
        self.write_all(revision, events).map_err(|error| classify(&self.place, error))
    }
}

fn entry(row: &Row<'_>) -> Result<Entry, rusqlite::Error> {
    let unsigned = |column: usize, number: i64| {
        u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
    };
    let key: String = row.get(0)?;
    let key = key.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })?;
    let lease: Option<i64> = row.get(4)?;
    Ok(Entry {
        key,
        value: row.get(1)?,
        created: Revision(unsigned(2, row.get(2)?)?),
        modified: Revision(unsigned(3, row.get(3)?)?),
        lease: lease.map(|id| unsigned(4, id).map(LeaseId)).transpose()?,
    })
}

/// SQLite's integers are signed; revisions and leases count up from 0 by one.
fn integer(number: u64) -> i64 {
    i64::try_from(number).expect("a count of changes stays below 2^63")
}

/// What an error of SQLite means for the store (<https://sqlite.org/rescode.html>).
pub(crate) fn classify(place: &str, error: rusqlite::Error) -> StoreError {
    let rusqlite::Error::SqliteFailure(failure, _) = &error else {
        // Without a code of SQLite's own, a row did not have the shape that was written.
        return corrupt(place, error);
    };
    let (kind, code) = (failure.code, failure.extended_code);
    // SQLite's text for the code is part of this already.
    let source = format!("{error} (SQLite code {code})").into();
    let place = place.to_owned();
    match kind {
        // The log's index is grown without a word about why it cannot be; "may indicate that the volume is out of space".
        _ if code == ffi::SQLITE_IOERR_SHMSIZE => StoreError::Full { place, source },
        ErrorCode::DiskFull => StoreError::Full { place, source },
        ErrorCode::ReadOnly => StoreError::ReadOnly { place, source },
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Corrupt { place, source },
        _ => StoreError::Unavailable { place, source },
    }
}

fn corrupt(place: &str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Corrupt { place: place.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use tranche_core::finding::Code;

    use super::*;

    #[test]
    fn what_sqlite_reports_is_told_in_the_words_of_the_store() {
        let cases = [
            (ffi::SQLITE_FULL, Code::StoreFull),
            (ffi::SQLITE_IOERR_SHMSIZE, Code::StoreFull),
            (ffi::SQLITE_READONLY_DBMOVED, Code::StoreReadOnly),
            (ffi::SQLITE_CORRUPT_INDEX, Code::StoreCorrupt),
            (ffi::SQLITE_NOTADB, Code::StoreCorrupt),
            (ffi::SQLITE_IOERR_FSYNC, Code::StoreUnavailable),
            (ffi::SQLITE_BUSY_SNAPSHOT, Code::StoreUnavailable),
            (ffi::SQLITE_CANTOPEN, Code::StoreUnavailable),
        ];
        for (code, expected) in cases {
            let failure = rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("told once".to_owned()));
            let finding = classify("/x/tranche.db", failure).finding();
            assert_eq!(finding.code, expected, "{finding}");
            assert!(finding.message.ends_with(&format!(": told once (SQLite code {code})")), "{finding}");
        }
        let shape = classify("/x/tranche.db", rusqlite::Error::IntegralValueOutOfRange(2, -1)).finding();
        assert_eq!(shape.code, Code::StoreCorrupt, "{shape}");
    }
}
