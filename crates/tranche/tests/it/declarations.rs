//! The declarative file: read strictly, previewed, made.

use std::fs;

use expect_test::{Expect, expect};
use tranche_api::answer::{Applied, Preview};
use tranche_core::effect::Effect;
use tranche_core::operation::OperationState::{Running, Succeeded};

use crate::daemon::Daemon;
use crate::fixtures::{AWAIT_OPERATION, operation};
use crate::{check, run};

/// The handbook's own example, so that it cannot be wrong.
const EXAMPLE: &str = include_str!("../../../../docs/examples/site.yaml");

fn nothing() -> Effect {
    Effect { gpus: [].into(), vms: [].into(), homes: [].into(), steps: Vec::new(), findings: Vec::new() }
}

#[track_caller]
fn refuses(text: &[u8], expected: Expect) {
    let daemon = Daemon::new();
    let file = daemon.dir().join("site.yaml");
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    expected.assert_eq(&run(&daemon, &["apply", "-f", path]).replace(path, "site.yaml"));
    assert_eq!(daemon.asked(), Vec::<String>::new(), "nothing malformed is sent");
}

#[test]
fn the_example_of_the_handbook_is_understood() {
    let title = "split GPU node1/0000:41:00.0 into 4 partitions";
    let running = Applied { operations: vec![operation(title, Running, &[], &[])], findings: Vec::new() };
    let daemon = Daemon::new()
        .answers("POST /v1/apply", &running)
        .answers(AWAIT_OPERATION, &operation(title, Succeeded, &[], &[]));
    let file = daemon.dir().join("site.yaml");
    fs::write(&file, EXAMPLE).unwrap();
    check(
        &daemon,
        &["apply", "-f", file.to_str().unwrap()],
        expect![[r#"
        split GPU node1/0000:41:00.0 into 4 partitions: succeeded
        exit 0
    "#]],
    );
    let asked = daemon.asked();
    let body: serde_json::Value =
        serde_json::from_str(asked[0].strip_prefix("POST /v1/apply ").unwrap()).unwrap();
    expect![[r#"
        {
          "gpus": [
            {
              "address": "0000:41:00.0",
              "mode": {
                "count": 4,
                "mode": "partitioned"
              }
            },
            {
              "address": "0000:81:00.0",
              "host": "node1",
              "mode": {
                "allow_console": false,
                "mode": "passthrough"
              }
            }
          ],
          "policy": {
            "placement": "pack"
          },
          "rules": {
            "apart": {
              "kind": "apart",
              "rule": "vms",
              "strict": false,
              "vms": [
                "desk-01",
                "train-01"
              ]
            }
          },
          "vms": [
            {
              "gpu": {
                "kind": "partition"
              },
              "hardware": {
                "disks": [
                  {
                    "pool": "default",
                    "volume": "desk-01.qcow2"
                  }
                ],
                "firmware": "uefi",
                "guest_os": "ubuntu22.04",
                "memory_mib": 8192,
                "networks": [
                  "default"
                ],
                "vcpus": 4
              },
              "name": "desk-01",
              "running": true
            },
            {
              "gpu": {
                "kind": "partition",
                "vram_mib": 4096
              },
              "name": "cad-01",
              "reserved": true
            },
            {
              "gpu": {
                "gpus": 1,
                "kind": "whole"
              },
              "hardware": {
                "disks": [
                  {
                    "pool": "ssd",
                    "volume": "train-01"
                  }
                ],
                "firmware": "uefi",
                "memory_mib": 65536,
                "networks": [],
                "vcpus": 16
              },
              "name": "train-01",
              "running": false
            }
          ]
        }
    "#]]
    .assert_eq(&format!("{body:#}\n"));
}

#[test]
fn a_difference_is_told_by_the_exit_code() {
    let same = Preview { changes: Vec::new(), effect: nothing(), version: None };
    let daemon = Daemon::new().answers("POST /v1/diff", &same);
    let file = daemon.dir().join("site.yaml");
    fs::write(&file, "{}").unwrap();
    check(
        &daemon,
        &["diff", "-f", file.to_str().unwrap()],
        expect![[r#"
        Everything is as asked for; nothing would change.
        exit 0
    "#]],
    );
    let differs = Preview { changes: vec!["start VM desk-01".to_owned()], effect: nothing(), version: None };
    let daemon = Daemon::new().answers("POST /v1/diff", &differs);
    check(
        &daemon,
        &["diff", "-f", file.to_str().unwrap()],
        expect![[r#"
        Nothing was changed. It would:
          start VM desk-01

        No VM would be touched.

        No host has anything to do at once.
        exit 6
    "#]],
    );
}

#[test]
fn a_declaration_comes_from_standard_input_too() {
    let same = Applied { operations: Vec::new(), findings: Vec::new() };
    let daemon = Daemon::new().answers("POST /v1/apply", &same);
    // Standard input is empty here: an empty declaration asks for nothing.
    check(
        &daemon,
        &["apply", "-f", "-"],
        expect![[r#"
        Everything is as declared.
        exit 0
    "#]],
    );
}

#[test]
fn a_file_prunes_when_it_or_the_command_line_says_so_and_not_else() {
    for (text, flags, asked) in [
        ("gpus: []\n", &[][..], r#"POST /v1/diff {"gpus":[],"vms":[]}"#),
        ("gpus: []\n", &["--prune"], r#"POST /v1/diff {"gpus":[],"vms":[],"prune":true}"#),
        ("prune: true\n", &[], r#"POST /v1/diff {"gpus":[],"vms":[],"prune":true}"#),
    ] {
        let preview = Preview { changes: Vec::new(), effect: nothing(), version: None };
        let daemon = Daemon::new().answers("POST /v1/diff", &preview);
        let file = daemon.dir().join("site.yaml");
        fs::write(&file, text).unwrap();
        run(&daemon, &[&["diff", "-f", file.to_str().unwrap()], flags].concat());
        assert_eq!(daemon.asked(), [asked]);
    }
}

#[test]
fn an_unknown_field_is_refused_with_its_place() {
    refuses(
        b"gpus: []\nvmz: []\n",
        expect![[r#"
            ! error: The declaration in site.yaml is not valid: unknown field `vmz`, expected one of policy, gpus, vms, rules, prune at line 2, column 1 [invalid_request]
            !   hint: The fields and an example are in declarative.md of the documentation.
            exit 3
        "#]],
    );
    refuses(
        b"gpus:\n- address: \"0000:41:00.0\"\n  mode: {mode: host, count: 4}\n",
        expect![[r#"
        ! error: The declaration in site.yaml is not valid: mode host takes no field count at line 3, column 9 [invalid_request]
        !   hint: The fields and an example are in declarative.md of the documentation.
        exit 3
    "#]],
    );
}

#[test]
fn a_repeated_key_is_refused() {
    refuses(
        b"gpus: []\ngpus: []\n",
        expect![[r#"
        ! error: The declaration in site.yaml is not valid: duplicate mapping key `gpus` is not allowed here at line 2, column 1 [invalid_request]
        !   hint: The fields and an example are in declarative.md of the documentation.
        exit 3
    "#]],
    );
}

#[test]
fn what_is_no_yaml_is_refused() {
    refuses(
        b"gpus: [\n",
        expect![[r#"
        ! error: The declaration in site.yaml is not valid: unclosed bracket '[' at line 1, column 7 [invalid_request]
        !   hint: The fields and an example are in declarative.md of the documentation.
        exit 3
    "#]],
    );
    refuses(
        b"\xff\xfe\x00",
        expect![[r#"
        ! error: The declaration in site.yaml is not valid: YAML parser input is not valid UTF-8 [invalid_request]
        !   hint: The fields and an example are in declarative.md of the documentation.
        exit 3
    "#]],
    );
}

#[test]
fn names_with_path_or_xml_characters_are_refused() {
    refuses(
        b"vms:\n- name: ../../etc\n",
        expect![[r#"
        ! error: The declaration in site.yaml is not valid: "../../etc" is not a valid VM name: 1 to 63 letters, digits, '.', '_' and '-', starting with a letter or a digit at line 2, column 9 [invalid_request]
        !   hint: The fields and an example are in declarative.md of the documentation.
        exit 3
    "#]],
    );
    refuses(
        b"vms:\n- name: <domain>\n",
        expect![[r#"
        ! error: The declaration in site.yaml is not valid: "<domain>" is not a valid VM name: 1 to 63 letters, digits, '.', '_' and '-', starting with a letter or a digit at line 2, column 9 [invalid_request]
        !   hint: The fields and an example are in declarative.md of the documentation.
        exit 3
    "#]],
    );
}

#[test]
fn a_file_that_is_too_large_or_explodes_is_refused() {
    refuses(
        "#\n".repeat(600_000).as_bytes(),
        expect![[r#"
        ! error: The declaration in site.yaml is longer than 1048576 bytes. [invalid_request]
        !   hint: Split it: what a declaration does not name is left alone.
        exit 3
    "#]],
    );
    refuses(
        "[".repeat(100_000).as_bytes(),
        expect![[r#"
        ! error: The declaration in site.yaml is not valid: recursion limit exceeded at line 1, column 256 [invalid_request]
        !   hint: The fields and an example are in declarative.md of the documentation.
        exit 3
    "#]],
    );
    let hardware = "vcpus: 1, memory_mib: 64, networks";
    let bomb = format!(
        "vms: [{{name: a, hardware: {{{hardware}: [&a {}{}]}}}}]",
        "x".repeat(100_000),
        ", *a".repeat(900)
    );
    refuses(
        bomb.as_bytes(),
        expect![[r#"
        ! error: The declaration in site.yaml is not valid: YAML document too large or too complex: limits breached: ScalarBytes { total_scalar_bytes: 1100042 } (defined at line 1, column 68) (used at line 1, column 100106) [invalid_request]
        !   hint: The fields and an example are in declarative.md of the documentation.
        exit 3
    "#]],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let daemon = Daemon::new();
    check(
        &daemon,
        &["apply", "-f", "/nonexistent/site.yaml"],
        expect![[r#"
        ! error: The declaration in /nonexistent/site.yaml cannot be read: No such file or directory (os error 2) [invalid_request]
        !   hint: Check the path and its permissions.
        exit 3
    "#]],
    );
}
