//! What is asked of any member of a cluster is done wherever it has to be, and a member that is gone is not waited for.

use serde_json::json;

use crate::machines::{cluster, run_vms, until};

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
}
