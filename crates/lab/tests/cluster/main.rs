//! What a cluster of three real hosts goes through: a handful of faults in CI. Random ones, as many as anybody likes:
//! `tranche-lab faults` (docs/lab.md).

use std::path::PathBuf;

use tranche_lab::Progress;
use tranche_lab::faults::{self, Fault, FaultOptions};

const DEB: &str = "TRANCHE_LAB_DEB";

#[test]
fn vms_outlive_what_happens_to_hosts_daemons_and_etcd_and_never_run_twice() {
    let Some(deb) = std::env::var_os(DEB).map(PathBuf::from) else {
        println!("skipped: {DEB} names no package; scripts/test builds one and sets it");
        return;
    };
    // The first VMs run on node1; when that is shut down, one goes to node2, and one to node3.
    let faults = vec![
        Fault::DaemonKilled(0),
        Fault::Rebooted(0),
        Fault::LeaderKilled,
        Fault::EtcdKilled(1),
        Fault::ShutDown(0),
        Fault::QuorumKilled(2),
        Fault::NetworkCut(1),
        Fault::AllPowerCut,
    ];
    let summary =
        faults::run(&FaultOptions { deb, faults }, &Progress::new()).expect("a cluster that comes out of it");
    let cut_off =
        summary.faults.iter().find(|survived| survived.fault.contains("cut off")).expect("it was done");
    assert!(!cut_off.moved.is_empty(), "{summary:?}");
    println!("{}", serde_json::to_string(&summary).expect("JSON"));
}
