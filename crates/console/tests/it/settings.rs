//! Forms of what holds for longer: policies, rules, what is done for a VM, settings of hosts, and the cluster.
//!
//! Each is shown first and sent then; what somebody did not touch is not sent, or sent as it is by then.

use axum::http::StatusCode;
use serde_json::{Value, json};
use tranche_core::access::Role;
use tranche_core::spec::{Admission, Pace, VcpusPerCpu};

use crate::fixture::World;
use crate::visit::{Browser, Seen, confirm, filled, shown};

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

#[tokio::test]
async fn a_rule_is_what_its_form_says() {
    for (fields, rule) in [
        (
            &[("kind", "hosts"), ("hosts", "node1:10, node2"), ("failback", "on"), ("strict", "on")][..],
            json!({ "rule": "hosts", "vms": ["a", "b"], "hosts": { "node1": 10, "node2": 100 }, "strict": true, "failback": true }),
        ),
        (
            &[("kind", "labels"), ("labels", "rack=4\r\nlicence=cad")],
            json!({ "rule": "labels", "vms": ["a", "b"], "labels": { "rack": "4", "licence": "cad" }, "strict": false }),
        ),
        (
            &[("kind", "together")],
            json!({ "rule": "vms", "vms": ["a", "b"], "kind": "together", "strict": false }),
        ),
        (
            &[("kind", "apart"), ("strict", "on")],
            json!({ "rule": "vms", "vms": ["a", "b"], "kind": "apart", "strict": true }),
        ),
    ] {
        let browser = Browser::of(Role::Admin);
        let mut all = vec![("name", "pair"), ("vms", "a, b")];
        all.extend(fields);
        let done = does(&browser, "/rules/edit", "/rules/edit", &all).await;
        assert_eq!(done, request("PUT", "/v1/rules/pair", rule));
    }
}

