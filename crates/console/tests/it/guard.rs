//! Who may come in, and from where forms may come.

use axum::body::Body;
use axum::extract::MatchedPath;
use axum::http::{Method, Request, StatusCode};
use tower::ServiceExt as _;
use tranche_core::access::Role;

use crate::visit::{Browser, CSRF, encoded};

#[tokio::test]
async fn nobody_is_sent_to_the_way_in_and_afterwards_back() {
    let nobody = Browser::of(None);
    let page = nobody.get("/vms?state=running").await;
    assert_eq!(
        (page.status, page.header("location")),
        (StatusCode::SEE_OTHER, "/login?next=/vms%3Fstate%3Drunning")
    );
    let part = nobody.send(Method::GET, "/vms", &[("hx-request", "true")], "").await;
    assert_eq!((part.status, part.header("hx-redirect")), (StatusCode::OK, "/login?next=/vms"));
    let form = nobody.post("/vms/desk-01/start", &[]).await;
    assert_eq!((form.status, form.header("location")), (StatusCode::SEE_OTHER, "/login"));
    assert!(nobody.fake.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_password_becomes_a_session_and_no_answer_repeats_it() {
    let nobody = Browser::of(None);
    let fields = [("user", "maria"), ("password", " p&ss "), ("next", "/vms?page=2")];
    let answer = nobody.post_bare("/login", &fields).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/vms?page=2"));
    let cookie = "__Host-tranche-session=s3cret; Path=/; Secure; HttpOnly; SameSite=Strict";
    assert_eq!(answer.header("set-cookie"), cookie);
    let heard = nobody.fake.changes();
    assert_eq!(heard[0].path, "/v1/sessions");
    assert_eq!(heard[0].body, serde_json::json!({ "user": "maria", "password": " p&ss " }));
    let answer = nobody.post_bare("/login", &[("user", "maria"), ("password", "wrong password")]).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(
        answer.text.contains("It cannot be.") && !answer.text.contains("wrong password"),
        "{}",
        answer.text
    );
    assert!(answer.header("set-cookie").is_empty());
}

#[tokio::test]
async fn a_link_is_spent_by_its_button_alone() {
    let nobody = Browser::of(None);
    let page = nobody.get("/login?link=l1nk").await;
    assert!(page.text.contains("value=\"l1nk\"") && nobody.fake.changes().is_empty());
    nobody.post_bare("/login", &[("link", "l1nk")]).await;
    assert_eq!(nobody.fake.changes()[0].body, serde_json::json!({ "link": "l1nk" }));
}

#[tokio::test]
async fn after_the_way_in_nothing_leads_to_another_site() {
    let nobody = Browser::of(None);
    for next in
        ["//evil.example", "/\\evil.example", "https://evil.example/", "evil", "/a//b", "/\t/evil.example"]
    {
        let answer = nobody.post_bare("/login", &[("user", "a"), ("password", "b"), ("next", next)]).await;
        assert_eq!(answer.header("location"), "/", "{next:?}");
        let form = nobody.get(&format!("/login?{}", encoded(&[("next", next)]))).await;
        assert_eq!(form.field("next"), Some("/"), "{next:?}");
    }
}

#[tokio::test]
async fn whoever_logs_out_has_no_session_left_there_and_here() {
    let browser = Browser::of(Role::Viewer);
    let answer = browser.post("/logout", &[]).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/login"));
    assert!(answer.header("set-cookie").starts_with("__Host-tranche-session=; "), "{:?}", answer.headers);
    assert!(answer.header("set-cookie").ends_with("Max-Age=0"));
    assert_eq!(
        (browser.fake.changes()[0].method.as_str(), browser.fake.changes()[0].path.as_str()),
        ("DELETE", "/v1/session")
    );
}

#[tokio::test]
async fn a_session_that_cannot_be_ended_is_forgotten_here_and_that_is_said() {
    let browser = Browser::of(Role::Viewer);
    browser.fake.world.lock().unwrap().is_stuck = true;
    let answer = browser.post("/logout", &[]).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.text.contains("It cannot be.") && answer.header("set-cookie").ends_with("Max-Age=0"));
}

#[tokio::test]
async fn a_form_without_the_sessions_secret_does_nothing() {
    let browser = Browser::of(Role::Admin);
    let longer = format!("{CSRF}x");
    for fields in [
        &[][..],
        &[("csrf", "")],
        &[("csrf", "wrong")],
        &[("csrf", longer.as_str())],
        &[("csrf", &CSRF[1..])],
    ] {
        for path in [
            "/vms/desk-05/start",
            "/logout",
            "/access/users",
            "/partition",
            "/policy",
            "/rules/edit",
            "/rules/delete",
            "/vms/desk-05/set",
            "/adopt",
            "/hosts/node1/set",
            "/cluster/tokens",
            "/cluster/gone",
            "/cluster/defragment",
        ] {
            let answer = browser.post_bare(path, fields).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {fields:?}");
            assert!(answer.text.contains("nothing was done"), "{}", answer.text);
        }
    }
    assert!(browser.fake.changes().is_empty());
}

#[tokio::test]
async fn a_form_of_another_site_does_nothing_even_at_the_way_in() {
    let browser = Browser::of(Role::Admin);
    let body = encoded(&[("csrf", CSRF), ("user", "a"), ("password", "b")]);
    for site in ["cross-site", "same-site", "none"] {
        for path in ["/vms/desk-05/start", "/login"] {
            let answer = browser.send(Method::POST, path, &[("sec-fetch-site", site)], &body).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {site}");
        }
    }
    assert!(browser.fake.changes().is_empty());
    let own =
        browser.send(Method::POST, "/vms/desk-05/start", &[("sec-fetch-site", "same-origin")], &body).await;
    assert_eq!(own.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn every_answer_tells_browsers_to_run_and_load_nothing_of_others() {
    let browser = Browser::of(Role::Admin);
    for path in ["/", "/login", "/vms/none", "/nothing", "/events"] {
        let answer = browser.get(path).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    }
}

#[tokio::test]
async fn the_rest_interface_is_asked_as_whoever_looks() {
    let browser = Browser::of(Role::Viewer);
    browser.get("/").await;
    browser.get("/vms/desk-01").await;
    let heard = browser.fake.heard.lock().unwrap().clone();
    assert!(heard.len() > 4 && heard.iter().all(|heard| heard.who.as_deref() == Some("maria")), "{heard:?}");
}

#[tokio::test]
async fn pages_hear_that_something_changed_and_no_more() {
    let events = Browser::of(Role::Viewer).get("/events").await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    assert_eq!(events.text, "event: changed\ndata: 1\n\n");
}

#[tokio::test]
async fn pages_and_the_rest_interface_share_a_root() {
    let fake = crate::fixture::Fake::new(crate::fixture::World::small(""));
    let root = fake.rest().fallback_service(tranche_console::router(fake.rest()));
    let ask = |path: &str| root.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
    assert_eq!(ask("/v1/hosts").await.unwrap().headers()["content-type"], "application/json");
    assert_eq!(ask("/hosts").await.unwrap().headers()["location"], "/login?next=/hosts");
}

#[tokio::test]
async fn whoever_serves_the_pages_learns_which_of_them_was_asked_for_and_no_path() {
    let fake = crate::fixture::Fake::new(crate::fixture::World::small(""));
    let pages = tranche_console::router(fake.rest());
    for (path, route) in
        [("/vms/desk-01?secret=1", Some("/vms/{name}")), ("/login", Some("/login")), ("/secret", None)]
    {
        let answer = pages.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let told = answer.extensions().get::<MatchedPath>();
        assert_eq!(told.map(MatchedPath::as_str), route, "{path}");
    }
}

#[tokio::test]
async fn the_way_to_an_issuer_and_back_ends_on_a_page_that_leads_on_with_a_session_and_without_the_attempt() {
    let nobody = Browser::of(None);
    let host = ("host", "node1:7440");
    let page = nobody.get("/login?next=/vms").await;
    assert!(page.attributes("href").contains(&"/login/issuer?next=/vms"), "{}", page.text);
    let sent = nobody.send(Method::GET, "/login/issuer?next=/vms%3Fpage%3D2", &[host], "").await;
    assert_eq!(
        (sent.status, sent.header("location")),
        (StatusCode::SEE_OTHER, "https://sso.example/authorize")
    );
    let cookie = "__Host-tranche-login=1.att3mpt:/vms%3Fpage%3D2";
    let bounds = "; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600";
    assert_eq!(sent.header("set-cookie"), format!("{cookie}{bounds}"));
    let headers = [host, ("cookie", cookie)];
    let back = nobody.send(Method::GET, "/login/callback?code=c0de&state=st4te", &headers, "").await;
    assert_eq!((back.status, back.header("refresh")), (StatusCode::OK, "0; url=/vms?page=2"));
    let kept: Vec<&str> =
        back.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
    assert_eq!(kept[0], "__Host-tranche-session=s3cret; Path=/; Secure; HttpOnly; SameSite=Strict");
    assert!(kept[1].starts_with("__Host-tranche-login=;") && kept[1].ends_with("Max-Age=0"), "{kept:?}");
    let callback = "https://node1:7440/login/callback";
    let heard = nobody.fake.changes();
    assert_eq!(heard[0].body, serde_json::json!({ "callback": callback }));
    let answer = serde_json::json!({ "callback": callback, "code": "c0de", "state": "st4te" });
    assert_eq!(heard[1].body, serde_json::json!({ "attempt": "1.att3mpt", "answer": answer }));
    assert!(!back.text.contains("c0de") && !back.text.contains("att3mpt"), "{}", back.text);
}

#[tokio::test]
async fn a_way_back_that_is_refused_shows_the_way_in_and_leads_to_no_other_site() {
    let nobody = Browser::of(None);
    nobody.fake.world.lock().unwrap().is_stuck = true;
    let headers = [("host", "node1"), ("cookie", "__Host-tranche-login=1.a://evil.example")];
    let back = nobody.send(Method::GET, "/login/callback?error=%3Cb%3E&state=s", &headers, "").await;
    assert_eq!(back.status, StatusCode::CONFLICT);
    assert!(back.text.contains("It cannot be.") && back.text.contains("name=\"password\""), "{}", back.text);
    assert_eq!(back.field("next"), Some("/"));
    assert!(back.header("set-cookie").ends_with("Max-Age=0"));
    let evil = [("host", "node1@evil.example")];
    let begun = nobody.send(Method::GET, "/login/issuer", &evil, "").await;
    assert_eq!(begun.status, StatusCode::BAD_REQUEST);
}
