//! AMD's GPUs: partitions that the driver made when it was loaded, and what that means for every wish.

use tranche_core::finding::{Code, Severity};
use tranche_core::inventory::Backend;
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::VFIO_DRIVER;
use tranche_host::fake::Machine;
use tranche_host::tree::Tree as _;

use crate::life::{Life, on_both_faces, partitioned};

const MI300X: &str = "0000:05:00.0";
const PASSTHROUGH: GpuMode = GpuMode::Passthrough { allow_console: false, pool: None };

#[test]
fn a_whole_life() {
    on_both_faces(&Machine::instinct(4), |life| {
        let gpu = life.gpu(MI300X);
        assert_eq!((gpu.model.as_str(), gpu.backend), ("AMD Instinct MI300X", Some(Backend::FixedVf)));
        assert_eq!((gpu.valid_counts(), gpu.partitions.len()), (vec![4], 4));
        life.set_mode(MI300X, partitioned(4));
        let bound = life.gpu(MI300X).partitions.iter().filter(|vf| vf.driver.as_deref() == Some(VFIO_DRIVER));
        assert_eq!(bound.count(), 4);
        for name in ["a", "b", "c", "d"] {
            life.start_new(name, Request::ANY_PARTITION);
            assert!(life.runs(name), "{name}: {:#?}", life.findings);
        }
        life.start_new("e", Request::ANY_PARTITION);
        assert!(!life.runs("e") && life.finding(Code::NoFreePartition).is_some());
        life.refuses_mode(MI300X, GpuMode::Host, Code::PartitionsInUse);
        life.stop("a");
        assert!(life.runs("e"), "what waits gets the partition that came free");
        life.reboot();
        for name in ["b", "c", "d", "e"] {
            assert!(life.runs(name), "{name}: {:#?}", life.findings);
            life.stop(name);
        }
        life.set_mode(MI300X, GpuMode::Host);
        assert_eq!(life.gpu(MI300X).partitions.len(), 4, "they are the driver's, and stay");
    });
}

#[test]
fn another_count_is_refused_with_the_commands_that_change_it() {
    on_both_faces(&Machine::instinct(4), |life| {
        let note = life.finding(Code::CountFixed).expect("it is told").clone();
        assert_eq!(note.severity, Severity::Info);
        assert!(note.message.contains("into 4") && note.message.contains("CPX"), "{note}");
        assert!(note.message.contains("NPS4"), "{note}");
        for words in ["stop every VM", "vf_num=N", "modprobe -r gim", "/etc/modprobe.d/gim.conf"] {
            assert!(note.hint.contains(words), "{words}: {note}");
        }
        let refusal = life.refuses_mode(MI300X, partitioned(8), Code::InvalidPartitionCount);
        assert!(refusal.contains(&note), "{refusal:?}");
        let refusal = life.refuses_mode(MI300X, PASSTHROUGH, Code::ModeConflict);
        assert!(refusal.contains(&note), "{refusal:?}");
    });
}

#[test]
fn nothing_is_ever_written_to_numvfs_because_it_would_be_refused() {
    let mut life = Life::in_memory(Machine::instinct(2));
    let numvfs = format!("sys/bus/pci/devices/{MI300X}/sriov_numvfs");
    let errno = life.kernel.write(&numvfs, "4").unwrap_err().raw_os_error();
    assert_eq!(errno, Some(libc::ENOENT));
    life.set_mode(MI300X, partitioned(2));
    life.set_mode(MI300X, GpuMode::Host);
    assert!(life.findings.iter().all(|finding| finding.severity == Severity::Info), "{:#?}", life.findings);
}

#[test]
fn a_driver_that_was_loaded_with_another_count_is_drift_and_its_new_count_can_be_had() {
    let mut life = Life::in_memory(Machine::instinct(4));
    life.set_mode(MI300X, partitioned(4));
    life.start_new("a", Request::ANY_PARTITION);
    life.stop("a");
    life.kernel.reload_gim(8);
    life.settle();
    assert!(life.finding(Code::Drift).is_some(), "{:#?}", life.findings);
    life.start("a");
    assert!(!life.runs("a"), "the partitions are not those that were decided");
    life.stop("a");
    life.set_mode(MI300X, GpuMode::Host);
    life.set_mode(MI300X, partitioned(8));
    life.start("a");
    assert!(life.runs("a"), "{:#?}", life.findings);
    assert!(life.finding(Code::Drift).is_none());
}

#[test]
fn a_driver_that_made_no_functions_offers_nothing_and_says_so() {
    let mut life = Life::in_memory(Machine::instinct(0));
    assert!(life.finding(Code::CountFixed).is_some_and(|note| note.message.contains("no virtual functions")));
    life.refuses_mode(MI300X, partitioned(1), Code::NotPartitionable);
    life.set_mode(MI300X, PASSTHROUGH);
    assert_eq!(life.gpu(MI300X).driver.as_deref(), Some(VFIO_DRIVER));
}

#[test]
fn a_gpu_that_another_driver_has_is_told_which_one_it_needs() {
    let mut machine = Machine::instinct(4);
    "amdgpu".clone_into(&mut machine.drivers[0].name);
    let mut life = Life::in_memory(machine);
    let note = life.finding(Code::NotPartitionable).expect("it is told");
    assert!(note.message.contains("driver gim, and amdgpu has it"), "{note}");
    life.set_mode(MI300X, PASSTHROUGH);
    assert!(life.finding(Code::NotPartitionable).is_none());
}
