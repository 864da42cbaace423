//! What live migration rests on: read from files, asked of a partition that nobody uses, and remembered.

use std::sync::{Arc, Condvar, Mutex};

use tranche_core::inventory::Certainty::{self, Claimed, Proven, Refused, Unknown};
use tranche_core::inventory::{DeviceSource, Evidence, MigrationFacts, PartitionDevice, mdev_uuid};
use tranche_core::name::{GpuKey, Timestamp};
use tranche_core::step::{Step, VFIO_DRIVER};
use tranche_host::catalogue::Catalogue;
use tranche_host::conformance::check_migration;
use tranche_host::fake::{
    DeviceModel, DeviceUse as _, FakeHost, FakeKernel, FakeProber, Machine, VfioDebugfs,
};
use tranche_host::linux::LinuxHost;
use tranche_host::migration::{Answers, Door, Prober, Refusal, Target};
use tranche_host::tree::DirTree;
use tranche_host::vm::fake::FakeHypervisor;
use tranche_host::{Host, inspect};

use crate::captured::{Captured, function};
use crate::hangs::SHORT;
use crate::machine::{IGB, NOW, PATIENT, at, bind, done, enable, gpu, host, lab_catalogue, pci, qemu};

const B50: &str = "0000:03:00.0";
const FIRST: &str = "0000:03:00.1";
const SECOND: &str = "0000:03:00.2";
const VARIANT: &str = "xe-vfio-pci";
const MINUTE_MS: u64 = 60_000;
/// VFIO_MIGRATION_STOP_COPY and VFIO_MIGRATION_P2P, and with VFIO_MIGRATION_PRE_COPY.
const STOPPED: u64 = 3;
const ALL: u64 = 7;

/// An Arc Pro B50 whose partitions can do this.
fn arc(change: impl FnOnce(&mut Machine)) -> Machine {
    let mut machine = Machine::arc();
    machine.migration.devices =
        [(VARIANT.to_owned(), DeviceModel { flags: STOPPED, dirty_log: false })].into();
    change(&mut machine);
    machine
}

fn split(host: &(impl Host + ?Sized)) {
    done(host, &Step::EnableVfs { gpu: at(B50), count: 2 });
    for (index, vf) in [(0, FIRST), (1, SECOND)] {
        done(host, &take(index, vf, VARIANT));
    }
}

fn take(index: u16, vf: &str, driver: &str) -> Step {
    Step::BindPartition { gpu: at(B50), index, vf: pci(vf), driver: driver.to_owned() }
}

/// A host whose B50 is split in two.
fn split_arc(change: impl FnOnce(&mut Machine)) -> FakeHost {
    let host = host(arc(change));
    split(&host);
    host
}

fn facts(host: &(impl Host + ?Sized), address: &str) -> MigrationFacts {
    gpu(host, address).migration.expect("something is known of its partitions")
}

fn look(host: &(impl Host + ?Sized), now: Timestamp) -> MigrationFacts {
    host.observe(now).gpus.remove(&at(B50)).and_then(|gpu| gpu.migration).expect("something is known")
}

fn certainties(facts: &MigrationFacts) -> [Certainty; 5] {
    facts.named().map(|(_, evidence)| evidence.certainty)
}

fn asked(prober: &FakeProber) -> Vec<String> {
    prober.asked().iter().map(Target::name).collect()
}

/// A domain that is defined and has a partition.
fn names(host: &FakeHost, vf: &str) {
    let slot = pci(vf);
    let xml = format!(
        "<domain><name>desk</name><uuid>9c0e3f50-5f5e-4b0e-8b6c-0d8a3f3b7a11</uuid><vcpu>1</vcpu><memory>1</memory><devices>\
         <hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x{:04x}' bus='0x{:02x}' \
         slot='0x{:02x}' function='0x{}'/></source></hostdev></devices></domain>",
        slot.domain, slot.bus, slot.device, slot.function
    );
    host.hypervisor.define_by_hand(&xml).expect("the XML of a domain");
}

