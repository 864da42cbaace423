//! What stands on pages, and what never does.

use axum::http::StatusCode;
use tranche_core::access::{Role, needed};

use crate::fixture::World;
use crate::visit::{Browser, EVIL};

/// Every page, and something that must stand on it.
const PAGES: &[(&str, &[&str])] = &[
    (
        "/",
        &[
            "Overview",
            "19 running, 1 waiting",
            "2 errors",
            "short",
            "gpu_sick",
            "Drain its host",
            "start VM desk-01",
        ],
    ),
    ("/gpus", &["node4", "NVIDIA L40S", "sick", "passed through", "pool render", "desk-01", "12Q"]),
    ("/gpus?host=node1", &["node1", "2 of 8 GPUs"]),
    (
        "/gpus/node1/0000:41:00.0",
        &[
            "10de:26b9:10de:1851",
            "1650522003849",
            "HDSup",
            "proven",
            "4 partitions, 11.9 GiB each",
            "Load, partition 1",
            "76\u{a0}%",
        ],
    ),
    ("/partition", &["Set 1", "node1/0000:41:00.0", "Memory per partition"]),
    ("/vms", &["desk-01", "moving", "to node2", "no_free_partition"]),
    ("/vms?state=waiting", &["desk-22", "1 of 23 VMs"]),
    ("/vms/new", &["Name", "cloud-init", "12Q"]),
    (
        "/vms/desk-01",
        &[
            "node2",
            "at least 1.8 s",
            "live_dirty_log",
            "win11",
            "Turn off",
            "Take its GPU",
            "Restarts on one host",
        ],
    ),
    ("/gpus/node1/0000:41:00.0?range=7d", &["aria-current=\"true\">7 days", "history?range=7d"]),
    ("/vms/desk-05", &["Start", "Give it a GPU", "History", "It cannot be."]),
    ("/vms/desk-22", &["Nothing was measured", "Why it waits", "node3", "cannot run", "gpu_sick"]),
    ("/hosts", &["failover on", "node2", "maintenance", "down", "armed", "2 of 8"]),
    (
        "/hosts/node3",
        &[
            "EPYC",
            "ivhd0",
            "fence_ipmilan",
            "rack=r1",
            "sriov_numvfs",
            "Drain",
            "secret:NAME",
            "Before its power goes",
        ],
    ),
    ("/hosts/node2", &["Let it serve again", "in maintenance"]),
    ("/homogeneity", &["driver version", "slight", "live migration", "570.133.10", "apt install"]),
    ("/capacity", &["What could start", "pool render", "desk-01", "What if hosts died"]),
    ("/capacity?without=node1&without=node2", &["12Q"]),
    ("/operations", &["start VM desk-03", "failed", "2025-12-30 13:06:40 UTC"]),
    ("/operations/00000000-0000-0000-0000-000000001000", &["is given type 12Q", "60"]),
    ("/findings", &["Errors (2)", "Bring the driver of node4"]),
    ("/findings?severity=warning", &["desk-22"]),
    ("/rules", &["apart", "strict", "desk-02", "on node1 (10), node2 (5), and back", "New rule"]),
    ("/rules/edit", &["Name", "They run", "Each as key=value"]),
    ("/rules/edit?rule=home", &["Rule home", "node1:10, node2:5", "desk-03"]),
    ("/policy", &["pack: fill a GPU", "5000 ms after its last heartbeat", "Lost after ms", "all there is"]),
    (
        "/cluster",
        &[
            "studio",
            "is a member",
            "the loss of 1 member of its store",
            "witness",
            "leads",
            "silent",
            "21 MiB",
            "The clock of host node3",
            "it is away: mend it first",
            "tranche host drain node2",
            "not without stopping VMs",
            "tranche cluster init",
            "Make a join token",
        ],
    ),
    ("/adopt", &["Its definition stays", "12Q", "Priority"]),
    (
        "/invitations",
        &[
            "open",
            "over",
            "coming",
            "arrived",
            "did not come",
            "far",
            "000000000002",
            "This host is in a cluster",
        ],
    ),
    ("/access", &["kim", "grafana", "only a link lets them in"]),
    ("/audit", &["maria", "POST /v1/vms/desk-01/start", "409", "state", "stopped"]),
];
/// Pages that follow on a form.
const ANSWERS: &[(&str, &[(&str, &str)])] = &[
    ("/partition", &[("gpu", "node1/0000:41:00.0"), ("count", "8")]),
    ("/gpus/node1/0000:41:00.0/mode", &[("mode", "host"), ("drain", "on")]),
    ("/vms/desk-01/stop", &[]),
    ("/vms/desk-01/migrate", &[("to", "node2")]),
    ("/vms/desk-05/attach", &[("gpu", "any")]),
    ("/vms/desk-01/detach", &[]),
    ("/vms/desk-01/delete", &[("force", "on")]),
    ("/vms/refused/kill", &[]),
    ("/vms/desk-01/handover", &[("to", EVIL), ("token", EVIL)]),
    ("/vms/desk-01/handover", &[("token", "")]),
    ("/vms/desk-01/take-back", &[("force", "on")]),
    ("/vms/refused/take-over", &[]),
    ("/vms/refused/handover", &[("to", EVIL), ("token", EVIL)]),
    ("/invitations", &[("minutes", "10")]),
    ("/invitations", &[("minutes", EVIL)]),
    ("/failover/pause", &[]),
    (
        "/vms/new",
        &[("name", "new-1"), ("vcpus", "2"), ("memory_mib", "2048"), ("gpu", "none"), ("networks", EVIL)],
    ),
    ("/vms/new", &[("name", "new-1"), ("vcpus", EVIL)]),
    ("/hosts/node3/drain", &[]),
    ("/hosts/node3/depart-reboot", &[]),
    ("/hosts/node3/set", &[("labels", "rack=r2"), ("agent", "fence_ipmilan"), ("options", "ip=192.0.2.9")]),
    ("/hosts/node3/set", &[("labels", EVIL), ("agent", EVIL), ("options", EVIL), ("was", EVIL)]),
    ("/policy", &[("placement", "spread")]),
    ("/policy", &[("placement", EVIL), ("vcpus_per_cpu", EVIL), ("was", EVIL)]),
    ("/rules/edit", &[("name", "pair"), ("kind", "together"), ("vms", "desk-01, desk-02")]),
    ("/rules/edit", &[("name", EVIL), ("kind", EVIL), ("vms", EVIL), ("hosts", EVIL), ("labels", EVIL)]),
    ("/rules/edit", &[("name", "refused"), ("kind", "together"), ("vms", "desk-01")]),
    ("/rules/delete", &[("name", "apart")]),
    ("/vms/desk-01/set", &[("failover", "stay"), ("reserved", "true")]),
    ("/vms/desk-01/set", &[("priority", EVIL), ("pause_ms", EVIL), ("was", EVIL)]),
    ("/adopt", &[("name", "old-1"), ("gpu", "none")]),
    ("/adopt", &[("name", EVIL), ("gpu", "profile"), ("profile", EVIL), ("pool", EVIL)]),
    ("/cluster/tokens", &[("minutes", "30")]),
    ("/cluster/tokens", &[("minutes", EVIL)]),
    ("/cluster/gone", &[("host", "node4"), ("then", "forget")]),
    ("/cluster/gone", &[("host", "refused"), ("then", "replace"), ("token_minutes", EVIL)]),
    ("/cluster/gone", &[("host", "refused"), ("then", EVIL)]),
    ("/access/users/kim/link", &[]),
    ("/access/tokens", &[("token", "ci"), ("token_role", "viewer"), ("days", "7")]),
];

