//! What is asked of any member of a cluster is done wherever it has to be, and a member that is gone is not waited for.

use serde_json::json;

use crate::machines::{Machine, arm_agents, cluster, run_vms, until};

#[test]
fn any_host_answers_for_all_a_dead_hosts_vms_start_elsewhere_and_it_comes_back_empty() {
    let mut machines = cluster();
    for machine in &machines {
        let told = machine.told();
        assert!(told.iter().any(|told| told.contains("READY=1")), "{told:?}");
        assert!(
            told.iter().all(|told| !told.contains("STOPPING=1")),
            "a daemon that replaces itself does not stop, or it would be killed: {told:?}"
        );
    }
    run_vms(&machines);
    assert!(machines.iter().all(|machine| machine.running().len() == 3));

    // A VM goes where it is told to, whoever is told, and stays where it is told that it is.
    let (moved, home) = machines[0].running()[0].clone();
    let to = machines.iter().map(|machine| machine.name.clone()).rfind(|name| *name != home).unwrap();
    for asked in [&machines[1], &machines[2]] {
        asked.runs(&["-q", "vm", "migrate", &moved, "--to", &to]);
        assert!(asked.running().contains(&(moved.clone(), to.clone())));
    }

    // A drain that is asked for at one host empties another.
    let (_, first) = machines[0].running()[0].clone();
    machines[2].does("POST", &format!("/v1/hosts/{first}/drain"), &json!({}));
    until("all run elsewhere", || {
        let running = machines[0].running();
        (running.len() == 3 && running.iter().all(|(_, host)| *host != first)).then_some(())
    });
    machines[2].does("POST", &format!("/v1/hosts/{first}/undrain"), &json!({}));

    // Power cut of a host with VMs. It has neither watchdog nor agent, so somebody has to say that it is down.
    let (_, victim) = machines[0].running()[0].clone();
    let at = machines.iter().position(|machine| machine.name == victim).unwrap();
    machines[at].cut_power();
    let other = &machines[(at + 1) % 3];
    until("somebody who leads notices", || {
        let (status, host) = other.ask("GET", &format!("/v1/hosts/{victim}"), None);
        (status == 200 && host["member"]["standing"] == "lost").then_some(())
    });
    assert!(
        other.running().iter().any(|(_, host)| *host == victim),
        "on nobody's word, they are started nowhere"
    );
    other.does("POST", &format!("/v1/hosts/{victim}/confirm-down"), &json!({}));
    until("they run elsewhere", || {
        let running = other.running();
        (running.len() == 3 && running.iter().all(|(_, host)| *host != victim)).then_some(())
    });

    machines[at].turn_on();
    let back = &machines[at];
    until("it is up again", || {
        let (status, host) = back.ask("GET", &format!("/v1/hosts/{victim}"), None);
        (status == 200 && host["member"]["standing"] == "up" && host["vms"] == 0).then_some(())
    });
    let leaders = machines.iter().filter(|machine| machine.leads()).count();
    assert_eq!(leaders, 1);
    let running: u64 =
        machines.iter().filter_map(|machine| machine.measured("tranche_vms{state=\"running\"}")).sum();
    assert_eq!(running, 3, "what all of them tell can be added up");
}

/// Whether a finding with such a code stands, by what whoever leads knows or finds out.
fn is_said(machine: &Machine, path: &str, code: &str) -> Option<bool> {
    let (status, answer) = machine.ask("GET", path, None);
    let findings = answer.as_array().or_else(|| answer["findings"].as_array());
    findings.filter(|_| status == 200).map(|findings| findings.iter().any(|finding| finding["code"] == code))
}

#[test]
fn how_a_host_would_be_fenced_is_tried_while_all_is_well_and_stays_when_something_else_of_it_changes() {
    let machines = cluster();
    arm_agents(&machines);
    machines[1].runs(&["-q", "host", "set", "node2", "--label", "rack=4"]);
    machines[2].runs(&["-q", "host", "set", "node2", "--reserve-memory", "1GiB"]);
    let member = machines[0].get("/v1/hosts/node2")["member"].clone();
    assert_eq!(
        (&member["agent"], &member["labels"], &member["reserved_memory_mib"]),
        (&json!("fence_test"), &json!({"rack": "4"}), &json!(1024)),
        "{member}"
    );
    let refused = json!({"fence": {"options": {"password": "hunter2"}}});
    let (status, problem) = machines[0].ask("PATCH", "/v1/hosts/node2", Some(&refused));
    assert_eq!((status, &problem["code"]), (422, &json!("fence_option_invalid")), "{problem}");

    // Its plug is another machine's, which would be cut instead.
    machines[0].runs(&["-q", "host", "set", "node2", "--fence-option", "plug=nobody"]);
    for (asked, path) in [(0, "/v1/findings"), (1, "/v1/doctor")] {
        until("the one who asks its device says so", || {
            is_said(&machines[asked], path, "fence_option_invalid").filter(|said| *said)
        });
    }
    assert_eq!(is_said(&machines[0], "/v1/doctor", "host_lost"), Some(false), "whoever leads is there");
    machines[0].runs(&["-q", "host", "set", "node2", "--fence-option", "plug=node2"]);
    until("it is mended, and nobody says so any more", || {
        is_said(&machines[0], "/v1/doctor", "fence_option_invalid").filter(|said| !said)
    });
    assert_eq!(machines[0].cut(), Vec::<String>::new(), "and nobody was touched");
}
