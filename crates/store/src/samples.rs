//! The file of histories: how busy the GPUs, partitions and VMs of this host were.
//!
//! It is local to a host, lies beside the store and is none: what is in it may be lost without harm, so a file that cannot be read is
//! put aside and begun anew, and one that is full loses what is oldest. What is kept, and how fine, is decided in
//! [`tranche_core::history`].
//!
//! ```text
//! fine:    one row for each history and ten minutes, of points of 30 s
//! coarse:  one row for each history and hour, of points of 5 min
//! ```
//!
//! Rows are in order of time, so that what is written goes to the end of the file and what is thinned out comes from its beginning:
//! a batch touches few pages, of which each is written twice (log and file). `docs/configuration.md` has the figures.

mod points;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tranche_core::history::{COARSE_STEP_S, FINE_STEP_S, Measured, Point, Retention, fold, start_of};

use crate::error::StoreError;
use crate::sqlite::classify;

/// The name of the file in the state directory.
pub const SAMPLES_FILE_NAME: &str = "history.db";

/// `TRNH`: marks the file as ours.
const APPLICATION_ID: i32 = 0x5452_4e48;
const VERSION: i32 = 1;
const FILE_MODE: u32 = 0o600;
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// What the write-ahead log is cut back to, in bytes.
const LOG_BYTES_KEPT: u32 = 1 << 20;
/// So much of the size is kept free for the next batch, in percent: at least, and at most.
const FREE_PERCENT: std::ops::RangeInclusive<u64> = 10..=50;
/// What a point takes at most, in bytes, with its part of a row and of a page.
const POINT_BYTES: u64 = 60;
/// So much is thinned out in one transaction, in seconds of time: after days without the daemon there is a lot.
const THINNED_S_MAX: u64 = 6 * 60 * 60;

/// One of the two tables.
#[derive(Debug, Clone, Copy)]
struct Table {
    name: &'static str,
    step_s: u64,
    row_s: u64,
}

const FINE: Table = Table { name: "fine", step_s: FINE_STEP_S, row_s: 600 };
const COARSE: Table = Table { name: "coarse", step_s: COARSE_STEP_S, row_s: 3_600 };

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS fine (at_s INTEGER NOT NULL, history TEXT NOT NULL, points BLOB NOT NULL,
        PRIMARY KEY (at_s, history)) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS coarse (at_s INTEGER NOT NULL, history TEXT NOT NULL, points BLOB NOT NULL,
        PRIMARY KEY (at_s, history)) STRICT, WITHOUT ROWID;";

/// The file, open.
#[derive(Debug)]
pub struct SampleFile {
    connection: Connection,
    place: String,
    pages_max: u64,
}

impl SampleFile {
    /// Opens the file in a directory, or begins one. It grows no larger than so many bytes; one that is larger gets smaller with the
    /// next batch.
    ///
    /// # Errors
    /// It cannot be read or written. [`StoreError::Corrupt`] and [`StoreError::Foreign`] say that it never will be.
    pub fn open(dir: &Utf8Path, size_bytes_max: u64) -> Result<Self, StoreError> {
        let path = dir.join(SAMPLES_FILE_NAME);
        let place = path.to_string();
        let sql = |error| classify(&place, error);
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(&path);
        made.map_err(|error| unusable(&place, error))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(sql)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
        let is = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(sql);
        let marks = (is("application_id")?, is("user_version")?);
        if marks != (0, 0) && marks != (APPLICATION_ID, VERSION) {
            return Err(StoreError::Foreign { place });
        }
        set_up(&connection).map_err(sql)?;
        let mut file = Self { connection, place, pages_max: 0 };
        let limited = file.pragma("page_size").and_then(|page_bytes| {
            file.pages_max = (size_bytes_max / page_bytes.max(1)).max(1);
            file.limit()
        });
        match limited {
            Ok(()) => Ok(file),
            Err(error) => Err(classify(&file.place, error)),
        }
    }

