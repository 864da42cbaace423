//! Trails of operations: beside all records, and gone by themselves.

use std::sync::Arc;

use tranche_core::finding::Subject;
use tranche_core::name::{OperationId, Timestamp};
use tranche_store::{ManualClock, MemoryStore, OPS_MAX, Repository, State, Store, Trail, Txn};
use uuid::Uuid;

use crate::fleet::vm_name;
use crate::subject::{all, commit, key};

/// As long as a trail is kept, and a moment.
const AN_HOUR_MS: u64 = 60 * 60 * 1_000 + 1;

fn trail(number: u128) -> Trail {
    Trail {
        operation: OperationId(Uuid::from_u128(number)),
        follows: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        subjects: vec![Subject::Vm(vm_name(0))],
        laid_at: Timestamp(1),
    }
}

#[test]
fn a_trail_is_found_by_everybody_until_its_operation_is_over_and_is_no_record() {
    let store = Arc::new(MemoryStore::default());
    let repository = Repository::new(store.clone());
    let many: Vec<Trail> = (0..=OPS_MAX as u128).map(trail).collect();
    repository.lay_trails(&many).unwrap();
    assert_eq!(repository.trails().unwrap(), many, "there may be more than fit into one transaction");
    assert_eq!(
        repository.load().unwrap().state,
        State::default(),
        "whoever reads records knows nothing of them"
    );
    commit(store.as_ref(), Txn::new().put(key("trail/of-another-version"), "{}"));
    assert_eq!(repository.trails().unwrap().len(), many.len(), "what cannot be read is left out");
    let over: Vec<OperationId> = many.iter().skip(1).map(|trail| trail.operation).collect();
    repository.end_trails(&over).unwrap();
    assert_eq!(repository.trails().unwrap(), many[..1]);
}

#[test]
fn a_trail_that_nobody_takes_away_is_gone_after_an_hour() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let repository = Repository::new(store.clone() as Arc<dyn Store>);
    repository.lay_trails(&[trail(1)]).unwrap();
    clock.advance(AN_HOUR_MS);
    assert_eq!(repository.trails().unwrap(), []);
    assert_eq!(all(store.as_ref()).len(), 0);
}