#[tokio::test]
async fn a_rule_that_is_opened_is_changed_where_it_was_touched() {
    let browser = Browser::of(Role::Admin);
    let done = does(&browser, "/rules/edit?rule=home", "/rules/edit", &[("strict", "on")]).await;
    let rule = json!({
        "rule": "hosts", "vms": ["desk-03"], "hosts": { "node1": 10, "node2": 5 }, "strict": true, "failback": true,
    });
    assert_eq!(done, request("PUT", "/v1/rules/home", rule));
    assert_eq!(browser.get("/rules/edit?rule=none").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_rule_is_deleted_after_a_preview() {
    let browser = Browser::of(Role::Admin);
    let done = does(&browser, "/rules", "/rules/delete", &[]).await;
    assert_eq!(done, request("DELETE", "/v1/rules/apart", Value::Null));
}

#[tokio::test]
async fn a_rule_that_is_refused_or_cannot_be_read_can_be_mended() {
    let browser = before_a_wall();
    let typed = [("name", "pair"), ("kind", "hosts"), ("vms", "a"), ("hosts", "node1:5"), ("strict", "on")];
    let page = browser.post("/rules/edit", &typed).await;
    is_mendable(&page, StatusCode::CONFLICT, "/rules/edit", &typed);
    for (name, value) in [("hosts", "node1:high"), ("vms", "no/name"), ("name", "")] {
        let wrong: Vec<_> =
            typed.iter().map(|field| if field.0 == name { (name, value) } else { *field }).collect();
        let page = browser.post("/rules/edit", &wrong).await;
        is_mendable(&page, StatusCode::UNPROCESSABLE_ENTITY, "/rules/edit", &wrong);
    }
    let opened = browser.get("/rules/edit?rule=home").await.form("/rules/edit");
    let page = browser.post_all("/rules/edit", &filled(opened, &[("hosts", "node2")])).await;
    is_mendable(&page, StatusCode::CONFLICT, "/rules/edit", &[("name", "home"), ("hosts", "node2")]);
}

#[tokio::test]
async fn of_a_vm_only_what_was_touched_is_changed() {
    for (fields, body) in [
        (&[][..], json!({})),
        (
            &[("failover", "stay"), ("priority", "500")],
            json!({ "availability": { "failover": "stay", "priority": 500 } }),
        ),
        (
            &[("restarts", "0"), ("restarts_elsewhere", "9"), ("migration", "live_only")],
            json!({ "availability": { "restarts": { "local": 0, "elsewhere": 9 }, "migration": "live_only" } }),
        ),
        (
            &[("pause_ms", ""), ("bandwidth_mib_s", "40")],
            json!({ "availability": { "pace": { "pause_ms": null, "bandwidth_mib_s": 40 } } }),
        ),
        (&[("reserved", "true"), ("numa_node", "")], json!({ "reserved": true, "prefer_numa_node": null })),
    ] {
        let mut world = World::small("");
        world.vms[0].availability.pace.pause_ms = Some(700);
        world.vms[0].prefer_numa_node = Some(1);
        let browser = Browser::in_world(Role::Operator, world);
        let done = does(&browser, "/vms/desk-01", "/vms/desk-01/set", fields).await;
        assert_eq!(done, request("PATCH", "/v1/vms/desk-01", body));
    }
}

#[tokio::test]
async fn what_is_refused_of_a_vm_can_be_mended() {
    let browser = before_a_wall();
    let form = browser.get("/vms/desk-01").await.form("/vms/desk-01/set");
    for (value, status) in [("500", StatusCode::CONFLICT), ("high", StatusCode::UNPROCESSABLE_ENTITY)] {
        let typed = [("priority", value), ("migration", "restart")];
        let page = browser.post_all("/vms/desk-01/set", &filled(form.clone(), &typed)).await;
        is_mendable(&page, status, "/vms/desk-01/set", &typed);
    }
}

#[tokio::test]
async fn a_domain_is_adopted_with_what_its_form_says() {
    let browser = Browser::of(Role::Operator);
    let fields =
        [("name", "old-1"), ("gpu", "profile"), ("profile", "12Q"), ("reserved", "on"), ("numa_node", "1")];
    let body = json!({ "request": { "kind": "partition", "profile": "12Q" }, "reserved": true, "prefer_numa_node": 1 });
    let done = does(&browser, "/adopt", "/adopt", &fields).await;
    assert_eq!(done, request("POST", "/v1/vms/old-1/adopt", body));
    let browser = Browser::of(Role::Operator);
    let done = does(&browser, "/adopt", "/adopt", &[("name", "old-1"), ("failover", "stay")]).await;
    assert_eq!(done.2["request"], json!({ "kind": "none" }));
    assert_eq!(done.2["availability"]["failover"], "stay");
    let page = before_a_wall().post("/adopt", &fields).await;
    is_mendable(&page, StatusCode::CONFLICT, "/adopt", &fields);
    let list = browser.get("/vms").await;
    assert!(list.attributes("href").contains(&"/adopt"), "{}", list.text);
}

#[tokio::test]
async fn of_a_host_only_what_was_touched_is_changed() {
    for (fields, body) in [
        (&[][..], json!({})),
        (&[("labels", "zone=b\r\n")], json!({ "labels": { "rack": null, "zone": "b" } })),
        (&[("reserved_memory_mib", "16384")], json!({ "reserved_memory_mib": 16384 })),
        (&[("agent", "")], json!({ "fence": null })),
        (&[("leave_off", "true")], json!({ "fence": { "leave_off": true } })),
        (
            &[("options", "ip=192.0.2.9\r\nlanplus=\r\npassword=secret:bmc")],
            json!({ "fence": { "options": { "ip": "192.0.2.9", "lanplus": null, "password": "secret:bmc" } } }),
        ),
        (
            &[("agent", "fence_redfish"), ("options", "ip=192.0.2.9")],
            json!({ "fence": { "agent": "fence_redfish", "options": { "ip": "192.0.2.9" } } }),
        ),
    ] {
        let browser = Browser::of(Role::Admin);
        let done = does(&browser, "/hosts/node1", "/hosts/node1/set", fields).await;
        assert_eq!(done, request("PATCH", "/v1/hosts/node1", body));
    }
}

#[tokio::test]
async fn a_secret_of_a_fence_agent_that_was_written_out_is_neither_sent_nor_repeated() {
    let browser = Browser::of(Role::Admin);
    let form = browser.get("/hosts/node1").await.form("/hosts/node1/set");
    for name in ["password", "passwd", "snmp-community", "hexadecimal_kg"] {
        let options = format!("ip=192.0.2.9\n{name}=hunter2");
        let fields = filled(form.clone(), &[("options", &options)]);
        let page = browser.post_all("/hosts/node1/set", &fields).await;
        let kept = format!("ip=192.0.2.9\n{name}=secret:");
        is_mendable(&page, StatusCode::UNPROCESSABLE_ENTITY, "/hosts/node1/set", &[("options", &kept)]);
        assert!(
            !page.text.contains("hunter2") && page.text.contains("/etc/tranche/secrets"),
            "{}",
            page.text
        );
    }
    assert!(browser.fake.changes().is_empty());
}

#[tokio::test]
async fn what_is_refused_of_a_host_can_be_mended() {
    let browser = before_a_wall();
    let form = browser.get("/hosts/node1").await.form("/hosts/node1/set");
    for (labels, status) in [("zone=b", StatusCode::CONFLICT), ("zone", StatusCode::UNPROCESSABLE_ENTITY)] {
        let typed = [("labels", labels), ("agent", "fence_redfish")];
        let page = browser.post_all("/hosts/node1/set", &filled(form.clone(), &typed)).await;
        is_mendable(&page, status, "/hosts/node1/set", &typed);
    }
    let typed = [("agent", ""), ("options", "ip=192.0.2.9")];
    let page = browser.post_all("/hosts/node1/set", &filled(form, &typed)).await;
    is_mendable(&page, StatusCode::UNPROCESSABLE_ENTITY, "/hosts/node1/set", &typed);
}

#[tokio::test]
async fn a_host_that_stands_alone_has_no_settings() {
    let mut world = World::small("");
    world.hosts[0].member = None;
    let browser = Browser::in_world(Role::Admin, world);
    assert!(!browser.get("/hosts/node1").await.text.contains("/hosts/node1/set"));
    assert_eq!(browser.post("/hosts/node1/set", &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_vms_of_a_host_are_seen_to_before_its_power_goes() {
    for (act, rest, body) in [
        ("depart-reboot", "depart", json!({ "way": "reboot" })),
        ("depart-shutdown", "depart", json!({ "way": "shutdown" })),
        ("stay", "stay", json!({})),
    ] {
        let browser = Browser::of(Role::Admin);
        let at = format!("/hosts/node1/{act}");
        let page = browser.post(&at, &[]).await;
        confirm(&browser, &at, &page).await;
        let last = browser.fake.changes().pop().unwrap();
        assert_eq!((last.path, last.body), (format!("/v1/hosts/node1/{rest}"), body));
    }
}

#[tokio::test]
async fn a_join_token_is_shown_once_with_what_to_type() {
    let browser = Browser::of(Role::Admin);
    let form = browser.get("/cluster").await.form("/cluster/tokens");
    let page = browser.post_all("/cluster/tokens", &filled(form, &[("minutes", "5")])).await;
    assert!(page.text.contains("tranche cluster join TRANCHE1.j0in"), "{}", page.text);
    let heard = browser.fake.changes().pop().unwrap();
    assert_eq!((heard.path.as_str(), heard.body), ("/v1/cluster/tokens", json!({ "ttl_s": 300 })));
    let page = before_a_wall().post("/cluster/tokens", &[("minutes", "5")]).await;
    is_mendable(&page, StatusCode::CONFLICT, "/cluster/tokens", &[("minutes", "5")]);
}

#[tokio::test]
async fn a_machine_that_is_gone_is_forgotten_or_replaced_after_a_preview() {
    for (then, method, path, query, body) in [
        ("forget", "DELETE", "/v1/cluster/members/node4", "forget_vms=true", Value::Null),
        (
            "replace",
            "POST",
            "/v1/cluster/replace",
            "",
            json!({ "host": "node4", "ttl_s": 1800, "forget_vms": true }),
        ),
    ] {
        let browser = Browser::of(Role::Admin);
        let form = browser.get("/cluster").await.form("/cluster/gone");
        assert!(form.contains(&("host".to_owned(), "node2".to_owned())), "not this host: {form:?}");
        let fields = filled(form, &[("host", "node4"), ("then", then), ("forget_vms", "on")]);
        let page = browser.post_all("/cluster/gone", &fields).await;
        assert!(page.text.contains("The clock of host node3"), "it tells what was found: {}", page.text);
        let heard = browser.fake.changes();
        assert_eq!((heard.len(), heard[0].query.as_str()), (1, "forget_vms=true&dry_run=true"));
        let done = confirm(&browser, "/cluster/gone", &page).await;
        assert_eq!(
            done.text.contains("tranche cluster join TRANCHE1.j0in"),
            then == "replace",
            "{}",
            done.text
        );
        let last = browser.fake.changes().pop().unwrap();
        assert_eq!(
            (last.method.as_str(), last.path.as_str(), last.query.as_str(), last.body),
            (method, path, query, body)
        );
    }
}

#[tokio::test]
async fn a_machine_that_is_not_gone_is_kept_and_the_form_can_be_mended() {
    let browser = before_a_wall();
    let typed = [("host", "node4"), ("then", "replace"), ("token_minutes", "7")];
    let page = browser.post("/cluster/gone", &typed).await;
    is_mendable(&page, StatusCode::CONFLICT, "/cluster/gone", &typed);
    let browser = Browser::of(Role::Admin);
    let stale = browser.post("/cluster/gone", &[("host", "node4"), ("then", "forget"), ("seen", "x")]).await;
    assert!(stale.text.contains("Something has changed since you looked"), "{}", stale.text);
    assert!(browser.fake.changes().iter().all(|heard| heard.query.contains("dry_run=true")));
    assert!(shown(&stale).iter().any(|(name, value)| name == "seen" && value != "x"));
}

#[tokio::test]
async fn the_store_is_defragmented() {
    let browser = Browser::of(Role::Admin);
    let done = browser.post("/cluster/defragment", &[]).await;
    assert_eq!((done.status, done.header("location")), (StatusCode::SEE_OTHER, "/cluster"));
    assert_eq!(browser.fake.changes()[0].path, "/v1/cluster/defragment");
}