#[test]
fn a_partition_is_asked_once_in_a_boot_and_stands_for_its_siblings() {
    let host = split_arc(|_| {});
    let known = facts(&host, B50);
    assert_eq!(certainties(&known), [Proven, Refused, Proven, Refused, Unknown]);
    let of = "0000:03:00.1 (xe-vfio-pci, Linux 7.2.0-fake-amd64)";
    assert_eq!(known.stop_copy.source, format!("VFIO_DEVICE_FEATURE_MIGRATION of {of}: STOP_COPY P2P"));
    assert_eq!(
        known.device_dirty_log.source,
        format!("VFIO_DEVICE_FEATURE_DMA_LOGGING_START of {of}: ENOTTY")
    );
    let partitions = gpu(&host, B50).partitions;
    assert!(partitions.iter().all(|partition| partition.migration.is_none()), "what is alike is told once");
    assert_eq!(asked(&host.prober), [FIRST]);
    assert!(host.kernel.opened().is_empty(), "it was closed");

    host.reboot();
    split(&host);
    assert_eq!(facts(&host, B50), known);
    assert_eq!(asked(&host.prober), [FIRST, FIRST]);

    host.kernel.rebuild(|machine| {
        let aliases = machine.files.remove("lib/modules/7.2.0-fake-amd64/modules.alias").unwrap();
        machine.files.insert("lib/modules/7.3.0/modules.alias".to_owned(), aliases);
        machine.kernel = "7.3.0".to_owned();
    });
    split(&host);
    assert!(facts(&host, B50).stop_copy.source.contains("Linux 7.3.0"));
    assert_eq!(asked(&host.prober), [FIRST, FIRST, FIRST]);
}

#[test]
fn nothing_is_opened_that_somebody_uses_or_may_use() {
    let host = split_arc(|_| {});
    host.kernel.open(&DeviceSource::Pci { address: pci(FIRST) }, &qemu(700)).unwrap();
    names(&host, SECOND);
    let known = facts(&host, B50);
    assert_eq!(
        certainties(&known),
        [Claimed, Refused, Claimed, Refused, Unknown],
        "a driver is known by its name"
    );
    assert_eq!(known.stop_copy.source, "driver xe-vfio-pci has STOP_COPY and P2P");
    assert_eq!(asked(&host.prober), [""; 0]);

    host.hypervisor.undefine_by_hand(&"desk".parse().unwrap());
    assert_eq!(facts(&host, B50).stop_copy.certainty, Proven, "now the second one is free");
    assert_eq!(asked(&host.prober), [SECOND]);
}

#[test]
fn nothing_is_opened_while_libvirt_does_not_say_what_vms_have() {
    let host = split_arc(|_| {});
    host.hypervisor.go_down("it is being restarted");
    assert_eq!(facts(&host, B50).stop_copy.certainty, Claimed);
    assert_eq!(asked(&host.prober), [""; 0]);
    host.hypervisor.come_up();
    assert_eq!(facts(&host, B50).stop_copy.certainty, Proven);
}

#[test]
fn a_partition_that_is_not_alone_in_its_group_is_not_opened() {
    let shares = |machine: &mut Machine| {
        machine.functions[0].sriov.as_mut().unwrap().shares_group = true;
    };
    let host = split_arc(shares);
    assert_eq!(facts(&host, B50).stop_copy.certainty, Claimed);
    assert_eq!(asked(&host.prober), [""; 0]);
}

#[test]
fn what_cannot_be_opened_is_unknown_and_tried_again_after_a_while() {
    let variant = "other-vfio-pci";
    let host = host(arc(|machine| {
        machine.vfio_variants = vec![variant.to_owned()];
        machine.files.values_mut().for_each(|aliases| *aliases = aliases.replace("xe_vfio", "other_vfio"));
        machine.migration.devices =
            [(variant.to_owned(), DeviceModel { flags: ALL, dirty_log: true })].into();
    }));
    done(&host, &Step::EnableVfs { gpu: at(B50), count: 1 });
    done(&host, &take(0, FIRST, variant));
    // Somebody whom this process cannot see has it.
    let (source, holder) = (DeviceSource::Pci { address: pci(FIRST) }, qemu(700));
    host.kernel.open(&source, &holder).unwrap();
    host.kernel.hide(holder.pid);
    let known = look(&host, NOW);
    assert_eq!(certainties(&known), [Unknown; 5]);
    let group = gpu(&host, B50).partitions[0].iommu_group.as_ref().unwrap().id;
    assert_eq!(known.stop_copy.source, format!("open /dev/vfio/{group}: EBUSY"));

    host.kernel.close(&source, &holder);
    let later = |minutes: u64| Timestamp(NOW.0 + minutes * MINUTE_MS);
    assert_eq!(look(&host, later(9)), known, "it is left alone for a while");
    assert_eq!(host.prober.asked().len(), 1);
    assert_eq!(certainties(&look(&host, later(10))), [Proven, Proven, Proven, Proven, Unknown]);
    assert_eq!(host.prober.asked().len(), 2);
    assert_eq!(certainties(&look(&host, later(60))), [Proven, Proven, Proven, Proven, Unknown]);
    assert_eq!(host.prober.asked().len(), 2);
}

