//! Changes: asked for in the right words, previewed, waited for.

use std::collections::BTreeMap;

use expect_test::expect;
use tranche_api::answer::Preview;
use tranche_core::effect::{Effect, HostStep, VmEffect};
use tranche_core::operation::OperationState::{Failed, Running, Succeeded, Superseded, Waiting};
use tranche_core::spec::Policy;
use tranche_core::step::Step;

use crate::daemon::Daemon;
use crate::fixtures::{AWAIT_OPERATION, a2, accepted, igb, no_room, operation};
use crate::{check, run};

/// What the daemon is asked when the command is told this, with every change accepted and done at once.
#[track_caller]
pub(crate) fn asks(args: &[&str], request: &str, expected: &str) {
    let done = accepted(operation("do it", Succeeded, &[], &[]));
    let daemon = Daemon::new()
        .answers("GET /v1/gpus", &[igb(), a2()])
        .answers("GET /v1/policy", &Policy::default())
        .answers(request, &done);
    let output = run(&daemon, args);
    assert_eq!(output, "do it: done\nexit 0\n", "{:?}", daemon.asked());
    let asked = daemon.asked();
    let last = asked.last().expect("something was asked");
    assert_eq!(last.strip_prefix(request).map(str::trim), Some(expected), "{asked:?}");
}

