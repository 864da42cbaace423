//! What live migration of a VM with a partition rests on: what the kernel shows, and what it says when it is asked.
//!
//! Two sources, the weaker one first. Files are read in each look and change nothing ([`shown`], [`iommu`]): an IOMMU's registers
//! and what is known of a driver are claims, VFIO's own files under debugfs are proofs. What they leave open is asked ([`probe`]):
//! a partition is opened through VFIO for a moment, as QEMU would open it.
//!
//! Opening takes a partition from everybody else and resets it, then and once more when it is closed (kernel:
//! drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_core_enable` and `_disable`). So that is done
//! * to one partition of a kind, which stands for all of the same GPU, driver and profile;
//! * once in a boot for each version of kernel and driver; what failed is tried again after a while;
//! * only while libvirt answers, to a partition that no process has open and no domain names, whether it runs or is only defined;
//! * only in a look at everything, when no step is under way (decision 0006), with a limit, and one partition in each look;
//! * not where a file has refused already that its driver hands out its state: the rest does not matter then;
//! * never with NVIDIA's driver, to which a virtual function that is opened is a vGPU that starts.
//!
//! Races that are left, of the tenths of a second that it takes: a QEMU that is started by hand for just this partition is told
//! EBUSY, as is a domain that was defined and started since libvirt was asked; both can be started again. Unbinding its driver by
//! hand waits until it is closed. What is open already is never taken: the kernel answers EBUSY here, and the partition stays
//! unknown. A call that does not come back is listed as stuck, and nothing else is done on its GPU meanwhile.
//!
//! Deliberately absent: trying to migrate. mtty has offered a log that could not be read (without iommufd), so that even what is
//! proven here can fail. The file `state` under debugfs is not read: it asks the device.

mod device;
mod iommu;
mod kinds;
mod probe;
mod prober;
mod shown;

use tranche_core::inventory::{Gpu, PartitionDevice};

pub use self::prober::{Answers, Door, KernelProber, Prober, Refusal, Target};

pub(crate) use self::iommu::ScalableMode;
pub(crate) use self::probe::{Boot, Probe};
use crate::tree::Tree;
use crate::vgpu;

/// Notes of a GPU what files show of its partitions, of one of each kind.
pub(crate) fn look(tree: &dyn Tree, mode: &ScalableMode, gpu: &mut Gpu) {
    let of_kind = |places: Vec<usize>| {
        let facts = shown::facts(tree, mode, gpu, &gpu.partitions[places[0]]);
        (places, facts)
    };
    let facts = kinds::of(gpu).into_iter().map(|(_, places)| of_kind(places)).collect();
    kinds::note(gpu, facts);
}

/// Whether opening a partition of this GPU does more than to open it. A stand-in of the lab starts nothing.
fn is_started_by_opening(gpu: &Gpu) -> bool {
    gpu.driver.as_deref() == Some(vgpu::DRIVER) && !gpu.emulated
}

/// A device as VFIO and sysfs call it.
fn name(device: &PartitionDevice) -> String {
    match device {
        PartitionDevice::Vf { address } => address.to_string(),
        PartitionDevice::Mdev { uuid } => uuid.to_string(),
    }
}
