//! Logging in to the console through an issuer: who gets in and as what, and every answer that is forged, late, stolen or used twice.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tranche_core::access::{Grant, Role};
use tranched::config::OidcConfig;
use tranched::oidc::Oidc;

use crate::admitted::{PASSWORD, Site, Told};
use crate::issuer::{CLIENT, Issuer, SECRET, Signing, Ways, in_s, query_of};

const ATTEMPT: &str = "__Host-tranche-login";

/// The console of a host that trusts an issuer.
struct Stage {
    issuer: Issuer,
    site: Site,
}

/// Has the issuer behave otherwise.
type Change = fn(&mut Ways);

/// A browser with its cookies.
#[derive(Default)]
struct Browser {
    cookies: BTreeMap<String, String>,
}

impl Stage {
    async fn set() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut OidcConfig)) -> Self {
        let issuer = Issuer::start().await;
        let secret = issuer.path("secret");
        fs::write(&secret, SECRET).unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        let roles = [("gpu-admins", Role::Admin), ("gpu-operators", Role::Operator), ("staff", Role::Viewer)];
        let mut config = OidcConfig {
            issuer: issuer.url.clone(),
            name: "SSO".to_owned(),
            client_id: CLIENT.to_owned(),
            client_secret_file: secret,
            authority: issuer.path("ca.pem"),
            roles: roles.map(|(group, role)| (group.to_owned(), Grant { role, limit: None })).into(),
            ..OidcConfig::default()
        };
        change(&mut config);
        let site = Site::through(Oidc::new(&config));
        Self { issuer, site }
    }

    /// With users who have passwords, which takes a while.
    fn with_users(self) -> Self {
        Self { site: self.site.with_users(), ..self }
    }

    async fn get(&self, browser: &mut Browser, path: &str) -> Told {
        let cookies: Vec<String> =
            browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::builder().uri(path).header(header::HOST, "node1:7440");
        let request = request.header(header::COOKIE, cookies.join("; ")).body(Body::empty()).unwrap();
        let told = self.site.ask(request).await;
        for cookie in told.headers.get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("; Path=/; Secure; HttpOnly; SameSite="), "{cookie}");
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            browser.cookies.remove(name);
            if !cookie.ends_with("Max-Age=0") {
                browser.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        told
    }

    /// Goes to the issuer and agrees there: what it sends the browser back with.
    async fn agree(&self, browser: &mut Browser) -> String {
        let sent = self.get(browser, "/login/issuer").await;
        assert_eq!(sent.status, StatusCode::SEE_OTHER, "{}", sent.text);
        self.issuer.agree(sent.headers[header::LOCATION].to_str().unwrap())
    }

    async fn come_back(&self, browser: &mut Browser, answer: &str) -> Told {
        self.get(browser, &format!("/login/callback?{answer}")).await
    }

    /// The whole way in a browser of its own.
    async fn log_in(&self) -> (Browser, Told) {
        let mut browser = Browser::default();
        let answer = self.agree(&mut browser).await;
        let told = self.come_back(&mut browser, &answer).await;
        (browser, told)
    }

    /// The last that the audit log has: who, status, outcome.
    fn audit(&self) -> (String, u16, String) {
        let entry = self.site.access.audit.last(1).unwrap().remove(0);
        assert_eq!((entry.what.as_str(), entry.asked), ("POST /v1/sessions", None));
        (entry.who, entry.status, entry.outcome.unwrap_or_default())
    }

    fn sessions(&self) -> usize {
        let under = |prefix: &str| self.site.store.range(&prefix.parse().unwrap()).unwrap().entries.len();
        under("session/") - under("session/spent/") - under("session/link/")
    }

    /// Nobody got in, a page says why, and the audit log knows it.
    fn is_refused(&self, (browser, told): &(Browser, Told), status: StatusCode, code: &str, words: &str) {
        assert_eq!(told.status, status, "{code}: {}", told.text);
        assert!(told.text.contains("role=\"alert\"") && told.text.contains(words), "{code}: {}", told.text);
        assert!(told.text.contains("name=\"password\""), "the way in is there: {}", told.text);
        assert!(browser.cookies.is_empty(), "{:?}", browser.cookies.keys());
        let (_, audited, outcome) = self.audit();
        assert_eq!(audited, status.as_u16());
        assert!(outcome.starts_with(&format!("{code}: ")) && outcome.contains(words), "{outcome}");
        for secret in ["c0de", "t0ken", "s3cret", "eyJ"] {
            assert!(!outcome.contains(secret) && !told.text.contains(secret), "{secret}: {outcome}");
        }
        assert_eq!(self.sessions(), 0);
    }
}