#[test]
fn vfio_pci_itself_hands_out_no_state_and_is_not_asked() {
    let host = crate::machine::lab();
    done(&host, &enable(1));
    done(&host, &bind(0, "0000:01:10.0"));
    let known = facts(&host, IGB);
    assert_eq!(certainties(&known)[..4], [Refused; 4]);
    assert_eq!(known.stop_copy.source, "driver vfio-pci hands out no device's state");
    assert_eq!(asked(&host.prober), [""; 0]);
}

#[test]
fn a_gpu_without_partitions_has_nothing_to_tell() {
    let host = host(arc(|_| {}));
    assert_eq!(gpu(&host, B50).migration, None);
    assert!(!serde_json::to_string(&gpu(&host, B50)).unwrap().contains("migration"));
}

#[test]
fn iommufd_has_the_last_word_about_the_iommu() {
    let with = |capabilities: u64| {
        split_arc(|machine| {
            machine.vfio_nodes = true;
            machine.migration.iommufd = true;
            machine.migration.iommu_capabilities = capabilities;
            machine.migration.ecap = Some("f020df".to_owned());
        })
    };
    let host = with(1);
    assert!(host.observe(NOW).system.iommufd);
    let known = facts(&host, B50);
    assert_eq!(certainties(&known), [Proven, Refused, Proven, Refused, Proven]);
    let source = "IOMMU_GET_HW_INFO of 0000:03:00.1 (xe-vfio-pci, Linux 7.2.0-fake-amd64): capabilities 0x1";
    assert_eq!(known.iommu_dirty_log.source, source);
    assert_eq!(known.certainty(true), Proven);
    assert_eq!(facts(&with(0), B50).iommu_dirty_log.certainty, Refused);
}

#[test]
fn registers_of_the_iommu_are_claims() {
    let with = |ecap: &str, command_line: &str| {
        let host = split_arc(|machine| {
            machine.migration.ecap = Some(ecap.to_owned());
            command_line.clone_into(&mut machine.migration.command_line);
        });
        facts(&host, B50).iommu_dirty_log
    };
    // Bits 43, 45 and 48 are set.
    let ready = "1280000f020df";
    let told = with(ready, "quiet intel_iommu=on,sm_on");
    let source = "/sys/class/iommu/dmar0/intel-iommu/ecap: 1280000f020df has bits 43, 45 and 48; sm_on is on the kernel's \
                  command line";
    assert_eq!(told, Evidence::new(Claimed, source));
    assert_eq!(with(ready, "quiet").certainty, Claimed, "scalable mode is the default");
    assert_eq!(with(ready, "intel_iommu=sm_off").certainty, Refused);
    assert_eq!(with("f020df", "").certainty, Refused);

    let amd = |features: &str| {
        let host = split_arc(|machine| machine.migration.amd_features = Some(features.to_owned()));
        facts(&host, B50).iommu_dirty_log
    };
    assert_eq!(
        amd("25bf732fa2295afe:1d"),
        Evidence::new(
            Claimed,
            "/sys/class/iommu/ivhd0/amd-iommu/features: 25bf732fa2295afe:1d has bit 52 (HDSup)"
        )
    );
    assert_eq!(amd("246577efa2254afa").certainty, Refused);
}

#[test]
fn vfios_own_files_prove_and_spare_the_device() {
    let shown = |debugfs| split_arc(|machine| machine.migration.debugfs = debugfs);
    let host = shown(VfioDebugfs::Features);
    let known = facts(&host, B50);
    assert_eq!(certainties(&known), [Proven, Refused, Proven, Refused, Unknown]);
    let source = "/sys/kernel/debug/vfio/0000:03:00.1/migration/features: stop-copy p2p";
    assert_eq!(known.stop_copy, Evidence::new(Proven, source));
    assert_eq!(known.pre_copy, Evidence::new(Refused, source));
    assert_eq!(asked(&host.prober), [""; 0], "nothing is left to ask");

    let host = shown(VfioDebugfs::State);
    host.hypervisor.go_down("nothing is asked now");
    let known = facts(&host, B50);
    assert_eq!(certainties(&known), [Proven, Refused, Claimed, Refused, Unknown]);
    assert_eq!(known.stop_copy.source, "/sys/kernel/debug/vfio/0000:03:00.1/migration is there");

    let host = split_arc(|machine| {
        machine.migration.debugfs = VfioDebugfs::State;
        machine.migration.devices.clear();
    });
    let known = facts(&host, B50);
    assert_eq!(certainties(&known)[..3], [Refused; 3], "its driver was built without migration");
    assert_eq!(known.stop_copy.source, "/sys/kernel/debug/vfio/0000:03:00.1 has no migration");
    assert_eq!(asked(&host.prober), [""; 0]);
}

