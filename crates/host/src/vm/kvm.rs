//! Whether KVM works, proved by a guest.
//!
//! `/dev/kvm` alone proves nothing: there are kernels that offer one on which no guest gets anywhere. So a guest is
//! started: a boot sector that tells QEMU to exit with a number that nothing else exits with.

use std::fs::File;
use std::io::{self, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use camino::Utf8Path;
use rustix::fs::MemfdFlags;

/// How long the probe guest may take, in milliseconds: well under a second on real hardware, some seconds where the
/// processor that offers KVM is itself emulated.
const PROBE_LIMIT_MS: u64 = 30_000;
/// How often the probe guest is looked after, in milliseconds.
const PROBE_LOOK_MS: u64 = 20;
/// The size of the probe guest's disk, in bytes: its first sector is all that counts, but SeaBIOS boots from no disk
/// without a whole cylinder.
const DISK_LEN: u64 = 1 << 20;
/// What the guest writes to the exit port.
const TOKEN: u8 = 0x2a;
/// What QEMU then exits with (QEMU: hw/misc/debugexit.c).
const TOKEN_EXIT: i32 = ((TOKEN as i32) << 1) | 1;

/// What runs the probe guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM, which is to be proved.
    Kvm,
    /// QEMU's translator, which proves that the probe itself works.
    Tcg,
}

/// Why the probe guest did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// QEMU could not be started, or the guest not be given to it.
    #[error("QEMU could not be started")]
    Start(#[source] io::Error),
    /// QEMU ended otherwise.
    #[error("the probe guest did not run; QEMU ended with {0}")]
    Ended(ExitStatus),
    /// The guest got nowhere.
    #[error("the probe guest did not end within {PROBE_LIMIT_MS} ms")]
    Hung,
}

/// Boots the probe guest, which takes a moment, and waits for its end.
///
/// # Errors
/// When it did not boot.
pub fn boot_probe_guest(emulator: &Utf8Path, accelerator: Accelerator) -> Result<(), ProbeError> {
    let (accelerator, processor) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    let mut child = Command::new(emulator)
        .args(["-machine", &format!("q35,accel={accelerator}"), "-cpu", processor, "-m", "16"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"])
        .args(["-drive", "file=/dev/stdin,format=raw,if=ide"])
        .stdin(boot_disk().map_err(ProbeError::Start)?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(ProbeError::Start)?;
    let ended = wait(&mut child, Instant::now() + Duration::from_millis(PROBE_LIMIT_MS));
    if !matches!(ended, Ok(Some(_))) {
        // It has ended by itself in the meantime, or it ends now; both are fine.
        let _ = child.kill().and_then(|()| child.wait());
    }
    match ended.map_err(ProbeError::Start)? {
        Some(status) if status.code() == Some(TOKEN_EXIT) => Ok(()),
        Some(status) => Err(ProbeError::Ended(status)),
        None => Err(ProbeError::Hung),
    }
}

/// Waits for the end of a child, or for the deadline.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() >= deadline {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_millis(PROBE_LOOK_MS));
    }
}

/// A disk in memory, which no file name leads to.
fn boot_disk() -> io::Result<Stdio> {
    let mut disk = File::from(rustix::fs::memfd_create("probe guest", MemfdFlags::CLOEXEC)?);
    disk.write_all(&boot_sector())?;
    disk.set_len(DISK_LEN)?;
    Ok(Stdio::from(disk))
}

/// `mov dx, 0xf4; mov al, TOKEN; out dx, al`, and if that should return, `hlt` for good.
fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..9].copy_from_slice(&[0xba, 0xf4, 0x00, 0xb0, TOKEN, 0xee, 0xf4, 0xeb, 0xfd]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
