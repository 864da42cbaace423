//! How hosts are fenced: what is refused at the door, and what is said of hosts that nobody could shut off.

use std::collections::BTreeMap;

use tranche_core::change::Change;
use tranche_core::finding::{Class, Code, Finding};
use tranche_core::inventory::{Guard, Pulse};
use tranche_core::name::Timestamp;
use tranche_core::spec::{Failover, FenceSpec, HostPart, HostSpec, Request};

use crate::fleet::{Fleet, node};
use crate::led::Cluster;
use crate::world::vm;

fn how(agent: &str, options: &[(&str, &str)]) -> FenceSpec {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    FenceSpec { agent: agent.parse().unwrap(), options, leave_off: false }
}

fn set(fence: FenceSpec) -> Change {
    Change::SetHost { host: node(1), wish: HostSpec { fence: Some(fence), ..HostSpec::new(Timestamp(0)) } }
}

fn amend(part: &str) -> Change {
    let wish: HostPart = serde_json::from_str(part).unwrap();
    Change::AmendHost { host: node(1), wish }
}

fn cluster() -> Cluster {
    Cluster::new(Fleet::new(2, 1, 4))
}

#[track_caller]
fn refused(change: &Change) -> Vec<Finding> {
    let refusal = cluster().wants(change).unwrap_err();
    for finding in &refusal {
        assert!(finding.message.contains("node1") && finding.message.ends_with('.'), "{finding}");
        assert_eq!(finding.code.class(), Class::Invalid, "{finding}");
        assert!(!format!("{finding:?}").contains("hunter"), "{finding}");
    }
    refusal
}

#[test]
fn options_that_no_agent_may_be_given_are_refused_at_the_door_and_not_in_an_emergency() {
    let too_long = "x".repeat(1_025);
    for (option, words) in [
        (("password", "hunter2"), "in the open"),
        (("passwd", "hunter2"), "in the open"),
        (("snmp-community", "hunter2"), "in the open"),
        (("action", "on"), "not given the option action by hand"),
        (("missing-as-off", "1"), "missing-as-off"),
        (("ssh_options", "-oProxyCommand=x"), "ssh_options"),
        (("ipmitool_path", "/bin/sh"), "ipmitool_path"),
        (("password-script", "/bin/sh"), "password-script"),
        (("debug_file", "/etc/passwd"), "debug_file"),
        (("password", "secret:../key"), "the name of no secret"),
        (("password", "secret:"), "the name of no secret"),
        (("ip", "x\naction=on"), "cannot be given that value"),
        (("ip", too_long.as_str()), "cannot be given that value"),
        (("i p", "x"), "has no option"),
        (("", "x"), "has no option"),
    ] {
        let refusal = refused(&set(how("fence_ipmilan", &[option])));
        assert!(matches!(&refusal[..], [finding] if finding.code == Code::FenceOptionInvalid), "{refusal:?}");
        assert!(refusal[0].message.contains(words), "{option:?}: {}", refusal[0]);
    }
}

#[test]
fn all_that_is_wrong_with_how_a_host_is_fenced_is_told_at_once() {
    let refusal = refused(&set(how("fence_scsi", &[("password", "hunter2"), ("verbose", "1"), ("ip", "x")])));
    let codes: Vec<Code> = refusal.iter().map(|finding| finding.code).collect();
    assert_eq!(
        codes,
        [Code::FenceAgentUnusable, Code::FenceOptionInvalid, Code::FenceOptionInvalid],
        "{refusal:?}"
    );
}

#[test]
fn agents_that_leave_a_host_running_are_refused() {
    for agent in ["fence_scsi", "fence_mpath", "fence_brocade"] {
        let refusal = refused(&set(how(agent, &[])));
        assert!(matches!(&refusal[..], [finding] if finding.code == Code::FenceAgentUnusable), "{refusal:?}");
    }
}

