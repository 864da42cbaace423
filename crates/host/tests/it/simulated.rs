//! Many fake hosts at once, as a simulator has them.

use std::sync::Arc;

use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{Hypervisor as Observed, PartitionDevice};
use tranche_core::name::HostName;
use tranche_core::step::{Step, VFIO_DRIVER};
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::vm::Hypervisor;

use crate::machine::{NOW, done, host, inventory};

#[test]
fn a_host_of_eight_gpus_with_sixteen_partitions_each_is_partitioned_and_read_back() {
    let host = host(Machine::preset("big").unwrap());
    let gpus: Vec<_> = inventory(&host).gpus.into_keys().collect();
    assert_eq!(gpus.len(), 8);
    for gpu in &gpus {
        done(&host, &Step::EnableVfs { gpu: gpu.clone(), count: 16 });
    }
    let seen = inventory(&host);
    for (gpu, observed) in &seen.gpus {
        for partition in &observed.partitions {
            let PartitionDevice::Vf { address: vf } = partition.device else { panic!("a virtual function") };
            let index = partition.index.unwrap();
            done(&host, &Step::BindPartition { gpu: gpu.clone(), index, vf, driver: VFIO_DRIVER.to_owned() });
        }
    }
    let seen = inventory(&host);
    let bound =
        seen.gpus.values().flat_map(|gpu| &gpu.partitions).filter(|partition| partition.driver.is_some());
    assert_eq!(bound.count(), 128);
    assert_eq!(seen.gpus.values().filter(|gpu| gpu.numa_node == Some(1)).count(), 4);
    assert_eq!(seen.gpus.values().next().unwrap().partitions[0].mmio_mib, 1040);
}

#[test]
fn the_same_host_observed_twice_is_the_same() {
    let host = host(Machine::gpus(4, 8));
    assert_eq!(host.observe(NOW), host.observe(NOW));
}

#[test]
fn it_has_the_pool_and_the_network_of_a_fresh_libvirt_and_what_somebody_makes_of_them() {
    let host = host(Machine::gpus(1, 8));
    let shared =
        |host: &_| inventory(host).resources().expect("libvirt tells of them").pools["default"].shared;
    assert!(!shared(&host));
    host.hypervisor.change_resources(|resources| {
        resources.pools.get_mut("default").expect("it is there").shared = true;
        resources.networks.clear();
    });
    assert!(shared(&host));
    assert!(inventory(&host).resources().unwrap().networks.is_empty());
    host.hypervisor.go_down("it restarts");
    assert_eq!(inventory(&host).resources(), None);
}

#[test]
fn presets_are_found_by_name() {
    for (name, gpus) in Machine::PRESETS.into_iter().zip([2, 8, 5]) {
        let machine = Machine::preset(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(host(machine).observe(NOW).gpus.len(), gpus, "{name}");
    }
    assert_eq!(Machine::preset("small"), None);
}

#[test]
fn a_machine_can_be_described_in_a_file() {
    let text = r#"
        iommu = false
        drivers = [{ name = "xe", ids = ["8086:e211"], sriov = true }]

        [[functions]]
        address = "0000:03:00.0"
        ids = "8086:e211:8086:1114"
        class = 0x030000
        boot_vga = true
        sriov = { total_vfs = 2, offset = 1, stride = 1, vf_device = 0xe211 }
    "#;
    let host = host(toml::from_str(text).unwrap());
    let seen = inventory(&host);
    let gpu = seen.gpus.values().next().unwrap();
    assert_eq!((gpu.boot_vga, gpu.valid_counts(), gpu.driver.as_deref()), (true, vec![1, 2], Some("xe")));
    assert!(toml::from_str::<Machine>("iomu = false").is_err());
}

/// A hypervisor whose guests are emulated.
#[derive(Debug)]
struct Emulating;

impl Hypervisor for Emulating {
    fn observe(&self) -> Observed {
        Observed::Down { reason: "not asked".to_owned() }
    }

    fn notes(&self, host: &HostName) -> Vec<Finding> {
        let subject = Subject::Host(host.clone());
        vec![finding(Code::KvmMissing, Severity::Warning, subject, "The probe failed.", "Repair it.")]
    }

    fn apply(&self, _: &Step) -> Result<(), Box<Finding>> {
        Ok(())
    }
}

#[test]
fn that_kvm_is_missing_is_said_once_and_that_it_does_not_work_too() {
    let messages = |kvm| {
        let kernel = Arc::new(FakeKernel::boot(Machine { kvm, ..Machine::default() }));
        let catalogue = Arc::new(Catalogue::builtin());
        let name = "node1".parse().unwrap();
        let host = LinuxHost::new(name, kernel, Limits::default(), catalogue, Box::new(Emulating));
        host.observe(NOW).notes.into_iter().map(|note| note.message).collect::<Vec<_>>()
    };
    assert_eq!(messages(false), ["Host node1 has no /dev/kvm."]);
    assert_eq!(messages(true), ["The probe failed."]);
}
