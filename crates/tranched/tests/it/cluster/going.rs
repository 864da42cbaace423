//! Hosts that come with much, that leave while others decide, that are dead, and whose place other hardware takes.

use tranche_core::plan::{DownBy, HostPlan, Standing as Stands};
use tranche_core::spec::{Duty, Failover, FenceSpec, Homogeneity, HostSpec, SaidDown};
use tranched::cluster::registry::{MemberRecord, Ports};

use super::*;

/// A cluster of one.
fn first(runtime: &Runtime) -> (Machine, Cluster) {
    let mut first = Machine::new("node1").with_vms(1);
    first.sets_out(How::Begins);
    first.arrives().unwrap();
    let cluster = first.opens(runtime);
    (first, cluster)
}

fn joins(cluster: &Cluster) -> How {
    How::Joins { token: cluster.token(None).unwrap().token }
}

fn named(name: &str) -> HostName {
    name.parse().unwrap()
}

fn state(cluster: &Cluster) -> State {
    Repository::new(cluster.store().unwrap()).load().unwrap().state
}

/// What is stored about a host, in whichever record.
fn about(cluster: &Cluster, host: &str) -> Vec<String> {
    let entries = cluster.store().unwrap().range(&tranche_store::KeyRange::ALL).unwrap().entries;
    entries.into_iter().map(|entry| entry.key.to_string()).filter(|key| key.contains(host)).collect()
}

/// A VM is somewhere, and shall be off there.
fn put_vm(state: &mut State, host: &HostName, index: usize) -> VmName {
    let (name, wish) = vm(host, index);
    let planned = VmPlan::new(host.clone(), wish.id, VmGoal::Stop);
    state.plan.vms.insert(name.clone(), planned);
    state.spec.vms.insert(name.clone(), wish);
    *state.plan.generations.entry(host.clone()).or_insert(0) += 1;
    name
}

/// A member that is not there: its record, and that it stands so.
fn absent(cluster: &Cluster, host: &HostName, standing: Stands) {
    let member = MemberRecord {
        address: "10.9.9.9".to_owned(),
        ports: Ports { cluster: 1, client: 2, peer: 3 },
        role: Role::Host,
        seat: false,
        signs: false,
        key: "of the old machine".to_owned(),
        version: "0.1.0".to_owned(),
        joined_at: Timestamp(7),
        no_etcd: false,
    };
    let store = cluster.store().unwrap();
    Registry(store.as_ref()).put("lab", host, &member).unwrap();
    store_state(store, |state| {
        state.spec.hosts.insert(host.clone(), HostSpec::new(Timestamp(7)));
        state.plan.hosts.insert(host.clone(), HostPlan { standing, epoch: 1, ..HostPlan::default() });
    });
}

const DOWN: Stands = Stands::Down { since: Timestamp(8), by: DownBy::Hand };

#[test]
fn a_host_with_hundreds_of_vms_joins_although_it_is_killed_at_every_step_and_one_that_gives_up_leaves_no_trace()
 {
    let runtime = runtime();
    let (_first, cluster) = first(&runtime);
    let store = cluster.store().unwrap();
    let before = carry::records(store.as_ref()).unwrap();
    let mut second = Machine::new("node2").with_vms(300);
    let own = carry::records(&second.own()).unwrap();
    second.sets_out(joins(&cluster));
    let kills = second.arrives_although_killed(|second| {
        if second.is_under_way() {
            assert_eq!(carry::records(&second.own()).unwrap(), own);
        }
        let half = state(&cluster);
        assert!(half.spec.vms.keys().eq(half.plan.vms.keys()), "no VM is there without its host");
        let members = &half.spec.hosts;
        assert!(half.plan.vms.values().all(|vm| vm.host == named("node1") || members.contains_key(&vm.host)));
    });
    assert!(kills >= 16, "{kills}");
    let mut expected = carry::own(own);
    expected.extend(before);
    let mut brought = carry::records(store.as_ref()).unwrap();
    assert!(brought.remove(&key("spec/host/node2")).is_some());
    assert_eq!(brought, expected);
    second.store();

    let before = carry::records(store.as_ref()).unwrap();
    let mut third = Machine::new("node3").with_vms(200);
    let own = carry::records(&third.own()).unwrap();
    third.sets_out(joins(&cluster));
    third.goes_on(&|_| Ok(())).unwrap();
    let killed = |what: &str| match what.starts_with("bring the records (3") {
        true => Err(tranche_core::diagnostics::cluster_busy("die")),
        false => Ok(()),
    };
    third.goes_on(&killed).unwrap_err();
    assert!(about(&cluster, "node3-vm").len() > 100, "it was half way");
    third.running = None;
    Cluster::open(&third.config, named("node3")).unwrap().leave().unwrap();
    assert_eq!(carry::records(store.as_ref()).unwrap(), before);
    assert_eq!(about(&cluster, "node3"), [] as [String; 0]);
    assert_eq!(third.book.read().unwrap(), Standing::Alone);
    assert_eq!(carry::records(&third.own()).unwrap(), own);
    cluster.end();
}

