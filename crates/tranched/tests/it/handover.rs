//! VMs that go from one host to another that share no store: two daemons, TLS on loopback, fake kernels. What both decide, the core's
//! tests have; here is how they talk.

use hyper::Method;
use serde_json::{Value, json};
use tranche_core::change::Change;
use tranche_core::name::GpuKey;
use tranche_host::fake::Machine;
use tranched::clock;

use crate::desk::{create, gpu, partitioned, start, vm};
use crate::ports::Ports;
use crate::served::Served;

struct Two {
    _ports: Ports,
    here: Served,
    there: Served,
}

impl Two {
    /// Two hosts with a GPU in four parts each, and a VM that runs on the first.
    async fn start() -> Self {
        let ports = Ports::claim(2);
        let address = |index: usize| Some(format!("127.0.0.1:{}", ports.numbers[index]));
        let here = Served::named("node1", Machine::preset("gpus").unwrap(), address(0)).await;
        let there = Served::named("node2", Machine::preset("gpus").unwrap(), address(1)).await;
        for (served, host) in [(&here, "node1"), (&there, "node2")] {
            let gpu = GpuKey { host: host.parse().unwrap(), ..gpu(SPLIT) };
            served.wants(&Change::SetGpuMode { gpu: gpu.clone(), mode: partitioned(2) });
            served
                .until("the GPU is split", |view| {
                    view.inventory.values().any(|seen| seen.gpus[&gpu.address].partitions.len() == 2)
                })
                .await;
        }
        here.wants(&create("desk"));
        here.wants(&start("desk"));
        let two = Self { _ports: ports, here, there };
        two.here.until("the VM runs", |view| runs(view, "desk")).await;
        two
    }

    /// The token, and where it is good.
    async fn invite(&self) -> (String, String) {
        // The console opens at its own time.
        loop {
            let made = self.there.post("/v1/invitations", &json!({})).await;
            if made.status == 201 {
                let made = made.json();
                return (made["token"].as_str().unwrap().to_owned(), made["to"].as_str().unwrap().to_owned());
            }
            assert_eq!(made.problem(), (503, "peer_silent".to_owned()));
        }
    }
}

/// A GPU of the preset that SR-IOV splits.
const SPLIT: u8 = 1;

fn runs(view: &tranched::engine::View, name: &str) -> bool {
    let settled = view.plan.vms.get(&vm(name)).and_then(|planned| planned.settled.as_ref());
    settled.is_some_and(|settled| settled.running)
}

impl Served {
    #[track_caller]
    fn wants(&self, change: &Change) {
        self.engine.submit(change, false, clock::now()).expect("it is accepted");
        self.ring();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_goes_to_a_host_that_shares_nothing_and_its_old_host_forgets_it() {
    let two = Two::start().await;
    let (token, to) = two.invite().await;
    let asked = json!({ "to": to, "token": token });
    let outlook = two.here.post("/v1/vms/desk/handover?dry_run=true", &asked).await;
    assert_eq!(outlook.status, 200, "{}", outlook.text);
    assert_eq!((&outlook.json()["host"], &outlook.json()["way"]), (&json!("node2"), &json!("restart")));
    assert!(
        !outlook.json()["live_obstacles"].as_array().unwrap().is_empty(),
        "it says why it is no live move"
    );
    let id = two.here.engine.view().spec.vms[&vm("desk")].id;
    let accepted = two.here.post("/v1/vms/desk/handover", &asked).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    assert!(!accepted.text.contains(&token), "nobody is told the token again");
    two.there
        .until("the VM runs there, and is its own", |view| {
            let known = view.spec.vms.get(&vm("desk"));
            known.is_some_and(|spec| spec.id == id && spec.handover.is_none()) && runs(view, "desk")
        })
        .await;
    two.here
        .until("it is forgotten here", |view| {
            !view.spec.vms.contains_key(&vm("desk")) && view.plan.bookings.is_empty()
        })
        .await;
    let operation = accepted.json()["operation"]["id"].as_str().unwrap().to_owned();
    two.here
        .until("the operation is over", |view| {
            view.operations.values().any(|one| one.id.to_string() == operation && one.state.is_over())
        })
        .await;
    let operation = two.here.get(&format!("/v1/operations/{operation}")).await.json();
    assert_eq!(operation["state"], "succeeded", "{operation}");
    let listed = two.there.get("/v1/invitations").await;
    assert_eq!((&listed.json()[0]["state"], &listed.json()[0]["vm"]), (&json!("arrived"), &json!("desk")));
    assert!(!listed.text.contains(&token));
    // The token is used up.
    two.here.wants(&create("other"));
    two.here.wants(&start("other"));
    two.here.until("another VM runs", |view| runs(view, "other")).await;
    let refused = two.here.post("/v1/vms/other/handover", &asked).await;
    assert_eq!(refused.problem(), (403, "invitation_refused".to_owned()));
    assert!(runs(&two.here.engine.view(), "other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_of_that_very_host_moves_nothing_and_is_told_to_nobody() {
    let two = Two::start().await;
    let (token, to) = two.invite().await;
    let own = two.here.post("/v1/invitations", &json!({})).await.json();
    let refusals: [(Value, &str); 4] = [
        (json!({ "to": to, "token": "TRANCHEVM1.nonsense" }), "invitation_refused"),
        (json!({ "to": "http://plain", "token": token }), "invalid_value"),
        // Another host's certificate: nothing is sent to it.
        (json!({ "to": own["to"], "token": token }), "peer_silent"),
        (json!({ "to": "https://127.0.0.1:1", "token": token }), "peer_silent"),
    ];
    for (asked, code) in refusals {
        let refused = two.here.post("/v1/vms/desk/handover", &asked).await;
        assert_eq!(refused.problem().1, code, "{asked}");
    }
    assert!(two.here.engine.view().spec.vms[&vm("desk")].handover.is_none());
    let id = two.there.get("/v1/invitations").await.json()[0]["id"].as_str().unwrap().to_owned();
    let withdrawn = two.there.send(Method::DELETE, &format!("/v1/invitations/{id}"), None).await;
    assert_eq!(withdrawn.status, 202, "{}", withdrawn.text);
    let refused = two.here.post("/v1/vms/desk/handover", &json!({ "to": to, "token": token })).await;
    assert_eq!(refused.problem(), (403, "invitation_refused".to_owned()));
    let too_long = two.there.post("/v1/invitations", &json!({ "minutes": 1_441 })).await;
    assert_eq!(too_long.problem(), (422, "invalid_value".to_owned()));
}