#[test]
fn a_mediated_device_is_asked_by_its_group_and_has_no_iommu_of_its_own() {
    let mut machine = Machine::lab();
    machine.migration.devices = [("mbochs".to_owned(), DeviceModel { flags: ALL, dirty_log: true })].into();
    let host = host(machine);
    let key = GpuKey { host: "node1".parse().unwrap(), address: at("mbochs") };
    let uuid = mdev_uuid(&key, 0);
    let made = Step::CreateMdev { gpu: at("mbochs"), index: 0, uuid, profile: "mbochs-small".to_owned() };
    done(&host, &made);
    let known = facts(&host, "mbochs");
    assert_eq!(certainties(&known), [Proven, Proven, Proven, Proven, Refused]);
    assert_eq!(known.certainty(false), Proven, "its own log is enough");
    assert!(known.stop_copy.source.contains(&uuid.to_string()), "{known:?}");
    assert_eq!(asked(&host.prober), [uuid.to_string()]);
}

#[test]
fn opening_a_vgpu_of_nvidias_would_start_it() {
    let machine = |debugfs| {
        let mut machine = Machine::nvidia(&["NVIDIA L40S"]);
        machine.migration.debugfs = debugfs;
        machine.migration.devices =
            [("nvidia".to_owned(), DeviceModel { flags: ALL, dirty_log: true })].into();
        machine
    };
    let l40s = "0000:41:00.0";
    let known = |debugfs, catalogue| {
        let kernel = FakeKernel::boot(machine(debugfs));
        let host = FakeHost::new("node1".parse().unwrap(), kernel, catalogue, PATIENT);
        done(&host, &Step::EnableVfs { gpu: at(l40s), count: 32 });
        let profile = Some("24Q".to_owned());
        done(&host, &Step::SetProfile { gpu: at(l40s), index: 0, vf: pci("0000:41:00.4"), profile });
        (facts(&host, l40s), asked(&host.prober))
    };
    let (silent, nobody) = known(VfioDebugfs::None, lab_catalogue());
    assert_eq!((&certainties(&silent)[..4], nobody), (&[Unknown; 4][..], Vec::new()));
    assert!(silent.stop_copy.source.contains("a vGPU that is opened starts"), "{silent:?}");
    let (shown, nobody) = known(VfioDebugfs::Features, lab_catalogue());
    assert_eq!(
        (&certainties(&shown)[..4], nobody),
        (&[Proven; 4][..], Vec::new()),
        "its files are read all the same"
    );

    // A stand-in of the lab with a driver of that name starts nothing.
    let ids = machine(VfioDebugfs::None).functions[0].ids;
    let stand_in = format!(
        "[sources]\nx = {{ what = \"a test\", confidence = \"hw\" }}\n[[gpu]]\nmodel = \"Stand-in\"\nmatch = [\"{ids}\"]\n\
         emulated = true\ninterface = \"nvidia-vgpu\"\ntotal_vfs = {{ value = 32, source = \"x\" }}\ndefault_series = \"Q\"\n\
         profiles = [{{ name = \"24Q\", series = \"Q\", size_mib = 24576, max = 2, source = \"x\" }}]\n"
    );
    let mut catalogue = Catalogue::builtin();
    catalogue.extend("x.toml".into(), &stand_in).unwrap();
    let (told, asked) = known(VfioDebugfs::None, Arc::new(catalogue));
    assert_eq!((&certainties(&told)[..4], asked), (&[Proven; 4][..], vec!["0000:41:00.4".to_owned()]));
}

