//! Tranche's package on a real kernel with real SR-IOV, VFIO, mediated devices, libvirt and guests: what a host goes
//! through in its life, in the order of one life, because each boot costs the better part of a minute.
//!
//! `scripts/test` builds the package and the conformance check and names them in the environment; without them nothing
//! is tested and the reason is printed.

mod vgpu;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tranche_lab::guest::GuestReport;
use tranche_lab::{Lifetime, Node, NodeOptions, Progress, demo};

/// How long anything may take to show in software emulation on a busy machine.
const WAIT_LIMIT: Duration = Duration::from_secs(420);
const POLL: Duration = Duration::from_secs(2);

const PF: &str = "0000:01:00.0";
const MAIN_PID: &str = "systemctl show --property=MainPID --value tranched";

/// A node whose daemon's last words are told when the test fails.
struct Witnessed(Option<Node>);

impl Witnessed {
    fn end(mut self) {
        self.0.take().expect("it is there").end().expect("an end");
    }
}

impl std::ops::Deref for Witnessed {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.0.as_ref().expect("it is there until its end")
    }
}

impl std::ops::DerefMut for Witnessed {
    fn deref_mut(&mut self) -> &mut Node {
        self.0.as_mut().expect("it is there until its end")
    }
}

impl Drop for Witnessed {
    fn drop(&mut self) {
        if let Some(node) = self.0.as_ref().filter(|_| std::thread::panicking()) {
            let words = "journalctl --no-pager -n 60 -u tranched; dmesg | tail -n 20";
            match node.ssh(words) {
                Ok(output) => eprintln!("{}", output.stdout),
                Err(error) => eprintln!("the node does not tell: {error}"),
            }
        }
    }
}

#[test]
fn what_a_host_goes_through() {
    let (Some(deb), Some(conformance)) = (named("TRANCHE_LAB_DEB"), named("TRANCHE_LAB_CONFORMANCE")) else {
        eprintln!(
            "not run: TRANCHE_LAB_DEB and TRANCHE_LAB_CONFORMANCE name nothing; scripts/test sets them"
        );
        return;
    };
    let _alone = one_node();
    let directory = tempfile::tempdir().expect("a run directory");
    let options = NodeOptions {
        run_dir: directory.path().to_owned(),
        ..NodeOptions::new("product", Lifetime::Caller).expect("a good name")
    };
    let progress = Progress::new();
    let mut node = Witnessed(Some(Node::start(options, &progress).expect("a node that boots")));

    progress.say("the kernel behaves as the fake kernel does, errno by errno");
    node.copy_in(&conformance, "/tmp/conformance").expect("copied");
    run(
        &node,
        "modprobe vfio-pci; modprobe vfio_iommu_type1; modprobe mbochs; echo mbochs >/etc/modules-load.d/mbochs.conf",
    );
    run(&node, &format!("chmod +x /tmp/conformance && /tmp/conformance {PF}"));
    run(&node, "/tmp/conformance mbochs mbochs-medium");

    let older = under_an_older_version(&deb, directory.path());
    demo::install(&node, &older, &progress).expect("the package installs");
    progress.say("the daemon sees which drivers the kernel has, and what it needs of them is loaded");
    run(
        &node,
        &format!(
            "nsenter --mount --target $({MAIN_PID}) cat /lib/modules/$(uname -r)/modules.alias >/dev/null"
        ),
    );
    run(&node, "lsmod | grep -q '^pci_pf_stub'");
    loads_modules_by_the_helper_alone(&node, &progress);
    splits_and_starts(&node, &progress);

    progress.say("an upgrade starts the new daemon, and VMs do not notice");
    let machines = "pgrep qemu-system | sort | xargs";
    let (daemon, before) = (run(&node, MAIN_PID), run(&node, machines));
    demo::install(&node, &deb, &progress).expect("the package upgrades");
    wait_until(&node, "tranche doctor");
    assert_ne!(run(&node, MAIN_PID), daemon);
    assert_eq!(run(&node, machines), before);
    assert_eq!(run(&node, "dpkg-query -W -f='${Version}' tranche | grep -c 0.0.1 || true"), "0");

    refuses_what_would_hurt(&node, &progress);

    progress.say("a daemon that is killed is followed by one that knows everything, and VMs do not notice");
    run(&node, "systemctl kill --signal=KILL tranched");
    wait_until(&node, "tranche doctor");
    assert_eq!(run(&node, "virsh list --name | sort | xargs"), "display vf");

    progress.say(
        "after a power cut partitions are back before libvirt starts, and VMs run again with the same ones",
    );
    // Who holds what; whether QEMU has it open already is a matter of moments.
    let holders = "tranche partition list -o json | grep -v '\"state\":'";
    let before = run(&node, holders);
    run(&node, "sync");
    node.power_cut().expect("a cut");
    node.start_again(&progress).expect("a second boot");
    wait_until(&node, "virsh list --name | sort | xargs | grep -qx 'display vf'");
    wait_until(&node, "tranche doctor");
    assert_eq!(run(&node, holders), before);
    sees(&node, "vf", "8086:10ca", 1);

    progress.say("what is stopped is given back, and a released GPU is as it was");
    run(&node, "tranche -q vm stop vf && tranche -q vm stop --force display");
    assert_eq!(run(&node, "tranche partition list -o json | grep -c '\"state\": *\"free\"'"), "8");
    run(&node, &format!("tranche -q gpu release {PF} && tranche -q gpu release mbochs"));
    assert_eq!(
        run(&node, &format!("cat /sys/bus/pci/devices/{PF}/sriov_numvfs; ls /sys/bus/mdev/devices | wc -l")),
        "0\n0"
    );
    assert_eq!(run(&node, &format!("basename $(readlink /sys/bus/pci/devices/{PF}/driver)")), "igb");

    progress.say("a whole adapter is taken for passthrough and given back to its driver");
    run(&node, "tranche -q gpu passthrough 02:00.0");
    assert_eq!(run(&node, "basename $(readlink /sys/bus/pci/devices/0000:02:00.0/driver)"), "vfio-pci");
    run(&node, "tranche -q gpu release 02:00.0");
    assert_eq!(run(&node, "basename $(readlink /sys/bus/pci/devices/0000:02:00.0/driver)"), "igb");

    progress.say("the package can be purged, and takes its state along");
    run(&node, "DEBIAN_FRONTEND=noninteractive apt-get -q -y purge tranche");
    run(&node, "test ! -e /var/lib/tranche && test ! -e /run/tranche");
    node.end();
}

