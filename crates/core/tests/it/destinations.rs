//! Where a VM that runs could go, and what stands against moving it there while it runs.

use tranche_core::finding::Code;
use tranche_core::inventory::{Certainty, Evidence, Gpu, HostInventory, MigrationBlocker, MigrationFacts};
use tranche_core::journey::Migration;
use tranche_core::migration::{Outlook, Way, outlooks};
use tranche_core::spec::{Request, Run};

use crate::fleet::{Fleet, node};
use crate::led::Cluster;
use crate::world::vm;

/// Three hosts with room for two VMs each, and a VM on the first.
fn cluster() -> Cluster {
    let mut fleet = Fleet::new(3, 1, 2);
    fleet.add("a", Request::ANY_PARTITION);
    fleet.inventory.change_each(|_, seen| seen.progress.travels = true);
    let mut cluster = Cluster::new(fleet);
    cluster.pass();
    cluster
}

fn change_host(cluster: &mut Cluster, number: usize, change: impl FnOnce(&mut HostInventory)) {
    change(cluster.fleet.inventory.get_mut(&node(number)).unwrap());
}

fn change_gpu(cluster: &mut Cluster, number: usize, change: impl FnOnce(&mut Gpu)) {
    change_host(cluster, number, |seen| change(seen.gpus.values_mut().next().unwrap()));
}

fn facts(stop_copy: Certainty, device_log: Certainty) -> MigrationFacts {
    let of = |certainty| Evidence { certainty, source: "a test".to_owned() };
    MigrationFacts { stop_copy: of(stop_copy), device_dirty_log: of(device_log), ..MigrationFacts::default() }
}

/// All GPUs are able to move.
fn make_able(cluster: &mut Cluster) {
    for number in 1..=3 {
        let able = facts(Certainty::Proven, Certainty::Proven);
        change_gpu(cluster, number, |gpu| gpu.migration = Some(able));
    }
}

fn to(cluster: &Cluster, number: usize) -> Outlook {
    let told = outlooks(&vm("a"), cluster.state()).expect("it runs");
    assert!(told.iter().all(|outlook| outlook.host != node(1)), "it runs there: {told:?}");
    told.into_iter().find(|outlook| outlook.host == node(number)).expect("each other host is told of")
}

fn obstacles(outlook: &Outlook) -> Vec<Code> {
    let way = if outlook.live_obstacles.is_empty() { Way::Live } else { Way::Restart };
    assert_eq!((outlook.way, outlook.why_not.as_slice()), (way, &[][..]));
    outlook.live_obstacles.iter().map(|finding| finding.code).collect()
}

#[test]
fn what_is_not_known_of_a_device_stands_against_moving_it_live_and_lets_it_be_restarted() {
    let mut cluster = cluster();
    let told = to(&cluster, 2);
    let of_each_host = [Code::LiveDevice, Code::LiveDirtyLog];
    assert_eq!(obstacles(&told), [of_each_host, of_each_host].concat());
    assert!(told.live_obstacles[0].message.contains("not known"), "{told:?}");
    make_able(&mut cluster);
    assert_eq!(obstacles(&to(&cluster, 2)), []);
    change_gpu(&mut cluster, 2, |gpu| gpu.migration = Some(facts(Certainty::Refused, Certainty::Proven)));
    let told = to(&cluster, 2);
    assert_eq!(obstacles(&told), [Code::LiveDevice]);
    assert!(told.live_obstacles[0].message.contains("does not hand out"), "{told:?}");
    assert_eq!(obstacles(&to(&cluster, 3)), [], "each host is judged by itself");
}

