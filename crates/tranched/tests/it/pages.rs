//! Lists in pages: together they are the whole, in its order, whatever is listed.

use serde_json::{Value, json};
use tranche_host::fake::Machine;

use crate::served::Served;

/// Every list that there is.
const LISTS: [&str; 10] = [
    "/v1/audit",
    "/v1/catalogue",
    "/v1/findings",
    "/v1/gpus",
    "/v1/hosts",
    "/v1/operations",
    "/v1/partitions",
    "/v1/rules",
    "/v1/tokens",
    "/v1/users",
];

async fn furnished() -> Served {
    let served = Served::start(Machine::gpus(3, 8)).await;
    let hardware = json!({"vcpus": 1, "memory_mib": 128, "firmware": "bios"});
    let vms: Vec<Value> = ["c", "a", "b"]
        .map(|name| json!({"name": name, "hardware": hardware, "gpu": {"kind": "partition"}, "running": name != "b"}))
        .into();
    let rule = |kind: &str, vms: [&str; 2]| json!({"rule": "vms", "kind": kind, "vms": vms, "strict": false});
    let declared = json!({
        "gpus": [
            {"address": "0000:10:00.0", "mode": {"mode": "partitioned", "count": 4}},
            {"address": "0000:14:00.0", "mode": {"mode": "partitioned", "count": 2}},
        ],
        "vms": vms,
        "rules": {"two": rule("apart", ["a", "b"]), "one": rule("together", ["b", "c"])},
    });
    let applied = served.post("/v1/apply", &declared).await;
    assert_eq!(applied.status, 202, "{}", applied.text);
    for operation in applied.json()["operations"].as_array().unwrap() {
        let path = format!("/v1/operations/{}?wait_ms=10000", operation["id"].as_str().unwrap());
        let mut state = Value::Null;
        while !["succeeded", "failed", "superseded"].contains(&state.as_str().unwrap_or_default()) {
            state = served.get(&path).await.json()["state"].take();
        }
    }
    for name in ["bob", "alice", "carol"] {
        served.put(&format!("/v1/users/{name}"), &json!({"role": "viewer"})).await;
        served.post("/v1/tokens", &json!({"name": name, "role": "viewer"})).await;
    }
    served
}

/// The target of the header that leads to the next page.
fn next(answer: &crate::served::Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().unwrap();
    let target = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
    Some(target.unwrap_or_else(|| panic!("{link}")).to_owned())
}

/// The items of a list in its order; those of a map with their names.
fn items(list: &Value) -> Vec<Value> {
    match list {
        Value::Object(map) => map.iter().map(|(name, value)| json!([name, value])).collect(),
        list => list.as_array().unwrap().clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_every_list_together_are_the_whole_in_its_order() {
    let served = furnished().await;
    let mut lengths = Vec::new();
    for list in LISTS.into_iter().chain(["/v1/vms"]) {
        let whole = served.get(list).await;
        assert_eq!(next(&whole), None, "{list}: the whole is one page");
        let whole = items(&whole.json());
        for limit in [1, 2, 1_000] {
            let mut told = Vec::new();
            let mut path = Some(format!("{list}?limit={limit}"));
            while let Some(asked) = path {
                let page = served.get(&asked).await;
                assert_eq!(page.status, 200, "{asked}: {}", page.text);
                let of_page = items(&page.json());
                assert!(of_page.len() <= limit, "{asked}");
                told.extend(of_page);
                path = next(&page);
            }
            assert_eq!(told, whole, "{list}, {limit} at a time");
        }
        lengths.push((list, whole.len()));
    }
    let short: Vec<_> = lengths
        .iter()
        .filter(|(list, len)| *len < 2 && !["/v1/hosts", "/v1/findings"].contains(list))
        .collect();
    assert!(short.is_empty(), "a list of one proves nothing: {short:?}");
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_out_of_range_or_behind_nothing_is_refused() {
    let served = furnished().await;
    for list in LISTS {
        for wrong in [
            "limit=0",
            "limit=10000",
            "limit=-1",
            "limit=x",
            "after=x",
            "after=bnVsbA",
            "page=2",
            "limit=1&limit=2",
        ] {
            let (status, _) = served.get(&format!("{list}?{wrong}")).await.problem();
            assert_eq!(status, 422, "{list}?{wrong}");
        }
    }
    let page = served.get("/v1/vms?limit=1").await;
    let behind_a = next(&page).unwrap();
    let goes = served.send(hyper::Method::DELETE, "/v1/vms/a?force=true", None).await;
    assert_eq!(goes.status, 202, "{}", goes.text);
    served.until("the VM is gone", |view| view.spec.vms.len() == 2).await;
    let names: Vec<Value> =
        items(&served.get(&behind_a).await.json()).iter().map(|vm| vm["name"].clone()).collect();
    assert_eq!(
        names,
        ["b"],
        "what the page ended with is gone, and the next one begins behind it all the same"
    );
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_listed_by_their_host_and_pages_of_them_are_of_the_same_one() {
    let served = furnished().await;
    let whole = served.get("/v1/partitions").await.json();
    let of_host = served.get("/v1/partitions?host=node1").await;
    assert_eq!(of_host.json(), whole, "it stands alone");
    assert_eq!(served.get("/v1/partitions?host=elsewhere").await.json(), json!([]));
    assert_eq!(served.get("/v1/partitions?host=no%20name").await.problem().0, 422);
    let first = served.get("/v1/partitions?host=node1&limit=4").await;
    let path = next(&first).unwrap();
    assert!(path.contains("host=node1"), "{path}");
    let behind = served.get(&path).await.json();
    assert_eq!([items(&first.json()), items(&behind)].concat(), items(&whole));
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_are_listed_by_their_labels_and_pages_of_them_are_of_the_same_ones() {
    let served = furnished().await;
    for (name, labels) in [("a", json!({ "team": "red", "tier": "gold" })), ("c", json!({ "team": "red" }))] {
        let answer = served.patch(&format!("/v1/vms/{name}"), &json!({ "labels": labels })).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    let names = |answer: &crate::served::Answer| {
        let vms = answer.json();
        let names = vms.as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&served.get("/v1/vms?label=team=red").await), ["a", "c"]);
    assert_eq!(names(&served.get("/v1/vms?label=team=red,tier=gold").await), ["a"]);
    assert_eq!(names(&served.get("/v1/vms?label=team=blue").await), [""; 0]);
    let first = served.get("/v1/vms?label=team=red&limit=1").await;
    let second = served.get(&next(&first).expect("there is another page")).await;
    assert_eq!((names(&first), names(&second)), (vec!["a".to_owned()], vec!["c".to_owned()]));
    assert_eq!(next(&second), None);
    assert_eq!(served.get("/v1/vms/a").await.json()["labels"], json!({ "team": "red", "tier": "gold" }));
}
