//! VMs through a real libvirtd with QEMU, and the same behaviour of the model that stands in for it elsewhere.
//!
//! Each test that needs libvirtd starts one of its own, as an ordinary user, in a directory of its own: no test touches
//! the machine's libvirt. Guests are emulated, small, and have nothing to boot.

#![cfg(feature = "libvirt")]

mod contract;
mod model;
mod real;
mod sending;
mod server;
mod speed;
mod test_driver;
