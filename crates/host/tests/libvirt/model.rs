//! The model that stands in for libvirt.

use std::io;
use std::sync::{Arc, Mutex};

use tranche_core::finding::Code;
use tranche_core::inventory::{DeviceSource, DomainState, Holder, Hypervisor as Observed, OffReason};
use tranche_host::fake::DeviceUse;
use tranche_host::vm::Hypervisor as _;
use tranche_host::vm::fake::{FakeHypervisor, Guest};

use crate::contract::{self, Vm, apply, diskless, domain, domains, mdev, refusal};

/// Devices that open once, and a list of those that are open.
#[derive(Debug, Default)]
struct Devices {
    open: Mutex<Vec<DeviceSource>>,
}

impl Devices {
    fn open_now(&self) -> Vec<DeviceSource> {
        self.open.lock().unwrap().clone()
    }
}

impl DeviceUse for Devices {
    fn open(&self, source: &DeviceSource, _: &Holder) -> io::Result<()> {
        let mut open = self.open.lock().unwrap();
        if open.contains(source) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        open.push(source.clone());
        Ok(())
    }

    fn close(&self, source: &DeviceSource, _: &Holder) {
        self.open.lock().unwrap().retain(|open| open != source);
    }
}

fn model() -> (Arc<Devices>, FakeHypervisor) {
    let devices = Arc::new(Devices::default());
    (Arc::clone(&devices), FakeHypervisor::new(devices))
}

fn running(number: u128) -> (Arc<Devices>, FakeHypervisor, Vm) {
    let (devices, hypervisor) = model();
    let vm = Vm::new("desk", number);
    apply(&hypervisor, &[vm.define(diskless()), vm.put(&[mdev(number)]), vm.start()]);
    (devices, hypervisor, vm)
}

fn off(hypervisor: &FakeHypervisor, vm: &Vm) -> Option<OffReason> {
    match domain(hypervisor, vm).state {
        DomainState::Off { reason } => Some(reason),
        _ => None,
    }
}

#[test]
fn the_model_keeps_the_contract() {
    let (_, hypervisor) = model();
    contract::a_vm_lives(&hypervisor);
    contract::a_missing_domain_is_off_already(&hypervisor);
    contract::a_step_about_a_gpu_is_refused(&hypervisor);
    contract::consoles_are_lent(&hypervisor);
    let theirs = Vm::new("theirs", 7);
    hypervisor.define_by_hand(&crate::server::users_domain(&theirs, "qemu")).unwrap();
    contract::somebody_elses_domain_is_not_touched(&hypervisor, &theirs.name);
    let definition = || hypervisor.definition(&theirs.name).unwrap();
    contract::a_users_domain_keeps_what_is_its_own(&hypervisor, &theirs, &definition);
}

#[test]
fn a_running_vm_has_its_devices_open_and_closes_them_however_it_ends() {
    let (devices, hypervisor, vm) = running(1);
    assert_eq!(devices.open_now(), [mdev(1).source]);
    assert_eq!(domain(&hypervisor, &vm).live_devices.len(), 1);
    hypervisor.power_off(&vm.name);
    assert_eq!((devices.open_now(), off(&hypervisor, &vm)), (vec![], Some(OffReason::Shutdown)));
    apply(&hypervisor, &[vm.start()]);
    hypervisor.crash(&vm.name);
    assert_eq!((devices.open_now(), off(&hypervisor, &vm)), (vec![], Some(OffReason::Crashed)));
    apply(&hypervisor, &[vm.start()]);
    hypervisor.lose_power();
    assert_eq!((devices.open_now(), off(&hypervisor, &vm)), (vec![], Some(OffReason::Unknown)));
}

