//! How GPUs fare and which ones they are, as the whole host reports it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tranche_core::finding::Code;
use tranche_core::inventory::{DeviceSource, Ecc, Health, HealthState, Telemetry};
use tranche_core::name::{PciAddress, Timestamp};
use tranche_core::step::Step;
use tranche_host::fake::{DeviceUse, FakeHost, FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::monitor::{Monitor, Reading};
use tranche_host::vm::fake::FakeHypervisor;
use tranche_host::{Host as _, inspect};

use crate::captured::{Captured, a2_host, function};
use crate::machine::{
    IGB, PATIENT, at, bind, done, enable, gpu, host, inventory, lab, lab_catalogue, pci, qemu,
};

const GPU: &str = "0000:10:00.0";
const OTHER: &str = "0000:14:00.0";

fn gpus() -> FakeHost {
    host(Machine::gpus(2, 4))
}

fn health(host: &FakeHost, address: &str) -> Health {
    gpu(host, address).health
}

#[test]
fn a_gpu_without_any_sign_is_well_and_nothing_is_noted() {
    let host = gpus();
    assert_eq!(health(&host, GPU), Health::default());
    assert_eq!(inventory(&host).notes, []);
}

#[test]
fn a_gpu_that_fell_off_the_bus_needs_a_reset() {
    let host = gpus();
    host.kernel.drop_off_the_bus(pci(GPU));
    let lost = health(&host, GPU);
    assert_eq!(lost.state, HealthState::NeedsReset);
    assert!(lost.reasons[0].contains("all ones"), "{lost:?}");
    assert_eq!(health(&host, OTHER).state, HealthState::Good);
}

#[test]
fn fatal_errors_count_from_the_first_look_on() {
    let host = gpus();
    host.kernel.count_fatal_error(pci(GPU));
    assert_eq!(health(&host, GPU).state, HealthState::Good, "what was before may have been at boot");
    host.kernel.count_fatal_error(pci(GPU));
    let sick = health(&host, GPU);
    assert_eq!(sick.state, HealthState::Sick);
    assert!(sick.reasons[0].contains("AER counts 2, 1 when first seen"), "{sick:?}");
    assert_eq!(health(&host, GPU), sick, "it stays");
    host.reboot();
    assert_eq!(health(&host, GPU).state, HealthState::Good);
}

#[test]
fn a_gpu_that_is_powered_down_is_sick_only_while_it_is_in_use() {
    let host = lab();
    done(&host, &enable(1));
    done(&host, &bind(0, "0000:01:10.0"));
    host.kernel.set_power(pci(IGB), "D3cold");
    assert_eq!(health(&host, IGB).state, HealthState::Good);
    host.kernel.open(&DeviceSource::Pci { address: pci("0000:01:10.0") }, &qemu(7)).unwrap();
    assert_eq!(health(&host, IGB).state, HealthState::Sick);
}

#[test]
fn faults_in_the_kernel_log_are_those_of_their_gpu_until_the_driver_says_otherwise_or_a_reboot() {
    let host = gpus();
    host.kernel.log_line("NVRM: Xid (PCI:0000:10:00): 13, pid=7, name=game, Graphics Exception");
    assert_eq!(health(&host, GPU), Health::default());
    host.kernel.log_line("NVRM: Xid (PCI:0000:10:00): 48, pid=7, name=x, DBE");
    let first = health(&host, GPU);
    assert_eq!((first.state, first.reasons.len()), (HealthState::NeedsReset, 1));
    assert_eq!(health(&host, OTHER), Health::default());
    assert_eq!(health(&host, GPU), first, "a line is read once and remembered");
    host.kernel.log_line(
        "NVRM: Xid (PCI:0000:10:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
    );
    assert_eq!(health(&host, GPU), Health::default());
    host.kernel.log_line("NVRM: Xid (PCI:0000:10:00): 79, pid=7, name=x, GPU has fallen off the bus.");
    assert_eq!(health(&host, GPU).state, HealthState::NeedsReboot);
    host.reboot();
    assert_eq!(health(&host, GPU), Health::default());
}

#[test]
fn faults_go_with_the_driver_that_reported_them() {
    let host = gpus();
    assert_eq!(health(&host, GPU), Health::default());
    host.kernel.log_line("NVRM: Xid (PCI:0000:10:00): 48, pid=7, name=x, DBE");
    host.kernel.count_fatal_error(pci(GPU));
    assert_eq!(health(&host, GPU).reasons.len(), 2);
    let take = Step::TakeGpu { gpu: at(GPU), functions: vec![pci(GPU)] };
    done(&host, &take);
    assert_eq!(health(&host, GPU), Health::default(), "it is another driver's now");
    let own = gpu(&host, OTHER).driver;
    done(&host, &Step::ReturnGpu { gpu: at(GPU), functions: [(pci(GPU), own)].into() });
    assert_eq!(health(&host, GPU), Health::default(), "and begins anew with the first");
    host.kernel.log_line("NVRM: Xid (PCI:0000:10:00): 48, pid=7, name=x, DBE");
    assert_eq!(health(&host, GPU).state, HealthState::NeedsReset);
}

#[test]
fn a_partition_that_no_longer_answers_is_seen() {
    let host = lab();
    done(&host, &enable(2));
    let answers = || gpu(&host, IGB).partitions.iter().map(|partition| partition.answers).collect::<Vec<_>>();
    assert_eq!(answers(), [true, true]);
    host.kernel.drop_off_the_bus(pci("0000:01:10.2"));
    assert_eq!(answers(), [true, false]);
}

#[test]
fn a_captured_log_is_read_and_a_tree_without_one_is_not_blamed() {
    let a2 = a2_host();
    assert_eq!(inspect(a2.root(), None).gpus[&at("0000:08:00.0")].health, Health::default());
    a2.add("dev/kvm = x\ndev/kmsg = 3,1,5,-;NVRM: Xid (PCI:0000:08:00): 95, pid=1, name=x, Uncontained");
    let seen = inspect(a2.root(), None);
    assert_eq!(seen.gpus[&at("0000:08:00.0")].health.state, HealthState::NeedsReset);
}

#[test]
fn a_log_that_cannot_be_read_is_named() {
    let a2 = a2_host();
    a2.add("dev/kvm = x\ndev/kmsg/");
    let notes = inspect(a2.root(), None).notes;
    assert!(notes.iter().any(|note| note.code == Code::KernelRefused && note.hint.contains("CAP_SYSLOG")));
}

#[test]
fn the_vendors_number_comes_before_the_bus_s() {
    let host = gpus();
    assert_eq!(gpu(&host, GPU).unique_id, None);
    host.kernel.give_serial(pci(GPU), 0x0011_2233_4455_6677);
    assert_eq!(gpu(&host, GPU).unique_id.as_deref(), Some("DSN-0011223344556677"));
    let information = "proc/driver/nvidia/gpus/0000:10:00.0/information";
    host.kernel.put_file(information, "Model: \t\t NVIDIA A2\nGPU UUID: \t GPU-????????-????");
    assert_eq!(gpu(&host, GPU).unique_id.as_deref(), Some("DSN-0011223344556677"));
    host.kernel.put_file(information, "Model: \t\t NVIDIA A2\nGPU UUID: \t GPU-8f6c2d1e-5b3a\nIRQ: 16");
    assert_eq!(gpu(&host, GPU).unique_id.as_deref(), Some("GPU-8f6c2d1e-5b3a"));
}

#[test]
fn amdgpus_number_is_read() {
    let captured = Captured::new(&function(
        "0000:03:00.0",
        ["1002", "740f", "1002", "0c34"],
        "038000",
        2,
        "unique_id = 18f9a5d2c4b67e01\n",
    ));
    let seen = inspect(captured.root(), None);
    assert_eq!(seen.gpus[&at("0000:03:00.0")].unique_id.as_deref(), Some("AMD-18f9a5d2c4b67e01"));
}

#[test]
fn a_number_that_two_gpus_share_tells_neither() {
    let host = gpus();
    host.kernel.give_serial(pci(GPU), 7);
    host.kernel.give_serial(pci(OTHER), 7);
    assert_eq!((gpu(&host, GPU).unique_id, gpu(&host, OTHER).unique_id), (None, None));
}

#[test]
fn numbers_that_are_no_numbers_are_not_taken() {
    for serial in [0, u64::MAX] {
        let host = gpus();
        host.kernel.give_serial(pci(GPU), serial);
        assert_eq!(gpu(&host, GPU).unique_id, None);
    }
}

/// A vendor's library that says what it is told to say, and counts how often it is asked.
#[derive(Debug)]
struct FakeLibrary {
    driver: &'static str,
    answer: Result<Reading, String>,
    asked: AtomicUsize,
}

impl Monitor for FakeLibrary {
    fn driver(&self) -> &str {
        self.driver
    }

    fn look(&self) -> Result<BTreeMap<PciAddress, Reading>, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(BTreeMap::from([(pci(GPU), self.answer.clone()?)]))
    }
}

