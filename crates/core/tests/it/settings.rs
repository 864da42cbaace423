//! What can be changed at any time: how much is done for a VM, and the policies; by a command and by a declaration.

use tranche_core::change::{AdoptedVm, Change, NewVm, State, admit, hosts_to_tell};
use tranche_core::declare::{self, Declaration, DeclaredVm};
use tranche_core::effect::{VmEffect, preview};
use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::Hypervisor;
use tranche_core::journey::Migration;
use tranche_core::label::{self, Labels, LabelsPart};
use tranche_core::name::*;
use tranche_core::spec::*;

use crate::fleet::{Fleet, model_domain, node};
use crate::world::{World, hardware, host, partitioned, vm};

const ANY: Request = Request::ANY_PARTITION;

fn set(name: &str, wish: VmPart) -> Change {
    Change::SetVm { name: vm(name), wish }
}

fn care(availability: AvailabilityPart) -> VmPart {
    VmPart { availability, ..VmPart::default() }
}

fn failover(failover: Failover) -> VmPart {
    care(AvailabilityPart { failover: Some(failover), ..AvailabilityPart::default() })
}

fn priority(priority: u16) -> VmPart {
    care(AvailabilityPart { priority: Some(priority), ..AvailabilityPart::default() })
}

fn with_a_running_vm() -> World {
    let mut world = World::with_gpus(1);
    world.set_mode(1, partitioned(2));
    world.create("a", ANY);
    world.start("a");
    world
}

fn state(fleet: &Fleet) -> State<'_> {
    State { spec: &fleet.spec, plan: &fleet.plan, inventory: &fleet.inventory }
}

#[track_caller]
fn ask(fleet: &Fleet, change: &Change) -> Result<Vec<Finding>, Vec<Finding>> {
    let id = VmId(uuid::Uuid::nil());
    admit(change, state(fleet), id, Timestamp(9)).map(|admitted| admitted.findings)
}

#[test]
fn how_much_is_done_for_a_vm_changes_while_it_runs_and_nothing_else_of_it_does() {
    let mut world = with_a_running_vm();
    let before = world.spec.vms[&vm("a")].clone();
    let restarts = RestartsPart { local: Some(9), elsewhere: None };
    let availability = AvailabilityPart {
        priority: Some(500),
        failover: Some(Failover::Stay),
        restarts,
        ..AvailabilityPart::default()
    };
    let all = VmPart {
        labels: LabelsPart::new(),
        reserved: Some(true),
        prefer_numa_node: Some(Some(1)),
        availability,
    };
    world.accepts(&set("a", all));
    let after = VmSpec {
        reserved: true,
        labels: Labels::new(),
        prefer_numa_node: Some(1),
        availability: Availability {
            priority: 500,
            failover: Failover::Stay,
            restarts: RestartPolicy { local: 9, elsewhere: 3 },
            ..before.availability
        },
        ..before
    };
    assert_eq!(world.spec.vms[&vm("a")], after);
    assert_eq!(world.pass(), [], "nothing is done to the VM");
    assert!(world.runs("a"));
    world.accepts(&set("a", VmPart { prefer_numa_node: Some(None), ..VmPart::default() }));
    assert_eq!(world.spec.vms[&vm("a")], VmSpec { prefer_numa_node: None, ..after });
}

#[test]
fn what_changes_of_a_vm_is_said_in_words() {
    let world = with_a_running_vm();
    let title = |wish: VmPart| {
        let id = VmId(uuid::Uuid::nil());
        admit(&set("a", wish), world.state(), id, world.now).unwrap().title
    };
    assert_eq!(title(priority(500)), "change VM a: priority 500");
    let pace = PacePart { pause_ms: Some(Some(500)), bandwidth_mib_s: Some(Some(40)) };
    let availability =
        AvailabilityPart { migration: Some(Migration::LiveOnly), pace, ..AvailabilityPart::default() };
    assert_eq!(
        title(VmPart { availability, ..VmPart::default() }),
        "change VM a: migration live-only, migration pause 500 ms, migration bandwidth 40 MiB/s"
    );
    let restarts = RestartsPart { local: Some(0), elsewhere: Some(9) };
    let much = AvailabilityPart {
        priority: Some(100),
        failover: Some(Failover::Stay),
        restarts,
        ..AvailabilityPart::default()
    };
    let wish = VmPart {
        reserved: Some(true),
        prefer_numa_node: Some(Some(0)),
        availability: much,
        ..VmPart::default()
    };
    assert_eq!(
        title(wish),
        "change VM a: failover stay, restarts 0, restarts elsewhere 9, reserved, NUMA node 0"
    );
    assert_eq!(title(VmPart::default()), "leave VM a as it is");
}