#[tokio::test]
async fn whoever_the_issuer_vouches_for_gets_a_session_with_the_role_of_their_group() {
    let stage = Stage::set().await;
    for (signing, kid) in [(Signing::Rsa(0), "rsa-0"), (Signing::Ec, "ec")] {
        stage.issuer.behave(|ways| (ways.signing, ways.kid) = (signing, kid));
        let (mut browser, told) = stage.log_in().await;
        assert_eq!(told.status, StatusCode::OK, "{}", told.text);
        assert!(told.text.contains("alice (via SSO)") && told.text.contains("operator"), "{}", told.text);
        let names: Vec<&str> = browser.cookies.keys().map(String::as_str).collect();
        assert_eq!(names, [tranche_console::SESSION_COOKIE], "the attempt is forgotten");
        let page = stage.get(&mut browser, "/vms").await;
        assert!(page.status == StatusCode::OK && page.text.contains("alice (via SSO)"), "{}", page.text);
        assert_eq!(stage.get(&mut browser, "/access").await.status, StatusCode::FORBIDDEN, "an operator");
        assert_eq!(stage.get(&mut browser, "/v1/vms").await.status, StatusCode::UNAUTHORIZED);
    }
    let entries = stage.site.access.audit.last(10).unwrap();
    let logins: Vec<_> = entries.iter().filter(|entry| entry.what == "POST /v1/sessions").collect();
    assert_eq!(logins.len(), 2);
    for entry in logins {
        assert_eq!((entry.who.as_str(), entry.status), ("alice (via SSO)", 201));
        assert_eq!(entry.outcome.as_deref(), Some("subject s-1"));
    }
}

#[tokio::test]
async fn the_way_in_names_the_issuer_and_leads_back_to_the_page_that_was_asked_for() {
    let stage = Stage::set().await;
    let mut browser = Browser::default();
    let page = stage.get(&mut browser, "/login?next=/vms%3Fpage%3D2").await;
    assert!(page.text.contains("Log in with SSO"), "{}", page.text);
    assert!(page.text.contains("href=\"/login/issuer?next=/vms%3Fpage%3D2\""), "{}", page.text);
    let sent = stage.get(&mut browser, "/login/issuer?next=/vms%3Fpage%3D2").await;
    let url = sent.headers[header::LOCATION].to_str().unwrap();
    let query = query_of(url);
    assert_eq!(query["redirect_uri"], "https://node1:7440/login/callback");
    assert_eq!(query["scope"], "openid profile email");
    let cookie = sent.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("SameSite=Lax; Max-Age=600"), "{cookie}");
    assert!(!url.contains(&browser.cookies[ATTEMPT][14..57]), "the issuer learns nothing of the attempt");
    let answer = stage.issuer.agree(url);
    let told = stage.come_back(&mut browser, &answer).await;
    assert_eq!(told.headers["refresh"], "0; url=/vms?page=2");
    let nobody = Site::new();
    let page = nobody.ask(Request::builder().uri("/login").body(Body::empty()).unwrap()).await;
    assert!(!page.text.contains("/login/issuer"), "{}", page.text);
}

#[tokio::test]
async fn an_answer_that_is_forged_is_refused_in_words_audited_and_opens_nothing() {
    let forged: [(Change, &str); 17] = [
        (|ways| ways.signing = Signing::Altered, "none of the issuer's keys has signed it"),
        (|ways| ways.signing = Signing::Rsa(1), "none of the issuer's keys has signed it"),
        (
            |ways| (ways.signing, ways.kid) = (Signing::Rsa(1), "rsa-1"),
            "none of the issuer's keys has signed it",
        ),
        (|ways| (ways.signing, ways.kid) = (Signing::Ec, "rsa-0"), "none of the issuer's keys has signed it"),
        (|ways| ways.signing = Signing::None, "it is not signed"),
        (|ways| ways.signing = Signing::HmacOfPublicKey, "(alg)"),
        (|ways| ways.signing = Signing::HmacOfSecret, "(alg)"),
        (|ways| ways.say("aud", json!("another")), "(aud)"),
        (|ways| ways.say("aud", json!([CLIENT, "another"])), "(aud)"),
        (|ways| ways.say("azp", json!("another")), "(azp)"),
        (|ways| ways.say("iss", json!("https://evil.example")), "(iss)"),
        (|ways| ways.say("exp", in_s(-62)), "(exp)"),
        (|ways| ways.say("iat", in_s(63)), "(iat)"),
        (|ways| ways.say("nbf", in_s(63)), "(nbf)"),
        (|ways| ways.say("nonce", json!("of another attempt")), "(nonce)"),
        (|ways| ways.say("nonce", Value::Null), "(nonce)"),
        (|ways| ways.say("sub", json!("")), "(sub)"),
    ];
    for (forge, words) in forged {
        // Each is the first, so that none has to wait for those before.
        let stage = Stage::set().await;
        stage.issuer.behave(forge);
        stage.is_refused(&stage.log_in().await, StatusCode::UNAUTHORIZED, "id_token_invalid", words);
    }
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let stage = Stage::set().await;
    let skewed: [Change; 3] = [
        |ways| ways.say("exp", in_s(-50)),
        |ways| ways.say("iat", in_s(50)),
        |ways| ways.say("nbf", in_s(50)),
    ];
    for skew in skewed {
        stage.issuer.behave(skew);
        let (_, told) = stage.log_in().await;
        assert_eq!(told.status, StatusCode::OK, "{}", told.text);
    }
}

