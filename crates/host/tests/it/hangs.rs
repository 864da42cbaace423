//! Calls that do not come back: limited, named, and in nobody else's way.

use std::sync::Arc;

use tranche_core::finding::Code;
use tranche_core::name::Timestamp;
use tranche_core::step::Step;
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::fake::{FakeHost, FakeKernel, Machine};

use crate::machine::{
    IGB, at, disable, done, enable, gpu, inventory, lab_catalogue, on_both_faces, pci, refused,
};

/// Short, because these tests wait them out, and long enough for calls that do not hang on a machine that is busy.
pub(crate) const SHORT: Limits = Limits { read_ms: 2_000, write_ms: 2_000, tool_ms: 2_000 };

fn impatient() -> FakeHost {
    FakeHost::new("node1".parse().unwrap(), FakeKernel::boot(Machine::lab()), lab_catalogue(), SHORT)
}

/// Waits until nothing is stuck any more; each look is bounded by the limits, so this does not spin.
fn wait_until_free(host: &FakeHost) {
    while !inventory(host).stuck.is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn a_hanging_write_is_limited_named_and_refuses_what_would_wait_behind_it() {
    let host = impatient();
    done(&host, &enable(4));
    host.kernel.hold(pci(IGB));
    let finding = refused(&host, &disable(), Code::CallStuck);
    let call = "write 0 to /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs";
    assert!(finding.message.contains(call), "{finding}");

    let seen = host.observe(Timestamp(5_000));
    assert!(seen.is_stuck(&at(IGB)) && !seen.is_stuck(&at("0000:02:00.0")));
    assert_eq!(seen.stuck.iter().map(|stuck| stuck.call.as_str()).collect::<Vec<_>>(), [call]);
    assert_eq!(seen.stuck[0].since, crate::machine::NOW);
    let finding = refused(&host, &enable(2), Code::CallStuck);
    assert!(finding.message.contains(call), "{finding}");

    host.kernel.release(pci(IGB));
    wait_until_free(&host);
    assert_eq!(gpu(&host, IGB).partitions.len(), 0, "the late write took effect");
    done(&host, &enable(2));
}

#[test]
fn a_stuck_gpu_is_still_seen_with_its_partitions() {
    let host = impatient();
    done(&host, &enable(3));
    host.kernel.hold(pci(IGB));
    refused(&host, &disable(), Code::CallStuck);
    let seen = gpu(&host, IGB);
    assert_eq!((seen.partitions.len(), seen.sriov.map(|sriov| sriov.vfs)), (3, Some(3)));
    host.kernel.release(pci(IGB));
}

#[test]
fn other_gpus_go_on_while_one_hangs() {
    let host = impatient();
    host.kernel.hold(pci(IGB));
    refused(&host, &enable(1), Code::CallStuck);
    done(&host, &Step::EnableVfs { gpu: at("0000:02:00.0"), count: 5 });
    assert_eq!(gpu(&host, "0000:02:00.0").partitions.len(), 5);
    host.kernel.release(pci(IGB));
}

#[test]
fn a_count_that_cannot_be_read_because_somebody_else_switches_is_stuck_until_they_are_done() {
    let host = impatient();
    host.kernel.hold(pci(IGB));
    let kernel = Arc::clone(&host.kernel);
    let somebody = std::thread::spawn(move || {
        use tranche_host::tree::Tree;
        kernel.write("sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", "2")
    });
    host.kernel.wait_until_locked(pci(IGB));
    let seen = inventory(&host);
    let calls: Vec<_> = seen.stuck.iter().map(|stuck| stuck.call.as_str()).collect();
    assert_eq!(calls, ["read /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs"]);
    host.kernel.release(pci(IGB));
    somebody.join().unwrap().unwrap();
    wait_until_free(&host);
    assert_eq!(gpu(&host, IGB).sriov.unwrap().vfs, 2);
}

#[test]
fn a_reboot_ends_what_hangs() {
    let host = impatient();
    host.kernel.hold(pci(IGB));
    refused(&host, &enable(1), Code::CallStuck);
    host.reboot();
    wait_until_free(&host);
    done(&host, &enable(1));
}

#[cfg(feature = "fuse")]
#[test]
fn a_write_2_that_hangs_is_limited_as_well() {
    use tranche_host::calls::Calls;
    use tranche_host::tree::Tree;

    let kernel = Arc::new(FakeKernel::boot(Machine::lab()));
    let mounted = crate::trees::mount(&kernel);
    let tree: Arc<dyn Tree> = Arc::clone(&mounted.tree) as Arc<dyn Tree>;
    let calls = Calls::new(tree, SHORT);
    let key = "node1/0000:01:00.0".parse().unwrap();
    kernel.hold(pci(IGB));
    let error =
        calls.on(&key, Timestamp(1)).write("sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", "2").unwrap_err();
    let limit = format!("has not come back within {} ms", SHORT.write_ms);
    assert!(error.to_string().contains(&limit), "{error}");
    assert_eq!(calls.stuck().len(), 1);
    kernel.release(pci(IGB));
    while !calls.stuck().is_empty() {
        std::thread::yield_now();
    }
}

fn until_free(host: &dyn Host) {
    while !host.observe(crate::machine::NOW).stuck.is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn a_gpu_whose_look_hangs_is_still_there_as_it_was_seen_last_and_fenced_off() {
    on_both_faces(&Machine::lab(), SHORT, |kernel, host| {
        host.apply(&enable(3), crate::machine::NOW).unwrap();
        let before = host.observe(Timestamp(1));
        kernel.hang_reads(pci(IGB), "config");
        for seen in [host.observe(Timestamp(2)), host.observe(Timestamp(3))] {
            assert!(seen.is_stuck(&at(IGB)) && !seen.is_stuck(&at("0000:02:00.0")), "{:?}", seen.stuck);
            assert_eq!(seen.gpus, before.gpus);
            assert_eq!(seen.stuck.len(), 1, "told once: {:?}", seen.stuck);
        }
        let again = host.observe_again(&[at(IGB)].into(), &before, Timestamp(4));
        assert!(again.is_stuck(&at(IGB)));
        assert_eq!(again.gpus, before.gpus);
        kernel.let_reads_go(pci(IGB));
        until_free(host);
        host.apply(&disable(), crate::machine::NOW).unwrap();
        assert_eq!(host.observe(Timestamp(5)).gpus[&at(IGB)].partitions, []);
    });
}

#[test]
fn gpus_that_cannot_even_be_listed_are_all_still_there_and_fenced_off() {
    on_both_faces(&Machine::lab(), SHORT, |kernel, host| {
        let before = host.observe(Timestamp(1));
        kernel.hang_reads(pci(IGB), "class");
        let seen = host.observe(Timestamp(2));
        assert_eq!(seen.gpus, before.gpus);
        assert!(seen.gpus.keys().all(|gpu| seen.is_stuck(gpu)), "{:?}", seen.stuck);
        assert!(seen.notes.iter().any(|note| note.code == Code::CallStuck));
        kernel.let_reads_go(pci(IGB));
        until_free(host);
        assert_eq!(host.observe(Timestamp(3)).gpus, before.gpus);
    });
}

#[test]
fn a_gpu_whose_first_look_hangs_is_marked_as_not_seen() {
    on_both_faces(&Machine::lab(), SHORT, |kernel, host| {
        for attribute in ["config", "class"] {
            kernel.hang_reads(pci(IGB), attribute);
            let seen = host.observe(Timestamp(1));
            assert!(!seen.gpus.contains_key(&at(IGB)));
            assert!(seen.unseen_because_of(&at(IGB)).is_some(), "{attribute}: {:?}", seen.stuck);
            kernel.reboot();
            until_free(host);
            let seen = host.observe(Timestamp(2));
            assert!(seen.gpus.contains_key(&at(IGB)), "a reboot ends it");
            kernel.reboot();
        }
    });
}

#[test]
fn what_was_seen_in_an_earlier_boot_stands_in_for_nothing() {
    on_both_faces(&Machine::lab(), SHORT, |kernel, host| {
        host.apply(&enable(3), crate::machine::NOW).unwrap();
        host.observe(Timestamp(1));
        kernel.reboot();
        kernel.hang_reads(pci(IGB), "config");
        let seen = host.observe(Timestamp(2));
        assert!(!seen.gpus.contains_key(&at(IGB)) && seen.is_stuck(&at(IGB)));
        kernel.let_reads_go(pci(IGB));
        until_free(host);
    });
}

#[test]
fn a_count_that_does_not_come_back_leaves_the_gpu_and_its_links_to_be_seen() {
    on_both_faces(&Machine::lab(), SHORT, |kernel, host| {
        host.apply(&enable(2), crate::machine::NOW).unwrap();
        kernel.hang_reads(pci(IGB), "sriov_numvfs");
        let seen = host.observe(Timestamp(2));
        assert!(seen.is_stuck(&at(IGB)));
        assert_eq!(seen.gpus[&at(IGB)].partitions.len(), 2);
        kernel.let_reads_go(pci(IGB));
        until_free(host);
    });
}
