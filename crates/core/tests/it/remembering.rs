//! What is remembered between passes changes nothing that is decided or said, whatever happens to a cluster.

use proptest::prelude::*;
use tranche_core::inventory::{
    Domain, DomainState, HostInventory, Hypervisor, OffReason, Resources, StoragePool,
};
use tranche_core::name::Timestamp;
use tranche_core::plan::VmGoal;
use tranche_core::planner::{self, Memory, Planned};
use tranche_core::spec::{Admission, Duty, Request, Run};

use crate::fleet::{Fleet, model_domain, node};
use crate::world::{hardware, partitioned};

const HOSTS: usize = 5;

#[derive(Debug, Clone)]
enum Happening {
    /// Somebody wishes for a VM, or that it is off, on again, or gone.
    Vm(u8, Run),
    /// A host falls silent, or is heard again.
    Silent(usize, bool),
    Maintenance(usize, bool),
    /// A host's libvirt shows its VMs as they were decided, or ended by themselves.
    Report(usize, Option<OffReason>),
    /// A host's GPU shall have another count.
    Count(usize, u16),
    /// A host's GPU falls off the bus.
    GpuGone(usize),
    Admission(Admission),
    Reboot(usize, u8),
    /// A host tells of the pool that VMs use: that it has it, whether it is started, whether it shares it.
    Pool(usize, Option<(bool, bool)>),
    /// A host is no member any more, whatever it has.
    Gone(usize),
    /// Nothing.
    Quiet,
}

fn happening() -> impl Strategy<Value = Happening> {
    let run = prop_oneof![4 => Just(Run::Running), 1 => Just(Run::Stopped), 1 => Just(Run::Deleted)];
    let host = || 1..=HOSTS;
    let off = prop_oneof![Just(OffReason::Shutdown), Just(OffReason::Crashed), Just(OffReason::Unknown)];
    let count = prop_oneof![Just(1u16), Just(2), Just(4)];
    let admission = prop_oneof![Just(Admission::Off), Just(Admission::Warn)];
    prop_oneof![
        5 => (0u8..12, run).prop_map(|(vm, run)| Happening::Vm(vm, run)),
        1 => (host(), any::<bool>()).prop_map(|(host, silent)| Happening::Silent(host, silent)),
        1 => (host(), any::<bool>()).prop_map(|(host, on)| Happening::Maintenance(host, on)),
        4 => (host(), prop::option::weighted(0.2, off)).prop_map(|(host, off)| Happening::Report(host, off)),
        1 => (host(), count).prop_map(|(host, count)| Happening::Count(host, count)),
        1 => host().prop_map(Happening::GpuGone),
        1 => admission.prop_map(Happening::Admission),
        1 => (host(), any::<u8>()).prop_map(|(host, boot)| Happening::Reboot(host, boot)),
        1 => (host(), prop::option::weighted(0.8, any::<(bool, bool)>()))
            .prop_map(|(host, is)| Happening::Pool(host, is)),
        1 => (4..=HOSTS).prop_map(Happening::Gone),
        3 => Just(Happening::Quiet),
    ]
}

fn happen(fleet: &mut Fleet, happening: Happening) {
    match happening {
        Happening::Vm(number, run) => {
            let name = format!("vm{number}");
            let spec = fleet.add(&name, Request::ANY_PARTITION);
            spec.serial += u64::from(spec.run != run);
            spec.run = run;
        }
        Happening::Silent(number, silent) => {
            let pulse = seen(fleet, number).pulse.as_mut().unwrap();
            pulse.silent_ms = if silent { 60_000 } else { 0 };
        }
        Happening::Maintenance(number, on) => {
            let duty = if on { Duty::Maintenance } else { Duty::Serving };
            if let Some(wish) = fleet.spec.hosts.get_mut(&node(number)) {
                wish.duty = duty;
            }
        }
        Happening::Report(number, off) => report(fleet, number, off),
        Happening::Count(number, count) => {
            let gpus = fleet.spec.gpus.keys().filter(|gpu| gpu.host == node(number)).cloned();
            for gpu in gpus.collect::<Vec<_>>() {
                fleet.spec.gpus.get_mut(&gpu).unwrap().mode = partitioned(count);
            }
        }
        Happening::GpuGone(number) => drop(seen(fleet, number).gpus.pop_first()),
        Happening::Admission(admission) => fleet.spec.policy.admission = admission,
        Happening::Reboot(number, boot) => seen(fleet, number).boot_id = format!("boot-{boot}"),
        Happening::Pool(number, is) => {
            let Hypervisor::Up { resources, .. } = &mut seen(fleet, number).hypervisor else { return };
            let pool = |(active, shared)| StoragePool { kind: "dir".to_owned(), path: None, active, shared };
            let pools = is.map(|is| ("default".to_owned(), pool(is))).into_iter().collect();
            *resources = Some(Resources { pools, networks: std::collections::BTreeMap::new() });
        }
        Happening::Gone(number) => drop(fleet.spec.hosts.remove(&node(number))),
        Happening::Quiet => {}
    }
}

fn seen(fleet: &mut Fleet, number: usize) -> &mut HostInventory {
    fleet.inventory.get_mut(&node(number)).unwrap()
}

/// The host has read what was decided, and its VMs are so, or have ended.
fn report(fleet: &mut Fleet, number: usize, off: Option<OffReason>) {
    let host = node(number);
    let generation = fleet.plan.generations.get(&host).copied().unwrap_or_default();
    let planned = fleet.plan.vms.iter().filter(|(_, planned)| planned.host == host);
    let domains = planned.map(|(name, planned)| {
        let state = match (planned.goal, off) {
            (VmGoal::Run, None) => DomainState::Running,
            (_, reason) => DomainState::Off { reason: reason.unwrap_or(OffReason::Shutdown) },
        };
        let domain = model_domain(name, planned.id, &hardware());
        (name.to_string(), Domain { state, ..domain })
    });
    let shown = domains.collect();
    let seen = seen(fleet, number);
    seen.progress.generation = generation;
    let Hypervisor::Up { domains, .. } = &mut seen.hypervisor else { panic!("it is up") };
    *domains = shown;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_pass_that_remembers_decides_and_says_what_one_does_that_knows_nothing(
        story in proptest::collection::vec(happening(), 1..50)
    ) {
        let mut fleet = Fleet::new(HOSTS, 1, 2);
        let mut memory = Memory::default();
        for (turn, happening) in story.into_iter().enumerate() {
            happen(&mut fleet, happening);
            let now = Timestamp(1_000 * (turn as u64 + 1));
            let planned = memory.plan(&fleet.spec, &fleet.inventory, &fleet.plan, now);
            let anew = planner::plan(&fleet.spec, &fleet.inventory, &fleet.plan, now);
            prop_assert_eq!(&planned, &anew);
            let Planned { plan, gone, .. } = planned;
            fleet.plan = plan;
            for name in gone {
                fleet.spec.vms.remove(&name);
            }
        }
    }
}
