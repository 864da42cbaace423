//! What a cluster loses, and goes on: a host, the leader of its store, the majority of it, all its power. Real daemons, real etcd
//! and a real fence agent on one machine; GPUs and VMs are fake ones.
//!
//! Here the times are longer than Tranche's own, because other tests keep the machine busy. With `TRANCHE_LOSSES=N` they are
//! Tranche's own and each loss happens N times, with how long it took: `scripts/bench losses`.

use std::time::Instant;

use serde_json::{Value, json};

use crate::machines::{Machine, arm_agents, cluster, run_vms, until};

/// How often each loss happens.
const LOSSES: usize = 2;
/// On a machine that is busy with other tests.
const SLOW: [(&str, u64); 5] = [
    ("heartbeat_ms", 1_000),
    ("lost_ms", 20_000),
    ("reset_ms", 40_000),
    ("restart_ms", 50_000),
    ("election_ms", 1_000),
];

fn asked_for() -> Option<usize> {
    std::env::var("TRANCHE_LOSSES").ok().map(|losses| losses.parse().expect("TRANCHE_LOSSES is a number"))
}

/// Three hosts with three VMs, each host able to cut the power of the others.
fn guarded_cluster() -> [Machine; 3] {
    let machines = cluster();
    if asked_for().is_none() {
        let mut policy = machines[0].get("/v1/policy");
        policy["failover"]["timers"] =
            SLOW.into_iter().map(|(name, ms)| (name.to_owned(), json!(ms))).collect();
        machines[0].does("PUT", "/v1/policy", &policy);
    }
    arm_agents(&machines);
    run_vms(&machines);
    machines
}

/// Every VM runs, where each host says the same.
fn homes(machine: &Machine) -> Option<Vec<(String, String)>> {
    let (status, _) = machine.ask("GET", "/v1/vms", None);
    let running = if status == 200 { machine.running() } else { return None };
    (running.len() == 3).then_some(running)
}

fn all_up(machine: &Machine) -> bool {
    let (_, hosts) = machine.ask("GET", "/v1/hosts", None);
    let up = |host: &Value| host["member"]["standing"] == "up";
    hosts.as_array().is_some_and(|hosts| hosts.len() == 3 && hosts.iter().all(up))
}

/// The machine whose member leads the store, while all three answer.
fn store_leader(machines: &[Machine; 3]) -> usize {
    until("all members of the store answer and one leads", || {
        let (asked, status) = machines[0].ask("GET", "/v1/cluster", None);
        if asked != 200 {
            return None;
        }
        let members = status["members"].as_array()?;
        let answers = members.iter().all(|member| member["store"]["answer"].is_object());
        let leader = members.iter().find(|member| member["store"]["answer"]["leads"] == true)?;
        let at = machines.iter().position(|machine| leader["host"] == machine.name.as_str());
        at.filter(|_| answers && members.len() == 3)
    })
}

#[test]
fn when_a_host_loses_its_power_an_agent_confirms_it_and_its_vms_start_elsewhere() {
    let mut machines = guarded_cluster();
    for loss in 1..=asked_for().unwrap_or(1) {
        let (_, victim) = homes(&machines[0]).expect("all run").swap_remove(0);
        let at = machines.iter().position(|machine| machine.name == victim).expect("it is one of them");
        let (was_cut, was_on, began) =
            (machines[at].cut().len(), machines[at].turned_on().len(), Instant::now());
        machines[at].cut_power();
        let other = &machines[(at + 1) % 3];
        until("they run elsewhere", || {
            let (status, vms) = other.ask("GET", "/v1/vms", None);
            let elsewhere = |vm: &Value| vm["state"] == "running" && vm["host"] != victim.as_str();
            (status == 200 && vms.as_array()?.iter().all(elsewhere)).then_some(())
        });
        println!(
            "loss {loss}: {victim}; {:.1} s from its end to the start of its VMs",
            began.elapsed().as_secs_f64()
        );
        assert_eq!(other.cut().split_off(was_cut), [&*victim], "one agent was asked, once");
        let asked = until("an agent is asked to turn it on", || {
            let asked = machines[at].turned_on().split_off(was_on);
            (!asked.is_empty()).then_some(asked)
        });
        assert_eq!(asked, [victim]);
        machines[at].turn_on();
        until("it is back, with nothing", || all_up(&machines[at]).then_some(()));
        until("all run, once each", || homes(&machines[at]));
    }
}

#[test]
fn nobody_is_called_lost_while_the_store_loses_its_leader_again_and_again_and_then_its_majority() {
    let machines = guarded_cluster();
    let before = homes(&machines[0]).expect("all run");
    for loss in 1..=asked_for().unwrap_or(LOSSES) {
        let leader = &machines[store_leader(&machines)];
        let (killed, began) = (leader.etcd().expect("it runs"), Instant::now());
        leader.kill_etcd();
        until("its member runs again", || leader.etcd().filter(|now| *now != killed));
        let next = store_leader(&machines);
        println!(
            "loss {loss}: the store's leader on {}; then {} led, {:.1} s later",
            leader.name,
            machines[next].name,
            began.elapsed().as_secs_f64()
        );
    }
    for machine in &machines[..2] {
        machine.kill_etcd();
    }
    store_leader(&machines);
    until("somebody leads and all are up", || all_up(&machines[2]).then_some(()));
    assert_eq!(homes(&machines[2]), Some(before), "nothing has moved");
    assert_eq!(machines[0].cut(), Vec::<String>::new(), "and nobody was fenced");
}

#[test]
fn when_all_lose_their_power_everything_starts_again_once() {
    let mut machines = guarded_cluster();
    for machine in &mut machines {
        machine.cut_power();
    }
    machines[0].turn_on();
    until("the first one waits for the store and says so", || {
        let (status, problem) = machines[0].ask("GET", "/v1/vms", None);
        (status == 503 && problem["code"] == "store_unavailable").then_some(())
    });
    let cluster = machines[0].get("/v1/cluster");
    assert_eq!(cluster["cluster"], "lab", "what concerns the store itself is answered");
    let findings = cluster["findings"].to_string();
    assert!(findings.contains("store_unavailable") && findings.contains("store_member_down"), "{findings}");
    machines[1].turn_on();
    machines[2].turn_on();
    until("all are up", || all_up(&machines[0]).then_some(()));
    until("all run", || homes(&machines[0]));
    let leaders = machines.iter().filter(|machine| machine.leads()).count();
    assert_eq!(leaders, 1);
}
