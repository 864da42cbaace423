//! AMD's GPUs: partitions that the driver made when it was loaded, and what that means for every wish.

use tranche_core::change::Change;
use tranche_core::finding::{Code, Severity};
use tranche_core::inventory::Backend;
use tranche_core::spec::{GpuMode, Request};
use tranche_core::step::VFIO_DRIVER;
use tranche_host::fake::Machine;
use tranche_host::modules::server;
use tranche_host::tree::Tree as _;

use crate::life::{Life, key, on_both_faces, partitioned};

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
        for words in
            ["--reload-driver", "stop every VM", "vf_num=N", "modprobe -r gim", "/etc/modprobe.d/gim.conf"]
        {
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

fn reload(count: u16) -> Change {
    Change::ReloadDriver { gpu: key(MI300X), mode: partitioned(count) }
}

#[test]
fn by_the_explicit_command_the_driver_is_loaded_with_another_count_and_keeps_it() {
    let mut life = Life::in_memory(Machine::instinct(4));
    life.set_mode(MI300X, partitioned(4));
    for name in ["a", "b"] {
        life.start_new(name, Request::ANY_PARTITION);
    }
    life.wish(&reload(8)).expect("it is admitted");
    assert_eq!((life.gpu(MI300X).partitions.len(), life.gpu(MI300X).valid_counts()), (8, vec![8]));
    assert!(life.runs("a") && life.runs("b"), "{:#?}", life.findings);
    let options = life.kernel.file(server::OPTIONS).expect("the next boot needs it");
    assert_eq!(options, format!("{}\noptions gim vf_num=8\n", server::HEADER));
    life.reboot();
    assert_eq!(life.gpu(MI300X).partitions.len(), 8, "modprobe.d sees to it");
    assert!(life.runs("a") && life.runs("b"), "{:#?}", life.findings);
}

#[test]
fn what_the_model_cannot_be_is_refused_and_an_unknown_model_is_tried() {
    let mut life = Life::in_memory(Machine::instinct(4));
    let refusal = life.wish(&reload(3)).expect_err("an MI300X is split into 1 or 8");
    assert!(refusal.iter().any(|finding| finding.code == Code::InvalidPartitionCount), "{refusal:#?}");
    assert!(refusal.iter().any(|finding| finding.hint.contains("1, 8")), "{refusal:#?}");
    let mut machine = Machine::instinct(4);
    machine.functions[0].ids.device = 0x74ff;
    machine.drivers[0].ids = vec!["1002:74ff".to_owned()];
    machine.functions[0].class = 0x03_0000;
    let mut life = Life::in_memory(machine);
    life.wish(&reload(3)).expect("only the driver knows");
    assert_eq!(life.gpu(MI300X).partitions.len(), 3);
}

#[test]
fn without_the_helper_the_finding_names_the_commands() {
    let mut life = Life::in_memory(Machine::instinct(4));
    life.kernel.remove_module_helper();
    let failed = life.failure_of(&reload(8), Code::ReloadFailed);
    for words in ["tranche-modules.socket", "vf_num=8", "modprobe -r gim"] {
        assert!(failed.hint.contains(words), "{failed}");
    }
    assert_eq!(life.gpu(MI300X).partitions.len(), 4);
}

#[test]
fn a_load_that_fails_is_undone_by_the_helper_and_says_so() {
    let mut life = Life::in_memory(Machine::instinct(4));
    life.kernel.refuse_module("gim", 1);
    let failed = life.failure_of(&reload(8), Code::ReloadFailed);
    assert!(failed.message.contains("Invalid argument. It was loaded again as it was before"), "{failed}");
    assert_eq!((life.kernel.file(server::OPTIONS), life.gpu(MI300X).partitions.len()), (None, 4));
    // When that fails, too, it is said plainly, and the next try brings it about.
    life.kernel.refuse_module("gim", 2);
    let failed = life.failure_of(&reload(8), Code::ReloadFailed);
    assert!(failed.message.contains("so it is not loaded"), "{failed}");
    life.settle();
    assert_eq!(life.gpu(MI300X).partitions.len(), 8);
}

#[test]
fn a_driver_that_something_uses_stays_loaded_as_it_was() {
    let mut life = Life::in_memory(Machine::instinct(4));
    life.kernel.use_module("gim");
    let failed = life.failure_of(&reload(8), Code::ReloadFailed);
    assert!(failed.message.contains("in use. It stays loaded as it was."), "{failed}");
    assert_eq!((life.kernel.file(server::OPTIONS), life.gpu(MI300X).partitions.len()), (None, 4));
}

#[test]
fn files_of_other_people_are_named_and_left_alone() {
    let header = server::HEADER;
    let theirs = [
        (server::OPTIONS, "options gim vf_num=2\n".to_owned(), "was not written by Tranche"),
        ("etc/modprobe.d/mine.conf", "options gim \\\n vf_num=2\n".to_owned(), "/etc/modprobe.d/mine.conf"),
        ("etc/gim_config", "fb_option=0\nvf_num=2\n".to_owned(), "/etc/gim_config"),
    ];
    for (path, text, said) in theirs {
        let mut life = Life::in_memory(Machine::instinct(4));
        life.kernel.put_file(path, &text);
        let failed = life.failure_of(&reload(8), Code::ReloadFailed);
        assert!(failed.message.contains(said), "{path}: {failed}");
        assert_eq!(life.kernel.file(path), Some(text));
        assert_eq!(life.gpu(MI300X).partitions.len(), 4);
    }
    for (path, text) in [
        (server::OPTIONS, format!("{header}\noptions gim vf_num=4\n")),
        ("etc/modprobe.d/mine.conf", "# options gim vf_num=2\noptions gim sch_policy=1\n".to_owned()),
        ("etc/modprobe.d/mine.conf.dpkg-old", "options gim vf_num=2\n".to_owned()),
        ("etc/gim_config", "#vf_num=2\n".to_owned()),
    ] {
        let mut life = Life::in_memory(Machine::instinct(4));
        life.kernel.put_file(path, &text);
        life.wish(&reload(8)).expect("nothing contradicts");
        assert_eq!(life.gpu(MI300X).partitions.len(), 8, "{path}");
    }
}

#[test]
fn fewer_functions_than_the_driver_was_told_are_a_finding() {
    let mut life = Life::in_memory(Machine::instinct(4));
    life.kernel.make_fewer_vfs(key(MI300X).address.pci().unwrap(), 5);
    let failed = life.failure_of(&reload(8), Code::FewerPartitions);
    assert!(failed.message.contains('8') && failed.message.contains('5'), "{failed}");
}