#[tokio::test]
async fn each_page_shows_what_matters_there() {
    let browser = Browser::of(Role::Admin);
    for (path, texts) in PAGES {
        let page = browser.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        for text in *texts {
            assert!(page.text.contains(text), "{path} lacks {text:?}: {}", page.text);
        }
    }
}

/// Every page, and every answer to a form, in a world whose texts are hostile.
async fn everything(role: Role) -> Vec<(String, crate::visit::Seen)> {
    let browser = Browser::in_world(role, World::small(EVIL));
    let mut seen = Vec::new();
    let paths = PAGES
        .iter()
        .map(|(path, _)| *path)
        .filter(|path| role == Role::Admin || !["/access", "/audit"].contains(path));
    let hostile = crate::visit::encoded(&[
        ("text", EVIL),
        ("host", EVIL),
        ("why", EVIL),
        ("severity", EVIL),
        ("next", EVIL),
        ("link", EVIL),
    ]);
    let queries: Vec<String> = ["/vms", "/gpus", "/findings", "/vms/desk-22", "/login"]
        .map(|path| format!("{path}?{hostile}"))
        .to_vec();
    for path in paths.map(str::to_owned).chain(queries).chain(["/nothing".to_owned()]) {
        seen.push((path.clone(), browser.get(&path).await));
    }
    for (path, fields) in ANSWERS {
        seen.push(((*path).to_owned(), browser.post(path, fields).await));
    }
    seen
}

