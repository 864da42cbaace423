//! How long it takes to read a whole state and to store one change, with 1,000 VMs remembered.

#[path = "../tests/it/fleet.rs"]
mod fleet;

use std::sync::Arc;

use divan::Bencher;
use tempfile::TempDir;
use tranche_core::spec::Run;
use tranche_store::{
    Loaded, MemoryStore, MonotonicClock, Repository, Saved, Settings, SqliteStore, State, Terms,
};

const VMS: usize = 1_000;

fn main() {
    divan::main();
}

fn open(dir: &TempDir) -> Repository {
    let settings = Settings::new(dir.path().to_str().expect("a path that is text"));
    let store = SqliteStore::open(&settings, Arc::new(MonotonicClock::default())).expect("a store");
    Repository::new(Arc::new(store))
}

fn save(repository: &Repository, loaded: Loaded, next: State) -> Loaded {
    match repository.commit(loaded, next, &Terms::default()).expect("a commit") {
        Saved::Committed(loaded) => loaded,
        Saved::Conflict(conflict) => panic!("{conflict}"),
    }
}

fn fill(repository: &Repository) -> Loaded {
    save(repository, repository.load().expect("an empty store"), fleet::fleet(VMS))
}

#[divan::bench]
fn open_and_load_from_sqlite(bencher: Bencher<'_, '_>) {
    let dir = TempDir::new().expect("a directory");
    fill(&open(&dir));
    bencher.bench_local(|| open(&dir).load());
}

#[divan::bench]
fn load_from_memory(bencher: Bencher<'_, '_>) {
    let repository = Repository::new(Arc::new(MemoryStore::default()));
    fill(&repository);
    bencher.bench_local(|| repository.load());
}

#[divan::bench]
fn stop_one_vm_in_sqlite(bencher: Bencher<'_, '_>) {
    let dir = TempDir::new().expect("a directory");
    let repository = open(&dir);
    stop_one_vm(bencher, &repository);
}

#[divan::bench]
fn stop_one_vm_in_memory(bencher: Bencher<'_, '_>) {
    stop_one_vm(bencher, &Repository::new(Arc::new(MemoryStore::default())));
}

fn stop_one_vm(bencher: Bencher<'_, '_>, repository: &Repository) {
    let mut loaded = Some(fill(repository));
    bencher.bench_local(move || {
        let before = loaded.take().expect("the state after the last round");
        let mut next = before.state.clone();
        let vm = next.spec.vms.get_mut(&fleet::vm_name(500)).expect("a VM");
        vm.run = if vm.run == Run::Stopped { Run::Running } else { Run::Stopped };
        next.plan.bookings.remove(&fleet::slot(500));
        loaded = Some(save(repository, before, next));
    });
}