fn with_library(driver: &'static str, answer: Result<Reading, String>) -> (LinuxHost, Arc<FakeLibrary>) {
    let library = Arc::new(FakeLibrary { driver, answer, asked: AtomicUsize::new(0) });
    let kernel = Arc::new(FakeKernel::boot(Machine::gpus(2, 4)));
    let vms = Box::new(FakeHypervisor::new(kernel.clone()));
    let host = LinuxHost::new("node1".parse().unwrap(), kernel, PATIENT, lab_catalogue(), vms);
    (host.with_monitor(library.clone()), library)
}

#[test]
fn faults_are_over_when_the_library_says_that_nothing_is_needed_and_later_ones_count_again() {
    let kernel = Arc::new(FakeKernel::boot(Machine::gpus(2, 4)));
    let vms = Box::new(FakeHypervisor::new(kernel.clone()));
    let reading = Reading { recovered: true, ..Reading::default() };
    let library = FakeLibrary { driver: "xe", answer: Ok(reading), asked: AtomicUsize::new(0) };
    let host = LinuxHost::new("node1".parse().unwrap(), kernel.clone(), PATIENT, lab_catalogue(), vms)
        .with_monitor(Arc::new(library));
    let state = |at_s: u64| host.observe(Timestamp(at_s * 1_000)).gpus[&at(GPU)].health.state;
    let fault = || kernel.log_line("NVRM: Xid (PCI:0000:10:00): 48, pid=7, name=x, DBE");
    fault();
    assert_eq!(
        [state(1), state(20)],
        [HealthState::NeedsReset; 2],
        "its answer is older than the fault is known"
    );
    assert_eq!(state(40), HealthState::Good, "it was asked again");
    fault();
    assert_eq!([state(41), state(60)], [HealthState::NeedsReset; 2]);
    assert_eq!(state(80), HealthState::Good);
}

