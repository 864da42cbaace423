//! What a virtual host is, seen in a real one.
//!
//! One node boots once for all of it, because a boot in software emulation costs the better part of a minute; so the
//! behaviours stand in one test, in the order in which they may change the node, each under its own name.

use std::net::TcpListener;

use tranche_lab::{Lifetime, Node, NodeOptions, Output, Progress};

/// What it is, and the check that fails if it is not so.
type Behaviour = (&'static str, fn(&Node));

const ADAPTER: &str = "/sys/bus/pci/devices/0000:01:00.0";

#[test]
fn a_node_is_a_gpu_host_without_a_gpu() {
    let directory = tempfile::tempdir().expect("a run directory");
    let options = NodeOptions {
        run_dir: directory.path().to_owned(),
        ..NodeOptions::new("node", Lifetime::Caller).expect("a good name")
    };
    let progress = Progress::new();
    let mut node = Node::start(options, &progress).expect("a node that boots");

    let behaviours: [Behaviour; 8] = [
        ("it runs systemd and libvirt, and nothing failed in its boot", boots_without_failures),
        ("it has an IOMMU, and each adapter a group of its own", has_an_iommu),
        ("it can run VMs at the speed of its own processor", virtualises),
        ("it reaches nothing outside", reaches_nothing_outside),
        ("libvirt has the pool that guests come from", has_the_default_pool),
        ("the kernel's sample of a mediated display is there", has_a_mediated_display),
        ("an adapter's virtual functions follow the kernel's rules", counts_virtual_functions),
        ("a node of another name is not this one", is_found_by_name_only),
    ];
    for (behaviour, check) in behaviours {
        progress.say(behaviour);
        check(&node);
    }

    progress.say("a power cut loses the virtual functions and keeps what was written");
    run(&node, &format!("echo 3 >{ADAPTER}/sriov_numvfs; echo kept >/var/tmp/kept; sync"));
    assert_eq!(run(&node, &format!("cat {ADAPTER}/sriov_numvfs")), "3");
    node.power_cut().expect("a cut");
    assert!(!node.status().up);
    assert!(node.ssh("true").is_err(), "a node without power answers nothing");
    node.start_again(&progress).expect("a second boot");
    assert_eq!(run(&node, &format!("cat {ADAPTER}/sriov_numvfs")), "0");
    assert_eq!(run(&node, "cat /var/tmp/kept"), "kept");

    progress.say("what ends is gone");
    let status = node.status();
    node.end().expect("an end");
    assert!(!status.directory.exists());
    assert!(Node::list(directory.path()).expect("a listing").is_empty());
}

fn run(node: &Node, command: &str) -> String {
    node.run(command).unwrap_or_else(|error| panic!("{error}")).trim().to_owned()
}

fn try_run(node: &Node, command: &str) -> Output {
    node.ssh(command).expect("a node that answers")
}

fn boots_without_failures(node: &Node) {
    assert_eq!(run(node, "systemctl --failed --no-legend --plain"), "");
    assert_eq!(run(node, "hostname"), node.name());
    assert!(run(node, "virsh version").contains("Running hypervisor: QEMU"));
}

fn has_an_iommu(node: &Node) {
    assert_eq!(run(node, "ls /sys/class/iommu"), "dmar0");
    for address in ["0000:01:00.0", "0000:02:00.0"] {
        let group = format!("/sys/bus/pci/devices/{address}/iommu_group/devices");
        assert_eq!(run(node, &format!("ls {group}")), address);
        assert_eq!(run(node, &format!("cat /sys/bus/pci/devices/{address}/sriov_totalvfs")), "7");
    }
}

fn virtualises(node: &Node) {
    // virt-host-validate would also look for what a lab needs not; this is what a domain of type kvm needs.
    assert!(run(node, "virsh capabilities").contains("<domain type='kvm'"));
}

/// Not even a port of the machine that it runs on, which QEMU's user-mode network would show it as 10.0.2.2.
fn reaches_nothing_outside(node: &Node) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let output = try_run(node, &format!("timeout 5 bash -c '</dev/tcp/10.0.2.2/{port}'"));
    assert!(!output.ok(), "the node reached port {port} of this machine");
}

fn has_the_default_pool(node: &Node) {
    assert_eq!(run(node, "virsh pool-list --name --autostart").trim(), "default");
    node.make_guest_volume("it").expect("a volume");
    assert!(run(node, "virsh vol-list default").contains("/var/lib/libvirt/images/it"));
    run(node, "virsh vol-delete --pool default it");
}

fn has_a_mediated_display(node: &Node) {
    run(node, "modprobe mbochs && modprobe mtty");
    let types = "/sys/class/mdev_bus/mbochs/mdev_supported_types";
    assert_eq!(run(node, &format!("ls {types}")), "mbochs-large\nmbochs-medium\nmbochs-small");
    assert_eq!(run(node, &format!("cat {types}/mbochs-large/available_instances")), "4");
    assert_eq!(run(node, "ls /sys/class/mdev_bus"), "mbochs\nmtty");
}

/// The answers of `drivers/pci/iov.c`: the table that Tranche's own state machine is written for.
fn counts_virtual_functions(node: &Node) {
    run(node, &format!("echo 0 >{ADAPTER}/sriov_drivers_autoprobe"));
    for (value, outcome) in [
        ("4", Ok("4")),
        ("4", Ok("4")),
        ("6", Err("Device or resource busy")),
        ("99", Err("Numerical result out of range")),
        ("junk", Err("Invalid argument")),
        ("0", Ok("0")),
    ] {
        let output = try_run(node, &format!("echo {value} >{ADAPTER}/sriov_numvfs"));
        match outcome {
            Ok(count) => {
                assert!(output.ok(), "{value}: {output:?}");
                assert_eq!(run(node, &format!("cat {ADAPTER}/sriov_numvfs")), count);
                assert_eq!(run(node, &format!("ls -d {ADAPTER}/virtfn* 2>/dev/null | wc -l")), count);
            }
            Err(text) => assert!(!output.ok() && output.stderr.contains(text), "{value}: {output:?}"),
        }
    }
}

fn is_found_by_name_only(node: &Node) {
    let directory = node.status().directory;
    let run_dir = directory.parent().expect("a run directory");
    assert!(Node::find(run_dir, "other").is_err());
    assert!(Node::find(run_dir, node.name()).expect("this node").status().up);
}
