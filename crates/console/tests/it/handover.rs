//! VMs that go to hosts with stores of their own, and come from them.

use axum::http::StatusCode;
use serde_json::json;
use tranche_core::access::Role;
use tranche_core::migration::{Outlook, Way};

use crate::fixture::name;
use crate::visit::{Browser, confirm, shown};

const TO: &str = "https://192.0.2.7:7440";
const TOKEN: &str = "TRANCHE1.inv1te";
const FIELDS: &[(&str, &str)] = &[("to", TO), ("token", TOKEN)];
const FORM: &str = "Move to a host with a store of its own";

/// Somebody before a host that is in no cluster.
fn alone(role: Role) -> Browser {
    let browser = Browser::of(role);
    let mut world = browser.fake.world.lock().unwrap();
    world.hosts.iter_mut().for_each(|host| host.member = None);
    drop(world);
    browser
}

fn outlook(host: &str, way: Way) -> Outlook {
    Outlook { host: name(host), way, why_not: Vec::new(), live_obstacles: Vec::new(), forecast: None }
}

#[tokio::test]
async fn a_token_is_made_and_shown_once_and_an_invitation_that_nobody_used_is_withdrawn() {
    let browser = alone(Role::Admin);
    let made = browser.post("/invitations", &[("minutes", "10")]).await;
    assert_eq!(made.status, StatusCode::OK);
    for text in [TOKEN, "https://192.0.2.1:7440", "it is shown only here", "--token -"] {
        assert!(made.text.contains(text), "{text}: {}", made.text);
    }
    assert_eq!(browser.fake.changes()[0].body, json!({ "minutes": 10 }));
    browser.post("/invitations", &[("minutes", "")]).await;
    assert_eq!(browser.fake.changes()[1].body, json!({}), "the daemon knows how long");
    let list = browser.get("/invitations").await;
    assert!(!list.text.contains(TOKEN) && !list.text.contains("in a cluster"), "{}", list.text);
    assert_eq!(list.text.matches(">Withdraw</button>").count(), 2, "of what is used nothing is withdrawn");
    let id = "0".repeat(64);
    let gone = browser.post(&format!("/invitations/{id}/withdraw"), &[]).await;
    assert_eq!((gone.status, gone.header("location")), (StatusCode::SEE_OTHER, "/invitations"));
    let last = browser.fake.changes().pop().unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str()), ("DELETE", &*format!("/v1/invitations/{id}")));
}

#[tokio::test]
async fn how_a_vm_would_go_is_shown_and_then_it_goes() {
    let browser = alone(Role::Admin);
    assert!(browser.get("/vms/desk-01").await.text.contains(FORM));
    let page = browser.post("/vms/desk-01/handover", FIELDS).await;
    assert_eq!(page.status, StatusCode::OK);
    for text in ["node2", "while it runs", "1.8", "nothing of it is kept here but a record"] {
        assert!(page.text.contains(text), "{text}: {}", page.text);
    }
    let heard = browser.fake.changes();
    let body = json!({ "to": TO, "token": TOKEN });
    assert_eq!((heard.len(), heard[0].query.as_str(), &heard[0].body), (1, "dry_run=true", &body));
    let answer = confirm(&browser, "/vms/desk-01/handover", &page).await;
    assert!(answer.header("location").starts_with("/operations/"), "{}", answer.text);
    assert!(!answer.header("location").contains(TOKEN));
    let last = browser.fake.changes().pop().unwrap();
    assert_eq!((last.path.as_str(), last.query.as_str()), ("/v1/vms/desk-01/handover", ""));
    assert_eq!(last.body, body);
}

#[tokio::test]
async fn a_vm_goes_only_as_it_was_shown_to_go() {
    let browser = alone(Role::Admin);
    let page = browser.post("/vms/desk-01/handover", FIELDS).await;
    browser.fake.world.lock().unwrap().outlook = Some(outlook("node2", Way::Restart));
    let again = confirm(&browser, "/vms/desk-01/handover", &page).await;
    assert!(
        again.text.contains("Something has changed") && again.text.contains("is shut down here"),
        "{}",
        again.text
    );
    browser.fake.world.lock().unwrap().outlook = Some(outlook("node2", Way::Neither));
    let refused = confirm(&browser, "/vms/desk-01/handover", &again).await;
    assert!(
        refused.text.contains("does not take it") && !refused.text.contains("Move it"),
        "{}",
        refused.text
    );
    assert!(browser.fake.changes().iter().all(|heard| heard.query == "dry_run=true"), "nothing was done");
}

#[tokio::test]
async fn a_form_that_is_refused_is_shown_again_without_its_token() {
    let browser = alone(Role::Admin);
    let page = browser.post("/vms/refused/handover", FIELDS).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.text.contains("It cannot be.") && page.text.contains(TO), "{}", page.text);
    assert!(!page.text.contains(TOKEN), "{}", page.text);
    let empty = browser.post("/vms/desk-01/handover", &[("to", TO)]).await;
    assert_eq!(empty.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(browser.fake.changes().len(), 1, "without a token nobody is asked");
}

#[tokio::test]
async fn in_a_cluster_there_is_no_such_form_and_nobody_is_invited() {
    let browser = Browser::of(Role::Admin);
    assert!(!browser.get("/vms/desk-01").await.text.contains(FORM));
    let page = browser.get("/invitations").await;
    assert!(page.text.contains("This host is in a cluster") && !page.text.contains("Make a token"));
}

#[tokio::test]
async fn whose_a_vm_is_that_is_on_its_way_is_settled_on_its_page() {
    let browser = alone(Role::Admin);
    let set = |change: fn(&mut tranche_api::view::VmView)| {
        change(&mut browser.fake.world.lock().unwrap().vms[1]);
    };
    set(|vm| (vm.moves_to, vm.hands_over) = (Some(name("far")), true));
    let page = browser.get("/vms/desk-02").await;
    assert!(page.text.contains("Keep it here") && page.text.contains(" to far"), "{}", page.text);
    assert!(!page.text.contains("/hosts/far"), "of that host nothing is known here");
    assert!(!page.text.contains(FORM));
    set(|vm| (vm.moves_to, vm.hands_over, vm.comes_from) = (None, false, Some(name("far"))));
    let page = browser.get("/vms/desk-02").await;
    assert!(page.text.contains("own</h2>") && page.text.contains(" from far"), "{}", page.text);
    for (act, fields, force) in [
        ("take-back", &[][..], false),
        ("take-back", &[("force", "on")], true),
        ("take-over", &[("force", "on")], true),
    ] {
        let at = format!("/vms/desk-02/{act}");
        let page = browser.post(&at, fields).await;
        assert!(shown(&page).iter().any(|(name, _)| name == "seen"), "{act}: {}", page.text);
        confirm(&browser, &at, &page).await;
        let last = browser.fake.changes().pop().unwrap();
        assert_eq!((last.path, last.body), (format!("/v1/vms/desk-02/{act}"), json!({ "force": force })));
    }
}

#[tokio::test]
async fn who_may_only_look_sees_no_form() {
    let browser = alone(Role::Viewer);
    assert!(!browser.get("/vms/desk-01").await.text.contains(FORM));
    let page = browser.get("/invitations").await;
    assert!(!page.text.contains("Make a token") && !page.text.contains("Withdraw"), "{}", page.text);
}
