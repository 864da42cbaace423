//! Whether a kernel behaves as this room believes: the same checks run on a real one and on both faces of the fake one.
//!
//! The fake is only as good as its errors, so what it answers and what the real kernel answers is asked with the same
//! words. Each check leaves the device as it found it.
//!
//! Facts: kernel drivers/pci/iov.c, drivers/base/{bus,dd}.c, drivers/pci/pci-sysfs.c, drivers/vfio/mdev.

use std::fmt;
use std::io;

use tranche_core::inventory::PartitionDevice;
use tranche_core::name::{GpuAddress, PciAddress};
use tranche_core::step::VFIO_DRIVER;

use crate::discover::function;
use crate::mdev;
use crate::migration::{Prober, Target};
use crate::report::errno_name;
use crate::tree::Tree;
use crate::vgpu::{self, typed};

/// Something that a kernel did otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviation {
    /// What was done.
    pub case: String,
    /// What should have come of it.
    pub expected: String,
    /// What came of it.
    pub found: String,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.case, self.expected, self.found)
    }
}

/// Checks virtual functions, drivers and groups on a physical function with at least three virtual functions, all off,
/// whose driver switches them through sysfs. Needs vfio-pci and an IOMMU.
pub fn check_sriov(tree: &dyn Tree, pf: PciAddress) -> Vec<Deviation> {
    let mut check = Check { tree, dir: function::dir(pf), deviations: Vec::new() };
    check.refused_counts();
    check.write("turning automatic probing off", "sriov_drivers_autoprobe", "0", OK);
    check.write("enabling two", "sriov_numvfs", "2", OK);
    check.enabled_counts(pf);
    if let Some(vf) = function::virtual_functions(tree, &check.dir).get(&0) {
        check.binding(*vf);
    }
    check.write("disabling all", "sriov_numvfs", "0", OK);
    check.same("functions left", 0, function::virtual_functions(tree, &check.dir).len());
    check.write("turning automatic probing on", "sriov_drivers_autoprobe", "1", OK);
    check.other_drivers(pf);
    check.deviations
}

/// Checks mediated devices of one type, of which none exists.
pub fn check_mdev(tree: &dyn Tree, parent: &GpuAddress, kind: &str) -> Vec<Deviation> {
    const UUID: &str = "5f1c40b1-9d3c-4b59-8f0e-0a4c1d2e3f40";
    let dir = format!("{}/mdev_supported_types/{kind}", mdev::parent_dir(parent));
    let mut check = Check { tree, dir, deviations: Vec::new() };
    let available = |check: &Check<'_>| check.text("available_instances").parse::<u32>().unwrap_or(0);
    let before = available(&check);
    check.write("a UUID that is too short", "create", "5f1c40b1", libc::EINVAL);
    check.write("a UUID that is none", "create", &"x".repeat(36), libc::EINVAL);
    check.write("creating", "create", UUID, OK);
    check.write("creating the same again", "create", UUID, libc::EEXIST);
    check.same("instances left", before.saturating_sub(1), available(&check));
    check.same(
        "the device is listed",
        true,
        tree.exists(&format!("sys/bus/mdev/devices/{UUID}/iommu_group")),
    );
    check.dir = format!("sys/bus/mdev/devices/{UUID}");
    check.write("removing by a word", "remove", "yes", libc::EINVAL);
    check.write("removing", "remove", "1", OK);
    check.same("the device is listed afterwards", false, tree.exists(&check.dir));
    check.deviations
}

/// Checks a GPU whose virtual functions take types by a file of their own: with NVIDIA's driver, or what stands in for
/// it. All of them are off, and the vendor's tool is there.
pub fn check_vgpu(tree: &dyn Tree, pf: PciAddress) -> Vec<Deviation> {
    let mut check = Check { tree, dir: function::dir(pf), deviations: Vec::new() };
    let total = check.text("sriov_totalvfs");
    check.write("enabling by hand", "sriov_numvfs", &total, libc::ENOENT);
    check.write("none while there is none", "sriov_numvfs", "0", OK);
    check.tool("enabling all", "-e", pf);
    check.tool("enabling all again", "-e", pf);
    check.same("the count", total.clone(), check.text("sriov_numvfs"));
    check.write("the same count by hand", "sriov_numvfs", &total, OK);
    check.write("disabling by hand", "sriov_numvfs", "0", libc::ENOENT);
    let vfs: Vec<PciAddress> = function::virtual_functions(tree, &check.dir).into_values().collect();
    check.same("the links", total, vfs.len().to_string());
    if let [first, second, ..] = vfs[..] {
        check.types(pf, first, second);
    }
    check.tool("disabling all", "-d", pf);
    check.same("the count afterwards", "0".to_owned(), check.text("sriov_numvfs"));
    check.deviations
}

