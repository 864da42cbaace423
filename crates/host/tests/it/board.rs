//! Boards with several GPUs: which of them sit on one.

use std::collections::BTreeMap;
use std::sync::Arc;

use tranche_core::inventory::Telemetry;
use tranche_core::name::{PciAddress, Timestamp};
use tranche_host::Host as _;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::inspect;
use tranche_host::linux::LinuxHost;
use tranche_host::monitor::{Monitor, Reading};
use tranche_host::vm::fake::FakeHypervisor;

use crate::captured::{Captured, function};
use crate::machine::{PATIENT, at, lab_catalogue, pci};

const A16: [&str; 4] = ["10de", "25b6", "10de", "14a9"];
const A2: [&str; 4] = ["10de", "25b6", "10de", "157e"];

/// The boards of functions of one model, each below such a path.
fn boards(ids: [&str; 4], places: &[(&str, &str)]) -> Vec<Option<String>> {
    let captured = Captured::new("");
    for (group, (path, address)) in (0..).zip(places) {
        let flat = function(address, ids, "030200", group, "");
        captured.add(&flat.replace("devices/pci0000:00/", &format!("devices/{path}/")));
    }
    let seen = inspect(captured.root(), None);
    places.iter().map(|(_, address)| seen.gpus[&at(address)].board.clone()).collect()
}

fn board(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn four_gpus_behind_one_switch_are_one_board_and_those_behind_another_are_not() {
    let first = "pci0000:3a/0000:3a:00.0/0000:3b:00.0";
    let second = "pci0000:3a/0000:3a:01.0/0000:43:00.0";
    let below = |switch: &str, port: &str| format!("{switch}/{port}");
    let paths = [
        (below(first, "0000:3c:10.0"), "0000:3d:00.0"),
        (below(first, "0000:3c:11.0"), "0000:3e:00.0"),
        (below(first, "0000:3c:12.0"), "0000:3f:00.0"),
        (below(first, "0000:3c:13.0"), "0000:40:00.0"),
        (below(second, "0000:44:10.0"), "0000:45:00.0"),
    ];
    let places: Vec<(&str, &str)> = paths.iter().map(|(path, address)| (path.as_str(), *address)).collect();
    let one = board("PCI-0000:3b:00.0");
    assert_eq!(boards(A16, &places), [one.clone(), one.clone(), one.clone(), one, board("PCI-0000:43:00.0")]);
}

#[test]
fn a_servers_own_switch_does_not_make_one_board_of_two() {
    let server = "pci0000:3a/0000:3a:00.0/0000:3b:00.0";
    let first = format!("{server}/0000:3c:00.0/0000:3d:00.0/0000:3e:10.0");
    let second = format!("{server}/0000:3c:01.0/0000:4d:00.0/0000:4e:10.0");
    let found = boards(A16, &[(&first, "0000:3f:00.0"), (&second, "0000:4f:00.0")]);
    assert_eq!(found, [board("PCI-0000:3d:00.0"), board("PCI-0000:4d:00.0")]);
}

#[test]
fn gpus_of_which_a_board_has_one_or_that_hang_below_root_ports_share_no_board() {
    let switch = "pci0000:3a/0000:3a:00.0/0000:3b:00.0/0000:3c:10.0";
    assert_eq!(boards(A2, &[(switch, "0000:3d:00.0")]), [None]);
    let root_ports =
        [("pci0000:3a/0000:3a:00.0", "0000:3d:00.0"), ("pci0000:3a/0000:3a:01.0", "0000:3e:00.0")];
    assert_eq!(boards(A16, &root_ports), [None, None]);
}

/// A vendor's library that reads a serial number from each GPU.
#[derive(Debug)]
struct Serials(BTreeMap<PciAddress, &'static str>);

impl Monitor for Serials {
    fn driver(&self) -> &'static str {
        "xe"
    }

    fn look(&self) -> Result<BTreeMap<PciAddress, Reading>, String> {
        let reading = |serial: &&str| {
            let telemetry = Telemetry { serial: Some((*serial).to_owned()), ..Telemetry::default() };
            Reading { telemetry, ..Reading::default() }
        };
        Ok(self.0.iter().map(|(address, serial)| (*address, reading(serial))).collect())
    }
}

#[test]
fn where_no_switch_tells_gpus_with_one_serial_number_are_one_board() {
    let kernel = Arc::new(FakeKernel::boot(Machine::gpus(3, 4)));
    let gpus = ["0000:10:00.0", "0000:14:00.0", "0000:18:00.0"];
    let serials = gpus.map(pci).into_iter().zip(["1321020", "1321020", "1321021"]).collect();
    let vms = Box::new(FakeHypervisor::new(kernel.clone()));
    let host = LinuxHost::new("node1".parse().unwrap(), kernel, PATIENT, lab_catalogue(), vms)
        .with_monitor(Arc::new(Serials(serials)));
    let seen = host.observe(Timestamp(1));
    let found = gpus.map(|gpu| seen.gpus[&at(gpu)].board.clone());
    assert_eq!(found, [board("SN-1321020"), board("SN-1321020"), None]);
}