#[test]
fn a_partition_that_differs_from_most_says_so_itself() {
    let host = host(arc(|_| {}));
    done(&host, &Step::EnableVfs { gpu: at(B50), count: 3 });
    for (index, vf, driver) in [(0, FIRST, VFIO_DRIVER), (1, SECOND, VARIANT), (2, "0000:03:00.3", VARIANT)] {
        done(&host, &take(index, vf, driver));
    }
    let seen = gpu(&host, B50);
    assert_eq!(seen.migration.unwrap().stop_copy.certainty, Proven);
    let own: Vec<_> = seen
        .partitions
        .iter()
        .map(|partition| partition.migration.as_ref().map(|facts| facts.stop_copy.certainty))
        .collect();
    assert_eq!(own, [Some(Refused), None, None]);
    assert_eq!(asked(&host.prober), [SECOND]);
}

#[test]
fn a_look_at_one_gpu_asks_nothing_and_forgets_nothing() {
    let host = split_arc(|_| {});
    let last = host.observe(NOW);
    let again = host.observe_again(&[at(B50)].into(), &last, NOW);
    assert_eq!(again.gpus[&at(B50)].migration, last.gpus[&at(B50)].migration);
    assert_eq!(asked(&host.prober), [FIRST]);
}

/// A kernel that says the same of everything.
#[derive(Debug, Default)]
struct Agreeing {
    asked: Mutex<usize>,
}

impl Prober for Agreeing {
    fn ask(&self, _: &Target) -> Result<Answers, Refusal> {
        *self.asked.lock().unwrap() += 1;
        Ok(Answers { door: Door::Container, migration: Ok(ALL), dma_logging: Ok(()), iommu: None })
    }
}

/// What one host has, as files.
fn captured_b50() -> Captured {
    let pf = "sriov_totalvfs = 2\nsriov_numvfs = 1\ndriver -> ../../../bus/pci/drivers/xe\nvirtfn0 -> ../0000:03:00.1\n";
    let vf = "physfn -> ../0000:03:00.0\ndriver -> ../../../bus/pci/drivers/xe-vfio-pci\n\
              modalias = pci:v00008086d0000E212sv00008086sd00001114bc03sc00i00\n\
              iommu -> ../../virtual/iommu/dmar1\n";
    let captured =
        Captured::new(&function("0000:03:00.0", ["8086", "e212", "8086", "1114"], "030000", 1, pf));
    captured.add(&function("0000:03:00.1", ["8086", "e212", "8086", "1114"], "030000", 2, vf));
    captured.add(
        "proc/sys/kernel/osrelease = 6.18.1\n\
         proc/sys/kernel/random/boot_id = 0f0f2a5e-6d8c-4b8e-9a58-1f6c0c5f5a11\n\
         lib/modules/6.18.1/modules.alias = alias vfio_pci:v00008086d0000E212sv*sd*bc*sc*i* xe_vfio_pci\n\
         sys/bus/pci/drivers/xe-vfio-pci/",
    );
    captured
}

#[test]
fn a_driver_that_is_loaded_in_another_version_is_asked_anew() {
    let captured = captured_b50();
    let tree = Arc::new(DirTree::open(captured.root()).unwrap());
    let devices = Arc::new(FakeKernel::boot(Machine::default()));
    let (catalogue, prober) = (Arc::new(Catalogue::builtin()), Arc::new(Agreeing::default()));
    let vms = Box::new(Arc::new(FakeHypervisor::new(devices)));
    let host =
        LinuxHost::new("node1".parse().unwrap(), tree, PATIENT, catalogue, vms)
            .with_prober(Arc::<Agreeing>::clone(&prober));
    let mut seen = Vec::new();
    for version in ["", "sys/module/xe_vfio_pci/version = 1.1", "sys/module/xe/version = 2.0", ""] {
        captured.add(version);
        assert_eq!(facts(&host, B50).pre_copy.certainty, Proven);
        seen.push(*prober.asked.lock().unwrap());
    }
    assert_eq!(seen, [1, 2, 3, 3]);
}

/// A driver that does not come back until it is let go.
#[derive(Debug, Default)]
struct Hanging {
    tries: Mutex<usize>,
    gone_on: Mutex<bool>,
    changed: Condvar,
}

impl Prober for Hanging {
    fn ask(&self, _: &Target) -> Result<Answers, Refusal> {
        *self.tries.lock().unwrap() += 1;
        drop(self.changed.wait_while(self.gone_on.lock().unwrap(), |gone_on| !*gone_on).unwrap());
        Ok(Answers { door: Door::Container, migration: Ok(ALL), dma_logging: Ok(()), iommu: None })
    }
}