#[test]
fn what_is_left_out_of_a_change_of_a_host_stays_and_all_that_comes_of_it_is_held_to_the_same_rules() {
    let mut cluster = cluster();
    let good = how("fence_ipmilan", &[("ip", "10.0.9.11"), ("password", "secret:bmc-node1")]);
    cluster.wants(&set(good.clone())).unwrap();
    cluster.wants(&amend(r#"{"labels": {"rack": "4"}, "reserved_memory_mib": 1024}"#)).unwrap();
    let wish = |cluster: &Cluster| cluster.fleet.spec.hosts[&node(1)].clone();
    assert_eq!((wish(&cluster).fence, wish(&cluster).reserved_memory_mib), (Some(good.clone()), 1_024));
    cluster.wants(&amend(r#"{"labels": {"rack": null}, "fence": {"leave_off": true}}"#)).unwrap();
    assert_eq!(wish(&cluster).labels, BTreeMap::new());
    assert_eq!(wish(&cluster).fence, Some(FenceSpec { leave_off: true, ..good }));
    let refusal = cluster.wants(&amend(r#"{"fence": {"options": {"password": "hunter2"}}}"#)).unwrap_err();
    assert_eq!(refusal[0].code, Code::FenceOptionInvalid);
    cluster.wants(&amend(r#"{"fence": null}"#)).unwrap();
    assert_eq!((wish(&cluster).fence, wish(&cluster).reserved_memory_mib), (None, 1_024));
    let refusal = cluster.wants(&amend(r#"{"fence": {"leave_off": true}}"#)).unwrap_err();
    assert!(refusal[0].hint.contains("--fence-agent"), "{refusal:?}");
}

/// Two hosts without watchdogs, of which the first runs a VM.
fn unguarded() -> Cluster {
    let mut fleet = Fleet::new(2, 1, 4);
    fleet.inventory.change_each(|_, seen| seen.pulse = Some(Pulse::default()));
    fleet.add("a", Request::ANY_PARTITION);
    assert!(fleet.run_on("a", &node(1)));
    Cluster::new(fleet)
}

/// Who is said to be shut off by nobody.
fn named(cluster: &mut Cluster) -> Vec<String> {
    cluster.pass();
    let of_code = |finding: &&Finding| finding.code == Code::HostUnguarded;
    cluster.findings.iter().filter(of_code).map(|finding| finding.subject.to_string()).collect()
}

#[test]
fn a_host_that_nobody_could_shut_off_is_named_while_all_is_well_until_somebody_can() {
    assert_eq!(named(&mut unguarded()), ["host node1"], "the other one runs nothing");

    let mut cluster = unguarded();
    cluster.wants(&set(how("fence_ipmilan", &[]))).unwrap();
    assert_eq!(named(&mut cluster), [] as [&str; 0], "an agent can");
    cluster.wants(&amend(r#"{"fence": null}"#)).unwrap();
    assert_eq!(named(&mut cluster), ["host node1"]);

    for guard in [Guard::Ready, Guard::Armed] {
        let mut cluster = unguarded();
        cluster.fleet.inventory.get_mut(&node(1)).unwrap().progress.guard = guard;
        assert_eq!(named(&mut cluster), [] as [&str; 0], "its watchdog will");
    }
}

#[test]
fn a_host_needs_nobody_to_shut_it_off_whose_vms_stay_with_it_or_while_failover_is_paused() {
    let mut cluster = unguarded();
    let vms = &mut cluster.fleet.spec.vms;
    vms.get_mut(&vm("a")).unwrap().availability.failover = Failover::Stay;
    assert_eq!(named(&mut cluster), [] as [&str; 0]);

    let mut cluster = unguarded();
    cluster.wants(&Change::PauseFailover { paused: true }).unwrap();
    assert_eq!(named(&mut cluster), [] as [&str; 0]);
    cluster.wants(&Change::PauseFailover { paused: false }).unwrap();
    assert_eq!(named(&mut cluster), ["host node1"]);
}

#[test]
fn whoever_is_cut_by_an_agent_is_said_to_come_back_unless_it_is_left_off() {
    for (leave_off, words) in [(false, "turns it on again"), (true, "left off")] {
        let mut cluster = unguarded();
        cluster.wants(&set(FenceSpec { leave_off, ..how("fence_ipmilan", &[]) })).unwrap();
        cluster.pass();
        cluster.power(1, false);
        let down = cluster.findings.iter().find(|finding| finding.code == Code::HostDown).unwrap();
        assert!(down.hint.contains(words), "{down}");
    }
}
