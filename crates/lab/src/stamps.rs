//! Who writes to a VM's disk: what proves that no VM ever runs on two hosts.
//!
//! A lab guest stamps its disk each second with an id that only this boot of it has (`lab/guest/init`). The disks lie in a
//! directory of this machine, so they are looked at from outside, whatever the hosts believe. A stamp that comes back after
//! another one had taken its place means that both guests run. Two guests stamp in turns, so a look that is now and then too
//! late for one stamp misses nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Error;

/// Where a guest stamps its disk, in bytes: behind the file system that `lab/kernel/build.sh` makes.
const OFFSET: u64 = 49_152 * 512;
const STAMP_LEN: usize = 512;
const LOOK: Duration = Duration::from_millis(200);

/// Watches disks until it is dropped.
#[derive(Debug)]
pub struct Stamps {
    seen: Arc<Mutex<BTreeMap<String, Lives>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The guests that stamped one disk, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// Their ids, the latest last.
    ids: Vec<String>,
    /// The latest one's count.
    tick: u64,
    /// What was wrong: the id that came back.
    came_back: Option<String>,
}

impl Stamps {
    /// Watches the disks of these VMs, files of their names in `directory`.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn watch(directory: &Path, vms: &[&str]) -> Result<Self, Error> {
        let seen = Arc::new(Mutex::new(BTreeMap::<String, Lives>::new()));
        let over = Arc::new(AtomicBool::new(false));
        let disks: Vec<(String, PathBuf)> =
            vms.iter().map(|vm| ((*vm).to_owned(), directory.join(vm))).collect();
        let (theirs, until) = (Arc::clone(&seen), Arc::clone(&over));
        let look = move || {
            while !until.load(Ordering::Relaxed) {
                for (vm, disk) in &disks {
                    if let Some((id, tick)) = read(disk) {
                        lock(&theirs).entry(vm.clone()).or_default().hear(&id, tick);
                    }
                }
                std::thread::sleep(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("stamps".to_owned()).spawn(look);
        let thread = Some(thread.map_err(Error::io("watch", directory))?);
        Ok(Self { seen, over, thread })
    }

    /// How often each VM has come to life, as far as its disk knows, and its latest count.
    pub fn lives(&self) -> BTreeMap<String, (usize, u64)> {
        lock(&self.seen).iter().map(|(vm, lives)| (vm.clone(), (lives.ids.len(), lives.tick))).collect()
    }

    /// The VMs to whose disks two guests wrote at once, with the id that came back.
    pub fn written_by_two(&self) -> Vec<(String, String)> {
        let seen = lock(&self.seen);
        seen.iter().filter_map(|(vm, lives)| Some((vm.clone(), lives.came_back.clone()?))).collect()
    }
}

impl Drop for Stamps {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics never.
            let _ = thread.join();
        }
    }
}

impl Lives {
    fn hear(&mut self, id: &str, tick: u64) {
        match self.ids.iter().position(|known| known == id) {
            None => self.ids.push(id.to_owned()),
            Some(at) if at + 1 < self.ids.len() => self.came_back = Some(id.to_owned()),
            Some(_) => {}
        }
        self.tick = tick;
    }
}

/// The stamp on a disk, if there is a whole one.
fn read(disk: &Path) -> Option<(String, u64)> {
    let mut stamp = [0; STAMP_LEN];
    File::open(disk).ok()?.read_exact_at(&mut stamp, OFFSET).ok()?;
    parse(&stamp)
}

fn parse(stamp: &[u8]) -> Option<(String, u64)> {
    let mut words = std::str::from_utf8(stamp).ok()?.split_whitespace();
    let (id, tick, again) = (words.next()?, words.next()?, words.next()?);
    (id == again).then_some((id.to_owned(), tick.parse().ok()?))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(stamps: &[(&str, u64)]) -> Lives {
        let mut lives = Lives::default();
        for (id, tick) in stamps {
            lives.hear(id, *tick);
        }
        lives
    }

    #[test]
    fn guests_that_follow_each_other_are_no_matter() {
        let lives = heard(&[("a", 1), ("a", 2), ("a", 2), ("b", 1), ("b", 7), ("c", 1)]);
        assert_eq!(lives.came_back, None);
        assert_eq!((lives.ids.len(), lives.tick), (3, 1));
    }

    #[test]
    fn a_guest_that_writes_after_its_successor_is_found() {
        let lives = heard(&[("a", 1), ("b", 1), ("a", 2), ("b", 2)]);
        assert!(lives.came_back.is_some());
    }

    #[test]
    fn a_stamp_that_is_half_written_is_passed_over() {
        assert_eq!(parse(b"a 1 a   "), Some(("a".to_owned(), 1)));
        for half in [&b"a 1 b"[..], b"a 1", b"", b"\0\0\0", b"a x a", &[0xff, 0x20]] {
            assert_eq!(parse(half), None);
        }
    }

    #[test]
    fn a_disk_is_watched_from_outside() {
        let directory = tempfile::tempdir().expect("a directory");
        let stamps = Stamps::watch(directory.path(), &["vm1"]).expect("a thread");
        let disk = File::create(directory.path().join("vm1")).expect("a disk");
        disk.set_len(OFFSET + 4096).expect("its room");
        let write = |id: &str| {
            let stamp = format!("{:512}", format!("{id} 1 {id}"));
            disk.write_all_at(stamp.as_bytes(), OFFSET).expect("written");
            let latest =
                |lives: &Lives| lives.ids.last().is_some_and(|last| last == id) || lives.came_back.is_some();
            while !lock(&stamps.seen).get("vm1").is_some_and(latest) {
                std::thread::yield_now();
            }
        };
        write("a");
        write("b");
        assert_eq!(stamps.written_by_two(), []);
        write("a");
        assert_eq!(stamps.written_by_two(), [("vm1".to_owned(), "a".to_owned())]);
    }
}