#[test]
fn a_vm_that_is_unknown_or_on_its_way_out_is_not_changed_and_no_priority_is_too_high() {
    let mut world = with_a_running_vm();
    world.refuses(&set("ghost", priority(5)), Code::VmNotFound);
    world.refuses(&set("a", priority(1_001)), Code::InvalidValue);
    world.accepts(&set("a", priority(1_000)));
    let new = |priority: u16| {
        let availability = Availability { priority, ..Availability::default() };
        let (request, reserved, prefer_numa_node) = (ANY, false, None);
        let made = NewVm {
            hardware: hardware(),
            request,
            labels: Labels::new(),
            reserved,
            prefer_numa_node,
            availability,
        };
        let adopted = AdoptedVm { availability, ..AdoptedVm::default() };
        (Change::CreateVm { name: vm("b"), vm: made }, Change::AdoptVm { name: vm("mine"), vm: adopted })
    };
    let domain = model_domain(&vm("mine"), VmId(uuid::Uuid::from_u128(77)), &hardware());
    world.domains().insert("mine".to_owned(), domain);
    let (create, adopt) = new(1_001);
    world.refuses(&create, Code::InvalidValue);
    world.refuses(&adopt, Code::InvalidValue);
    let (create, adopt) = new(1_000);
    world.accepts(&create);
    world.accepts(&adopt);
    assert_eq!(world.spec.vms[&vm("mine")].availability.priority, 1_000);
    world.accepts(&Change::DeleteVm { name: vm("a"), force: true });
    world.refuses(&set("a", priority(5)), Code::VmNotFound);
}

#[test]
fn what_is_kept_for_a_vm_that_is_off_goes_back_once_it_is_not_reserved_any_more() {
    let mut world = with_a_running_vm();
    let reserved = |reserved| set("a", VmPart { reserved: Some(reserved), ..VmPart::default() });
    world.accepts(&reserved(true));
    world.stop("a");
    assert!(world.slot_of("a").is_some());
    let admitted =
        admit(&reserved(false), world.state(), VmId(uuid::Uuid::nil()), world.now).expect("it is admitted");
    let effect = preview(&admitted.spec, world.state(), world.now);
    assert_eq!(effect.vms.get(&vm("a")), Some(&VmEffect::LosesReservation));
    world.accepts(&reserved(false));
    world.settle();
    assert_eq!(world.slot_of("a"), None);
}