#[tokio::test]
async fn text_from_outside_never_becomes_markup() {
    for (path, page) in everything(Role::Admin).await {
        let text = page.text.to_lowercase();
        for bad in ["<script>", "alert(\"1\")", "<img", "onerror=y>"] {
            assert!(!text.contains(bad), "{path} has {bad:?}: {}", page.text);
        }
        // It does stand there, as text: at least in who is logged in.
        let shows = text.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;");
        assert!(shows || page.status.is_redirection(), "{path}: {}", page.text);
    }
}

#[tokio::test]
async fn no_page_needs_what_the_policy_forbids() {
    for (path, page) in everything(Role::Admin).await {
        let tags: Vec<&str> =
            page.text.split('<').skip(1).filter_map(|rest| rest.split('>').next()).collect();
        for tag in tags {
            let attributes = tag.split('"').step_by(2).collect::<String>();
            let names =
                attributes.split_whitespace().skip(1).map(|part| part.split('=').next().unwrap_or_default());
            for attribute in names {
                assert!(
                    attribute != "style" && !attribute.starts_with("on") && !attribute.starts_with("hx-on"),
                    "{path}: {tag}"
                );
            }
            assert!(!tag.starts_with("script") || tag.contains(" src=\"/assets/"), "{path}: {tag}");
            assert!(!tag.starts_with("style"), "{path}: {tag}");
        }
    }
}

#[tokio::test]
async fn each_form_needs_no_more_than_its_visitor_may() {
    for role in Role::ALL {
        for (path, page) in everything(role).await {
            for needs in page.attributes("data-needs") {
                let (method, rest) = needs.split_once(' ').unwrap();
                assert!(role >= needed(method, rest), "{role} gets a form for {needs} at {path}");
            }
            let posts = page.text.matches("method=\"post\"").count();
            let known = page.attributes("data-needs").len() + usize::from(path.starts_with("/login"));
            assert_eq!(posts, known, "{path} has a form that nobody vouches for");
        }
    }
}

#[tokio::test]
async fn a_viewer_sees_no_form_that_changes_anything_but_the_way_out() {
    let browser = Browser::of(Role::Viewer);
    for (path, _) in PAGES.iter().filter(|(path, _)| !["/access", "/audit"].contains(path)) {
        let page = browser.get(path).await;
        assert_eq!(page.attributes("data-needs"), ["DELETE /v1/session"], "{path}");
    }
    let page = browser.get("/").await;
    assert!(!page.text.contains("href=\"/access\""));
}

