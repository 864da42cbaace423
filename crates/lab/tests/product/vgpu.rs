//! A GPU whose virtual functions take a type each, as NVIDIA's do on the vendor-specific VFIO framework: the lab's own
//! driver `lab/kernel/vgpu.c` behaves so on a real kernel, and Tranche takes it through the life of a host.

use tranche_lab::{Lifetime, Node, NodeOptions, Progress, demo};

use super::{named, one_node, run, sees, wait_until};

const GPU: &str = "0000:02:00.0";
const FOLDER: &str = "/sys/bus/pci/devices";
const TOOL: &str = "/usr/lib/nvidia/sriov-manage";
const CURRENT_TYPES: &str = "cat /sys/bus/pci/devices/0000:02:1*/nvidia/current_vgpu_type | xargs";
const HEADER: &str = "ID    : vGPU Name";

#[test]
fn what_a_host_with_typed_functions_goes_through() {
    let Some(deb) = named("TRANCHE_LAB_DEB") else {
        eprintln!("not run: TRANCHE_LAB_DEB names nothing; scripts/test sets it");
        return;
    };
    let _alone = one_node();
    let directory = tempfile::tempdir().expect("a run directory");
    let options = NodeOptions {
        run_dir: directory.path().to_owned(),
        vgpu: true,
        ..NodeOptions::new("vgpu", Lifetime::Caller).expect("a good name")
    };
    let progress = Progress::new();
    let mut node = Node::start(options, &progress).expect("a node that boots");

    progress.say("the stand-in has the manners of the driver that it stands for");
    counts_by_its_tool_only(&node);
    takes_types_by_the_rules(&node);

    demo::install(&node, &deb, &progress).expect("the package installs");
    splits_and_starts(&node, &progress);
    refuses_what_would_hurt(&node, &progress);

    progress.say(
        "after a power cut, and an update that renumbered the types, the same partitions are back by name",
    );
    let holders = "tranche partition list -o json | grep -v '\"state\":'";
    let before = run(&node, holders);
    run(&node, "echo 'options nvidia first_type_id=4001 migration=1' >/etc/modprobe.d/lab.conf; sync");
    node.power_cut().expect("a cut");
    node.start_again(&progress).expect("a second boot");
    wait_until(&node, "virsh list --name | grep -qx vgpu");
    wait_until(&node, "tranche doctor");
    assert_eq!(run(&node, holders), before);
    assert_eq!(run(&node, CURRENT_TYPES), "4005 4005 0 0 0 0 0 0");
    sees(&node, "vgpu", "8086:10ca", 1);

    progress.say("what is stopped is given back, and can be split into another series");
    run(&node, "tranche -q vm stop --force vgpu");
    run(&node, &format!("tranche -q gpu partition {GPU} 4 --series B"));
    assert_eq!(run(&node, CURRENT_TYPES), "4002 4002 4002 4002 0 0 0 0");

    progress.say("a released GPU is as it was");
    run(&node, &format!("tranche -q gpu release {GPU}"));
    assert_eq!(run(&node, &format!("cat {FOLDER}/{GPU}/sriov_numvfs")), "0");
    assert_eq!(driver_of(&node, GPU), "nvidia");

    progress.say(
        "a function's state travels whole with the VM that has it, and is not taken over when it was spoilt",
    );
    travels_with_its_state(&node);
    node.end().expect("an end");
}

fn counts_by_its_tool_only(node: &Node) {
    let numvfs = format!("{FOLDER}/{GPU}/sriov_numvfs");
    fails(node, &format!("echo 2 >{numvfs}"), "No such file or directory");
    assert_eq!(driver_of(node, GPU), "nvidia");
    assert_eq!(run(node, &format!("{TOOL} -e {GPU}")), format!("Enabling VFs on {GPU}"));
    assert_eq!(run(node, &format!("{TOOL} -e {GPU}")), format!("GPU at {GPU} already has VFs enabled."));
    assert_eq!(run(node, &format!("cat {numvfs}; ls -d {FOLDER}/{GPU}/virtfn* | wc -l")), "8\n8");
    assert_eq!(driver_of(node, GPU), "nvidia");
    assert_eq!(driver_of(node, "0000:02:11.6"), "nvidia");
}

fn takes_types_by_the_rules(node: &Node) {
    let (first, second) = (current_of("0000:02:10.0"), current_of("0000:02:10.2"));
    let list = format!("cat {FOLDER}/0000:02:10.2/nvidia/creatable_vgpu_types");
    assert_eq!(run(node, &format!("cat {first}; {list} | wc -l")), "0\n11", "ten types and a header");
    run(node, &format!("echo 3005 >{first}"));
    assert_eq!(run(node, &list), format!("{HEADER}\n3005  : NVIDIA LAB-4Q\n3009  : NVIDIA LAB-4A"));
    fails(node, &format!("echo 3003 >{second}"), "Invalid argument");
    fails(node, &format!("echo 3006 >{first}"), "Invalid argument");
    run(node, &format!("echo 3009 >{second}"));
    assert_eq!(run(node, &format!("cat {FOLDER}/0000:02:11.6/nvidia/creatable_vgpu_types")), HEADER, "full");
    run(node, &format!("echo 0 >{first}; echo 0 >{second}"));
    run(node, &format!("echo 3003 >{first}; {TOOL} -d {GPU}; {TOOL} -e {GPU}"));
    assert_eq!(run(node, CURRENT_TYPES), "0 0 0 0 0 0 0 0", "types go with their functions");
    run(node, &format!("{TOOL} -d {GPU}"));
}

