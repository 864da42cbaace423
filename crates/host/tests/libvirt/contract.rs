//! What every hypervisor does, the real one and the model alike.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::{Duration, Instant};

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{
    Console, DeviceSource, Domain, DomainState, Hypervisor as Observed, OffReason,
};
use tranche_core::name::{VmId, VmName};
use tranche_core::spec::{Firmware, VmHardware};
use tranche_core::step::{Step, VmDevice};
use tranche_host::vm::Hypervisor;
use uuid::Uuid;

/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// A VM of the tests: its name and UUID.
#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) name: VmName,
    pub(crate) id: VmId,
}

impl Vm {
    pub(crate) fn new(name: &str, number: u128) -> Self {
        Self { name: name.parse().unwrap(), id: VmId(Uuid::from_u128(number)) }
    }

    pub(crate) fn define(&self, hardware: VmHardware) -> Step {
        Step::DefineVm { vm: self.name.clone(), id: self.id, hardware: Box::new(hardware) }
    }

    pub(crate) fn expect(&self, hardware: VmHardware) -> Step {
        Step::ExpectVm { vm: self.name.clone(), id: self.id, hardware: Box::new(hardware) }
    }

    pub(crate) fn put(&self, devices: &[VmDevice]) -> Step {
        Step::PutDevices { vm: self.name.clone(), id: self.id, devices: devices.to_vec(), near: None }
    }

    pub(crate) fn start(&self) -> Step {
        Step::StartVm { vm: self.name.clone(), id: self.id }
    }

    pub(crate) fn shut_down(&self) -> Step {
        Step::ShutDownVm { vm: self.name.clone(), id: self.id }
    }

    pub(crate) fn kill(&self) -> Step {
        Step::KillVm { vm: self.name.clone(), id: self.id }
    }

    pub(crate) fn undefine(&self) -> Step {
        Step::UndefineVm { vm: self.name.clone(), id: self.id }
    }
}

/// The smallest VM: nothing to boot from, which the BIOS says on the screen for ever.
pub(crate) fn diskless() -> VmHardware {
    VmHardware {
        vcpus: 1,
        memory_mib: 64,
        disks: Vec::new(),
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: None,
        cloud_init: None,
    }
}

pub(crate) fn mdev(number: u128) -> VmDevice {
    VmDevice { source: DeviceSource::Mdev { uuid: Uuid::from_u128(number) }, mmio_mib: 64 }
}

pub(crate) fn pci(address: &str) -> VmDevice {
    VmDevice { source: DeviceSource::Pci { address: address.parse().unwrap() }, mmio_mib: 64 }
}

/// Carries out steps twice each, as after a crash right behind them.
#[track_caller]
pub(crate) fn apply(hypervisor: &dyn Hypervisor, steps: &[Step]) {
    for step in steps {
        for time in ["first", "second"] {
            hypervisor.apply(step).unwrap_or_else(|finding| panic!("{step}, the {time} time: {finding}"));
        }
    }
}

#[track_caller]
pub(crate) fn refusal(hypervisor: &dyn Hypervisor, step: &Step) -> Finding {
    *hypervisor.apply(step).expect_err(&format!("{step} was not refused"))
}

#[track_caller]
pub(crate) fn domains(hypervisor: &dyn Hypervisor) -> BTreeMap<String, Domain> {
    match hypervisor.observe() {
        Observed::Up { domains, .. } => domains,
        Observed::Down { reason } => panic!("libvirt is down: {reason}"),
    }
}

#[track_caller]
pub(crate) fn domain(hypervisor: &dyn Hypervisor, vm: &Vm) -> Domain {
    domains(hypervisor).remove(vm.name.as_str()).unwrap_or_else(|| panic!("there is no domain {}", vm.name))
}

/// Looks until something is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(LOOK);
    }
}

fn ours(devices: &[tranche_core::inventory::HostDevice]) -> Vec<&DeviceSource> {
    devices.iter().filter(|device| device.ours).map(|device| &device.source).collect()
}

/// A VM that Tranche makes, from its definition to its end.
pub(crate) fn a_vm_lives(hypervisor: &dyn Hypervisor) {
    let vm = Vm::new("desk-01", 0xd1);
    apply(hypervisor, &[vm.define(diskless())]);
    let defined = domain(hypervisor, &vm);
    assert_eq!((defined.uuid, defined.vcpus, defined.memory_mib), (vm.id.0, 1, 64));
    assert_eq!((defined.persistent, defined.autostart), (true, false));
    assert_eq!(defined.state, DomainState::Off { reason: OffReason::Unknown });

    apply(hypervisor, &[vm.put(&[mdev(1), pci("0000:3d:00.4")])]);
    let with_devices = domain(hypervisor, &vm);
    assert_eq!(ours(&with_devices.defined_devices), [&mdev(1).source, &pci("0000:3d:00.4").source]);
    assert!(with_devices.live_devices.is_empty());
    apply(hypervisor, &[vm.put(&[])]);
    assert!(domain(hypervisor, &vm).defined_devices.is_empty());

    apply(hypervisor, &[vm.start()]);
    assert_eq!(domain(hypervisor, &vm).state, DomainState::Running);
    assert_eq!(refusal(hypervisor, &vm.undefine()).code, Code::VmRunning);
    apply(hypervisor, &[vm.kill()]);
    assert_eq!(domain(hypervisor, &vm).state, DomainState::Off { reason: OffReason::Destroyed });
    apply(hypervisor, &[vm.start(), vm.kill(), vm.shut_down(), vm.undefine()]);
    assert!(!domains(hypervisor).contains_key(vm.name.as_str()));
}