#[test]
fn devices_of_a_running_vm_change_at_its_next_start() {
    let (devices, hypervisor, vm) = running(1);
    apply(&hypervisor, &[vm.put(&[mdev(2)])]);
    let observed = domain(&hypervisor, &vm);
    assert_eq!(observed.live_devices[0].source, mdev(1).source);
    assert_eq!(observed.defined_devices[0].source, mdev(2).source);
    apply(&hypervisor, &[vm.kill(), vm.start()]);
    assert_eq!(devices.open_now(), [mdev(2).source]);
}

#[test]
fn a_device_that_is_open_elsewhere_keeps_a_vm_from_starting_and_nothing_stays_open() {
    let (devices, hypervisor, _) = running(1);
    let other = Vm::new("other", 2);
    apply(&hypervisor, &[other.define(diskless()), other.put(&[mdev(9), mdev(1)])]);
    let refusal = refusal(&hypervisor, &other.start());
    assert_eq!(refusal.code, Code::LibvirtRefused);
    assert!(refusal.message.contains("busy"), "{}", refusal.message);
    assert_eq!(devices.open_now(), [mdev(1).source]);
    assert_eq!(off(&hypervisor, &other), Some(OffReason::Crashed));
}

#[test]
fn a_guest_shuts_down_after_a_while_or_not_at_all() {
    let (_, hypervisor, vm) = running(1);
    hypervisor.set_guest(&vm.name, Guest::Deaf);
    apply(&hypervisor, &[vm.shut_down()]);
    assert_eq!(off(&hypervisor, &vm), None);
    hypervisor.set_guest(&vm.name, Guest::ShutsDownAfter { observations: 2 });
    apply(&hypervisor, &[vm.shut_down()]);
    let seen: Vec<_> = (0..3).map(|_| off(&hypervisor, &vm)).collect();
    assert_eq!(seen, [None, None, Some(OffReason::Shutdown)]);
    hypervisor.set_guest(&vm.name, Guest::ShutsDownAfter { observations: 0 });
    apply(&hypervisor, &[vm.start()]);
    hypervisor.apply(&vm.shut_down()).unwrap();
    assert_eq!(off(&hypervisor, &vm), Some(OffReason::Shutdown));
}

#[test]
fn a_refused_start_is_told_in_libvirts_words() {
    let (_, hypervisor) = model();
    let vm = Vm::new("desk", 1);
    apply(&hypervisor, &[vm.define(diskless())]);
    hypervisor.refuse_starts(&vm.name, Some("no memory"));
    assert!(refusal(&hypervisor, &vm.start()).message.contains("no memory"));
    hypervisor.refuse_starts(&vm.name, None);
    apply(&hypervisor, &[vm.start()]);
}

#[test]
fn while_libvirt_is_down_nothing_is_known_and_vms_go_on() {
    let (devices, hypervisor, vm) = running(1);
    hypervisor.go_down("connection refused");
    assert_eq!(hypervisor.observe(), Observed::Down { reason: "connection refused".into() });
    assert_eq!(refusal(&hypervisor, &vm.kill()).code, Code::LibvirtDown);
    assert_eq!(devices.open_now(), [mdev(1).source]);
    hypervisor.come_up();
    assert_eq!(domain(&hypervisor, &vm).state, DomainState::Running);
    apply(&hypervisor, &[vm.kill()]);
    hypervisor.go_down("connection refused");
    hypervisor.come_up();
    assert_eq!(off(&hypervisor, &vm), Some(OffReason::Unknown), "libvirt keeps no reason");
}

#[test]
fn a_domain_without_a_definition_is_transient_and_gone_when_it_ends() {
    let (_, hypervisor, vm) = running(1);
    hypervisor.undefine_by_hand(&vm.name);
    assert!(!domain(&hypervisor, &vm).persistent);
    for step in [vm.put(&[]), vm.define(diskless())] {
        assert_eq!(refusal(&hypervisor, &step).code, Code::DomainTransient);
    }
    apply(&hypervisor, &[vm.kill()]);
    assert!(domains(&hypervisor).is_empty());
}
