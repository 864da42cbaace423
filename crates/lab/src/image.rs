//! What nodes and guests boot from, made once and cached by a hash of its package lists and scripts.
//!
//! Three stages, so that a change makes only what it must: what boots (kernel, sample modules, initial RAM disks, the
//! guest's disk), the node's root tree, and the disk that joins them. No secret is in any of them: a node gets its
//! ssh key when it starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::command::run_logged;
use crate::debian::{Bootstrap, SUITE, bootstrap};
use crate::{Error, Progress};

/// The lab's own files for the trees, as (path, content); they travel in the program.
macro_rules! lab_files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../lab/", $path)))),*]
    };
}

const BOOT_FILES: &[(&str, &str)] = lab_files![
    "kernel/Kbuild",
    "kernel/build.sh",
    "kernel/vgpu.c",
    "kernel/vgpu.h",
    "kernel/vgpu_migration.c",
    "node/init",
    "guest/init",
    "guest/syslinux.cfg",
];
const ROOTFS_FILES: &[(&str, &str)] = lab_files!["node/customize.sh", "node/sriov-manage"];
const DISK_FILES: &[(&str, &str)] = lab_files!["node/pack.sh"];

/// Unpacked, not installed: enough to compile a few modules and to write a FAT disk.
const BOOT_PACKAGES: &[&str] = &[
    "base-files",
    "busybox-static",
    "coreutils",
    "cpio",
    "dash",
    "diffutils",
    "findutils",
    "gcc",
    "grep",
    "gzip",
    "kmod",
    "linux-headers-amd64",
    "linux-image-amd64",
    "linux-image-cloud-amd64",
    "linux-source",
    "make",
    "mawk",
    "mtools",
    "sed",
    "syslinux",
    "tar",
    "xz-utils",
];

/// A libvirt host as an administrator would install it, and what a person debugging it would miss.
const ROOTFS_PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "curl",
    "dbus",
    "dnsmasq-base",
    "e2fsprogs",
    "etcd-server",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "libnss-myhostname",
    "libvirt-clients",
    "libvirt-daemon-system",
    "nftables",
    "openssh-server",
    "ovmf",
    "pciutils",
    "procps",
    "qemu-system-x86",
    "qemu-utils",
    "socat",
    "sqlite3",
    "systemd-sysv",
    "udev",
    "xorriso",
];

/// Builds in the tree, and takes out what was built.
const BOOT_OPTIONS: &[&str] = &[
    "--extract-hook=copy-in lab /",
    "--extract-hook=chroot \"$1\" /usr/bin/dash /lab/kernel/build.sh",
    "--extract-hook=sync-out /out .",
];

const ROOTFS_OPTIONS: &[&str] = &[
    // libvirt asks every QEMU that it finds what it can do; a second one would double that wait.
    "--dpkgopt=path-exclude=/usr/bin/qemu-system-i386",
    "--customize-hook=mkdir -p \"$1/usr/lib/nvidia\"",
    "--customize-hook=upload lab/node/sriov-manage /usr/lib/nvidia/sriov-manage",
    "--customize-hook=upload lab/node/customize.sh /tmp/customize.sh",
    "--customize-hook=chroot \"$1\" sh /tmp/customize.sh",
    "--customize-hook=rm \"$1/tmp/customize.sh\"",
];

/// Finished files, never written to again: each node's disk is an overlay on [`NodeImage::root_disk`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeImage {
    boot: PathBuf,
    disk: PathBuf,
}

