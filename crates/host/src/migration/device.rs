//! The calls of VFIO and iommufd that tell what a device can, and nothing else. All unsafe code about them is here.
//!
//! Source: the kernel's include/uapi/linux/vfio.h and include/uapi/linux/iommufd.h. Structures may grow at their end; each call
//! carries the size that it was made with, and the kernel takes older ones.

use std::ffi::{CString, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Ioctl, IoctlOutput, Opcode, Setter, Updater, ioctl, opcode};

const BASE: u8 = b';';
const SET_IOMMU: Opcode = opcode::none(BASE, 100 + 2);
const GROUP_SET_CONTAINER: Opcode = opcode::none(BASE, 100 + 4);
const GROUP_GET_DEVICE_FD: Opcode = opcode::none(BASE, 100 + 6);
const DEVICE_FEATURE: Opcode = opcode::none(BASE, 100 + 17);
const DEVICE_BIND_IOMMUFD: Opcode = opcode::none(BASE, 100 + 18);
const GET_HW_INFO: Opcode = opcode::none(BASE, 0x8a);

/// VFIO_TYPE1v2_IOMMU.
const TYPE1V2: usize = 3;
const FEATURE_MIGRATION: u32 = 1;
const FEATURE_DMA_LOGGING_START: u32 = 6;
const FEATURE_GET: u32 = 1 << 16;
const FEATURE_PROBE: u32 = 1 << 18;

/// `struct vfio_device_feature` with the data of VFIO_DEVICE_FEATURE_MIGRATION, the only one that is read.
#[repr(C)]
struct RawFeature {
    argsz: u32,
    flags: u32,
    data: u64,
}

/// `struct vfio_device_bind_iommufd`, as of Linux 6.6.
#[repr(C)]
struct RawBind {
    argsz: u32,
    flags: u32,
    iommufd: i32,
    out_devid: u32,
}

/// `struct iommu_hw_info`, as of Linux 6.7.
#[repr(C)]
#[derive(Default)]
struct RawHwInfo {
    size: u32,
    flags: u32,
    dev_id: u32,
    data_len: u32,
    data_uptr: u64,
    out_data_type: u32,
    reserved: u32,
    out_capabilities: u64,
}

#[expect(clippy::cast_possible_truncation, reason = "structures of some bytes")]
const fn size_of<T>() -> u32 {
    std::mem::size_of::<T>() as u32
}