#[tokio::test]
async fn a_refusal_is_a_page_with_its_status_what_is_wrong_and_what_to_do() {
    let browser = Browser::of(Role::Operator);
    let page = browser.get("/vms/none").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    for text in ["It cannot be.", "Do something else.", "vm_not_found", "href=\"/vms\" aria-current"] {
        assert!(page.text.contains(text), "{text}: {}", page.text);
    }
    for path in ["/nothing", "/vms/no%20name", "/gpus/node1/x:y", "/v1/vms"] {
        assert_eq!(browser.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_page_reads_itself_anew_and_leaves_forms_alone() {
    let browser = Browser::of(Role::Admin);
    let page = browser.get("/gpus/node1/0000:41:00.0?asked=x").await;
    assert_eq!(page.attributes("sse-connect"), ["/events"]);
    assert_eq!(page.attributes("hx-get"), ["/gpus/node1/0000:41:00.0?asked=x"]);
    let live = page.text.split("data-live").nth(1).unwrap().split("</section>").next().unwrap();
    assert!(live.contains("Hardware") && !live.contains("<select"), "{live}");
    let answer = browser.post("/vms/desk-01/stop", &[]).await;
    assert!(answer.attributes("sse-connect").is_empty(), "an answer to a form cannot be read anew");
}

#[tokio::test]
async fn only_a_silent_host_can_be_said_to_be_down_and_only_by_administrators() {
    let mut world = World::small("");
    let since = world.hosts[0].observed_at;
    world.hosts[0].member.as_mut().unwrap().standing = tranche_core::plan::Standing::Lost { since };
    for (role, host, may) in
        [(Role::Admin, "node1", true), (Role::Operator, "node1", false), (Role::Admin, "node3", false)]
    {
        let page = Browser::in_world(role, world.clone()).get(&format!("/hosts/{host}")).await;
        assert_eq!(page.text.contains("Say that it is down"), may, "{role} {host}");
    }
}

#[tokio::test]
async fn a_vm_may_be_called_like_the_page_that_makes_vms() {
    let mut world = World::small("");
    world.vms[0].name = "new".parse().unwrap();
    let browser = Browser::in_world(Role::Operator, world);
    let list = browser.get("/vms").await;
    assert!(list.attributes("href").contains(&"/vms/%6Eew"), "{}", list.text);
    let page = browser.get("/vms/%6Eew").await;
    assert!(page.text.contains("<h1>new</h1>") && page.text.contains("Turn off"), "{}", page.text);
    assert!(browser.get("/vms/new").await.text.contains("cloud-init"));
    browser.post("/vms/%6Eew/stop", &[]).await;
    assert_eq!(browser.fake.changes()[0].path, "/v1/vms/new/stop");
}

#[tokio::test]
async fn where_no_gpu_can_be_split_the_page_says_what_to_look_at() {
    let mut world = World::small("");
    for gpu in &mut world.gpus {
        gpu.valid_counts.clear();
    }
    let page = Browser::in_world(Role::Admin, world).get("/partition").await;
    assert!(
        page.text.contains("No partitionable GPUs have been found") && page.text.contains("SR-IOV"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn where_gpus_are_of_several_kinds_the_largest_set_is_chosen_and_that_is_said() {
    let mut world = World::small("");
    world.gpus[0].vram_mib = Some(24_576);
    let page = Browser::in_world(Role::Admin, world).get("/partition").await;
    assert!(page.text.contains("Not all GPUs of all hosts have the same configuration"), "{}", page.text);
    let boxes: Vec<&str> = page.text.split("type=\"checkbox\" name=\"gpu\"").skip(1).collect();
    let chosen = boxes.iter().filter(|rest| rest.split('>').next().unwrap().contains(" checked")).count();
    assert_eq!((boxes.len(), chosen), (7, 6));
    assert_eq!(page.text.matches("<optgroup").count(), 2, "each set has its own counts");
}

#[tokio::test]
async fn a_large_cluster_fits_on_pages() {
    let browser = Browser::in_world(Role::Admin, World::of_size(100, 8, 5_000, ""));
    let overview = browser.get("/").await.text.len();
    assert!(overview < 300_000, "the overview has {overview} bytes");
    let vms = browser.get("/vms?page=3").await;
    assert_eq!(vms.text.matches("<th scope=\"row\">").count(), 100);
    assert!(vms.text.contains("201\u{2013}300 of 5000"), "{}", vms.text);
    for path in ["/vms", "/gpus", "/hosts", "/partition", "/capacity", "/operations"] {
        let page = browser.get(path).await;
        assert!(page.text.len() < 500_000, "{path} has {} bytes", page.text.len());
    }
}