#[tokio::test]
async fn an_answer_is_good_in_the_browser_that_asked_for_it_and_in_no_other() {
    let stage = Stage::set().await;
    let (mut victim, mut thief) = (Browser::default(), Browser::default());
    let stolen = stage.agree(&mut victim).await;
    let told = stage.come_back(&mut thief, &stolen).await;
    let stale = "begun in another browser";
    stage.is_refused(&(thief, told), StatusCode::UNAUTHORIZED, "login_stale", stale);
    // Nor with an attempt of one's own: this is also how somebody would be logged in as somebody else.
    let mut thief = Browser::default();
    stage.agree(&mut thief).await;
    let told = stage.come_back(&mut thief, &stolen).await;
    stage.is_refused(&(thief, told), StatusCode::UNAUTHORIZED, "login_stale", stale);
    // Nor with the state of one's own and the other one's code: the verifier is another.
    let mut thief = Browser::default();
    let own = stage.agree(&mut thief).await;
    let [code, state] = [&stolen, &own].map(|answer| query_of(&format!("/?{answer}")));
    let mixed = format!("code={}&state={}", code["code"], state["state"]);
    let told = stage.come_back(&mut thief, &mixed).await;
    stage.is_refused(&(thief, told), StatusCode::UNAUTHORIZED, "issuer_refused", "invalid_grant");
}

#[tokio::test]
async fn an_answer_opens_once_whatever_the_issuer_thinks_of_it() {
    let stage = Stage::set().await;
    stage.issuer.behave(|ways| ways.is_forgetful = true);
    let mut browser = Browser::default();
    let answer = stage.agree(&mut browser).await;
    let kept = browser.cookies.clone();
    assert_eq!(stage.come_back(&mut browser, &answer).await.status, StatusCode::OK);
    let mut again = Browser { cookies: kept };
    let told = stage.come_back(&mut again, &answer).await;
    assert_eq!(told.status, StatusCode::UNAUTHORIZED, "{}", told.text);
    assert!(stage.audit().2.starts_with("login_stale: "));
    assert_eq!(stage.sessions(), 1);
}

#[tokio::test]
async fn an_issuer_may_change_its_key_and_the_old_one_is_good_no_more() {
    let stage = Stage::set().await;
    assert_eq!(stage.log_in().await.1.status, StatusCode::OK);
    stage.issuer.behave(|ways| {
        (ways.signing, ways.kid, ways.shown) = (Signing::Rsa(1), "rsa-1", vec![Signing::Rsa(1)]);
    });
    assert_eq!(stage.log_in().await.1.status, StatusCode::OK, "it is asked for its keys anew");
    stage.issuer.behave(|ways| (ways.signing, ways.kid) = (Signing::Rsa(0), "rsa-0"));
    let (_, told) = stage.log_in().await;
    assert_eq!(told.status, StatusCode::UNAUTHORIZED, "{}", told.text);
    assert!(stage.audit().2.starts_with("id_token_invalid: "));
}

#[tokio::test]
async fn whoever_is_in_no_group_that_has_a_role_is_told_so_by_name() {
    let stage = Stage::set().await;
    for groups in [json!([]), json!(["admin", "operator"]), json!({ "gpu-admins": true }), Value::Null] {
        stage.issuer.behave(|ways| ways.say("groups", groups));
        let words = "alice (via SSO) is in no group that has a role here";
        stage.is_refused(&stage.log_in().await, StatusCode::FORBIDDEN, "no_role", words);
    }
}

#[tokio::test]
async fn somebody_who_is_called_like_a_user_is_not_that_user() {
    let stage = Stage::set().await.with_users();
    stage.issuer.behave(|ways| {
        ways.say("preferred_username", json!("admin"));
        ways.say("groups", json!("staff"));
    });
    let (mut browser, told) = stage.log_in().await;
    assert!(told.text.contains("admin (via SSO)") && told.text.contains("viewer"), "{}", told.text);
    assert_eq!(stage.get(&mut browser, "/access").await.status, StatusCode::FORBIDDEN);
    let user = stage.site.log_in("admin", PASSWORD).await;
    assert_eq!((user.status, &user.body["name"]), (StatusCode::CREATED, &json!("admin")));
}

