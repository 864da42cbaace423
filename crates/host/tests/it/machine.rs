//! A host over the fake kernel, and the devices that tests speak of.

use std::sync::Arc;

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::{Gpu, Holder, HostInventory};
use tranche_core::name::{GpuAddress, PciAddress, Timestamp};
use tranche_core::step::{Step, VFIO_DRIVER};
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeHost, FakeKernel, Machine};

/// Long enough for any call that does not hang, on a busy machine.
pub(crate) const PATIENT: Limits = Limits { read_ms: 60_000, write_ms: 60_000, tool_ms: 60_000 };
pub(crate) const NOW: Timestamp = Timestamp(1_000);
const LAB: &str = include_str!("../../../../lab/catalogue.d/lab.toml");

pub(crate) fn lab_catalogue() -> Arc<Catalogue> {
    let mut catalogue = Catalogue::builtin();
    catalogue.extend("lab.toml".into(), LAB).expect("the lab's file is a catalogue");
    Arc::new(catalogue)
}

/// The lab's node, fake.
pub(crate) fn lab() -> FakeHost {
    host(Machine::lab())
}

pub(crate) fn host(machine: Machine) -> FakeHost {
    FakeHost::new("node1".parse().unwrap(), FakeKernel::boot(machine), lab_catalogue(), PATIENT)
}

/// Tells a story over a kernel in memory, and again over one that is mounted.
pub(crate) fn on_both_faces(machine: &Machine, limits: Limits, story: impl Fn(&FakeKernel, &dyn Host)) {
    let name = || "node1".parse().unwrap();
    let host = FakeHost::new(name(), FakeKernel::boot(machine.clone()), lab_catalogue(), limits);
    story(&host.kernel, &host);
    #[cfg(feature = "fuse")]
    {
        use tranche_host::linux::LinuxHost;
        use tranche_host::vm::fake::FakeHypervisor;

        let kernel = Arc::new(FakeKernel::boot(machine.clone()));
        let mounted = crate::trees::mount(&kernel);
        let vms = Box::new(Arc::new(FakeHypervisor::new(Arc::<FakeKernel>::clone(&kernel))));
        let tree = Arc::<tranche_host::tree::DirTree>::clone(&mounted.tree);
        story(&kernel, &LinuxHost::new(name(), tree, limits, lab_catalogue(), vms));
    }
}

pub(crate) fn pci(text: &str) -> PciAddress {
    text.parse().expect("a PCI address")
}

pub(crate) fn at(text: &str) -> GpuAddress {
    text.parse().expect("a GPU address")
}

pub(crate) const IGB: &str = "0000:01:00.0";

pub(crate) fn enable(count: u16) -> Step {
    Step::EnableVfs { gpu: at(IGB), count }
}

pub(crate) fn disable() -> Step {
    Step::DisableVfs { gpu: at(IGB), autoprobe: true }
}

pub(crate) fn bind(index: u16, vf: &str) -> Step {
    Step::BindPartition { gpu: at(IGB), index, vf: pci(vf), driver: VFIO_DRIVER.to_owned() }
}

pub(crate) fn qemu(pid: u32) -> Holder {
    Holder { pid, command: "qemu-system-x86".to_owned() }
}

pub(crate) fn gpu(host: &(impl Host + ?Sized), address: &str) -> Gpu {
    inventory(host).gpus.remove(&at(address)).expect("the GPU is seen")
}

pub(crate) fn inventory(host: &(impl Host + ?Sized)) -> HostInventory {
    host.observe(NOW)
}

#[track_caller]
pub(crate) fn done(host: &(impl Host + ?Sized), step: &Step) {
    if let Err(finding) = host.apply(step, NOW) {
        panic!("{step}: {finding}");
    }
}

#[track_caller]
pub(crate) fn refused(host: &(impl Host + ?Sized), step: &Step, code: Code) -> Finding {
    match host.apply(step, NOW) {
        Ok(()) => panic!("{step} was carried out"),
        Err(finding) => {
            assert_eq!(finding.code, code, "{finding}");
            assert!(finding.message.ends_with('.') && finding.hint.ends_with('.'), "{finding}");
            *finding
        }
    }
}
