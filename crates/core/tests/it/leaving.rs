//! What becomes of VMs and GPUs of a host that left, was never heard of, is dead, or was replaced.

use tranche_core::change::{Change, NewVm, State, admit};
use tranche_core::check;
use tranche_core::finding::Code;
use tranche_core::identity::GpuIdentity;
use tranche_core::inventory::{DomainState, Hypervisor, OffReason};
use tranche_core::name::{GpuKey, HostName, Timestamp, VmId, VmName};
use tranche_core::plan::{DownBy, HostPlan, Standing, VmGoal};
use tranche_core::planner::{Planned, plan};
use tranche_core::spec::{Availability, GpuMode, Request, Run, VmSource};
use tranche_core::step::Step;
use tranche_core::steps::steps;
use uuid::Uuid;

use crate::fleet::{Fleet, model_domain, node};
use crate::world::{gpu, hardware, partitioned, vm};

const NOW: Timestamp = Timestamp(9);

fn decide(fleet: &mut Fleet) -> Planned {
    let planned = plan(&fleet.spec, &fleet.inventory, &fleet.plan, NOW);
    assert_eq!(check::check(&planned.plan), []);
    assert_eq!(check::check_transition(&fleet.plan, &planned.plan), []);
    fleet.plan = planned.plan.clone();
    for name in &planned.gone {
        fleet.spec.vms.remove(name);
    }
    planned
}

fn home(fleet: &Fleet, name: &str) -> Option<HostName> {
    fleet.plan.vms.get(&vm(name)).map(|planned| planned.host.clone())
}

fn bookings_on(fleet: &Fleet, host: &HostName) -> usize {
    fleet.plan.bookings_of(host).count()
}

/// Two hosts, of which the first has three VMs: one that Tranche made, one that it took over, one that is deleted.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new(2, 2, 2);
    for name in ["made", "adopted", "deleted"] {
        fleet.add(name, Request::ANY_PARTITION);
        assert!(fleet.run_on(name, &node(1)));
    }
    fleet.spec.vms.get_mut(&vm("adopted")).unwrap().source = VmSource::Adopted;
    fleet.spec.vms.get_mut(&vm("deleted")).unwrap().run = Run::Deleted;
    fleet
}

/// The host's last report: these VMs, and whether they run.
fn reports(fleet: &mut Fleet, host: &HostName, vms: &[(&str, bool)]) {
    let generation = fleet.plan.generations.get(host).copied().unwrap_or_default();
    let domain = |(name, runs): &(&str, bool)| {
        let (name, id) = (vm(name), fleet.plan.vms[&vm(name)].id);
        let mut domain = model_domain(&name, id, &hardware());
        let reason = OffReason::Unknown;
        domain.state = if *runs { DomainState::Running } else { DomainState::Off { reason } };
        (name.to_string(), domain)
    };
    let shown = vms.iter().map(domain).collect();
    let seen = fleet.inventory.get_mut(host).unwrap();
    seen.progress.generation = generation;
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
    *domains = shown;
}

#[test]
fn what_was_sent_to_a_host_that_is_no_member_any_more_is_placed_anew_and_frees_what_it_held_there() {
    let mut fleet = fleet();
    fleet.spec.hosts.remove(&node(1));
    let planned = decide(&mut fleet);
    assert_eq!(home(&fleet, "made"), Some(node(2)));
    assert_eq!(fleet.plan.vms[&vm("made")].goal, VmGoal::Run);
    assert_eq!((bookings_on(&fleet, &node(1)), bookings_on(&fleet, &node(2))), (0, 1));
    assert!(fleet.plan.gpus_of(&node(1)).next().is_none());
    assert!(planned.findings.iter().any(|finding| finding.code == Code::DomainMissing), "of the adopted one");
    assert_eq!(planned.gone, [vm("deleted")]);
}

#[test]
fn what_belongs_to_a_member_that_was_never_heard_of_is_left_alone() {
    let mut fleet = fleet();
    fleet.inventory.remove(&node(1));
    fleet.plan.hosts.remove(&node(1));
    let before = fleet.plan.clone();
    let planned = decide(&mut fleet);
    assert_eq!(planned.plan, before, "it may be about to bring the rest");
    assert_eq!(planned.gone, []);
    assert!(planned.findings.iter().any(|finding| finding.code == Code::HostSilent));
    let state = State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    let refused = admit(&Change::RemoveHost { host: node(1) }, state, VmId(Uuid::nil()), NOW).unwrap_err();
    assert_eq!(refused[0].code, Code::HostNotEmpty, "its VMs may run there");
}

fn down(fleet: &mut Fleet, host: &HostName) {
    let standing = Standing::Down { since: Timestamp(1), by: DownBy::Hand };
    fleet.plan.hosts.insert(host.clone(), HostPlan { standing, epoch: 1, ..HostPlan::default() });
    fleet.inventory.get_mut(host).unwrap().pulse = None;
}

