//! Opening the file: who has it, whose it is, which version it has, whether it is whole.
//!
//! Nothing is written before all of that is known, so that a store of a later version stays as it is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Duration;

use camino::Utf8Path;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{FILE_NAME, LOCK_FILE_NAME, Settings, SqliteTable, classify};
use crate::error::StoreError;

/// The schema version that this program writes.
pub const SCHEMA_VERSION: u32 = 1;

/// `TRNC`: marks the file as ours, and `file(1)` may know it by this (<https://sqlite.org/fileformat2.html>, offset 68).
const APPLICATION_ID: i32 = 0x5452_4e43;
/// How long to wait for somebody who looks at the file with other tools.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the write-ahead log is cut back to, in bytes, once it has been carried over into the file.
const LOG_BYTES_KEPT: u32 = 4 << 20;
/// The most pages that SQLite can address (<https://sqlite.org/limits.html>).
const PAGES_MAX: u32 = u32::MAX - 1;
/// The file is the daemon's alone.
const FILE_MODE: u32 = 0o600;

/// A step from one schema version to the next.
struct Migration {
    from: u32,
    to: u32,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[Migration {
    from: 0,
    to: 1,
    sql: "CREATE TABLE entries (
              key TEXT PRIMARY KEY NOT NULL,
              value BLOB NOT NULL,
              created INTEGER NOT NULL,
              modified INTEGER NOT NULL,
              lease INTEGER
          ) STRICT;
          CREATE INDEX leased ON entries (lease) WHERE lease IS NOT NULL;
          CREATE TABLE meta (only INTEGER PRIMARY KEY CHECK (only = 1), revision INTEGER NOT NULL) STRICT;
          INSERT INTO meta (only, revision) VALUES (1, 0);",
}];

pub(super) fn open(settings: &Settings) -> Result<SqliteTable, StoreError> {
    let path = settings.dir.join(FILE_NAME);
    let place = path.to_string();
    let lock = lock(settings, &place)?;
    create(settings, &path).map_err(|error| classify_io(&place, error))?;
    let sql = |error| classify(&place, error);

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    // Before the first look: even that would leave companions of the file that nobody can write later.
    if connection.is_readonly(rusqlite::MAIN_DB).map_err(sql)? {
        let source = io::Error::from(ErrorKind::PermissionDenied);
        return Err(StoreError::ReadOnly { place, source: Box::new(source) });
    }
    if let Err(refusal) = recognise(&connection, &place) {
        // Closing must not carry a log that another version has left into its file.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sql)?;
        return Err(refusal);
    }
    set_up(&connection, settings, &place)?;
    migrate(&mut connection, MIGRATIONS).map_err(sql)?;
    let identity = identity(&place).map_err(|error| classify_io(&place, error))?;
    Ok(SqliteTable { connection, place, identity, _lock: lock })
}

/// Device and inode of a file.
pub(super) fn identity(place: &str) -> io::Result<(u64, u64)> {
    fs::metadata(place).map(|file| (file.dev(), file.ino()))
}

/// Takes the lock that makes this process the only one with the store; it is the kernel's (`flock(2)`), so it ends
/// with the process however that ends.
fn lock(settings: &Settings, place: &str) -> Result<File, StoreError> {
    let io = |error| classify_io(place, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let mut file = options.open(settings.dir.join(LOCK_FILE_NAME)).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The id only helps the reader of the error; without it the refusal is the same.
            let _ = file.take(20).read_to_string(&mut holder);
            return Err(StoreError::InUse { place: place.to_owned(), holder: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    let pid = format!("{}\n", std::process::id());
    // On a full disk the id may be missing; the lock holds all the same.
    let _ = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| file.write_all(pid.as_bytes()));
    Ok(file)
}

/// Creates the file where there is none, for its owner alone; SQLite gives its companions the same mode.
fn create(settings: &Settings, path: &Utf8Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        Ok(_) => File::open(&settings.dir)?.sync_all(),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses a file of a later version, and one that is not ours.
fn recognise(connection: &Connection, place: &str) -> Result<(), StoreError> {
    let sql = |error| classify(place, error);
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(sql)?;
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sql)?;
    let found = version(connection).map_err(sql)?;
    if application != APPLICATION_ID && (application != 0 || tables != 0 || found != 0) {
        return Err(StoreError::Foreign { place: place.to_owned() });
    }
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerVersion { place: place.to_owned(), found, supported: SCHEMA_VERSION });
    }
    Ok(())
}