#[test]
fn the_iommus_log_counts_only_where_kernel_qemu_and_libvirt_can_read_it() {
    let mut cluster = cluster();
    make_able(&mut cluster);
    let by_iommu = MigrationFacts {
        iommu_dirty_log: Evidence { certainty: Certainty::Claimed, source: "ecap".to_owned() },
        ..facts(Certainty::Proven, Certainty::Refused)
    };
    change_gpu(&mut cluster, 2, |gpu| gpu.migration = Some(by_iommu));
    let told = to(&cluster, 2);
    assert_eq!(obstacles(&told), [Code::LiveDirtyLog]);
    assert!(told.live_obstacles[0].message.contains("/dev/iommu"), "{told:?}");
    change_host(&mut cluster, 2, |seen| seen.system.iommufd = true);
    let told = to(&cluster, 2);
    assert!(told.live_obstacles[0].message.contains("libvirt"), "{told:?}");
    for number in 1..=3 {
        change_host(&mut cluster, number, |seen| {
            let tranche_core::inventory::Hypervisor::Up { libvirt, qemu, .. } = &mut seen.hypervisor else {
                panic!("it is up")
            };
            (*libvirt, *qemu) = ("12.1.0".to_owned(), "10.0.2".to_owned());
        });
    }
    assert_eq!(obstacles(&to(&cluster, 2)), []);
}

#[test]
fn what_the_guest_would_see_change_stands_against_moving_it_live() {
    let mut cluster = cluster();
    make_able(&mut cluster);
    change_gpu(&mut cluster, 2, |gpu| gpu.driver_version = Some("1.2.3".to_owned()));
    change_gpu(&mut cluster, 1, |gpu| gpu.driver_version = Some("1.2.4".to_owned()));
    change_host(&mut cluster, 3, |seen| seen.system.cpu_model = "another processor".to_owned());
    assert!(obstacles(&to(&cluster, 2)).contains(&Code::LiveUnlike));
    assert!(obstacles(&to(&cluster, 3)).contains(&Code::LiveProcessor));
}

#[test]
fn a_processor_of_the_same_model_that_lacks_what_the_guest_may_use_is_no_destination() {
    let mut cluster = cluster();
    make_able(&mut cluster);
    let set = |cluster: &mut Cluster, number, features: &[&str]| {
        let features = features.iter().map(|name| (*name).to_owned()).collect();
        change_host(cluster, number, |seen| seen.system.cpu_features = features);
    };
    set(&mut cluster, 1, &["avx2", "avx512f", "rtm"]);
    set(&mut cluster, 2, &["avx2"]);
    let told = to(&cluster, 2);
    assert!(obstacles(&told).contains(&Code::LiveProcessor));
    let lacks = told.live_obstacles.iter().find(|finding| finding.code == Code::LiveProcessor).unwrap();
    let message = &lacks.message;
    assert!(message.contains("lacks avx512f, rtm."), "{message}");
    assert_eq!(obstacles(&to(&cluster, 3)), [], "of that one nothing is known");
    set(&mut cluster, 2, &["avx2", "avx512f", "la57", "rtm"]);
    assert_eq!(obstacles(&to(&cluster, 2)), [], "it has more");
}

#[test]
fn what_a_move_would_cost_is_foreseen_from_what_was_measured() {
    let mut cluster = cluster();
    make_able(&mut cluster);
    let foreseen =
        |cluster: &Cluster, number| to(cluster, number).forecast.expect("nothing stands against it");
    let told = foreseen(&cluster, 2);
    assert_eq!((told.dirty_mib_s, told.is_link_measured), (None, false));
    change_host(&mut cluster, 1, |seen| {
        seen.progress.dirty_mib_s.insert(vm("a"), 50);
        seen.progress.links_mib_s.insert(node(2), 1_000);
    });
    let (fast, slow) = (foreseen(&cluster, 2), foreseen(&cluster, 3));
    assert_eq!((fast.dirty_mib_s, fast.link_mib_s, fast.is_link_measured), (Some(50), 1_000, true));
    assert!(!slow.is_link_measured && slow.pause_ms > fast.pause_ms && slow.total_ms > fast.total_ms);
    cluster.fleet.spec.vms.get_mut(&vm("a")).unwrap().availability.migration = Migration::Restart;
    assert_eq!(to(&cluster, 2).forecast, None, "it is not asked for");
}

