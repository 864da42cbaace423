//! VMs that go from one real libvirtd to another while they run.

use std::sync::Arc;

use tranche_core::inventory::{DomainState, OffReason};
use tranche_core::journey::{Sending, Sent};
use tranche_core::name::{HostName, VmName};
use tranche_core::spec::Limits;
use tranche_core::step::Step;
use tranche_host::vm::libvirt::Libvirt;
use tranche_host::vm::{Hypervisor, Way, Ways};

use crate::contract::{Vm, apply, diskless, domain, domains, refusal, wait_until};
use crate::server::Server;

/// The one other host, reached by its socket.
#[derive(Debug)]
pub(crate) struct Direct(pub(crate) String);

impl Ways for Direct {
    fn open(&self, _: &VmName, host: &HostName) -> Result<Way, String> {
        if host.as_str() == "there" {
            Ok(Way { uri: self.0.clone(), guard: Box::new(()) })
        } else {
            Err("nobody knows it".to_owned())
        }
    }
}

pub(crate) fn send(vm: &Vm, number: u64, to: &str) -> Step {
    Step::SendVm {
        vm: vm.name.clone(),
        id: vm.id,
        number,
        to: to.parse().unwrap(),
        devices: Vec::new(),
        limits: Limits::default(),
    }
}

fn sent(hypervisor: &Libvirt, vm: &Vm) -> Option<Sent> {
    hypervisor.travels().sent.get(&vm.name).cloned()
}

pub(crate) fn ends(hypervisor: &Libvirt, vm: &Vm) -> Sending {
    wait_until("the sending ends", || sent(hypervisor, vm).is_some_and(|sent| !sent.is_under_way()));
    sent(hypervisor, vm).unwrap().state
}

#[test]
fn a_vm_goes_to_another_libvirtd_while_it_runs_and_is_let_go_on_there_once_it_is_off_here() {
    let (Some(here), Some(there)) = (Server::named("here"), Server::named("there")) else { return };
    let (from, woken) = here.hypervisor(here.config());
    let from = from.with_ways(Arc::new(Direct(there.uri())));
    let (to, _) = there.hypervisor(there.config());
    assert!(from.travels().able && !to.travels().able, "only one was given ways");
    let vm = Vm::new("desk", 1);
    apply(&from, &[vm.define(diskless()), vm.start()]);
    apply(&from, &[send(&vm, 7, "there")]);
    assert!(sent(&from, &vm).is_some_and(|sent| sent.number == 7));
    // Begun once: the same step again is no second journey.
    apply(&from, &[send(&vm, 7, "there")]);
    let outcome = ends(&from, &vm);
    let Sending::Done { pause_ms, total_ms } = outcome else { panic!("{outcome:?}") };
    assert!(pause_ms <= total_ms, "{pause_ms} of {total_ms} ms");
    assert_eq!(domain(&from, &vm).state, DomainState::Off { reason: OffReason::Migrated });
    let arrived = domain(&to, &vm);
    assert_eq!((arrived.state, arrived.persistent), (DomainState::Running, true));
    assert!(woken.load(std::sync::atomic::Ordering::SeqCst) > 0);
    // What is left here goes as any definition does.
    apply(&from, &[vm.undefine()]);
    assert_eq!(domain(&to, &vm).state, DomainState::Running);
}

#[test]
fn a_vm_that_cannot_go_runs_on_where_it_is_and_the_report_says_why() {
    let (Some(here), Some(there)) = (Server::named("here"), Server::named("there")) else { return };
    let (from, _) = here.hypervisor(here.config());
    let from = from.with_ways(Arc::new(Direct(there.uri())));
    let vm = Vm::new("desk", 1);
    apply(&from, &[vm.define(diskless())]);
    assert_eq!(refusal(&from, &send(&vm, 1, "there")).code, tranche_core::finding::Code::VmNotRunning);
    apply(&from, &[vm.start(), send(&vm, 2, "nowhere")]);
    let Sending::Failed { why } = ends(&from, &vm) else { panic!("nobody knows the way") };
    assert!(why.contains("nobody knows it"), "{why}");
    // Somebody else's domain is in its place.
    let (to, _) = there.hypervisor(there.config());
    let other = Vm::new("desk", 2);
    apply(&to, &[other.define(diskless())]);
    apply(&from, &[send(&vm, 3, "there")]);
    let Sending::Failed { why } = ends(&from, &vm) else { panic!("another domain is there") };
    assert!(why.contains("desk"), "{why}");
    assert_eq!(domain(&from, &vm).state, DomainState::Running);
    assert_eq!(domains(&to).len(), 1);
}

#[test]
fn a_vm_that_is_called_off_on_its_way_runs_on_where_it_was() {
    let (Some(here), Some(there)) = (Server::named("here"), Server::named("there")) else { return };
    let (from, _) = here.hypervisor(here.config());
    let from = from.with_ways(Arc::new(Direct(there.uri())));
    let (to, _) = there.hypervisor(there.config());
    let vm = Vm::new("desk", 1);
    apply(&from, &[vm.define(diskless()), vm.start()]);
    // It cannot get there in time.
    there.freeze();
    apply(&from, &[send(&vm, 1, "there")]);
    apply(&from, &[Step::CallOffVm { vm: vm.name.clone(), id: vm.id, number: 1 }]);
    there.thaw();
    let outcome = ends(&from, &vm);
    match outcome {
        Sending::Failed { .. } => {
            assert_eq!(domain(&from, &vm).state, DomainState::Running);
            wait_until("nothing is left there", || domains(&to).is_empty());
        }
        // It was there before the call came: then it is there, and only there.
        Sending::Done { .. } => assert!(domain(&to, &vm).state.is_active()),
        Sending::UnderWay { .. } => panic!("it has ended"),
    }
}