/// A domain that was there before. `definition` reads what is stored of it.
pub(crate) fn a_users_domain_keeps_what_is_its_own(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    definition: &dyn Fn() -> String,
) {
    let before = definition();
    apply(hypervisor, &[vm.put(&[mdev(1)])]);
    assert_eq!(ours(&domain(hypervisor, vm).defined_devices), [&mdev(1).source]);
    assert_ne!(definition(), before);
    apply(hypervisor, &[vm.put(&[mdev(2), mdev(3)])]);
    assert_eq!(ours(&domain(hypervisor, vm).defined_devices), [&mdev(2).source, &mdev(3).source]);
    apply(hypervisor, &[vm.put(&[])]);
    assert_eq!(definition(), before);
}

/// A domain of the VM's name that is not the VM's. Nothing is done to it.
pub(crate) fn somebody_elses_domain_is_not_touched(hypervisor: &dyn Hypervisor, name: &VmName) {
    let before = domains(hypervisor);
    let vm = Vm { name: name.clone(), id: VmId(Uuid::from_u128(0xdead)) };
    assert_eq!(refusal(hypervisor, &vm.define(diskless())).code, Code::DomainExists);
    for step in [vm.put(&[mdev(1)]), vm.start(), vm.shut_down(), vm.kill(), vm.undefine()] {
        let refusal = refusal(hypervisor, &step);
        assert_eq!(refusal.code, Code::DomainIdentity, "{step}: {refusal}");
    }
    assert_eq!(domains(hypervisor), before);
}

/// A domain that is gone needs no ending, and cannot be begun.
pub(crate) fn a_missing_domain_is_off_already(hypervisor: &dyn Hypervisor) {
    let vm = Vm::new("never-was", 0xbad);
    apply(hypervisor, &[vm.shut_down(), vm.kill(), vm.undefine()]);
    for step in [vm.start(), vm.put(&[mdev(1)])] {
        assert_eq!(refusal(hypervisor, &step).code, Code::DomainNotFound);
    }
}

/// Only VMs are a hypervisor's work.
pub(crate) fn a_step_about_a_gpu_is_refused(hypervisor: &dyn Hypervisor) {
    let step = Step::DisableVfs { gpu: "0000:01:00.0".parse().unwrap(), autoprobe: true };
    assert_eq!(refusal(hypervisor, &step).code, Code::Invariant);
}

/// What a guest shows is lent while it runs: its screen to many, its serial console to one at a time.
pub(crate) fn consoles_are_lent(hypervisor: &dyn Hypervisor) {
    let vm = Vm::new("shown", 0xc0);
    let open = |console, force| hypervisor.open_console(&vm.name, vm.id, console, force);
    let refused = |console| open(console, false).expect_err("it is refused").code;
    assert_eq!(refused(Console::Screen), Code::DomainNotFound);
    apply(hypervisor, &[vm.define(diskless())]);
    assert_eq!(refused(Console::Screen), Code::VmNotRunning);
    apply(hypervisor, &[vm.start()]);
    assert_eq!(domain(hypervisor, &vm).consoles, [Console::Serial, Console::Screen].into());
    let mut screens = [open(Console::Screen, false).unwrap(), open(Console::Screen, false).unwrap()];
    for screen in &mut screens {
        let mut version = [0; 12];
        screen.read_exact(&mut version).unwrap();
        assert_eq!(&version[..4], b"RFB ");
    }
    let mut first = open(Console::Serial, false).unwrap();
    assert_eq!(refused(Console::Serial), Code::ConsoleBusy);
    let second = open(Console::Serial, true).unwrap();
    first.read_to_end(&mut Vec::new()).unwrap();
    drop(second);
    wait_until("it is given back", || open(Console::Serial, false).is_ok());
    let mut last = None;
    wait_until("it is lent again", || open(Console::Serial, false).map(|line| last = Some(line)).is_ok());
    apply(hypervisor, &[vm.kill()]);
    last.unwrap().read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(domain(hypervisor, &vm).consoles, [].into());
    apply(hypervisor, &[vm.undefine()]);
}
