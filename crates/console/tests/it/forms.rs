//! What becomes of forms: shown first, then done exactly as shown.

use axum::http::StatusCode;
use serde_json::json;
use tranche_core::access::Role;

use crate::fixture::VERSION;
use crate::visit::{Browser, confirm, shown};

const GPU: &str = "node1/0000:41:00.0";

#[tokio::test]
async fn partitions_of_a_set_are_shown_and_then_made_with_the_version_that_was_shown() {
    let browser = Browser::of(Role::Admin);
    let page = browser
        .post("/partition", &[("gpu", GPU), ("gpu", "node2/0000:41:00.0"), ("count", "8"), ("drain", "on")])
        .await;
    assert_eq!(page.status, StatusCode::OK);
    for text in [
        "is left out",
        "4 partitions",
        "8 partitions",
        "is shut down and started again",
        "Apply exactly this",
    ] {
        assert!(page.text.contains(text), "{text}: {}", page.text);
    }
    let answer = confirm(&browser, "/partition", &page).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert!(answer.header("location").starts_with("/operations/"), "{:?}", answer.headers);
    let heard = browser.fake.changes();
    let body = json!({
        "selection": { "gpus": [GPU, "node2/0000:41:00.0"] },
        "mode": { "mode": "partitioned", "count": 8 },
        "drain": true,
    });
    assert_eq!((heard[0].query.as_str(), &heard[0].body), ("dry_run=true", &body));
    let mut versioned = body;
    versioned["version"] = json!(VERSION);
    assert_eq!((heard.len(), heard[1].query.as_str(), &heard[1].body), (2, "", &versioned));
}