#[tokio::test]
async fn an_issuer_that_is_down_or_wrong_is_told_and_keeps_no_password_out() {
    let stage = Stage::set().await.with_users();
    let troubles: [(Change, &str); 3] = [
        (|ways| ways.broken = Some(StatusCode::BAD_GATEWAY), "says 502"),
        (|ways| ways.broken = Some(StatusCode::NOT_FOUND), "it says 404"),
        (
            |ways| (ways.broken, ways.calls_itself) = (None, Some("https://evil.example".to_owned())),
            "it calls itself otherwise",
        ),
    ];
    for (trouble, words) in troubles {
        stage.issuer.behave(trouble);
        let told = stage.get(&mut Browser::default(), "/login/issuer").await;
        assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE, "{}", told.text);
        assert!(told.text.contains(words) && told.text.contains("name=\"password\""), "{}", told.text);
    }
    stage.issuer.stop();
    for _ in 0..8 {
        let told = stage.get(&mut Browser::default(), "/login/issuer").await;
        assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE, "{}", told.text);
    }
    assert_eq!(stage.site.log_in("operator", PASSWORD).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_issuer_that_cannot_prove_who_it_is_is_not_asked() {
    let other = Issuer::start().await;
    let stage = Stage::with(|config| config.authority = other.path("ca.pem")).await;
    let told = stage.get(&mut Browser::default(), "/login/issuer").await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(told.text.contains("localhost cannot be reached"), "{}", told.text);
}

#[tokio::test]
async fn a_secret_that_others_can_read_is_not_used() {
    let stage = Stage::set().await;
    fs::set_permissions(stage.issuer.path("secret"), Permissions::from_mode(0o644)).unwrap();
    let told = stage.get(&mut Browser::default(), "/login/issuer").await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(told.text.contains("its secret cannot be used"), "{}", told.text);
    for inner in [SECRET, "644", stage.issuer.path("secret").as_str()] {
        assert!(!told.text.contains(inner), "{inner}: {}", told.text);
    }
}

#[tokio::test]
async fn what_the_issuer_refuses_is_told_by_its_word() {
    let stage = Stage::set().await;
    let mut browser = Browser::default();
    let answer = stage.agree(&mut browser).await;
    let state = query_of(&format!("/?{answer}"))["state"].clone();
    let answer = format!("error=access_denied&error_description=%3Cb%3Ec0de&state={state}");
    let told = stage.come_back(&mut browser, &answer).await;
    stage.is_refused(&(browser, told), StatusCode::UNAUTHORIZED, "issuer_refused", "refused: access_denied");
    let mut browser = Browser::default();
    let answer = stage.agree(&mut browser).await;
    let told = stage.come_back(&mut browser, &format!("{answer}&iss=https://evil.example")).await;
    stage.is_refused(
        &(browser, told),
        StatusCode::UNAUTHORIZED,
        "id_token_invalid",
        "another issuer has answered",
    );
}

#[tokio::test]
async fn whoever_comes_with_nonsense_has_to_wait_and_keeps_no_password_out() {
    let stage = Stage::set().await.with_users();
    for _ in 0..5 {
        let told = stage.come_back(&mut Browser::default(), "code=a&state=b").await;
        assert_eq!(told.status, StatusCode::UNAUTHORIZED);
    }
    let told = stage.come_back(&mut Browser::default(), "code=a&state=b").await;
    assert_eq!(told.status, StatusCode::TOO_MANY_REQUESTS, "{}", told.text);
    assert_eq!(stage.site.log_in("operator", PASSWORD).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn to_begin_is_not_in_the_audit_log_so_that_nobody_can_fill_it() {
    let stage = Stage::set().await;
    for _ in 0..3 {
        stage.agree(&mut Browser::default()).await;
    }
    assert!(stage.site.access.audit.last(10).unwrap().is_empty());
}

#[tokio::test]
async fn without_an_issuer_nobody_logs_in_through_one() {
    let site = Site::new();
    let answer = json!({ "callback": "https://node1:7440/login/callback", "state": "a", "code": "b" });
    for (path, body) in [
        ("/v1/sessions", json!({ "attempt": "1.a", "answer": answer })),
        ("/v1/sessions/issuer", json!({ "callback": "https://node1:7440/login/callback" })),
    ] {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let told = site.ask(request.body(Body::from(body.to_string())).unwrap()).await;
        assert_eq!((told.status, &told.body["code"]), (StatusCode::NOT_FOUND, &json!("issuer_missing")));
    }
}
