//! A fake kernel that behaves, and a whole host built on it.
//!
//! One model ([`FakeKernel`]) with two faces: in memory, where it is a [`Tree`](crate::tree::Tree) and cheap enough for
//! thousands of hosts, and, behind the feature `fuse`, mounted, so that the real code meets its errors in `write(2)`.

mod files;
mod gim;
mod host;
mod kernel;
mod machine;
mod migration;
mod modules;
#[cfg(feature = "fuse")]
mod mount;
mod nvidia;
mod signs;
mod state;
mod usage;
mod xe;

use std::fmt;
use std::io;

use tranche_core::inventory::{DeviceSource, Holder};

pub use self::gim::GimModel;
pub use self::host::FakeHost;
pub use self::kernel::FakeKernel;
pub use self::machine::{DriverModel, FunctionModel, Machine, MdevParentModel, MdevTypeModel, SriovModel};
pub use self::migration::{DeviceModel, FakeProber, MigrationModel, VfioDebugfs};
#[cfg(feature = "fuse")]
pub use self::mount::Mounted;
pub use self::nvidia::{VgpuFramework, VgpuModel, VgpuTypeModel};
pub use self::usage::usage;
pub use self::xe::{XeAdmin, XeModel};

/// What a VM does to devices: it opens them through VFIO, and closes them.
pub trait DeviceUse: Send + Sync + fmt::Debug {
    /// Opens a device.
    ///
    /// # Errors
    /// `ENODEV` for one that is not there or not bound to a VFIO driver, `EBUSY` for one that is open, `EINVAL` when
    /// another function of its IOMMU group is bound to a host driver (kernel: the group is not viable).
    fn open(&self, source: &DeviceSource, by: &Holder) -> io::Result<()>;

    /// Closes a device. One that is not open stays so.
    fn close(&self, source: &DeviceSource, by: &Holder);
}