#[test]
fn hosts_are_told_of_what_they_do_for_a_vm_by_themselves_and_of_nothing_else() {
    let mut fleet = Fleet::new(2, 1, 4);
    for (name, number) in [("a", 1), ("b", 2)] {
        fleet.add(name, ANY);
        assert!(fleet.run_on(name, &node(number)));
    }
    fleet.add("homeless", ANY);
    let told = |fleet: &Fleet, name: &str, wish: VmPart| {
        let id = VmId(uuid::Uuid::nil());
        let after = admit(&set(name, wish), state(fleet), id, Timestamp(9)).unwrap().spec;
        hosts_to_tell(&fleet.spec, &after, &fleet.plan).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(told(&fleet, "b", failover(Failover::Stay)), [node(2)]);
    assert_eq!(told(&fleet, "b", failover(Failover::Restart)), [], "it is so already");
    assert_eq!(told(&fleet, "b", VmPart { reserved: Some(true), ..VmPart::default() }), []);
    assert_eq!(told(&fleet, "homeless", priority(9)), []);
    let alone = with_a_running_vm();
    let after =
        admit(&set("a", priority(9)), alone.state(), VmId(uuid::Uuid::nil()), alone.now).unwrap().spec;
    assert_eq!(hosts_to_tell(&alone.spec, &after, &alone.plan).len(), 0, "it reads its own wishes anyway");
}

#[test]
fn in_a_cluster_whoever_adopts_a_domain_is_told_that_it_stays_on_its_host() {
    let mut fleet = Fleet::new(2, 1, 4);
    let Hypervisor::Up { domains, .. } = &mut fleet.inventory.get_mut(&node(1)).unwrap().hypervisor else {
        panic!("it is up")
    };
    let domain = model_domain(&vm("mine"), VmId(uuid::Uuid::from_u128(77)), &hardware());
    domains.insert("mine".to_owned(), domain.clone());
    let adopt = Change::AdoptVm { name: vm("mine"), vm: AdoptedVm::default() };
    let told = |findings: Vec<Finding>| -> Vec<(Code, Severity)> {
        findings.into_iter().map(|finding| (finding.code, finding.severity)).collect()
    };
    let stays = [(Code::DefinitionLocal, Severity::Warning)];
    assert_eq!(told(ask(&fleet, &adopt).unwrap()), stays);
    fleet.spec = admit(&adopt, state(&fleet), VmId(uuid::Uuid::nil()), Timestamp(9)).unwrap().spec;
    assert_eq!(told(ask(&fleet, &set("mine", failover(Failover::Restart))).unwrap()), stays);
    assert_eq!(told(ask(&fleet, &set("mine", priority(9))).unwrap()), []);
    let mut alone = World::with_gpus(1);
    alone.domains().insert("mine".to_owned(), domain);
    assert_eq!(alone.submit(&adopt).unwrap(), []);
}

#[test]
fn a_vm_that_is_to_be_protected_from_now_on_is_refused_warned_of_or_let_through_by_policy() {
    let mut fleet = Fleet::new(2, 1, 4);
    for number in 0..8 {
        let name = format!("vm{number}");
        fleet.add(&name, ANY).availability.failover = Failover::Stay;
        assert!(fleet.run_on(&name, &node(1 + number / 4)));
    }
    let protect = set("vm0", failover(Failover::Restart));
    for (policy, severity) in [
        (Admission::Off, None),
        (Admission::Warn, Some(Severity::Warning)),
        (Admission::Enforce, Some(Severity::Error)),
    ] {
        fleet.spec.policy.admission = policy;
        let answer = ask(&fleet, &protect);
        assert_eq!(answer.is_ok(), policy != Admission::Enforce);
        let told = answer.unwrap_or_else(|refusal| refusal);
        let told = told.iter().find(|finding| finding.code == Code::CapacityShort);
        assert_eq!(told.map(|finding| finding.severity), severity, "{policy:?}");
    }
    assert_eq!(ask(&fleet, &set("vm0", priority(9))), Ok(Vec::new()), "it takes nothing from anybody");
    fleet.add("off", ANY).run = Run::Stopped;
    assert_eq!(ask(&fleet, &set("off", priority(9))), Ok(Vec::new()), "it is asked when it starts");
}

fn declared(name: &str) -> DeclaredVm {
    DeclaredVm {
        name: vm(name),
        hardware: Some(hardware()),
        gpu: ANY,
        running: None,
        reserved: None,
        labels: LabelsPart::new(),
        prefer_numa_node: None,
        availability: AvailabilityPart::default(),
    }
}

fn changes(world: &World, vm: DeclaredVm) -> Result<Vec<Change>, Vec<Finding>> {
    let declared = Declaration { vms: vec![vm], ..Declaration::default() };
    declare::changes(&declared, &world.spec, &[&host()])
}

#[test]
fn a_declaration_changes_what_it_names_of_a_vm_that_exists_and_leaves_the_rest() {
    let mut world = with_a_running_vm();
    world.accepts(&set("a", VmPart { reserved: Some(true), ..priority(500) }));
    assert_eq!(changes(&world, declared("a")), Ok(Vec::new()), "what it does not name is left alone");
    let stay = failover(Failover::Stay).availability;
    let names = DeclaredVm { availability: stay, reserved: Some(false), ..declared("a") };
    let wish = VmPart { reserved: Some(false), ..care(stay) };
    assert_eq!(changes(&world, names.clone()), Ok(vec![set("a", wish.clone())]));
    world.accepts(&set("a", wish));
    let known = &world.spec.vms[&vm("a")];
    assert_eq!((known.availability.priority, known.availability.failover), (500, Failover::Stay));
    assert_eq!(changes(&world, names), Ok(Vec::new()), "applying twice changes nothing");
    let node = DeclaredVm { prefer_numa_node: Some(1), ..declared("a") };
    let wish = VmPart { prefer_numa_node: Some(Some(1)), ..VmPart::default() };
    assert_eq!(changes(&world, node), Ok(vec![set("a", wish)]));
}

#[test]
fn a_declaration_says_what_it_cannot_change_of_a_vm_that_exists() {
    let mut world = with_a_running_vm();
    let mut larger = declared("a");
    larger.hardware.as_mut().unwrap().memory_mib *= 2;
    let refusal = changes(&world, larger).unwrap_err();
    assert_eq!(refusal[0].code, Code::InvalidValue);
    assert!(refusal[0].message.contains("hardware of existing VM a"), "{}", refusal[0].message);
    let whole = DeclaredVm { gpu: Request::Whole { gpus: 1, pool: None }, ..declared("a") };
    let wishes = changes(&world, whole).unwrap();
    world.refuses(&wishes[0], Code::VmRunning);
    world.accepts(&Change::DeleteVm { name: vm("a"), force: true });
    let refusal = changes(&world, declared("a")).unwrap_err();
    assert_eq!(refusal[0].code, Code::VmExists);
    assert!(refusal[0].message.contains("being deleted"), "{}", refusal[0].message);
}

#[test]
fn a_declared_domain_is_adopted_with_all_that_is_declared_for_it() {
    let mut world = World::with_gpus(1);
    let domain = model_domain(&vm("mine"), VmId(uuid::Uuid::from_u128(77)), &hardware());
    world.domains().insert("mine".to_owned(), domain);
    let part = failover(Failover::Stay).availability;
    let mine = DeclaredVm {
        hardware: None,
        reserved: Some(true),
        labels: label_part(&[("team", Some("red")), ("gone", None)]),
        prefer_numa_node: Some(1),
        availability: part,
        ..declared("mine")
    };
    let wishes = changes(&world, mine.clone()).unwrap();
    assert_eq!(wishes.len(), 1);
    world.accepts(&wishes[0]);
    let known = &world.spec.vms[&vm("mine")];
    assert_eq!(
        (known.source.clone(), known.reserved, known.prefer_numa_node),
        (VmSource::Adopted, true, Some(1))
    );
    assert_eq!(label::text(&known.labels, ","), "team=red");
    assert_eq!(known.availability, Availability { failover: Failover::Stay, ..Availability::default() });
    assert_eq!(changes(&world, mine), Ok(Vec::new()));
}

#[test]
fn a_declaration_that_names_one_policy_leaves_a_pause_of_failover_and_all_others_as_they_are() {
    let mut world = World::with_gpus(1);
    let timers = Timers { restart_ms: 30_000, ..Timers::default() };
    let now = Policy {
        admission: Admission::Enforce,
        homogeneity: Homogeneity::Strict,
        failover: FailoverPolicy { paused: true, timers },
        shutdown: ShutdownPolicy::Freeze,
        ..Policy::default()
    };
    world.accepts(&Change::SetPolicy { policy: now });
    let changes = |world: &World, policy: PolicyPart| {
        let declared = Declaration { policy: Some(policy), ..Declaration::default() };
        declare::changes(&declared, &world.spec, &[&host()]).unwrap()
    };
    let spread = PolicyPart { placement: Some(PlacementPolicy::Spread), ..PolicyPart::default() };
    let policy = Policy { placement: PlacementPolicy::Spread, ..now };
    assert_eq!(changes(&world, spread), [Change::SetPolicy { policy }]);
    assert_eq!(changes(&world, PolicyPart::default()), []);
    world.accepts(&Change::SetPolicy { policy });
    assert_eq!(changes(&world, spread), [], "applying twice changes nothing");
}

fn label_part(labels: &[(&str, Option<&str>)]) -> LabelsPart {
    let label = |(key, value): &(&str, Option<&str>)| {
        (key.parse().unwrap(), value.map(|value| value.parse().unwrap()))
    };
    labels.iter().map(label).collect()
}

fn labelled(labels: &[(&str, Option<&str>)]) -> VmPart {
    VmPart { labels: label_part(labels), ..VmPart::default() }
}

#[test]
fn labels_of_a_vm_are_given_and_taken_by_name_and_the_others_stay_as_they_are() {
    let mut world = with_a_running_vm();
    let is = |world: &World| label::text(&world.spec.vms[&vm("a")].labels, ",");
    let wish = labelled(&[("team", Some("red")), ("tier", Some("gold"))]);
    let title = |world: &World, wish: &VmPart| {
        admit(&set("a", wish.clone()), world.state(), VmId(uuid::Uuid::nil()), world.now).unwrap().title
    };
    assert_eq!(title(&world, &wish), "change VM a: label team=red, label tier=gold");
    world.accepts(&set("a", wish));
    let then = labelled(&[("team", Some("blue")), ("tier", None), ("none", None)]);
    assert_eq!(title(&world, &then), "change VM a: label team=blue, no label tier");
    world.accepts(&set("a", then));
    assert_eq!(is(&world), "team=blue");
    world.accepts(&set("a", priority(7)));
    assert_eq!(is(&world), "team=blue", "what is not named stays");
    let declared = DeclaredVm { labels: label_part(&[("team", Some("blue"))]), ..declared("a") };
    assert_eq!(changes(&world, declared), Ok(Vec::new()), "applying twice changes nothing");
}

#[test]
fn a_vm_has_no_more_labels_than_a_host_may_have() {
    let mut world = with_a_running_vm();
    let keys: Vec<String> = (0..=label::LABELS_MAX).map(|number| format!("key{number}")).collect();
    let pairs: Vec<(&str, Option<&str>)> = keys.iter().map(|key| (key.as_str(), Some("v"))).collect();
    world.refuses(&set("a", labelled(&pairs)), Code::InvalidValue);
    world.accepts(&set("a", labelled(&pairs[1..])));
    world.refuses(&set("a", labelled(&pairs[..1])), Code::InvalidValue);
    let labels = label::over(&label_part(&pairs), &Labels::new());
    let (request, reserved, prefer_numa_node) = (ANY, false, None);
    let availability = Availability::default();
    let made = NewVm { hardware: hardware(), request, labels, reserved, prefer_numa_node, availability };
    world.refuses(&Change::CreateVm { name: vm("b"), vm: made }, Code::InvalidValue);
}
