//! What is refused, or cannot even be asked: message, code, hint, exit code.

use expect_test::expect;
use tranche_core::name::GpuAddress;

use crate::daemon::Daemon;
use crate::fixtures::{a2, igb, in_use};
use crate::{check, run_bare};

#[test]
fn a_refusal_has_a_code_and_a_hint() {
    let daemon = Daemon::new().refuses("PUT /v1/gpus/node1/0000:01:00.0/mode", &in_use());
    check(
        &daemon,
        &["gpu", "partition", "node1/0000:01:00.0", "2"],
        expect![[r#"
            ! error: GPU node1/0000:01:00.0 is in use by VM desk-01, so its mode stays as it is. [partitions_in_use]
            !   hint: Repeat with --drain: its VMs are then shut down first, and start again where there is room. Or stop them yourself ('tranche vm stop').
            exit 3
        "#]],
    );
}

#[test]
fn a_refusal_is_json_for_programs() {
    let daemon = Daemon::new().refuses("PUT /v1/gpus/node1/0000:01:00.0/mode", &in_use());
    check(
        &daemon,
        &["gpu", "partition", "node1/0000:01:00.0", "2", "-o", "json"],
        expect![[r#"
            ! {"message":"GPU node1/0000:01:00.0 is in use by VM desk-01, so its mode stays as it is.","code":"partitions_in_use","hint":"Repeat with --drain: its VMs are then shut down first, and start again where there is room. Or stop them yourself ('tranche vm stop').","findings":[],"exit_code":3}
            exit 3
        "#]],
    );
}

#[test]
fn a_gpu_that_is_not_there_is_refused_before_anything_is_asked_for() {
    let daemon = Daemon::new().answers("GET /v1/gpus", &[igb()]);
    check(
        &daemon,
        &["gpu", "release", "02:00.0"],
        expect![[r#"
        ! error: There is no GPU 02:00.0. [gpu_not_found]
        !   hint: List them with: tranche gpu list
        exit 3
    "#]],
    );
}

#[test]
fn a_gpu_name_that_means_two_is_a_usage_error() {
    let mut other = a2();
    other.host = "node2".parse().unwrap();
    let daemon = Daemon::new().answers("GET /v1/gpus", &[a2(), other]);
    check(
        &daemon,
        &["gpu", "release", "41:00.0"],
        expect![[r#"
        ! error: 41:00.0 could be any of node1/0000:41:00.0, node2/0000:41:00.0.
        !   hint: Write host/address.
        exit 2
    "#]],
    );
    let mut far = a2();
    far.address = "0001:41:00.0".parse::<GpuAddress>().unwrap();
    let daemon = Daemon::new().answers("GET /v1/gpus", &[a2(), far]);
    check(
        &daemon,
        &["gpu", "release", "41:00.0"],
        expect![[r#"
        ! error: 41:00.0 could be any of node1/0000:41:00.0, node1/0001:41:00.0.
        !   hint: Write host/address.
        exit 2
    "#]],
    );
}

#[test]
fn without_a_daemon_it_says_how_to_get_one() {
    expect![[r#"
        ! error: The daemon cannot be reached at /nonexistent/tranche.sock: No such file or directory (os error 2)
        !   hint: Is it installed and running? systemctl status tranched. Another path can be given with --socket.
        exit 5
    "#]].assert_eq(&run_bare(&["--socket", "/nonexistent/tranche.sock", "vm", "list"]));
}

#[test]
fn an_answer_of_another_kind_is_told_apart_from_a_refusal() {
    let daemon = Daemon::new().answers_raw("GET /v1/vms", 200, b"<html>");
    check(
        &daemon,
        &["vm", "list"],
        expect![[r#"
        ! error: The answer to GET /v1/vms?limit=1000 is not what this command expects: expected value at line 1 column 1
        !   hint: Are command and daemon of the same version? Compare tranche --version and tranched --version.
        exit 1
    "#]],
    );
    let daemon = Daemon::new().answers_raw("GET /v1/vms", 502, b"Bad gateway");
    check(
        &daemon,
        &["vm", "list"],
        expect![[r#"
        ! error: The daemon answered GET /v1/vms?limit=1000 with 502 Bad Gateway and without a reason that this command understands: expected value at line 1 column 1
        !   hint: Are command and daemon of the same version? Compare tranche --version and tranched --version.
        exit 1
    "#]],
    );
}

#[test]
fn names_that_are_none_never_reach_the_daemon() {
    let daemon = Daemon::new();
    for name in ["../etc", "a/b", "a b", "<vm>", "-", "", "ä"] {
        let output = crate::run(&daemon, &["vm", "start", "--", name]);
        assert!(output.ends_with("exit 2\n"), "{name}: {output}");
    }
    assert_eq!(daemon.asked(), Vec::<String>::new());
}
