//! Whether a kernel behaves as this room believes: the same checks run on a real one and on both faces of the fake one.
//!
//! The fake is only as good as its errors, so what it answers and what the real kernel answers is asked with the same
//! words. Each check leaves the device as it found it.
//!
//! Facts: kernel drivers/pci/iov.c, drivers/base/{bus,dd}.c, drivers/pci/pci-sysfs.c, drivers/vfio/mdev.

use std::fmt;
use std::io;

use tranche_core::name::{GpuAddress, PciAddress};
use tranche_core::step::VFIO_DRIVER;

use crate::discover::function;
use crate::mdev;
use crate::report::errno_name;
use crate::tree::Tree;

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
