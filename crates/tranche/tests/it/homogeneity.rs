//! Whether GPUs are alike, shown; and one mode for all of a set, asked for.

use std::collections::BTreeMap;

use expect_test::expect;
use tranche_api::answer::Preview;
use tranche_core::effect::{Effect, GpuEffect, VmEffect};
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::homogeneity::{
    Attribute, AttributeReport, Grade, Mend, Report, SetName, SetReport, ValueReport,
};
use tranche_core::name::GpuKey;
use tranche_core::operation::OperationState::Succeeded;
use tranche_core::spec::{GpuMode, Homogeneity};
use uuid::Uuid;

use crate::daemon::Daemon;
use crate::fixtures::{a2, accepted, igb, operation};
use crate::{check, run};

fn key(host: u8) -> GpuKey {
    format!("node{host}/0000:41:00.0").parse().unwrap()
}

fn alike(attribute: Attribute, value: &str) -> AttributeReport {
    let value = ValueReport { value: value.to_owned(), usual: true, number: 3, hosts: 3, gpus: Vec::new() };
    AttributeReport {
        attribute,
        grade: None,
        breaks: Vec::new(),
        follows_from: None,
        tie: false,
        values: vec![value],
        unknown: 0,
        mends: Vec::new(),
    }
}

fn unlike(attribute: Attribute, values: [&str; 2], mend: Mend) -> AttributeReport {
    let value = |value: &str, gpus: Vec<GpuKey>, number| ValueReport {
        value: value.to_owned(),
        usual: gpus.is_empty(),
        number,
        hosts: number,
        gpus,
    };
    let only_migration = attribute.breaks().len() == 1;
    AttributeReport {
        grade: Some(if only_migration { Grade::Slight } else { Grade::Severe }),
        breaks: attribute.breaks().to_vec(),
        values: vec![value(values[0], Vec::new(), 2), value(values[1], vec![mend.gpu.clone()], 1)],
        mends: vec![mend],
        ..alike(attribute, "")
    }
}

fn report() -> Report {
    let split = Mend {
        gpu: key(3),
        text: "Split GPU node3/0000:41:00.0 as the others are.".to_owned(),
        command: Some("tranche gpu partition node3/0000:41:00.0 --count 4 --drain".to_owned()),
    };
    let install = Mend {
        gpu: key(2),
        text: "Install driver nvidia 570.133.10 on host node2.".to_owned(),
        command: None,
    };
    let set = SetReport {
        set: SetName::Partitions,
        gpus: vec![key(1), key(2), key(3)],
        in_use: 3,
        attributes: vec![
            alike(Attribute::Vendor, "10de"),
            alike(Attribute::Device, "10de:25b6"),
            alike(Attribute::Memory, "16384 MiB"),
            unlike(Attribute::Count, ["4", "8"], split),
            unlike(Attribute::Driver, ["nvidia 570.133.10", "nvidia 550.54.16"], install),
            AttributeReport { values: Vec::new(), unknown: 3, ..alike(Attribute::Ecc, "") },
        ],
    };
    Report { policy: Homogeneity::Warn, homogeneous: false, sets: vec![set] }
}