#[test]
fn a_host_that_is_sent_a_vm_while_it_leaves_stays_a_member_and_says_so() {
    let runtime = runtime();
    let (_first, cluster) = first(&runtime);
    let mut second = Machine::new("node2");
    drop(second.own());
    second.sets_out(joins(&cluster));
    second.arrives().unwrap();
    let leaving = second.opens(&runtime);
    let (store, host) = (cluster.store().unwrap(), named("node2"));

    // It has VMs: nothing is changed.
    let mut name = None;
    store_state(store.clone(), |state| name = Some(put_vm(state, &host, 0)));
    let name = name.unwrap();
    assert_eq!(leaving.leave().unwrap_err().code, Code::HostHasVms);
    assert_eq!(state(&cluster).spec.hosts[&host].duty, Duty::Serving);
    let forget = |state: &mut State| {
        state.spec.vms.remove(&name);
        state.plan.vms.remove(&name);
    };
    store_state(store.clone(), forget);

    // From when it sets out, it takes none.
    leaving.leave().unwrap();
    assert!(leaving.is_anew());
    assert_eq!(state(&cluster).spec.hosts[&host].duty, Duty::Maintenance);
    // One was on its way.
    store_state(store.clone(), |state| drop(put_vm(state, &host, 0)));
    leaving.settle().unwrap();
    assert!(leaving.membership().is_some() && leaving.store().is_some());
    let stayed = leaving.view().stopped.expect("it says why");
    assert!(stayed.code == Code::HostHasVms && stayed.message.contains("node2-vm-0"), "{stayed}");
    assert!(state(&cluster).spec.hosts.contains_key(&host));
    store_state(store.clone(), forget);

    // One is sent between its last look and the end.
    let Config { cluster: settings, etcd, .. } = &second.config;
    let sent = Mutex::new(false);
    let tell = |what: &str| {
        if what.contains("list of hosts") && !std::mem::replace(&mut *sent.lock().unwrap(), true) {
            store_state(store.clone(), |state| drop(put_vm(state, &host, 0)));
        }
        Ok(())
    };
    let ground = Ground { book: &second.book, cluster: settings, etcd, brings: None, tell: &tell };
    let membership = second.membership();
    assert_eq!(ground.resign(&membership).unwrap_err().code, Code::HostHasVms);
    assert!(state(&cluster).spec.hosts.contains_key(&host));
    store_state(store.clone(), forget);

    // Whoever decides rests on what was: what it sends comes too late.
    let repository = Repository::new(store.clone());
    let loaded = repository.load().unwrap();
    ground.resign(&membership).unwrap();
    ground.resign(&membership).unwrap();
    let mut late = loaded.state.clone();
    put_vm(&mut late, &host, 0);
    assert!(matches!(repository.commit(loaded, late, &Terms::default()).unwrap(), Saved::Conflict(_)));
    assert!(!state(&cluster).spec.hosts.contains_key(&host));
    leaving.end();
    cluster.end();
}

#[test]
fn a_dead_host_is_removed_with_the_vms_that_belong_to_it_only_if_that_is_asked_for() {
    let runtime = runtime();
    let (_first, cluster) = first(&runtime);
    let (store, host) = (cluster.store().unwrap(), named("node9"));
    absent(&cluster, &host, Stands::Lost { since: Timestamp(8) });
    store_state(store.clone(), |state| {
        let (gpu, wish, planned) = gpu(&host, 4);
        state.spec.gpus.insert(gpu.clone(), wish);
        state.plan.gpus.insert(gpu, planned);
        for index in 0..200 {
            let name = put_vm(state, &host, index);
            state.spec.vms.get_mut(&name).unwrap().availability.failover = Failover::Stay;
        }
    });
    let protected = vm(&host, 0).0;
    let protect = |failover: Failover| {
        store_state(store.clone(), |state| {
            state.spec.vms.get_mut(&protected).unwrap().availability.failover = failover;
        });
    };
    let forgets = Removal { forget_vms: true, dry_run: false };
    assert_eq!(cluster.remove(&host, forgets).unwrap_err().code, Code::HostAlive, "they may run there");
    store_state(store.clone(), |state| state.plan.hosts.get_mut(&host).unwrap().standing = DOWN);
    protect(Failover::Restart);
    let refused = cluster.remove(&host, forgets).unwrap_err();
    assert!(refused.message.contains("node9-vm-0") && refused.message.contains("elsewhere"), "{refused}");
    protect(Failover::Stay);
    let refused = cluster.remove(&host, Removal::default()).unwrap_err();
    assert!(refused.code == Code::HostHasVms && refused.hint.contains("--forget-vms"), "{refused}");

    let before = carry::records(store.as_ref()).unwrap();
    let would = cluster.remove(&host, Removal { forget_vms: true, dry_run: true }).unwrap();
    assert_eq!(would.len(), 200);
    assert!(would.iter().all(|finding| finding.code == Code::VmForgotten), "{would:?}");
    assert_eq!(carry::records(store.as_ref()).unwrap(), before);

    assert_eq!(cluster.remove(&host, forgets).unwrap().len(), 200);
    assert_eq!(about(&cluster, "node9"), [] as [String; 0]);
    assert_eq!(state(&cluster).spec.vms.len(), 1, "others' stay");
    assert_eq!(cluster.remove(&host, forgets).unwrap_err().code, Code::HostNotFound);

    // After a restore, hosts are known that are no machines of this cluster.
    store_state(store.clone(), |state| {
        state.spec.hosts.insert(named("node8"), HostSpec::new(Timestamp(7)));
    });
    cluster.remove(&named("node8"), Removal::default()).unwrap();
    assert_eq!(about(&cluster, "node8"), [] as [String; 0]);
    cluster.end();
}

