//! What only the store in SQLite promises: it outlives its process, and says clearly why it cannot be opened.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::process::Uid;
use tempfile::TempDir;
use tranche_core::finding::Code;
use tranche_store::{
    Entry, Expected, FILE_NAME, KeyRange, LEASE_TTL_MS_MAX, MonotonicClock, Outcome, SCHEMA_VERSION,
    Settings, SqliteStore, Store, StoreError, Txn,
};

use crate::subject::{all, commit, key, put, settings};

/// Names the directory in which the second face of
/// [`every_acknowledged_commit_survives_a_kill_at_any_moment`] commits until it is killed.
const COMMITTER_DIR: &str = "TRANCHE_TEST_COMMITTER_DIR";

fn open(settings: &Settings) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(settings, Arc::new(MonotonicClock::default()))
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join(FILE_NAME)
}

/// Opens what must be refused, and says with which code; every refusal has a text and a hint.
#[track_caller]
fn refusal(settings: &Settings) -> (StoreError, Code) {
    let error = open(settings).expect_err("the store was opened");
    let finding = error.finding();
    assert!(finding.message.starts_with("the "), "{finding}");
    assert!(finding.hint.len() > 20, "{finding}");
    (error, finding.code)
}

#[test]
fn a_missing_file_is_created_for_its_owner_alone() {
    let dir = TempDir::new().unwrap();
    let store = open(&settings(&dir)).unwrap();
    put(&store, "a", "1");
    for companion in fs::read_dir(dir.path()).unwrap() {
        let companion = companion.unwrap();
        assert_eq!(companion.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{companion:?}");
    }
}

#[test]
fn what_was_committed_is_there_when_the_store_is_opened_again() {
    let dir = TempDir::new().unwrap();
    let (before, last) = {
        let store = open(&settings(&dir)).unwrap();
        put(&store, "a", "1");
        put(&store, "b", "1");
        put(&store, "a", "2");
        let last = commit(&store, Txn::new().delete(key("b")));
        (all(&store), last)
    };
    let store = open(&settings(&dir)).unwrap();
    assert_eq!(all(&store), before);
    assert_eq!(store.range(&KeyRange::ALL).unwrap().revision, last);
    assert!(put(&store, "c", "1") > last);
    let stale = store.watch(&KeyRange::ALL, before[0].created);
    assert!(matches!(stale, Err(StoreError::Compacted { .. })), "{stale:?}");
}

#[test]
fn leases_end_with_the_process_that_held_them() {
    let dir = TempDir::new().unwrap();
    let last = {
        let store = open(&settings(&dir)).unwrap();
        let lease = store.grant(LEASE_TTL_MS_MAX).unwrap();
        put(&store, "stays", "1");
        commit(&store, Txn::new().put_leased(key("leader"), "me", lease.id))
    };
    let store = open(&settings(&dir)).unwrap();
    let names: Vec<String> = all(&store).iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(names, ["stays"]);
    assert!(store.range(&KeyRange::ALL).unwrap().revision > last, "a deletion takes a revision of its own");
}

#[test]
fn a_second_process_is_refused_and_told_who_has_the_store() {
    let dir = TempDir::new().unwrap();
    let first = open(&settings(&dir)).unwrap();
    let (error, code) = refusal(&settings(&dir));
    assert!(
        matches!(error, StoreError::InUse { holder, .. } if holder == Some(std::process::id())),
        "{error:?}"
    );
    assert_eq!(code, Code::StoreInUse);
    put(&first, "a", "1");
    drop(first);
    assert_eq!(all(&open(&settings(&dir)).unwrap()).len(), 1);
}

#[test]
fn a_file_of_a_newer_version_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    put(&open(&settings(&dir)).unwrap(), "a", "1");
    let newer = SCHEMA_VERSION + 1;
    // The version is still in the write-ahead log, as after a crash of the newer program.
    let other = rusqlite::Connection::open(file(&dir)).unwrap();
    other.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    other.pragma_update(None, "user_version", newer).unwrap();
    drop(other);
    let log = dir.path().join(format!("{FILE_NAME}-wal"));
    let before = (fs::read(file(&dir)).unwrap(), fs::read(&log).unwrap());
    assert!(!before.1.is_empty());

    for _ in 0..2 {
        let (error, code) = refusal(&settings(&dir));
        assert!(matches!(error, StoreError::NewerVersion { found, .. } if found == newer), "{error:?}");
        assert_eq!(code, Code::StoreNewerVersion);
    }
    assert!((fs::read(file(&dir)).unwrap(), fs::read(&log).unwrap()) == before, "the file was touched");
}