#[test]
fn a_guest_that_would_stand_still_for_longer_than_it_may_is_not_moved_live_to_that_host() {
    let mut cluster = cluster();
    make_able(&mut cluster);
    change_host(&mut cluster, 1, |seen| {
        seen.progress.links_mib_s.insert(node(2), 10_000);
    });
    let pause_ms = to(&cluster, 2).forecast.unwrap().pause_ms;
    let may = |cluster: &mut Cluster, ms: u64| {
        let availability = &mut cluster.fleet.spec.vms.get_mut(&vm("a")).unwrap().availability;
        availability.pace.pause_ms = Some(u32::try_from(ms).unwrap());
    };
    may(&mut cluster, pause_ms);
    assert_eq!(obstacles(&to(&cluster, 2)), []);
    assert_eq!(obstacles(&to(&cluster, 3)), [Code::LivePause]);
    may(&mut cluster, pause_ms - 1);
    let told = to(&cluster, 2);
    assert_eq!(obstacles(&told), [Code::LivePause]);
    assert!(told.live_obstacles[0].message.contains("the link carries 10000 MiB/s"), "{told:?}");
    assert!(told.forecast.is_some(), "what it rests on is told all the same");
}

#[test]
fn what_ties_the_guests_machine_to_its_host_stands_against_moving_it_live() {
    let mut cluster = cluster();
    make_able(&mut cluster);
    change_host(&mut cluster, 1, |seen| {
        let tranche_core::inventory::Hypervisor::Up { domains, .. } = &mut seen.hypervisor else {
            panic!("it is up")
        };
        let domain = domains.get_mut("a").unwrap();
        domain.machine = Some("pc-q35-99.0".to_owned());
        domain.blockers.insert(MigrationBlocker::Viommu);
    });
    assert_eq!(obstacles(&to(&cluster, 2)), [Code::LiveGuest, Code::LivePrograms]);
}

#[test]
fn a_host_that_cannot_run_it_says_why_and_nothing_of_live_migration() {
    let mut cluster = cluster();
    for (name, number) in [("b", 2), ("c", 2)] {
        cluster.fleet.add(name, Request::ANY_PARTITION);
        cluster.pass();
        let change = tranche_core::change::Change::MigrateVm { name: vm(name), to: Some(node(number)) };
        if cluster.at(name) != Some(node(number)) {
            cluster.wants(&change).expect("there is room");
            cluster.pass();
        }
        assert_eq!(cluster.at(name), Some(node(number)));
    }
    let told = to(&cluster, 2);
    assert_eq!(told.way, Way::Neither);
    assert!(told.why_not.iter().any(|finding| finding.code == Code::NoFreePartition), "{told:?}");
    assert_eq!(told.live_obstacles, []);
    assert_eq!(to(&cluster, 3).way, Way::Restart);
}

#[test]
fn how_a_vm_would_go_is_what_is_possible_of_what_it_is_meant_to() {
    let mut cluster = cluster();
    make_able(&mut cluster);
    change_host(&mut cluster, 3, |seen| seen.progress.travels = false);
    for (migration, able, unable) in [
        (Migration::LiveOrRestart, Way::Live, Way::Restart),
        (Migration::LiveOnly, Way::Live, Way::Neither),
        (Migration::Restart, Way::Restart, Way::Restart),
    ] {
        cluster.fleet.spec.vms.get_mut(&vm("a")).unwrap().availability.migration = migration;
        assert_eq!((to(&cluster, 2).way, to(&cluster, 3).way), (able, unable), "{migration:?}");
        let told = to(&cluster, 3).live_obstacles;
        assert!(matches!(&told[..], [one] if one.message.contains("node3")), "{told:?}");
    }
}

#[test]
fn only_a_vm_that_runs_in_a_cluster_has_destinations() {
    let mut cluster = cluster();
    let refused = |cluster: &Cluster, name: &str| {
        outlooks(&vm(name), cluster.state()).expect_err("it is refused")[0].code
    };
    assert_eq!(refused(&cluster, "ghost"), Code::VmNotFound);
    let wish = cluster.fleet.spec.vms.get_mut(&vm("a")).unwrap();
    (wish.run, wish.serial) = (Run::Killed, wish.serial + 1);
    cluster.pass();
    assert_eq!(refused(&cluster, "a"), Code::VmNotRunning);
}