#[test]
fn other_hardware_takes_the_place_of_a_dead_host_with_its_labels_fence_and_wishes_for_gpus() {
    let runtime = runtime();
    let (_first, cluster) = first(&runtime);
    let (store, host) = (cluster.store().unwrap(), named("node2"));
    absent(&cluster, &host, DOWN);
    let (slot, wish, planned) = gpu(&host, 8);
    let agent = "fence_ipmilan".parse().unwrap();
    let fence = FenceSpec { agent, options: BTreeMap::new(), leave_off: false };
    store_state(store.clone(), |state| {
        state.spec.gpus.insert(slot.clone(), wish.clone());
        state.plan.gpus.insert(slot.clone(), planned);
        let known = state.spec.hosts.get_mut(&host).unwrap();
        known.labels.insert("rack".parse().unwrap(), "3".parse().unwrap());
        (known.fence, known.said_down, known.reserved_memory_mib) =
            (Some(fence), Some(SaidDown { epoch: 1, since: Timestamp(0) }), 512);
        let name = put_vm(state, &host, 0);
        state.spec.vms.get_mut(&name).unwrap().availability.failover = Failover::Stay;
    });
    assert_eq!(cluster.replace(&host, None, false).unwrap_err().code, Code::HostHasVms);
    assert_eq!(cluster.replace(&named("node7"), None, true).unwrap_err().code, Code::HostNotFound);
    // It can be repeated, also where it ended on the way.
    cluster.replace(&host, None, true).unwrap();
    let token = cluster.replace(&host, Some(600), true).unwrap().token;
    let left = ["plan/generation/node2", "spec/gpu/node2/0000:01:00.0", "spec/host/node2"];
    assert_eq!(about(&cluster, "node2"), left);

    let mut other = Machine::new("node3");
    drop(other.own());
    other.sets_out(How::Joins { token: token.clone() });
    let refused = other.arrives().unwrap_err();
    assert!(refused.code == Code::TokenInvalid && refused.message.contains("another name"), "{refused}");

    // The new machine stood alone before, with its GPU split otherwise.
    let mut new = Machine::new("node2").with_vms(1);
    new.sets_out(How::Joins { token });
    new.arrives_although_killed(|_| {});
    let then = state(&cluster);
    let known = &then.spec.hosts[&host];
    assert_eq!(known.labels.len(), 1);
    assert!(known.fence.is_some() && known.said_down.is_none() && known.reserved_memory_mib == 512);
    let kept = &then.spec.gpus[&slot];
    assert_eq!(kept.mode, wish.mode, "as it was asked for in the cluster");
    assert!(kept.identity.is_open());
    assert!(then.spec.vms.contains_key(&vm(&host, 0).0), "it brings its VM");
    let members = Registry(store.as_ref()).members().unwrap();
    assert_ne!(members[&host].key, "of the old machine");
    new.store();
    assert_eq!(cluster.replace(&host, None, true).unwrap_err().code, Code::HostAlive);
    cluster.end();
}

#[test]
fn a_host_whose_gpus_are_split_otherwise_is_refused_under_strict_and_let_in_with_a_warning_under_warn() {
    let runtime = runtime();
    let (_first, cluster) = first(&runtime);
    let (store, host) = (cluster.store().unwrap(), named("node2"));
    let policy =
        |homogeneity| store_state(store.clone(), |state| state.spec.policy.homogeneity = homogeneity);
    let odd = || {
        let (gpu, wish, planned) = gpu(&host, 2);
        Machine::new("node2").with(|state| {
            state.spec.gpus.insert(gpu.clone(), wish);
            state.plan.gpus.insert(gpu, planned);
        })
    };
    policy(Homogeneity::Strict);
    let token = cluster.token(None).unwrap().token;
    let mut joiner = odd();
    joiner.sets_out(How::Joins { token: token.clone() });
    let refused = joiner.arrives().unwrap_err();
    assert_eq!(refused.code, Code::BreaksHomogeneity, "{refused}");
    assert_eq!(about(&cluster, "node2"), [] as [String; 0]);

    policy(Homogeneity::Warn);
    joiner.arrives().unwrap();
    assert!(state(&cluster).spec.hosts.contains_key(&host), "its token was not used up");
    cluster.end();
}
