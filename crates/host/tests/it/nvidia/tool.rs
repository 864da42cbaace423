//! NVIDIA's tool that switches virtual functions: what it meets, and what is made of how it ends.

use tranche_core::change::Change;
use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::Holder;
use tranche_core::step::Step;
use tranche_host::Host as _;
use tranche_host::calls::Limits;
use tranche_host::fake::Machine;

use super::world::{World, key, partitioned};
use crate::machine::{NOW, PATIENT, at, pci};

const GPU: &str = "0000:41:00.0";
const TOOL: &str = "/usr/lib/nvidia/sriov-manage";
/// Short, because these tests wait them out; reading takes its time through a mounted tree.
const SHORT: Limits = Limits { read_ms: 10_000, write_ms: 1_000, tool_ms: 1_000 };

fn a2() -> Machine {
    Machine::nvidia(&["NVIDIA A2"])
}

fn mediated_a2() -> Machine {
    a2().with_mediated_vgpus()
}

fn smi(pid: u32) -> Holder {
    Holder { pid, command: "nvidia-smi".to_owned() }
}

#[test]
fn a_tool_that_hangs_is_named_and_nothing_waits_behind_it() {
    for mut world in World::on_both_faces(&a2()).map(|world| world.impatient(SHORT)) {
        world.kernel.hold(pci(GPU));
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
        let finding = world.fails(Code::CallStuck);
        let call = format!("run {TOOL} -e {GPU}");
        assert!(finding.message.contains(&call), "{finding}");
        assert_eq!(world.pass(), [], "nothing is tried on a GPU that hangs");
        let seen = world.host.observe(NOW);
        assert!(seen.stuck.iter().any(|stuck| stuck.call == call), "{:?}", seen.stuck);
        world.kernel.release(pci(GPU));
        while !world.host.observe(NOW).stuck.is_empty() {
            std::thread::yield_now();
        }
        world.settle();
        assert_eq!(world.profiles(GPU).len(), 4);
    }
}

#[test]
fn the_process_that_keeps_the_driver_from_letting_go_is_named() {
    for mut world in [a2(), mediated_a2()].iter().flat_map(World::on_both_faces) {
        world.kernel.open_node("/dev/nvidia0", &smi(77));
        world.kernel.open_node("/dev/nvidiactl", &smi(78));
        world.kernel.open_node("/dev/nvidia1", &smi(79));
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
        let finding = world.fails(Code::KernelRefused);
        assert!(finding.message.contains("Cannot obtain unbindLock"), "{finding}");
        assert!(finding.hint.contains("nvidia-smi (pid 77)"), "{finding}");
        assert!(!finding.hint.contains("78") && !finding.hint.contains("79"), "other GPUs' users: {finding}");
        assert_eq!(world.gpu(GPU).blanks, []);
        world.kernel.close_nodes(&smi(77));
        world.settle();
        assert_eq!(world.profiles(GPU).len(), 4);
    }
}

#[test]
fn a_tool_that_fails_otherwise_is_quoted() {
    for mut world in World::on_both_faces(&a2()) {
        world.kernel.refuse_vfs(pci(GPU), libc::ENOMEM);
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
        let finding = world.fails(Code::KernelRefused);
        assert!(
            finding.message.contains("sriov-manage -e") && finding.message.contains("memory"),
            "{finding}"
        );
    }
}

#[test]
fn without_the_tool_the_host_driver_is_asked_for() {
    let mut machine = Machine::nvidia(&["NVIDIA A2"]);
    machine.vgpus.clear();
    for mut world in World::on_both_faces(&machine) {
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
        let finding = world.fails(Code::DriverMissing);
        assert!(finding.message.contains(TOOL) && finding.hint.contains("vGPU host driver"), "{finding}");
    }
}

#[test]
fn fewer_functions_than_there_should_be_are_noticed() {
    for mut world in World::on_both_faces(&a2()) {
        world.kernel.make_fewer_vfs(pci(GPU), 5);
        world.accepts(&Change::SetGpuMode { gpu: key(GPU), mode: partitioned(4, None) });
        let finding = world.fails(Code::FewerPartitions);
        assert!(finding.message.contains("16") && finding.message.contains('5'), "{finding}");
        world.kernel.repair();
        world.settle();
        assert_eq!(world.profiles(GPU).len(), 4);
    }
}

#[test]
fn the_tool_runs_for_one_gpu_of_a_board_after_the_other_whoever_asks_for_it() {
    for world in World::on_both_faces(&Machine::nvidia(&["NVIDIA A16"])) {
        let enable = |bus| Step::EnableVfs { gpu: at(&format!("0000:{bus}:00.0")), count: 16 };
        let outcomes: Vec<Result<(), Box<Finding>>> = std::thread::scope(|scope| {
            let host = &world.host;
            let calls = [41, 42, 43, 44].map(|bus| scope.spawn(move || host.apply(&enable(bus), NOW)));
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(outcomes, [Ok(()), Ok(()), Ok(()), Ok(())]);
    }
}

#[test]
fn while_the_tool_hangs_for_one_gpu_it_is_not_run_for_another() {
    let a16 = Machine::nvidia(&["NVIDIA A16"]);
    for mut world in World::on_both_faces(&a16).map(|world| world.impatient(SHORT)) {
        let (hanging, other) = (pci(GPU), "0000:42:00.0");
        let enable = |gpu| Step::EnableVfs { gpu: at(gpu), count: 16 };
        world.kernel.hold(hanging);
        world.host.apply(&enable(GPU), NOW).expect_err("it hangs");
        for _ in 0..2 {
            let finding = world.host.apply(&enable(other), NOW).expect_err("the tool is at work");
            assert_eq!(finding.code, Code::CallStuck);
            assert!(finding.message.contains(&format!("run {TOOL} -e {GPU}")), "{finding}");
        }
        assert!(!world.host.observe(NOW).is_stuck(&at(other)), "nothing hangs on that one");
        world.kernel.release(hanging);
        while !world.host.observe(NOW).stuck.is_empty() {
            std::thread::yield_now();
        }
        world = world.impatient(PATIENT);
        world.host.apply(&enable(other), NOW).expect("now it is its turn");
        assert_eq!(world.gpu(other).blanks.len(), 16);
    }
}
