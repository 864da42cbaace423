//! libvirt's own test driver: libvirt's code without a daemon. It takes domains of its own type only, and starts
//! nothing, so it shows what happens to domains of users.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tranche_core::finding::{Code, Severity};
use tranche_core::inventory::{DomainState, Hypervisor as Observed, OffReason};
use tranche_host::vm::Hypervisor as _;
use tranche_host::vm::libvirt::{Config, Libvirt};
use tranche_host::vm::xml::Acceleration;
use virt::connect::Connect;
use virt::domain::Domain;
use virt_sys as sys;

use crate::contract::{self, Vm, apply, domain, wait_until};
use crate::server::{count_in, users_domain};

#[test]
fn libvirt_takes_what_is_written_into_a_users_domain_and_gives_it_back() {
    let uri = "test:///default";
    let connect = Connect::open(Some(uri)).unwrap();
    let woken = Arc::new(AtomicUsize::new(0));
    let config = Config { uri: uri.into(), ..Config::default() };
    let hypervisor = Libvirt::new(config, Arc::new(count_in(&woken)));
    let Observed::Up { libvirt, domains, resources, .. } = hypervisor.observe() else {
        panic!("the test driver is down")
    };
    let resources = resources.expect("it tells of pools and networks");
    let pool = &resources.pools["default-pool"];
    assert_eq!((pool.kind.as_str(), pool.active, pool.shared), ("dir", true, false));
    assert!(resources.networks["default"].active);
    assert!(libvirt.split('.').count() == 3, "{libvirt}");
    assert_eq!(domains["test"].state, DomainState::Running);

    let vm = Vm::new("theirs", 7);
    let defined = Domain::define_xml(&connect, &users_domain(&vm, "test")).unwrap();
    wait_until("an event wakes the daemon", || woken.load(Ordering::SeqCst) > 0);
    let definition = || defined.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).unwrap();
    contract::a_users_domain_keeps_what_is_its_own(&hypervisor, &vm, &definition);
    contract::somebody_elses_domain_is_not_touched(&hypervisor, &vm.name);
    contract::a_missing_domain_is_off_already(&hypervisor);
    contract::a_step_about_a_gpu_is_refused(&hypervisor);

    apply(&hypervisor, &[vm.start()]);
    assert_eq!(domain(&hypervisor, &vm).state, DomainState::Running);
    apply(&hypervisor, &[vm.shut_down()]);
    assert_eq!(domain(&hypervisor, &vm).state, DomainState::Off { reason: OffReason::Shutdown });
    apply(&hypervisor, &[vm.start(), vm.kill()]);
    assert_eq!(domain(&hypervisor, &vm).state, DomainState::Off { reason: OffReason::Destroyed });
}

#[test]
fn a_host_whose_guests_are_emulated_is_told_so() {
    let host = "node1".parse().unwrap();
    let notes = |acceleration| {
        Libvirt::new(Config { acceleration, ..Config::default() }, Arc::new(|| ())).notes(&host)
    };
    assert_eq!((notes(None), notes(Some(Acceleration::Kvm))), (Vec::new(), Vec::new()));
    let [note] = &notes(Some(Acceleration::Emulated))[..] else { panic!("one note") };
    assert_eq!((note.code, note.severity), (Code::KvmMissing, Severity::Warning));
    assert!(note.message.contains("node1") && note.hint.contains("restart tranched"), "{note}");
}

#[test]
fn a_libvirt_that_is_not_there_is_down_and_says_why() {
    let config = Config { uri: "qemu+unix:///system?socket=/nonexistent/sock".into(), ..Config::default() };
    let hypervisor = Libvirt::new(config, Arc::new(|| ()));
    let Observed::Down { reason } = hypervisor.observe() else { panic!("it cannot be up") };
    assert!(reason.contains("/nonexistent/sock"), "{reason}");
    let finding = contract::refusal(&hypervisor, &Vm::new("desk", 1).kill());
    assert_eq!(finding.code, Code::LibvirtDown);
}
