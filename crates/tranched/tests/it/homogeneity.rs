//! Whether GPUs are alike, and one mode for all of a set, by REST.

use serde_json::{Value, json};
use tranche_core::operation::{Operation, OperationState};
use tranche_host::fake::Machine;

use crate::served::Served;
use crate::stories::{GPU, ended, new_vm, split};

#[track_caller]
fn succeeded(operation: &Operation) {
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:#?}");
}

async fn counts(served: &Served) -> Vec<Value> {
    let gpus = served.get("/v1/gpus").await.json();
    gpus.as_array().unwrap().iter().map(|gpu| gpu["total"].clone()).collect()
}

fn all(count: u16, more: &Value) -> Value {
    let mut wish = json!({"mode": split(count)});
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    wish
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_for_all_gpus_tells_a_version_and_exactly_that_is_applied() {
    let served = Served::start(Machine::gpus(3, 8)).await;
    let wish = all(4, &json!({}));
    let preview = served.put("/v1/gpus/mode?dry_run=true", &wish).await.json();
    assert_eq!(preview["effect"]["gpus"].as_object().unwrap().len(), 3, "{preview}");
    let version = preview["version"].clone();
    assert!(version.is_string(), "{preview}");
    assert_eq!(counts(&served).await, [0, 0, 0]);

    // Somebody else splits one in between.
    succeeded(&ended(&served, &served.put(&format!("{GPU}/mode"), &split(2)).await).await);
    let stale = served.put("/v1/gpus/mode", &all(4, &json!({"version": version}))).await;
    assert_eq!(stale.problem(), (409, "version_changed".to_owned()));
    assert_eq!(counts(&served).await, [2, 0, 0]);

    let again = served.put("/v1/gpus/mode?dry_run=true", &wish).await.json()["version"].clone();
    let exactly = served.put("/v1/gpus/mode", &all(4, &json!({"version": again}))).await;
    succeeded(&ended(&served, &exactly).await);
    assert_eq!(counts(&served).await, [4, 4, 4]);

    let released = served.put("/v1/gpus/mode", &json!({"mode": {"mode": "host"}})).await;
    succeeded(&ended(&served, &released).await);
    assert_eq!(counts(&served).await, [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_on_one_gpu_refuses_all_unless_it_is_drained() {
    let served = Served::start(Machine::gpus(2, 8)).await;
    succeeded(&ended(&served, &served.put("/v1/gpus/mode", &all(4, &json!({}))).await).await);
    succeeded(&ended(&served, &served.post("/v1/vms", &new_vm("a")).await).await);
    succeeded(&ended(&served, &served.post("/v1/vms/a/start", &json!({})).await).await);
    let refused = served.put("/v1/gpus/mode", &all(2, &json!({}))).await;
    assert_eq!(refused.problem(), (409, "partitions_in_use".to_owned()));
    assert_eq!(counts(&served).await, [4, 4]);
    let drained = served.put("/v1/gpus/mode", &all(2, &json!({"drain": true}))).await;
    assert_eq!(drained.json()["findings"][0]["code"], "set_change", "{}", drained.text);
    succeeded(&ended(&served, &drained).await);
    assert_eq!(counts(&served).await, [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_reported_found_by_doctor_and_under_strict_refused() {
    let served = Served::start(Machine::gpus(3, 8)).await;
    succeeded(&ended(&served, &served.put("/v1/gpus/mode", &all(4, &json!({}))).await).await);
    let report = served.get("/v1/homogeneity").await.json();
    assert_eq!((&report["homogeneous"], &report["policy"]), (&json!(true), &json!("warn")), "{report}");

    let warned = served.put(&format!("{GPU}/mode"), &split(2)).await;
    assert_eq!(warned.json()["findings"][0]["code"], "breaks_homogeneity", "{}", warned.text);
    succeeded(&ended(&served, &warned).await);
    let report = served.get("/v1/homogeneity").await.json();
    assert_eq!(report["homogeneous"], false, "{report}");
    let attributes = report["sets"][0]["attributes"].as_array().unwrap().clone();
    let count = attributes.iter().find(|part| part["attribute"] == "count").unwrap();
    let command = count["mends"][0]["command"].as_str().unwrap();
    assert!(command.starts_with("tranche gpu partition node1/0000:10:00.0 --count 4"), "{command}");
    let doctor = served.get("/v1/doctor").await.json();
    let codes: Vec<&Value> = doctor["findings"].as_array().unwrap().iter().map(|one| &one["code"]).collect();
    assert!(codes.contains(&&json!("unlike_count")), "{doctor}");

    succeeded(&ended(&served, &served.put("/v1/gpus/mode", &all(4, &json!({}))).await).await);
    let policy = json!({"placement": "pack", "homogeneity": "strict"});
    succeeded(&ended(&served, &served.put("/v1/policy", &policy).await).await);
    let refused = served.put(&format!("{GPU}/mode"), &split(2)).await;
    assert_eq!(refused.problem(), (409, "breaks_homogeneity".to_owned()));
    let declared = json!({"gpus": [{"host": "node1", "address": "0000:10:00.0", "mode": split(2)}]});
    assert_eq!(served.post("/v1/apply", &declared).await.problem(), (409, "breaks_homogeneity".to_owned()));
    succeeded(&ended(&served, &served.put("/v1/gpus/mode", &all(2, &json!({}))).await).await);
}