fn splits_and_starts(node: &Node, progress: &Progress) {
    progress.say("the GPU is split by its vendor's tool and by types, and a VM is given one function");
    wait_until(node, "tranche gpu list -o json | grep -q 'Lab vGPU'");
    run(node, &format!("tranche -q gpu partition {GPU} 2"));
    assert_eq!(run(node, CURRENT_TYPES), "3005 3005 0 0 0 0 0 0");
    node.make_guest_volume("vgpu").expect("a volume");
    run(
        node,
        "tranche -q vm create vgpu --vcpus 1 --memory 128MiB --disk default/vgpu --firmware bios --gpu any && tranche -q vm start vgpu",
    );
    sees(node, "vgpu", "8086:10ca", 1);
    assert_eq!(driver_of(node, "0000:02:10.0"), "nvidia", "vfio-pci would break a real one");
    let assigned =
        "virsh dumpxml vgpu | grep -A3 '<hostdev' | grep -o \"managed='no'\\|slot='0x10' function='0x0'\"";
    assert_eq!(run(node, assigned), "managed='no'\nslot='0x10' function='0x0'");
}

fn refuses_what_would_hurt(node: &Node, progress: &Progress) {
    progress.say("nothing changes under a running VM, at whatever door");
    fails(node, &format!("echo 0 >{}", current_of("0000:02:10.0")), "Operation not permitted");
    for command in [format!("tranche gpu partition {GPU} 4"), format!("tranche gpu release {GPU}")] {
        let output = node.ssh(&command).expect("a node that answers");
        assert_eq!(output.status, 3, "{command}: {output:?}");
        assert!(output.stderr.contains("[partitions_in_use]"), "{command}: {output:?}");
    }
    assert_eq!(run(node, CURRENT_TYPES), "3005 3005 0 0 0 0 0 0");
}

/// By way of a file: QEMU writes and reads the state as in a migration, and the driver compares what arrives. The
/// memory of a guest counts as changed all the time, because neither device nor IOMMU tells what changed; so QEMU is told
/// that it may pause the guest for as long as it takes.
fn travels_with_its_state(node: &Node) {
    const FILES: &str = "cd /var/tmp";
    let (here, there) = ("0000:02:10.0", "0000:02:10.2");
    run(node, &format!("systemctl stop tranched; {TOOL} -e {GPU}"));
    run(node, &format!("echo 4005 >{}; echo 4009 >{}", current_of(here), current_of(there)));
    node.make_guest_volume("traveller").expect("a volume");
    for (name, function) in [("here", 0), ("there", 2)] {
        run(node, &format!("{FILES} && cat >{name}.xml <<'XML'\n{}\nXML", traveller(function)));
    }
    run(node, &format!("{FILES} && virsh create here.xml && virsh migrate-setmaxdowntime traveller 2000000"));
    run(node, &format!("{FILES} && virsh save traveller state && virsh restore state --xml there.xml"));
    wait_until(node, &format!("dmesg | grep -q 'nvidia {there}: took over a state of 8388640 bytes'"));
    wait_until(node, "virsh list --name --state-running | grep -qx traveller");
    run(node, "virsh destroy traveller");
    // The header's magic number begins the state; a word of the pattern far behind it is spoilt.
    let spoil = "at=$(LC_ALL=C grep -abo LGVUPGRT state | cut -d: -f1) && \
        printf '\\377\\377' | dd of=state bs=1 seek=$((at + 4000)) conv=notrunc status=none";
    run(node, &format!("{FILES} && {spoil} && {{ virsh restore state --xml there.xml || true; }}"));
    wait_until(node, &format!("dmesg | grep -q 'nvidia {there}: refuses a state that changed on its way'"));
    // QEMU learns of it as it resumes the VM, too late to refuse: it resets the function, and the VM goes on.
    let log = "/var/log/libvirt/qemu/traveller.log";
    wait_until(node, &format!("grep -q '{there}: Failed setting device state to RUNNING' {log}"));
    run(node, "virsh destroy traveller");
}

/// A VM of nobody's, with one function of the GPU.
fn traveller(function: u8) -> String {
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>traveller</name><uuid>6c616276-7275-4c61-8000-74726176656c</uuid>
  <memory unit='MiB'>128</memory><vcpu>1</vcpu><os><type machine='q35'>hvm</type></os><features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='/var/lib/libvirt/images/traveller'/><target dev='vda' bus='virtio'/>
    </disk>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <source><address domain='0' bus='2' slot='0x10' function='{function}'/></source>
    </hostdev>
  </devices>
  <qemu:commandline><qemu:arg value='-global'/><qemu:arg value='vfio-pci.enable-migration=on'/></qemu:commandline>
</domain>"
    )
}

fn current_of(function: &str) -> String {
    format!("{FOLDER}/{function}/nvidia/current_vgpu_type")
}

#[track_caller]
fn driver_of(node: &Node, function: &str) -> String {
    run(node, &format!("basename $(readlink {FOLDER}/{function}/driver)"))
}

#[track_caller]
fn fails(node: &Node, command: &str, error: &str) {
    let output = node.ssh(command).expect("a node that answers");
    assert!(!output.ok() && output.stderr.contains(error), "{command}: {output:?}");
}