/// The same package with the number of an older one: there is something to upgrade from before there was a release.
fn under_an_older_version(deb: &Path, directory: &Path) -> PathBuf {
    let (tree, older) = (directory.join("older"), directory.join("older.deb"));
    let dpkg = |arguments: &[&Path]| {
        let status = Command::new("dpkg-deb").args(arguments).status().expect("dpkg-deb starts");
        assert!(status.success(), "dpkg-deb {arguments:?}: {status}");
    };
    dpkg(&["--raw-extract".as_ref(), deb, &tree]);
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("a control file");
    let lines = text.lines().map(|line| if line.starts_with("Version:") { "Version: 0.0.1" } else { line });
    fs::write(&control, lines.map(|line| format!("{line}\n")).collect::<String>()).expect("written");
    dpkg(&["--root-owner-group".as_ref(), "--build".as_ref(), &tree, &older]);
    older
}

/// Asks the helper as the daemon does.
fn loads_modules_by_the_helper_alone(node: &Node, progress: &Progress) {
    progress.say("modules are loaded by a helper that knows which, and that root alone may ask");
    let ask = |line: &str| {
        run(node, &format!("echo '{line}' | socat -t 60 - UNIX-CONNECT:/run/tranche-modules.sock"))
    };
    assert_eq!(ask("load vfio_pci"), "ok");
    assert!(ask("load nvidia").starts_with("error unknown_module "));
    assert!(ask("count gim 99").starts_with("error count_out_of_range "));
    assert_eq!(run(node, "stat --format='%a %U' /run/tranche-modules.sock"), "600 root");
}

/// A VM with a virtual function and one with a mediated display: each guest says itself what it sees.
fn splits_and_starts(node: &Node, progress: &Progress) {
    progress.say("virtual functions and mediated devices are made and given to a VM each");
    wait_until(node, "tranche gpu list -o json | grep -q mbochs");
    run(node, &format!("tranche -q gpu partition {PF} 4 && tranche -q gpu partition mbochs 4"));
    for (name, gpu) in [("vf", "any"), ("display", "profile:mbochs-large")] {
        node.make_guest_volume(name).expect("a volume");
        run(
            node,
            &format!(
                "tranche -q vm create {name} --vcpus 1 --memory 128MiB --disk default/{name} --firmware bios --gpu {gpu} && tranche -q vm start {name}"
            ),
        );
    }
    sees(node, "vf", "8086:10ca", 1);
    sees(node, "vf", "1234:1111", 1);
    // Its own emulated screen and the mediated one are the same model.
    sees(node, "display", "1234:1111", 2);
    sees(node, "display", "8086:10ca", 0);
}

fn refuses_what_would_hurt(node: &Node, progress: &Progress) {
    progress.say("nothing changes under a running VM, at whatever door");
    for (command, code) in [
        (format!("tranche gpu partition {PF} 2"), "partitions_in_use"),
        (format!("tranche gpu passthrough {PF}"), "mode_conflict"),
        (format!("tranche gpu partition {PF} 9"), "invalid_partition_count"),
        ("tranche vm delete vf".to_owned(), "vm_running"),
        ("tranche vm attach vf --gpu whole".to_owned(), "vm_has_partition"),
        ("tranche vm detach vf".to_owned(), "vm_running"),
    ] {
        let output = node.ssh(&command).expect("a node that answers");
        assert_eq!(output.status, 3, "{command}: {output:?}");
        assert!(output.stderr.contains(&format!("[{code}]")), "{command}: {output:?}");
    }
}

/// Waits until the guest has said what it sees, and counts the devices of an id.
#[track_caller]
fn sees(node: &Node, vm: &str, id: &str, count: usize) {
    let log = format!("cat /var/log/libvirt/qemu/{vm}-serial.log");
    let deadline = Instant::now() + WAIT_LIMIT;
    let report = loop {
        let report = GuestReport::parse(&run(node, &log));
        if report.ready {
            break report;
        }
        assert!(Instant::now() < deadline, "guest {vm} has not said what it sees");
        std::thread::sleep(POLL);
    };
    let seen = report.pci.iter().filter(|function| function.id == id).count();
    assert_eq!(seen, count, "guest {vm} sees {id} so often: {:?}", report.pci);
}

#[track_caller]
fn wait_until(node: &Node, command: &str) {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let output = node.ssh(command).expect("a node that answers");
        if output.ok() {
            return;
        }
        assert!(Instant::now() < deadline, "it never came true: {command}: {output:?}");
        std::thread::sleep(POLL);
    }
}

#[track_caller]
fn run(node: &Node, command: &str) -> String {
    node.run(command).unwrap_or_else(|error| panic!("{error}")).trim().to_owned()
}

/// Holds the machine for one node: two at once, in software emulation, take more than twice as long.
fn one_node() -> MutexGuard<'static, ()> {
    static ONE_NODE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that the next one could stumble over.
    ONE_NODE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}
