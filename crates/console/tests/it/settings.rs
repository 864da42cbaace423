//! Forms of what holds for longer: policies, rules, what is done for a VM, settings of hosts, and the cluster.
//!
//! Each is shown first and sent then; what somebody did not touch is not sent, or sent as it is by then.

use axum::http::StatusCode;
use serde_json::{Value, json};
use tranche_core::access::Role;
use tranche_core::spec::{Admission, Pace, VcpusPerCpu};

use crate::fixture::World;
use crate::visit::{Browser, Seen, confirm, filled};

/// Fills in a form of a page, sees what it would do, and has it done. Tells the method, path and body of what was asked for.
async fn does(
    browser: &Browser,
    page: &str,
    action: &str,
    otherwise: &[(&str, &str)],
) -> (String, String, Value) {
    let form = filled(browser.get(page).await.form(action), otherwise);
    let preview = browser.post_all(action, &form).await;
    assert_eq!(preview.status, StatusCode::OK, "{action}: {}", preview.text);
    assert!(preview.text.contains("What would be asked for"), "{}", preview.text);
    let heard = browser.fake.changes();
    let [first] = heard.as_slice() else { panic!("a preview asks once: {heard:?}") };
    assert_eq!(first.query, "dry_run=true", "nothing is done before it was shown");
    let done = confirm(browser, action, &preview).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{action}: {}", done.text);
    let last = browser.fake.changes().pop().unwrap();
    assert_eq!((&last.method, &last.path, &last.body), (&first.method, &first.path, &first.body));
    assert_eq!(last.query, "");
    (last.method, last.path, last.body)
}

fn request(method: &str, path: &str, body: Value) -> (String, String, Value) {
    (method.to_owned(), path.to_owned(), body)
}

/// A browser before a REST interface that refuses all that changes something.
fn before_a_wall() -> Browser {
    let mut world = World::small("");
    world.is_stuck = true;
    Browser::in_world(Role::Admin, world)
}

/// That a page says why something was refused, and has the form once more with what was typed.
fn is_mendable(page: &Seen, status: StatusCode, action: &str, typed: &[(&str, &str)]) {
    assert_eq!(page.status, status, "{}", page.text);
    assert!(page.text.contains("role=\"alert\""), "{}", page.text);
    let form = page.form(action);
    for (name, value) in typed {
        let field = ((*name).to_owned(), (*value).to_owned());
        assert!(form.contains(&field), "{field:?} of {form:?}: {}", page.text);
    }
}

fn crowded() -> World {
    let mut world = World::small("");
    world.policy.vcpus_per_cpu = VcpusPerCpu(9);
    world.policy.failover.paused = true;
    world.policy.pace = Pace { pause_ms: Some(500), bandwidth_mib_s: None };
    world
}

#[tokio::test]
async fn policies_are_set_all_of_them_with_what_was_changed() {
    let browser = Browser::in_world(Role::Admin, crowded());
    let fields = [("placement", "spread"), ("lost_ms", "6000"), ("pause_ms", ""), ("shutdown", "freeze")];
    let body = json!({
        "placement": "spread",
        "vcpus_per_cpu": 9,
        "shutdown": "freeze",
        "failover": {
            "paused": true,
            "timers": {
                "heartbeat_ms": 1000, "lost_ms": 6000, "reset_ms": 8000, "restart_ms": 10000, "election_ms": 1000,
            },
        },
    });
    let done = does(&browser, "/policy", "/policy", &fields).await;
    assert_eq!(done, request("PUT", "/v1/policy", body));
}

#[tokio::test]
async fn a_preview_of_policies_says_which_would_be_otherwise() {
    let browser = Browser::of(Role::Admin);
    let form = browser.get("/policy").await.form("/policy");
    let page = browser.post_all("/policy", &filled(form, &[("admission", "enforce")])).await;
    let table = page.text.split("What would be otherwise").nth(2).unwrap().split("</table>").next().unwrap();
    assert!(table.contains("warn: it is started") && table.contains("enforce: it is not started"), "{table}");
    assert!(!table.contains("pack"), "{table}");
}

#[tokio::test]
async fn a_policy_that_was_not_touched_stays_as_somebody_else_has_set_it_meanwhile() {
    let browser = Browser::of(Role::Admin);
    let form = browser.get("/policy").await.form("/policy");
    browser.fake.world.lock().unwrap().policy.admission = Admission::Enforce;
    browser.post_all("/policy", &filled(form, &[("placement", "spread")])).await;
    let body = json!({ "placement": "spread", "admission": "enforce" });
    assert_eq!(browser.fake.changes()[0].body, body);
}

#[tokio::test]
async fn policies_that_are_refused_can_be_mended() {
    let browser = before_a_wall();
    let form = browser.get("/policy").await.form("/policy");
    let typed = [("placement", "spread"), ("lost_ms", "1")];
    let page = browser.post_all("/policy", &filled(form.clone(), &typed)).await;
    is_mendable(&page, StatusCode::CONFLICT, "/policy", &typed);
    let typed = [("placement", "spread"), ("lost_ms", "soon")];
    let page = browser.post_all("/policy", &filled(form, &typed)).await;
    is_mendable(&page, StatusCode::UNPROCESSABLE_ENTITY, "/policy", &typed);
    assert_eq!(browser.fake.changes().len(), 1, "what cannot be read is not asked for");
}