/// Opens a device node.
pub(super) fn node(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens the device behind its own node, and gives it to an iommufd, in which it then has this number.
pub(super) fn bind(device: impl AsFd, iommufd: impl AsFd) -> Result<u32, Errno> {
    let iommufd = iommufd.as_fd().as_raw_fd();
    let mut bind = RawBind { argsz: size_of::<RawBind>(), flags: 0, iommufd, out_devid: 0 };
    // SAFETY: this call reads and writes one `struct vfio_device_bind_iommufd` of the size that it is told.
    unsafe { ioctl(device, Updater::<DEVICE_BIND_IOMMUFD, RawBind>::new(&mut bind)) }?;
    Ok(bind.out_devid)
}

/// What the IOMMU of a device can that was given to an iommufd. A kernel that tells less leaves the rest at 0.
pub(super) fn iommu_capabilities(iommufd: impl AsFd, device: u32) -> Result<u64, Errno> {
    let mut info = RawHwInfo { size: size_of::<RawHwInfo>(), dev_id: device, ..RawHwInfo::default() };
    // SAFETY: this call reads and writes one `struct iommu_hw_info` of the size that it is told. It has room for no further data
    // (`data_len` is 0), so that nothing is written behind `data_uptr`.
    unsafe { ioctl(iommufd, Updater::<GET_HW_INFO, RawHwInfo>::new(&mut info)) }?;
    Ok(info.out_capabilities)
}

/// Puts a group into a container.
pub(super) fn set_container(group: impl AsFd, container: impl AsFd) -> Result<(), Errno> {
    let container: c_int = container.as_fd().as_raw_fd();
    // SAFETY: this call reads one int.
    unsafe { ioctl(group, Setter::<GROUP_SET_CONTAINER, c_int>::new(container)) }
}

/// Makes the IOMMU serve a container's groups, as QEMU has it.
pub(super) fn set_type1(container: impl AsFd) -> Result<(), Errno> {
    // SAFETY: this call takes its argument itself, and no pointer.
    unsafe { ioctl(container, IntegerSetter::<SET_IOMMU>::new_usize(TYPE1V2)) }
}

/// Opens a device of a group, by its name.
pub(super) fn open(group: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    // SAFETY: this call is what `GetDevice` says.
    unsafe { ioctl(group, GetDevice(name)) }
}

/// What a device's driver can about its state.
pub(super) fn migration_flags(device: impl AsFd) -> Result<u64, Errno> {
    feature(device, FEATURE_GET | FEATURE_MIGRATION)
}

/// Whether a device logs what it writes. Nothing is started.
pub(super) fn offers_dma_logging(device: impl AsFd) -> Result<(), Errno> {
    feature(device, FEATURE_PROBE | FEATURE_DMA_LOGGING_START).map(drop)
}

fn feature(device: impl AsFd, flags: u32) -> Result<u64, Errno> {
    let mut feature = RawFeature { argsz: size_of::<RawFeature>(), flags, data: 0 };
    // SAFETY: this call reads the first two fields, and writes at most the bytes that `argsz` says. What it would read or write of
    // features that are asked for by a pointer is not there: one of them is probed only.
    unsafe { ioctl(device, Updater::<DEVICE_FEATURE, RawFeature>::new(&mut feature)) }?;
    Ok(feature.data)
}

/// VFIO_GROUP_GET_DEVICE_FD: a name goes in, and the result is a descriptor.
struct GetDevice(CString);

// SAFETY: the call reads a text up to its end and changes nothing of it. What it returns when it does not fail is a descriptor that
// nobody else has.
unsafe impl Ioctl for GetDevice {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        GROUP_GET_DEVICE_FD
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0.as_ptr().cast_mut().cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: see above.
        Ok(unsafe { OwnedFd::from_raw_fd(output) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_have_the_kernels_numbers() {
        // As a C compiler computes them from include/uapi/linux/vfio.h and iommufd.h on the usual architectures.
        assert_eq!(SET_IOMMU, 0x3b66);
        assert_eq!(GROUP_SET_CONTAINER, 0x3b68);
        assert_eq!(GROUP_GET_DEVICE_FD, 0x3b6a);
        assert_eq!(DEVICE_FEATURE, 0x3b75);
        assert_eq!(DEVICE_BIND_IOMMUFD, 0x3b76);
        assert_eq!(GET_HW_INFO, 0x3b8a);
        assert_eq!(FEATURE_GET | FEATURE_MIGRATION, 0x0001_0001);
        assert_eq!(FEATURE_PROBE | FEATURE_DMA_LOGGING_START, 0x0004_0006);
    }

    #[test]
    fn structures_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<RawFeature>(), 16);
        assert_eq!(size_of::<RawBind>(), 16);
        assert_eq!(size_of::<RawHwInfo>(), 40);
    }

    #[test]
    fn what_is_no_vfio_device_says_so() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let other = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(bind(&file, &other), Err(Errno::NOTTY));
        assert_eq!(iommu_capabilities(&file, 1), Err(Errno::NOTTY));
        assert_eq!(set_container(&file, &other), Err(Errno::NOTTY));
        assert_eq!(set_type1(&file), Err(Errno::NOTTY));
        assert_eq!(open(&file, "0000:03:00.1").unwrap_err(), Errno::NOTTY);
        assert_eq!(open(&file, "0000\0").unwrap_err(), Errno::INVAL);
        assert_eq!(migration_flags(&file), Err(Errno::NOTTY));
        assert_eq!(offers_dma_logging(&file), Err(Errno::NOTTY));
    }
}