    /// Puts a file that cannot be read out of the way; the last one that was is gone. Says where it is now.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn set_aside(dir: &Utf8Path) -> std::io::Result<Utf8PathBuf> {
        let path = dir.join(SAMPLES_FILE_NAME);
        let aside = dir.join(format!("{SAMPLES_FILE_NAME}.unread"));
        std::fs::rename(&path, &aside)?;
        for companion in ["-wal", "-shm"] {
            match std::fs::remove_file(dir.join(format!("{SAMPLES_FILE_NAME}{companion}"))) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(aside)
    }

    /// Adds points, makes old ones coarse, and forgets those that are too old, or for which there is no room.
    ///
    /// # Errors
    /// Nothing was added.
    pub fn add(
        &mut self,
        batch: &BTreeMap<Measured, Vec<Point>>,
        now_s: u64,
        retention: &Retention,
    ) -> Result<(), StoreError> {
        let added = self.make_room(batch, now_s).and_then(|()| self.write(batch, now_s, retention));
        added.map_err(|error| classify(&self.place, error))
    }

    /// The points of one history in order of time, from a moment to another one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn points(&self, measured: &Measured, from_s: u64, to_s: u64) -> Result<Vec<Point>, StoreError> {
        let read = |table: Table| -> rusqlite::Result<Vec<Point>> {
            let sql = format!(
                "SELECT at_s, points FROM {} WHERE at_s >= ?1 AND at_s < ?2 AND history = ?3 ORDER BY at_s",
                table.name
            );
            let mut statement = self.connection.prepare_cached(&sql)?;
            let span = (integer(start_of(from_s, table.row_s)), integer(to_s));
            let rows = statement.query_map(params![span.0, span.1, measured.to_string()], |row| {
                Ok(points::decode(unsigned(row.get(0)?), table.step_s, &row.get::<_, Vec<u8>>(1)?))
            })?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        };
        let both = read(COARSE).and_then(|coarse| Ok((coarse, read(FINE)?)));
        let (mut found, fine) = both.map_err(|error| classify(&self.place, error))?;
        found.extend(fine);
        found.retain(|point| (from_s..to_s).contains(&point.at_s));
        // A clock that was set back may have had the same time twice.
        found.sort_by_key(|point| point.at_s);
        Ok(found)
    }

    fn write(
        &mut self,
        batch: &BTreeMap<Measured, Vec<Point>>,
        now_s: u64,
        retention: &Retention,
    ) -> rusqlite::Result<()> {
        let txn = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let fine_from_s = retention.fine_from_s(now_s);
        for (measured, points) in batch {
            let name = measured.to_string();
            let (old, new): (Vec<Point>, Vec<Point>) =
                points.iter().copied().partition(|point| point.at_s < fine_from_s);
            merge(&txn, COARSE, &name, fold(old, COARSE_STEP_S))?;
            merge(&txn, FINE, &name, new)?;
        }
        thin_out(&txn, fine_from_s)?;
        let gone_s = integer(start_of(retention.kept_from_s(now_s), COARSE.row_s));
        for table in [COARSE, FINE] {
            txn.execute(&format!("DELETE FROM {} WHERE at_s < ?1", table.name), [gone_s])?;
        }
        txn.commit()
    }

    /// Forgets what is of the future, then what is oldest, until a batch has room.
    fn make_room(&self, batch: &BTreeMap<Measured, Vec<Point>>, now_s: u64) -> rusqlite::Result<()> {
        let points: usize = batch.values().map(Vec::len).sum();
        let page_bytes = self.pragma("page_size")?.max(1);
        let needed = u64::try_from(points).unwrap_or(u64::MAX).saturating_mul(POINT_BYTES) / page_bytes;
        let of_all = |percent: u64| self.pages_max * percent / 100;
        let limit = self.pages_max - needed.clamp(of_all(*FREE_PERCENT.start()), of_all(*FREE_PERCENT.end()));
        loop {
            let pages = self.pragma("page_count")?;
            let used = pages - self.pragma("freelist_count")?;
            if used <= limit {
                return if pages > self.pages_max { self.shrink() } else { Ok(()) };
            }
            let future_s = integer(now_s.saturating_add(COARSE.row_s));
            let mut forgotten = 0;
            for Table { name, .. } in [COARSE, FINE] {
                forgotten +=
                    self.connection.execute(&format!("DELETE FROM {name} WHERE at_s > ?1"), [future_s])?;
            }
            if forgotten == 0 && !self.forget_oldest()? {
                return Ok(());
            }
        }
    }

    /// Gives pages that are free back to the file system.
    fn shrink(&self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare("PRAGMA incremental_vacuum")?;
        let mut freed = statement.query([])?;
        while freed.next()?.is_some() {}
        self.limit()
    }

    fn limit(&self) -> rusqlite::Result<()> {
        let pages_max = integer(self.pages_max.min(u64::from(u32::MAX - 1)));
        self.connection.pragma_update(None, "max_page_count", pages_max)
    }

    fn pragma(&self, name: &str) -> rusqlite::Result<u64> {
        self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(unsigned)
    }

    /// Forgets the oldest rows. Says whether there were any.
    fn forget_oldest(&self) -> rusqlite::Result<bool> {
        for table in [COARSE, FINE] {
            let oldest: Option<i64> =
                self.connection
                    .query_row(&format!("SELECT min(at_s) FROM {}", table.name), [], |row| row.get(0))?;
            if let Some(oldest) = oldest {
                let sql = format!("DELETE FROM {} WHERE at_s <= ?1", table.name);
                self.connection.execute(&sql, [oldest])?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Adds points to the rows in which they lie.
fn merge(txn: &Transaction<'_>, table: Table, history: &str, new: Vec<Point>) -> rusqlite::Result<()> {
    let mut rows: BTreeMap<u64, Vec<Point>> = BTreeMap::new();
    for point in new {
        rows.entry(start_of(point.at_s, table.row_s)).or_default().push(point);
    }
    for (at_s, mut points) in rows {
        let sql = format!("SELECT points FROM {} WHERE at_s = ?1 AND history = ?2", table.name);
        let known: Option<Vec<u8>> = txn
            .prepare_cached(&sql)?
            .query_row(params![integer(at_s), history], |row| row.get(0))
            .optional()?;
        points.extend(known.iter().flat_map(|bytes| points::decode(at_s, table.step_s, bytes)));
        let sql =
            format!("INSERT OR REPLACE INTO {} (at_s, history, points) VALUES (?1, ?2, ?3)", table.name);
        let bytes = points::encode(at_s, table.step_s, &fold(points, table.step_s));
        txn.prepare_cached(&sql)?.execute(params![integer(at_s), history, bytes])?;
    }
    Ok(())
}

/// Makes points coarse that are old enough, the oldest first.
fn thin_out(txn: &Transaction<'_>, fine_from_s: u64) -> rusqlite::Result<()> {
    let first: Option<i64> = txn.query_row("SELECT min(at_s) FROM fine", [], |row| row.get(0))?;
    let Some(first_s) = first.map(unsigned) else { return Ok(()) };
    // Rows that are old as a whole.
    let until_s = start_of(fine_from_s, FINE.row_s).min(first_s.saturating_add(THINNED_S_MAX));
    let mut old: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    {
        let mut statement = txn.prepare_cached("SELECT at_s, history, points FROM fine WHERE at_s < ?1")?;
        let mut rows = statement.query([integer(until_s)])?;
        while let Some(row) = rows.next()? {
            let found = points::decode(unsigned(row.get(0)?), FINE.step_s, &row.get::<_, Vec<u8>>(2)?);
            old.entry(row.get(1)?).or_default().extend(found);
        }
    }
    for (history, points) in old {
        merge(txn, COARSE, &history, fold(points, COARSE_STEP_S))?;
    }
    txn.execute("DELETE FROM fine WHERE at_s < ?1", [integer(until_s)])?;
    Ok(())
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    // It holds only for a file that is begun.
    connection.pragma_update(None, "auto_vacuum", "incremental")?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // After a power cut the last batches may be missing; the file is whole.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", VERSION)?;
    connection.execute_batch(SCHEMA)
}

fn unusable(place: &str, error: std::io::Error) -> StoreError {
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

/// SQLite's integers are signed; times are far below where that matters, and what is not is of the future.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
