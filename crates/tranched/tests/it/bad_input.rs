//! Bad input: each is refused with a code and a hint, and changes nothing.

use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tranche_core::change::Change;
use tranche_core::name::Timestamp;
use tranche_core::spec::HostSpec;
use tranche_host::fake::Machine;

use crate::served::{Answer, Served};
use crate::stories::{GPU, ended, new_vm, split, with_vms};

/// What was refused, with its status and its code.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.problem(), (status, code.to_owned()), "{}", answer.text);
}

async fn mode(served: &Served, body: &str) -> Answer {
    served.send(Method::PUT, &format!("{GPU}/mode"), Some(Bytes::from(body.to_owned()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_the_one_asked_for_is_refused_with_the_place() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let before = served.engine.view();
    for (body, status, words) in [
        (r#"{"mode": "partitioned", "count": 4"#, 400, "EOF"),
        (r#"{"mode": "partitioned", "count": 4} x"#, 400, "trailing"),
        ("\u{0}", 400, "line 1 column 1"),
        ("[]", 422, "body"),
        ("{}", 422, "mode"),
        (r#"{"mode": "partitioned", "count": 4, "count": 2}"#, 422, "count"),
        (r#"{"mode": "host", "mode": "host"}"#, 422, "mode"),
        (r#"{"mode": "partitioned", "count": 4, "colour": 1}"#, 422, "colour"),
        (r#"{"mode": "host", "count": 4}"#, 422, "count"),
        (r#"{"mode": "partitioned", "count": 70000}"#, 422, "70000"),
        (r#"{"mode": "partitioned", "count": -1}"#, 422, "-1"),
        (r#"{"mode": "halved"}"#, 422, "halved"),
    ] {
        let answer = mode(&served, body).await;
        refused(&answer, status, "invalid_request");
        assert!(answer.json()["detail"].as_str().unwrap().contains(words), "{body}: {}", answer.text);
    }
    let deep = format!("{{\"mode\": {}", "[".repeat(100_000));
    refused(&mode(&served, &deep).await, 400, "invalid_request");
    let body = Some(Bytes::from_static(&[b'"', 0xff, 0xfe, b'"']));
    refused(&served.send(Method::PUT, &format!("{GPU}/mode"), body).await, 400, "invalid_request");
    let mut vm = new_vm("a");
    vm["hardware"]["memory_mb"] = json!(4);
    let answer = served.post("/v1/vms", &vm).await;
    refused(&answer, 422, "invalid_request");
    assert_eq!(answer.json()["subject"], json!({"kind": "input", "name": "hardware.memory_mb"}));
    let after = served.engine.view();
    assert_eq!((&before.spec, &before.operations), (&after.spec, &after.operations));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_ten_megabytes_is_refused_and_its_sender_gets_to_know() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let body = json!({"name": "a", "padding": "x".repeat(10 * 1024 * 1024)}).to_string();
    let answer = served.send(Method::POST, "/v1/vms", Some(body.into())).await;
    refused(&answer, 413, "invalid_request");
    assert_eq!(served.get("/healthz").await.json()["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http_itself_refuses_is_a_problem_too() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    refused(&served.get("/v2/gpus").await, 404, "invalid_request");
    refused(&served.get("/v1/gpus/").await, 404, "invalid_request");
    let answer = served.send(Method::PATCH, "/v1/gpus", None).await;
    refused(&answer, 405, "invalid_request");
    assert!(answer.headers["allow"].to_str().unwrap().contains("GET"));
    let form = served.send_as(
        Method::POST,
        "/v1/vms",
        Some("name=a".into()),
        Some("application/x-www-form-urlencoded"),
    );
    refused(&form.await, 415, "invalid_request");
    refused(&served.get("/v1/vms?state=running").await, 422, "invalid_request");
    refused(&served.post("/v1/vms?dry_run=maybe", &new_vm("a")).await, 422, "invalid_request");
    refused(&served.post("/v1/vms?dry_run=true&dry_run=false", &new_vm("a")).await, 422, "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_path_or_xml_in_it_is_refused_wherever_it_comes_in() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let long = "x".repeat(64);
    for name in [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "a/b",
        "a<b",
        "</name>",
        "a&amp;b",
        "a'b",
        "a b",
        "a\nb",
        "é",
        "-rf",
        &long,
    ] {
        let answer = served.post("/v1/vms", &new_vm(name)).await;
        refused(&answer, 422, "invalid_name");
        let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        if !name.is_empty() {
            refused(&served.get(&format!("/v1/vms/{escaped}")).await, 422, "invalid_name");
            refused(&served.post(&format!("/v1/vms/{escaped}/start"), &json!({})).await, 422, "invalid_name");
            refused(&served.get(&format!("/v1/why-not/{escaped}/node1")).await, 422, "invalid_name");
            refused(&served.get(&format!("/v1/hosts/{escaped}")).await, 422, "invalid_name");
            refused(&served.get(&format!("/v1/gpus/node1/{escaped}")).await, 422, "invalid_name");
        }
    }
    refused(&served.get("/v1/vms/%ff%fe").await, 400, "invalid_request");
    refused(&served.get("/v1/operations/7").await, 422, "invalid_name");
    assert!(served.engine.view().spec.vms.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_not_found_by_its_own_code() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    refused(&served.get("/v1/hosts/node9").await, 404, "host_not_found");
    refused(&served.get("/v1/gpus/node9/0000:10:00.0").await, 404, "host_not_found");
    let wish = HostSpec::new(Timestamp(1));
    let joins = Change::JoinHost { host: "node8".parse().unwrap(), wish };
    served.engine.submit(&joins, false, Timestamp(1)).unwrap();
    for path in ["/v1/hosts/node8", "/v1/gpus/node8/0000:10:00.0", "/v1/capacity?without=node8"] {
        refused(&served.get(path).await, 503, "host_silent");
    }
    refused(&served.put("/v1/gpus/node8/0000:10:00.0/mode", &split(2)).await, 503, "host_silent");
    refused(&served.get("/v1/gpus/node1/0000:99:00.0").await, 404, "gpu_not_found");
    refused(&served.put("/v1/gpus/node1/0000:99:00.0/mode", &split(2)).await, 404, "gpu_not_found");
    refused(&served.get("/v1/vms/ghost").await, 404, "vm_not_found");
    for verb in ["start", "stop", "restart", "attach", "detach"] {
        refused(&served.post(&format!("/v1/vms/ghost/{verb}"), &json!({})).await, 404, "vm_not_found");
    }
    refused(&served.send(Method::DELETE, "/v1/vms/ghost", None).await, 404, "vm_not_found");
    refused(&served.post("/v1/vms/ghost/adopt", &json!({})).await, 404, "domain_not_found");
    refused(&served.get("/v1/why-not/ghost/node1").await, 404, "vm_not_found");
    refused(&served.get("/v1/vms/ghost/destinations").await, 404, "vm_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_the_driver_does_not_offer_is_refused_with_those_that_it_does() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    for count in [0, 9, 65535] {
        let answer = served.put(&format!("{GPU}/mode"), &split(count)).await;
        refused(&answer, 422, "invalid_partition_count");
        assert!(
            answer.json()["hint"].as_str().unwrap().contains("1, 2, 3, 4, 5, 6, 7, 8"),
            "{}",
            answer.text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_keeps_its_mode_while_a_vm_holds_a_partition_of_it() {
    let served = with_vms(2, &["a"]).await;
    ended(&served, &served.post("/v1/vms/a/start", &json!({})).await).await;
    for mode in [split(4), json!({"mode": "host"})] {
        let answer = served.put(&format!("{GPU}/mode"), &mode).await;
        refused(&answer, 409, "partitions_in_use");
        assert!(answer.json()["detail"].as_str().unwrap().contains("VM a"), "{}", answer.text);
    }
    assert_eq!(served.get(GPU).await.json()["count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_partitioned_or_passed_through_and_never_both() {
    let served = with_vms(2, &["a"]).await;
    let (mode, whole) = (format!("{GPU}/mode"), json!({"mode": "passthrough"}));
    ended(&served, &served.post("/v1/vms/a/start", &json!({})).await).await;
    refused(&served.put(&mode, &whole).await, 409, "mode_conflict");
    ended(&served, &served.post("/v1/vms/a/stop", &json!({"force": true})).await).await;
    ended(&served, &served.put(&mode, &whole).await).await;
    assert_eq!(served.get(GPU).await.json()["status"], "ready_for_passthrough");

    let mut desktop = new_vm("b");
    desktop["request"] = json!({"kind": "whole", "gpus": 1});
    ended(&served, &served.post("/v1/vms", &desktop).await).await;
    ended(&served, &served.post("/v1/vms/b/start", &json!({})).await).await;
    refused(&served.put(&mode, &split(2)).await, 409, "mode_conflict");
    ended(&served, &served.post("/v1/vms/b/stop", &json!({"force": true})).await).await;
    ended(&served, &served.put(&mode, &split(2)).await).await;
    assert_eq!(served.get(GPU).await.json()["mode"]["count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_refused_a_second_partition_and_a_second_life() {
    let served = with_vms(2, &["a"]).await;
    let whole = json!({"request": {"kind": "whole", "gpus": 1}});
    refused(&served.post("/v1/vms/a/attach", &whole).await, 409, "vm_has_partition");
    refused(&served.post("/v1/vms", &new_vm("a")).await, 409, "vm_exists");
    refused(&served.post("/v1/vms/a/adopt", &json!({})).await, 409, "vm_exists");
    refused(&served.post("/v1/vms/a/stop", &json!({"forced": true})).await, 422, "invalid_request");
    ended(&served, &served.post("/v1/vms/a/start", &json!({})).await).await;
    refused(&served.post("/v1/vms/a/detach", &json!({})).await, 409, "vm_running");
    refused(&served.send(Method::DELETE, "/v1/vms/a", None).await, 409, "vm_running");
}

#[tokio::test(flavor = "multi_thread")]
async fn hardware_that_no_vm_can_have_is_refused() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    for (field, value) in [
        ("vcpus", json!(0)),
        ("memory_mib", json!(0)),
        ("cloud_init", json!("x".repeat(64 * 1024 + 1))),
        ("disks", json!(vec![json!({"pool": "p", "volume": "v"}); 17])),
        ("disks", json!([{"pool": "../p", "volume": "v"}])),
    ] {
        let mut vm = new_vm("a");
        vm["hardware"][field] = value;
        let (status, code) = served.post("/v1/vms", &vm).await.problem();
        assert_eq!(status, 422, "{field}");
        assert!(["invalid_value", "invalid_name"].contains(&code.as_str()), "{field}: {code}");
    }
    assert!(served.engine.view().spec.vms.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_iommu_nothing_is_partitioned() {
    let served = Served::start(Machine { iommu: false, ..Machine::gpus(1, 8) }).await;
    refused(&served.put(&format!("{GPU}/mode"), &split(2)).await, 409, "iommu_off");
    assert_eq!(served.get(GPU).await.json()["status"], "not_assignable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_without_sriov_or_without_its_driver_is_not_partitioned() {
    let mut machine = Machine::gpus(2, 8);
    machine.functions[0].sriov = None;
    let served = Served::start(machine).await;
    refused(&served.put(&format!("{GPU}/mode"), &split(2)).await, 409, "not_partitionable");
    let mut machine = Machine::gpus(1, 8);
    machine.drivers.clear();
    let served = Served::start(machine).await;
    refused(&served.put(&format!("{GPU}/mode"), &split(2)).await, 409, "driver_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_with_one_wrong_part_changes_nothing_at_all() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let declare = |gpus: Value| json!({"policy": {"placement": "spread"}, "gpus": gpus});
    let good = json!({"address": "0000:10:00.0", "mode": split(2)});
    let bad = json!({"address": "0000:10:00.0", "mode": split(99)});
    refused(&served.post("/v1/apply", &declare(json!([bad]))).await, 422, "invalid_partition_count");
    refused(&served.post("/v1/apply", &declare(json!([good, good]))).await, 422, "invalid_value");
    refused(&served.post("/v1/apply", &json!({"gpu": []})).await, 422, "invalid_request");
    let view = served.engine.view();
    assert!(view.spec.gpus.is_empty() && view.operations.is_empty());
    assert_eq!(served.get("/v1/policy").await.json(), json!({"placement": "pack"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_vms_are_checked_wherever_they_come_in() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let labelled = |labels: Value| {
        let mut vm = new_vm("a");
        vm["labels"] = labels;
        vm
    };
    let long = "x".repeat(64);
    for bad in ["", "<script>", "a b", "a/b", "é", "-a", "a=b", "a\nb", long.as_str()] {
        for labels in [json!({ bad: "red" }), json!({ "team": bad })] {
            refused(&served.post("/v1/vms", &labelled(labels)).await, 422, "invalid_request");
        }
        let escaped: String = bad.bytes().map(|byte| format!("%{byte:02X}")).collect();
        refused(&served.get(&format!("/v1/vms?label=team={escaped}")).await, 422, "invalid_name");
    }
    for labels in [json!(["team=red"]), json!({ "team": 1 }), json!({ "team": null }), json!("team=red")] {
        refused(&served.post("/v1/vms", &labelled(labels)).await, 422, "invalid_request");
    }
    let many: Value =
        (0..33).map(|number| (format!("k{number}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    refused(&served.post("/v1/vms", &labelled(many)).await, 422, "invalid_value");
    refused(&served.get("/v1/vms?label=team").await, 422, "invalid_name");
    assert!(served.engine.view().spec.vms.is_empty());
}