#[test]
fn every_change_of_a_gpu_sets_its_mode() {
    let mode = "PUT /v1/gpus/node1/0000:01:00.0/mode";
    asks(&["gpu", "partition", "01:00.0", "4"], mode, r#"{"mode":"partitioned","count":4}"#);
    asks(
        &["gpu", "partition", "0000:01:00.0", "2", "--series", "Q"],
        mode,
        r#"{"mode":"partitioned","count":2,"series":"Q"}"#,
    );
    asks(
        &["gpu", "partition", "01:00.0", "--sizes", "8Q,4Q,4Q"],
        mode,
        r#"{"mode":"mixed","sizes":["8Q","4Q","4Q"]}"#,
    );
    asks(
        &["gpu", "partition", "01:00.0", "8", "--reload-driver"],
        mode,
        r#"{"mode":"partitioned","count":8,"reload_driver":true}"#,
    );
    asks(
        &["gpu", "passthrough", "node1/0000:01:00.0"],
        mode,
        r#"{"mode":"passthrough","allow_console":false}"#,
    );
    asks(&["gpu", "release", "node1/01:00.0"], mode, r#"{"mode":"host"}"#);
}

#[test]
fn every_change_of_a_vm_has_its_own_request() {
    asks(&["vm", "start", "a"], "POST /v1/vms/a/start", "{}");
    asks(&["vm", "stop", "a", "--force"], "POST /v1/vms/a/stop", r#"{"force":true}"#);
    asks(&["vm", "restart", "a"], "POST /v1/vms/a/restart", r#"{"force":false}"#);
    asks(&["vm", "restart", "a", "--force"], "POST /v1/vms/a/restart", r#"{"force":true}"#);
    asks(&["vm", "migrate", "a"], "POST /v1/vms/a/migrate", "{}");
    asks(&["vm", "migrate", "a", "--to", "node2"], "POST /v1/vms/a/migrate", r#"{"to":"node2"}"#);
    asks(&["vm", "delete", "a"], "DELETE /v1/vms/a", "");
    asks(&["vm", "delete", "a", "--force"], "DELETE /v1/vms/a?force=true", "");
    asks(
        &["vm", "adopt", "a", "--gpu", "any"],
        "POST /v1/vms/a/adopt",
        r#"{"request":{"kind":"partition"},"reserved":false}"#,
    );
    asks(
        &["vm", "attach", "a", "--restart"],
        "POST /v1/vms/a/attach",
        r#"{"request":{"kind":"partition"},"restart":true}"#,
    );
    asks(&["vm", "detach", "a"], "POST /v1/vms/a/detach", r#"{"restart":false}"#);
}

#[test]
fn a_vm_is_made_from_its_flags() {
    let daemon =
        Daemon::new().answers("POST /v1/vms", &accepted(operation("create VM a", Succeeded, &[], &[])));
    let seed = daemon.dir().join("user-data");
    std::fs::write(&seed, "#cloud-config\n").unwrap();
    let flags = "vm create a --vcpus 2 --memory 4GiB --disk default/a.qcow2 --disk ssd/b --network default \
                 --guest-os ubuntu22.04 --firmware bios --gpu 4GiB --reserved --numa-node 1 --cloud-init";
    let mut args: Vec<&str> = flags.split_whitespace().collect();
    args.push(seed.to_str().unwrap());
    check(
        &daemon,
        &args,
        expect![[r#"
        create VM a: done
        exit 0
    "#]],
    );
    let asked = daemon.asked().pop().unwrap().replace(",\"", ",\n\"");
    expect![[r##"
        POST /v1/vms {"name":"a",
        "hardware":{"vcpus":2,
        "memory_mib":4096,
        "disks":[{"pool":"default",
        "volume":"a.qcow2"},{"pool":"ssd",
        "volume":"b"}],
        "networks":["default"],
        "firmware":"bios",
        "guest_os":"ubuntu22.04",
        "cloud_init":"#cloud-config\n"},
        "request":{"kind":"partition",
        "vram_mib":4096},
        "reserved":true,
        "prefer_numa_node":1}"##]]
    .assert_eq(&asked);
}

#[test]
fn one_policy_is_set_and_the_others_are_kept() {
    asks(&["policy", "set", "--placement", "spread"], "PUT /v1/policy", r#"{"placement":"spread"}"#);
    asks(
        &["policy", "set", "--admission", "enforce", "--vcpus-per-cpu", "2"],
        "PUT /v1/policy",
        r#"{"placement":"pack","vcpus_per_cpu":2,"admission":"enforce"}"#,
    );
    asks(
        &["policy", "set", "--shutdown", "freeze"],
        "PUT /v1/policy",
        r#"{"placement":"pack","shutdown":"freeze"}"#,
    );
}

#[test]
fn every_kind_of_rule_is_written_in_a_line() {
    let rule = "PUT /v1/rules/r";
    let set = |rest: &[&'static str]| [&["rule", "set", "r", "--vm", "a,b"], rest].concat();
    asks(
        &set(&["--apart", "--strict"]),
        rule,
        r#"{"rule":"vms","vms":["a","b"],"kind":"apart","strict":true}"#,
    );
    asks(&set(&["--together"]), rule, r#"{"rule":"vms","vms":["a","b"],"kind":"together","strict":false}"#);
    asks(
        &set(&["--host", "node1:10,node2", "--failback"]),
        rule,
        r#"{"rule":"hosts","vms":["a","b"],"hosts":{"node1":10,"node2":100},"strict":false,"failback":true}"#,
    );
    asks(
        &set(&["--label", "rack=1", "--label", "zone=b"]),
        rule,
        r#"{"rule":"labels","vms":["a","b"],"labels":{"rack":"1","zone":"b"},"strict":false}"#,
    );
    asks(&["rule", "delete", "r"], "DELETE /v1/rules/r", "");
}

#[test]
fn a_vm_is_made_with_how_often_it_is_tried_again() {
    let create = ["vm", "create", "a", "--vcpus", "1", "--memory", "128MiB", "--disk", "default/a"];
    let restarts = ["--restarts", "1", "--restarts-elsewhere", "0"];
    asks(
        &[&create[..], &restarts].concat(),
        "POST /v1/vms",
        r#"{"name":"a","hardware":{"vcpus":1,"memory_mib":128,"disks":[{"pool":"default","volume":"a"}],"networks":[],"firmware":"uefi"},"request":{"kind":"none"},"reserved":false,"availability":{"priority":100,"failover":"restart","restarts":{"local":1,"elsewhere":0}}}"#,
    );
}

#[test]
fn every_change_of_a_host_asks_for_what_it_says() {
    asks(&["host", "drain", "node2"], "POST /v1/hosts/node2/drain", "{}");
    asks(&["host", "undrain", "node2"], "POST /v1/hosts/node2/undrain", "{}");
    asks(&["host", "drain", "node2", "node3"], "POST /v1/hosts/node2/drain", r#"{"along":["node3"]}"#);
    let depart = "POST /v1/hosts/node2/depart";
    asks(&["host", "depart", "node2", "--reboot"], depart, r#"{"way":"reboot","force":false}"#);
    asks(&["host", "depart", "node2", "--shutdown"], depart, r#"{"way":"shutdown","force":false}"#);
    asks(&["host", "stay", "node2"], "POST /v1/hosts/node2/stay", "{}");
    asks(&["host", "confirm-down", "node2"], "POST /v1/hosts/node2/confirm-down", "{}");
    asks(&["cluster", "pause"], "POST /v1/failover/pause", "{}");
    asks(&["cluster", "resume"], "POST /v1/failover/resume", "{}");
}

#[test]
fn what_is_not_named_of_a_host_is_not_asked_for() {
    let sets = |options: &str, expected: &str| {
        let args: Vec<&str> = "host set node1".split(' ').chain(options.split(' ')).collect();
        asks(&args, "PATCH /v1/hosts/node1", expected);
    };
    sets("--label rack=4,zone=b", r#"{"labels":{"rack":"4","zone":"b"}}"#);
    sets("--remove-label zone,row --label rack=5", r#"{"labels":{"rack":"5","row":null,"zone":null}}"#);
    sets("--reserve-memory 2GiB", r#"{"reserved_memory_mib":2048}"#);
    sets(
        "--fence-agent fence_virsh --fence-option ip=10.0.9.11 --fence-option plug=a=b",
        r#"{"fence":{"agent":"fence_virsh","options":{"ip":"10.0.9.11","plug":"a=b"}}}"#,
    );
    sets("--fence-option ip=10.0.9.12", r#"{"fence":{"options":{"ip":"10.0.9.12"}}}"#);
    sets("--fence-leave-off", r#"{"fence":{"leave_off":true}}"#);
    sets("--fence-turn-on", r#"{"fence":{"leave_off":false}}"#);
    sets("--no-fence --label rack=4", r#"{"labels":{"rack":"4"},"fence":null}"#);
}

#[test]
fn a_change_of_a_host_that_names_nothing_or_contradicts_itself_is_no_use() {
    for options in [
        &[][..],
        &["--no-fence", "--fence-agent", "fence_virsh"],
        &["--no-fence", "--fence-leave-off"],
        &["--fence-leave-off", "--fence-turn-on"],
    ] {
        let daemon = Daemon::new();
        let output = run(&daemon, &[&["host", "set", "node1"], options].concat());
        assert!(output.contains("exit 2"), "{options:?}: {output}");
        assert_eq!(daemon.asked(), [] as [&str; 0]);
    }
}

#[test]
fn a_dry_run_shows_the_effect_on_each_vm_and_changes_nothing() {
    let step = Step::DisableVfs { gpu: igb().address, autoprobe: true };
    let text = step.to_string();
    let effect = Effect {
        gpus: BTreeMap::new(),
        vms: BTreeMap::from([("desk-01".parse().unwrap(), VmEffect::Restarts)]),
        homes: BTreeMap::new(),
        steps: vec![HostStep { host: igb().host, step, text }],
        findings: vec![no_room()],
    };
    let preview = Preview {
        changes: vec!["split GPU node1/0000:01:00.0 into 2 partitions".to_owned()],
        effect,
        version: None,
    };
    let daemon = Daemon::new().answers("PUT /v1/gpus/node1/0000:01:00.0/mode?dry_run=true", &preview);
    check(
        &daemon,
        &["gpu", "partition", "node1/0000:01:00.0", "2", "--dry-run"],
        expect![[r#"
            Nothing was changed. It would:
              split GPU node1/0000:01:00.0 into 2 partitions

            VM       EFFECT
            desk-01  shuts down and starts again

            HOST   FIRST STEPS
            node1  disable the virtual functions of GPU 0000:01:00.0

            warning: No free partition fits VM desk-02. [no_free_partition]
              hint: Stop a VM or split another GPU; it starts by itself then.
            exit 0
        "#]],
    );
    assert_eq!(daemon.asked().len(), 1);
}

#[test]
fn a_change_is_waited_for_and_its_log_is_shown() {
    let title = "start VM desk-01";
    let daemon = Daemon::new()
        .answers("POST /v1/vms/desk-01/start", &accepted(operation(title, Running, &[], &[])))
        .answers(AWAIT_OPERATION, &operation(title, Running, &["booked partition 0"], &[]))
        .answers(AWAIT_OPERATION, &operation(title, Succeeded, &["booked partition 0", "started"], &[]));
    check(
        &daemon,
        &["vm", "start", "desk-01"],
        expect![[r#"
        start VM desk-01: done
        ! start VM desk-01: booked partition 0
        ! start VM desk-01: started
        exit 0
    "#]],
    );
}

#[test]
fn quiet_prints_nothing_on_success() {
    let done = accepted(operation("start VM desk-01", Succeeded, &["started"], &[]));
    let daemon = Daemon::new().answers("POST /v1/vms/desk-01/start", &done);
    check(
        &daemon,
        &["vm", "start", "desk-01", "-q"],
        expect![[r#"
        exit 0
    "#]],
    );
}

#[test]
fn without_waiting_the_operation_is_named() {
    let running = accepted(operation("start VM desk-01", Running, &[], &[]));
    let daemon = Daemon::new().answers("POST /v1/vms/desk-01/start", &running);
    check(
        &daemon,
        &["vm", "start", "desk-01", "--no-wait"],
        expect![[r#"
        start VM desk-01: operation 00000000-0000-0000-0000-000000000007
        exit 0
    "#]],
    );
}

#[test]
fn what_waits_longer_than_allowed_goes_on_by_itself() {
    let waiting = operation("start VM desk-02", Waiting, &[], &[no_room()]);
    let daemon = Daemon::new()
        .answers("POST /v1/vms/desk-02/start", &accepted(waiting.clone()))
        .answers(AWAIT_OPERATION, &waiting);
    check(
        &daemon,
        &["vm", "start", "desk-02", "--timeout", "0"],
        expect![[r#"
            ! start VM desk-02: waits: No free partition fits VM desk-02.
            ! error: Cannot start VM desk-02 yet.
            ! warning: No free partition fits VM desk-02. [no_free_partition]
            !   hint: Stop a VM or split another GPU; it starts by itself then.
            !   hint: It goes on by itself. Wait for it again with: tranche operation wait 00000000-0000-0000-0000-000000000007
            exit 4
        "#]],
    );
}

#[test]
fn what_ends_otherwise_says_why() {
    let failed = operation("start VM desk-02", Failed, &[], &[no_room()]);
    let daemon = Daemon::new().answers("POST /v1/vms/desk-02/start", &accepted(failed));
    check(
        &daemon,
        &["vm", "start", "desk-02"],
        expect![[r#"
            ! error: Could not start VM desk-02.
            ! warning: No free partition fits VM desk-02. [no_free_partition]
            !   hint: Stop a VM or split another GPU; it starts by itself then.
            !   hint: Its log: tranche operation show 00000000-0000-0000-0000-000000000007
            exit 1
        "#]],
    );
    let overtaken = operation("start VM desk-02", Superseded, &[], &[]);
    let daemon = Daemon::new().answers("POST /v1/vms/desk-02/start", &accepted(overtaken));
    check(
        &daemon,
        &["vm", "start", "desk-02"],
        expect![[r#"
        ! error: A later command made it pointless to start VM desk-02.
        !   hint: Its log: tranche operation show 00000000-0000-0000-0000-000000000007
        exit 1
    "#]],
    );
}

#[test]
fn guests_that_take_too_long_are_turned_off_and_a_host_alone_has_nothing_to_leave() {
    let depart = "POST /v1/hosts/node2/depart";
    let asked = accepted(operation("let host node2 reboot", Running, &[], &[]));
    let daemon = Daemon::new().answers(depart, &asked);
    let output = run(&daemon, &["host", "depart", "node2", "--reboot", "--grace", "0"]);
    assert!(output.contains("exit"), "{output}");
    let asked = daemon.asked();
    let forced: Vec<bool> = asked
        .iter()
        .filter_map(|asked| asked.strip_prefix(depart))
        .map(|body| body.contains(r#""force":true"#))
        .collect();
    assert_eq!(forced, [false, true], "{asked:?}");
}
