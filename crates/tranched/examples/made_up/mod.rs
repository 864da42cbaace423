//! What benches make up: hosts, and the wishes of people for them and their VMs.

use std::collections::BTreeMap;
use std::sync::Arc;

use tranche_core::name::{GpuKey, HostName, Timestamp, VmId, VmName};
use tranche_core::spec::{
    Availability, Duty, Firmware, GpuMode, GpuSpec, HostSpec, Request, Run, Spec, VmHardware, VmSource,
    VmSpec,
};
use tranche_host::Host as _;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::vm::fake::FakeHypervisor;
use uuid::Uuid;

/// A host: the real code over a fake kernel and a fake hypervisor.
pub(crate) fn host(name: &HostName, machine: Machine) -> LinuxHost {
    let kernel = Arc::new(FakeKernel::boot(machine));
    let hypervisor = Box::new(FakeHypervisor::new(kernel.clone()));
    LinuxHost::new(name.clone(), kernel, Limits::default(), Arc::new(Catalogue::builtin()), hypervisor)
}

/// What people ask for: every GPU of these hosts split into so many partitions, every VM on. The hosts are alike, as `model` is.
pub(crate) fn wishes(
    model: &LinuxHost,
    partitions: u16,
    hosts: impl Iterator<Item = HostName>,
    vms: impl Iterator<Item = VmName>,
) -> Spec {
    let mut spec = Spec::default();
    let model = model.observe(Timestamp(1));
    for name in hosts {
        for (address, gpu) in &model.gpus {
            let mode = GpuMode::Partitioned { count: partitions, series: None };
            let key = GpuKey { host: name.clone(), address: address.clone() };
            spec.gpus.insert(key, GpuSpec { mode, identity: gpu.identity(), reloads: 0 });
        }
        let member = HostSpec {
            joined_at: Timestamp(0),
            labels: BTreeMap::new(),
            duty: Duty::Serving,
            fence: None,
            said_down: None,
            departure: None,
            reserved_memory_mib: 0,
        };
        spec.hosts.insert(name, member);
    }
    spec.vms.extend(vms.enumerate().map(|(number, name)| (name, vm(number))));
    spec
}

fn vm(number: usize) -> VmSpec {
    let hardware = VmHardware {
        vcpus: 1,
        memory_mib: 16,
        disks: Vec::new(),
        networks: Vec::new(),
        firmware: Firmware::Bios,
        guest_os: None,
        cloud_init: None,
    };
    VmSpec {
        id: VmId(Uuid::from_u128(number as u128 + 1)),
        source: VmSource::Made(hardware),
        request: Request::ANY_PARTITION,
        reserved: false,
        labels: tranche_core::label::Labels::new(),
        prefer_numa_node: None,
        availability: Availability::default(),
        run: Run::Running,
        serial: 1,
        relocation: None,
        handover: None,
        created_at: Timestamp(number as u64),
    }
}
