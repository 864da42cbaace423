//! What a cluster of three real hosts goes through: a handful of faults, by `scripts/test deb cluster`. Random ones, as many as
//! anybody likes: `tranche-lab faults` (docs/lab.md).

use std::path::PathBuf;

use tranche_lab::Progress;
use tranche_lab::cluster::ClusterOptions;
use tranche_lab::faults::{self, Fault, FaultOptions, Kind, Survived};

const DEB: &str = "TRANCHE_LAB_DEB";

fn endure(deb: PathBuf, agent: bool, faults: Vec<Fault>) -> Vec<Survived> {
    let agent = agent.then(|| env!("CARGO_BIN_EXE_tranche-lab").into());
    let options = FaultOptions {
        cluster: ClusterOptions { deb, agent, hosts: tranche_lab::cluster::HOSTS, moves: false },
        faults,
    };
    let summary = faults::run(&options, &Progress::new()).expect("a cluster that comes out of it");
    println!("{}", serde_json::to_string(&summary).expect("JSON"));
    summary.faults
}

/// The package; without one, a line says that nothing was tested.
fn deb() -> Option<PathBuf> {
    let deb = std::env::var_os(DEB).map(PathBuf::from);
    if deb.is_none() {
        println!("skipped: {DEB} names no package; scripts/test builds one and sets it");
    }
    deb
}

#[test]
fn vms_outlive_what_happens_to_hosts_daemons_and_etcd_and_never_run_twice() {
    let Some(deb) = deb() else { return };
    let survived = endure(
        deb,
        true,
        vec![
            Kind::DaemonKilled.of(0),
            Kind::DaemonKilled.of(1),
            Kind::DaemonKilled.of(2),
            Kind::LeaderKilled.of(0),
            Kind::EtcdKilled.of(1),
            Kind::EtcdLeaderKilled.of(0),
            Kind::QuorumKilled.of(2),
            Kind::PowerCut.of(0),
        ],
    );
    let power = survived.last().expect("it was done");
    assert!(!power.moved.is_empty(), "the first VM runs on node1, and it did not move: {power:?}");
}

/// Each of these takes minutes where hosts are emulated: `scripts/test deb cluster`.
#[test]
fn vms_outlive_what_takes_long() {
    let Some(deb) = deb() else { return };
    if std::env::var_os("TRANCHE_LAB_LONG").is_none() {
        println!("skipped: TRANCHE_LAB_LONG is not set; scripts/test cluster-long sets it");
        return;
    }
    // The first VMs run on node1; when that is shut down, one goes to node2, and one to node3.
    let survived = endure(
        deb,
        false,
        vec![
            Kind::Rebooted.of(0),
            Kind::ShutDown.of(0),
            Kind::NetworkCut.of(1),
            Kind::Muted.of(2),
            Kind::CutWhileDrained.of(1),
            Kind::QuorumStopped.of(0),
            Kind::LeftAndJoined.of(2),
            Kind::AllPowerCut.of(0),
        ],
    );
    let cut_off = survived.iter().find(|survived| survived.fault.contains("cut off")).expect("it was done");
    assert!(!cut_off.moved.is_empty(), "{survived:?}");
}
