//! What can be changed at any time: how much is done for a VM, and the policies.

use expect_test::expect;
use tranche_api::answer::Preview;
use tranche_core::effect::Effect;
use tranche_core::spec::{FailoverPolicy, Policy, Timers};

use crate::changes::asks;
use crate::check;
use crate::daemon::Daemon;

#[test]
fn of_a_vm_only_what_is_named_is_asked_for() {
    let set = "PATCH /v1/vms/a";
    asks(&["vm", "set", "a", "--priority", "500"], set, r#"{"availability":{"priority":500}}"#);
    asks(&["vm", "set", "a", "--failover", "stay"], set, r#"{"availability":{"failover":"stay"}}"#);
    asks(
        &["vm", "set", "a", "--restarts", "0", "--restarts-elsewhere", "9"],
        set,
        r#"{"availability":{"restarts":{"local":0,"elsewhere":9}}}"#,
    );
    asks(
        &["vm", "set", "a", "--reserved", "--numa-node", "1"],
        set,
        r#"{"reserved":true,"prefer_numa_node":1}"#,
    );
    asks(
        &["vm", "set", "a", "--no-reserved", "--no-numa-node"],
        set,
        r#"{"reserved":false,"prefer_numa_node":null}"#,
    );
    asks(
        &["vm", "set", "a", "--migration-pause-ms", "500", "--migration-bandwidth-mib-s", "default"],
        set,
        r#"{"availability":{"pace":{"pause_ms":500,"bandwidth_mib_s":null}}}"#,
    );
}

#[test]
fn a_vm_is_not_set_to_nothing_or_to_both() {
    let daemon = Daemon::new();
    for args in [
        &["vm", "set", "a"][..],
        &["vm", "set", "a", "--dry-run"],
        &["vm", "set", "a", "--reserved", "--no-reserved"],
        &["vm", "set", "a", "--priority", "1001"],
        &["vm", "set", "a", "--restarts", "256"],
        &["vm", "set", "a", "--migration-pause-ms", "none"],
    ] {
        assert!(crate::run(&daemon, args).ends_with("exit 2\n"), "{args:?}");
    }
    assert_eq!(daemon.asked(), Vec::<String>::new());
}

#[test]
fn a_domain_is_adopted_with_how_much_is_done_for_it() {
    asks(
        &["vm", "adopt", "a", "--priority", "7", "--failover", "stay", "--restarts", "1", "--numa-node", "0"],
        "POST /v1/vms/a/adopt",
        r#"{"request":{"kind":"none"},"reserved":false,"prefer_numa_node":0,"availability":{"priority":7,"failover":"stay","restarts":{"local":1,"elsewhere":3}}}"#,
    );
}

#[test]
fn a_dry_run_says_what_would_change_of_a_vm() {
    let effect =
        Effect { gpus: [].into(), vms: [].into(), homes: [].into(), steps: Vec::new(), findings: Vec::new() };
    let preview = Preview { changes: vec!["change VM a: priority 500".to_owned()], effect, version: None };
    let daemon = Daemon::new().answers("PATCH /v1/vms/a?dry_run=true", &preview);
    check(
        &daemon,
        &["vm", "set", "a", "--priority", "500", "--dry-run"],
        expect![[r#"
            Nothing was changed. It would:
              change VM a: priority 500

            No VM would be touched.

            No host has anything to do at once.
            exit 0
        "#]],
    );
}

#[test]
fn one_time_of_failover_is_set_and_the_others_are_kept() {
    asks(
        &["policy", "set", "--restart-ms", "20000"],
        "PUT /v1/policy",
        r#"{"placement":"pack","failover":{"paused":false,"timers":{"heartbeat_ms":1000,"lost_ms":5000,"reset_ms":8000,"restart_ms":20000,"election_ms":1000}}}"#,
    );
    asks(
        &[
            "policy",
            "set",
            "--heartbeat-ms",
            "2000",
            "--lost-ms",
            "9000",
            "--reset-ms",
            "12000",
            "--restart-ms",
            "14000",
            "--election-ms",
            "3000",
        ],
        "PUT /v1/policy",
        r#"{"placement":"pack","failover":{"paused":false,"timers":{"heartbeat_ms":2000,"lost_ms":9000,"reset_ms":12000,"restart_ms":14000,"election_ms":3000}}}"#,
    );
}

#[test]
fn the_policies_are_shown_with_the_times_of_failover_and_whether_it_is_paused() {
    let timers = Timers { lost_ms: 6_000, ..Timers::default() };
    let policy = Policy { failover: FailoverPolicy { paused: true, timers }, ..Policy::default() };
    let daemon = Daemon::new().answers("GET /v1/policy", &policy);
    check(
        &daemon,
        &["policy", "show"],
        expect![[r#"
            Placement           pack
            Virtual processors  4 for each processor
            Admission           warn
            Homogeneity         warn
            Shutdown            conditional
            Moves               no limit, a pause of 100000 ms at most
            Failover            paused, until 'tranche cluster resume'
            Heartbeat           every 1000 ms
            Lost                after 6000 ms
            Reset               after 8000 ms
            Restart             after 10000 ms
            Election            1000 ms
            exit 0
        "#]],
    );
}
