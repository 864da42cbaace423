//! People who are limited to VMs with a label: every route with every role, about a VM of theirs and about one of others; and that
//! nothing that they are answered names a VM of others, whatever they ask.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tranche_api::access::{NewToken, Secret, SetUser};
use tranche_core::access::{Reach, Role, is_open, needed};
use tranche_core::name::Timestamp;
use tranched::clock;

use crate::admitted::{PASSWORD, Site, Told, templates};
use crate::served::DEADLINE;

/// Every name of a VM of others has this in it, and nothing else has.
const STRANGER: &str = "stranger";
const OWN: &str = "own-1";
/// Which of theirs has room to run.
pub(crate) const RUNNING: &str = "own-2";
const OTHERS: &str = "stranger-1";
const NONE: &str = "missing-1";
const LIMITED: [Role; 2] = [Role::Viewer, Role::Operator];

/// A site with VMs of two teams, and tokens of one of them.
pub(crate) struct Teams {
    pub(crate) site: Site,
    pub(crate) admin: String,
    gpu: String,
    now: Timestamp,
}

/// What a VM of others has a disk of.
const DISK: &str = "stranger-disk";

fn hardware(disk: Option<&str>) -> Value {
    let disks: Vec<Value> = disk.iter().map(|disk| json!({"pool": "default", "volume": disk})).collect();
    json!({"vcpus": 1, "memory_mib": 128, "firmware": "bios", "disks": disks})
}

fn vm(name: &str, labels: &Value) -> Value {
    json!({"name": name, "hardware": hardware((name == "stranger-2").then_some(DISK)), "request": {"kind": "partition"}, "labels": labels})
}

impl Teams {
    pub(crate) async fn new() -> Self {
        let site = Site::new();
        let admin = token(&site, "admin", Role::Admin, &[]);
        let gpus = site.with_token("GET", "/v1/gpus", Some(&admin), Value::Null).await.body;
        let splits =
            |gpu: &Value| gpu["valid_counts"].as_array().unwrap().iter().any(|offer| offer["count"] == 2);
        let gpu = gpus.as_array().unwrap().iter().find(|gpu| splits(gpu)).expect("a GPU to split");
        let gpu = gpu["address"].as_str().unwrap().to_owned();
        let mut teams = Self { site, admin, gpu, now: Timestamp(1) };
        let mode = format!("/v1/gpus/node1/{}/mode", teams.gpu);
        teams.order("PUT", &mode, json!({"mode": "partitioned", "count": 2})).await;
        let (red, blue) = (json!({"team": "red"}), json!({"team": "blue"}));
        for (name, labels) in [(OWN, &red), ("own-2", &red), (OTHERS, &blue), ("stranger-2", &json!({}))] {
            teams.order("POST", "/v1/vms", vm(name, labels)).await;
        }
        let rule = json!({"rule": "vms", "kind": "apart", "vms": [OWN, OTHERS], "strict": true});
        teams.order("PUT", "/v1/rules/apart", rule).await;
        // There is room for two of the four.
        for name in [OTHERS, OWN, "own-2", "stranger-2"] {
            teams.order("POST", &format!("/v1/vms/{name}/start"), json!({})).await;
        }
        teams
    }

    /// Asks as an administrator, and lets it come true as far as it does.
    pub(crate) async fn order(&mut self, method: &str, path: &str, body: Value) {
        let told = self.site.with_token(method, path, Some(&self.admin), body).await;
        assert_eq!(told.status, StatusCode::ACCEPTED, "{method} {path}: {}", told.body);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            self.now.0 += 60_000;
            self.site.engine.pass(self.now);
        }
    }

    pub(crate) fn red(&self, role: Role) -> String {
        token(&self.site, &format!("red-{role}"), role, &["team=red"])
    }
}

pub(crate) fn token(site: &Site, name: &str, role: Role, vm_labels: &[&str]) -> String {
    let vm_labels = vm_labels.iter().map(|label| label.parse().unwrap()).collect();
    let wish = NewToken { name: name.to_owned(), role, vm_labels, days: 1 };
    site.access.accounts.make_token(&wish, clock::now()).unwrap().secret.0
}

/// A path with names filled in, among them that of a VM.
fn filled(path: &str, vm: &str, gpu: &str) -> String {
    let named = if path.starts_with("/v1/vms/") {
        path.replace("{name}", vm)
    } else {
        path.replace("{name}", "apart")
    };
    [
        ("{host}", "node1"),
        ("{address}", gpu),
        ("{vm}", vm),
        ("{model}", "x"),
        ("{id}", "00000000-0000-4000-8000-000000000000"),
    ]
    .iter()
    .fold(named, |path, (from, to)| path.replace(from, to))
}

