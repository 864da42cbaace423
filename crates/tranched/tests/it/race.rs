//! Many who decide at once: each has a desk of its own over one store, none of them leads, and all want the same GPU.
//!
//! That is worse than what a cluster does, where only the leader gives anything out: here the store's conditions alone keep
//! a partition from being given out twice.

use std::sync::Arc;
use std::thread;

use tempfile::TempDir;
use tranche_core::check;
use tranche_core::finding::Code;
use tranche_core::inventory::HostInventory;
use tranche_core::name::Timestamp;
use tranche_host::fake::Machine;
use tranche_store::{
    EtcdSettings, EtcdStore, KeyRange, MonotonicClock, OPS_MAX, Outcome, Repository, Settings, SqliteStore,
    Store, Terms, Txn,
};
use tranched::engine::{Desk, Ids, News, Rejected, Reported, Reports};

use crate::desk::{self as words, create, gpu, split, start};
use crate::etcd::Members;

const CLIENTS: usize = 8;
const BOOKINGS_EACH: usize = 5;
const PARTITIONS: u16 = 16;
/// In the test; `TRANCHE_RACES` asks for another number.
const RACES: usize = 3;

#[test]
fn eight_clients_get_sixteen_partitions_between_them_on_sqlite() {
    let dir = TempDir::new().expect("a directory");
    let path = camino::Utf8PathBuf::from_path_buf(dir.path().to_owned()).expect("UTF-8");
    // One process has it open.
    let clock = Arc::new(MonotonicClock::default());
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&Settings::new(path), clock).expect("it opens"));
    races(|| Arc::clone(&store));
}

#[test]
fn eight_clients_get_sixteen_partitions_between_them_on_three_etcd_members() {
    let members = Members::start(3);
    let open = || -> Arc<dyn Store> {
        let settings = EtcdSettings {
            endpoints: members.endpoints().to_vec(),
            tls: None,
            timeout_ms: 20_000,
            election_ms: 1_000,
        };
        Arc::new(EtcdStore::connect(&settings).expect("it connects"))
    };
    races(open);
}

fn races(open: impl Fn() -> Arc<dyn Store> + Sync) {
    let races = std::env::var("TRANCHE_RACES").ok().map_or(RACES, |races| races.parse().expect("a number"));
    for race in 1..=races {
        let store = open();
        clear(&*store);
        let seen = prepare(&store);
        let given = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (store, seen) = (open(), seen.clone());
                    scope.spawn(move || client_books(client, store, seen))
                })
                .collect();
            for client in clients {
                client.join().expect("a client that comes to an end");
            }
            let loaded = Repository::new(Arc::clone(&store)).load().expect("it can be read");
            let plan = &loaded.state.plan;
            assert_eq!(check::check(plan), []);
            assert_eq!(loaded.state.spec.vms.len(), CLIENTS * BOOKINGS_EACH, "no wish is lost");
            plan.bookings_on(&gpu(0)).count()
        });
        assert_eq!(given, usize::from(PARTITIONS), "race {race}");
    }
}

/// A GPU that is split, as its host reports it.
fn prepare(store: &Arc<dyn Store>) -> HostInventory {
    let machine = crate::fake_machine::FakeMachine::new(words::host(), Machine::gpus(1, PARTITIONS));
    let engine = words::open(&machine, store, tranche_host::calls::Limits::default());
    let mut now = Timestamp(1);
    engine.pass(now);
    engine.submit(&split(0, PARTITIONS), false, now).expect("it is taken");
    while engine.view().inventory[&words::host()].gpus[&gpu(0).address].partitions.len()
        < usize::from(PARTITIONS)
    {
        now.0 += 1_000;
        engine.pass(now);
    }
    engine.pass(now);
    HostInventory::clone(&engine.view().inventory[&words::host()])
}

/// Asks for VMs, and decides after each wish, whatever others do meanwhile.
fn client_books(client: usize, store: Arc<dyn Store>, seen: HostInventory) {
    let desk = Desk::open(Repository::new(store), Ids::default()).expect("it can be read");
    let now = Timestamp(1_000_000);
    let decide = || {
        let inventory = Reported::One(Box::new(seen.clone()));
        desk.decide(Reports { inventory, news: News::new(), findings: Vec::new() }, &Terms::default(), now)
            .is_some()
    };
    decide();
    for number in 0..BOOKINGS_EACH {
        let name = format!("vm-{client}-{number}");
        for change in [create(&name), start(&name)] {
            while let Err(rejected) = desk.submit(&change, false, now) {
                assert_eq!(met(&rejected), Some(Code::VersionConflict), "{rejected:?}");
            }
        }
        while !decide() {}
    }
}

/// What kept a wish from being stored.
fn met(rejected: &Rejected) -> Option<Code> {
    match rejected {
        Rejected::Store(finding) => Some(finding.code),
        Rejected::Refused(_) => None,
    }
}

fn clear(store: &dyn Store) {
    for entries in store.range(&KeyRange::ALL).expect("it can be read").entries.chunks(OPS_MAX) {
        let txn = entries.iter().fold(Txn::new(), |txn, entry| txn.delete(entry.key.clone()));
        assert!(matches!(store.commit(&txn).expect("it is stored"), Outcome::Committed(_)));
    }
}