/// Checks what a device that nobody has open says of its migration: the same each time, and the same as VFIO's own files. It is
/// opened for that, and so reset.
pub fn check_migration(tree: &dyn Tree, prober: &dyn Prober, device: &PartitionDevice) -> Vec<Deviation> {
    let target = Target::of(tree, device);
    let dir = format!("sys/kernel/debug/vfio/{}", target.name());
    let mut check = Check { tree, dir, deviations: Vec::new() };
    let first = prober.ask(&target);
    check.same("asking", None, first.as_ref().err().map(ToString::to_string));
    check.same("asking again", first.clone(), prober.ask(&target));
    let Ok(answers) = first else { return check.deviations };
    for errno in [answers.migration.err(), answers.dma_logging.err()].into_iter().flatten() {
        check.same("what cannot be done", libc::ENOTTY, errno.raw_os_error());
    }
    if tree.exists(&check.dir) {
        let shown = tree.exists(&format!("{}/migration", check.dir));
        check.same("a migration is shown of what has one", answers.migration.is_ok(), shown);
    }
    if let Ok(features) = tree.text(&format!("{}/migration/features", check.dir)) {
        let has = |feature: &str| features.lines().any(|line| line == feature);
        let flags = [("stop-copy", 1), ("p2p", 2), ("pre-copy", 4)];
        let shown = flags.iter().filter(|(name, _)| has(name)).map(|(_, flag)| flag).sum();
        check.same("the features are shown", answers.migration.unwrap_or(0) & 7, shown);
        check.same("the log is shown", answers.dma_logging.is_ok(), has("dirty-tracking"));
    }
    check.deviations
}

const OK: i32 = 0;

struct Check<'a> {
    tree: &'a dyn Tree,
    dir: String,
    deviations: Vec<Deviation>,
}

