//! A host of a later version, whose reports cannot be read: nothing is known of it but that it lives.

use tranche_core::check;
use tranche_core::finding::Code;
use tranche_core::inventory::{HostInventory, Pulse};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::plan::{DownBy, Standing};
use tranche_core::planner::{Planned, plan};
use tranche_core::spec::{DepartureWay, Request, ShutdownPolicy};

use crate::fleet::{Fleet, node};
use crate::world::vm;

/// Two hosts, and a VM on each; of the second nothing can be read any more.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new(2, 1, 4);
    for number in [1, 2] {
        let name = format!("v{number}");
        fleet.add(&name, Request::ANY_PARTITION);
        assert!(fleet.run_on(&name, &node(number)), "there is room");
        *fleet.plan.generations.entry(node(number)).or_default() = 1;
        fleet.inventory.get_mut(&node(number)).unwrap().progress.generation = 1;
    }
    unread(&mut fleet, Pulse::default());
    fleet
}

fn unread(fleet: &mut Fleet, pulse: Pulse) {
    let mut seen = HostInventory::unread(node(2), "its form is unknown".to_owned());
    seen.pulse = Some(pulse);
    fleet.inventory.insert(node(2), seen.into());
}

fn decide(fleet: &mut Fleet) -> Vec<Code> {
    let Planned { plan: next, findings, .. } = plan(&fleet.spec, &fleet.inventory, &fleet.plan, Timestamp(9));
    assert_eq!(check::check(&next), []);
    assert_eq!(check::check_transition(&fleet.plan, &next), []);
    fleet.plan = next;
    for finding in findings.iter().filter(|finding| finding.code == Code::HostUnread) {
        assert!(finding.message.contains("host node2") && finding.message.contains("later"), "{finding}");
    }
    findings.iter().map(|finding| finding.code).collect()
}

fn home(fleet: &Fleet, name: &str) -> Option<HostName> {
    fleet.plan.vms.get(&vm(name)).map(|planned| planned.host.clone())
}

#[test]
fn what_runs_there_is_left_alone_and_nothing_is_begun_there() {
    let mut fleet = fleet();
    let before = fleet.plan.clone();
    for name in ["v3", "v4", "v5", "v6"] {
        fleet.add(name, Request::ANY_PARTITION);
    }
    let codes = decide(&mut fleet);
    assert!(codes.contains(&Code::HostUnread), "{codes:?}");
    for wrong in [Code::LibvirtDown, Code::GpuGone, Code::HostLost, Code::HostSilent, Code::HardwareChanged] {
        assert!(!codes.contains(&wrong), "{codes:?}");
    }
    assert_eq!(fleet.plan.hosts[&node(2)].standing, Standing::Up, "it lives");
    let of = |plan: &tranche_core::plan::Plan| {
        let gpus: Vec<_> = plan.gpus_of(&node(2)).map(|(key, gpu)| (key.clone(), gpu.clone())).collect();
        let held: Vec<_> = plan.bookings_of(&node(2)).map(|(slot, _)| slot.clone()).collect();
        (gpus, held, plan.generations.get(&node(2)).copied())
    };
    assert_eq!(of(&fleet.plan), of(&before));
    let homes: Vec<_> = ["v2", "v3", "v4", "v5"].map(|name| home(&fleet, name)).to_vec();
    assert_eq!(
        homes,
        [2, 1, 1, 1].map(|number| Some(node(number))),
        "the first host has room for three more"
    );
    assert!(codes.contains(&Code::NoFreePartition), "the fourth waits: {codes:?}");
}

#[test]
fn if_it_dies_its_vms_start_elsewhere_as_those_of_any_host() {
    let mut fleet = fleet();
    unread(&mut fleet, Pulse { silent_ms: 60_000, ..Pulse::default() });
    assert!(decide(&mut fleet).contains(&Code::HostUnfenced), "its watchdog is not counted on");
    assert_eq!(home(&fleet, "v2"), Some(node(2)));
    unread(&mut fleet, Pulse { silent_ms: 60_000, off: Some(DownBy::Agent), ..Pulse::default() });
    decide(&mut fleet);
    assert_eq!(home(&fleet, "v2"), Some(node(1)));
}

#[test]
fn a_departure_that_was_under_way_goes_on() {
    let mut fleet = fleet();
    fleet.spec.policy.shutdown = ShutdownPolicy::Conditional;
    let departure = tranche_core::spec::Departure {
        way: DepartureWay::Reboot,
        boot_id: "the boot before".to_owned(),
        force: false,
    };
    fleet.spec.hosts.get_mut(&node(2)).unwrap().departure = Some(departure);
    fleet.plan.hosts.get_mut(&node(2)).unwrap().departs = true;
    decide(&mut fleet);
    assert!(fleet.plan.hosts[&node(2)].departs, "whether it has booted anew, nobody knows");
}