#[test]
fn what_differs_is_shown_with_what_it_breaks_and_what_mends_it() {
    let daemon = Daemon::new().answers("GET /v1/homogeneity", &report());
    check(
        &daemon,
        &["cluster", "homogeneity"],
        expect![[r#"
        The set of the GPUs that are split: 3, of which 3 serve VMs
        ATTRIBUTE        DIFFERENCE  BREAKS                    VALUES
        vendor           none        -                         10de
        model            none        -                         10de:25b6
        video memory     none        -                         16384 MiB
        partition count  severe      failover, live migration  4 on 2; 8 on node3/0000:41:00.0
        driver version   slight      live migration            nvidia 570.133.10 on 2; nvidia 550.54.16 on node2/0000:41:00.0
        ECC              not known   -                         -

        What mends it:
          Split GPU node3/0000:41:00.0 as the others are.
            tranche gpu partition node3/0000:41:00.0 --count 4 --drain
          Install driver nvidia 570.133.10 on host node2.

        The GPUs that serve VMs are not alike.
        exit 6
    "#]],
    );
    let as_json = run(&daemon, &["cluster", "homogeneity", "-o", "json"]);
    assert!(as_json.contains(r#""attribute": "count""#) && as_json.ends_with("exit 6\n"), "{as_json}");
    let nothing = Report { sets: Vec::new(), homogeneous: true, ..report() };
    let daemon = Daemon::new().answers("GET /v1/homogeneity", &nothing);
    check(
        &daemon,
        &["cluster", "homogeneity"],
        expect![[r#"
        No GPU is split or passed through, and none can be split.
        exit 0
    "#]],
    );
}

#[test]
fn one_mode_for_all_gpus_of_a_set_is_asked_for_in_one_request() {
    let asks = |args: &[&str], expected: &str| {
        let daemon = Daemon::new()
            .answers("GET /v1/gpus", &[igb(), a2()])
            .answers("PUT /v1/gpus/mode", &accepted(operation("do it", Succeeded, &[], &[])));
        assert_eq!(run(&daemon, args), "do it: done\nexit 0\n");
        let asked = daemon.asked();
        assert_eq!(asked.last().map(String::as_str), Some(format!("PUT /v1/gpus/mode {expected}").as_str()));
    };
    let mode = r#""mode":{"mode":"partitioned","count":4}"#;
    asks(&["gpu", "partition", "--all", "--count", "4"], &format!(r#"{{"selection":{{}},{mode}}}"#));
    asks(
        &[
            "gpu",
            "partition",
            "--count",
            "4",
            "--gpu",
            "01:00.0",
            "--gpu",
            "node2/0000:41:00.0",
            "--drain",
            "--yes",
        ],
        &format!(
            r#"{{"selection":{{"gpus":["node1/0000:01:00.0","node2/0000:41:00.0"]}},{mode},"drain":true}}"#
        ),
    );
    let version = "018f0000-0000-7000-8000-000000000001";
    asks(
        &["gpu", "partition", "--like", "01:00.0", "--count", "4", "--version", version],
        &format!(r#"{{"selection":{{"like":"node1/0000:01:00.0"}},{mode},"version":"{version}"}}"#),
    );
    asks(&["gpu", "release", "--all"], r#"{"selection":{},"mode":{"mode":"host"}}"#);
}

#[test]
fn a_command_about_all_gpus_names_none() {
    for wrong in [
        &["gpu", "partition", "01:00.0", "4", "--all"][..],
        &["gpu", "partition", "01:00.0", "4", "--count", "4"],
        &["gpu", "partition", "--all"],
        &["gpu", "partition", "--all", "--sizes", "8Q,8Q"],
        &["gpu", "partition", "01:00.0", "4", "--version", "018f0000-0000-7000-8000-000000000001"],
        &["gpu", "partition", "--count", "4"],
        &["gpu", "release"],
        &["gpu", "release", "01:00.0", "--all"],
    ] {
        let output = run(&Daemon::new(), wrong);
        assert!(output.ends_with("exit 2\n"), "{wrong:?}: {output}");
    }
}

/// What splitting two GPUs anew would do, while these VMs hold the first.
fn preview_of(vms: &[&str]) -> Preview {
    let gpu = |vms: &[&str]| GpuEffect {
        from: GpuMode::Partitioned { count: 4, series: None },
        to: GpuMode::Partitioned { count: 2, series: None },
        vms: vms.iter().map(|vm| vm.parse().unwrap()).collect(),
    };
    let interrupts = Finding {
        code: Code::SetChange,
        severity: Severity::Warning,
        subject: Subject::Installation,
        message: "This changes 2 GPUs on 2 hosts at once, which interrupts VM desk-01.".to_owned(),
        hint: "'--dry-run' shows what becomes of each GPU and VM, and a version; '--version' applies exactly that."
            .to_owned(),
    };
    Preview {
        changes: vec!["split 2 GPUs into 2 partitions each".to_owned()],
        effect: Effect {
            gpus: BTreeMap::from([(key(1), gpu(vms)), (key(2), gpu(&[]))]),
            vms: BTreeMap::from([("desk-01".parse().unwrap(), VmEffect::Restarts)]),
            homes: BTreeMap::new(),
            steps: Vec::new(),
            findings: vec![interrupts],
        },
        version: Some(Uuid::from_u128(0x0123_4567_89ab_5def_8123_4567_89ab_cdef)),
    }
}

#[test]
fn vms_are_not_interrupted_all_at_once_unless_somebody_agrees() {
    let args = ["gpu", "partition", "--all", "--count", "2", "--drain"];
    let done = accepted(operation("do it", Succeeded, &[], &[]));
    let daemon = |vms: &[&str]| {
        Daemon::new()
            .answers("PUT /v1/gpus/mode?dry_run=true", &preview_of(vms))
            .answers("PUT /v1/gpus/mode", &done)
    };
    let nobody = daemon(&["desk-01"]);
    check(
        &nobody,
        &args,
        expect![[r#"
            ! error: This interrupts VM desk-01, and nobody is there to agree to it.
            !   hint: Look at it with --dry-run, and apply exactly that with --version; or say --yes.
            exit 3
        "#]],
    );
    assert_eq!(nobody.asked().len(), 1, "it was only looked at");
    let idle = daemon(&[]);
    assert_eq!(run(&idle, &args), "do it: done\nexit 0\n");
    let asked = idle.asked();
    let last = asked.last().expect("it was asked for");
    assert!(
        last.contains(r#""version":"01234567-89ab-5def-8123-456789abcdef""#),
        "what was looked at: {last}"
    );
    let agreed = daemon(&["desk-01"]);
    assert_eq!(run(&agreed, &[&args[..], &["--yes"]].concat()), "do it: done\nexit 0\n");
    assert_eq!(agreed.asked().len(), 1);
}

#[test]
fn the_preview_for_all_gpus_shows_each_and_the_version_to_apply() {
    let daemon = Daemon::new().answers("PUT /v1/gpus/mode?dry_run=true", &preview_of(&["desk-01"]));
    let args = ["gpu", "partition", "--all", "--count", "2", "--drain", "--dry-run"];
    check(
        &daemon,
        &args,
        expect![[r#"
        Nothing was changed. It would:
          split 2 GPUs into 2 partitions each

        GPU                 NOW                      THEN                     VMS
        node1/0000:41:00.0  split into 4 partitions  split into 2 partitions  desk-01
        node2/0000:41:00.0  split into 4 partitions  split into 2 partitions  -

        VM       EFFECT
        desk-01  shuts down and starts again

        No host has anything to do at once.

        warning: This changes 2 GPUs on 2 hosts at once, which interrupts VM desk-01. [set_change]
          hint: '--dry-run' shows what becomes of each GPU and VM, and a version; '--version' applies exactly that.

        To do exactly this: the same command with --version 01234567-89ab-5def-8123-456789abcdef instead of --dry-run
        exit 0
    "#]],
    );
}
