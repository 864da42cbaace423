//! What people do by REST, from the first partition to the last VM.

use serde_json::{Value, json};
use tranche_core::finding::Code;
use tranche_core::inventory::{DomainState, HostInventory};
use tranche_core::operation::{Operation, OperationState};
use tranche_host::fake::Machine;

use crate::served::{Answer, Served};

/// The first GPU of the fake machines.
pub(crate) const GPU: &str = "/v1/gpus/node1/0000:10:00.0";

pub(crate) fn split(count: u16) -> Value {
    json!({"mode": "partitioned", "count": count})
}

pub(crate) fn new_vm(name: &str) -> Value {
    let hardware = json!({"vcpus": 1, "memory_mib": 128, "firmware": "bios"});
    json!({"name": name, "hardware": hardware, "request": {"kind": "partition"}})
}

/// Waits for the end of an accepted operation.
pub(crate) async fn ended(served: &Served, accepted: &Answer) -> Operation {
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    let id: tranche_core::name::OperationId =
        accepted.json()["operation"]["id"].as_str().unwrap().parse().unwrap();
    let find = |view: &tranched::engine::View| view.operations.get(&id).cloned();
    served
        .until("the operation ends", |view| find(view).is_some_and(|operation| operation.state.is_over()))
        .await;
    find(&served.engine.view()).unwrap()
}

#[track_caller]
fn succeeded(operation: Operation) {
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:#?}");
}

