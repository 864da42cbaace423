//! The kernel's watchdog device: its calls, and nothing else. All unsafe code about watchdogs is here.
//!
//! Source: the kernel's include/uapi/linux/watchdog.h and Documentation/watchdog/watchdog-api.rst.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Getter, NoArg, Opcode, Updater, ioctl, opcode};
use tranche_core::inventory::Holder;

use super::{Driver, Support, Timer, sysfs};
use crate::discover::holders::users_of_nodes;
use crate::tree::Tree;

/// The node that the first watchdog has beside its own.
const FIRST_ALIAS: (&str, &str) = ("/dev/watchdog0", "/dev/watchdog");
/// Written before closing, it has the watchdog stop.
const MAGIC: &[u8] = b"V";

const SETS_TIMEOUT: u32 = 0x80;
const NEEDS_MAGIC: u32 = 0x100;

const BASE: u8 = b'W';
const GET_SUPPORT: Opcode = opcode::read::<RawSupport>(BASE, 0);
const KEEP_ALIVE: Opcode = opcode::read::<c_int>(BASE, 5);
const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(BASE, 6);
const GET_TIMEOUT: Opcode = opcode::read::<c_int>(BASE, 7);

/// `struct watchdog_info`.
#[repr(C)]
struct RawSupport {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// A device node.
#[derive(Debug)]
pub(super) struct KernelDriver {
    device: String,
    tree: Arc<dyn Tree>,
}

impl KernelDriver {
    pub(super) fn new(device: &str, tree: Arc<dyn Tree>) -> Self {
        Self { device: device.to_owned(), tree }
    }
}

impl Driver for KernelDriver {
    fn open(&self) -> io::Result<Box<dyn Timer>> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(self.device.as_str(), flags, Mode::empty())?;
        Ok(Box::new(KernelTimer(fd)))
    }

    fn users(&self) -> Vec<Holder> {
        let (first, alias) = FIRST_ALIAS;
        let mut users = users_of_nodes(&*self.tree, |target| {
            target == self.device || (self.device == first && target == alias)
        });
        users.retain(|user| user.pid != std::process::id());
        users
    }

    fn is_active(&self) -> Option<bool> {
        sysfs::is_active(&*self.tree, &self.device)
    }
}

/// An open device.
#[derive(Debug)]
pub(super) struct KernelTimer(OwnedFd);

impl From<OwnedFd> for KernelTimer {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Timer for KernelTimer {
    fn support(&self) -> io::Result<Support> {
        // SAFETY: this call writes one `struct watchdog_info`, which has no padding and is valid in every bit pattern.
        let told = unsafe { ioctl(&self.0, Getter::<GET_SUPPORT, RawSupport>::new()) }?;
        let end = told.identity.iter().position(|byte| *byte == 0).unwrap_or(told.identity.len());
        tracing::debug!(firmware = told.firmware_version, options = told.options, "a watchdog was opened");
        Ok(Support {
            identity: String::from_utf8_lossy(&told.identity[..end]).into_owned(),
            sets_timeout: told.options & SETS_TIMEOUT != 0,
            needs_magic: told.options & NEEDS_MAGIC != 0,
        })
    }

    fn timeout_s(&self) -> io::Result<u32> {
        // SAFETY: this call writes one int.
        let seconds = unsafe { ioctl(&self.0, Getter::<GET_TIMEOUT, c_int>::new()) }?;
        u32::try_from(seconds).map_err(|_| Errno::RANGE.into())
    }

    fn set_timeout_s(&mut self, seconds: u32) -> io::Result<()> {
        let mut seconds = c_int::try_from(seconds).map_err(|_| io::Error::from(Errno::INVAL))?;
        // SAFETY: this call reads one int and writes it.
        unsafe { ioctl(&self.0, Updater::<SET_TIMEOUT, c_int>::new(&mut seconds)) }?;
        Ok(())
    }

    fn keep_alive(&mut self) -> io::Result<()> {
        // SAFETY: this call looks at no argument, whatever its number says.
        unsafe { ioctl(&self.0, NoArg::<KEEP_ALIVE>::new()) }?;
        Ok(())
    }

    fn allow_stop(&mut self) -> io::Result<()> {
        rustix::io::write(&self.0, MAGIC)?;
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_have_the_kernels_numbers() {
        // As a C compiler computes them from include/uapi/linux/watchdog.h on the usual architectures.
        assert_eq!(GET_SUPPORT, 0x8028_5700);
        assert_eq!(KEEP_ALIVE, 0x8004_5705);
        assert_eq!(SET_TIMEOUT, 0xc004_5706);
        assert_eq!(GET_TIMEOUT, 0x8004_5707);
    }

    #[test]
    fn what_is_no_watchdog_says_so() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut timer = KernelTimer::from(OwnedFd::from(file));
        assert_eq!(timer.support().unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(timer.timeout_s().unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(timer.keep_alive().unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