impl NodeImage {
    /// Finds the image, or makes it (a minute or two, about 500 MB of packages from the mirror).
    ///
    /// # Errors
    /// [`Error::Failed`] with the end of the log of the program that could not make it.
    pub fn ensure(progress: &Progress) -> Result<Self, Error> {
        let cache = Cache::of_user()?;
        let boot_inputs = inputs(BOOT_PACKAGES, BOOT_OPTIONS, BOOT_FILES);
        let rootfs_inputs = inputs(ROOTFS_PACKAGES, ROOTFS_OPTIONS, ROOTFS_FILES);
        let made = cache.find("boot", &boot_inputs)?.1 && cache.find("rootfs", &rootfs_inputs)?.1;
        let step = (!made)
            .then(|| progress.step(&format!("Making the Debian {SUITE} node image (once, then cached)")));
        // Two trees at once: one waits for the mirror while the other unpacks.
        let (boot, rootfs) = std::thread::scope(|scope| {
            let boot = scope.spawn(|| cache.entry("boot", &boot_inputs, make_boot_files));
            let rootfs = cache.entry("rootfs", &rootfs_inputs, make_rootfs);
            (boot.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), rootfs)
        });
        let (boot, rootfs) = (boot?, rootfs?);
        drop(step);
        let (boot_name, rootfs_name) = (boot.to_string_lossy(), rootfs.to_string_lossy());
        let disk_inputs = [&inputs(&[], &[], DISK_FILES)[..], &[&*boot_name, &*rootfs_name]].concat();
        let found = cache.find("disk", &disk_inputs)?.1;
        let step = (!found).then(|| progress.step("Writing the node's disk"));
        let disk = cache.entry("disk", &disk_inputs, |work| make_disk(work, &boot, &rootfs))?;
        drop(step);
        Ok(Self { boot, disk })
    }

    /// The node's root file system: raw ext4, no partition table.
    pub fn root_disk(&self) -> PathBuf {
        self.disk.join("root.img")
    }

    /// The node's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.boot.join("vmlinuz")
    }

    /// The node's initial RAM disk.
    pub fn initrd(&self) -> PathBuf {
        self.boot.join("initrd")
    }

    /// The guest's kernel, for the probe that boots it without its disk.
    pub fn guest_kernel(&self) -> PathBuf {
        self.boot.join("guest-vmlinuz")
    }

    /// The guest's initial RAM disk, which is all of its system.
    pub fn guest_initrd(&self) -> PathBuf {
        self.boot.join("guest-initrd")
    }
}

fn inputs<'a>(packages: &[&'a str], options: &[&'a str], files: &[(&'a str, &'a str)]) -> Vec<&'a str> {
    let files = files.iter().flat_map(|(path, content)| [*path, *content]);
    std::iter::once(SUITE).chain(packages.iter().chain(options).copied()).chain(files).collect()
}

fn write_files(work: &Path, files: &[(&str, &str)]) -> Result<(), Error> {
    for (name, content) in files {
        let path = work.join("lab").join(name);
        let parent = path.parent().unwrap_or(work);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        fs::write(&path, content).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

fn make_boot_files(work: &Path) -> Result<(), Error> {
    write_files(work, BOOT_FILES)?;
    let plan = Bootstrap { variant: "extract", packages: BOOT_PACKAGES, options: BOOT_OPTIONS, tar: None };
    bootstrap(&plan, work, &work.join("build.log"))
}

fn make_rootfs(work: &Path) -> Result<(), Error> {
    write_files(work, ROOTFS_FILES)?;
    let plan = Bootstrap {
        variant: "apt",
        packages: ROOTFS_PACKAGES,
        options: ROOTFS_OPTIONS,
        tar: Some("rootfs.tar"),
    };
    bootstrap(&plan, work, &work.join("build.log"))
}

fn make_disk(work: &Path, boot: &Path, rootfs: &Path) -> Result<(), Error> {
    write_files(work, DISK_FILES)?;
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else {
        // File owners other than the user exist in a user namespace of their own.
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-auto", "--map-root-user", "sh"]);
        command
    };
    command.arg(work.join("lab/node/pack.sh")).args([
        rootfs.join("rootfs.tar"),
        boot.join("modules.tar"),
        boot.join("guest.img"),
        work.join("root.img"),
    ]);
    run_logged(&mut command, &work.join("build.log"))
}
