//! A cluster whose store somebody else runs: real daemons over an etcd that none of them started.

use std::collections::BTreeSet;

use serde_json::json;

use crate::etcd::Members;
use crate::machines::{cluster_on, until};

#[test]
fn a_cluster_lives_in_an_etcd_that_somebody_else_runs_and_outlives_one_of_its_members() {
    let mut etcd = Members::start(3);
    let mut machines = cluster_on(etcd.endpoints());
    for machine in &machines {
        assert_eq!(machine.etcd(), None, "{} runs one of its own", machine.name);
    }
    let status = machines[1].get("/v1/cluster");
    let members = status["members"].as_array().expect("a list");
    assert_eq!(members.len(), 2, "{status}");
    assert!(members.iter().all(|member| member["store"].is_null()), "nobody has a seat: {status}");
    let elsewhere = status["store_elsewhere"].as_object().expect("a map");
    let urls: BTreeSet<&String> = elsewhere.keys().collect();
    assert_eq!(urls, etcd.endpoints().iter().collect(), "{status}");
    assert_eq!(elsewhere.values().filter(|seat| seat["answer"]["leads"] == true).count(), 1, "{status}");

    for number in 1..=2 {
        let path = format!("/v1/gpus/node{number}/0000:10:00.0/mode");
        machines[1].does("PUT", &path, &json!({"mode": "partitioned", "count": 2}));
    }
    // While the store chooses another leader nothing is accepted, so one goes that does not lead.
    let follows = |url: &String| elsewhere[url]["answer"]["leads"] == false;
    etcd.end(etcd.endpoints().iter().position(follows).expect("two of them follow"));
    for machine in &machines {
        until("it is answered again", || (machine.ask("GET", "/v1/cluster", None).0 == 200).then_some(()));
    }
    let vm =
        json!({"name": "a", "hardware": {"vcpus": 1, "memory_mib": 64}, "request": {"kind": "partition"}});
    machines[1].does("POST", "/v1/vms", &vm);
    machines[0].does("POST", "/v1/vms/a/start", &json!({}));
    let (_, home) = machines[0].running().pop().expect("it runs");

    let at = usize::from(home == "node1");
    machines[at].cut_power();
    machines[at].turn_on();
    until("the one without the VM is back", || {
        let (status, _) = machines[at].ask("GET", "/v1/hosts", None);
        (status == 200).then(|| machines[at].running()).filter(|running| running.len() == 1)
    });
    machines[at].runs(&["-q", "cluster", "leave"]);
    until("the other one is alone", || {
        let hosts = machines[1 - at].get("/v1/hosts");
        (hosts.as_array()?.len() == 1).then_some(())
    });
    assert_eq!(machines[1 - at].running(), [("a".to_owned(), home)], "its VM ran on");
}
