//! What a later version wrote, in a store that members of several versions share: what each host writes of itself concerns that host
//! alone.

use std::sync::Arc;

use tranche_core::finding::Code;
use tranche_core::inventory::Hypervisor;
use tranche_core::name::HostName;
use tranche_store::{MemoryStore, Repository, RepositoryError};

use crate::fleet::{fleet, host};
use crate::subject::put;

const HEARTBEAT: &str = r#""boot_id":"b","count":7,"epoch":2,"armed":true,"version":"1.4.0","sent_at":5"#;

fn repository() -> (Arc<MemoryStore>, Repository) {
    let store = Arc::new(MemoryStore::default());
    (Arc::clone(&store), Repository::new(store))
}

fn newer() -> HostName {
    "node2".parse().unwrap()
}

/// A store with a host that everybody can read.
fn stored() -> (Arc<MemoryStore>, Repository) {
    let (store, repository) = repository();
    let loaded = repository.load().unwrap();
    let _ = repository.commit(loaded, fleet(2), &tranche_store::Terms::default()).unwrap();
    put(&*store, "beat/node1", &format!(r#"{{"v":1,"data":{{{HEARTBEAT}}}}}"#));
    (store, repository)
}

/// A report as a host of a later version would make it: something is in it that this version knows nothing of.
fn report(hypervisor: &str, more: &str) -> String {
    let system =
        r#""kernel":"","cpu_model":"","cpus":1,"memory_mib":1,"iommu":{"state":"off"},"colour":"red""#;
    format!(
        r#"{{"v":1,"data":{{"host":"node2","boot_id":"b","observed_at":0,"system":{{{system}}},"hypervisor":{hypervisor},"gpus":{{}},"stuck":[],"notes":[]{more}}}}}"#
    )
}

const DOWN: &str = r#"{"state":"down","reason":"no socket"}"#;

#[test]
fn a_heartbeat_with_more_in_it_is_read_as_ever() {
    let (store, repository) = stored();
    put(&*store, "beat/node2", &format!(r#"{{"v":1,"data":{{{HEARTBEAT},"mood":{{"is":"good"}}}}}}"#));
    let beats = repository.beats().unwrap().of;
    assert_eq!(beats[&newer()].heartbeat, beats[&host()].heartbeat);
    assert_eq!(beats[&newer()].unread, None);
}

#[test]
fn a_heartbeat_of_another_form_is_its_hosts_alone_and_differs_whenever_it_is_written_again() {
    let (store, repository) = stored();
    let of_other_forms = [
        r#"{"v":2,"data":{"version":"2.0.0","armed":"by-hand"}}"#,
        r#"{"v":1,"data":{"version":"2.0.0","armed":"by-hand"}}"#,
    ];
    for text in of_other_forms {
        put(&*store, "beat/node2", text);
        let first = repository.beats().unwrap().of;
        assert_eq!((first[&host()].heartbeat.count, &first[&host()].unread), (7, &None));
        let unread = &first[&newer()];
        assert!(unread.unread.as_ref().is_some_and(|why| why.contains("beat/node2")), "{unread:?}");
        assert_eq!((unread.heartbeat.version.as_str(), unread.heartbeat.armed), ("2.0.0", false));
        assert_eq!(repository.beats().unwrap().of[&newer()].heartbeat, unread.heartbeat);
        put(&*store, "beat/node2", text);
        let again = repository.beats().unwrap().of;
        assert_ne!(again[&newer()].heartbeat, unread.heartbeat, "it lives");
    }
    put(&*store, "beat/node2", "no JSON at all");
    assert_eq!(repository.beats().unwrap().of[&newer()].heartbeat.version, "");
}

#[test]
fn a_report_with_more_in_it_is_read_as_ever_also_where_it_names_what_is_wrong_by_a_code_of_its_own() {
    let (store, repository) = stored();
    let note = |code: &str| {
        format!(
            r#"{{"code":"{code}","severity":"error","subject":{{"kind":"installation"}},"message":"","hint":""}}"#
        )
    };
    let text = report(DOWN, r#","fan":{"rpm":900}"#);
    let text = text.replace(r#""notes":[]"#, &format!(r#""notes":[{},{}]"#, note("fan_stuck"), note("busy")));
    put(&*store, "inventory/node2", &text);
    let seen = &repository.load().unwrap().state.inventory[&newer()];
    assert_eq!((seen.unread.clone(), seen.boot_id.as_str()), (None, "b"));
    assert_eq!(seen.notes.iter().map(|note| note.code).collect::<Vec<_>>(), [Code::Busy]);
}

#[test]
fn of_a_host_whose_report_cannot_be_read_nothing_is_known_and_everybody_else_is_as_ever() {
    let (store, repository) = stored();
    let unreadable = [
        report(r#"{"state":"asleep"}"#, ""),
        report(DOWN, "").replace(r#""gpus":{}"#, r#""gpus":[]"#),
        report(DOWN, "").replace(r#""v":1"#, r#""v":2"#),
    ];
    let mut loaded = repository.load().unwrap();
    let mut watch = repository.watch(&loaded).unwrap();
    for text in unreadable {
        put(&*store, "inventory/node2", &text);
        assert!(
            repository.catch_up(&mut loaded, watch.as_mut()).unwrap(),
            "it is news that it cannot be read"
        );
        assert_eq!(
            loaded.state,
            repository.load().unwrap().state,
            "it is the same to who watches and who reads"
        );
        assert_eq!(loaded.state.inventory[&host()], fleet(2).inventory[&host()]);
        let seen = &loaded.state.inventory[&newer()];
        assert!(matches!(seen.hypervisor, Hypervisor::Down { .. }) && seen.gpus.is_empty(), "{seen:?}");
        assert!(seen.unread.as_ref().is_some_and(|why| why.contains("inventory/node2")), "{seen:?}");
    }
    put(&*store, "inventory/node2", &report(DOWN, ""));
    assert!(repository.catch_up(&mut loaded, watch.as_mut()).unwrap());
    assert_eq!(loaded.state.inventory[&newer()].unread, None);
}

#[test]
fn what_stands_for_a_report_that_cannot_be_read_is_never_written() {
    let (store, repository) = stored();
    let text = report(r#"{"state":"asleep"}"#, "");
    let revision = put(&*store, "inventory/node2", &text);
    let loaded = repository.load().unwrap();
    let mut next = loaded.state.clone();
    next.plan.generations.insert(newer(), 1);
    let _ = repository.commit(loaded, next, &tranche_store::Terms::default()).unwrap();
    let entry = tranche_store::Store::get(&*store, &"inventory/node2".parse().unwrap()).unwrap().unwrap();
    assert_eq!((entry.value, entry.modified), (text.into_bytes(), revision));
}

/// A wish that was left out would be a wish that is silently lost.
#[test]
fn a_wish_or_a_plan_with_something_unknown_in_it_is_refused_by_name() {
    let vm = r#""id":"6f1c1c52-0c0e-4f4e-9e63-0d9b6a4f7f01","source":{"kind":"adopted"},"request":{"kind":"none"},"run":"running","serial":1,"created_at":0"#;
    let planned = r#""host":"node1","id":"6f1c1c52-0c0e-4f4e-9e63-0d9b6a4f7f01","settled":null"#;
    for (name, data) in [
        ("spec/vm/a", format!(r#"{{{vm},"colour":"red"}}"#)),
        ("spec/vm/a", format!("{{{}}}", vm.replace("running", "sleeping"))),
        ("plan/vm/a", format!(r#"{{{planned},"goal":"sleep"}}"#)),
    ] {
        let (store, repository) = stored();
        put(&*store, name, &format!(r#"{{"v":1,"data":{data}}}"#));
        let error = repository.load().unwrap_err();
        assert!(
            matches!(&error, RepositoryError::Malformed { key, .. } if key.as_str() == name),
            "{error:?}"
        );
        assert!(error.is_unreadable());
    }
}