#[test]
fn what_a_vendors_library_tells_is_taken_over_for_the_gpu_it_speaks_of() {
    let telemetry = Telemetry {
        serial: Some("1321020".to_owned()),
        utilization_percent: Some(42),
        ecc: Some(Ecc { enabled: true, corrected: 1, uncorrected: 2 }),
        ..Telemetry::default()
    };
    let signs = vec![(HealthState::Sick, "worn memory".to_owned())];
    let unique_id = Some("GPU-1".to_owned());
    let reading = Reading { unique_id, telemetry: telemetry.clone(), signs, ..Reading::default() };
    let (host, _) = with_library("xe", Ok(reading));
    let seen = gpu(&host, GPU);
    assert_eq!((seen.telemetry, seen.unique_id.as_deref()), (Some(telemetry), Some("GPU-1")));
    assert_eq!((seen.health.state, seen.health.reasons), (HealthState::Sick, vec!["worn memory".to_owned()]));
    assert_eq!((gpu(&host, OTHER).telemetry, gpu(&host, OTHER).health), (None, Health::default()));
}

#[test]
fn a_library_is_asked_seldom_and_only_while_its_driver_has_a_gpu() {
    let (host, library) = with_library("xe", Ok(Reading::default()));
    for at in [0, 1_000, 29_999, 30_000, 31_000] {
        host.observe(Timestamp(at));
    }
    assert_eq!(library.asked.load(Ordering::SeqCst), 2);
    let (host, library) = with_library("another", Ok(Reading::default()));
    assert_eq!(gpu(&host, GPU).telemetry, None);
    assert_eq!(library.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_library_that_fails_takes_nothing_from_what_is_known_otherwise() {
    let (host, _) = with_library("xe", Err("Insufficient Permissions".to_owned()));
    let seen = inventory(&host);
    assert_eq!((seen.gpus.len(), seen.notes), (2, Vec::new()));
}