fn back(fleet: &mut Fleet, host: &HostName) {
    let pulse = fleet.inventory[&node(2)].pulse;
    let seen = fleet.inventory.get_mut(host).unwrap();
    seen.pulse = pulse;
    seen.progress.epoch = 1;
}

#[test]
fn a_deleted_vm_of_a_dead_host_is_forgotten_at_once_and_what_it_held_is_free() {
    let mut fleet = fleet();
    fleet.spec.vms.get_mut(&vm("adopted")).unwrap().run = Run::Running;
    down(&mut fleet, &node(1));
    let planned = decide(&mut fleet);
    assert_eq!(planned.gone, [vm("deleted")]);
    assert_eq!(home(&fleet, "made"), Some(node(2)));
    assert_eq!(bookings_on(&fleet, &node(1)), 1, "the adopted one waits for its host");
    fleet.spec.vms.get_mut(&vm("adopted")).unwrap().run = Run::Deleted;
    assert_eq!(decide(&mut fleet).gone, [vm("adopted")]);
    assert_eq!(bookings_on(&fleet, &node(1)), 0);
    let said = decide(&mut fleet).findings;
    assert!(said.iter().all(|finding| finding.code != Code::VmWaitsForHost), "{said:?}");
}

#[test]
fn a_dead_host_that_comes_back_ends_the_vms_that_were_forgotten_meanwhile() {
    let mut fleet = fleet();
    fleet.spec.vms.get_mut(&vm("adopted")).unwrap().run = Run::Deleted;
    down(&mut fleet, &node(1));
    let _ = decide(&mut fleet);
    let _ = decide(&mut fleet);
    // It was no more down than that: both run there.
    let due = |fleet: &Fleet| steps(&fleet.spec, &fleet.plan, &fleet.inventory[&node(1)]);
    let ends = |steps: &[Step], name: &str| {
        steps.iter().any(|step| matches!(step, Step::KillVm { vm: ended, .. } if *ended == vm(name)))
    };
    back(&mut fleet, &node(1));
    reports(&mut fleet, &node(1), &[("deleted", true), ("adopted", true)]);
    let _ = decide(&mut fleet);
    assert_eq!(fleet.plan.hosts[&node(1)].standing, Standing::Up);
    let first = due(&fleet);
    assert!(ends(&first, "deleted") && ends(&first, "adopted"), "{first:?}");
    reports(&mut fleet, &node(1), &[("deleted", false), ("adopted", false)]);
    let _ = decide(&mut fleet);
    let undefined =
        |step: &Step| matches!(step, Step::UndefineVm { vm: ended, .. } if *ended == vm("deleted"));
    let second = due(&fleet);
    assert!(second.iter().any(undefined), "{second:?}");
    assert_eq!(home(&fleet, "adopted"), None, "its definition is its owner's");
    let seen = fleet.inventory.get_mut(&node(1)).unwrap();
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
    domains.clear();
    seen.progress.generation = fleet.plan.generations[&node(1)];
    let _ = decide(&mut fleet);
    assert_eq!(home(&fleet, "deleted"), None);
}

#[test]
fn a_name_is_free_again_only_when_the_dead_host_has_nothing_of_it_left() {
    let mut fleet = fleet();
    down(&mut fleet, &node(1));
    let _ = decide(&mut fleet);
    let create = |name: VmName| {
        let (request, availability) = (Request::None, Availability::default());
        let vm = NewVm {
            hardware: hardware(),
            request,
            labels: tranche_core::label::Labels::new(),
            reserved: false,
            prefer_numa_node: None,
            availability,
        };
        Change::CreateVm { name, vm }
    };
    let state = State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory };
    let id = VmId(Uuid::from_u128(99));
    let refused = admit(&create(vm("deleted")), state, id, NOW).unwrap_err();
    assert_eq!(refused[0].code, Code::VmExists);
    assert!(admit(&create(vm("another")), state, id, NOW).is_ok());
}

#[test]
fn in_the_place_of_a_gpu_of_a_replaced_machine_any_card_is_the_one_that_is_meant_and_the_first_is_remembered()
{
    let mut fleet = Fleet::new(1, 1, 4);
    let key = GpuKey { host: node(1), ..gpu(1) };
    fleet.plan.gpus.remove(&key);
    fleet.spec.gpus.get_mut(&key).unwrap().identity = GpuIdentity::default();
    let card = |fleet: &mut Fleet, subdevice: u16| {
        let seen = fleet.inventory.get_mut(&node(1)).unwrap();
        seen.gpus.get_mut(&key.address).unwrap().ids.subdevice = subdevice;
    };
    card(&mut fleet, 0x1111);
    let planned = decide(&mut fleet);
    assert_eq!(*planned.plan.mode(&key), partitioned(4));
    assert_eq!(planned.plan.gpus[&key].identity.ids.subdevice, 0x1111);
    card(&mut fleet, 0x2222);
    let said = decide(&mut fleet).findings;
    assert!(said.iter().any(|finding| finding.code == Code::HardwareChanged), "{said:?}");
    assert_ne!(*fleet.plan.mode(&key), GpuMode::Host);
}