impl Check<'_> {
    fn refused_counts(&mut self) {
        let total: u32 = self.text("sriov_totalvfs").parse().unwrap_or(0);
        self.write("an attribute that is not there", "sriov_no_such_attribute", "1", libc::ENOENT);
        self.write("an attribute that is read-only", "sriov_totalvfs", "1", libc::EACCES);
        for junk in ["four", "-1", "65536", "1 2", "\n"] {
            self.write(&format!("the count {junk:?}"), "sriov_numvfs", junk, libc::EINVAL);
        }
        self.write("more than the total", "sriov_numvfs", &(total + 1).to_string(), libc::ERANGE);
        self.write("none while there is none", "sriov_numvfs", "0", OK);
        self.write("probing by a word", "sriov_drivers_autoprobe", "maybe", libc::EINVAL);
    }

    fn enabled_counts(&mut self, pf: PciAddress) {
        self.same("the count reads back", "2".to_owned(), self.text("sriov_numvfs"));
        self.write("the same count, with a newline", "sriov_numvfs", "2\n", OK);
        self.write("the same count in hexadecimal", "sriov_numvfs", "0x2", OK);
        self.write("another count without disabling first", "sriov_numvfs", "3", libc::EBUSY);
        let vfs = function::virtual_functions(self.tree, &self.dir);
        self.same("the links are counted from 0", vec![0, 1], vfs.keys().copied().collect());
        for vf in vfs.into_values() {
            let dir = function::dir(vf);
            let physfn = self.tree.link_name(&format!("{dir}/physfn")).unwrap_or_default();
            self.same("a virtual function names its physical one", pf.to_string(), physfn);
            self.same(
                "a virtual function is in a group",
                true,
                function::group_id(self.tree, &dir).is_some(),
            );
            self.same("it has no driver without probing", None, function::driver(self.tree, &dir));
        }
    }

    fn binding(&mut self, vf: PciAddress) {
        let (dir, vfio, name) =
            (function::dir(vf), format!("sys/bus/pci/drivers/{VFIO_DRIVER}"), vf.to_string());
        let bound = |check: &Check<'_>| function::driver(check.tree, &dir);
        let overridden =
            |check: &Check<'_>| check.tree.text(&format!("{dir}/driver_override")).unwrap_or_default();
        self.same("no override reads", "(null)".to_owned(), overridden(self));
        self.at("binding without an override", &format!("{vfio}/bind"), &name, libc::ENODEV);
        self.at("probing an unknown device", "sys/bus/pci/drivers_probe", "ffff:ff:1f.7", libc::ENODEV);
        self.at("overriding", &format!("{dir}/driver_override"), VFIO_DRIVER, OK);
        self.at("probing", "sys/bus/pci/drivers_probe", &name, OK);
        self.same("the driver after probing", Some(VFIO_DRIVER.to_owned()), bound(self));
        self.at("binding twice", &format!("{vfio}/bind"), &name, libc::EBUSY);
        self.at("unbinding", &format!("{vfio}/unbind"), &name, OK);
        self.at("unbinding twice", &format!("{vfio}/unbind"), &name, libc::ENODEV);
        self.at("binding with an override", &format!("{vfio}/bind"), &name, OK);
        self.at("clearing the override", &format!("{dir}/driver_override"), "\n", OK);
        self.same("a cleared override reads", "(null)".to_owned(), overridden(self));
        self.same("clearing unbinds nothing", Some(VFIO_DRIVER.to_owned()), bound(self));
    }

    /// Without a driver, and with one that is bound for passthrough.
    fn other_drivers(&mut self, pf: PciAddress) {
        let (dir, name) = (self.dir.clone(), pf.to_string());
        self.at("unbinding the physical function", &format!("{dir}/driver/unbind"), &name, OK);
        self.write("enabling without a driver", "sriov_numvfs", "1", libc::ENOENT);
        self.write("no change without a driver", "sriov_numvfs", "0", OK);
        self.at("overriding", &format!("{dir}/driver_override"), VFIO_DRIVER, OK);
        self.at("probing", "sys/bus/pci/drivers_probe", &name, OK);
        self.same("the driver", Some(VFIO_DRIVER.to_owned()), function::driver(self.tree, &dir));
        self.write("enabling through vfio-pci", "sriov_numvfs", "1", libc::ENOENT);
        self.at("clearing the override", &format!("{dir}/driver_override"), "\n", OK);
        self.at("unbinding", &format!("{dir}/driver/unbind"), &name, OK);
        self.at("probing", "sys/bus/pci/drivers_probe", &name, OK);
        let own = function::driver(self.tree, &dir);
        self.same("its own driver is back", true, own.is_some_and(|driver| driver != VFIO_DRIVER));
    }

    fn tool(&mut self, case: &str, switch: &str, pf: PciAddress) {
        let ran = self.tree.run(vgpu::TOOL, &[switch, &pf.to_string()]);
        let found = ran.map_err(|error| error.to_string()).map(|ran| ran.success);
        self.same(&format!("{case} (/{} {switch} {pf})", vgpu::TOOL), Ok(true), found);
    }

    fn types(&mut self, pf: PciAddress, first: PciAddress, second: PciAddress) {
        let tree = self.tree;
        let path = |vf, name: &str| format!("{}/nvidia/{name}", function::dir(vf));
        let current = |vf| tree.text(&path(vf, "current_vgpu_type")).unwrap_or_default();
        let listed = |vf| typed::creatable_numbers(tree, vf);
        let text = |vf, name: &str| tree.text(&format!("{}/{name}", function::dir(vf))).unwrap_or_default();
        for name in ["vendor", "device"] {
            self.same("the ids of a virtual function are its GPU's", text(pf, name), text(first, name));
        }
        self.same("but for the subsystem", "0x0000".to_owned(), text(first, "subsystem_device"));
        let driver = |vf| function::driver(tree, &function::dir(vf));
        self.same("the driver of a virtual function is its GPU's", driver(pf), driver(first));
        self.same("no type reads", "0".to_owned(), current(first));
        self.same("all functions can become the same", listed(first), listed(second));
        let all = listed(first);
        let (Some(one), Some(other)) = (all.first(), all.last()) else { return };
        let file = path(first, "current_vgpu_type");
        self.at("a type that is none", &file, "junk", libc::EINVAL);
        self.at("a type that nobody knows", &file, "4294967294", libc::EINVAL);
        self.at("a type", &file, &one.to_string(), OK);
        self.same("the type reads back", one.to_string(), current(first));
        self.same("a function with a type can become nothing", Vec::new(), listed(first));
        let fewer = listed(second);
        let is_part = fewer.len() < all.len() && fewer.iter().all(|id| all.contains(id));
        self.same("its sibling can become less than before", true, is_part);
        self.at("a second type", &file, &other.to_string(), libc::EINVAL);
        if let Some(lost) = all.iter().find(|id| !fewer.contains(id)) {
            let file = path(second, "current_vgpu_type");
            self.at("a type that is not listed any more", &file, &lost.to_string(), libc::EINVAL);
            self.same("nothing came of it", "0".to_owned(), current(second));
        }
        self.at("no type", &file, "0", OK);
        self.at("no type again", &file, "0", OK);
        self.same("the lists are whole again", (all.clone(), all), (listed(first), listed(second)));
    }

    fn write(&mut self, case: &str, attribute: &str, value: &str, expected: i32) {
        let path = format!("{}/{attribute}", self.dir);
        self.at(case, &path, value, expected);
    }

    fn at(&mut self, case: &str, path: &str, value: &str, expected: i32) {
        let found = outcome(&self.tree.write(path, value));
        let expected = if expected == OK { "success" } else { errno_name(expected) };
        self.same(&format!("{case} (write {value:?} to /{path})"), expected.to_owned(), found);
    }

    fn same<T: PartialEq + fmt::Debug>(&mut self, case: &str, expected: T, found: T) {
        if expected != found {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            self.deviations.push(Deviation { case: case.to_owned(), expected, found });
        }
    }

    fn text(&self, attribute: &str) -> String {
        self.tree.text(&format!("{}/{attribute}", self.dir)).unwrap_or_default()
    }
}

fn outcome(result: &io::Result<()>) -> String {
    match result {
        Ok(()) => "success".to_owned(),
        Err(error) => {
            error.raw_os_error().map_or_else(|| error.to_string(), |errno| errno_name(errno).to_owned())
        }
    }
}