/// Checks that the file is whole, and sets how it is written.
fn set_up(connection: &Connection, settings: &Settings, place: &str) -> Result<(), StoreError> {
    let sql = |error| classify(place, error);
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sql)?;
    if verdict != "ok" {
        return Err(StoreError::Corrupt { place: place.to_owned(), source: verdict.into() });
    }
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(sql)?;
    if mode != "wal" {
        let source = format!("the file system has no write-ahead log for SQLite, but {mode}").into();
        return Err(StoreError::Unavailable { place: place.to_owned(), source });
    }
    connection.pragma_update(None, "synchronous", "full").map_err(sql)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT).map_err(sql)?;
    let page_bytes: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(sql)?;
    let pages = settings.size_bytes_max / u64::from(page_bytes);
    let pages = u32::try_from(pages).unwrap_or(PAGES_MAX).clamp(1, PAGES_MAX);
    connection.pragma_update(None, "max_page_count", pages).map_err(sql)
}

/// Takes the schema from its version to the last one in `chain`, step by step; each step is whole or not taken.
fn migrate(connection: &mut Connection, chain: &[Migration]) -> Result<(), rusqlite::Error> {
    for step in chain {
        let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if version(&txn)? == step.from {
            txn.execute_batch(step.sql)?;
            txn.pragma_update(None, "application_id", APPLICATION_ID)?;
            txn.pragma_update(None, "user_version", step.to)?;
            txn.commit()?;
        }
    }
    Ok(())
}

/// The schema version of the file; one that is negative was not written by us and counts as the latest of all.
fn version(connection: &Connection) -> Result<u32, rusqlite::Error> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(u32::try_from(version).unwrap_or(u32::MAX))
}

/// What an error of the file system means for the store.
fn classify_io(place: &str, error: io::Error) -> StoreError {
    let place = place.to_owned();
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly { place, source: Box::new(error) }
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StoreError::Full { place, source: Box::new(error) }
        }
        _ => StoreError::Unavailable { place, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[Migration] = &[
        Migration { from: 0, to: 1, sql: "CREATE TABLE a (x)" },
        Migration { from: 1, to: 2, sql: "ALTER TABLE a RENAME TO b" },
        Migration { from: 2, to: 3, sql: "INSERT INTO b VALUES (3)" },
    ];

    #[test]
    fn a_commit_waits_for_the_disk() {
        let dir = tempfile::TempDir::new().unwrap();
        let table = open(&Settings::new(Utf8Path::from_path(dir.path()).unwrap())).unwrap();
        let pragma = |name| -> String {
            let sql = format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}");
            table.connection.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!((pragma("journal_mode"), pragma("synchronous")), ("wal".to_owned(), "2".to_owned()));
    }

    #[test]
    fn every_migration_follows_the_one_before() {
        let mut version = 0;
        for step in MIGRATIONS {
            assert_eq!((step.from, step.to), (version, version + 1));
            version = step.to;
        }
        assert_eq!(version, SCHEMA_VERSION);
    }

    #[test]
    fn a_file_of_any_older_version_is_taken_to_the_latest() {
        for known in 0..=STEPS.len() {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection, &STEPS[..known]).unwrap();
            migrate(&mut connection, STEPS).unwrap();
            migrate(&mut connection, STEPS).unwrap();
            let rows: u32 = connection.query_row("SELECT count(*) FROM b", [], |row| row.get(0)).unwrap();
            assert_eq!((version(&connection).unwrap(), rows), (3, 1), "from version {known}");
        }
    }

    #[test]
    fn a_migration_that_fails_leaves_the_version_before_it() {
        let broken = [
            Migration { from: 0, to: 1, sql: "CREATE TABLE a (x)" },
            Migration { from: 1, to: 2, sql: "CREATE TABLE b (x); CREATE TABLE a (x)" },
        ];
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(migrate(&mut connection, &broken).is_err());
        assert_eq!(version(&connection).unwrap(), 1);
        let tables: u32 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1, "half of the failed step stayed");
    }
}
