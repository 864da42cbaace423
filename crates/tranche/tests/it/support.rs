//! Support bundles: what is in them, and that no secret is.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use expect_test::expect;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::{command, run_bare};

/// What must be in no bundle.
const SECRET: &str = "S3CRET";

/// A daemon whose answers have secrets where none should be, and where some may be.
fn daemon() -> Daemon {
    let mut daemon = Daemon::new();
    let lists = ["hosts", "gpus", "partitions", "findings", "operations", "rules"];
    for path in lists {
        daemon =
            daemon.answers(&format!("GET /v1/{path}"), &json!([{"name": path, "note": "password=S3CRET"}]));
    }
    for path in ["doctor", "policy", "homogeneity", "capacity", "cluster"] {
        daemon = daemon.answers(&format!("GET /v1/{path}"), &json!({"name": path, "token": SECRET}));
    }
    let vm = json!([{"hardware": {"cloud_init": SECRET, "vcpus": 4}, "name": "desk-01"}]);
    daemon
        .answers("GET /v1/vms", &vm)
        .answers("GET /healthz", &json!({"status": "ok", "version": "0.1.0", "pass_age_ms": 3}))
        .answers_raw("GET /metrics", 200, b"tranche_leads 1\n# EOF\n")
}

/// Programs that say what those of a real machine might.
fn programs(dir: &Path) {
    let scripts = [
        ("journalctl", "echo \"$@\"; echo 'tranched: password=S3CRET host=node1'"),
        ("lspci", "echo '01:00.0 VGA [0300]'"),
        ("dmesg", "echo 'dmesg: read kernel buffer failed: Operation not permitted' >&2; exit 1"),
        ("systemctl", "echo 'tranched.service: active'"),
    ];
    for (name, script) in scripts {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Runs it with nothing of the tester's own machine but its kernel and its devices.
fn bundle(socket: &Path, dir: &Path, more: &[&str]) -> std::process::Output {
    programs(dir);
    fs::write(dir.join("tranched.toml"), "host = \"node1\"\npassword = \"S3CRET\"\n").unwrap();
    let settings = dir.join("tranched.toml");
    let args =
        ["--socket", socket.to_str().unwrap(), "support-bundle", "--settings", settings.to_str().unwrap()];
    command(&[&args, more].concat()).current_dir(dir).env("PATH", dir).output().unwrap()
}

fn files(archive: &Path) -> BTreeMap<String, String> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(archive).unwrap()));
    let mut files = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let (_, name) = path.split_once('/').expect("it is in a directory");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        if !name.is_empty() {
            files.insert(name.to_owned(), text);
        }
    }
    files
}

#[test]
fn a_bundle_has_what_can_be_had_and_says_what_not_and_no_secret_is_in_it() {
    let daemon = daemon();
    let dir = tempfile::tempdir().unwrap();
    let output = bundle(&daemon.socket(), dir.path(), &["case.tar.gz"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "case.tar.gz\n");
    let archive = dir.path().join("case.tar.gz");
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let files = files(&archive);
    for (name, text) in &files {
        assert!(!text.contains(SECRET), "{name}: {text}");
    }
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    expect![[r#"
        healthz.json
        inspect.json
        journal.txt
        lspci.txt
        manifest.json
        metrics.txt
        rest/capacity.json
        rest/cluster.json
        rest/doctor.json
        rest/findings.json
        rest/gpus.json
        rest/homogeneity.json
        rest/hosts.json
        rest/operations.json
        rest/partitions.json
        rest/policy.json
        rest/rules.json
        rest/vms.json
        systemd.txt
        tranched.toml
        uname.txt
    "#]]
    .assert_eq(&(names.join("\n") + "\n"));
    expect![[r#"
        -u tranched -u tranche-etcd --since -24h --no-pager -o short-iso
        tranched: password=(hidden) host=node1
    "#]]
    .assert_eq(&files["journal.txt"]);
    expect![[r#"
        [
          {
            "hardware": {
              "cloud_init": "(hidden)",
              "vcpus": 4
            },
            "name": "desk-01"
          }
        ]
    "#]]
    .assert_eq(&files["rest/vms.json"]);
    expect![[r#"
        host = "node1"
        password = "(hidden)"
    "#]]
    .assert_eq(&files["tranched.toml"]);
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).unwrap();
    let told: Vec<&str> =
        manifest["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(told.len(), files.len() - 1, "each but the manifest itself: {told:?}");
    expect![[r#"
        [
          {
            "name": "dmesg.txt",
            "source": "dmesg",
            "why": "exit status: 1; dmesg: read kernel buffer failed: Operation not permitted"
          },
          {
            "name": "packages.txt",
            "source": "dpkg-query -W tranche etcd-server libvirt-daemon-system qemu-system-x86 fence-agents*",
            "why": "there is no program dpkg-query"
          }
        ]
    "#]]
    .assert_eq(&(serde_json::to_string_pretty(&manifest["left_out"]).unwrap() + "\n"));
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(
        progress.contains("collect: /v1/vms\n") && progress.contains("left out: dmesg.txt: "),
        "{progress}"
    );
}

#[test]
fn without_a_daemon_there_is_a_bundle_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let output = bundle(&dir.path().join("none.sock"), dir.path(), &["-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = made["file"].as_str().unwrap();
    assert!(file.starts_with("tranche-support-") && file.ends_with("Z.tar.gz"), "{file}");
    let left_out = made["left_out"].as_array().unwrap();
    assert!(left_out.iter().any(|part| part["name"] == "rest/vms.json"), "{left_out:?}");
    let files = files(&dir.path().join(file));
    assert!(files.contains_key("inspect.json") && files.contains_key("journal.txt"));
}

#[test]
fn nothing_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("there");
    fs::write(&file, "mine").unwrap();
    let file = file.to_str().unwrap();
    let told = run_bare(&["--socket", "/nonexistent", "support-bundle", file]).replace(file, "FILE");
    expect![[r#"
        ! error: The file FILE cannot be written: entity already exists
        exit 1
    "#]]
    .assert_eq(&told);
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
}