#[test]
fn a_database_of_something_else_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let other = rusqlite::Connection::open(file(&dir)).unwrap();
    other.execute_batch("CREATE TABLE photos (x); INSERT INTO photos VALUES (1)").unwrap();
    drop(other);
    let before = fs::read(file(&dir)).unwrap();
    let (error, _) = refusal(&settings(&dir));
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    assert!(fs::read(file(&dir)).unwrap() == before, "the file was touched");
}

#[test]
fn an_empty_file_is_taken_for_a_new_store() {
    let dir = TempDir::new().unwrap();
    fs::write(file(&dir), "").unwrap();
    put(&open(&settings(&dir)).unwrap(), "a", "1");
}

#[test]
fn a_damaged_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(&settings(&dir)).unwrap();
    for index in 0..200 {
        put(&store, &format!("vm/{index}"), &"x".repeat(1000));
    }
    drop(store);
    let whole = fs::read(file(&dir)).unwrap();
    let damages: [(&str, Vec<u8>); 3] = [
        ("text", b"this was never a database, and it is longer than a header".repeat(100)),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("holed", [&whole[..8192], &vec![0x5a; 8192], &whole[16384..]].concat()),
    ];
    for (damage, bytes) in damages {
        fs::write(file(&dir), &bytes).unwrap();
        let (error, code) = refusal(&settings(&dir));
        assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error:?}");
        assert_eq!(code, Code::StoreCorrupt);
        assert!(fs::read(file(&dir)).unwrap() == bytes, "the evidence was touched");
    }
    fs::write(file(&dir), whole).unwrap();
    assert_eq!(all(&open(&settings(&dir)).unwrap()).len(), 200, "the restored backup is not whole");
}

#[test]
fn a_missing_directory_is_unavailable() {
    let dir = TempDir::new().unwrap();
    for place in [dir.path().join("missing"), "/dev/null".into()] {
        let (error, code) = refusal(&Settings::new(place.to_str().unwrap()));
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert_eq!(code, Code::StoreUnavailable);
    }
}

/// Runs `work` as a user who may not write what root owns: permissions do not stop root, as whom tests may run.
fn as_nobody<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let nobody = Uid::from_raw(65534);
    // The system call changes this thread alone.
    let thread = thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        work()
    });
    thread.join().unwrap()
}

#[test]
fn a_file_or_a_directory_that_may_not_be_written_is_read_only() {
    let dir = TempDir::new().unwrap();
    put(&open(&settings(&dir)).unwrap(), "a", "1");
    let set_mode = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for name in fs::read_dir(dir.path()).unwrap() {
        set_mode(name.unwrap().path(), 0o666);
    }
    for (file_mode, dir_mode) in [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555), (0o666, 0o000)] {
        set_mode(file(&dir), file_mode);
        set_mode(dir.path().to_owned(), dir_mode);
        let settings = settings(&dir);
        let (error, code) = as_nobody(move || refusal(&settings));
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{file_mode:o} in {dir_mode:o}: {error:?}");
        assert_eq!(code, Code::StoreReadOnly);
    }
    set_mode(dir.path().to_owned(), 0o755);
    set_mode(file(&dir), 0o600);
    assert_eq!(all(&open(&settings(&dir)).unwrap()).len(), 1);
}

