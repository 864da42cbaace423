//! What runs a node's instructions: the hardware, when a guest has been seen to boot on it, or QEMU itself.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::command::not_started;
use crate::guest::GuestReport;
use crate::image::NodeImage;
use crate::qemu::QEMU;
use crate::{Error, Progress};

/// How long the probe guest may take on working KVM; it was seen to take well under 2 s.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// How a node's instructions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// Software emulation: slow, and the same in all else.
    Tcg,
}

impl Accelerator {
    /// Hardware virtualisation where a guest boots with it and may virtualise in turn; software emulation otherwise,
    /// and then it says why. A `/dev/kvm` that exists proves nothing: some kernels offer one that cannot boot a stock
    /// guest. The answer is kept until the machine reboots.
    ///
    /// # Errors
    /// When the answer cannot be kept, or QEMU is not there at all.
    pub fn choose(image: &NodeImage, progress: &Progress) -> Result<Self, Error> {
        let reason = match unusable_without_probe() {
            Some(reason) => reason,
            None if probe_once(image, progress)? => return Ok(Self::Kvm),
            None => "a probe guest did not boot with it".to_owned(),
        };
        progress
            .say(&format!("Hardware virtualisation is not used: {reason}. Software emulation is slower."));
        Ok(Self::Tcg)
    }

    /// QEMU's name for it.
    pub(crate) fn qemu_name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The part of QEMU's machine option that names it.
    pub(crate) fn machine(self) -> &'static str {
        match self {
            // The emulated IOMMU remaps interrupts, which the kernel's own interrupt controller would bypass.
            Self::Kvm => "kvm,kernel-irqchip=split",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's CPU model.
    pub(crate) fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            // "max" has AMD's nested virtualisation, which makes guests in the node fast enough. Fast string operations
            // are off because a kernel that is told of them clears a page byte by byte, and each byte is emulated: they
            // were two thirds of the time that a VM took to start.
            Self::Tcg => "max,erms=off,fsrm=off,fzrm=off,fsrs=off,fsrc=off",
        }
    }

    /// How many virtual processors a node gets unless asked otherwise; see [`crate::NodeOptions::vcpus`].
    pub(crate) fn vcpus(self) -> u32 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 1,
        }
    }

    /// How many times longer than on hardware a wait may take.
    pub(crate) fn patience(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 6,
        }
    }
}

fn unusable_without_probe() -> Option<String> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm cannot be opened ({error})"));
    }
    let nested = ["kvm_intel", "kvm_amd"]
        .iter()
        .filter_map(|module| fs::read_to_string(format!("/sys/module/{module}/parameters/nested")).ok())
        .any(|value| matches!(value.trim(), "Y" | "1"));
    (!nested).then(|| "nested virtualisation is off, and the node could start no VM".to_owned())
}

fn probe_once(image: &NodeImage, progress: &Progress) -> Result<bool, Error> {
    let cache = Cache::of_user()?;
    let boot_id_path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot_id = fs::read_to_string(boot_id_path).map_err(Error::io("read", boot_id_path))?;
    let answer_path = cache.root().join("kvm-probe");
    let works = format!("{} works", boot_id.trim());
    let fails = format!("{} fails", boot_id.trim());
    match fs::read_to_string(&answer_path) {
        Ok(answer) if answer == works => return Ok(true),
        Ok(answer) if answer == fails => return Ok(false),
        _ => {}
    }
    let _step = progress.step("Probing hardware virtualisation with a guest");
    let boots = probe(image)?;
    fs::write(&answer_path, if boots { works } else { fails }).map_err(Error::io("write", &answer_path))?;
    Ok(boots)
}

/// Boots the lab's guest without its disk and waits for it to say that it is up.
fn probe(image: &NodeImage) -> Result<bool, Error> {
    let directory = tempfile::tempdir().map_err(Error::io("create a directory in", &std::env::temp_dir()))?;
    let serial_path = directory.path().join("serial.log");
    let serial = File::create(&serial_path).map_err(Error::io("write", &serial_path))?;
    let mut command = Command::new(QEMU);
    command
        .args(["-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio", "-append", "console=ttyS0 quiet"])
        .arg("-kernel")
        .arg(image.guest_kernel())
        .arg("-initrd")
        .arg(image.guest_initrd())
        .stdin(Stdio::null())
        .stdout(serial)
        .stderr(Stdio::null());
    let mut qemu = command.spawn().map_err(|source| not_started(&command, source))?;
    let deadline = Instant::now() + PROBE_LIMIT;
    let mut booted = false;
    while !booted && Instant::now() < deadline && matches!(qemu.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(50));
        let log = fs::read(&serial_path).unwrap_or_default();
        booted = GuestReport::parse(&String::from_utf8_lossy(&log)).ready;
    }
    // It may have ended by itself, which is what was wanted.
    let _ = qemu.kill();
    let _ = qemu.wait();
    Ok(booted)
}