/// A daemon with a GPU that is split, and VMs of these names that ask for a partition.
pub(crate) async fn with_vms(count: u16, names: &[&str]) -> Served {
    let served = Served::start(Machine::gpus(1, 8)).await;
    succeeded(ended(&served, &served.put(&format!("{GPU}/mode"), &split(count)).await).await);
    for name in names {
        succeeded(ended(&served, &served.post("/v1/vms", &new_vm(name)).await).await);
    }
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_split_and_three_vms_each_get_a_partition_of_their_own() {
    let served = with_vms(4, &["a", "b", "c"]).await;
    for name in ["a", "b", "c"] {
        succeeded(ended(&served, &served.post(&format!("/v1/vms/{name}/start"), &json!({})).await).await);
    }
    let vms = served.get("/v1/vms").await.json();
    let mut devices: Vec<&str> =
        vms.as_array().unwrap().iter().map(|vm| vm["device"].as_str().unwrap()).collect();
    devices.sort_unstable();
    devices.dedup();
    assert_eq!(devices.len(), 3, "each has its own: {vms}");
    for vm in vms.as_array().unwrap() {
        assert_eq!(
            (&vm["state"], &vm["host"], &vm["gpu"]),
            (&json!("running"), &json!("node1"), &json!("0000:10:00.0"))
        );
    }

    let gpu = served.get(GPU).await.json();
    assert_eq!((&gpu["status"], &gpu["free"], &gpu["total"]), (&json!("partitioned"), &json!(1), &json!(4)));
    let partitions = served.get("/v1/partitions").await.json();
    let states: Vec<&str> =
        partitions.as_array().unwrap().iter().map(|p| p["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["in_use", "in_use", "in_use", "free"]);
    let host = served.get("/v1/hosts/node1").await.json();
    assert_eq!((&host["vms_running"], &host["partitions_free"]), (&json!(3), &json!(1)));
    assert_eq!(served.get("/v1/doctor").await.json()["findings"], json!([]));

    let metrics = served.get("/metrics").await.text;
    for line in [
        "tranche_partitions{host=\"node1\",state=\"in_use\"} 3\n",
        "tranche_vms{state=\"running\"} 3\n",
        "tranche_gpus{host=\"node1\",mode=\"partitioned\"} 1\n",
        "tranche_step_failures_total 0\n",
        "# EOF\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let documented = include_str!("../../../../docs/metrics.md");
    for name in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(documented.contains(&format!("| `{name}")), "{name} is not in docs/metrics.md");
    }
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_every_fake_machine_the_last_gpu_is_split_and_serves_a_vm() {
    let mut backends = Vec::new();
    for preset in Machine::PRESETS {
        let served = Served::start(Machine::preset(preset).unwrap()).await;
        // The lab's devices are GPUs by its own catalogue alone.
        let gpus = served.get("/v1/gpus").await.json();
        let Some(gpu) = gpus.as_array().unwrap().last() else { continue };
        let path = format!("/v1/gpus/node1/{}", gpu["address"].as_str().unwrap());
        let offers = gpu["valid_counts"].as_array().unwrap();
        // Where the driver has fixed the count there is one way only.
        let offer = offers.get(2).or(offers.last()).expect("a way to split it");
        let count = u16::try_from(offer["count"].as_u64().unwrap()).unwrap();
        succeeded(ended(&served, &served.put(&format!("{path}/mode"), &split(count)).await).await);
        succeeded(ended(&served, &served.post("/v1/vms", &new_vm("a")).await).await);
        succeeded(ended(&served, &served.post("/v1/vms/a/start", &json!({})).await).await);
        let gpu = served.get(&path).await.json();
        let shown = (&gpu["status"], &gpu["total"], &gpu["free"]);
        assert_eq!(shown, (&json!("partitioned"), &json!(count), &json!(count - 1)), "{preset}: {gpu}");
        let mut found = served.get("/v1/doctor").await.json()["findings"].take();
        found.as_array_mut().unwrap().retain(|finding| finding["code"] != "count_fixed");
        assert_eq!(found, json!([]), "{preset}");
        backends.push(gpu["backend"].clone());
        served.stop().await.unwrap();
    }
    backends.dedup();
    assert_eq!(backends, ["sriov-vfio", "typed-vf", "sriov-vfio", "fixed-vf"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_lives_from_creation_to_deletion() {
    let served = with_vms(2, &["a"]).await;
    let vm = served.get("/v1/vms/a").await.json();
    assert_eq!(
        (&vm["state"], &vm["partition"], &vm["origin"]),
        (&json!("stopped"), &Value::Null, &json!("made"))
    );
    succeeded(ended(&served, &served.send(hyper::Method::POST, "/v1/vms/a/start", None).await).await);
    succeeded(ended(&served, &served.post("/v1/vms/a/restart", &json!({})).await).await);
    let preview = served.post("/v1/vms/a/restart?dry_run=true", &json!({"force": true})).await.json();
    assert_eq!(preview["effect"]["vms"], json!({"a": "restarts"}));
    assert_eq!(preview["effect"]["steps"][0]["text"], "turn VM a off");
    succeeded(ended(&served, &served.post("/v1/vms/a/restart", &json!({"force": true})).await).await);
    assert_eq!(served.get("/v1/vms/a").await.json()["state"], "running");
    succeeded(ended(&served, &served.post("/v1/vms/a/detach", &json!({"restart": true})).await).await);
    assert_eq!(served.get("/v1/vms/a").await.json()["device"], Value::Null);
    succeeded(ended(&served, &served.post("/v1/vms/a/stop", &json!({"force": true})).await).await);
    succeeded(ended(&served, &served.post("/v1/vms/a/attach", &json!({})).await).await);
    assert_eq!(served.get("/v1/vms/a").await.json()["request"]["kind"], "partition");
    let deleted = served.send(hyper::Method::DELETE, "/v1/vms/a", None).await;
    succeeded(ended(&served, &deleted).await);
    assert_eq!(served.get("/v1/vms/a").await.problem(), (404, "vm_not_found".to_owned()));
    succeeded(ended(&served, &served.put(&format!("{GPU}/mode"), &json!({"mode": "host"})).await).await);
    assert_eq!(served.get(GPU).await.json()["status"], "partitionable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_was_there_before_is_adopted() {
    let served = with_vms(2, &[]).await;
    let xml = "<domain type='kvm'><name>old</name><uuid>6f2f9a52-3b0f-4b0e-8f6c-0d3a54d8a111</uuid>\
               <memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os>\
               <devices></devices></domain>";
    served.machine.hypervisor().define_by_hand(xml).unwrap();
    // The daemon learns of it by an event of libvirt's, which a fake has not, or by the next wish.
    let missing = served.post("/v1/vms/older/adopt", &json!({})).await;
    assert_eq!(missing.problem(), (404, "domain_not_found".to_owned()));
    served.put("/v1/policy", &json!({"placement": "spread"})).await;
    served
        .until("the domain is seen", |view| {
            view.inventory.values().any(|seen| seen.domains().is_some_and(|d| d.contains_key("old")))
        })
        .await;
    let adopted = served.post("/v1/vms/old/adopt", &json!({"request": {"kind": "partition"}})).await;
    succeeded(ended(&served, &adopted).await);
    succeeded(ended(&served, &served.post("/v1/vms/old/start", &json!({})).await).await);
    let vm = served.get("/v1/vms/old").await.json();
    assert_eq!(
        (&vm["origin"], &vm["state"], &vm["partition"]),
        (&json!("adopted"), &json!("running"), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_would_happen_and_changes_nothing() {
    let served = with_vms(2, &["a"]).await;
    let before = served.engine.view();
    let preview = served.post("/v1/vms/a/start?dry_run=true", &json!({})).await;
    assert_eq!(preview.status, 200, "{}", preview.text);
    let preview = preview.json();
    assert_eq!(preview["changes"], json!(["start VM a"]));
    assert_eq!(preview["effect"]["vms"], json!({"a": "starts"}));
    let refused = served.put(&format!("{GPU}/mode?dry_run=true"), &split(99)).await;
    assert_eq!(refused.problem(), (422, "invalid_partition_count".to_owned()));
    let after = served.engine.view();
    assert_eq!((&before.spec, &before.operations), (&after.spec, &after.operations));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_is_shown_then_applied_then_has_nothing_left_to_do() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let hardware = json!({"vcpus": 1, "memory_mib": 128, "firmware": "bios"});
    let declaration = json!({
        "policy": {"placement": "spread"},
        "gpus": [{"address": "0000:10:00.0", "mode": split(4)}],
        "vms": [{"name": "a", "hardware": hardware, "gpu": {"kind": "partition"}, "running": true}],
    });
    let changes = served.post("/v1/diff", &declaration).await.json()["changes"].as_array().unwrap().len();
    assert_eq!(changes, 4);
    assert!(served.engine.view().spec.vms.is_empty());
    let applied = served.post("/v1/apply", &declaration).await;
    assert_eq!(applied.status, 202, "{}", applied.text);
    assert_eq!(applied.json()["operations"].as_array().unwrap().len(), 4);
    served
        .until("the VM runs", |view| {
            view.operations.len() == 4 && view.operations.values().all(|operation| operation.state.is_over())
        })
        .await;
    assert_eq!(served.get("/v1/vms/a").await.json()["state"], "running");
    assert_eq!(served.get("/v1/policy").await.json(), json!({"placement": "spread"}));
    assert_eq!(served.post("/v1/diff", &declaration).await.json()["changes"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_drained_changed_and_its_vms_run_again() {
    let served = with_vms(2, &["a", "b"]).await;
    for name in ["a", "b"] {
        succeeded(ended(&served, &served.post(&format!("/v1/vms/{name}/start"), &json!({})).await).await);
    }
    let (mode, drain) = (format!("{GPU}/mode"), json!({"mode": "partitioned", "count": 4, "drain": true}));
    assert_eq!(served.put(&mode, &split(4)).await.problem(), (409, "partitions_in_use".to_owned()));
    let preview = served.put(&format!("{mode}?dry_run=true"), &drain).await.json();
    assert_eq!(preview["effect"]["vms"], json!({"a": "restarts", "b": "restarts"}), "{preview}");
    succeeded(ended(&served, &served.put(&mode, &drain).await).await);
    served
        .until("both run again", |view| {
            let domains = || view.inventory.values().filter_map(|observed| observed.domains()).flatten();
            view.plan.bookings.len() == 2
                && domains().filter(|(_, domain)| domain.state.is_active()).count() == 2
        })
        .await;
    assert_eq!(served.get(GPU).await.json()["mode"]["count"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_loaded_anew_by_an_explicit_wish_alone_and_its_vms_run_again() {
    const INSTINCT: &str = "/v1/gpus/node1/0000:05:00.0";
    let served = Served::start(Machine::instinct(2)).await;
    let mode = format!("{INSTINCT}/mode");
    succeeded(ended(&served, &served.put(&mode, &split(2)).await).await);
    for name in ["a", "b"] {
        succeeded(ended(&served, &served.post("/v1/vms", &new_vm(name)).await).await);
        succeeded(ended(&served, &served.post(&format!("/v1/vms/{name}/start"), &json!({})).await).await);
    }
    let drain = json!({"mode": "partitioned", "count": 8, "drain": true});
    let refusal = served.put(&mode, &drain).await;
    assert!(refusal.json().to_string().contains("--reload-driver"), "the hint names the way");
    assert_eq!(refusal.problem(), (422, "invalid_partition_count".to_owned()));
    let wrong = json!({"mode": "host", "reload_driver": true});
    assert_eq!(served.put(&mode, &wrong).await.problem().0, 422);
    let reload = json!({"mode": "partitioned", "count": 8, "reload_driver": true});
    let preview = served.put(&format!("{mode}?dry_run=true"), &reload).await.json();
    assert_eq!(preview["effect"]["vms"], json!({"a": "restarts", "b": "restarts"}), "{preview}");
    assert!(preview["effect"]["findings"].to_string().contains("driver_reload"), "{preview}");
    succeeded(ended(&served, &served.put(&mode, &reload).await).await);
    served
        .until("both run again", |view| {
            let domains = || view.inventory.values().filter_map(|observed| observed.domains()).flatten();
            view.plan.bookings.len() == 2
                && domains().filter(|(_, domain)| domain.state.is_active()).count() == 2
        })
        .await;
    assert_eq!(served.get(INSTINCT).await.json()["mode"]["count"], 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_change_says_where_its_operation_is() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let accepted = served.put(&format!("{GPU}/mode"), &split(4)).await;
    let location = accepted.headers["location"].to_str().unwrap().to_owned();
    succeeded(ended(&served, &accepted).await);
    let operation = served.get(&location).await.json();
    assert_eq!((&operation["state"], &operation["progress_percent"]), (&json!("succeeded"), &json!(100)));
    assert_eq!(served.get("/v1/operations").await.json(), json!([operation]));
    let unknown = served.get("/v1/operations/00000000-0000-4000-8000-000000000000").await;
    assert_eq!(unknown.problem(), (404, "operation_not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_end_of_an_operation_if_asked_to() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let accepted = served.put(&format!("{GPU}/mode"), &split(4)).await;
    let location = accepted.headers["location"].to_str().unwrap();
    let awaited = served.get(&format!("{location}?wait_ms=10000")).await.json();
    assert_eq!(awaited["state"], "succeeded");
    let unknown = "/v1/operations/00000000-0000-4000-8000-000000000000?wait_ms=10000";
    assert_eq!(served.get(unknown).await.problem(), (404, "operation_not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_partition_requests_at_once_one_wins_and_the_gpu_is_as_it_says() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let path = format!("{GPU}/mode");
    let (two, four) = (split(2), split(4));
    let (first, second) = tokio::join!(served.put(&path, &two), served.put(&path, &four));
    let states = [ended(&served, &first).await.state, ended(&served, &second).await.state];
    assert!(states.contains(&OperationState::Succeeded), "{states:?}");
    let view = served.engine.view();
    let asked = view.spec.gpus.values().next().unwrap().mode.clone();
    served.until("the GPU is as asked", |view| view.plan.gpus.values().all(|gpu| gpu.mode == asked)).await;
    let gpu = served.get(GPU).await.json();
    assert_eq!(gpu["mode"], gpu["asked_mode"]);
    assert!([json!(2), json!(4)].contains(&gpu["count"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_vms_for_the_last_partition_one_runs_and_the_other_waits_until_it_is_free() {
    let served = with_vms(1, &["a", "b"]).await;
    let start = json!({});
    tokio::join!(served.post("/v1/vms/a/start", &start), served.post("/v1/vms/b/start", &start));
    let is = |view: &tranched::engine::View, wanted: OperationState| {
        view.operations
            .values()
            .filter(|operation| operation.state == wanted && operation.title.starts_with("start"))
            .count()
    };
    served
        .until("one runs and one waits", |view| {
            is(view, OperationState::Succeeded) == 1 && is(view, OperationState::Waiting) == 1
        })
        .await;
    let vms = served.get("/v1/vms").await.json();
    let find = |state: &str| vms.as_array().unwrap().iter().find(|vm| vm["state"] == state).unwrap().clone();
    let (winner, loser) = (find("running"), find("waiting"));
    assert_eq!(loser["findings"][0]["code"], "no_free_partition");
    let why = served.get(&format!("/v1/why-not/{}/node1", loser["name"].as_str().unwrap())).await.json();
    assert_eq!(why["possible"], false);
    let stop = format!("/v1/vms/{}/stop", winner["name"].as_str().unwrap());
    succeeded(ended(&served, &served.post(&stop, &json!({"force": true})).await).await);
    served.until("the other starts by itself", |view| is(view, OperationState::Succeeded) == 2).await;
    let path = format!("/v1/vms/{}", loser["name"].as_str().unwrap());
    assert_eq!(served.get(&path).await.json()["state"], "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_made_shown_kept_and_forgotten() {
    let served = with_vms(2, &["a", "b"]).await;
    let rule = json!({"rule": "vms", "vms": ["a", "b"], "kind": "apart", "strict": true});
    succeeded(ended(&served, &served.put("/v1/rules/apart", &rule).await).await);
    assert_eq!(served.get("/v1/rules/apart").await.json(), rule);
    assert_eq!(served.get("/v1/rules").await.json(), json!({"apart": rule}));
    let wrong = json!({"rule": "vms", "vms": ["a", "b"], "kind": "together", "strict": true});
    assert_eq!(served.put("/v1/rules/t", &wrong).await.problem(), (409, "rule_contradiction".to_owned()));
    succeeded(ended(&served, &served.post("/v1/vms/a/start", &json!({})).await).await);
    served.post("/v1/vms/b/start", &json!({})).await;
    served
        .until("b waits because of the rule", |view| {
            view.findings.iter().any(|finding| finding.code == Code::RuleWaits)
        })
        .await;
    succeeded(ended(&served, &served.send(hyper::Method::DELETE, "/v1/rules/apart", None).await).await);
    assert_eq!(served.get("/v1/rules/apart").await.problem(), (404, "rule_not_found".to_owned()));
    served
        .until("b runs", |view| {
            let domain = |seen: &HostInventory| seen.domain(&"b".parse().unwrap()).map(|domain| domain.state);
            view.inventory.values().filter_map(|seen| domain(seen)).any(DomainState::is_active)
        })
        .await;
    let capacity = served.get("/v1/capacity").await.json();
    assert_eq!(capacity["sizes"][0]["free"], json!(0), "{capacity}");
    assert_eq!(served.get("/v1/capacity?without=nobody").await.problem().0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_for_a_vm_is_changed_while_it_runs_and_what_is_not_named_stays() {
    let served = with_vms(4, &["a"]).await;
    succeeded(ended(&served, &served.post("/v1/vms/a/start", &json!({})).await).await);
    let patch = async |path: &str, body: Value| {
        served.send(hyper::Method::PATCH, path, Some(body.to_string().into())).await
    };
    let wish = json!({"availability": {"priority": 500, "restarts": {"elsewhere": 0}}});
    let preview = patch("/v1/vms/a?dry_run=true", wish.clone()).await;
    assert_eq!(preview.status, 200, "{}", preview.text);
    assert_eq!(preview.json()["changes"], json!(["change VM a: priority 500, restarts elsewhere 0"]));
    assert_eq!(preview.json()["effect"]["steps"], json!([]));
    let before = served.get("/v1/vms/a").await.json();
    assert_eq!(before["availability"]["priority"], 100, "a dry run changes nothing");
    succeeded(ended(&served, &patch("/v1/vms/a", wish).await).await);
    succeeded(ended(&served, &patch("/v1/vms/a", json!({"reserved": true})).await).await);
    let vm = served.get("/v1/vms/a").await.json();
    let restarts = json!({"local": 3, "elsewhere": 0});
    assert_eq!(vm["availability"], json!({"priority": 500, "failover": "restart", "restarts": restarts}));
    assert_eq!(
        (&vm["reserved"], &vm["state"], &vm["device"]),
        (&json!(true), &json!("running"), &before["device"])
    );

    let unknown = patch("/v1/vms/ghost", json!({"reserved": true})).await;
    assert_eq!(unknown.problem(), (404, "vm_not_found".to_owned()));
    let range = patch("/v1/vms/a", json!({"availability": {"priority": 1001}})).await;
    assert_eq!(range.problem(), (422, "invalid_value".to_owned()));
    let slip = patch("/v1/vms/a", json!({"availability": {"prioritty": 1}})).await;
    assert_eq!(slip.problem(), (422, "invalid_request".to_owned()));
    assert_eq!(served.get("/v1/vms/a").await.json(), vm);
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_names_one_policy_does_not_end_a_pause_of_failover() {
    let served = with_vms(4, &["a"]).await;
    succeeded(ended(&served, &served.post("/v1/failover/pause", &json!({})).await).await);
    let declared =
        json!({"policy": {"placement": "spread"}, "vms": [{"name": "a", "gpu": {"kind": "partition"}}]});
    let preview = served.post("/v1/diff", &declared).await.json();
    assert_eq!(preview["changes"], json!(["change the policies"]));
    assert_eq!(served.post("/v1/apply", &declared).await.status, 202);
    let policy = served.get("/v1/policy").await.json();
    assert_eq!((&policy["placement"], &policy["failover"]["paused"]), (&json!("spread"), &json!(true)));
    served.stop().await.unwrap();
}