#[test]
fn a_full_disk_refuses_a_commit_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let settings = Settings { size_bytes_max: 256 * 1024, ..settings(&dir) };
    let store = open(&settings).unwrap();
    let value = "x".repeat(10_000);
    let mut stored = 0;
    let error = loop {
        let txn =
            Txn::new().put(key(&format!("a/{stored}")), &*value).put(key(&format!("b/{stored}")), &*value);
        match store.commit(&txn) {
            Ok(Outcome::Committed(_)) => stored += 1,
            Ok(Outcome::Conflict(conflict)) => panic!("{conflict}"),
            Err(error) => break error,
        }
        assert!(stored < 100, "nothing was ever full");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(error.finding().code, Code::StoreFull);

    let before = store.range(&KeyRange::ALL).unwrap();
    assert_eq!(before.entries.len(), 2 * stored, "half of a transaction stayed");
    assert!(before.entries.iter().all(|entry| entry.value == value.as_bytes()));
    drop(store);
    let store = open(&settings).unwrap();
    assert_eq!(store.range(&KeyRange::ALL).unwrap(), before);

    let revision = commit(&store, Txn::new().delete(key("a/0")).delete(key("b/0")));
    assert!(revision > before.revision);
    put(&store, "c", &value);
}

#[test]
fn a_file_that_is_removed_or_replaced_while_it_is_open_takes_no_more_commits() {
    let dir = TempDir::new().unwrap();
    let store = open(&settings(&dir)).unwrap();
    put(&store, "a", "1");
    let aside = dir.path().join("aside.db");
    let write = || store.commit(&Txn::new().put(key("a"), "2"));
    fs::rename(file(&dir), &aside).unwrap();
    assert!(matches!(write(), Err(StoreError::Unavailable { .. })));
    fs::copy(&aside, file(&dir)).unwrap();
    assert!(matches!(write(), Err(StoreError::Unavailable { .. })));
    fs::rename(&aside, file(&dir)).unwrap();
    assert!(matches!(write(), Ok(Outcome::Committed(_))), "it does not recover");
    assert_eq!(store.get(&key("a")).unwrap().unwrap().value, b"2");
}

#[test]
fn every_acknowledged_commit_survives_a_kill_at_any_moment() {
    if let Ok(dir) = std::env::var(COMMITTER_DIR) {
        commit_until_killed(&dir);
    }
    let dir = TempDir::new().unwrap();
    for acknowledged in [1, 2, 17, 60] {
        let last = kill_after(&dir, acknowledged);
        let store = open(&settings(&dir)).unwrap();
        let number = |entry: Entry| String::from_utf8(entry.value).unwrap().parse::<u64>().unwrap();
        let (one, other) = (store.get(&key("one")).unwrap(), store.get(&key("other")).unwrap());
        let found = (one.map(number).unwrap(), other.map(number).unwrap());
        assert_eq!(found.0, found.1, "half of a transaction stayed");
        assert!(found.0 == last || found.0 == last + 1, "{last} was acknowledged, {} is there", found.0);
    }
}

/// Starts this test once more as a process that commits, kills it once it has acknowledged so many commits, and
/// returns the last number that it acknowledged.
fn kill_after(dir: &TempDir, acknowledged: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sqlite::every_acknowledged_commit_survives_a_kill_at_any_moment", "--nocapture"])
        .env(COMMITTER_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The test runner writes to the same pipe, also into the first of these lines.
    let mut numbers =
        lines.map_while(Result::ok).filter_map(|line| line.rsplit_once("committed ")?.1.parse().ok());
    let mut last = 0;
    for _ in 0..acknowledged {
        last = numbers.next().expect("the committer ended by itself");
    }
    child.kill().unwrap();
    let last = numbers.last().unwrap_or(last);
    child.wait().unwrap();
    last
}

fn commit_until_killed(dir: &str) -> ! {
    let store = open(&Settings::new(dir)).unwrap();
    let before = store.get(&key("one")).unwrap();
    let mut number =
        before.as_ref().map_or(0, |entry| String::from_utf8_lossy(&entry.value).parse().unwrap());
    let mut expected = before.map_or(Expected::Absent, |entry| Expected::At(entry.modified));
    loop {
        number += 1u64;
        let txn = Txn::new().expect(key("one"), expected).put(key("one"), number.to_string());
        expected = Expected::At(commit(&store, txn.put(key("other"), number.to_string())));
        println!("committed {number}");
    }
}
