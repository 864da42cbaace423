//! Binding a PCI function to one driver, and giving it back, each read back afterwards.
//!
//! By `driver_override`, never by `new_id`: that matches every function with the same ids, and a GPU often shares its
//! ids with its own virtual functions. The order is override, unbind, probe (kernel: drivers/base/bus.c, dd.c). A write
//! that succeeds proves nothing, and one that fails may have worked, so only the driver link counts.

use tranche_core::finding::Finding;
use tranche_core::name::PciAddress;
use tranche_core::step::VFIO_DRIVER;

use crate::calls::{CallError, GpuCalls};
use crate::discover::function;
use crate::discover::holders::Holders;
use crate::{host_use, modules, report};

/// An empty override. A newline, because a write of nothing never reaches the kernel.
const NO_OVERRIDE: &str = "\n";

/// Binds a function to a driver.
///
/// # Errors
/// When the function is open, gone, or bound to something else in the end.
pub(crate) fn to(calls: &GpuCalls<'_>, address: PciAddress, driver: &str) -> Result<(), Box<Finding>> {
    let bound = present_driver(calls, address)?;
    let overridden = format!("{}/driver_override", function::dir(address));
    if bound.as_deref() == Some(driver) {
        // Whoever died while giving it back left the name of the driver that was to have it.
        let named = function::driver_override(calls.tree(), &function::dir(address));
        let is_anothers = named.is_some_and(|named| named != driver);
        return if is_anothers { write(calls, &overridden, driver) } else { Ok(()) };
    }
    // A function without a driver is open to nobody.
    if bound.is_some() {
        refuse_if_open(calls, address)?;
    }
    modules::load_vfio(calls, driver);
    write(calls, &overridden, driver)?;
    unbind(calls, address)?;
    probe(calls, address)?;
    expect(calls, address, driver)
}

/// Gives a function back to the driver that it had; without one, the kernel chooses.
///
/// Until it is back, it has an override: by that the next look knows a function that was given back by half.
///
/// # Errors
/// When the function is open, gone, or bound to something else in the end.
pub(crate) fn back(
    calls: &GpuCalls<'_>,
    address: PciAddress,
    driver: Option<&str>,
) -> Result<(), Box<Finding>> {
    let dir = function::dir(address);
    let overridden = format!("{dir}/driver_override");
    let bound = present_driver(calls, address)?;
    let is_overridden = function::driver_override(calls.tree(), &dir).is_some();
    if bound.as_deref() == driver && !is_overridden {
        return Ok(());
    }
    if bound.is_some() && bound.as_deref() != driver {
        refuse_if_open(calls, address)?;
    }
    let Some(driver) = driver else {
        unbind(calls, address)?;
        write(calls, &overridden, NO_OVERRIDE)?;
        probe(calls, address)?;
        return match present_driver(calls, address)?.as_deref() {
            Some(VFIO_DRIVER) => Err(report::kept_by_host(calls.gpu(), address)),
            _ => Ok(()),
        };
    };
    if bound.as_deref() != Some(driver) {
        write(calls, &overridden, driver)?;
        unbind(calls, address)?;
        probe(calls, address)?;
        expect(calls, address, driver)?;
    }
    write(calls, &overridden, NO_OVERRIDE)
}

fn present_driver(calls: &GpuCalls<'_>, address: PciAddress) -> Result<Option<String>, Box<Finding>> {
    let dir = function::dir(address);
    if calls.tree().exists(&dir) {
        Ok(function::driver(calls.tree(), &dir))
    } else {
        Err(report::gone(calls.gpu(), address))
    }
}

/// Unbinding a function that is open waits until it is closed, or pulls it out of the VM or from under the process.
///
/// # Errors
/// When a VM has it open, or a process of the host uses it.
pub(crate) fn refuse_if_open(calls: &GpuCalls<'_>, address: PciAddress) -> Result<(), Box<Finding>> {
    let (tree, dir) = (calls.tree(), function::dir(address));
    let open_by = Holders::scan(tree).of(tree, &dir, function::group_id(tree, &dir));
    if !open_by.is_empty() {
        return Err(report::in_use(calls.gpu(), &open_by));
    }
    let users = host_use::users(calls, address);
    if users.is_empty() { Ok(()) } else { Err(host_use::in_the_way(calls, address, &users)) }
}

fn unbind(calls: &GpuCalls<'_>, address: PciAddress) -> Result<(), Box<Finding>> {
    let dir = function::dir(address);
    if function::driver(calls.tree(), &dir).is_some() {
        attempt(calls, &format!("{dir}/driver/unbind"), address)?;
    }
    Ok(())
}

fn probe(calls: &GpuCalls<'_>, address: PciAddress) -> Result<(), Box<Finding>> {
    attempt(calls, "sys/bus/pci/drivers_probe", address)
}

/// Writes a function's address where the answer does not matter, because the driver link is looked at afterwards: it
/// may have been unbound or bound by somebody else meanwhile. Only a call that hangs, or one that nobody may make, ends
/// the row.
fn attempt(calls: &GpuCalls<'_>, path: &str, address: PciAddress) -> Result<(), Box<Finding>> {
    match calls.write(path, &address.to_string()) {
        Err(CallError::Failed { source, .. })
            if !matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS)) =>
        {
            tracing::debug!(path, %address, error = %source, "the kernel refused; the driver link decides");
            Ok(())
        }
        other => other.map_err(|error| report::call_failed(calls.gpu(), &error)),
    }
}

fn write(calls: &GpuCalls<'_>, path: &str, value: &str) -> Result<(), Box<Finding>> {
    calls.write(path, value).map_err(|error| report::call_failed(calls.gpu(), &error))
}

fn expect(calls: &GpuCalls<'_>, address: PciAddress, driver: &str) -> Result<(), Box<Finding>> {
    let found = present_driver(calls, address)?;
    if found.as_deref() == Some(driver) {
        Ok(())
    } else if driver == VFIO_DRIVER && function::group_id(calls.tree(), &function::dir(address)).is_none() {
        Err(report::not_isolated(calls.gpu(), address))
    } else {
        Err(report::wrong_driver(calls.gpu(), address, driver, found.as_deref()))
    }
}