#[test]
fn a_driver_that_does_not_come_back_is_named_and_nothing_else_is_done_on_its_gpu() {
    let kernel = Arc::new(FakeKernel::boot(arc(|_| {})));
    let vms = Box::new(Arc::new(FakeHypervisor::new(Arc::<FakeKernel>::clone(&kernel))));
    let (catalogue, prober) = (Arc::new(Catalogue::builtin()), Arc::new(Hanging::default()));
    let host =
        LinuxHost::new("node1".parse().unwrap(), kernel, SHORT, catalogue, vms)
            .with_prober(Arc::<Hanging>::clone(&prober));
    split(&host);
    let seen = host.observe(NOW);
    assert!(seen.is_stuck(&at(B50)));
    assert_eq!(seen.stuck[0].call, "open 0000:03:00.1 through VFIO");
    assert_eq!(seen.gpus[&at(B50)].migration.as_ref().unwrap().stop_copy.certainty, Claimed);
    let disable = Step::DisableVfs { gpu: at(B50), autoprobe: true };
    let refused = host.apply(&disable, NOW).unwrap_err();
    assert!(refused.message.contains("open 0000:03:00.1 through VFIO"), "{refused}");
    host.observe(Timestamp(NOW.0 + 60 * MINUTE_MS));
    assert_eq!(*prober.tries.lock().unwrap(), 1, "it is not tried behind one that hangs");

    *prober.gone_on.lock().unwrap() = true;
    prober.changed.notify_all();
    while !host.observe(NOW).stuck.is_empty() {
        std::thread::yield_now();
    }
    let now = Timestamp(NOW.0 + 120 * MINUTE_MS);
    assert_eq!(look(&host, now).pre_copy.certainty, Proven);
}

#[test]
fn a_captured_tree_is_read_and_nothing_is_asked() {
    let captured = captured_b50();
    captured.add(
        "sys/devices/virtual/iommu/dmar1/intel-iommu/ecap = 1280000f020df\n\
         boot/config-6.18.1 = # CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON is not set\n\
         sys/kernel/debug/vfio/0000:03:00.1/migration/features = stop-copy\\np2p\n",
    );
    let seen = inspect(captured.root(), None);
    let known = seen.gpus[&at("0000:03:00.0")].migration.as_ref().unwrap();
    assert_eq!(certainties(known), [Proven, Refused, Proven, Refused, Refused]);
    assert!(known.iommu_dirty_log.source.contains("built with scalable mode off"), "{known:?}");
    assert!(!seen.system.iommufd);
}

#[test]
fn the_fake_kernels_answers_fit_together() {
    let mut machine = Machine::lab();
    machine.migration.debugfs = VfioDebugfs::Features;
    machine.migration.devices = [("mbochs".to_owned(), DeviceModel { flags: ALL, dirty_log: true })].into();
    let host = host(machine);
    let key = GpuKey { host: "node1".parse().unwrap(), address: at("mbochs") };
    let uuid = mdev_uuid(&key, 0);
    let made = Step::CreateMdev { gpu: at("mbochs"), index: 0, uuid, profile: "mbochs-small".to_owned() };
    done(&host, &made);
    for _ in 0..2 {
        assert_eq!(check_migration(&*host.kernel, &*host.prober, &PartitionDevice::Mdev { uuid }), []);
    }
}

#[cfg(feature = "fuse")]
#[test]
fn mounted_the_files_are_where_they_are_looked_for() {
    let kernel = Arc::new(FakeKernel::boot(arc(|machine| {
        machine.vfio_nodes = true;
        machine.migration.iommufd = true;
        machine.migration.debugfs = VfioDebugfs::Features;
        machine.migration.ecap = Some("1280000f020df".to_owned());
    })));
    let mounted = crate::trees::mount(&kernel);
    let vms = Box::new(Arc::new(FakeHypervisor::new(Arc::<FakeKernel>::clone(&kernel))));
    let tree = Arc::<DirTree>::clone(&mounted.tree);
    let catalogue = Arc::new(Catalogue::builtin());
    let host = LinuxHost::new("node1".parse().unwrap(), tree, PATIENT, catalogue, vms);
    split(&host);
    assert_eq!(certainties(&facts(&host, B50)), [Proven, Refused, Proven, Refused, Claimed]);
}