async fn ask(site: &Site, method: &str, path: &str, token: &str, body: &Value) -> Told {
    site.with_token(method, path, Some(token), body.clone()).await
}

#[tokio::test]
async fn every_route_is_for_the_own_vms_of_who_is_limited_and_answers_about_those_of_others_as_if_they_were_none()
 {
    let teams = Teams::new().await;
    let mut of_vms = 0;
    for role in LIMITED {
        let token = teams.red(role);
        for (method, template) in templates() {
            let path = |vm| filled(&template, vm, &teams.gpu);
            let (own, others, none) = (path(OWN), path(OTHERS), path(NONE));
            let may =
                role >= needed(&method, &own) && Reach::of(&method, &own).is_some() || is_open(&method, &own);
            // What is let through is refused for its form, so that nothing is changed.
            let nonsense = |path: &str| format!("{path}?no_such_parameter=1");
            let body = if method == "GET" { Value::Null } else { json!({ "no_such_field": 1 }) };
            let told = ask(&teams.site, &method, &nonsense(&own), &token, &body).await;
            let is_kept_out = told.status == StatusCode::FORBIDDEN;
            assert_eq!(is_kept_out, !may, "{role} {method} {own}: {} {}", told.status, told.text);
            if own == others {
                continue;
            }
            of_vms += 1;
            for is_nonsense in [false, true] {
                let asked = |path: &str| if is_nonsense { nonsense(path) } else { path.to_owned() };
                let told = ask(&teams.site, &method, &asked(&others), &token, &body).await;
                let as_none = ask(&teams.site, &method, &asked(&none), &token, &body).await;
                assert_eq!(told.status, as_none.status, "{role} {method} {others}");
                assert_eq!(told.text.replace(OTHERS, NONE), as_none.text, "{role} {method} {others}");
                let expected = if may { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
                assert_eq!(told.status, expected, "{role} {method} {others}: {}", told.text);
            }
        }
    }
    assert!(of_vms > 25, "{of_vms}");
}

#[tokio::test]
async fn nothing_that_somebody_limited_is_answered_names_a_vm_of_others() {
    let mut teams = Teams::new().await;
    let all = ask(&teams.site, "GET", "/v1/operations", &teams.admin, &Value::Null).await.body;
    let operations: Vec<String> =
        all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    let mut told_of_own = 0;
    for role in LIMITED {
        let token = teams.red(role);
        let mut paths: Vec<String> = templates()
            .iter()
            .filter(|(method, _)| method == "GET")
            .map(|(_, path)| filled(path, OWN, &teams.gpu))
            .collect();
        for list in ["vms", "findings", "operations", "gpus", "partitions", "hosts"] {
            paths.extend((1..4).map(|limit| format!("/v1/{list}?limit={limit}")));
        }
        paths.extend(operations.iter().map(|id| format!("/v1/operations/{id}")));
        paths.extend(["/v1/vms?label=team=blue", "/v1/capacity?without=node1"].map(str::to_owned));
        while let Some(path) = paths.pop() {
            let told = ask(&teams.site, "GET", &path, &token, &Value::Null).await;
            assert!(!told.text.contains(STRANGER), "{role} {path}: {}", told.text);
            told_of_own += usize::from(told.status == StatusCode::OK && told.text.contains(OWN));
            let Some(link) = told.headers.get(header::LINK).map(|link| link.to_str().unwrap().to_owned())
            else {
                continue;
            };
            paths.push(link.split(['<', '>']).nth(1).unwrap().to_owned());
        }
        for (act, body) in [
            ("start", json!({})),
            ("stop", json!({})),
            ("restart", json!({})),
            ("detach", json!({"restart": true})),
        ] {
            let path = format!("/v1/vms/{OWN}/{act}?dry_run=true");
            let told = ask(&teams.site, "POST", &path, &token, &body).await;
            assert_eq!(told.status == StatusCode::OK, role == Role::Operator, "{}", told.text);
            assert!(!told.text.contains(STRANGER), "{role} {act}: {}", told.text);
        }
    }
    assert!(told_of_own > 20, "{told_of_own}");
    // What the same routes tell somebody without a limit does name them.
    let told = ask(&teams.site, "GET", "/v1/operations", &teams.admin, &Value::Null).await;
    assert!(told.text.contains(STRANGER));
    teams.settle();
}

#[tokio::test]
async fn a_list_is_cut_into_pages_of_what_is_theirs() {
    let teams = Teams::new().await;
    let token = teams.red(Role::Viewer);
    let names = |told: &Told| {
        let vms = told.body.as_array().unwrap().iter();
        vms.map(|vm| vm["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ask(&teams.site, "GET", "/v1/vms", &token, &Value::Null).await;
    assert_eq!(names(&all), [OWN, "own-2"]);
    let first = ask(&teams.site, "GET", "/v1/vms?limit=1", &token, &Value::Null).await;
    let link = first.headers.get(header::LINK).unwrap().to_str().unwrap();
    let second = ask(&teams.site, "GET", link.split(['<', '>']).nth(1).unwrap(), &token, &Value::Null).await;
    assert_eq!((names(&first), names(&second)), (vec![OWN.to_owned()], vec!["own-2".to_owned()]));
    assert!(second.headers.get(header::LINK).is_none());
    for wrong in ["limit=0", "limit=x", "after=x", "limit=1&limit=2", "%6cimit=1&limit=1"] {
        let told = ask(&teams.site, "GET", &format!("/v1/vms?{wrong}"), &token, &Value::Null).await;
        assert!(told.status == StatusCode::UNPROCESSABLE_ENTITY || !told.text.contains(STRANGER), "{wrong}");
    }
}

#[tokio::test]
async fn a_vm_that_somebody_limited_makes_is_theirs_and_stays_so() {
    let mut teams = Teams::new().await;
    let token = teams.red(Role::Operator);
    let make = async |teams: &Teams, name: &str, labels: Value| {
        ask(&teams.site, "POST", "/v1/vms", &token, &vm(name, &labels)).await
    };
    assert_eq!(make(&teams, "new-1", json!({"tier": "gold"})).await.status, StatusCode::ACCEPTED);
    let made = ask(&teams.site, "GET", "/v1/vms/new-1", &token, &Value::Null).await;
    assert_eq!(made.body["labels"], json!({"team": "red", "tier": "gold"}));
    for labels in [json!({"team": "blue"}), json!({"team": "blue", "tier": "gold"})] {
        let told = make(&teams, "new-2", labels).await;
        assert_eq!((told.status, told.body["code"].as_str()), (StatusCode::FORBIDDEN, Some("forbidden")));
    }
    let taken = make(&teams, OTHERS, json!({})).await;
    assert_eq!((taken.status, taken.body["code"].as_str()), (StatusCode::CONFLICT, Some("vm_exists")));
    let mut thief = vm("new-3", &json!({}));
    thief["hardware"] = hardware(Some(DISK));
    let told = ask(&teams.site, "POST", "/v1/vms", &token, &thief).await;
    assert_eq!(told.status, StatusCode::FORBIDDEN, "a disk of a VM of others: {}", told.text);

    let set = async |teams: &Teams, labels: Value| {
        ask(&teams.site, "PATCH", "/v1/vms/new-1", &token, &json!({ "labels": labels })).await.status
    };
    assert_eq!(set(&teams, json!({"team": null})).await, StatusCode::FORBIDDEN);
    assert_eq!(set(&teams, json!({"team": "blue"})).await, StatusCode::FORBIDDEN);
    assert_eq!(set(&teams, json!({"tier": null, "owner": "ada"})).await, StatusCode::ACCEPTED);
    let gone = ask(&teams.site, "DELETE", "/v1/vms/new-1", &token, &Value::Null).await;
    assert_eq!(gone.status, StatusCode::ACCEPTED);
    teams.settle();
    let operation = format!("/v1/operations/{}", gone.body["operation"]["id"].as_str().unwrap());
    let told = ask(&teams.site, "GET", &operation, &token, &Value::Null).await;
    assert_eq!(told.body["state"], "succeeded", "whoever waits for the end hears of it: {}", told.text);
    assert!(teams.site.engine.view().spec.vms.keys().all(|name| !name.as_str().starts_with("new-")));
}

#[tokio::test]
async fn a_limit_holds_from_the_next_request_on_and_labels_that_change_hands_take_the_vm_along() {
    let mut teams = Teams::new().await;
    let token = teams.red(Role::Operator);
    let own = format!("/v1/vms/{OWN}");
    teams.order("PATCH", &own, json!({"labels": {"team": "blue"}})).await;
    assert_eq!(ask(&teams.site, "GET", &own, &token, &Value::Null).await.status, StatusCode::NOT_FOUND);
    teams.order("PATCH", &own, json!({"labels": {"team": "red"}})).await;
    assert_eq!(ask(&teams.site, "GET", &own, &token, &Value::Null).await.status, StatusCode::OK);
    let session = ask(&teams.site, "GET", "/v1/session", &token, &Value::Null).await.body;
    assert_eq!((&session["role"], &session["vm_labels"]), (&json!("operator"), &json!(["team=red"])));
    let wish = json!({"role": "admin", "vm_labels": ["team=red"]});
    let told = ask(&teams.site, "PUT", "/v1/users/ada", &teams.admin, &wish).await;
    assert_eq!(
        (told.status, told.body["code"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("invalid_value"))
    );
}

#[tokio::test]
async fn nobody_outside_can_say_to_what_they_are_limited() {
    let teams = Teams::new().await;
    let [limited, free] = [teams.red(Role::Viewer), token(&teams.site, "free", Role::Viewer, &[])];
    for (token, sees) in [(limited, false), (free, true)] {
        let request = Request::get("/v1/vms").header("tranche-limited-to", "team=blue");
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let told = teams.site.ask(request.body(Body::empty()).unwrap()).await;
        assert_eq!(told.text.contains(STRANGER), sees, "{}", told.text);
        assert!(told.headers.get("tranche-limited-to").is_none());
    }
}

#[tokio::test]
async fn a_name_that_is_escaped_is_no_way_around() {
    let teams = Teams::new().await;
    let token = teams.red(Role::Operator);
    let escaped = OTHERS.replace('g', "%67");
    for path in [
        format!("/v1/vms/{escaped}"),
        format!("/v1/vms/{escaped}/destinations"),
        format!("/v1/vms//{OTHERS}"),
    ] {
        let told = ask(&teams.site, "GET", &path, &token, &Value::Null).await;
        assert!(told.status.is_client_error() && !told.text.contains("\"state\""), "{path}: {}", told.text);
    }
    let told = ask(&teams.site, "POST", &format!("/v1/vms/{escaped}/stop"), &token, &json!({})).await;
    assert!(told.status.is_client_error(), "{}", told.text);
}

#[tokio::test]
async fn the_pages_of_somebody_limited_name_no_vm_of_others_and_those_that_are_left_to_them_work() {
    let teams = Teams::new().await;
    let wish = SetUser {
        role: Some(Role::Operator),
        vm_labels: Some(["team=red".parse().unwrap()].into()),
        password: Some(Secret(PASSWORD.to_owned())),
    };
    teams.site.access.accounts.set_user(&"ada".parse().unwrap(), &wish, clock::now()).unwrap();
    let secret = teams.site.log_in("ada", PASSWORD).await.body["secret"].as_str().unwrap().to_owned();
    let page = async |path: &str| {
        let cookie = format!("{}={secret}", tranche_console::SESSION_COOKIE);
        teams.site.ask(Request::get(path).header(header::COOKIE, cookie).body(Body::empty()).unwrap()).await
    };
    let overview = page("/").await;
    let menu: Vec<&str> = overview
        .text
        .split("<nav class=\"menu\"")
        .nth(1)
        .unwrap()
        .split("</nav>")
        .next()
        .unwrap()
        .split("href=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert_eq!(menu, ["/", "/gpus", "/vms", "/hosts", "/findings", "/operations", "/capacity"]);
    let gpu = format!("/gpus/node1/{}", teams.gpu);
    let others = ["/vms/new", "/vms/own-1", "/vms/own-2", "/hosts/node1", gpu.as_str()];
    for path in menu.into_iter().chain(others) {
        let told = page(path).await;
        assert_eq!(told.status, StatusCode::OK, "{path}: {}", told.text);
        assert!(!told.text.contains(STRANGER), "{path}: {}", told.text);
    }
    assert_eq!(page(&format!("/vms/{OTHERS}")).await.status, StatusCode::NOT_FOUND);
    for path in ["/rules", "/policy", "/cluster", "/access", "/audit", "/homogeneity", "/partition"] {
        let told = page(path).await;
        assert_eq!(told.status, StatusCode::FORBIDDEN, "{path}");
        assert!(!told.text.contains(STRANGER), "{path}");
    }
}

#[tokio::test]
async fn of_figures_about_vms_somebody_who_is_limited_is_told_those_of_theirs() {
    let teams = Teams::new().await;
    let red = teams.red(Role::Viewer);
    let look = async |path: &str, token: &str| ask(&teams.site, "GET", path, token, &Value::Null).await.body;
    let (all, own) = (look("/v1/overview", &teams.admin).await, look("/v1/overview", &red).await);
    assert_eq!((&all["vms"]["total"], &all["partitions"]["assigned"]), (&json!(4), &json!(2)), "{all}");
    let listed = look("/v1/vms", &red).await;
    let running = listed.as_array().unwrap().iter().filter(|vm| vm["state"] == "running").count();
    let held = listed.as_array().unwrap().iter().filter(|vm| vm["holds"] != json!([])).count();
    assert!(held < 2, "others have one: {listed}");
    assert_eq!((&own["vms"]["total"], &own["vms"]["running"]), (&json!(2), &json!(running)), "{own}");
    assert_eq!(own["partitions"]["assigned"], json!(held), "{own}");
    for count in ["total", "free", "lost"] {
        assert_eq!(own["partitions"][count], all["partitions"][count], "{count} of the site");
    }
    assert_eq!((&own["hosts"], &own["gpus"]), (&all["hosts"], &all["gpus"]));
    let (all, own) = (look("/v1/capacity", &teams.admin).await, look("/v1/capacity", &red).await);
    let protected = |told: &Value| told["hosts"][0]["protected"].as_u64().unwrap();
    assert_eq!(protected(&all), protected(&own) + 1, "one that is protected is another team's: {all} {own}");
}

/// Reads events until one is about the VM of this name; all of them, as text.
async fn events_until(body: Body, vm: &str) -> String {
    let (mut chunks, mut told) = (body.into_data_stream(), String::new());
    let until = format!("{{\"kind\":\"vm\",\"name\":\"{vm}\"}}");
    while !told.contains(&until) {
        let chunk = tokio::time::timeout(DEADLINE, chunks.next()).await.expect("an event");
        told.push_str(std::str::from_utf8(&chunk.expect("it goes on").unwrap()).unwrap());
    }
    told
}

#[tokio::test]
async fn somebody_limited_hears_of_what_happens_to_their_vms_and_of_nothing_that_happens_to_others() {
    let mut teams = Teams::new().await;
    let following = tokio::spawn(teams.site.events.clone().follow());
    let (all, own) = (teams.admin.clone(), teams.red(Role::Viewer));
    let (all, own) = (teams.site.stream(&all).await, teams.site.stream(&own).await);
    let (all, own) = (events_until(all, "own-2"), events_until(own, "own-2"));
    let happens = async {
        for name in [OTHERS, "stranger-2", "own-2"] {
            let labels = json!({"labels": {"tier": "gold"}});
            teams.order("PATCH", &format!("/v1/vms/{name}"), labels).await;
            tokio::task::yield_now().await;
        }
    };
    let (all, own, ()) = tokio::join!(all, own, happens);
    assert!(all.contains(OTHERS), "it was told to whoever may: {all}");
    assert!(!own.contains(STRANGER), "{own}");
    following.abort();
}

#[tokio::test]
async fn of_operations_and_of_what_was_measured_somebody_limited_is_told_what_is_theirs() {
    let teams = Teams::new().await;
    let token = teams.red(Role::Viewer);
    let look = async |path: &str, token: &str| ask(&teams.site, "GET", path, token, &Value::Null).await;
    let all = look("/v1/operations", &teams.admin).await.body;
    let (mut of_own, mut of_others) = (Vec::new(), 0);
    for operation in all.as_array().unwrap() {
        let (id, subject) = (operation["id"].as_str().unwrap(), operation["subject"]["name"].as_str());
        let is_own = subject.is_some_and(|subject| subject.starts_with("own-"));
        let told = look(&format!("/v1/operations/{id}"), &token).await;
        assert_eq!(told.status == StatusCode::OK, is_own, "{subject:?}: {}", told.text);
        if is_own { of_own.push(id) } else { of_others += 1 }
    }
    assert!(of_own.len() >= 4 && of_others >= 4, "{all}");
    let ids = |told: &Value| {
        told.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&look("/v1/operations", &token).await.body), of_own);
    let first = look("/v1/operations?limit=3", &token).await;
    let link = first.headers.get(header::LINK).unwrap().to_str().unwrap();
    let rest = look(link.split(['<', '>']).nth(1).unwrap(), &token).await;
    assert_eq!([ids(&first.body), ids(&rest.body)].concat(), of_own);
    assert_eq!(ids(&first.body).len(), 3, "a page is full although others have operations between them");
    for (vm, status) in
        [(OWN, StatusCode::OK), (OTHERS, StatusCode::NOT_FOUND), (NONE, StatusCode::NOT_FOUND)]
    {
        assert_eq!(look(&format!("/v1/vms/{vm}/history"), &token).await.status, status, "{vm}");
    }
}