#[tokio::test]
async fn gpus_of_a_set_are_released_with_the_same_form() {
    let browser = Browser::of(Role::Admin);
    browser.post("/partition", &[("gpu", GPU), ("count", "release")]).await;
    assert_eq!(browser.fake.changes()[0].body["mode"], json!({ "mode": "host" }));
    let none = browser.post("/partition", &[("count", "8")]).await;
    assert_eq!(none.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(browser.fake.changes().len(), 1);
}

#[tokio::test]
async fn what_has_changed_since_it_was_shown_is_shown_again_and_not_done() {
    let browser = Browser::of(Role::Admin);
    let page = browser.post("/vms/desk-01/stop", &[]).await;
    let effect = tranche_core::effect::Effect {
        gpus: [].into(),
        vms: [("desk-01".parse().unwrap(), tranche_core::effect::VmEffect::Stops)].into(),
        homes: [].into(),
        steps: Vec::new(),
        findings: Vec::new(),
    };
    browser.fake.world.lock().unwrap().effect = Some(effect);
    let again = confirm(&browser, "/vms/desk-01/stop", &page).await;
    assert_eq!(again.status, StatusCode::OK);
    assert!(
        again.text.contains("Something has changed since you looked, so nothing was done"),
        "{}",
        again.text
    );
    assert!(browser.fake.changes().iter().all(|heard| heard.query == "dry_run=true"));
    let done = confirm(&browser, "/vms/desk-01/stop", &again).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    assert!(done.header("location").starts_with("/vms/desk-01?asked="), "{:?}", done.headers);
    let last = browser.fake.changes().pop().unwrap();
    assert_eq!((last.path.as_str(), last.query.as_str()), ("/v1/vms/desk-01/stop", ""));
}

#[tokio::test]
async fn a_gpu_gets_the_mode_that_its_form_says() {
    let path = "/gpus/node1/0000:41:00.0/mode";
    for (fields, mode) in [
        (&[("mode", "host")][..], json!({ "mode": "host" })),
        (
            &[("mode", "partitioned"), ("count", "4 Q")],
            json!({ "mode": "partitioned", "count": 4, "series": "Q" }),
        ),
        (
            &[("mode", "partitioned"), ("count", "4"), ("other", "6")],
            json!({ "mode": "partitioned", "count": 6, "reload_driver": true }),
        ),
        (&[("mode", "mixed"), ("sizes", "24Q, 12Q")], json!({ "mode": "mixed", "sizes": ["24Q", "12Q"] })),
        (
            &[("mode", "passthrough"), ("pool", "render"), ("drain", "on")],
            json!({ "mode": "passthrough", "allow_console": false, "pool": "render", "drain": true }),
        ),
    ] {
        let browser = Browser::of(Role::Admin);
        let page = browser.post(path, fields).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        let answer = confirm(&browser, path, &page).await;
        assert!(answer.header("location").starts_with("/gpus/node1/0000:41:00.0?asked="), "{}", answer.text);
        let last = browser.fake.changes().pop().unwrap();
        assert_eq!(
            (last.method.as_str(), last.path.as_str(), &last.body),
            ("PUT", "/v1/gpus/node1/0000:41:00.0/mode", &mode)
        );
    }
}

#[tokio::test]
async fn acts_on_vms_ask_for_what_they_say() {
    let running = "desk-01";
    for (act, fields, method, path, body) in [
        ("stop", &[][..], "POST", "stop", json!({ "force": false })),
        ("kill", &[], "POST", "stop", json!({ "force": true })),
        ("restart", &[], "POST", "restart", json!({ "force": false })),
        ("detach", &[], "POST", "detach", json!({ "restart": true })),
        ("migrate", &[("to", "node2")], "POST", "migrate", json!({ "to": "node2" })),
        ("migrate", &[], "POST", "migrate", json!({})),
        (
            "attach",
            &[("gpu", "memory"), ("vram_mib", "6142")],
            "POST",
            "attach",
            json!({ "request": { "kind": "partition", "vram_mib": 6142 }, "restart": true }),
        ),
        ("delete", &[("force", "on")], "DELETE", "", json!(null)),
    ] {
        let browser = Browser::of(Role::Operator);
        let at = format!("/vms/{running}/{act}");
        let page = browser.post(&at, fields).await;
        assert_eq!(page.status, StatusCode::OK, "{act}: {}", page.text);
        assert!(browser.fake.changes().iter().all(|heard| heard.query.contains("dry_run=true")), "{act}");
        confirm(&browser, &at, &page).await;
        let last = browser.fake.changes().pop().unwrap();
        let rest = format!("/v1/vms/{running}{}{path}", if path.is_empty() { "" } else { "/" });
        assert_eq!(
            (last.method.as_str(), last.path.as_str(), &last.body),
            (method, rest.as_str(), &body),
            "{act}"
        );
        assert!(!last.query.contains("dry_run"), "{act}");
    }
}

#[tokio::test]
async fn a_start_is_done_at_once_and_its_page_says_how_far_it_is() {
    let browser = Browser::of(Role::Operator);
    let answer = browser.post("/vms/desk-05/start", &[]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(browser.fake.changes().len(), 1);
    let page = browser.get(answer.header("location")).await;
    assert!(page.text.contains("role=\"status\"") && page.text.contains("start VM desk-01"), "{}", page.text);
}

#[tokio::test]
async fn a_refused_preview_says_why_and_offers_what_makes_it_possible() {
    let browser = Browser::of(Role::Operator);
    let page = browser.post("/vms/refused/delete", &[]).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(
        page.text.contains("Do something else.") && page.text.contains("with the VM turned off first"),
        "{}",
        page.text
    );
    assert!(shown(&page).contains(&("force".to_owned(), "on".to_owned())), "{}", page.text);
    let again = browser.post("/vms/refused/delete", &[("force", "on")]).await;
    assert!(!again.text.contains("with the VM turned off first"), "{}", again.text);
}

#[tokio::test]
async fn a_new_vm_is_what_its_form_says() {
    let browser = Browser::of(Role::Operator);
    let fields = [
        ("name", "new-1"),
        ("guest_os", "ubuntu24.04"),
        ("vcpus", "4"),
        ("memory_mib", "8192"),
        ("firmware", "uefi"),
        ("disks", "default/new-1.qcow2\r\nfast/scratch.qcow2\r\n"),
        ("networks", "default, storage"),
        ("cloud_init", "#!/bin/sh\r\necho 1\r\n"),
        ("gpu", "whole"),
        ("gpus", "2"),
        ("pool", "render"),
        ("failover", "stay"),
        ("priority", "500"),
    ];
    let page = browser.post("/vms/new", &fields).await;
    let answer = confirm(&browser, "/vms/new", &page).await;
    assert!(answer.header("location").starts_with("/vms/new-1?asked="), "{}", answer.text);
    let wish: tranche_api::request::CreateVm =
        serde_json::from_value(browser.fake.changes().pop().unwrap().body).unwrap();
    assert_eq!((wish.name.as_str(), wish.hardware.vcpus, wish.hardware.disks.len()), ("new-1", 4, 2));
    assert_eq!(wish.hardware.networks, ["default", "storage"]);
    assert_eq!(wish.hardware.cloud_init.as_deref(), Some("#!/bin/sh\necho 1"));
    assert_eq!(
        serde_json::to_value(&wish.request).unwrap(),
        json!({ "kind": "whole", "gpus": 2, "pool": "render" })
    );
    assert_eq!(wish.availability.priority, 500);
    for (name, value) in [("vcpus", "many"), ("name", " "), ("disks", "nowhere")] {
        let wrong: Vec<_> =
            fields.iter().map(|field| if field.0 == name { (name, value) } else { *field }).collect();
        assert_eq!(browser.post("/vms/new", &wrong).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
    }
}

#[tokio::test]
async fn a_host_is_drained_serves_again_and_is_taken_for_down() {
    for act in ["drain", "undrain", "confirm-down"] {
        let browser = Browser::of(Role::Admin);
        let at = format!("/hosts/node3/{act}");
        let page = browser.post(&at, &[]).await;
        confirm(&browser, &at, &page).await;
        assert_eq!(browser.fake.changes().pop().unwrap().path, format!("/v1/hosts/node3/{act}"));
    }
    assert_eq!(
        Browser::of(Role::Admin).post("/hosts/node3/explode", &[]).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn failover_is_paused_and_resumed_and_that_is_said() {
    let browser = Browser::of(Role::Admin);
    let page = browser.post("/failover/pause", &[]).await;
    let answer = confirm(&browser, "/failover/pause", &page).await;
    assert!(answer.header("location").starts_with("/hosts?asked="), "{}", answer.text);
    assert_eq!(browser.fake.changes().pop().unwrap().path, "/v1/failover/pause");
    browser.fake.world.lock().unwrap().policy.failover.paused = true;
    let hosts = browser.get("/hosts").await;
    assert!(
        hosts.text.contains("failover paused") && hosts.text.contains("Resume failover"),
        "{}",
        hosts.text
    );
}

#[tokio::test]
async fn secrets_are_shown_once_and_passwords_never() {
    let browser = Browser::of(Role::Admin);
    let link = browser.post("/access/users/kim/link", &[]).await;
    assert!(link.text.contains("/login?link=l1nk"), "{}", link.text);
    let token =
        browser.post("/access/tokens", &[("token", "ci"), ("token_role", "viewer"), ("days", "7")]).await;
    assert!(token.text.contains("tok3n"), "{}", token.text);
    let user =
        browser.post("/access/users", &[("name", "kim"), ("role", "viewer"), ("password", " x y ")]).await;
    assert_eq!((user.status, user.header("location")), (StatusCode::SEE_OTHER, "/access"));
    let heard = browser.fake.changes();
    assert_eq!(heard[1].body, json!({ "name": "ci", "role": "viewer", "days": 7 }));
    assert_eq!(
        (heard[2].path.as_str(), &heard[2].body),
        ("/v1/users/kim", &json!({ "role": "viewer", "password": " x y " }))
    );
    browser.post("/access/users/kim/delete", &[]).await;
    browser.post("/access/tokens/ci/delete", &[]).await;
    let gone: Vec<_> =
        browser.fake.changes().into_iter().skip(3).map(|heard| (heard.method, heard.path)).collect();
    assert_eq!(
        gone,
        [("DELETE", "/v1/users/kim"), ("DELETE", "/v1/tokens/ci")].map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
}
